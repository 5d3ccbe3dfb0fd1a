//! From the elements of a value to the value itself: what RESTORE needs.
//!
//! Unlike a file, a payload has no claim on being read somehow: an element that is there twice makes it bad, as in Redis.
//! Fields whose deadlines have come are left out.

use super::Error;
use super::value::Sink;
use crate::collection::list::{self, End};
use crate::collection::{Thresholds, Value, hash, set, sorted};
use crate::shard::{Clock, Deadline, Kind, Now, UnixMs};

/// A value that is being built.
pub(super) struct Whole<'a> {
    thresholds: &'a Thresholds,
    now: Now,
    pub(super) kind: Kind,
    pub(super) string: Vec<u8>,
    pub(super) collection: Value,
    /// Fields that were left out.
    pub(super) fields_over: u64,
    /// Elements that are announced, until the first one has come.
    announced: usize,
}

impl<'a> Whole<'a> {
    pub(super) fn new(thresholds: &'a Thresholds, now: Now) -> Self {
        let (string, collection) = (Vec::new(), Value::default());
        Whole { thresholds, now, kind: Kind::String, string, collection, fields_over: 0, announced: 0 }
    }
}

/// An element has been added, or was there.
fn new(added: bool) -> Result<(), Error> {
    if added { Ok(()) } else { Err(Error::Duplicate) }
}

impl Sink for Whole<'_> {
    type Error = Error;

    /// What is announced only chooses the encoding: nothing is reserved for it.
    fn start(&mut self, kind: Kind, len: Option<u64>) -> Result<(), Error> {
        self.kind = kind;
        self.announced = len.map_or(0, |len| usize::try_from(len).unwrap_or(usize::MAX));
        if kind == Kind::Hash && self.announced > 0 {
            hash::expect(&mut self.collection, self.announced, self.thresholds);
        }
        Ok(())
    }

    fn string(&mut self, value: Vec<u8>) -> Result<(), Error> {
        self.string = value;
        Ok(())
    }

    fn element(&mut self, element: &[u8]) -> Result<(), Error> {
        if self.kind == Kind::List {
            list::push(&mut self.collection, End::Tail, element, self.thresholds);
            return Ok(());
        }
        let announced = std::mem::take(&mut self.announced);
        if announced > 0 {
            set::expect(&mut self.collection, element, announced, self.thresholds);
        }
        new(set::add(&mut self.collection, element, self.thresholds))
    }

    fn field(&mut self, field: &[u8], text: &[u8], deadline: Option<UnixMs>) -> Result<(), Error> {
        let deadline = deadline.map(|ms| Deadline::new(Clock::Wall, ms));
        if deadline.is_some_and(|deadline| self.now.has_reached(deadline)) {
            self.fields_over += 1;
            return Ok(());
        }
        new(hash::set(&mut self.collection, field, text, self.thresholds))?;
        if deadline.is_some() {
            hash::set_deadline(&mut self.collection, field, deadline);
        }
        Ok(())
    }

    fn scored(&mut self, member: &[u8], score: f64) -> Result<(), Error> {
        new(sorted::insert(&mut self.collection, self.thresholds, member, score).is_none())
    }
}
