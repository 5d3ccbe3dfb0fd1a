//! The model: the same shard over ordered maps, too simple to be wrong. Tests only.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Clock, Counters, DbSize, Deadline, Detached, Effects, Expiry, Kind, NewValue, Now, Stored, UnixMs};
use crate::route::Key;

/// What a read of the model shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub value: Vec<u8>,
    pub expire_at: Option<UnixMs>,
    pub raw: bool,
    pub idle_s: u32,
}

/// Partition, hash and bytes of a key.
type Id = (u16, u64, Vec<u8>);

struct Slot {
    value: Arc<Vec<u8>>,
    expire_at: Option<Deadline>,
    raw: bool,
    access_s: i64,
}

impl Slot {
    fn is_dead(&self, now: Now) -> bool {
        self.expire_at.is_some_and(|at| match at.clock() {
            Clock::Wall => at.ms() <= now.wall_ms,
            Clock::Steady => at.ms() <= now.steady_ms,
        })
    }
}

/// See [`super::Shard`].
pub(super) struct Naive {
    now: Now,
    dbs: Vec<BTreeMap<Id, Slot>>,
    /// Databases from this number on are followed: what is over there is hidden, and stays.
    own: usize,
    /// Nothing is over.
    pub replays: bool,
    pub counters: Counters,
    pub effects: Effects,
}

impl Naive {
    pub(super) fn new(databases: usize, own: usize) -> Self {
        Naive {
            now: Now::default(),
            dbs: (0..databases).map(|_| BTreeMap::new()).collect(),
            own,
            replays: false,
            counters: Counters::default(),
            effects: Effects::default(),
        }
    }

    pub(super) fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    pub(super) fn read(&mut self, db: usize, key: &Key, touch: bool) -> Option<Seen> {
        let found = self.find(db, key);
        if found {
            self.counters.hits += 1
        } else {
            self.counters.misses += 1
        }
        if found && touch {
            let now_s = self.now.steady_ms / 1000;
            if let Some(slot) = self.dbs[db].get_mut(&id(key)) {
                slot.access_s = now_s;
            }
        }
        if found { self.peek_found(db, key) } else { None }
    }

    pub(super) fn peek(&mut self, db: usize, key: &Key) -> Option<Seen> {
        if self.find(db, key) { self.peek_found(db, key) } else { None }
    }

    pub(super) fn set(&mut self, db: usize, key: &Key, value: NewValue, expiry: Expiry) {
        self.find(db, key);
        let value = match value {
            NewValue::Bytes(bytes) => Arc::new(bytes.to_vec()),
            NewValue::Owned(bytes) => Arc::new(bytes),
            NewValue::Shared(value) => value,
        };
        let old = self.dbs[db].get(&id(key)).and_then(|s| s.expire_at);
        let expire_at = match expiry {
            Expiry::Keep => old,
            Expiry::Never => None,
            Expiry::At(deadline) => Some(deadline),
        };
        let access_s = self.now.steady_ms / 1000;
        self.dbs[db].insert(id(key), Slot { value, expire_at, raw: false, access_s });
    }

    pub(super) fn modify<R>(&mut self, db: usize, key: &Key, change: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        self.find(db, key);
        let access_s = self.now.steady_ms / 1000;
        let slot = self.dbs[db].entry(id(key)).or_insert_with(|| Slot {
            value: Arc::new(Vec::new()),
            expire_at: None,
            raw: true,
            access_s,
        });
        slot.raw = true;
        slot.access_s = access_s;
        change(Arc::make_mut(&mut slot.value))
    }

    pub(super) fn remove(&mut self, db: usize, key: &Key) -> bool {
        self.find(db, key) && self.dbs[db].remove(&id(key)).is_some()
    }

    pub(super) fn set_expiry(&mut self, db: usize, key: &Key, at: Option<Deadline>) -> bool {
        if !self.find(db, key) {
            return false;
        }
        let now_s = self.now.steady_ms / 1000;
        if let Some(slot) = self.dbs[db].get_mut(&id(key)) {
            slot.expire_at = at;
            slot.access_s = now_s;
        }
        true
    }

    pub(super) fn detach(&mut self, db: usize, key: &Key) -> Option<Detached> {
        if !self.find(db, key) {
            return None;
        }
        let slot = self.dbs[db].remove(&id(key))?;
        Some(Detached {
            kind: Kind::String,
            value: Stored::Bytes(slot.value),
            expire_at: slot.expire_at,
            raw: slot.raw,
            used: Default::default(),
        })
    }

    pub(super) fn duplicate(&mut self, db: usize, key: &Key) -> Option<Detached> {
        if !self.find(db, key) {
            return None;
        }
        let slot = self.dbs[db].get(&id(key))?;
        Some(Detached {
            kind: Kind::String,
            value: Stored::Bytes(slot.value.clone()),
            expire_at: slot.expire_at,
            raw: slot.raw,
            used: Default::default(),
        })
    }

    pub(super) fn attach(&mut self, db: usize, key: &Key, entry: Detached) {
        self.find(db, key);
        let access_s = self.now.steady_ms / 1000;
        let Stored::Bytes(value) = entry.value else { panic!("this model knows strings only") };
        let slot = Slot { value, expire_at: entry.expire_at, raw: entry.raw, access_s };
        self.dbs[db].insert(id(key), slot);
    }

    pub(super) fn size(&self, db: usize) -> DbSize {
        let keys = self.dbs[db].len();
        DbSize { keys, expires: self.dbs[db].values().filter(|s| s.expire_at.is_some()).count() }
    }

    pub(super) fn flush(&mut self, db: usize) -> usize {
        std::mem::take(&mut self.dbs[db]).len()
    }

    pub(super) fn swap(&mut self, a: usize, b: usize) {
        self.dbs.swap(a, b);
    }

    pub(super) fn drop_partition(&mut self, db: usize, partition: u16) -> usize {
        self.take_partition(db, partition).len()
    }

    pub(super) fn move_partition(&mut self, partition: u16, from: usize, to: usize) {
        if from != to {
            self.take_partition(to, partition);
            let moved = self.take_partition(from, partition);
            self.dbs[to].extend(moved);
        }
    }

    fn take_partition(&mut self, db: usize, partition: u16) -> BTreeMap<Id, Slot> {
        let all = std::mem::take(&mut self.dbs[db]);
        let (taken, rest) = all.into_iter().partition(|((of, _, _), _)| *of == partition);
        self.dbs[db] = rest;
        taken
    }

    /// True if `key` is there and alive; removes it, with its effect, if it has expired.
    fn find(&mut self, db: usize, key: &Key) -> bool {
        match self.dbs[db].get(&id(key)) {
            None => false,
            Some(slot) if slot.is_dead(self.now) && !self.replays => {
                if db >= self.own {
                    return false;
                }
                self.dbs[db].remove(&id(key));
                self.counters.expired += 1;
                self.effects.push(db, &[b"DEL", key.bytes]);
                false
            }
            Some(_) => true,
        }
    }

    fn peek_found(&self, db: usize, key: &Key) -> Option<Seen> {
        let slot = self.dbs[db].get(&id(key))?;
        Some(Seen {
            value: slot.value.to_vec(),
            expire_at: slot.expire_at.map(|at| match at.clock() {
                Clock::Wall => at.ms(),
                Clock::Steady => self.now.wall_ms + (at.ms() - self.now.steady_ms),
            }),
            raw: slot.raw,
            idle_s: (self.now.steady_ms / 1000 - slot.access_s).max(0) as u32,
        })
    }

    /// Removes a key that the other side says it has expired or evicted; true if it had expired.
    pub(super) fn discard(&mut self, db: usize, key: &Key) -> bool {
        let slot = self.dbs[db].remove(&id(key)).expect("the key is there");
        let expired = slot.is_dead(self.now);
        self.counters.expired += expired as u64;
        expired
    }

    /// The keys of `partition` that are alive (or, with `dead`, have expired unnoticed).
    pub(super) fn keys(&self, db: usize, partition: u16, dead: bool) -> Vec<Vec<u8>> {
        let range = (partition, 0, Vec::new())..(partition + 1, 0, Vec::new());
        let wanted = |slot: &Slot| slot.is_dead(self.now) == dead;
        self.dbs[db].range(range).filter(|(_, slot)| wanted(slot)).map(|((_, _, key), _)| key.clone()).collect()
    }
}

fn id(key: &Key) -> Id {
    (key.partition, key.hash, key.bytes.to_vec())
}
