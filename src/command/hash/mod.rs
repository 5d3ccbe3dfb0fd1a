//! Hashes: rows of the table, and the commands that read.
//!
//! They run on the core that owns the key.

mod change;
mod draw;
mod expire;

use super::elements::{Found, Walk, WalkOptions, parse_cursor};
use super::{Args, Command, Ctx, Flags, KeySpec};
use crate::collection::ValueRef;
use crate::collection::hash::Hash;
use crate::command::table::access;
use crate::resp::{Error, Reply};
use crate::route::Key;
use crate::shard::Kind;

const READ: Flags = Flags::READONLY;
const READ_FAST: Flags = Flags::READONLY.or(Flags::FAST);
const WRITE_FAST: Flags = Flags::WRITE.or(Flags::DENYOOM).or(Flags::FAST);
/// Writes that never need more memory.
const SHRINK_FAST: Flags = Flags::WRITE.or(Flags::FAST);

const ONE: KeySpec = KeySpec::ONE;
const HASH: &str = "hash";
const O_1: &str = "O(1)";
const O_HASH: &str = "O(N), N being the number of fields of the hash.";
const O_ARGS: &str = "O(N), N being the number of fields named.";

pub static COMMANDS: &[Command] = &[
    Command::keyspace("hset", -4, WRITE_FAST, ONE, change::hset).doc(
        HASH,
        "2.0.0",
        O_ARGS,
        "Sets fields of a hash, and creates it if it is not there.",
    ),
    Command::keyspace("hsetnx", 4, WRITE_FAST, ONE, change::hsetnx).access(&[access::INSERT]).doc(
        HASH,
        "2.0.0",
        O_1,
        "Sets a field of a hash that does not exist.",
    ),
    Command::keyspace("hmset", -4, WRITE_FAST, ONE, change::hmset).doc(
        HASH,
        "2.0.0",
        O_ARGS,
        "Sets fields of a hash; the old name of HSET.",
    ),
    Command::keyspace("hdel", -3, SHRINK_FAST, ONE, change::hdel).access(&[access::DELETE]).doc(
        HASH,
        "2.0.0",
        O_ARGS,
        "Removes fields of a hash.",
    ),
    Command::keyspace("hincrby", 4, WRITE_FAST, ONE, change::hincrby).access(&[access::CHANGE]).doc(
        HASH,
        "2.0.0",
        O_1,
        "Adds a number to the integer in a field of a hash.",
    ),
    Command::keyspace("hincrbyfloat", 4, WRITE_FAST, ONE, change::hincrbyfloat).access(&[access::CHANGE]).doc(
        HASH,
        "2.6.0",
        O_1,
        "Adds a number to the floating-point number in a field of a hash.",
    ),
    Command::keyspace("hget", 3, READ_FAST, ONE, hget).doc(HASH, "2.0.0", O_1, "Returns the value of a field."),
    Command::keyspace("hmget", -3, READ_FAST, ONE, hmget).doc(
        HASH,
        "2.0.0",
        O_ARGS,
        "Returns the values of several fields.",
    ),
    Command::keyspace("hgetall", 2, READ, ONE, hgetall).doc(
        HASH,
        "2.0.0",
        O_HASH,
        "Returns all fields of a hash and their values.",
    ),
    Command::keyspace("hkeys", 2, READ, ONE, hkeys).doc(HASH, "2.0.0", O_HASH, "Returns all fields of a hash."),
    Command::keyspace("hvals", 2, READ, ONE, hvals).doc(HASH, "2.0.0", O_HASH, "Returns all values of a hash."),
    Command::keyspace("hlen", 2, READ_FAST, ONE, hlen).access(&[access::LOOK]).doc(
        HASH,
        "2.0.0",
        O_1,
        "Returns the number of fields.",
    ),
    Command::keyspace("hstrlen", 3, READ_FAST, ONE, hstrlen).access(&[access::LOOK]).doc(
        HASH,
        "3.2.0",
        O_1,
        "Returns the length of the value of a field.",
    ),
    Command::keyspace("hexists", 3, READ_FAST, ONE, hexists).access(&[access::LOOK]).doc(
        HASH,
        "2.0.0",
        O_1,
        "Tells whether a field of a hash exists.",
    ),
    Command::keyspace("hrandfield", -2, READ, ONE, draw::hrandfield).doc(
        HASH,
        "6.2.0",
        "O(N), N being the number of fields returned.",
        "Returns random fields of a hash.",
    ),
    Command::keyspace("hscan", -3, READ, ONE, hscan).doc(
        HASH,
        "2.8.0",
        "O(1) for each call, O(N) for a whole iteration, N being the number of fields.",
        "Lists the fields of a hash, and their values, in small steps.",
    ),
    Command::keyspace("hexpire", -6, WRITE_FAST, ONE, expire::hexpire).access(&[access::UPDATE]).doc(
        HASH,
        "7.4.0",
        O_ARGS,
        "Sets after how many seconds fields of a hash expire.",
    ),
    Command::keyspace("hpexpire", -6, WRITE_FAST, ONE, expire::hpexpire).access(&[access::UPDATE]).doc(
        HASH,
        "7.4.0",
        O_ARGS,
        "Sets after how many milliseconds fields of a hash expire.",
    ),
    Command::keyspace("hexpireat", -6, WRITE_FAST, ONE, expire::hexpireat).access(&[access::UPDATE]).doc(
        HASH,
        "7.4.0",
        O_ARGS,
        "Sets the Unix time, in seconds, at which fields of a hash expire.",
    ),
    Command::keyspace("hpexpireat", -6, WRITE_FAST, ONE, expire::hpexpireat).access(&[access::UPDATE]).doc(
        HASH,
        "7.4.0",
        O_ARGS,
        "Sets the Unix time, in milliseconds, at which fields of a hash expire.",
    ),
    Command::keyspace("httl", -5, READ_FAST, ONE, expire::httl).doc(
        HASH,
        "7.4.0",
        O_ARGS,
        "Returns how many seconds are left to fields of a hash.",
    ),
    Command::keyspace("hpttl", -5, READ_FAST, ONE, expire::hpttl).doc(
        HASH,
        "7.4.0",
        O_ARGS,
        "Returns how many milliseconds are left to fields of a hash.",
    ),
    Command::keyspace("hexpiretime", -5, READ_FAST, ONE, expire::hexpiretime).doc(
        HASH,
        "7.4.0",
        O_ARGS,
        "Returns the Unix time, in seconds, at which fields of a hash expire.",
    ),
    Command::keyspace("hpexpiretime", -5, READ_FAST, ONE, expire::hpexpiretime).doc(
        HASH,
        "7.4.0",
        O_ARGS,
        "Returns the Unix time, in milliseconds, at which fields of a hash expire.",
    ),
    Command::keyspace("hpersist", -5, SHRINK_FAST, ONE, expire::hpersist).access(&[access::UPDATE]).doc(
        HASH,
        "7.4.0",
        O_ARGS,
        "Takes the expiry of fields of a hash away.",
    ),
];

/// The hash at `key`, for a command that reads it; an empty one if there is none.
#[inline]
fn read<'c>(ctx: &'c mut Ctx, key: &Key) -> Result<Hash<'c>, Error> {
    let now = ctx.now();
    Ok(Hash::at(ctx.collection(key, Kind::Hash)?.unwrap_or(ValueRef::Compact(&[])), now))
}

#[inline]
fn reply_text(reply: &mut Reply, text: Option<&[u8]>) {
    match text {
        Some(text) => reply.bulk(text),
        None => reply.null(),
    }
}

fn hget(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    reply_text(reply, read(ctx, &key)?.get(args[2]));
    Ok(())
}

fn hmget(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let hash = read(ctx, &key)?;
    reply.array(args.len() - 2);
    args[2..].iter().for_each(|field| reply_text(reply, hash.get(field)));
    Ok(())
}

fn hgetall(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let hash = read(ctx, &key)?;
    reply.map(hash.len());
    hash.visit(|(field, text)| {
        reply.bulk(field);
        reply.bulk(text);
    });
    Ok(())
}

fn hkeys(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let hash = read(ctx, &key)?;
    reply.array(hash.len());
    hash.visit(|(field, _)| reply.bulk(field));
    Ok(())
}

fn hvals(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let hash = read(ctx, &key)?;
    reply.array(hash.len());
    hash.visit(|(_, text)| reply.bulk(text));
    Ok(())
}

fn hlen(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    reply.int(read(ctx, &key)?.len() as i64);
    Ok(())
}

fn hstrlen(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    reply.int(read(ctx, &key)?.get(args[2]).map_or(0, <[u8]>::len) as i64);
    Ok(())
}

fn hexists(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    reply.int(read(ctx, &key)?.get(args[2]).is_some() as i64);
    Ok(())
}

fn hscan(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let cursor = parse_cursor(args[2]).ok_or(Error::InvalidCursor)?;
    let key = ctx.key(args[1]);
    let hash = read(ctx, &key)?;
    let mut found = Found::default();
    // A hash that does not exist is not worth reading the options for, as in Redis.
    if hash.is_empty() {
        found.write_walk(0, reply);
        return Ok(());
    }
    let options = WalkOptions::parse(&args[3..], Walk::Fields)?;
    let next = hash.scan(cursor, options.count, |(field, text)| {
        if options.want(field) {
            found.add(field, reply);
            if !options.no_values {
                found.add(text, reply);
            }
        }
    });
    found.write_walk(next, reply);
    Ok(())
}

#[cfg(test)]
mod expire_model;
#[cfg(test)]
mod expire_tests;
#[cfg(test)]
mod tests;
