//! For how long requests about a partition have to wait while its role goes to another node: from the closing of the gate until
//! this node knows that whoever leads now is open, or waits for that no longer, and sends clients there.
//!
//! Owned by the control core. Invariant: `closed` names partitions that are being handed over, or whose successor is waited for.

use std::collections::BTreeMap;
use std::time::Instant;

use hdrhistogram::Histogram;

use crate::command::member::PauseNumbers;
use crate::raft::command::PartitionId;

/// Longest pause that is told apart from longer ones, µs.
const PAUSE_US_MAX: u64 = 60_000_000;

/// Significant digits.
const DIGITS: u8 = 2;

pub(super) struct Pauses {
    closed: BTreeMap<PartitionId, Instant>,
    lengths_us: Histogram<u64>,
}

impl Pauses {
    pub fn new() -> Pauses {
        let lengths_us = Histogram::new_with_bounds(1, PAUSE_US_MAX, DIGITS).expect("the bounds are constants");
        Pauses { closed: BTreeMap::new(), lengths_us }
    }

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
            self.lengths_us.saturating_record((since.elapsed().as_micros() as u64).max(1));
        }
    }

    /// Those that are closed no more without having been handed over are none of these.
    pub fn keep(&mut self, is_closed: impl Fn(PartitionId) -> bool) {
        self.closed.retain(|partition, _| is_closed(*partition));
    }

    pub fn numbers(&self) -> PauseNumbers {
        let at = |quantile| if self.lengths_us.is_empty() { 0 } else { self.lengths_us.value_at_quantile(quantile) };
        PauseNumbers { p50_us: at(0.5), p99_us: at(0.99), max_us: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_handed_over_is_counted() {
        let mut pauses = Pauses::new();
        assert_eq!(pauses.numbers(), PauseNumbers::default());
        pauses.close([1, 2, 3].iter());
        pauses.keep(|partition| partition != 2);
        pauses.end(2);
        pauses.end(7);
        assert_eq!(pauses.numbers(), PauseNumbers::default());
        pauses.end(1);
        let numbers = pauses.numbers();
        assert!(numbers.p50_us >= 1 && numbers.p99_us == numbers.p50_us && numbers.max_us >= numbers.p99_us);
    }
}
