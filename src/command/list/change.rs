//! Commands that change one list.

use super::{Args, Ctx, Error, Reply, absolute, absolute_range, parse_i64, read, tell_removed};
use crate::collection::list::{self, End, List};
use crate::shard::{Classes, Kind};

pub fn lpush(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    push(ctx, args, End::Head, true, reply)
}

pub fn rpush(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    push(ctx, args, End::Tail, true, reply)
}

pub fn lpushx(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    push(ctx, args, End::Head, false, reply)
}

pub fn rpushx(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    push(ctx, args, End::Tail, false, reply)
}

fn push(ctx: &mut Ctx, args: Args, end: End, create: bool, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let pushed = ctx.change(&key, Kind::List, create, |value, thresholds| {
        args[2..].iter().for_each(|item| list::push(value, end, item, thresholds));
        (List::new(value.view()).len(), (args.len() - 2) as u64)
    })?;
    let len = pushed.map_or(0, |pushed| pushed.result);
    if len > 0 {
        ctx.event(Classes::LIST, if end == End::Head { "lpush" } else { "rpush" }, &key);
    }
    reply.int(len as i64);
    Ok(())
}

pub fn lpop(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    pop(ctx, args, End::Head, reply)
}

pub fn rpop(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    pop(ctx, args, End::Tail, reply)
}

fn pop(ctx: &mut Ctx, args: Args, end: End, reply: &mut Reply) -> Result<(), Error> {
    let count = match args {
        [_, _] => None,
        [_, _, count] => {
            Some(parse_i64(count).ok().and_then(|n| usize::try_from(n).ok()).ok_or(Error::MustBePositive)?)
        }
        _ => return Err(Error::Arity(String::from_utf8_lossy(args[0]).to_lowercase())),
    };
    let key = ctx.key(args[1]);
    let popped = ctx.change(&key, Kind::List, false, |value, thresholds| {
        if let Some(count) = count {
            reply.array(count.min(List::new(value.view()).len()));
        }
        let popped = list::pop(value, end, count.unwrap_or(1), thresholds, |item| reply.bulk(item));
        (popped, popped as u64)
    })?;
    match popped {
        None if count.is_some() => reply.null_array(),
        None => reply.null(),
        Some(popped) if popped.result > 0 => {
            ctx.event(Classes::LIST, if end == End::Head { "lpop" } else { "rpop" }, &key);
            tell_removed(ctx, &key, popped.removed);
        }
        Some(_) => {}
    }
    Ok(())
}

pub fn lset(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    // A key of another type, or none, is told before a bad index.
    let len = ctx.peek_collection(&key, Kind::List)?.map(|value| List::new(value).len()).ok_or(Error::NoSuchKey)?;
    let index = absolute(parse_i64(args[2])?, len).ok_or(Error::IndexRange)?;
    ctx.change(&key, Kind::List, false, |value, thresholds| (list::set(value, index, args[3], thresholds), 1))?;
    ctx.event(Classes::LIST, "lset", &key);
    reply.ok();
    Ok(())
}

pub fn linsert(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let after = match args[2] {
        word if word.eq_ignore_ascii_case(b"after") => 1,
        word if word.eq_ignore_ascii_case(b"before") => 0,
        _ => return Err(Error::Syntax),
    };
    let key = ctx.key(args[1]);
    let inserted = ctx.change(&key, Kind::List, false, |value, thresholds| {
        let Some(pivot) = List::new(value.view()).iter_from(0).position(|item| item == args[3]) else { return (-1, 0) };
        list::insert(value, pivot + after, args[4], thresholds);
        (List::new(value.view()).len() as i64, 1)
    })?;
    let len = inserted.map_or(0, |inserted| inserted.result);
    if len > 0 {
        ctx.event(Classes::LIST, "linsert", &key);
    }
    reply.int(len);
    Ok(())
}

pub fn lrem(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let count = parse_i64(args[2])?;
    let from = if count < 0 { End::Tail } else { End::Head };
    let count = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let key = ctx.key(args[1]);
    let removed = ctx.change(&key, Kind::List, false, |value, thresholds| {
        let removed = list::remove(value, from, count, args[3], thresholds);
        (removed, removed as u64)
    })?;
    if let Some(removed) = removed
        && removed.result > 0
    {
        ctx.event(Classes::LIST, "lrem", &key);
        tell_removed(ctx, &key, removed.removed);
    }
    reply.int(removed.map_or(0, |removed| removed.result) as i64);
    Ok(())
}

pub fn ltrim(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let (start, stop) = (parse_i64(args[2])?, parse_i64(args[3])?);
    let key = ctx.key(args[1]);
    // Counted as a read, and as a change even if nothing goes, as in Redis.
    if read(ctx, &key)?.is_some() {
        let trimmed = ctx.change(&key, Kind::List, false, |value, thresholds| {
            let (start, count) = absolute_range(start, stop, List::new(value.view()).len());
            (list::trim(value, start, start + count, thresholds), 1)
        })?;
        ctx.event(Classes::LIST, "ltrim", &key);
        tell_removed(ctx, &key, trimmed.is_some_and(|trimmed| trimmed.removed));
    }
    reply.ok();
    Ok(())
}
