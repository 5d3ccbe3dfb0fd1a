//! How long something took, counted so that counting costs next to nothing.
//!
//! Nearly all commands take some hundred nanoseconds, and finding a value's place in a general histogram is a good part of
//! that. So short times are counted in an array whose places are exactly the histogram's: to read it, both are put
//! together, and nothing is lost. Each core counts its own.

use std::borrow::Cow;

use hdrhistogram::Histogram;

/// Longest time that a histogram tells apart, ns; longer ones count as this.
pub const LATENCY_NS_MAX: u64 = 10_000_000_000;

/// Decimal digits that a histogram keeps of a value.
const DIGITS: u8 = 2;

/// The places of a histogram of two digits: one for each value of eight bits, then 128 for each further bit.
const VALUE_BITS: u32 = 8;

/// Times of fewer bits are short: below 65,536 ns.
const SHORT_BITS: u32 = 16;
const SHORT_PLACES: usize = (SHORT_BITS - VALUE_BITS + 2) as usize * HALF;
const HALF: usize = 1 << (VALUE_BITS - 1);

/// Times, ns. Made at the first value, so that what never happens costs no memory.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    short: Option<Box<[u64; SHORT_PLACES]>>,
    long: Option<Box<Histogram<u64>>>,
}

impl Latency {
    #[inline]
    pub fn record(&mut self, nanos: u64) {
        match &mut self.short {
            Some(short) if nanos < 1 << SHORT_BITS => short[place(nanos)] += 1,
            _ => self.record_seldom(nanos),
        }
    }

    /// A long time, or the first short one.
    #[cold]
    fn record_seldom(&mut self, nanos: u64) {
        if nanos < 1 << SHORT_BITS {
            self.short.get_or_insert_with(|| Box::new([0; SHORT_PLACES]))[place(nanos)] += 1;
        } else {
            self.long.get_or_insert_with(|| Box::new(new_histogram())).saturating_record(nanos);
        }
    }

    /// All values; None if there are none. Putting it together takes some microseconds.
    pub fn histogram(&self) -> Option<Cow<'_, Histogram<u64>>> {
        let Some(short) = &self.short else { return self.long.as_deref().map(Cow::Borrowed) };
        let mut all = self.long.as_deref().map_or_else(new_histogram, Histogram::clone);
        for (place, &count) in short.iter().enumerate().filter(|(_, count)| **count > 0) {
            all.saturating_record_n(first_value(place), count);
        }
        Some(Cow::Owned(all))
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.short_counts().iter().sum::<u64>() + self.long.as_ref().map_or(0, |h| h.len())
    }

    /// Sum of the values, ns, to the histogram's precision.
    pub fn sum_nanos(&self) -> f64 {
        self.histogram().map_or(0.0, |h| h.mean() * h.len() as f64)
    }

    /// How many values were at most `nanos`, to the histogram's precision (two digits).
    pub fn count_up_to(&self, nanos: u64) -> u64 {
        let places = place(nanos.min((1 << SHORT_BITS) - 1)) + 1;
        let short: u64 = self.short_counts().iter().take(places).sum();
        short + self.long.as_ref().map_or(0, |h| h.count_between(0, nanos))
    }

    /// The value below which `percent` percent of the values lie, ns.
    pub fn percentile(&self, percent: f64) -> u64 {
        self.histogram().map_or(0, |h| h.value_at_percentile(percent))
    }

    pub fn merge(&mut self, other: &Latency) {
        match (&mut self.short, &other.short) {
            (Some(mine), Some(theirs)) => mine.iter_mut().zip(theirs.iter()).for_each(|(mine, theirs)| *mine += theirs),
            (mine @ None, Some(theirs)) => *mine = Some(theirs.clone()),
            (_, None) => {}
        }
        match (&mut self.long, &other.long) {
            (Some(mine), Some(theirs)) => mine.add(theirs.as_ref()).expect("all histograms have the same bounds"),
            (mine @ None, Some(theirs)) => *mine = Some(theirs.clone()),
            (_, None) => {}
        }
    }

    fn short_counts(&self) -> &[u64] {
        self.short.as_deref().map_or(&[], |short| short)
    }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("the bounds are constants")
}

/// Where a histogram counts `nanos`: the top [`VALUE_BITS`] bits of the value, and how many bits stand behind them.
#[inline]
fn place(nanos: u64) -> usize {
    let behind = (nanos | ((1 << VALUE_BITS) - 1)).ilog2() + 1 - VALUE_BITS;
    behind as usize * HALF + (nanos >> behind) as usize
}

/// The smallest value that is counted at `place`.
fn first_value(place: usize) -> u64 {
    let behind = (place / HALF).saturating_sub(1);
    ((place - behind * HALF) as u64) << behind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_are_those_of_the_histogram() {
        let histogram = new_histogram();
        for nanos in 0..1 << SHORT_BITS {
            assert_eq!(first_value(place(nanos)), histogram.lowest_equivalent(nanos), "{nanos}");
        }
        assert_eq!(place((1 << SHORT_BITS) - 1), SHORT_PLACES - 1);
    }

    #[test]
    fn nothing_is_lost() {
        let (mut plain, mut latency) = (new_histogram(), Latency::default());
        assert!(latency.histogram().is_none());
        for nanos in (0..2000u64).map(|i| i * i * i / 7).chain([u64::MAX]) {
            plain.saturating_record(nanos);
            latency.record(nanos);
        }
        assert_eq!(latency.histogram().as_deref(), Some(&plain));
        assert_eq!(latency.count(), plain.len());
        for nanos in [0, 1, 255, 256, 1000, 65_535, 65_536, 1_000_000, u64::MAX] {
            assert_eq!(latency.count_up_to(nanos), plain.count_between(0, nanos), "{nanos}");
        }
        for percent in [0.0, 1.0, 50.0, 99.0, 100.0] {
            assert_eq!(latency.percentile(percent), plain.value_at_percentile(percent));
        }
        assert_eq!(latency.sum_nanos(), plain.mean() * plain.len() as f64);
        let mut twice = latency.clone();
        twice.merge(&latency);
        plain.add(plain.clone()).unwrap();
        assert_eq!(twice.histogram().as_deref(), Some(&plain));
    }
}
