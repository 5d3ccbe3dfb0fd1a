//! ZPOPMIN, ZPOPMAX and ZMPOP. [`pop`] also serves the commands that wait for a member.
//!
//! The effect is ZREM of what was removed, or DEL if that was all.

use super::{Args, Ctx, Error, Reply, parse_i64, tell_removed};
use crate::collection::sorted::{self, SortedSet};
use crate::route::Key;
use crate::shard::{Classes, Kind};

/// An end of a sorted set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Min,
    Max,
}

impl End {
    fn parse(word: &[u8]) -> Result<End, Error> {
        match word {
            _ if word.eq_ignore_ascii_case(b"min") => Ok(End::Min),
            _ if word.eq_ignore_ascii_case(b"max") => Ok(End::Max),
            _ => Err(Error::Syntax),
        }
    }
}

/// How members are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Member, score, member, score (ZPOPMIN).
    Flat,
    /// Pairs (ZPOPMIN with a count, in RESP3).
    Pairs,
    /// The key, then as `Flat` (BZPOPMIN).
    KeyAndFlat,
    /// The key, and an array of pairs (ZMPOP).
    KeyAndPairs,
}

/// Removes up to `count` members from an end and answers them; false, and no answer, if there is no sorted set.
pub fn pop(ctx: &mut Ctx, key: &Key, end: End, count: usize, shape: Shape, reply: &mut Reply) -> Result<bool, Error> {
    let logged = ctx.shard.effects.enabled();
    let mut effect: Vec<Vec<u8>> = Vec::new();
    let popped = ctx.change(key, Kind::SortedSet, false, |value, _| {
        let set = SortedSet::new(value.view());
        let count = count.min(set.len());
        let all = count == set.len();
        if logged {
            effect.extend([if all { b"DEL".to_vec() } else { b"ZREM".to_vec() }, key.bytes.to_vec()]);
        }
        write_start(reply, key, count, shape);
        let first = if end == End::Min { 0 } else { set.len() - count };
        for (member, score) in set.items(first, first + count, end == End::Max) {
            if matches!(shape, Shape::Pairs | Shape::KeyAndPairs) {
                reply.array(2);
            }
            reply.bulk(member);
            reply.double(score);
            if logged && !all {
                effect.push(member.to_vec());
            }
        }
        sorted::remove_range(value, first, first + count);
        (count, count as u64)
    })?;
    let Some(popped) = popped else { return Ok(false) };
    if popped.result > 0 {
        if logged {
            ctx.effect_is(&effect.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        ctx.event(Classes::SORTED_SET, if end == End::Min { "zpopmin" } else { "zpopmax" }, key);
    }
    tell_removed(ctx, key, popped.removed);
    Ok(true)
}

fn write_start(reply: &mut Reply, key: &Key, count: usize, shape: Shape) {
    match shape {
        Shape::Flat => reply.array(2 * count),
        Shape::Pairs => reply.array(count),
        Shape::KeyAndFlat => {
            reply.array(2 * count + 1);
            reply.bulk(key.bytes);
        }
        Shape::KeyAndPairs => {
            reply.array(2);
            reply.bulk(key.bytes);
            reply.array(count);
        }
    }
}

pub fn zpopmin(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    pop_of_one(ctx, args, End::Min, reply)
}

pub fn zpopmax(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    pop_of_one(ctx, args, End::Max, reply)
}

fn pop_of_one(ctx: &mut Ctx, args: Args, end: End, reply: &mut Reply) -> Result<(), Error> {
    let count = match &args[2..] {
        [] => None,
        [count] => {
            let count = parse_i64(count).ok().and_then(|count| usize::try_from(count).ok());
            Some(count.ok_or(Error::MustBePositive)?)
        }
        _ => return Err(Error::Syntax),
    };
    let shape = if count.is_some() && reply.is_resp3() { Shape::Pairs } else { Shape::Flat };
    let key = ctx.key(args[1]);
    if !pop(ctx, &key, end, count.unwrap_or(1), shape, reply)? {
        reply.array(0);
    }
    Ok(())
}

/// The arguments of ZMPOP from the number of keys on.
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
        if numkeys > args.len().saturating_sub(2) {
            return Err(Error::Syntax);
        }
        let keys = &args[1..1 + numkeys];
        let end = End::parse(args[1 + numkeys])?;
        let count = match &args[2 + numkeys..] {
            [] => 1,
            [name, count, rest @ ..] if name.eq_ignore_ascii_case(b"count") => {
                let count = count_of(count, Error::Count)?;
                if !rest.is_empty() {
                    return Err(Error::Syntax);
                }
                count
            }
            _ => return Err(Error::Syntax),
        };
        Ok(PopMany { keys, end, count })
    }
}

pub fn zmpop(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let wanted = PopMany::parse(&args[1..])?;
    for key in wanted.keys {
        let key = ctx.key(key);
        if pop(ctx, &key, wanted.end, wanted.count, Shape::KeyAndPairs, reply)? {
            return Ok(());
        }
    }
    reply.null_array();
    Ok(())
}
