//! Commands on keys of any type: rows of the table, and the commands that remove, move and copy keys.
//!
//! They run on the core that owns the keys. Commands with several keys touch only keys named in their arguments (and
//! COPY the destination key in the database it names), so that they also run on a scratch shard to which entries of
//! other cores were brought.

pub mod database;
pub mod dump;
pub mod expire;
pub mod object;
pub mod scan;
pub mod sort;

use super::number::parse_i64;
use super::table::Row;
use super::{Args, Command, Ctx, Flags, KeySpec, Merge, Reach};
use crate::command::table::access;
use crate::resp::{Error, Reply};
use crate::shard::Classes;

const READ: Flags = Flags::READONLY.or(Flags::KEYSPACE);
const READ_FAST: Flags = READ.or(Flags::FAST);
const WRITE: Flags = Flags::WRITE.or(Flags::KEYSPACE);
const WRITE_FAST: Flags = WRITE.or(Flags::FAST);
const DANGEROUS: Flags = WRITE.or(Flags::DANGEROUS);

// They are not among the commands on keys as a whole.
const SORT: Flags = Flags::WRITE.or(Flags::DENYOOM).or(Flags::DANGEROUS);
const SORT_RO: Flags = Flags::READONLY.or(Flags::DANGEROUS);

const ONE: KeySpec = KeySpec::ONE;
const O_1: &str = "O(1)";
const O_KEYS: &str = "O(N), N being the number of keys.";
const O_VALUE: &str = "O(N*M), N being the number of elements and M their size; of a sorted set O(N*M*log(N)).";
const O_SORT: &str = "O(N+M*log(M)), N being the number of elements and M the number of those that are sorted.";
const GENERIC: &str = "generic";
const SERVER: &str = "server";

pub static COMMANDS: &[Command] = &[
    Command::keyspace("del", -2, WRITE, KeySpec::ALL, del).dealt(Merge::Sum).access(&[access::REMOVE]).doc(
        GENERIC,
        "1.0.0",
        O_KEYS,
        "Removes keys.",
    ),
    Command::keyspace("unlink", -2, WRITE_FAST, KeySpec::ALL, del).dealt(Merge::Sum).access(&[access::REMOVE]).doc(
        GENERIC,
        "4.0.0",
        O_KEYS,
        "Removes keys; the same as DEL.",
    ),
    Command::keyspace("exists", -2, READ_FAST, KeySpec::ALL, exists).dealt(Merge::Sum).access(&[access::LOOK]).doc(
        GENERIC,
        "1.0.0",
        O_KEYS,
        "Counts the keys that exist.",
    ),
    Command::keyspace("touch", -2, READ_FAST, KeySpec::ALL, touch).dealt(Merge::Sum).access(&[access::LOOK]).doc(
        GENERIC,
        "3.2.1",
        O_KEYS,
        "Marks keys as just used and counts those that exist.",
    ),
    Command::keyspace("type", 2, READ_FAST, ONE, type_).access(&[access::LOOK]).doc(
        GENERIC,
        "1.0.0",
        O_1,
        "Returns the type of a key.",
    ),
    Command::keyspace("expire", -3, WRITE_FAST, ONE, expire::expire).doc(
        GENERIC,
        "1.0.0",
        O_1,
        "Sets the time to live of a key in seconds.",
    ),
    Command::keyspace("pexpire", -3, WRITE_FAST, ONE, expire::pexpire).doc(
        GENERIC,
        "2.6.0",
        O_1,
        "Sets the time to live of a key in milliseconds.",
    ),
    Command::keyspace("expireat", -3, WRITE_FAST, ONE, expire::expireat).doc(
        GENERIC,
        "1.2.0",
        O_1,
        "Sets the Unix time in seconds at which a key expires.",
    ),
    Command::keyspace("pexpireat", -3, WRITE_FAST, ONE, expire::pexpireat).doc(
        GENERIC,
        "2.6.0",
        O_1,
        "Sets the Unix time in milliseconds at which a key expires.",
    ),
    Command::keyspace("ttl", 2, READ_FAST, ONE, expire::ttl).doc(
        GENERIC,
        "1.0.0",
        O_1,
        "Returns the time to live of a key in seconds.",
    ),
    Command::keyspace("pttl", 2, READ_FAST, ONE, expire::pttl).doc(
        GENERIC,
        "2.6.0",
        O_1,
        "Returns the time to live of a key in milliseconds.",
    ),
    Command::keyspace("expiretime", 2, READ_FAST, ONE, expire::expiretime).doc(
        GENERIC,
        "7.0.0",
        O_1,
        "Returns the Unix time in seconds at which a key expires.",
    ),
    Command::keyspace("pexpiretime", 2, READ_FAST, ONE, expire::pexpiretime).doc(
        GENERIC,
        "7.0.0",
        O_1,
        "Returns the Unix time in milliseconds at which a key expires.",
    ),
    Command::keyspace("persist", 2, WRITE_FAST, ONE, expire::persist).doc(
        GENERIC,
        "2.2.0",
        O_1,
        "Removes the expiry of a key.",
    ),
    Command::keyspace("keys", 2, READ.or(Flags::DANGEROUS), KeySpec::NONE, scan::keys)
        .reach(Reach::Every(Merge::Concat))
        .doc(
            GENERIC,
            "1.0.0",
            "O(N), N being the number of keys in the database.",
            "Lists all keys that match a pattern.",
        ),
    Command::keyspace("scan", -2, READ, KeySpec::NONE, scan::scan).reach(Reach::Cursor).doc(
        GENERIC,
        "2.8.0",
        "O(1) for each call, O(N) for a whole iteration, N being the number of keys in the database.",
        "Lists the keys of the database in small steps.",
    ),
    Command::keyspace("randomkey", 1, READ, KeySpec::NONE, scan::randomkey).reach(Reach::Every(Merge::Draw)).doc(
        GENERIC,
        "1.0.0",
        O_1,
        "Returns a key chosen at random.",
    ),
    Command::keyspace("rename", 3, WRITE, KeySpec::TWO, rename).access(&[access::TAKE, access::OVERWRITE]).doc(
        GENERIC,
        "1.0.0",
        O_1,
        "Renames a key and overwrites the destination.",
    ),
    Command::keyspace("renamenx", 3, WRITE_FAST, KeySpec::TWO, renamenx).access(&[access::TAKE, access::CREATE]).doc(
        GENERIC,
        "1.0.0",
        O_1,
        "Renames a key if the destination does not exist.",
    ),
    Command::keyspace("copy", -3, WRITE.or(Flags::DENYOOM), KeySpec::TWO, copy)
        .access(&[access::READ, access::OVERWRITE])
        .doc(
            GENERIC,
            "6.2.0",
            "O(1) for strings, O(N) for collections of N elements.",
            "Copies the value of a key to another key.",
        ),
    Command::keyspace("move", 3, WRITE_FAST, ONE, move_).access(&[access::CHANGE]).doc(
        GENERIC,
        "1.0.0",
        O_1,
        "Moves a key to another database.",
    ),
    Command::keyspace("dump", 2, READ, ONE, dump::dump).access(&[access::READ]).doc(
        GENERIC,
        "2.6.0",
        O_VALUE,
        "Returns the value of a key in the format of RDB files.",
    ),
    Command::keyspace("restore", -4, DANGEROUS.or(Flags::DENYOOM), ONE, dump::restore)
        .access(&[access::OVERWRITE])
        .doc(GENERIC, "2.6.0", O_VALUE, "Gives a key the value in an answer of DUMP."),
    Command::keyspace("sort", -2, SORT, KeySpec::SORTED_AND_STORED, sort::sort)
        .access(&[access::READ, access::OVERWRITE])
        .doc(
            GENERIC,
            "1.0.0",
            O_SORT,
            "Sorts the elements of a list, a set or a sorted set, and returns or stores them.",
        ),
    Command::keyspace("sort_ro", -2, SORT_RO, KeySpec::SORTED, sort::sort_ro).access(&[access::READ]).doc(
        GENERIC,
        "7.0.0",
        O_SORT,
        "Sorts the elements of a list, a set or a sorted set, and returns them.",
    ),
    Command::container("object", -2, Flags::NONE, object::SUBCOMMANDS).doc(
        GENERIC,
        "2.2.3",
        "Depends on the subcommand.",
        "Shows how the value of a key is stored.",
    ),
    Command::keyspace("dbsize", 1, READ_FAST, KeySpec::NONE, database::dbsize).reach(Reach::Every(Merge::Sum)).doc(
        SERVER,
        "1.0.0",
        O_1,
        "Returns the number of keys in the database.",
    ),
    Command::keyspace("flushdb", -1, DANGEROUS, KeySpec::NONE, database::flushdb)
        .reach(Reach::Every(Merge::First))
        .doc(SERVER, "1.0.0", "O(N), N being the number of keys in the database.", "Removes all keys of the database."),
    Command::keyspace("flushall", -1, DANGEROUS, KeySpec::NONE, database::flushall)
        .reach(Reach::Every(Merge::First))
        .doc(SERVER, "1.0.0", "O(N), N being the number of keys.", "Removes all keys of all databases."),
    Command::keyspace("flushpartition", 2, Flags::WRITE.or(Flags::INTERNAL), ONE, database::flushpartition).doc(
        SERVER,
        "1.0.0",
        "O(N), N being the number of keys of the partition.",
        "Removes all keys of the partition to which a key belongs. A statement of logs.",
    ),
    Command::keyspace("swapdb", 3, DANGEROUS.or(Flags::FAST), KeySpec::NONE, database::swapdb)
        .reach(Reach::Every(Merge::First))
        .doc(SERVER, "4.0.0", O_1, "Exchanges two databases."),
];

fn del(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let mut removed = 0;
    for arg in &args[1..] {
        let key = ctx.key(arg);
        if ctx.remove(&key) {
            removed += 1;
            ctx.event(Classes::GENERIC, "del", &key);
            ctx.effect_is(&[b"DEL", arg]);
        }
    }
    reply.int(removed);
    Ok(())
}

/// A key that is named twice counts twice.
fn exists(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    count_live(ctx, args, false, reply)
}

fn touch(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    // TOUCH is asked for even by a client whose other reads leave no trace.
    count_live(ctx, args, true, reply)
}

fn count_live(ctx: &mut Ctx, args: Args, touch: bool, reply: &mut Reply) -> Result<(), Error> {
    let mut live = 0;
    for arg in &args[1..] {
        let key = ctx.key(arg);
        live += ctx.shard.read(ctx.db, &key, touch).is_some() as i64;
    }
    reply.int(live);
    Ok(())
}

fn type_(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let kind = ctx.shard.read(ctx.db, &key, false).map(|entry| entry.kind);
    reply.simple(kind.map_or("none", |kind| kind.name()));
    Ok(())
}

fn rename(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    rename_over(ctx, args, true)?;
    reply.ok();
    Ok(())
}

fn renamenx(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let renamed = rename_over(ctx, args, false)?;
    reply.int(renamed as i64);
    Ok(())
}

/// Moves an entry with its expiry; false if the destination is there and must not be overwritten.
fn rename_over(ctx: &mut Ctx, args: Args, overwrite: bool) -> Result<bool, Error> {
    let (from, to) = (ctx.key(args[1]), ctx.key(args[2]));
    if ctx.peek(&from).is_none() {
        return Err(Error::NoSuchKey);
    }
    if from.bytes == to.bytes {
        return Ok(false);
    }
    let before = ctx.peek(&to).is_some();
    if before && !overwrite {
        return Ok(false);
    }
    if let Some(entry) = ctx.shard.detach(ctx.db, &from) {
        ctx.shard.attach(ctx.db, &to, entry);
        ctx.changes += 1;
        ctx.event(Classes::NEW, "new", &to);
        ctx.event(Classes::GENERIC, "rename_from", &from);
        ctx.event(Classes::GENERIC, "rename_to", &to);
        ctx.effect_is_entry(ctx.db, &to, before);
        ctx.effect_is(&[b"DEL", from.bytes]);
    }
    Ok(true)
}

/// A database number that a client gave.
fn database_index(ctx: &Ctx, arg: &[u8]) -> Result<usize, Error> {
    let (min, max) = (i32::MIN as i64, i32::MAX as i64);
    let index = parse_i64(arg)?;
    if !(min..=max).contains(&index) {
        return Err(Error::NotBetween { min, max });
    }
    usize::try_from(index).ok().filter(|&i| i < ctx.shard.databases()).ok_or(Error::DbRange)
}

fn copy(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let (mut to_db, mut replace) = (ctx.db, false);
    let mut rest = args[3..].iter();
    while let Some(option) = rest.next() {
        if option.eq_ignore_ascii_case(b"replace") {
            replace = true;
        } else if option.eq_ignore_ascii_case(b"db") {
            to_db = database_index(ctx, rest.next().ok_or(Error::Syntax)?)?;
        } else {
            return Err(Error::Syntax);
        }
    }
    let (from, to) = (ctx.key(args[1]), ctx.key(args[2]));
    if to_db == ctx.db && from.bytes == to.bytes {
        return Err(Error::SameObject);
    }
    let there = ctx.read(&from).is_some();
    let before = there && ctx.shard.peek(to_db, &to).is_some();
    let free = there && (replace || !before);
    let entry = if free { ctx.shard.duplicate(ctx.db, &from) } else { None };
    reply.int(entry.is_some() as i64);
    if let Some(entry) = entry {
        ctx.shard.attach(to_db, &to, entry);
        ctx.changes += 1;
        // Redis removes a destination that is replaced, so the copy is always a new key.
        ctx.shard.events.push(Classes::NEW, "new", to_db, to.bytes);
        ctx.shard.events.push(Classes::GENERIC, "copy_to", to_db, to.bytes);
        ctx.effect_is_entry(to_db, &to, before);
    }
    Ok(())
}

/// The database that a command names besides the selected one: COPY for its destination, MOVE for its key. None if it
/// names none, or one that is not valid.
///
/// For those who have to know beforehand where a command looks for keys ([`crate::borrow::plan`]).
pub fn named_database(row: &Row, args: Args) -> Option<usize> {
    let index = |arg: &[u8]| usize::try_from(parse_i64(arg).ok()?).ok();
    match row.command.name {
        "move" => index(args.get(2)?),
        "copy" => {
            let mut rest = args.get(3..)?.iter();
            // The last one counts; what is no option makes the command fail before it looks for a key.
            let mut named = None;
            while let Some(option) = rest.next() {
                if option.eq_ignore_ascii_case(b"db") {
                    named = index(rest.next()?);
                }
            }
            named
        }
        _ => None,
    }
}

fn move_(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let to_db = database_index(ctx, args[2])?;
    if to_db == ctx.db {
        return Err(Error::SameObject);
    }
    let key = ctx.key(args[1]);
    let free = ctx.peek(&key).is_some() && ctx.shard.peek(to_db, &key).is_none();
    let entry = if free { ctx.shard.detach(ctx.db, &key) } else { None };
    reply.int(entry.is_some() as i64);
    if let Some(entry) = entry {
        ctx.shard.attach(to_db, &key, entry);
        ctx.changes += 1;
        ctx.shard.events.push(Classes::NEW, "new", to_db, key.bytes);
        ctx.event(Classes::GENERIC, "move_from", &key);
        ctx.shard.events.push(Classes::GENERIC, "move_to", to_db, key.bytes);
        ctx.effect_is_entry(to_db, &key, false);
        ctx.effect_is(&[b"DEL", key.bytes]);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
