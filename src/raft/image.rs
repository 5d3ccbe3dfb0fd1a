//! The log in memory: all entries that are not purged, the vote, and how far the log is committed.
//!
//! A control plane's log is short: after every few thousand entries comes a snapshot, and what it has is purged. So all of
//! it is here, and the disk is read only when the node starts. The same code replays records then and executes them
//! later; what makes no sense is refused both times.
//!
//! Pure. Owned by the control core, behind [`super::log_store`].
//!
//! Invariant: entries have consecutive indices and ascending ids, and follow `base`.
//! Invariant: once the log is recovered, `base` is what was purged.

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};

use super::stored::{Change, Tip};
use super::types::{Entry, LogId};

/// What an entry is in memory.
struct Held {
    entry: Entry,
    /// Of its record.
    bytes: usize,
}

/// The log.
#[derive(Default)]
pub struct Image {
    tip: Tip,
    /// The id before that of the first entry.
    base: Option<LogId>,
    entries: VecDeque<Held>,
}

fn index(id: Option<LogId>) -> Option<u64> {
    id.map(|id| id.index)
}

impl Tip {
    /// What a change does to everything but the entries.
    pub fn pass(&mut self, change: &Change) {
        match change {
            Change::Append(entry) => self.last = Some(entry.log_id),
            Change::Number(number) => self.number = Some(*number),
            Change::Vote(vote) => self.vote = Some(*vote),
            Change::Committed(id) => self.committed = *id,
            Change::Truncate(after) if index(*after) < index(self.last) => self.last = *after,
            Change::Truncate(_) => {}
            Change::Purge(upto) => {
                if Some(upto.index) > index(self.purged) {
                    self.purged = Some(*upto);
                }
                if Some(upto.index) > index(self.last) {
                    self.last = Some(*upto);
                }
            }
        }
    }
}

impl Image {
    /// A log of which so much is known, and no entry.
    pub fn from_tip(tip: Tip) -> Image {
        Image { tip, base: tip.last, entries: VecDeque::new() }
    }

    pub fn tip(&self) -> &Tip {
        &self.tip
    }

    /// Whether a change makes sense.
    pub fn check(&self, change: &Change) -> Result<(), &'static str> {
        match change {
            Change::Append(entry) => match self.tip.last {
                Some(last) if entry.log_id.index != last.index + 1 => Err("an entry that does not follow the last one"),
                Some(last) if entry.log_id < last => Err("an entry of an older leader than the last one"),
                _ => Ok(()),
            },
            Change::Vote(vote) => match self.tip.vote {
                Some(before) if *vote < before => Err("a vote that goes back"),
                _ => Ok(()),
            },
            Change::Truncate(after) => {
                if index(*after) < index(self.tip.purged) {
                    return Err("a cut before what was purged");
                }
                match after.and_then(|id| Some((id, self.entry(id.index)?))) {
                    Some((id, held)) if held.entry.log_id != id => Err("a cut after an entry that is another one"),
                    _ => Ok(()),
                }
            }
            Change::Number(number) => match self.tip.number {
                Some(before) if before != *number => Err("another number for a node that has one"),
                _ => Ok(()),
            },
            Change::Committed(_) | Change::Purge(_) => Ok(()),
        }
    }

    /// Executes a change that was checked; `bytes` are those of its record.
    pub fn apply(&mut self, change: Change, bytes: usize) {
        let before = self.tip;
        self.tip.pass(&change);
        match change {
            Change::Append(entry) => {
                if before.last.is_none() {
                    self.base = None;
                }
                self.entries.push_back(Held { entry, bytes });
            }
            Change::Truncate(after) if index(after) < index(before.last) => {
                while self.entries.back().is_some_and(|held| Some(held.entry.log_id.index) > index(after)) {
                    self.entries.pop_back();
                }
                if index(self.base) > index(after) {
                    self.base = after;
                }
            }
            Change::Purge(upto) => {
                while self.entries.front().is_some_and(|held| held.entry.log_id.index <= upto.index) {
                    self.entries.pop_front();
                }
                if index(self.base) < Some(upto.index) {
                    self.base = Some(upto);
                }
            }
            Change::Number(_) | Change::Vote(_) | Change::Committed(_) | Change::Truncate(_) => {}
        }
    }

    /// Whether all entries are here that were not purged. If not, the index of the first that is.
    pub fn gap(&self) -> Option<u64> {
        let missing = index(self.base) > index(self.tip.purged);
        missing.then(|| index(self.base).map_or(0, |base| base + 1))
    }

    fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|held| held.entry.log_id.index)
    }

    fn entry(&self, index: u64) -> Option<&Held> {
        let at = index.checked_sub(self.first_index()?)?;
        self.entries.get(at as usize)
    }

    /// The entries of a range that are here: as many as fit into `bytes_max`, at least one.
    pub fn read(&self, range: &impl RangeBounds<u64>, bytes_max: usize) -> Vec<Entry> {
        let Some(first) = self.first_index() else { return Vec::new() };
        let end = first + self.entries.len() as u64;
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => first,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => end,
        };
        let (from, to) = (from.clamp(first, end), to.clamp(first, end));
        let mut bytes = 0usize;
        let wanted = self.entries.range((from - first) as usize..(to.max(from) - first) as usize);
        let fits = wanted.take_while(|held| {
            let fits = bytes == 0 || bytes.saturating_add(held.bytes) <= bytes_max;
            bytes = bytes.saturating_add(held.bytes);
            fits
        });
        fits.map(|held| held.entry.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{LeaderId, Payload, Vote};

    fn id(term: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId { term, node_id: 1 }, index }
    }

    fn entry(term: u64, index: u64) -> Change {
        Change::Append(Entry { log_id: id(term, index), payload: Payload::Blank })
    }

    fn image(changes: impl IntoIterator<Item = Change>) -> Image {
        let mut image = Image::default();
        for change in changes {
            image.check(&change).unwrap();
            image.apply(change, 100);
        }
        image
    }

    fn indices(image: &Image) -> Vec<u64> {
        image.read(&.., usize::MAX).iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn entries_are_appended_cut_and_purged() {
        let mut log = image((0..10).map(|index| entry(1, index)));
        log.apply(Change::Truncate(Some(id(1, 6))), 0);
        assert_eq!((indices(&log), log.tip().last), ((0..=6).collect(), Some(id(1, 6))));
        log.apply(Change::Purge(id(1, 3)), 0);
        assert_eq!((indices(&log), log.tip().purged), (vec![4, 5, 6], Some(id(1, 3))));
        log.apply(Change::Truncate(Some(id(1, 3))), 0);
        assert_eq!((indices(&log), log.tip().last), (vec![], Some(id(1, 3))));
        // A snapshot that is further than the log.
        log.apply(Change::Purge(id(2, 20)), 0);
        assert_eq!((log.tip().last, log.tip().purged), (Some(id(2, 20)), Some(id(2, 20))));
        assert!(log.check(&entry(2, 22)).is_err());
        log.apply(entry(2, 21), 100);
        assert_eq!((indices(&log), log.gap()), (vec![21], None));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut log = image((0..5).map(|index| entry(2, index)));
        log.apply(Change::Vote(Vote::new(3, 2)), 0);
        log.apply(Change::Number(7), 0);
        log.apply(Change::Purge(id(2, 1)), 0);
        for wrong in [
            entry(2, 6),
            entry(2, 4),
            entry(1, 5),
            Change::Vote(Vote::new(2, 9)),
            Change::Number(8),
            Change::Truncate(None),
            Change::Truncate(Some(id(2, 0))),
            Change::Truncate(Some(id(1, 3))),
        ] {
            assert!(log.check(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_log_without_its_beginning_is_noticed() {
        let mut log = Image::from_tip(Tip { last: Some(id(1, 4)), purged: Some(id(1, 2)), ..Tip::default() });
        log.apply(entry(1, 5), 0);
        assert_eq!(log.gap(), Some(5));
        log.apply(Change::Purge(id(1, 4)), 0);
        assert_eq!(log.gap(), None);
    }

    #[test]
    fn reads_are_bounded_and_never_empty() {
        let log = image((3..10).map(|index| entry(1, index)));
        let read = |range: std::ops::Range<u64>, bytes| log.read(&range, bytes).len();
        assert_eq!((read(4..8, 1), read(4..8, 250), read(4..8, 400), read(4..8, usize::MAX)), (1, 2, 4, 4));
        assert_eq!((read(0..4, 999), read(9..99, 999), read(10..20, 999), read(0..3, 999)), (1, 1, 0, 0));
    }
}
