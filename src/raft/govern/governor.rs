//! The leader's side: who gets a lease, who is dead, and what is proposed for that.
//!
//! Every node has a governor; it does something only while its node leads raft. All that it knows of nodes is of this lead:
//! a new leader knows nothing, and waits until that is safe.
//!
//! Invariants: of each kind of work at most one is under way; a lead that ends takes what is under way with it, and results of
//! it that come later change nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::lease::{LeaseAnswer, LeaseRefusal, LeaseRequest, longest, outlast};
use super::plan::Goal;
use super::roles::{Evening, HandOver};
use super::standing::Standing;
use super::turns::Turn;
use super::{Settings, failover, moves, orders, plan, voters};
use crate::cluster::{self, PlaceError, Rule};
use crate::raft::command::{Command, Move, NodeId, Refusal, Reply};
use crate::raft::state::State;
use crate::raft::types::Peer;
use crate::shard::SteadyMs;

/// What was asked for, so that its result is known for it. Never used again.
pub type Ticket = u64;

/// Raft's membership, as the leader has it.
#[derive(Clone, Copy, Debug)]
pub struct Members<'a> {
    pub voters: &'a BTreeSet<NodeId>,
    /// All of them, voters and learners.
    pub nodes: &'a BTreeMap<NodeId, Peer>,
    /// It is committed, and no change of it is half done. A leader finishes what its predecessor has begun.
    pub settled: bool,
}

/// What there is to see at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub state: &'a State,
    /// The index in raft's log that `state` has.
    pub applied: u64,
    /// When the last heartbeat was sent that a quorum has acknowledged; None: not known.
    pub quorum_ms: Option<SteadyMs>,
    pub members: Members<'a>,
}

/// What is to be done. Each with a ticket is answered once, by [`Governor::done`], a plan by [`Governor::planned`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To this node's raft, in this term, once.
    Propose {
        ticket: Ticket,
        command: Command,
    },
    AddLearner {
        ticket: Ticket,
        node: NodeId,
        peer: Peer,
    },
    /// A member is at another address now.
    SetPeer {
        ticket: Ticket,
        node: NodeId,
        peer: Peer,
    },
    /// A learner is no node of the cluster any more.
    RemoveLearner {
        ticket: Ticket,
        node: NodeId,
    },
    /// All of them are members. Those who do not vote any more stay as learners.
    ChangeVoters {
        ticket: Ticket,
        voters: BTreeSet<NodeId>,
    },
    /// This node leaves: another one is to lead raft. There is no answer: what comes of it is seen in who leads.
    LetLead {
        node: NodeId,
    },
    /// This node is to be asked for roles. There is no answer: what comes of it is seen in the state.
    AskForRoles {
        primary: NodeId,
        request: HandOver,
    },
    /// A placement is to be computed ([`cluster::place`]): that takes a while.
    Plan {
        ticket: Ticket,
        members: Vec<cluster::Member>,
        rule: Rule,
        previous: Option<cluster::Placement>,
    },
}

/// What became of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command was executed, here as well, and this was the reply.
    Reply(Reply),
    /// The membership is as it was to be.
    Done,
    /// It was not done, and never will be.
    Failed,
    /// It may have been done, or may be done one day.
    Unknown,
}

/// A promotion that is under way.
#[derive(Clone, Debug)]
pub(super) struct Promotion {
    ticket: Ticket,
    dead: BTreeSet<NodeId>,
}

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    pub(super) promotion: Option<Promotion>,
    pub(super) place: Option<Ticket>,
    pub(super) shrink: Option<Ticket>,
    pub(super) order: Option<Ticket>,
    pub(super) membership: Option<Ticket>,
    pub(super) plan: Option<(Ticket, plan::Wanted)>,
}

/// What is known of a lead.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) since_ms: SteadyMs,
    /// Before this moment nobody is taken for dead.
    pub(super) grace_ms: SteadyMs,
    pub(super) ticked_ms: SteadyMs,
    pub(super) nodes: BTreeMap<NodeId, Standing>,
    pub(super) under_way: UnderWay,
    pub(super) goal: Option<Goal>,
    /// Nothing was to be done towards the goal when things were like this.
    rests: Option<Looked>,
    pub(super) evening: Evening,
    turn: Turn,
    /// How often roles were ordered to where the plan wants them, as far as this leader has begun with that.
    pub(super) rebalanced: u64,
    /// Copies that are received because they move, when it was looked last.
    pub(super) moving: usize,
}

/// What the steps towards a goal depend on, beside it.
#[derive(Debug, PartialEq, Eq)]
struct Looked {
    applied: u64,
    /// Who is alive.
    alive: Vec<NodeId>,
    copies_may_begin: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Governor {
    settings: Settings,
    pub(super) lead: Option<Lead>,
    last_ticket: Ticket,
    #[cfg(test)]
    pub(super) fault: Option<super::Fault>,
}

impl Governor {
    pub fn new(settings: Settings) -> Governor {
        Governor {
            settings,
            lead: None,
            last_ticket: 0,
            #[cfg(test)]
            fault: None,
        }
    }

    /// Settings were changed. A lease gets no longer while a node leads, as others wait for the end of those that they know.
    pub fn set_placement(&mut self, copies: usize, nodes_wanted: usize, replace_after_ms: u32) {
        (self.settings.copies, self.settings.nodes_wanted) = (copies, nodes_wanted);
        self.settings.replace_after_ms = replace_after_ms;
    }

    /// Whether it governs. If not though its node leads raft, `lead` is to be called: it has lost track, and must begin anew.
    pub fn leads(&self) -> bool {
        self.lead.is_some()
    }

    /// This node leads raft, and has applied an entry that it has proposed since it does. Whoever led before may have granted the
    /// longest lease just now.
    pub fn lead(&mut self, now_ms: SteadyMs) {
        self.lead = Some(Lead {
            since_ms: now_ms,
            grace_ms: now_ms.saturating_add(self.wait_for(i64::from(self.settings.lease_ms))),
            ticked_ms: now_ms,
            nodes: BTreeMap::new(),
            under_way: UnderWay::default(),
            goal: None,
            rests: None,
            evening: Evening::default(),
            turn: Turn::Copies { since_ms: now_ms },
            rebalanced: 0,
            moving: 0,
        });
        #[cfg(test)]
        if let (Some(super::Fault::NoGrace), Some(lead)) = (self.fault, &mut self.lead) {
            lead.grace_ms = now_ms;
        }
    }

    /// This node does not lead raft any more.
    pub fn resign(&mut self) {
        self.lead = None;
    }

    /// [`outlast`], if it is done right.
    fn wait_for(&self, length_ms: i64) -> i64 {
        #[cfg(test)]
        if self.fault == Some(super::Fault::IgnoreDrift) {
            return length_ms;
        }
        outlast(length_ms)
    }

    /// A node asks for a lease.
    pub fn request(
        &mut self,
        now_ms: SteadyMs,
        state: &State,
        applied: u64,
        quorum_ms: Option<SteadyMs>,
        request: &LeaseRequest,
    ) -> LeaseAnswer {
        self.grant(now_ms, state, applied, quorum_ms, request).unwrap_or_else(LeaseAnswer::Refused)
    }

    fn grant(
        &mut self,
        now_ms: SteadyMs,
        state: &State,
        applied: u64,
        quorum_ms: Option<SteadyMs>,
        request: &LeaseRequest,
    ) -> Result<LeaseAnswer, LeaseRefusal> {
        let lead = self.lead.as_mut().ok_or(LeaseRefusal::NotLeading)?;
        let node = state.node(request.node).ok_or(LeaseRefusal::Unknown)?;
        if node.incarnation != request.incarnation || node.incarnation == 0 {
            return Err(LeaseRefusal::Incarnation { incarnation: node.incarnation });
        }
        if node.boot != request.boot {
            return Err(LeaseRefusal::Boot);
        }
        lead.listen(&self.settings, state, now_ms);
        let standing = lead.nodes.get_mut(&node.id).ok_or(LeaseRefusal::Unknown)?;
        if standing.dead_ms.is_some() || request.ready && !standing.ready {
            lead.evening.begin();
        }
        standing.heard(request, now_ms);
        let deposing = lead.under_way.promotion.as_ref().is_some_and(|promotion| promotion.dead.contains(&node.id));
        #[cfg(test)]
        let deposing = deposing && self.fault != Some(super::Fault::GrantWhileDeposing);
        if deposing {
            return Err(LeaseRefusal::Deposing);
        }
        if standing.has_earlier(now_ms) {
            return Err(LeaseRefusal::Earlier);
        }
        let length_ms = match quorum_ms {
            Some(quorum_ms) => longest(&self.settings, now_ms, quorum_ms),
            None => 0,
        };
        #[cfg(test)]
        let length_ms =
            if self.fault == Some(super::Fault::WithoutQuorum) { self.settings.lease_ms } else { length_ms };
        if length_ms == 0 {
            return Err(LeaseRefusal::NoQuorum);
        }
        let ends_ms = now_ms.saturating_add(self.wait_for(i64::from(length_ms)));
        let lead = self.lead.as_mut().ok_or(LeaseRefusal::NotLeading)?;
        if let Some(standing) = lead.nodes.get_mut(&node.id) {
            standing.grant(ends_ms);
        }
        Ok(LeaseAnswer::Granted { length_ms, after: applied })
    }

    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        self.last_ticket
    }

    /// What is to be done now. Called every few ten milliseconds, and after each result.
    pub fn tick(&mut self, now_ms: SteadyMs, seen: &Seen<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(lead) = &mut self.lead else { return actions };
        // Whoever did not run heard nothing, which says nothing about the others: what they have sent is yet to be read.
        if now_ms.saturating_sub(lead.ticked_ms) > self.settings.renewal_ms() {
            lead.grace_ms = lead.grace_ms.max(now_ms.saturating_add(2 * self.settings.renewal_ms()));
        }
        lead.ticked_ms = now_ms;
        lead.listen(&self.settings, seen.state, now_ms);
        self.promote(now_ms, seen, &mut actions);
        if self.lead.as_ref().is_some_and(|lead| now_ms >= lead.grace_ms) {
            self.plan(now_ms, seen, &mut actions);
            self.even_roles(now_ms, seen, &mut actions);
            self.step(seen, &mut actions);
            self.change_members(now_ms, seen, &mut actions);
            self.follow_orders(now_ms, seen, &mut actions);
        }
        actions
    }

    fn promote(&mut self, now_ms: SteadyMs, seen: &Seen<'_>, actions: &mut Vec<Action>) {
        let Some(lead) = &mut self.lead else { return };
        if now_ms < lead.grace_ms {
            return;
        }
        for standing in lead.nodes.values_mut() {
            standing.judge(&self.settings, now_ms);
        }
        #[cfg(test)]
        if self.fault == Some(super::Fault::PromoteEarly) {
            for standing in lead.nodes.values_mut().filter(|standing| standing.is_silent(&self.settings, now_ms)) {
                standing.dead_ms = standing.dead_ms.or(Some(now_ms));
            }
        }
        // A leader that is cut off hears of nobody. What it proposes now would be executed when it is back.
        let heard = seen.quorum_ms.is_some_and(|quorum_ms| now_ms - quorum_ms <= self.settings.fresh_ms());
        let earlier = lead.nodes.values().any(|standing| standing.has_earlier(now_ms));
        #[cfg(test)]
        let earlier = earlier && self.fault != Some(super::Fault::ForgetEarlier);
        if lead.under_way.promotion.is_some() || !heard || earlier {
            return;
        }
        if let Some(command) = failover::promote(&self.settings, seen.state, &lead.nodes, now_ms) {
            let dead = match &command {
                Command::Promote { dead, .. } => dead.iter().map(|member| member.node).collect(),
                _ => BTreeSet::new(),
            };
            let ticket = self.last_ticket + 1;
            lead.under_way.promotion = Some(Promotion { ticket, dead });
            let ticket = self.ticket();
            actions.push(Action::Propose { ticket, command });
        }
    }

    /// Asks for a plan, if the one that there is is for other nodes.
    fn plan(&mut self, now_ms: SteadyMs, seen: &Seen<'_>, actions: &mut Vec<Action>) {
        let Some(lead) = &mut self.lead else { return };
        if lead.under_way.plan.is_some() || lead.under_way.place.is_some() {
            return;
        }
        let Some(wanted) = plan::wanted(&self.settings, seen.state, &lead.nodes, now_ms) else { return };
        if lead.goal.as_ref().is_some_and(|goal| goal.wanted == wanted) {
            return;
        }
        let ticket = self.last_ticket + 1;
        let (members, rule) = (wanted.members.clone(), wanted.rule);
        lead.under_way.plan = Some((ticket, wanted));
        let ticket = self.ticket();
        actions.push(Action::Plan { ticket, members, rule, previous: plan::previous(seen.state) });
    }

    /// Goes on towards the plan.
    fn step(&mut self, seen: &Seen<'_>, actions: &mut Vec<Action>) {
        let Some(lead) = &mut self.lead else { return };
        let Some(goal) = lead.goal.as_ref() else { return };
        // While the plan is being made anew, the old one may be wrong.
        if lead.under_way.plan.is_some() || lead.under_way.place.is_some() || lead.under_way.shrink.is_some() {
            return;
        }
        let Ok(placement) = &goal.placement else { return };
        let alive = lead.nodes.iter().filter(|(_, standing)| standing.dead_ms.is_none()).map(|(node, _)| *node);
        let copies_may_begin = lead.turn.copies_may_begin();
        let looked = Looked { applied: seen.applied, alive: alive.collect(), copies_may_begin };
        if lead.rests.as_ref() == Some(&looked) {
            return;
        }
        // Who has copies at all is not a matter of balance.
        let places_first = seen.state.partitions().iter().any(|partition| partition.epoch == 0);
        if seen.state.orders().is_paused() && !places_first {
            lead.moving = 0;
            return;
        }
        // Each step wakes threads on all nodes, those that a role is waiting for among them.
        if lead.evening.moving() > 0 && !places_first {
            return;
        }
        let steps = moves::steps(&self.settings, seen.state, placement, &goal.wanted, &lead.nodes, copies_may_begin);
        lead.moving = steps.moving;
        lead.rests = (steps.place.is_none() && steps.shrink.is_none()).then_some(looked);
        let mut ticket = self.last_ticket;
        if let Some(command) = steps.place {
            ticket += 1;
            lead.under_way.place = Some(ticket);
            actions.push(Action::Propose { ticket, command });
        }
        if let Some(command) = steps.shrink {
            ticket += 1;
            lead.under_way.shrink = Some(ticket);
            actions.push(Action::Propose { ticket, command });
        }
        self.last_ticket = ticket;
    }

    /// Moves roles to where the plan wants them.
    fn even_roles(&mut self, now_ms: SteadyMs, seen: &Seen<'_>, actions: &mut Vec<Action>) {
        let Some(lead) = &mut self.lead else { return };
        let Some(Goal { placement: Ok(placement), .. }) = &lead.goal else { return };
        // While somebody is promoted, or the plan is made anew, things change anyhow.
        if lead.under_way.promotion.is_some() || lead.under_way.plan.is_some() || seen.state.orders().is_paused() {
            return;
        }
        let rebalanced = seen.state.orders().rebalanced();
        if lead.rebalanced != rebalanced {
            lead.rebalanced = rebalanced;
            lead.evening.begin();
        }
        let next = lead.evening.next(&self.settings, seen.state, placement, &lead.nodes, now_ms);
        let roles = next.is_some() || lead.evening.moving() > 0;
        let steps = lead.under_way.place.is_some() || lead.under_way.shrink.is_some();
        let copying = roles && (steps || moves::is_copying(seen.state, &lead.nodes));
        lead.turn = lead.turn.next(now_ms, roles, copying);
        if let Some((primary, request)) = next.filter(|_| lead.turn.roles_may_move(now_ms, copying)) {
            lead.evening.asked(primary, &request, now_ms);
            actions.push(Action::AskForRoles { primary, request });
        }
    }

    fn change_members(&mut self, now_ms: SteadyMs, seen: &Seen<'_>, actions: &mut Vec<Action>) {
        let Some(lead) = &mut self.lead else { return };
        if lead.under_way.membership.is_some() {
            return;
        }
        let ticket = self.last_ticket + 1;
        if let Some(action) = voters::change(&self.settings, seen, &lead.nodes, now_ms, ticket) {
            lead.under_way.membership = Some(ticket);
            self.last_ticket = ticket;
            actions.push(action);
        }
    }

    fn follow_orders(&mut self, now_ms: SteadyMs, seen: &Seen<'_>, actions: &mut Vec<Action>) {
        let Some(lead) = &mut self.lead else { return };
        if lead.under_way.promotion.is_none()
            && lead.under_way.membership.is_none()
            && let Some(node) = orders::successor(&self.settings, seen, &lead.nodes, now_ms)
        {
            return actions.push(Action::LetLead { node });
        }
        if lead.under_way.order.is_some() {
            return;
        }
        if let Some(command) = orders::command(&self.settings, seen, &lead.nodes, now_ms) {
            let ticket = self.last_ticket + 1;
            lead.under_way.order = Some(ticket);
            self.last_ticket = ticket;
            actions.push(Action::Propose { ticket, command });
        }
    }

    /// What became of an action. Those of an earlier lead are not remembered.
    pub fn done(&mut self, ticket: Ticket, outcome: &Outcome) {
        let Some(lead) = &mut self.lead else { return };
        let under_way = &mut lead.under_way;
        if under_way.promotion.as_ref().is_some_and(|promotion| promotion.ticket == ticket) {
            under_way.promotion = None;
            let unknown = *outcome == Outcome::Unknown;
            #[cfg(test)]
            let unknown = unknown && self.fault != Some(super::Fault::AssumeRefused);
            if unknown {
                // It may be executed at any time, when those whom it calls dead have a lease again. Once an entry that is
                // proposed from now on is applied, it has been, or never will be.
                self.lead = None;
            }
            return;
        }
        let UnderWay { place, shrink, order, membership, .. } = under_way;
        for slot in [place, shrink, order, membership] {
            slot.take_if(|under_way| *under_way == ticket);
        }
        if let Outcome::Reply(Reply::Refused(Refusal::Malformed(_))) = outcome {
            // It would be refused again and again.
            lead.goal = None;
        }
    }

    /// A node that was asked for roles, beginning with `first`, has begun with so many of them.
    pub fn roles_begun(&mut self, primary: NodeId, first: Move, count: usize) {
        if let Some(lead) = &mut self.lead {
            lead.evening.begun(primary, first, count);
        }
    }

    /// A plan is ready, or there is none.
    pub fn planned(&mut self, ticket: Ticket, placement: Result<cluster::Placement, PlaceError>) {
        let Some(lead) = &mut self.lead else { return };
        if let Some((_, wanted)) = lead.under_way.plan.take_if(|(under_way, _)| *under_way == ticket) {
            lead.goal = Some(Goal { wanted, placement });
            lead.rests = None;
            lead.evening.begin();
        }
    }
}

impl Lead {
    /// Begins to listen to those who have registered, and anew to those who have started anew.
    fn listen(&mut self, settings: &Settings, state: &State, now_ms: SteadyMs) {
        let registered = || state.nodes().iter().filter(|node| node.incarnation > 0);
        for node in registered() {
            let fresh = || Standing::new(settings, node.incarnation, now_ms);
            let standing = self.nodes.entry(node.id).or_insert_with(fresh);
            if standing.incarnation != node.incarnation {
                standing.restarted(settings, node.incarnation, now_ms);
                self.evening.begin();
            }
        }
        // Whoever was removed has led nothing.
        if self.nodes.len() > registered().count() {
            self.nodes.retain(|id, _| state.member(*id).is_some());
        }
    }
}
