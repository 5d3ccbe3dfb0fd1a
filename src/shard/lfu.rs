//! LFU: which entry is used least often, by Redis' logarithmic, ageing count.
//!
//! An entry counts its accesses in eight bits: a new one has 5, and each access adds one with a probability that falls
//! as the count rises, so that 255 stands for about a million accesses (with the usual factor 10). For each decay period
//! (a minute) the count falls by one, or what was popular last year would never go
//! (<https://redis.io/docs/latest/develop/reference/eviction/>, "The new LFU mode").
//!
//! Redis looks at a handful of random entries and evicts the one with the lowest count. Here every count has a list, the
//! entry accessed last in front; the last entry of the lowest list that is not empty is the victim, which is exact. And
//! how do a million counts fall by one every minute? The lists stay, and their names shift: the list of count `c` in
//! period `p` is number `(c + p) % 256`, so with the next period it is the list of `c - 1`, and an entry's own count is
//! corrected when the entry is next looked at. Only the list of count 0 has nowhere to fall: it is hung behind that of
//! count 1, which takes no more than four links.
//!
//! An entry that is left alone for 65,536 periods (45 days, with minutes) and then used seems to be as popular as it was;
//! until it is used, its list has it right.
//!
//! Invariant: an entry on a list was last accessed in the period that its usage names, and its list is that of the count
//! which it had then.
//!
//! Owned by one core.

use super::SteadyMs;
use super::entry::Entries;
use super::heap::Handle;
use super::lists::{LISTS, List, Lists};

/// Number of the first of the 256 lists.
const FIRST: u32 = 64;

const COUNTS: u32 = 256;

const _: () = assert!((FIRST + COUNTS) as usize <= LISTS);

/// Count of a new entry: above those that have aged away, so that it has a chance to be used again.
const COUNT_NEW: u32 = 5;

/// How counts rise and fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LfuPace {
    /// lfu-log-factor: how much rarer each further step is; 0 counts every access.
    pub log_factor: u32,
    /// lfu-decay-time, minutes after which a count falls by one; 0 is never.
    pub decay_minutes: u32,
}

impl Default for LfuPace {
    fn default() -> LfuPace {
        LfuPace { log_factor: 10, decay_minutes: 1 }
    }
}

/// See the module.
pub(super) struct Lfu {
    pace: LfuPace,
    /// Number of the present decay period, modulo 2^16.
    period: u16,
    /// When the next period begins, steady ms.
    next_ms: SteadyMs,
}

impl Lfu {
    pub(super) fn new(pace: LfuPace, now_ms: SteadyMs) -> Lfu {
        let mut lfu = Lfu { pace, period: 0, next_ms: SteadyMs::MAX };
        lfu.set_pace(pace, now_ms);
        lfu
    }

    pub(super) fn set_pace(&mut self, pace: LfuPace, now_ms: SteadyMs) {
        if pace == self.pace && self.next_ms != SteadyMs::MAX {
            return;
        }
        self.pace = pace;
        self.next_ms = if pace.decay_minutes == 0 { SteadyMs::MAX } else { now_ms.saturating_add(self.period_ms()) };
    }

    fn period_ms(&self) -> SteadyMs {
        i64::from(self.pace.decay_minutes) * 60_000
    }

    /// Ages every entry if the time has come.
    #[inline]
    pub(super) fn set_now(&mut self, lists: &mut Lists, entries: &mut Entries, now_ms: SteadyMs) {
        if now_ms >= self.next_ms {
            self.age(lists, entries, now_ms);
        }
    }

    #[cold]
    fn age(&mut self, lists: &mut Lists, entries: &mut Entries, now_ms: SteadyMs) {
        let periods = (now_ms - self.next_ms) / self.period_ms() + 1;
        self.next_ms = self.next_ms.saturating_add(periods.saturating_mul(self.period_ms()));
        // After so many all counts are 0.
        for _ in 0..periods.min(COUNTS as i64) {
            lists.append(entries, self.list(0), self.list(1));
            self.period = self.period.wrapping_add(1);
        }
        self.period = self.period.wrapping_add((periods - periods.min(COUNTS as i64)) as u16);
        if periods > COUNTS as i64 {
            // The names have moved on with the period, the one list that is left must follow.
            self.gather(lists, entries);
        }
    }

    /// Makes whatever list is not empty that of count 0.
    fn gather(&self, lists: &mut Lists, entries: &mut Entries) {
        for count in 1..COUNTS {
            lists.append(entries, self.list(count), self.list(0));
        }
    }

    /// The list of a count in the present period.
    #[inline]
    fn list(&self, count: u32) -> List {
        List(FIRST + (count + u32::from(self.period)) % COUNTS)
    }

    /// The lists, those of the highest counts first.
    pub(super) fn lists(&self) -> impl Iterator<Item = List> + '_ {
        (0..COUNTS).rev().map(|count| self.list(count))
    }

    /// What the count in `usage` has become by now.
    #[inline]
    pub(super) fn count(&self, usage: u32) -> u32 {
        let age = self.period.wrapping_sub((usage >> 8) as u16);
        if self.pace.decay_minutes == 0 { usage & 0xFF } else { (usage & 0xFF).saturating_sub(u32::from(age)) }
    }

    /// The usage of an entry whose count is `count` now.
    #[inline]
    pub(super) fn usage_of(&self, count: u32) -> u32 {
        u32::from(self.period) << 8 | count
    }

    /// The usage of a new entry.
    #[inline]
    pub(super) fn new_usage(&self) -> u32 {
        self.usage_of(COUNT_NEW)
    }

    /// The usage of an entry that was new when it was last used, so many seconds ago.
    pub(super) fn usage_of_idle(&self, idle_s: u32) -> u32 {
        let periods = idle_s.checked_div(self.pace.decay_minutes.saturating_mul(60)).unwrap_or(0);
        self.usage_of(COUNT_NEW.saturating_sub(periods))
    }

    /// The usage after one more access; `random` is 64 random bits.
    #[inline]
    pub(super) fn accessed(&self, usage: u32, random: u64) -> u32 {
        let count = self.count(usage);
        let steps = u64::from(count.saturating_sub(COUNT_NEW)) * u64::from(self.pace.log_factor) + 1;
        // One in `steps`, without a division: random bits scaled to `0..steps`.
        let rises = count < COUNTS - 1 && (u128::from(random) * u128::from(steps)) >> 64 == 0;
        self.usage_of(count + rises as u32)
    }

    /// The list for an entry with this usage.
    #[inline]
    pub(super) fn list_of(&self, usage: u32) -> List {
        self.list(self.count(usage))
    }

    /// The entry that is used least.
    pub(super) fn victim(&self, lists: &Lists) -> Option<Handle> {
        (0..COUNTS).find_map(|count| lists.last(self.list(count)))
    }
}
