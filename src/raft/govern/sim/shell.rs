//! What is around the machines of a node: it executes what they want, and has a model of who is in sync.

use std::collections::{BTreeMap, BTreeSet};

use super::{Message, Mistake, World};
use crate::raft::command::{COUNT_MAX, Command, InSyncChange, Member, NodeId};
use crate::raft::govern::{Action, Fault, LeaseRequest, Members, Outcome, Seen};
use crate::raft::stored::VERSION;
use crate::raft::testing::profile;
use crate::raft::types::Peer;

impl World {
    pub fn apply(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.commit <= node.applied {
            return;
        }
        node.applied = node.commit;
        node.tenant.applied(node.applied as u64);
        let done = node.proposed.extract_if(.., |(_, index)| *index <= node.applied);
        for (ticket, index) in done.collect::<Vec<_>>() {
            node.governor.done(ticket, &Outcome::Reply(self.replies[index - 1].clone()));
        }
    }

    /// The leader's part.
    pub fn govern(&mut self, n: usize, now_ms: i64) {
        let Some(leading) = self.nodes[n].leading.clone() else { return };
        if !self.nodes[n].governor.leads() {
            if leading.barrier == 0 {
                let barrier = self.append(n, None);
                if let Some(leading) = &mut self.nodes[n].leading {
                    leading.barrier = barrier;
                }
            } else if self.nodes[n].applied >= leading.barrier {
                self.nodes[n].governor.lead(now_ms);
                self.say(|| format!("node {n} governs"));
            }
            return;
        }
        let nodes: BTreeMap<NodeId, Peer> =
            (1..=self.nodes.len() as u64).map(|id| (id, Peer { host: "host".into(), bus_port: 16379 })).collect();
        let voters: BTreeSet<NodeId> = nodes.keys().copied().collect();
        let quorum_ms = self.quorum_ms(n);
        let node = &mut self.nodes[n];
        let seen = Seen {
            state: &self.states[node.applied],
            applied: node.applied as u64,
            quorum_ms,
            members: Members { voters: &voters, nodes: &nodes, settled: true },
        };
        for action in node.governor.tick(now_ms, &seen) {
            self.act(n, action);
        }
    }

    pub fn act(&mut self, n: usize, action: Action) {
        match action {
            Action::Propose { ticket, command } => {
                self.say(|| format!("node {n} proposes: {command:?}"));
                if self.random.chance(3) {
                    self.nodes[n].governor.done(ticket, &Outcome::Failed);
                    return;
                }
                let unknown = if self.mistake == Mistake::Of(Fault::AssumeRefused) { 60 } else { 20 };
                let index = self.append(n, Some(command));
                if self.storm && self.random.chance(unknown) {
                    self.nodes[n].governor.done(ticket, &Outcome::Unknown);
                    if let Some(leading) = &mut self.nodes[n].leading {
                        leading.barrier = 0;
                    }
                } else {
                    self.nodes[n].proposed.push((ticket, index));
                }
            }
            Action::Plan { ticket, members, rule, previous } => {
                let plan = crate::cluster::place(&members, rule, previous.as_ref());
                self.send(n, n, Message::Planned(ticket, plan));
            }
            // Roles that move while all live are simulated in [`crate::streams`].
            Action::AskForRoles { .. } | Action::LetLead { .. } => {}
            Action::AddLearner { ticket, .. }
            | Action::SetPeer { ticket, .. }
            | Action::RemoveLearner { ticket, .. }
            | Action::ChangeVoters { ticket, .. } => self.nodes[n].governor.done(ticket, &Outcome::Failed),
        }
    }

    /// The incarnation of this process, if its own state knows of it.
    pub fn incarnation(&self, n: usize) -> Option<u64> {
        let node = &self.nodes[n];
        let of_state = self.states[node.applied].node(n as u64 + 1)?;
        (of_state.boot == node.boot).then_some(of_state.incarnation)
    }

    pub fn ask(&mut self, n: usize, now_ms: i64) {
        let Some(incarnation) = self.incarnation(n) else { return };
        let knows_nobody = self.nodes[n].leader == n && self.nodes[n].leading.is_none();
        if now_ms < self.nodes[n].tenant.due_ms() || knows_nobody {
            return;
        }
        let ready = self.now_us >= self.nodes[n].since_us + 100_000;
        let node = &mut self.nodes[n];
        let (boot, applied) = (node.boot, node.applied as u64);
        let request = LeaseRequest { node: n as u64 + 1, incarnation, boot, applied, ready, speaks: VERSION.into() };
        let ticket = node.tenant.sent(now_ms);
        let to = node.leader;
        if ready {
            self.ready.insert((n as u64 + 1, incarnation));
        }
        assert!(request.check().is_ok() && applied < COUNT_MAX);
        self.send(n, to, Message::Ask { ticket, request });
    }

    pub fn register(&mut self, n: usize, now_ms: i64) {
        let node = &self.nodes[n];
        if self.incarnation(n).is_some() || now_ms < node.registers_ms {
            return;
        }
        let id = n as u64 + 1;
        let after = self.states[node.applied].node(id).map_or(0, |node| node.incarnation);
        let register =
            Command::Register { node: id, identity: n as u128, boot: node.boot, after, profile: profile("host") };
        let to = node.leader;
        self.nodes[n].registers_ms = now_ms + 50;
        self.send(n, to, Message::Propose(register));
    }

    /// A primary looks who is in sync.
    pub fn follow_up(&mut self, n: usize) {
        if !self.random.chance(20) {
            return;
        }
        let state = &self.states[self.nodes[n].applied];
        let there = |id: &NodeId| {
            let m = *id as usize - 1;
            let other = &self.nodes[m];
            other.runs(self.now_us) && !self.cut[n][m] && self.now_us > other.since_us + 150_000
        };
        let mut changes = Vec::new();
        for (partition, is) in (0..).zip(state.partitions()) {
            if !self.serves(n, partition) {
                continue;
            }
            let me = n as u64 + 1;
            let in_sync: Vec<NodeId> = is.replicas.iter().copied().filter(|id| *id == me || there(id)).collect();
            if in_sync != is.in_sync {
                let member = |id: &NodeId| state.member(*id);
                let in_sync: Vec<Member> = in_sync.iter().filter_map(member).collect();
                changes.push(InSyncChange { partition, epoch: is.epoch, version: is.in_sync_version, in_sync });
            }
        }
        if !changes.is_empty() {
            let to = self.nodes[n].leader;
            self.send(n, to, Message::Propose(Command::SetInSync { changes }));
        }
    }
}
