//! Snapshots by coverage: a stream of effects, and of what a walk over the tables says in between, makes the keyspace.
//!
//! Random commands run on one engine, among them bursts that make tables grow and shrink, while a walk covers it piece by
//! piece. Another engine, with other partitions, other seeds and a clock at which nothing expires, reads the stream by
//! the rule of `shard/cover.rs`: a statement counts if its key has been covered before. At the end both have the same.

use std::collections::HashSet;

use crate::common::engine::{engine_of, engine_seeded, run};
use crate::common::keyspace::{
    DATABASES, KEYS, NONE_COMPACT, REPLAY_MS, START_MS, TEMPLATES, TIMES, VALUES, Words, contents_of, key_of,
    replay_one,
};
use keyloom::collection::Thresholds;
use keyloom::collection::random::Random;
use keyloom::config::{Config, MaxmemoryPolicy};
use keyloom::engine::Engine;
use keyloom::route::slot::short_key;
use keyloom::route::{Hasher, Router};
use keyloom::shard::cover::{Budget, Covered, position_of};
use keyloom::shard::rebuild::Cursor;
use keyloom::shard::statement::is_about_more;
use keyloom::shard::{Effect, Expiring};

/// Strings that come and go in bursts.
const BULK: usize = 6_000;
/// Collections of many elements.
const LARGE: [&str; 4] = ["large:list", "large:set", "large:hash", "large:zset"];
const SOURCE_SEED: [u64; 4] = [5, 6, 7, 8];

fn words(statement: &[&[u8]]) -> Vec<Vec<u8>> {
    statement.iter().map(|word| word.to_vec()).collect()
}

/// Where a walk is: what comes before it is covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    partition: u16,
    db: usize,
    position: u32,
}

/// One record of the stream.
enum Record {
    /// A write, in the units of the log.
    Effects(Vec<Effect>),
    /// The entries before `upto`, and behind what was covered so far, without some.
    Cover { db: usize, statements: Vec<Vec<Vec<u8>>>, deferred: Vec<Vec<u8>>, upto: Place },
    /// A slice of a deferred entry; the last one makes it covered.
    Slice { db: usize, key: Vec<u8>, statements: Vec<Vec<Vec<u8>>>, last: bool },
}

/// The side that is covered.
struct Source {
    engine: Engine,
    random: Random,
    at: Place,
    /// Databases, keys, and how far they have been written. They are locked from the first slice on.
    deferred: Vec<(usize, Vec<u8>, Cursor)>,
    locked: Option<(usize, Vec<u8>, Cursor)>,
    /// What the shard may use, except while a key is locked: then nothing is evicted, as nothing expires.
    limit_bytes: Option<usize>,
    budget: Budget,
    stream: Vec<Record>,
    /// What the stream has had of each kind, to see that the test tests something.
    seen: [usize; 6],
}

impl Source {
    fn new(seed: u64) -> Source {
        let mut random = Random::new(seed);
        let thresholds = if random.below(2) == 0 { NONE_COMPACT } else { Thresholds::default() };
        let config = Config {
            databases: DATABASES,
            thresholds,
            maxmemory_bytes: 1 << 40,
            maxmemory_policy: [MaxmemoryPolicy::AllkeysLru, MaxmemoryPolicy::AllkeysRandom][random.below(2)],
            ..Config::default()
        };
        let mut engine = engine_of(Router::new(0, 1, [1, 2, 8][random.below(3)]), START_MS, config);
        engine.shard.effects.enable(true);
        let budget = Budget {
            bytes: [1, 500, 20_000][random.below(3)],
            collection_bytes: [200, 3_000, 40_000][random.below(3)],
        };
        let at = Place { partition: 0, db: 0, position: 0 };
        Source {
            engine,
            random,
            at,
            deferred: Vec::new(),
            locked: None,
            limit_bytes: None,
            budget,
            stream: Vec::new(),
            seen: [0; 6],
        }
    }

    fn done(&self) -> bool {
        self.at.partition == self.engine.router.partitions() && self.deferred.is_empty() && self.locked.is_none()
    }

    fn pick<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.random.below(of.len())]
    }

    /// Runs a command, unless its key is locked; all keys that can be are named in the arguments.
    fn run(&mut self, db: usize, args: &[String]) {
        if let Some((_, key, _)) = &self.locked
            && (args.len() == 1 || args.iter().any(|arg| arg.as_bytes() == key) || args[0].starts_with("FLUSH"))
        {
            return;
        }
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        run(&mut self.engine, db, &args);
        self.record();
    }

    /// Puts what was written into the stream.
    fn record(&mut self) {
        let effects: Vec<Effect> = self.engine.shard.effects.drain().collect();
        if !effects.is_empty() {
            self.stream.push(Record::Effects(effects));
        }
    }

    /// A command of the kind that `tests/effects.rs` runs.
    fn command(&mut self) {
        let names: Vec<&str> = KEYS.iter().chain(&LARGE).copied().collect();
        let words = Words {
            keys: [self.pick(&names), self.pick(&names)],
            values: [self.pick(&VALUES), self.pick(&VALUES)],
            time: self.pick(&TIMES),
            db: self.random.below(DATABASES),
        };
        let template = self.pick(&TEMPLATES);
        // SWAPDB makes a walk begin anew; a flush should not come so often that nothing is left.
        if template.starts_with("SWAPDB") || (template.starts_with("FLUSH") && self.random.below(12) > 0) {
            return;
        }
        let db = self.random.below(DATABASES);
        self.run(db, &words.fill(template));
    }

    /// All keys of a partition go.
    fn flush_partition(&mut self) {
        let partition = self.random.below(self.engine.router.partitions() as usize) as u16;
        let key = short_key(partition, self.engine.router.partitions());
        let db = self.random.below(DATABASES);
        self.run(db, &["FLUSHPARTITION".into(), String::from_utf8(key).unwrap()]);
    }

    /// Many strings are written, or removed; some with an expiry.
    fn burst(&mut self) {
        let (start, count) = (self.random.below(BULK), self.random.below(BULK / 2));
        let (db, remove) = (self.random.below(2), self.random.below(2) == 0);
        for n in start..(start + count).min(BULK) {
            let (key, value) = (format!("bulk:{n}"), "x".repeat(n % 90));
            let args: Vec<String> = match n % 7 {
                _ if remove => vec!["DEL".into(), key],
                0 => vec!["SET".into(), key, value, "PX".into(), (1 + n % 5_000).to_string()],
                _ => vec!["SET".into(), key, value],
            };
            self.run(db, &args);
        }
    }

    /// Adds to one of the large collections, with deadlines of fields and negative zeros.
    fn enlarge(&mut self) {
        let which = self.random.below(LARGE.len());
        let (db, start) = (self.random.below(DATABASES), self.random.below(3_000));
        let mut args = vec![["RPUSH", "SADD", "HSET", "ZADD"][which].to_string(), LARGE[which].to_string()];
        for n in start..start + self.random.below(400) + 1 {
            match which {
                0 | 1 => args.push(format!("element {n}")),
                2 => args.extend([format!("field {n}"), "v".repeat(n % 50)]),
                _ => args.extend([["-0", "0", "1.1", "-inf", "1e300", "5e-324"][n % 6].to_string(), format!("m{n}")]),
            }
        }
        self.run(db, &args);
        if which == 2 {
            let fields = [format!("field {start}"), format!("field {}", start + 1)];
            let (first, last) = (self.random.below(4_000), self.random.below(40_000));
            for (ms, field) in [(first, &fields[0]), (last, &fields[1])] {
                self.run(db, &["HPEXPIRE", LARGE[2], &(ms + 1).to_string(), "FIELDS", "1", field].map(String::from));
            }
        }
    }

    /// Time passes, and a turn removes some of what is over.
    fn wait(&mut self) {
        let ms = self.random.below(400) as i64;
        let now_ms = self.engine.shard.now_ms() + ms;
        // A locked key does not expire; here time stands still for all of them.
        if self.locked.is_some() {
            return;
        }
        self.engine.shard.set_now(now_ms);
        if self.random.below(3) > 0 {
            self.engine.expire_due();
            self.record();
        }
    }

    /// The walk goes on.
    fn cover(&mut self) {
        let Place { partition, db, position } = self.at;
        if partition == self.engine.router.partitions() {
            return;
        }
        let (mut statements, mut deferred) = (Vec::new(), Vec::new());
        let next = self.engine.shard.cover(db, partition, position, self.budget, |covered| match covered {
            Covered::Statement(statement) => statements.push(words(statement)),
            Covered::Deferred(key) => deferred.push(key.to_vec()),
        });
        assert_eq!(self.engine.shard.effects.drain().count(), 0, "a walk changes nothing");
        assert!(next.is_none_or(|next| next > position));
        self.at = match next {
            Some(position) => Place { position, ..self.at },
            None if db + 1 < DATABASES => Place { partition, db: db + 1, position: 0 },
            None => Place { partition: partition + 1, db: 0, position: 0 },
        };
        self.seen[0] += 1;
        self.seen[1] += statements.len();
        self.seen[2] += deferred.len();
        self.deferred.extend(deferred.iter().map(|key| (db, key.clone(), Cursor::default())));
        self.stream.push(Record::Cover { db, statements, deferred, upto: self.at });
    }

    /// A deferred key is locked, or its next slice is written.
    fn slice(&mut self) {
        if self.locked.is_none() && !self.deferred.is_empty() {
            // It takes a while until everybody else is done with the key.
            if self.random.below(8) > 0 {
                return;
            }
            let at = self.random.below(self.deferred.len());
            let (db, key, cursor) = self.deferred.swap_remove(at);
            // Whoever gets the lock finds out whether it is still there.
            let _ = self.engine.shard.peek(db, &self.engine.hasher.key(&key));
            self.record();
            self.locked = Some((db, key, cursor));
            self.engine.shard.set_limit(None);
        }
        let Some((db, key, cursor)) = self.locked.take() else { return };
        let mut statements = Vec::new();
        let elements = 1 + self.random.below(200);
        let next = self.engine.shard.rebuild_some(db, &self.engine.hasher.key(&key), cursor, elements, |statement| {
            assert!(statement.len() <= 2 + 2 * 512 && statement[1] == key);
            statements.push(words(statement));
        });
        self.seen[3] += 1;
        self.stream.push(Record::Slice { db, key: key.clone(), statements, last: next.is_none() });
        self.locked = next.map(|cursor| (db, key, cursor));
        if self.locked.is_none() {
            self.engine.shard.set_limit(self.limit_bytes);
        }
    }
}

/// The side that reads the stream.
struct Reader {
    engine: Engine,
    /// That of the source.
    hasher: Hasher,
    covered: Place,
    deferred: HashSet<(usize, Vec<u8>)>,
}

impl Reader {
    fn new(source: &Engine, partitions: u16, thresholds: Thresholds) -> Reader {
        let config = Config { databases: DATABASES, thresholds, ..Config::default() };
        let engine = engine_seeded(Router::new(0, 1, partitions), [1, 2, 3, 4], REPLAY_MS, config);
        let hasher = Hasher::new(source.router.partitions(), SOURCE_SEED);
        Reader { engine, hasher, covered: Place { partition: 0, db: 0, position: 0 }, deferred: HashSet::new() }
    }

    fn read(&mut self, record: &Record) {
        match record {
            Record::Effects(effects) => effects.iter().for_each(|effect| self.apply(effect)),
            Record::Cover { db, statements, deferred, upto } => {
                statements.iter().for_each(|args| self.write(*db, args));
                self.deferred.extend(deferred.iter().map(|key| (*db, key.clone())));
                self.covered = *upto;
            }
            Record::Slice { db, key, statements, last } => {
                statements.iter().for_each(|args| self.write(*db, args));
                if *last {
                    self.deferred.remove(&(*db, key.clone()));
                }
            }
        }
    }

    fn write(&mut self, db: usize, args: &[Vec<u8>]) {
        replay_one(&mut self.engine, &Effect { db: db as u8, slot: None, unit: 0, args: args.to_vec() });
    }

    fn apply(&mut self, effect: &Effect) {
        let db = effect.db as usize;
        let args: Vec<&[u8]> = effect.args.iter().map(Vec::as_slice).collect();
        if effect.slot.is_some() && !is_about_more(&args) {
            let name = &effect.args[1];
            let key = self.hasher.key(name);
            let place = Place { partition: key.partition, db, position: position_of(key.hash) };
            if place >= self.covered || self.deferred.contains(&(db, name.clone())) {
                return;
            }
        }
        replay_one(&mut self.engine, effect);
    }
}

fn all_names() -> Vec<Vec<u8>> {
    let few = KEYS.iter().chain(&LARGE).map(|key| key.as_bytes().to_vec());
    few.chain((0..BULK).map(|n| format!("bulk:{n}").into_bytes())).collect()
}

/// Returns what the stream had.
fn walk(seed: u64) -> [usize; 6] {
    let mut source = Source::new(seed);
    // What was there before; nobody reads it.
    for _ in 0..2 {
        (0..200).for_each(|_| source.command());
        (0..20).for_each(|_| source.enlarge());
        source.burst();
    }
    source.stream.clear();
    if source.random.below(3) == 0 {
        source.limit_bytes = Some(source.engine.shard.memory() / 10 * 9);
        source.engine.shard.set_limit(source.limit_bytes);
    }
    let mut bursts = 0;
    while !source.done() {
        match source.random.below(100) {
            0..40 => source.command(),
            40..48 => source.enlarge(),
            48 if bursts < 12 => {
                bursts += 1;
                source.burst();
            }
            49..52 => source.wait(),
            // It means the same only to who has as many partitions.
            52..54 if seed.is_multiple_of(3) => source.flush_partition(),
            52..80 => source.cover(),
            _ => source.slice(),
        }
    }
    (0..50).for_each(|_| source.command());
    let names = all_names();
    let expected = contents_of(&mut source.engine, &names);
    source.record();
    let own = source.engine.router.partitions();
    for partitions in if seed.is_multiple_of(3) { [own, own] } else { [64, 1] } {
        let thresholds = source.engine.config.thresholds;
        let mut reader = Reader::new(&source.engine, partitions, thresholds);
        source.stream.iter().for_each(|record| reader.read(record));
        assert!(reader.deferred.is_empty());
        let found = contents_of(&mut reader.engine, &names);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "seed {seed}");
        }
        assert_eq!(found.len(), expected.len(), "seed {seed}");
    }
    for effect in
        source.stream.iter().filter_map(|record| if let Record::Effects(all) = record { Some(all) } else { None })
    {
        effect.iter().for_each(|effect| assert_eq!(key_of(effect).is_none(), effect.slot.is_none()));
    }
    let counters = source.engine.shard.counters;
    [source.seen[4], source.seen[5]] = [counters.expired, counters.evicted].map(|count| count as usize);
    source.seen
}

#[test]
fn a_stream_of_writes_and_covered_pieces_is_the_keyspace_at_its_end() {
    let mut seen = [0; 6];
    for seed in 0..60 {
        println!("seed {seed}");
        for (sum, new) in seen.iter_mut().zip(walk(seed)) {
            *sum += new;
        }
    }
    println!("calls, statements, deferred, slices, expired, evicted: {seen:?}");
    let least = [1_000, 50_000, 50, 500, 500, 500];
    assert!(seen.iter().zip(least).all(|(&seen, least)| seen > least), "{seen:?}");
}

#[test]
fn small_strings_cost_no_allocation() {
    let mut engine = engine_of(Router::new(0, 1, 1), START_MS, Config { databases: DATABASES, ..Config::default() });
    for n in 0..5_000 {
        let (key, value) = (format!("key:{n}"), "v".repeat(n % 100));
        let expiry: &[&[u8]] = if n % 2 == 0 { &[b"PX", b"1000"] } else { &[] };
        run(&mut engine, 0, &[&[b"SET", key.as_bytes(), value.as_bytes()], expiry].concat());
    }
    let allocated = tikv_jemalloc_ctl::thread::allocatedp::read().unwrap();
    let before = allocated.get();
    let (mut from, mut calls, mut seen, mut words) = (Some(0), 0, 0, 0);
    while let Some(position) = from {
        from = engine.shard.cover(0, 0, position, Budget::default(), |covered| {
            let Covered::Statement(statement) = covered else { panic!("a string is not deferred") };
            (seen, words) = (seen + 1, words + statement.len());
        });
        calls += 1;
    }
    assert_eq!(allocated.get() - before, 0);
    assert_eq!((seen, words), (5_000, 5_000 * 4));
    assert!((4..40).contains(&calls), "{calls}");
}

/// What is not accessed by a walk: hits, idle times, what has expired.
#[test]
fn a_walk_leaves_no_trace() {
    let mut engine = engine_of(Router::new(0, 1, 1), START_MS, Config { databases: DATABASES, ..Config::default() });
    run(&mut engine, 0, &[b"SET", b"key", b"v"]);
    run(&mut engine, 0, &[b"SET", b"over", b"v", b"PX", b"1"]);
    engine.shard.set_now(START_MS + 60_000);
    let (mut seen, counters) = (Vec::new(), engine.shard.counters);
    let next = engine.shard.cover(0, 0, 0, Budget::default(), |covered| {
        let Covered::Statement(statement) = covered else { panic!("a string is not deferred") };
        seen.push(words(statement));
    });
    assert_eq!((seen, next), (vec![words(&[b"SET", b"key", b"v"])], None));
    let numbers = |c: keyloom::shard::Counters| (c.hits, c.misses, c.expired);
    assert_eq!(numbers(engine.shard.counters), numbers(counters));
    assert_eq!(engine.shard.size(0).keys, 2);
    let idle_s = engine.shard.peek(0, &engine.hasher.key(b"key")).unwrap().idle_s;
    assert_eq!(idle_s, 60);
}

/// A copy made by a replica has what is over by its clock: its primary may have given it more time before.
#[test]
fn where_another_node_decides_what_is_over_it_is_covered() {
    let mut engine = engine_of(Router::new(0, 1, 1), START_MS, Config { databases: DATABASES, ..Config::default() });
    run(&mut engine, 0, &[b"SET", b"over", b"v", b"PX", b"1"]);
    run(&mut engine, 0, &[b"SADD", b"large", b"1", b"2"]);
    run(&mut engine, 0, &[b"PEXPIRE", b"large", b"1"]);
    engine.shard.set_now(START_MS + 60_000);
    for (expiring, names) in [(Expiring::Here, vec![]), (Expiring::Elsewhere, vec!["SADD", "SET"])] {
        engine.shard.set_expiring(expiring);
        let mut seen = Vec::new();
        engine.shard.cover(0, 0, 0, Budget::default(), |covered| {
            let Covered::Statement(statement) = covered else { panic!("nothing is large") };
            seen.push(String::from_utf8(statement[0].to_vec()).unwrap());
        });
        seen.retain(|name| name != "PEXPIREAT");
        seen.sort_unstable();
        assert_eq!(seen, names, "{expiring:?}");
        let (key, mut slices) = (engine.hasher.key(b"large"), 0);
        engine.shard.rebuild_some(0, &key, Cursor::default(), 1, |_| slices += 1);
        assert_eq!(slices > 0, !names.is_empty(), "{expiring:?}");
    }
}
