//! Tests of reading and writing as a whole: round trips of our values, and payloads of real servers.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::collection::list::{End, List};
use crate::collection::set::Set;
use crate::collection::sorted::SortedSet;
use crate::collection::{Thresholds, Value, hash, list, set, sorted};
use crate::shard::{Clock, Deadline, Kind, Now, UnixMs};

const NOW_MS: UnixMs = 1_700_000_000_000;

/// A value in its plainest form. Hashes have deadlines, ms after [`NOW_MS`].
#[derive(Clone, Debug, PartialEq)]
enum Plain {
    String(Vec<u8>),
    List(Vec<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    SortedSet(BTreeMap<Vec<u8>, f64>),
    Hash(BTreeMap<Vec<u8>, (Vec<u8>, Option<UnixMs>)>),
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..12),
        3 => any::<i64>().prop_map(|n| n.to_string().into_bytes()),
        3 => (-200i64..200).prop_map(|n| n.to_string().into_bytes()),
        1 => (any::<u8>(), 50..300usize).prop_map(|(byte, len)| vec![byte; len]),
        1 => (any::<u8>(), prop_oneof![Just(16_383usize), Just(16_384), Just(STATEMENT_BYTES_MAX + 1)])
            .prop_map(|(byte, len)| vec![byte; len]),
    ]
}

fn score() -> impl Strategy<Value = f64> {
    let special = [0.0, 1.0, -1.5, f64::INFINITY, f64::NEG_INFINITY, 5e-324, 1e300, 2147483648.0];
    prop_oneof![prop::sample::select(special.to_vec()), any::<f64>().prop_filter("a number", |score| !score.is_nan())]
        .prop_map(|score| score + 0.0)
}

fn plain() -> impl Strategy<Value = Plain> {
    let deadline = prop::option::of(1..100_000i64);
    prop_oneof![
        text().prop_map(Plain::String),
        prop::collection::vec(text(), 1..40).prop_map(Plain::List),
        prop::collection::vec(0..9u8, STATEMENT_ELEMENTS_MAX - 1..STATEMENT_ELEMENTS_MAX + 3)
            .prop_map(|items| Plain::List(items.into_iter().map(|n| vec![n; n as usize]).collect())),
        prop::collection::btree_set(text(), 1..40).prop_map(Plain::Set),
        prop::collection::btree_set(any::<i16>().prop_map(|n| n.to_string().into_bytes()), 1..40).prop_map(Plain::Set),
        prop::collection::btree_map(text(), score(), 1..40).prop_map(Plain::SortedSet),
        prop::collection::btree_map(text(), (text(), Just(None)), 1..40).prop_map(Plain::Hash),
        prop::collection::btree_map(text(), (text(), deadline), 1..40).prop_map(Plain::Hash),
    ]
}

fn thresholds() -> impl Strategy<Value = Thresholds> {
    (0..50usize, 0..50usize, 0..80usize, prop_oneof![Just(-2i64), 1..8i64]).prop_map(|(entries, more, value, list)| {
        Thresholds {
            hash_max_listpack_entries: entries,
            hash_max_listpack_value: value,
            set_max_intset_entries: more,
            set_max_listpack_entries: entries,
            set_max_listpack_value: value,
            zset_max_listpack_entries: more,
            zset_max_listpack_value: value,
            list_max_listpack_size: list,
        }
    })
}

/// Our own form of a value. Deadlines are on both clocks.
fn built(plain: &Plain, thresholds: &Thresholds) -> Restored {
    let mut value = Value::default();
    let kind = match plain {
        Plain::String(text) => return Restored::String(text.clone()),
        Plain::List(items) => {
            items.iter().for_each(|item| list::push(&mut value, End::Tail, item, thresholds));
            Kind::List
        }
        Plain::Set(members) => {
            members.iter().for_each(|member| assert!(set::add(&mut value, member, thresholds)));
            Kind::Set
        }
        Plain::SortedSet(members) => {
            members.iter().for_each(|(member, &score)| {
                sorted::insert(&mut value, thresholds, member, score);
            });
            Kind::SortedSet
        }
        Plain::Hash(fields) => {
            for (n, (field, (text, ms))) in fields.iter().enumerate() {
                hash::set(&mut value, field, text, thresholds);
                let clock = if n % 2 == 0 { Clock::Wall } else { Clock::Steady };
                let at = |ms| now().deadline(clock, if clock == Clock::Wall { NOW_MS + ms } else { ms });
                hash::set_deadline(&mut value, field, ms.and_then(at));
            }
            Kind::Hash
        }
    };
    Restored::Collection { kind, value, fields_over: 0 }
}

/// The clocks disagree by an hour.
fn now() -> Now {
    Now { wall_ms: NOW_MS, steady_ms: NOW_MS - 3_600_000 }
}

fn plain_of(value: &Restored) -> Plain {
    let (kind, value) = match value {
        Restored::String(text) => return Plain::String(text.clone()),
        Restored::Collection { kind, value, .. } => (*kind, value.view()),
    };
    match kind {
        Kind::List => Plain::List(List::new(value).iter_from(0).map(<[u8]>::to_vec).collect()),
        Kind::Set => {
            Plain::Set(Set::new(value).iter().map(|member| member.text(&mut itoa::Buffer::new()).to_vec()).collect())
        }
        Kind::SortedSet => {
            Plain::SortedSet(SortedSet::new(value).iter().map(|(member, score)| (member.to_vec(), score)).collect())
        }
        Kind::Hash => {
            let mut fields = BTreeMap::new();
            hash::visit_with_deadlines(value, now(), |(field, text), at| {
                let at = at.map(|at| now().wall_of(at) - NOW_MS);
                fields.insert(field.to_vec(), (text.to_vec(), at));
            });
            Plain::Hash(fields)
        }
        Kind::String => unreachable!("a string is no collection"),
    }
}

fn saved(value: &Restored) -> Saved<'_> {
    match value {
        Restored::String(text) => Saved::String(text),
        Restored::Collection { kind, value, .. } => Saved::of_collection(*kind, value),
    }
}

/// Puts a value together from statements.
#[derive(Default)]
struct Rebuilt {
    value: Option<Plain>,
    expire_at: Option<UnixMs>,
    largest: (usize, usize),
}

impl Visitor for Rebuilt {
    type Error = Error;

    fn key(&mut self, header: &KeyHeader) -> Result<bool, Error> {
        assert_eq!((header.key, header.database), (&b"key"[..], 7));
        self.value = Some(match header.kind {
            Kind::String => Plain::String(Vec::new()),
            Kind::List => Plain::List(Vec::new()),
            Kind::Set => Plain::Set(BTreeSet::new()),
            Kind::SortedSet => Plain::SortedSet(BTreeMap::new()),
            Kind::Hash => Plain::Hash(BTreeMap::new()),
        });
        Ok(true)
    }

    fn statement(&mut self, _header: &KeyHeader, statement: &[&[u8]]) -> Result<(), Error> {
        let args = &statement[2..];
        let number = |text: &[u8]| std::str::from_utf8(text).unwrap().parse::<i64>().unwrap();
        let pairs = || args.chunks_exact(2).map(|pair| (pair[0].to_vec(), pair[1].to_vec()));
        let step = if matches!(statement[0], b"HSET" | b"ZADD") { 2 } else { 1 };
        let (elements, bytes) = (args.len() / step, args.iter().map(|arg| arg.len()).sum());
        self.largest.0 = self.largest.0.max(elements);
        if elements > 1 && statement[0] != b"HPEXPIREAT" {
            self.largest.1 = self.largest.1.max(bytes);
        }
        match (statement[0], self.value.as_mut().expect("a key has begun")) {
            (b"SET", Plain::String(text)) => *text = args[0].to_vec(),
            (b"RPUSH", Plain::List(items)) => items.extend(args.iter().map(|arg| arg.to_vec())),
            (b"SADD", Plain::Set(members)) => members.extend(args.iter().map(|arg| arg.to_vec())),
            (b"ZADD", Plain::SortedSet(members)) => members
                .extend(pairs().map(|(score, member)| (member, String::from_utf8(score).unwrap().parse().unwrap()))),
            (b"HSET", Plain::Hash(fields)) => fields.extend(pairs().map(|(field, text)| (field, (text, None)))),
            (b"HPEXPIREAT", Plain::Hash(fields)) => args[3..].iter().for_each(|field| {
                fields.get_mut(*field).expect("a field").1 = Some(number(args[0]) - NOW_MS);
            }),
            (b"PEXPIREAT", _) => self.expire_at = Some(number(args[0])),
            other => panic!("{other:?}"),
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn values_go_through_payloads(plain in plain(), before in thresholds(), after in thresholds()) {
        let value = built(&plain, &before);
        let payload = dump(&saved(&value), now());
        let restored = restore(&payload, &after, now(), STATEMENT_BYTES_MAX + 1).expect("a whole payload");
        if let Restored::Collection { kind: Kind::Hash, value, .. } = &restored {
            hash::validate(value.view());
        }
        prop_assert_eq!(plain_of(&restored), plain);
    }

    #[test]
    fn values_go_through_files(plain in plain(), thresholds in thresholds(), expire_at in prop::option::of(any::<i64>())) {
        let value = built(&plain, &thresholds);
        let options = ExportOptions { field_deadlines: true, aux: &[("name", "value")] };
        let file = export(Vec::new(), &options, |file| {
            file.database(7, 1, 0)?;
            file.key(b"key", &saved(&value), expire_at, now())
        }).expect("a vector takes everything");
        let mut rebuilt = Rebuilt::default();
        let summary = import(&file[..], &ImportOptions::default(), &mut rebuilt).expect("a whole file");
        prop_assert_eq!((rebuilt.value, rebuilt.expire_at), (Some(plain), expire_at));
        prop_assert!(rebuilt.largest.0 <= STATEMENT_ELEMENTS_MAX && rebuilt.largest.1 <= STATEMENT_BYTES_MAX);
        prop_assert_eq!((summary.keys, summary.bytes, summary.checked), (1, file.len() as u64, true));
    }

    /// A file arrives in pieces of any size.
    #[test]
    fn pieces_do_not_matter(plain in plain(), piece in 1..40usize) {
        let value = built(&plain, &Thresholds::default());
        let options = ExportOptions { field_deadlines: true, aux: &[] };
        let file = export(Vec::new(), &options, |file| {
            file.database(7, 1, 0)?;
            file.key(b"key", &saved(&value), None, now())
        }).expect("a vector takes everything");
        let mut rebuilt = Rebuilt::default();
        let input = std::io::BufReader::with_capacity(piece, &file[..]);
        import(input, &ImportOptions::default(), &mut rebuilt).expect("a whole file");
        prop_assert_eq!(rebuilt.value, Some(plain));
    }
}

fn restored(payload: &[u8]) -> Result<Plain, PayloadError> {
    restore(payload, &Thresholds::default(), now(), 1 << 20).map(|value| plain_of(&value))
}

/// From the documentation of DUMP and RESTORE, and from redis-server 7.0.15.
#[test]
fn payloads_of_redis() {
    let ten = Plain::String(b"10".to_vec());
    assert_eq!(restored(b"\x00\xc0\n\t\x00\xbem\x06\x89Z(\x00\n").unwrap(), ten);
    let list = b"\n\x17\x17\x00\x00\x00\x12\x00\x00\x00\x03\x00\x00\xc0\x01\x00\x04\xc0\x02\x00\x04\xc0\x03\x00\
        \xff\x04\x00u#<\xc0;.\xe9\xdd";
    assert_eq!(restored(list).unwrap(), Plain::List(vec![b"1".to_vec(), b"2".to_vec(), b"3".to_vec()]));
    let ours = dump(&Saved::String(b"10"), now());
    assert_eq!(&ours[..5], b"\x00\xc0\n\n\x00", "the version is 10");
    assert_eq!(restored(&ours).unwrap(), ten);
}

#[test]
fn payloads_that_are_wrong() {
    let good = dump(&Saved::String(b"text"), now());
    for len in 0..good.len() {
        assert!(matches!(restored(&good[..len]), Err(PayloadError::Footer)));
    }
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert!(matches!(restored(&changed), Err(PayloadError::Footer)));
    }
    // The checksum is right, and the rest is not.
    let with_footer = |value: &[u8], version: u16| {
        let mut payload = [value, &version.to_le_bytes()].concat();
        let checksum = CRC.checksum(&payload);
        payload.extend_from_slice(&checksum.to_le_bytes());
        payload
    };
    for version in [0, 13, 79, 81, u16::MAX] {
        assert!(matches!(restored(&with_footer(b"\x00\x00", version)), Err(PayloadError::Footer)), "{version}");
    }
    for value in [
        &b""[..],
        b"\x00",
        b"\x00\x01",
        b"\x00\x00x",
        b"\x02\x00",
        b"\x02\x02\x01a\x01a",
        b"\x04\x02\x01a\x01b\x01a\x01c",
        b"\x05\x02\x01a\0\0\0\0\0\0\0\0\x01a\0\0\0\0\0\0\0\0",
        b"\x05\x01\x01a\0\0\0\0\0\0\xf8\x7f",
        b"\x08\x00",
        b"\x0f\x00",
        b"\xff",
    ] {
        let result = restored(&with_footer(value, VERSION));
        assert!(matches!(result, Err(PayloadError::Value(_))), "{}: {result:?}", value.escape_ascii());
    }
    assert_eq!(restored(&with_footer(b"\x00\x00", VERSION)).unwrap(), Plain::String(Vec::new()));
    let long = dump(&Saved::String(&[0; 1000]), now());
    let result = restore(&long, &Thresholds::default(), now(), 999);
    assert!(matches!(result, Err(PayloadError::Value(Error::TooLong { len: 1000, max: 999, .. }))));
}

/// Fields that are over are counted and left out, in every form.
#[test]
fn fields_that_are_over() {
    let mut value = Value::default();
    for (field, ms) in [("a", NOW_MS), ("b", NOW_MS + 1), ("c", NOW_MS - 1)] {
        hash::set(&mut value, field.as_bytes(), b"v", &Thresholds::default());
        hash::set_deadline(&mut value, field.as_bytes(), Some(Deadline::new(Clock::Wall, ms)));
    }
    let early = Now::from(0);
    let payload = dump(&Saved::of_collection(Kind::Hash, &value), early);
    assert_eq!(payload[payload.len() - 10], FIELD_DEADLINES_VERSION as u8);
    let of = |at: UnixMs| match restore(&payload, &Thresholds::default(), at.into(), 100).unwrap() {
        Restored::Collection { value, fields_over, .. } => (hash::Hash::new(value.view()).len(), fields_over),
        other => panic!("{other:?}"),
    };
    assert_eq!([of(0), of(NOW_MS), of(NOW_MS + 1)], [(3, 0), (1, 2), (0, 3)]);
}

/// An error of the visitor ends the reading and comes out as it was.
#[test]
fn a_visitor_can_give_up() {
    #[derive(Debug, PartialEq)]
    enum GivenUp {
        Wish(usize),
        Wrong,
    }
    impl From<Error> for GivenUp {
        fn from(_: Error) -> GivenUp {
            GivenUp::Wrong
        }
    }
    struct Few(usize);
    impl Visitor for Few {
        type Error = GivenUp;
        fn key(&mut self, header: &KeyHeader) -> Result<bool, GivenUp> {
            Ok(header.key != b"unwanted")
        }
        fn statement(&mut self, header: &KeyHeader, _statement: &[&[u8]]) -> Result<(), GivenUp> {
            assert_ne!(header.key, b"unwanted");
            self.0 -= 1;
            if self.0 == 0 { Err(GivenUp::Wish(header.key.len())) } else { Ok(()) }
        }
    }
    let file = export(Vec::new(), &ExportOptions::default(), |file| {
        [&b"a"[..], b"unwanted", b"bb", b"ccc"]
            .iter()
            .try_for_each(|key| file.key(key, &Saved::String(b"v"), None, now()))
    });
    let file = file.expect("a vector takes everything");
    let read = |count| import(&file[..], &ImportOptions::default(), &mut Few(count)).map(|summary| summary.keys);
    assert_eq!(read(2), Err(GivenUp::Wish(2)));
    assert_eq!(read(4), Ok(4));
    assert_eq!(import(&file[..20], &ImportOptions::default(), &mut Few(9)).unwrap_err(), GivenUp::Wrong);
}
