//! A segment of a dict: up to 64 items in one piece of memory.
//!
//! ```text
//! buffer   tag u8 x S | offset u16 x S | data                  S: the number of items, rounded up to whole groups of 8
//! offset   where the item begins in the data, or 0x8000 | its index among the big ones
//! item     length u8 | key                                     of a set
//!          length u8 | key | length u8 | value                 of a hash
//! big      key                                                 of a set: a piece of memory of its own
//!          length u32 | key | value                            of a hash
//! ```
//!
//! An item's slot is its place among tags and offsets. Slots have no gaps: the last one moves into the place of one that
//! is removed. The data may have holes, where items were removed or became longer; when they make up more than a quarter
//! the segment is written anew. Memory is taken in the sizes that the allocator has anyway, so nothing of what it gives
//! is left unused without being known.
//!
//! Owned by the core whose shard holds the dict.

use super::Pair;
use crate::shard::allocated;

/// Slots are made so many at a time.
const GROUP: usize = 8;
/// Bytes of a group: tags and offsets.
const SLOT_BYTES: usize = 3;
/// Items of more bytes than this lie outside of the buffer: copying the data when it grows stays cheap.
const INLINE_BYTES_MAX: usize = 256;
/// Bit of an offset that says so.
const BIG: u16 = 0x8000;

/// The items that lie outside.
#[derive(Clone, Debug, Default)]
struct Big {
    items: Vec<Box<[u8]>>,
    /// Bytes charged for what `items` points to.
    bytes: usize,
}

/// See the module. `PAIRS`: items have values.
#[derive(Clone, Debug)]
pub(super) struct Segment<const PAIRS: bool> {
    buffer: Vec<u8>,
    big: Option<Box<Big>>,
    /// Which hashes belong here: a one, followed by the top bits that they have in common.
    path: u32,
    len: u16,
    /// Bytes of the data that belong to no item.
    holes: u16,
}

// At about 45 items each that is less than one byte per item.
const _: () = assert!(size_of::<Segment<true>>() == 40);
// An offset has 15 bits; with more items than 64 (see `Dict::make_room`) what would lie behind them becomes big.
const OFFSET_MAX: usize = BIG as usize - 1;
const _: () = assert!(super::SEGMENT_ITEMS_MAX * INLINE_BYTES_MAX * 5 / 4 <= OFFSET_MAX);

impl<const PAIRS: bool> Segment<PAIRS> {
    pub(super) fn new(path: u32) -> Self {
        Segment { buffer: Vec::new(), big: None, path, len: 0, holes: 0 }
    }

    /// An empty segment with room for `items` items that take `data` bytes.
    fn with_room(path: u32, items: usize, data: usize) -> Self {
        let bytes = SLOT_BYTES * items.next_multiple_of(GROUP) + data;
        Segment { buffer: Vec::with_capacity(allocated(bytes)), ..Segment::new(path) }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    pub(super) fn path(&self) -> u32 {
        self.path
    }

    /// Number of top bits that the hashes in here have in common.
    #[inline]
    pub(super) fn depth(&self) -> u32 {
        self.path.ilog2()
    }

    /// Bytes charged, besides those of the segment itself.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        let big = self.big.as_ref().map_or(0, |big| {
            allocated(size_of::<Big>()) + allocated(big.items.capacity() * size_of::<Box<[u8]>>()) + big.bytes
        });
        allocated(self.buffer.capacity()) + big
    }

    /// Items that lie outside.
    #[cfg(test)]
    pub(super) fn pieces(&self) -> usize {
        self.big.as_ref().map_or(0, |big| big.items.len())
    }

    /// Frees a big item, and leaves a wreck; false if there is none.
    pub(super) fn free_big(&mut self) -> bool {
        let Some(big) = &mut self.big else { return false };
        let Some(item) = big.items.pop() else { return false };
        big.bytes -= allocated(item.len());
        true
    }

    #[inline]
    fn slots(&self) -> usize {
        self.len().next_multiple_of(GROUP)
    }

    #[inline]
    fn data_start(&self) -> usize {
        SLOT_BYTES * self.slots()
    }

    #[inline]
    fn data_len(&self) -> usize {
        self.buffer.len() - self.data_start()
    }

    #[inline]
    fn offset(&self, slot: usize) -> u16 {
        let at = self.slots() + 2 * slot;
        u16::from_le_bytes([self.buffer[at], self.buffer[at + 1]])
    }

    #[inline]
    fn set_offset(&mut self, slot: usize, offset: u16) {
        let at = self.slots() + 2 * slot;
        self.buffer[at..at + 2].copy_from_slice(&offset.to_le_bytes());
    }

    #[inline]
    fn inline_bytes(key: &[u8], value: &[u8]) -> usize {
        if PAIRS { 2 + key.len() + value.len() } else { 1 + key.len() }
    }

    /// The item in a slot.
    #[inline]
    pub(super) fn item(&self, slot: usize) -> Pair<'_> {
        let offset = self.offset(slot);
        if offset & BIG != 0 {
            return self.big_item(offset);
        }
        let (key, rest) = short(&self.buffer[self.data_start() + offset as usize..]);
        (key, if PAIRS { short(rest).0 } else { &[] })
    }

    fn big_item(&self, offset: u16) -> Pair<'_> {
        let index = (offset & !BIG) as usize;
        let bytes: &[u8] = self.big.as_ref().map_or(&[], |big| &big.items[index]);
        match bytes.split_first_chunk() {
            Some((len, rest)) if PAIRS => rest.split_at(u32::from_le_bytes(*len) as usize),
            _ => (bytes, &[]),
        }
    }

    /// The slot of `key`, whose hash has the tag `tag`.
    #[inline]
    pub(super) fn find(&self, tag: u8, key: &[u8]) -> Option<usize> {
        memchr::memchr_iter(tag, &self.buffer[..self.len()]).find(|&slot| self.item(slot).0 == key)
    }

    /// The tag in a slot.
    #[inline]
    pub(super) fn tag(&self, slot: usize) -> u8 {
        self.buffer[slot]
    }

    /// Adds an item that is not here yet.
    pub(super) fn push(&mut self, tag: u8, key: &[u8], value: &[u8]) {
        let slot = self.add_slot(tag, Self::inline_bytes(key, value).min(INLINE_BYTES_MAX));
        self.write(slot, key, value);
    }

    /// Makes a slot at the end, and room for `data` bytes.
    fn add_slot(&mut self, tag: u8, data: usize) -> usize {
        let slot = self.len();
        if slot == self.slots() {
            self.reserve(SLOT_BYTES * GROUP + data);
            let end = self.buffer.len();
            self.buffer.resize(end + SLOT_BYTES * GROUP, 0);
            self.buffer.copy_within(SLOT_BYTES * slot..end, SLOT_BYTES * (slot + GROUP));
            self.buffer.copy_within(slot..SLOT_BYTES * slot, slot + GROUP);
        }
        self.len += 1;
        self.buffer[slot] = tag;
        slot
    }

    /// Takes away the last slot.
    fn drop_slot(&mut self) {
        let slot = self.len() - 1;
        self.len -= 1;
        if slot == self.slots() {
            let end = self.buffer.len();
            self.buffer.copy_within(slot + GROUP..slot + GROUP + 2 * slot, slot);
            self.buffer.copy_within(SLOT_BYTES * (slot + GROUP).., SLOT_BYTES * slot);
            self.buffer.truncate(end - SLOT_BYTES * GROUP);
        }
    }

    /// Room for `more` bytes, in a size that the allocator has.
    #[inline]
    fn reserve(&mut self, more: usize) {
        let wanted = self.buffer.len() + more;
        if wanted > self.buffer.capacity() {
            self.buffer.reserve_exact(allocated(wanted) - self.buffer.len());
        }
    }

    /// Writes the item of a slot, behind the data or outside.
    fn write(&mut self, slot: usize, key: &[u8], value: &[u8]) {
        let bytes = Self::inline_bytes(key, value);
        let offset = self.data_len();
        if bytes > INLINE_BYTES_MAX || offset + bytes > OFFSET_MAX {
            return self.write_big(slot, key, value);
        }
        self.set_offset(slot, offset as u16);
        self.reserve(bytes);
        self.buffer.push(key.len() as u8);
        self.buffer.extend_from_slice(key);
        if PAIRS {
            self.buffer.push(value.len() as u8);
            self.buffer.extend_from_slice(value);
        }
    }

    fn write_big(&mut self, slot: usize, key: &[u8], value: &[u8]) {
        let item = if PAIRS { [&(key.len() as u32).to_le_bytes(), key, value].concat() } else { key.to_vec() };
        self.add_big(slot, item.into_boxed_slice());
    }

    fn add_big(&mut self, slot: usize, item: Box<[u8]>) {
        let big = self.big.get_or_insert_default();
        let index = big.items.len();
        assert!(index <= OFFSET_MAX, "no more than a few hundred items share the hash bits of a segment");
        big.bytes += allocated(item.len());
        big.items.push(item);
        self.set_offset(slot, BIG | index as u16);
    }

    /// Gives `key`, which is in `slot`, another value.
    pub(super) fn replace(&mut self, slot: usize, key: &[u8], value: &[u8]) {
        let old = self.item(slot).1.len();
        let offset = self.offset(slot);
        if offset & BIG == 0 && old == value.len() {
            let at = self.data_start() + offset as usize + 2 + key.len();
            return self.buffer[at..at + old].copy_from_slice(value);
        }
        self.detach(slot);
        self.write(slot, key, value);
        self.compact_if_sparse();
    }

    /// Removes the item in a slot.
    pub(super) fn remove(&mut self, slot: usize) {
        self.detach(slot);
        let last = self.len() - 1;
        self.buffer[slot] = self.buffer[last];
        let offset = self.offset(last);
        self.set_offset(slot, offset);
        self.drop_slot();
        self.compact_if_sparse();
    }

    /// Frees the memory of the item in a slot, whose offset is then without meaning.
    fn detach(&mut self, slot: usize) {
        let offset = self.offset(slot);
        if offset & BIG != 0 {
            return self.detach_big(offset);
        }
        let (key, value) = self.item(slot);
        let bytes = Self::inline_bytes(key, value);
        if offset as usize + bytes == self.data_len() {
            self.buffer.truncate(self.buffer.len() - bytes);
        } else {
            self.holes += bytes as u16;
        }
    }

    fn detach_big(&mut self, offset: u16) {
        let Some(big) = &mut self.big else { return };
        let item = big.items.swap_remove((offset & !BIG) as usize);
        big.bytes -= allocated(item.len());
        let moved = BIG | big.items.len() as u16;
        if big.items.is_empty() {
            self.big = None;
        }
        if moved != offset
            && let Some(slot) = (0..self.len()).find(|&slot| self.offset(slot) == moved)
        {
            self.set_offset(slot, offset);
        }
    }

    #[inline]
    fn compact_if_sparse(&mut self) {
        if 4 * self.holes as usize > self.data_len() || (self.len == 0 && self.buffer.capacity() > 0) {
            *self = Self::gather(self.path, &mut [(self, |_| true)]);
        }
    }

    /// A new segment of the items of other ones that `keep` wants, with nothing to spare. What is left of the others is of
    /// no use.
    pub(super) fn gather(path: u32, from: &mut [(&mut Self, impl Fn(usize) -> bool)]) -> Self {
        let kept = |segment: &Self, keep: &dyn Fn(usize) -> bool| {
            let inline = |&slot: &usize| segment.offset(slot) & BIG == 0;
            let bytes = |slot| Self::inline_bytes(segment.item(slot).0, segment.item(slot).1);
            let slots = || (0..segment.len()).filter(|&slot| keep(slot));
            (slots().count(), slots().filter(inline).map(bytes).sum::<usize>())
        };
        let sizes = from.iter().map(|(segment, keep)| kept(segment, keep));
        let (items, data) = sizes.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        let mut new = Segment::with_room(path, items, data);
        for (segment, keep) in from {
            (0..segment.len()).filter(|&slot| keep(slot)).for_each(|slot| new.take(segment, slot));
        }
        new
    }

    /// Takes over an item of another segment.
    fn take(&mut self, from: &mut Self, slot: usize) {
        let offset = from.offset(slot);
        if offset & BIG == 0 {
            let (key, value) = from.item(slot);
            return self.push(from.tag(slot), key, value);
        }
        let item = from.big.as_mut().map(|big| std::mem::take(&mut big.items[(offset & !BIG) as usize]));
        let slot = self.add_slot(from.tag(slot), 0);
        self.add_big(slot, item.unwrap_or_default());
    }

    /// Checks the structure.
    #[cfg(test)]
    pub(super) fn validate(&self) {
        let mut places: Vec<(usize, usize)> = Vec::new();
        let mut big = Vec::new();
        for slot in 0..self.len() {
            let offset = self.offset(slot);
            if offset & BIG != 0 {
                big.push((offset & !BIG) as usize);
                continue;
            }
            let (key, value) = self.item(slot);
            let bytes = Self::inline_bytes(key, value);
            assert!(bytes <= INLINE_BYTES_MAX);
            places.push((offset as usize, offset as usize + bytes));
        }
        places.sort_unstable();
        assert!(places.is_sorted_by(|a, b| a.1 <= b.0));
        assert!(places.last().is_none_or(|last| last.1 <= self.data_len()));
        let used: usize = places.iter().map(|(start, end)| end - start).sum();
        assert_eq!(used + self.holes as usize, self.data_len());
        assert!(4 * self.holes as usize <= self.data_len());
        big.sort_unstable();
        assert!(big.iter().copied().eq(0..self.pieces()));
        assert_eq!(self.big.is_some(), !big.is_empty());
        if let Some(big) = &self.big {
            assert_eq!(big.bytes, big.items.iter().map(|item| allocated(item.len())).sum::<usize>());
        }
        assert!(self.len > 0 || self.bytes() == 0);
    }
}

/// The byte string with a length of one byte that `bytes` begins with, and what follows.
#[inline]
fn short(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes[1..].split_at(bytes[0] as usize)
}
