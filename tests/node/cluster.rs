//! A cluster of one node: what it says of itself, what it refuses, and that it stays who it is.
//!
//! The same commands to redis-server 7.0, as a cluster of one, get the same replies. Without redis-server that test does
//! nothing, unless `KEYLOOM_REDIS_SERVER` says that there is one. Clients for clusters: `tests/clients.rs`.

use std::process::{Command, Stdio};

use crate::common::{Client, Server, free_port, ok, two_free_ports};
use keyloom::resp::read::Value;

const ARGS: &[&str] = &["--cpus", "0-1", "--cluster-enabled", "yes"];

fn run(client: &mut Client, line: &str) -> Value {
    client.call(&line.split(' ').collect::<Vec<_>>())
}

/// Runs the program to its end, which is a failure; what it said.
fn refused(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyloom"));
    let output = command.args(args).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn a_node_stays_who_it_is() {
    let mut server = Server::keyloom(ARGS);
    let id = run(&mut server.client(), "CLUSTER MYID");
    assert!(matches!(&id, Value::Bulk(id) if id.len() == 40), "{id:?}");
    server.restart(ARGS);
    assert_eq!(run(&mut server.client(), "CLUSTER MYID"), id);
    assert_ne!(run(&mut Server::keyloom(ARGS).client(), "CLUSTER MYID"), id);
    let (dir, file) = (server.dir().to_path_buf(), server.dir().join("cluster/node-id"));
    server.kill();
    std::fs::write(&file, "not an id\n").unwrap();
    let said = refused(&[&["--port", "0", "--dir", dir.to_str().unwrap()], ARGS].concat());
    assert!(said.contains("cluster/node-id' does not hold a node's id"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "not an id\n");
}

#[test]
fn a_cluster_has_one_database_and_more_partitions() {
    let server = Server::keyloom(ARGS);
    let mut client = server.client();
    let get = |client: &mut Client, name: &str| match run(client, &format!("CONFIG GET {name}")) {
        Value::Array(pair) => pair[1].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(get(&mut client, "databases"), Value::Bulk(b"1".to_vec()));
    assert_eq!(get(&mut client, "partitions"), Value::Bulk(b"1024".to_vec()));
    let server = Server::keyloom(&[ARGS, &["--partitions", "64"]].concat());
    assert_eq!(get(&mut server.client(), "partitions"), Value::Bulk(b"64".to_vec()));
    let said = refused(&[&["--port", "0", "--replicaof", "127.0.0.1", "6379"], ARGS].concat());
    assert!(said.contains("replicaof 127.0.0.1 6379") && said.contains("not in cluster mode"), "{said}");
}

#[test]
fn commands_over_slots_of_this_node_are_a_choice() {
    let server = Server::keyloom(ARGS);
    let mut client = server.client();
    let crossed = Value::Error("CROSSSLOT Keys in request don't hash to the same slot".into());
    assert_eq!(run(&mut client, "MSET a 1 b 2 c 3"), crossed);
    assert_eq!(run(&mut client, "EXISTS a"), Value::Int(0));
    assert_eq!(run(&mut client, "CONFIG SET cluster-allow-local-crossslot yes"), ok());
    assert_eq!(run(&mut client, "MSET a 1 b 2 c 3"), ok());
    assert_eq!(run(&mut client, "EXISTS a b c"), Value::Int(3));
    assert_eq!(run(&mut client, "MULTI"), ok());
    for key in ["a", "b"] {
        assert_eq!(run(&mut client, &format!("INCR {key}")), Value::Simple("QUEUED".into()));
    }
    assert_eq!(run(&mut client, "EXEC"), Value::Array(vec![Value::Int(2), Value::Int(3)]));
}

/// Every key is counted in its slot, whichever core has it.
#[test]
fn slots_know_their_keys() {
    let server = Server::keyloom(ARGS);
    let mut client = server.client();
    for key in 0..500 {
        assert_eq!(run(&mut client, &format!("SET {{{}}}{key} x", key % 50)), ok());
    }
    for tag in 0..50 {
        let slot = match run(&mut client, &format!("CLUSTER KEYSLOT {tag}")) {
            Value::Int(slot) => slot,
            other => panic!("{other:?}"),
        };
        assert_eq!(run(&mut client, &format!("CLUSTER COUNTKEYSINSLOT {slot}")), Value::Int(10), "{tag}");
        let Value::Array(names) = run(&mut client, &format!("CLUSTER GETKEYSINSLOT {slot} 100")) else { panic!() };
        let prefix = format!("{{{tag}}}");
        assert_eq!(names.len(), 10);
        assert!(names.iter().all(|name| matches!(name, Value::Bulk(name) if name.starts_with(prefix.as_bytes()))));
    }
}

/// What does not depend on ids and addresses.
const LINES: &[&str] = &[
    "CLUSTER KEYSLOT foo",
    "CLUSTER KEYSLOT {foo}bar",
    "CLUSTER COUNTKEYSINSLOT 0",
    "CLUSTER COUNTKEYSINSLOT 16383",
    "CLUSTER COUNTKEYSINSLOT 16384",
    "CLUSTER COUNTKEYSINSLOT -1",
    "CLUSTER COUNTKEYSINSLOT x",
    "CLUSTER GETKEYSINSLOT 16384 1",
    "CLUSTER GETKEYSINSLOT 0 -1",
    "CLUSTER GETKEYSINSLOT 0 0",
    "CLUSTER GETKEYSINSLOT 0 x",
    "CLUSTER LINKS",
    "CLUSTER REPLICAS x",
    "CLUSTER SLAVES x",
    "CLUSTER COUNT-FAILURE-REPORTS x",
    "CLUSTER KEYSLOT",
    "CLUSTER",
    "READONLY",
    "READWRITE",
    "ASKING",
    "SELECT 0",
    "SELECT 1",
    "SELECT x",
    "SWAPDB 0 1",
    "REPLICAOF 127.0.0.1 1",
    "MSET a 1 b 2",
    "MSET {a}1 1 {a}2 2",
    "MGET {a}1 {a}2 a",
    "MGET a b",
    "GET {a}1",
    "DEL a b",
    "EXISTS a b",
    "RENAME a b",
    "RENAME {a}1 {a}3",
    "SINTERSTORE {a} b c",
    "ZUNIONSTORE d 1 e",
    "LMPOP 2 a b LEFT",
    "BLPOP a b 0",
    "XYZ a b",
    "WATCH a b",
    "WATCH {a}1 {a}2",
    "SORT a STORE b",
    "SORT l BY nosort",
    "PUBLISH a b",
    "SPUBLISH a b",
    "CLUSTER COUNTKEYSINSLOT 15495",
    "MULTI",
    "SET a 1",
    "SET {a}b 1",
    "EXEC",
    "MULTI",
    "SET a 1",
    "SET b 1",
    "EXEC",
    "PING",
    "EXISTS b",
    "MULTI",
    "MGET a b",
    "SET a 1",
    "EXEC",
    "DBSIZE",
    "FLUSHALL",
    "DBSIZE",
];

#[test]
fn replies_are_those_of_redis() {
    if Server::redis_version().is_none() {
        assert!(std::env::var_os("KEYLOOM_REDIS_SERVER").is_none(), "the redis-server that was named does not run");
        return;
    }
    let port = free_port().to_string();
    let redis = Server::redis(&["--cluster-enabled", "yes", "--cluster-port", &port]);
    let mut theirs = redis.client();
    assert_eq!(run(&mut theirs, "CLUSTER ADDSLOTSRANGE 0 16383"), ok());
    crate::common::wait_until("a cluster that serves", || run(&mut theirs, "SET x 1") == ok());
    assert_eq!(run(&mut theirs, "FLUSHALL"), ok());
    let server = Server::keyloom(ARGS);
    let mut ours = server.client();
    for line in LINES {
        assert_eq!(run(&mut ours, line), run(&mut theirs, line), "{line}");
    }
}

/// Of CLUSTER SLOTS: the ranges with their ports.
fn ports_of_slots(client: &mut Client) -> Vec<(i64, i64, i64)> {
    let Value::Array(ranges) = run(client, "CLUSTER SLOTS") else { panic!("an array") };
    let range = |range: Value| match range {
        Value::Array(parts) => match &parts[..] {
            [Value::Int(first), Value::Int(last), Value::Array(node)] => match node[1] {
                Value::Int(port) => (*first, *last, port),
                _ => panic!("{node:?}"),
            },
            _ => panic!("{parts:?}"),
        },
        other => panic!("{other:?}"),
    };
    ranges.into_iter().map(range).collect()
}

#[test]
fn each_core_can_be_reached_at_a_port_of_its_own() {
    let first = two_free_ports();
    let port = first.to_string();
    let server = Server::keyloom(&[ARGS, &["--core-endpoints", "yes", "--core-port", &port]].concat());
    let at = |port: u16| Client::try_connect(([127, 0, 0, 1], port).into()).expect("it listens");
    let ports = [server.addr().port(), first, first + 1];
    let expected = [(0, 8191, i64::from(first)), (8192, 16383, i64::from(first) + 1)];
    let mut ids = Vec::new();
    for (port, other) in ports.into_iter().zip(ports) {
        let mut client = at(port);
        assert_eq!(ports_of_slots(&mut client), expected);
        let Value::Bulk(id) = run(&mut client, "CLUSTER MYID") else { panic!("a string") };
        let id = String::from_utf8(id).unwrap();
        // Everybody is told of the same three, and which of them is asked.
        let (Value::Verbatim { text, .. } | Value::Bulk(text)) = run(&mut client, "CLUSTER NODES") else {
            panic!("text")
        };
        let text = String::from_utf8(text).unwrap();
        let mut addresses: Vec<String> = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            addresses.push(words[1].into());
            assert_eq!(words[0] == id, words[2] == "myself,master", "{text}");
            if words[0] == id {
                assert_eq!(words[1], format!("127.0.0.1:{other}@0"));
            }
        }
        assert_eq!(addresses, ports.map(|port| format!("127.0.0.1:{port}@0")));
        ids.push(id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    // Whoever follows the slots is handed on by nobody; other requests are served all the same.
    let hops = |client: &mut Client| crate::common::info(client, "core_hops");
    let mut clients = [at(first), at(first + 1)];
    let before = hops(&mut clients[0]);
    for n in 0..200 {
        let key = format!("key:{n}");
        let owner = usize::from(keyloom::route::slot_of(key.as_bytes()) >= 8192);
        assert_eq!(clients[owner].call(&["SET", &key, "v"]), ok());
        assert_eq!(clients[owner].call(&["INCRBY", &format!("{{{key}}}n"), "7"]), Value::Int(7));
    }
    assert_eq!(hops(&mut clients[0]), before);
    for n in 0..200 {
        assert_eq!(clients[0].call(&["GET", &format!("key:{n}")]), Value::Bulk(b"v".to_vec()));
    }
    assert!(hops(&mut clients[0]) > before + 50);
    // Clients ask all nodes for all keys: to them these are the cores.
    let (mut counted, mut scanned, mut listed) = (0, Vec::new(), Vec::new());
    for client in &mut clients {
        let Value::Int(count) = run(client, "DBSIZE") else { panic!("a number") };
        assert!((100..300).contains(&count), "{count}");
        counted += count;
        let Value::Array(keys) = run(client, "KEYS *") else { panic!("an array") };
        listed.extend(keys);
        let mut cursor = "0".to_string();
        loop {
            let Value::Array(reply) = run(client, &format!("SCAN {cursor} COUNT 50")) else { panic!("an array") };
            let [Value::Bulk(next), Value::Array(keys)] = &reply[..] else { panic!("{reply:?}") };
            scanned.extend(keys.clone());
            cursor = String::from_utf8(next.clone()).unwrap();
            if cursor == "0" {
                break;
            }
        }
        let Value::Bulk(random) = run(client, "RANDOMKEY") else { panic!("a key") };
        assert_eq!(client.call(&[b"EXISTS", &random[..]]), Value::Int(1));
    }
    assert_eq!(counted, 400);
    for keys in [&mut scanned, &mut listed] {
        keys.sort_by_key(|key| format!("{key:?}"));
        keys.dedup();
        assert_eq!(keys.len(), 400);
    }
    let mut anywhere = server.client();
    assert_eq!(run(&mut anywhere, "DBSIZE"), Value::Int(400));
    assert_eq!(run(&mut clients[1], "FLUSHALL"), ok());
    assert_eq!(run(&mut anywhere, "DBSIZE"), Value::Int(0));
}

#[test]
fn ports_of_cores_that_cannot_be_are_refused() {
    let dir = std::env::temp_dir();
    let with = |args: &[&str]| refused(&[&["--dir", dir.to_str().unwrap(), "--core-endpoints", "yes"], args].concat());
    let alone = with(&["--port", "7000"]);
    assert!(alone.contains("core-endpoints yes") && alone.contains("cluster-enabled yes"), "{alone}");
    let beyond = with(&["--port", "7000", "--cluster-enabled", "yes", "--cpus", "0-1", "--core-port", "65535"]);
    assert!(beyond.contains("core-port"), "{beyond}");
    let own = with(&["--port", "7000", "--cluster-enabled", "yes", "--cpus", "0-1", "--core-port", "6999"]);
    assert!(own.contains("port 7000") && own.contains("a core has this port"), "{own}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let own = free_port().to_string();
    let said = with(&["--port", &own, "--cluster-enabled", "yes", "--cpus", "0", "--core-port", &port]);
    assert!(said.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{said}");
}
