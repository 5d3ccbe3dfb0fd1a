//! Expiries: the EXPIRE and TTL families, PERSIST.
//!
//! A duration is measured by the steady clock and a moment by the wall clock ([`crate::shard::clock`]). All moments are
//! shown as Unix milliseconds here, whichever clock they are on: so they can be compared, and the effects name moments and
//! never durations.

use super::super::number::parse_i64;
use super::{Args, Ctx};
use crate::resp::{Error, Reply, error::shown};
use crate::route::Key;
use crate::shard::{Classes, Clock, Deadline, UnixMs};

/// Longest part of an unknown option that an error text repeats.
const OPTION_SHOWN_BYTES_MAX: usize = 128;

/// NX, XX, GT and LT.
#[derive(Default)]
struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Conditions {
    fn parse(args: Args) -> Result<Conditions, Error> {
        let mut conditions = Conditions::default();
        for option in args {
            let flag = match option {
                o if o.eq_ignore_ascii_case(b"nx") => &mut conditions.nx,
                o if o.eq_ignore_ascii_case(b"xx") => &mut conditions.xx,
                o if o.eq_ignore_ascii_case(b"gt") => &mut conditions.gt,
                o if o.eq_ignore_ascii_case(b"lt") => &mut conditions.lt,
                o => return Err(Error::UnsupportedOption(shown(o, OPTION_SHOWN_BYTES_MAX))),
            };
            *flag = true;
        }
        if conditions.nx && (conditions.xx || conditions.gt || conditions.lt) {
            return Err(Error::ExpireNxAndOther);
        }
        if conditions.gt && conditions.lt {
            return Err(Error::ExpireGtAndLt);
        }
        Ok(conditions)
    }

    /// Whether `new` may replace `old`. No expiry counts as one that never comes.
    fn allow(&self, old: Option<UnixMs>, new: UnixMs) -> bool {
        !((self.nx && old.is_some())
            || (self.xx && old.is_none())
            || (self.gt && old.is_none_or(|old| new <= old))
            || (self.lt && old.is_some_and(|old| new >= old)))
    }
}

pub fn expire(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    set_expiry(ctx, args, reply, Clock::Steady, 1000, "expire")
}

pub fn pexpire(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    set_expiry(ctx, args, reply, Clock::Steady, 1, "pexpire")
}

pub fn expireat(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    set_expiry(ctx, args, reply, Clock::Wall, 1000, "expireat")
}

pub fn pexpireat(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    set_expiry(ctx, args, reply, Clock::Wall, 1, "pexpireat")
}

/// The number counts units of `unit_ms`; it may be negative.
fn set_expiry(
    ctx: &mut Ctx,
    args: Args,
    reply: &mut Reply,
    clock: Clock,
    unit_ms: i64,
    command: &'static str,
) -> Result<(), Error> {
    let conditions = Conditions::parse(&args[3..])?;
    let now = ctx.now();
    let deadline = parse_i64(args[2])?
        .checked_mul(unit_ms)
        .and_then(|ms| now.deadline(clock, ms))
        .ok_or(Error::InvalidExpire(command))?;
    let key = ctx.key(args[1]);
    let allowed = ctx.peek(&key).is_some_and(|entry| conditions.allow(entry.expire_at, now.wall_of(deadline)));
    if allowed {
        expire_at(ctx, &key, deadline);
    }
    reply.int(allowed as i64);
    Ok(())
}

/// Gives a live key an expiry; a moment that has passed removes the key at once.
pub fn expire_at(ctx: &mut Ctx, key: &Key, deadline: Deadline) {
    let now = ctx.now();
    if now.has_reached(deadline) {
        ctx.remove(key);
        ctx.event(Classes::GENERIC, "del", key);
        ctx.effect_is(&[b"DEL", key.bytes]);
        return;
    }
    ctx.shard.set_expiry(ctx.db, key, Some(deadline));
    ctx.changes += 1;
    ctx.event(Classes::GENERIC, "expire", key);
    ctx.effect_is(&[b"PEXPIREAT", key.bytes, itoa::Buffer::new().format(now.wall_of(deadline)).as_bytes()]);
}

pub fn persist(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    reply.int(persist_key(ctx, &key) as i64);
    Ok(())
}

/// Takes the expiry of a key away; false if it had none.
pub fn persist_key(ctx: &mut Ctx, key: &Key) -> bool {
    let expires = ctx.peek(key).is_some_and(|entry| entry.expire_at.is_some());
    if expires {
        ctx.shard.set_expiry(ctx.db, key, None);
        ctx.changes += 1;
        ctx.event(Classes::GENERIC, "persist", key);
        ctx.effect_is(&[b"PERSIST", key.bytes]);
    }
    expires
}

pub fn ttl(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let now_ms = ctx.now().wall_ms;
    show_expiry(ctx, args, reply, |at| rounded_s((at - now_ms).max(0)))
}

pub fn pttl(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let now_ms = ctx.now().wall_ms;
    show_expiry(ctx, args, reply, |at| (at - now_ms).max(0))
}

pub fn expiretime(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    show_expiry(ctx, args, reply, rounded_s)
}

pub fn pexpiretime(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    show_expiry(ctx, args, reply, |at| at)
}

/// Milliseconds as seconds, rounded half up.
fn rounded_s(ms: i64) -> i64 {
    ms / 1000 + (ms % 1000 >= 500) as i64
}

/// -2: no such key; -1: it does not expire.
fn show_expiry(ctx: &mut Ctx, args: Args, reply: &mut Reply, show: impl Fn(UnixMs) -> i64) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    reply.int(match ctx.shard.read(ctx.db, &key, false) {
        None => -2,
        Some(entry) => entry.expire_at.map_or(-1, show),
    });
    Ok(())
}
