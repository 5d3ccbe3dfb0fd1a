//! Lists: rows of the table, and the commands on one list.
//!
//! They run on the core that owns the key; those that move elements between two lists are in [`transfer`].

mod change;
mod position;
pub mod transfer;

use super::number::parse_i64;
use super::{Args, Command, Ctx, Flags, KeySpec};
use crate::collection::list::{End, List};
use crate::command::table::access;
use crate::resp::{Error, Reply};
use crate::route::Key;
use crate::shard::{Classes, Kind};

const READ: Flags = Flags::READONLY;
const READ_FAST: Flags = Flags::READONLY.or(Flags::FAST);
const WRITE: Flags = Flags::WRITE.or(Flags::DENYOOM);
const WRITE_FAST: Flags = WRITE.or(Flags::FAST);
/// Writes that never need more memory.
const SHRINK: Flags = Flags::WRITE;
const SHRINK_FAST: Flags = Flags::WRITE.or(Flags::FAST);

const ONE: KeySpec = KeySpec::ONE;
const LIST: &str = "list";
const O_1: &str = "O(1)";
const O_PUSHED: &str = "O(N), N being the number of elements pushed.";
const O_POPPED: &str = "O(N), N being the number of elements returned.";
const O_WALK: &str = "O(N), N being the number of elements walked over; O(1) at both ends.";
const O_LIST: &str = "O(N), N being the length of the list.";

pub static COMMANDS: &[Command] =
    &[
        Command::keyspace("lpush", -3, WRITE_FAST, ONE, change::lpush).access(&[access::INSERT]).doc(
            LIST,
            "1.0.0",
            O_PUSHED,
            "Prepends elements to a list, and creates it if it is not there.",
        ),
        Command::keyspace("rpush", -3, WRITE_FAST, ONE, change::rpush).access(&[access::INSERT]).doc(
            LIST,
            "1.0.0",
            O_PUSHED,
            "Appends elements to a list, and creates it if it is not there.",
        ),
        Command::keyspace("lpushx", -3, WRITE_FAST, ONE, change::lpushx).access(&[access::INSERT]).doc(
            LIST,
            "2.2.0",
            O_PUSHED,
            "Prepends elements to a list that is there.",
        ),
        Command::keyspace("rpushx", -3, WRITE_FAST, ONE, change::rpushx).access(&[access::INSERT]).doc(
            LIST,
            "2.2.0",
            O_PUSHED,
            "Appends elements to a list that is there.",
        ),
        Command::keyspace("lpop", -2, SHRINK_FAST, ONE, change::lpop).access(&[access::TAKE]).doc(
            LIST,
            "1.0.0",
            O_POPPED,
            "Removes and returns the first elements of a list.",
        ),
        Command::keyspace("rpop", -2, SHRINK_FAST, ONE, change::rpop).access(&[access::TAKE]).doc(
            LIST,
            "1.0.0",
            O_POPPED,
            "Removes and returns the last elements of a list.",
        ),
        Command::keyspace("llen", 2, READ_FAST, ONE, llen).access(&[access::LOOK]).doc(
            LIST,
            "1.0.0",
            O_1,
            "Returns the length of a list.",
        ),
        Command::keyspace("lindex", 3, READ, ONE, lindex).doc(
            LIST,
            "1.0.0",
            O_WALK,
            "Returns an element of a list by its index.",
        ),
        Command::keyspace("lrange", 4, READ, ONE, lrange).doc(
            LIST,
            "1.0.0",
            "O(S+N), S being the distance of the first element from the nearer end, N the number of elements returned.",
            "Returns a range of elements of a list.",
        ),
        Command::keyspace("lpos", -3, READ, ONE, position::lpos).doc(
            LIST,
            "6.0.6",
            O_LIST,
            "Returns the indexes of elements that equal a given one.",
        ),
        Command::keyspace("lset", 4, WRITE, ONE, change::lset).doc(
            LIST,
            "1.0.0",
            O_WALK,
            "Sets an element of a list by its index.",
        ),
        Command::keyspace("linsert", 5, WRITE, ONE, change::linsert).access(&[access::INSERT]).doc(
            LIST,
            "2.2.0",
            O_WALK,
            "Inserts an element before or after another one of a list.",
        ),
        Command::keyspace("lrem", 4, SHRINK, ONE, change::lrem).access(&[access::DELETE]).doc(
            LIST,
            "1.0.0",
            O_LIST,
            "Removes elements that equal a given one.",
        ),
        Command::keyspace("ltrim", 4, SHRINK, ONE, change::ltrim).access(&[access::DELETE]).doc(
            LIST,
            "1.0.0",
            "O(N), N being the number of elements removed.",
            "Removes the elements at both ends that are outside a range.",
        ),
        Command::keyspace("lmove", 5, WRITE, KeySpec::TWO, transfer::lmove)
            .access(&[access::TAKE, access::INSERT])
            .doc(LIST, "6.2.0", O_1, "Moves an element from one end of a list to one end of another."),
        Command::keyspace("rpoplpush", 3, WRITE, KeySpec::TWO, transfer::rpoplpush)
            .access(&[access::TAKE, access::INSERT])
            .doc(LIST, "1.2.0", O_1, "Moves the last element of a list to the front of another."),
        Command::keyspace("lmpop", -4, SHRINK, KeySpec::COUNTED, transfer::lmpop).access(&[access::TAKE]).doc(
            LIST,
            "7.0.0",
            "O(N+M), N being the number of keys and M the number of elements returned.",
            "Removes and returns elements of the first list that is not empty.",
        ),
    ];

/// The list at `key`, for a command that reads it.
#[inline]
fn read<'c>(ctx: &'c mut Ctx, key: &Key) -> Result<Option<List<'c>>, Error> {
    Ok(ctx.collection(key, Kind::List)?.map(List::new))
}

/// Tells of a list that has lost its last element.
fn tell_removed(ctx: &mut Ctx, key: &Key, removed: bool) {
    if removed {
        ctx.event(Classes::GENERIC, "del", key);
    }
}

/// One of the words LEFT and RIGHT.
pub fn parse_end(word: &[u8]) -> Result<End, Error> {
    match word {
        _ if word.eq_ignore_ascii_case(b"left") => Ok(End::Head),
        _ if word.eq_ignore_ascii_case(b"right") => Ok(End::Tail),
        _ => Err(Error::Syntax),
    }
}

/// An index that may count from the end, as one from the start; None if it lies outside on either side.
fn absolute(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(len as i64)? } else { index };
    usize::try_from(index).ok().filter(|&index| index < len)
}

/// An inclusive range of indexes that may count from the end, as one from the start that is cut to the list: start, and
/// how many.
fn absolute_range(start: i64, stop: i64, len: usize) -> (usize, usize) {
    let from_start = |index: i64| if index < 0 { index.saturating_add(len as i64) } else { index };
    let start = from_start(start).max(0);
    let stop = from_start(stop).min(len as i64 - 1);
    if start > stop { (0, 0) } else { (start as usize, (stop - start + 1) as usize) }
}

fn llen(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let len = read(ctx, &key)?.map_or(0, |list| list.len());
    reply.int(len as i64);
    Ok(())
}

fn lindex(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let Some(list) = read(ctx, &key)? else {
        reply.null();
        return Ok(());
    };
    match absolute(parse_i64(args[2])?, list.len()).and_then(|index| list.get(index)) {
        Some(item) => reply.bulk(item),
        None => reply.null(),
    }
    Ok(())
}

fn lrange(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let (start, stop) = (parse_i64(args[2])?, parse_i64(args[3])?);
    let key = ctx.key(args[1]);
    let Some(list) = read(ctx, &key)? else {
        reply.array(0);
        return Ok(());
    };
    let (start, count) = absolute_range(start, stop, list.len());
    reply.array(count);
    list.iter_from(start).take(count).for_each(|item| reply.bulk(item));
    Ok(())
}

#[cfg(test)]
mod tests;
