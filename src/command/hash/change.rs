//! Commands that change fields of a hash.

use super::expire::log_deadline;
use super::{Args, Ctx, Error, Reply};
use crate::collection::hash::{self, Hash};
use crate::collection::{Thresholds, Value};
use crate::command::number::{LongDouble, add_long_double, format_long_double, parse_i64, parse_long_double};
use crate::shard::{Classes, Kind};

pub fn hset(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let new = set_fields(ctx, args, "hset")?;
    reply.int(new);
    Ok(())
}

pub fn hmset(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    set_fields(ctx, args, "hmset")?;
    reply.ok();
    Ok(())
}

/// Sets all fields; returns how many of them are new.
fn set_fields(ctx: &mut Ctx, args: Args, name: &str) -> Result<i64, Error> {
    let (pairs, rest) = args[2..].as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Error::Arity(name.into()));
    }
    let key = ctx.key(args[1]);
    ctx.shard.expire_named(ctx.db, &key, pairs.iter().map(|pair| pair[0]));
    let changed = ctx.change(&key, Kind::Hash, true, |value, thresholds| {
        hash::expect(value, pairs.len(), thresholds);
        let new = pairs.iter().filter(|[field, text]| hash::set(value, field, text, thresholds)).count();
        (new as i64, pairs.len() as u64)
    })?;
    ctx.event(Classes::HASH, "hset", &key);
    Ok(changed.map_or(0, |changed| changed.result))
}

pub fn hsetnx(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    ctx.shard.expire_named(ctx.db, &key, [args[2]]);
    let changed = ctx.change(&key, Kind::Hash, true, |value, thresholds| {
        let absent = Hash::new(value.view()).get(args[2]).is_none();
        if absent {
            hash::set(value, args[2], args[3], thresholds);
        }
        (absent, absent as u64)
    })?;
    let set = changed.is_some_and(|changed| changed.result);
    if set {
        ctx.event(Classes::HASH, "hset", &key);
    }
    reply.int(set as i64);
    Ok(())
}

pub fn hdel(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    ctx.shard.expire_named(ctx.db, &key, args[2..].iter().copied());
    let changed = ctx.change(&key, Kind::Hash, false, |value, _| {
        let removed = args[2..].iter().filter(|field| hash::remove(value, field)).count() as u64;
        (removed, removed)
    })?;
    if let Some(changed) = &changed
        && changed.result > 0
    {
        ctx.event(Classes::HASH, "hdel", &key);
        if changed.removed {
            ctx.event(Classes::GENERIC, "del", &key);
        }
    }
    reply.int(changed.map_or(0, |changed| changed.result) as i64);
    Ok(())
}

pub fn hincrby(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let increment = parse_i64(args[3])?;
    let key = ctx.key(args[1]);
    ctx.shard.expire_named(ctx.db, &key, [args[2]]);
    let changed = ctx.change(&key, Kind::Hash, true, |value, thresholds| {
        let sum = add_to_field(value, args[2], increment, thresholds);
        let changes = sum.is_ok() as u64;
        (sum, changes)
    })?;
    let sum = changed.map_or(Ok(increment), |changed| changed.result)?;
    ctx.event(Classes::HASH, "hincrby", &key);
    reply.int(sum);
    Ok(())
}

fn add_to_field(value: &mut Value, field: &[u8], increment: i64, thresholds: &Thresholds) -> Result<i64, Error> {
    let old = match Hash::new(value.view()).get(field) {
        Some(text) => parse_i64(text).map_err(|_| Error::HashNotInteger)?,
        None => 0,
    };
    let sum = old.checked_add(increment).ok_or(Error::IncrOverflow)?;
    hash::update(value, field, itoa::Buffer::new().format(sum).as_bytes(), thresholds);
    Ok(sum)
}

pub fn hincrbyfloat(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let increment = parse_long_double(args[3])?;
    if !is_finite(increment) {
        return Err(Error::NotFinite);
    }
    let key = ctx.key(args[1]);
    ctx.shard.expire_named(ctx.db, &key, [args[2]]);
    let changed = ctx.change(&key, Kind::Hash, true, |value, thresholds| {
        let sum = add_float_to_field(value, args[2], increment, thresholds);
        let changes = sum.is_ok() as u64;
        let deadline = hash::deadline(value.view(), args[2]).flatten();
        (sum.map(|sum| (sum, deadline)), changes)
    })?;
    let (sum, deadline) = changed.map_or(Ok(Default::default()), |changed| changed.result)?;
    ctx.event(Classes::HASH, "hincrbyfloat", &key);
    // The result and not the sum is logged: a replay needs no floating-point arithmetic. HSET takes the deadline of the
    // field away, so that is logged, too.
    ctx.effect_is(&[b"HSET", args[1], args[2], &sum]);
    if let Some(deadline) = deadline {
        let at = ctx.now().wall_of(deadline);
        log_deadline(ctx, args[1], at, &[args[2]]);
    }
    reply.bulk(&sum);
    Ok(())
}

fn add_float_to_field(
    value: &mut Value,
    field: &[u8],
    increment: LongDouble,
    thresholds: &Thresholds,
) -> Result<Vec<u8>, Error> {
    let old = match Hash::new(value.view()).get(field) {
        Some(text) => parse_long_double(text).map_err(|_| Error::HashNotFloat)?,
        None => LongDouble::default(),
    };
    let sum = format_long_double(add_long_double(old, increment)?);
    hash::update(value, field, &sum, thresholds);
    Ok(sum)
}

fn is_finite(number: LongDouble) -> bool {
    use rustc_apfloat::Float;
    number.is_finite()
}
