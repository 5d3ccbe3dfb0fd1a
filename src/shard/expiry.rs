//! Expiry: which keys die when.
//!
//! A deadline is on one of two [clocks](super::clock), and is compared with that one only: what lasts 100 seconds lasts
//! 100 seconds, and what ends at noon ends when the wall clock shows noon, whatever is done to the wall clock.
//!
//! Two things remove a key whose time has come. Whoever looks at a key checks its expiry first ([`Shard::live`]): so no
//! command ever sees a dead one, whatever else happens. And the [`wheels`](super::wheel) of each database, one for each
//! clock, bring the keys that nobody looks at, in the millisecond in which they die, so that they neither cost memory nor
//! count as keys. Both remove it in the same way, with the effect `DEL` and the event `expired`.
//!
//! The owner of the shard calls [`Shard::expire_due`] once per turn, and sleeps no longer than until
//! [`Shard::next_expiry_ms`]; and if anything has an expiry, never for long, as the wall clock may be set ahead meanwhile.
//! How late a key is, is told by its own clock: one that is set ahead by an hour makes keys up to an hour late.
//!
//! Fields of hashes expire in the same manner: see [`super::fields`].
//!
//! Owned by one core.

use super::{Classes, Clock, Deadline, Handle, Key, Now, Place, Shard, UnixMs};
use crate::collection::hash::Hash;

/// Entries of the wheels that one call of [`Shard::expire_due`] looks at: some 30 µs of work, which requests that arrive
/// meanwhile wait for.
pub(super) const TURN_ENTRIES_MAX: usize = 128;

/// What [`Shard::next_expiry_ms`] says if no key has an expiry.
pub const NEVER_MS: UnixMs = UnixMs::MAX;

/// Who decides that a key's time has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiring {
    /// This shard.
    #[default]
    Here,
    /// Another node, whose log says so: until then a key that is over is not shown, but stays.
    Elsewhere,
    /// The log that is being replayed: no time has come before it says so.
    Never,
}

impl Shard {
    /// Says who decides what is over; returns who has done so.
    pub fn set_expiring(&mut self, expiring: Expiring) -> Expiring {
        let before = std::mem::replace(&mut self.expiring, expiring);
        self.update_fields_due();
        before
    }

    /// The time for commands, which compare it with what they are told to set.
    #[inline]
    pub fn now_for_commands(&self) -> Now {
        if self.expiring == Expiring::Never { Now::default() } else { self.now }
    }

    /// Removes keys and fields whose time has come, with their effects, and tells how late each one is, ms. What is too much for one
    /// call is left for the next.
    pub fn expire_due(&mut self, mut late_ms: impl FnMut(u64)) {
        let mut budget = TURN_ENTRIES_MAX;
        let wheels = 4 * self.own;
        for _ in 0..wheels {
            let (db, clock) = (self.expire_first / 4, Clock::ALL[self.expire_first % 2]);
            match self.expire_first & 2 {
                0 => self.expire_due_keys(db, clock, &mut budget, &mut late_ms),
                _ => self.expire_due_fields(db, clock, &mut budget, &mut late_ms),
            }
            // The next call goes on with the next wheel: one with a lot to do does not hold up the others.
            self.expire_first = (self.expire_first + 1) % wheels;
            if budget == 0 {
                self.counters.expire_cap_reached += 1;
                break;
            }
        }
        // Fields of what is followed count, too: reads must not show those that are over.
        let fields = |clock: Clock| self.dbs.iter().filter_map(|db| db.next_fields()[clock as usize]).min();
        self.next_fields = Clock::ALL.map(|clock| fields(clock).unwrap_or(NEVER_MS));
        self.next_expiry = self.next_due();
        self.update_fields_due();
    }

    fn expire_due_keys(&mut self, db: usize, clock: Clock, budget: &mut usize, mut late_ms: impl FnMut(u64)) {
        let now = self.now.of(clock);
        while let Some(handle) = self.dbs[db].wheel_mut(clock).due(&mut self.entries, now, budget) {
            let expire_at = self.entries.expire_at(handle).map_or(now, Deadline::ms);
            late_ms(now.saturating_sub(expire_at) as u64);
            self.expire(db, handle);
        }
    }

    /// From when on [`Shard::expire_due`] may have something to do, as the wall clock stands now; [`NEVER_MS`] if no key
    /// has an expiry, or another node decides.
    #[inline]
    pub fn next_expiry_ms(&self) -> UnixMs {
        let [wall, steady] = self.next_expiry;
        match steady {
            _ if self.expiring != Expiring::Here => NEVER_MS,
            NEVER_MS => wall,
            steady => wall.min(self.now.wall_of(Deadline::new(Clock::Steady, steady))),
        }
    }

    #[inline]
    pub(super) fn has_expired(&self, handle: Handle) -> bool {
        self.entries
            .expire_at(handle)
            .is_some_and(|deadline| self.now.has_reached(deadline) && self.expiring != Expiring::Never)
    }

    /// Whether an entry is as good as removed: it has expired, or all that it consists of.
    #[inline]
    pub(super) fn is_over(&self, handle: Handle) -> bool {
        self.has_expired(handle) || self.fields_are_over(handle)
    }

    /// Whether an entry is as good as removed: it is over, and nobody can say that it is not. Where another node decides, an
    /// entry that is over by the clock of this one may have been given more time.
    pub(super) fn is_gone(&self, db: usize, handle: Handle) -> bool {
        self.expiring_of(db) == Expiring::Here && self.is_over(handle)
    }

    /// Removes an entry that is over, with its effect, if that is for this shard to do.
    #[cold]
    pub(super) fn expire(&mut self, db: usize, handle: Handle) {
        if self.expiring_of(db) != Expiring::Here {
            return;
        }
        let key = self.entries.key(handle);
        if self.has_expired(handle) {
            self.counters.expired += 1;
            self.events.push(Classes::EXPIRED, "expired", db, key);
        } else {
            self.counters.expired_fields += Hash::new(self.entry(handle).collection()).len() as u64;
            self.events.push(Classes::HASH, "hexpired", db, key);
            self.events.push(Classes::GENERIC, "del", db, key);
        }
        let at = self.locate(db..db + 1, handle).expect("every entry lies in its table");
        self.discard(at, handle);
    }

    /// Takes an entry out of the wheel if it will not expire at `at` any more. Returns when it was to expire.
    #[inline]
    pub(super) fn disarm_unless(&mut self, db: usize, handle: Handle, at: Option<Deadline>) -> Option<Deadline> {
        let before = self.entries.expire_at(handle)?;
        if at != Some(before) {
            self.dbs[db].wheel_mut(before.clock()).remove(&mut self.entries, handle);
        }
        Some(before)
    }

    /// Notes that the wheels of `db` have to be looked at, at the latest, at `at`; those of what is followed never have to be.
    #[inline]
    pub(super) fn expect_expiry(&mut self, db: usize, at: Option<Deadline>) {
        if let Some(at) = at
            && !self.is_followed(db)
        {
            let next = &mut self.next_expiry[at.clock() as usize];
            *next = at.ms().min(*next);
        }
    }

    /// The wall clock was set back. What the wheels said of it was about a time that is still to come, and must not be waited
    /// for: they have to be looked at.
    #[cold]
    pub(super) fn expect_rewind(&mut self) {
        let next = &mut self.next_expiry[Clock::Wall as usize];
        if *next != NEVER_MS {
            *next = self.now.wall_ms.min(*next);
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
        before: Option<Deadline>,
    ) {
        if new != old {
            let local = self.local(key.partition);
            self.dbs[db].set_handle(local, place, new);
        }
        if !self.is_followed(db) {
            self.evictor.settle(&mut self.entries, [old, new]);
        }
        let Some(at) = self.entries.expire_at(new) else { return };
        if before != Some(at) {
            self.dbs[db].arm(&mut self.entries, new, at.clock(), self.now);
            self.expect_expiry(db, Some(at));
        } else if new != old {
            self.dbs[db].wheel_mut(at.clock()).moved(&mut self.entries, new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Hasher;
    use crate::shard::{Expiry, NewValue};

    const START_MS: UnixMs = 1_700_000_000_000;

    fn expired_at(shard: &mut Shard, now: Now) -> u64 {
        shard.set_now(now);
        while shard.next_expiry_ms() <= shard.now_ms() {
            shard.expire_due(|_| {});
        }
        shard.counters.expired
    }

    /// The wheel of a database stands where the clock was when its first key came.
    #[test]
    fn a_wall_clock_that_is_set_back_does_not_hide_what_is_due() {
        let hasher = Hasher::new(1, [1, 2, 3, 4]);
        for exchanges in [false, true] {
            let mut shard = Shard::with_reserve(0..1, 2, hasher.clone(), 1 << 30).unwrap();
            let set = |shard: &mut Shard, key: &[u8], at_ms| {
                let at = Expiry::At(Deadline::new(Clock::Wall, at_ms));
                shard.set(0, &hasher.key(key), NewValue::Bytes(b"v"), at);
            };
            shard.set_now(Now { wall_ms: START_MS + 30_000, steady_ms: START_MS });
            set(&mut shard, b"later", START_MS + 60_000);
            shard.set_now(Now { wall_ms: START_MS, steady_ms: START_MS });
            set(&mut shard, b"sooner", START_MS + 1_000);
            if exchanges {
                shard.swap(0, 1);
            }
            let at = |passed_ms| Now { wall_ms: START_MS + passed_ms, steady_ms: START_MS + passed_ms };
            assert_eq!(expired_at(&mut shard, at(999)), 0);
            assert_eq!(expired_at(&mut shard, at(1_000)), 1, "exchanged: {exchanges}");
            assert_eq!(expired_at(&mut shard, at(60_000)), 2);
        }
    }
}
