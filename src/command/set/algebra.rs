//! Intersections, unions and differences of sets.

use super::{Args, Ctx, Error, Reply, reply_set, tell_removed};
use crate::collection::set::{self, Member, Set};
use crate::collection::{Thresholds, Value};
use crate::command::elements::Found;
use crate::command::number::parse_i64;
use crate::route::Key;
use crate::shard::{Classes, Kind};

/// Looks up the sets that a command names; None for those that are not there. A key of another type is told even if an
/// earlier one is missing, as in Redis 7.
fn inputs<'c>(ctx: &'c mut Ctx, names: Args) -> Result<Vec<Option<Set<'c>>>, Error> {
    let keys: Vec<Key> = names.iter().map(|name| ctx.key(name)).collect();
    for key in &keys {
        ctx.collection(key, Kind::Set)?;
    }
    let ctx = &*ctx;
    Ok(keys.iter().map(|key| ctx.view(key, Kind::Set).map(Set::new)).collect())
}

/// Visits up to `limit` members that are in all of `sets`: those of the smallest one that the others have.
fn intersect(sets: Vec<Option<Set>>, limit: usize, mut visit: impl FnMut(Member)) {
    let Some(mut sets) = sets.into_iter().collect::<Option<Vec<Set>>>() else { return };
    sets.sort_by_key(Set::len);
    let Some((smallest, others)) = sets.split_first() else { return };
    let in_all = smallest.iter().filter(|member| others.iter().all(|set| set.has(*member)));
    in_all.take(limit).for_each(&mut visit);
}

fn intersection(sets: Vec<Option<Set>>, thresholds: &Thresholds) -> Value {
    let mut value = Value::default();
    intersect(sets, usize::MAX, |member| add(&mut value, member, thresholds));
    value
}

fn add(value: &mut Value, member: Member, thresholds: &Thresholds) {
    set::add(value, member.text(&mut itoa::Buffer::new()), thresholds);
}

fn union(sets: Vec<Option<Set>>, thresholds: &Thresholds) -> Value {
    let mut value = Value::default();
    // The result is no smaller than the largest of them.
    let most = sets.iter().flatten().map(Set::len).max().unwrap_or(0);
    set::expect(&mut value, b"0", most, thresholds);
    for set in sets.iter().flatten() {
        set.visit(|member| add(&mut value, member, thresholds));
    }
    value
}

/// There are two ways, and Redis' estimate of what they cost chooses: to look for every member of the first set in all
/// others, or to take the members of all others out of a copy of the first.
fn difference(sets: Vec<Option<Set>>, thresholds: &Thresholds) -> Value {
    let mut value = Value::default();
    let Some((Some(first), others)) = sets.split_first() else { return value };
    let mut others: Vec<Set> = others.iter().flatten().copied().collect();
    let searches = first.len() * (others.len() + 1) / 2;
    let removals = first.len() + others.iter().map(Set::len).sum::<usize>();
    if searches <= removals {
        // The largest ones are the likeliest to have a member.
        others.sort_by_key(|set| std::cmp::Reverse(set.len()));
        first.visit(|member| {
            if !others.iter().any(|set| set.has(member)) {
                add(&mut value, member, thresholds);
            }
        });
        return value;
    }
    first.visit(|member| add(&mut value, member, thresholds));
    for set in others {
        set.visit(|member| {
            set::remove(&mut value, member.text(&mut itoa::Buffer::new()));
        });
    }
    value
}

type Operation = fn(Vec<Option<Set>>, &Thresholds) -> Value;

pub fn sinter(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let sets = inputs(ctx, &args[1..])?;
    let mut found = Found::default();
    let mut digits = itoa::Buffer::new();
    intersect(sets, usize::MAX, |member| found.add(member.text(&mut digits), reply));
    found.write_set(reply);
    Ok(())
}

pub fn sunion(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer(ctx, args, union, reply)
}

pub fn sdiff(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer(ctx, args, difference, reply)
}

fn answer(ctx: &mut Ctx, args: Args, operation: Operation, reply: &mut Reply) -> Result<(), Error> {
    let thresholds = ctx.thresholds;
    let value = operation(inputs(ctx, &args[1..])?, thresholds);
    reply_set(reply, Set::new(value.view()));
    Ok(())
}

pub fn sinterstore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    store(ctx, args, intersection, "sinterstore", reply)
}

pub fn sunionstore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    store(ctx, args, union, "sunionstore", reply)
}

pub fn sdiffstore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    store(ctx, args, difference, "sdiffstore", reply)
}

fn store(ctx: &mut Ctx, args: Args, operation: Operation, event: &'static str, reply: &mut Reply) -> Result<(), Error> {
    let thresholds = ctx.thresholds;
    let value = operation(inputs(ctx, &args[2..])?, thresholds);
    let key = ctx.key(args[1]);
    let len = Set::new(value.view()).len();
    let before = ctx.store(&key, Kind::Set, value);
    reply.int(len as i64);
    if len > 0 {
        ctx.event(Classes::SET, event, &key);
    } else {
        tell_removed(ctx, &key, before);
    }
    Ok(())
}

pub fn sintercard(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let number = |arg: &[u8]| parse_i64(arg).ok().and_then(|n| usize::try_from(n).ok());
    let keys = number(args[1]).filter(|&keys| keys > 0).ok_or(Error::NumKeys)?;
    if keys > args.len() - 2 {
        return Err(Error::TooManyKeys);
    }
    let mut limit = 0;
    let mut rest = args[2 + keys..].iter();
    while let Some(option) = rest.next() {
        let value = rest.next().filter(|_| option.eq_ignore_ascii_case(b"limit")).ok_or(Error::Syntax)?;
        limit = number(value).ok_or(Error::Negative("LIMIT"))?;
    }
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut count = 0;
    intersect(inputs(ctx, &args[2..2 + keys])?, limit, |_| count += 1);
    reply.int(count);
    Ok(())
}
