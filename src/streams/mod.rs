//! Replication inside a cluster, partition by partition.
//!
//! Each node leads some partitions and follows others. From each node to each other one *stream* goes: the leader's log,
//! filtered to the units of the partitions that it leads and the other follows. Who leads, who follows and who is in sync is
//! in raft ([`crate::raft::state`]); data never goes there.
//!
//! Two state machines without sockets, clocks, disks or randomness, as in [`crate::replication`]: what happens is told to them,
//! what is to be done comes out as a list of actions. The simulator (`sim/`) runs a cluster of them from one number.
//!
//! | file | what it is |
//! | --- | --- |
//! | `message.rs` | what leaders and followers say to each other |
//! | `units.rs` | the filter: which units of a frame concern whom |
//! | `leader/` | [`leader::Leader`]: sends this node's log to all who follow it; in-sync sets; what is committed |
//! | `follower/` | [`follower::Follower`]: follows all the nodes that lead what this node has copies of; promotion |
//! | `ahead.rs` | roles that have gone over, of which raft's log does not tell yet |
//! | `sim/`, `tests.rs` | a cluster from a seed; transcripts |
//!
//! # Tails
//!
//! What data of a partition a node has, is said by a [`Tail`]: the epoch in which the last unit of it was written, and the
//! index of that unit's frame in the log of the node that led then. An epoch has one leader, a process that never restarts within
//! it, so two complete copies with equal tails are equal. A leader begins an epoch with a tail of an earlier one, the *base*, and
//! with its own log at some index, the *cut*; what it writes has higher indices.
//!
//! ```text
//!     a follower's tail                        it gets
//!     the leader's tail now                    Follow: nothing is missing
//!     of the current epoch                     Follow from there, if the backlog goes back so far
//!     the base                                 Follow from behind the cut, if the backlog goes back so far
//!     before the base, within the suffix       Suffix, then as with the base: the new leader still has what it had received
//!                                              and did not know to be committed
//!     of the base's epoch, beyond it           Cut: the new leader has not received that, and nobody was promised it. If it is
//!                                              applied already, Copy
//!     anything else, or none                   Copy
//! ```
//!
//! # What is committed
//!
//! A unit is committed when all members of its partition's in-sync set have received it; while a change of the set is open, of
//! the old and of the new one. The base of an epoch counts as a unit at the cut: it may hold what the members have not all
//! received. Followers keep what they receive, and apply it when it is committed: what is applied cannot be taken back.
//!
//! A unit that *spans* partitions is committed when all followers that any commit of this node waits for have come so far in its
//! log, and what comes behind it in the same partitions not before. So if the node is lost, what each follower has received says
//! which of these units everybody has, and the others are dropped everywhere ([`crate::raft::settle`]): a promoted node may have
//! to wait for that ([`follower::Action::Reach`]) before it leads.
//!
//! # How a shell drives it
//!
//! Every node has both machines, on the control core. All calls are made from one task. After each call its actions are done,
//! in their order.
//!
//! | it happens | call | on |
//! | --- | --- | --- |
//! | the process has started, and is registered in raft | `new`; then `hold` for each partition with data, or that lost it | follower |
//! | raft's state has changed | `roles`, of the leader first | both |
//! | a message was decoded | `message` | the machine it is for |
//! | a connection is there, or gone | `connected`, `disconnected` | follower; of the leader only `disconnected` |
//! | a frame was appended to this node's log, whatever is in it | `appended` | leader |
//! | the disk has the log up to an index | `durable` | leader |
//! | the backlog in memory was trimmed | `oldest` | leader |
//! | a socket has taken a message | `written` | leader |
//! | a part of the log was read, a copy goes on | `read`, `copy_*` | leader |
//! | a role is to go to another node while both live | `hand_over` | leader |
//! | data cores have seen the gates of a view | `gates_seen` | leader |
//! | a primary, perhaps this node, has ended what it led | `roles`, with what [`ahead`] then says | both |
//! | whoever leads now has answered | `tell_others` | leader |
//! | raft has decided on a handover, and `roles` was told of that | `decided` | leader |
//! | this node is about to end, or is not after all | `leave`, `stay` | follower |
//! | a proposal of who is in sync has failed for certain: raft has answered that it is refused | `refused` | leader |
//! | what has a ticket is in the data; its effects are on disk | `applied`, `durable` | follower |
//! | a turn is over | `turn_end` | both |
//! | `maxmemory` is another one, and at first | `set_limit` | follower |
//! | before each tick, and when copies have brought much | `memory`, if `minds_memory` | follower |
//! | time | `tick` | both |
//!
//! *To lead.* [`follower::Action::Lead`] says that all data of a partition is here and applied. The shell calls
//! [`leader::Leader::lead`] with the end of its log as the cut, and only then lets data cores execute for clients.
//!
//! *To lead no longer.* [`leader::Action::Deposed`]: the shell tells data cores (a new view), and waits until they have all
//! said that what they had executed is in the log; held replies of that partition are then answered as uncertain. Then it calls
//! [`leader::Leader::release`], which gives the tail, and [`follower::Follower::returned`] with that. Until then
//! what the partition has uncommitted holds [`leader::Leader::commit_upto`] back, so that no reply slips out. If it was handed
//! over, data cores had closed it, and had said so, before anybody was told: there is nothing to wait for.
//!
//! *Held replies* look at [`leader::Leader::commit_upto`] and [`leader::Leader::commit_durable_upto`] after each turn, and those
//! that tell of one partition at its lane in [`leader::Leader::lanes`]. These can go back, when a partition begins to be led: a reply that was let go stays so, but one that is executed after a data core has
//! seen the view with that partition must wait for the value as it is then.
//!
//! *Tickets.* What a follower hands out ([`follower::Action::ticket`]) is numbered 1, 2, 3, ... for all streams together, and is
//! executed in that order. `applied(t)`: everything up to `t` is in the data, or was given up ([`follower::Follower::spoiled`]).
//! `durable(t)`: it is in this node's own durable log. A node without one never says so.
//!
//! *To lead from nothing.* [`follower::Action::BeginEmpty`]: an operator has given up what others had, and this node has no complete
//! copy. Note durably that these are incomplete, drop what there is, and note that they are complete when that is on disk; only
//! then say `applied`. What is written later would else be lost with a crash, as the next process would not believe its disk.
//!
//! *Copies.* [`follower::Action::DropPartitions`]: note durably that these are incomplete, before they are dropped.
//! [`follower::Action::CopyDone`]: all is there; note durably that they are complete, then say `applied`. Units in a copy
//! ([`follower::Action::CopyUnits`]) count only for keys that were covered before them ([`crate::log::cover`]).
//!
//! *A restart.* What is on disk is complete or not, and of no known tail ([`follower::Holding`]).
//!
//! Dependencies: raft's commands and state, the form of units, and of `replication` the framing, the detector and the timeline.

pub mod ahead;
pub mod follower;
pub mod leader;
pub mod message;
pub mod units;

#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;

use std::rc::Rc;

pub use crate::cluster::NodeId;
pub use crate::log::frame::Index;
pub use crate::raft::command::{Epoch, InSyncChange, Incarnation, Member, PartitionId};

/// What data of a partition there is: see the module.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub struct Tail {
    pub epoch: Epoch,
    pub index: Index,
}

impl Tail {
    /// No data, because none was ever written.
    pub const EMPTY: Tail = Tail { epoch: 0, index: 0 };

    /// What the leader of an epoch has begun with, if that has no other name. Only copies made by that leader equal it.
    pub fn unknown(epoch: Epoch) -> Tail {
        Tail { epoch, index: 0 }
    }
}

/// A frame of this node's log, as it was appended.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The indices of its first and last unit.
    pub first: Index,
    pub last: Index,
    /// The wall clock when it was written.
    pub wall_ms: i64,
    /// Its units ([`crate::shard::statement`]).
    pub units: &'a [u8],
}

/// Units of one partition, as one frame had them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The tail of the partition after it.
    pub tail: Tail,
    pub wall_ms: i64,
    /// That frame had units that span these partitions, and whether they are kept is not decided for this epoch.
    pub spans: Option<message::Spans>,
    pub units: Rc<[u8]>,
}

/// The last units that a promoted node had received of a partition, and did not know to be committed. It keeps them for
/// others who may lack some of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suffix {
    /// The tail before the first piece.
    pub after: Tail,
    /// The last one ends with the base.
    pub pieces: Vec<Piece>,
}

/// The partition of a slot, of so many.
#[inline]
pub fn partition_of(slot: u16, partitions: usize) -> PartitionId {
    (slot as usize * partitions / crate::route::SLOTS as usize) as PartitionId
}
