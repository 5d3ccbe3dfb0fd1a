//! KEYS, SCAN, RANDOMKEY: walks over the keyspace.
//!
//! A SCAN cursor is `partition << 32 | position`: the position inside the partition's table from which the walk goes on.
//! The command runs on the core that owns the partition, goes on through that core's later partitions, and at the end of
//! its range returns the first partition of the next core. 0 is the start, and, as a walk never returns to it, also the
//! end. A cursor outlives resizing of the tables and carries no state of the server.

use super::{Args, Ctx};
use crate::command::elements::{Found, Walk, WalkOptions, parse_cursor};
use crate::resp::{Error, Reply};
use crate::shard::Kind;

/// Partitions that one SCAN looks at, however few keys they hold. An iteration over an empty core of 16384 partitions
/// takes sixteen calls; with the default number of partitions it takes one.
const SCAN_PARTITIONS_MAX: usize = 1024;

/// The partition in the cursor of a SCAN; its owner runs the command. None if there is no such partition on any node:
/// then every core gives the right answer. The caller compares with the number of partitions.
pub fn scan_partition(args: Args) -> Option<u16> {
    u16::try_from(parse_cursor(args.get(1)?)? >> 32).ok()
}

/// Whether a key is wanted. A type that does not exist has no keys.
fn want(options: &WalkOptions, key: &[u8], kind: Kind) -> bool {
    options.kind.is_none_or(|name| name.eq_ignore_ascii_case(kind.name().as_bytes())) && options.want(key)
}

pub fn scan(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let cursor = parse_cursor(args[1]).ok_or(Error::InvalidCursor)?;
    let options = WalkOptions::parse(&args[2..], Walk::Keys)?;
    let mut found = Found::default();
    let next = walk(ctx, cursor, &options, |key| found.add(key, reply));
    found.write_walk(next, reply);
    Ok(())
}

/// Goes on from `cursor` until enough entries were visited; returns the next cursor.
fn walk(ctx: &mut Ctx, cursor: u64, options: &WalkOptions, mut found: impl FnMut(&[u8])) -> u64 {
    let range = ctx.shard.partitions();
    // Only a client to whom this core is a node begins elsewhere than at the first core.
    let cursor = if cursor == 0 { u64::from(range.start) << 32 } else { cursor };
    let (mut partition, mut position) = (cursor >> 32, cursor as u32);
    // A cursor that this node never gave out: nothing is there.
    if !range.contains(&(partition.min(u16::MAX as u64) as u16)) || partition > u16::MAX as u64 {
        return 0;
    }
    let mut left = options.count;
    for _ in 0..SCAN_PARTITIONS_MAX {
        let mut visited = 0;
        let next = ctx.shard.scan(ctx.db, partition as u16, position, left, |key, kind| {
            visited += 1;
            if want(options, key, kind) {
                found(key);
            }
        });
        if let Some(position) = next {
            return partition << 32 | position as u64;
        }
        left = left.saturating_sub(visited);
        (partition, position) = (partition + 1, 0);
        if partition == range.end as u64 || left == 0 {
            break;
        }
    }
    if partition == ctx.hasher.partitions() as u64 { 0 } else { partition << 32 }
}

pub fn keys(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let pattern = Some(args[1]).filter(|&p| p != b"*");
    let options = WalkOptions { count: usize::MAX, pattern, kind: None, no_values: false };
    let mut found = Found::default();
    for partition in ctx.shard.partitions() {
        ctx.shard.scan(ctx.db, partition, 0, usize::MAX, |key, kind| {
            if want(&options, key, kind) {
                found.add(key, reply);
            }
        });
    }
    found.write_array(reply);
    Ok(())
}

/// The part of one core: `[number of its keys, one of them or nil]`. The parts of all cores become one bulk string: a
/// core is drawn by its number of keys.
pub fn randomkey(ctx: &mut Ctx, _args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.shard.random_key(ctx.db, ctx.random);
    reply.array(2);
    match key {
        Some(key) => {
            reply.int(ctx.shard.size(ctx.db).keys as i64);
            reply.bulk(&key);
        }
        // Keys may be left that have expired; they must not be drawn.
        None => {
            reply.int(0);
            reply.null();
        }
    }
    Ok(())
}
