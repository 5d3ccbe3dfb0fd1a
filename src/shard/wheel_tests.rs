//! The wheel and its naive twin, a map of deadlines: random steps over clocks that run, jump and are set back.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::shard::entry::Meta;
use crate::shard::{Clock, Deadline, Kind, NewValue};

const START_MS: UnixMs = 1_700_000_000_000;

struct Pair {
    entries: Entries,
    wheel: Wheel,
    deadlines: BTreeMap<u32, UnixMs>,
    now_ms: UnixMs,
}

/// A wheel does not ask which clock its deadlines are on. No clock says less than 0.
fn deadline(ms: UnixMs) -> Deadline {
    Deadline::new([Clock::Wall, Clock::Steady][ms as usize % 2], ms)
}

fn meta(expire_at: Option<UnixMs>) -> Meta {
    Meta { kind: Kind::String, raw: false, boxed: false, expire_at: expire_at.map(deadline), usage: 0 }
}

impl Pair {
    fn new() -> Pair {
        let entries = Entries::new(1 << 26).unwrap();
        Pair { entries, wheel: Wheel::new(), deadlines: BTreeMap::new(), now_ms: START_MS }
    }

    fn insert(&mut self, at: UnixMs) -> Handle {
        let at = at.max(0);
        let handle = self.entries.create(b"key", NewValue::Bytes(b"value"), meta(Some(at))).unwrap();
        self.wheel.insert(&mut self.entries, handle, self.now_ms);
        self.deadlines.insert(handle.0, at);
        handle
    }

    fn pick(&self, index: usize) -> Option<Handle> {
        self.deadlines.keys().nth(index % self.deadlines.len().max(1)).map(|&handle| Handle(handle))
    }

    fn remove(&mut self, handle: Handle) {
        self.wheel.remove(&mut self.entries, handle);
        self.entries.free(handle);
        self.deadlines.remove(&handle.0);
    }

    fn re_arm(&mut self, handle: Handle, at: UnixMs) {
        let at = at.max(0);
        self.wheel.remove(&mut self.entries, handle);
        let same = self.entries.set_expire_at(handle, b"key", Some(deadline(at))).unwrap();
        assert_eq!(same, handle);
        self.wheel.insert(&mut self.entries, handle, self.now_ms);
        self.deadlines.insert(handle.0, at);
    }

    /// Gives an entry a value of another length, by which it moves.
    fn move_entry(&mut self, handle: Handle, bytes: usize) {
        let at = self.deadlines.remove(&handle.0).unwrap();
        let value = vec![b'v'; bytes];
        let moved = self.entries.replace(handle, b"key", NewValue::Bytes(&value), meta(Some(at))).unwrap();
        if moved != handle {
            self.wheel.moved(&mut self.entries, moved);
        }
        self.deadlines.insert(moved.0, at);
    }

    /// Lets the wheel look at no more than `budget` entries; returns how many were due.
    fn advance(&mut self, budget: usize) -> usize {
        let (mut left, mut due) = (budget, 0);
        while let Some(handle) = self.wheel.due(&mut self.entries, self.now_ms, &mut left) {
            assert!(self.deadlines[&handle.0] <= self.now_ms, "an entry was due too early");
            self.remove(handle);
            due += 1;
        }
        if left > 0 {
            let behind = tick(self.now_ms).saturating_sub(REWIND_MS);
            let waits =
                (behind..self.wheel.elapsed).contains(&tick(self.now_ms)) || tick(self.now_ms) < self.wheel.elapsed;
            let late = self.deadlines.values().filter(|&&at| at <= self.now_ms).count();
            assert!(late == 0 || waits, "{late} entries were forgotten");
        }
        due
    }

    fn check(&self) {
        let mut all: Vec<u32> = self.wheel.validate(&self.entries).into_iter().map(|handle| handle.0).collect();
        all.sort();
        assert!(all.iter().eq(self.deadlines.keys()));
        let next = self.deadlines.values().map(|&at| tick(at).max(self.wheel.elapsed)).min();
        match (self.wheel.next(self.now_ms), next) {
            (None, None) => {}
            (Some(ours), Some(theirs)) => assert!(tick(ours) <= theirs, "the wheel would sleep past a deadline"),
            other => panic!("{other:?}"),
        }
    }
}

/// A span of time: mostly short, sometimes as long as can be.
fn span() -> impl Strategy<Value = i64> {
    prop_oneof![0..300_i64, 0..70_000_i64, 0..20_000_000_i64, 0..1_i64 << 45, Just(i64::MAX)]
}

#[derive(Clone, Debug)]
enum Step {
    Insert(i64),
    Past(i64),
    ReArm(usize, i64),
    Move(usize, usize),
    Remove(usize),
    Forwards(i64, usize),
    Backwards(i64, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let budget = || prop_oneof![0..4_usize, Just(usize::MAX)];
    prop_oneof![
        6 => span().prop_map(Step::Insert),
        1 => span().prop_map(Step::Past),
        2 => (any::<usize>(), span()).prop_map(|(index, span)| Step::ReArm(index, span)),
        2 => (any::<usize>(), 0..300_usize).prop_map(|(index, bytes)| Step::Move(index, bytes)),
        2 => any::<usize>().prop_map(Step::Remove),
        4 => (span(), budget()).prop_map(|(span, budget)| Step::Forwards(span, budget)),
        1 => (span(), budget()).prop_map(|(span, budget)| Step::Backwards(span, budget)),
        1 => (0..200_i64, budget()).prop_map(|(span, budget)| Step::Backwards(span, budget)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_steps_agree_with_a_map_of_deadlines(steps in prop::collection::vec(step(), 1..200)) {
        let mut pair = Pair::new();
        for step in steps {
            match step {
                Step::Insert(span) => _ = pair.insert(pair.now_ms.saturating_add(span)),
                Step::Past(span) => _ = pair.insert(pair.now_ms.saturating_sub(span)),
                Step::ReArm(index, span) => if let Some(handle) = pair.pick(index) {
                    pair.re_arm(handle, pair.now_ms.saturating_add(span));
                },
                Step::Move(index, bytes) => if let Some(handle) = pair.pick(index) {
                    pair.move_entry(handle, bytes);
                },
                Step::Remove(index) => if let Some(handle) = pair.pick(index) {
                    pair.remove(handle);
                },
                Step::Forwards(span, budget) => {
                    pair.now_ms = pair.now_ms.saturating_add(span);
                    pair.advance(budget);
                }
                Step::Backwards(span, budget) => {
                    pair.now_ms = pair.now_ms.saturating_sub(span).max(0);
                    pair.advance(budget);
                }
            }
            pair.check();
        }
        pair.now_ms = UnixMs::MAX;
        pair.advance(usize::MAX);
        prop_assert!(pair.deadlines.is_empty());
    }
}

#[test]
fn each_entry_is_due_in_the_very_millisecond() {
    let mut pair = Pair::new();
    let spans = [0, 1, 2, 255, 256, 257, 65_535, 65_536, 65_537, 70_000, 131_072, 200_000];
    spans.iter().for_each(|span| _ = pair.insert(START_MS + span));
    for passed in 0..=200_000 {
        pair.now_ms = START_MS + passed;
        assert_eq!(pair.advance(usize::MAX), spans.contains(&passed) as usize, "after {passed} ms");
    }
}

#[test]
fn an_idle_wheel_names_the_moment_when_it_has_work() {
    let mut pair = Pair::new();
    assert_eq!(pair.wheel.next(pair.now_ms), None);
    let far = START_MS + 365 * 24 * 3600 * 1000;
    pair.insert(far);
    let mut wakes = 0;
    while let Some(next) = pair.wheel.next(pair.now_ms) {
        assert!(next <= far);
        pair.now_ms = next;
        pair.advance(usize::MAX);
        wakes += 1;
    }
    assert_eq!(pair.now_ms, far);
    assert!(wakes <= LEVELS, "{wakes} wakes in a year");
}

#[test]
fn work_is_done_in_pieces() {
    let mut pair = Pair::new();
    (0..1_000).for_each(|_| _ = pair.insert(START_MS + 100_000));
    pair.now_ms += 100_000;
    let mut turns = 0;
    while !pair.deadlines.is_empty() {
        pair.advance(10);
        pair.check();
        turns += 1;
    }
    // Each entry came down from level 2 to its own millisecond, and then it was due.
    assert!((200..=300).contains(&turns), "{turns} turns");
}

#[test]
fn a_clock_that_was_set_back_does_not_keep_short_expiries_waiting() {
    let mut pair = Pair::new();
    let early = pair.insert(START_MS + 5_000);
    pair.insert(START_MS + 3_600_000);
    pair.now_ms += 4_000;
    pair.advance(usize::MAX);
    pair.now_ms = START_MS - 86_400_000;
    let short = pair.insert(pair.now_ms + 50);
    pair.now_ms += 50;
    assert_eq!(pair.advance(usize::MAX), 1);
    assert!(!pair.deadlines.contains_key(&short.0));
    assert!(pair.deadlines.contains_key(&early.0));
    pair.check();
    // By a little: waits until the clock has caught up.
    pair.now_ms -= REWIND_MS as i64 - 1;
    let late = pair.insert(pair.now_ms + 1);
    pair.now_ms += 1;
    assert_eq!(pair.advance(usize::MAX), 0);
    pair.now_ms += REWIND_MS as i64;
    assert_eq!(pair.advance(usize::MAX), 1);
    assert!(!pair.deadlines.contains_key(&late.0));
}
