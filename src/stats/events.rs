//! The latency monitor: what held this core up, and when, if it took at least `latency-monitor-threshold`.
//!
//! A histogram tells how often something is slow; this tells at what moment it was, so that it can be held against what else
//! happened then. Each [`Event`] has a series with one sample for each second in which it took that long: the longest time.
//! Each core keeps its own, and reading merges them (<https://redis.io/docs/latest/operate/oss_and_stack/management/optimization/latency-monitor/>).

/// What is watched; named as in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A command whose time grows with what it is asked for.
    Command,
    /// A command of constant or logarithmic time.
    FastCommand,
    /// Keys and fields whose time had come, as many as one turn removes.
    ExpireCycle,
    /// What is done piece by piece between requests: eviction, tables that grow, large values that are freed. What a command
    /// has to evict before it runs is its own time.
    EvictionCycle,
}

impl Event {
    pub const ALL: [Event; 4] = [Event::Command, Event::FastCommand, Event::ExpireCycle, Event::EvictionCycle];

    pub fn name(self) -> &'static str {
        match self {
            Event::Command => "command",
            Event::FastCommand => "fast-command",
            Event::ExpireCycle => "expire-cycle",
            Event::EvictionCycle => "eviction-cycle",
        }
    }

    /// The event of this name.
    pub fn named(name: &[u8]) -> Option<Event> {
        Event::ALL.into_iter().find(|event| event.name().as_bytes() == name)
    }
}

/// Samples of a series; older ones are forgotten.
pub const SAMPLES_MAX: usize = 160;

/// The longest time in one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub unix_s: i64,
    pub millis: u64,
}

/// The samples of one event.
///
/// Invariant: ascending by time, no two of one second, at most [`SAMPLES_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    samples: Vec<Sample>,
    /// The longest time of all, also of samples that are forgotten.
    millis_max: u64,
}

impl Series {
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The longest time since the series began, ms.
    pub fn millis_max(&self) -> u64 {
        self.millis_max
    }

    fn add(&mut self, sample: Sample) {
        self.millis_max = self.millis_max.max(sample.millis);
        match self.samples.binary_search_by_key(&sample.unix_s, |known| known.unix_s) {
            Ok(at) => self.samples[at].millis = self.samples[at].millis.max(sample.millis),
            Err(at) => self.samples.insert(at, sample),
        }
        let excess = self.samples.len().saturating_sub(SAMPLES_MAX);
        self.samples.drain(..excess);
    }
}

/// The series of one core, or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyEvents {
    series: [Series; Event::ALL.len()],
}

impl LatencyEvents {
    /// Notes that an event took so long. A clock that was set back stands still until it is where it was.
    pub fn add(&mut self, event: Event, unix_s: i64, millis: u64) {
        let series = &mut self.series[event as usize];
        let unix_s = series.samples.last().map_or(unix_s, |newest| unix_s.max(newest.unix_s));
        series.add(Sample { unix_s, millis });
    }

    /// Adds what another core has noted.
    pub fn merge(&mut self, other: &LatencyEvents) {
        for (series, others) in self.series.iter_mut().zip(&other.series) {
            others.samples.iter().for_each(|&sample| series.add(sample));
            series.millis_max = series.millis_max.max(others.millis_max);
        }
    }

    /// The samples of an event; None if there are none.
    pub fn of(&self, event: Event) -> Option<&Series> {
        Some(&self.series[event as usize]).filter(|series| !series.samples.is_empty())
    }

    /// The events with samples, and these.
    pub fn iter(&self) -> impl Iterator<Item = (Event, &Series)> {
        Event::ALL.into_iter().filter_map(|event| Some((event, self.of(event)?)))
    }

    /// Forgets these events, and returns what was known of them.
    pub fn take(&mut self, events: &[Event]) -> LatencyEvents {
        let mut taken = LatencyEvents::default();
        for &event in events {
            // Nothing is left of one that is named twice.
            let series = std::mem::take(&mut self.series[event as usize]);
            if !series.samples.is_empty() {
                taken.series[event as usize] = series;
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(events: &LatencyEvents, event: Event) -> Vec<(i64, u64)> {
        events.of(event).map_or(Vec::new(), |s| s.samples().iter().map(|s| (s.unix_s, s.millis)).collect())
    }

    #[test]
    fn a_second_has_its_longest_time() {
        let mut events = LatencyEvents::default();
        for (unix_s, millis) in [(10, 5), (10, 9), (10, 7), (12, 1)] {
            events.add(Event::Command, unix_s, millis);
        }
        assert_eq!(pairs(&events, Event::Command), [(10, 9), (12, 1)]);
        assert_eq!(events.of(Event::Command).unwrap().millis_max(), 9);
        assert_eq!(events.of(Event::FastCommand), None);
    }

    #[test]
    fn cores_are_merged_by_the_second() {
        let (mut one, mut other) = (LatencyEvents::default(), LatencyEvents::default());
        one.add(Event::ExpireCycle, 10, 5);
        one.add(Event::ExpireCycle, 12, 5);
        other.add(Event::ExpireCycle, 10, 6);
        other.add(Event::ExpireCycle, 11, 2);
        other.add(Event::Command, 1, 1);
        one.merge(&other);
        assert_eq!(pairs(&one, Event::ExpireCycle), [(10, 6), (11, 2), (12, 5)]);
        assert_eq!(one.iter().map(|(event, _)| event).collect::<Vec<_>>(), [Event::Command, Event::ExpireCycle]);
        let taken = one.take(&[Event::Command, Event::FastCommand, Event::Command]);
        assert_eq!(taken.iter().count(), 1);
        assert_eq!(one.iter().count(), 1);
    }

    #[test]
    fn the_oldest_are_forgotten_but_not_the_longest_time() {
        let mut events = LatencyEvents::default();
        for second in 0..SAMPLES_MAX as i64 + 10 {
            events.add(Event::EvictionCycle, second, if second == 0 { 99 } else { 1 });
        }
        let series = events.of(Event::EvictionCycle).unwrap();
        assert_eq!((series.samples().len(), series.samples()[0].unix_s, series.millis_max()), (SAMPLES_MAX, 10, 99));
        let newest = *series.samples().last().unwrap();
        events.add(Event::EvictionCycle, 20, 7);
        let series = events.of(Event::EvictionCycle).unwrap();
        assert_eq!(series.samples().last(), Some(&Sample { millis: 7, ..newest }), "the clock was set back");
    }
}
