//! Effects: the deterministic form of writes.
//!
//! A replica or a log that replays the effects of a shard in order arrives at the same keyspace, whatever its clock or
//! its random numbers say: `EXPIRE` is written as `PEXPIREAT`, an expiry as `DEL`. Commands are written as their own
//! effect unless they say otherwise.
//!
//! An effect is a list of *statements*, each of which names one key in one database, or no key at all: `MSET a 1 b 2` is
//! `SET a 1`, `SET b 2`, and a value that moves or is computed from others is written anew where it is now
//! ([`super::rebuild`]). So a statement can be replayed by whoever owns its key, whatever the number of partitions and
//! cores, and be left out where its key is not wanted. (Keys of one slot would do for the former, not for the latter.)
//!
//! A replay must run while no key expires by itself, as on a replica: expiries arrive as effects.

/// The name of a transaction, unique among those of one node.
pub type TransactionId = u64;

/// The partition of a statement that names no key (FLUSHALL, FLUSHDB, SWAPDB) and concerns all of them: whoever replays
/// it does so on every core, for its own part. One core records it, for all.
pub const EVERYWHERE: u16 = u16::MAX;

const _: () = assert!(crate::route::SLOTS < EVERYWHERE);

/// One statement: a write of one key, or of everything, as a command that can be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    pub db: u8,
    /// The partition of its key, or [`EVERYWHERE`].
    pub partition: u16,
    /// Effects with the same name belong together: all of them are replayed, or none. They follow each other in the
    /// effects of the shard that ran the transaction, but others may stand between them.
    pub transaction: Option<TransactionId>,
    pub args: Vec<Vec<u8>>,
}

/// The effects of one shard since they were last drained. Without a consumer nothing is recorded.
#[derive(Debug, Default)]
pub struct Effects {
    enabled: bool,
    queue: Vec<Effect>,
    /// What is recorded now belongs to this transaction.
    transaction: Option<TransactionId>,
}

impl Effects {
    /// Switches recording; the feed of the log is the consumer.
    pub fn enable(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    #[inline]
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Begins or ends (None) a run of effects that belong to one transaction.
    pub fn set_transaction(&mut self, transaction: Option<TransactionId>) {
        self.transaction = transaction;
    }

    /// Records a statement: `args` names one key, which is of `partition`, or none ([`EVERYWHERE`]).
    pub fn push(&mut self, db: usize, partition: u16, args: &[&[u8]]) {
        if self.enabled {
            let args = args.iter().map(|a| a.to_vec()).collect();
            self.queue.push(Effect { db: db as u8, partition, transaction: self.transaction, args });
        }
    }

    /// How many statements there are, for [`Effects::bind`].
    #[inline]
    pub fn mark(&self) -> usize {
        self.queue.len()
    }

    /// Makes the statements since `mark` belong together, if they are several and belong to no transaction yet.
    pub fn bind(&mut self, mark: usize, transaction: impl FnOnce() -> TransactionId) {
        if self.transaction.is_none() && self.queue.len() > mark + 1 {
            let transaction = Some(transaction());
            self.queue[mark..].iter_mut().for_each(|effect| effect.transaction = transaction);
        }
    }

    pub fn drain(&mut self) -> std::vec::Drain<'_, Effect> {
        self.queue.drain(..)
    }
}
