//! The coverage walk: a snapshot of a table that changes while it is taken.
//!
//! A snapshot is a stream in which the effects of all writes stand, and between them what [`Shard::cover`] says about a
//! range of hash positions: the statements that rebuild all entries there as they are *now*. Whoever reads the stream
//! leaves out every statement whose key has not been covered yet, because what it did is in what comes; and applies
//! those whose key has been. So a write costs nothing more while a snapshot is taken, nothing is copied before it
//! changes, and the end of the stream is the keyspace at one moment.
//!
//! That takes an order: within a partition of a database positions ascend, and what a call covers is exactly the
//! positions from `from` on and before the one that it returns, however much the table grows or shrinks between two calls
//! ([`super::table`] says why). The position of a key depends on nothing but its hash ([`position_of`]).
//!
//! Statements without a key concern everything, and what of it is covered: a flush is applied as it is, and what was
//! flushed before it was covered does not come any more. A flush of one partition (FLUSHPARTITION) is of that kind, although it
//! names a key, to say which. An exchange of databases (SWAPDB) would mix what is covered with
//! what is not, and so would a partition that is moved from one to another: a walk has to begin anew
//! ([`Shard::disruptions`]).
//!
//! A call holds up the core for as long as its budget takes. A collection that alone would take longer is not expanded:
//! it is *deferred*, and not covered by the call. Whoever takes the snapshot locks such a key, writes it in slices
//! ([`Shard::rebuild_some`]), and says in the stream that it is covered now; until then statements about it are left out,
//! also behind a flush. The lock has to keep the key from expiry and eviction, too: an entry that is lent, and rebuilt
//! where it is then, is locked in that way. If the key is gone by then, it is covered by nothing at all.
//!
//! What is lent to another core ([`super::lend`]) is not in the table, and would be missing from what is covered: whoever
//! calls makes sure that nothing in the partition is lent at that moment.
//!
//! `tests/node/coverage.rs` is the model of both sides.
//!
//! Owned by one core.

use super::rebuild::rebuild;
pub use super::table::position_of;
use super::{EntryRef, Kind, Shard};
use crate::collection::ValueRef;

/// How much one call of [`Shard::cover`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The call ends at the first bucket after so many bytes of statements.
    pub bytes: usize,
    /// A large collection that takes more bytes than this is deferred.
    pub collection_bytes: usize,
}

impl Budget {
    /// Bytes of statements in one piece of a copy.
    pub const BYTES: usize = 64 << 10;
}

impl Default for Budget {
    /// Some hundred microseconds.
    fn default() -> Self {
        Budget { bytes: Budget::BYTES, collection_bytes: 4 * Budget::BYTES }
    }
}

/// What a word of a statement counts besides its bytes: about what it takes to write it.
const WORD_BYTES: usize = 8;

/// What an entry counts that has nothing to be written: it had to be looked at.
const SKIPPED_BYTES: usize = 16;

/// What [`Shard::cover`] shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covered<'a> {
    /// The next statement that rebuilds the entries.
    Statement(&'a [&'a [u8]]),
    /// The key of a collection that is not covered, because it is large.
    Deferred(&'a [u8]),
}

impl Shard {
    /// Visits what rebuilds the live entries of a partition of `db` from the hash position `from` on, in whole buckets, until
    /// the budget is used up; returns the position up to which, exclusive, all of them have been visited, or None at the
    /// partition's end. Neither an access nor an expiry: an entry that is over is left out, and its removal is an effect
    /// that is still to come; but not if another node decides what is over.
    ///
    /// A small string costs no allocation.
    pub fn cover(
        &self,
        db: usize,
        partition: u16,
        from: u32,
        budget: Budget,
        mut visit: impl FnMut(Covered),
    ) -> Option<u32> {
        let (mut from, mut used) = (Some(from), 0);
        while let Some(position) = from
            && used < budget.bytes.max(1)
        {
            // A bucket without entries is not for nothing, either.
            used += SKIPPED_BYTES;
            from = self.scan_bucket(db, partition, position, |shard, handle| {
                used += SKIPPED_BYTES;
                if shard.is_gone(db, handle) {
                    return;
                }
                let (key, entry) = (shard.entries.key(handle), shard.entry(handle));
                if large_bytes(&entry) > budget.collection_bytes {
                    return visit(Covered::Deferred(key));
                }
                rebuild(key, entry, shard.now, |statement| {
                    used += statement.iter().map(|word| word.len() + WORD_BYTES).sum::<usize>();
                    visit(Covered::Statement(statement));
                });
            });
        }
        from
    }
}

/// Bytes of a collection that is large; 0 of any other value.
fn large_bytes(entry: &EntryRef) -> usize {
    match entry.kind {
        Kind::String => 0,
        _ => match entry.collection() {
            ValueRef::Large(large) => large.bytes(),
            ValueRef::Compact(_) => 0,
        },
    }
}
