//! OBJECT and MEMORY USAGE: how a value is stored.

use super::super::number::{canonical_i64, parse_i64};
use super::{Args, Command, Ctx, Flags, KeySpec};
use crate::command::table::access;
use crate::command::{Flow, Home};
use crate::resp::{Error, Reply};
use crate::shard::{EntryRef, Kind, Rule};

/// The key behind a subcommand.
pub const SECOND: KeySpec = KeySpec { first: 2, last: 2, ..KeySpec::ONE };

/// Longest string that Redis stores together with its header.
const EMBSTR_BYTES_MAX: usize = 44;

const READ: Flags = Flags::READONLY.or(Flags::KEYSPACE);
const O_1: &str = "O(1)";
const GENERIC: &str = "generic";

pub static SUBCOMMANDS: &[Command] = &[
    Command::keyspace("encoding", 3, READ, SECOND, encoding).access(&[access::LOOK]).doc(
        GENERIC,
        "2.2.3",
        O_1,
        "Returns the name of the form in which a value is stored.",
    ),
    Command::keyspace("freq", 3, READ, SECOND, freq).access(&[access::LOOK]).doc(
        GENERIC,
        "4.0.0",
        O_1,
        "Returns how often a key is used, on a logarithmic scale.",
    ),
    Command::keyspace("idletime", 3, READ, SECOND, idletime).access(&[access::LOOK]).doc(
        GENERIC,
        "2.2.3",
        O_1,
        "Returns the seconds since a key was last used.",
    ),
    Command::keyspace("refcount", 3, READ, SECOND, refcount).access(&[access::LOOK]).doc(
        GENERIC,
        "2.2.3",
        O_1,
        "Returns the number of references to a value.",
    ),
    Command::session("help", 2, Flags::LOADING.or(Flags::STALE), help).doc(
        GENERIC,
        "6.2.0",
        O_1,
        "Lists the subcommands.",
    ),
];

const HELP: &[&str] = &[
    "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "ENCODING <key>",
    "    Name of the form in which the value of <key> is stored.",
    "FREQ <key>",
    "    How often <key> is used, on a logarithmic scale.",
    "IDLETIME <key>",
    "    Seconds since <key> was last used.",
    "REFCOUNT <key>",
    "    Number of references to the value of <key>.",
    "HELP",
    "    This text.",
];

fn help(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.array(HELP.len());
    HELP.iter().for_each(|line| reply.simple(line));
    Ok(Flow::Done)
}

/// Looks at the key of `args` without touching it, and answers nil if it is not there.
fn look(
    ctx: &mut Ctx,
    args: Args,
    reply: &mut Reply,
    show: impl FnOnce(EntryRef, &mut Reply) -> Result<(), Error>,
) -> Result<(), Error> {
    let key = ctx.key(args[2]);
    if ctx.peek(&key).is_none() {
        // Counted as every miss is, but of this one nobody is told.
        ctx.shard.counters.misses += 1;
        reply.null();
        return Ok(());
    }
    ctx.shard.read(ctx.db, &key, false).map_or(Ok(()), |entry| show(entry, reply))
}

/// Clients take decisions on these names, so they are those that Redis would give.
fn encoding_name(entry: &EntryRef) -> &'static str {
    let value = entry.value.bytes();
    match entry.kind {
        Kind::String if entry.raw => "raw",
        Kind::String if canonical_i64(value).is_some() => "int",
        Kind::String if value.len() <= EMBSTR_BYTES_MAX => "embstr",
        Kind::String => "raw",
        kind => entry.collection().encoding(kind),
    }
}

fn encoding(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    look(ctx, args, reply, |entry, reply| {
        reply.bulk(encoding_name(&entry).as_bytes());
        Ok(())
    })
}

fn freq(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let counts = ctx.shard.policy().rule == Rule::Lfu;
    look(ctx, args, reply, |entry, reply| {
        if !counts {
            return Err(Error::NoLfu);
        }
        reply.int(entry.frequency.into());
        Ok(())
    })
}

fn idletime(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let counts = ctx.shard.policy().rule == Rule::Lfu;
    look(ctx, args, reply, |entry, reply| {
        if counts {
            return Err(Error::Lfu);
        }
        reply.int(entry.idle_s as i64);
        Ok(())
    })
}

/// Values are never shared between keys.
fn refcount(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    look(ctx, args, reply, |_, reply| {
        reply.int(1);
        Ok(())
    })
}

/// The row of MEMORY USAGE, for the container `memory`.
pub const MEMORY_USAGE: Command = Command::keyspace("usage", -3, Flags::READONLY, SECOND, memory_usage)
    .access(&[access::LOOK])
    .doc("server", "4.0.0", O_1, "Returns the bytes of memory that a key and its value occupy.");

/// MEMORY USAGE: the bytes that an entry occupies. The number of samples only matters for collections.
pub fn memory_usage(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let mut rest = args[3..].iter();
    while let Some(option) = rest.next() {
        let samples = rest.next().filter(|_| option.eq_ignore_ascii_case(b"samples")).ok_or(Error::Syntax)?;
        if parse_i64(samples)? < 0 {
            return Err(Error::Syntax);
        }
    }
    let key = ctx.key(args[2]);
    match ctx.shard.bytes_of(ctx.db, &key) {
        Some(bytes) => reply.int(bytes as i64),
        None => reply.null(),
    }
    Ok(())
}
