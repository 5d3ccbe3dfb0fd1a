//! Two cores behind their sockets: order of replies, exactly one execution, no deadlock, and commands that reach all
//! cores. Each test starts the program with `--cpus 0-1`; what one core does alone is in `network.rs`.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::common::{Client, Random, Server, bulk, ok, pong, seed, show, wait_until};
use keyloom::resp::read::{Value, encode_command};

const CORES: u64 = 2;

fn two_cores(args: &[&str]) -> Server {
    Server::keyloom(&[&["--cpus", "0-1"], args].concat())
}

fn text(value: Value) -> String {
    match value {
        Value::Bulk(text) | Value::Verbatim { text, .. } => String::from_utf8(text).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn int(value: Value) -> i64 {
    match value {
        Value::Int(n) => n,
        other => panic!("{other:?}"),
    }
}

fn encoded(command: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_command(command, &mut bytes);
    bytes
}

fn info(client: &mut Client, field: &str) -> String {
    let text = text(client.call(&["INFO", "everything"]));
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).to_string()
}

fn wait_until_alone(client: &mut Client) {
    wait_until("the other clients are gone", || info(client, "connected_clients") == "1");
    assert_eq!(text(client.call(&["CLIENT", "LIST"])).lines().count(), 1);
}

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

/// Resident memory of a server.
fn resident_bytes(server: &Server) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// One client on each core; a client's id tells its core.
fn one_client_per_core(server: &Server) -> [Client; CORES as usize] {
    let mut clients: BTreeMap<u64, Client> = BTreeMap::new();
    wait_until("each core has a client", || {
        let mut client = server.client();
        let id = int(client.call(&["CLIENT", "ID"])) as u64;
        clients.entry((id - 1) % CORES).or_insert(client);
        clients.len() == CORES as usize
    });
    let clients: Vec<Client> = clients.into_values().collect();
    clients.try_into().unwrap_or_else(|_| unreachable!())
}

fn reset(mut client: Client) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option value outlives the call and has the length given; the socket is open.
    let result = unsafe {
        libc::setsockopt(
            client.stream().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as u32,
        )
    };
    assert_eq!(result, 0);
}

/// Random commands of one client on keys of its own, with the replies that they must get.
struct Script {
    name: String,
    numbers: BTreeMap<usize, i64>,
    requests: Vec<u8>,
    replies: Vec<u8>,
}

impl Script {
    const KEYS: usize = 40;

    fn new(name: String) -> Script {
        Script { name, numbers: BTreeMap::new(), requests: Vec::new(), replies: Vec::new() }
    }

    fn random(name: String, commands: usize, random: &mut Random) -> Script {
        let mut script = Script::new(name);
        (0..commands).for_each(|_| script.add(random));
        script
    }

    fn key(&self, n: usize) -> String {
        format!("{}:{n}", self.name)
    }

    fn number(&self, n: usize) -> String {
        self.numbers.get(&n).map_or("$-1\r\n".into(), |number| {
            let digits = number.to_string();
            format!("${}\r\n{digits}\r\n", digits.len())
        })
    }

    fn add(&mut self, random: &mut Random) {
        let (a, b, c) = (random.below(Self::KEYS), random.below(Self::KEYS), random.below(Self::KEYS));
        let (key_a, key_b, key_c) = (self.key(a), self.key(b), self.key(c));
        let (request, reply) = match random.below(100) {
            0..50 => {
                let number = self.numbers.entry(a).or_default();
                *number += 1;
                (encoded(&["INCR", &key_a]), format!(":{number}\r\n"))
            }
            50..65 => (encoded(&["GET", &key_a]), self.number(a)),
            65..75 => {
                let all = [a, b, c].map(|n| self.number(n)).concat();
                (encoded(&["MGET", &key_a, &key_b, &key_c]), format!("*3\r\n{all}"))
            }
            75..80 => {
                self.numbers.extend([(a, 5), (b, 6)]);
                (encoded(&["MSET", &key_a, "5", &key_b, "6"]), "+OK\r\n".into())
            }
            80..84 => {
                let gone = [a, b].iter().filter(|n| self.numbers.remove(n).is_some()).count();
                (encoded(&["DEL", &key_a, &key_b]), format!(":{gone}\r\n"))
            }
            84..88 => match self.numbers.get(&a).copied() {
                Some(number) => {
                    self.numbers.remove(&a);
                    self.numbers.insert(b, number);
                    (encoded(&["RENAME", &key_a, &key_b]), "+OK\r\n".into())
                }
                None => (encoded(&["RENAME", &key_a, &key_b]), "-ERR no such key\r\n".into()),
            },
            88..92 => (b"PING\r\n".to_vec(), "+PONG\r\n".into()),
            92..95 => {
                let n = random.next().to_string();
                (encoded(&["ECHO", &n]), format!("${}\r\n{n}\r\n", n.len()))
            }
            95..97 => (encoded(&["CLIENT", "LIST", "ID", "999999999"]), "$0\r\n\r\n".into()),
            97..99 => (encoded(&["SELECT", "0"]), "+OK\r\n".into()),
            _ => (encoded(&["GET"]), "-ERR wrong number of arguments for 'get' command\r\n".into()),
        };
        self.requests.extend(request);
        self.replies.extend(reply.as_bytes());
    }
}

/// Sends `requests` in pieces while it reads exactly `want`.
fn exchange(client: &mut Client, requests: &[u8], want: &[u8], pieces: &mut dyn Iterator<Item = usize>) {
    let mut writer = client.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut at = 0;
            while at < want.len() {
                let reply = client.read_raw();
                let end = (at + reply.len()).min(want.len());
                assert_eq!(show(&reply), show(&want[at..end]), "at byte {at}");
                at = end;
            }
        });
        let mut rest = requests;
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(pieces.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
            writer.write_all(piece).unwrap();
            rest = later;
        }
        reader.join().unwrap();
    });
}

#[test]
fn replies_come_in_the_order_of_requests() {
    let server = two_cores(&[]);
    let seed = seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for (core, mut client) in one_client_per_core(&server).into_iter().enumerate() {
        let script = Script::random(format!("whole{core}"), 10_000, &mut random);
        exchange(&mut client, &script.requests, &script.replies, &mut std::iter::empty());
        let script = Script::random(format!("split{core}"), 3000, &mut random);
        let mut pieces = std::iter::repeat_with(|| 1 + random.below(200));
        exchange(&mut client, &script.requests, &script.replies, &mut pieces);
    }
}

#[test]
fn half_closed_connections_get_every_reply_from_both_cores() {
    let server = two_cores(&[]);
    let seed = seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for round in 0..50 {
        let script = Script::random(format!("half{round}"), 1 + random.below(60), &mut random);
        let mut client = server.client();
        client.send_bytes(&script.requests);
        client.stream().shutdown(Shutdown::Write).unwrap();
        assert_eq!(show(&client.read_to_end()), show(&script.replies), "round {round}");
    }
    wait_until_alone(&mut server.client());
}

#[test]
fn cores_that_flood_each_other_answer_everything() {
    let server = two_cores(&[]);
    let seed = seed();
    println!("seed {seed}");
    std::thread::scope(|scope| {
        for n in 0..50 {
            let server = &server;
            scope.spawn(move || {
                let mut random = Random::new(seed ^ n);
                let script = Script::random(format!("flood{n}"), 2000, &mut random);
                let mut client = server.client();
                exchange(&mut client, &script.requests, &script.replies, &mut std::iter::empty());
            });
        }
    });
    wait_until_alone(&mut server.client());
}

#[test]
fn what_a_vanished_client_sent_is_executed_at_most_once_and_leaves_nothing_behind() {
    let server = two_cores(&[]);
    let seed = seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut control = server.client();
    const CLIENTS: usize = 60;
    const COUNTERS: usize = 400;
    let mut answered = 0;
    for n in 0..CLIENTS {
        let mut client = server.client();
        let mut requests = Vec::new();
        for counter in 0..COUNTERS {
            encode_command(&["INCR", &format!("once:{n}:{counter}")], &mut requests);
            if counter % 10 == 0 {
                // Executed by both cores, or by none.
                let (a, b) = (format!("pair:{n}:{counter}:a"), format!("pair:{n}:{counter}:b"));
                encode_command(&["MSET", &a, "1", &b, "1"], &mut requests);
            }
        }
        client.send_bytes(&requests);
        for _ in 0..random.below(100) {
            client.read_raw();
            answered += 1;
        }
        if random.one_in(2) { reset(client) } else { drop(client) }
    }
    wait_until_alone(&mut control);
    let mut executed = 0;
    for n in 0..CLIENTS {
        for counter in 0..COUNTERS {
            match control.call(&["GET", &format!("once:{n}:{counter}")]) {
                Value::Null => {}
                value => {
                    assert_eq!(value, bulk(b"1"));
                    executed += 1;
                }
            }
            if counter % 10 == 0 {
                let (a, b) = (format!("pair:{n}:{counter}:a"), format!("pair:{n}:{counter}:b"));
                assert_ne!(control.call(&["EXISTS", &a, &b]), Value::Int(1), "half an MSET: {a}");
            }
        }
    }
    assert!(executed + executed / 10 + CLIENTS >= answered, "{executed} executed, {answered} answered");
    let calls = info(&mut control, "cmdstat_incr");
    assert!(calls.starts_with(&format!("calls={executed},")), "{executed}: {calls}");
    assert_eq!(info(&mut control, "connected_clients"), "1");
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let server = two_cores(&[]);
    let seed = seed();
    println!("seed {seed}");
    let mut control = server.client();
    wait_until_alone(&mut control);
    let before = descriptors(&server);
    std::thread::scope(|scope| {
        let server = &server;
        for n in 0..4 {
            scope.spawn(move || {
                let mut random = Random::new(seed ^ n);
                let mut client = server.client();
                for round in 0..5 {
                    let script = Script::random(format!("steady{n}:{round}"), 2000, &mut random);
                    exchange(&mut client, &script.requests, &script.replies, &mut std::iter::empty());
                }
            });
        }
        for n in 0..4 {
            scope.spawn(move || churn(server, n, Random::new(!seed ^ n)));
        }
    });
    wait_until_alone(&mut control);
    wait_until("all descriptors are closed", || descriptors(&server) == before);
    assert!(info(&mut control, "total_connections_received").parse::<usize>().unwrap() >= 2000);
}

/// The kernel does not always tell that a connection was reset when that happens right behind its last bytes.
#[test]
fn clients_that_reset_within_a_request_are_forgotten() {
    let server = two_cores(&[]);
    let mut control = server.client();
    wait_until_alone(&mut control);
    let before = descriptors(&server);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for n in 0..10_000 {
                    let mut client = server.client();
                    client.send_bytes(&vec![b'x'; 1 + n % 7 * 1000]);
                    reset(client);
                }
            });
        }
    });
    wait_until_alone(&mut control);
    wait_until("all descriptors are closed", || descriptors(&server) == before);
}

#[test]
fn a_half_closed_client_whose_last_bytes_are_no_request_is_let_go() {
    let server = two_cores(&[]);
    let mut control = server.client();
    for n in 0..8 {
        let big = vec![b'b'; 20_000_000 + n * 100_000];
        assert_eq!(control.call(&[b"SET", b"big", &big[..]]), ok());
        let mut client = server.client();
        client.send(&["GET", "big"]);
        wait_until("the reply is held up", || {
            let list = text(control.call(&["CLIENT", "LIST"]));
            list.lines().any(|line| !line.contains(" omem=0 "))
        });
        client.send_bytes(b"\r\n");
        client.stream().shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read_to_end().len(), big.len() + "$20000000\r\n\r\n".len());
    }
    wait_until_alone(&mut control);
}

/// Opens and ends 500 connections in every way there is.
fn churn(server: &Server, thread: u64, mut random: Random) {
    let mut open: Vec<Client> = Vec::new();
    for n in 0..500 {
        let mut client = server.client();
        let script = Script::random(format!("churn{thread}:{n}"), random.below(30), &mut random);
        let cut = if random.one_in(3) { random.below(script.requests.len() + 1) } else { script.requests.len() };
        client.send_bytes(&script.requests[..cut]);
        match random.below(5) {
            0 => reset(client),
            1 => {
                client.stream().shutdown(Shutdown::Write).unwrap();
                let got = client.read_to_end();
                assert_eq!(show(&got), show(&script.replies[..got.len()]));
            }
            2 if cut == script.requests.len() => {
                client.send(&["QUIT"]);
                let got = client.read_to_end();
                assert_eq!(show(&got), show(&[&script.replies[..], b"+OK\r\n"].concat()));
            }
            3 => open.push(client),
            _ => drop(client),
        }
        if open.len() > 20 {
            open.swap_remove(random.below(21));
        }
    }
}

#[test]
fn large_values_cross_cores_whole() {
    let server = two_cores(&[]);
    let mut clients = one_client_per_core(&server);
    let value = |n: usize| vec![(n % 251) as u8; 50_000 + n];
    let keys: Vec<String> = (0..1000).map(|n| format!("large:{n}")).collect();
    let mut mset: Vec<Vec<u8>> = vec![b"MSET".to_vec()];
    for (n, key) in keys.iter().enumerate() {
        mset.extend([key.clone().into_bytes(), value(n)]);
    }
    assert_eq!(clients[0].call(&mset), ok());
    let mut mget: Vec<&str> = vec!["MGET"];
    mget.extend(keys.iter().map(String::as_str));
    for client in &mut clients {
        let Value::Array(values) = client.call(&mget) else { panic!("no array") };
        assert_eq!(values.len(), 1000);
        for (n, got) in values.iter().enumerate() {
            assert!(*got == bulk(value(n)), "{n}");
        }
    }
    let big = vec![b'b'; 20_000_000];
    for (n, client) in clients.iter_mut().enumerate() {
        // One of them is local and one is not.
        for key in 0..4 {
            assert_eq!(client.call(&[b"SET", format!("big:{n}:{key}").as_bytes(), &big]), ok());
        }
    }
    for client in &mut clients {
        for key in 0..4 {
            assert!(client.call(&["GET", &format!("big:0:{key}")]) == bulk(&big));
        }
    }
}

#[test]
fn a_key_named_twice_by_a_command_over_both_cores_survives() {
    let server = two_cores(&[]);
    let mut client = server.client();
    for n in 0..20 {
        let (old, new) = (format!("old{n}"), format!("new{n}"));
        assert_eq!(client.call(&["SET", &old, "here"]), ok());
        assert_eq!(client.call(&["MSETNX", &old, "1", &new, "2", &old, "3"]), Value::Int(0));
        assert_eq!(client.call(&["GET", &old]), bulk(b"here"));
        assert_eq!(client.call(&["MSETNX", &new, "1", &format!("{new}:"), "2", &new, "3"]), Value::Int(1));
        assert_eq!(client.call(&["MGET", &new, &format!("{new}:")]), Value::Array(vec![bulk(b"3"), bulk(b"2")]));
    }
}

#[test]
fn output_held_for_a_client_that_wants_no_replies_does_not_stop_it() {
    let server = two_cores(&["--enable-debug-command", "yes"]);
    let value = vec![b'v'; 2_000_000];
    for mut client in one_client_per_core(&server) {
        let mut pipeline = Vec::new();
        for n in 0..4 {
            encode_command(&[b"SET", format!("held{n}").as_bytes(), &value], &mut pipeline);
        }
        for n in 0..8 {
            encode_command(&["GET", &format!("held{}", n % 4)], &mut pipeline);
        }
        encode_command(&["CLIENT", "REPLY", "OFF"], &mut pipeline);
        for n in 0..500 {
            encode_command(&["INCR", &format!("quiet{n}")], &mut pipeline);
        }
        encode_command(&["CLIENT", "REPLY", "ON"], &mut pipeline);
        encode_command(&["INCR", "quiet0"], &mut pipeline);
        encode_command(&["DEL", "quiet0"], &mut pipeline);
        let mut writer = client.stream().try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&pipeline).unwrap());
            (0..4).for_each(|_| assert_eq!(client.read(), ok()));
            (0..8).for_each(|_| assert!(client.read() == bulk(&value)));
            assert_eq!(client.read(), ok());
            assert_eq!(client.read(), Value::Int(2));
            assert_eq!(client.read(), Value::Int(1));
        });
    }
}

#[test]
fn clients_see_and_end_each_other_across_cores() {
    let server = two_cores(&[]);
    let mut clients = one_client_per_core(&server);
    let ids = [0, 1].map(|n| int(clients[n].call(&["CLIENT", "ID"])));
    let addrs = [0, 1].map(|n| clients[n].local_addr().to_string());
    for n in [0, 1] {
        assert_eq!(clients[n].call(&["CLIENT", "SETNAME", &format!("client{n}")]), ok());
    }
    wait_until("only these two are left", || info(&mut clients[0], "connected_clients") == "2");
    for client in &mut clients {
        let list = text(client.call(&["CLIENT", "LIST"]));
        assert_eq!(list.lines().count(), 2, "{list}");
        for n in [0, 1] {
            let line = format!("id={} addr={} ", ids[n], addrs[n]);
            let found = list.lines().find(|l| l.starts_with(&line)).unwrap_or_else(|| panic!("{line} in {list}"));
            assert!(found.contains(&format!(" name=client{n} ")), "{found}");
        }
    }
    let [mut near, mut far] = clients;
    assert_eq!(near.call(&["CLIENT", "KILL", "ID", "999999"]), Value::Int(0));
    assert_eq!(near.call(&["CLIENT", "KILL", "ID", &ids[1].to_string()]), Value::Int(1));
    assert_eq!(far.read_to_end(), b"");
    let mut other = server.client();
    assert_eq!(other.call(&["CLIENT", "KILL", &addrs[0]]), ok());
    assert_eq!(near.read_to_end(), b"");
    assert_eq!(other.call(&["CLIENT", "KILL", &addrs[0]]), Value::Error(b"ERR No such client".to_vec()));
    let addr = other.local_addr().to_string();
    let _crowd: Vec<Client> = (0..10).map(|_| server.client()).collect();
    wait_until("all are there", || info(&mut other, "connected_clients") == "11");
    assert_eq!(other.call(&["CLIENT", "KILL", "TYPE", "normal"]), Value::Int(10));
    wait_until("all others are gone", || info(&mut other, "connected_clients") == "1");
    // Itself, in the middle of a pipeline: it gets the answer, and nothing after it is executed.
    other.send_bytes(&[encoded(&["CLIENT", "KILL", &addr]), encoded(&["SET", "late", "1"])].concat());
    assert_eq!(other.read_to_end(), b"+OK\r\n");
    assert_eq!(server.client().call(&["EXISTS", "late"]), Value::Int(0));
}

#[test]
fn a_pause_holds_all_cores() {
    let server = two_cores(&[]);
    let [mut a, mut b] = one_client_per_core(&server);
    for (mode, reads) in [("WRITE", true), ("ALL", false)] {
        let mut blocked: Vec<Client> = (0..4).map(|_| server.client()).collect();
        blocked.iter_mut().for_each(|client| assert_eq!(client.call(&["DEL", "p"]), Value::Int(0)));
        assert_eq!(a.call(&["CLIENT", "PAUSE", "100000", mode]), ok());
        for client in &mut blocked {
            client.send_bytes(&[encoded(&["INCR", "p"]), encoded(&["PING"])].concat());
        }
        if reads {
            assert_eq!(b.call(&["GET", "p"]), Value::Null);
            assert_eq!(a.call(&["GET", "p"]), Value::Null);
        }
        // All of them wait with their requests.
        wait_until("four clients have sent", || {
            let list = text(b.call(&["CLIENT", "LIST"]));
            list.lines().filter(|line| line.contains(" cmd=incr ")).count() == 4
        });
        for client in &mut blocked {
            client.set_timeout(Duration::from_millis(1));
            assert_eq!(client.try_read_raw(), None);
            client.set_timeout(Duration::from_secs(20));
        }
        assert_eq!(b.call(&["CLIENT", "UNPAUSE"]), ok());
        let mut numbers: Vec<i64> = blocked.iter_mut().map(|client| int(client.read())).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2, 3, 4]);
        blocked.iter_mut().for_each(|client| assert_eq!(client.read(), pong()));
        assert_eq!(a.call(&["DEL", "p"]), Value::Int(1));
    }
    // It also ends by itself.
    assert_eq!(a.call(&["CLIENT", "PAUSE", "200"]), ok());
    let start = Instant::now();
    assert_eq!(b.call(&["SET", "p", "1"]), ok());
    assert!(start.elapsed() >= Duration::from_millis(100), "it was not held");
}

#[test]
fn a_half_closed_client_is_answered_after_a_pause() {
    let server = two_cores(&[]);
    let [mut a, _b] = one_client_per_core(&server);
    let mut paused: Vec<Client> = (0..4).map(|_| server.client()).collect();
    paused.iter_mut().for_each(|client| assert_eq!(client.call(&["PING"]), pong()));
    assert_eq!(a.call(&["CLIENT", "PAUSE", "100000"]), ok());
    for client in &mut paused {
        client.send(&["INCR", "p"]);
        client.stream().shutdown(Shutdown::Write).unwrap();
    }
    wait_until("four clients have sent", || {
        text(a.call(&["CLIENT", "LIST"])).lines().filter(|line| line.contains(" cmd=incr ")).count() == 4
    });
    assert_eq!(a.call(&["CLIENT", "UNPAUSE"]), ok());
    let mut replies: Vec<Vec<u8>> = paused.iter_mut().map(Client::read_to_end).collect();
    replies.sort_unstable();
    assert_eq!(replies, [b":1\r\n", b":2\r\n", b":3\r\n", b":4\r\n"]);
}

#[test]
fn monitors_see_every_core_in_the_order_of_each_client_and_no_secrets() {
    let server = two_cores(&[]);
    let [mut near, mut far] = one_client_per_core(&server);
    let mut monitors: Vec<Client> = (0..4).map(|_| server.client()).collect();
    monitors.iter_mut().for_each(|client| assert_eq!(client.call(&["MONITOR"]), ok()));
    // The other core knows that somebody watches before it answers this.
    wait_until("all monitors are known", || info(&mut far, "connected_clients") == "6");
    near.call(&["AUTH", "default", "hunter2"]);
    for n in 0..200 {
        near.send(&["SET", &format!("near{n}"), "\"x\r\n\""]);
        far.send(&["SET", &format!("far{n}"), "y"]);
    }
    for _ in 0..200 {
        assert_eq!(near.read(), ok());
        assert_eq!(far.read(), ok());
    }
    for client in &mut monitors {
        let (mut near_seen, mut far_seen) = (0, 0);
        while near_seen < 200 || far_seen < 200 {
            let Value::Simple(line) = client.read() else { panic!("not a line") };
            let line = String::from_utf8(line).unwrap();
            assert!(!line.contains("hunter2"), "{line}");
            if line.contains("\"near") {
                assert!(line.ends_with(&format!("] \"SET\" \"near{near_seen}\" \"\\\"x\\r\\n\\\"\"")), "{line}");
                near_seen += 1;
            } else if line.contains("\"far") {
                assert!(line.ends_with(&format!("] \"SET\" \"far{far_seen}\" \"y\"")), "{line}");
                far_seen += 1;
            }
        }
    }
    drop(monitors);
    wait_until("the monitors are gone", || info(&mut near, "connected_clients") == "2");
}

#[test]
fn settings_reach_every_core_before_the_answer() {
    let server = two_cores(&[]);
    let mut clients = one_client_per_core(&server);
    for n in 1..30 {
        let limit = (1_048_576 + n).to_string();
        let [a, b] = &mut clients;
        assert_eq!(a.call(&["CONFIG", "SET", "proto-max-bulk-len", &limit]), ok());
        for client in [b, a] {
            let Value::Array(pair) = client.call(&["CONFIG", "GET", "proto-max-bulk-len"]) else { panic!("no array") };
            assert_eq!(pair[1], bulk(limit.as_bytes()));
        }
        clients.reverse();
    }
    for mut client in clients {
        client.send_bytes(b"*1\r\n$1048700\r\n");
        assert_eq!(client.read_to_end(), b"-ERR Protocol error: invalid bulk length\r\n");
    }
}

#[test]
fn a_sleeping_core_does_not_stop_the_other_and_both_log_slow_commands() {
    let server = two_cores(&["--enable-debug-command", "yes", "--slowlog-log-slower-than", "100000"]);
    let [mut a, mut b] = one_client_per_core(&server);
    a.send(&["DEBUG", "SLEEP", "1"]);
    (0..20).for_each(|_| assert_eq!(b.call(&["PING"]), pong()));
    a.stream().set_nonblocking(true).unwrap();
    assert_eq!(a.try_read_raw(), None, "the other core answered while this one slept");
    a.stream().set_nonblocking(false).unwrap();
    assert_eq!(a.read(), ok());
    assert_eq!(b.call(&["DEBUG", "SLEEP", "0.15"]), ok());
    for client in [&mut a, &mut b] {
        assert_eq!(client.call(&["SLOWLOG", "LEN"]), Value::Int(2));
        let Value::Array(entries) = client.call(&["SLOWLOG", "GET"]) else { panic!("no array") };
        let seconds: Vec<Value> = entries
            .iter()
            .map(|entry| match entry {
                Value::Array(fields) => match &fields[3] {
                    Value::Array(args) => args[2].clone(),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(seconds, [bulk(b"0.15"), bulk(b"1")], "the newest first");
    }
    assert_eq!(a.call(&["SLOWLOG", "RESET"]), ok());
    assert_eq!(b.call(&["SLOWLOG", "LEN"]), Value::Int(0));
}

#[test]
fn replies_owed_by_other_cores_are_delivered_at_the_end() {
    for how in ["SIGTERM", "SHUTDOWN"] {
        let mut server = two_cores(&["--enable-debug-command", "yes"]);
        let [mut a, mut b] = one_client_per_core(&server);
        // These wait for the second core, which sleeps.
        let mut waiting: Vec<Client> = (0..4).map(|_| server.client()).collect();
        waiting.iter_mut().for_each(|client| assert_eq!(client.call(&["PING"]), pong()));
        assert_eq!(a.call(&["MSET", "x1", "1", "x2", "2", "x3", "3", "x4", "4", "x5", "5", "x6", "6"]), ok());
        b.send(&["DEBUG", "SLEEP", "0.3"]);
        for client in &mut waiting {
            client.send(&["MGET", "x1", "x2", "x3", "x4", "x5", "x6"]);
        }
        // Whoever is on the first core is being served now; the answers of the second are missing.
        assert_eq!(a.call(&["PING"]), pong());
        match how {
            "SHUTDOWN" => a.send(&["SHUTDOWN", "NOSAVE"]),
            // SAFETY: a signal to a process that this test has started and not yet waited for.
            _ => assert_eq!(unsafe { libc::kill(server.pid() as i32, libc::SIGTERM) }, 0),
        }
        let whole = b"*6\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n$1\r\n5\r\n$1\r\n6\r\n";
        let got: Vec<Vec<u8>> = waiting.iter_mut().map(Client::read_to_end).collect();
        // Clients of the sleeping core may be told nothing; nobody gets a part of a reply.
        assert!(got.iter().all(|reply| reply.is_empty() || reply == whole), "{got:?}");
        assert!(got.iter().filter(|reply| *reply == whole).count() >= 2, "{how}: {got:?}");
        assert_eq!(b.read_to_end(), b"+OK\r\n");
        assert_eq!(server.wait_for_exit(Duration::from_secs(10)), Some(0));
    }
}

#[test]
fn replies_of_many_keys_are_held_back_too() {
    let server = two_cores(&[]);
    let mut control = server.client();
    let value = vec![b'v'; 10_000];
    let keys: Vec<String> = (0..100).map(|n| format!("v{n}")).collect();
    for key in &keys {
        assert_eq!(control.call(&[b"SET", key.as_bytes(), &value]), ok());
    }
    let before = resident_bytes(&server);
    let mut mget: Vec<&str> = vec!["MGET"];
    mget.extend(keys.iter().map(String::as_str));
    // Two gigabytes, if all of it were executed.
    const REQUESTS: usize = 2000;
    let mut silent = server.client();
    silent.send_bytes(&encoded(&mget).repeat(REQUESTS));
    let (mut waiting, mut unchanged) = (0, 0);
    wait_until("nothing more is executed for it", || {
        let list = text(control.call(&["CLIENT", "LIST"]));
        let omem = |line: &str| line.split(" omem=").nth(1)?.split(' ').next()?.parse::<usize>().ok();
        let now = list.lines().filter_map(omem).max().unwrap_or_default();
        unchanged = if now == waiting && now > 0 { unchanged + 1 } else { 0 };
        waiting = now;
        unchanged == 40
    });
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < 300_000_000, "{grown} bytes for a client that does not read");
    let want = Value::Array(vec![bulk(&value); keys.len()]);
    (0..100).for_each(|_| assert!(silent.read() == want));
    drop(silent);
    // And nobody is held for good.
    let mut client = server.client();
    client.send_bytes(&encoded(&mget).repeat(200));
    (0..200).for_each(|_| assert!(client.read() == want));
    assert_eq!(client.call(&["PING"]), pong());
}

#[test]
fn clients_that_do_not_read_are_held_by_both_cores_and_then_served() {
    let server = two_cores(&[]);
    let mut control = server.client();
    let value = vec![b'v'; 10_000];
    for n in 0..10 {
        assert_eq!(control.call(&[b"SET", format!("v{n}").as_bytes(), &value]), ok());
    }
    let before = resident_bytes(&server);
    let mut requests = Vec::new();
    (0..10_000).for_each(|n| encode_command(&["GET", &format!("v{}", n % 10)], &mut requests));
    let mut silent: Vec<Client> = (0..4).map(|_| server.client()).collect();
    silent.iter_mut().for_each(|client| client.send_bytes(&requests));
    for n in 0..200 {
        assert_eq!(control.call(&["INCR", &format!("n{}", n % 10)]), Value::Int(n / 10 + 1));
    }
    // Each may have the replies to 1,024 requests on its way between the cores.
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < 150_000_000, "{grown} bytes for clients that do not read");
    let want = [&b"$10000\r\n"[..], &value, b"\r\n"].concat();
    for client in silent.iter_mut().skip(2) {
        (0..10_000).for_each(|_| assert!(client.read_raw() == want));
        assert_eq!(client.call(&["PING"]), pong());
    }
    drop(silent);
    wait_until_alone(&mut control);
}
