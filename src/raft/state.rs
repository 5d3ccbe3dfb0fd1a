//! The state of the cluster: its nodes, and for each partition who has copies, who leads and who is in sync.
//!
//! Pure: the same commands in the same order give the same state and the same replies on every node. Owned by the control
//! core, behind [`super::state_machine`].
//!
//! A *primary* changes only with a new epoch. A node that starts anew is in no in-sync set, as it may lack what it had
//! received and not synced; only the last one of a set stays there, for nobody else has the data: the set is frozen until
//! that node, ready again, is promoted. A partition without a primary serves nobody.
//!
//! If that node is lost for good, an operator may give the partition to another one that has a copy, by *force*: what only the
//! lost one had is given up. That is refused while there is a primary, as it may have a lease. A partition without one was taken
//! from a dead node by a `Promote`, whose proposer had seen its lease end; or from a node that has registered anew: the process
//! before that gets no lease any more, and the one that it may have ends before long, which whoever orders waits for.
//!
//! Invariants ([`State::validate`]):
//! - Node numbers are below `next_node`, which only grows: none is used again.
//! - A partition that was ever placed has an epoch of at least 1, copies on known nodes, no node twice, and at least one
//!   node in sync. One that was not has nothing of that.
//! - Whoever is in sync has a copy. The primary, if there is one, is in sync.
//! - Only a primary begins from nothing.
//!
//! Who leads is decided in `state/roles.rs`, and who may lead next is in [`super::successors`].

mod roles;
mod validate;

use std::rc::Rc;

use rkyv::{Archive, Deserialize, Serialize};

use super::command::{
    Command, Epoch, InSyncChange, Incarnation, Member, Move, NODES_MAX, NodeId, PartitionId, Placement, Profile,
    Refusal, Reply,
};
use super::orders::{Order, Orders};
use super::settle::{Losses, Settlements};
use super::stored::OLDEST;
use super::successors::{Successor, Successors, epoch_after};

/// A node of the cluster.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    /// Of its data directory.
    pub identity: u128,
    pub incarnation: Incarnation,
    /// What the process of this incarnation has drawn.
    pub boot: u128,
    pub profile: Profile,
}

/// A partition.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Grows with each change of `primary`; 0: it was never placed.
    pub epoch: Epoch,
    /// None: nobody serves.
    pub primary: Option<NodeId>,
    /// The preferred primary first.
    pub replicas: Vec<NodeId>,
    /// Who has everything that is committed. In the order of `replicas`. Invariant: not empty once it was placed.
    pub in_sync: Vec<NodeId>,
    /// Grows with each change of `in_sync`, and of who is in `replicas`: a copy that went and came back is another one, and
    /// who saw the old one catch up must look again.
    pub in_sync_version: u64,
    /// The primary leads by force, and may have begun this epoch without any data. Ends with the epoch.
    pub from_nothing: bool,
}

/// All of it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// In the order of their numbers.
    nodes: Vec<Node>,
    /// The number that the next node gets.
    next_node: NodeId,
    /// Empty: the data set has not begun. A clone of the state shares what has not changed since: each change of the state is
    /// looked at by several who keep the one before.
    #[rkyv(with = rkyv::with::Map<rkyv::with::Unshare>)]
    partitions: Vec<Rc<Partition>>,
    /// Grows with each change of the replicas of any partition.
    placement_version: u64,
    /// How often a process has started, of all nodes that there ever were.
    starts: u64,
    /// Beside the rest in a snapshot, which is as it was in version 2.
    #[rkyv(with = rkyv::with::Skip)]
    orders: Orders,
    /// Likewise. Shared as partitions are.
    #[rkyv(with = rkyv::with::Skip)]
    settlements: Rc<Settlements>,
    /// Likewise.
    #[rkyv(with = rkyv::with::Skip)]
    successors: Rc<Successors>,
}

impl Default for State {
    fn default() -> State {
        State {
            nodes: Vec::new(),
            next_node: 1,
            partitions: Vec::new(),
            placement_version: 0,
            starts: 0,
            orders: Orders::default(),
            settlements: Rc::default(),
            successors: Rc::default(),
        }
    }
}

impl Partition {
    fn stale(&self, partition: PartitionId) -> Refusal {
        Refusal::Stale { partition, epoch: self.epoch, version: self.in_sync_version }
    }

    /// Whether a set may become this one: it follows the one that is, keeps the primary, and has nobody without a copy.
    fn accepts(&self, change: &InSyncChange) -> bool {
        let is_member = |node: NodeId| change.in_sync.iter().any(|member| member.node == node);
        (self.epoch, self.in_sync_version) == (change.epoch, change.version)
            && self.primary.is_some_and(is_member)
            && change.in_sync.iter().all(|member| self.replicas.contains(&member.node))
    }

    /// `successor` is the one that was named for it.
    fn set_primary(&mut self, primary: Option<NodeId>, successor: Option<Successor>) {
        self.primary = primary;
        self.from_nothing = false;
        self.epoch = epoch_after(self.epoch, primary, successor);
    }

    /// Keeps those that `stays` accepts, if there are any.
    fn narrow(&mut self, stays: impl Fn(NodeId) -> bool) {
        if self.in_sync.iter().any(|node| stays(*node)) && !self.in_sync.iter().all(|node| stays(*node)) {
            self.in_sync.retain(|node| stays(*node));
            self.in_sync_version += 1;
        }
    }
}

impl State {
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok().map(|at| &self.nodes[at])
    }

    pub fn partitions(&self) -> &[Rc<Partition>] {
        &self.partitions
    }

    pub fn partition(&self, partition: PartitionId) -> Option<&Partition> {
        self.partitions.get(partition as usize).map(Rc::as_ref)
    }

    pub fn placement_version(&self) -> u64 {
        self.placement_version
    }

    /// How often a process has started, of all nodes that there ever were.
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// The number that the next node gets.
    #[cfg(test)]
    pub fn next_node(&self) -> NodeId {
        self.next_node
    }

    /// What operators have ordered, and the version that the cluster uses.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// What primaries have lost, and what becomes of transactions that it may have cut in two.
    pub fn settlements(&self) -> &Rc<Settlements> {
        &self.settlements
    }

    /// Who may take a role over.
    pub fn successors(&self) -> &Rc<Successors> {
        &self.successors
    }

    /// Who may take this role over.
    pub fn successor(&self, partition: PartitionId) -> Option<Successor> {
        self.successors.of(partition)
    }

    /// Whether nodes, orders and partitions are those of a state that this one was cloned from, or that was cloned from it.
    pub fn has_roles_of(&self, other: &State) -> bool {
        let same = |(one, other): (&Rc<Partition>, &Rc<Partition>)| Rc::ptr_eq(one, other);
        self.partitions.len() == other.partitions.len()
            && self.partitions.iter().zip(&other.partitions).all(same)
            && self.nodes == other.nodes
            && self.orders == other.orders
    }

    /// The state as it is when these roles have gone over to their successors.
    pub fn ahead(&self, gone: impl Iterator<Item = (Move, Successor)>) -> State {
        let mut state = self.clone();
        for (Move { partition, .. }, successor) in gone {
            if let Some(is) = state.placed_mut(partition, |_| true) {
                // Whoever was to begin and is gone leaves it to nobody, until raft has heard that the one before leads again.
                let primary = Some(successor.to.node).filter(|_| !successor.gone);
                is.set_primary(primary, Some(successor));
                is.epoch = successor.epoch;
                Rc::make_mut(&mut state.successors).forget(partition);
            }
        }
        state
    }

    /// The state with these: a snapshot has them beside it.
    pub fn with(self, orders: Orders, settlements: Settlements, successors: Successors) -> State {
        State { orders, settlements: Rc::new(settlements), successors: Rc::new(successors), ..self }
    }

    /// A node in the start that it is in now; None: it is not known, or has never started.
    pub fn member(&self, id: NodeId) -> Option<Member> {
        let node = self.node(id).filter(|node| node.incarnation > 0)?;
        Some(Member { node: id, incarnation: node.incarnation })
    }

    /// Executes a command. One that is refused changes nothing.
    pub fn apply(&mut self, command: &Command) -> Reply {
        if let Err(why) = command.check() {
            return Reply::Refused(Refusal::Malformed(why));
        }
        let result = match command {
            Command::Create { partitions } => self.create(*partitions),
            Command::Join { identity, profile } => self.join(*identity, profile),
            Command::Register { node, identity, boot, after, profile } => {
                self.register(*node, *identity, *boot, *after, profile)
            }
            Command::Remove { node } => self.remove(*node),
            Command::Place { version, changes } => self.place(*version, changes),
            Command::Promote { starts, dead, ready } => self.promote(*starts, dead, ready),
            Command::Lead { moves, to } => self.lead(moves, *to),
            Command::SetInSync { changes } => Ok(self.set_in_sync(changes)),
            Command::ForceLead { forced, to, lost } => self.force_lead(forced, *to, lost),
            Command::Order(order) => self.order(*order),
            Command::Reach { of, by, reached, lacking } => self.reach(*of, *by, *reached, lacking),
            Command::Name { moves, to } => self.name(moves, *to),
            Command::Keep { namings } => Ok(self.keep(namings)),
        };
        result.unwrap_or_else(Reply::Refused)
    }

    fn create(&mut self, partitions: u16) -> Result<Reply, Refusal> {
        match self.partitions.len() as u16 {
            0 => self.partitions.resize_with(partitions as usize, Rc::default),
            same if same == partitions => {}
            other => return Err(Refusal::AlreadyCreated { partitions: other }),
        }
        Ok(Reply::Created)
    }

    fn join(&mut self, identity: u128, profile: &Profile) -> Result<Reply, Refusal> {
        if let Some(node) = self.nodes.iter().find(|node| node.identity == identity) {
            // A node that has registered has its number on disk, and never asks. One that does has lost its raft directory,
            // so it does not know how it has voted, and under its old number it could vote a second time.
            let lost = node.incarnation > 0;
            return if lost { Err(Refusal::AlreadyRegistered(node.id)) } else { Ok(Reply::Joined { node: node.id }) };
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(Refusal::Full);
        }
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.push(Node { id, identity, incarnation: 0, boot: 0, profile: profile.clone() });
        Ok(Reply::Joined { node: id })
    }

    fn register(
        &mut self,
        id: NodeId,
        identity: u128,
        boot: u128,
        after: Incarnation,
        profile: &Profile,
    ) -> Result<Reply, Refusal> {
        let at = self.nodes.binary_search_by_key(&id, |node| node.id).map_err(|_| Refusal::UnknownNode(id))?;
        let node = &mut self.nodes[at];
        if node.identity != identity {
            return Err(Refusal::WrongIdentity(id));
        }
        if node.incarnation > 0 && node.boot == boot {
            return Ok(Reply::Registered { incarnation: node.incarnation });
        }
        if node.incarnation != after {
            return Err(Refusal::StaleIncarnation { node: id, incarnation: node.incarnation });
        }
        self.starts += 1;
        node.incarnation += 1;
        node.boot = boot;
        node.profile.clone_from(profile);
        let incarnation = node.incarnation;
        let mut losses = Losses::default();
        let successors = Rc::clone(&self.successors);
        for (number, shared) in (0..).zip(&mut self.partitions).filter(|(_, shared)| shared.in_sync.contains(&id)) {
            let partition = Rc::make_mut(shared);
            let epoch = partition.epoch;
            let successor = successors.of(number);
            let led = partition.primary == Some(id);
            if led {
                // Its successor, if there is one, stays the only one who may have begun.
                partition.set_primary(None, successor);
            }
            partition.narrow(|node| node != id);
            if led {
                losses.add(id, Move { partition: number, epoch }, &partition.in_sync);
            }
            if let Some(Successor { epoch, .. }) = successor.filter(|successor| successor.to.node == id) {
                losses.add(id, Move { partition: number, epoch }, &partition.in_sync);
            }
        }
        self.settle(losses, |node| node == id);
        Ok(Reply::Registered { incarnation })
    }

    fn remove(&mut self, id: NodeId) -> Result<Reply, Refusal> {
        let at = self.nodes.binary_search_by_key(&id, |node| node.id).map_err(|_| Refusal::UnknownNode(id))?;
        if self.orders.version() > OLDEST && !self.orders.leaves(id) {
            return Err(Refusal::Stays(id));
        }
        // Whoever is in sync has a copy, so replicas are all there is to look at.
        if let Some(partition) = self.partitions.iter().position(|partition| partition.replicas.contains(&id)) {
            return Err(Refusal::InUse { node: id, partition: partition as PartitionId });
        }
        // It may have begun, or somebody has yet to hear that it has not.
        if let Some((partition, _)) = self.successors.iter().find(|(_, successor)| successor.to.node == id) {
            return Err(Refusal::InUse { node: id, partition });
        }
        self.nodes.remove(at);
        self.orders.forget(id);
        self.settle(Losses::default(), |node| node == id);
        Ok(Reply::Removed)
    }

    fn order(&mut self, order: Order) -> Result<Reply, Refusal> {
        self.orders.apply(order, &self.nodes, self.starts)?;
        Ok(Reply::Ordered)
    }

    fn place(&mut self, version: u64, changes: &[Placement]) -> Result<Reply, Refusal> {
        if version != self.placement_version {
            return Err(Refusal::StalePlacement { version: self.placement_version });
        }
        // All of them or none.
        for change in changes {
            self.check_placement(change)?;
        }
        for Placement { partition, replicas } in changes {
            let partition = Rc::make_mut(&mut self.partitions[*partition as usize]);
            // Neither list has a node twice.
            let same = replicas.len() == partition.replicas.len()
                && replicas.iter().all(|node| partition.replicas.contains(node));
            partition.replicas.clone_from(replicas);
            if partition.epoch == 0 {
                // There is no data yet, so nobody lacks any.
                partition.in_sync = vec![replicas[0]];
                partition.set_primary(Some(replicas[0]), None);
            }
            if !same {
                partition.in_sync_version += 1;
            }
            let order = |node: &NodeId| replicas.iter().position(|replica| replica == node);
            partition.in_sync.sort_by_key(order);
        }
        self.placement_version += 1;
        Ok(Reply::Placed { version: self.placement_version })
    }

    fn check_placement(&self, change: &Placement) -> Result<(), Refusal> {
        let id = change.partition;
        let partition = self.partition(id).ok_or(Refusal::UnknownPartition(id))?;
        for node in &change.replicas {
            self.node(*node).ok_or(Refusal::UnknownNode(*node))?;
        }
        if let Some(node) = partition.in_sync.iter().find(|node| !change.replicas.contains(node)) {
            return Err(Refusal::StillInSync { partition: id, node: *node });
        }
        let first = change.replicas[0];
        if partition.epoch == 0 && self.node(first).is_some_and(|node| node.incarnation == 0) {
            return Err(Refusal::StaleIncarnation { node: first, incarnation: 0 });
        }
        Ok(())
    }

    /// Checks that a node is still in the incarnation that the proposer knew.
    fn check_member(&self, member: Member) -> Result<(), Refusal> {
        let node = self.node(member.node).ok_or(Refusal::UnknownNode(member.node))?;
        if node.incarnation != member.incarnation || member.incarnation == 0 {
            return Err(Refusal::StaleIncarnation { node: member.node, incarnation: node.incarnation });
        }
        Ok(())
    }

    /// A partition that was ever placed, if `fits` says so of it, to be changed.
    fn placed_mut(&mut self, id: PartitionId, fits: impl FnOnce(&Partition) -> bool) -> Option<&mut Partition> {
        let shared = self.partitions.get_mut(id as usize)?;
        (shared.epoch > 0 && fits(shared)).then(|| Rc::make_mut(shared))
    }

    fn set_in_sync(&mut self, changes: &[InSyncChange]) -> Reply {
        let mut changed = 0;
        for change in changes {
            // A node that has started anew since may lack what it had, though the set did not change by that.
            if change.in_sync.iter().any(|member| self.check_member(*member).is_err()) {
                continue;
            }
            // Whoever may take it over goes on with the set that he knows.
            let is_fixed = self.successors.of(change.partition).is_some();
            let accepts = |partition: &Partition| !is_fixed && partition.accepts(change);
            if let Some(partition) = self.placed_mut(change.partition, accepts) {
                let is_member = |node: &NodeId| change.in_sync.iter().any(|member| member.node == *node);
                partition.in_sync = partition.replicas.iter().copied().filter(is_member).collect();
                partition.in_sync_version += 1;
                changed += 1;
            }
        }
        Reply::InSync { changed, stale: changes.len() as u32 - changed }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
