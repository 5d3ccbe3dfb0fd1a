//! Expiry of fields of hashes.
//!
//! It works as that of keys ([`super::expiry`]): whoever looks at a hash first removes what is over, so that no command
//! sees it, and fields of hashes that nobody looks at are removed when they are due, a bounded number each turn. Both
//! write the effect `HDEL` and the event `hexpired`. A hash whose fields are all over is over itself: `DEL`, `del`.
//!
//! # Finding hashes
//!
//! Each database has the hashes with such fields in the order of their earliest deadlines (`Db::fields`). That order is
//! exact: every way into a shard and out of it, and every change, keeps it ([`Shard::plan_fields`], `Db::remove`). So
//! as long as the first deadline of all has not come, nothing at all is due: a look at a key costs one test of one flag,
//! also if there are such hashes, and a shard without them keeps nothing. (An order that is corrected only when an
//! entry turns out to be wrong would be simpler, but hashes that come and go long before their fields are due would leave
//! their names there for all that time.)
//!
//! # Hashes with many fields that are due
//!
//! Removing a million fields would hold up the core. If they are all, the hash goes as a whole, which is one step. If they
//! are not, a look removes [`LOOK_FIELDS_MAX`], and the rest stays for the turns to come: reads do not show it
//! ([`crate::collection::hash::Hash::at`]), and a command that is about to change some fields lets the shard remove those
//! that are over first ([`Shard::expire_named`]). Compact hashes are rid of all at once.
//!
//! Owned by one core.

use super::entry::Meta;
use super::expiry::{Expiring, NEVER_MS};
use super::{Classes, Clock, Deadline, Handle, Key, Kind, Place, ROOM, Shard, Value};
use crate::collection::ValueRef;
use crate::collection::deadlines::Earliest;
use crate::collection::hash::{self, Hash};

/// Fields that a command which looks at a large hash removes at the most.
pub(super) const LOOK_FIELDS_MAX: usize = 128;

impl Shard {
    /// Whether some field of some hash may be over.
    #[inline]
    pub(super) fn update_fields_due(&mut self) {
        let due = |clock: Clock| self.next_fields[clock as usize] <= self.now.of(clock);
        self.fields_due = self.expiring != Expiring::Never && Clock::ALL.into_iter().any(due);
    }

    /// Whether fields of some hash have deadlines. Who writes the shard to a file has to know beforehand ([`crate::rdb`]).
    pub fn has_field_deadlines(&self) -> bool {
        self.dbs.iter().any(|db| db.has_timed_fields())
    }

    /// The earliest deadline of a field on each clock.
    pub(super) fn field_deadlines(&self, handle: Handle) -> Earliest {
        match self.entries.kind(handle) {
            Kind::Hash => hash::next_deadlines(self.entry(handle).collection()),
            _ => Earliest::default(),
        }
    }

    /// Puts a hash into the order of its database, or takes it out.
    pub(super) fn plan_fields(&mut self, db: usize, key: &[u8], next: Earliest) {
        self.dbs[db].plan_fields(&mut self.entries, key, next);
        for clock in Clock::ALL {
            self.next_fields[clock as usize] =
                next[clock as usize].unwrap_or(NEVER_MS).min(self.next_fields[clock as usize]);
            self.expect_expiry(db, next[clock as usize].map(|ms| Deadline::new(clock, ms)));
        }
        self.update_fields_due();
    }

    /// As [`Shard::plan_fields`], for an entry that has just been put in.
    pub(super) fn plan_entry(&mut self, db: usize, key: &[u8], handle: Handle) {
        let next = self.field_deadlines(handle);
        if next != Earliest::default() || self.dbs[db].has_timed_fields() {
            self.plan_fields(db, key, next);
        }
    }

    /// Whether an entry is a hash whose fields are all over.
    pub(super) fn fields_are_over(&self, handle: Handle) -> bool {
        if !self.fields_due || self.entries.kind(handle) != Kind::Hash {
            return false;
        }
        let value = self.entry(handle).collection();
        hash::due(value, self.now) == Hash::new(value).len()
    }

    /// Part of [`Shard::live`]: removes what is over from an entry that was found and lives. Where it is then.
    #[cold]
    pub(super) fn live_fields(&mut self, db: usize, key: &Key, found: (Place, Handle)) -> Option<(Place, Handle)> {
        if self.entries.kind(found.1) != Kind::Hash || !self.has_due_fields(found.1) {
            return Some(found);
        }
        if self.expiring_of(db) == Expiring::Elsewhere {
            return self.hide_fields(db, key, found);
        }
        // The entry may have to move, and whoever asks for it has been promised room for one entry.
        self.make_room();
        let (place, handle) = self.find(db, key)?;
        self.expire_fields(db, key, place, handle, LOOK_FIELDS_MAX, |_| ());
        self.make_room();
        self.find(db, key)
    }

    /// Sees to it that reads do not show the fields that are over.
    fn hide_fields(&mut self, db: usize, key: &Key, found: (Place, Handle)) -> Option<(Place, Handle)> {
        if self.fields_are_over(found.1) {
            return None;
        }
        if !matches!(self.entry(found.1).collection(), ValueRef::Compact(_)) {
            return Some(found);
        }
        self.make_room();
        let (place, handle) = self.find(db, key)?;
        self.change_fields(db, key, place, handle, hash::hide_due);
        self.make_room();
        self.find(db, key)
    }

    fn has_due_fields(&self, handle: Handle) -> bool {
        let next = self.field_deadlines(handle);
        Clock::ALL.into_iter().any(|clock| next[clock as usize].is_some_and(|ms| ms <= self.now.of(clock)))
    }

    /// Removes up to `max` fields that are over, with their effect, or the entry if it has no others; `late` hears of each
    /// deadline, of the earliest one only if the entry goes. Returns the number of fields.
    fn expire_fields(
        &mut self,
        db: usize,
        key: &Key,
        place: Place,
        handle: Handle,
        max: usize,
        mut late: impl FnMut(Deadline),
    ) -> usize {
        if self.fields_are_over(handle) {
            let next = self.field_deadlines(handle);
            Clock::ALL.into_iter().filter_map(|clock| Some(Deadline::new(clock, next[clock as usize]?))).for_each(late);
            self.expire(db, handle);
            return 1;
        }
        let now = self.now;
        let mut removed = Vec::new();
        self.change_fields(db, key, place, handle, |value| {
            hash::take_due(value, now, max, |field, deadline| {
                late(deadline);
                removed.push(field.to_vec());
            });
        });
        self.tell_expired_fields(db, key, &removed);
        removed.len()
    }

    /// Lets `change` work on a hash that does not become empty by that. Neither news nor an access.
    fn change_fields(&mut self, db: usize, key: &Key, place: Place, old: Handle, change: impl FnOnce(&mut Value)) {
        let meta: Meta = self.entries.meta(old);
        let mut value = self.entries.take_collection(old);
        change(&mut value);
        debug_assert!(!value.is_empty());
        let next = hash::next_deadlines(value.view());
        let new = self.entries.put_collection(old, key.bytes, value, meta).expect(ROOM);
        self.settle(db, key, place, [old, new], meta.expire_at);
        self.plan_fields(db, key.bytes, next);
    }

    fn tell_expired_fields(&mut self, db: usize, key: &Key, fields: &[Vec<u8>]) {
        if fields.is_empty() {
            return;
        }
        self.counters.expired_fields += fields.len() as u64;
        if self.effects.enabled() {
            let mut args: Vec<&[u8]> = vec![b"HDEL", key.bytes];
            args.extend(fields.iter().map(Vec::as_slice));
            self.effects.push(db, &args);
        }
        self.changes.note(db, key.bytes);
        self.events.push(Classes::HASH, "hexpired", db, key.bytes);
    }

    /// Removes those of `fields` that are over, with their effect: what a command has to do before it changes them.
    #[inline]
    pub fn expire_named<'f>(&mut self, db: usize, key: &Key, fields: impl IntoIterator<Item = &'f [u8]>) {
        if self.fields_due {
            self.expire_named_now(db, key, &mut fields.into_iter());
        }
    }

    #[cold]
    fn expire_named_now(&mut self, db: usize, key: &Key, fields: &mut dyn Iterator<Item = &[u8]>) {
        if self.expiring_of(db) != Expiring::Here {
            return;
        }
        let now = self.now;
        self.make_room();
        let Some((place, handle)) = self.live(db, key) else { return };
        if self.entries.kind(handle) != Kind::Hash || !self.has_due_fields(handle) {
            return;
        }
        let value = self.entry(handle).collection();
        let over = |field: &[u8]| hash::deadline(value, field).flatten().is_some_and(|at| now.has_reached(at));
        let mut named: Vec<Vec<u8>> = fields.filter(|field| over(field)).map(<[u8]>::to_vec).collect();
        named.sort_unstable();
        named.dedup();
        if !named.is_empty() {
            self.change_fields(db, key, place, handle, |value| {
                named.iter().for_each(|field| {
                    hash::remove(value, field);
                });
            });
            self.tell_expired_fields(db, key, &named);
        }
    }

    /// Part of [`Shard::expire_due`]: removes fields of one database that are due by one clock. Each takes one from
    /// `budget`.
    pub(super) fn expire_due_fields(
        &mut self,
        db: usize,
        clock: Clock,
        budget: &mut usize,
        mut late_ms: impl FnMut(u64),
    ) {
        let now = self.now;
        while *budget > 0 {
            let Some(key) = self.dbs[db].due_fields(clock, now.of(clock)) else { return };
            let hasher = self.hasher.clone();
            let key = hasher.key(&key);
            self.make_room();
            let Some((place, handle)) = self.find(db, &key) else {
                // Whoever made room has just removed it.
                self.plan_fields(db, key.bytes, Earliest::default());
                continue;
            };
            if self.has_expired(handle) {
                self.expire(db, handle);
                *budget -= 1;
                continue;
            }
            let late = |at: Deadline| late_ms(now.of(at.clock()).saturating_sub(at.ms()).max(0) as u64);
            let removed = self.expire_fields(db, &key, place, handle, *budget, late);
            // Something was due, so something was removed.
            debug_assert!(removed > 0);
            *budget = budget.saturating_sub(removed.max(1));
        }
    }
}

#[cfg(test)]
impl Shard {
    /// Checks the order of the hashes of a database whose fields have deadlines; its bytes.
    pub(super) fn validate_fields(&self, number: usize, handles: &[u32]) -> usize {
        let db = &self.dbs[number];
        for clock in Clock::ALL {
            let mut expected = Vec::new();
            for handle in handles.iter().map(|&handle| Handle(handle)) {
                if self.entries.kind(handle) == Kind::Hash {
                    hash::validate(self.entry(handle).collection());
                }
                let next = self.field_deadlines(handle)[clock as usize];
                expected.extend(next.map(|ms| (self.entries.key(handle).to_vec(), ms)));
            }
            let first = expected.iter().map(|(_, ms)| *ms).min().unwrap_or(NEVER_MS);
            assert!(self.next_fields[clock as usize] <= first);
            assert!(self.is_followed(number) || self.next_expiry[clock as usize] <= first);
            assert!(self.fields_due || first > self.now.of(clock));
            let mut planned = db.planned_fields(clock);
            planned.sort();
            expected.sort();
            assert_eq!(planned, expected, "the hashes with deadlines by their earliest ones");
        }
        db.field_bytes()
    }
}
