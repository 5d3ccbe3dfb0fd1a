//! The sequencer: makes one log of what all cores say, and remembers where each core's part of it lies.
//!
//! Chunks come in, in the order of [`Merge`]; frames go out, with indices. For each core the sequencer keeps *marks*, pairs
//! of an index and the sequence number that this core had reached there: so a watermark of the log becomes one of the core.
//!
//! Invariant: the marks of a core ascend in both numbers.
//!
//! Owned by the control core.

use std::collections::VecDeque;

use super::feed::{Chunk, Content, Seq};
use super::frame::{Frame, HISTORIES_MAX, HistoryEntry, HistoryId, Index, Kind};
use super::merge::Merge;
use crate::route::CoreId;

/// What comes out.
#[derive(Debug)]
pub enum Entry {
    /// The next frame of the log.
    Log(Frame),
    /// A piece of a stream, at this place of the log. `open`: keys stay locked until more pieces are made; `done`: the last
    /// one of this core.
    Cover { run: u64, core: CoreId, frame: Frame, open: bool, done: bool },
    /// This run is worthless; None: whichever goes on.
    Spoiled { run: Option<u64> },
    /// All that this core has written before it was told for the time `stop` that writes end, is in the log.
    Barrier { core: CoreId, stop: u64 },
    /// All that this core has executed under older views of the cluster than this one, is in the log.
    Seen { core: CoreId, view: u64 },
}

/// See the module.
#[derive(Debug)]
pub struct Sequencer {
    merge: Merge,
    histories: Vec<HistoryEntry>,
    /// The index that the next unit gets.
    next: Index,
    marks: Vec<VecDeque<(Index, Seq)>>,
    /// Where the marks of each core begin, and what it had reached there.
    base: Vec<(Index, Seq)>,
    taken_bytes: Vec<u64>,
}

impl Sequencer {
    /// A sequencer for `cores` data cores that goes on after `end`, the last index of `histories`, as the history `id`.
    pub fn new(cores: usize, histories: Vec<HistoryEntry>, end: Index, id: HistoryId) -> Sequencer {
        let mut sequencer = Sequencer {
            merge: Merge::new(cores),
            histories,
            next: end + 1,
            marks: (0..cores).map(|_| VecDeque::new()).collect(),
            base: vec![(0, 0); cores],
            taken_bytes: vec![0; cores],
        };
        sequencer.begin_history(id);
        sequencer
    }

    /// From here on the log is written by another one than before.
    pub fn begin_history(&mut self, id: HistoryId) {
        if self.histories.len() == HISTORIES_MAX {
            self.histories.remove(0);
        }
        self.histories.push(HistoryEntry { id, cut: self.end() });
    }

    /// What was written before is of no use to anybody: writes are missing between it and what comes.
    pub fn forget_histories(&mut self, id: HistoryId) {
        self.histories = vec![HistoryEntry { id, cut: self.end() }];
    }

    /// Goes on after another one's log: as a replica does that has received frames.
    pub fn follow(&mut self, histories: Vec<HistoryEntry>, end: Index) {
        (self.histories, self.next) = (histories, end + 1);
    }

    /// Oldest first; the last one writes.
    pub fn histories(&self) -> &[HistoryEntry] {
        &self.histories
    }

    pub fn history(&self) -> HistoryId {
        self.histories.last().map_or(0, |history| history.id)
    }

    /// The index of the last unit.
    pub fn end(&self) -> Index {
        self.next - 1
    }

    pub fn push(&mut self, core: CoreId, chunk: Chunk) {
        self.merge.push(core, chunk);
    }

    /// The next frame; `wall_ms` is the time.
    pub fn pop(&mut self, wall_ms: i64) -> Option<Entry> {
        loop {
            let (core, chunk) = self.merge.pop()?;
            let Chunk { bytes, crc, content, last_seq, .. } = chunk;
            self.taken_bytes[core as usize] += bytes.len() as u64;
            let history = self.history();
            let (kind, count) = match content {
                Content::Units(count) => (Kind::Log, count),
                Content::Cover { ranges, .. } => (Kind::Cover, ranges),
                Content::Spoiled { run } => {
                    self.mark(core, last_seq);
                    return Some(Entry::Spoiled { run: Some(run) });
                }
                Content::Exchanges => {
                    self.mark(core, last_seq);
                    return Some(Entry::Spoiled { run: None });
                }
                Content::Barrier { stop } => {
                    self.mark(core, last_seq);
                    return Some(Entry::Barrier { core, stop });
                }
                Content::Seen { view } => {
                    self.mark(core, last_seq);
                    return Some(Entry::Seen { core, view });
                }
            };
            let frame = |first| Frame::with_crc(kind, history, first, wall_ms, count, bytes, crc);
            match content {
                Content::Units(0) => self.mark(core, last_seq),
                Content::Units(count) => {
                    let frame = frame(self.next);
                    self.next += count as Index;
                    self.mark(core, last_seq);
                    return Some(Entry::Log(frame));
                }
                Content::Cover { run, open, done, .. } => {
                    self.mark(core, last_seq);
                    return Some(Entry::Cover { run, core, frame: frame(self.next), open, done });
                }
                Content::Spoiled { .. } | Content::Exchanges | Content::Barrier { .. } | Content::Seen { .. } => {
                    unreachable!("returned above")
                }
            }
        }
    }

    fn mark(&mut self, core: CoreId, seq: Seq) {
        self.marks[core as usize].push_back((self.next - 1, seq));
    }

    /// How far the log is with a core's units, up to `index`. Nothing is said of an index that was forgotten.
    pub fn seq_at(&self, core: CoreId, index: Index) -> Seq {
        let (marks, (from, base)) = (&self.marks[core as usize], self.base[core as usize]);
        match marks.partition_point(|&(at, _)| at <= index) {
            0 if index < from => 0,
            0 => base,
            reached => marks[reached - 1].1,
        }
    }

    /// Nobody asks for indices below this any more.
    pub fn forget_marks(&mut self, index: Index) {
        for (marks, base) in self.marks.iter_mut().zip(&mut self.base) {
            while let Some(&(at, seq)) = marks.front()
                && at < index
            {
                *base = (at, seq);
                marks.pop_front();
            }
        }
    }

    /// How much of a core's feed has been merged.
    pub fn merged(&self, core: CoreId) -> Seq {
        self.merge.merged(core)
    }

    /// Bytes of a core's chunks that were taken, in all.
    pub fn taken_bytes(&self, core: CoreId) -> u64 {
        self.taken_bytes[core as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::feed::After;

    fn chunk(count: u32, last_seq: Seq, after: &[(CoreId, Seq)]) -> Chunk {
        let after = after.iter().map(|&(core, seq)| After { core, seq }).collect();
        let bytes = vec![7; count as usize];
        Chunk {
            crc: crc32fast::hash(&bytes),
            bytes,
            content: Content::Units(count),
            last_seq,
            after,
            ..Chunk::default()
        }
    }

    #[test]
    fn indices_go_on_and_marks_say_whose_they_are() {
        let mut log = Sequencer::new(2, vec![HistoryEntry { id: 1, cut: 0 }], 10, 2);
        assert_eq!((log.end(), log.history(), log.histories()[1].cut), (10, 2, 10));
        log.push(0, chunk(3, 3, &[]));
        log.push(1, chunk(2, 2, &[(0, 3)]));
        log.push(0, chunk(0, 4, &[(1, 2)]));
        log.push(0, chunk(1, 5, &[]));
        let mut frames = Vec::new();
        while let Some(Entry::Log(frame)) = log.pop(5) {
            assert_eq!((frame.head.history, frame.head.wall_ms), (2, 5));
            frames.push((frame.head.first, frame.last()));
        }
        assert_eq!(frames, [(11, 13), (14, 15), (16, 16)]);
        let at = |log: &Sequencer, index| [log.seq_at(0, index), log.seq_at(1, index)];
        assert_eq!([at(&log, 10), at(&log, 12), at(&log, 13)], [[0, 0], [0, 0], [3, 0]]);
        assert_eq!([at(&log, 15), at(&log, 16), at(&log, 99)], [[4, 2], [5, 2], [5, 2]]);
        log.forget_marks(15);
        assert_eq!([at(&log, 12), at(&log, 13)], [[0, 0], [3, 0]]);
        log.forget_marks(16);
        assert_eq!(at(&log, 14), [0, 0], "what is forgotten is not taken for more than it was");
        assert_eq!([at(&log, 15), at(&log, 16)], [[4, 2], [5, 2]]);
        assert_eq!((log.taken_bytes(0), log.taken_bytes(1), log.end()), (4, 2, 16));
    }

    #[test]
    fn what_comes_after_a_piece_of_a_stream_does_not_overtake_it() {
        let mut log = Sequencer::new(2, Vec::new(), 0, 1);
        // Core 1 has borrowed a key that core 0 had covered.
        log.push(1, chunk(1, 1, &[(0, 2)]));
        log.push(0, chunk(1, 1, &[]));
        assert!(matches!(log.pop(0), Some(Entry::Log(_))));
        assert!(log.pop(0).is_none());
        let content = Content::Cover { run: 1, ranges: 1, open: false, done: false };
        log.push(0, Chunk { content, last_seq: 2, ..Chunk::default() });
        assert!(matches!(log.pop(0), Some(Entry::Cover { .. })));
        assert!(matches!(log.pop(0), Some(Entry::Log(frame)) if frame.head.first == 2));
        assert_eq!((log.seq_at(0, 1), log.seq_at(1, 2)), (2, 1));
    }

    #[test]
    fn what_was_executed_under_an_older_view_is_in_the_log_first() {
        let mut log = Sequencer::new(2, Vec::new(), 0, 1);
        log.push(0, chunk(2, 2, &[(1, 1)]));
        log.push(0, Chunk { content: Content::Seen { view: 7 }, last_seq: 3, ..Chunk::default() });
        assert!(log.pop(0).is_none());
        log.push(1, chunk(1, 1, &[]));
        assert!(matches!(log.pop(0), Some(Entry::Log(frame)) if frame.last() == 1));
        assert!(matches!(log.pop(0), Some(Entry::Log(frame)) if frame.last() == 3));
        assert!(matches!(log.pop(0), Some(Entry::Seen { core: 0, view: 7 })));
        assert_eq!((log.seq_at(0, 3), log.end()), (3, 3));
    }

    #[test]
    fn histories_are_bounded() {
        let mut log = Sequencer::new(1, Vec::new(), 0, 0);
        (1..1000).for_each(|id| log.begin_history(id));
        assert_eq!((log.histories().len(), log.history()), (HISTORIES_MAX, 999));
        log.forget_histories(5);
        assert_eq!(log.histories(), [HistoryEntry { id: 5, cut: 0 }]);
    }
}
