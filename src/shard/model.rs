//! Random steps on a shard and on its model: every answer, effect and counter must be the same.
//!
//! A failing run names its seed: `KEYLOOM_SEED=n cargo test --lib shard::model` repeats it.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::naive::{Naive, Seen};
use super::{Classes, Clock, Deadline, Effect, EntryRef, Expiring, Expiry, NewValue, Now, Policy, Rule, Shard};
use crate::route::{Hasher, Key, slot_of};

const DATABASES: usize = 3;
/// Those before the last one, which is followed.
const OWN: usize = DATABASES - 1;
/// The shard's part of sixteen partitions.
const PARTITIONS: std::ops::Range<u16> = 5..12;
const RESERVE_BYTES: usize = 1 << 30;

fn hasher() -> Hasher {
    Hasher::new(16, [1, 2, 3, 4])
}

/// Marsaglia's xorshift64*: <https://www.jstatsoft.org/article/view/v008i14>.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn seeded() -> Random {
        Random(seed())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        ((self.next() as u128 * n as u128) >> 64) as usize
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

fn seed() -> u64 {
    let seed = match std::env::var("KEYLOOM_SEED") {
        Ok(seed) => seed.parse().expect("KEYLOOM_SEED is a number"),
        Err(_) => std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    println!("KEYLOOM_SEED={seed}");
    seed | 1
}

/// `count` keys of this shard's partitions: most are short, a few do not fit an entry.
pub(super) fn keys(count: usize) -> Vec<Vec<u8>> {
    let hasher = hasher();
    let key = |i: usize| {
        let mut key = format!("key:{i}").into_bytes();
        let bytes_min =
            if i.is_multiple_of(1_000) { 66_000 } else { [0, 0, 0, 30, 500, 4_050, 0][i % 7] * (i % 10 / 9) };
        key.resize(key.len().max(bytes_min), b'.');
        key
    };
    (0..).map(key).filter(|key| PARTITIONS.contains(&hasher.key(key).partition)).take(count).collect()
}

fn value(random: &mut Random) -> Vec<u8> {
    let bytes = match random.below(100) {
        0..80 => random.below(130),
        80..98 => 3_950 + random.below(200),
        _ => 5_000 + random.below(10_000),
    };
    vec![random.next() as u8; bytes]
}

fn seen(entry: Option<EntryRef>) -> Option<Seen> {
    let seen = entry.map(|entry| {
        let EntryRef { value, expire_at, raw, idle_s, .. } = entry;
        Seen { value: value.bytes().to_vec(), expire_at, raw, idle_s }
    })?;
    Some(seen)
}

struct Pair {
    shard: Shard,
    naive: Naive,
    hasher: Hasher,
    keys: Vec<Vec<u8>>,
    now: Now,
    steps: u64,
    /// Of those that do not remember the time of the last access, too.
    every_policy: bool,
}

impl Pair {
    fn new(key_count: usize) -> Pair {
        let mut shard = Shard::with_reserve(PARTITIONS, DATABASES, hasher(), RESERVE_BYTES).unwrap();
        shard.own = OWN;
        let mut naive = Naive::new(DATABASES, OWN);
        shard.effects.enable(true);
        shard.events.enable(true);
        shard.events.set_mask(Classes::parse("Kxe").unwrap());
        naive.effects.enable(true);
        let mut pair = Pair {
            shard,
            naive,
            hasher: hasher(),
            keys: keys(key_count),
            now: Now::default(),
            steps: 0,
            every_policy: false,
        };
        pair.set_now(Now::from(1_700_000_000_000));
        pair
    }

    fn set_now(&mut self, now: Now) {
        self.now = now;
        self.shard.set_now(now);
        self.naive.set_now(now);
    }

    fn deadline(&self, random: &mut Random) -> Deadline {
        let clock = Clock::ALL[random.below(2)];
        let span_ms = if random.one_in(20) { i64::MAX / 2 } else { random.below(20_000) as i64 };
        Deadline::new(clock, self.now.of(clock) - 10 + span_ms)
    }

    /// The time runs on; now and then somebody sets the wall clock, by a little or a lot.
    fn pass(&mut self, random: &mut Random) {
        let Now { wall_ms, steady_ms } = self.now;
        let passed_ms = random.below(3_000) as i64;
        let step_ms = match random.below(50) {
            0..3 => -(random.below(200) as i64),
            3..6 => -(random.below(30_000) as i64),
            6..8 => random.below(30_000) as i64,
            8 => -1_000_000_000,
            9 => 1_000_000_000,
            _ => 0,
        };
        self.set_now(Now { wall_ms: wall_ms + passed_ms + step_ms, steady_ms: steady_ms + passed_ms });
    }

    /// One step, wholly decided by `choice` and the steps before.
    fn step(&mut self, choice: u64) {
        let random = &mut Random(choice | 1);
        random.next();
        self.steps += 1;
        // Twenty thousand steps of growth, then as many of shrinking.
        let removals = if (self.steps / 20_000).is_multiple_of(2) { 50 } else { 350 };
        let db = random.below(DATABASES);
        let index = random.below(self.keys.len());
        let bytes = std::mem::take(&mut self.keys[index]);
        let key = self.hasher.key(&bytes);
        match random.below(1_000) {
            n if n < removals => {
                let before = self.begin_write(db);
                assert_eq!(self.shard.remove(db, &key), self.naive.remove(db, &key));
                self.end_write(before);
            }
            0..700 => {
                let before = self.begin_write(db);
                self.write(random, db, &key);
                self.end_write(before);
            }
            700..990 => {
                let touch = random.one_in(2);
                let (ours, theirs) = if random.one_in(3) {
                    (seen(self.shard.peek(db, &key)), self.naive.peek(db, &key))
                } else {
                    self.shard.prefetch_bucket(db, &key);
                    self.shard.prefetch_entry(db, &key);
                    (seen(self.shard.read(db, &key, touch)), self.naive.read(db, &key, touch))
                };
                let idle = |seen: Option<Seen>| {
                    seen.map(|seen| Seen { idle_s: if self.every_policy { 0 } else { seen.idle_s }, ..seen })
                };
                assert_eq!(idle(ours), idle(theirs));
            }
            _ => self.walk(random, db),
        }
        self.keys[index] = bytes;
        assert!(self.effects().into_iter().eq(self.naive.effects.drain()));
        if random.one_in(100) {
            self.compare_counters();
        }
    }

    /// What is followed is written by a log, to which nothing is over.
    fn begin_write(&mut self, db: usize) -> Expiring {
        self.naive.replays = db >= OWN;
        self.shard.set_expiring(if db >= OWN { Expiring::Never } else { Expiring::Here })
    }

    fn end_write(&mut self, before: Expiring) {
        self.naive.replays = false;
        self.shard.set_expiring(before);
    }

    fn write(&mut self, random: &mut Random, db: usize, key: &Key) {
        let value = value(random);
        match random.below(12) {
            0..5 => {
                let expiry = match random.below(3) {
                    0 => Expiry::Never,
                    1 => Expiry::Keep,
                    _ => Expiry::At(self.deadline(random)),
                };
                let ours = match random.below(3) {
                    0 => NewValue::Bytes(&value),
                    1 => NewValue::Owned(value.clone()),
                    _ => NewValue::Shared(Arc::new(value.clone())),
                };
                self.shard.set(db, key, ours, expiry);
                self.naive.set(db, key, NewValue::Bytes(&value), expiry);
            }
            5..8 => {
                let truncate = random.one_in(4);
                let change = |bytes: &mut Vec<u8>| {
                    if truncate {
                        bytes.truncate(value.len())
                    } else {
                        bytes.extend_from_slice(&value)
                    }
                    bytes.len()
                };
                assert_eq!(self.shard.modify(db, key, change), self.naive.modify(db, key, change));
            }
            8..10 => {
                let at = random.one_in(2).then(|| self.deadline(random));
                assert_eq!(self.shard.set_expiry(db, key, at), self.naive.set_expiry(db, key, at));
            }
            n => {
                let (ours, theirs) = if n == 10 {
                    (self.shard.detach(db, key), self.naive.detach(db, key))
                } else {
                    (self.shard.duplicate(db, key), self.naive.duplicate(db, key))
                };
                let parts = |d: &super::Detached| (d.kind, d.value.bytes(), d.expire_at, d.raw);
                assert_eq!(ours.as_ref().map(parts), theirs.as_ref().map(parts));
                let to = random.below(DATABASES);
                if let (Some(ours), Some(theirs)) = (ours, theirs) {
                    self.begin_write(to);
                    self.shard.attach(to, key, ours);
                    self.naive.attach(to, key, theirs);
                }
            }
        }
    }

    fn walk(&mut self, random: &mut Random, db: usize) {
        match random.below(200) {
            0..71 => self.pass(random),
            71 => assert_eq!(self.shard.flush(db), self.naive.flush(db)),
            72..80 => {
                let (db, other) = (random.below(OWN), random.below(OWN));
                self.shard.swap(db, other);
                self.naive.swap(db, other);
            }
            80..120 => self.scan(random, db),
            120..140 => self.expire_due(),
            140..148 => self.shard.work(true),
            148..150 => self.change_policy(random),
            150..160 => {
                let partition = PARTITIONS.start + random.below(PARTITIONS.len()) as u16;
                let to = random.below(DATABASES);
                self.shard.move_partition(partition, db, to);
                self.naive.move_partition(partition, db, to);
            }
            160..163 => {
                let partition = PARTITIONS.start + random.below(PARTITIONS.len()) as u16;
                let dropped = self.shard.drop_partition(db, partition);
                assert_eq!(dropped, self.naive.drop_partition(db, partition));
            }
            _ => {
                let key = self.shard.random_key(db, random.next());
                self.follow(db);
                match key {
                    Some(key) => assert!(self.naive.peek(db, &self.hasher.key(&key)).is_some()),
                    None => assert!(PARTITIONS.into_iter().all(|p| self.naive.keys(db, p, false).is_empty())),
                }
            }
        }
    }

    /// Under most policies the shard remembers accesses as the model does; no limit is set, so nothing is evicted.
    fn change_policy(&mut self, random: &mut Random) {
        let rules = [Rule::None, Rule::Lru, Rule::Random, Rule::Ttl, Rule::Lfu, Rule::S3Fifo];
        let rule = rules[random.below(if self.every_policy { 6 } else { 4 })];
        self.shard.set_policy(Policy { rule, volatile: random.one_in(2) });
        if random.one_in(2) {
            self.shard.rank_all();
        }
    }

    /// Active expiry, a piece of work or all of it.
    fn expire_due(&mut self) {
        let pieces_max = [1, usize::MAX][self.steps as usize % 2];
        let due = |shard: &Shard| shard.next_expiry_ms() <= shard.now_ms();
        let mut pieces = 0;
        while due(&self.shard) && pieces < pieces_max {
            let mut late = 0;
            self.shard.expire_due(|_| late += 1);
            let effects = self.effects();
            assert_eq!(effects.len(), late);
            for effect in effects {
                let key = self.hasher.key(&effect.args[1]);
                assert!(self.naive.discard(effect.db as usize, &key), "a key was removed that had not expired");
            }
            pieces += 1;
        }
        if !due(&self.shard) && !self.shard.waits_for_the_clock() {
            let all = (0..OWN).flat_map(|db| PARTITIONS.map(move |partition| (db, partition)));
            all.for_each(|(db, partition)| assert!(self.naive.keys(db, partition, true).is_empty()));
        }
    }

    /// One whole iteration over a partition.
    fn scan(&mut self, random: &mut Random, db: usize) {
        let partition = PARTITIONS.start + random.below(PARTITIONS.len()) as u16;
        let (alive, dead) = (self.naive.keys(db, partition, false), self.naive.keys(db, partition, true));
        let mut visited = Vec::new();
        let mut from = Some(0);
        while let Some(position) = from {
            let (before, count) = (visited.len(), 1 + random.below(30));
            from = self.shard.scan(db, partition, position, count, |key, _| visited.push(key.to_vec()));
            assert!(from.is_none_or(|next| next > position));
            // What is over and stays is not visited again.
            assert!(from.is_none() || visited.len() + dead.len() >= before + count);
        }
        let expired: Vec<Vec<u8>> = self.follow(db).into_iter().map(|effect| effect.args[1].clone()).collect();
        assert!(sorted(visited) == sorted(alive));
        assert!(sorted(expired) == sorted(if db < OWN { dead } else { Vec::new() }));
    }

    /// What the shard did by itself. Each effect is an expiry, of which its events tell, too.
    fn effects(&mut self) -> Vec<Effect> {
        let effects: Vec<Effect> = self.shard.effects.drain().collect();
        assert_told(&mut self.shard, "expired", &effects);
        effects
    }

    /// Lets the model remove what the shard has removed in an order of its own choice: only expired keys.
    fn follow(&mut self, db: usize) -> Vec<Effect> {
        let effects = self.effects();
        for effect in &effects {
            let key = self.hasher.key(&effect.args[1]);
            assert_eq!(
                (effect.db as usize, effect.slot, &effect.args[0][..]),
                (db, Some(slot_of(key.bytes)), &b"DEL"[..])
            );
            assert!(self.naive.discard(db, &key), "a key was removed that had not expired");
        }
        effects
    }

    fn compare_counters(&self) {
        let numbers = |c: &super::Counters| (c.hits, c.misses, c.expired, c.evicted);
        assert_eq!(numbers(&self.shard.counters), numbers(&self.naive.counters));
        for db in 0..DATABASES {
            assert_eq!(self.shard.size(db), self.naive.size(db));
        }
    }
}

/// The shard has told exactly the removals in `effects`, as events called `name`.
pub(super) fn assert_told(shard: &mut Shard, name: &str, effects: &[Effect]) {
    let told = shard.events.drain().map(|event| (event.name, event.db, event.key));
    assert!(told.eq(effects.iter().map(|effect| (name, effect.db, effect.args[1].clone()))));
}

fn sorted(mut keys: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    keys.sort();
    keys
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn short_runs_agree_with_the_model(choices in prop::collection::vec(any::<u64>(), 1..1_500)) {
        let mut pair = Pair::new(60);
        pair.every_policy = choices[0] & 1 == 1;
        choices.into_iter().for_each(|choice| pair.step(choice));
        pair.compare_counters();
        pair.shard.validate();
    }
}

#[test]
fn a_long_run_agrees_with_the_model() {
    let mut random = Random(seed());
    for (key_count, steps) in [(40, 300_000), (700, 700_000), (6_000, 1_000_000)] {
        let mut pair = Pair::new(key_count);
        pair.every_policy = random.one_in(2);
        for step in 1..=steps {
            pair.step(random.next());
            if step % 50_000 == 0 {
                pair.shard.validate();
            }
        }
        pair.compare_counters();
        (0..DATABASES).for_each(|db| _ = pair.shard.flush(db));
        while pair.shard.has_work(true) {
            pair.shard.work(true);
        }
        pair.shard.validate();
    }
}

#[test]
fn a_scan_visits_every_lasting_key_once_while_others_come_and_go() {
    let random = &mut Random(seed());
    let hasher = Hasher::new(1, [5, 6, 7, 8]);
    for lasting in [3_u32, 40, 2_000] {
        let mut shard = Shard::with_reserve(0..1, 1, hasher.clone(), RESERVE_BYTES).unwrap();
        let name = |prefix: &str, i: u32| format!("{prefix}:{i}").into_bytes();
        for i in 0..lasting {
            shard.set(0, &hasher.key(&name("lasting", i)), NewValue::Bytes(b""), Expiry::Never);
        }
        for round in 0..6 {
            let (mut visited, mut from, mut others, mut churn) = (Vec::new(), Some(0), 0, 0);
            while let Some(position) = from {
                from = shard.scan(0, 0, position, 10, |key, _| visited.push(key.to_vec()));
                // Up to forty times as many others, which come, and in every other round go again.
                for _ in 0..random.below(lasting as usize / 2 + 30) {
                    let grow = round % 2 == 0 || random.one_in(4);
                    if grow && others < 40 * lasting {
                        shard.set(0, &hasher.key(&name("other", others)), NewValue::Bytes(b"x"), Expiry::Never);
                        others += 1;
                    } else if others > 0 {
                        others -= 1;
                        churn += shard.remove(0, &hasher.key(&name("other", others))) as u32;
                    }
                }
            }
            visited.retain(|key| key.starts_with(b"lasting"));
            assert_eq!(visited.len(), lasting as usize);
            assert_eq!(visited.into_iter().collect::<BTreeSet<_>>().len(), lasting as usize);
            shard.validate();
            // The next round starts with a large table and shrinks it, or with a small one.
            let present = if round % 2 == 0 { 20 * lasting } else { 0 };
            for i in 0..40 * lasting {
                let key = name("other", i);
                if i < present {
                    shard.set(0, &hasher.key(&key), NewValue::Bytes(b"x"), Expiry::Never);
                } else {
                    churn += shard.remove(0, &hasher.key(&key)) as u32;
                }
            }
            let _ = churn;
        }
    }
}

#[test]
fn three_million_replacements_grow_neither_tables_nor_slabs() {
    const KEYS: u64 = 20_000;
    let hasher = Hasher::new(16, [1, 2, 3, 4]);
    let mut shard = Shard::with_reserve(0..16, 1, hasher.clone(), RESERVE_BYTES).unwrap();
    let name = |i: u64| format!("key:{i:010}").into_bytes();
    let value = [7; 64];
    let insert = |shard: &mut Shard, i| shard.set(0, &hasher.key(&name(i)), NewValue::Bytes(&value), Expiry::Never);
    (0..KEYS).for_each(|i| insert(&mut shard, i));
    let mut peak = 0;
    let fresh = shard.memory();
    for i in KEYS..KEYS + 3_000_000 {
        assert!(shard.remove(0, &hasher.key(&name(i - KEYS))));
        insert(&mut shard, i);
        peak = peak.max(shard.memory());
    }
    assert_eq!(shard.size(0).keys as u64, KEYS);
    // A partition's share of the keys varies, and its table with it.
    assert!(peak <= fresh + fresh / 20, "{fresh} bytes at first, {peak} later");
    shard.validate();
}

#[test]
fn an_empty_shard_owns_next_to_nothing_and_forgets_large_values() {
    let hasher = hasher();
    let mut shard = Shard::with_reserve(PARTITIONS, DATABASES, hasher.clone(), RESERVE_BYTES).unwrap();
    let keys = keys(2_000);
    let shared = Arc::new(vec![0; 50_000]);
    for key in &keys {
        shard.set(
            0,
            &hasher.key(key),
            NewValue::Shared(Arc::clone(&shared)),
            Expiry::At(Deadline::new(Clock::Wall, 9)),
        );
    }
    assert_eq!(Arc::strong_count(&shared), 1 + keys.len());
    assert!(shard.memory() > keys.len() * 50_000);
    assert_eq!(shard.flush(0), keys.len());
    assert_eq!(shard.size(0).keys, 0);
    assert_eq!(Arc::strong_count(&shared), 1 + keys.len(), "a flush only hides what is to be freed");
    while shard.has_work(true) {
        shard.work(true);
    }
    assert_eq!(Arc::strong_count(&shared), 1);
    // What stays is the bookkeeping of slabs.
    assert!(shard.memory() < 4_096, "{} bytes", shard.memory());
    shard.attach(
        2,
        &hasher.key(&keys[0]),
        super::Detached {
            kind: super::Kind::String,
            value: super::Stored::Bytes(Arc::clone(&shared)),
            expire_at: None,
            raw: true,
            used: Default::default(),
        },
    );
    drop(shard);
    assert_eq!(Arc::strong_count(&shared), 1);
}
