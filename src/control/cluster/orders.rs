//! CLUSTER LEAVE, STAY and REBALANCE: an operator's orders become a part of raft's state ([`crate::raft::orders`]), and the
//! leader of raft sees to them. And what a node does when it is no member any more, or cannot go on as one.
//!
//! Owned by the control core.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Member;
use super::leave::SEND_AWAY_MAX;
use crate::cluster::NodeId;
use crate::command::membership::Wish;
use crate::control::Control;
use crate::node::End;
use crate::raft::bus::propose::Proposed;
use crate::raft::command::{Command, Order, Refusal, Reply};

/// How long an order may take until a majority has it.
const ORDER_PATIENCE: Duration = Duration::from_secs(5);

/// A node that has had no lease for so long asks whether it still is a member; and again after as long.
const ALONE_PATIENCE: Duration = Duration::from_secs(5);

/// Why an order is not in force.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum OrderError {
    #[error("this node is in no cluster of several nodes")]
    NoCluster,
    #[error("{0}")]
    Refused(Refusal),
    #[error("the leader of raft cannot do that: {0}")]
    Failed(String),
}

fn order(wish: Wish, me: NodeId) -> Order {
    match wish {
        Wish::Leave(node) => Order::Leave { node: node.unwrap_or(me) },
        Wish::Stay(node) => Order::Stay { node: node.unwrap_or(me) },
        Wish::Pause => Order::Pause,
        Wish::Rebalance => Order::Rebalance,
    }
}

impl Control {
    /// Makes a wish an order.
    pub(in crate::control) async fn give_order(&self, wish: Wish) -> Result<(), OrderError> {
        let member = self.member().ok_or(OrderError::NoCluster)?;
        let order = order(wish, member.me);
        let version = member.reader.state().orders().version();
        let command = match order {
            // It has nothing, and nobody knows of which build it is: the version would never rise.
            Order::Leave { node } if member.reader.state().node(node).is_some_and(|node| node.incarnation == 0) => {
                Command::Remove { node }
            }
            _ => Command::Order(order),
        };
        if command.version() > version {
            // A node of an older build could not read it, not even to refuse it.
            return Err(OrderError::Refused(Refusal::Version { version }));
        }
        match member.propose(command, ORDER_PATIENCE).await {
            Ok(Proposed { reply: Reply::Ordered | Reply::Removed, .. }) => Ok(()),
            Ok(Proposed { reply: Reply::Refused(why), .. }) => Err(OrderError::Refused(why)),
            Ok(Proposed { reply, .. }) => Err(OrderError::Failed(format!("{reply:?}"))),
            Err(error) => Err(OrderError::Failed(error.to_string())),
        }
    }

    /// Keeps to the version that the cluster uses; whether this node can.
    pub(super) fn follows_version(&self) -> bool {
        let Some(member) = self.member() else { return true };
        let (version, speaks) = (member.reader.state().orders().version(), self.config().cluster_version);
        member.bus.raise(version);
        let follows = u16::from(version) <= speaks;
        if !follows {
            tracing::error!(
                version,
                speaks,
                "the cluster uses a newer version than 'cluster-version' allows: this node ends"
            );
        }
        follows
    }

    /// A node that has left may read that of itself.
    pub(super) fn look_for_own_number(self: &Rc<Self>) {
        let Some(member) = self.member().filter(|member| member.registered.get()) else { return };
        if member.reader.state().node(member.me).is_none() {
            self.end_removed(&member);
        }
    }

    /// A node that was removed while it heard of nobody finds nobody to ask for a lease: it asks those that it knows for its place. Its
    /// process is registered, so nothing comes of that if it is a member.
    pub(super) async fn look_for_own_place(self: Rc<Self>, member: Rc<Member>) {
        let mut had_lease = Instant::now();
        while !member.stopped.get() {
            glommio::timer::sleep(ALONE_PATIENCE / 5).await;
            if !member.registered.get() || self.node.state.lease.is_valid_at(self.now_ms()) {
                had_lease = Instant::now();
            }
            let Ok(profile) = self.profile() else { continue };
            if had_lease.elapsed() < ALONE_PATIENCE {
                continue;
            }
            had_lease = Instant::now();
            let after = member.reader.state().node(member.me).map_or(0, |node| node.incarnation);
            let Member { me: node, identity, boot, .. } = *member;
            let register = Command::Register { node, identity, boot, after, profile };
            if let Ok(Proposed { reply: Reply::Refused(Refusal::UnknownNode(_)), .. }) =
                member.propose(register, ORDER_PATIENCE).await
            {
                self.end_removed(&member);
            }
        }
    }

    /// The cluster goes on without this node, which has nothing more to do than to say so to its clients.
    pub(super) fn end_removed(self: &Rc<Self>, member: &Rc<Member>) {
        if member.removed.replace(true) {
            return;
        }
        tracing::info!(node = member.me, "this node has left its cluster: it ends");
        let (control, member) = (Rc::clone(self), Rc::clone(member));
        glommio::spawn_local(async move {
            if control.may_send_clients_away(&member).await {
                control.send_clients_away(Instant::now() + SEND_AWAY_MAX, || true).await;
            }
            control.node.end(End::Now);
        })
        .detach();
    }
}
