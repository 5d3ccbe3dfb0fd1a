//! How a node's machines are driven over its raft: the governor's part while it leads, and the tenant's always.
//!
//! The seat keeps what the shell owes the machines (see [`super`]). Whoever sits in it, a node or one that is simulated, says
//! what is around ([`Around`]), and calls [`Seat::tick`] every [`TICK`].
//!
//! Owned by the control core. Invariant: no borrow of a machine lives across an await, or while others are called.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::type_config::alias::CommittedLeaderIdOf;
use openraft_rt::{AsyncRuntime, Instant as _, WatchReceiver};

use super::{
    Action, Governor, HandOver, LeaseAnswer, LeaseRefusal, LeaseRequest, Members, Outcome, Seen, Settings, Status,
    Tenant, Ticket, outlast,
};
use crate::cluster;
use crate::raft::command::{Command, NodeId};
use crate::raft::runtime::Instant;
use crate::raft::state_machine::StateReader;
use crate::raft::types::{Peer, Raft, Runtime, Types};
use crate::shard::SteadyMs;

/// How often the machines hear of the time.
pub const TICK: Duration = Duration::from_millis(20);

/// How long an answer to a request for a lease is waited for: later it would be worth nothing.
pub const LEASE_PATIENCE: Duration = Duration::from_millis(250);

/// How long another node may take to lead raft, before it is looked who does.
const YIELD_PATIENCE: Duration = Duration::from_millis(300);

/// A leader that leaves asks others to lead so much apart: no lease is granted meanwhile.
const YIELD_PAUSE_MS: i64 = 5_000;

/// How long a change of raft's membership may take.
const MEMBERSHIP_PATIENCE: Duration = Duration::from_secs(10);

/// As which leader a node leads: the term, and the node.
type LeaderId = CommittedLeaderIdOf<Types>;

/// What is around a seat.
pub trait Around: Clone + 'static {
    fn seat(&self) -> &Seat;

    /// The boot-time clock.
    fn now_ms(&self) -> SteadyMs;

    /// The process is registered.
    fn is_registered(&self) -> bool;

    /// Whether this node may be given what it is in sync for: it has that, can write, and is not about to end.
    fn is_ready(&self) -> bool;

    /// Asks a node for roles that it has. With how many it has begun; None: it does not say.
    fn ask_for_roles(&self, primary: NodeId, request: HandOver) -> impl Future<Output = Option<u32>>;

    /// Copies of each partition, and how long a node is dead before others get its copies.
    fn placement(&self) -> (usize, u32);

    /// Asks another node for a lease.
    fn ask(&self, leader: NodeId, peer: Peer, request: LeaseRequest) -> impl Future<Output = Option<LeaseAnswer>>;

    /// Computes a placement: [`cluster::place`].
    fn place(
        &self,
        members: Vec<cluster::Member>,
        rule: cluster::Rule,
        previous: Option<cluster::Placement>,
    ) -> impl Future<Output = Result<cluster::Placement, cluster::PlaceError>>;

    /// The lease may end later than it did.
    fn renew_lease(&self);

    /// Another process is this node now: this one has to end.
    fn superseded(&self);

    /// The newest version of the formats that this node speaks.
    fn speaks(&self) -> u16;

    /// The node is no member any more.
    fn removed(&self);
}

/// See the module.
pub struct Seat {
    me: NodeId,
    /// Drawn by this process.
    boot: u128,
    raft: Raft,
    reader: StateReader,
    /// What the leader of raft decides, while that is this node; and as which leader it does.
    governor: RefCell<Governor>,
    leading_as: Cell<Option<LeaderId>>,
    /// As which leader it has asked another node to lead. As that one it governs no more, though it may lead for a while: the other one
    /// may have been elected, and a transfer is never taken back.
    gave_up: Cell<Option<LeaderId>>,
    /// Until when no other node is asked to lead raft as this one leaves.
    yields_again_ms: Cell<SteadyMs>,
    /// This node's lease, and who was asked for it last.
    tenant: RefCell<Tenant>,
    asked: Cell<Option<NodeId>>,
    /// Leases that it has granted as the leader of raft, and requests for one that it has refused as that.
    granted: Cell<u64>,
    refused: Cell<u64>,
    /// It may vote: what it has promised in an earlier process is over.
    votes: Cell<bool>,
    /// How long it promises to vote for nobody else, ms.
    election_ms: u32,
}

impl Seat {
    /// Of a process that has just started its raft: it does not stand for election yet.
    pub fn new(settings: &Settings, boot: u128, raft: Raft, reader: StateReader) -> Seat {
        raft.runtime_config().elect(false);
        Seat {
            me: settings.me,
            boot,
            raft,
            reader,
            governor: RefCell::new(Governor::new(settings.clone())),
            leading_as: Cell::default(),
            gave_up: Cell::default(),
            yields_again_ms: Cell::new(SteadyMs::MIN),
            tenant: RefCell::new(Tenant::new(settings)),
            asked: Cell::default(),
            granted: Cell::default(),
            refused: Cell::default(),
            votes: Cell::default(),
            election_ms: settings.election_ms,
        }
    }

    #[cfg(test)]
    pub(in crate::raft) fn set_fault(&self, fault: super::Fault) {
        (self.governor.borrow_mut().fault, self.tenant.borrow_mut().fault) = (Some(fault), Some(fault));
    }

    /// A voter that has just started has forgotten whom it has promised not to vote for others: until that is over it votes for
    /// nobody.
    pub async fn wait_until_it_may_vote(&self) {
        Runtime::sleep(Duration::from_millis(outlast(i64::from(self.election_ms)) as u64)).await;
        self.votes.set(true);
        self.raft.runtime_config().elect(true);
    }

    /// Whether this node may vote.
    pub fn votes(&self) -> bool {
        self.votes.get()
    }

    /// Whether this node may execute what others propose: once its founder is known to the cluster. Number 1 is for whoever joins
    /// first, and the founder has it already.
    pub fn takes_proposals(&self) -> bool {
        !self.reader.state().nodes().is_empty()
    }

    /// The index in raft's log that the state has.
    pub fn applied(&self) -> u64 {
        self.reader.applied().map_or(0, |id| id.index)
    }

    /// The end of this node's lease.
    pub fn ends_ms(&self) -> SteadyMs {
        self.tenant.borrow().ends_ms()
    }

    /// Those who serve know what the state says up to this entry.
    pub fn shown(&self, applied: u64) {
        self.tenant.borrow_mut().applied(applied);
    }

    /// What the leader knows; None: this node does not lead.
    pub fn status(&self, now_ms: SteadyMs) -> Option<Status> {
        self.governor.borrow().status(now_ms)
    }

    /// Time passes.
    pub fn tick(around: &impl Around) {
        let seat = around.seat();
        seat.follow_leadership(around.now_ms());
        Seat::let_governor_decide(around);
        Seat::ask_for_lease(around);
        around.renew_lease();
    }

    /// Tells the governor whether it is in charge.
    fn follow_leadership(&self, now_ms: SteadyMs) {
        let leader = self.raft.as_leader().ok().map(|leader| leader.to_committed_leader_id());
        let leader = leader.filter(|leader| self.gave_up.get() != Some(*leader));
        let applied = self.reader.applied().map(|id| id.leader_id);
        let mut governor = self.governor.borrow_mut();
        match leader {
            Some(leader) if self.leading_as.get() == Some(leader) && governor.leads() => {}
            Some(leader) if applied == Some(leader) => {
                tracing::info!(node = self.me, "leads raft");
                governor.lead(now_ms);
                self.leading_as.set(Some(leader));
            }
            _ if governor.leads() => {
                tracing::info!(node = self.me, "leads raft no longer");
                governor.resign();
                self.leading_as.set(None);
            }
            _ => {}
        }
    }

    fn let_governor_decide(around: &impl Around) {
        let seat = around.seat();
        if !seat.governor.borrow().leads() {
            return;
        }
        let now_ms = around.now_ms();
        let (voters, nodes, settled) = seat.members();
        let actions = {
            let state = seat.reader.state();
            let seen = Seen {
                state: &state,
                applied: seat.applied(),
                quorum_ms: seat.quorum_ms(now_ms),
                members: Members { voters: &voters, nodes: &nodes, settled },
            };
            let (copies, replace_after_ms) = around.placement();
            let mut governor = seat.governor.borrow_mut();
            governor.set_placement(copies, 1, replace_after_ms);
            governor.tick(now_ms, &seen)
        };
        for action in actions {
            Seat::act(around, action);
        }
    }

    /// When the last heartbeat was sent that a quorum has acknowledged.
    fn quorum_ms(&self, now_ms: SteadyMs) -> Option<SteadyMs> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.membership_config.membership().voter_ids().eq([self.me]) {
            return Some(now_ms);
        }
        let sent = metrics.last_quorum_acked?;
        let ago = Instant::now() - *sent;
        // One more, as both are cut to whole milliseconds.
        Some(now_ms.saturating_sub(ago.as_millis() as i64 + 1))
    }

    /// Raft's membership: voters, all nodes, and whether nothing of it is half done.
    fn members(&self) -> (BTreeSet<NodeId>, BTreeMap<NodeId, Peer>, bool) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let (voters, nodes) = (membership.membership().voter_ids(), membership.membership().nodes());
        let committed =
            membership.log_id().as_ref().is_some_and(|at| self.reader.applied().is_some_and(|id| id >= *at));
        let settled = committed && membership.membership().get_joint_config().len() == 1;
        (voters.collect(), nodes.map(|(node, peer)| (*node, peer.clone())).collect(), settled)
    }

    fn act(around: &impl Around, action: Action) {
        let leader = around.seat().leading_as.get();
        let around = around.clone();
        Runtime::spawn(async move {
            let (ticket, outcome) = match action {
                Action::Propose { ticket, command } => {
                    tracing::info!(%command, "the leader proposes");
                    (ticket, around.seat().propose(leader, command).await)
                }
                Action::AddLearner { ticket, node, peer } => {
                    let change = ChangeMembers::AddNodes(BTreeMap::from([(node, peer)]));
                    (ticket, around.seat().change_members(change).await)
                }
                Action::SetPeer { ticket, node, peer } => {
                    let change = ChangeMembers::SetNodes(BTreeMap::from([(node, peer)]));
                    (ticket, around.seat().change_members(change).await)
                }
                Action::RemoveLearner { ticket, node } => {
                    let change = ChangeMembers::RemoveNodes(BTreeSet::from([node]));
                    (ticket, around.seat().change_members(change).await)
                }
                Action::ChangeVoters { ticket, voters } => {
                    let change = ChangeMembers::ReplaceAllVoters(voters);
                    (ticket, around.seat().change_members(change).await)
                }
                Action::AskForRoles { primary, request } => {
                    let first = request.moves.first().copied();
                    let begun = around.ask_for_roles(primary, request).await;
                    if let (Some(first), Some(begun)) = (first, begun) {
                        around.seat().governor.borrow_mut().roles_begun(primary, first, begun as usize);
                    }
                    return;
                }
                Action::LetLead { node } => return Seat::let_lead(&around, node).await,
                Action::Plan { ticket, members, rule, previous } => {
                    let placement = around.place(members, rule, previous).await;
                    around.seat().governor.borrow_mut().planned(ticket, placement);
                    return Seat::let_governor_decide(&around);
                }
            };
            Seat::done(&around, ticket, outcome);
        });
    }

    /// Lets another voter lead raft, now and then.
    async fn let_lead(around: &impl Around, node: NodeId) {
        let (seat, now_ms) = (around.seat(), around.now_ms());
        if now_ms >= seat.yields_again_ms.get() {
            seat.yields_again_ms.set(now_ms.saturating_add(YIELD_PAUSE_MS));
            seat.yield_to(node).await;
        }
    }

    /// Asks a voter to lead raft, and waits until it does, but not for long. A transfer elects somebody while the promise of a quorum
    /// to this leader still holds, so it grants nothing any more, whatever comes of it. Whether it could be asked.
    pub async fn yield_to(&self, node: NodeId) -> bool {
        self.gave_up.set(self.raft.as_leader().ok().map(|leader| leader.to_committed_leader_id()));
        self.governor.borrow_mut().resign();
        tracing::info!(to = node, "another node is to lead raft");
        if self.raft.trigger().transfer_leader(node).await.is_err() {
            return false;
        }
        let mut metrics = self.raft.metrics();
        let lost = async {
            while metrics.borrow_watched().current_leader == Some(self.me) && metrics.changed().await.is_ok() {}
        };
        let _ = Runtime::timeout(YIELD_PATIENCE, lost).await;
        true
    }

    fn done(around: &impl Around, ticket: Ticket, outcome: Outcome) {
        around.seat().governor.borrow_mut().done(ticket, &outcome);
        // What failed would fail again at once: that waits for the next tick.
        if matches!(outcome, Outcome::Reply(_) | Outcome::Done) {
            Seat::let_governor_decide(around);
        }
    }

    async fn change_members(&self, change: ChangeMembers<NodeId, Peer>) -> Outcome {
        tracing::info!(?change, "the members of raft change");
        match Runtime::timeout(MEMBERSHIP_PATIENCE, self.raft.change_membership(change, true)).await {
            Ok(Ok(_)) => Outcome::Done,
            Ok(Err(RaftError::APIError(error))) => {
                tracing::info!(%error, "the members of raft do not change");
                Outcome::Failed
            }
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        }
    }

    /// Proposes a command to the own raft, in the term of the governor's lead and in no other.
    async fn propose(&self, leader: Option<LeaderId>, command: Command) -> Outcome {
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

    /// A node asks this one for a lease.
    pub fn grant(&self, now_ms: SteadyMs, request: &LeaseRequest) -> LeaseAnswer {
        self.follow_leadership(now_ms);
        let (applied, quorum_ms) = (self.applied(), self.quorum_ms(now_ms));
        let state = self.reader.state();
        let answer = self.governor.borrow_mut().request(now_ms, &state, applied, quorum_ms, request);
        match answer {
            LeaseAnswer::Granted { .. } => self.granted.set(self.granted.get() + 1),
            LeaseAnswer::Refused(LeaseRefusal::NotLeading) => {}
            LeaseAnswer::Refused(_) => self.refused.set(self.refused.get() + 1),
        }
        answer
    }

    /// Leases that were granted here, and requests that were refused while this node governed.
    pub fn leases(&self) -> (u64, u64) {
        (self.granted.get(), self.refused.get())
    }

    fn ask_for_lease(around: &impl Around) {
        let seat = around.seat();
        if !around.is_registered() {
            return;
        }
        let leader = seat.raft.metrics().borrow_watched().current_leader;
        if seat.asked.replace(leader) != leader {
            seat.tenant.borrow_mut().hurry();
        }
        let Some(leader) = leader.filter(|_| around.now_ms() >= seat.tenant.borrow().due_ms()) else { return };
        let incarnation = seat.reader.state().node(seat.me).map_or(0, |node| node.incarnation);
        let (boot, applied, ready) = (seat.boot, seat.applied(), around.is_ready());
        let speaks = around.speaks();
        let request = LeaseRequest { node: seat.me, incarnation, boot, applied, ready, speaks };
        if request.check().is_err() {
            return;
        }
        let ticket = seat.tenant.borrow_mut().sent(around.now_ms());
        if leader == seat.me {
            let answer = seat.grant(around.now_ms(), &request);
            return Seat::lease_answered(around, ticket, answer);
        }
        let peer = seat.raft.metrics().borrow_watched().membership_config.membership().get_node(&leader).cloned();
        let Some(peer) = peer else { return };
        let around = around.clone();
        Runtime::spawn(async move {
            if let Some(answer) = around.ask(leader, peer, request).await {
                Seat::lease_answered(&around, ticket, answer);
            }
        });
    }

    fn lease_answered(around: &impl Around, ticket: u64, answer: LeaseAnswer) {
        if let LeaseAnswer::Refused(why) = answer {
            tracing::debug!(%why, "no lease");
            if why == LeaseRefusal::Boot {
                tracing::error!(node = around.seat().me, "another process is this node now: this one ends");
                around.superseded();
            }
            // It has registered, and numbers are not used again.
            if why == LeaseRefusal::Unknown {
                around.removed();
            }
        }
        let now_ms = around.now_ms();
        around.seat().tenant.borrow_mut().answered(ticket, now_ms, answer);
        around.renew_lease();
    }
}
