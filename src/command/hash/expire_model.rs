//! Random commands on hashes whose fields and keys expire, on a core and on a naive twin: every reply must be the same,
//! and the effects, replayed where nothing expires by itself, must give the same hashes.
//!
//! A failing run names its seed: `KEYLOOM_SEED=n cargo test --lib hash::expire_model` repeats it.

use std::collections::BTreeMap;

use crate::collection::random::Random;
use crate::command::shard_transcript::{START_MS, Transcript, shown};
use crate::shard::{Clock, Deadline, NEVER_MS, Now, Shard};

const DATABASES: usize = 2;
const KEYS: usize = 4;
/// Enough for the large form, and for more than a look removes at once.
const FIELDS: usize = 400;

/// Value and deadline of each field.
type Fields = BTreeMap<String, (i64, Option<Deadline>)>;
/// Fields, and the deadline of the key.
type Twin = BTreeMap<(usize, String), (Fields, Option<Deadline>)>;

struct Pair {
    client: Transcript,
    twin: Twin,
    random: Random,
    /// Effects so far, with their databases.
    log: Vec<(usize, Vec<Vec<u8>>)>,
}

fn ints(numbers: impl Iterator<Item = i64>) -> String {
    let all: Vec<String> = numbers.map(|n| format!(":{n}")).collect();
    std::iter::once(format!("*{}", all.len())).chain(all).collect::<Vec<_>>().join("|")
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let mut client = Transcript::default();
        client.shard.effects.enable(true);
        Pair { client, twin: Twin::new(), random: Random::new(seed), log: Vec::new() }
    }

    fn now(&self) -> Now {
        self.client.shard.now()
    }

    fn call(&mut self, words: &[&str]) -> String {
        self.client.random = self.random.word();
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let reply = shown(&self.client.call(&words));
        self.take_effects();
        reply
    }

    fn take_effects(&mut self) {
        self.log.extend(self.client.shard.effects.drain().map(|effect| (effect.db as usize, effect.args)));
    }

    /// Takes everything that is over out of the twin.
    fn settle(&mut self) {
        let now = self.now();
        let over = |at: &Option<Deadline>| at.is_some_and(|at| now.has_reached(at));
        for (fields, _) in self.twin.values_mut() {
            fields.retain(|_, (_, at)| !over(at));
        }
        self.twin.retain(|_, (fields, at)| !fields.is_empty() && !over(at));
    }

    /// Names of some fields, few or very many.
    fn some_fields(&mut self) -> Vec<String> {
        let count = [1, 1, 2, 5, 30, FIELDS][self.random.below(6)];
        let first = self.random.below(FIELDS);
        (0..count).map(|n| format!("f{}", (first + n * 7) % FIELDS)).collect()
    }

    fn time(&mut self) {
        let Now { wall_ms, steady_ms } = self.now();
        let passed = self.random.below(400) as i64;
        let step = if self.random.below(12) == 0 { self.random.below(2_000) as i64 - 1_000 } else { 0 };
        if passed + step < 0 {
            // What was over and is still there would live again; the twin has removed it.
            self.expire_all();
        }
        self.client.shard.set_now(Now { wall_ms: wall_ms + passed + step, steady_ms: steady_ms + passed });
        self.settle();
    }

    /// One of the four ways to give fields a deadline, with a condition or none.
    fn expire(&mut self, db: usize, key: &str) {
        let now = self.now();
        let fields = self.some_fields();
        let condition = ["", "NX", "XX", "GT", "LT"][self.random.below(5)];
        let (clock, command, unit) = [
            (Clock::Steady, "HEXPIRE", 1000),
            (Clock::Steady, "HPEXPIRE", 1),
            (Clock::Wall, "HEXPIREAT", 1000),
            (Clock::Wall, "HPEXPIREAT", 1),
        ][self.random.below(4)];
        let base = if clock == Clock::Wall { now.wall_ms - 20 } else { 0 };
        let number = (base + self.random.below(3_000) as i64) / unit;
        let deadline = now.deadline(clock, number * unit).unwrap();
        let (number, count) = (number.to_string(), fields.len().to_string());
        let mut words = vec![command, key, &number, condition, "FIELDS", &count];
        words.retain(|word| !word.is_empty());
        words.extend(fields.iter().map(String::as_str));
        let reply = self.call(&words);
        let hash = self.twin.entry((db, key.into())).or_default();
        let states = fields.iter().map(|field| {
            let Some((_, old)) = hash.0.get_mut(field) else { return -2 };
            let (was, at) = (old.map(|at| now.wall_of(at)), now.wall_of(deadline));
            let allowed = match condition {
                "NX" => was.is_none(),
                "XX" => was.is_some(),
                "GT" => was.is_some_and(|was| at > was),
                "LT" => was.is_none_or(|was| at < was),
                _ => true,
            };
            match (allowed, now.has_reached(deadline)) {
                (false, _) => 0,
                (true, true) => {
                    hash.0.remove(field);
                    2
                }
                (true, false) => {
                    *old = Some(deadline);
                    1
                }
            }
        });
        assert_eq!(reply, ints(states), "{words:?}");
    }

    fn read(&mut self, db: usize, key: &str) {
        let now = self.now();
        let fields = self.some_fields();
        let hash = self.twin.get(&(db, key.to_string())).map(|hash| hash.0.clone()).unwrap_or_default();
        let count = fields.len().to_string();
        let named = |command| {
            let mut words = vec![command, key, "FIELDS", &count];
            words.extend(fields.iter().map(String::as_str));
            words
        };
        match self.random.below(6) {
            0 => assert_eq!(self.call(&["HLEN", key]), format!(":{}", hash.len())),
            1 => {
                let left = |at: &Option<Deadline>| at.map_or(-1, |at| now.wall_of(at) - now.wall_ms);
                let expected = ints(fields.iter().map(|field| hash.get(field).map_or(-2, |(_, at)| left(at))));
                assert_eq!(self.call(&named("HPTTL")), expected);
            }
            2 => {
                let value = |field: &String| {
                    hash.get(field).map_or("$-1".into(), |(n, _)| format!("${}|{n}", n.to_string().len()))
                };
                let mut words = vec!["HMGET", key];
                words.extend(fields.iter().map(String::as_str));
                let expected: Vec<String> =
                    std::iter::once(format!("*{count}")).chain(fields.iter().map(value)).collect();
                assert_eq!(self.call(&words), expected.join("|"));
            }
            3 => {
                let reply = self.call(&["HSCAN", key, "0", "COUNT", "1000", "NOVALUES"]);
                let mut seen: Vec<&str> = reply.split('|').filter(|word| word.starts_with('f')).collect();
                seen.sort_unstable();
                assert!(seen.iter().copied().eq(hash.keys()), "{reply}");
            }
            4 => {
                let reply = self.call(&["HRANDFIELD", key, "3"]);
                let seen: Vec<&str> = reply.split('|').filter(|word| word.starts_with('f')).collect();
                assert_eq!(seen.len(), hash.len().min(3));
                assert!(seen.iter().all(|field| hash.contains_key(*field)));
            }
            _ => assert_eq!(self.call(&["EXISTS", key]), format!(":{}", !hash.is_empty() as i64)),
        }
    }

    fn write(&mut self, db: usize, key: &str) {
        let fields = self.some_fields();
        let number = self.random.below(1_000) as i64;
        let text = number.to_string();
        let hash = self.twin.entry((db, key.into())).or_default();
        match self.random.below(6) {
            0 | 1 => {
                let new =
                    fields.iter().filter(|field| hash.0.insert(field.to_string(), (number, None)).is_none()).count();
                let mut words = vec!["HSET", key];
                fields.iter().for_each(|field| words.extend([field.as_str(), &text]));
                assert_eq!(self.call(&words), format!(":{new}"));
            }
            2 => {
                let gone = fields.iter().filter(|field| hash.0.remove(*field).is_some()).count();
                let mut words = vec!["HDEL", key];
                words.extend(fields.iter().map(String::as_str));
                assert_eq!(self.call(&words), format!(":{gone}"));
            }
            3 => {
                let value = hash.0.entry(fields[0].clone()).or_insert((0, None));
                value.0 += number;
                let sum = value.0.to_string();
                if self.random.below(2) == 0 {
                    assert_eq!(self.call(&["HINCRBY", key, &fields[0], &text]), format!(":{sum}"));
                } else {
                    assert_eq!(self.call(&["HINCRBYFLOAT", key, &fields[0], &text]), format!("${}|{sum}", sum.len()));
                }
            }
            4 => {
                let new = !hash.0.contains_key(&fields[0]);
                hash.0.entry(fields[0].clone()).or_insert((number, None));
                assert_eq!(self.call(&["HSETNX", key, &fields[0], &text]), format!(":{}", new as i64));
            }
            _ => {
                let states = ints(fields.iter().map(|field| match hash.0.get_mut(field) {
                    None => -2,
                    Some((_, at)) => at.take().map_or(-1, |_| 1),
                }));
                let count = fields.len().to_string();
                let mut words = vec!["HPERSIST", key, "FIELDS", &count];
                words.extend(fields.iter().map(String::as_str));
                assert_eq!(self.call(&words), states);
            }
        }
    }

    /// What happens to hashes as a whole.
    fn whole(&mut self, db: usize, key: &str, other: &str) {
        let (from, to) = ((db, key.to_string()), (db, other.to_string()));
        let away = (1 - db, key.to_string());
        match self.random.below(10) {
            0 => assert_eq!(self.call(&["DEL", key]), format!(":{}", self.twin.remove(&from).is_some() as i64)),
            1 if key != other && self.twin.contains_key(&from) => {
                assert_eq!(self.call(&["RENAME", key, other]), "+OK");
                let hash = self.twin.remove(&from).unwrap();
                self.twin.insert(to, hash);
            }
            2 | 3 if key != other => {
                let hash = self.twin.get(&from).cloned();
                let reply = self.call(&["COPY", key, other, "REPLACE"]);
                assert_eq!(reply, format!(":{}", hash.is_some() as i64));
                self.twin.extend(hash.map(|hash| (to, hash)));
            }
            4 => {
                let moves = self.twin.contains_key(&from) && !self.twin.contains_key(&away);
                assert_eq!(self.call(&["MOVE", key, &(1 - db).to_string()]), format!(":{}", moves as i64));
                if moves {
                    let hash = self.twin.remove(&from).unwrap();
                    self.twin.insert(away, hash);
                }
            }
            5 => {
                let ms = self.random.below(2_000) as i64 + 1;
                let deadline = self.now().deadline(Clock::Steady, ms).unwrap();
                let reply = self.call(&["PEXPIRE", key, &ms.to_string()]);
                let hash = self.twin.get_mut(&from);
                assert_eq!(reply, format!(":{}", hash.is_some() as i64));
                hash.into_iter().for_each(|hash| hash.1 = Some(deadline));
            }
            6 => {
                assert_eq!(self.call(&["SET", key, "text"]), "+OK");
                assert_eq!(self.call(&["DEL", key]), ":1");
                self.twin.remove(&from);
            }
            7 => self.borrow(db, key),
            8 if self.random.below(4) == 0 => {
                self.client.shard.flush(db);
                // What was flushed is freed now or later.
                while self.random.below(4) > 0 && self.client.shard.has_work(true) {
                    self.client.shard.work(true);
                }
                self.log.push((db, vec![b"FLUSHDB".to_vec()]));
                self.twin.retain(|(at, _), _| *at != db);
            }
            9 => {
                self.client.shard.swap(0, 1);
                self.log.push((0, vec![b"SWAPDB".to_vec()]));
                self.twin =
                    std::mem::take(&mut self.twin).into_iter().map(|((at, key), hash)| ((1 - at, key), hash)).collect();
            }
            _ => {}
        }
    }

    /// The hash goes to another core, whose commands look at it, and comes back.
    fn borrow(&mut self, db: usize, key: &str) {
        let key = self.client.hasher.key(key.as_bytes());
        let mut scratch = Shard::new(0..16, DATABASES, self.client.hasher.clone());
        scratch.set_now(self.now());
        let shard = &mut self.client.shard;
        let Some(entry) = shard.lend(db, &key) else { return self.take_effects() };
        shard.validate();
        scratch.take_back(db, &key, entry);
        std::mem::swap(&mut shard.effects, &mut scratch.effects);
        assert!(scratch.peek(db, &key).is_some());
        scratch.validate();
        let entry = scratch.lend(db, &key);
        std::mem::swap(&mut shard.effects, &mut scratch.effects);
        entry.into_iter().for_each(|entry| shard.take_back(db, &key, entry));
        self.take_effects();
    }

    fn active(&mut self) {
        while self.random.below(2) == 0 && self.client.shard.has_work(true) {
            self.client.shard.work(true);
        }
        let pieces = self.random.below(3);
        for _ in 0..pieces {
            self.client.shard.expire_due(|_| ());
        }
        self.take_effects();
    }

    /// Nobody looks; active expiry alone empties what is over.
    fn expire_all(&mut self) {
        let shard = &mut self.client.shard;
        while shard.next_expiry_ms() <= shard.now_ms() {
            shard.expire_due(|_| ());
        }
        self.take_effects();
        let keys: usize = (0..DATABASES).map(|db| self.client.shard.size(db).keys).sum();
        assert_eq!(keys, self.twin.len());
    }

    fn step(&mut self) {
        let db = self.random.below(DATABASES);
        let [key, other] = [(); 2].map(|()| format!("k{}", self.random.below(KEYS)));
        self.client.db = db;
        match self.random.below(20) {
            0..4 => self.time(),
            4..8 => self.expire(db, &key),
            8..12 => self.read(db, &key),
            12..17 => self.write(db, &key),
            17..19 => self.whole(db, &key, &other),
            _ => self.active(),
        }
        self.settle();
        self.client.shard.validate();
    }

    /// All hashes as a client sees them: values and moments.
    fn contents(client: &mut Transcript) -> Vec<String> {
        let mut all = Vec::new();
        for db in 0..DATABASES {
            client.db = db;
            for key in 0..KEYS {
                let key = format!("k{key}");
                for field in 0..FIELDS {
                    let field = format!("f{field}");
                    let value = shown(&client.call(&[b"HGET", key.as_bytes(), field.as_bytes()]));
                    let args: [&[u8]; 5] = [b"HPEXPIRETIME", key.as_bytes(), b"FIELDS", b"1", field.as_bytes()];
                    all.push(format!("{db} {key} {field} {value} {}", shown(&client.call(&args))));
                }
            }
        }
        all
    }

    fn replay(&self) -> Transcript {
        let mut copy = Transcript::default();
        copy.shard.set_now(START_MS - 1_000_000);
        for (db, args) in &self.log {
            copy.db = *db;
            match &args[0][..] {
                b"FLUSHDB" => drop(copy.shard.flush(*db)),
                b"SWAPDB" => copy.shard.swap(0, 1),
                _ => {
                    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                    let reply = copy.call(&args);
                    assert_ne!(reply[0], b'-', "{}", args.concat().escape_ascii());
                }
            }
        }
        copy
    }
}

#[test]
fn as_the_naive_twin_does() {
    let seeds = match std::env::var("KEYLOOM_SEED") {
        Ok(seed) => vec![seed.parse().expect("KEYLOOM_SEED is a number")],
        Err(_) => (0..30).collect(),
    };
    for seed in seeds {
        println!("KEYLOOM_SEED={seed}");
        let mut pair = Pair::new(seed);
        for _ in 0..600 {
            pair.step();
        }
        pair.expire_all();
        assert!(pair.client.shard.counters.expired_fields > 0);
        // The wall clock may have been set since a duration was logged: then its moment is another one.
        let now = pair.now();
        let original = Pair::contents(&mut pair.client);
        pair.take_effects();
        let copy = Pair::contents(&mut pair.replay());
        for (ours, theirs) in original.iter().zip(&copy) {
            let value = |line: &String| line.split_whitespace().take(4).map(str::to_string).collect::<Vec<_>>();
            assert_eq!(value(ours), value(theirs));
            assert!(ours == theirs || now.wall_ms - now.steady_ms != 0, "{ours} {theirs}");
        }
        let Now { wall_ms, steady_ms } = now;
        pair.client.shard.set_now(Now { wall_ms: wall_ms + 10_000, steady_ms: steady_ms + 10_000 });
        pair.settle();
        pair.expire_all();
        assert_eq!(pair.client.shard.next_expiry_ms(), NEVER_MS, "no deadline is farther away");
        pair.client.shard.validate();
    }
}
