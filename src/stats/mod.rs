//! What a core counts, and how the numbers of several cores become those of the node.
//!
//! Each core owns and increments its own numbers; nothing here is shared or atomic. INFO and the metrics endpoint ask
//! every core for a [`Snapshot`] and merge the copies.

use std::collections::BTreeMap;

use crate::pubsub::Numbers;
use crate::resp::Error;
use crate::route::CoreId;
use crate::shard::{Counters, DbSize};

pub mod events;
pub mod latency;

pub use events::{Event, LatencyEvents};
pub use latency::{LATENCY_NS_MAX, Latency};

/// Error codes counted apart; further ones are counted as [`ERROR_CODE_OVERFLOW`].
const ERROR_CODES_MAX: usize = 128;
const ERROR_CODE_OVERFLOW: &str = "ERRORSTATS_OVERFLOW";

/// How often a command ran on this core, and for how long.
#[derive(Clone, Debug, Default)]
pub struct CommandStats {
    pub calls: u64,
    pub nanos: u64,
    /// Refused before execution (arity, access, memory).
    pub rejected: u64,
    /// Executed and answered with an error.
    pub failed: u64,
    /// Execution times.
    pub latency: Latency,
}

impl CommandStats {
    /// Whether there is anything to tell.
    pub fn is_used(&self) -> bool {
        self.calls + self.rejected > 0
    }

    fn merge(&mut self, other: &CommandStats) {
        self.calls += other.calls;
        self.nanos += other.nanos;
        self.rejected += other.rejected;
        self.failed += other.failed;
        self.latency.merge(&other.latency);
    }
}

/// What the network layer of a core counts; its pump increments the fields.
#[derive(Clone, Debug, Default)]
pub struct NetStats {
    pub connections_received: u64,
    /// Closed at once because of `maxclients`.
    pub connections_rejected: u64,
    pub input_bytes: u64,
    pub output_bytes: u64,
    /// Receive completions with data, and sends.
    pub reads: u64,
    pub writes: u64,
    /// Clients disconnected because they sent too much or read too little.
    pub query_limit_disconnects: u64,
    pub output_limit_disconnects: u64,
    /// Commands sent to another core, and commands executed for another core.
    pub hops_out: u64,
    pub hops_in: u64,
    /// From handing a command to the mesh until its reply is back.
    pub hop_latency: Latency,
    /// Now: connected clients; clients that wait for a key, another event or the end of a pause; clients in MONITOR.
    pub clients: u64,
    pub clients_blocked: u64,
    pub clients_monitoring: u64,
    /// Now: the largest receive buffer and the largest unsent output of one client, bytes.
    pub client_input_bytes_max: u64,
    pub client_output_bytes_max: u64,
    /// Now: memory of all connections, bytes.
    pub client_memory_bytes: u64,
    /// Now: messages that wait in the ring to each core, by destination.
    pub queue_depths: Vec<u64>,
}

impl NetStats {
    /// CONFIG RESETSTAT: what is counted starts again, what is now so stays.
    pub fn reset(&mut self) {
        *self = NetStats {
            clients: self.clients,
            clients_blocked: self.clients_blocked,
            clients_monitoring: self.clients_monitoring,
            client_input_bytes_max: self.client_input_bytes_max,
            client_output_bytes_max: self.client_output_bytes_max,
            client_memory_bytes: self.client_memory_bytes,
            queue_depths: std::mem::take(&mut self.queue_depths),
            ..NetStats::default()
        };
    }

    fn merge(&mut self, other: &NetStats) {
        self.connections_received += other.connections_received;
        self.connections_rejected += other.connections_rejected;
        self.input_bytes += other.input_bytes;
        self.output_bytes += other.output_bytes;
        self.reads += other.reads;
        self.writes += other.writes;
        self.query_limit_disconnects += other.query_limit_disconnects;
        self.output_limit_disconnects += other.output_limit_disconnects;
        self.hops_out += other.hops_out;
        self.hops_in += other.hops_in;
        self.hop_latency.merge(&other.hop_latency);
        self.clients += other.clients;
        self.clients_blocked += other.clients_blocked;
        self.clients_monitoring += other.clients_monitoring;
        self.client_input_bytes_max = self.client_input_bytes_max.max(other.client_input_bytes_max);
        self.client_output_bytes_max = self.client_output_bytes_max.max(other.client_output_bytes_max);
        self.client_memory_bytes += other.client_memory_bytes;
        self.queue_depths.resize(self.queue_depths.len().max(other.queue_depths.len()), 0);
        self.queue_depths.iter_mut().zip(&other.queue_depths).for_each(|(mine, theirs)| *mine += theirs);
    }
}

/// Errors sent, by code: the first word of their text. Codes come from the server's own texts, never from a client.
#[derive(Clone, Debug, Default)]
pub struct ErrorCounts(BTreeMap<String, u64>);

impl ErrorCounts {
    pub fn count(&mut self, error: &Error) {
        self.add(error.code(), 1);
    }

    fn add(&mut self, code: String, n: u64) {
        let room = self.0.len() < ERROR_CODES_MAX || self.0.contains_key(&code);
        *self.0.entry(if room { code } else { ERROR_CODE_OVERFLOW.into() }).or_default() += n;
    }

    /// Codes and their counts, in order of the code.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(code, n)| (code.as_str(), *n))
    }

    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// What a core does per second, over the last [`RATE_SAMPLES`] samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub ops: f64,
    pub input_bytes: f64,
    pub output_bytes: f64,
}

/// How often [`crate::engine::Engine::cron`] samples, ms, and how many samples make a rate.
pub const RATE_INTERVAL_MS: i64 = 100;
pub const RATE_SAMPLES: usize = 16;

/// Turns counters into rates.
#[derive(Clone, Debug, Default)]
pub struct RateSampler {
    /// When the counters were looked at, and what they said.
    last: Option<(i64, [u64; 3])>,
    /// A ring of the rates between two looks.
    samples: [[f64; 3]; RATE_SAMPLES],
    next: usize,
}

impl RateSampler {
    /// Takes a sample, unless the last one is less than half an interval old. `now` is the sum of commands, received
    /// and sent bytes. Counters that were reset give no sample.
    pub fn sample(&mut self, now_ms: i64, now: [u64; 3]) {
        let Some((last_ms, last)) = self.last else {
            self.last = Some((now_ms, now));
            return;
        };
        let elapsed_ms = now_ms - last_ms;
        if (0..RATE_INTERVAL_MS / 2).contains(&elapsed_ms) {
            return;
        }
        self.last = Some((now_ms, now));
        if elapsed_ms <= 0 || now.iter().zip(&last).any(|(now, last)| now < last) {
            return;
        }
        for (i, rate) in self.samples[self.next].iter_mut().enumerate() {
            *rate = (now[i] - last[i]) as f64 * 1000.0 / elapsed_ms as f64;
        }
        self.next = (self.next + 1) % RATE_SAMPLES;
    }

    /// The mean of the samples.
    pub fn rates(&self) -> Rates {
        let mean = |i: usize| self.samples.iter().map(|s| s[i]).sum::<f64>() / RATE_SAMPLES as f64;
        Rates { ops: mean(0), input_bytes: mean(1), output_bytes: mean(2) }
    }

    pub fn reset(&mut self) {
        *self = RateSampler::default();
    }
}

/// All numbers of one core at one moment; merged ones stand for the node.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub core: CoreId,
    /// By [`crate::command::CommandId`].
    pub commands: Vec<CommandStats>,
    pub errors: ErrorCounts,
    /// By database.
    pub keyspace: Vec<DbSize>,
    pub counters: Counters,
    /// Bytes charged to the keyspace.
    pub memory: usize,
    /// The part of `memory` that the allocator does not know, and how much is mapped for it.
    pub heap_bytes: usize,
    pub mapped_bytes: usize,
    /// The core's share of maxmemory; 0 without a limit.
    pub share_bytes: usize,
    /// Failed AUTH and HELLO AUTH.
    pub auth_failures: u64,
    pub slowlog_len: usize,
    pub rates: Rates,
    pub net: NetStats,
    /// How late keys were that expired without being looked at.
    pub expiry_lag: Latency,
    pub pubsub: Numbers,
    /// Changes of keys since the start.
    pub changes: u64,
}

impl Snapshot {
    /// Adds the numbers of another core.
    pub fn merge(&mut self, other: &Snapshot) {
        self.changes += other.changes;
        if self.commands.len() < other.commands.len() {
            self.commands.resize(other.commands.len(), CommandStats::default());
        }
        self.commands.iter_mut().zip(&other.commands).for_each(|(mine, theirs)| mine.merge(theirs));
        other.errors.iter().for_each(|(code, n)| self.errors.add(code.to_string(), n));
        if self.keyspace.len() < other.keyspace.len() {
            self.keyspace.resize(other.keyspace.len(), DbSize::default());
        }
        for (mine, theirs) in self.keyspace.iter_mut().zip(&other.keyspace) {
            mine.keys += theirs.keys;
            mine.expires += theirs.expires;
        }
        self.counters.hits += other.counters.hits;
        self.counters.misses += other.counters.misses;
        self.counters.expired += other.counters.expired;
        self.counters.evicted += other.counters.evicted;
        self.counters.expired_fields += other.counters.expired_fields;
        self.counters.expire_cap_reached += other.counters.expire_cap_reached;
        self.memory += other.memory;
        self.heap_bytes += other.heap_bytes;
        self.mapped_bytes += other.mapped_bytes;
        self.share_bytes += other.share_bytes;
        self.auth_failures += other.auth_failures;
        self.slowlog_len += other.slowlog_len;
        self.rates.ops += other.rates.ops;
        self.rates.input_bytes += other.rates.input_bytes;
        self.rates.output_bytes += other.rates.output_bytes;
        self.net.merge(&other.net);
        self.expiry_lag.merge(&other.expiry_lag);
        self.pubsub.merge(&other.pubsub);
    }

    /// The numbers of all cores together.
    pub fn merged<'a>(cores: impl IntoIterator<Item = &'a Snapshot>) -> Snapshot {
        let mut sum = Snapshot::default();
        cores.into_iter().for_each(|core| sum.merge(core));
        sum
    }

    /// Commands executed.
    pub fn calls(&self) -> u64 {
        self.commands.iter().map(|c| c.calls).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds_up() {
        let mut a = Snapshot::default();
        let mut b = Snapshot { core: 1, memory: 10, ..Snapshot::default() };
        b.commands.resize(2, CommandStats::default());
        b.commands[1].calls = 3;
        b.commands[1].latency.record(1500);
        b.keyspace = vec![DbSize { keys: 2, expires: 1 }];
        b.errors.count(&Error::Syntax);
        b.net.queue_depths = vec![0, 4];
        b.net.hop_latency.record(9000);
        a.merge(&b);
        a.merge(&b);
        assert_eq!(a.calls(), 6);
        assert_eq!(a.commands[1].latency.count(), 2);
        assert_eq!(a.keyspace[0], DbSize { keys: 4, expires: 2 });
        assert_eq!(a.errors.iter().collect::<Vec<_>>(), [("ERR", 2)]);
        assert_eq!((a.memory, &a.net.queue_depths[..]), (20, &[0u64, 8][..]));
        assert_eq!(a.net.hop_latency.count_up_to(10_000), 2);
        assert_eq!(a.net.hop_latency.count_up_to(1000), 0);
    }

    #[test]
    fn resetting_keeps_what_is_now_so() {
        let mut net = NetStats { clients: 4, input_bytes: 9, queue_depths: vec![2], ..NetStats::default() };
        net.reset();
        assert_eq!((net.clients, net.input_bytes, net.queue_depths), (4, 0, vec![2]));
    }

    #[test]
    fn rates_are_per_second() {
        let mut sampler = RateSampler::default();
        for i in 0..=RATE_SAMPLES as u64 {
            sampler.sample(i as i64 * 100, [i * 50, i * 1000, 0]);
            // Too early for another sample.
            sampler.sample(i as i64 * 100 + 10, [i * 50, i * 1000, 0]);
        }
        assert_eq!(sampler.rates(), Rates { ops: 500.0, input_bytes: 10_000.0, output_bytes: 0.0 });
        // Reset counters and a clock that stands still are no samples.
        sampler.sample(10_000, [0, 0, 0]);
        sampler.sample(10_000, [1, 1, 1]);
        assert_eq!(sampler.rates().ops, 500.0);
    }

    #[test]
    fn error_codes_are_bounded() {
        let mut errors = ErrorCounts::default();
        for i in 0..500 {
            errors.count(&Error::text(format!("CODE{i} text")));
        }
        assert!(errors.iter().count() <= ERROR_CODES_MAX + 1);
        assert_eq!(errors.total(), 500);
    }
}
