//! The engine's part in borrowing: entries that go, entries that come, and commands on what was borrowed.
//!
//! Owned by one core.

use super::{Call, Engine};
use crate::borrow::{Loan, Place, Returned, Verdict};
use crate::command::Args;
use crate::command::generic::sort;
use crate::resp::Reply;
use crate::shard::{Detached, TransactionId};

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
        while self.scratch.has_work(false) {
            self.scratch.work(false);
        }
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

    /// A name for a transaction that this core coordinates.
    pub fn new_transaction(&mut self) -> TransactionId {
        self.transactions += 1;
        self.transactions * self.router.cores() as u64 + self.router.me() as u64
    }

    /// From now on commands run as part of this transaction, or of none: they are not refused for want of memory, and
    /// must not block, which [`Engine::in_transaction`] tells them.
    pub fn set_transaction(&mut self, transaction: Option<TransactionId>) {
        self.transaction = transaction;
        self.shard.effects.set_transaction(transaction);
    }

    /// Whether the command that runs is part of a transaction.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }
}
