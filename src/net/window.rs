//! The window: the requests that are parsed and not executed yet.
//!
//! Parsing several requests before executing any of them lets their cache misses overlap: when the window starts to run,
//! first all buckets and then all entries are prefetched.
//!
//! Requests point at their arguments where these lie: in receive buffers, in the input buffers of connections, in
//! batches from other cores. That is what the lifetime `'static` stands for here; it is a promise, not a fact.
//! Invariant: whoever changes, moves or frees such memory runs or clears the window first.

use crate::command::Owned;
use crate::command::table::Row;
use crate::resp::{Error, Version};
use crate::route::{CoreId, Key};

use super::forward::{Batch, Forwarded};

/// Who gets the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Connection(u32),
    /// Index into [`Window::batches`].
    Batch(u32),
}

/// How a request is executed.
pub enum Way {
    /// On this core's shard.
    Local,
    /// On this core, like `Local`, by a PUBLISH: its message goes before its reply.
    Publish,
    /// With the connection's session.
    Session,
    /// On the shard of another core.
    Forward(CoreId),
    /// On every core.
    Split,
    /// As a transaction: with keys of several cores, or all of them, borrowed.
    Borrow,
    /// After MULTI: not before EXEC.
    Queued,
    /// Not at all.
    Reject(Box<Error>),
}

/// One parsed request: one cache line, without anything that has to be put together from parts before it is stored.
pub struct Request {
    pub row: &'static Row,
    pub owned: Owned,
    pub way: Way,
    /// Range in [`Window::args`].
    pub args: (u32, u32),
    pub target: Target,
    /// As in [`RequestKey`], if `key_at` is not 0; no key stands there.
    pub hash: u64,
    pub key_at: u16,
    pub partition: u16,
    pub db: u8,
    pub version: Version,
    pub no_touch: bool,
    /// See [`super::forward::Forwarded::counted`].
    pub counted: bool,
}

const _: () = assert!(size_of::<Request>() == 64);

/// What is known about the first key of a request.
#[derive(Clone, Copy)]
pub struct RequestKey {
    /// Which argument it is; not 0.
    pub at: u16,
    pub partition: u16,
    pub hash: u64,
}

/// The requests under way on one core.
#[derive(Default)]
pub struct Window {
    pub requests: Vec<Request>,
    pub args: Vec<&'static [u8]>,
    /// Batches of other cores that requests belong to, with their origin; None: the rest of it waits for a key that is
    /// lent, elsewhere.
    pub batches: Vec<(CoreId, Option<Box<Batch>>)>,
    /// Connections whose input buffer requests point into.
    pub pinned: Vec<u32>,
    /// Connections with a request that must run alone.
    pub barriers: Vec<u32>,
}

impl Request {
    /// The arguments.
    #[inline]
    pub fn args<'a>(&self, all: &'a [&'static [u8]]) -> &'a [&'static [u8]] {
        &all[self.args.0 as usize..self.args.1 as usize]
    }

    /// The first key.
    #[inline]
    pub fn key<'a>(&self, all: &'a [&'static [u8]]) -> Option<Key<'a>> {
        let key = self.known_key()?;
        let bytes = self.args(all)[key.at as usize];
        Some(Key { bytes, hash: key.hash, partition: key.partition })
    }

    /// The request with its arguments, or others, as a part of a batch.
    pub fn forwarded(&self, argc: usize) -> Forwarded {
        Forwarded {
            row: self.row.id,
            db: self.db,
            version: self.version,
            no_touch: self.no_touch,
            counted: self.counted,
            argc: argc as u32,
            key: self.known_key(),
        }
    }

    /// What is known about the first key.
    #[inline]
    pub fn known_key(&self) -> Option<RequestKey> {
        (self.key_at != 0).then_some(RequestKey { at: self.key_at, partition: self.partition, hash: self.hash })
    }
}

/// Stretches the lifetime of an argument to that of the window.
///
/// # Safety
///
/// The bytes must stay where they are, unchanged, until the window has run or been cleared.
#[inline]
pub unsafe fn in_window(bytes: &[u8]) -> &'static [u8] {
    // SAFETY: passed on to the caller.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) }
}
