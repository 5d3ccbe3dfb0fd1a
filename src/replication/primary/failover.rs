//! Handing the lead over, without losing anything and without two nodes that lead.
//!
//! ```text
//!     asked ─► Pausing ─► Waiting ─► Handing ─► stepped down
//!                 │          │          ├─► declined: writes go on
//!                 └──────────┴─► writes go on   └─► connection lost: InDoubt ─► it says hello as a replica: writes go on
//!                   (timeout, ABORT)                                         └─► its standing shows that it leads: step down
//! ```
//!
//! As soon as the handover is sent the target may lead, so from then on writes stay paused until it is known whether it does:
//! no timeout and no ABORT can change that. It is known from its answer. If that is lost, from its next hello (who follows
//! us does not lead, and a handover on an old connection is not read any more), or from what it says when it is asked:
//! a node that leads by a history which goes on from ours has taken over. An operator who knows that the target is lost has the
//! node lead by a new history ([`Primary::lead`]).

use thiserror::Error;

use super::*;

/// How often a node is asked whether it has taken over.
const INQUIRY_INTERVAL_MS: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failover {
    None,
    /// Writes are being stopped (`paused` is false), or the target is awaited.
    Waiting {
        target: Option<u128>,
        deadline_ms: Option<u64>,
        force: bool,
        paused: bool,
    },
    /// The target was told to take over.
    Handing {
        node: u128,
        peer: Peer,
        port: u16,
        attempt: u64,
    },
    InDoubt {
        node: u128,
        port: u16,
        /// The connection that is lost.
        attempt: u64,
        inquired_ms: Option<u64>,
    },
}

/// Why FAILOVER cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FailoverError {
    #[error("this node does not lead")]
    NotLeading,
    #[error("a failover is under way")]
    UnderWay,
    #[error("no failover is under way")]
    None,
    #[error("nobody follows this node")]
    NoReplicas,
    #[error("no replica is known by this name")]
    NoTarget,
    #[error("no replica follows the log")]
    NotOnline,
    #[error("a forced failover needs a target and a timeout")]
    ForceNeedsTarget,
    #[error("the target may have taken over already")]
    TooLate,
}

impl Primary {
    /// FAILOVER: hands over to `target`, or to the first in-sync replica that has everything. After `timeout_ms` it is given up,
    /// or with `force` done with what the target has.
    pub fn failover(
        &mut self,
        now_ms: u64,
        target: Option<u128>,
        timeout_ms: Option<u64>,
        force: bool,
        out: &mut Vec<Action>,
    ) -> Result<(), FailoverError> {
        self.can_fail_over(force, target.is_some() && timeout_ms.is_some())?;
        if target.is_some_and(|node| self.followers.iter().all(|f| f.node != node)) {
            return Err(FailoverError::NoTarget);
        }
        let fits = |f: &Follower| f.phase == Phase::Streaming && target.is_none_or(|node| node == f.node);
        if !self.followers.iter().any(fits) {
            return Err(FailoverError::NotOnline);
        }
        let deadline_ms = timeout_ms.map(|timeout| now_ms.saturating_add(timeout));
        self.failover = Failover::Waiting { target, deadline_ms, force, paused: false };
        out.push(Action::PauseWrites);
        Ok(())
    }

    /// Whether a failover could begin, whoever its target is; `bounded`: a target and a timeout are given.
    pub fn can_fail_over(&self, force: bool, bounded: bool) -> Result<(), FailoverError> {
        if self.failover_is_under_way() {
            Err(FailoverError::UnderWay)
        } else if !self.leading() {
            Err(FailoverError::NotLeading)
        } else if self.followers.is_empty() {
            Err(FailoverError::NoReplicas)
        } else if force && !bounded {
            Err(FailoverError::ForceNeedsTarget)
        } else {
            Ok(())
        }
    }

    /// How far a failover is, in Redis' words.
    pub fn failover_state(&self) -> &'static str {
        match self.failover {
            Failover::None => "no-failover",
            Failover::Waiting { .. } => "waiting-for-sync",
            Failover::Handing { .. } | Failover::InDoubt { .. } => "failover-in-progress",
        }
    }

    /// FAILOVER ABORT.
    pub fn abort_failover(&mut self, out: &mut Vec<Action>) -> Result<(), FailoverError> {
        match self.failover {
            Failover::None => Err(FailoverError::None),
            Failover::Waiting { .. } => {
                self.resume(out);
                Ok(())
            }
            Failover::Handing { .. } | Failover::InDoubt { .. } => Err(FailoverError::TooLate),
        }
    }

    /// Nothing is written any more: everything that was is appended.
    pub fn writes_paused(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        if let Failover::Waiting { paused, .. } = &mut self.failover {
            *paused = true;
            self.failover_step(now_ms, out);
        }
    }

    /// What a node says that was asked on account of [`Action::Inquire`].
    pub fn standing(&mut self, now_ms: u64, node: u128, leading: bool, chain: &Chain, out: &mut Vec<Action>) {
        let Failover::InDoubt { node: target, port, .. } = self.failover else { return };
        if node == target && leading && self.goes_on_from_ours(chain) {
            self.step_down(now_ms, node, port, out);
        }
    }

    pub(super) fn failover_is_under_way(&self) -> bool {
        self.failover != Failover::None
    }

    pub(super) fn writes_are_paused(&self) -> bool {
        match self.failover {
            Failover::None => false,
            Failover::Waiting { paused, .. } => paused,
            Failover::Handing { .. } | Failover::InDoubt { .. } => true,
        }
    }

    /// Hands over as soon as somebody has everything.
    pub(super) fn failover_step(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let Failover::Waiting { target, paused: true, .. } = self.failover else { return };
        let fits = |f: &&Follower| {
            let enough = if target.is_some() { f.phase == Phase::Streaming } else { f.in_sync() };
            enough && f.received == self.end && target.is_none_or(|node| node == f.node)
        };
        if let Some(peer) = self.followers.iter().find(fits).map(|f| f.peer) {
            self.hand_over(now_ms, peer, out);
        }
    }

    pub(super) fn failover_tick(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        self.failover_step(now_ms, out);
        match &mut self.failover {
            Failover::Waiting { deadline_ms: Some(deadline), target, force, paused } if now_ms >= *deadline => {
                let (target, forced) = (*target, *force && *paused);
                let fits = |f: &&Follower| f.phase == Phase::Streaming && Some(f.node) == target;
                match self.followers.iter().find(fits).map(|f| f.peer) {
                    Some(peer) if forced => self.hand_over(now_ms, peer, out),
                    _ => self.resume(out),
                }
            }
            #[cfg(test)]
            Failover::InDoubt { .. } if self.fault == Some(Fault::ResumeInDoubt) => self.resume(out),
            Failover::InDoubt { node, port, inquired_ms, .. }
                if inquired_ms.is_none_or(|at| now_ms.saturating_sub(at) >= INQUIRY_INTERVAL_MS) =>
            {
                *inquired_ms = Some(now_ms);
                out.push(Action::Inquire { node: *node, port: *port });
            }
            _ => {}
        }
    }

    fn hand_over(&mut self, now_ms: u64, peer: Peer, out: &mut Vec<Action>) {
        let Some(follower) = self.follower(peer) else { return };
        let (node, port, attempt, end) = (follower.node, follower.port, follower.attempt, follower.received);
        self.failover = Failover::Handing { node, peer, port, attempt };
        self.send(now_ms, peer, Control::Handover { end }, out);
    }

    pub(super) fn taken_over(&mut self, now_ms: u64, peer: Peer, history: HistoryId, _cut: u64, out: &mut Vec<Action>) {
        let known = self.serving.as_ref().is_none_or(|s| s.chain.contains(history));
        match self.failover {
            Failover::Handing { node, peer: target, port, .. } if target == peer && !known => {
                self.failover = Failover::None;
                self.drop_peer(now_ms, peer, DropReason::HandedOver, out);
                self.step_down(now_ms, node, port, out);
            }
            _ => self.drop_peer(now_ms, peer, DropReason::Protocol, out),
        }
    }

    pub(super) fn declined(&mut self, now_ms: u64, peer: Peer, out: &mut Vec<Action>) {
        match self.failover {
            Failover::Handing { peer: target, .. } if target == peer => self.resume(out),
            _ => self.drop_peer(now_ms, peer, DropReason::Protocol, out),
        }
    }

    /// The connection to a replica is lost.
    pub(super) fn failover_lost(&mut self, follower: &Follower) {
        if let Failover::Handing { node, peer, port, attempt } = self.failover
            && peer == follower.peer
        {
            self.failover = Failover::InDoubt { node, port, attempt, inquired_ms: None };
        }
    }

    /// A node says hello. If it is the one in doubt, has given the lost connection up, and has led nothing since, then it has not
    /// taken over and will not.
    pub(super) fn returned(&mut self, hello: &Hello, chain: &Chain, out: &mut Vec<Action>) {
        if let Failover::InDoubt { node, attempt, .. } = self.failover
            && hello.node == node
            && hello.attempt > attempt
            && !self.goes_on_from_ours(chain)
        {
            self.resume(out);
        }
    }

    /// Whether a chain has a history that was started on top of the last of ours.
    fn goes_on_from_ours(&self, chain: &Chain) -> bool {
        let Some(serving) = &self.serving else { return false };
        let ours = serving.chain.last().id;
        chain.histories().iter().any(|h| h.parent == ours)
    }

    fn resume(&mut self, out: &mut Vec<Action>) {
        self.failover = Failover::None;
        out.push(Action::ResumeWrites);
    }

    /// Nothing is served until the shell says what this node is now.
    fn step_down(&mut self, now_ms: u64, node: u128, port: u16, out: &mut Vec<Action>) {
        self.suspend(now_ms, out);
        out.push(Action::StepDown { node, port });
    }
}
