//! SADD, SREM, SMOVE.

use super::{Args, Ctx, Error, Reply, tell_removed};
use crate::collection::set::{self, Set};
use crate::shard::{Classes, Kind};

pub fn sadd(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let members = &args[2..];
    let added = ctx.change(&key, Kind::Set, true, |value, thresholds| {
        set::expect(value, members[0], members.len(), thresholds);
        let added = members.iter().filter(|member| set::add(value, member, thresholds)).count() as u64;
        (added, added)
    })?;
    let added = added.map_or(0, |added| added.result);
    if added > 0 {
        ctx.event(Classes::SET, "sadd", &key);
    }
    reply.int(added as i64);
    Ok(())
}

pub fn srem(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let removed = ctx.change(&key, Kind::Set, false, |value, _| {
        let removed = args[2..].iter().filter(|member| set::remove(value, member)).count() as u64;
        (removed, removed)
    })?;
    if let Some(removed) = &removed
        && removed.result > 0
    {
        ctx.event(Classes::SET, "srem", &key);
        tell_removed(ctx, &key, removed.removed);
    }
    reply.int(removed.map_or(0, |removed| removed.result) as i64);
    Ok(())
}

pub fn smove(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let (from, to, member) = (ctx.key(args[1]), ctx.key(args[2]), args[3]);
    let from_set = ctx.peek_collection(&from, Kind::Set);
    let has = from_set.map(|set| set.map(|set| Set::new(set).contains(member)));
    // Both keys are looked at in any case: what has expired goes. But without a source, nobody asks for the types.
    let destination = ctx.peek_collection(&to, Kind::Set).map(|_| ());
    let Some(has) = has? else {
        reply.int(0);
        return Ok(());
    };
    destination?;
    reply.int(has as i64);
    if !has || from.bytes == to.bytes {
        return Ok(());
    }
    let removed = ctx.change(&from, Kind::Set, false, |value, _| (set::remove(value, member), 1))?;
    ctx.event(Classes::SET, "srem", &from);
    tell_removed(ctx, &from, removed.is_some_and(|removed| removed.removed));
    let added = ctx.change(&to, Kind::Set, true, |value, thresholds| {
        let added = set::add(value, member, thresholds);
        (added, added as u64)
    })?;
    ctx.effect_is(&[b"SREM", from.bytes, member]);
    if added.is_some_and(|added| added.result) {
        ctx.event(Classes::SET, "sadd", &to);
        ctx.effect_is(&[b"SADD", to.bytes, member]);
    }
    Ok(())
}
