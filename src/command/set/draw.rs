//! SPOP and SRANDMEMBER: members that are chosen at random.
//!
//! Replicas draw nothing: the effect of SPOP is SREM of what was drawn, or DEL.

use super::{Args, Ctx, Error, Reply, read, reply_member, reply_set, tell_removed};
use crate::collection::random::Random;
use crate::collection::set::{self, Set};
use crate::collection::{Value, ValueRef};
use crate::command::elements::{Draws, draw_repeatedly};
use crate::command::number::parse_i64;
use crate::route::Key;
use crate::shard::{Classes, Kind};

pub fn spop(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    match args {
        [_, key] => pop_one(ctx, &ctx.key(key), reply),
        [_, key, count] => {
            let count = parse_i64(count).ok().and_then(|n| usize::try_from(n).ok()).ok_or(Error::MustBePositive)?;
            pop_many(ctx, &ctx.key(key), count, reply)
        }
        _ => Err(Error::Syntax),
    }
}

fn pop_one(ctx: &mut Ctx, key: &Key, reply: &mut Reply) -> Result<(), Error> {
    let mut random = Random::new(ctx.random);
    let popped = ctx.change(key, Kind::Set, false, |value, _| {
        let start = pop_random(value, &mut random, reply);
        (start, 1)
    })?;
    let Some(popped) = popped else {
        reply.null();
        return Ok(());
    };
    ctx.event(Classes::SET, "spop", key);
    if ctx.shard.effects.enabled() {
        ctx.effect_is(&[b"SREM", key.bytes, last_bulk(reply, popped.result)]);
    }
    tell_removed(ctx, key, popped.removed);
    Ok(())
}

/// Removes a random member of a set that has some, and answers it; returns its length.
fn pop_random(value: &mut Value, random: &mut Random, reply: &mut Reply) -> usize {
    let mut digits = itoa::Buffer::new();
    let Some(member) = Set::new(value.view()).random(random) else { return 0 };
    let text = member.text(&mut digits);
    let len = text.len();
    reply.bulk(text);
    // The set cannot change while its own bytes are looked at; the reply has a copy.
    set::remove(value, last_bulk(reply, len));
    len
}

/// The bulk string of `len` bytes that was just written.
fn last_bulk<'r>(reply: &'r mut Reply, len: usize) -> &'r [u8] {
    const END: usize = b"\r\n".len();
    let written = reply.output().buf();
    &written[written.len() - END - len..written.len() - END]
}

fn pop_many(ctx: &mut Ctx, key: &Key, count: usize, reply: &mut Reply) -> Result<(), Error> {
    let Some(set) = ctx.peek_collection(key, Kind::Set)?.map(Set::new) else {
        reply.set(0);
        return Ok(());
    };
    let len = set.len();
    if count >= len {
        reply_set(reply, set);
        ctx.event(Classes::SET, "spop", key);
        ctx.remove(key);
        ctx.changes += len as u64 - 1;
        ctx.event(Classes::GENERIC, "del", key);
        ctx.effect_is(&[b"DEL", key.bytes]);
        return Ok(());
    }
    reply.set(count);
    if count == 0 {
        return Ok(());
    }
    let mut random = Random::new(ctx.random);
    let mut effect = ctx.shard.effects.enabled().then(|| vec![b"SREM".to_vec(), key.bytes.to_vec()]);
    ctx.change(key, Kind::Set, false, |value, _| {
        for _ in 0..count {
            let len = pop_random(value, &mut random, reply);
            if let Some(effect) = &mut effect {
                effect.push(last_bulk(reply, len).to_vec());
            }
        }
        ((), count as u64)
    })?;
    if let Some(effect) = effect {
        ctx.effect_is(&effect.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }
    ctx.event(Classes::SET, "spop", key);
    Ok(())
}

pub fn srandmember(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let mut random = Random::new(ctx.random);
    let bytes_max = ctx.string_bytes_max;
    let draws = match args {
        [_, _] => None,
        [_, _, count] => Some(Draws::parse(count)?),
        _ => return Err(Error::Syntax),
    };
    let key = ctx.key(args[1]);
    // Without a set there is nothing to draw from, however often.
    let set = read(ctx, &key)?.unwrap_or(Set::new(ValueRef::Compact(&[])));
    match draws {
        None => match set.random(&mut random) {
            Some(member) => reply_member(reply, member),
            None => reply.null(),
        },
        Some(Draws::Distinct(count)) => {
            reply.array(count.min(set.len()));
            set.sample(count, &mut random, |member| reply_member(reply, member));
        }
        Some(Draws::Repeated(_)) if set.is_empty() => reply.array(0),
        Some(Draws::Repeated(count)) => {
            reply.array(count as usize);
            let draw = |reply: &mut Reply| {
                if let Some(member) = set.random(&mut random) {
                    reply_member(reply, member);
                }
            };
            draw_repeatedly(reply, count, bytes_max, draw)?;
        }
    }
    Ok(())
}
