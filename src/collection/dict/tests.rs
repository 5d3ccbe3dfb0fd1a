//! A dict against a hash map of the standard library, with the structure checked on the way.

use std::collections::{HashMap, HashSet};

use super::*;

type Model = HashMap<Vec<u8>, Vec<u8>>;

impl<const PAIRS: bool> Dict<PAIRS> {
    /// Checks the structure.
    pub fn validate(&self) {
        assert_eq!(self.directory.len(), 1 << self.depth);
        let mut entries = 0;
        let mut bytes = 0;
        let mut len = 0;
        for (index, segment) in self.segments.iter().enumerate() {
            segment.validate();
            assert!(segment.depth() <= self.depth);
            let range = self.entries(segment.path());
            assert!(self.directory[range.clone()].iter().all(|&to| to as usize == index));
            entries += range.len();
            assert!(segment.len() <= SEGMENT_ITEMS_MAX || segment.depth() == self.depth_max);
            for slot in 0..segment.len() {
                let key = segment.item(slot).0;
                let hash = hash_of(key);
                assert_eq!(self.index(hash), index);
                assert_eq!(segment.tag(slot), tag(hash));
                assert_eq!(segment.find(tag(hash), key), Some(slot), "a key is here twice");
            }
            bytes += segment.bytes();
            len += segment.len();
        }
        assert_eq!(entries, self.directory.len());
        assert_eq!((bytes, len), (self.segment_bytes, self.len));
        let deepest = self.segments.iter().filter(|segment| segment.depth() == self.depth).count();
        assert_eq!(deepest, self.deepest);
        assert!(self.depth == 0 || deepest > 0);
    }

    fn with_depth_max(depth_max: u32) -> Self {
        Dict { depth_max, ..Dict::new() }
    }

    /// Compares everything with the model.
    fn compare(&self, model: &Model) {
        self.validate();
        assert_eq!(self.len(), model.len());
        let all: Model = self.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        assert!(all == *model);
    }
}

/// Keys of all lengths that matter; most are short. `n` decides.
fn key(n: usize) -> Vec<u8> {
    let mut key = n.to_string().into_bytes();
    match n % 50 {
        0 => key.resize(255, b'x'),
        1 => key.resize(256 + n % 100, b'x'),
        2..10 => key.resize(20, b'x'),
        _ => {}
    }
    key
}

fn value<const PAIRS: bool>(random: &mut Random) -> Vec<u8> {
    let len = match random.below(20) {
        _ if !PAIRS => 0,
        0 => random.below(600),
        1 => 250 + random.below(10),
        _ => random.below(12),
    };
    vec![random.word() as u8; len]
}

/// Random steps; of 8, `inserts` insert.
fn steps<const PAIRS: bool>(
    dict: &mut Dict<PAIRS>,
    model: &mut Model,
    steps: usize,
    inserts: usize,
    keys: usize,
    random: &mut Random,
) {
    for step in 0..steps {
        let key = key(random.below(keys));
        if random.below(8) < inserts {
            let value = value::<PAIRS>(random);
            let new = dict.insert(&key, &value);
            assert_eq!(new, model.insert(key, value).is_none());
        } else if random.below(3) == 0 {
            assert_eq!(dict.get(&key), model.get(&key).map(Vec::as_slice));
            assert_eq!(dict.contains(&key), model.contains_key(&key));
        } else {
            assert_eq!(dict.remove(&key), model.remove(&key).is_some());
        }
        if step.is_multiple_of(steps / 20) {
            dict.compare(model);
        }
    }
}

fn as_a_hash_map<const PAIRS: bool>(mut dict: Dict<PAIRS>, size: usize, seed: u64) {
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut model = Model::new();
    for inserts in [7, 1, 5, 3, 6] {
        steps(&mut dict, &mut model, 2 * size, inserts, size, &mut random);
    }
    let copy = dict.clone();
    copy.compare(&model);
    assert!(copy.bytes() <= dict.bytes());
    let grown = dict.bytes();
    let mut keys: Vec<Vec<u8>> = model.keys().cloned().collect();
    keys.sort();
    assert!(keys.len() > size / 2);
    for (n, key) in keys.iter().enumerate() {
        assert!(dict.remove(key) && model.remove(key).is_some());
        if n.is_multiple_of(size / 10) {
            dict.compare(&model);
        }
    }
    dict.compare(&model);
    assert_eq!((dict.len(), dict.depth, dict.segments.len()), (0, 0, 1));
    assert!(dict.bytes() < 200 && grown > dict.bytes());
}

#[test]
fn a_set_as_a_hash_map() {
    as_a_hash_map(Members::new(), 30_000, 1);
}

#[test]
fn a_hash_as_a_hash_map() {
    as_a_hash_map(Fields::new(), 30_000, 2);
}

#[test]
fn small_dicts_as_hash_maps() {
    for seed in 0..200 {
        as_a_hash_map(Fields::new(), 20 + 10 * (seed as usize % 20), seed);
        as_a_hash_map(Members::new(), 20 + 10 * (seed as usize % 20), seed);
    }
}

/// Hashes with the same first bits: segments become longer than they should.
#[test]
fn segments_that_cannot_split() {
    let dict = Fields::with_depth_max(2);
    as_a_hash_map(dict, 4_000, 3);
    let mut dict = Members::with_depth_max(0);
    (0..1000u32).for_each(|n| assert!(dict.insert(&n.to_le_bytes(), b"")));
    dict.validate();
    assert_eq!(dict.segments.len(), 1);
    let mut random = Random::new(1);
    let drawn: HashSet<&[u8]> =
        (0..20_000).filter_map(|_| dict.random(&mut random)).map(|place| dict.at(place).0).collect();
    assert_eq!(drawn.len(), 1000);
}

#[test]
fn up_to_a_hundred_thousand_and_down_to_none() {
    let mut dict = Members::new();
    for n in 0..100_000u32 {
        assert!(dict.insert(n.to_string().as_bytes(), b""));
        assert!(!dict.insert(n.to_string().as_bytes(), b""));
    }
    dict.validate();
    let most = dict.bytes();
    for n in 0..100_000u32 {
        assert!(dict.remove(n.to_string().as_bytes()));
        if n == 99_000 {
            dict.validate();
            assert!(dict.bytes() * 30 < most, "{} bytes of {most} are left", dict.bytes());
        }
    }
    dict.validate();
    assert_eq!((dict.len(), dict.segments.len(), dict.directory.len()), (0, 1, 1));
}

/// Bytes per member beyond its own.
fn overhead(members: usize, member: impl Fn(usize) -> String) -> f64 {
    let mut dict = Members::new();
    let mut own = 0;
    for n in 0..members {
        let member = member(n);
        own += member.len();
        dict.insert(member.as_bytes(), b"");
    }
    (dict.bytes() - own) as f64 / members as f64
}

#[test]
fn members_take_little_beyond_their_bytes() {
    for members in [3_000, 20_000, 100_000, 300_000] {
        let short = overhead(members, |n| format!("{n:010}"));
        let long = overhead(members, |n| format!("{n:020}"));
        assert!(short < 8.0 && long < 10.0, "{members} members: {short:.2}, {long:.2}");
    }
}

/// No change is much more work than others: at most 64 items move.
#[test]
fn segments_are_small_at_all_times() {
    let mut dict = Members::new();
    for n in 0..50_000u32 {
        let segments = dict.segments.len();
        dict.insert(&n.to_le_bytes(), b"");
        assert!(dict.segments.len() <= segments + 3);
    }
    let fill = dict.len() as f64 / dict.segments.len() as f64;
    assert!((35.0..55.0).contains(&fill), "{fill} items per segment");
    assert!(dict.directory.len() < 8 * dict.segments.len());
}

/// A walk with `count`; what was visited, in order. `between` runs between calls.
fn walk(dict: &mut Members, count: usize, mut between: impl FnMut(&mut Members)) -> Vec<Vec<u8>> {
    let mut visited = Vec::new();
    let mut cursor = 0;
    for _ in 0..100_000 {
        let before = visited.len();
        cursor = dict.scan(cursor, count, |(key, _)| visited.push(key.to_vec()));
        assert!(cursor < 1 << 53);
        if cursor == 0 {
            return visited;
        }
        assert!(visited.len() >= before + count);
        between(dict);
    }
    panic!("a walk does not end");
}

#[test]
fn a_walk_without_changes_visits_everything_once() {
    for members in [0, 1, 64, 65, 1000, 20_000] {
        let mut dict = Members::new();
        (0..members as u32).for_each(|n| assert!(dict.insert(&n.to_le_bytes(), b"")));
        for count in [1, 10, 1000, usize::MAX] {
            let visited = walk(&mut dict, count, |_| {});
            assert_eq!(visited.len(), members);
            assert_eq!(visited.iter().collect::<HashSet<_>>().len(), members);
        }
    }
}

/// What stays is visited exactly once while other members come and go in masses, so that segments split and merge.
#[test]
fn a_walk_visits_what_stays_whatever_else_changes() {
    let mut walks_with_changes = 0;
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let stay: HashSet<Vec<u8>> = (0..1 + random.below(3000)).map(|n| format!("stays {n}").into_bytes()).collect();
        let mut dict = Members::new();
        stay.iter().for_each(|key| assert!(dict.insert(key, b"")));
        let mut here: Vec<Vec<u8>> = Vec::new();
        // A walk begins with many others or with none, and they go or come.
        let mut growing = seed.is_multiple_of(2);
        let most = 200 + random.below(30_000);
        let come = |dict: &mut Members, here: &mut Vec<Vec<u8>>, random: &mut Random| {
            let key = random.word().to_le_bytes().to_vec();
            if dict.insert(&key, b"") {
                here.push(key);
            }
        };
        if !growing {
            (0..most).for_each(|_| come(&mut dict, &mut here, &mut random));
        }
        let mut depths = HashSet::new();
        let visited = walk(&mut dict, 1 + seed as usize, |dict| {
            for _ in 0..most / 8 {
                if growing {
                    come(dict, &mut here, &mut random);
                } else if let Some(key) = here.pop() {
                    assert!(dict.remove(&key));
                }
            }
            growing = if growing { here.len() < most } else { here.is_empty() };
            depths.insert(dict.depth);
        });
        dict.validate();
        let mut counts: HashMap<Vec<u8>, usize> = HashMap::new();
        visited.into_iter().for_each(|key| *counts.entry(key).or_default() += 1);
        for key in &stay {
            assert_eq!(counts.get(key), Some(&1), "{}", key.escape_ascii());
        }
        walks_with_changes += (depths.len() > 1) as usize;
    }
    assert!(walks_with_changes > 25, "the directory changed its size during {walks_with_changes} of 40 walks only");
}

#[test]
fn cursors_that_were_never_given_out_do_no_harm() {
    let mut dict = Members::new();
    (0..5000u32).for_each(|n| assert!(dict.insert(&n.to_le_bytes(), b"")));
    for cursor in [1, 12_345_678, u32::MAX as u64, 1 << 32, 1 << 53, u64::MAX] {
        let mut visited = 0;
        let next = dict.scan(cursor, 10, |_| visited += 1);
        assert!(next == 0 || next > cursor);
        assert!(visited < 200);
    }
}

#[test]
fn random_members_are_equally_likely() {
    let mut dict = Members::new();
    (0..500u32).for_each(|n| assert!(dict.insert(&n.to_le_bytes(), b"")));
    // Some segments are sparse.
    (0..300u32).for_each(|n| assert!(dict.remove(&n.to_le_bytes())));
    let mut random = Random::new(4);
    let mut counts: HashMap<&[u8], u32> = HashMap::new();
    for _ in 0..200_000 {
        let place = dict.random(&mut random).expect("a member");
        *counts.entry(dict.at(place).0).or_default() += 1;
    }
    // 1000 are expected of each, with a standard deviation of 32.
    assert_eq!(counts.len(), 200);
    assert!(counts.values().all(|n| (820..1180).contains(n)), "{:?}", counts.values());
    assert_eq!(Members::new().random(&mut random), None);
}

#[test]
fn samples_are_of_different_members() {
    let mut dict = Members::new();
    (0..900u32).for_each(|n| assert!(dict.insert(&n.to_le_bytes(), b"")));
    let mut random = Random::new(4);
    for count in [0, 1, 10, 299, 300, 800, 899, 900, 5000] {
        let mut sample = HashSet::new();
        dict.sample(count, &mut random, |(key, _)| assert!(sample.insert(key.to_vec())));
        assert_eq!(sample.len(), count.min(900));
    }
}

#[test]
fn freeing_goes_in_pieces() {
    let mut dict = Fields::new();
    (0..2000u32).for_each(|n| assert!(dict.insert(&n.to_le_bytes(), &[0; 400])));
    assert_eq!(dict.segments.iter().map(Segment::pieces).sum::<usize>(), 2000);
    let mut calls = 0;
    while dict.free_some(10) {
        let before = dict.bytes();
        calls += 1;
        assert!(calls < 1000);
        assert!(dict.bytes() <= before);
    }
    assert!(calls >= 200);
    assert_eq!(dict.segment_bytes, 0);
}
