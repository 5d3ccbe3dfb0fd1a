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
use crate::route::{Hasher, Key, hashtag, slot_of};
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

/// The option, BY or GET, whose pattern may make names of keys that are not in `slot`.
pub fn pattern_beyond(args: &[&[u8]], slot: u16) -> Option<&'static str> {
    let (mut by, mut get) = (false, false);
    options(args, |at, name| {
        let Some(&pattern) = args.get(at + 1) else { return };
        if name.eq_ignore_ascii_case(b"by") {
            // A constant is no name of a key; the last one counts.
            by = pattern.contains(&b'*') && pattern_slot(pattern) != Some(slot);
        } else if name.eq_ignore_ascii_case(b"get") {
            get |= pattern != SELF && pattern_slot(pattern) != Some(slot);
        }
    });
    by.then_some("BY").or(get.then_some("GET"))
}

/// The slot of every name that a pattern can make; None if an element can choose it.
fn pattern_slot(pattern: &[u8]) -> Option<u16> {
    let Some(star) = memchr::memchr(b'*', pattern) else { return Some(slot_of(pattern)) };
    let fixed = &pattern[..star];
    (hashtag(fixed).len() < fixed.len()).then(|| slot_of(fixed))
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
    let mut value = Value::default();
    let mut push = |item: &[u8]| list::push(&mut value, End::Tail, item, thresholds);
    for element in elements {
        if get.is_empty() {
            push(element);
        }
        get.iter().for_each(|pattern| look_up(ctx, pattern, element, |found| push(found.unwrap_or_default())));
    }
    let len = elements.len() * get.len().max(1);
    let key = ctx.key(destination);
    let before = ctx.store(&key, Kind::List, value);
    if len > 0 {
        ctx.changes += len as u64 - 1;
        ctx.event(Classes::LIST, "sortstore", &key);
    } else if before {
        ctx.event(Classes::GENERIC, "del", &key);
    }
    reply.int(len as i64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::shard_transcript::Transcript;

    fn split(line: &str) -> Vec<&[u8]> {
        line.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn keys_are_found_as_the_options_are_read() {
        for (line, stored, more) in [
            ("sort k", None, false),
            ("sort k store d", Some(3), false),
            ("sort k store d STORE e", Some(5), false),
            ("sort k by store get store", None, false),
            ("sort k limit store store store d", Some(6), false),
            ("sort k store by get w_*", Some(3), true),
            ("sort k store get by w_*", Some(3), true),
            ("sort k store", None, false),
            ("sort k by w_* by nosort", None, false),
            ("sort k by nosort by w_*", None, true),
            ("sort k get # get *", None, true),
            ("sort k alpha * desc", None, false),
            ("sort k get", None, false),
        ] {
            assert_eq!((stored_at(&split(line)), reads_more(&split(line))), (stored, more), "{line}");
        }
    }

    #[test]
    fn patterns() {
        let shown = |pattern: &'static str| {
            substitute(pattern.as_bytes(), b"e").map(|(name, field)| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                (text(&name), field.map(text))
            })
        };
        let some = |name: &str, field: Option<&str>| Some((name.to_string(), field.map(str::to_string)));
        assert_eq!(shown("w_*"), some("w_e", None));
        assert_eq!(shown("*_*"), some("e_*", None));
        assert_eq!(shown("h_*_x->f->g"), some("h_e_x", Some("f->g")));
        assert_eq!(shown("h_*->*"), some("h_e", Some("*")));
        assert_eq!(shown("h->*->"), some("h->e->", None));
        assert_eq!(shown("none"), None);
    }

    #[test]
    fn limits_are_cut_to_what_is_there() {
        let range = |start, count| Options { limit: (start, count), ..Options::default() }.range(5);
        assert_eq!(range(0, None), 0..5);
        assert_eq!(range(2, Some(2)), 2..4);
        assert_eq!(range(i64::MAX, Some(i64::MAX)), 5..5);
        assert_eq!(range(4, Some(i64::MAX)), 4..5);
        assert_eq!(range(0, Some(0)), 0..0);
    }

    #[test]
    fn what_is_no_number_cannot_be_sorted() {
        for (text, weight) in
            [("", Some(0.0)), (" 7", Some(7.0)), ("-0", Some(0.0)), ("0x10", Some(16.0)), ("1\0x", Some(1.0))]
        {
            assert_eq!(parse_weight(text.as_bytes()), weight, "{text:?}");
        }
        for text in [" ", "a", "1 ", "nan", "1e400", "1e-400"] {
            assert_eq!(parse_weight(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn transcript() {
        Transcript::check(
            r#"
            RPUSH l 3 1 10 2                            => :4
            SORT l                                      => *4|$1|1|$1|2|$1|3|$2|10
            SORT l ALPHA DESC LIMIT 1 2                 => *2|$1|2|$2|10
            SORT l BY nosort DESC LIMIT 1 2             => *2|$2|10|$1|1
            SORT l LIMIT 1 x                            => -ERR value is not an integer or out of range
            SORT l LIMIT 1                              => -ERR syntax error
            SORT_RO l STORE d                           => -ERR syntax error
            MSET w_1 5 w_2 b w_3 1 w_10 ""              => +OK
            SORT l BY w_*                               => -ERR One or more scores can't be converted into double
            SORT l BY w_* ALPHA GET # GET w_*           => *8|$2|10|$0||$1|3|$1|1|$1|1|$1|5|$1|2|$1|b
            HSET h_2 f v                                => :1
            SORT l GET h_*->f GET none                  => *8|$-1|$-1|$1|v|$-1|$-1|$-1|$-1|$-1
            SORT l GET h_*->f STORE l                   => :4
            LRANGE l 0 -1                               => *4|$0||$1|v|$0||$0|
            SADD s b a c                                => :3
            SORT s                                      => -ERR One or more scores can't be converted into double
            SORT s BY nosort STORE d                    => :3
            LRANGE d 0 -1                               => *3|$1|a|$1|b|$1|c
            ZADD z 3 a 1 b 2 c                          => :3
            SORT z ALPHA                                => *3|$1|a|$1|b|$1|c
            SORT z BY nosort                            => *3|$1|b|$1|c|$1|a
            SORT z BY nosort DESC LIMIT 0 2             => *2|$1|a|$1|c
            SORT nil STORE d                            => :0
            EXISTS d                                    => :0
            SORT w_1                                    => -WRONGTYPE Operation against a key holding the wrong kind of value
            "#,
        );
    }

    /// What was stored does not depend on any other key when it is replayed.
    #[test]
    fn effects_are_the_list_itself() {
        let mut core = Transcript::default();
        core.shard.effects.enable(true);
        core.run("MSET w_1 b w_2 a d x => +OK");
        core.run("RPUSH l 1 2 => :2");
        core.effects();
        core.run("SORT l BY w_* ALPHA GET # GET w_* STORE d => :4");
        assert_eq!(core.effects(), ["DEL d", "RPUSH d 2 a 1 b"]);
        core.run("SORT l BY nosort STORE new => :2");
        assert_eq!(core.effects(), ["RPUSH new 1 2"]);
        core.run("SORT nil STORE d => :0");
        core.run("SORT nil STORE d => :0");
        core.run("SORT l => *2|$1|1|$1|2");
        assert_eq!(core.effects(), ["DEL d"]);
    }
}
