//! Runs: whole copies of the keyspace, for snapshots and for replicas.
//!
//! In a run every data core goes through all of its keys, and says for one range of them after the other what is in it
//! ([`crate::log::cover`]); these pieces stand in its feed among the writes, so that together they are a copy. One run
//! goes on at a time; all who want a copy when it begins share it, and those who come later wait for the next.
//!
//! A consumer may want some partitions only, of which the node leads what it gives away: a run that is *limited* to them serves that
//! consumer alone. It is about one database, what is led.
//!
//! The pace is that of the slowest taker: a data core makes a piece only when it is granted one ([`PIECES_AHEAD`]), and
//! that happens while all takers have room.
//!
//! Owned by the control core.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::log::frame::{Begin, End, Frame, Index, Kind};
use crate::log::sequencer::Sequencer;
use crate::net::forward::Message;
use crate::route::{CoreId, PartitionSet};
use crate::shard::cover::Budget;

/// Pieces that a core may have under way.
const PIECES_AHEAD: u32 = 4;

/// About what a piece has.
const PIECE_BYTES: u64 = Budget::BYTES as u64;

/// Takes the frames of a stream, without waiting.
pub(super) trait Take {
    fn take(&mut self, frame: &Frame);
    /// About how many bytes of pieces may come.
    fn room_bytes(&self) -> u64;
    /// Gone, for whatever reason.
    fn is_gone(&self) -> bool;
    /// What has been taken is worthless.
    fn spoil(&mut self);
    /// Whether the copy goes to this node's disk, so that the log before it can go.
    fn is_base(&self) -> bool {
        false
    }
    /// The partitions that are wanted; None: all, and what is followed, too.
    fn only(&self) -> Option<Arc<PartitionSet>> {
        None
    }
}

pub(super) type Consumer = Rc<RefCell<dyn Take>>;

/// What the keys are: the same in every run.
#[derive(Clone, Copy, Debug)]
pub struct Keyspace {
    pub partitions: u16,
    pub databases: u16,
    pub seeds: [u64; 4],
}

/// A run that goes on.
struct Run {
    number: u64,
    consumers: Vec<Consumer>,
    only: Option<Arc<PartitionSet>>,
    covers: u64,
    /// Per core: pieces that were granted and have not come; None: it has covered everything.
    granted: Vec<Option<u32>>,
    /// Per core: it holds keys until more pieces are made. A log that is followed must not be applied meanwhile: it could
    /// need one of these, and nothing more is granted while it is applied.
    open: Vec<bool>,
}

/// See the module.
pub(super) struct Runs {
    cores: usize,
    keyspace: Keyspace,
    number: u64,
    run: Option<Run>,
    /// Who takes part in the next ones, in the order in which they have come.
    waiting: VecDeque<Consumer>,
}

impl Runs {
    pub fn new(cores: usize, keyspace: Keyspace) -> Runs {
        Runs { cores, keyspace, number: 0, run: None, waiting: VecDeque::new() }
    }

    pub fn add(&mut self, consumer: Consumer) {
        self.waiting.push_back(consumer);
    }

    /// Nobody takes part, or is going to.
    pub fn is_idle(&self) -> bool {
        self.run.is_none() && self.waiting.is_empty()
    }

    /// Somebody wants a copy, and no run goes on.
    pub fn waits_to_begin(&self) -> bool {
        self.run.is_none() && !self.waiting.is_empty()
    }

    /// A run goes on that would like to have pieces.
    pub fn wants_pieces(&self) -> bool {
        let room = |run: &Run| run.open.contains(&true) || run.room_bytes() > 0;
        self.run.as_ref().is_some_and(|run| run.granted.iter().any(Option::is_some) && (room(run) || run.is_owed()))
    }

    /// Begins a run: all data cores record by now. `next` is the index of the next unit. Those who have gone while they waited
    /// take no part.
    pub fn begin(&mut self, log: &Sequencer, next: Index, wall_ms: i64) {
        self.waiting.retain(|consumer| !consumer.borrow().is_gone());
        let Some(first) = self.waiting.pop_front() else { return };
        let only = first.borrow().only();
        let mut consumers = vec![first];
        if only.is_none() {
            let unlimited = |consumer: &Consumer| consumer.borrow().only().is_none();
            let (sharing, limited) = self.waiting.drain(..).partition::<Vec<_>, _>(unlimited);
            consumers.extend(sharing);
            self.waiting.extend(limited);
        }
        self.number += 1;
        let Keyspace { partitions, databases, seeds } = self.keyspace;
        // Of what is followed nothing is given away.
        let databases = if only.is_some() { 1 } else { databases };
        let begin = Begin { partitions, databases, seeds, histories: log.histories().to_vec() };
        let frame = Frame::of(Kind::Begin, log.history(), next, wall_ms, &begin);
        consumers.iter().for_each(|consumer| consumer.borrow_mut().take(&frame));
        let granted = vec![Some(0); self.cores];
        let open = vec![false; self.cores];
        self.run = Some(Run { number: self.number, consumers, only, covers: 0, granted, open });
    }

    /// A frame of the log: part of every copy that is under way.
    pub fn push_log(&mut self, frame: &Frame) {
        if let Some(run) = &mut self.run {
            run.push(frame);
        }
    }

    /// A piece of a run; the last one of all ends it. Returns whether a copy is whole that goes to disk.
    pub fn push_cover(&mut self, number: u64, core: CoreId, frame: &Frame, open: bool, done: bool) -> bool {
        let Some(run) = self.run.as_mut().filter(|run| run.number == number) else { return false };
        run.covers += 1;
        run.push(frame);
        run.open[core as usize] = open;
        let granted = &mut run.granted[core as usize];
        *granted = if done { None } else { granted.map(|count| count.saturating_sub(1)) };
        if run.granted.iter().all(Option::is_none) {
            let (history, next, wall_ms) = (frame.head.history, frame.head.first, frame.head.wall_ms);
            let end = Frame::of(Kind::End, history, next, wall_ms, &End { covers: run.covers });
            run.push(&end);
            let mut consumers = run.consumers.iter().map(|consumer| consumer.borrow());
            let base = consumers.any(|consumer| consumer.is_base() && !consumer.is_gone());
            drop(consumers);
            self.run = None;
            return base;
        }
        false
    }

    /// Lets data cores make pieces, if all takers have room. A run that nobody takes any more ends.
    pub fn grant(&mut self) -> Vec<(CoreId, Message)> {
        let mut out = Vec::new();
        let Some(run) = &mut self.run else { return out };
        run.consumers.retain(|consumer| !consumer.borrow().is_gone());
        if run.consumers.is_empty() {
            self.run = None;
            return self.end_covering();
        }
        let ahead: u32 = run.granted.iter().flatten().sum();
        let mut room = u32::try_from(run.room_bytes().div_ceil(PIECE_BYTES)).unwrap_or(u32::MAX).saturating_sub(ahead);
        for (core, granted) in run.granted.iter_mut().enumerate() {
            let Some(count) = granted.as_mut().filter(|count| **count <= PIECES_AHEAD / 2) else { continue };
            // A core in the middle of a large collection holds its key: it goes on to the end of that in any case.
            let pieces = if run.open[core] { PIECES_AHEAD - *count } else { room.min(PIECES_AHEAD - *count) };
            if pieces > 0 {
                room = room.saturating_sub(pieces);
                *count += pieces;
                out.push((core as CoreId, Message::Cover { run: run.number, pieces, only: run.only.clone() }));
            }
        }
        out
    }

    /// All data is replaced: what the run that goes on has taken is worthless. Data cores let go of what they hold for it.
    pub fn spoil_all(&mut self) -> Vec<(CoreId, Message)> {
        self.run.as_ref().map(|run| run.number).map_or(Vec::new(), |number| self.spoil(number))
    }

    fn end_covering(&self) -> Vec<(CoreId, Message)> {
        (0..self.cores as CoreId).map(|core| (core, Message::Cover { run: 0, pieces: 0, only: None })).collect()
    }

    /// Something has happened in this run that a stream cannot say. It ends, on the other data cores, too.
    pub fn spoil(&mut self, number: u64) -> Vec<(CoreId, Message)> {
        let Some(run) = self.run.take_if(|run| run.number == number) else { return Vec::new() };
        run.consumers.iter().for_each(|consumer| consumer.borrow_mut().spoil());
        self.end_covering()
    }
}

impl Run {
    fn room_bytes(&self) -> u64 {
        self.consumers.iter().map(|consumer| consumer.borrow().room_bytes()).min().unwrap_or(0)
    }

    fn is_owed(&self) -> bool {
        self.granted.iter().flatten().any(|&count| count > 0)
    }

    fn push(&mut self, frame: &Frame) {
        for consumer in &self.consumers {
            consumer.borrow_mut().take(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::frame::read_begin;

    /// Keeps what it is given.
    struct Taker {
        only: Option<Arc<PartitionSet>>,
        frames: Vec<Frame>,
        room_bytes: u64,
        gone: bool,
        spoiled: bool,
    }

    impl Take for Taker {
        fn take(&mut self, frame: &Frame) {
            self.frames.push(frame.clone());
        }

        fn room_bytes(&self) -> u64 {
            self.room_bytes
        }

        fn is_gone(&self) -> bool {
            self.gone
        }

        fn spoil(&mut self) {
            self.spoiled = true;
        }

        fn only(&self) -> Option<Arc<PartitionSet>> {
            self.only.clone()
        }
    }

    struct Bench {
        runs: Runs,
        log: Sequencer,
    }

    impl Bench {
        fn new() -> Bench {
            let keyspace = Keyspace { partitions: 8, databases: 2, seeds: [1; 4] };
            Bench { runs: Runs::new(2, keyspace), log: Sequencer::new(2, Vec::new(), 0, 1) }
        }

        fn add(&mut self, only: Option<&[u16]>) -> Rc<RefCell<Taker>> {
            let only = only.map(|only| Arc::new(only.iter().copied().collect()));
            let taker = Taker { only, frames: Vec::new(), room_bytes: u64::MAX, gone: false, spoiled: false };
            let taker = Rc::new(RefCell::new(taker));
            self.runs.add(taker.clone());
            taker
        }

        /// Begins a run; its number, its partitions, and that both cores have covered them.
        fn run(&mut self) -> Option<Vec<u16>> {
            self.runs.begin(&self.log, 1, 0);
            let granted = self.runs.grant();
            let mut partitions = None;
            for (core, message) in granted {
                let Message::Cover { run, pieces, only } = message else { panic!("no cover") };
                assert!(run > 0 && pieces > 0);
                partitions = only.map(|only| only.iter().collect());
                let piece = Frame::new(Kind::Cover, self.log.history(), 1, 0, 0, Vec::new());
                self.runs.push_cover(run, core, &piece, false, true);
            }
            partitions
        }
    }

    fn kinds(taker: &Rc<RefCell<Taker>>) -> Vec<Kind> {
        taker.borrow().frames.iter().map(|frame| frame.head.kind).collect()
    }

    const WHOLE: [Kind; 4] = [Kind::Begin, Kind::Cover, Kind::Cover, Kind::End];

    #[test]
    fn a_limited_run_serves_one_and_the_others_wait() {
        let mut bench = Bench::new();
        let takers = [None, Some(&[1, 5][..]), None, Some(&[1, 5]), Some(&[2])].map(|only| bench.add(only));
        let gone = bench.add(Some(&[3]));
        gone.borrow_mut().gone = true;
        let mut served = Vec::new();
        while bench.runs.waits_to_begin() {
            let before: Vec<usize> = takers.iter().map(|taker| taker.borrow().frames.len()).collect();
            let only = bench.run();
            let grown = |at: &usize| takers[*at].borrow().frames.len() > before[*at];
            served.push(((0..takers.len()).filter(grown).collect::<Vec<_>>(), only));
        }
        let expected =
            [(vec![0, 2], None), (vec![1], Some(vec![1, 5])), (vec![3], Some(vec![1, 5])), (vec![4], Some(vec![2]))];
        assert_eq!(served, expected);
        assert!(takers.iter().all(|taker| kinds(taker) == WHOLE) && gone.borrow().frames.is_empty());
        let databases =
            takers.each_ref().map(|taker| read_begin(taker.borrow().frames[0].payload()).unwrap().databases);
        assert_eq!(databases, [2, 1, 2, 1, 1], "of what is followed nothing is given away");
        assert!(bench.runs.is_idle());
    }

    #[test]
    fn a_run_that_has_become_worthless_is_nothing_to_those_who_wait() {
        let mut bench = Bench::new();
        let (first, second) = (bench.add(Some(&[1])), bench.add(Some(&[2])));
        bench.runs.begin(&bench.log, 1, 0);
        assert_eq!(bench.runs.grant().len(), 2);
        assert_eq!(bench.runs.spoil(1).len(), 2);
        assert!(first.borrow().spoiled && !second.borrow().spoiled);
        assert_eq!(bench.run(), Some(vec![2]));
        assert_eq!(kinds(&second), WHOLE);
    }
    #[test]
    fn no_more_pieces_are_granted_than_there_is_room_for() {
        let mut bench = Bench::new();
        let taker = bench.add(Some(&[1]));
        let granted = |bench: &mut Bench, room_bytes| -> Vec<(CoreId, u32)> {
            taker.borrow_mut().room_bytes = room_bytes;
            let pieces = |(core, message)| match message {
                Message::Cover { pieces, .. } => (core, pieces),
                _ => panic!("no cover"),
            };
            bench.runs.grant().into_iter().map(pieces).collect()
        };
        bench.runs.begin(&bench.log, 1, 0);
        assert_eq!(granted(&mut bench, 0), []);
        assert_eq!(granted(&mut bench, 2 * PIECE_BYTES), [(0, 2)]);
        assert_eq!(granted(&mut bench, 2 * PIECE_BYTES), []);
        assert_eq!(granted(&mut bench, 5 * PIECE_BYTES), [(0, 2), (1, 1)]);
        let piece = |bench: &mut Bench, open| {
            let frame = Frame::new(Kind::Cover, bench.log.history(), 1, 0, 0, Vec::new());
            bench.runs.push_cover(1, 1, &frame, open, false);
        };
        piece(&mut bench, false);
        assert_eq!(granted(&mut bench, 0), []);
        // It holds a key until it is through with that.
        piece(&mut bench, true);
        assert_eq!(granted(&mut bench, 0), [(1, PIECES_AHEAD)]);
    }
}
