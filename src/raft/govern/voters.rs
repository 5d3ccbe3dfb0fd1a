//! Who votes in raft: one, three or five nodes; all others learn.
//!
//! As many as there are nodes, up to five, and always an odd number: an even one outlives no more deaths than the odd one below
//! it. Voters that are alive stay, unless others spread better over racks; a dead one is replaced after a while, if another
//! node is there; with more than three, it is done without, if not. A node that leaves is the last choice, and none once it has
//! no copies. A leader that leaves changes nothing while another voter could lead: that one will. Nodes begin as learners, so
//! that they have the log when they vote.
//!
//! Invariant: a majority of those who are to vote is alive, or nothing changes; else nothing could be decided any more.
//!
//! Pure. One change of the membership at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::governor::{Action, Seen, Ticket};
use super::standing::{Standing, is_alive};
use super::{Settings, VOTER_LAG_ENTRIES, VOTERS_MAX};
use crate::raft::command::NodeId;
use crate::raft::state::Node;
use crate::raft::types::Peer;
use crate::shard::SteadyMs;

/// Fewest voters that are kept though some of them are dead.
const VOTERS_KEPT: usize = 3;

fn peer(node: &Node) -> Peer {
    Peer { host: node.profile.host.clone(), bus_port: node.profile.bus_port }
}

/// The next change of raft's membership.
pub fn change(
    settings: &Settings,
    seen: &Seen<'_>,
    nodes: &BTreeMap<NodeId, Standing>,
    now_ms: SteadyMs,
    ticket: Ticket,
) -> Option<Action> {
    let (state, members) = (seen.state, seen.members);
    if !members.settled {
        // What is half done is finished first, as it was meant.
        return Some(Action::ChangeVoters { ticket, voters: members.voters.clone() });
    }
    if let Some(node) = state.nodes().iter().find(|node| !members.nodes.contains_key(&node.id)) {
        return Some(Action::AddLearner { ticket, node: node.id, peer: peer(node) });
    }
    let is_gone = |id: &NodeId| state.node(*id).is_none() && !members.voters.contains(id);
    if let Some(node) = members.nodes.keys().copied().find(is_gone) {
        return Some(Action::RemoveLearner { ticket, node });
    }
    let has_moved = |node: &&Node| node.incarnation > 0 && members.nodes.get(&node.id) != Some(&peer(node));
    if let Some(node) = state.nodes().iter().find(has_moved) {
        return Some(Action::SetPeer { ticket, node: node.id, peer: peer(node) });
    }
    let voters = choose(settings, seen, nodes, now_ms);
    (!voters.is_empty() && voters != *members.voters).then_some(Action::ChangeVoters { ticket, voters })
}

fn odd(count: usize) -> usize {
    if count.is_multiple_of(2) { count.saturating_sub(1) } else { count }
}

fn choose(
    settings: &Settings,
    seen: &Seen<'_>,
    nodes: &BTreeMap<NodeId, Standing>,
    now_ms: SteadyMs,
) -> BTreeSet<NodeId> {
    let current = seen.members.voters;
    let standing = |node: &Node| nodes.get(&node.id);
    // Dead for a short time is as good as alive for who votes already.
    let stays = |node: &Node| {
        let short = standing(node).is_some_and(|standing| !standing.dead_for(now_ms, settings.revote_after_ms));
        current.contains(&node.id) && short
    };
    let may_begin = |node: &Node| {
        standing(node).is_some_and(|standing| {
            standing.dead_ms.is_none() && standing.applied.saturating_add(VOTER_LAG_ENTRIES) >= seen.applied
        })
    };
    let orders = seen.state.orders();
    let is_alive = |id: &NodeId| is_alive(nodes, *id);
    let leaves = orders.leaves(settings.me);
    if leaves && current.iter().any(|id| !orders.leaves(*id) && is_alive(id)) {
        return current.clone();
    }
    let holds = |id: NodeId| seen.state.partitions().iter().any(|partition| partition.replicas.contains(&id));
    let counts = |node: &&Node| !orders.leaves(node.id) || current.contains(&node.id) && holds(node.id);
    let registered = || seen.state.nodes().iter().filter(|node| node.incarnation > 0).filter(counts);
    let mut candidates: Vec<&Node> = registered().filter(|node| stays(node) || may_begin(node)).collect();
    // Those that are long dead fill up what would be too few.
    let kept = registered().filter(|node| current.contains(&node.id) && !stays(node) && !may_begin(node));
    let fewest = odd(registered().count().min(VOTERS_KEPT)).min(current.len());
    let count = odd(candidates.len().min(VOTERS_MAX)).max(fewest);
    let missing = count.saturating_sub(candidates.len());
    candidates.extend(kept.take(missing));

    let mut chosen = BTreeSet::new();
    let mut in_rack: BTreeMap<&str, usize> = BTreeMap::new();
    while chosen.len() < count {
        let rank = |node: &&&Node| {
            let rack = node.profile.rack.as_str();
            let shared = if rack.is_empty() { 0 } else { in_rack.get(rack).copied().unwrap_or(0) };
            // The leader votes on: it would have to go otherwise.
            (orders.leaves(node.id), node.id != settings.me, shared, !current.contains(&node.id), node.id)
        };
        let Some(node) = candidates.iter().filter(|node| !chosen.contains(&node.id)).min_by_key(rank) else { break };
        chosen.insert(node.id);
        *in_rack.entry(node.profile.rack.as_str()).or_default() += 1;
    }
    if leaves {
        // The only one who votes, until the other one leads.
        chosen.insert(settings.me);
    }
    let alive = chosen.iter().filter(|id| is_alive(id)).count();
    if 2 * alive > chosen.len() { chosen } else { current.clone() }
}
