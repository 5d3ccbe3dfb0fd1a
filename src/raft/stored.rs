//! How raft's own things lie on disk.
//!
//! ```text
//! version u8 | rkyv
//! ```
//!
//! openraft's types are not rkyv's, so each has a twin here, which is made and checked at the border. Whatever is read may
//! be damaged: it passes rkyv's own check, limits, and whether it makes sense, before anything uses it.
//!
//! Invariant: a change that can be encoded can be decoded; the same limits hold both ways. Else a node would write what it
//! cannot read when it starts again. So a command is not checked here: the log takes what the state refuses.
//!
//! No state.

use std::collections::{BTreeMap, BTreeSet};

use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::de::Pool;
use rkyv::rancor::{Error as RkyvError, Strategy};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use super::command::{
    COUNT_MAX, Command, HOST_BYTES_MAX, NODES_MAX, NodeId, PARTITIONS_MAX, RACK_BYTES_MAX, REPLICAS_MAX,
};
use super::types::{Entry, LeaderId, LogId, Membership, MembershipAt, Payload, Peer, Vote};

/// The newest version of everything in here, and of what nodes say to each other. What came with version 3 is in
/// [`super::orders`], with version 4 in [`super::settle`], with version 5 in [`super::successors`], and with each in
/// [`crate::streams::message`].
pub const VERSION: u8 = 5;

/// The oldest one that is read and written. Its forms must not change: a cluster that uses it may have nodes of an older build.
pub const OLDEST: u8 = 2;

/// Largest record or snapshot. A placement of all partitions is about a megabyte.
pub const STORED_BYTES_MAX: usize = 8 << 20;
// The largest state: for each copy two numbers, and some more for each partition and node.
const PARTITION_BYTES_MAX: usize = 64 + 16 * REPLICAS_MAX;
const NODE_BYTES_MAX: usize = 128 + HOST_BYTES_MAX + RACK_BYTES_MAX;
// Of a partition that was lost: its number and epoch, whether somebody lacked it, and who was in sync there, each with what it has said.
const LOST_BYTES_MAX: usize = 16 + 2 + 24 * REPLICAS_MAX;
// The number of a partition, who may lead it next, and when.
const SUCCESSOR_BYTES_MAX: usize = 32;
const PLACED_BYTES_MAX: usize = PARTITION_BYTES_MAX + LOST_BYTES_MAX + SUCCESSOR_BYTES_MAX;
const STATE_BYTES_MAX: usize = PLACED_BYTES_MAX * PARTITIONS_MAX + 2 * NODE_BYTES_MAX * NODES_MAX;
const _: () = assert!(STATE_BYTES_MAX < STORED_BYTES_MAX);

/// Most configurations of a membership: two while it changes.
const CONFIGURATIONS_MAX: usize = 2;

/// What is wrong with something stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    #[error("ends in the middle of a record")]
    Truncated,
    #[error("record version {0}, this program reads {OLDEST} to {VERSION}")]
    Version(u8),
    #[error("a record of {0} bytes is too long")]
    TooLong(usize),
    #[error("not a record")]
    Form,
    #[error("it was written by another node: a node has a data directory of its own")]
    Foreign,
    #[error("what it says makes no sense: {0}")]
    Senseless(&'static str),
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy)]
pub(super) struct StoredLogId {
    term: u64,
    node: NodeId,
    index: u64,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy)]
pub(super) struct StoredVote {
    term: u64,
    node: NodeId,
    committed: bool,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct StoredMembership {
    configurations: Vec<Vec<NodeId>>,
    nodes: Vec<(NodeId, Peer)>,
}

#[derive(Archive, Serialize, Deserialize)]
enum StoredPayload {
    Blank,
    Command(Command),
    Membership(StoredMembership),
}

#[derive(Archive, Serialize, Deserialize)]
enum StoredChange {
    Append(StoredLogId, StoredPayload),
    Vote(StoredVote),
    Committed(Option<StoredLogId>),
    Truncate(Option<StoredLogId>),
    Purge(StoredLogId),
    Number(NodeId),
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredTip {
    number: Option<NodeId>,
    vote: Option<StoredVote>,
    committed: Option<StoredLogId>,
    purged: Option<StoredLogId>,
    last: Option<StoredLogId>,
}

/// A change of the log: a record.
#[derive(Clone, Debug)]
pub enum Change {
    Append(Entry),
    Vote(Vote),
    Committed(Option<LogId>),
    /// What comes after this is gone.
    Truncate(Option<LogId>),
    /// What comes up to this is gone.
    Purge(LogId),
    /// The number that the node was given.
    Number(NodeId),
}

/// Everything about a log but its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tip {
    /// The node's own.
    pub number: Option<NodeId>,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// The last entry, or the last one that was purged.
    pub last: Option<LogId>,
}

/// Writes a stored thing that bears this version: the lowest one that can say it, so that all read it who may.
pub(super) fn encode<T>(version: u8, stored: &T) -> Result<Vec<u8>, StoredError>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, RkyvError>>,
{
    let bytes = rkyv::to_bytes::<RkyvError>(stored).map_err(|_| StoredError::Form)?;
    if bytes.len() >= STORED_BYTES_MAX {
        return Err(StoredError::TooLong(bytes.len()));
    }
    let mut out = Vec::with_capacity(1 + bytes.len());
    out.push(version);
    out.extend_from_slice(&bytes);
    Ok(out)
}

/// The version that a stored thing bears, if this program reads it.
pub(super) fn version_of(bytes: &[u8]) -> Result<u8, StoredError> {
    let version = *bytes.first().ok_or(StoredError::Truncated)?;
    if (OLDEST..=VERSION).contains(&version) { Ok(version) } else { Err(StoredError::Version(version)) }
}

/// Reads a stored thing, whose sense is not checked yet.
pub(super) fn decode<T>(bytes: &[u8]) -> Result<T, StoredError>
where
    T: Archive,
    T::Archived:
        for<'a> rkyv::bytecheck::CheckBytes<HighValidator<'a, RkyvError>> + Deserialize<T, Strategy<Pool, RkyvError>>,
{
    if bytes.len() > STORED_BYTES_MAX {
        return Err(StoredError::TooLong(bytes.len()));
    }
    decode_as(version_of(bytes)?, bytes)
}

/// Reads a stored thing of this version.
pub(super) fn decode_as<T>(version: u8, bytes: &[u8]) -> Result<T, StoredError>
where
    T: Archive,
    T::Archived:
        for<'a> rkyv::bytecheck::CheckBytes<HighValidator<'a, RkyvError>> + Deserialize<T, Strategy<Pool, RkyvError>>,
{
    if bytes.len() > STORED_BYTES_MAX {
        return Err(StoredError::TooLong(bytes.len()));
    }
    let (found, bytes) = bytes.split_first().ok_or(StoredError::Truncated)?;
    if *found != version {
        return Err(StoredError::Version(*found));
    }
    rkyv::from_bytes::<T, RkyvError>(bytes).map_err(|_| StoredError::Form)
}

pub(super) fn counted(count: u64) -> Result<u64, StoredError> {
    if count > COUNT_MAX { Err(StoredError::Senseless("a number that cannot have been reached")) } else { Ok(count) }
}

impl From<LogId> for StoredLogId {
    fn from(id: LogId) -> StoredLogId {
        StoredLogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl StoredLogId {
    pub(super) fn check(self) -> Result<LogId, StoredError> {
        let leader_id = LeaderId { term: counted(self.term)?, node_id: counted(self.node)? };
        Ok(LogId { leader_id, index: counted(self.index)? })
    }
}

/// A log id to be written, which has to be one that can be read.
fn limited(id: LogId) -> Result<StoredLogId, StoredError> {
    let stored = StoredLogId::from(id);
    stored.check()?;
    Ok(stored)
}

pub(super) fn check_id(id: Option<StoredLogId>) -> Result<Option<LogId>, StoredError> {
    id.map(StoredLogId::check).transpose()
}

impl From<Vote> for StoredVote {
    fn from(vote: Vote) -> StoredVote {
        StoredVote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl StoredVote {
    pub(super) fn check(self) -> Result<Vote, StoredError> {
        let leader_id = LeaderId { term: counted(self.term)?, node_id: counted(self.node)? };
        Ok(Vote { leader_id, committed: self.committed })
    }
}

impl From<&Membership> for StoredMembership {
    fn from(membership: &Membership) -> StoredMembership {
        StoredMembership {
            configurations: membership
                .get_joint_config()
                .iter()
                .map(|voters| voters.iter().copied().collect())
                .collect(),
            nodes: membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
        }
    }
}

impl StoredMembership {
    fn check(self) -> Result<Membership, StoredError> {
        let senseless = StoredError::Senseless;
        if self.configurations.len() > CONFIGURATIONS_MAX || self.nodes.len() > NODES_MAX {
            return Err(senseless("a membership that is too large"));
        }
        if self.nodes.iter().any(|(_, peer)| peer.host.len() > HOST_BYTES_MAX) {
            return Err(senseless("the name of a host is too long"));
        }
        if self.configurations.is_empty() && self.nodes.is_empty() {
            // Before the first one.
            return Ok(Membership::default());
        }
        let configurations: Vec<BTreeSet<NodeId>> =
            self.configurations.into_iter().map(|voters| voters.into_iter().collect()).collect();
        let nodes: BTreeMap<NodeId, Peer> = self.nodes.into_iter().collect();
        Membership::new(configurations, nodes)
            .map_err(|_| senseless("a membership without voters, or without their nodes"))
    }
}

/// A membership, and the entry that it comes from.
#[derive(Archive, Serialize, Deserialize)]
pub(super) struct StoredMembershipAt {
    id: Option<StoredLogId>,
    membership: StoredMembership,
}

impl From<&MembershipAt> for StoredMembershipAt {
    fn from(at: &MembershipAt) -> StoredMembershipAt {
        StoredMembershipAt { id: at.log_id().map(StoredLogId::from), membership: at.membership().into() }
    }
}

impl StoredMembershipAt {
    pub(super) fn check(self) -> Result<MembershipAt, StoredError> {
        Ok(MembershipAt::new(check_id(self.id)?, self.membership.check()?))
    }
}

impl Change {
    /// The record. Fails if it is too long, or what `decode` would refuse.
    pub fn encode(&self) -> Result<Vec<u8>, StoredError> {
        let version = match self {
            Change::Append(Entry { payload: Payload::Normal(command), .. }) => command.version(),
            _ => OLDEST,
        };
        let stored = match self {
            Change::Append(entry) => StoredChange::Append(
                limited(entry.log_id)?,
                match &entry.payload {
                    Payload::Blank => StoredPayload::Blank,
                    Payload::Normal(command) => StoredPayload::Command(command.clone()),
                    Payload::Membership(membership) => {
                        StoredMembership::from(membership).check()?;
                        StoredPayload::Membership(membership.into())
                    }
                },
            ),
            Change::Vote(vote) => {
                let vote = StoredVote::from(*vote);
                vote.check()?;
                StoredChange::Vote(vote)
            }
            Change::Committed(id) => StoredChange::Committed(id.map(limited).transpose()?),
            Change::Truncate(after) => StoredChange::Truncate(after.map(limited).transpose()?),
            Change::Purge(upto) => StoredChange::Purge(limited(*upto)?),
            Change::Number(number) => StoredChange::Number(counted(*number)?),
        };
        encode(version, &stored)
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Change, StoredError> {
        Ok(match decode::<StoredChange>(bytes)? {
            StoredChange::Append(id, payload) => {
                let payload = match payload {
                    StoredPayload::Blank => Payload::Blank,
                    StoredPayload::Command(command) => Payload::Normal(command),
                    StoredPayload::Membership(membership) => Payload::Membership(membership.check()?),
                };
                Change::Append(Entry { log_id: id.check()?, payload })
            }
            StoredChange::Vote(vote) => Change::Vote(vote.check()?),
            StoredChange::Committed(id) => Change::Committed(check_id(id)?),
            StoredChange::Truncate(after) => Change::Truncate(check_id(after)?),
            StoredChange::Purge(upto) => Change::Purge(upto.check()?),
            StoredChange::Number(number) => Change::Number(counted(number)?),
        })
    }
}

impl Tip {
    pub fn encode(&self) -> Result<Vec<u8>, StoredError> {
        let stored = StoredTip {
            number: self.number,
            vote: self.vote.map(StoredVote::from),
            committed: self.committed.map(StoredLogId::from),
            purged: self.purged.map(StoredLogId::from),
            last: self.last.map(StoredLogId::from),
        };
        encode(OLDEST, &stored)
    }

    pub fn decode(bytes: &[u8]) -> Result<Tip, StoredError> {
        let stored = decode::<StoredTip>(bytes)?;
        let tip = Tip {
            number: stored.number.map(counted).transpose()?,
            vote: stored.vote.map(StoredVote::check).transpose()?,
            committed: check_id(stored.committed)?,
            purged: check_id(stored.purged)?,
            last: check_id(stored.last)?,
        };
        if tip.purged.map(|id| id.index) > tip.last.map(|id| id.index) {
            return Err(StoredError::Senseless("more was purged than there was"));
        }
        Ok(tip)
    }
}

#[cfg(test)]
#[path = "stored_tests.rs"]
mod tests;
