//! Cover records: the entries of a range of keys, as they are at one place of a stream.
//!
//! ```text
//! record   length u32 | database u8 | partition u16 | from u32 | upto u64 | statement, statement, ...
//! ```
//!
//! The statements ([`crate::shard::statement`]) rebuild, from nothing, the entries of a partition in a database whose hash
//! positions are at least `from` and less than `upto`. The length is that of all that follows it. `upto` is 2^32 for the
//! end of the partition; a record with `upto == from` adds to what was covered before (a slice of a large collection).
//!
//! The rule of a stream: a unit's statement counts only if its key has been covered before it. What comes later contains it.
//!
//! No state.

use crate::shard::statement::Malformed;

/// The end of a partition: all positions are less.
pub const UPTO_END: u64 = 1 << 32;

/// Bytes after the length and before the statements.
const FIXED_BYTES: usize = 1 + 2 + 4 + 8;

/// One range of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub db: u8,
    pub partition: u16,
    pub from: u32,
    /// Up to [`UPTO_END`].
    pub upto: u64,
}

/// Appends a record whose statements `write` appends; `write` returns where the range ends.
pub fn encode(out: &mut Vec<u8>, db: u8, partition: u16, from: u32, write: impl FnOnce(&mut Vec<u8>) -> u64) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(db);
    out.extend_from_slice(&partition.to_le_bytes());
    out.extend_from_slice(&from.to_le_bytes());
    let upto_at = out.len();
    out.extend_from_slice(&[0; 8]);
    let upto = write(out);
    out[upto_at..upto_at + 8].copy_from_slice(&upto.to_le_bytes());
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Takes the next record: its range, and its statements as bytes. None at the end.
pub fn next_record<'a>(bytes: &mut &'a [u8]) -> Result<Option<(Range, &'a [u8])>, Malformed> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return if bytes.is_empty() { Ok(None) } else { Err(Malformed::Truncated) };
    };
    let length = u32::from_le_bytes(*length) as usize;
    let (record, rest) = rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
    let (fixed, statements) = record.split_first_chunk::<FIXED_BYTES>().ok_or(Malformed::Truncated)?;
    let (db, fixed) = (fixed[0], &fixed[1..]);
    let partition = u16::from_le_bytes([fixed[0], fixed[1]]);
    let from = u32::from_le_bytes([fixed[2], fixed[3], fixed[4], fixed[5]]);
    let mut upto = [0; 8];
    upto.copy_from_slice(&fixed[6..14]);
    let upto = u64::from_le_bytes(upto);
    if upto < from as u64 || upto > UPTO_END {
        return Err(Malformed::Length);
    }
    *bytes = rest;
    Ok(Some((Range { db, partition, from, upto }, statements)))
}

/// How far the keys of one partition have been covered, as a reader of a stream keeps it.
///
/// Invariant: databases below `db` are covered, of `db` the positions below `upto`; of later ones nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    db: u16,
    upto: u64,
}

impl Covered {
    /// Whether the key at this position has been covered.
    pub fn has(&self, db: u8, position: u32) -> bool {
        (db as u16) < self.db || (db as u16 == self.db && (position as u64) < self.upto)
    }

    /// Notes a record; it must go on where the last one ended. Databases that hold nothing may be left out, but not the last.
    pub fn note(&mut self, range: &Range) -> Result<(), Malformed> {
        let (db, from) = (range.db as u16, range.from as u64);
        let slice = from == range.upto && db == self.db && from <= self.upto;
        let goes_on = db == self.db && from == self.upto;
        if !(slice || goes_on || db > self.db && from == 0) {
            return Err(Malformed::Length);
        }
        self.upto = if db == self.db { self.upto.max(range.upto) } else { range.upto };
        self.db = db;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::statement;

    #[test]
    fn records_come_back_and_damage_is_noticed() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 2, 300, 7, |out| {
            statement::encode(out, 2, Some(1), &[b"SET", b"a", b"b"]);
            UPTO_END
        });
        encode(&mut bytes, 0, 0, 0, |_| 12);
        let mut rest = &bytes[..];
        let (range, mut statements) = next_record(&mut rest).unwrap().unwrap();
        assert_eq!(range, Range { db: 2, partition: 300, from: 7, upto: UPTO_END });
        assert_eq!(statement::next_statement(&mut statements).unwrap().unwrap().args[0], b"SET");
        assert_eq!(next_record(&mut rest).unwrap().unwrap().1, b"");
        assert!(next_record(&mut rest).unwrap().is_none());
        for end in 1..bytes.len() {
            let mut cut = &bytes[..end];
            while let Ok(Some(_)) = next_record(&mut cut) {}
        }
        let mut back = Vec::new();
        encode(&mut back, 0, 0, 9, |_| 8);
        assert_eq!(next_record(&mut &back[..]), Err(Malformed::Length));
    }
    #[test]
    fn ranges_follow_each_other() {
        let range = |db, from, upto| Range { db, partition: 0, from, upto };
        let mut covered = Covered::default();
        assert!(!covered.has(0, 0));
        covered.note(&range(0, 0, 10)).unwrap();
        covered.note(&range(0, 9, 9)).unwrap();
        assert!(covered.has(0, 9) && !covered.has(0, 10) && !covered.has(1, 0));
        assert!(covered.note(&range(0, 11, 12)).is_err(), "a gap");
        assert!(covered.note(&range(0, 11, 11)).is_err(), "a slice of nothing");
        covered.note(&range(0, 10, UPTO_END)).unwrap();
        assert!(covered.has(0, u32::MAX));
        covered.note(&range(3, 0, 5)).unwrap();
        assert!(covered.has(2, u32::MAX) && covered.has(3, 4) && !covered.has(3, 5));
        assert!(covered.note(&range(1, 0, 5)).is_err(), "back");
    }
}
