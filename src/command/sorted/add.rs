//! ZADD, ZINCRBY and ZREM.

use super::{Args, Ctx, Error, Reply, parse_score, tell_removed};
use crate::collection::sorted::{self, SortedSet};
use crate::collection::{Thresholds, Value};
use crate::shard::{Classes, Kind};

/// The options of ZADD.
#[derive(Clone, Copy, Debug, Default)]
struct Options {
    /// Add only.
    nx: bool,
    /// Change only.
    xx: bool,
    /// Change only to a greater score.
    gt: bool,
    /// Change only to a lesser score.
    lt: bool,
    /// Count what has changed, not only what is new.
    ch: bool,
    /// Scores are increments.
    incr: bool,
}

impl Options {
    /// Reads options until something else comes; what comes.
    fn parse<'a, 'b>(&mut self, mut args: &'b [&'a [u8]]) -> &'b [&'a [u8]] {
        while let [option, rest @ ..] = args {
            match option {
                _ if option.eq_ignore_ascii_case(b"nx") => self.nx = true,
                _ if option.eq_ignore_ascii_case(b"xx") => self.xx = true,
                _ if option.eq_ignore_ascii_case(b"gt") => self.gt = true,
                _ if option.eq_ignore_ascii_case(b"lt") => self.lt = true,
                _ if option.eq_ignore_ascii_case(b"ch") => self.ch = true,
                _ if option.eq_ignore_ascii_case(b"incr") => self.incr = true,
                _ => break,
            }
            args = rest;
        }
        args
    }

    fn check(&self, pairs: &[&[u8]]) -> Result<(), Error> {
        if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
            return Err(Error::Syntax);
        }
        if self.nx && self.xx {
            return Err(Error::ZaddNxAndXx);
        }
        if (self.nx && (self.gt || self.lt)) || (self.gt && self.lt) {
            return Err(Error::ZaddGtLtNx);
        }
        if self.incr && pairs.len() > 2 {
            return Err(Error::ZaddIncrPairs);
        }
        Ok(())
    }

    /// Whether what is there matters.
    fn is_plain(&self) -> bool {
        !(self.nx || self.xx || self.gt || self.lt || self.incr)
    }
}

/// What adding has done.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    added: u64,
    changed: u64,
    /// The score that an increment has led to; None if an option prevented it.
    score: Option<f64>,
}

impl Done {
    fn note(&mut self, old: Option<f64>, score: f64) {
        self.added += old.is_none() as u64;
        self.changed += old.is_some_and(|old| old != score) as u64;
        self.score = Some(score);
    }
}

pub fn zadd(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    add(ctx, args, Options::default(), reply)
}

pub fn zincrby(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    // It takes the options of ZADD too, but then there is no room for the rest.
    add(ctx, args, Options { incr: true, ..Options::default() }, reply)
}

fn add(ctx: &mut Ctx, args: Args, mut options: Options, reply: &mut Reply) -> Result<(), Error> {
    let pairs = options.parse(&args[2..]);
    options.check(pairs)?;
    // All scores are read before the first is used, and read again then: cheaper than a place for them.
    for pair in pairs.chunks_exact(2) {
        parse_score(pair[0])?;
    }
    let key = ctx.key(args[1]);
    let done = ctx.change(&key, Kind::SortedSet, !options.xx, |value, limits| {
        let result = add_pairs(value, limits, pairs, options);
        let changes = result.as_ref().map_or(0, |done| done.added + done.changed);
        (result, changes)
    })?;
    let done = match done {
        Some(done) => done.result?,
        None => Done::default(),
    };
    if options.incr {
        super::write_score(reply, done.score);
    } else {
        reply.int((done.added + if options.ch { done.changed } else { 0 }) as i64);
    }
    if done.added + done.changed > 0 {
        ctx.event(Classes::SORTED_SET, if options.incr { "zincr" } else { "zadd" }, &key);
    }
    Ok(())
}

fn add_pairs(value: &mut Value, limits: &Thresholds, pairs: &[&[u8]], options: Options) -> Result<Done, Error> {
    let mut done = Done::default();
    for pair in pairs.chunks_exact(2) {
        let (mut score, member) = (parse_score(pair[0])?, pair[1]);
        if !options.is_plain() {
            let old = SortedSet::new(value.view()).score(member);
            match old {
                Some(old) => {
                    if options.nx {
                        continue;
                    }
                    if options.incr {
                        score += old;
                    }
                    // An increment to an infinity: the two may be opposite ones.
                    if score.is_nan() {
                        return Err(Error::ScoreNan);
                    }
                    if (options.gt && score <= old) || (options.lt && score >= old) {
                        continue;
                    }
                }
                None if options.xx => continue,
                None => {}
            }
        }
        let old = sorted::insert(value, limits, member, score);
        done.note(old, score);
    }
    Ok(done)
}

pub fn zrem(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let done = ctx.change(&key, Kind::SortedSet, false, |value, _| {
        let removed = args[2..].iter().filter(|member| sorted::remove(value, member).is_some()).count();
        (removed, removed as u64)
    })?;
    let Some(done) = done else {
        reply.int(0);
        return Ok(());
    };
    reply.int(done.result as i64);
    if done.result > 0 {
        ctx.event(Classes::SORTED_SET, "zrem", &key);
    }
    tell_removed(ctx, &key, done.removed);
    Ok(())
}
