//! What becomes of transactions over several partitions when their primary is lost in the middle of them: a part of raft's state.
//!
//! A node executes such a transaction on several of the partitions that it leads. If it dies then, each of these gets a new
//! primary, which has received the transaction or not; together they must keep it or drop it. Whoever has received it cannot know
//! alone: it was acknowledged if all followers had it, and else others may lack it.
//!
//! A node sends its log to each follower in order, so what a follower has of it is one number. Each loss of roles that nobody
//! handed over makes a [`Settlement`]: it waits until all who were in sync in these partitions have said how far they had come
//! ([`Command::Reach`]). The lowest of these numbers is the *floor*. Up to it everybody has everything, and all of it is kept.
//! What spans partitions beyond it is dropped by all, with what came later in the same partition: nothing of that was
//! acknowledged, as a leader acknowledges a transaction over several partitions, and what comes behind it, when all its
//! followers have come so far ([`crate::streams::leader`]). If one had not even begun to follow a partition in that epoch, nothing
//! was acknowledged there, and what spans it is dropped as well.
//!
//! A node says so at once if it has ever received a transaction over several partitions, and else when somebody has asked, by saying
//! so first: without such transactions a failover costs no entry more. One that dies or starts anew before it has said so is
//! waited for no longer, and where others lead by then, it is in no in-sync set any more.
//!
//! Not covered, so that a transaction may be kept in part:
//! - a primary that is forced ([`Command::ForceLead`]); a full stop, after which nodes do not know how far they had come;
//! - a partition that no follower could lead at once, so that it waits for the one that was lost, or for another one that is dead;
//! - a new primary that is lost before it has said how far it had come;
//! - a primary that is lost together with the successor that it has ended something for ([`super::successors`]), before raft knew;
//! - a primary that is lost in the moment after it was handed another partition, before those who follow that have begun to: of two
//!   transactions in that moment that share a partition, the first may be dropped because it is in the other partition as well, and
//!   take a part of the second with it.
//!
//! Pure. Invariants ([`Settlements::validate`]): those who have spoken are waited for; there is a floor exactly if nobody is waited for
//! who has not spoken; all together name no more losses than there are partitions: those of the last command are all kept, and earlier
//! ones as far as there is room, what is decided going first.
//!
//! [`Command::Reach`]: super::command::Command::Reach
//! [`Command::ForceLead`]: super::command::Command::ForceLead

use rkyv::{Archive, Deserialize, Serialize};

use super::command::{COUNT_MAX, Epoch, Move, NodeId, PARTITIONS_MAX, PartitionId};

/// The version of the formats with which this came.
pub const SETTLING_VERSION: u8 = 4;

/// An index in the log of a node. What is not known counts as [`COUNT_MAX`]: it holds nobody back.
pub type Reached = u64;

/// What is to be known of the log of a primary that was lost.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// What it led, in order, and in which epoch. One process loses all that it leads at once.
    pub lost: Vec<Move>,
    /// Who was in sync there, ascending.
    pub waits_for: Vec<NodeId>,
    /// What these have said, ascending by node.
    pub reached: Vec<(NodeId, Reached)>,
    /// Partitions that one of them had not begun to follow, ascending.
    pub lacking: Vec<PartitionId>,
    /// The lowest of these numbers. None: somebody is waited for.
    pub floor: Option<Reached>,
}

/// See the module. The latest is the last.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Settlements(Vec<Settlement>);

/// What one primary has lost with a command.
struct Loss {
    primary: NodeId,
    lost: Vec<Move>,
    /// Of each partition, who was in sync beside it.
    in_sync: Vec<NodeId>,
}

/// What primaries have lost with a command.
#[derive(Default)]
pub(super) struct Losses(Vec<Loss>);

impl Losses {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, primary: NodeId, lost: Move, in_sync: &[NodeId]) {
        let at = self.0.iter().position(|loss| loss.primary == primary).unwrap_or_else(|| {
            self.0.push(Loss { primary, lost: Vec::new(), in_sync: Vec::new() });
            self.0.len() - 1
        });
        let loss = &mut self.0[at];
        loss.lost.push(lost);
        let known = loss.in_sync.len();
        loss.in_sync.extend(in_sync.iter().filter(|node| **node != primary));
        let (before, new) = loss.in_sync.split_at_mut(known);
        // Most often they are the same as before.
        if new.iter().all(|node| before.contains(node)) {
            loss.in_sync.truncate(known);
        }
    }
}

impl Settlement {
    /// Whether it is about what a process wrote of a partition in this epoch.
    pub fn concerns(&self, partition: PartitionId, epoch: Epoch) -> bool {
        let at = self.lost.binary_search_by_key(&partition, |lost| lost.partition);
        at.is_ok_and(|at| self.lost[at].epoch == epoch)
    }

    /// Whether something is kept whose frame ended with this index, and that spans these. None: it is not decided.
    pub fn keeps(&self, index: Reached, spans: &[Move]) -> Option<bool> {
        let floor = self.floor?;
        let is_lacking =
            |of: &Move| self.lacking.binary_search(&of.partition).is_ok() && self.concerns(of.partition, of.epoch);
        Some(index <= floor && !spans.iter().any(is_lacking))
    }

    /// Whether it waits for this node to say how far it had come.
    pub fn awaits(&self, node: NodeId) -> bool {
        self.waits_for.contains(&node) && self.takes(node)
    }

    /// Whether what this node says counts.
    pub fn takes(&self, node: NodeId) -> bool {
        self.floor.is_none() && !self.has_spoken(node)
    }

    /// Whether it waits for any of these to say how far it had come.
    pub fn waits_for_any(&self, is_one: impl Fn(NodeId) -> bool) -> bool {
        self.waits_for.iter().any(|node| is_one(*node) && self.takes(*node))
    }

    /// Whether somebody has said how far it had come: others are to say so, too.
    pub fn is_asked(&self) -> bool {
        !self.reached.is_empty()
    }

    fn has_spoken(&self, node: NodeId) -> bool {
        self.reached.iter().any(|(other, _)| *other == node)
    }

    fn settle(&mut self) {
        if self.floor.is_none() && self.waits_for.iter().all(|node| self.has_spoken(*node)) {
            self.floor = Some(self.reached.iter().map(|(_, reached)| *reached).min().unwrap_or(COUNT_MAX));
        }
    }

    fn validate(&self) -> Result<(), &'static str> {
        let Settlement { lost, waits_for, reached, lacking, floor } = self;
        if lost.len() < 2 || lost.len() > PARTITIONS_MAX {
            return Err("a loss of too little, or of too much");
        }
        if !lost.is_sorted_by(|a, b| a.partition < b.partition) || !waits_for.is_sorted_by(|a, b| a < b) {
            return Err("what was lost is not in order, or those who were in sync");
        }
        let is_lost = |id: &PartitionId| lost.iter().any(|lost| lost.partition == *id);
        if !lacking.is_sorted_by(|a, b| a < b) || !lacking.iter().all(is_lost) {
            return Err("what somebody lacked is not in order, or was not lost");
        }
        if !reached.is_sorted_by(|a, b| a.0 < b.0) || !reached.iter().all(|(node, _)| waits_for.contains(node)) {
            return Err("somebody says how far it had come who was not in sync");
        }
        let numbers = lost.iter().map(|lost| lost.epoch).chain(reached.iter().map(|(_, reached)| *reached));
        if numbers.chain(*floor).any(|number| number > COUNT_MAX) {
            return Err("a number that cannot have been reached");
        }
        if floor.is_some() != waits_for.iter().all(|node| self.has_spoken(*node)) {
            return Err("a floor that is not known, or is known and not said");
        }
        Ok(())
    }
}

impl Settlements {
    pub fn iter(&self) -> impl Iterator<Item = &Settlement> {
        self.0.iter()
    }

    /// That of what was written of a partition in this epoch.
    pub fn of(&self, partition: PartitionId, epoch: Epoch) -> Option<&Settlement> {
        self.0.iter().find(|settlement| settlement.concerns(partition, epoch))
    }

    /// Primaries have lost what they led, of so many partitions. What is in one partition is not cut in two, and what nobody has is
    /// not kept. Earlier losses for which there is no room are forgotten.
    pub(super) fn lose(&mut self, losses: Losses, is_gone: impl Fn(NodeId) -> bool, partitions: usize) {
        for Loss { lost, mut in_sync, .. } in losses.0 {
            in_sync.retain(|node| !is_gone(*node));
            in_sync.sort_unstable();
            in_sync.dedup();
            if lost.len() > 1 && !in_sync.is_empty() {
                let (reached, lacking) = Default::default();
                self.0.push(Settlement { lost, waits_for: in_sync, reached, lacking, floor: None });
            }
        }
        self.make_room(partitions);
    }

    /// How many losses of partitions these are about.
    fn count(&self) -> usize {
        self.0.iter().map(|settlement| settlement.lost.len()).sum()
    }

    /// Forgets what there is no room for. One command has lost each partition once at the most, and comes last.
    fn make_room(&mut self, partitions: usize) {
        let mut over = self.count().saturating_sub(partitions);
        for decided in [true, false] {
            self.0.retain(|settlement| {
                let goes = over > 0 && settlement.floor.is_some() == decided;
                over = over.saturating_sub(if goes { settlement.lost.len() } else { 0 });
                !goes
            });
        }
    }

    /// How far a node had come in the log of the one who led this in this epoch. What is said again changes nothing. One that
    /// was taken for dead, and came back to lead, is waited for again by that.
    pub(super) fn reach(&mut self, of: Move, node: NodeId, reached: Reached, lacking: &[PartitionId]) {
        let mut concerned = self.0.iter_mut().filter(|settlement| settlement.concerns(of.partition, of.epoch));
        if let Some(settlement) = concerned.find(|settlement| settlement.takes(node)) {
            if let Err(at) = settlement.waits_for.binary_search(&node) {
                settlement.waits_for.insert(at, node);
            }
            let at = settlement.reached.partition_point(|(other, _)| *other < node);
            settlement.reached.insert(at, (node, reached));
            let lost = &settlement.lost;
            let is_lost = |id: &&PartitionId| lost.iter().any(|lost| lost.partition == **id);
            settlement.lacking.extend(lacking.iter().filter(is_lost));
            settlement.lacking.sort_unstable();
            settlement.lacking.dedup();
            settlement.settle();
        }
    }

    /// These nodes are gone, or know nothing any more. What they have said stays said: others may have acted on it, and nothing was
    /// acknowledged beyond. Says in what it was waited for them.
    pub(super) fn forget(&mut self, is_gone: impl Fn(NodeId) -> bool) -> Vec<Move> {
        let mut concerned = Vec::new();
        for settlement in self.0.iter_mut().filter(|settlement| settlement.floor.is_none()) {
            let before = settlement.waits_for.len();
            let reached = &settlement.reached;
            let has_spoken = |node: NodeId| reached.iter().any(|(other, _)| *other == node);
            settlement.waits_for.retain(|node| !is_gone(*node) || has_spoken(*node));
            if settlement.waits_for.len() < before {
                concerned.extend_from_slice(&settlement.lost);
            }
            settlement.settle();
        }
        concerned
    }

    pub(super) fn validate(&self, partitions: usize) -> Result<(), &'static str> {
        if self.count() > partitions {
            return Err("more losses than are kept");
        }
        let known = |lost: &Move| usize::from(lost.partition) < partitions;
        if !self.0.iter().flat_map(|settlement| &settlement.lost).all(known) {
            return Err("a partition was lost that does not exist");
        }
        self.0.iter().try_for_each(Settlement::validate)
    }
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
