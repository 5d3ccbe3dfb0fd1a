//! Reads the frames of a file, one after the other. Whatever is wrong is said with the file and the byte.
//!
//! Blocking; used by a data core's thread before anything is served, and by the command line.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::cover;
use super::frame::{FrameError, HEADER_BYTES, Head};
use crate::shard::statement::Malformed;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[error("'{}' at byte {offset}: {why}", .path.display())]
pub struct ReadError {
    pub path: PathBuf,
    pub offset: u64,
    pub why: Why,
}

/// What is wrong at a place of a file.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Payload(#[from] Malformed),
    #[error("{0}")]
    Order(Disorder),
}

/// Frames that are whole, each for itself, and cannot stand where they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disorder {
    #[error("index {found} where {expected} comes next")]
    Index { expected: u64, found: u64 },
    #[error("index {found} where the file's name says {expected}")]
    Name { expected: u64, found: u64 },
    #[error("a frame that does not belong here")]
    Kind,
    #[error("a frame of a history that the file does not name")]
    History,
    #[error("histories that are not those of the files before it")]
    Line,
    #[error("another number of units or ranges than the frame says")]
    Count,
    #[error("a snapshot that does not end")]
    NoEnd,
    #[error("bytes after the end")]
    AfterEnd,
    #[error("partition {0} is not covered to its end")]
    Uncovered(u16),
    #[error("a partition or a database that does not exist")]
    Range,
    #[error("databases were exchanged while the snapshot was made")]
    Swapped,
}

/// A frame where it lies.
pub struct Located<'a> {
    pub head: Head,
    /// Of its first byte.
    pub offset: u64,
    pub payload: &'a [u8],
}

impl Located<'_> {
    /// The offset of the first byte after it.
    pub fn end(&self) -> u64 {
        self.offset + (HEADER_BYTES + self.head.length) as u64
    }
}

/// A file that is being read.
pub struct FrameReader {
    file: BufReader<File>,
    path: PathBuf,
    size: u64,
    offset: u64,
    payload: Vec<u8>,
}

impl FrameReader {
    pub fn open(path: &Path) -> Result<FrameReader, ReadError> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, file) = opened.map_err(|error| ReadError { path: path.into(), offset: 0, why: error.into() })?;
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(FrameReader { file, path: path.into(), size, offset: 0, payload: Vec::new() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The size of the file when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the next frame begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn error(&self, offset: u64, why: impl Into<Why>) -> ReadError {
        ReadError { path: self.path.clone(), offset, why: why.into() }
    }

    /// The header of the next frame; None at the end of the file. [`FrameReader::payload`] or [`FrameReader::skip`] goes on.
    pub fn head(&mut self) -> Result<Option<Head>, ReadError> {
        if self.offset >= self.size {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        if self.size - self.offset < HEADER_BYTES as u64 {
            return Err(self.error(self.offset, FrameError::Truncated));
        }
        self.read(|file| file.read_exact(&mut header))?;
        Head::decode(&header).map(Some).map_err(|error| self.error(self.offset, error))
    }

    fn read<T>(&mut self, read: impl FnOnce(&mut BufReader<File>) -> io::Result<T>) -> Result<T, ReadError> {
        read(&mut self.file).map_err(|error| match error.kind() {
            // It is shorter than it was when it was opened.
            io::ErrorKind::UnexpectedEof => self.error(self.offset, FrameError::Truncated),
            _ => self.error(self.offset, error),
        })
    }

    fn whole(&self, head: &Head) -> Result<(), ReadError> {
        if self.size - self.offset < (HEADER_BYTES + head.length) as u64 {
            return Err(self.error(self.offset, FrameError::Truncated));
        }
        Ok(())
    }

    /// The payload of the frame whose header was read, checked.
    pub fn payload(&mut self, head: Head) -> Result<Located<'_>, ReadError> {
        self.whole(&head)?;
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(head.length, 0);
        self.read(|file| file.read_exact(&mut payload))?;
        self.payload = payload;
        if crc32fast::hash(&self.payload) != head.payload_crc {
            return Err(self.error(self.offset, FrameError::PayloadChecksum));
        }
        let offset = self.offset;
        self.offset += (HEADER_BYTES + head.length) as u64;
        Ok(Located { head, offset, payload: &self.payload })
    }

    /// Goes over the payload of the frame whose header was read, unseen.
    pub fn skip(&mut self, head: &Head) -> Result<(), ReadError> {
        self.whole(head)?;
        self.read(|file| file.seek_relative(head.length as i64))?;
        self.offset += (HEADER_BYTES + head.length) as u64;
        Ok(())
    }

    /// The next frame, checked; None at the end of the file.
    pub fn next_frame(&mut self) -> Result<Option<Located<'_>>, ReadError> {
        match self.head()? {
            Some(head) => self.payload(head).map(Some),
            None => Ok(None),
        }
    }

    /// Whether some frame that `wanted` accepts begins at `from` or later.
    pub fn any_frame_after(&mut self, from: u64, wanted: impl Fn(&Head) -> bool) -> Result<bool, ReadError> {
        let magic = super::frame::MAGIC.to_le_bytes();
        let mut at = from;
        let mut block = vec![0; BUFFER_BYTES + magic.len() - 1];
        while at < self.size {
            let count = (block.len() as u64).min(self.size - at) as usize;
            self.read(|file| file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut block[..count])))?;
            for found in memchr::memmem::find_iter(&block[..count], &magic) {
                if self.is_frame(at + found as u64, &wanted) {
                    return Ok(true);
                }
            }
            if count < block.len() {
                break;
            }
            at += BUFFER_BYTES as u64;
        }
        Ok(false)
    }

    fn is_frame(&mut self, at: u64, wanted: impl Fn(&Head) -> bool) -> bool {
        self.offset = at;
        let found = self.file.seek(SeekFrom::Start(at)).is_ok()
            && matches!(self.head(), Ok(Some(head)) if wanted(&head) && self.payload(head).is_ok());
        self.offset = self.size;
        found
    }
}

/// The ranges of a Cover frame; what is wrong is at the frame's offset.
pub fn covers(mut payload: &[u8]) -> impl Iterator<Item = Result<(cover::Range, &[u8]), Malformed>> {
    let mut over = false;
    std::iter::from_fn(move || {
        if over {
            return None;
        }
        let record = cover::next_record(&mut payload).transpose();
        over = !matches!(record, Some(Ok(_)));
        record
    })
}
