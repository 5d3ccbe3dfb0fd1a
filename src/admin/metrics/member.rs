//! The part of the page that a member of a cluster has: its place in raft, its lease, its partitions, who follows it and whom
//! it follows. Other nodes are told apart by the label `node`, which is their number.
//!
//! Pure.

use super::{Page, finite};
use crate::command::member::{COUNTERS, GAUGES, MemberNumbers, silent_ms};
use crate::raft::govern::NodeStatus;
use crate::streams::follower::Upstream;
use crate::streams::leader::Lag;

type PerFollower = (&'static str, &'static str, fn(&Lag) -> f64);

static PER_FOLLOWER: &[PerFollower] = &[
    ("keyloom_follower_following_partitions", "Partitions whose log it follows.", |f| f.following as f64),
    ("keyloom_follower_copying_partitions", "Partitions of which it is being sent a copy.", |f| f.copying as f64),
    ("keyloom_follower_waiting_partitions", "Partitions of which it waits for a copy or an answer.", |f| {
        f.waiting as f64
    }),
    ("keyloom_follower_lag_seconds", "For how long it has been behind.", |f| f.ms as f64 / 1000.0),
    ("keyloom_follower_lag_bytes", "Bytes that it has not acknowledged.", |f| f.bytes as f64),
    ("keyloom_follower_received_index", "Last index of this node's log that it has.", |f| f.received as f64),
    ("keyloom_follower_applied_index", "Last index of this node's log that it has applied.", |f| f.applied as f64),
    ("keyloom_follower_durable_index", "Last index of this node's log that is on its disk.", |f| f.durable as f64),
    ("keyloom_follower_silent_seconds", "Time since it was heard.", |f| f.silent_ms as f64 / 1000.0),
    ("keyloom_follower_suspicion", "Phi: how sure it is that it is dead.", |f| finite(f.phi)),
];

type PerUpstream = (&'static str, &'static str, fn(&Upstream) -> Option<f64>);

static PER_UPSTREAM: &[PerUpstream] = &[
    ("keyloom_upstream_connected", "1 while this node is connected to it as a follower.", |u| {
        Some(u.connected as u8 as f64)
    }),
    ("keyloom_upstream_following_partitions", "Partitions whose log is followed.", |u| Some(u.following as f64)),
    ("keyloom_upstream_waiting_partitions", "Partitions that wait for a copy or an answer.", |u| {
        Some(u.waiting as f64)
    }),
    ("keyloom_upstream_received_index", "Last index of its log that is here.", |u| Some(u.received as f64)),
    ("keyloom_upstream_committed_index", "Last index of its log that is known to be committed.", |u| {
        Some(u.commit as f64)
    }),
    ("keyloom_upstream_held_bytes", "Bytes received and not known to be committed.", |u| Some(u.held_bytes as f64)),
    ("keyloom_upstream_silent_seconds", "Time since it was heard.", |u| Some(silent_ms(u)? as f64 / 1000.0)),
];

type PerNode = (&'static str, &'static str, fn(&NodeStatus) -> f64);

/// What the leader of raft knows; others have no samples of it.
static PER_NODE: &[PerNode] = &[
    ("keyloom_cluster_member_alive", "0 if the leader of raft takes the node for dead.", |n| n.alive as u8 as f64),
    ("keyloom_cluster_member_ready", "1 if the node could lead what it is in sync in.", |n| n.ready as u8 as f64),
    ("keyloom_cluster_member_lease_left_seconds", "How long the node may still serve, as its granter knows.", |n| {
        n.lease_left_ms as f64 / 1000.0
    }),
    ("keyloom_cluster_member_applied_index", "Last entry of raft's log that the node has applied.", |n| {
        n.applied as f64
    }),
    ("keyloom_cluster_member_suspicion", "Phi: how sure the leader of raft is that the node is dead.", |n| {
        finite(n.phi)
    }),
];

/// Upper bounds of pauses, ns: close to each other where most are.
const PAUSES_NS: [u64; 15] = [
    1_000_000,
    1_500_000,
    2_000_000,
    3_000_000,
    4_000_000,
    5_000_000,
    6_000_000,
    8_000_000,
    10_000_000,
    15_000_000,
    20_000_000,
    30_000_000,
    50_000_000,
    100_000_000,
    1_000_000_000,
];

pub(super) fn render(page: &mut Page, member: &MemberNumbers) {
    page.head("keyloom_cluster_raft_role", "gauge", "Always 1; the label tells the role in raft.");
    page.sample("keyloom_cluster_raft_role", &[("role", member.raft.role)], 1);
    page.head("keyloom_cluster_lease_left_seconds", "gauge", "How long this node may still serve; 0 is not at all.");
    page.sample("keyloom_cluster_lease_left_seconds", &[], member.lease_left_ms as f64 / 1000.0);
    for (name, help, value) in GAUGES {
        let name = format!("keyloom_cluster_{name}");
        page.head(&name, "gauge", help);
        page.sample(&name, &[], value(member));
    }
    let name = "keyloom_cluster_handover_pause_seconds";
    page.head(name, "histogram", "Times for which requests about a partition waited as its role was handed over.");
    page.histogram_with(&PAUSES_NS, name, &[], &member.pauses);
    for (name, help, value) in COUNTERS {
        let name = format!("keyloom_cluster_{name}_total");
        page.head(&name, "counter", help);
        page.sample(&name, &[], value(member));
    }
    for (name, help, value) in PER_FOLLOWER {
        page.head(name, "gauge", help);
        member.followers.iter().for_each(|f| page.sample(name, &[("node", &f.node.to_string())], value(f)));
    }
    for (name, help, value) in PER_UPSTREAM {
        page.head(name, "gauge", help);
        for upstream in &member.upstreams {
            if let Some(value) = value(upstream) {
                page.sample(name, &[("node", &upstream.leader.to_string())], value);
            }
        }
    }
    let nodes = || member.governor.iter().flat_map(|status| &status.nodes);
    for (name, help, value) in PER_NODE {
        page.head(name, "gauge", help);
        nodes().for_each(|node| page.sample(name, &[("node", &node.node.to_string())], value(node)));
    }
}
