//! The shard: what one core owns of the keyspace.
//!
//! Only the owning core's thread ever touches a shard; nothing here locks, awaits, reads a clock or draws from a shared
//! source of randomness. The time is set from outside once per turn ([`Shard::set_now`]), on two [clocks](clock).
//!
//! From the bottom up: [`heap`] deals out chunks of memory that are named by 32-bit handles, [`entry`] puts a key and
//! its value into one chunk ([`layout`] says how), [`table`] finds the handle of a key's entry in one partition,
//! [`wheel`] finds the entries whose time has come, [`db`] holds both for one database. [`evict`] knows which entry is
//! worth least ([`lists`], [`lfu`], [`s3fifo`]), and [`Shard`] is all of them together; what is about expiry is in
//! [`expiry`], what is about limits in [`pressure`], what walks over many keys in [`walk`], and what a node of a cluster leads and
//! follows in [`roles`]. `unsafe` is found in `heap`,
//! `entry` and `table` only. Handles do not leave this directory.
//!
//! Longer than other files, because of this overview and the one definition of what a shard is.
//!
//! # When the address space is used up
//!
//! A shard reserves 32 GiB for entries, which is what handles can reach. The memory limit should be reached long before.
//! Without one, a write makes room by removing the entries of the emptiest slab, counted as evictions and with their
//! effects, rather than fail.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::collection::{Value, ValueRef};
use crate::route::{Hasher, Key};

mod boxes;
mod changes;
pub mod clock;
mod collections;
pub mod cover;
mod db;
pub mod digest;
pub mod effect;
mod entry;
mod evict;
#[cfg(test)]
mod evict_tests;
mod expiry;
mod fields;
mod heap;
mod layout;
mod lend;
mod lfu;
mod lists;
#[cfg(test)]
mod model;
#[cfg(test)]
mod naive;
pub mod notify;
mod pressure;
pub mod rebuild;
mod roles;
mod s3fifo;
pub mod statement;
mod table;
mod usage;
mod value;
mod walk;
mod wheel;

use changes::Changes;
pub use changes::Version;
pub use clock::{Clock, Deadline, Expiry, Now, SteadyMs};
use db::Db;
pub use effect::{Effect, Effects};
use entry::{Entries, Meta};
use evict::Evictor;
pub use evict::{Policy, Rule};
pub use expiry::{Expiring, NEVER_MS};
use heap::{Handle, HeapError};
pub use layout::allocated;
pub use lfu::LfuPace;
pub use notify::{Classes, Event, Events};
use pressure::Pressure;
pub use roles::{FOLLOWED, LED};
use table::Place;
pub use value::{Changed, Detached, EntryRef, Kind, NewValue, Stored, Str, WrongType};
use walk::Flushed;

/// Unix time in milliseconds.
pub type UnixMs = i64;

/// Counters that INFO publishes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub hits: u64,
    pub misses: u64,
    pub expired: u64,
    /// Fields of hashes.
    pub expired_fields: u64,
    pub evicted: u64,
    /// Calls of [`Shard::expire_due`] that left something for the next.
    pub expire_cap_reached: u64,
}

/// Size of one database on one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DbSize {
    pub keys: usize,
    /// Keys with an expiry.
    pub expires: usize,
}

/// What one core owns of the keyspace.
pub struct Shard {
    now: Now,
    partitions: Range<u16>,
    hasher: Hasher,
    entries: Entries,
    dbs: Vec<Db>,
    /// Databases below this number are this node's own; in a cluster there is one more ([`roles`]).
    own: usize,
    /// How often each partition has been moved from one database to another.
    moves: Box<[u64]>,
    /// Partitions that have come into a database of the node's own, and the position from which on their entries are still to
    /// be ranked.
    adopted: VecDeque<(usize, usize, u32)>,
    /// Databases that were flushed and are still to be freed, in pieces.
    flushed: VecDeque<Flushed>,
    evictor: Evictor,
    pressure: Pressure,
    /// For each clock a lower bound of the moment at which a wheel has something to do.
    next_expiry: [i64; 2],
    /// What of the wheels and fields is the next to be looked at.
    expire_first: usize,
    /// For each clock a lower bound of the moment at which a field of a hash is over.
    next_fields: [i64; 2],
    /// Whether one of them has come.
    fields_due: bool,
    expiring: Expiring,
    swaps: u64,
    pub counters: Counters,
    pub effects: Effects,
    pub events: Events,
    changes: Changes,
}

impl Shard {
    /// A shard that owns `partitions` in each of `databases` databases. `hasher` is the one that makes the [`Key`]s.
    ///
    /// # Panics
    ///
    /// If the system grants no address space at all; this happens at start only.
    pub fn new(partitions: Range<u16>, databases: usize, hasher: Hasher) -> Self {
        match Shard::with_reserve(partitions, databases, hasher, heap::RESERVE_BYTES) {
            Ok(shard) => shard,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`Shard::new`], with at most `reserve_bytes` of address space for entries.
    fn with_reserve(
        partitions: Range<u16>,
        databases: usize,
        hasher: Hasher,
        reserve_bytes: usize,
    ) -> Result<Self, HeapError> {
        Ok(Shard {
            now: Now::default(),
            dbs: (0..databases).map(|_| Db::new(partitions.len())).collect(),
            own: databases,
            moves: vec![0; partitions.len()].into_boxed_slice(),
            adopted: VecDeque::new(),
            partitions,
            hasher,
            entries: Entries::new(reserve_bytes)?,
            flushed: VecDeque::new(),
            evictor: Evictor::new(),
            pressure: Pressure::new(),
            next_expiry: [NEVER_MS; 2],
            expire_first: 0,
            next_fields: [NEVER_MS; 2],
            fields_due: false,
            expiring: Expiring::Here,
            swaps: 0,
            counters: Counters::default(),
            effects: Effects::default(),
            events: Events::default(),
            changes: Changes::default(),
        })
    }

    pub fn set_now(&mut self, now: impl Into<Now>) {
        let before_ms = std::mem::replace(&mut self.now, now.into()).wall_ms;
        if self.now.wall_ms < before_ms {
            self.expect_rewind();
        }
        self.update_fields_due();
        self.evictor.set_now(&mut self.entries, self.now.steady_ms);
    }

    pub fn now(&self) -> Now {
        self.now
    }

    /// The wall clock: for moments that clients see.
    pub fn now_ms(&self) -> UnixMs {
        self.now.wall_ms
    }

    /// The steady clock: for how long something takes.
    pub fn steady_ms(&self) -> SteadyMs {
        self.now.steady_ms
    }

    /// The databases that clients can name.
    pub fn databases(&self) -> usize {
        self.own
    }

    /// All databases: in a cluster there is [`FOLLOWED`], which no client can name.
    pub fn all_databases(&self) -> usize {
        self.dbs.len()
    }

    pub fn partitions(&self) -> Range<u16> {
        self.partitions.clone()
    }

    /// Starts to load the bucket of `key` into the cache.
    #[inline]
    pub fn prefetch_bucket(&self, db: usize, key: &Key) {
        if let Some(table) = self.dbs[db].table(self.local(key.partition)) {
            table.prefetch(key.hash);
        }
    }

    /// Starts to load the entry of `key`; worth it some hundred cycles after [`Shard::prefetch_bucket`].
    #[inline]
    pub fn prefetch_entry(&self, db: usize, key: &Key) {
        if let Some(table) = self.dbs[db].table(self.local(key.partition)) {
            self.entries.prefetch(table.candidate(key.hash));
        }
    }

    /// Whether an access writes to other entries than its own, which [`Shard::prefetch_order`] loads.
    #[inline]
    pub fn orders_accesses(&self) -> bool {
        self.evictor.moves_at_access()
    }

    /// Starts to load the neighbours of the entry of `key` in the order of eviction; worth it some hundred cycles after
    /// [`Shard::prefetch_entry`].
    #[inline]
    pub fn prefetch_order(&self, db: usize, key: &Key) {
        if let Some(table) = self.dbs[db].table(self.local(key.partition)) {
            let candidate = table.candidate(key.hash);
            if candidate != Handle::NONE {
                self.evictor.prefetch_touch(&self.entries, candidate);
            }
        }
    }

    /// The live entry of `key`; counts a hit or a miss (and tells of it) and, if `touch`, an access.
    #[inline]
    pub fn read(&mut self, db: usize, key: &Key, touch: bool) -> Option<EntryRef<'_>> {
        let Some((_, handle)) = self.live(db, key) else {
            self.counters.misses += 1;
            self.events.push(Classes::KEY_MISS, "keymiss", db, key.bytes);
            return None;
        };
        self.counters.hits += 1;
        if touch {
            self.touch(db, handle);
        }
        Some(self.entry(handle))
    }

    /// The live entry of `key`, without counting or touching. An expired one is removed first.
    #[inline]
    pub fn peek(&mut self, db: usize, key: &Key) -> Option<EntryRef<'_>> {
        let (_, handle) = self.live(db, key)?;
        Some(self.entry(handle))
    }

    /// The type of the live entry of `key`.
    pub fn kind_of(&mut self, db: usize, key: &Key) -> Option<Kind> {
        self.peek(db, key).map(|entry| entry.kind)
    }

    /// Bytes charged for the live entry of `key`: its chunk, what lies outside of it, its share of the table.
    pub fn bytes_of(&mut self, db: usize, key: &Key) -> Option<usize> {
        let (_, handle) = self.live(db, key)?;
        Some(self.entries.charged_bytes(handle) + self.dbs[db].share(self.local(key.partition)))
    }

    /// Writes a string: replaces what was there, whatever its type. Counts as an access.
    ///
    /// A value that is handed over or shared is kept without a copy if it does not fit into the entry (4 KiB in all).
    #[inline]
    pub fn set(&mut self, db: usize, key: &Key, value: NewValue, expiry: Expiry) {
        self.make_room();
        let found = self.live(db, key);
        let expire_at = match expiry {
            Expiry::Keep => found.and_then(|(_, handle)| self.entries.expire_at(handle)),
            Expiry::Never => None,
            Expiry::At(deadline) => Some(deadline),
        };
        self.put(db, key, found, value, Meta { kind: Kind::String, raw: false, boxed: false, expire_at, usage: 0 });
        self.changes.note(db, key.bytes);
        if found.is_none() {
            self.events.push(Classes::NEW, "new", db, key.bytes);
        }
    }

    /// Changes a string in place (an absent one starts empty) and keeps its expiry; the entry is `raw` afterwards.
    /// Counts as an access.
    ///
    /// A large value is changed where it lies, after a copy if it is shared; it moves into the entry as soon as it fits.
    pub fn modify<R>(&mut self, db: usize, key: &Key, change: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        self.make_room();
        self.changes.note(db, key.bytes);
        let Some((place, old)) = self.live(db, key) else {
            let mut value = Vec::new();
            let result = change(&mut value);
            let meta = Meta { kind: Kind::String, raw: true, boxed: false, expire_at: None, usage: 0 };
            self.put(db, key, None, NewValue::Owned(value), meta);
            self.events.push(Classes::NEW, "new", db, key.bytes);
            return result;
        };
        let meta = Meta { raw: true, ..self.entries.meta(old) };
        let (new, result) = self.entries.modify(old, key.bytes, meta, change).expect(ROOM);
        self.settle(db, key, place, [old, new], meta.expire_at);
        self.touch(db, new);
        result
    }

    /// Removes `key`; false if it was not there (or had expired).
    pub fn remove(&mut self, db: usize, key: &Key) -> bool {
        let Some((place, handle)) = self.live(db, key) else { return false };
        self.unlink(db, key, place, handle);
        self.entries.free(handle);
        self.changes.note(db, key.bytes);
        true
    }

    /// Sets or clears the expiry of a live key; false if there is none. Counts as an access. A moment in the past is
    /// stored as given: the caller decides whether that means removal.
    pub fn set_expiry(&mut self, db: usize, key: &Key, at: Option<Deadline>) -> bool {
        self.make_room();
        let Some((place, old)) = self.live(db, key) else { return false };
        let before = self.disarm_unless(db, old, at);
        let new = self.entries.set_expire_at(old, key.bytes, at).expect(ROOM);
        self.settle(db, key, place, [old, new], before);
        self.touch(db, new);
        self.changes.note(db, key.bytes);
        true
    }

    /// Moves an entry out.
    pub fn detach(&mut self, db: usize, key: &Key) -> Option<Detached> {
        let entry = self.lend(db, key)?;
        self.changes.note(db, key.bytes);
        Some(entry)
    }

    /// A copy of an entry; a large string is shared.
    pub fn duplicate(&mut self, db: usize, key: &Key) -> Option<Detached> {
        let (_, handle) = self.live(db, key)?;
        let Meta { kind, raw, expire_at, usage, .. } = self.entries.meta(handle);
        let value = match (self.entries.collection(handle), self.entries.value(handle)) {
            (Some(large), _) => Stored::Large(Box::new(large.clone())),
            (None, Str::Inline(bytes)) => Stored::Bytes(Arc::new(bytes.to_vec())),
            (None, Str::Large(value)) => Stored::Bytes(Arc::clone(value)),
        };
        Some(Detached { kind, value, expire_at, raw, used: self.evictor.used(usage, self.is_followed(db)) })
    }

    /// Puts an entry in, replacing what was there. Counts as an access. Whether that is news is for the caller to say.
    pub fn attach(&mut self, db: usize, key: &Key, entry: Detached) {
        self.make_room();
        let found = self.live(db, key);
        let Detached { kind, value, expire_at, raw, .. } = entry;
        let meta = Meta { kind, raw, boxed: false, expire_at, usage: 0 };
        match value {
            Stored::Bytes(value) => self.put(db, key, found, NewValue::Shared(value), meta),
            Stored::Large(large) => self.put_collection(db, key, found, Value::Large(large), meta),
        }
        self.changes.note(db, key.bytes);
    }

    /// Keys of `db`, included those that have expired since the last [`Shard::expire_due`] (as in Redis).
    pub fn size(&self, db: usize) -> DbSize {
        self.dbs[db].size()
    }

    /// Exchanges the contents of two databases.
    pub fn swap(&mut self, a: usize, b: usize) {
        self.swaps += 1;
        self.note_swap(a, b);
        self.dbs.swap(a, b);
        // What is yet to be ranked goes along.
        for (db, ..) in &mut self.adopted {
            *db = match *db {
                db if db == a => b,
                db if db == b => a,
                db => db,
            };
        }
    }

    /// Bytes charged to this shard: entries, tables, wheels, large keys and values, what the eviction policy remembers.
    #[inline]
    pub fn memory(&self) -> usize {
        self.entries.bytes()
    }

    /// The part of [`Shard::memory`] that does not come from the allocator.
    pub fn heap_bytes(&self) -> usize {
        self.entries.heap().live_bytes()
    }

    /// Bytes that are mapped for [`Shard::heap_bytes`].
    pub fn mapped_bytes(&self) -> usize {
        self.entries.heap().mapped_bytes()
    }

    /// The access clock's now, s: it runs steadily.
    #[inline]
    fn now_s(&self) -> u32 {
        (self.now.steady_ms / 1000) as u32
    }

    /// Index of a partition among those of this shard.
    #[inline]
    fn local(&self, partition: u16) -> usize {
        debug_assert!(self.partitions.contains(&partition), "partition {partition} is not of {:?}", self.partitions);
        partition.wrapping_sub(self.partitions.start) as usize
    }

    /// The entry of `key`, if it is there and alive; removes it, or fields of it, with the effect, if they have expired.
    #[inline]
    fn live(&mut self, db: usize, key: &Key) -> Option<(Place, Handle)> {
        let (place, handle) = self.find(db, key)?;
        if self.has_expired(handle) {
            self.expire(db, handle);
            return None;
        }
        if self.fields_due {
            return self.live_fields(db, key, (place, handle));
        }
        Some((place, handle))
    }

    /// The entry of `key`, alive or not.
    #[inline(always)]
    fn find(&self, db: usize, key: &Key) -> Option<(Place, Handle)> {
        let table = self.dbs[db].table(self.local(key.partition))?;
        table.find(key.hash, |handle| self.entries.key_is(handle, key.bytes))
    }

    #[inline]
    fn entry(&self, handle: Handle) -> EntryRef<'_> {
        EntryRef {
            kind: self.entries.kind(handle),
            value: self.entries.value(handle),
            boxes: self.entries.boxes_of(handle),
            expire_at: self.entries.expire_at(handle).map(|deadline| self.now.wall_of(deadline)),
            raw: self.entries.raw(handle),
            idle_s: self.evictor.idle_s(self.entries.usage(handle), self.now_s()),
            frequency: self.evictor.count(self.entries.usage(handle)),
        }
    }

    /// Writes an entry where `found` says that the old one lies.
    #[inline]
    fn put(&mut self, db: usize, key: &Key, found: Option<(Place, Handle)>, value: NewValue, meta: Meta) {
        let Some((place, old)) = found else {
            let handle = self.entries.create(key.bytes, value, meta).expect(ROOM);
            return self.enter(db, key, handle, meta.expire_at);
        };
        let hash = Kind::Hash == meta.kind || Kind::Hash == self.entries.kind(old);
        self.entries.bury(old);
        let meta = Meta { usage: self.entries.usage(old), ..meta };
        let before = self.disarm_unless(db, old, meta.expire_at);
        let new = self.entries.replace(old, key.bytes, value, meta).expect(ROOM);
        self.settle(db, key, place, [old, new], before);
        if hash {
            self.plan_entry(db, key.bytes, new);
        }
        self.touch(db, new);
    }

    /// Enters a new entry into its table, its wheel and its eviction list.
    #[inline]
    fn enter(&mut self, db: usize, key: &Key, handle: Handle, expire_at: Option<Deadline>) {
        debug_assert!(!self.is_followed(db) || self.find(db, key).is_none(), "a key that is over is hidden, not gone");
        let local = self.local(key.partition);
        self.dbs[db].insert(local, key.hash, handle, self.now, &mut self.entries, &self.hasher);
        let now_s = self.now_s();
        if self.is_followed(db) {
            self.entries.set_usage(handle, now_s);
        } else {
            self.evictor.admit(&mut self.entries, handle, key.hash, now_s);
        }
        self.expect_expiry(db, expire_at);
        if self.entries.kind(handle) == Kind::Hash {
            self.plan_entry(db, key.bytes, handle);
        }
    }

    /// Counts an access.
    #[inline(always)]
    fn touch(&mut self, db: usize, handle: Handle) {
        let now_s = self.now_s();
        if self.is_followed(db) {
            return self.entries.set_usage(handle, now_s);
        }
        self.evictor.touch(&mut self.entries, handle, now_s);
    }

    /// Takes a live entry out of its table, its wheel and its eviction list; the entry itself stays.
    fn unlink(&mut self, db: usize, key: &Key, place: Place, handle: Handle) {
        let local = self.local(key.partition);
        self.evictor.forget(&mut self.entries, handle);
        self.dbs[db].remove(local, key.hash, place, handle, &mut self.entries, &self.hasher);
    }

    /// Removes an entry that no command asked to remove, with its effect.
    fn discard(&mut self, at: Location, handle: Handle) {
        let Location { db, partition, hash, place } = at;
        self.effects.push(db, &[b"DEL", self.entries.key(handle)]);
        self.changes.note(db, self.entries.key(handle));
        let local = self.local(partition);
        self.evictor.forget(&mut self.entries, handle);
        self.dbs[db].remove(local, hash, place, handle, &mut self.entries, &self.hasher);
        self.entries.free(handle);
    }

    /// Where an entry of one of the databases `dbs` lies; None if it is in none of them, but is being freed with a flushed
    /// one.
    fn locate(&self, mut dbs: Range<usize>, handle: Handle) -> Option<Location> {
        let Key { hash, partition, .. } = self.hasher.key(self.entries.key(handle));
        let local = self.local(partition);
        dbs.find_map(|db| {
            let place = self.dbs[db].place(local, hash, handle)?;
            Some(Location { db, partition, hash, place })
        })
    }
}

/// Where an entry lies; valid until the table next changes.
struct Location {
    db: usize,
    partition: u16,
    hash: u64,
    place: Place,
}

/// Why an allocation after [`Shard::make_room`] cannot fail.
const ROOM: &str = "a free slab was left for this allocation";

impl Drop for Shard {
    /// Large keys and values lie outside the heap and have to be dropped one by one.
    fn drop(&mut self) {
        for db in 0..self.dbs.len() {
            self.flush(db);
        }
        while self.free_flushed(usize::MAX) {}
    }
}
