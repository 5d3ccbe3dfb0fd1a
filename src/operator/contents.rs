//! What a file of a backup holds: an engine without sockets replays it, as the cores of a node do at their start.
//!
//! So it takes the memory that the data of the file takes, for as long as a [`Contents`] lives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::manifest::FilePart;
use crate::config::Config;
use crate::engine::Engine;
use crate::log::recover::{self, RecoverError};
use crate::log::replay;
use crate::rdb::{self, Saved};
use crate::resp::Output;
use crate::route::{Hasher, PartitionSet, Router, SLOTS};
use crate::shard::digest::Digest;
use crate::shard::{LED, UnixMs};

/// Keys whose names are gathered at a time.
const SCAN_KEYS: usize = 512;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    #[error("'{}' is missing", .0.display())]
    Missing(PathBuf),
    #[error("'{}' has {found} bytes, and should have {expected}", .path.display())]
    Size { path: PathBuf, found: u64, expected: u64 },
    #[error("{0}")]
    Recover(#[from] RecoverError),
    #[error("'{}' is not what the backup is made of: {what}", .path.display())]
    Foreign { path: PathBuf, what: &'static str },
    #[error("'{}': what it has of partition {partition} is not what the manifest says", .path.display())]
    Digest { path: PathBuf, partition: u16 },
}

/// A key as it is sent to whoever is to have it.
pub(super) struct Dumped {
    pub key: Vec<u8>,
    /// Unix ms.
    pub expire_at: Option<UnixMs>,
    /// As DUMP answers it.
    pub payload: Vec<u8>,
}

/// See the module.
pub(super) struct Contents {
    engine: Engine,
    partitions: PartitionSet,
}

impl Contents {
    /// Replays a file, as far as it is about these partitions of so many, as it is at a moment.
    pub fn load(
        path: &Path,
        bytes: u64,
        count: u16,
        partitions: PartitionSet,
        now_ms: UnixMs,
    ) -> Result<Contents, ContentsError> {
        let foreign = |what| ContentsError::Foreign { path: path.into(), what };
        let found = std::fs::metadata(path).map_err(|_| ContentsError::Missing(path.into()))?.len();
        if found != bytes {
            return Err(ContentsError::Size { path: path.into(), found, expected: bytes });
        }
        let plan = recover::inspect(path.parent().unwrap_or(Path::new(".")))?;
        let snapshot = plan.snapshot.as_ref().filter(|snapshot| snapshot.path == path);
        let snapshot = snapshot.ok_or_else(|| foreign("there is another snapshot beside it"))?;
        if !plan.segments.is_empty() {
            return Err(foreign("there is a log beside it"));
        }
        if snapshot.begin.partitions != count {
            return Err(foreign("it is of another number of partitions"));
        }
        // Of what a node follows there is nothing; statements about it name the second database.
        let config = Config { databases: 2, partitions: count, ..Config::default() };
        let hasher = Hasher::new(count, snapshot.begin.seeds);
        let mut engine = Engine::new(Router::new(0, 1, count), hasher, Arc::new(config), 1);
        engine.shard.set_now(now_ms);
        let mut void = Output::new();
        replay::replay(
            &plan,
            |slot| partitions.has(slot / (SLOTS / count)),
            |db, args| engine.replay(db, args, &mut void).ok_or("no such command, or not in this form"),
            |_, _| {},
        )?;
        Ok(Contents { engine, partitions })
    }

    /// As [`Contents::load`], of a file that a manifest names; and it holds what the manifest says.
    pub fn load_part(
        backup: &Path,
        part: &FilePart,
        count: u16,
        digests_at_ms: UnixMs,
    ) -> Result<Contents, ContentsError> {
        let (path, partitions) = (part.path(backup), part.partitions.keys().copied().collect());
        let contents = Contents::load(&path, part.bytes, count, partitions, digests_at_ms)?;
        for (partition, digest) in contents.digests(digests_at_ms) {
            if part.partitions.get(&partition).is_none_or(|part| part.digest != digest) {
                return Err(ContentsError::Digest { path, partition });
            }
        }
        Ok(contents)
    }

    /// The digest of each partition at a moment that is not before that of the contents.
    pub fn digests(&self, at: UnixMs) -> BTreeMap<u16, Digest> {
        self.partitions.iter().map(|partition| (partition, self.engine.shard.digest(LED, partition, at))).collect()
    }

    /// Visits all keys that are not over, until `visit` fails.
    pub fn each_key<E>(&mut self, mut visit: impl FnMut(Dumped) -> Result<(), E>) -> Result<(), E> {
        let engine = &mut self.engine;
        let now = engine.shard.now();
        for partition in self.partitions.iter() {
            let mut from = Some(0);
            while let Some(position) = from {
                let mut names: Vec<Vec<u8>> = Vec::new();
                from = engine.shard.scan(LED, partition, position, SCAN_KEYS, |key, _| names.push(key.to_vec()));
                for key in names {
                    // Looking at it removes what is over.
                    let Some(entry) = engine.shard.read(LED, &engine.hasher.key(&key), false) else { continue };
                    let (expire_at, payload) = (entry.expire_at, rdb::dump(&Saved::of(&entry), now));
                    visit(Dumped { key, expire_at, payload })?;
                }
            }
        }
        Ok(())
    }
}
