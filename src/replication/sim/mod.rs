//! A cluster from one number: a primary, two replicas, and one that follows a replica; connections that are slow, break or go
//! silent; nodes that stall, crash and lose what was not on their disks; an operator who promotes, hands over and makes mistakes.
//!
//! ```text
//!     mod.rs       the world and its steps          node.rs      the shell of a node, around the shipped machines
//!     operator.rs  what people do; the judgement    network.rs   connections      ledger.rs   what nobody else knows
//! ```
//!
//! All messages are encoded and decoded. In every step it is checked that
//! - the data of every node is exactly what its log up to its applied index makes, according to the ledger;
//! - a replica applies nothing that is not committed, and takes nothing back that is applied;
//! - whoever counts as in sync has a complete copy, and everything that is committed;
//! - no index of a history is written twice, and no history has the id of another;
//! - at most one node accepts writes, unless the operator has promoted a second one;
//! - queues keep to their limit;
//!
//! whenever an in-sync replica is promoted, by hand or by FAILOVER, that it has every write that was acknowledged under
//! `quorum`, and after a power cut every one that was under `quorum-disk`; and in the end, when nothing is disturbed any more, that
//! all nodes come to rest with the same log, the same data and everything applied.
//!
//! The controls make one mistake each, in a machine or in its shell, and must be found.
//!
//! `KEYLOOM_SEED=n cargo test --lib replication::sim` runs one seed.

mod ledger;
mod network;
mod node;
mod operator;

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use self::ledger::{Ledger, PARTITIONS, RECORD_LEN, Record, State};
use self::network::{Connection, Packet, Random};
use self::node::Node;
use super::history::{Chain, HistoryId};
use super::message::{Frame, ToPrimary, ToReplica};
use super::primary::{self, Primary};
use super::replica::{self, Holdings, Replica};

const NODES: usize = 4;
/// Seeds of the test.
const SEEDS: u64 = 2_000;
/// Steps with disturbances.
const STEPS: usize = 2_000;
/// Steps in which all has to come to rest.
const STEPS_TO_REST: usize = 30_000;
const QUEUE_BYTES_MAX: u64 = 4_000;

/// What is done wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    Primary(primary::Fault),
    Replica(replica::Fault),
    /// What is received is acknowledged, and appended to the log later.
    AckBeforeAppend,
    /// A primary that restarts goes on with its history.
    ReuseHistory,
    /// A relay sends on what it has received, as if all of it were committed.
    RelayUncommitted,
    /// The note that the data is incomplete is not made.
    ForgetIncomplete,
    /// What is lost with a restart counts as durable.
    DurableTooEarly,
}

impl Mistake {
    fn of_primary(self) -> Option<primary::Fault> {
        match self {
            Mistake::Primary(fault) => Some(fault),
            _ => None,
        }
    }
}

/// What has happened, so that a test can say that it did.
#[derive(Debug, Default)]
struct Seen {
    copies: u64,
    set_aside: u64,
    trimmed_tails: u64,
    resumed: u64,
    stepped_down: u64,
    inquiries: u64,
    promoted_in_sync: u64,
    power_cuts: u64,
    splits: u64,
    acked: u64,
    acked_durable: u64,
    drops: BTreeMap<String, u64>,
}

struct World {
    random: Random,
    now_ms: u64,
    ticked_ms: u64,
    nodes: Vec<Node>,
    connections: Vec<Connection>,
    last_connection: u64,
    last_op: u64,
    ledger: Ledger,
    committed: HashSet<(HistoryId, u64)>,
    commit_noted: Vec<(u64, u64)>,
    mistake: Mistake,
    min_insync: usize,
    latency_ms: u64,
    /// Writes that come at once.
    burst: u64,
    /// The one node that leads; none while the operator has made it two.
    leader: Option<usize>,
    /// Writes of the leader that are not answered.
    pending: Vec<(HistoryId, u64)>,
    pending_durable: Vec<(HistoryId, u64)>,
    /// Writes that were acknowledged and must not be lost.
    acked: Vec<(HistoryId, u64)>,
    acked_durable: Vec<(HistoryId, u64)>,
    /// The operator has allowed that a failover loses something.
    forced: bool,
    quiet: bool,
    seen: Seen,
    /// One seed was asked for: what happens is printed.
    talks: bool,
}

impl World {
    fn new(seed: u64, mistake: Mistake) -> World {
        let mut random = Random::new(seed);
        let root = random.id();
        let mut world = World {
            now_ms: 1_000,
            ticked_ms: 0,
            nodes: Vec::new(),
            connections: Vec::new(),
            last_connection: 0,
            last_op: 0,
            ledger: Ledger::default(),
            committed: HashSet::new(),
            commit_noted: vec![(0, 0); NODES],
            mistake,
            min_insync: 1 + random.below(3).min(1) as usize,
            latency_ms: 1 + random.below(20),
            burst: 1 + random.below(2) * random.below(30),
            leader: Some(0),
            pending: Vec::new(),
            pending_durable: Vec::new(),
            acked: Vec::new(),
            acked_durable: Vec::new(),
            forced: false,
            quiet: false,
            seen: Seen::default(),
            talks: std::env::var_os("KEYLOOM_SEED").is_some(),
            random,
        };
        world.ledger.history(root);
        for n in 0..NODES {
            let chain = if n == 0 { Chain::root(root, 0) } else { Chain::root(world.random.id(), 0) };
            let has = Holdings { chain: chain.clone(), received: 0, applied: 0, durable: 0, complete: true };
            let mut replica = Replica::new(world.replica_settings(n), has, 0);
            replica.fault = world.replica_fault();
            let mut primary = Primary::new(world.primary_settings(n));
            primary.fault = mistake.of_primary();
            world.nodes.push(Node::new(chain, replica, primary));
        }
        world.lead(0, world.nodes[0].chain.clone()).expect("a node begins to lead");
        for (n, target) in [(1, 0), (2, 0), (3, 1)] {
            world.follow(n, target).expect("a node begins to follow");
        }
        world
    }

    fn primary_settings(&self, n: usize) -> primary::Settings {
        primary::Settings {
            node: n as u128 + 1,
            min_insync: self.min_insync,
            insync_timeout_ms: 300,
            durable_quorum: true,
            heartbeat_ms: 50,
            repl_timeout_ms: 700,
            phi_max: 8.0,
            queue_bytes_max: QUEUE_BYTES_MAX,
            replicas_max: NODES,
            copy_delay_ms: 20,
            good_replicas_min: 0,
            good_replica_lag_ms_max: 1000,
        }
    }

    fn replica_settings(&self, n: usize) -> replica::Settings {
        replica::Settings {
            node: n as u128 + 1,
            port: n as u16 + 1,
            heartbeat_ms: 50,
            repl_timeout_ms: 700,
            phi_max: 8.0,
        }
    }

    fn replica_fault(&self) -> Option<replica::Fault> {
        match self.mistake {
            Mistake::Replica(fault) => Some(fault),
            _ => None,
        }
    }

    fn delay_ms(&mut self) -> u64 {
        if self.random.chance(2) { self.random.below(20 * self.latency_ms) } else { self.random.below(self.latency_ms) }
    }

    /// Prints what happens, if one seed was asked for.
    fn say(&self, what: impl FnOnce() -> String) {
        if self.talks {
            println!("{:>6} {}", self.now_ms, what());
        }
    }

    /// One step, and the judgement.
    fn step(&mut self) -> Result<(), String> {
        self.now_ms += self.random.below(4);
        if self.now_ms >= self.ticked_ms + 10 {
            self.tick()?;
        }
        let n = self.random.below(NODES as u64) as usize;
        let awake = self.nodes[n].alive && !self.nodes[n].is_stalled(self.now_ms);
        match self.random.below(20) {
            0..=1 if awake && !self.quiet => {
                for _ in 0..1 + self.random.below(self.burst) {
                    self.write(n)?;
                }
            }
            2..=3 if awake => self.serve(n)?,
            4..=5 if awake => {
                let frames = self.random.below(4) as usize;
                self.apply(n, frames, false)?;
            }
            6 if awake => self.sync(n)?,
            7 if awake && self.random.chance(20) => self.trim(n),
            8 if !self.quiet => self.disturb(n)?,
            _ => {
                self.pump();
                self.deliver()?;
                self.deliver()?;
            }
        }
        for n in 0..NODES {
            let node = &self.nodes[n];
            if node.alive && !node.is_stalled(self.now_ms) {
                let uncommitted = self.mistake == Mistake::RelayUncommitted;
                let commit = if uncommitted { node.end() } else { node.replica.commit() };
                self.on_primary(n, |p, now, out| {
                    p.upstream_commit(now, commit);
                    p.turn_end(now, out)
                })?;
            }
        }
        self.judge()
    }

    fn tick(&mut self) -> Result<(), String> {
        self.ticked_ms = self.now_ms;
        for n in 0..NODES {
            if self.nodes[n].alive && !self.nodes[n].is_stalled(self.now_ms) {
                let random = self.random.next();
                self.on_primary(n, |p, now, out| p.tick(now, now, out))?;
                self.on_replica(n, |r, now, out| r.tick(now, now, random, out))?;
            }
        }
        self.connections.retain(|c| !c.is_over());
        Ok(())
    }

    /// A client writes one to three records at a node, if that lets it.
    fn write(&mut self, n: usize) -> Result<(), String> {
        if self.nodes[n].primary.writable(self.now_ms).is_err() {
            // What clients cannot write, expiry still can until writes are paused.
            if !(self.nodes[n].leading && self.nodes[n].pausing) {
                return Ok(());
            }
        }
        let (count, first) = (1 + self.random.below(3) as u32, self.nodes[n].end() + 1);
        let history = self.nodes[n].chain.last().id;
        let mut bytes = Vec::with_capacity(count as usize * RECORD_LEN);
        for index in (first..).take(count as usize) {
            self.last_op += 1;
            let record = Record { op: self.last_op, key: self.random.below(16) as u8 };
            record.write(&mut bytes);
            self.nodes[n].state.apply(record);
            let digest = self.nodes[n].state.digest();
            self.ledger.written(history, index, record, digest)?;
            if self.leader == Some(n) {
                self.pending.push((history, index));
                self.pending_durable.push((history, index));
            }
        }
        let frame = Frame { history, first, count, bytes: bytes.into() };
        let node = &mut self.nodes[n];
        node.log.push(frame.clone());
        (node.applied, node.apply_upto) = (frame.last(), frame.last());
        if self.mistake == Mistake::DurableTooEarly {
            self.on_primary(n, |p, now, _| p.durable(now, u64::MAX))?;
        }
        self.on_primary(n, |p, now, out| p.appended(now, &frame, out))
    }

    /// Sockets take what is queued for them.
    fn pump(&mut self) {
        for at in 0..self.connections.len() {
            let (delay, now) = (self.delay_ms(), self.now_ms);
            let chance = self.random.below(100);
            let connection = &mut self.connections[at];
            if chance >= connection.pace && !self.quiet {
                continue;
            }
            if let Some((cost, packet)) = connection.outbox.pop_front() {
                connection.to_replica.send(now, delay, packet);
                let (peer, primary) = (connection.id, connection.primary);
                self.nodes[primary].primary.written(now, peer, cost);
            }
        }
    }

    /// A packet arrives.
    fn deliver(&mut self) -> Result<(), String> {
        if self.connections.is_empty() {
            return Ok(());
        }
        let at = self.random.below(self.connections.len() as u64) as usize;
        let connection = &mut self.connections[at];
        let (id, to_primary) = (connection.id, self.random.chance(50));
        let n = if to_primary { connection.primary } else { connection.replica };
        if self.nodes[n].is_stalled(self.now_ms) {
            return Ok(());
        }
        let pipe = if to_primary { &mut connection.to_primary } else { &mut connection.to_replica };
        let Some(packet) = pipe.receive(self.now_ms) else { return Ok(()) };
        let open = if to_primary { connection.primary_open } else { self.nodes[n].up == Some(id) };
        match packet {
            Packet::Bytes(bytes) if open && to_primary => self.bytes_to_primary(n, id, at, &bytes),
            Packet::Bytes(bytes) if open => self.bytes_to_replica(n, id, at, &bytes),
            Packet::Bytes(_) => Ok(()),
            Packet::Open if open => self.on_replica(n, |r, now, out| r.connected(now, out)),
            Packet::Open => Ok(()),
            Packet::Close if to_primary => {
                connection.primary_open = false;
                self.on_primary(n, |p, now, out| p.disconnected(now, id, out))
            }
            Packet::Close => {
                connection.replica_open = false;
                if open {
                    self.nodes[n].up = None;
                    let random = self.random.next();
                    self.on_replica(n, |r, now, _| r.disconnected(now, random))?;
                }
                Ok(())
            }
        }
    }

    fn bytes_to_primary(&mut self, n: usize, id: u64, at: usize, bytes: &[u8]) -> Result<(), String> {
        let cut = self.random.below(bytes.len() as u64) as usize;
        let mut messages = Vec::new();
        let decoder = &mut self.connections[at].to_primary.decoder;
        for piece in [&bytes[..cut], &bytes[cut..]] {
            decoder.push(piece);
            while let Some(message) = decoder.decode::<ToPrimary>().map_err(|e| e.to_string())? {
                messages.push(message);
            }
        }
        for message in messages {
            if self.connections.iter().any(|c| c.id == id && c.primary_open) {
                self.say(|| format!("{n} <= {message:?}"));
                self.on_primary(n, |p, now, out| p.message(now, id, message, out))?;
            }
        }
        Ok(())
    }

    fn bytes_to_replica(&mut self, n: usize, id: u64, at: usize, bytes: &[u8]) -> Result<(), String> {
        let cut = self.random.below(bytes.len() as u64) as usize;
        let mut messages = Vec::new();
        let decoder = &mut self.connections[at].to_replica.decoder;
        for piece in [&bytes[..cut], &bytes[cut..]] {
            decoder.push(piece);
            while let Some(message) = decoder.decode::<ToReplica>().map_err(|e| e.to_string())? {
                messages.push(message);
            }
        }
        for message in messages {
            let random = self.random.next();
            if self.nodes[n].up == Some(id) {
                self.say(|| format!("{n} <- {}", brief(&message)));
                self.on_replica(n, |r, now, out| r.message(now, message, random, out))?;
            }
        }
        Ok(())
    }
}

/// A message without what it carries.
fn brief(message: &ToReplica) -> String {
    match message {
        ToReplica::Control(control) => format!("{control:?}"),
        ToReplica::Frames { commit, frames } => {
            let indices = frames.first().zip(frames.last()).map(|(a, b)| (a.first, b.last()));
            format!("Frames {{ commit: {commit}, {indices:?} }}")
        }
        ToReplica::Stream { run, bytes } => format!("Stream {{ run: {run}, {} bytes }}", bytes.len()),
    }
}

/// Runs a seed to its end.
fn run(seed: u64, mistake: Mistake) -> Result<Seen, String> {
    let judged = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, mistake);
        for _ in 0..STEPS {
            world.step()?;
        }
        world.come_to_rest()?;
        Ok(world.seen)
    }));
    judged.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default())
    })
}

#[test]
fn promises_are_kept_whatever_happens() {
    if let Some(seed) = std::env::var("KEYLOOM_SEED").ok().and_then(|s| s.parse().ok()) {
        let seen = run(seed, Mistake::None).unwrap_or_else(|e| panic!("KEYLOOM_SEED={seed}: {e}"));
        println!("{seen:#?}");
        return;
    }
    let mut all = Seen::default();
    for seed in 1..=SEEDS {
        let seen = run(seed, Mistake::None).unwrap_or_else(|e| panic!("KEYLOOM_SEED={seed}: {e}"));
        all.add(seen);
    }
    println!("{all:#?}");
    // A simulation in which nothing happens proves nothing.
    assert!(all.copies > SEEDS && all.set_aside > SEEDS / 4 && all.stepped_down > SEEDS / 10);
    assert!(all.promoted_in_sync > SEEDS / 10 && all.power_cuts > SEEDS / 20 && all.splits > SEEDS / 10);
    assert!(all.resumed > SEEDS / 100 && all.inquiries > SEEDS / 100);
    assert!(all.acked > 10 * SEEDS && all.acked_durable > SEEDS);
    for reason in ["Silent", "QueueFull", "Overrun", "Replaced", "HistoryChanged", "Refused(NotReady)"] {
        assert!(all.drops.contains_key(reason), "{reason} has never happened");
    }
    assert!(!all.drops.contains_key("Protocol"), "nodes that are right say what they may");
}

/// A simulation that cannot find mistakes proves nothing either.
#[test]
fn mistakes_are_found() {
    use primary::Fault as P;
    use replica::Fault as R;
    let mistakes = [
        Mistake::AckBeforeAppend,
        Mistake::ReuseHistory,
        Mistake::RelayUncommitted,
        Mistake::ForgetIncomplete,
        Mistake::DurableTooEarly,
        Mistake::Primary(P::CountIncompleteCopies),
        Mistake::Primary(P::ContinueAcrossDivergence),
        Mistake::Primary(P::CommitByFastest),
        Mistake::Primary(P::JoinAtOnce),
        Mistake::Primary(P::ResumeInDoubt),
        Mistake::Primary(P::UnboundedQueues),
        Mistake::Replica(R::TruncateApplied),
        Mistake::Replica(R::ApplyUncommitted),
        Mistake::Replica(R::KeepHalfCopies),
        Mistake::Replica(R::AckBeforeDurableCopy),
    ];
    let mut missed = Vec::new();
    for mistake in mistakes {
        let found = (1..=SEEDS).find_map(|seed| run(seed, mistake).err().map(|e| (seed, e)));
        match found {
            Some((seed, error)) => println!("{mistake:?}: seed {seed}: {error}"),
            None => missed.push(mistake),
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}
