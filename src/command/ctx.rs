//! What a keyspace command works with: the shard, the database, and a way to say what it changed.

use std::sync::Arc;

use super::Args;
use crate::collection::{Thresholds, Value, ValueRef};
use crate::pubsub::PubSub;
use crate::resp::Error;
use crate::route::{Hasher, Key};
use crate::shard::{Changed, Classes, EntryRef, Expiry, Kind, NewValue, Now, Shard, Str, WrongType};

/// Large arguments that arrived in vectors of their own, by argument position. A command that stores one shares the
/// vector instead of copying it.
///
/// Nearly every request has none of them, and each request carries this: so it is one pointer, and null most of the time.
#[derive(Clone, Debug, Default)]
pub struct Owned(#[allow(clippy::box_collection, reason = "a box of a slice is two words")] Option<Box<OwnedArgs>>);

/// Values with the positions of their arguments, ascending.
type OwnedArgs = Vec<(usize, Arc<Vec<u8>>)>;

impl Owned {
    /// Values with the positions of their arguments, ascending.
    #[inline]
    pub fn new(args: OwnedArgs) -> Self {
        if args.is_empty() { Owned(None) } else { Owned(Some(Box::new(args))) }
    }

    /// Adds the vector of argument `index`, which comes after those that are here.
    pub fn push(&mut self, index: usize, value: Arc<Vec<u8>>) {
        self.0.get_or_insert_default().push((index, value));
    }

    /// The vector of argument `index`, if it lies in one of its own.
    #[inline]
    pub fn get(&self, index: usize) -> Option<Arc<Vec<u8>>> {
        self.0.as_ref()?.iter().find(|(i, _)| *i == index).map(|(_, value)| Arc::clone(value))
    }
}

/// The execution of one keyspace command.
pub struct Ctx<'a> {
    pub shard: &'a mut Shard,
    pub hasher: &'a Hasher,
    pub pubsub: &'a mut PubSub,
    /// The database that the connection has selected.
    pub db: usize,
    /// CLIENT NO-TOUCH: reads do not count as accesses.
    pub no_touch: bool,
    /// The first key, computed when the request was routed.
    pub first: Option<Key<'a>>,
    pub owned: &'a Owned,
    /// Sixty-four bits for commands that choose at random, so that they need no source of their own.
    pub random: u64,
    /// When compact collections become large ones.
    pub thresholds: &'a Thresholds,
    /// Longest string a command may build, bytes (proto-max-bulk-len).
    pub string_bytes_max: usize,
    /// Number of changes; a command that leaves it at 0 has no effect to log.
    pub changes: u64,
    /// The command has said what is logged instead of itself.
    pub logged: bool,
}

impl<'a> Ctx<'a> {
    /// The key with its hash and partition.
    #[inline]
    pub fn key<'k>(&self, bytes: &'k [u8]) -> Key<'k> {
        match self.first {
            Some(first) if std::ptr::eq(first.bytes, bytes) => {
                Key { bytes, hash: first.hash, partition: first.partition }
            }
            _ => self.hasher.key(bytes),
        }
    }

    pub fn now(&self) -> Now {
        self.shard.now_for_commands()
    }

    /// The live entry of `key`, for a command that reads it.
    #[inline]
    pub fn read(&mut self, key: &Key) -> Option<EntryRef<'_>> {
        self.shard.read(self.db, key, !self.no_touch)
    }

    /// The string at `key`, for a command that reads it.
    #[inline]
    pub fn read_str(&mut self, key: &Key) -> Option<Str<'_>> {
        self.read(key).map(|entry| entry.value)
    }

    /// The live entry of `key`, for a command that is about to write it: no hit or miss is counted.
    #[inline]
    pub fn peek(&mut self, key: &Key) -> Option<EntryRef<'_>> {
        self.shard.peek(self.db, key)
    }

    /// Writes argument `index` as a string to `key` and counts one change.
    #[inline]
    pub fn set_arg(&mut self, key: &Key, args: Args, index: usize, expiry: Expiry) {
        let value = match self.owned.get(index) {
            Some(value) => NewValue::Shared(value),
            None => NewValue::Bytes(args[index]),
        };
        self.shard.set(self.db, key, value, expiry);
        self.changes += 1;
    }

    /// Writes a string to `key` and counts one change.
    #[inline]
    pub fn set(&mut self, key: &Key, value: &[u8], expiry: Expiry) {
        self.shard.set(self.db, key, NewValue::Bytes(value), expiry);
        self.changes += 1;
    }

    /// The live collection at `key`, for a command that reads it.
    #[inline]
    pub fn collection(&mut self, key: &Key, kind: Kind) -> Result<Option<ValueRef<'_>>, Error> {
        match self.read(key) {
            None => Ok(None),
            Some(entry) if entry.kind == kind => Ok(Some(entry.collection())),
            Some(_) => Err(Error::WrongType),
        }
    }

    /// The live collection at `key`, for a command that is about to write it: nothing is counted.
    #[inline]
    pub fn peek_collection(&mut self, key: &Key, kind: Kind) -> Result<Option<ValueRef<'_>>, Error> {
        match self.peek(key) {
            None => Ok(None),
            Some(entry) if entry.kind == kind => Ok(Some(entry.collection())),
            Some(_) => Err(Error::WrongType),
        }
    }

    /// As [`Ctx::collection`], for looking at several keys at once after it has been called for each: nothing is counted.
    #[inline]
    pub fn view(&self, key: &Key, kind: Kind) -> Option<ValueRef<'_>> {
        self.shard.view(self.db, key, kind)
    }

    /// Changes the collection at `key`, or a new one if there is none and `create`; None if there is none. `change` returns
    /// a result and the number of changes, which are counted. See [`Shard::change`].
    #[inline]
    pub fn change<R>(
        &mut self,
        key: &Key,
        kind: Kind,
        create: bool,
        change: impl FnOnce(&mut Value, &Thresholds) -> (R, u64),
    ) -> Result<Option<Changed<R>>, Error> {
        let thresholds = self.thresholds;
        let done = self.shard.change(self.db, key, kind, create, |value| change(value, thresholds))?;
        Ok(done.map(|(changed, changes)| {
            self.changes += changes;
            changed
        }))
    }

    /// Puts a collection in the place of whatever is at `key`, whose expiry goes; an empty one removes the key. Counts a
    /// change unless there was nothing and is nothing, and logs the result. Returns whether there was something before.
    pub fn store(&mut self, key: &Key, kind: Kind, value: Value) -> bool {
        let stored = !value.is_empty();
        let before = self.shard.store(self.db, key, kind, value);
        self.changes += (stored || before) as u64;
        self.effect_is_entry(self.db, key, before);
        before
    }

    /// Removes `key`; counts a change if it was there.
    pub fn remove(&mut self, key: &Key) -> bool {
        let removed = self.shard.remove(self.db, key);
        self.changes += removed as u64;
        removed
    }

    /// Tells those who want to know that `name`, an event of `class`, happened to `key`.
    #[inline]
    pub fn event(&mut self, class: Classes, name: &'static str, key: &Key) {
        self.shard.events.push(class, name, self.db, key.bytes);
    }

    /// Logs the statement `args`, whose first argument is its only key, instead of the command as it was sent, behind what
    /// was logged before. To be called when the change has been made.
    #[inline]
    pub fn effect_is(&mut self, args: &[&[u8]]) {
        self.effect_in(self.db, args);
    }

    /// As [`Ctx::effect_is`], for a key of database `db`.
    #[inline]
    pub fn effect_in(&mut self, db: usize, args: &[&[u8]]) {
        if self.shard.effects.enabled() {
            self.shard.effects.push(db, args);
            self.logged = true;
        }
    }

    /// Logs a removal and the statements that make what is at `key` of database `db` now, instead of the command.
    /// `before`: something else was there.
    pub fn effect_is_entry(&mut self, db: usize, key: &Key, before: bool) {
        if !self.shard.effects.enabled() {
            return;
        }
        let kind = self.shard.kind_of(db, key);
        if before && kind != Some(Kind::String) {
            self.effect_in(db, &[b"DEL", key.bytes]);
        }
        if kind.is_some() {
            // So that the entry is not copied before it is written.
            let mut effects = std::mem::take(&mut self.shard.effects);
            self.shard.rebuild(db, key, |statement| effects.push(db, statement));
            self.shard.effects = effects;
            self.logged = true;
        }
    }
}

impl From<WrongType> for Error {
    fn from(_: WrongType) -> Error {
        Error::WrongType
    }
}
