//! The data directory: what lies in it, under which names, and who may use it.
//!
//! ```text
//! lock                            held by the process that uses the directory
//! node-id                         32 hex digits, drawn once
//! log-<first index>.kl            a segment: a Segment frame, then Log frames with consecutive indices
//! snapshot-<end index>.kl         Begin, then Log and Cover frames in the order of the stream, then End
//! *.tmp                           being written; removed at the next start
//! ```
//!
//! Indices have 20 digits, so that names sort as indices do. Segments and snapshots get their final name when what they
//! begin with (segments) or all of them (snapshots) is on disk.
//!
//! Used by the main thread at start; blocking.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::frame::Index;

/// The identity of a node: 128 random bits, drawn at its first start.
pub type NodeId = u128;

const LOCK: &str = "lock";
const NODE_ID: &str = "node-id";
const SEGMENT: &str = "log-";
const SNAPSHOT: &str = "snapshot-";
const SUFFIX: &str = ".kl";
const TEMPORARY: &str = ".tmp";
const DIGITS: usize = 20;

/// Longest node-id file that is looked at.
const NODE_ID_BYTES_MAX: u64 = 64;

/// The name of the segment whose first unit has this index.
pub fn segment_name(first: Index) -> String {
    format!("{SEGMENT}{first:020}{SUFFIX}")
}

/// The name of the snapshot that contains all units up to this index.
pub fn snapshot_name(end: Index) -> String {
    format!("{SNAPSHOT}{end:020}{SUFFIX}")
}

/// The name under which the file `name` is written before it is complete.
pub fn temporary_name(name: &str) -> String {
    format!("{name}{TEMPORARY}")
}

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// With its first index.
    Segment(Index),
    /// With its end index.
    Snapshot(Index),
    /// Left by a process that ended while it wrote.
    Temporary,
}

/// What `name` is here; None: none of ours.
pub fn named(name: &str) -> Option<Named> {
    if let Some(name) = name.strip_suffix(TEMPORARY) {
        let ours = name == NODE_ID || name == LOCK || name.starts_with(SEGMENT) || name.starts_with(SNAPSHOT);
        return ours.then_some(Named::Temporary);
    }
    let name = name.strip_suffix(SUFFIX)?;
    let index = |digits: &str| {
        let valid = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<Index>().ok().filter(|_| valid)
    };
    match name.strip_prefix(SEGMENT) {
        Some(digits) => index(digits).map(Named::Segment),
        None => name.strip_prefix(SNAPSHOT).and_then(index).map(Named::Snapshot),
    }
}

/// What lies in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// First indices of the segments, ascending.
    pub segments: Vec<Index>,
    /// End indices of the snapshots, ascending.
    pub snapshots: Vec<Index>,
    /// Names of files that were never completed.
    pub temporary: Vec<String>,
}

/// Looks what is there.
pub fn list(dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        match named(name) {
            Some(Named::Segment(first)) => listing.segments.push(first),
            Some(Named::Snapshot(end)) => listing.snapshots.push(end),
            Some(Named::Temporary) => listing.temporary.push(name.to_string()),
            None => {}
        }
    }
    listing.segments.sort_unstable();
    listing.snapshots.sort_unstable();
    listing.temporary.sort_unstable();
    Ok(listing)
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    #[error("the data directory '{}' does not exist: create it, or choose another with 'dir'", .0.display())]
    Missing(PathBuf),
    #[error("'{}' is not a directory: choose another with 'dir'", .0.display())]
    NotADirectory(PathBuf),
    #[error("cannot write to the data directory '{}': {source}: give user {user} the right to, or choose another with 'dir'", .dir.display())]
    NotWritable { dir: PathBuf, user: u32, source: io::Error },
    #[error("the data directory '{}' is in use by another process: stop that one, or choose another with 'dir'", .0.display())]
    InUse(PathBuf),
    #[error("'{}' holds no node id (32 hex digits): restore the file; without it this would be a new node", .0.display())]
    NodeId(PathBuf),
    #[error("'{}': {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A directory that this process alone uses, for as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    node_id: NodeId,
    /// The system releases it with the process, however that ends.
    _lock: File,
}

impl DataDir {
    /// Takes the directory: locks it, checks that it can be written to, removes what was never completed, and reads the
    /// node's id, or draws one.
    pub fn open(path: &Path) -> Result<DataDir, DirError> {
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(DirError::NotADirectory(path.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(DirError::Missing(path.into())),
            Err(source) => return Err(DirError::Io { path: path.into(), source }),
        }
        let lock = lock(path)?;
        let broken = |source| DirError::Io { path: path.into(), source };
        for name in list(path).map_err(broken)?.temporary {
            let path = path.join(name);
            fs::remove_file(&path).map_err(|source| DirError::Io { path, source })?;
        }
        // The lock file may be there already, so only a new file tells whether there can be any.
        let probe = path.join(temporary_name(LOCK));
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(|source| not_writable(path, source))?;
        let node_id = node_id(path)?;
        Ok(DataDir { path: path.into(), node_id, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn node_id(&self) -> NodeId {
        self.node_id
    }
}

fn not_writable(dir: &Path, source: io::Error) -> DirError {
    DirError::NotWritable { dir: dir.into(), user: user(), source }
}

fn user() -> u32 {
    // /proc says who we are without a system call of our own.
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").map_or(0, |meta| meta.uid())
}

pub fn lock(dir: &Path) -> Result<File, DirError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|source| not_writable(dir, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DirError::InUse(dir.into())),
        Err(TryLockError::Error(source)) => Err(DirError::Io { path, source }),
    }
}

fn node_id(dir: &Path) -> Result<NodeId, DirError> {
    let path = dir.join(NODE_ID);
    let broken = |source| DirError::Io { path: path.clone(), source };
    match fs::metadata(&path) {
        Ok(meta) if meta.len() > NODE_ID_BYTES_MAX => Err(DirError::NodeId(path)),
        Ok(_) => {
            let text = fs::read(&path).map_err(broken)?;
            let digits = text.strip_suffix(b"\n").unwrap_or(&text);
            let valid = digits.len() == 32 && digits.iter().all(u8::is_ascii_hexdigit);
            let digits = std::str::from_utf8(digits).ok().filter(|_| valid);
            let id = digits.and_then(|digits| NodeId::from_str_radix(digits, 16).ok());
            id.ok_or(DirError::NodeId(path))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).map_err(|error| broken(io::Error::other(error)))?;
            let id = NodeId::from_le_bytes(bytes);
            write_whole(dir, NODE_ID, format!("{id:032x}\n").as_bytes()).map_err(broken)?;
            Ok(id)
        }
        Err(source) => Err(broken(source)),
    }
}

/// Writes a small file so that it is there as a whole or not at all, also after a power cut.
pub fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(temporary_name(name));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    sync_dir(dir)
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes all data, so that what is left at any time is a log and its snapshot: for data of another origin that is to
/// take its place.
pub fn clear(dir: &Path) -> io::Result<()> {
    let listing = list(dir)?;
    let segments = listing.segments.iter().rev().map(|first| segment_name(*first));
    let snapshots = listing.snapshots.iter().rev().map(|end| snapshot_name(*end));
    for name in segments.chain(snapshots) {
        fs::remove_file(dir.join(name))?;
    }
    sync_dir(dir)
}

/// A directory for a test, removed when this is dropped.
#[cfg(test)]
pub(crate) mod scratch {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    pub struct Scratch(pub PathBuf);

    impl Scratch {
        pub fn new(name: &str) -> Scratch {
            Scratch::within(&std::env::temp_dir(), name)
        }

        /// Where nothing waits for a device, if there is such a place.
        pub fn in_memory(name: &str) -> Scratch {
            let memory = Path::new("/dev/shm");
            if memory.is_dir() { Scratch::within(memory, name) } else { Scratch::new(name) }
        }

        fn within(place: &Path, name: &str) -> Scratch {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let dir = place.join(format!("keyloom-{name}-{}-{number}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            Scratch(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::scratch::Scratch;
    use super::*;

    #[test]
    fn names_say_what_files_are() {
        assert_eq!(segment_name(42), "log-00000000000000000042.kl");
        assert_eq!(named(&segment_name(Index::MAX)), Some(Named::Segment(Index::MAX)));
        assert_eq!(named(&snapshot_name(7)), Some(Named::Snapshot(7)));
        assert_eq!(named(&temporary_name(&snapshot_name(7))), Some(Named::Temporary));
        for other in ["log-42.kl", "log-0000000000000000004x.kl", "log-+0000000000000000042.kl", "dump.rdb", "x.tmp"] {
            assert_eq!(named(other), None, "{other}");
        }
        assert_eq!(named("log-99999999999999999999.kl"), None, "no index is that large");
    }

    #[test]
    fn one_process_at_a_time_and_an_id_for_life() {
        let scratch = Scratch::new("dir");
        let dir = &scratch.0;
        fs::write(dir.join("snapshot-00000000000000000009.kl.tmp"), "half").unwrap();
        fs::write(dir.join(segment_name(3)), "").unwrap();
        let open = DataDir::open(dir).unwrap();
        let listing = list(dir).unwrap();
        assert_eq!((listing.segments, listing.temporary), (vec![3], Vec::<String>::new()));
        let refused = DataDir::open(dir).unwrap_err();
        assert!(matches!(refused, DirError::InUse(_)), "{refused}");
        let id = open.node_id();
        drop(open);
        assert_eq!(DataDir::open(dir).unwrap().node_id(), id);
        for damaged in ["", "123", &"g".repeat(32), &"1".repeat(33), &"+".repeat(32), &"1".repeat(1000)] {
            fs::write(dir.join(NODE_ID), damaged).unwrap();
            let refused = DataDir::open(dir).unwrap_err();
            assert!(matches!(refused, DirError::NodeId(_)), "{refused}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let scratch = Scratch::new("dir");
        let missing = DataDir::open(&scratch.0.join("none")).unwrap_err();
        assert!(matches!(missing, DirError::Missing(_)), "{missing}");
        let file = scratch.0.join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(DataDir::open(&file).unwrap_err(), DirError::NotADirectory(_)));
        // Nobody can make a file there, whoever runs the test.
        let refused = DataDir::open(Path::new("/proc/self")).unwrap_err();
        assert!(matches!(refused, DirError::NotWritable { .. }), "{refused}");
    }
}
