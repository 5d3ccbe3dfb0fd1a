//! What must be so, after every step and in the end.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::rc::Rc;

use super::executor::Process;
use super::node::Member;
use super::{CALM_NS, PARTITIONS, World};
use crate::raft::command::{Command, Epoch, Incarnation, NodeId, Reply};
use crate::raft::state::State;
use crate::raft::types::{Entry, LogId, Payload};

/// Between two looks whether all data is at rest.
const LOOK_NS: u64 = 50_000_000;

/// What is known of all that was agreed on.
#[derive(Default)]
pub struct Judge {
    /// All entries that anybody has applied.
    entries: Vec<LogId>,
    /// What they come to.
    state: State,
    /// Who votes; while that changes, all who do before or after.
    voters: BTreeSet<NodeId>,
    /// Processes that have said that they are ready.
    ready: BTreeSet<(NodeId, Incarnation)>,
    /// The latest epoch in which somebody was answered.
    answered: [Epoch; PARTITIONS as usize],
}

impl Member {
    /// In which epoch this process serves a partition now.
    pub fn serves(&self, partition: u16) -> Option<Epoch> {
        let leads = |epoch: &Epoch| self.world.data.as_ref().is_none_or(|data| data.leads(self.me, partition, *epoch));
        self.may_serve(partition).filter(leads)
    }

    /// In which epoch it may, by its lease, and by what those who serve know.
    pub fn may_serve(&self, partition: u16) -> Option<Epoch> {
        let (executor, process) = (&self.caller.network.executor, self.caller.process);
        let now_ms = executor.shown_ns(process) / 1_000_000;
        let shown = self.shown.borrow();
        let ahead = self.ahead.borrow();
        let ahead = if ahead.is_empty() { None } else { Some(shown.ahead(ahead.gone(&shown, self.me))) };
        let is = ahead.as_ref().unwrap_or(&shown).partition(partition)?;
        let known = shown.node(self.me).is_some_and(|node| node.boot == self.boot);
        let runs = executor.is_alive(process) && !executor.is_suspended(process);
        let open = !self.is_closed(partition, is.epoch);
        (known && open && runs && is.primary == Some(self.me) && now_ms < self.lease_ends_ms.get()).then_some(is.epoch)
    }
}

impl World {
    /// Something about the state that was agreed on.
    pub fn judged<T>(&self, about: impl FnOnce(&State) -> T) -> T {
        about(&self.judge.borrow().state)
    }

    /// How many vote.
    pub fn voters(&self) -> usize {
        self.judge.borrow().voters.len()
    }

    /// A process has done something, or goes on.
    pub fn look_at(&self, process: Process) {
        let Some(member) = self.member(process) else { return };
        self.judge_applied(&member);
        for partition in 0..PARTITIONS {
            if member.serves(partition).is_none() {
                continue;
            }
            let members = self.members.borrow();
            let serving: Vec<&Rc<Member>> = members.iter().filter(|other| other.serves(partition).is_some()).collect();
            if serving.len() > 1 {
                let who: Vec<(NodeId, Process)> = serving.iter().map(|by| (by.me, by.caller.process)).collect();
                self.accuse(|| format!("partition {partition} is served by {who:?}"));
            }
        }
    }

    /// What a process has applied, all have.
    fn judge_applied(&self, member: &Member) {
        let Some(applied) = member.reader.applied() else { return };
        let judged = self.judge.borrow().entries.len() as u64;
        if applied.index < judged {
            let known = self.judge.borrow().entries[applied.index as usize];
            if known != applied {
                self.accuse(|| format!("node {} has applied {applied}, others {known}", member.me));
            }
            return;
        }
        let new: RangeInclusive<u64> = judged..=applied.index;
        let entries = member.log.entries(new.clone());
        if entries.len() as u64 != applied.index + 1 - judged {
            return self.accuse(|| format!("node {} has applied {new:?}, and has not got that", member.me));
        }
        entries.into_iter().for_each(|entry| self.judge_entry(member, entry));
        if !self.judged(|state| *state == *member.reader.state()) {
            self.accuse(|| format!("node {} has made something else of {applied}", member.me));
        }
    }

    /// Whether an entry may change what it does.
    fn judge_entry(&self, member: &Member, entry: Entry) {
        let judge = &mut *self.judge.borrow_mut();
        let before = judge.state.clone();
        let last = judge.entries.last().copied();
        judge.entries.push(entry.log_id);
        if last.is_none_or(|last| last.leader_id != entry.log_id.leader_id) {
            self.note(|seen| seen.terms += 1);
        }
        self.note(|seen| seen.entries += 1);
        let command = match entry.payload {
            Payload::Normal(command) => command,
            Payload::Membership(membership) => {
                self.say(|| format!("{}: members {membership}", entry.log_id));
                judge.voters = membership.voter_ids().collect();
                return self.note(|seen| seen.memberships += 1);
            }
            Payload::Blank => return self.say(|| format!("{}: a leader begins", entry.log_id)),
        };
        let reply = judge.state.apply(&command);
        self.data.iter().for_each(|data| data.tell(|data| data.is_agreed(&judge.state)));
        self.say(|| format!("{} at node {}: {command}: {reply:?}", entry.log_id, member.me));
        if let Err(why) = judge.state.validate() {
            self.accuse(|| why.into());
        }
        match command {
            Command::Remove { node } if reply == Reply::Removed && !before.orders().leaves(node) => {
                return self.accuse(|| format!("node {node} is removed, and was not to leave"));
            }
            Command::Place { .. } => self.note(|seen| seen.placements += 1),
            Command::Promote { .. } => self.note(|seen| seen.promotions += 1),
            _ => return,
        }
        for (was, is) in before.partitions().iter().zip(judge.state.partitions()) {
            let Some(primary) = is.primary.filter(|_| was.epoch > 0 && was.epoch != is.epoch) else { continue };
            let incarnation = judge.state.node(primary).map_or(0, |node| node.incarnation);
            if !was.in_sync.contains(&primary) || !judge.ready.contains(&(primary, incarnation)) {
                self.accuse(|| format!("node {primary} was promoted, and was not in sync or not ready"));
            }
        }
    }

    /// A process says that it has what its node is in sync for.
    pub fn is_ready(&self, member: &Member) {
        let incarnation = member.reader.state().node(member.me).map_or(0, |node| node.incarnation);
        self.judge.borrow_mut().ready.insert((member.me, incarnation));
    }

    /// A reply leaves.
    pub fn answers(&self, member: &Member, partition: u16, epoch: Epoch) {
        self.note(|seen| seen.replies += 1);
        let answered = &mut self.judge.borrow_mut().answered[usize::from(partition)];
        if epoch < *answered {
            let latest = *answered;
            self.accuse(|| {
                format!(
                    "node {} answers in epoch {epoch} of partition {partition}: it was served in {latest}",
                    member.me
                )
            });
        }
        *answered = (*answered).max(epoch);
    }

    /// All are healed, but perhaps one that stays dead; then all that can be served is served soon.
    pub fn judge_the_end(self: &Rc<World>) -> Result<(), String> {
        self.heal();
        let end_ns = self.executor.now_ns() + CALM_NS;
        while let Some(why) = self.unrest() {
            let now_ns = self.executor.now_ns();
            if now_ns >= end_ns {
                return Err(format!("no rest: {why}"));
            }
            self.run_until(now_ns + LOOK_NS, |_| false)?;
        }
        Ok(())
    }

    /// Why it is not at rest.
    fn unrest(&self) -> Option<String> {
        let members = self.network.members();
        let state = self.judge.borrow().state.clone();
        for (partition, is) in (0..).zip(state.partitions()) {
            let is_there = |id: &NodeId| members.iter().any(|member| member.me == *id);
            let can = is.in_sync.iter().any(is_there);
            if can && !members.iter().any(|member| member.serves(partition).is_some()) {
                return Some(format!("partition {partition} is not served: {is:?}"));
            }
        }
        self.data.as_ref().and_then(|data| data.unrest())
    }
}
