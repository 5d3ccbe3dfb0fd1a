//! Snapshots that are made while everything changes: large collections, transactions over both cores, databases that are
//! exchanged and flushed. What is there after a restart is what was there before.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keyloom::resp::read::{Value, encode_command};

use super::common::{Client, Random, Server, ok, seed};
use super::node::Data;

const DATABASES: usize = 3;

/// Names of keys; what is at them is of any type.
const NAMES: usize = 60;

/// For how long clients write.
const WRITE: Duration = Duration::from_millis(1500);

fn name(random: &mut Random) -> String {
    format!("key{}", random.below(NAMES))
}

/// A command that may change anything; it may also fail, for a wrong type.
fn command(random: &mut Random) -> Vec<String> {
    let (a, b, n) = (name(random), name(random), random.next() % 1000);
    let text = match random.below(24) {
        0 => format!("SET {a} {n}"),
        1 => format!("MSET {a} {n} {b} {n}"),
        2 => format!("DEL {a} {b}"),
        3 => format!("RENAME {a} {b}"),
        4 => format!("COPY {a} {b} REPLACE"),
        5 => format!("MOVE {a} {}", random.below(DATABASES)),
        6 => format!("EXPIRE {a} 1000"),
        7 => format!("PEXPIRE {a} {n}"),
        8 => format!("PERSIST {a}"),
        9 => format!("SPOP {a} 3"),
        10 => format!("LTRIM {a} {} -1", n % 400),
        11 => format!("SUNIONSTORE {a} {a} {b}"),
        12 => format!("ZUNIONSTORE {a} 2 {a} {b}"),
        13 => format!("HDEL {a} {}", n % 50),
        14 => format!("LMOVE {a} {b} LEFT RIGHT"),
        15 => format!("HEXPIRE {a} 1000 FIELDS 2 {} {}", n % 50, n % 40),
        16 => format!("APPEND {a} {n}"),
        kind => {
            // Large collections grow by many elements at once.
            let elements: Vec<String> = (0..1 + random.below(400)).map(|_| random.below(3000).to_string()).collect();
            let pairs = || elements.iter().map(|element| format!("{} {element}", element.len())).collect::<Vec<_>>();
            match kind {
                17 | 18 => format!("RPUSH {a} {}", elements.join(" ")),
                19 | 20 => format!("SADD {a} {}", elements.join(" ")),
                21 => format!("ZADD {a} {}", pairs().join(" ")),
                _ => format!("HSET {a} {}", elements.iter().map(|e| format!("{e} v{e}")).collect::<Vec<_>>().join(" ")),
            }
        }
    };
    text.split(' ').map(str::to_string).collect()
}

/// Writes until told otherwise: commands, and transactions of several of them.
fn write(server: &Server, seed: u64, stop: &AtomicBool) {
    let mut random = Random::new(seed);
    let mut client = server.client();
    while !stop.load(Ordering::Relaxed) {
        let (mut bytes, mut replies) = (Vec::new(), 0);
        let db = random.below(DATABASES).to_string();
        encode_command(&["SELECT", &db], &mut bytes);
        for _ in 0..8 {
            let transaction = random.one_in(4);
            if transaction {
                encode_command(&["MULTI"], &mut bytes);
            }
            let count = if transaction { 1 + random.below(4) } else { 1 };
            (0..count).for_each(|_| encode_command(&command(&mut random), &mut bytes));
            if transaction {
                encode_command(&["EXEC"], &mut bytes);
            }
            replies += count + 2 * transaction as usize;
        }
        client.send_bytes(&bytes);
        (0..=replies).for_each(|_| drop(client.read_raw()));
    }
}

/// A value, and when it ends, Unix ms.
#[derive(Clone, Debug)]
struct Content {
    kind: String,
    value: Value,
    end: Option<i64>,
}

/// The steady clock may be corrected meanwhile.
const END_TOLERANCE_MS: u64 = 100;

impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        let ends = match (self.end, other.end) {
            (Some(a), Some(b)) => a.abs_diff(b) <= END_TOLERANCE_MS,
            (a, b) => a == b,
        };
        ends && self.kind == other.kind && self.value == other.value
    }
}

/// What is at a key; None if it has just gone.
fn content(client: &mut Client, key: &str) -> Option<Content> {
    let (kind, value) = value(client, key);
    let end = match client.call(&["PEXPIRETIME", key]) {
        Value::Int(-2) => return None,
        Value::Int(-1) => None,
        Value::Int(end) => Some(end),
        other => panic!("PEXPIRETIME: {other:?}"),
    };
    Some(Content { kind, value, end })
}

/// A type and a value, in an order that does not depend on how it came about.
fn value(client: &mut Client, key: &str) -> (String, Value) {
    let Value::Simple(kind) = client.call(&["TYPE", key]) else { panic!("TYPE is a word") };
    let kind = String::from_utf8(kind).unwrap();
    let command: &[&str] = match kind.as_str() {
        "string" => &["GET", key],
        "list" => &["LRANGE", key, "0", "-1"],
        "set" => &["SMEMBERS", key],
        "hash" => &["HGETALL", key],
        "zset" => &["ZRANGE", key, "0", "-1", "WITHSCORES"],
        _ => return (kind, Value::Null),
    };
    let mut items = match client.call(command) {
        Value::Array(items) => items,
        text => return (kind, text),
    };
    if kind == "hash" && !items.is_empty() {
        let fields: Vec<Value> = items.chunks(2).map(|pair| pair[0].clone()).collect();
        let fields: Vec<String> = fields.iter().map(text).collect();
        let count = fields.len().to_string();
        let words = ["HPEXPIRETIME", key, "FIELDS", &count].into_iter();
        let command: Vec<&str> = words.chain(fields.iter().map(String::as_str)).collect();
        let Value::Array(ends) = client.call(&command) else { panic!("HPEXPIRETIME") };
        // When exactly a field ends is told by many other tests.
        let ends = ends.into_iter().map(|end| Value::Int((end != Value::Int(-1)) as i64));
        items = items.chunks(2).zip(ends).map(|(pair, end)| Value::Array([pair, &[end]].concat())).collect();
    }
    if kind == "set" || kind == "hash" {
        items.sort_by_key(|item| format!("{item:?}"));
    }
    (kind, Value::Array(items))
}

fn text(value: &Value) -> String {
    let Value::Bulk(text) = value else { panic!("no text: {value:?}") };
    String::from_utf8(text.clone()).unwrap()
}

type Keyspace = BTreeMap<(usize, String), Content>;

/// Everything that is there. Nothing changes meanwhile but what expires.
fn keyspace(server: &Server) -> Keyspace {
    let mut client = server.client();
    let mut all = BTreeMap::new();
    for db in 0..DATABASES {
        assert_eq!(client.call(&["SELECT", &db.to_string()]), ok());
        let Value::Array(keys) = client.call(&["KEYS", "*"]) else { panic!("KEYS is an array") };
        for key in keys.iter().map(text) {
            if let Some(content) = content(&mut client, &key) {
                all.insert((db, key), content);
            }
        }
    }
    all
}

/// Compares what is there with what was: what had an end may have gone.
#[track_caller]
fn is_the_same(before: &Keyspace, after: &Keyspace) {
    for (place, value) in after {
        assert_eq!(before.get(place), Some(value), "{place:?}");
    }
    for (place, content) in before {
        let gone = content.end.is_none() && !after.contains_key(place);
        assert!(!gone, "{place:?}, a {}, is missing", content.kind);
    }
}

fn run(name: &str, args: &[&str], exchanges: bool, rounds: usize) {
    let seed = seed();
    println!("KEYLOOM_SEED={seed}");
    let data = Data::new(name);
    let mut before = Keyspace::new();
    let mut saves = 0;
    for round in 0..=rounds {
        let mut server = data.start(if round % 2 == 0 { "0-1" } else { "0" }, args);
        is_the_same(&before, &keyspace(&server));
        if round == rounds {
            break;
        }
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for n in 0..3 {
                let (server, stop) = (&server, &stop);
                scope.spawn(move || write(server, seed.wrapping_mul(100) + (10 * round + n) as u64, stop));
            }
            let mut client = server.client();
            let end = Instant::now() + WRITE;
            let mut random = Random::new(seed + round as u64);
            while Instant::now() < end {
                client.call(&["BGSAVE"]);
                if exchanges {
                    let (a, b) = (random.below(DATABASES).to_string(), random.below(DATABASES).to_string());
                    assert_eq!(client.call(&["SWAPDB", &a, &b]), ok());
                    if random.one_in(3) {
                        client.call(&[random.pick(&["FLUSHALL", "FLUSHDB"])]);
                    }
                }
                // It is refused while one is under way.
                saves += (client.call(&["SAVE"]) == ok()) as usize;
            }
            stop.store(true, Ordering::Relaxed);
        });
        // The last snapshot is not the end of it.
        let mut client = server.client();
        client.call(&["SET", "last", &round.to_string()]);
        assert_eq!(client.call(&["WAITAOF", "1", "0", "0"]), Value::Array(vec![Value::Int(1), Value::Int(0)]));
        before = keyspace(&server);
        server.kill();
        data.is_intact();
    }
    println!("{saves} snapshots, {} keys", before.len());
    assert!(saves > rounds && !before.is_empty());
}

#[test]
fn a_snapshot_under_load_is_the_keyspace_of_one_moment() {
    run("cover", &[], false, 3);
}

#[test]
fn databases_may_be_exchanged_and_flushed_meanwhile() {
    run("exchange", &[], true, 3);
}

/// Every collection is large and is written in slices.
#[test]
fn large_collections_change_while_they_are_covered() {
    let args = ["--set-max-listpack-entries", "4", "--hash-max-listpack-entries", "4", "--list-max-listpack-size", "4"];
    run("large", &args, false, 3);
}
