//! The placement: for each partition the nodes that hold a copy, and which of them leads.
//!
//! Pure and deterministic, owned by no core: equal input gives an equal placement on every node. Versions may differ: what
//! counts is the placement that was agreed on, not who computed it.
//!
//! # What [`place`] guarantees
//!
//! - Each partition has `min(copies, nodes alive)` copies on as many nodes; dead nodes hold nothing.
//! - Its copies are spread over racks as evenly as the racks' nodes allow ([`super::roster`]); with enough racks, no two of
//!   them share one.
//! - Each node holds the floor or the ceiling of its share ([`super::quota`]): by weight, unless that would be more than one
//!   copy of each partition, or more than its rack may hold.
//! - Each node leads the floor or the ceiling of `1 / copies` of what it holds.
//! - If the placement so far is such, it stays as it is. Otherwise copies stay where quotas and racks let them; how many
//!   move is within a few per cent of the least that must (`keyloom ring --simulate` measures it).
//!
//! [`Placement::validate`] checks all but the last.

use std::collections::BTreeSet;

use super::board::Board;
use super::quota::Shares;
use super::ring::Ring;
use super::roster::{PlaceError, Rack, Roster, Rule};
use super::{Member, NodeId, augment, roles};

/// Who holds a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    pub primary: NodeId,
    /// The other holders. Ascending in what [`place`] makes.
    pub replicas: Vec<NodeId>,
}

impl Copies {
    /// All holders, the primary first.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::once(self.primary).chain(self.replicas.iter().copied())
    }
}

/// Who holds what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Of each partition.
    pub partitions: Vec<Copies>,
}

/// What is wrong with a placement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Input(#[from] PlaceError),
    #[error("partition {partition} is on node {node}, which is not alive")]
    Dead { partition: usize, node: NodeId },
    #[error("partition {partition} has {found} copies on different nodes instead of {asked}")]
    Copies { partition: usize, found: usize, asked: usize },
    #[error("partition {partition} has {found} copies in the rack of node {node}; {least} to {most} are right")]
    Rack { partition: usize, node: NodeId, found: usize, least: usize, most: usize },
    #[error("node {node} holds {found} copies; {least} to {most} are right")]
    Load { node: NodeId, found: usize, least: usize, most: usize },
    #[error("node {node} leads {found} partitions; {least} to {most} are right")]
    Roles { node: NodeId, found: usize, least: usize, most: usize },
}

/// The placement of `rule` on `members`, starting from the one so far.
pub fn place(members: &[Member], rule: Rule, previous: Option<&Placement>) -> Result<Placement, PlaceError> {
    let roster = Roster::new(members, rule)?;
    let ring = Ring::new(roster.ids.iter().copied().zip(roster.weights.iter().copied()));
    let shares = Shares::of(&roster);
    let mut board = Board::new(&roster, &ring, previous)?;
    board.trim(&shares);
    board.set_quotas(&shares);
    board.fill();
    augment::complete(&mut board);
    board.take();
    augment::relieve(&mut board);
    roles::even(&mut board);
    Ok(board.into_placement())
}

impl Placement {
    /// How many copies are on nodes that had none of that partition in `before`: what has to be sent.
    pub fn moved_from(&self, before: &Placement) -> usize {
        let pairs = self.partitions.iter().zip(&before.partitions);
        pairs.map(|(now, then)| now.nodes().filter(|&node| !then.nodes().any(|old| old == node)).count()).sum()
    }

    /// Checks everything that [`place`] guarantees of one placement for itself.
    pub fn validate(&self, members: &[Member], rule: Rule) -> Result<(), Fault> {
        let roster = Roster::new(members, rule)?;
        if self.partitions.len() != roster.partitions {
            return Err(PlaceError::Previous { found: self.partitions.len(), asked: roster.partitions }.into());
        }
        let (mut held, mut leads) = (vec![0; roster.nodes()], vec![0; roster.nodes()]);
        for (partition, copies) in self.partitions.iter().enumerate() {
            for node in check_copies(&roster, partition, copies)? {
                held[node as usize] += 1;
            }
            leads[roster.index_of(copies.primary).expect("it was checked") as usize] += 1;
        }
        let shares = Shares::of(&roster);
        for (index, &node) in roster.ids.iter().enumerate() {
            let (found, least, most) = (held[index], shares.floor(index), shares.ceil(index));
            if !(least..=most).contains(&found) {
                return Err(Fault::Load { node, found, least, most });
            }
            let (found, least, most) = (leads[index], found / roster.copies, found.div_ceil(roster.copies));
            if !(least..=most).contains(&found) {
                return Err(Fault::Roles { node, found, least, most });
            }
        }
        Ok(())
    }
}

/// Checks one partition for itself; the indices of its nodes.
fn check_copies(roster: &Roster, partition: usize, copies: &Copies) -> Result<Vec<u16>, Fault> {
    let index = |node: NodeId| roster.index_of(node).ok_or(Fault::Dead { partition, node });
    let held: Vec<u16> = copies.nodes().map(index).collect::<Result<_, _>>()?;
    let found = held.iter().collect::<BTreeSet<_>>().len();
    if found != held.len() || found != roster.copies {
        return Err(Fault::Copies { partition, found, asked: roster.copies });
    }
    for (rack, Rack { nodes, least, most }) in (0..).zip(&roster.racks) {
        let found = roster.in_rack(&held, rack);
        if !(least..=most).contains(&&found) {
            return Err(Fault::Rack {
                partition,
                node: roster.ids[nodes[0] as usize],
                found,
                least: *least,
                most: *most,
            });
        }
    }
    Ok(held)
}
