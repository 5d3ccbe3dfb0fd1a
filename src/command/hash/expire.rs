//! Expiry of fields: the HEXPIRE and HTTL families, HPERSIST.
//!
//! As for keys ([`crate::command::generic`]) a duration is measured by the steady clock and a moment by the wall clock, all
//! moments are shown as Unix time, and the effects name moments and never durations. Replies, limits and the order in which
//! arguments are found to be wrong are those of Redis 7.4.

use super::{Args, Ctx, Error, Reply};
use crate::collection::hash::{self, MOMENT_MS_MAX};
use crate::command::number::parse_i64;
use crate::shard::{Classes, Clock, Deadline, Kind, Now, UnixMs};

/// What becomes of a field, as the replies say it.
const NO_FIELD: i64 = -2;
const NO_EXPIRY: i64 = -1;
const CONDITION_NOT_MET: i64 = 0;
const DONE: i64 = 1;
const DELETED: i64 = 2;

/// At most one of NX, XX, GT and LT.
#[derive(Clone, Copy)]
enum Condition {
    None,
    Absent,
    Present,
    Later,
    Earlier,
}

impl Condition {
    /// The condition, if `arg` is one.
    fn parse(arg: &[u8]) -> Option<Condition> {
        let known: [(&[u8], Condition); 4] = [
            (b"nx", Condition::Absent),
            (b"xx", Condition::Present),
            (b"gt", Condition::Later),
            (b"lt", Condition::Earlier),
        ];
        known.into_iter().find(|(name, _)| arg.eq_ignore_ascii_case(name)).map(|(_, condition)| condition)
    }

    /// Whether `new` may replace `old`. No expiry counts as one that never comes.
    fn allows(self, old: Option<UnixMs>, new: UnixMs) -> bool {
        match self {
            Condition::None => true,
            Condition::Absent => old.is_none(),
            Condition::Present => old.is_some(),
            Condition::Later => old.is_some_and(|old| new > old),
            Condition::Earlier => old.is_none_or(|old| new < old),
        }
    }
}

/// The fields of `FIELDS numfields field ...`, which `args` must be; `bad_number` says that the number is none.
fn parse_fields<'a, 'b>(args: &'a [&'b [u8]], bad_number: Error) -> Result<&'a [&'b [u8]], Error> {
    let [word, number, fields @ ..] = args else { return Err(Error::FieldsMissing) };
    if !word.eq_ignore_ascii_case(b"fields") {
        return Err(Error::FieldsMissing);
    }
    match parse_i64(number) {
        Ok(number) if number > 0 && number as usize == fields.len() => Ok(fields),
        Ok(number) if number > 0 => Err(Error::NumFieldsMismatch),
        _ => Err(bad_number),
    }
}

pub fn hexpire(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    set_deadlines(ctx, args, reply, Clock::Steady, 1000, "hexpire")
}

pub fn hpexpire(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    set_deadlines(ctx, args, reply, Clock::Steady, 1, "hpexpire")
}

pub fn hexpireat(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    set_deadlines(ctx, args, reply, Clock::Wall, 1000, "hexpireat")
}

pub fn hpexpireat(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    set_deadlines(ctx, args, reply, Clock::Wall, 1, "hpexpireat")
}

/// The deadline for a number of units of `unit_ms`.
fn parse_deadline(now: Now, clock: Clock, arg: &[u8], unit_ms: i64, command: &'static str) -> Result<Deadline, Error> {
    let number = parse_i64(arg)?;
    if number < 0 {
        return Err(Error::NegativeExpire);
    }
    let base_ms = match clock {
        Clock::Wall => 0,
        Clock::Steady => now.wall_ms,
    };
    let ms = number.checked_mul(unit_ms).filter(|ms| *ms <= MOMENT_MS_MAX.saturating_sub(base_ms));
    ms.and_then(|ms| now.deadline(clock, ms)).ok_or(Error::InvalidExpire(command))
}

fn set_deadlines(
    ctx: &mut Ctx,
    args: Args,
    reply: &mut Reply,
    clock: Clock,
    unit_ms: i64,
    command: &'static str,
) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    ctx.peek_collection(&key, Kind::Hash)?;
    let now = ctx.now();
    let deadline = parse_deadline(now, clock, args[2], unit_ms, command)?;
    let condition = Condition::parse(args[3]);
    let rest = if condition.is_some() { &args[4..] } else { &args[3..] };
    let condition = condition.unwrap_or(Condition::None);
    let fields = parse_fields(rest, Error::NumFieldsNotPositive)?;
    ctx.shard.expire_named(ctx.db, &key, fields.iter().copied());
    let (at, over) = (now.wall_of(deadline), now.has_reached(deadline));
    let logs = ctx.shard.effects.enabled();
    let mut done: Vec<&[u8]> = Vec::new();
    let changed = ctx.change(&key, Kind::Hash, false, |value, _| {
        reply.array(fields.len());
        let mut changes = 0;
        for field in fields {
            let state = match hash::deadline(value.view(), field) {
                None => NO_FIELD,
                Some(old) if !condition.allows(old.map(|old| now.wall_of(old)), at) => CONDITION_NOT_MET,
                Some(_) if over => {
                    hash::remove(value, field);
                    DELETED
                }
                Some(_) => {
                    hash::set_deadline(value, field, Some(deadline));
                    DONE
                }
            };
            reply.int(state);
            if state > 0 {
                changes += 1;
                done.extend(logs.then_some(*field));
            }
        }
        (changes, changes)
    })?;
    let Some(changed) = changed else {
        reply_for_all(reply, fields.len(), NO_FIELD);
        return Ok(());
    };
    if changed.result > 0 {
        ctx.event(Classes::HASH, if over { "hdel" } else { "hexpire" }, &key);
        if changed.removed {
            ctx.event(Classes::GENERIC, "del", &key);
        }
        if over && logs {
            ctx.effect_is(&[&[b"HDEL", key.bytes], &done[..]].concat());
        } else if logs {
            log_deadline(ctx, key.bytes, at, &done);
        }
    }
    Ok(())
}

/// Logs that fields have this deadline.
pub fn log_deadline(ctx: &mut Ctx, key: &[u8], at: UnixMs, fields: &[&[u8]]) {
    if !ctx.shard.effects.enabled() {
        return;
    }
    // A wall clock that was set since may show another moment than any command accepts.
    let at = at.clamp(0, MOMENT_MS_MAX);
    let (mut at_text, mut number) = (itoa::Buffer::new(), itoa::Buffer::new());
    let head: [&[u8]; 5] =
        [b"HPEXPIREAT", key, at_text.format(at).as_bytes(), b"FIELDS", number.format(fields.len()).as_bytes()];
    ctx.effect_is(&[&head, fields].concat());
}

fn reply_for_all(reply: &mut Reply, fields: usize, state: i64) {
    reply.array(fields);
    (0..fields).for_each(|_| reply.int(state));
}

pub fn httl(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let now_ms = ctx.now().wall_ms;
    show_deadlines(ctx, args, reply, |at| (at - now_ms + 999) / 1000)
}

pub fn hpttl(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let now_ms = ctx.now().wall_ms;
    show_deadlines(ctx, args, reply, |at| at - now_ms)
}

pub fn hexpiretime(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    show_deadlines(ctx, args, reply, |at| (at + 999) / 1000)
}

pub fn hpexpiretime(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    show_deadlines(ctx, args, reply, |at| at)
}

fn show_deadlines(ctx: &mut Ctx, args: Args, reply: &mut Reply, show: impl Fn(UnixMs) -> i64) -> Result<(), Error> {
    let now = ctx.now();
    let key = ctx.key(args[1]);
    let value = ctx.collection(&key, Kind::Hash)?;
    let fields = parse_fields(&args[2..], Error::FieldsNotPositive)?;
    reply.array(fields.len());
    for field in fields {
        reply.int(match value.and_then(|value| hash::deadline(value, field)) {
            None => NO_FIELD,
            Some(None) => NO_EXPIRY,
            Some(Some(deadline)) if now.has_reached(deadline) => NO_FIELD,
            Some(Some(deadline)) => show(now.wall_of(deadline)),
        });
    }
    Ok(())
}

pub fn hpersist(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    ctx.peek_collection(&key, Kind::Hash)?;
    let fields = parse_fields(&args[2..], Error::FieldsNotPositive)?;
    ctx.shard.expire_named(ctx.db, &key, fields.iter().copied());
    let changed = ctx.change(&key, Kind::Hash, false, |value, _| {
        reply.array(fields.len());
        let mut changes = 0;
        for field in fields {
            let state = match hash::deadline(value.view(), field) {
                None => NO_FIELD,
                Some(None) => NO_EXPIRY,
                Some(Some(_)) => {
                    hash::set_deadline(value, field, None);
                    changes += 1;
                    DONE
                }
            };
            reply.int(state);
        }
        (changes, changes)
    })?;
    match changed {
        None => reply_for_all(reply, fields.len(), NO_FIELD),
        Some(changed) if changed.result > 0 => ctx.event(Classes::HASH, "hpersist", &key),
        Some(_) => {}
    }
    Ok(())
}
