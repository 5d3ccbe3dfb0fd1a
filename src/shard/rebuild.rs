//! From an entry to the statements that rebuild it: what a snapshot and a full copy consist of, and how an effect writes
//! a value that was moved or computed from others.
//!
//! ```text
//! string        SET k v [PXAT ms]
//! list          RPUSH k item ...          in pieces
//! set           SADD k member ...
//! hash          HSET k field value ...    then HPEXPIREAT k ms FIELDS n field ... for each moment
//! sorted set    ZADD k score member ...
//! collections   PEXPIREAT k ms            at the end
//! ```
//!
//! They make the entry where nothing is at the key; only `SET` also replaces what is there. All moments are those of the
//! wall clock ([`super::clock`]). Fields that are over and were not removed yet are written like others: their removal is
//! an effect that is still to come.
//!
//! A large collection can be visited in several calls, as long as it does not change in between: a [`Cursor`] says where
//! to go on, in whole chunks of a list, segments of a dict, and ranks of a sorted set.
//!
//! # Negative zeros
//!
//! A compact sorted set has no -0, a large one has. A rebuilt one is compact at first, so -0 would become 0 in it. Hence a
//! large one gets its negative zeros once more, when it is as large as it will be: `ZREM`, `ZADD`. What has become so
//! small that it is compact when it is rebuilt has none afterwards, as with any such set.
//!
//! No state. Owned by the core whose shard holds the entry.

use super::{Clock, EntryRef, Key, Kind, Now, Shard, Str, UnixMs};
use crate::collection::ValueRef;
use crate::collection::hash::{self, Hash, MOMENT_MS_MAX};
use crate::collection::list::List;
use crate::collection::set::Set;
use crate::collection::sorted::{Cut, SortedSet};
use crate::resp::number::DoubleText;

/// Elements of one statement at the most.
pub const STATEMENT_ELEMENTS_MAX: usize = 512;
/// Bytes of the elements of one statement at the most, unless a single one is larger.
pub const STATEMENT_BYTES_MAX: usize = 64 * 1024;

/// Elements of more bytes than this count for several.
const ELEMENT_BYTES: usize = STATEMENT_BYTES_MAX / STATEMENT_ELEMENTS_MAX;

/// Items of a sorted set that are visited in one step.
const STEP_RANKS: usize = 64;

/// What comes next when a collection is rebuilt. The default is the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    part: Part,
    /// A chunk, a segment or a rank, according to the type.
    at: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Elements,
    NegativeZeros,
    Deadlines(Clock),
    Expiry,
}

impl Cursor {
    fn of(part: Part) -> Cursor {
        Cursor { part, at: 0 }
    }
}

impl Shard {
    /// Visits all statements that rebuild what is at `key`, without counting, touching or expiring: nothing if it is over, and
    /// this shard decides that.
    pub fn rebuild(&self, db: usize, key: &Key, visit: impl FnMut(&[&[u8]])) {
        if let Some(entry) = self.look(db, key) {
            rebuild(key.bytes, entry, self.now, visit);
        }
    }

    /// As [`rebuild_some`], for what is at `key`; None also if nothing is there.
    pub fn rebuild_some(
        &self,
        db: usize,
        key: &Key,
        from: Cursor,
        elements: usize,
        visit: impl FnMut(&[&[u8]]),
    ) -> Option<Cursor> {
        rebuild_some(key.bytes, self.look(db, key)?, self.now, from, elements, visit)
    }

    /// The entry of `key` that is not gone, without counting, touching or expiring.
    fn look(&self, db: usize, key: &Key) -> Option<EntryRef<'_>> {
        let (_, handle) = self.find(db, key)?;
        (!self.is_gone(db, handle)).then(|| self.entry(handle))
    }
}

/// Visits all statements that rebuild `entry` at `key`.
#[inline]
pub fn rebuild(key: &[u8], entry: EntryRef, now: Now, mut visit: impl FnMut(&[&[u8]])) {
    if entry.kind == Kind::String {
        return rebuild_string(key, entry.value, entry.expire_at, visit);
    }
    let mut cursor = Some(Cursor::default());
    while let Some(from) = cursor {
        cursor = rebuild_some(key, entry, now, from, usize::MAX, &mut visit);
    }
}

#[inline]
fn rebuild_string(key: &[u8], value: Str, expire_at: Option<UnixMs>, mut visit: impl FnMut(&[&[u8]])) {
    match expire_at {
        None => visit(&[b"SET", key, value.bytes()]),
        Some(at) => visit(&[b"SET", key, value.bytes(), b"PXAT", itoa::Buffer::new().format(at.max(1)).as_bytes()]),
    }
}

/// Visits statements that rebuild `entry` at `key` from `from` on, until they have about `elements` elements or are all;
/// returns where to go on. The collection must not change before that. An element of more than 128 bytes counts for several.
///
/// A call visits whole chunks of a list and segments of a dict: the last one may be too much.
pub fn rebuild_some(
    key: &[u8],
    entry: EntryRef,
    now: Now,
    from: Cursor,
    elements: usize,
    mut visit: impl FnMut(&[&[u8]]),
) -> Option<Cursor> {
    if entry.kind == Kind::String {
        rebuild_string(key, entry.value, entry.expire_at, visit);
        return None;
    }
    let (value, mut cursor, mut left) = (entry.collection(), from, elements.max(1));
    while left > 0 {
        let visited = match cursor.part {
            Part::Elements => visit_elements(key, entry.kind, value, &mut cursor, left, &mut visit),
            Part::NegativeZeros => visit_negative_zeros(key, value, &mut cursor, &mut visit),
            Part::Deadlines(clock) => visit_deadlines(key, value, now, clock, &mut cursor, &mut visit),
            Part::Expiry => {
                if let Some(at) = entry.expire_at {
                    visit(&[b"PEXPIREAT", key, itoa::Buffer::new().format(at.max(1)).as_bytes()]);
                }
                return None;
            }
        };
        left = left.saturating_sub(visited);
    }
    Some(cursor)
}

/// Visits elements until there are `count` or no more, and sets the cursor; how many.
fn visit_elements(
    key: &[u8],
    kind: Kind,
    value: ValueRef,
    cursor: &mut Cursor,
    count: usize,
    visit: &mut impl FnMut(&[&[u8]]),
) -> usize {
    let mut piece = Piece::new(kind, key);
    while piece.weight < count {
        let next = match kind {
            Kind::List => piece.chunk(List::new(value), cursor.at, visit),
            Kind::Set => piece.members(Set::new(value), cursor.at, visit),
            Kind::Hash => piece.fields(Hash::new(value), cursor.at, visit),
            Kind::SortedSet => piece.ranks(SortedSet::new(value), cursor.at, visit),
            Kind::String => None,
        };
        let Some(next) = next else {
            *cursor = Cursor::of(match (kind, value) {
                (Kind::Hash, _) => Part::Deadlines(Clock::Wall),
                (Kind::SortedSet, ValueRef::Large(_)) => Part::NegativeZeros,
                _ => Part::Expiry,
            });
            break;
        };
        cursor.at = next;
    }
    piece.flush(visit);
    piece.weight
}

/// Visits up to a piece of the items whose score is zero, and writes those again for which it is -0.
fn visit_negative_zeros(key: &[u8], value: ValueRef, cursor: &mut Cursor, visit: &mut impl FnMut(&[&[u8]])) -> usize {
    let set = SortedSet::new(value);
    let [start, end] = [false, true].map(|equal| set.before(&Cut::Score { score: 0.0, equal }));
    // Never all at once: a set that has lost its last member begins as a compact one.
    let count = STATEMENT_ELEMENTS_MAX.min(set.len().saturating_sub(1)).min(end - start - cursor.at.min(end - start));
    if count == 0 {
        *cursor = Cursor::of(Part::Expiry);
        return 0;
    }
    let from = start + cursor.at;
    let (mut members, mut bytes, mut seen) = (Vec::new(), 0, 0);
    for (member, score) in set.items(from, from + count, false) {
        if score.is_sign_negative() {
            bytes += member.len();
            if bytes > STATEMENT_BYTES_MAX && !members.is_empty() {
                break;
            }
            members.push(member);
        }
        seen += 1;
    }
    if !members.is_empty() {
        visit(&[&[b"ZREM", key], &members[..]].concat());
        let pairs = members.iter().flat_map(|&member| [&b"-0"[..], member]);
        visit(&[&b"ZADD"[..], key].into_iter().chain(pairs).collect::<Vec<&[u8]>>());
    }
    cursor.at += seen;
    seen
}

/// Visits up to a piece of the fields with deadlines on one clock.
fn visit_deadlines(
    key: &[u8],
    value: ValueRef,
    now: Now,
    clock: Clock,
    cursor: &mut Cursor,
    visit: &mut impl FnMut(&[&[u8]]),
) -> usize {
    let fields = hash::deadlines(value, clock, cursor.at, STATEMENT_ELEMENTS_MAX);
    if fields.is_empty() {
        *cursor = Cursor::of(if clock == Clock::Wall { Part::Deadlines(Clock::Steady) } else { Part::Expiry });
        return 0;
    }
    for group in fields.chunk_by(|a, b| a.1 == b.1) {
        let at = now.wall_of(super::Deadline::new(clock, group[0].1)).clamp(0, MOMENT_MS_MAX);
        let mut rest = group;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |field: &&(&[u8], i64)| {
                bytes += field.0.len();
                bytes <= STATEMENT_BYTES_MAX
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (mut ms, mut number) = (itoa::Buffer::new(), itoa::Buffer::new());
            let head: [&[u8]; 5] =
                [b"HPEXPIREAT", key, ms.format(at).as_bytes(), b"FIELDS", number.format(count).as_bytes()];
            visit(&head.into_iter().chain(rest[..count].iter().map(|field| field.0)).collect::<Vec<&[u8]>>());
            rest = &rest[count..];
        }
    }
    cursor.at += fields.len();
    fields.len()
}

/// A word of a statement that is being gathered.
enum Word<'v> {
    Slice(&'v [u8]),
    /// Where it ends in [`Piece::texts`]; it begins where the one before it ends.
    Text(usize),
}

/// A statement that is being gathered.
struct Piece<'k, 'v> {
    name: &'static [u8],
    key: &'k [u8],
    words: Vec<Word<'v>>,
    /// Numbers, one after the other.
    texts: Vec<u8>,
    elements: usize,
    bytes: usize,
    /// Elements of this statement and those before it, as they are counted.
    weight: usize,
}

impl<'k, 'v> Piece<'k, 'v> {
    fn new(kind: Kind, key: &'k [u8]) -> Self {
        let name: &[u8] = match kind {
            Kind::String => b"SET",
            Kind::List => b"RPUSH",
            Kind::Set => b"SADD",
            Kind::Hash => b"HSET",
            Kind::SortedSet => b"ZADD",
        };
        Piece { name, key, words: Vec::new(), texts: Vec::new(), elements: 0, bytes: 0, weight: 0 }
    }

    /// Begins an element of so many bytes.
    fn begin(&mut self, bytes: usize, visit: &mut impl FnMut(&[&[u8]])) {
        if self.elements == STATEMENT_ELEMENTS_MAX || (self.elements > 0 && self.bytes + bytes > STATEMENT_BYTES_MAX) {
            self.flush(visit);
        }
        self.elements += 1;
        self.bytes += bytes;
        self.weight += 1 + bytes / ELEMENT_BYTES;
    }

    fn text(&mut self, text: &[u8]) {
        self.texts.extend_from_slice(text);
        self.words.push(Word::Text(self.texts.len()));
    }

    fn flush(&mut self, visit: &mut impl FnMut(&[&[u8]])) {
        if self.elements == 0 {
            return;
        }
        let mut line: Vec<&[u8]> = Vec::with_capacity(2 + self.words.len());
        line.extend([self.name, self.key]);
        let mut start = 0;
        line.extend(self.words.iter().map(|word| match *word {
            Word::Slice(bytes) => bytes,
            Word::Text(end) => &self.texts[std::mem::replace(&mut start, end)..end],
        }));
        visit(&line);
        drop(line);
        self.words.clear();
        self.texts.clear();
        (self.elements, self.bytes) = (0, 0);
    }

    /// Adds a chunk of a list. As the functions that follow, it returns where to go on; None if nothing is there.
    fn chunk(&mut self, list: List<'v>, at: usize, visit: &mut impl FnMut(&[&[u8]])) -> Option<usize> {
        let items = list.chunk(at)?;
        for item in items.iter() {
            self.begin(item.len(), visit);
            self.words.push(Word::Slice(item));
        }
        Some(at + 1)
    }

    fn members(&mut self, set: Set<'v>, at: usize, visit: &mut impl FnMut(&[&[u8]])) -> Option<usize> {
        let mut add = |member: &'v [u8]| {
            self.begin(member.len(), visit);
            self.words.push(Word::Slice(member));
        };
        match set {
            Set::Dict(members) => members.segment(at)?.for_each(|(member, _)| add(member)),
            _ if at > 0 => return None,
            Set::Pack(pack) => pack.iter().for_each(add),
            Set::Ints(ints) => {
                for number in ints.iter() {
                    let mut digits = itoa::Buffer::new();
                    let text = digits.format(number).as_bytes();
                    self.begin(text.len(), visit);
                    self.text(text);
                }
            }
        }
        Some(at + 1)
    }

    fn fields(&mut self, hash: Hash<'v>, at: usize, visit: &mut impl FnMut(&[&[u8]])) -> Option<usize> {
        let mut add = |(field, text): (&'v [u8], &'v [u8])| {
            self.begin(field.len() + text.len(), visit);
            self.words.extend([Word::Slice(field), Word::Slice(text)]);
        };
        match hash {
            Hash::Dict(fields) => fields.segment(at)?.for_each(add),
            _ if at > 0 => return None,
            compact => compact.visit(&mut add),
        }
        Some(at + 1)
    }

    fn ranks(&mut self, set: SortedSet<'v>, at: usize, visit: &mut impl FnMut(&[&[u8]])) -> Option<usize> {
        let items = set.items(at, at + STEP_RANKS, false);
        let count = items.len();
        for (member, score) in items {
            self.begin(member.len() + size_of::<f64>(), visit);
            self.score(score);
            self.words.push(Word::Slice(member));
        }
        (count > 0).then_some(at + count)
    }

    /// A score as replies print it, which reads back as the same number.
    fn score(&mut self, score: f64) {
        let whole = score as i64;
        // Up to here integers are exact, and read as such.
        if whole.unsigned_abs() < 1 << f64::MANTISSA_DIGITS && (whole as f64).to_bits() == score.to_bits() {
            self.text(itoa::Buffer::new().format(whole).as_bytes());
        } else {
            self.text(DoubleText::new(score).as_bytes());
        }
    }
}
