//! A chunk: some neighbouring items of a large list.
//!
//! The items lie in `bytes` from `start` to the end, as in a [`pack`](super::pack) without its count. What is before
//! `start` is room: items added at the head go there, those removed from the head leave it.
//!
//! Owned by the core whose shard holds the list.

use super::End;
use super::pack::{self, Pack};
use crate::shard::allocated;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    start: u32,
    len: u32,
}

impl Chunk {
    pub(super) fn of(items: &[&[u8]]) -> Chunk {
        let mut bytes = Vec::with_capacity(items.iter().map(|item| pack::item_bytes(item.len())).sum());
        items.iter().for_each(|item| pack::write_item(&mut bytes, item));
        Chunk { bytes, start: 0, len: items.len() as u32 }
    }

    pub(super) fn of_pack(pack: Pack) -> Chunk {
        let mut bytes = Vec::with_capacity(pack.end() - pack.start());
        pack.iter().for_each(|item| pack::write_item(&mut bytes, item));
        Chunk { bytes, start: 0, len: pack.len() as u32 }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the items.
    #[inline]
    pub(super) fn used(&self) -> usize {
        self.bytes.len() - self.start as usize
    }

    /// Bytes charged.
    #[inline]
    pub(super) fn charge(&self) -> usize {
        allocated(self.bytes.capacity())
    }

    #[inline]
    pub(super) fn items(&self) -> Pack<'_> {
        Pack::of_items(&self.bytes, self.start as usize, self.len())
    }

    /// Adds an item at one end. The room grows by a half each time, but the chunk not beyond `bytes_max`.
    #[inline]
    pub(super) fn push(&mut self, end: End, item: &[u8], bytes_max: usize) {
        let needed = pack::item_bytes(item.len());
        let more = (self.used() / 2).min(bytes_max.saturating_sub(self.used())).max(needed);
        match end {
            End::Tail => {
                if self.bytes.capacity() - self.bytes.len() < needed {
                    self.bytes.reserve_exact(more);
                }
                pack::write_item(&mut self.bytes, item);
            }
            End::Head => {
                if (self.start as usize) < needed {
                    self.make_room(more);
                }
                let start = self.start as usize;
                pack::write_item_at(&mut self.bytes[start - needed..start], item);
                self.start -= needed as u32;
            }
        }
        self.len += 1;
    }

    /// Makes the room before the first item `more` bytes larger.
    #[cold]
    fn make_room(&mut self, more: usize) {
        let start = self.start as usize;
        let mut bytes = Vec::with_capacity(self.bytes.len() + more);
        bytes.resize(start + more, 0);
        bytes.extend_from_slice(&self.bytes[start..]);
        self.bytes = bytes;
        self.start += more as u32;
    }

    /// Gives back room, if it is more than an eighth.
    pub(super) fn shrink(&mut self) {
        if self.bytes.capacity() - self.used() > self.used() / 8 {
            self.bytes.drain(..self.start as usize);
            self.bytes.shrink_to_fit();
            self.start = 0;
        }
    }

    /// Removes `count` items, fewer than there are, from one end.
    pub(super) fn drop_items(&mut self, end: End, count: usize) {
        match end {
            End::Head => self.start = self.items().offset_of(count) as u32,
            End::Tail => self.bytes.truncate(self.items().offset_of(self.len() - count)),
        }
        self.len -= count as u32;
    }

    pub(super) fn set(&mut self, place: usize, item: &[u8]) {
        let offset = self.items().offset_of(place);
        pack::replace(&mut self.bytes, offset, item);
    }

    pub(super) fn insert(&mut self, place: usize, item: &[u8]) {
        let offset = self.items().offset_of(place);
        pack::insert_items(&mut self.bytes, offset, &[item]);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, place: usize) {
        let offset = self.items().offset_of(place);
        let end = self.items().item(offset).1;
        self.bytes.drain(offset..end);
        self.len -= 1;
    }

    /// Takes the items from `place` on out.
    pub(super) fn split_off(&mut self, place: usize) -> Chunk {
        let offset = self.items().offset_of(place);
        let tail = Chunk { bytes: self.bytes[offset..].to_vec(), start: 0, len: self.len - place as u32 };
        self.bytes.truncate(offset);
        self.len = place as u32;
        self.shrink();
        tail
    }

    /// This chunk without the first `count` items that equal `item`, seen from one end, and how many they are; None if
    /// there is none.
    pub(super) fn without(&self, from: End, count: usize, item: &[u8]) -> Option<(Chunk, usize)> {
        let equal = self.items().iter().filter(|other| *other == item).count();
        let removed = equal.min(count);
        if removed == 0 {
            return None;
        }
        // From the tail, the first of the equal ones stay.
        let mut stay = if from == End::Head { 0 } else { equal - removed };
        let mut go = removed;
        let mut kept = Chunk { bytes: Vec::with_capacity(self.used()), start: 0, len: 0 };
        for other in self.items().iter() {
            if other == item && stay == 0 && go > 0 {
                go -= 1;
                continue;
            }
            stay -= (other == item && stay > 0) as usize;
            pack::write_item(&mut kept.bytes, other);
            kept.len += 1;
        }
        Some((kept, removed))
    }
}
