//! DUMP and RESTORE: values go from each server to each other one, and come out the same.

use keyloom::resp::read::Value;

use crate::common::{Client, Random, ok, seed, show};
use crate::{Side, sides};

const ROUNDS: u64 = 12;
const DATABASE: &str = "1";

/// Settings of redis-server and of ours: what is compact for one is not for the other.
const SETTINGS: &[&str] = &[
    "hash-max-listpack-entries 128 zset-max-listpack-entries 128 set-max-intset-entries 512 list-max-listpack-size -2",
    "hash-max-listpack-entries 0 zset-max-listpack-entries 0 set-max-intset-entries 0 list-max-listpack-size 2",
    "hash-max-listpack-entries 4000 zset-max-listpack-entries 4000 set-max-intset-entries 4000 list-max-listpack-size 200",
    "hash-max-listpack-value 5 zset-max-listpack-value 5 list-max-listpack-size -5",
];

const LENGTHS: &[usize] = &[1, 2, 3, 10, 63, 64, 127, 128, 129, 511, 513, 700, 2000];

/// An element: a number, a word, noise, or something long. No two with different `n` are the same.
fn element(random: &mut Random, n: usize) -> Vec<u8> {
    let mut text = match random.below(8) {
        0 | 1 => return n.to_string().into_bytes(),
        2 => return (n as i64 - 5_000_000_000 * random.below(3) as i64 * 2).to_string().into_bytes(),
        3 => format!("-{n}.5").into_bytes(),
        4 => (0..random.below(40)).map(|_| random.next() as u8).collect(),
        5 if random.one_in(10) => vec![b'x'; 64 + random.below(200)],
        6 if random.one_in(60) => vec![b'y'; 4000 + random.below(20_000)],
        _ => b"element".to_vec(),
    };
    text.extend_from_slice(format!(":{n}").as_bytes());
    text
}

/// A command that makes a value, and one that shows it.
fn value(random: &mut Random, key: &str) -> [Vec<Vec<u8>>; 2] {
    let len = LENGTHS[random.below(LENGTHS.len())];
    let only_integers = random.one_in(3);
    let mut elements: Vec<Vec<u8>> = (0..len)
        .map(|n| if only_integers { (n as i64 * 77_777 - 1000).to_string().into_bytes() } else { element(random, n) })
        .collect();
    let (name, show): (&str, &str) = match random.below(5) {
        0 => {
            elements.truncate(1);
            ("SET", "GET $")
        }
        1 => ("RPUSH", "LRANGE $ 0 -1"),
        2 => ("SADD", "SMEMBERS $"),
        3 => {
            elements = elements.into_iter().flat_map(|field| [field.clone(), field]).collect();
            ("HSET", "HGETALL $")
        }
        _ => {
            let scores = ["0", "1", "-1", "0.1", "inf", "-inf", "1e300", "3.5", "-123456789", "5e-324"];
            let score = |random: &mut Random| random.pick(&scores).as_bytes().to_vec();
            elements = elements.into_iter().flat_map(|member| [score(random), member]).collect();
            ("ZADD", "ZRANGE $ 0 -1 WITHSCORES")
        }
    };
    let make = [name, key].map(|word| word.as_bytes().to_vec()).into_iter().chain(elements).collect();
    [make, show.split(' ').map(|word| word.replace('$', key).into_bytes()).collect()]
}

/// What a command shows, whatever the order of sets and hashes.
fn shown(client: &mut Client, command: &[Vec<u8>]) -> Value {
    let reply = client.call(command);
    match (&command[0][..], reply) {
        (b"SMEMBERS", Value::Array(mut members)) => {
            members.sort_by_key(|member| format!("{member:?}"));
            Value::Array(members)
        }
        (b"HGETALL", Value::Array(pairs)) => {
            let mut pairs: Vec<Value> = pairs.chunks(2).map(|pair| Value::Array(pair.to_vec())).collect();
            pairs.sort_by_key(|pair| format!("{pair:?}"));
            Value::Array(pairs)
        }
        (_, reply) => reply,
    }
}

fn dumped(client: &mut Client, key: &str) -> Vec<u8> {
    match client.call(&["DUMP", key]) {
        Value::Bulk(payload) => payload,
        other => panic!("no payload: {other:?}"),
    }
}

fn configure(side: &mut Side, settings: &str) {
    let words: Vec<&str> = "CONFIG SET".split(' ').chain(settings.split(' ')).collect();
    assert_eq!(side.client.call(&words), ok(), "{}: {settings}", side.name);
}

#[test]
fn values_go_from_each_server_to_each() {
    let Some(mut sides) = sides() else { return };
    let seed = seed();
    println!("KEYLOOM_SEED={seed}");
    let mut random = Random::new(seed);
    for round in 0..ROUNDS {
        for side in &mut sides {
            side.client.call(&["FLUSHALL"]);
            side.client.call(&["SELECT", DATABASE]);
            configure(side, SETTINGS[random.below(SETTINGS.len())]);
        }
        let values: Vec<[Vec<Vec<u8>>; 2]> = (0..10).map(|n| value(&mut random, &format!("key:{n}"))).collect();
        for (n, [make, show]) in values.iter().enumerate() {
            let key = format!("key:{n}");
            let from = random.below(sides.len());
            assert!(!matches!(sides[from].client.call(make), Value::Error(_)));
            let original = shown(&mut sides[from].client, show);
            let kind = sides[from].client.call(&["TYPE", &key]);
            // Round in a circle, so that each payload is made of a payload.
            let mut payload = dumped(&mut sides[from].client, &key);
            for step in 1..=sides.len() {
                let to = (from + step) % sides.len();
                let side = &mut sides[to];
                let reply = side.client.call(&[b"RESTORE", key.as_bytes(), b"0", &payload, b"REPLACE"]);
                let what = format!("round {round}, {key} ({}), to {}", show[0].escape_ascii(), side.name);
                assert_eq!(reply, ok(), "{what}");
                assert_eq!(side.client.call(&["TYPE", &key]), kind, "{what}");
                assert!(shown(&mut side.client, show) == original, "{what}: {original:?}");
                payload = dumped(&mut side.client, &key);
            }
        }
    }
}

/// `RESTORE`, with `$p` for a payload, `$b` for one that was changed, `$e` for nothing.
const LINES: &[&str] = &[
    "RESTORE k 0",
    "RESTORE k 0 $p",
    "GET k",
    "RESTORE k 0 $p",
    "RESTORE k x $p",
    "RESTORE k 0 $p REPLACE",
    "RESTORE k 0 $b REPLACE",
    "GET k",
    "RESTORE k 0 $b",
    "RESTORE new 0 $b",
    "RESTORE new 0 $e",
    "RESTORE new 0 tooshort",
    "RESTORE new x $b",
    "RESTORE new 1.5 $p",
    "RESTORE new -1 $p",
    "RESTORE new -1 $b",
    "RESTORE new 0 $p NX",
    "RESTORE new 0 $p REPLACE REPLACE ABSTTL ABSTTL",
    "PTTL new",
    "RESTORE new 0 $p IDLETIME",
    "RESTORE new 0 $p IDLETIME x",
    "RESTORE new 0 $p IDLETIME -1",
    "RESTORE new 0 $p FREQ",
    "RESTORE new 0 $p FREQ 256",
    "RESTORE new 0 $p FREQ -1",
    "RESTORE new 0 $p FREQ 5 IDLETIME 5",
    "RESTORE new 0 $p IDLETIME 5 FREQ 5",
    "RESTORE new 0 $p REPLACE idletime 5 IdleTime 5000",
    "RESTORE new 0 $p FREQ 5 replace freq 7",
    "RESTORE gone 1 $p ABSTTL",
    "EXISTS gone",
    "RESTORE new 1 $p ABSTTL REPLACE",
    "EXISTS new",
    "RESTORE later 4102444800000 $p ABSTTL",
    "PEXPIRETIME later",
    "RESTORE later 0 $p REPLACE",
    "PEXPIRETIME later",
    "RPUSH list a",
    "RESTORE list 0 $p REPLACE",
    "TYPE list",
    "DUMP none",
    "DUMP",
    "DUMP a b",
    "CONFIG SET maxmemory-policy allkeys-lfu",
    "RESTORE used 0 $p FREQ 77",
    "OBJECT FREQ used",
    "CONFIG SET maxmemory-policy noeviction",
];

#[test]
fn restore_answers_as_in_redis() {
    let Some(mut sides) = sides() else { return };
    for side in &mut sides {
        side.client.call(&["SET", "source", "a value of no consequence"]);
    }
    let payload = dumped(&mut sides[0].client, "source");
    let mut changed = payload.clone();
    changed[3] ^= 4;
    for line in LINES {
        let command: Vec<&[u8]> = line
            .split(' ')
            .map(|word| match word {
                "$p" => &payload[..],
                "$b" => &changed,
                "$e" => b"",
                word => word.as_bytes(),
            })
            .collect();
        let replies: Vec<Vec<u8>> = sides
            .iter_mut()
            .map(|side| {
                side.client.send(&command);
                side.client.read_raw()
            })
            .collect();
        for (side, ours) in sides.iter().zip(&replies).skip(1) {
            assert_eq!(show(ours), show(&replies[0]), "{}: {line}", side.name);
        }
    }
    for side in &mut sides {
        assert_eq!(side.client.call(&[&b"RESTORE"[..], b"soon", b"100000", &payload]), ok());
        match side.client.call(&["PTTL", "soon"]) {
            Value::Int(ms) => assert!((1..=100_000).contains(&ms), "{ms}"),
            other => panic!("{other:?}"),
        }
    }
}
