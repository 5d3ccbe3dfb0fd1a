//! Ways to place: the one of Keyloom, and those that it is compared with.
//!
//! Pure, owned by no core. All of them put copies on distinct nodes and keep the limits of racks.

use super::super::placement::{Copies, Placement, place};
use super::super::quota::Shares;
use super::super::ring::{Ring, place_of_partition};
use super::super::roster::{PlaceError, Roster, Rule};
use super::super::{Member, NodeId};

/// What a ring with bounded loads lets a node hold beyond its share.
pub const BOUND: f64 = 0.1;

/// A way to place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A partition is on node `hash % nodes`, and on those after it. A node stands in the list once per unit of weight.
    Modulo,
    /// The preference list as it is.
    Plain,
    /// The preference list without nodes that are full (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with
    /// Bounded Loads", 2016, arXiv:1608.01350): none holds more than `1 + BOUND` times its share. Partitions come in order.
    Bounded,
    /// [`place`].
    Sticky,
}

/// In the order of the table.
pub const ALL: [Scheme; 4] = [Scheme::Modulo, Scheme::Plain, Scheme::Bounded, Scheme::Sticky];

impl Scheme {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Modulo => "modulo",
            Scheme::Plain => "plain ring",
            Scheme::Bounded => "bounded ring",
            Scheme::Sticky => "sticky",
        }
    }

    /// The placement of `rule` on `members`. Only [`Scheme::Sticky`] looks at the one so far.
    pub fn place(self, members: &[Member], rule: Rule, previous: Option<&Placement>) -> Result<Placement, PlaceError> {
        if self == Scheme::Sticky {
            return place(members, rule, previous);
        }
        let roster = Roster::new(members, rule)?;
        let shares = Shares::of(&roster);
        let ring = Ring::new(roster.ids.iter().copied().zip(roster.weights.iter().copied()));
        let slots: Vec<u16> = (0..roster.nodes()).flat_map(|n| vec![n as u16; roster.weights[n] as usize]).collect();
        let mut load = vec![0; roster.nodes()];
        let full = |load: &[usize], node: u16| {
            let most = ((1.0 + BOUND) * shares.share(node as usize)).ceil() as usize;
            self == Scheme::Bounded && load[node as usize] >= most
        };
        let mut partitions = Vec::new();
        for partition in 0..roster.partitions {
            let order: Box<dyn Iterator<Item = u16>> = if self == Scheme::Modulo {
                let (before, after) = slots.split_at((place_of_partition(partition) % slots.len() as u64) as usize);
                Box::new(after.iter().chain(before).copied())
            } else {
                Box::new(ring.clockwise(place_of_partition(partition)).map(|node| node as u16))
            };
            let mut held: Vec<u16> = Vec::new();
            let mut passed = Vec::new();
            for node in order {
                if held.len() == roster.copies {
                    break;
                }
                match full(&load, node) {
                    true => passed.push(node),
                    false if roster.fits(&held, node) => held.push(node),
                    false => {}
                }
            }
            // With few nodes those with room may all hold a copy already: then the bound is broken, not the promise of copies.
            for node in passed {
                if roster.fits(&held, node) {
                    held.push(node);
                }
            }
            held.iter().for_each(|&node| load[node as usize] += 1);
            partitions.push(copies(&roster, &held));
        }
        Ok(Placement { partitions })
    }
}

fn copies(roster: &Roster, held: &[u16]) -> Copies {
    let mut ids = held.iter().map(|&node| roster.ids[node as usize]);
    let primary: NodeId = ids.next().expect("a roster has a node");
    Copies { primary, replicas: ids.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u64) -> Vec<Member> {
        (1..=count).map(|id| Member { id, weight: 1, rack: None, alive: true }).collect()
    }

    #[test]
    fn all_make_distinct_copies_and_keep_racks() {
        let rule = Rule { partitions: 64, copies: 3 };
        for scheme in ALL {
            let racks = members(9).into_iter().map(|member| Member { rack: Some(member.id as u32 % 3), ..member });
            let placement = scheme.place(&racks.collect::<Vec<_>>(), rule, None).unwrap();
            for copies in &placement.partitions {
                let mut racks: Vec<u64> = copies.nodes().map(|node| node % 3).collect();
                racks.sort_unstable();
                assert_eq!(racks, [0, 1, 2], "{}", scheme.name());
            }
        }
    }

    #[test]
    fn the_bound_holds() {
        let rule = Rule { partitions: 1024, copies: 3 };
        let placement = Scheme::Bounded.place(&members(50), rule, None).unwrap();
        let load = |id| placement.partitions.iter().filter(|copies| copies.nodes().any(|node| node == id)).count();
        assert!((1..=50).all(|id| load(id) <= 68), "3,072 copies on 50 nodes are 61.4 each");
        let plain = Scheme::Plain.place(&members(50), rule, None).unwrap();
        assert!((1..=50).any(|id| plain.partitions.iter().filter(|c| c.nodes().any(|node| node == id)).count() > 68));
    }

    #[test]
    fn modulo_is_modulo() {
        let placement = Scheme::Modulo.place(&members(5), Rule { partitions: 64, copies: 2 }, None).unwrap();
        for (partition, copies) in placement.partitions.iter().enumerate() {
            let first = place_of_partition(partition) % 5;
            assert_eq!((copies.primary, copies.replicas.as_slice()), (first + 1, [(first + 1) % 5 + 1].as_slice()));
        }
    }
}
