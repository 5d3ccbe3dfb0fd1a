//! A small sorted set: a pack of member, score, member, score, ... in order.
//!
//! A score is a little-endian integer of one, two or four bytes if it is one, else the eight bytes of the double. -0
//! becomes 0, as in Redis.
//!
//! Pure functions on bytes.

use super::cut::Cut;
use crate::collection::pack::{self, Pack};

/// A score as it lies in a pack.
#[derive(Clone, Copy, Debug)]
struct Score {
    bytes: [u8; 8],
    len: usize,
}

impl Score {
    fn new(score: f64) -> Score {
        let whole = score as i32;
        if f64::from(whole) != score {
            return Score { bytes: score.to_le_bytes(), len: 8 };
        }
        let len = match whole {
            -0x80..=0x7f => 1,
            -0x8000..=0x7fff => 2,
            _ => 4,
        };
        Score { bytes: i64::from(whole).to_le_bytes(), len }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn read(bytes: &[u8]) -> f64 {
        match *bytes {
            [a] => f64::from(a as i8),
            [a, b] => f64::from(i16::from_le_bytes([a, b])),
            [a, b, c, d] => f64::from(i32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => unreachable!("a score has 1, 2, 4 or 8 bytes"),
        }
    }
}

/// Items in a pack.
#[inline]
pub fn len(pack: Pack) -> usize {
    pack.len() / 2
}

/// The member and the score at `offset`, and the offset of the next item.
#[inline]
fn item<'a>(pack: &Pack<'a>, offset: usize) -> (&'a [u8], f64, usize) {
    let (member, at) = pack.item(offset);
    let (score, next) = pack.item(at);
    (member, Score::read(score), next)
}

/// Rank and score of a member.
pub fn rank(pack: Pack, member: &[u8]) -> Option<(usize, f64)> {
    let mut items = items(pack, 0, len(pack), false);
    let (mut rank, mut found) = (0, items.next()?);
    while found.0 != member {
        (rank, found) = (rank + 1, items.next()?);
    }
    Some((rank, found.1))
}

/// The number of items before the first one that is behind `cut`.
pub fn before(pack: Pack, cut: &Cut) -> usize {
    items(pack, 0, len(pack), false).take_while(|(member, score)| cut.is_after(*score, || member)).count()
}

/// The items with ranks from `start` on and before `end`. `start <= end <= len`.
pub fn items(pack: Pack<'_>, start: usize, end: usize, backwards: bool) -> Items<'_> {
    let offset = pack.offset_of(2 * if backwards { end } else { start });
    Items { pack, offset, left: end - start, backwards }
}

/// See [`items`].
#[derive(Clone, Debug)]
pub struct Items<'a> {
    pack: Pack<'a>,
    /// Of the next item; backwards of the one before, or the end.
    offset: usize,
    left: usize,
    backwards: bool,
}

impl<'a> Iterator for Items<'a> {
    type Item = (&'a [u8], f64);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        if self.backwards {
            self.offset = self.pack.before(self.pack.before(self.offset));
            let (member, score, _) = item(&self.pack, self.offset);
            return Some((member, score));
        }
        let (member, score, next) = item(&self.pack, self.offset);
        self.offset = next;
        Some((member, score))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// Where a member is, and where one with this score would be.
struct Found {
    /// Offset, score, and the bytes that the item takes.
    old: Option<(usize, f64, usize)>,
    place: usize,
}

fn find(pack: Pack, member: &[u8], score: f64) -> Found {
    let cut = Cut::Item { score, member, equal: false };
    let mut found = Found { old: None, place: pack.end() };
    let mut offset = pack.start();
    while offset < pack.end() {
        let (name, at, next) = item(&pack, offset);
        if found.place == pack.end() && !cut.is_after(at, || name) {
            found.place = offset;
        }
        if name == member {
            found.old = Some((offset, at, next - offset));
            if found.place <= offset {
                break;
            }
        }
        offset = next;
    }
    found
}

/// The score of a member.
pub fn score(pack: Pack, member: &[u8]) -> Option<f64> {
    let offset = pack.find(member, 2)?;
    Some(item(&pack, offset).1)
}

/// Adds a member or changes its score; the score it had. There must be room for the item.
pub fn insert(bytes: &mut Vec<u8>, member: &[u8], score: f64) -> Option<f64> {
    let Found { old, mut place } = find(Pack::new(bytes), member, score);
    if let Some((offset, old, len)) = old {
        if old == score {
            return Some(old);
        }
        pack::remove(bytes, offset, 2);
        place = if bytes.is_empty() {
            0
        } else if offset < place {
            place - len
        } else {
            place
        };
    }
    pack::insert(bytes, place, &[member, Score::new(score).bytes()]);
    old.map(|old| old.1)
}

/// Removes a member; the score it had.
pub fn remove(bytes: &mut Vec<u8>, member: &[u8]) -> Option<f64> {
    let pack = Pack::new(bytes);
    let offset = pack.find(member, 2)?;
    let score = item(&pack, offset).1;
    pack::remove(bytes, offset, 2);
    Some(score)
}

/// Removes the items with ranks from `start` on and before `end`.
pub fn remove_range(bytes: &mut Vec<u8>, start: usize, end: usize) {
    let offset = Pack::new(bytes).offset_of(2 * start);
    pack::remove(bytes, offset, 2 * (end - start));
}

/// Appends an item that comes behind all others.
pub fn push_back(bytes: &mut Vec<u8>, member: &[u8], score: f64) {
    pack::push_back(bytes, member);
    pack::push_back(bytes, Score::new(score).bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_short_and_exact() {
        let cases = [
            (0.0, 1),
            (-0.0, 1),
            (-128.0, 1),
            (128.0, 2),
            (-32768.0, 2),
            (32768.0, 4),
            (2147483647.0, 4),
            (-2147483648.0, 4),
            (2147483648.0, 8),
            (0.5, 8),
            (f64::INFINITY, 8),
            (f64::NEG_INFINITY, 8),
            (5e-324, 8),
        ];
        for (score, len) in cases {
            let written = Score::new(score);
            assert_eq!(written.len, len, "{score}");
            assert_eq!(Score::read(written.bytes()), score);
        }
    }
}
