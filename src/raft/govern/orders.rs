//! What the leader does about orders ([`crate::raft::orders`]), beside keeping plans to them.
//!
//! - A node that leaves gets no copies any more ([`super::plan`]), gives its roles away ([`super::roles`]), its copies move
//!   ([`super::moves`]), and it does not vote ([`super::voters`]). Once it has nothing left it is removed. If it leads raft
//!   itself, another voter is asked to lead first.
//! - The version of the cluster rises when all nodes speak a newer one. Each says so with every request for a lease, so a leader
//!   knows soon; a node that is dead, or has never registered, may be of any build.
//!
//! Pure.

use std::collections::BTreeMap;

use super::governor::Seen;
use super::standing::Standing;
use super::{Settings, VOTER_LAG_ENTRIES};
use crate::raft::command::{Command, NodeId, Order};
use crate::raft::state::State;
use crate::raft::stored::VERSION;
use crate::shard::SteadyMs;

/// What is to be proposed next.
pub fn command(settings: &Settings, seen: &Seen<'_>, nodes: &BTreeMap<NodeId, Standing>) -> Option<Command> {
    raise(seen.state, nodes).or_else(|| remove(settings, seen))
}

fn raise(state: &State, nodes: &BTreeMap<NodeId, Standing>) -> Option<Command> {
    let speaks = |id: NodeId| {
        let standing = nodes.get(&id).filter(|standing| standing.dead_ms.is_none());
        standing.map_or(0, |standing| standing.speaks)
    };
    let lowest = state.nodes().iter().map(|node| speaks(node.id)).min()?.min(VERSION.into());
    let version = u8::try_from(lowest).ok().filter(|version| *version > state.orders().version())?;
    Some(Command::Order(Order::Raise { version, starts: state.starts() }))
}

/// A node that leaves, has nothing any more and does not vote, is gone.
fn remove(settings: &Settings, seen: &Seen<'_>) -> Option<Command> {
    let state = seen.state;
    let holds = |id: NodeId| state.partitions().iter().any(|partition| partition.replicas.contains(&id));
    let votes = |id: NodeId| !seen.members.settled || seen.members.voters.contains(&id);
    let gone = |id: NodeId| id != settings.me && state.orders().leaves(id) && !votes(id) && !holds(id);
    state.nodes().iter().map(|node| node.id).find(|id| gone(*id)).map(|node| Command::Remove { node })
}

/// Who is to lead raft in the place of this node, as it leaves.
pub fn successor(
    settings: &Settings,
    seen: &Seen<'_>,
    nodes: &BTreeMap<NodeId, Standing>,
    now_ms: SteadyMs,
) -> Option<NodeId> {
    let orders = seen.state.orders();
    if !orders.leaves(settings.me) || !seen.members.settled {
        return None;
    }
    let can_lead = |id: &NodeId| {
        *id != settings.me
            && !orders.leaves(*id)
            && nodes.get(id).is_some_and(|standing| {
                standing.is_fresh(settings, now_ms)
                    && standing.applied.saturating_add(VOTER_LAG_ENTRIES) >= seen.applied
            })
    };
    seen.members.voters.iter().copied().find(can_lead)
}
