//! Parts of strings: APPEND, STRLEN, GETRANGE, SETRANGE.
//!
//! Offsets come from clients: the length of a result is checked before anything is allocated.

use super::{peek, read};
use crate::command::number::parse_i64;
use crate::command::{Args, Ctx};
use crate::resp::{Error, Reply};
use crate::shard::{Classes, Expiry, Str};

/// Refuses to build a string longer than the limit.
fn check_len(ctx: &Ctx, len: usize, added: usize) -> Result<(), Error> {
    match len.checked_add(added) {
        Some(total) if total <= ctx.string_bytes_max => Ok(()),
        _ => Err(Error::StringTooLong),
    }
}

pub fn append(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let old_len = peek(ctx, &key)?.map(|value| value.bytes().len());
    let Some(old_len) = old_len else {
        ctx.set_arg(&key, args, 2, Expiry::Never);
        ctx.event(Classes::STRING, "append", &key);
        reply.int(args[2].len() as i64);
        return Ok(());
    };
    check_len(ctx, old_len, args[2].len())?;
    let len = ctx.shard.modify(ctx.db, &key, |value| {
        value.extend_from_slice(args[2]);
        value.len()
    });
    ctx.changes += 1;
    ctx.event(Classes::STRING, "append", &key);
    reply.int(len as i64);
    Ok(())
}

pub fn strlen(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let len = read(ctx, &key)?.map_or(0, |value| value.bytes().len());
    reply.int(len as i64);
    Ok(())
}

/// The positions that `start` and `end` (inclusive; negative ones count from the end) mean in a string of `len` bytes.
fn slice_of(len: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    if len == 0 || (start < 0 && end < 0 && start > end) {
        return 0..0;
    }
    let from_front = |i: i64| if i < 0 { (len as i64).saturating_add(i).max(0) } else { i };
    let (start, end) = (from_front(start), from_front(end).min(len as i64 - 1));
    if start > end { 0..0 } else { start as usize..end as usize + 1 }
}

pub fn getrange(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let start = parse_i64(args[2])?;
    let end = parse_i64(args[3])?;
    let key = ctx.key(args[1]);
    let value = read(ctx, &key)?.unwrap_or(Str::Inline(b""));
    let range = slice_of(value.bytes().len(), start, end);
    match value {
        Str::Large(whole) if range.len() == whole.len() => reply.bulk_shared(whole),
        value => reply.bulk(&value.bytes()[range]),
    }
    Ok(())
}

pub fn setrange(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let offset = usize::try_from(parse_i64(args[2])?).map_err(|_| Error::OffsetRange)?;
    let patch = args[3];
    let key = ctx.key(args[1]);
    let len = peek(ctx, &key)?.map_or(0, |value| value.bytes().len());
    if patch.is_empty() {
        reply.int(len as i64);
        return Ok(());
    }
    check_len(ctx, offset, patch.len())?;
    let len = ctx.shard.modify(ctx.db, &key, |value| {
        let end = offset + patch.len();
        if value.len() < end {
            value.resize(end, 0);
        }
        value[offset..end].copy_from_slice(patch);
        value.len()
    });
    ctx.changes += 1;
    ctx.event(Classes::STRING, "setrange", &key);
    reply.int(len as i64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::slice_of;

    #[test]
    fn ranges_never_leave_the_string() {
        for len in 0..6usize {
            for start in (-8..8).chain([i64::MIN, i64::MAX]) {
                for end in (-8..8).chain([i64::MIN, i64::MAX]) {
                    let range = slice_of(len, start, end);
                    assert!(range.start <= range.end && range.end <= len, "{len} {start} {end}");
                }
            }
        }
        assert_eq!(slice_of(5, 0, -1), 0..5);
        assert_eq!(slice_of(5, -3, -2), 2..4);
        assert_eq!(slice_of(5, -2, -3), 0..0);
        assert_eq!(slice_of(5, -100, -50), 0..1);
        assert_eq!(slice_of(5, -50, -100), 0..0);
        assert_eq!(slice_of(5, 3, i64::MAX), 3..5);
    }
}
