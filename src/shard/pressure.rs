//! Memory: what a shard may use, what happens at the limit, and the work that is done in pieces.
//!
//! [`Shard::memory`] is the sum of what is charged for live entries, tables, wheels and the policy's own memory. A command
//! that may need more asks first ([`Shard::make_way`]), which evicts until what it brings fits. The evictions for one
//! command are bounded; if they do not suffice, it runs while the limit is exceeded by less than [`OVERSHOOT_PART`], and
//! is refused otherwise. So the charge exceeds the limit by no more than that part and what one command adds beyond its
//! own arguments (a SETRANGE far behind the end), or brings although it can never fit.
//!
//! What is charged is live memory. The memory that is mapped is more: free chunks lie between live ones. When they are
//! too many, slabs are evacuated ([`super::heap`]): a few entries at every write, and more at the end of a turn.
//!
//! The work of a turn ([`Shard::work`]) is bounded, each kind by a constant below: requests that arrive meanwhile wait
//! for it.
//!
//! Owned by one core.

use super::evict::{Phase, Policy, Rule};
use super::lfu::LfuPace;
use super::{Classes, Clock, Handle, Key, Location, Shard};

/// Entries of flushed databases freed in one turn.
const TURN_FREED_MAX: usize = 512;

/// Allocations of large collections that are gone, freed in one turn.
const TURN_BURIED_MAX: usize = 256;

/// Entries that one turn ranks anew after a change of the policy.
const TURN_RANKED_MAX: usize = 256;

/// Entries that one turn evicts when the limit was lowered.
const TURN_EVICTED_MAX: usize = 128;

/// Entries moved out of slabs that are evacuated: in one turn, and at one write.
const TURN_MOVED_MAX: usize = 64;
const WRITE_MOVED_MAX: usize = 2;

/// Entries that make way for one command, evicted or freed of flushed databases.
const COMMAND_EVICTED_MAX: usize = 16 * 1024;
const COMMAND_FREED_MAX: usize = 16 * 1024;

/// Part of the limit by which it may be exceeded while a command's evictions did not suffice.
const OVERSHOOT_PART: usize = 16;

/// Pieces of a change of the policy that one search for a victim goes through.
const RANK_ROUNDS_MAX: usize = 4;

/// Random entries looked at to find one with an expiry.
const RANDOM_TRIES_MAX: usize = 64;

/// Bytes by which free chunks must grow before slabs are evacuated again, after there was nothing to be gained.
const FRUITLESS_BYTES: usize = 1024 * 1024;

/// The limit, and what goes on in pieces.
pub(super) struct Pressure {
    /// Bytes that may be charged.
    limit_bytes: usize,
    /// There was nothing to evict when this was last tried.
    exhausted: bool,
    /// Free chunks up to which evacuation brings nothing, bytes.
    fruitless_bytes: usize,
}

impl Pressure {
    pub(super) fn new() -> Pressure {
        Pressure { limit_bytes: usize::MAX, exhausted: false, fruitless_bytes: 0 }
    }

    /// There may be something to evict.
    pub(super) fn has_victims(&mut self) {
        self.exhausted = false;
    }
}

impl Shard {
    /// Sets the limit of [`Shard::memory`]; None is none.
    pub fn set_limit(&mut self, limit_bytes: Option<usize>) {
        self.pressure.limit_bytes = limit_bytes.unwrap_or(usize::MAX);
        self.pressure.exhausted = false;
    }

    pub fn limit_bytes(&self) -> Option<usize> {
        Some(self.pressure.limit_bytes).filter(|&bytes| bytes != usize::MAX)
    }

    /// Changes what is evicted at the limit. Entries are ranked anew by [`Shard::work`], in pieces.
    pub fn set_policy(&mut self, policy: Policy) {
        if policy == self.evictor.policy() {
            return;
        }
        self.evictor.set_policy(&mut self.entries, policy);
        // What is followed is ranked under no policy.
        self.dbs[..self.own].iter_mut().for_each(|db| db.unranked = Some((0, 0)));
        self.adopted.clear();
        self.pressure.exhausted = false;
        if self.own().iter().all(|db| db.size().keys == 0) && self.flushed.is_empty() {
            self.rank_all();
        }
    }

    pub fn policy(&self) -> Policy {
        self.evictor.policy()
    }

    /// Sets how the counts of LFU rise and fall.
    pub fn set_lfu_pace(&mut self, pace: LfuPace) {
        self.evictor.set_pace(pace, self.now.steady_ms);
    }

    /// Makes room for a command that brings `bytes`. False: it must not run, because the limit is reached and nothing
    /// can be evicted.
    #[inline]
    pub fn make_way(&mut self, bytes: usize) -> bool {
        self.held_bytes().saturating_add(bytes) <= self.pressure.limit_bytes || self.evict_for(bytes)
    }

    /// What counts against the limit: [`Shard::memory`] without large collections that are gone and freed in pieces. They
    /// may exceed the limit for some turns.
    #[inline]
    fn held_bytes(&self) -> usize {
        self.memory() - self.entries.boxes().buried_bytes()
    }

    /// More than the limit is in use and something can be done about it.
    #[inline]
    fn should_evict(&self) -> bool {
        self.held_bytes() > self.pressure.limit_bytes
            && self.evictor.policy().rule != Rule::None
            && !self.pressure.exhausted
    }

    #[cold]
    #[inline(never)]
    fn evict_for(&mut self, bytes: usize) -> bool {
        let limit_bytes = self.pressure.limit_bytes;
        // What cannot fit runs if there is room now, as in Redis: the command that goes beyond the limit is the last one.
        let bytes = if bytes > limit_bytes { 0 } else { bytes };
        if self.evictor.policy().rule == Rule::None {
            for _ in 0..COMMAND_FREED_MAX / TURN_FREED_MAX {
                if self.held_bytes() <= limit_bytes || !self.free_flushed(TURN_FREED_MAX) {
                    break;
                }
            }
            return self.held_bytes() <= limit_bytes;
        }
        for _ in 0..COMMAND_EVICTED_MAX {
            if self.held_bytes() + bytes <= limit_bytes {
                return true;
            }
            if !self.free_one() {
                return self.held_bytes() <= limit_bytes;
            }
        }
        self.held_bytes() <= limit_bytes + limit_bytes / OVERSHOOT_PART
    }

    /// Frees some memory: a piece of a flushed database, or else a victim. False if there is none, or none was found yet.
    fn free_one(&mut self) -> bool {
        if !self.flushed.is_empty() && self.free_flushed(1) {
            return true;
        }
        let mut victim = self.victim();
        // While the policy changes, the next victim may not be on a list yet.
        for _ in 0..RANK_ROUNDS_MAX {
            if victim.is_some() || self.evictor.phase() == Phase::Steady {
                break;
            }
            self.rank(TURN_RANKED_MAX);
            victim = self.victim();
        }
        self.pressure.exhausted = victim.is_none() && self.evictor.phase() == Phase::Steady;
        let Some(handle) = victim else { return false };
        self.evict(handle);
        true
    }

    /// The entry to evict next.
    fn victim(&mut self) -> Option<Handle> {
        let now_s = self.now_s();
        if let Some(handle) = self.evictor.victim(&mut self.entries, now_s) {
            return Some(handle);
        }
        match self.evictor.policy() {
            Policy { rule: Rule::Random, volatile: false } => self.random_entry(),
            Policy { rule: Rule::Random, volatile: true } => self.random_expiring(),
            Policy { rule: Rule::Ttl, .. } => self.soonest(),
            _ => None,
        }
    }

    fn random_entry(&mut self) -> Option<Handle> {
        let keys: usize = self.own().iter().map(|db| db.size().keys).sum();
        let mut skip = ((u128::from(self.evictor.random()) * keys as u128) >> 64) as usize;
        let db = self.own().iter().position(|db| {
            let here = skip < db.size().keys;
            skip = skip.saturating_sub(db.size().keys);
            here
        })?;
        self.dbs[db].random(|| self.evictor.random())
    }

    /// A random entry with an expiry. If they are so few that guesses fail, the one that expires soonest.
    fn random_expiring(&mut self) -> Option<Handle> {
        for _ in 0..RANDOM_TRIES_MAX {
            let handle = self.random_entry()?;
            if self.entries.ttl(handle).is_some() {
                return Some(handle);
            }
        }
        self.soonest()
    }

    fn soonest(&self) -> Option<Handle> {
        let wheels = self.own().iter().flat_map(|db| Clock::ALL.map(|clock| db.wheel(clock)));
        let of_each = wheels.filter_map(|wheel| wheel.soonest(&self.entries));
        of_each.min_by_key(|&handle| self.entries.expire_at(handle).map(|deadline| self.now.wall_of(deadline)))
    }

    /// Removes a victim, with its effect, and starts to load what the next eviction will need.
    fn evict(&mut self, handle: Handle) {
        let at =
            self.locate(0..self.dbs.len(), handle).expect("flushed databases are freed before anything is evicted");
        let db = at.db;
        let next = self.evictor.next_victim(&self.entries, handle);
        self.evictor.evicted(&self.entries, handle, at.hash);
        self.counters.evicted += 1;
        self.events.push(Classes::EVICTED, "evicted", db, self.entries.key(handle));
        self.discard(at, handle);
        // The next victim's entry was loaded at the last eviction: its bucket now, and the entry after it.
        let Some(next) = next else { return };
        let key = self.hasher.key(self.entries.key(next));
        self.prefetch_bucket(db, &key);
        if let Some(after) = self.evictor.next_victim(&self.entries, next) {
            self.entries.prefetch(after);
        }
    }

    /// Sees to it that the next allocation of any size succeeds. Call it before looking for an entry: it may remove some.
    #[inline]
    pub fn ensure_free_slab(&mut self) {
        if !self.entries.heap().has_free_slab() {
            self.make_address_space();
        }
    }

    /// As [`Shard::ensure_free_slab`], and sees to it that free chunks do not become too many: it may also move entries.
    #[inline]
    pub(super) fn make_room(&mut self) {
        self.ensure_free_slab();
        if self.should_compact() {
            self.compact(WRITE_MOVED_MAX);
        }
    }

    #[cold]
    fn make_address_space(&mut self) {
        while !self.entries.heap().has_free_slab() && !self.flushed.is_empty() {
            self.free_flushed(TURN_FREED_MAX);
        }
        if !self.entries.heap().has_free_slab() {
            self.evict_slab();
        }
    }

    /// Evicts every entry of the emptiest slab. Bounded by the number of chunks in a slab.
    ///
    /// What is followed stays. Then further slabs lose the entries that are this node's own, until what is followed finds
    /// another place. If there is nothing else, there is no room: who takes copies has to see to it that it does not come to that.
    fn evict_slab(&mut self) {
        for slab in self.entries.heap().emptiest_slabs() {
            for handle in self.entries.heap().live_chunks(slab) {
                if !self.has_roles() || self.locate(0..self.own, handle).is_some() {
                    self.evict(handle);
                }
            }
            while !self.entries.heap().has_free_slab() && self.compact(TURN_MOVED_MAX) {}
            if self.entries.heap().has_free_slab() {
                return;
            }
        }
    }

    #[inline]
    fn should_compact(&self) -> bool {
        let heap = self.entries.heap();
        heap.is_wasteful() && heap.waste_bytes() > self.pressure.fruitless_bytes && self.flushed.is_empty()
    }

    /// Moves up to `count` entries out of slabs that are being evacuated; false if there is nothing to be gained any more.
    #[cold]
    fn compact(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let Some((old, bytes)) = self.entries.heap_mut().next_evacuee() else {
                self.pressure.fruitless_bytes = self.entries.heap().waste_bytes() + FRUITLESS_BYTES;
                return false;
            };
            let Location { db, partition, place, .. } =
                self.locate(0..self.dbs.len(), old).expect("every entry lies in a table");
            let new = self.entries.relocate(old, bytes).expect("the class has a free chunk");
            let local = self.local(partition);
            self.dbs[db].set_handle(local, place, new);
            if !self.is_followed(db) {
                self.evictor.settle(&mut self.entries, [old, new]);
            }
            if let Some(deadline) = self.entries.expire_at(new) {
                self.dbs[db].wheel_mut(deadline.clock()).moved(&mut self.entries, new);
            }
        }
        self.pressure.fruitless_bytes = 0;
        true
    }

    /// Makes a live entry look as if it had been used last so many seconds ago, or so often (RESTORE): what is given, as far
    /// as the eviction policy has a place for it.
    pub fn pretend_use(&mut self, db: usize, key: &Key, idle_s: Option<u32>, frequency: Option<u8>) {
        if !self.is_followed(db)
            && let Some((_, handle)) = self.live(db, key)
        {
            let now_s = self.now_s();
            self.evictor.pretend(&mut self.entries, handle, idle_s, frequency, now_s);
        }
    }

    /// Whether [`Shard::work`] has something to do. `evicting`: it may evict, which CLIENT PAUSE holds up.
    #[inline]
    pub fn has_work(&self, evicting: bool) -> bool {
        !self.flushed.is_empty()
            || self.entries.boxes().has_buried()
            || self.evictor.phase() != Phase::Steady
            || self.should_compact()
            || evicting && self.should_evict()
    }

    /// Does some of what is done in pieces: frees flushed databases, ranks entries anew after a change of the policy,
    /// evicts down to a limit that was lowered, empties slabs.
    pub fn work(&mut self, evicting: bool) {
        self.free_buried(TURN_BURIED_MAX);
        if !self.flushed.is_empty() {
            self.free_flushed(TURN_FREED_MAX);
        } else if evicting && self.should_evict() {
            for _ in 0..TURN_EVICTED_MAX {
                if self.held_bytes() <= self.pressure.limit_bytes || !self.free_one() {
                    break;
                }
            }
        } else if self.evictor.phase() != Phase::Steady {
            self.rank(TURN_RANKED_MAX);
        } else if self.should_compact() {
            self.compact(TURN_MOVED_MAX);
        }
    }

    /// Goes on with a change of the policy.
    fn rank(&mut self, count: usize) {
        if self.evictor.phase() == Phase::Draining {
            return self.evictor.drain(&mut self.entries, count);
        }
        let now_s = self.now_s();
        let Shard { dbs, entries, evictor, hasher, adopted, .. } = self;
        let mut handles = Vec::new();
        let mut ranked = 0;
        while ranked < count {
            let walked = dbs.iter().position(|db| db.unranked.is_some());
            let (db, local, position) = match (walked, adopted.front()) {
                (Some(db), _) => {
                    let (local, position) = dbs[db].unranked.unwrap_or_default();
                    (db, local, position)
                }
                (None, Some(&place)) if evictor.adopts(entries) => place,
                (None, _) => {
                    adopted.clear();
                    return evictor.end_walk(entries);
                }
            };
            let table = dbs[db].table(local);
            let next = table
                .and_then(|table| table.visit_from(position, |h| hasher.hash(entries.key(h)), |h| handles.push(h)));
            let ended = table.is_none();
            ranked += 1 + handles.len();
            handles.drain(..).for_each(|handle| evictor.readmit(entries, handle, now_s));
            match (walked, next) {
                (Some(_), Some(next)) => dbs[db].unranked = Some((local, next)),
                (Some(_), None) => dbs[db].unranked = (!ended).then_some((local + 1, 0)),
                (None, Some(next)) => adopted[0].2 = next,
                (None, None) => _ = adopted.pop_front(),
            }
        }
    }

    /// Ends a change of the policy at once.
    pub(super) fn rank_all(&mut self) {
        while self.evictor.phase() != Phase::Steady {
            self.rank(usize::MAX);
        }
    }
}
