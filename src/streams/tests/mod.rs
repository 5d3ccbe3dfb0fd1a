//! Transcripts: what one side says, and what the other does.

mod force;
mod handover;
mod memory;
mod pace;
mod spans;

use std::rc::Rc;

use super::follower::{self, Follower, Holding};
use super::leader::handover::{HANDOVER_MS, STUCK_MS};
use super::leader::{self, Leader};
use super::message::{Answer, Answered, Control, Open, PROTOCOL_VERSION, ToFollower, ToLeader, Want};
use super::{Frame, InSyncChange, Index, Member, NodeId, Suffix, Tail};
use crate::cluster::Gate;
use crate::raft::command::{Command, Force, Move, Placement, Profile, Reply};
use crate::raft::state::State;
use crate::shard::statement::{encode, encode_unit};

fn state(in_sync: &[NodeId]) -> State {
    let mut state = State::default();
    let profile = |n| Profile {
        host: format!("n{n}"),
        port: 1,
        bus_port: 2,
        rack: String::new(),
        weight: 1,
        ..Profile::default()
    };
    for n in 1..=3u64 {
        state.apply(&Command::Join { identity: n.into(), profile: profile(n) });
        let boot = 100 + u128::from(n);
        state.apply(&Command::Register { node: n, identity: n.into(), boot, after: 0, profile: profile(n) });
    }
    state.apply(&Command::Create { partitions: 2 });
    let place = |partition| Placement { partition, replicas: vec![1, 2, 3] };
    state.apply(&Command::Place { version: 0, changes: vec![place(0), place(1)] });
    for partition in 0..2 {
        let in_sync = in_sync.iter().map(|node| Member { node: *node, incarnation: 1 }).collect();
        let change = InSyncChange { partition, epoch: 1, version: 1, in_sync };
        state.apply(&Command::SetInSync { changes: vec![change] });
    }
    state
}

fn settings() -> leader::Settings {
    leader::Settings {
        node: 1,
        lone_core: false,
        insync_timeout_ms: 200,
        absence_ms: 30,
        propose_ms: 60,
        durable_quorum: false,
        heartbeat_ms: 30,
        repl_timeout_ms: 1_000,
        phi_max: 8.0,
        queue_bytes_max: 1 << 20,
        uncommitted_bytes_max: 1 << 20,
        copy_partitions_max: 8,
        copy_window_bytes: 1 << 10,
    }
}

/// Node 2, as a follower.
fn second() -> follower::Settings {
    follower::Settings {
        node: 2,
        incarnation: 1,
        boot: 102,
        heartbeat_ms: 30,
        repl_timeout_ms: 1_000,
        reconnect_ms: 10,
    }
}

/// A leader of partitions 0 and 1 whose log ends at 10.
fn leader(in_sync: &[NodeId], base: Tail, suffix: Option<Suffix>) -> Leader {
    let mut leader = Leader::new(settings(), 10);
    let mut out = Vec::new();
    leader.roles(0, &state(in_sync), &mut out);
    leader.lead(0, 0, 1, base, 10, suffix, &mut out);
    leader.lead(0, 1, 1, base, 10, None, &mut out);
    assert!(out.is_empty());
    leader
}

fn unit(partition: u16) -> Vec<u8> {
    let mut units = Vec::new();
    encode_unit(&mut units, |out| encode(out, 0, Some(partition * 8192), &[b"SET", b"k", b"v"]));
    units
}

fn append(leader: &mut Leader, index: Index, partition: u16) {
    let units = unit(partition);
    leader.appended(0, &Frame { first: index, last: index, wall_ms: 0, units: &units }, &mut Vec::new());
}

fn open(node: NodeId, wants: &[(u16, Option<Tail>)]) -> ToLeader {
    let want = |&(partition, tail)| Want { partition, epoch: 1, tail, keep: false };
    ToLeader::Open(Open {
        version: 1,
        node,
        incarnation: 1,
        boot: 100 + u128::from(node),
        attempt: 1,
        number: 1,
        wants: wants.iter().map(want).collect(),
    })
}

fn answers(out: &[leader::Action]) -> Vec<(u16, Answer)> {
    let answers = out.iter().filter_map(|action| match action {
        leader::Action::Send { message: ToFollower::Control(Control::Answers { answers, .. }), .. } => Some(answers),
        _ => None,
    });
    answers.flatten().map(|Answered { partition, answer, .. }| (*partition, *answer)).collect()
}

fn to(node: NodeId) -> Member {
    Member { node, incarnation: 1 }
}

const BASE: Tail = Tail { epoch: 0, index: 7 };

#[test]
fn tails_decide_how_a_follower_goes_on() {
    let pieces = [6, 7].map(|index| super::Piece {
        tail: Tail { epoch: 0, index },
        wall_ms: 0,
        spans: None,
        units: unit(0).into(),
    });
    let suffix = Suffix { after: Tail { epoch: 0, index: 4 }, pieces: pieces.to_vec() };
    let ask = |tail: Option<Tail>, oldest| {
        let mut leader = leader(&[1], BASE, Some(suffix.clone()));
        leader.oldest(11);
        append(&mut leader, 11, 0);
        append(&mut leader, 12, 0);
        leader.oldest(oldest);
        let mut out = Vec::new();
        leader.message(0, 5, open(2, &[(0, tail)]), &mut out);
        answers(&out)[0].1
    };
    let tail = |epoch, index| Some(Tail { epoch, index });
    assert_eq!(ask(tail(1, 12), 13), Answer::Follow { after: 12, cut: 10 });
    assert_eq!(ask(tail(1, 11), 12), Answer::Follow { after: 11, cut: 10 });
    assert_eq!(ask(tail(1, 11), 13), Answer::Copy);
    assert_eq!(ask(tail(1, 13), 11), Answer::Copy);
    assert_eq!(ask(tail(0, 7), 11), Answer::Follow { after: 10, cut: 10 });
    assert_eq!(ask(tail(0, 7), 12), Answer::Copy);
    assert_eq!(ask(tail(0, 9), 11), Answer::Cut { to: BASE, cut: 10 });
    assert_eq!(ask(tail(0, 6), 11), Answer::Suffix { cut: 10 });
    assert_eq!(ask(tail(0, 4), 11), Answer::Suffix { cut: 10 });
    assert_eq!(ask(tail(0, 5), 11), Answer::Copy);
    assert_eq!(ask(None, 11), Answer::Copy);
}

#[test]
fn the_base_is_committed_when_all_in_sync_have_it() {
    let mut leader = leader(&[1, 2], BASE, None);
    let mut out = Vec::new();
    leader.turn_end(0, &mut out);
    assert_eq!(leader.commit_upto(), 9);
    leader.message(0, 5, open(2, &[(0, Some(BASE)), (1, Some(BASE))]), &mut out);
    leader.turn_end(0, &mut out);
    assert_eq!(leader.commit_upto(), 10);
}

#[test]
fn an_idle_partition_holds_nobody_back() {
    let mut leader = leader(&[1, 2], BASE, None);
    let mut out = Vec::new();
    leader.message(0, 5, open(2, &[(0, Some(BASE)), (1, Some(BASE))]), &mut out);
    append(&mut leader, 11, 0);
    leader.turn_end(0, &mut out);
    assert_eq!((leader.commit_upto(), leader.received_by(11)), (10, 0));
    leader.message(0, 5, ToLeader::Ack { round: 1, received: 11, applied: 10, durable: 0 }, &mut out);
    // What does not concern the follower.
    let mut foreign = Vec::new();
    encode_unit(&mut foreign, |out| encode(out, 1, Some(0), &[b"SET", b"k", b"v"]));
    leader.appended(0, &Frame { first: 12, last: 12, wall_ms: 0, units: &foreign }, &mut out);
    leader.turn_end(0, &mut out);
    assert_eq!((leader.commit_upto(), leader.received_by(12)), (12, 1));
    assert_eq!(leader.commit_durable_upto(), 0);
    // The connection breaks: what was acknowledged stays so, what comes waits until the follower is out of the set.
    leader.disconnected(0, 5, &mut out);
    append(&mut leader, 13, 1);
    out.clear();
    leader.turn_end(0, &mut out);
    assert_eq!(leader.commit_upto(), 11);
    leader.tick(31, 0, &mut out);
    let alone =
        |partition| InSyncChange { partition, epoch: 1, version: 2, in_sync: vec![Member { node: 1, incarnation: 1 }] };
    assert_eq!(out, [leader::Action::Propose(vec![alone(0), alone(1)])]);
    leader.turn_end(31, &mut out);
    assert!(leader.commit_upto() < 13);
    let mut changed = state(&[1, 2]);
    for partition in 0..2 {
        changed.apply(&Command::SetInSync { changes: vec![alone(partition)] });
    }
    leader.roles(40, &changed, &mut out);
    leader.turn_end(40, &mut out);
    assert_eq!(leader.commit_upto(), 13);
}

/// Partition 0 waits for node 2, partition 1 for node 3.
#[test]
fn partitions_that_wait_for_others_have_a_lane_of_their_own() {
    let mut leader = leader(&[1, 2], BASE, None);
    let mut out = Vec::new();
    assert!(leader.lanes().is_none());
    let mut parted = state(&[1, 2]);
    let in_sync = [1, 3].map(to).into();
    parted.apply(&Command::SetInSync { changes: vec![InSyncChange { partition: 1, epoch: 1, version: 2, in_sync }] });
    leader.roles(0, &parted, &mut out);
    for (peer, node) in [(5, 2), (6, 3)] {
        leader.message(0, peer, open(node, &[(0, Some(BASE)), (1, Some(BASE))]), &mut out);
    }
    leader.turn_end(0, &mut out);
    append(&mut leader, 11, 0);
    append(&mut leader, 12, 1);
    leader.message(0, 6, ToLeader::Ack { round: 1, received: 12, applied: 0, durable: 0 }, &mut out);
    leader.turn_end(0, &mut out);
    let lanes = leader.lanes().unwrap();
    let of = |partition: usize| lanes.ends[usize::from(lanes.map.of[partition])].0;
    assert_eq!((of(0), of(1), leader.commit_upto()), (10, 12, 10), "node 2 is slow");
    // What is led no longer is in no lane, and held back by nobody's.
    parted.apply(&Command::Lead { moves: vec![Move { partition: 0, epoch: 1 }], to: to(2) });
    leader.roles(0, &parted, &mut out);
    leader.turn_end(0, &mut out);
    assert_eq!(leader.commit_upto(), 10);
    assert!(leader.lanes().is_none(), "one group is left");
}

#[test]
fn what_was_deposed_holds_back_until_it_is_released() {
    let mut leader = leader(&[1, 2], BASE, None);
    let mut out = Vec::new();
    leader.message(0, 5, open(2, &[(0, Some(BASE)), (1, Some(BASE))]), &mut out);
    append(&mut leader, 11, 0);
    leader.turn_end(0, &mut out);
    let mut moved = state(&[1, 2]);
    let to = Member { node: 2, incarnation: 1 };
    moved.apply(&Command::Lead { moves: vec![Move { partition: 0, epoch: 1 }], to });
    out.clear();
    leader.roles(0, &moved, &mut out);
    assert_eq!(out[0], leader::Action::Deposed { partition: 0, epoch: 1, handed_over: false });
    leader.turn_end(0, &mut out);
    assert_eq!(leader.commit_upto(), 10);
    assert_eq!(leader.release(0), Some(Tail { epoch: 1, index: 11 }));
    leader.turn_end(0, &mut out);
    assert_eq!(leader.commit_upto(), 11);
}

#[test]
fn a_promoted_node_applies_what_it_has_received_and_then_leads() {
    let mut follower = Follower::new(second());
    (0..2).for_each(|partition| follower.hold(partition, Holding::Empty));
    let mut out = Vec::new();
    follower.roles(&state(&[1, 2]), &mut out);
    follower.turn_end(0, &mut out);
    assert_eq!(out, [follower::Action::Connect { leader: 1 }]);
    follower.connected(0, 1, PROTOCOL_VERSION, &mut out);
    let follow = |partition| Answered { partition, epoch: 1, answer: Answer::Follow { after: 3, cut: 3 } };
    let answers = vec![follow(0), follow(1)];
    follower.message(0, 1, Control::Answers { open: 1, round: 1, position: 3, commit: 3, answers }.into(), &mut out);
    out.clear();
    let units: Rc<[u8]> = [unit(0), unit(1)].concat().into();
    let frame = super::message::StreamFrame { first: 4, last: 5, wall_ms: 9, spans: None, units };
    follower.message(0, 1, ToFollower::Frames { commit: 3, upto: 5, frames: vec![frame] }, &mut out);
    assert_eq!(out, []);
    follower.turn_end(0, &mut out);
    let ack = ToLeader::Ack { round: 1, received: 5, applied: 3, durable: 3 };
    assert_eq!(out, [follower::Action::Send { leader: 1, message: ack }]);

    let mut moved = state(&[1, 2]);
    let to = Member { node: 2, incarnation: 1 };
    moved.apply(&Command::Lead { moves: vec![Move { partition: 0, epoch: 1 }], to });
    out.clear();
    follower.roles(&moved, &mut out);
    let apply = |units: Vec<u8>| follower::Action::Apply {
        ticket: 1,
        wall_ms: 9,
        units: units.into(),
        partitions: Rc::from([0]),
    };
    assert_eq!(out, [apply(unit(0))]);
    out.clear();
    follower.applied(1, &mut out);
    let base = Tail { epoch: 1, index: 5 };
    let [follower::Action::Lead { partition: 0, epoch: 2, base: led, suffix: Some(suffix) }] = &out[..] else {
        panic!("{out:?}");
    };
    assert_eq!((*led, suffix.after, suffix.pieces.len()), (base, Tail::EMPTY, 1));
}

/// A follower of partitions 0 and 1 of node 1, from index 3 on.
fn following() -> Follower {
    let mut follower = Follower::new(second());
    (0..2).for_each(|partition| follower.hold(partition, Holding::Empty));
    let mut out = Vec::new();
    follower.roles(&state(&[1, 2]), &mut out);
    follower.turn_end(0, &mut out);
    follower.connected(0, 1, PROTOCOL_VERSION, &mut out);
    let follow = |partition| Answered { partition, epoch: 1, answer: Answer::Follow { after: 3, cut: 3 } };
    let answers = vec![follow(0), follow(1)];
    follower.message(0, 1, Control::Answers { open: 1, round: 1, position: 3, commit: 3, answers }.into(), &mut out);
    follower
}

/// What is said to a leader at the end of a turn.
fn said(follower: &mut Follower, now_ms: u64) -> Vec<ToLeader> {
    let mut out = Vec::new();
    follower.turn_end(now_ms, &mut out);
    let sent = |action| match action {
        follower::Action::Send { message, .. } => Some(message),
        _ => None,
    };
    out.into_iter().filter_map(sent).collect()
}

/// What is received matters to those who wait; what is applied, to nobody.
#[test]
fn what_is_applied_is_said_with_what_is_received_or_after_a_while() {
    let mut follower = following();
    let ack = |received, applied| ToLeader::Ack { round: 1, received, applied, durable: 3 };
    let frame = |first: Index| {
        let units: Rc<[u8]> = unit(0).into();
        let frame = super::message::StreamFrame { first, last: first, wall_ms: 9, spans: None, units };
        ToFollower::Frames { commit: first, upto: first, frames: vec![frame] }
    };
    let mut out = Vec::new();
    said(&mut follower, 0);
    follower.message(10, 1, frame(4), &mut out);
    assert_eq!(said(&mut follower, 10), [ack(4, 3)]);
    follower.applied(1, &mut out);
    assert_eq!(said(&mut follower, 11), []);
    follower.message(12, 1, frame(5), &mut out);
    assert_eq!(said(&mut follower, 12), [ack(5, 4)]);
    follower.applied(2, &mut out);
    assert_eq!(said(&mut follower, 61), []);
    assert_eq!(said(&mut follower, 62), [ack(5, 5)]);
    assert_eq!(said(&mut follower, 200), []);
}

/// A node that is to lead next is connected before it does; if it does not, the connection ends.
#[test]
fn who_is_expected_to_lead_is_connected_in_advance() {
    let open = |out: &[follower::Action]| {
        let wants = out.iter().find_map(|action| match action {
            follower::Action::Send { leader: 3, message: ToLeader::Open(open) } => Some(open.wants.len()),
            _ => None,
        });
        wants.expect("it says who it is")
    };
    for leads in [false, true] {
        let mut follower = following();
        let mut out = Vec::new();
        said(&mut follower, 0);
        follower.expect(100, 3, &mut out);
        assert_eq!(out, [follower::Action::Connect { leader: 3 }]);
        out.clear();
        follower.connected(110, 3, PROTOCOL_VERSION, &mut out);
        assert_eq!(open(&out), 0);
        out.clear();
        if leads {
            let mut moved = state(&[1, 2, 3]);
            let to = Member { node: 3, incarnation: 1 };
            moved.apply(&Command::Lead { moves: vec![Move { partition: 0, epoch: 1 }], to });
            follower.roles(&moved, &mut out);
            follower.turn_end(120, &mut out);
            assert_eq!(open(&out), 1, "it is asked at once");
        }
        follower.turn_end(99 + follower::EXPECT_MS, &mut out);
        let gone = follower::Action::Disconnect { leader: 3 };
        assert!(!out.contains(&gone));
        follower.turn_end(100 + follower::EXPECT_MS, &mut out);
        assert_eq!(out.contains(&gone), !leads);
        assert_eq!(follower.upstreams(100).len(), if leads { 2 } else { 1 });
    }
}

/// When frames come fast, each says what is committed.
#[test]
fn what_is_committed_waits_for_the_next_frames_if_they_come_fast() {
    let mut leader = leader(&[1, 2], BASE, None);
    let mut out = Vec::new();
    leader.message(0, 5, open(2, &[(0, Some(BASE)), (1, Some(BASE))]), &mut out);
    leader.turn_end(0, &mut out);
    let (units, mut index) = (unit(0), 10);
    let mut turn = |leader: &mut Leader, now_ms: u64, append: bool| {
        if append {
            index += 1;
            leader.appended(now_ms, &Frame { first: index, last: index, wall_ms: 0, units: &units }, &mut Vec::new());
            leader.turn_end(now_ms, &mut out);
        }
        out.clear();
        leader.message(now_ms, 5, ToLeader::Ack { round: 1, received: index, applied: 0, durable: 0 }, &mut out);
        leader.turn_end(now_ms, &mut out);
        out.iter().any(|action| matches!(action, leader::Action::Send { message: ToFollower::Frames { .. }, .. }))
    };
    assert!(turn(&mut leader, 100, true), "alone");
    assert!(turn(&mut leader, 110, true), "they are far apart");
    for now_ms in [112, 114, 116, 118, 120] {
        assert!(!turn(&mut leader, now_ms, true));
    }
    assert!(!turn(&mut leader, 124, false));
    assert!(turn(&mut leader, 125, false), "they have ended");
}

/// Leaders take whoever sends none for dead.
#[test]
fn heartbeats_go_on_whatever_else_is_said() {
    let mut follower = Follower::new(second());
    (0..2).for_each(|partition| follower.hold(partition, Holding::Empty));
    let mut out = Vec::new();
    let mut state = state(&[1]);
    follower.roles(&state, &mut out);
    follower.turn_end(0, &mut out);
    follower.connected(0, 1, PROTOCOL_VERSION, &mut out);
    out.clear();
    // What it wants of this leader changes all the time.
    for now_ms in (10..310).step_by(10) {
        let replicas = if now_ms % 20 == 0 { vec![1, 2, 3] } else { vec![1, 3] };
        let changes = vec![Placement { partition: 1, replicas }];
        state.apply(&Command::Place { version: state.placement_version(), changes });
        follower.roles(&state, &mut out);
        follower.tick(now_ms, 0, &mut out);
    }
    let sent = |is: fn(&ToLeader) -> bool| {
        out.iter().filter(|action| matches!(action, follower::Action::Send { message, .. } if is(message))).count()
    };
    assert!(sent(|message| matches!(message, ToLeader::Open(_))) > 20, "{out:?}");
    assert_eq!(sent(|message| matches!(message, ToLeader::Heartbeat { .. })), 10);
}
