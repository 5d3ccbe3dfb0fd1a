//! ZRANDMEMBER and ZSCAN.

use std::collections::HashSet;

use super::{Args, Ctx, Error, Reply, read, write_item, write_len};
use crate::collection::random::{Random, select};
use crate::collection::sorted::SortedSet;
use crate::command::elements::{Draws, Found, Walk, WalkOptions, draw_repeatedly, parse_cursor};
use crate::resp::number::format_double;

/// Below so many members for each one that is wanted, choosing goes through all of them.
const SPARSE: usize = 8;

pub fn zrandmember(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let (draws, with_scores) = Draws::parse_args(args, b"withscores")?;
    let mut random = Random::new(ctx.random);
    let bytes_max = ctx.string_bytes_max;
    let key = ctx.key(args[1]);
    let Some(set) = read(ctx, &key)? else {
        match draws {
            Some(_) => reply.array(0),
            None => reply.null(),
        }
        return Ok(());
    };
    let mut draw = || set.get(random.below(set.len())).unwrap_or_default();
    match draws {
        None => reply.bulk(draw().0),
        Some(Draws::Distinct(count)) => {
            let count = count.min(set.len());
            write_len(reply, count, with_scores);
            sample(&set, count, &mut random, |item| write_item(reply, item, with_scores));
        }
        Some(Draws::Repeated(count)) => {
            write_len(reply, count as usize, with_scores);
            draw_repeatedly(reply, count, bytes_max, |reply| write_item(reply, draw(), with_scores))?;
        }
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
    let mut found = Found::default();
    let mut next = 0;
    if let Some(set) = read(ctx, &key)? {
        let options = WalkOptions::parse(&args[3..], Walk::Members)?;
        next = set.scan(cursor, options.count, |member, score| {
            if options.want(member) {
                found.add(member, reply);
                found.add(score_text(&set, score).as_bytes(), reply);
            }
        });
    }
    found.write_walk(next, reply);
    Ok(())
}

/// A score in the words of ZSCAN: Redis keeps whole numbers of compact sets as integers, and shows them as these.
fn score_text(set: &SortedSet, score: f64) -> String {
    const WHOLE_MAX: f64 = (i64::MAX / 2) as f64;
    if matches!(set, SortedSet::Compact(_)) && score.abs() <= WHOLE_MAX && score.fract() == 0.0 {
        return (score as i64).to_string();
    }
    format_double(score)
}
