//! Whose partitions get a new primary.
//!
//! Pure: the state and what is known of the nodes go in, a command comes out, if it would give somebody a partition. All dead are
//! named at once, so that none of them is chosen for what another one led.
//!
//! A dead primary that nobody can follow stays what it is: nobody else leads the partition anyhow, and when the node is heard of
//! again it goes on where it was.

use std::collections::{BTreeMap, BTreeSet};

use super::Settings;
use super::standing::Standing;
use crate::raft::command::{Command, Member, NodeId};
use crate::raft::state::State;
use crate::shard::SteadyMs;

/// The promotion that is due.
pub fn promote(
    settings: &Settings,
    state: &State,
    nodes: &BTreeMap<NodeId, Standing>,
    now_ms: SteadyMs,
) -> Option<Command> {
    let is_dead = |node: NodeId| nodes.get(&node).is_some_and(|standing| standing.dead_ms.is_some());
    let is_ready =
        |node: NodeId| nodes.get(&node).is_some_and(|standing| standing.ready && standing.is_fresh(settings, now_ms));
    let mut involved = BTreeSet::new();
    let mut promotes = false;
    for partition in state.partitions().iter().filter(|partition| partition.epoch > 0) {
        involved.extend(&partition.in_sync);
        if partition.primary.is_none_or(is_dead) {
            promotes |= partition.in_sync.iter().any(|node| is_ready(*node));
        }
    }
    if !promotes {
        return None;
    }
    let members = |which: &dyn Fn(NodeId) -> bool| -> Vec<Member> {
        involved.iter().filter(|node| which(**node)).filter_map(|node| state.member(*node)).collect()
    };
    Some(Command::Promote { starts: state.starts(), dead: members(&is_dead), ready: members(&is_ready) })
}
