//! The log on its way to the replicas.
//!
//! A replica that has been handed everything is *live*: what is appended goes into its queue at once. One that is behind
//! gets the log read for it, a window at a time, until it has caught up. In both cases the bytes are shared with the backlog,
//! and the number of those that its connection has not taken yet is limited.

use super::*;
use crate::replication::message::{FRAMES_PER_MESSAGE_MAX, MESSAGE_COST};

/// The log is read for a replica while fewer bytes are queued for it, and in pieces of about so many.
pub const READ_WINDOW_BYTES: u64 = 1 << 20;
/// The commit index alone is sent only if no more is queued: else it goes along with what follows.
const COMMIT_ALONE_BYTES_MAX: u64 = 4 << 10;

impl Primary {
    /// The log has grown by this frame; on a relay: it is applied. What this means for others is known after
    /// [`Primary::turn_end`].
    pub fn appended(&mut self, now_ms: u64, frame: &Frame, out: &mut Vec<Action>) {
        assert_eq!(frame.first, self.end + 1, "the log has no gaps");
        assert!(!self.writes_are_paused(), "the shell has confirmed that nothing is written");
        self.end = frame.last();
        self.timeline.append(now_ms, self.end, frame.bytes.len() as u64);
        let limit = self.settings.queue_bytes_max;
        #[cfg(test)]
        let limit = if self.has_fault(Fault::UnboundedQueues) { u64::MAX } else { limit };
        let mut full = Vec::new();
        for follower in &mut self.followers {
            if !follower.follows_log() || follower.reading || follower.next != frame.first {
                continue;
            }
            if follower.has_room(frame.cost(), limit) {
                follower.queue(now_ms, frame);
            } else {
                full.push(follower.peer);
            }
        }
        for peer in full {
            self.drop_peer(now_ms, peer, DropReason::QueueFull, out);
        }
        self.refresh(now_ms);
    }

    /// What [`Action::Read`] asked for: frames that begin with its index, or none if the log does not go back so far. Frames are
    /// cut everywhere as the one who wrote them did it, so an index at which a replica stands begins a frame.
    pub fn read(&mut self, now_ms: u64, peer: Peer, frames: &[Frame], out: &mut Vec<Action>) {
        let Some(follower) = self.followers.iter_mut().find(|f| f.peer == peer && f.reading) else { return };
        follower.reading = false;
        if frames.first().is_none_or(|frame| frame.first != follower.next) {
            return self.drop_peer(now_ms, peer, DropReason::Overrun, out);
        }
        for frame in frames {
            if frame.first == follower.next && frame.last() <= self.end {
                follower.queue(now_ms, frame);
            }
        }
    }

    /// The connection has taken a message of this cost.
    pub fn written(&mut self, now_ms: u64, peer: Peer, cost: u64) {
        if let Some(follower) = self.follower(peer) {
            follower.queued_bytes = follower.queued_bytes.saturating_sub(cost);
            follower.progress_ms = now_ms;
        }
    }

    /// Everything of this turn of the shell is said: send what it has brought, in one message for each replica.
    pub fn turn_end(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        self.refresh(now_ms);
        self.failover_step(now_ms, out);
        let (commit, end) = (self.commit, self.end);
        for follower in self.followers.iter_mut().filter(|f| f.follows_log()) {
            while !follower.queue.is_empty() {
                let count = follower.queue.len().min(FRAMES_PER_MESSAGE_MAX);
                let frames = follower.queue.drain(..count).collect();
                follower.hand_over(now_ms, MESSAGE_COST);
                follower.commit_told = commit;
                out.push(Action::Send { to: follower.peer, message: ToReplica::Frames { commit, frames } });
            }
            if follower.commit_told < commit && follower.queued_bytes <= COMMIT_ALONE_BYTES_MAX {
                follower.hand_over(now_ms, MESSAGE_COST);
                follower.commit_told = commit;
                let message = ToReplica::Frames { commit, frames: Vec::new() };
                out.push(Action::Send { to: follower.peer, message });
            }
            let window = READ_WINDOW_BYTES.min(self.settings.queue_bytes_max);
            if follower.next <= end && !follower.reading && follower.queued_bytes < window {
                follower.reading = true;
                let bytes_max = window - follower.queued_bytes;
                out.push(Action::Read { peer: follower.peer, from: follower.next, bytes_max });
            }
        }
    }

    pub(super) fn send_heartbeats(&mut self, now_ms: u64, wall_ms: u64, out: &mut Vec<Action>) {
        let (end, commit, interval) = (self.end, self.commit, self.settings.heartbeat_ms);
        for follower in &mut self.followers {
            if now_ms.saturating_sub(follower.heartbeat_sent_ms) < interval {
                continue;
            }
            follower.heartbeat_sent_ms = now_ms;
            follower.hand_over_control(now_ms);
            let heartbeat = Control::Heartbeat { wall_ms, end, commit, in_sync: follower.in_sync() };
            out.push(Action::Send { to: follower.peer, message: heartbeat.into() });
        }
    }
}
