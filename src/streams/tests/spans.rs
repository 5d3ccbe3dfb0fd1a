//! Units that span partitions: when they are committed, and what a promoted node keeps of them.

use super::*;
use crate::raft::command::Order;
use crate::raft::settle::SETTLING_VERSION;
use crate::raft::successors::NAMING_VERSION;
use crate::streams::ahead::Ahead;
use crate::streams::follower::Action as Follow;
use crate::streams::message::{Release, Spans, StreamFrame};

fn both() -> Vec<u8> {
    let mut units = Vec::new();
    encode_unit(&mut units, |out| {
        encode(out, 0, Some(0), &[b"SET", b"k", b"v"]);
        encode(out, 0, Some(8192), &[b"SET", b"l", b"v"]);
    });
    units
}

/// Node 2 follows partition 0 and node 3 partition 1; both are in sync there.
fn apart() -> State {
    let mut state = state(&[1]);
    let place = |(partition, second)| Placement { partition, replicas: vec![1, second] };
    let changes = [(0, 2), (1, 3)].map(place).into();
    assert!(matches!(state.apply(&Command::Place { version: 1, changes }), Reply::Placed { .. }));
    for (partition, second) in [(0, 2), (1, 3)] {
        let version = state.partition(partition).unwrap().in_sync_version;
        let in_sync = vec![to(1), to(second)];
        let changes = vec![InSyncChange { partition, epoch: 1, version, in_sync }];
        assert_eq!(state.apply(&Command::SetInSync { changes }), Reply::InSync { changed: 1, stale: 0 });
    }
    state
}

fn newest(message: ToLeader) -> ToLeader {
    match message {
        ToLeader::Open(open) => ToLeader::Open(Open { version: PROTOCOL_VERSION, ..open }),
        other => other,
    }
}

fn opens(leader: &mut Leader, peer: leader::Peer, node: NodeId, partition: u16, tail: Tail) -> Vec<leader::Action> {
    let mut out = Vec::new();
    leader.message(0, peer, newest(open(node, &[(partition, Some(tail))])), &mut out);
    leader.turn_end(0, &mut out);
    out
}

fn acknowledges(leader: &mut Leader, peer: leader::Peer, received: Index) -> Vec<leader::Action> {
    let mut out = Vec::new();
    leader.message(0, peer, ToLeader::Ack { round: 1, received, applied: 0, durable: 0 }, &mut out);
    leader.turn_end(0, &mut out);
    out
}

fn frames(out: &[leader::Action], to: leader::Peer) -> Vec<StreamFrame> {
    let frames = out.iter().filter_map(|action| match action {
        leader::Action::Send { to: peer, message: ToFollower::Frames { frames, .. } } if *peer == to => Some(frames),
        _ => None,
    });
    frames.flatten().cloned().collect()
}

/// A leader of both, whose followers have come to the end of its log, 10.
fn led() -> Leader {
    let mut leader = Leader::new(settings(), 10);
    let mut out = Vec::new();
    leader.roles(0, &apart(), &mut out);
    leader.lead(0, 0, 1, BASE, 10, None, &mut out);
    leader.lead(0, 1, 1, BASE, 10, None, &mut out);
    opens(&mut leader, 2, 2, 0, BASE);
    opens(&mut leader, 3, 3, 1, BASE);
    acknowledges(&mut leader, 2, 10);
    acknowledges(&mut leader, 3, 10);
    assert_eq!(leader.commit_upto(), 10);
    leader
}

fn appends(leader: &mut Leader, index: Index, units: &[u8]) -> Vec<leader::Action> {
    let mut out = Vec::new();
    leader.appended(0, &Frame { first: index, last: index, wall_ms: 0, units }, &mut out);
    leader.turn_end(0, &mut out);
    out
}

fn spans() -> Spans {
    [0, 1].map(|partition| Move { partition, epoch: 1 }).into()
}

#[test]
fn what_spans_partitions_waits_for_all_followers_and_what_is_behind_it_waits_too() {
    let mut leader = led();
    let out = appends(&mut leader, 11, &both());
    for peer in [2, 3] {
        assert_eq!(frames(&out, peer).iter().map(|frame| frame.spans.clone()).collect::<Vec<_>>(), [Some(spans())]);
    }
    let out = appends(&mut leader, 12, &unit(0));
    assert_eq!(frames(&out, 2)[0].spans, None);
    assert!(frames(&out, 3).is_empty());
    acknowledges(&mut leader, 2, 12);
    let committed = |leader: &Leader| [0, 1].map(|partition| leader.committed(partition, 1).unwrap());
    assert_eq!(committed(&leader), [10, 10], "one follower has it, and what came behind it");
    acknowledges(&mut leader, 3, 11);
    assert_eq!(committed(&leader), [12, 12]);
}

#[test]
fn a_partition_for_which_nobody_is_waited_for_waits_with_the_others() {
    let mut leader = Leader::new(settings(), 10);
    let mut out = Vec::new();
    let mut state = apart();
    let version = state.partition(1).unwrap().in_sync_version;
    let changes = vec![InSyncChange { partition: 1, epoch: 1, version, in_sync: vec![to(1)] }];
    state.apply(&Command::SetInSync { changes });
    leader.roles(0, &state, &mut out);
    leader.lead(0, 0, 1, BASE, 10, None, &mut out);
    leader.lead(0, 1, 1, BASE, 10, None, &mut out);
    opens(&mut leader, 2, 2, 0, BASE);
    acknowledges(&mut leader, 2, 10);
    appends(&mut leader, 11, &both());
    assert_eq!(leader.committed(1, 1), Some(10));
    acknowledges(&mut leader, 2, 11);
    assert_eq!(leader.committed(1, 1), Some(11));
}

#[test]
fn one_that_lacks_nothing_has_come_no_further_than_it_knows() {
    let mut leader = led();
    let mut out = Vec::new();
    leader.disconnected(0, 3, &mut out);
    appends(&mut leader, 11, &both());
    acknowledges(&mut leader, 2, 11);
    assert_eq!(leader.commit_upto(), 10);
    // It lacks nothing as it says, and has yet to hear up to where that is so.
    let tail = Tail { epoch: 1, index: 11 };
    let out = opens(&mut leader, 4, 3, 1, tail);
    assert_eq!(answers(&out), [(1, Answer::Follow { after: 11, cut: 10 })]);
    assert_eq!(leader.commit_upto(), 10);
    acknowledges(&mut leader, 4, 11);
    assert_eq!(leader.commit_upto(), 11);
}

/// Node 2 follows node 1 in both, and has received one frame over both, 11, and one behind it.
fn follower(state: &State) -> Follower {
    let mut follower = Follower::new(second());
    let mut out = Vec::new();
    for partition in 0..2 {
        follower.hold(partition, Holding::Empty);
    }
    follower.roles(state, &mut out);
    follower.turn_end(0, &mut out);
    follower.connected(0, 1, PROTOCOL_VERSION, &mut out);
    let answered = |partition| Answered { partition, epoch: 1, answer: Answer::Follow { after: 10, cut: 10 } };
    let answers = vec![answered(0), answered(1)];
    let control = Control::Answers { open: 1, round: 1, position: 10, commit: 10, answers };
    follower.message(0, 1, control.into(), &mut out);
    let frame = |index, spans, units: Vec<u8>| StreamFrame {
        first: index,
        last: index,
        wall_ms: 0,
        spans,
        units: units.into(),
    };
    let frames = vec![frame(11, Some(spans()), both()), frame(12, None, unit(1))];
    follower.message(0, 1, ToFollower::Frames { commit: 10, upto: 12, frames }, &mut out);
    follower
}

/// Nodes 1 to 3, of which the first leads and all are in sync, in this version.
fn in_version(version: u8) -> State {
    let mut state = state(&[1, 2, 3]);
    let starts = state.starts();
    assert_eq!(state.apply(&Command::Order(Order::Raise { version, starts })), Reply::Ordered);
    state
}

fn loses(state: &mut State) {
    let starts = state.starts();
    let command = Command::Promote { starts, dead: vec![to(1)], ready: vec![to(2), to(3)] };
    assert_eq!(state.apply(&command), Reply::Promoted { promoted: 2, stuck: 0 });
}

fn says(state: &mut State, node: NodeId, reached: Index, lacking: &[u16]) {
    let of = Move { partition: 0, epoch: 1 };
    let command = Command::Reach { of, by: to(node), reached, lacking: lacking.to_vec() };
    assert_eq!(state.apply(&command), Reply::Reached);
}

/// The partitions that are opened, with the tails of what they begin with, once all is applied.
fn opened(follower: &mut Follower, mut out: Vec<Follow>) -> Vec<(u16, Tail)> {
    let last = out.iter().filter_map(Follow::ticket).max();
    if let Some(ticket) = last {
        follower.applied(ticket, &mut out);
    }
    let led = out.iter().filter_map(|action| match action {
        Follow::Lead { partition, base, .. } => Some((*partition, *base)),
        _ => None,
    });
    led.collect()
}

fn tail(index: Index) -> Tail {
    Tail { epoch: 1, index }
}

#[test]
fn a_promoted_node_asks_and_keeps_what_everybody_has() {
    for (said, lacking, kept) in [(12, &[][..], [11, 12]), (11, &[], [11, 12]), (10, &[], [0, 0]), (12, &[1], [0, 0])] {
        let mut state = in_version(SETTLING_VERSION);
        let mut follower = follower(&state);
        loses(&mut state);
        let mut out = Vec::new();
        follower.roles(&state, &mut out);
        follower.turn_end(0, &mut out);
        let of = Move { partition: 0, epoch: 1 };
        let reach = Follow::Reach { of, reached: 12, lacking: vec![] };
        assert!(out.contains(&reach), "{out:?}");
        assert!(follower.is_taking_over(0) && follower.is_taking_over(1));
        assert_eq!(opened(&mut follower, out), []);
        // It is said again until the state shows it.
        let mut out = Vec::new();
        [50, 100, 300, 301].iter().for_each(|now_ms| follower.tick(*now_ms, *now_ms, &mut out));
        assert_eq!(out.iter().filter(|action| **action == reach).count(), 1);
        says(&mut state, 2, 12, &[]);
        says(&mut state, 3, said, lacking);
        let mut out = Vec::new();
        follower.roles(&state, &mut out);
        let tails = kept.map(|index| if index == 0 { Tail::EMPTY } else { tail(index) });
        assert_eq!(opened(&mut follower, out), [(0, tails[0]), (1, tails[1])], "{said} {lacking:?}");
    }
}

#[test]
fn before_its_version_a_promoted_node_keeps_all() {
    let mut state = in_version(SETTLING_VERSION - 1);
    let mut follower = follower(&state);
    loses(&mut state);
    let mut out = Vec::new();
    follower.roles(&state, &mut out);
    follower.turn_end(0, &mut out);
    assert_eq!(opened(&mut follower, out), [(0, tail(11)), (1, tail(12))]);
}

#[test]
fn what_is_known_to_be_committed_waits_for_nobody() {
    let mut state = in_version(SETTLING_VERSION);
    let mut follower = follower(&state);
    let mut out = Vec::new();
    follower.message(0, 1, ToFollower::Frames { commit: 11, upto: 12, frames: vec![] }, &mut out);
    loses(&mut state);
    follower.roles(&state, &mut out);
    follower.turn_end(0, &mut out);
    assert_eq!(opened(&mut follower, out), [(0, tail(11)), (1, tail(12))]);
}

#[test]
fn what_its_primary_has_ended_before_it_was_lost_is_in_no_doubt() {
    let mut state = in_version(NAMING_VERSION);
    let mut follower = follower(&state);
    let moves = vec![Move { partition: 0, epoch: 1 }];
    assert_eq!(state.apply(&Command::Name { moves, to: to(3) }), Reply::Named { named: 1, stale: 0 });
    let mut ahead = Ahead::default();
    ahead.note(0, 1, &[Release { partition: 0, epoch: 1, naming: 1 }]);
    let mut out = Vec::new();
    follower.roles(&state.ahead(ahead.gone(&state, 2)), &mut out);
    // The primary goes on with the other one.
    follower.message(0, 1, ToFollower::Frames { commit: 10, upto: 15, frames: vec![] }, &mut out);
    loses(&mut state);
    assert_eq!(state.settlements().of(0, 1).map(|lost| lost.lost.len()), Some(2));
    out.clear();
    follower.roles(&state, &mut out);
    follower.turn_end(0, &mut out);
    let of = Move { partition: 0, epoch: 1 };
    assert!(out.contains(&Follow::Reach { of, reached: 15, lacking: vec![] }), "{out:?}");
}
