//! Files made by hand from the description of the format, with the forms that redis-server 7.0 does not write any more, or
//! not yet.

use std::collections::BTreeMap;

use crate::model::{Entry, Keyspace, Value};

/// A file, and what it holds.
pub struct Fixture {
    pub name: &'static str,
    pub file: Vec<u8>,
    pub keys: Keyspace,
}

const CRC: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_REDIS);

/// A whole file around keys and opcodes. The first versions have no checksum.
pub fn file(magic: &str, body: &[u8]) -> Vec<u8> {
    let mut file = [magic.as_bytes(), body, &[0xff]].concat();
    if magic < "REDIS0005" {
        return file;
    }
    let checksum = CRC.checksum(&file);
    file.extend_from_slice(&checksum.to_le_bytes());
    file
}

/// A payload of DUMP around a type and a value.
pub fn payload(version: u16, value: &[u8]) -> Vec<u8> {
    let mut payload = [value, &version.to_le_bytes()].concat();
    let checksum = CRC.checksum(&payload);
    payload.extend_from_slice(&checksum.to_le_bytes());
    payload
}

/// A string with a length before it, in the shortest form.
pub fn string(text: &[u8]) -> Vec<u8> {
    let len = match text.len() {
        len @ 0..64 => vec![len as u8],
        len @ 64..16384 => vec![0x40 | (len >> 8) as u8, len as u8],
        len => [&[0x80][..], &(len as u32).to_be_bytes()].concat(),
    };
    [&len[..], text].concat()
}

/// A key of this type.
fn key(kind: u8, name: &str, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &string(name.as_bytes()), value].concat()
}

/// A ziplist of elements in these forms.
pub fn ziplist(forms: &[Vec<u8>]) -> Vec<u8> {
    let (mut elements, mut before, mut tail) = (Vec::new(), 0, 10);
    for form in forms {
        tail = 10 + elements.len();
        let start = elements.len();
        if before < 254 {
            elements.push(before as u8);
        } else {
            elements.push(0xfe);
            elements.extend_from_slice(&(before as u32).to_le_bytes());
        }
        elements.extend_from_slice(form);
        before = elements.len() - start;
    }
    let total = (10 + elements.len() + 1) as u32;
    [&total.to_le_bytes()[..], &(tail as u32).to_le_bytes(), &(forms.len() as u16).to_le_bytes(), &elements, &[0xff]]
        .concat()
}

/// A listpack of elements in these forms, none longer than 16,382 bytes.
pub fn listpack(forms: &[Vec<u8>]) -> Vec<u8> {
    let mut elements = Vec::new();
    for form in forms {
        elements.extend_from_slice(form);
        match form.len() {
            len @ 0..128 => elements.push(len as u8),
            len => elements.extend_from_slice(&[(len >> 7) as u8, 0x80 | (len & 0x7f) as u8]),
        }
    }
    let total = (6 + elements.len() + 1) as u32;
    [&total.to_le_bytes()[..], &(forms.len() as u16).to_le_bytes(), &elements, &[0xff]].concat()
}

/// Forms of a short text in a ziplist and a listpack.
fn zip_text(text: &[u8]) -> Vec<u8> {
    assert!(text.len() < 64);
    [&[text.len() as u8][..], text].concat()
}

fn list_text(text: &[u8]) -> Vec<u8> {
    assert!(text.len() < 64);
    [&[0x80 | text.len() as u8][..], text].concat()
}

/// The form of an i64 in a listpack.
fn list_i64(number: i64) -> Vec<u8> {
    [&[0xf4][..], &number.to_le_bytes()].concat()
}

fn texts<T: AsRef<[u8]>>(items: &[T]) -> Vec<Vec<u8>> {
    items.iter().map(|item| item.as_ref().to_vec()).collect()
}

fn hash(fields: &[(&str, &str, Option<i64>)]) -> Value {
    Value::Hash(
        fields.iter().map(|(field, text, at)| (field.as_bytes().into(), (text.as_bytes().into(), *at))).collect(),
    )
}

fn sorted(members: &[(&str, f64)]) -> Value {
    Value::SortedSet(members.iter().map(|(member, score)| (member.as_bytes().into(), score.to_bits())).collect())
}

fn one(name: &'static str, magic: &str, kind: u8, bytes: &[u8], value: Value) -> Fixture {
    let keys = BTreeMap::from([((0, b"k".to_vec()), (value, None))]);
    Fixture { name, file: file(magic, &key(kind, "k", bytes)), keys }
}

/// Every integer form of a ziplist, and every text form, with what they stand for.
fn ziplist_forms() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let long = |len: usize| vec![b'x'; len];
    let forms = vec![
        zip_text(b"a"),
        zip_text(b""),
        vec![0xf1],
        vec![0xfd],
        vec![0xfe, 13],
        vec![0xfe, 0xff],
        vec![0xc0, 0x2c, 0x01],
        vec![0xf0, 0x00, 0x00, 0x80],
        vec![0xd0, 0x00, 0x00, 0x00, 0x40],
        [&[0xe0][..], &i64::MIN.to_le_bytes()].concat(),
        [&[0x40, 200][..], &long(200)].concat(),
        [&[0x41, 0x00][..], &long(256)].concat(),
        [&[0x80, 0, 0, 0x50, 0][..], &long(0x5000)].concat(),
        zip_text(b"after a long one"),
    ];
    let numbers = ["0", "12", "13", "-1", "300", "-8388608", "1073741824", "-9223372036854775808"];
    let mut items = texts(&["a", ""]);
    items.extend(texts(&numbers));
    items.extend([long(200), long(256), long(0x5000), b"after a long one".to_vec()]);
    (forms, items)
}

/// Every form of a listpack.
fn listpack_forms() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let long = |len: usize| vec![b'y'; len];
    let forms = vec![
        list_text(b"a"),
        list_text(b""),
        vec![0],
        vec![127],
        vec![0xc0, 128],
        vec![0xdf, 0xff],
        vec![0xd0, 0x00],
        vec![0xcf, 0xff],
        vec![0xf1, 0x00, 0x80],
        vec![0xf2, 0xff, 0xff, 0x7f],
        vec![0xf3, 0x00, 0x00, 0x00, 0x80],
        list_i64(i64::MAX),
        [&[0xe0, 100][..], &long(100)].concat(),
        [&[0xef, 0xff][..], &long(4095)].concat(),
        [&[0xf0, 0x00, 0x10, 0, 0][..], &long(4096)].concat(),
        [&[0xe0, 126][..], &long(126)].concat(),
    ];
    let numbers = ["0", "127", "128", "-1", "-4096", "4095", "-32768", "8388607", "-2147483648", "9223372036854775807"];
    let mut items = texts(&["a", ""]);
    items.extend(texts(&numbers));
    items.extend([long(100), long(4095), long(4096), long(126)]);
    (forms, items)
}

/// All of them.
pub fn all() -> Vec<Fixture> {
    let mut all = strings_and_opcodes();
    all.extend(lists());
    all.extend(sets_and_sorted_sets());
    all.extend(hashes());
    all.extend(hashes_with_deadlines());
    all
}

fn strings_and_opcodes() -> Vec<Fixture> {
    let body = [
        vec![0xfa],
        string(b"redis-ver"),
        string(b"2.8.0"),
        vec![0xfe, 3, 0xfb, 2, 1],
        vec![0xf8, 0x40, 200, 0xfd, 0x00, 0xf1, 0x53, 0x65],
        key(0, "seconds", b"\x02ab"),
        vec![0xf9, 77, 0xfc],
        1_700_000_000_123i64.to_le_bytes().to_vec(),
        key(0, "ms", b"\xc0\xff"),
        key(0, "i16", b"\xc1\x00\x80"),
        key(0, "i32", b"\xc2\x00\x00\x00\x80"),
        // "aaaaaaaaaa" and then "b".
        key(0, "lzf", b"\xc3\x07\x0b\x00a\xe0\x00\x00\x00b"),
        key(0, "long length", b"\x81\0\0\0\0\0\0\0\x03abc"),
        vec![0xfe, 0],
        key(0, "\0\u{1}", b"\x00"),
    ]
    .concat();
    let text = |text: &str| Value::String(text.into());
    let keys: [(usize, &str, Entry); 7] = [
        (3, "seconds", (text("ab"), Some(1_700_000_000_000))),
        (3, "ms", (text("-1"), Some(1_700_000_000_123))),
        (3, "i16", (text("-32768"), None)),
        (3, "i32", (text("-2147483648"), None)),
        (3, "lzf", (text("aaaaaaaaaab"), None)),
        (3, "long length", (text("abc"), None)),
        (0, "\0\u{1}", (text(""), None)),
    ];
    let keys: Keyspace = keys.into_iter().map(|(db, key, entry)| ((db, key.as_bytes().to_vec()), entry)).collect();
    let with = |name, magic: &str| Fixture { name, file: file(magic, &body), keys: keys.clone() };
    let mut unchecked = with("checksum 0", "REDIS0011");
    let len = unchecked.file.len();
    unchecked.file[len - 8..].fill(0);
    vec![with("strings", "REDIS0010"), with("of Valkey", "VALKEY080"), with("no checksum", "REDIS0004"), unchecked]
}

fn lists() -> Vec<Fixture> {
    let (zip_forms, zip_items) = ziplist_forms();
    let (list_forms, list_items) = listpack_forms();
    let zip = string(&ziplist(&zip_forms));
    let pack = string(&listpack(&list_forms));
    let plain = [&[2][..], &string(b"one"), b"\xc0\x02"].concat();
    let quicklist = [&[3][..], &zip, &string(&ziplist(&[zip_text(b"z")])), &zip].concat();
    let large = vec![b'L'; 70_000];
    let second = [&[3, 2][..], &pack, &[1], &string(&large), &[2], &string(&listpack(&[vec![7]]))].concat();
    let mut of_second = list_items.clone();
    of_second.extend([large, b"7".to_vec()]);
    let of_quicklist = [&zip_items[..], &[b"z".to_vec()], &zip_items].concat();
    vec![
        one("list", "REDIS0001", 1, &plain, Value::List(texts(&["one", "2"]))),
        one("list, ziplist", "REDIS0006", 10, &zip, Value::List(zip_items)),
        one("quicklist", "REDIS0009", 14, &quicklist, Value::List(of_quicklist)),
        one("quicklist 2", "REDIS0010", 18, &second, Value::List(of_second)),
    ]
}

fn intset(width: u32, numbers: &[i64]) -> Vec<u8> {
    let mut bytes = [width.to_le_bytes(), (numbers.len() as u32).to_le_bytes()].concat();
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()[..width as usize]));
    string(&bytes)
}

fn sets_and_sorted_sets() -> Vec<Fixture> {
    let set = |members: &[&str]| Value::Set(texts(members).into_iter().collect());
    let plain = [&[3][..], &string(b"a"), b"\xc0\x05", &string(b"")].concat();
    let (forms, items) = listpack_forms();
    let scores = [
        &[5][..],
        &string(b"a"),
        b"\x031.5",
        &string(b"b"),
        b"\xfe",
        &string(b"c"),
        b"\xff",
        &string(b"d"),
        b"\x13-1.0000000000000001e",
        &string(b"e"),
        b"\x02-0",
    ];
    let scores = [&scores[..7], &[&string(b"d"), b"\x05-1e+2"], &scores[9..]].concat().concat();
    let binary = [&[2][..], &string(b"m"), &0.1f64.to_le_bytes(), &string(b"n"), &f64::INFINITY.to_le_bytes()].concat();
    let zip = ziplist(&[
        zip_text(b"a"),
        vec![0xf3],
        zip_text(b"b"),
        zip_text(b"2.5000000000000004"),
        vec![0xf2],
        zip_text(b"inf"),
    ]);
    let pack =
        listpack(&[list_text(b"a"), vec![2], list_text(b"b"), list_text(b"-inf"), vec![9], list_text(b"1e+100")]);
    vec![
        one("set", "REDIS0001", 2, &plain, set(&["a", "5", ""])),
        one("intset of i16", "REDIS0003", 11, &intset(2, &[-32768, -1, 32767]), set(&["-32768", "-1", "32767"])),
        one("intset of i32", "REDIS0003", 11, &intset(4, &[-2147483648, 7]), set(&["-2147483648", "7"])),
        one("intset of i64", "REDIS0003", 11, &intset(8, &[i64::MIN, i64::MAX]), {
            set(&["-9223372036854775808", "9223372036854775807"])
        }),
        one("set, listpack", "REDIS0011", 20, &string(&listpack(&forms)), Value::Set(items.into_iter().collect())),
        one("sorted set", "REDIS0007", 3, &scores, {
            sorted(&[("a", 1.5), ("b", f64::INFINITY), ("c", f64::NEG_INFINITY), ("d", -100.0), ("e", -0.0)])
        }),
        one("sorted set 2", "REDIS0008", 5, &binary, sorted(&[("m", 0.1), ("n", f64::INFINITY)])),
        one("sorted set, ziplist", "REDIS0009", 12, &string(&zip), {
            sorted(&[("a", 2.0), ("b", 2.5000000000000004), ("1", f64::INFINITY)])
        }),
        one("sorted set, listpack", "REDIS0010", 17, &string(&pack), {
            sorted(&[("a", 2.0), ("b", f64::NEG_INFINITY), ("9", 1e100)])
        }),
    ]
}

fn hashes() -> Vec<Fixture> {
    let plain = [&[2][..], &string(b"f"), &string(b"v"), b"\xc0\x01", &string(b"")].concat();
    let long = "w".repeat(300);
    let zipmap = [
        &[3][..],
        b"\x01f\x02\x00v1",
        // Two bytes behind the value are not used.
        b"\x02ff\x01\x02v..",
        b"\x04long\xfe\x2c\x01\x00\x00\x00",
        long.as_bytes(),
        &[0xff],
    ]
    .concat();
    let zip = ziplist(&[zip_text(b"f"), vec![0xf2], zip_text(b"g"), zip_text(b"")]);
    let pack = listpack(&[list_text(b"f"), vec![5], vec![6], list_text(b"x")]);
    vec![
        one("hash", "REDIS0004", 4, &plain, hash(&[("f", "v", None), ("1", "", None)])),
        one(
            "zipmap",
            "REDIS0002",
            9,
            &string(&zipmap),
            hash(&[("f", "v1", None), ("ff", "v", None), ("long", &long, None)]),
        ),
        one("hash, ziplist", "REDIS0009", 13, &string(&zip), hash(&[("f", "1", None), ("g", "", None)])),
        one("hash, listpack", "REDIS0010", 16, &string(&pack), hash(&[("f", "5", None), ("6", "x", None)])),
    ]
}

/// 2100: fields that do not go while a test runs.
pub const LATER_MS: i64 = 4_102_444_800_000;

fn hashes_with_deadlines() -> Vec<Fixture> {
    let value = hash(&[("a", "1", Some(LATER_MS)), ("b", "2", Some(LATER_MS + 69)), ("c", "3", None)]);
    let pair = |field: &str, text: &str| [string(field.as_bytes()), string(text.as_bytes())].concat();
    let first = LATER_MS.to_le_bytes();
    let length = |ms: i64| [&[0x81][..], &ms.to_be_bytes()].concat();
    let from_first =
        [&first[..], &[3], &[1], &pair("a", "1"), &[0x40, 70], &pair("b", "2"), &[0], &pair("c", "3")].concat();
    let absolute =
        [&[3][..], &length(LATER_MS), &pair("a", "1"), &length(LATER_MS + 69), &pair("b", "2"), &[0], &pair("c", "3")]
            .concat();
    let pack = string(&listpack(&[
        list_text(b"a"),
        list_text(b"1"),
        list_i64(LATER_MS),
        list_text(b"b"),
        vec![2],
        list_i64(LATER_MS + 69),
        list_text(b"c"),
        list_text(b"3"),
        vec![0],
    ]));
    let with_first = [&first[..], &pack].concat();
    let none = (-1i64).to_le_bytes();
    let behind =
        [&[3][..], &pair("a", "1"), &first, &pair("b", "2"), &(LATER_MS + 69).to_le_bytes(), &pair("c", "3"), &none]
            .concat();
    vec![
        one("hash with deadlines", "REDIS0012", 24, &from_first, value.clone()),
        one("hash with deadlines before 7.4.0", "REDIS0012", 22, &absolute, value.clone()),
        one("hash with deadlines, listpack", "REDIS0012", 25, &with_first, value.clone()),
        one("hash with deadlines, listpack, before 7.4.0", "REDIS0012", 23, &pack, value.clone()),
        one("hash with deadlines of Valkey", "VALKEY080", 22, &behind, value),
    ]
}

/// Bodies with what is not kept: streams of all three versions, values and data of modules, functions, slots.
pub fn unsupported() -> Vec<u8> {
    let id = [7u8; 16];
    let pack = string(&listpack(&[vec![1]]));
    let stream = |version: u8| {
        let mut bytes = vec![1];
        bytes.extend([string(&id), pack.clone()].concat());
        // Length, last id, and what later versions add.
        bytes.extend([1, 5, 0]);
        if version >= 2 {
            bytes.extend([5, 0, 0, 0, 1]);
        }
        bytes.push(1);
        bytes.extend(string(b"group"));
        bytes.extend([5, 0]);
        if version >= 2 {
            bytes.push(1);
        }
        bytes.push(1);
        bytes.extend([&id[..], &[9; 8], &[1]].concat());
        bytes.push(1);
        bytes.extend(string(b"consumer"));
        bytes.extend([9; 8]);
        if version >= 3 {
            bytes.extend([9; 8]);
        }
        bytes.push(1);
        bytes.extend(id);
        bytes
    };
    let module =
        [&[0x81][..], &[1, 2, 3, 4, 5, 6, 7, 8], &[1, 5, 2, 6, 3], &[0; 4], &[4], &[0; 8], &[5, 1, b'x', 0]].concat();
    [
        &[0xf5][..],
        &string(b"#!lua name=lib"),
        &[0xf7, 0x81],
        &[1; 8],
        &[2, 1, 5, 1, b'x', 0],
        &[0xf4, 0x40, 99, 2, 1],
        &key(15, "s1", &stream(1)),
        &key(19, "s2", &stream(2)),
        &key(21, "s3", &stream(3)),
        &key(7, "m", &module),
        &key(2, "e", &[0]),
        &key(0, "k", b"\x01v"),
    ]
    .concat()
}
