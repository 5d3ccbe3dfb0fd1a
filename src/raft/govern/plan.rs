//! Who shall have copies: which nodes a placement is made for.
//!
//! Nodes that are alive, and those that are dead for a short time only and have copies: they keep them. None that leaves. The
//! plan itself is [`crate::cluster::place`]; what is done about it is in [`super::moves`].

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::Settings;
use super::standing::Standing;
use crate::cluster::{Copies, Member, PlaceError, Placement, Rule};
use crate::raft::command::NodeId;
use crate::raft::state::{Partition, State};
use crate::shard::SteadyMs;

/// What a plan is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// In the order of their numbers.
    pub members: Vec<Member>,
    pub rule: Rule,
}

/// A plan.
#[derive(Clone, Debug)]
pub struct Goal {
    pub wanted: Wanted,
    pub placement: Result<Placement, PlaceError>,
}

/// What a plan should be for now; None: there is nothing to place, or not on enough nodes.
pub fn wanted(
    settings: &Settings,
    state: &State,
    nodes: &BTreeMap<NodeId, Standing>,
    now_ms: SteadyMs,
) -> Option<Wanted> {
    if state.partitions().is_empty() {
        return None;
    }
    let placed = state.partitions().iter().any(|partition| partition.epoch > 0);
    let holds = |id: NodeId| state.partitions().iter().any(|is| is.replicas.contains(&id));
    let racks: BTreeSet<&str> = state.nodes().iter().map(|node| node.profile.rack.as_str()).collect();
    let stays = |id: NodeId| {
        nodes.get(&id).is_some_and(|standing| {
            let short = !standing.dead_for(now_ms, settings.replace_after_ms);
            standing.dead_ms.is_none() || short && holds(id)
        })
    };
    let member = |node: &crate::raft::state::Node| Member {
        id: node.id,
        weight: u32::from(node.profile.weight),
        rack: racks
            .iter()
            .position(|rack| **rack == node.profile.rack)
            .filter(|_| !node.profile.rack.is_empty())
            .map(|at| at as u32),
        alive: true,
    };
    let stays = |id: NodeId| stays(id) && !state.orders().leaves(id);
    let members: Vec<Member> = state.nodes().iter().filter(|node| stays(node.id)).map(member).collect();
    if members.is_empty() || !placed && members.len() < settings.nodes_wanted {
        return None;
    }
    Some(Wanted { members, rule: Rule { partitions: state.partitions().len(), copies: settings.copies } })
}

/// The placement that there is; None: there is none yet.
pub fn previous(state: &State) -> Option<Placement> {
    let copies = |partition: &Rc<Partition>| {
        let primary = partition.primary.or(partition.replicas.first().copied())?;
        let replicas = partition.replicas.iter().copied().filter(|node| *node != primary).collect();
        Some(Copies { primary, replicas })
    };
    let partitions: Option<Vec<Copies>> = state.partitions().iter().map(copies).collect();
    Some(Placement { partitions: partitions? })
}
