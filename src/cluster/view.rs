//! What a node knows of its cluster: the nodes, which of them leads each partition, and who has copies.
//!
//! A view is a plain value that is never changed: a newer one takes its place on every core. From it come the routing of
//! requests ([`crate::route::Router`]) and the answers to CLUSTER.
//!
//! Clients are told of *targets*. Without more that is a node. If the cores of a node have ports of their own (`core-endpoints`),
//! each of them is a target as well, and has the slots of the partitions that it owns: a client sends each request to the core that
//! has the key, so none has to be handed on. For a client they are nodes like any other, each with an id of its own. The node's
//! own port goes on to take any request, and has no slots.
//!
//! Invariants ([`View::new`] checks them): a view has at least one node, itself one of them, and leaders are among them; there
//! is a power of two of partitions.

use std::ops::RangeInclusive;

use super::COPIES_MAX;
use crate::route::{CoreId, SLOTS, owner_of};

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
    /// The port of its first core, whose followers are those of the next ones, and how many there are; None: clients are not
    /// told of cores.
    pub cores: Option<CorePorts>,
}

/// Ports of a node's cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorePorts {
    pub first: u16,
    /// At least 1.
    pub count: u16,
}

/// What clients are told of: a node (a place in [`View::nodes`]), or one of its cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub node: usize,
    pub core: Option<CoreId>,
}

/// Digits of an id that tell cores of a node apart.
const CORE_DIGITS: usize = 8;

impl Endpoint {
    /// As it is advertised: as itself, or as one of its cores.
    pub fn of_core(&self, core: Option<CoreId>) -> Endpoint {
        let Some((core, ports)) = core.zip(self.cores) else { return self.clone() };
        let (own, _) = self.id.split_at(self.id.len().saturating_sub(CORE_DIGITS));
        let mut hash = crc32fast::Hasher::new();
        hash.update(self.id.as_bytes());
        hash.update(&core.to_be_bytes());
        Endpoint { id: format!("{own}{:08x}", hash.finalize()), port: ports.first + core, ..self.clone() }
    }
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

/// Places in [`View::nodes`], at most [`COPIES_MAX`]. They need no memory of their own: a view has them for each partition, and
/// each change of a role makes a view.
#[derive(Clone, Copy, Default)]
pub struct Places {
    places: [u16; COPIES_MAX],
    len: u8,
}

impl FromIterator<u16> for Places {
    /// Those beyond the most that there can be are left out.
    fn from_iter<I: IntoIterator<Item = u16>>(iter: I) -> Places {
        let mut made = Places::default();
        for (place, node) in made.places.iter_mut().zip(iter) {
            *place = node;
            made.len += 1;
        }
        made
    }
}

impl std::ops::Deref for Places {
    type Target = [u16];

    fn deref(&self) -> &[u16] {
        &self.places[..usize::from(self.len)]
    }
}

impl PartialEq for Places {
    fn eq(&self, other: &Places) -> bool {
        **self == **other
    }
}

impl Eq for Places {}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

/// Who has a partition. Nodes are places in [`View::nodes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// How often its leader has changed.
    pub epoch: u64,
    /// None: nobody leads it.
    pub leader: Option<u16>,
    /// While nobody leads it: who may lead it next. Clients are told of it as if it did, as by Redis of a primary that fails:
    /// many take a table of slots with holes for none at all.
    pub expected: Option<u16>,
    pub gate: Gate,
    /// Who else has a copy that is in sync.
    pub followers: Places,
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
    /// Grows with every change of a leader; 0: this node has not heard yet who leads now.
    epoch: u64,
    /// Of the views that this node makes, counted from 1; 0: the node is alone.
    number: u64,
}

impl View {
    pub fn new(nodes: Vec<Endpoint>, me: usize, partitions: Vec<Roles>, epoch: u64, number: u64) -> View {
        let all =
            |roles: &Roles| roles.leader.into_iter().chain(roles.expected).chain(roles.followers.iter().copied()).max();
        let named = |roles: &Roles| all(roles).is_none_or(|at| usize::from(at) < nodes.len());
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

    /// The same, but that no gate is closed which was not: those are about to be ([`Gate::Closing`]).
    pub fn ajar(&self, before: &View) -> View {
        let ajar = |(roles, before): (&Roles, &Roles)| match (before.gate, roles.gate) {
            (Gate::Open | Gate::Closing, Gate::Closed) => Roles { gate: Gate::Closing, ..*roles },
            _ => *roles,
        };
        let partitions = self.partitions.iter().zip(&before.partitions).map(ajar).collect();
        View { nodes: self.nodes.clone(), partitions, ..*self }
    }

    /// Whether it says the same as another one.
    pub fn is_same_as(&self, other: &View) -> bool {
        (&self.nodes, self.me, &self.partitions, self.epoch) == (&other.nodes, other.me, &other.partitions, other.epoch)
    }

    /// Whether this node serves by it as by another one: they differ at most in who else has copies.
    pub fn serves_as(&self, other: &View) -> bool {
        let me = self.me as u16;
        let same = |(a, b): (&Roles, &Roles)| {
            Roles { followers: b.followers, ..*a } == *b && a.followers.contains(&me) == b.followers.contains(&me)
        };
        (&self.nodes, self.me, self.epoch, self.partitions.len())
            == (&other.nodes, other.me, other.epoch, other.partitions.len())
            && self.partitions.iter().zip(&other.partitions).all(same)
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

    /// Whether this node has heard who leads since it has begun.
    pub fn is_informed(&self) -> bool {
        self.epoch > 0
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

    /// All that clients are told of, by node and core.
    pub fn targets(&self) -> Vec<Target> {
        let of = |(node, endpoint): (usize, &Endpoint)| {
            let cores = 0..endpoint.cores.map_or(0, |ports| ports.count);
            std::iter::once(None).chain(cores.map(Some)).map(move |core| Target { node, core })
        };
        self.nodes.iter().enumerate().flat_map(of).collect()
    }

    /// How a target is advertised.
    pub fn advertised(&self, target: Target) -> Endpoint {
        self.nodes[target.node].of_core(target.core)
    }

    /// Where clients are sent with requests about a slot.
    pub fn target_of(&self, slot: u16) -> Option<Target> {
        let node = self.leader_of(slot)?;
        Some(self.target(node, self.partition_of(slot)))
    }

    fn target(&self, node: usize, partition: u16) -> Target {
        let owner = |ports: CorePorts| owner_of(partition, self.partitions(), ports.count);
        Target { node, core: self.nodes[node].cores.map(owner) }
    }

    /// Slots that have one target and lie together, ascending, each with its target, which may only be expected to serve them.
    pub fn ranges(&self) -> Vec<(RangeInclusive<u16>, Target)> {
        let width = SLOTS / self.partitions.len() as u16;
        let mut ranges: Vec<(RangeInclusive<u16>, Target)> = Vec::new();
        for (partition, roles) in (0..).zip(&self.partitions) {
            let Some(leader) = roles.leader.or(roles.expected) else { continue };
            let target = self.target(usize::from(leader), partition);
            let (first, last) = (partition * width, partition * width + (width - 1));
            match ranges.last_mut() {
                Some((range, same)) if *same == target && *range.end() + 1 == first => *range = *range.start()..=last,
                _ => ranges.push((first..=last, target)),
            }
        }
        ranges
    }

    /// Slots that have a leader.
    pub fn slots_led(&self) -> usize {
        self.leaders().flatten().count() * (SLOTS as usize / self.partitions.len())
    }

    /// Those of them whose leader is not heard of.
    pub fn slots_failed(&self) -> usize {
        let failed = self.leaders().flatten().filter(|&leader| !self.nodes[leader].alive);
        failed.count() * (SLOTS as usize / self.partitions.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(n: u16) -> Endpoint {
        let (id, host) = (format!("{n:040x}"), format!("10.0.0.{n}"));
        Endpoint { id, host, port: 7000 + n, alive: true, cores: None }
    }

    fn node(node: usize) -> Target {
        Target { node, core: None }
    }

    #[test]
    fn slots_are_in_ranges_of_their_leaders() {
        let leaders = [Some(0), Some(0), Some(1), None, Some(1), Some(2), Some(0), Some(0)];
        let roles = leaders.map(|leader| Roles { leader, ..Roles::default() }).to_vec();
        let view = View::new((0..3).map(endpoint).collect(), 0, roles, 9, 1);
        let ranges = view.ranges();
        let expected = [(0..=4095, 0), (4096..=6143, 1), (8192..=10239, 1), (10240..=12287, 2), (12288..=16383, 0)];
        assert_eq!(ranges, expected.map(|(range, at)| (range, node(at))));
        for slot in 0..SLOTS {
            let range = ranges.iter().find(|(range, _)| range.contains(&slot));
            assert_eq!(view.target_of(slot), range.map(|&(_, target)| target), "{slot}");
            assert_eq!(view.leads(slot / 2048), view.leader_of(slot) == Some(0));
        }
        assert_eq!(view.slots_led(), 7 * 2048);
    }

    #[test]
    fn a_node_serves_as_before_if_only_copies_of_others_change() {
        let first = Roles { epoch: 3, leader: Some(0), followers: [1].into_iter().collect(), ..Roles::default() };
        let view = |me, nodes: u16, roles: Roles| {
            View::new((0..nodes).map(endpoint).collect(), me, vec![roles, first], roles.epoch, 7)
        };
        let with = |followers: &[u16]| Roles { followers: followers.iter().copied().collect(), ..first };
        let serves = |me, roles| view(me, 4, roles).serves_as(&view(me, 4, first));
        for me in 0..4 {
            assert!(serves(me, first));
            // Node 3 gets a copy, or node 1 has none any more.
            assert_eq!((serves(me, with(&[1, 3])), serves(me, with(&[]))), (me != 3, me != 1));
            for other in [
                Roles { epoch: 4, ..first },
                Roles { leader: Some(2), ..first },
                Roles { leader: None, expected: Some(1), ..first },
                Roles { gate: Gate::Closing, ..first },
                Roles { few_in_sync: true, ..first },
            ] {
                assert!(!serves(me, other), "{other:?}");
            }
            assert!(!view(me, 5, first).serves_as(&view(me, 4, first)));
        }
        assert!(!view(0, 4, first).serves_as(&view(1, 4, first)));
        let same = |roles| view(0, 4, roles).is_same_as(&view(0, 4, first));
        assert!(same(first) && !same(with(&[2])));
    }

    #[test]
    fn there_are_no_more_places_than_copies() {
        let places: Places = (0..20).collect();
        assert_eq!(*places, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_ne!(places, (0..7).collect());
        assert_eq!(format!("{:?}", (3..5).collect::<Places>()), "[3, 4]");
    }

    #[test]
    fn slots_that_nobody_leads_are_shown_with_who_may_be_next() {
        let roles = [(Some(0), None), (None, Some(1)), (None, None), (Some(1), None)];
        let roles = roles.map(|(leader, expected)| Roles { leader, expected, ..Roles::default() });
        let alive = |n: u16| Endpoint { alive: n == 0, ..endpoint(n) };
        let view = View::new((0..2).map(alive).collect(), 0, roles.to_vec(), 9, 1);
        assert_eq!(view.ranges(), [(0..=4095, node(0)), (4096..=8191, node(1)), (12288..=16383, node(1))]);
        assert_eq!(view.slots_failed(), 4096, "only what is led");
        assert_eq!((view.target_of(4096), view.leader_of(4096), view.slots_led()), (None, None, 8192));
    }

    #[test]
    fn slots_are_sent_to_the_cores_that_own_them() {
        let with_cores = |n, count| Endpoint { cores: Some(CorePorts { first: 8000, count }), ..endpoint(n) };
        let nodes = vec![with_cores(1, 2), endpoint(2), with_cores(3, 3)];
        let leaders = [0, 0, 0, 1, 1, 2, 2, 2].map(|leader| Roles { leader: Some(leader), ..Roles::default() });
        let view = View::new(nodes, 0, leaders.to_vec(), 9, 1);
        let core = |node, core| Target { node, core: Some(core) };
        let expected =
            [(0..=6143, core(0, 0)), (6144..=10239, node(1)), (10240..=12287, core(2, 1)), (12288..=16383, core(2, 2))];
        assert_eq!(view.ranges(), expected);
        let all = [node(0), core(0, 0), core(0, 1), node(1), node(2), core(2, 0), core(2, 1), core(2, 2)];
        assert_eq!(view.targets(), all);
        // Ids are of the form that clients expect, and each its own.
        let advertised: Vec<Endpoint> = all.iter().map(|&target| view.advertised(target)).collect();
        let mut ids: Vec<&str> = advertised.iter().map(|endpoint| &endpoint.id[..]).collect();
        assert!(ids.iter().all(|id| id.len() == 40 && id.bytes().all(|digit| digit.is_ascii_hexdigit())));
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all.len());
        let ports: Vec<u16> = advertised.iter().map(|endpoint| endpoint.port).collect();
        assert_eq!(ports, [7001, 8000, 8001, 7002, 7003, 8000, 8001, 8002]);
    }

    #[test]
    fn any_number_of_partitions_covers_all_slots() {
        for partitions in (0..=14).map(|log| 1u16 << log) {
            let view = View::alone(endpoint(1), partitions);
            assert_eq!(view.ranges(), [(0..=SLOTS - 1, node(0))]);
            assert_eq!(view.slots_led(), SLOTS as usize);
        }
    }
}
