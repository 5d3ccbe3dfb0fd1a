//! Values on their way into a shard, in it, and out of it.

use std::sync::Arc;

use super::boxes::{Boxes, box_number};
use super::evict::Used;
use super::{Deadline, UnixMs};
use crate::collection::{Large, ValueRef};

/// Type of a value, as TYPE names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    String,
    List,
    Set,
    SortedSet,
    Hash,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::List => "list",
            Kind::Set => "set",
            Kind::SortedSet => "zset",
            Kind::Hash => "hash",
        }
    }

    /// Three bits that stand for the type inside an entry.
    pub(super) fn to_bits(self) -> u32 {
        self as u32
    }

    /// The type for bits that came from [`Kind::to_bits`].
    #[inline]
    pub(super) fn from_bits(bits: u32) -> Kind {
        const KINDS: [Kind; 5] = [Kind::String, Kind::List, Kind::Set, Kind::SortedSet, Kind::Hash];
        KINDS[bits as usize]
    }
}

/// A string on its way into the shard.
#[derive(Debug)]
pub enum NewValue<'a> {
    Bytes(&'a [u8]),
    /// Handed over; large ones are not copied.
    Owned(Vec<u8>),
    Shared(Arc<Vec<u8>>),
}

impl NewValue<'_> {
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            NewValue::Bytes(bytes) => bytes,
            NewValue::Owned(bytes) => bytes,
            NewValue::Shared(value) => value,
        }
    }

    pub(super) fn into_shared(self) -> Arc<Vec<u8>> {
        match self {
            NewValue::Bytes(bytes) => Arc::new(bytes.to_vec()),
            NewValue::Owned(bytes) => Arc::new(bytes),
            NewValue::Shared(value) => value,
        }
    }
}

/// A string as it lies in the shard.
#[derive(Clone, Copy, Debug)]
pub enum Str<'a> {
    Inline(&'a [u8]),
    /// Values over the inline limit; can be sent without a copy.
    Large(&'a Arc<Vec<u8>>),
}

impl<'a> Str<'a> {
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Str::Inline(bytes) => bytes,
            Str::Large(value) => value,
        }
    }
}

/// A live entry, for reading.
#[derive(Clone, Copy, Debug)]
pub struct EntryRef<'a> {
    pub kind: Kind,
    /// The bytes of a string or of a compact collection; means nothing for a large one.
    pub value: Str<'a>,
    /// Where the value is, if it is a large collection: in the box whose number lies in `value`.
    pub(super) boxes: Option<&'a Boxes>,
    /// Unix time at which it expires, as the wall clock stands now.
    pub expire_at: Option<UnixMs>,
    /// Changed in place (APPEND, SETRANGE): OBJECT ENCODING says `raw`.
    pub raw: bool,
    /// Seconds since the last access; 0 under an LFU policy.
    pub idle_s: u32,
    /// The count of an LFU policy; means nothing under others.
    pub frequency: u8,
}

impl<'a> EntryRef<'a> {
    /// The value, if it is a collection.
    #[inline]
    pub fn collection(&self) -> ValueRef<'a> {
        match self.boxes {
            Some(boxes) => ValueRef::Large(boxes.get(box_number(self.value.bytes()))),
            None => ValueRef::Compact(self.value.bytes()),
        }
    }
}

/// A value outside of a shard.
#[derive(Clone, Debug)]
pub enum Stored {
    /// A string, or a compact collection.
    Bytes(Arc<Vec<u8>>),
    Large(Box<Large>),
}

impl Stored {
    /// Bytes that it takes, without what an allocator adds.
    pub fn bytes(&self) -> usize {
        match self {
            Stored::Bytes(bytes) => bytes.len(),
            Stored::Large(large) => large.bytes(),
        }
    }
}

/// What [`super::Shard::change`] did.
#[derive(Clone, Copy, Debug)]
pub struct Changed<R> {
    pub result: R,
    /// The collection is empty now, and its key is gone.
    pub removed: bool,
}

/// The value is of another type than the command works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongType;

/// An entry moved out of a shard, to be put into another place or another shard.
#[derive(Debug)]
pub struct Detached {
    pub kind: Kind,
    pub value: Stored,
    pub expire_at: Option<Deadline>,
    pub raw: bool,
    /// How it was used so far.
    pub(super) used: Used,
}

impl Detached {
    /// About how many bytes it adds to a shard besides its key.
    pub fn bytes(&self) -> usize {
        self.value.bytes()
    }
}
