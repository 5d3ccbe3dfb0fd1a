//! What leaders and followers of partitions say to each other, in the framing of [`crate::replication::wire`].
//!
//! ```text
//!     follower                                       leader
//!     Open { wants: [(p, tail), (q, none)] }   ─►
//!                                              ◄─    Answers { p: Follow, q: Copy }
//!                                              ◄─    Frames ...             units of p
//!     Ack { received }                         ─►
//!                                              ◄─    CopyBegin { q }, CopyPiece, CopyUnits ..., CopyEnd { q: tail }
//!     Taken { bytes }                          ─►    as many more may come
//!     Has { q: tail }                          ─►    from here on acknowledgements count for q, too
//! ```
//!
//! Both directions are in order. A follower that wants others says Open again, on the same connection: what it
//! follows or is being copied it marks to be kept, and the stream goes back only for what is new. Answers come when they are known, those to one Open in one
//! message or in several; each message of answers begins a *round*, and acknowledgements name the round whose positions they mean.
//!
//! Pure. Owned by the control core.
//!
//! Longer than other files: what is said, how it lies in bytes, and what is refused are to be read beside each other.

use std::rc::Rc;

use rkyv::{Archive, Deserialize, Serialize};

use super::{Epoch, Incarnation, Index, NodeId, PartitionId, Piece, Tail};
use crate::raft::command::{COUNT_MAX, Move, PARTITIONS_MAX};
use crate::replication::message::MESSAGE_COST;
use crate::replication::wire::{CARRIED_LEN_MAX, CONTROL_LEN_MAX, DecodeError, Wire, archive, header, seal, sense};

/// The newest version of the protocol, and the oldest that is spoken.
pub const PROTOCOL_VERSION: u16 = RELEASE_VERSION;
pub const PROTOCOL_OLDEST: u16 = 1;

/// From this version on a follower says [`ToLeader::Taken`].
pub const PACED_VERSION: u16 = 2;

/// From this version on a leader says which frames have units that span partitions ([`StreamFrame::spans`]).
pub const SPANS_VERSION: u16 = 3;

/// From this version on a leader says [`Control::Released`].
pub const RELEASE_VERSION: u16 = 4;

/// The version that two nodes speak whose bus speaks this one.
pub fn version_over(bus_version: u16) -> u16 {
    match bus_version {
        BUS_VERSION_RELEASE.. => RELEASE_VERSION,
        BUS_VERSION_SPANS => SPANS_VERSION,
        BUS_VERSION_PACED => PACED_VERSION,
        _ => PROTOCOL_OLDEST,
    }
}

/// What the bus speaks between nodes that know [`PACED_VERSION`], [`SPANS_VERSION`], and [`RELEASE_VERSION`].
const BUS_VERSION_PACED: u16 = 3;
const BUS_VERSION_SPANS: u16 = 4;
const BUS_VERSION_RELEASE: u16 = 5;

/// Frames in one message.
pub const FRAMES_PER_MESSAGE_MAX: usize = 1024;

/// Payload of a message that lists partitions.
pub const LISTS_LEN_MAX: usize = PARTITIONS_MAX * 64 + CONTROL_LEN_MAX;

const KIND_TO_LEADER: u8 = 16;
const KIND_CONTROL: u8 = 17;
const KIND_FRAMES: u8 = 18;
const KIND_COPY_PIECE: u8 = 19;
const KIND_COPY_UNITS: u8 = 20;
const KIND_SUFFIX: u8 = 21;

/// Bytes before the units of a frame in a message.
const FRAME_HEADER_LEN: usize = 28;

/// Set in the first index of a frame, where no log comes to: some of its units span partitions.
const SPANS: u64 = 1 << 63;

/// Bytes of a partition that they span.
const SPAN_LEN: usize = 10;

/// A partition that a follower wants.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub partition: PartitionId,
    /// In which it knows the leader as such.
    pub epoch: Epoch,
    /// What it has received. None: nothing that could be continued.
    pub tail: Option<Tail>,
    /// It was asked for on this connection already, and goes on as it is.
    pub keep: bool,
}

/// All that a follower wants of a leader.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Open {
    pub version: u16,
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// What its process has drawn when it registered.
    pub boot: u128,
    /// Rises with every connection of this process to this leader: an older one that is read late is not news.
    pub attempt: u64,
    /// Rises with every Open of this process to this leader.
    pub number: u64,
    /// Ascending by partition.
    pub wants: Vec<Want>,
}

/// That a follower has a complete copy with this tail now.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub tail: Tail,
}

/// From a follower to a leader.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ToLeader {
    Open(Open),
    /// The stream up to these indices is received, is applied, and is applied and on disk, with all that was there when this
    /// round began.
    Ack {
        round: u64,
        received: Index,
        applied: Index,
        durable: Index,
    },
    /// What was copied in this run is complete; 0: what a suffix was sent of.
    Has {
        run: u64,
        held: Vec<Held>,
    },
    Heartbeat {
        wall_ms: u64,
    },
    /// The node is about to end: it wants to be in no in-sync set. Until the next Open.
    Leave,
    /// So many more bytes of the pieces of this run have been executed, and as many others may come.
    Taken {
        run: u64,
        bytes: u64,
    },
}

/// What a leader says to a want.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The stream has what is missing, in frames with higher indices than `after`. What the follower had received from earlier
    /// leaders is committed when index `cut` is.
    Follow { after: Index, cut: Index },
    /// Up to `to`, the base, it has what the leader has; the rest is nothing. Then as with `Follow`. If it has applied
    /// more, it needs a copy, and says Open.
    Cut { to: Tail, cut: Index },
    /// A [`ToFollower::Suffix`] follows, then as with `Follow` from the cut on.
    Suffix { cut: Index },
    /// A copy will be sent.
    Copy,
    /// This node does not lead it in that epoch, or not yet; if it does one day, another answer follows.
    NotLeading,
}

/// An answer.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub answer: Answer,
}

/// Why a follower is refused. It tries again later.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Version,
    /// A newer process of that node is registered.
    Stale,
}

/// From a leader to a follower, but for what it carries of the log.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Control {
    Answers {
        /// The last Open that was read.
        open: u64,
        round: u64,
        /// The stream goes on behind this.
        position: Index,
        /// What is committed of what the follower gets; may be less than it was.
        commit: Index,
        answers: Vec<Answered>,
    },
    /// A copy of these begins: forget what you have of them.
    CopyBegin {
        run: u64,
        partitions: Vec<PartitionId>,
    },
    /// The copy is complete, with these tails; what comes behind index `end` is in the stream.
    CopyEnd {
        run: u64,
        end: Index,
        tails: Vec<Held>,
    },
    /// The copy has come to nothing. Another will be sent.
    CopyFailed {
        run: u64,
    },
    Heartbeat {
        /// The leader's wall clock; followers judge expiry by it.
        wall_ms: u64,
        end: Index,
        commit: Index,
    },
    Refused {
        reason: Refusal,
    },
    /// The leader has ended what it led of these in these epochs: whoever raft's state names as its successor leads on. All that it
    /// has written of them was received.
    Released {
        releases: Vec<Release>,
    },
}

/// What a leader has ended, and for whom: for the one that was named with this number.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub naming: u64,
}

/// Partitions that a frame has units over.
pub type Spans = Rc<[Move]>;

/// A frame of the leader's log, filtered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamFrame {
    pub first: Index,
    pub last: Index,
    pub wall_ms: i64,
    /// The leader's frame has units that span these partitions, ascending, in these epochs, whether they are followed here or not: all
    /// followers of the leader must have come so far before it counts as committed.
    pub spans: Option<Spans>,
    /// At least one unit.
    pub units: Rc<[u8]>,
}

impl StreamFrame {
    /// What it counts in a queue.
    pub fn cost(&self) -> u64 {
        (self.units.len() + self.spans.as_ref().map_or(0, |spans| spans.len() * SPAN_LEN)) as u64 + MESSAGE_COST
    }
}

/// From a leader to a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToFollower {
    Control(Control),
    /// The stream goes on up to index `upto`: there is nothing else between these frames.
    Frames {
        commit: Index,
        upto: Index,
        frames: Vec<StreamFrame>,
    },
    /// A piece of a copy: a frame of a run, opaque here.
    CopyPiece {
        run: u64,
        bytes: Rc<[u8]>,
    },
    /// Units of the partitions that are being copied.
    CopyUnits {
        run: u64,
        wall_ms: i64,
        units: Rc<[u8]>,
    },
    /// What the leader had received of a partition when it was promoted, and a follower not. The last piece ends with the base.
    Suffix {
        partition: PartitionId,
        epoch: Epoch,
        pieces: Vec<Piece>,
    },
}

impl From<Control> for ToFollower {
    fn from(control: Control) -> ToFollower {
        ToFollower::Control(control)
    }
}

impl ToFollower {
    /// What it counts in the queue of its follower, in bytes.
    pub fn cost(&self) -> u64 {
        let carried = match self {
            ToFollower::Control(Control::Answers { answers, .. }) => (answers.len() * 48) as u64,
            ToFollower::Control(Control::CopyEnd { tails, .. }) => (tails.len() * 40) as u64,
            ToFollower::Control(Control::Released { releases }) => (releases.len() * 24) as u64,
            ToFollower::Control(_) => 0,
            ToFollower::Frames { frames, .. } => frames.iter().map(StreamFrame::cost).sum(),
            ToFollower::CopyPiece { bytes, .. } => bytes.len() as u64,
            ToFollower::CopyUnits { units, .. } => units.len() as u64,
            ToFollower::Suffix { pieces, .. } => {
                pieces.iter().map(|piece| piece.units.len() as u64 + MESSAGE_COST).sum()
            }
        };
        MESSAGE_COST + carried
    }
}

impl Wire for ToLeader {
    fn encode(&self, out: &mut Vec<u8>) {
        let start = header(out, KIND_TO_LEADER);
        archive!(self, out);
        seal(out, start);
    }

    fn len_max(kind: u8) -> Option<usize> {
        (kind == KIND_TO_LEADER).then_some(LISTS_LEN_MAX)
    }

    fn decode(_kind: u8, payload: &[u8]) -> Result<ToLeader, DecodeError> {
        rkyv::from_bytes::<ToLeader, rkyv::rancor::Failure>(payload).map_err(|_| DecodeError::Form)
    }

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            ToLeader::Open(open) => {
                sense(open.node != 0 && open.incarnation != 0, "nobody")?;
                sense(open.attempt < u64::MAX && open.number < u64::MAX, "a count overflows")?;
                sense(open.wants.is_sorted_by(|a, b| a.partition < b.partition), "partitions out of order")?;
                for want in &open.wants {
                    check_partition(want.partition, want.epoch)?;
                    want.tail.iter().try_for_each(|tail| check_tail(tail, want.epoch))?;
                }
                Ok(())
            }
            ToLeader::Ack { received, applied, durable, .. } => {
                check_index(*received)?;
                sense(applied <= received && durable <= applied, "more than was received, or applied")
            }
            ToLeader::Has { held, .. } => check_held(held),
            ToLeader::Taken { run, bytes } => sense(*run != 0 && *bytes != 0, "nothing of a copy"),
            ToLeader::Heartbeat { .. } | ToLeader::Leave => Ok(()),
        }
    }
}

impl Wire for ToFollower {
    fn encode(&self, out: &mut Vec<u8>) {
        let start;
        match self {
            ToFollower::Control(control) => {
                start = header(out, KIND_CONTROL);
                archive!(control, out);
            }
            ToFollower::Frames { commit, upto, frames } => {
                assert!(frames.len() <= FRAMES_PER_MESSAGE_MAX);
                start = header(out, KIND_FRAMES);
                out.extend_from_slice(&commit.to_le_bytes());
                out.extend_from_slice(&upto.to_le_bytes());
                for StreamFrame { first, last, wall_ms, spans, units } in frames {
                    put_piece(out, *first, *last, *wall_ms, spans.as_deref(), units);
                }
            }
            ToFollower::CopyPiece { run, bytes } => {
                start = header(out, KIND_COPY_PIECE);
                out.extend_from_slice(&run.to_le_bytes());
                out.extend_from_slice(bytes);
            }
            ToFollower::CopyUnits { run, wall_ms, units } => {
                start = header(out, KIND_COPY_UNITS);
                out.extend_from_slice(&run.to_le_bytes());
                out.extend_from_slice(&wall_ms.to_le_bytes());
                out.extend_from_slice(units);
            }
            ToFollower::Suffix { partition, epoch, pieces } => {
                start = header(out, KIND_SUFFIX);
                out.extend_from_slice(&partition.to_le_bytes());
                out.extend_from_slice(&epoch.to_le_bytes());
                // Whoever leads has decided what it keeps.
                for Piece { tail, wall_ms, units, .. } in pieces {
                    put_piece(out, tail.epoch, tail.index, *wall_ms, None, units);
                }
            }
        }
        seal(out, start);
    }

    fn len_max(kind: u8) -> Option<usize> {
        match kind {
            KIND_CONTROL => Some(LISTS_LEN_MAX),
            KIND_FRAMES | KIND_COPY_PIECE | KIND_COPY_UNITS | KIND_SUFFIX => Some(CARRIED_LEN_MAX),
            _ => None,
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<ToFollower, DecodeError> {
        match kind {
            KIND_CONTROL => rkyv::from_bytes::<Control, rkyv::rancor::Failure>(payload)
                .map(ToFollower::Control)
                .map_err(|_| DecodeError::Form),
            KIND_FRAMES => decode_frames(payload),
            KIND_COPY_PIECE => {
                let (run, bytes) = take_long(payload)?;
                Ok(ToFollower::CopyPiece { run, bytes: Rc::from(bytes) })
            }
            KIND_COPY_UNITS => {
                let (run, rest) = take_long(payload)?;
                let (wall_ms, units) = take_long(rest)?;
                Ok(ToFollower::CopyUnits { run, wall_ms: wall_ms as i64, units: Rc::from(units) })
            }
            _ => decode_suffix(payload),
        }
    }

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            ToFollower::Control(control) => check_control(control),
            ToFollower::Frames { commit, upto, frames } => {
                check_index(*commit)?;
                check_index(*upto)?;
                sense(frames.is_sorted_by(|a, b| a.last < b.first), "frames out of order")?;
                sense(frames.last().is_none_or(|frame| frame.last <= *upto), "a frame beyond the stream")?;
                let sound = |f: &StreamFrame| f.first != 0 && f.first <= f.last && !f.units.is_empty();
                sense(frames.iter().all(sound), "a frame without units")?;
                for Move { partition, epoch } in frames.iter().filter_map(|f| f.spans.as_deref()).flatten() {
                    check_partition(*partition, *epoch)?;
                }
                let mut spans = frames.iter().filter_map(|frame| frame.spans.as_deref());
                sense(spans.all(|s| s.is_sorted_by(|a, b| a.partition < b.partition)), "partitions out of order")
            }
            ToFollower::CopyPiece { run, bytes } => sense(*run != 0 && !bytes.is_empty(), "an empty piece of a copy"),
            ToFollower::CopyUnits { run, units, .. } => sense(*run != 0 && !units.is_empty(), "no units of a copy"),
            ToFollower::Suffix { partition, epoch, pieces } => {
                check_partition(*partition, *epoch)?;
                sense(!pieces.is_empty() && pieces.iter().all(|piece| !piece.units.is_empty()), "an empty suffix")?;
                sense(pieces.is_sorted_by(|a, b| a.tail < b.tail), "a suffix out of order")?;
                pieces.iter().try_for_each(|piece| check_tail(&piece.tail, *epoch))
            }
        }
    }
}

fn check_partition(partition: PartitionId, epoch: Epoch) -> Result<(), DecodeError> {
    sense((partition as usize) < PARTITIONS_MAX, "a partition that cannot be")?;
    sense(epoch != 0 && epoch <= COUNT_MAX, "an epoch that cannot be")
}

/// A tail that is known in an epoch.
fn check_tail(tail: &Tail, epoch: Epoch) -> Result<(), DecodeError> {
    sense(tail.epoch <= epoch, "a tail of a later epoch")?;
    check_index(tail.index)
}

fn check_index(index: Index) -> Result<(), DecodeError> {
    sense(index < u64::MAX, "an index overflows")
}

fn check_held(held: &[Held]) -> Result<(), DecodeError> {
    sense(held.is_sorted_by(|a, b| a.partition < b.partition), "partitions out of order")?;
    for held in held {
        check_partition(held.partition, held.epoch)?;
        check_tail(&held.tail, held.epoch)?;
    }
    Ok(())
}

fn check_control(control: &Control) -> Result<(), DecodeError> {
    match control {
        Control::Answers { open, round, position, commit, answers } => {
            sense(*open != 0 && *round != 0, "an answer to nothing")?;
            check_index(*position)?;
            check_index(*commit)?;
            sense(answers.is_sorted_by(|a, b| a.partition < b.partition), "partitions out of order")?;
            for Answered { partition, epoch, answer } in answers {
                check_partition(*partition, *epoch)?;
                match answer {
                    Answer::Follow { after, cut } => {
                        sense(after >= cut && *after < u64::MAX, "a start before the cut")?
                    }
                    Answer::Cut { to, cut } => {
                        sense(to.epoch < *epoch, "a base of the same epoch")?;
                        check_tail(to, *epoch)?;
                        check_index(*cut)?;
                    }
                    Answer::Suffix { cut } => check_index(*cut)?,
                    Answer::Copy | Answer::NotLeading => {}
                }
            }
            Ok(())
        }
        Control::CopyBegin { run, partitions } => {
            sense(*run != 0 && !partitions.is_empty(), "a copy of nothing")?;
            sense(partitions.is_sorted_by(|a, b| a < b), "partitions out of order")?;
            partitions.iter().try_for_each(|partition| check_partition(*partition, 1))
        }
        Control::CopyEnd { run, end, tails } => {
            sense(*run != 0 && !tails.is_empty(), "a copy of nothing")?;
            check_index(*end)?;
            check_held(tails)
        }
        Control::CopyFailed { run } => sense(*run != 0, "run 0"),
        Control::Heartbeat { end, commit, .. } => {
            sense(commit <= end, "more is committed than there is")?;
            check_index(*end)
        }
        Control::Refused { .. } => Ok(()),
        Control::Released { releases } => {
            sense(!releases.is_empty(), "nothing is released")?;
            sense(releases.is_sorted_by(|a, b| a.partition < b.partition), "partitions out of order")?;
            sense(releases.iter().all(|of| (1..=COUNT_MAX).contains(&of.naming)), "a naming that there cannot be")?;
            releases.iter().try_for_each(|of| check_partition(of.partition, of.epoch))
        }
    }
}

/// Two numbers, a time and units, and before them the partitions that some of these span.
fn put_piece(out: &mut Vec<u8>, one: u64, two: u64, wall_ms: i64, spans: Option<&[Move]>, units: &[u8]) {
    let mark = if spans.is_some() { SPANS } else { 0 };
    out.extend_from_slice(&(one | mark).to_le_bytes());
    out.extend_from_slice(&two.to_le_bytes());
    out.extend_from_slice(&wall_ms.to_le_bytes());
    out.extend_from_slice(&(units.len() as u32).to_le_bytes());
    if let Some(spans) = spans {
        out.extend_from_slice(&(spans.len() as u32).to_le_bytes());
        for Move { partition, epoch } in spans {
            out.extend_from_slice(&partition.to_le_bytes());
            out.extend_from_slice(&epoch.to_le_bytes());
        }
    }
    out.extend_from_slice(units);
}

struct RawPiece<'a> {
    one: u64,
    two: u64,
    wall_ms: i64,
    spans: Option<Spans>,
    units: &'a [u8],
}

fn take_piece<'a>(rest: &mut &'a [u8]) -> Result<RawPiece<'a>, DecodeError> {
    let (head, after) = rest.split_first_chunk::<FRAME_HEADER_LEN>().ok_or(DecodeError::Form)?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let (one, two, wall_ms) = (long(0), long(8), long(16) as i64);
    let (spans, after) = if one & SPANS == 0 { (None, after) } else { take_spans(after)? };
    let (units, after) = after.split_at_checked(word(24) as usize).ok_or(DecodeError::Form)?;
    *rest = after;
    Ok(RawPiece { one: one & !SPANS, two, wall_ms, spans, units })
}

fn take_spans(bytes: &[u8]) -> Result<(Option<Spans>, &[u8]), DecodeError> {
    let (count, rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError::Form)?;
    let count = u32::from_le_bytes(*count) as usize;
    sense(count <= PARTITIONS_MAX, "more partitions than there can be")?;
    let (bytes, rest) = rest.split_at_checked(count * SPAN_LEN).ok_or(DecodeError::Form)?;
    let spans = bytes
        .as_chunks::<SPAN_LEN>()
        .0
        .iter()
        .map(|[a, b, epoch @ ..]| Move { partition: u16::from_le_bytes([*a, *b]), epoch: u64::from_le_bytes(*epoch) });
    Ok((Some(spans.collect()), rest))
}

fn take_long(bytes: &[u8]) -> Result<(u64, &[u8]), DecodeError> {
    let (long, rest) = bytes.split_first_chunk::<8>().ok_or(DecodeError::Form)?;
    Ok((u64::from_le_bytes(*long), rest))
}

fn decode_frames(payload: &[u8]) -> Result<ToFollower, DecodeError> {
    let (commit, rest) = take_long(payload)?;
    let (upto, mut rest) = take_long(rest)?;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        if frames.len() == FRAMES_PER_MESSAGE_MAX {
            return Err(DecodeError::Form);
        }
        let RawPiece { one: first, two: last, wall_ms, spans, units } = take_piece(&mut rest)?;
        frames.push(StreamFrame { first, last, wall_ms, spans, units: Rc::from(units) });
    }
    Ok(ToFollower::Frames { commit, upto, frames })
}

fn decode_suffix(payload: &[u8]) -> Result<ToFollower, DecodeError> {
    let (partition, rest) = payload.split_first_chunk::<2>().ok_or(DecodeError::Form)?;
    let (epoch, mut rest) = take_long(rest)?;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let RawPiece { one: epoch, two: index, wall_ms, spans, units } = take_piece(&mut rest)?;
        sense(spans.is_none(), "a suffix of which it is not decided whether it is kept")?;
        pieces.push(Piece { tail: Tail { epoch, index }, wall_ms, spans, units: Rc::from(units) });
    }
    Ok(ToFollower::Suffix { partition: u16::from_le_bytes(*partition), epoch, pieces })
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
