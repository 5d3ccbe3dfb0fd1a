//! Routing: what a request costs between the parser and its execution.
//!
//! `cargo bench --bench route`. Times per key or name; `taskset -c 0` keeps them steady.
//!
//! - `slot`: CRC16 of keys of 8, 14 and 32 bytes, and of 14- and 32-byte keys that have a `{hashtag}` of eight bytes:
//!   the search for the tag costs little, and a short tag saves more of the CRC than it costs.
//! - `key`: the same with the seeded hash and the partition: all that is computed from a key's bytes per request.
//! - `command`: from a name as clients send it to its row in the command table.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keyloom::command::table;
use keyloom::route::{Hasher, slot_of};

/// Keys of one shape, different in their last digits, so that nothing is foreseen by the branch predictor.
const KEYS: usize = 1024;

const SHAPES: [(&str, &str, usize); 5] = [
    ("8", "", 8),
    ("14", "", 14),
    ("32", "", 32),
    ("14 with hashtag", "{tag:0001}", 14),
    ("32 with hashtag", "{tag:0001}", 32),
];

/// `KEYS` keys of `len` bytes that begin with `prefix`.
fn keys(prefix: &str, len: usize) -> Vec<Vec<u8>> {
    let digits = len - prefix.len();
    (0..KEYS).map(|i| format!("{prefix}{:0digits$}", i * 7919 % 10_000).into_bytes()).collect()
}

fn route(criterion: &mut Criterion) {
    let hasher = Hasher::new(256, [1, 2, 3, 4]);
    let mut group = criterion.benchmark_group("slot");
    group.throughput(Throughput::Elements(1));
    for (name, prefix, len) in SHAPES {
        let keys = keys(prefix, len);
        let mut next = keys.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| slot_of(black_box(next.next().map_or(b"", |key| key))));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("key");
    group.throughput(Throughput::Elements(1));
    for (name, prefix, len) in SHAPES {
        let keys = keys(prefix, len);
        let mut next = keys.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                let key = hasher.key(black_box(next.next().map_or(b"", |key| key)));
                (key.hash, key.partition)
            });
        });
    }
    group.finish();
}

fn command(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("command");
    group.throughput(Throughput::Elements(1));
    for name in ["GET", "set", "INCRBYFLOAT", "nosuchcommand"] {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| table::lookup(black_box(name.as_bytes())).map(|row| row.id));
        });
    }
    let mixed = ["GET", "SET", "get", "MGET", "DEL", "INCR", "EXPIRE", "GETEX"];
    let mut next = mixed.iter().cycle();
    group.bench_function("eight in turn", |bencher| {
        bencher.iter(|| table::lookup(black_box(next.next().map_or(b"", |name| name.as_bytes()))).map(|row| row.id));
    });
    group.finish();
}

criterion_group!(benches, route, command);
criterion_main!(benches);
