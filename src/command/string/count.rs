//! Strings as numbers: INCR, DECR, INCRBY, DECRBY, INCRBYFLOAT.

use super::peek;
use crate::command::number::{add_long_double, format_long_double, parse_i64, parse_long_double};
use crate::command::{Args, Ctx};
use crate::resp::{Error, Reply};
use crate::shard::{Classes, Expiry};

pub fn incr(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    add(ctx, args, 1, reply)
}

pub fn decr(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    add(ctx, args, -1, reply)
}

pub fn incrby(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    add(ctx, args, parse_i64(args[2])?, reply)
}

pub fn decrby(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let decrement = parse_i64(args[2])?;
    add(ctx, args, decrement.checked_neg().ok_or(Error::DecrOverflow)?, reply)
}

#[inline]
fn add(ctx: &mut Ctx, args: Args, increment: i64, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let value = match peek(ctx, &key)? {
        Some(value) => parse_i64(value.bytes())?,
        None => 0,
    };
    let sum = value.checked_add(increment).ok_or(Error::IncrOverflow)?;
    ctx.set(&key, itoa::Buffer::new().format(sum).as_bytes(), Expiry::Keep);
    // Redis has one event for all four commands.
    ctx.event(Classes::STRING, "incrby", &key);
    reply.int(sum);
    Ok(())
}

pub fn incrbyfloat(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let value = match peek(ctx, &key)? {
        Some(value) => parse_long_double(value.bytes())?,
        None => Default::default(),
    };
    let sum = add_long_double(value, parse_long_double(args[2])?)?;
    let text = format_long_double(sum);
    ctx.set(&key, &text, Expiry::Keep);
    ctx.event(Classes::STRING, "incrbyfloat", &key);
    // The result and not the sum is logged: a replay needs no floating-point arithmetic.
    ctx.effect_is(&[b"SET", args[1], &text, b"KEEPTTL"]);
    reply.bulk(&text);
    Ok(())
}
