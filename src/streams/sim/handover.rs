//! Handovers in the simulator: data cores that hear of gates late, decisions that are heard late or not at all.
//!
//! Where successors are named, a role goes over when its primary has ended it, whatever raft's log says by then.
//!
//! Whoever gets a role must begin with exactly what was written by the one that gave it, acknowledged or not.

use super::World;
use super::node::Process;
use super::raft::Proposal;
use crate::cluster::Gate;
use crate::raft::command::{Command, Move};
use crate::raft::state::{Partition, State};
use crate::streams::leader::handover::Stage;
use crate::streams::message::Release;
use crate::streams::{Epoch, Member, NodeId, PartitionId};

/// What a process knows of its roles that move.
#[derive(Debug, Default)]
pub struct Handing {
    /// Gates that are not open, as data cores know them.
    gates: Vec<(PartitionId, Gate)>,
    /// Decided in the entry of raft's log at this place.
    decisions: Vec<(usize, Vec<Move>)>,
    /// Ended here, and successors are told: what the shell does then comes a little later.
    ended: Vec<Release>,
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

    /// Roles that move: from where, to where, and how far they are.
    fn moving(&self) -> Vec<(NodeId, NodeId, Stage)> {
        let leaders = (1..).zip(&self.nodes).filter_map(|(from, node)| Some((from, &node.process.as_ref()?.leader)));
        leaders.flat_map(|(from, leader)| leader.stages().map(move |(to, stage)| (from, to, stage))).collect()
    }

    /// Who hands over a role crashes, or who is to have it.
    pub fn crash_in_handover(&mut self) {
        let moving = self.moving();
        if let Some((from, to, _)) = self.random.pick(&moving) {
            let victim = if self.random.chance(50) { from } else { to };
            self.crash(victim);
        }
    }

    /// Notes at which steps of handovers this node is, as it is about to crash.
    pub fn note_steps(&mut self, n: NodeId) {
        for (from, to, stage) in self.moving() {
            if n == from || n == to {
                *self.seen.crashed_in.entry((stage.name(), n == from)).or_default() += 1;
            }
        }
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

    pub fn propose_in_passing(&mut self, n: NodeId, command: Command) {
        let (at_ms, boot) = (self.now_ms + self.delay_ms(), self.node(n).boot);
        if self.quiet || !self.random.chance(10) {
            self.raft.proposals.push(Proposal { at_ms, from: n, boot, command, change: None });
        }
    }

    /// Who may answer for a partition, and in which epoch.
    pub fn serving(&self, p: PartitionId, known: &Partition) -> (Option<NodeId>, Epoch) {
        match self.raft.agreed.successor(p).filter(|_| known.primary.is_some()) {
            Some(successor) if self.ended.contains(&(p, known.epoch)) => {
                (Some(successor.to.node).filter(|_| !successor.gone), successor.epoch)
            }
            _ => (known.primary, known.epoch),
        }
    }

    /// Raft's state as a node knows it, with what has gone over.
    pub fn state_of(&mut self, n: NodeId) -> State {
        let node = self.node(n);
        let Some(process) = &mut node.process else { return node.state.clone() };
        process.ahead.forget(&node.state);
        node.state.ahead(process.ahead.gone(&node.state, n))
    }

    /// A primary has ended what it led of these.
    pub fn note_ended(&mut self, n: NodeId, releases: Vec<Release>) {
        for &Release { partition, epoch, naming } in &releases {
            assert!(!self.process(n).executes(partition), "what is ended is closed");
            if self.is_entitled(n, partition, epoch) {
                let successor = self.raft.agreed.successor(partition).expect("raft has named it");
                assert_eq!(successor.number, naming, "it is ended for who is named now");
                let data = self.process(n).data[partition as usize].clone();
                self.handed.insert((partition, successor.epoch), (successor.to.node, data));
                self.ended.insert((partition, epoch));
            }
        }
        self.process(n).handing.ended.extend(releases);
    }

    /// It becomes one that follows.
    pub fn end_roles(&mut self, n: NodeId) {
        let ended = std::mem::take(&mut self.process(n).handing.ended);
        if !ended.is_empty() {
            self.goes_over(n, n, &ended);
        }
        if self.random.chance(30) {
            self.on_leader(n, |leader, now, out| leader.tell_others(now, out));
        }
    }

    /// A node hears that another one, or itself, has ended what it led.
    pub fn goes_over(&mut self, n: NodeId, by: NodeId, releases: &[Release]) {
        let now_ms = self.now_ms;
        self.process(n).ahead.note(now_ms, by, releases);
        self.tell_roles(n);
    }

    /// Raft is told of what has gone over.
    pub fn say_who_leads(&mut self, n: NodeId) {
        let now_ms = self.now_ms;
        let node = self.node(n);
        let Some(process) = &node.process else { return };
        let unsaid = process.ahead.unsaid(now_ms, &node.state, n);
        let boot = node.boot;
        for (to, moves) in unsaid {
            let at_ms = now_ms + self.delay_ms();
            if self.random.chance(20) {
                let command = Command::Lead { moves, to };
                self.raft.proposals.push(Proposal { at_ms, from: n, boot, command, change: None });
            }
        }
    }

    /// The last entry of raft's log decides on a proposal of this node.
    pub fn note_decision(&mut self, n: NodeId, boot: u64, command: &Command) {
        self.seen.kept += u64::from(matches!(command, Command::Keep { .. }));
        let Command::Lead { moves, to } = command else { return };
        let led_again =
            |change: &Move| self.raft.agreed.partition(change.partition).is_some_and(|is| is.epoch == change.epoch + 2);
        self.seen.led_again += u64::from(to.node == n && moves.iter().any(led_again));
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
            self.seen.gone_over += u64::from(self.raft.agreed.successor(p).is_some());
            assert_eq!(self.process(n).data[p as usize], data, "node {n} was given {p} in epoch {epoch}");
        }
    }
}
