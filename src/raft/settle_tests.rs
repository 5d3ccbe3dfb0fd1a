//! Losses of roles, and what comes of them: commands to a state, and what it then says.

use super::*;
use crate::raft::command::{Command, InSyncChange, Member, Order, Placement, Refusal, Reply};
use crate::raft::state::State;
use crate::raft::testing::profile;

fn member(node: NodeId) -> Member {
    Member { node, incarnation: 1 }
}

fn apply(state: &mut State, command: Command) -> Reply {
    let reply = state.apply(&command);
    state.validate().unwrap();
    reply
}

/// So many nodes with these copies of partitions, all in sync, of which the first leads; in this version.
fn cluster(nodes: u64, copies: &[&[NodeId]], version: u8) -> State {
    let mut state = State::default();
    for node in 1..=nodes {
        let identity = u128::from(node);
        apply(&mut state, Command::Join { identity, profile: profile("host") });
        let register = Command::Register { node, identity, boot: 1, after: 0, profile: profile("host") };
        apply(&mut state, register);
    }
    let starts = state.starts();
    assert_eq!(apply(&mut state, Command::Order(Order::Raise { version, starts })), Reply::Ordered);
    apply(&mut state, Command::Create { partitions: copies.len() as u16 });
    let place = |(partition, copies): (u16, &&[NodeId])| Placement { partition, replicas: copies.to_vec() };
    let changes = (0..).zip(copies).map(place).collect();
    apply(&mut state, Command::Place { version: 0, changes });
    let in_sync = |(partition, copies): (u16, &&[NodeId])| {
        let version = state.partition(partition).unwrap().in_sync_version;
        InSyncChange { partition, epoch: 1, version, in_sync: copies.iter().map(|node| member(*node)).collect() }
    };
    let changes: Vec<InSyncChange> = (0..).zip(copies).map(in_sync).collect();
    let changed = changes.len() as u32;
    assert_eq!(apply(&mut state, Command::SetInSync { changes }), Reply::InSync { changed, stale: 0 });
    state
}

fn promote(state: &mut State, dead: &[NodeId]) {
    let alive = state.nodes().iter().map(|node| node.id).filter(|node| !dead.contains(node));
    let ready = alive.map(member).collect();
    let dead = dead.iter().copied().map(member).collect();
    let starts = state.starts();
    let reply = apply(state, Command::Promote { starts, dead, ready });
    assert!(matches!(reply, Reply::Promoted { .. }), "{reply:?}");
}

fn reach(state: &mut State, partition: PartitionId, node: NodeId, reached: Reached) {
    let of = Move { partition, epoch: 1 };
    assert_eq!(apply(state, Command::Reach { of, by: member(node), reached, lacking: vec![] }), Reply::Reached);
}

fn floor(state: &State, partition: PartitionId) -> Option<Reached> {
    state.settlements().of(partition, 1).unwrap().floor
}

#[test]
fn the_floor_is_the_lowest_of_what_all_who_were_in_sync_had_reached() {
    let mut state = cluster(4, &[&[1, 2, 3], &[1, 3, 4], &[2, 3, 4], &[4, 1, 2]], 4);
    promote(&mut state, &[1]);
    let settlement = state.settlements().of(0, 1).unwrap();
    assert_eq!(settlement.waits_for, [2, 3, 4]);
    assert_eq!(settlement.lost, [0, 1].map(|partition| Move { partition, epoch: 1 }));
    assert_eq!(state.settlements().of(2, 1), None, "it was not led by the one that died");
    assert_eq!(state.settlements().of(0, 2), None, "another epoch is another log");
    assert!(!settlement.is_asked() && settlement.awaits(2) && !settlement.awaits(1));
    reach(&mut state, 0, 2, 90);
    // Whatever is named of what was lost together.
    reach(&mut state, 1, 3, 70);
    assert!(state.settlements().of(1, 1).unwrap().is_asked());
    assert_eq!(floor(&state, 0), None);
    // What is said again changes nothing.
    reach(&mut state, 0, 3, 10);
    assert_eq!(floor(&state, 0), None);
    reach(&mut state, 1, 4, 80);
    assert_eq!((floor(&state, 0), floor(&state, 1)), (Some(70), Some(70)));
    reach(&mut state, 1, 4, 5);
    assert_eq!(floor(&state, 0), Some(70));
}

#[test]
fn what_spans_a_partition_that_somebody_had_not_begun_to_follow_is_dropped() {
    let mut state = cluster(4, &[&[1, 2, 3], &[1, 3, 4], &[1, 2, 3], &[4, 1, 2]], 4);
    promote(&mut state, &[1]);
    let of = Move { partition: 0, epoch: 1 };
    reach(&mut state, 0, 2, 90);
    reach(&mut state, 0, 4, 80);
    let keeps = |state: &State, index, spans: &[PartitionId]| {
        let spans: Vec<Move> = spans.iter().map(|partition| Move { partition: *partition, epoch: 1 }).collect();
        state.settlements().of(0, 1).unwrap().keeps(index, &spans)
    };
    assert_eq!(keeps(&state, 1, &[0, 1]), None);
    let by = member(3);
    assert_eq!(apply(&mut state, Command::Reach { of, by, reached: 95, lacking: vec![2] }), Reply::Reached);
    assert_eq!([80, 81].map(|index| keeps(&state, index, &[0, 1])), [Some(true), Some(false)]);
    assert_eq!(keeps(&state, 1, &[0, 2]), Some(false));
    let earlier = [of, Move { partition: 2, epoch: 7 }];
    assert_eq!(state.settlements().of(0, 1).unwrap().keeps(1, &earlier), Some(true), "it is about another epoch");
}

#[test]
fn who_is_gone_is_waited_for_no_longer_and_leads_nothing_of_it() {
    let mut state = cluster(4, &[&[1, 2, 3], &[1, 3, 4], &[2, 3, 4], &[4, 1, 2]], 4);
    promote(&mut state, &[1]);
    reach(&mut state, 0, 2, 90);
    reach(&mut state, 0, 4, 80);
    // It follows in both, and leads one.
    let sets = |state: &State| [0, 1].map(|partition| state.partition(partition).unwrap().in_sync.clone());
    assert_eq!(sets(&state), [vec![2, 3], vec![3, 4]]);
    promote(&mut state, &[1, 3]);
    assert_eq!(sets(&state), [vec![2], vec![4]]);
    assert_eq!(floor(&state, 0), Some(80));

    // One that was not dead, and is to lead after all, counts again.
    let mut state = cluster(4, &[&[1, 2], &[1, 3], &[2, 3], &[4, 1]], 4);
    promote(&mut state, &[1]);
    promote(&mut state, &[3]);
    let ready = [2, 3, 4].map(member).into();
    let starts = state.starts();
    apply(&mut state, Command::Promote { starts, dead: vec![], ready });
    assert_eq!(state.partition(1).unwrap().primary, Some(3));
    assert_eq!(state.settlements().of(0, 1).unwrap().waits_for, [2]);
    reach(&mut state, 1, 3, 70);
    reach(&mut state, 0, 2, 90);
    assert_eq!(floor(&state, 0), Some(70));

    // One that starts anew is waited for no longer, too.
    let mut state = cluster(3, &[&[1, 2, 3], &[1, 3, 2]], 4);
    promote(&mut state, &[1]);
    reach(&mut state, 0, 2, 90);
    apply(&mut state, Command::Register { node: 3, identity: 3, boot: 2, after: 1, profile: profile("host") });
    assert_eq!(floor(&state, 0), Some(90));
    assert_eq!(state.partition(0).unwrap().in_sync, [2]);
    let late = Command::Reach { of: Move { partition: 0, epoch: 1 }, by: member(3), reached: 1, lacking: vec![] };
    assert!(matches!(apply(&mut state, late), Reply::Refused(Refusal::StaleIncarnation { .. })));
}

#[test]
fn a_primary_that_starts_anew_loses_as_one_that_dies() {
    let mut state = cluster(3, &[&[1, 2, 3], &[1, 3, 2]], 4);
    apply(&mut state, Command::Register { node: 1, identity: 1, boot: 2, after: 1, profile: profile("host") });
    assert_eq!(state.settlements().of(0, 1).unwrap().waits_for, [2, 3]);
    let before = state.settlements().clone();
    let ready = [2, 3].map(member).into();
    let starts = state.starts();
    apply(&mut state, Command::Promote { starts, dead: vec![], ready });
    assert_eq!(*state.settlements(), before, "who leads now has lost nothing");
    assert_eq!(state.partition(0).unwrap().primary, Some(2));
}

#[test]
fn one_partition_is_not_cut_in_two() {
    let mut state = cluster(3, &[&[1, 2, 3], &[2, 3, 1]], 4);
    promote(&mut state, &[1]);
    assert_eq!(state.settlements().of(0, 1), None);
}

#[test]
fn what_was_said_stays_said() {
    let mut state = cluster(4, &[&[1, 2, 3], &[1, 3, 4], &[2, 3, 4], &[4, 1, 2]], 4);
    promote(&mut state, &[1]);
    // It leads without what it lacks, and others have followed it before it dies.
    reach(&mut state, 1, 3, 40);
    promote(&mut state, &[3]);
    let settlement = state.settlements().of(1, 1).unwrap();
    assert_eq!((&settlement.waits_for[..], settlement.waits_for_any(|node| node == 3)), (&[2, 3, 4][..], false));
    reach(&mut state, 0, 2, 90);
    reach(&mut state, 0, 4, 90);
    assert_eq!(floor(&state, 0), Some(40));
}

#[test]
fn nobody_lacks_what_was_not_lost() {
    let mut state = cluster(4, &[&[1, 2, 3], &[1, 3, 4], &[2, 3, 4], &[4, 1, 2]], 4);
    promote(&mut state, &[1]);
    let (of, by) = (Move { partition: 0, epoch: 1 }, member(2));
    apply(&mut state, Command::Reach { of, by, reached: 9, lacking: vec![1, 2, 77, u16::MAX] });
    assert_eq!(state.settlements().of(0, 1).unwrap().lacking, [1]);
}

#[test]
fn a_role_that_is_handed_over_is_not_lost() {
    let mut state = cluster(3, &[&[1, 2, 3], &[1, 3, 2], &[1, 2, 3], &[3, 2, 1]], 4);
    let moves = vec![Move { partition: 0, epoch: 1 }];
    apply(&mut state, Command::Lead { moves, to: member(2) });
    assert_eq!(state.settlements().iter().count(), 0);
    promote(&mut state, &[1]);
    assert_eq!(state.settlements().of(0, 1), None);
    assert_eq!(state.settlements().of(1, 1).unwrap().lost.len(), 2);
}

#[test]
fn before_its_version_nothing_is_noted() {
    let mut state = cluster(3, &[&[1, 2, 3], &[1, 3, 2]], 3);
    promote(&mut state, &[1]);
    assert_eq!(state.settlements().iter().count(), 0);
    let command = Command::Reach { of: Move { partition: 0, epoch: 1 }, by: member(2), reached: 1, lacking: vec![] };
    assert_eq!(state.apply(&command), Reply::Refused(Refusal::Version { version: 3 }));
}

#[test]
fn all_losses_of_one_command_are_kept_and_earlier_ones_as_far_as_there_is_room() {
    // Each of the first 16 nodes leads two partitions, and two others follow all of them.
    let copies: Vec<[NodeId; 3]> = (0..32).map(|at| [1 + at / 2 % 16, 17, 18]).collect();
    let copies: Vec<&[NodeId]> = copies.iter().map(|copies| &copies[..]).collect();
    let mut state = cluster(18, &copies, 4);
    let dead: Vec<NodeId> = (1..=15).collect();
    promote(&mut state, &[16]);
    reach(&mut state, 30, 17, 5);
    reach(&mut state, 30, 18, 5);
    promote(&mut state, &dead);
    assert_eq!(state.settlements().iter().count(), 16);
    // The first new primary is lost: what is decided makes room, and then the oldest.
    let lost: Vec<PartitionId> = (0..32).filter(|p| state.partition(*p).unwrap().primary == Some(17)).collect();
    assert_eq!(lost.len(), 32);
    promote(&mut state, &[17]);
    assert!(state.settlements().of(30, 1).is_none() && state.settlements().of(0, 1).is_none());
    assert_eq!(state.settlements().of(0, 2).unwrap().lost.len(), 32);
}

#[test]
fn what_is_decided_goes_first() {
    let copies: [&[NodeId]; 8] = std::array::from_fn(|at| match at {
        0..2 => &[1, 3, 4, 5][..],
        2..4 => &[2, 3, 4, 5],
        _ => &[6, 5],
    });
    let mut state = cluster(6, &copies, 4);
    (1..=3).for_each(|node| promote(&mut state, &[node]));
    let of = Move { partition: 0, epoch: 2 };
    for node in [4, 5] {
        let said = Command::Reach { of, by: member(node), reached: 7, lacking: vec![] };
        assert_eq!(apply(&mut state, said), Reply::Reached);
    }
    assert_eq!(state.settlements().of(0, 2).unwrap().floor, Some(7));
    promote(&mut state, &[4]);
    assert_eq!([1, 2, 3].map(|epoch| state.settlements().of(0, epoch).is_some()), [true, false, true]);
}
