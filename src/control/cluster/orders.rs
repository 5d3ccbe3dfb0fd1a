//! CLUSTER LEAVE, STAY and REBALANCE: an operator's orders become a part of raft's state ([`crate::raft::orders`]), and the leader of
//! raft sees to them. And what a node does when it is no member any more, or cannot go on as one.
//!
//! Owned by the control core.

use std::rc::Rc;
use std::time::Duration;

use super::Member;
use crate::cluster::NodeId;
use crate::command::membership::Wish;
use crate::control::Control;
use crate::node::End;
use crate::raft::bus::propose::Proposed;
use crate::raft::command::{Command, Order, Refusal, Reply};

/// How long an order may take until a majority has it.
const ORDER_PATIENCE: Duration = Duration::from_secs(5);

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
        if order.version() > version {
            // A node of an older build could not read it, not even to refuse it.
            return Err(OrderError::Refused(Refusal::Version { version }));
        }
        match member.propose(Command::Order(order), ORDER_PATIENCE).await {
            Ok(Proposed { reply: Reply::Ordered, .. }) => Ok(()),
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

    /// The cluster goes on without this node, and it has nothing more to do.
    pub(super) fn end_removed(&self, member: &Member) {
        if !member.removed.replace(true) {
            tracing::info!(node = member.me, "this node has left its cluster: it ends");
            self.node.end(End::Now);
        }
    }
}
