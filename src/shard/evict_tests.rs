//! Eviction against models too simple to be wrong, at the limit and while the policy changes.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Random, assert_told, keys};
use super::{Classes, Clock, Deadline, Effect, Expiry, LfuPace, NewValue, Now, Policy, Rule, Shard};
use crate::route::Hasher;

const DATABASES: usize = 2;
/// A multiple of 2^16 ms: a timer wheel sorts the next 65 s into slots of 256 ms or less.
const NOW_MS: i64 = 1_700_000_000_000 / 65_536 * 65_536;
const RULES: [Rule; 6] = [Rule::None, Rule::Lru, Rule::Lfu, Rule::S3Fifo, Rule::Random, Rule::Ttl];

fn hasher() -> Hasher {
    Hasher::new(16, [1, 2, 3, 4])
}

fn shard(rule: Rule, volatile: bool) -> Shard {
    let mut shard = Shard::with_reserve(0..16, DATABASES, hasher(), 1 << 28).unwrap();
    shard.set_now(NOW_MS);
    shard.set_policy(Policy { rule, volatile });
    shard.effects.enable(true);
    shard
}

/// A deadline on one clock or the other.
fn at(ms: i64) -> Deadline {
    Deadline::new(Clock::ALL[ms as usize % 2], ms)
}

fn name(i: usize) -> Vec<u8> {
    format!("key:{i}").into_bytes()
}

fn set(shard: &mut Shard, db: usize, i: usize, bytes: usize, expiry: Expiry) {
    shard.set(db, &hasher().key(&name(i)), NewValue::Bytes(&vec![b'v'; bytes]), expiry);
}

fn get(shard: &mut Shard, db: usize, i: usize) -> bool {
    shard.read(db, &hasher().key(&name(i)), true).is_some()
}

/// Lowers the limit by one byte, and returns database and key of each entry that had to go.
fn evict(shard: &mut Shard) -> Vec<(usize, Vec<u8>)> {
    shard.effects.drain();
    shard.set_limit(Some(shard.memory() - 1));
    let made = shard.make_way(0);
    shard.set_limit(None);
    let effects: Vec<_> = shard.effects.drain().collect();
    assert_eq!(made, !effects.is_empty());
    assert!(effects.iter().all(|effect| effect.args[0] == b"DEL"));
    effects.into_iter().map(|effect| (effect.db as usize, effect.args[1].clone())).collect()
}

/// Lowers the limit so that one entry has to go, and returns its database and key. Not for tables that move: a step of a
/// move may take more than the entry gives.
fn evict_one(shard: &mut Shard) -> Option<(usize, Vec<u8>)> {
    let mut evicted = evict(shard);
    // The memory of S3-FIFO may grow while it searches.
    assert!(evicted.len() <= 1 || shard.policy().rule == Rule::S3Fifo);
    evicted.pop()
}

/// Database and number of a key, when it was last used, and how often.
type Used = BTreeMap<(usize, Vec<u8>), (u64, u64)>;

/// Random accesses to `shard` and to `used`, with evictions of which `worst` of the model must agree.
fn agrees(shard: &mut Shard, volatile: bool, worst: impl Fn(&Used) -> Option<(usize, Vec<u8>)>) {
    let random = &mut Random::seeded();
    let (mut used, mut expiring) = (Used::new(), BTreeSet::new());
    let mut evicted = 0;
    for step in 0..60_000_u64 {
        let (db, i) = (random.below(DATABASES), random.below(400));
        let id = (db, name(i));
        let touch = |used: &mut Used| {
            let (_, count) = used.get(&id).copied().unwrap_or_default();
            used.insert(id.clone(), (step, count + 1));
        };
        match random.below(10) {
            0..4 => {
                let expires = random.one_in(2);
                let expiry =
                    if expires { Expiry::At(at(NOW_MS + 1_000_000 + random.below(2) as i64)) } else { Expiry::Never };
                set(shard, db, i, [10, 3_000, 9_000][random.below(3)], expiry);
                touch(&mut used);
                if expires {
                    expiring.insert(id)
                } else {
                    expiring.remove(&id)
                };
            }
            4..7 => {
                assert_eq!(get(shard, db, i), used.contains_key(&id));
                if used.contains_key(&id) {
                    touch(&mut used);
                }
            }
            7 => {
                let at = random.one_in(2).then_some(at(NOW_MS + 2_000_000));
                if shard.set_expiry(db, &hasher().key(&id.1), at) {
                    touch(&mut used);
                    if at.is_some() {
                        expiring.insert(id)
                    } else {
                        expiring.remove(&id)
                    };
                }
            }
            8 => {
                assert_eq!(shard.remove(db, &hasher().key(&id.1)), used.remove(&id).is_some());
                expiring.remove(&id);
            }
            _ => {
                let candidates = used.iter().filter(|(id, _)| !volatile || expiring.contains(*id));
                let worst = worst(&candidates.map(|(id, used)| (id.clone(), *used)).collect());
                assert_eq!(evict_one(shard), worst);
                if let Some(id) = worst {
                    used.remove(&id);
                    expiring.remove(&id);
                    evicted += 1;
                }
            }
        }
        if step % 5_000 == 0 {
            shard.validate();
        }
    }
    assert!(evicted > 1_000);
}

#[test]
fn lru_evicts_the_one_used_longest_ago() {
    for volatile in [false, true] {
        agrees(&mut shard(Rule::Lru, volatile), volatile, |used| {
            used.iter().min_by_key(|(_, (step, _))| *step).map(|(id, _)| id.clone())
        });
    }
}

#[test]
fn lfu_evicts_the_one_used_least_and_of_those_the_one_used_longest_ago() {
    for volatile in [false, true] {
        let mut shard = shard(Rule::Lfu, volatile);
        // Every access counts.
        shard.set_lfu_pace(LfuPace { log_factor: 0, decay_minutes: 0 });
        agrees(&mut shard, volatile, |used| {
            let least = used.iter().min_by_key(|(_, (step, count))| ((*count).min(251), *step));
            least.map(|(id, _)| id.clone())
        });
    }
}

#[test]
fn lfu_counts_fall_with_time() {
    let mut shard = shard(Rule::Lfu, false);
    shard.set_lfu_pace(LfuPace { log_factor: 0, decay_minutes: 1 });
    let count = |shard: &mut Shard, i| shard.peek(0, &hasher().key(&name(i))).unwrap().frequency;
    set(&mut shard, 0, 1, 10, Expiry::Never);
    (0..20).for_each(|_| assert!(get(&mut shard, 0, 1)));
    assert_eq!(count(&mut shard, 1), 25);
    shard.set_now(NOW_MS + 22 * 60_000);
    set(&mut shard, 0, 2, 10, Expiry::Never);
    shard.validate();
    assert_eq!((count(&mut shard, 1), count(&mut shard, 2)), (3, 5));
    assert_eq!(evict_one(&mut shard), Some((0, name(1))), "what was popular once is not any more");
    // So long that the numbers of periods come round.
    for minutes in [300, 70_000, 200_000] {
        set(&mut shard, 0, 3, 10, Expiry::Never);
        shard.set_now(shard.now_ms() + minutes * 60_000);
        assert!(get(&mut shard, 0, 2));
        shard.validate();
        assert_eq!(evict_one(&mut shard), Some((0, name(3))));
    }
}

#[test]
fn s3fifo_keeps_what_is_used_through_a_scan() {
    let mut shard = shard(Rule::S3Fifo, false);
    (0..1_000).for_each(|i| set(&mut shard, 0, i, 50, Expiry::Never));
    (0..500).for_each(|i| assert!(get(&mut shard, 0, i)));
    shard.set_limit(Some(shard.memory() + 10_000));
    for i in 1_000..30_000 {
        assert!(get(&mut shard, 0, i % 500), "{i}");
        assert!(shard.make_way(100));
        set(&mut shard, 0, i, 50, Expiry::Never);
        if i % 5_000 == 0 {
            shard.validate();
        }
    }
    assert!((500..1_000).all(|i| !get(&mut shard, 0, i)));
}

#[test]
fn ttl_evicts_what_expires_soonest_and_random_what_is_a_candidate() {
    let mut ttl = shard(Rule::Ttl, true);
    (0..200).for_each(|i| {
        set(&mut ttl, i % 2, i, 10, Expiry::At(at(NOW_MS + 300 * (1 + (i * 37 % 200) as i64) + (i % 3) as i64)))
    });
    (200..300).for_each(|i| set(&mut ttl, 0, i, 10, Expiry::Never));
    // Slots of the second level are 256 ms wide, and these deadlines are 300 ms apart.
    for n in 0..200 {
        let (db, key) = evict_one(&mut ttl).unwrap();
        let i: i64 = String::from_utf8(key).unwrap()[4..].parse().unwrap();
        let rank = i * 37 % 200;
        assert_eq!((db as i64, rank), (i % 2, n));
    }
    assert_eq!(evict_one(&mut ttl), None, "nothing is left that has an expiry");

    // Which one is soonest, when the clocks differ, is not what their deadlines say but how long they still have.
    for (set_ms, victim) in [(0, 1), (900, 0), (-900, 1)] {
        let mut ttl = shard(Rule::Ttl, true);
        set(&mut ttl, 0, 0, 10, Expiry::At(Deadline::new(Clock::Wall, NOW_MS + 1_500)));
        set(&mut ttl, 0, 1, 10, Expiry::At(Deadline::new(Clock::Steady, NOW_MS + 1_000)));
        ttl.set_now(Now { wall_ms: NOW_MS + set_ms, steady_ms: NOW_MS });
        assert_eq!(evict_one(&mut ttl), Some((0, name(victim))));
    }

    // Equal times to live: what came first goes first.
    let mut ttl = shard(Rule::Ttl, true);
    for i in 0..800 {
        ttl.set_now(NOW_MS + i as i64 * 40);
        set(&mut ttl, 0, i, 10, Expiry::At(at(NOW_MS + i as i64 * 40 + 100_000_000)));
    }
    for n in 0..800_i64 {
        let (_, key) = evict_one(&mut ttl).unwrap();
        let i: i64 = String::from_utf8(key).unwrap()[4..].parse().unwrap();
        assert!((i - n).abs() <= 16, "{n}: {i}");
    }

    for volatile in [false, true] {
        let mut random = shard(Rule::Random, volatile);
        (0..3_000).for_each(|i| set(&mut random, i % 2, i, 10, Expiry::Never));
        (0..20).for_each(|i| set(&mut random, i % 2, i, 10, Expiry::At(at(NOW_MS + 5_000 + i as i64))));
        let mut victims = BTreeSet::new();
        while let Some((_, key)) = evict_one(&mut random) {
            assert!(victims.insert(key));
        }
        assert_eq!(victims.len(), if volatile { 20 } else { 3_000 });
    }
}

#[test]
fn a_policy_can_change_at_any_moment() {
    let random = &mut Random::seeded();
    let mut shard = shard(Rule::None, false);
    let mut keys = 0;
    for step in 0..150_000 {
        if random.one_in(3_000) {
            shard.set_policy(Policy { rule: RULES[random.below(6)], volatile: random.one_in(2) });
        }
        let (db, i) = (random.below(DATABASES), random.below(5_000));
        match random.below(10) {
            0..4 => {
                let expiry = if random.one_in(2) {
                    Expiry::At(at(NOW_MS + 1_000_000 + random.below(2) as i64))
                } else {
                    Expiry::Never
                };
                set(&mut shard, db, i, random.below(300), expiry);
            }
            4..7 => _ = get(&mut shard, db, i),
            7 => _ = shard.remove(db, &hasher().key(&name(i))),
            8 => {
                shard.free_flushed(usize::MAX);
                evict(&mut shard);
            }
            _ if random.one_in(1_000) => _ = shard.flush(db),
            _ if random.one_in(100) => shard.swap(0, 1),
            _ => shard.work(true),
        }
        shard.set_now(NOW_MS + step * 7);
        keys = keys.max(shard.size(0).keys);
        if step % 1_000 == 0 {
            shard.validate();
        }
        if step % 20_000 == 0 {
            while shard.has_work(true) {
                shard.work(true);
            }
            shard.validate();
        }
    }
    assert!(keys > 1_000);
}

#[test]
fn a_change_to_lru_goes_by_the_time_of_the_last_access() {
    for before in RULES.into_iter().filter(|&rule| rule != Rule::Lfu && rule != Rule::Lru) {
        let mut shard = shard(before, false);
        for i in 0..2_000 {
            shard.set_now(NOW_MS + i as i64 * 1_000);
            set(&mut shard, 0, i, 10, Expiry::Never);
        }
        shard.set_policy(Policy { rule: Rule::Lru, volatile: false });
        // An entry that is used meanwhile is among the most recent ones.
        assert!(get(&mut shard, 0, 0));
        while shard.has_work(true) {
            shard.work(true);
        }
        shard.validate();
        let number = |key: &[u8]| String::from_utf8_lossy(&key[4..]).parse::<usize>().unwrap();
        let order: Vec<usize> =
            shard.evictor.recent(&shard.entries).into_iter().map(|handle| number(shard.entries.key(handle))).collect();
        // Sorted by the logarithm of the idle time.
        let class = |&i: &usize| if i == 0 { None } else { (1_999 - i).checked_ilog2() };
        assert!(order.is_sorted_by_key(class), "{before:?}");
    }
}

#[test]
fn the_limit_holds_under_every_policy_and_sizes_may_shift() {
    let random = &mut Random::seeded();
    const LIMIT: usize = 8 << 20;
    const VALUE_BYTES_MAX: usize = 22_000;
    for (rule, volatile) in RULES.into_iter().flat_map(|rule| [(rule, false), (rule, true)]) {
        let volatile = volatile || rule == Rule::Ttl;
        let mut shard = shard(rule, volatile);
        shard.set_limit(Some(LIMIT));
        let mut refused = 0;
        for step in 0..40_000 {
            // Small values, then large ones, then middling ones.
            let bytes = match step / 13_000 {
                0 => random.below(100),
                1 => 2_000 + random.below(VALUE_BYTES_MAX - 2_000),
                _ => 300 + random.below(300),
            };
            let expiry = if random.one_in(2) {
                Expiry::At(at(NOW_MS + 1_000_000 + random.below(2) as i64))
            } else {
                Expiry::Never
            };
            if shard.make_way(bytes + 20) {
                set(&mut shard, 0, step, bytes, expiry);
            } else {
                refused += 1;
            }
            // Sizes are rounded, a table may grow; and where nothing is evicted, one command may go beyond the limit.
            let beyond = if rule == Rule::None || volatile { VALUE_BYTES_MAX } else { bytes };
            assert!(shard.memory() <= LIMIT + beyond + 16_384, "{rule:?}: {}", shard.memory());
            let (mapped, live) = (shard.mapped_bytes(), shard.heap_bytes());
            assert!(mapped <= live + live / 8 + (3 << 20), "{rule:?}: {mapped} bytes for {live} at step {step}");
        }
        shard.validate();
        // Entries that never expire fill up the memory in the end, if they are no candidates.
        assert!(volatile || (refused > 0) == (rule == Rule::None), "{rule:?}");
        assert_eq!(shard.counters.evicted > 0, rule != Rule::None);
        // What can never fit may run while there is room, and is the last that does.
        if rule != Rule::None && !volatile {
            assert!(shard.make_way(LIMIT + 1) && shard.memory() <= LIMIT);
        }
    }
}

#[test]
fn huge_values_do_not_pile_up_while_small_ones_make_way() {
    const LIMIT: usize = 64 << 20;
    let mut shard = shard(Rule::Lru, false);
    shard.set_limit(Some(LIMIT));
    for i in 0..400_000 {
        assert!(shard.make_way(30));
        set(&mut shard, 0, i, 20, Expiry::Never);
    }
    let mut refused = 0;
    for i in 0..40 {
        // Half of what it brings is not among its arguments, as with SETRANGE.
        if shard.make_way(8 << 20) {
            set(&mut shard, 1, i, 16 << 20, Expiry::Never);
        } else {
            refused += 1;
        }
        assert!(shard.memory() <= LIMIT + LIMIT / 16 + (18 << 20), "{}", shard.memory());
    }
    assert!(refused > 0 && refused < 40, "{refused}");
    shard.validate();
}

#[test]
fn a_change_to_noeviction_evicts_nothing() {
    let mut shard = shard(Rule::Lru, false);
    (0..5_000).for_each(|i| set(&mut shard, 0, i, 100, Expiry::Never));
    shard.set_limit(Some(shard.memory() / 2));
    shard.set_policy(Policy { rule: Rule::None, volatile: false });
    while shard.has_work(true) {
        shard.work(true);
    }
    assert!(!shard.make_way(1));
    assert_eq!((shard.size(0).keys, shard.counters.evicted), (5_000, 0));
    shard.validate();
}

#[test]
fn a_pause_holds_up_eviction_and_nothing_spins_meanwhile() {
    let mut shard = shard(Rule::Lru, false);
    (0..5_000).for_each(|i| set(&mut shard, 0, i, 100, Expiry::Never));
    shard.set_limit(Some(shard.memory() / 2));
    assert!(!shard.has_work(false) && shard.has_work(true));
    shard.work(false);
    assert_eq!(shard.counters.evicted, 0);
    // Nor when nothing can be evicted.
    shard.set_policy(Policy { rule: Rule::Lru, volatile: true });
    while shard.has_work(true) {
        shard.work(true);
    }
    assert_eq!(shard.counters.evicted, 0);
}

#[test]
fn a_command_with_many_candidates_to_pass_is_bounded() {
    let mut shard = shard(Rule::Lru, false);
    (0..50_000).for_each(|i| set(&mut shard, 0, i, 20, Expiry::Never));
    set(&mut shard, 0, 50_000, 20, Expiry::At(at(NOW_MS + 1_000_000)));
    shard.set_limit(Some(shard.memory() + 10));
    shard.set_policy(Policy { rule: Rule::Lru, volatile: true });
    // Old lists and tables are gone through in pieces; until then commands run, or are refused, at once.
    assert!(shard.make_way(20) && shard.has_work(true), "there is still work to do after one command");
    while shard.has_work(true) {
        shard.work(true);
    }
    shard.set_limit(Some(shard.memory() - 1));
    assert!(shard.make_way(0));
    assert_eq!(shard.counters.evicted, 1);
    shard.validate();
}

#[test]
fn a_lower_limit_is_reached_in_pieces() {
    let mut shard = shard(Rule::Lru, false);
    (0..20_000).for_each(|i| set(&mut shard, 0, i, 100, Expiry::Never));
    let limit = shard.memory() / 4;
    shard.set_limit(Some(limit));
    let mut pieces = 0;
    while shard.has_work(true) {
        let before = shard.counters.evicted;
        shard.work(true);
        assert!(shard.counters.evicted - before <= 128);
        pieces += 1;
    }
    assert!(pieces > 100 && shard.memory() <= limit);
    assert!(get(&mut shard, 0, 19_999) && !get(&mut shard, 0, 0));
    shard.validate();
}

#[test]
fn without_address_space_writes_evict_and_say_so() {
    let hasher = hasher();
    let mut shard = Shard::with_reserve(0..16, DATABASES, hasher.clone(), 1 << 22).unwrap();
    shard.effects.enable(true);
    shard.events.enable(true);
    shard.events.set_mask(Classes::parse("Kxe").unwrap());
    let random = &mut Random::seeded();
    let keys = keys(40_000);
    let mut written = 0;
    for (i, key) in keys.iter().enumerate() {
        // Small entries first, so that later sizes find every slab taken by other classes.
        let value = vec![b'v'; if i < 30_000 { 100 } else { random.below(4_000) }];
        shard.set(i % DATABASES, &hasher.key(key), NewValue::Bytes(&value), Expiry::Never);
        assert_eq!(shard.peek(i % DATABASES, &hasher.key(key)).unwrap().value.bytes(), value);
        written += 1;
        if i % 5_000 == 0 {
            shard.validate();
        }
    }
    shard.validate();
    let left: usize = (0..DATABASES).map(|db| shard.size(db).keys).sum();
    assert_eq!(left as u64 + shard.counters.evicted, written);
    assert!(shard.counters.evicted > 1_000);
    let effects: Vec<Effect> = shard.effects.drain().collect();
    assert_eq!(effects.len() as u64, shard.counters.evicted);
    assert_told(&mut shard, "evicted", &effects);
    for effect in effects {
        assert!(shard.peek(effect.db as usize, &hasher.key(&effect.args[1])).is_none());
    }
}
