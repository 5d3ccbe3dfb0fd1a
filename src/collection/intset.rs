//! An intset: a small set of integers in one piece of memory, the most compact encoding of a set.
//!
//! ```text
//! intset   0 u16 | width u8 | integer ...        ascending, each of `width` bytes: 2, 4 or 8
//! ```
//!
//! All integers have the width of the widest one so far (the idea of Redis' intset). A pack never begins with a count of
//! zero, so the first two bytes tell the two encodings of a set apart. An empty intset is no bytes at all. Numbers are
//! little-endian. Made only by the functions here.

const HEADER_BYTES: usize = 3;
const NARROWEST: usize = 2;

/// An intset, for reading.
#[derive(Clone, Copy, Debug)]
pub struct Ints<'a> {
    width: usize,
    bytes: &'a [u8],
}

impl<'a> Ints<'a> {
    /// The intset that lies in `bytes`; None if it is something else that lies there. No bytes are an empty intset.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        match bytes {
            [] => Some(Ints { width: NARROWEST, bytes }),
            [0, 0, width, bytes @ ..] => Some(Ints { width: *width as usize, bytes }),
            _ => None,
        }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.width
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Integer `index`.
    #[inline]
    pub fn get(&self, index: usize) -> i64 {
        read(&self.bytes[index * self.width..], self.width)
    }

    /// The index of `wanted`, or where it would have to stand.
    pub fn find(&self, wanted: i64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.get(middle).cmp(&wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The integers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = i64> + Clone + use<'a> {
        let width = self.width;
        self.bytes.chunks_exact(width).map(move |bytes| read(bytes, width))
    }
}

#[inline]
fn read(bytes: &[u8], width: usize) -> i64 {
    match (width, bytes) {
        (2, &[a, b, ..]) => i16::from_le_bytes([a, b]) as i64,
        (4, &[a, b, c, d, ..]) => i32::from_le_bytes([a, b, c, d]) as i64,
        _ => bytes.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes)),
    }
}

/// Bytes that `number` needs.
fn width_of(number: i64) -> usize {
    if i16::try_from(number).is_ok() {
        2
    } else if i32::try_from(number).is_ok() {
        4
    } else {
        8
    }
}

/// Adds `number` to the intset in `bytes`; false if it is there.
pub fn insert(bytes: &mut Vec<u8>, number: i64) -> bool {
    let Some(ints) = Ints::new(bytes) else { return false };
    let Err(index) = ints.find(number) else { return false };
    let (old, needed) = (ints.width, width_of(number));
    if bytes.is_empty() {
        bytes.extend_from_slice(&[0, 0, needed as u8]);
    } else if needed > old {
        widen(bytes, needed);
    }
    let width = bytes[2] as usize;
    let at = HEADER_BYTES + index * width;
    bytes.extend_from_slice(&number.to_le_bytes()[..width]);
    bytes[at..].rotate_right(width);
    true
}

fn widen(bytes: &mut Vec<u8>, width: usize) {
    let Some(ints) = Ints::new(bytes) else { return };
    let mut wide = Vec::with_capacity(HEADER_BYTES + (ints.len() + 1) * width);
    wide.extend_from_slice(&[0, 0, width as u8]);
    ints.iter().for_each(|number| wide.extend_from_slice(&number.to_le_bytes()[..width]));
    *bytes = wide;
}

/// Removes `number` from the intset in `bytes`; false if it is not there.
pub fn remove(bytes: &mut Vec<u8>, number: i64) -> bool {
    let Some(ints) = Ints::new(bytes) else { return false };
    let Ok(index) = ints.find(number) else { return false };
    let width = ints.width;
    let at = HEADER_BYTES + index * width;
    bytes.drain(at..at + width);
    if bytes.len() == HEADER_BYTES {
        bytes.clear();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![8 => -20..20i64, 2 => -70_000..70_000i64, 1 => any::<i64>(), 1 => Just(i16::MIN as i64 - 1)]
    }

    proptest! {
        #[test]
        fn as_a_tree(steps in prop::collection::vec((any::<bool>(), number()), 1..80)) {
            let (mut bytes, mut model) = (Vec::new(), BTreeSet::new());
            for (add, number) in steps {
                if add {
                    prop_assert_eq!(insert(&mut bytes, number), model.insert(number));
                } else {
                    prop_assert_eq!(remove(&mut bytes, number), model.remove(&number));
                }
                let ints = Ints::new(&bytes).expect("an intset");
                prop_assert!(ints.iter().eq(model.iter().copied()));
                prop_assert_eq!((ints.len(), bytes.is_empty()), (model.len(), model.is_empty()));
                prop_assert!(model.iter().enumerate().all(|(index, &number)| ints.get(index) == number));
                prop_assert_eq!(ints.find(number).is_ok(), model.contains(&number));
            }
        }
    }

    #[test]
    fn small_integers_take_two_bytes() {
        let mut bytes = Vec::new();
        (0..100).for_each(|number| assert!(insert(&mut bytes, number)));
        assert_eq!(bytes.len(), 3 + 200);
        insert(&mut bytes, 1 << 20);
        assert_eq!(bytes.len(), 3 + 404);
        insert(&mut bytes, i64::MIN);
        assert_eq!(bytes.len(), 3 + 816);
    }
}
