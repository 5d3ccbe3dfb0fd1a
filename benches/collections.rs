//! Collections of a million elements: how much memory they are charged, and how long they hold up a core.
//!
//! `cargo bench --bench collections`. Each type grows to a million elements one by one, shrinks to half, and is removed
//! with its key. Printed are the bytes charged for each element beyond its own, the mean time of a change, the longest
//! change, and the longest turn in which what was removed is freed. Times are CPU time of the thread, so that other work on
//! the machine counts as little as possible; reading that clock is part of each change (some 200 ns). The allocator is the
//! server's.

use std::time::Duration;

use keyloom::collection::{Thresholds, Value, hash, list, set, sorted};
use keyloom::route::{Hasher, Key};
use keyloom::shard::{Kind, Shard};
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ELEMENTS: usize = 1_000_000;

/// One type: how an element is added and removed, and how many bytes of its own it has.
struct Type {
    name: &'static str,
    kind: Kind,
    add: fn(&mut Value, &[u8], usize),
    remove: fn(&mut Value, &[u8], usize),
    own_bytes: fn(&[u8]) -> usize,
}

const TYPES: &[Type] = &[
    Type {
        name: "list",
        kind: Kind::List,
        add: |value, name, _| list::push(value, list::End::Tail, name, &Thresholds::default()),
        remove: |value, _, _| {
            list::pop(value, list::End::Head, 1, &Thresholds::default(), |_| ());
        },
        own_bytes: |name| name.len(),
    },
    Type {
        name: "set",
        kind: Kind::Set,
        add: |value, name, _| assert!(set::add(value, name, &Thresholds::default())),
        remove: |value, name, _| assert!(set::remove(value, name)),
        own_bytes: |name| name.len(),
    },
    Type {
        name: "hash",
        kind: Kind::Hash,
        add: |value, name, _| assert!(hash::set(value, name, b"0123456789", &Thresholds::default())),
        remove: |value, name, _| assert!(hash::remove(value, name)),
        own_bytes: |name| name.len() + 10,
    },
    Type {
        name: "sorted set",
        kind: Kind::SortedSet,
        add: |value, name, i| assert!(sorted::insert(value, &Thresholds::default(), name, score(i)).is_none()),
        remove: |value, name, _| assert!(sorted::remove(value, name).is_some()),
        own_bytes: |name| name.len(),
    },
];

/// Far from those of its neighbours.
fn score(i: usize) -> f64 {
    (i * 618_033_989 % ELEMENTS) as f64
}

fn name(i: usize) -> Vec<u8> {
    format!("element:{i:012}").into_bytes()
}

fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[derive(Default)]
struct Times {
    sum: Duration,
    count: u32,
    longest: Duration,
}

impl Times {
    fn measure(&mut self, run: impl FnOnce()) {
        let before = thread_time();
        run();
        let took = thread_time() - before;
        self.sum += took;
        self.count += 1;
        self.longest = self.longest.max(took);
    }

    fn mean_ns(&self) -> u128 {
        self.sum.as_nanos() / u128::from(self.count.max(1))
    }

    fn longest_us(&self) -> f64 {
        self.longest.as_secs_f64() * 1e6
    }
}

fn measure(of: &Type) {
    let hasher = Hasher::new(1, [1, 2, 3, 4]);
    let mut shard = Shard::new(0..1, 1, hasher.clone());
    shard.set_now(1_700_000_000_000);
    let key: Key = hasher.key(b"key");
    let empty = shard.memory();
    let (mut grow, mut shrink, mut free) = (Times::default(), Times::default(), Times::default());
    let mut own_bytes = 0;
    for i in 0..ELEMENTS {
        let name = name(i);
        own_bytes += (of.own_bytes)(&name);
        grow.measure(|| {
            shard.change(0, &key, of.kind, true, |value| ((of.add)(value, &name, i), 1)).unwrap();
        });
    }
    let bytes = (shard.memory() - empty - own_bytes) as f64 / ELEMENTS as f64;
    for i in 0..ELEMENTS / 2 {
        let name = name(i);
        shrink.measure(|| {
            shard.change(0, &key, of.kind, false, |value| ((of.remove)(value, &name, i), 1)).unwrap();
        });
    }
    free.measure(|| {
        shard.remove(0, &key);
    });
    while shard.has_work(true) {
        free.measure(|| shard.work(true));
    }
    println!(
        "{:12}{bytes:>8.1}{:>10}{:>12.0}{:>10}{:>12.0}{:>12.0}",
        of.name,
        grow.mean_ns(),
        grow.longest_us(),
        shrink.mean_ns(),
        shrink.longest_us(),
        free.longest_us(),
    );
}

fn main() {
    println!("{:12}{:>8}{:>22}{:>22}{:>12}", "", "bytes", "grow: ns, longest us", "shrink", "freed");
    TYPES.iter().for_each(measure);
}
