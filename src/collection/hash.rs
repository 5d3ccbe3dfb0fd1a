//! Hashes.
//!
//! A compact hash is a [`pack`] of field, value, field, value; a large one a [`dict`](super::dict). It becomes large with
//! one field too many or a field or value too long, and never compact again, as in Redis 7.
//!
//! Owned by the core whose shard holds it.

use super::dict::{Fields, Pair};
use super::pack::{self, Pack};
use super::random::{Random, select};
use super::{Large, Thresholds, Value, ValueRef};

/// Longest compact hash, bytes: it is copied at every change.
const COMPACT_BYTES_MAX: usize = 64 * 1024;

/// A hash, for reading.
#[derive(Clone, Copy, Debug)]
pub enum Hash<'a> {
    Pack(Pack<'a>),
    Dict(&'a Fields),
}

impl<'a> Hash<'a> {
    #[inline]
    pub fn new(value: ValueRef<'a>) -> Self {
        match value {
            ValueRef::Compact(bytes) => Hash::Pack(Pack::new(bytes)),
            ValueRef::Large(Large::Hash(fields)) => Hash::Dict(fields),
            ValueRef::Large(_) => unreachable!("the value of a hash"),
        }
    }

    /// Fields.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Hash::Pack(pack) => pack.len() / 2,
            Hash::Dict(fields) => fields.len(),
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
        }
    }

    /// Visits all fields with their values; those of a pack as they were added.
    #[inline]
    pub fn visit(&self, visit: impl FnMut(Pair<'a>)) {
        match *self {
            Hash::Pack(pack) => pairs(pack).for_each(visit),
            Hash::Dict(fields) => fields.iter().for_each(visit),
        }
    }

    /// A random field, each equally likely. None if there is none.
    pub fn random(&self, random: &mut Random) -> Option<Pair<'a>> {
        match *self {
            _ if self.is_empty() => None,
            Hash::Pack(pack) => Some(pair_at(&pack, pack.offset_of(2 * random.below(self.len())))),
            Hash::Dict(fields) => fields.random(random).map(|place| fields.at(place)),
        }
    }

    /// Visits `count` different fields, every choice of so many equally likely.
    pub fn sample(&self, count: usize, random: &mut Random, visit: impl FnMut(Pair)) {
        match *self {
            Hash::Pack(pack) => select(pairs(pack), self.len(), count, random, visit),
            Hash::Dict(fields) => fields.sample(count, random, visit),
        }
    }

    /// See [`Fields::scan`](super::dict::Dict::scan). A compact hash is visited as a whole.
    pub fn scan(&self, cursor: u64, count: usize, visit: impl FnMut(Pair)) -> u64 {
        match *self {
            Hash::Pack(pack) => {
                pairs(pack).for_each(visit);
                0
            }
            Hash::Dict(fields) => fields.scan(cursor, count, visit),
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

/// Chooses the encoding for a hash to which `more` fields are about to be added.
pub fn expect(value: &mut Value, more: usize, thresholds: &Thresholds) {
    if more > thresholds.hash_max_listpack_entries {
        make_large(value);
    }
}

/// Gives `field` a value; true if the field is new.
pub fn set(value: &mut Value, field: &[u8], text: &[u8], thresholds: &Thresholds) -> bool {
    let Value::Compact(bytes) = value else { return make_large(value).insert(field, text) };
    let fits = field.len().max(text.len()) <= thresholds.hash_max_listpack_value
        && bytes.len() + field.len() + text.len() <= COMPACT_BYTES_MAX;
    if !fits {
        return make_large(value).insert(field, text);
    }
    let pack = Pack::new(bytes);
    if let Some(offset) = pack.find(field, 2) {
        let (_, offset) = pack.item(offset);
        pack::replace(bytes, offset, text);
        return false;
    }
    if pack.len() / 2 >= thresholds.hash_max_listpack_entries.min(pack::ITEMS_MAX / 2) {
        return make_large(value).insert(field, text);
    }
    pack::push_back(bytes, field);
    pack::push_back(bytes, text);
    true
}

/// Makes a hash large, if it is not.
fn make_large(value: &mut Value) -> &mut Fields {
    if let Value::Compact(bytes) = value {
        let mut fields = Fields::new();
        for (field, text) in pairs(Pack::new(bytes)) {
            fields.insert(field, text);
        }
        *value = Value::Large(Box::new(Large::Hash(fields)));
    }
    let Value::Large(large) = value else { unreachable!("it was just made large") };
    match &mut **large {
        Large::Hash(fields) => fields,
        _ => unreachable!("the value of a hash"),
    }
}

/// Removes `field`; false if it is not there.
pub fn remove(value: &mut Value, field: &[u8]) -> bool {
    let Value::Compact(bytes) = value else { return make_large(value).remove(field) };
    let Some(offset) = Pack::new(bytes).find(field, 2) else { return false };
    pack::remove(bytes, offset, 2);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    fn view(value: &Value) -> Hash<'_> {
        Hash::new(value.view())
    }

    fn is_large(value: &Value) -> bool {
        matches!(value, Value::Large(_))
    }

    #[test]
    fn encodings() {
        let t = Thresholds::default();
        let mut value = Value::default();
        for n in 0..128 {
            assert!(set(&mut value, format!("f{n}").as_bytes(), b"v", &t));
        }
        assert!(!set(&mut value, b"f5", &[b'x'; 64], &t));
        assert!(!is_large(&value));
        assert!(set(&mut value, b"f128", b"v", &t));
        assert!(is_large(&value));
        (0..129).for_each(|n| assert!(remove(&mut value, format!("f{n}").as_bytes())));
        assert!(is_large(&value) && value.is_empty());
        for (field, text) in [(64, 65), (65, 64), (65, 65), (64, 64)] {
            let mut value = Value::default();
            set(&mut value, &vec![b'f'; field], &vec![b't'; text], &t);
            assert_eq!(is_large(&value), field.max(text) == 65);
        }
        let mut value = Value::default();
        expect(&mut value, 128, &t);
        assert!(!is_large(&value));
        expect(&mut value, 129, &t);
        assert!(is_large(&value));
    }

    #[test]
    fn as_a_tree_in_both_encodings() {
        for seed in 0..60 {
            println!("seed {seed}");
            let mut random = Random::new(seed);
            let t = Thresholds {
                hash_max_listpack_entries: random.below(60),
                hash_max_listpack_value: random.below(40),
                ..Thresholds::default()
            };
            let (mut value, mut model) = (Value::default(), Model::new());
            for _ in 0..400 {
                let field = random.below(100).to_string().into_bytes();
                let text = vec![random.word() as u8; random.below(40)];
                match random.below(8) {
                    0..4 => {
                        let new = set(&mut value, &field, &text, &t);
                        assert_eq!(new, model.insert(field, text).is_none());
                    }
                    4..6 => assert_eq!(remove(&mut value, &field), model.remove(&field).is_some()),
                    _ => assert_eq!(view(&value).get(&field), model.get(&field).map(Vec::as_slice)),
                }
                let owned = |(field, text): Pair| (field.to_vec(), text.to_vec());
                let mut all = Model::new();
                view(&value).visit(|pair| all.extend([owned(pair)]));
                assert_eq!(all, model);
                assert_eq!((view(&value).len(), value.is_empty()), (model.len(), model.is_empty()));
                let mut seen = Model::new();
                let count = random.below(model.len() + 2);
                view(&value).sample(count, &mut random, |pair| seen.extend([owned(pair)]));
                assert_eq!(seen.len(), count.min(model.len()));
                let drawn = view(&value).random(&mut random).map(owned);
                assert_eq!(drawn.is_some(), !model.is_empty());
                seen.extend(drawn);
                assert!(seen.iter().all(|(field, text)| model.get(field) == Some(text)));
                let mut walked = Model::new();
                assert_eq!(view(&value).scan(0, 1000, |pair| walked.extend([owned(pair)])), 0);
                assert_eq!(walked, model);
            }
        }
    }
}
