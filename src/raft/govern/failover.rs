//! Whose partitions get a new primary.
//!
//! Pure: the state and what is known of the nodes go in, a command comes out, if it would give somebody a partition. All dead are
//! named at once, so that none of them is chosen for what another one led.
//!
//! A dead primary that nobody can follow stays what it is for a while: nobody else leads the partition anyhow, and when the node is
//! heard of again it goes on where it was. Then it is deposed all the same, so that the state says that nobody leads, and an
//! operator can decide.
//!
//! Somebody who is dead may be waited for by those who settle what becomes of a loss ([`crate::raft::settle`]): then it is
//! said as well, so that they go on without.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::standing::Standing;
use super::{DEPOSE_AFTER_MS, Settings};
use crate::raft::command::{Command, Member, NodeId, PartitionId};
use crate::raft::state::{Partition, State};
use crate::raft::successors::Successor;
use crate::shard::SteadyMs;

/// The promotion that is due.
///
/// Whoever is deposed here is in the command, as it leads and so is in sync.
pub fn promote(
    settings: &Settings,
    state: &State,
    nodes: &BTreeMap<NodeId, Standing>,
    now_ms: SteadyMs,
) -> Option<Command> {
    let is_dead = |node: NodeId| nodes.get(&node).is_some_and(|standing| standing.dead_ms.is_some());
    let is_ready =
        |node: NodeId| nodes.get(&node).is_some_and(|standing| standing.ready && standing.is_fresh(settings, now_ms));
    let any_dead = nodes.values().any(|standing| standing.dead_ms.is_some());
    let placed = || (0..).zip(state.partitions()).filter(|(_, partition)| partition.epoch > 0);
    // This is asked fifty times a second, and nearly always nobody is dead.
    let orphans =
        || placed().filter(|(_, partition)| partition.primary.is_none_or(|primary| any_dead && is_dead(primary)));
    let is_lost = |node| nodes.get(&node).is_some_and(|standing| standing.dead_for(now_ms, DEPOSE_AFTER_MS));
    // Where somebody may have taken over, he is the only one who can lead; if he is gone, the primary is told so.
    let named: BTreeMap<PartitionId, (Successor, bool)> = state.named(|node| any_dead && is_dead(node)).collect();
    let due = |(id, partition): (PartitionId, &Rc<Partition>)| {
        let mut in_sync = partition.in_sync.iter().copied();
        let can = match named.get(&id).filter(|named| named.1) {
            Some((successor, _)) => is_ready(successor.to.node),
            None => in_sync.any(&is_ready),
        };
        can || partition.primary.is_some_and(is_lost)
    };
    let is_void = || named.values().any(|(successor, lives)| !lives && !successor.gone);
    // Nobody is waited for before somebody has asked.
    let mut asked = state.settlements().iter().filter(|settlement| any_dead && settlement.is_asked());
    if !orphans().any(due) && !is_void() && !asked.any(|settlement| settlement.waits_for_any(is_dead)) {
        return None;
    }
    let in_sync = placed().flat_map(|(_, partition)| partition.in_sync.iter().copied());
    let waited_for = state.settlements().iter().flat_map(|settlement| settlement.waits_for.iter().copied());
    let involved: BTreeSet<NodeId> = in_sync.chain(waited_for).collect();
    let members = |which: &dyn Fn(NodeId) -> bool| -> Vec<Member> {
        involved.iter().filter(|node| which(**node)).filter_map(|node| state.member(*node)).collect()
    };
    Some(Command::Promote { starts: state.starts(), dead: members(&is_dead), ready: members(&is_ready) })
}
