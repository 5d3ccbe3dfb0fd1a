//! Who leads: a part of the state's rules.
//!
//! Roles go to others as their primaries are lost ([`Command::Promote`]), as these give them away ([`Command::Lead`], and before that
//! [`Command::Name`] or [`Command::Keep`], [`crate::raft::successors`]), or by force ([`Command::ForceLead`]). What is lost with a primary is
//! noted for [`crate::raft::settle`].
//!
//! Pure.
//!
//! [`Command::Promote`]: crate::raft::command::Command::Promote
//! [`Command::Lead`]: crate::raft::command::Command::Lead
//! [`Command::Name`]: crate::raft::command::Command::Name
//! [`Command::Keep`]: crate::raft::command::Command::Keep
//! [`Command::ForceLead`]: crate::raft::command::Command::ForceLead

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Partition, State};
use crate::raft::command::{Force, Member, Move, Naming, NodeId, PartitionId, Refusal, Reply};
use crate::raft::settle::{Losses, Reached, SETTLING_VERSION};
use crate::raft::successors::{NAMING_VERSION, Successor};

impl State {
    pub(super) fn promote(&mut self, starts: u64, dead: &[Member], ready: &[Member]) -> Result<Reply, Refusal> {
        if starts != self.starts {
            return Err(Refusal::StaleStarts { starts: self.starts });
        }
        for member in dead.iter().chain(ready) {
            self.check_member(*member)?;
        }
        // Each is looked up for each partition, and there may be a thousand: sorted, so that this ends soon.
        let sorted = |members: &[Member]| {
            let mut nodes: Vec<NodeId> = members.iter().map(|member| member.node).collect();
            nodes.sort_unstable();
            nodes
        };
        let (dead, ready) = (sorted(dead), sorted(ready));
        let is_dead = |node: NodeId| dead.binary_search(&node).is_ok();
        let is_ready = |node: NodeId| ready.binary_search(&node).is_ok();
        let (mut promoted, mut stuck, mut losses) = (0, 0, Losses::default());
        // Who may have begun, and whether he can go on.
        let successors: BTreeMap<PartitionId, (Successor, bool)> = self.named(&is_dead).collect();
        for (number, shared) in (0..).zip(&mut self.partitions).filter(|(_, partition)| partition.epoch > 0) {
            let named = successors.get(&number);
            let (successor, is_gone) = (named.map(|named| named.0), named.is_some_and(|named| !named.1));
            let lives = shared.primary.is_some_and(|primary| !is_dead(primary));
            if lives && !is_gone {
                continue;
            }
            let (epoch, primary) = (shared.epoch, shared.primary);
            if let Some(successor) = successor.filter(|_| lives) {
                // It may have begun, and others may have received what it has written.
                if is_dead(successor.to.node) && !successor.gone {
                    losses.add(successor.to.node, Move { partition: number, epoch: successor.epoch }, &shared.in_sync);
                }
                Rc::make_mut(&mut self.successors).goes(number);
                continue;
            }
            let may_lead = |node: NodeId| match successor.filter(|_| !is_gone) {
                Some(successor) => successor.to.node == node && is_ready(node),
                None => is_ready(node),
            };
            let next = shared.in_sync.iter().copied().find(|node| may_lead(*node));
            match next {
                Some(node) => {
                    let partition = Rc::make_mut(shared);
                    partition.set_primary(Some(node), successor);
                    partition.narrow(|node| !is_dead(node));
                    promoted += 1;
                }
                // The set stays as it is: these, and nobody else, may lead it one day.
                None => {
                    if shared.primary.is_some() {
                        Rc::make_mut(shared).set_primary(None, successor);
                    }
                    stuck += 1;
                }
            }
            if is_gone || next.is_some() && successor.is_some() {
                Rc::make_mut(&mut self.successors).forget(number);
            }
            // Of both only what the primary has written counts as lost.
            if let Some(primary) = primary {
                losses.add(primary, Move { partition: number, epoch }, &shared.in_sync);
            }
        }
        self.settle(losses, is_dead);
        Ok(Reply::Promoted { promoted, stuck })
    }

    /// Who may take a role over, and whether he can: he is not dead, and has not started anew since.
    pub fn named(&self, is_dead: impl Fn(NodeId) -> bool) -> impl Iterator<Item = (PartitionId, (Successor, bool))> {
        self.successors.iter().map(move |(partition, successor)| {
            let same = self.member(successor.to.node) == Some(successor.to);
            let lives = same && !successor.gone && !is_dead(successor.to.node);
            (partition, (successor, lives))
        })
    }

    /// Primaries have lost what they led, and nobody waits any more for those who are gone: where others lead by now, they are in no
    /// in-sync set of what it was waited for them, so that they do not lead it with what they have.
    pub(super) fn settle(&mut self, losses: Losses, is_gone: impl Fn(NodeId) -> bool) {
        if self.orders.version() < SETTLING_VERSION {
            return;
        }
        if !losses.is_empty() {
            Rc::make_mut(&mut self.settlements).lose(losses, &is_gone, self.partitions.len());
        }
        if self.settlements.iter().all(|settlement| !settlement.waits_for_any(&is_gone)) {
            return;
        }
        for lost in Rc::make_mut(&mut self.settlements).forget(&is_gone) {
            let is_led = |is: &Partition| is.primary.is_some_and(|primary| !is_gone(primary));
            if let Some(partition) = self.placed_mut(lost.partition, is_led) {
                partition.narrow(|node| !is_gone(node));
            }
        }
    }

    pub(super) fn reach(
        &mut self,
        of: Move,
        by: Member,
        reached: Reached,
        lacking: &[PartitionId],
    ) -> Result<Reply, Refusal> {
        if self.orders.version() < SETTLING_VERSION {
            return Err(Refusal::Version { version: self.orders.version() });
        }
        self.check_member(by)?;
        Rc::make_mut(&mut self.settlements).reach(of, by.node, reached, lacking);
        Ok(Reply::Reached)
    }

    pub(super) fn lead(&mut self, moves: &[Move], to: Member) -> Result<Reply, Refusal> {
        self.check_member(to)?;
        let mut moved = 0;
        for Move { partition, epoch } in moves {
            // Who follows one that is lost must be ready, which only a promotion knows.
            let successor = self.successors.of(*partition);
            let fits = |is: &Partition| {
                let may = successor.is_none_or(|named| match named.gone {
                    false => named.to == to,
                    true => is.primary == Some(to.node),
                });
                is.epoch == *epoch && is.primary.is_some() && is.in_sync.contains(&to.node) && may
            };
            if let Some(is) = self.placed_mut(*partition, fits) {
                is.set_primary(Some(to.node), successor);
                moved += 1;
                if successor.is_some() {
                    Rc::make_mut(&mut self.successors).forget(*partition);
                }
            }
        }
        Ok(Reply::Moved { moved, stale: moves.len() as u32 - moved })
    }

    pub(super) fn name(&mut self, moves: &[Move], to: Member) -> Result<Reply, Refusal> {
        if self.orders.version() < NAMING_VERSION {
            return Err(Refusal::Version { version: self.orders.version() });
        }
        self.check_member(to)?;
        let mut named = 0;
        for Move { partition, epoch } in moves {
            let fits = |is: &&Partition| {
                is.epoch == *epoch
                    && is.primary.is_some_and(|primary| primary != to.node)
                    && is.in_sync.contains(&to.node)
            };
            if self.successors.of(*partition).is_none() && self.partition(*partition).filter(fits).is_some() {
                Rc::make_mut(&mut self.successors).name(*partition, *epoch, to);
                named += 1;
            }
        }
        Ok(Reply::Named { named, stale: moves.len() as u32 - named })
    }

    pub(super) fn keep(&mut self, namings: &[Naming]) -> Reply {
        let mut kept = 0;
        for naming in namings {
            // If the primary is gone, only the successor can lead.
            let has_primary = self.partition(naming.partition).is_some_and(|is| is.primary.is_some());
            if has_primary && self.successors.is_current(*naming) {
                Rc::make_mut(&mut self.successors).forget(naming.partition);
                kept += 1;
            }
        }
        Reply::Named { named: kept, stale: namings.len() as u32 - kept }
    }

    pub(super) fn force_lead(&mut self, forced: &[Force], to: Member, lost: &[NodeId]) -> Result<Reply, Refusal> {
        self.check_member(to)?;
        // All of them or none: who gives something up is to know what.
        for force in forced {
            self.check_force(force, to.node, lost)?;
        }
        for Force { partition: id, from_nothing, .. } in forced {
            let successor = self.successors.of(*id);
            let partition = self.placed_mut(*id, |_| true).ok_or(Refusal::UnknownPartition(*id))?;
            partition.in_sync = vec![to.node];
            partition.in_sync_version += 1;
            partition.set_primary(Some(to.node), successor);
            partition.from_nothing = *from_nothing;
            if successor.is_some() {
                Rc::make_mut(&mut self.successors).forget(*id);
            }
        }
        Ok(Reply::Forced { partitions: forced.len() as u32 })
    }

    fn check_force(&self, force: &Force, to: NodeId, lost: &[NodeId]) -> Result<(), Refusal> {
        let id = force.partition;
        let partition = self.partition(id).filter(|partition| partition.epoch > 0);
        let partition = partition.ok_or(Refusal::UnknownPartition(id))?;
        if let Some(primary) = partition.primary {
            return Err(Refusal::HasPrimary { partition: id, primary });
        }
        if partition.epoch != force.epoch {
            return Err(partition.stale(id));
        }
        if !partition.replicas.contains(&to) {
            return Err(Refusal::NotAReplica { partition: id, node: to });
        }
        // What somebody has who may come back is not given up.
        match partition.in_sync.iter().find(|node| **node != to && !lost.contains(node)) {
            Some(&node) => Err(Refusal::StillInSync { partition: id, node }),
            None => Ok(()),
        }
    }
}
