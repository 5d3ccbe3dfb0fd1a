//! S3-FIFO: a policy that a scan cannot flush.
//!
//! LRU believes that what was used last is used next. A scan over many keys, each used once, proves it wrong: the scan's
//! keys push out all others. S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO Queues Are All You Need for Cache Eviction",
//! SOSP 2023, <https://dl.acm.org/doi/10.1145/3600006.3613147>) makes a new entry prove itself first:
//!
//! - A new entry enters the *small* queue, a tenth of the cache. At its end it goes to the *main* queue if it was used
//!   meanwhile; otherwise it is evicted, and its hash is remembered. (The paper asks for two uses. One is as good on
//!   Zipf's law, and 2 to 3 points better when scans are repeated.)
//! - A new entry whose hash is still remembered was evicted too early: it enters the main queue at once.
//! - At the end of the main queue, an entry that was used since it last stood there starts again at the front, with one
//!   use less to its name; others are evicted.
//!
//! Uses are counted up to three in two bits; an access moves nothing, so reads cost less than under LRU. Hashes that are
//! remembered are the [`Ghosts`]: four bytes each, about as many as the main queue has entries.
//!
//! Sizes are compared in entries.
//!
//! Owned by one core.

use super::entry::Entries;
use super::heap::Handle;
use super::lists::{List, Lists};

const SMALL: List = List(1);
const MAIN: List = List(2);

/// Bits of the usage that hold the time of the last access.
pub(super) const CLOCK_BITS: u32 = 21;
const CLOCK_MASK: u32 = (1 << CLOCK_BITS) - 1;
const IN_MAIN: u32 = 1 << CLOCK_BITS;
const HITS_SHIFT: u32 = CLOCK_BITS + 1;
const HITS_MAX: u32 = 3;

/// Part of all entries that the small queue should hold.
const SMALL_PART: usize = 10;

/// Entries that one search for a victim moves before it takes the next one whatever its uses are: some 50 µs of work.
const MOVES_MAX: usize = 1024;

/// See the module.
#[derive(Default)]
pub(super) struct S3Fifo {
    /// Invariant: the lengths of the two lists.
    small_len: usize,
    main_len: usize,
    ghosts: Ghosts,
}

impl S3Fifo {
    /// Bytes of the remembered hashes, which are part of [`Entries::index_bytes`].
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.ghosts.sets)
    }

    /// The lists, in the order of worth.
    pub(super) fn lists() -> [List; 2] {
        [MAIN, SMALL]
    }

    /// The usage of a new entry.
    #[inline]
    pub(super) fn new_usage(&mut self, hash: u64, now_s: u32) -> u32 {
        let returns = self.ghosts.take(hash);
        now_s & CLOCK_MASK | if returns { IN_MAIN } else { 0 }
    }

    /// The usage of an entry of which only the time of its last access is known: it has proved itself.
    pub(super) fn usage_from_clock(usage: u32) -> u32 {
        usage & CLOCK_MASK | IN_MAIN
    }

    /// The usage after one more access.
    #[inline]
    pub(super) fn accessed(usage: u32, now_s: u32) -> u32 {
        let hits = (usage >> HITS_SHIFT & HITS_MAX) + 1;
        hits.min(HITS_MAX) << HITS_SHIFT | usage & IN_MAIN | now_s & CLOCK_MASK
    }

    /// The usage with another time of the last access.
    pub(super) fn used_at(usage: u32, used_s: u32) -> u32 {
        usage & !CLOCK_MASK | used_s & CLOCK_MASK
    }

    #[inline]
    pub(super) fn link(&mut self, lists: &mut Lists, entries: &mut Entries, handle: Handle) {
        if entries.usage(handle) & IN_MAIN != 0 {
            self.main_len += 1;
            lists.link(entries, handle, MAIN);
        } else {
            self.small_len += 1;
            lists.link(entries, handle, SMALL);
        }
        self.fit(entries);
    }

    /// As [`S3Fifo::link`], where the next victim is taken from. The entry is one of the main queue.
    pub(super) fn link_last(&mut self, lists: &mut Lists, entries: &mut Entries, handle: Handle) {
        debug_assert!(entries.usage(handle) & IN_MAIN != 0);
        self.main_len += 1;
        lists.link_last(entries, handle, MAIN);
        self.fit(entries);
    }

    /// An entry with this usage has left its list for good.
    #[inline]
    pub(super) fn unlinked(&mut self, entries: &mut Entries, usage: u32) {
        self.count_out(usage);
        self.fit(entries);
    }

    #[inline]
    fn count_out(&mut self, usage: u32) {
        if usage & IN_MAIN != 0 {
            self.main_len -= 1;
        } else {
            self.small_len -= 1;
        }
    }

    /// Keeps the memory of hashes in proportion: to half of all entries at least, or nothing would ever return to an empty
    /// main queue.
    #[inline]
    fn fit(&mut self, entries: &mut Entries) {
        let before = self.bytes();
        self.ghosts.fit(self.main_len.max((self.small_len + self.main_len) / 2));
        entries.index_bytes = entries.index_bytes - before + self.bytes();
    }

    /// The entry to evict next; moves others on the way.
    pub(super) fn victim(&mut self, lists: &mut Lists, entries: &mut Entries) -> Option<Handle> {
        for _ in 0..MOVES_MAX {
            let from_small = self.small_len * SMALL_PART >= self.small_len + self.main_len;
            let last = if from_small { lists.last(SMALL) } else { lists.last(MAIN) };
            let handle = last.or_else(|| lists.last(SMALL))?;
            let usage = entries.usage(handle);
            let hits = usage >> HITS_SHIFT & HITS_MAX;
            let hits_left = if usage & IN_MAIN == 0 { 0 } else { hits.saturating_sub(1) };
            if hits == 0 {
                return Some(handle);
            }
            lists.unlink(entries, handle);
            self.count_out(usage);
            entries.set_usage(handle, hits_left << HITS_SHIFT | IN_MAIN | usage & CLOCK_MASK);
            self.link(lists, entries, handle);
        }
        lists.last(SMALL).or_else(|| lists.last(MAIN))
    }

    /// An entry with this usage is evicted: if it never came to the main queue, its hash is remembered.
    pub(super) fn evicted(&mut self, usage: u32, hash: u64) {
        if usage & IN_MAIN == 0 {
            self.ghosts.put(hash);
        }
    }

    /// All entries have left the lists.
    pub(super) fn clear(&mut self, entries: &mut Entries) {
        entries.index_bytes -= self.bytes();
        *self = S3Fifo::default();
    }

    #[cfg(test)]
    pub(super) fn validate(&self, entries: &Entries, listed: &[(Handle, List)]) {
        let count = |list: List| listed.iter().filter(|(_, on)| *on == list).count();
        assert_eq!((self.small_len, self.main_len), (count(SMALL), count(MAIN)));
        for &(handle, list) in listed {
            assert_eq!(entries.usage(handle) & IN_MAIN != 0, list == MAIN);
        }
    }
}

/// Hashes in one set: a cache line.
const WAYS: usize = 16;

/// A first-in-first-out memory for hashes: sets of sixteen, of which each forgets its own oldest.
///
/// A hash belongs to the set that its 32 bits, scaled to the number of sets, point at.
#[derive(Default)]
struct Ghosts {
    /// The newest of a set stands first; 0 is none.
    sets: Box<[[u32; WAYS]]>,
}

impl Ghosts {
    /// The bits that are remembered; never 0.
    #[inline]
    fn print(hash: u64) -> u32 {
        ((hash >> 16) as u32).max(1)
    }

    #[inline]
    fn set_of(&self, print: u32) -> usize {
        ((u64::from(print) * self.sets.len() as u64) >> 32) as usize
    }

    fn put(&mut self, hash: u64) {
        let print = Ghosts::print(hash);
        let at = self.set_of(print);
        if let Some(set) = self.sets.get_mut(at) {
            set.copy_within(0..WAYS - 1, 1);
            set[0] = print;
        }
    }

    /// Forgets a hash; says whether it was remembered.
    #[inline]
    fn take(&mut self, hash: u64) -> bool {
        let print = Ghosts::print(hash);
        let at = self.set_of(print);
        let Some(set) = self.sets.get_mut(at) else { return false };
        let Some(way) = set.iter().position(|&other| other == print) else { return false };
        set.copy_within(way + 1..WAYS, way);
        set[WAYS - 1] = 0;
        true
    }

    /// Makes room for about `len` hashes. A memory of another size starts empty: to deal out what is remembered would
    /// hold up the core, and it changes its size only while the cache does, by a factor of two.
    #[inline]
    fn fit(&mut self, len: usize) {
        let room = self.sets.len() * WAYS;
        // Between 2/3 and 4/3 of a hash for each entry while it grows: more is not better.
        if 2 * len > 3 * room || 4 * len < room {
            self.resize((len * 4 / 3 / WAYS).next_power_of_two());
        }
    }

    #[cold]
    fn resize(&mut self, sets: usize) {
        if sets != self.sets.len() {
            // Zeroed memory, of which pages are made as they are used.
            self.sets = vec![[0; WAYS]; sets].into_boxed_slice();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ghosts_are_forgotten_in_the_order_of_their_coming() {
        let mut ghosts = Ghosts::default();
        ghosts.put(7 << 16);
        assert!(!ghosts.take(7 << 16), "without a set nothing is remembered");
        ghosts.fit(1);
        (1..=20_u64).for_each(|i| ghosts.put(i << 16));
        (1..=4).for_each(|i| assert!(!ghosts.take(i << 16)));
        assert!(ghosts.take(12 << 16) && !ghosts.take(12 << 16));
        (5..=20).for_each(|i| assert_eq!(ghosts.take(i << 16), i != 12, "{i}"));
    }

    #[test]
    fn the_memory_of_ghosts_follows_the_number_of_entries() {
        let mut ghosts = Ghosts::default();
        for len in (0..100_000).chain((0..100_000).rev()) {
            ghosts.fit(len);
            let room = ghosts.sets.len() * WAYS;
            assert!(2 * len <= 3 * room && (room <= 4 * len || room <= WAYS), "{len}: {room}");
        }
    }
}
