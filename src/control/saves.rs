//! Snapshots: when they are made, and what became of the last one.
//!
//! A snapshot takes part in a run ([`super::runs`]) like a replica, and what it takes is written to a file
//! ([`crate::log::snapshot`]). When it is complete, the log before it can go.
//!
//! Owned by the control core.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use super::Control;
use super::runs::Take;
use crate::command::log::{LogAnswer, LogNumbers};
use crate::log::files::DataDir;
use crate::log::frame::Frame;
use crate::log::snapshot::{Done, Options, SnapshotError, SnapshotWriter};
use crate::route::CoreId;

/// Bytes that may wait to be written before no more pieces are made.
const QUEUED_BYTES_MAX: usize = 8 << 20;

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
    spoiled: Rc<RefCell<bool>>,
    started_s: i64,
    pub last_save_s: i64,
    last_try_s: i64,
    last_ok: bool,
    last_took_s: Option<i64>,
    saves: u64,
    /// Changes of keys before the last snapshot began, and before the one that is under way.
    pub changes: u64,
    changes_before: u64,
}

/// Hands the frames of a run to the file.
struct Taker {
    writer: Rc<SnapshotWriter>,
    spoiled: Rc<RefCell<bool>>,
}

impl Take for Taker {
    fn take(&mut self, frame: &Frame) {
        // What is wrong, its end tells.
        let _ = self.writer.push(frame.clone());
    }

    fn has_room(&self) -> bool {
        self.writer.queued_bytes() < QUEUED_BYTES_MAX
    }

    fn is_gone(&self) -> bool {
        self.writer.result().is_some()
    }

    fn spoil(&mut self) {
        *self.spoiled.borrow_mut() = true;
        self.writer.abort();
    }
}

impl Saves {
    pub fn new(path: PathBuf, dir: Option<DataDir>, now_s: i64) -> Saves {
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
        let retry = self.last_ok || now_s - self.last_try_s >= RETRY_S;
        let reached = |&(seconds, count): &(u64, u64)| new >= count && new > 0 && since_s >= seconds as i64;
        self.writer.is_none() && retry && points.iter().any(reached)
    }

    pub fn describe(&self, numbers: &mut LogNumbers, changes: u64) {
        numbers.saving = self.writer.is_some();
        numbers.saving_since_s = self.writer.is_some().then_some(self.started_s);
        (numbers.last_save_s, numbers.last_save_ok) = (self.last_save_s, self.last_ok);
        (numbers.last_save_took_s, numbers.saves) = (self.last_took_s, self.saves);
        numbers.changes_since_save = changes.saturating_sub(self.changes);
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
            *saves.spoiled.borrow_mut() = false;
            saves.writer = Some(Rc::clone(&writer));
            let taker = Taker { writer: Rc::clone(&writer), spoiled: Rc::clone(&saves.spoiled) };
            self.log.borrow_mut().add_consumer(Rc::new(RefCell::new(taker)));
            writer
        };
        tracing::info!("a snapshot begins");
        glommio::spawn_local(Rc::clone(&writer).run()).detach();
        let control = Rc::clone(self);
        glommio::spawn_local(async move {
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
            *saves.spoiled.borrow()
        };
        if spoiled && self.begin_save().is_ok() {
            return;
        }
        let (waiting, again) = {
            let mut saves = self.saves.borrow_mut();
            saves.last_ok = result.is_ok();
            if let Ok(done) = &result {
                saves.last_took_s = Some(now_s - saves.started_s);
                (saves.last_save_s, saves.changes, saves.saves) = (now_s, saves.changes_before, saves.saves + 1);
                tracing::info!(end = done.end, bytes = done.bytes, path = %done.path.display(), "the snapshot is complete");
            }
            (std::mem::take(&mut saves.waiting), std::mem::take(&mut saves.again))
        };
        if let Err(error) = &result {
            tracing::error!(%error, "the snapshot failed");
        }
        {
            let mut log = self.log.borrow_mut();
            if let (Ok(done), Some(wal)) = (&result, log.wal()) {
                wal.retain(done.end + 1);
            }
            if log.wal().is_none() && log.runs.is_idle() && !self.replicates() {
                log.stop_recording(crate::control::random_id());
            }
        }
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
