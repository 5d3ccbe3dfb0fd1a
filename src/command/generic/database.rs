//! Whole databases: DBSIZE, FLUSHDB, FLUSHALL, SWAPDB. Every core runs them on its part.

use super::super::number::parse_i64;
use super::{Args, Ctx};
use crate::resp::{Error, Reply};

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
    ctx.shard.flush(ctx.db);
    // Also if nothing was here: the core that logs it need not be one that had keys.
    ctx.changes += 1;
    reply.ok();
    Ok(())
}

pub fn flushall(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    check_mode(args)?;
    for db in 0..ctx.shard.databases() {
        ctx.shard.flush(db);
    }
    ctx.changes += 1;
    reply.ok();
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
