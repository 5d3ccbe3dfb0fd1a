//! Replay: every data core reads the files itself and executes what is its own.
//!
//! A snapshot is a stream: the log from its start to its end, and in between the entries, range by range, as they are at
//! that place. A statement of the log in it counts only if its key has been covered before it; what is covered later
//! contains it. Ranges are those of the partitions and of the hash of the node that wrote the file; which core a statement
//! belongs to is decided by its slot alone, so the number of cores and of partitions may be another one now.
//!
//! A statement names one key, its first argument, or none, and then concerns everything. One concerns the whole partition of its
//! key, and counts wherever it stands ([`statement::is_about_more`]).
//!
//! Blocking; used by a data core's thread before anything is served.

use std::fmt::Display;
use std::path::Path;

use super::cover::{Covered, Range};
use super::frame::{Begin, Head, Index, Kind};
use super::reader::{Disorder, FrameReader, Located, ReadError, Why, covers};
use super::recover::{Plan, RecoverError, SegmentFile, SegmentReader, SnapshotFile, SnapshotStream, segment_error};
use crate::route::{Hasher, SLOTS};
use crate::shard::statement::{self, Encoded, Malformed};

/// The progress is told after this many bytes.
const PROGRESS_BYTES: u64 = 1 << 20;

/// What was replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Statements that were executed.
    pub statements: u64,
    /// Bytes of all files that were read.
    pub bytes: u64,
}

/// Reads everything of the plan, in the order of the stream, and calls `visit` with each statement (its database, its
/// arguments) that has keys in slots for which `owns` holds, or no keys. `progress` hears of bytes done, and of all.
pub fn replay<E: Display>(
    plan: &Plan,
    owns: impl Fn(u16) -> bool,
    visit: impl FnMut(u8, &[&[u8]]) -> Result<(), E>,
    progress: impl FnMut(u64, u64),
) -> Result<Counts, RecoverError> {
    let owned = (0..SLOTS).map(owns).collect();
    let told = 0;
    let mut replay = Replay { owned, visit, progress, counts: Counts::default(), told, all: plan.bytes() };
    let mut from = 0;
    if let Some(snapshot) = &plan.snapshot {
        replay.snapshot(snapshot)?;
        from = snapshot.end;
    }
    for segment in plan.replayed() {
        replay.segment(segment, from)?;
    }
    (replay.progress)(replay.all, replay.all);
    Ok(replay.counts)
}

struct Replay<V, P> {
    owned: Vec<bool>,
    visit: V,
    progress: P,
    counts: Counts,
    told: u64,
    all: u64,
}

/// Why a frame cannot be replayed.
enum Stop {
    Damage(Why),
    Refused { index: Index, why: String },
}

impl From<Malformed> for Stop {
    fn from(error: Malformed) -> Stop {
        Stop::Damage(error.into())
    }
}

impl From<Disorder> for Stop {
    fn from(disorder: Disorder) -> Stop {
        Stop::Damage(Why::Order(disorder))
    }
}

impl Stop {
    fn at(self, path: &Path, offset: u64) -> RecoverError {
        let path = path.to_path_buf();
        match self {
            Stop::Damage(why) => RecoverError::Replay(ReadError { path, offset, why }),
            Stop::Refused { index, why } => RecoverError::Statement { path, offset, index, why },
        }
    }
}

/// How far a snapshot's partitions are covered.
pub struct Coverage {
    hasher: Hasher,
    databases: u16,
    covered: Vec<Covered>,
    /// Something is covered.
    begun: bool,
}

impl Coverage {
    pub fn new(begin: &Begin) -> Coverage {
        Coverage {
            hasher: Hasher::new(begin.partitions, begin.seeds),
            databases: begin.databases,
            covered: vec![Covered::default(); begin.partitions as usize],
            begun: false,
        }
    }

    /// The slots of a partition.
    pub fn slots(&self, partition: u16) -> std::ops::Range<usize> {
        let slots = (SLOTS / self.hasher.partitions()) as usize;
        let first = partition as usize * slots;
        first..first + slots
    }

    pub fn check(&self, range: &Range) -> Result<(), Disorder> {
        let exists = range.partition < self.hasher.partitions() && (range.db as u16) < self.databases;
        if exists { Ok(()) } else { Err(Disorder::Range) }
    }

    /// Notes a range that exists.
    pub fn note(&mut self, range: &Range) -> Result<(), Malformed> {
        self.begun = true;
        self.covered[range.partition as usize].note(range)
    }

    /// Whether a statement may stand here that is about no key. Once something is covered, an exchange of databases would mix
    /// that with what is not; before, it is nothing to the copy, as all that comes has seen it.
    pub fn check_keyless(&self, args: &[&[u8]]) -> Result<(), Disorder> {
        if self.begun && statement::exchanges(args) { Err(Disorder::Swapped) } else { Ok(()) }
    }

    pub fn is_complete(&self, partition: u16) -> bool {
        self.covered[partition as usize].has((self.databases - 1) as u8, u32::MAX)
    }

    /// Whether a key has been covered.
    pub fn has(&self, db: u8, key: &[u8]) -> bool {
        let key = self.hasher.key(key);
        self.covered[key.partition as usize].has(db, (key.hash >> 32) as u32)
    }
}

/// Calls `visit` with each unit of a frame and its index, and checks that there are as many as it says.
pub(super) fn each_unit<S: From<Malformed> + From<Disorder>>(
    head: &Head,
    mut payload: &[u8],
    mut visit: impl FnMut(Index, &[u8]) -> Result<(), S>,
) -> Result<(), S> {
    let mut index = head.first;
    while let Some(unit) = statement::next_unit(&mut payload)? {
        if index > head.last() {
            return Err(Disorder::Count.into());
        }
        visit(index, unit)?;
        index += 1;
    }
    if index != head.last() + 1 { Err(Disorder::Count.into()) } else { Ok(()) }
}

impl<V, P, E> Replay<V, P>
where
    V: FnMut(u8, &[&[u8]]) -> Result<(), E>,
    P: FnMut(u64, u64),
    E: Display,
{
    fn snapshot(&mut self, snapshot: &SnapshotFile) -> Result<(), RecoverError> {
        let mut reader = FrameReader::open(&snapshot.path).map_err(RecoverError::Replay)?;
        let mut stream = SnapshotStream::open(&mut reader).map_err(RecoverError::Replay)?;
        let mut coverage = Coverage::new(&stream.begin);
        self.advance(reader.offset());
        while let Some(frame) = reader.next_frame().map_err(RecoverError::Replay)? {
            let (offset, end) = (frame.offset, frame.end());
            let replayed = match frame.head.kind {
                Kind::End => self.complete(&coverage),
                _ => self.stream_frame(&mut stream, &mut coverage, &frame),
            };
            replayed.map_err(|stop| stop.at(&snapshot.path, offset))?;
            self.advance(end - offset);
        }
        Ok(())
    }

    fn stream_frame(
        &mut self,
        stream: &mut SnapshotStream,
        coverage: &mut Coverage,
        frame: &Located,
    ) -> Result<(), Stop> {
        stream.step(&frame.head)?;
        if frame.head.kind == Kind::Log {
            return each_unit(&frame.head, frame.payload, |index, unit| self.unit(index, unit, Some(coverage)));
        }
        let mut count = 0;
        for record in covers(frame.payload) {
            let (range, mut statements) = record?;
            coverage.check(&range)?;
            coverage.note(&range)?;
            count += 1;
            if !self.owned[coverage.slots(range.partition)].contains(&true) {
                continue;
            }
            while let Some(Encoded { slot, bytes }) = statement::next_encoded(&mut statements)? {
                let slot = slot.ok_or(Disorder::Range)?;
                if self.owned[slot as usize] {
                    self.execute(stream.next, bytes)?;
                }
            }
        }
        if count != frame.head.count { Err(Disorder::Count.into()) } else { Ok(()) }
    }

    fn complete(&self, coverage: &Coverage) -> Result<(), Stop> {
        let partitions = 0..coverage.hasher.partitions();
        let mut owned = partitions.filter(|p| self.owned[coverage.slots(*p)].contains(&true));
        match owned.find(|partition| !coverage.is_complete(*partition)) {
            Some(partition) => Err(Disorder::Uncovered(partition).into()),
            None => Ok(()),
        }
    }

    /// Units after `from` of a segment.
    fn segment(&mut self, segment: &SegmentFile, from: Index) -> Result<(), RecoverError> {
        let opened = SegmentReader::open(&segment.path, segment.first, true);
        let mut read = opened.map_err(segment_error)?;
        self.advance(read.used_bytes);
        while read.used_bytes < segment.used_bytes && read.next < segment.limit {
            let Some(frame) = read.next_frame().map_err(segment_error)? else { break };
            let wanted = from + 1..segment.limit;
            let replayed = each_unit(&frame.head, frame.payload, |index, unit| {
                if wanted.contains(&index) { self.unit(index, unit, None) } else { Ok(()) }
            });
            replayed.map_err(|stop| stop.at(&segment.path, frame.offset))?;
            self.advance(frame.end() - frame.offset);
        }
        Ok(())
    }

    fn unit(&mut self, index: Index, mut unit: &[u8], coverage: Option<&Coverage>) -> Result<(), Stop> {
        while let Some(Encoded { slot, bytes }) = statement::next_encoded(&mut unit)? {
            match (slot, coverage) {
                (Some(slot), _) if !self.owned[slot as usize] => {}
                (_, Some(coverage)) => self.execute_covered(index, bytes, coverage)?,
                _ => self.execute(index, bytes)?,
            }
        }
        Ok(())
    }

    /// Executes a statement if its key has been covered, or it is about more than that.
    fn execute_covered(&mut self, index: Index, mut encoded: &[u8], coverage: &Coverage) -> Result<(), Stop> {
        let Some(statement) = statement::next_statement(&mut encoded)? else { return Ok(()) };
        if statement.slot.is_none() {
            coverage.check_keyless(&statement.args)?;
            return self.call(index, statement.db, &statement.args);
        }
        let key = statement.args.get(1).ok_or(Malformed::NoKey)?;
        if coverage.has(statement.db, key) || statement::is_about_more(&statement.args) {
            self.call(index, statement.db, &statement.args)
        } else {
            Ok(())
        }
    }

    fn execute(&mut self, index: Index, mut encoded: &[u8]) -> Result<(), Stop> {
        match statement::next_statement(&mut encoded)? {
            Some(statement) => self.call(index, statement.db, &statement.args),
            None => Ok(()),
        }
    }

    fn call(&mut self, index: Index, db: u8, args: &[&[u8]]) -> Result<(), Stop> {
        self.counts.statements += 1;
        (self.visit)(db, args).map_err(|error| Stop::Refused { index, why: error.to_string() })
    }

    fn advance(&mut self, bytes: u64) {
        self.counts.bytes += bytes;
        if self.counts.bytes - self.told >= PROGRESS_BYTES {
            self.told = self.counts.bytes;
            (self.progress)(self.counts.bytes.min(self.all), self.all);
        }
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
