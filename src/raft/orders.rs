//! What operators have ordered, and which version of its formats the cluster uses: a part of raft's state.
//!
//! An order says what is to be, not how: the leader of raft works towards it ([`super::govern`]), and its successor goes on.
//!
//! # Versions
//!
//! What came with a version of the formats may be said only once all nodes understand it. So a cluster has a *version* of its
//! own: the lowest one at first, and a higher one once the leader has heard from every node that it speaks that
//! ([`Order::Raise`]). It never goes back. Until then a node of a newer build writes and says nothing that an older one could not
//! read, so that nodes can be upgraded one by one, and gone back with; afterwards a node that is too old is let in no more.
//! A record or message bears the lowest version that can say it ([`super::stored`]).
//!
//! Pure. Invariants ([`Orders::validate`]): nodes that leave are known, and in order; before version 3 there
//! are no orders.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use super::command::{COUNT_MAX, NodeId, Refusal};
use super::state::Node;
use super::stored::{OLDEST, VERSION};

/// What is to be.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The node gives all that it has to others, and is removed then.
    Leave { node: NodeId },
    /// A node that is leaving stays after all.
    Stay { node: NodeId },
    /// Copies and roles stay where they are, also those of nodes that are dead or leave.
    Pause,
    /// They move again; and roles that somebody has moved go to where the plan wants them.
    Rebalance,
    /// The cluster uses this version from now on. `starts` is how many starts of processes the proposer knew of: one that has
    /// started since may be of an older build, and the version does not rise; but such a process cannot read this entry of raft's log.
    Raise { version: u8, starts: u64 },
}

/// See the module.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    version: u8,
    leaving: Vec<NodeId>,
    paused: bool,
    /// How often it was ordered to move roles to where the plan wants them.
    rebalanced: u64,
}

impl Default for Orders {
    fn default() -> Orders {
        Orders { version: OLDEST, leaving: Vec::new(), paused: false, rebalanced: 0 }
    }
}

impl Order {
    /// What can be said without knowing the state.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Order::Leave { node: 0 } | Order::Stay { node: 0 } => Err("nobody has number 0"),
            Order::Raise { version, .. } if *version <= OLDEST => Err("every cluster has this version"),
            // Whoever does not know it cannot read this order either.
            Order::Raise { version, .. } if *version > VERSION => Err("a version that does not exist"),
            _ => Ok(()),
        }
    }

    /// The version with which it can be said.
    pub fn version(&self) -> u8 {
        match self {
            Order::Raise { version, .. } => *version,
            _ => 3,
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Order::Leave { node } => write!(f, "node {node} leaves"),
            Order::Stay { node } => write!(f, "node {node} stays"),
            Order::Pause => write!(f, "copies and roles stay where they are"),
            Order::Rebalance => write!(f, "copies and roles move to where they are to be"),
            Order::Raise { version, .. } => write!(f, "the cluster uses version {version}"),
        }
    }
}

impl Orders {
    /// The version that the cluster uses.
    pub fn version(&self) -> u8 {
        self.version
    }

    pub fn leaves(&self, node: NodeId) -> bool {
        self.leaving.binary_search(&node).is_ok()
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    pub fn rebalanced(&self) -> u64 {
        self.rebalanced
    }

    /// Executes an order that [`Order::check`] has accepted.
    pub(super) fn apply(&mut self, order: Order, nodes: &[Node], starts: u64) -> Result<(), Refusal> {
        if self.version < order.version() && !matches!(order, Order::Raise { .. }) {
            return Err(Refusal::Version { version: self.version });
        }
        match order {
            Order::Leave { node } => self.leave(node, nodes)?,
            Order::Stay { node } => self.leaving.retain(|leaving| *leaving != node),
            Order::Pause => self.paused = true,
            Order::Rebalance => {
                self.paused = false;
                self.rebalanced += 1;
            }
            Order::Raise { starts: known, .. } if known != starts => return Err(Refusal::StaleStarts { starts }),
            // It never goes back.
            Order::Raise { version, .. } => self.version = self.version.max(version),
        }
        Ok(())
    }

    fn leave(&mut self, id: NodeId, nodes: &[Node]) -> Result<(), Refusal> {
        if !nodes.iter().any(|node| node.id == id) {
            return Err(Refusal::UnknownNode(id));
        }
        if !nodes.iter().any(|node| node.id != id && node.incarnation > 0 && !self.leaves(node.id)) {
            return Err(Refusal::LastNode(id));
        }
        if let Err(at) = self.leaving.binary_search(&id) {
            self.leaving.insert(at, id);
        }
        Ok(())
    }

    /// A node is no member any more.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.leaving.retain(|leaving| *leaving != node);
    }

    pub(super) fn validate(&self, nodes: &[Node]) -> Result<(), &'static str> {
        if !(OLDEST..=VERSION).contains(&self.version) || self.rebalanced > COUNT_MAX {
            return Err("a version that cannot be");
        }
        if self.version == OLDEST && *self != Orders::default() {
            return Err("orders that came with a later version");
        }
        if !self.leaving.is_sorted_by(|a, b| a < b) {
            return Err("nodes that leave are not in order");
        }
        let known = |id: &NodeId| nodes.iter().any(|node| node.id == *id);
        if !self.leaving.iter().all(known) {
            return Err("a node leaves that is not known");
        }
        Ok(())
    }
}
