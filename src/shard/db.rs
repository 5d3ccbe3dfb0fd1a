//! One database of a shard: a table for each partition, a wheel for each clock of the keys with an expiry, and how many
//! keys there are.
//!
//! Every database has wheels of its own, so that an entry need not know its database: SWAPDB exchanges the wheels with
//! the tables, and FLUSHDB drops both.
//!
//! Invariant: `keys` counts the entries in the tables; those of them that have an expiry are in the wheel of its clock;
//! `bucket_bytes` is the sum of the tables' bytes. What tables and wheels take is part of [`Entries::index_bytes`].
//!
//! Owned by one core.

use super::entry::Entries;
use super::heap::Handle;
use super::table::{Place, Table};
use super::wheel::Wheel;
use super::{Clock, DbSize, Kind, Now};
use crate::collection::Large;
use crate::collection::deadlines::{Deadlines, Earliest};
use crate::route::Hasher;

/// See the module.
pub(super) struct Db {
    /// One for each partition of the shard, or none at all while the database is empty.
    tables: Box<[Table]>,
    partitions: usize,
    keys: usize,
    bucket_bytes: usize,
    /// One for each clock.
    wheels: [Wheel; 2],
    /// The keys of the hashes whose fields have deadlines, by the earliest of these: see [`super::fields`].
    fields: Deadlines,
    /// After a change of the eviction policy: the partition, and the position in it, from which on entries are still to be
    /// ranked by the new one. None: all of them are.
    pub(super) unranked: Option<(usize, u32)>,
}

impl Db {
    pub(super) fn new(partitions: usize) -> Self {
        let wheels = [Wheel::new(), Wheel::new()];
        Db {
            tables: Box::default(),
            partitions,
            keys: 0,
            bucket_bytes: 0,
            wheels,
            fields: Deadlines::default(),
            unranked: None,
        }
    }

    pub(super) fn size(&self) -> DbSize {
        DbSize { keys: self.keys, expires: self.wheels.iter().map(Wheel::len).sum() }
    }

    /// The wheel of the keys that expire by `clock`.
    #[inline]
    pub(super) fn wheel(&self, clock: Clock) -> &Wheel {
        &self.wheels[clock as usize]
    }

    #[inline]
    pub(super) fn wheel_mut(&mut self, clock: Clock) -> &mut Wheel {
        &mut self.wheels[clock as usize]
    }

    /// Bytes of all tables, of the wheels, and of what finds hashes by the deadlines of their fields.
    pub(super) fn bytes(&self) -> usize {
        let wheels = self.wheels.iter().map(Wheel::bytes).sum::<usize>();
        self.bucket_bytes + std::mem::size_of_val(&*self.tables) + wheels + self.fields.bytes()
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

    #[inline]
    fn need_tables(&mut self, entries: &mut Entries) {
        if self.tables.is_empty() {
            self.tables = (0..self.partitions).map(|_| Table::default()).collect();
            entries.index_bytes += std::mem::size_of_val(&*self.tables);
        }
    }

    /// Takes the table of partition `local` out, which stays charged. Its entries are still on the wheels.
    pub(super) fn take_table(&mut self, local: usize) -> Table {
        let table = self.tables.get_mut(local).map(std::mem::take).unwrap_or_default();
        self.keys -= table.len();
        self.bucket_bytes -= table.bytes();
        table
    }

    /// Puts a table where there is no entry, which is charged already, and whose entries are on the wheels.
    pub(super) fn put_table(&mut self, local: usize, table: Table, entries: &mut Entries) {
        self.need_tables(entries);
        debug_assert_eq!(self.tables[local].len(), 0);
        self.keys += table.len();
        self.bucket_bytes += table.bytes();
        self.tables[local] = table;
    }

    /// A table alone, which is charged already, and whose entries are on no wheel.
    pub(super) fn of_table(table: Table, entries: &mut Entries) -> Db {
        entries.index_bytes += size_of::<Table>();
        Db { keys: table.len(), bucket_bytes: table.bytes(), tables: Box::new([table]), ..Db::new(1) }
    }

    /// Adds an entry whose key is not there, and arms its expiry.
    pub(super) fn insert(
        &mut self,
        local: usize,
        hash: u64,
        handle: Handle,
        now: Now,
        entries: &mut Entries,
        hasher: &Hasher,
    ) {
        self.need_tables(entries);
        let table = &mut self.tables[local];
        let before = table.bytes();
        table.insert(hash, handle, |h| hasher.hash(entries.key(h)), |h| entries.prefetch(h));
        let after = table.bytes();
        self.charge(entries, before, after);
        self.keys += 1;
        if let Some(deadline) = entries.expire_at(handle) {
            self.arm(entries, handle, deadline.clock(), now);
        }
    }

    /// Puts an entry that expires by `clock` onto the wheel of that.
    pub(super) fn arm(&mut self, entries: &mut Entries, handle: Handle, clock: Clock, now: Now) {
        let wheel = &mut self.wheels[clock as usize];
        let before = wheel.bytes();
        wheel.insert(entries, handle, now.of(clock));
        entries.index_bytes += wheel.bytes() - before;
    }

    #[inline]
    fn charge(&mut self, entries: &mut Entries, before: usize, after: usize) {
        self.bucket_bytes = self.bucket_bytes - before + after;
        entries.index_bytes = entries.index_bytes - before + after;
    }

    /// Removes the entry `handle` at `place`, and its expiry; the entry itself stays.
    pub(super) fn remove(
        &mut self,
        local: usize,
        hash: u64,
        place: Place,
        handle: Handle,
        entries: &mut Entries,
        hasher: &Hasher,
    ) {
        let table = &mut self.tables[local];
        let before = table.bytes();
        table.remove(place, hash, |h| hasher.hash(entries.key(h)), |h| entries.prefetch(h));
        let after = table.bytes();
        self.charge(entries, before, after);
        self.keys -= 1;
        if let Some(deadline) = entries.expire_at(handle) {
            self.wheel_mut(deadline.clock()).remove(entries, handle);
        }
        if self.has_timed_fields() && entries.kind(handle) == Kind::Hash {
            let before = self.fields.bytes();
            Clock::ALL.into_iter().for_each(|clock| self.fields.set_on(clock, entries.key(handle), None));
            entries.index_bytes = entries.index_bytes - before + self.fields.bytes();
        }
    }

    /// Whether some hash has fields with deadlines.
    #[inline]
    pub(super) fn has_timed_fields(&self) -> bool {
        !self.fields.is_empty()
    }

    /// Notes the earliest deadlines of the fields of a hash, or that it has none.
    pub(super) fn plan_fields(&mut self, entries: &mut Entries, key: &[u8], next: Earliest) {
        let before = self.fields.bytes();
        Clock::ALL.into_iter().for_each(|clock| self.fields.set_on(clock, key, next[clock as usize]));
        entries.index_bytes = entries.index_bytes - before + self.fields.bytes();
    }

    /// The key of a hash with a field that is due by `clock`.
    pub(super) fn due_fields(&self, clock: Clock, now_ms: i64) -> Option<Vec<u8>> {
        let (key, ms) = self.fields.first(clock)?;
        (ms <= now_ms).then(|| key.to_vec())
    }

    /// The earliest deadlines of fields.
    pub(super) fn next_fields(&self) -> Earliest {
        self.fields.next()
    }

    /// Forgets which hashes have fields with deadlines; what that frees is freed in pieces.
    pub(super) fn drop_fields(&mut self, entries: &mut Entries) {
        entries.index_bytes -= self.fields.bytes();
        self.fields.take().for_each(|names| entries.boxes_mut().bury_box(Box::new(Large::SortedSet(names))));
    }

    #[cfg(test)]
    pub(super) fn planned_fields(&self, clock: Clock) -> Vec<(Vec<u8>, i64)> {
        self.fields.on(clock)
    }

    #[cfg(test)]
    pub(super) fn field_bytes(&self) -> usize {
        self.fields.bytes()
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
