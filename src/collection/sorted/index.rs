//! In which leaf each member of a large sorted set is: a hash table from 32 bits of the member's hash to a number.
//!
//! Extendible hashing (R. Fagin, J. Nievergelt, N. Pippenger, H. R. Strong, "Extendible Hashing: A Fast Access Method for
//! Dynamic Files", ACM TODS 4(3), 1979): a directory, indexed by the first bits of the hash, of segments of up to 64
//! entries. A full segment is split by its next bit, which touches 64 entries and nothing else; two halves in which
//! little is left are joined again. Only the directory is ever copied as a whole, four bytes for each segment or so.
//!
//! An entry is the hash and the number of a leaf; the member itself is only in the leaf. So equal entries may exist:
//! the index is a multiset. A segment is a range of hashes, whatever splits and joins come, and walks go in the order of
//! hashes.
//!
//! Owned by the core whose shard holds the collection.

use super::arena::Arena;
use super::growth;

/// Entries of a segment.
const ENTRIES_MAX: usize = 64;
/// Two halves with at most so many entries together are joined.
const JOINED_MAX: usize = 24;
/// Bits that index the directory at most; segments at this depth may have more entries than [`ENTRIES_MAX`].
const DEPTH_MAX: u32 = 26;

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub hash: u32,
    pub leaf: u32,
}

#[derive(Clone, Debug, Default)]
struct Segment {
    entries: Vec<Entry>,
    /// All hashes in it have these many first bits in common.
    depth: u32,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Index {
    /// Invariant: of length `2^depth`; a segment of depth d fills `2^(depth - d)` neighbouring places.
    directory: Vec<u32>,
    depth: u32,
    segments: Arena<Segment>,
    /// Segments of this depth. Invariant: at least two, unless the depth is 0.
    deepest: usize,
    /// Bytes charged for all entries.
    entry_bytes: usize,
}

impl Default for Index {
    fn default() -> Self {
        let mut segments = Arena::default();
        Index { directory: vec![segments.insert(Segment::default())], depth: 0, segments, deepest: 1, entry_bytes: 0 }
    }
}

impl Index {
    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.entry_bytes + self.segments.bytes() + growth::charge(&self.directory)
    }

    /// Place of a hash in the directory.
    #[inline]
    fn place(&self, hash: u32) -> usize {
        // No bits at all: a shift by 32.
        (u64::from(hash) >> (u32::BITS - self.depth)) as usize
    }

    #[inline]
    fn segment(&self, hash: u32) -> &Segment {
        &self.segments[self.directory[self.place(hash)]]
    }

    /// The leaves in which a member with this hash may be.
    #[inline]
    pub fn leaves(&self, hash: u32) -> impl Iterator<Item = u32> + '_ {
        self.segment(hash).entries.iter().filter(move |entry| entry.hash == hash).map(|entry| entry.leaf)
    }

    /// The entries of the segment of `hash`, and the first hash behind that segment; None if it is the last one.
    pub fn segment_of(&self, hash: u32) -> (&[Entry], Option<u32>) {
        let segment = self.segment(hash);
        let width = 1u64 << (u32::BITS - segment.depth);
        let end = (u64::from(hash) & !(width - 1)) + width;
        (&segment.entries, u32::try_from(end).ok())
    }

    pub fn insert(&mut self, entry: Entry) {
        loop {
            let id = self.directory[self.place(entry.hash)];
            let segment = &self.segments[id];
            if segment.entries.len() < ENTRIES_MAX || segment.depth == DEPTH_MAX {
                return self.change(id, |segment| {
                    growth::reserve(&mut segment.entries, 1);
                    segment.entries.push(entry);
                });
            }
            self.split(id, entry.hash);
        }
    }

    /// Removes one such entry.
    pub fn remove(&mut self, entry: Entry) {
        let id = self.directory[self.place(entry.hash)];
        self.change(id, |segment| {
            let at = segment.entries.iter().position(|other| *other == entry);
            debug_assert!(at.is_some());
            if let Some(at) = at {
                segment.entries.swap_remove(at);
                growth::shrink(&mut segment.entries);
            }
        });
        while self.join(entry.hash) {}
    }

    /// The member with this entry has moved to another leaf.
    pub fn moved(&mut self, entry: Entry, leaf: u32) {
        let id = self.directory[self.place(entry.hash)];
        let found = self.segments[id].entries.iter_mut().find(|other| **other == entry);
        debug_assert!(found.is_some());
        if let Some(found) = found {
            found.leaf = leaf;
        }
    }

    fn change(&mut self, id: u32, change: impl FnOnce(&mut Segment)) {
        let segment = &mut self.segments[id];
        let before = growth::charge(&segment.entries);
        change(segment);
        self.entry_bytes = self.entry_bytes + growth::charge(&segment.entries) - before;
    }

    /// Splits the segment `id`, in which `hash` belongs.
    fn split(&mut self, id: u32, hash: u32) {
        let depth = self.segments[id].depth;
        if depth == self.depth {
            let mut doubled = Vec::with_capacity(2 * self.directory.len());
            self.directory.iter().for_each(|&id| doubled.extend([id, id]));
            self.directory = doubled;
            self.depth += 1;
            self.deepest = 0;
        }
        let bit = 1 << (u32::BITS - 1 - depth);
        let entries = std::mem::take(&mut self.segments[id].entries);
        self.entry_bytes -= growth::charge(&entries);
        let of = |wanted: bool| {
            let mut part = Vec::new();
            let wanted = |entry: &&Entry| (entry.hash & bit != 0) == wanted;
            growth::reserve(&mut part, entries.iter().filter(wanted).count());
            part.extend(entries.iter().filter(wanted));
            Segment { entries: part, depth: depth + 1 }
        };
        let (lower, upper) = (of(false), of(true));
        self.entry_bytes += growth::charge(&lower.entries) + growth::charge(&upper.entries);
        self.segments[id] = lower;
        let upper = self.segments.insert(upper);
        let half = 1 << (self.depth - depth - 1);
        let first = self.place(hash) & !(2 * half - 1);
        self.directory[first + half..first + 2 * half].fill(upper);
        if depth + 1 == self.depth {
            self.deepest += 2;
        }
    }

    /// Joins the segment of `hash` with its other half if little is in both; whether it did.
    fn join(&mut self, hash: u32) -> bool {
        let id = self.directory[self.place(hash)];
        let Segment { entries, depth } = &self.segments[id];
        if *depth == 0 || entries.len() > JOINED_MAX / 2 {
            return false;
        }
        let (depth, len) = (*depth, entries.len());
        let buddy_hash = hash ^ 1 << (u32::BITS - depth);
        let buddy = self.directory[self.place(buddy_hash)];
        let other = &self.segments[buddy];
        if other.depth != depth || len + other.entries.len() > JOINED_MAX {
            return false;
        }
        let other = self.segments.remove(buddy);
        self.entry_bytes -= growth::charge(&other.entries);
        self.change(id, |segment| {
            growth::reserve(&mut segment.entries, other.entries.len());
            segment.entries.extend_from_slice(&other.entries);
            segment.depth = depth - 1;
        });
        let width = 1 << (self.depth - depth);
        let first = self.place(buddy_hash) & !(width - 1);
        self.directory[first..first + width].fill(id);
        if depth == self.depth {
            self.deepest -= 2;
            while self.depth > 0 && self.deepest == 0 {
                self.directory = self.directory.iter().step_by(2).copied().collect();
                self.depth -= 1;
                // A segment of this depth has one place, any other the place beside it too.
                let pairs = self.directory.chunks_exact(2);
                self.deepest = 2 * pairs.filter(|pair| pair[0] != pair[1]).count();
            }
        }
        true
    }

    /// Frees up to about `allocations`; true as long as there are more. The index is a wreck then.
    pub fn free_some(&mut self, allocations: usize) -> bool {
        let mut freed = 0;
        while freed < allocations {
            let Some(segments) = self.segments.pop_piece() else { return false };
            freed += segments.len();
            self.entry_bytes -= segments.iter().map(|segment| growth::charge(&segment.entries)).sum::<usize>();
        }
        true
    }

    /// Counts the bytes anew, after cloning: a clone's vectors have nothing spare.
    pub fn recount(&mut self) {
        self.segments.recount();
        self.entry_bytes = self.segments.iter().map(|segment| growth::charge(&segment.entries)).sum();
    }

    /// Checks the structure; the number of entries.
    #[cfg(test)]
    pub fn validate(&self) -> usize {
        self.segments.validate();
        assert_eq!(self.directory.len(), 1 << self.depth);
        assert!(self.depth == 0 || self.deepest >= 2);
        let (mut place, mut entries, mut bytes) = (0, 0, 0);
        let mut depths = [0; DEPTH_MAX as usize + 1];
        while place < self.directory.len() {
            let id = self.directory[place];
            let segment = &self.segments[id];
            let width = 1 << (self.depth - segment.depth);
            assert!(place % width == 0 && self.directory[place..place + width].iter().all(|&other| other == id));
            for entry in &segment.entries {
                assert_eq!(self.directory[self.place(entry.hash)], id);
            }
            assert!(segment.entries.len() <= ENTRIES_MAX || segment.depth == DEPTH_MAX);
            depths[segment.depth as usize] += 1;
            entries += segment.entries.len();
            bytes += growth::charge(&segment.entries);
            place += width;
        }
        assert!(self.depth == 0 || depths[self.depth as usize] == self.deepest);
        assert_eq!(bytes, self.entry_bytes);
        assert_eq!(self.segments.iter().count(), depths.iter().sum::<usize>());
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Hashes of which many agree in their first bits, so that the directory becomes deep.
    #[test]
    fn skewed_hashes_and_equal_entries() {
        let mut index = Index::default();
        let mut model: HashMap<(u32, u32), usize> = HashMap::new();
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        for step in 0..200_000 {
            let hash = random() << 1 >> (random() % 24);
            let entry = Entry { hash, leaf: random() % 3 };
            let count = model.entry((entry.hash, entry.leaf)).or_default();
            // It grows to the middle, then shrinks.
            if (random() % 100 < 60) == (step < 100_000) {
                index.insert(entry);
                *count += 1;
            } else if *count > 0 {
                index.remove(entry);
                *count -= 1;
            }
            if step % 5000 == 0 {
                assert_eq!(index.validate(), model.values().sum::<usize>());
            }
        }
        let keys: Vec<_> = model.keys().copied().collect();
        for (hash, leaf) in keys {
            let count = model[&(hash, leaf)];
            assert_eq!(index.leaves(hash).filter(|&other| other == leaf).count(), count);
            (0..count).for_each(|_| index.remove(Entry { hash, leaf }));
        }
        assert_eq!(index.validate(), 0);
        assert_eq!((index.depth, index.entry_bytes), (0, 0));
    }
}
