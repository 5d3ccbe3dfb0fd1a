//! Effects: the deterministic form of writes.
//!
//! A replica or a log that replays the effects of a shard in order arrives at the same keyspace, whatever its clock or
//! its random numbers say: `EXPIRE` is written as `PEXPIREAT`, an expiry as `DEL`. Commands are written as their own
//! effect unless they say otherwise.

/// The name of a transaction, unique among those of one node.
pub type TransactionId = u64;

/// One write, as a command that can be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    pub db: u8,
    /// The partition of its first key.
    pub partition: u16,
    /// The partitions of its other keys, ascending, as far as they are others.
    pub others: Vec<u16>,
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

    /// Records the write of one key, or of keys of one partition.
    pub fn push(&mut self, db: usize, partition: u16, args: &[&[u8]]) {
        self.push_over(db, partition, Vec::new(), args);
    }

    /// Records a write of keys of several partitions.
    pub fn push_over(&mut self, db: usize, partition: u16, others: Vec<u16>, args: &[&[u8]]) {
        if self.enabled {
            let args = args.iter().map(|a| a.to_vec()).collect();
            self.queue.push(Effect { db: db as u8, partition, others, transaction: self.transaction, args });
        }
    }

    pub fn drain(&mut self) -> std::vec::Drain<'_, Effect> {
        self.queue.drain(..)
    }
}
