//! Commands with keys of several cores, and walks over a keyspace that several cores share.

use std::collections::BTreeSet;

use keyloom::resp::read::Value;

use crate::common::{Client, Random, Server, seed};
use crate::compare::{rule, same, sorted};
use crate::{ARGS, sides};

/// Enough that every core has many.
const KEYS: usize = 300;
/// Arguments of one command, at the most.
const ARGS_MAX: usize = 120;
const ROUNDS: usize = 250;
/// Calls after which a walk that has not ended never will.
const SCAN_CALLS_MAX: usize = 100_000;

fn key(n: usize) -> Vec<u8> {
    format!("many:{n}").into_bytes()
}

/// Long lists of keys, in which some come several times: as on redis-server, also while keys are in several databases.
#[test]
fn commands_with_many_keys_get_the_replies_of_redis() {
    let Some(mut sides) = sides() else { return };
    let seed = seed();
    println!("KEYLOOM_SEED={seed}");
    let mut random = Random::new(seed);
    for round in 0..ROUNDS {
        let command = many_keys(&mut random);
        let replies: Vec<Vec<u8>> = sides
            .iter_mut()
            .map(|side| {
                side.client.send(&command);
                side.client.read_raw()
            })
            .collect();
        for (side, ours) in sides.iter().zip(&replies).skip(1) {
            let shown: Vec<_> = command.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
            assert!(same(rule(&command), &replies[0], ours, 0), "{}, round {round}: {}", side.name, shown.join(" "));
        }
    }
    let contents: Vec<_> = sides.iter_mut().map(|side| contents(&mut side.client)).collect();
    assert!(!contents[0].is_empty());
    for (side, ours) in sides.iter().zip(&contents).skip(1) {
        assert_eq!(ours, &contents[0], "{}", side.name);
    }
}

/// One of the commands, with keys and values.
fn many_keys(random: &mut Random) -> Vec<Vec<u8>> {
    let name = random.pick(&[
        "MSET", "MSET", "MSET", "MSETNX", "MGET", "DEL", "UNLINK", "EXISTS", "TOUCH", "RENAME", "RENAMENX", "COPY",
        "LCS", "COPY DB", "MOVE", "SWAPDB", "SELECT", "DBSIZE", "KEYS", "FLUSHDB",
    ]);
    let mut command: Vec<Vec<u8>> = vec![name.split(' ').next().unwrap().as_bytes().to_vec()];
    let database = |random: &mut Random| random.below(3).to_string().into_bytes();
    let few = if name == "DEL" || name == "UNLINK" { 8 } else { ARGS_MAX };
    match name {
        "MSET" | "MSETNX" => {
            for n in 0..1 + random.below(if name == "MSET" { ARGS_MAX } else { 3 }) {
                command.extend([key(random.below(KEYS)), n.to_string().into_bytes()]);
            }
        }
        "RENAME" | "RENAMENX" | "COPY" | "LCS" => command.extend([key(random.below(KEYS)), key(random.below(KEYS))]),
        "COPY DB" => {
            command.extend([key(random.below(KEYS)), key(random.below(KEYS)), b"DB".to_vec(), database(random)]);
            command.push(b"REPLACE".to_vec());
        }
        "MOVE" => command.extend([key(random.below(KEYS)), database(random)]),
        "SWAPDB" => command.extend([database(random), database(random)]),
        "SELECT" => command.push(database(random)),
        "KEYS" => command.push(b"many:*7*".to_vec()),
        "FLUSHDB" if !random.one_in(4) => command[0] = b"DBSIZE".to_vec(),
        "DBSIZE" | "FLUSHDB" => {}
        _ => command.extend((0..1 + random.below(few)).map(|_| key(random.below(KEYS)))),
    }
    command
}

/// Every key of the databases in use with its value.
fn contents(client: &mut Client) -> Vec<(usize, Vec<u8>, Value)> {
    let mut all = Vec::new();
    for db in 0..3 {
        client.call(&["SELECT", &db.to_string()]);
        let Value::Array(keys) = client.call(&["KEYS", "*"]) else { panic!("KEYS is no array") };
        for key in sorted(keys) {
            let value = client.call(&[b"GET", key.as_slice()]);
            all.push((db, key, value));
        }
    }
    all
}

/// Walks over the whole keyspace; what was found, and how often.
fn scan(client: &mut Client, options: &[&str]) -> Vec<Vec<u8>> {
    let mut cursor = b"0".to_vec();
    let mut found = Vec::new();
    for _ in 0..SCAN_CALLS_MAX {
        let mut command: Vec<&[u8]> = vec![b"SCAN", &cursor];
        command.extend(options.iter().map(|option| option.as_bytes()));
        let Value::Array(reply) = client.call(&command) else { panic!("SCAN is no array") };
        let [Value::Bulk(next), Value::Array(keys)] = <[Value; 2]>::try_from(reply).unwrap() else { panic!("no pair") };
        found.extend(sorted(keys));
        if next == b"0" {
            return found;
        }
        cursor = next;
    }
    panic!("SCAN {options:?} does not end");
}

fn set_of(keys: impl IntoIterator<Item = Vec<u8>>) -> BTreeSet<Vec<u8>> {
    keys.into_iter().collect()
}

#[test]
fn walks_find_every_key_of_every_core() {
    for cpus in ["0", "0-1"] {
        let server = Server::keyloom(&[&["--cpus", cpus], ARGS].concat());
        let mut client = server.client();
        let all = set_of((0..5 * KEYS).map(key));
        for key in &all {
            client.call(&[b"SET", key.as_slice(), b"value"]);
        }
        for count in ["1", "10", "1000", "1000000"] {
            let found = scan(&mut client, &["COUNT", count]);
            assert_eq!(found.len(), all.len(), "COUNT {count}: a key came twice though nothing changed");
            assert_eq!(set_of(found), all, "COUNT {count}");
        }
        let sevens = set_of(all.iter().filter(|key| key.ends_with(b"7")).cloned());
        assert_eq!(set_of(scan(&mut client, &["MATCH", "*7"])), sevens);
        assert_eq!(set_of(scan(&mut client, &["COUNT", "100", "TYPE", "string", "MATCH", "*7"])), sevens);
        assert!(scan(&mut client, &["TYPE", "list"]).is_empty());
        assert_eq!(client.call(&["DBSIZE"]), Value::Int(all.len() as i64));
        let Value::Array(keys) = client.call(&["KEYS", "*"]) else { panic!("KEYS is no array") };
        assert_eq!(set_of(sorted(keys)), all);
        let drawn = set_of((0..200).map(|_| match client.call(&["RANDOMKEY"]) {
            Value::Bulk(key) => key,
            other => panic!("RANDOMKEY: {other:?}"),
        }));
        assert!(drawn.len() > 20 && drawn.is_subset(&all), "{} different keys of {}", drawn.len(), all.len());
        client.call(&["SELECT", "1"]);
        assert!(scan(&mut client, &[]).is_empty());
    }
}

/// Keys that are there from the start of a walk to its end are found, whatever comes and goes meanwhile.
#[test]
fn walks_find_what_stays() {
    let server = Server::keyloom(&[&["--cpus", "0-1"], ARGS].concat());
    let (mut walker, mut writer) = (server.client(), server.client());
    let stay = set_of((0..KEYS).map(key));
    for key in &stay {
        writer.call(&[b"SET", key.as_slice(), b"stays"]);
    }
    let mut cursor = b"0".to_vec();
    let mut found = BTreeSet::new();
    for call in 0..SCAN_CALLS_MAX {
        let Value::Array(reply) = walker.call(&[b"SCAN", cursor.as_slice(), b"COUNT", b"5"]) else {
            panic!("no array")
        };
        let [Value::Bulk(next), Value::Array(keys)] = <[Value; 2]>::try_from(reply).unwrap() else { panic!("no pair") };
        found.extend(sorted(keys));
        if next == b"0" {
            assert!(found.is_superset(&stay), "{} keys are missing", stay.difference(&found).count());
            return;
        }
        cursor = next;
        // The tables grow for a while, then they shrink.
        for n in 0..20 {
            let name = format!("comes:{}", (call % 60) * 20 + n);
            let command: &[&str] = if call % 120 < 60 { &["SET", &name, "x"] } else { &["DEL", &name] };
            writer.send(command);
        }
        (0..20).for_each(|_| drop(writer.read()));
    }
    panic!("the walk does not end");
}

/// Requests that one connection pipelines to a core are executed before a later command of it that brings keys of
/// several cores together, and after an earlier one.
#[test]
fn pipelined_commands_over_several_cores_keep_their_order() {
    let server = Server::keyloom(&[&["--cpus", "0-1"], ARGS].concat());
    let mut client = server.client();
    let mut bytes = Vec::new();
    for n in 0..KEYS {
        let (from, to) = (format!("from:{n}"), format!("to:{n}"));
        for command in [
            vec!["SET", &from, "1"],
            vec!["INCR", &from],
            vec!["RENAME", &from, &to],
            vec!["INCR", &to],
            vec!["COPY", &to, &from],
            vec!["INCR", &from],
            vec!["MSETNX", &from, "x", &to, "y"],
            vec!["MGET", &from, &to],
        ] {
            keyloom::resp::read::encode_command(&command, &mut bytes);
        }
    }
    client.send_bytes(&bytes);
    let bulk = |text: &str| Value::Bulk(text.into());
    for n in 0..KEYS {
        let replies: Vec<Value> = (0..8).map(|_| client.read()).collect();
        let ok = Value::Simple(b"OK".to_vec());
        let int = Value::Int;
        let both = Value::Array(vec![bulk("4"), bulk("3")]);
        assert_eq!(replies, [ok.clone(), int(2), ok, int(3), int(1), int(4), int(0), both], "key {n}");
    }
}

/// MSET whose last key has no value changes nothing on any core.
#[test]
fn refused_pairs_change_nothing() {
    let server = Server::keyloom(&[&["--cpus", "0-1"], ARGS].concat());
    let mut client = server.client();
    for name in ["MSET", "MSETNX"] {
        let mut command = vec![name.to_string()];
        command.extend((0..40).flat_map(|n| [format!("k{n}"), "v".to_string()]));
        command.push("one without a value".into());
        let Value::Error(text) = client.call(&command) else { panic!("{name} is not refused") };
        assert!(text.starts_with(b"ERR wrong number of arguments"));
        assert_eq!(client.call(&["DBSIZE"]), Value::Int(0), "{name}");
    }
}
