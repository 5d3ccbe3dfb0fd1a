//! What can be wrong with raft's files. All of it is fatal for the node: what raft has promised is on its disk.
//!
//! No state.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::snapshot::SnapshotError;
use super::stored::StoredError;
use crate::log::reader::ReadError;

/// Why raft's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("'{}': {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{0}; restore the file from a copy of this moment, or remove the node from the cluster and let it join anew"
    )]
    Frame(#[from] ReadError),
    #[error("'{}' at byte {offset}: {why}", .path.display())]
    Record { path: PathBuf, offset: u64, why: StoredError },
    #[error("'{}' begins with record {found}, and {expected} comes next: files are missing", .path.display())]
    Gap { path: PathBuf, expected: u64, found: u64 },
    #[error("'{}': the log of raft begins with entry {first}, and those before it were not purged: files are missing", .path.display())]
    NoBeginning { path: PathBuf, first: u64 },
    #[error("'{}' has snapshots of raft and no log: files are missing", .path.display())]
    NoLog { path: PathBuf },
    #[error("'{}': the latest snapshot of raft ends before entry {next}, and the log was purged up to entry {purged}: files are missing", .path.display())]
    Behind { path: PathBuf, next: u64, purged: u64 },
    #[error("'{}': {why}; restore the file from a copy of this moment, or remove the node from the cluster and let it join anew", .path.display())]
    Snapshot { path: PathBuf, why: SnapshotError },
    #[error("the snapshot of another node: {0}")]
    Received(SnapshotError),
    #[error("raft's log was asked for what makes no sense: {0}")]
    Senseless(&'static str),
    #[error("{0}")]
    Stored(#[from] StoredError),
    /// Said again to whoever comes later.
    #[error("raft's files cannot be written any more: {0}")]
    Failed(Rc<str>),
}

impl StoreError {
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> StoreError + '_ {
        move |source| StoreError::Io { path: path.into(), source }
    }
}

/// As openraft wants it. It cannot go to another thread, so what is kept of it is its text.
impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> io::Error {
        io::Error::other(error.to_string())
    }
}
