//! What a node knows of its cluster: the nodes, which of them leads each partition, and who has copies.
//!
//! A view is a plain value that is never changed: a newer one takes its place on every core. From it come the routing of
//! requests ([`crate::route::Router`]) and the answers to CLUSTER.
//!
//! Invariants ([`View::new`] checks them): a view has at least one node, itself one of them, and leaders are among them; there
//! is a power of two of partitions.

use std::ops::RangeInclusive;

use crate::route::SLOTS;

/// A node, as clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// 40 hexadecimal digits.
    pub id: String,
    /// Where clients reach it; empty, of this node only: where they have reached it.
    pub host: String,
    /// 0, of this node only: where they have reached it.
    pub port: u16,
    /// It is heard of.
    pub alive: bool,
}

/// What becomes of requests about a partition while its role moves from one node to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// They are executed, or sent to who leads.
    #[default]
    Open,
    /// They wait. What this node has begun goes on.
    Closing,
    /// They wait, and this node executes nothing about it: its role has gone, or comes, or may have gone.
    Closed,
}

/// Who has a partition. Nodes are places in [`View::nodes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// How often its leader has changed.
    pub epoch: u64,
    /// None: nobody leads it.
    pub leader: Option<u16>,
    pub gate: Gate,
    /// Who else has a copy that is in sync.
    pub followers: Vec<u16>,
    /// Fewer copies are in sync than `min-insync`: what waits for several copies is refused.
    pub few_in_sync: bool,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    nodes: Vec<Endpoint>,
    /// This node among them.
    me: usize,
    partitions: Vec<Roles>,
    /// The gate of some partition is not open.
    holds: bool,
    /// Grows with every change of a leader.
    epoch: u64,
    /// Of the views that this node makes, counted from 1; 0: the node is alone.
    number: u64,
}

impl View {
    pub fn new(nodes: Vec<Endpoint>, me: usize, partitions: Vec<Roles>, epoch: u64, number: u64) -> View {
        let named = |roles: &Roles| roles.leader.iter().chain(&roles.followers).all(|&at| (at as usize) < nodes.len());
        assert!(me < nodes.len() && partitions.iter().all(named));
        assert!(partitions.len().is_power_of_two() && partitions.len() <= SLOTS as usize);
        let holds = partitions.iter().any(|roles| roles.gate != Gate::Open);
        View { nodes, me, partitions, holds, epoch, number }
    }

    /// A cluster of one node, which leads everything.
    pub fn alone(node: Endpoint, partitions: u16) -> View {
        let roles = Roles { leader: Some(0), ..Roles::default() };
        View::new(vec![node], 0, vec![roles; partitions as usize], 1, 0)
    }

    /// Whether it says the same as another one.
    pub fn is_same_as(&self, other: &View) -> bool {
        (&self.nodes, self.me, &self.partitions, self.epoch) == (&other.nodes, other.me, &other.partitions, other.epoch)
    }

    /// Which of its node's views this is.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Who has a partition.
    pub fn roles(&self, partition: u16) -> &Roles {
        &self.partitions[partition as usize]
    }

    fn leaders(&self) -> impl Iterator<Item = Option<usize>> + '_ {
        self.partitions.iter().map(|roles| roles.leader.map(usize::from))
    }

    pub fn nodes(&self) -> &[Endpoint] {
        &self.nodes
    }

    pub fn me(&self) -> usize {
        self.me
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether this node leads a partition, as others see it: its gate may be closed.
    pub fn is_leader(&self, partition: u16) -> bool {
        self.roles(partition).leader == Some(self.me as u16)
    }

    /// Whether this node leads a partition, and executes what was begun about it.
    pub fn leads(&self, partition: u16) -> bool {
        self.is_leader(partition) && self.roles(partition).gate != Gate::Closed
    }

    /// Whether requests about some partition wait.
    #[inline]
    pub fn holds_any(&self) -> bool {
        self.holds
    }

    /// Whether requests about the partition of a slot wait.
    pub fn holds(&self, slot: u16) -> bool {
        self.holds && self.roles(self.partition_of(slot)).gate != Gate::Open
    }

    /// Whether nothing about a partition may be executed here, and yet it is not refused.
    pub fn is_closed(&self, partition: u16) -> bool {
        self.holds && self.roles(partition).gate == Gate::Closed
    }

    /// Whether this node has a copy of a partition that another one leads, or nobody.
    pub fn follows(&self, partition: u16) -> bool {
        !self.is_leader(partition) && self.roles(partition).followers.contains(&(self.me as u16))
    }

    /// Whether this is one of a cluster of several nodes, or was.
    pub fn is_shared(&self) -> bool {
        self.number > 0
    }

    pub fn partitions(&self) -> u16 {
        self.partitions.len() as u16
    }

    /// Which node leads the partition of a slot.
    pub fn leader_of(&self, slot: u16) -> Option<usize> {
        self.roles(self.partition_of(slot)).leader.map(usize::from)
    }

    /// The partition of a slot.
    pub fn partition_of(&self, slot: u16) -> u16 {
        (slot as usize * self.partitions.len() / SLOTS as usize) as u16
    }

    /// Slots that have one leader and lie together, ascending, each with its leader.
    pub fn ranges(&self) -> Vec<(RangeInclusive<u16>, usize)> {
        let width = SLOTS / self.partitions.len() as u16;
        let mut ranges: Vec<(RangeInclusive<u16>, usize)> = Vec::new();
        for (partition, leader) in (0..).zip(self.leaders()) {
            let Some(leader) = leader else { continue };
            let (first, last) = (partition * width, partition * width + (width - 1));
            match ranges.last_mut() {
                Some((range, same)) if *same == leader && *range.end() + 1 == first => *range = *range.start()..=last,
                _ => ranges.push((first..=last, leader)),
            }
        }
        ranges
    }

    /// Slots that have a leader.
    pub fn slots_led(&self) -> usize {
        self.leaders().flatten().count() * (SLOTS as usize / self.partitions.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(n: u16) -> Endpoint {
        Endpoint { id: format!("{n:040x}"), host: format!("10.0.0.{n}"), port: 7000 + n, alive: true }
    }

    #[test]
    fn slots_are_in_ranges_of_their_leaders() {
        let leaders = [Some(0), Some(0), Some(1), None, Some(1), Some(2), Some(0), Some(0)];
        let roles = leaders.map(|leader| Roles { leader, ..Roles::default() }).to_vec();
        let view = View::new((0..3).map(endpoint).collect(), 0, roles, 9, 1);
        let ranges = view.ranges();
        let expected = [(0..=4095, 0), (4096..=6143, 1), (8192..=10239, 1), (10240..=12287, 2), (12288..=16383, 0)];
        assert_eq!(ranges, expected);
        for slot in 0..SLOTS {
            let range = ranges.iter().find(|(range, _)| range.contains(&slot));
            assert_eq!(view.leader_of(slot), range.map(|&(_, leader)| leader), "{slot}");
            assert_eq!(view.leads(slot / 2048), view.leader_of(slot) == Some(0));
        }
        assert_eq!(view.slots_led(), 7 * 2048);
    }

    #[test]
    fn any_number_of_partitions_covers_all_slots() {
        for partitions in (0..=14).map(|log| 1u16 << log) {
            let view = View::alone(endpoint(1), partitions);
            assert_eq!(view.ranges(), [(0..=SLOTS - 1, 0)]);
            assert_eq!(view.slots_led(), SLOTS as usize);
        }
    }
}
