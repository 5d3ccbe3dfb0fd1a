//! Transactions over several partitions in the simulator: a failover keeps all of one, or nothing.
//!
//! Not where raft's state promises nothing ([`crate::raft::settle`]): in a world whose operator takes roles from nodes that live, and
//! do not know; for what is given by force; for what was written when nobody has kept the memory of a partition, when
//! somebody is lost who has not said how far it had come, or until somebody leads again what nobody else could lead.

use super::World;
use super::raft::Proposal;
use crate::raft::command::{Command, Member, Move};
use crate::raft::state::State;
use crate::streams::{Index, NodeId, PartitionId};

impl World {
    /// A node says how far it had come.
    pub fn propose_reached(&mut self, n: NodeId, of: Move, reached: Index, lacking: Vec<PartitionId>) {
        self.seen.reached += 1;
        if let Some(around) = &self.around {
            return around.reach(n, of, reached, lacking);
        }
        let incarnation = self.node(n).state.node(n).expect("it is registered").incarnation;
        let (at_ms, boot) = (self.now_ms + self.delay_ms(), self.node(n).boot);
        let by = Member { node: n, incarnation };
        if self.quiet || !self.random.chance(10) {
            let command = Command::Reach { of, by, reached, lacking };
            self.raft.proposals.push(Proposal { at_ms, from: n, boot, command, change: None });
        }
    }

    /// Of what was written so far, nothing is promised that spans this partition and others.
    pub fn tear(&mut self, p: PartitionId) {
        let torn = &mut self.torn[usize::from(p)];
        *torn = self.last_number.max(*torn);
    }

    /// What was agreed has changed. Somebody may be waited for no longer who has not said how far it had come. And if nobody could
    /// be promoted for a partition, it may go back to the node that was lost, with all that that has.
    pub fn note_losses(&mut self, before: &State) {
        let after = self.raft.agreed.clone();
        for (p, known) in after.partitions().iter().enumerate() {
            self.stuck[p] |= known.primary.is_none();
        }
        for settlement in before.settlements().iter() {
            let now = after.settlements().iter().find(|now| now.lost == settlement.lost);
            let awaited = settlement.waits_for.iter().filter(|node| settlement.awaits(**node));
            if awaited.into_iter().any(|node| now.is_none_or(|now| !now.waits_for.contains(node))) {
                settlement.lost.iter().for_each(|lost| self.tear(lost.partition));
            }
        }
    }

    /// Somebody leads.
    pub fn is_led(&mut self, p: PartitionId) {
        if std::mem::take(&mut self.stuck[usize::from(p)]) {
            self.tear(p);
        }
    }

    /// At rest, all parts of a transaction are there, or none.
    pub fn judge_spans(&mut self) {
        if self.moves_roles {
            return;
        }
        for (number, partitions) in std::mem::take(&mut self.spans) {
            if partitions.iter().any(|p| number <= self.torn[usize::from(*p)]) {
                continue;
            }
            let has = |p: &PartitionId| {
                let primary = self.raft.agreed.partition(*p).and_then(|known| known.primary)?;
                Some(self.settled(primary, *p)?.1.contains(&number))
            };
            let kept: Vec<Option<bool>> = partitions.iter().map(has).collect();
            assert!(kept.iter().all(|other| *other == kept[0]), "{number} is in some of {partitions:?}: {kept:?}");
            if kept[0] == Some(true) {
                self.seen.spans_kept += 1;
            } else {
                self.seen.spans_dropped += 1;
            }
        }
    }
}
