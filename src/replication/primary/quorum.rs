//! Acknowledgements, and what follows from them.
//!
//! *In sync* is a replica that could take over without losing anything that was promised: it follows the log, is behind for
//! no longer than `insync_timeout_ms`, is not suspected, and has everything that is committed. *Committed* is what all in-sync
//! replicas have, if with this node they are at least `min_insync`. The two are defined by each other, so the way in has a step
//! between: a replica that has nearly caught up is *joining*, and the commit index waits for it already, so it stands still until
//! the replica has reached it, and then the replica is in sync. Without that step, under a steady load, a replica would
//! never be there: what is committed would always be a little ahead of it. (In a cluster an open change of the set means the same:
//! the old one and the new one have to have a record.)

use super::*;

/// How far a replica is behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lag {
    pub peer: Peer,
    pub node: u128,
    pub port: u16,
    pub in_sync: bool,
    /// It follows the log: no copy is under way or awaited.
    pub streaming: bool,
    /// It is being sent a copy, or has not yet said that it has it.
    pub copying: bool,
    pub received: u64,
    pub applied: u64,
    pub durable: u64,
    /// Records that it has not acknowledged.
    pub entries: u64,
    /// Bytes of the log that it has not acknowledged, at most this many.
    pub bytes: u64,
    /// For how long there has been something that it has not acknowledged.
    pub ms: u64,
    /// Since its last acknowledgement.
    pub silent_ms: u64,
    /// Suspicion, see [`crate::replication::detector`].
    pub phi: f64,
}

/// Why no write is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteRefusal {
    /// Another node writes the log.
    NotLeading,
    /// A failover is under way.
    Paused,
    /// `-NOREPLICAS`: too few are in sync, or good.
    NoReplicas,
}

impl Primary {
    pub(super) fn acknowledged_by(
        &mut self,
        now_ms: u64,
        peer: Peer,
        received: u64,
        applied: u64,
        durable: u64,
        out: &mut Vec<Action>,
    ) {
        let Some(follower) = self.follower(peer) else { return };
        let possible = match follower.phase {
            Phase::Streaming => received >= follower.received && received < follower.next,
            // The first acknowledgement after a copy says that it is complete.
            Phase::Finishing { end } => received >= end && received < follower.next,
            _ => false,
        };
        if !possible || applied > received || durable > received {
            return self.drop_peer(now_ms, peer, DropReason::Protocol, out);
        }
        follower.phase = Phase::Streaming;
        (follower.received, follower.applied, follower.durable) = (received, applied, durable);
        follower.ack_ms = now_ms;
        self.refresh(now_ms);
    }

    /// This node's disk has the log up to `index`.
    pub fn durable(&mut self, now_ms: u64, index: u64) {
        self.durable = self.durable.max(index.min(self.end));
        self.refresh(now_ms);
    }

    /// On a relay: what its own primary says is committed.
    pub fn upstream_commit(&mut self, now_ms: u64, commit: u64) {
        if !self.leading() {
            self.commit = self.commit.max(commit.min(self.end));
            self.refresh(now_ms);
        }
    }

    /// Judges all replicas anew, then moves the commit index.
    pub(super) fn refresh(&mut self, now_ms: u64) {
        let Some(serving) = &self.serving else { return };
        let floor = serving.floor.max(self.commit);
        let settings = &self.settings;
        for follower in &mut self.followers {
            let (behind_ms, _) = self.timeline.lag(now_ms, follower.received);
            let silent_ms = now_ms.saturating_sub(follower.ack_ms);
            let streams = follower.phase == Phase::Streaming;
            #[cfg(test)]
            let streams = streams || self.fault == Some(Fault::CountIncompleteCopies);
            let alive = streams
                && silent_ms < settings.insync_timeout_ms
                && behind_ms < settings.insync_timeout_ms
                && follower.detector.phi(now_ms) <= settings.phi_max;
            let has_all =
                follower.received >= floor && (!settings.durable_quorum || follower.durable >= self.commit_durable);
            #[cfg(test)]
            let has_all = has_all || matches!(self.fault, Some(Fault::JoinAtOnce | Fault::CountIncompleteCopies));
            follower.standing = match follower.standing {
                _ if !alive => Standing::Out,
                Standing::InSync => Standing::InSync,
                _ if has_all => Standing::InSync,
                Standing::Joining { since_ms } if now_ms.saturating_sub(since_ms) > settings.insync_timeout_ms => {
                    Standing::Out
                }
                Standing::Joining { since_ms } => Standing::Joining { since_ms },
                Standing::Out if behind_ms < settings.insync_timeout_ms / 2 => Standing::Joining { since_ms: now_ms },
                Standing::Out => Standing::Out,
            };
        }
        if self.leading() {
            self.advance_commit();
        }
    }

    fn advance_commit(&mut self) {
        if self.in_sync() + 1 >= self.settings.min_insync {
            let waits_for = self.followers.iter().filter(|f| f.standing != Standing::Out);
            let received = waits_for.clone().map(|f| f.received).min().unwrap_or(self.end);
            #[cfg(test)]
            let received = match self.fault {
                Some(Fault::CommitByFastest) => waits_for.map(|f| f.received).max().unwrap_or(self.end),
                _ => received,
            };
            self.commit = self.commit.max(received.min(self.end));
            let in_sync = self.followers.iter().filter(|f| f.in_sync());
            let durable = in_sync.map(|f| f.durable).min().unwrap_or(self.end).min(self.durable);
            self.commit_durable = self.commit_durable.max(durable.min(self.commit));
        }
        let everywhere = self.followers.iter().filter(|f| f.phase == Phase::Streaming).map(|f| f.received).min();
        self.timeline.forget(everywhere.unwrap_or(0));
    }

    /// Replicas in sync, this node not counted.
    pub fn in_sync(&self) -> usize {
        self.followers.iter().filter(|f| f.in_sync()).count()
    }

    /// The nodes that are in sync.
    pub fn in_sync_nodes(&self) -> impl Iterator<Item = (u128, Peer)> + '_ {
        self.followers.iter().filter(|f| f.in_sync()).map(|f| (f.node, f.peer))
    }

    /// The last index that every in-sync replica has received, at least `min_insync - 1` of them: what `quorum` waits for.
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// The last index that is on the disks of this node and of every in-sync replica: what `quorum-disk` waits for.
    pub fn commit_durable(&self) -> u64 {
        self.commit_durable
    }

    /// How many replicas have received the log up to `index`: WAIT.
    pub fn received_by(&self, index: u64) -> usize {
        self.followers.iter().filter(|f| f.phase == Phase::Streaming && f.received >= index).count()
    }

    /// How many replicas have it on their disks: WAITAOF.
    pub fn durable_on(&self, index: u64) -> usize {
        self.followers.iter().filter(|f| f.phase == Phase::Streaming && f.durable >= index).count()
    }

    /// Replicas whose last acknowledgement is at most so old: `min-replicas-max-lag`.
    pub fn good_replicas(&self, now_ms: u64, lag_ms_max: u64) -> usize {
        let good = |f: &&Follower| f.phase == Phase::Streaming && now_ms.saturating_sub(f.ack_ms) <= lag_ms_max;
        self.followers.iter().filter(good).count()
    }

    /// Whether a write may be executed now.
    pub fn writable(&self, now_ms: u64) -> Result<(), WriteRefusal> {
        let settings = &self.settings;
        if !self.leading() {
            Err(WriteRefusal::NotLeading)
        } else if self.failover_is_under_way() {
            Err(WriteRefusal::Paused)
        } else if self.in_sync() + 1 < settings.min_insync
            || self.good_replicas(now_ms, settings.good_replica_lag_ms_max) < settings.good_replicas_min
        {
            Err(WriteRefusal::NoReplicas)
        } else {
            Ok(())
        }
    }

    /// The port at which a replica serves.
    pub fn port_of(&self, node: u128) -> Option<u16> {
        self.followers.iter().find(|f| f.node == node).map(|f| f.port)
    }

    /// For INFO and the metrics.
    pub fn lags(&self, now_ms: u64) -> impl Iterator<Item = Lag> + '_ {
        self.followers.iter().map(move |f| {
            let (ms, bytes) = self.timeline.lag(now_ms, f.received);
            Lag {
                peer: f.peer,
                node: f.node,
                port: f.port,
                in_sync: f.in_sync(),
                streaming: f.phase == Phase::Streaming,
                copying: matches!(f.phase, Phase::Copying { .. } | Phase::Finishing { .. }),
                received: f.received,
                applied: f.applied,
                durable: f.durable,
                entries: self.end.saturating_sub(f.received),
                bytes,
                ms,
                silent_ms: now_ms.saturating_sub(f.ack_ms),
                phi: f.detector.phi(now_ms),
            }
        })
    }
}
