//! Acknowledgements, and what follows from them.
//!
//! Partitions that wait for the same followers are one group, so that what is committed is known by looking at a handful of
//! numbers, and not at every partition. A member that has acknowledged the last unit of a group lacks nothing of it,
//! whatever else is in the log. What a follower has acknowledged before its stream went back or broke is kept by partition
//! ([`super::partition::Confirmed`]), so that nothing that is committed becomes uncommitted by that.

use std::collections::HashMap;

use super::spans::Outstanding;
use super::*;
use crate::log::durability::{LANES_MAX, LaneEnds, NO_LANE};

/// Partitions that wait for the same followers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// All but this node, ascending.
    pub members: Vec<NodeId>,
    /// Every unit of these partitions up to here is committed.
    pub upto: Index,
    /// Every such unit up to here is on the disks of this node and of all members.
    pub durable_upto: Index,
    /// How many there are.
    pub partitions: usize,
}

/// How far a follower is behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lag {
    pub peer: Peer,
    pub node: NodeId,
    /// Partitions that follow the log, that are being copied, and that wait for a copy.
    pub following: usize,
    pub copying: usize,
    pub waiting: usize,
    pub received: Index,
    pub applied: Index,
    pub durable: Index,
    /// Bytes that it has not acknowledged, at most this many.
    pub bytes: u64,
    /// For how long there has been something that it has not acknowledged.
    pub ms: u64,
    /// Since its last acknowledgement.
    pub silent_ms: u64,
    /// Suspicion, see [`crate::replication::detector`].
    pub phi: f64,
}

/// A group, and what makes it quick to look at.
#[derive(Debug)]
pub(super) struct Gathered {
    members: Vec<Waited>,
    partitions: Vec<PartitionId>,
    /// The last index of a unit of these.
    pub last: Index,
    /// The highest indices that are committed in some of them since before.
    committed: (Index, Index),
    pub upto: Index,
    durable_upto: Index,
    /// All members know that they have come so far in this node's log, whether the rest concerns them or not.
    come: Index,
    /// Places of followers that some of it is streamed to.
    followers: Vec<u16>,
    /// What of it spans partitions, and not everybody has.
    pub spans: Outstanding,
}

/// A member of a group.
#[derive(Clone, Copy, Debug)]
struct Waited {
    node: NodeId,
    /// Its place, if the acknowledgements of its stream count for all partitions of the group.
    uniform: Option<usize>,
    /// The highest indices that are confirmed in some of them beside that.
    received: Index,
    durable: Index,
}

impl Gathered {
    pub fn committed(&self) -> (Index, Index) {
        (self.upto, self.durable_upto)
    }
}

impl Leader {
    /// Whether a node is connected to follow this one, and goes on doing so.
    pub fn is_followed_by(&self, node: NodeId) -> bool {
        self.fellows.iter().any(|fellow| fellow.recognized && fellow.member.node == node && !fellow.leaving)
    }

    pub(super) fn acknowledged(
        &mut self,
        now_ms: u64,
        at: usize,
        round: u64,
        (received, applied, durable): (Index, Index, Index),
        out: &mut Vec<Action>,
    ) {
        let fellow = &mut self.fellows[at];
        fellow.ack_ms = now_ms;
        if round < fellow.round {
            return;
        }
        let possible = received >= fellow.received && received <= fellow.position && round == fellow.round;
        if !possible || applied > received || durable > applied {
            return self.drop_peer(now_ms, self.fellows[at].peer, DropReason::Protocol, out);
        }
        (fellow.received, fellow.applied, fellow.durable) = (received, applied, durable);
        fellow.come = fellow.come.max(received);
        fellow.timeline.forget(received);
        if std::mem::take(&mut fellow.cuts) {
            for part in fellow.parts.values_mut().filter(|part| part.cut) {
                (part.cut, part.counts) = (false, matches!(part.phase, Phase::Following { .. }));
            }
            self.untidy = true;
        }
    }

    /// This node's disk has the log up to `index`.
    pub fn durable(&mut self, index: Index) {
        self.durable = self.durable.max(index.min(self.end));
    }

    /// Remembers by partition what a follower has acknowledged. To be called before its stream goes back or ends, and before more
    /// partitions count.
    pub(super) fn confirm_all(&mut self, at: usize) {
        let fellow = &self.fellows[at];
        for (&partition, part) in fellow.parts.iter().filter(|(_, part)| part.counts) {
            let led = self.led.get_mut(partition as usize).and_then(Option::as_mut);
            if let Some(led) = led.filter(|led| led.epoch == part.epoch) {
                led.confirm(fellow.member, fellow.received, fellow.durable);
            }
        }
    }

    /// Whether acknowledgements of a follower count for a partition.
    pub(super) fn counts(&self, part: &Part) -> bool {
        #[cfg(test)]
        if self.fault == Some(Fault::CountIncompleteCopies) {
            return part.counts || matches!(part.phase, Phase::Copying | Phase::Following { .. });
        }
        part.counts
    }

    /// Up to where a member has received, and has on its disk, what this node wrote of a partition. None: it lacks some of the
    /// base.
    pub(super) fn acknowledged_of(&self, id: PartitionId, led: &Led, node: NodeId) -> Option<(Index, Index)> {
        let incarnation = self.state.node(node)?.incarnation;
        let confirmed = led.confirmed(node, incarnation).map(|confirmed| (confirmed.received, confirmed.durable));
        let streamed = self.fellows.iter().find(|f| f.recognized && f.member.node == node).and_then(|fellow| {
            let part = fellow.parts.get(&id)?;
            (part.epoch == led.epoch && self.counts(part)).then_some((fellow.received, fellow.durable))
        });
        match (confirmed, streamed) {
            (Some(a), Some(b)) => Some((a.0.max(b.0), a.1.max(b.1))),
            (one, other) => one.or(other),
        }
    }

    /// How far a follower that is connected has said that it has come.
    pub(super) fn come_of(&self, node: NodeId) -> Index {
        let fellow = self.fellows.iter().find(|fellow| fellow.recognized && fellow.member.node == node);
        fellow.map_or(0, |fellow| fellow.come)
    }

    /// All that a partition's commits wait for, this node left out, ascending.
    fn waits_for(&self, led: &Led, nodes: &mut Vec<NodeId>) {
        let proposed = led.proposed.iter().map(|member| member.node);
        let joiners = led.joiners.iter().map(|joiner| joiner.node);
        nodes.clear();
        nodes.extend(led.in_sync.iter().copied().chain(proposed).chain(joiners));
        #[cfg(test)]
        if self.fault == Some(Fault::CountNewSetOnly) && led.proposed_ms.is_some() {
            nodes.clear();
            nodes.extend(led.proposal.iter().map(|member| member.node));
        }
        nodes.retain(|node| *node != self.settings.node);
        nodes.sort_unstable();
        nodes.dedup();
    }

    /// Sorts partitions into groups, and followers into partitions.
    pub(super) fn arrange(&mut self) {
        (self.untidy, self.settled) = (false, false);
        for led in self.led.iter_mut().flatten() {
            if let Some(group) = self.groups.get(led.group) {
                led.committed = led.committed.max(group.upto.min(led.last));
                led.durable = led.durable.max(group.durable_upto.min(led.last));
            }
            led.group = usize::MAX;
        }
        let mut spans = Outstanding::default();
        self.groups.iter().for_each(|group| spans.merge(&group.spans));
        let mut groups: Vec<Gathered> = Vec::new();
        let mut known: HashMap<Vec<NodeId>, usize> = HashMap::new();
        let mut members = Vec::new();
        for id in 0..self.led.len() {
            let Some(led) = &self.led[id] else { continue };
            let deposed = led.deposed.is_some();
            self.waits_for(led, &mut members);
            let Some(led) = &mut self.led[id] else { continue };
            led.live.clear();
            led.copied = None;
            if deposed {
                continue;
            }
            led.group = known.get(&members).copied().unwrap_or_else(|| {
                let waited = |&node| Waited { node, uniform: None, received: 0, durable: 0 };
                groups.push(Gathered {
                    members: members.iter().map(waited).collect(),
                    partitions: Vec::new(),
                    last: 0,
                    committed: (0, 0),
                    upto: 0,
                    durable_upto: 0,
                    come: 0,
                    followers: Vec::new(),
                    // Which of them are in which group is not known any more, and for a moment all wait.
                    spans: spans.clone(),
                });
                known.insert(members.clone(), groups.len() - 1);
                groups.len() - 1
            });
            let group = &mut groups[led.group];
            group.partitions.push(id as PartitionId);
            group.last = group.last.max(led.last);
            let (committed, durable) = group.committed;
            group.committed = (committed.max(led.committed), durable.max(led.durable));
        }
        for (at, fellow) in self.fellows.iter_mut().enumerate() {
            (fellow.following, fellow.copying) = (0, 0);
            for (&id, part) in &fellow.parts {
                let Some(led) = self.led.get_mut(id as usize).and_then(Option::as_mut) else { continue };
                match part.phase {
                    _ if led.deposed.is_some() || led.epoch != part.epoch => {}
                    Phase::Following { .. } => {
                        led.live.push(at as u16);
                        fellow.following += 1;
                        let group = &mut groups[led.group];
                        if group.followers.last() != Some(&(at as u16)) {
                            group.followers.push(at as u16);
                        }
                    }
                    Phase::Copying => {
                        led.copied = Some(at as u16);
                        fellow.copying += 1;
                    }
                    Phase::Waiting | Phase::Queued => {}
                }
            }
        }
        self.find_uniform(&mut groups);
        self.groups = groups;
        self.map_lanes();
    }

    /// Says anew which partitions wait for the same followers, if that has changed. There is nothing to tell apart in one group.
    fn map_lanes(&mut self) {
        let lane = |led: &Option<Box<Led>>| match led.as_ref().map(|led| led.group) {
            Some(group) if group < LANES_MAX => group as u8,
            _ => NO_LANE,
        };
        let of: Box<[u8]> = if self.groups.len() > 1 { self.led.iter().map(lane).collect() } else { Box::default() };
        if self.lane_map.of != of {
            self.lane_map = Arc::new(LaneMap { number: self.lane_map.number + 1, of });
        }
    }

    fn find_uniform(&self, groups: &mut [Gathered]) {
        // Of how many partitions of each group a fellow has everything that was written before it came.
        let mut counting = vec![0; groups.len()];
        for (at, fellow) in self.fellows.iter().enumerate() {
            let node = fellow.member.node;
            if self.fellows.iter().position(|f| f.recognized && f.member.node == node) != Some(at) {
                continue;
            }
            counting.fill(0);
            for (&id, part) in &fellow.parts {
                if let Some(led) = self.led.get(id as usize).and_then(Option::as_ref)
                    && let Some(counting) = counting.get_mut(led.group)
                {
                    *counting += usize::from(part.epoch == led.epoch && self.counts(part));
                }
            }
            for (group, &counting) in groups.iter_mut().zip(&counting) {
                let Some(member) = group.members.iter_mut().find(|member| member.node == node) else { continue };
                member.uniform = (counting == group.partitions.len()).then_some(at);
                let led = group.partitions.iter().filter_map(|&id| self.led[id as usize].as_ref());
                for confirmed in led.filter_map(|led| led.confirmed(node, fellow.member.incarnation)) {
                    member.received = member.received.max(confirmed.received);
                    member.durable = member.durable.max(confirmed.durable);
                }
            }
        }
    }

    /// Looks anew at what is committed.
    pub(super) fn refresh(&mut self) {
        if self.untidy {
            self.arrange();
        }
        for at in 0..self.groups.len() {
            let (upto, durable_upto, come) = self.committed_of(&self.groups[at]);
            let group = &mut self.groups[at];
            (group.upto, group.durable_upto, group.come) = (upto, durable_upto.min(upto), come);
        }
        self.limit_to_whole();
    }

    /// What spans partitions is committed when all followers have come so far, and what comes behind it not before.
    fn limit_to_whole(&mut self) {
        #[cfg(test)]
        if self.fault == Some(Fault::CommitSpansInPart) {
            return;
        }
        let whole = self.groups.iter().map(|group| group.come).min().unwrap_or(self.end);
        for group in &mut self.groups {
            group.spans.forget(whole);
            // What was committed in a partition stays so by itself; of another one of the group nothing follows from that.
            group.upto = group.upto.min(group.spans.limit());
            group.durable_upto = group.durable_upto.min(group.upto);
        }
    }

    /// Up to where a group would be committed by itself, and would be on the disks of all; and how far its members have come.
    fn committed_of(&self, group: &Gathered) -> (Index, Index, Index) {
        let end = self.end;
        let reached = |index: Index, last: Index| if index >= last { end } else { index };
        let (mut upto, mut durable_upto, mut come) = (end, reached(self.durable, group.last), end);
        for member in &group.members {
            let quick = member.uniform.map(|at| &self.fellows[at]).filter(|fellow| {
                fellow.received >= member.received.max(group.committed.0)
                    && fellow.durable >= member.durable.max(group.committed.1)
            });
            match quick {
                Some(fellow) => {
                    come = come.min(fellow.come);
                    upto = upto.min(reached(fellow.received, group.last));
                    durable_upto = durable_upto.min(reached(fellow.durable, group.last));
                }
                None => {
                    come = come.min(self.come_of(member.node));
                    for &id in &group.partitions {
                        let Some(led) = &self.led[id as usize] else { continue };
                        let acknowledged = self.acknowledged_of(id, led, member.node);
                        // The base is a unit at the cut.
                        let before = led.cut.saturating_sub(1);
                        let (received, durable) = acknowledged.unwrap_or((before, before));
                        come = come.min(received);
                        upto = upto.min(reached(received.max(led.committed), led.last));
                        durable_upto = durable_upto.min(reached(durable.max(led.durable), led.last));
                    }
                }
            }
        }
        (upto, durable_upto, come)
    }

    /// Whether commits of anything wait for a node.
    pub(super) fn is_waited_for(&self, node: NodeId) -> bool {
        self.groups.iter().any(|group| group.members.iter().any(|member| member.node == node))
    }

    /// What is committed of what a follower gets.
    pub(super) fn commit_for(&self, at: usize) -> Index {
        let groups = self.groups.iter().filter(|group| group.followers.contains(&(at as u16)));
        groups.map(|group| group.upto).min().unwrap_or(self.end)
    }

    /// What is held back by partitions that are led no longer and not released.
    fn held_back(&self) -> Index {
        if self.deposed == 0 {
            return self.end;
        }
        let deposed = self.led.iter().flatten().filter_map(|led| Some((led.deposed?, led.last)));
        deposed.filter(|(committed, last)| last > committed).map(|(committed, _)| committed).min().unwrap_or(self.end)
    }

    /// The last index of this node's log up to which every own unit is committed in its partitions: what `quorum` waits for. As
    /// of the last [`Leader::turn_end`].
    pub fn commit_upto(&self) -> Index {
        self.groups.iter().map(|group| group.upto).min().unwrap_or(self.end).min(self.held_back())
    }

    /// The last index up to which every own unit is on the disks of this node and of all who are in sync: `quorum-disk`.
    pub fn commit_durable_upto(&self) -> Index {
        let groups = self.groups.iter().map(|group| group.durable_upto);
        groups.min().unwrap_or(self.end).min(self.held_back()).min(self.commit_upto())
    }

    /// As [`Leader::commit_upto`] and [`Leader::commit_durable_upto`], for each lane by itself; and which partition is in which.
    /// What is led no longer is in none. None: there is one lane at the most.
    pub fn lanes(&self) -> Option<LaneEnds> {
        let ends = || self.groups.iter().take(LANES_MAX).map(Gathered::committed).collect();
        (!self.lane_map.of.is_empty()).then(|| LaneEnds { map: Arc::clone(&self.lane_map), ends: ends() })
    }

    /// What is committed, by groups of partitions that wait for the same followers.
    pub fn groups(&self) -> Vec<Group> {
        let group = |group: &Gathered| Group {
            members: group.members.iter().map(|member| member.node).collect(),
            upto: group.upto,
            durable_upto: group.durable_upto,
            partitions: group.partitions.len(),
        };
        self.groups.iter().map(group).collect()
    }

    /// Up to where a partition that is led here in this epoch is committed.
    #[cfg(test)]
    pub fn committed(&self, partition: PartitionId, epoch: Epoch) -> Option<Index> {
        let led =
            self.led.get(partition as usize)?.as_ref().filter(|led| led.epoch == epoch && led.deposed.is_none())?;
        Some(self.groups.get(led.group).map_or(0, |group| group.upto).max(led.committed))
    }

    /// The tail of what is led here, and the epoch.
    #[cfg(test)]
    pub fn leads(&self, partition: PartitionId) -> Option<(Epoch, Tail, bool)> {
        let led = self.led.get(partition as usize)?.as_ref()?;
        Some((led.epoch, led.tail, led.deposed.is_some()))
    }

    /// How many followers have received what concerns them of the log up to `index`: WAIT.
    pub fn received_by(&self, index: Index) -> usize {
        self.fellows.iter().filter(|f| f.following > 0 && f.has(f.received, index)).count()
    }

    /// How many have it on their disks: WAITAOF.
    pub fn durable_on(&self, index: Index) -> usize {
        self.fellows.iter().filter(|f| f.following > 0 && f.has(f.durable, index)).count()
    }

    /// For INFO and the metrics.
    pub fn lags(&self, now_ms: u64) -> Vec<Lag> {
        let lag = |f: &Fellow| {
            let (ms, bytes) = f.timeline.lag(now_ms, f.received);
            Lag {
                peer: f.peer,
                node: f.member.node,
                following: f.following,
                copying: f.copying,
                waiting: f.parts.len().saturating_sub(f.following + f.copying),
                received: f.received,
                applied: f.applied,
                durable: f.durable,
                bytes,
                ms,
                silent_ms: now_ms.saturating_sub(f.heard_ms),
                phi: f.detector.phi(now_ms),
            }
        };
        self.fellows.iter().map(lag).collect()
    }
}
