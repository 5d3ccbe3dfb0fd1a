//! Transcripts: what a client types and what it sees, for tests of keyspace commands.
//!
//! Each line is `COMMAND arg ... => reply`. Words may be in double quotes, with `\n`, `\"` and `\xHH` inside. In the
//! expected reply `|` stands for CR LF, and the last one is left out: `=> *2|$1|a|$-1`. Lines that start with `@` steer:
//! `@time 500` lets 500 ms pass, `@step -500` sets the wall clock back by 500 ms, `@db 3` selects a database, `@resp 3` the protocol version. `#` starts a comment.

use super::table::Unknown;
use super::{Ctx, Handler, Owned, table};
use crate::pubsub::PubSub;
use crate::resp::{Error, Output, Reply, Version};
use crate::route::Hasher;
use crate::shard::{Now, Shard};

/// Time at the start of a transcript, Unix ms.
pub const START_MS: i64 = 1_700_000_000_000;

/// One core with a client.
pub struct Transcript {
    pub shard: Shard,
    pub hasher: Hasher,
    pub db: usize,
    pub version: Version,
    pub string_bytes_max: usize,
    pub random: u64,
}

impl Default for Transcript {
    fn default() -> Self {
        Transcript::with_partitions(16, 0..16)
    }
}

impl Transcript {
    /// A core that owns `range` of the node's `partitions`.
    pub fn with_partitions(partitions: u16, range: std::ops::Range<u16>) -> Self {
        let hasher = Hasher::new(partitions, [1, 2, 3, 4]);
        let mut shard = Shard::new(range, 16, hasher.clone());
        shard.set_now(START_MS);
        Transcript { shard, hasher, db: 0, version: Version::V2, string_bytes_max: 1 << 20, random: 7 }
    }

    /// Runs a whole transcript on a fresh core.
    pub fn check(text: &str) {
        Transcript::default().run(text);
    }

    /// Runs the lines of `text` and compares the replies.
    pub fn run(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(steer) = line.strip_prefix('@') {
                self.steer(steer);
                continue;
            }
            let (command, expected) = line.rsplit_once("=>").unwrap_or_else(|| panic!("no reply in {line:?}"));
            let words = split_words(command);
            let words: Vec<&[u8]> = words.iter().map(|w| w.as_slice()).collect();
            let reply = shown(&self.call(&words));
            assert_eq!(reply, expected.trim(), "{line}");
        }
    }

    fn steer(&mut self, steer: &str) {
        let (what, number) = steer.split_once(' ').expect("@what number");
        let number: i64 = number.parse().expect("a number");
        match what {
            "time" => self.set_clocks(number, number),
            "step" => self.set_clocks(number, 0),
            "db" => self.db = number as usize,
            "resp" => self.version = if number == 3 { Version::V3 } else { Version::V2 },
            _ => panic!("unknown: @{steer}"),
        }
    }

    fn set_clocks(&mut self, wall_ms: i64, steady_ms: i64) {
        let now = self.shard.now();
        self.shard.set_now(Now { wall_ms: now.wall_ms + wall_ms, steady_ms: now.steady_ms + steady_ms });
    }

    /// The bytes of the reply to one command.
    pub fn call(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let mut out = Output::new();
        let mut reply = Reply::new(&mut out, self.version);
        if let Err(error) = self.execute(args, &mut reply) {
            reply.output().truncate(0);
            reply.error(&error);
        }
        out.to_vec()
    }

    fn execute(&mut self, args: &[&[u8]], reply: &mut Reply) -> Result<(), Error> {
        let row = table().resolve(args).map_err(|unknown| match unknown {
            Unknown::Command => Error::unknown_command(args),
            Unknown::Subcommand => Error::text("ERR unknown subcommand"),
        })?;
        if !row.command.arity_ok(args.len()) {
            return Err(Error::Arity(row.full_name.clone()));
        }
        let Handler::Keyspace(run) = row.command.handler else { panic!("{} is no keyspace command", row.full_name) };
        let first = row.command.keys.positions(args).next().map(|at| self.hasher.key(args[at]));
        let mut ctx = Ctx {
            shard: &mut self.shard,
            hasher: &self.hasher,
            pubsub: &mut PubSub::new(0, 1, self.hasher.clone()),
            db: self.db,
            no_touch: false,
            first,
            owned: &Owned::default(),
            random: self.random,
            thresholds: &Default::default(),
            string_bytes_max: self.string_bytes_max,
            changes: 0,
            logged: false,
        };
        let result = run(&mut ctx, args, reply);
        let (changes, logged) = (ctx.changes, ctx.logged);
        if result.is_err() {
            assert_eq!(changes, 0, "{} failed and changed something", row.full_name);
        }
        assert!(changes == 0 || !row.command.flags.has(super::Flags::READONLY), "{} wrote", row.full_name);
        if changes > 0 && !logged {
            self.shard.effects.push(self.db, args);
        }
        result
    }

    /// The effects since the last call, as transcripts show commands.
    pub fn effects(&mut self) -> Vec<String> {
        let words = |args: &[Vec<u8>]| args.iter().map(|a| a.escape_ascii().to_string()).collect::<Vec<_>>().join(" ");
        self.shard.effects.drain().map(|effect| words(&effect.args)).collect()
    }
}

/// A reply as transcripts write it.
pub fn shown(reply: &[u8]) -> String {
    let text = String::from_utf8(
        reply
            .iter()
            .flat_map(|&b| match b {
                b'\r' | b'\n' | b' '..=b'~' => vec![b],
                b => format!("\\x{b:02x}").into_bytes(),
            })
            .collect(),
    )
    .expect("ASCII");
    text.strip_suffix("\r\n").expect("a whole reply").replace("\r\n", "|")
}

fn split_words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let end = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (word, len) = unquote(quoted);
                words.push(word);
                len + 1
            }
            None => {
                let end = rest.find(' ').unwrap_or(rest.len());
                words.push(rest.as_bytes()[..end].to_vec());
                end
            }
        };
        rest = rest[end..].trim_start();
    }
    words
}

/// The word up to the closing quote, and the length of its text with the quote.
fn unquote(text: &str) -> (Vec<u8>, usize) {
    let bytes = text.as_bytes();
    let (mut word, mut at) = (Vec::new(), 0);
    while bytes[at] != b'"' {
        if bytes[at] != b'\\' {
            word.push(bytes[at]);
            at += 1;
            continue;
        }
        match bytes[at + 1] {
            b'x' => {
                word.push(u8::from_str_radix(&text[at + 2..at + 4], 16).expect("two hexadecimal digits"));
                at += 4;
                continue;
            }
            b'n' => word.push(b'\n'),
            other => word.push(other),
        }
        at += 2;
    }
    (word, at + 1)
}
