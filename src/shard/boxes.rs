//! Boxes: the large collections of a shard.
//!
//! An entry whose value is a large collection holds the number of its box in the place of the value's bytes. What is in a
//! box can be taken out to be changed, or to be lent to another core, and put back.
//!
//! Freeing a collection of a million elements would hold up the core. So large ones are *buried*: out of sight at once,
//! freed by [`Boxes::free_buried`] in pieces. Until then they count as memory.
//!
//! Invariant: `bytes` is the charge of all collections in boxes and of all that are buried; `buried_bytes` of the latter.
//!
//! Owned by one core.

use std::collections::VecDeque;

use super::layout::allocated;
use crate::collection::Large;

/// Collections of at most so many bytes are freed at once.
const SMALL_BYTES: usize = 16 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Boxes {
    /// By number. None: empty, or taken out for a moment.
    places: Vec<Option<Box<Large>>>,
    /// Numbers that are not in use.
    spare: Vec<u32>,
    /// With the bytes charged for them.
    buried: VecDeque<(Box<Large>, usize)>,
    bytes: usize,
    buried_bytes: usize,
}

impl Boxes {
    /// Bytes charged: collections in boxes, buried ones, and the list of boxes.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that [`Boxes::free_buried`] is going to free.
    #[inline]
    pub(super) fn buried_bytes(&self) -> usize {
        self.buried_bytes
    }

    pub(super) fn insert(&mut self, large: Box<Large>) -> u32 {
        self.bytes += charge(&large);
        if let Some(number) = self.spare.pop() {
            self.places[number as usize] = Some(large);
            return number;
        }
        let before = self.list_bytes();
        self.places.push(Some(large));
        // Every number is spare one day: freeing must not have to allocate.
        self.spare.reserve(self.places.len());
        self.bytes += self.list_bytes() - before;
        self.places.len() as u32 - 1
    }

    fn list_bytes(&self) -> usize {
        allocated(self.places.capacity() * size_of::<Option<Box<Large>>>())
            + allocated(self.spare.capacity() * size_of::<u32>())
    }

    /// The collection in a box that is full.
    #[inline]
    pub(super) fn get(&self, number: u32) -> &Large {
        self.places[number as usize].as_deref().expect("a box that an entry names is full")
    }

    /// Takes a collection out; [`Boxes::put`] or [`Boxes::release`] is the next thing that happens to this box.
    #[inline]
    pub(super) fn take(&mut self, number: u32) -> Box<Large> {
        let large = self.places[number as usize].take().expect("a box that an entry names is full");
        self.bytes -= charge(&large);
        large
    }

    /// Puts a collection into a box out of which one was taken.
    #[inline]
    pub(super) fn put(&mut self, number: u32, large: Box<Large>) {
        self.bytes += charge(&large);
        self.places[number as usize] = Some(large);
    }

    /// Gives up a box out of which the collection was taken.
    pub(super) fn release(&mut self, number: u32) {
        debug_assert!(self.places[number as usize].is_none());
        self.spare.push(number);
    }

    /// Gives up a box with the collection in it.
    pub(super) fn bury(&mut self, number: u32) {
        let large = self.take(number);
        self.release(number);
        self.bury_box(large);
    }

    /// Buries a collection that was taken out, for good.
    pub(super) fn bury_box(&mut self, large: Box<Large>) {
        let bytes = charge(&large);
        if bytes > SMALL_BYTES {
            self.bytes += bytes;
            self.buried_bytes += bytes;
            self.buried.push_back((large, bytes));
        }
    }

    /// Frees about `pieces` allocations of buried collections; false if there are none left.
    pub(super) fn free_buried(&mut self, pieces: usize) -> bool {
        let Some((large, bytes)) = self.buried.front_mut() else { return false };
        if !large.free_some(pieces) {
            self.bytes -= *bytes;
            self.buried_bytes -= *bytes;
            self.buried.pop_front();
        }
        !self.buried.is_empty()
    }

    #[inline]
    pub(super) fn has_buried(&self) -> bool {
        !self.buried.is_empty()
    }

    /// Checks the counters against the collections that `numbers` name, which must be all.
    #[cfg(test)]
    pub(super) fn validate(&self, numbers: &[u32]) {
        let full = self.places.iter().filter(|place| place.is_some()).count();
        assert_eq!((full, full + self.spare.len()), (numbers.len(), self.places.len()));
        let boxed: usize = numbers.iter().map(|&number| charge(self.get(number))).sum();
        let buried: usize = self.buried.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(self.buried_bytes, buried);
        assert_eq!(self.bytes, boxed + buried + self.list_bytes());
    }
}

/// The number of a box, as it lies in the place of a value.
#[inline]
pub(super) fn box_number(value: &[u8]) -> u32 {
    u32::from_le_bytes(*value.first_chunk().expect("the value of a boxed entry is a number"))
}

fn charge(large: &Large) -> usize {
    allocated(size_of::<Large>()) + large.bytes()
}
