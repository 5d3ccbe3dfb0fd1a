//! Reads frames back from the segments, for replicas that lag behind what memory has.

use std::path::PathBuf;
use std::rc::Rc;

use super::{SegmentFile, Wal};
use crate::log::disk::DiskFile;
use crate::log::files;
use crate::log::frame::{Frame, FrameError, HEADER_BYTES, Head, Index, Kind};

/// Bytes of one read, if the frame does not need more.
const READ_BYTES: usize = 256 << 10;

/// Why there is no next frame.
#[derive(Debug, thiserror::Error)]
pub enum ReadBackError {
    #[error("index {0} is not in the log's files any more")]
    Gone(Index),
    #[error("'{}' at byte {offset}: {source}", .path.display())]
    Io { path: PathBuf, offset: u64, source: std::io::Error },
    #[error("'{}' at byte {offset}: {error}", .path.display())]
    Frame { path: PathBuf, offset: u64, error: FrameError },
}

/// A place in the log. The log may go on, remove segments, or begin a new one after a failure between two calls.
pub struct BackReader {
    wal: Rc<Wal>,
    next: Index,
    open: Option<Open>,
}

struct Open {
    segment: SegmentFile,
    file: DiskFile,
    path: PathBuf,
    position: u64,
    /// Bytes that have been read; from byte `used` on they are those of the file from `position` on.
    ahead: Vec<u8>,
    used: usize,
}

impl BackReader {
    pub(super) fn new(wal: Rc<Wal>, from: Index) -> BackReader {
        BackReader { wal, next: from, open: None }
    }

    /// The index of the next unit that comes.
    pub fn next_index(&self) -> Index {
        self.next
    }

    /// The next frames, at most `bytes_max` bytes of them, or one that has more. None if all that is written has been
    /// read. The first frame may begin before the index asked for.
    pub async fn next(&mut self, bytes_max: usize) -> Result<Vec<Frame>, ReadBackError> {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        if let Some(open) = &mut self.open {
            // What was read ahead may have been written since.
            open.ahead.clear();
            open.used = 0;
        }
        while bytes < bytes_max {
            let Some((segment, end, written)) = self.place()? else { break };
            self.enter(segment).await?;
            let Some(open) = &mut self.open else { break };
            let Some(head) = open.head().await? else {
                // A segment that another one follows ends where that one begins.
                if end < Index::MAX {
                    return Err(ReadBackError::Gone(self.next));
                }
                break;
            };
            if head.kind != Kind::Log || head.last() < self.next {
                open.skip(&head);
                continue;
            }
            if head.first > self.next || head.last() >= end {
                return Err(ReadBackError::Gone(self.next));
            }
            let size = HEADER_BYTES + head.length;
            if head.last() > written || (!frames.is_empty() && bytes + size > bytes_max) {
                break;
            }
            frames.push(open.frame(head).await?);
            bytes += size;
            self.next = head.last() + 1;
        }
        Ok(frames)
    }

    /// The segment that the next unit is in, where the one after it begins, and how far is written.
    fn place(&self) -> Result<Option<(SegmentFile, Index, Index)>, ReadBackError> {
        let state = self.wal.state.borrow();
        if self.next > state.written {
            return Ok(None);
        }
        let after = state.segments.partition_point(|segment| segment.first <= self.next);
        let at = after.checked_sub(1).ok_or(ReadBackError::Gone(self.next))?;
        let end = state.segments.get(after).map_or(Index::MAX, |segment| segment.first);
        Ok(Some((state.segments[at], end, state.written)))
    }

    async fn enter(&mut self, segment: SegmentFile) -> Result<(), ReadBackError> {
        if self.open.as_ref().is_some_and(|open| open.segment.serial == segment.serial) {
            return Ok(());
        }
        if let Some(open) = self.open.take() {
            open.file.close().await;
        }
        let path = self.wal.options.dir.join(files::segment_name(segment.first));
        let file = match self.wal.disk.open(&path).await {
            Ok(file) => file,
            // Removed a moment ago.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(ReadBackError::Gone(self.next)),
            Err(source) => return Err(ReadBackError::Io { path, offset: 0, source }),
        };
        self.open = Some(Open { segment, file, path, position: 0, ahead: Vec::new(), used: 0 });
        Ok(())
    }
}

impl Open {
    /// Reads on until `count` bytes are there; false: the file has fewer.
    async fn fill(&mut self, count: usize) -> Result<bool, ReadBackError> {
        if self.rest().len() < count {
            let read = self.file.read_at(self.position, count.max(READ_BYTES)).await;
            self.ahead =
                read.map_err(|source| ReadBackError::Io { path: self.path.clone(), offset: self.position, source })?;
            self.used = 0;
        }
        Ok(self.rest().len() >= count)
    }

    fn rest(&self) -> &[u8] {
        &self.ahead[self.used..]
    }

    async fn head(&mut self) -> Result<Option<Head>, ReadBackError> {
        if !self.fill(HEADER_BYTES).await? {
            return Ok(None);
        }
        let Some(header) = self.rest().first_chunk() else { return Ok(None) };
        Head::decode(header).map(Some).map_err(|error| self.damage(error))
    }

    async fn frame(&mut self, head: Head) -> Result<Frame, ReadBackError> {
        let size = HEADER_BYTES + head.length;
        if !self.fill(size).await? {
            return Err(self.damage(FrameError::Truncated));
        }
        let payload = self.rest()[HEADER_BYTES..size].to_vec();
        let frame = Frame::from_parts(head, payload).map_err(|error| self.damage(error))?;
        self.skip(&head);
        Ok(frame)
    }

    fn skip(&mut self, head: &Head) {
        let size = HEADER_BYTES + head.length;
        self.position += size as u64;
        self.used = (self.used + size).min(self.ahead.len());
    }

    fn damage(&self, error: FrameError) -> ReadBackError {
        ReadBackError::Frame { path: self.path.clone(), offset: self.position, error }
    }
}
