//! Listpacks.
//!
//! ```text
//! listpack   bytes in all u32 | elements u16, 65535: not known | element ... | 255
//! element    form | length of the form, seven bits a byte, 128 set in all but the first, so that it is read backwards
//! form       0NNNNNNN                             0 to 127
//!            10LLLLLL text                        110NNNNN NNNNNNNN: 13 bits, signed
//!            1110LLLL LLLLLLLL text               11110000 u32 text
//!            11110001 i16 | 11110010 i24 | 11110011 i32 | 11110100 i64
//! ```
//!
//! <https://github.com/antirez/listpack/blob/master/listpack.md>

use super::{Damage, Item, SHORT, integer, take, take_slice};

const HEADER_BYTES: usize = 6;
const END: u8 = 0xff;
const UNKNOWN: u16 = u16::MAX;

/// The elements, each checked.
pub(in crate::rdb) struct Items<'a> {
    rest: &'a [u8],
    /// Elements that are still to come; None if that was not said.
    left: Option<u16>,
    over: bool,
}

impl<'a> Items<'a> {
    pub(in crate::rdb) fn new(bytes: &'a [u8]) -> Result<Self, Damage> {
        let mut rest = bytes;
        let total = u32::from_le_bytes(take(&mut rest)?);
        let count = u16::from_le_bytes(take(&mut rest)?);
        if total as usize != bytes.len() || rest.last() != Some(&END) || bytes.len() <= HEADER_BYTES {
            return Err("a listpack has another length than it says");
        }
        Ok(Items { rest, left: (count != UNKNOWN).then_some(count), over: false })
    }

    fn step(&mut self) -> Result<Option<Item<'a>>, Damage> {
        if self.rest == [END] {
            return match self.left {
                None | Some(0) => Ok(None),
                Some(_) => Err("a listpack has fewer elements than it says"),
            };
        }
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or("a listpack has more elements than it says")?;
        }
        let before = self.rest;
        let item = self.form()?;
        let len = before.len() - self.rest.len();
        let backwards = backwards(len);
        if take_slice(&mut self.rest, backwards.len)? != &backwards.bytes[..backwards.len] {
            return Err("an element of a listpack has another length than it says");
        }
        if self.rest.is_empty() { Err(SHORT) } else { Ok(Some(item)) }
    }

    fn form(&mut self) -> Result<Item<'a>, Damage> {
        let rest = &mut self.rest;
        let [first] = take(rest)?;
        Ok(match first {
            0..0x80 => Item::Int(i64::from(first)),
            0x80..0xc0 => Item::Bytes(take_slice(rest, usize::from(first & 0x3f))?),
            0xc0..0xe0 => {
                let [low] = take(rest)?;
                let number = i64::from(first & 0x1f) << 8 | i64::from(low);
                Item::Int(if number < 1 << 12 { number } else { number - (1 << 13) })
            }
            0xe0..0xf0 => {
                let [low] = take(rest)?;
                Item::Bytes(take_slice(rest, usize::from(first & 0x0f) << 8 | usize::from(low))?)
            }
            0xf0 => {
                let len = u32::from_le_bytes(take(rest)?);
                Item::Bytes(take_slice(rest, len as usize)?)
            }
            0xf1 => Item::Int(integer(&take::<2>(rest)?)),
            0xf2 => Item::Int(integer(&take::<3>(rest)?)),
            0xf3 => Item::Int(integer(&take::<4>(rest)?)),
            0xf4 => Item::Int(integer(&take::<8>(rest)?)),
            _ => return Err("an element of a listpack has no known form"),
        })
    }
}

/// The length of a form as it stands behind it.
struct Backwards {
    bytes: [u8; 5],
    len: usize,
}

fn backwards(form_len: usize) -> Backwards {
    let len = match form_len {
        0..128 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    };
    let mut bytes = [0; 5];
    for (at, byte) in bytes[..len].iter_mut().enumerate() {
        let bits = (form_len >> (7 * (len - 1 - at)) & 0x7f) as u8;
        *byte = if at == 0 { bits } else { bits | 0x80 };
    }
    Backwards { bytes, len }
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
