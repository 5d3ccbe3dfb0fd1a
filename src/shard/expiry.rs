//! Expiry: which keys die when.
//!
//! Two things remove a key whose time has come. Whoever looks at a key checks its expiry first ([`Shard::live`]): so no
//! command ever sees a dead one, whatever else happens. And the [`wheel`](super::wheel) of each database brings the keys
//! that nobody looks at, in the millisecond in which they die, so that they neither cost memory nor count as keys. Both
//! remove it in the same way, with the effect `DEL`.
//!
//! The owner of the shard calls [`Shard::expire_due`] once per turn, and sleeps no longer than until
//! [`Shard::next_expiry_ms`].
//!
//! Owned by one core.

use super::{Handle, Key, Place, Shard, UnixMs};

/// Entries of the wheels that one call of [`Shard::expire_due`] looks at: some 30 µs of work, which requests that arrive
/// meanwhile wait for.
pub(super) const TURN_ENTRIES_MAX: usize = 128;

/// What [`Shard::next_expiry_ms`] says if no key has an expiry.
pub const NEVER_MS: UnixMs = UnixMs::MAX;

impl Shard {
    /// Removes keys whose time has come, with their effects, and tells how late each one is, ms. What is too much for one
    /// call is left for the next.
    pub fn expire_due(&mut self, mut late_ms: impl FnMut(u64)) {
        let mut budget = TURN_ENTRIES_MAX;
        for _ in 0..self.dbs.len() {
            let db = self.expire_first;
            while let Some(handle) = self.dbs[db].wheel.due(&mut self.entries, self.now_ms, &mut budget) {
                let expire_at = self.entries.expire_at(handle).unwrap_or(self.now_ms);
                late_ms(self.now_ms.saturating_sub(expire_at) as u64);
                self.expire(db, handle);
            }
            // The next call goes on with the next database: one with a lot to do does not hold up the others.
            self.expire_first = (db + 1) % self.dbs.len();
            if budget == 0 {
                self.counters.expire_cap_reached += 1;
                break;
            }
        }
        self.next_expiry_ms = self.dbs.iter().filter_map(|db| db.wheel.next()).min().unwrap_or(NEVER_MS);
    }

    /// From when on [`Shard::expire_due`] may have something to do; [`NEVER_MS`] if no key has an expiry.
    #[inline]
    pub fn next_expiry_ms(&self) -> UnixMs {
        self.next_expiry_ms
    }

    #[inline]
    pub(super) fn has_expired(&self, handle: Handle) -> bool {
        self.entries.expire_at(handle).is_some_and(|at| at <= self.now_ms)
    }

    /// Removes an expired entry, with its effect.
    #[cold]
    pub(super) fn expire(&mut self, db: usize, handle: Handle) {
        self.counters.expired += 1;
        self.discard(db, handle);
    }

    /// Takes an entry out of the wheel if it will not expire at `at` any more. Returns when it was to expire.
    #[inline]
    pub(super) fn disarm_unless(&mut self, db: usize, handle: Handle, at: Option<UnixMs>) -> Option<UnixMs> {
        let before = self.entries.expire_at(handle);
        if before.is_some() && before != at {
            self.dbs[db].wheel.remove(&mut self.entries, handle);
        }
        before
    }

    /// Notes that the wheels have to be looked at, at the latest, at `at`.
    #[inline]
    pub(super) fn expect_expiry(&mut self, at: Option<UnixMs>) {
        if let Some(at) = at {
            self.next_expiry_ms = self.next_expiry_ms.min(at);
        }
    }

    /// Tells table, wheel and eviction about an entry that was at `old`, lies at `new` now, and was to expire at `before`.
    #[inline]
    pub(super) fn settle(
        &mut self,
        db: usize,
        key: &Key,
        place: Place,
        [old, new]: [Handle; 2],
        before: Option<UnixMs>,
    ) {
        if new != old {
            let local = self.local(key.partition);
            self.dbs[db].set_handle(local, place, new);
        }
        self.evictor.settle(&mut self.entries, [old, new]);
        let Some(at) = self.entries.expire_at(new) else { return };
        if before != Some(at) {
            self.dbs[db].arm(&mut self.entries, new, self.now_ms);
            self.expect_expiry(Some(at));
        } else if new != old {
            self.dbs[db].wheel.moved(&mut self.entries, new);
        }
    }
}
