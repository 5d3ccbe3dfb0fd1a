//! Units that span partitions: transactions over several of what this node leads.
//!
//! Their parts go to different followers, and if this node is lost, those who lead then must keep all of it or nothing
//! ([`crate::raft::settle`]). So such a unit counts as committed in its partitions only when all followers that any commit of this
//! node waits for have come so far, whether it concerns them or not, and nothing behind it in the same partitions before that. How
//! far a follower has come is one number, and the lowest of them says which of these units everybody has.
//!
//! Kept by group, as what is committed is; a frame is a unit here, as followers have all of it or nothing.
//!
//! Invariant: in order, and without overlaps.

use std::collections::VecDeque;

use super::Index;

/// So many are told apart, which is a megabyte; what comes behind them counts with the last. A follower that is so far behind does
/// not stay in sync.
const SPANS_MAX: usize = 1 << 16;

/// Frames with units that span partitions, and that not all followers have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outstanding(VecDeque<(Index, Index)>);

impl Outstanding {
    /// A frame with these indices has some.
    pub fn push(&mut self, first: Index, last: Index) {
        let full = self.0.len() == SPANS_MAX;
        match self.0.back_mut() {
            Some(back) if back.1 >= last => {}
            Some(back) if full => back.1 = last,
            _ => self.0.push_back((first, last)),
        }
    }

    /// All followers have everything up to here.
    pub fn forget(&mut self, whole: Index) {
        while self.0.front().is_some_and(|(_, last)| *last <= whole) {
            self.0.pop_front();
        }
    }

    /// Up to where something may count as committed.
    pub fn limit(&self) -> Index {
        self.0.front().map_or(Index::MAX, |(first, _)| first - 1)
    }

    /// Those of both.
    pub fn merge(&mut self, other: &Outstanding) {
        let mut all: Vec<(Index, Index)> = self.0.drain(..).chain(other.0.iter().copied()).collect();
        all.sort_unstable();
        for (first, last) in all {
            match self.0.back_mut() {
                Some(back) if back.1 >= first => back.1 = back.1.max(last),
                _ => self.push(first, last),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(all: &[(Index, Index)]) -> Outstanding {
        let mut spans = Outstanding::default();
        all.iter().for_each(|(first, last)| spans.push(*first, *last));
        spans
    }

    #[test]
    fn nothing_counts_from_the_first_on_that_not_all_have() {
        let mut spans = spans(&[(5, 7), (9, 9), (12, 20)]);
        assert_eq!(spans.limit(), 4);
        spans.forget(6);
        assert_eq!(spans.limit(), 4);
        spans.forget(7);
        assert_eq!(spans.limit(), 8);
        spans.forget(19);
        assert_eq!(spans.limit(), 11);
        spans.forget(20);
        assert_eq!(spans.limit(), Index::MAX);
    }

    #[test]
    fn groups_that_become_one_have_those_of_both() {
        let mut both = spans(&[(5, 7), (12, 20)]);
        both.merge(&spans(&[(5, 7), (9, 9), (12, 20), (30, 30)]));
        assert_eq!(both, spans(&[(5, 7), (9, 9), (12, 20), (30, 30)]));
        both.merge(&spans(&[(6, 9)]));
        assert_eq!(both, spans(&[(5, 9), (12, 20), (30, 30)]));
    }

    #[test]
    fn those_behind_the_last_that_is_told_apart_count_with_it() {
        let mut many = Outstanding::default();
        for index in 1..=2 * SPANS_MAX as Index {
            many.push(2 * index, 2 * index);
        }
        assert_eq!(many.0.len(), SPANS_MAX);
        many.forget(4 * SPANS_MAX as Index - 1);
        assert_eq!(many.limit(), 2 * SPANS_MAX as Index - 1);
        many.forget(4 * SPANS_MAX as Index);
        assert_eq!(many.limit(), Index::MAX);
    }
}
