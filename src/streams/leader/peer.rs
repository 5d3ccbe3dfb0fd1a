//! What a leader knows of a follower.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::{Epoch, Index, Peer, Settings};
use crate::raft::command::{Member, PartitionId};
use crate::replication::detector::{Detector, Expectation};
use crate::replication::message::MESSAGE_COST;
use crate::replication::timeline::Timeline;
use crate::streams::message::{Open, PACED_VERSION, RELEASE_VERSION, SPANS_VERSION, Spans, StreamFrame};
use crate::streams::units::Gather;
use crate::streams::{Frame, Tail};

/// A queue with no more than a few messages without content.
const EMPTY_QUEUE_BYTES_MAX: u64 = 16 * MESSAGE_COST;

/// How far a partition is on its way into the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not judged: this node does not lead it in the epoch that the follower knows, or does not know that process yet.
    Waiting,
    /// Needs a copy.
    Queued,
    /// Is being copied.
    Copying,
    /// Units of it with higher indices than `after` are in the stream.
    Following { after: Index },
}

/// A partition that a follower wants.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub epoch: Epoch,
    pub tail: Option<Tail>,
    pub phase: Phase,
    /// It has the base and what came before `after`: acknowledgements count. Invariant: only while following.
    pub counts: bool,
    /// It was told to cut off what goes beyond the base, and may not be able to: counts once this round is acknowledged.
    pub cut: bool,
    /// The run that it was copied in, if it was.
    pub run: u64,
    /// It was told that it is not led here.
    pub told: bool,
}

/// One follower.
///
/// Invariants: `durable <= applied <= received <= position`; `queued_bytes` counts what was handed over and not written yet,
/// with what lies in `queue`.
#[derive(Clone, Debug)]
pub struct Fellow {
    pub peer: Peer,
    pub member: Member,
    pub boot: u128,
    pub attempt: u64,
    /// Raft's state, as it is known here, names this process.
    pub recognized: bool,
    /// The last Open.
    pub open: u64,
    /// It says what it has taken of a copy.
    pub paces: bool,
    /// It wants to know which frames span partitions.
    pub heeds_spans: bool,
    /// It knows [`Control::Released`].
    pub heeds_releases: bool,
    /// It is about to end.
    pub leaving: bool,
    /// It is alive and hardly behind, as it was looked last ([`super::Leader::look_who_keeps_up`]).
    pub keeps_up: bool,
    pub round: u64,
    pub parts: BTreeMap<PartitionId, Part>,
    /// Some of these are to cut something off.
    pub cuts: bool,
    /// How many of these the stream carries, and how many are being copied.
    pub following: usize,
    pub copying: usize,
    pub since_ms: u64,
    /// Up to here the log was gone through for it.
    pub position: Index,
    /// The backlog is being read for it, from this index on.
    pub reading: Option<Index>,
    /// Frames of this turn.
    pub queue: Vec<StreamFrame>,
    pub queued_bytes: u64,
    /// What it was told: the end of the stream, and what is committed.
    pub upto_told: Index,
    pub commit_told: Index,
    /// When it was told that without frames.
    pub commit_alone_ms: u64,
    /// When frames went to it last, and how long after those before.
    pub frames_ms: u64,
    pub frames_gap_ms: u64,
    /// The last frame that has something for it.
    pub last: Index,
    pub received: Index,
    pub applied: Index,
    pub durable: Index,
    /// The highest index that it has acknowledged on this connection. What it lacks nothing of counts as received before it knows
    /// that; this is what it can tell others when this node is lost.
    pub come: Index,
    /// What it was sent and is not committed: the last index of frames, and their bytes.
    pub uncommitted: VecDeque<(Index, u64)>,
    pub uncommitted_bytes: u64,
    pub timeline: Timeline,
    pub ack_ms: u64,
    pub heard_ms: u64,
    pub heartbeat_sent_ms: u64,
    /// When its connection last took something, or had nothing to take.
    pub progress_ms: u64,
    pub detector: Detector,
    /// Of the frame that is gone through: whether it goes to it at once, and what does; and what belongs to its copy.
    pub live: bool,
    pub concerned: bool,
    pub gather: Gather,
    pub copy_gather: Gather,
}

impl Fellow {
    pub fn new(now_ms: u64, peer: Peer, open: &Open, end: Index, settings: &Settings) -> Fellow {
        Fellow {
            peer,
            member: Member { node: open.node, incarnation: open.incarnation },
            boot: open.boot,
            attempt: open.attempt,
            recognized: false,
            open: open.number,
            paces: open.version >= PACED_VERSION,
            heeds_spans: open.version >= SPANS_VERSION,
            heeds_releases: open.version >= RELEASE_VERSION,
            leaving: false,
            keeps_up: false,
            round: 0,
            parts: BTreeMap::new(),
            cuts: false,
            following: 0,
            copying: 0,
            since_ms: now_ms,
            position: end,
            reading: None,
            queue: Vec::new(),
            queued_bytes: 0,
            upto_told: end,
            commit_told: 0,
            commit_alone_ms: 0,
            frames_ms: 0,
            frames_gap_ms: u64::MAX,
            last: 0,
            received: end,
            applied: 0,
            durable: 0,
            come: 0,
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            timeline: Timeline::default(),
            ack_ms: now_ms,
            heard_ms: now_ms,
            heartbeat_sent_ms: now_ms,
            progress_ms: now_ms,
            detector: Detector::new(Expectation::of_interval(settings.heartbeat_ms), now_ms),
            live: false,
            concerned: false,
            gather: Gather::default(),
            copy_gather: Gather::default(),
        }
    }

    /// A frame, with what of it concerns this follower.
    pub fn frame(&self, frame: &Frame, spans: Option<Spans>, units: Rc<[u8]>) -> StreamFrame {
        let Frame { first, last, wall_ms, .. } = *frame;
        StreamFrame { first, last, wall_ms, spans: spans.filter(|_| self.heeds_spans), units }
    }

    /// Whether this much more fits into its queue. Into one that is as good as empty anything does: else no frame that is larger
    /// than the limit could ever be sent.
    pub fn has_room(&self, bytes: u64, limit: u64) -> bool {
        self.queued_bytes <= EMPTY_QUEUE_BYTES_MAX || self.queued_bytes.saturating_add(bytes) <= limit
    }

    /// Whether it can keep more that is not committed.
    pub fn can_keep(&self, limit: u64) -> bool {
        self.uncommitted_bytes < limit
    }

    /// Counts a message that is handed over. Frames were counted when they were queued.
    pub fn hand_over(&mut self, now_ms: u64, cost: u64) {
        if self.queued_bytes == 0 {
            self.progress_ms = now_ms;
        }
        self.queued_bytes += cost;
    }

    /// Puts a frame behind the others of this turn.
    pub fn queue(&mut self, now_ms: u64, frame: StreamFrame) {
        let cost = frame.cost();
        self.hand_over(now_ms, cost);
        self.uncommitted.push_back((frame.last, cost));
        self.uncommitted_bytes += cost;
        self.queue.push(frame);
    }

    /// What it has kept up to `commit` it applies, and forgets.
    pub fn committed(&mut self, commit: Index) {
        while let Some(&(last, bytes)) = self.uncommitted.front()
            && last <= commit
        {
            self.uncommitted_bytes -= bytes;
            self.uncommitted.pop_front();
        }
    }

    /// It lacks nothing of what concerns it up to `index`.
    pub fn has(&self, received: Index, index: Index) -> bool {
        received >= index.min(self.last)
    }
}
