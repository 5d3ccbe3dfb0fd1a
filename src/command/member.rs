//! What a member of a cluster says of itself: the numbers, and how INFO and CLUSTER LINKS show them.
//!
//! They are gathered on the control core ([`crate::control`]), which asks the machines that count them. One table names
//! what is one number, for INFO and for the metrics ([`crate::admin::metrics`]), so that both show the same.
//!
//! Pure.

use crate::cluster::NodeId;
use crate::raft::command::Reply as RaftReply;
use crate::raft::govern::{NodeStatus, Status};
use crate::raft::state_machine::Gained;
use crate::resp::Reply;
use crate::stats::Latency;
use crate::streams::follower::Upstream;
use crate::streams::leader::{Lag, Tally};

/// See the module. What is counted, is counted since the process started.
#[derive(Clone, Debug, Default)]
pub struct MemberNumbers {
    pub node: NodeId,
    pub raft: RaftNumbers,
    /// 0: it has none.
    pub lease_left_ms: u64,
    pub partitions: PartitionNumbers,
    /// Roles that are on their way to another node.
    pub handing_over: usize,
    /// For how long requests had to wait for a role that was handed over.
    pub pauses: Latency,
    pub counts: MemberCounts,
    pub leading: Tally,
    pub gained: Gained,
    /// Leases that it has granted as the leader of raft, and requests that it has refused.
    pub leases_granted: u64,
    pub leases_refused: u64,
    pub followers: Vec<Lag>,
    /// Copies that this node is to take and has no memory for; those that it has given up for that.
    pub waiting_for_memory: usize,
    pub given_up_for_memory: u64,
    pub upstreams: Vec<Upstream>,
    /// What the leader of raft knows; None: another node leads it.
    pub governor: Option<Status>,
    pub links: Vec<LinkNumbers>,
    /// Requests and answers on the bus; data is not among them.
    pub messages_sent: u64,
    pub messages_received: u64,
}

/// Raft, as this node has it.
#[derive(Clone, Debug, Default)]
pub struct RaftNumbers {
    /// `leader`, `follower`, `candidate`, `learner` or `ended`.
    pub role: &'static str,
    /// None: nobody is known to lead.
    pub leader: Option<NodeId>,
    pub term: u64,
    /// Indices: of the last entry, of the last that the state has, of the last that the latest snapshot has.
    pub last: u64,
    pub applied: u64,
    pub snapshot: u64,
    /// Entries that the log has.
    pub entries: u64,
    pub voters: usize,
    pub learners: usize,
}

/// Partitions, as raft's state has them here.
#[derive(Clone, Copy, Debug, Default)]
pub struct PartitionNumbers {
    pub all: usize,
    /// Those that this node leads, those that it has another copy of, and those of both that it is in sync in.
    pub led: usize,
    pub followed: usize,
    pub in_sync: usize,
    /// Nobody leads these.
    pub without_primary: usize,
}

/// What the control core counts itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCounts {
    /// Leaders of raft that were heard of, and how often that was this node.
    pub raft_leaders: u64,
    pub raft_elections_won: u64,
    /// How often a lease has ended before there was another one.
    pub leases_lapsed: u64,
    /// Copies of partitions that were received whole; bytes of copies.
    pub copies_received: u64,
    pub copy_bytes_received: u64,
    /// Changes of in-sync sets that this node has proposed, and what came of them.
    pub in_sync_proposed: u64,
    pub in_sync_accepted: u64,
    pub in_sync_refused: u64,
    pub in_sync_unknown: u64,
}

/// A connection to another node, or of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkNumbers {
    /// 40 hexadecimal digits.
    pub id: String,
    /// This node has made it.
    pub dialled: bool,
    /// Unix time.
    pub since_ms: i64,
    pub queued_bytes: usize,
    pub allocated_bytes: usize,
}

impl MemberCounts {
    pub fn new_leader_of_raft(&mut self, is_this_node: bool) {
        self.raft_leaders += 1;
        self.raft_elections_won += u64::from(is_this_node);
    }

    /// So many changes of in-sync sets were proposed, with this answer; None: nobody knows what becomes of them.
    pub fn proposed_in_sync(&mut self, count: u64, answer: Option<&RaftReply>) {
        self.in_sync_proposed += count;
        match answer {
            Some(RaftReply::InSync { changed, stale }) => {
                self.in_sync_accepted += u64::from(*changed);
                self.in_sync_refused += u64::from(*stale);
            }
            Some(_) => self.in_sync_refused += count,
            None => self.in_sync_unknown += count,
        }
    }
}

/// Name, help and value. INFO has `cluster_` before the name; the metrics `keyloom_cluster_`, and `_total` behind it if it is
/// a counter.
type Number = (&'static str, &'static str, fn(&MemberNumbers) -> u64);

/// What goes up and down.
pub static GAUGES: &[Number] = &[
    ("node", "The number of this node.", |m| m.node),
    ("raft_leader", "The number of the node that leads raft; 0 is nobody.", |m| m.raft.leader.unwrap_or(0)),
    ("raft_term", "The term of raft.", |m| m.raft.term),
    ("raft_last_index", "Index of the last entry of raft's log here.", |m| m.raft.last),
    ("raft_applied_index", "Index of the last entry that the state here has.", |m| m.raft.applied),
    ("raft_snapshot_index", "Index of the last entry that the latest snapshot of raft here has.", |m| m.raft.snapshot),
    ("raft_log_entries", "Entries of raft's log here.", |m| m.raft.entries),
    ("raft_voters", "Nodes that vote.", |m| m.raft.voters as u64),
    ("raft_learners", "Nodes of raft that do not vote.", |m| m.raft.learners as u64),
    ("partitions", "Partitions of the cluster.", |m| m.partitions.all as u64),
    ("partitions_led", "Partitions that this node leads.", |m| m.partitions.led as u64),
    ("partitions_followed", "Partitions led elsewhere, or by nobody, that this node has a copy of.", |m| {
        m.partitions.followed as u64
    }),
    ("partitions_in_sync", "Partitions whose in-sync set has this node, with those that it leads.", |m| {
        m.partitions.in_sync as u64
    }),
    ("partitions_without_primary", "Partitions that nobody leads, as this node knows.", |m| {
        m.partitions.without_primary as u64
    }),
    ("copies_waiting_for_memory", "Copies that this node is to take, and for which it has no memory.", |m| {
        m.waiting_for_memory as u64
    }),
    ("handovers_in_progress", "Roles on their way from this node to another one.", |m| m.handing_over as u64),
    ("handover_pause_p50_us", "Median time for which requests waited for a role handed over, us.", |m| {
        us(&m.pauses, 50.0)
    }),
    ("handover_pause_p99_us", "99th percentile of the same.", |m| us(&m.pauses, 99.0)),
    ("handover_pause_max_us", "The longest of these times.", |m| us(&m.pauses, 100.0)),
];

/// What only grows.
pub static COUNTERS: &[Number] = &[
    ("raft_leader_changes", "Leaders of raft that this node has heard of.", |m| m.counts.raft_leaders),
    ("raft_elections_won", "Elections after which this node led raft.", |m| m.counts.raft_elections_won),
    ("leases_lapsed", "Leases of this node that ended before it had another one: it has fenced itself.", |m| {
        m.counts.leases_lapsed
    }),
    ("leases_granted", "Leases granted by this node as the leader of raft.", |m| m.leases_granted),
    ("leases_refused", "Requests for leases refused by this node as the leader of raft.", |m| m.leases_refused),
    ("messages_sent", "Requests and answers sent to other nodes, without data.", |m| m.messages_sent),
    ("messages_received", "Requests and answers received of other nodes, without data.", |m| m.messages_received),
    ("promotions", "Roles that came to this node because whoever led before was lost.", |m| m.gained.promoted),
    ("handovers_received", "Roles that another node has handed over to this one.", |m| m.gained.handed_over),
    ("handovers_begun", "Roles that were to be handed over to another node.", |m| m.leading.handovers_begun),
    ("handovers_completed", "Roles handed over to another node.", |m| m.leading.handovers_completed),
    ("handovers_given_up", "Roles that were not handed over though it was begun.", |m| m.leading.handovers_given_up),
    ("copies_sent", "Copies of partitions sent whole.", |m| m.leading.copies_sent),
    ("copies_given_up", "Copies of partitions whose sending came to nothing.", |m| m.leading.copies_given_up),
    ("copies_sent_bytes", "Bytes of copies sent, with writes to the partitions meanwhile.", |m| m.leading.copy_bytes),
    ("copies_received", "Copies of partitions received whole.", |m| m.counts.copies_received),
    ("copies_received_bytes", "Bytes of copies received, with writes to the partitions meanwhile.", |m| {
        m.counts.copy_bytes_received
    }),
    ("copies_given_up_for_memory", "Copies of partitions given up here as they used up the memory.", |m| {
        m.given_up_for_memory
    }),
    ("in_sync_changes_proposed", "Changes of in-sync sets proposed to raft.", |m| m.counts.in_sync_proposed),
    ("in_sync_changes_accepted", "Changes of in-sync sets that raft has accepted.", |m| m.counts.in_sync_accepted),
    ("in_sync_changes_refused", "Changes of in-sync sets that raft has refused.", |m| m.counts.in_sync_refused),
    ("in_sync_changes_unknown", "Changes of in-sync sets that raft has not answered in time.", |m| {
        m.counts.in_sync_unknown
    }),
];

/// The section Cluster of INFO.
pub(super) fn describe_cluster(member: &MemberNumbers, mut field: impl FnMut(&str, String)) {
    field("cluster_raft_role", member.raft.role.into());
    field("cluster_lease_left_ms", member.lease_left_ms.to_string());
    for (name, _, value) in GAUGES.iter().chain(COUNTERS) {
        field(&format!("cluster_{name}"), value(member).to_string());
    }
    let nodes = member.governor.iter().flat_map(|status| &status.nodes);
    for NodeStatus { node, alive, phi, lease_left_ms, applied, ready, .. } in nodes {
        let (alive, ready) = (*alive as u8, *ready as u8);
        let value = format!("alive={alive},ready={ready},lease_left_ms={lease_left_ms},applied={applied},phi={phi:.2}");
        field(&format!("cluster_node{node}"), value);
    }
}

/// What a member adds to the section Replication of INFO: who follows it, and whom it follows. Indices are of the log of
/// whoever leads.
pub(super) fn describe_streams(member: &MemberNumbers, mut field: impl FnMut(&str, String)) {
    for (at, lag) in member.followers.iter().enumerate() {
        let Lag { node, following, copying, waiting, received, applied, durable, bytes, ms, silent_ms, phi, .. } = lag;
        let value = format!(
            "node={node},following={following},copying={copying},waiting={waiting},lag_ms={ms},lag_bytes={bytes},\
             received={received},applied={applied},durable={durable},silent_ms={silent_ms},phi={phi:.2}"
        );
        field(&format!("follower{at}"), value);
    }
    for (at, upstream) in member.upstreams.iter().enumerate() {
        let Upstream { leader, connected, following, waiting, received, commit, held_bytes, .. } = upstream;
        let connected = *connected as u8;
        let silent_ms = silent_ms(upstream).map_or(-1, |ms| ms as i64);
        let value = format!(
            "node={leader},connected={connected},following={following},waiting={waiting},held_bytes={held_bytes},\
             received={received},committed={commit},silent_ms={silent_ms}"
        );
        field(&format!("upstream{at}"), value);
    }
}

fn us(times: &Latency, percent: f64) -> u64 {
    times.percentile(percent) / 1000
}

/// Since a leader was heard. Who is not connected may never have been.
pub fn silent_ms(upstream: &Upstream) -> Option<u64> {
    Some(upstream.silent_ms).filter(|_| upstream.connected)
}

/// CLUSTER LINKS: <https://redis.io/docs/latest/commands/cluster-links/>.
pub(super) fn write_links(links: &[LinkNumbers], reply: &mut Reply) {
    reply.array(links.len());
    for link in links {
        let events = if link.queued_bytes > 0 { "rw" } else { "r" };
        reply.map(6);
        for (name, text) in [("direction", if link.dialled { "to" } else { "from" }), ("node", &link.id)] {
            reply.bulk(name.as_bytes());
            reply.bulk(text.as_bytes());
        }
        reply.bulk(b"create-time");
        reply.int(link.since_ms);
        reply.bulk(b"events");
        reply.bulk(events.as_bytes());
        for (name, bytes) in [("send-buffer-allocated", link.allocated_bytes), ("send-buffer-used", link.queued_bytes)]
        {
            reply.bulk(name.as_bytes());
            reply.int(bytes as i64);
        }
    }
}

#[cfg(test)]
#[path = "member_tests.rs"]
pub(crate) mod tests;
