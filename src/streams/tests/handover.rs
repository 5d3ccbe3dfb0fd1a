//! Roles that go to another node while both live.

use super::*;

/// A leader of partitions 0 and 1 that nodes 2 and 3 follow without lacking anything, at index 10.
fn followed() -> Leader {
    let mut leader = leader(&[1, 2, 3], BASE, None);
    let mut out = Vec::new();
    for (peer, node) in [(5, 2), (6, 3)] {
        leader.message(0, peer, open(node, &[(0, Some(BASE)), (1, Some(BASE))]), &mut out);
    }
    leader.turn_end(0, &mut out);
    acknowledge(&mut leader, 10);
    leader
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
