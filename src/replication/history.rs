//! Who wrote the log from which index on, and up to where two logs are the same.
//!
//! Indices alone do not tell whether two logs agree: two nodes that were both promoted at index 100 both write a record
//! 101, and these have nothing in common. So each stretch of a log that one node wrote has a name, a random 128-bit
//! *history* id, and a log is described by the chain of its histories:
//!
//! ```text
//!     history   parent   cut        records
//!     A         -        0          1..=100       the first primary
//!     B         A        100        101..=180     promoted when it held A up to 100
//!     C         B        180        181..         promoted when it held B up to 180
//! ```
//!
//! The *cut* of a history is the last index of its parent that belongs to this log. An id is drawn once, by the node that
//! starts the history, and its parent and cut never change afterwards. So if two chains have an id in common, the logs are
//! equal up to the start of that history, and within it as far as both go: the last id in common decides. Kafka finds the
//! same point with a table from leader epochs to first offsets (KIP-101); random ids take the place of its epochs, because
//! outside a cluster nobody numbers promotions. Redis keeps the last two of such ids (`master_replid2` and
//! `second_repl_offset`); here it is a chain, so that a node that missed several promotions need not copy everything.
//!
//! Pure data. Owned by the control core, kept on disk with the log.
//!
//! Invariants of a [`Chain`], also of one from the network: it is not empty and has at most [`CHAIN_LEN_MAX`] entries; ids are
//! not 0 and differ; the parent of each but the first is the one before; cuts do not fall.

use thiserror::Error;

/// Histories in a chain. Older ones are forgotten: who has nothing newer needs a full sync.
pub const CHAIN_LEN_MAX: usize = 64;

/// The name of a history: random, not 0.
pub type HistoryId = u128;

/// One history of a log: see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct History {
    pub id: HistoryId,
    /// The history that it goes on from; 0 for the first of a data set.
    pub parent: HistoryId,
    /// The last index of the parent that belongs to this log. The first record of this history has the next one.
    pub cut: u64,
}

/// Why a chain is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    #[error("a chain of histories is empty")]
    Empty,
    #[error("a chain has more than {CHAIN_LEN_MAX} histories")]
    TooLong,
    #[error("a history has the id 0")]
    NoId,
    #[error("a history occurs twice in a chain")]
    Duplicate,
    #[error("a history does not name the one before it as its parent")]
    WrongParent,
    #[error("the cut of a history lies before that of its parent")]
    FallingCut,
}

/// The histories of one log, oldest first. See the module for its invariants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    histories: Vec<History>,
}

impl Chain {
    /// The chain of a new data set, whose log starts behind index `end` (0 if it is empty).
    pub fn root(id: HistoryId, end: u64) -> Chain {
        assert_ne!(id, 0, "a history id is drawn, and not 0");
        Chain { histories: vec![History { id, parent: 0, cut: end }] }
    }

    /// A chain from the network or from a file.
    pub fn checked(histories: Vec<History>) -> Result<Chain, ChainError> {
        let first = histories.first().ok_or(ChainError::Empty)?;
        if histories.len() > CHAIN_LEN_MAX {
            return Err(ChainError::TooLong);
        }
        for (at, history) in histories.iter().enumerate() {
            if history.id == 0 {
                return Err(ChainError::NoId);
            }
            if history.id == first.parent || histories[..at].iter().any(|h| h.id == history.id) {
                return Err(ChainError::Duplicate);
            }
        }
        for pair in histories.windows(2) {
            if pair[1].parent != pair[0].id {
                return Err(ChainError::WrongParent);
            }
            if pair[1].cut < pair[0].cut {
                return Err(ChainError::FallingCut);
            }
        }
        Ok(Chain { histories })
    }

    /// The histories, oldest first; never empty.
    pub fn histories(&self) -> &[History] {
        &self.histories
    }

    /// The youngest history.
    pub fn last(&self) -> History {
        *self.histories.last().expect("a chain is not empty")
    }

    /// The last index that lies before everything that the chain tells about.
    pub fn start(&self) -> u64 {
        self.histories[0].cut
    }

    /// The history to which the record `index` of this log belongs, if the chain goes back so far.
    pub fn at(&self, index: u64) -> Option<HistoryId> {
        self.histories.iter().rev().find(|h| h.cut < index).map(|h| h.id)
    }

    pub fn contains(&self, id: HistoryId) -> bool {
        self.histories.iter().any(|h| h.id == id)
    }

    /// The chain of this log without what comes after index `end`.
    pub fn upto(&self, end: u64) -> Chain {
        let len = self.histories.iter().take_while(|h| h.cut <= end).count().max(1);
        Chain { histories: self.histories[..len].to_vec() }
    }

    /// Starts a history: the log goes on behind `end`, the last index held, and whoever wrote it before writes another one.
    /// `id` is random.
    pub fn promote(&self, id: HistoryId, end: u64) -> Chain {
        assert!(id != 0 && !self.contains(id), "a history id is drawn, and never used again");
        let mut chain = self.upto(end);
        let parent = chain.last();
        assert!(parent.cut <= end, "a log ends behind the start of its first history");
        chain.histories.push(History { id, parent: parent.id, cut: end });
        let surplus = chain.histories.len().saturating_sub(CHAIN_LEN_MAX);
        chain.histories.drain(..surplus);
        chain
    }

    /// Up to which index this log, which ends at `end`, and another one are the same. None if nothing tells: no history in
    /// common, or chains that contradict each other.
    pub fn common(&self, end: u64, other: &Chain, other_end: u64) -> Option<u64> {
        let (ours, theirs) = (self.upto(end), other.upto(other_end));
        let (our_at, their_at) = ours.histories.iter().enumerate().rev().find_map(|(at, history)| {
            theirs.histories.iter().position(|h| h.id == history.id).map(|their_at| (at, their_at))
        })?;
        if ours.histories[our_at] != theirs.histories[their_at] {
            return None;
        }
        let extent = |chain: &Chain, at: usize, end: u64| chain.histories.get(at + 1).map_or(end, |h| h.cut.min(end));
        let common = extent(&ours, our_at, end).min(extent(&theirs, their_at, other_end));
        // A log that ends before the history that would be in common starts holds none of it.
        (common >= ours.histories[our_at].cut).then_some(common)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(histories: &[(HistoryId, HistoryId, u64)]) -> Chain {
        Chain::checked(histories.iter().map(|&(id, parent, cut)| History { id, parent, cut }).collect()).unwrap()
    }

    #[test]
    fn logs_agree_up_to_the_end_of_the_last_history_in_common() {
        let old = chain(&[(1, 0, 0)]);
        let new = old.promote(2, 100);
        // The old primary went on to 120 while the other was promoted at 100.
        assert_eq!(new.common(150, &old, 120), Some(100));
        assert_eq!(old.common(120, &new, 150), Some(100));
        // A replica that is behind the cut.
        assert_eq!(new.common(150, &old, 80), Some(80));
        // The same history: the shorter log decides.
        assert_eq!(new.common(150, &new, 130), Some(130));
        // Two promotions of the same log at the same index are not alike.
        let twin = old.promote(3, 100);
        assert_eq!(new.common(101, &twin, 101), Some(100));
        // Another data set.
        assert_eq!(new.common(150, &chain(&[(9, 0, 0)]), 150), None);
        // The same id with another past is a lie.
        assert_eq!(new.common(150, &chain(&[(1, 0, 0), (2, 1, 90)]), 150), None);
    }

    #[test]
    fn a_chain_is_cut_with_its_log() {
        let all = chain(&[(1, 0, 0), (2, 1, 10), (3, 2, 20)]);
        assert_eq!(all.upto(15), chain(&[(1, 0, 0), (2, 1, 10)]));
        assert_eq!(all.upto(20), all);
        assert_eq!((all.at(10), all.at(11), all.at(21), all.at(0)), (Some(1), Some(2), Some(3), None));
        // Promoted behind 15: what was learnt of history 3 does not belong to this log.
        assert_eq!(all.promote(4, 15), chain(&[(1, 0, 0), (2, 1, 10), (4, 2, 15)]));
    }

    #[test]
    fn old_histories_are_forgotten() {
        let mut all = Chain::root(1, 0);
        for id in 2..200 {
            all = all.promote(id, id as u64 * 10);
        }
        assert_eq!(all.histories().len(), CHAIN_LEN_MAX);
        assert_eq!(Chain::checked(all.histories().to_vec()), Ok(all.clone()));
        assert_eq!(all.common(5000, &Chain::root(1, 0), 100), None);
        assert_eq!(all.common(5000, &all.upto(1800), 1800), Some(1800));
    }

    #[test]
    fn what_is_no_chain_is_refused() {
        let checked = |list: &[(u128, u128, u64)]| {
            Chain::checked(list.iter().map(|&(id, parent, cut)| History { id, parent, cut }).collect()).unwrap_err()
        };
        assert_eq!(checked(&[]), ChainError::Empty);
        assert_eq!(checked(&[(0, 0, 0)]), ChainError::NoId);
        assert_eq!(checked(&[(1, 1, 0)]), ChainError::Duplicate);
        assert_eq!(checked(&[(1, 0, 0), (1, 1, 5)]), ChainError::Duplicate);
        assert_eq!(checked(&[(1, 0, 0), (2, 3, 5)]), ChainError::WrongParent);
        assert_eq!(checked(&[(1, 0, 5), (2, 1, 4)]), ChainError::FallingCut);
        let long: Vec<_> = (1..=CHAIN_LEN_MAX as u128 + 1).map(|id| (id, id - 1, 0)).collect();
        assert_eq!(checked(&long), ChainError::TooLong);
    }

    /// Logs as lists of what is in them, against chains: any tree of promotions.
    #[test]
    fn common_is_the_length_of_the_common_prefix() {
        let mut state = 7u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..300 {
            let mut logs: Vec<(Chain, Vec<u128>)> = vec![(Chain::root(1, 0), Vec::new())];
            for id in 2..12u128 {
                let from = random(logs.len() as u64) as usize;
                let (chain, records) = logs[from].clone();
                let end = random(records.len() as u64 + 1) as usize;
                let mut records = records[..end].to_vec();
                let chain = chain.promote(id, end as u64);
                records.extend(std::iter::repeat_n(id, random(6) as usize));
                logs.push((chain, records));
            }
            for (a, x) in &logs {
                for (b, y) in &logs {
                    let prefix = x.iter().zip(y).take_while(|(p, q)| p == q).count() as u64;
                    assert_eq!(a.common(x.len() as u64, b, y.len() as u64), Some(prefix));
                }
            }
        }
    }
}
