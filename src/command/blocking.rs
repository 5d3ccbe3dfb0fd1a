//! Commands that wait: BLPOP and its relatives.
//!
//! Each is a keyspace command that takes an element if there is one. If there is none it writes no reply at all: then the
//! network layer lets the client wait ([`crate::blocking`]), for what [`Wait`] says, and tries again, with the key at which
//! an element has appeared ([`Wait::narrowed`]). Inside a transaction nothing waits: [`write_nothing`] is the reply.
//!
//! Every attempt is a transaction of one command ([`crate::borrow`]), also if all keys live on one core: so nothing is taken
//! for a client that has gone.

use super::list::{parse_end, transfer};
use super::number::parse_double;
use super::sorted::pop::{self as sorted_pop, Shape};
use super::table::Row;
use super::{Args, Command, Ctx, Flags, KeySpec};
use crate::collection::list::End;
use crate::command::table::access;
use crate::resp::{Error, Reply};
use crate::shard::Kind;

/// Keys up to the last argument, which is the timeout.
const KEYS: KeySpec = KeySpec { last: -2, ..KeySpec::ONE };
/// The timeout, the number of keys, the keys.
const COUNTED: KeySpec = KeySpec { count_at: 2, ..KeySpec::NONE };

const POP_MANY: Flags = Flags::WRITE.or(Flags::BLOCKING);
const SHRINK: Flags = POP_MANY.or(Flags::NOSCRIPT);
const MOVE: Flags = SHRINK.or(Flags::DENYOOM);
const FAST: Flags = SHRINK.or(Flags::FAST);
const O_KEYS: &str = "O(N), N being the number of keys.";
const O_POPPED: &str = "O(N+M), N being the number of keys and M the number of elements returned.";
const LIST: &str = "list";
const SORTED: &str = "sorted-set";

pub static COMMANDS: &[Command] = &[
    Command::keyspace("blpop", -3, SHRINK, KEYS, blpop).access(&[access::TAKE]).doc(
        LIST,
        "2.0.0",
        O_KEYS,
        "Removes and returns the first element of a list, or waits for one.",
    ),
    Command::keyspace("brpop", -3, SHRINK, KEYS, brpop).access(&[access::TAKE]).doc(
        LIST,
        "2.0.0",
        O_KEYS,
        "Removes and returns the last element of a list, or waits for one.",
    ),
    Command::keyspace("blmove", 6, MOVE, KeySpec::TWO, blmove).access(&[access::TAKE, access::INSERT]).doc(
        LIST,
        "6.2.0",
        "O(1)",
        "Moves an element from one end of a list to one end of another, or waits for one.",
    ),
    Command::keyspace("brpoplpush", 4, MOVE, KeySpec::TWO, brpoplpush).access(&[access::TAKE, access::INSERT]).doc(
        LIST,
        "2.2.0",
        "O(1)",
        "Moves the last element of a list to the front of another, or waits for one.",
    ),
    Command::keyspace("blmpop", -5, POP_MANY, COUNTED, blmpop).access(&[access::TAKE]).doc(
        LIST,
        "7.0.0",
        O_POPPED,
        "Removes and returns elements of the first list that is not empty, or waits for one.",
    ),
    Command::keyspace("bzpopmin", -3, FAST, KEYS, bzpopmin).access(&[access::TAKE]).doc(
        SORTED,
        "5.0.0",
        "O(log(N)), N being the number of members.",
        "Removes and returns the member with the lowest score, or waits for one.",
    ),
    Command::keyspace("bzpopmax", -3, FAST, KEYS, bzpopmax).access(&[access::TAKE]).doc(
        SORTED,
        "5.0.0",
        "O(log(N)), N being the number of members.",
        "Removes and returns the member with the highest score, or waits for one.",
    ),
    Command::keyspace("bzmpop", -5, POP_MANY, COUNTED, bzmpop).access(&[access::TAKE]).doc(
        SORTED,
        "7.0.0",
        O_POPPED,
        "Removes and returns members of the first sorted set that is not empty, or waits for one.",
    ),
];

/// For what a command waits that has found nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub kind: Kind,
    pub keys: Vec<Vec<u8>>,
    /// None: forever.
    pub timeout_ms: Option<u64>,
}

impl Wait {
    /// What `args` wait for, which are a blocking command that was executed without an error.
    pub fn of(row: &Row, args: Args) -> Wait {
        let kind = if row.command.group == LIST { Kind::List } else { Kind::SortedSet };
        let mut keys: Vec<Vec<u8>> = row.command.keys.positions(args).map(|at| args[at].to_vec()).collect();
        if row.command.keys == KeySpec::TWO {
            keys.truncate(1);
        }
        let timeout_at = if row.command.keys == COUNTED { 1 } else { args.len() - 1 };
        let timeout_ms = args.get(timeout_at).and_then(|arg| parse_timeout(arg).ok()).flatten();
        Wait { kind, keys, timeout_ms }
    }

    /// The same command for one of its keys only.
    pub fn narrowed<'a>(row: &Row, args: &[&'a [u8]], key: &'a [u8]) -> Vec<&'a [u8]> {
        match row.command.keys {
            KEYS => vec![args[0], key, args[args.len() - 1]],
            COUNTED => {
                let rest = row.command.keys.counted(args).map_or(args.len(), |keys| keys.end);
                [&[args[0], args[1], b"1", key], &args[rest..]].concat()
            }
            _ => args.to_vec(),
        }
    }
}

/// The reply of a command that has waited long enough.
pub fn write_timeout(reply: &mut Reply) {
    reply.null_array();
}

/// The reply of a command that has found nothing and must not wait.
pub fn write_nothing(row: &Row, reply: &mut Reply) {
    if row.command.keys == KeySpec::TWO { reply.null() } else { reply.null_array() }
}

/// Seconds with fractions; None is forever.
fn parse_timeout(arg: &[u8]) -> Result<Option<u64>, Error> {
    let ms = parse_double(arg).ok_or(Error::TimeoutNotFloat)? * 1000.0;
    match ms {
        _ if ms < 0.0 => Err(Error::TimeoutNegative),
        _ if ms >= i64::MAX as f64 => Err(Error::TimeoutRange),
        _ if ms == 0.0 => Ok(None),
        // A fraction of a millisecond is one.
        _ => Ok(Some(ms.ceil() as u64)),
    }
}

fn blpop(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    pop(ctx, args, End::Head, reply)
}

fn brpop(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    pop(ctx, args, End::Tail, reply)
}

fn pop(ctx: &mut Ctx, args: Args, end: End, reply: &mut Reply) -> Result<(), Error> {
    parse_timeout(args[args.len() - 1])?;
    for key in &args[1..args.len() - 1] {
        let key = ctx.key(key);
        if transfer::pop_one_with_key(ctx, &key, end, reply)? {
            break;
        }
    }
    Ok(())
}

fn blmove(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let (from, to) = (parse_end(args[3])?, parse_end(args[4])?);
    parse_timeout(args[5])?;
    transfer::move_element(ctx, [args[1], args[2]], from, to, reply)?;
    Ok(())
}

fn brpoplpush(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    parse_timeout(args[3])?;
    transfer::move_element(ctx, [args[1], args[2]], End::Tail, End::Head, reply)?;
    Ok(())
}

fn blmpop(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    parse_timeout(args[1])?;
    let wanted = transfer::PopMany::parse(&args[2..])?;
    for key in wanted.keys {
        let key = ctx.key(key);
        if transfer::pop_many(ctx, &key, wanted.end, wanted.count, reply)? {
            break;
        }
    }
    Ok(())
}

fn bzpopmin(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    pop_member(ctx, args, sorted_pop::End::Min, reply)
}

fn bzpopmax(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    pop_member(ctx, args, sorted_pop::End::Max, reply)
}

fn pop_member(ctx: &mut Ctx, args: Args, end: sorted_pop::End, reply: &mut Reply) -> Result<(), Error> {
    parse_timeout(args[args.len() - 1])?;
    for key in &args[1..args.len() - 1] {
        let key = ctx.key(key);
        if sorted_pop::pop(ctx, &key, end, 1, Shape::KeyAndFlat, reply)? {
            break;
        }
    }
    Ok(())
}

fn bzmpop(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    parse_timeout(args[1])?;
    let wanted = sorted_pop::PopMany::parse(&args[2..])?;
    for key in wanted.keys {
        let key = ctx.key(key);
        if sorted_pop::pop(ctx, &key, wanted.end, wanted.count, Shape::KeyAndPairs, reply)? {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table;

    #[test]
    fn what_a_command_waits_for() {
        let wait = |line: &str| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            Wait::of(table().resolve(&args).unwrap(), &args)
        };
        let keys = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
        let expected = Wait { kind: Kind::List, keys: keys(&["a", "b"]), timeout_ms: Some(1500) };
        assert_eq!(wait("blpop a b 1.5"), expected);
        assert_eq!(wait("blmpop 0.0001 1 a LEFT"), Wait { kind: Kind::List, keys: keys(&["a"]), timeout_ms: Some(1) });
        assert_eq!(wait("blmove a b left right 0"), Wait { kind: Kind::List, keys: keys(&["a"]), timeout_ms: None });
        assert_eq!(wait("bzpopmin z 0").kind, Kind::SortedSet);
    }

    #[test]
    fn a_narrowed_command_names_one_key() {
        let narrowed = |line: &str| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let row = table().resolve(&args).unwrap();
            let words = Wait::narrowed(row, &args, b"b");
            String::from_utf8(words.join(&b' ')).unwrap()
        };
        assert_eq!(narrowed("blpop a b c 5"), "blpop b 5");
        assert_eq!(narrowed("blmpop 5 2 a b right count 3"), "blmpop 5 1 b right count 3");
        assert_eq!(narrowed("bzmpop 5 2 a b max"), "bzmpop 5 1 b max");
        assert_eq!(narrowed("blmove b c left right 5"), "blmove b c left right 5");
    }
}
