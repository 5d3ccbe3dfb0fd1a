//! Eviction: which entry goes when memory is short.
//!
//! A [`Policy`] has a *rule*, by which entries are ranked, and says whether all of them are candidates or only those with
//! an expiry. Three rules rank entries by lists ([`super::lists`]) that are kept up to date at every access, so that the
//! victim is known at once and is the right one:
//!
//! - LRU: one list. An access moves an entry to the front; the last one is the victim. Redis evicts the oldest of a few
//!   random entries instead; that needs no list, and is less exact.
//! - LFU ([`super::lfu`]): a list for every count.
//! - S3-FIFO ([`super::s3fifo`]): two queues; an access only counts.
//!
//! The others need no list: a random entry is found in the tables, the one that expires soonest by the timer wheel.
//!
//! # When the policy changes
//!
//! Entries cannot be ranked anew in one go: a million of them would hold up the core for a fifth of a second. So all
//! lists become one, *old*, in the order of worth, and the shard works in pieces:
//!
//! 1. *Draining*: it takes entries off the old list. Nothing is put on a list meanwhile, and victims come from the old
//!    list, so that afterwards what is on a list is there by the new rule.
//! 2. *Walking*: it goes over the tables and puts each entry where the new rule wants it ([`Evictor::readmit`]); one that
//!    is used before the walk has come to it goes there at once. Under LRU the time of the last access is all there is to
//!    go by, so the walk sorts by its logarithm: into a list for each power of two of idle seconds, which are hung behind
//!    each other at the end.
//!
//! Entries that come from a database that is not ranked are ranked in the same way: see [`adopt`].
//!
//! Invariant: outside of a change, and of an adoption, the entries on lists are exactly the candidates, if the rule has
//! lists. During an adoption candidates on no list are those to be adopted.
//!
//! Owned by one core.

mod adopt;

use super::SteadyMs;
use super::entry::Entries;
use super::heap::Handle;
use super::lfu::{Lfu, LfuPace};
use super::lists::{List, Lists};
use super::s3fifo::{self, S3Fifo};
use super::usage::{CLOCK_BITS, idle_s};

/// How entries are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// Nothing is evicted.
    #[default]
    None,
    /// The one not used for the longest time goes.
    Lru,
    /// The one used least often goes.
    Lfu,
    /// New ones that are not used again go first.
    S3Fifo,
    Random,
    /// The one that expires soonest goes.
    Ttl,
}

impl Rule {
    /// Usages are nothing but the time of the last access.
    fn keeps_clock(self) -> bool {
        !matches!(self, Rule::Lfu | Rule::S3Fifo)
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub rule: Rule,
    /// Only entries with an expiry are candidates.
    pub volatile: bool,
}

/// How an entry was used, in a form that other shards understand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    rule: Rule,
    usage: u32,
}

impl Used {
    /// When it was used last, as far as that is known.
    pub(super) fn clock_s(self, now_s: u32) -> u32 {
        clock_of(self.rule, self.usage, now_s)
    }
}

/// When an entry with this usage was used last; now, if its rule does not say.
fn clock_of(rule: Rule, usage: u32, now_s: u32) -> u32 {
    match rule {
        Rule::Lfu => now_s,
        Rule::S3Fifo => now_s.wrapping_sub(idle_s(usage, s3fifo::CLOCK_BITS, now_s)),
        _ => usage,
    }
}

/// LRU: all candidates. S3-FIFO has 1 and 2.
const RECENT: List = List(3);
/// The lists of the last policy, as one.
const OLD: List = List(4);
/// Under LRU, while the policy changes and after an adoption: the list of each power of two of idle seconds.
const IDLE: u32 = 5;
const IDLE_LISTS: u32 = CLOCK_BITS + 1;

/// Entries on the old list that one search for a victim passes by because they are no candidates any more.
const OLD_PASSED_MAX: usize = 256;

/// How far a change of the policy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// There is none under way.
    Steady,
    Draining,
    /// No change, but entries are being adopted.
    Adopting,
    Walking,
}

/// Ranks the entries of one shard.
pub(super) struct Evictor {
    policy: Policy,
    /// The rule of the policy; none while the lists of the last one are being drained.
    rule: Rule,
    lists: Lists,
    lfu: Lfu,
    s3fifo: S3Fifo,
    /// The state of a generator of random numbers.
    random: u64,
    /// The last rule. Its usages are what a walk meets; those of LFU tell it nothing.
    before: Rule,
    phase: Phase,
    /// Entries may be on the lists of idle seconds that were adopted.
    adopted: bool,
}

impl Evictor {
    pub(super) fn new() -> Evictor {
        Evictor {
            policy: Policy::default(),
            rule: Rule::None,
            lists: Lists::new(),
            lfu: Lfu::new(LfuPace::default(), 0),
            s3fifo: S3Fifo::default(),
            random: 0x9E37_79B9_7F4A_7C15,
            before: Rule::None,
            phase: Phase::Steady,
            adopted: false,
        }
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    /// Bytes that the policy itself takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.s3fifo.bytes()
    }

    /// Keeps the time.
    #[inline]
    pub(super) fn set_now(&mut self, entries: &mut Entries, now_ms: SteadyMs) {
        self.lfu.set_now(&mut self.lists, entries, now_ms);
    }

    pub(super) fn set_pace(&mut self, pace: LfuPace, now_ms: SteadyMs) {
        self.lfu.set_pace(pace, now_ms);
    }

    /// Sixty-four random bits: Marsaglia's xorshift64, <https://www.jstatsoft.org/article/view/v008i14>.
    #[inline]
    pub(super) fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Whether the rule keeps lists.
    #[inline]
    fn has_lists(&self) -> bool {
        matches!(self.rule, Rule::Lru | Rule::Lfu | Rule::S3Fifo)
    }

    #[inline]
    fn is_candidate(&self, entries: &Entries, handle: Handle) -> bool {
        !self.policy.volatile || entries.ttl(handle).is_some()
    }

    /// Takes in a new entry.
    #[inline]
    pub(super) fn admit(&mut self, entries: &mut Entries, handle: Handle, hash: u64, now_s: u32) {
        let usage = match self.rule {
            Rule::Lfu => self.lfu.new_usage(),
            Rule::S3Fifo => self.s3fifo.new_usage(hash, now_s),
            _ => now_s,
        };
        entries.set_usage(handle, usage);
        self.link(entries, handle);
    }

    /// What the usage of an entry says outside of this shard. What is followed has the time of the last access.
    pub(super) fn used(&self, usage: u32, followed: bool) -> Used {
        if followed {
            return Used { rule: Rule::None, usage };
        }
        // Each shard counts the periods of LFU from a moment of its own.
        let usage = if self.rule == Rule::Lfu { self.lfu.count(usage) } else { usage };
        Used { rule: self.rule, usage }
    }

    /// Takes in an entry that was lent. It was used as it was, unless the rule is another one by now.
    pub(super) fn readmit_lent(&mut self, entries: &mut Entries, handle: Handle, used: Used, hash: u64, now_s: u32) {
        let readable = used.rule == self.rule || used.rule.keeps_clock() && self.rule.keeps_clock();
        if self.phase != Phase::Steady || !readable {
            return self.admit(entries, handle, hash, now_s);
        }
        let usage = if self.rule == Rule::Lfu { self.lfu.usage_of(used.usage) } else { used.usage };
        entries.set_usage(handle, usage);
        self.link(entries, handle);
    }

    /// Notes an access.
    #[inline]
    pub(super) fn touch(&mut self, entries: &mut Entries, handle: Handle, now_s: u32) {
        if self.phase >= Phase::Adopting && (self.phase == Phase::Walking || self.is_candidate(entries, handle)) {
            self.readmit(entries, handle, now_s);
        }
        match self.rule {
            Rule::None | Rule::Random | Rule::Ttl => entries.set_usage(handle, now_s),
            Rule::Lru => {
                entries.set_usage(handle, now_s);
                if self.is_candidate(entries, handle) {
                    self.lists.move_to(entries, handle, RECENT);
                }
            }
            Rule::S3Fifo => {
                let usage = entries.usage(handle);
                entries.set_usage(handle, S3Fifo::accessed(usage, now_s));
            }
            Rule::Lfu => {
                let random = self.random();
                let usage = self.lfu.accessed(entries.usage(handle), random);
                entries.set_usage(handle, usage);
                if self.is_candidate(entries, handle) {
                    self.lists.move_to(entries, handle, self.lfu.list_of(usage));
                }
            }
        }
    }

    /// Makes an entry look as if it had been used last so many seconds ago, or so often: what is given, as far as the rule
    /// has a place for it. Under LRU it stays at the front of its list, whose order is that of accesses that were seen.
    pub(super) fn pretend(
        &mut self,
        entries: &mut Entries,
        handle: Handle,
        idle_s: Option<u32>,
        count: Option<u8>,
        now_s: u32,
    ) {
        let usage = entries.usage(handle);
        let used_s = |bits: u32| idle_s.map(|idle_s| now_s.wrapping_sub(idle_s.min((1 << bits) - 1)));
        match (self.rule, count) {
            _ if self.phase != Phase::Steady => {}
            (Rule::Lfu, Some(count)) => {
                let usage = self.lfu.usage_of(u32::from(count));
                entries.set_usage(handle, usage);
                if self.is_candidate(entries, handle) {
                    self.lists.move_to(entries, handle, self.lfu.list_of(usage));
                }
            }
            (Rule::Lfu, None) => {}
            (Rule::S3Fifo, _) => {
                let used_s = used_s(s3fifo::CLOCK_BITS);
                entries.set_usage(handle, used_s.map_or(usage, |used_s| S3Fifo::used_at(usage, used_s)));
            }
            _ => entries.set_usage(handle, used_s(CLOCK_BITS).unwrap_or(usage)),
        }
    }

    /// Whether an access moves an entry in a list, and so writes to its neighbours.
    #[inline]
    pub(super) fn moves_at_access(&self) -> bool {
        matches!(self.rule, Rule::Lru | Rule::Lfu)
    }

    /// Starts to load what [`Evictor::touch`] will write besides the entry itself.
    #[inline]
    pub(super) fn prefetch_touch(&self, entries: &Entries, handle: Handle) {
        self.lists.prefetch_neighbours(entries, handle);
    }

    /// Puts an entry that is on no list onto the one of its usage, if it is a candidate.
    #[inline]
    fn link(&mut self, entries: &mut Entries, handle: Handle) {
        if !self.has_lists() || !self.is_candidate(entries, handle) {
            return;
        }
        match self.rule {
            Rule::Lru => self.lists.link(entries, handle, RECENT),
            Rule::Lfu => {
                let list = self.lfu.list_of(entries.usage(handle));
                self.lists.link(entries, handle, list);
            }
            _ => self.s3fifo.link(&mut self.lists, entries, handle),
        }
    }

    /// An entry is going to be removed.
    #[inline]
    pub(super) fn forget(&mut self, entries: &mut Entries, handle: Handle) {
        if self.lists.unlink(entries, handle) && self.rule == Rule::S3Fifo {
            let usage = entries.usage(handle);
            self.s3fifo.unlinked(entries, usage);
        }
    }

    /// An entry may have got or lost its expiry, and may have moved.
    #[inline]
    pub(super) fn settle(&mut self, entries: &mut Entries, [old, new]: [Handle; 2]) {
        if new != old {
            self.lists.moved(entries, new);
        }
        if self.policy.volatile && self.has_lists() {
            let (linked, candidate) = (entries.links(new).0 != 0, entries.ttl(new).is_some());
            if linked && !candidate {
                self.forget(entries, new);
            } else if candidate && !linked && self.phase != Phase::Walking {
                // A walk ranks what it comes to, and what is used before.
                self.link(entries, new);
            }
        }
    }

    /// The entry to evict next, if lists tell.
    pub(super) fn victim(&mut self, entries: &mut Entries, now_s: u32) -> Option<Handle> {
        match self.phase {
            Phase::Steady | Phase::Adopting => {}
            Phase::Draining => return self.old_victim(entries),
            Phase::Walking => {
                let idle = |exponent| self.lists.last(List(IDLE + exponent));
                if let Some(handle) = (0..IDLE_LISTS).rev().find_map(idle) {
                    return Some(handle);
                }
            }
        }
        match self.rule {
            Rule::Lru if self.adopted => self.longest_idle(entries, now_s),
            Rule::Lru => self.lists.last(RECENT),
            Rule::Lfu => self.lfu.victim(&self.lists),
            Rule::S3Fifo => self.s3fifo.victim(&mut self.lists, entries),
            Rule::None | Rule::Random | Rule::Ttl => None,
        }
    }

    #[cold]
    fn old_victim(&mut self, entries: &mut Entries) -> Option<Handle> {
        for _ in 0..OLD_PASSED_MAX {
            let handle = self.lists.last(OLD)?;
            if self.is_candidate(entries, handle) {
                return Some(handle);
            }
            self.lists.unlink(entries, handle);
        }
        None
    }

    /// The entry that will be the victim after `handle`, as far as a glance tells.
    #[inline]
    pub(super) fn next_victim(&self, entries: &Entries, handle: Handle) -> Option<Handle> {
        self.lists.newer(entries, handle)
    }

    /// An entry whose key has this hash is going to be evicted.
    pub(super) fn evicted(&mut self, entries: &Entries, handle: Handle, hash: u64) {
        if self.rule == Rule::S3Fifo {
            self.s3fifo.evicted(entries.usage(handle), hash);
        }
    }

    /// Seconds since the last access; 0 under LFU, which does not know.
    #[inline]
    pub(super) fn idle_s(&self, usage: u32, now_s: u32) -> u32 {
        match self.policy.rule {
            Rule::Lfu => 0,
            Rule::S3Fifo => idle_s(usage, s3fifo::CLOCK_BITS, now_s),
            _ => idle_s(usage, CLOCK_BITS, now_s),
        }
    }

    /// The logarithmic count of LFU.
    pub(super) fn count(&self, usage: u32) -> u8 {
        self.lfu.count(usage) as u8
    }

    /// Changes the policy. The shard has to [`Evictor::drain`] then, and to walk over its entries.
    pub(super) fn set_policy(&mut self, entries: &mut Entries, policy: Policy) {
        if policy == self.policy {
            return;
        }
        let lists: Vec<List> = self.lfu.lists().chain(S3Fifo::lists()).chain([RECENT]).chain(idle_lists()).collect();
        for list in lists.into_iter().rev() {
            self.lists.append(entries, OLD, list);
            self.lists.append(entries, list, OLD);
        }
        // A walk that has not ended leaves usages of two rules: they tell something only if both read them alike.
        self.before = match self.phase {
            Phase::Steady => self.policy.rule,
            Phase::Draining => self.before,
            _ if self.before.keeps_clock() && self.policy.rule.keeps_clock() => Rule::None,
            Phase::Adopting | Phase::Walking => Rule::Lfu,
        };
        self.s3fifo.clear(entries);
        (self.policy, self.rule, self.phase) = (policy, Rule::None, Phase::Draining);
        self.adopted = false;
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes up to `count` entries off the lists of the last policy.
    pub(super) fn drain(&mut self, entries: &mut Entries, count: usize) {
        for _ in 0..count {
            let Some(handle) = self.lists.last(OLD) else {
                (self.rule, self.phase) = (self.policy.rule, Phase::Walking);
                return;
            };
            if let Some(next) = self.lists.newer(entries, handle) {
                entries.prefetch_header(next);
            }
            self.lists.unlink(entries, handle);
        }
    }

    /// Gives an entry that the walk has come to the place that the rule wants for it, unless it has one.
    pub(super) fn readmit(&mut self, entries: &mut Entries, handle: Handle, now_s: u32) {
        if entries.links(handle).0 != 0 {
            return;
        }
        // What another rule has counted says nothing to this one; the time of an access does.
        let clock = clock_of(self.before, entries.usage(handle), now_s);
        let adopts = self.phase == Phase::Adopting;
        let usage = match self.rule {
            Rule::Lfu if adopts => self.lfu.usage_of_idle(idle_s(clock, CLOCK_BITS, now_s)),
            Rule::Lfu => self.lfu.new_usage(),
            Rule::S3Fifo => S3Fifo::usage_from_clock(clock),
            _ => clock,
        };
        entries.set_usage(handle, usage);
        match self.rule {
            _ if !self.is_candidate(entries, handle) => {}
            Rule::Lru => {
                let exponent = idle_s(clock, CLOCK_BITS, now_s).checked_ilog2().map_or(0, |log| log + 1);
                self.lists.link(entries, handle, List(IDLE + exponent));
                self.adopted |= adopts;
            }
            Rule::Lfu if adopts => self.lists.link_last(entries, handle, self.lfu.list_of(usage)),
            Rule::S3Fifo if adopts => self.s3fifo.link_last(&mut self.lists, entries, handle),
            _ => self.link(entries, handle),
        }
    }

    /// The walk has come to its end.
    pub(super) fn end_walk(&mut self, entries: &mut Entries) {
        if self.phase == Phase::Walking {
            for list in idle_lists() {
                self.lists.append(entries, list, RECENT);
            }
        }
        self.phase = Phase::Steady;
    }

    /// Checks every invariant. `all` are the entries of the shard.
    #[cfg(test)]
    pub(super) fn validate(&self, entries: &Entries, all: &[Handle]) {
        let listed = self.lists.validate(entries);
        if self.rule == Rule::S3Fifo {
            self.s3fifo.validate(entries, &listed);
        }
        let mut listed: Vec<u32> = listed.into_iter().map(|(handle, _)| handle.0).collect();
        let candidate = |handle: &&Handle| self.has_lists() && self.is_candidate(entries, **handle);
        let mut candidates: Vec<u32> = all.iter().filter(candidate).map(|handle| handle.0).collect();
        listed.sort();
        candidates.sort();
        if self.phase == Phase::Steady {
            assert_eq!(listed, candidates, "the lists hold exactly the candidates");
        }
    }

    /// The candidates of LRU, the one used last first.
    #[cfg(test)]
    pub(super) fn recent(&self, entries: &Entries) -> Vec<Handle> {
        self.lists.iter(entries, RECENT).collect()
    }
}

/// The lists of idle seconds, the shortest first.
fn idle_lists() -> impl Iterator<Item = List> {
    (0..IDLE_LISTS).map(|exponent| List(IDLE + exponent))
}
