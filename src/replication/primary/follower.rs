//! What a primary knows of one replica.

use super::{Peer, Settings};
use crate::replication::detector::{Detector, Expectation};
use crate::replication::message::{Frame, Hello, MESSAGE_COST};

/// A queue with no more than a few messages without content.
const EMPTY_QUEUE_BYTES_MAX: u64 = 16 * MESSAGE_COST;

/// How far a replica is on its way into the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Was told that its log diverges, and has to say hello again.
    Diverged,
    /// Waits for a copy to begin, since this time.
    Waiting { since_ms: u64 },
    /// Takes part in this copy.
    Copying { run: u64 },
    /// Has been sent a whole copy, which ended at this index, and has not said that it is complete.
    Finishing { end: u64 },
    /// Follows the log.
    Streaming,
}

/// Whether the commit index waits for a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Out,
    /// The commit index already waits for it, but it lacks something that is committed: it counts for nothing yet.
    Joining {
        since_ms: u64,
    },
    InSync,
}

/// One replica.
///
/// Invariants: `applied`, `durable` <= `received` < `next`, once it streams; `queued_bytes` counts what was handed over and
/// not written yet, with what lies in `queue`; in sync only while streaming.
#[derive(Clone, Debug)]
pub struct Follower {
    pub peer: Peer,
    pub node: u128,
    pub port: u16,
    /// Which of its node's connections this is.
    pub attempt: u64,
    pub phase: Phase,
    pub standing: Standing,
    /// The next index of the log that is to be handed over.
    pub next: u64,
    /// The log is being read for it, from `next` on.
    pub reading: bool,
    /// Frames of this turn.
    pub queue: Vec<Frame>,
    pub queued_bytes: u64,
    pub commit_told: u64,
    pub received: u64,
    pub applied: u64,
    pub durable: u64,
    pub ack_ms: u64,
    pub heard_ms: u64,
    pub heartbeat_sent_ms: u64,
    /// When its connection last took something, or had nothing to take.
    pub progress_ms: u64,
    pub detector: Detector,
}

impl Follower {
    pub fn new(now_ms: u64, peer: Peer, hello: &Hello, phase: Phase, settings: &Settings) -> Follower {
        Follower {
            peer,
            node: hello.node,
            port: hello.port,
            attempt: hello.attempt,
            phase,
            standing: Standing::Out,
            next: 0,
            reading: false,
            queue: Vec::new(),
            queued_bytes: 0,
            commit_told: 0,
            received: 0,
            applied: 0,
            durable: 0,
            ack_ms: now_ms,
            heard_ms: now_ms,
            heartbeat_sent_ms: now_ms,
            progress_ms: now_ms,
            detector: Detector::new(Expectation::of_interval(settings.heartbeat_ms), now_ms),
        }
    }

    /// Whether what is appended to the log concerns it.
    pub fn follows_log(&self) -> bool {
        matches!(self.phase, Phase::Streaming | Phase::Finishing { .. })
    }

    pub fn in_sync(&self) -> bool {
        self.standing == Standing::InSync
    }

    /// Whether this much more fits into its queue. Into one that is as good as empty anything does: else no frame that is larger
    /// than the limit could ever be sent.
    pub fn has_room(&self, bytes: u64, limit: u64) -> bool {
        self.queued_bytes <= EMPTY_QUEUE_BYTES_MAX || self.queued_bytes.saturating_add(bytes) <= limit
    }

    /// Counts a message that is handed over. Frames were counted when they were queued.
    pub fn hand_over(&mut self, now_ms: u64, cost: u64) {
        if self.queued_bytes == 0 {
            self.progress_ms = now_ms;
        }
        self.queued_bytes += cost;
    }

    /// Puts a frame behind the others of this turn.
    pub fn queue(&mut self, now_ms: u64, frame: &Frame) {
        debug_assert_eq!(frame.first, self.next);
        self.next = frame.last() + 1;
        self.hand_over(now_ms, frame.cost());
        self.queue.push(frame.clone());
    }

    /// What one message of control counts.
    pub fn hand_over_control(&mut self, now_ms: u64) {
        self.hand_over(now_ms, MESSAGE_COST);
    }
}
