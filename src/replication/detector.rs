//! The phi-accrual failure detector: how strange is this silence?
//!
//! Hayashibara, Défago, Yared, Katayama: "The φ Accrual Failure Detector", 2004; in use in Akka and Cassandra.
//!
//! A timeout says "dead" or "alive", and one number has to suit a quiet link and a busy one. This detector says instead
//! *how sure* it is, on a scale, and learns from each link what is normal there:
//!
//! 1. It keeps the last [`WINDOW`] intervals between heartbeats, and of these the mean and the standard deviation.
//! 2. It supposes that intervals are distributed normally. Then the chance that a heartbeat comes *later* than the `t`
//!    milliseconds that have passed since the last one is `P(t) = 1 - F((t - mean) / deviation)`, with `F` the normal
//!    distribution.
//! 3. `phi = -log10(P(t))`. So phi 1 means: whoever calls the peer dead now is wrong once in 10 times, phi 8: once in a
//!    hundred million. The silence goes on, phi rises; a heartbeat comes, phi is 0.
//!
//! Two corrections are needed in practice. A link whose heartbeats come like clockwork has a deviation of nearly nothing, and
//! the first late one would look like death: so the deviation has a floor. And a peer may be held up by something that is
//! no failure (a slow command, a scheduler): so a pause is allowed on top of the mean.
//!
//! `F` has no closed form. `1 / (1 + e^(-y (1.5976 + 0.070566 y²)))` is within 0.00014 of it (Bowling and others, 2009), and it
//! stays accurate enough in the tail, where phi lives, after the rearrangement in [`Detector::phi`].
//!
//! Pure: times are arguments, in milliseconds of a steady clock. Owned by the control core, one for each link and direction.
//!
//! Invariants: at most [`WINDOW`] intervals; `sum` and `squares` are those of what is in the window, in whole numbers, so
//! that nothing accumulates errors.

use std::collections::VecDeque;

/// Intervals that are remembered.
pub const WINDOW: usize = 100;
/// Longer silences are entered as this long: one outage must not make the detector patient for the next hundred heartbeats.
const INTERVAL_MS_MAX: u64 = 60_000;

/// What is normal before anything was learnt, and what is never taken for abnormal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The interval in which the peer means to send.
    pub interval_ms: u64,
    /// The floor of the standard deviation.
    pub deviation_ms_min: u64,
    /// A pause beyond the mean that says nothing.
    pub pause_ms: u64,
}

impl Expectation {
    /// For a peer that sends every `interval_ms`: its deviation is at least a quarter of it, and two may fail to come.
    pub fn of_interval(interval_ms: u64) -> Expectation {
        let interval_ms = interval_ms.max(1);
        Expectation { interval_ms, deviation_ms_min: interval_ms.div_ceil(4), pause_ms: 2 * interval_ms }
    }
}

/// The detector of one link. See the module.
#[derive(Clone, Debug)]
pub struct Detector {
    expectation: Expectation,
    intervals: VecDeque<u64>,
    sum: u64,
    squares: u64,
    last_ms: u64,
}

impl Detector {
    /// A link that is alive at `now_ms`.
    pub fn new(expectation: Expectation, now_ms: u64) -> Detector {
        Detector { expectation, intervals: VecDeque::new(), sum: 0, squares: 0, last_ms: now_ms }
    }

    /// A heartbeat has arrived.
    pub fn heartbeat(&mut self, now_ms: u64) {
        let interval = now_ms.saturating_sub(self.last_ms).min(INTERVAL_MS_MAX);
        if self.intervals.len() == WINDOW
            && let Some(oldest) = self.intervals.pop_front()
        {
            self.sum -= oldest;
            self.squares -= oldest * oldest;
        }
        self.intervals.push_back(interval);
        self.sum += interval;
        self.squares += interval * interval;
        self.last_ms = now_ms.max(self.last_ms);
    }

    /// How sure it is, in powers of ten, that no heartbeat is to come any more.
    pub fn phi(&self, now_ms: u64) -> f64 {
        let (mean, deviation) = self.normal();
        let silence = now_ms.saturating_sub(self.last_ms) as f64;
        let y = (silence - mean - self.expectation.pause_ms as f64) / deviation;
        // Far out the polynomial is beyond what a float's exponent can hold; phi is beyond any threshold long before.
        let exponent = -y.min(1e3) * (1.5976 + 0.070566 * y.min(1e3) * y.min(1e3));
        if y > 0.0 {
            // log10(e / (1 + e)), written so that a tiny `e` is not lost: it is the logarithm of `e` itself.
            -(exponent / std::f64::consts::LN_10 - exponent.exp().ln_1p() / std::f64::consts::LN_10)
        } else {
            let later = 1.0 - 1.0 / (1.0 + exponent.exp());
            // In a silence shorter than any before, `exp` overflows and this is 1: phi 0, without its sign.
            (-later.log10()).max(0.0)
        }
    }

    /// The mean and the standard deviation, in milliseconds. What is expected counts as two intervals, so that the first real
    /// ones do not decide alone.
    fn normal(&self) -> (f64, f64) {
        let expected = self.expectation.interval_ms.min(INTERVAL_MS_MAX);
        let count = (self.intervals.len() + 2) as f64;
        let mean = (self.sum + 2 * expected) as f64 / count;
        let squares = (self.squares + 2 * expected * expected) as f64 / count;
        let deviation = (squares - mean * mean).max(0.0).sqrt();
        (mean, deviation.max(self.expectation.deviation_ms_min.max(1) as f64))
    }

    #[cfg(test)]
    fn validate(&self) {
        assert!(self.intervals.len() <= WINDOW);
        assert_eq!(self.sum, self.intervals.iter().sum::<u64>());
        assert_eq!(self.squares, self.intervals.iter().map(|i| i * i).sum::<u64>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(interval: u64, jitter: u64) -> Detector {
        let mut detector = Detector::new(Expectation { interval_ms: 100, deviation_ms_min: 10, pause_ms: 0 }, 0);
        let mut now = 0;
        for at in 0..200u64 {
            now += interval + (at * 7919 % (2 * jitter + 1)) - jitter;
            detector.heartbeat(now);
            detector.validate();
        }
        detector
    }

    #[test]
    fn phi_is_the_normal_tail_in_powers_of_ten() {
        let detector = steady(100, 0);
        let last = detector.last_ms;
        // Mean 100, deviation at its floor of 10. Upper tails of the normal distribution at 0, 1, 2, 3 deviations.
        for (deviations, tail) in [(0, 0.5), (1, 0.158655), (2, 0.022750), (3, 0.0013499f64)] {
            let phi = detector.phi(last + 100 + deviations * 10);
            assert!((phi - -tail.log10()).abs() < 0.05, "{deviations}: {phi} against {}", -tail.log10());
        }
        assert!(detector.phi(last) < 1e-9);
    }

    #[test]
    fn phi_rises_with_silence_and_falls_with_a_heartbeat() {
        let mut detector = steady(100, 20);
        let last = detector.last_ms;
        let mut before = 0.0;
        for silence in 0..5_000 {
            let phi = detector.phi(last + silence);
            assert!(phi.is_finite() && phi >= before, "at {silence}: {phi} after {before}");
            before = phi;
        }
        assert!(before > 100.0);
        assert!(detector.phi(u64::MAX).is_finite());
        detector.heartbeat(last + 5_000);
        assert!(detector.phi(last + 5_001) < 0.5);
    }

    #[test]
    fn an_irregular_link_is_given_more_time() {
        let (regular, irregular) = (steady(100, 5), steady(100, 90));
        assert!(regular.phi(regular.last_ms + 250) > 8.0);
        assert!(irregular.phi(irregular.last_ms + 250) < 4.0);
    }

    #[test]
    fn a_pause_is_allowed_and_an_outage_is_not_learnt_whole() {
        let mut detector = Detector::new(Expectation::of_interval(1000), 0);
        assert!(detector.phi(3_000) < 1.0);
        assert!(detector.phi(6_000) > 8.0);
        detector.heartbeat(100_000_000);
        detector.validate();
        assert_eq!(detector.sum, INTERVAL_MS_MAX);
    }
}
