//! Ziplists, the small collections of Redis up to 6.2.
//!
//! ```text
//! ziplist    bytes in all u32 | offset of the last element u32 | elements u16, 65535: not known | element ... | 255
//! element    bytes of the element before: u8, or 254 u32 | form
//! form       00LLLLLL text | 01LLLLLL LLLLLLLL text | 10000000 u32 text            lengths big-endian
//!            11000000 i16 | 11010000 i32 | 11100000 i64 | 11110000 i24 | 11111110 i8
//!            1111NNNN                              N - 1: 0 to 12
//! ```

use super::{Damage, Item, integer, take, take_slice};

const HEADER_BYTES: usize = 10;
const END: u8 = 0xff;
const LONG: u8 = 0xfe;
const UNKNOWN: u16 = u16::MAX;

/// The elements, each checked.
pub(in crate::rdb) struct Items<'a> {
    rest: &'a [u8],
    /// Bytes in all, and where the last element is said to begin.
    total: usize,
    tail: usize,
    /// Where the last element that was read begins, and its bytes.
    last: usize,
    last_bytes: usize,
    left: Option<u16>,
    over: bool,
}

impl<'a> Items<'a> {
    pub(in crate::rdb) fn new(bytes: &'a [u8]) -> Result<Self, Damage> {
        let mut rest = bytes;
        let total = u32::from_le_bytes(take(&mut rest)?) as usize;
        let tail = u32::from_le_bytes(take(&mut rest)?) as usize;
        let count = u16::from_le_bytes(take(&mut rest)?);
        if total != bytes.len() || rest.last() != Some(&END) {
            return Err("a ziplist has another length than it says");
        }
        let left = (count != UNKNOWN).then_some(count);
        Ok(Items { rest, total, tail, last: HEADER_BYTES, last_bytes: 0, left, over: false })
    }

    fn step(&mut self) -> Result<Option<Item<'a>>, Damage> {
        if self.rest == [END] {
            return match self.left {
                _ if self.tail != self.last => Err("a ziplist ends elsewhere than it says"),
                None | Some(0) => Ok(None),
                Some(_) => Err("a ziplist has fewer elements than it says"),
            };
        }
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or("a ziplist has more elements than it says")?;
        }
        let start = self.rest.len();
        let [short] = take(&mut self.rest)?;
        let before =
            if short == LONG { u32::from_le_bytes(take(&mut self.rest)?) as usize } else { usize::from(short) };
        if before != self.last_bytes {
            return Err("an element of a ziplist has another length than it says");
        }
        let item = self.form()?;
        (self.last, self.last_bytes) = (self.total - start, start - self.rest.len());
        if self.rest.is_empty() { Err(super::SHORT) } else { Ok(Some(item)) }
    }

    fn form(&mut self) -> Result<Item<'a>, Damage> {
        let rest = &mut self.rest;
        let [first] = take(rest)?;
        Ok(match first {
            0..0x40 => Item::Bytes(take_slice(rest, usize::from(first))?),
            0x40..0x80 => {
                let [low] = take(rest)?;
                Item::Bytes(take_slice(rest, usize::from(first & 0x3f) << 8 | usize::from(low))?)
            }
            0x80..0xc0 => {
                let len = u32::from_be_bytes(take(rest)?);
                Item::Bytes(take_slice(rest, len as usize)?)
            }
            0xc0 => Item::Int(integer(&take::<2>(rest)?)),
            0xd0 => Item::Int(integer(&take::<4>(rest)?)),
            0xe0 => Item::Int(integer(&take::<8>(rest)?)),
            0xf0 => Item::Int(integer(&take::<3>(rest)?)),
            0xfe => Item::Int(integer(&take::<1>(rest)?)),
            0xf1..=0xfd => Item::Int(i64::from(first & 0x0f) - 1),
            _ => return Err("an element of a ziplist has no known form"),
        })
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let item = self.step().transpose();
        self.over = !matches!(item, Some(Ok(_)));
        item
    }
}
