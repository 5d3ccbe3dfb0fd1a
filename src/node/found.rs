//! What a node starts with: its own log with the snapshot before it, or a dump file of Redis; and how each core takes its
//! part of that.
//!
//! On the main thread, before there are cores, but for [`replay_data`] and [`load_dump`], which each core runs for itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::NodeError;
use crate::config::Config;
use crate::control::{Recovered, aside};
use crate::dumpfile::{self, ImportError, Target};
use crate::engine::Engine;
use crate::log::files::{DataDir, DirError};
use crate::log::recover::{self, Plan, RecoverError};
use crate::log::replay;
use crate::net::clock::Clock;
use crate::net::listener::Listener;
use crate::net::loading::Loading;
use crate::resp::Output;
use crate::route::SLOTS;

/// How often a core that loads tells how far it is, s.
const PROGRESS_S: u64 = 2;

/// Takes the directory of the log, if it is in use or there is something in it, and looks what that is.
pub(super) fn find_data(config: &Config) -> Result<Recovered, NodeError> {
    let path = Path::new(&config.dir).join(&config.appenddirname);
    if !path.exists() {
        if !config.appendonly && config.save.is_empty() {
            return Ok(Recovered::default());
        }
        std::fs::create_dir_all(&path).map_err(|source| DirError::NotWritable {
            dir: path.clone(),
            user: uid(),
            source,
        })?;
    }
    let (dir, plan) = match read_data(&path) {
        // A replica takes a copy of what it has lost; what is here, somebody may want to look at.
        Err(error @ NodeError::Recover(_)) if config.replicaof.is_some() => {
            let moved = aside::rename_directory(&path);
            let moved = moved.map_err(|source| RecoverError::Io { path: path.clone(), source })?;
            tracing::warn!(%error, moved_to = %moved.display(), "the data cannot be read: it is set aside, and this replica starts empty");
            std::fs::create_dir_all(&path).map_err(|source| RecoverError::Io { path: path.clone(), source })?;
            read_data(&path)?
        }
        read => read?,
    };
    let plan = (!plan.is_empty()).then(|| Arc::new(plan));
    Ok(Recovered { dir: Some(dir), plan })
}

/// A dump of Redis counts if there is nothing else. With a log it becomes a snapshot first, so that the data is whole on
/// disk before the log goes on from there; without one every core reads the file, at each start.
pub(super) fn import_dump(
    config: &Config,
    mut recovered: Recovered,
    listeners: &[Listener],
) -> Result<Found, NodeError> {
    if recovered.plan.is_some() {
        return Ok(Found { recovered, dump: None });
    }
    let dir = Path::new(&config.dir);
    let manifest =
        dir.join(&config.appenddirname).join(format!("{}.manifest", config.get(b"appendfilename").unwrap_or_default()));
    if config.appendonly && manifest.exists() {
        return Err(NodeError::AppendOnlyFile(dir.join(&config.appenddirname)));
    }
    let dump = Some(dir.join(&config.dbfilename)).filter(|path| path.is_file());
    let (Some(path), Some(data), true) = (&dump, &recovered.dir, config.appendonly) else {
        return Ok(Found { recovered, dump });
    };
    let started = Instant::now();
    let _loading = Loading::start(listeners);
    let (partitions, databases) = (config.partitions, config.databases);
    let now_ms = Clock::start().now().wall_ms;
    let imported = dumpfile::import(path, data, &Target { partitions, databases, skip_unsupported: false, now_ms })?;
    let (keys, ms) = (imported.keys(), started.elapsed().as_millis() as u64);
    tracing::info!(path = %path.display(), keys, left_out = imported.left_out(), ms, "a dump file is imported");
    recovered.plan = Some(Arc::new(recover::inspect(data.path())?));
    Ok(Found { recovered, dump: None })
}

/// What a node starts with.
pub(super) struct Found {
    pub recovered: Recovered,
    /// A dump file, if there is no other data.
    pub dump: Option<PathBuf>,
}

fn read_data(path: &Path) -> Result<(DataDir, Plan), NodeError> {
    let dir = DataDir::open(path)?;
    let mut plan = recover::inspect(path)?;
    plan.settle()?;
    Ok((dir, plan))
}

fn uid() -> u32 {
    // SAFETY: a plain system call that cannot fail.
    unsafe { libc::getuid() }
}

/// Lets a core replay what is its own.
pub(super) fn replay_data(engine: &mut Engine, plan: &Plan) -> Result<(), RecoverError> {
    let started = Instant::now();
    let (me, router) = (engine.router.me(), engine.router.clone());
    let per_partition = SLOTS / router.partitions();
    let mut void = Output::new();
    let mut told = started;
    let counts = replay::replay(
        plan,
        |slot| router.owner(slot / per_partition) == me,
        |db, args| engine.replay(db, args, &mut void).ok_or("no such command, or not in this form"),
        |done, all| {
            if told.elapsed().as_secs() >= PROGRESS_S {
                told = Instant::now();
                tracing::info!(core = me, percent = done * 100 / all.max(1), "loading");
            }
        },
    )?;
    let ms = started.elapsed().as_millis() as u64;
    tracing::info!(core = me, statements = counts.statements, bytes = counts.bytes, ms, "loaded");
    Ok(())
}

/// Lets a core take what is its own of a dump file.
pub(super) fn load_dump(engine: &mut Engine, path: &Path) -> Result<(), ImportError> {
    let started = Instant::now();
    let (me, router) = (engine.router.me(), engine.router.clone());
    let per_partition = SLOTS / router.partitions();
    let (databases, now_ms) = (engine.shard.databases(), engine.shard.now_ms());
    let mut void = Output::new();
    let owns = |slot| router.owner(slot / per_partition) == me;
    let visit = |db: u8, args: &[&[u8]]| engine.replay(db, args, &mut void);
    let imported = dumpfile::load(path, databases, now_ms, owns, visit)?;
    let (keys, ms) = (imported.keys(), started.elapsed().as_millis() as u64);
    tracing::info!(core = me, path = %path.display(), keys, left_out = imported.left_out(), ms, "a dump file is loaded");
    Ok(())
}
