//! A node that is about to end gives away what it has, so that clients do not have to wait until it is missed: its roles, its
//! place in in-sync sets (whoever leads would wait for it), and the leadership of raft. Then it sends clients away until they know.
//!
//! Owned by the control core.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use openraft_rt::WatchReceiver;

use super::Member;
use crate::cluster::{Gate, NodeId, View};
use crate::control::Control;
use crate::raft::command::{self, Move};
use crate::raft::state::Partition;

/// How long all of it may take.
const LEAVE_PATIENCE: Duration = Duration::from_secs(4);

/// Most roles that a node which ends gives away at a time: what it has not given away by then is not served for a while.
const ROLES_AT_ONCE: usize = 32;

/// An in-sync set keeps so many, also if some of them are about to end: see [`crate::streams::leader`].
const IN_SYNC_KEPT: usize = 2;

/// Clients that have not asked for so long for what has moved know where it is.
const QUIET: Duration = Duration::from_millis(500);

/// How long they are sent away at most.
pub(super) const SEND_AWAY_MAX: Duration = Duration::from_secs(2);

/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(5);

impl Member {
    /// What this node could give away: roles that another node could take, by that node.
    fn roles_to_give(&self) -> BTreeMap<NodeId, (command::Member, Vec<Move>)> {
        let state = self.reader.state();
        let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
        state.partitions().iter().filter_map(|is| is.primary).for_each(|node| *led.entry(node).or_default() += 1);
        let mut given: BTreeMap<NodeId, (command::Member, Vec<Move>)> = BTreeMap::new();
        let streams = self.streams.borrow();
        let leader = streams.as_ref().map(|streams| &streams.leader);
        let stays = |partition| leader.is_some_and(|leader| leader.gate(partition) == Some(Gate::Open));
        let led_here = (0..).zip(state.partitions()).filter(|(id, is)| is.primary == Some(self.me) && stays(*id));
        for (partition, is) in led_here {
            let others = is.in_sync.iter().filter(|node| **node != self.me);
            let Some(&to) = others.min_by_key(|node| led.get(node).copied().unwrap_or(0)) else { continue };
            let Some(member) = state.member(to) else { continue };
            *led.entry(to).or_default() += 1;
            let (_, moves) = given.entry(to).or_insert_with(|| (member, Vec::new()));
            moves.push(Move { partition, epoch: is.epoch });
        }
        given
    }

    /// Of how many partitions only this node has everything, though another one has a copy of it; and whether such another one is
    /// connected, and so may have everything soon.
    fn has_alone(&self) -> (usize, bool) {
        let state = self.reader.state();
        let streams = self.streams.borrow();
        let leader = streams.as_ref().map(|streams| &streams.leader);
        let others =
            |is: &Rc<Partition>| is.replicas.iter().copied().filter(|node| *node != self.me).collect::<Vec<_>>();
        let alone = state.partitions().iter().filter(|is| is.primary == Some(self.me) && is.in_sync.len() == 1);
        let others: Vec<Vec<NodeId>> = alone.map(others).filter(|others| !others.is_empty()).collect();
        let is_there = |node: &NodeId| leader.is_some_and(|leader| leader.is_followed_by(*node));
        (others.len(), others.iter().flatten().any(is_there))
    }

    /// Whether somebody would miss this node: it leads what another one could lead, or soon could, is waited for though there are
    /// others, or its clients wait to hear who leads now.
    fn is_missed(&self) -> bool {
        let state = self.reader.state();
        let awaits = self.streams.borrow().as_ref().is_some_and(|streams| !streams.awaited.is_empty());
        awaits
            || self.has_alone().1
            || state.partitions().iter().any(|is| {
                let leads = is.primary == Some(self.me) && is.in_sync.len() > 1;
                leads || is.in_sync.len() > IN_SYNC_KEPT && is.in_sync.contains(&self.me)
            })
    }

    /// The voter that has most of raft's log, but for this node; None: this node does not lead raft, or alone.
    fn next_leader(&self, asked: &[NodeId]) -> Option<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.current_leader != Some(self.me) {
            return None;
        }
        let voters = metrics.membership_config.membership().voter_ids();
        let has = |node: &NodeId| metrics.replication.as_ref().and_then(|matched| matched.get(node).copied().flatten());
        voters.filter(|node| *node != self.me && !asked.contains(node)).max_by_key(has)
    }
}

impl Control {
    /// Gives away what this node has, as long as `goes_on` says so, and not much longer than until `deadline`.
    pub(in crate::control) async fn give_away(self: &Rc<Self>, deadline: Instant, goes_on: impl Fn() -> bool) {
        let Some(member) = self.member().filter(|member| member.reader.state().nodes().len() > 1) else { return };
        let given_by = deadline.min(Instant::now() + LEAVE_PATIENCE);
        tracing::info!("what this node leads is given away");
        member.leaving.set(true);
        self.with_follower(|follower, now_ms, out| follower.leave(now_ms, out));
        let late = loop {
            if !goes_on() {
                return;
            }
            self.give_roles(&member);
            match Instant::now() >= given_by {
                _ if !member.is_missed() => break false,
                true => break true,
                false => glommio::timer::sleep(LOOK).await,
            }
        };
        self.yield_raft(&member).await;
        if !late {
            self.send_clients_away(deadline, &goes_on).await;
        }
        if !goes_on() {
            return;
        }
        match late {
            true => tracing::warn!("not everything that this node leads or follows was given away in time"),
            false => tracing::info!("everything that this node led is given away"),
        }
        let (partitions, _) = member.has_alone();
        if partitions > 0 {
            tracing::warn!(
                partitions,
                "this node ends, and nobody else has everything of these: they are served again when it is back"
            );
        }
    }

    /// A node that was removed from the cluster has no lease, and without one it says CLUSTERDOWN to all. But it may say who leads, as
    /// it leads and follows nothing by the state in which it is removed, and never will: as soon as all data cores know that. Whether
    /// they do.
    pub(super) async fn may_send_clients_away(self: &Rc<Self>, member: &Member) -> bool {
        let by = Instant::now() + QUIET;
        let mut shown = None;
        while shown.is_none_or(|shown| self.log.borrow().seen_by_all() < shown) {
            if shown.is_none() && member.reader.state().node(member.me).is_none() {
                shown = Some(self.show_new_view());
            } else if Instant::now() >= by {
                return false;
            }
            glommio::timer::sleep(LOOK).await;
        }
        let view = member.shown.borrow();
        let has = |view: &View| (0..self.keyspace.partitions).any(|p| view.leads(p) || view.follows(p));
        if member.stopped.get() || view.as_deref().is_none_or(has) {
            return false;
        }
        self.node.state.lease.set(self.now_ms() + (SEND_AWAY_MAX + QUIET).as_millis() as i64);
        true
    }

    /// Answers clients that ask for what has moved until none comes any more: then they know who leads. A connection that is closed
    /// while a request is on its way leaves its client in doubt.
    pub(super) async fn send_clients_away(&self, deadline: Instant, goes_on: impl Fn() -> bool) {
        let (state, by) = (&self.node.state, deadline.min(Instant::now() + SEND_AWAY_MAX));
        let (mut sent, mut since) = (state.sent_elsewhere(), Instant::now());
        while goes_on() && since.elapsed() < QUIET && Instant::now() < by {
            glommio::timer::sleep(LOOK).await;
            if std::mem::replace(&mut sent, state.sent_elsewhere()) != sent {
                since = Instant::now();
            }
        }
    }

    /// The node goes on: it may have roles again.
    pub(in crate::control) fn stay(self: &Rc<Self>) {
        if self.member().is_some_and(|member| member.leaving.replace(false)) {
            self.with_follower(|follower, now_ms, out| follower.stay(now_ms, out));
        }
    }

    fn give_roles(self: &Rc<Self>, member: &Member) {
        let under_way = || member.streams.borrow().as_ref().map_or(0, |streams| streams.leader.handing_over());
        for (to, moves) in member.roles_to_give().into_values() {
            let room = ROLES_AT_ONCE.saturating_sub(under_way());
            self.with_leader(|leader, now_ms, out| {
                leader.hand_over(now_ms, &moves, to, room, out);
            });
        }
        member.pauses_begin();
        self.advance();
    }

    /// Lets another voter lead raft. No lease is granted meanwhile: this node does not know any more whether it leads.
    async fn yield_raft(self: &Rc<Self>, member: &Rc<Member>) {
        let mut asked = Vec::new();
        while let Some(to) = member.next_leader(&asked) {
            asked.push(to);
            if !member.seat.yield_to(to).await {
                return;
            }
        }
    }
}
