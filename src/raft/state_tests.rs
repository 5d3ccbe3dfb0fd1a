//! Random commands, plausible ones and others, against what the state promises; and single ones, as transcripts.
//!
//! Longer than other files: what is promised, and the examples of it, are about the same commands and begin with the same states.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::raft::command::{Force, Naming};
use crate::raft::snapshot::Content;
use crate::raft::testing::profile;

const NODES: u64 = 6;
const PARTITIONS: u16 = 4;

/// What a command is made of; mostly the truth about the state, sometimes something else.
type Raw = (u8, u8, u8, u8, bool);

fn member(state: &State, node: u64, honest: bool) -> Member {
    let incarnation = state.node(node).map_or(1, |node| node.incarnation);
    Member { node, incarnation: if honest { incarnation } else { incarnation + 1 } }
}

/// The nodes whose bit is set.
fn members(state: &State, bits: u8, honest: bool) -> Vec<Member> {
    (1..=NODES).filter(|node| bits >> (node - 1) & 1 == 1).map(|node| member(state, node, honest)).collect()
}

fn command(state: &State, (kind, a, b, c, honest): Raw) -> Command {
    let node = 1 + u64::from(a) % NODES;
    let partition = u16::from(b) % PARTITIONS;
    let is = state.partition(partition).cloned().unwrap_or_default();
    let epoch = if honest { is.epoch } else { u64::from(c) };
    match kind % 26 {
        0 => Command::Create { partitions: if honest { PARTITIONS } else { u16::from(b) } },
        1..=2 => Command::Join { identity: u128::from(a % 8), profile: profile("host") },
        3..=4 => {
            let identity = state.node(node).map_or(0, |node| node.identity);
            let before = state.node(node).map_or(0, |node| node.incarnation);
            let after = if honest { before } else { u64::from(b) };
            Command::Register { node, identity, boot: u128::from(c), after, profile: profile("other") }
        }
        5 => Command::Remove { node },
        6..=8 => {
            let replicas = members(state, c, true).iter().map(|member| member.node).collect();
            let version = if honest { state.placement_version() } else { u64::from(a) };
            Command::Place { version, changes: vec![Placement { partition, replicas }] }
        }
        9..=10 => {
            let starts = if c > 250 { u64::from(c) } else { state.starts() };
            Command::Promote { starts, dead: members(state, a, honest), ready: members(state, b & !a, true) }
        }
        11..=12 => {
            let other = (partition < PARTITIONS - 1).then(|| {
                let epoch = state.partition(PARTITIONS - 1).map_or(1, |partition| partition.epoch);
                Move { partition: PARTITIONS - 1, epoch }
            });
            let moves = [Move { partition, epoch }].into_iter().chain(other).collect();
            Command::Lead { moves, to: member(state, node, honest) }
        }
        13..=14 => {
            let mut in_sync = members(state, c, honest);
            if let (true, Some(primary)) = (honest, is.primary) {
                in_sync.retain(|member| is.replicas.contains(&member.node) && member.node != primary);
                in_sync.push(member(state, primary, true));
            }
            set_in_sync(partition, epoch, is.in_sync_version, in_sync)
        }
        16..=17 => Command::Order(match c % 6 {
            0 | 1 => Order::Leave { node },
            2 => Order::Stay { node },
            3 => Order::Pause,
            4 => Order::Rebalance,
            _ => Order::Raise { version: 3 + a % 3, starts: if honest { state.starts() } else { u64::from(b) } },
        }),
        18..=19 => {
            let lost: Vec<Move> = state.settlements().iter().flat_map(|s| s.lost.iter().copied()).collect();
            let of = lost.get(usize::from(b) % lost.len().max(1)).copied().unwrap_or(Move { partition, epoch });
            let lacking = if c.is_multiple_of(4) { vec![of.partition] } else { vec![] };
            Command::Reach { of, by: member(state, node, honest), reached: u64::from(c), lacking }
        }
        20..=22 => {
            let moves = vec![Move { partition, epoch }];
            Command::Name { moves, to: member(state, node, honest) }
        }
        23 => {
            let number = state.successor(partition).map_or(1, |successor| successor.number);
            Command::Keep { namings: vec![Naming { partition, number: if honest { number } else { u64::from(c) } }] }
        }
        _ => {
            let other = (honest && c % 3 == 0 && partition < PARTITIONS - 1).then_some(PARTITIONS - 1);
            let of = |partition| state.partition(partition).map_or(1, |partition| partition.epoch);
            let force = |partition, epoch| Force { partition, epoch, from_nothing: c % 2 == 0 };
            let others = other.map(|other| force(other, of(other)));
            let forced = [force(partition, epoch)].into_iter().chain(others).collect();
            let lost = if honest { (0..NODES).collect() } else { Vec::new() };
            Command::ForceLead { forced, to: member(state, node, honest), lost }
        }
    }
}

/// Of one partition.
fn set_in_sync(partition: PartitionId, epoch: Epoch, version: u64, in_sync: Vec<Member>) -> Command {
    Command::SetInSync { changes: vec![InSyncChange { partition, epoch, version, in_sync }] }
}

const CHANGED: Reply = Reply::InSync { changed: 1, stale: 0 };
const STALE: Reply = Reply::InSync { changed: 0, stale: 1 };

/// What becomes of a role that somebody was named for.
fn check_succession(
    before: &Partition,
    named: Successor,
    after: &Partition,
    command: &Command,
) -> Result<(), TestCaseError> {
    let to = named.to.node;
    prop_assert!(
        after.epoch != named.epoch || after.primary == Some(to),
        "an epoch was given away that one may lead in"
    );
    let grown = after.in_sync.iter().any(|node| !before.in_sync.contains(node));
    prop_assert!(
        !grown || matches!(command, Command::ForceLead { .. }),
        "a set grew of which the successor does not know"
    );
    let Some(primary) = after.primary.filter(|_| after.epoch > before.epoch) else { return Ok(()) };
    let is_dead = |node: NodeId| match command {
        // One that has started anew was waited for by whoever promotes.
        Command::Promote { dead, .. } => dead.iter().any(|dead| dead.node == node),
        _ => false,
    };
    let has_ended = |node| before.primary.is_none() || is_dead(node);
    match command {
        Command::Promote { .. } if primary == to => prop_assert!(before.primary.is_none_or(is_dead)),
        Command::Promote { .. } => prop_assert!(before.primary.is_none_or(has_ended), "it is led by a third one"),
        Command::ForceLead { .. } => {}
        _ if named.gone => prop_assert!(Some(primary) == before.primary, "it is led by another one"),
        _ => prop_assert!(primary == to, "it is led by another one"),
    }
    Ok(())
}

/// What a change of one partition may be.
fn check_partition(before: &Partition, after: &Partition, command: &Command) -> Result<(), TestCaseError> {
    prop_assert!(after.epoch >= before.epoch && after.in_sync_version >= before.in_sync_version);
    if after.primary != before.primary {
        prop_assert!(after.epoch > before.epoch, "a primary changed without an epoch");
    }
    let set = |partition: &Partition| partition.in_sync.iter().copied().collect::<BTreeSet<_>>();
    if set(after) != set(before) {
        prop_assert!(after.in_sync_version > before.in_sync_version, "a set changed without a version");
    }
    let copies = |partition: &Partition| partition.replicas.iter().copied().collect::<BTreeSet<_>>();
    if copies(after) != copies(before) {
        prop_assert!(after.in_sync_version > before.in_sync_version, "copies changed without a version");
    }
    prop_assert!(before.in_sync.is_empty() || !after.in_sync.is_empty(), "an in-sync set became empty");
    let force = matches!(command, Command::ForceLead { .. });
    if before.epoch > 0 && !force && !matches!(command, Command::SetInSync { .. }) {
        prop_assert!(set(after).is_subset(&set(before)), "a node came in sync by itself");
    }
    if let Some(primary) = after.primary.filter(|primary| before.primary != Some(*primary)) {
        prop_assert!(before.epoch == 0 || force || before.in_sync.contains(&primary), "a promotion of who lacks data");
        prop_assert!(
            !force || before.primary.is_none() && after.in_sync == [primary],
            "a primary was replaced by force"
        );
    }
    let stays = before.from_nothing && after.epoch == before.epoch;
    prop_assert!(!after.from_nothing || force || stays, "an epoch begins from nothing that nobody has forced");
    Ok(())
}

fn check_step(before: &State, after: &State, command: &Command, reply: &Reply) -> Result<(), TestCaseError> {
    prop_assert_eq!(after.validate(), Ok(()));
    prop_assert!(after.orders().version() >= before.orders().version(), "a version went back");
    let registered = |state: &State| state.nodes().iter().map(|node| node.incarnation).sum::<u64>();
    if !matches!(command, Command::Remove { .. }) {
        prop_assert_eq!(after.starts() - before.starts(), registered(after) - registered(before));
    }
    let is_nothing = matches!(
        reply,
        Reply::Refused(_)
            | Reply::InSync { changed: 0, .. }
            | Reply::Moved { moved: 0, .. }
            | Reply::Named { named: 0, .. }
    );
    if is_nothing {
        prop_assert_eq!(before, after, "a refused command changed something");
    }
    for (before, after) in before.partitions().iter().zip(after.partitions()) {
        check_partition(before, after, command)?;
    }
    for (partition, named) in before.successors().iter() {
        let of = |state: &State| state.partition(partition).cloned().unwrap_or_default();
        check_succession(&of(before), named, &of(after), command)?;
        // Whoever may have begun is forgotten when the role has gone on, or by those who know that he is gone.
        let gone_on = of(after).primary.is_some() && of(after).epoch > of(before).epoch;
        let by = matches!(command, Command::Promote { .. } | Command::Keep { .. });
        prop_assert!(after.successor(partition) == Some(named) || gone_on || by, "a successor was forgotten");
        if let Command::Keep { .. } = command {
            prop_assert_eq!(of(before), of(after), "what is kept stays as it is");
        }
    }
    if let (Command::Register { node, .. }, Reply::Registered { incarnation }) = (command, reply)
        && before.node(*node).is_some_and(|node| node.incarnation != *incarnation)
    {
        for partition in after.partitions() {
            prop_assert_ne!(partition.primary, Some(*node));
            prop_assert!(!partition.in_sync.contains(node) || partition.in_sync == [*node]);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_state_keeps_its_promises(raws in prop::collection::vec(any::<Raw>(), 1..200)) {
        let mut state = State::default();
        let mut given = BTreeSet::new();
        // A cluster, for a start.
        state.apply(&Command::Create { partitions: PARTITIONS });
        for at in 0..4u128 {
            state.apply(&Command::Join { identity: at, profile: profile("host") });
            given.insert(at as u64 + 1);
            let node = at as u64 + 1;
            state.apply(&Command::Register { node, identity: at, boot: 999, after: 0, profile: profile("host") });
        }
        for raw in raws {
            let before = state.clone();
            let command = command(&state, raw);
            let reply = state.apply(&command);
            check_step(&before, &state, &command, &reply)?;
            if state.nodes().len() > before.nodes().len() {
                let Reply::Joined { node } = reply else { panic!("{reply:?}") };
                prop_assert!(given.insert(node), "a number was used again");
            }
        }
        let content = Content { state, ..Content::default() };
        let mut bytes = Vec::new();
        content.encode(1, 0).unwrap().write_to(&mut bytes);
        prop_assert_eq!(Content::decode(&bytes).unwrap(), content);
    }
}

/// Three nodes that have registered, one partition with copies on all, all in sync.
fn three() -> State {
    let mut state = State::default();
    state.apply(&Command::Create { partitions: 1 });
    for node in 1..=3 {
        let identity = u128::from(node);
        state.apply(&Command::Join { identity, profile: profile("host") });
        assert_eq!(register(&mut state, node), Reply::Registered { incarnation: 1 });
    }
    let changes = vec![Placement { partition: 0, replicas: vec![1, 2, 3] }];
    assert_eq!(state.apply(&Command::Place { version: 0, changes }), Reply::Placed { version: 1 });
    let in_sync = members(&state, 0b111, true);
    let reply = state.apply(&set_in_sync(0, 1, 1, in_sync));
    assert_eq!(reply, CHANGED);
    state
}

fn register(state: &mut State, node: NodeId) -> Reply {
    let after = state.node(node).unwrap().incarnation;
    state.apply(&registration(state, node, after))
}

/// The start that follows an incarnation.
fn registration(state: &State, node: NodeId, after: Incarnation) -> Command {
    let identity = state.node(node).unwrap().identity;
    Command::Register { node, identity, boot: u128::from(after) + 100, after, profile: profile("host") }
}

fn promote(state: &mut State, dead: u8, ready: u8) -> Reply {
    let (dead, ready) = (members(state, dead, true), members(state, ready, true));
    state.apply(&Command::Promote { starts: state.starts(), dead, ready })
}

#[test]
fn a_dead_primary_is_followed_by_one_that_has_everything() {
    let mut state = three();
    assert_eq!(promote(&mut state, 0b001, 0b100), Reply::Promoted { promoted: 1, stuck: 0 });
    let partition = state.partition(0).unwrap();
    assert_eq!((partition.primary, partition.epoch, &partition.in_sync[..]), (Some(3), 2, &[2, 3][..]));
    // What the old primary still asks for comes too late.
    let in_sync = members(&state, 0b001, true);
    let reply = state.apply(&set_in_sync(0, 1, 2, in_sync));
    assert_eq!(reply, STALE);
    // And whoever was called dead and has started anew is asked about again.
    let dead = members(&state, 0b100, true);
    register(&mut state, 3);
    let reply = state.apply(&Command::Promote { starts: state.starts(), dead: dead.clone(), ready: vec![] });
    assert_eq!(reply, Reply::Refused(Refusal::StaleIncarnation { node: 3, incarnation: 2 }));
    // So is everybody, by who did not know of this start.
    let reply = state.apply(&Command::Promote { starts: state.starts() - 1, dead: vec![], ready: dead });
    assert_eq!(reply, Reply::Refused(Refusal::StaleStarts { starts: state.starts() }));
}

#[test]
fn the_dead_may_be_named_in_any_order() {
    let mut state = three();
    let (mut dead, ready) = (members(&state, 0b101, true), members(&state, 0b010, true));
    dead.reverse();
    let promote = Command::Promote { starts: state.starts(), dead, ready };
    assert_eq!(state.apply(&promote), Reply::Promoted { promoted: 1, stuck: 0 });
    assert_eq!(state.partition(0).unwrap().in_sync, [2]);
}

#[test]
fn the_last_set_is_frozen() {
    let mut state = three();
    register(&mut state, 1);
    assert_eq!(state.partition(0).unwrap().in_sync, [2, 3], "a primary that starts anew leads no more");
    assert_eq!(state.partition(0).unwrap().primary, None);
    register(&mut state, 2);
    register(&mut state, 3);
    let frozen = state.partition(0).unwrap().clone();
    assert_eq!((frozen.primary, &frozen.in_sync[..]), (None, &[3][..]));
    // Nobody else may lead it, whoever is ready.
    assert_eq!(promote(&mut state, 0, 0b011), Reply::Promoted { promoted: 0, stuck: 1 });
    assert_eq!(*state.partition(0).unwrap(), frozen);
    assert_eq!(promote(&mut state, 0, 0b100), Reply::Promoted { promoted: 1, stuck: 0 });
    assert_eq!(state.partition(0).unwrap().primary, Some(3));
    // If it is lost for good, only by force.
    assert_eq!(promote(&mut state, 0b100, 0b011), Reply::Promoted { promoted: 0, stuck: 1 });
    let epoch = state.partition(0).unwrap().epoch;
    for node in [1, 3] {
        let moves = vec![Move { partition: 0, epoch }];
        let refused = state.apply(&Command::Lead { moves, to: member(&state, node, true) });
        assert_eq!(refused, Reply::Moved { moved: 0, stale: 1 }, "node {node}");
    }
    let forced = vec![Force { partition: 0, epoch, from_nothing: false }];
    let force = Command::ForceLead { forced, to: member(&state, 1, true), lost: vec![3] };
    assert_eq!(state.apply(&force), Reply::Forced { partitions: 1 });
    assert_eq!(state.partition(0).unwrap().epoch, epoch + 1);
    // Executed again, it would take node 2 out, and what it has.
    let in_sync = members(&state, 0b011, true);
    let version = state.partition(0).unwrap().in_sync_version;
    state.apply(&set_in_sync(0, epoch + 1, version, in_sync));
    assert_eq!(state.apply(&force), Reply::Refused(Refusal::HasPrimary { partition: 0, primary: 1 }));
    assert_eq!(state.partition(0).unwrap().in_sync, [1, 2]);
    // The role moves only to who is in sync.
    let moves = vec![Move { partition: 0, epoch: epoch + 1 }];
    let lead = |node| Command::Lead { moves: moves.clone(), to: member(&state, node, true) };
    let (to_other, to_second) = (lead(3), lead(2));
    let refused = state.apply(&to_other);
    assert_eq!(refused, Reply::Moved { moved: 0, stale: 1 });
    assert_eq!(state.apply(&to_second), Reply::Moved { moved: 1, stale: 0 });
    assert_eq!(state.partition(0).unwrap().epoch, epoch + 2);
}

fn force(state: &State, partition: PartitionId, epoch: Epoch, node: NodeId, from_nothing: bool) -> Command {
    let forced = vec![Force { partition, epoch, from_nothing }];
    Command::ForceLead { forced, to: member(state, node, true), lost: vec![1] }
}

/// Node 1 has led alone, and was lost.
fn lost() -> State {
    let mut state = three();
    let in_sync = members(&state, 0b001, true);
    state.apply(&set_in_sync(0, 1, 2, in_sync));
    assert_eq!(promote(&mut state, 0b001, 0b110), Reply::Promoted { promoted: 0, stuck: 1 });
    state
}

#[test]
fn a_primary_is_not_replaced_by_force() {
    let mut state = three();
    let before = state.clone();
    let refused = state.apply(&force(&before, 0, 1, 2, false));
    assert_eq!(refused, Reply::Refused(Refusal::HasPrimary { partition: 0, primary: 1 }));
    assert_eq!(state, before);
}

#[test]
fn force_gives_a_partition_to_a_replica_and_to_nobody_else() {
    let mut state = lost();
    let is = state.partition(0).unwrap().clone();
    assert_eq!((is.epoch, is.primary, &is.in_sync[..], is.in_sync_version), (2, None, &[1][..], 3));
    state.apply(&Command::Join { identity: 4, profile: profile("host") });
    register(&mut state, 4);
    let before = state.clone();
    let refusals = [
        (force(&state, 0, 2, 4, true), Refusal::NotAReplica { partition: 0, node: 4 }),
        (force(&state, 0, 1, 2, true), Refusal::Stale { partition: 0, epoch: 2, version: 3 }),
        (force(&state, 1, 2, 2, true), Refusal::UnknownPartition(1)),
        (
            Command::ForceLead {
                forced: vec![Force { partition: 0, epoch: 2, from_nothing: false }],
                to: Member { node: 2, incarnation: 7 },
                lost: vec![1],
            },
            Refusal::StaleIncarnation { node: 2, incarnation: 1 },
        ),
    ];
    for (command, why) in refusals {
        assert_eq!(state.apply(&command), Reply::Refused(why), "{command}");
        assert_eq!(state, before);
    }
    // Whoever was in sync, and is not said to be lost, may come back with everything.
    for lost in [Vec::new(), vec![3]] {
        let forced = vec![Force { partition: 0, epoch: 2, from_nothing: false }];
        let refused = state.apply(&Command::ForceLead { forced, to: member(&state, 2, true), lost });
        assert_eq!(refused, Reply::Refused(Refusal::StillInSync { partition: 0, node: 1 }));
    }
    // One of them is refused, so all are; and none is there twice.
    let of = |partition| Force { partition, epoch: 2, from_nothing: false };
    let both = Command::ForceLead { forced: vec![of(0), of(1)], to: member(&state, 2, true), lost: vec![1] };
    assert_eq!(state.apply(&both), Reply::Refused(Refusal::UnknownPartition(1)));
    let twice = Command::ForceLead { forced: vec![of(0), of(0)], to: member(&state, 2, true), lost: vec![1] };
    assert!(matches!(state.apply(&twice), Reply::Refused(Refusal::Malformed(_))));
    assert_eq!(state, before);
    assert_eq!(state.apply(&force(&before, 0, 2, 2, false)), Reply::Forced { partitions: 1 });
    let is = state.partition(0).unwrap();
    assert_eq!((is.epoch, is.primary, &is.in_sync[..], is.in_sync_version), (3, Some(2), &[2][..], 4));
    assert!(!is.from_nothing);
    assert_eq!(is.replicas, [1, 2, 3]);
    // The lost one is a copy like others if it comes back.
    assert_eq!(promote(&mut state, 0b010, 0b001), Reply::Promoted { promoted: 0, stuck: 1 });
}

#[test]
fn an_epoch_begins_from_nothing_if_it_was_ordered_and_the_next_one_does_not() {
    let mut state = lost();
    let command = force(&state, 0, 2, 3, true);
    assert_eq!(state.apply(&command), Reply::Forced { partitions: 1 });
    assert!(state.partition(0).unwrap().from_nothing);
    // A snapshot has it.
    let is_kept = |state: &State| {
        let content = Content { state: state.clone(), ..Content::default() };
        let frame = content.encode(1, 0).unwrap();
        let mut bytes = Vec::new();
        frame.write_to(&mut bytes);
        assert_eq!(Content::decode(&bytes).unwrap(), content);
    };
    is_kept(&state);
    // It lasts as long as the epoch, whoever is in sync, and not beyond.
    let in_sync = members(&state, 0b110, true);
    assert_eq!(state.apply(&set_in_sync(0, 3, 4, in_sync)), CHANGED);
    assert!(state.partition(0).unwrap().from_nothing);
    let mut ended = state.clone();
    register(&mut ended, 3);
    let mut moved = state.clone();
    let moves = vec![Move { partition: 0, epoch: 3 }];
    assert_eq!(moved.apply(&Command::Lead { moves, to: member(&state, 2, true) }), Reply::Moved { moved: 1, stale: 0 });
    assert_eq!(promote(&mut state, 0b100, 0b010), Reply::Promoted { promoted: 1, stuck: 0 });
    for state in [state, ended, moved] {
        assert!(!state.partition(0).unwrap().from_nothing);
        is_kept(&state);
    }
}

#[test]
fn a_start_that_comes_late_changes_nothing() {
    let mut state = three();
    let (first, second) = (registration(&state, 2, 1), registration(&state, 2, 2));
    assert_eq!(state.apply(&second), Reply::Refused(Refusal::StaleIncarnation { node: 2, incarnation: 1 }));
    assert_eq!(state.apply(&first), Reply::Registered { incarnation: 2 });
    assert_eq!(state.apply(&first), Reply::Registered { incarnation: 2 }, "asked again");
    assert_eq!(state.apply(&second), Reply::Registered { incarnation: 3 });
    let before = state.clone();
    assert_eq!(state.apply(&first), Reply::Refused(Refusal::StaleIncarnation { node: 2, incarnation: 3 }));
    assert_eq!(state, before);
}

#[test]
fn a_copy_that_went_and_came_back_is_another_one() {
    let mut state = three();
    let in_sync = members(&state, 0b011, true);
    state.apply(&set_in_sync(0, 1, 2, in_sync));
    let place = |state: &mut State, replicas: &[u64]| {
        let changes = vec![Placement { partition: 0, replicas: replicas.to_vec() }];
        let reply = state.apply(&Command::Place { version: state.placement_version(), changes });
        assert!(matches!(reply, Reply::Placed { .. }), "{reply:?}");
        state.partition(0).unwrap().in_sync_version
    };
    assert_eq!(place(&mut state, &[2, 1, 3]), 3, "another order, the same copies");
    // The primary saw node 3 catch up. Then its copy was dropped, and begins anew.
    let caught_up = members(&state, 0b111, true);
    assert_eq!(place(&mut state, &[2, 1]), 4);
    assert_eq!(place(&mut state, &[2, 1, 3]), 5);
    assert_eq!(state.apply(&set_in_sync(0, 1, 3, caught_up)), STALE);
}

#[test]
fn who_started_anew_is_not_taken_for_who_was_in_sync() {
    let mut state = three();
    register(&mut state, 3);
    // The primary saw the old process catch up.
    let mut in_sync = members(&state, 0b111, true);
    in_sync[2].incarnation = 1;
    let version = state.partition(0).unwrap().in_sync_version;
    let before = state.clone();
    assert_eq!(state.apply(&set_in_sync(0, 1, version, in_sync)), STALE);
    assert_eq!(state, before);
}

#[test]
fn a_batch_changes_what_is_not_stale() {
    let mut state = three();
    let all = members(&state, 0b111, true);
    let change =
        |partition, epoch, in_sync: &[Member]| InSyncChange { partition, epoch, version: 2, in_sync: in_sync.to_vec() };
    // There is no partition 1.
    let changes = vec![change(0, 1, &all[..2]), change(1, 1, &all)];
    assert_eq!(state.apply(&Command::SetInSync { changes }), Reply::InSync { changed: 1, stale: 1 });
    assert_eq!(state.partition(0).unwrap().in_sync, [1, 2]);
    // Without its primary, with somebody who has no copy, twice in one batch.
    let stranger = Member { node: 4, incarnation: 1 };
    for in_sync in [&all[1..], &[all[0], stranger]] {
        let changes = vec![InSyncChange { version: 3, ..change(0, 1, in_sync) }];
        assert_eq!(state.apply(&Command::SetInSync { changes }), STALE);
    }
    let twice = Command::SetInSync { changes: vec![change(0, 1, &all), change(0, 1, &all)] };
    assert!(matches!(state.apply(&twice), Reply::Refused(Refusal::Malformed(_))));
    // A role moves once, however often it is asked for.
    let moves = vec![Move { partition: 0, epoch: 1 }, Move { partition: 1, epoch: 1 }];
    let lead = Command::Lead { moves, to: all[1] };
    assert_eq!(state.apply(&lead), Reply::Moved { moved: 1, stale: 1 });
    assert_eq!(state.apply(&lead), Reply::Moved { moved: 0, stale: 2 });
    let stale = Member { node: 1, incarnation: 7 };
    let lead = Command::Lead { moves: vec![Move { partition: 0, epoch: 2 }], to: stale };
    assert_eq!(state.apply(&lead), Reply::Refused(Refusal::StaleIncarnation { node: 1, incarnation: 1 }));
}

#[test]
fn numbers_are_never_used_again() {
    let mut state = three();
    let in_use = state.apply(&Command::Remove { node: 2 });
    assert_eq!(in_use, Reply::Refused(Refusal::InUse { node: 2, partition: 0 }));
    state.apply(&Command::Join { identity: 9, profile: profile("host") });
    assert_eq!(state.apply(&Command::Remove { node: 4 }), Reply::Removed);
    let again = state.apply(&Command::Join { identity: 9, profile: profile("host") });
    assert_eq!(again, Reply::Joined { node: 5 }, "the same data directory, another node");
    let join = Command::Join { identity: 9, profile: profile("host") };
    assert_eq!(state.apply(&join), again);
    // It has started, so it may have voted: who asks now has lost how.
    register(&mut state, 5);
    assert_eq!(state.apply(&join), Reply::Refused(Refusal::AlreadyRegistered(5)));
}

#[test]
fn a_replica_that_is_in_sync_keeps_its_copy() {
    let mut state = three();
    let place = |replicas: &[u64]| Command::Place {
        version: 1,
        changes: vec![Placement { partition: 0, replicas: replicas.to_vec() }],
    };
    let refused = state.apply(&place(&[1, 2]));
    assert_eq!(refused, Reply::Refused(Refusal::StillInSync { partition: 0, node: 3 }));
    let in_sync = members(&state, 0b011, true);
    state.apply(&set_in_sync(0, 1, 2, in_sync));
    assert_eq!(state.apply(&place(&[2, 1])), Reply::Placed { version: 2 });
    assert_eq!(state.partition(0).unwrap().in_sync, [2, 1]);
    assert_eq!(state.apply(&place(&[2, 1])), Reply::Refused(Refusal::StalePlacement { version: 2 }));
}

#[test]
fn an_order_is_for_a_cluster_that_uses_its_version() {
    let mut state = three();
    let mut order = |order| state.apply(&Command::Order(order));
    let orders = [Order::Leave { node: 2 }, Order::Stay { node: 2 }, Order::Pause, Order::Rebalance];
    for too_new in orders {
        assert_eq!(order(too_new), Reply::Refused(Refusal::Version { version: 2 }));
    }
    assert_eq!(order(Order::Raise { version: 3, starts: 2 }), Reply::Refused(Refusal::StaleStarts { starts: 3 }));
    for starts in [3, 3] {
        assert_eq!(order(Order::Raise { version: 3, starts }), Reply::Ordered);
    }
    assert!(matches!(order(Order::Raise { version: 2, starts: 3 }), Reply::Refused(Refusal::Malformed(_))));
    assert_eq!(order(Order::Leave { node: 9 }), Reply::Refused(Refusal::UnknownNode(9)));
    assert!(matches!(order(Order::Leave { node: 0 }), Reply::Refused(Refusal::Malformed(_))));
    for known in orders {
        assert_eq!(order(known), Reply::Ordered);
    }
    assert_eq!(order(Order::Leave { node: 2 }), Reply::Ordered);
    assert_eq!(order(Order::Leave { node: 3 }), Reply::Ordered);
    assert_eq!(order(Order::Leave { node: 1 }), Reply::Refused(Refusal::LastNode(1)));
    assert_eq!((state.orders().version(), state.orders().is_paused(), state.orders().rebalanced()), (3, false, 1));
    // It has them in a snapshot, too.
    let content = Content { state, ..Content::default() };
    let mut bytes = Vec::new();
    content.encode(1, 0).unwrap().write_to(&mut bytes);
    let read = Content::decode(&bytes).unwrap();
    assert_eq!([1, 2, 3].map(|node| read.state.orders().leaves(node)), [false, true, true]);
    assert_eq!(read, content);
}

#[test]
fn damaged_snapshots_are_refused() {
    let content = Content { state: three(), ..Content::default() };
    let mut bytes = Vec::new();
    content.encode(1, 0).unwrap().write_to(&mut bytes);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        assert!(Content::decode(&damaged).is_err(), "byte {at}");
        assert!(Content::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    bytes.push(0);
    assert!(Content::decode(&bytes).is_err());
}
