//! Reading a dump file: which keys are taken, and what is told of it.
//!
//! Owned by whoever reads.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use crate::log::files::DirError;
use crate::log::recover::RecoverError;
use crate::rdb::{self, ImportOptions, KeyHeader, Note, Visitor};
use crate::route::slot_of;
use crate::shard::{Kind, UnixMs};

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Most keys of which a summary tells that they were left out, each by its name.
const SKIPPED_SHOWN_MAX: usize = 10;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("cannot open '{}': {source}", .path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot import '{}': {source}", .path.display())]
    Read { path: PathBuf, source: rdb::Error },
    #[error("cannot import '{}': {source}; 'keyloom import --skip-unsupported' takes what else is in it", .path.display())]
    Unsupported { path: PathBuf, source: rdb::Error },
    #[error("cannot import '{}': it has keys in database {database}, and there are {databases}: see 'databases'", .path.display())]
    Databases { path: PathBuf, database: usize, databases: usize },
    #[error("cannot import '{}': no such command as {command}, or not in this form", .path.display())]
    Statement { path: PathBuf, command: String },
    #[error("'{}' holds data already: import into an empty directory", .0.display())]
    HasData(PathBuf),
    #[error("{0}")]
    Directory(#[from] DirError),
    #[error("cannot look into '{}': {source}", .path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("cannot write '{}': {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Recover(#[from] RecoverError),
}

/// What ends the reading of a file.
#[derive(Debug)]
pub(super) enum Stop {
    Read(rdb::Error),
    Database(usize),
    Statement(String),
    /// A database comes after a higher one.
    Order,
    Write(io::Error),
}

impl From<rdb::Error> for Stop {
    fn from(error: rdb::Error) -> Stop {
        Stop::Read(error)
    }
}

/// What was in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The version of the format.
    pub version: u32,
    pub bytes: u64,
    /// Keys that were taken, by type.
    strings: u64,
    lists: u64,
    sets: u64,
    hashes: u64,
    sorted_sets: u64,
    /// Those of each database.
    pub databases: BTreeMap<usize, u64>,
    /// Keys that were over.
    pub expired: u64,
    /// Streams and values of modules that were left out, and the names of the first.
    pub skipped: u64,
    skipped_first: Vec<String>,
    /// Libraries of functions and data of modules that were left out.
    pub functions: u64,
    pub module_data: u64,
    /// A key was taken, and no statement of it has come.
    begun: bool,
}

impl Imported {
    /// Keys that were taken.
    pub fn keys(&self) -> u64 {
        self.databases.values().sum()
    }

    /// Whether a key is taken at this time.
    pub(super) fn takes(&mut self, header: &KeyHeader, now_ms: UnixMs) -> bool {
        let expired = header.expire_at.is_some_and(|ms| ms <= now_ms);
        self.expired += expired as u64;
        self.begun = !expired;
        !expired
    }

    /// A statement of a key that is taken: with the first one it counts. Empty collections have none.
    pub(super) fn count(&mut self, header: &KeyHeader) {
        if !std::mem::take(&mut self.begun) {
            return;
        }
        let count = match header.kind {
            Kind::String => &mut self.strings,
            Kind::List => &mut self.lists,
            Kind::Set => &mut self.sets,
            Kind::Hash => &mut self.hashes,
            Kind::SortedSet => &mut self.sorted_sets,
        };
        *count += 1;
        *self.databases.entry(header.database).or_default() += 1;
    }

    /// The file is read from its start again, for other keys: what it holds besides keys is counted anew.
    pub(super) fn start_over(&mut self) {
        (self.skipped, self.functions, self.module_data) = (0, 0, 0);
        self.skipped_first.clear();
    }

    pub(super) fn note(&mut self, note: &Note) {
        match note {
            Note::Functions { .. } => self.functions += 1,
            Note::ModuleData => self.module_data += 1,
            Note::Skipped { database, key, what } => {
                self.skipped += 1;
                if self.skipped_first.len() < SKIPPED_SHOWN_MAX {
                    self.skipped_first.push(format!("\"{}\" in database {database}, {what}", key.escape_ascii()));
                }
            }
            Note::Aux { .. } | Note::DatabaseSize { .. } | Note::Slot { .. } | Note::Empty { .. } => {}
        }
    }

    /// What was not taken, in words; None: everything was.
    pub fn left_out(&self) -> Option<String> {
        let counts = [
            (self.expired, "keys that have expired"),
            (self.skipped, "keys of other types"),
            (self.functions, "libraries of functions"),
            (self.module_data, "data of modules"),
        ];
        let words = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let words: Vec<String> = words.collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "RDB version {}, {} bytes, {} keys", self.version, self.bytes, self.keys())?;
        let types = [
            ("strings", self.strings),
            ("lists", self.lists),
            ("sets", self.sets),
            ("hashes", self.hashes),
            ("sorted sets", self.sorted_sets),
        ];
        for (name, count) in types.iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "  {name}: {count}")?;
        }
        for (database, keys) in &self.databases {
            writeln!(f, "  database {database}: {keys}")?;
        }
        if let Some(left_out) = self.left_out() {
            writeln!(f, "left out: {left_out}")?;
        }
        for key in &self.skipped_first {
            writeln!(f, "  {key}")?;
        }
        Ok(())
    }
}

/// Opens a file and lets `visitor` hear of it. Returns its version and its size.
pub(super) fn read<V: Visitor<Error = Stop>>(
    path: &Path,
    skip_unsupported: bool,
    databases: usize,
    visitor: &mut V,
) -> Result<Result<(u32, u64), Disordered>, ImportError> {
    let file = File::open(path).map_err(|source| ImportError::Open { path: path.into(), source })?;
    let input = BufReader::with_capacity(BUFFER_BYTES, file);
    let options = ImportOptions { skip_unsupported, ..ImportOptions::default() };
    let path = path.to_path_buf();
    match rdb::import(input, &options, visitor) {
        Ok(summary) => Ok(Ok((summary.version, summary.bytes))),
        Err(Stop::Order) => Ok(Err(Disordered)),
        Err(Stop::Read(source @ rdb::Error::Unsupported { .. })) => Err(ImportError::Unsupported { path, source }),
        Err(Stop::Read(source)) => Err(ImportError::Read { path, source }),
        Err(Stop::Database(database)) => Err(ImportError::Databases { path, database, databases }),
        Err(Stop::Statement(command)) => Err(ImportError::Statement { path, command }),
        Err(Stop::Write(source)) => Err(ImportError::Write { path, source }),
    }
}

/// Databases do not come in ascending order.
#[derive(Debug)]
pub(super) struct Disordered;

/// Lets a core hear of its own keys: those in slots for which `owns` holds and that are not over at `now_ms`. `visit` gets
/// each statement with its database; None from it: no such command.
pub fn load(
    path: &Path,
    databases: usize,
    now_ms: UnixMs,
    owns: impl Fn(u16) -> bool,
    visit: impl FnMut(u8, &[&[u8]]) -> Option<()>,
) -> Result<Imported, ImportError> {
    let mut loader = Loader { databases, now_ms, owns, visit, imported: Imported::default() };
    // Nothing in here minds the order.
    let (version, bytes) = read(path, false, databases, &mut loader)?.unwrap_or_default();
    Ok(Imported { version, bytes, ..loader.imported })
}

struct Loader<O, F> {
    databases: usize,
    now_ms: UnixMs,
    owns: O,
    visit: F,
    imported: Imported,
}

impl<O: Fn(u16) -> bool, F: FnMut(u8, &[&[u8]]) -> Option<()>> Visitor for Loader<O, F> {
    type Error = Stop;

    fn key(&mut self, header: &KeyHeader) -> Result<bool, Stop> {
        if header.database >= self.databases {
            return Err(Stop::Database(header.database));
        }
        Ok((self.owns)(slot_of(header.key)) && self.imported.takes(header, self.now_ms))
    }

    fn statement(&mut self, header: &KeyHeader, statement: &[&[u8]]) -> Result<(), Stop> {
        self.imported.count(header);
        let unknown = || Stop::Statement(statement[0].escape_ascii().to_string());
        (self.visit)(header.database as u8, statement).ok_or_else(unknown)
    }

    fn note(&mut self, note: Note) -> Result<(), Stop> {
        self.imported.note(&note);
        Ok(())
    }
}
