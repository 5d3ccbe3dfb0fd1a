//! Merging: the feeds of all data cores become one sequence.
//!
//! Chunks of one core keep their order. A chunk that names others ([`super::feed::After`]) waits until these are out, and
//! holds up what comes after it on its core. Nothing waits for ever: what a chunk names was recorded before it, so the
//! oldest of all chunks that wait, by the time of recording, never waits for one that is here.
//!
//! How much can wait is bounded by what cores may have under way ([`super::feed::UNTAKEN_BYTES_MAX`]).
//!
//! Owned by the control core.

use std::collections::VecDeque;

use super::feed::{Chunk, Seq};
use crate::route::CoreId;

/// See the module.
#[derive(Debug)]
pub struct Merge {
    waiting: Vec<VecDeque<Chunk>>,
    /// How far the feed of each core is out.
    merged: Vec<Seq>,
    /// Where the search for the next chunk goes on, so that no core is favoured.
    turn: usize,
}

impl Merge {
    pub fn new(cores: usize) -> Merge {
        Merge { waiting: (0..cores).map(|_| VecDeque::new()).collect(), merged: vec![0; cores], turn: 0 }
    }

    pub fn push(&mut self, core: CoreId, chunk: Chunk) {
        self.waiting[core as usize].push_back(chunk);
    }

    /// The next chunk, and whose.
    pub fn pop(&mut self) -> Option<(CoreId, Chunk)> {
        let cores = self.waiting.len();
        for step in 0..cores {
            let core = (self.turn + step) % cores;
            let Some(chunk) = self.waiting[core].front() else { continue };
            let free = chunk.after.iter().all(|after| self.merged[after.core as usize] >= after.seq);
            if free && let Some(chunk) = self.waiting[core].pop_front() {
                self.turn = core;
                self.merged[core] = chunk.last_seq;
                return Some((core as CoreId, chunk));
            }
        }
        None
    }

    /// How far the feed of a core is out.
    pub fn merged(&self, core: CoreId) -> Seq {
        self.merged[core as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::feed::{After, Content};

    fn chunk(last_seq: Seq, after: &[(CoreId, Seq)]) -> Chunk {
        let after = after.iter().map(|&(core, seq)| After { core, seq }).collect();
        Chunk { last_seq, after, content: Content::Units(1), ..Chunk::default() }
    }

    fn order(merge: &mut Merge) -> Vec<(CoreId, Seq)> {
        std::iter::from_fn(|| merge.pop().map(|(core, chunk)| (core, chunk.last_seq))).collect()
    }

    #[test]
    fn a_chunk_waits_for_what_it_names() {
        let mut merge = Merge::new(3);
        merge.push(0, chunk(1, &[(2, 1)]));
        merge.push(0, chunk(2, &[]));
        merge.push(1, chunk(1, &[(0, 2), (2, 1)]));
        assert_eq!(order(&mut merge), []);
        merge.push(2, chunk(1, &[]));
        assert_eq!(order(&mut merge), [(2, 1), (0, 1), (0, 2), (1, 1)]);
        assert_eq!((merge.merged(0), merge.merged(1)), (2, 1));
    }

    /// Random histories of cores that borrow from each other, delivered in random order: everything comes out, each core's
    /// chunks in order and none before what it names.
    #[test]
    fn any_causal_history_comes_out_whole() {
        for seed in 1..200u64 {
            let mut random = seed;
            let mut draw = move |n: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % n
            };
            let mut seqs = [0; 4];
            let mut sent: Vec<VecDeque<Chunk>> = (0..4).map(|_| VecDeque::new()).collect();
            for _ in 0..300 {
                let core = draw(4) as usize;
                let after: Vec<After> = (0..4)
                    .filter(|&other| other != core && draw(3) == 0)
                    .map(|other| After { core: other as CoreId, seq: seqs[other] })
                    .collect();
                seqs[core] += 1;
                sent[core].push_back(Chunk { last_seq: seqs[core], after, ..Chunk::default() });
            }
            let (mut merge, mut out, mut expected) = (Merge::new(4), 0, [0; 4]);
            while out < 300 {
                let core = draw(4) as usize;
                if let Some(chunk) = sent[core].pop_front() {
                    merge.push(core as CoreId, chunk);
                }
                while let Some((core, chunk)) = merge.pop() {
                    assert!(chunk.after.iter().all(|after| expected[after.core as usize] >= after.seq));
                    expected[core as usize] += 1;
                    assert_eq!(chunk.last_seq, expected[core as usize]);
                    out += 1;
                }
            }
        }
    }
}
