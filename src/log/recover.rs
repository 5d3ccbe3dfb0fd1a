//! Recovery: what the files of a data directory hold, and whether they can be trusted.
//!
//! The state is the newest snapshot and the log from its end on. A segment counts up to where the next one begins: after a
//! failure the writer begins a new one with what was not durable in the old one.
//!
//! The log's last write may have been cut short by a crash. So if its last segment ends within a frame, or with one whose
//! checksum is wrong, and no frame follows, that was the end: it is cut off. Everything else that is wrong was
//! durable once, and is refused: whoever runs the node decides.
//!
//! A start goes so: [`files::DataDir::open`], [`inspect`], [`Plan::settle`], on every data core [`super::replay::replay`],
//! and [`super::wal::Wal::new`] with [`Plan::start`].
//!
//! Blocking; used before anything is served. Payloads of frames are checked when they are replayed, except those of the
//! last segment, which are checked here.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use super::files;
use super::frame::{
    Begin, FrameError, HEADER_BYTES, Head, HistoryEntry, HistoryId, Index, Kind, read_begin, read_end, read_segment,
};
use super::reader::{Disorder, FrameReader, Located, ReadError, Why};
use super::wal::Start;

/// What the files hold.
#[derive(Clone, Debug)]
pub struct Plan {
    pub dir: PathBuf,
    pub snapshot: Option<SnapshotFile>,
    /// All segments, oldest first.
    pub segments: Vec<SegmentFile>,
    /// The first segment that is to be replayed.
    pub(super) replayed_from: usize,
    pub torn: Option<Torn>,
    /// The last index; 0: there is no data.
    pub end: Index,
    /// Oldest first; empty: there is no data.
    pub histories: Vec<HistoryEntry>,
    /// The latest wall clock in a frame.
    pub wall_ms: i64,
}

/// A snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    pub path: PathBuf,
    pub bytes: u64,
    pub begin: Begin,
    /// The index of the first unit after it began.
    pub first: Index,
    /// The last index that it contains.
    pub end: Index,
    pub wall_ms: i64,
}

/// A segment of the log.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    pub path: PathBuf,
    pub first: Index,
    /// Bytes up to the end of the last frame that counts.
    pub used_bytes: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Units from here on are those of the next segment.
    pub limit: Index,
}

/// The end of the log, that a crash has cut short.
#[derive(Clone, Debug)]
pub struct Torn {
    pub path: PathBuf,
    /// What is kept.
    pub keep_bytes: u64,
    /// What is cut off.
    pub lost_bytes: u64,
    pub why: String,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("cannot use '{}': {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{error}; restore the file from a copy, or {}", after_damage(.error))]
    Segment { error: ReadError },
    #[error("{0}; remove the file to use an older snapshot and the log since then, or restore it from a copy")]
    Snapshot(ReadError),
    #[error("the log has nothing from index {from} to {to}: '{}' begins after it; restore the missing files, or remove it and all later ones to go back to index {}", .path.display(), from - 1)]
    Gap { from: Index, to: Index, path: PathBuf },
    #[error("{0}")]
    Replay(ReadError),
    #[error("{} at byte {offset}, unit {index}: {why}", .path.display())]
    Statement { path: PathBuf, offset: u64, index: Index, why: String },
}

pub(super) fn segment_error(error: ReadError) -> RecoverError {
    RecoverError::Segment { error }
}

fn after_damage(error: &ReadError) -> String {
    let path = error.path.display();
    format!("give up what follows with 'truncate -s {} {path}' and by removing later segments", error.offset)
}

impl Plan {
    /// Bytes that are replayed.
    pub fn bytes(&self) -> u64 {
        let segments = self.replayed().iter().map(|segment| segment.used_bytes).sum::<u64>();
        segments + self.snapshot.as_ref().map_or(0, |snapshot| snapshot.bytes)
    }

    /// The segments that are replayed, oldest first.
    pub fn replayed(&self) -> &[SegmentFile] {
        &self.segments[self.replayed_from..]
    }

    /// Whether the directory holds no data.
    pub fn is_empty(&self) -> bool {
        self.histories.is_empty()
    }

    /// Where the log goes on; `histories` are those of new data, if there is none.
    pub fn start(&self, histories: impl FnOnce() -> Vec<HistoryEntry>) -> Start {
        let segments = self.segments.iter().map(|segment| (segment.first, segment.bytes)).collect();
        let histories = if self.is_empty() { histories() } else { self.histories.clone() };
        Start { next: self.end + 1, histories, segments }
    }

    /// Cuts off what is torn, and makes the end of the log durable: what is replayed may so far be in the kernel only.
    pub fn settle(&mut self) -> Result<(), RecoverError> {
        let Some(last) = self.segments.last_mut() else { return Ok(()) };
        let torn = self.torn.take();
        let settled = OpenOptions::new().write(true).open(&last.path).and_then(|file| {
            if let Some(torn) = &torn {
                file.set_len(torn.keep_bytes)?;
            }
            file.sync_all()?;
            files::sync_dir(&self.dir)
        });
        settled.map_err(|source| RecoverError::Io { path: last.path.clone(), source })?;
        if let Some(torn) = torn {
            last.bytes = torn.keep_bytes;
            tracing::warn!(
                path = %torn.path.display(),
                offset = torn.keep_bytes,
                bytes = torn.lost_bytes,
                why = torn.why,
                "the end of the log, cut short by a crash, is cut off"
            );
        }
        Ok(())
    }
}

/// Looks what the files hold. Changes nothing.
pub fn inspect(dir: &Path) -> Result<Plan, RecoverError> {
    let listing = files::list(dir).map_err(|source| RecoverError::Io { path: dir.into(), source })?;
    let snapshot = match listing.snapshots.last() {
        Some(end) => Some(read_snapshot(&dir.join(files::snapshot_name(*end)), *end)?),
        None => None,
    };
    let mut plan = Plan {
        dir: dir.into(),
        segments: Vec::new(),
        replayed_from: 0,
        torn: None,
        end: snapshot.as_ref().map_or(0, |snapshot| snapshot.end),
        histories: snapshot.as_ref().map_or(Vec::new(), |snapshot| snapshot.begin.histories.clone()),
        wall_ms: snapshot.as_ref().map_or(i64::MIN, |snapshot| snapshot.wall_ms),
        snapshot,
    };
    plan.list_segments(&listing.segments)?;
    plan.replayed_from = plan.segments.partition_point(|segment| segment.first <= plan.end + 1).saturating_sub(1);
    let from = plan.end;
    for at in plan.replayed_from..plan.segments.len() {
        plan.read_segment(at, from)?;
    }
    // What the last segment lost is in the snapshot.
    plan.end = plan.end.max(from);
    Ok(plan)
}

impl Plan {
    fn list_segments(&mut self, firsts: &[Index]) -> Result<(), RecoverError> {
        for (at, first) in firsts.iter().enumerate() {
            let path = self.dir.join(files::segment_name(*first));
            let meta = std::fs::metadata(&path);
            let bytes = meta.map_err(|source| RecoverError::Io { path: path.clone(), source })?.len();
            let limit = firsts.get(at + 1).map_or(Index::MAX, |next| *next);
            self.segments.push(SegmentFile { path, first: *first, used_bytes: bytes, bytes, limit });
        }
        Ok(())
    }

    /// Follows the log through segment number `at`; `from` is the end of the snapshot.
    fn read_segment(&mut self, at: usize, from: Index) -> Result<(), RecoverError> {
        let segment = self.segments[at].clone();
        // The first one may begin before the end of the snapshot, the others where the one before them was left.
        let expected = if at == self.replayed_from { from + 1 } else { self.end + 1 };
        if segment.first > expected {
            return Err(RecoverError::Gap { from: expected, to: segment.first - 1, path: segment.path });
        }
        let last = at + 1 == self.segments.len();
        let mut read = SegmentReader::open(&segment.path, segment.first, last).map_err(segment_error)?;
        // What the snapshot contains beyond a cut is not in the history that begins there.
        let cut_off = |entry: &HistoryEntry| entry.cut < from && !self.histories.iter().any(|ours| ours.id == entry.id);
        let forgotten = self.histories.first().map_or(0, |oldest| oldest.cut);
        let diverged = read.histories.iter().any(|entry| entry.cut >= forgotten && cut_off(entry));
        if !same_line(&self.histories, &read.histories) || (at == self.replayed_from && diverged) {
            let disorder = read.reader.error(0, Why::Order(Disorder::Line));
            if at == self.replayed_from && read.ends_by(from) {
                self.replayed_from = at + 1;
                return Ok(());
            }
            return Err(segment_error(disorder));
        }
        let latest = read.histories.last().map(|history| history.id);
        if !self.histories.iter().any(|ours| Some(ours.id) == latest) {
            self.histories.clone_from(&read.histories);
        }
        let torn = loop {
            if read.next >= segment.limit {
                break None;
            }
            match read.next_head() {
                Ok(Some(head)) => self.wall_ms = self.wall_ms.max(head.wall_ms),
                Ok(None) => break None,
                Err(error) if last && read.is_end(&error).map_err(segment_error)? => break Some(error),
                Err(error) => return Err(segment_error(error)),
            }
        };
        let segment = &mut self.segments[at];
        segment.used_bytes = read.used_bytes;
        if let Some(error) = torn {
            let (path, keep_bytes) = (segment.path.clone(), read.used_bytes);
            let lost_bytes = segment.bytes - keep_bytes;
            self.torn = Some(Torn { path, keep_bytes, lost_bytes, why: error.why.to_string() });
        }
        self.end = (read.next - 1).min(segment.limit - 1);
        if read.next < segment.limit && !last {
            let (to, path) = (segment.limit - 1, self.segments[at + 1].path.clone());
            return Err(RecoverError::Gap { from: read.next, to, path });
        }
        Ok(())
    }
}

/// Reads a segment and checks that its frames can stand where they do.
pub(super) struct SegmentReader {
    pub reader: FrameReader,
    pub histories: Vec<HistoryEntry>,
    /// The index of the next unit.
    pub next: Index,
    /// Where the last frame that is whole ends.
    pub used_bytes: u64,
    /// Where the frame ends whose header was read last.
    frame_end: u64,
    history: HistoryId,
    /// Whether payloads are read and checked.
    payloads: bool,
}

impl SegmentReader {
    pub fn open(path: &Path, first: Index, payloads: bool) -> Result<SegmentReader, ReadError> {
        let mut reader = FrameReader::open(path)?;
        let Some(head) = reader.head()? else { return Err(reader.error(0, FrameError::Truncated)) };
        if head.kind != Kind::Segment {
            return Err(reader.error(0, Why::Order(Disorder::Kind)));
        }
        if head.first != first {
            return Err(reader.error(0, Why::Order(Disorder::Name { expected: first, found: head.first })));
        }
        let segment = read_segment(reader.payload(head)?.payload).map_err(|error| reader.error(0, error))?;
        let histories = segment.histories;
        let Some(last) = histories.last().copied() else { return Err(reader.error(0, FrameError::Truncated)) };
        if last.cut >= first || head.history != last.id {
            return Err(reader.error(0, Why::Order(Disorder::History)));
        }
        let used_bytes = reader.offset();
        Ok(SegmentReader {
            reader,
            histories,
            next: first,
            used_bytes,
            frame_end: used_bytes,
            history: last.id,
            payloads,
        })
    }

    /// Goes on by one frame.
    pub fn next_head(&mut self) -> Result<Option<Head>, ReadError> {
        let Some(head) = self.head()? else { return Ok(None) };
        if self.payloads {
            self.reader.payload(head)?;
        } else {
            self.reader.skip(&head)?;
        }
        self.passed(&head);
        Ok(Some(head))
    }

    /// The next frame, checked.
    pub fn next_frame(&mut self) -> Result<Option<Located<'_>>, ReadError> {
        let Some(head) = self.head()? else { return Ok(None) };
        self.passed(&head);
        self.reader.payload(head).map(Some)
    }

    /// Whether the segment is whole and has nothing after index `end`: it is of a log that ended before the snapshot which
    /// ends there, as `appendonly` was off for a while.
    fn ends_by(&mut self, end: Index) -> bool {
        loop {
            match self.next_head() {
                Ok(Some(_)) => {}
                Ok(None) => return self.next <= end + 1,
                Err(_) => return false,
            }
        }
    }

    fn passed(&mut self, head: &Head) {
        self.used_bytes = self.frame_end;
        self.next = head.last() + 1;
    }

    fn head(&mut self) -> Result<Option<Head>, ReadError> {
        let offset = self.reader.offset();
        let Some(head) = self.reader.head()? else { return Ok(None) };
        self.frame_end = offset + (HEADER_BYTES + head.length) as u64;
        let disorder = if head.kind != Kind::Log {
            Some(Disorder::Kind)
        } else if head.history != self.history {
            Some(Disorder::History)
        } else if head.first != self.next {
            Some(Disorder::Index { expected: self.next, found: head.first })
        } else {
            None
        };
        if let Some(disorder) = disorder {
            return Err(self.reader.error(offset, Why::Order(disorder)));
        }
        Ok(Some(head))
    }

    /// Whether this error of the last segment is what a crash leaves: no frame of the log follows.
    fn is_end(&mut self, error: &ReadError) -> Result<bool, ReadError> {
        let Why::Frame(frame_error) = &error.why else { return Ok(false) };
        let from = match frame_error {
            // A header that is whole says how far its frame reaches; one that reaches beyond the file is the last.
            FrameError::Truncated => return Ok(true),
            FrameError::PayloadChecksum => self.frame_end,
            FrameError::Magic | FrameError::HeaderChecksum => self.used_bytes + 1,
            // Intact, and not understood: that is no crash.
            FrameError::Version(_) | FrameError::Kind(_) | FrameError::Length(_) | FrameError::Senseless(_) => {
                return Ok(false);
            }
        };
        let (history, next) = (self.history, self.next);
        let wanted = |head: &Head| head.kind == Kind::Log && head.history == history && head.first > next;
        Ok(!self.reader.any_frame_after(from, wanted)?)
    }
}

/// Walks over a snapshot, and checks that it is complete; the payloads of its frames are not read.
fn read_snapshot(path: &Path, end: Index) -> Result<SnapshotFile, RecoverError> {
    let mut reader = FrameReader::open(path).map_err(RecoverError::Snapshot)?;
    walk_snapshot(&mut reader, end).map_err(RecoverError::Snapshot)
}

fn walk_snapshot(reader: &mut FrameReader, end: Index) -> Result<SnapshotFile, ReadError> {
    let mut stream = SnapshotStream::open(reader)?;
    let mut wall_ms = i64::MIN;
    loop {
        let offset = reader.offset();
        let Some(head) = reader.head()? else { return Err(reader.error(offset, Why::Order(Disorder::NoEnd))) };
        wall_ms = wall_ms.max(head.wall_ms);
        if head.kind == Kind::End {
            let payload = reader.payload(head)?.payload;
            let covers = read_end(payload).map(|end| end.covers).map_err(|error| reader.error(offset, error))?;
            stream.end(&head, covers, end).map_err(|disorder| reader.error(offset, Why::Order(disorder)))?;
            break;
        }
        stream.step(&head).map_err(|disorder| reader.error(offset, Why::Order(disorder)))?;
        reader.skip(&head)?;
    }
    if reader.offset() != reader.size() {
        return Err(reader.error(reader.offset(), Why::Order(Disorder::AfterEnd)));
    }
    let (path, bytes) = (reader.path().to_path_buf(), reader.size());
    Ok(SnapshotFile { path, bytes, begin: stream.begin, first: stream.first, end, wall_ms })
}

/// The order of frames in a snapshot.
pub(super) struct SnapshotStream {
    pub begin: Begin,
    pub first: Index,
    pub next: Index,
    pub covers: u64,
    history: HistoryId,
}

impl SnapshotStream {
    /// Reads the first frame.
    pub fn open(reader: &mut FrameReader) -> Result<SnapshotStream, ReadError> {
        let Some(head) = reader.head()? else { return Err(reader.error(0, FrameError::Truncated)) };
        if head.kind != Kind::Begin {
            return Err(reader.error(0, Why::Order(Disorder::Kind)));
        }
        let begin = read_begin(reader.payload(head)?.payload).map_err(|error| reader.error(0, error))?;
        let last = begin.histories.last().copied();
        let Some(last) = last.filter(|last| last.id == head.history && last.cut < head.first) else {
            return Err(reader.error(0, Why::Order(Disorder::History)));
        };
        Ok(SnapshotStream { begin, first: head.first, next: head.first, covers: 0, history: last.id })
    }

    /// Goes on by a frame that is not the last one.
    pub fn step(&mut self, head: &Head) -> Result<(), Disorder> {
        if head.first != self.next {
            return Err(Disorder::Index { expected: self.next, found: head.first });
        }
        match head.kind {
            Kind::Cover => self.covers += 1,
            Kind::Log if head.history != self.history => return Err(Disorder::History),
            Kind::Log => self.next = head.last() + 1,
            _ => return Err(Disorder::Kind),
        }
        Ok(())
    }

    /// Checks the last frame of a file whose name says `end`.
    pub fn end(&self, head: &Head, covers: u64, end: Index) -> Result<(), Disorder> {
        if head.first != self.next {
            return Err(Disorder::Index { expected: self.next, found: head.first });
        }
        if head.first - 1 != end {
            return Err(Disorder::Name { expected: end, found: head.first - 1 });
        }
        if covers != self.covers { Err(Disorder::Count) } else { Ok(()) }
    }
}

/// Whether one list of histories goes on from the other. Each may have forgotten old ones.
pub fn same_line(a: &[HistoryEntry], b: &[HistoryEntry]) -> bool {
    let (Some(first_a), Some(first_b)) = (a.first(), b.first()) else { return true };
    let (a, b) = match a.iter().position(|entry| entry.id == first_b.id) {
        Some(at) => (&a[at..], b),
        None => match b.iter().position(|entry| entry.id == first_a.id) {
            Some(at) => (a, &b[at..]),
            None => return false,
        },
    };
    a.iter().zip(b).all(|(a, b)| a == b)
}

#[cfg(test)]
#[path = "recover_tests.rs"]
mod tests;
