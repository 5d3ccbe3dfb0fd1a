//! The packed forms of small collections: listpack, ziplist, zipmap and intset, as Redis keeps them in memory and writes
//! them to files as strings.
//!
//! Every iterator checks what it walks over, ends with the first thing that is wrong, and never looks outside of its
//! bytes. That everything was right is known when it has ended without an error.
//!
//! Numbers are little-endian unless something else is said. After `listpack.c`, `ziplist.c`, `zipmap.c` and `intset.c` of
//! Redis. Pure functions on bytes.

use crate::collection::set::Member;

mod intset;
mod listpack;
mod ziplist;
mod zipmap;

pub(super) use intset::integers;
pub(super) use zipmap::Zipmap;

/// What is wrong with a packed value.
pub(super) type Damage = &'static str;

/// An element, which is a text or a number that stands for its digits.
pub(super) type Item<'a> = Member<'a>;

const SHORT: Damage = "a packed value ends early";

/// The elements of a listpack or a ziplist, which say the same in two ways.
pub(super) enum Items<'a> {
    Listpack(listpack::Items<'a>),
    Ziplist(ziplist::Items<'a>),
}

impl<'a> Items<'a> {
    pub(super) fn of_listpack(bytes: &'a [u8]) -> Result<Self, Damage> {
        listpack::Items::new(bytes).map(Items::Listpack)
    }

    pub(super) fn of_ziplist(bytes: &'a [u8]) -> Result<Self, Damage> {
        ziplist::Items::new(bytes).map(Items::Ziplist)
    }

    /// The next `N` elements; none if there are no more, damage if there are fewer.
    pub(super) fn group<const N: usize>(&mut self) -> Result<Option<[Item<'a>; N]>, Damage> {
        let Some(first) = self.next().transpose()? else { return Ok(None) };
        let mut group = [first; N];
        for place in &mut group[1..] {
            *place = self.next().transpose()?.ok_or("an element has no partner")?;
        }
        Ok(Some(group))
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Items::Listpack(items) => items.next(),
            Items::Ziplist(items) => items.next(),
        }
    }
}

/// The first `N` bytes, which are taken off.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Damage> {
    let (first, rest) = bytes.split_first_chunk::<N>().ok_or(SHORT)?;
    *bytes = rest;
    Ok(*first)
}

/// As [`take`], for a number of bytes that was read.
fn take_slice<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], Damage> {
    let (first, rest) = bytes.split_at_checked(len).ok_or(SHORT)?;
    *bytes = rest;
    Ok(first)
}

/// A little-endian integer of up to eight bytes, with its sign.
fn integer(bytes: &[u8]) -> i64 {
    let mut wide = [0; 8];
    let place = wide.len() - bytes.len();
    wide[place..].copy_from_slice(bytes);
    // The shift brings the sign along.
    i64::from_le_bytes(wide) >> (8 * place)
}

#[cfg(test)]
mod tests;
