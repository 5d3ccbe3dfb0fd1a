//! `keyloom dump`: prints what a data directory holds, as commands.
//!
//! Changes nothing. Blocking.

use std::io::{self, Write};
use std::path::Path;

use super::frame::{Head, Index, Kind};
use super::reader::{Disorder, FrameReader, Located, Why, covers};
use super::recover::{
    self, Plan, RecoverError, SegmentFile, SegmentReader, SnapshotFile, SnapshotStream, segment_error,
};
use super::replay::each_unit;
use crate::shard::statement::{self, Malformed};

/// Why not everything was printed.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("{0}")]
    Recover(#[from] RecoverError),
    #[error("the log's files begin with index {oldest}; what was before is only in the snapshot: leave --from out")]
    TooOld { oldest: Index },
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// What stopped in the middle of a frame.
enum Stop {
    Damage(Why),
    Print(io::Error),
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

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Print(error)
    }
}

/// Prints the newest snapshot and the log since then; or, with `from`, the log from that index on.
pub fn dump(dir: &Path, from: Option<Index>, out: &mut impl Write) -> Result<(), DumpError> {
    let plan = recover::inspect(dir)?;
    let (segments, from) = match from {
        None => {
            if let Some(snapshot) = &plan.snapshot {
                print_snapshot(snapshot, out)?;
            }
            (plan.replayed(), plan.snapshot.as_ref().map_or(1, |snapshot| snapshot.end + 1))
        }
        Some(from) => (segments_from(&plan, from)?, from),
    };
    for segment in segments {
        print_segment(segment, from, out)?;
    }
    if let Some(torn) = &plan.torn {
        writeln!(out, "# torn at byte {}: {}", torn.keep_bytes, torn.why)?;
    }
    out.flush()?;
    Ok(())
}

fn segments_from(plan: &Plan, from: Index) -> Result<&[SegmentFile], DumpError> {
    let after = plan.segments.partition_point(|segment| segment.first <= from);
    match (after, plan.segments.first()) {
        (0, Some(oldest)) if from > 0 => Err(DumpError::TooOld { oldest: oldest.first }),
        _ => Ok(&plan.segments[after.saturating_sub(1)..]),
    }
}

fn print_snapshot(snapshot: &SnapshotFile, out: &mut impl Write) -> Result<(), DumpError> {
    let damage = RecoverError::Snapshot;
    let mut reader = FrameReader::open(&snapshot.path).map_err(damage)?;
    let stream = SnapshotStream::open(&mut reader).map_err(damage)?;
    let (path, begin) = (snapshot.path.display(), &stream.begin);
    writeln!(out, "# {path}: index {} to {}", stream.first, snapshot.end)?;
    writeln!(out, "# {} partitions, {} databases", begin.partitions, begin.databases)?;
    while let Some(frame) = reader.next_frame().map_err(damage)? {
        let offset = frame.offset;
        let printed = match frame.head.kind {
            Kind::Log => print_units(&frame, 0, Index::MAX, out),
            Kind::Cover => print_covers(&frame, out),
            _ => Ok(()),
        };
        match printed {
            Err(Stop::Damage(why)) => return Err(damage(reader.error(offset, why)).into()),
            Err(Stop::Print(error)) => return Err(error.into()),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn print_segment(segment: &SegmentFile, from: Index, out: &mut impl Write) -> Result<(), DumpError> {
    let mut read = SegmentReader::open(&segment.path, segment.first, true).map_err(segment_error)?;
    writeln!(out, "# {}", segment.path.display())?;
    while read.used_bytes < segment.used_bytes && read.next < segment.limit {
        let Some(frame) = read.next_frame().map_err(segment_error)? else { break };
        let offset = frame.offset;
        match print_units(&frame, from, segment.limit, out) {
            Err(Stop::Damage(why)) => return Err(segment_error(read.reader.error(offset, why)).into()),
            Err(Stop::Print(error)) => return Err(error.into()),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Index, time and history of a unit stand before each of its statements.
fn print_units(frame: &Located, from: Index, limit: Index, out: &mut impl Write) -> Result<(), Stop> {
    each_unit(&frame.head, frame.payload, |index, mut unit| {
        while let Some(statement) = statement::next_statement(&mut unit)?
            && (from..limit).contains(&index)
        {
            print_origin(index, &frame.head, out)?;
            print_statement(&statement, out)?;
        }
        Ok(())
    })
}

fn print_covers(frame: &Located, out: &mut impl Write) -> Result<(), Stop> {
    for record in covers(frame.payload) {
        let (range, mut statements) = record?;
        let (db, partition, from, upto) = (range.db, range.partition, range.from, range.upto);
        writeln!(out, "cover db {db} partition {partition} positions {from:#010x} to {upto:#011x}")?;
        while let Some(statement) = statement::next_statement(&mut statements)? {
            write!(out, "  ")?;
            print_statement(&statement, out)?;
        }
    }
    Ok(())
}

fn print_origin(index: Index, head: &Head, out: &mut impl Write) -> io::Result<()> {
    let (seconds, ms) = (head.wall_ms.div_euclid(1000), head.wall_ms.rem_euclid(1000));
    write!(out, "{index} {seconds}.{ms:03} {:08x} ", head.history >> 96)
}

fn print_statement(statement: &statement::Statement, out: &mut impl Write) -> io::Result<()> {
    write!(out, "[{}]", statement.db)?;
    for arg in &statement.args {
        write!(out, " ")?;
        print_quoted(arg, out)?;
    }
    writeln!(out)
}

/// As redis-cli prints strings, and reads them.
fn print_quoted(bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"\"")?;
    for &byte in bytes {
        match byte {
            b'\\' | b'"' => out.write_all(&[b'\\', byte])?,
            b'\n' => out.write_all(b"\\n")?,
            b'\r' => out.write_all(b"\\r")?,
            b'\t' => out.write_all(b"\\t")?,
            0x07 => out.write_all(b"\\a")?,
            0x08 => out.write_all(b"\\b")?,
            b' '..=b'~' => out.write_all(&[byte])?,
            _ => write!(out, "\\x{byte:02x}")?,
        }
    }
    out.write_all(b"\"")
}

#[cfg(test)]
#[path = "dump_tests.rs"]
mod tests;
