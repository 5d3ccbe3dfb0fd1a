//! When requests are due in the open loop.
//!
//! Each connection has a schedule of its own that never looks at replies: that is what makes the loop open. All times
//! are nanoseconds since the start of the run.

use super::random::Rng;

/// How a connection's requests are spread over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrival {
    /// Equal gaps; connections are shifted against each other by a random phase.
    #[default]
    Constant,
    /// Exponential gaps: independent users. Bursts occur, as they do in reality.
    Poisson,
}

/// Due times of one connection, ascending.
#[derive(Debug)]
pub struct Schedule {
    arrival: Arrival,
    gap_ns: f64,
    rng: Rng,
    /// Constant: phase of the first request. Poisson: the time that has been reached.
    base_ns: f64,
    /// Requests taken so far.
    taken: u64,
    next_ns: u64,
}

impl Schedule {
    /// `gap_ns` is the mean time between two requests of this connection, above 0.
    pub fn new(arrival: Arrival, gap_ns: f64, mut rng: Rng) -> Self {
        assert!(gap_ns > 0.0 && gap_ns.is_finite());
        let base_ns = match arrival {
            Arrival::Constant => rng.unit() * gap_ns,
            Arrival::Poisson => rng.exponential() * gap_ns,
        };
        Schedule { arrival, gap_ns, rng, base_ns, taken: 0, next_ns: base_ns as u64 }
    }

    /// When the next request is due.
    #[inline]
    pub fn due_ns(&self) -> u64 {
        self.next_ns
    }

    /// Takes the next request off the schedule.
    #[inline]
    pub fn advance(&mut self) {
        self.taken += 1;
        self.next_ns = match self.arrival {
            // Not a running sum: errors of rounding must not add up to a wrong rate.
            Arrival::Constant => (self.base_ns + self.taken as f64 * self.gap_ns) as u64,
            Arrival::Poisson => {
                self.base_ns += self.rng.exponential() * self.gap_ns;
                self.base_ns as u64
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(schedule: &mut Schedule, until_ns: u64) -> Vec<u64> {
        let mut due = Vec::new();
        while schedule.due_ns() < until_ns {
            due.push(schedule.due_ns());
            schedule.advance();
        }
        due
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_with_a_phase_of_their_own() {
        let mut phases = Vec::new();
        for stream in 0..20 {
            let mut schedule = Schedule::new(Arrival::Constant, 1_000_000.3, Rng::new(1, stream));
            let due = take(&mut schedule, 10_000_000_000);
            assert!((9_999..=10_000).contains(&due.len()), "{}", due.len());
            assert!(due[0] <= 1_000_000);
            assert!(due.windows(2).all(|pair| (1_000_000..=1_000_001).contains(&(pair[1] - pair[0]))));
            phases.push(due[0]);
        }
        phases.sort_unstable();
        phases.dedup();
        assert_eq!(phases.len(), 20);
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_spread_of_an_exponential() {
        let mut schedule = Schedule::new(Arrival::Poisson, 10_000.0, Rng::new(9, 0));
        let due = take(&mut schedule, 1_000_000_000);
        let gaps: Vec<f64> = due.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((mean / 10_000.0 - 1.0).abs() < 0.02, "{mean}");
        assert!((deviation / 10_000.0 - 1.0).abs() < 0.03, "{deviation}");
    }
}
