//! Publish/subscribe: what each of several connections receives is the same as from redis-server.
//!
//! After each command every connection sends a PING with a token of its own, which is answered behind everything that the
//! command caused: PUBLISH is answered only when all its receivers have their message. (Events of keys are not waited for.) Redis serves patterns, and ends
//! subscriptions that are not named, in the order of its hash tables; runs of such messages are compared without order.

use super::*;
use keyloom::resp::read::parse_value;

/// Sequences of random commands, and the length of each.
const SEQUENCES: u64 = 60;
const STEPS: usize = 80;
const CONNECTIONS: usize = 4;

/// What one side is asked to do, on connections that it has for as long as a sequence.
struct Clients {
    name: &'static str,
    clients: Vec<Client>,
    tokens: u64,
}

impl Clients {
    fn new(name: &'static str, server: &Server, versions: &[u8]) -> Clients {
        Clients { name, clients: versions.iter().map(|&version| server.client_of(version)).collect(), tokens: 0 }
    }

    /// Sends `bytes` on one connection; what every connection then receives. As many as `expected` are awaited on each
    /// before the PING: nobody waits until other cores have told of an event of a key.
    fn exchange(&mut self, at: usize, bytes: &[u8], expected: &[usize]) -> Vec<Vec<Value>> {
        self.clients[at].send_bytes(bytes);
        let mut received: Vec<Vec<Value>> = vec![Vec::new(); self.clients.len()];
        for ((client, received), &expected) in self.clients.iter_mut().zip(&mut received).zip(expected) {
            while received.len() < expected
                && let Some(raw) = client.try_read_raw()
            {
                received.push(parse_value(&raw).unwrap().unwrap().0);
            }
        }
        self.tokens += 1;
        let token = format!("token {}", self.tokens);
        for (client, received) in self.clients.iter_mut().zip(&mut received) {
            client.send(&["PING", &token]);
            loop {
                let value = client.read();
                let is_token = |value: &Value| matches!(value, Value::Bulk(text) if text == token.as_bytes());
                let ends = match &value {
                    Value::Array(parts) => parts.len() == 2 && is_token(&parts[1]),
                    value => is_token(value),
                };
                if ends {
                    break;
                }
                received.push(value);
            }
        }
        received
    }
}

/// The words of a message, and what can be compared of it on its own.
fn kind(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Array(parts) | Value::Push(parts) => match parts.first() {
            Some(Value::Bulk(word)) => Some(word),
            _ => None,
        },
        _ => None,
    }
}

/// Sorts what has no order: runs of pmessages, and of the ends of subscriptions (their numbers go down all the same).
fn normal(values: Vec<Value>) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut values = &values[..];
    while let Some(first) = values.first() {
        let word = kind(first).unwrap_or_default();
        let is_run = word == b"pmessage" || word.ends_with(b"unsubscribe");
        let len = if is_run { values.iter().take_while(|value| kind(value) == Some(word)).count() } else { 1 };
        let (run, rest) = values.split_at(len);
        let mut parts: Vec<String> = Vec::new();
        for value in run {
            match value {
                Value::Array(items) | Value::Push(items) if word.ends_with(b"unsubscribe") => {
                    parts.push(format!("{:?}", &items[..2]));
                    shown.push(format!("{:?} {:?}", std::mem::discriminant(value), items[2]));
                }
                value => parts.push(format!("{value:?}")),
            }
        }
        if len > 1 {
            parts.sort();
        }
        shown.extend(parts);
        values = rest;
    }
    shown.join("\n    ")
}

fn compare(sides: &mut [Clients], at: usize, bytes: &[u8], history: &str) {
    let mut replies = vec![0; CONNECTIONS];
    replies[at] = 1;
    let redis = sides[0].exchange(at, bytes, &replies);
    let expected: Vec<usize> = redis.iter().map(Vec::len).collect();
    let redis: Vec<String> = redis.into_iter().map(normal).collect();
    for side in &mut sides[1..] {
        let ours = side.exchange(at, bytes, &expected).into_iter().map(normal);
        for (client, (ours, redis)) in ours.zip(&redis).enumerate() {
            assert_eq!(ours, *redis, "{}, connection {client} after\n{history}", side.name);
        }
    }
}

/// `$c` is a channel, `$p` a pattern, `$m` a message.
const TEMPLATES: &[&str] = &[
    "SUBSCRIBE $c",
    "SUBSCRIBE $c $c $c",
    "UNSUBSCRIBE",
    "UNSUBSCRIBE $c",
    "UNSUBSCRIBE $c $c",
    "PSUBSCRIBE $p",
    "PSUBSCRIBE $p $p",
    "PUNSUBSCRIBE",
    "PUNSUBSCRIBE $p",
    "SSUBSCRIBE $c",
    "SSUBSCRIBE $c $c",
    "SUNSUBSCRIBE",
    "SUNSUBSCRIBE $c",
    "PUBLISH $c $m",
    "PUBLISH $c $m",
    "PUBLISH $c $m",
    "PUBLISH $c $m",
    "SPUBLISH $c $m",
    "SPUBLISH $c $m",
    "PING",
    "PING $m",
    "PING a b",
    "GET nosuch",
    "SET key $m",
    "DEL key",
    "CLIENT GETNAME",
    "NOSUCH",
    "PUBLISH $c",
    "SUBSCRIBE",
    "RESET",
    "PUBSUB NUMSUB $c $c",
    "PUBSUB NUMPAT",
    "PUBSUB SHARDNUMSUB $c",
    "PUBSUB NUMSUB",
];

#[test]
fn every_connection_receives_what_redis_sends() {
    let Some(mut sides) = sides() else { return };
    for side in &mut sides {
        side.client.call(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
    }
    let first_seed = common::seed();
    let large = "x".repeat(20_000);
    let channels = ["a", "b", "ab", "abc", "''", "a[b", "__keyspace@0__:key"];
    let patterns = ["*", "a*", "?", "[ab]", "a\\[b", "*b*", "__key*"];
    for seed in (0..SEQUENCES).map(|n| first_seed.wrapping_add(n)) {
        let mut random = Random::new(seed);
        let versions: Vec<u8> = (0..CONNECTIONS).map(|_| 2 + random.one_in(2) as u8).collect();
        let mut clients: Vec<Clients> =
            sides.iter().map(|side| Clients::new(side.name, &side.server, &versions)).collect();
        let mut history = format!("KEYLOOM_SEED={seed}, versions {versions:?}");
        for _ in 0..STEPS {
            let at = random.below(CONNECTIONS);
            let template = random.pick(TEMPLATES);
            let word = |word| match word {
                "$c" => random.pick(&channels),
                "$p" => random.pick(&patterns),
                "$m" => random.pick(&["", "message", "two words", &large]),
                word => word,
            };
            let command: Vec<&str> = template.split(' ').map(word).map(|w| if w == "''" { "" } else { w }).collect();
            let shown: Vec<&str> = command.iter().map(|word| &word[..word.len().min(20)]).collect();
            history.push_str(&format!("\n  {at}: {shown:?}"));
            let mut bytes = Vec::new();
            encode_command(&command, &mut bytes);
            compare(&mut clients, at, &bytes, &history);
        }
    }
}

/// Pipelines of one connection; each line is one write.
const PIPELINES: &[&str] = &[
    "CLIENT REPLY OFF|SUBSCRIBE a|PUBLISH a 1|UNSUBSCRIBE|CLIENT REPLY ON",
    "CLIENT REPLY SKIP|SUBSCRIBE a b|PING|UNSUBSCRIBE",
    "CLIENT REPLY SKIP|PUBLISH a 1|SUBSCRIBE a|CLIENT REPLY SKIP|PING",
    "SUBSCRIBE a|CLIENT REPLY SKIP|PUBLISH a 1|PUBLISH a 2|CLIENT REPLY OFF|PUBLISH a 3|GET x|UNSUBSCRIBE|CLIENT REPLY ON|GET x",
    "SUBSCRIBE a|GET x|PING|PUBLISH a b|HELLO 9|CLIENT GETNAME|CONFIG GET timeout|NOSUCH|GET|UNSUBSCRIBE|GET x",
    "PSUBSCRIBE a*|SUBSCRIBE abc|PUBLISH abc 1|PUBLISH ab 2|UNSUBSCRIBE abc|PUBLISH abc 3|PUNSUBSCRIBE a*|PUBLISH abc 4",
    "SSUBSCRIBE s|SUBSCRIBE s|SPUBLISH s 1|PUBLISH s 2|SUNSUBSCRIBE s|SPUBLISH s 3|UNSUBSCRIBE s|PING|PUBLISH s 4",
    "SET k 1|SUBSCRIBE a|SET k 2|GET k|PUBLISH a 1|GET k|UNSUBSCRIBE|GET k|PUBLISH a 2|GET k",
    "UNSUBSCRIBE|PUNSUBSCRIBE|SUNSUBSCRIBE|UNSUBSCRIBE a b|PUNSUBSCRIBE a*|SUNSUBSCRIBE a|GET k",
    "SUBSCRIBE a|PSUBSCRIBE *|SSUBSCRIBE a|RESET|PUBLISH a 1|PUBSUB CHANNELS|PUBSUB NUMPAT|PUBSUB SHARDCHANNELS|GET k",
    "SUBSCRIBE a|PUBSUB CHANNELS|PUBSUB CHANNELS b*|PUBSUB CHANNELS a*|PUBSUB CHANNELS a b|PUBSUB FOO|PUBSUB",
    "PUBSUB NUMSUB|PUBSUB NUMSUB a b a|PUBSUB NUMPAT x|PUBSUB SHARDNUMSUB|PUBSUB SHARDCHANNELS a b|PUBLISH|SPUBLISH a",
    "COMMAND GETKEYS SPUBLISH a b|COMMAND GETKEYS SSUBSCRIBE a b|COMMAND GETKEYS PUBLISH a b|COMMAND GETKEYS SUNSUBSCRIBE a",
    "SUBSCRIBE a|QUIT|PUBLISH a 1",
];

#[test]
fn pipelines_are_answered_as_by_redis() {
    let Some(sides) = sides() else { return };
    for version in [2, 3] {
        for pipeline in PIPELINES {
            let mut bytes = Vec::new();
            pipeline.split('|').for_each(|line| encode_command(&words(line), &mut bytes));
            let ends = pipeline.contains("QUIT");
            if !ends {
                encode_command(&["PING", "the end"], &mut bytes);
            }
            let replies: Vec<String> = sides
                .iter()
                .map(|side| {
                    let mut client = side.server.client_of(version);
                    client.send_bytes(&bytes);
                    let raw = if ends { client.read_to_end() } else { read_up_to(&mut client, b"the end") };
                    let mut values = Vec::new();
                    let mut rest = &raw[..];
                    while let Some((value, len)) = parse_value(rest).unwrap() {
                        values.push(value);
                        rest = &rest[len..];
                    }
                    assert!(rest.is_empty());
                    normal(values)
                })
                .collect();
            for (side, ours) in sides.iter().zip(&replies).skip(1) {
                assert_eq!(ours, &replies[0], "RESP{version}, {}: {pipeline}", side.name);
            }
        }
    }
}

/// Whole replies up to one that contains `end`.
fn read_up_to(client: &mut Client, end: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let raw = client.read_raw();
        all.extend_from_slice(&raw);
        if raw.windows(end.len()).any(|part| part == end) {
            return all;
        }
    }
}
