//! ZRANDMEMBER and ZSCAN.

use std::collections::HashSet;

use super::{Args, Ctx, Error, Reply, parse_i64, read, write_item, write_len};
use crate::collection::random::{Random, select};
use crate::collection::sorted::SortedSet;
use crate::command::generic::scan::{ScanOptions, parse_cursor};
use crate::resp::Output;

/// Members that one call may return more than once: the reply would otherwise be of any size.
const REPEATED_MAX: i64 = 1 << 24;

/// Below so many members for each one that is wanted, choosing goes through all of them.
const SPARSE: usize = 8;

pub fn zrandmember(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let mut random = Random::new(ctx.random);
    let Some(count) = args.get(2) else {
        match read(ctx, &key)?.and_then(|set| set.get(random.below(set.len()))) {
            Some((member, _)) => reply.bulk(member),
            None => reply.null(),
        }
        return Ok(());
    };
    let count = parse_i64(count)?;
    if count == i64::MIN {
        return Err(Error::NotBetween { min: -i64::MAX, max: i64::MAX });
    }
    let with_scores = match &args[3..] {
        [] => false,
        [option] if option.eq_ignore_ascii_case(b"withscores") => true,
        _ => return Err(Error::Syntax),
    };
    if count < -REPEATED_MAX || (with_scores && count > i64::MAX / 2) {
        return Err(Error::OutOfRange);
    }
    let Some(set) = read(ctx, &key)? else {
        reply.array(0);
        return Ok(());
    };
    if count < 0 {
        let count = count.unsigned_abs() as usize;
        write_len(reply, count, with_scores);
        for _ in 0..count {
            let item = set.get(random.below(set.len())).unwrap_or_default();
            write_item(reply, item, with_scores);
        }
    } else {
        let count = set.len().min(count as usize);
        write_len(reply, count, with_scores);
        sample(&set, count, &mut random, |item| write_item(reply, item, with_scores));
    }
    Ok(())
}

/// Shows `count` different items, every choice of so many equally likely. There must be so many.
fn sample(set: &SortedSet, count: usize, random: &mut Random, mut seen: impl FnMut((&[u8], f64))) {
    let len = set.len();
    if matches!(set, SortedSet::Compact(_)) || len / SPARSE < count {
        return select(set.iter(), len, count, random, seen);
    }
    // R. W. Floyd's sampling (J. Bentley, "Programming Pearls", CACM 30(9), 1987).
    let mut ranks = HashSet::with_capacity(count);
    for last in len - count..len {
        let rank = random.below(last + 1);
        let rank = if ranks.insert(rank) { rank } else { last };
        ranks.insert(rank);
        seen(set.get(rank).unwrap_or_default());
    }
}

pub fn zscan(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let cursor = parse_cursor(args[2]).ok_or(Error::InvalidCursor)?;
    let key = ctx.key(args[1]);
    let Some(set) = read(ctx, &key)? else {
        reply.array(2);
        reply.bulk(b"0");
        reply.array(0);
        return Ok(());
    };
    let options = ScanOptions::parse(&args[3..], false)?;
    // Their number comes before them.
    let (mut texts, mut found) = (0, Output::new());
    let mut writer = Reply::new(&mut found, reply.version());
    let next = set.scan(cursor, options.count, |member, score| {
        if options.matches(member) {
            texts += 2;
            writer.bulk(member);
            writer.bulk_double(score);
        }
    });
    reply.array(2);
    reply.bulk(next.to_string().as_bytes());
    reply.array(texts);
    reply.output().copy_range(&found, 0, found.mark());
    Ok(())
}
