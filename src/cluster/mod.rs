//! Many nodes as one: who a node is ([`identity`]), what it knows of the others ([`view`]), and which node holds what.
//!
//! All but the file of the identity is pure code, owned by no core. For placement, members and the placement so far go in, a new placement comes out, and every node that
//! computes it gets the same. Nothing here moves data; a placement says where copies shall be.
//!
//! # The two halves
//!
//! [`ring`] answers *where would a partition like to be*: consistent hashing with virtual nodes gives every partition an
//! order of all nodes, its preference, which hardly changes when nodes come and go. Taken as it is, it loads nodes
//! unevenly, because the arcs between random points are uneven.
//!
//! [`placement`] answers *where shall it be*. Nodes have integer quotas by weight, and copies stay where they are unless a
//! quota says otherwise; preference only decides which copies go where when something must move. So balance is exact and
//! movement next to minimal, which no bound on the load of a plain ring gives at the same time: `keyloom ring --simulate`
//! ([`simulation`]) shows both beside modulo, the plain ring and the ring with bounded loads.
//!
//! # Reading order
//!
//! [`ring`], [`roster`] (who is there, and what racks allow), [`quota`] (how many copies a node gets), [`board`] (the plan
//! while it is made), [`augment`] (chains of moves where no single move helps), [`roles`] (who leads), [`placement`] (the
//! steps in order, and `validate`).

pub mod augment;
pub mod board;
pub mod identity;
pub mod lease;
#[cfg(test)]
mod model_tests;
pub mod placement;
pub mod quota;
pub mod ring;
pub mod roles;
pub mod roster;
pub mod simulation;
pub mod view;

pub use identity::Identity;
pub use lease::Lease;
pub use placement::{Copies, Fault, Placement, place};
pub use ring::Ring;
pub use roster::{PlaceError, Roster, Rule};
pub use view::{CorePorts, Endpoint, Gate, Places, Roles, Target, View};

/// A node's number: given once, when it joins, and never used again. 0 is nobody.
pub type NodeId = u64;

/// Most members of a cluster, dead ones included.
pub const NODES_MAX: usize = 1_024;
/// Largest weight of a node.
pub const WEIGHT_MAX: u32 = 256;
/// Largest sum of weights: two million virtual nodes.
pub const WEIGHTS_SUM_MAX: u32 = 16_384;
/// Most partitions: one for each slot.
pub const PARTITIONS_MAX: usize = crate::route::SLOTS as usize;
/// Largest replication factor: copies of a partition, the primary included.
pub const COPIES_MAX: usize = 8;

/// One node, as placement sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: NodeId,
    /// How much it shall hold beside the others, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// What it shares with others and may lose together with them; none is a rack of its own.
    pub rack: Option<u32>,
    /// A dead member holds nothing.
    pub alive: bool,
}
