//! Sorted sets: members, each once, in the order of their scores.
//!
//! Compact: a [`pack`](super::pack), see [`compact`]. Large: a tree and a hash index, see [`large`]. [`SortedSet`] reads
//! both, the functions here change both. No score is NaN: who computes scores makes sure of that.
//!
//! Owned by the core whose shard holds the value.

mod arena;
mod compact;
mod cut;
mod growth;
mod index;
mod inner;
mod large;
mod leaf;
#[cfg(test)]
mod model;
mod tree;

pub use cut::Cut;
pub use large::Large;

use super::pack::{self, Pack};
use super::{Thresholds, Value, ValueRef};

/// Items of a compact sorted set at the most, whatever the thresholds say: an item takes two places of a pack.
const COMPACT_ITEMS_MAX: usize = pack::ITEMS_MAX / 2;

/// Longest compact sorted set, bytes: it is copied at every change.
const COMPACT_BYTES_MAX: usize = 64 * 1024;

/// The 32 bits of a member's hash that the large form uses.
#[inline]
fn hash32(member: &[u8]) -> u32 {
    (super::hash_of(member) >> 32) as u32
}

/// A sorted set, for reading. Ranks begin at 0, at the lowest score.
#[derive(Clone, Copy, Debug)]
pub enum SortedSet<'a> {
    Compact(Pack<'a>),
    Large(&'a Large),
}

impl<'a> SortedSet<'a> {
    #[inline]
    pub fn new(value: ValueRef<'a>) -> Self {
        match value {
            ValueRef::Compact(bytes) => SortedSet::Compact(Pack::new(bytes)),
            ValueRef::Large(large) => SortedSet::Large(form(large)),
        }
    }

    /// Items.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            SortedSet::Compact(pack) => compact::len(*pack),
            SortedSet::Large(large) => large.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match self {
            SortedSet::Compact(pack) => compact::score(*pack, member),
            SortedSet::Large(large) => large.score(member),
        }
    }

    /// Rank and score of a member.
    pub fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        match self {
            SortedSet::Compact(pack) => compact::rank(*pack, member),
            SortedSet::Large(large) => large.rank(member),
        }
    }

    /// The item of this rank.
    pub fn get(&self, rank: usize) -> Option<(&'a [u8], f64)> {
        (rank < self.len()).then(|| match self {
            SortedSet::Compact(pack) => compact::items(*pack, rank, rank + 1, false).next(),
            SortedSet::Large(large) => Some(large.get(rank)),
        })?
    }

    /// The number of items before `cut`.
    pub fn before(&self, cut: &Cut) -> usize {
        match self {
            SortedSet::Compact(pack) => compact::before(*pack, cut),
            SortedSet::Large(large) => large.before(cut),
        }
    }

    /// The items with ranks from `start` on and before `end`, which is lowered to the length.
    pub fn items(&self, start: usize, end: usize, backwards: bool) -> Items<'a> {
        let end = end.min(self.len());
        let start = start.min(end);
        match self {
            SortedSet::Compact(pack) => Items::Compact(compact::items(*pack, start, end, backwards)),
            SortedSet::Large(large) => Items::Large(large.items(start, end, backwards)),
        }
    }

    /// All items, in order.
    pub fn iter(&self) -> Items<'a> {
        self.items(0, usize::MAX, false)
    }

    /// One step of a walk that meets every member which is there from its first step to its last: shows about `count`
    /// items, or all if the set is compact. Begins at 0; returns the cursor to go on with, 0 at the end.
    pub fn scan(&self, cursor: u64, count: usize, mut seen: impl FnMut(&[u8], f64)) -> u64 {
        match self {
            SortedSet::Compact(_) => {
                self.iter().for_each(|(member, score)| seen(member, score));
                0
            }
            // A cursor that is none of ours: nothing is there.
            SortedSet::Large(large) => match u32::try_from(cursor) {
                Ok(cursor) => large.scan(cursor, count, seen).map_or(0, u64::from),
                Err(_) => 0,
            },
        }
    }
}

/// See [`SortedSet::items`].
#[derive(Clone, Debug)]
pub enum Items<'a> {
    Compact(compact::Items<'a>),
    Large(tree::Items<'a>),
}

impl<'a> Iterator for Items<'a> {
    type Item = (&'a [u8], f64);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Items::Compact(items) => items.next(),
            Items::Large(items) => items.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Items::Compact(items) => items.size_hint(),
            Items::Large(items) => items.size_hint(),
        }
    }
}

impl ExactSizeIterator for Items<'_> {}

/// Adds a member or changes its score; the score it had.
pub fn insert(value: &mut Value, limits: &Thresholds, member: &[u8], score: f64) -> Option<f64> {
    if let Value::Compact(bytes) = value {
        let len = compact::len(Pack::new(bytes));
        // A member that is there needs no room.
        if fits(limits, len + 1, bytes.len() + member.len(), member)
            || compact::score(Pack::new(bytes), member).is_some()
        {
            return compact::insert(bytes, member, score);
        }
        *value = enlarged(Pack::new(bytes));
    }
    let Value::Large(large) = value else { unreachable!("it has just been made large") };
    form_mut(large).insert(member, score)
}

/// Whether a compact sorted set may have `len` items and about `bytes`, `member` among them.
fn fits(limits: &Thresholds, len: usize, bytes: usize, member: &[u8]) -> bool {
    len <= limits.zset_max_listpack_entries.min(COMPACT_ITEMS_MAX)
        && member.len() <= limits.zset_max_listpack_value
        && bytes <= COMPACT_BYTES_MAX
}

fn enlarged(pack: Pack) -> Value {
    let mut large = Large::default();
    for (member, score) in compact::items(pack, 0, compact::len(pack), false) {
        large.insert(member, score);
    }
    Value::Large(Box::new(super::Large::SortedSet(Box::new(large))))
}

/// Removes a member; the score it had.
pub fn remove(value: &mut Value, member: &[u8]) -> Option<f64> {
    match value {
        Value::Compact(bytes) => compact::remove(bytes, member),
        Value::Large(large) => {
            let large = form_mut(large);
            let score = large.remove(member);
            if large.is_empty() {
                *value = Value::Compact(Vec::new());
            }
            score
        }
    }
}

/// Removes the items with ranks from `start` on and before `end`, which exist. A large set that loses all of them keeps
/// its memory, so that it can be freed in pieces.
pub fn remove_range(value: &mut Value, start: usize, end: usize) {
    match value {
        Value::Compact(bytes) => compact::remove_range(bytes, start, end),
        Value::Large(large) => {
            let large = form_mut(large);
            if end - start == large.len() {
                return large.abandon();
            }
            (start..end).for_each(|_| large.remove_at(start));
        }
    }
}

/// A sorted set of items that are in order, each member once.
pub fn from_sorted<'m>(limits: &Thresholds, items: impl Iterator<Item = (&'m [u8], f64)> + Clone) -> Value {
    let mut len = 0;
    let mut bytes = 0;
    let is_small = items.clone().all(|(member, _)| {
        len += 1;
        bytes += member.len();
        fits(limits, len, bytes, member)
    });
    if is_small {
        let mut pack = Vec::new();
        items.for_each(|(member, score)| compact::push_back(&mut pack, member, score));
        return Value::Compact(pack);
    }
    let mut large = Large::default();
    for (member, score) in items {
        large.insert(member, score);
    }
    Value::Large(Box::new(super::Large::SortedSet(Box::new(large))))
}

/// Programmer's error: a collection of another type is not a sorted set.
fn form(large: &super::Large) -> &Large {
    match large {
        super::Large::SortedSet(large) => large,
        _ => unreachable!("the value of a sorted set"),
    }
}

fn form_mut(large: &mut super::Large) -> &mut Large {
    match large {
        super::Large::SortedSet(large) => large,
        _ => unreachable!("the value of a sorted set"),
    }
}
