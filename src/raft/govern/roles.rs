//! Who shall lead: roles that go to another node while both live.
//!
//! A plan names a primary for each partition, so that all nodes lead about as many as their weight says. After a failover others
//! lead, and a node that comes back leads nothing: so roles are moved to where the plan has them, partition by partition, as
//! soon as the node that is to lead is in sync and ready, and it is the turn of roles ([`super::turns`]). The old primary does that
//! itself ([`crate::streams::leader::handover`]); the leader of raft only asks it.
//!
//! A role that has been where the plan wants it is left alone from then on, so that one which somebody has moved by hand stays
//! there; until the plan is made anew, a node starts or comes back, or raft has another leader. But not on a node that is to have
//! no copy: a handover that was begun by an older plan may end there.
//!
//! Pure.

use std::collections::BTreeMap;

use rkyv::{Archive, Deserialize, Serialize};

use super::Settings;
use super::standing::{Standing, is_alive};
use crate::cluster;
use crate::raft::command::{COUNT_MAX, Member, Move, NodeId, PARTITIONS_MAX, PartitionId};
use crate::raft::state::{Partition, State};
use crate::shard::SteadyMs;

/// Most roles that one node is asked to give to another one at a time: requests about them wait for as long as all of these need,
/// and what holds up one handover, as a busy CPU does, holds up no more than so many.
pub const ROLES_AT_ONCE: usize = 8;
/// After so long a node is asked for others.
pub const ASK_AGAIN_MS: i64 = 2_000;
/// After so long it is asked again for what it did not give: requests have waited for that, and may have to again.
pub const POSTPONED_MS: i64 = 10_000;
/// After so long for what it has not begun with, because a copy of it was under way or its follower behind. Nothing has waited.
pub const NOT_BEGUN_MS: i64 = 100;

/// A node is asked to give these roles to another one.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// Who asks.
    pub node: NodeId,
    /// Whose the roles are to be.
    pub to: Member,
    /// In order.
    pub moves: Vec<Move>,
}

impl HandOver {
    /// What a node may ask.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.node == 0 || self.to.node == 0 || self.to.incarnation == 0 || self.to.incarnation > COUNT_MAX {
            return Err("a number in a request for roles that cannot be");
        }
        let sorted = self.moves.is_sorted_by(|a, b| a.partition < b.partition);
        if self.moves.is_empty() || self.moves.len() > PARTITIONS_MAX || !sorted {
            return Err("roles that are asked for are none, too many, or not in order");
        }
        Ok(())
    }
}

/// Roles on their way to where the plan wants them.
#[derive(Debug, Default)]
pub struct Evening {
    /// Which have been where the plan wants them, by number.
    settled: Vec<bool>,
    /// What a node was asked for, as long as it may be on its way.
    asked: Option<Asked>,
    /// Roles that were asked for in vain, and when they may be asked for again.
    postponed: BTreeMap<PartitionId, SteadyMs>,
}

/// Roles that a node was asked for.
#[derive(Debug)]
struct Asked {
    primary: NodeId,
    at_ms: SteadyMs,
    /// In its order.
    first: Move,
    count: usize,
    /// With how many it has begun, if it has said so.
    begun: Option<usize>,
    /// Those that have not moved.
    open: Vec<Move>,
}

impl Evening {
    /// Roles are looked at anew.
    pub fn begin(&mut self) {
        *self = Evening::default();
    }

    /// Whom to ask for what next. One node at a time: all have something to do when a role moves, and requests about it wait for that.
    pub fn next(
        &mut self,
        settings: &Settings,
        state: &State,
        plan: &cluster::Placement,
        nodes: &BTreeMap<NodeId, Standing>,
        now_ms: SteadyMs,
    ) -> Option<(NodeId, HandOver)> {
        self.settled.resize(state.partitions().len(), false);
        // Whoever was asked, and has not done it all yet, is given a while.
        let is_open = |change: &Move| state.partition(change.partition).is_some_and(|is| is.epoch == change.epoch);
        if let Some(asked) = &mut self.asked {
            asked.open.retain(is_open);
            let moved = asked.count - asked.open.len();
            let pause_ms = match asked.begun {
                Some(begun) if moved >= begun => Some(NOT_BEGUN_MS),
                _ if now_ms.saturating_sub(asked.at_ms) >= ASK_AGAIN_MS => Some(POSTPONED_MS),
                _ => None,
            };
            if let Some(pause_ms) = pause_ms {
                let until_ms = now_ms.saturating_add(pause_ms);
                self.postponed.extend(asked.open.iter().map(|change| (change.partition, until_ms)));
            }
            if pause_ms.is_some() || asked.open.is_empty() {
                self.asked = None;
            }
        }
        self.postponed.retain(|_, until_ms| now_ms < *until_ms);
        let can_lead = |node: NodeId| {
            nodes.get(&node).is_some_and(|standing| {
                standing.ready && standing.is_fresh(settings, now_ms) && standing.may_serve(now_ms)
            })
        };
        let mut wanted: BTreeMap<NodeId, HandOver> = BTreeMap::new();
        let partitions = (0..).zip(state.partitions()).zip(&plan.partitions).zip(&mut self.settled);
        for (((id, is), plan), settled) in partitions {
            let Some(primary) = is.primary else { continue };
            // Nearly all do, and this is asked fifty times a second.
            let rests = *settled && plan.nodes().any(|node| node == primary);
            if rests || !is_alive(nodes, primary) {
                continue;
            }
            if primary == plan.primary {
                *settled = true;
                continue;
            }
            if self.postponed.contains_key(&id) {
                continue;
            }
            let Some(to) = successor(is, primary, plan, &can_lead).and_then(|to| state.member(to)) else { continue };
            let request =
                wanted.entry(primary).or_insert_with(|| HandOver { node: settings.me, to, moves: Vec::new() });
            if request.to == to && request.moves.len() < ROLES_AT_ONCE {
                request.moves.push(Move { partition: id, epoch: is.epoch });
            }
        }
        wanted.into_iter().next().filter(|_| self.asked.is_none())
    }

    /// This node is asked for these.
    pub fn asked(&mut self, primary: NodeId, request: &HandOver, now_ms: SteadyMs) {
        let (open, count) = (request.moves.clone(), request.moves.len());
        self.asked = Some(Asked { primary, at_ms: now_ms, first: open[0], count, begun: None, open });
    }

    /// A node has begun with so many of those that it was asked for, beginning with `first`.
    pub fn begun(&mut self, primary: NodeId, first: Move, count: usize) {
        if let Some(asked) = self.asked.as_mut().filter(|asked| (asked.primary, asked.first) == (primary, first)) {
            asked.begun = Some(count);
        }
    }

    /// How many roles were asked for, and may be on their way.
    pub fn moving(&self) -> usize {
        self.asked.as_ref().map_or(0, |asked| asked.open.len())
    }
}

/// Who is to lead next: the one that is planned; if it cannot yet, and whoever leads is to have no copy any more, another one that
/// stays.
fn successor(
    is: &Partition,
    primary: NodeId,
    plan: &cluster::Copies,
    can_lead: &dyn Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let fits = |node: &NodeId| is.in_sync.contains(node) && can_lead(*node);
    let leaves = !plan.nodes().any(|node| node == primary);
    Some(plan.primary).filter(fits).or_else(|| plan.nodes().filter(|_| leaves).find(fits))
}
