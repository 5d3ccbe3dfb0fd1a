//! Sorted sets: rows of the table, and the commands that look at one of them.
//!
//! They run on the core that owns the key; those over several keys are in [`algebra`] and [`range`].

mod add;
mod algebra;
pub mod pop;
mod random;
mod range;
mod score;

use super::number::parse_i64;
use super::{Args, Command, Ctx, Flags, KeySpec};
use crate::collection::sorted::{Items, SortedSet};
use crate::command::table::access;
use crate::resp::{Error, Reply};
use crate::route::Key;
use crate::shard::{Classes, Kind};
use score::parse_score;

const READ: Flags = Flags::READONLY;
const READ_FAST: Flags = Flags::READONLY.or(Flags::FAST);
const WRITE: Flags = Flags::WRITE.or(Flags::DENYOOM);
const WRITE_FAST: Flags = WRITE.or(Flags::FAST);
/// Writes that never need more memory.
const SHRINK: Flags = Flags::WRITE;
const SHRINK_FAST: Flags = Flags::WRITE.or(Flags::FAST);

const ONE: KeySpec = KeySpec::ONE;
const COUNTED: KeySpec = KeySpec::COUNTED;
const STORED: KeySpec = KeySpec::ONE_AND_COUNTED;
const GROUP: &str = "sorted-set";
const O_1: &str = "O(1)";
const O_LOG: &str = "O(log N), N being the number of members.";
const O_EACH: &str = "O(M log N), N being the number of members and M that of the members named.";
const O_RANGE: &str = "O(log N + M), N being the number of members and M that of the members in the range.";
const O_REMOVED: &str = "O(M log N), N being the number of members and M that of the members removed.";
const O_ALGEBRA: &str = "O(N + M log M), N being the number of all members of the inputs and M that of the result.";

pub static COMMANDS: &[Command] = &[
    Command::keyspace("zadd", -4, WRITE_FAST, ONE, add::zadd).doc(
        GROUP,
        "1.2.0",
        O_EACH,
        "Adds members to a sorted set, or changes their scores.",
    ),
    Command::keyspace("zincrby", 4, WRITE_FAST, ONE, add::zincrby).access(&[access::CHANGE]).doc(
        GROUP,
        "1.2.0",
        O_LOG,
        "Adds a number to the score of a member.",
    ),
    Command::keyspace("zrem", -3, SHRINK_FAST, ONE, add::zrem).access(&[access::DELETE]).doc(
        GROUP,
        "1.2.0",
        O_EACH,
        "Removes members from a sorted set.",
    ),
    Command::keyspace("zscore", 3, READ_FAST, ONE, zscore).doc(GROUP, "1.2.0", O_1, "Returns the score of a member."),
    Command::keyspace("zmscore", -3, READ_FAST, ONE, zmscore).doc(
        GROUP,
        "6.2.0",
        "O(M), M being the number of members named.",
        "Returns the scores of members.",
    ),
    Command::keyspace("zcard", 2, READ_FAST, ONE, zcard).access(&[access::LOOK]).doc(
        GROUP,
        "1.2.0",
        O_1,
        "Returns the number of members of a sorted set.",
    ),
    Command::keyspace("zrank", -3, READ_FAST, ONE, zrank).doc(
        GROUP,
        "2.0.0",
        O_LOG,
        "Returns the rank of a member, the lowest score first.",
    ),
    Command::keyspace("zrevrank", -3, READ_FAST, ONE, zrevrank).doc(
        GROUP,
        "2.0.0",
        O_LOG,
        "Returns the rank of a member, the highest score first.",
    ),
    Command::keyspace("zcount", 4, READ_FAST, ONE, range::zcount).doc(
        GROUP,
        "2.0.0",
        O_LOG,
        "Counts the members with scores in a range.",
    ),
    Command::keyspace("zlexcount", 4, READ_FAST, ONE, range::zlexcount).doc(
        GROUP,
        "2.8.9",
        O_LOG,
        "Counts the members in a range of names.",
    ),
    Command::keyspace("zrange", -4, READ, ONE, range::zrange).doc(
        GROUP,
        "1.2.0",
        O_RANGE,
        "Returns the members in a range of ranks, scores or names.",
    ),
    Command::keyspace("zrangestore", -5, WRITE, KeySpec::TWO, range::zrangestore)
        .access(&[access::OVERWRITE, access::READ])
        .doc(GROUP, "6.2.0", O_RANGE, "Stores the members in a range of ranks, scores or names in another key."),
    Command::keyspace("zrevrange", -4, READ, ONE, range::zrevrange).doc(
        GROUP,
        "1.2.0",
        O_RANGE,
        "Returns the members in a range of ranks, the highest score first.",
    ),
    Command::keyspace("zrangebyscore", -4, READ, ONE, range::zrangebyscore).doc(
        GROUP,
        "1.0.5",
        O_RANGE,
        "Returns the members in a range of scores.",
    ),
    Command::keyspace("zrevrangebyscore", -4, READ, ONE, range::zrevrangebyscore).doc(
        GROUP,
        "2.2.0",
        O_RANGE,
        "Returns the members in a range of scores, the highest score first.",
    ),
    Command::keyspace("zrangebylex", -4, READ, ONE, range::zrangebylex).doc(
        GROUP,
        "2.8.9",
        O_RANGE,
        "Returns the members in a range of names.",
    ),
    Command::keyspace("zrevrangebylex", -4, READ, ONE, range::zrevrangebylex).doc(
        GROUP,
        "2.8.9",
        O_RANGE,
        "Returns the members in a range of names, the last name first.",
    ),
    Command::keyspace("zremrangebyrank", 4, SHRINK, ONE, range::zremrangebyrank).access(&[access::DELETE]).doc(
        GROUP,
        "2.0.0",
        O_REMOVED,
        "Removes the members in a range of ranks.",
    ),
    Command::keyspace("zremrangebyscore", 4, SHRINK, ONE, range::zremrangebyscore).access(&[access::DELETE]).doc(
        GROUP,
        "1.2.0",
        O_REMOVED,
        "Removes the members in a range of scores.",
    ),
    Command::keyspace("zremrangebylex", 4, SHRINK, ONE, range::zremrangebylex).access(&[access::DELETE]).doc(
        GROUP,
        "2.8.9",
        O_REMOVED,
        "Removes the members in a range of names.",
    ),
    Command::keyspace("zpopmin", -2, SHRINK_FAST, ONE, pop::zpopmin).access(&[access::TAKE]).doc(
        GROUP,
        "5.0.0",
        O_REMOVED,
        "Removes and returns the members with the lowest scores.",
    ),
    Command::keyspace("zpopmax", -2, SHRINK_FAST, ONE, pop::zpopmax).access(&[access::TAKE]).doc(
        GROUP,
        "5.0.0",
        O_REMOVED,
        "Removes and returns the members with the highest scores.",
    ),
    Command::keyspace("zmpop", -4, SHRINK, COUNTED, pop::zmpop).access(&[access::TAKE]).doc(
        GROUP,
        "7.0.0",
        "O(K + M log N), K being the number of keys, N that of the members, and M that of the members removed.",
        "Removes and returns members of the first sorted set that is not empty.",
    ),
    Command::keyspace("zrandmember", -2, READ, ONE, random::zrandmember).doc(
        GROUP,
        "6.2.0",
        "O(M log N), N being the number of members and M that of the members returned.",
        "Returns random members of a sorted set.",
    ),
    Command::keyspace("zscan", -3, READ, ONE, random::zscan).doc(
        GROUP,
        "2.8.0",
        "O(1) for each call, O(N) for a whole iteration.",
        "Iterates over the members of a sorted set.",
    ),
    Command::keyspace("zunion", -3, READ, COUNTED, algebra::zunion).doc(
        GROUP,
        "6.2.0",
        O_ALGEBRA,
        "Returns the union of sorted sets.",
    ),
    Command::keyspace("zinter", -3, READ, COUNTED, algebra::zinter).doc(
        GROUP,
        "6.2.0",
        O_ALGEBRA,
        "Returns the intersection of sorted sets.",
    ),
    Command::keyspace("zdiff", -3, READ, COUNTED, algebra::zdiff).doc(
        GROUP,
        "6.2.0",
        O_ALGEBRA,
        "Returns what the first of some sorted sets has alone.",
    ),
    Command::keyspace("zintercard", -3, READ, COUNTED, algebra::zintercard).doc(
        GROUP,
        "7.0.0",
        "O(N*K), N being the number of members of the smallest input and K that of the inputs.",
        "Counts the members of the intersection of sorted sets.",
    ),
    Command::keyspace("zunionstore", -4, WRITE, STORED, algebra::zunionstore)
        .access(&[access::OVERWRITE, access::READ])
        .doc(GROUP, "2.0.0", O_ALGEBRA, "Stores the union of sorted sets in a key."),
    Command::keyspace("zinterstore", -4, WRITE, STORED, algebra::zinterstore)
        .access(&[access::OVERWRITE, access::READ])
        .doc(GROUP, "2.0.0", O_ALGEBRA, "Stores the intersection of sorted sets in a key."),
    Command::keyspace("zdiffstore", -4, WRITE, STORED, algebra::zdiffstore)
        .access(&[access::OVERWRITE, access::READ])
        .doc(GROUP, "6.2.0", O_ALGEBRA, "Stores what the first of some sorted sets has alone in a key."),
];

/// The sorted set at `key`, for a command that reads it.
#[inline]
fn read<'c>(ctx: &'c mut Ctx, key: &Key) -> Result<Option<SortedSet<'c>>, Error> {
    Ok(ctx.collection(key, Kind::SortedSet)?.map(SortedSet::new))
}

/// Tells of a sorted set that has lost its last member.
fn tell_removed(ctx: &mut Ctx, key: &Key, removed: bool) {
    if removed {
        ctx.event(Classes::GENERIC, "del", key);
    }
}

/// Header of an array of `len` members. With scores they are pairs, in RESP2 one after the other.
fn write_len(reply: &mut Reply, len: usize, with_scores: bool) {
    reply.array(if with_scores && !reply.is_resp3() { 2 * len } else { len });
}

/// One of the members that [`write_len`] announces.
#[inline]
fn write_item(reply: &mut Reply, (member, score): (&[u8], f64), with_scores: bool) {
    if with_scores && reply.is_resp3() {
        reply.array(2);
    }
    reply.bulk(member);
    if with_scores {
        reply.double(score);
    }
}

fn write_items(reply: &mut Reply, items: Items, with_scores: bool) {
    write_len(reply, items.len(), with_scores);
    items.for_each(|item| write_item(reply, item, with_scores));
}

fn zcard(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let len = read(ctx, &key)?.map_or(0, |set| set.len());
    reply.int(len as i64);
    Ok(())
}

fn write_score(reply: &mut Reply, score: Option<f64>) {
    match score {
        Some(score) => reply.double(score),
        None => reply.null(),
    }
}

fn zscore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let score = read(ctx, &key)?.and_then(|set| set.score(args[2]));
    write_score(reply, score);
    Ok(())
}

fn zmscore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let set = read(ctx, &key)?;
    reply.array(args.len() - 2);
    for member in &args[2..] {
        write_score(reply, set.and_then(|set| set.score(member)));
    }
    Ok(())
}

fn zrank(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    rank(ctx, args, false, reply)
}

fn zrevrank(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    rank(ctx, args, true, reply)
}

fn rank(ctx: &mut Ctx, args: Args, backwards: bool, reply: &mut Reply) -> Result<(), Error> {
    let with_score = match &args[3..] {
        [] => false,
        [option] if option.eq_ignore_ascii_case(b"withscore") => true,
        [_] => return Err(Error::Syntax),
        _ => return Err(Error::Arity(String::from_utf8_lossy(args[0]).to_ascii_lowercase())),
    };
    let key = ctx.key(args[1]);
    let found = read(ctx, &key)?.and_then(|set| {
        let (rank, score) = set.rank(args[2])?;
        Some((if backwards { set.len() - 1 - rank } else { rank }, score))
    });
    match found {
        Some((rank, score)) if with_score => {
            reply.array(2);
            reply.int(rank as i64);
            reply.double(score);
        }
        Some((rank, _)) => reply.int(rank as i64),
        None if with_score => reply.null_array(),
        None => reply.null(),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
