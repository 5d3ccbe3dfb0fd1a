//! Handovers in the simulator: data cores that hear of gates late, decisions that are heard late or not at all.
//!
//! Whoever gets a role must begin with exactly what was written by the one that gave it, acknowledged or not.

use super::World;
use super::node::Process;
use super::raft::Proposal;
use crate::cluster::Gate;
use crate::raft::command::{Command, Move};
use crate::streams::{Member, NodeId, PartitionId};

/// What a process knows of its roles that move.
#[derive(Debug, Default)]
pub struct Handing {
    /// Gates that are not open, as data cores know them.
    gates: Vec<(PartitionId, Gate)>,
    /// Decided in the entry of raft's log at this place.
    decisions: Vec<(usize, Vec<Move>)>,
}

impl Handing {
    fn gate(&self, partition: PartitionId) -> Gate {
        self.gates.iter().find(|(p, _)| *p == partition).map_or(Gate::Open, |(_, gate)| *gate)
    }
}

impl Process {
    /// Whether data cores execute anything of a partition that is led.
    pub fn executes(&self, partition: PartitionId) -> bool {
        self.handing.gate(partition) != Gate::Closed
    }
}

impl World {
    /// Data cores hear of gates.
    pub fn see_gates(&mut self, n: NodeId) {
        let process = self.process(n);
        let gates = |p: &PartitionId| Some((*p, process.leader.gate(*p).unwrap_or(Gate::Closed)));
        process.handing.gates = process.open.keys().filter_map(gates).filter(|(_, gate)| *gate != Gate::Open).collect();
        let seen = process.leader.gates();
        self.on_leader(n, |leader, _, out| leader.gates_seen(seen, out));
    }

    /// An operator wants a role to be elsewhere.
    pub fn ask_for_role(&mut self) {
        let p = self.random.below(super::PARTITIONS as u64) as PartitionId;
        let known = self.raft.agreed.partition(p).expect("it is placed").clone();
        let (Some(primary), Some(to)) = (known.primary, self.random.pick(&known.in_sync)) else { return };
        if self.works(primary)
            && let Some(&to) = self.raft.members(&[to]).first()
        {
            let moves = [Move { partition: p, epoch: known.epoch }];
            self.on_leader(primary, |leader, now, out| {
                leader.hand_over(now, &moves, to, 1, out);
            });
        }
    }

    pub fn propose_handover(&mut self, n: NodeId, moves: Vec<Move>, to: Member) {
        for change in moves.iter().filter(|_| to.node != n) {
            let data = self.process(n).data[change.partition as usize].clone();
            self.handed.insert((change.partition, change.epoch + 1), (to.node, data));
        }
        let (at_ms, boot) = (self.now_ms + self.delay_ms(), self.node(n).boot);
        if self.quiet || !self.random.chance(10) {
            let command = Command::Lead { moves, to };
            self.raft.proposals.push(Proposal { at_ms, from: n, boot, command, change: None });
        }
    }

    /// The last entry of raft's log decides on a proposal of this node.
    pub fn note_decision(&mut self, n: NodeId, boot: u64, command: &Command) {
        let Command::Lead { moves, .. } = command else { return };
        let end = self.raft.log.len();
        if self.node(n).boot == boot
            && (self.quiet || self.random.chance(70))
            && let Some(process) = &mut self.node(n).process
        {
            process.handing.decisions.push((end, moves.clone()));
        }
    }

    /// A node knows raft's log up to here.
    pub fn tell_decisions(&mut self, n: NodeId, known: usize) {
        let decisions = &mut self.process(n).handing.decisions;
        let heard: Vec<(usize, Vec<Move>)> = decisions.extract_if(.., |(at, _)| *at <= known).collect();
        for (_, moves) in heard {
            self.on_leader(n, |leader, _, out| leader.decided(&moves, out));
            for change in moves {
                let leader = &self.process(n).leader;
                let leads = leader.leads(change.partition).is_some_and(|(epoch, ..)| epoch == change.epoch);
                if leads && leader.gate(change.partition) == Some(Gate::Open) {
                    self.handed.remove(&(change.partition, change.epoch + 1));
                }
            }
        }
    }

    /// Whoever was given a role begins with what the other one ended with.
    pub fn judge_handed(&mut self, n: NodeId, p: PartitionId, epoch: u64) {
        if let Some((to, data)) = self.handed.remove(&(p, epoch))
            && to == n
        {
            self.seen.handed += 1;
            assert_eq!(self.process(n).data[p as usize], data, "node {n} was given {p} in epoch {epoch}");
        }
    }
}
