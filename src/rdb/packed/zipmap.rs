//! Zipmaps, the small hashes of Redis up to 2.4.
//!
//! ```text
//! zipmap    pairs u8, 254 or more: not known | pair ... | 255
//! pair      length | field | length | bytes not used u8 | value | what is not used
//! length    u8 up to 253, or 254 u32
//! ```

use super::{Damage, SHORT, take, take_slice};
use crate::collection::dict::Pair;

const END: u8 = 0xff;
const LONG: u8 = 0xfe;

/// The fields with their values, each checked.
pub(in crate::rdb) struct Zipmap<'a> {
    rest: &'a [u8],
    left: Option<u8>,
}

impl<'a> Zipmap<'a> {
    pub(in crate::rdb) fn new(bytes: &'a [u8]) -> Result<Self, Damage> {
        let mut rest = bytes;
        let [count] = take(&mut rest)?;
        Ok(Zipmap { rest, left: (count < LONG).then_some(count) })
    }

    pub(in crate::rdb) fn pair(&mut self) -> Result<Option<Pair<'a>>, Damage> {
        if self.rest == [END] {
            return match self.left {
                None | Some(0) => Ok(None),
                Some(_) => Err("a zipmap has fewer fields than it says"),
            };
        }
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or("a zipmap has more fields than it says")?;
        }
        let field = self.length()?;
        let field = take_slice(&mut self.rest, field)?;
        let value = self.length()?;
        let [unused] = take(&mut self.rest)?;
        let value = take_slice(&mut self.rest, value)?;
        take_slice(&mut self.rest, usize::from(unused))?;
        if self.rest.is_empty() { Err(SHORT) } else { Ok(Some((field, value))) }
    }

    fn length(&mut self) -> Result<usize, Damage> {
        match take(&mut self.rest)? {
            [END] => Err("a zipmap ends early"),
            [LONG] => Ok(u32::from_le_bytes(take(&mut self.rest)?) as usize),
            [short] => Ok(usize::from(short)),
        }
    }
}
