//! Replies that wait for the disk: their order, their bounds, and what else a connection does meanwhile.

use std::time::Duration;

use keyloom::resp::read::{Value, encode_command};
use keyloom::route::{SLOTS, slot_of};

use super::common::{Client, Random, Server, bulk, info, ok, seed, wait_until};
use super::node::{Data, said};

/// The first key that starts with `name` and lives on `core`, of two.
fn key(name: &str, core: u16) -> String {
    let key = |n: u32| format!("{name}:{n}");
    (0..).map(key).find(|key| slot_of(key.as_bytes()) / (SLOTS / 2) == core).unwrap()
}

/// A connection that `core` serves.
fn client_on(server: &Server, core: i64) -> Client {
    // The core with the fewest clients takes the next one: those of the other core stay until then.
    let mut others = Vec::new();
    loop {
        let mut client = server.client();
        let Value::Int(id) = client.call(&["CLIENT", "ID"]) else { panic!("CLIENT ID is a number") };
        if (id - 1) % 2 == core {
            return client;
        }
        others.push(client);
    }
}

fn choose(client: &mut Client, durability: &str) {
    assert_eq!(client.call(&["CLIENT", "DURABILITY", durability]), ok());
}

/// A pipeline of everything, of keys of both cores: each reply is that of its request.
#[test]
fn replies_keep_their_order() {
    let data = Data::new("order");
    let server = data.start("0-1", &[]);
    let seed = seed();
    println!("KEYLOOM_SEED={seed}");
    let mut random = Random::new(seed);
    let keys = [key("k", 0), key("k", 1)];
    for core in 0..2 {
        let mut client = client_on(&server, core);
        choose(&mut client, "disk");
        client.call(&["FLUSHALL"]);
        let mut counts = [0i64; 2];
        for _ in 0..60 {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for n in 0..random.below(40) {
                let at = random.below(2);
                let mut send = |args: &[&str], reply: Value| {
                    encode_command(args, &mut bytes);
                    expected.push((args.join(" "), reply));
                };
                let number = |n: i64| if n == 0 { Value::Null } else { bulk(n.to_string()) };
                match random.below(9) {
                    0 | 1 => {
                        counts[at] += 1;
                        send(&["INCR", &keys[at]], Value::Int(counts[at]));
                    }
                    2 | 3 => send(&["GET", &keys[at]], number(counts[at])),
                    4 => send(&["ECHO", &n.to_string()], bulk(n.to_string())),
                    5 => {
                        counts = counts.map(|count| count + 7);
                        let texts = counts.map(|count| count.to_string());
                        send(&["MSET", &keys[0], &texts[0], &keys[1], &texts[1]], ok());
                    }
                    6 => send(&["MGET", &keys[0], &keys[1]], Value::Array(counts.map(number).into())),
                    7 => {
                        send(&["MULTI"], ok());
                        for at in 0..2 {
                            send(&["INCR", &keys[at]], Value::Simple(b"QUEUED".to_vec()));
                            counts[at] += 1;
                        }
                        send(&["EXEC"], Value::Array(counts.map(Value::Int).into()));
                    }
                    _ => {
                        let durability = random.pick(&["memory", "disk"]);
                        send(&["CLIENT", "DURABILITY", durability], ok());
                    }
                }
            }
            client.send_bytes(&bytes);
            for (request, reply) in expected {
                assert_eq!(client.read(), reply, "{request}");
            }
        }
    }
}

/// The log's first file is a pipe that nobody reads: nothing becomes durable.
fn stalled(data: &Data) -> std::path::PathBuf {
    let pipe = data.log().join(format!("log-{:020}.kl.tmp", 1));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    pipe
}

#[track_caller]
fn is_silent(client: &mut Client) {
    client.set_timeout(Duration::from_millis(30));
    if let Some(reply) = client.try_read_raw() {
        panic!("a reply that was to wait: {}", super::common::show(&reply));
    }
    client.set_timeout(Duration::from_secs(20));
}

/// Whatever way a write takes, nobody hears of it before it is on disk: local and forwarded requests, MSET, EXEC here,
/// there and over both cores, blocking commands, and replies behind a change of mind.
#[test]
fn nothing_is_acknowledged_before_it_is_on_disk() {
    let data = Data::new("silent");
    let server = data.start("0-1", &[]);
    let pipe = stalled(&data);
    let (a, b) = (key("a", 0), key("b", 1));
    let (la, lb) = (key("la", 0), key("lb", 1));
    let mut other = server.client();
    other.call(&["MSET", &a, "1", &b, "1"]);
    other.call(&["RPUSH", &la, "1", "2", "3", "4"]);
    other.call(&["RPUSH", &lb, "1", "2", "3", "4"]);
    let cases: Vec<Vec<Vec<&str>>> = vec![
        vec![vec!["SET", &a, "1"]],
        vec![vec!["SET", &b, "1"]],
        vec![vec!["GET", &b], vec!["INCR", &a], vec!["GET", &a]],
        vec![vec!["GET", &a], vec!["INCR", &b], vec!["PING"]],
        vec![vec!["INCR", &a], vec!["MSET", &a, "1", &b, "1"]],
        vec![vec!["MSET", &a, "1", &b, "1"]],
        vec![vec!["MULTI"], vec!["INCR", &a], vec!["EXEC"]],
        vec![vec!["MULTI"], vec!["INCR", &b], vec!["EXEC"]],
        vec![vec!["MULTI"], vec!["INCR", &a], vec!["INCR", &b], vec!["EXEC"]],
        vec![vec!["MULTI"], vec!["INCR", &a], vec!["INFO", "server"], vec!["INCR", &a], vec!["EXEC"]],
        vec![vec!["BLPOP", &la, "0"]],
        vec![vec!["BLPOP", &lb, &la, "0"]],
        vec![vec!["RENAME", &a, &b], vec!["SET", &a, "1"]],
        vec![vec!["INCR", &a], vec!["CLIENT", "DURABILITY", "memory"], vec!["INCR", &a]],
        vec![vec!["INCR", &b], vec!["CLIENT", "DURABILITY", "memory"], vec!["INCR", &b]],
        vec![
            vec!["FLUSHDB"],
            vec!["MSET", &a, "1", &b, "1"],
            vec!["RPUSH", &la, "1", "2", "3"],
            vec!["RPUSH", &lb, "1"],
        ],
    ];
    let mut waiting = Vec::new();
    for core in 0..2 {
        for case in &cases {
            let mut client = client_on(&server, core);
            choose(&mut client, "disk");
            let mut bytes = Vec::new();
            case.iter().for_each(|command| encode_command(command, &mut bytes));
            client.send_bytes(&bytes);
            // What tells of no write leaves at once: what is read first, and MULTI and QUEUED.
            let free = match case[0][0] {
                "MULTI" => case.len() - 1,
                "GET" => 1,
                _ => 0,
            };
            // They may also wait together with the write.
            waiting.push((client, case, free, case.len()));
        }
    }
    for (client, case, free, replies) in &mut waiting {
        client.set_timeout(Duration::from_millis(20));
        let seen = std::iter::from_fn(|| client.try_read_raw()).take(*replies).count();
        assert!(seen <= *free, "{case:?}: {seen} replies, of which {free} tell of no write");
        *replies -= seen;
        client.set_timeout(Duration::from_secs(20));
    }
    drop(std::fs::File::open(pipe).unwrap());
    for (client, case, _, replies) in &mut waiting {
        for _ in 0..*replies {
            let reply = client.read();
            assert!(!matches!(reply, Value::Error(_)), "{case:?}: {reply:?}");
        }
    }
}

/// A write that waits does not hold up others that do not.
#[test]
fn clients_without_durability_do_not_wait() {
    let data = Data::new("others");
    let server = data.start("0-1", &[]);
    let pipe = stalled(&data);
    let mut durable = client_on(&server, 0);
    choose(&mut durable, "disk");
    durable.send(&["SET", &key("a", 0), "1"]);
    for core in 0..2 {
        let mut client = client_on(&server, core);
        for key in [key("a", 0), key("b", 1)] {
            assert_eq!(client.call(&["SET", &key, "2"]), ok());
        }
    }
    is_silent(&mut durable);
    // It reads what it likes only after that, but can leave at any time.
    durable.send(&["GET", &key("b", 1)]);
    is_silent(&mut durable);
    drop(durable);
    let mut durable = client_on(&server, 1);
    choose(&mut durable, "disk");
    assert_eq!(durable.call(&["GET", &key("a", 0)]), bulk("2"), "who has not written does not wait");
    drop(std::fs::File::open(pipe).unwrap());
    wait_until("the log is written", || durable.call(&["SET", "x", "1"]) == ok());
}

/// A client that never reads is not read any more, although its replies only wait.
#[test]
fn a_client_that_never_reads_is_bounded() {
    let data = Data::new("greedy");
    let server = data.start("0-1", &[]);
    let pipe = stalled(&data);
    let mut client = client_on(&server, 0);
    let big = key("big", 0);
    assert_eq!(client.call(&["SET", &big, &"v".repeat(10_000)]), ok());
    choose(&mut client, "disk");
    let mut bytes = Vec::new();
    for _ in 0..50 {
        encode_command(&["APPEND", &big, "x"], &mut bytes);
        encode_command(&["GETRANGE", &big, "0", "9999"], &mut bytes);
    }
    client.stream().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let requests = (0..20_000).take_while(|_| std::io::Write::write_all(client.stream(), &bytes).is_ok()).count();
    assert!(requests < 20_000, "everything was read");
    let mut other = server.client();
    let output = info(&mut other, "used_memory");
    assert!(output < 200 << 20, "{output} bytes are in use");
    drop(client);
    drop(std::fs::File::open(pipe).unwrap());
    wait_until("the log is written", || other.call(&["SET", "x", "1"]) == ok());
}

/// A key that a transaction has changed and that is over before it ends, expires behind it, in the log as well.
#[test]
fn a_key_of_a_suspended_transaction_expires_behind_it() {
    let data = Data::new("suspended");
    let mut server = data.start("0-1", &["--enable-debug-command", "yes"]);
    let k = key("k", 0);
    let mut client = client_on(&server, 0);
    let mut sleeper = client_on(&server, 1);
    sleeper.send(&["DEBUG", "SLEEP", "0.4"]);
    // INFO asks the other core, which sleeps.
    let mut bytes = Vec::new();
    encode_command(&["MULTI"], &mut bytes);
    encode_command(&["SET", &k, "v", "PX", "30"], &mut bytes);
    encode_command(&["INFO"], &mut bytes);
    encode_command(&["EXEC"], &mut bytes);
    client.send_bytes(&bytes);
    (0..4).for_each(|_| drop(client.read()));
    assert_eq!(sleeper.read(), ok());
    wait_until("the key is over", || client.call(&["DBSIZE"]) == Value::Int(0));
    choose(&mut client, "disk");
    assert_eq!(client.call(&["SET", &k, "last", "PX", "1"]), ok());
    server.kill();
    let output = data.tool("dump");
    let text = said(&output);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(&k)).collect();
    let last = lines.iter().position(|line| line.contains("last")).unwrap_or_else(|| panic!("{text}"));
    assert!(last >= 2 && lines[0].contains("\"SET\""), "{text}");
    assert!(lines[1..last].iter().all(|line| line.contains("\"DEL\"")), "{text}");
}
