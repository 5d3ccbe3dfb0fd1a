//! What primaries and replicas say to each other.
//!
//! The framing is that of [`super::wire`]. What makes sense by itself: chains of histories that are chains, indices in
//! order, names that are not 0.
//!
//! Pure. Owned by the control core.

use std::rc::Rc;

use super::history::{Chain, History, HistoryId};
pub use super::wire::{CARRIED_LEN_MAX, CONTROL_LEN_MAX, DecodeError, Decoder, Wire};
use super::wire::{archive, header, seal, sense};

/// The version of the protocol.
pub const PROTOCOL_VERSION: u16 = 1;
/// Frames in one message.
pub const FRAMES_PER_MESSAGE_MAX: usize = 1024;
/// Bytes that a message counts in a queue beyond what it carries.
pub const MESSAGE_COST: u64 = 64;

const KIND_TO_PRIMARY: u8 = 1;
const KIND_CONTROL: u8 = 2;
const KIND_FRAMES: u8 = 3;
const KIND_STREAM: u8 = 4;

const FRAME_HEADER_LEN: usize = 32;

/// A piece of the log: records that follow each other and belong to one history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub history: HistoryId,
    /// The index of its first record.
    pub first: u64,
    /// Its records, at least one.
    pub count: u32,
    /// As they lie in the log, its own header included.
    pub bytes: Rc<[u8]>,
}

impl Frame {
    /// The index of its last record.
    pub fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }

    /// What it counts in a queue.
    pub fn cost(&self) -> u64 {
        self.bytes.len() as u64 + MESSAGE_COST
    }
}

/// What a node wants that says hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Wants {
    /// The log from where it is, or a copy if that cannot be had.
    Log,
    /// A copy of everything: what it has is incomplete, or cannot be undone.
    Copy,
    /// Only to know who leads here, and by which histories.
    Standing,
}

/// The first message on a connection, and the answer to [`Control::Diverged`].
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Hello {
    pub version: u16,
    /// The node's id, not 0.
    pub node: u128,
    /// The port at which it serves clients and replicas.
    pub port: u16,
    /// Rises with every connection that this node makes, across restarts too. A hello can lie unread in a connection that was
    /// given up long ago, and must not be taken for news.
    pub attempt: u64,
    pub wants: Wants,
    /// The chain of its log.
    pub chain: Vec<History>,
    /// The last index that it has received.
    pub received: u64,
}

/// From a replica to its primary.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum ToPrimary {
    Hello(Hello),
    /// The last indices that are in its log, in its data, and on its disk.
    Ack {
        received: u64,
        applied: u64,
        durable: u64,
    },
    Heartbeat {
        /// The replica's wall clock.
        wall_ms: u64,
    },
    /// The answer to [`Control::Handover`]: it leads now, by this history.
    TakeOver {
        history: HistoryId,
        cut: u64,
    },
    /// The answer to [`Control::Handover`]: it does not, and will not on account of that message.
    Declined,
}

/// Why a hello was refused. The replica tries again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Refusal {
    Version,
    /// It is this node itself.
    Loop,
    /// There are as many replicas as may be.
    TooMany,
    /// This node has no complete data, or has not caught up to where the replica is.
    NotReady,
}

/// From a primary to a replica, but for what it carries of the log.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Control {
    /// Answer to [`Wants::Standing`].
    Standing {
        node: u128,
        leading: bool,
        chain: Vec<History>,
    },
    /// The log comes from `from` on, by these histories.
    Continue {
        from: u64,
        chain: Vec<History>,
    },
    /// The logs agree up to `cut` only: set aside what comes after it, and say hello again.
    Diverged {
        cut: u64,
    },
    /// A copy begins, number `run`: forget everything. What follows is [`ToReplica::Stream`].
    FullSync {
        run: u64,
        start: u64,
        chain: Vec<History>,
    },
    /// The copy is complete, and the state as of index `end`.
    FullSyncEnd {
        run: u64,
        end: u64,
    },
    Heartbeat {
        /// The wall clock of the node that leads; replicas judge expiry by it.
        wall_ms: u64,
        end: u64,
        commit: u64,
        /// Whether the primary counts this replica as in sync. What an operator wants to know when the primary is gone.
        in_sync: bool,
    },
    Refused {
        reason: Refusal,
    },
    /// Take over, if you have everything up to `end`.
    Handover {
        end: u64,
    },
}

/// From a primary to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToReplica {
    Control(Control),
    /// The log goes on (or only its commit index, if there are no frames).
    Frames {
        commit: u64,
        frames: Vec<Frame>,
    },
    /// A piece of a copy: frames of the log and cover frames, opaque here.
    Stream {
        run: u64,
        bytes: Rc<[u8]>,
    },
}

impl From<Control> for ToReplica {
    fn from(control: Control) -> ToReplica {
        ToReplica::Control(control)
    }
}

impl ToReplica {
    /// What it counts in the queue of its replica, in bytes.
    pub fn cost(&self) -> u64 {
        match self {
            ToReplica::Control(_) => MESSAGE_COST,
            ToReplica::Frames { frames, .. } => MESSAGE_COST + frames.iter().map(Frame::cost).sum::<u64>(),
            ToReplica::Stream { bytes, .. } => MESSAGE_COST + bytes.len() as u64,
        }
    }
}

impl Wire for ToPrimary {
    fn encode(&self, out: &mut Vec<u8>) {
        let start = header(out, KIND_TO_PRIMARY);
        archive!(self, out);
        seal(out, start);
    }

    fn len_max(kind: u8) -> Option<usize> {
        (kind == KIND_TO_PRIMARY).then_some(CONTROL_LEN_MAX)
    }

    fn decode(_kind: u8, payload: &[u8]) -> Result<ToPrimary, DecodeError> {
        rkyv::from_bytes::<ToPrimary, rkyv::rancor::Failure>(payload).map_err(|_| DecodeError::Form)
    }

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            ToPrimary::Hello(hello) => {
                let chain = Chain::checked(hello.chain.clone())?;
                sense(hello.node != 0, "node 0")?;
                sense(hello.received < u64::MAX, "an index overflows")?;
                sense(chain.last().cut <= hello.received, "a chain goes beyond the end of its log")
            }
            ToPrimary::Ack { received, applied, durable } => {
                sense(applied <= received && durable <= received, "more than was received")
            }
            ToPrimary::TakeOver { history, .. } => sense(*history != 0, "history 0"),
            ToPrimary::Heartbeat { .. } | ToPrimary::Declined => Ok(()),
        }
    }
}

impl Wire for ToReplica {
    fn encode(&self, out: &mut Vec<u8>) {
        let start;
        match self {
            ToReplica::Control(control) => {
                start = header(out, KIND_CONTROL);
                archive!(control, out);
            }
            ToReplica::Frames { commit, frames } => {
                assert!(frames.len() <= FRAMES_PER_MESSAGE_MAX);
                start = header(out, KIND_FRAMES);
                out.extend_from_slice(&commit.to_le_bytes());
                for frame in frames {
                    out.extend_from_slice(&frame.history.to_le_bytes());
                    out.extend_from_slice(&frame.first.to_le_bytes());
                    out.extend_from_slice(&frame.count.to_le_bytes());
                    out.extend_from_slice(&(frame.bytes.len() as u32).to_le_bytes());
                    out.extend_from_slice(&frame.bytes);
                }
            }
            ToReplica::Stream { run, bytes } => {
                start = header(out, KIND_STREAM);
                out.extend_from_slice(&run.to_le_bytes());
                out.extend_from_slice(bytes);
            }
        }
        seal(out, start);
    }

    fn len_max(kind: u8) -> Option<usize> {
        match kind {
            KIND_CONTROL => Some(CONTROL_LEN_MAX),
            KIND_FRAMES | KIND_STREAM => Some(CARRIED_LEN_MAX),
            _ => None,
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<ToReplica, DecodeError> {
        match kind {
            KIND_CONTROL => rkyv::from_bytes::<Control, rkyv::rancor::Failure>(payload)
                .map(ToReplica::Control)
                .map_err(|_| DecodeError::Form),
            KIND_FRAMES => decode_frames(payload),
            _ => {
                let (run, bytes) = payload.split_first_chunk::<8>().ok_or(DecodeError::Form)?;
                Ok(ToReplica::Stream { run: u64::from_le_bytes(*run), bytes: Rc::from(bytes) })
            }
        }
    }

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            ToReplica::Control(control) => check_control(control),
            ToReplica::Frames { frames, .. } => check_frames(frames),
            ToReplica::Stream { run, bytes } => sense(*run != 0 && !bytes.is_empty(), "an empty piece of a copy"),
        }
    }
}

fn check_control(control: &Control) -> Result<(), DecodeError> {
    match control {
        Control::Standing { node, chain, .. } => {
            Chain::checked(chain.clone())?;
            sense(*node != 0, "node 0")
        }
        Control::Continue { from, chain } => {
            Chain::checked(chain.clone())?;
            sense(*from != 0, "index 0 is before the first record")
        }
        Control::FullSync { run, chain, .. } => {
            Chain::checked(chain.clone())?;
            sense(*run != 0, "run 0")
        }
        Control::FullSyncEnd { run, end } => {
            sense(*run != 0, "run 0")?;
            sense(*end < u64::MAX, "an index overflows")
        }
        Control::Heartbeat { end, commit, .. } => sense(commit <= end, "more is committed than there is"),
        Control::Diverged { .. } | Control::Refused { .. } | Control::Handover { .. } => Ok(()),
    }
}

/// Frames follow each other without gaps; no index overflows.
fn check_frames(frames: &[Frame]) -> Result<(), DecodeError> {
    let mut next = None;
    for frame in frames {
        sense(frame.history != 0, "history 0")?;
        sense(frame.count != 0 && frame.first != 0, "a frame without records")?;
        sense(next.is_none_or(|next| next == frame.first), "a gap between frames")?;
        let after = frame.first.checked_add(u64::from(frame.count));
        sense(after.is_some(), "an index overflows")?;
        next = after;
    }
    Ok(())
}

fn decode_frames(payload: &[u8]) -> Result<ToReplica, DecodeError> {
    let (commit, mut rest) = payload.split_first_chunk::<8>().ok_or(DecodeError::Form)?;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        if frames.len() == FRAMES_PER_MESSAGE_MAX {
            return Err(DecodeError::Form);
        }
        let (head, after) = rest.split_first_chunk::<FRAME_HEADER_LEN>().ok_or(DecodeError::Form)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (bytes, after) = after.split_at_checked(word(28) as usize).ok_or(DecodeError::Form)?;
        frames.push(Frame {
            history: u128::from(long(0)) | u128::from(long(8)) << 64,
            first: long(16),
            count: word(24),
            bytes: Rc::from(bytes),
        });
        rest = after;
    }
    Ok(ToReplica::Frames { commit: u64::from_le_bytes(*commit), frames })
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
