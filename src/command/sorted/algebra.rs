//! ZUNION, ZINTER, ZDIFF, ZINTERCARD, and the forms that store their result.
//!
//! Inputs are sorted sets, and sets, whose members all have the score 1. Sums depend on the order in which scores are
//! added: it is that of Redis, the smallest input first.

use std::borrow::Cow;
use std::collections::HashMap;

use super::range::store;
use super::{Args, Ctx, Error, Reply, parse_i64, parse_score, write_item, write_len};
use crate::collection::set::{self, Set};
use crate::collection::sorted::{self, SortedSet};
use crate::route::Key;
use crate::shard::Kind;

/// What is done with the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

/// How the scores of one member become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn parse(word: &[u8]) -> Result<Aggregate, Error> {
        match word {
            _ if word.eq_ignore_ascii_case(b"sum") => Ok(Aggregate::Sum),
            _ if word.eq_ignore_ascii_case(b"min") => Ok(Aggregate::Min),
            _ if word.eq_ignore_ascii_case(b"max") => Ok(Aggregate::Max),
            _ => Err(Error::Syntax),
        }
    }

    fn join(self, score: f64, other: f64) -> f64 {
        match self {
            Aggregate::Sum => number(score + other),
            // Not `f64::min`: which of two zeros stays is seen.
            Aggregate::Min => {
                if other < score {
                    other
                } else {
                    score
                }
            }
            Aggregate::Max => {
                if other > score {
                    other
                } else {
                    score
                }
            }
        }
    }
}

/// A score; opposite infinities, and an infinity without weight, make 0.
fn number(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// One of the inputs.
#[derive(Clone, Copy, Debug)]
enum Members<'a> {
    None,
    Set(Set<'a>),
    SortedSet(SortedSet<'a>),
}

impl<'a> Members<'a> {
    fn len(&self) -> usize {
        match self {
            Members::None => 0,
            Members::Set(set) => set.len(),
            Members::SortedSet(set) => set.len(),
        }
    }

    fn score(&self, member: &[u8]) -> Option<f64> {
        match self {
            Members::None => None,
            Members::Set(set) => set.contains(member).then_some(1.0),
            Members::SortedSet(set) => set.score(member),
        }
    }

    fn iter(&self) -> Box<dyn Iterator<Item = (Cow<'a, [u8]>, f64)> + 'a> {
        match *self {
            Members::None => Box::new(std::iter::empty()),
            Members::Set(set) => Box::new(set.iter().map(|member| match member {
                set::Member::Bytes(bytes) => (Cow::Borrowed(bytes), 1.0),
                set::Member::Int(number) => (Cow::Owned(number.to_string().into_bytes()), 1.0),
            })),
            Members::SortedSet(set) => Box::new(set.iter().map(|(member, score)| (Cow::Borrowed(member), score))),
        }
    }
}

/// An input with its weight.
#[derive(Clone, Copy, Debug)]
struct Input<'a> {
    members: Members<'a>,
    weight: f64,
}

/// Members and scores of a result.
type Items<'a> = Vec<(Cow<'a, [u8]>, f64)>;

/// A command with its arguments.
struct Query<'a> {
    operation: Operation,
    keys: Vec<(Key<'a>, Option<Kind>)>,
    weights: Vec<f64>,
    aggregate: Aggregate,
    with_scores: bool,
    /// Members that are counted at the most; 0: all.
    limit: usize,
}

/// Which options a command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Answers,
    Stores,
    Counts,
}

impl<'a> Query<'a> {
    /// Reads the arguments from the number of keys on, and looks at what is at the keys, in the order of Redis: the types of
    /// the keys come before the options.
    fn parse(
        ctx: &mut Ctx,
        args: Args<'a>,
        numkeys_at: usize,
        operation: Operation,
        form: Form,
    ) -> Result<Self, Error> {
        let numkeys = parse_i64(args[numkeys_at])?;
        if numkeys < 1 {
            return Err(Error::NoInputKey(String::from_utf8_lossy(args[0]).to_ascii_lowercase()));
        }
        let rest = &args[numkeys_at + 1..];
        let numkeys = usize::try_from(numkeys).ok().filter(|&n| n <= rest.len()).ok_or(Error::Syntax)?;
        let (keys, options) = rest.split_at(numkeys);
        let mut query = Query {
            operation,
            keys: Vec::with_capacity(numkeys),
            weights: Vec::new(),
            aggregate: Aggregate::Sum,
            with_scores: false,
            limit: 0,
        };
        for bytes in keys {
            let key = ctx.key(bytes);
            let kind = ctx.read(&key).map(|entry| entry.kind);
            if !matches!(kind, None | Some(Kind::Set | Kind::SortedSet)) {
                return Err(Error::WrongType);
            }
            query.keys.push((key, kind));
        }
        query.parse_options(options, form)?;
        Ok(query)
    }

    fn parse_options(&mut self, mut options: Args<'a>, form: Form) -> Result<(), Error> {
        let numkeys = self.keys.len();
        let weighs = self.operation != Operation::Difference && form != Form::Counts;
        while let [option, rest @ ..] = options {
            let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
            options = rest;
            match rest {
                _ if weighs && rest.len() >= numkeys && is(b"weights") => {
                    let (weights, rest) = rest.split_at(numkeys);
                    let weights = weights.iter().map(|weight| parse_score(weight).map_err(|_| Error::NotWeight));
                    self.weights = weights.collect::<Result<_, _>>()?;
                    options = rest;
                }
                [word, rest @ ..] if weighs && is(b"aggregate") => {
                    self.aggregate = Aggregate::parse(word)?;
                    options = rest;
                }
                _ if form == Form::Answers && is(b"withscores") => self.with_scores = true,
                [limit, rest @ ..] if form == Form::Counts && is(b"limit") => {
                    let limit = parse_i64(limit).ok().and_then(|limit| usize::try_from(limit).ok());
                    self.limit = limit.ok_or(Error::Negative("LIMIT"))?;
                    options = rest;
                }
                _ => return Err(Error::Syntax),
            }
        }
        Ok(())
    }

    /// The inputs, in the order in which they are gone through.
    fn inputs<'c>(&self, ctx: &'c Ctx) -> Vec<Input<'c>> {
        let members = |(key, kind): &(Key, Option<Kind>)| {
            let kind = (*kind)?;
            let value = ctx.view(key, kind)?;
            Some(if kind == Kind::Set {
                Members::Set(Set::new(value))
            } else {
                Members::SortedSet(SortedSet::new(value))
            })
        };
        let mut inputs: Vec<Input> = (self.keys.iter().enumerate())
            .map(|(at, key)| Input {
                members: members(key).unwrap_or(Members::None),
                weight: self.weights.get(at).copied().unwrap_or(1.0),
            })
            .collect();
        if self.operation != Operation::Difference {
            inputs.sort_by_key(|input| input.members.len());
        }
        inputs
    }

    /// The result, in order.
    fn run<'c>(&self, ctx: &'c Ctx) -> Items<'c> {
        let inputs = self.inputs(ctx);
        let mut items = match self.operation {
            Operation::Union => union(&inputs, self.aggregate),
            Operation::Intersection => intersection(&inputs, self.aggregate).collect(),
            Operation::Difference => difference(&inputs),
        };
        // No score is NaN.
        items.sort_unstable_by(|a, b| a.1.partial_cmp(&b.1).unwrap_or(std::cmp::Ordering::Equal).then(a.0.cmp(&b.0)));
        items
    }
}

fn union<'c>(inputs: &[Input<'c>], aggregate: Aggregate) -> Items<'c> {
    let mut scores: HashMap<Cow<[u8]>, f64, ahash::RandomState> = HashMap::default();
    for input in inputs {
        for (member, score) in input.members.iter() {
            let score = number(input.weight * score);
            scores.entry(member).and_modify(|sum| *sum = aggregate.join(*sum, score)).or_insert(score);
        }
    }
    scores.into_iter().collect()
}

fn intersection<'c>(inputs: &[Input<'c>], aggregate: Aggregate) -> impl Iterator<Item = (Cow<'c, [u8]>, f64)> {
    let first = inputs.first().map(|input| (input.members, input.weight)).unwrap_or((Members::None, 1.0));
    first.0.iter().filter_map(move |(member, score)| {
        let mut sum = number(first.1 * score);
        for input in &inputs[1..] {
            sum = aggregate.join(sum, input.weight * input.members.score(&member)?);
        }
        Some((member, sum))
    })
}

fn difference<'c>(inputs: &[Input<'c>]) -> Items<'c> {
    let Some((first, others)) = inputs.split_first() else { return Vec::new() };
    let alone = |member: &[u8]| others.iter().all(|other| other.members.score(member).is_none());
    first.members.iter().filter(|(member, _)| alone(member)).collect()
}

fn answer(ctx: &mut Ctx, args: Args, operation: Operation, reply: &mut Reply) -> Result<(), Error> {
    let query = Query::parse(ctx, args, 1, operation, Form::Answers)?;
    let items = query.run(ctx);
    write_len(reply, items.len(), query.with_scores);
    items.iter().for_each(|(member, score)| write_item(reply, (member, *score), query.with_scores));
    Ok(())
}

fn answer_stored(
    ctx: &mut Ctx,
    args: Args,
    operation: Operation,
    event: &'static str,
    reply: &mut Reply,
) -> Result<(), Error> {
    let query = Query::parse(ctx, args, 2, operation, Form::Stores)?;
    let items = query.run(ctx);
    reply.int(items.len() as i64);
    let value = sorted::from_sorted(ctx.thresholds, items.iter().map(|(member, score)| (&**member, *score)));
    drop(items);
    let destination = ctx.key(args[1]);
    store(ctx, &destination, value, event);
    Ok(())
}

pub fn zunion(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer(ctx, args, Operation::Union, reply)
}

pub fn zinter(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer(ctx, args, Operation::Intersection, reply)
}

pub fn zdiff(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer(ctx, args, Operation::Difference, reply)
}

pub fn zunionstore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer_stored(ctx, args, Operation::Union, "zunionstore", reply)
}

pub fn zinterstore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer_stored(ctx, args, Operation::Intersection, "zinterstore", reply)
}

pub fn zdiffstore(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    answer_stored(ctx, args, Operation::Difference, "zdiffstore", reply)
}

pub fn zintercard(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let query = Query::parse(ctx, args, 1, Operation::Intersection, Form::Counts)?;
    let inputs = query.inputs(ctx);
    let limit = if query.limit == 0 { usize::MAX } else { query.limit };
    let count = intersection(&inputs, Aggregate::Sum).take(limit).count();
    reply.int(count as i64);
    Ok(())
}
