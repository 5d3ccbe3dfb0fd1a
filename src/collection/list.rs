//! Lists.
//!
//! A compact list is a [`pack`]. A large one is a row of *chunks*, each of them a pack without a count and with room before
//! its first item, so that both ends of the list grow and shrink without moving what is there (the idea of Redis' quicklist).
//! How large a chunk gets, `list-max-listpack-size` says; an item that is larger has a chunk of its own.
//!
//! Reaching item `n` is a walk over the chunks from the nearer end, and then over the items of one chunk.
//!
//! Owned by the core whose shard holds it.

use std::collections::VecDeque;

use super::pack::{self, Pack};
use super::{Large, Thresholds, Value, ValueRef};
use crate::shard::allocated;

mod chunk;

use chunk::Chunk;

/// Longest compact list, bytes: it is copied at every change.
const COMPACT_BYTES_MAX: usize = 2048;

/// Bytes of a chunk, if its items are counted.
const COUNTED_BYTES_MAX: usize = 8192;

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Head,
    Tail,
}

/// How much fits into one chunk.
#[derive(Clone, Copy)]
struct ChunkLimit {
    bytes: usize,
    items: usize,
}

impl ChunkLimit {
    fn of(thresholds: &Thresholds) -> ChunkLimit {
        match thresholds.list_max_listpack_size {
            size @ ..0 => ChunkLimit { bytes: 2048 << size.unsigned_abs().min(5), items: pack::ITEMS_MAX },
            items => ChunkLimit { bytes: COUNTED_BYTES_MAX, items: (items as usize).clamp(1, pack::ITEMS_MAX) },
        }
    }

    fn allows(self, bytes: usize, items: usize) -> bool {
        bytes <= self.bytes && items <= self.items
    }
}

/// The large form. Invariant: no chunk is empty; `len` is the sum of their items, `bytes` that of what is charged for them.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    chunks: VecDeque<Chunk>,
    len: usize,
    bytes: usize,
}

impl Chunks {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn encoding(&self) -> &'static str {
        if self.chunks.len() == 1 { "listpack" } else { "quicklist" }
    }

    /// See [`Large::bytes`].
    pub fn bytes(&self) -> usize {
        self.bytes + allocated(self.chunks.capacity() * size_of::<Chunk>())
    }

    /// See [`Large::free_some`].
    pub fn free_some(&mut self, pieces: usize) -> bool {
        self.chunks.truncate(self.chunks.len().saturating_sub(pieces));
        !self.chunks.is_empty()
    }

    /// Lets `change` work on a chunk and keeps the sums right.
    fn change<R>(&mut self, at: usize, change: impl FnOnce(&mut Chunk) -> R) -> R {
        let chunk = &mut self.chunks[at];
        let (len, bytes) = (chunk.len(), chunk.charge());
        let result = change(chunk);
        self.len = self.len - len + chunk.len();
        self.bytes = self.bytes - bytes + chunk.charge();
        result
    }

    fn add(&mut self, at: usize, chunk: Chunk) {
        self.len += chunk.len();
        self.bytes += chunk.charge();
        self.chunks.insert(at, chunk);
    }

    fn drop_chunk(&mut self, at: usize) {
        let Some(chunk) = self.chunks.remove(at) else { return };
        self.len -= chunk.len();
        self.bytes -= chunk.charge();
    }

    fn push(&mut self, end: End, item: &[u8], limit: ChunkLimit) {
        let at = match end {
            End::Head => 0,
            End::Tail => self.chunks.len().saturating_sub(1),
        };
        let fits = |chunk: &Chunk| limit.allows(chunk.used() + pack::item_bytes(item.len()), chunk.len() + 1);
        if self.chunks.get(at).is_some_and(fits) {
            return self.change(at, |chunk| chunk.push(end, item, limit.bytes));
        }
        if !self.chunks.is_empty() {
            self.change(at, Chunk::shrink);
        }
        let at = if end == End::Head { 0 } else { self.chunks.len() };
        self.add(at, Chunk::of(&[item]));
    }

    /// The chunk that holds item `index`, and the place of the item in it. There must be so many.
    fn locate(&self, index: usize) -> (usize, usize) {
        debug_assert!(index < self.len);
        if index < self.len / 2 {
            let mut before = 0;
            for (at, chunk) in self.chunks.iter().enumerate() {
                if index < before + chunk.len() {
                    return (at, index - before);
                }
                before += chunk.len();
            }
        } else {
            let mut behind = self.len;
            for (at, chunk) in self.chunks.iter().enumerate().rev() {
                behind -= chunk.len();
                if index >= behind {
                    return (at, index - behind);
                }
            }
        }
        unreachable!("the chunks hold `len` items")
    }

    /// Removes `count` items from one end; there must be so many.
    fn drop_items(&mut self, end: End, mut count: usize) {
        while count > 0 {
            let at = if end == End::Head { 0 } else { self.chunks.len() - 1 };
            let here = self.chunks[at].len();
            if count >= here {
                self.drop_chunk(at);
                count -= here;
            } else {
                self.change(at, |chunk| chunk.drop_items(end, count));
                count = 0;
            }
        }
    }

    /// Puts `item` before item `place` of chunk `at`, or behind its last one; splits the chunk if it is full.
    fn insert(&mut self, at: usize, place: usize, item: &[u8], limit: ChunkLimit) {
        let chunk = &self.chunks[at];
        if !limit.allows(chunk.used() + pack::item_bytes(item.len()), chunk.len() + 1) {
            let tail = self.change(at, |chunk| chunk.split_off(place));
            let mut next = at + 1;
            if !tail.is_empty() {
                self.add(next, tail);
            }
            if self.chunks[at].is_empty() {
                self.drop_chunk(at);
                next -= 1;
            }
            return self.add(next, Chunk::of(&[item]));
        }
        self.change(at, |chunk| chunk.insert(place, item));
    }

    #[cfg(test)]
    fn validate(&self) {
        assert_eq!(self.len, self.chunks.iter().map(Chunk::len).sum::<usize>());
        assert_eq!(self.bytes, self.chunks.iter().map(Chunk::charge).sum::<usize>());
        for chunk in &self.chunks {
            assert!(!chunk.is_empty());
            chunk.items().validate_items();
        }
    }
}

/// A list, for reading.
#[derive(Clone, Copy, Debug)]
pub enum List<'a> {
    Pack(Pack<'a>),
    Chunks(&'a Chunks),
}

impl<'a> List<'a> {
    #[inline]
    pub fn new(value: ValueRef<'a>) -> Self {
        match value {
            ValueRef::Compact(bytes) => List::Pack(Pack::new(bytes)),
            ValueRef::Large(Large::List(chunks)) => List::Chunks(chunks),
            #[allow(unreachable_patterns, reason = "other types have other large forms")]
            ValueRef::Large(_) => unreachable!("the type was looked at"),
        }
    }

    #[inline]
    pub fn len(&self) -> usize {
        match self {
            List::Pack(pack) => pack.len(),
            List::Chunks(chunks) => chunks.len,
        }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        match self {
            _ if index >= self.len() => None,
            List::Pack(pack) => pack.get(index),
            List::Chunks(chunks) => {
                let (at, place) = chunks.locate(index);
                chunks.chunks[at].items().get(place)
            }
        }
    }

    /// The item at one end.
    pub fn peek(&self, end: End) -> Option<&'a [u8]> {
        match end {
            End::Head => self.get(0),
            End::Tail => self.get(self.len().checked_sub(1)?),
        }
    }

    /// The items from `index` on to the tail.
    pub fn iter_from(&self, index: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (first, rest) = match *self {
            _ if index >= self.len() => (Pack::default(), None),
            List::Pack(pack) => (pack.split_at(index).1, None),
            List::Chunks(chunks) => {
                let (at, place) = chunks.locate(index);
                (chunks.chunks[at].items().split_at(place).1, Some(chunks.chunks.range(at + 1..)))
            }
        };
        first.iter().chain(rest.into_iter().flatten().flat_map(|chunk| chunk.items().iter()))
    }

    /// The items of chunk `at`, of which a compact list has one; None behind the last.
    pub fn chunk(&self, at: usize) -> Option<Pack<'a>> {
        match self {
            List::Pack(pack) => (at == 0).then_some(*pack),
            List::Chunks(chunks) => chunks.chunks.get(at).map(Chunk::items),
        }
    }

    /// The items from `index` on to the head.
    pub fn iter_back_from(&self, index: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (first, rest) = match *self {
            _ if index >= self.len() => (Pack::default(), None),
            List::Pack(pack) => (pack.split_at(index + 1).0, None),
            List::Chunks(chunks) => {
                let (at, place) = chunks.locate(index);
                (chunks.chunks[at].items().split_at(place + 1).0, Some(chunks.chunks.range(..at)))
            }
        };
        first
            .iter()
            .rev()
            .chain(rest.into_iter().flat_map(|rest| rest.rev()).flat_map(|chunk| chunk.items().iter().rev()))
    }
}

/// The large form of a list that is to be one.
fn make_large(value: &mut Value) -> &mut Chunks {
    if let Value::Compact(bytes) = value {
        let mut chunks = Chunks::default();
        let pack = Pack::new(bytes);
        if !pack.is_empty() {
            chunks.add(0, Chunk::of_pack(pack));
        }
        *value = Value::Large(Box::new(Large::List(chunks)));
    }
    chunks_mut(value).expect("it is large now")
}

fn chunks_mut(value: &mut Value) -> Option<&mut Chunks> {
    match value {
        Value::Compact(_) => None,
        Value::Large(large) => match &mut **large {
            Large::List(chunks) => Some(chunks),
            #[allow(unreachable_patterns, reason = "other types have other large forms")]
            _ => unreachable!("the type was looked at"),
        },
    }
}

/// Makes a large list that has become short compact, and an empty one empty.
fn relax(value: &mut Value, limit: ChunkLimit) {
    let Some(chunks) = chunks_mut(value) else { return };
    let used: usize = match chunks.chunks.len() {
        0 => 0,
        1 => chunks.chunks[0].used(),
        _ => return,
    };
    if used > COMPACT_BYTES_MAX / 2 || !limit.allows(used * 2, chunks.len * 2) {
        return;
    }
    let mut bytes = Vec::new();
    for chunk in &chunks.chunks {
        chunk.items().iter().for_each(|item| pack::push_back(&mut bytes, item));
    }
    *value = Value::Compact(bytes);
}

/// Adds `item` at one end.
pub fn push(value: &mut Value, end: End, item: &[u8], thresholds: &Thresholds) {
    let limit = ChunkLimit::of(thresholds);
    if let Value::Compact(bytes) = value {
        let after = bytes.len() + pack::item_bytes(item.len());
        if after <= COMPACT_BYTES_MAX && limit.allows(after, Pack::new(bytes).len() + 1) {
            let offset = if end == End::Head { Pack::new(bytes).start() } else { bytes.len() };
            return pack::insert(bytes, offset, &[item]);
        }
    }
    make_large(value).push(end, item, limit);
}

/// Takes up to `count` items from one end and shows each of them to `take`. Returns how many.
pub fn pop(value: &mut Value, end: End, count: usize, thresholds: &Thresholds, mut take: impl FnMut(&[u8])) -> usize {
    let list = List::new(value.view());
    let count = count.min(list.len());
    if count == 0 {
        return 0;
    }
    match end {
        End::Head => list.iter_from(0).take(count).for_each(&mut take),
        End::Tail => list.iter_back_from(list.len() - 1).take(count).for_each(&mut take),
    }
    drop_items(value, end, count, thresholds);
    count
}

/// Removes `count` items from one end; there must be so many.
fn drop_items(value: &mut Value, end: End, count: usize, thresholds: &Thresholds) {
    match value {
        Value::Compact(bytes) => {
            let pack = Pack::new(bytes);
            let offset = if end == End::Head { pack.start() } else { pack.offset_of(pack.len() - count) };
            pack::remove(bytes, offset, count);
        }
        Value::Large(_) => {
            make_large(value).drop_items(end, count);
            relax(value, ChunkLimit::of(thresholds));
        }
    }
}

/// Keeps the items from `start` to before `end`; returns how many have gone.
pub fn trim(value: &mut Value, start: usize, end: usize, thresholds: &Thresholds) -> usize {
    let len = List::new(value.view()).len();
    let (start, end) = (start.min(len), end.min(len));
    let (front, back) = if start >= end { (len, 0) } else { (start, len - end) };
    if front > 0 {
        drop_items(value, End::Head, front, thresholds);
    }
    if back > 0 {
        drop_items(value, End::Tail, back, thresholds);
    }
    front + back
}

/// Puts `item` in the place of item `index`; false if there are not so many.
pub fn set(value: &mut Value, index: usize, item: &[u8], thresholds: &Thresholds) -> bool {
    if index >= List::new(value.view()).len() {
        return false;
    }
    let limit = ChunkLimit::of(thresholds);
    if let Value::Compact(bytes) = value {
        let pack = Pack::new(bytes);
        let offset = pack.offset_of(index);
        let after = bytes.len() - pack.item(offset).0.len() + pack::item_bytes(item.len());
        if after <= COMPACT_BYTES_MAX && limit.allows(after, pack.len()) {
            pack::replace(bytes, offset, item);
            return true;
        }
    }
    let chunks = make_large(value);
    let (at, place) = chunks.locate(index);
    let chunk = &chunks.chunks[at];
    let old = chunk.items().get(place).map_or(0, <[u8]>::len);
    if limit.allows(chunk.used() - old + pack::item_bytes(item.len()), chunk.len()) {
        chunks.change(at, |chunk| chunk.set(place, item));
    } else {
        // Put the new one where the old one was, and let the chunk be split for it.
        chunks.insert(at, place, item, limit);
        let (at, place) = chunks.locate(index + 1);
        chunks.change(at, |chunk| chunk.remove(place));
        if chunks.chunks[at].is_empty() {
            chunks.drop_chunk(at);
        }
    }
    true
}

/// Puts `item` before item `index`, or at the tail if there are just so many.
pub fn insert(value: &mut Value, index: usize, item: &[u8], thresholds: &Thresholds) {
    let limit = ChunkLimit::of(thresholds);
    if let Value::Compact(bytes) = value {
        let after = bytes.len() + pack::item_bytes(item.len());
        if after <= COMPACT_BYTES_MAX && limit.allows(after, Pack::new(bytes).len() + 1) {
            let offset = Pack::new(bytes).offset_of(index);
            return pack::insert(bytes, offset, &[item]);
        }
    }
    let chunks = make_large(value);
    if index >= chunks.len {
        return chunks.push(End::Tail, item, limit);
    }
    let (at, place) = chunks.locate(index);
    chunks.insert(at, place, item, limit);
}

/// Removes up to `count` items that equal `item`, looking for them from one end. Returns how many.
pub fn remove(value: &mut Value, from: End, count: usize, item: &[u8], thresholds: &Thresholds) -> usize {
    match value {
        Value::Compact(bytes) => {
            let kept = Chunk::of_pack(Pack::new(bytes)).without(from, count, item);
            let Some((kept, removed)) = kept else { return 0 };
            bytes.clear();
            kept.items().iter().for_each(|item| pack::push_back(bytes, item));
            removed
        }
        Value::Large(_) => {
            let chunks = make_large(value);
            let mut removed = 0;
            let mut at = if from == End::Head { 0 } else { chunks.chunks.len() };
            while removed < count && (if from == End::Head { at < chunks.chunks.len() } else { at > 0 }) {
                let here = if from == End::Head { at } else { at - 1 };
                let mut gone = false;
                if let Some((kept, here_removed)) = chunks.chunks[here].without(from, count - removed, item) {
                    removed += here_removed;
                    gone = kept.is_empty();
                    chunks.change(here, |chunk| *chunk = kept);
                    if gone {
                        chunks.drop_chunk(here);
                    }
                }
                at = match from {
                    End::Head => here + !gone as usize,
                    End::Tail => here,
                };
            }
            relax(value, ChunkLimit::of(thresholds));
            removed
        }
    }
}

#[cfg(test)]
mod tests;
