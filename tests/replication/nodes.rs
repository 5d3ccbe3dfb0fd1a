//! Nodes that follow one another, what they hold, and when they are at rest.

use std::collections::BTreeMap;

use keyloom::resp::read::Value;

use crate::common::{Client, Server, show, wait_until};

/// Databases of the nodes in these tests.
pub const DATABASES: usize = 3;

/// A node that leads, over two cores.
pub fn primary(args: &[&str]) -> Server {
    Server::keyloom(&[&["--cpus", "0,1"], args].concat())
}

/// A node on these CPUs that follows `port` from its start.
pub fn replica(port: u16, cpus: &str, args: &[&str]) -> Server {
    Server::keyloom(&[&["--cpus", cpus, "--replicaof", "127.0.0.1", &port.to_string()], args].concat())
}

/// What ROLE says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Leads { end: i64, replicas: Vec<(u16, i64)> },
    Follows { port: u16, state: String, received: i64 },
}

pub fn text(value: &Value) -> String {
    match value {
        Value::Bulk(bytes) | Value::Simple(bytes) | Value::Error(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Int(n) => n.to_string(),
        other => panic!("{other:?} is no text"),
    }
}

pub fn role(client: &mut Client) -> Role {
    let Value::Array(parts) = client.call(&["ROLE"]) else { panic!("ROLE is an array") };
    let number = |value: &Value| text(value).parse::<i64>().unwrap();
    match (&text(&parts[0])[..], &parts[1..]) {
        ("master", [end, Value::Array(replicas)]) => {
            let replicas = replicas.iter().map(|replica| {
                let Value::Array(replica) = replica else { panic!("{replica:?}") };
                (number(&replica[1]) as u16, number(&replica[2]))
            });
            Role::Leads { end: number(end), replicas: replicas.collect() }
        }
        ("slave", [_, port, state, received]) => {
            Role::Follows { port: number(port) as u16, state: text(state), received: number(received) }
        }
        _ => panic!("{parts:?}"),
    }
}

pub fn leads(client: &mut Client) -> bool {
    matches!(role(client), Role::Leads { .. })
}

/// Waits until a replica is connected to its primary, and follows its log.
#[track_caller]
pub fn wait_connected(replica: &Server) {
    let mut client = replica.client();
    wait_until(
        "the replica is connected",
        || matches!(role(&mut client), Role::Follows { state, .. } if state == "connected"),
    );
}

/// Everything in a keyspace by database and key: type, value, deadlines; what has no order is sorted.
pub type Digest = BTreeMap<(usize, Vec<u8>), String>;

pub fn digest(client: &mut Client) -> Digest {
    let mut all = Digest::new();
    for db in 0..DATABASES {
        client.call(&["SELECT", &db.to_string()]);
        let mut cursor = "0".to_string();
        loop {
            let Value::Array(page) = client.call(&["SCAN", &cursor, "COUNT", "1000"]) else { panic!("SCAN") };
            let [next, Value::Array(keys)] = &page[..] else { panic!("{page:?}") };
            for key in keys {
                let Value::Bulk(key) = key else { panic!("{key:?}") };
                if let Some(content) = content(client, key) {
                    all.insert((db, key.clone()), content);
                }
            }
            cursor = text(next);
            if cursor == "0" {
                break;
            }
        }
    }
    client.call(&["SELECT", "0"]);
    all
}

/// Type, value and deadlines of a key; None if it is gone.
fn content(client: &mut Client, key: &[u8]) -> Option<String> {
    let kind = text(&client.call(&[b"TYPE", key]));
    let read: &[&[u8]] = match &kind[..] {
        "none" => return None,
        "string" => &[b"GET"],
        "list" => &[b"LRANGE", b"0", b"-1"],
        "hash" => &[b"HGETALL"],
        "set" => &[b"SMEMBERS"],
        "zset" => &[b"ZRANGE", b"0", b"-1", b"WITHSCORES"],
        other => panic!("type {other}"),
    };
    let mut command = vec![read[0], key];
    command.extend(&read[1..]);
    let value = client.call(&command);
    let deadline = client.call(&[b"PEXPIRETIME", key]);
    let mut parts = match value {
        Value::Null => return None,
        // A replica that has not applied everything yet: it has become something else in between.
        Value::Error(error) if error.starts_with(b"WRONGTYPE") => return None,
        Value::Bulk(bytes) => vec![show(&bytes)],
        Value::Array(values) => values.iter().map(|value| show(text(value).as_bytes())).collect(),
        other => panic!("{other:?} for {}", show(key)),
    };
    if kind == "hash" {
        let fields: Vec<String> = parts.chunks(2).map(|pair| pair[0].clone()).collect();
        let count = fields.len().to_string();
        let mut command = vec!["HPEXPIRETIME".as_bytes(), key, b"FIELDS", count.as_bytes()];
        command.extend(fields.iter().map(|field| field.as_bytes()));
        let deadlines = match client.call(&command) {
            Value::Array(deadlines) => deadlines,
            // It ended in between.
            _ => return None,
        };
        parts = parts.chunks(2).zip(&deadlines).map(|(pair, end)| format!("{}={} {end:?}", pair[0], pair[1])).collect();
    }
    if kind == "set" || kind == "hash" {
        parts.sort_unstable();
    }
    Some(format!("{kind} {deadline:?} {parts:?}"))
}

/// The first differences.
pub fn differences(a: &Digest, b: &Digest) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let differing = keys.into_iter().filter(|key| a.get(*key) != b.get(*key));
    let show = |key: &(usize, Vec<u8>)| format!("{} {}: {:?} | {:?}", key.0, show(&key.1), a.get(key), b.get(key));
    differing.take(10).map(show).collect()
}

/// Waits until all nodes, the first of which leads, are connected, have received the same, and hold the same.
#[track_caller]
pub fn equal_at_rest(nodes: &[&Server]) -> Digest {
    let mut clients: Vec<Client> = nodes.iter().map(|node| node.client()).collect();
    let mut last = String::new();
    let rest = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until("all nodes have received the same", || {
            let roles: Vec<Role> = clients.iter_mut().map(role).collect();
            last = format!("{roles:?}");
            let Role::Leads { end, .. } = roles[0] else { return false };
            let rests = |role: &Role| matches!(role, Role::Follows { state, received, .. } if state == "connected" && *received == end);
            roles[1..].iter().all(rests)
        });
    }));
    // How many keys each has shows who has not applied what it has received.
    let keys: Vec<Value> = clients.iter_mut().map(|client| client.call(&["DBSIZE"])).collect();
    assert!(rest.is_ok(), "never at rest: {last} {keys:?}\n{}", logs(nodes));
    let mut found = Vec::new();
    // Deadlines of a load come while it is read. And what is received is applied when the primary has said that it is committed.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(40);
    loop {
        let first = digest(&mut clients[0]);
        found.clear();
        for client in &mut clients[1..] {
            found.extend(differences(&first, &digest(client)));
        }
        if found.is_empty() {
            return first;
        }
        assert!(std::time::Instant::now() < end, "they hold different things: {found:#?}\n{}", logs(nodes));
    }
}

pub fn logs(nodes: &[&Server]) -> String {
    nodes.iter().map(|node| format!("--- {}\n{}", node.port, node.log())).collect()
}
