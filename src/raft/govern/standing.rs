//! What the leader knows of a node: whether it is alive, and until when it may serve.
//!
//! A node is dead once its silence is strange (phi accrual over its requests; after a few leases any is) *and* its last lease has surely ended. The first is a
//! guess, which costs a promotion in vain if it is wrong; the second is what makes a promotion safe.
//!
//! Invariant: `lease` is the one that ends last of all that this leader has granted to the node, whatever process had it.

use std::collections::BTreeMap;

use super::lease::LeaseRequest;
use super::{PHI_DEAD, SILENCE_LEASES_MAX, Settings};
use crate::raft::command::{Incarnation, NodeId};
use crate::replication::detector::{Detector, Expectation};
use crate::shard::SteadyMs;

/// A lease that was granted.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    pub incarnation: Incarnation,
    /// When it has surely ended, on the leader's clock.
    pub ends_ms: SteadyMs,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Standing {
    pub incarnation: Incarnation,
    detector: Detector,
    /// Its last sign of life; before the first: when the leader began to listen.
    heard_ms: SteadyMs,
    pub lease: Option<Granted>,
    /// What it said last.
    pub ready: bool,
    pub applied: u64,
    /// The newest version that it speaks; 0: it was not heard of.
    pub speaks: u16,
    /// Since when it is dead.
    pub dead_ms: Option<SteadyMs>,
}

/// Whether a node is alive, of those that the leader knows.
pub fn is_alive(nodes: &BTreeMap<NodeId, Standing>, node: NodeId) -> bool {
    nodes.get(&node).is_some_and(|standing| standing.dead_ms.is_none())
}

/// The detector's times are not negative.
fn detector_ms(now_ms: SteadyMs) -> u64 {
    now_ms.max(0) as u64
}

fn detector(settings: &Settings, now_ms: SteadyMs) -> Detector {
    Detector::new(Expectation::of_interval(settings.renewal_ms() as u64), detector_ms(now_ms))
}

impl Standing {
    /// A node that this leader begins to listen to.
    pub fn new(settings: &Settings, incarnation: Incarnation, now_ms: SteadyMs) -> Standing {
        let detector = detector(settings, now_ms);
        let (lease, dead_ms) = (None, None);
        Standing { incarnation, detector, heard_ms: now_ms, lease, ready: false, applied: 0, speaks: 0, dead_ms }
    }

    /// The node has started anew. What its earlier process was granted stays.
    pub fn restarted(&mut self, settings: &Settings, incarnation: Incarnation, now_ms: SteadyMs) {
        *self = Standing { lease: self.lease, ..Standing::new(settings, incarnation, now_ms) };
    }

    /// A request has come, from the process that it is now.
    pub fn heard(&mut self, request: &LeaseRequest, now_ms: SteadyMs) {
        self.detector.heartbeat(detector_ms(now_ms));
        self.heard_ms = now_ms.max(self.heard_ms);
        self.ready = request.ready;
        self.applied = request.applied;
        self.speaks = request.speaks;
        self.dead_ms = None;
    }

    pub fn grant(&mut self, ends_ms: SteadyMs) {
        let ends_ms = self.lease.map_or(ends_ms, |lease| lease.ends_ms.max(ends_ms));
        self.lease = Some(Granted { incarnation: self.incarnation, ends_ms });
    }

    pub fn phi(&self, now_ms: SteadyMs) -> f64 {
        self.detector.phi(detector_ms(now_ms))
    }

    /// How long its lease may still be valid.
    pub fn lease_left_ms(&self, now_ms: SteadyMs) -> i64 {
        self.lease.map_or(0, |lease| lease.ends_ms.saturating_sub(now_ms).max(0))
    }

    /// Whether an earlier process of this node may still have a valid lease.
    pub fn has_earlier(&self, now_ms: SteadyMs) -> bool {
        self.lease.is_some_and(|lease| lease.incarnation != self.incarnation && now_ms < lease.ends_ms)
    }

    /// Whether its process may have a valid lease.
    pub fn may_serve(&self, now_ms: SteadyMs) -> bool {
        self.lease.is_some_and(|lease| lease.incarnation == self.incarnation && now_ms < lease.ends_ms)
    }

    /// Whether its silence is strange, or longer than anybody's may be.
    pub fn is_silent(&self, settings: &Settings, now_ms: SteadyMs) -> bool {
        let silence_ms_max = i64::from(settings.lease_ms) * SILENCE_LEASES_MAX;
        self.phi(now_ms) >= PHI_DEAD || now_ms.saturating_sub(self.heard_ms) >= silence_ms_max
    }

    /// Notes whether it is dead.
    pub fn judge(&mut self, settings: &Settings, now_ms: SteadyMs) {
        if self.dead_ms.is_none() && self.is_silent(settings, now_ms) && self.lease_left_ms(now_ms) == 0 {
            self.dead_ms = Some(now_ms);
        }
    }

    /// Whether it was heard of so lately that it may be asked to lead.
    pub fn is_fresh(&self, settings: &Settings, now_ms: SteadyMs) -> bool {
        self.dead_ms.is_none() && now_ms.saturating_sub(self.heard_ms) <= settings.fresh_ms()
    }

    /// Whether it has been dead for so long.
    pub fn dead_for(&self, now_ms: SteadyMs, ms: u32) -> bool {
        self.dead_ms.is_some_and(|dead_ms| now_ms.saturating_sub(dead_ms) >= i64::from(ms))
    }
}
