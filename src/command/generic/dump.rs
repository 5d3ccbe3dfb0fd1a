//! DUMP and RESTORE: a value as bytes that Redis understands, and back. The format is in [`crate::rdb`].
//!
//! They run on the core that owns the key. The effect of RESTORE has an absolute expiry and REPLACE, so that a replay ends in
//! the same keyspace; whether the value was over when it came is for the core that executed the command to say, once.

use super::super::number::parse_i64;
use super::{Args, Ctx};
use crate::rdb::{self, Restored, Saved};
use crate::resp::{Error, Reply};
use crate::route::Key;
use crate::shard::{Classes, Clock, Deadline, Expiry, NewValue, Now};

pub fn dump(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let now = ctx.now();
    match ctx.read(&key) {
        Some(entry) => reply.bulk_shared(&rdb::dump(&Saved::of(&entry), now).into()),
        None => reply.null(),
    }
    Ok(())
}

/// The options of RESTORE, in any order.
#[derive(Default)]
struct Options {
    replace: bool,
    absolute: bool,
    idle_s: Option<u32>,
    frequency: Option<u8>,
}

impl Options {
    fn parse(args: Args) -> Result<Options, Error> {
        let mut options = Options::default();
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            if option.eq_ignore_ascii_case(b"replace") {
                options.replace = true;
            } else if option.eq_ignore_ascii_case(b"absttl") {
                options.absolute = true;
            } else if option.eq_ignore_ascii_case(b"idletime") && options.frequency.is_none() {
                let seconds = parse_i64(rest.next().ok_or(Error::Syntax)?)?;
                let seconds = u64::try_from(seconds).map_err(|_| Error::InvalidIdleTime)?;
                options.idle_s = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
            } else if option.eq_ignore_ascii_case(b"freq") && options.idle_s.is_none() {
                let count = parse_i64(rest.next().ok_or(Error::Syntax)?)?;
                options.frequency = Some(u8::try_from(count).map_err(|_| Error::InvalidFreq)?);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(options)
    }
}

pub fn restore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let options = Options::parse(&args[4..])?;
    let key = ctx.key(args[1]);
    if !options.replace && ctx.peek(&key).is_some() {
        return Err(Error::BusyKey);
    }
    let ttl = parse_i64(args[2])?;
    if ttl < 0 {
        return Err(Error::InvalidTtl);
    }
    let now = ctx.now();
    let value = rdb::restore(args[3], ctx.thresholds, now, ctx.string_bytes_max).map_err(|error| match error {
        rdb::PayloadError::Footer => Error::DumpPayload,
        rdb::PayloadError::Value(_) => Error::BadDataFormat,
    })?;
    let deadline = deadline(now, ttl, options.absolute)?;
    reply.ok();
    let removed = ctx.remove(&key);
    if deadline.is_some_and(|deadline| now.has_reached(deadline)) || is_over(&value) {
        if removed {
            ctx.event(Classes::GENERIC, "del", &key);
            ctx.effect_is(&[b"DEL", key.bytes]);
        }
        return Ok(());
    }
    let mut digits = itoa::Buffer::new();
    // 0 would be none. A wall clock near 1970 shows the end of a duration as a moment before.
    let moment = digits.format(deadline.map_or(0, |deadline| now.wall_of(deadline).max(1)));
    let without = without_fields_over(&value, now);
    let payload = without.as_deref().unwrap_or(args[3]);
    ctx.effect_is(&[b"RESTORE", key.bytes, moment.as_bytes(), payload, b"ABSTTL", b"REPLACE"]);
    put(ctx, &key, value, deadline);
    if options.idle_s.is_some() || options.frequency.is_some() {
        ctx.shard.pretend_use(ctx.db, &key, options.idle_s, options.frequency);
    }
    ctx.event(Classes::GENERIC, "restore", &key);
    Ok(())
}

/// Whether nothing is left of a value but fields that are over.
fn is_over(value: &Restored) -> bool {
    matches!(value, Restored::Collection { value, .. } if value.is_empty())
}

/// The payload of a hash that lost fields, which a replay must not find.
fn without_fields_over(value: &Restored, now: Now) -> Option<Vec<u8>> {
    match value {
        Restored::Collection { kind, value, fields_over: 1.. } => {
            Some(rdb::dump(&Saved::of_collection(*kind, value), now))
        }
        _ => None,
    }
}

/// What a time to live means; 0 is none.
fn deadline(now: Now, ttl: i64, absolute: bool) -> Result<Option<Deadline>, Error> {
    let clock = if absolute { Clock::Wall } else { Clock::Steady };
    match ttl {
        0 => Ok(None),
        ttl => now.deadline(clock, ttl).map(Some).ok_or(Error::InvalidExpire("restore")),
    }
}

/// Writes the value to a key that is not there.
fn put(ctx: &mut Ctx, key: &Key, value: Restored, deadline: Option<Deadline>) {
    match value {
        Restored::String(text) => {
            let expiry = deadline.map_or(Expiry::Never, Expiry::At);
            ctx.shard.set(ctx.db, key, NewValue::Owned(text), expiry);
        }
        Restored::Collection { kind, value, .. } => {
            ctx.shard.store(ctx.db, key, kind, value);
            if deadline.is_some() {
                ctx.shard.set_expiry(ctx.db, key, deadline);
            }
        }
    }
    ctx.changes += 1;
}

#[cfg(test)]
#[path = "dump_tests.rs"]
mod tests;
