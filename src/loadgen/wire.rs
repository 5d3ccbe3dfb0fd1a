//! One connection without its socket: bytes that wait to be written, requests in flight, and what of them was answered.
//!
//! Pure: bytes go in and out. Replies come in the order of the requests, so what is known of a request waits in a queue
//! for its reply.

use std::collections::VecDeque;

use super::reply::{Outcome, ReplyError, ReplyReader};

/// A batch is cut when this many bytes wait to be written; the rest follows when they are.
const OUT_BYTES_MAX: usize = 4 << 20;
/// An empty output buffer larger than this is given back.
const OUT_BYTES_KEEP: usize = 8 << 20;

/// The server's bytes cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Reply(#[from] ReplyError),
    #[error("the server sent a reply to no request")]
    Unexpected,
}

/// A request with its reply.
#[derive(Clone, Copy, Debug)]
pub struct Answered<T> {
    pub request: T,
    pub outcome: Outcome,
    /// Bytes of the reply.
    pub bytes: u64,
}

/// One connection; `T` is what is known of a request.
#[derive(Debug)]
pub struct Wire<T> {
    reader: ReplyReader,
    /// In flight, in the order of sending.
    pending: VecDeque<T>,
    out: Vec<u8>,
    /// Bytes of `out` already written. Invariant: at most `out.len()`.
    out_at: usize,
    /// Bytes of the reply now being read.
    reply_bytes: u64,
}

impl<T> Default for Wire<T> {
    fn default() -> Self {
        Wire { reader: ReplyReader::default(), pending: VecDeque::new(), out: Vec::new(), out_at: 0, reply_bytes: 0 }
    }
}

impl<T> Wire<T> {
    /// Bytes that wait to be written.
    #[inline]
    pub fn output(&self) -> &[u8] {
        &self.out[self.out_at..]
    }

    /// `n` bytes of [`Wire::output`] have been written.
    #[inline]
    pub fn written(&mut self, n: usize) {
        self.out_at += n;
        if self.out_at == self.out.len() {
            self.out_at = 0;
            self.out.clear();
            if self.out.capacity() > OUT_BYTES_KEEP {
                self.out = Vec::new();
            }
        }
    }

    /// Nothing waits to be written.
    #[inline]
    pub fn is_written(&self) -> bool {
        self.out.is_empty()
    }

    /// The batch that waits to be written may still grow.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES_MAX
    }

    /// Sends the request that `write` appends.
    #[inline]
    pub fn send(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) {
        let request = write(&mut self.out);
        self.pending.push_back(request);
    }

    /// Reads on at `bytes[*at..]`; the next request that has been answered, None when all input is used up.
    #[inline]
    pub fn next(&mut self, bytes: &[u8], at: &mut usize) -> Result<Option<Answered<T>>, ClientError> {
        let before = *at;
        let reply = self.reader.next(bytes, at)?;
        self.reply_bytes += (*at - before) as u64;
        let Some(outcome) = reply else { return Ok(None) };
        let request = self.pending.pop_front().ok_or(ClientError::Unexpected)?;
        Ok(Some(Answered { request, outcome, bytes: std::mem::take(&mut self.reply_bytes) }))
    }

    /// The text of the last error reply.
    pub fn error_text(&self) -> &[u8] {
        self.reader.error_text()
    }

    #[inline]
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// What is in flight.
    pub fn pending(&self) -> impl Iterator<Item = &T> {
        self.pending.iter()
    }

    /// The connection has ended: what is in flight will not be answered, and the next one begins anew.
    pub fn reset(&mut self) -> VecDeque<T> {
        std::mem::take(self).pending
    }
}
