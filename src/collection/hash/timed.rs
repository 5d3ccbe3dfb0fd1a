//! A large hash some fields of which have deadlines.
//!
//! Its fields are what those of any large hash are, and the [`Deadlines`] stand beside: a hash gets its first deadline and
//! loses its last one without a field being moved, a field without a deadline costs nothing, and reading a value looks at
//! no deadline. A deadline takes about 27 bytes and the name of its field once more.
//!
//! Invariant: only fields have deadlines, and at least one has.
//!
//! Owned by the core whose shard holds the hash.

use super::super::deadlines::Deadlines;
use super::super::dict::{Fields, Pair};
use super::super::random::{Random, select};
use crate::shard::{Deadline, Now};

/// Fields that are drawn before a live one is chosen among all.
const RANDOM_TRIES_MAX: usize = 64;

/// See the module.
#[derive(Clone, Debug)]
pub struct Timed {
    pub(super) fields: Fields,
    pub(super) deadlines: Deadlines,
}

impl Timed {
    /// Fields, with those whose deadlines have come.
    #[inline]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes charged, without those of the structure itself.
    pub fn bytes(&self) -> usize {
        self.fields.bytes() + self.deadlines.bytes()
    }

    /// See [`super::super::Large::free_some`].
    pub fn free_some(&mut self, pieces: usize) -> bool {
        self.deadlines.free_some(pieces) || self.fields.free_some(pieces)
    }

    /// The deadline of a field that is there (None: it has none), or None if it is not.
    pub(super) fn deadline(&self, field: &[u8]) -> Option<Option<Deadline>> {
        self.fields.contains(field).then(|| self.deadlines.get(field))
    }

    /// Removes up to `max` fields whose deadlines have come, after showing each to `seen`; their number.
    pub(super) fn take_due(&mut self, now: Now, max: usize, mut seen: impl FnMut(&[u8], Deadline)) -> usize {
        let mut taken = 0;
        while taken < max
            && let Some((field, deadline)) = self.deadlines.first_due(now)
        {
            seen(field, deadline);
            self.fields.remove(field);
            let field = field.to_vec();
            self.deadlines.remove(&field);
            taken += 1;
        }
        taken
    }
}

/// A hash as it is at a moment: fields whose deadlines have come and that nobody has removed yet are not shown.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    pub(super) hash: &'a Timed,
    pub(super) now: Now,
}

impl<'a> At<'a> {
    fn shows(&self, field: &[u8]) -> bool {
        !self.hash.deadlines.get(field).is_some_and(|deadline| self.now.has_reached(deadline))
    }

    pub(super) fn len(&self) -> usize {
        self.hash.fields.len() - self.hash.deadlines.due(self.now)
    }

    pub(super) fn get(&self, field: &[u8]) -> Option<&'a [u8]> {
        self.hash.fields.get(field).filter(|_| self.shows(field))
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Pair<'a>> {
        self.hash.fields.iter().filter(move |pair| self.shows(pair.0))
    }

    /// Chosen among all if many draws in a row found fields that are over.
    pub(super) fn random(&self, random: &mut Random) -> Option<Pair<'a>> {
        let fields = &self.hash.fields;
        let mut drawn = (0..RANDOM_TRIES_MAX).map_while(|_| fields.random(random).map(|place| fields.at(place)));
        drawn.find(|pair| self.shows(pair.0)).or_else(|| {
            let mut chosen = None;
            select(self.iter(), self.len(), 1, random, |pair| chosen = Some(pair));
            chosen
        })
    }

    pub(super) fn sample(&self, count: usize, random: &mut Random, visit: impl FnMut(Pair)) {
        select(self.iter(), self.len(), count, random, visit);
    }

    pub(super) fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(Pair)) -> u64 {
        self.hash.fields.scan(cursor, count, |pair| {
            if self.shows(pair.0) {
                visit(pair);
            }
        })
    }
}
