//! Sets.
//!
//! A compact set is an [`intset`] while all its members are integers as [`canonical_i64`] reads them, otherwise a
//! [`pack`]. A large one is a [`dict`](super::dict). An encoding changes when a member is added that does not fit, in the
//! way of Redis 7.4: intset to pack, or to a dict if the pack would be too long, and pack to dict; and never back.
//!
//! Owned by the core whose shard holds it.

use super::dict::Members;
use super::intset::{self, Ints};
use super::pack::{self, Pack};
use super::random::{Random, select};
use super::{Large, Thresholds, Value, ValueRef};
use crate::resp::number::parse_i64 as canonical_i64;

/// Longest compact set, bytes: it is copied at every change.
const COMPACT_BYTES_MAX: usize = 64 * 1024;

/// A member; intsets hold no texts.
#[derive(Clone, Copy, Debug)]
pub enum Member<'a> {
    Int(i64),
    Bytes(&'a [u8]),
}

impl<'a> Member<'a> {
    /// The text of a member, in `buffer` if it is not text.
    #[inline]
    pub fn text<'b>(&self, buffer: &'b mut itoa::Buffer) -> &'b [u8]
    where
        'a: 'b,
    {
        match self {
            Member::Int(number) => buffer.format(*number).as_bytes(),
            Member::Bytes(bytes) => bytes,
        }
    }
}

/// A set, for reading.
#[derive(Clone, Copy, Debug)]
pub enum Set<'a> {
    Ints(Ints<'a>),
    Pack(Pack<'a>),
    Dict(&'a Members),
}

impl<'a> Set<'a> {
    #[inline]
    pub fn new(value: ValueRef<'a>) -> Self {
        match value {
            ValueRef::Compact(bytes) => match Ints::new(bytes) {
                Some(ints) => Set::Ints(ints),
                None => Set::Pack(Pack::new(bytes)),
            },
            ValueRef::Large(large) => Set::Dict(members(large)),
        }
    }

    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Set::Ints(ints) => ints.len(),
            Set::Pack(pack) => pack.len(),
            Set::Dict(members) => members.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of the encoding, as Redis would give it.
    pub fn encoding(&self) -> &'static str {
        match self {
            Set::Ints(_) => "intset",
            Set::Pack(_) => "listpack",
            Set::Dict(_) => "hashtable",
        }
    }

    #[inline]
    pub fn contains(&self, member: &[u8]) -> bool {
        match self {
            Set::Ints(ints) => canonical_i64(member).is_some_and(|number| ints.find(number).is_ok()),
            Set::Pack(pack) => pack.find(member, 1).is_some(),
            Set::Dict(members) => members.contains(member),
        }
    }

    /// As [`Set::contains`], for a member of another set.
    #[inline]
    pub fn has(&self, member: Member) -> bool {
        match (self, member) {
            (Set::Ints(ints), Member::Int(number)) => ints.find(number).is_ok(),
            _ => self.contains(member.text(&mut itoa::Buffer::new())),
        }
    }

    /// All members; those of an intset ascending, those of a pack as they were added.
    pub fn iter(&self) -> Box<dyn Iterator<Item = Member<'a>> + 'a> {
        match *self {
            Set::Ints(ints) => Box::new(ints.iter().map(Member::Int)),
            Set::Pack(pack) => Box::new(pack.iter().map(Member::Bytes)),
            Set::Dict(members) => Box::new(members.iter().map(|(key, _)| Member::Bytes(key))),
        }
    }

    /// Visits all members.
    #[inline]
    pub fn visit(&self, mut visit: impl FnMut(Member<'a>)) {
        match *self {
            Set::Ints(ints) => ints.iter().for_each(|number| visit(Member::Int(number))),
            Set::Pack(pack) => pack.iter().for_each(|member| visit(Member::Bytes(member))),
            Set::Dict(members) => members.iter().for_each(|(key, _)| visit(Member::Bytes(key))),
        }
    }

    /// A random member, each equally likely. None if there is none.
    pub fn random(&self, random: &mut Random) -> Option<Member<'a>> {
        if self.is_empty() {
            return None;
        }
        match *self {
            Set::Ints(ints) => Some(Member::Int(ints.get(random.below(ints.len())))),
            Set::Pack(pack) => pack.get(random.below(pack.len())).map(Member::Bytes),
            Set::Dict(members) => members.random(random).map(|place| Member::Bytes(members.at(place).0)),
        }
    }

    /// Visits `count` different members, every choice of so many equally likely.
    pub fn sample(&self, count: usize, random: &mut Random, mut visit: impl FnMut(Member)) {
        match self {
            Set::Dict(members) => members.sample(count, random, |(key, _)| visit(Member::Bytes(key))),
            compact => select(compact.iter(), compact.len(), count, random, visit),
        }
    }

    /// See [`Members::scan`](super::dict::Dict::scan). A compact set is visited as a whole.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(Member)) -> u64 {
        match self {
            Set::Dict(members) => members.scan(cursor, count, |(key, _)| visit(Member::Bytes(key))),
            compact => {
                compact.visit(visit);
                0
            }
        }
    }
}

/// Programmer's error: a collection of another type is not a set.
fn members(large: &Large) -> &Members {
    match large {
        Large::Set(members) => members,
        _ => unreachable!("the value of a set"),
    }
}

fn members_mut(large: &mut Large) -> &mut Members {
    match large {
        Large::Set(members) => members,
        _ => unreachable!("the value of a set"),
    }
}

/// Chooses the encoding for a set to which `more` members, the first of them `first`, are about to be added.
pub fn expect(value: &mut Value, first: &[u8], more: usize, thresholds: &Thresholds) {
    let Value::Compact(bytes) = value else { return };
    let (ints, pack) = (thresholds.set_max_intset_entries, thresholds.set_max_listpack_entries);
    let max = match Ints::new(bytes) {
        // Of a new set the first member decides, as far as integers go.
        Some(set) if set.is_empty() => {
            if canonical_i64(first).is_some() {
                ints.max(pack)
            } else {
                pack
            }
        }
        Some(_) => ints,
        None => pack,
    };
    if more > max {
        make_large(value);
    }
}

/// Adds `member`; false if it is there.
pub fn add(value: &mut Value, member: &[u8], thresholds: &Thresholds) -> bool {
    let bytes = match value {
        Value::Large(large) => return members_mut(large).insert(member, &[]),
        Value::Compact(bytes) => bytes,
    };
    let added = match Ints::new(bytes) {
        Some(ints) => match canonical_i64(member) {
            Some(number) if thresholds.set_max_intset_entries > 0 || !ints.is_empty() => {
                let added = intset::insert(bytes, number);
                let len = Ints::new(bytes).map_or(0, |ints| ints.len());
                if added && len > thresholds.set_max_intset_entries {
                    make_large(value);
                }
                return added;
            }
            _ => {
                fits_pack_of_ints(&ints, member, thresholds) && {
                    *bytes = pack_of_ints(&ints);
                    pack::push_back(bytes, member);
                    true
                }
            }
        },
        None => {
            let pack = Pack::new(bytes);
            if pack.find(member, 1).is_some() {
                return false;
            }
            let fits = pack.len() < thresholds.set_max_listpack_entries.min(pack::ITEMS_MAX)
                && member.len() <= thresholds.set_max_listpack_value
                && bytes.len() + member.len() <= COMPACT_BYTES_MAX;
            if fits {
                pack::push_back(bytes, member);
            }
            fits
        }
    };
    if !added {
        make_large(value).insert(member, &[]);
    }
    true
}

/// Whether an intset and a member that is no integer fit into a pack together.
fn fits_pack_of_ints(ints: &Ints, member: &[u8], thresholds: &Thresholds) -> bool {
    let digits = |number: i64| itoa::Buffer::new().format(number).len();
    let longest = match ints.len() {
        0 => 0,
        len => digits(ints.get(0)).max(digits(ints.get(len - 1))),
    };
    ints.len() < thresholds.set_max_listpack_entries.min(pack::ITEMS_MAX)
        && member.len().max(longest) <= thresholds.set_max_listpack_value
        && ints.len() * pack::item_bytes(longest) + member.len() <= COMPACT_BYTES_MAX
}

fn pack_of_ints(ints: &Ints) -> Vec<u8> {
    let mut bytes = Vec::new();
    ints.iter().for_each(|number| pack::push_back(&mut bytes, itoa::Buffer::new().format(number).as_bytes()));
    bytes
}

/// Makes a set large, if it is not.
fn make_large(value: &mut Value) -> &mut Members {
    if let Value::Compact(bytes) = value {
        let mut members = Members::new();
        for member in Set::new(ValueRef::Compact(bytes)).iter() {
            members.insert(member.text(&mut itoa::Buffer::new()), &[]);
        }
        *value = Value::Large(Box::new(Large::Set(members)));
    }
    let Value::Large(large) = value else { unreachable!("it was just made large") };
    members_mut(large)
}

/// Removes `member`; false if it is not there.
pub fn remove(value: &mut Value, member: &[u8]) -> bool {
    match value {
        Value::Large(large) => members_mut(large).remove(member),
        Value::Compact(bytes) => match Ints::new(bytes) {
            Some(_) => canonical_i64(member).is_some_and(|number| intset::remove(bytes, number)),
            None => match Pack::new(bytes).find(member, 1) {
                Some(offset) => {
                    pack::remove(bytes, offset, 1);
                    true
                }
                None => false,
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn view(value: &Value) -> Set<'_> {
        Set::new(value.view())
    }

    fn texts(value: &Value) -> BTreeSet<Vec<u8>> {
        view(value).iter().map(|member| member.text(&mut itoa::Buffer::new()).to_vec()).collect()
    }

    fn set_of(members: impl IntoIterator<Item = String>, thresholds: &Thresholds) -> Value {
        let mut value = Value::default();
        members.into_iter().for_each(|member| {
            add(&mut value, member.as_bytes(), thresholds);
        });
        value
    }

    /// As redis-server 7.4 says for the same members.
    #[test]
    fn encodings() {
        let t = Thresholds::default();
        let ints = |n: i64| (0..n).map(|n| n.to_string());
        let words = |n: i64| (0..n).map(|n| format!("w{n}"));
        let one = |text: &str| std::iter::once(text.to_string());
        let encoding = |value: &Value| view(value).encoding();
        assert_eq!(encoding(&set_of(ints(512), &t)), "intset");
        assert_eq!(encoding(&set_of(ints(513), &t)), "hashtable");
        assert_eq!(encoding(&set_of(words(128), &t)), "listpack");
        assert_eq!(encoding(&set_of(words(129), &t)), "hashtable");
        assert_eq!(encoding(&set_of(words(1).chain(ints(127)), &t)), "listpack");
        assert_eq!(encoding(&set_of(ints(127).chain(one("x")), &t)), "listpack");
        assert_eq!(encoding(&set_of(ints(128).chain(one("x")), &t)), "hashtable");
        assert_eq!(encoding(&set_of(one(&"x".repeat(64)), &t)), "listpack");
        assert_eq!(encoding(&set_of(one(&"x".repeat(65)), &t)), "hashtable");
        assert_eq!(encoding(&set_of(ints(3).chain(one(&"x".repeat(65))), &t)), "hashtable");
        // Not integers, because they do not print as themselves.
        for text in ["01", "+1", "-0", "", "9223372036854775808", "1.0"] {
            assert_eq!(encoding(&set_of(one(text), &t)), "listpack", "{text:?}");
        }
        let none = Thresholds { set_max_intset_entries: 0, set_max_listpack_entries: 0, ..t };
        assert_eq!(encoding(&set_of(ints(1), &none)), "hashtable");
        let no_ints = Thresholds { set_max_intset_entries: 0, ..t };
        assert_eq!(encoding(&set_of(ints(1), &no_ints)), "listpack");
        // Removing does not change an encoding.
        let mut value = set_of(words(129), &t);
        words(128).for_each(|word| assert!(remove(&mut value, word.as_bytes())));
        assert_eq!(encoding(&value), "hashtable");
        let mut value = set_of(ints(3).chain(one("x")), &t);
        assert!(remove(&mut value, b"x"));
        assert_eq!(encoding(&value), "listpack");
        assert_eq!(texts(&value), texts(&set_of(ints(3), &t)));
    }

    #[test]
    fn many_members_at_once_choose_the_encoding_first() {
        let t = Thresholds::default();
        let encoding = |value: &mut Value, first: &str, more| {
            expect(value, first.as_bytes(), more, &t);
            view(value).encoding()
        };
        assert_eq!(encoding(&mut Value::default(), "7", 512), "intset");
        assert_eq!(encoding(&mut Value::default(), "7", 513), "hashtable");
        assert_ne!(encoding(&mut Value::default(), "x", 128), "hashtable");
        assert_eq!(encoding(&mut Value::default(), "x", 129), "hashtable");
        assert_eq!(encoding(&mut set_of(["1".into()], &t), "x", 512), "intset");
        assert_eq!(encoding(&mut set_of(["a".into()], &t), "7", 128), "listpack");
        assert_eq!(encoding(&mut set_of(["a".into()], &t), "7", 129), "hashtable");
    }

    #[test]
    fn as_a_tree_in_all_encodings() {
        for seed in 0..60 {
            println!("seed {seed}");
            let mut random = Random::new(seed);
            let t = Thresholds {
                set_max_intset_entries: random.below(60),
                set_max_listpack_entries: random.below(60),
                set_max_listpack_value: random.below(12),
                ..Thresholds::default()
            };
            let (mut value, mut model) = (Value::default(), BTreeSet::new());
            let only_ints = random.below(2) == 0;
            for _ in 0..400 {
                let number = random.below(100);
                let text = if only_ints || random.below(3) > 0 { number.to_string() } else { format!("{number:08}") };
                let member = text.as_bytes();
                match random.below(8) {
                    0..4 => assert_eq!(add(&mut value, member, &t), model.insert(member.to_vec())),
                    4..6 => assert_eq!(remove(&mut value, member), model.remove(member)),
                    _ => assert_eq!(view(&value).contains(member), model.contains(member)),
                }
                assert_eq!(texts(&value), model);
                assert_eq!((view(&value).len(), value.is_empty()), (model.len(), model.is_empty()));
                let mut seen = BTreeSet::new();
                let count = random.below(model.len() + 2);
                view(&value).sample(count, &mut random, |member| {
                    assert!(seen.insert(member.text(&mut itoa::Buffer::new()).to_vec()));
                });
                assert!(seen.len() == count.min(model.len()) && seen.is_subset(&model));
                let drawn = view(&value).random(&mut random);
                assert_eq!(drawn.is_some(), !model.is_empty());
                assert!(drawn.is_none_or(|member| view(&value).has(member)));
                let mut walked = BTreeSet::new();
                let next = view(&value).scan(0, 1000, |member| {
                    walked.insert(member.text(&mut itoa::Buffer::new()).to_vec());
                });
                assert!(next == 0 && walked == model);
            }
        }
    }
}
