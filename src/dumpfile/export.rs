//! From the files of the log to a dump file.
//!
//! One engine, without sockets, replays everything, as the cores of a node do at their start; then its entries are written.
//! So it takes the memory that the data takes.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::config::load::CLUSTER_PARTITIONS;
use crate::control::cluster;
use crate::engine::Engine;
use crate::log::files;
use crate::log::recover::{self, RecoverError};
use crate::log::replay;
use crate::rdb::{self, ExportOptions, Saved, WriteError};
use crate::resp::Output;
use crate::route::{Hasher, Router};
use crate::shard::FOLLOWED;
use crate::state::{KEYLOOM_VERSION, REDIS_VERSION};

/// More databases than any node has.
const DATABASES: usize = 256;

/// Keys whose names are gathered at a time.
const SCAN_KEYS: usize = 512;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{0}")]
    Recover(#[from] RecoverError),
    #[error("'{}' holds no data", .0.display())]
    NoData(PathBuf),
    #[error("'{}' is there already: remove it, or choose another name", .0.display())]
    Exists(PathBuf),
    #[error("cannot write '{}': {source}", .path.display())]
    Write { path: PathBuf, source: WriteError },
    #[error("cannot draw random numbers: {0}")]
    Random(getrandom::Error),
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    pub keys: u64,
    pub databases: usize,
    pub bytes: u64,
    /// The version of the format: 10, or 12 if fields of hashes expire.
    pub version: u16,
}

/// Writes what the data directory `dir` holds to `path`. What a member of a cluster has led and what it has followed are one keyspace,
/// and there the first database.
pub fn export(dir: &Path, path: &Path) -> Result<Exported, ExportError> {
    if path.exists() {
        return Err(ExportError::Exists(path.into()));
    }
    let mut engine = load(dir)?;
    let plain = write(&mut engine, path, false);
    match plain {
        Err(ExportError::Write { source: WriteError::FieldDeadlines { .. }, .. }) => write(&mut engine, path, true),
        done => done,
    }
}

/// Whether raft's files are beside a data directory.
fn is_of_member(dir: &Path) -> bool {
    let around = |dir: PathBuf| cluster::raft_dir(dir.parent()?);
    [std::path::absolute(dir), fs::canonicalize(dir)].into_iter().flatten().find_map(around).is_some()
}

/// An engine with all the data.
fn load(dir: &Path) -> Result<Engine, ExportError> {
    let plan = recover::inspect(dir)?;
    if plan.is_empty() {
        return Err(ExportError::NoData(dir.into()));
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(ExportError::Random)?;
    let word = |at: usize| std::array::from_fn(|byte| seed[8 * at + byte]);
    let seeds = std::array::from_fn(|at| u64::from_le_bytes(word(at)));
    // A log alone does not say how many partitions there were: it only matters for those that were dropped.
    let begun = plan.snapshot.as_ref().map(|snapshot| snapshot.begin.partitions);
    let config = match is_of_member(dir) {
        true => Config { cluster_enabled: true, partitions: begun.unwrap_or(CLUSTER_PARTITIONS), ..Config::default() },
        false => Config { databases: DATABASES, ..Config::default() },
    };
    let partitions = config.partitions;
    let mut engine = Engine::new(Router::new(0, 1, partitions), Hasher::new(partitions, seeds), Arc::new(config), 1);
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    engine.shard.set_now(since_epoch.map_or(0, |time| time.as_millis() as i64));
    let mut void = Output::new();
    replay::replay(
        &plan,
        |_| true,
        |db, args| engine.replay(db, args, &mut void).ok_or("no such command, or not in this form"),
        |_, _| {},
    )?;
    Ok(engine)
}

/// Writes a file so that it is there as a whole or not at all.
fn write(engine: &mut Engine, path: &Path, field_deadlines: bool) -> Result<Exported, ExportError> {
    let mut name = path.as_os_str().to_os_string();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let written = write_whole(engine, &temporary, field_deadlines).and_then(|done| {
        fs::rename(&temporary, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        files::sync_dir(dir)?;
        Ok(done)
    });
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        ExportError::Write { path: path.into(), source }
    })
}

fn write_whole(engine: &mut Engine, temporary: &Path, field_deadlines: bool) -> Result<Exported, WriteError> {
    let output = OpenOptions::new().write(true).create(true).truncate(true).open(temporary)?;
    let ctime = (engine.shard.now_ms() / 1000).to_string();
    let aux = [("redis-ver", REDIS_VERSION), ("redis-bits", "64"), ("ctime", &ctime), ("keyloom-ver", KEYLOOM_VERSION)];
    let options = ExportOptions { field_deadlines, aux: &aux };
    let (mut keys, mut databases) = (0, 0);
    let output = rdb::export(output, &options, |file| {
        for db in 0..engine.shard.databases() {
            // Where roles are known later, everything was replayed as followed.
            let from = if engine.shard.has_roles() { FOLLOWED } else { db };
            let size = engine.shard.size(from);
            if size.keys == 0 {
                continue;
            }
            databases += 1;
            file.database(db, size.keys as u64, size.expires as u64)?;
            write_database(engine, from, file)?;
        }
        keys = file.keys();
        Ok::<_, WriteError>(())
    })?;
    output.sync_all()?;
    let version = if field_deadlines { rdb::FIELD_DEADLINES_VERSION } else { rdb::VERSION };
    Ok(Exported { keys, databases, bytes: output.metadata()?.len(), version })
}

fn write_database<W: io::Write>(engine: &mut Engine, db: usize, file: &mut rdb::File<W>) -> Result<(), WriteError> {
    let now = engine.shard.now();
    for partition in engine.shard.partitions() {
        let mut from = Some(0);
        while let Some(position) = from {
            let mut names: Vec<Vec<u8>> = Vec::new();
            from = engine.shard.scan(db, partition, position, SCAN_KEYS, |key, _| names.push(key.to_vec()));
            for name in &names {
                let key = engine.hasher.key(name);
                // Looking at it removes what is over.
                if let Some(entry) = engine.shard.read(db, &key, false) {
                    file.key(name, &Saved::of(&entry), entry.expire_at, now)?;
                }
            }
        }
    }
    Ok(())
}
