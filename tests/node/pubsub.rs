//! Publish/subscribe over two cores: messages reach the subscribers of all cores once and in order, slow subscribers are
//! disconnected and nobody else suffers, and nobody pays who has nobody to talk to.
//!
//! What single connections see, reply by reply, is compared with redis-server in `differential`.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;

use crate::common::{Client, Random, Server, bulk, info, ok, wait_until};
use keyloom::resp::read::{Value, encode_command};

const CORES: u64 = 2;

fn two_cores(args: &[&str]) -> Server {
    Server::keyloom(&[&["--cpus", "0-1"], args].concat())
}

/// The core that serves a connection: ids are dealt to cores in turn.
fn core_of(client: &mut Client) -> u64 {
    let Value::Int(id) = client.call(&["CLIENT", "ID"]) else { panic!("CLIENT ID is a number") };
    (id as u64 - 1) % CORES
}

/// A new connection to the core wanted; those to another stay open in `others`, so that the next one goes elsewhere.
fn client_on(server: &Server, core: u64, version: u8, others: &mut Vec<Client>) -> Client {
    for _ in 0..100 {
        let mut client = server.client_of(version);
        if core_of(&mut client) == core {
            return client;
        }
        others.push(client);
    }
    panic!("no connection reaches core {core}");
}

/// The words of a message or a confirmation, numbers as text.
#[track_caller]
fn message(value: Value) -> Vec<String> {
    let (Value::Array(parts) | Value::Push(parts)) = value else { panic!("no message: {value:?}") };
    let text = |part: Value| match part {
        Value::Bulk(bytes) => String::from_utf8(bytes).unwrap(),
        Value::Int(n) => n.to_string(),
        other => panic!("{other:?} in a message"),
    };
    parts.into_iter().map(text).collect()
}

#[track_caller]
fn subscribe(client: &mut Client, command: &str, names: &[&str]) {
    client.send(&[&[command], names].concat());
    for name in names {
        assert_eq!(message(client.read())[..2], [command.to_lowercase(), name.to_string()]);
    }
}

/// Nothing has come that was not read.
#[track_caller]
fn nothing_more(client: &mut Client) {
    client.send(&["PING", "nothing more"]);
    let value = client.read();
    assert!(value == bulk("nothing more") || message(value.clone()) == ["pong", "nothing more"], "{value:?}");
}

#[test]
fn a_message_reaches_the_subscribers_of_all_cores_once() {
    let server = two_cores(&[]);
    let mut others = Vec::new();
    let mut subscribers = Vec::new();
    for core in 0..CORES {
        for version in [2, 3] {
            let mut by_name = client_on(&server, core, version, &mut others);
            subscribe(&mut by_name, "SUBSCRIBE", &["news", "other"]);
            let mut by_pattern = client_on(&server, core, version, &mut others);
            subscribe(&mut by_pattern, "PSUBSCRIBE", &["n*"]);
            let mut by_shard = client_on(&server, core, version, &mut others);
            subscribe(&mut by_shard, "SSUBSCRIBE", &["news"]);
            subscribers.push((by_name, vec!["message", "news"]));
            subscribers.push((by_pattern, vec!["pmessage", "n*", "news"]));
            subscribers.push((by_shard, vec!["smessage", "news"]));
        }
    }
    let large = "l".repeat(100_000);
    for core in 0..CORES {
        let mut publisher = client_on(&server, core, 2, &mut others);
        for payload in ["", "hello", &large] {
            assert_eq!(publisher.call(&["PUBLISH", "news", payload]), Value::Int(8));
            assert_eq!(publisher.call(&["SPUBLISH", "news", payload]), Value::Int(4));
            assert_eq!(publisher.call(&["PUBLISH", "some", payload]), Value::Int(0));
            for (client, expected) in &mut subscribers {
                assert_eq!(message(client.read()), [&expected[..], &[payload]].concat());
                nothing_more(client);
            }
        }
    }
}

#[test]
fn the_messages_of_each_publisher_arrive_in_its_order_on_every_core() {
    const MESSAGES: usize = 3000;
    let server = two_cores(&[]);
    let mut others = Vec::new();
    let mut subscribers = Vec::new();
    for at in 0..6 {
        let mut client = client_on(&server, at % CORES, 2 + (at % 3 == 0) as u8, &mut others);
        subscribe(&mut client, "SUBSCRIBE", &["a", "b", "c"]);
        if at < 2 {
            subscribe(&mut client, "PSUBSCRIBE", &["?"]);
        }
        subscribers.push(client);
    }
    let publishers: Vec<Client> = (0..2).map(|core| client_on(&server, core, 2, &mut others)).collect();
    // Long payloads are shared instead of copied, and take another way through the parser.
    let long = "x".repeat(40_000);
    thread::scope(|scope| {
        for (who, mut publisher) in publishers.into_iter().enumerate() {
            let long = &long;
            scope.spawn(move || {
                let mut random = Random::new(who as u64);
                let mut sent = 0;
                while sent < MESSAGES {
                    let batch = (1 + random.below(100)).min(MESSAGES - sent);
                    let mut bytes = Vec::new();
                    for n in sent..sent + batch {
                        let channel = random.pick(&["a", "b", "c"]);
                        let tail = if n % 500 == 0 { long.as_str() } else { "" };
                        encode_command(&["PUBLISH", channel, &format!("{who}:{n}:{tail}")], &mut bytes);
                    }
                    publisher.send_bytes(&bytes);
                    (0..batch).for_each(|_| assert_eq!(publisher.read(), Value::Int(8)));
                    sent += batch;
                }
            });
        }
        for (at, mut client) in subscribers.into_iter().enumerate() {
            scope.spawn(move || {
                let kinds: &[&str] = if at < 2 { &["message", "pmessage"] } else { &["message"] };
                // By publisher and kind of message: the number that comes next.
                let mut next: BTreeMap<(String, String), usize> = BTreeMap::new();
                for _ in 0..2 * MESSAGES * kinds.len() {
                    let words = message(client.read());
                    let payload = words.last().unwrap();
                    let (who, rest) = payload.split_once(':').unwrap();
                    let n: usize = rest.split_once(':').unwrap().0.parse().unwrap();
                    let next = next.entry((who.to_string(), words[0].clone())).or_default();
                    assert_eq!(n, *next, "subscriber {at} misses a message of {who}");
                    *next += 1;
                }
                assert!(next.len() == 2 * kinds.len() && next.values().all(|n| *n == MESSAGES), "{next:?}");
                nothing_more(&mut client);
            });
        }
    });
}

#[test]
fn no_other_core_is_bothered_unless_it_has_subscribers() {
    let server = two_cores(&[]);
    let mut others = Vec::new();
    let mut publisher = client_on(&server, 0, 2, &mut others);
    let mut near = client_on(&server, 0, 2, &mut others);
    let mut far = client_on(&server, 1, 2, &mut others);
    subscribe(&mut near, "SUBSCRIBE", &["near"]);
    subscribe(&mut near, "PSUBSCRIBE", &["near*"]);
    let mut hops = |command: &str, channel: &str, receivers: i64| {
        let before = info(&mut publisher, "core_hops");
        for _ in 0..10 {
            assert_eq!(publisher.call(&[command, channel, "x"]), Value::Int(receivers));
        }
        info(&mut publisher, "core_hops") - before
    };
    assert_eq!(hops("PUBLISH", "near", 2), 0);
    assert_eq!(hops("PUBLISH", "far", 0), 0);
    subscribe(&mut far, "SUBSCRIBE", &["far"]);
    assert_eq!(hops("PUBLISH", "near", 2), 0);
    assert_eq!(hops("SPUBLISH", "far", 0), 0);
    assert_eq!(hops("PUBLISH", "far", 1), 10);
    far.call(&["UNSUBSCRIBE"]);
    while message(far.read())[0] == "message" {}
    // That is told without waiting for an answer.
    let mut silent = || hops("PUBLISH", "far", 0) == 0;
    wait_until("core 1 is not asked any more", &mut silent);
    // A pattern hears of every channel.
    subscribe(&mut far, "PSUBSCRIBE", &["zzz"]);
    assert_eq!(hops("PUBLISH", "near", 2), 10);
    assert_eq!(hops("SPUBLISH", "near", 0), 0);
    // A connection that ends has no subscriptions.
    drop(far);
    wait_until("core 1 is not asked any more", || hops("PUBLISH", "near", 2) == 0);
}

#[test]
fn a_confirmed_subscription_misses_nothing() {
    let server = two_cores(&[]);
    let mut others = Vec::new();
    let mut random = Random::new(crate::common::seed());
    let mut publishers: Vec<Client> = (0..CORES).map(|core| client_on(&server, core, 2, &mut others)).collect();
    let mut subscribers: Vec<Client> = (0..CORES).map(|core| client_on(&server, core, 3, &mut others)).collect();
    for round in 0..500 {
        let (publisher, subscriber) = (random.below(2), random.below(2));
        let channel = format!("channel {}", random.below(3));
        let subscriber = &mut subscribers[subscriber];
        subscribe(subscriber, "SUBSCRIBE", &[&channel]);
        let payload = round.to_string();
        assert_eq!(publishers[publisher].call(&["PUBLISH", &channel, &payload]), Value::Int(1), "round {round}");
        assert_eq!(message(subscriber.read()), ["message", &channel, &payload]);
        assert_eq!(message(subscriber.call(&["UNSUBSCRIBE"])), ["unsubscribe", &channel, "0"]);
        assert_eq!(publishers[publisher].call(&["PUBLISH", &channel, &payload]), Value::Int(0), "round {round}");
    }
}

/// Publishes so many KiB in messages of 64 KiB; the numbers of receivers.
fn publish_kib(publisher: &mut Client, channel: &str, kib: usize) -> Vec<i64> {
    let payload = vec![b'x'; 64 * 1024];
    let publish = |_| match publisher.call(&[b"PUBLISH", channel.as_bytes(), &payload]) {
        Value::Int(n) => n,
        other => panic!("{other:?}"),
    };
    (0..kib / 64).map(publish).collect()
}

#[test]
fn a_slow_subscriber_is_disconnected_and_nobody_else_suffers() {
    let server = two_cores(&["--client-output-buffer-limit", "pubsub", "16mb", "0", "0"]);
    let mut others = Vec::new();
    let mut publisher = client_on(&server, 0, 2, &mut others);
    for core in 0..CORES {
        let mut slow = client_on(&server, core, 3, &mut others);
        subscribe(&mut slow, "SUBSCRIBE", &["flood"]);
        let mut quick = client_on(&server, 1 - core, 2, &mut others);
        subscribe(&mut quick, "SUBSCRIBE", &["flood"]);
        let before = info(&mut publisher, "client_output_buffer_limit_disconnections");
        // More than the sockets' buffers and the limit hold.
        let messages = 64 * 1024 / 64;
        let (read, reads) = mpsc::channel();
        let reader = thread::spawn(move || {
            for _ in 0..messages {
                assert_eq!(message(quick.read())[0], "message");
                read.send(()).unwrap();
            }
            quick
        });
        // The quick one is never further behind than a few messages, however busy the machine is.
        let mut receivers = Vec::new();
        for _ in 0..messages / 16 {
            receivers.extend(publish_kib(&mut publisher, "flood", 16 * 64));
            (0..16).for_each(|_| reads.recv().unwrap());
        }
        assert_eq!((receivers[0], *receivers.last().unwrap()), (2, 1));
        assert!(receivers.is_sorted_by(|a, b| a >= b));
        nothing_more(&mut reader.join().unwrap());
        assert_eq!(info(&mut publisher, "client_output_buffer_limit_disconnections"), before + 1);
        // What was sent before is whole.
        let rest = slow.read_to_end();
        assert!(rest.len() < 64 * 1024 * messages);
        wait_until("only this client and its like are left", || {
            publisher.call(&["PUBSUB", "NUMSUB", "flood"]) == Value::Array(vec![bulk("flood"), Value::Int(0)])
        });
    }
    // Replies have no such limit: the class is that of subscribers.
    publisher.call(&[b"SET".as_slice(), b"large", &vec![b'x'; 8 << 20]]);
    let Value::Bulk(large) = publisher.call(&["GET", "large"]) else { panic!("no value") };
    assert_eq!(large.len(), 8 << 20);
}

#[test]
fn a_subscriber_may_be_slow_for_a_while() {
    const KIB: usize = 32 * 1024;
    let server = two_cores(&["--client-output-buffer-limit", "pubsub", "0", "1mb", "100000"]);
    let mut others = Vec::new();
    let mut publisher = client_on(&server, 0, 2, &mut others);
    let mut slow: Vec<Client> = (0..CORES).map(|core| client_on(&server, core, 2, &mut others)).collect();
    slow.iter_mut().for_each(|client| subscribe(client, "SUBSCRIBE", &["flood"]));
    assert!(publish_kib(&mut publisher, "flood", KIB).iter().all(|&n| n == CORES as i64));
    for client in &mut slow {
        (0..KIB / 64).for_each(|_| assert_eq!(message(client.read())[2].len(), 64 * 1024));
        nothing_more(client);
    }
    // The while is over.
    publish_kib(&mut publisher, "flood", KIB);
    assert_eq!(info(&mut publisher, "client_output_buffer_limit_disconnections"), 0);
    assert_eq!(publisher.call(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 1mb 1"]), ok());
    wait_until("those that read nothing are disconnected", || {
        info(&mut publisher, "client_output_buffer_limit_disconnections") == CORES
    });
    slow.iter_mut().for_each(|client| drop(client.read_to_end()));
}

#[test]
fn subscribers_may_vanish_while_messages_are_under_way() {
    const ROUNDS: usize = 60;
    let server = two_cores(&[]);
    let mut others = Vec::new();
    let mut steady = client_on(&server, 1, 2, &mut others);
    subscribe(&mut steady, "SUBSCRIBE", &["busy"]);
    let mut publisher = client_on(&server, 0, 2, &mut others);
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let messages = thread::scope(|scope| {
        let publishing = scope.spawn(move || {
            let mut bytes = Vec::new();
            (0..50).for_each(|_| encode_command(&["PUBLISH", "busy", &"m".repeat(300)], &mut bytes));
            let mut messages = 0;
            while is_done.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                publisher.send_bytes(&bytes);
                for _ in 0..50 {
                    let Value::Int(n) = publisher.read() else { panic!("no number") };
                    assert!(n >= 1, "the one that stays receives everything");
                }
                messages += 50;
            }
            messages
        });
        for round in 0..ROUNDS {
            let mut clients: Vec<Client> = (0..4).map(|n| server.client_of(2 + n % 2)).collect();
            for client in &mut clients {
                client.send(&["SUBSCRIBE", "busy", "other"]);
                client.send(&["PSUBSCRIBE", "b*"]);
                // One round waits for a message, another for nothing.
                if round % 2 == 0 {
                    while message(client.read())[0] != "pmessage" {}
                }
            }
        }
        drop(done);
        publishing.join().unwrap()
    });
    (0..messages).for_each(|_| assert_eq!(message(steady.read())[0], "message"));
    nothing_more(&mut steady);
    let mut client = server.client();
    wait_until("one subscriber is left", || info(&mut client, "pubsub_clients") == 1);
    assert_eq!((info(&mut client, "pubsub_channels"), info(&mut client, "pubsub_patterns")), (1, 0));
    assert_eq!(client.call(&["PUBLISH", "busy", "x"]), Value::Int(1));
}

#[test]
fn clients_and_numbers_are_those_of_the_node() {
    let server = two_cores(&[]);
    let mut others = Vec::new();
    let mut watcher = client_on(&server, 0, 2, &mut others);
    let numbers = |client: &mut Client| {
        ["pubsub_clients", "pubsub_channels", "pubsub_patterns", "pubsubshard_channels"]
            .map(|field| info(client, field))
    };
    assert_eq!(numbers(&mut watcher), [0; 4]);
    let mut subscribers: Vec<Client> = (0..CORES).map(|core| client_on(&server, core, 3, &mut others)).collect();
    for (at, client) in subscribers.iter_mut().enumerate() {
        subscribe(client, "SUBSCRIBE", &["both", &format!("only {at}")]);
        subscribe(client, "PSUBSCRIBE", &["p*"]);
        subscribe(client, "SSUBSCRIBE", &["both", "s"]);
    }
    // What several cores have counts once.
    assert_eq!(numbers(&mut watcher), [2, 3, 1, 2]);
    assert_eq!(watcher.call(&["PUBSUB", "NUMPAT"]), Value::Int(1));
    assert_eq!(watcher.call(&["PUBSUB", "CHANNELS"]), Value::Array(["both", "only 0", "only 1"].map(bulk).to_vec()));
    assert_eq!(watcher.call(&["PUBSUB", "CHANNELS", "o*1"]), Value::Array(vec![bulk("only 1")]));
    let both = |n| Value::Array(vec![bulk("both"), Value::Int(n)]);
    assert_eq!(watcher.call(&["PUBSUB", "NUMSUB", "both"]), both(2));
    assert_eq!(watcher.call(&["PUBSUB", "SHARDNUMSUB", "both"]), both(2));
    let list = |client: &mut Client, kind: &str| match client.call(&["CLIENT", "LIST", "TYPE", kind]) {
        Value::Bulk(list) => String::from_utf8(list).unwrap(),
        other => panic!("{other:?}"),
    };
    let pubsub = list(&mut watcher, "pubsub");
    assert_eq!(pubsub.matches(" flags=P ").count(), 2, "{pubsub}");
    assert_eq!(pubsub.matches(" sub=2 psub=1 ssub=2 ").count(), 2, "{pubsub}");
    assert!(!list(&mut watcher, "normal").contains("flags=P"));
    // Names are memory of the client that has them.
    let memory = |client: &mut Client| {
        let list = list(client, "pubsub");
        let line = list.lines().next().unwrap().split(' ').find_map(|field| field.strip_prefix("tot-mem=")).unwrap();
        line.parse::<usize>().unwrap()
    };
    let before = memory(&mut watcher);
    subscribe(&mut subscribers[0], "SUBSCRIBE", &[&"long".repeat(25_000)]);
    subscribe(&mut subscribers[1], "SUBSCRIBE", &[&"long".repeat(25_000)]);
    assert!(memory(&mut watcher) >= before + 100_000);
    // A normal client, and one that has ended its subscriptions, are not meant.
    subscribers[0].call(&["RESET"]);
    assert_eq!(watcher.call(&["CLIENT", "KILL", "TYPE", "pubsub"]), Value::Int(1));
    subscribers[1].read_to_end();
    wait_until("nobody is subscribed", || numbers(&mut watcher) == [0; 4]);
    assert_eq!(subscribers[0].call(&["PING"]), Value::Simple(b"PONG".to_vec()));
}

#[test]
fn subscribers_are_not_idle() {
    let server = two_cores(&["--timeout", "1"]);
    let mut others = Vec::new();
    let mut subscriber = client_on(&server, 1, 2, &mut others);
    subscribe(&mut subscriber, "SUBSCRIBE", &["rare"]);
    // Younger than the subscriber, and closed all the same.
    others.push(server.client());
    others.iter_mut().for_each(|idle| assert_eq!(idle.read_to_end(), b""));
    assert_eq!(server.client().call(&["PUBLISH", "rare", "x"]), Value::Int(1));
    assert_eq!(message(subscriber.read()), ["message", "rare", "x"]);
}

#[test]
fn a_pause_of_writes_holds_messages_back() {
    let server = two_cores(&[]);
    let (mut client, mut publisher, mut subscriber) = (server.client(), server.client(), server.client());
    subscribe(&mut subscriber, "SUBSCRIBE", &["a"]);
    assert_eq!(client.call(&["CLIENT", "PAUSE", "100000", "WRITE"]), ok());
    publisher.send(&["PUBLISH", "a", "x"]);
    // The request has arrived when it shows as the last one of its client.
    wait_until("PUBLISH waits", || {
        let Value::Bulk(list) = client.call(&["CLIENT", "LIST"]) else { panic!("no list") };
        String::from_utf8(list).unwrap().contains(" cmd=publish ")
    });
    nothing_more(&mut subscriber);
    assert_eq!(client.call(&["CLIENT", "UNPAUSE"]), ok());
    assert_eq!(publisher.read(), Value::Int(1));
    assert_eq!(message(subscriber.read()), ["message", "a", "x"]);
}

/// Keys of which some live on each core.
const KEYS: usize = 40;

#[test]
fn events_of_keys_reach_subscribers_on_every_core() {
    let server = two_cores(&["--notify-keyspace-events", "KEA"]);
    let mut others = Vec::new();
    let mut writer = client_on(&server, 0, 2, &mut others);
    let mut subscribers: Vec<Client> = (0..CORES).map(|core| client_on(&server, core, 2, &mut others)).collect();
    writer.call(&["SET", "before", "anybody listens"]);
    for client in &mut subscribers {
        subscribe(client, "PSUBSCRIBE", &["__key*@*__:*"]);
    }
    for n in 0..KEYS {
        writer.call(&["SET", &format!("key {n}"), "x", "PX", "20"]);
    }
    for client in &mut subscribers {
        let mut stories: BTreeMap<String, Vec<String>> = BTreeMap::new();
        // Each event is two messages; nobody looks at the keys, they expire all the same.
        for _ in 0..2 * 3 * KEYS {
            let [kind, _, channel, payload] = &message(client.read())[..] else { panic!("no pmessage") };
            assert_eq!(kind, "pmessage");
            match channel.strip_prefix("__keyspace@0__:") {
                Some(key) => stories.entry(key.into()).or_default().push(payload.clone()),
                None => assert!(channel.starts_with("__keyevent@0__:") && payload.starts_with("key ")),
            }
        }
        assert_eq!(stories.len(), KEYS);
        assert!(stories.values().all(|story| story == &["set", "expire", "expired"]), "{stories:?}");
        nothing_more(client);
    }
    // Only what is wanted, and where.
    assert_eq!(writer.call(&["CONFIG", "SET", "notify-keyspace-events", "Eg"]), ok());
    for n in 0..KEYS {
        writer.call(&["SET", &format!("key {n}"), "x"]);
        writer.call(&["DEL", &format!("key {n}")]);
    }
    for client in &mut subscribers {
        for _ in 0..KEYS {
            assert_eq!(message(client.read())[1..3], ["__key*@*__:*", "__keyevent@0__:del"]);
        }
        nothing_more(client);
    }
}

#[test]
fn evictions_are_told() {
    let server = two_cores(&[
        "--notify-keyspace-events",
        "Ee",
        "--maxmemory-policy",
        "allkeys-lru",
        "--client-output-buffer-limit",
        "pubsub",
        "0",
        "0",
        "0",
    ]);
    let mut client = server.client_of(3);
    let mut subscribers: Vec<Client> = (0..2).map(|_| server.client()).collect();
    subscribers.iter_mut().for_each(|client| subscribe(client, "SUBSCRIBE", &["__keyevent@0__:evicted"]));
    let value = "x".repeat(1000);
    for n in 0..5000 {
        client.call(&["SET", &n.to_string(), &value]);
    }
    // A lower limit evicts without any command that asks for it.
    let used = info(&mut server.client(), "used_memory");
    assert_eq!(client.call(&["CONFIG", "SET", "maxmemory", &(used - 2_000_000).to_string()]), ok());
    let mut watcher = server.client();
    wait_until("keys are evicted", || info(&mut watcher, "evicted_keys") > 100);
    for subscriber in &mut subscribers {
        for _ in 0..100 {
            assert_eq!(message(subscriber.read())[..2], ["message", "__keyevent@0__:evicted"]);
        }
    }
}
