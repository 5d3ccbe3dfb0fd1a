//! The engine's part in borrowing: entries that go, entries that come, and commands on what was borrowed.
//!
//! Owned by one core.

use super::{Call, Engine};
use crate::borrow::{Loan, Place, Returned, Verdict};
use crate::command::Args;
use crate::command::generic::sort;
use crate::resp::Reply;
use crate::shard::Detached;

impl Engine {
    /// The owner's side of a loan whose claim is granted.
    pub fn lend(&mut self, loan: &mut Loan) -> (Verdict, Vec<Option<Detached>>) {
        let verdict = self.judge(loan);
        if verdict != Verdict::Granted {
            return (verdict, loan.entries.iter().map(|_| None).collect());
        }
        let lend = |(db, key): &Place| self.shard.lend(*db as usize, &self.hasher.key(key));
        (verdict, loan.entries.iter().map(lend).collect())
    }

    /// Whether a transaction may run: watched keys are as they were, and there is memory. Ends the watching.
    pub fn judge(&mut self, loan: &mut Loan) -> Verdict {
        let mut verdict = Verdict::Granted;
        for ((db, key), version) in loan.watched.drain(..) {
            if self.shard.version(db as usize, &self.hasher.key(&key)) != version {
                verdict = Verdict::Changed;
            }
            self.shard.unwatch(db as usize, &key);
        }
        if loan.serves && loan.under.is_none() {
            if let Some(slot) = self.first_away(&loan.slots) {
                return Verdict::Away { slot };
            }
            if self.is_lapsed() {
                return Verdict::Down;
            }
        }
        let written_elsewhere = self.standing.replica || self.standing.handing_over;
        if loan.writes && written_elsewhere && verdict == Verdict::Granted {
            verdict = Verdict::ReadOnly;
        }
        if verdict == Verdict::Granted
            && let Some(bytes) = loan.brings_bytes
            && self.config.maxmemory_bytes > 0
            && !self.shard.make_way(bytes)
        {
            verdict = Verdict::Full;
        }
        verdict
    }

    /// A client watches these keys no longer.
    pub fn forget_watched(&mut self, places: Vec<Place>) {
        places.into_iter().for_each(|(db, key)| self.shard.unwatch(db as usize, &key));
    }

    /// The owner's side of a return.
    pub fn take_back(&mut self, entries: Vec<Returned>) {
        for Returned { place: (db, bytes), entry, changed } in entries {
            let (db, key) = (db as usize, self.hasher.key(&bytes));
            if let Some(entry) = entry {
                if changed {
                    // The command has run, so it is not asked whether there is room.
                    self.shard.make_way(bytes.len() + entry.bytes());
                }
                self.shard.take_back(db, &key, entry);
                self.shard.note_if_awaited(db as u8, &bytes);
            }
            if changed {
                self.shard.changed(db, &bytes);
            }
        }
    }

    /// The borrower's side of a loan: puts entries into the scratch shard.
    pub fn bring(&mut self, places: &[Place], entries: Vec<Option<Detached>>) {
        self.scratch.set_now(self.shard.now());
        for ((db, key), entry) in places.iter().zip(entries) {
            if let Some(entry) = entry {
                self.scratch.take_back(*db as usize, &self.hasher.key(key), entry);
            }
        }
    }

    /// The borrower's side of a return: takes entries out of the scratch shard. What neither is there nor was changed is
    /// left out.
    pub fn give_back(&mut self, places: Vec<Place>) -> Vec<Returned> {
        // An entry that is over by now expires here, with its effect.
        self.exchange_shards();
        let back = |place: Place| {
            let (db, key) = (place.0 as usize, self.hasher.key(&place.1));
            let entry = self.shard.lend(db, &key);
            let changed = self.shard.take_changed(db, &place.1);
            (changed || entry.is_some()).then_some(Returned { place, entry, changed })
        };
        let back = places.into_iter().filter_map(back).collect();
        self.exchange_shards();
        back
    }

    /// The keys that a command is going to read besides those it names, which were borrowed.
    pub fn looked_up(&mut self, args: Args, db: usize) -> Vec<Place> {
        let names = sort::looked_up(&mut self.scratch, db, &self.hasher, args);
        names.into_iter().map(|name| (db as u8, name)).collect()
    }

    /// Runs a keyspace command on what was borrowed.
    pub fn call_borrowed(&mut self, call: Call, reply: &mut Reply) {
        self.scratch.set_now(self.shard.now());
        self.exchange_shards();
        self.call(call, reply);
        self.exchange_shards();
    }

    /// Exchanges this core's shard and the scratch shard, but for what leaves them: effects and events of a borrowed key
    /// come from the core that ran the command, as do its hits and misses. (Owners tell nothing when entries come back.)
    fn exchange_shards(&mut self) {
        let Engine { shard, scratch, .. } = self;
        std::mem::swap(shard, scratch);
        std::mem::swap(&mut shard.events, &mut scratch.events);
        std::mem::swap(&mut shard.effects, &mut scratch.effects);
        std::mem::swap(&mut shard.counters, &mut scratch.counters);
    }

    /// From now on commands run as part of a transaction: they are not refused for want of memory, must not block, which
    /// [`Engine::in_transaction`] tells them, and their effects are one unit.
    pub fn begin_transaction(&mut self) {
        self.in_transaction = true;
        self.shard.effects.begin_unit();
    }

    /// The transaction has run.
    pub fn end_transaction(&mut self) {
        self.in_transaction = false;
        self.shard.effects.end_unit();
    }

    /// The transaction goes on later, or elsewhere: the statements of its unit so far.
    pub fn leave_transaction(&mut self) -> Vec<u8> {
        self.in_transaction = false;
        self.shard.effects.take_statements()
    }

    /// Whether the command that runs is part of a transaction.
    pub fn in_transaction(&self) -> bool {
        self.in_transaction
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::borrow::Wants;
    use crate::command::{Owned, table};
    use crate::config::{Config, MaxmemoryPolicy};
    use crate::engine::Origin;
    use crate::resp::{Output, Version};
    use crate::route::{CoreId, Hasher, Router};
    use crate::shard::{Classes, Effect};

    const PARTITIONS: u16 = 4;
    const NOW_MS: i64 = 1_700_000_000_000;

    /// Two cores, of which the first coordinates.
    struct Cores([Engine; 2]);

    impl Cores {
        fn new(config: Config) -> Cores {
            let config = Config { notify_keyspace_events: Classes::parse("KA").unwrap(), ..config };
            let engine = |core| {
                let router = Router::new(core, 2, PARTITIONS);
                let mut engine =
                    Engine::new(router, Hasher::new(PARTITIONS, [1, 2, 3, 4]), Arc::new(config.clone()), 7);
                engine.shard.set_now(NOW_MS);
                engine.shard.events.enable(true);
                engine.shard.effects.enable(true);
                engine
            };
            Cores([engine(0), engine(1)])
        }

        fn owner(&self, key: &[u8]) -> usize {
            self.0[0].router.owner(self.0[0].hasher.key(key).partition) as usize
        }

        fn key(&self, core: CoreId) -> Vec<u8> {
            (0..).map(|n: u32| format!("key{n}").into_bytes()).find(|key| self.owner(key) == core as usize).unwrap()
        }

        /// Runs one command where its keys live; the reply.
        fn run_at(engine: &mut Engine, args: &[&[u8]], borrowed: bool) -> String {
            Cores::run_part(engine, args, borrowed, true)
        }

        fn run_part(engine: &mut Engine, args: &[&[u8]], borrowed: bool, counted: bool) -> String {
            let row = table().resolve(args).unwrap();
            let mut out = Output::new();
            let mut reply = Reply::new(&mut out, Version::V2);
            let (owned, origin) = (Owned::default(), Origin::Forwarded(0));
            let call = Call { row, args, first: None, db: 0, no_touch: false, owned: &owned, origin, counted };
            if borrowed {
                engine.call_borrowed(call, &mut reply)
            } else {
                engine.call(call, &mut reply)
            }
            String::from_utf8(out.to_vec()).unwrap()
        }

        fn run(&mut self, args: &[&[u8]]) -> String {
            let owner = self.owner(args[1]);
            Cores::run_at(&mut self.0[owner], args, false)
        }

        /// Runs commands with all of these keys borrowed; their replies, or why not.
        fn transact(
            &mut self,
            keys: &[&[u8]],
            watched: &[(&[u8], u64)],
            commands: &[&[&[u8]]],
        ) -> Result<Vec<String>, Verdict> {
            let mut held = Vec::new();
            let mut refused = None;
            for core in 0..2 {
                let here = |key: &[u8]| self.owner(key) == core;
                let entries: Vec<Place> = keys.iter().filter(|key| here(key)).map(|key| (0, key.to_vec())).collect();
                let watched =
                    watched.iter().filter(|(key, _)| here(key)).map(|(key, version)| ((0, key.to_vec()), *version));
                let bytes: usize = commands.iter().flat_map(|args| args.iter()).map(|arg| arg.len()).sum();
                let mut loan = Loan {
                    wants: Wants::Keys(entries.iter().map(|(db, key)| (*db, self.0[0].hasher.hash(key))).collect()),
                    entries: entries.clone(),
                    watched: watched.collect(),
                    brings_bytes: Some(bytes),
                    writes: true,
                    ..Loan::default()
                };
                let (verdict, lent) = self.0[core].lend(&mut loan);
                self.0[0].bring(&entries, lent);
                held.push((core, entries));
                if verdict != Verdict::Granted {
                    refused = Some(verdict);
                    break;
                }
            }
            let mut replies = Vec::new();
            let mut statements = Vec::new();
            if refused.is_none() {
                for args in commands {
                    self.0[0].begin_transaction();
                    replies.push(Cores::run_at(&mut self.0[0], args, true));
                    statements.extend(self.0[0].leave_transaction());
                }
                self.0[0].shard.effects.push_unit(&statements);
            }
            for (core, places) in held {
                let back = self.0[0].give_back(places);
                self.0[core].take_back(back);
            }
            refused.map_or(Ok(replies), Err)
        }

        fn told(&mut self, core: usize) -> Vec<(&'static str, Vec<u8>)> {
            self.0[core].shard.events.drain().map(|event| (event.name, event.key)).collect()
        }

        fn effects(&mut self, core: usize) -> Vec<Effect> {
            self.0[core].shard.effects.drain().collect()
        }

        fn watch(&mut self, key: &[u8]) -> u64 {
            let owner = self.owner(key);
            let engine = &mut self.0[owner];
            engine.shard.watch(0, &engine.hasher.key(key))
        }
    }

    #[test]
    fn events_and_effects_leave_from_the_core_that_ran_the_command() {
        let mut cores = Cores::new(Config::default());
        let (from, to) = (cores.key(1), cores.key(0));
        cores.run(&[b"set", &from, b"value"]);
        cores.told(1);
        cores.effects(1);
        let replies = cores.transact(&[&from, &to], &[], &[&[b"rename", &from, &to], &[b"get", &to]]).unwrap();
        assert_eq!(replies, ["+OK\r\n", "$5\r\nvalue\r\n"]);
        assert_eq!(cores.told(0), [("rename_from", from.clone()), ("rename_to", to.clone())]);
        assert_eq!((cores.told(1), cores.effects(1)), (vec![], vec![]));
        let effects = cores.effects(0);
        assert_eq!(effects.len(), 2, "a read has none");
        assert_eq!(effects[0].args, [b"SET".to_vec(), to.clone(), b"value".to_vec()]);
        assert_eq!(effects[1].args, [b"DEL".to_vec(), from.clone()]);
        assert_eq!(effects[0].unit, effects[1].unit);
        assert_eq!(cores.run(&[b"get", &to]), "$5\r\nvalue\r\n");
        assert_eq!(cores.run(&[b"exists", &from]), ":0\r\n");
    }

    #[test]
    fn only_what_was_changed_is_a_change() {
        let mut cores = Cores::new(Config::default());
        let (a, b) = (cores.key(0), cores.key(1));
        cores.run(&[b"set", &b, b"1"]);
        let versions = [cores.watch(&a), cores.watch(&b)];
        cores.transact(&[&a, &b], &[], &[&[b"mget", &a, &b]]).unwrap();
        cores.transact(&[&a, &b], &[], &[&[b"del", &a]]).unwrap();
        assert_eq!([cores.watch(&a), cores.watch(&b)], versions);
        cores.transact(&[&a, &b], &[], &[&[b"incr", &b]]).unwrap();
        assert_eq!(cores.watch(&a), versions[0]);
        assert_ne!(cores.watch(&b), versions[1]);
    }

    #[test]
    fn a_watched_key_that_has_changed_stops_the_transaction() {
        let mut cores = Cores::new(Config::default());
        let (a, b) = (cores.key(0), cores.key(1));
        let version = cores.watch(&b);
        let commands: &[&[&[u8]]] = &[&[b"set", &a, b"1"]];
        assert_eq!(cores.transact(&[&a, &b], &[(&b, version)], commands).unwrap(), ["+OK\r\n"]);
        let version = cores.watch(&b);
        cores.run(&[b"set", &b, b"x"]);
        cores.run(&[b"del", &b]);
        assert_eq!(cores.transact(&[&a, &b], &[(&b, version)], &[&[b"set", &a, b"2"]]), Err(Verdict::Changed));
        assert_eq!(cores.run(&[b"get", &a]), "$1\r\n1\r\n");
        assert_eq!(cores.0[1].shard.watched_keys(), 0, "the watching has ended");
    }

    #[test]
    fn an_entry_that_ends_while_it_is_away_expires_with_its_effect() {
        let mut cores = Cores::new(Config::default());
        let (a, b) = (cores.key(0), cores.key(1));
        cores.run(&[b"set", &b, b"v", b"px", b"100"]);
        let version = cores.watch(&b);
        let places = vec![(0, b.clone())];
        let mut loan = Loan { entries: places.clone(), ..Loan::default() };
        let (_, lent) = cores.0[1].lend(&mut loan);
        cores.0[0].bring(&places, lent);
        cores.0[0].shard.set_now(NOW_MS + 100);
        assert_eq!(Cores::run_at(&mut cores.0[0], &[b"mget", &a, &b], true), "*2\r\n$-1\r\n$-1\r\n");
        let back = cores.0[0].give_back(places);
        cores.0[1].take_back(back);
        assert_eq!(cores.effects(0).pop().unwrap().args, [b"DEL".to_vec(), b.clone()]);
        assert_eq!(cores.told(0), [("expired", b.clone())]);
        assert_eq!(cores.0[0].shard.counters.expired, 1);
        assert_ne!(cores.watch(&b), version);
        assert_eq!(cores.run(&[b"exists", &b]), ":0\r\n");
    }

    #[test]
    fn memory_is_asked_for_before_the_run() {
        let limit = |maxmemory_policy| Config { maxmemory_bytes: 64 << 20, maxmemory_policy, ..Config::default() };
        let value = vec![7; 100_000];
        for (policy, fits) in [(MaxmemoryPolicy::NoEviction, false), (MaxmemoryPolicy::AllkeysLru, true)] {
            let mut cores = Cores::new(limit(policy));
            let (a, b) = (cores.key(0), cores.key(1));
            cores.0[1].shard.set_limit(Some(300_000));
            for n in 0..100 {
                let key = format!("fill{n}").into_bytes();
                if cores.owner(&key) == 1 {
                    cores.run(&[b"set", &key, &value]);
                }
            }
            cores.run(&[b"set", &b, b"old"]);
            let verdict = cores.transact(&[&a, &b], &[], &[&[b"mset", &a, b"new", &b, &value]]);
            assert_eq!(verdict.is_ok(), fits, "{policy:?}: {verdict:?}");
            assert_eq!(cores.run(&[b"exists", &a]), if fits { ":1\r\n" } else { ":0\r\n" });
        }
    }
}
