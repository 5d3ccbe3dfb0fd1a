//! Sets: rows of the table, and the commands that read one set.
//!
//! They run on the core that owns the key; those on several sets touch only keys named in their arguments, so that they
//! also run on a scratch shard to which entries of other cores were brought.

mod algebra;
mod change;
mod draw;

use super::elements::{Found, Walk, WalkOptions, parse_cursor};
use super::{Args, Command, Ctx, Flags, KeySpec};
use crate::collection::set::{Member, Set};
use crate::command::table::access;
use crate::resp::{Error, Reply};
use crate::route::Key;
use crate::shard::{Classes, Kind};

const READ: Flags = Flags::READONLY;
const READ_FAST: Flags = Flags::READONLY.or(Flags::FAST);
const WRITE: Flags = Flags::WRITE.or(Flags::DENYOOM);
const WRITE_FAST: Flags = WRITE.or(Flags::FAST);
/// Writes that Redis lets through when memory is full: they need no more than they free.
const SHRINK_FAST: Flags = Flags::WRITE.or(Flags::FAST);

const ONE: KeySpec = KeySpec::ONE;
const ALL: KeySpec = KeySpec::ALL;
const SET: &str = "set";
const O_1: &str = "O(1)";
const O_SET: &str = "O(N), N being the number of members.";
const O_ARGS: &str = "O(N), N being the number of members named.";
const O_INTER: &str = "O(N*M), N being the size of the smallest set and M the number of sets.";
const O_ALL: &str = "O(N), N being the number of members of all sets.";

pub static COMMANDS: &[Command] =
    &[
        Command::keyspace("sadd", -3, WRITE_FAST, ONE, change::sadd).access(&[access::INSERT]).doc(
            SET,
            "1.0.0",
            O_ARGS,
            "Adds members to a set, and creates it if it is not there.",
        ),
        Command::keyspace("srem", -3, SHRINK_FAST, ONE, change::srem).access(&[access::DELETE]).doc(
            SET,
            "1.0.0",
            O_ARGS,
            "Removes members from a set.",
        ),
        Command::keyspace("smove", 4, SHRINK_FAST, KeySpec::TWO, change::smove)
            .access(&[access::TAKE, access::INSERT])
            .doc(SET, "1.0.0", O_1, "Moves a member from one set to another."),
        Command::keyspace("sismember", 3, READ_FAST, ONE, sismember).access(&[access::LOOK]).doc(
            SET,
            "1.0.0",
            O_1,
            "Tells whether something is a member of a set.",
        ),
        Command::keyspace("smismember", -3, READ_FAST, ONE, smismember).doc(
            SET,
            "6.2.0",
            O_ARGS,
            "Tells of several things whether they are members of a set.",
        ),
        Command::keyspace("scard", 2, READ_FAST, ONE, scard).access(&[access::LOOK]).doc(
            SET,
            "1.0.0",
            O_1,
            "Returns the number of members of a set.",
        ),
        Command::keyspace("smembers", 2, READ, ONE, smembers).doc(SET, "1.0.0", O_SET, "Returns all members of a set."),
        Command::keyspace("spop", -2, SHRINK_FAST, ONE, draw::spop).access(&[access::TAKE]).doc(
            SET,
            "1.0.0",
            "O(N), N being the number of members returned.",
            "Removes and returns random members of a set.",
        ),
        Command::keyspace("srandmember", -2, READ, ONE, draw::srandmember).doc(
            SET,
            "1.0.0",
            "O(N), N being the number of members returned.",
            "Returns random members of a set.",
        ),
        Command::keyspace("sinter", -2, READ, ALL, algebra::sinter).doc(
            SET,
            "1.0.0",
            O_INTER,
            "Returns the members that are in all of several sets.",
        ),
        Command::keyspace("sintercard", -3, READ, KeySpec::COUNTED, algebra::sintercard).doc(
            SET,
            "7.0.0",
            O_INTER,
            "Counts the members that are in all of several sets.",
        ),
        Command::keyspace("sinterstore", -3, WRITE, ALL, algebra::sinterstore)
            .access(&[access::UPDATE, access::READ])
            .doc(SET, "1.0.0", O_INTER, "Stores the members that are in all of several sets."),
        Command::keyspace("sunion", -2, READ, ALL, algebra::sunion).doc(
            SET,
            "1.0.0",
            O_ALL,
            "Returns the members that are in any of several sets.",
        ),
        Command::keyspace("sunionstore", -3, WRITE, ALL, algebra::sunionstore)
            .access(&[access::OVERWRITE, access::READ])
            .doc(SET, "1.0.0", O_ALL, "Stores the members that are in any of several sets."),
        Command::keyspace("sdiff", -2, READ, ALL, algebra::sdiff).doc(
            SET,
            "1.0.0",
            O_ALL,
            "Returns the members of a set that are in no other.",
        ),
        Command::keyspace("sdiffstore", -3, WRITE, ALL, algebra::sdiffstore)
            .access(&[access::OVERWRITE, access::READ])
            .doc(SET, "1.0.0", O_ALL, "Stores the members of a set that are in no other."),
        Command::keyspace("sscan", -3, READ, ONE, sscan).doc(
            SET,
            "2.8.0",
            "O(1) for each call, O(N) for a whole iteration, N being the number of members.",
            "Lists the members of a set in small steps.",
        ),
    ];

/// The set at `key`, for a command that reads it.
#[inline]
fn read<'c>(ctx: &'c mut Ctx, key: &Key) -> Result<Option<Set<'c>>, Error> {
    Ok(ctx.collection(key, Kind::Set)?.map(Set::new))
}

/// Tells of a set that has lost its last member.
fn tell_removed(ctx: &mut Ctx, key: &Key, removed: bool) {
    if removed {
        ctx.event(Classes::GENERIC, "del", key);
    }
}

#[inline]
fn reply_member(reply: &mut Reply, member: Member) {
    match member {
        Member::Int(number) => reply.bulk_int(number),
        Member::Bytes(bytes) => reply.bulk(bytes),
    }
}

fn reply_set(reply: &mut Reply, set: Set) {
    reply.set(set.len());
    set.visit(|member| reply_member(reply, member));
}

fn sismember(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let is_member = read(ctx, &key)?.is_some_and(|set| set.contains(args[2]));
    reply.int(is_member as i64);
    Ok(())
}

fn smismember(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let set = read(ctx, &key)?;
    reply.array(args.len() - 2);
    for member in &args[2..] {
        reply.int(set.is_some_and(|set| set.contains(member)) as i64);
    }
    Ok(())
}

fn scard(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let len = read(ctx, &key)?.map_or(0, |set| set.len());
    reply.int(len as i64);
    Ok(())
}

fn smembers(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    match read(ctx, &key)? {
        Some(set) => reply_set(reply, set),
        None => reply.set(0),
    }
    Ok(())
}

fn sscan(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let cursor = parse_cursor(args[2]).ok_or(Error::InvalidCursor)?;
    let key = ctx.key(args[1]);
    let mut found = Found::default();
    let Some(set) = read(ctx, &key)? else {
        found.write_walk(0, reply);
        return Ok(());
    };
    let options = WalkOptions::parse(&args[3..], Walk::Members)?;
    let mut digits = itoa::Buffer::new();
    let next = set.scan(cursor, options.count, |member| {
        let text = member.text(&mut digits);
        if options.want(text) {
            found.add(text, reply);
        }
    });
    found.write_walk(next, reply);
    Ok(())
}

#[cfg(test)]
mod tests;
