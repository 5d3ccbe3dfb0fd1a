//! Who is there to hold copies, and what racks allow: the input of placement, checked and brought into order.
//!
//! Pure, owned by no core. Racks come before balance: losing a rack must cost a partition as few copies as possible, whatever
//! the weights say. So each partition has its copies spread over racks as evenly as the racks' nodes allow, and quotas
//! ([`super::quota`]) are what weights make of the rest. With at least as many racks as copies, no rack has two copies of
//! a partition.
//!
//! Invariants of [`Roster`]: nodes ascend by id; `1 <= copies <= nodes`; every rack has a node;
//! `sum(racks.least) <= copies <= sum(racks.most)`.

use std::collections::BTreeMap;

use super::{COPIES_MAX, Member, NODES_MAX, NodeId, PARTITIONS_MAX, WEIGHT_MAX, WEIGHTS_SUM_MAX};

/// What is to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Number of partitions: a power of two up to [`PARTITIONS_MAX`].
    pub partitions: usize,
    /// Replication factor: copies of each partition, up to [`COPIES_MAX`]; fewer if there are fewer nodes.
    pub copies: usize,
}

/// Input that no placement exists for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error("no member is alive")]
    Nobody,
    #[error("{0} members are more than {NODES_MAX}")]
    Members(usize),
    #[error("two members have the id {0}")]
    Twice(NodeId),
    #[error("member {id} has weight {weight}; it must be between 1 and {WEIGHT_MAX}")]
    Weight { id: NodeId, weight: u32 },
    #[error("the weights add up to {0}, which is more than {WEIGHTS_SUM_MAX}")]
    Weights(u64),
    #[error("{0} partitions: it must be a power of two up to {PARTITIONS_MAX}")]
    Partitions(usize),
    #[error("{0} copies: it must be between 1 and {COPIES_MAX}")]
    Copies(usize),
    #[error("the placement so far has {found} partitions instead of {asked}")]
    Previous { found: usize, asked: usize },
}

/// A rack, and how many copies of one partition it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rack {
    pub nodes: Vec<u16>,
    pub least: usize,
    pub most: usize,
}

/// The members that are alive, by index, and their racks.
#[derive(Clone, Debug)]
pub struct Roster {
    pub ids: Vec<NodeId>,
    pub weights: Vec<u32>,
    /// The rack of each node: an index into `racks`.
    pub rack_of: Vec<u16>,
    pub racks: Vec<Rack>,
    /// The sum of what racks have at least.
    least: usize,
    pub partitions: usize,
    /// Copies that each partition gets.
    pub copies: usize,
}

impl Roster {
    /// Checks `members` and `rule`.
    pub fn new(members: &[Member], rule: Rule) -> Result<Self, PlaceError> {
        check_rule(rule)?;
        check_members(members)?;
        let mut alive: Vec<&Member> = members.iter().filter(|member| member.alive).collect();
        if alive.is_empty() {
            return Err(PlaceError::Nobody);
        }
        alive.sort_by_key(|member| member.id);
        let copies = rule.copies.min(alive.len());
        let (rack_of, nodes) = racks(&alive);
        let sizes: Vec<usize> = nodes.iter().map(Vec::len).collect();
        let ranges = ranges(&sizes, copies);
        let rack = |(nodes, &(least, most))| Rack { nodes, least, most };
        Ok(Roster {
            ids: alive.iter().map(|member| member.id).collect(),
            weights: alive.iter().map(|member| member.weight).collect(),
            rack_of,
            racks: nodes.into_iter().zip(&ranges).map(rack).collect(),
            least: ranges.iter().map(|range| range.0).sum(),
            partitions: rule.partitions,
            copies,
        })
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.ids.len()
    }

    /// The index of a node that is alive.
    pub fn index_of(&self, id: NodeId) -> Option<u16> {
        self.ids.binary_search(&id).ok().map(|index| index as u16)
    }

    /// How many of `held`, the nodes with a copy of one partition, are in `rack`.
    pub fn in_rack(&self, held: &[u16], rack: u16) -> usize {
        held.iter().filter(|&&node| self.rack_of[node as usize] == rack).count()
    }

    /// Copies that racks still have to get of a partition, to have their least.
    pub fn unmet(&self, held: &[u16]) -> usize {
        if self.least == 0 {
            return 0;
        }
        // A copy counts towards its rack's least if the copies before it do not make that up already.
        let counts = |at: usize| {
            let rack = self.rack_of[held[at] as usize];
            self.in_rack(&held[..at], rack) < self.racks[rack as usize].least
        };
        self.least - (0..held.len()).filter(|&at| counts(at)).count()
    }

    /// Whether a partition with copies on `held` may get one more on `node`, so that the rest can still be placed.
    pub fn fits(&self, held: &[u16], node: u16) -> bool {
        let rack = self.rack_of[node as usize];
        let (Rack { least, most, .. }, count) = (&self.racks[rack as usize], self.in_rack(held, rack));
        let room = held.len() < self.copies && count < *most && !held.contains(&node);
        room && (count < *least || self.unmet(held) < self.copies - held.len())
    }

    /// Whether a partition with copies on `held` may have the one of `giver` on `taker` instead.
    pub fn may_pass(&self, held: &[u16], giver: u16, taker: u16) -> bool {
        let (from, to) = (self.rack_of[giver as usize], self.rack_of[taker as usize]);
        let racks_allow = || {
            let spare = self.in_rack(held, from) > self.racks[from as usize].least;
            spare && self.in_rack(held, to) < self.racks[to as usize].most
        };
        !held.contains(&taker) && (from == to || racks_allow())
    }
}

fn check_rule(rule: Rule) -> Result<(), PlaceError> {
    if !rule.partitions.is_power_of_two() || rule.partitions > PARTITIONS_MAX {
        return Err(PlaceError::Partitions(rule.partitions));
    }
    if rule.copies < 1 || rule.copies > COPIES_MAX {
        return Err(PlaceError::Copies(rule.copies));
    }
    Ok(())
}

fn check_members(members: &[Member]) -> Result<(), PlaceError> {
    if members.len() > NODES_MAX {
        return Err(PlaceError::Members(members.len()));
    }
    let mut ids: Vec<NodeId> = members.iter().map(|member| member.id).collect();
    ids.sort_unstable();
    if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(PlaceError::Twice(twice[0]));
    }
    let bad = |member: &&Member| !(1..=WEIGHT_MAX).contains(&member.weight);
    if let Some(&Member { id, weight, .. }) = members.iter().find(bad) {
        return Err(PlaceError::Weight { id, weight });
    }
    let sum: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    if sum > u64::from(WEIGHTS_SUM_MAX) { Err(PlaceError::Weights(sum)) } else { Ok(()) }
}

/// The rack of each node, counted from 0, and the nodes of each rack.
fn racks(alive: &[&Member]) -> (Vec<u16>, Vec<Vec<u16>>) {
    let mut named: BTreeMap<u32, u16> = BTreeMap::new();
    let mut nodes: Vec<Vec<u16>> = Vec::new();
    let mut rack_of = Vec::new();
    for (node, member) in (0..).zip(alive) {
        let fresh = nodes.len() as u16;
        let rack = member.rack.map_or(fresh, |name| *named.entry(name).or_insert(fresh));
        if rack == fresh {
            nodes.push(Vec::new());
        }
        nodes[rack as usize].push(node);
        rack_of.push(rack);
    }
    (rack_of, nodes)
}

/// The least and the most copies of a partition in racks of so many nodes. As even as possible: all racks have the same or
/// one less, or as many as nodes.
fn ranges(sizes: &[usize], copies: usize) -> Vec<(usize, usize)> {
    let room = |most: usize| sizes.iter().map(|&nodes| nodes.min(most)).sum::<usize>();
    let most = (1..=copies).find(|&most| room(most) >= copies).expect("there are at least as many nodes as copies");
    sizes.iter().map(|&nodes| (nodes.min(most - 1), nodes.min(most))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { partitions: 64, copies: 3 };

    fn member(id: NodeId, rack: Option<u32>) -> Member {
        Member { id, weight: 1, rack, alive: true }
    }

    #[test]
    fn bad_input_is_refused() {
        let refused = |members: &[Member], rule| Roster::new(members, rule).unwrap_err();
        let one = member(1, None);
        assert_eq!(refused(&[], RULE), PlaceError::Nobody);
        assert_eq!(refused(&[Member { alive: false, ..one }], RULE), PlaceError::Nobody);
        assert_eq!(refused(&[one, one], RULE), PlaceError::Twice(1));
        assert_eq!(refused(&[Member { weight: 0, ..one }], RULE), PlaceError::Weight { id: 1, weight: 0 });
        assert_eq!(refused(&[Member { weight: 257, ..one }], RULE), PlaceError::Weight { id: 1, weight: 257 });
        let heavy: Vec<Member> = (0..65).map(|id| Member { weight: WEIGHT_MAX, ..member(id, None) }).collect();
        assert_eq!(refused(&heavy, RULE), PlaceError::Weights(16_640));
        let many: Vec<Member> = (0..1_025).map(|id| member(id, None)).collect();
        assert_eq!(refused(&many, RULE), PlaceError::Members(1_025));
        for partitions in [0, 3, 32_768] {
            assert_eq!(refused(&[one], Rule { partitions, ..RULE }), PlaceError::Partitions(partitions));
        }
        assert_eq!(refused(&[one], Rule { copies: 0, ..RULE }), PlaceError::Copies(0));
        assert_eq!(refused(&[one], Rule { copies: 9, ..RULE }), PlaceError::Copies(9));
    }

    #[test]
    fn racks_share_copies_evenly() {
        assert_eq!(ranges(&[1, 1, 1, 1], 3), [(0, 1); 4]);
        assert_eq!(ranges(&[4, 4], 3), [(1, 2); 2]);
        assert_eq!(ranges(&[1, 9], 3), [(1, 1), (1, 2)]);
        assert_eq!(ranges(&[5, 5, 5], 4), [(1, 2); 3]);
        assert_eq!(ranges(&[9], 3), [(2, 3)]);
    }

    #[test]
    fn room_is_kept_for_racks_that_need_it() {
        // Two racks, three copies: 2 + 1. A third copy must not go where two are, nor leave a rack empty.
        let members = [1, 1, 1, 2, 2].iter().zip(1..).map(|(&rack, id)| member(id, Some(rack)));
        let roster = Roster::new(&members.collect::<Vec<_>>(), RULE).unwrap();
        assert_eq!((roster.unmet(&[]), roster.unmet(&[0, 1]), roster.unmet(&[0, 3])), (2, 1, 0));
        assert!(roster.fits(&[0], 1) && roster.fits(&[0], 3));
        assert!(!roster.fits(&[0, 1], 2) && roster.fits(&[0, 1], 3) && !roster.fits(&[0, 1], 1));
        assert!(!roster.fits(&[0, 1, 3], 4));
        assert!(
            roster.may_pass(&[0, 1, 3], 1, 2) && roster.may_pass(&[0, 1, 3], 1, 4) && roster.may_pass(&[0, 1, 3], 3, 4)
        );
        assert!(!roster.may_pass(&[0, 1, 3], 3, 2) && !roster.may_pass(&[0, 1, 3], 1, 3));
    }
}
