//! Hashes.
//!
//! A compact hash is a [`pack`](super::pack) of field, value, field, value; a large one a [`dict`](super::dict). It becomes
//! large with one field too many or a field or value too long, and never compact again, as in Redis 7.
//!
//! Fields may have deadlines: see [`compact`] and [`timed`]. The functions that change a hash know no time. It is for the
//! shard to remove a field whose deadline has come before anybody changes it ([`crate::shard`]); for reading,
//! [`Hash::at`] leaves out what the shard has not come to yet.
//!
//! Owned by the core whose shard holds it.

mod compact;
mod timed;

use super::deadlines::{Deadlines, Earliest};
use super::dict::{Fields, Pair};
use super::pack::{self, Pack};
use super::random::{Random, select};
use super::{Large, Thresholds, Value, ValueRef};
use crate::shard::{Clock, Deadline, Now, UnixMs};
pub use compact::PackAt;
pub use timed::{At, Timed};

/// Longest compact hash, bytes: it is copied at every change.
const COMPACT_BYTES_MAX: usize = 64 * 1024;
/// Fields of a compact hash, whatever the thresholds say: two items each, and one for the table of deadlines.
const COMPACT_FIELDS_MAX: usize = (pack::ITEMS_MAX - 1) / 2;

/// A hash, for reading.
#[derive(Clone, Copy, Debug)]
pub enum Hash<'a> {
    Pack(Pack<'a>),
    Dict(&'a Fields),
    /// Some fields are not to be seen.
    PackAt(PackAt<'a>),
    At(At<'a>),
}

impl<'a> Hash<'a> {
    /// With the fields whose deadlines have come.
    #[inline]
    pub fn new(value: ValueRef<'a>) -> Self {
        match value {
            ValueRef::Compact(bytes) => Hash::Pack(compact::parts(bytes).0),
            ValueRef::Large(Large::Hash(fields)) => Hash::Dict(fields),
            ValueRef::Large(Large::TimedHash(hash)) => Hash::Dict(&hash.fields),
            ValueRef::Large(_) => unreachable!("the value of a hash"),
        }
    }

    /// As it is now.
    #[inline]
    pub fn at(value: ValueRef<'a>, now: Now) -> Self {
        match value {
            ValueRef::Compact(bytes) if compact::is_timed(bytes) && compact::due(bytes, now) > 0 => {
                Hash::PackAt(PackAt::new(bytes, now))
            }
            ValueRef::Large(Large::TimedHash(hash)) if hash.deadlines.first_due(now).is_some() => {
                Hash::At(At { hash, now })
            }
            _ => Hash::new(value),
        }
    }

    /// Fields.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Hash::Pack(pack) => pack.len() / 2,
            Hash::Dict(fields) => fields.len(),
            Hash::PackAt(pack) => pack.iter().count(),
            Hash::At(hash) => hash.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a field.
    #[inline]
    pub fn get(&self, field: &[u8]) -> Option<&'a [u8]> {
        match *self {
            Hash::Pack(pack) => pack.find(field, 2).map(|offset| pair_at(&pack, offset).1),
            Hash::Dict(fields) => fields.get(field),
            Hash::PackAt(pack) => pack.iter().find(|pair| pair.0 == field).map(|pair| pair.1),
            Hash::At(hash) => hash.get(field),
        }
    }

    /// Visits all fields with their values; those of a pack as they were added.
    #[inline]
    pub fn visit(&self, visit: impl FnMut(Pair<'a>)) {
        match *self {
            Hash::Pack(pack) => pairs(pack).for_each(visit),
            Hash::Dict(fields) => fields.iter().for_each(visit),
            Hash::PackAt(pack) => pack.iter().for_each(visit),
            Hash::At(hash) => hash.iter().for_each(visit),
        }
    }

    /// A random field, each equally likely. None if there is none.
    pub fn random(&self, random: &mut Random) -> Option<Pair<'a>> {
        match *self {
            _ if self.is_empty() => None,
            Hash::Pack(pack) => Some(pair_at(&pack, pack.offset_of(2 * random.below(self.len())))),
            Hash::Dict(fields) => fields.random(random).map(|place| fields.at(place)),
            Hash::PackAt(pack) => pack.iter().nth(random.below(self.len())),
            Hash::At(hash) => hash.random(random),
        }
    }

    /// Visits `count` different fields, every choice of so many equally likely.
    pub fn sample(&self, count: usize, random: &mut Random, visit: impl FnMut(Pair)) {
        match *self {
            Hash::Pack(pack) => select(pairs(pack), self.len(), count, random, visit),
            Hash::Dict(fields) => fields.sample(count, random, visit),
            Hash::PackAt(pack) => select(pack.iter(), self.len(), count, random, visit),
            Hash::At(hash) => hash.sample(count, random, visit),
        }
    }

    /// See [`Fields::scan`](super::dict::Dict::scan). A compact hash is visited as a whole.
    pub fn scan(&self, cursor: u64, count: usize, visit: impl FnMut(Pair)) -> u64 {
        match *self {
            Hash::Pack(pack) => {
                pairs(pack).for_each(visit);
                0
            }
            Hash::PackAt(pack) => {
                pack.iter().for_each(visit);
                0
            }
            Hash::Dict(fields) => fields.scan(cursor, count, visit),
            Hash::At(hash) => hash.scan(cursor, count, visit),
        }
    }
}

fn pair_at<'a>(pack: &Pack<'a>, offset: usize) -> Pair<'a> {
    let (field, next) = pack.item(offset);
    (field, pack.item(next).0)
}

fn pairs<'a>(pack: Pack<'a>) -> impl Iterator<Item = Pair<'a>> {
    let mut items = pack.iter();
    std::iter::from_fn(move || Some((items.next()?, items.next()?)))
}

/// Name of the encoding of a compact hash.
pub(super) fn compact_encoding(bytes: &[u8]) -> &'static str {
    if compact::is_timed(bytes) { "listpackex" } else { "listpack" }
}

/// The deadline of a field that is there (None: it has none), or None if it is not.
pub fn deadline(value: ValueRef, field: &[u8]) -> Option<Option<Deadline>> {
    match value {
        ValueRef::Compact(bytes) => compact::deadline(bytes, field),
        ValueRef::Large(Large::TimedHash(hash)) => hash.deadline(field),
        _ => Hash::new(value).get(field).map(|_| None),
    }
}

/// The earliest moment on each clock at which a field is over.
#[inline]
pub fn next_deadlines(value: ValueRef) -> Earliest {
    match value {
        ValueRef::Compact(bytes) => compact::next(bytes),
        ValueRef::Large(Large::TimedHash(hash)) => hash.deadlines.next(),
        ValueRef::Large(_) => Earliest::default(),
    }
}

/// Latest moment at which a field may expire, Unix ms: that of Redis, the year 4199.
pub const MOMENT_MS_MAX: UnixMs = 0xFFFF_FFFF_FFFF >> 2;

/// Up to `count` of the fields that have a deadline on `clock`, with its ms, earliest first, from the one of this rank on.
pub fn deadlines(value: ValueRef<'_>, clock: Clock, from: usize, count: usize) -> Vec<(&[u8], i64)> {
    match value {
        ValueRef::Compact(bytes) => {
            let (pairs, table) = compact::parts(bytes);
            let mut rows: Vec<(i64, usize)> = (table.into_iter().flat_map(compact::rows))
                .filter(|row| row.1.clock() == clock)
                .map(|(index, deadline)| (deadline.ms(), index))
                .collect();
            rows.sort_unstable();
            let field = |index| pairs.item(pairs.offset_of(2 * index)).0;
            rows.into_iter().skip(from).take(count).map(|(ms, index)| (field(index), ms)).collect()
        }
        ValueRef::Large(Large::TimedHash(hash)) => hash.deadlines.items(clock, from).take(count).collect(),
        ValueRef::Large(_) => Vec::new(),
    }
}

/// The earliest moment at which a field is over, as the wall clock shows it; Unix ms.
pub fn first_deadline(value: ValueRef, now: Now) -> Option<UnixMs> {
    let next = next_deadlines(value);
    let shown = |clock: Clock| next[clock as usize].map(|ms| now.wall_of(Deadline::new(clock, ms)));
    Clock::ALL.into_iter().filter_map(shown).min()
}

/// Visits the fields as they are now, with their values and deadlines; in a compact hash as for [`Hash::at`].
pub fn visit_with_deadlines<'a>(value: ValueRef<'a>, now: Now, mut visit: impl FnMut(Pair<'a>, Option<Deadline>)) {
    match value {
        ValueRef::Compact(bytes) => compact::visit(bytes, visit),
        ValueRef::Large(Large::TimedHash(hash)) => {
            At { hash, now }.iter().for_each(|pair| visit(pair, hash.deadlines.get(pair.0)));
        }
        ValueRef::Large(_) => Hash::new(value).visit(|pair| visit(pair, None)),
    }
}

/// Fields whose deadlines have come.
pub fn due(value: ValueRef, now: Now) -> usize {
    match value {
        ValueRef::Compact(bytes) => compact::due(bytes, now),
        ValueRef::Large(Large::TimedHash(hash)) => hash.deadlines.due(now),
        ValueRef::Large(_) => 0,
    }
}

/// Chooses the encoding for a hash to which `more` fields are about to be added.
pub fn expect(value: &mut Value, more: usize, thresholds: &Thresholds) {
    if more > thresholds.hash_max_listpack_entries {
        make_large(value);
    }
}

/// Gives `field` a value, and takes its deadline away; true if the field is new.
pub fn set(value: &mut Value, field: &[u8], text: &[u8], thresholds: &Thresholds) -> bool {
    let new = update(value, field, text, thresholds);
    if !new {
        set_deadline(value, field, None);
    }
    new
}

/// Gives `field` a value, and leaves its deadline as it is; true if the field is new.
pub fn update(value: &mut Value, field: &[u8], text: &[u8], thresholds: &Thresholds) -> bool {
    let Value::Compact(bytes) = value else { return make_large(value).insert(field, text) };
    let fits = field.len().max(text.len()) <= thresholds.hash_max_listpack_value
        && bytes.len() + field.len() + text.len() <= COMPACT_BYTES_MAX;
    if !fits {
        return make_large(value).insert(field, text);
    }
    let pairs = compact::parts(bytes).0;
    if let Some(offset) = pairs.find(field, 2) {
        let (_, offset) = pairs.item(offset);
        pack::replace(bytes, offset, text);
        return false;
    }
    if pairs.len() / 2 >= thresholds.hash_max_listpack_entries.min(COMPACT_FIELDS_MAX) {
        return make_large(value).insert(field, text);
    }
    compact::push(bytes, field, text);
    true
}

/// Sees to it that [`Hash::at`] does not show fields that are due, although they stay.
pub fn hide_due(value: &mut Value) {
    make_large(value);
}

/// Makes a hash large, if it is not; its fields.
fn make_large(value: &mut Value) -> &mut Fields {
    if let Value::Compact(bytes) = value {
        let (pack, table) = compact::parts(bytes);
        let (mut fields, mut deadlines) = (Fields::new(), Deadlines::default());
        for (field, text) in pairs(pack) {
            fields.insert(field, text);
        }
        for (index, deadline) in table.into_iter().flat_map(compact::rows) {
            deadlines.set(pack.item(pack.offset_of(2 * index)).0, deadline);
        }
        *value = Value::Large(Box::new(large(fields, deadlines)));
    }
    let Value::Large(large) = value else { unreachable!("it was just made large") };
    match &mut **large {
        Large::Hash(fields) => fields,
        Large::TimedHash(hash) => &mut hash.fields,
        _ => unreachable!("the value of a hash"),
    }
}

fn large(fields: Fields, deadlines: Deadlines) -> Large {
    if deadlines.is_empty() { Large::Hash(fields) } else { Large::TimedHash(Timed { fields, deadlines }) }
}

/// Removes `field`, with its deadline; false if it is not there.
pub fn remove(value: &mut Value, field: &[u8]) -> bool {
    let Value::Compact(bytes) = value else {
        set_deadline(value, field, None);
        return make_large(value).remove(field);
    };
    let Some((index, offset)) = compact::position(&compact::parts(bytes).0, field) else { return false };
    compact::remove(bytes, index, offset);
    true
}

/// Gives a field that is there a deadline, or takes it away. Returns whether that is a change.
pub fn set_deadline(value: &mut Value, field: &[u8], deadline: Option<Deadline>) -> bool {
    if let Value::Compact(bytes) = value {
        if deadline.is_none() && !compact::is_timed(bytes) {
            return false;
        }
        if deadline.is_none() || bytes.len() < COMPACT_BYTES_MAX {
            let index = compact::position(&compact::parts(bytes).0, field).map(|(index, _)| index);
            return index.is_some_and(|index| compact::set_deadline(bytes, index, deadline));
        }
        make_large(value);
    }
    let Value::Large(boxed) = value else { unreachable!("it was just made large") };
    match (&mut **boxed, deadline) {
        (Large::TimedHash(hash), None) => {
            let changed = hash.deadlines.remove(field);
            if hash.deadlines.is_empty() {
                **boxed = Large::Hash(std::mem::take(&mut hash.fields));
            }
            changed
        }
        (Large::TimedHash(hash), Some(deadline)) => {
            let changed = hash.deadlines.get(field) != Some(deadline);
            hash.deadlines.set(field, deadline);
            changed
        }
        (Large::Hash(fields), Some(deadline)) => {
            let mut deadlines = Deadlines::default();
            deadlines.set(field, deadline);
            **boxed = large(std::mem::take(fields), deadlines);
            true
        }
        _ => false,
    }
}

/// Removes fields whose deadlines have come, after showing each to `seen`; their number. All of a compact hash, and up to
/// `max` of a large one.
pub fn take_due(value: &mut Value, now: Now, max: usize, seen: impl FnMut(&[u8], Deadline)) -> usize {
    match value {
        Value::Compact(bytes) => compact::take_due(bytes, now, seen),
        Value::Large(boxed) => {
            let Large::TimedHash(hash) = &mut **boxed else { return 0 };
            let taken = hash.take_due(now, max, seen);
            if hash.deadlines.is_empty() {
                **boxed = Large::Hash(std::mem::take(&mut hash.fields));
            }
            taken
        }
    }
}

/// Checks the structure.
#[cfg(test)]
pub fn validate(value: ValueRef) {
    match value {
        ValueRef::Compact(bytes) => compact::validate(bytes),
        ValueRef::Large(Large::TimedHash(hash)) => {
            assert!(!hash.deadlines.is_empty());
            let names = crate::shard::Clock::ALL.map(|clock| hash.deadlines.on(clock)).concat();
            assert!(names.iter().all(|(name, _)| hash.fields.contains(name)));
        }
        ValueRef::Large(_) => {}
    }
}

#[cfg(test)]
mod tests;
