//! Roles that go to another node while both live.

use super::*;
use crate::raft::command::{Naming, Order};
use crate::raft::successors::NAMING_VERSION;
use crate::streams::ahead::Ahead;
use crate::streams::message::{PROTOCOL_OLDEST, RELEASE_VERSION, Release};

/// A leader of partitions 0 and 1 that nodes 2 and 3 follow without lacking anything, at index 10.
fn followed() -> Leader {
    followed_by(PROTOCOL_OLDEST)
}

/// Likewise; the followers speak this version.
fn followed_by(version: u16) -> Leader {
    let mut leader = leader(&[1, 2, 3], BASE, None);
    let mut out = Vec::new();
    for (peer, node) in [(5, 2), (6, 3)] {
        leader.message(0, peer, opened(node, 1, version), &mut out);
    }
    leader.turn_end(0, &mut out);
    acknowledge(&mut leader, 10);
    leader
}

/// The Open of a connection.
fn opened(node: NodeId, attempt: u64, version: u16) -> ToLeader {
    let ToLeader::Open(mut open) = open(node, &[(0, Some(BASE)), (1, Some(BASE))]) else { unreachable!() };
    (open.attempt, open.version) = (attempt, version);
    ToLeader::Open(open)
}

fn acknowledge(leader: &mut Leader, index: Index) {
    for peer in [5, 6] {
        let ack = ToLeader::Ack { round: 1, received: index, applied: 0, durable: 0 };
        leader.message(0, peer, ack, &mut Vec::new());
    }
}

const FIRST: Move = Move { partition: 0, epoch: 1 };

/// Data cores have seen everything that there is to see.
fn see_gates(leader: &mut Leader) -> Vec<leader::Action> {
    let mut out = Vec::new();
    leader.gates_seen(leader.gates(), &mut out);
    out
}

#[test]
fn a_role_is_handed_over_when_nothing_can_be_written_and_everything_is_committed() {
    let mut leader = followed();
    let mut out = Vec::new();
    assert_eq!(leader.hand_over(0, &[FIRST], to(2), 9, &mut out), 1);
    assert_eq!(out, [leader::Action::Gates]);
    assert_eq!([0, 1].map(|p| leader.gate(p)), [Some(Gate::Closing), Some(Gate::Open)]);
    // It is on its way already.
    assert_eq!(leader.hand_over(0, &[FIRST], to(3), 9, &mut out), 0);
    // What was begun, ends.
    append(&mut leader, 11, 0);
    assert_eq!(see_gates(&mut leader), [leader::Action::Gates]);
    assert_eq!(leader.gate(0), Some(Gate::Closed));
    append(&mut leader, 12, 0);
    // Those who have seen the gate as it was before do not know that it is closed.
    out.clear();
    leader.gates_seen(leader.gates() - 1, &mut out);
    leader.turn_end(0, &mut out);
    assert!(!out.iter().any(|action| matches!(action, leader::Action::HandOver { .. })));
    assert_eq!(see_gates(&mut leader), []);
    acknowledge(&mut leader, 11);
    out.clear();
    leader.turn_end(0, &mut out);
    assert!(!out.iter().any(|action| matches!(action, leader::Action::HandOver { .. })), "one unit is on its way");
    acknowledge(&mut leader, 12);
    out.clear();
    leader.turn_end(0, &mut out);
    assert!(out.contains(&leader::Action::HandOver { moves: vec![FIRST], to: to(2) }), "{out:?}");
    // Raft agrees.
    let mut state = state(&[1, 2, 3]);
    state.apply(&Command::Lead { moves: vec![FIRST], to: to(2) });
    out.clear();
    leader.roles(1, &state, &mut out);
    assert_eq!(out[0], leader::Action::Deposed { partition: 0, epoch: 1, handed_over: true });
    assert_eq!(leader.release(0), Some(Tail { epoch: 1, index: 12 }));
    assert_eq!((leader.handing_over(), leader.gate(1)), (0, Some(Gate::Open)));
    assert_eq!(handovers(&leader), [1, 1, 0]);
}

/// One that has one data core.
#[test]
fn a_gate_that_only_one_core_has_to_see_closes_in_one_step() {
    let mut leader = followed();
    leader.configure(leader::Settings { lone_core: true, ..settings() });
    let mut out = Vec::new();
    leader.hand_over(0, &[FIRST], to(2), 9, &mut out);
    assert_eq!((leader.gate(0), &out[..]), (Some(Gate::Closed), &[leader::Action::Gates][..]));
    // The core may not have seen it.
    leader.gates_seen(leader.gates() - 1, &mut out);
    append(&mut leader, 11, 0);
    leader.turn_end(0, &mut out);
    assert_eq!(see_gates(&mut leader), []);
    out.clear();
    leader.turn_end(0, &mut out);
    assert!(!out.iter().any(|action| matches!(action, leader::Action::HandOver { .. })), "one unit is on its way");
    acknowledge(&mut leader, 11);
    leader.turn_end(0, &mut out);
    assert!(out.contains(&leader::Action::HandOver { moves: vec![FIRST], to: to(2) }), "{out:?}");
}

/// Those that were begun, completed and given up.
fn handovers(leader: &Leader) -> [u64; 3] {
    let leader::Tally { handovers_begun, handovers_completed, handovers_given_up, .. } = leader.tally();
    [handovers_begun, handovers_completed, handovers_given_up]
}

#[test]
fn a_role_goes_to_nobody_who_could_not_take_it() {
    let mut leader = leader(&[1, 2], BASE, None);
    let mut out = Vec::new();
    // Node 2 is in sync, and not connected; node 3 is not in sync; the epoch and the incarnation are others.
    for (change, to) in [
        (FIRST, to(2)),
        (FIRST, to(3)),
        (FIRST, to(1)),
        (Move { epoch: 2, ..FIRST }, to(2)),
        (FIRST, Member { incarnation: 2, ..to(2) }),
        (Move { partition: 9, epoch: 1 }, to(2)),
    ] {
        assert_eq!(leader.hand_over(0, &[change], to, 9, &mut out), 0, "{change:?} to {to:?}");
    }
    assert_eq!(out, []);
}

#[test]
fn a_handover_that_does_not_get_on_is_given_up_or_taken_back() {
    // Data cores do not answer: requests go on.
    let mut leader = followed();
    let mut out = Vec::new();
    leader.hand_over(0, &[FIRST], to(2), 9, &mut out);
    leader.tick(HANDOVER_MS, 0, &mut out);
    assert_eq!(leader.gate(0), Some(Gate::Closing));
    out.clear();
    leader.tick(HANDOVER_MS + 1, 0, &mut out);
    assert!(out.contains(&leader::Action::Gates));
    assert_eq!((leader.gate(0), leader.handing_over()), (Some(Gate::Open), 0));
    assert_eq!(handovers(&leader), [1, 0, 1]);

    // Raft has refused it: likewise, but not before all that were proposed are decided.
    let mut leader = followed();
    leader.hand_over(0, &[FIRST], to(2), 9, &mut out);
    see_gates(&mut leader);
    see_gates(&mut leader);
    leader.turn_end(0, &mut out);
    out.clear();
    leader.tick(60, 0, &mut out);
    assert!(out.contains(&leader::Action::HandOver { moves: vec![FIRST], to: to(2) }), "{out:?}");
    leader.decided(&[FIRST], &mut out);
    assert_eq!(leader.gate(0), Some(Gate::Closed));
    leader.decided(&[FIRST], &mut out);
    assert_eq!(leader.gate(0), Some(Gate::Open));
    assert_eq!(handovers(&leader), [1, 0, 1]);

    // Nobody knows: the gate stays closed, this node proposes that it leads anew, and at last says that it does not know.
    let mut leader = followed();
    leader.hand_over(0, &[FIRST], to(2), 9, &mut out);
    see_gates(&mut leader);
    see_gates(&mut leader);
    leader.turn_end(0, &mut out);
    out.clear();
    leader.tick(HANDOVER_MS + 1, 0, &mut out);
    assert!(out.contains(&leader::Action::HandOver { moves: vec![FIRST], to: to(1) }), "{out:?}");
    assert_eq!(leader.gate(0), Some(Gate::Closed));
    leader.tick(STUCK_MS + 1, 0, &mut out);
    assert_eq!(leader.gate(0), None);
    let mut state = state(&[1, 2, 3]);
    state.apply(&Command::Lead { moves: vec![FIRST], to: to(1) });
    out.clear();
    leader.roles(1, &state, &mut out);
    assert_eq!(out[0], leader::Action::Deposed { partition: 0, epoch: 1, handed_over: false });
    assert_eq!(handovers(&leader), [1, 0, 1]);
}

#[test]
fn a_follower_that_is_about_to_end_is_waited_for_no_longer() {
    let mut leader = followed();
    let mut out = Vec::new();
    leader.tick(1, 0, &mut out);
    let proposed = |out: &[leader::Action]| -> Vec<Vec<NodeId>> {
        let changes = out.iter().filter_map(|action| match action {
            leader::Action::Propose(changes) => Some(changes.iter()),
            _ => None,
        });
        changes.flatten().map(|change| change.in_sync.iter().map(|member| member.node).collect()).collect()
    };
    assert_eq!(proposed(&out), Vec::<Vec<NodeId>>::new());
    leader.message(2, 5, ToLeader::Leave, &mut out);
    out.clear();
    leader.tick(3, 0, &mut out);
    assert_eq!(proposed(&out), [[1, 3], [1, 3]]);
    // No role goes to it.
    assert_eq!(leader.hand_over(4, &[FIRST], to(2), 9, &mut Vec::new()), 0);
    // It stays after all.
    leader.roles(5, &state(&[1, 3]), &mut out);
    leader.message(6, 5, keep(2, 2), &mut out);
    out.clear();
    leader.turn_end(6, &mut out);
    acknowledge(&mut leader, 10);
    for now_ms in (20..=100).step_by(20) {
        for peer in [5, 6] {
            leader.message(now_ms, peer, ToLeader::Heartbeat { wall_ms: 0 }, &mut out);
        }
        leader.tick(now_ms, 0, &mut out);
    }
    assert_eq!(proposed(&out), [[1, 2, 3], [1, 2, 3]]);
}

/// An Open that goes on with both partitions.
fn keep(node: NodeId, number: u64) -> ToLeader {
    let ToLeader::Open(mut open) = open(node, &[(0, None), (1, None)]) else { unreachable!() };
    open.number = number;
    open.wants.iter_mut().for_each(|want| want.keep = true);
    ToLeader::Open(open)
}

/// As [`followed`], in a cluster whose formats have successors.
fn followed_lately() -> (Leader, State) {
    let (mut leader, mut state) = (followed_by(RELEASE_VERSION), state(&[1, 2, 3]));
    let starts = state.starts();
    state.apply(&Command::Order(Order::Raise { version: NAMING_VERSION, starts }));
    leader.roles(0, &state, &mut Vec::new());
    (leader, state)
}

fn name(leader: &mut Leader, state: &mut State, node: NodeId) -> Vec<leader::Action> {
    let named = state.apply(&Command::Name { moves: vec![FIRST], to: to(node) });
    assert_eq!(named, Reply::Named { named: 1, stale: 0 });
    let mut out = Vec::new();
    leader.roles(1, state, &mut out);
    out
}

/// Whom it tells what it has ended.
fn told(out: &[leader::Action]) -> Vec<(leader::Peer, Vec<Release>)> {
    let told = out.iter().filter_map(|action| match action {
        leader::Action::Send { to, message: ToFollower::Control(Control::Released { releases }) } => {
            Some((*to, releases.clone()))
        }
        _ => None,
    });
    told.collect()
}

const RELEASE: Release = Release { partition: 0, epoch: 1, naming: 1 };

#[test]
fn a_role_goes_over_when_its_successor_is_named_and_nothing_can_be_written() {
    let (mut leader, mut state) = followed_lately();
    let mut out = Vec::new();
    assert_eq!(leader.hand_over(0, &[FIRST], to(2), 9, &mut out), 1);
    // Nobody waits for raft.
    assert_eq!(out, [leader::Action::Name { moves: vec![FIRST], to: to(2) }]);
    assert_eq!((leader.gate(0), leader.handing_over()), (Some(Gate::Open), 1));
    assert_eq!(leader.hand_over(0, &[FIRST], to(3), 9, &mut out), 0, "it is on its way");
    append(&mut leader, 11, 0);
    assert_eq!(name(&mut leader, &mut state, 2), [leader::Action::Gates]);
    assert_eq!(leader.gate(0), Some(Gate::Closing));
    see_gates(&mut leader);
    assert_eq!(see_gates(&mut leader), []);
    out.clear();
    leader.turn_end(1, &mut out);
    assert_eq!((told(&out), leader.gate(0)), (vec![], Some(Gate::Closed)), "one unit is on its way");
    acknowledge(&mut leader, 11);
    out.clear();
    leader.turn_end(1, &mut out);
    // First the one that requests wait for.
    assert_eq!(told(&out), [(5, vec![RELEASE])]);
    assert_eq!(out.last(), Some(&leader::Action::Released(vec![RELEASE])));
    out.clear();
    leader.tell_others(2, &mut out);
    assert_eq!(told(&out), [(6, vec![RELEASE])]);
    leader.tell_others(2, &mut out);
    assert_eq!(told(&out).len(), 1, "it is said once");
    // It is not taken back, whatever comes.
    out.clear();
    leader.tick(STUCK_MS + 1, 0, &mut out);
    assert!(!out.iter().any(|action| matches!(action, leader::Action::Keep { .. } | leader::Action::HandOver { .. })));
    let mut ahead = Ahead::default();
    ahead.note(2, 1, &[RELEASE]);
    let gone = state.ahead(ahead.gone(&state, 1));
    out.clear();
    leader.roles(3, &gone, &mut out);
    assert_eq!(out[0], leader::Action::Deposed { partition: 0, epoch: 1, handed_over: true });
    assert_eq!(leader.release(0), Some(Tail { epoch: 1, index: 11 }));
    assert_eq!(handovers(&leader), [1, 1, 0]);
    // Who asks for it once more has not heard of it.
    out.clear();
    leader.message(4, 9, opened(3, 2, RELEASE_VERSION), &mut out);
    leader.turn_end(4, &mut out);
    assert_eq!(told(&out), [(9, vec![RELEASE])]);
}

#[test]
fn a_successor_that_is_not_wanted_any_more_gets_nothing() {
    let kept = leader::Action::Keep { namings: vec![Naming { partition: 0, number: 1 }] };
    // Raft answers too late, or data cores do not.
    for named_ms in [1, HANDOVER_MS + 2] {
        let (mut leader, mut state) = followed_lately();
        let mut out = Vec::new();
        leader.hand_over(0, &[FIRST], to(2), 9, &mut out);
        if named_ms == 1 {
            name(&mut leader, &mut state, 2);
        }
        leader.tick(HANDOVER_MS + 1, 0, &mut out);
        if named_ms > 1 {
            name(&mut leader, &mut state, 2);
        }
        assert_eq!((leader.gate(0), handovers(&leader)), (Some(Gate::Open), [1, 0, 1]));
        assert_eq!(leader.hand_over(0, &[FIRST], to(3), 9, &mut Vec::new()), 0, "node 2 is still named");
        let mut said = 0;
        for now_ms in HANDOVER_MS + 2..HANDOVER_MS + 122 {
            out.clear();
            leader.tick(now_ms, 0, &mut out);
            said += out.iter().filter(|action| **action == kept).count();
        }
        assert_eq!(said, 2, "until it is done, and not all the time");
        state.apply(&Command::Keep { namings: vec![Naming { partition: 0, number: 1 }] });
        out.clear();
        leader.roles(2_000, &state, &mut out);
        leader.tick(2_000, 0, &mut out);
        assert!(!out.contains(&kept) && leader.gate(0) == Some(Gate::Open));
    }
}

#[test]
fn a_role_whose_successor_is_gone_stays() {
    let (mut leader, mut state) = followed_lately();
    let mut out = Vec::new();
    leader.hand_over(0, &[FIRST], to(2), 9, &mut out);
    name(&mut leader, &mut state, 2);
    see_gates(&mut leader);
    see_gates(&mut leader);
    let starts = state.starts();
    state.apply(&Command::Promote { starts, dead: vec![to(2)], ready: vec![] });
    out.clear();
    leader.roles(2, &state, &mut out);
    assert_eq!((leader.gate(0), handovers(&leader)), (Some(Gate::Open), [1, 0, 1]));
    leader.turn_end(2, &mut out);
    assert_eq!(told(&out), []);
}

#[test]
fn without_successors_raft_decides_at_the_end() {
    // The cluster has them, and the other node's process does not speak of them.
    let (mut leader, _) = followed_lately();
    leader.message(0, 7, opened(2, 2, RELEASE_VERSION - 1), &mut Vec::new());
    leader.turn_end(0, &mut Vec::new());
    let ack = ToLeader::Ack { round: 1, received: 10, applied: 0, durable: 0 };
    leader.message(0, 7, ack, &mut Vec::new());
    let mut out = Vec::new();
    assert_eq!(leader.hand_over(0, &[FIRST], to(2), 9, &mut out), 1);
    assert_eq!((out, leader.gate(0)), (vec![leader::Action::Gates], Some(Gate::Closing)));
}
