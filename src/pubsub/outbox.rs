//! Messages that are published and not yet written to the connections of their receivers.
//!
//! A message is encoded once for its channel and once for each pattern that matches, whoever receives it. The two versions
//! of the protocol differ in its first byte only (`*` in RESP2, `>` in RESP3), so one *frame* serves both. A large payload
//! is not copied at all: all frames and all connections share it.
//!
//! The network layer takes what is here after each command, before that command's reply.
//!
//! Owned by one core.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Kind;
use super::registry::{Name, Place};
use crate::resp::reply::SPLICE_BYTES_MIN;
use crate::resp::{Output, Reply, Version};

/// Bytes of frames, without large names and payloads, that may wait. Whoever matches a message beyond does not get it; a
/// single message comes there only by tens of millions of patterns that match.
pub const FRAMES_BYTES_MAX: usize = 1 << 30;
/// Bytes of an empty outbox that are kept.
const KEEP_BYTES_MAX: usize = 64 * 1024;

/// See the module. Invariant: `to` names frames that exist.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: Output,
    /// Marks of each frame in `frames`.
    ranges: Vec<(u32, u32)>,
    /// Receivers in order, each with its frame.
    to: Vec<(Place, u32)>,
}

impl Outbox {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.to.is_empty()
    }

    /// A message to whom receivers can be added.
    pub(super) fn message<'a>(
        &'a mut self,
        kind: Kind,
        channel: &'a [u8],
        payload: &'a [u8],
        shared: Option<&Arc<Vec<u8>>>,
    ) -> Message<'a> {
        Message { outbox: self, kind, channel, payload, shared: shared.cloned(), shared_channel: None, receivers: 0 }
    }

    /// Each receiver in order, and a way to write its message ([`Outbox::write`]).
    pub fn receivers(&self) -> impl Iterator<Item = (Place, u32)> {
        self.to.iter().copied()
    }

    /// Writes a frame in a version of the protocol.
    pub fn write(&self, frame: u32, version: Version, out: &mut Output) {
        let (start, end) = self.ranges[frame as usize];
        out.push(if version == Version::V3 { b">" } else { b"*" });
        out.copy_range(&self.frames, start + 1, end);
    }

    /// Empties the outbox for another use.
    pub fn clear(&mut self) {
        self.frames.clear(KEEP_BYTES_MAX);
        self.ranges.clear();
        self.to.clear();
        if self.to.capacity() * size_of::<(Place, u32)>() > KEEP_BYTES_MAX {
            self.to = Vec::new();
        }
    }
}

/// A message while its receivers are found.
pub(super) struct Message<'a> {
    outbox: &'a mut Outbox,
    kind: Kind,
    channel: &'a [u8],
    payload: &'a [u8],
    /// The payload, and the channel, in vectors of their own, if they are large and one was needed.
    shared: Option<Arc<Vec<u8>>>,
    shared_channel: Option<Arc<Vec<u8>>>,
    receivers: u64,
}

impl Message<'_> {
    /// Adds the subscribers of the channel, or those of a pattern that matches it.
    pub fn add(&mut self, pattern: Option<&Name>, places: &BTreeSet<Place>) {
        let frames = &mut self.outbox.frames;
        if frames.buf().len() > FRAMES_BYTES_MAX {
            return;
        }
        let start = frames.mark();
        let mut reply = Reply::new(frames, Version::V2);
        match (pattern, self.kind) {
            (Some(pattern), _) => {
                reply.array(4);
                reply.bulk(b"pmessage");
                reply.bulk_shared(pattern.shared());
            }
            (None, Kind::Shard) => {
                reply.array(3);
                reply.bulk(b"smessage");
            }
            (None, _) => {
                reply.array(3);
                reply.bulk(b"message");
            }
        }
        write_shared(&mut reply, self.channel, &mut self.shared_channel);
        write_shared(&mut reply, self.payload, &mut self.shared);
        let frame = self.outbox.ranges.len() as u32;
        self.outbox.ranges.push((start, self.outbox.frames.mark()));
        self.outbox.to.extend(places.iter().map(|&place| (place, frame)));
        self.receivers += places.len() as u64;
    }

    /// How many receive it; a connection that matches in several ways counts each of them.
    pub fn receivers(&self) -> u64 {
        self.receivers
    }
}

/// Writes `bytes`, from a vector that is shared by all frames if they are many.
fn write_shared(reply: &mut Reply, bytes: &[u8], shared: &mut Option<Arc<Vec<u8>>>) {
    if bytes.len() < SPLICE_BYTES_MIN {
        return reply.bulk(bytes);
    }
    reply.bulk_shared(shared.get_or_insert_with(|| Arc::new(bytes.to_vec())));
}
