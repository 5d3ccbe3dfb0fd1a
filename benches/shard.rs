//! The shard alone: GET and SET on one core, as a turn runs them, in batches of 64 with both prefetches.
//!
//! `cargo bench --bench shard`. Times are for one batch of 64 operations over 1 M keys `memtier-N` with 64-byte values
//! in 256 partitions; keys are uniform, hashed beforehand. The first line printed is the memory charged for each key.
//! The group `expiry` has a deadline on each of the keys; before it, the times of the turns are printed in which all of
//! them expire in the same millisecond. Before that, the times of single inserts into one partition that grows to 4 M
//! keys: CPU time of the thread, so that other work on the machine counts as little as possible. The allocator is the
//! server's.

use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keyloom::route::{Hasher, Key};
use keyloom::shard::{Clock, Deadline, Expiry, NewValue, Shard};
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const KEYS: usize = 1_000_000;
const VALUE: [u8; 64] = [b'v'; 64];
const PARTITIONS: Range<u16> = 0..256;
const BATCH: usize = 64;

/// All keys `prefix-N`, each once and far from its neighbours (steps of an odd number near KEYS / phi). Their bytes lie
/// one after the other in `bytes`, as those of a pipeline do in a receive buffer.
fn shuffled_keys<'a>(hasher: &Hasher, prefix: &str, bytes: &'a mut Vec<u8>) -> Vec<Key<'a>> {
    let mut ends = Vec::with_capacity(KEYS);
    for i in 0..KEYS {
        bytes.extend_from_slice(format!("{prefix}-{}", i * 618_033_989 % KEYS).as_bytes());
        ends.push(bytes.len());
    }
    let mut start = 0;
    let key = |end| hasher.key(&bytes[std::mem::replace(&mut start, end)..end]);
    ends.into_iter().map(key).collect()
}

fn prefetch(shard: &Shard, batch: &[Key]) {
    batch.iter().for_each(|key| shard.prefetch_bucket(0, key));
    batch.iter().for_each(|key| shard.prefetch_entry(0, key));
}

fn get_set(criterion: &mut Criterion) {
    let hasher = Hasher::new(PARTITIONS.end, [1, 2, 3, 4]);
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    let keys = shuffled_keys(&hasher, "memtier", &mut present);
    let absent = shuffled_keys(&hasher, "absent", &mut absent);
    let mut shard = Shard::new(PARTITIONS, 1, hasher.clone());
    shard.set_now(1_700_000_000_000);
    for i in 0..KEYS {
        shard.set(0, &hasher.key(format!("memtier-{i}").as_bytes()), NewValue::Bytes(&VALUE), Expiry::Never);
    }
    let beyond = shard.memory() - keys.iter().map(|key| key.bytes.len() + VALUE.len()).sum::<usize>();
    println!("{:.1} bytes charged for each key beyond key and value", beyond as f64 / KEYS as f64);

    let mut group = criterion.benchmark_group("shard");
    group.throughput(Throughput::Elements(BATCH as u64));
    for prefetched in [true, false] {
        let name = if prefetched { "prefetched" } else { "plain" };
        for (case, keys) in [("get", &keys), ("get absent", &absent)] {
            let mut batches = keys.chunks_exact(BATCH).cycle();
            group.bench_function(BenchmarkId::new(case, name), |bencher| {
                bencher.iter(|| {
                    let batch = batches.next().unwrap_or_default();
                    if prefetched {
                        prefetch(&shard, batch);
                    }
                    for key in batch {
                        // Touch the value as a reply does.
                        black_box(
                            shard.read(0, key, true).map(|entry| entry.value.bytes().iter().next_back().copied()),
                        );
                    }
                });
            });
        }
        let mut batches = keys.chunks_exact(BATCH).cycle();
        group.bench_function(BenchmarkId::new("set", name), |bencher| {
            bencher.iter(|| {
                let batch = batches.next().unwrap_or_default();
                if prefetched {
                    prefetch(&shard, batch);
                }
                for key in batch {
                    shard.set(0, key, NewValue::Bytes(black_box(&VALUE)), Expiry::Never);
                }
            });
        });
    }
    let mut batches = keys.chunks_exact(BATCH).cycle();
    group.bench_function("remove and set", |bencher| {
        bencher.iter(|| {
            let batch = batches.next().unwrap_or_default();
            prefetch(&shard, batch);
            for key in batch {
                shard.remove(0, key);
                shard.set(0, key, NewValue::Bytes(black_box(&VALUE)), Expiry::Never);
            }
        });
    });
    group.finish();
}

/// Prints the longest inserts while the table of one partition grows.
fn growth(_criterion: &mut Criterion) {
    const GROWN_KEYS: u32 = 4_000_000;
    let cpu_time = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let hasher = Hasher::new(1, [1, 2, 3, 4]);
    let mut shard = Shard::new(0..1, 1, hasher.clone());
    shard.set_now(1_700_000_000_000);
    // Written now, so that their pages are not first touched below.
    let mut times_ns = vec![u32::MAX; GROWN_KEYS as usize];
    for (i, time_ns) in times_ns.iter_mut().enumerate() {
        let name = format!("memtier-{i}");
        let key = hasher.key(name.as_bytes());
        let start = cpu_time();
        shard.set(0, &key, NewValue::Bytes(&VALUE), Expiry::Never);
        *time_ns = (cpu_time() - start).as_nanos() as u32;
    }
    times_ns.sort();
    let sum: Duration = times_ns.iter().map(|&ns| Duration::from_nanos(ns.into())).sum();
    let of_million = |n: usize| Duration::from_nanos(times_ns[(times_ns.len() - 1) * n / 1_000_000].into());
    println!(
        "one partition grows to {GROWN_KEYS} keys: an insert takes {:?}, p99 {:?}, p99.99 {:?}, the longest {:?}",
        sum / GROWN_KEYS,
        of_million(990_000),
        of_million(999_900),
        Duration::from_nanos((*times_ns.last().expect("there are some")).into())
    );
    let longest: Vec<_> = times_ns.iter().rev().take(8).map(|&ns| Duration::from_nanos(ns.into())).collect();
    println!("the longest: {longest:?}");
}

/// Prints how long the turns take that remove 1 M keys with the same deadline.
fn burst(_criterion: &mut Criterion) {
    let hasher = Hasher::new(PARTITIONS.end, [1, 2, 3, 4]);
    let mut bytes = Vec::new();
    let mut shard = Shard::new(PARTITIONS, 1, hasher.clone());
    for key in &shuffled_keys(&hasher, "memtier", &mut bytes) {
        shard.set(0, key, NewValue::Bytes(&VALUE), Expiry::At(Deadline::new(Clock::Steady, 100_000)));
    }
    shard.set_now(100_000);
    let mut turns = Vec::new();
    while shard.next_expiry_ms() <= shard.now_ms() {
        let start = Instant::now();
        shard.expire_due(|late_ms| _ = black_box(late_ms));
        turns.push(start.elapsed());
    }
    turns.sort();
    let (all, of_thousand): (Duration, _) = (turns.iter().sum(), |n| turns[(turns.len() - 1) * n / 1000]);
    let (p99, p999, longest) = (of_thousand(990), of_thousand(999), of_thousand(1000));
    println!(
        "1 M keys expire in {} turns, {all:?} in all; p99 {p99:?}, p99.9 {p999:?}, longest {longest:?}",
        turns.len()
    );
}

/// Deadlines of 1 M keys, up to an hour ahead: set, moved, and met.
fn expiry(criterion: &mut Criterion) {
    const NOW_MS: i64 = 1_700_000_000_000;
    let hasher = Hasher::new(PARTITIONS.end, [1, 2, 3, 4]);
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    let keys = shuffled_keys(&hasher, "memtier", &mut present);
    let absent = shuffled_keys(&hasher, "absent", &mut absent);
    let mut shard = Shard::new(PARTITIONS, 1, hasher.clone());
    let mut now_ms = NOW_MS;
    shard.set_now(now_ms);
    let mut random = 7_u64;
    let mut deadline = move |now_ms: i64| {
        random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        Deadline::new(Clock::Steady, now_ms + 1 + (random >> 33) as i64 % 3_600_000)
    };
    for i in 0..KEYS {
        let key = format!("memtier-{i}");
        shard.set(0, &hasher.key(key.as_bytes()), NewValue::Bytes(&VALUE), Expiry::At(deadline(now_ms)));
    }
    let beyond = shard.memory() - keys.iter().map(|key| key.bytes.len() + VALUE.len()).sum::<usize>();
    println!("{:.1} bytes charged for each key with an expiry beyond key and value", beyond as f64 / KEYS as f64);
    let mut group = criterion.benchmark_group("expiry");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut batches = keys.chunks_exact(BATCH).cycle();
    group.bench_function("re-arm", |bencher| {
        bencher.iter(|| {
            let batch = batches.next().unwrap_or_default();
            prefetch(&shard, batch);
            batch.iter().for_each(|key| _ = shard.set_expiry(0, key, Some(deadline(now_ms))));
        });
    });
    let mut batches = keys.chunks_exact(BATCH).cycle();
    group.bench_function("get", |bencher| {
        bencher.iter(|| {
            let batch = batches.next().unwrap_or_default();
            prefetch(&shard, batch);
            batch.iter().for_each(|key| _ = black_box(shard.read(0, key, true).is_some()));
        });
    });
    let mut batches = absent.chunks_exact(BATCH).cycle();
    group.bench_function("set and expire", |bencher| {
        bencher.iter(|| {
            let batch = batches.next().unwrap_or_default();
            prefetch(&shard, batch);
            for key in batch {
                shard.set(
                    0,
                    key,
                    NewValue::Bytes(black_box(&VALUE)),
                    Expiry::At(Deadline::new(Clock::Steady, now_ms + 1)),
                );
            }
            now_ms += 1;
            shard.set_now(now_ms);
            while shard.next_expiry_ms() <= now_ms {
                shard.expire_due(|late_ms| _ = black_box(late_ms));
            }
        });
    });
    group.finish();
}

/// What the memory allows: the same number of cache lines of the same tables, at random, with nothing to compute.
fn floor(criterion: &mut Criterion) {
    #[derive(Clone, Copy)]
    #[repr(align(64))]
    struct Line([u8; 64]);
    let buckets = vec![Line([1; 64]); KEYS / 9];
    let entries = vec![[1; 96]; KEYS];
    let order: Vec<(usize, usize)> =
        (0..KEYS).map(|i| i * 618_033_989 % KEYS).map(|i| (i / 9 % (KEYS / 9), i)).collect();
    let mut batches = order.chunks_exact(BATCH).cycle();
    let mut group = criterion.benchmark_group("floor");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("three lines", |bencher| {
        bencher.iter(|| {
            let mut sum = 0;
            // Independent loads overlap as prefetches do.
            for &(bucket, entry) in batches.next().unwrap_or_default() {
                sum += (buckets[bucket].0[0] + entries[entry][0] + entries[entry][95]) as u64;
            }
            black_box(sum)
        });
    });
    group.finish();
}

criterion_group!(benches, get_set, growth, burst, expiry, floor);
criterion_main!(benches);
