//! One database of a shard: a table for each partition, and how many keys there are.
//!
//! Invariant: `keys` and `expires` count the entries in the tables, and those of them with an expiry; `bucket_bytes` is
//! the sum of the tables' bytes.
//!
//! Owned by one core.

use super::DbSize;
use super::entry::Entries;
use super::heap::Handle;
use super::table::{Place, Table};
use crate::route::Hasher;

/// See the module.
pub(super) struct Db {
    /// One for each partition of the shard, or none at all while the database is empty.
    tables: Box<[Table]>,
    partitions: usize,
    keys: usize,
    expires: usize,
    bucket_bytes: usize,
}

impl Db {
    pub(super) fn new(partitions: usize) -> Self {
        Db { tables: Box::default(), partitions, keys: 0, expires: 0, bucket_bytes: 0 }
    }

    pub(super) fn size(&self) -> DbSize {
        DbSize { keys: self.keys, expires: self.expires }
    }

    /// Bytes of all tables.
    pub(super) fn bytes(&self) -> usize {
        self.bucket_bytes + std::mem::size_of_val(&*self.tables)
    }

    /// Bytes of the table of partition `local` for each of its entries.
    #[inline]
    pub(super) fn share(&self, local: usize) -> usize {
        self.table(local).map_or(0, |table| table.bytes() / table.len().max(1))
    }

    /// The table of partition `local`; None while the database is empty.
    #[inline]
    pub(super) fn table(&self, local: usize) -> Option<&Table> {
        self.tables.get(local)
    }

    pub(super) fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Where the entry `handle` lies, if it lies in this database.
    pub(super) fn place(&self, local: usize, hash: u64, handle: Handle) -> Option<Place> {
        self.table(local)?.find(hash, |other| other == handle).map(|(place, _)| place)
    }

    #[inline]
    pub(super) fn set_handle(&mut self, local: usize, place: Place, handle: Handle) {
        self.tables[local].set_handle(place, handle);
    }

    /// Counts that an entry that had an expiry (or not) now has one (or not).
    #[inline]
    pub(super) fn count_expiry(&mut self, had: bool, has: bool) {
        self.expires = self.expires + has as usize - had as usize;
    }

    /// Adds an entry whose key is not there.
    pub(super) fn insert(
        &mut self,
        local: usize,
        hash: u64,
        handle: Handle,
        expires: bool,
        entries: &Entries,
        hasher: &Hasher,
    ) {
        if self.tables.is_empty() {
            self.tables = (0..self.partitions).map(|_| Table::default()).collect();
        }
        let table = &mut self.tables[local];
        let before = table.bytes();
        table.insert(hash, handle, |h| hasher.hash(entries.key(h)), |h| entries.prefetch(h));
        self.bucket_bytes = self.bucket_bytes - before + table.bytes();
        self.keys += 1;
        self.expires += expires as usize;
    }

    /// Removes the entry at `place`; `expired` says whether it had an expiry.
    pub(super) fn remove(
        &mut self,
        local: usize,
        hash: u64,
        place: Place,
        expires: bool,
        entries: &Entries,
        hasher: &Hasher,
    ) {
        let table = &mut self.tables[local];
        let before = table.bytes();
        table.remove(place, hash, |h| hasher.hash(entries.key(h)), |h| entries.prefetch(h));
        self.bucket_bytes = self.bucket_bytes - before + table.bytes();
        self.keys -= 1;
        self.expires -= expires as usize;
    }

    /// A random entry, every partition weighted by its size; None if there is none.
    pub(super) fn random(&self, mut random: impl FnMut() -> u64) -> Option<Handle> {
        let mut skip = ((random() as u128 * self.keys as u128) >> 64) as usize;
        for table in &self.tables {
            if skip < table.len() {
                return table.random(random);
            }
            skip -= table.len();
        }
        None
    }
}
