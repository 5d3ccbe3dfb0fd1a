//! The mesh: what a message between two cores costs.
//!
//! `cargo bench --bench mesh`; it pins its two threads to the first two CPUs, so leave these alone.
//!
//! - `ring`: pushes and pops on one thread, time per batch: the instructions alone, no other core, no bell. `1` is
//!   one push and one pop, `64` a turn's worth of both.
//! - `round trip`: a message to another core and back through two endpoints, both awake and looking: the two cache line
//!   transfers each way that no forwarded command can avoid. `1` is the latency of one message; `64` are sent before
//!   the first answer is taken, time for all of them: what is left of the latency when a turn forwards many. With one
//!   CPU this group is left out: it would measure the scheduler.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use glommio::{CpuSet, LocalExecutorBuilder, Placement};
use keyloom::mesh::{self, Endpoint, RING_CAPACITY};

/// A tag and a box, as what the cores send each other.
type Message = [u64; 2];

const BATCHES: [u64; 2] = [1, 64];

fn ring(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    for batch in BATCHES {
        let (mut producer, mut consumer) = mesh::ring::<Message>(RING_CAPACITY);
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
            bencher.iter(|| {
                for i in 0..batch {
                    producer.try_push(black_box([i; 2])).expect("the ring has room");
                }
                for _ in 0..batch {
                    black_box(consumer.pop());
                }
            });
        });
    }
    group.finish();
}

/// Sends back what comes, until told to stop.
fn echo(mut endpoint: Endpoint<Message>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match endpoint.pop() {
            Some((from, message)) => {
                // A peer that is gone has nothing more to measure.
                let _ = endpoint.send(from, message);
            }
            None => {
                endpoint.flush(|_, _| {});
                spin_loop();
            }
        }
    }
}

fn round_trip(criterion: &mut Criterion) {
    let online = CpuSet::online().map(|cpus| cpus.into_iter().map(|location| location.cpu).collect::<Vec<_>>());
    let mut cpus = online.unwrap_or_default();
    cpus.sort_unstable();
    let [here, there, ..] = cpus[..] else {
        eprintln!("round trip: left out, two CPUs are needed");
        return;
    };
    let mut endpoints = mesh::build::<Message>(2, RING_CAPACITY).into_iter();
    let (Some(mut mine), Some(other)) = (endpoints.next(), endpoints.next()) else { unreachable!("two were built") };
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = LocalExecutorBuilder::new(Placement::Fixed(there))
        .spawn(move || async move { echo(other, &stopped) })
        .expect("the other core starts");
    let pinned = LocalExecutorBuilder::new(Placement::Fixed(here)).make().expect("this core starts");
    pinned.run(async { measure(criterion, &mut mine) });
    stop.store(true, Ordering::Relaxed);
    thread.join().expect("the other core ends");
}

fn measure(criterion: &mut Criterion, mine: &mut Endpoint<Message>) {
    let mut group = criterion.benchmark_group("round trip");
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
            bencher.iter(|| {
                for i in 0..batch {
                    mine.send(1, [i; 2]).expect("the other core runs");
                }
                for _ in 0..batch {
                    while mine.pop().is_none() {
                        spin_loop();
                    }
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, ring, round_trip);
criterion_main!(benches);
