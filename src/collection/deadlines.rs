//! Names in the order of their deadlines, on each of the two [clocks](crate::shard::clock).
//!
//! Used twice for the expiry of fields of hashes: a large hash keeps the deadlines of its fields in one, and each database
//! the hashes that have such fields, each by its earliest deadline.
//!
//! It is a sorted set for each clock, whose scores are moments in milliseconds. A score has 53 bits and a moment no more
//! than [`MOMENT_BITS_MAX`], so nothing is rounded. What a sorted set is good at is just what is needed: the first of all
//! names, how many are due (a rank), and the deadline of a name, each in a few steps; a copy, and freeing in pieces. Why
//! not a wheel, as for keys ([`crate::shard`])? A wheel is threaded through its entries and has lists for each digit of a
//! deadline; a hash with ten fields has no use for 2,000 lists.
//!
//! Owned by the core whose shard holds it.

use super::sorted::{Cut, Large};
use crate::shard::{Clock, Deadline, Now};

/// Bits of the latest moment, ms: 8,900 years after 1970. Commands accept less.
const MOMENT_BITS_MAX: u32 = 48;

const _: () = assert!(MOMENT_BITS_MAX < f64::MANTISSA_DIGITS);

/// What [`Deadlines::next`] gives for each clock: the earliest moment, ms.
pub type Earliest = [Option<i64>; 2];

/// See the module.
///
/// Invariant: no set is empty.
#[derive(Clone, Debug, Default)]
pub struct Deadlines {
    by_clock: [Option<Box<Large>>; 2],
}

impl Deadlines {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.by_clock.iter().all(Option::is_none)
    }

    /// Bytes charged, without the structure's own.
    pub fn bytes(&self) -> usize {
        self.by_clock.iter().flatten().map(|names| names.bytes()).sum()
    }

    /// The deadline of a name that has one at the most.
    pub fn get(&self, name: &[u8]) -> Option<Deadline> {
        Clock::ALL.into_iter().find_map(|clock| {
            let score = self.by_clock[clock as usize].as_ref()?.score(name)?;
            Some(Deadline::new(clock, score as i64))
        })
    }

    /// Gives a name this deadline, and no other.
    pub fn set(&mut self, name: &[u8], deadline: Deadline) {
        for clock in Clock::ALL {
            self.set_on(clock, name, (clock == deadline.clock()).then_some(deadline.ms()));
        }
    }

    /// Sets or takes away what a name has on one clock, ms.
    pub fn set_on(&mut self, clock: Clock, name: &[u8], ms: Option<i64>) {
        let place = &mut self.by_clock[clock as usize];
        match (ms, &mut *place) {
            (Some(ms), names) => {
                let ms = ms.min((1 << MOMENT_BITS_MAX) - 1);
                names.get_or_insert_default().insert(name, ms as f64);
            }
            (None, Some(names)) => {
                names.remove(name);
                if names.is_empty() {
                    *place = None;
                }
            }
            (None, None) => {}
        }
    }

    /// Takes a name out; false if it had no deadline.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let found = self.get(name).is_some();
        if found {
            Clock::ALL.into_iter().for_each(|clock| self.set_on(clock, name, None));
        }
        found
    }

    /// The earliest moment on each clock.
    pub fn next(&self) -> Earliest {
        Clock::ALL.map(|clock| self.first(clock).map(|(_, ms)| ms))
    }

    /// The first name by one clock, with its moment.
    pub fn first(&self, clock: Clock) -> Option<(&[u8], i64)> {
        let (name, score) = self.by_clock[clock as usize].as_ref()?.get(0);
        Some((name, score as i64))
    }

    /// A name whose deadline has come.
    pub fn first_due(&self, now: Now) -> Option<(&[u8], Deadline)> {
        Clock::ALL.into_iter().find_map(|clock| {
            let (name, ms) = self.first(clock)?;
            let deadline = Deadline::new(clock, ms);
            now.has_reached(deadline).then_some((name, deadline))
        })
    }

    /// Names whose deadlines have come.
    pub fn due(&self, now: Now) -> usize {
        Clock::ALL.map(|clock| self.due_on(clock, now)).iter().sum()
    }

    fn due_on(&self, clock: Clock, now: Now) -> usize {
        let Some(names) = &self.by_clock[clock as usize] else { return 0 };
        names.before(&Cut::Score { score: now.of(clock) as f64, equal: true })
    }

    /// Names with their moments on one clock, in order, from the one of this rank on.
    pub fn items(&self, clock: Clock, from: usize) -> impl Iterator<Item = (&[u8], i64)> {
        let names = self.by_clock[clock as usize].as_deref();
        let items = names.map(|names| names.items(from.min(names.len()), names.len(), false));
        items.into_iter().flatten().map(|(name, score)| (name, score as i64))
    }

    /// Takes the sets out, to be freed by somebody else.
    pub fn take(&mut self) -> impl Iterator<Item = Box<Large>> + use<> {
        std::mem::take(&mut self.by_clock).into_iter().flatten()
    }

    /// Frees up to about `pieces` allocations; true as long as there are more. What is left is a wreck.
    pub fn free_some(&mut self, pieces: usize) -> bool {
        self.by_clock.iter_mut().flatten().any(|names| names.free_some(pieces))
    }

    /// All names with their moments on one clock, in order.
    #[cfg(test)]
    pub fn on(&self, clock: Clock) -> Vec<(Vec<u8>, i64)> {
        let Some(names) = &self.by_clock[clock as usize] else { return Vec::new() };
        names.validate();
        assert!(!names.is_empty());
        names.items(0, names.len(), false).map(|(name, score)| (name.to_vec(), score as i64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farthest_moment_is_exact_and_due_in_time() {
        let mut deadlines = Deadlines::default();
        let farthest = (1i64 << MOMENT_BITS_MAX) - 1;
        for (clock, name) in [(Clock::Wall, b"w"), (Clock::Steady, b"s")] {
            deadlines.set(name, Deadline::new(clock, farthest));
            assert_eq!(deadlines.get(name), Some(Deadline::new(clock, farthest)));
        }
        assert_eq!(deadlines.next(), [Some(farthest); 2]);
        assert_eq!((deadlines.due(Now::from(farthest - 1)), deadlines.due(Now::from(farthest))), (0, 2));
        let one = Now { wall_ms: farthest, steady_ms: 0 };
        assert_eq!((deadlines.due(one), deadlines.first_due(one).unwrap().0), (1, &b"w"[..]));
        deadlines.set(b"w", Deadline::new(Clock::Steady, 5));
        assert_eq!((deadlines.next(), deadlines.due(one)), ([None, Some(5)], 0));
        assert!(deadlines.remove(b"w") && !deadlines.remove(b"w") && deadlines.remove(b"s"));
        assert_eq!((deadlines.is_empty(), deadlines.bytes()), (true, 0));
    }
}
