//! Files in the format of Redis: those of redis-server are read, it reads ours, and damaged ones do no harm.
//!
//! `fixtures` are made by hand, `files` by redis-server, `damage` cuts and changes both; `nodes` takes whole data sets from one
//! server to the other. The tests of `files` and `nodes` need redis-server 7.0, as those of `tests/differential` do.

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod files;
mod fixtures;
mod model;
mod nodes;

use keyloom::rdb::{Error, ImportOptions};
use model::read;

#[test]
fn every_form_says_what_it_should() {
    for fixture in fixtures::all() {
        let (contents, summary) =
            read(&fixture.file, &ImportOptions::default()).unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
        assert_eq!(contents.keys, fixture.keys, "{}", fixture.name);
        assert_eq!(summary.keys, fixture.keys.len() as u64);
        assert_eq!(summary.bytes, fixture.file.len() as u64, "{}", fixture.name);
        assert_eq!(summary.checked, summary.version > 4 && fixture.name != "checksum 0");
    }
}

#[test]
fn what_is_said_besides_keys() {
    let strings = fixtures::all().into_iter().find(|fixture| fixture.name == "strings").unwrap();
    let (contents, _) = read(&strings.file, &ImportOptions::default()).unwrap();
    assert_eq!(contents.notes, ["redis-ver 2.8.0", "database 3: 2 1"]);
    let used: Vec<_> = contents.used.iter().map(|(key, used)| (&key[..], *used)).collect();
    assert_eq!(used, [(&b"ms"[..], (None, Some(77))), (b"seconds", (Some(200), None))]);
}

#[test]
fn what_is_not_kept_is_told_or_refused() {
    let file = fixtures::file("REDIS0011", &fixtures::unsupported());
    let skip = ImportOptions { skip_unsupported: true, ..ImportOptions::default() };
    let (contents, summary) = read(&file, &skip).unwrap();
    assert_eq!(contents.keys.keys().collect::<Vec<_>>(), [&(0, b"k".to_vec())]);
    assert_eq!((summary.keys, summary.checked), (1, true));
    let expected = [
        "functions #!lua name=lib",
        "module",
        "slot 99: 2",
        "a stream 0 s1",
        "a stream 0 s2",
        "a stream 0 s3",
        "a value of a module 0 m",
        "empty 0 e",
    ];
    assert_eq!(contents.notes, expected);
    match read(&file, &ImportOptions::default()) {
        Err(Error::Unsupported { key, what, .. }) => assert_eq!((&key[..], what), (&b"s1"[..], "a stream")),
        other => panic!("{other:?}"),
    }
    // The values of modules before Redis 4.0 have no end that anybody else could see.
    let file = fixtures::file("REDIS0008", b"\x06\x01mrest");
    let error = read(&file, &skip).unwrap_err();
    assert!(matches!(error, Error::Unsupported { offset: 9, .. }), "{error:?}");
}

#[test]
fn versions_are_refused_by_name() {
    for (magic, text) in [
        ("REDIS0013", "RDB version 13 is not known"),
        ("REDIS0000", "RDB version 0 is not known"),
        ("VALKEY081", "RDB version 81 is not known"),
        ("REDIS00x1", "this is no RDB file"),
        ("RESID0001", "this is no RDB file"),
        ("REDIS", "this is no RDB file"),
    ] {
        let error = read(&fixtures::file(magic, b""), &ImportOptions::default()).unwrap_err().to_string();
        assert!(error.starts_with(text), "{magic}: {error}");
    }
    assert!(matches!(read(b"", &ImportOptions::default()), Err(Error::NotRdb)));
}

/// The same numbers mean other things to Redis and to Valkey.
#[test]
fn types_of_redis_are_unknown_in_files_of_valkey() {
    for fixture in fixtures::all().iter().filter(|fixture| fixture.file.starts_with(b"REDIS0012")) {
        let body = &fixture.file[9..fixture.file.len() - 9];
        let error = read(&fixtures::file("VALKEY080", body), &ImportOptions::default()).unwrap_err();
        match body[0] {
            22 => assert!(matches!(error, Error::Damaged { .. } | Error::Truncated { .. } | Error::TooLong { .. })),
            code => assert!(matches!(error, Error::UnknownCode { offset: 9, code: named } if named == code)),
        }
    }
}
