//! The side that follows: one machine for all the nodes that lead what this node has copies of.
//!
//! ```text
//!     mod.rs       roles: whom to follow, when to lead; tickets
//!     stream.rs    one leader: connection, what is asked of it, acknowledgements
//!     receive.rs   answers, frames; what is received and not committed
//!     copy.rs      copies
//!     pace.rs      how fast these come
//!     memory.rs    for how many copies there is memory
//!     settle.rs    what a promoted node does with transactions of which it may have a part only
//!     partition.rs what it knows of the data of a partition
//! ```
//!
//! Pure: times are arguments (milliseconds of a steady clock, but for `wall_ms`), what is to be done comes out as [`Action`]s,
//! to be done in their order. Owned by the control core. See [`crate::streams`] for how it is driven.
//!
//! Invariants: what is not committed is not handed out, but for copies, which count for nothing before they are whole, and for
//! what this node itself is to lead; a partition is taken only from the node that raft's state names, in that epoch; tickets rise.

mod copy;
mod memory;
mod pace;
mod partition;
mod receive;
mod settle;
mod stream;

use std::collections::BTreeMap;
use std::rc::Rc;

pub use self::memory::Memory;
use self::memory::Room;
use self::pace::Pace;
use self::partition::{Data, Phase, Place, Role};
use self::settle::{Doubts, Verdict};
pub use self::stream::EXPECT_MS;
use self::stream::Stream;
use super::message::{PACED_VERSION, Release, ToFollower, ToLeader};
use super::{Epoch, Incarnation, Index, NodeId, PartitionId, Piece, Suffix, Tail};
use crate::raft::command::Move;
use crate::raft::state::State;

/// Numbers what is handed out, 1, 2, 3, ...
pub type Ticket = u64;

/// What a process has of a partition when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Nothing was ever written there: only on a node that has joined with an empty directory.
    Empty,
    /// All of it, as of an unknown moment: data from this node's own disk.
    Complete,
    /// Some of it, or nothing.
    Incomplete,
}

/// What is known of this node.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// What this process has drawn when it registered.
    pub boot: u128,
    pub heartbeat_ms: u64,
    /// A leader that says nothing for longer is connected to again.
    pub repl_timeout_ms: u64,
    /// After a connection is lost, the next is tried this much later, and twice that, and so on up to eight times.
    pub reconnect_ms: u64,
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Connect to this node; then call [`Follower::connected`], or [`Follower::disconnected`].
    Connect {
        leader: NodeId,
    },
    /// Close the connection, or give up the attempt. No [`Follower::disconnected`] follows.
    Disconnect {
        leader: NodeId,
    },
    Send {
        leader: NodeId,
        message: ToLeader,
    },
    /// Apply these units. Statements without a key concern all of `partitions`, and no others.
    Apply {
        ticket: Ticket,
        wall_ms: i64,
        units: Rc<[u8]>,
        partitions: Rc<[PartitionId]>,
    },
    /// Drop all data of these. A copy of them begins, this run of that leader; None: this node has no copy of them any more.
    DropPartitions {
        ticket: Ticket,
        copy: Option<(NodeId, u64)>,
        partitions: Rc<[PartitionId]>,
    },
    /// Drop all data of these: this node is to lead them, and they begin empty. They are incomplete until that is on disk, if this
    /// node has one: only then is it applied.
    BeginEmpty {
        ticket: Ticket,
        partitions: Rc<[PartitionId]>,
    },
    /// A frame of the run that is under way with this leader.
    CopyPiece {
        ticket: Ticket,
        leader: NodeId,
        run: u64,
        bytes: Rc<[u8]>,
    },
    /// Units for which the rule of copies holds: what is not covered yet, will contain them. Statements without a key
    /// concern all partitions of the copy, and no others.
    CopyUnits {
        ticket: Ticket,
        leader: NodeId,
        run: u64,
        wall_ms: i64,
        units: Rc<[u8]>,
    },
    /// The copy is whole. If it is not, say [`Follower::spoiled`].
    CopyDone {
        ticket: Ticket,
        leader: NodeId,
        run: u64,
        partitions: Rc<[PartitionId]>,
    },
    /// Nothing more comes of this run.
    CopyAborted {
        leader: NodeId,
        run: u64,
    },
    /// This node leads now: all of the partition's data is here and applied. See [`crate::streams`]. `suffix`
    /// is for [`super::leader::Leader::lead`].
    Lead {
        partition: PartitionId,
        epoch: Epoch,
        base: Tail,
        suffix: Option<Suffix>,
    },
    /// Propose to raft how far this node had come in the log of a primary that was lost ([`crate::raft::settle`]). It is asked
    /// for again until raft's state shows it.
    Reach {
        of: Move,
        reached: Index,
        lacking: Vec<PartitionId>,
    },
    /// This leader has ended what it led of these: see [`super::ahead`].
    Released {
        leader: NodeId,
        releases: Vec<Release>,
    },
    /// This node is to lead and must not: its data is incomplete. Nobody can, until an operator decides that it begins empty.
    NotReady {
        partition: PartitionId,
        epoch: Epoch,
    },
}

impl Action {
    /// The ticket of what is to be executed in order.
    pub fn ticket(&self) -> Option<Ticket> {
        match self {
            Action::Apply { ticket, .. }
            | Action::DropPartitions { ticket, .. }
            | Action::BeginEmpty { ticket, .. }
            | Action::CopyPiece { ticket, .. }
            | Action::CopyUnits { ticket, .. }
            | Action::CopyDone { ticket, .. } => Some(*ticket),
            _ => None,
        }
    }

    /// The partitions whose data this brings to an end.
    pub fn replaced(&self) -> Option<&[PartitionId]> {
        match self {
            Action::DropPartitions { partitions, .. } | Action::BeginEmpty { partitions, .. } => Some(partitions),
            _ => None,
        }
    }
}

/// A mistake for the simulator to find.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What is received is applied at once.
    ApplyUncommitted,
    /// A copy counts as complete when it begins.
    CountIncompleteCopies,
    /// What is received is acknowledged as durable.
    DurableOnReceipt,
    /// When memory is used up, what is followed is given up as if it were on its way.
    GiveUpWhatIsHere,
    /// Whoever is promoted keeps all that it has received, whatever others have of it.
    KeepSpansAlone,
}

/// For INFO and the metrics: one leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub leader: NodeId,
    pub connected: bool,
    pub following: usize,
    /// Partitions that are being copied, or wait for it, or for an answer.
    pub waiting: usize,
    pub received: u64,
    pub commit: u64,
    /// Bytes that are received and not committed.
    pub held_bytes: u64,
    /// Since the last message.
    pub silent_ms: u64,
    /// The leader's wall clock, as it was last said.
    pub wall_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Follower {
    settings: Settings,
    /// By number.
    data: Vec<Data>,
    streams: BTreeMap<NodeId, Stream>,
    /// Count connections and Opens of this process.
    attempts: u64,
    opens: u64,
    /// The last ticket, the last that is applied, and the last that is durable.
    issued: Ticket,
    applied: Ticket,
    durable: Ticket,
    /// Partitions that wait for a ticket.
    watched: Vec<PartitionId>,
    /// Those that this node is to lead and that begin empty; within a call only.
    from_nothing: Vec<PartitionId>,
    /// The node is about to end.
    leaving: bool,
    room: Room,
    pace: Pace,
    doubts: Doubts,
    #[cfg(test)]
    pub fault: Option<Fault>,
}

impl Follower {
    /// A process that has nothing ([`Holding::Incomplete`]) and follows nobody yet.
    pub fn new(settings: Settings) -> Follower {
        assert!(settings.node != 0 && settings.incarnation != 0 && settings.heartbeat_ms >= 1);
        Follower {
            settings,
            data: Vec::new(),
            streams: BTreeMap::new(),
            attempts: 0,
            opens: 0,
            issued: 0,
            applied: 0,
            durable: 0,
            watched: Vec::new(),
            from_nothing: Vec::new(),
            leaving: false,
            room: Room::default(),
            pace: Pace::default(),
            doubts: Doubts::default(),
            #[cfg(test)]
            fault: None,
        }
    }

    /// What there is of a partition when the process starts, before the first call of [`Follower::roles`].
    pub fn hold(&mut self, partition: PartitionId, holding: Holding) {
        let at = partition as usize;
        if self.data.len() <= at {
            self.data.resize_with(at + 1, Data::default);
        }
        let tail = (holding == Holding::Empty).then_some(Tail::EMPTY);
        self.data[at] = Data {
            complete: holding != Holding::Incomplete,
            tail,
            released: tail,
            role: Role::Nobody,
            place: if holding == Holding::Complete { Place::Here } else { Place::Lacking },
            remains: holding == Holding::Incomplete,
            ..Data::default()
        };
    }

    /// Raft's state has changed, or is known for the first time.
    pub fn roles(&mut self, state: &State, out: &mut Vec<Action>) {
        let me = self.settings.node;
        if self.data.len() < state.partitions().len() {
            self.data.resize_with(state.partitions().len(), Data::default);
        }
        let mut changed = Vec::new();
        for (id, partition) in (0..).zip(state.partitions()) {
            if partition.epoch == 0 {
                // It was never placed: what there is of it, if anything, is where it begins.
                continue;
            }
            let role = match partition.primary {
                Some(primary) if primary == me => Role::Lead,
                _ if !partition.replicas.contains(&me) => Role::Stranger,
                Some(primary) => Role::Follow(primary),
                None => Role::Nobody,
            };
            let data = &self.data[id as usize];
            if (data.role, data.epoch) != (role, partition.epoch) {
                changed.push((id, role, partition.epoch, partition.from_nothing));
            }
        }
        let ids: Vec<PartitionId> = changed.iter().map(|(id, ..)| *id).collect();
        self.withdraw(&ids, out);
        self.learn_losses(state);
        let mut dropped = Vec::new();
        for (id, role, epoch, from_nothing) in changed {
            let data = &mut self.data[id as usize];
            (data.role, data.epoch, data.from_nothing) = (role, epoch, from_nothing);
            if data.led {
                // It comes back with its tail.
                continue;
            }
            if role == Role::Stranger {
                data.place = Place::Lacking;
                if data.is_something() {
                    dropped.push(id);
                }
            }
            self.enter(id, out);
        }
        if !dropped.is_empty() {
            let ticket = self.issue(None, &dropped);
            for &id in &dropped {
                self.data[id as usize].drop_all();
            }
            out.push(Action::DropPartitions { ticket, copy: None, partitions: dropped.into() });
        }
        self.settle_doubts(out);
        self.begin_empty(out);
        self.look_at_tickets(out);
    }

    /// Takes a role on, with the data as it is.
    fn enter(&mut self, id: PartitionId, out: &mut Vec<Action>) {
        let data = &mut self.data[id as usize];
        match data.role {
            Role::Stranger | Role::Nobody => data.phase = Phase::Idle,
            Role::Follow(leader) => {
                data.phase = Phase::Asked { open: 0 };
                self.streams.entry(leader).or_default().changed = true;
            }
            Role::Lead => self.promote(id, out),
        }
    }

    /// This node is to lead: what was received is applied, committed or not, as it may have been acknowledged. Only what spans
    /// partitions, and others lack, is dropped, with what came behind it.
    fn promote(&mut self, id: PartitionId, out: &mut Vec<Action>) {
        let complete = self.is_complete(id);
        let data = &mut self.data[id as usize];
        // In its first epoch nothing was ever written there, whatever this node has forgotten: a node that starts anew while it
        // leads brings on the next one.
        if !complete && data.epoch > 1 {
            data.phase = Phase::Idle;
            match data.from_nothing {
                // A copy that is whole becomes complete in its turn.
                true if data.complete_at.is_some() => {}
                true => self.from_nothing.push(id),
                false => out.push(Action::NotReady { partition: id, epoch: data.epoch }),
            }
            return;
        }
        match self.verdict(id) {
            Verdict::Keep => {}
            Verdict::Drop { from } => self.cut_off(id, from),
            Verdict::Wait => return self.doubt(id),
        }
        let data = &mut self.data[id as usize];
        let base = data.tail.unwrap_or(Tail::unknown(data.epoch));
        let pieces = std::mem::take(&mut data.pending);
        let suffix = data.released.filter(|_| !pieces.is_empty()).map(|after| Suffix { after, pieces: pieces.clone() });
        data.phase = Phase::Promoting { base, suffix };
        (data.tail, data.released) = (Some(base), Some(base));
        let partitions: Rc<[PartitionId]> = Rc::from([id]);
        for Piece { wall_ms, units, .. } in pieces {
            let ticket = self.issue(None, &[id]);
            out.push(Action::Apply { ticket, wall_ms, units, partitions: partitions.clone() });
        }
        self.watched.push(id);
    }

    /// What this node is to lead and has no complete copy of, begins empty, as raft's state allows. The tail is one that no other
    /// copy has, as it tells nothing of the data that there was.
    fn begin_empty(&mut self, out: &mut Vec<Action>) {
        if self.from_nothing.is_empty() {
            return;
        }
        let mut partitions = std::mem::take(&mut self.from_nothing);
        partitions.sort_unstable();
        partitions.dedup();
        let partitions: Rc<[PartitionId]> = partitions.into();
        let ticket = self.issue(None, &partitions);
        for &id in partitions.iter() {
            let data = &mut self.data[id as usize];
            data.drop_all();
            let base = Tail::unknown(data.epoch);
            (data.tail, data.released, data.complete_at) = (Some(base), Some(base), Some(ticket));
            data.phase = Phase::Promoting { base, suffix: None };
            self.watched.push(id);
        }
        out.push(Action::BeginEmpty { ticket, partitions });
    }

    /// A partition that this node led is back: its data is as this tail says ([`super::leader::Leader::release`]).
    pub fn returned(&mut self, partition: PartitionId, tail: Tail, out: &mut Vec<Action>) {
        let data = &mut self.data[partition as usize];
        assert!(std::mem::take(&mut data.led), "what comes back was led");
        (data.tail, data.released) = (Some(tail), Some(tail));
        if data.role == Role::Stranger {
            let ticket = self.issue(None, &[partition]);
            self.data[partition as usize].drop_all();
            self.data[partition as usize].place = Place::Lacking;
            out.push(Action::DropPartitions { ticket, copy: None, partitions: Rc::from([partition]) });
        }
        self.enter(partition, out);
        self.begin_empty(out);
        self.look_at_tickets(out);
    }

    /// A ticket for what concerns these partitions, of the stream of a leader.
    fn issue(&mut self, leader: Option<NodeId>, partitions: &[PartitionId]) -> Ticket {
        self.issued += 1;
        for &id in partitions {
            self.data[id as usize].last_ticket = self.issued;
        }
        if let Some(stream) = leader.and_then(|leader| self.streams.get_mut(&leader)) {
            stream.last_ticket = self.issued;
        }
        self.issued
    }

    /// Everything up to this ticket is applied.
    pub fn applied(&mut self, ticket: Ticket, out: &mut Vec<Action>) {
        assert!(ticket <= self.issued, "what is applied was handed out");
        self.applied = self.applied.max(ticket);
        self.look_at_tickets(out);
    }

    /// Everything up to this ticket is on this node's disk.
    pub fn durable(&mut self, ticket: Ticket) {
        assert!(ticket <= self.issued, "what is durable was handed out");
        self.durable = self.durable.max(ticket);
    }

    /// What waited for tickets that are applied.
    fn look_at_tickets(&mut self, out: &mut Vec<Action>) {
        let applied = self.applied;
        let mut whole: BTreeMap<(NodeId, u64), Vec<PartitionId>> = BTreeMap::new();
        for id in std::mem::take(&mut self.watched) {
            let data = &mut self.data[id as usize];
            if data.complete_at.is_some_and(|ticket| ticket <= applied) {
                (data.complete, data.complete_at) = (true, None);
                self.room.has_come(data);
                match (&data.phase, data.role) {
                    (&Phase::Finishing { run, after }, Role::Follow(leader)) => {
                        data.phase = Phase::Following { after };
                        whole.entry((leader, run)).or_default().push(id);
                    }
                    // It was asked for nothing before.
                    (Phase::Asked { .. }, Role::Follow(leader)) => {
                        self.streams.entry(leader).or_default().changed = true;
                    }
                    (Phase::Idle, Role::Lead) if !data.led => {
                        self.promote(id, out);
                        continue;
                    }
                    _ => {}
                }
            }
            let data = &mut self.data[id as usize];
            match &data.phase {
                Phase::Promoting { base, suffix } if data.last_ticket <= applied => {
                    let (base, suffix, epoch) = (*base, suffix.clone(), data.epoch);
                    // Whoever leads has all that there is.
                    (data.phase, data.led, data.complete) = (Phase::Idle, true, true);
                    data.place = Place::Here;
                    out.push(Action::Lead { partition: id, epoch, base, suffix });
                }
                Phase::Promoting { .. } => self.watched.push(id),
                _ if data.complete_at.is_some() => self.watched.push(id),
                _ => {}
            }
        }
        for ((leader, run), mut partitions) in whole {
            partitions.sort_unstable();
            self.say_has(leader, run, &partitions, out);
        }
    }

    /// What was handed out of these could not be applied, or their data is damaged: they are incomplete, and need a copy.
    pub fn spoiled(&mut self, partitions: &[PartitionId], out: &mut Vec<Action>) {
        self.withdraw(partitions, out);
        for &id in partitions.iter() {
            let data = &mut self.data[id as usize];
            assert!(!data.led, "what is led is not handed out");
            data.forget();
            self.enter(id, out);
        }
        self.begin_empty(out);
    }

    /// The tail of a complete copy that is at rest, and not led.
    #[cfg(test)]
    pub fn settled(&self, partition: PartitionId) -> Option<Tail> {
        let data = self.data.get(partition as usize)?;
        let rests = data.complete && !data.led && data.last_ticket <= self.applied && data.complete_at.is_none();
        data.released.filter(|_| rests)
    }

    /// Whether whoever leads a partition that is followed here has said that it does.
    pub fn is_answered(&self, partition: PartitionId) -> bool {
        let data = self.data.get(partition as usize);
        data.is_some_and(|data| matches!(data.role, Role::Follow(_)) && !data.led && data.phase.is_answered())
    }

    /// Whether this node is about to lead: what it has received is being applied, or it has led before and that is being
    /// brought to an end.
    pub fn is_taking_over(&self, partition: PartitionId) -> bool {
        let data = self.data.get(partition as usize).filter(|data| data.role == Role::Lead);
        data.is_some_and(|data| data.led || matches!(data.phase, Phase::Doubting | Phase::Promoting { .. }))
    }

    /// Whether this node could lead the partition: its data is complete.
    pub fn is_complete(&self, partition: PartitionId) -> bool {
        #[cfg(test)]
        if self.fault == Some(Fault::CountIncompleteCopies) {
            return true;
        }
        self.data.get(partition as usize).is_some_and(|data| data.complete)
    }
}
