//! The steps from the placement that there is to the one that is planned.
//!
//! A copy moves in three steps: the new one is placed beside the old one (`Place`); once all that shall stay are in sync, the
//! old one leaves the in-sync set (`SetInSync`, which anybody may propose: it only takes less for a write to be committed);
//! then it is placed no more (`Place`). What is under way stands in the state alone, so another leader goes on with it.
//!
//! Only so many copies are received by a node, or sent by a primary, at a time. A node that never gets in sync holds up what
//! goes to it, and no other. None is begun while it is the turn of roles ([`super::turns`]).
//!
//! What is left as it is:
//! - A partition whose primary is not there, or dead: there is nobody to copy from.
//! - The copy of a primary: it stays in the place of another copy, or beside the only one. Its role moves first
//!   ([`super::roles`]), and then that copy is one like others.
//! - Copies of dead nodes that nobody takes the place of: when there are fewer nodes than copies, to drop them would only mean that
//!   all of it has to be sent again when they are back. Not those of nodes that leave: they are not coming back.

use std::collections::BTreeMap;

use super::plan::Wanted;
use super::standing::{Standing, is_alive};
use super::{INCOMING_MAX, OUTGOING_MAX, Settings};
use crate::cluster::{self, Copies};
use crate::raft::command::{Command, InSyncChange, Member, NodeId, PartitionId, Placement, REPLICAS_MAX};
use crate::raft::state::{Partition, State};

/// What is to be proposed.
#[derive(Debug, Default)]
pub struct Steps {
    pub place: Option<Command>,
    pub shrink: Option<Command>,
    /// Copies that are received, or wait for that.
    pub moving: usize,
}

/// Who shall have copies of a partition in the end, the preferred primary first.
fn target(is: &Partition, plan: &Copies, copies: usize, leaves: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
    let mut target: Vec<NodeId> = plan.nodes().collect();
    if let Some(primary) = is.primary.filter(|primary| !target.contains(primary)) {
        let fresh = target.iter().rposition(|node| !is.replicas.contains(node));
        match &mut target[..] {
            // With one copy, there is a second one until the role has moved.
            [_] => target.push(primary),
            several => several[fresh.unwrap_or(several.len() - 1)] = primary,
        }
    }
    for node in &is.replicas {
        if target.len() < copies && !target.contains(node) && !leaves(*node) {
            target.push(*node);
        }
    }
    target
}

/// Copies on their way, by who receives and who sends.
#[derive(Default)]
struct Traffic {
    incoming: BTreeMap<NodeId, usize>,
    outgoing: BTreeMap<NodeId, usize>,
    /// No further one is begun.
    is_closed: bool,
}

impl Traffic {
    fn add(&mut self, from: NodeId, to: NodeId) {
        *self.outgoing.entry(from).or_default() += 1;
        *self.incoming.entry(to).or_default() += 1;
    }

    fn has_room(&self, from: NodeId, to: NodeId) -> bool {
        let count = |of: &BTreeMap<NodeId, usize>, node| of.get(&node).copied().unwrap_or(0);
        !self.is_closed && count(&self.outgoing, from) < OUTGOING_MAX && count(&self.incoming, to) < INCOMING_MAX
    }
}

/// Copies on their way, as the state has them: who sends, and who receives.
fn copies<'a>(
    state: &'a State,
    nodes: &'a BTreeMap<NodeId, Standing>,
) -> impl Iterator<Item = (NodeId, NodeId)> + use<'a> {
    let placed = state.partitions().iter().filter_map(|is| Some((is, is.primary?)));
    placed.filter(|(_, primary)| is_alive(nodes, *primary)).flat_map(|(is, primary)| {
        let lacking = is.replicas.iter().filter(|node| !is.in_sync.contains(node) && is_alive(nodes, **node));
        lacking.map(move |node| (primary, *node))
    })
}

/// Whether copies are on their way.
pub fn is_copying(state: &State, nodes: &BTreeMap<NodeId, Standing>) -> bool {
    copies(state, nodes).next().is_some()
}

/// What is to be done with one partition.
enum Step {
    Place(Vec<NodeId>),
    Shrink(Vec<NodeId>),
    /// Copies that have to wait for others.
    Wait(usize),
    Nothing,
}

/// The next steps; none that begins a copy, unless these may.
pub fn steps(
    settings: &Settings,
    state: &State,
    plan: &cluster::Placement,
    wanted: &Wanted,
    nodes: &BTreeMap<NodeId, Standing>,
    copies_may_begin: bool,
) -> Steps {
    let is_alive = |node| is_alive(nodes, node);
    let stays = |node: NodeId| wanted.members.binary_search_by_key(&node, |member| member.id).is_ok();
    let mut traffic = Traffic { is_closed: !copies_may_begin, ..Traffic::default() };
    copies(state, nodes).for_each(|(from, to)| traffic.add(from, to));
    let mut steps = Steps { moving: traffic.incoming.values().sum(), ..Steps::default() };
    let (mut changes, mut shrinks) = (Vec::new(), Vec::new());
    for ((id, is), plan) in (0..).zip(state.partitions()).zip(&plan.partitions) {
        let step = match is.primary {
            _ if is.epoch == 0 => Step::Place(plan.nodes().collect()),
            Some(primary) if is_alive(primary) => {
                let target = target(is, plan, settings.copies, |node| state.orders().leaves(node));
                step(is, primary, &target, &mut traffic, &is_alive, &stays)
            }
            _ => Step::Nothing,
        };
        match step {
            Step::Place(replicas) => changes.push(Placement { partition: id, replicas }),
            Step::Shrink(in_sync) => shrinks.extend(shrink(state, id, is, &in_sync)),
            Step::Wait(copies) => steps.moving += copies,
            Step::Nothing => {}
        }
    }
    steps.place = (!changes.is_empty()).then(|| Command::Place { version: state.placement_version(), changes });
    steps.shrink = (!shrinks.is_empty()).then_some(Command::SetInSync { changes: shrinks });
    steps
}

fn step(
    is: &Partition,
    primary: NodeId,
    target: &[NodeId],
    traffic: &mut Traffic,
    is_alive: &dyn Fn(NodeId) -> bool,
    stays: &dyn Fn(NodeId) -> bool,
) -> Step {
    let missing = || target.iter().copied().filter(|node| !is.replicas.contains(node));
    if missing().next().is_some() {
        let mut replicas = is.replicas.clone();
        for node in missing().filter(|node| is_alive(*node)) {
            if replicas.len() < REPLICAS_MAX && traffic.has_room(primary, node) {
                traffic.add(primary, node);
                replicas.push(node);
            }
        }
        let begins = replicas.len() > is.replicas.len();
        return if begins { Step::Place(replicas) } else { Step::Wait(missing().count()) };
    }
    if is.replicas == target {
        return Step::Nothing;
    }
    if is.replicas.len() == target.len() {
        // Another order: who is preferred as primary.
        return Step::Place(target.to_vec());
    }
    if !target.iter().all(|node| is.in_sync.contains(node) || !stays(*node)) {
        return Step::Nothing;
    }
    if is.in_sync.iter().all(|node| target.contains(node)) {
        return Step::Place(target.to_vec());
    }
    Step::Shrink(is.in_sync.iter().copied().filter(|node| target.contains(node)).collect())
}

fn shrink(state: &State, partition: PartitionId, is: &Partition, in_sync: &[NodeId]) -> Option<InSyncChange> {
    let members: Option<Vec<Member>> = in_sync.iter().map(|node| state.member(*node)).collect();
    Some(InSyncChange { partition, epoch: is.epoch, version: is.in_sync_version, in_sync: members? })
}
