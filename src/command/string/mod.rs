//! Strings: rows of the table, and the commands that read or write whole values.
//!
//! They run on the core that owns the key. Commands with several keys touch only keys named in their arguments, so that
//! they also run on a scratch shard to which entries of other cores were brought.

mod count;
mod lcs;
mod range;
mod set;

use super::{Args, Command, Ctx, Flags, KeySpec, Merge};
use crate::command::table::access;
use crate::resp::{Error, Reply};
use crate::route::Key;
use crate::shard::{Classes, EntryRef, Expiry, Kind, Str};

const READ: Flags = Flags::READONLY;
const READ_FAST: Flags = Flags::READONLY.or(Flags::FAST);
const WRITE: Flags = Flags::WRITE.or(Flags::DENYOOM);
const WRITE_FAST: Flags = WRITE.or(Flags::FAST);
/// Writes that never need more memory.
const SHRINK_FAST: Flags = Flags::WRITE.or(Flags::FAST);

const ONE: KeySpec = KeySpec::ONE;
const O_1: &str = "O(1)";
const O_KEYS: &str = "O(N), N being the number of keys.";
const O_RESULT: &str = "O(N), N being the length of the returned string.";
const STRING: &str = "string";

pub static COMMANDS: &[Command] = &[
    Command::keyspace("get", 2, READ_FAST, ONE, get).doc(STRING, "1.0.0", O_1, "Returns the string value of a key."),
    Command::keyspace("set", -3, WRITE, ONE, set::set).doc(
        STRING,
        "1.0.0",
        O_1,
        "Sets the string value of a key, optionally with an expiry or under a condition.",
    ),
    Command::keyspace("setnx", 3, WRITE_FAST, ONE, set::setnx).access(&[access::CREATE]).doc(
        STRING,
        "1.0.0",
        O_1,
        "Sets the string value of a key that does not exist.",
    ),
    Command::keyspace("setex", 4, WRITE, ONE, set::setex).access(&[access::OVERWRITE]).doc(
        STRING,
        "2.0.0",
        O_1,
        "Sets the string value of a key and its time to live in seconds.",
    ),
    Command::keyspace("psetex", 4, WRITE, ONE, set::psetex).access(&[access::OVERWRITE]).doc(
        STRING,
        "2.6.0",
        O_1,
        "Sets the string value of a key and its time to live in milliseconds.",
    ),
    Command::keyspace("getset", 3, WRITE_FAST, ONE, set::getset).access(&[access::CHANGE]).doc(
        STRING,
        "1.0.0",
        O_1,
        "Sets the string value of a key and returns the previous one.",
    ),
    Command::keyspace("getex", -2, SHRINK_FAST, ONE, set::getex).access(&[access::CHANGE]).doc(
        STRING,
        "6.2.0",
        O_1,
        "Returns the string value of a key and changes its expiry.",
    ),
    Command::keyspace("getdel", 2, SHRINK_FAST, ONE, getdel).access(&[access::TAKE]).doc(
        STRING,
        "6.2.0",
        O_1,
        "Returns the string value of a key and removes the key.",
    ),
    Command::keyspace("mget", -2, READ_FAST, KeySpec::ALL, mget).dealt(Merge::InKeyOrder).doc(
        STRING,
        "1.0.0",
        O_KEYS,
        "Returns the string values of several keys.",
    ),
    Command::keyspace("mset", -3, WRITE, KeySpec::PAIRS, mset).dealt(Merge::First).access(&[access::OVERWRITE]).doc(
        STRING,
        "1.0.1",
        O_KEYS,
        "Sets the string values of several keys.",
    ),
    Command::keyspace("msetnx", -3, WRITE, KeySpec::PAIRS, msetnx).access(&[access::CREATE]).doc(
        STRING,
        "1.0.1",
        O_KEYS,
        "Sets the string values of several keys if none of them exists.",
    ),
    Command::keyspace("incr", 2, WRITE_FAST, ONE, count::incr).access(&[access::CHANGE]).doc(
        STRING,
        "1.0.0",
        O_1,
        "Adds one to an integer.",
    ),
    Command::keyspace("decr", 2, WRITE_FAST, ONE, count::decr).access(&[access::CHANGE]).doc(
        STRING,
        "1.0.0",
        O_1,
        "Subtracts one from an integer.",
    ),
    Command::keyspace("incrby", 3, WRITE_FAST, ONE, count::incrby).access(&[access::CHANGE]).doc(
        STRING,
        "1.0.0",
        O_1,
        "Adds a number to an integer.",
    ),
    Command::keyspace("decrby", 3, WRITE_FAST, ONE, count::decrby).access(&[access::CHANGE]).doc(
        STRING,
        "1.0.0",
        O_1,
        "Subtracts a number from an integer.",
    ),
    Command::keyspace("incrbyfloat", 3, WRITE_FAST, ONE, count::incrbyfloat).access(&[access::CHANGE]).doc(
        STRING,
        "2.6.0",
        O_1,
        "Adds a number to a floating-point number.",
    ),
    Command::keyspace("append", 3, WRITE_FAST, ONE, range::append).access(&[access::INSERT]).doc(
        STRING,
        "2.0.0",
        "O(1) amortized over many appends, plus the length of the argument.",
        "Appends to the string value of a key.",
    ),
    Command::keyspace("strlen", 2, READ_FAST, ONE, range::strlen).access(&[access::LOOK]).doc(
        STRING,
        "2.2.0",
        O_1,
        "Returns the length of the string value of a key.",
    ),
    Command::keyspace("getrange", 4, READ, ONE, range::getrange).doc(
        STRING,
        "2.4.0",
        O_RESULT,
        "Returns a part of the string value of a key.",
    ),
    Command::keyspace("substr", 4, READ, ONE, range::getrange).doc(
        STRING,
        "1.0.0",
        O_RESULT,
        "Returns a part of the string value of a key; the old name of GETRANGE.",
    ),
    Command::keyspace("setrange", 4, WRITE, ONE, range::setrange).doc(
        STRING,
        "2.2.0",
        "O(N), N being the length of the argument plus that of the padding.",
        "Overwrites a part of the string value of a key.",
    ),
    Command::keyspace("lcs", -3, READ, KeySpec::TWO, lcs::lcs).doc(
        STRING,
        "7.0.0",
        "O(N*M), N and M being the lengths of the strings.",
        "Finds the longest common subsequence of two strings.",
    ),
];

/// The string at `key`, for a command that reads it.
#[inline]
fn read<'c>(ctx: &'c mut Ctx, key: &Key) -> Result<Option<Str<'c>>, Error> {
    string_of(ctx.read(key))
}

/// The string at `key`, for a command that is about to write it.
#[inline]
fn peek<'c>(ctx: &'c mut Ctx, key: &Key) -> Result<Option<Str<'c>>, Error> {
    string_of(ctx.peek(key))
}

#[inline]
fn string_of(entry: Option<EntryRef<'_>>) -> Result<Option<Str<'_>>, Error> {
    match entry {
        None => Ok(None),
        Some(entry) if entry.kind == Kind::String => Ok(Some(entry.value)),
        Some(_) => Err(Error::WrongType),
    }
}

/// Writes a value or its absence.
#[inline(always)]
fn reply_string(reply: &mut Reply, value: Option<Str>) {
    match value {
        Some(Str::Inline(bytes)) => reply.bulk(bytes),
        Some(Str::Large(value)) => reply.bulk_shared(value),
        None => reply.null(),
    }
}

fn get(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    reply_string(reply, read(ctx, &key)?);
    Ok(())
}

fn getdel(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    reply_string(reply, read(ctx, &key)?);
    if ctx.remove(&key) {
        ctx.event(Classes::GENERIC, "del", &key);
        ctx.effect_is(&[b"DEL", args[1]]);
    }
    Ok(())
}

fn mget(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    reply.array(args.len() - 1);
    for &arg in &args[1..] {
        let key = ctx.key(arg);
        // A key of another type is as good as none.
        reply_string(reply, read(ctx, &key).unwrap_or(None));
    }
    Ok(())
}

/// The arity alone lets an argument without a value through.
fn pairs_only(args: Args, name: &str) -> Result<(), Error> {
    if args.len() % 2 == 1 { Ok(()) } else { Err(Error::Arity(name.into())) }
}

fn set_pairs(ctx: &mut Ctx, args: Args) {
    for at in (1..args.len()).step_by(2) {
        let key = ctx.key(args[at]);
        ctx.set_arg(&key, args, at + 1, Expiry::Never);
        ctx.event(Classes::STRING, "set", &key);
        ctx.effect_is(&[b"SET", key.bytes, args[at + 1]]);
    }
}

fn mset(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    pairs_only(args, "mset")?;
    set_pairs(ctx, args);
    reply.ok();
    Ok(())
}

fn msetnx(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    pairs_only(args, "msetnx")?;
    for at in (1..args.len()).step_by(2) {
        let key = ctx.key(args[at]);
        if ctx.peek(&key).is_some() {
            reply.int(0);
            return Ok(());
        }
    }
    set_pairs(ctx, args);
    reply.int(1);
    Ok(())
}

#[cfg(test)]
mod tests;
