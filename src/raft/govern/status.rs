//! What the leader of raft tells those who watch.
//!
//! Pure.

use super::governor::Governor;
use super::standing::{Standing, is_alive};
use crate::cluster::PlaceError;
use crate::raft::command::NodeId;
use crate::shard::SteadyMs;

/// How a node is, for those who watch.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeStatus {
    pub node: NodeId,
    pub alive: bool,
    pub phi: f64,
    /// How long its lease may still be valid.
    pub lease_left_ms: i64,
    pub applied: u64,
    pub ready: bool,
    /// The newest version of the formats that it speaks.
    pub speaks: u16,
    /// For how long it is dead.
    pub dead_ms: Option<i64>,
}

/// What the governor does, for those who watch.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub leads_for_ms: i64,
    /// For how long nobody is taken for dead.
    pub grace_left_ms: i64,
    pub nodes: Vec<NodeStatus>,
    pub promoting: bool,
    pub placing: bool,
    pub planning: bool,
    pub changing_membership: bool,
    /// Copies that are received because they move.
    pub moving: usize,
    /// Roles that nodes were asked to give away.
    pub roles_moving: usize,
    /// Why there is no plan.
    pub plan_error: Option<PlaceError>,
}

impl Governor {
    /// Whether a node is alive, as far as this leader knows; None: it does not lead.
    pub fn is_alive(&self, node: NodeId) -> Option<bool> {
        let lead = self.lead.as_ref()?;
        Some(is_alive(&lead.nodes, node))
    }

    /// None: it does not lead.
    pub fn status(&self, now_ms: SteadyMs) -> Option<Status> {
        let lead = self.lead.as_ref()?;
        let of_node = |(&node, standing): (&NodeId, &Standing)| NodeStatus {
            node,
            alive: standing.dead_ms.is_none(),
            phi: standing.phi(now_ms),
            lease_left_ms: standing.lease_left_ms(now_ms),
            applied: standing.applied,
            ready: standing.ready,
            speaks: standing.speaks,
            dead_ms: standing.dead_ms.map(|dead_ms| now_ms.saturating_sub(dead_ms)),
        };
        Some(Status {
            leads_for_ms: now_ms.saturating_sub(lead.since_ms),
            grace_left_ms: lead.grace_ms.saturating_sub(now_ms).max(0),
            nodes: lead.nodes.iter().map(of_node).collect(),
            promoting: lead.under_way.promotion.is_some(),
            placing: lead.under_way.place.is_some() || lead.under_way.shrink.is_some(),
            planning: lead.under_way.plan.is_some(),
            changing_membership: lead.under_way.membership.is_some(),
            moving: lead.moving,
            roles_moving: lead.evening.moving(),
            plan_error: lead.goal.as_ref().and_then(|goal| goal.placement.as_ref().err().copied()),
        })
    }
}
