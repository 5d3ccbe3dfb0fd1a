//! What users see of replication: INFO, ROLE, HELLO, metrics, the replies of its commands, and when writes are refused.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use crate::common::{Client, Server, free_port, info, ok, wait_until};
use keyloom::resp::read::Value;

const TWO_CORES: &[&str] = &["--cpus", "0,1"];
const LOCAL: &str = "127.0.0.1";

fn start(args: &[&str]) -> Server {
    let cores = if std::thread::available_parallelism().map_or(1, |n| n.get()) > 1 { TWO_CORES } else { &[] };
    Server::keyloom(&[&["--save", ""], args, cores].concat())
}

#[track_caller]
fn error(client: &mut Client, line: &str) -> String {
    match client.call(&line.split(' ').collect::<Vec<_>>()) {
        Value::Error(text) => String::from_utf8_lossy(&text).into_owned(),
        other => panic!("{line} is not refused: {other:?}"),
    }
}

/// The fields of a section of INFO.
fn section(client: &mut Client, name: &str) -> BTreeMap<String, String> {
    let Value::Bulk(text) = client.call(&["INFO", name]) else { panic!("INFO is a string") };
    let text = String::from_utf8(text).unwrap();
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name.into(), value.into())).collect()
}

fn field(client: &mut Client, name: &str) -> String {
    section(client, "replication").get(name).cloned().unwrap_or_default()
}

/// The parts of `slave0`.
fn replica(client: &mut Client) -> BTreeMap<String, String> {
    let text = field(client, "slave0");
    text.split(',').filter_map(|part| part.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

fn words(value: Value) -> Vec<String> {
    let Value::Array(items) = value else { panic!("{value:?} is no array") };
    let word = |item| match item {
        Value::Bulk(text) => String::from_utf8(text).unwrap(),
        Value::Int(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    items.into_iter().map(word).collect()
}

/// A replica of `primary` that follows its log.
fn follow(primary: &Server, args: &[&str]) -> (Server, Client) {
    let port = primary.port.to_string();
    let server = start(args);
    let mut client = server.client();
    assert_eq!(client.call(&["REPLICAOF", LOCAL, &port]), ok());
    wait_until("the replica follows", || field(&mut client, "master_link_status") == "up");
    (server, client)
}

/// Texts are those of redis-server 7.0.15, but for what it has not.
#[test]
fn arguments_are_judged_as_by_redis() {
    let server = start(&[]);
    let mut client = server.client();
    for (line, text) in [
        ("REPLICAOF", "ERR wrong number of arguments for 'replicaof' command"),
        ("REPLICAOF a b", "ERR Invalid master port"),
        ("SLAVEOF a -1", "ERR Invalid master port"),
        ("REPLICAOF a 70000", "ERR Invalid master port"),
        ("REPLICAOF no two", "ERR Invalid master port"),
        ("FAILOVER", "ERR FAILOVER requires connected replicas."),
        ("FAILOVER FORCE", "ERR FAILOVER requires connected replicas."),
        ("FAILOVER TO a 1", "ERR FAILOVER requires connected replicas."),
        ("FAILOVER TO a", "ERR syntax error"),
        ("FAILOVER TO a b", "ERR value is not an integer or out of range"),
        ("FAILOVER TO a 1 TO b 2", "ERR syntax error"),
        ("FAILOVER ABORT", "ERR No failover in progress."),
        ("FAILOVER ABORT TIMEOUT 1", "ERR syntax error"),
        ("FAILOVER TIMEOUT 0", "ERR FAILOVER timeout must be greater than 0"),
        ("FAILOVER TIMEOUT x", "ERR value is not an integer or out of range"),
        ("FAILOVER TIMEOUT", "ERR syntax error"),
        ("WAIT 1 -1", "ERR timeout is negative"),
        ("PSYNC ? -1", "ERR the replication protocol of Redis is not spoken here"),
        ("SYNC", "ERR the replication protocol of Redis is not spoken here"),
        ("REPLCONF listening-port 3", "ERR the replication protocol of Redis is not spoken here"),
    ] {
        let said = error(&mut client, line);
        assert!(said.starts_with(text), "{line}: {said}");
    }
    assert_eq!(client.call(&["REPLICAOF", "NO", "one"]), ok());
    // Within a transaction nothing changes.
    for line in ["MULTI", "SLAVEOF 127.0.0.1 1", "FAILOVER", "SET a 1", "ROLE", "EXEC"] {
        client.send(&line.split(' ').collect::<Vec<_>>());
    }
    for _ in 0..5 {
        client.read();
    }
    let Value::Array(replies) = client.read() else { panic!("EXEC is an array") };
    assert!(matches!((&replies[0], &replies[1]), (Value::Error(_), Value::Error(_))), "{replies:?}");
    assert_eq!(replies[2], ok());
    assert_eq!(words(replies[3].clone())[..2], ["master", &field(&mut client, "master_repl_offset")]);
}

#[test]
fn a_node_without_replicas_tells_so() {
    let server = start(&[]);
    let mut client = server.client();
    let fields = section(&mut client, "replication");
    for (name, value) in [
        ("role", "master"),
        ("connected_slaves", "0"),
        ("master_failover_state", "no-failover"),
        ("master_replid2", &"0".repeat(40)),
        ("second_repl_offset", "-1"),
        ("repl_backlog_active", "0"),
        ("repl_backlog_histlen", "0"),
        ("repl_set_aside_file", ""),
    ] {
        assert_eq!(fields[name], value, "{name}");
    }
    let id = &fields["master_replid"];
    assert!(id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(words(client.call(&["ROLE"])), ["master", "0", "Array([])"]);
}

#[test]
fn both_sides_tell_of_each_other() {
    let admin = free_port().to_string();
    let primary = start(&["--admin-port", &admin, "--admin-bind", LOCAL]);
    let mut client = primary.client();
    client.call(&["SET", "before", "1"]);
    let (server, mut follower) = follow(&primary, &["--replica-announce-port", "7777", "--slave-priority", "5"]);
    for n in 0..50 {
        client.call(&["SET", &format!("key:{n}"), "value"]);
    }
    wait_until("everything is acknowledged", || client.call(&["WAIT", "1", "100"]) == Value::Int(1));
    wait_until("the replica is in sync", || replica(&mut client).get("in_sync").is_some_and(|yes| yes == "1"));

    let ours = section(&mut client, "replication");
    let end = &ours["master_repl_offset"];
    assert!(end.parse::<u64>().unwrap() >= 50);
    assert_eq!((&*ours["role"], &*ours["connected_slaves"]), ("master", "1"));
    assert_eq!((&*ours["repl_backlog_active"], &ours["repl_commit_index"]), ("1", end));
    let number = |name: &str| ours[name].parse::<u64>().unwrap();
    assert_eq!(
        number("repl_backlog_first_byte_offset") + number("repl_backlog_histlen") - 1,
        number("master_repl_offset")
    );
    let known = replica(&mut client);
    for (name, value) in [
        ("ip", LOCAL),
        ("port", "7777"),
        ("state", "online"),
        ("offset", end),
        ("lag", "0"),
        ("lag_entries", "0"),
        ("lag_bytes", "0"),
        ("lag_ms", "0"),
    ] {
        assert_eq!(known[name], value, "{name}");
    }
    assert!(known["suspicion"].parse::<f64>().unwrap() < 12.0);
    let Value::Array(role) = client.call(&["ROLE"]) else { panic!("ROLE is an array") };
    let Value::Array(replicas) = role[2].clone() else { panic!("replicas are an array") };
    assert_eq!(replicas.into_iter().map(words).collect::<Vec<_>>(), [[LOCAL, "7777", end]]);

    wait_until("the replica has applied it", || field(&mut follower, "slave_repl_offset") == *end);
    let theirs = section(&mut follower, "replication");
    for (name, value) in [
        ("role", "slave"),
        ("master_host", LOCAL),
        ("master_port", &*primary.port.to_string()),
        ("master_link_status", "up"),
        ("master_last_io_seconds_ago", "0"),
        ("master_sync_in_progress", "0"),
        ("slave_read_repl_offset", end),
        ("slave_priority", "5"),
        ("slave_read_only", "1"),
        ("replica_announced", "1"),
        ("connected_slaves", "0"),
        ("master_replid", &ours["master_replid"]),
        ("master_repl_offset", end),
        ("master_link_lag_entries", "0"),
    ] {
        assert_eq!(theirs[name], value, "{name}");
    }
    let port = primary.port.to_string();
    assert_eq!(words(follower.call(&["ROLE"])), ["slave", LOCAL, &port, "connected", end]);
    for (client, role) in [(&mut client, "master"), (&mut follower, "replica")] {
        let hello = words(client.call(&["HELLO", "2"]));
        let at = hello.iter().position(|word| word == "role").unwrap();
        assert_eq!(hello[at + 1], role);
    }

    let page = scrape(admin.parse().unwrap());
    for line in [
        "keyloom_replication_leads 1",
        "keyloom_replication_connected_replicas 1",
        "keyloom_replica_online{replica=\"127.0.0.1:7777\"} 1",
        "keyloom_replica_in_sync{replica=\"127.0.0.1:7777\"} 1",
        "keyloom_replica_lag_entries{replica=\"127.0.0.1:7777\"} 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert_eq!(syncs(&mut client), [1, 0]);
    // It loses its connection and goes on where it was.
    assert_eq!(follower.call(&["REPLICAOF", "localhost", &port]), ok());
    wait_until("it is back", || syncs(&mut client) == [1, 1] && replica(&mut client).contains_key("offset"));
    drop(server);
    wait_until("the replica is gone", || field(&mut client, "connected_slaves") == "0");
}

/// Full and partial ones.
fn syncs(client: &mut Client) -> [u64; 2] {
    ["sync_full", "sync_partial_ok"].map(|name| info(client, name))
}

fn scrape(port: u16) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

#[test]
fn a_replica_refuses_what_only_a_primary_can() {
    let primary = start(&[]);
    let (_server, mut client) = follow(&primary, &[]);
    let port = primary.port.to_string();
    let again = Value::Simple(b"OK Already connected to specified master".to_vec());
    assert_eq!(client.call(&["REPLICAOF", LOCAL, &port]), again);
    assert_eq!(client.call(&["slaveof", LOCAL, &port]), again);
    for (line, text) in [
        ("SET a 1", "READONLY You can't write against a read only replica."),
        (
            "WAIT 0 0",
            "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is \
             configured to be writable (which is not the default) writes to replicas are just local and are not propagated.",
        ),
        (
            "WAITAOF 0 0 0",
            "ERR WAITAOF cannot be used with replica instances. Please also note that writes to replicas are just local \
             and are not propagated.",
        ),
        ("FAILOVER", "ERR FAILOVER is not valid when server is a replica."),
        ("FAILOVER TO a 1 FORCE TIMEOUT 1", "ERR FAILOVER is not valid when server is a replica."),
        ("FAILOVER ABORT", "ERR No failover in progress."),
    ] {
        assert_eq!(error(&mut client, line), text, "{line}");
    }
    let following = |client: &mut Client| words(client.call(&["CONFIG", "GET", "replicaof"]))[1].clone();
    assert_eq!(following(&mut client), format!("{LOCAL} {port}"));
    // Its primary has a replica now, and says what is wrong with other targets.
    let mut primary = primary.client();
    for (line, text) in [
        ("FAILOVER TO 127.0.0.1 1", "ERR FAILOVER target HOST and PORT is not a replica."),
        ("FAILOVER FORCE", "ERR FAILOVER with force option requires both a timeout and target HOST and IP."),
        (
            "FAILOVER TO 127.0.0.1 1 FORCE",
            "ERR FAILOVER with force option requires both a timeout and target HOST and IP.",
        ),
    ] {
        assert_eq!(error(&mut primary, line), text, "{line}");
    }
    assert_eq!(client.call(&["REPLICAOF", "NO", "ONE"]), ok());
    wait_until("it leads", || client.call(&["SET", "a", "1"]) == ok());
    wait_until("its configuration says so", || following(&mut client).is_empty());
    // What it was is its second id now.
    let fields = section(&mut client, "replication");
    assert_eq!(fields["master_replid2"], field(&mut primary, "master_replid"));
    assert_ne!(fields["second_repl_offset"], "-1");
}

#[test]
fn queued_writes_do_not_survive_becoming_a_replica() {
    let primary = start(&[]);
    let server = start(&[]);
    let mut queues = server.client();
    assert_eq!(queues.call(&["MULTI"]), ok());
    queues.call(&["SET", "a", "1"]);
    queues.call(&["SET", "{other}b", "1"]);
    let mut reads = server.client();
    assert_eq!(reads.call(&["MULTI"]), ok());
    reads.call(&["GET", "a"]);
    let mut client = server.client();
    assert_eq!(client.call(&["REPLICAOF", LOCAL, &primary.port.to_string()]), ok());
    wait_until("writes are refused", || matches!(client.call(&["SET", "x", "1"]), Value::Error(_)));
    let text = error(&mut queues, "EXEC");
    assert_eq!(
        text,
        "EXECABORT Transaction discarded because of: READONLY You can't write against a read only replica."
    );
    assert_eq!(error(&mut queues, "EXEC"), "ERR EXEC without MULTI");
    wait_until("it follows", || field(&mut client, "master_link_status") == "up");
    assert_eq!(reads.call(&["EXEC"]), Value::Array(vec![Value::Null]));
}

#[test]
fn writes_wait_for_enough_good_replicas() {
    let primary = start(&["--min-replicas-to-write", "1"]);
    let mut client = primary.client();
    const REFUSED: &str = "NOREPLICAS Not enough good replicas to write.";
    // From the first command on.
    assert_eq!(error(&mut client, "SET a 1"), REFUSED);
    assert_eq!(client.call(&["GET", "a"]), Value::Null);
    let (server, _) = follow(&primary, &[]);
    wait_until("there is a good replica", || client.call(&["SET", "a", "1"]) == ok());
    assert_eq!(field(&mut client, "min_slaves_good_slaves"), "1");
    assert_eq!(client.call(&["MULTI"]), ok());
    client.call(&["SET", "a", "2"]);
    drop(server);
    let mut other = primary.client();
    wait_until("the replica is gone", || matches!(other.call(&["SET", "b", "1"]), Value::Error(_)));
    assert_eq!(error(&mut other, "SET b 2"), REFUSED);
    assert_eq!(error(&mut client, "EXEC"), format!("EXECABORT Transaction discarded because of: {REFUSED}"));
    assert_eq!(client.call(&["GET", "a"]), Value::Bulk(b"1".to_vec()));
    // At run time; either of the two turns it off.
    assert_eq!(other.call(&["CONFIG", "SET", "min-replicas-max-lag", "0"]), ok());
    assert_eq!(other.call(&["SET", "b", "1"]), ok());
    assert_eq!(other.call(&["CONFIG", "SET", "min-replicas-max-lag", "10"]), ok());
    assert_eq!(error(&mut other, "SET b 2"), REFUSED);
    assert_eq!(other.call(&["CONFIG", "SET", "min-slaves-to-write", "0"]), ok());
    assert_eq!(other.call(&["SET", "b", "1"]), ok());
}

#[test]
fn quorum_is_configured_at_run_time() {
    let primary = start(&[]);
    let mut client = primary.client();
    let mut set = |name: &str, value: &str| assert_eq!(client.call(&["CONFIG", "SET", name, value]), ok(), "{name}");
    set("min-insync", "2");
    set("write-durability", "quorum");
    let mut client = primary.client();
    wait_until("one copy is not enough", || matches!(client.call(&["SET", "a", "1"]), Value::Error(_)));
    assert!(error(&mut client, "SET a 1").starts_with("NOREPLICAS"));
    let (server, mut follower) = follow(&primary, &[]);
    wait_until("two are", || client.call(&["SET", "a", "2"]) == ok());
    // What was acknowledged, a promoted replica has.
    assert_eq!(follower.call(&["REPLICAOF", "NO", "ONE"]), ok());
    wait_until("it leads", || field(&mut follower, "role") == "master");
    assert_eq!(follower.call(&["GET", "a"]), Value::Bulk(b"2".to_vec()));
    drop(server);
    for (name, value) in [("insync-timeout", "100"), ("min-insync", "1")] {
        assert_eq!(client.call(&["CONFIG", "SET", name, value]), ok());
    }
    wait_until("one is enough again", || client.call(&["SET", "a", "3"]) == ok());
}

#[test]
fn a_failover_is_told_of() {
    let primary = start(&[]);
    let mut client = primary.client();
    client.call(&["SET", "a", "1"]);
    let (server, mut follower) = follow(&primary, &[]);
    wait_until("the replica is in sync", || replica(&mut client).get("in_sync").is_some_and(|yes| yes == "1"));
    assert_eq!(client.call(&["FAILOVER", "TO", LOCAL, &server.port.to_string(), "TIMEOUT", "10000"]), ok());
    wait_until("the replica leads", || field(&mut follower, "role") == "master");
    wait_until("the primary follows", || field(&mut client, "master_link_status") == "up");
    assert_eq!(field(&mut client, "master_port"), server.port.to_string());
    let configured = format!("{LOCAL} {}", server.port);
    wait_until("its configuration says so", || words(client.call(&["CONFIG", "GET", "slaveof"]))[1] == configured);
    assert_eq!(field(&mut client, "master_replid"), field(&mut follower, "master_replid"));
    assert_eq!(field(&mut follower, "master_failover_state"), "no-failover");
    assert_eq!(follower.call(&["SET", "b", "2"]), ok());
    wait_until("the new log arrives", || client.call(&["GET", "b"]) == Value::Bulk(b"2".to_vec()));
}

/// What a redis-server finds that is told to follow.
#[test]
fn a_replica_of_redis_is_refused_with_a_reason() {
    let primary = start(&[]);
    let redis = Server::redis(&[]);
    let mut client = redis.client();
    assert_eq!(client.call(&["REPLICAOF", LOCAL, &primary.port.to_string()]), ok());
    wait_until("it has been told", || redis.log().contains("only a Keyloom node can follow this one"));
    assert!(primary.client().call(&["PING"]) == Value::Simple(b"PONG".to_vec()));
}
