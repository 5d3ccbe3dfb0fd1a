//! Which keys have changed: versions of watched keys, and the log of a scratch shard.
//!
//! WATCH needs to know whether a key has changed between two moments. A shard keeps a *version* for each key that some
//! client watches, and no other: every change gives it a new one, and two versions are never the same, so a change and
//! its reversal are two changes. Changes are what Redis takes for some: a write of the same value is one, and so is an
//! expiry, an eviction, and a flush of a database in which the key existed.
//!
//! A key that has expired is as good as absent. WATCH looks at the key first, which removes it if its time has come, so a
//! key that was over already when it was watched does not change by being removed.
//!
//! A scratch shard ([`crate::borrow`]) watches nothing, but logs the keys that were changed in it: they are what its
//! owners have to be told.
//!
//! Keys for which clients wait ([`crate::blocking`]) are noted when they change, too: there may be an element.
//!
//! While nothing is watched, awaited or logged, a change costs one check.
//!
//! Owned by one core.

use std::collections::{HashMap, HashSet};

use super::Shard;
use crate::route::Key;

/// A number that a watched key gets at each change. 0 is none of them.
pub type Version = u64;

/// A watched key.
#[derive(Debug)]
struct Watched {
    version: Version,
    /// How many watch it.
    watchers: u32,
}

/// See the module.
///
/// Invariant: `active` if some key is watched or awaited, or changes are logged.
#[derive(Debug, Default)]
pub(super) struct Changes {
    active: bool,
    last: Version,
    /// By database.
    watched: Vec<HashMap<Box<[u8]>, Watched>>,
    log: Option<HashSet<(u8, Vec<u8>)>>,
    /// Somebody waits for keys of this shard: all changes are noted in `maybe_ready`.
    awaited: HashSet<(u8, Vec<u8>)>,
    maybe_ready: Vec<(u8, Vec<u8>)>,
}

impl Changes {
    /// Notes that a key has changed.
    #[inline]
    pub(super) fn note(&mut self, db: usize, key: &[u8]) {
        if self.active {
            self.note_active(db, key);
        }
    }

    /// Gives a key a new version, if it is watched.
    fn renew(&mut self, db: usize, key: &[u8]) {
        if let Some(watched) = self.watched.get_mut(db).and_then(|keys| keys.get_mut(key)) {
            self.last += 1;
            watched.version = self.last;
        }
    }

    #[cold]
    fn note_active(&mut self, db: usize, key: &[u8]) {
        self.renew(db, key);
        if self.log.is_some() || !self.awaited.is_empty() {
            let place = (db as u8, key.to_vec());
            if self.awaited.contains(&place) && self.maybe_ready.last() != Some(&place) {
                self.maybe_ready.push(place.clone());
            }
            if let Some(log) = &mut self.log {
                log.insert(place);
            }
        }
    }

    fn update_active(&mut self) {
        self.active =
            self.log.is_some() || !self.awaited.is_empty() || self.watched.iter().any(|keys| !keys.is_empty());
    }

    fn keys_of(&self, db: usize) -> Vec<Box<[u8]>> {
        self.watched.get(db).map_or_else(Vec::new, |keys| keys.keys().cloned().collect())
    }
}

impl Shard {
    /// Says that a key of this shard was changed by other means than the functions of [`Shard`] that change a key.
    #[inline]
    pub fn changed(&mut self, db: usize, key: &[u8]) {
        self.changes.note(db, key);
    }

    /// From now on changes are logged; see [`Shard::take_changed`].
    pub fn log_changes(&mut self) {
        self.changes.log = Some(HashSet::new());
        self.changes.update_active();
    }

    /// Whether `key` has changed since this was last asked.
    pub fn take_changed(&mut self, db: usize, key: &[u8]) -> bool {
        self.changes.log.as_mut().is_some_and(|log| log.remove(&(db as u8, key.to_vec())))
    }

    /// One more watches `key`, until [`Shard::unwatch`]; returns its version.
    pub fn watch(&mut self, db: usize, key: &Key) -> Version {
        // A key that is over is removed before anybody watches it.
        self.peek(db, key);
        let changes = &mut self.changes;
        if changes.watched.len() <= db {
            changes.watched.resize_with(db + 1, HashMap::new);
        }
        changes.active = true;
        let watched = changes.watched[db].entry(key.bytes.into()).or_insert_with(|| {
            changes.last += 1;
            Watched { version: changes.last, watchers: 0 }
        });
        watched.watchers += 1;
        watched.version
    }

    /// The version of a watched key, 0 if nobody watches it. An expiry that is due is a change.
    pub fn version(&mut self, db: usize, key: &Key) -> Version {
        self.peek(db, key);
        self.changes.watched.get(db).and_then(|keys| keys.get(key.bytes)).map_or(0, |watched| watched.version)
    }

    /// One less watches `key`.
    pub fn unwatch(&mut self, db: usize, key: &[u8]) {
        let Some(keys) = self.changes.watched.get_mut(db) else { return };
        let Some(watched) = keys.get_mut(key) else { return };
        watched.watchers -= 1;
        if watched.watchers == 0 {
            keys.remove(key);
            if keys.is_empty() {
                keys.shrink_to_fit();
            }
        }
        self.changes.update_active();
    }

    /// Changes of `key` are noted until [`Shard::forget_awaited`]; see [`Shard::take_maybe_ready`].
    pub fn await_key(&mut self, db: u8, key: &[u8]) {
        self.changes.awaited.insert((db, key.to_vec()));
        self.changes.active = true;
    }

    pub fn forget_awaited(&mut self, db: u8, key: &[u8]) {
        if self.changes.awaited.remove(&(db, key.to_vec())) {
            self.changes.update_active();
        }
    }

    /// There may be an element at `key`, though nobody has changed it.
    pub fn note_if_awaited(&mut self, db: u8, key: &[u8]) {
        if !self.changes.awaited.is_empty() && self.changes.awaited.contains(&(db, key.to_vec())) {
            self.changes.maybe_ready.push((db, key.to_vec()));
        }
    }

    /// Whether [`Shard::take_maybe_ready`] has something.
    #[inline]
    pub fn has_maybe_ready(&self) -> bool {
        !self.changes.maybe_ready.is_empty()
    }

    /// The awaited keys that have changed since this was last asked.
    pub fn take_maybe_ready(&mut self) -> Vec<(u8, Vec<u8>)> {
        std::mem::take(&mut self.changes.maybe_ready)
    }

    /// How many keys are watched.
    pub fn watched_keys(&self) -> usize {
        self.changes.watched.iter().map(HashMap::len).sum()
    }

    /// The watched keys of `db` that exist, are going to be removed.
    pub(super) fn note_flush(&mut self, db: usize) {
        if self.changes.active {
            for key in self.changes.keys_of(db) {
                self.note_if_any(&key, [db, db], db);
            }
        }
    }

    /// The watched keys of a partition of `db` that exist, are going to be removed.
    pub(super) fn note_drop(&mut self, db: usize, partition: u16) {
        for key in self.watched_of(db, partition) {
            self.note_if_any(&key, [db, db], db);
        }
    }

    /// A partition arrives in `db`: what happened to its keys meanwhile, nobody knows here.
    pub(super) fn note_arrival(&mut self, db: usize, partition: u16) {
        for key in self.watched_of(db, partition) {
            self.changes.renew(db, &key);
        }
        let hasher = &self.hasher;
        let here = |(at, key): &&(u8, Vec<u8>)| *at as usize == db && hasher.key(key).partition == partition;
        let awaited: Vec<(u8, Vec<u8>)> = self.changes.awaited.iter().filter(here).cloned().collect();
        self.changes.maybe_ready.extend(awaited);
    }

    fn watched_of(&self, db: usize, partition: u16) -> Vec<Box<[u8]>> {
        let keys = self.changes.watched.get(db).into_iter().flat_map(HashMap::keys);
        keys.filter(|key| self.hasher.key(key).partition == partition).cloned().collect()
    }

    /// Two databases are going to be exchanged: a watched key changes if it is in one of them.
    pub(super) fn note_swap(&mut self, a: usize, b: usize) {
        if self.changes.active && a != b {
            let concerned = self.changes.awaited.iter().filter(|(db, _)| [a, b].contains(&(*db as usize)));
            self.changes.maybe_ready.extend(concerned.cloned());
            for db in [a, b] {
                for key in self.changes.keys_of(db) {
                    self.note_if_any(&key, [a, b], db);
                }
            }
        }
    }

    fn note_if_any(&mut self, bytes: &[u8], dbs: [usize; 2], db: usize) {
        let hasher = self.hasher.clone();
        let key = hasher.key(bytes);
        if dbs.into_iter().any(|db| self.peek(db, &key).is_some()) {
            self.changes.note(db, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Clock, Deadline, Expiry, NewValue};
    use super::*;
    use crate::route::Hasher;

    struct Core {
        shard: Shard,
        hasher: Hasher,
    }

    impl Core {
        fn new() -> Core {
            let hasher = Hasher::new(4, [1, 2, 3, 4]);
            let mut shard = Shard::new(0..4, 4, hasher.clone());
            shard.set_now(1000);
            Core { shard, hasher }
        }

        fn set(&mut self, db: usize, key: &str, expiry: Expiry) {
            self.shard.set(db, &self.hasher.key(key.as_bytes()), NewValue::Bytes(b"v"), expiry);
        }

        fn watch(&mut self, db: usize, key: &str) -> Version {
            self.shard.watch(db, &self.hasher.key(key.as_bytes()))
        }

        /// Whether the key has changed since it had this version.
        fn differs(&mut self, db: usize, key: &str, version: Version) -> bool {
            self.shard.version(db, &self.hasher.key(key.as_bytes())) != version
        }
    }

    fn at(ms: i64) -> Expiry {
        Expiry::At(Deadline::new(Clock::Steady, ms))
    }

    #[test]
    fn every_way_to_change_a_key_changes_its_version() {
        type Change = fn(&mut Core, &Key);
        let changes: [(&str, Change); 9] = [
            ("set", |core, key| core.shard.set(0, key, NewValue::Bytes(b"v"), Expiry::Keep)),
            ("modify", |core, key| core.shard.modify(0, key, |value| value.push(b'x'))),
            ("remove", |core, key| assert!(core.shard.remove(0, key))),
            ("set_expiry", |core, key| assert!(core.shard.set_expiry(0, key, None))),
            ("detach", |core, key| drop(core.shard.detach(0, key))),
            ("attach", |core, key| {
                let entry = core.shard.duplicate(0, key).unwrap();
                core.shard.attach(0, key, entry);
            }),
            ("flush", |core, _| assert_eq!(core.shard.flush(0), 1)),
            ("swap", |core, _| core.shard.swap(3, 0)),
            ("expiry", |core, key| {
                core.shard.set_now(2000);
                assert!(core.shard.peek(0, key).is_none());
            }),
        ];
        for (name, change) in changes {
            let mut core = Core::new();
            core.set(0, "key", at(2000));
            let (version, other) = (core.watch(0, "key"), core.watch(1, "key"));
            assert!(!core.differs(0, "key", version), "{name}");
            let hasher = core.hasher.clone();
            change(&mut core, &hasher.key(b"key"));
            assert!(core.differs(0, "key", version), "{name}");
            assert!(!core.differs(1, "key", other), "{name}: another database");
            assert!(!core.shard.take_changed(0, b"key"), "{name}: nothing is logged");
        }
    }

    #[test]
    fn what_does_not_change_an_absent_key() {
        let mut core = Core::new();
        let version = core.watch(0, "absent");
        core.set(0, "other", Expiry::Never);
        core.set(1, "absent", at(1500));
        core.shard.flush(0);
        core.shard.swap(0, 2);
        let key = core.hasher.clone();
        core.shard.remove(0, &key.key(b"absent"));
        assert!(!core.differs(0, "absent", version));
        // A key that is over is not there, wherever it comes from.
        core.shard.set_now(1600);
        core.shard.swap(0, 1);
        assert!(!core.differs(0, "absent", version));
        core.set(1, "absent", Expiry::Never);
        core.shard.swap(0, 1);
        assert!(core.differs(0, "absent", version));
    }

    #[test]
    fn what_was_over_before_does_not_change_by_being_removed() {
        let mut core = Core::new();
        core.set(0, "key", at(1500));
        core.shard.set_now(1600);
        let version = core.watch(0, "key");
        core.shard.expire_due(|_| ());
        assert!(!core.differs(0, "key", version));
        core.set(0, "key", at(1700));
        let version = core.watch(0, "key");
        core.shard.set_now(1700);
        assert!(core.differs(0, "key", version), "nobody has looked at it yet");
    }

    #[test]
    fn a_version_lasts_as_long_as_somebody_watches() {
        let mut core = Core::new();
        let version = core.watch(0, "key");
        assert_eq!(core.watch(0, "key"), version);
        core.shard.unwatch(0, b"key");
        assert!(!core.differs(0, "key", version));
        core.shard.unwatch(0, b"key");
        core.shard.unwatch(0, b"key");
        assert!(core.differs(0, "key", version) && !core.shard.changes.active);
        assert_ne!(core.watch(0, "key"), version, "changes in between would not be seen");
        assert_eq!(core.shard.watched_keys(), 1);
    }

    #[test]
    fn a_scratch_shard_logs_what_was_changed_in_it() {
        let mut core = Core::new();
        core.shard.log_changes();
        core.set(0, "key", Expiry::Never);
        assert!(core.shard.take_changed(0, b"key"));
        assert!(!core.shard.take_changed(0, b"key") && !core.shard.take_changed(1, b"key"));
    }
}
