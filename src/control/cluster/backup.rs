//! A copy of what this node leads, as a file for an operator: CLUSTER BACKUP.
//!
//! ```text
//! START ─► partitions that are led now, with their epochs
//!          └► all data cores have seen that they are led ─► a limited run ([`crate::control::runs`]) ─► a snapshot file
//!             └► what it holds is committed ─► those still led in the same epochs, under the lease: these count
//! READ, READ, ... ─► DROP
//! ```
//!
//! So what the file has of a partition is what its only leader had at one moment, and no failover takes it back later. A
//! partition whose role has moved meanwhile counts for nothing, whatever the file has of it; its new leader is to be asked.
//!
//! A node keeps one backup at the most, below [`DIR`], in a form that `keyloom check` and `keyloom dump` read. One that nobody asks
//! for any more makes room for the next one, and none survives a restart.
//!
//! Owned by the control core. What may wait for a device is done by another thread, or by the kernel.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Member;
use crate::command::backup::{BackupAsk, BackupWhat};
use crate::command::log::LogAnswer;
use crate::control::Control;
use crate::control::log::Copied;
use crate::control::saves::ToFile;
use crate::log::disk::Disk;
use crate::log::durability::LaneEnds;
use crate::log::files;
use crate::log::frame::Index;
use crate::log::snapshot::{Options, SnapshotError, SnapshotWriter};
use crate::raft::command::Epoch;
use crate::raft::state::Partition;
use crate::route::PartitionSet;
use crate::streams::PartitionId;

/// Below the working directory.
const DIR: &str = "cluster/backup";

/// How often a backup begins again that something has disturbed.
const ATTEMPTS_MAX: usize = 5;

/// How long data cores may take to see who leads.
const SEEN_PATIENCE: Duration = Duration::from_secs(5);

/// How long what a backup holds may take to be committed.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);

/// A backup that nobody has asked for so long may be replaced.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Why there is no backup, or nothing of it.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum BackupError {
    #[error("this node is in no cluster of several nodes")]
    NoMember,
    #[error("the backup '{0}' is being made; one at a time is possible")]
    Busy(String),
    #[error("the backup '{0}' is still being read; drop it first")]
    Kept(String),
    #[error("there is no backup '{0}'")]
    Unknown(String),
    #[error("the backup '{0}' is not complete")]
    Incomplete(String),
    #[error("this node leads none of these partitions")]
    LeadsNothing,
    #[error("a data core does not see in time what this node leads")]
    Unseen,
    #[error("nothing that was copied is committed, or led any more")]
    Overtaken,
    #[error("it was disturbed {ATTEMPTS_MAX} times, as roles move; try again")]
    Disturbed,
    #[error("it was given up")]
    GivenUp,
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error("cannot use '{}': {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The backup of this node. See the module.
pub(in crate::control) struct Backup {
    name: String,
    dir: PathBuf,
    state: RefCell<State>,
    given_up: Cell<bool>,
    asked_at: Cell<Instant>,
}

enum State {
    /// None: no attempt writes.
    Running(Option<Rc<SnapshotWriter>>),
    Done(Done),
    Failed(String),
}

/// A file that counts.
#[derive(Clone)]
struct Done {
    path: PathBuf,
    bytes: u64,
    /// The moment of which it is, Unix ms.
    wall_ms: i64,
    led: Led,
}

/// Partitions with their epochs.
type Led = BTreeMap<PartitionId, Epoch>;

impl Backup {
    fn is_running(&self) -> bool {
        matches!(*self.state.borrow(), State::Running(_))
    }

    /// Whether one of this name may take its place.
    fn gives_way(&self, to: &str) -> Result<(), BackupError> {
        match &*self.state.borrow() {
            State::Running(_) => Err(BackupError::Busy(self.name.clone())),
            State::Done(_) if self.name != to && self.asked_at.get().elapsed() < IDLE_MAX => {
                Err(BackupError::Kept(self.name.clone()))
            }
            State::Done(_) | State::Failed(_) => Ok(()),
        }
    }

    fn give_up(&self) {
        self.given_up.set(true);
        if let State::Running(Some(writer)) = &*self.state.borrow() {
            writer.abort();
        }
    }

    /// What an operator is told.
    fn status(&self) -> Value {
        let mut status = json!({ "name": self.name });
        match &*self.state.borrow() {
            State::Running(writer) => {
                status["state"] = "running".into();
                status["bytes"] = writer.as_ref().map_or(0, |writer| writer.written_bytes()).into();
            }
            State::Failed(why) => {
                status["state"] = "failed".into();
                status["error"] = why.as_str().into();
            }
            State::Done(done) => {
                status["state"] = "done".into();
                status["bytes"] = done.bytes.into();
                status["moment_ms"] = done.wall_ms.into();
                status["file"] = done.path.file_name().and_then(|name| name.to_str()).into();
                let mut by_epoch: BTreeMap<Epoch, PartitionSet> = BTreeMap::new();
                done.led
                    .iter()
                    .for_each(|(partition, epoch)| _ = by_epoch.entry(*epoch).or_default().insert(*partition));
                let group = |(epoch, set): (_, PartitionSet)| json!({ "epoch": epoch, "partitions": set.to_string() });
                status["partitions"] = by_epoch.into_iter().map(group).collect();
            }
        }
        status
    }
}

impl Control {
    /// CLUSTER BACKUP.
    pub(in crate::control) async fn ask_backup(self: &Rc<Self>, ask: BackupAsk) -> Result<LogAnswer, BackupError> {
        if let BackupWhat::Start(wanted) = ask.what {
            return self.start_backup(ask.name, wanted).map(|()| LogAnswer::Done);
        }
        let known = self.backup.borrow().clone().filter(|backup| backup.name == ask.name);
        let backup = known.ok_or(BackupError::Unknown(ask.name))?;
        backup.asked_at.set(Instant::now());
        match ask.what {
            BackupWhat::Start(_) | BackupWhat::Status => Ok(LogAnswer::Text(backup.status().to_string())),
            BackupWhat::Read { offset, count } => {
                let done = match &*backup.state.borrow() {
                    State::Done(done) => done.clone(),
                    _ => return Err(BackupError::Incomplete(backup.name.clone())),
                };
                read(&done.path, offset, count).await.map(LogAnswer::Bytes).map_err(cannot_use(&done.path))
            }
            BackupWhat::Drop => {
                backup.give_up();
                while backup.is_running() {
                    glommio::timer::sleep(LOOK).await;
                }
                remove(backup.dir.clone()).await?;
                self.backup.borrow_mut().take_if(|current| Rc::ptr_eq(current, &backup));
                Ok(LogAnswer::Done)
            }
        }
    }

    /// Whatever earlier processes have left is removed.
    pub(super) async fn remove_backups(&self) {
        let dir = self.backup_dir();
        if let Err(error) = remove_all(dir).await {
            tracing::warn!(%error, "an old backup cannot be removed");
        }
    }

    fn backup_dir(&self) -> PathBuf {
        Path::new(&self.config().dir).join(DIR)
    }

    fn start_backup(self: &Rc<Self>, name: String, wanted: Option<PartitionSet>) -> Result<(), BackupError> {
        let member = self.member().ok_or(BackupError::NoMember)?;
        self.backup.borrow().as_ref().map_or(Ok(()), |backup| backup.gives_way(&name))?;
        let backup = Rc::new(Backup {
            dir: self.backup_dir().join(&name),
            name,
            state: RefCell::new(State::Running(None)),
            given_up: Cell::new(false),
            asked_at: Cell::new(Instant::now()),
        });
        *self.backup.borrow_mut() = Some(Rc::clone(&backup));
        let control = Rc::clone(self);
        glommio::spawn_local(async move {
            let made = control.make_backup(&member, &backup, wanted.as_ref()).await;
            let state = match made {
                Ok(done) => {
                    tracing::info!(
                        bytes = done.bytes,
                        partitions = done.led.len(),
                        name = backup.name,
                        "a backup is complete"
                    );
                    State::Done(done)
                }
                Err(error) => {
                    tracing::warn!(%error, name = backup.name, "there is no backup");
                    // Of one that has failed nothing may stay; what does, the next one removes.
                    let _ = remove(backup.dir.clone()).await;
                    State::Failed(error.to_string())
                }
            };
            backup.asked_at.set(Instant::now());
            *backup.state.borrow_mut() = state;
        })
        .detach();
        Ok(())
    }

    async fn make_backup(
        self: &Rc<Self>,
        member: &Rc<Member>,
        backup: &Backup,
        wanted: Option<&PartitionSet>,
    ) -> Result<Done, BackupError> {
        remove_all(self.backup_dir()).await?;
        fs::create_dir_all(&backup.dir).map_err(cannot_use(&backup.dir))?;
        for _ in 0..ATTEMPTS_MAX {
            if backup.given_up.get() {
                return Err(BackupError::GivenUp);
            }
            let led = self.what_is_led(member, wanted).await?;
            if led.is_empty() {
                return Err(BackupError::LeadsNothing);
            }
            if let Some((end, done)) = self.write_backup(backup, led).await? {
                return self.what_counts(member, end, done).await;
            }
            tracing::info!(name = backup.name, "roles have moved: the backup begins again");
        }
        Err(BackupError::Disturbed)
    }

    /// The partitions that this node leads now, as all data cores have seen: what they hold of these is where a run looks.
    async fn what_is_led(&self, member: &Member, wanted: Option<&PartitionSet>) -> Result<Led, BackupError> {
        let view = member.shown.borrow().clone().ok_or(BackupError::LeadsNothing)?;
        let led =
            |partition: &PartitionId| view.leads(*partition) && wanted.is_none_or(|wanted| wanted.has(*partition));
        let led =
            (0..view.partitions()).filter(led).map(|partition| (partition, view.roles(partition).epoch)).collect();
        let by = Instant::now() + SEEN_PATIENCE;
        while self.log.borrow().seen_by_all() < view.number() {
            if Instant::now() >= by {
                return Err(BackupError::Unseen);
            }
            glommio::timer::sleep(LOOK).await;
        }
        Ok(led)
    }

    /// One attempt; None: something has happened that a run cannot tell. And the last index that the file has.
    async fn write_backup(self: &Rc<Self>, backup: &Backup, led: Led) -> Result<Option<(Index, Done)>, BackupError> {
        let writer = SnapshotWriter::new(Options { dir: backup.dir.clone(), keep: 1, replaces: false });
        *backup.state.borrow_mut() = State::Running(Some(Rc::clone(&writer)));
        let spoiled = Rc::new(Cell::new(false));
        let only = Some(Arc::new(led.keys().copied().collect()));
        let taker = ToFile { writer: Rc::clone(&writer), spoiled: Rc::clone(&spoiled), only };
        self.log.borrow_mut().add_consumer(Rc::new(RefCell::new(taker)));
        glommio::spawn_local(Rc::clone(&writer).run()).detach();
        self.advance();
        let written = writer.finished().await;
        *backup.state.borrow_mut() = State::Running(None);
        // The run ends for its cores, too.
        self.advance();
        match written {
            _ if backup.given_up.get() => Err(BackupError::GivenUp),
            _ if spoiled.get() => Ok(None),
            Err(error) => Err(error.into()),
            Ok(written) => {
                let (path, bytes, wall_ms) = (written.path, written.bytes, self.wall_ms());
                Ok(Some((written.end, Done { path, bytes, wall_ms, led })))
            }
        }
    }

    /// Waits until what a file holds up to its last index is committed, and this node has a lease. Leaves out what it does not lead
    /// any more, or cannot commit.
    async fn what_counts(&self, member: &Member, end: Index, mut done: Done) -> Result<Done, BackupError> {
        let by = Instant::now() + COMMIT_PATIENCE;
        loop {
            done.led.retain(|partition, epoch| {
                let leads = |is: &Partition| is.epoch == *epoch && is.primary == Some(member.me);
                member.with_roles(|state| state.partition(*partition).is_some_and(leads))
            });
            // Without one, others may lead all of it by now.
            let has_lease = self.node.state.lease.is_valid_at(self.now_ms());
            let committed = member.committed();
            let waits = |partition: &PartitionId| committed_upto(&committed, *partition) < end;
            if has_lease && !done.led.keys().any(waits) {
                break;
            }
            if Instant::now() >= by {
                done.led.retain(|partition, _| has_lease && !waits(partition));
                break;
            }
            glommio::timer::sleep(LOOK).await;
        }
        if done.led.is_empty() { Err(BackupError::Overtaken) } else { Ok(done) }
    }
}

/// Up to where this node's log is committed for a partition.
fn committed_upto(committed: &Copied, partition: PartitionId) -> Index {
    let lane = |lanes: &LaneEnds| {
        let lane = *lanes.map.of.get(usize::from(partition))?;
        lanes.ends.get(usize::from(lane)).map(|(received, _)| *received)
    };
    let lane = committed.lanes.as_ref().and_then(lane);
    lane.map_or(committed.received, |upto| upto.max(committed.received))
}

fn cannot_use(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    move |source| BackupError::Io { path: path.into(), source }
}

async fn read(path: &Path, offset: u64, count: usize) -> io::Result<Vec<u8>> {
    let file = Disk::System.open(path).await?;
    let bytes = file.read_at(offset, count).await;
    file.close().await;
    bytes
}

/// Removes one backup; that there is none is fine.
async fn remove(dir: PathBuf) -> Result<(), BackupError> {
    blocking(move || remove_now(&dir).map_err(|error| (dir, error))).await
}

/// Removes all backups in a directory.
async fn remove_all(dir: PathBuf) -> Result<(), BackupError> {
    blocking(move || match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err((dir, error)),
        Ok(entries) => entries.into_iter().try_for_each(|entry| {
            let path = entry.map_err(|error| (dir.clone(), error))?.path();
            remove_now(&path).map_err(|error| (path, error))
        }),
    })
    .await
}

/// Lets another thread do something with a path; the error names it.
async fn blocking(work: impl FnOnce() -> Result<(), (PathBuf, io::Error)> + Send + 'static) -> Result<(), BackupError> {
    let done = glommio::executor().spawn_blocking(work).await;
    done.map_err(|(path, source)| BackupError::Io { path, source })
}

/// Removes our files in a directory, and then the directory. Whatever else is in it is not ours, and stays.
fn remove_now(dir: &Path) -> io::Result<()> {
    let listing = match files::list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listing => listing?,
    };
    let names = listing.snapshots.into_iter().map(files::snapshot_name).chain(listing.temporary);
    for name in names {
        fs::remove_file(dir.join(name))?;
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
