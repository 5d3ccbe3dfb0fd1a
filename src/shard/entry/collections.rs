//! Entries whose value is a collection: taken out to be changed, and put back.
//!
//! A compact one is copied to a vector that is used again and again; a large one is in a box ([`super::super::boxes`]),
//! whose number lies in the place of the value.
//!
//! Owned by one core.

use std::sync::Arc;

use super::super::layout::charge;
use super::{Entries, Handle, HeapError, Meta, NewValue, SCRATCH_BYTES_MAX};
use crate::collection::Value;

impl Entries {
    /// Makes an entry, on no list, for a collection. Fails as [`Entries::create`] does.
    pub(in crate::shard) fn create_collection(
        &mut self,
        key: &[u8],
        value: Value,
        meta: Meta,
    ) -> Result<Handle, HeapError> {
        let (bytes, boxed) = self.stow(value);
        let handle = self.create(key, NewValue::Bytes(&bytes), Meta { boxed, ..meta })?;
        self.recycle(bytes);
        Ok(handle)
    }

    /// As [`Entries::replace`], with a collection.
    pub(in crate::shard) fn replace_by_collection(
        &mut self,
        handle: Handle,
        key: &[u8],
        value: Value,
        meta: Meta,
    ) -> Result<Handle, HeapError> {
        self.bury(handle);
        let (bytes, boxed) = self.stow(value);
        let handle = self.replace(handle, key, NewValue::Bytes(&bytes), Meta { boxed, ..meta })?;
        self.recycle(bytes);
        Ok(handle)
    }

    /// What an entry for a collection holds: its bytes, or the number of its box.
    fn stow(&mut self, value: Value) -> (Vec<u8>, bool) {
        match value {
            Value::Compact(bytes) => (bytes, false),
            Value::Large(large) => (self.boxes.insert(large).to_le_bytes().to_vec(), true),
        }
    }

    /// Takes a collection out of its entry to be changed; [`Entries::put_collection`] or [`Entries::drop_emptied`] is the
    /// next thing that happens to the entry.
    pub(in crate::shard) fn take_collection(&mut self, handle: Handle) -> Value {
        if let Some(number) = self.box_number(handle) {
            return Value::Large(self.boxes.take(number));
        }
        let Some(value) = self.large_mut(handle) else {
            let mut bytes = std::mem::take(&mut self.scratch);
            bytes.extend_from_slice(self.value(handle).bytes());
            return Value::Compact(bytes);
        };
        let before = charge(value);
        let bytes = std::mem::take(Arc::make_mut(value));
        let after = charge(value);
        self.outside_bytes = self.outside_bytes - before + after;
        Value::Compact(bytes)
    }

    /// An empty collection, to be filled.
    pub(in crate::shard) fn new_collection(&mut self) -> Value {
        Value::Compact(std::mem::take(&mut self.scratch))
    }

    /// Puts a collection back into its entry, which may move for that. Fails as [`Entries::replace`] does.
    pub(in crate::shard) fn put_collection(
        &mut self,
        handle: Handle,
        key: &[u8],
        value: Value,
        meta: Meta,
    ) -> Result<Handle, HeapError> {
        let number = self.box_number(handle);
        let value = match (value, number) {
            (Value::Large(large), Some(number)) => {
                self.boxes.put(number, large);
                return Ok(handle);
            }
            (value, _) => value,
        };
        number.into_iter().for_each(|number| self.boxes.release(number));
        let (bytes, boxed) = self.stow(value);
        let handle = self.replace(handle, key, NewValue::Bytes(&bytes), Meta { boxed, ..meta })?;
        self.recycle(bytes);
        Ok(handle)
    }

    /// Frees an entry whose collection was taken and has become empty.
    pub(in crate::shard) fn drop_emptied(&mut self, handle: Handle, value: Value) {
        if let Some(number) = self.box_number(handle) {
            self.boxes.release(number);
        }
        self.free_unboxed(handle);
        self.drop_unused(value);
    }

    /// Drops a collection that came from [`Entries::new_collection`].
    pub(in crate::shard) fn drop_unused(&mut self, value: Value) {
        match value {
            Value::Compact(bytes) => self.recycle(bytes),
            // It may have lost all its elements at once, and still have their memory.
            Value::Large(large) => self.boxes.bury_box(large),
        }
    }

    /// Keeps a vector for the next change of a small value.
    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if bytes.capacity() <= SCRATCH_BYTES_MAX && bytes.capacity() > self.scratch.capacity() {
            bytes.clear();
            self.scratch = bytes;
        }
    }
}
