//! What the leader does about orders ([`crate::raft::orders`]), beside keeping plans to them.
//!
//! - A node that leaves gets no copies any more ([`super::plan`]), gives its roles away ([`super::roles`]), its copies move
//!   ([`super::moves`]), and it does not vote ([`super::voters`]). Once it has nothing left it is removed. If it leads raft
//!   itself, another voter is asked to lead first.
//! - The version of the cluster rises when all nodes speak a newer one. Each says so with every request for a lease, so a leader
//!   knows soon; a node that is dead, or has never registered, may be of any build. One that is long dead, and neither votes nor has
//!   copies, is not waited for: it is let in no more if it is too old.
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
pub fn command(
    settings: &Settings,
    seen: &Seen<'_>,
    nodes: &BTreeMap<NodeId, Standing>,
    now_ms: SteadyMs,
) -> Option<Command> {
    raise(settings, seen, nodes, now_ms).or_else(|| remove(settings, seen))
}

fn holds(state: &State, node: NodeId) -> bool {
    state.partitions().iter().any(|partition| partition.replicas.contains(&node))
}

fn raise(
    settings: &Settings,
    seen: &Seen<'_>,
    nodes: &BTreeMap<NodeId, Standing>,
    now_ms: SteadyMs,
) -> Option<Command> {
    let state = seen.state;
    if state.orders().version() >= VERSION {
        return None;
    }
    let speaks = |id: NodeId| {
        let standing = nodes.get(&id).filter(|standing| standing.dead_ms.is_none());
        standing.map_or(0, |standing| standing.speaks)
    };
    let is_lost = |id: NodeId| {
        let long = nodes.get(&id).is_some_and(|standing| standing.dead_for(now_ms, settings.replace_after_ms));
        long && !seen.members.voters.contains(&id) && !holds(state, id)
    };
    let waited_for = state.nodes().iter().map(|node| node.id).filter(|id| !is_lost(*id));
    let lowest = waited_for.map(speaks).min()?.min(VERSION.into());
    let version = u8::try_from(lowest).ok().filter(|version| *version > state.orders().version())?;
    Some(Command::Order(Order::Raise { version, starts: state.starts() }))
}

/// A node that leaves, has nothing any more and does not vote, is gone.
fn remove(settings: &Settings, seen: &Seen<'_>) -> Option<Command> {
    let state = seen.state;
    let votes = |id: NodeId| !seen.members.settled || seen.members.voters.contains(&id);
    let gone = |id: NodeId| id != settings.me && state.orders().leaves(id) && !votes(id) && !holds(state, id);
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
    let has = |id: &NodeId| nodes.get(id).map_or(0, |standing| standing.applied);
    seen.members.voters.iter().copied().filter(can_lead).max_by_key(has)
}
