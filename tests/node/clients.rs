//! The clients people use, over RESP2 and RESP3, against the program: redis-cli, redis-benchmark, redis-py, ioredis,
//! node-redis and redis-rs.
//!
//! `scripts/install-peers.sh` installs them; one that is missing fails its test. Each has a server of its own, with two
//! cores, so that commands with many keys reach across them. After each, no connection may be left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Server, wait_until};
use keyloom::resp::read::Value;
use redis::{Commands, Connection, ErrorKind, RedisResult, ServerErrorKind};

/// Longest run of a client program.
const RUN_MAX: Duration = Duration::from_secs(120);
const INSTALL: &str = "run scripts/install-peers.sh";

fn two_cores() -> Server {
    Server::keyloom(&["--cpus", "0-1"])
}

/// Where `scripts/install-peers.sh` puts the packages of Python and node.
fn packages() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients")
}

/// Runs a program to its end, which has to be a success with nothing on stderr; its stdout.
#[track_caller]
fn run(server: &Server, program: &str, args: &[&str]) -> String {
    let paths = ["stdout", "stderr"].map(|name| server.dir().join(format!("client-{name}")));
    let [stdout, stderr] = paths.clone().map(|path| File::create(path).unwrap());
    let mut python_path = packages().join("python").into_os_string();
    if let Some(more) = std::env::var_os("PYTHONPATH") {
        python_path.push(":");
        python_path.push(more);
    }
    let mut child = Command::new(program)
        .args(args)
        .env("CLIENTS", packages())
        .env("PYTHONPATH", python_path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program} ({error}): {INSTALL}"));
    let end = Instant::now() + RUN_MAX;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let [stdout, stderr] = paths.map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned());
    let ok = status.is_some_and(|status| status.success());
    assert!(ok && stderr.is_empty(), "{program} {args:?}: {status:?} (None: too slow)\n{stdout}\n{stderr}");
    stdout
}

/// Waits until the server has no connection but the one that asks.
#[track_caller]
fn all_disconnected(server: &Server) {
    let mut client = server.client();
    wait_until("all clients are gone", || match client.call(&["CLIENT", "LIST"]) {
        Value::Bulk(list) => list.iter().filter(|&&byte| byte == b'\n').count() == 1,
        other => panic!("CLIENT LIST: {other:?}"),
    });
}

/// Runs a script of `tests/clients` over both protocols.
#[track_caller]
fn run_script(program: &str, name: &str) {
    run_script_on(&two_cores(), program, name);
}

#[track_caller]
fn run_script_on(server: &Server, program: &str, name: &str) {
    let script = format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"));
    for protocol in ["2", "3"] {
        assert_eq!(run(server, program, &[&script, &server.port.to_string(), protocol]), "passed\n");
        all_disconnected(server);
    }
}

#[test]
fn redis_py() {
    run_script("python3", "redis_py.py");
}

/// Clients that look for a cluster, and find one of one node.
fn cluster_of_one() -> Server {
    Server::keyloom(&["--cpus", "0-1", "--cluster-enabled", "yes"])
}

#[test]
fn redis_py_cluster() {
    run_script_on(&cluster_of_one(), "python3", "redis_py_cluster.py");
}

#[test]
fn ioredis_cluster() {
    run_script_on(&cluster_of_one(), "node", "ioredis_cluster.mjs");
}

#[test]
fn redis_cli_in_cluster_mode() {
    let server = cluster_of_one();
    let port = server.port.to_string();
    assert_eq!(run(&server, "redis-cli", &["-c", "-p", &port, "SET", "key", "value"]), "OK\n");
    assert_eq!(run(&server, "redis-cli", &["-c", "-p", &port, "GET", "key"]), "value\n");
    let check = run(&server, "redis-cli", &["--cluster", "check", &format!("127.0.0.1:{port}")]);
    assert!(check.contains("[OK] All 16384 slots covered."), "{check}");
    all_disconnected(&server);
}

#[test]
fn ioredis() {
    run_script("node", "ioredis.mjs");
}

#[test]
fn node_redis() {
    run_script("node", "node_redis.mjs");
}

#[test]
fn redis_cli() {
    let server = two_cores();
    let port = server.port.to_string();
    for protocol in ["-2", "-3"] {
        let cli = |args: &[&str]| run(&server, "redis-cli", &[&["-p", &port, protocol], args].concat());
        assert_eq!(cli(&["FLUSHALL"]), "OK\n");
        assert_eq!(cli(&["PING"]), "PONG\n");
        assert_eq!(cli(&["SET", "key", "some value"]), "OK\n");
        assert_eq!(cli(&["GET", "key"]), "some value\n");
        assert_eq!(cli(&["--no-raw", "GET", "absent"]), "(nil)\n");
        assert_eq!(cli(&["--no-raw", "INCR", "count"]), "(integer) 1\n");
        assert_eq!(cli(&["INCR", "key"]), "ERR value is not an integer or out of range\n\n");
        assert_eq!(cli(&["-n", "3", "DBSIZE"]), "0\n");
        let config = cli(&["--no-raw", "CONFIG", "GET", "databases"]);
        let array = "1) \"databases\"\n2) \"16\"\n";
        assert_eq!(config, if protocol == "-3" { "1# \"databases\" => \"16\"\n" } else { array });
        for i in 0..30 {
            cli(&["SET", &format!("scan:{i}"), "x"]);
        }
        let listed = cli(&["--scan", "--pattern", "scan:*"]);
        let expected: BTreeSet<_> = (0..30).map(|i| format!("scan:{i}")).collect();
        assert_eq!(listed.lines().map(str::to_string).collect::<BTreeSet<_>>(), expected);
        let info = cli(&["INFO"]);
        assert!(info.contains(&format!("tcp_port:{port}\r\n")), "{info}");
        assert!(info.contains("db0:keys=32,expires=0"), "{info}");
        all_disconnected(&server);
    }
}

#[test]
fn redis_benchmark() {
    let server = two_cores();
    let port = server.port.to_string();
    let args = ["-p", &port, "-q", "-n", "2000", "-P", "8", "-t", "ping,set,get,incr,mset"];
    let output = run(&server, "redis-benchmark", &args);
    assert!(!output.to_lowercase().contains("err"), "{output}");
    for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"] {
        let done = |line: &str| line.starts_with(&format!("{test}: ")) && line.contains("requests per second");
        assert!(output.split(['\r', '\n']).any(done), "no result of {test}: {output}");
    }
    // Rows of commands in `INFO commandstats`: how many of each ran.
    let stats = match server.client().call(&["INFO", "commandstats"]) {
        Value::Bulk(stats) => String::from_utf8(stats).unwrap(),
        other => panic!("{other:?}"),
    };
    for (command, calls_min) in [("ping", 4000), ("set", 2000), ("get", 2000), ("incr", 2000), ("mset", 2000)] {
        let row = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        let calls: u64 = row.and_then(|row| row.split(',').next()).unwrap_or("0").parse().unwrap();
        assert!(calls >= calls_min, "{calls} calls of {command}: {stats}");
    }
    all_disconnected(&server);
}

/// Every byte, and what the protocol itself is made of.
fn binary() -> Vec<u8> {
    (0..=255).chain(*b"\r\n$-1\r\n").collect()
}

fn open(server: &Server, db: u8, protocol: u8) -> Connection {
    let url = format!("redis://127.0.0.1:{}/{db}?protocol=resp{protocol}", server.port);
    let connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    connection
}

#[test]
fn redis_rs() {
    let server = two_cores();
    for protocol in [2, 3] {
        let mut client = open(&server, 0, protocol);
        let () = client.flushall().unwrap();
        rs_connection(&mut client, protocol);
        rs_values(&mut client);
        rs_pipeline(&mut client);
        rs_errors(&mut client);
        rs_many_keys(&mut client);
        rs_expiry(&mut client);
        rs_scan(&mut client);
        rs_databases(&server, &mut client, protocol);
        rs_server(&server, &mut client);
        rs_messages(&server, &mut client);
        drop(client);
        all_disconnected(&server);
    }
}

fn rs_connection(client: &mut Connection, protocol: u8) {
    assert_eq!(client.ping::<String>().unwrap(), "PONG");
    let hello: BTreeMap<String, redis::Value> = redis::cmd("HELLO").query(client).unwrap();
    assert_eq!(hello["proto"], redis::Value::Int(protocol.into()));
    assert_eq!(client.client_setname::<_, String>("redis-rs").unwrap(), "OK");
    assert_eq!(client.client_getname::<Option<String>>().unwrap().as_deref(), Some("redis-rs"));
    let id: u64 = client.client_id().unwrap();
    let list: String = redis::cmd("CLIENT").arg("LIST").query(client).unwrap();
    let own = list.lines().find(|line| line.starts_with(&format!("id={id} "))).unwrap();
    for field in ["name=redis-rs", "db=0", "cmd=client|list", &format!("resp={protocol}"), "lib-name=redis-rs"] {
        assert!(own.split(' ').any(|word| word == field), "no {field}: {own}");
    }
}

fn rs_values(client: &mut Connection) {
    assert_eq!(client.get::<_, Option<String>>("absent").unwrap(), None);
    let binary = binary();
    assert_eq!(client.set::<_, _, String>(&binary, &binary).unwrap(), "OK");
    assert_eq!(client.get::<_, Vec<u8>>(&binary).unwrap(), binary);
    assert_eq!(client.keys::<_, Vec<Vec<u8>>>("*$-1*").unwrap(), std::slice::from_ref(&binary));
    let big: Vec<u8> = binary.iter().copied().cycle().take(5 * 1024 * 1024).collect();
    assert_eq!(client.set::<_, _, String>("big", &big).unwrap(), "OK");
    assert_eq!(client.strlen::<_, usize>("big").unwrap(), big.len());
    assert!(client.get::<_, Vec<u8>>("big").unwrap() == big, "a large value comes back changed");
    assert_eq!(client.getrange::<_, Vec<u8>>("big", 254, 258).unwrap(), b"\xfe\xff\r\n$");
    assert_eq!(client.incr::<_, _, i64>("count", 42).unwrap(), 42);
    assert_eq!(client.incr::<_, _, f64>("count", 0.5).unwrap(), 42.5);
}

fn rs_pipeline(client: &mut Connection) {
    let mut pipe = redis::pipe();
    for i in 0..500 {
        let key = format!("pipe:{i}");
        pipe.set(&key, i).ignore().get(&key);
    }
    assert_eq!(pipe.query::<Vec<i64>>(client).unwrap(), (0..500).collect::<Vec<_>>());
}

fn rs_errors(client: &mut Connection) {
    let mut fails = |args: &[&str], detail: &str| {
        let error = redis::cmd(args[0]).arg(&args[1..]).query::<redis::Value>(client).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Server(ServerErrorKind::ResponseError), "{error}");
        assert_eq!(error.code(), Some("ERR"), "{error}");
        assert!(error.detail().unwrap().starts_with(detail), "{error}");
    };
    fails(&["SET", "word", "abc", "NOSUCH"], "syntax error");
    fails(&["NOSUCH", "a"], "unknown command 'NOSUCH'");
    fails(&["GET"], "wrong number of arguments for 'get' command");
    fails(&["SELECT", "16"], "DB index is out of range");
    let () = client.set("word", "abc").unwrap();
    let not_a_number: RedisResult<i64> = client.incr("word", 1);
    assert_eq!(not_a_number.unwrap_err().detail(), Some("value is not an integer or out of range"));
    assert_eq!(client.ping::<String>().unwrap(), "PONG");
}

fn rs_many_keys(client: &mut Connection) {
    let pairs: Vec<(String, String)> = (0..200).map(|i| (format!("many:{i}"), format!("value {i}"))).collect();
    let (names, values): (Vec<_>, Vec<_>) = pairs.iter().cloned().unzip();
    assert_eq!(client.mset::<_, _, String>(&pairs).unwrap(), "OK");
    assert_eq!(client.mget::<_, Vec<String>>(&names).unwrap(), values);
    assert_eq!(client.exists::<_, usize>(&names).unwrap(), 200);
    assert_eq!(client.del::<_, usize>(&names).unwrap(), 200);
    assert_eq!(client.mget::<_, Vec<Option<String>>>(&names).unwrap(), vec![None; 200]);
}

fn rs_expiry(client: &mut Connection) {
    let () = client.set_ex("lease", "x", 100).unwrap();
    assert!((91..=100).contains(&client.ttl::<_, i64>("lease").unwrap()));
    assert!((90_001..=100_000).contains(&client.pttl::<_, i64>("lease").unwrap()));
    assert!(client.persist::<_, bool>("lease").unwrap());
    assert_eq!(client.ttl::<_, i64>("lease").unwrap(), -1);
    assert_eq!(client.ttl::<_, i64>("absent").unwrap(), -2);
    assert!(client.pexpire::<_, bool>("lease", 1).unwrap());
    wait_until("the key expires", || client.get::<_, Option<String>>("lease").unwrap().is_none());
    assert!(!client.exists::<_, bool>("lease").unwrap());
}

fn rs_scan(client: &mut Connection) {
    let expected: BTreeSet<String> = (0..2000).map(|i| format!("scan:{i}")).collect();
    let pairs: Vec<_> = expected.iter().map(|key| (key, "")).collect();
    let () = client.mset(&pairs).unwrap();
    let seen: RedisResult<BTreeSet<String>> = client.scan_match("scan:*").unwrap().collect();
    assert_eq!(seen.unwrap(), expected);
}

fn rs_databases(server: &Server, client: &mut Connection, protocol: u8) {
    let () = client.flushall().unwrap();
    let () = client.set("where", "zero").unwrap();
    let mut third = open(server, 3, protocol);
    assert_eq!(third.get::<_, Option<String>>("where").unwrap(), None);
    let () = third.mset(&[("a", 1), ("b", 2), ("c", 3)]).unwrap();
    let info: redis::InfoDict = redis::cmd("INFO").arg("keyspace").query(client).unwrap();
    assert!(info.get::<String>("db0").unwrap().starts_with("keys=1,expires=0"));
    assert!(info.get::<String>("db3").unwrap().starts_with("keys=3,expires=0"));
    let () = redis::cmd("SELECT").arg(0).query(&mut third).unwrap();
    assert_eq!(third.get::<_, String>("where").unwrap(), "zero");
}

/// Subscribers as redis-rs has them, on both cores.
fn rs_messages(server: &Server, client: &mut Connection) {
    let mut subscribers: Vec<Connection> = (0..4).map(|_| open(server, 0, 2)).collect();
    let mut pubsubs: Vec<_> = subscribers.iter_mut().map(|connection| connection.as_pubsub()).collect();
    for pubsub in &mut pubsubs {
        // One by one: redis-rs waits for one confirmation per call.
        pubsub.subscribe("news").unwrap();
        pubsub.subscribe("weather").unwrap();
        pubsub.psubscribe("n*s").unwrap();
    }
    let binary = binary();
    assert_eq!(client.publish::<_, _, i64>("news", &binary).unwrap(), 8);
    assert_eq!(client.publish::<_, _, i64>("weather", "rain").unwrap(), 4);
    for pubsub in &mut pubsubs {
        for pattern in [None, Some("n*s".to_string())] {
            let message = pubsub.get_message().unwrap();
            assert_eq!(message.get_channel_name(), "news");
            assert_eq!(message.get_pattern::<Option<String>>().unwrap(), pattern);
            assert_eq!(message.get_payload_bytes(), binary);
        }
        assert_eq!(pubsub.get_message().unwrap().get_payload::<String>().unwrap(), "rain");
        pubsub.unsubscribe("weather").unwrap();
    }
    assert_eq!(client.publish::<_, _, i64>("weather", "sun").unwrap(), 0);
    // Dropping them ends the other subscriptions.
    drop(pubsubs);
    subscribers.iter_mut().for_each(|connection| assert_eq!(connection.ping::<String>().unwrap(), "PONG"));
    assert_eq!(client.publish::<_, _, i64>("news", "none").unwrap(), 0);
}

fn rs_server(server: &Server, client: &mut Connection) {
    let config = |pattern: &str, client: &mut Connection| -> BTreeMap<String, String> {
        redis::cmd("CONFIG").arg("GET").arg(pattern).query(client).unwrap()
    };
    let policy = config("maxmemory-policy", client);
    assert_eq!(policy, BTreeMap::from([("maxmemory-policy".to_string(), "noeviction".to_string())]));
    assert_eq!(config("no-such-*", client), BTreeMap::new());
    let info: redis::InfoDict = redis::cmd("INFO").query(client).unwrap();
    assert_eq!(info.get::<u16>("tcp_port"), Some(server.port));
    assert_eq!(info.get::<String>("redis_mode").as_deref(), Some("standalone"));
    assert!(info.get::<u64>("connected_clients").unwrap() >= 1);
}
