//! The plan while it is made: who holds which copy, and the steps that need no search.
//!
//! Pure, owned by no core. The steps, none of which moves a copy that is where it may be:
//!
//! 1. [`Board::new`] takes the placement so far, without the copies of nodes that are gone;
//! 2. [`Board::trim`] gives up copies that may not stay: beyond the replication factor, or too many in a rack;
//! 3. [`Board::fill`] puts each missing copy on the first node in its preference that is under quota;
//! 4. [`Board::take`] lets nodes under quota take, from nodes over quota, the copies that prefer them most.
//!
//! The last two may leave a few copies without a place; [`super::augment`] finds one for them.
//!
//! Invariants: `copies` and `held` tell the same; a partition has at most one copy on a node; after `trim` no rack has
//! more copies of a partition than it may, and what is missing can be placed; a primary holds a copy.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::placement::{Copies, Placement};
use super::quota::Shares;
use super::ring::{Ring, place_of_partition};
use super::roster::{PlaceError, Rack, Roster};

/// Nodes of a preference list that are looked at one by one.
const WALK_NODES_MAX: usize = 32;

/// Copies of all partitions on the nodes of a roster.
pub struct Board<'a> {
    pub roster: &'a Roster,
    ring: &'a Ring,
    /// Nodes with a copy of each partition.
    pub copies: Vec<Vec<u16>>,
    /// What `copies` was at the beginning: who has the data already.
    before: Vec<Vec<u16>>,
    pub primary: Vec<Option<u16>>,
    /// Partitions of each node.
    pub held: Vec<BTreeSet<u16>>,
    /// Copies that each node is to hold in the end.
    quota: Vec<usize>,
}

impl<'a> Board<'a> {
    /// The placement so far, without nodes that are not in the roster.
    pub fn new(roster: &'a Roster, ring: &'a Ring, previous: Option<&Placement>) -> Result<Self, PlaceError> {
        let (asked, nodes) = (roster.partitions, roster.nodes());
        let mut board = Board {
            roster,
            ring,
            copies: vec![Vec::new(); asked],
            before: Vec::new(),
            primary: vec![None; asked],
            held: vec![BTreeSet::new(); nodes],
            quota: Vec::new(),
        };
        if let Some(Placement { partitions }) = previous {
            if partitions.len() != asked {
                return Err(PlaceError::Previous { found: partitions.len(), asked });
            }
            for (partition, copies) in partitions.iter().enumerate() {
                for node in copies.nodes().filter_map(|id| roster.index_of(id)) {
                    if !board.copies[partition].contains(&node) {
                        board.add(partition, node);
                    }
                }
                board.primary[partition] = roster.index_of(copies.primary);
            }
        }
        board.before = board.copies.clone();
        Ok(board)
    }

    /// Puts a copy of `partition` on `node`.
    pub fn add(&mut self, partition: usize, node: u16) {
        self.copies[partition].push(node);
        let fresh = self.held[node as usize].insert(partition as u16);
        assert!(fresh, "a node holds one copy of a partition");
    }

    /// Takes the copy of `partition` from `node`; if it led the partition, nobody does now.
    pub fn remove(&mut self, partition: usize, node: u16) {
        let at = self.copies[partition].iter().position(|&holder| holder == node).expect("the node holds a copy");
        self.copies[partition].remove(at);
        self.held[node as usize].remove(&(partition as u16));
        self.primary[partition].take_if(|primary| *primary == node);
    }

    /// How much `partition` prefers `node`: less is more.
    pub fn distance(&self, partition: usize, node: u16) -> u64 {
        self.ring.distance(place_of_partition(partition), node as usize)
    }

    /// Whether `node` had a copy of `partition` before.
    pub fn had(&self, partition: usize, node: u16) -> bool {
        self.before[partition].contains(&node)
    }

    /// Whether `node` may get one more copy.
    pub fn is_under(&self, node: u16) -> bool {
        self.held[node as usize].len() < self.quota[node as usize]
    }

    /// Whether `node` has to give up a copy.
    pub fn is_over(&self, node: u16) -> bool {
        self.held[node as usize].len() > self.quota[node as usize]
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.roster.nodes() as u16
    }

    /// Gives up copies that may not stay: those of followers first, and of nodes that are furthest above their share.
    pub fn trim(&mut self, shares: &Shares) {
        for partition in 0..self.copies.len() {
            while let Some(node) = self.superfluous(partition, shares) {
                self.remove(partition, node);
            }
        }
    }

    fn superfluous(&self, partition: usize, shares: &Shares) -> Option<u16> {
        let (roster, held) = (self.roster, &self.copies[partition]);
        let beyond = |node: u16, bound: fn(&Rack) -> usize| {
            let rack = roster.rack_of[node as usize];
            roster.in_rack(held, rack) > bound(&roster.racks[rack as usize])
        };
        let crowded = held.iter().any(|&node| beyond(node, |rack| rack.most));
        if !crowded && held.len() + roster.unmet(held) <= roster.copies {
            return None;
        }
        let bound: fn(&Rack) -> usize = if crowded { |rack| rack.most } else { |rack| rack.least };
        let load = |node: u16| self.held[node as usize].len() as i64 - shares.floor(node as usize) as i64;
        held.iter().copied().filter(|&node| beyond(node, bound)).max_by_key(|&node| {
            (self.primary[partition] != Some(node), load(node), self.distance(partition, node), Reverse(node))
        })
    }

    /// Sets what each node is to hold in the end.
    pub fn set_quotas(&mut self, shares: &Shares) {
        let held: Vec<usize> = self.held.iter().map(BTreeSet::len).collect();
        self.quota = shares.quotas(self.roster, &held);
    }

    /// Puts missing copies where there is room, if there is; a last few may find none.
    pub fn fill(&mut self) {
        for partition in 0..self.copies.len() {
            while self.copies[partition].len() < self.roster.copies {
                let free = |&node: &u16| self.is_under(node) && self.roster.fits(&self.copies[partition], node);
                // Mostly one of the first will do; with few nodes left, asking each of them is shorter than going round.
                let first =
                    self.ring.clockwise(place_of_partition(partition)).take(WALK_NODES_MAX).map(|node| node as u16);
                let nearest = || self.nodes().filter(free).min_by_key(|&node| (self.distance(partition, node), node));
                let Some(node) = { first }.find(free).or_else(nearest) else { break };
                self.add(partition, node);
            }
        }
    }

    /// Lets nodes under quota take copies from nodes over quota.
    pub fn take(&mut self) {
        for taker in self.nodes().filter(|&node| self.is_under(node)).collect::<Vec<_>>() {
            let mut offers: Vec<(bool, u64, u16, u16)> = Vec::new();
            for giver in self.nodes().filter(|&node| self.is_over(node)) {
                let held = self.held[giver as usize].iter();
                let fitting =
                    held.filter(|&&partition| self.roster.may_pass(&self.copies[partition as usize], giver, taker));
                offers.extend(fitting.map(|&partition| {
                    let leads = self.primary[partition as usize] == Some(giver);
                    (leads, self.distance(partition as usize, taker), partition, giver)
                }));
            }
            offers.sort_unstable();
            for (_, _, partition, giver) in offers {
                if !self.is_under(taker) {
                    break;
                }
                let partition = partition as usize;
                // Earlier takes may have relieved the giver, or brought the taker a copy of this partition.
                if self.is_over(giver) && self.roster.may_pass(&self.copies[partition], giver, taker) {
                    self.remove(partition, giver);
                    self.add(partition, taker);
                }
            }
        }
    }

    /// The finished plan: every partition has all its copies and a primary.
    pub fn into_placement(self) -> Placement {
        let copies = |(held, primary): (Vec<u16>, Option<u16>)| {
            let primary = primary.expect("roles were given");
            let mut replicas: Vec<u16> = held.into_iter().filter(|&node| node != primary).collect();
            replicas.sort_unstable();
            let id = |node: u16| self.roster.ids[node as usize];
            Copies { primary: id(primary), replicas: replicas.into_iter().map(id).collect() }
        };
        Placement { partitions: self.copies.into_iter().zip(self.primary).map(copies).collect() }
    }
}
