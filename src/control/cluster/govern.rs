//! The shell of the machines in [`crate::raft::govern`]: leases for this node, and what it decides while it leads raft.
//!
//! Owned by the control core.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::ProgressResponder;
use openraft_rt::{Instant as _, WatchReceiver};

use super::Member;
use crate::cluster::{self, NodeId};
use crate::control::Control;
use crate::raft::command::Command;
use crate::raft::govern::{Action, LeaseAnswer, LeaseRefusal, LeaseRequest, Members, Outcome, Seen, Ticket, outlast};
use crate::raft::runtime::Instant;
use crate::raft::state::Partition;
use crate::raft::types::{Peer, Types};
use crate::shard::SteadyMs;

/// How often the machines hear of the time.
const TICK: Duration = Duration::from_millis(10);

/// How long an answer to a request for a lease is waited for: later it would be worth nothing.
const LEASE_PATIENCE: Duration = Duration::from_millis(250);

/// How long a change of raft's membership may take.
const MEMBERSHIP_PATIENCE: Duration = Duration::from_secs(10);

/// As which leader a node leads: the term, and the node.
pub(super) type LeaderId = openraft::type_config::alias::CommittedLeaderIdOf<Types>;

impl Control {
    /// Runs the machines for as long as the node is a member.
    pub(super) fn govern(self: &Rc<Self>, member: &Rc<Member>) {
        let governed = Rc::clone(member);
        glommio::spawn_local(async move {
            // A voter that has just started has forgotten whom it has promised not to vote for others: it began without
            // elections.
            let silence_ms = outlast(i64::from(governed.election_ms)) as u64;
            glommio::timer::sleep(Duration::from_millis(silence_ms)).await;
            governed.votes.set(true);
            governed.raft.runtime_config().elect(true);
        })
        .detach();
        let (control, governed) = (Rc::clone(self), Rc::clone(member));
        glommio::spawn_local(async move {
            while !governed.stopped.get() {
                control.tick_govern(&governed);
                control.tick_streams();
                glommio::timer::sleep(TICK).await;
            }
        })
        .detach();
    }

    pub(super) fn now_ms(&self) -> SteadyMs {
        self.node.clock.clone().now().steady_ms
    }

    fn tick_govern(self: &Rc<Self>, member: &Rc<Member>) {
        let now_ms = self.now_ms();
        self.follow_leadership(member, now_ms);
        self.let_governor_decide(member);
        self.ask_for_lease(member, now_ms);
        self.renew_lease(member);
    }

    /// Tells the governor whether it is in charge.
    fn follow_leadership(&self, member: &Rc<Member>, now_ms: SteadyMs) {
        let leader = member.raft.as_leader().ok().filter(|_| !member.yields_raft.get());
        let leader = leader.map(|leader| leader.to_committed_leader_id());
        let applied = member.reader.applied().map(|id| id.leader_id);
        let mut governor = member.governor.borrow_mut();
        match leader {
            Some(leader) if member.leading_as.get() == Some(leader) && governor.leads() => {}
            Some(leader) if applied == Some(leader) => {
                tracing::info!(node = member.me, "leads raft");
                governor.lead(now_ms);
                member.leading_as.set(Some(leader));
            }
            _ if governor.leads() => {
                tracing::info!(node = member.me, "leads raft no longer");
                governor.resign();
                member.leading_as.set(None);
            }
            _ => {}
        }
    }

    fn let_governor_decide(self: &Rc<Self>, member: &Rc<Member>) {
        if !member.governor.borrow().leads() {
            return;
        }
        let (voters, nodes, settled) = members_of(member);
        let actions = {
            let state = member.reader.state();
            let seen = Seen {
                state: &state,
                applied: member.applied(),
                quorum_ms: self.quorum_ms(member),
                members: Members { voters: &voters, nodes: &nodes, settled },
            };
            let config = self.config();
            let mut governor = member.governor.borrow_mut();
            let replace_after_ms = crate::raft::govern::REPLACE_AFTER_MS;
            governor.set_placement(usize::from(config.cluster_copies), 1, replace_after_ms);
            governor.tick(self.now_ms(), &seen)
        };
        for action in actions {
            self.do_govern(member, action);
        }
    }

    /// When the last heartbeat was sent that a quorum has acknowledged.
    fn quorum_ms(&self, member: &Member) -> Option<SteadyMs> {
        let metrics = member.raft.metrics();
        let metrics = metrics.borrow_watched();
        let now_ms = self.now_ms();
        if metrics.membership_config.membership().voter_ids().eq([member.me]) {
            return Some(now_ms);
        }
        let sent = metrics.last_quorum_acked?;
        let ago = Instant::now() - *sent;
        // One more, as both are cut to whole milliseconds.
        Some(now_ms.saturating_sub(ago.as_millis() as i64 + 1))
    }

    fn do_govern(self: &Rc<Self>, member: &Rc<Member>, action: Action) {
        let leader = member.leading_as.get();
        let (control, member) = (Rc::clone(self), Rc::clone(member));
        glommio::spawn_local(async move {
            match action {
                Action::Propose { ticket, command } => {
                    tracing::info!(%command, "the leader proposes");
                    let outcome = member.propose_as_leader(leader, command).await;
                    control.govern_done(&member, ticket, outcome);
                }
                Action::AddLearner { ticket, node, peer } => {
                    let change = ChangeMembers::AddNodes(BTreeMap::from([(node, peer)]));
                    control.change_members(&member, ticket, change).await;
                }
                Action::SetPeer { ticket, node, peer } => {
                    let change = ChangeMembers::SetNodes(BTreeMap::from([(node, peer)]));
                    control.change_members(&member, ticket, change).await;
                }
                Action::RemoveLearner { ticket, node } => {
                    let change = ChangeMembers::RemoveNodes(BTreeSet::from([node]));
                    control.change_members(&member, ticket, change).await;
                }
                Action::ChangeVoters { ticket, voters } => {
                    let change = ChangeMembers::ReplaceAllVoters(voters);
                    control.change_members(&member, ticket, change).await;
                }
                Action::AskForRoles { primary, request } => control.ask_for_roles(&member, primary, request),
                Action::Plan { ticket, members, rule, previous } => {
                    // For many nodes that takes a while, during which this core has leases to grant.
                    let planning = move || cluster::place(&members, rule, previous.as_ref());
                    let placement = glommio::executor().spawn_blocking(planning).await;
                    member.governor.borrow_mut().planned(ticket, placement);
                    control.let_governor_decide(&member);
                }
            }
        })
        .detach();
    }

    fn govern_done(self: &Rc<Self>, member: &Rc<Member>, ticket: Ticket, outcome: Outcome) {
        member.governor.borrow_mut().done(ticket, &outcome);
        self.let_governor_decide(member);
    }

    async fn change_members(self: &Rc<Self>, member: &Rc<Member>, ticket: Ticket, change: ChangeMembers<NodeId, Peer>) {
        tracing::info!(?change, "the members of raft change");
        let changing = async { Ok::<_, glommio::GlommioError<()>>(member.raft.change_membership(change, true).await) };
        let outcome = match glommio::timer::timeout(MEMBERSHIP_PATIENCE, changing).await {
            Ok(Ok(_)) => Outcome::Done,
            Ok(Err(RaftError::APIError(error))) => {
                tracing::info!(%error, "the members of raft do not change");
                Outcome::Failed
            }
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        };
        self.govern_done(member, ticket, outcome);
    }

    /// A node asks this one for a lease.
    pub(super) fn grant_lease(self: &Rc<Self>, request: &LeaseRequest) -> LeaseAnswer {
        let Some(member) = self.member() else { return LeaseAnswer::Refused(LeaseRefusal::NotLeading) };
        let now_ms = self.now_ms();
        self.follow_leadership(&member, now_ms);
        let (applied, quorum_ms) = (member.applied(), self.quorum_ms(&member));
        let state = member.reader.state();
        member.governor.borrow_mut().request(now_ms, &state, applied, quorum_ms, request)
    }

    /// Whether this node may be given what it is in sync for: it has that, can write, and is not about to end.
    fn is_ready(&self, member: &Member) -> bool {
        let streams = member.streams.borrow();
        let Some(streams) = &*streams else { return false };
        let state = member.reader.state();
        let lacks = |(id, partition): (u16, &Partition)| {
            let may_lead = partition.in_sync.contains(&member.me) && partition.epoch > 1;
            may_lead && !streams.leading.has(id) && !streams.follower.is_complete(id)
        };
        let writes = self.log.borrow().standing.disk_error.is_none();
        writes && !member.leaving.get() && !(0..).zip(state.partitions()).any(lacks)
    }

    fn ask_for_lease(self: &Rc<Self>, member: &Rc<Member>, now_ms: SteadyMs) {
        if !member.registered.get() {
            return;
        }
        let leader = member.raft.metrics().borrow_watched().current_leader;
        if member.asked.replace(leader) != leader {
            member.tenant.borrow_mut().hurry();
        }
        let Some(leader) = leader.filter(|_| now_ms >= member.tenant.borrow().due_ms()) else { return };
        let incarnation = member.reader.state().node(member.me).map_or(0, |node| node.incarnation);
        let request = LeaseRequest {
            node: member.me,
            incarnation,
            boot: member.boot,
            applied: member.applied(),
            ready: self.is_ready(member),
        };
        if request.check().is_err() {
            return;
        }
        let ticket = member.tenant.borrow_mut().sent(self.now_ms());
        if leader == member.me {
            let answer = self.grant_lease(&request);
            return self.lease_answered(member, ticket, answer);
        }
        let peer = member.raft.metrics().borrow_watched().membership_config.membership().get_node(&leader).cloned();
        let Some(peer) = peer else { return };
        let (control, member) = (Rc::clone(self), Rc::clone(member));
        glommio::spawn_local(async move {
            match member.bus.ask_for_lease(leader, &peer, request, LEASE_PATIENCE).await {
                Ok(answer) => control.lease_answered(&member, ticket, answer),
                Err(error) => tracing::debug!(%error, leader, "no answer to a request for a lease"),
            }
        })
        .detach();
    }

    fn lease_answered(self: &Rc<Self>, member: &Rc<Member>, ticket: u64, answer: LeaseAnswer) {
        if let LeaseAnswer::Refused(why) = answer {
            tracing::debug!(%why, "no lease");
            if why == LeaseRefusal::Boot {
                tracing::error!(node = member.me, "another process is this node now: this one ends");
                self.node.end(crate::node::End::Now);
            }
        }
        let now_ms = self.now_ms();
        member.tenant.borrow_mut().answered(ticket, now_ms, answer);
        self.renew_lease(member);
    }

    /// Tells data cores until when they may serve. After a lease that has ended the next one begins with a new view: whoever
    /// has seen that has noticed the end of the other, and has shown nothing that was done behind it.
    fn renew_lease(self: &Rc<Self>, member: &Rc<Member>) {
        let (ends_ms, now_ms) = (member.tenant.borrow().ends_ms(), self.now_ms());
        if ends_ms <= now_ms {
            return;
        }
        let lease = &self.node.state.lease;
        if lease.is_valid_at(now_ms) {
            return lease.set(ends_ms);
        }
        let begins_with = member.begins_with.get().unwrap_or_else(|| self.show_new_view());
        member.begins_with.set(Some(begins_with));
        if self.log.borrow().seen_by_all() >= begins_with {
            tracing::info!(node = member.me, "this node has a lease");
            member.begins_with.set(None);
            lease.set(ends_ms);
        }
    }

    /// Whether a node is taken for dead: by the leader of raft, if that is this node; else one that is to have copies, and is in
    /// sync nowhere.
    pub(super) fn is_dead(&self, node: NodeId) -> bool {
        let Some(member) = self.member() else { return false };
        if let Some(status) = member.governor.borrow().status(self.now_ms()) {
            return status.nodes.iter().any(|known| known.node == node && !known.alive);
        }
        let state = member.reader.state();
        let has = |partition: &Partition| partition.replicas.contains(&node);
        let is_in_sync = |partition: &Partition| partition.in_sync.contains(&node);
        state.partitions().iter().any(has) && !state.partitions().iter().any(is_in_sync)
    }
}

/// Raft's membership: voters, all nodes, and whether nothing of it is half done.
fn members_of(member: &Member) -> (BTreeSet<NodeId>, BTreeMap<NodeId, Peer>, bool) {
    let metrics = member.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = &metrics.membership_config;
    let (voters, nodes) = (membership.membership().voter_ids(), membership.membership().nodes());
    let committed = membership.log_id().as_ref().is_some_and(|at| member.reader.applied().is_some_and(|id| id >= *at));
    let settled = committed && membership.membership().get_joint_config().len() == 1;
    (voters.collect(), nodes.map(|(node, peer)| (*node, peer.clone())).collect(), settled)
}

impl Member {
    /// The index in raft's log that the state has.
    pub(super) fn applied(&self) -> u64 {
        self.reader.applied().map_or(0, |id| id.index)
    }

    /// Proposes a command to the own raft, in the term of the governor's lead and in no other.
    async fn propose_as_leader(&self, leader: Option<LeaderId>, command: Command) -> Outcome {
        let Some(leader) = leader else { return Outcome::Failed };
        let (responder, done) = ProgressResponder::complete_only();
        let written = self.raft.write(command).with_leader(leader).responder(responder).await;
        if written.is_err() {
            return Outcome::Failed;
        }
        match done.await {
            Ok(Ok(response)) => Outcome::Reply(response.data),
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => Outcome::Failed,
            _ => Outcome::Unknown,
        }
    }
}
