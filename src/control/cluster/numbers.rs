//! What this node says of itself as a member, for INFO, the metrics and CLUSTER LINKS: asked of those who count.
//!
//! Owned by the control core.

use std::collections::BTreeMap;

use openraft::ServerState;
use openraft_rt::WatchReceiver;

use super::Member;
use crate::cluster::{Identity, NodeId};
use crate::command::log::{ReplicaNumbers, ReplicationNumbers};
use crate::command::member::{LinkNumbers, MemberCounts, MemberNumbers, PartitionNumbers, RaftNumbers};
use crate::control::Control;
use crate::raft::bus::Connected;

impl Control {
    /// None: the node is in no cluster of several nodes.
    pub(in crate::control) fn member_numbers(&self) -> Option<MemberNumbers> {
        let member = self.member()?;
        let now_ms = self.steady_ms();
        let (leases_granted, leases_refused) = member.seat.leases();
        let (messages_sent, messages_received) = member.bus.messages();
        let streams = member.streams.borrow();
        let leader = streams.as_ref().map(|streams| &streams.leader);
        let follower = streams.as_ref().map(|streams| &streams.follower);
        let (waiting_for_memory, given_up_for_memory) =
            follower.map(|follower| follower.without_memory()).unwrap_or_default();
        Some(MemberNumbers {
            node: member.me,
            raft: member.raft_numbers(),
            lease_left_ms: self.lease_left_ms(),
            partitions: member.partition_numbers(),
            handing_over: leader.map_or(0, |leader| leader.handing_over()),
            pauses: streams.as_ref().map(|streams| streams.pauses.lengths().clone()).unwrap_or_default(),
            counts: member.counts.get(),
            leading: leader.map(|leader| leader.tally()).unwrap_or_default(),
            gained: member.reader.gained(),
            leases_granted,
            leases_refused,
            followers: leader.map(|leader| leader.lags(now_ms)).unwrap_or_default(),
            waiting_for_memory,
            given_up_for_memory,
            upstreams: follower.map(|follower| follower.upstreams(now_ms)).unwrap_or_default(),
            governor: member.seat.status(self.now_ms()),
            links: member.links(),
            messages_sent,
            messages_received,
        })
    }

    /// Who follows this node, in the words that replicas by REPLICAOF have: monitors look for these. None: it is in no cluster
    /// of several nodes.
    pub(in crate::control) fn member_replication_numbers(&self) -> Option<ReplicationNumbers> {
        let member = self.member()?;
        let config = self.config();
        let (now_ms, end) = (self.steady_ms(), self.log.borrow().sequencer.end());
        let streams = member.streams.borrow();
        let leader = streams.as_ref().map(|streams| &streams.leader);
        let state = member.reader.state();
        // Whether a node is in sync in all that it has copies of. In one pass: there may be many of both.
        let mut complete: BTreeMap<NodeId, bool> = BTreeMap::new();
        for partition in state.partitions().iter().filter(|partition| partition.primary == Some(member.me)) {
            for node in &partition.replicas {
                *complete.entry(*node).or_insert(true) &= partition.in_sync.contains(node);
            }
        }
        let lags = leader.map(|leader| leader.lags(now_ms)).unwrap_or_default();
        let replicas = lags.iter().map(|lag| {
            let profile = state.node(lag.node).map(|node| &node.profile);
            ReplicaNumbers {
                host: profile.map_or(String::new(), |profile| profile.host.clone()),
                port: profile.map_or(0, |profile| profile.port),
                in_sync: complete.get(&lag.node) == Some(&true),
                streaming: lag.copying + lag.waiting == 0,
                copying: lag.copying > 0,
                received: lag.received,
                applied: lag.applied,
                durable: lag.durable,
                entries: end.saturating_sub(lag.received),
                bytes: lag.bytes,
                ms: lag.ms,
                silent_ms: lag.silent_ms,
                suspicion: lag.phi,
            }
        });
        let replicas: Vec<ReplicaNumbers> = replicas.collect();
        Some(ReplicationNumbers {
            in_sync: replicas.iter().filter(|replica| replica.in_sync).count() as u64,
            good: member.good_followers(now_ms, config.min_replicas_max_lag_s * 1000) as u64,
            commit: leader.map_or(0, |leader| leader.commit_upto()),
            replicas,
            ..self.replication_numbers()
        })
    }

    /// How much is left of the lease of this node.
    pub(super) fn lease_left_ms(&self) -> u64 {
        self.node.state.lease.ends_ms().saturating_sub(self.now_ms()).max(0) as u64
    }
}

impl Member {
    /// Something has happened that is counted here.
    pub(super) fn count(&self, change: impl FnOnce(&mut MemberCounts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    fn raft_numbers(&self) -> RaftNumbers {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let role = match metrics.state {
            ServerState::Leader => "leader",
            ServerState::Candidate => "candidate",
            ServerState::Learner => "learner",
            ServerState::Follower => "follower",
            ServerState::Shutdown => "ended",
        };
        let membership = metrics.membership_config.membership();
        // The first entry has index 0.
        let (end, begin) =
            (metrics.last_log_index.map_or(0, |last| last + 1), metrics.purged.map_or(0, |id| id.index + 1));
        RaftNumbers {
            role,
            leader: metrics.current_leader,
            term: metrics.current_term,
            last: end.saturating_sub(1),
            applied: self.seat.applied(),
            snapshot: metrics.snapshot.map_or(0, |id| id.index),
            entries: end.saturating_sub(begin),
            voters: membership.voter_ids().count(),
            learners: membership.learner_ids().count(),
        }
    }

    fn partition_numbers(&self) -> PartitionNumbers {
        self.with_roles(|state| {
            let mut numbers = PartitionNumbers { all: state.partitions().len(), ..PartitionNumbers::default() };
            for partition in state.partitions() {
                let leads = partition.primary == Some(self.me);
                numbers.led += usize::from(leads);
                numbers.followed += usize::from(!leads && partition.replicas.contains(&self.me));
                numbers.in_sync += usize::from(partition.in_sync.contains(&self.me));
                numbers.without_primary += usize::from(partition.primary.is_none());
            }
            numbers
        })
    }

    /// All connections of the bus, those that carry data included. Who is no member has no name that could be told.
    fn links(&self) -> Vec<LinkNumbers> {
        let mut open = self.bus.connected();
        if let Some(streams) = &*self.streams.borrow() {
            let data = |node: NodeId, dialled, since_ms, (queued_bytes, allocated_bytes)| Connected {
                node,
                dialled,
                since_ms,
                queued_bytes,
                allocated_bytes,
            };
            let upstreams = streams.upstreams.iter().filter_map(|(&node, upstream)| {
                let outbox = upstream.outbox.as_ref()?;
                Some(data(node, true, upstream.since_ms, outbox.waiting()))
            });
            let peers = streams.peers.values();
            let peers = peers.map(|peer| data(peer.node, false, peer.since_ms, peer.outbox.waiting()));
            open.extend(upstreams.chain(peers));
        }
        let state = self.reader.state();
        let link = |open: Connected| {
            let Connected { node, dialled, since_ms, queued_bytes, allocated_bytes } = open;
            let id = Identity(state.node(node)?.identity).to_string();
            Some(LinkNumbers { id, dialled, since_ms, queued_bytes, allocated_bytes })
        };
        open.into_iter().filter_map(link).collect()
    }
}
