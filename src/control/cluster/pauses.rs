//! For how long requests about a partition have to wait while its role goes to another node: from the closing of the gate until
//! this node knows that whoever leads now is open, or waits for that no longer, and sends clients there.
//!
//! Owned by the control core. Invariant: `closed` names partitions that are being handed over, or whose successor is waited for.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::raft::command::PartitionId;
use crate::stats::Latency;

#[derive(Default)]
pub(super) struct Pauses {
    closed: BTreeMap<PartitionId, Instant>,
    lengths: Latency,
}

impl Pauses {
    /// These are being handed over.
    pub fn close<'a>(&mut self, partitions: impl Iterator<Item = &'a PartitionId>) {
        let now = Instant::now();
        for partition in partitions {
            self.closed.entry(*partition).or_insert(now);
        }
    }

    /// Clients are sent to whoever leads now.
    pub fn end(&mut self, partition: PartitionId) {
        if let Some(since) = self.closed.remove(&partition) {
            self.lengths.record(since.elapsed().as_nanos() as u64);
        }
    }

    /// Those that are closed no more without having been handed over are none of these.
    pub fn keep(&mut self, is_closed: impl Fn(PartitionId) -> bool) {
        self.closed.retain(|partition, _| is_closed(*partition));
    }

    /// Of all that have ended.
    pub fn lengths(&self) -> &Latency {
        &self.lengths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_handed_over_is_counted() {
        let mut pauses = Pauses::default();
        pauses.close([1, 2, 3].iter());
        pauses.keep(|partition| partition != 2);
        pauses.end(2);
        pauses.end(7);
        assert_eq!(pauses.lengths().count(), 0);
        pauses.end(1);
        assert_eq!(pauses.lengths().count(), 1);
    }
}
