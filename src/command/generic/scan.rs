//! KEYS, SCAN, RANDOMKEY: walks over the keyspace.
//!
//! A SCAN cursor is `partition << 32 | position`: the position inside the partition's table from which the walk goes on.
//! The command runs on the core that owns the partition, goes on through that core's later partitions, and at the end of
//! its range returns the first partition of the next core. 0 is the start, and, as a walk never returns to it, also the
//! end. A cursor outlives resizing of the tables and carries no state of the server.

use super::super::glob;
use super::super::number::parse_i64;
use super::{Args, Ctx};
use crate::resp::{Error, Output, Reply};
use crate::shard::Kind;

/// Entries that one SCAN visits unless the client says otherwise.
const COUNT_DEFAULT: usize = 10;

/// Partitions that one SCAN looks at, however few keys they hold. An iteration over an empty core of 16384 partitions
/// takes sixteen calls; with the default number of partitions it takes one.
const SCAN_PARTITIONS_MAX: usize = 1024;

/// The cursor as a number, read as C's `strtoul` does: a sign is fine, a negative number counts down from 2^64, nothing at
/// all is 0. Blanks are not fine. The text ends with the first NUL.
pub fn parse_cursor(arg: &[u8]) -> Option<u64> {
    let arg = arg.split(|&byte| byte == 0).next().unwrap_or_default();
    let (negative, digits) = match arg {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() && !arg.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0u64, |cursor, &digit| {
        let digit = digit.is_ascii_digit().then(|| (digit - b'0') as u64)?;
        cursor.checked_mul(10)?.checked_add(digit)
    })?;
    Some(if negative { number.wrapping_neg() } else { number })
}

/// The partition in the cursor of a SCAN; its owner runs the command. None if there is no such partition on any node:
/// then every core gives the right answer. The caller compares with the number of partitions.
pub fn scan_partition(args: Args) -> Option<u16> {
    u16::try_from(parse_cursor(args.get(1)?)? >> 32).ok()
}

/// The options of SCAN and its kin.
pub struct ScanOptions<'a> {
    /// Entries to visit.
    pub count: usize,
    pattern: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
}

impl<'a> ScanOptions<'a> {
    /// TYPE is an option of walks over keys, not of those over the elements of a collection.
    pub fn parse(args: Args<'a>, of_keys: bool) -> Result<Self, Error> {
        let mut options = ScanOptions { count: COUNT_DEFAULT, pattern: None, kind: None };
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            let value = rest.next().ok_or(Error::Syntax)?;
            if option.eq_ignore_ascii_case(b"count") {
                let count = parse_i64(value)?;
                options.count = usize::try_from(count).ok().filter(|&n| n > 0).ok_or(Error::Syntax)?;
            } else if option.eq_ignore_ascii_case(b"match") {
                options.pattern = Some(value).filter(|&&pattern| pattern != b"*").copied();
            } else if of_keys && option.eq_ignore_ascii_case(b"type") {
                options.kind = Some(value);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(options)
    }

    /// A type that does not exist has no keys.
    fn want(&self, key: &[u8], kind: Kind) -> bool {
        self.kind.is_none_or(|name| name.eq_ignore_ascii_case(kind.name().as_bytes())) && self.matches(key)
    }

    /// Whether MATCH lets a name through.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name))
    }
}

/// Keys that were found, already in the form of the reply: their number is needed before them.
struct Found {
    keys: usize,
    out: Output,
}

impl Found {
    const fn new() -> Found {
        Found { keys: 0, out: Output::new() }
    }

    fn add(&mut self, key: &[u8], reply: &Reply) {
        self.keys += 1;
        Reply::new(&mut self.out, reply.version()).bulk(key);
    }

    fn write(&self, reply: &mut Reply) {
        reply.array(self.keys);
        reply.output().copy_range(&self.out, 0, self.out.mark());
    }
}

pub fn scan(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let cursor = parse_cursor(args[1]).ok_or(Error::InvalidCursor)?;
    let options = ScanOptions::parse(&args[2..], true)?;
    let mut found = Found::new();
    let next = walk(ctx, cursor, &options, |key| found.add(key, reply));
    reply.array(2);
    reply.bulk_int(next as i64);
    found.write(reply);
    Ok(())
}

/// Goes on from `cursor` until enough entries were visited; returns the next cursor.
fn walk(ctx: &mut Ctx, cursor: u64, options: &ScanOptions, mut found: impl FnMut(&[u8])) -> u64 {
    let range = ctx.shard.partitions();
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
            if options.want(key, kind) {
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
    let options = ScanOptions { count: usize::MAX, pattern: Some(args[1]).filter(|&p| p != b"*"), kind: None };
    let mut found = Found::new();
    for partition in ctx.shard.partitions() {
        ctx.shard.scan(ctx.db, partition, 0, usize::MAX, |key, kind| {
            if options.want(key, kind) {
                found.add(key, reply);
            }
        });
    }
    found.write(reply);
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
