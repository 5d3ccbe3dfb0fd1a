//! Random commands on collections; see `commands` for the words that begin with `$`.

use std::collections::BTreeSet;

use keyloom::resp::read::Value;

use crate::common::{Client, Random, Server, seed};
use crate::compare::{rule, same, sorted};
use crate::sides;

/// More than any collection has in a random sequence.
pub const MEMBERS_MAX: i64 = 10_000;

/// Members and fields that meet each other; what `$m` is, mostly.
pub const MEMBERS: &[&str] = &["a", "b", "c", "1", "2", "-3", "70000", "9223372036854775807", "07", "", "3.5"];

pub const LISTS: &[&str] = &[
    "LPUSH $k $v",
    "LPUSH $k $v $v $v",
    "RPUSH $k $v",
    "RPUSH $k $v $v $v",
    "RPUSH $k $v $v $v $v $v $v $v $v $v $v $v $v",
    "LPUSHX $k $v $v",
    "RPUSHX $k $v",
    "LPOP $k",
    "RPOP $k",
    "LPOP $k $o",
    "RPOP $k $o",
    "LLEN $k",
    "LINDEX $k $o",
    "LINDEX $k $o",
    "LRANGE $k $o $o",
    "LRANGE $k $o $o",
    "LRANGE $k 0 -1",
    "LSET $k $o $v",
    "LINSERT $k BEFORE $v $v",
    "LINSERT $k AFTER $v $v",
    "LINSERT $k $v $v $v",
    "LREM $k $o $v",
    "LREM $k 0 $v",
    "LTRIM $k $o $o",
    "LTRIM $k 0 -2",
    "LPOS $k $v",
    "LPOS $k $v RANK $o",
    "LPOS $k $v COUNT $o",
    "LPOS $k $v MAXLEN $o COUNT $o",
    "LPOS $k $v RANK $o COUNT $o MAXLEN $o",
    "LPOS $k $v $v $o",
    "LMOVE $k $k LEFT RIGHT",
    "LMOVE $k $k RIGHT LEFT",
    "LMOVE $k $k LEFT LEFT",
    "LMOVE $k $k $v RIGHT",
    "RPOPLPUSH $k $k",
    "RPOPLPUSH $k $k",
    "LMPOP 1 $k LEFT",
    "LMPOP 2 $k $k RIGHT COUNT $o",
    "LMPOP 3 $k $k $k LEFT COUNT 2",
    "LMPOP $o $k $k RIGHT",
    "LMPOP 1 $k $v",
    "COMMAND GETKEYS LMPOP 2 $k $k LEFT",
    "COMMAND GETKEYS LMOVE $k $k LEFT RIGHT",
];

pub const SETS: &[&str] = &[
    "SADD $k $m",
    "SADD $k $m $m $m",
    "SADD $k $m $m $m $m $m $m $m $m $m $m",
    "SADD $k 1 2 3",
    "SADD $k $i $i $i",
    "SREM $k $m",
    "SREM $k $m $m $m $m $m $m",
    "SISMEMBER $k $m",
    "SMISMEMBER $k $m $m $m",
    "SCARD $k",
    "SMEMBERS $k",
    "SPOP $k 1000000",
    "SPOP $k $i",
    "SRANDMEMBER $k",
    "SRANDMEMBER $k 3",
    "SRANDMEMBER $k -3",
    "SRANDMEMBER $k $i",
    "SMOVE $k $k $m",
    "SMOVE $k $k $m",
    "SINTER $k $K",
    "SINTER $k $k",
    "SINTERCARD 2 $k $k",
    "SINTERCARD 2 $k $k LIMIT 2",
    "SINTERCARD $i $k $k LIMIT $i",
    "SINTERCARD 1 $k $v $i",
    "SUNION $k $K",
    "SDIFF $k $k",
    "SDIFF $k $K",
    "SINTERSTORE $k $k $k",
    "SUNIONSTORE $k $k $K",
    "SUNIONSTORE $k $k $k",
    "SDIFFSTORE $k $k $k",
    "SDIFFSTORE $k $k $K",
    "SSCAN $k 0",
    "SSCAN $k 0 COUNT 1000",
    "SSCAN $k 0 MATCH $p COUNT 1000",
    "SSCAN $k $i $N",
    "OBJECT ENCODING $k",
    "COMMAND GETKEYS SINTERCARD 2 $k $k",
    "COMMAND GETKEYS SUNIONSTORE $k $k $K",
    "COMMAND GETKEYSANDFLAGS SINTERSTORE $k $k $K",
    "COMMAND GETKEYSANDFLAGS SMOVE $k $k a",
];

pub const HASHES: &[&str] = &[
    "HSET $k $m $v",
    "HSET $k $m $v $m $v $m $v",
    "HSET $k $m $i $m $i",
    "HSET $k $m $f",
    "HSETNX $k $m $v",
    "HMSET $k $m $v $m $v",
    "HSET $k $m $v $m",
    "HGET $k $m",
    "HMGET $k $m $m $m",
    "HGETALL $k",
    "HKEYS $k",
    "HVALS $k",
    "HLEN $k",
    "HSTRLEN $k $m",
    "HEXISTS $k $m",
    "HDEL $k $m",
    "HDEL $k $m $m $m",
    "HDEL $k $m $m $m $m $m $m $m $m",
    "HINCRBY $k $m $i",
    "HINCRBY $k $m 5",
    "HINCRBYFLOAT $k $m $f",
    "HINCRBYFLOAT $k $m 1.5",
    "HRANDFIELD $k",
    "HRANDFIELD $k 3",
    "HRANDFIELD $k -3 WITHVALUES",
    "HRANDFIELD $k 3 WITHVALUES",
    "HRANDFIELD $k $i",
    "HRANDFIELD $k $i WITHVALUES",
    "HRANDFIELD $k $i $v",
    "HSCAN $k 0",
    "HSCAN $k 0 COUNT 1000",
    "HSCAN $k 0 MATCH $p COUNT 1000",
    "HSCAN $k $i $N",
    "OBJECT ENCODING $k",
    "COMMAND GETKEYSANDFLAGS HSET $k a b",
    "COMMAND GETKEYSANDFLAGS HLEN $k",
];

/// Rounds of commands on large sets and hashes.
const ROUNDS: usize = 600;
/// Different members: enough that sets are large, and that they have much in common.
const DIFFERENT: usize = 4000;
/// Members of one command, at the most.
const AT_ONCE: usize = 120;

/// A command on large sets and hashes, whose keys lie on both cores.
fn large(random: &mut Random) -> Vec<Vec<u8>> {
    let set = |random: &mut Random| format!("set:{}", random.below(5));
    let hash = |random: &mut Random| format!("hash:{}", random.below(3));
    let member = |random: &mut Random| {
        let n = random.below(DIFFERENT);
        // Some are integers, some are long.
        match n % 7 {
            0..3 => n.to_string(),
            3 => format!("{n:0300}"),
            _ => format!("member:{n}"),
        }
    };
    let name = random.pick(&[
        "SADD",
        "SADD",
        "SADD",
        "SADD",
        "SREM",
        "SREM",
        "SMISMEMBER",
        "SMOVE",
        "SINTER",
        "SUNION",
        "SDIFF",
        "SINTERCARD",
        "SINTERSTORE",
        "SUNIONSTORE",
        "SDIFFSTORE",
        "SCARD",
        "HSET",
        "HSET",
        "HSET",
        "HDEL",
        "HDEL",
        "HMGET",
        "HGETALL",
        "HLEN",
        "HINCRBY",
        "COPY",
        "RENAME",
        "DEL",
        "SPOP",
    ]);
    let mut words = vec![name.to_string()];
    match name {
        "SADD" | "SREM" | "SMISMEMBER" => {
            words.push(set(random));
            words.extend((0..1 + random.below(AT_ONCE)).map(|_| member(random)));
        }
        "SMOVE" => words.extend([set(random), set(random), member(random)]),
        "SINTER" | "SUNION" | "SDIFF" => words.extend((0..1 + random.below(3)).map(|_| set(random))),
        "SINTERCARD" => words.extend(["2".into(), set(random), set(random)]),
        "SINTERSTORE" | "SUNIONSTORE" | "SDIFFSTORE" => {
            words.push(set(random));
            words.extend((0..1 + random.below(3)).map(|_| set(random)));
        }
        "HSET" => {
            words.push(hash(random));
            words.extend((0..1 + random.below(AT_ONCE)).flat_map(|_| [member(random), member(random)]));
        }
        "HDEL" | "HMGET" => {
            words.push(hash(random));
            words.extend((0..1 + random.below(AT_ONCE)).map(|_| member(random)));
        }
        "HINCRBY" => words.extend([hash(random), format!("count:{}", random.below(50)), "3".into()]),
        "HGETALL" | "HLEN" => words.push(hash(random)),
        "COPY" => words.extend([set(random), set(random), "REPLACE".into()]),
        "RENAME" => words.extend([set(random), set(random)]),
        "DEL" if random.one_in(4) => words.push(set(random)),
        "SPOP" if random.one_in(4) => words.extend([set(random), "1000000".into()]),
        _ => words = vec!["SCARD".into(), set(random)],
    }
    words.into_iter().map(String::into_bytes).collect()
}

#[test]
fn large_sets_and_hashes_get_the_replies_of_redis() {
    let Some(mut sides) = sides() else { return };
    let seed = seed();
    println!("KEYLOOM_SEED={seed}");
    let mut random = Random::new(seed);
    let mut most = 0;
    for round in 0..ROUNDS {
        let command = large(&mut random);
        let mut replies = Vec::new();
        for side in &mut sides {
            side.client.send(&command);
            replies.push(side.client.read_raw());
        }
        for (side, ours) in sides.iter().zip(&replies).skip(1) {
            let shown: Vec<_> = command.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
            assert!(same(rule(&command), &replies[0], ours, 0), "{}, round {round}: {}", side.name, shown.join(" "));
        }
        most = most.max(replies[0].len());
    }
    assert!(most > 10_000, "no set became large");
    for key in ["set:0", "set:1", "set:2", "set:3", "set:4"] {
        let all: Vec<_> = sides.iter_mut().map(|side| members(&mut side.client, key)).collect();
        assert!(all.iter().all(|members| *members == all[0]), "{key}");
        for side in sides.iter_mut().skip(1) {
            let walked = walk(&mut side.client, "SSCAN", key);
            assert_eq!(walked.len(), all[0].len(), "a member came twice though nothing changed");
            assert_eq!(BTreeSet::from_iter(walked), all[0], "{key}");
        }
    }
    for key in ["hash:0", "hash:1", "hash:2"] {
        for side in sides.iter_mut() {
            let walked = walk(&mut side.client, "HSCAN", key);
            let Value::Array(all) = side.client.call(&["HGETALL", key]) else { panic!("HGETALL is no array") };
            let texts = |array: Vec<Value>| sorted(array);
            let mut walked = walked;
            walked.sort();
            assert_eq!(walked, texts(all), "{}: {key}", side.name);
        }
    }
}

fn members(client: &mut Client, key: &str) -> BTreeSet<Vec<u8>> {
    let Value::Array(members) = client.call(&["SMEMBERS", key]) else { panic!("SMEMBERS is no array") };
    sorted(members).into_iter().collect()
}

/// All that a whole walk visits.
pub fn walk(client: &mut Client, name: &str, key: &str) -> Vec<Vec<u8>> {
    let (mut cursor, mut found) = (b"0".to_vec(), Vec::new());
    for _ in 0..10_000 {
        let Value::Array(reply) = client.call(&[name.as_bytes(), key.as_bytes(), &cursor, b"COUNT", b"100"]) else {
            panic!("{name} is no array")
        };
        let [Value::Bulk(next), Value::Array(elements)] = <[Value; 2]>::try_from(reply).unwrap() else {
            panic!("no pair")
        };
        found.extend(sorted(elements));
        if next == b"0" {
            return found;
        }
        cursor = next;
    }
    panic!("{name} does not end");
}

/// Members that are popped one by one and in pieces are all there were, each once, on every side.
#[test]
fn popping_members_empties_a_set() {
    let Some(mut sides) = sides() else { return };
    for side in &mut sides {
        for resp in ["2", "3"] {
            side.client.call(&["HELLO", resp]);
            for (len, word) in [(5, ""), (100, ""), (100, "w"), (3000, "w"), (3000, "")] {
                let all: BTreeSet<Vec<u8>> = (0..len).map(|n| format!("{word}{n}").into_bytes()).collect();
                let mut command = vec![b"SADD".to_vec(), b"popped".to_vec()];
                command.extend(all.iter().cloned());
                assert_eq!(side.client.call(&command), Value::Int(len));
                let mut popped = Vec::new();
                for count in [0, 1, 2, len / 2, len] {
                    match side.client.call(&["SPOP", "popped"]) {
                        Value::Bulk(member) => popped.push(member),
                        other => panic!("{}: SPOP: {other:?}", side.name),
                    }
                    match side.client.call(&["SPOP", "popped", &count.to_string()]) {
                        Value::Array(members) if resp == "2" => popped.extend(sorted(members)),
                        Value::Set(members) if resp == "3" => popped.extend(sorted(members)),
                        other => panic!("{}: SPOP {count}: {other:?}", side.name),
                    }
                    if popped.len() == all.len() {
                        break;
                    }
                }
                assert_eq!(side.client.call(&["EXISTS", "popped"]), Value::Int(0), "{}", side.name);
                assert_eq!(popped.len(), all.len(), "{}", side.name);
                assert_eq!(BTreeSet::from_iter(popped), all, "{}", side.name);
            }
        }
    }
}

/// Members and fields that are there from the start of a walk to its end are found, and once, whatever comes and goes
/// meanwhile.
#[test]
fn walks_of_sets_and_hashes_find_what_stays() {
    let server = Server::keyloom(&["--cpus", "0"]);
    let mut client = server.client();
    for (walk, add, remove) in [("SSCAN", "SADD", "SREM"), ("HSCAN", "HSET", "HDEL")] {
        let is_hash = walk == "HSCAN";
        let change = |client: &mut Client, name: &str, elements: &[String]| {
            let mut command = vec![name.to_string(), "k".into()];
            for element in elements {
                command.push(element.clone());
                command.extend((name == "HSET").then(|| "value".to_string()));
            }
            client.call(&command)
        };
        client.call(&["DEL", "k"]);
        let stay: BTreeSet<Vec<u8>> = (0..1000).map(|n| format!("stays:{n}").into_bytes()).collect();
        let texts: Vec<String> = stay.iter().map(|text| String::from_utf8(text.clone()).unwrap()).collect();
        assert_eq!(change(&mut client, add, &texts), Value::Int(1000));
        let (mut cursor, mut found, mut calls) = (b"0".to_vec(), Vec::new(), 0);
        loop {
            let mut command: Vec<&[u8]> = vec![walk.as_bytes(), b"k", &cursor, b"COUNT", b"3"];
            command.extend(is_hash.then_some(&b"NOVALUES"[..]));
            let Value::Array(reply) = client.call(&command) else { panic!("{walk} is no array") };
            let [Value::Bulk(next), Value::Array(elements)] = <[Value; 2]>::try_from(reply).unwrap() else {
                panic!("no pair")
            };
            found.extend(sorted(elements).into_iter().filter(|element| stay.contains(element)));
            if next == b"0" {
                break;
            }
            cursor = next;
            // The collection grows thirtyfold, then it shrinks, and again.
            let batch: Vec<String> = (0..1000).map(|n| format!("comes:{}:{n}", calls % 30)).collect();
            change(&mut client, if calls % 60 < 30 { add } else { remove }, &batch);
            calls += 1;
            assert!(calls < 10_000, "{walk} does not end");
        }
        assert!(calls > 15, "{walk} was too short to see a change: {calls} calls");
        found.sort();
        assert!(found.into_iter().eq(stay), "{walk}");
    }
}
