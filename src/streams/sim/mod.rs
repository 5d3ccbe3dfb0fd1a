//! A cluster from one number: nodes that lead and follow partitions, a raft that every node hears of late, connections that are slow and
//! break, nodes that stall, crash, lose their memory and come back, an operator who moves roles and copies, and gives up what is lost.
//!
//! ```text
//!     mod.rs    the world and its steps; the judgement      node.rs    the shell of a node, around the shipped machines
//!     raft.rs   raft's log and state                        network.rs connections
//!     handover.rs    roles that move while both nodes live    force.rs    roles that are given by force
//!     memory.rs      memory that comes and goes      spans.rs    transactions over several partitions
//!     around.rs in place of raft: a simulation of the real one    tests.rs many seeds, and mistakes
//! ```
//!
//! All messages are encoded and decoded. The data of a partition is the list of the numbers that were appended to it. It is
//! checked that
//! - whoever begins to lead has every number whose reply left under `quorum`, also replies to reads, as long as a member of the set
//!   has kept its memory; and under `quorum-disk` in any case, unless an operator has given it up;
//! - whoever is handed a role has all that was written before, acknowledged or not;
//! - complete copies with equal tails are equal, at any time;
//! - nothing is applied twice, and nothing by followers that is not committed, but in a copy;
//! - nobody drops for lack of memory what raft's state counts on;
//! - a transaction over several partitions is kept whole, or not at all;
//! - at rest, all copies are equal, in sync, and as the leader has them; and everything that was acknowledged is there.
//!
//! Leases are perfect: a reply leaves only if the node is the primary at that moment. But what is executed may be executed too late.
//! The controls make one mistake each, and must be found.
//!
//! `KEYLOOM_SEED=n cargo test --lib streams::sim` runs one seed.
//!
//! Longer than other files: what the world does, and what must hold after each step, make sense together only.

mod around;
mod force;
mod handover;
mod memory;
mod network;
mod node;
mod raft;
mod spans;
mod tests;

pub(crate) use around::Around;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use self::network::{Connection, Packet, Random};
use self::node::{Node, Process};
use self::raft::{Proposal, Raft, is_refused, register};
use super::message::{PROTOCOL_VERSION, ToFollower, ToLeader};
use super::{Epoch, Index, NodeId, PartitionId, Tail, follower, leader};
use crate::log::durability::LaneEnds;
use crate::raft::command::{Command, Move, Placement};
use crate::raft::settle::SETTLING_VERSION;
use crate::raft::successors::NAMING_VERSION;

const PARTITIONS: usize = 4;
/// Steps with disturbances.
const STEPS: usize = 2_500;
/// Steps in which all has to come to rest.
const STEPS_TO_REST: usize = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    Leader(leader::Fault),
    Follower(follower::Fault),
}

/// What has happened, so that a test can say that it did.
#[derive(Debug, Default)]
struct Seen {
    led: u64,
    handed: u64,
    gone_over: u64,
    kept: u64,
    led_again: u64,
    deposed: u64,
    suffixes: u64,
    copies: u64,
    copies_cancelled: u64,
    reads: u64,
    not_ready: u64,
    crashes: u64,
    acked: u64,
    acked_durable: u64,
    power_cuts: u64,
    forced: u64,
    emptied: u64,
    waited_for_memory: u64,
    given_up_for_memory: u64,
    reached: u64,
    spans_kept: u64,
    spans_dropped: u64,
    drops: BTreeMap<String, u64>,
    /// Who crashed at which step of a handover: the node that had the role, or the one that was to have it.
    crashed_in: BTreeMap<(&'static str, bool), u64>,
}

pub(crate) struct World {
    /// Who decides, in place of the model of raft.
    around: Option<Box<dyn Around>>,
    random: Random,
    now_ms: u64,
    ticked_ms: u64,
    nodes: Vec<Node>,
    raft: Raft,
    connections: Vec<Connection>,
    last_connection: u64,
    last_number: u64,
    boots: u64,
    mistake: Mistake,
    disks: bool,
    /// The operator waits for nobody who could lead.
    impatient: bool,
    /// The operator takes roles from nodes that live.
    moves_roles: bool,
    /// Of a hundred writes, so many are to two partitions.
    spanning: u64,
    latency_ms: u64,
    acked: Vec<HashSet<u64>>,
    acked_durable: Vec<HashSet<u64>>,
    /// Numbers of transactions over several partitions, and of which; and for each partition up to where nothing is promised.
    spans: Vec<(u64, Vec<PartitionId>)>,
    torn: Vec<u64>,
    /// Partitions for which nobody could be promoted, until they are led again.
    stuck: Vec<bool>,
    /// Who wrote a number, in which epoch, in the frame that ends with which index.
    written: HashMap<(PartitionId, u64), (NodeId, Epoch, Index)>,
    /// What whoever leads in this epoch was given, if it is that node.
    handed: HashMap<(PartitionId, Epoch), (NodeId, Vec<u64>)>,
    /// What primaries have ended, whose successors were named.
    ended: HashSet<(PartitionId, Epoch)>,
    /// What a complete copy with this tail is.
    known: HashMap<(PartitionId, Tail), Vec<u64>>,
    quiet: bool,
    seen: Seen,
    talks: bool,
}

impl World {
    fn new(seed: u64, mistake: Mistake) -> World {
        let mut random = Random::new(seed);
        let nodes = 3 + random.below(3);
        let copies = 2 + random.below(2) as usize;
        let gathered = random.chance(50);
        // Without it, raft decides when a role moves.
        let version = if random.chance(75) { NAMING_VERSION } else { SETTLING_VERSION };
        let raft = Raft::found(nodes, PARTITIONS as u16, copies, gathered, version);
        let node = |id| Node {
            id,
            alive: true,
            boot: 1,
            stalled_until_ms: 0,
            limit_bytes: None,
            state: raft.agreed.clone(),
            known: raft.log.len(),
            asked_ms: 0,
            process: None,
            disk: vec![Vec::new(); PARTITIONS],
            disk_complete: vec![true; PARTITIONS],
            disk_end: 0,
            fresh: true,
        };
        let mut world = World {
            around: None,
            now_ms: 1_000,
            ticked_ms: 0,
            nodes: (1..=nodes).map(node).collect(),
            connections: Vec::new(),
            last_connection: 0,
            last_number: 0,
            boots: 1,
            mistake,
            disks: random.chance(60),
            impatient: random.chance(15),
            moves_roles: random.chance(30),
            spanning: [5, 15, 60][random.below(3) as usize],
            latency_ms: 1 + random.below(15),
            acked: vec![HashSet::new(); PARTITIONS],
            acked_durable: vec![HashSet::new(); PARTITIONS],
            spans: Vec::new(),
            torn: vec![0; PARTITIONS],
            stuck: vec![false; PARTITIONS],
            written: HashMap::new(),
            handed: HashMap::new(),
            ended: HashSet::new(),
            known: HashMap::new(),
            quiet: false,
            seen: Seen::default(),
            talks: std::env::var_os("KEYLOOM_SEED").is_some(),
            raft,
            random,
        };
        (1..=nodes).for_each(|n| world.change_limit(n));
        (1..=nodes).for_each(|n| world.begin(n));
        world
    }

    fn leader_settings(&self, n: NodeId) -> leader::Settings {
        leader::Settings {
            node: n,
            lone_core: n.is_multiple_of(2),
            insync_timeout_ms: 200,
            absence_ms: 30,
            propose_ms: 60,
            durable_quorum: self.disks,
            heartbeat_ms: 30,
            repl_timeout_ms: 300,
            phi_max: 8.0,
            queue_bytes_max: 6_000,
            uncommitted_bytes_max: 4_000,
            copy_partitions_max: 2,
            copy_window_bytes: 40,
        }
    }

    fn node(&mut self, n: NodeId) -> &mut Node {
        &mut self.nodes[n as usize - 1]
    }

    fn process(&mut self, n: NodeId) -> &mut Process {
        self.node(n).process.as_mut().expect("a process that runs")
    }

    fn delay_ms(&mut self) -> u64 {
        let latency_ms = self.latency_ms;
        if self.random.chance(2) { self.random.below(20 * latency_ms) } else { self.random.below(latency_ms) }
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.talks {
            println!("{:>6} {}", self.now_ms, what());
        }
    }

    /// Whether replies of a node for a partition may leave now.
    fn is_entitled(&self, n: NodeId, p: PartitionId, epoch: Epoch) -> bool {
        let agreed = &self.raft.agreed;
        let node = &self.nodes[n as usize - 1];
        agreed.partition(p).is_some_and(|known| self.serving(p, known) == (Some(n), epoch))
            && agreed.node(n).is_some_and(|known| known.boot == u128::from(node.boot))
    }

    fn works(&self, n: NodeId) -> bool {
        let node = &self.nodes[n as usize - 1];
        node.alive && node.process.is_some() && self.now_ms >= node.stalled_until_ms
    }

    fn ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    fn step(&mut self) -> Result<(), String> {
        self.now_ms += self.random.below(3);
        self.turn()
    }

    /// A step that takes no time.
    fn turn(&mut self) -> Result<(), String> {
        if self.now_ms >= self.ticked_ms + 5 {
            self.tick();
        }
        let ids = self.ids();
        let n = self.random.pick(&ids).unwrap();
        let works = self.works(n);
        match self.random.below(24) {
            0..=2 if works && !self.quiet => self.write(n),
            3 if works && !self.quiet => self.read_last(n),
            4..=7 if works => self.execute(n),
            8 if works => self.answer_reads(n),
            9..=10 if works => self.advance_copy(n),
            11 if works && self.random.chance(30) => self.release(n),
            12 if works && self.disks => self.sync(n),
            13 if works && self.random.chance(20) => self.trim(n),
            14 if !self.quiet => self.disturb(n),
            14 if self.around.is_none() => self.force_lead(),
            20 if self.impatient && !self.quiet && self.around.is_none() => self.force_lead(),
            15..=16 if self.around.is_none() => self.hear_of_raft(n),
            17 if self.around.is_none() => self.advance_raft(),
            19 if works => self.see_gates(n),
            21 if works => self.end_roles(n),
            18 if self.around.is_none() && self.random.chance(if self.quiet { 100 } else { 20 }) => self.control(),
            _ => {
                self.pump();
                (0..4).try_for_each(|_| self.deliver())?;
            }
        }
        for n in ids {
            if self.works(n) {
                self.on_leader(n, |leader, now, out| leader.turn_end(now, out));
                self.on_follower(n, |follower, now, out| follower.turn_end(now, out));
                self.let_replies_go(n);
            }
        }
        self.judge_copies()
    }

    fn tick(&mut self) {
        self.ticked_ms = self.now_ms;
        for n in self.ids() {
            if self.works(n) {
                self.on_leader(n, |leader, now, out| leader.tick(now, now, out));
                self.say_who_leads(n);
                self.look_at_memory(n);
                self.on_follower(n, |follower, now, out| follower.tick(now, now, out));
            }
        }
        self.connections.retain(|c| c.follower_open || c.leader_open);
    }

    /// Held replies leave.
    fn let_replies_go(&mut self, n: NodeId) {
        let leader = &self.process(n).leader;
        let all = (leader.commit_upto(), leader.commit_durable_upto());
        // As data cores do: what tells of one partition waits for its lane.
        let lanes: Vec<(Index, Index)> = match leader.lanes() {
            Some(LaneEnds { map, ends }) => {
                let end = |p: usize| map.of.get(p).and_then(|lane| ends.get(usize::from(*lane))).copied();
                (0..PARTITIONS).map(|p| end(p).unwrap_or(all)).collect()
            }
            None => vec![all; PARTITIONS],
        };
        for mut held in std::mem::take(&mut self.process(n).held) {
            if !self.may_answer(n, held.partition, held.epoch) {
                // It is not known what becomes of it, and so it is said.
                continue;
            }
            let (quorum, durable) = if held.alone { lanes[usize::from(held.partition)] } else { all };
            if held.index <= quorum && !held.acked {
                held.acked = true;
                self.acked[held.partition as usize].insert(held.number);
                self.say(|| format!("{n} acknowledges {} of {}", held.number, held.partition));
                self.seen.acked += 1;
                self.around.iter().for_each(|around| around.answers(n, held.partition, held.epoch));
            }
            if held.index <= durable && self.disks {
                self.acked_durable[held.partition as usize].insert(held.number);
                self.seen.acked_durable += 1;
            } else if self.disks || !held.acked {
                self.process(n).held.push(held);
            }
        }
    }

    fn pump(&mut self) {
        for at in 0..self.connections.len() {
            let (delay_ms, now_ms) = (self.delay_ms(), self.now_ms);
            if self.random.chance(30) && !self.quiet {
                continue;
            }
            let connection = &mut self.connections[at];
            if let Some((cost, packet)) = connection.outbox.pop_front() {
                connection.to_follower.send(now_ms, delay_ms, packet);
                let (peer, leader) = (connection.id, connection.leader);
                if connection.leader_open && self.works(leader) {
                    self.on_leader(leader, |leader, now, _| leader.written(now, peer, cost));
                }
            }
        }
    }

    fn deliver(&mut self) -> Result<(), String> {
        if self.connections.is_empty() {
            return Ok(());
        }
        let at = self.random.below(self.connections.len() as u64) as usize;
        let to_leader = self.random.chance(50);
        let connection = &self.connections[at];
        let (id, follower, leader, boots) = (connection.id, connection.follower, connection.leader, connection.boots);
        let (n, from) = if to_leader { (leader, follower) } else { (follower, leader) };
        if !self.works(n) || self.is_cut(from, n) {
            return Ok(());
        }
        let is_current = self.nodes[n as usize - 1].boot == if to_leader { boots.1 } else { boots.0 };
        let now_ms = self.now_ms;
        let connection = &mut self.connections[at];
        let open = is_current && if to_leader { connection.leader_open } else { connection.follower_open };
        let pipe = if to_leader { &mut connection.to_leader } else { &mut connection.to_follower };
        match pipe.receive(now_ms) {
            None => {}
            Some(Packet::Close) if to_leader => {
                connection.leader_open = false;
                if open {
                    self.on_leader(n, |leader, now, out| leader.disconnected(now, id, out));
                }
            }
            Some(Packet::Close) => {
                connection.follower_open = false;
                if open {
                    self.on_follower(n, |machine, now, out| machine.disconnected(now, leader, out));
                }
            }
            Some(Packet::Bytes(bytes)) if open && bytes.is_empty() => {
                self.on_follower(n, |machine, now, out| machine.connected(now, leader, PROTOCOL_VERSION, out));
            }
            Some(Packet::Bytes(bytes)) if open => {
                pipe.decoder.push(&bytes);
                if to_leader {
                    let message = pipe.decoder.decode::<ToLeader>().map_err(|e| format!("{e}"))?.expect("it is whole");
                    self.say(|| format!("{leader} hears {follower}: {message:?}"));
                    self.on_leader(n, |machine, now, out| machine.message(now, id, message, out));
                } else {
                    let message =
                        pipe.decoder.decode::<ToFollower>().map_err(|e| format!("{e}"))?.expect("it is whole");
                    self.say(|| format!("{follower} hears {leader}: {message:?}"));
                    self.on_follower(n, |machine, now, out| machine.message(now, leader, message, out));
                }
            }
            Some(Packet::Bytes(_)) => {}
        }
        Ok(())
    }

    /// A node hears of some of what was agreed.
    fn hear_of_raft(&mut self, n: NodeId) {
        if !self.nodes[n as usize - 1].alive || self.now_ms < self.nodes[n as usize - 1].stalled_until_ms {
            return;
        }
        let (known, end) = (self.node(n).known, self.raft.log.len());
        if known < end {
            let upto = known + 1 + self.random.below((end - known) as u64) as usize;
            for at in known..upto {
                let command = self.raft.log[at].clone();
                self.node(n).state.apply(&command);
            }
            self.node(n).known = upto;
            if self.node(n).process.is_some() {
                self.tell_roles(n);
                self.tell_decisions(n, upto);
            }
        }
        let now_ms = self.now_ms;
        let node = self.node(n);
        let known = node.state.node(n).expect("it has joined").clone();
        if node.process.is_none() && known.boot == u128::from(node.boot) {
            self.begin(n);
        } else if node.process.is_none() && now_ms > node.asked_ms + 40 {
            node.asked_ms = now_ms;
            let command = register(n, known.incarnation, node.boot);
            let boot = node.boot;
            self.raft.proposals.push(Proposal { at_ms: now_ms, from: n, boot, command, change: None });
        }
    }

    /// Proposals are agreed on, or lost.
    fn advance_raft(&mut self) {
        let now_ms = self.now_ms;
        let due: Vec<usize> =
            (0..self.raft.proposals.len()).filter(|at| self.raft.proposals[*at].at_ms <= now_ms).collect();
        let Some(at) = self.random.pick(&due) else { return };
        let Proposal { from, boot, command, change, .. } = self.raft.proposals.swap_remove(at);
        let before = self.raft.agreed.clone();
        let reply = self.raft.execute(command.clone());
        self.say(|| format!("agreed: {command} -> {reply:?}"));
        self.note_losses(&before);
        self.note_decision(from, boot, &command);
        if let Some(change) = &change
            && !self.is_safe(change.partition, 0)
        {
            self.forget_promises(change.partition);
        }
        if let Some(change) = change
            && is_refused(&reply)
            && self.nodes[from as usize - 1].boot == boot
            && self.works(from)
            && self.random.chance(70)
        {
            self.on_leader(from, |leader, _, _| leader.refused(&change));
        }
    }

    /// Whoever watches over nodes: promotions, and registrations of those who stay dead.
    fn control(&mut self) {
        let dead: Vec<NodeId> = self.nodes.iter().filter(|node| !node.alive).map(|node| node.id).collect();
        let is_ready = |node: &&Node| self.is_ready(node.id);
        let mut ready: Vec<NodeId> = self.nodes.iter().filter(is_ready).map(|node| node.id).collect();
        let mut dead: Vec<NodeId> =
            dead.into_iter().filter(|n| self.raft.agreed.node(*n).is_some_and(|k| k.incarnation > 0)).collect();
        // One that is cut off: its lease has ended.
        if !self.quiet
            && self.random.chance(10)
            && let Some(n) = self.random.pick(&ready)
        {
            dead.push(n);
            ready.retain(|other| *other != n);
        }
        let orphaned = self
            .raft
            .agreed
            .partitions()
            .iter()
            .any(|partition| partition.primary.is_none_or(|primary| dead.contains(&primary)));
        let is_dead = |node: NodeId| dead.contains(&node);
        let void = self.raft.agreed.named(is_dead).any(|(_, (_, lives))| !lives);
        let awaited = self.raft.agreed.settlements().iter().any(|s| s.is_asked() && s.waits_for_any(is_dead));
        if orphaned || awaited || void {
            let (dead, ready) = (self.raft.members(&dead), self.raft.members(&ready));
            let command = Command::Promote { starts: self.raft.agreed.starts(), dead, ready };
            let before = self.raft.agreed.clone();
            let reply = self.raft.execute(command.clone());
            self.say(|| format!("agreed: {command:?} -> {reply:?}"));
            self.note_losses(&before);
        }
    }

    /// Whether a node has what it is in sync for.
    fn is_ready(&self, n: NodeId) -> bool {
        let node = &self.nodes[n as usize - 1];
        let Some(process) = node.process.as_ref().filter(|_| node.alive) else { return false };
        let sits = |p: PartitionId| self.raft.agreed.partition(p).is_some_and(|known| known.in_sync.contains(&n));
        let whole = |p: PartitionId| process.leader.leads(p).is_some() || process.follower.is_complete(p);
        let registered = self.raft.agreed.node(n).is_some_and(|known| known.boot == u128::from(node.boot));
        registered && (0..PARTITIONS as PartitionId).filter(|p| sits(*p)).all(whole)
    }

    fn disturb(&mut self, n: NodeId) {
        let (delays, now_ms) = ((self.delay_ms(), self.delay_ms()), self.now_ms);
        let what = self.random.below(40);
        match what {
            _ if self.around.is_some() && what > 3 => {}
            0..=3 if !self.connections.is_empty() => {
                let at = self.random.below(self.connections.len() as u64) as usize;
                self.connections[at].cut(now_ms, delays);
            }
            4 => self.node(n).stalled_until_ms = now_ms + self.random.below(400),
            5 if self.random.chance(50) => self.crash(n),
            6 if self.disks && self.random.chance(10) => {
                self.seen.power_cuts += 1;
                self.ids().into_iter().for_each(|n| self.crash(n));
            }
            7..=12 if !self.nodes[n as usize - 1].alive => self.restart(n),
            13 if self.moves_roles && self.random.chance(30) => self.move_role(),
            13 | 15 | 16 => self.ask_for_role(),
            14 => self.place(),
            17 if self.works(n) => self.on_follower(n, |follower, now, out| follower.leave(now, out)),
            18 | 19 if self.works(n) => self.on_follower(n, |follower, now, out| follower.stay(now, out)),
            20 => self.force_lead(),
            21..=23 => self.change_limit(n),
            24..=26 => self.crash_in_handover(),
            _ => {}
        }
    }

    /// Somebody who has kept everything is in sync.
    fn is_safe(&self, p: PartitionId, without: NodeId) -> bool {
        let known = self.raft.agreed.partition(p).expect("it is placed");
        known.in_sync.iter().any(|&n| {
            let node = &self.nodes[n as usize - 1];
            n != without
                && node.process.is_some()
                && self.raft.agreed.node(n).is_some_and(|k| k.boot == u128::from(node.boot))
        })
    }

    /// Nobody who is in sync has kept its memory.
    fn forget_promises(&mut self, p: PartitionId) {
        self.acked[p as usize].retain(|number| self.acked_durable[p as usize].contains(number));
        self.tear(p);
    }

    fn crash(&mut self, n: NodeId) {
        if !self.nodes[n as usize - 1].alive {
            return;
        }
        let partitions = 0..PARTITIONS as PartitionId;
        let last: Vec<PartitionId> = partitions.filter(|p| !self.is_safe(*p, n)).collect();
        if !self.disks && !last.is_empty() {
            return;
        }
        last.into_iter().for_each(|p| self.forget_promises(p));
        self.say(|| format!("{n} crashes"));
        self.seen.crashes += 1;
        self.note_steps(n);
        let (disks, now_ms, delays) = (self.disks, self.now_ms, (self.delay_ms(), self.delay_ms()));
        // What it has proposed may still come, and make it the last of a set.
        let comes = disks && self.random.chance(50);
        self.raft.proposals.retain(|proposal| proposal.from != n || comes);
        let node = self.node(n);
        (node.alive, node.process) = (false, None);
        if !disks {
            node.disk = vec![Vec::new(); PARTITIONS];
            node.disk_complete = vec![false; PARTITIONS];
            node.disk_end = 0;
        }
        for connection in self.connections.iter_mut().filter(|c| c.follower == n || c.leader == n) {
            connection.cut(now_ms, delays);
            connection.follower_open &= connection.follower != n;
            connection.leader_open &= connection.leader != n;
        }
    }

    fn restart(&mut self, n: NodeId) {
        self.boots += 1;
        let boot = self.boots;
        let node = self.node(n);
        (node.alive, node.boot, node.asked_ms) = (true, boot, 0);
    }

    /// The operator moves the role of a primary to another that is in sync.
    fn move_role(&mut self) {
        let p = self.random.below(PARTITIONS as u64) as PartitionId;
        let known = self.raft.agreed.partition(p).expect("it is placed").clone();
        let Some(to) = self.random.pick(&known.in_sync) else { return };
        if let Some(&to) = self.raft.members(&[to]).first() {
            self.raft.execute(Command::Lead { moves: vec![Move { partition: p, epoch: known.epoch }], to });
        }
    }

    /// Copies get other places.
    fn place(&mut self) {
        let p = self.random.below(PARTITIONS as u64) as PartitionId;
        let known = self.raft.agreed.partition(p).expect("it is placed").clone();
        let ids = self.ids();
        let Some(n) = self.random.pick(&ids) else { return };
        let mut replicas = known.replicas;
        if !replicas.contains(&n) && replicas.len() < 4 {
            replicas.push(n);
        } else if replicas.len() > 2 && !known.in_sync.contains(&n) {
            replicas.retain(|replica| *replica != n);
        }
        let version = self.raft.agreed.placement_version();
        self.raft.execute(Command::Place { version, changes: vec![Placement { partition: p, replicas }] });
    }

    /// Whoever begins to lead has everything that was promised.
    fn judge_leader(&mut self, n: NodeId, p: PartitionId) {
        let data: HashSet<u64> = self.process(n).data[p as usize].iter().copied().collect();
        let lost = |promised: &HashSet<u64>| promised.iter().find(|number| !data.contains(number)).copied();
        let (quorum, disk) = (lost(&self.acked[p as usize]), lost(&self.acked_durable[p as usize]));
        assert_eq!(quorum, None, "node {n} leads {p} without what was promised under quorum");
        assert_eq!(disk, None, "node {n} leads {p} without what was promised under quorum-disk");
    }

    /// A follower applies what is committed, as far as the one who leads can still be asked.
    fn judge_applied(&self, p: PartitionId, number: u64) {
        let Some(&(leader, epoch, index)) = self.written.get(&(p, number)) else { return };
        let process = self.nodes[leader as usize - 1].process.as_ref();
        if self.is_entitled(leader, p, epoch)
            && let Some(committed) = process.and_then(|process| process.leader.committed(p, epoch))
        {
            assert!(index <= committed, "{number} of {p} is applied and not committed");
        }
    }

    /// Complete copies with equal tails are equal.
    fn judge_copies(&mut self) -> Result<(), String> {
        let n = self.random.below(self.nodes.len() as u64) + 1;
        let mut found = Vec::new();
        for p in 0..PARTITIONS as PartitionId {
            if let Some((tail, data)) = self.settled(n, p) {
                found.push((p, tail, data.clone()));
            }
        }
        for (p, tail, data) in found {
            let known = self.known.entry((p, tail)).or_insert_with(|| data.clone());
            if *known != data {
                return Err(format!("node {n}, partition {p}: two copies with tail {tail:?}: {known:?} and {data:?}"));
            }
        }
        Ok(())
    }

    /// Why it is not at rest.
    fn unrest(&self) -> Option<String> {
        let agreed = &self.raft.agreed;
        for (p, known) in (0..).zip(agreed.partitions()) {
            let Some(primary) = known.primary else { return Some(format!("nobody leads {p}")) };
            if let Some(successor) = agreed.successor(p) {
                return Some(format!("partition {p} may be led by {successor:?}"));
            }
            if known.in_sync.len() != known.replicas.len() {
                return Some(format!("partition {p}: {known:?}"));
            }
            let Some((_, data)) = self.settled(primary, p) else { return Some(format!("{primary} does not lead {p}")) };
            for &n in &known.replicas {
                if self.settled(n, p).is_none_or(|(_, other)| other != data) {
                    return Some(format!("node {n} has another {p}"));
                }
            }
            if !self.nodes[primary as usize - 1].process.as_ref().is_some_and(|process| process.held.is_empty()) {
                return Some(format!("node {primary} holds replies"));
            }
        }
        None
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            self.step()?;
        }
        self.quiet = true;
        for n in self.ids() {
            self.change_limit(n);
            self.node(n).stalled_until_ms = 0;
            self.on_follower(n, |follower, now, out| follower.stay(now, out));
            if !self.nodes[n as usize - 1].alive {
                self.restart(n);
            }
        }
        let mut unrest = None;
        for at in 0..STEPS_TO_REST {
            self.step()?;
            if at % 50 == 0 {
                unrest = self.unrest();
                if unrest.is_none() {
                    break;
                }
            }
        }
        if let Some(why) = unrest {
            return Err(format!("no rest: {why}"));
        }
        for (p, known) in (0..).zip(self.raft.agreed.clone().partitions()) {
            self.judge_leader(known.primary.unwrap(), p);
        }
        self.judge_spans();
        for leader in self.nodes.iter().filter_map(|node| Some(&node.process.as_ref()?.leader)) {
            let counts = leader.tally();
            let over = counts.handovers_completed + counts.handovers_given_up;
            assert_eq!(counts.handovers_begun, over + leader.handing_over() as u64, "{counts:?}");
        }
        Ok(())
    }
}

/// Runs one seed; what is wrong, if something is.
fn run(seed: u64, mistake: Mistake) -> Result<Seen, String> {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, mistake);
        world.run().map(|()| std::mem::take(&mut world.seen))
    }));
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default())
    })
}
