//! Random requests of several clients about a few keys that lie on all nodes. What they did and were told is recorded, and
//! checked when it is over.
//!
//! A third of the keys are registers (SET, SET with GET, GET), a third are counters (INCR, GET), a third are lists (RPUSH,
//! LRANGE). All clients want replies that survive the loss of a node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keyloom::resp::read::Value;

use crate::client::{Answer, Router};
use crate::common::Random;
use crate::lists::{self, Append, Outcome, Read};
use crate::nodes::{Cluster, HEALTHY_MAX};
use crate::register::{self, Action, Operation};

const CLIENTS: usize = 5;
pub const KEYS: usize = 24;
/// Longest pause of a client between two requests, µs: histories stay so short that they can be checked in no time.
const PAUSE_US_MAX: usize = 6000;
/// Acknowledged writes of every key that are progress.
const PROGRESS: u64 = 3;
/// How long one request is tried for: between these, ms.
const PATIENCE_MS: std::ops::Range<usize> = 300..3000;
/// Failed requests of one client that are shown.
const FAILED_MAX: usize = 4;
/// How long a key may take to be read when nothing befalls the cluster any more.
const LAST_READ_MAX: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Register,
    Counter,
    List,
}

const KINDS: [Kind; 3] = [Kind::Register, Kind::Counter, Kind::List];

struct Key {
    name: String,
    kind: Kind,
    /// Acknowledged writes.
    written: AtomicU64,
}

struct Shared {
    known: Vec<SocketAddr>,
    durability: &'static str,
    keys: Vec<Key>,
    start: Instant,
    stop: AtomicBool,
    /// Each number is written once.
    numbers: AtomicI64,
    /// Why something was not done, last, for people.
    last: Mutex<String>,
}

/// What was recorded of one key.
#[derive(Default)]
struct History {
    operations: Vec<Operation>,
    appends: Vec<Append>,
    reads: Vec<Read>,
}

/// What became of requests, for people.
#[derive(Debug, Default)]
pub struct Counts {
    pub done: u64,
    pub refused: u64,
    pub unknown: u64,
    pub moves: u64,
    /// Why requests were tried again ([`Router::tried_again`]).
    pub tried_again: BTreeMap<String, u64>,
    /// The first requests of each client that were refused, or of which nobody knows: when, ms, and why.
    pub failed: Vec<String>,
    /// How often nodes had no lease.
    pub leases_lapsed: u64,
}

impl Counts {
    /// Every request was executed, as soon as it had come to whoever led its slot.
    pub fn all_were_served(&self) -> bool {
        self.refused == 0 && self.unknown == 0 && self.tried_again.is_empty()
    }
}

struct Record {
    keys: Vec<History>,
    counts: Counts,
}

pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Record>>,
    seed: u64,
}

impl Load {
    pub fn start(cluster: &Cluster, durability: &'static str, seed: u64) -> Load {
        let nodes = cluster.nodes.len();
        let key = |nth: usize| Key {
            name: cluster.key_led_by(nth % nodes, &format!("{seed}:{nth}")),
            kind: KINDS[nth / nodes % KINDS.len()],
            written: AtomicU64::new(0),
        };
        let shared = Arc::new(Shared {
            known: cluster.addresses(),
            durability,
            keys: (0..KEYS).map(key).collect(),
            start: Instant::now(),
            stop: AtomicBool::new(false),
            numbers: AtomicI64::new(1),
            last: Mutex::default(),
        });
        let thread = |client: usize| {
            let (shared, random) = (Arc::clone(&shared), Random::new(seed * 1000 + client as u64));
            std::thread::spawn(move || Client::new(&shared, client, random).run())
        };
        let threads = (0..CLIENTS).map(thread).collect();
        Load { shared, threads, seed }
    }

    /// Waits until every key has been written several times from now on.
    #[track_caller]
    pub fn wait_progress(&self, cluster: &Cluster) {
        let written = || self.shared.keys.iter().map(|key| key.written.load(Ordering::Relaxed));
        let (before, begin) = (written().collect::<Vec<_>>(), Instant::now());
        while written().zip(&before).any(|(now, before)| now < before + PROGRESS) {
            if begin.elapsed() > HEALTHY_MAX {
                let stuck = written().zip(&before).enumerate().filter(|(_, (now, before))| *now < **before + PROGRESS);
                let stuck: Vec<_> = stuck.map(|(key, _)| &self.shared.keys[key].name).collect();
                let last = self.shared.last.lock().unwrap().clone();
                panic!("keys that nobody can write: {stuck:?}; last: {last}");
            }
            cluster.assert_sound();
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a client has met what cannot be");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, reads every key once more, and checks everything.
    pub fn stop(mut self) -> Counts {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut counts = Counts::default();
        let mut all: Vec<History> = (0..KEYS).map(|_| History::default()).collect();
        let mut add = |record: Record| {
            counts.done += record.counts.done;
            counts.refused += record.counts.refused;
            counts.unknown += record.counts.unknown;
            counts.moves += record.counts.moves;
            counts.failed.extend(record.counts.failed);
            for (why, count) in record.counts.tried_again {
                *counts.tried_again.entry(why).or_default() += count;
            }
            for (all, key) in all.iter_mut().zip(record.keys) {
                all.operations.extend(key.operations);
                all.appends.extend(key.appends);
                all.reads.extend(key.reads);
            }
        };
        let threads = std::mem::take(&mut self.threads);
        threads.into_iter().for_each(|thread| add(thread.join().expect("a client has met what cannot be")));
        let mut last = Client::new(&self.shared, CLIENTS, Random::new(self.seed));
        for key in 0..KEYS {
            assert!(last.read(key, LAST_READ_MAX), "{} cannot be read", self.shared.keys[key].name);
        }
        add(last.record());
        for (key, history) in self.shared.keys.iter().zip(&all) {
            check(key, history, self.seed);
        }
        counts
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn check(key: &Key, history: &History, seed: u64) {
    let name = &key.name;
    if key.kind == Kind::List {
        let found =
            history.reads.iter().max_by_key(|read| read.invoked).map(|read| &read.items[..]).unwrap_or_default();
        let wrong = lists::check(&history.appends, &history.reads, found);
        assert!(wrong.is_empty(), "KEYLOOM_SEED={seed} list {name}: {wrong:#?}");
        return;
    }
    if let Err(violation) = register::check(&history.operations) {
        let shown = register::shown(&history.operations, &violation);
        let what = if violation.undecided { "nobody can say whether it is linearisable" } else { "not linearisable" };
        panic!("KEYLOOM_SEED={seed} {name}: {what}\n{shown}");
    }
}

/// One of the clients.
struct Client<'a> {
    shared: &'a Shared,
    id: usize,
    router: Router,
    random: Random,
    record: Record,
}

impl Client<'_> {
    fn new(shared: &Shared, id: usize, random: Random) -> Client<'_> {
        let record = Record { keys: (0..KEYS).map(|_| History::default()).collect(), counts: Counts::default() };
        Client { shared, id, router: Router::new(&shared.known, shared.durability), random, record }
    }

    fn record(mut self) -> Record {
        self.record.counts.moves = self.router.moves;
        self.record.counts.tried_again = self.router.tried_again;
        self.record
    }

    fn run(mut self) -> Record {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let key = self.random.below(KEYS);
            let patience = PATIENCE_MS.start + self.random.below(PATIENCE_MS.len());
            let patience = Duration::from_millis(patience as u64);
            if self.random.one_in(3) {
                self.read(key, patience)
            } else {
                self.write(key, patience)
            };
            std::thread::sleep(Duration::from_micros(self.random.below(PAUSE_US_MAX) as u64));
        }
        self.record()
    }

    fn now(&self) -> u64 {
        self.shared.start.elapsed().as_nanos() as u64
    }

    /// Sends a command; when that was, when it was over, and how.
    fn call(&mut self, key: usize, words: &[&str], patience: Duration) -> (u64, u64, Answer) {
        let name = &self.shared.keys[key].name;
        let command = [&[words[0], name], &words[1..]].concat();
        let invoked = self.now();
        let answer = self.router.call(name, &command, patience);
        let counts = &mut self.record.counts;
        match &answer {
            Answer::Done(_) => counts.done += 1,
            Answer::Refused(_) => counts.refused += 1,
            Answer::Unknown(_) => counts.unknown += 1,
        }
        if let Answer::Refused(why) | Answer::Unknown(why) = &answer {
            let failed = format!("{command:?}: {why}");
            if counts.failed.len() < FAILED_MAX {
                counts.failed.push(format!(
                    "{} to {}: {failed}",
                    invoked / 1_000_000,
                    self.shared.start.elapsed().as_millis()
                ));
            }
            *self.shared.last.lock().unwrap() = failed;
        }
        (invoked, self.now(), answer)
    }

    /// Reads a key; whether that was answered.
    fn read(&mut self, key: usize, patience: Duration) -> bool {
        let client = self.id;
        if self.shared.keys[key].kind == Kind::List {
            let (invoked, answered, answer) = self.call(key, &["LRANGE", "0", "-1"], patience);
            let Answer::Done(reply) = answer else { return false };
            let Value::Array(items) = reply else { panic!("LRANGE is answered {reply:?}") };
            let items = items.iter().map(|item| number(item).expect("no item is nil")).collect();
            self.record.keys[key].reads.push(Read { client, invoked, answered, items });
            return true;
        }
        let (invoked, answered, answer) = self.call(key, &["GET"], patience);
        let Answer::Done(reply) = answer else { return false };
        let response = Some((answered, number(&reply)));
        self.record.keys[key].operations.push(Operation { client, action: Action::Get, invoked, response });
        true
    }

    fn write(&mut self, key: usize, patience: Duration) -> bool {
        let (client, number_now) = (self.id, self.shared.numbers.fetch_add(1, Ordering::Relaxed));
        let text = number_now.to_string();
        let kind = self.shared.keys[key].kind;
        let (action, words): (Action, &[&str]) = match kind {
            Kind::List => (Action::Set(number_now), &["RPUSH", &text]),
            Kind::Counter => (Action::Incr, &["INCR"]),
            Kind::Register if self.random.one_in(3) => (Action::Swap(number_now), &["SET", &text, "GET"]),
            Kind::Register => (Action::Set(number_now), &["SET", &text]),
        };
        let (invoked, answered, answer) = self.call(key, words, patience);
        let (history, done) = (&mut self.record.keys[key], matches!(answer, Answer::Done(_)));
        if kind == Kind::List {
            let outcome = match answer {
                Answer::Done(Value::Int(length)) => Outcome::Acknowledged { at: answered, length },
                Answer::Done(reply) => panic!("RPUSH is answered {reply:?}"),
                Answer::Refused(_) => Outcome::Refused,
                Answer::Unknown(_) => Outcome::Unknown,
            };
            history.appends.push(Append { client, number: number_now, invoked, outcome });
        } else {
            let response = match answer {
                Answer::Done(Value::Simple(text)) if text == b"OK" => Some((answered, None)),
                Answer::Done(reply) => Some((answered, number(&reply))),
                Answer::Unknown(_) => None,
                Answer::Refused(_) => return false,
            };
            history.operations.push(Operation { client, action, invoked, response });
        }
        if done {
            self.shared.keys[key].written.fetch_add(1, Ordering::Relaxed);
        }
        done
    }
}

/// A number, or nothing.
fn number(reply: &Value) -> Option<i64> {
    match reply {
        Value::Null => None,
        Value::Int(number) => Some(*number),
        Value::Bulk(text) => Some(std::str::from_utf8(text).unwrap().parse().expect("a number")),
        other => panic!("{other:?} is no number"),
    }
}
