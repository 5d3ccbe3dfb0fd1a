//! Walking over many keys of a shard: SCAN, RANDOMKEY, FLUSHDB.
//!
//! A flush of a million entries would hold up the core. So the flushed database is only taken out of sight, which takes
//! no time, and its entries are freed a few each turn; until then they count as memory.
//!
//! Owned by one core.

use std::ops::ControlFlow;

use super::db::Db;
use super::{Handle, Kind, Shard};
use crate::route::{SLOTS, slot_of};

/// Random entries that [`Shard::random_key`] looks at before it searches in order: most of them have expired then.
const RANDOM_TRIES_MAX: usize = 64;

/// A database that was flushed, and how far its entries have been freed.
pub(super) struct Flushed {
    db: Db,
    table: usize,
    bucket: usize,
}

impl Flushed {
    pub(super) fn new(db: Db) -> Flushed {
        Flushed { db, table: 0, bucket: 0 }
    }
}

impl Shard {
    /// Visits the live keys of `partition` of `db` from the hash position `from` on, in whole buckets, until at least
    /// `count` entries have been visited; returns the position to go on from, or None at the partition's end. Expired
    /// entries on the way are removed.
    ///
    /// Every key that is present from the first to the last call of a full iteration is visited exactly once, however
    /// much the table grows or shrinks meanwhile; see [`super::table`].
    pub fn scan(
        &mut self,
        db: usize,
        partition: u16,
        from: u32,
        count: usize,
        mut visit: impl FnMut(&[u8], Kind),
    ) -> Option<u32> {
        let mut expired = Vec::new();
        let mut from = Some(from);
        let mut seen = 0;
        while let Some(position) = from
            && (seen == 0 || seen < count)
        {
            from = self.scan_bucket(db, partition, position, |shard, handle| {
                seen += 1;
                if shard.is_over(handle) {
                    expired.push(handle);
                } else {
                    visit(shard.entries.key(handle), shard.entries.kind(handle));
                }
            });
        }
        for handle in expired {
            self.expire(db, handle);
        }
        from
    }

    /// Visits the entries of one bucket from `position` on; returns the first position of the next one.
    pub(super) fn scan_bucket(
        &self,
        db: usize,
        partition: u16,
        position: u32,
        mut visit: impl FnMut(&Shard, Handle),
    ) -> Option<u32> {
        let table = self.dbs[db].table(self.local(partition))?;
        let hash_of = |handle| self.hasher.hash(self.entries.key(handle));
        table.visit_from(position, hash_of, |handle| visit(self, handle))
    }

    /// Visits the live keys in a slot of this shard, where its partition is ([`Shard::home_of`]), until `visit` has enough. It looks
    /// at all keys of the partition.
    pub fn visit_slot(&self, slot: u16, mut visit: impl FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        let partition = slot / (SLOTS / self.hasher.partitions());
        let Some(table) = self.dbs[self.home_of(partition)].table(self.local(partition)) else {
            return ControlFlow::Continue(());
        };
        for handle in table.handles().filter(|&handle| !self.is_over(handle)) {
            let key = self.entries.key(handle);
            if slot_of(key) == slot {
                visit(key)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// A random live key of `db`, chosen with `random` (any 64 bits); None if there is none. Expired entries on the way
    /// are removed.
    pub fn random_key(&mut self, db: usize, random: u64) -> Option<Vec<u8>> {
        let mut state = random;
        for _ in 0..RANDOM_TRIES_MAX {
            let handle = self.dbs[db].random(|| splitmix(&mut state))?;
            if !self.is_over(handle) {
                return Some(self.entries.key(handle).to_vec());
            }
            self.expire(db, handle);
        }
        let mut handles = self.dbs[db].tables().iter().flat_map(|table| table.handles());
        handles.find(|&handle| !self.is_over(handle)).map(|handle| self.entries.key(handle).to_vec())
    }

    /// Removes every key of `db`; returns how many there were. Their memory is freed by [`Shard::work`], in pieces.
    pub fn flush(&mut self, db: usize) -> usize {
        self.note_flush(db);
        let mut new = Db::new(self.partitions.len());
        new.unranked = self.dbs[db].unranked.map(|_| (0, 0));
        let mut old = std::mem::replace(&mut self.dbs[db], new);
        old.drop_fields(&mut self.entries);
        let keys = old.size().keys;
        if old.bytes() > 0 {
            self.flushed.push_back(Flushed::new(old));
        }
        keys
    }

    /// Frees up to `count` entries of flushed databases, and at least one bucket; false if there is none left.
    pub(super) fn free_flushed(&mut self, count: usize) -> bool {
        let mut freed = 0;
        while freed < count {
            let Some(flushed) = self.flushed.front_mut() else { return false };
            let Some(table) = flushed.db.tables().get(flushed.table) else {
                self.entries.index_bytes -= flushed.db.bytes();
                self.flushed.pop_front();
                continue;
            };
            if flushed.bucket == table.buckets() {
                (flushed.table, flushed.bucket) = (flushed.table + 1, 0);
                continue;
            }
            if flushed.bucket + 1 < table.buckets() {
                table.bucket(flushed.bucket + 1).for_each(|handle| self.entries.prefetch(handle));
            }
            for handle in table.bucket(flushed.bucket) {
                self.evictor.forget(&mut self.entries, handle);
                self.entries.free(handle);
                freed += 1;
            }
            flushed.bucket += 1;
        }
        true
    }

    /// Whether some wheel stands still until a clock that was set back by a little has caught up.
    #[cfg(test)]
    pub(super) fn waits_for_the_clock(&self) -> bool {
        self.own().iter().any(|db| db.wheel(super::Clock::Wall).waits(self.now.wall_ms))
    }

    /// Checks every invariant of the shard: each entry is reachable once, under its own key, and all counters are right.
    #[cfg(test)]
    pub(crate) fn validate(&self) {
        use super::Clock;
        let mut reachable = Vec::new();
        for (number, db) in self.dbs.iter().enumerate() {
            let mut expiring: [Vec<u32>; 2] = Default::default();
            let before = reachable.len();
            for (local, table) in db.tables().iter().enumerate() {
                table.validate(|handle| self.hasher.hash(self.entries.key(handle)));
                for handle in table.handles() {
                    let key = self.hasher.key(self.entries.key(handle));
                    assert_eq!(self.local(key.partition), local);
                    let found = table.find(key.hash, |other| self.entries.key_is(other, key.bytes));
                    assert_eq!(found.map(|(_, found)| found), Some(handle), "two entries have the same key");
                    if let Some(deadline) = self.entries.expire_at(handle) {
                        expiring[deadline.clock() as usize].push(handle.0);
                    }
                    reachable.push(handle.0);
                }
            }
            let mut wheel_bytes = 0;
            for (clock, expiring) in Clock::ALL.into_iter().zip(&mut expiring) {
                let wheel = db.wheel(clock);
                let mut armed: Vec<u32> = wheel.validate(&self.entries).into_iter().map(|handle| handle.0).collect();
                expiring.sort();
                armed.sort();
                assert_eq!(*expiring, armed, "each wheel holds exactly the entries that expire by its clock");
                let first =
                    expiring.iter().filter_map(|&handle| self.entries.expire_at(Handle(handle))?.ms().into()).min();
                let latest = wheel.next(self.now.of(clock)).max(first).unwrap_or(super::NEVER_MS);
                let followed = self.is_followed(number);
                assert!(
                    followed || self.next_expiry[clock as usize] <= latest,
                    "the wheel would be looked at too late"
                );
                wheel_bytes += wheel.bytes();
            }
            let field_bytes = self.validate_fields(number, &reachable[before..]);
            let expires = expiring.iter().map(Vec::len).sum();
            assert_eq!((db.size().keys, db.size().expires), (reachable.len() - before, expires));
            let table_bytes: usize = db.tables().iter().map(|table| table.bytes() + size_of_val(table)).sum();
            assert_eq!(db.bytes(), table_bytes + wheel_bytes + field_bytes);
        }
        if !self.flushed.is_empty() {
            return;
        }
        let tables = self.own().iter().flat_map(|db| db.tables());
        let own: Vec<Handle> = tables.flat_map(|table| table.handles()).collect();
        self.evictor.validate(&self.entries, &own);
        for handle in self.dbs[self.own..].iter().flat_map(|db| db.tables()).flat_map(|table| table.handles()) {
            assert_eq!(self.entries.links(handle), (0, 0), "what is followed is on no list");
        }
        let index_bytes = self.dbs.iter().map(Db::bytes).sum::<usize>() + self.evictor.bytes();
        assert_eq!(self.entries.index_bytes, index_bytes);
        let mut live: Vec<u32> = self.entries.validate().into_iter().map(|handle| handle.0).collect();
        reachable.sort();
        live.sort();
        assert_eq!(reachable, live, "every live chunk is the entry of exactly one key");
    }
}

/// The next number of a sequence that starts anywhere: <https://prng.di.unimi.it/splitmix64.c>.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
