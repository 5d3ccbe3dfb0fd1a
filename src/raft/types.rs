//! The types that raft is made of here, under short names.
//!
//! No state.

use openraft::type_config::alias;
use rkyv::{Archive, Deserialize, Serialize};

use super::command::{Command, NodeId, Reply};
#[cfg(not(test))]
use super::runtime::Glommio;

/// Where another node is reached. Kept with the membership, so that nodes find each other before they have any state.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub host: String,
    pub bus_port: u16,
}

/// What raft runs on; in tests it may be virtual time.
#[cfg(not(test))]
pub type Runtime = Glommio;
#[cfg(test)]
pub type Runtime = super::sim::runtime::Either;

openraft::declare_raft_types!(
    /// openraft's parameters. A leader's id is (term, node): of two candidates in one term the higher one wins, which
    /// saves a round when an election is split.
    pub Types:
        D = Command,
        R = Reply,
        NodeId = NodeId,
        Node = Peer,
        AsyncRuntime = Runtime,
);

pub type LogId = alias::LogIdOf<Types>;
pub type LeaderId = alias::LeaderIdOf<Types>;
pub type Vote = alias::VoteOf<Types>;
pub type Entry = alias::EntryOf<Types>;
pub type Payload = alias::PayloadOf<Types>;
pub type Membership = openraft::Membership<NodeId, Peer>;
pub type MembershipAt = alias::StoredMembershipOf<Types>;
pub type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub type IoFlushed = openraft::storage::IOFlushed<Types>;

/// The bytes of a snapshot, as they lie in its file.
pub type SnapshotBytes = std::rc::Rc<[u8]>;

pub type Snapshot = alias::SnapshotOf<Types, SnapshotBytes>;
pub type Raft = openraft::Raft<Types, super::state_machine::StateMachine>;
