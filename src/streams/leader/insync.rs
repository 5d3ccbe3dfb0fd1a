//! Who is in sync.
//!
//! A set is changed in raft, by compare-and-set, and what comes of a proposal may not be known for a while, or never. So whatever was
//! proposed since the last set was seen counts as if it were in force: commits wait for the union. That ends when raft's
//! state shows a newer version, or a newer epoch; a proposal whose fate stays unknown is made again (at the most one of those that follow
//! a version succeeds), if need be with the set as it is.
//!
//! The way in has a step between. Under load a follower is always a little behind what is committed without it, so
//! commits wait for it before it is proposed: it *joins*, and is proposed when it has what was committed until then. What it
//! was copied may have had parts of transactions that others had not received: these must be committed as well, as it has applied
//! them, and in the set it may lead.
//!
//! A set may shrink to the primary alone: then only that one can lead, and what it promised others, it can keep. Whether
//! so few are enough for a client is for those to judge who answer clients (`min-insync`).

use super::partition::Joiner;
use super::*;

/// What a leader thinks of a follower in one partition.
enum Opinion {
    /// It has left, is behind or silent, or cannot go on without a copy.
    Bad,
    /// It may come yet.
    Awaited,
    Good,
}

impl Leader {
    /// Looks at each follower once, as there may be a thousand partitions that it follows.
    pub(super) fn look_who_keeps_up(&mut self, now_ms: u64) {
        let Settings { insync_timeout_ms, phi_max, .. } = self.settings;
        for fellow in &mut self.fellows {
            let (behind_ms, _) = fellow.timeline.lag(now_ms, fellow.received);
            fellow.keeps_up = behind_ms < insync_timeout_ms
                && now_ms.saturating_sub(fellow.heard_ms) < insync_timeout_ms
                && fellow.detector.phi(now_ms) <= phi_max;
        }
    }

    pub(super) fn judge_in_sync(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        self.look_who_keeps_up(now_ms);
        // A thousand partitions are as they were, as long as their followers are.
        let same = self.settled && !self.untidy;
        if same && self.fellows.iter().all(|fellow| fellow.keeps_up && !fellow.leaving) {
            return;
        }
        let mut changes = Vec::new();
        let mut settled = true;
        for id in 0..self.led.len() as PartitionId {
            let Some(mut led) = self.led[id as usize].take() else { continue };
            if led.deposed.is_none() {
                changes.extend(self.judge_partition(now_ms, id, &mut led));
                settled &= led.proposed_ms.is_none() && led.suffix.is_none() && led.joiners.is_empty();
                let is_here = |node: &NodeId| *node == self.settings.node || self.is_good(now_ms, id, &led, *node);
                settled &= led.in_sync.len() == led.replicas.len() && led.in_sync.iter().all(is_here);
            }
            self.led[id as usize] = Some(led);
        }
        self.settled = settled;
        if !changes.is_empty() {
            out.push(Action::Propose(changes));
        }
    }

    fn judge_partition(&mut self, now_ms: u64, id: PartitionId, led: &mut Led) -> Option<InSyncChange> {
        let settings = &self.settings;
        if now_ms.saturating_sub(led.led_ms) > 2 * settings.insync_timeout_ms {
            led.suffix = None;
        }
        if led.proposed_ms.is_none() && self.all_are_in_sync(now_ms, id, led) {
            return None;
        }
        let leaves = |leader: &Leader, node| {
            leader.fellows.iter().any(|fellow| fellow.member.node == node && fellow.leaving && fellow.recognized)
        };
        let mut desired = vec![settings.node];
        let mut leaving = Vec::new();
        for node in led.replicas.clone().into_iter().filter(|node| *node != settings.node) {
            let opinion = self.opinion(now_ms, id, led, node);
            if led.in_sync.contains(&node) {
                match opinion {
                    Opinion::Bad => {}
                    _ if leaves(self, node) => leaving.push(node),
                    _ => desired.push(node),
                }
            } else if matches!(opinion, Opinion::Good) && !leaves(self, node) {
                if self.has_joined(id, led, node) {
                    desired.push(node);
                } else {
                    self.untidy |= self.let_join(now_ms, led, node);
                }
            } else if led.joiners.iter().any(|joiner| joiner.node == node) {
                led.joiners.retain(|joiner| joiner.node != node);
                self.untidy = true;
            }
        }
        // When all nodes end, each set keeps two that have everything.
        if desired.len() == 1 {
            desired.extend(leaving.first());
        }
        let same = desired.len() == led.in_sync.len() && led.in_sync.iter().all(|node| desired.contains(node));
        let due = led.proposed_ms.is_none_or(|since_ms| now_ms >= since_ms + self.settings.propose_ms);
        if (same && led.proposed_ms.is_none()) || !due {
            return None;
        }
        let member = |node| self.state.node(node).map(|known| Member { node, incarnation: known.incarnation });
        let in_sync: Vec<Member> = desired.into_iter().filter_map(member).collect();
        for member in in_sync.iter().filter(|member| member.node != self.settings.node) {
            if !led.proposed.contains(member) {
                led.proposed.push(*member);
            }
        }
        (led.proposed_ms, led.proposal) = (Some(now_ms), in_sync.clone());
        led.unknown += 1;
        self.untidy = true;
        Some(InSyncChange { partition: id, epoch: led.epoch, version: led.version, in_sync })
    }

    /// Whether all who have a copy are in the set, and nobody should leave it.
    fn all_are_in_sync(&self, now_ms: u64, id: PartitionId, led: &Led) -> bool {
        let stays = |node: &NodeId| {
            *node == self.settings.node
                || led.in_sync.contains(node) && !matches!(self.opinion(now_ms, id, led, *node), Opinion::Bad)
        };
        if self.fellows.iter().any(|fellow| fellow.leaving) {
            return false;
        }
        led.in_sync.len() == led.replicas.len() && led.replicas.iter().all(stays)
    }

    fn opinion(&self, now_ms: u64, id: PartitionId, led: &Led, node: NodeId) -> Opinion {
        let settings = &self.settings;
        let patience = |since_ms: u64, timeout_ms: u64| {
            if now_ms.saturating_sub(since_ms) > timeout_ms { Opinion::Bad } else { Opinion::Awaited }
        };
        let Some(fellow) = self.fellows.iter().find(|f| f.recognized && f.member.node == node) else {
            return match self.left_ms.get(&node) {
                Some(&left_ms) if left_ms >= led.led_ms => patience(left_ms, settings.absence_ms),
                _ => patience(led.led_ms, settings.insync_timeout_ms),
            };
        };
        let part = fellow.parts.get(&id).filter(|part| part.epoch == led.epoch);
        match part {
            Some(part) if self.counts(part) => {
                if fellow.keeps_up {
                    Opinion::Good
                } else {
                    Opinion::Bad
                }
            }
            Some(Part { phase: Phase::Queued | Phase::Copying, .. }) => Opinion::Bad,
            _ => patience(led.led_ms.max(fellow.since_ms), settings.insync_timeout_ms),
        }
    }

    /// Whether a follower is connected, has all of a partition, and keeps up.
    pub(super) fn is_good(&self, now_ms: u64, id: PartitionId, led: &Led, node: NodeId) -> bool {
        let leaving = self.fellows.iter().any(|fellow| fellow.member.node == node && fellow.leaving);
        !leaving && matches!(self.opinion(now_ms, id, led, node), Opinion::Good)
    }

    /// Whether it has everything that was committed without it.
    fn has_joined(&self, id: PartitionId, led: &Led, node: NodeId) -> bool {
        let Some(joiner) = led.joiners.iter().find(|joiner| joiner.node == node) else { return false };
        let part = self.fellows.iter().find(|f| f.recognized && f.member.node == node).and_then(|f| f.parts.get(&id));
        if let Some(Part { phase: Phase::Following { after }, .. }) = part
            && *after > self.commit_upto()
        {
            return false;
        }
        self.acknowledged_of(id, led, node).is_some_and(|(received, durable)| {
            received >= joiner.committed
                && self.come_of(node) >= joiner.spanned
                && (!self.settings.durable_quorum || durable >= joiner.durable)
        })
    }

    /// From now on commits wait for a follower, if it has nearly caught up. Returns whether that is new.
    fn let_join(&self, now_ms: u64, led: &mut Led, node: NodeId) -> bool {
        let timeout = self.settings.insync_timeout_ms;
        if let Some(at) = led.joiners.iter().position(|joiner| joiner.node == node) {
            // It does not get there: others need not wait any longer, for now.
            let late = now_ms.saturating_sub(led.joiners[at].since_ms) > timeout;
            if late {
                led.joiners.remove(at);
            }
            return late;
        }
        let fellow = self.fellows.iter().find(|fellow| fellow.member.node == node);
        if fellow.is_none_or(|fellow| fellow.timeline.lag(now_ms, fellow.received).0 >= timeout / 2) {
            return false;
        }
        let Some(group) = self.groups.get(led.group) else { return false };
        let (committed, durable) = group.committed();
        let joiner = Joiner {
            node,
            since_ms: now_ms,
            committed: committed.min(led.last).max(led.committed),
            durable: durable.min(led.last).max(led.durable),
            spanned: self.spanned_upto,
        };
        led.joiners.push(joiner);
        true
    }

    /// Raft has refused this change: it will not come any more. To be said once for each time that it was proposed.
    pub fn refused(&mut self, change: &InSyncChange) {
        let led = self.led.get_mut(change.partition as usize).and_then(Option::as_mut);
        let Some(led) = led.filter(|led| (led.epoch, led.version) == (change.epoch, change.version)) else { return };
        led.unknown = led.unknown.saturating_sub(1);
        // It may be refused because another one, made before, was accepted, even the same.
        if led.unknown == 0 {
            led.proposed.clear();
            led.proposed_ms = None;
            self.untidy = true;
        }
    }
}
