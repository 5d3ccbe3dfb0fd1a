//! A node that leads by force.

use super::*;

/// Node 2, which has this of partition 0; partition 1 is of no interest.
fn follower(holding: Holding) -> Follower {
    let mut follower = Follower::new(second());
    follower.hold(0, holding);
    follower.hold(1, Holding::Empty);
    follower
}

/// Partition 0 had node 1 in sync, which is dead.
fn lost() -> State {
    let mut state = state(&[1]);
    let dead = vec![Member { node: 1, incarnation: 1 }];
    state.apply(&Command::Promote { starts: state.starts(), dead, ready: Vec::new() });
    state
}

fn force(state: &State, from_nothing: bool) -> State {
    let mut state = state.clone();
    let epoch = state.partition(0).unwrap().epoch;
    let forced = vec![Force { partition: 0, epoch, from_nothing }];
    assert_eq!(state.apply(&Command::ForceLead { forced, to: to(2), lost: vec![1] }), Reply::Forced { partitions: 1 });
    state
}

fn told(follower: &mut Follower, state: &State) -> Vec<follower::Action> {
    let mut out = Vec::new();
    follower.roles(state, &mut out);
    out
}

#[test]
fn who_is_forced_to_lead_keeps_what_it_has() {
    for from_nothing in [false, true] {
        let mut follower = follower(Holding::Complete);
        let lost = lost();
        assert_eq!(told(&mut follower, &lost), []);
        let base = Tail::unknown(3);
        let lead = follower::Action::Lead { partition: 0, epoch: 3, base, suffix: None };
        assert_eq!(told(&mut follower, &force(&lost, from_nothing)), [lead]);
    }
}

#[test]
fn who_has_not_everything_leads_if_it_may_begin_from_nothing() {
    // It was not ordered: nobody leads.
    let lost = lost();
    let mut follower = follower(Holding::Incomplete);
    assert_eq!(told(&mut follower, &lost), []);
    let not_ready = follower::Action::NotReady { partition: 0, epoch: 3 };
    assert_eq!(told(&mut follower, &force(&lost, false)), [not_ready]);
    assert!(!follower.is_taking_over(0));
    // It was: what there is, is dropped first.
    let mut follower = self::follower(Holding::Incomplete);
    told(&mut follower, &lost);
    let forced = force(&lost, true);
    let empty = follower::Action::BeginEmpty { ticket: 1, partitions: Rc::from([0]) };
    assert_eq!(told(&mut follower, &forced), [empty]);
    assert!(follower.is_taking_over(0) && !follower.is_complete(0));
    assert_eq!(told(&mut follower, &forced), [], "it is told once");
    let mut out = Vec::new();
    follower.applied(1, &mut out);
    let base = Tail::unknown(3);
    assert_eq!(out, [follower::Action::Lead { partition: 0, epoch: 3, base, suffix: None }]);
    assert!(follower.is_complete(0));
    // It comes back as any that was led, and may lead again.
    let mut moved = forced.clone();
    moved.apply(&Command::Promote { starts: moved.starts(), dead: vec![to(2)], ready: Vec::new() });
    assert_eq!(told(&mut follower, &moved), []);
    let tail = Tail { epoch: 3, index: 20 };
    follower.returned(0, tail, &mut Vec::new());
    moved.apply(&Command::Promote { starts: moved.starts(), dead: Vec::new(), ready: vec![to(2)] });
    let lead = follower::Action::Lead { partition: 0, epoch: 5, base: tail, suffix: None };
    assert_eq!(told(&mut follower, &moved), [lead]);
}

#[test]
fn what_is_spoiled_meanwhile_begins_empty_as_well() {
    let lost = lost();
    let mut follower = follower(Holding::Complete);
    told(&mut follower, &lost);
    let mut out = Vec::new();
    follower.spoiled(&[0, 0], &mut out);
    assert_eq!(out, []);
    let empty = |ticket| follower::Action::BeginEmpty { ticket, partitions: Rc::from([0]) };
    assert_eq!(told(&mut follower, &force(&lost, true)), [empty(1)]);
    follower.spoiled(&[0, 0], &mut out);
    assert_eq!(out, [empty(2)]);
    out.clear();
    follower.applied(1, &mut out);
    assert_eq!(out, []);
    follower.applied(2, &mut out);
    assert!(matches!(out[..], [follower::Action::Lead { partition: 0, epoch: 3, .. }]), "{out:?}");
}
