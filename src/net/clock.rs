//! Reading the clocks: the wall clock, and one that nobody can set.
//!
//! The steady clock is Linux' CLOCK_BOOTTIME, which also counts the time of a suspended machine, from a common origin:
//! all cores copy one [`Clock`], so a moment means the same on each of them. What the two clocks are for says
//! [`crate::shard::clock`].
//!
//! They cannot be read in the same instant, and both are cut to whole milliseconds. If every turn took its two readings as
//! they are, the clocks would seem to move against each other by a millisecond back and forth, and PEXPIRETIME of a key
//! with it. So the difference is kept, until it changes by more than readings can explain: then the wall clock has been
//! set.
//!
//! The wall clock is read first and its difference rounded down, so that an interrupt between the readings makes the time
//! told too early, and deadlines come too late rather than too early: by less than [`SLACK_NS`] and a millisecond. Only if
//! the wall clock is set by less than the slack, which nobody notices, is the error of that size in the other direction.

use crate::shard::Now;

const NS_PER_MS: i64 = 1_000_000;

/// Differences that vary by less than this are the same, ns: one reading takes some 30 ns, an interrupt in between some µs.
const SLACK_NS: i64 = NS_PER_MS;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What the wall clock was ahead of the steady one of the kernel at the start, ns.
    origin_ns: i64,
    /// What it is ahead of our steady clock, ns.
    ahead_ns: i64,
}

impl Clock {
    /// Clocks that agree from now on.
    pub fn start() -> Clock {
        let (wall_ns, boot_ns) = readings();
        Clock { origin_ns: wall_ns - boot_ns, ahead_ns: 0 }
    }

    pub fn now(&mut self) -> Now {
        let (wall_ns, boot_ns) = readings();
        self.tell(wall_ns, boot_ns)
    }

    fn tell(&mut self, wall_ns: i64, boot_ns: i64) -> Now {
        let steady_ns = boot_ns + self.origin_ns;
        let ahead_ns = wall_ns - steady_ns;
        if (ahead_ns - self.ahead_ns).abs() >= SLACK_NS {
            self.ahead_ns = ahead_ns;
        }
        let steady_ms = steady_ns.div_euclid(NS_PER_MS);
        Now { wall_ms: steady_ms + self.ahead_ns.div_euclid(NS_PER_MS), steady_ms }
    }
}

/// The wall clock, then CLOCK_BOOTTIME, ns.
fn readings() -> (i64, i64) {
    (read(libc::CLOCK_REALTIME), read(libc::CLOCK_BOOTTIME))
}

fn read(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes to a timespec of ours. Both clocks exist since Linux 2.6.39, so it cannot fail.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec.saturating_mul(1000 * NS_PER_MS).saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_NS: i64 = 3_600_000 * NS_PER_MS;
    const WALL_NS: i64 = 1_700_000_000_123_456_789;
    const BOOT_NS: i64 = 5_000_999_999;

    fn clock() -> Clock {
        Clock { origin_ns: WALL_NS - BOOT_NS, ahead_ns: 0 }
    }

    #[test]
    fn clocks_that_nobody_sets_agree_to_the_millisecond() {
        let mut clock = clock();
        for turn in 0..100_000 {
            let passed_ns = turn * 777_777;
            // The second reading comes later, by an interrupt at times.
            let gap_ns = [30, 900_000][(turn % 7 == 3) as usize];
            let now = clock.tell(WALL_NS + passed_ns, BOOT_NS + passed_ns + gap_ns);
            assert_eq!(now.wall_ms, now.steady_ms);
            assert_eq!(now.steady_ms, (WALL_NS + passed_ns + gap_ns) / NS_PER_MS);
        }
    }

    #[test]
    fn the_steady_clock_does_not_notice_that_the_wall_clock_is_set() {
        let mut clock = clock();
        let mut step_ns = 0;
        for (turn, change_ns) in
            [0, HOUR_NS, -2 * HOUR_NS, 1_234_567, -999_999, 3 * HOUR_NS + 1].into_iter().enumerate()
        {
            step_ns += change_ns;
            for reading in 0..5 {
                let passed_ns = (turn as i64 * 5 + reading) * 300_000_000;
                let now = clock.tell(WALL_NS + step_ns + passed_ns, BOOT_NS + passed_ns + 30);
                assert_eq!(now.steady_ms, (WALL_NS + passed_ns + 30) / NS_PER_MS);
                let behind_ms = (WALL_NS + step_ns + passed_ns + 30) / NS_PER_MS - now.wall_ms;
                // A step of less than the slack is not noticed.
                assert!((-1..=2).contains(&behind_ms), "{behind_ms} ms behind after {step_ns} ns");
            }
        }
    }

    #[test]
    fn a_long_pause_between_the_readings_is_forgotten_with_the_next() {
        let mut clock = clock();
        let late = clock.tell(WALL_NS, BOOT_NS + 50 * NS_PER_MS);
        assert!(late.wall_ms <= WALL_NS / NS_PER_MS);
        let now = clock.tell(WALL_NS + 50 * NS_PER_MS, BOOT_NS + 50 * NS_PER_MS);
        assert_eq!(now, Now::from(WALL_NS / NS_PER_MS + 50));
    }

    #[test]
    fn the_clocks_of_this_machine_run() {
        let mut clock = Clock::start();
        let first = clock.now();
        let unix_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
        assert!((unix_ms - first.wall_ms).abs() < 60_000);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while clock.now().steady_ms < first.steady_ms + 3 {
            assert!(std::time::Instant::now() < end);
        }
    }
}
