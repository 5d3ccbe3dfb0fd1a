//! Successors that are named, and what becomes of their roles: commands to a state, and what it then says.

use super::*;
use crate::raft::command::{Command, Force, InSyncChange, Move, Naming, Order, Placement, Refusal, Reply};
use crate::raft::settle::SETTLING_VERSION;
use crate::raft::snapshot::Content;
use crate::raft::state::State;
use crate::raft::stored::VERSION;
use crate::raft::testing::profile;

const FIRST: PartitionId = 0;
const ALL: [NodeId; 3] = [1, 2, 3];

fn apply(state: &mut State, command: Command) -> Reply {
    let reply = state.apply(&command);
    state.validate().unwrap();
    let content = Content { state: state.clone(), ..Content::default() };
    let mut bytes = Vec::new();
    content.encode(1, 0).unwrap().write_to(&mut bytes);
    assert_eq!(Content::decode(&bytes).unwrap(), content, "{command}");
    reply
}

fn member(state: &State, node: NodeId) -> Member {
    state.member(node).unwrap()
}

fn register(state: &mut State, node: NodeId) {
    let (identity, after) = (u128::from(node), state.node(node).unwrap().incarnation);
    let boot = u128::from(after) + 1;
    apply(state, Command::Register { node, identity, boot, after, profile: profile("host") });
}

/// Three nodes, and two partitions: node 1 leads both, and all are in sync.
fn cluster(version: u8) -> State {
    let mut state = State::default();
    for node in ALL {
        apply(&mut state, Command::Join { identity: u128::from(node), profile: profile("host") });
        register(&mut state, node);
    }
    apply(&mut state, Command::Order(Order::Raise { version, starts: 3 }));
    apply(&mut state, Command::Create { partitions: 2 });
    let place = |partition| Placement { partition, replicas: ALL.into() };
    apply(&mut state, Command::Place { version: 0, changes: vec![place(0), place(1)] });
    let changes = vec![grown(&state, 0), grown(&state, 1)];
    assert_eq!(apply(&mut state, Command::SetInSync { changes }), Reply::InSync { changed: 2, stale: 0 });
    state
}

/// All are in sync.
fn grown(state: &State, partition: PartitionId) -> InSyncChange {
    let is = state.partition(partition).unwrap();
    let in_sync = ALL.iter().filter_map(|node| state.member(*node)).collect();
    InSyncChange { partition, epoch: is.epoch, version: is.in_sync_version, in_sync }
}

fn moves(epoch: Epoch) -> Vec<Move> {
    vec![Move { partition: FIRST, epoch }]
}

/// Node 2 may lead the first partition next.
fn named() -> State {
    let mut state = cluster(VERSION);
    let to = member(&state, 2);
    assert_eq!(apply(&mut state, Command::Name { moves: moves(1), to }), Reply::Named { named: 1, stale: 0 });
    assert_eq!(state.successor(FIRST), Some(Successor { to, epoch: 2, number: 1, gone: false }));
    assert_eq!(led(&state), (1, Some(1)));
    state
}

fn led(state: &State) -> (Epoch, Option<NodeId>) {
    let is = state.partition(FIRST).unwrap();
    (is.epoch, is.primary)
}

fn lead(state: &mut State, epoch: Epoch, node: NodeId) -> Reply {
    let to = member(state, node);
    apply(state, Command::Lead { moves: moves(epoch), to })
}

/// Of nodes that are not said to be dead, these are ready.
fn promote(state: &mut State, dead: &[NodeId], ready: &[NodeId]) -> Reply {
    let members = |nodes: &[NodeId]| nodes.iter().map(|node| member(state, *node)).collect();
    let command = Command::Promote { starts: state.starts(), dead: members(dead), ready: members(ready) };
    apply(state, command)
}

#[test]
fn a_successor_is_in_sync_and_another_one_than_the_primary() {
    let mut state = cluster(VERSION);
    let (first, second) = (member(&state, 1), member(&state, 2));
    let stale = Reply::Named { named: 0, stale: 1 };
    assert_eq!(apply(&mut state, Command::Name { moves: moves(1), to: first }), stale);
    assert_eq!(apply(&mut state, Command::Name { moves: moves(2), to: second }), stale);
    let unknown = Command::Name { moves: moves(1), to: Member { incarnation: 7, ..second } };
    let why = Refusal::StaleIncarnation { node: 2, incarnation: 1 };
    assert_eq!(apply(&mut state, unknown), Reply::Refused(why));
    let in_sync = vec![first, member(&state, 3)];
    let changes = vec![InSyncChange { in_sync, ..grown(&state, FIRST) }];
    apply(&mut state, Command::SetInSync { changes });
    assert_eq!(apply(&mut state, Command::Name { moves: moves(1), to: second }), stale);
}

#[test]
fn nobody_is_named_while_nodes_of_an_earlier_version_may_be_there() {
    let mut state = cluster(SETTLING_VERSION);
    let to = member(&state, 2);
    let refused = Refusal::Version { version: SETTLING_VERSION };
    assert_eq!(apply(&mut state, Command::Name { moves: moves(1), to }), Reply::Refused(refused));
}

#[test]
fn a_role_with_a_successor_goes_to_that_one_or_stays() {
    let mut state = named();
    assert_eq!(lead(&mut state, 1, 3), Reply::Moved { moved: 0, stale: 1 });
    let to = member(&state, 3);
    assert_eq!(apply(&mut state, Command::Name { moves: moves(1), to }), Reply::Named { named: 0, stale: 1 });
    let mut kept = state.clone();
    assert_eq!(lead(&mut state, 1, 2), Reply::Moved { moved: 1, stale: 0 });
    assert_eq!((led(&state), state.successor(FIRST)), ((2, Some(2)), None));
    // It cannot be led anew while the other one may begin.
    assert_eq!(lead(&mut kept, 1, 1), Reply::Moved { moved: 0, stale: 1 });
    let keep = |number| Command::Keep { namings: vec![Naming { partition: FIRST, number }] };
    assert_eq!(apply(&mut kept, keep(2)), Reply::Named { named: 0, stale: 1 });
    assert_eq!(apply(&mut kept, keep(1)), Reply::Named { named: 1, stale: 0 });
    assert_eq!((led(&kept), kept.successor(FIRST)), ((1, Some(1)), None));
    // What was said of one naming does not count for the next.
    let to = member(&kept, 2);
    assert_eq!(apply(&mut kept, Command::Name { moves: moves(1), to }), Reply::Named { named: 1, stale: 0 });
    assert_eq!(apply(&mut kept, keep(1)), Reply::Named { named: 0, stale: 1 });
    assert_eq!(kept.successor(FIRST).unwrap().number, 2);
    // Without a primary, nobody else can lead.
    register(&mut kept, 1);
    assert_eq!(apply(&mut kept, keep(2)), Reply::Named { named: 0, stale: 1 });
}

#[test]
fn a_dead_primary_is_followed_by_its_successor_and_by_nobody_else() {
    let mut state = named();
    assert_eq!(promote(&mut state, &[1], &[3]), Reply::Promoted { promoted: 1, stuck: 1 });
    assert_eq!(led(&state), (3, None));
    assert!(state.successor(FIRST).is_some(), "node 2 may have begun");
    assert_eq!(promote(&mut state, &[1], &[2, 3]), Reply::Promoted { promoted: 1, stuck: 0 });
    assert_eq!((led(&state), state.successor(FIRST)), ((4, Some(2)), None));
    // If it is ready at once, it goes on in the epoch in which it may have begun.
    let mut state = named();
    assert_eq!(promote(&mut state, &[1], &[2, 3]), Reply::Promoted { promoted: 2, stuck: 0 });
    assert_eq!((led(&state), state.successor(FIRST)), ((2, Some(2)), None));
}

#[test]
fn a_primary_whose_successor_is_gone_keeps_its_role_or_leads_again() {
    let mut dead = named();
    assert_eq!(promote(&mut dead, &[2], &[1, 3]), Reply::Promoted { promoted: 0, stuck: 0 });
    let mut anew = named();
    register(&mut anew, 2);
    assert!(!anew.successor(FIRST).unwrap().gone, "its process may have a lease");
    assert_eq!(lead(&mut anew, 1, 1), Reply::Moved { moved: 0, stale: 1 });
    assert_eq!(promote(&mut anew, &[], &[1, 3]), Reply::Promoted { promoted: 0, stuck: 0 });
    for state in [dead, anew] {
        assert_eq!((led(&state), state.successor(FIRST).unwrap().gone), ((1, Some(1)), true));
        // It has not ended what it leads, or it has.
        let (mut kept, mut again) = (state.clone(), state);
        let namings = vec![Naming { partition: FIRST, number: 1 }];
        assert_eq!(apply(&mut kept, Command::Keep { namings }), Reply::Named { named: 1, stale: 0 });
        assert_eq!((led(&kept), kept.successor(FIRST)), ((1, Some(1)), None));
        assert_eq!(lead(&mut again, 1, 2), Reply::Moved { moved: 0, stale: 1 });
        assert_eq!(lead(&mut again, 1, 1), Reply::Moved { moved: 1, stale: 0 });
        assert_eq!((led(&again), again.successor(FIRST)), ((3, Some(1)), None));
    }
}

#[test]
fn a_primary_that_starts_anew_is_followed_by_its_successor() {
    let mut state = named();
    register(&mut state, 1);
    assert_eq!(led(&state), (3, None));
    assert_eq!(lead(&mut state, 1, 2), Reply::Moved { moved: 0, stale: 1 });
    let forced = vec![Force { partition: FIRST, epoch: 3, from_nothing: false }];
    let to = member(&state, 3);
    let force = Command::ForceLead { forced, to, lost: vec![1] };
    assert_eq!(apply(&mut state, force), Reply::Refused(Refusal::StillInSync { partition: FIRST, node: 2 }));
    assert_eq!(promote(&mut state, &[], &[1, 3]), Reply::Promoted { promoted: 1, stuck: 1 });
    assert_eq!(promote(&mut state, &[], &[2, 3]), Reply::Promoted { promoted: 1, stuck: 0 });
    assert_eq!((led(&state), state.successor(FIRST)), ((4, Some(2)), None));
}

#[test]
fn without_both_it_goes_to_whoever_is_in_sync() {
    let mut state = named();
    assert_eq!(promote(&mut state, &[1, 2], &[3]), Reply::Promoted { promoted: 2, stuck: 0 });
    assert_eq!((led(&state), state.successor(FIRST)), ((3, Some(3)), None));
    let mut state = named();
    register(&mut state, 1);
    register(&mut state, 2);
    assert_eq!(promote(&mut state, &[], &[3]), Reply::Promoted { promoted: 2, stuck: 0 });
    assert_eq!((led(&state), state.successor(FIRST)), ((4, Some(3)), None));
    // If nobody can, nobody is waited for any more.
    let mut state = named();
    assert_eq!(promote(&mut state, &[1, 2], &[]), Reply::Promoted { promoted: 0, stuck: 2 });
    assert_eq!((led(&state), state.successor(FIRST)), ((3, None), None));
}

#[test]
fn the_in_sync_set_rests_while_somebody_may_take_over() {
    let mut state = named();
    let in_sync = vec![member(&state, 1), member(&state, 2)];
    let shrunk = InSyncChange { in_sync, ..grown(&state, FIRST) };
    let change = |state: &mut State| apply(state, Command::SetInSync { changes: vec![shrunk.clone()] });
    assert_eq!(change(&mut state), Reply::InSync { changed: 0, stale: 1 });
    // Whoever starts anew is out of it all the same, and does not come in.
    register(&mut state, 3);
    assert_eq!(state.partition(FIRST).unwrap().in_sync, [1, 2]);
    let changes = vec![grown(&state, FIRST)];
    assert_eq!(apply(&mut state, Command::SetInSync { changes }), Reply::InSync { changed: 0, stale: 1 });
    lead(&mut state, 1, 2);
    let changes = vec![grown(&state, FIRST)];
    assert_eq!(apply(&mut state, Command::SetInSync { changes }), Reply::InSync { changed: 1, stale: 0 });
}
