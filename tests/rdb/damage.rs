//! Cut and changed files: an error or a value, never a panic, and no more memory than their size and the longest string
//! that they may hold justify.

use std::collections::BTreeMap;

use keyloom::collection::Thresholds;
use keyloom::rdb::{self, Error, ImportOptions};
use tikv_jemalloc_ctl::thread;

use crate::common::{Random, seed};
use crate::fixtures::{self, payload};
use crate::model::read;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A compressed string can be so many times as long as it takes in the file, and grows twofold at a time.
const EXPANSION_MAX: u64 = 88 * 4;
/// What a small file may take for buffers, statements and the model of the test.
const BASE_BYTES: u64 = 2 << 20;

/// Bytes that `work` has allocated, whether it freed them or not.
fn allocated(work: impl FnOnce()) -> u64 {
    let counter = thread::allocatedp::read().unwrap();
    let before = counter.get();
    work();
    counter.get() - before
}

/// All fixtures, and one file with what is not kept.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let mut files: Vec<_> = fixtures::all().into_iter().map(|fixture| (fixture.name, fixture.file)).collect();
    files.push(("unsupported", fixtures::file("REDIS0011", &fixtures::unsupported())));
    files
}

const SKIP: ImportOptions = ImportOptions { skip_unsupported: true, string_bytes_max: 1 << 20 };

/// Reads a file that may be damaged; the test ends if that panics or takes too much memory.
fn survives(name: &str, file: &[u8]) -> Result<(), Error> {
    let mut result = Ok(());
    let bytes = allocated(|| result = read(file, &SKIP).map(|_| ()));
    assert!(bytes <= BASE_BYTES + file.len() as u64 * EXPANSION_MAX, "{name}: {bytes} bytes for {}", file.len());
    result
}

#[test]
fn a_file_that_was_cut_is_an_error() {
    for (name, file) in files() {
        let step = 1 + file.len() / 3000;
        for len in (0..file.len()).step_by(step) {
            let error = survives(name, &file[..len]).expect_err(name);
            match error {
                Error::Truncated { offset } => assert_eq!(offset, len as u64, "{name}"),
                Error::NotRdb => assert!(len < 9),
                error => panic!("{name} cut to {len}: {error}"),
            }
        }
    }
}

#[test]
fn a_file_that_was_changed_does_no_harm() {
    let mut random = Random::new(seed());
    let mut outcomes = BTreeMap::new();
    for (name, file) in files() {
        for _ in 0..4000 {
            let mut file = file.clone();
            for _ in 0..=random.below(3) {
                let at = 9 + random.below(file.len() - 9);
                file[at] = match random.below(4) {
                    0 => 0xff,
                    1 => file[at] ^ 1 << random.below(8),
                    2 => [0, 0x7f, 0x80, 0x81, 0xc3, 0xfe][random.below(6)],
                    _ => random.next() as u8,
                };
            }
            let outcome = match survives(name, &file) {
                Ok(()) => "read",
                Err(Error::Truncated { .. }) => "truncated",
                Err(Error::Damaged { .. }) => "damaged",
                Err(Error::TooLong { .. }) => "too long",
                Err(Error::Checksum { .. }) => "checksum",
                Err(_) => "other",
            };
            *outcomes.entry(outcome).or_insert(0) += 1;
        }
    }
    println!("{outcomes:?}");
    assert!(["truncated", "damaged", "too long", "checksum"].iter().all(|outcome| outcomes[outcome] > 100));
}

/// As above for payloads, whose checksum is made to fit so that the value is looked at.
#[test]
fn a_payload_that_was_changed_does_no_harm() {
    let mut random = Random::new(seed());
    let mut restored = 0;
    for fixture in fixtures::all().into_iter().filter(|fixture| fixture.file[10..12] == *b"\x01k") {
        let version = if fixture.file.starts_with(b"VALKEY") { 80 } else { 12 };
        // The only key of the file, without its name.
        let end = fixture.file.len() - if fixture.file[..9] < b"REDIS0005"[..] { 1 } else { 9 };
        let value = [&fixture.file[9..10], &fixture.file[12..end]].concat();
        for n in 0..4000 {
            let mut value = value.clone();
            for _ in 0..n.min(1 + random.below(3)) {
                let at = random.below(value.len());
                value[at] = if random.one_in(2) { random.next() as u8 } else { value[at] ^ 1 << random.below(8) };
            }
            if random.one_in(4) {
                value.truncate(random.below(value.len() + 1));
            }
            let payload = payload(version, &value);
            let bytes = allocated(|| {
                restored += rdb::restore(&payload, &Thresholds::default(), 0.into(), 1 << 20).is_ok() as usize;
            });
            assert!(bytes <= BASE_BYTES + payload.len() as u64 * EXPANSION_MAX, "{}: {bytes}", fixture.name);
        }
    }
    println!("{restored} restored");
    assert!(restored > 1000);
}

/// Lengths that are larger than the file are no reason to reserve memory.
#[test]
fn lengths_are_not_believed() {
    let huge = b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff";
    let half_a_gigabyte = b"\x80\x1f\xff\xff\xff";
    for kind in [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 16, 17, 18, 20, 22, 23, 24, 25] {
        for len in [&huge[..], half_a_gigabyte] {
            for before in [&[][..], &[0; 8], &[1], &[1, 2], &[0, 0, 0, 0, 0, 0, 0, 0, 1, 1]] {
                let file = [b"REDIS0012", &[kind][..], b"\x01k", before, len, b"abc"].concat();
                let bytes = allocated(|| assert!(read(&file, &ImportOptions::default()).is_err() || before.len() > 1));
                assert!(bytes < BASE_BYTES, "type {kind}: {bytes}");
            }
        }
    }
    // Compressed to nothing, and long by its own account.
    let file = [b"REDIS0012", &b"\x00\x01k\xc3\x03"[..], half_a_gigabyte, b"\x00ab"].concat();
    let bytes = allocated(|| assert!(matches!(read(&file, &ImportOptions::default()), Err(Error::Damaged { .. }))));
    assert!(bytes < BASE_BYTES, "{bytes}");
}
