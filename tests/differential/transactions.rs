//! MULTI, EXEC, DISCARD, WATCH, UNWATCH: random transactions within random sequences, and what two clients do to each
//! other's watched keys.

use std::time::Duration;

use keyloom::resp::read::{Value, skip_value};

use crate::commands::{self, Command};
use crate::common::{Client, Server, wait_until};
use crate::compare::{rule, same};
use crate::{Difference, SHORT_TTL_MS_MAX, Sequence, sides, words};

/// Commands of one transaction.
const COMMANDS_MAX: usize = 12;

/// Whether a command is none that ends the transaction, or leaves out replies.
fn is_plain(command: &[Vec<u8>]) -> bool {
    let first = command.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    let second = command.get(1).map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    let ends = matches!(&first[..], b"RESET" | b"QUIT" | b"EXEC" | b"DISCARD");
    let silences = first == b"CLIENT" && second == b"REPLY";
    !ends && !silences
}

/// Whether two replies to EXEC are the same: element by element, as the queued commands are compared.
pub fn same_elements(queued: &[&Command], redis: &[u8], ours: &[u8], span_ms: i64) -> bool {
    let (Some(redis), Some(ours)) = (elements(redis), elements(ours)) else { return false };
    redis.len() == queued.len()
        && ours.len() == queued.len()
        && queued
            .iter()
            .zip(redis.iter().zip(&ours))
            .all(|(command, (redis, ours))| same(rule(command), redis, ours, span_ms))
}

/// The elements of an array, as they were sent.
fn elements(array: &[u8]) -> Option<Vec<&[u8]>> {
    let end = array.iter().position(|&byte| byte == b'\n')? + 1;
    let mut rest = &array[end..];
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (one, after) = rest.split_at(skip_value(rest).ok()??);
        all.push(one);
        rest = after;
    }
    Some(all)
}

impl Sequence<'_> {
    /// Watches keys, changes some, and runs or drops a transaction.
    pub(crate) fn transact(&mut self) -> Result<(), Difference> {
        let mut batch = Vec::new();
        let watched = self.random().one_in(2);
        for _ in 0..watched as usize * (1 + self.random().below(3)) {
            let mut watch = words("WATCH");
            watch.extend((0..1 + self.random().below(3)).map(|_| commands::key_name(self.random())));
            batch.push(watch);
        }
        if watched && self.random().one_in(2) {
            batch.extend((0..self.random().below(3)).map(|_| self.plain_command()));
        }
        if watched && self.random().one_in(8) {
            batch.push(words("UNWATCH"));
        }
        batch.push(words("MULTI"));
        for _ in 0..self.random().below(COMMANDS_MAX) {
            batch.push(match self.random().below(24) {
                0 => words("MULTI"),
                1 => words("WATCH some"),
                2 => words("UNWATCH"),
                3 => words("INFO nosuch"),
                _ => self.plain_command(),
            });
        }
        batch.push(match self.random().below(12) {
            0 => words("DISCARD"),
            1 => words("EXEC nonsense"),
            _ => words("EXEC"),
        });
        if self.random().one_in(4) {
            batch.push(words("EXEC"));
        }
        self.exchange(batch)
    }

    fn plain_command(&mut self) -> Command {
        loop {
            let command = self.generator.command();
            if is_plain(&command) {
                return command;
            }
        }
    }

    /// A key that was over before it was watched does not change by being removed.
    pub(crate) fn watch_a_key_that_is_over(&mut self) -> Result<(), Difference> {
        let key = commands::key_name(self.random());
        let ttl = (1 + self.random().next() % SHORT_TTL_MS_MAX).to_string().into_bytes();
        let word = |word: &str| word.as_bytes().to_vec();
        self.exchange(vec![vec![word("SET"), key.clone(), word("short"), word("PX"), ttl]])?;
        std::thread::sleep(Duration::from_millis(SHORT_TTL_MS_MAX + 1));
        // Redis keeps a key that is over until somebody asks for it.
        let (watch, exists) = (vec![word("WATCH"), key.clone()], vec![word("EXISTS"), key]);
        self.exchange(vec![watch, exists, words("MULTI"), words("PING"), words("EXEC")])
    }
}

/// A key that ends while it is watched has changed, also if nobody has looked at it since.
#[test]
fn a_watched_key_ends() {
    let Some(sides) = sides() else { return };
    for side in &sides {
        let (mut watcher, mut other) = (side.server.client(), side.server.client());
        for key in ["k0", "k1", "k2", "k3"] {
            // Until it was alive when it was watched.
            loop {
                other.call(&["SET", key, "v", "PX", "100"]);
                watcher.call(&["WATCH", key]);
                if watcher.call(&["GET", key]) != Value::Null {
                    break;
                }
                watcher.call(&["UNWATCH"]);
            }
            other.call(&["SET", "later", "v", "PX", "110"]);
            wait_until("a later key is over", || other.call(&["EXISTS", "later"]) == Value::Int(0));
            watcher.call(&["MULTI"]);
            watcher.call(&["PING"]);
            assert_eq!(watcher.call(&["EXEC"]), Value::NullArray, "{}: {key}", side.name);
        }
    }
}

/// What is answered when transactions are used wrongly, and what runs within them.
const LINES: &[&str] = &[
    "EXEC x",
    "EXEC",
    "DISCARD",
    "DISCARD x",
    "UNWATCH",
    "MULTI",
    "MULTI",
    "WATCH a",
    "PING",
    "EXEC",
    "MULTI",
    "EXEC x",
    "EXEC",
    "MULTI",
    "MULTI x",
    "EXEC",
    "MULTI",
    "WATCH",
    "EXEC",
    "MULTI",
    "DISCARD x",
    "PING",
    "EXEC",
    "MULTI",
    "NOSUCH a b",
    "PING",
    "EXEC",
    "MULTI",
    "GET",
    "EXEC",
    "MULTI",
    "MONITOR",
    "PING",
    "EXEC",
    "MULTI",
    "SHUTDOWN",
    "PING",
    "EXEC",
    "MULTI",
    "UNWATCH",
    "GET a",
    "SELECT 1",
    "SET a in-one",
    "SELECT 99",
    "SELECT 0",
    "GET a",
    "MOVE a 1",
    "EXEC",
    "MULTI",
    "PING",
    "RESET",
    "EXEC",
    "MULTI",
    "AUTH a",
    "CONFIG GET timeout",
    "CONFIG SET timeout 77",
    "CONFIG GET timeout",
    "CONFIG SET timeout 0",
    "EXEC",
    "MULTI",
    "DEBUG SLEEP 0",
    "EXEC",
    "MULTI",
    "EXEC",
    "MULTI",
    "FLUSHALL",
    "DBSIZE",
    "SET a 1",
    "SET b 2",
    "DBSIZE",
    "RENAME a c",
    "MGET a b c",
    "SWAPDB 0 1",
    "GET b",
    "SELECT 1",
    "GET b",
    "INCR b",
    "FLUSHDB",
    "EXISTS a b c",
    "SELECT 0",
    "EXEC",
    "CONFIG SET maxmemory 1",
    "MULTI",
    "SET a b",
    "GET a",
    "EXEC",
    "CONFIG SET maxmemory 0",
    "MULTI",
    "SET a b",
    "CONFIG SET maxmemory 1",
    "SET b c",
    "EXEC",
    "GET b",
    "CONFIG SET maxmemory 0",
    "MULTI",
    "CLIENT GETNAME",
    "CLIENT NO-EVICT on",
    "CLIENT KILL ID 1234567",
    "COMMAND GETKEYS SET a b",
    "EXEC",
];

#[test]
fn transactions_are_refused_as_by_redis() {
    let Some(mut sides) = sides() else { return };
    for version in ["2", "3"] {
        let hello = format!("HELLO {version}");
        for line in [&[hello.as_str()], LINES].concat() {
            let mut replies = sides.iter_mut().map(|side| {
                side.client.send(&words(line));
                side.client.read_raw()
            });
            let redis = replies.next().unwrap();
            for (ours, side) in replies.collect::<Vec<_>>().iter().zip(["one core", "two cores"]) {
                let shown = [&redis, ours].map(|reply| reply.escape_ascii().to_string());
                assert!(same(rule(&words(line)), &redis, ours, 0), "RESP{version}, {side}: {line}\n{shown:#?}");
            }
        }
    }
}

/// What a second client does after WATCH, and what the first one finds: whether EXEC runs. `$` stands for keys of two
/// cores in turn.
const CHANGES: &[&[&str]] = &[
    &["GET $", "STRLEN $", "EXISTS $", "TTL $", "TYPE $", "OBJECT ENCODING $", "TOUCH $"],
    &["SET $ same"],
    &["SET $ x NX"],
    &["SETNX $ x"],
    &["SET $ x XX"],
    &["GETSET $ x"],
    &["APPEND $ x"],
    &["SETRANGE $ 0 x"],
    &["INCR $"],
    &["GETEX $"],
    &["GETEX $ PERSIST"],
    &["GETEX $ EX 100"],
    &["PERSIST $"],
    &["EXPIRE $ 100"],
    &["EXPIRE $ 100", "PERSIST $"],
    &["EXPIRE $ 100 XX"],
    &["EXPIRE $ -1"],
    &["DEL $"],
    &["DEL $", "SET $ same"],
    &["GETDEL $"],
    &["UNLINK $ other"],
    &["MSET $ x other y"],
    &["MSETNX $ x other y"],
    &["RENAME $ other"],
    &["RENAMENX $ other"],
    &["SET other x", "RENAME other $"],
    &["RENAME $ $"],
    &["COPY $ other"],
    &["SET other x", "COPY other $ REPLACE"],
    &["SET other x", "COPY other $"],
    &["COPY $ other DB 1"],
    &["MOVE $ 1"],
    &["SELECT 1", "SET $ x"],
    &["SELECT 1", "SET $ x", "SWAPDB 0 1"],
    &["SWAPDB 0 1"],
    &["SWAPDB 2 3"],
    &["FLUSHDB"],
    &["SELECT 1", "FLUSHDB"],
    &["FLUSHALL"],
    &["MULTI", "SET $ x", "EXEC"],
    &["MULTI", "SET $ x", "DISCARD"],
    &["MULTI", "GET $", "GET other", "EXEC"],
    &["MULTI", "SET other 1", "APPEND $ x", "EXEC"],
    &["MULTI", "FLUSHALL", "EXEC"],
    &["MULTI", "DBSIZE", "MGET $ other", "EXEC"],
    &["MGET $ other third", "LCS $ other"],
];

#[test]
fn watched_keys_change_as_in_redis() {
    let Some(mut sides) = sides() else { return };
    let mut differences = String::new();
    for change in CHANGES {
        for (key, start) in ["k0", "k1", "k2", "k3"]
            .iter()
            .flat_map(|key| ["", "SET $ same", "SET $ 5 EX 1000"].map(move |start| (*key, start)))
        {
            let of_side = |server: &Server| {
                let (mut watcher, mut other) = (server.client(), server.client());
                let call = |client: &mut Client, line: &str| client.call(&words(&line.replace('$', key)));
                call(&mut other, "FLUSHALL");
                if !start.is_empty() {
                    call(&mut other, start);
                }
                call(&mut watcher, "WATCH $ unchanged");
                // Its own reads change nothing.
                call(&mut watcher, "GET $");
                change.iter().for_each(|line| drop(call(&mut other, line)));
                call(&mut watcher, "MULTI");
                call(&mut watcher, "SET result done");
                call(&mut watcher, "GET $");
                let reply = call(&mut watcher, "EXEC");
                // Nothing is watched any more.
                call(&mut other, "SET $ again");
                call(&mut watcher, "MULTI");
                (reply, call(&mut watcher, "EXEC"), call(&mut other, "EXISTS result"))
            };
            let replies: Vec<_> = sides.iter_mut().map(|side| of_side(&side.server)).collect();
            for (side, ours) in sides.iter().zip(&replies).skip(1) {
                if *ours != replies[0] {
                    let redis = &replies[0];
                    differences
                        .push_str(&format!("{}: {key} {start:?} {change:?}\n  {redis:?}\n  {ours:?}\n", side.name));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// What is queued is shown when it runs.
#[test]
fn monitors_see_what_a_transaction_runs() {
    let Some(mut sides) = sides() else { return };
    let lines: Vec<Vec<String>> = sides
        .iter_mut()
        .map(|side| {
            let mut monitor = side.server.client();
            monitor.call(&["MONITOR"]);
            for line in ["MULTI", "SET k0 v", "PING", "SET k1 w", "EXEC", "ECHO end"] {
                side.client.call(&words(line));
            }
            let mut seen = Vec::new();
            while !seen.last().is_some_and(|line: &String| line.contains("\"end\"")) {
                let line = String::from_utf8(monitor.read_raw()).unwrap();
                seen.push(line.split_once(']').unwrap().1.trim().to_string());
            }
            seen
        })
        .collect();
    assert_eq!(lines[0].len(), 6, "{:?}", lines[0]);
    assert_eq!(lines[1], lines[0]);
    assert_eq!(lines[2], lines[0]);
}

/// Memory that runs short between MULTI and EXEC: nothing runs. And commands over several cores are refused whole.
#[test]
fn nothing_runs_without_memory() {
    let Some(mut sides) = sides() else { return };
    let replies: Vec<Vec<Value>> = sides
        .iter_mut()
        .map(|side| {
            let (mut client, mut other) = (side.server.client(), side.server.client());
            let mut replies = Vec::new();
            let all = "k0 1 k1 2 k2 3 k3 4";
            for command in ["SET k0 x", &format!("MSET {all}"), "INCR k1"] {
                client.call(&["MULTI"]);
                client.call(&words(command));
                client.call(&["GET", "k2"]);
                other.call(&words("CONFIG SET maxmemory 1"));
                replies.push(client.call(&["EXEC"]));
                replies.push(client.call(&words(&format!("MSETNX {all}"))));
                replies.push(client.call(&words("MGET k0 k1 k2 k3")));
                replies.push(client.call(&words("DEL k0 k1 k2 k3")));
                other.call(&words("CONFIG SET maxmemory 0"));
            }
            client.call(&["MULTI"]);
            client.call(&["MGET", "k0", "k1"]);
            other.call(&words("CONFIG SET maxmemory 1"));
            // Without a command that needs memory, it runs.
            replies.push(client.call(&["EXEC"]));
            other.call(&words("CONFIG SET maxmemory 0"));
            replies
        })
        .collect();
    assert_eq!(replies[1], replies[0]);
    assert_eq!(replies[2], replies[0]);
}
