//! Snapshots: when they are made, and what became of the last one.
//!
//! A snapshot takes part in a run ([`super::runs`]) like a replica, and what it takes is written to a file
//! ([`crate::log::snapshot`]). When it is complete, the log before it can go.
//!
//! Owned by the control core.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Control;
use super::disk::Disk;
use super::runs::Take;
use crate::command::log::{LogAnswer, LogNumbers};
use crate::log::files::DataDir;
use crate::log::frame::Frame;
use crate::log::snapshot::{Done, Options, SnapshotError, SnapshotWriter};
use crate::route::{CoreId, PartitionSet};

/// Bytes that may wait to be written before no more pieces are made.
const QUEUED_BYTES_MAX: usize = 8 << 20;

/// How long data cores may take to tell how much they have changed, before an older number counts.
const COUNT_PATIENCE: Duration = Duration::from_millis(100);

/// After a snapshot that failed, the next one by save points comes so much later, s.
const RETRY_S: i64 = 5;

/// See the module.
pub(super) struct Saves {
    /// Where data is kept.
    path: PathBuf,
    dir: Option<DataDir>,
    writer: Option<Rc<SnapshotWriter>>,
    /// Who waits for its end, and whether another one is wanted then.
    waiting: Vec<(CoreId, u32, u16)>,
    again: bool,
    /// It takes part in a run that has become worthless.
    spoiled: Rc<Cell<bool>>,
    started_s: i64,
    pub last_save_s: i64,
    last_try_s: i64,
    pub last_ok: bool,
    /// Of the last one, or of the one that was there at the start.
    pub last_bytes: u64,
    last_took_s: Option<i64>,
    saves: u64,
    /// Changes of keys before the last snapshot began, and before the one that is under way.
    pub changes: u64,
    changes_before: u64,
}

/// Hands the frames of a run to a file.
pub(super) struct ToFile {
    pub writer: Rc<SnapshotWriter>,
    /// What the file has is worthless, as the run is.
    pub spoiled: Rc<Cell<bool>>,
    /// The partitions that are wanted. None: all, and the log before the file can go.
    pub only: Option<Arc<PartitionSet>>,
}

impl Take for ToFile {
    fn take(&mut self, frame: &Frame) {
        // What is wrong, its end tells.
        let _ = self.writer.push(frame.clone());
    }

    fn room_bytes(&self) -> u64 {
        QUEUED_BYTES_MAX.saturating_sub(self.writer.queued_bytes()) as u64
    }

    fn is_gone(&self) -> bool {
        self.writer.result().is_some()
    }

    fn is_base(&self) -> bool {
        self.only.is_none()
    }

    fn only(&self) -> Option<Arc<PartitionSet>> {
        self.only.clone()
    }

    fn spoil(&mut self) {
        self.spoiled.set(true);
        self.writer.abort();
    }
}

impl Saves {
    pub fn new(path: PathBuf, dir: Option<DataDir>, now_s: i64, last_bytes: u64) -> Saves {
        Saves {
            path,
            dir,
            writer: None,
            waiting: Vec::new(),
            again: false,
            spoiled: Rc::default(),
            started_s: 0,
            last_save_s: now_s,
            last_try_s: 0,
            last_ok: true,
            last_bytes,
            last_took_s: None,
            saves: 0,
            changes: 0,
            changes_before: 0,
        }
    }

    /// The directory where data is kept; made and taken at the first use.
    pub fn directory(&mut self) -> Result<PathBuf, String> {
        if self.dir.is_none() {
            std::fs::create_dir_all(&self.path).map_err(|error| format!("'{}': {error}", self.path.display()))?;
            self.dir = Some(DataDir::open(&self.path).map_err(|error| error.to_string())?);
        }
        Ok(self.path.clone())
    }

    pub fn is_under_way(&self) -> bool {
        self.writer.is_some()
    }

    /// Whether a save point is reached, `changes` being all changes of keys since the start.
    pub fn is_due(&self, points: &[(u64, u64)], changes: u64, now_s: i64) -> bool {
        let (since_s, new) = (now_s - self.last_save_s, changes.saturating_sub(self.changes));
        let reached = |&(seconds, count): &(u64, u64)| new >= count && new > 0 && since_s >= seconds as i64;
        points.iter().any(reached)
    }

    /// Whether the last one was a success, or failed long enough ago.
    pub fn may_retry(&self, now_s: i64) -> bool {
        self.last_ok || now_s - self.last_try_s >= RETRY_S
    }

    /// The one that is under way.
    pub fn writer(&self) -> Option<Rc<SnapshotWriter>> {
        self.writer.clone()
    }

    pub fn describe(&self, numbers: &mut LogNumbers) {
        numbers.saving = self.writer.is_some();
        numbers.saving_since_s = self.writer.is_some().then_some(self.started_s);
        (numbers.last_save_s, numbers.last_save_ok) = (self.last_save_s, self.last_ok);
        (numbers.last_save_took_s, numbers.saves) = (self.last_took_s, self.saves);
        numbers.changes_saved = self.changes;
        (numbers.last_save_bytes, numbers.save_scheduled) = (self.last_bytes, self.again);
    }
}

impl Control {
    /// BGSAVE and SAVE.
    pub(super) fn ask_save(self: &Rc<Self>, core: CoreId, ask: u32, part: u16, wait: bool, schedule: bool) {
        let under_way = self.saves.borrow().is_under_way();
        if under_way && !schedule {
            return self.answer(core, ask, part, LogAnswer::Busy);
        }
        if under_way {
            self.saves.borrow_mut().again = true;
            return self.answer(core, ask, part, LogAnswer::Done);
        }
        if let Err(error) = self.begin_save() {
            return self.answer(core, ask, part, LogAnswer::Failed(error));
        }
        match wait {
            true => self.saves.borrow_mut().waiting.push((core, ask, part)),
            false => self.answer(core, ask, part, LogAnswer::Done),
        }
    }

    /// Whether a snapshot is to be made: a save point is reached, or the log on disk has grown too long.
    pub(super) fn save_is_due(&self) -> bool {
        let config = self.config();
        let (saves, log) = (self.saves.borrow(), self.log.borrow());
        let now_s = self.wall_ms() / 1000;
        if saves.is_under_way() || !saves.may_retry(now_s) {
            return false;
        }
        let grown_bytes = log.appended_bytes.saturating_sub(log.base_appended_bytes);
        let percentage = config.auto_aof_rewrite_percentage as u64;
        let grown = percentage > 0
            && grown_bytes > config.auto_aof_rewrite_min_size
            && grown_bytes / percentage.max(1) > saves.last_bytes / 100;
        let full = log.wal().is_some() && (grown || grown_bytes > config.wal_max_size);
        full || saves.is_due(&config.save, self.changes(), now_s)
    }

    /// Begins a snapshot; none is under way.
    pub(super) fn begin_save(self: &Rc<Self>) -> Result<(), String> {
        let now_s = self.wall_ms() / 1000;
        let changes = self.changes();
        let writer = {
            let mut saves = self.saves.borrow_mut();
            saves.last_try_s = now_s;
            let dir = saves.directory().inspect_err(|_| saves.last_ok = false)?;
            let writer = SnapshotWriter::new(Options { dir, keep: 1, replaces: false });
            (saves.started_s, saves.changes_before) = (now_s, changes);
            saves.spoiled.set(false);
            saves.writer = Some(Rc::clone(&writer));
            let taker = ToFile { writer: Rc::clone(&writer), spoiled: Rc::clone(&saves.spoiled), only: None };
            self.log.borrow_mut().add_consumer(Rc::new(RefCell::new(taker)));
            writer
        };
        tracing::info!("a snapshot begins");
        glommio::spawn_local(Rc::clone(&writer).run()).detach();
        // What each core answers it has counted before its first piece: all of that is in the snapshot.
        self.send_questions();
        let control = Rc::clone(self);
        glommio::spawn_local(async move {
            control.ask(COUNT_PATIENCE).await;
            let changes = control.changes();
            if control.saves.borrow().writer().is_some_and(|ours| Rc::ptr_eq(&ours, &writer)) {
                control.saves.borrow_mut().changes_before = changes;
            }
            let result = writer.finished().await;
            control.end_save(result);
        })
        .detach();
        self.advance();
        Ok(())
    }

    fn end_save(self: &Rc<Self>, result: Result<Done, SnapshotError>) {
        let now_s = self.wall_ms() / 1000;
        let spoiled = {
            let mut saves = self.saves.borrow_mut();
            saves.writer = None;
            saves.spoiled.take()
        };
        if spoiled && self.begin_save().is_ok() {
            return;
        }
        let (waiting, again) = {
            let mut saves = self.saves.borrow_mut();
            saves.last_ok = result.is_ok();
            if let Ok(done) = &result {
                saves.last_bytes = done.bytes;
                saves.last_took_s = Some(now_s - saves.started_s);
                (saves.last_save_s, saves.changes, saves.saves) = (now_s, saves.changes_before, saves.saves + 1);
                tracing::info!(end = done.end, bytes = done.bytes, path = %done.path.display(), "the snapshot is complete");
            }
            (std::mem::take(&mut saves.waiting), std::mem::take(&mut saves.again))
        };
        if let Err(error) = &result {
            tracing::error!(%error, "the snapshot failed");
        }
        self.base_ended(result.is_ok());
        match (&result, self.disk.get()) {
            (Ok(done), Disk::On) => {
                if let Some(wal) = self.log.borrow().wal() {
                    wal.retain(done.end + 1);
                }
            }
            (Ok(_), Disk::Off) => self.remove_segments(),
            _ => {}
        }
        self.end_recording();
        self.update_standing();
        for (core, ask, part) in waiting {
            let answer = result.as_ref().map_or_else(|error| LogAnswer::Failed(error.to_string()), |_| LogAnswer::Done);
            self.answer(core, ask, part, answer);
        }
        if again && let Err(error) = self.begin_save() {
            tracing::error!(error, "the snapshot failed");
        }
        self.flush();
    }
}
