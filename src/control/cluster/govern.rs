//! What is around this node's seat at raft ([`crate::raft::govern::seat`]): the bus, and the data cores that a lease is for.
//!
//! Owned by the control core.

use std::rc::Rc;

use super::Member;
use crate::cluster::{self, NodeId, PlaceError, Placement, Rule};
use crate::control::Control;
use crate::raft::govern::seat::{Around, LEASE_PATIENCE, TICK};
use crate::raft::govern::{HandOver, LeaseAnswer, LeaseRefusal, LeaseRequest, REPLACE_AFTER_MS, Seat};
use crate::raft::state::Partition;
use crate::raft::types::Peer;
use crate::shard::SteadyMs;

/// A member, and the control core that it is one of.
#[derive(Clone)]
struct Seated {
    control: Rc<Control>,
    member: Rc<Member>,
}

impl Around for Seated {
    fn seat(&self) -> &Seat {
        &self.member.seat
    }

    fn now_ms(&self) -> SteadyMs {
        self.control.now_ms()
    }

    fn is_registered(&self) -> bool {
        self.member.registered.get()
    }

    fn is_ready(&self) -> bool {
        let Seated { control, member } = self;
        let streams = member.streams.borrow();
        let Some(streams) = &*streams else { return false };
        let state = member.reader.state();
        let lacks = |(id, partition): (u16, &Rc<Partition>)| {
            let may_lead = partition.in_sync.contains(&member.me) && partition.epoch > 1;
            may_lead && !streams.leading.has(id) && !streams.follower.is_complete(id)
        };
        let writes = control.log.borrow().standing.disk_error.is_none();
        writes && !member.leaving.get() && !(0..).zip(state.partitions()).any(lacks)
    }

    async fn ask_for_roles(&self, primary: NodeId, request: HandOver) -> Option<u32> {
        self.control.ask_for_roles(&self.member, primary, request).await
    }

    fn placement(&self) -> (usize, u32) {
        (usize::from(self.control.config().cluster_copies), REPLACE_AFTER_MS)
    }

    async fn ask(&self, leader: NodeId, peer: Peer, request: LeaseRequest) -> Option<LeaseAnswer> {
        let asked = self.member.bus.ask_for_lease(leader, &peer, request, LEASE_PATIENCE).await;
        asked.inspect_err(|error| tracing::debug!(%error, leader, "no answer to a request for a lease")).ok()
    }

    async fn place(
        &self,
        members: Vec<cluster::Member>,
        rule: Rule,
        previous: Option<Placement>,
    ) -> Result<Placement, PlaceError> {
        // For many nodes that takes a while, during which this core has leases to grant.
        glommio::executor().spawn_blocking(move || cluster::place(&members, rule, previous.as_ref())).await
    }

    /// Tells data cores until when they may serve. After a lease that has ended the next one begins with a new view: whoever
    /// has seen that has noticed the end of the other, and has shown nothing that was done behind it.
    fn renew_lease(&self) {
        let Seated { control, member } = self;
        if member.removed.get() {
            return;
        }
        let (ends_ms, now_ms) = (member.seat.ends_ms(), control.now_ms());
        let lease = &control.node.state.lease;
        if member.has_lease.get() && !lease.is_valid_at(now_ms) {
            member.has_lease.set(false);
            member.count(|counts| counts.leases_lapsed += 1);
        }
        if ends_ms <= now_ms {
            return;
        }
        if lease.is_valid_at(now_ms) {
            return lease.set(ends_ms);
        }
        let begins_with = member.begins_with.get().unwrap_or_else(|| control.show_new_view());
        member.begins_with.set(Some(begins_with));
        if control.log.borrow().seen_by_all() >= begins_with {
            tracing::info!(node = member.me, "this node has a lease");
            member.begins_with.set(None);
            member.has_lease.set(true);
            lease.set(ends_ms);
        }
    }

    fn superseded(&self) {
        self.control.node.end(crate::node::End::Now);
    }

    fn speaks(&self) -> u16 {
        self.control.config().cluster_version
    }

    fn removed(&self) {
        self.control.end_removed(&self.member);
    }
}

impl Control {
    /// Runs the machines for as long as the node is a member.
    pub(super) fn govern(self: &Rc<Self>, member: &Rc<Member>) {
        let waiting = Rc::clone(member);
        glommio::spawn_local(async move { waiting.seat.wait_until_it_may_vote().await }).detach();
        let seated = Seated { control: Rc::clone(self), member: Rc::clone(member) };
        glommio::spawn_local(async move {
            while !seated.member.stopped.get() {
                Seat::tick(&seated);
                seated.control.tick_streams();
                glommio::timer::sleep(TICK).await;
            }
        })
        .detach();
    }

    pub(super) fn now_ms(&self) -> SteadyMs {
        self.node.clock.clone().now().steady_ms
    }

    /// A node asks this one for a lease.
    pub(super) fn grant_lease(&self, request: &LeaseRequest) -> LeaseAnswer {
        let Some(member) = self.member() else { return LeaseAnswer::Refused(LeaseRefusal::NotLeading) };
        member.seat.grant(self.now_ms(), request)
    }

    /// Nodes that are taken for dead: by the leader of raft, if that is this node; else those that are to have copies, are in
    /// sync nowhere, and were not heard here for a while. One that has no memory for any copy is alive.
    pub(super) fn dead_nodes(&self) -> Vec<NodeId> {
        let Some(member) = self.member() else { return Vec::new() };
        if let Some(status) = member.seat.status(self.now_ms()) {
            return status.nodes.iter().filter(|known| !known.alive).map(|known| known.node).collect();
        }
        let state = member.reader.state();
        let mut suspects: Vec<NodeId> = state.nodes().iter().map(|node| node.id).collect();
        suspects.retain(|node| state.partitions().iter().any(|partition| partition.replicas.contains(node)));
        suspects.retain(|node| !state.partitions().iter().any(|partition| partition.in_sync.contains(node)));
        let (now_ms, timeout_ms) = (self.steady_ms(), self.config().insync_timeout_ms);
        suspects.retain(|node| !member.is_heard(*node, now_ms, timeout_ms));
        suspects
    }
}
