//! The side that leads: one machine for all who follow this node.
//!
//! ```text
//!     mod.rs       what it is told of roles, and by followers: who is admitted, and how
//!     stream.rs    the log to each follower: live, or read again for those who are behind; bounded queues
//!     copy.rs      copies: one at a time, for one follower
//!     commit.rs    acknowledgements, groups of partitions with equal in-sync sets, what is committed; WAIT, lag
//!     insync.rs    who is in sync: joining, proposals of changes
//!     partition.rs, peer.rs    what it knows of a partition that it leads, and of a follower
//! ```
//!
//! Pure: times are arguments (milliseconds of a steady clock, but for `wall_ms`), what is to be done comes out as [`Action`]s,
//! to be done in their order. Owned by the control core. See [`crate::streams`] for how it is driven.
//!
//! Invariants: a node has one connection at the most; at most one copy is under way; a partition is copied only to a
//! follower that no set names which may be in force; what waits for whom is never less than raft's set and all that were proposed
//! since it was seen.

use std::rc::Rc;

use super::message::{ToFollower, ToLeader};
use super::{Epoch, Frame, InSyncChange, Index, NodeId, PartitionId, Suffix, Tail};
use crate::raft::state::State;

/// A connection, numbered by the shell. A number is never used again.
pub type Peer = u64;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node, not 0.
    pub node: NodeId,
    /// A follower that is behind, or silent, for longer is proposed to leave the in-sync sets; also one that is expected and
    /// does not come.
    pub insync_timeout_ms: u64,
    /// One whose connection is lost, after this.
    pub absence_ms: u64,
    /// A proposal whose fate is not known is made again after this.
    pub propose_ms: u64,
    /// Only who has on disk what was confirmed as durable can become in sync. For nodes that use `quorum-disk`.
    pub durable_quorum: bool,
    pub heartbeat_ms: u64,
    /// A follower that says nothing, or takes nothing, for longer is dropped.
    pub repl_timeout_ms: u64,
    /// Phi above which a follower does not count as in sync. See [`crate::replication::detector`].
    pub phi_max: f64,
    /// Bytes that may be queued for one follower; above, it is dropped.
    pub queue_bytes_max: u64,
    /// Bytes that one follower may have been sent, and that are not committed: it keeps them in memory.
    pub uncommitted_bytes_max: u64,
    /// Partitions that are copied at once: what is through is not lost with the connection.
    pub copy_partitions_max: usize,
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write this; then say so with [`Leader::written`] and the message's cost.
    Send { to: Peer, message: ToFollower },
    /// Close the connection after what was sent is written, and forget it. Its [`Leader::disconnected`] need not follow.
    Drop { peer: Peer, reason: DropReason },
    /// Read the backlog from index `from` on, up to about `bytes_max`, at least one frame; answer with [`Leader::read`].
    Read { peer: Peer, from: Index, bytes_max: u64 },
    /// Begin a run over these partitions of what this node leads; answer with [`Leader::copy_started`].
    StartCopy { run: u64, node: NodeId, partitions: Rc<[PartitionId]> },
    /// Nobody wants this run any more.
    CancelCopy { run: u64 },
    /// Propose all of these to raft, in one command or several. What becomes of them is seen in raft's state
    /// ([`Leader::roles`]); what is refused can be told with [`Leader::refused`].
    Propose(Vec<InSyncChange>),
    /// This node leads the partition in that epoch no longer. See "To lead no longer" in [`crate::streams`].
    Deposed { partition: PartitionId, epoch: Epoch },
}

/// Why a follower was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    Refused(super::message::Refusal),
    /// It said what it cannot say now.
    Protocol,
    /// The same node has connected again.
    Replaced,
    /// It is an older connection than the one that the same node has now.
    Stale,
    Silent,
    /// Its connection takes nothing.
    Stalled,
    /// Its queue is full.
    QueueFull,
}

/// A mistake for the simulator to find.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// While a change is open, only the new set is waited for.
    CountNewSetOnly,
    /// A follower of the right epoch goes on, whatever its tail.
    FollowWithoutTails,
    /// A copy counts as complete when it is sent.
    CountIncompleteCopies,
}

/// Partitions that wait for the same followers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// All but this node, ascending.
    pub members: Vec<NodeId>,
    /// Every unit of these partitions up to here is committed.
    pub upto: Index,
    /// Every such unit up to here is on the disks of this node and of all members.
    pub durable_upto: Index,
    /// How many there are.
    pub partitions: usize,
}

/// How far a follower is behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lag {
    pub peer: Peer,
    pub node: NodeId,
    /// Partitions that follow the log, that are being copied, and that wait for a copy.
    pub following: usize,
    pub copying: usize,
    pub waiting: usize,
    pub received: Index,
    pub applied: Index,
    pub durable: Index,
    /// Bytes that it has not acknowledged, at most this many.
    pub bytes: u64,
    /// For how long there has been something that it has not acknowledged.
    pub ms: u64,
    /// Since its last acknowledgement.
    pub silent_ms: u64,
    /// Suspicion, see [`crate::replication::detector`].
    pub phi: f64,
}

/// See the module.
#[derive(Debug)]
pub struct Leader {
    settings: Settings,
    #[cfg(test)]
    pub fault: Option<Fault>,
}

impl Leader {
    /// A node that leads nothing yet, whose log ends at `end`.
    pub fn new(settings: Settings, end: Index) -> Leader {
        let _ = end;
        Leader {
            settings,
            #[cfg(test)]
            fault: None,
        }
    }

    /// CONFIG SET.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Raft's state has changed, or is known for the first time.
    pub fn roles(&mut self, now_ms: u64, state: &State, out: &mut Vec<Action>) {
        let _ = (now_ms, state, out);
    }

    /// This node begins to lead a partition: all of `base` is applied, and `cut` is the last index of its log. `suffix` is what
    /// [`super::follower::Action::Lead`] has said.
    #[allow(clippy::too_many_arguments)]
    pub fn lead(
        &mut self,
        now_ms: u64,
        partition: PartitionId,
        epoch: Epoch,
        base: Tail,
        cut: Index,
        suffix: Option<Suffix>,
        out: &mut Vec<Action>,
    ) {
        let _ = (now_ms, partition, epoch, base, cut, suffix, out);
    }

    /// Everything that was executed while this node led the partition is in the log, and nobody waits for a reply any
    /// more. Gives its tail; None: this node does not lead it.
    pub fn release(&mut self, partition: PartitionId) -> Option<Tail> {
        let _ = partition;
        None
    }

    /// A message from a connection; the first is an Open.
    pub fn message(&mut self, now_ms: u64, peer: Peer, message: ToLeader, out: &mut Vec<Action>) {
        let _ = (now_ms, peer, message, out);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, now_ms: u64, peer: Peer, out: &mut Vec<Action>) {
        let _ = (now_ms, peer, out);
    }

    /// The log has grown by this frame. What comes of it is sent with [`Leader::turn_end`].
    pub fn appended(&mut self, now_ms: u64, frame: &Frame, out: &mut Vec<Action>) {
        let _ = (now_ms, frame, out);
    }

    /// This node's disk has the log up to `index`.
    pub fn durable(&mut self, index: Index) {
        let _ = index;
    }

    /// The backlog has the log from this index on.
    pub fn oldest(&mut self, index: Index) {
        let _ = index;
    }

    /// The connection has taken a message of this cost.
    pub fn written(&mut self, now_ms: u64, peer: Peer, cost: u64) {
        let _ = (now_ms, peer, cost);
    }

    /// What [`Action::Read`] asked for: frames that begin with its index, or none if the backlog does not go back so far.
    pub fn read(&mut self, now_ms: u64, peer: Peer, frames: &[Frame], out: &mut Vec<Action>) {
        let _ = (now_ms, peer, frames, out);
    }

    /// The run has begun; its entries are as of index `at` or later.
    pub fn copy_started(&mut self, now_ms: u64, run: u64, at: Index, out: &mut Vec<Action>) {
        let _ = (now_ms, run, at, out);
    }

    /// How many bytes of the copy may be produced now. None if nobody wants it any more.
    pub fn copy_room(&self, run: u64) -> Option<u64> {
        let _ = run;
        None
    }

    /// A piece of the copy.
    pub fn copy_piece(&mut self, now_ms: u64, run: u64, bytes: &Rc<[u8]>, out: &mut Vec<Action>) {
        let _ = (now_ms, run, bytes, out);
    }

    /// The copy is whole: with the units up to index `at`, the last one that was appended.
    pub fn copy_ended(&mut self, now_ms: u64, run: u64, at: Index, out: &mut Vec<Action>) {
        let _ = (now_ms, run, at, out);
    }

    /// The copy could not be finished: its follower waits for the next.
    pub fn copy_failed(&mut self, now_ms: u64, run: u64, out: &mut Vec<Action>) {
        let _ = (now_ms, run, out);
    }

    /// Raft has refused this change: it will not come any more.
    pub fn refused(&mut self, change: &InSyncChange) {
        let _ = change;
    }

    /// Time passes: heartbeats, timeouts, changes of in-sync sets. `wall_ms` is this node's wall clock. To be called about ten
    /// times in the shortest of all intervals.
    pub fn tick(&mut self, now_ms: u64, wall_ms: u64, out: &mut Vec<Action>) {
        let _ = (now_ms, wall_ms, out);
    }

    /// Everything of this turn of the shell is said: send what it has brought, in one message for each follower.
    pub fn turn_end(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let _ = (now_ms, out);
    }

    /// The last index of this node's log up to which every own unit is committed in its partitions. What `quorum` waits for.
    pub fn commit_upto(&self) -> Index {
        0
    }

    /// The last index up to which every own unit is on the disks of this node and of all who are in sync: `quorum-disk`.
    pub fn commit_durable_upto(&self) -> Index {
        0
    }

    /// What is committed, by groups of partitions that wait for the same followers.
    pub fn groups(&self) -> Vec<Group> {
        Vec::new()
    }

    /// How many followers have received what concerns them of the log up to `index`: WAIT.
    pub fn received_by(&self, index: Index) -> usize {
        let _ = index;
        0
    }

    /// How many have it on their disks: WAITAOF.
    pub fn durable_on(&self, index: Index) -> usize {
        let _ = index;
        0
    }

    /// For INFO and the metrics.
    pub fn lags(&self, now_ms: u64) -> Vec<Lag> {
        let _ = now_ms;
        Vec::new()
    }
}
