//! Adoption: entries come from a database that is not ranked, or go to one.
//!
//! Those that come ([`super::super::roles`]) bring the time of their last access with them and are on no list. A walk over
//! them, *adopting*, does what a change of the policy does. It must not put all of them before or behind those that are
//! there:
//!
//! - LRU: the lists of idle seconds stay, and a victim is the longest idle one of their last entries and of the last one of
//!   the list of all others. So order is that of time, though only to within a factor of two among those that were adopted
//!   and have not been used since.
//! - LFU: the count is that of a new entry, aged by the time since the last access.
//! - S3-FIFO: they are the next in the main queue.
//!
//! One that is used before the walk has come to it is ranked at once. (A usage is read by the rule also of an entry that is no
//! candidate and is touched before its walk: it is a little wrong then.)
//!
//! Owned by one core.

use super::{CLOCK_BITS, Entries, Evictor, Handle, Phase, RECENT, Rule, clock_of, idle_lists, idle_s};

impl Evictor {
    /// Whether entries may be on lists, or have usages that are more than the time of the last access.
    pub(in crate::shard) fn ranks(&self) -> bool {
        self.phase != Phase::Steady || self.has_lists()
    }

    /// An entry comes to a database that is not ranked: it is on no list, and its usage is the time of its last access.
    pub(in crate::shard) fn retire(&mut self, entries: &mut Entries, handle: Handle, now_s: u32) {
        self.forget(entries, handle);
        // During a change it may have been counted by either rule; what is least precise holds for both.
        let rules = [self.policy.rule, if self.phase == Phase::Steady { self.policy.rule } else { self.before }];
        let rule = [Rule::Lfu, Rule::S3Fifo].into_iter().find(|rule| rules.contains(rule)).unwrap_or_default();
        entries.set_usage(handle, clock_of(rule, entries.usage(handle), now_s));
    }

    /// Entries have come that are on no list and whose usage is the time of their last access. Whether they have to be walked
    /// over.
    pub(in crate::shard) fn adopt(&mut self) -> bool {
        debug_assert!(matches!(self.phase, Phase::Steady | Phase::Adopting));
        if self.has_lists() {
            (self.phase, self.before) = (Phase::Adopting, Rule::None);
        }
        self.has_lists()
    }

    /// The walk has nothing before it but entries to be adopted; whether that is to be done.
    pub(in crate::shard) fn adopts(&mut self, entries: &mut Entries) -> bool {
        if self.phase == Phase::Walking {
            self.end_walk(entries);
        }
        self.adopt()
    }

    /// The victim of LRU after an adoption.
    #[cold]
    pub(super) fn longest_idle(&mut self, entries: &Entries, now_s: u32) -> Option<Handle> {
        let adopted = idle_lists().filter_map(|list| self.lists.last(list));
        let idle = |handle: &Handle| idle_s(entries.usage(*handle), CLOCK_BITS, now_s);
        let Some(longest) = adopted.max_by_key(idle) else {
            self.adopted = self.phase == Phase::Adopting;
            return self.lists.last(RECENT);
        };
        // An access of the same second is later, if it was here.
        let recent = self.lists.last(RECENT).filter(|recent| idle(recent) > idle(&longest));
        Some(recent.unwrap_or(longest))
    }
}
