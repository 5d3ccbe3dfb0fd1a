//! Lists of entries, from the one that was put in last to the one that is next to be evicted.
//!
//! They are doubly linked through the entries' headers and cost no memory of their own. Links are handles, and the
//! numbers of the lists are smaller than any handle: each list is a ring that its number closes, the entry before the
//! first and after the last. So no entry is a special case, and an entry leaves its list without anyone knowing which
//! one that is. A link of 0 says that an entry is on no list.
//!
//! Invariant: along each ring, `next` and `prev` are each other's opposites.
//!
//! Owned by one core.

use super::entry::Entries;
use super::heap::{FIRST_HANDLE, Handle};

/// The number of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct List(pub(super) u32);

/// Numbers that lists may have: 1 up to this.
pub(super) const LISTS: usize = 320;

const _: () = assert!(LISTS < FIRST_HANDLE as usize);

/// The ring of one list where it passes the list's number.
#[derive(Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

/// See the module.
pub(super) struct Lists {
    ends: Box<[Ends]>,
}

impl Lists {
    pub(super) fn new() -> Lists {
        Lists { ends: (0..=LISTS as u32).map(|list| Ends { first: list, last: list }).collect() }
    }

    /// The entry that came first of those on a list.
    #[inline]
    pub(super) fn last(&self, list: List) -> Option<Handle> {
        let last = self.ends[list.0 as usize].last;
        (last != list.0).then_some(Handle(last))
    }

    #[inline]
    pub(super) fn is_empty(&self, list: List) -> bool {
        self.last(list).is_none()
    }

    /// The entry that was put onto its list just after `handle`, if it is not the newest.
    #[inline]
    pub(super) fn newer(&self, entries: &Entries, handle: Handle) -> Option<Handle> {
        let (prev, _) = entries.links(handle);
        (prev >= FIRST_HANDLE).then_some(Handle(prev))
    }

    /// Puts an entry that is on no list at the front of `list`.
    #[inline]
    pub(super) fn link(&mut self, entries: &mut Entries, handle: Handle, list: List) {
        debug_assert_eq!(entries.links(handle), (0, 0));
        let first = self.ends[list.0 as usize].first;
        entries.set_links(handle, (list.0, first));
        self.set_prev(entries, first, handle.0);
        self.ends[list.0 as usize].first = handle.0;
    }

    /// As [`Lists::link`], at the other end.
    pub(super) fn link_last(&mut self, entries: &mut Entries, handle: Handle, list: List) {
        debug_assert_eq!(entries.links(handle), (0, 0));
        let last = self.ends[list.0 as usize].last;
        entries.set_links(handle, (last, list.0));
        self.set_next(entries, last, handle.0);
        self.ends[list.0 as usize].last = handle.0;
    }

    /// Takes an entry off its list, if it is on one; says whether it was.
    #[inline]
    pub(super) fn unlink(&mut self, entries: &mut Entries, handle: Handle) -> bool {
        let (prev, next) = entries.links(handle);
        if prev == 0 {
            return false;
        }
        self.set_next(entries, prev, next);
        self.set_prev(entries, next, prev);
        entries.set_links(handle, (0, 0));
        true
    }

    /// Moves an entry, on whichever list it is, to the front of `list`.
    #[inline]
    pub(super) fn move_to(&mut self, entries: &mut Entries, handle: Handle, list: List) {
        if self.ends[list.0 as usize].first == handle.0 {
            return;
        }
        self.unlink(entries, handle);
        self.link(entries, handle, list);
    }

    /// Tells the neighbours of an entry that it lies at `handle` now; its links came with it.
    #[inline]
    pub(super) fn moved(&mut self, entries: &mut Entries, handle: Handle) {
        let (prev, next) = entries.links(handle);
        if prev != 0 {
            self.set_next(entries, prev, handle.0);
            self.set_prev(entries, next, handle.0);
        }
    }

    /// Hangs all of list `from` behind the last entry of list `to`; `from` is empty then. O(1).
    pub(super) fn append(&mut self, entries: &mut Entries, from: List, to: List) {
        if self.is_empty(from) {
            return;
        }
        let Ends { first, last } = self.ends[from.0 as usize];
        let end = self.ends[to.0 as usize].last;
        self.set_next(entries, end, first);
        self.set_prev(entries, first, end);
        self.set_next(entries, last, to.0);
        self.set_prev(entries, to.0, last);
        self.ends[from.0 as usize] = Ends { first: from.0, last: from.0 };
    }

    /// Starts to load the neighbours of an entry that is about to be moved.
    #[inline]
    pub(super) fn prefetch_neighbours(&self, entries: &Entries, handle: Handle) {
        let (prev, next) = entries.links(handle);
        entries.prefetch_header(Handle(prev));
        entries.prefetch_header(Handle(next));
    }

    #[inline]
    fn set_next(&mut self, entries: &mut Entries, of: u32, next: u32) {
        if of < FIRST_HANDLE {
            self.ends[of as usize].first = next;
        } else {
            entries.set_next(Handle(of), next);
        }
    }

    #[inline]
    fn set_prev(&mut self, entries: &mut Entries, of: u32, prev: u32) {
        if of < FIRST_HANDLE {
            self.ends[of as usize].last = prev;
        } else {
            entries.set_prev(Handle(of), prev);
        }
    }

    /// The entries of a list, the newest first.
    #[cfg(test)]
    pub(super) fn iter<'a>(&'a self, entries: &'a Entries, list: List) -> impl Iterator<Item = Handle> + 'a {
        let mut at = self.ends[list.0 as usize].first;
        std::iter::from_fn(move || {
            if at < FIRST_HANDLE {
                assert_eq!(at, list.0, "a list ends in another one");
                return None;
            }
            let handle = Handle(at);
            at = entries.links(handle).1;
            Some(handle)
        })
    }

    /// Checks every invariant; returns all entries with their lists.
    #[cfg(test)]
    pub(super) fn validate(&self, entries: &Entries) -> Vec<(Handle, List)> {
        let mut all = Vec::new();
        for list in (1..=LISTS as u32).map(List) {
            let mut prev = list.0;
            for handle in self.iter(entries, list) {
                assert_eq!(entries.links(handle).0, prev);
                prev = handle.0;
                all.push((handle, list));
            }
            assert_eq!(self.ends[list.0 as usize].last, prev);
        }
        all
    }
}
