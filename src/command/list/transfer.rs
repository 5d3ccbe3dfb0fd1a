//! Commands on several lists: LMOVE, RPOPLPUSH and LMPOP.
//!
//! The functions that take an element here also serve the commands that wait for one.

use super::{Args, Ctx, Error, Reply, parse_end, parse_i64, tell_removed};
use crate::collection::list::{self, End, List};
use crate::route::Key;
use crate::shard::{Classes, Kind};

pub fn lmove(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let (from, to) = (parse_end(args[3])?, parse_end(args[4])?);
    move_or_null(ctx, [args[1], args[2]], from, to, reply)
}

pub fn rpoplpush(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    move_or_null(ctx, [args[1], args[2]], End::Tail, End::Head, reply)
}

fn move_or_null(ctx: &mut Ctx, keys: [&[u8]; 2], from: End, to: End, reply: &mut Reply) -> Result<(), Error> {
    if !move_element(ctx, keys, from, to, reply)? {
        reply.null();
    }
    Ok(())
}

/// Moves an element and answers it; false, and no answer, if the source is not there.
pub fn move_element(
    ctx: &mut Ctx,
    [source, destination]: [&[u8]; 2],
    from: End,
    to: End,
    reply: &mut Reply,
) -> Result<bool, Error> {
    let (source, destination) = (ctx.key(source), ctx.key(destination));
    if ctx.peek_collection(&source, Kind::List)?.is_none() {
        return Ok(false);
    }
    ctx.peek_collection(&destination, Kind::List)?;
    let mut element = Vec::new();
    let same = source.bytes == destination.bytes;
    let taken = ctx.change(&source, Kind::List, false, |value, thresholds| {
        list::pop(value, from, 1, thresholds, |item| element.extend_from_slice(item));
        // Within one list the element must not be its last one in between.
        if same {
            list::push(value, to, &element, thresholds);
        }
        ((), 1)
    })?;
    if !same {
        ctx.change(&destination, Kind::List, true, |value, thresholds| {
            list::push(value, to, &element, thresholds);
            ((), 1)
        })?;
        // Both keys have changed, for those who watch them; counted is the one move, as by Redis.
        ctx.changes -= 1;
    }
    ctx.event(Classes::LIST, if to == End::Head { "lpush" } else { "rpush" }, &destination);
    ctx.event(Classes::LIST, if from == End::Head { "lpop" } else { "rpop" }, &source);
    tell_removed(ctx, &source, taken.is_some_and(|taken| taken.removed));
    if same {
        // A list with one element does not vanish in between, and keeps its expiry.
        ctx.effect_is(&[b"LMOVE", source.bytes, source.bytes, word(from), word(to)]);
    } else {
        ctx.effect_is(&[if from == End::Head { b"LPOP" } else { b"RPOP" }, source.bytes]);
        ctx.effect_is(&[if to == End::Head { b"LPUSH" } else { b"RPUSH" }, destination.bytes, &element]);
    }
    reply.bulk(&element);
    Ok(true)
}

fn word(end: End) -> &'static [u8] {
    if end == End::Head { b"LEFT" } else { b"RIGHT" }
}

/// The arguments of LMPOP from the number of keys on.
pub struct PopMany<'a> {
    pub keys: Args<'a>,
    pub end: End,
    pub count: usize,
}

impl<'a> PopMany<'a> {
    pub fn parse(args: Args<'a>) -> Result<PopMany<'a>, Error> {
        let count_of = |arg: &[u8], error: Error| {
            parse_i64(arg).ok().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0).ok_or(error)
        };
        let numkeys = count_of(args[0], Error::NumKeys)?;
        if numkeys > args.len() - 2 {
            return Err(Error::Syntax);
        }
        let keys = &args[1..1 + numkeys];
        let end = parse_end(args[1 + numkeys])?;
        let (mut count, mut rest) = (None, args[2 + numkeys..].iter());
        while let Some(name) = rest.next() {
            let value = rest.next().filter(|_| count.is_none() && name.eq_ignore_ascii_case(b"count"));
            count = Some(count_of(value.ok_or(Error::Syntax)?, Error::Count)?);
        }
        Ok(PopMany { keys, end, count: count.unwrap_or(1) })
    }
}

pub fn lmpop(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let wanted = PopMany::parse(&args[1..])?;
    for key in wanted.keys {
        let key = ctx.key(key);
        if pop_many(ctx, &key, wanted.end, wanted.count, reply)? {
            return Ok(());
        }
    }
    reply.null_array();
    Ok(())
}

/// Removes elements and answers them with their key; false, and no answer, if there is no list.
pub fn pop_many(ctx: &mut Ctx, key: &Key, end: End, count: usize, reply: &mut Reply) -> Result<bool, Error> {
    let popped = ctx.change(key, Kind::List, false, |value, thresholds| {
        reply.array(2);
        reply.bulk(key.bytes);
        reply.array(count.min(List::new(value.view()).len()));
        let popped = list::pop(value, end, count, thresholds, |item| reply.bulk(item));
        (popped, popped as u64)
    })?;
    let Some(popped) = popped else { return Ok(false) };
    let (name, effect): (_, &[u8]) = if end == End::Head { ("lpop", b"LPOP") } else { ("rpop", b"RPOP") };
    ctx.effect_is(&[effect, key.bytes, itoa::Buffer::new().format(popped.result).as_bytes()]);
    ctx.event(Classes::LIST, name, key);
    tell_removed(ctx, key, popped.removed);
    Ok(true)
}

/// Removes one element and answers it with its key; false, and no answer, if there is no list.
pub fn pop_one_with_key(ctx: &mut Ctx, key: &Key, end: End, reply: &mut Reply) -> Result<bool, Error> {
    let popped = ctx.change(key, Kind::List, false, |value, thresholds| {
        reply.array(2);
        reply.bulk(key.bytes);
        list::pop(value, end, 1, thresholds, |item| reply.bulk(item));
        ((), 1)
    })?;
    let Some(popped) = popped else { return Ok(false) };
    let (name, effect): (_, &[u8]) = if end == End::Head { ("lpop", b"LPOP") } else { ("rpop", b"RPOP") };
    ctx.effect_is(&[effect, key.bytes]);
    ctx.event(Classes::LIST, name, key);
    tell_removed(ctx, key, popped.removed);
    Ok(true)
}
