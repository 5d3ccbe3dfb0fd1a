//! Commands about the server itself, each once: what redis-server says of its commands and its configuration.

use std::collections::BTreeMap;

use keyloom::resp::read::Value;

use crate::compare::{rule, same};
use crate::{sides, words};

/// Replies that are the same from a fresh server.
const LINES: &[&str] = &[
    "CONFIG GET maxclients",
    "CONFIG GET timeout",
    "CONFIG GET databases",
    "CONFIG GET tcp-keepalive",
    "CONFIG GET tcp-backlog",
    "CONFIG GET save",
    "CONFIG GET appendonly",
    "CONFIG GET appendfsync",
    "CONFIG GET appenddirname",
    "CONFIG GET appendfilename",
    "CONFIG GET no-appendfsync-on-rewrite",
    "CONFIG GET auto-aof-rewrite-percentage",
    "CONFIG GET auto-aof-rewrite-min-size",
    "CONFIG GET aof-load-truncated",
    "CONFIG GET rdbcompression",
    "CONFIG GET rdbchecksum",
    "CONFIG GET stop-writes-on-bgsave-error",
    "CONFIG GET shutdown-timeout",
    "CONFIG GET shutdown-on-sigint",
    "CONFIG GET repl-diskless-load",
    "CONFIG GET repl-diskless-sync",
    "CONFIG GET repl-diskless-sync-delay",
    "CONFIG GET repl-diskless-sync-max-replicas",
    "CONFIG GET repl-ping-slave-period",
    "CONFIG GET repl-backlog-ttl",
    "CONFIG GET replica-priority",
    "CONFIG GET slave-read-only",
    "CONFIG GET slaveof",
    "CONFIG SET save 0",
    "CONFIG SET appendfsync never",
    "CONFIG SET rdbcompression maybe",
    "CONFIG SET appendfilename x",
    "CONFIG SET shutdown-on-sigterm now",
    "CONFIG GET shutdown-on-sigterm",
    "CONFIG SET shutdown-on-sigterm default",
    "BGSAVE nonsense",
    "BGSAVE a b",
    "SAVE x",
    "LASTSAVE x",
    "WAIT",
    "WAIT x 0",
    "WAIT 0 x",
    "WAIT 0 -1",
    "WAIT 0 0",
    "WAIT 1 1",
    "CONFIG GET maxmemory",
    "CONFIG GET maxmemory-policy",
    "CONFIG GET maxmemory-samples",
    "CONFIG GET proto-max-bulk-len",
    "CONFIG GET client-query-buffer-limit",
    "CONFIG GET client-output-buffer-limit",
    "CONFIG GET requirepass",
    "CONFIG GET protected-mode",
    "CONFIG GET loglevel",
    "CONFIG GET logfile",
    "CONFIG GET slowlog-max-len",
    "CONFIG GET latency-monitor-threshold",
    "CONFIG GET latency-tracking",
    "CONFIG GET latency-tracking-info-percentiles",
    "CONFIG GET notify-keyspace-events",
    "CONFIG SET notify-keyspace-events KEA",
    "CONFIG GET notify-keyspace-events",
    "CONFIG SET notify-keyspace-events nmtKExg$$",
    "CONFIG GET notify-keyspace-events",
    "CONFIG SET notify-keyspace-events KEx notify-keyspace-events KEA",
    "CONFIG SET notify-keyspace-events KEq",
    "CONFIG SET notify-keyspace-events g$lshzxetdn",
    "CONFIG GET notify-keyspace-events",
    "CONFIG SET timeout 0 notify-keyspace-events dEm",
    "CONFIG GET notify-keyspace-events",
    "CONFIG SET timeout abc notify-keyspace-events KEA",
    "CONFIG GET notify-keyspace-events",
    "CONFIG GET enable-debug-command",
    "CONFIG GET lazyfree-lazy-user-del",
    "CONFIG GET lazyfree-lazy-user-flush",
    "CONFIG GET nosuch",
    "CONFIG GET",
    "CONFIG SET timeout 5 tcp-keepalive 60",
    "CONFIG GET timeout",
    "CONFIG SET timeout 0 tcp-keepalive abc",
    "CONFIG GET timeout",
    "CONFIG SET timeout 0",
    "CONFIG SET databases 5",
    "CONFIG SET timeout 0 timeout 0",
    "CONFIG SET client-output-buffer-limit nonsense",
    "CONFIG SET maxclients 0",
    "CONFIG SET loglevel loud",
    "CONFIG SET slowlog-max-len 10",
    "CONFIG SET proto-max-bulk-len 1mb",
    "CONFIG GET proto-max-bulk-len",
    "CONFIG SET proto-max-bulk-len 512mb",
    "CONFIG RESETSTAT",
    "CONFIG REWRITE",
    "CLIENT GETNAME",
    "CLIENT SETNAME me",
    "CLIENT GETNAME",
    "CLIENT NO-EVICT on",
    "CLIENT KILL 127.0.0.1:1",
    "CLIENT LIST TYPE pubsub",
    "CLIENT LIST TYPE replica",
    "SLOWLOG LEN",
    "SLOWLOG GET",
    "SLOWLOG RESET",
    "LATENCY RESET",
    "LATENCY LATEST",
    "LATENCY HISTORY command",
    "LATENCY GRAPH command",
    "LATENCY HISTOGRAM nosuch",
    "ACL WHOAMI",
    "ACL USERS",
    "ACL CAT nosuch",
    "ROLE",
    "CLUSTER INFO",
    "DEBUG SLEEP 0",
    "COMMAND GETKEYS",
    "COMMAND INFO nosuch",
    "COMMAND LIST FILTERBY MODULE nosuch",
    "COMMAND LIST FILTERBY PATTERN getr*",
    "REPLICAOF",
    "REPLICAOF a b",
    "REPLICAOF a 65536",
    "REPLICAOF NO ONE",
    "SLAVEOF no one",
    "SLAVEOF no two",
    "FAILOVER",
    "FAILOVER TO",
    "FAILOVER TO a b",
    "FAILOVER TO a 1",
    "FAILOVER TO a 1 FORCE",
    "FAILOVER TO a 1 TO b 2",
    "FAILOVER FORCE FORCE",
    "FAILOVER TIMEOUT",
    "FAILOVER TIMEOUT x",
    "FAILOVER TIMEOUT -1",
    "FAILOVER TIMEOUT 1 TIMEOUT 2",
    "FAILOVER ABORT",
    "FAILOVER ABORT ABORT",
    "ROLE",
    "WAIT a 1",
    "WAIT 1 a",
    "WAIT -1 1",
    "WAIT 1 -1",
    "SHUTDOWN ABORT",
    "SHUTDOWN nonsense",
    "MEMORY USAGE nosuch",
    "INFO nosuch",
    "OBJECT FREQ nosuch",
    "NOSUCH",
];

#[test]
fn replies_of_a_fresh_server() {
    let Some(mut sides) = sides() else { return };
    for version in ["2", "3"] {
        let mut differences = String::new();
        for line in
            [&["HELLO 2"], LINES].concat().iter().map(|line| line.replace("HELLO 2", &format!("HELLO {version}")))
        {
            let command = words(&line);
            let replies: Vec<Vec<u8>> = sides
                .iter_mut()
                .map(|side| {
                    side.client.send(&command);
                    side.client.read_raw()
                })
                .collect();
            for (side, ours) in sides.iter().zip(&replies).skip(1) {
                if !same(rule(&command), &replies[0], ours, 0) {
                    let [redis, ours] = [&replies[0], ours].map(|reply| reply.escape_ascii());
                    differences.push_str(&format!("{}: {line}\n  redis: {redis}\n  ours:  {ours}\n", side.name));
                }
            }
        }
        assert!(differences.is_empty(), "RESP{version}\n{differences}");
        // Names and settings of one round are not those of the next.
        for side in &mut sides {
            side.client.call(&["RESET"]);
        }
    }
}

/// Flags of commands in which we differ from Redis: the command, the flag, and why.
const FLAGS: &[(&str, &str, &str)] = &[
    ("", "allow_busy", "there are no scripts that could keep the server busy"),
    ("slowlog|get", "skip_slowlog", "a look into the log leaves no line in it"),
    ("slowlog|len", "skip_slowlog", "a look into the log leaves no line in it"),
    ("slowlog|reset", "skip_slowlog", "a look into the log leaves no line in it"),
    ("cluster", "loading", "clusters are not there yet"),
    ("debug", "admin", "a container of subcommands, which have the flags"),
    ("debug", "noscript", "a container of subcommands, which have the flags"),
    ("debug", "loading", "a container of subcommands, which have the flags"),
    ("debug", "stale", "a container of subcommands, which have the flags"),
];

/// Commands with arguments of Redis 7.2.
const LATER: &[&str] = &["zrank", "zrevrank"];

/// Arity, flags and keys of every command that both servers have, as clients ask for them to route their requests.
#[test]
fn commands_are_described_as_by_redis() {
    let Some(mut sides) = sides() else { return };
    let mut described = sides.iter_mut().map(|side| {
        let Value::Array(commands) = side.client.call(&["COMMAND"]) else { panic!("COMMAND is no array") };
        let mut all = BTreeMap::new();
        commands.into_iter().for_each(|command| describe(command, &mut all));
        all
    });
    let redis = described.next().unwrap();
    let ours = described.next().unwrap();
    let mut differences = String::new();
    for (name, ours) in &ours {
        if let Some(redis) = redis.get(name).filter(|redis| *redis != ours && !LATER.contains(&name.as_str())) {
            differences.push_str(&format!("{name}\n  redis: {redis:?}\n  ours:  {ours:?}\n"));
        }
    }
    assert!(differences.is_empty(), "{differences}");
    assert!(ours.keys().filter(|name| redis.contains_key(*name)).count() > 100);
}

/// Commands about persistence, with their ACL categories and tips.
#[test]
fn commands_of_persistence_are_described_as_by_redis() {
    let Some(mut sides) = sides() else { return };
    let ask = words("COMMAND INFO bgsave save lastsave bgrewriteaof wait");
    let replies: Vec<Vec<u8>> = sides
        .iter_mut()
        .map(|side| {
            side.client.send(&ask);
            side.client.read_raw()
        })
        .collect();
    for ours in &replies[1..] {
        assert_eq!(ours.escape_ascii().to_string(), replies[0].escape_ascii().to_string());
    }
    // Of Redis 7.2.
    let waitaof = sides[1].client.call(&["COMMAND", "INFO", "waitaof"]);
    let Value::Array(rows) = waitaof else { panic!("COMMAND INFO is an array") };
    let Value::Array(row) = &rows[0] else { panic!("no row of waitaof") };
    assert_eq!((text(&row[0]), &row[1], texts(&row[6])), {
        ("waitaof".into(), &Value::Int(4), vec!["@connection".into(), "@slow".into()])
    });
}

/// Commands about replication, with their ACL categories. Of those that the other's replicas would send, too.
#[test]
fn commands_of_replication_are_described_as_by_redis() {
    let Some(mut sides) = sides() else { return };
    let ask = words("COMMAND INFO replicaof slaveof role failover psync sync replconf");
    let rows: Vec<Vec<Value>> = sides
        .iter_mut()
        .map(|side| {
            let Value::Array(rows) = side.client.call(&ask) else { panic!("COMMAND INFO is an array") };
            rows.into_iter()
                .map(|row| {
                    let Value::Array(mut parts) = row else { panic!("a row is an array") };
                    if let Value::Array(flags) = &mut parts[2] {
                        flags.retain(|flag| text(flag) != "allow_busy");
                    }
                    Value::Array(parts)
                })
                .collect()
        })
        .collect();
    for ours in &rows[1..] {
        assert_eq!(ours, &rows[0]);
    }
}

/// What routing depends on.
#[derive(Debug, PartialEq)]
struct Described {
    arity: Value,
    flags: Vec<String>,
    keys: Vec<Value>,
    /// Of each key specification the flags, in order, then the rest as text.
    specs: Vec<String>,
}

fn text(value: &Value) -> String {
    match value {
        Value::Bulk(text) | Value::Simple(text) => String::from_utf8_lossy(text).into_owned(),
        other => panic!("no text: {other:?}"),
    }
}

fn texts(value: &Value) -> Vec<String> {
    let Value::Array(items) = value else { panic!("no array: {value:?}") };
    let mut texts: Vec<String> = items.iter().map(text).collect();
    texts.sort();
    texts
}

/// One element of COMMAND, and its subcommands.
fn describe(command: Value, all: &mut BTreeMap<String, Described>) {
    let Value::Array(fields) = command else { panic!("no array: {command:?}") };
    let name = text(&fields[0]);
    let mut flags = texts(&fields[2]);
    flags.retain(|flag| !FLAGS.iter().any(|(of, known, _)| known == flag && (of.is_empty() || *of == name)));
    let Value::Array(specs) = &fields[8] else { panic!("no array") };
    let described = Described {
        arity: fields[1].clone(),
        flags,
        keys: fields[3..6].to_vec(),
        specs: specs.iter().map(describe_spec).collect(),
    };
    all.insert(name, described);
    let Value::Array(subcommands) = fields.into_iter().nth(9).unwrap() else { panic!("no array") };
    subcommands.into_iter().for_each(|sub| describe(sub, all));
}

/// Redis adds notes for readers to some.
fn describe_spec(spec: &Value) -> String {
    let Value::Array(fields) = spec else { panic!("no array: {spec:?}") };
    let pairs = fields.chunks_exact(2).filter(|pair| text(&pair[0]) != "notes");
    let show = |pair: &[Value]| match text(&pair[0]).as_str() {
        "flags" => format!("{:?}", texts(&pair[1])),
        name => format!("{name} {:?}", pair[1]),
    };
    pairs.map(show).collect::<Vec<_>>().join(" ")
}
