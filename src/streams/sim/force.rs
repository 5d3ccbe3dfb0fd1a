//! The operator gives up what is lost: a partition that nobody leads goes to a node that has a copy, stale or incomplete.
//!
//! Nothing that was acknowledged before has to be there afterwards. All else holds as ever: copies with equal tails are equal, whoever
//! had more than the new leader loses it, and what is acknowledged from then on is kept.

use super::World;
use crate::raft::command::{Command, Force, Reply};
use crate::streams::{NodeId, PartitionId};

impl World {
    /// Whether a node that runs has all of a partition, as far as it knows.
    fn is_whole(&self, n: NodeId, p: PartitionId) -> bool {
        let process = self.nodes[n as usize - 1].process.as_ref();
        process.is_some_and(|process| process.leader.leads(p).is_some() || process.follower.is_complete(p))
    }

    /// A node that knows all that raft has agreed on leads by force. Once all is to come to rest, only what nobody else could lead.
    pub fn force_lead(&mut self) {
        let orphans = (0..).zip(self.raft.agreed.partitions()).filter(|(_, known)| known.primary.is_none());
        let orphans: Vec<PartitionId> = orphans.map(|(p, _)| p).collect();
        let Some(p) = self.random.pick(&orphans) else { return };
        let known = self.raft.agreed.partition(p).expect("it is placed").clone();
        let may_lead = |n: &NodeId| self.nodes[*n as usize - 1].process.is_none() || self.is_whole(*n, p);
        if self.quiet && known.in_sync.iter().any(may_lead) {
            return;
        }
        let Some(n) = self.random.pick(&known.replicas) else { return };
        let node = &self.nodes[n as usize - 1];
        if !self.works(n) || node.known < self.raft.log.len() {
            return;
        }
        let Some(&to) = self.raft.members(&[n]).first() else { return };
        let from_nothing = !self.is_whole(n, p);
        let forced = vec![Force { partition: p, epoch: known.epoch, from_nothing }];
        let command = Command::ForceLead { forced, to, lost: known.in_sync };
        let reply = self.raft.execute(command.clone());
        self.say(|| format!("agreed: {command:?} -> {reply:?}"));
        assert_eq!(reply, Reply::Forced { partitions: 1 });
        self.acked[p as usize].clear();
        self.acked_durable[p as usize].clear();
        self.torn[p as usize] = u64::MAX;
        self.seen.forced += 1;
        self.seen.emptied += u64::from(from_nothing);
    }
}
