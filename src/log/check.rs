//! `keyloom check`: reads every byte of a data directory, and says what is in it, or where it is damaged.
//!
//! Changes nothing. Blocking.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::files;
use super::frame::{Index, Kind};
use super::reader::{Disorder, FrameReader, Located, ReadError, Why, covers};
use super::recover::{self, Plan, RecoverError, SegmentFile, SegmentReader, SnapshotStream, segment_error};
use super::replay::{Coverage, each_unit};
use crate::shard::statement::{self, Malformed};

/// More different commands than this are counted as one.
const COMMANDS_MAX: usize = 512;

/// What one file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileReport {
    pub name: String,
    pub bytes: u64,
    /// The first index that is in the log from here, and the last.
    pub first: Index,
    pub last: Index,
    pub log_frames: u64,
    pub units: u64,
    pub cover_frames: u64,
    pub ranges: u64,
    pub statements: u64,
}

/// What a directory holds.
#[derive(Clone, Debug)]
pub struct Report {
    pub plan: Plan,
    pub files: Vec<FileReport>,
    /// Statements by the name of their command.
    pub commands: BTreeMap<String, u64>,
    /// Names of files that were never completed.
    pub temporary: Vec<String>,
}

/// Verifies everything in a directory.
pub fn check(dir: &Path) -> Result<Report, RecoverError> {
    let plan = recover::inspect(dir)?;
    let listing = files::list(dir).map_err(|source| RecoverError::Io { path: dir.into(), source })?;
    let mut report = Report { plan, files: Vec::new(), commands: BTreeMap::new(), temporary: listing.temporary };
    for end in listing.snapshots {
        let name = files::snapshot_name(end);
        let file = report.snapshot(&dir.join(&name), end).map_err(RecoverError::Snapshot)?;
        report.files.push(FileReport { name, ..file });
    }
    let last = report.plan.segments.len().wrapping_sub(1);
    for (at, segment) in report.plan.segments.clone().iter().enumerate() {
        let file = report.segment(segment, at == last).map_err(segment_error)?;
        report.files.push(FileReport { name: files::segment_name(segment.first), ..file });
    }
    Ok(report)
}

/// An error of a payload, whose place the caller knows.
struct Wrong(Why);

impl From<Malformed> for Wrong {
    fn from(error: Malformed) -> Wrong {
        Wrong(error.into())
    }
}

impl From<Disorder> for Wrong {
    fn from(disorder: Disorder) -> Wrong {
        Wrong(Why::Order(disorder))
    }
}

impl Report {
    fn snapshot(&mut self, path: &Path, end: Index) -> Result<FileReport, ReadError> {
        let mut reader = FrameReader::open(path)?;
        let mut stream = SnapshotStream::open(&mut reader)?;
        let mut coverage = Coverage::new(&stream.begin);
        let mut file = FileReport { bytes: reader.size(), first: stream.first, last: end, ..FileReport::default() };
        let mut ended = false;
        while let Some(frame) = reader.next_frame()? {
            let offset = frame.offset;
            let step = if ended {
                Err(Wrong(Why::Order(Disorder::AfterEnd)))
            } else {
                self.stream_frame(&frame, &mut stream, &mut coverage, end, &mut file)
            };
            ended = frame.head.kind == Kind::End;
            step.map_err(|wrong| reader.error(offset, wrong.0))?;
        }
        if !ended {
            return Err(reader.error(reader.offset(), Why::Order(Disorder::NoEnd)));
        }
        Ok(file)
    }

    fn stream_frame(
        &mut self,
        frame: &Located,
        stream: &mut SnapshotStream,
        coverage: &mut Coverage,
        end: Index,
        file: &mut FileReport,
    ) -> Result<(), Wrong> {
        if frame.head.kind == Kind::End {
            let covers = super::frame::read_end(frame.payload).map_err(|error| Wrong(error.into()))?.covers;
            stream.end(&frame.head, covers, end)?;
            let mut partitions = 0..stream.begin.partitions;
            return match partitions.find(|partition| !coverage.is_complete(*partition)) {
                Some(partition) => Err(Disorder::Uncovered(partition).into()),
                None => Ok(()),
            };
        }
        stream.step(&frame.head)?;
        if frame.head.kind == Kind::Log {
            return self.units(frame, Some(coverage), file);
        }
        file.cover_frames += 1;
        let before = file.ranges;
        for record in covers(frame.payload) {
            let (range, mut statements) = record?;
            coverage.check(&range)?;
            coverage.note(&range)?;
            file.ranges += 1;
            while let Some(statement) = statement::next_statement(&mut statements)? {
                let slots = coverage.slots(range.partition);
                if statement.db != range.db || statement.slot.is_none_or(|slot| !slots.contains(&(slot as usize))) {
                    return Err(Disorder::Range.into());
                }
                self.count(&statement, file);
            }
        }
        if file.ranges - before != frame.head.count as u64 { Err(Disorder::Count.into()) } else { Ok(()) }
    }

    fn segment(&mut self, segment: &SegmentFile, last: bool) -> Result<FileReport, ReadError> {
        let mut read = SegmentReader::open(&segment.path, segment.first, true)?;
        let mut file = FileReport { bytes: segment.bytes, first: segment.first, ..FileReport::default() };
        // What the next segment has counts, if this one has it, too.
        while read.next < segment.limit && !(last && read.used_bytes >= segment.used_bytes) {
            let Some(frame) = read.next_frame()? else { break };
            let offset = frame.offset;
            let counted = self.units(&frame, None, &mut file);
            counted.map_err(|wrong| read.reader.error(offset, wrong.0))?;
        }
        file.last = (read.next - 1).min(segment.limit - 1);
        Ok(file)
    }

    /// Units of the log, which may be part of a snapshot that has got so far.
    fn units(&mut self, frame: &Located, coverage: Option<&Coverage>, file: &mut FileReport) -> Result<(), Wrong> {
        file.log_frames += 1;
        each_unit(&frame.head, frame.payload, |_, mut unit| {
            file.units += 1;
            while let Some(statement) = statement::next_statement(&mut unit)? {
                if let Some(coverage) = coverage.filter(|_| statement.slot.is_none()) {
                    coverage.check_keyless(&statement.args)?;
                }
                self.count(&statement, file);
            }
            Ok(())
        })
    }

    fn count(&mut self, statement: &statement::Statement, file: &mut FileReport) {
        file.statements += 1;
        let name = &statement.args[0][..statement.args[0].len().min(32)];
        let name = name.to_ascii_uppercase().escape_ascii().to_string();
        let known = self.commands.len() < COMMANDS_MAX || self.commands.contains_key(&name);
        *self.commands.entry(if known { name } else { "others".to_string() }).or_default() += 1;
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

impl fmt::Display for FileReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:<38}{:>10}  ", self.name, size(self.bytes))?;
        match self.first <= self.last {
            true => write!(f, "index {} to {}: ", self.first, self.last)?,
            false => write!(f, "index {}: ", self.last)?,
        }
        if self.cover_frames > 0 {
            write!(f, "{} ranges in {} frames, ", self.ranges, self.cover_frames)?;
        }
        write!(f, "{} units in {} frames, {} statements", self.units, self.log_frames, self.statements)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for file in &self.files {
            writeln!(f, "{file}")?;
        }
        for name in &self.temporary {
            writeln!(f, "{name}: never completed; the next start removes it")?;
        }
        for history in &self.plan.histories {
            writeln!(f, "history {:032x} from index {}", history.id, history.cut + 1)?;
        }
        if !self.commands.is_empty() {
            let commands: Vec<_> = self.commands.iter().map(|(name, count)| format!("{name} {count}")).collect();
            writeln!(f, "statements: {}", commands.join(", "))?;
        }
        if let Some(torn) = &self.plan.torn {
            let (path, keep, lost) = (torn.path.display(), torn.keep_bytes, torn.lost_bytes);
            writeln!(
                f,
                "'{path}' at byte {keep}: {}; nothing follows in its {lost} bytes, as after a crash:",
                torn.why
            )?;
            writeln!(f, "the next start cuts it off")?;
        }
        match self.plan.is_empty() {
            true => writeln!(f, "no data"),
            false => writeln!(f, "ok: up to index {}, {} to replay", self.plan.end, size(self.plan.bytes())),
        }
    }
}
