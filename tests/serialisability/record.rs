//! Recording of histories: clients draw requests, send them, and note when, and what came back.

use std::sync::Barrier;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Instant;

use keyloom::resp::read::{Value, encode_command};
use keyloom::route::{SLOTS, slot_of};

use crate::check::{OPERATIONS_MAX, Operation};
use crate::common::{Client, Random, Server, ok, show};
use crate::model::{ClientId, Command, Key, Request};

/// What the requests of a history are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Texts,
    Collections,
    /// Lists, and clients that wait for their elements.
    Waiting,
    Everything,
}

/// What was recorded.
pub struct History {
    pub names: Vec<String>,
    pub operations: Vec<Operation>,
}

/// Clients at one time.
const CLIENTS: usize = 6;
/// How often each sends something.
const TURNS: usize = 8;
/// Requests sent at once, at the most.
const PIPELINE_MAX: usize = 4;
/// One of so many turns ends with the connection closed, but only so often in a history: each request of which nobody
/// knows whether it ran doubles the number of orders.
const VANISH_ONE_IN: usize = 20;
const VANISH_MAX: u32 = 2;

const TEXTS: [Key; 4] = [0, 1, 2, 3];
const LISTS: [Key; 3] = [4, 5, 6];
const SETS: [Key; 3] = [7, 8, 9];
const KEYS: usize = 10;

/// Keys take turns on the two cores.
fn core(key: Key) -> u16 {
    key as u16 % 2
}

/// What the clients of one history have in common.
struct Shared<'a> {
    server: &'a Server,
    kind: Kind,
    names: &'a [String],
    pattern: String,
    start: Instant,
    together: Barrier,
    clients: AtomicU32,
    vanished: AtomicU32,
    /// Each value is written once.
    values: AtomicI64,
}

impl Shared<'_> {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn value(&self) -> i64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }
}

/// Records one history. Its keys have names of their own: what a vanished client of an earlier one has left behind may
/// still run.
pub fn record(server: &Server, kind: Kind, nth: u64, random: &mut Random) -> History {
    let name = |key: Key| {
        let names = (0..).map(|n: u32| format!("{kind:?}:{nth}:{key}:{n}"));
        names.into_iter().find(|name| slot_of(name.as_bytes()) / (SLOTS / 2) == core(key)).unwrap()
    };
    let names: Vec<String> = (0..KEYS).map(name).collect();
    let shared = Shared {
        server,
        kind,
        names: &names,
        pattern: format!("{kind:?}:{nth}:*"),
        start: Instant::now(),
        together: Barrier::new(CLIENTS),
        clients: AtomicU32::new(0),
        vanished: AtomicU32::new(0),
        values: AtomicI64::new(1000),
    };
    let mut operations: Vec<Operation> = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (shared, mut random) = (&shared, Random::new(random.next()));
                scope.spawn(move || run_client(shared, &mut random))
            })
            .collect();
        for thread in threads {
            append(&mut operations, thread.join().unwrap());
        }
    });
    append(&mut operations, final_reads(&shared));
    // What changes nothing, and whose reply nobody has seen, says nothing.
    let kept: Vec<usize> = (0..operations.len())
        .filter(|&at| operations[at].response.is_some() || operations[at].request.counts())
        .collect();
    let place = |at: &usize| kept.binary_search(at).ok();
    let keep = |&at: &usize| {
        let operation: &Operation = &operations[at];
        Operation { after: operation.after.iter().filter_map(place).collect(), ..operation.clone() }
    };
    let operations: Vec<Operation> = kept.iter().map(keep).collect();
    assert!(operations.len() <= OPERATIONS_MAX);
    History { names, operations }
}

/// Adds the operations of one client to those of others.
fn append(all: &mut Vec<Operation>, mut new: Vec<Operation>) {
    let first = all.len();
    new.iter_mut().for_each(|operation| operation.after.iter_mut().for_each(|at| *at += first));
    all.append(&mut new);
}

/// What one thread does: it is a client, and a new one after each that has vanished.
fn run_client(shared: &Shared, random: &mut Random) -> Vec<Operation> {
    let mut operations: Vec<Operation> = Vec::new();
    let connect = || (shared.clients.fetch_add(1, Ordering::Relaxed), shared.server.client());
    let (mut id, mut client) = connect();
    shared.together.wait();
    for _ in 0..TURNS {
        let several = random.one_in(3);
        let requests: Vec<Request> = match several {
            true => (0..1 + random.below(PIPELINE_MAX)).map(|_| request(shared, random)).collect(),
            false => vec![request(shared, random)],
        };
        // A late FLUSHALL would run into the next history.
        let flushes = |request: &Request| *request == Request::One(Command::FlushAll);
        let vanishes = random.one_in(VANISH_ONE_IN)
            && !requests.iter().any(flushes)
            && shared.vanished.fetch_add(1, Ordering::Relaxed) < VANISH_MAX;
        turn(shared, id, &mut client, requests, vanishes.then_some(random), &mut operations);
        if vanishes {
            (id, client) = connect();
        }
    }
    operations
}

/// Sends requests, and reads their replies, or only some of them if the client vanishes.
fn turn(
    shared: &Shared,
    id: ClientId,
    client: &mut Client,
    requests: Vec<Request>,
    vanishes: Option<&mut Random>,
    operations: &mut Vec<Operation>,
) {
    let mut bytes = Vec::new();
    requests.iter().for_each(|request| encode(shared, request, &mut bytes));
    let (mut sent, mut read) = (bytes.len(), requests.len());
    if let Some(random) = vanishes {
        sent -= if random.one_in(2) { random.below(sent) } else { 0 };
        read = if sent == bytes.len() { random.below(read) } else { 0 };
    }
    let invoked = shared.now();
    client.send_bytes(&bytes[..sent]);
    let first = operations.len();
    for (nth, request) in requests.into_iter().enumerate() {
        let response = (nth < read).then(|| {
            let reply = reply(client, &request);
            (shared.now(), reply)
        });
        let earlier = (first..operations.len()).filter(|&at| ordered(&operations[at].request, &request)).collect();
        operations.push(Operation { client: id, request, invoked, response, after: earlier });
    }
}

/// Whether two requests of one connection run in the order in which they were sent: those for the same key do, and those
/// that need several cores run alone.
fn ordered(first: &Request, second: &Request) -> bool {
    let keys = |request: &Request| match request {
        Request::One(command) => command.keys(),
        Request::Exec(commands) => commands.iter().flat_map(Command::keys).collect(),
        Request::Watch(keys) => keys.clone(),
    };
    let alone = |request: &Request| match request {
        Request::One(Command::FlushAll | Command::Sort(..) | Command::BLPop(_) | Command::BLMove(..)) => true,
        Request::One(command) => command.keys().iter().any(|&key| core(key) != core(command.keys()[0])),
        Request::Exec(_) | Request::Watch(_) => true,
    };
    alone(first) || alone(second) || keys(first).iter().any(|key| keys(second).contains(key))
}

fn encode(shared: &Shared, request: &Request, bytes: &mut Vec<u8>) {
    let mut command = |command: &Command| encode_command(&command.words(shared.names, &shared.pattern), bytes);
    match request {
        Request::One(one) => command(one),
        Request::Exec(commands) => {
            encode_command(&["MULTI"], bytes);
            commands.iter().for_each(|command| encode_command(&command.words(shared.names, &shared.pattern), bytes));
            encode_command(&["EXEC"], bytes);
        }
        Request::Watch(keys) => {
            let names = keys.iter().map(|&key| shared.names[key].as_str());
            encode_command(&["WATCH"].into_iter().chain(names).collect::<Vec<_>>(), bytes);
        }
    }
}

/// The reply to a request, and with it those to MULTI and to what is queued.
fn reply(client: &mut Client, request: &Request) -> Value {
    match request {
        Request::One(command) => command.canonical(client.read()),
        Request::Watch(_) => client.read(),
        Request::Exec(commands) => {
            assert_eq!(client.read(), ok());
            commands.iter().for_each(|_| assert_eq!(client.read(), Value::Simple(b"QUEUED".to_vec())));
            match client.read() {
                Value::Array(replies) => {
                    let pairs = commands.iter().zip(replies);
                    Value::Array(pairs.map(|(command, reply)| command.canonical(reply)).collect())
                }
                other => other,
            }
        }
    }
}

/// A request at random.
fn request(shared: &Shared, random: &mut Random) -> Request {
    match random.below(14) {
        0..5 => Request::Exec((0..1 + random.below(4)).map(|_| command(shared, random)).collect()),
        5 | 6 => {
            let keys = keys_of(shared.kind);
            Request::Watch((0..1 + random.below(2)).map(|_| keys[random.below(keys.len())]).collect())
        }
        7 if matches!(shared.kind, Kind::Texts | Kind::Everything) => {
            // What a transfer is.
            let ([from, to], amount) = (two(&TEXTS, random), 1 + random.below(50) as i64);
            Request::Exec(vec![Command::IncrBy(from, -amount), Command::IncrBy(to, amount)])
        }
        8 if shared.kind == Kind::Everything && random.one_in(4) => match random.one_in(2) {
            true => Request::One(Command::FlushAll),
            false => Request::Exec(vec![Command::Keys, command(shared, random), Command::Keys]),
        },
        _ => Request::One(command(shared, random)),
    }
}

fn keys_of(kind: Kind) -> Vec<Key> {
    match kind {
        Kind::Texts => TEXTS.into(),
        Kind::Collections => [LISTS, SETS].concat(),
        Kind::Waiting => LISTS.into(),
        Kind::Everything => (0..KEYS).collect(),
    }
}

fn one(keys: &[Key], random: &mut Random) -> Key {
    keys[random.below(keys.len())]
}

/// Two different keys.
fn two(keys: &[Key], random: &mut Random) -> [Key; 2] {
    let first = random.below(keys.len());
    [keys[first], keys[(first + 1 + random.below(keys.len() - 1)) % keys.len()]]
}

fn command(shared: &Shared, random: &mut Random) -> Command {
    match (shared.kind, random.below(3)) {
        (Kind::Texts, _) | (Kind::Everything, 0) => text_command(shared, random),
        (Kind::Waiting, _) | (Kind::Collections | Kind::Everything, 1) => list_command(shared, random),
        _ => set_command(shared, random),
    }
}

fn text_command(shared: &Shared, random: &mut Random) -> Command {
    let (key, [a, b]) = (one(&TEXTS, random), two(&TEXTS, random));
    match random.below(10) {
        0 => Command::Get(key),
        1 => Command::Set(key, shared.value()),
        2 => Command::Mset(vec![(a, shared.value()), (b, shared.value())]),
        3 | 4 => Command::Mget(vec![a, b]),
        5 => Command::Mget(TEXTS.into()),
        6 | 7 => Command::IncrBy(key, 1 + random.below(9) as i64),
        8 => Command::Rename(a, b),
        _ => Command::Del(vec![a, b]),
    }
}

fn list_command(shared: &Shared, random: &mut Random) -> Command {
    let (key, [a, b]) = (one(&LISTS, random), two(&LISTS, random));
    let waits = shared.kind == Kind::Waiting;
    match random.below(if waits { 10 } else { 7 }) {
        0 => Command::LRange(key),
        6 if !waits => Command::Sort(key, if random.one_in(2) { a } else { b }),
        1..4 => Command::RPush(key, shared.value()),
        4 => Command::LMove(a, b),
        5 => Command::Rename(a, b),
        6 | 7 => Command::BLPop(if random.one_in(3) { vec![key] } else { vec![a, b] }),
        8 => Command::BLMove(a, b),
        _ => Command::Del(vec![key]),
    }
}

fn set_command(shared: &Shared, random: &mut Random) -> Command {
    let (key, [a, b]) = (one(&SETS, random), two(&SETS, random));
    let member = random.below(4) as i64;
    match random.below(8) {
        0 | 1 => Command::SMembers(key),
        2 | 3 => Command::SAdd(key, if random.one_in(2) { member } else { shared.value() }),
        4 | 5 => Command::SMove(a, b, member),
        6 => Command::SUnionStore(key, vec![a, b]),
        _ => Command::Rename(a, b),
    }
}

/// Everything at one moment, and then each key by itself, at the end.
fn final_reads(shared: &Shared) -> Vec<Operation> {
    let id = shared.clients.fetch_add(1, Ordering::Relaxed);
    let mut client = shared.server.client();
    let each = |key: Key| match key {
        key if TEXTS.contains(&key) => Command::Get(key),
        key if LISTS.contains(&key) => Command::LRange(key),
        _ => Command::SMembers(key),
    };
    let mut operations = Vec::new();
    let all = Request::Exec((0..KEYS).map(each).collect());
    let singly = (0..KEYS).map(|key| Request::One(each(key)));
    for request in [all].into_iter().chain(singly) {
        turn(shared, id, &mut client, vec![request], None, &mut operations);
    }
    operations
}

/// Each key can be written through each core, and all of them at once. (What vanished clients have left may still run.)
pub fn nothing_is_left_lent(server: &Server, history: &History) {
    for _ in 0..2 {
        // Clients are dealt to the cores in turn.
        let mut client = server.client();
        for name in &history.names {
            assert_eq!(client.call(&["SET", name, "0"]), ok());
        }
        let names: Vec<&str> = history.names.iter().map(String::as_str).collect();
        let there = client.call(&[&["DEL"], &names[..]].concat());
        assert!(matches!(there, Value::Int(_)), "{there:?}");
    }
}

impl History {
    /// How many pairs of answered operations of different clients were under way at the same time.
    pub fn overlapping(&self) -> usize {
        let answered: Vec<(u64, u64, ClientId)> = (self.operations.iter())
            .filter_map(|operation| Some((operation.invoked, operation.response.as_ref()?.0, operation.client)))
            .collect();
        let with = |&(start, end, client): &(u64, u64, ClientId)| {
            let overlaps = |other: &&(u64, u64, ClientId)| other.2 > client && start <= other.1 && other.0 <= end;
            answered.iter().filter(overlaps).count()
        };
        answered.iter().map(with).sum()
    }
}

/// A reply, readable.
pub fn text(value: &Value) -> String {
    match value {
        Value::Simple(text) | Value::Error(text) | Value::Bulk(text) => show(text),
        Value::Int(n) => format!(":{n}"),
        Value::Array(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(" ")),
        other => format!("{other:?}"),
    }
}
