//! Commands and transactions over several cores are atomic, seen from outside: many clients of a node of two cores, of
//! which some change keys of both cores together, while others look at them.
//!
//! Each test has an invariant that every reader must see: a sum, equal values, a key under exactly one of two names.
//! Afterwards nothing may be left lent: every key can be written, and the whole keyspace can be flushed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::{Client, Random, Server, info, ok, seed, wait_until};
use keyloom::resp::read::{Value, encode_command};
use keyloom::route::{SLOTS, slot_of};

/// The first key that starts with `name` and lives on `core`, of two.
fn key(name: &str, core: u16) -> String {
    let key = |n: u32| format!("{name}:{n}");
    (0..).map(key).find(|key| slot_of(key.as_bytes()) / (SLOTS / 2) == core).unwrap()
}

/// As many keys of each core.
fn keys(name: &str, of_each: usize) -> Vec<String> {
    (0..2 * of_each).map(|n| key(&format!("{name}{n}"), n as u16 % 2)).collect()
}

fn node() -> Server {
    Server::keyloom(&["--cpus", "0-1"])
}

fn ints(value: &Value) -> Vec<i64> {
    let Value::Array(items) = value else { panic!("no array: {value:?}") };
    let int = |item: &Value| match item {
        Value::Bulk(text) => std::str::from_utf8(text).unwrap().parse().unwrap(),
        Value::Int(n) => *n,
        other => panic!("no number: {other:?}"),
    };
    items.iter().map(int).collect()
}

fn mget(client: &mut Client, keys: &[String]) -> Value {
    client.call(&[&["MGET".to_string()], keys].concat())
}

/// Sends the commands of one transaction in one piece; the reply to EXEC.
#[track_caller]
fn transaction(client: &mut Client, commands: &[Vec<String>]) -> Value {
    let mut bytes = Vec::new();
    encode_command(&["MULTI"], &mut bytes);
    commands.iter().for_each(|command| encode_command(command, &mut bytes));
    encode_command(&["EXEC"], &mut bytes);
    client.send_bytes(&bytes);
    assert_eq!(client.read(), ok());
    commands.iter().for_each(|_| assert_eq!(client.read(), Value::Simple(b"QUEUED".to_vec())));
    client.read()
}

fn words(line: String) -> Vec<String> {
    line.split(' ').map(str::to_string).collect()
}

/// What one client does.
type Work<'a> = &'a (dyn Fn(&mut Client, &mut Random) + Sync);

/// Runs writers to their end, and readers until then, each with a client and random numbers of its own.
fn race(server: &Server, writers: &[Work], readers: &[Work]) {
    let done = AtomicBool::new(false);
    let seed = seed();
    println!("KEYLOOM_SEED={seed}");
    thread::scope(|scope| {
        let writing: Vec<_> = (writers.iter().enumerate())
            .map(|(n, writer)| scope.spawn(move || writer(&mut server.client(), &mut Random::new(seed + n as u64))))
            .collect();
        for (n, reader) in readers.iter().enumerate() {
            let done = &done;
            scope.spawn(move || {
                let (mut client, mut random) = (server.client(), Random::new(seed + 1000 + n as u64));
                let mut rounds = 0;
                while rounds == 0 || !done.load(Ordering::Relaxed) {
                    reader(&mut client, &mut random);
                    rounds += 1;
                }
            });
        }
        let results: Vec<_> = writing.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
}

/// Nothing is lent: every key can be read and written by each core's clients, and so can all at once.
fn nothing_is_left_lent(server: &Server, keys: &[String]) {
    for _ in 0..4 {
        // Clients are dealt to the cores in turn.
        let mut client = server.client();
        for key in keys {
            assert_eq!(client.call(&["SET", key, "1"]), ok());
        }
        assert_eq!(ints(&mget(&mut client, keys)), vec![1; keys.len()]);
        assert_eq!(client.call(&["FLUSHALL"]), ok());
        assert_eq!(client.call(&["DBSIZE"]), Value::Int(0));
    }
}

const ROUNDS: usize = 400;

/// Money moves between accounts of both cores: by EXEC, by WATCH and EXEC, by MSET. Whoever looks sees all of it.
#[test]
fn sums_are_never_broken() {
    const START: i64 = 1000;
    let server = node();
    let accounts = keys("account", 3);
    let mut client = server.client();
    for account in &accounts {
        client.call(&["SET", account, &START.to_string()]);
    }
    let two = |random: &mut Random| {
        let from = random.below(accounts.len());
        (&accounts[from], &accounts[(from + 1 + random.below(accounts.len() - 1)) % accounts.len()])
    };
    let by_exec = |client: &mut Client, random: &mut Random| {
        for _ in 0..ROUNDS {
            let ((from, to), amount) = (two(random), random.below(50));
            let mut commands = vec![words(format!("DECRBY {from} {amount}")), words(format!("INCRBY {to} {amount}"))];
            // These ask other cores, in the middle of it.
            if random.one_in(4) {
                let line = *random.pick(&[&"CLIENT LIST", &"INFO clients", &"CONFIG SET timeout 0", &"DBSIZE"]);
                commands.insert(1, words(line.into()));
            }
            let Value::Array(replies) = transaction(client, &commands) else { panic!("EXEC did not run") };
            assert!(replies.len() == commands.len() && !replies.iter().any(|reply| matches!(reply, Value::Error(_))));
        }
    };
    let by_watch = |client: &mut Client, random: &mut Random| {
        let mut moved = 0;
        while moved < ROUNDS / 4 {
            let (from, to) = two(random);
            assert_eq!(client.call(&["WATCH", from, to]), ok());
            let balances = ints(&client.call(&["MGET", from, to]));
            let commands =
                [words(format!("MSET {from} {} {to} {}", balances[0] - 7, balances[1] + 7)), words("PING".into())];
            match transaction(client, &commands) {
                Value::Array(replies) => {
                    assert_eq!(replies, [ok(), Value::Simple(b"PONG".to_vec())]);
                    moved += 1;
                }
                other => assert_eq!(other, Value::NullArray),
            }
        }
    };
    let look = |client: &mut Client, random: &mut Random| {
        let balances = if random.one_in(2) {
            ints(&mget(client, &accounts))
        } else {
            let commands: Vec<_> = accounts.iter().map(|account| words(format!("GET {account}"))).collect();
            ints(&transaction(client, &commands))
        };
        assert_eq!(balances.iter().sum::<i64>(), START * accounts.len() as i64, "{balances:?}");
    };
    race(&server, &[&by_exec, &by_exec, &by_exec, &by_watch, &by_watch], &[&look, &look, &look]);
    let balances = ints(&mget(&mut client, &accounts));
    assert_eq!(balances.iter().sum::<i64>(), START * accounts.len() as i64);
    nothing_is_left_lent(&server, &accounts);
}

/// MSET writes all of its keys at once, FLUSHALL removes all keys at once, and RENAME leaves a key under one name.
#[test]
fn nobody_sees_half_of_a_command() {
    let server = node();
    let group = keys("group", 4);
    let names = [key("here", 0), key("there", 1)];
    let set_all = |client: &mut Client, random: &mut Random| {
        for _ in 0..ROUNDS {
            let value = random.below(1000).to_string();
            let mut command = vec!["MSET".to_string()];
            command.extend(group.iter().flat_map(|key| [key.clone(), value.clone()]));
            assert_eq!(client.call(&command), ok());
        }
    };
    let flush = |client: &mut Client, random: &mut Random| {
        for _ in 0..ROUNDS / 4 {
            let command = *random.pick(&[&["FLUSHALL"][..], &["FLUSHDB"], &["SWAPDB", "0", "1"]].map(|c| c).each_ref());
            assert_eq!(client.call(command), ok());
        }
    };
    let look = |client: &mut Client, random: &mut Random| {
        let commands = match random.below(3) {
            0 => vec![words(format!("MGET {}", group.join(" ")))],
            // The sizes of databases, and what is in them, at one moment.
            1 => vec![words("DBSIZE".into()), words(format!("EXISTS {}", group.join(" "))), words("DBSIZE".into())],
            _ => vec![words(format!("EXISTS {}", group.join(" "))), words("KEYS *".into())],
        };
        let Value::Array(replies) = transaction(client, &commands) else { panic!("EXEC did not run") };
        match &replies[..] {
            [Value::Array(values)] => assert!(values.iter().all(|value| *value == values[0]), "{values:?}"),
            [Value::Int(before), Value::Int(there), Value::Int(after)] => {
                assert_eq!((before, there), (after, after));
                assert!([0, group.len() as i64].contains(after), "{after} keys");
            }
            [Value::Int(there), Value::Array(keys)] => assert_eq!(*there as usize, keys.len()),
            other => panic!("{other:?}"),
        }
    };
    race(&server, &[&set_all, &set_all, &flush], &[&look, &look]);

    let mut client = server.client();
    client.call(&["SET", &names[0], "x"]);
    let rename = |client: &mut Client, random: &mut Random| {
        for _ in 0..ROUNDS {
            let from = random.below(2);
            // It may be under the other name.
            client.call(&["RENAME", &names[from], &names[1 - from]]);
        }
    };
    let count = |client: &mut Client, _: &mut Random| {
        assert_eq!(client.call(&["EXISTS", &names[0], &names[1]]), Value::Int(1));
    };
    race(&server, &[&rename, &rename, &rename], &[&count, &count, &count]);
    nothing_is_left_lent(&server, &[&group[..], &names].concat());
}

/// SORT sees the keys that its patterns name at one moment, whatever cores they live on, alone and within a transaction;
/// and what it stores.
#[test]
fn sorting_sees_all_keys_at_one_moment() {
    let server = node();
    let weights: Vec<String> = (0..8).map(|n| format!("weight:{n}")).collect();
    let (ids, stored) = (key("ids", 0), key("stored", 1));
    let mut client = server.client();
    let set_all = |client: &mut Client, random: &mut Random| {
        for _ in 0..ROUNDS {
            let value = random.below(1000).to_string();
            let mut command = vec!["MSET".to_string()];
            command.extend(weights.iter().flat_map(|key| [key.clone(), value.clone()]));
            assert_eq!(client.call(&command), ok());
        }
    };
    let store = |client: &mut Client, random: &mut Random| {
        for _ in 0..ROUNDS / 2 {
            let line = format!("SORT {ids} BY weight:* GET weight:* LIMIT 0 {} STORE {stored}", 1 + random.below(8));
            assert!(matches!(client.call(&words(line)), Value::Int(1..=8)));
        }
    };
    let look = |client: &mut Client, random: &mut Random| {
        let commands = [
            words(format!("SORT_RO {ids} GET weight:* GET weight:*")),
            words(format!("LRANGE {stored} 0 -1")),
            words(format!("SORT {ids} BY weight:* DESC GET weight:*")),
        ];
        let replies = match random.below(4) {
            nth @ 0..3 => vec![client.call(&commands[nth])],
            _ => {
                let Value::Array(mut replies) = transaction(client, &commands) else { panic!("EXEC did not run") };
                // Another moment was stored.
                replies.remove(1);
                assert_eq!(ints(&replies[0])[0], ints(&replies[1])[0]);
                replies
            }
        };
        for reply in replies {
            let values = ints(&reply);
            assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
        }
    };
    let push: Vec<String> = words(format!("RPUSH {ids} 0 1 2 3 4 5 6 7"));
    assert_eq!(client.call(&push), Value::Int(8));
    client
        .call(&weights.iter().fold(vec!["MSET".to_string()], |all, key| [all, vec![key.clone(), "1".into()]].concat()));
    race(&server, &[&set_all, &set_all, &store, &store], &[&look, &look]);
    nothing_is_left_lent(&server, &[&weights[..], &[ids.clone(), stored.clone()]].concat());
}

/// With WATCH, no update is lost: as many transactions have run as the counters say, on one core and over both.
#[test]
fn watched_counters_lose_no_update() {
    const WRITERS: usize = 4;
    let server = node();
    let counters = [key("one", 0), key("two", 1)];
    let mut client = server.client();
    client.call(&["MSET", &counters[0], "0", &counters[1], "0"]);
    let count = |client: &mut Client, random: &mut Random| {
        let mut done = 0;
        while done < ROUNDS / 4 {
            // What is watched and what is written may live on different cores.
            let mut watched = vec!["WATCH".to_string()];
            watched.extend(counters.iter().cloned());
            assert_eq!(client.call(&watched), ok());
            let values = ints(&mget(client, &counters));
            let commands = match random.below(3) {
                0 => vec![words(format!("SET {} {}", counters[0], values[0] + 1))],
                1 => vec![words(format!("SET {} {}", counters[1], values[1] + 1))],
                _ => vec![
                    words(format!("SET {} {}", counters[0], values[0] - 1)),
                    words(format!("SET {} {}", counters[1], values[1] + 2)),
                ],
            };
            // Sometimes it is a change by the client itself.
            let spoilt = random.one_in(8);
            if spoilt {
                client.call(&["SET", &counters[0], &values[0].to_string()]);
            }
            match transaction(client, &commands) {
                Value::Array(replies) => {
                    assert!(!spoilt && replies.iter().all(|reply| *reply == ok()));
                    done += 1;
                }
                other => assert_eq!(other, Value::NullArray),
            }
        }
    };
    // `spoilt` writes an old value, which may undo what others have done: only without it every update counts.
    let careful = |client: &mut Client, random: &mut Random| {
        let mut done = 0;
        while done < ROUNDS / 4 {
            let at = random.below(2);
            assert_eq!(client.call(&["WATCH", &counters[at]]), ok());
            let Value::Bulk(value) = client.call(&["GET", &counters[at]]) else { panic!("no value") };
            let next = std::str::from_utf8(&value).unwrap().parse::<i64>().unwrap() + 1;
            let commands = [words(format!("SET {} {next}", counters[at]))];
            done += matches!(transaction(client, &commands), Value::Array(_)) as usize;
        }
    };
    let writers: Vec<Work> = vec![&careful; WRITERS];
    race(&server, &writers, &[]);
    let values = ints(&mget(&mut client, &counters));
    assert_eq!(values.iter().sum::<i64>() as usize, WRITERS * (ROUNDS / 4));
    race(&server, &[&count, &count, &count], &[]);
    nothing_is_left_lent(&server, &counters);
}

/// Clients that vanish in the middle of what they do leave nothing behind.
#[test]
fn vanished_clients_leave_nothing_lent() {
    let server = node();
    let all = keys("any", 4);
    let vanish = |_: &mut Client, random: &mut Random| {
        for _ in 0..ROUNDS / 4 {
            let mut client = server.client();
            let mut bytes = Vec::new();
            let commands = 1 + random.below(12);
            for _ in 0..commands {
                let some: Vec<&String> = (0..2 + random.below(4)).map(|_| &all[random.below(all.len())]).collect();
                let names = some.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(" ");
                let line = match random.below(11) {
                    0 => format!("MGET {names}"),
                    1 => format!("MSET {} v {} w", some[0], some[1]),
                    2 => format!("RENAME {} {}", some[0], some[1]),
                    3 => "MULTI".into(),
                    4 => "EXEC".into(),
                    5 => format!("WATCH {names}"),
                    6 => format!("INCR {}", some[0]),
                    7 if random.one_in(4) => "FLUSHALL".into(),
                    8 => format!("RPUSH {}:ids 1 2 3", some[0]),
                    9 => format!("SORT {}:ids BY any* GET {}:* GET * STORE {}", some[0], some[1], some[1]),
                    _ => format!("GET {}", some[0]),
                };
                encode_command(&words(line), &mut bytes);
            }
            client.send_bytes(&bytes[..bytes.len() - random.below(3)]);
            // Some wait for the first reply, so that the rest is under way when they go.
            if commands > 1 && random.one_in(2) {
                client.try_read_raw();
            }
        }
    };
    let look = |client: &mut Client, _: &mut Random| {
        let Value::Array(values) = mget(client, &all) else { panic!("no array") };
        assert_eq!(values.len(), all.len());
    };
    race(&server, &[&vanish, &vanish, &vanish, &vanish], &[&look]);
    // What they have sent last may still run.
    let mut client = server.client();
    wait_until("they are gone", || info(&mut client, "connected_clients") == 1);
    drop(client);
    nothing_is_left_lent(&server, &all);
}

/// What one connection sends runs in its order for each key, whatever others borrow meanwhile.
#[test]
fn pipelines_keep_their_order_while_keys_are_lent() {
    let server = node();
    let shared = keys("shared", 2);
    let disturb = |client: &mut Client, random: &mut Random| {
        for _ in 0..2 * ROUNDS {
            let (a, b) = (&shared[random.below(4)], &shared[random.below(4)]);
            client.call(&["MGET", a, b]);
            client.call(&["TOUCH", b, &shared[0], &shared[1]]);
        }
    };
    let pipeline = |client: &mut Client, random: &mut Random| {
        for _ in 0..ROUNDS / 20 {
            // Each number is written by one client only.
            let own: Vec<String> = (0..4).map(|n| format!("{}:{}", shared[n], random.next())).collect();
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            let mut counts = [0i64; 4];
            for _ in 0..60 {
                let (at, other) = (random.below(4), random.below(4));
                match random.below(5) {
                    0 => {
                        encode_command(&["EXISTS", &shared[at], &own[at], &own[other]], &mut bytes);
                        let there = [at, other].iter().filter(|&&n| counts[n] > 0).count() as i64;
                        expected.push(Value::Int(there));
                    }
                    1 => {
                        // Waits whenever somebody has borrowed it.
                        encode_command(&["STRLEN", &shared[at]], &mut bytes);
                        expected.push(Value::Int(0));
                    }
                    _ => {
                        encode_command(&["INCR", &own[at]], &mut bytes);
                        counts[at] += 1;
                        expected.push(Value::Int(counts[at]));
                    }
                }
            }
            client.send_bytes(&bytes);
            for expected in expected {
                assert_eq!(client.read(), expected);
            }
        }
    };
    race(&server, &[&pipeline, &pipeline, &disturb, &disturb, &disturb], &[]);
    nothing_is_left_lent(&server, &shared);
}

/// Memory is short and the policy changes again and again: entries are evicted and expire while others are lent.
#[test]
fn borrowing_goes_together_with_eviction_and_expiry() {
    let server = Server::keyloom(&["--cpus", "0-1", "--maxmemory", "24mb", "--maxmemory-policy", "allkeys-lru"]);
    let name = |random: &mut Random| format!("key{}", random.below(3000));
    let check = |reply: Value| {
        if let Value::Error(text) = reply {
            let known = [&b"OOM "[..], b"EXECABORT ", b"ERR no such key", b"ERR source and destination"];
            assert!(known.iter().any(|start| text.starts_with(start)), "{}", text.escape_ascii());
        }
    };
    let work = |client: &mut Client, random: &mut Random| {
        for _ in 0..2 * ROUNDS {
            let (a, b, c) = (name(random), name(random), name(random));
            let len_max = if random.one_in(4) { 50_000 } else { 400 };
            let value = "v".repeat(random.below(len_max));
            match random.below(7) {
                0 => check(client.call(&["MSET", &a, &value, &b, &value, &c, &value])),
                1 => check(client.call(&["RENAME", &a, &b])),
                2 => check(client.call(&["COPY", &a, &b, "REPLACE"])),
                3 => check(client.call(&["PEXPIRE", &a, &(1 + random.below(5)).to_string()])),
                4 => check(client.call(&["MGET", &a, &b, &c])),
                5 => {
                    for command in [&["MULTI"][..], &["APPEND", &a, &value], &["SET", &b, "y", "PX", "3"], &["EXEC"]] {
                        check(client.call(command));
                    }
                }
                _ => check(client.call(&["SET", &a, &value])),
            }
        }
    };
    let change_policy = |client: &mut Client, random: &mut Random| {
        for _ in 0..ROUNDS / 8 {
            let policy = random.pick(&["allkeys-lru", "allkeys-lfu", "allkeys-s3fifo", "volatile-ttl", "noeviction"]);
            assert_eq!(client.call(&["CONFIG", "SET", "maxmemory-policy", policy]), ok());
        }
    };
    let mut client = server.client();
    let mut filled = 0;
    while info(&mut client, "evicted_keys") == 0 {
        (0..20).for_each(|n| check(client.call(&["SET", &format!("key{}", filled + n), &"v".repeat(50_000)])));
        filled += 20;
        assert!(filled < 3000, "nothing is evicted");
    }
    race(&server, &[&work, &work, &work, &change_policy], &[]);
    assert!(info(&mut client, "expired_keys") > 0);
    client.call(&["CONFIG", "SET", "maxmemory", "0"]);
    nothing_is_left_lent(&server, &keys("any", 4));
}

/// A transaction that is borrowing when the node stops does not hold it up.
#[test]
fn a_node_stops_while_keys_are_lent() {
    let mut server = node();
    let all = keys("any", 2);
    let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect();
    for client in &mut clients {
        let mut bytes = Vec::new();
        for _ in 0..200 {
            encode_command(&["MGET", &all[0], &all[1], &all[2]], &mut bytes);
            encode_command(&["SET", &all[3], "x"], &mut bytes);
        }
        client.send_bytes(&bytes);
    }
    clients[0].read();
    server.client().send(&["SHUTDOWN"]);
    assert_eq!(server.wait_for_exit(std::time::Duration::from_secs(20)), Some(0));
}
