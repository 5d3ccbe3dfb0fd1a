//! How fast copies come.
//!
//! Copies are bulk: nobody waits for one, and all that is urgent goes over the same connections and to the same cores. So a
//! follower says of each piece of a copy when its cores are through with it ([`ToLeader::Taken`]), and a leader has no more than a
//! window of bytes on their way ([`crate::streams::leader`]): what comes behind them waits for so much and no more. By holding
//! back what it says, the follower sets the pace of all copies that it receives together.
//!
//! *Most:* a rate that is configured.
//!
//! *Less where there is little to spare,* as in LEDBAT (RFC 6817): bulk gives way to everything else before that suffers. What tells
//! is how long it takes from the moment at which a piece comes until it is executed. That is short while CPUs have time for it; if it
//! is not, clients' requests have to wait as well, and the rate is halved, down to a part of the most. While it is, the rate
//! grows. Copies never stop.
//!
//! Pure.
//!
//! [`ToLeader::Taken`]: crate::streams::message::ToLeader::Taken

use std::collections::VecDeque;

use super::stream::Link;
use super::*;

/// A piece that takes longer than this to be executed had to wait.
const DELAY_MS_MAX: u64 = 3;

/// The lowest rate is this part of the most.
const LEAST_PART: u64 = 16;

/// The rate grows by this part of the most with each tick.
const GROWTH_PART: u64 = 128;

/// What was not used in so much time is not used later.
const BURST_MS: u64 = 40;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Bytes per second; None: whatever leaders send.
    most: Option<u64>,
    rate: u64,
    /// What may be taken now, in thousandths of a byte; below 0 after a piece that was larger.
    tokens: i64,
    ticked_ms: Option<u64>,
    /// The longest that a piece has taken since then.
    delay_ms: u64,
    /// Whose piece was taken last.
    last: NodeId,
}

/// Pieces of a copy of which the leader has not been told.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces {
    /// On their way through the data cores: their tickets, bytes, and when they came.
    coming: VecDeque<(Ticket, u64, u64)>,
    /// Bytes of those that are through.
    through: VecDeque<u64>,
}

impl Pieces {
    pub fn push(&mut self, now_ms: u64, ticket: Ticket, bytes: u64) {
        self.coming.push_back((ticket, bytes, now_ms));
    }

    /// All that the leader has not been told of.
    pub fn bytes(&self) -> u64 {
        self.coming.iter().map(|(_, bytes, _)| bytes).chain(&self.through).sum()
    }

    /// Everything up to this ticket is executed; the longest that a piece has taken.
    fn applied(&mut self, now_ms: u64, ticket: Ticket) -> u64 {
        let mut longest_ms = 0;
        while let Some(&(_, bytes, came_ms)) = self.coming.front().filter(|(needs, ..)| *needs <= ticket) {
            self.coming.pop_front();
            self.through.push_back(bytes);
            longest_ms = longest_ms.max(now_ms.saturating_sub(came_ms));
        }
        longest_ms
    }
}

impl Pace {
    fn tick(&mut self, now_ms: u64) {
        let since_ms = now_ms.saturating_sub(self.ticked_ms.replace(now_ms).unwrap_or(now_ms));
        let Some(most) = self.most else { return };
        let least = (most / LEAST_PART).max(1);
        self.rate = match std::mem::take(&mut self.delay_ms) > DELAY_MS_MAX {
            true => (self.rate / 2).max(least),
            false => (self.rate + most / GROWTH_PART).clamp(least, most),
        };
        let rate = self.rate as i64;
        let passed_ms = since_ms.min(BURST_MS) as i64;
        self.tokens =
            (self.tokens.saturating_add(rate.saturating_mul(passed_ms))).min(rate.saturating_mul(BURST_MS as i64));
    }

    fn may_take(&self) -> bool {
        self.most.is_none() || self.tokens > 0
    }

    fn take(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub((bytes as i64).saturating_mul(1000));
    }
}

impl Follower {
    /// Sets how many bytes of copies may come in a second; None: as many as leaders send.
    pub fn set_copy_rate(&mut self, most: Option<u64>) {
        if self.pace.most != most {
            // What came under another limit, or without one, does not count.
            let Pace { ticked_ms, last, .. } = self.pace;
            self.pace = Pace { most, rate: most.unwrap_or(0), ticked_ms, last, ..Pace::default() };
        }
    }

    pub(super) fn tick_pace(&mut self, now_ms: u64) {
        self.pace.tick(now_ms);
    }

    /// Tells leaders of the pieces that data cores are through with, as far as the pace allows: one piece of each leader after
    /// the other.
    pub(super) fn take_pieces(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        for run in self.streams.values_mut().filter_map(|stream| stream.run.as_mut()) {
            self.pace.delay_ms = self.pace.delay_ms.max(run.pieces.applied(now_ms, self.applied));
        }
        let mut taken: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
        while self.pace.may_take() {
            let last = self.pace.last;
            let first = |(&leader, stream): (&NodeId, &Stream)| {
                let run = stream.run.as_ref().filter(|_| stream.link == Link::Up)?;
                Some((leader, run.id, *run.pieces.through.front()?))
            };
            let after = self.streams.range(last + 1..).find_map(first);
            let Some((leader, run, bytes)) = after.or_else(|| self.streams.range(..=last).find_map(first)) else {
                break;
            };
            if let Some(run) = self.streams.get_mut(&leader).and_then(|stream| stream.run.as_mut()) {
                run.pieces.through.pop_front();
            }
            self.pace.last = leader;
            self.pace.take(bytes);
            taken.entry(leader).or_insert((run, 0)).1 += bytes;
        }
        for (leader, (run, bytes)) in taken {
            self.say_taken(leader, run, bytes, out);
        }
    }

    /// Tells a leader that it may send so much more, if it waits for that.
    pub(super) fn say_taken(&self, leader: NodeId, run: u64, bytes: u64, out: &mut Vec<Action>) {
        let waits = |stream: &Stream| stream.link == Link::Up && stream.version >= PACED_VERSION;
        if self.streams.get(&leader).is_some_and(waits) {
            out.push(Action::Send { leader, message: ToLeader::Taken { run, bytes } });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 64_000;

    /// Lets this many ticks pass, so far apart; bytes that are taken, in pieces.
    fn taken(pace: &mut Pace, now_ms: &mut u64, ticks: u64, apart_ms: u64) -> u64 {
        let mut bytes = 0;
        for _ in 0..ticks {
            *now_ms += apart_ms;
            pace.tick(*now_ms);
            while pace.may_take() {
                pace.take(100);
                bytes += 100;
            }
        }
        bytes
    }

    #[test]
    fn no_more_comes_than_may() {
        let mut pace = Pace { most: Some(MOST), rate: MOST, ..Pace::default() };
        let mut now_ms = 5;
        pace.tick(now_ms);
        assert!(!pace.may_take());
        let second = taken(&mut pace, &mut now_ms, 100, 10);
        assert!(second.abs_diff(MOST) <= 100, "{second}");
        // What was not wanted for a while does not come at once afterwards.
        (0..1_000).for_each(|_| {
            now_ms += 10;
            pace.tick(now_ms);
        });
        let burst = taken(&mut pace, &mut now_ms, 1, 10);
        assert!(burst <= MOST * BURST_MS / 1_000 + 100, "{burst}");
        // A piece that is larger than that is taken, and others wait for it.
        pace.tokens = 1;
        pace.take(MOST);
        assert!(taken(&mut pace, &mut now_ms, 99, 10) <= 100 && taken(&mut pace, &mut now_ms, 10, 10) > 0);
    }

    #[test]
    fn bulk_gives_way_and_never_stops() {
        let mut pace = Pace { most: Some(MOST), rate: MOST, ..Pace::default() };
        let mut now_ms = 0;
        pace.tick(now_ms);
        for delay_ms in [1, DELAY_MS_MAX] {
            pace.delay_ms = delay_ms;
            taken(&mut pace, &mut now_ms, 1, 10);
            assert_eq!(pace.rate, MOST);
        }
        for expected in [2, 4, 8, LEAST_PART, LEAST_PART].map(|part| MOST / part) {
            pace.delay_ms = DELAY_MS_MAX + 1;
            assert!(taken(&mut pace, &mut now_ms, 1, 100) > 0);
            assert_eq!(pace.rate, expected);
        }
        taken(&mut pace, &mut now_ms, GROWTH_PART, 10);
        assert_eq!(pace.rate, MOST);
        let mut smallest = Pace { most: Some(1), rate: 1, ..Pace::default() };
        assert!(taken(&mut smallest, &mut now_ms, 500, 1_000) > 0);
    }

    #[test]
    fn what_tells_is_how_long_pieces_take() {
        let mut pieces = Pieces::default();
        for (now_ms, ticket) in [(10, 3), (11, 5), (18, 6)] {
            pieces.push(now_ms, ticket, ticket);
        }
        assert_eq!((pieces.applied(20, 2), pieces.through.len()), (0, 0));
        assert_eq!((pieces.applied(20, 5), pieces.through.len()), (10, 2));
        assert_eq!((pieces.applied(20, 9), pieces.through.len()), (2, 3));
        assert_eq!((pieces.applied(99, 9), pieces.coming.len()), (0, 0));
    }

    #[test]
    fn without_a_limit_everything_is_taken() {
        let mut pace = Pace::default();
        pace.tick(1);
        pace.tick(1_000);
        pace.take(u64::MAX);
        assert!(pace.may_take());
    }
}
