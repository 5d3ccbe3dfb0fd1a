//! The ring of consistent hashing: which nodes a partition prefers, and in which order.
//!
//! Pure, owned by no core. Each node stands on a circle of 2^64 places, [`VIRTUAL_NODES_PER_WEIGHT`] times per unit of
//! weight; a partition has one place on it and prefers the nodes that it meets clockwise, each counted once (Karger et al.,
//! "Consistent Hashing and Random Trees", STOC 1997; virtual nodes: DeCandia et al., "Dynamo", SOSP 2007). A node that
//! comes or goes changes nothing in the order of the others, which is all that placement needs of it.
//!
//! # The hash
//!
//! Places come from SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014; the
//! constants are Stafford's variant 13): virtual node `k` of a node is output `k` of the generator seeded with
//! `mix(id ^ NODES_SEED)`, and partition `p` is output `p` of the one seeded with `PARTITIONS_SEED`. This never changes:
//! under another hash nearly every copy would be in the wrong place. A larger weight adds virtual nodes and keeps those
//! that were there.
//!
//! Invariants: points ascend by (place, node); each node has at least one.

use super::NodeId;

/// Virtual nodes of a node of weight 1: the load of a plain ring then differs by about 1 / sqrt(128) = 9 % (one sigma).
pub const VIRTUAL_NODES_PER_WEIGHT: usize = 128;

/// The increment of SplitMix64, 2^64 over the golden ratio.
const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;
/// "keyloomN" and "keyloomP": nodes and partitions are hashed apart.
const NODES_SEED: u64 = u64::from_be_bytes(*b"keyloomN");
const PARTITIONS_SEED: u64 = u64::from_be_bytes(*b"keyloomP");

/// The finaliser of SplitMix64, a bijection.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Output `n`, from 0 on, of SplitMix64 seeded with `seed`.
fn output(seed: u64, n: u64) -> u64 {
    mix(seed.wrapping_add(INCREMENT.wrapping_mul(n + 1)))
}

/// Where a partition stands on the circle.
pub fn place_of_partition(partition: usize) -> u64 {
    output(PARTITIONS_SEED, partition as u64)
}

/// Where virtual node `k` of a node stands.
fn place_of_node(id: NodeId, k: usize) -> u64 {
    output(mix(id ^ NODES_SEED), k as u64)
}

/// Nodes on the circle. They are told by their index in the list that the ring was made of.
#[derive(Clone, Debug)]
pub struct Ring {
    /// All virtual nodes: place and node, ascending.
    points: Vec<(u64, u16)>,
    /// The places of each node, ascending, so that the way to one node is found without going round.
    own: Vec<Vec<u64>>,
}

impl Ring {
    /// A ring of nodes with their weights. At most [`super::NODES_MAX`].
    pub fn new(nodes: impl IntoIterator<Item = (NodeId, u32)>) -> Self {
        let mut own: Vec<Vec<u64>> = Vec::new();
        for (id, weight) in nodes {
            assert!(weight > 0 && own.len() < super::NODES_MAX);
            let mut places: Vec<u64> =
                (0..weight as usize * VIRTUAL_NODES_PER_WEIGHT).map(|k| place_of_node(id, k)).collect();
            places.sort_unstable();
            own.push(places);
        }
        let place_and_node = |(node, places): (usize, &Vec<u64>)| -> Vec<(u64, u16)> {
            places.iter().map(|&place| (place, node as u16)).collect()
        };
        let mut points: Vec<(u64, u16)> = own.iter().enumerate().flat_map(place_and_node).collect();
        points.sort_unstable();
        Ring { points, own }
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.own.len()
    }

    /// How far a node is from `place`, clockwise. The order of these distances is the preference, racks aside.
    pub fn distance(&self, place: u64, node: usize) -> u64 {
        let own = &self.own[node];
        let next = own.partition_point(|&point| point < place);
        own[if next == own.len() { 0 } else { next }].wrapping_sub(place)
    }

    /// All nodes clockwise of `place`, each once.
    pub fn clockwise(&self, place: u64) -> impl Iterator<Item = usize> + '_ {
        let first = self.points.partition_point(|&(point, _)| point < place);
        let (before, after) = self.points.split_at(first);
        let mut met = vec![false; self.nodes()];
        let points = after.iter().chain(before).map(|&(_, node)| node as usize);
        // With the last node met, going on round the circle would find nothing new.
        points.filter(move |&node| !std::mem::replace(&mut met[node], true)).take(self.nodes())
    }

    /// The preference list of a partition: its first `count` nodes clockwise, those first that bring a rack not yet in
    /// the list, then those that are the second of their rack, and so on. `rack_of` has the rack of each node.
    pub fn preference(&self, partition: usize, count: usize, rack_of: &[u16]) -> Vec<usize> {
        let mut met: Vec<usize> = vec![0; rack_of.iter().max().map_or(0, |&rack| rack as usize + 1)];
        let mut list: Vec<(usize, usize)> = Vec::new();
        let mut fresh_racks = 0;
        for node in self.clockwise(place_of_partition(partition)) {
            let nth_of_rack = &mut met[rack_of[node] as usize];
            fresh_racks += (*nth_of_rack == 0) as usize;
            list.push((*nth_of_rack, node));
            *nth_of_rack += 1;
            if fresh_racks == count {
                break;
            }
        }
        // Stable: within a round, clockwise.
        list.sort_by_key(|&(round, _)| round);
        list.into_iter().map(|(_, node)| node).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn racks_of_their_own(nodes: usize) -> Vec<u16> {
        (0..nodes as u16).collect()
    }

    #[test]
    fn hash_is_splitmix64_and_never_changes() {
        // The first outputs for seed 1234567, as published with the reference code.
        let known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431];
        assert_eq!(std::array::from_fn(|n| output(1_234_567, n as u64)), known);
        assert_eq!([0, 1, 1023].map(place_of_partition), [PARTITION_0, PARTITION_1, PARTITION_1023]);
        assert_eq!(
            [(1, 0), (1, 127), (u64::MAX, 0)].map(|(id, k)| place_of_node(id, k)),
            [NODE_1, NODE_1_LAST, NODE_MAX]
        );
    }

    const PARTITION_0: u64 = 0x8cf5_8852_0ab6_fdca;
    const PARTITION_1: u64 = 0x780a_0a19_f094_3a8d;
    const PARTITION_1023: u64 = 0xe423_0cee_b15e_8287;
    const NODE_1: u64 = 0x500d_1f95_fa1e_fda9;
    const NODE_1_LAST: u64 = 0xf8ca_dec1_f3d6_648f;
    const NODE_MAX: u64 = 0xdb10_dc40_5837_b0c3;

    #[test]
    fn clockwise_is_the_order_of_distances() {
        let ring = Ring::new((1..=20).map(|id| (id, 1 + id as u32 % 3)));
        for partition in 0..200 {
            let place = place_of_partition(partition);
            let met: Vec<usize> = ring.clockwise(place).collect();
            let mut by_distance: Vec<usize> = (0..20).collect();
            by_distance.sort_by_key(|&node| ring.distance(place, node));
            assert_eq!(met, by_distance);
        }
    }

    #[test]
    fn nodes_that_come_and_go_leave_the_order_of_the_others() {
        let all = Ring::new((1..=30).map(|id| (id, 1)));
        let fewer = Ring::new((1..=30).filter(|id| id % 7 != 0).map(|id| (id, 1)));
        let kept: Vec<usize> = (0..30).filter(|node| (node + 1) % 7 != 0).collect();
        for partition in 0..200 {
            let place = place_of_partition(partition);
            let before: Vec<usize> = all.clockwise(place).filter(|node| kept.contains(node)).collect();
            let after: Vec<usize> = fewer.clockwise(place).map(|node| kept[node]).collect();
            assert_eq!(before, after);
        }
    }

    #[test]
    fn weight_adds_to_the_share() {
        let ring = Ring::new([(1, 1), (2, 3)]);
        let heavy = (0..4_000).filter(|&partition| ring.preference(partition, 1, &[0, 1]) == [1]).count();
        assert!((2_800..3_200).contains(&heavy), "{heavy}");
    }

    #[test]
    fn racks_come_first_then_their_second_nodes() {
        let ring = Ring::new((1..=9).map(|id| (id, 1)));
        let rack_of = [0, 0, 0, 0, 0, 1, 1, 1, 2];
        for partition in 0..100 {
            let list = ring.preference(partition, 5, &rack_of);
            let mut racks: Vec<u16> = list.iter().map(|&node| rack_of[node]).collect();
            racks[..3].sort_unstable();
            racks[3..].sort_unstable();
            assert_eq!(racks, [0, 1, 2, 0, 1], "rack 2 has one node only");
            let alone = ring.preference(partition, 5, &racks_of_their_own(9));
            let clockwise: Vec<usize> = ring.clockwise(place_of_partition(partition)).take(5).collect();
            assert_eq!(alone, clockwise);
            assert_eq!(list[0], alone[0]);
        }
    }

    #[test]
    fn fewer_nodes_than_asked_are_all_of_them() {
        let ring = Ring::new([(7, 1), (9, 1)]);
        assert_eq!(ring.preference(3, 5, &[0, 0]).len(), 2);
    }
}
