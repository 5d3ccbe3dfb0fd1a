//! The log on the control core: from the feeds of the data cores to memory, disk and whoever else takes frames.
//!
//! Nothing in here waits. What goes to data cores gathers in [`Log::out`], and [`super::Control`] sends it.
//!
//! Owned by the control core.

use std::rc::Rc;
use std::sync::Arc;

use super::replication::{Event, Events};
use super::runs::{Consumer, Keyspace, Runs};
use crate::log::backlog::Backlog;
use crate::log::durability::{Lane, LaneEnds, Lanes, Progress, Standing};
use crate::log::feed::{Chunk, Holds};
use crate::log::frame::{HistoryEntry, HistoryId, Index};
use crate::log::sequencer::{Entry, Sequencer};
use crate::log::wal::{self, Wal};
use crate::net::forward::Message;
use crate::route::CoreId;

/// A data core hears of the bytes that were taken from it when these are so many more.
const TAKEN_STEP_BYTES: u64 = 1 << 20;

/// Bytes that the disk may be behind; beyond, feeds are not taken, and in the end clients' writes wait.
const UNWRITTEN_BYTES_MAX: usize = 64 << 20;

/// The last indices that enough replicas have.
#[derive(Clone, Default)]
pub struct Copied {
    /// Received.
    pub received: Index,
    /// On their disks.
    pub durable: Index,
    /// Both of each lane by itself, if there are several.
    pub lanes: Option<LaneEnds>,
}

/// What is known of one data core.
#[derive(Default)]
struct Core {
    /// What its connections may wait for.
    holds: Holds,
    sent: Progress,
    /// It records, and has said so.
    records: bool,
    /// The last view of the cluster that it has seen.
    seen: u64,
}

/// See the module.
pub(super) struct Log {
    pub sequencer: Sequencer,
    pub backlog: Backlog,
    wal: Option<Rc<Wal>>,
    /// The log begins when a run ends whose copy goes to disk.
    begins_at_base: Option<wal::Options>,
    /// The log has begun and is not written yet: what comes before it is not on disk.
    is_held: bool,
    disk: wal::Progress,
    /// Bytes that the log on disk has got, and how many there were at the end of the last run whose copy went to disk.
    pub appended_bytes: u64,
    pub base_appended_bytes: u64,
    cores: Vec<Core>,
    /// Data cores record, or have been told to.
    recording: bool,
    pub runs: Runs,
    pub standing: Standing,
    /// The last unit that was handed out to data cores, if the log of another node is followed. Pieces of a run stand
    /// there, and may be made only while nothing is under way.
    pub follows: Option<Index>,
    pub may_cover: bool,
    /// There has been a replica: others may come back.
    pub keeps_backlog: bool,
    /// What replicas have to hear of.
    pub events: Events,
    /// Data cores that have said that nothing is written any more.
    pub barriers: Vec<CoreId>,
    /// What is to be sent to data cores.
    pub out: Vec<(CoreId, Message)>,
}

impl Log {
    /// A log that goes on after `end`, the last index of `histories`, as the history `id`.
    pub fn new(
        cores: usize,
        keyspace: Keyspace,
        histories: Vec<HistoryEntry>,
        end: Index,
        id: HistoryId,
        backlog_bytes: u64,
        events: Events,
    ) -> Log {
        Log {
            sequencer: Sequencer::new(cores, histories, end, id),
            backlog: Backlog::new(backlog_bytes as usize),
            wal: None,
            begins_at_base: None,
            is_held: false,
            appended_bytes: 0,
            base_appended_bytes: 0,
            disk: wal::Progress { written: end, durable: end, healthy: true, closed: false },
            cores: (0..cores).map(|_| Core::default()).collect(),
            recording: false,
            runs: Runs::new(cores, keyspace),
            standing: Standing::default(),
            follows: None,
            may_cover: true,
            keeps_backlog: false,
            events,
            barriers: Vec::new(),
            out: Vec::new(),
        }
    }

    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// Data cores record, or are about to.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// The first index that is still to be had.
    pub fn oldest(&self) -> Index {
        let next = self.sequencer.end() + 1;
        let disk = self.wal.as_ref().and_then(|wal| wal.oldest());
        self.backlog.first().into_iter().chain(disk).min().unwrap_or(next).clamp(1, next)
    }

    pub fn wal(&self) -> Option<&Rc<Wal>> {
        self.wal.as_ref()
    }

    /// From now on the log is written to disk, or no longer.
    pub fn set_wal(&mut self, wal: Option<Rc<Wal>>) {
        if let Some(wal) = &wal {
            self.disk = wal.progress();
        }
        (self.wal, self.begins_at_base, self.is_held) = (wal, None, false);
        if self.wal.is_none() && self.standing.disk_error.take().is_some() {
            self.tell_standing();
        }
    }

    /// The log is written to disk from the end of the next copy on that goes there; until that copy is complete, it is
    /// held in memory.
    pub fn begin_wal_at_base(&mut self, options: wal::Options) {
        self.set_wal(None);
        self.begins_at_base = Some(options);
    }

    /// A run whose copy goes to disk has ended before this index.
    fn base_reached(&mut self, next: Index) {
        self.base_appended_bytes = self.appended_bytes;
        let Some(options) = &self.begins_at_base else { return };
        let histories = self.sequencer.histories().to_vec();
        let wal = Wal::new(options.clone(), wal::Start { next, histories, segments: Vec::new() });
        // Of a log that is followed more has been received than was applied.
        if next <= self.sequencer.end() {
            let Some(mut frames) = self.backlog.from(next) else { return };
            if frames.any(|frame| wal.append(frame.clone()).is_err()) {
                // The next copy ends elsewhere.
                return;
            }
        }
        self.wal = Some(wal);
        (self.begins_at_base, self.is_held) = (None, true);
    }

    /// What the log on disk begins with is there.
    pub fn wal_begins(&mut self) {
        self.is_held = false;
        if let Some(wal) = &self.wal {
            self.disk = wal.progress();
            wal.request_sync(Index::MAX);
        }
    }

    /// The latest view of the cluster that all data cores have seen. What they executed under older ones is in the log.
    pub fn seen_by_all(&self) -> u64 {
        self.cores.iter().map(|core| core.seen).min().unwrap_or(0)
    }

    /// Tells data cores to record what they change.
    pub fn record(&mut self) {
        if !std::mem::replace(&mut self.recording, true) {
            self.cores.iter_mut().for_each(|core| core.records = false);
            self.tell_all(|| Message::Record(true));
        }
    }

    /// Whether all data cores record.
    pub fn records(&self) -> bool {
        self.recording && self.cores.iter().all(|core| core.records)
    }

    /// Nobody takes frames any more: recording ends, and with it the history, as writes are missing from now on.
    pub fn stop_recording(&mut self, id: HistoryId) {
        if std::mem::replace(&mut self.recording, false) {
            self.tell_all(|| Message::Record(false));
            self.sequencer.forget_histories(id);
            self.backlog.clear();
        }
    }

    pub fn tell_all(&mut self, message: impl Fn() -> Message) {
        let cores = self.cores.len() as CoreId;
        self.out.extend((0..cores).map(|core| (core, message())));
    }

    pub fn tell_standing(&mut self) {
        let standing = Arc::new(self.standing.clone());
        self.tell_all(|| Message::Standing(Arc::clone(&standing)));
    }

    /// A chunk has arrived.
    pub fn feed(&mut self, core: CoreId, chunk: Chunk) {
        let known = &mut self.cores[core as usize];
        known.holds = known.holds.and(chunk.holds);
        // The first one says that it records.
        known.records = self.recording;
        self.sequencer.push(core, chunk);
    }

    /// Adds somebody who takes a whole copy of the keyspace.
    pub fn add_consumer(&mut self, consumer: Consumer) {
        self.record();
        self.runs.add(consumer);
    }

    /// Moves on what has arrived, as far as there is room; `wall_ms` is the time.
    pub fn advance(&mut self, wall_ms: i64) {
        if self.runs.waits_to_begin() && self.records() && self.may_cover {
            let next = self.follows.unwrap_or(self.sequencer.end()) + 1;
            self.runs.begin(&self.sequencer, next, wall_ms);
        }
        while self.has_room()
            && let Some(entry) = self.sequencer.pop(wall_ms)
        {
            match entry {
                Entry::Log(frame) => {
                    if self.keeps_backlog {
                        self.backlog.push(frame.clone());
                    }
                    if let Some(wal) = &self.wal
                        && let Err(error) = wal.append(frame.clone())
                    {
                        tracing::error!(%error, index = frame.head.first, "the log cannot take a frame");
                    }
                    self.appended_bytes += frame.bytes() as u64;
                    self.runs.push_log(&frame);
                    self.events.borrow_mut().push_back(Event::Appended(frame));
                }
                Entry::Cover { run, core, frame, open, done } => {
                    let moved = self.follows.map(|handed_out| frame.moved(self.sequencer.history(), handed_out + 1));
                    let frame = moved.as_ref().unwrap_or(&frame);
                    if self.runs.push_cover(run, core, frame, open, done) {
                        self.base_reached(frame.head.first);
                    }
                }
                Entry::Spoiled { run } => {
                    let ends = match run {
                        Some(run) => self.runs.spoil(run),
                        None => self.runs.spoil_all(),
                    };
                    self.out.extend(ends);
                }
                Entry::Barrier { core, stop } if stop == self.standing.stops => self.barriers.push(core),
                // Writes have gone on since.
                Entry::Barrier { .. } => {}
                Entry::Seen { core, view } => self.cores[core as usize].seen = view,
            }
        }
        if let Some(wal) = &self.wal
            && self.cores.iter().any(|core| core.holds.disk)
        {
            wal.request_sync(self.sequencer.end());
        }
        if self.may_cover {
            self.out.extend(self.runs.grant());
        }
    }

    /// The disk is not behind by more than it may be.
    pub fn has_room(&self) -> bool {
        self.wal.as_ref().is_none_or(|wal| wal.held_bytes() < UNWRITTEN_BYTES_MAX)
    }

    /// Looks how far the disk is with a log, which may be one that ends.
    pub fn look_at_disk(&mut self, wal: &Rc<Wal>) {
        self.disk = wal.progress();
        if !self.wal.as_ref().is_some_and(|ours| Rc::ptr_eq(ours, wal)) {
            return;
        }
        let error = wal.health().map(|health| Arc::from(&*health));
        if error != self.standing.disk_error {
            match &error {
                Some(why) => tracing::error!(%why, "the log cannot be written; writes are refused"),
                None => tracing::info!("the log is written again"),
            }
            self.standing.disk_error = error;
            self.tell_standing();
        }
    }

    /// The last index that survives a power cut here; of a log that is written no longer, the last one that did.
    pub fn durable(&self) -> Index {
        self.disk.durable
    }

    /// Tells data cores how far the log is with what they fed it, those that want to know.
    pub fn tell_progress(&mut self, copied: &Copied) {
        let durable = self.durable();
        let (replicated, replicated_durable) = (copied.received, copied.durable.min(durable));
        for (at, core) in self.cores.iter_mut().enumerate() {
            let id = at as CoreId;
            let taken_bytes = self.sequencer.taken_bytes(id);
            let hungry = taken_bytes >= core.sent.taken_bytes + TAKEN_STEP_BYTES;
            if core.holds == Holds::default() && !hungry {
                continue;
            }
            let of = |index| self.sequencer.seq_at(id, index);
            // To be told of what it does not wait for would only wake it.
            let Holds { disk, replicas } = core.holds;
            let lane = |&(received, on_disks): &(Index, Index)| Lane {
                replicated: of(received),
                replicated_durable: of(on_disks.min(durable)),
            };
            let lanes = |ends: &LaneEnds| {
                let lanes = ends.ends.iter().map(lane).collect();
                Arc::new(Lanes { map: Arc::clone(&ends.map), lanes })
            };
            let progress = Progress {
                taken_bytes,
                durable: if disk { of(durable) } else { core.sent.durable },
                replicated: if replicas { of(replicated) } else { core.sent.replicated },
                replicated_durable: if replicas { of(replicated_durable) } else { core.sent.replicated_durable },
                lanes: copied.lanes.as_ref().filter(|_| replicas).map(lanes),
            };
            if hungry || progress != (Progress { taken_bytes, ..core.sent.clone() }) {
                core.sent = progress.clone();
                self.out.push((id, Message::Progress(progress)));
            }
        }
        // Whoever waits for disks, waits for those of replicas as well, which may be behind this node's.
        let on_disk = self.wal.is_some() || self.begins_at_base.is_some();
        let needed = if on_disk { replicated.min(replicated_durable) } else { replicated };
        self.sequencer.forget_marks(needed);
    }

    /// Whether everything that these data cores had said when they were asked is in the log.
    pub fn has(&self, positions: &[(CoreId, u64)]) -> bool {
        positions.iter().all(|&(core, seq)| self.sequencer.merged(core) >= seq)
    }
}
