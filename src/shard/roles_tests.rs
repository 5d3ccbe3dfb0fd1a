//! Roles by database: what moves, and what stays as it is.

use std::collections::BTreeMap;

use super::super::model::Random;
use super::super::{Clock, Deadline, Expiry, LfuPace, NEVER_MS, NewValue, Policy, Rule};
use super::*;
use crate::collection::{Thresholds, hash};
use crate::route::Key;

const START_MS: i64 = 1_700_000_000_000;
const PARTITIONS: u16 = 8;
const RULES: [Rule; 6] = [Rule::None, Rule::Lru, Rule::Lfu, Rule::S3Fifo, Rule::Random, Rule::Ttl];

struct Core {
    shard: Shard,
    hasher: Hasher,
}

impl Core {
    fn new(policy: Policy) -> Core {
        let hasher = Hasher::new(PARTITIONS, [1, 2, 3, 4]);
        let mut shard = Shard::in_cluster_with_reserve(0..PARTITIONS, hasher.clone(), 1 << 28).unwrap();
        shard.effects.enable(true);
        shard.set_now(START_MS);
        shard.set_policy(policy);
        shard.rank_all();
        Core { shard, hasher }
    }

    fn set(&mut self, db: usize, key: &str, expiry: Expiry) {
        self.shard.set(db, &self.hasher.key(key.as_bytes()), NewValue::Bytes(&[b'v'; 100]), expiry);
    }

    fn has(&mut self, db: usize, key: &str) -> bool {
        self.shard.peek(db, &self.hasher.key(key.as_bytes())).is_some()
    }

    /// A hash with a field of which the time comes.
    fn set_hash(&mut self, db: usize, key: &str, field_at: i64) {
        let made = self.shard.change(db, &self.hasher.key(key.as_bytes()), Kind::Hash, true, |value| {
            for field in [&b"f"[..], b"g"] {
                hash::set(value, field, b"v", &Thresholds::default());
            }
            hash::set_deadline(value, b"f", Some(Deadline::new(Clock::Wall, field_at)));
            ((), 2)
        });
        assert!(made.is_ok());
    }

    fn partition(&self, key: &str) -> u16 {
        self.hasher.key(key.as_bytes()).partition
    }

    fn move_all(&mut self, from: usize, to: usize) {
        let there = |partition: &u16| self.shard.partition_size(from, *partition) > 0;
        let there: Vec<u16> = (0..PARTITIONS).filter(there).collect();
        there.into_iter().for_each(|partition| self.shard.move_partition(partition, from, to));
    }

    fn work(&mut self) {
        while self.shard.has_work(true) {
            self.shard.work(true);
        }
    }
}

fn at(clock: Clock, ms: i64) -> Expiry {
    Expiry::At(Deadline::new(clock, START_MS + ms))
}

fn policies() -> impl Iterator<Item = Policy> {
    RULES.into_iter().flat_map(|rule| [false, true].map(|volatile| Policy { rule, volatile }))
}

#[test]
fn a_partition_moves_with_all_that_belongs_to_it() {
    for policy in policies() {
        let mut core = Core::new(policy);
        for n in 0..500 {
            let expiry = [Expiry::Never, at(Clock::Wall, 5_000 + n), at(Clock::Steady, 9_000 + n)][n as usize % 3];
            core.set(LED, &format!("key:{n}"), expiry);
        }
        for n in 0..50 {
            core.set_hash(LED, &format!("hash:{n}"), START_MS + 7_000 + n);
        }
        let (size, memory) = (core.shard.size(LED), core.shard.memory());
        core.move_all(LED, FOLLOWED);
        core.shard.validate();
        assert_eq!((core.shard.size(LED).keys, core.shard.size(FOLLOWED)), (0, size), "{policy:?}");
        assert!(!core.has(LED, "key:1") && core.has(FOLLOWED, "key:1"));
        // Odd partitions come back, before the shard has had its turn.
        (1..PARTITIONS).step_by(2).for_each(|partition| core.shard.move_partition(partition, FOLLOWED, LED));
        core.shard.validate();
        core.move_all(FOLLOWED, LED);
        core.work();
        core.shard.validate();
        assert_eq!((core.shard.size(FOLLOWED).keys, core.shard.size(LED)), (0, size), "{policy:?}");
        assert_eq!(core.shard.effects.drain().count(), 0);
        // What wheels have taken for the other database stays for the next time.
        assert!(core.shard.memory() < memory + 200_000, "{memory} before, {} after", core.shard.memory());
        core.shard.set_now(START_MS + 20_000);
        while core.shard.next_expiry_ms() <= START_MS + 20_000 {
            core.shard.expire_due(|_| ());
        }
        assert_eq!(core.shard.size(LED).keys, 500 / 3 + 1 + 50, "the wheels know all of them");
        assert_eq!(core.shard.counters.expired_fields, 50);
        core.shard.validate();
    }
}

#[test]
fn nothing_that_is_followed_goes_by_itself() {
    for policy in policies() {
        let mut core = Core::new(policy);
        for n in 0..2_000 {
            let expiry = [Expiry::Never, at(Clock::Wall, 50), at(Clock::Steady, 50), at(Clock::Wall, 900_000)];
            core.set(FOLLOWED, &format!("copy:{n}"), expiry[n % 4]);
            core.set(LED, &format!("key:{n}"), expiry[n % 2 * 3]);
        }
        core.set_hash(FOLLOWED, "copied", START_MS + 60);
        core.shard.set_now(START_MS + 1_000);
        assert!(core.shard.next_expiry_ms() > START_MS + 1_000, "there is nothing to do: {policy:?}");
        core.shard.expire_due(|_| ());
        // A reader sees what a replica shows.
        assert!(core.has(FOLLOWED, "copy:0") && !core.has(FOLLOWED, "copy:1") && !core.has(FOLLOWED, "copy:2"));
        let (key, now) = (core.hasher.clone(), core.shard.now());
        let shown = core.shard.peek(FOLLOWED, &key.key(b"copied")).unwrap();
        assert_eq!(hash::Hash::at(shown.collection(), now).get(b"f"), None);
        let mut seen = 0;
        for partition in 0..PARTITIONS {
            let mut from = Some(0);
            while let Some(position) = from {
                from = core.shard.scan(FOLLOWED, partition, position, 10, |_, _| seen += 1);
            }
        }
        assert_eq!(seen, 1_001);
        // Everything of its own goes, and no more, whatever is tried.
        core.shard.set_limit(Some(1));
        for _ in 0..100 {
            core.shard.make_way(100);
            core.work();
        }
        let (own, followed) = (core.shard.size(LED), core.shard.size(FOLLOWED));
        assert_eq!(followed.keys, 2_001, "{policy:?}");
        let candidates_left = if policy.volatile || policy.rule == Rule::Ttl { own.expires } else { own.keys };
        assert!(policy.rule == Rule::None || candidates_left == 0, "{policy:?}: {own:?}");
        assert!(core.shard.effects.drain().all(|effect| effect.db as usize == LED));
        core.shard.validate();
        // The copy is led now: what was over goes at once, and the rest is evicted.
        core.shard.set_limit(None);
        core.move_all(FOLLOWED, LED);
        assert!(core.shard.next_expiry_ms() <= START_MS + 1_000);
        while core.shard.next_expiry_ms() <= START_MS + 1_000 {
            core.shard.expire_due(|_| ());
        }
        assert_eq!(core.shard.size(LED).keys, 1_001, "{policy:?}");
        core.shard.set_limit(Some(1));
        for _ in 0..100 {
            core.shard.make_way(100);
            core.work();
        }
        let left = core.shard.size(LED);
        let candidates_left = if policy.volatile || policy.rule == Rule::Ttl { left.expires } else { left.keys };
        assert!(policy.rule == Rule::None || candidates_left == 0, "{policy:?}: {left:?}");
        core.shard.validate();
    }
}

/// Whatever happens at the same time: policies change, partitions move, the shard has its turns or not.
#[test]
fn roles_and_policies_change_while_keys_come_and_go() {
    let random = &mut Random::seeded();
    for _ in 0..30 {
        let mut core = Core::new(Policy::default());
        let mut now_ms = START_MS;
        for step in 0..4_000 {
            let key = format!("key:{}", random.below(600));
            match random.below(1_000) {
                0..500 => {
                    let expiry = [Expiry::Never, at(Clock::Wall, now_ms - START_MS + random.below(90_000) as i64)];
                    let db = core.shard.home_of(core.partition(&key));
                    let before = core.shard.set_expiring(if db == FOLLOWED { Expiring::Never } else { Expiring::Here });
                    core.set(db, &key, expiry[random.below(2)]);
                    core.shard.set_expiring(before);
                }
                500..900 => {
                    let hasher = core.hasher.clone();
                    core.shard.read(random.below(2), &hasher.key(key.as_bytes()), true);
                }
                900..940 => {
                    let partition = random.below(PARTITIONS as usize) as u16;
                    let from = core.shard.home_of(partition);
                    core.shard.move_partition(partition, from, 1 - from);
                }
                940..945 => {
                    core.shard.drop_partition(random.below(2), random.below(PARTITIONS as usize) as u16);
                }
                945..950 => {
                    let rule = RULES[random.below(RULES.len())];
                    core.shard.set_policy(Policy { rule, volatile: random.one_in(2) });
                }
                950..960 => {
                    now_ms += random.below(9_000) as i64;
                    core.shard.set_now(now_ms);
                    core.shard.expire_due(|_| ());
                }
                960..965 => {
                    let limit = core.shard.memory() * 19 / 20;
                    core.shard.set_limit(random.one_in(2).then_some(limit));
                    core.shard.make_way(10);
                }
                965..967 => _ = core.shard.flush(LED),
                _ => core.shard.work(true),
            }
            if step % 200 == 0 {
                core.shard.validate();
            }
        }
        core.shard.set_limit(None);
        core.work();
        core.shard.validate();
        core.move_all(FOLLOWED, LED);
        core.work();
        core.shard.validate();
    }
}

/// Those that were not used for longer go first, wherever they come from.
#[test]
fn adopted_entries_are_ranked_by_their_last_access() {
    let mut core = Core::new(Policy { rule: Rule::Lru, volatile: false });
    let mut used_s: BTreeMap<String, i64> = BTreeMap::new();
    for n in 0..2_000i64 {
        core.shard.set_now(START_MS + n * 7_000);
        let key = format!("key:{n}");
        let db = if core.partition(&key) < PARTITIONS / 2 { LED } else { FOLLOWED };
        core.set(db, &key, Expiry::Never);
        used_s.insert(key, n * 7);
    }
    let end_s = 2_000 * 7;
    core.shard.set_now(START_MS + end_s * 1_000);
    core.move_all(FOLLOWED, LED);
    core.work();
    for n in 0..100 {
        let key = core.hasher.clone();
        core.shard.read(LED, &key.key(format!("key:{n}").as_bytes()), true);
        used_s.insert(format!("key:{n}"), end_s);
    }
    core.shard.validate();
    let mut last = 0;
    core.shard.set_limit(Some(1));
    while core.shard.size(LED).keys > 0 {
        core.shard.work(true);
        for effect in core.shard.effects.drain() {
            let idle_s = end_s - used_s[std::str::from_utf8(&effect.args[1]).unwrap()];
            assert!(last == 0 || idle_s <= 2 * last, "{idle_s} s after {last} s");
            last = idle_s;
        }
    }
    assert_eq!(last, 0, "what was used since goes last");
}

#[test]
fn under_lfu_the_adopted_are_new_and_under_s3_fifo_they_are_next() {
    let mut core = Core::new(Policy { rule: Rule::Lfu, volatile: false });
    core.shard.set_lfu_pace(LfuPace { log_factor: 0, decay_minutes: 1 });
    core.set(FOLLOWED, "old", Expiry::Never);
    core.shard.set_now(START_MS + 180_000);
    core.set(FOLLOWED, "new", Expiry::Never);
    core.move_all(FOLLOWED, LED);
    core.work();
    let key = core.hasher.clone();
    let frequency = |core: &mut Core, name: &str| core.shard.peek(LED, &key.key(name.as_bytes())).unwrap().frequency;
    assert_eq!((frequency(&mut core, "old"), frequency(&mut core, "new")), (2, 5));
    core.shard.validate();

    let mut core = Core::new(Policy { rule: Rule::S3Fifo, volatile: false });
    (0..100).for_each(|n| core.set(FOLLOWED, &format!("copy:{n}"), Expiry::Never));
    core.move_all(FOLLOWED, LED);
    core.work();
    core.shard.validate();
    assert!(core.shard.evictor.victim(&mut core.shard.entries, 0).is_some());
}

#[test]
fn watched_keys_change_where_a_partition_arrives() {
    let mut core = Core::new(Policy::default());
    core.set(LED, "key", Expiry::Never);
    let (hasher, partition) = (core.hasher.clone(), core.partition("key"));
    let other = (0..).map(|n| format!("other:{n}")).find(|name| core.partition(name) != partition).unwrap();
    let key: Key = hasher.key(b"key");
    let (version, far) = (core.shard.watch(LED, &key), core.shard.watch(LED, &hasher.key(other.as_bytes())));
    core.shard.await_key(LED as u8, b"key");
    core.shard.move_partition(partition, LED, FOLLOWED);
    assert_eq!(core.shard.version(LED, &key), version, "requests go elsewhere");
    assert!(!core.shard.has_maybe_ready());
    core.shard.move_partition(partition, FOLLOWED, LED);
    let arrived = core.shard.version(LED, &key);
    assert_ne!(arrived, version);
    assert_eq!(core.shard.take_maybe_ready(), [(LED as u8, b"key".to_vec())]);
    core.shard.drop_partition(LED, partition);
    let dropped = core.shard.version(LED, &key);
    assert_ne!(dropped, arrived);
    core.shard.drop_partition(LED, partition);
    assert_eq!(core.shard.version(LED, &key), dropped, "there was nothing");
    assert_eq!(core.shard.version(LED, &hasher.key(other.as_bytes())), far);
}

#[test]
fn what_a_walk_cannot_tell_is_counted() {
    let mut core = Core::new(Policy::default());
    core.set(LED, "key", Expiry::Never);
    let partition = core.partition("key");
    let with = PartitionSet::from_iter([partition]);
    let without: PartitionSet = (0..PARTITIONS).filter(|&other| other != partition).collect();
    let counts = |core: &Core| [None, Some(&with), Some(&without)].map(|only| core.shard.disruptions(only));
    let [all, some, others] = counts(&core);
    core.shard.move_partition(partition, LED, LED);
    assert_eq!(counts(&core), [all, some, others]);
    core.shard.move_partition(partition, LED, FOLLOWED);
    assert_eq!(counts(&core), [all + 1, some + 1, others]);
    core.shard.drop_partition(FOLLOWED, partition);
    assert_eq!(counts(&core), [all + 1, some + 1, others]);
}

#[test]
fn a_dropped_partition_gives_its_memory_back() {
    let mut core = Core::new(Policy { rule: Rule::Lru, volatile: false });
    let memory = core.shard.memory();
    (0..3_000).for_each(|n| core.set(FOLLOWED, &format!("copy:{n}"), Expiry::Never));
    (0..3_000).for_each(|n| core.set(LED, &format!("key:{n}"), at(Clock::Wall, 1_000 + n)));
    core.set_hash(LED, "hash", START_MS + 5);
    let full = core.shard.memory();
    let dropped: usize = (0..PARTITIONS).map(|partition| core.shard.drop_partition(LED, partition)).sum();
    assert_eq!((dropped, core.shard.size(LED)), (3_001, Default::default()));
    assert_eq!(core.shard.counters.expired, 0);
    // What finds hashes by the deadlines of their fields goes at once.
    assert!(core.shard.memory() > full - 10_000, "memory is freed in pieces");
    core.shard.set_now(START_MS + 10_000);
    core.shard.expire_due(|_| ());
    assert_eq!(core.shard.next_expiry_ms(), NEVER_MS);
    // A target that is not empty is dropped.
    core.set(LED, "key:0", Expiry::Never);
    core.move_all(FOLLOWED, LED);
    assert_eq!(core.shard.size(LED).keys, 3_000);
    core.move_all(LED, FOLLOWED);
    (0..PARTITIONS).for_each(|partition| _ = core.shard.drop_partition(FOLLOWED, partition));
    core.work();
    core.shard.validate();
    assert!(core.shard.memory() < memory + 200_000, "{memory} at first, {} now", core.shard.memory());
}

/// Without address space entries have to go; those that are followed move together instead.
#[test]
fn what_is_followed_stays_when_the_address_space_is_used_up() {
    let hasher = Hasher::new(PARTITIONS, [1, 2, 3, 4]);
    let mut shard = Shard::in_cluster_with_reserve(0..PARTITIONS, hasher.clone(), 1 << 23).unwrap();
    shard.set_now(START_MS);
    let value = [7; 1_000];
    for n in 0..30_000 {
        let (db, name) = if n % 4 == 0 && n < 8_000 { (FOLLOWED, "copy") } else { (LED, "key") };
        shard.set(db, &hasher.key(format!("{name}:{n}").as_bytes()), NewValue::Bytes(&value), Expiry::Never);
    }
    assert_eq!(shard.size(FOLLOWED).keys, 2_000);
    assert!(shard.counters.evicted > 10_000);
    shard.validate();
}

/// `cargo test --release --lib shard::roles -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn what_a_move_costs() {
    const KEYS: u32 = 200_000;
    for (rule, expires) in
        [(Rule::None, false), (Rule::None, true), (Rule::Lru, false), (Rule::Lfu, false), (Rule::S3Fifo, true)]
    {
        let mut core = Core::new(Policy { rule, volatile: false });
        for n in 0..KEYS {
            let expiry = if expires { at(Clock::Wall, 1_000_000 + n as i64) } else { Expiry::Never };
            core.set(LED, &format!("key:{n}"), expiry);
        }
        let per_key = |since: std::time::Instant| since.elapsed().as_nanos() as f64 / KEYS as f64;
        let start = std::time::Instant::now();
        core.move_all(LED, FOLLOWED);
        let away = per_key(start);
        let start = std::time::Instant::now();
        core.move_all(FOLLOWED, LED);
        let back = per_key(start);
        let start = std::time::Instant::now();
        core.work();
        let ranked = per_key(start);
        println!(
            "{rule:?}, expiring: {expires}: {away:.1} ns away, {back:.1} ns back, {ranked:.1} ns to rank, per key"
        );
    }
}
