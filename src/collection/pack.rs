//! A pack: a short sequence of byte strings in one piece of memory, the compact encoding of small collections.
//!
//! ```text
//! pack    count u16 | item ...                                an empty pack is no bytes at all
//! item    length u8 | bytes | length u8                       up to 253 bytes
//!         254 | length u32 | bytes | length u32 | 254         longer
//! ```
//!
//! Each item says its length on both sides, so that a pack can be read from both ends (the idea of Redis' listpack:
//! <https://github.com/antirez/listpack>). Searching is a walk: packs are for some hundred items at most, which lie in a
//! few cache lines. Numbers are little-endian. An *offset* is where an item begins; a change before it moves it.
//!
//! A pack is only ever made by the functions here, so that nothing in it needs to be checked; a pack that was damaged
//! would panic on a slice index.

/// Items that a pack can hold.
pub const ITEMS_MAX: usize = u16::MAX as usize;

const COUNT_BYTES: usize = 2;
const LONG: u8 = 254;
/// Longest item whose length takes one byte.
const SHORT_BYTES_MAX: usize = LONG as usize - 1;

/// Bytes that an item of `len` bytes takes in a pack.
#[inline]
pub fn item_bytes(len: usize) -> usize {
    len + 2 * if len <= SHORT_BYTES_MAX { 1 } else { 5 }
}

/// A pack, for reading.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pack<'a> {
    bytes: &'a [u8],
    start: usize,
    len: usize,
}

impl<'a> Pack<'a> {
    /// The pack that lies in `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        let len = bytes.first_chunk().map_or(0, |count| u16::from_le_bytes(*count) as usize);
        Pack { bytes, start: COUNT_BYTES.min(bytes.len()), len }
    }

    /// The `len` items that lie in `bytes` from `start` to the end.
    #[inline]
    pub fn of_items(bytes: &'a [u8], start: usize, len: usize) -> Self {
        Pack { bytes, start, len }
    }

    /// Number of items.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Offset of the first item, and of the end if there is none.
    #[inline]
    pub fn start(&self) -> usize {
        self.start
    }

    /// Offset behind the last item.
    #[inline]
    pub fn end(&self) -> usize {
        self.bytes.len()
    }

    /// The item at `offset`, and the offset of the next one.
    #[inline]
    pub fn item(&self, offset: usize) -> (&'a [u8], usize) {
        let (first, len) = match self.bytes[offset] {
            LONG => (offset + 5, long_len(&self.bytes[offset + 1..])),
            len => (offset + 1, len as usize),
        };
        (&self.bytes[first..first + len], first + len + (first - offset))
    }

    /// Offset of the item before `offset`, which is not the first.
    #[inline]
    pub fn before(&self, offset: usize) -> usize {
        match self.bytes[offset - 1] {
            LONG => offset - item_bytes(long_len(&self.bytes[offset - 5..])),
            len => offset - item_bytes(len as usize),
        }
    }

    /// Offset of item `index`; the end if there are not so many. Starts from the nearer end.
    pub fn offset_of(&self, index: usize) -> usize {
        let len = self.len();
        if index < len / 2 {
            return (0..index).fold(self.start(), |offset, _| self.item(offset).1);
        }
        (index..len).fold(self.end(), |offset, _| self.before(offset))
    }

    /// Item `index`.
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        (index < self.len()).then(|| self.item(self.offset_of(index)).0)
    }

    /// The first `index` items, and those behind them. There must be so many.
    pub fn split_at(&self, index: usize) -> (Pack<'a>, Pack<'a>) {
        let offset = self.offset_of(index);
        let front = Pack { bytes: &self.bytes[..offset], start: self.start, len: index };
        (front, Pack { bytes: self.bytes, start: offset, len: self.len - index })
    }

    /// The items, from both ends.
    #[inline]
    pub fn iter(&self) -> Iter<'a> {
        Iter { pack: *self, front: self.start(), back: self.end() }
    }

    /// Offset of the first item that equals `wanted`, among every `step`-th one from the first on.
    #[inline]
    pub fn find(&self, wanted: &[u8], step: usize) -> Option<usize> {
        let mut offset = self.start();
        while offset < self.end() {
            let (item, mut next) = self.item(offset);
            if item == wanted {
                return Some(offset);
            }
            for _ in 1..step {
                next = self.item(next).1;
            }
            offset = next;
        }
        None
    }

    /// Checks the structure.
    #[cfg(test)]
    pub fn validate(&self) {
        assert_eq!(self.is_empty(), self.bytes.is_empty());
        self.validate_items();
    }

    #[cfg(test)]
    pub(super) fn validate_items(&self) {
        assert_eq!(self.iter().count(), self.len());
        assert_eq!(self.iter().rev().count(), self.len());
        let bytes: usize = self.iter().map(|item| item_bytes(item.len())).sum();
        assert_eq!(self.start() + bytes, self.end());
    }
}

fn long_len(bytes: &[u8]) -> usize {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize
}

/// See [`Pack::iter`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    pack: Pack<'a>,
    front: usize,
    back: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.front >= self.back {
            return None;
        }
        let (item, next) = self.pack.item(self.front);
        self.front = next;
        Some(item)
    }
}

impl DoubleEndedIterator for Iter<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        self.back = self.pack.before(self.back);
        Some(self.pack.item(self.back).0)
    }
}

/// Appends `item`, as it lies in a pack, to `bytes`.
#[inline]
pub(super) fn write_item(bytes: &mut Vec<u8>, item: &[u8]) {
    if item.len() <= SHORT_BYTES_MAX {
        bytes.push(item.len() as u8);
        bytes.extend_from_slice(item);
        bytes.push(item.len() as u8);
    } else {
        let len = (item.len() as u32).to_le_bytes();
        bytes.push(LONG);
        bytes.extend_from_slice(&len);
        bytes.extend_from_slice(item);
        bytes.extend_from_slice(&len);
        bytes.push(LONG);
    }
}

/// Writes `item`, as it lies in a pack, to `place`, which has just the room for it.
#[inline]
pub(super) fn write_item_at(place: &mut [u8], item: &[u8]) {
    let side = (place.len() - item.len()) / 2;
    let (front, rest) = place.split_at_mut(side);
    let (middle, back) = rest.split_at_mut(item.len());
    middle.copy_from_slice(item);
    if item.len() <= SHORT_BYTES_MAX {
        front[0] = item.len() as u8;
        back[0] = item.len() as u8;
    } else {
        let len = (item.len() as u32).to_le_bytes();
        front[0] = LONG;
        front[1..].copy_from_slice(&len);
        back[..4].copy_from_slice(&len);
        back[4] = LONG;
    }
}

/// Puts `items` before the one at `offset`.
pub(super) fn insert_items(bytes: &mut Vec<u8>, offset: usize, items: &[&[u8]]) {
    let end = bytes.len();
    items.iter().for_each(|item| write_item(bytes, item));
    let added = bytes.len() - end;
    bytes[offset..].rotate_right(added);
}

/// Puts `item` in the place of the one at `offset`.
pub fn replace(bytes: &mut Vec<u8>, offset: usize, item: &[u8]) {
    let (old, end) = Pack::of_items(bytes, 0, 0).item(offset);
    if old.len() == item.len() {
        return write_item_at(&mut bytes[offset..end], item);
    }
    let last = bytes.len();
    write_item(bytes, item);
    let added = bytes.len() - last;
    bytes[offset..].rotate_right(added);
    bytes.drain(offset + added..end + added);
}

fn set_count(bytes: &mut Vec<u8>, count: usize) {
    debug_assert!(count <= ITEMS_MAX);
    if count == 0 {
        bytes.clear();
    } else {
        bytes[..COUNT_BYTES].copy_from_slice(&(count as u16).to_le_bytes());
    }
}

/// Appends `item` to the pack in `bytes`. There must be fewer than [`ITEMS_MAX`] items.
#[inline]
pub fn push_back(bytes: &mut Vec<u8>, item: &[u8]) {
    insert(bytes, bytes.len(), &[item]);
}

/// Puts `items` before the one at `offset`, in their order. There must not be more than [`ITEMS_MAX`] then.
pub fn insert(bytes: &mut Vec<u8>, offset: usize, items: &[&[u8]]) {
    let count = Pack::new(bytes).len() + items.len();
    if bytes.is_empty() {
        bytes.resize(COUNT_BYTES, 0);
    }
    if offset >= bytes.len() || offset < COUNT_BYTES {
        items.iter().for_each(|item| write_item(bytes, item));
    } else {
        insert_items(bytes, offset, items);
    }
    set_count(bytes, count);
}

/// Removes `items` items from the one at `offset` on.
pub fn remove(bytes: &mut Vec<u8>, offset: usize, items: usize) {
    let pack = Pack::new(bytes);
    let count = pack.len() - items;
    let end = (0..items).fold(offset, |offset, _| pack.item(offset).1);
    bytes.drain(offset..end);
    set_count(bytes, count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item() -> impl Strategy<Value = Vec<u8>> {
        let lens = prop_oneof![8 => 0..20usize, 2 => 250..260usize, 1 => 300..400usize];
        (any::<u8>(), lens).prop_map(|(byte, len)| vec![byte; len])
    }

    proptest! {
        /// A pack behaves as a vector of vectors.
        #[test]
        fn as_a_vector(steps in prop::collection::vec((0..5u8, any::<prop::sample::Index>(), item(), item()), 1..60)) {
            let (mut bytes, mut model) = (Vec::new(), Vec::<Vec<u8>>::new());
            for (what, at, a, b) in steps {
                let offset = |bytes: &[u8], index| Pack::new(bytes).offset_of(index);
                match what {
                    0 => {
                        push_back(&mut bytes, &a);
                        model.push(a);
                    }
                    1 | 2 => {
                        let index = at.index(model.len() + 1);
                        let place = offset(&bytes, index);
                        insert(&mut bytes, place, &[&a, &b]);
                        model.splice(index..index, [a, b]);
                    }
                    3 if !model.is_empty() => {
                        let index = at.index(model.len());
                        let items = (model.len() - index).min(2);
                        let place = offset(&bytes, index);
                        remove(&mut bytes, place, items);
                        model.drain(index..index + items);
                    }
                    4 if !model.is_empty() => {
                        let index = at.index(model.len());
                        let place = offset(&bytes, index);
                        replace(&mut bytes, place, &a);
                        model[index] = a;
                    }
                    _ => {}
                }
                let pack = Pack::new(&bytes);
                pack.validate();
                prop_assert!(pack.iter().eq(model.iter().map(Vec::as_slice)));
                prop_assert!(pack.iter().rev().eq(model.iter().rev().map(Vec::as_slice)));
                for (index, item) in model.iter().enumerate() {
                    prop_assert_eq!(pack.get(index), Some(item.as_slice()));
                }
                prop_assert_eq!(pack.get(model.len()), None);
                let wanted = model.first().cloned().unwrap_or_default();
                let found = pack.find(&wanted, 1).map(|offset| pack.item(offset).0.to_vec());
                prop_assert_eq!(found, model.first().cloned());
            }
        }
    }
}
