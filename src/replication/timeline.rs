//! When which index of the log was appended, in at most [`SAMPLES_MAX`] samples: how long a replica is behind in
//! milliseconds and bytes.
//!
//! A sample stands for the records after the one before it up to its own index, and has the time of the first of them. It
//! spans less than the resolution, which begins at 1 ms and doubles when there are too many samples. So a lag is never reported
//! as shorter than it is, and longer by less than the resolution: about 1/500 of the time that the samples span.
//!
//! Invariant: indices, times and bytes of the samples rise.

use std::collections::VecDeque;

/// Samples that are kept.
pub const SAMPLES_MAX: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Sample {
    last: u64,
    first_ms: u64,
    /// Bytes of the log before this sample, since the start of this timeline.
    bytes_before: u64,
}

#[derive(Clone, Debug)]
pub struct Timeline {
    samples: VecDeque<Sample>,
    bytes: u64,
    resolution_ms: u64,
}

impl Default for Timeline {
    fn default() -> Timeline {
        Timeline { samples: VecDeque::new(), bytes: 0, resolution_ms: 1 }
    }
}

impl Timeline {
    pub fn append(&mut self, now_ms: u64, last: u64, bytes: u64) {
        match self.samples.back_mut() {
            Some(sample) if now_ms.saturating_sub(sample.first_ms) < self.resolution_ms => sample.last = last,
            _ => {
                while self.samples.len() >= SAMPLES_MAX {
                    self.thin_out();
                }
                self.samples.push_back(Sample { last, first_ms: now_ms, bytes_before: self.bytes });
            }
        }
        self.bytes += bytes;
    }

    /// Everybody has what comes before `index` or equals it.
    pub fn forget(&mut self, index: u64) {
        while self.samples.front().is_some_and(|s| s.last <= index) {
            self.samples.pop_front();
        }
        if self.samples.is_empty() {
            self.resolution_ms = 1;
        }
    }

    /// For how long there has been something behind `received`, and how many bytes that is.
    pub fn lag(&self, now_ms: u64, received: u64) -> (u64, u64) {
        let at = self.samples.partition_point(|s| s.last <= received);
        self.samples.get(at).map_or((0, 0), |s| (now_ms.saturating_sub(s.first_ms), self.bytes - s.bytes_before))
    }

    fn thin_out(&mut self) {
        self.resolution_ms = self.resolution_ms.saturating_mul(2);
        let mut kept: VecDeque<Sample> = VecDeque::with_capacity(SAMPLES_MAX);
        for sample in self.samples.drain(..) {
            match kept.back_mut() {
                Some(before) if sample.first_ms - before.first_ms < self.resolution_ms => before.last = sample.last,
                _ => kept.push_back(sample),
            }
        }
        self.samples = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_never_too_short_and_samples_are_bounded() {
        let mut timeline = Timeline::default();
        for index in 1..=10_000u64 {
            timeline.append(index * 10, index, 5);
            assert!(timeline.samples.len() <= SAMPLES_MAX);
        }
        for received in [0, 1, 77, 5_000, 9_990, 9_999] {
            let (ms, bytes) = timeline.lag(100_000, received);
            let exact_ms = 100_000 - (received + 1) * 10;
            assert!((exact_ms..=exact_ms + 200).contains(&ms), "{received}: {ms} against {exact_ms}");
            assert!(bytes >= (10_000 - received) * 5 && bytes <= (10_000 - received) * 5 + 100);
        }
        assert_eq!(timeline.lag(100_000, 10_000), (0, 0));
        timeline.forget(9_999);
        let (ms, bytes) = timeline.lag(100_000, 9_999);
        assert!(ms <= 200 && (5..=105).contains(&bytes));
        timeline.forget(10_000);
        assert_eq!((timeline.samples.len(), timeline.resolution_ms), (0, 1));
    }
}
