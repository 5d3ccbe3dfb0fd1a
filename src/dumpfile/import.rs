//! From a dump file to a snapshot.
//!
//! A snapshot says of each partition, database by database, what is in it. A dump file has its keys in any order. So the
//! first statement of a partition and a database covers all of it, and whatever follows adds to that, as the slices of a
//! large collection do ([`crate::log::cover`]): for a reader without a log in between that is the same.
//!
//! Databases ascend in files of Redis. Where they do not, the file is read once for each of them.
//!
//! The file has a temporary name until all of it is on disk, and a directory has the data as a whole or not at all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::reading::{ImportError, Imported, Stop, read};
use crate::log::cover::{self, UPTO_END};
use crate::log::files::{self, DataDir};
use crate::log::frame::{Begin, End, Frame, HistoryEntry, HistoryId, Kind};
use crate::rdb::{KeyHeader, Note, Visitor};
use crate::route::{Hasher, slot_of};
use crate::shard::UnixMs;
use crate::shard::statement;

/// A frame is written when it has so many bytes.
const FRAME_BYTES: usize = 256 * 1024;

/// Bytes that gather before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// What the snapshot is for, and as of when.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub partitions: u16,
    pub databases: usize,
    /// Go over streams and values of modules.
    pub skip_unsupported: bool,
    /// Keys that are over by then are left out.
    pub now_ms: UnixMs,
}

/// Makes the data of a directory from a file; there must be none in it.
pub fn import(path: &Path, dir: &DataDir, target: &Target) -> Result<Imported, ImportError> {
    let listing = files::list(dir.path());
    let listing = listing.map_err(|source| ImportError::List { path: dir.path().into(), source })?;
    if !listing.segments.is_empty() || !listing.snapshots.is_empty() {
        return Err(ImportError::HasData(dir.path().into()));
    }
    let name = files::snapshot_name(0);
    let temporary = dir.path().join(files::temporary_name(&name));
    let imported = write(path, &temporary, target).inspect_err(|_| {
        // Nothing may be there; and what is, the next start removes.
        let _ = fs::remove_file(&temporary);
    })?;
    let done = fs::rename(&temporary, dir.path().join(&name)).and_then(|()| files::sync_dir(dir.path()));
    done.map_err(|source| ImportError::Write { path: dir.path().join(name), source })?;
    Ok(imported)
}

/// Writes the whole snapshot, and syncs it.
fn write(path: &Path, temporary: &Path, target: &Target) -> Result<Imported, ImportError> {
    let broken = |source| ImportError::Write { path: temporary.into(), source };
    let started = |wanted| Stream::start(temporary, target, wanted).map_err(broken);
    let mut stream = started(None)?;
    let pass = |stream: &mut Stream| {
        let done = read(path, target.skip_unsupported, target.databases, stream);
        done.map_err(|error| match error {
            ImportError::Write { source, .. } => broken(source),
            error => error,
        })
    };
    let (version, bytes) = match pass(&mut stream)? {
        Ok(done) => done,
        Err(_) => {
            let mut last = (0, 0);
            let mut all = Databases::default();
            let named = read(path, true, target.databases, &mut all)?;
            debug_assert!(named.is_ok(), "any order is as good as another");
            stream = started(None)?;
            for database in all.0 {
                stream.only = Some(database);
                stream.imported.start_over();
                last = pass(&mut stream)?.unwrap_or(last);
            }
            last
        }
    };
    let mut imported = stream.end().map_err(broken)?;
    (imported.version, imported.bytes) = (version, bytes);
    Ok(imported)
}

/// The databases that have keys.
#[derive(Default)]
struct Databases(BTreeSet<usize>);

impl Visitor for Databases {
    type Error = Stop;

    fn key(&mut self, header: &KeyHeader) -> Result<bool, Stop> {
        self.0.insert(header.database);
        Ok(false)
    }

    fn statement(&mut self, _header: &KeyHeader, _statement: &[&[u8]]) -> Result<(), Stop> {
        Ok(())
    }
}

/// The snapshot that is being written.
struct Stream {
    out: BufWriter<File>,
    hasher: Hasher,
    history: HistoryId,
    target: Target,
    imported: Imported,
    /// Only keys of this database are taken.
    only: Option<usize>,
    /// The database of the last key.
    database: usize,
    /// By partition: the last database that is covered.
    covered: Vec<Option<u8>>,
    /// The frame that is being gathered, with the number of its records.
    records: Vec<u8>,
    count: u32,
    /// Frames so far.
    covers: u64,
}

impl Stream {
    fn start(temporary: &Path, target: &Target, only: Option<usize>) -> io::Result<Stream> {
        let mut random = [0; 48];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let word = |at: usize| std::array::from_fn(|byte| random[8 * at + byte]);
        let seeds: [u64; 4] = std::array::from_fn(|at| u64::from_le_bytes(word(at)));
        let history = HistoryId::from_le_bytes(std::array::from_fn(|byte| random[32 + byte])).max(1);
        let mut stream = Stream {
            out: BufWriter::with_capacity(BUFFER_BYTES, File::create(temporary)?),
            hasher: Hasher::new(target.partitions, seeds),
            history,
            target: *target,
            imported: Imported::default(),
            only,
            database: 0,
            covered: vec![None; target.partitions as usize],
            records: Vec::new(),
            count: 0,
            covers: 0,
        };
        let histories = vec![HistoryEntry { id: history, cut: 0 }];
        let begin = Begin { partitions: target.partitions, databases: target.databases as u16, seeds, histories };
        stream.push(&Frame::of(Kind::Begin, history, 1, target.now_ms, &begin))?;
        Ok(stream)
    }

    fn push(&mut self, frame: &Frame) -> io::Result<()> {
        self.out.write_all(frame.header())?;
        self.out.write_all(frame.payload())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let (records, count) = (std::mem::take(&mut self.records), std::mem::take(&mut self.count));
        self.covers += 1;
        self.push(&Frame::new(Kind::Cover, self.history, 1, self.target.now_ms, count, records))
    }

    /// Adds a record; without a statement it only says that there is nothing more.
    fn record(&mut self, db: u8, partition: u16, key: Option<(&[u8], &[&[u8]])>) -> io::Result<()> {
        let upto = if self.covered[partition as usize] == Some(db) { 0 } else { UPTO_END };
        self.covered[partition as usize] = Some(db);
        cover::encode(&mut self.records, db, partition, 0, |out| {
            if let Some((key, statement)) = key {
                statement::encode(out, db, Some(slot_of(key)), statement);
            }
            upto
        });
        self.count += 1;
        if self.records.len() >= FRAME_BYTES { self.flush() } else { Ok(()) }
    }

    fn end(mut self) -> io::Result<Imported> {
        let last = (self.target.databases - 1) as u8;
        for partition in 0..self.target.partitions {
            if self.covered[partition as usize] != Some(last) {
                self.record(last, partition, None)?;
            }
        }
        self.flush()?;
        let end = End { covers: self.covers };
        let end = Frame::of(Kind::End, self.history, 1, self.target.now_ms, &end);
        self.push(&end)?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(self.imported)
    }
}

impl Visitor for Stream {
    type Error = Stop;

    fn key(&mut self, header: &KeyHeader) -> Result<bool, Stop> {
        if header.database >= self.target.databases {
            return Err(Stop::Database(header.database));
        }
        match self.only {
            Some(only) if only != header.database => return Ok(false),
            None if header.database < self.database => return Err(Stop::Order),
            _ => self.database = header.database,
        }
        Ok(self.imported.takes(header, self.target.now_ms))
    }

    fn statement(&mut self, header: &KeyHeader, statement: &[&[u8]]) -> Result<(), Stop> {
        self.imported.count(header);
        let partition = self.hasher.key(header.key).partition;
        let done = self.record(header.database as u8, partition, Some((header.key, statement)));
        done.map_err(Stop::Write)
    }

    fn note(&mut self, note: Note) -> Result<(), Stop> {
        self.imported.note(&note);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::log::{recover, replay};
    use crate::rdb::{ExportOptions, Saved, WriteError, export};

    const NOW_MS: UnixMs = 1_700_000_000_000;

    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("keyloom-import-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("data")).unwrap();
        dir
    }

    /// A file with keys in these databases, in this order.
    fn file(dir: &Path, databases: &[usize]) -> PathBuf {
        let path = dir.join("dump.rdb");
        export(File::create(&path).unwrap(), &ExportOptions::default(), |file| {
            for (round, database) in databases.iter().enumerate() {
                file.database(*database, 40, 10)?;
                for n in 0..40 {
                    let expire_at = (n % 4 == 0).then_some(NOW_MS + if n % 8 == 0 { 0 } else { 1 });
                    let key = format!("key:{round}:{n}");
                    file.key(key.as_bytes(), &Saved::String(b"value"), expire_at, NOW_MS.into())?;
                }
            }
            Ok::<_, WriteError>(())
        })
        .unwrap();
        path
    }

    fn target(databases: usize) -> Target {
        Target { partitions: 16, databases, skip_unsupported: false, now_ms: NOW_MS }
    }

    /// Databases and keys that a start would find.
    fn found(dir: &Path) -> BTreeSet<(u8, String)> {
        let plan = recover::inspect(dir).unwrap();
        assert!(!plan.is_empty() && plan.end == 0);
        let mut found = BTreeSet::new();
        let visit = |db: u8, args: &[&[u8]]| {
            if args[0] == b"SET" {
                assert!(found.insert((db, String::from_utf8(args[1].to_vec()).unwrap())), "a key comes twice");
            }
            Ok::<_, String>(())
        };
        replay::replay(&plan, |_| true, visit, |_, _| ()).unwrap();
        found
    }

    #[test]
    fn any_order_of_databases_becomes_the_same_data() {
        let dir = directory("order");
        for order in [&[0usize, 1, 7][..], &[7, 0, 1], &[1, 7, 1, 0]] {
            let path = file(&dir, order);
            let _ = fs::remove_dir_all(dir.join("data"));
            fs::create_dir_all(dir.join("data")).unwrap();
            let data = DataDir::open(&dir.join("data")).unwrap();
            let imported = import(&path, &data, &target(8)).unwrap();
            let expected = (0..order.len()).flat_map(|round| (0..40).map(move |n| (round, n)));
            let expected = expected.filter(|(_, n)| n % 8 != 0);
            let expected = expected.map(|(round, n)| (order[round] as u8, format!("key:{round}:{n}")));
            assert_eq!(found(data.path()), expected.collect());
            assert_eq!((imported.keys(), imported.expired), (35 * order.len() as u64, 5 * order.len() as u64));
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_empty_file_is_data_too_and_what_is_there_is_kept() {
        let dir = directory("empty");
        let path = file(&dir, &[]);
        let data = DataDir::open(&dir.join("data")).unwrap();
        assert_eq!(import(&path, &data, &target(16)).unwrap().keys(), 0);
        assert!(found(data.path()).is_empty());
        assert!(matches!(import(&path, &data, &target(16)), Err(ImportError::HasData(_))));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_cannot_be_read_leaves_nothing_behind() {
        let dir = directory("damage");
        let path = file(&dir, &[0, 3]);
        let data = DataDir::open(&dir.join("data")).unwrap();
        let error = import(&path, &data, &target(3)).unwrap_err();
        assert!(matches!(error, ImportError::Databases { database: 3, databases: 3, .. }), "{error}");
        let bytes = fs::read(&path).unwrap();
        for end in 0..bytes.len() {
            fs::write(&path, &bytes[..end]).unwrap();
            assert!(import(&path, &data, &target(8)).is_err(), "cut at {end}");
        }
        assert_eq!(files::list(data.path()).unwrap(), files::Listing::default());
        fs::write(&path, bytes).unwrap();
        assert_eq!(import(&path, &data, &target(8)).unwrap().keys(), 70);
        fs::remove_dir_all(dir).unwrap();
    }
}
