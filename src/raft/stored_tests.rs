//! What is written can be read, whatever it says.

use proptest::prelude::*;
use proptest::strategy::Strategy;

use super::*;
use crate::raft::command::{Force, InSyncChange, Member, Move, Naming, Order, Placement, Profile};
use crate::raft::testing::id;

fn profiles() -> impl Strategy<Value = Profile> {
    let name = || prop_oneof![Just(String::new()), ".{0,8}", Just("long".repeat(200))];
    let ports = (any::<u16>(), any::<u16>(), any::<u16>(), any::<u16>());
    (name(), ports, name(), any::<u16>()).prop_map(|(host, (port, bus_port, core_port, cores), rack, weight)| Profile {
        host,
        port,
        bus_port,
        rack,
        weight,
        core_port,
        cores,
    })
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let member = (0..4u64, any::<u64>()).prop_map(|(node, incarnation)| Member { node, incarnation });
    prop::collection::vec(member, 0..12)
}

/// Any command, most of them malformed.
fn commands() -> impl Strategy<Value = Command> {
    let placement = (any::<u16>(), prop::collection::vec(0..4u64, 0..12))
        .prop_map(|(partition, replicas)| Placement { partition, replicas });
    let member = (any::<u64>(), any::<u64>()).prop_map(|(node, incarnation)| Member { node, incarnation });
    let moves = (any::<u16>(), any::<u64>()).prop_map(|(partition, epoch)| Move { partition, epoch });
    let force = (any::<u16>(), any::<u64>(), any::<bool>()).prop_map(|(partition, epoch, from_nothing)| Force {
        partition,
        epoch,
        from_nothing,
    });
    let namings = (any::<u16>(), any::<u64>()).prop_map(|(partition, number)| Naming { partition, number });
    let change = (any::<u16>(), any::<u64>(), any::<u64>(), members())
        .prop_map(|(partition, epoch, version, in_sync)| InSyncChange { partition, epoch, version, in_sync });
    let order = prop_oneof![
        any::<u64>().prop_map(|node| Order::Leave { node }),
        any::<u64>().prop_map(|node| Order::Stay { node }),
        Just(Order::Pause),
        Just(Order::Rebalance),
        any::<u64>().prop_map(|starts| Order::Raise { version: VERSION, starts }),
    ];
    let reach = (any::<u16>(), any::<u64>(), member.clone(), any::<u64>(), prop::collection::vec(any::<u16>(), 0..4));
    prop_oneof![
        reach.prop_map(|(partition, epoch, by, reached, lacking)| {
            Command::Reach { of: Move { partition, epoch }, by, reached, lacking }
        }),
        order.prop_map(Command::Order),
        any::<u16>().prop_map(|partitions| Command::Create { partitions }),
        (any::<u128>(), profiles()).prop_map(|(identity, profile)| Command::Join { identity, profile }),
        (any::<u64>(), any::<u128>(), any::<u128>(), any::<u64>(), profiles()).prop_map(
            |(node, identity, boot, after, profile)| Command::Register { node, identity, boot, after, profile }
        ),
        any::<u64>().prop_map(|node| Command::Remove { node }),
        (any::<u64>(), prop::collection::vec(placement, 0..6))
            .prop_map(|(version, changes)| Command::Place { version, changes }),
        (any::<u64>(), members(), members()).prop_map(|(starts, dead, ready)| Command::Promote { starts, dead, ready }),
        (prop::collection::vec(moves.clone(), 0..6), member.clone())
            .prop_map(|(moves, to)| Command::Lead { moves, to }),
        (prop::collection::vec(moves, 0..6), member.clone()).prop_map(|(moves, to)| Command::Name { moves, to }),
        prop::collection::vec(namings, 0..6).prop_map(|namings| Command::Keep { namings }),
        prop::collection::vec(change, 0..6).prop_map(|changes| Command::SetInSync { changes }),
        (prop::collection::vec(force, 0..6), member, prop::collection::vec(0..9u64, 0..4))
            .prop_map(|(forced, to, lost)| Command::ForceLead { forced, to, lost }),
    ]
}

/// Small numbers, those around the limit, and the largest.
fn counts() -> impl Strategy<Value = u64> {
    prop_oneof![0..4u64, COUNT_MAX - 1..=COUNT_MAX + 1, Just(u64::MAX)]
}

fn ids() -> impl Strategy<Value = LogId> {
    (counts(), counts(), counts())
        .prop_map(|(term, node_id, index)| LogId { leader_id: LeaderId { term, node_id }, index })
}

fn memberships() -> impl Strategy<Value = Membership> {
    let host = prop_oneof![Just(0usize), Just(HOST_BYTES_MAX), Just(HOST_BYTES_MAX + 1)];
    let nodes = prop_oneof![1..5usize, Just(NODES_MAX), Just(NODES_MAX + 1)];
    (host, nodes, 1..3usize, any::<u64>()).prop_map(|(host, nodes, configurations, first)| {
        let peer = Peer { host: "h".repeat(host), bus_port: 1 };
        let nodes: BTreeMap<NodeId, Peer> =
            (0..nodes as u64).map(|node| (first.wrapping_add(node), peer.clone())).collect();
        let voters: BTreeSet<NodeId> = nodes.keys().copied().take(3).collect();
        Membership::new(vec![voters; configurations], nodes).unwrap()
    })
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        ids().prop_map(|log_id| Change::Append(Entry { log_id, payload: Payload::Blank })),
        memberships().prop_map(|membership| {
            Change::Append(Entry { log_id: id(1, 1), payload: Payload::Membership(membership) })
        }),
        (counts(), counts(), any::<bool>()).prop_map(|(term, node_id, committed)| Change::Vote(Vote {
            leader_id: LeaderId { term, node_id },
            committed
        })),
        prop::option::of(ids()).prop_map(Change::Committed),
        prop::option::of(ids()).prop_map(Change::Truncate),
        ids().prop_map(Change::Purge),
        counts().prop_map(Change::Number),
    ]
}

/// Encodes, and reads again what could be encoded.
fn check(change: &Change) -> Result<bool, TestCaseError> {
    let Ok(record) = change.encode() else { return Ok(false) };
    let read = Change::decode(&record).map_err(|error| TestCaseError::fail(format!("{change:?}: {error}")))?;
    prop_assert_eq!(format!("{:?}", read), format!("{:?}", change));
    Ok(true)
}

proptest! {
    /// The log takes every command, and the state decides.
    #[test]
    fn every_command_can_be_written_and_read(command in commands()) {
        let change = Change::Append(Entry { log_id: id(1, 1), payload: Payload::Normal(command) });
        prop_assert!(check(&change)?);
    }

    #[test]
    fn what_can_be_written_can_be_read(change in changes()) {
        check(&change)?;
    }
}

#[test]
fn what_is_beyond_a_limit_is_not_written() {
    let beyond = [
        Change::Number(COUNT_MAX + 1),
        Change::Purge(id(1, COUNT_MAX + 1)),
        Change::Committed(Some(id(COUNT_MAX + 1, 1))),
        Change::Vote(Vote::new(COUNT_MAX + 1, 1)),
    ];
    for change in beyond {
        assert!(matches!(change.encode(), Err(StoredError::Senseless(_))), "{change:?}");
    }
    let peer = Peer { host: "h".repeat(HOST_BYTES_MAX + 1), bus_port: 1 };
    let membership = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, peer)])).unwrap();
    let change = Change::Append(Entry { log_id: id(1, 1), payload: Payload::Membership(membership) });
    assert!(matches!(change.encode(), Err(StoredError::Senseless(_))));
}
