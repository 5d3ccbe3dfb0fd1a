//! What clients on real sockets rely on: order, limits, isolation from each other, clean ends.

use std::io::{Read, Write};
use std::time::Duration;

use crate::common::{Client, Random, Server, bulk, seed, show, wait_until};
use keyloom::resp::read::{Value, encode_command};

fn simple(text: &str) -> Value {
    Value::Simple(text.into())
}

fn commands(all: &[&[&str]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    all.iter().for_each(|args| encode_command(args, &mut bytes));
    bytes
}

fn resident_kb(server: &Server) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_files(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

fn clients(observer: &mut Client) -> usize {
    let Value::Bulk(list) = observer.call(&["CLIENT", "LIST"]) else { panic!("CLIENT LIST is a bulk string") };
    list.split(|b| *b == b'\n').filter(|line| line.starts_with(b"id=")).count()
}

#[test]
fn broken_requests_get_the_text_of_redis_and_a_close() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let mut bystander = server.client();
    let long = "x".repeat(70_000);
    let cases: [(&str, &str); 9] = [
        ("*2147483648\r\n", "invalid multibulk length"),
        ("*x\r\n", "invalid multibulk length"),
        ("*1\r\n$-5\r\n", "invalid bulk length"),
        ("*1\r\n$536870913\r\n", "invalid bulk length"),
        ("*1\r\n$x\r\n", "invalid bulk length"),
        ("*1\r\nPING\r\n", "expected '$', got 'P'"),
        ("*1\r\n\r\n", "expected '$', got '\r'"),
        ("set \"a\r\n", "unbalanced quotes in request"),
        (&long, "too big inline request"),
    ];
    for (input, text) in cases {
        let mut client = server.client();
        client.send_bytes(b"PING\r\n");
        client.send_bytes(input.as_bytes());
        let got = client.read_to_end();
        let wanted = format!("+PONG\r\n-ERR Protocol error: {}\r\n", text.replace('\r', " "));
        assert_eq!(show(&got), show(wanted.as_bytes()), "after {}", show(&input.as_bytes()[..input.len().min(40)]));
        assert_eq!(bystander.call(&["PING"]), simple("PONG"));
    }
    for input in ["POST / HTTP/1.1\r\nHost: a\r\n\r\n", "Host: a\r\n"] {
        let mut client = server.client();
        client.send_bytes(input.as_bytes());
        assert_eq!(show(&client.read_to_end()), "");
    }
    for input in ["*0\r\nPING\r\n", "*-1\r\nPING\r\n", "\r\n\r\nPING\r\n"] {
        let mut client = server.client();
        client.send_bytes(input.as_bytes());
        assert_eq!(client.read(), simple("PONG"));
    }
}

/// A pipeline whose commands stay here, go to another core, are split over cores, or need all keys in one place.
fn mixed_pipeline() -> Vec<u8> {
    commands(&[
        &["SET", "a", "1"],
        &["SET", "b", "2"],
        &["SET", "c", "3"],
        &["MGET", "a", "b", "c", "none"],
        &["INCR", "a"],
        &["GET", "a"],
        &["SELECT", "1"],
        &["GET", "a"],
        &["SELECT", "0"],
        &["RENAME", "a", "d"],
        &["EXISTS", "a", "b", "c", "d"],
        &["ECHO", "between"],
        &["NOSUCHCOMMAND", "x"],
        &["GET"],
        &["HELLO", "3", "SETNAME", "me"],
        &["GET", "none"],
        &["CLIENT", "GETNAME"],
        &["DEL", "a", "b", "c", "d"],
        &["HELLO", "2"],
        &["DBSIZE"],
        &["PING"],
    ])
}

#[test]
fn a_pipeline_gives_the_same_replies_wherever_it_is_cut() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let bytes = mixed_pipeline();
    let replies = |cuts: &[usize]| {
        let mut client = server.client();
        client.call(&["FLUSHALL"]);
        let mut from = 0;
        for &cut in cuts.iter().chain([&bytes.len()]) {
            client.send_bytes(&bytes[from..cut]);
            // A round trip of another client: the pieces arrive one by one.
            server_has_seen(&server);
            from = cut;
        }
        let all: Vec<u8> = (0..21).flat_map(|_| client.read_raw()).collect();
        // The client's id, which HELLO tells, differs from connection to connection.
        let all = String::from_utf8_lossy(&all).replace("\r\n", "\n");
        let without_id = |(n, part): (usize, &str)| match n {
            0 => part.to_string(),
            _ => part.split_once('\n').unwrap().1.to_string(),
        };
        all.split("$2\nid\n:").enumerate().map(without_id).collect::<String>()
    };
    fn server_has_seen(server: &Server) {
        server.client().call(&["PING"]);
    }
    let whole = replies(&[]);
    assert!(whole.contains("between") && whole.contains("NOSUCHCOMMAND"), "{whole}");
    for cut in (1..bytes.len()).step_by(3) {
        assert_eq!(replies(&[cut]), whole, "cut at {cut}");
    }
}

#[test]
fn replies_come_in_the_order_of_requests_over_two_cores() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let seed = seed();
    let mut random = Random::new(seed);
    let mut client = server.client();
    let (mut bytes, mut wanted) = (Vec::new(), Vec::new());
    let mut counts = [0u32; 300];
    for _ in 0..10_000 {
        let key = random.below(counts.len());
        let name = format!("counter:{key}");
        match random.below(4) {
            0 => {
                encode_command(&["ECHO", &name], &mut bytes);
                wanted.push(bulk(name.as_bytes()));
            }
            1 => {
                encode_command(&["MGET", &name, "none"], &mut bytes);
                let count = counts[key];
                let value = if count == 0 { Value::Null } else { bulk(count.to_string().as_bytes()) };
                wanted.push(Value::Array(vec![value, Value::Null]));
            }
            _ => {
                counts[key] += 1;
                encode_command(&["INCR", &name], &mut bytes);
                wanted.push(Value::Int(counts[key] as i64));
            }
        }
    }
    let mut writer = client.stream().try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    for (at, wanted) in wanted.iter().enumerate() {
        assert_eq!(&client.read(), wanted, "reply {at}, seed {seed}");
    }
    sender.join().unwrap();
}

#[test]
fn clients_that_vanish_leave_nothing_behind_and_nothing_runs_twice() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let mut observer = server.client();
    // A connection that the server has not accepted yet is no descriptor of it.
    wait_until("the observer is the only client", || clients(&mut observer) == 1);
    let (files, seed) = (open_files(&server), seed());
    let mut random = Random::new(seed);
    for round in 0..40 {
        let group: Vec<Client> = (0..10)
            .map(|n| {
                let mut client = server.client();
                let mut bytes = Vec::new();
                for i in 0..200 {
                    encode_command(&["INCR", &format!("seen:{round}:{n}:{i}")], &mut bytes);
                }
                // Some send all of it, some only a part; none waits for a reply.
                let end = if random.one_in(2) { bytes.len() } else { random.below(bytes.len()) };
                client.send_bytes(&bytes[..end]);
                client
            })
            .collect();
        drop(group);
    }
    wait_until("all connections are gone", || clients(&mut observer) == 1);
    wait_until("all descriptors are closed", || open_files(&server) <= files);
    let Value::Array(keys) = observer.call(&["KEYS", "seen:*"]) else { panic!("KEYS is an array") };
    assert!(keys.len() > 1000, "{} keys", keys.len());
    for key in keys {
        let Value::Bulk(key) = key else { panic!("keys are bulk strings") };
        assert_eq!(observer.call(&[b"GET", key.as_slice()]), bulk(b"1"), "executed once, seed {seed}");
    }
}

#[test]
fn a_client_that_never_reads_costs_little_and_hurts_nobody() {
    let server = Server::keyloom(&["--cpus", "0"]);
    let mut bystander = server.client();
    bystander.call(&["SET", "big", &"x".repeat(1_000_000)]);
    let before = resident_kb(&server);
    let mut lazy = server.client();
    lazy.stream().set_nonblocking(true).unwrap();
    let request = commands(&[&["GET", "big"]]).repeat(100);
    let mut sent = 0;
    wait_until("the server no longer reads", || match lazy.stream().write(&request) {
        Ok(n) => {
            sent += n;
            sent > 50_000_000
        }
        Err(_) => bystander.call(&["PING"]) == simple("PONG"),
    });
    let grown = resident_kb(&server) - before;
    assert!(grown < 64 * 1024, "grew by {grown} KiB");
    drop(lazy);
    wait_until("it is gone", || clients(&mut bystander) == 1);
    // With a limit it is disconnected.
    bystander.call(&["CONFIG", "SET", "client-output-buffer-limit", "normal 100000 0 0"]);
    let mut lazy = server.client();
    lazy.send_bytes(&request);
    wait_until("it is disconnected", || clients(&mut bystander) == 1);
}

#[test]
fn unfinished_requests_of_many_clients_cost_only_what_was_sent() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let mut bystander = server.client();
    let before = resident_kb(&server);
    let held: Vec<Client> = (0..200)
        .map(|i| {
            let mut client = server.client();
            match i % 3 {
                0 => client.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\nxxxxxxxx"),
                1 => client.send_bytes(b"*1000000\r\n$3\r\nDEL\r\n$1\r\na\r\n"),
                _ => client.send_bytes(b"*2\r\n$4\r\nPI"),
            }
            client
        })
        .collect();
    wait_until("all are connected", || clients(&mut bystander) == 201);
    let grown = resident_kb(&server) - before;
    assert!(grown < 32 * 1024, "grew by {grown} KiB");
    drop(held);
    wait_until("all are gone", || clients(&mut bystander) == 1);
}

#[test]
fn large_values_travel_whole_and_readers_keep_what_they_asked_for() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let mut client = server.client();
    let value: Vec<u8> = (0..8_000_000u32).flat_map(|i| i.to_le_bytes()).collect();
    client.send(&[b"SET".as_slice(), b"large", &value]);
    assert_eq!(client.read(), simple("OK"));
    // Ask for the old value, do not read it yet, and change it meanwhile.
    client.send(&["GET", "large"]);
    let mut writer = server.client();
    assert_eq!(writer.call(&["SETRANGE", "large", "0", "changed"]), Value::Int(value.len() as i64));
    assert_eq!(writer.call(&["APPEND", "large", "!"]), Value::Int(value.len() as i64 + 1));
    let got = client.read();
    assert!(got == bulk(&value), "the reader got something else");
    assert_eq!(writer.call(&["GETRANGE", "large", "0", "6"]), bulk(b"changed"));
    // Many at once, from both cores.
    for i in 0..100 {
        client.call(&["SET", &format!("m:{i}"), &"y".repeat(100_000 + i)]);
    }
    let keys: Vec<String> = (0..100).map(|i| format!("m:{i}")).collect();
    let words: Vec<&str> = ["MGET"].into_iter().chain(keys.iter().map(String::as_str)).collect();
    let Value::Array(values) = client.call(&words) else { panic!("MGET is an array") };
    for (i, value) in values.iter().enumerate() {
        assert!(matches!(value, Value::Bulk(v) if v.len() == 100_000 + i), "value {i}");
    }
    let mut small = Server::keyloom(&["--cpus", "0", "--proto-max-bulk-len", "1mb"]);
    let mut client = small.client();
    client.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1048577\r\n");
    assert!(show(&client.read_to_end()).contains("invalid bulk length"));
    assert!(small.is_running());
}

#[test]
fn cores_that_flood_each_other_answer_everything() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let addr = server.addr();
    let threads: Vec<_> = (0..16)
        .map(|n| {
            std::thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(addr).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                let mut bytes = Vec::new();
                for i in 0..20_000 {
                    encode_command(&["SET", &format!("flood:{n}:{i}"), "v"], &mut bytes);
                }
                let mut writer = stream.try_clone().unwrap();
                let sender = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
                let mut replies = vec![0; 20_000 * 5];
                stream.read_exact(&mut replies).unwrap();
                sender.join().unwrap();
                assert!(replies.chunks(5).all(|reply| reply == b"+OK\r\n"));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(server.client().call(&["DBSIZE"]), Value::Int(16 * 20_000));
}

#[test]
fn access_and_the_limits_before_it() {
    let server = Server::keyloom(&["--cpus", "0-1", "--requirepass", "secret", "--maxclients", "50"]);
    let noauth = Value::Error(b"NOAUTH Authentication required.".to_vec());
    let mut client = server.client();
    assert_eq!(client.call(&["GET", "a"]), noauth);
    client.send_bytes(b"*11\r\n");
    assert!(show(&client.read_to_end()).contains("unauthenticated multibulk length"));
    let mut client = server.client();
    client.send_bytes(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n");
    assert!(show(&client.read_to_end()).contains("unauthenticated bulk length"));
    let mut client = server.client();
    assert!(matches!(client.call(&["AUTH", "wrong"]), Value::Error(e) if e.starts_with(b"WRONGPASS")));
    // Authentication counts for what follows in the same write.
    client.send_bytes(&commands(&[&["AUTH", "secret"], &["SET", "a", &"x".repeat(20_000)], &["STRLEN", "a"]]));
    assert_eq!(client.read(), simple("OK"));
    assert_eq!(client.read(), simple("OK"));
    assert_eq!(client.read(), Value::Int(20_000));
    wait_until("the clients above are gone", || clients(&mut client) == 1);
    let held: Vec<Client> = (1..50).map(|_| server.client()).collect();
    wait_until("there are fifty", || clients(&mut client) == 50);
    let refused = server.client().read_to_end();
    assert_eq!(show(&refused), show(b"-ERR max number of clients reached\r\n"));
    drop(held);
}

#[test]
fn clients_are_listed_paused_and_killed_across_cores() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let mut all: Vec<Client> = (0..6).map(|_| server.client()).collect();
    let ids: Vec<Value> = all.iter_mut().map(|client| client.call(&["CLIENT", "ID"])).collect();
    let mut admin = all.pop().unwrap();
    assert_eq!(clients(&mut admin), 6);
    assert_eq!(admin.call(&["CLIENT", "PAUSE", "100000", "WRITE"]), simple("OK"));
    for client in &mut all {
        assert_eq!(client.call(&["GET", "a"]), Value::Null);
        client.send(&["SET", "a", "1"]);
        client.send(&["GET", "a"]);
    }
    assert_eq!(admin.call(&["GET", "a"]), Value::Null, "no write got through");
    assert_eq!(admin.call(&["CLIENT", "UNPAUSE"]), simple("OK"));
    for client in &mut all {
        assert_eq!(client.read(), simple("OK"));
        assert_eq!(client.read(), bulk(b"1"));
    }
    let Value::Int(victim) = ids[0] else { panic!("ids are integers") };
    assert_eq!(admin.call(&["CLIENT", "KILL", "ID", &victim.to_string()]), Value::Int(1));
    assert_eq!(show(&all[0].read_to_end()), "");
    assert_eq!(admin.call(&["CLIENT", "KILL", "TYPE", "normal"]), Value::Int(4));
    wait_until("all others are gone", || clients(&mut admin) == 1);
}

#[test]
fn monitors_see_what_all_cores_execute() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let mut monitor = server.client();
    assert_eq!(monitor.call(&["MONITOR"]), simple("OK"));
    let mut others: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for (n, client) in others.iter_mut().enumerate() {
        for i in 0..5 {
            client.call(&["SET", &format!("k:{n}:{i}"), "v"]);
        }
    }
    let mut lines: Vec<String> = Vec::new();
    while lines.iter().filter(|line| line.contains("\"SET\"")).count() < 20 {
        lines.push(String::from_utf8(monitor.read_raw()).unwrap());
    }
    for n in 0..4 {
        let own: Vec<_> = lines.iter().filter(|line| line.contains(&format!("\"k:{n}:"))).collect();
        assert!(own.iter().enumerate().all(|(i, line)| line.contains(&format!("\"k:{n}:{i}\""))), "{own:?}");
    }
}

#[test]
fn reply_modes_timeouts_and_unix_sockets() {
    let dir = std::env::temp_dir().join(format!("keyloom-network-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("socket");
    let server = Server::keyloom(&["--cpus", "0-1", "--unixsocket", path.to_str().unwrap(), "--timeout", "1"]);
    let mut client = server.client();
    let quiet: [&[&str]; 4] = [&["CLIENT", "REPLY", "OFF"], &["SET", "a", "1"], &["GET", "a"], &["NOSUCH"]];
    client.send_bytes(&commands(&quiet));
    assert_eq!(client.call(&["CLIENT", "REPLY", "ON"]), simple("OK"));
    client.send_bytes(&commands(&[&["CLIENT", "REPLY", "SKIP"], &["GET", "a"], &["GET", "a"], &["PING"]]));
    assert_eq!(client.read(), bulk(b"1"));
    assert_eq!(client.read(), simple("PONG"));
    let mut local = std::os::unix::net::UnixStream::connect(&path).unwrap();
    local.write_all(b"GET a\r\n").unwrap();
    let mut reply = [0; 7];
    local.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"$1\r\n1\r\n");
    // Idle for longer than the timeout: closed by the server.
    assert_eq!(show(&client.read_to_end()), "");
    drop(server);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_slow_command_stops_only_its_core() {
    let server = Server::keyloom(&["--cpus", "0-1", "--enable-debug-command", "yes"]);
    let mut sleeper = server.client();
    let mut others: Vec<Client> = (0..2).map(|_| server.client()).collect();
    sleeper.send(&["DEBUG", "SLEEP", "2"]);
    // Of two clients that came one after the other, one is on the other core.
    others.iter_mut().for_each(|client| client.send(&["PING"]));
    let answered = |client: &mut Client| {
        client.set_timeout(Duration::from_millis(500));
        client.try_read_raw().is_some()
    };
    assert!(others.iter_mut().any(answered), "the other core is stopped, too");
    assert_eq!(sleeper.read(), simple("OK"));
}
