//! Whole databases: DBSIZE, FLUSHDB, FLUSHALL, SWAPDB. Every core runs them on its part.
//!
//! In a cluster a flush is logged as FLUSHPARTITION for each partition that had keys: who follows some of a node's partitions
//! can leave the others out.

use super::super::number::parse_i64;
use super::{Args, Ctx};
use crate::resp::{Error, Reply};
use crate::route::slot::short_key;

pub fn dbsize(ctx: &mut Ctx, _args: Args, reply: &mut Reply) -> Result<(), Error> {
    reply.int(ctx.shard.size(ctx.db).keys as i64);
    Ok(())
}

/// ASYNC and SYNC are accepted; both remove at once.
fn check_mode(args: Args) -> Result<(), Error> {
    match args[1..] {
        [] => Ok(()),
        [mode] if mode.eq_ignore_ascii_case(b"async") || mode.eq_ignore_ascii_case(b"sync") => Ok(()),
        _ => Err(Error::Syntax),
    }
}

pub fn flushdb(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    check_mode(args)?;
    if ctx.shard.has_roles() {
        return flush_partitions(ctx, reply);
    }
    ctx.shard.flush(ctx.db);
    // Also if nothing was here: the core that logs it need not be one that had keys.
    ctx.changes += 1;
    reply.ok();
    Ok(())
}

pub fn flushall(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    check_mode(args)?;
    if ctx.shard.has_roles() {
        return flush_partitions(ctx, reply);
    }
    for db in 0..ctx.shard.databases() {
        ctx.shard.flush(db);
    }
    ctx.changes += 1;
    reply.ok();
    Ok(())
}

fn flush_partitions(ctx: &mut Ctx, reply: &mut Reply) -> Result<(), Error> {
    let partitions = ctx.hasher.partitions();
    for partition in ctx.shard.partitions() {
        if ctx.shard.partition_size(ctx.db, partition) > 0 {
            ctx.effect_is(&[b"FLUSHPARTITION", &short_key(partition, partitions)]);
        }
    }
    ctx.shard.flush(ctx.db);
    ctx.changes += 1;
    // Where there were no keys, there is nothing to be logged.
    ctx.logged = true;
    reply.ok();
    Ok(())
}

pub fn flushpartition(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let partition = ctx.key(args[1]).partition;
    ctx.changes += 1;
    reply.int(ctx.shard.drop_partition(ctx.db, partition) as i64);
    Ok(())
}

pub fn swapdb(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let index =
        |arg: &[u8], which| parse_i64(arg).ok().and_then(|index| i32::try_from(index).ok()).ok_or(Error::SwapDb(which));
    let (a, b) = (index(args[1], "first")?, index(args[2], "second")?);
    let in_range = |index| usize::try_from(index).ok().filter(|&i| i < ctx.shard.databases()).ok_or(Error::DbRange);
    let (a, b) = (in_range(a)?, in_range(b)?);
    if a != b {
        ctx.shard.swap(a, b);
        ctx.changes += 1;
    }
    reply.ok();
    Ok(())
}
