//! What INFO and CLUSTER LINKS show of a member.

use std::collections::BTreeMap;

use super::*;
use crate::resp::{Output, Version};

/// A member that leads raft, is followed by node 2, and follows node 3, to which there is no connection.
pub fn member() -> MemberNumbers {
    let lag = Lag {
        peer: 7,
        node: 2,
        following: 300,
        copying: 20,
        waiting: 21,
        received: 90,
        applied: 80,
        durable: 70,
        bytes: 4_096,
        ms: 1_500,
        silent_ms: 25,
        phi: f64::INFINITY,
    };
    let upstream = Upstream {
        leader: 3,
        connected: false,
        following: 0,
        waiting: 341,
        received: 0,
        commit: 0,
        held_bytes: 11,
        silent_ms: 1 << 40,
        wall_ms: 0,
    };
    let node = |node, alive| NodeStatus {
        node,
        alive,
        phi: 0.25,
        lease_left_ms: 280,
        applied: 41,
        ready: true,
        speaks: 3,
        dead_ms: None,
    };
    let status = Status {
        leads_for_ms: 1,
        grace_left_ms: 0,
        nodes: vec![node(1, true), node(2, false)],
        promoting: false,
        placing: false,
        planning: false,
        changing_membership: false,
        moving: 0,
        roles_moving: 0,
        plan_error: None,
    };
    let mut pauses = Latency::default();
    [1_400, 2_100, 9_000].into_iter().for_each(|us| pauses.record(us * 1000));
    let mut counts = MemberCounts { leases_lapsed: 3, ..MemberCounts::default() };
    counts.new_leader_of_raft(false);
    counts.new_leader_of_raft(true);
    counts.proposed_in_sync(5, Some(&RaftReply::InSync { changed: 3, stale: 2 }));
    counts.proposed_in_sync(7, Some(&RaftReply::Nothing));
    counts.proposed_in_sync(11, None);
    MemberNumbers {
        node: 1,
        raft: RaftNumbers { role: "leader", leader: Some(1), term: 9, last: 42, ..RaftNumbers::default() },
        lease_left_ms: 250,
        partitions: PartitionNumbers { all: 1_024, led: 342, followed: 682, in_sync: 700, without_primary: 4 },
        pauses,
        counts,
        leading: Tally { handovers_begun: 6, handovers_completed: 4, ..Tally::default() },
        gained: Gained { promoted: 12, handed_over: 13 },
        followers: vec![lag],
        waiting_for_memory: 17,
        given_up_for_memory: 19,
        upstreams: vec![upstream],
        governor: Some(status),
        ..MemberNumbers::default()
    }
}

fn described(describe: impl FnOnce(&mut dyn FnMut(&str, String))) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    describe(&mut |name, value| {
        assert!(!name.contains([':', ' ']) && !value.contains(['\r', '\n']));
        assert!(fields.insert(name.to_string(), value).is_none(), "{name} twice");
    });
    fields
}

#[test]
fn info_has_a_line_for_each_number() {
    let member = member();
    let fields = described(|field| describe_cluster(&member, field));
    for (name, value) in [
        ("cluster_node", "1"),
        ("cluster_raft_role", "leader"),
        ("cluster_raft_leader", "1"),
        ("cluster_raft_term", "9"),
        ("cluster_raft_last_index", "42"),
        ("cluster_lease_left_ms", "250"),
        ("cluster_partitions", "1024"),
        ("cluster_partitions_led", "342"),
        ("cluster_partitions_without_primary", "4"),
        ("cluster_copies_waiting_for_memory", "17"),
        ("cluster_copies_given_up_for_memory", "19"),
        ("cluster_raft_leader_changes", "2"),
        ("cluster_raft_elections_won", "1"),
        ("cluster_leases_lapsed", "3"),
        ("cluster_promotions", "12"),
        ("cluster_handovers_received", "13"),
        ("cluster_handovers_begun", "6"),
        ("cluster_handovers_completed", "4"),
        ("cluster_in_sync_changes_proposed", "23"),
        ("cluster_in_sync_changes_accepted", "3"),
        ("cluster_in_sync_changes_refused", "9"),
        ("cluster_in_sync_changes_unknown", "11"),
        ("cluster_node2", "alive=0,ready=1,lease_left_ms=280,applied=41,phi=0.25"),
    ] {
        assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(fields.len(), 2 + GAUGES.len() + COUNTERS.len() + 2);
}

#[test]
fn info_has_a_line_for_each_node_that_data_comes_from_or_goes_to() {
    let member = member();
    let fields = described(|field| describe_streams(&member, field));
    assert_eq!(
        fields["follower0"],
        "node=2,following=300,copying=20,waiting=21,lag_ms=1500,lag_bytes=4096,received=90,applied=80,durable=70,\
         silent_ms=25,phi=inf"
    );
    // Who is not connected is not silent since it was heard: perhaps it never was.
    assert_eq!(
        fields["upstream0"],
        "node=3,connected=0,following=0,waiting=341,held_bytes=11,received=0,committed=0,silent_ms=-1"
    );
}

#[test]
fn links_have_the_shape_of_redis() {
    let id = "0123456789abcdef0123456789abcdef01234567".to_string();
    let to = LinkNumbers { id: id.clone(), dialled: true, since_ms: 1_700_000_000_000, ..LinkNumbers::default() };
    let from = LinkNumbers { id: id.clone(), dialled: false, queued_bytes: 9, allocated_bytes: 16, since_ms: 5 };
    let mut output = Output::new();
    write_links(&[to, from], &mut Reply::new(&mut output, Version::V2));
    let text = String::from_utf8(output.to_vec()).unwrap().replace("\r\n", "|");
    let first = format!(
        "*12|$9|direction|$2|to|$4|node|$40|{id}|$11|create-time|:1700000000000|$6|events|$1|r|\
         $21|send-buffer-allocated|:0|$16|send-buffer-used|:0|"
    );
    let second = format!(
        "*12|$9|direction|$4|from|$4|node|$40|{id}|$11|create-time|:5|$6|events|$2|rw|\
         $21|send-buffer-allocated|:16|$16|send-buffer-used|:9|"
    );
    assert_eq!(text, format!("*2|{first}{second}"));
}
