//! Nodes that leave, rebalancing that is paused, and versions that rise: transcripts.

use std::collections::BTreeSet;

use super::tests::{Leader, settle};
use super::{Governor, Settings};
use crate::raft::command::{Command, Move, NodeId, Order, Refusal, Reply};

/// All speak the newest version, and the cluster uses it.
fn newest(count: u64, partitions: u16) -> Leader {
    let mut leader = Leader { generous: true, speaks: 3, ..Leader::new(count, partitions) };
    leader.governor.lead(0);
    let nodes: Vec<NodeId> = (1..=count).collect();
    settle(&mut leader, 0, 10, &nodes);
    assert_eq!(leader.state.orders().version(), 3);
    leader
}

fn order(leader: &mut Leader, order: Order) {
    assert_eq!(leader.apply(Command::Order(order)), Reply::Ordered);
}

fn holds(leader: &Leader, node: NodeId) -> usize {
    leader.state.partitions().iter().filter(|is| is.replicas.contains(&node)).count()
}

#[test]
fn the_version_rises_once_all_speak_it() {
    let mut leader = Leader { speaks: 2, ..Leader::new(3, 4) };
    leader.governor.lead(0);
    leader.runs(0, 1_000, &[1, 2, 3]);
    assert_eq!(leader.state.orders().version(), 2);
    // Two of them speak a newer one; then the third, but it is dead.
    leader.speaks = 3;
    leader.runs(1_000, 1_500, &[1, 2]);
    leader.runs(1_500, 3_000, &[1, 2]);
    assert_eq!(leader.state.orders().version(), 2);
    // One that has joined, and was not heard of yet, may be of any build.
    let profile = crate::raft::testing::profile("host");
    leader.apply(Command::Join { identity: 4, profile });
    leader.runs(3_000, 4_000, &[1, 2, 3]);
    assert_eq!(leader.state.orders().version(), 2);
    assert_eq!(leader.apply(Command::Remove { node: 4 }), Reply::Removed);
    let said = leader.runs(4_000, 4_500, &[1, 2, 3]);
    assert_eq!(said.iter().filter(|said| said.contains("the cluster uses version 3: Ordered")).count(), 1, "{said:?}");
}

#[test]
fn a_node_that_leaves_gives_all_away_and_is_removed() {
    let mut leader = newest(4, 16);
    assert!(holds(&leader, 4) > 0 && leader.voters == BTreeSet::from([1, 2, 3]));
    order(&mut leader, Order::Leave { node: 2 });
    settle(&mut leader, 1_000, 20, &[1, 2, 3, 4]);
    assert_eq!(leader.state.node(2), None);
    assert_eq!(leader.voters, BTreeSet::from([1, 3, 4]));
    assert!(!leader.nodes.contains_key(&2) && !leader.state.orders().leaves(2));
    assert!(leader.state.partitions().iter().all(|is| is.replicas.len() == 3 && is.in_sync.len() == 3));
    // Of three nodes one leaves: two copies are left of each.
    order(&mut leader, Order::Leave { node: 3 });
    settle(&mut leader, 3_000, 20, &[1, 3, 4]);
    assert_eq!((leader.state.node(3), leader.voters.clone()), (None, BTreeSet::from([1])));
    assert!(leader.state.partitions().iter().all(|is| is.replicas.len() == 2 && is.in_sync.len() == 2));
    let last = Reply::Refused(Refusal::LastNode(1));
    order(&mut leader, Order::Leave { node: 4 });
    assert_eq!(leader.apply(Command::Order(Order::Leave { node: 1 })), last);
}

/// Handovers that were begun by the plan before end when their roles had been where the new one wants them.
#[test]
fn a_node_that_leaves_gives_away_what_has_come_to_it_meanwhile() {
    let mut leader = newest(4, 16);
    order(&mut leader, Order::Leave { node: 2 });
    leader.runs(1_000, 1_060, &[1, 2, 3, 4]);
    let to = leader.state.member(2).unwrap();
    let elsewhere = (0..).zip(leader.state.partitions());
    let elsewhere = elsewhere.filter(|(_, is)| is.primary != Some(2) && is.in_sync.contains(&2));
    let moves: Vec<Move> = elsewhere.map(|(partition, is)| Move { partition, epoch: is.epoch }).collect();
    assert!(moves.len() > 4, "{moves:?}");
    leader.apply(Command::Lead { moves, to });
    settle(&mut leader, 1_060, 20, &[1, 2, 3, 4]);
    assert_eq!(leader.state.node(2), None);
    assert!(leader.state.partitions().iter().all(|is| is.replicas.len() == 3 && is.in_sync.len() == 3));
}

#[test]
fn a_node_that_stays_after_all_keeps_what_it_has() {
    let mut leader = newest(4, 64);
    order(&mut leader, Order::Leave { node: 4 });
    leader.runs(1_000, 1_100, &[1, 2, 3, 4]);
    order(&mut leader, Order::Stay { node: 4 });
    settle(&mut leader, 1_100, 20, &[1, 2, 3, 4]);
    assert_eq!(holds(&leader, 4), 48);
    assert!(leader.state.node(4).is_some());
}

#[test]
fn a_dead_node_that_leaves_is_replaced_at_once_and_removed() {
    let mut leader = newest(4, 16);
    settle(&mut leader, 1_000, 20, &[1, 2, 3]);
    assert!(holds(&leader, 4) > 0, "others wait for it for half a minute");
    order(&mut leader, Order::Leave { node: 4 });
    settle(&mut leader, 3_000, 20, &[1, 2, 3]);
    assert_eq!(leader.state.node(4), None);
    assert!(leader.state.partitions().iter().all(|is| is.in_sync.len() == 3));
}

#[test]
fn a_leader_that_leaves_lets_another_voter_lead_and_does_not_remove_itself() {
    let mut leader = newest(3, 8);
    order(&mut leader, Order::Leave { node: 1 });
    let said = leader.runs(1_000, 1_100, &[1, 2, 3]);
    assert!(said.iter().any(|said| said.contains("is to lead raft")), "{said:?}");
    settle(&mut leader, 1_100, 20, &[1, 2, 3]);
    assert_eq!((holds(&leader, 1), leader.primaries().contains(&Some(1))), (0, false));
    assert!(leader.voters.contains(&1) && leader.state.node(1).is_some());
    // The only voter of two nodes asks the other one to vote first.
    let mut leader = newest(2, 8);
    assert_eq!(leader.voters.len(), 1);
    leader.voters = BTreeSet::from([1]);
    order(&mut leader, Order::Leave { node: 1 });
    let said = leader.runs(1_000, 1_200, &[1, 2]);
    let at = |what: &str| said.iter().position(|said| said.contains(what));
    assert!(at("{1, 2} vote").is_some() && at("{1, 2} vote") < at("node 2 is to lead raft"), "{said:?}");
}

#[test]
fn nothing_moves_while_that_is_paused() {
    let mut leader = newest(3, 16);
    order(&mut leader, Order::Pause);
    leader.join(4, "");
    settle(&mut leader, 1_000, 20, &[1, 2, 3, 4]);
    assert_eq!(holds(&leader, 4), 0);
    // A dead node is replaced by nobody, but what it led is led by others.
    settle(&mut leader, 3_000, 400, &[1, 2, 4]);
    assert_eq!((holds(&leader, 3), holds(&leader, 4)), (16, 0));
    assert!(!leader.primaries().contains(&Some(3)) && !leader.primaries().contains(&None));
    order(&mut leader, Order::Leave { node: 3 });
    settle(&mut leader, 44_000, 20, &[1, 2, 4]);
    assert_eq!(holds(&leader, 3), 16);
    order(&mut leader, Order::Rebalance);
    settle(&mut leader, 46_000, 20, &[1, 2, 4]);
    assert_eq!((holds(&leader, 3), holds(&leader, 4), leader.state.node(3)), (0, 16, None));
}

#[test]
fn roles_that_were_moved_by_hand_move_back_when_it_is_ordered() {
    let mut leader = newest(3, 8);
    let led = |leader: &Leader| {
        [1, 2, 3].map(|node| leader.primaries().iter().filter(|primary| **primary == Some(node)).count())
    };
    let even = led(&leader);
    assert!(even.iter().all(|led| (2..=3).contains(led)), "{even:?}");
    let to = leader.state.member(2).unwrap();
    let moves = (0..).zip(leader.state.partitions()).map(|(partition, is)| Move { partition, epoch: is.epoch });
    leader.apply(Command::Lead { moves: moves.collect(), to });
    settle(&mut leader, 1_000, 20, &[1, 2, 3]);
    assert_eq!(led(&leader), [0, 8, 0]);
    order(&mut leader, Order::Rebalance);
    settle(&mut leader, 3_000, 20, &[1, 2, 3]);
    assert_eq!(led(&leader), even);
}

#[test]
fn the_only_copy_moves_with_its_role() {
    let mut leader = Leader { generous: true, speaks: 3, ..Leader::new(1, 8) };
    leader.governor = Governor::new(Settings { copies: 1, ..Settings::new(1, 300) });
    leader.governor.lead(0);
    leader.join(2, "");
    settle(&mut leader, 0, 20, &[1, 2]);
    assert_eq!((holds(&leader, 1), holds(&leader, 2)), (4, 4));
    order(&mut leader, Order::Leave { node: 2 });
    settle(&mut leader, 2_000, 20, &[1, 2]);
    assert_eq!((holds(&leader, 1), leader.state.node(2)), (8, None));
    assert!(leader.state.partitions().iter().all(|is| is.replicas == [1] && is.primary == Some(1)));
}

/// A node that is lost for good, and has been replaced, is not waited for.
#[test]
fn a_lost_node_does_not_hold_the_version_back() {
    let mut leader = Leader { generous: true, speaks: 3, ..Leader::new(4, 4) };
    leader.governor.lead(0);
    settle(&mut leader, 0, 300, &[1, 2, 3]);
    assert_eq!(leader.state.orders().version(), 2, "it has copies, or is not dead for long");
    settle(&mut leader, 30_000, 50, &[1, 2, 3]);
    assert_eq!((leader.state.orders().version(), holds(&leader, 4)), (3, 0));
}

/// Whoever leaves votes as long as it has copies, if there are no others for that.
#[test]
fn a_node_that_leaves_votes_while_it_is_needed() {
    let mut leader = newest(3, 64);
    order(&mut leader, Order::Pause);
    order(&mut leader, Order::Leave { node: 3 });
    settle(&mut leader, 1_000, 20, &[1, 2, 3]);
    assert_eq!(leader.voters, BTreeSet::from([1, 2, 3]));
    order(&mut leader, Order::Rebalance);
    settle(&mut leader, 3_000, 20, &[1, 2, 3]);
    assert_eq!((leader.voters.clone(), leader.state.node(3)), (BTreeSet::from([1]), None));
}

/// Nobody could decide anything any more.
#[test]
fn voters_are_never_so_few_that_the_dead_are_half_of_them() {
    let majority = |leader: &Leader, alive: &[NodeId]| {
        let there = leader.voters.iter().filter(|node| alive.contains(node)).count();
        assert!(2 * there > leader.voters.len(), "{:?} vote, {alive:?} are alive", leader.voters);
    };
    // The leader of three is told to leave right after another one has died.
    let mut leader = newest(3, 8);
    leader.runs(1_000, 1_700, &[1, 3]);
    order(&mut leader, Order::Leave { node: 1 });
    for at in 0..150 {
        leader.runs(1_700 + 100 * at, 1_800 + 100 * at, &[1, 3]);
        majority(&leader, &[1, 3]);
    }
    // Of four nodes two are long dead, and a third is told to leave.
    let mut leader = newest(4, 8);
    leader.runs(1_000, 13_000, &[1, 2, 3]);
    leader.runs(13_000, 13_700, &[1, 2]);
    order(&mut leader, Order::Leave { node: 2 });
    for at in 0..200 {
        leader.runs(13_700 + 100 * at, 13_800 + 100 * at, &[1, 2]);
        majority(&leader, &[1, 2]);
    }
    // Two of three are told to leave, and the third is dead.
    let mut leader = newest(3, 8);
    leader.runs(1_000, 1_700, &[1, 2]);
    order(&mut leader, Order::Leave { node: 2 });
    order(&mut leader, Order::Leave { node: 1 });
    for at in 0..200 {
        leader.runs(1_700 + 100 * at, 1_800 + 100 * at, &[1, 2]);
        majority(&leader, &[1, 2]);
    }
}
