//! The state of the cluster as openraft sees it: applied entries change it, snapshots keep it.
//!
//! The state is in memory. A snapshot is on disk, whole or not at all, before the entries that it has are purged; after a
//! restart openraft applies again what was committed since. The latest snapshot is also kept in memory, for other nodes:
//! it has about the size of the state.
//!
//! On the control core. Invariant: no borrow of the state lives across an await.

use std::cell::{Cell, Ref, RefCell};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use futures_lite::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::{Mutex, watch};

use super::command::{Command, NodeId, Reply};
use super::error::StoreError;
use super::log_store::{Applicable, LogStore};
use super::recover::read_single;
use super::snapshot::{Content, SNAPSHOT_BYTES_MAX, SnapshotError};
use super::state::State;
use super::types::{Entry, LogId, MembershipAt, Payload, Snapshot, SnapshotBytes, SnapshotMeta, Types};
use super::writer::{wall_ms, write_file};
use crate::log::disk::Disk;
use crate::log::files;

/// The latest snapshot.
#[derive(Clone)]
struct Kept {
    meta: SnapshotMeta,
    bytes: SnapshotBytes,
    path: PathBuf,
}

/// Roles that have come to this node, for INFO and the metrics. What is applied again after a restart is not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gained {
    /// As whoever led before was lost.
    pub promoted: u64,
    /// As another node has handed them over.
    pub handed_over: u64,
}

struct Machine {
    content: RefCell<Content>,
    gained: Cell<Gained>,
    /// Whose roles are counted, and the last entry that its process found in its log.
    counted: Cell<Option<(NodeId, u64)>>,
    kept: RefCell<Option<Kept>>,
    /// Tells those who watch that something was applied.
    applied: watch::Sender<Option<LogId>>,
    /// Held by whoever writes a snapshot.
    writing: Mutex<()>,
    disk: Disk,
    dir: PathBuf,
    identity: u128,
}

/// The state, for openraft.
pub struct StateMachine {
    machine: Rc<Machine>,
    /// Of the log whose entries are applied; None in tests without one.
    applicable: Option<Applicable>,
}

/// The state, for those who read it.
#[derive(Clone)]
pub struct StateReader {
    machine: Rc<Machine>,
}

/// Makes a snapshot of a moment.
pub struct Builder {
    machine: Rc<Machine>,
    content: Content,
}

impl StateReader {
    /// The state. Not to be held across an await.
    pub fn state(&self) -> Ref<'_, State> {
        Ref::map(self.machine.content.borrow(), |content| &content.state)
    }

    /// The last entry that the state has.
    pub fn applied(&self) -> Option<LogId> {
        self.machine.content.borrow().applied
    }

    /// From now on the roles that come to this node are counted, by entries behind this one.
    pub fn count_gained(&self, node: NodeId, after: u64) {
        self.machine.counted.set(Some((node, after)));
    }

    /// Roles that have come to this node.
    pub fn gained(&self) -> Gained {
        self.machine.gained.get()
    }

    /// To wait for changes.
    pub fn watch(&self) -> watch::Receiver<Option<LogId>> {
        self.machine.applied.subscribe()
    }
}

impl Machine {
    fn read(dir: &Path, number: u64, identity: u128) -> Result<(Content, Kept), StoreError> {
        let path = dir.join(files::snapshot_name(number));
        let bytes = read_single(&path, SNAPSHOT_BYTES_MAX as u64)?;
        let damaged = |why: SnapshotError| StoreError::Snapshot { path: path.clone(), why };
        // What another node sent was written anew, with this identity: a foreign file is of a directory that was copied.
        let content = Content::decode_own(&bytes, identity).map_err(damaged)?;
        if content.number() != number {
            return Err(damaged(SnapshotError::Moment));
        }
        let kept = Kept { meta: content.meta(), bytes: bytes.into(), path };
        Ok((content, kept))
    }

    /// Whether a command may bring roles to the node whose roles are counted. Few do.
    fn may_gain(&self, command: &Command) -> Option<(NodeId, u64)> {
        self.counted.get().filter(|(node, _)| match command {
            Command::Promote { .. } => true,
            Command::Lead { to, .. } | Command::ForceLead { to, .. } => to.node == *node,
            _ => false,
        })
    }

    fn count(&self, node: NodeId, before: &[Option<NodeId>], after: &State, command: &Command) {
        let both = before.iter().zip(after.partitions());
        let came = both.filter(|(was, is)| **was != Some(node) && is.primary == Some(node)).count() as u64;
        let Gained { promoted, handed_over } = self.gained.get();
        self.gained.set(match command {
            Command::Lead { .. } => Gained { promoted, handed_over: handed_over + came },
            _ => Gained { promoted: promoted + came, handed_over },
        });
    }

    /// Writes a snapshot, unless there is a later one already.
    async fn keep(&self, content: &Content) -> Result<SnapshotBytes, StoreError> {
        let _writing = self.writing.lock().await;
        let frame = content.encode(self.identity, wall_ms())?;
        let mut bytes = Vec::with_capacity(frame.bytes());
        frame.write_to(&mut bytes);
        let bytes = SnapshotBytes::from(bytes);
        let kept = self.kept.borrow().clone();
        if kept.as_ref().is_some_and(|kept| kept.meta.last_log_id >= content.applied) {
            return Ok(bytes);
        }
        let name = files::snapshot_name(content.number());
        write_file(&self.disk, &self.dir, &name, &frame).await?;
        let path = self.dir.join(name);
        *self.kept.borrow_mut() = Some(Kept { meta: content.meta(), bytes: Rc::clone(&bytes), path });
        if let Some(old) = kept {
            self.disk.remove(&old.path).await.map_err(StoreError::io(&old.path))?;
        }
        Ok(bytes)
    }
}

impl StateMachine {
    /// Reads the latest snapshot in a directory, which exists. The state goes on from there with what is left in the log, so
    /// nothing may be missing between the two. Blocks meanwhile.
    pub fn open(dir: &Path, identity: u128, log: &LogStore) -> Result<StateMachine, StoreError> {
        StateMachine::open_on(Disk::System, dir, identity, log)
    }

    pub(super) fn open_on(disk: Disk, dir: &Path, identity: u128, log: &LogStore) -> Result<StateMachine, StoreError> {
        let machine = StateMachine::open_alone(disk, dir, identity, log.purged())?;
        Ok(StateMachine { applicable: Some(log.applicable()), ..machine })
    }

    /// `purged` is the last entry that the log has purged.
    pub(super) fn open_alone(
        disk: Disk,
        dir: &Path,
        identity: u128,
        purged: Option<LogId>,
    ) -> Result<StateMachine, StoreError> {
        let mut listing = files::list(dir).map_err(StoreError::io(dir))?;
        let latest = listing.snapshots.pop();
        let (content, kept) = match latest {
            Some(number) => {
                let (content, kept) = Machine::read(dir, number, identity)?;
                (content, Some(kept))
            }
            None => (Content::default(), None),
        };
        let next = content.applied.map_or(0, |id| id.index + 1);
        if let Some(purged) = purged.filter(|purged| purged.index >= next) {
            return Err(StoreError::Behind { path: dir.into(), next, purged: purged.index });
        }
        // Others are there if a crash came before they were removed.
        let old = listing.snapshots.iter().map(|number| files::snapshot_name(*number));
        let half = listing.temporary.into_iter().filter(|name| name.starts_with("snapshot-"));
        for name in old.chain(half) {
            let path = dir.join(name);
            fs::remove_file(&path).map_err(StoreError::io(&path))?;
        }
        let machine = Machine {
            applied: watch::Sender::new(content.applied),
            content: RefCell::new(content),
            gained: Cell::default(),
            counted: Cell::default(),
            kept: RefCell::new(kept),
            writing: Mutex::new(()),
            disk,
            dir: dir.into(),
            identity,
        };
        Ok(StateMachine { machine: Rc::new(machine), applicable: None })
    }

    pub fn reader(&self) -> StateReader {
        StateReader { machine: Rc::clone(&self.machine) }
    }

    fn apply_entry(&self, entry: Entry) -> Reply {
        let content = &mut *self.machine.content.borrow_mut();
        content.applied = Some(entry.log_id);
        match entry.payload {
            Payload::Blank => Reply::Nothing,
            Payload::Normal(command) => {
                let gains = self.machine.may_gain(&command).filter(|(_, after)| entry.log_id.index > *after);
                let Some((node, _)) = gains else { return content.state.apply(&command) };
                let before: Vec<_> = content.state.partitions().iter().map(|partition| partition.primary).collect();
                let reply = content.state.apply(&command);
                self.machine.count(node, &before, &content.state, &command);
                reply
            }
            Payload::Membership(membership) => {
                content.membership = MembershipAt::new(Some(entry.log_id), membership);
                Reply::Nothing
            }
        }
    }

    fn tell(&self) {
        let applied = self.machine.content.borrow().applied;
        self.machine.applied.send_replace(applied);
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotBytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let bytes = self.machine.keep(&self.content).await?;
        Ok(Snapshot { meta: self.content.meta(), snapshot: bytes })
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotBytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, MembershipAt)> {
        let content = self.machine.content.borrow();
        Ok((content.applied, content.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin,
    {
        if let Some(applicable) = &self.applicable {
            applicable.durable().await?;
        }
        while let Some((entry, responder)) = entries.try_next().await? {
            let reply = self.apply_entry(entry);
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        self.tell();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { machine: Rc::clone(&self.machine), content: self.machine.content.borrow().clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotBytes) -> io::Result<()> {
        let refused = |why| io::Error::from(StoreError::Received(why));
        let content = Content::decode(&snapshot).map_err(refused)?;
        if content.meta() != *meta {
            return Err(refused(SnapshotError::Moment));
        }
        self.machine.keep(&content).await?;
        *self.machine.content.borrow_mut() = content;
        self.tell();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let kept = self.machine.kept.borrow().clone();
        Ok(kept.map(|kept| Snapshot { meta: kept.meta, snapshot: kept.bytes }))
    }
}

#[cfg(test)]
#[path = "state_machine_tests.rs"]
mod tests;
