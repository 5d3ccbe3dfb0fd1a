//! The timer wheel: which entries of one database expire by one clock, sorted just well enough to know what is due.
//!
//! # The idea
//!
//! A sorted tree of deadlines costs O(log n) whenever one is set, and most are set anew or dropped long before they are
//! due. A *timing wheel* (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987) is an array of lists, one
//! for each tick of the clock: to arm a timer is to put it on the list of its tick, and each tick brings one whole list.
//! That is O(1), but needs one list for every tick of the longest deadline.
//!
//! The *hierarchical* wheel has few lists and any deadline. Write a deadline as a number, here of 1 ms ticks in base
//! 256: its eight bytes are its eight digits. Level 0 has a list (a *slot*) for each value of the lowest digit, level 1
//! for each value of the next one, and so on, like the hands of a clock. An entry goes where its deadline first differs
//! from now: the level is the highest byte that differs, the slot is the value of that byte.
//!
//! ```text
//! now       00 00 01 8B CF E5 68 7B
//! deadline  00 00 01 8B CF E5 68 90   differs in byte 0:  level 0, slot 90        due in less than 256 ms
//! deadline  00 00 01 8B CF E6 02 11   differs in byte 2:  level 2, slot E6        due in less than 4.7 h
//! ```
//!
//! When the clock reaches the first moment of a slot, the slot is *turned over*: its entries now agree with the clock in
//! that byte, so each is due or goes to a lower level (it *cascades*). An entry moves at most seven times in its life,
//! and one with a short expiry hardly ever. Eight digits are all 64 bits, so no deadline is too far. What if nothing is
//! due for hours? One bit for each slot says whether it is occupied, so the next slot is found without visiting the
//! empty ones.
//!
//! # The lists
//!
//! They are threaded through the expiry blocks of the entries and cost no memory of their own. List numbers are smaller
//! than any handle: each list is a ring that its number closes, as in [`super::lists`]. So an entry leaves its list in
//! O(1), and needs to know neither the slot nor the time at which it came. An entry comes in front, and a slot is turned
//! over from behind: entries that came first stay last, and are the ones that [`Wheel::soonest`] looks at.
//!
//! # Work in pieces
//!
//! A slot may hold a million entries. Turning it over takes no time: its list as a whole becomes the *turning* list,
//! and [`Wheel::due`] works through that as far as its caller allows. Entries on it can be removed as everywhere else.
//!
//! # When the clock is set
//!
//! A wheel turns by one clock; all its deadlines are on that one ([`super::clock`]). The steady clock only ever runs. The
//! wall clock may be set.
//!
//! Forwards: the slots in between are turned over in order, in pieces. Backwards by a little ([`REWIND_MS`]): the wheel
//! stands still until the clock has caught up, so that a key is late by that much at most. Backwards by more: slots are
//! relative to the moment at which the wheel stood, so every one is marked *stale*, and is turned over before anything
//! else. Never is an entry due before its deadline.
//!
//! Invariant: an entry in a slot that is not stale has a deadline after `elapsed`, and lies where the first difference
//! to `elapsed` says. A slot's bit in `occupied` says that it is not empty; stale slots are occupied.
//!
//! Owned by one core.

use super::UnixMs;
use super::entry::Entries;
use super::heap::{FIRST_HANDLE, Handle};
use super::layout::Ttl;

/// Digits of a deadline.
const LEVELS: usize = 8;

/// Values of a digit.
const SLOTS: usize = 256;

/// Number of the turning list; those of slots are `level * SLOTS + slot`.
const TURNING: u32 = (LEVELS * SLOTS) as u32;

const _: () = assert!(TURNING < FIRST_HANDLE);
const _: () = assert!(SLOTS.ilog2() as usize * LEVELS == UnixMs::BITS as usize);

/// A clock that was set back by less than this is waited for, ms. Clocks that are corrected by so little are slewed.
pub(super) const REWIND_MS: u64 = 100;

/// Entries of one slot that [`Wheel::soonest`] compares.
const SOONEST_OF: usize = 16;

/// One bit for each slot of a level.
type Bits = [u64; SLOTS / 64];

#[derive(Clone)]
struct Level {
    occupied: Bits,
    stale: Bits,
    slots: [Ends; SLOTS],
}

/// The ring of one list where it passes the list's number. An empty list has its own number at both ends.
#[derive(Clone, Copy, Default)]
struct Ends {
    first: u32,
    last: u32,
}

impl Ends {
    fn empty(list: u32) -> Ends {
        Ends { first: list, last: list }
    }
}

/// See the module.
pub(super) struct Wheel {
    /// None at all until the first entry comes.
    levels: Box<[Level]>,
    turning: Ends,
    /// Where the wheel stands, as [`tick`].
    elapsed: u64,
    /// Entries on all lists.
    len: usize,
}

/// Moments in an order without a sign.
#[inline]
fn tick(ms: UnixMs) -> u64 {
    ms as u64 ^ 1 << 63
}

fn moment(tick: u64) -> UnixMs {
    (tick ^ 1 << 63) as UnixMs
}

/// The slot with the lowest number in `bits`.
fn lowest(bits: &Bits) -> Option<usize> {
    let word = bits.iter().position(|&word| word != 0)?;
    Some(word * 64 + bits[word].trailing_zeros() as usize)
}

/// The block through which the lists are threaded.
#[inline]
fn links(entries: &mut Entries, handle: u32) -> &mut Ttl {
    entries.ttl_mut(Handle(handle)).expect("entries of the wheel have an expiry")
}

impl Wheel {
    pub(super) fn new() -> Wheel {
        Wheel { levels: Box::default(), turning: Ends::empty(TURNING), elapsed: 0, len: 0 }
    }

    /// Number of entries.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.levels)
    }

    /// Arms an entry that is not in the wheel and has an expiry.
    pub(super) fn insert(&mut self, entries: &mut Entries, handle: Handle, now_ms: UnixMs) {
        if self.levels.is_empty() {
            let empty = Level { occupied: Bits::default(), stale: Bits::default(), slots: [Ends::default(); SLOTS] };
            self.levels = vec![empty; LEVELS].into_boxed_slice();
            (0..TURNING).for_each(|list| *self.ends(list) = Ends::empty(list));
        }
        if self.len == 0 {
            self.elapsed = tick(now_ms);
        }
        self.len += 1;
        self.link(entries, handle.0);
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, entries: &mut Entries, handle: Handle) {
        self.len -= 1;
        self.unlink(entries, handle.0);
    }

    /// Tells the neighbours of an entry that it lies at `handle` now; its links came with it.
    pub(super) fn moved(&mut self, entries: &mut Entries, handle: Handle) {
        let &mut Ttl { wheel_prev, wheel_next, .. } = links(entries, handle.0);
        self.set_next(entries, wheel_prev, handle.0);
        self.set_prev(entries, wheel_next, handle.0);
    }

    /// An entry whose deadline has come. The caller takes it out of the wheel before asking again. Each entry that is
    /// looked at takes one from `budget`; None if that is used up or nothing is due.
    pub(super) fn due(&mut self, entries: &mut Entries, now_ms: UnixMs, budget: &mut usize) -> Option<Handle> {
        let now = tick(now_ms);
        if self.len == 0 || now < self.elapsed && !self.rewind(now) {
            return None;
        }
        while *budget > 0 {
            if self.turning.last != TURNING {
                *budget -= 1;
                let last = self.turning.last;
                let &mut Ttl { expire_at, wheel_prev, .. } = links(entries, last);
                entries.prefetch(Handle(wheel_prev));
                if tick(expire_at.ms()) <= self.elapsed {
                    return Some(Handle(last));
                }
                self.unlink(entries, last);
                self.link(entries, last);
            } else if let Some((level, slot)) = self.lowest_slot(|level| &level.stale) {
                self.turn_over(entries, level, slot);
            } else if let Some((level, slot)) = self.lowest_slot(|level| &level.occupied)
                && self.start_of(level, slot) <= now
            {
                self.elapsed = self.start_of(level, slot);
                self.turn_over(entries, level, slot);
            } else {
                // No slot begins up to now, so no entry's first difference changes.
                self.elapsed = now;
                return None;
            }
        }
        None
    }

    /// From when on [`Wheel::due`] has something to do: at once, if the wheel stands at a moment to which the clock, which was
    /// set back, has still to lead it. That may be earlier than the next deadline, never later, except while the clock is
    /// waited for. Who keeps the answer asks anew when the clock is set back.
    pub(super) fn next(&self, now_ms: UnixMs) -> Option<UnixMs> {
        if self.len == 0 {
            return None;
        }
        if self.is_ahead_of(tick(now_ms)) {
            return Some(now_ms);
        }
        if self.turning.last != TURNING || self.lowest_slot(|level| &level.stale).is_some() {
            return Some(moment(self.elapsed));
        }
        self.lowest_slot(|level| &level.occupied).map(|(level, slot)| moment(self.start_of(level, slot)))
    }

    /// One of the entries that expire next: of the first slot that is occupied, the soonest among those that came first.
    pub(super) fn soonest(&self, entries: &Entries) -> Option<Handle> {
        let mut prev = match self.turning.last {
            TURNING => {
                self.lowest_slot(|level| &level.occupied).map(|(level, slot)| self.levels[level].slots[slot].last)?
            }
            last => last,
        };
        let some = std::iter::from_fn(|| {
            let handle = Handle(prev);
            let ttl = (prev > TURNING).then(|| entries.ttl(handle))??;
            prev = ttl.wheel_prev;
            Some((ttl.expire_at.ms(), handle))
        });
        some.take(SOONEST_OF).min_by_key(|&(expire_at, _)| expire_at).map(|(_, handle)| handle)
    }

    /// Whether the clock was set back by too much to be waited for.
    fn is_ahead_of(&self, now: u64) -> bool {
        self.elapsed.saturating_sub(now) >= REWIND_MS
    }

    /// Whether nothing is due because the clock was set back by a little.
    #[cfg(test)]
    pub(super) fn waits(&self, now_ms: UnixMs) -> bool {
        self.elapsed > tick(now_ms) && !self.is_ahead_of(tick(now_ms))
    }

    /// Goes back to `now`, which is before `elapsed`; false if the clock is waited for instead.
    fn rewind(&mut self, now: u64) -> bool {
        if !self.is_ahead_of(now) {
            return false;
        }
        self.levels.iter_mut().for_each(|level| level.stale = level.occupied);
        self.elapsed = now;
        true
    }

    /// The first slot of the lowest level with a bit. Of the occupied ones that is the next to be turned over: slots of
    /// a lower level begin before those of a higher one, as their first difference to now is in a lower digit.
    fn lowest_slot(&self, bits: impl Fn(&Level) -> &Bits) -> Option<(usize, usize)> {
        self.levels.iter().enumerate().find_map(|(level, l)| lowest(bits(l)).map(|slot| (level, slot)))
    }

    /// First moment of a slot that is not stale: the digits above are those of `elapsed`, those below are 0.
    fn start_of(&self, level: usize, slot: usize) -> u64 {
        let below = u64::MAX >> (56 - 8 * level);
        self.elapsed & !below | (slot as u64) << (8 * level)
    }

    /// Makes the list of a slot the turning list, which is empty.
    fn turn_over(&mut self, entries: &mut Entries, level: usize, slot: usize) {
        let list = (level * SLOTS + slot) as u32;
        let Ends { first, last } = *self.ends(list);
        self.set_next(entries, list, list);
        self.set_prev(entries, list, list);
        self.turning = Ends { first, last };
        links(entries, first).wheel_prev = TURNING;
        links(entries, last).wheel_next = TURNING;
    }

    #[inline]
    fn ends(&mut self, list: u32) -> &mut Ends {
        match list {
            TURNING => &mut self.turning,
            list => &mut self.levels[list as usize / SLOTS].slots[list as usize % SLOTS],
        }
    }

    /// The list where an entry belongs.
    #[inline]
    fn list_of(&self, deadline: u64) -> u32 {
        if deadline <= self.elapsed {
            return TURNING;
        }
        let level = (deadline ^ self.elapsed).ilog2() / 8;
        level * SLOTS as u32 + (deadline >> (8 * level)) as u32 % SLOTS as u32
    }

    /// Puts an entry at the front of its list.
    fn link(&mut self, entries: &mut Entries, handle: u32) {
        let list = self.list_of(tick(links(entries, handle).expire_at.ms()));
        let second = self.ends(list).first;
        let own = links(entries, handle);
        (own.wheel_prev, own.wheel_next) = (list, second);
        self.set_prev(entries, second, handle);
        self.set_next(entries, list, handle);
    }

    fn unlink(&mut self, entries: &mut Entries, handle: u32) {
        let &mut Ttl { wheel_prev, wheel_next, .. } = links(entries, handle);
        self.set_next(entries, wheel_prev, wheel_next);
        self.set_prev(entries, wheel_next, wheel_prev);
    }

    /// Sets what follows on `prev`, an entry or the number of a list.
    #[inline]
    fn set_next(&mut self, entries: &mut Entries, prev: u32, next: u32) {
        if prev > TURNING {
            links(entries, prev).wheel_next = next;
            return;
        }
        self.ends(prev).first = next;
        if prev == TURNING {
            return;
        }
        let (level, slot) = (&mut self.levels[prev as usize / SLOTS], prev as usize % SLOTS);
        let bit = 1 << (slot % 64);
        if next <= TURNING {
            level.occupied[slot / 64] &= !bit;
            level.stale[slot / 64] &= !bit;
        } else {
            level.occupied[slot / 64] |= bit;
        }
    }

    /// Sets what stands before `next`, an entry or the number of a list.
    #[inline]
    fn set_prev(&mut self, entries: &mut Entries, next: u32, prev: u32) {
        if next > TURNING {
            links(entries, next).wheel_prev = prev;
        } else {
            self.ends(next).last = prev;
        }
    }

    /// Checks every invariant; returns all entries.
    #[cfg(test)]
    pub(super) fn validate(&self, entries: &Entries) -> Vec<Handle> {
        let mut all = Vec::new();
        let has = |bits: &Bits, slot: usize| bits[slot / 64] >> (slot % 64) & 1 == 1;
        for list in 0..if self.levels.is_empty() { 0 } else { TURNING + 1 } {
            let (level, slot) = (list as usize / SLOTS, list as usize % SLOTS);
            let Ends { first, last } = if list == TURNING { self.turning } else { self.levels[level].slots[slot] };
            let stale = list != TURNING && has(&self.levels[level].stale, slot);
            assert!(list == TURNING || has(&self.levels[level].occupied, slot) == (first != list));
            assert!(!stale || first != list);
            let (mut prev, mut handle) = (list, first);
            while handle > TURNING {
                let ttl = entries.ttl(Handle(handle)).expect("entries of the wheel have an expiry");
                assert_eq!(ttl.wheel_prev, prev);
                assert!(stale || list == TURNING || self.list_of(tick(ttl.expire_at.ms())) == list);
                all.push(Handle(handle));
                (prev, handle) = (handle, ttl.wheel_next);
            }
            assert_eq!((handle, last), (list, prev));
        }
        assert_eq!(all.len(), self.len);
        all
    }
}

#[cfg(test)]
#[path = "wheel_tests.rs"]
mod tests;
