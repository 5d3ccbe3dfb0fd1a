//! Placement against its promises, over random lives of clusters: members join, leave, die, return, change their weight and
//! their rack, and the replication factor changes. What is checked is computed here anew, in other ways than placement does.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    Join {
        weight: u32,
        rack: u32,
    },
    Leave(prop::sample::Index),
    /// Dies, or lives again.
    Turn(prop::sample::Index),
    Weight(prop::sample::Index, u32),
    Rack(prop::sample::Index, u32),
    Copies(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let any_member = || any::<prop::sample::Index>();
    let weight = || prop_oneof![3 => Just(1u32), 2 => 1u32..5, 1 => 1u32..=WEIGHT_MAX];
    prop_oneof![
        4 => (weight(), 0u32..6).prop_map(|(weight, rack)| Event::Join { weight, rack }),
        3 => any_member().prop_map(Event::Leave),
        3 => any_member().prop_map(Event::Turn),
        1 => (any_member(), weight()).prop_map(|(index, weight)| Event::Weight(index, weight)),
        1 => (any_member(), 0u32..6).prop_map(|(index, rack)| Event::Rack(index, rack)),
        1 => (1usize..=5).prop_map(Event::Copies),
    ]
}

/// A cluster under test. With `racks` 0 each member is a rack of its own.
struct Life {
    members: Vec<Member>,
    rule: Rule,
    racks: u32,
    last_id: NodeId,
    placement: Option<Placement>,
}

impl Life {
    fn new(partitions: usize, racks: u32) -> Life {
        Life { members: Vec::new(), rule: Rule { partitions, copies: 3 }, racks, last_id: 0, placement: None }
    }

    fn rack(&self, rack: u32) -> Option<u32> {
        rack.checked_rem(self.racks)
    }

    fn join(&mut self, weight: u32, rack: u32) {
        self.last_id += 1;
        self.members.push(Member { id: self.last_id, weight, rack: self.rack(rack), alive: true });
    }

    fn happen(&mut self, event: &Event) {
        let count = self.members.len();
        match *event {
            Event::Join { weight, rack } => self.join(weight, rack),
            Event::Copies(copies) => self.rule.copies = copies,
            _ if count == 0 => {}
            Event::Leave(index) => drop(self.members.remove(index.index(count))),
            Event::Turn(index) => self.members[index.index(count)].alive ^= true,
            Event::Weight(index, weight) => self.members[index.index(count)].weight = weight,
            Event::Rack(index, rack) => self.members[index.index(count)].rack = self.rack(rack),
        }
    }

    fn alive(&self) -> BTreeMap<NodeId, Member> {
        self.members.iter().filter(|member| member.alive).map(|member| (member.id, *member)).collect()
    }

    /// Places anew; the placement before, and the one after.
    fn step(&mut self) -> Option<(Placement, Placement)> {
        let before = self.placement.clone();
        match place(&self.members, self.rule, before.as_ref()) {
            Ok(placement) => self.placement = Some(placement),
            Err(error) => {
                assert_eq!(error, PlaceError::Nobody);
                assert!(self.alive().is_empty());
                return None;
            }
        }
        Some((before?, self.placement.clone()?))
    }

    fn held(&self) -> BTreeMap<NodeId, usize> {
        let mut held: BTreeMap<NodeId, usize> = self.alive().keys().map(|&id| (id, 0)).collect();
        for node in self.placement.iter().flat_map(|placement| &placement.partitions).flat_map(Copies::nodes) {
            *held.get_mut(&node).expect("dead nodes hold nothing") += 1;
        }
        held
    }

    fn check(&self) {
        let placement = self.placement.as_ref().unwrap();
        placement.validate(&self.members, self.rule).unwrap();
        self.check_copies(placement);
        if self.racks == 0 {
            self.check_quotas();
        }
        self.check_roles(placement);
        let again = place(&self.members, self.rule, Some(placement)).unwrap();
        assert_eq!(&again, placement, "what is right stays");
    }

    fn check_copies(&self, placement: &Placement) {
        let alive = self.alive();
        let copies = self.rule.copies.min(alive.len());
        let mut sizes: BTreeMap<Option<u32>, usize> = BTreeMap::new();
        alive.values().for_each(|member| *sizes.entry(member.rack).or_default() += 1);
        // The smallest number such that racks with no more copies than that have room for all.
        let crowd = (1..).find(|&most| sizes.values().map(|&size| size.min(most)).sum::<usize>() >= copies).unwrap();
        for partition in &placement.partitions {
            let nodes: BTreeSet<NodeId> = partition.nodes().collect();
            assert_eq!((nodes.len(), partition.nodes().count()), (copies, copies));
            let racks: Vec<Option<u32>> = nodes.iter().map(|node| alive[node].rack).collect();
            if self.racks > 0 {
                assert_eq!(racks.iter().collect::<BTreeSet<_>>().len(), copies.min(sizes.len()));
                let most = sizes.keys().map(|rack| racks.iter().filter(|other| *other == rack).count()).max();
                assert_eq!(most, Some(crowd));
            }
        }
    }

    /// In whole numbers: nodes that by weight would have more than all partitions have all, the rest is shared again.
    fn check_quotas(&self) {
        let (alive, held) = (self.alive(), self.held());
        let partitions = self.rule.partitions as u64;
        let mut left = partitions * self.rule.copies.min(alive.len()) as u64;
        let mut rest: BTreeMap<NodeId, u64> = alive.values().map(|member| (member.id, member.weight.into())).collect();
        while let Some(full) = {
            let sum: u64 = rest.values().sum();
            rest.iter().find(|&(_, weight)| left * weight >= partitions * sum).map(|(&id, _)| id)
        } {
            assert_eq!(held[&full] as u64, partitions);
            left -= partitions;
            rest.remove(&full);
        }
        let sum: u64 = rest.values().sum();
        for (id, weight) in &rest {
            let (least, most) = (left * weight / sum, (left * weight).div_ceil(sum));
            assert!((least..=most).contains(&(held[id] as u64)), "{id}: {} is not {least}..={most}", held[id]);
        }
    }

    fn check_roles(&self, placement: &Placement) {
        let held = self.held();
        let copies = self.rule.copies.min(held.len());
        for (&id, &held) in &held {
            let leads = placement.partitions.iter().filter(|copies| copies.primary == id).count();
            assert!(leads >= held / copies && leads <= held.div_ceil(copies), "{id} leads {leads} of {held}");
        }
    }

    /// The least that must move to any placement with these quotas and copies: nodes below their floor have to be filled, and
    /// lost copies have to be made anew.
    fn least_moves(&self, before: &Placement) -> usize {
        let alive = self.alive();
        let roster = Roster::new(&self.members, self.rule).unwrap();
        let shares = quota::Shares::of(&roster);
        let stayed = |copies: &Copies| copies.nodes().filter(|id| alive.contains_key(id)).count();
        let lost: usize = before.partitions.iter().map(|copies| roster.copies.saturating_sub(stayed(copies))).sum();
        let mut held = vec![0usize; roster.nodes()];
        for index in before.partitions.iter().flat_map(Copies::nodes).filter_map(|id| roster.index_of(id)) {
            held[index as usize] += 1;
        }
        let below = (0..held.len()).map(|node| shares.floor(node).saturating_sub(held[node])).sum();
        lost.max(below)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_over_random_lives(
        partitions in prop_oneof![Just(1usize), Just(4), Just(16), Just(64), Just(256)],
        racks in prop_oneof![2 => Just(0u32), 3 => 1u32..6],
        first in 0usize..12,
        events in prop::collection::vec(event(), 1..12),
    ) {
        let mut life = Life::new(partitions, racks);
        (0..first).for_each(|node| life.join(1 + node as u32 % 3, node as u32));
        for event in &events {
            life.happen(event);
            life.step();
            if !life.alive().is_empty() {
                life.check();
            } else {
                life.placement = None;
            }
        }
    }

    #[test]
    fn order_of_members_does_not_matter(
        order in Just((1..=9u64).collect::<Vec<_>>()).prop_shuffle(),
        racks in 0u32..4,
    ) {
        let member = |id: NodeId| {
            Member { id, weight: 1 + id as u32 % 3, rack: (id as u32).checked_rem(racks), alive: id != 4 }
        };
        let rule = Rule { partitions: 64, copies: 3 };
        let sorted: Vec<Member> = (1..=9).map(member).collect();
        let shuffled: Vec<Member> = order.into_iter().map(member).collect();
        let first = place(&sorted[..7], rule, None).unwrap();
        prop_assert_eq!(place(&sorted, rule, Some(&first)), place(&shuffled, rule, Some(&first)));
    }
}

/// A change of a life: whether a node joins, which one leaves otherwise, and the weight of the new one.
type Change = (bool, prop::sample::Index, u32);

/// What moved in a life of joins and leaves, and what had to at least.
fn movement(partitions: usize, racks: u32, first: usize, changes: &[Change]) -> (usize, usize) {
    let mut life = Life::new(partitions, racks);
    (0..first).for_each(|node| life.join(1 + node as u32 % 2, node as u32));
    life.step();
    let (mut moved, mut least) = (0, 0);
    for &(joins, index, weight) in changes {
        if joins || life.members.len() <= 4 {
            life.join(weight, index.index(60) as u32);
        } else {
            life.happen(&Event::Leave(index));
        }
        let (before, after) = life.step().unwrap();
        moved += after.moved_from(&before);
        least += life.least_moves(&before);
    }
    (moved, least)
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), 1u32..4), 20)
}

proptest! {
    // Few, but each is a life of twenty changes.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn little_more_moves_than_must(partitions in prop_oneof![Just(256usize), Just(512)], first in 4usize..40,
        changes in changes())
    {
        let (moved, least) = movement(partitions, 0, first, &changes);
        prop_assert!(moved * 10 <= least * 11, "{} moved, {} had to", moved, least);
    }

    /// Racks that are nearly as few as copies leave little choice, and then more has to move than is counted as the least.
    #[test]
    fn racks_cost_a_little_more(racks in 3u32..7, first in 6usize..40, changes in changes()) {
        let (moved, least) = movement(256, racks, first, &changes);
        prop_assert!(moved * 10 <= least * 13, "{} moved, {} had to", moved, least);
    }
}

#[test]
fn a_primary_that_dies_is_followed_by_one_that_has_the_data() {
    let members: Vec<Member> = (1..=7).map(|id| Member { id, weight: 1, rack: None, alive: true }).collect();
    let rule = Rule { partitions: 256, copies: 3 };
    let before = place(&members, rule, None).unwrap();
    let mut fewer = members.clone();
    fewer[2].alive = false;
    let after = place(&fewer, rule, Some(&before)).unwrap();
    let orphans = before.partitions.iter().zip(&after.partitions).filter(|(old, _)| old.primary == 3);
    let (kept, fresh): (Vec<_>, Vec<_>) = orphans.partition(|(old, new)| old.nodes().any(|node| node == new.primary));
    assert!(kept.len() > 30 && fresh.is_empty(), "{} and {}", kept.len(), fresh.len());
}

#[test]
fn faults_are_found() {
    let member = |id| Member { id, weight: 1, rack: Some(id as u32 % 3), alive: true };
    let members: Vec<Member> = (1..=6).map(member).collect();
    let rule = Rule { partitions: 64, copies: 2 };
    let good = place(&members, rule, None).unwrap();
    assert_eq!(good.validate(&members, rule), Ok(()));
    let fault = |change: &dyn Fn(&mut Vec<Copies>)| {
        let mut bad = good.clone();
        change(&mut bad.partitions);
        bad.validate(&members, rule).unwrap_err()
    };
    assert_eq!(fault(&|all| all[5].replicas = vec![9]), Fault::Dead { partition: 5, node: 9 });
    assert_eq!(fault(&|all| all[5].replicas = vec![]), Fault::Copies { partition: 5, found: 1, asked: 2 });
    let double = |all: &mut Vec<Copies>| all[5].replicas = vec![all[5].primary];
    assert_eq!(fault(&double), Fault::Copies { partition: 5, found: 1, asked: 2 });
    let crowd = |all: &mut Vec<Copies>| all[5] = Copies { primary: 1, replicas: vec![4] };
    assert!(matches!(fault(&crowd), Fault::Rack { partition: 5, found: 2, least: 0, most: 1, .. }));
    let heavy = |all: &mut Vec<Copies>| all[..40].fill(Copies { primary: 1, replicas: vec![2] });
    assert!(matches!(fault(&heavy), Fault::Load { node: 1, least: 21, most: 22, .. }));
    let swap = |copies: &mut Copies| std::mem::swap(&mut copies.primary, &mut copies.replicas[0]);
    let one_sided = |all: &mut Vec<Copies>| all.iter_mut().filter(|copies| copies.replicas[0] == 1).for_each(swap);
    assert!(matches!(fault(&one_sided), Fault::Roles { node: 1, .. }));
    assert!(matches!(fault(&|all| drop(all.pop())), Fault::Input(PlaceError::Previous { found: 63, asked: 64 })));
}
