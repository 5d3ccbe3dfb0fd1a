//! Collections: what lists, sets, hashes and sorted sets are made of.
//!
//! A collection is *compact* while it is small: one piece of memory that lies in the entry as a string would. When it
//! passes a threshold of the configuration ([`Thresholds`]) it becomes *large*: a structure of its own, boxed, which an
//! entry points to. All of it is plain data, so that a value can be lent to another core; of the
//! shard it knows no more than the names of types, the clocks, and what the allocator takes for a piece of memory.
//!
//! Owned by the core whose shard holds it.

pub mod deadlines;
pub mod dict;
pub mod hash;
pub mod intset;
pub mod list;
pub mod pack;
pub mod random;
pub mod set;
pub mod sorted;

use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;

use crate::shard::Kind;

/// When a compact collection becomes a large one: the directives of the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Fields of a hash.
    pub hash_max_listpack_entries: usize,
    /// Bytes of the longest field or value of a hash.
    pub hash_max_listpack_value: usize,
    /// Members of a set of integers.
    pub set_max_intset_entries: usize,
    /// Members of a set.
    pub set_max_listpack_entries: usize,
    /// Bytes of the longest member of a set.
    pub set_max_listpack_value: usize,
    /// Members of a sorted set.
    pub zset_max_listpack_entries: usize,
    /// Bytes of the longest member of a sorted set.
    pub zset_max_listpack_value: usize,
    /// Positive: elements of a chunk of a list. -1 to -5: its bytes, 4, 8, 16, 32, 64 KiB.
    pub list_max_listpack_size: i64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            hash_max_listpack_entries: 128,
            hash_max_listpack_value: 64,
            set_max_intset_entries: 512,
            set_max_listpack_entries: 128,
            set_max_listpack_value: 64,
            zset_max_listpack_entries: 128,
            zset_max_listpack_value: 64,
            list_max_listpack_size: -2,
        }
    }
}

/// A value that is a collection, for changing. Empty is `Compact` without bytes, for every type, or a large one that has
/// lost all its elements at once and can only be freed.
#[derive(Debug)]
pub enum Value {
    Compact(Vec<u8>),
    Large(Box<Large>),
}

impl Default for Value {
    fn default() -> Self {
        Value::Compact(Vec::new())
    }
}

impl Value {
    #[inline]
    pub fn is_empty(&self) -> bool {
        match self {
            Value::Compact(bytes) => bytes.is_empty(),
            Value::Large(large) => large.is_empty(),
        }
    }

    /// For reading.
    #[inline]
    pub fn view(&self) -> ValueRef<'_> {
        match self {
            Value::Compact(bytes) => ValueRef::Compact(bytes),
            Value::Large(large) => ValueRef::Large(large),
        }
    }
}

/// A collection that is not compact.
#[derive(Clone, Debug)]
pub enum Large {
    List(list::Chunks),
    Set(dict::Members),
    Hash(dict::Fields),
    /// Much larger than the others: in a box of its own.
    SortedSet(Box<sorted::Large>),
    /// Fields have deadlines.
    TimedHash(hash::Timed),
}

/// A value that is a collection, for reading.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    Compact(&'a [u8]),
    Large(&'a Large),
}

impl ValueRef<'_> {
    /// Name of the encoding, as Redis would give it.
    pub fn encoding(&self, kind: Kind) -> &'static str {
        match self {
            ValueRef::Compact(_) if kind == Kind::Set => set::Set::new(*self).encoding(),
            ValueRef::Compact(bytes) if kind == Kind::Hash => hash::compact_encoding(bytes),
            ValueRef::Compact(_) => "listpack",
            ValueRef::Large(large) => large.encoding(),
        }
    }
}

impl Large {
    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Large::List(chunks) => chunks.len(),
            Large::Set(members) => members.len(),
            Large::Hash(fields) => fields.len(),
            Large::TimedHash(hash) => hash.len(),
            Large::SortedSet(items) => items.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of the encoding, as Redis would give it.
    pub fn encoding(&self) -> &'static str {
        match self {
            Large::List(chunks) => chunks.encoding(),
            Large::Set(_) | Large::Hash(_) | Large::TimedHash(_) => "hashtable",
            Large::SortedSet(_) => "skiplist",
        }
    }

    /// Bytes charged, as the allocator rounds them. Known at any time without a walk.
    pub fn bytes(&self) -> usize {
        match self {
            Large::List(chunks) => chunks.bytes(),
            Large::Set(members) => members.bytes(),
            Large::Hash(fields) => fields.bytes(),
            Large::TimedHash(hash) => hash.bytes(),
            Large::SortedSet(items) => items.bytes(),
        }
    }

    /// Frees about `pieces` allocations; true as long as there are more. What is left is a wreck that only this function
    /// may see, so that [`Large::bytes`] need not follow.
    pub fn free_some(&mut self, pieces: usize) -> bool {
        match self {
            Large::List(chunks) => chunks.free_some(pieces),
            Large::Set(members) => members.free_some(pieces),
            Large::Hash(fields) => fields.free_some(pieces),
            Large::TimedHash(hash) => hash.free_some(pieces),
            Large::SortedSet(items) => items.free_some(pieces),
        }
    }
}

/// Seeded once per process, so that nobody can choose elements that fall together, and a collection that is lent to
/// another core keeps its order.
static HASH_STATE: LazyLock<ahash::RandomState> =
    LazyLock::new(|| if cfg!(test) { ahash::RandomState::with_seeds(1, 2, 3, 4) } else { ahash::RandomState::new() });

/// The hash of an element; the same on all cores of a process.
#[inline]
pub fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = HASH_STATE.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}
