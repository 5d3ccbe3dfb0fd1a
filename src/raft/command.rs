//! What the cluster can be told to change, and what it answers.
//!
//! Commands are the entries of the raft log, so their form is that of the disk and of the wire: rkyv. The log takes any
//! command, also one that [`Command::check`] finds malformed: the state ([`super::state`]) refuses that one, on every node
//! alike. Every command is decided by the state alone; what it rests on and may have changed since the proposer looked is
//! named in it (a version, an epoch, an incarnation) and compared.
//!
//! No state.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

pub use super::orders::Order;
use super::settle::{Reached, SETTLING_VERSION};
use super::stored::OLDEST;
use super::successors::NAMING_VERSION;
pub use crate::cluster::{COPIES_MAX, NODES_MAX, NodeId, PARTITIONS_MAX, WEIGHT_MAX};

/// The number of a partition.
pub type PartitionId = u16;

/// How often the primary of a partition has changed.
pub type Epoch = u64;

/// Which start of its process a node is in; 0: it has joined, and never registered.
pub type Incarnation = u64;

/// Most copies of a partition, those that are on the move included.
pub const REPLICAS_MAX: usize = COPIES_MAX;

/// Longest name of a host.
pub const HOST_BYTES_MAX: usize = 255;

/// Longest name of a rack.
pub const RACK_BYTES_MAX: usize = 64;

/// Highest number of anything that is counted. What was read and has a higher one is damaged; beyond, counters would
/// overflow.
pub const COUNT_MAX: u64 = 1 << 62;

/// What a node says of itself.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// A name or an address, as clients and other nodes reach it.
    pub host: String,
    /// Where clients connect.
    pub port: u16,
    /// Where other nodes connect.
    pub bus_port: u16,
    /// What fails together. Empty: not known.
    pub rack: String,
    /// Its share of the partitions, relative to others.
    pub weight: u16,
    /// Where clients connect to its first core; those of the others follow. 0: they are not told of cores.
    pub core_port: u16,
    /// How many cores it has.
    pub cores: u16,
}

/// A node in one start of its process.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    pub incarnation: Incarnation,
}

/// Who is to have copies of a partition, the preferred primary first.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub partition: PartitionId,
    pub replicas: Vec<NodeId>,
}

/// Who is in sync in a partition, as its primary sees it. Names the epoch and the version of the set that it follows.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct InSyncChange {
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub version: u64,
    pub in_sync: Vec<Member>,
}

/// The role of a partition's primary moves. Names the epoch that it follows.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub partition: PartitionId,
    pub epoch: Epoch,
}

/// That somebody was named for a partition: see [`super::successors`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naming {
    pub partition: PartitionId,
    pub number: u64,
}

/// A partition that begins anew under a node of which it is not known that it has everything. Names the epoch that it follows:
/// an order that is executed again would give up what was written since.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Force {
    pub partition: PartitionId,
    pub epoch: Epoch,
    /// If the node has no complete copy, it may drop what it has, and the partition begins empty.
    pub from_nothing: bool,
}

/// A change.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The data set begins, with this number of partitions for its life.
    Create { partitions: u16 },
    /// Gives a node its number, also in raft. `identity` is that of its data directory: who asks again gets the same
    /// number until it has registered. One that asks later has lost its raft directory, and with it how it has voted: it
    /// needs another number. The node that founds a cluster has number 1, and is the first to join.
    Join { identity: u128, profile: Profile },
    /// A process has started: the node is a new incarnation, and in no in-sync set any more, unless it is the last one
    /// there. `boot` is random: who asks again gets the same incarnation. `after` is the incarnation before this one, so
    /// that what an earlier process still asks for, and comes late, does not end the one that runs.
    Register { node: NodeId, identity: u128, boot: u128, after: Incarnation, profile: Profile },
    /// The node is gone for good. It must have no copies, and from version 3 on it was ordered to leave.
    Remove { node: NodeId },
    /// Who has copies of what. `version` is that of the placement it was planned from.
    Place { version: u64, changes: Vec<Placement> },
    /// Gives every partition that has lost its primary, or whose primary is dead, to the first of its replicas that is
    /// in sync and ready. `starts` is how many starts the proposer knew of: one that has started since has lost what it
    /// led, and its earlier process may still have a lease.
    Promote { starts: u64, dead: Vec<Member>, ready: Vec<Member> },
    /// Moves the role of partitions' primaries, if they have one, to a node that is in sync. Each is decided for itself. Where a
    /// successor was named, it moves to that one; if that one is gone, it stays where it is, in a later epoch.
    Lead { moves: Vec<Move>, to: Member },
    /// Who is in sync. Each is decided for itself.
    SetInSync { changes: Vec<InSyncChange> },
    /// The way out when all that were in sync are lost: whoever orders this gives up what only those had. All of them, or none,
    /// and only partitions that have no primary and whose last in-sync set consists of `lost` nodes, and of this one.
    ForceLead { forced: Vec<Force>, to: Member, lost: Vec<NodeId> },
    /// What an operator wants.
    Order(Order),
    /// How far a follower had come in the log of a primary that was lost; this names something that was lost with it.
    /// `lacking`: where it was in sync, and had not begun to follow that epoch.
    Reach { of: Move, by: Member, reached: Reached, lacking: Vec<PartitionId> },
    /// Names a node that is in sync as the one that may lead these next, when their primaries end what they lead. Each is decided
    /// for itself. See [`super::successors`].
    Name { moves: Vec<Move>, to: Member },
    /// Nobody may lead these next: their primaries have not ended what they lead, and go on. Each is decided for itself.
    Keep { namings: Vec<Naming> },
}

/// What comes of a command. The same on every node.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was not a command.
    Nothing,
    Created,
    Joined {
        node: NodeId,
    },
    Registered {
        incarnation: Incarnation,
    },
    Removed,
    /// The new version of the placement.
    Placed {
        version: u64,
    },
    /// How many partitions have a new primary, and how many have none, as nobody who is in sync is ready.
    Promoted {
        promoted: u32,
        stuck: u32,
    },
    /// How many partitions a node leads by force.
    Forced {
        partitions: u32,
    },
    /// How many roles moved, and how many did not, as something has changed since the proposer looked.
    Moved {
        moved: u32,
        stale: u32,
    },
    /// How many in-sync sets are as they were to be, and how many are not, as something has changed since the proposer
    /// looked.
    InSync {
        changed: u32,
        stale: u32,
    },
    Refused(Refusal),
    Ordered,
    Reached,
    /// Of how many roles the successor is named, or is no more, as was wanted, and of how many not, as something has changed since the
    /// proposer looked.
    Named {
        named: u32,
        stale: u32,
    },
}

/// Why a command changes nothing.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The words stay where they are: another node is told only that it is so.
    #[error("malformed: {0}")]
    Malformed(#[rkyv(with = rkyv::with::Skip)] &'static str),
    #[error("the data set has begun, with {partitions} partitions")]
    AlreadyCreated { partitions: u16 },
    #[error("node {0} is not known")]
    UnknownNode(NodeId),
    #[error("node {0} has another data directory")]
    WrongIdentity(NodeId),
    #[error(
        "node {0} has this data directory, and has started with it before: a node that has lost its raft directory must be removed, and join with a new data directory"
    )]
    AlreadyRegistered(NodeId),
    #[error("the cluster has {NODES_MAX} nodes already")]
    Full,
    #[error("node {node} has a copy of partition {partition}")]
    InUse { node: NodeId, partition: PartitionId },
    #[error("partition {0} does not exist")]
    UnknownPartition(PartitionId),
    #[error("the placement has version {version} now")]
    StalePlacement { version: u64 },
    #[error("partition {partition} has epoch {epoch} and in-sync set {version} now")]
    Stale { partition: PartitionId, epoch: Epoch, version: u64 },
    #[error("node {node} is in incarnation {incarnation} now")]
    StaleIncarnation { node: NodeId, incarnation: Incarnation },
    #[error("node {node} has no copy of partition {partition}")]
    NotAReplica { partition: PartitionId, node: NodeId },
    #[error("node {node} is in the in-sync set of partition {partition}")]
    StillInSync { partition: PartitionId, node: NodeId },
    #[error("{starts} starts are known now")]
    StaleStarts { starts: u64 },
    #[error("node {primary} is the primary of partition {partition} now")]
    HasPrimary { partition: PartitionId, primary: NodeId },
    #[error("the cluster uses version {version} of its formats, until all nodes are of a newer build")]
    Version { version: u8 },
    #[error("no other node would be left beside node {0}")]
    LastNode(NodeId),
    #[error("node {0} is not to leave")]
    Stays(NodeId),
}

/// Whether a node occurs twice. The lists are short, or seldom looked at.
pub(super) fn has_duplicates(nodes: &[NodeId]) -> bool {
    nodes.iter().enumerate().any(|(at, node)| nodes[..at].contains(node))
}

impl Profile {
    pub fn check(&self) -> Result<(), &'static str> {
        if self.host.len() > HOST_BYTES_MAX || self.rack.len() > RACK_BYTES_MAX {
            return Err("the name of a host or a rack is too long");
        }
        if self.host.is_empty() || self.port == 0 || self.bus_port == 0 {
            return Err("a node has no host, or no port");
        }
        if self.weight == 0 || self.weight as u32 > WEIGHT_MAX {
            return Err("a weight is out of bounds");
        }
        if usize::from(self.cores) > PARTITIONS_MAX {
            return Err("there are more cores than partitions");
        }
        if self.core_port > 0 && (self.cores == 0 || self.core_port.checked_add(self.cores - 1).is_none()) {
            return Err("the ports of cores are out of bounds");
        }
        Ok(())
    }
}

fn check_members(members: &[Member], members_max: usize) -> Result<(), &'static str> {
    if members.len() > members_max {
        return Err("there are too many nodes in a command");
    }
    let nodes: Vec<NodeId> = members.iter().map(|member| member.node).collect();
    if has_duplicates(&nodes) {
        return Err("a node is named twice in a command");
    }
    Ok(())
}

fn check_changes(changes: &[Placement]) -> Result<(), &'static str> {
    check_order(changes.iter().map(|change| change.partition))?;
    for change in changes {
        if change.replicas.is_empty() || change.replicas.len() > REPLICAS_MAX {
            return Err("a partition has no copies, or too many");
        }
        if has_duplicates(&change.replicas) {
            return Err("a partition has two copies on one node");
        }
    }
    Ok(())
}

/// Checks that the partitions of a batch are in order, so that none is there twice.
fn check_order(partitions: impl ExactSizeIterator<Item = PartitionId>) -> Result<(), &'static str> {
    if partitions.len() == 0 || partitions.len() > PARTITIONS_MAX {
        return Err("a command changes nothing, or too much");
    }
    if !partitions.is_sorted_by(|a, b| a < b) {
        return Err("the partitions of a command are not in order");
    }
    Ok(())
}

fn check_in_sync(changes: &[InSyncChange]) -> Result<(), &'static str> {
    check_order(changes.iter().map(|change| change.partition))?;
    if changes.iter().any(|change| change.in_sync.is_empty()) {
        return Err("an in-sync set is never empty");
    }
    changes.iter().try_for_each(|change| check_members(&change.in_sync, REPLICAS_MAX))
}

impl Command {
    /// What can be said without knowing the state.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Command::Create { partitions } => {
                let valid = partitions.is_power_of_two() && *partitions as usize <= PARTITIONS_MAX;
                if valid { Ok(()) } else { Err("a number of partitions that cannot be") }
            }
            Command::Join { profile, .. } | Command::Register { profile, .. } => profile.check(),
            Command::Place { changes, .. } => check_changes(changes),
            Command::Promote { dead, ready, .. } => {
                check_members(dead, NODES_MAX)?;
                check_members(ready, NODES_MAX)?;
                if dead.iter().any(|member| ready.iter().any(|other| other.node == member.node)) {
                    return Err("a node is both dead and ready");
                }
                Ok(())
            }
            Command::Lead { moves, .. } | Command::Name { moves, .. } => {
                check_order(moves.iter().map(|change| change.partition))
            }
            Command::Keep { namings } => check_order(namings.iter().map(|naming| naming.partition)),
            Command::SetInSync { changes } => check_in_sync(changes),
            Command::ForceLead { lost, .. } if lost.len() > NODES_MAX => Err("there are too many nodes in a command"),
            Command::ForceLead { forced, .. } => check_order(forced.iter().map(|force| force.partition)),
            Command::Remove { .. } => Ok(()),
            Command::Order(order) => order.check(),
            Command::Reach { reached, .. } if *reached > COUNT_MAX => Err("a number that cannot have been reached"),
            Command::Reach { lacking, .. } if lacking.is_empty() => Ok(()),
            Command::Reach { lacking, .. } => check_order(lacking.iter().copied()),
        }
    }

    /// The lowest version of the formats that can say this: see [`super::orders`], [`super::settle`] and
    /// [`super::successors`].
    pub fn version(&self) -> u8 {
        match self {
            Command::Order(order) => order.version(),
            Command::Reach { .. } => SETTLING_VERSION,
            Command::Name { .. } | Command::Keep { .. } => NAMING_VERSION,
            _ => OLDEST,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Create { partitions } => write!(f, "create {partitions} partitions"),
            Command::Join { identity, profile } => write!(f, "join {identity:032x} at {}", profile.host),
            Command::Register { node, after, .. } => write!(f, "register node {node} after incarnation {after}"),
            Command::Remove { node } => write!(f, "remove node {node}"),
            Command::Place { version, changes } => write!(f, "place {} partitions after {version}", changes.len()),
            Command::Promote { dead, .. } => write!(f, "promote for {} dead nodes", dead.len()),
            Command::Lead { moves, to } => write!(f, "node {} leads {} partitions", to.node, moves.len()),
            Command::SetInSync { changes } => write!(f, "who is in sync in {} partitions", changes.len()),
            Command::ForceLead { forced, to, .. } => {
                write!(f, "node {} leads {} partitions by force", to.node, forced.len())
            }
            Command::Order(order) => write!(f, "{order}"),
            Command::Reach { of, by, reached, .. } => {
                write!(f, "node {} had come to {reached} in partition {} of epoch {}", by.node, of.partition, of.epoch)
            }
            Command::Name { moves, to } => write!(f, "node {} may lead {} partitions next", to.node, moves.len()),
            Command::Keep { namings } => write!(f, "{} partitions stay where they are", namings.len()),
        }
    }
}
