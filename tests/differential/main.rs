//! The same commands to redis-server 7.0 and to this server get the same replies.
//!
//! Random commands of all families under test run on redis-server, on a node of one core and on a node of two, single
//! and pipelined, RESP2 and RESP3. Replies are compared as `compare` says, and after each sequence the whole keyspace.
//!
//! A failure prints the seed of its sequence: `KEYLOOM_SEED=<seed>` runs that one first. `KEYLOOM_SEQUENCES` is the
//! number of sequences. Without redis-server the tests do nothing, unless `KEYLOOM_REDIS_SERVER` says that there is one.

#[path = "../common/mod.rs"]
mod common;

mod collections;
mod commands;
mod compare;
mod dump;
mod fixed;
mod many_keys;
mod pubsub;
mod sort;
mod sorted_sets;
mod transactions;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use commands::{Command, Generator};
use common::{Client, Random, Server, show};
use compare::{Rule, rule, same, sorted};
use keyloom::resp::read::{Value, encode_command};
use transactions::same_elements;

/// Sequences of one run, unless `KEYLOOM_SEQUENCES` says otherwise.
const SEQUENCES: u64 = 200;
const BATCHES_PER_SEQUENCE: usize = 30;
const BATCH_MAX: usize = 40;
/// Different differences after which a run gives up.
const DIFFERENCES_MAX: usize = 12;
/// How many of the commands before a difference are shown.
const HISTORY_SHOWN: usize = 60;
/// How much of what is the same in two replies is shown.
const SAME_SHOWN: usize = 200;
/// Databases that random commands reach.
const DATABASES: &[&str] = &["0", "1", "2", "15"];
/// Time to live of keys that are to expire during a sequence, ms at the most.
const SHORT_TTL_MS_MAX: u64 = 3;
/// Argument of the ECHO that ends a batch whose number of replies is not known beforehand.
const END: &[u8] = b"the end of the batch";

/// Slow commands would fill the log of slow commands, at other moments on each server.
const ARGS: &[&str] = &["--slowlog-log-slower-than", "-1"];

/// One of the servers, and the connection of the current sequence.
struct Side {
    name: &'static str,
    server: Server,
    client: Client,
}

impl Side {
    fn new(name: &'static str, server: Server) -> Side {
        let client = server.client();
        Side { name, server, client }
    }
}

/// redis-server, then the servers under test.
fn sides() -> Option<Vec<Side>> {
    let version = Server::redis_version();
    assert!(
        version.as_ref().is_some_and(|version| version.starts_with("7.0.")),
        "redis-server is {version:?}, not 7.0: run scripts/install-peers.sh, or name one in KEYLOOM_REDIS_SERVER"
    );
    Some(vec![
        Side::new("redis", Server::redis(ARGS)),
        Side::new("one core", Server::keyloom(&[&["--cpus", "0"], ARGS].concat())),
        Side::new("two cores", Server::keyloom(&[&["--cpus", "0-1"], ARGS].concat())),
    ])
}

#[test]
fn random_commands_get_the_replies_of_redis() {
    let Some(mut sides) = sides() else { return };
    let sequences = std::env::var("KEYLOOM_SEQUENCES").map_or(SEQUENCES, |n| n.parse().unwrap());
    let first_seed = common::seed();
    let mut differences: BTreeMap<String, String> = BTreeMap::new();
    let mut commands = 0;
    for seed in (0..sequences).map(|n| first_seed.wrapping_add(n)) {
        let mut sequence = Sequence::new(seed, &mut sides);
        if let Err(difference) = sequence.run() {
            let (kind, text) = difference.describe(seed, &sequence.history);
            differences.entry(kind).or_insert(text);
        }
        commands += sequence.history.len();
        if differences.len() == DIFFERENCES_MAX {
            break;
        }
    }
    println!("{commands} commands, first seed {first_seed}");
    let texts: Vec<String> = differences.into_values().collect();
    assert!(texts.is_empty(), "{}", texts.join("\n"));
}

/// Where a server under test and redis-server differ.
struct Difference {
    side: &'static str,
    /// Position in the history.
    command: usize,
    redis: Vec<u8>,
    ours: Vec<u8>,
}

impl Difference {
    /// A name for differences of one kind, and the whole text.
    fn describe(&self, seed: u64, history: &[Command]) -> (String, String) {
        let command = &history[self.command];
        let kind = show(&command[0]).to_uppercase();
        let mut text = format!("KEYLOOM_SEED={seed}, {}:\n", self.side);
        for before in &history[self.command.saturating_sub(HISTORY_SHOWN)..self.command] {
            text.push_str(&format!("    {}\n", show_command(before)));
        }
        text.push_str(&format!("  command: {}\n", show_command(command)));
        let same = self.redis.iter().zip(&self.ours).take_while(|(a, b)| a == b).count();
        let from = same.saturating_sub(SAME_SHOWN);
        text.push_str(&format!("  from byte {from}\n  redis:   {}\n", show(&self.redis[from..])));
        text.push_str(&format!("  ours:    {}\n", show(&self.ours[from..])));
        (kind, text)
    }
}

fn show_command(command: &[Vec<u8>]) -> String {
    const ARG_SHOWN: usize = 130;
    let show_arg = |arg: &Vec<u8>| format!("\"{}\"", show(&arg[..arg.len().min(ARG_SHOWN)]));
    command.iter().map(show_arg).collect::<Vec<_>>().join(" ")
}

/// One sequence of commands on empty servers and new connections.
struct Sequence<'a> {
    sides: &'a mut [Side],
    generator: Generator,
    /// All commands so far.
    history: Vec<Command>,
    /// Which of them wait for EXEC.
    queued: Vec<usize>,
    /// Longest time that a batch took on all servers together, ms.
    span_ms: i64,
    sent_at: Instant,
}

impl Sequence<'_> {
    fn new(seed: u64, sides: &mut [Side]) -> Sequence<'_> {
        Sequence {
            sides,
            generator: Generator::new(seed),
            history: Vec::new(),
            queued: Vec::new(),
            span_ms: 0,
            sent_at: Instant::now(),
        }
    }

    fn random(&mut self) -> &mut Random {
        &mut self.generator.random
    }

    fn run(&mut self) -> Result<(), Difference> {
        self.connect();
        self.exchange(vec![words("FLUSHALL"), words("CONFIG SET maxmemory-samples 5 tcp-keepalive 300")])?;
        let entries = if self.random().one_in(2) { 128 } else { self.random().below(6) };
        self.exchange(vec![words(&format!("CONFIG SET zset-max-listpack-entries {entries}"))])?;
        if self.random().one_in(2) {
            self.exchange(vec![words("HELLO 3")])?;
        }
        for _ in 0..BATCHES_PER_SEQUENCE {
            match self.random().below(40) {
                0 => self.quit()?,
                1 | 2 => self.let_keys_expire()?,
                3 | 4 => self.switch_replies_off()?,
                5..=9 => self.transact()?,
                10 => self.watch_a_key_that_is_over()?,
                n => {
                    let len = if n < 20 { 1 } else { 1 + self.random().below(BATCH_MAX) };
                    let batch = self.batch(len);
                    self.exchange(batch)?;
                }
            }
        }
        self.compare_keyspaces()
    }

    fn connect(&mut self) {
        for side in self.sides.iter_mut() {
            side.client = side.server.client();
        }
    }

    fn batch(&mut self, len: usize) -> Vec<Command> {
        (0..len).map(|_| self.generator.command()).collect()
    }

    /// Sends a batch to all servers, in one write or in two, and compares the replies.
    fn exchange(&mut self, batch: Vec<Command>) -> Result<(), Difference> {
        let bytes = self.encode(&batch);
        self.send(&bytes, batch.len());
        let first = self.history.len();
        self.history.extend(batch);
        let mut replies: Vec<Vec<Vec<u8>>> = Vec::new();
        for side in self.sides.iter_mut() {
            let next = |_| side.client.try_read_raw().unwrap_or_default();
            replies.push((first..self.history.len()).map(next).collect());
        }
        self.note_span();
        for at in first..self.history.len() {
            let rule = rule(&self.history[at]);
            self.note_queued(at, &replies[0][at - first]);
            let is_exec = self.history[at][0].eq_ignore_ascii_case(b"exec");
            let queued: Vec<&Command> = self.queued.iter().map(|&at| &self.history[at]).collect();
            let span_ms = 2 * self.span_ms;
            for (side, ours) in self.sides.iter().zip(&replies).skip(1) {
                let (redis, ours) = (&replies[0][at - first], &ours[at - first]);
                let same = match is_exec && redis.starts_with(b"*") && !redis.starts_with(b"*-1") {
                    true => same_elements(&queued, redis, ours, span_ms),
                    false => same(rule, redis, ours, span_ms),
                };
                if redis.is_empty() || !same {
                    let (redis, ours) = (redis.clone(), ours.clone());
                    return Err(Difference { side: side.name, command: at, redis, ours });
                }
            }
        }
        Ok(())
    }

    /// Notes which commands the next EXEC will run.
    fn note_queued(&mut self, at: usize, redis: &[u8]) {
        if redis == b"+QUEUED\r\n" {
            self.queued.push(at);
        } else if self.history[at][0].eq_ignore_ascii_case(b"multi") && redis == b"+OK\r\n" {
            self.queued.clear();
        }
    }

    /// All servers have executed the batch that was sent last.
    fn note_span(&mut self) {
        self.span_ms = self.span_ms.max(self.sent_at.elapsed().as_millis() as i64 + 2);
    }

    /// Mostly arrays of bulk strings, sometimes lines.
    fn encode(&mut self, batch: &[Command]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for command in batch {
            if self.random().one_in(16) && command.iter().map(Vec::len).sum::<usize>() < INLINE_MAX {
                encode_line(command, &mut bytes);
            } else {
                encode_command(command, &mut bytes);
            }
        }
        bytes
    }

    fn send(&mut self, bytes: &[u8], commands: usize) {
        let cut = if commands > 1 && self.random().one_in(4) { self.random().below(bytes.len()) } else { 0 };
        self.sent_at = Instant::now();
        for side in self.sides.iter_mut() {
            side.client.send_bytes(&bytes[..cut]);
            side.client.send_bytes(&bytes[cut..]);
        }
    }

    /// What comes after QUIT is not executed.
    fn quit(&mut self) -> Result<(), Difference> {
        let len = self.random().below(5);
        let batch = self.batch(len);
        self.exchange(batch)?;
        let key = words("SET a unseen");
        let bytes = self.encode(&[words("QUIT"), key]);
        self.history.push(words("QUIT"));
        self.send(&bytes, 1);
        self.compare_rest(|client| Some(client.read_to_end()))?;
        self.connect();
        Ok(())
    }

    /// Compares what `read` reads from each connection, byte for byte.
    fn compare_rest(&mut self, read: impl Fn(&mut Client) -> Option<Vec<u8>>) -> Result<(), Difference> {
        let replies: Vec<_> = self.sides.iter_mut().map(|side| read(&mut side.client)).collect();
        self.note_span();
        for (side, ours) in self.sides.iter().zip(&replies).skip(1) {
            let as_text = |reply: &Option<Vec<u8>>| reply.as_ref().map(|r| String::from_utf8_lossy(r).into_owned());
            if replies[0].is_none() || (ours != &replies[0] && as_text(ours) != as_text(&replies[0])) {
                let [redis, ours] = [&replies[0], ours].map(|reply| reply.clone().unwrap_or_default());
                return Err(Difference { side: side.name, command: self.history.len() - 1, redis, ours });
            }
        }
        Ok(())
    }

    /// Commands among which CLIENT REPLY switches replies off and on. Which of them have no reply is not modelled here:
    /// all that came are compared.
    fn switch_replies_off(&mut self) -> Result<(), Difference> {
        let mut batch = Vec::new();
        for _ in 0..1 + self.random().below(BATCH_MAX) {
            let command = self.generator.command();
            if self.random().one_in(4) {
                let mode = self.random().pick(&["OFF", "ON", "SKIP", "SKIP", "skip x"]);
                batch.push(words(&format!("CLIENT REPLY {mode}")));
            } else if rule(&command) == Rule::Exact && command.iter().all(|arg| arg.len() < 100) {
                batch.push(command);
            }
        }
        batch.extend([words("CLIENT REPLY ON"), vec![b"ECHO".to_vec(), END.to_vec()]]);
        let bytes = self.encode(&batch);
        self.send(&bytes, batch.len());
        self.history.extend(batch);
        self.compare_rest(|client| {
            let mut all = Vec::new();
            loop {
                let reply = client.try_read_raw()?;
                all.extend_from_slice(&reply);
                if reply.windows(END.len()).any(|part| part == END) {
                    return Some(all);
                }
            }
        })
    }

    /// Gives some keys a few milliseconds, and waits until they are over: then both servers must say that they are gone.
    fn let_keys_expire(&mut self) -> Result<(), Difference> {
        let mut batch = Vec::new();
        let mut names = Vec::new();
        for _ in 0..1 + self.random().below(4) {
            let key = commands::key_name(self.random());
            let ttl = (1 + self.random().next() % SHORT_TTL_MS_MAX).to_string().into_bytes();
            let [set, px, pexpire] = ["SET", "PX", "PEXPIRE"].map(|word| word.as_bytes().to_vec());
            // Only once: whether a key is there when it is named again is a matter of time.
            if names.contains(&key) {
                continue;
            }
            names.push(key.clone());
            batch.push(match self.random().below(3) {
                0 => vec![set, key, b"short".to_vec(), px, ttl],
                1 => vec![set, key, b"over already".to_vec(), b"PXAT".to_vec(), ttl],
                _ => vec![pexpire, key, ttl],
            });
        }
        self.exchange(batch)?;
        // Until the clock, whose unit is a millisecond, has gone past all of them.
        std::thread::sleep(Duration::from_millis(SHORT_TTL_MS_MAX + 1));
        // Redis counts keys that are over in DBSIZE until somebody asks for them.
        let exists = commands::all_key_names().map(|key| vec![b"EXISTS".to_vec(), key.to_vec()]);
        self.exchange(exists.chain([words("DBSIZE")]).collect())
    }

    /// Every key of every database, with its value, expiry and encoding.
    fn compare_keyspaces(&mut self) -> Result<(), Difference> {
        self.exchange(vec![words("RESET")])?;
        for db in DATABASES {
            self.exchange(vec![words(&format!("SELECT {db}")), words("DBSIZE"), words("KEYS *")])?;
            let Value::Array(keys) = self.sides[0].client.call(&["KEYS", "*"]) else { panic!("KEYS is no array") };
            let mut batch = Vec::new();
            for key in sorted(keys) {
                for name in ["TYPE", "GET", "PTTL", "PEXPIRETIME", "STRLEN", "SMEMBERS", "HGETALL"] {
                    batch.push(vec![name.as_bytes().to_vec(), key.clone()]);
                }
                batch.push(["LRANGE", "0", "-1"].map(|word| word.as_bytes().to_vec()).into());
                batch.last_mut().expect("just pushed").insert(1, key.clone());
                batch.push(["ZRANGE", "0", "-1", "WITHSCORES"].map(|word| word.as_bytes().to_vec()).into());
                batch.last_mut().expect("just pushed").insert(1, key.clone());
                batch.push(vec![b"OBJECT".to_vec(), b"ENCODING".to_vec(), key]);
            }
            self.exchange(batch)?;
        }
        Ok(())
    }
}

/// Longest command that is sent as a line, bytes of its arguments; each can take four bytes.
const INLINE_MAX: usize = 10_000;

/// A command as a line of quoted arguments.
fn encode_line(command: &[Vec<u8>], bytes: &mut Vec<u8>) {
    for (at, arg) in command.iter().enumerate() {
        if at > 0 {
            bytes.push(b' ');
        }
        if at == 0 && !arg.is_empty() && arg.iter().all(u8::is_ascii_alphanumeric) {
            bytes.extend_from_slice(arg);
            continue;
        }
        bytes.push(b'"');
        arg.iter().for_each(|byte| bytes.extend_from_slice(format!("\\x{byte:02x}").as_bytes()));
        bytes.push(b'"');
    }
    bytes.extend_from_slice(b"\r\n");
}

/// A command from words without blanks in them.
fn words(line: &str) -> Command {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}
