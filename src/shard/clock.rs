//! Two clocks, and moments on one of them.
//!
//! `EXPIREAT key 1800000000` names a moment of the *wall* clock: it has come when that clock says so, also if somebody
//! has just set it. `EXPIRE key 100` names a duration: it has passed after 100 seconds, whatever has been done to the wall
//! clock meanwhile. With one clock for both, a wall clock that is set an hour ahead would end every session of an hour at
//! once, and one that is set back would let them live an hour longer. So there is a second one, *steady*: it cannot be
//! set, and was equal to the wall clock when the process started.
//!
//! A [`Deadline`] is a moment on one of the two and stays on it: through KEEPTTL, RENAME, COPY, MOVE and to other cores. It
//! is compared with its own clock and no other; so nothing has to be done when the wall clock jumps. Only what is *shown*
//! of a steady deadline (PEXPIRETIME, the effect PEXPIREAT, the conditions GT and LT) is translated, by what the two clocks
//! say in this turn: [`Now::wall_of`]. It changes when the wall clock is set, as the same duration then ends at another
//! time of day.
//!
//! An effect names a moment and not its clock: where it is replayed, the end of a duration is a moment of the wall clock.
//!
//! Why not put all deadlines on the steady clock, and move those of the wall clock when that is set? Because a step would
//! then touch every one of them, while their owner waits. A wheel for each clock ([`super::wheel`]) needs no such work
//! when the clock is set ahead, and does it in pieces when it is set back.
//!
//! Nothing here reads a clock; the owner of the shard brings a [`Now`] in each turn.

use super::UnixMs;

/// Milliseconds on the steady clock.
pub type SteadyMs = i64;

/// Which clock a deadline is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    Wall,
    Steady,
}

impl Clock {
    pub(crate) const ALL: [Clock; 2] = [Clock::Wall, Clock::Steady];
}

/// What the clocks say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub wall_ms: UnixMs,
    pub steady_ms: SteadyMs,
}

/// Clocks that agree, as they do until one is set.
impl From<UnixMs> for Now {
    fn from(ms: UnixMs) -> Now {
        Now { wall_ms: ms, steady_ms: ms }
    }
}

impl Now {
    #[inline]
    pub(crate) fn of(self, clock: Clock) -> i64 {
        match clock {
            Clock::Wall => self.wall_ms,
            Clock::Steady => self.steady_ms,
        }
    }

    /// Whether a deadline has come.
    #[inline]
    pub fn has_reached(self, deadline: Deadline) -> bool {
        deadline.ms() <= self.of(deadline.clock())
    }

    /// The deadline that a client means by `ms`: so many after 1970 on the wall clock, from now on the steady one. None if
    /// the moment is so far away that it cannot be shown.
    #[inline]
    pub fn deadline(self, clock: Clock, ms: i64) -> Option<Deadline> {
        match clock {
            Clock::Wall => Some(Deadline::new(clock, ms)),
            Clock::Steady => {
                self.wall_ms.checked_add(ms)?;
                Some(Deadline::new(clock, self.steady_ms.saturating_add(ms)))
            }
        }
    }

    /// The Unix time at which a deadline comes, if nobody sets the wall clock before.
    #[inline]
    pub fn wall_of(self, deadline: Deadline) -> UnixMs {
        match deadline.clock() {
            Clock::Wall => deadline.ms(),
            Clock::Steady => deadline.ms().saturating_add(self.wall_ms - self.steady_ms),
        }
    }
}

/// A moment on one of the clocks. Moments before 1970 have passed for certain and are all the same: so there is a bit for
/// the clock, and the latest moment that a client can name still fits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Deadline(i64);

/// This bit says that the clock is the steady one.
const STEADY: i64 = i64::MIN;

impl Deadline {
    pub fn new(clock: Clock, ms: i64) -> Deadline {
        match clock {
            Clock::Wall => Deadline(ms.max(0)),
            Clock::Steady => Deadline(ms.max(0) | STEADY),
        }
    }

    #[inline]
    pub fn clock(self) -> Clock {
        if self.0 & STEADY == 0 { Clock::Wall } else { Clock::Steady }
    }

    /// For those who keep it as bytes.
    #[inline]
    pub fn to_bits(self) -> i64 {
        self.0
    }

    /// The deadline for bits that came from [`Deadline::to_bits`].
    #[inline]
    pub fn from_bits(bits: i64) -> Deadline {
        Deadline(bits)
    }

    /// The moment, as its clock tells it. Never negative.
    #[inline]
    pub fn ms(self) -> i64 {
        self.0 & !STEADY
    }
}

impl std::fmt::Debug for Deadline {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:?}({})", self.clock(), self.ms())
    }
}

/// What SET and its relatives do about the expiry of the key they write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Leave it as it is.
    Keep,
    /// No expiry.
    Never,
    /// Expire then.
    At(Deadline),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_keeps_its_clock_and_the_farthest_moment() {
        for clock in Clock::ALL {
            for ms in [0, 1, 1_700_000_000_000, i64::MAX] {
                let deadline = Deadline::new(clock, ms);
                assert_eq!((deadline.clock(), deadline.ms()), (clock, ms));
                assert!(Now::from(ms).has_reached(deadline));
                assert!(ms == 0 || !Now::from(ms - 1).has_reached(deadline));
            }
            assert_eq!(Deadline::new(clock, -5), Deadline::new(clock, 0));
        }
        assert_ne!(Deadline::new(Clock::Wall, 7), Deadline::new(Clock::Steady, 7));
    }

    #[test]
    fn only_what_is_shown_of_a_steady_deadline_follows_the_wall_clock() {
        let (wall, steady) = (Deadline::new(Clock::Wall, 5_000), Deadline::new(Clock::Steady, 5_000));
        let set_ahead = Now { wall_ms: 9_000, steady_ms: 1_000 };
        assert!(set_ahead.has_reached(wall) && !set_ahead.has_reached(steady));
        assert_eq!((set_ahead.wall_of(wall), set_ahead.wall_of(steady)), (5_000, 13_000));
        let set_back = Now { wall_ms: 1_000, steady_ms: 9_000 };
        assert!(!set_back.has_reached(wall) && set_back.has_reached(steady));
        assert_eq!((set_back.wall_of(wall), set_back.wall_of(steady)), (5_000, -3_000));
        let farthest = Deadline::new(Clock::Steady, i64::MAX);
        assert_eq!(set_ahead.wall_of(farthest), i64::MAX);
        assert_eq!(set_back.wall_of(farthest), i64::MAX - 8_000);
    }
}
