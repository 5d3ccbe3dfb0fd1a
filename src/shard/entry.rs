//! Entries: how one key with its value lies in the heap.
//!
//! [`super::layout`] says where the parts of an entry lie. Links of the eviction lists and of the timer wheel are handles;
//! [`Entries::replace`] and [`Entries::relocate`] are the ways by which an entry moves to another chunk, and carry them
//! over. Whoever calls them tells the neighbours.
//!
//! Invariant: every live chunk of the heap holds a whole entry, as the functions here trust its header. Handles stay
//! inside `shard/`, come from [`Entries::create`], [`Entries::replace`] or [`Entries::relocate`], and are forgotten with
//! [`Entries::free`] or [`Entries::take`]; builds with debug assertions check each use.
//!
//! Owned by one core.
//!
//! Longer than other files, because all that dereferences handles stands here.

mod collections;

use std::ptr;
use std::sync::Arc;

use super::boxes::{self, Boxes};
use super::heap::{self, Handle, Heap, HeapError};
use super::layout::{
    BIGKEY, BOXED, Bytes, Form, HEADER_BYTES, Header, KIND_MASK, LARGE, RAW, TTL, Ttl, USAGE_SHIFT, bytes_offset,
    charge, key_offset, same, value_offset,
};
use super::{Deadline, Kind, NewValue, Stored, Str};
use crate::collection::Large;

/// A vector kept for the next change of a small value is at most this large, bytes.
const SCRATCH_BYTES_MAX: usize = 64 * 1024;

/// What an entry has besides key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub kind: Kind,
    pub raw: bool,
    /// The value is the number of a box.
    pub boxed: bool,
    pub expire_at: Option<Deadline>,
    /// How the entry was used so far: 24 bits, which the eviction policy reads and writes ([`super::usage`]).
    pub usage: u32,
}

/// All entries of one shard.
pub(super) struct Entries {
    heap: Heap,
    /// Charge of the vectors outside the heap.
    outside_bytes: usize,
    /// Charge of what belongs to entries and is accounted for by others: tables, wheels, the memory of an eviction policy.
    pub(super) index_bytes: usize,
    /// For changing small values; empty between calls.
    scratch: Vec<u8>,
    boxes: Boxes,
}

/// Flags of an entry that do not follow from lengths.
fn flags(meta: &Meta) -> u32 {
    meta.kind.to_bits() | if meta.raw { RAW } else { 0 } | if meta.boxed { BOXED } else { 0 }
}

impl Entries {
    /// Room for `reserve_bytes` of chunks, or as much as the system allows.
    pub(super) fn new(reserve_bytes: usize) -> Result<Entries, HeapError> {
        let heap = Heap::new(reserve_bytes)?;
        Ok(Entries { heap, outside_bytes: 0, index_bytes: 0, scratch: Vec::new(), boxes: Boxes::default() })
    }

    #[inline]
    pub(super) fn heap(&self) -> &Heap {
        &self.heap
    }

    #[inline]
    pub(super) fn heap_mut(&mut self) -> &mut Heap {
        &mut self.heap
    }

    pub(super) fn boxes(&self) -> &Boxes {
        &self.boxes
    }

    pub(super) fn boxes_mut(&mut self) -> &mut Boxes {
        &mut self.boxes
    }

    /// Bytes charged: chunks, large keys, values and collections outside of them, and [`Entries::index_bytes`].
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.heap.bytes() + self.outside_bytes + self.index_bytes + self.boxes.bytes()
    }

    #[inline]
    fn header(&self, handle: Handle) -> &Header {
        // SAFETY: a live chunk begins with an initialised header and is aligned to 8 (module invariant); it stays as it
        // is while `self` is borrowed.
        unsafe { &*self.heap.address(handle).cast::<Header>() }
    }

    #[inline]
    fn header_mut(&mut self, handle: Handle) -> &mut Header {
        // SAFETY: as in `header`, and `self` is borrowed exclusively.
        unsafe { &mut *self.heap.address(handle).cast::<Header>() }
    }

    /// The expiry block, if there is one.
    #[inline]
    pub(super) fn ttl(&self, handle: Handle) -> Option<&Ttl> {
        if self.header(handle).word & TTL == 0 {
            return None;
        }
        // SAFETY: the flag says that an initialised block follows the header, aligned to 8 as the header's length is.
        Some(unsafe { &*self.heap.address(handle).add(HEADER_BYTES).cast::<Ttl>() })
    }

    #[inline]
    pub(super) fn ttl_mut(&mut self, handle: Handle) -> Option<&mut Ttl> {
        if self.header(handle).word & TTL == 0 {
            return None;
        }
        // SAFETY: as in `ttl`, and `self` is borrowed exclusively.
        Some(unsafe { &mut *self.heap.address(handle).add(HEADER_BYTES).cast::<Ttl>() })
    }

    #[inline]
    fn large(&self, handle: Handle) -> Option<&Bytes> {
        let word = self.header(handle).word;
        if word & LARGE == 0 {
            return None;
        }
        // SAFETY: the flag says that an initialised Arc lies there; the offset is a multiple of 8.
        Some(unsafe { &*self.heap.address(handle).add(value_offset(word)).cast::<Bytes>() })
    }

    #[inline]
    fn large_mut(&mut self, handle: Handle) -> Option<&mut Bytes> {
        let word = self.header(handle).word;
        if word & LARGE == 0 {
            return None;
        }
        // SAFETY: as in `large`, and `self` is borrowed exclusively.
        Some(unsafe { &mut *self.heap.address(handle).add(value_offset(word)).cast::<Bytes>() })
    }

    #[inline]
    fn big_key(&self, handle: Handle) -> Option<&Bytes> {
        let word = self.header(handle).word;
        if word & BIGKEY == 0 {
            return None;
        }
        // SAFETY: as in `large`.
        Some(unsafe { &*self.heap.address(handle).add(key_offset(word)).cast::<Bytes>() })
    }

    #[inline]
    pub(super) fn key(&self, handle: Handle) -> &[u8] {
        if let Some(key) = self.big_key(handle) {
            return key;
        }
        let header = self.header(handle);
        // SAFETY: without BIGKEY the key's bytes lie there, initialised when the entry was made.
        unsafe {
            let first = self.heap.address(handle).add(bytes_offset(header.word));
            std::slice::from_raw_parts(first, header.key_len as usize)
        }
    }

    #[inline]
    pub(super) fn value(&self, handle: Handle) -> Str<'_> {
        if let Some(value) = self.large(handle) {
            return Str::Large(value);
        }
        let header = self.header(handle);
        // SAFETY: without LARGE the value's bytes lie behind those of the key (`key_len` is 0 with BIGKEY), initialised
        // when they were written.
        Str::Inline(unsafe {
            let first = self.heap.address(handle).add(bytes_offset(header.word) + header.key_len as usize);
            std::slice::from_raw_parts(first, header.value_len as usize)
        })
    }

    /// The number of the box in which the value is.
    #[inline]
    fn box_number(&self, handle: Handle) -> Option<u32> {
        if self.header(handle).word & BOXED == 0 {
            return None;
        }
        Some(boxes::box_number(self.value(handle).bytes()))
    }

    /// The boxes, if the value is in one of them.
    #[inline]
    pub(super) fn boxes_of(&self, handle: Handle) -> Option<&Boxes> {
        (self.header(handle).word & BOXED != 0).then_some(&self.boxes)
    }

    /// The large collection that is the value.
    #[inline]
    pub(super) fn collection(&self, handle: Handle) -> Option<&Large> {
        Some(self.boxes.get(self.box_number(handle)?))
    }

    #[inline]
    pub(super) fn key_is(&self, handle: Handle, key: &[u8]) -> bool {
        same(self.key(handle), key)
    }

    #[inline]
    pub(super) fn expire_at(&self, handle: Handle) -> Option<Deadline> {
        self.ttl(handle).map(|ttl| ttl.expire_at)
    }

    #[inline]
    pub(super) fn kind(&self, handle: Handle) -> Kind {
        Kind::from_bits(self.header(handle).word & KIND_MASK)
    }

    /// Changed in place at least once.
    #[inline]
    pub(super) fn raw(&self, handle: Handle) -> bool {
        self.header(handle).word & RAW != 0
    }

    pub(super) fn meta(&self, handle: Handle) -> Meta {
        Meta {
            kind: self.kind(handle),
            raw: self.raw(handle),
            boxed: self.header(handle).word & BOXED != 0,
            expire_at: self.expire_at(handle),
            usage: self.usage(handle),
        }
    }

    /// See [`Meta::usage`].
    #[inline]
    pub(super) fn usage(&self, handle: Handle) -> u32 {
        self.header(handle).word >> USAGE_SHIFT
    }

    /// See [`Meta::usage`]; the top 8 bits of `usage` are ignored.
    #[inline]
    pub(super) fn set_usage(&mut self, handle: Handle, usage: u32) {
        let header = self.header_mut(handle);
        header.word = header.word & ((1 << USAGE_SHIFT) - 1) | usage << USAGE_SHIFT;
    }

    /// The entry's links on an eviction list: previous and next.
    #[inline]
    pub(super) fn links(&self, handle: Handle) -> (u32, u32) {
        let header = self.header(handle);
        (header.prev, header.next)
    }

    #[inline]
    pub(super) fn set_links(&mut self, handle: Handle, (prev, next): (u32, u32)) {
        let header = self.header_mut(handle);
        (header.prev, header.next) = (prev, next);
    }

    #[inline]
    pub(super) fn set_prev(&mut self, handle: Handle, prev: u32) {
        self.header_mut(handle).prev = prev;
    }

    #[inline]
    pub(super) fn set_next(&mut self, handle: Handle, next: u32) {
        self.header_mut(handle).next = next;
    }

    /// Bytes charged for the entry alone.
    #[inline]
    pub(super) fn charged_bytes(&self, handle: Handle) -> usize {
        let header = self.header(handle);
        let inline = bytes_offset(header.word) + header.key_len as usize + header.value_len as usize;
        let outside = self.large(handle).map_or(0, charge) + self.big_key(handle).map_or(0, charge);
        heap::chunk_bytes(inline) + outside + self.collection(handle).map_or(0, Large::bytes)
    }

    #[inline]
    pub(super) fn prefetch(&self, handle: Handle) {
        self.heap.prefetch(handle);
    }

    #[inline]
    pub(super) fn prefetch_header(&self, handle: Handle) {
        self.heap.prefetch_first(handle);
    }

    /// Makes an entry that is on no list. Fails only if [`Heap::has_free_slab`] does not hold.
    #[inline]
    pub(super) fn create(&mut self, key: &[u8], value: NewValue, meta: Meta) -> Result<Handle, HeapError> {
        let form = Form::of(key.len(), value.bytes().len(), meta.expire_at.is_some());
        let handle = self.heap.allocate(form.bytes)?;
        let first = self.heap.address(handle);
        let word = form.flags | flags(&meta) | meta.usage << USAGE_SHIFT;
        let header = Header { prev: 0, next: 0, word, key_len: 0, value_len: 0 };
        // SAFETY: the chunk is ours alone, aligned to 8, and has room for all that the form says; the header is written
        // first, then the expiry block that its flags announce, each part at its own offset.
        unsafe {
            first.cast::<Header>().write(header);
            if let Some(expire_at) = meta.expire_at {
                first.add(HEADER_BYTES).cast::<Ttl>().write(Ttl { expire_at, wheel_prev: 0, wheel_next: 0 });
            }
        }
        if word & BIGKEY != 0 {
            let key = Arc::new(key.to_vec());
            self.outside_bytes += charge(&key);
            // SAFETY: the form has a place for the Arc at this offset, a multiple of 8.
            unsafe { first.add(key_offset(word)).cast::<Bytes>().write(key) };
        } else {
            // SAFETY: the form has `key.len()` bytes for it at this offset; `key` cannot lie in this chunk, which was
            // free until now.
            unsafe { ptr::copy_nonoverlapping(key.as_ptr(), first.add(bytes_offset(word)), key.len()) };
            self.header_mut(handle).key_len = key.len() as u16;
        }
        if word & LARGE != 0 {
            let value = value.into_shared();
            self.outside_bytes += charge(&value);
            // SAFETY: as for the key.
            unsafe { first.add(value_offset(word)).cast::<Bytes>().write(value) };
        } else {
            self.write_inline(handle, value.bytes());
        }
        Ok(handle)
    }

    /// Writes a value of which the caller knows that it fits where the old one lies, or should lie.
    #[inline]
    fn write_inline(&mut self, handle: Handle, value: &[u8]) {
        let header = self.header(handle);
        let offset = bytes_offset(header.word) + header.key_len as usize;
        debug_assert!(header.word & LARGE == 0 && offset + value.len() <= heap::CHUNK_BYTES_MAX);
        // SAFETY: the callers pass values for which the entry's form and chunk were computed, and `value` does not lie
        // in the heap: that is borrowed exclusively.
        unsafe { ptr::copy_nonoverlapping(value.as_ptr(), self.heap.address(handle).add(offset), value.len()) };
        self.header_mut(handle).value_len = value.len() as u16;
    }

    /// Gives an entry, whose key is `key`, another value and other properties: in place if its form and its chunk's size
    /// stay the same. A box that the entry has named so far is for the caller to give up, or to name again. Returns where
    /// the entry lies now. Fails as [`Entries::create`] does, and has freed the old entry then.
    #[inline]
    pub(super) fn replace(
        &mut self,
        handle: Handle,
        key: &[u8],
        value: NewValue,
        meta: Meta,
    ) -> Result<Handle, HeapError> {
        let header = self.header(handle);
        let old_bytes = bytes_offset(header.word) + header.key_len as usize + header.value_len as usize;
        let old_flags = header.word & (LARGE | BIGKEY | TTL);
        let form = Form::of(key.len(), value.bytes().len(), meta.expire_at.is_some());
        let same = form.flags == old_flags && heap::chunk_bytes(form.bytes) == heap::chunk_bytes(old_bytes);
        if !same {
            let links = (header.prev, header.next);
            let wheel = self.ttl(handle).map(|ttl| (ttl.wheel_prev, ttl.wheel_next));
            self.free_unboxed(handle);
            let handle = self.create(key, value, meta)?;
            let header = self.header_mut(handle);
            (header.prev, header.next) = links;
            if let (Some(ttl), Some(wheel)) = (self.ttl_mut(handle), wheel) {
                (ttl.wheel_prev, ttl.wheel_next) = wheel;
            }
            return Ok(handle);
        }
        let word = form.flags | flags(&meta) | meta.usage << USAGE_SHIFT;
        self.header_mut(handle).word = word;
        if let (Some(ttl), Some(expire_at)) = (self.ttl_mut(handle), meta.expire_at) {
            ttl.expire_at = expire_at;
        }
        match self.large_mut(handle) {
            None => self.write_inline(handle, value.bytes()),
            Some(old) => {
                let before = charge(old);
                overwrite(old, value);
                let after = charge(old);
                self.outside_bytes = self.outside_bytes - before + after;
            }
        }
        Ok(handle)
    }

    /// Moves an entry as it is to another chunk of its size, `bytes`. Fails only if [`Heap::has_free_slab`] does not hold.
    pub(super) fn relocate(&mut self, handle: Handle, bytes: usize) -> Result<Handle, HeapError> {
        let new = self.heap.allocate(bytes)?;
        // SAFETY: both chunks are live, of a class of at least `bytes`, and distinct. The copy takes over what the old
        // chunk owned (Arcs of large values): freeing a chunk looks at no content.
        unsafe { ptr::copy_nonoverlapping(self.heap.address(handle), self.heap.address(new), bytes) };
        self.heap.free(handle);
        Ok(new)
    }

    /// Changes the expiry, which moves the entry unless it already has one and keeps one.
    pub(super) fn set_expire_at(
        &mut self,
        handle: Handle,
        key: &[u8],
        expire_at: Option<Deadline>,
    ) -> Result<Handle, HeapError> {
        let meta = Meta { expire_at, ..self.meta(handle) };
        match (self.ttl_mut(handle), expire_at) {
            (Some(ttl), Some(at)) => {
                ttl.expire_at = at;
                Ok(handle)
            }
            (None, None) => Ok(handle),
            _ => match self.value(handle) {
                Str::Large(value) => {
                    let value = Arc::clone(value);
                    self.replace(handle, key, NewValue::Shared(value), meta)
                }
                Str::Inline(_) => self.through_scratch(handle, key, meta, |_| ()).map(|(handle, ())| handle),
            },
        }
    }

    /// Lets `change` work on the value and gives the entry the other properties of `meta`. A large value is changed in
    /// place (in a copy, if it is shared) and comes back into the entry if it has become small enough.
    pub(super) fn modify<R>(
        &mut self,
        handle: Handle,
        key: &[u8],
        meta: Meta,
        change: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> Result<(Handle, R), HeapError> {
        let Some(value) = self.large_mut(handle) else { return self.through_scratch(handle, key, meta, change) };
        let before = charge(value);
        let result = change(Arc::make_mut(value));
        let (after, value) = (charge(value), Arc::clone(value));
        self.outside_bytes = self.outside_bytes - before + after;
        Ok((self.replace(handle, key, NewValue::Shared(value), meta)?, result))
    }

    fn through_scratch<R>(
        &mut self,
        handle: Handle,
        key: &[u8],
        meta: Meta,
        change: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> Result<(Handle, R), HeapError> {
        let mut value = std::mem::take(&mut self.scratch);
        value.extend_from_slice(self.value(handle).bytes());
        let result = change(&mut value);
        if Form::of(key.len(), value.len(), meta.expire_at.is_some()).flags & LARGE != 0 {
            return Ok((self.replace(handle, key, NewValue::Owned(value), meta)?, result));
        }
        let handle = self.replace(handle, key, NewValue::Bytes(&value), meta)?;
        if value.capacity() <= SCRATCH_BYTES_MAX {
            value.clear();
            self.scratch = value;
        }
        Ok((handle, result))
    }

    /// Frees an entry and what it owns.
    #[inline]
    pub(super) fn free(&mut self, handle: Handle) {
        self.bury(handle);
        self.free_unboxed(handle);
    }

    /// Gives up the large collection of an entry whose value is replaced, or which is freed, next.
    #[inline]
    pub(super) fn bury(&mut self, handle: Handle) {
        if let Some(number) = self.box_number(handle) {
            self.boxes.bury(number);
        }
    }

    #[inline]
    fn free_unboxed(&mut self, handle: Handle) {
        let word = self.header(handle).word;
        if word & (LARGE | BIGKEY) != 0 {
            self.take_outside(handle);
        }
        self.heap.free(handle);
    }

    /// Frees an entry and returns its value; a large one is not copied.
    pub(super) fn take(&mut self, handle: Handle) -> Stored {
        if let Some(number) = self.box_number(handle) {
            let large = self.boxes.take(number);
            self.boxes.release(number);
            self.free_unboxed(handle);
            return Stored::Large(large);
        }
        let inline = match self.value(handle) {
            Str::Inline(value) => Some(Arc::new(value.to_vec())),
            Str::Large(_) => None,
        };
        let outside = self.take_outside(handle);
        self.heap.free(handle);
        Stored::Bytes(inline.or(outside).expect("a value is inline or outside"))
    }

    /// Drops a key and takes a value that lie outside the heap. The chunk must be freed next.
    fn take_outside(&mut self, handle: Handle) -> Option<Bytes> {
        let key = self.big_key(handle).map(ptr::from_ref);
        let value = self.large(handle).map(ptr::from_ref);
        // SAFETY: both point to initialised Arcs, which nobody reads again: the only callers free the chunk next, and
        // freeing looks at no content.
        let (key, value) = unsafe { (key.map(|key| key.read()), value.map(|value| value.read())) };
        self.outside_bytes -= key.as_ref().map_or(0, charge) + value.as_ref().map_or(0, charge);
        value
    }

    /// Charge of what lies outside the heap, added up anew.
    #[cfg(test)]
    pub(super) fn outside_bytes_of(&self, handles: &[Handle]) -> usize {
        let outside = |&handle: &Handle| self.large(handle).map_or(0, charge) + self.big_key(handle).map_or(0, charge);
        handles.iter().map(outside).sum()
    }

    #[cfg(test)]
    pub(super) fn validate(&self) -> Vec<Handle> {
        assert!(self.scratch.is_empty());
        let handles = self.heap.validate();
        assert_eq!(self.outside_bytes_of(&handles), self.outside_bytes);
        let mut numbers = Vec::new();
        for &handle in &handles {
            numbers.extend(self.box_number(handle));
            let form = Form::of(self.key(handle).len(), self.value(handle).bytes().len(), self.ttl(handle).is_some());
            assert_eq!(form.flags, self.header(handle).word & (LARGE | BIGKEY | TTL));
        }
        self.boxes.validate(&numbers);
        handles
    }
}

/// Puts `value` in the place of a large one. Borrowed bytes go into the old buffer if nobody shares it and it is neither
/// too small nor twice too large.
fn overwrite(old: &mut Bytes, value: NewValue) {
    if let (NewValue::Bytes(bytes), Some(buffer)) = (&value, Arc::get_mut(old))
        && (bytes.len()..2 * bytes.len()).contains(&buffer.capacity())
    {
        buffer.clear();
        buffer.extend_from_slice(bytes);
        return;
    }
    *old = value.into_shared();
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
