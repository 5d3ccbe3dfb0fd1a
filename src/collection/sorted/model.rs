//! The sorted set against a naive twin: random steps on both, with many equal scores, infinities, both zeros, and members
//! of all lengths.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A double with the order of scores: both zeros are equal.
#[derive(Clone, Copy, Debug)]
struct Ordered(f64);

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.partial_cmp(&other.0).expect("no score is NaN")
    }
}

#[derive(Default)]
struct Naive {
    order: BTreeSet<(Ordered, Vec<u8>)>,
    scores: BTreeMap<Vec<u8>, f64>,
}

impl Naive {
    fn insert(&mut self, member: &[u8], score: f64) -> Option<f64> {
        let old = self.scores.get(member).copied();
        if old == Some(score) {
            return old;
        }
        self.remove(member);
        self.order.insert((Ordered(score), member.to_vec()));
        self.scores.insert(member.to_vec(), score);
        old
    }

    fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let score = self.scores.remove(member)?;
        assert!(self.order.remove(&(Ordered(score), member.to_vec())));
        Some(score)
    }

    fn items(&self) -> Vec<(&[u8], f64)> {
        self.order.iter().map(|(score, member)| (member.as_slice(), score.0)).collect()
    }
}

struct Random(u64);

impl Random {
    /// splitmix64 (G. L. Steele et al., 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn score(&mut self) -> f64 {
        match self.below(40) {
            0 => f64::INFINITY,
            1 => f64::NEG_INFINITY,
            2 => -0.0,
            3..10 => 0.0,
            10..30 => self.below(5) as f64 - 2.0,
            30..35 => self.below(1000) as f64,
            _ => self.next() as i64 as f64 / 1e15,
        }
    }

    fn member(&mut self, names: usize) -> Vec<u8> {
        let name = self.below(names);
        match name % 50 {
            0 => vec![name as u8; 254 + name % 4],
            1 => format!("{name:0300}").into_bytes(),
            2 => vec![name as u8; name % 3],
            _ => format!("m{name}").into_bytes(),
        }
    }

    fn cut<'a>(&mut self, member: &'a [u8]) -> Cut<'a> {
        let (score, equal) = (self.score(), self.below(2) == 0);
        match self.below(5) {
            0 => Cut::Start,
            1 => Cut::End,
            2 | 3 => Cut::Score { score, equal },
            _ => Cut::Item { score, member, equal },
        }
    }
}

fn view(value: &Value) -> SortedSet<'_> {
    match value {
        Value::Compact(bytes) => SortedSet::Compact(Pack::new(bytes)),
        Value::Large(large) => SortedSet::Large(form(large)),
    }
}

fn validate(value: &Value, naive: &Naive) {
    match value {
        Value::Compact(bytes) => Pack::new(bytes).validate(),
        Value::Large(large) => form(large).validate(),
    }
    let set = view(value);
    let mut items = naive.items();
    assert_eq!(set.len(), items.len());
    assert!(set.iter().eq(items.iter().copied()));
    items.reverse();
    assert!(set.items(0, usize::MAX, true).eq(items.iter().copied()));
}

/// What reading tells of a member, a range and a cut.
fn compare(random: &mut Random, value: &Value, naive: &Naive, member: &[u8]) {
    let (set, items) = (view(value), naive.items());
    let rank = items.iter().position(|item| item.0 == member);
    assert_eq!(set.score(member), naive.scores.get(member).copied());
    assert_eq!(set.rank(member), rank.map(|rank| (rank, items[rank].1)));
    let cut = random.cut(member);
    let before = items.iter().filter(|(member, score)| cut.is_after(*score, || member)).count();
    assert_eq!(set.before(&cut), before, "{cut:?}");
    let (a, b) = (random.below(items.len() + 1), random.below(items.len() + 1));
    let (start, end) = (a.min(b), a.max(b).min(a.min(b) + 200));
    assert!(set.items(start, end, false).eq(items[start..end].iter().copied()));
    assert!(set.items(start, end, true).eq(items[start..end].iter().rev().copied()));
    assert_eq!(set.get(start), items.get(start).copied());
}

fn walk(seed: u64, steps: usize, names: usize, limits: &Thresholds) {
    let mut random = Random(seed);
    let (mut value, mut naive) = (Value::Compact(Vec::new()), Naive::default());
    for step in 0..steps {
        let member = random.member(names);
        // It grows, shrinks and grows again.
        let growing = (step * 4 / steps).is_multiple_of(2);
        match random.below(1000) {
            0 => {
                let start = random.below(naive.order.len());
                let end = (start + random.below(names / 8)).min(naive.order.len());
                remove_range(&mut value, start, end);
                let gone: Vec<_> = naive.items()[start..end].iter().map(|(member, _)| member.to_vec()).collect();
                for member in gone {
                    naive.remove(&member);
                }
                if naive.order.is_empty() {
                    value = Value::default();
                }
            }
            n if (n < 700) == growing => {
                let score = random.score();
                assert_eq!(insert(&mut value, limits, &member, score), naive.insert(&member, score));
            }
            _ => assert_eq!(remove(&mut value, &member), naive.remove(&member)),
        }
        if step % 50 == 0 {
            compare(&mut random, &value, &naive, &member);
        }
        if step % (steps / 40) == 0 {
            validate(&value, &naive);
        }
    }
    validate(&value, &naive);
}

#[test]
fn as_the_naive_twin_does() {
    let limits = Thresholds::default();
    walk(1, 200_000, 20_000, &limits);
    walk(2, 50_000, 300, &limits);
    walk(3, 20_000, 100, &limits);
    walk(4, 20_000, 40, &Thresholds { zset_max_listpack_entries: 0, ..limits });
}

/// A large set of `len` members, with the scores that `score` gives to their numbers.
fn large(len: usize, score: impl Fn(usize) -> f64) -> Large {
    let mut large = Large::default();
    for n in 0..len {
        assert_eq!(large.insert(format!("member:{n:07}").as_bytes(), score(n)), None);
    }
    large
}

/// The scores of members without order.
fn scattered(n: usize) -> f64 {
    Random(n as u64).next() as i32 as f64
}

#[test]
fn ordered_insertion_fills_the_leaves() {
    let up = large(20_000, |n| n as f64);
    let down = large(20_000, |n| -(n as f64));
    let mixed = large(20_000, scattered);
    let equal = large(20_000, |_| 1.0);
    for set in [&up, &down, &mixed, &equal] {
        set.validate();
    }
    assert!(up.bytes() < mixed.bytes() && down.bytes() < mixed.bytes() && equal.bytes() <= up.bytes());
}

/// The bound that the design sets: 35 bytes and a third of the member beyond the member.
#[test]
fn bytes_per_member() {
    const LEN: usize = 200_000;
    for (name, set) in [
        ("in order", large(LEN, |n| n as f64)),
        ("scattered", large(LEN, scattered)),
        ("of one score", large(LEN, |_| 0.0)),
    ] {
        let member_bytes = "member:0000000".len();
        let each = set.bytes() as f64 / LEN as f64;
        println!("{name}: {each:.1} bytes per member of {member_bytes}");
        assert!(each < 35.0 + 1.33 * member_bytes as f64, "{name}: {each}");
        let clone = set.clone();
        assert!(clone.bytes() <= set.bytes());
        clone.validate();
    }
}

#[test]
fn an_emptied_set_is_compact_and_a_freed_one_is_gone() {
    let limits = Thresholds { zset_max_listpack_entries: 0, ..Thresholds::default() };
    let mut value = Value::default();
    for n in 0..1000 {
        insert(&mut value, &limits, &[n as u8, (n >> 8) as u8], 0.0);
    }
    assert!(matches!(value, Value::Large(_)));
    for n in 0..1000 {
        assert!(!value.is_empty());
        remove(&mut value, &[n as u8, (n >> 8) as u8]);
    }
    assert!(matches!(&value, Value::Compact(bytes) if bytes.is_empty()));

    let mut value = Value::Large(Box::new(super::super::Large::SortedSet(Box::new(large(50_000, scattered)))));
    remove_range(&mut value, 0, 50_000);
    assert!(value.is_empty());
    let Value::Large(mut set) = value else { panic!("its memory is still to be freed") };
    let (before, mut steps) = (set.bytes(), 0);
    while set.free_some(100) {
        steps += 1;
        assert!(set.bytes() < before);
    }
    assert!(steps > 5 && set.bytes() < 20_000, "{steps} steps, {} bytes left", set.bytes());
}

/// Members that are there throughout are met, though others come and go and all scores change, and each call is bounded.
#[test]
fn a_scan_meets_every_member_that_stays() {
    for equal in [true, false] {
        let mut random = Random(7);
        let mut set = large(5_000, |n| if equal { 1.0 } else { scattered(n) });
        let mut met = BTreeSet::new();
        let (mut cursor, mut calls) = (Some(0), 0);
        while let Some(at) = cursor {
            let mut shown = 0;
            cursor = set.scan(at, 10, |member, _| {
                shown += 1;
                met.insert(member.to_vec());
            });
            assert!(shown <= 10 + 64);
            calls += 1;
            for _ in 0..200 {
                let n = random.below(5_000);
                let score = if equal { 1.0 } else { random.score() };
                set.insert(format!("member:{n:07}").as_bytes(), score);
                let other = format!("other{}", random.below(3_000));
                if calls < 60 {
                    set.insert(other.as_bytes(), score);
                } else {
                    set.remove(other.as_bytes());
                }
            }
        }
        set.validate();
        assert!(calls > 50);
        for n in 0..5_000 {
            assert!(met.contains(format!("member:{n:07}").as_bytes()));
        }
    }
}

#[test]
fn from_items_in_order() {
    let limits = Thresholds::default();
    for len in [0, 1, 128, 129, 3000] {
        let names: Vec<String> = (0..len).map(|n| format!("{n:05}")).collect();
        let items = names.iter().enumerate().map(|(n, name)| (name.as_bytes(), (n / 10) as f64));
        let value = from_sorted(&limits, items.clone());
        assert_eq!(matches!(value, Value::Large(_)), len > 128);
        assert!(view(&value).iter().eq(items));
    }
    let long = from_sorted(&limits, [(&[b'x'; 65][..], -0.0)].into_iter());
    assert!(matches!(&long, Value::Large(large) if form(large).get(0).1.is_sign_negative()));
    let many_bytes = Thresholds { zset_max_listpack_value: usize::MAX, ..limits };
    assert!(matches!(
        from_sorted(&many_bytes, [(&[b'x'; COMPACT_BYTES_MAX + 1][..], 1.0)].into_iter()),
        Value::Large(_)
    ));
}

#[test]
fn members_are_cut_by_their_bytes_if_all_scores_are_equal() {
    let set = large(3_000, |_| 5.0);
    for n in [0, 1, 17, 64, 1500, 2999] {
        let member = format!("member:{n:07}");
        let cut = |equal| set.before(&Cut::Member { member: member.as_bytes(), equal });
        assert_eq!((cut(false), cut(true)), (n, n + 1));
    }
    assert_eq!(set.before(&Cut::Member { member: b"", equal: true }), 0);
    assert_eq!(set.before(&Cut::Member { member: b"n", equal: false }), 3_000);
}
