//! Lending: entries that are away for a while, at a core that runs a command on keys of several cores.
//!
//! An entry that is lent is out of the shard: in no table, on no wheel, on no list. So nobody sees it, and it is neither
//! evicted nor expired here; that commands wait for it instead of finding nothing is for [`crate::borrow`] to see to. Its
//! value moves; only small strings, which lie inside their entries, are copied.
//!
//! To be lent is no change: an entry that comes back as it went keeps its deadline and how it was used so far.
//!
//! Owned by one core.

use super::entry::Meta;
use super::{Detached, Expiring, Key, Kind, NewValue, Shard, Stored, Value};

impl Shard {
    /// Moves an entry out, to come back with [`Shard::take_back`]; an expired one is removed instead. Where another node
    /// decides that, it moves like any other, and is shown here as little as there.
    pub fn lend(&mut self, db: usize, key: &Key) -> Option<Detached> {
        let found = if self.expiring == Expiring::Here { self.live(db, key) } else { self.find(db, key) };
        let (place, handle) = found?;
        self.unlink(db, key, place, handle);
        let Meta { kind, raw, expire_at, usage, .. } = self.entries.meta(handle);
        Some(Detached {
            kind,
            value: self.entries.take(handle),
            expire_at,
            raw,
            used: self.evictor.used(usage, self.is_followed(db)),
        })
    }

    /// Puts an entry in that was lent, by this shard or by another one; its key must not be there. That is neither news
    /// nor an access.
    pub fn take_back(&mut self, db: usize, key: &Key, entry: Detached) {
        self.make_room();
        let Detached { kind, value, expire_at, raw, used } = entry;
        let meta = Meta { kind, raw, boxed: false, expire_at, usage: 0 };
        let made = match value {
            Stored::Bytes(value) => self.entries.create(key.bytes, NewValue::Shared(value), meta),
            Stored::Large(large) => self.entries.create_collection(key.bytes, Value::Large(large), meta),
        };
        let handle = made.expect(super::ROOM);
        let local = self.local(key.partition);
        self.dbs[db].insert(local, key.hash, handle, self.now, &mut self.entries, &self.hasher);
        let now_s = self.now_s();
        if self.is_followed(db) {
            self.entries.set_usage(handle, used.clock_s(now_s));
        } else {
            self.evictor.readmit_lent(&mut self.entries, handle, used, key.hash, now_s);
        }
        self.expect_expiry(db, expire_at);
        if kind == Kind::Hash {
            self.plan_entry(db, key.bytes, handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Clock, Deadline, Expiry, LfuPace, Policy, Rule};
    use super::*;
    use crate::route::Hasher;

    fn shard(rule: Rule) -> Shard {
        let mut shard = Shard::new(0..4, 2, Hasher::new(4, [1, 2, 3, 4]));
        shard.set_policy(Policy { rule, volatile: false });
        shard.set_lfu_pace(LfuPace { log_factor: 0, decay_minutes: 1 });
        shard
    }

    #[test]
    fn what_another_node_has_to_expire_is_neither_shown_nor_left_behind() {
        let hasher = Hasher::new(4, [1, 2, 3, 4]);
        let key = hasher.key(b"key");
        let (mut owner, mut scratch) = (shard(Rule::Lru), shard(Rule::Lru));
        for shard in [&mut owner, &mut scratch] {
            shard.set_expiring(Expiring::Elsewhere);
            shard.set_now(1_700_000_000_000);
        }
        let deadline = Deadline::new(Clock::Steady, 1_700_000_000_005);
        owner.set(1, &key, NewValue::Bytes(b"value"), Expiry::At(deadline));
        let entry = owner.lend(1, &key).unwrap();
        scratch.take_back(1, &key, entry);
        // Its time comes while it is away.
        owner.set_now(1_700_000_000_010);
        scratch.set_now(1_700_000_000_010);
        assert!(scratch.peek(1, &key).is_none());
        let entry = scratch.lend(1, &key).expect("it goes back");
        assert_eq!((scratch.size(1).keys, owner.size(1).keys), (0, 0));
        owner.take_back(1, &key, entry);
        assert!(owner.peek(1, &key).is_none() && owner.size(1).keys == 1);
        // It goes again, although nobody sees it.
        let entry = owner.lend(1, &key).expect("it moves");
        owner.take_back(1, &key, entry);
        owner.validate();
        scratch.validate();
    }

    #[test]
    fn what_comes_back_is_what_went() {
        for rule in [Rule::None, Rule::Lru, Rule::Lfu, Rule::S3Fifo, Rule::Random, Rule::Ttl] {
            let hasher = Hasher::new(4, [1, 2, 3, 4]);
            let key = hasher.key(b"key");
            let (mut owner, mut scratch) = (shard(rule), shard(rule));
            owner.set_now(1_700_000_000_000);
            let deadline = Deadline::new(Clock::Steady, 1_700_000_900_000);
            owner.set(1, &key, NewValue::Bytes(&[7; 5000]), Expiry::At(deadline));
            (0..20).for_each(|_| assert!(owner.read(1, &key, true).is_some()));
            owner.set_now(1_700_000_130_000);
            let of = |shard: &mut Shard| {
                let entry = shard.peek(1, &key).unwrap();
                (entry.value.bytes().to_vec(), entry.expire_at, entry.idle_s, entry.frequency)
            };
            let before = of(&mut owner);
            let entry = owner.lend(1, &key).unwrap();
            let address = |entry: &Detached| match &entry.value {
                Stored::Bytes(bytes) => bytes.as_ptr(),
                Stored::Large(_) => panic!("a string is bytes"),
            };
            let before_loan = address(&entry);
            assert!(owner.peek(1, &key).is_none() && owner.size(1).keys == 0);
            owner.validate();
            // The time at the other core is the same.
            scratch.set_now(1_700_000_130_000);
            scratch.take_back(1, &key, entry);
            assert_eq!(of(&mut scratch), before, "{rule:?}");
            let entry = scratch.lend(1, &key).unwrap();
            assert_eq!(address(&entry), before_loan, "a large value is not copied");
            scratch.validate();
            owner.take_back(1, &key, entry);
            assert_eq!(of(&mut owner), before, "{rule:?}");
            owner.validate();
            owner.set_now(1_700_000_900_000);
            owner.expire_due(|_| ());
            assert_eq!(owner.size(1).keys, 0, "the wheel knows it again");
        }
    }

    #[test]
    fn what_is_over_is_not_lent() {
        let hasher = Hasher::new(4, [1, 2, 3, 4]);
        let key = hasher.key(b"key");
        let mut shard = shard(Rule::None);
        shard.set_now(1000);
        shard.set(0, &key, NewValue::Bytes(b"v"), Expiry::At(Deadline::new(Clock::Steady, 1500)));
        let version = shard.watch(0, &key);
        let entry = shard.lend(0, &key).unwrap();
        assert_eq!(shard.version(0, &key), version, "to be lent is no change");
        shard.take_back(0, &key, entry);
        assert_eq!(shard.version(0, &key), version);
        shard.set_now(1500);
        assert!(shard.lend(0, &key).is_none());
        assert_eq!(shard.counters.expired, 1);
    }
}
