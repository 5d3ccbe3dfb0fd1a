//! The statements that rebuild an entry make one with the same content, in one go or in slices, and none of them is large.
//! Digests are equal exactly where contents are.

use std::collections::HashMap;

use crate::common::engine::{engine, engine_seeded, run};
use crate::common::keyspace::{
    Content, DATABASES, KEYS, NONE_COMPACT, REPLAY_MS, START_MS, TEMPLATES, TIMES, VALUES, Words, contents,
    contents_of, replay_one,
};
use keyloom::collection::Thresholds;
use keyloom::collection::random::Random;
use keyloom::config::Config;
use keyloom::engine::Engine;
use keyloom::route::Router;
use keyloom::shard::digest::Digest;
use keyloom::shard::rebuild::{Cursor, STATEMENT_BYTES_MAX, STATEMENT_ELEMENTS_MAX};
use keyloom::shard::{Effect, Now};

const SCORES: [&str; 12] = [
    "-0",
    "0",
    "inf",
    "-inf",
    "5e-324",
    "1.7976931348623157e308",
    "0.1",
    "-1.1",
    "9007199254740993",
    "1e17",
    "3",
    "-7",
];

fn new_engine(now_ms: i64, thresholds: Thresholds) -> Engine {
    engine(now_ms, Config { databases: DATABASES, thresholds, ..Config::default() })
}

fn keys() -> Vec<Vec<u8>> {
    vec![b"key".to_vec()]
}

/// Fills `key` with a value of about `count` elements of up to `bytes` bytes each, of a type of its own choice.
fn fill(engine: &mut Engine, random: &mut Random, count: usize, bytes: usize) {
    let text = |random: &mut Random, n: usize| {
        let len = random.below(bytes + 1);
        format!("{n}{}", "x".repeat(len)).into_bytes()
    };
    let kind = random.below(6);
    let (count, mut done) = (if kind == 0 { 1 } else { count.max(1) }, 0);
    while done < count {
        let name: &[u8] = [&b"SET"[..], b"RPUSH", b"SADD", b"HSET", b"ZADD", b"SADD"][kind];
        let mut args: Vec<Vec<u8>> = vec![name.to_vec(), b"key".to_vec()];
        let end = (done + 1 + random.below(300)).min(count);
        for n in done..end {
            match kind {
                0 => args.push(text(random, n)),
                3 => args.extend([text(random, n), text(random, n)]),
                4 => {
                    let score = SCORES[random.below(SCORES.len())];
                    args.extend([score.as_bytes().to_vec(), text(random, n)]);
                }
                // Some sets are of integers.
                5 => args.push((random.word() as i64 >> random.below(60)).to_string().into_bytes()),
                _ => args.push(text(random, n)),
            }
        }
        done = end;
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        assert_ne!(run(engine, 0, &args)[0], b'-');
        if kind == 3 {
            // By both clocks, and several fields at the same moment.
            for (nth, pair) in args[2..].chunks(2).enumerate().filter(|(nth, _)| nth % 3 == 0) {
                let at: &[&[u8]] = if nth % 2 == 0 {
                    &[b"HPEXPIREAT", b"key", b"1700000099000"]
                } else {
                    &[b"HEXPIRE", b"key", b"50"]
                };
                run(engine, 0, &[at, &[b"FIELDS", b"1", pair[0]]].concat());
            }
        }
    }
    match random.below(3) {
        0 => drop(run(engine, 0, &[b"PEXPIRE", b"key", b"123456"])),
        1 => drop(run(engine, 0, &[b"PEXPIREAT", b"key", b"1700000123456"])),
        _ => {}
    }
}

/// The key's content with the moments as they are shown, of an engine whose wall clock was set.
fn content(engine: &mut Engine) -> Vec<Content> {
    contents_of(engine, &keys())
}

/// Statements in slices of about `elements`; checks that none is too large.
fn slices(engine: &Engine, elements: usize) -> Vec<Vec<Vec<Vec<u8>>>> {
    let key = engine.hasher.key(b"key");
    let (mut all, mut cursor) = (Vec::new(), Some(Cursor::default()));
    while let Some(from) = cursor {
        let mut slice: Vec<Vec<Vec<u8>>> = Vec::new();
        cursor = engine.shard.rebuild_some(0, &key, from, elements, |statement| {
            slice.push(statement.iter().map(|word| word.to_vec()).collect());
        });
        for statement in &slice {
            let per_element = if matches!(&statement[0][..], b"HSET" | b"ZADD") { 2 } else { 1 };
            // Before the fields of HPEXPIREAT stand the moment, a word and their number.
            let words = if statement[0] == b"HPEXPIREAT" { &statement[5..] } else { &statement[2..] };
            assert!(words.len() <= per_element * STATEMENT_ELEMENTS_MAX || statement[0] == b"SET");
            let bytes: usize = words.iter().map(Vec::len).sum();
            // Scores are counted as eight bytes and may have up to 24.
            assert!(
                bytes <= STATEMENT_BYTES_MAX + 16 * STATEMENT_ELEMENTS_MAX
                    || words.len() <= per_element
                    || statement[0] == b"SET"
            );
        }
        all.push(slice);
    }
    all
}

fn rebuilt(statements: &[Vec<Vec<u8>>], thresholds: Thresholds) -> Vec<Content> {
    let mut copy = new_engine(REPLAY_MS, thresholds);
    for args in statements {
        replay_one(&mut copy, &Effect { db: 0, slot: None, unit: 0, args: args.clone() });
    }
    content(&mut copy)
}

#[test]
fn what_is_rebuilt_is_the_same() {
    for seed in 0..200 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let thresholds = if random.below(2) == 0 { NONE_COMPACT } else { Thresholds::default() };
        let mut source = new_engine(START_MS, thresholds);
        let (count, bytes) = ([1, 20, 700, 3_000][random.below(4)], [0, 30, 300, 70_000][random.below(4)]);
        fill(&mut source, &mut random, if bytes > 1_000 { count.min(20) } else { count }, bytes);
        if random.below(2) == 0 {
            // Clocks that do not agree any more.
            source.shard.set_now(Now { wall_ms: START_MS + 5_000, steady_ms: START_MS + 10 });
        }
        let expected = content(&mut source);
        let key = source.hasher.key(b"key");
        let mut whole: Vec<Vec<Vec<u8>>> = Vec::new();
        source.shard.rebuild(0, &key, |statement| whole.push(statement.iter().map(|word| word.to_vec()).collect()));
        // A set that is just about to become large has its negative zeros only in the same form.
        assert_eq!(rebuilt(&whole, thresholds), expected);
        for elements in [1, 7, 100, 1_000, usize::MAX] {
            let slices = slices(&source, elements);
            assert_eq!(rebuilt(&slices.concat(), thresholds), expected, "{elements} a slice");
            if elements < 100 && count == 3_000 && expected[0].2.len() > 1_000 {
                assert!(slices.len() > 3, "{} slices of {elements}", slices.len());
            }
        }
    }
}

/// The first 128 members of a set that is rebuilt are in a compact one, which has no negative zeros.
#[test]
fn negative_zeros_survive() {
    for members in [129, 200, 513, 1_500] {
        for all in [true, false] {
            let mut source = new_engine(START_MS, NONE_COMPACT);
            for n in 0..members {
                let score = if all || n % 3 == 0 { "-0" } else { "0" };
                run(&mut source, 0, &[b"ZADD", b"key", score.as_bytes(), n.to_string().as_bytes()]);
            }
            let expected = content(&mut source);
            assert!(expected[0].2.iter().filter(|part| part.0.starts_with(b"-0.0 ")).count() >= members / 3);
            for elements in [100, usize::MAX] {
                let statements = slices(&source, elements).concat();
                assert_eq!(rebuilt(&statements, Thresholds::default()), expected, "{members} members");
            }
        }
    }
}

#[test]
fn what_is_over_or_not_there_has_no_statements() {
    let mut source = new_engine(START_MS, Thresholds::default());
    let count = |source: &Engine| {
        let mut count = 0;
        source.shard.rebuild(0, &source.hasher.key(b"key"), |_| count += 1);
        count
    };
    assert_eq!(count(&source), 0);
    run(&mut source, 0, &[b"SET", b"key", b"v", b"PX", b"10"]);
    assert_eq!(count(&source), 1);
    source.shard.set_now(START_MS + 10);
    assert_eq!((count(&source), source.shard.size(0).keys), (0, 1));
    run(&mut source, 0, &[b"HSET", b"key", b"f", b"v"]);
    run(&mut source, 0, &[b"HPEXPIRE", b"key", b"10", b"FIELDS", b"1", b"f"]);
    assert_eq!(count(&source), 2);
    source.shard.set_now(START_MS + 20);
    assert_eq!((count(&source), source.shard.size(0).keys), (0, 1));
}

/// The digest of the first database, as it is for `source` now.
fn digest(engine: &Engine, source: &Engine) -> Digest {
    let (shard, at) = (&engine.shard, source.shard.now_ms());
    shard.partitions().map(|partition| shard.digest(0, partition, at)).fold(Digest::default(), Digest::and)
}

/// What is in the first database, but for the sign of zeros, which small sorted sets do not have.
fn seen(engine: &mut Engine) -> Vec<Content> {
    let mut all = contents(engine);
    all.retain(|(db, ..)| *db == 0);
    for (_, _, parts, _) in &mut all {
        if parts.last().is_some_and(|kind| kind.0 == b"zset") {
            for part in parts.iter_mut().filter(|part| part.0.starts_with(b"-0.0 ")) {
                part.0.remove(0);
            }
            parts.sort();
        }
    }
    all
}

/// Random commands, and after each a copy with other seeds, encodings and numbers of partitions.
#[test]
fn digests_are_equal_where_contents_are() {
    const SEEDS: u64 = 80;
    const COMMANDS: usize = 60;
    let mut known: HashMap<u128, Vec<Content>> = HashMap::new();
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut source = new_engine(START_MS, Thresholds::default());
        for _ in 0..COMMANDS {
            let mut pick = |count| random.below(count);
            let words = Words {
                keys: [KEYS[pick(KEYS.len())], KEYS[pick(KEYS.len())]],
                values: [VALUES[pick(VALUES.len())], VALUES[pick(VALUES.len())]],
                time: TIMES[pick(TIMES.len())],
                db: 0,
            };
            let args = words.fill(TEMPLATES[pick(TEMPLATES.len())]);
            source.shard.set_now(source.shard.now_ms() + pick(300) as i64);
            run(&mut source, 0, &args.iter().map(String::as_bytes).collect::<Vec<_>>());
            let expected = seen(&mut source);
            let sum = digest(&source, &source).sum;
            let same = known.entry(sum).or_insert_with(|| expected.clone());
            assert_eq!(*same, expected, "after {args:?}");
            let config = Config { databases: DATABASES, thresholds: NONE_COMPACT, ..Config::default() };
            let mut copy = engine_seeded(Router::new(0, 1, 32), [random.word(), 2, 3, 4], REPLAY_MS, config);
            for (_, name, ..) in &expected {
                let key = source.hasher.key(name);
                source.shard.rebuild(0, &key, |statement| {
                    let args = statement.iter().map(|word| word.to_vec()).collect();
                    replay_one(&mut copy, &Effect { db: 0, slot: None, unit: 0, args });
                });
            }
            assert_eq!(digest(&copy, &source).sum, sum, "after {args:?}");
        }
    }
    let contents: std::collections::BTreeSet<_> = known.values().collect();
    assert_eq!(contents.len(), known.len(), "equal contents have equal digests");
    assert!(known.len() > 500, "{} contents are few", known.len());
}
