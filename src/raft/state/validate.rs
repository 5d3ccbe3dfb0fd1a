//! The invariants of the state: of what was read from somewhere, and of everything in tests.
//!
//! Pure.

use super::{Partition, State};
use crate::raft::command::{COUNT_MAX, NODES_MAX, PARTITIONS_MAX, REPLICAS_MAX, has_duplicates};
use crate::raft::settle::SETTLING_VERSION;
use crate::raft::successors::NAMING_VERSION;

impl State {
    /// Checks the invariants.
    pub fn validate(&self) -> Result<(), &'static str> {
        if self.next_node == 0 || self.nodes.len() > NODES_MAX {
            return Err("there are too many nodes");
        }
        if !self.nodes.is_sorted_by(|a, b| a.id < b.id) {
            return Err("nodes are not in order");
        }
        if self.next_node.max(self.placement_version).max(self.starts) > COUNT_MAX {
            return Err("a number that cannot have been reached");
        }
        for (at, node) in self.nodes.iter().enumerate() {
            node.profile.check()?;
            if node.incarnation > COUNT_MAX {
                return Err("a number that cannot have been reached");
            }
            if node.id == 0 || node.id >= self.next_node {
                return Err("a node has a number that was not given");
            }
            if self.nodes[..at].iter().any(|other| other.identity == node.identity) {
                return Err("two nodes have one data directory");
            }
        }
        let count = self.partitions.len();
        if count > 0 && (!count.is_power_of_two() || count > PARTITIONS_MAX) {
            return Err("a number of partitions that cannot be");
        }
        self.orders.validate(&self.nodes)?;
        self.settlements.validate(self.partitions.len())?;
        if self.orders.version() < SETTLING_VERSION && self.settlements.iter().next().is_some() {
            return Err("losses that came with a later version");
        }
        if self.orders.version() < NAMING_VERSION && !self.successors.is_empty() {
            return Err("successors that came with a later version");
        }
        if self.successors.last() > COUNT_MAX {
            return Err("a number that cannot have been reached");
        }
        for (partition, successor) in self.successors.iter() {
            let is = self.partition(partition).filter(|is| is.epoch > 0).ok_or("a successor of nobody")?;
            let (node, incarnation) = (successor.to.node, successor.to.incarnation);
            if successor.epoch.max(incarnation) > COUNT_MAX
                || successor.epoch < 2
                || incarnation == 0
                || successor.number == 0
            {
                return Err("a successor with a number that cannot be");
            }
            if successor.number > self.successors.last() {
                return Err("a successor that was never named");
            }
            if self.node(node).is_none_or(|known| known.incarnation < incarnation) {
                return Err("a successor that is not known");
            }
            if is.primary.is_some_and(|primary| primary == node || successor.epoch != is.epoch + 1) {
                return Err("a successor that has begun, or cannot");
            }
        }
        self.partitions.iter().try_for_each(|partition| self.validate_partition(partition))
    }

    fn validate_partition(&self, partition: &Partition) -> Result<(), &'static str> {
        let Partition { epoch, primary, replicas, in_sync, in_sync_version, from_nothing } = partition;
        if (*epoch).max(*in_sync_version) > COUNT_MAX {
            return Err("a number that cannot have been reached");
        }
        if *epoch == 0 {
            let nothing = *partition == Partition::default();
            return if nothing { Ok(()) } else { Err("a partition that was never placed has copies") };
        }
        if replicas.is_empty() || replicas.len() > REPLICAS_MAX || has_duplicates(replicas) {
            return Err("a partition has no copies, too many, or two on one node");
        }
        if replicas.iter().any(|node| self.node(*node).is_none()) {
            return Err("a partition has a copy on a node that is not known");
        }
        if in_sync.is_empty() || *in_sync_version == 0 {
            return Err("an in-sync set is empty");
        }
        // In the order of the replicas, so that none is there twice or from elsewhere.
        let mut rest = replicas.iter();
        if !in_sync.iter().all(|node| rest.any(|replica| replica == node)) {
            return Err("an in-sync set has nodes without a copy, or is not in order");
        }
        if primary.is_some_and(|primary| !in_sync.contains(&primary)) {
            return Err("a primary is not in sync");
        }
        if *from_nothing && primary.is_none() {
            return Err("nobody begins from nothing");
        }
        Ok(())
    }
}
