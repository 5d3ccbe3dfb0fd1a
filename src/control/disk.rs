//! The log on disk: when it begins, and when it ends, while the node runs.
//!
//! ```text
//!          appendonly yes          the snapshot is complete
//!   Off ───────────────► Starting ─────────────────────────► On
//!    ▲                       │ appendonly no                  │ appendonly no
//!    ├───────────────────────┘                                │
//!    └───────────────────────── Closing ◄─────────────────────┘
//! ```
//!
//! At the start of the node the log goes on where the files end: what is in memory is what they say. Later it does not,
//! as what was changed meanwhile is in no file. So a snapshot is made first, and the log begins at its end. Until the
//! snapshot is complete what belongs behind it is held in memory, and the files are those of before: a node that is
//! started again by then finds nothing that looks like a log and is none.
//!
//! Owned by the control core.

use std::rc::Rc;

use super::{CLOSE_PATIENCE, Control, random_id};
use crate::config::{AppendFsync, Config};
use crate::log::files;
use crate::log::wal::{self, SyncPolicy, Wal};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Disk {
    #[default]
    Off,
    Starting,
    On,
    Closing,
}

fn sync_policy(config: &Config) -> SyncPolicy {
    match config.appendfsync {
        AppendFsync::Always => SyncPolicy::Always,
        AppendFsync::EverySec => SyncPolicy::EverySecond,
        AppendFsync::No => SyncPolicy::No,
    }
}

impl Control {
    /// The log goes on where the files end, if it is wanted: the node starts.
    pub(super) fn resume_log(self: &Rc<Self>) {
        let config = self.config();
        if config.appendonly
            && let Err(error) = self.open_wal(&config)
        {
            tracing::error!(error, "the log cannot be written");
        }
        self.update_standing();
        self.advance();
    }

    fn open_wal(self: &Rc<Self>, config: &Config) -> Result<(), String> {
        let options = self.wal_options(config)?;
        let wal = {
            let mut log = self.log.borrow_mut();
            let start = wal::Start {
                next: log.sequencer.end() + 1,
                histories: log.sequencer.histories().to_vec(),
                segments: self.segments.take(),
            };
            let wal = Wal::new(options, start);
            log.set_wal(Some(Rc::clone(&wal)));
            log.record();
            wal
        };
        self.run_wal(wal);
        Ok(())
    }

    fn wal_options(&self, config: &Config) -> Result<wal::Options, String> {
        let dir = self.saves.borrow_mut().directory()?;
        Ok(wal::Options { sync: sync_policy(config), segment_bytes: config.wal_segment_size, ..wal::Options::new(dir) })
    }

    /// Starts the tasks that write the log and tell how far it is.
    fn run_wal(self: &Rc<Self>, wal: Rc<Wal>) {
        self.disk.set(Disk::On);
        glommio::spawn_local(Rc::clone(&wal).run()).detach();
        let control = Rc::clone(self);
        glommio::spawn_local(async move {
            let mut seen = wal.progress();
            loop {
                control.log.borrow_mut().look_at_disk(&wal);
                control.advance();
                if seen.closed {
                    return;
                }
                seen = wal.changed(seen).await;
            }
        })
        .detach();
    }

    /// Does what the configuration says about the log. The error says why it cannot begin.
    pub(super) fn configure(self: &Rc<Self>) -> Result<(), String> {
        let config = self.config();
        self.log.borrow_mut().backlog.set_bytes_max(self.backlog_bytes(&config));
        self.update_standing();
        let done = match (config.appendonly, self.disk.get()) {
            (true, Disk::Off | Disk::Starting) => self.begin_log(&config),
            (true, Disk::On) => {
                if let Some(wal) = self.log.borrow().wal() {
                    wal.set_sync(sync_policy(&config));
                }
                Ok(())
            }
            (false, Disk::On) => {
                self.end_log();
                Ok(())
            }
            (false, Disk::Starting) => {
                self.disk.set(Disk::Off);
                self.log.borrow_mut().set_wal(None);
                self.end_recording();
                Ok(())
            }
            (_, Disk::Closing) | (false, Disk::Off) => Ok(()),
        };
        self.advance();
        done
    }

    /// Makes the snapshot at whose end the log begins, or uses the one that is under way.
    fn begin_log(self: &Rc<Self>, config: &Config) -> Result<(), String> {
        let under_way = self.saves.borrow().is_under_way();
        if self.disk.get() == Disk::Starting && (under_way || !self.saves.borrow().may_retry(self.wall_ms() / 1000)) {
            return Ok(());
        }
        // Data cores record as soon as they know that the log is wanted.
        self.log.borrow_mut().record();
        let begun = self.wal_options(config).and_then(|options| {
            self.log.borrow_mut().begin_wal_at_base(options);
            self.disk.set(Disk::Starting);
            if under_way { Ok(()) } else { self.begin_save() }
        });
        if begun.is_err() {
            self.disk.set(Disk::Off);
            self.log.borrow_mut().set_wal(None);
            self.end_recording();
        }
        begun
    }

    /// A snapshot has ended; if the log was to begin with it, it does.
    pub(super) fn base_ended(self: &Rc<Self>, complete: bool) {
        if self.disk.get() != Disk::Starting {
            return;
        }
        let wal = self.log.borrow().wal().cloned();
        match wal {
            Some(wal) if complete => {
                self.remove_segments();
                wal.set_sync(sync_policy(&self.config()));
                self.log.borrow_mut().wal_begins();
                tracing::info!(first = wal.next(), "the log is written from now on");
                self.run_wal(wal);
            }
            // Its turn comes again.
            _ => match self.wal_options(&self.config()) {
                Ok(options) => self.log.borrow_mut().begin_wal_at_base(options),
                Err(error) => tracing::error!(error, "the log cannot be written"),
            },
        }
    }

    /// The log is no longer wanted: what it has is written, and what comes is not.
    fn end_log(self: &Rc<Self>) {
        let Some(wal) = self.log.borrow().wal().cloned() else { return };
        self.disk.set(Disk::Closing);
        self.log.borrow_mut().set_wal(None);
        let control = Rc::clone(self);
        glommio::spawn_local(async move {
            if let Err(error) = wal.close(CLOSE_PATIENCE).await {
                tracing::error!(%error, "the log is not complete");
            }
            control.disk.set(Disk::Off);
            control.end_recording();
            if let Err(error) = control.configure() {
                tracing::error!(error, "the log cannot be written");
            }
        })
        .detach();
    }

    /// Ends recording if nobody takes what is recorded.
    pub(super) fn end_recording(&self) {
        let mut log = self.log.borrow_mut();
        if self.disk.get() == Disk::Off && log.runs.is_idle() && !self.replicates() {
            log.stop_recording(random_id());
        }
    }

    /// Removes the segments of a log that ends before the snapshot which has just been completed. One that stays is no
    /// harm: recovery sees that it is of the past.
    pub(super) fn remove_segments(&self) {
        let Ok(dir) = self.saves.borrow_mut().directory() else { return };
        self.segments.take();
        let listing = files::list(&dir).unwrap_or_default();
        for first in listing.segments {
            let path = dir.join(files::segment_name(first));
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "an old segment of the log cannot be removed");
            }
        }
    }

    /// Whether writes are refused as the last snapshot failed: tells data cores when that changes.
    pub(super) fn update_standing(&self) {
        let config = self.config();
        let failed = !config.save.is_empty() && config.stop_writes_on_bgsave_error && !self.saves.borrow().last_ok;
        let mut log = self.log.borrow_mut();
        if log.standing.snapshot_failed != failed {
            log.standing.snapshot_failed = failed;
            log.tell_standing();
        }
    }
}
