//! Hashes against a tree, in both encodings, with and without deadlines.

use super::*;
use crate::shard::Clock;
use std::collections::BTreeMap;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn view(value: &Value) -> Hash<'_> {
    Hash::new(value.view())
}

fn is_large(value: &Value) -> bool {
    matches!(value, Value::Large(_))
}

#[test]
fn encodings() {
    let t = Thresholds::default();
    let mut value = Value::default();
    for n in 0..128 {
        assert!(set(&mut value, format!("f{n}").as_bytes(), b"v", &t));
    }
    assert!(!set(&mut value, b"f5", &[b'x'; 64], &t));
    assert!(!is_large(&value));
    assert!(set(&mut value, b"f128", b"v", &t));
    assert!(is_large(&value));
    (0..129).for_each(|n| assert!(remove(&mut value, format!("f{n}").as_bytes())));
    assert!(is_large(&value) && value.is_empty());
    for (field, text) in [(64, 65), (65, 64), (65, 65), (64, 64)] {
        let mut value = Value::default();
        set(&mut value, &vec![b'f'; field], &vec![b't'; text], &t);
        assert_eq!(is_large(&value), field.max(text) == 65);
    }
    let mut value = Value::default();
    expect(&mut value, 128, &t);
    assert!(!is_large(&value));
    expect(&mut value, 129, &t);
    assert!(is_large(&value));
}

#[test]
fn as_a_tree_in_both_encodings() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let t = Thresholds {
            hash_max_listpack_entries: random.below(60),
            hash_max_listpack_value: random.below(40),
            ..Thresholds::default()
        };
        let (mut value, mut model) = (Value::default(), Model::new());
        for _ in 0..400 {
            let field = random.below(100).to_string().into_bytes();
            let text = vec![random.word() as u8; random.below(40)];
            match random.below(8) {
                0..4 => {
                    let new = set(&mut value, &field, &text, &t);
                    assert_eq!(new, model.insert(field, text).is_none());
                }
                4..6 => assert_eq!(remove(&mut value, &field), model.remove(&field).is_some()),
                _ => assert_eq!(view(&value).get(&field), model.get(&field).map(Vec::as_slice)),
            }
            let owned = |(field, text): Pair| (field.to_vec(), text.to_vec());
            let mut all = Model::new();
            view(&value).visit(|pair| all.extend([owned(pair)]));
            assert_eq!(all, model);
            assert_eq!((view(&value).len(), value.is_empty()), (model.len(), model.is_empty()));
            let mut seen = Model::new();
            let count = random.below(model.len() + 2);
            view(&value).sample(count, &mut random, |pair| seen.extend([owned(pair)]));
            assert_eq!(seen.len(), count.min(model.len()));
            let drawn = view(&value).random(&mut random).map(owned);
            assert_eq!(drawn.is_some(), !model.is_empty());
            seen.extend(drawn);
            assert!(seen.iter().all(|(field, text)| model.get(field) == Some(text)));
            let mut walked = Model::new();
            assert_eq!(view(&value).scan(0, 1000, |pair| walked.extend([owned(pair)])), 0);
            assert_eq!(walked, model);
        }
    }
}

type Timed = BTreeMap<Vec<u8>, (Vec<u8>, Option<Deadline>)>;

fn random_deadline(random: &mut Random, now: Now) -> Deadline {
    let clock = Clock::ALL[random.below(2)];
    Deadline::new(clock, now.of(clock) + 1 + random.below(500) as i64)
}

/// Compares a hash with its twin, of which nothing is due.
fn compare(value: &Value, model: &Timed, now: Now) {
    validate(value.view());
    assert_eq!((view(value).len(), due(value.view(), now), value.is_empty()), (model.len(), 0, model.is_empty()));
    let mut all = Timed::new();
    view(value).visit(|(field, text)| {
        let deadline = deadline(value.view(), field).expect("it is there");
        all.insert(field.to_vec(), (text.to_vec(), deadline));
    });
    assert_eq!(&all, model);
    let first =
        |clock| model.values().filter_map(|(_, at)| at.filter(|at| at.clock() == clock)).map(Deadline::ms).min();
    assert_eq!(next_deadlines(value.view()), Clock::ALL.map(first));
}

/// Shown fields are those that are not over, and no others, while some that are over are still there.
fn compare_shown(value: &Value, model: &Timed, now: Now, random: &mut Random) {
    let live: Model = model
        .iter()
        .filter(|(_, (_, at))| !at.is_some_and(|at| now.has_reached(at)))
        .map(|(field, (text, _))| (field.clone(), text.clone()))
        .collect();
    assert_eq!(due(value.view(), now), model.len() - live.len());
    if !is_large(value) {
        return;
    }
    let shown = Hash::at(value.view(), now);
    assert_eq!(shown.len(), live.len());
    let owned = |(field, text): Pair| (field.to_vec(), text.to_vec());
    let (mut visited, mut walked, mut sampled) = (Model::new(), Model::new(), Model::new());
    shown.visit(|pair| visited.extend([owned(pair)]));
    assert_eq!(shown.scan(0, 1000, |pair| walked.extend([owned(pair)])), 0);
    shown.sample(5, random, |pair| sampled.extend([owned(pair)]));
    assert_eq!(sampled.len(), live.len().min(5));
    assert!(sampled.iter().all(|(field, text)| live.get(field) == Some(text)));
    let drawn = shown.random(random).map(owned);
    assert_eq!(drawn.is_some(), !live.is_empty());
    assert!(drawn.is_none_or(|(field, text)| live.get(&field) == Some(&text)));
    for field in model.keys() {
        assert_eq!(shown.get(field), live.get(field).map(Vec::as_slice));
    }
    assert_eq!((visited, walked), (live.clone(), live));
}

#[test]
fn with_deadlines_as_a_tree_in_both_encodings() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let t = Thresholds {
            hash_max_listpack_entries: random.below(60),
            hash_max_listpack_value: random.below(60),
            ..Thresholds::default()
        };
        let (mut value, mut model) = (Value::default(), Timed::new());
        let mut now = Now { wall_ms: 5_000, steady_ms: 1_000 };
        for _ in 0..400 {
            let field = random.below(80).to_string().into_bytes();
            let text = vec![random.word() as u8; random.below(40)];
            match random.below(12) {
                0..3 => {
                    let new = set(&mut value, &field, &text, &t);
                    assert_eq!(new, model.insert(field, (text, None)).is_none());
                }
                3..5 => {
                    let new = update(&mut value, &field, &text, &t);
                    let old = model.insert(field.clone(), (text, None));
                    assert_eq!(new, old.is_none());
                    model.get_mut(&field).unwrap().1 = old.and_then(|(_, at)| at);
                }
                5 => assert_eq!(remove(&mut value, &field), model.remove(&field).is_some()),
                6..11 => {
                    let at = (random.below(4) > 0).then(|| random_deadline(&mut random, now));
                    if let Some((_, old)) = model.get_mut(&field) {
                        assert_eq!(set_deadline(&mut value, &field, at), *old != at);
                        *old = at;
                    }
                }
                _ => {
                    now.wall_ms += random.below(200) as i64;
                    now.steady_ms += random.below(200) as i64;
                    compare_shown(&value, &model, now, &mut random);
                    let max = 1 + random.below(10);
                    loop {
                        let mut seen = Vec::new();
                        let taken = take_due(&mut value, now, max, |field, at| seen.push((field.to_vec(), at)));
                        assert_eq!(taken, seen.len());
                        assert!(!is_large(&value) || taken <= max);
                        for (field, at) in seen {
                            assert!(now.has_reached(at));
                            assert_eq!(model.remove(&field).map(|(_, at)| at), Some(Some(at)));
                        }
                        if taken == 0 {
                            break;
                        }
                    }
                }
            }
            compare(&value, &model, now);
        }
    }
}

#[test]
fn only_what_has_deadlines_pays_for_them() {
    let t = Thresholds::default();
    let at = Some(Deadline::new(Clock::Steady, 1 << 45));
    for fields in [100, 1000] {
        let mut value = Value::default();
        (0..fields).for_each(|n: u32| assert!(set(&mut value, n.to_string().as_bytes(), b"v", &t)));
        let bytes = |value: &Value| match value {
            Value::Compact(bytes) => bytes.len(),
            Value::Large(large) => large.bytes(),
        };
        let before = bytes(&value);
        assert!(set_deadline(&mut value, b"7", at) && !set_deadline(&mut value, b"7", at));
        assert!(bytes(&value) > before);
        assert!(set_deadline(&mut value, b"7", None) && !set_deadline(&mut value, b"7", None));
        // An empty table is left, as in Redis.
        let (rest, encoding) = if is_large(&value) { (0, "hashtable") } else { (2, "listpackex") };
        assert_eq!((bytes(&value), value.view().encoding(crate::shard::Kind::Hash)), (before + rest, encoding));
        // Removing the last field leaves nothing.
        (0..fields).for_each(|n| assert!(remove(&mut value, n.to_string().as_bytes())));
        assert!(value.is_empty());
    }
}

#[test]
fn what_a_deadline_costs() {
    let t = Thresholds::default();
    let (mut value, fields) = (Value::default(), 100_000usize);
    (0..fields).for_each(|n| assert!(set(&mut value, format!("field:{n:06}").as_bytes(), b"v", &t)));
    let bytes = |value: &Value| match value {
        Value::Compact(bytes) => bytes.len(),
        Value::Large(large) => large.bytes(),
    };
    let before = bytes(&value);
    for n in 0..fields {
        let at = Deadline::new(Clock::Steady, (n * 7919 % fields) as i64);
        assert!(set_deadline(&mut value, format!("field:{n:06}").as_bytes(), Some(at)));
    }
    let each = (bytes(&value) - before) as f64 / fields as f64;
    println!("{each} bytes for a deadline, of which 12 are the name");
    assert!(each < 12.0 + 30.0);
}

#[test]
fn a_hash_with_deadlines_is_freed_in_pieces() {
    let t = Thresholds::default();
    let mut value = Value::default();
    for n in 0..5_000 {
        let (field, text) = (n.to_string(), vec![b'v'; if n % 10 == 0 { 400 } else { 4 }]);
        set(&mut value, field.as_bytes(), &text, &t);
        set_deadline(&mut value, field.as_bytes(), Some(Deadline::new(Clock::ALL[n % 2], n as i64)));
    }
    let Value::Large(mut large) = value else { panic!("it is large") };
    let mut calls = 1;
    while large.free_some(8) {
        calls += 1;
    }
    assert!((50..500).contains(&calls), "{calls}");
}

#[test]
fn a_compact_hash_that_becomes_too_long_by_deadlines_becomes_large() {
    let t = Thresholds { hash_max_listpack_entries: usize::MAX, ..Thresholds::default() };
    let mut value = Value::default();
    (0..5000).for_each(|n: u32| assert!(set(&mut value, n.to_string().as_bytes(), b"v", &t)));
    assert!(!is_large(&value));
    let at = Deadline::new(Clock::Wall, 7);
    (0..5000).for_each(|n: u32| assert!(set_deadline(&mut value, n.to_string().as_bytes(), Some(at))));
    assert!(is_large(&value));
    assert_eq!((view(&value).len(), due(value.view(), Now::from(7))), (5000, 5000));
    assert_eq!(view(&value).get(b"4999"), Some(&b"v"[..]));
}
