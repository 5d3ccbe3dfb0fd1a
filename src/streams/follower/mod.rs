//! The side that follows: one machine for all the nodes that lead what this node has copies of.
//!
//! ```text
//!     mod.rs       roles: whom to follow, when to lead; tickets
//!     stream.rs    one leader: connection, answers, what is received and not committed
//!     copy.rs      copies
//!     partition.rs what it knows of the data of a partition
//! ```
//!
//! Pure: times are arguments (milliseconds of a steady clock, but for `wall_ms`), what is to be done comes out as [`Action`]s,
//! to be done in their order. Owned by the control core. See [`crate::streams`] for how it is driven.
//!
//! Invariants: what is not committed is not handed out, but for copies, which count for nothing before they are whole, and for
//! what this node itself is to lead; a partition is taken only from the node that raft's state names, in that epoch; tickets rise.

use std::rc::Rc;

use super::message::{ToFollower, ToLeader};
use super::{Epoch, Incarnation, NodeId, PartitionId, Suffix, Tail};
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
    /// This node is to lead and must not: its data is incomplete. Nobody can, until an operator decides.
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
            | Action::CopyPiece { ticket, .. }
            | Action::CopyUnits { ticket, .. }
            | Action::CopyDone { ticket, .. } => Some(*ticket),
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
    #[cfg(test)]
    pub fault: Option<Fault>,
}

impl Follower {
    /// A process that has nothing ([`Holding::Incomplete`]) and follows nobody yet.
    pub fn new(settings: Settings) -> Follower {
        Follower {
            settings,
            #[cfg(test)]
            fault: None,
        }
    }

    /// What there is of a partition when the process starts, before the first call of [`Follower::roles`].
    pub fn hold(&mut self, partition: PartitionId, holding: Holding) {
        let _ = (&self.settings, partition, holding);
    }

    /// Raft's state has changed, or is known for the first time.
    pub fn roles(&mut self, now_ms: u64, state: &State, out: &mut Vec<Action>) {
        let _ = (now_ms, state, out);
    }

    /// A partition that this node led is back: its data is as this tail says ([`super::leader::Leader::release`]).
    pub fn returned(&mut self, now_ms: u64, partition: PartitionId, tail: Tail, out: &mut Vec<Action>) {
        let _ = (now_ms, partition, tail, out);
    }

    /// The connection that [`Action::Connect`] asked for is there.
    pub fn connected(&mut self, now_ms: u64, leader: NodeId, out: &mut Vec<Action>) {
        let _ = (now_ms, leader, out);
    }

    /// The connection is gone, or did not come about.
    pub fn disconnected(&mut self, now_ms: u64, leader: NodeId, out: &mut Vec<Action>) {
        let _ = (now_ms, leader, out);
    }

    /// A message of a leader.
    pub fn message(&mut self, now_ms: u64, leader: NodeId, message: ToFollower, out: &mut Vec<Action>) {
        let _ = (now_ms, leader, message, out);
    }

    /// Everything up to this ticket is applied.
    pub fn applied(&mut self, now_ms: u64, ticket: Ticket, out: &mut Vec<Action>) {
        let _ = (now_ms, ticket, out);
    }

    /// Everything up to this ticket is on this node's disk.
    pub fn durable(&mut self, ticket: Ticket) {
        let _ = ticket;
    }

    /// What was handed out of these could not be applied, or their data is damaged: they are incomplete, and need a copy.
    pub fn spoiled(&mut self, now_ms: u64, partitions: &[PartitionId], out: &mut Vec<Action>) {
        let _ = (now_ms, partitions, out);
    }

    /// Time passes: heartbeats, timeouts, connections that are due.
    pub fn tick(&mut self, now_ms: u64, wall_ms: u64, out: &mut Vec<Action>) {
        let _ = (now_ms, wall_ms, out);
    }

    /// Everything of this turn of the shell is said: acknowledge what it has brought.
    pub fn turn_end(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let _ = (now_ms, out);
    }

    /// Whether this node could lead the partition: its data is complete.
    pub fn is_complete(&self, partition: PartitionId) -> bool {
        let _ = partition;
        false
    }

    /// For INFO and the metrics.
    pub fn upstreams(&self, now_ms: u64) -> Vec<Upstream> {
        let _ = now_ms;
        Vec::new()
    }
}
