//! What raft's log files hold, when the node starts.
//!
//! ```text
//! log-<first record>.kl     RaftSegment: everything about the log but its entries (a Tip), as of before this file
//!                           RaftRecords: records in order, each with its length before it, 32 bits
//!                           ...
//! ```
//!
//! All frames carry the identity of the data directory. Records are numbered from 1 on, for the life of this directory;
//! `first` of a frame is the number of its first record, and in the head of a file that of the record that comes next.
//!
//! Snapshots lie in the same directory ([`super::state_machine`]). Where there are some and no log, the log was lost, and
//! with it the node's votes: that is refused, as a node that forgets its vote may vote twice.
//!
//! A frame is what one write wrote, and the next is written only when that one is durable. So a crash can damage only the
//! last frame of the last file: if nothing intact follows, it is cut off. Any other damage is refused.
//!
//! Blocking; used before raft runs.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::image::Image;
use super::stored::{Change, StoredError, Tip};
use crate::log::files;
use crate::log::frame::{FrameError, HEADER_BYTES, Head, Kind};
use crate::log::reader::{Disorder, FrameReader, ReadError, Why};

/// A file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    pub path: PathBuf,
    pub bytes: u64,
    /// The highest index of an entry that was ever written to it.
    pub index_max: Option<u64>,
}

/// What the files hold.
pub struct Recovered {
    pub image: Image,
    /// Oldest first.
    pub segments: VecDeque<SegmentFile>,
    /// The number of the next record.
    pub next: u64,
}

/// Bytes of the length before a record.
pub(super) const LENGTH_BYTES: usize = 4;

/// Reads the log in `dir`, which is made if it is not there. Cuts off what a crash has left at its end, and makes sure that
/// what was read is on disk.
pub fn recover(dir: &Path, identity: u128) -> Result<Recovered, StoreError> {
    make(dir)?;
    let listing = files::list(dir).map_err(StoreError::io(dir))?;
    if listing.segments.is_empty() && !listing.snapshots.is_empty() {
        return Err(StoreError::NoLog { path: dir.into() });
    }
    for name in listing.temporary.iter().filter(|name| name.starts_with("log-")) {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(StoreError::io(&path))?;
    }
    let mut recovery = Recovery { identity, image: Image::default(), segments: VecDeque::new(), next: 1, tail: None };
    for (at, first) in listing.segments.iter().enumerate() {
        let path = dir.join(files::segment_name(*first));
        recovery.read_segment(path, *first, at + 1 == listing.segments.len())?;
    }
    if let Some(first) = recovery.image.gap() {
        return Err(StoreError::NoBeginning { path: dir.into(), first });
    }
    recovery.settle(dir)?;
    let Recovery { image, segments, next, .. } = recovery;
    Ok(Recovered { image, segments, next })
}

fn make(dir: &Path) -> Result<(), StoreError> {
    match fs::create_dir(dir) {
        Ok(()) => {
            // A relative path of one name lies in the working directory.
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            files::sync_dir(parent.unwrap_or(Path::new("."))).map_err(StoreError::io(dir))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(StoreError::Io { path: dir.into(), source }),
    }
}

struct Recovery {
    identity: u128,
    image: Image,
    segments: VecDeque<SegmentFile>,
    next: u64,
    /// Where the last frame lies, and where it ends.
    tail: Option<(u64, u64)>,
}

impl Recovery {
    fn read_segment(&mut self, path: PathBuf, first: u64, last: bool) -> Result<(), StoreError> {
        let mut reader = FrameReader::open(&path)?;
        let tip = read_head(&mut reader, self.identity, first)?;
        if self.segments.is_empty() {
            self.image = Image::from_tip(tip);
            self.next = first;
        } else if first != self.next {
            return Err(StoreError::Gap { path, expected: self.next, found: first });
        } else if tip != *self.image.tip() {
            return Err(reader.error(0, Why::Order(Disorder::Line)).into());
        }
        self.segments.push_back(SegmentFile { path: path.clone(), bytes: reader.offset(), index_max: None });
        self.tail = Some((0, reader.offset()));
        loop {
            let offset = reader.offset();
            match self.read_records(&mut reader, &path) {
                Ok(true) => {
                    self.tail = Some((offset, reader.offset()));
                    if let Some(segment) = self.segments.back_mut() {
                        segment.bytes = reader.offset();
                    }
                }
                Ok(false) => return Ok(()),
                Err(StoreError::Frame(error)) if last && self.is_end(&mut reader, &error)? => {
                    tracing::warn!(
                        path = %path.display(),
                        offset = error.offset,
                        bytes = reader.size() - error.offset,
                        why = %error.why,
                        "the end of raft's log, cut short by a crash, is cut off"
                    );
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Executes the next frame. False: there is none.
    fn read_records(&mut self, reader: &mut FrameReader, path: &Path) -> Result<bool, StoreError> {
        let Some(head) = reader.head()? else { return Ok(false) };
        check_head(reader, &head, Kind::RaftRecords, self.identity)?;
        if head.first != self.next {
            let disorder = Disorder::Index { expected: self.next, found: head.first };
            return Err(reader.error(reader.offset(), Why::Order(disorder)).into());
        }
        let frame = reader.payload(head)?;
        let mut rest = frame.payload;
        for _ in 0..head.count {
            let offset = frame.offset + (HEADER_BYTES + head.length - rest.len()) as u64;
            let located = |why| StoreError::Record { path: path.into(), offset, why };
            let (length, after) = rest.split_first_chunk::<LENGTH_BYTES>().ok_or(located(StoredError::Truncated))?;
            let length = u32::from_le_bytes(*length) as usize;
            let (record, after) = after.split_at_checked(length).ok_or(located(StoredError::Truncated))?;
            let change = Change::decode(record).map_err(located)?;
            self.image.check(&change).map_err(|why| located(StoredError::Senseless(why)))?;
            if let (Change::Append(entry), Some(segment)) = (&change, self.segments.back_mut()) {
                segment.index_max = segment.index_max.max(Some(entry.log_id.index));
            }
            self.image.apply(change, record.len());
            rest = after;
        }
        let (offset, left) = (frame.offset, !rest.is_empty());
        if left || head.count == 0 {
            return Err(reader.error(offset, Why::Order(Disorder::Count)).into());
        }
        self.next += u64::from(head.count);
        Ok(true)
    }

    /// Whether this error of the last file is what a crash leaves.
    fn is_end(&self, reader: &mut FrameReader, error: &ReadError) -> Result<bool, StoreError> {
        let Why::Frame(frame_error) = &error.why else { return Ok(false) };
        match frame_error {
            FrameError::Truncated | FrameError::PayloadChecksum | FrameError::Magic | FrameError::HeaderChecksum => {}
            // Intact, and not understood: that is no crash.
            FrameError::Version(_) | FrameError::Kind(_) | FrameError::Length(_) | FrameError::Senseless(_) => {
                return Ok(false);
            }
        }
        let (identity, next) = (self.identity, self.next);
        let later = |head: &Head| head.kind == Kind::RaftRecords && head.history == identity && head.first > next;
        Ok(!reader.any_frame_after(error.offset + 1, later)?)
    }

    /// Makes the end of the log what was read of it. A write that failed may have left bytes in the kernel's memory that it
    /// believes to be on disk; so the last frame, the only one of which nothing says that it is there, is written again.
    fn settle(&self, dir: &Path) -> Result<(), StoreError> {
        let (Some(segment), Some((from, to))) = (self.segments.back(), self.tail) else { return Ok(()) };
        let settled = OpenOptions::new().read(true).write(true).open(&segment.path).and_then(|file| {
            file.set_len(to)?;
            let mut bytes = vec![0; (to - from) as usize];
            file.read_exact_at(&mut bytes, from)?;
            file.write_all_at(&bytes, from)?;
            file.sync_all()?;
            files::sync_dir(dir)
        });
        settled.map_err(StoreError::io(&segment.path))
    }
}

fn check_head(reader: &FrameReader, head: &Head, kind: Kind, identity: u128) -> Result<(), StoreError> {
    if head.kind != kind {
        return Err(reader.error(reader.offset(), Why::Order(Disorder::Kind)).into());
    }
    if head.history != identity {
        let (path, offset) = (reader.path().into(), reader.offset());
        return Err(StoreError::Record { path, offset, why: StoredError::Foreign });
    }
    Ok(())
}

/// Reads the frame with which a file begins. It was there before the file had its name, so no crash can have damaged it.
fn read_head(reader: &mut FrameReader, identity: u128, first: u64) -> Result<Tip, StoreError> {
    let Some(head) = reader.head()? else { return Err(reader.error(0, FrameError::Truncated).into()) };
    check_head(reader, &head, Kind::RaftSegment, identity)?;
    if head.first != first {
        let disorder = Disorder::Name { expected: first, found: head.first };
        return Err(reader.error(0, Why::Order(disorder)).into());
    }
    let path = reader.path().to_path_buf();
    let frame = reader.payload(head)?;
    let offset = HEADER_BYTES as u64;
    Tip::decode(frame.payload).map_err(|why| StoreError::Record { path, offset, why })
}

/// Reads a file that consists of one frame.
pub(super) fn read_single(path: &Path, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
    let file = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (bytes, file) = file.map_err(StoreError::io(path))?;
    if bytes > bytes_max {
        let why = StoredError::TooLong(bytes as usize);
        return Err(StoreError::Record { path: path.into(), offset: 0, why });
    }
    let mut content = vec![0; bytes as usize];
    file.read_exact_at(&mut content, 0).map_err(StoreError::io(path))?;
    Ok(content)
}

/// Adds a record to the payload of a frame.
pub(super) fn put_record(out: &mut Vec<u8>, record: &[u8]) {
    out.extend_from_slice(&(record.len() as u32).to_le_bytes());
    out.extend_from_slice(record);
}
