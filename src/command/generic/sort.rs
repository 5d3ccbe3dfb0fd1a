//! SORT and SORT_RO.
//!
//! Three things happen to the elements of a list, a set or a sorted set: they are gathered, put in order, and a range of
//! them is shown or stored. BY says by what they are ordered, GET what is shown of them: a *pattern*, in which the element
//! takes the place of the first `*`, is the name of a string, or of a hash and, behind `->`, of a field.
//!
//! So the command reads keys that it does not name. Their names depend on what lies at its key: where there are several
//! cores it runs while all of them are borrowed whole, and first the source is brought, then what [`looked_up`] says
//! ([`crate::borrow`]).
//!
//! Elements are compared as bytes. Sorting is stable: where Redis leaves the order of equal weights to chance, they keep
//! the order in which they were gathered. What STORE has written is logged as the list that it is.

use std::cmp::Ordering;

use crate::collection::hash::Hash;
use crate::collection::list::{self, End, List};
use crate::collection::set::Set;
use crate::collection::sorted::SortedSet;
use crate::collection::{Value, ValueRef};
use crate::command::number::{parse_double, parse_i64};
use crate::command::{Args, Ctx};
use crate::resp::{Error, Reply};
use crate::route::{Hasher, Key};
use crate::shard::{Classes, Kind, Shard};

/// What a command asks for.
#[derive(Debug, Default)]
struct Options<'a> {
    descending: bool,
    alpha: bool,
    /// The first, and how many at the most; without a number all.
    limit: (i64, Option<i64>),
    by: Option<&'a [u8]>,
    get: Vec<&'a [u8]>,
    store: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn parse(args: Args<'a>, may_store: bool) -> Result<Options<'a>, Error> {
        let mut options = Options::default();
        let mut rest = args.get(2..).unwrap_or_default().iter();
        while let Some(option) = rest.next() {
            let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
            if is(b"asc") {
                options.descending = false;
            } else if is(b"desc") {
                options.descending = true;
            } else if is(b"alpha") {
                options.alpha = true;
            } else if is(b"limit") && rest.len() >= 2 {
                let mut number = || parse_i64(rest.next().copied().unwrap_or_default()).map_err(|_| Error::NotInteger);
                let (start, count) = (number()?, number()?);
                options.limit = (start.max(0), (count >= 0).then_some(count));
            } else if is(b"store") && may_store {
                options.store = Some(rest.next().ok_or(Error::Syntax)?);
            } else if is(b"by") {
                options.by = Some(rest.next().ok_or(Error::Syntax)?);
            } else if is(b"get") {
                options.get.push(rest.next().ok_or(Error::Syntax)?);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(options)
    }

    /// Adapts them to the type of what is sorted.
    fn adapt(&mut self, kind: Kind) {
        if kind == Kind::Set && self.keeps_order() && self.store.is_some() {
            // A set has no order, and what is stored must have one.
            (self.by, self.alpha) = (None, true);
        }
    }

    /// BY with a name that is none of a pattern: the elements keep their order.
    fn keeps_order(&self) -> bool {
        self.by.is_some_and(|by| !by.contains(&b'*'))
    }

    /// The range that is shown of `len` elements.
    fn range(&self, len: usize) -> std::ops::Range<usize> {
        let at_most = |n: i64| usize::try_from(n).map_or(len, |n| n.min(len));
        let start = at_most(self.limit.0);
        start..start + self.limit.1.map_or(len, at_most).min(len - start)
    }
}

/// Where the key stands that STORE names, the last one; as COMMAND GETKEYS finds it, whatever else is wrong.
pub fn stored_at<A: AsRef<[u8]>>(args: &[A]) -> Option<usize> {
    let mut stored = None;
    options(args, |at, name| {
        if name.eq_ignore_ascii_case(b"store") && at + 1 < args.len() {
            stored = Some(at + 1);
        }
    });
    stored
}

/// Whether a command makes names of elements.
pub fn reads_more<A: AsRef<[u8]>>(args: &[A]) -> bool {
    let (mut by, mut get) = (false, false);
    options(args, |at, name| {
        let pattern = || args.get(at + 1).is_some_and(|pattern| pattern.as_ref().contains(&b'*'));
        if name.eq_ignore_ascii_case(b"by") {
            // The last one counts.
            by = pattern();
        } else if name.eq_ignore_ascii_case(b"get") {
            get |= pattern();
        }
    });
    by || get
}

/// Visits the options, each with its place.
fn options<A: AsRef<[u8]>>(args: &[A], mut visit: impl FnMut(usize, &[u8])) {
    let mut at = 2;
    while let Some(name) = args.get(at).map(AsRef::as_ref) {
        visit(at, name);
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        at += match () {
            () if is(b"limit") => 3,
            () if is(b"by") || is(b"get") || is(b"store") => 2,
            () => 1,
        };
    }
}

/// The name that a pattern makes of an element, and the field, if it is one of a hash. None: the pattern has no place for
/// an element.
fn substitute<'p>(pattern: &'p [u8], element: &[u8]) -> Option<(Vec<u8>, Option<&'p [u8]>)> {
    let star = memchr::memchr(b'*', pattern)?;
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    let arrow = memchr::memmem::find(after, b"->").filter(|at| at + 2 < after.len());
    let (after, field) = arrow.map_or((after, None), |at| (&after[..at], Some(&after[at + 2..])));
    Some(([before, element, after].concat(), field))
}

const SELF: &[u8] = b"#";

/// Gives `found` what a pattern says of an element; None if there is nothing.
fn look_up<R>(ctx: &mut Ctx, pattern: &[u8], element: &[u8], found: impl FnOnce(Option<&[u8]>) -> R) -> R {
    if pattern == SELF {
        return found(Some(element));
    }
    let Some((name, field)) = substitute(pattern, element) else { return found(None) };
    let key = ctx.key(&name);
    match (ctx.read(&key), field) {
        (Some(entry), None) if entry.kind == Kind::String => found(Some(entry.value.bytes())),
        (Some(entry), Some(field)) if entry.kind == Kind::Hash => found(Hash::new(entry.collection()).get(field)),
        _ => found(None),
    }
}

/// The elements of a collection: all of them, or, if they keep their order, those that are shown.
fn gather(kind: Kind, value: ValueRef, options: &Options) -> Vec<Vec<u8>> {
    let all = !options.keeps_order();
    match kind {
        Kind::List => {
            let list = List::new(value);
            let range = if all { 0..list.len() } else { options.range(list.len()) };
            match options.descending && !all {
                false => list.iter_from(range.start).take(range.len()).map(<[u8]>::to_vec).collect(),
                true if range.is_empty() => Vec::new(),
                true => {
                    let last = list.len() - 1 - range.start;
                    list.iter_back_from(last).take(range.len()).map(<[u8]>::to_vec).collect()
                }
            }
        }
        Kind::SortedSet => {
            let set = SortedSet::new(value);
            let range = if all { 0..set.len() } else { options.range(set.len()) };
            let items = match options.descending && !all {
                false => set.items(range.start, range.end, false),
                true => set.items(set.len() - range.end, set.len() - range.start, true),
            };
            items.map(|(member, _)| member.to_vec()).collect()
        }
        _ => {
            let set = Set::new(value);
            let range = if all { 0..set.len() } else { options.range(set.len()) };
            let mut buffer = itoa::Buffer::new();
            let member = |member: crate::collection::set::Member| member.text(&mut buffer).to_vec();
            set.iter().skip(range.start).take(range.len()).map(member).collect()
        }
    }
}

fn can_be_sorted(kind: Kind) -> bool {
    matches!(kind, Kind::List | Kind::Set | Kind::SortedSet)
}

/// The keys that a command will read besides those that it names, which are all here. Some may be named several times.
pub fn looked_up(shard: &mut Shard, db: usize, hasher: &Hasher, args: Args) -> Vec<Vec<u8>> {
    // Whether it may store makes no difference: if not, it fails before it reads.
    let Ok(mut options) = Options::parse(args, true) else { return Vec::new() };
    let Some(entry) = shard.peek(db, &hasher.key(args[1])).filter(|entry| can_be_sorted(entry.kind)) else {
        return Vec::new();
    };
    options.adapt(entry.kind);
    // More than needed if only a few are shown of what is sorted: which these are is not known yet.
    let elements = gather(entry.kind, entry.collection(), &options);
    let by = options.by.into_iter().filter(|_| !options.keeps_order());
    let patterns: Vec<&[u8]> = by.chain(options.get.iter().copied()).collect();
    let names =
        |element: &Vec<u8>| patterns.iter().flat_map(|pattern| substitute(pattern, element)).collect::<Vec<_>>();
    let mut names: Vec<Vec<u8>> = elements.iter().flat_map(names).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// By what an element is ordered.
enum Weight {
    Number(f64),
    /// Nothing comes before everything.
    Text(Option<Vec<u8>>),
    /// The bytes of the element itself.
    Itself,
}

/// What C's `strtod` makes of a whole C string.
fn parse_weight(text: &[u8]) -> Option<f64> {
    let text = &text[..memchr::memchr(0, text).unwrap_or(text.len())];
    let blanks = text.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == b'\x0b').count();
    // Nothing at all is 0, but of blanks alone nothing is read.
    if text.is_empty() { Some(0.0) } else { parse_double(&text[blanks..]) }
}

fn weigh(ctx: &mut Ctx, options: &Options, element: &[u8]) -> Result<Weight, Error> {
    let number = |text: &[u8]| parse_weight(text).map(Weight::Number).ok_or(Error::NotSortable);
    match (options.by, options.alpha) {
        (None, true) => Ok(Weight::Itself),
        (None, false) => number(element),
        (Some(by), true) => Ok(Weight::Text(look_up(ctx, by, element, |found| found.map(<[u8]>::to_vec)))),
        (Some(by), false) => look_up(ctx, by, element, |found| found.map_or(Ok(Weight::Number(0.0)), number)),
    }
}

fn compare(a: &(Vec<u8>, Weight), b: &(Vec<u8>, Weight)) -> Ordering {
    match (&a.1, &b.1) {
        // No weight is NaN, and the two zeros are equal.
        (Weight::Number(x), Weight::Number(y)) => {
            x.partial_cmp(y).unwrap_or(Ordering::Equal).then_with(|| a.0.cmp(&b.0))
        }
        (Weight::Text(x), Weight::Text(y)) => x.cmp(y),
        _ => a.0.cmp(&b.0),
    }
}

/// The elements that are shown, in order.
fn sorted(ctx: &mut Ctx, key: &Key, options: &mut Options) -> Result<Vec<Vec<u8>>, Error> {
    let Some(entry) = ctx.read(key) else { return Ok(Vec::new()) };
    if !can_be_sorted(entry.kind) {
        return Err(Error::WrongType);
    }
    options.adapt(entry.kind);
    let elements = gather(entry.kind, entry.collection(), options);
    if options.keeps_order() {
        return Ok(elements);
    }
    let mut weighed = Vec::with_capacity(elements.len());
    let mut refused = None;
    for element in elements {
        match weigh(ctx, options, &element) {
            Ok(weight) => weighed.push((element, weight)),
            Err(error) => refused = Some(error),
        }
    }
    if let Some(error) = refused {
        return Err(error);
    }
    match options.descending {
        false => weighed.sort_by(compare),
        true => weighed.sort_by(|a, b| compare(b, a)),
    }
    let range = options.range(weighed.len());
    Ok(weighed.drain(range).map(|(element, _)| element).collect())
}

pub fn sort(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let mut options = Options::parse(args, true)?;
    let key = ctx.key(args[1]);
    let elements = sorted(ctx, &key, &mut options)?;
    match options.store {
        Some(destination) => store(ctx, &elements, &options.get, destination, reply),
        None => show(ctx, &elements, &options.get, reply),
    }
    Ok(())
}

pub fn sort_ro(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let mut options = Options::parse(args, false)?;
    let key = ctx.key(args[1]);
    let elements = sorted(ctx, &key, &mut options)?;
    show(ctx, &elements, &options.get, reply);
    Ok(())
}

fn show(ctx: &mut Ctx, elements: &[Vec<u8>], get: &[&[u8]], reply: &mut Reply) {
    reply.array(elements.len() * get.len().max(1));
    for element in elements {
        if get.is_empty() {
            reply.bulk(element);
        }
        for pattern in get {
            look_up(ctx, pattern, element, |found| match found {
                Some(text) => reply.bulk(text),
                None => reply.null(),
            });
        }
    }
}

fn store(ctx: &mut Ctx, elements: &[Vec<u8>], get: &[&[u8]], destination: &[u8], reply: &mut Reply) {
    let thresholds = ctx.thresholds;
    let logs = ctx.shard.effects.enabled();
    let mut value = Value::default();
    let mut logged: Vec<Vec<u8>> = Vec::new();
    let mut push = |item: &[u8]| {
        list::push(&mut value, End::Tail, item, thresholds);
        if logs {
            logged.push(item.to_vec());
        }
    };
    for element in elements {
        if get.is_empty() {
            push(element);
        }
        get.iter().for_each(|pattern| look_up(ctx, pattern, element, |found| push(found.unwrap_or_default())));
    }
    let len = elements.len() * get.len().max(1);
    let key = ctx.key(destination);
    let before = ctx.store(&key, Kind::List, value);
    if before {
        ctx.effect_is(&[b"DEL", destination]);
    }
    if len > 0 {
        ctx.changes += len as u64 - 1;
        let push: Vec<&[u8]> =
            [&b"RPUSH"[..], destination].into_iter().chain(logged.iter().map(Vec::as_slice)).collect();
        ctx.effect_is(&push);
        ctx.event(Classes::LIST, "sortstore", &key);
    } else if before {
        ctx.event(Classes::GENERIC, "del", &key);
    }
    reply.int(len as i64);
}
