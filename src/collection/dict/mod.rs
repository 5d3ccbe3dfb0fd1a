//! A dict: the large form of sets and hashes.
//!
//! Extendible hashing (Fagin, Nievergelt, Pippenger, Strong 1979, ACM TODS 4(3), "Extendible hashing: a fast access
//! method for dynamic files"). Items lie in *segments* of up to 64 ([`segment`]); a *directory* with one number for each
//! value of the top `depth` bits of a hash says which segment.
//!
//! ```text
//!     top bits   00  01  10  11        depth 2
//!     directory   0   0   2   1
//!                  ╲ ╱    │   │
//!     segments     [0]   [2] [1]       segment 0 has all hashes that begin with 0: its own depth is 1
//! ```
//!
//! A segment that is full splits in two by one more bit of the hash, and the directory doubles only if it did not tell
//! that bit apart already. Two *buddies*, segments that differ in their last bit, become one when they are sparse, and
//! the directory halves when nothing needs its last bit any more. So a change moves at most 64 items, however many there
//! are; only the directory, four bytes for some tens of items, is ever copied as a whole.
//!
//! The hash of an item is not kept: one byte of it, the *tag*, is, and a search compares only items with the right tag.
//! Beyond its own bytes an item takes about eight: a length, a tag, an offset, and its part of what is allocated and not
//! used.
//!
//! # Walks that survive changes
//!
//! A segment holds all items whose hashes lie in one range, and the ranges of all segments together are the whole: that
//! is all a cursor needs. It is a hash, or rather its first 32 bits: everything below has been visited. A call
//! visits the segment that the cursor lies in and goes on with the end of its range. Segments may split and merge, the
//! directory may double between two calls: whoever has the hash h stays in the segment whose range has h. The ranges
//! visited by the calls of a walk cover every hash, so an item that is there from the first call to the last is visited,
//! and only once: of a segment that begins before the cursor, items with lower hashes are left out.
//!
//! # A random item
//!
//! Any segment, any of 64 places in it, and again if nothing is there. Every item is hit by the same share of all tries,
//! so none is preferred, neither for lying in a sparse segment nor for lying behind a gap. Segments are half full or
//! more on average (buddies with half a segment together do not stay apart), so two tries are enough mostly.
//!
//! Owned by the core whose shard holds it.

mod segment;

use super::hash_of;
use super::random::{Random, select};
use crate::shard::allocated;
use segment::Segment;

/// Items after which a segment splits.
const SEGMENT_ITEMS_MAX: usize = 64;
/// Two buddies with no more items than this together become one. Half of a segment: many items must come before it splits
/// again.
const MERGE_ITEMS_MAX: usize = SEGMENT_ITEMS_MAX / 2;
/// How often the items of a segment are counted with those of its buddy: when a multiple of this is left.
const MERGE_CHECK_ITEMS: usize = 8;
/// Bits of the hash that the directory uses at the most: 64 M entries. What does not split any further becomes longer.
const DEPTH_MAX: u32 = 26;
/// Bits of the hash that a cursor has.
const CURSOR_BITS: u32 = 32;
/// Places that are tried for a random item before one is searched in order. Half of them are hits, as a rule.
const RANDOM_TRIES_MAX: usize = 4096;

const _: () = assert!(DEPTH_MAX < 32 && DEPTH_MAX <= CURSOR_BITS);

/// A key and its value; the value of a member of a set is empty.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// The members of a set.
pub type Members = Dict<false>;
/// The fields of a hash, with their values.
pub type Fields = Dict<true>;

/// Where an item lies, until the next change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    segment: u32,
    slot: u16,
}

/// See the module. `PAIRS`: items have values.
///
/// Invariant: `directory` has 2^`depth` entries; a segment of depth d has 2^(`depth` - d) of them, one after the other.
#[derive(Debug)]
pub struct Dict<const PAIRS: bool> {
    directory: Vec<u32>,
    segments: Vec<Segment<PAIRS>>,
    depth: u32,
    /// [`DEPTH_MAX`], but for tests.
    depth_max: u32,
    /// Segments whose own depth is `depth`.
    deepest: usize,
    /// Places of a segment from which a random item is drawn: 64, or as many as the longest segment ever had.
    places: usize,
    len: usize,
    /// Sum of [`Segment::bytes`].
    segment_bytes: usize,
}

impl<const PAIRS: bool> Default for Dict<PAIRS> {
    fn default() -> Self {
        Dict::new()
    }
}

impl<const PAIRS: bool> Clone for Dict<PAIRS> {
    /// The copy has nothing to spare, so it may be charged less.
    fn clone(&self) -> Self {
        let segments = self.segments.clone();
        let segment_bytes = segments.iter().map(Segment::bytes).sum();
        Dict { directory: self.directory.clone(), segments, segment_bytes, ..*self }
    }
}

impl<const PAIRS: bool> Dict<PAIRS> {
    /// An empty dict.
    pub fn new() -> Self {
        Dict {
            directory: vec![0],
            segments: vec![Segment::new(1)],
            depth: 0,
            depth_max: DEPTH_MAX,
            deepest: 1,
            places: SEGMENT_ITEMS_MAX,
            len: 0,
            segment_bytes: 0,
        }
    }

    /// Items.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes charged, as the allocator rounds them, without the dict's own fields.
    pub fn bytes(&self) -> usize {
        self.segment_bytes
            + allocated(self.directory.capacity() * size_of::<u32>())
            + allocated(self.segments.capacity() * size_of::<Segment<PAIRS>>())
    }

    /// Index of the segment for a hash.
    #[inline]
    fn index(&self, hash: u64) -> usize {
        self.directory[top_bits(hash, self.depth)] as usize
    }

    #[inline]
    fn find(&self, key: &[u8]) -> Option<(usize, usize)> {
        let hash = hash_of(key);
        let index = self.index(hash);
        Some((index, self.segments[index].find(tag(hash), key)?))
    }

    #[inline]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.find(key).is_some()
    }

    /// The value of `key`.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (index, slot) = self.find(key)?;
        Some(self.segments[index].item(slot).1)
    }

    /// Changes a segment and keeps account of its bytes.
    #[inline]
    fn change<R>(&mut self, index: usize, change: impl FnOnce(&mut Segment<PAIRS>) -> R) -> R {
        let segment = &mut self.segments[index];
        let before = segment.bytes();
        let result = change(segment);
        self.segment_bytes = self.segment_bytes - before + segment.bytes();
        result
    }

    /// Gives `key` a value; true if it is new.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> bool {
        let hash = hash_of(key);
        let index = self.index(hash);
        if let Some(slot) = self.segments[index].find(tag(hash), key) {
            if PAIRS {
                self.change(index, |segment| segment.replace(slot, key, value));
            }
            return false;
        }
        let index = self.make_room(index, hash);
        self.change(index, |segment| segment.push(tag(hash), key, value));
        self.places = self.places.max(self.segments[index].len());
        self.len += 1;
        true
    }

    /// Removes `key`; false if it is not there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let Some((index, slot)) = self.find(key) else { return false };
        self.change(index, |segment| segment.remove(slot));
        self.len -= 1;
        if self.segments[index].len().is_multiple_of(MERGE_CHECK_ITEMS) {
            self.merge(index);
        }
        true
    }

    /// Splits the segment at `index` until the one for `hash` has room; returns its index.
    ///
    /// What if 65 hashes begin with the same [`DEPTH_MAX`] bits? With an even hash that takes more items than fit into
    /// memory. Still nothing breaks: the segment becomes longer.
    fn make_room(&mut self, mut index: usize, hash: u64) -> usize {
        while self.segments[index].len() >= SEGMENT_ITEMS_MAX && self.segments[index].depth() < self.depth_max {
            self.split(index);
            index = self.index(hash);
        }
        index
    }

    fn split(&mut self, index: usize) {
        if self.segments[index].depth() == self.depth {
            self.double();
        }
        let mut old = std::mem::replace(&mut self.segments[index], Segment::new(1));
        let upper = (0..old.len()).fold(0u64, |upper, slot| {
            let hash = hash_of(old.item(slot).0);
            upper | (hash >> (63 - old.depth()) & 1) << slot
        });
        self.segment_bytes -= old.bytes();
        let path = old.path() << 1;
        let low = Segment::gather(path, &mut [(&mut old, |slot| upper >> slot & 1 == 0)]);
        let high = Segment::gather(path | 1, &mut [(&mut old, |slot| upper >> slot & 1 == 1)]);
        self.segment_bytes += low.bytes() + high.bytes();
        if low.depth() == self.depth {
            self.deepest += 2;
        }
        self.segments[index] = low;
        if self.segments.len() == self.segments.capacity() {
            // An eighth more: what is unused stays small, what is copied too.
            self.segments.reserve_exact(self.segments.len() / 8 + 1);
        }
        self.segments.push(high);
        self.enter(self.segments.len() - 1);
    }

    /// Doubles the directory; no segment needs its new last bit yet.
    fn double(&mut self) {
        let mut twice = Vec::with_capacity(2 * self.directory.len());
        self.directory.iter().for_each(|&index| twice.extend_from_slice(&[index, index]));
        self.directory = twice;
        self.depth += 1;
        self.deepest = 0;
    }

    /// The entries of the directory that lead to segments with this path.
    fn entries(&self, path: u32) -> std::ops::Range<usize> {
        let depth = path.ilog2();
        let entries = 1usize << (self.depth - depth);
        let first = (path - (1 << depth)) as usize * entries;
        first..first + entries
    }

    /// Makes the directory lead to the segment at `index`.
    fn enter(&mut self, index: usize) {
        let entries = self.entries(self.segments[index].path());
        self.directory[entries].fill(index as u32);
    }

    /// Makes one segment of the one at `index` and its buddy, if they are sparse, and so on.
    fn merge(&mut self, mut index: usize) {
        loop {
            let segment = &self.segments[index];
            let (path, len) = (segment.path(), segment.len());
            if path == 1 || len > MERGE_ITEMS_MAX {
                break;
            }
            let buddy = self.directory[self.entries(path ^ 1).start] as usize;
            let other = &self.segments[buddy];
            if other.path() != path ^ 1 || len + other.len() > MERGE_ITEMS_MAX {
                break;
            }
            index = self.merge_two(index, buddy);
        }
        self.halve();
    }

    /// Makes one segment of two buddies; returns its index.
    fn merge_two(&mut self, index: usize, buddy: usize) -> usize {
        let all: fn(usize) -> bool = |_| true;
        let mut gone = self.segments.swap_remove(buddy);
        // The last segment has taken the place of the one that is gone.
        let index = if index == self.segments.len() { buddy } else { index };
        let segment = &mut self.segments[index];
        self.segment_bytes -= segment.bytes() + gone.bytes();
        if segment.depth() == self.depth {
            self.deepest -= 2;
        }
        *segment = Segment::gather(segment.path() >> 1, &mut [(segment, all), (&mut gone, all)]);
        self.segment_bytes += segment.bytes();
        self.enter(index);
        if buddy < self.segments.len() {
            self.enter(buddy);
        }
        let len = self.segments.len();
        if self.segments.capacity() > 2 * len {
            self.segments.shrink_to(len + len / 8);
        }
        index
    }

    /// Halves the directory while no segment needs its last bit.
    fn halve(&mut self) {
        while self.depth > 0 && self.deepest == 0 {
            self.directory = self.directory.iter().step_by(2).copied().collect();
            self.depth -= 1;
            self.deepest = self.segments.iter().filter(|segment| segment.depth() == self.depth).count();
        }
    }

    /// All items, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Pair<'_>> + Clone {
        self.segments.iter().flat_map(|segment| (0..segment.len()).map(|slot| segment.item(slot)))
    }

    /// The items of segment `at`, in no order; None behind the last. For walks over a dict that does not change meanwhile.
    pub fn segment(&self, at: usize) -> Option<impl Iterator<Item = Pair<'_>>> {
        let segment = self.segments.get(at)?;
        Some((0..segment.len()).map(|slot| segment.item(slot)))
    }

    /// Visits items from `cursor` on, in whole segments, until at least `count` have been visited; returns the cursor to
    /// go on from, 0 at the end. A walk begins with 0. What it promises: see the module.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(Pair)) -> u64 {
        let mut cursor = cursor;
        let mut visited = 0;
        while cursor >> CURSOR_BITS == 0 {
            let from = cursor << (64 - CURSOR_BITS);
            let segment = &self.segments[self.index(from)];
            let (start, end) = hash_range(segment.path());
            let seen = |slot: &usize| start < cursor && hash_of(segment.item(*slot).0) < from;
            for slot in (0..segment.len()).filter(|slot| !seen(slot)) {
                visit(segment.item(slot));
                visited += 1;
            }
            cursor = end;
            if visited >= count {
                break;
            }
        }
        if cursor >> CURSOR_BITS == 0 { cursor } else { 0 }
    }

    /// The place of a random item, each equally likely; None if there is none.
    pub fn random(&self, random: &mut Random) -> Option<Place> {
        if self.is_empty() {
            return None;
        }
        for _ in 0..RANDOM_TRIES_MAX {
            let (segment, slot) = (random.below(self.segments.len()), random.below(self.places));
            if slot < self.segments[segment].len() {
                return Some(Place { segment: segment as u32, slot: slot as u16 });
            }
        }
        let filled = self.segments.iter().position(|segment| segment.len() > 0)?;
        Some(Place { segment: filled as u32, slot: 0 })
    }

    /// The item in a place.
    #[inline]
    pub fn at(&self, place: Place) -> Pair<'_> {
        self.segments[place.segment as usize].item(place.slot as usize)
    }

    /// Visits `count` different items, every choice of so many equally likely. Memory for a third of them at the most is
    /// needed.
    pub fn sample(&self, count: usize, random: &mut Random, mut visit: impl FnMut(Pair)) {
        if count >= self.len / 3 {
            return select(self.iter(), self.len, count, random, visit);
        }
        // No more than a third of the items are taken already, so a draw is new in two of three cases.
        let mut taken = std::collections::HashSet::<Place, ahash::RandomState>::default();
        while taken.len() < count
            && let Some(place) = self.random(random)
        {
            if taken.insert(place) {
                visit(self.at(place));
            }
        }
    }

    /// Frees up to about `pieces` allocations; true as long as there are more. What is left is a wreck that only this
    /// function may see.
    pub fn free_some(&mut self, pieces: usize) -> bool {
        for _ in 0..pieces {
            let Some(segment) = self.segments.last_mut() else { return false };
            let before = segment.bytes();
            let big = segment.free_big();
            self.segment_bytes = self.segment_bytes - before + segment.bytes();
            if !big && let Some(gone) = self.segments.pop() {
                self.segment_bytes -= gone.bytes();
            }
        }
        !self.segments.is_empty()
    }
}

/// The lowest byte of a hash: the top bits choose the segment.
#[inline]
fn tag(hash: u64) -> u8 {
    hash as u8
}

/// The top `bits` bits, fewer than 64, of a hash.
#[inline]
fn top_bits(hash: u64, bits: u32) -> usize {
    (hash >> 1 >> (63 - bits)) as usize
}

/// The first hash of a segment with this path, and the first one behind it, in units of cursors.
fn hash_range(path: u32) -> (u64, u64) {
    let depth = path.ilog2();
    let prefix = (path - (1 << depth)) as u64;
    (prefix << (CURSOR_BITS - depth), (prefix + 1) << (CURSOR_BITS - depth))
}

#[cfg(test)]
mod tests;
