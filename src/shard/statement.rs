//! Statements and units: how writes are encoded for the log.
//!
//! A *statement* is a command that can be replayed, whose keys all have one hash slot, or that has no keys and concerns
//! every core (FLUSHALL). A *unit* is what is replayed whole or not at all: the statements of one command, or of one
//! transaction.
//!
//! ```text
//! unit       length u32 | statement, statement, ...                     the length is that of the statements, bytes
//! statement  database u8 | slot u16 (0xffff: no keys) | count of arguments | argument, ...
//! argument   length | bytes
//! ```
//!
//! Fixed numbers are little-endian; counts and lengths are LEB128. What is read here may come from a damaged file or a
//! hostile peer: every length is checked, and nothing is believed beyond what the bytes hold.
//!
//! No state.

use crate::route::SLOTS;

/// Stands for a slot where a statement has no keys.
pub const NO_SLOT: u16 = u16::MAX;

/// Bytes of the statements of one unit.
pub const UNIT_BYTES_MAX: usize = i32::MAX as usize;

/// Bytes before the statements of a unit.
const UNIT_HEADER_BYTES: usize = 4;

/// What is wrong with an encoded unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a unit ends before its time")]
    Truncated,
    #[error("a length is out of bounds")]
    Length,
    #[error("slot {0} does not exist")]
    Slot(u16),
    #[error("a statement without a command")]
    NoCommand,
    #[error("a statement of a key that does not name it")]
    NoKey,
    #[error("a unit without statements")]
    Empty,
}

/// One statement, where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    pub db: u8,
    /// None: it has no keys, and concerns every core.
    pub slot: Option<u16>,
    /// At least one: the name of the command.
    pub args: Vec<&'a [u8]>,
}

/// One statement, not read but for its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded<'a> {
    pub slot: Option<u16>,
    /// The whole statement; [`next_statement`] reads it.
    pub bytes: &'a [u8],
}

/// Appends a statement.
pub fn encode(out: &mut Vec<u8>, db: u8, slot: Option<u16>, args: &[&[u8]]) {
    let bytes: usize = args.iter().map(|arg| arg.len() + 5).sum();
    out.reserve(bytes + 8);
    out.push(db);
    out.extend_from_slice(&slot.unwrap_or(NO_SLOT).to_le_bytes());
    put_varint(out, args.len() as u64);
    for arg in args {
        put_varint(out, arg.len() as u64);
        out.extend_from_slice(arg);
    }
}

/// Begins a unit at the end of `out`; returns where it lies. The next thing there is [`end_unit`] or [`take_unit`].
#[inline]
pub fn begin_unit(out: &mut Vec<u8>) -> usize {
    let begun = out.len();
    out.extend_from_slice(&[0; UNIT_HEADER_BYTES]);
    begun
}

/// Ends the unit that was begun at `begun`. Without statements there is none, and the result is false.
#[inline]
pub fn end_unit(out: &mut Vec<u8>, begun: usize) -> bool {
    let bytes = out.len() - begun - UNIT_HEADER_BYTES;
    if bytes == 0 {
        out.truncate(begun);
        return false;
    }
    out[begun..begun + UNIT_HEADER_BYTES].copy_from_slice(&(bytes as u32).to_le_bytes());
    true
}

/// Appends a unit of the statements that `write` appends; false if it appends none.
pub fn encode_unit(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> bool {
    let begun = begin_unit(out);
    write(out);
    end_unit(out, begun)
}

/// Takes the statements of the unit that was begun at `begun`, which there is not any more.
pub fn take_unit(out: &mut Vec<u8>, begun: usize) -> Vec<u8> {
    let statements = out.split_off(begun + UNIT_HEADER_BYTES);
    out.truncate(begun);
    statements
}

#[inline]
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<usize, Malformed> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Malformed::Truncated)?;
        *bytes = rest;
        value |= ((byte & 0x7f) as u64) << shift;
        if byte & 0x80 == 0 {
            return if value <= UNIT_BYTES_MAX as u64 { Ok(value as usize) } else { Err(Malformed::Length) };
        }
    }
    Err(Malformed::Length)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(Malformed::Truncated)?;
    *bytes = rest;
    Ok(taken)
}

/// Takes the statements of the next unit, as bytes; None at the end.
pub fn next_unit<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let header = take(bytes, UNIT_HEADER_BYTES)?;
    let length = u32::from_le_bytes(header.try_into().map_err(|_| Malformed::Truncated)?) as usize;
    match length {
        0 => Err(Malformed::Empty),
        1..=UNIT_BYTES_MAX => take(bytes, length).map(Some),
        _ => Err(Malformed::Length),
    }
}

/// Takes the next statement; None at the end.
pub fn next_statement<'a>(bytes: &mut &'a [u8]) -> Result<Option<Statement<'a>>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (db, slot) = take_head(bytes)?;
    let count = take_varint(bytes)?;
    if count == 0 {
        return Err(Malformed::NoCommand);
    }
    // Each argument takes at least the byte of its length: so no more is reserved than there can be.
    if count > bytes.len() {
        return Err(Malformed::Truncated);
    }
    let mut args = Vec::with_capacity(count);
    for _ in 0..count {
        let length = take_varint(bytes)?;
        args.push(take(bytes, length)?);
    }
    Ok(Some(Statement { db, slot, args }))
}

fn take_head(bytes: &mut &[u8]) -> Result<(u8, Option<u16>), Malformed> {
    let head = take(bytes, 3)?;
    let slot = u16::from_le_bytes([head[1], head[2]]);
    match slot {
        NO_SLOT => Ok((head[0], None)),
        slot if slot < SLOTS => Ok((head[0], Some(slot))),
        slot => Err(Malformed::Slot(slot)),
    }
}

/// Takes the next statement without reading the arguments' bytes; None at the end.
pub fn next_encoded<'a>(bytes: &mut &'a [u8]) -> Result<Option<Encoded<'a>>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let start = *bytes;
    let (_, slot) = take_head(bytes)?;
    let count = take_varint(bytes)?;
    if count == 0 {
        return Err(Malformed::NoCommand);
    }
    for _ in 0..count {
        let length = take_varint(bytes)?;
        take(bytes, length)?;
    }
    Ok(Some(Encoded { slot, bytes: &start[..start.len() - bytes.len()] }))
}

/// The slots of a unit's statements, in order, without reading the arguments' bytes. None: no keys.
pub fn slots(mut statements: &[u8]) -> Result<Vec<Option<u16>>, Malformed> {
    let mut slots = Vec::new();
    while let Some(statement) = next_encoded(&mut statements)? {
        slots.push(statement.slot);
    }
    Ok(slots)
}

/// Whether a statement has to be carried out in a stream with pieces that cover keys ([`super::cover`]) though its key has not
/// been covered: it is about more than that key.
pub fn is_about_more(args: &[&[u8]]) -> bool {
    args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"FLUSHPARTITION"))
}

/// Whether a statement exchanges databases.
pub fn exchanges(args: &[&[u8]]) -> bool {
    args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"SWAPDB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Vec<u8> {
        let mut bytes = Vec::new();
        let long = vec![7; 300];
        let begun = begin_unit(&mut bytes);
        encode(&mut bytes, 3, Some(16383), &[b"SET", b"key", &long]);
        encode(&mut bytes, 0, None, &[b"FLUSHALL"]);
        assert!(end_unit(&mut bytes, begun));
        let begun = begin_unit(&mut bytes);
        assert!(!end_unit(&mut bytes, begun));
        let begun = begin_unit(&mut bytes);
        encode(&mut bytes, 0, None, &[b"GONE"]);
        assert_eq!(take_unit(&mut bytes, begun).len(), 9);
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Result<Vec<(u8, Option<u16>, usize)>, Malformed> {
        let mut all = Vec::new();
        while let Some(mut statements) = next_unit(&mut bytes)? {
            let slots = slots(statements)?;
            let before = all.len();
            let mut encoded = statements;
            while let Some(statement) = next_statement(&mut statements)? {
                let Encoded { slot, mut bytes } = next_encoded(&mut encoded)?.unwrap();
                assert_eq!(slot, statement.slot);
                assert_eq!(next_statement(&mut bytes)?.unwrap(), statement);
                assert!(bytes.is_empty());
                all.push((statement.db, statement.slot, statement.args.iter().map(|arg| arg.len()).sum()));
            }
            assert!(slots.into_iter().eq(all[before..].iter().map(|(_, slot, _)| *slot)));
        }
        Ok(all)
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut bytes = unit();
        let begun = begin_unit(&mut bytes);
        encode(&mut bytes, 255, Some(0), &[b"DEL", b""]);
        assert!(end_unit(&mut bytes, begun));
        assert_eq!(decode(&bytes).unwrap(), [(3, Some(16383), 306), (0, None, 8), (255, Some(0), 3)]);
    }

    #[test]
    fn damage_is_an_error_or_another_unit_and_never_more() {
        let bytes = unit();
        for end in 1..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let _ = decode(&damaged);
            }
        }
        assert_eq!(decode(&[0, 0, 0, 0]), Err(Malformed::Empty));
        assert_eq!(decode(&[4, 0, 0, 0, 0, 0, 0, 0]), Err(Malformed::NoCommand));
        assert_eq!(decode(&[4, 0, 0, 0, 0, 0, 0x50, 0]), Err(Malformed::Slot(0x5000)));
        let huge = [9, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(decode(&huge), Err(Malformed::Length));
    }
}
