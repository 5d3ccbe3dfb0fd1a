//! Effects: the deterministic form of writes.
//!
//! A replica or a log that replays the effects of a shard in order arrives at the same keyspace, whatever its clock or
//! its random numbers say: `EXPIRE` is written as `PEXPIREAT`, an expiry as `DEL`. Commands are written as their own
//! effect unless they say otherwise.

/// One write, as a command that can be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    pub db: u8,
    pub partition: u16,
    pub args: Vec<Vec<u8>>,
}

/// The effects of one shard since they were last drained. Without a consumer nothing is recorded.
#[derive(Debug, Default)]
pub struct Effects {
    enabled: bool,
    queue: Vec<Effect>,
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

    pub fn push(&mut self, db: usize, partition: u16, args: &[&[u8]]) {
        if self.enabled {
            self.queue.push(Effect { db: db as u8, partition, args: args.iter().map(|a| a.to_vec()).collect() });
        }
    }

    pub fn drain(&mut self) -> std::vec::Drain<'_, Effect> {
        self.queue.drain(..)
    }
}
