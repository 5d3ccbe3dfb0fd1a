//! A leaf of the tree: up to 64 items, packed and in order.
//!
//! ```text
//! scores   one f64 for each item
//! marks    one u32 for each item:  where its bytes end in `data` u16 | LONG 1 bit | tag 15 bits
//! data     the bytes of the members of up to 255 bytes, one after the other
//! long     the longer members, each in a box of its own
//! ```
//!
//! Bytes lie in the order of the items, so an item begins where the one before it ends, and removing one leaves no gap.
//! A tag is a part of the member's hash: with it a member is found without a look at the others.
//!
//! Owned by the core whose shard holds the collection.

use super::cut::Cut;
use super::growth;

/// Items of a leaf.
pub const ITEMS_MAX: usize = 64;

/// Longest member that lies in `data`.
const SHORT_BYTES_MAX: usize = 255;
const LONG: u32 = 1 << 16;
const END_MASK: u32 = LONG - 1;
const TAG_SHIFT: u32 = 17;

const _: () = assert!(ITEMS_MAX * SHORT_BYTES_MAX <= END_MASK as usize);

/// The part of a member's hash that its leaf remembers.
#[inline]
pub fn tag(hash: u32) -> u32 {
    hash << TAG_SHIFT >> TAG_SHIFT
}

/// See the module. The default is an empty leaf.
#[derive(Clone, Debug, Default)]
pub struct Leaf {
    scores: Vec<f64>,
    marks: Vec<u32>,
    data: Vec<u8>,
    /// In the order of the items with LONG.
    long: Vec<Box<[u8]>>,
    /// The neighbours; [`super::tree::NONE`] at the ends.
    pub prev: u32,
    pub next: u32,
}

impl Leaf {
    /// An empty leaf between two others.
    pub fn new(prev: u32, next: u32) -> Leaf {
        Leaf { prev, next, ..Leaf::default() }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    #[inline]
    pub fn score(&self, at: usize) -> f64 {
        self.scores[at]
    }

    /// Changes a score; the caller has made sure that the order stays.
    #[inline]
    pub fn set_score(&mut self, at: usize, score: f64) {
        self.scores[at] = score;
    }

    #[inline]
    fn start(&self, at: usize) -> usize {
        if at == 0 { 0 } else { (self.marks[at - 1] & END_MASK) as usize }
    }

    /// Which of the long members belongs to item `at`, or would if it were long.
    fn long_at(&self, at: usize) -> usize {
        if self.long.is_empty() { 0 } else { self.marks[..at].iter().filter(|&mark| mark & LONG != 0).count() }
    }

    #[inline]
    pub fn member(&self, at: usize) -> &[u8] {
        let mark = self.marks[at];
        if mark & LONG != 0 {
            return &self.long[self.long_at(at)];
        }
        &self.data[self.start(at)..(mark & END_MASK) as usize]
    }

    /// Where `member` is. `tag` is that of its hash.
    #[inline]
    pub fn find(&self, member: &[u8], tag: u32) -> Option<usize> {
        self.with_tag(tag).find(|&at| self.member(at) == member)
    }

    /// The items whose hashes have this tag.
    #[inline]
    pub fn with_tag(&self, tag: u32) -> impl Iterator<Item = usize> + '_ {
        self.marks.iter().enumerate().filter(move |(_, mark)| *mark >> TAG_SHIFT == tag).map(|(at, _)| at)
    }

    /// The number of items before `cut`.
    pub fn before(&self, cut: &Cut) -> usize {
        let (low, high) = cut.by_scores(&self.scores);
        low + partition_point(high - low, |at| cut.is_after(self.score(low + at), || self.member(low + at)))
    }

    /// Puts an item before item `at`. There must be fewer than [`ITEMS_MAX`].
    pub fn insert(&mut self, at: usize, score: f64, member: &[u8], tag: u32) {
        debug_assert!(self.len() < ITEMS_MAX);
        let start = self.start(at);
        let (len, flag) = if member.len() <= SHORT_BYTES_MAX {
            growth::reserve(&mut self.data, member.len());
            self.data.extend_from_slice(member);
            self.data[start..].rotate_right(member.len());
            (member.len(), 0)
        } else {
            let index = self.long_at(at);
            growth::reserve(&mut self.long, 1);
            self.long.insert(index, member.into());
            (0, LONG)
        };
        growth::reserve(&mut self.scores, 1);
        growth::reserve(&mut self.marks, 1);
        self.scores.insert(at, score);
        self.marks.insert(at, (start + len) as u32 | flag | tag << TAG_SHIFT);
        self.marks[at + 1..].iter_mut().for_each(|mark| *mark += len as u32);
    }

    /// Removes item `at`.
    pub fn remove(&mut self, at: usize) {
        let (start, mark) = (self.start(at), self.marks[at]);
        let end = (mark & END_MASK) as usize;
        if mark & LONG != 0 {
            let index = self.long_at(at);
            self.long.remove(index);
            growth::shrink(&mut self.long);
        }
        self.data.drain(start..end);
        self.scores.remove(at);
        self.marks.remove(at);
        self.marks[at..].iter_mut().for_each(|mark| *mark -= (end - start) as u32);
        growth::shrink(&mut self.data);
        growth::shrink(&mut self.scores);
        growth::shrink(&mut self.marks);
    }

    /// Takes the items from `at` on into a leaf of their own.
    pub fn split_off(&mut self, at: usize) -> Leaf {
        let (start, long) = (self.start(at), self.long_at(at));
        let mut marks = growth::split_off(&mut self.marks, at);
        marks.iter_mut().for_each(|mark| *mark -= start as u32);
        let mut longs = Vec::new();
        growth::reserve(&mut longs, self.long.len() - long);
        longs.extend(self.long.drain(long..));
        growth::shrink(&mut self.long);
        Leaf {
            scores: growth::split_off(&mut self.scores, at),
            marks,
            data: growth::split_off(&mut self.data, start),
            long: longs,
            prev: 0,
            next: 0,
        }
    }

    /// Appends the items of the leaf that follows. Together they must be at most [`ITEMS_MAX`].
    pub fn append(&mut self, mut other: Leaf) {
        debug_assert!(self.len() + other.len() <= ITEMS_MAX);
        let start = self.data.len() as u32;
        growth::reserve(&mut self.scores, other.len());
        growth::reserve(&mut self.marks, other.len());
        growth::reserve(&mut self.data, other.data.len());
        growth::reserve(&mut self.long, other.long.len());
        self.scores.extend_from_slice(&other.scores);
        self.marks.extend(other.marks.iter().map(|mark| mark + start));
        self.data.extend_from_slice(&other.data);
        self.long.append(&mut other.long);
    }

    /// Bytes charged for what the leaf owns.
    pub fn bytes(&self) -> usize {
        let long: usize = self.long.iter().map(|member| growth::allocated(member.len())).sum();
        growth::charge(&self.scores)
            + growth::charge(&self.marks)
            + growth::charge(&self.data)
            + growth::charge(&self.long)
            + long
    }

    /// Allocations that the leaf owns.
    pub fn allocations(&self) -> usize {
        3 + self.long.len()
    }

    /// Checks the structure.
    #[cfg(test)]
    pub fn validate(&self) {
        assert!(self.len() <= ITEMS_MAX && self.marks.len() == self.len());
        assert_eq!(self.long_at(self.len()), self.long.len());
        assert_eq!(self.start(self.len()), self.data.len());
        assert!(self.long.iter().all(|member| member.len() > SHORT_BYTES_MAX));
        for at in 0..self.len() {
            assert!(self.start(at) <= (self.marks[at] & END_MASK) as usize);
            assert_eq!(self.marks[at] >> TAG_SHIFT, tag(super::hash32(self.member(at))));
        }
    }
}

/// The number of leading numbers below `len` for which `holds`; it holds for none behind one for which it does not.
#[inline]
pub fn partition_point(len: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
