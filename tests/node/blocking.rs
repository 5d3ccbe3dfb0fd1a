//! Clients that wait for an element: the same ones get the same as from redis-server 7.0, whatever cores they and their keys
//! live on; and nothing is lost or given twice, whoever vanishes.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Client, Random, Server, info, show, wait_until};
use keyloom::resp::read::Value;

/// Clients of one sequence, sequences, and steps of each.
const CLIENTS: usize = 6;
const SEQUENCES: u64 = 25;
const STEPS: usize = 120;

/// How long a server may take to do what it does at once.
const AT_ONCE_MAX: Duration = Duration::from_secs(10);

/// What a client that is not waiting says next. `$k` is a key, `$v` a value.
const COMMANDS: &[&str] = &[
    "BLPOP $k 0",
    "BLPOP $k $k 0",
    "BLPOP $k $k $k 0",
    "BRPOP $k $k 0",
    "BLMOVE $k $k LEFT RIGHT 0",
    "BLMOVE $k $k RIGHT LEFT 0",
    "BRPOPLPUSH $k $k 0",
    "BLMPOP 0 2 $k $k LEFT",
    "BLMPOP 0 1 $k RIGHT COUNT 2",
    "BZPOPMIN $k 0",
    "BZPOPMAX $k $k 0",
    "BZMPOP 0 2 $k $k MIN COUNT 2",
    "RPUSH $k $v",
    "RPUSH $k $v",
    "LPUSH $k $v $v $v",
    "RPUSHX $k $v",
    "LPOP $k",
    "LLEN $k",
    "LMOVE $k $k LEFT LEFT",
    "ZADD $k 1 $v 2 $v",
    "ZADD $k 5 $v",
    "ZINCRBY $k 3 $v",
    "ZPOPMIN $k",
    "ZUNIONSTORE $k 2 $k $k",
    "RENAME $k $k",
    "COPY $k $k REPLACE",
    "SET $k $v",
    "DEL $k",
    "DEL $k $k",
    "TYPE $k",
    "BLPOP $k x",
    "BLPOP $k -1",
    "BLMPOP 0 0 $k LEFT",
    "BLMOVE $k $k LEFT UP 0",
    "BZPOPMIN $k nan",
];

/// One server and its clients.
struct Side {
    name: &'static str,
    server: Server,
    control: Client,
    clients: Vec<Client>,
    ids: Vec<String>,
}

impl Side {
    fn new(name: &'static str, server: Server) -> Side {
        let control = server.client();
        Side { name, server, control, clients: Vec::new(), ids: Vec::new() }
    }

    fn connect(&mut self, version: u8) {
        self.clients = (0..CLIENTS).map(|_| self.server.client_of(version)).collect();
        let id = |client: &mut Client| match client.call(&["CLIENT", "ID"]) {
            Value::Int(id) => id.to_string(),
            other => panic!("CLIENT ID is {other:?}"),
        };
        self.ids = self.clients.iter_mut().map(id).collect();
    }

    fn blocked(&mut self) -> u64 {
        info(&mut self.control, "blocked_clients")
    }
}

/// Whether something has arrived that was not read.
fn has_reply(client: &mut Client) -> bool {
    let stream = client.stream();
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    match peeked {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

struct Sequence<'a> {
    sides: &'a mut [Side],
    random: Random,
    waiting: BTreeSet<usize>,
    history: Vec<String>,
}

impl Sequence<'_> {
    fn run(&mut self) {
        for side in self.sides.iter_mut() {
            side.control.call(&["FLUSHALL"]);
        }
        let version = 2 + self.random.below(2) as u8;
        self.sides.iter_mut().for_each(|side| side.connect(version));
        for _ in 0..STEPS {
            match self.random.below(20) {
                0 => self.unblock(),
                1 => self.push_in_a_transaction(),
                _ => self.step(),
            }
        }
        self.compare_keyspaces();
        self.sides.iter_mut().for_each(|side| side.clients.clear());
        for side in self.sides.iter_mut() {
            wait_until("nobody waits any more", || side.blocked() == 0);
        }
    }

    fn command(&mut self) -> Vec<String> {
        let template = self.random.pick(COMMANDS);
        let words = template.split(' ').map(|word| match word {
            "$k" => format!("key{}", self.random.below(4)),
            "$v" => format!("v{}", self.random.below(30)),
            word => word.to_string(),
        });
        words.collect()
    }

    fn free_client(&mut self) -> Option<usize> {
        let free: Vec<usize> = (0..CLIENTS).filter(|client| !self.waiting.contains(client)).collect();
        (!free.is_empty()).then(|| free[self.random.below(free.len())])
    }

    /// One client that does not wait says something.
    fn step(&mut self) {
        let Some(client) = self.free_client() else { return self.unblock() };
        let command = self.command();
        self.history.push(format!("{client}: {}", command.join(" ")));
        self.send(client, &[command]);
    }

    fn send(&mut self, client: usize, commands: &[Vec<String>]) {
        for side in self.sides.iter_mut() {
            commands.iter().for_each(|command| side.clients[client].send(command));
        }
        // Either it waits now, or it has got its replies.
        let waits = commands.len() == 1 && commands[0][0].starts_with('B') && {
            let before = self.waiting.len() as u64;
            let redis = &mut self.sides[0];
            let end = Instant::now() + AT_ONCE_MAX;
            loop {
                if has_reply(&mut redis.clients[client]) {
                    break false;
                }
                if redis.blocked() > before {
                    break !has_reply(&mut redis.clients[client]);
                }
                assert!(Instant::now() < end, "redis-server is silent\n{}", self.history.join("\n"));
            }
        };
        if waits {
            self.waiting.insert(client);
        } else {
            commands.iter().for_each(|_| self.compare_reply(client));
        }
        self.settle();
    }

    /// The control connection unblocks a client.
    fn unblock(&mut self) {
        let waiting: Vec<usize> = self.waiting.iter().copied().collect();
        if waiting.is_empty() {
            return;
        }
        let client = waiting[self.random.below(waiting.len())];
        let how = if self.random.one_in(2) { "ERROR" } else { "TIMEOUT" };
        self.history.push(format!("unblock {client} {how}"));
        for side in self.sides.iter_mut() {
            let id = side.ids[client].clone();
            assert_eq!(side.control.call(&["CLIENT", "UNBLOCK", &id, how]), Value::Int(1), "{}", side.name);
        }
        self.settle();
    }

    /// Elements come within a transaction: nobody gets one before its end.
    fn push_in_a_transaction(&mut self) {
        let Some(client) = self.free_client() else { return };
        let key = format!("key{}", self.random.below(4));
        let line = |line: &str| line.split(' ').map(str::to_string).collect::<Vec<_>>();
        let commands = [
            line("MULTI"),
            line(&format!("RPUSH {key} one two three")),
            line(&format!("LPOP {key}")),
            line(&format!("BLPOP {key} nosuch 0")),
            line("BLPOP nosuch 0"),
            line("BLMOVE nosuch nosuch LEFT LEFT 0"),
            line("EXEC"),
        ];
        self.history.push(format!("{client}: a transaction on {key}"));
        self.send(client, &commands);
    }

    /// Whoever has got something from redis-server gets the same here, and nobody else anything.
    fn settle(&mut self) {
        let redis = &mut self.sides[0];
        let left = redis.blocked() as usize;
        let served: Vec<usize> =
            self.waiting.iter().copied().filter(|&client| has_reply(&mut redis.clients[client])).collect();
        assert_eq!(self.waiting.len() - served.len(), left, "redis-server has served others");
        for client in served {
            self.waiting.remove(&client);
            self.compare_reply(client);
        }
        let history = &self.history;
        for side in self.sides.iter_mut().skip(1) {
            let end = Instant::now() + AT_ONCE_MAX;
            while side.blocked() as usize != left {
                assert!(Instant::now() < end, "{}: others wait\n{}", side.name, history.join("\n"));
            }
            for &client in &self.waiting {
                assert!(!has_reply(&mut side.clients[client]), "{}: {client} was served", side.name);
            }
        }
    }

    fn compare_reply(&mut self, client: usize) {
        let redis = self.sides[0].clients[client].read_raw();
        for side in self.sides.iter_mut().skip(1) {
            let ours = side.clients[client].try_read_raw().unwrap_or_default();
            assert!(
                ours == redis,
                "{}, client {client}\n{}\nredis: {}\nours:  {}",
                side.name,
                self.history.join("\n"),
                show(&redis),
                show(&ours)
            );
        }
    }

    fn compare_keyspaces(&mut self) {
        for key in (0..4).map(|key| format!("key{key}")) {
            for command in [vec!["LRANGE", &key, "0", "-1"], vec!["ZRANGE", &key, "0", "-1", "WITHSCORES"]] {
                let redis = self.sides[0].control.call(&command);
                for side in self.sides.iter_mut().skip(1) {
                    let ours = side.control.call(&command);
                    assert_eq!(ours, redis, "{}: {command:?}\n{}", side.name, self.history.join("\n"));
                }
            }
        }
    }
}

fn sides() -> Vec<Side> {
    let version = Server::redis_version();
    assert!(
        version.as_ref().is_some_and(|version| version.starts_with("7.0.")),
        "redis-server is {version:?}, not 7.0: run scripts/install-peers.sh, or name one in KEYLOOM_REDIS_SERVER"
    );
    vec![
        Side::new("redis", Server::redis(&[])),
        Side::new("one core", Server::keyloom(&["--cpus", "0"])),
        Side::new("two cores", Server::keyloom(&["--cpus", "0-1"])),
    ]
}

#[test]
fn who_waits_gets_what_redis_gives() {
    let mut sides = sides();
    let first = crate::common::seed();
    for seed in (0..SEQUENCES).map(|n| first.wrapping_add(n)) {
        let history = vec![format!("KEYLOOM_SEED={seed}")];
        Sequence { sides: &mut sides, random: Random::new(seed), waiting: BTreeSet::new(), history }.run();
    }
}

#[test]
fn waiting_ends_in_time_with_the_reply_of_redis() {
    let mut sides = sides();
    let lines = [
        "BLPOP a b 0.01",
        "BRPOP a 0.01",
        "BLMOVE a b LEFT RIGHT 0.01",
        "BRPOPLPUSH a b 0.01",
        "BLMPOP 0.01 2 a b LEFT",
        "BZPOPMIN a 0.01",
        "BZPOPMAX a b 0.01",
        "BZMPOP 0.01 1 a MAX",
        "BLPOP a 0.0000001",
    ];
    for version in [2, 3] {
        sides.iter_mut().for_each(|side| side.connect(version));
        for line in lines {
            let command: Vec<&str> = line.split(' ').collect();
            let replies: Vec<Vec<u8>> = sides
                .iter_mut()
                .map(|side| {
                    side.clients[0].send(&command);
                    side.clients[0].read_raw()
                })
                .collect();
            assert!(replies.iter().all(|reply| *reply == replies[0]), "{line} in RESP{version}: {replies:?}");
        }
    }
}

/// Requests behind a blocking one wait, too, and run in order.
#[test]
fn a_pipeline_goes_on_when_the_wait_ends() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let (mut waiter, mut other) = (server.client(), server.client());
    for key in (0..20).map(|i| format!("queue{i}")) {
        for command in [vec!["SET", &key, "before"], vec!["DEL", &key], vec!["BLPOP", &key, "0"], vec!["LLEN", &key]] {
            waiter.send(&command);
        }
        waiter.read();
        waiter.read();
        wait_until("it waits", || info(&mut other, "blocked_clients") == 1);
        other.call(&["RPUSH", &key, "one", "two"]);
        let element = [key.as_str(), "one"].map(|text| Value::Bulk(text.into()));
        assert_eq!(waiter.read(), Value::Array(element.into()));
        assert_eq!(waiter.read(), Value::Int(1));
    }
}

/// A client that has gone takes nothing along: what comes afterwards is for the others.
#[test]
fn the_dead_take_nothing() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let mut other = server.client();
    for round in 0..30 {
        let keys: Vec<String> = (0..4).map(|key| format!("queue{round}-{key}")).collect();
        let mut command = vec!["BLPOP"];
        command.extend(keys.iter().map(String::as_str));
        command.push("0");
        let mut waiters: Vec<Client> = (0..6).map(|_| server.client()).collect();
        waiters.iter_mut().for_each(|waiter| waiter.send(&command));
        wait_until("all wait", || info(&mut other, "blocked_clients") == 6);
        waiters.drain(..3);
        wait_until("three have gone", || info(&mut other, "blocked_clients") == 3);
        for key in &keys {
            other.call(&["RPUSH", key, key]);
        }
        let got: BTreeSet<Vec<u8>> = waiters.iter_mut().map(Client::read_raw).collect();
        assert_eq!(got.len(), 3, "each has another element");
        let left: u64 = keys.iter().map(|key| matches!(other.call(&["LLEN", key]), Value::Int(1)) as u64).sum();
        assert_eq!(left, 1);
    }
    assert_eq!(info(&mut other, "blocked_clients"), 0);
}

/// Many wait for elements of several lists on both cores, and each element comes to exactly one of them.
#[test]
fn every_element_comes_once() {
    const ELEMENTS: usize = 4000;
    const WAITERS: usize = 8;
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let (taken, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let take = |nth: usize| {
        let mut client = server.client();
        let mut got = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let mut keys = KEYS;
            keys.rotate_left(nth % KEYS.len());
            let command = [&["BLPOP"], &keys[..1 + nth % KEYS.len()], &["0.05"]].concat();
            if let Value::Array(reply) = client.call(&command) {
                got.push(format!("{:?}", reply[1]));
                taken.fetch_add(1, Ordering::Relaxed);
            }
        }
        got
    };
    let got: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WAITERS).map(|nth| scope.spawn(move || take(nth))).collect();
        let push = |nth: usize| {
            let mut client = server.client();
            for i in (nth..ELEMENTS).step_by(2) {
                match i % 3 {
                    0 => drop(client.call(&["RPUSH", KEYS[i % 4], &i.to_string()])),
                    1 => {
                        client.call(&["RPUSH", &format!("from{nth}"), &i.to_string()]);
                        client.call(&["LMOVE", &format!("from{nth}"), KEYS[i % 4], "LEFT", "LEFT"]);
                    }
                    _ => {
                        client.send(&["MULTI"]);
                        client.send(&["RPUSH", KEYS[i % 4], &i.to_string()]);
                        client.send(&["PING"]);
                        client.send(&["EXEC"]);
                        (0..4).for_each(|_| drop(client.read()));
                    }
                }
            }
        };
        std::thread::scope(|pushers| {
            (0..2).for_each(|nth| drop(pushers.spawn(move || push(nth))));
        });
        wait_until("all are taken", || taken.load(Ordering::Relaxed) == ELEMENTS);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(got.len(), ELEMENTS);
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), ELEMENTS, "an element came twice");
}

#[test]
fn keys_that_appear_in_other_ways() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let (mut waiter, mut other) = (server.client(), server.client());
    let ways: [(&str, &[&str]); 4] = [
        ("SWAPDB", &["SELECT 1", "RPUSH k element", "SWAPDB 0 1", "SELECT 0"]),
        ("MOVE", &["SELECT 1", "RPUSH k element", "MOVE k 0", "SELECT 0"]),
        ("RENAME", &["RPUSH source element", "RENAME source k"]),
        ("COPY", &["RPUSH source element", "COPY source k"]),
    ];
    for (name, lines) in ways {
        other.call(&["FLUSHALL"]);
        waiter.send(&["BLPOP", "k", "0"]);
        wait_until("it waits", || info(&mut other, "blocked_clients") == 1);
        for line in lines {
            other.call(&line.split(' ').collect::<Vec<_>>());
        }
        let element = ["k", "element"].map(|text| Value::Bulk(text.into()));
        assert_eq!(waiter.read(), Value::Array(element.into()), "{name}");
    }
}

#[test]
fn all_who_wait_for_one_key_are_served_before_those_of_the_next() {
    for server in [Server::keyloom(&["--cpus", "0,1"]), Server::keyloom(&["--cpus", "0"])] {
        let mut client = server.client();
        let mut waiting: Vec<Client> = Vec::new();
        for (side, count) in [("LEFT", "1"), ("RIGHT", "10"), ("LEFT", "10"), ("RIGHT", "1")] {
            let mut waiter = server.client();
            waiter.send(&["BLMPOP", "0", "2", "one{t}", "other{t}", side, "COUNT", count]);
            waiting.push(waiter);
            wait_until("it waits", || info(&mut client, "blocked_clients") == waiting.len() as u64);
        }
        // Both lists come at once.
        client.send(&["MULTI"]);
        client.send(&["LPUSH", "one{t}", "a", "b", "c", "d", "e"]);
        client.send(&["LPUSH", "other{t}", "1", "2", "3", "4", "5"]);
        client.send(&["EXEC"]);
        let popped = |waiter: &mut Client| show(&waiter.read_raw());
        let reply = |key: &str, elements: &[&str]| {
            let mut text = format!("*2\r\n${}\r\n{key}\r\n*{}\r\n", key.len(), elements.len());
            elements.iter().for_each(|element| text.push_str(&format!("$1\r\n{element}\r\n")));
            show(text.as_bytes())
        };
        assert_eq!(popped(&mut waiting[0]), reply("one{t}", &["e"]));
        assert_eq!(popped(&mut waiting[1]), reply("one{t}", &["a", "b", "c", "d"]));
        assert_eq!(popped(&mut waiting[2]), reply("other{t}", &["5", "4", "3", "2", "1"]));
        assert_eq!(info(&mut server.client(), "blocked_clients"), 1);
    }
}

#[test]
fn a_wait_that_ends_with_an_error_is_counted_as_one() {
    let server = Server::keyloom(&["--cpus", "0,1"]);
    let (mut client, mut waiter) = (server.client(), server.client());
    let Value::Int(id) = waiter.call(&["CLIENT", "ID"]) else { panic!("an id is a number") };
    waiter.send(&["BLPOP", "nothing", "0"]);
    wait_until("it waits", || info(&mut client, "blocked_clients") == 1);
    assert_eq!(client.call(&["CLIENT", "UNBLOCK", &id.to_string(), "ERROR"]), Value::Int(1));
    assert!(matches!(waiter.read(), Value::Error(text) if text.starts_with(b"UNBLOCKED")));
    let Value::Bulk(text) = client.call(&["INFO", "all"]) else { panic!("INFO is a string") };
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("errorstat_UNBLOCKED:count=1"), "{text}");
    let blpop = text.lines().find(|line| line.starts_with("cmdstat_blpop:")).unwrap();
    assert!(blpop.contains("calls=1,") && blpop.ends_with("rejected_calls=0,failed_calls=1"), "{blpop}");
}

#[test]
fn paused_clients_are_counted_among_those_that_wait() {
    let server = Server::keyloom(&["--cpus", "0,1"]);
    let (mut client, mut writer) = (server.client(), server.client());
    assert_eq!(client.call(&["CLIENT", "PAUSE", "100000", "WRITE"]), Value::Simple(b"OK".to_vec()));
    assert_eq!(info(&mut client, "blocked_clients"), 0);
    writer.send(&["SET", "key", "v"]);
    wait_until("it waits", || info(&mut client, "blocked_clients") == 1);
    assert_eq!(client.call(&["CLIENT", "UNPAUSE"]), Value::Simple(b"OK".to_vec()));
    assert_eq!(writer.read(), Value::Simple(b"OK".to_vec()));
    assert_eq!(info(&mut client, "blocked_clients"), 0);
}
