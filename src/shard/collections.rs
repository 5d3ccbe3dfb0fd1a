//! Collections in a shard: how a command reads and changes one.
//!
//! A collection is taken out of its entry, changed, and put back: the command sees a [`Value`] and nothing of the entry.
//! A compact one is copied out and in (at most some kilobytes, in a vector that is used again and again); of a large one
//! only the box moves.
//!
//! Owned by one core.

use super::entry::Meta;
use super::{Changed, Classes, Handle, Key, Kind, Place, ROOM, Shard, Value, ValueRef, WrongType};
use crate::collection::hash;

impl Shard {
    /// The collection at `key`, without counting, touching or expiring: what has expired is not there.
    pub fn view(&self, db: usize, key: &Key, kind: Kind) -> Option<ValueRef<'_>> {
        let table = self.dbs[db].table(self.local(key.partition))?;
        let (_, handle) = table.find(key.hash, |handle| self.entries.key_is(handle, key.bytes))?;
        let entry = self.entry(handle);
        (entry.kind == kind && !self.is_over(handle)).then(|| entry.collection())
    }

    /// Lets `change` work on the collection at `key`, or on an empty one if there is none and `create`. It returns a result
    /// and the number of its changes; without one, nothing must be different. A collection that is empty afterwards goes
    /// with its key. Counts as an access. None: there is none.
    pub fn change<R>(
        &mut self,
        db: usize,
        key: &Key,
        kind: Kind,
        create: bool,
        change: impl FnOnce(&mut Value) -> (R, u64),
    ) -> Result<Option<(Changed<R>, u64)>, WrongType> {
        self.make_room();
        let Some((place, old)) = self.live(db, key) else {
            return Ok(create.then(|| self.start_collection(db, key, kind, change)));
        };
        if self.entries.kind(old) != kind {
            return Err(WrongType);
        }
        let meta = self.entries.meta(old);
        let mut value = self.entries.take_collection(old);
        let deadlines = |value: &Value| (kind == Kind::Hash).then(|| hash::next_deadlines(value.view()));
        let before = deadlines(&value);
        let (result, changes) = change(&mut value);
        if changes > 0 {
            self.changes.note(db, key.bytes);
        }
        if value.is_empty() {
            self.unlink(db, key, place, old);
            self.entries.drop_emptied(old, value);
            return Ok(Some((Changed { result, removed: true }, changes)));
        }
        let after = deadlines(&value);
        let new = self.entries.put_collection(old, key.bytes, value, meta).expect(ROOM);
        self.settle(db, key, place, [old, new], meta.expire_at);
        if before != after {
            self.plan_fields(db, key.bytes, after.unwrap_or_default());
        }
        self.touch(db, new);
        Ok(Some((Changed { result, removed: false }, changes)))
    }

    fn start_collection<R>(
        &mut self,
        db: usize,
        key: &Key,
        kind: Kind,
        change: impl FnOnce(&mut Value) -> (R, u64),
    ) -> (Changed<R>, u64) {
        let mut value = self.entries.new_collection();
        let (result, changes) = change(&mut value);
        if value.is_empty() {
            self.entries.drop_unused(value);
        } else {
            let meta = Meta { kind, raw: false, boxed: false, expire_at: None, usage: 0 };
            self.put_collection(db, key, None, value, meta);
            self.changes.note(db, key.bytes);
            self.events.push(Classes::NEW, "new", db, key.bytes);
        }
        (Changed { result, removed: false }, changes)
    }

    /// Puts a collection in the place of whatever is at `key`, without an expiry. An empty one removes the key. Counts as
    /// an access. Returns whether the key was there before.
    pub fn store(&mut self, db: usize, key: &Key, kind: Kind, value: Value) -> bool {
        self.make_room();
        if value.is_empty() {
            return self.remove(db, key);
        }
        let found = self.live(db, key);
        let meta = Meta { kind, raw: false, boxed: false, expire_at: None, usage: 0 };
        self.put_collection(db, key, found, value, meta);
        self.changes.note(db, key.bytes);
        if found.is_none() {
            self.events.push(Classes::NEW, "new", db, key.bytes);
        }
        found.is_some()
    }

    /// As [`Shard::put`], for a collection.
    pub(super) fn put_collection(
        &mut self,
        db: usize,
        key: &Key,
        found: Option<(Place, Handle)>,
        value: Value,
        meta: Meta,
    ) {
        let Some((place, old)) = found else {
            let handle = self.entries.create_collection(key.bytes, value, meta).expect(ROOM);
            return self.enter(db, key, handle, meta.expire_at);
        };
        let hash = Kind::Hash == meta.kind || Kind::Hash == self.entries.kind(old);
        let meta = Meta { usage: self.entries.usage(old), ..meta };
        let before = self.disarm_unless(db, old, meta.expire_at);
        let new = self.entries.replace_by_collection(old, key.bytes, value, meta).expect(ROOM);
        self.settle(db, key, place, [old, new], before);
        if hash {
            self.plan_entry(db, key.bytes, new);
        }
        self.touch(db, new);
    }

    /// Frees a piece of the large collections that are gone; false if there are none left.
    pub(super) fn free_buried(&mut self, pieces: usize) -> bool {
        self.entries.boxes_mut().free_buried(pieces)
    }
}
