//! Ranges of ranks, scores and names: returned, counted, stored in another key, removed.
//!
//! Whatever a range is told by, it is a range of ranks once both ends have been looked up.

use super::score::{parse_lex_range, parse_score_range};
use super::{Args, Ctx, Error, Reply, parse_i64, read, tell_removed, write_items};
use crate::collection::Value;
use crate::collection::sorted::{self, Cut, SortedSet};
use crate::route::Key;
use crate::shard::{Classes, Kind};

/// What the ends of a range are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Name,
}

/// A range as it was asked for.
#[derive(Clone, Copy, Debug)]
enum Range<'a> {
    /// Both included; negative ones count from the end.
    Ranks(i64, i64),
    Cuts(Cut<'a>, Cut<'a>),
}

impl<'a> Range<'a> {
    fn parse(by: By, min: &'a [u8], max: &'a [u8]) -> Result<Range<'a>, Error> {
        Ok(match by {
            By::Rank => Range::Ranks(parse_i64(min)?, parse_i64(max)?),
            By::Score => {
                let (min, max) = parse_score_range(min, max)?;
                Range::Cuts(min, max)
            }
            By::Name => {
                let (min, max) = parse_lex_range(min, max)?;
                Range::Cuts(min, max)
            }
        })
    }

    /// The ranks from which and before which the members are. Ranks that were asked for are counted from the highest score
    /// if `backwards`.
    fn resolve(&self, set: &SortedSet, backwards: bool) -> (usize, usize) {
        match self {
            Range::Ranks(first, last) => {
                let len = set.len() as i64;
                let from_start = |rank: i64| if rank < 0 { rank.saturating_add(len) } else { rank };
                let (first, last) = (from_start(*first).max(0), from_start(*last).min(len - 1));
                if first > last {
                    return (0, 0);
                }
                let (start, end) = if backwards { (len - 1 - last, len - first) } else { (first, last + 1) };
                (start as usize, end as usize)
            }
            Range::Cuts(min, max) => {
                let start = set.before(min);
                (start, set.before(max).max(start))
            }
        }
    }
}

/// What a range command asks for.
struct Query<'a> {
    range: Range<'a>,
    backwards: bool,
    with_scores: bool,
    /// Members that are left out first; negative: all.
    offset: i64,
    /// Members at the most; negative: no limit.
    limit: i64,
}

impl<'a> Query<'a> {
    /// Reads the ends and the options behind them. What the command's name says already is no option of it.
    fn parse(
        args: Args<'a>,
        mut by: Option<By>,
        mut backwards: Option<bool>,
        stores: bool,
    ) -> Result<Query<'a>, Error> {
        let (mut with_scores, mut offset, mut limit) = (false, 0, -1);
        let mut options = &args[2..];
        while let [option, rest @ ..] = options {
            let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
            options = rest;
            match rest {
                _ if is(b"withscores") && !stores => with_scores = true,
                [first, second, rest @ ..] if is(b"limit") => {
                    (offset, limit) = (parse_i64(first)?, parse_i64(second)?);
                    options = rest;
                }
                _ if is(b"rev") && backwards.is_none() => backwards = Some(true),
                _ if is(b"bylex") && by.is_none() => by = Some(By::Name),
                _ if is(b"byscore") && by.is_none() => by = Some(By::Score),
                _ => return Err(Error::Syntax),
            }
        }
        let (by, backwards) = (by.unwrap_or(By::Rank), backwards.unwrap_or(false));
        if limit != -1 && by == By::Rank {
            return Err(Error::LimitOfRanks);
        }
        if with_scores && by == By::Name {
            return Err(Error::LexWithScores);
        }
        // Ranks are counted from the other end, scores and names are given in the other order.
        let swapped = backwards && by != By::Rank;
        let (min, max) = if swapped { (args[1], args[0]) } else { (args[0], args[1]) };
        Ok(Query { range: Range::parse(by, min, max)?, backwards, with_scores, offset, limit })
    }

    /// The ranks from which and before which the members are, after offset and limit.
    fn resolve(&self, set: &SortedSet) -> (usize, usize) {
        let (start, end) = self.range.resolve(set, self.backwards);
        if let Range::Ranks(..) = self.range {
            return (start, end);
        }
        let Ok(offset) = usize::try_from(self.offset) else { return (start, start) };
        let skipped = offset.min(end - start);
        let taken = usize::try_from(self.limit).unwrap_or(usize::MAX).min(end - start - skipped);
        if self.backwards { (end - skipped - taken, end - skipped) } else { (start + skipped, start + skipped + taken) }
    }
}

pub fn zrange(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer(ctx, args, None, None, reply)
}

pub fn zrevrange(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer(ctx, args, Some(By::Rank), Some(true), reply)
}

pub fn zrangebyscore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer(ctx, args, Some(By::Score), Some(false), reply)
}

pub fn zrevrangebyscore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer(ctx, args, Some(By::Score), Some(true), reply)
}

pub fn zrangebylex(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer(ctx, args, Some(By::Name), Some(false), reply)
}

pub fn zrevrangebylex(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer(ctx, args, Some(By::Name), Some(true), reply)
}

fn answer(ctx: &mut Ctx, args: Args, by: Option<By>, backwards: Option<bool>, reply: &mut Reply) -> Result<(), Error> {
    let query = Query::parse(&args[2..], by, backwards, false)?;
    let key = ctx.key(args[1]);
    let Some(set) = read(ctx, &key)? else {
        reply.array(0);
        return Ok(());
    };
    let (start, end) = query.resolve(&set);
    write_items(reply, set.items(start, end, query.backwards), query.with_scores);
    Ok(())
}

pub fn zrangestore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let query = Query::parse(&args[3..], None, None, true)?;
    let (destination, source) = (ctx.key(args[1]), ctx.key(args[2]));
    let limits = *ctx.thresholds;
    let (len, value) = match read(ctx, &source)? {
        Some(set) => {
            let (start, end) = query.resolve(&set);
            // One by one, in the order of the range: so the encoding is that of Redis.
            let mut value = Value::default();
            for (member, score) in set.items(start, end, query.backwards) {
                sorted::insert(&mut value, &limits, member, score);
            }
            (end - start, value)
        }
        None => (0, Value::default()),
    };
    store(ctx, &destination, value, "zrangestore");
    reply.int(len as i64);
    Ok(())
}

/// Puts a sorted set in the place of whatever is at `key`, and tells of it.
pub fn store(ctx: &mut Ctx, key: &Key, value: Value, event: &'static str) {
    let stored = !value.is_empty();
    let before = ctx.store(key, Kind::SortedSet, value);
    if stored {
        ctx.event(Classes::SORTED_SET, event, key);
    }
    tell_removed(ctx, key, before && !stored);
}

pub fn zcount(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    count(ctx, args, By::Score, reply)
}

pub fn zlexcount(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    count(ctx, args, By::Name, reply)
}

fn count(ctx: &mut Ctx, args: Args, by: By, reply: &mut Reply) -> Result<(), Error> {
    let range = Range::parse(by, args[2], args[3])?;
    let key = ctx.key(args[1]);
    let (start, end) = read(ctx, &key)?.map_or((0, 0), |set| range.resolve(&set, false));
    reply.int((end - start) as i64);
    Ok(())
}

pub fn zremrangebyrank(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    remove(ctx, args, By::Rank, "zremrangebyrank", reply)
}

pub fn zremrangebyscore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    remove(ctx, args, By::Score, "zremrangebyscore", reply)
}

pub fn zremrangebylex(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    remove(ctx, args, By::Name, "zremrangebylex", reply)
}

fn remove(ctx: &mut Ctx, args: Args, by: By, event: &'static str, reply: &mut Reply) -> Result<(), Error> {
    let range = Range::parse(by, args[2], args[3])?;
    let key = ctx.key(args[1]);
    let done = ctx.change(&key, Kind::SortedSet, false, |value, _| {
        let (start, end) = range.resolve(&SortedSet::new(value.view()), false);
        sorted::remove_range(value, start, end);
        (end - start, (end - start) as u64)
    })?;
    let Some(done) = done else {
        reply.int(0);
        return Ok(());
    };
    reply.int(done.result as i64);
    if done.result > 0 {
        ctx.event(Classes::SORTED_SET, event, &key);
    }
    tell_removed(ctx, &key, done.removed);
    Ok(())
}
