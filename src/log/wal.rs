//! The write-ahead log: frames are queued here and written by one task, in the order in which they came.
//!
//! ```text
//! append ─► queue ─► [writer] ─► unsynced ─► fdatasync ─► durable: forgotten here
//!             ▲                     │
//!             └──── after a failure ┘
//! ```
//!
//! A frame stays in memory until it is durable. So when a write or a sync fails, whatever the reason, nothing is tried
//! again on that file (the kernel may have dropped its pages, and a second sync would say that all is well): what is not
//! durable is written to a new segment, which begins with the first unit that is not, and counts for the log from there
//! on. That goes on, with pauses, until it succeeds; meanwhile [`Wal::health`] says what is wrong.
//!
//! While a group of frames is written and synced, the next one gathers in the queue (group commit). How often is synced
//! is the policy's to say ([`SyncPolicy`]). A group that is to be durable at once is one write that ends when it is
//! (O_DSYNC), instead of a write and a sync: half the wake-ups. Whoever appends bounds what is held: [`Wal::held_bytes`].
//!
//! Owned by the control core. Invariant: no borrow of the state lives across an await.
//! Invariant: durable <= written < next; all segments but the one being written are durable to their end.

mod back;
mod writer;

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::path::PathBuf;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::frame::{Frame, HistoryEntry, HistoryId, Index, Kind, check_histories};

pub(in crate::log) use writer::gather;

pub use back::{BackReader, ReadBackError};

/// Most bytes of one write.
pub const WRITE_BYTES_MAX: usize = 1 << 20;

/// Frames of up to this many bytes are written before the next sync, or one frame that has more.
pub const GROUP_BYTES_MAX: usize = 8 << 20;

/// Most bytes that are written and not synced, whatever the policy: they are held in memory until they are.
pub const UNSYNCED_BYTES_MAX: usize = 32 << 20;

/// When frames are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// After each group; replies can be held until then.
    Always,
    /// Once a second.
    EverySecond,
    /// When somebody asks, when a segment is full, and every [`UNSYNCED_BYTES_MAX`]. What is written survives the end of
    /// the process at once, and that of the machine when the kernel has written it.
    No,
}

/// How a log is written.
#[derive(Clone, Debug)]
pub struct Options {
    pub dir: PathBuf,
    pub sync: SyncPolicy,
    /// A segment that has this many bytes is followed by another one.
    pub segment_bytes: u64,
    /// The pause after a failure; it doubles with each one that follows.
    pub retry_first: Duration,
    pub retry_max: Duration,
}

impl Options {
    pub fn new(dir: PathBuf) -> Options {
        Options {
            dir,
            sync: SyncPolicy::EverySecond,
            segment_bytes: 64 << 20,
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
        }
    }
}

/// Where the log goes on.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The index of the next unit.
    pub next: Index,
    /// Oldest first; the last one writes the next frame.
    pub histories: Vec<HistoryEntry>,
    /// First index and bytes of the segments that are there, oldest first.
    pub segments: Vec<(Index, u64)>,
}

/// How far the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last index that the kernel has. Falls back to `durable` after a failure.
    pub written: Index,
    /// The last index that survives a power cut.
    pub durable: Index,
    /// Whether the last attempt to write was a success.
    pub healthy: bool,
    pub closed: bool,
}

/// Why a frame is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("index {found} where {expected} comes next")]
    Index { expected: Index, found: Index },
    #[error("another history than the log's")]
    History,
    #[error("not a frame of units")]
    Kind,
    #[error("the log is closed")]
    Closed,
}

/// Why a log was not closed in order.
#[derive(Debug, thiserror::Error)]
#[error("units from index {first} on may not be on disk: {why}")]
pub struct CloseError {
    pub first: Index,
    pub why: String,
}

/// The log. Shared by the tasks of the control core.
pub struct Wal {
    disk: Disk,
    options: Options,
    /// Those that the log began with.
    histories: Vec<HistoryEntry>,
    state: RefCell<State>,
}

struct State {
    sync: SyncPolicy,
    queue: VecDeque<Item>,
    /// What the segment has, or is getting, since its last sync.
    unsynced: VecDeque<Frame>,
    unsynced_bytes: usize,
    dirty_since: Instant,
    /// Bytes of all frames in here.
    held_bytes: usize,
    next: Index,
    /// As they are for the next frame that is appended.
    histories: Vec<HistoryEntry>,
    written: Index,
    durable: Index,
    /// Where a history begins that is not on disk yet, less one: what comes after it is of another one until then.
    limit: Index,
    sync_wanted: Index,
    /// Frames at the head of the queue up to this index were in a segment that failed.
    rewrite_to: Index,
    retain_from: Index,
    segments: VecDeque<SegmentFile>,
    serial: u64,
    health: Option<Rc<str>>,
    phase: Phase,
    /// Something happened that the writer has not looked at.
    signal: bool,
    writer: Option<Waker>,
    waiting: Vec<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SegmentFile {
    first: Index,
    bytes: u64,
    /// Never used again, also if the name is.
    serial: u64,
}

enum Item {
    Frame(Frame),
    /// The frames that follow belong to a new history, whose first unit is `next`.
    History(Rc<NewHistory>),
}

struct NewHistory {
    histories: Vec<HistoryEntry>,
    next: Index,
    /// Nothing that the log has is kept.
    anew: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Closing,
    /// Nobody waits for the end any more.
    Abandoned,
    Closed,
}

impl Wal {
    /// A log that goes on at `start`. [`Wal::run`] is the task that writes it.
    pub fn new(options: Options, start: Start) -> Rc<Wal> {
        Wal::on(Disk::System, options, start)
    }

    pub(super) fn on(disk: Disk, options: Options, start: Start) -> Rc<Wal> {
        assert!(start.next > 0 && !start.histories.is_empty(), "indices begin with 1, in a history");
        let serial = start.segments.len() as u64;
        let numbered = start.segments.iter().enumerate();
        let segments = numbered.map(|(i, &(first, bytes))| SegmentFile { first, bytes, serial: i as u64 }).collect();
        let state = State {
            sync: options.sync,
            queue: VecDeque::new(),
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            dirty_since: Instant::now(),
            held_bytes: 0,
            next: start.next,
            histories: start.histories.clone(),
            written: start.next - 1,
            durable: start.next - 1,
            limit: Index::MAX,
            sync_wanted: 0,
            rewrite_to: 0,
            retain_from: 0,
            segments,
            serial,
            health: None,
            phase: Phase::Open,
            signal: false,
            writer: None,
            waiting: Vec::new(),
        };
        Rc::new(Wal { disk, options, histories: start.histories, state: RefCell::new(state) })
    }

    /// Queues a frame.
    pub fn append(&self, frame: Frame) -> Result<(), AppendError> {
        let mut state = self.state.borrow_mut();
        if state.phase != Phase::Open {
            return Err(AppendError::Closed);
        }
        if frame.head.kind != Kind::Log {
            return Err(AppendError::Kind);
        }
        if frame.head.first != state.next {
            return Err(AppendError::Index { expected: state.next, found: frame.head.first });
        }
        if state.histories.last().map(|history| history.id) != Some(frame.head.history) {
            return Err(AppendError::History);
        }
        state.next = frame.last() + 1;
        state.held_bytes += frame.bytes();
        state.queue.push_back(Item::Frame(frame));
        state.wake_writer();
        Ok(())
    }

    /// The history to which the next frame has to belong.
    pub fn history(&self) -> Option<HistoryId> {
        self.state.borrow().histories.last().map(|history| history.id)
    }

    /// Another history goes on from `next`, which is not beyond the end: after a promotion, or because a new primary does
    /// not have what comes after. Units from `next` on that the log has are cut off. Snapshots that reach beyond are for the
    /// caller to remove: a start with one of them is refused.
    pub fn start_history(&self, histories: Vec<HistoryEntry>, next: Index) -> Result<(), AppendError> {
        self.begin(histories, next, false)
    }

    /// The log begins anew at `next`, for data that came by other means (a full copy of a primary): everything that it has
    /// is removed.
    pub fn restart(&self, histories: Vec<HistoryEntry>, next: Index) -> Result<(), AppendError> {
        self.begin(histories, next, true)
    }

    fn begin(&self, histories: Vec<HistoryEntry>, next: Index, anew: bool) -> Result<(), AppendError> {
        let mut state = self.state.borrow_mut();
        if state.phase != Phase::Open {
            return Err(AppendError::Closed);
        }
        if next == 0 || (!anew && next > state.next) {
            return Err(AppendError::Index { expected: state.next, found: next });
        }
        let cut = histories.last().map_or(Index::MAX, |history| history.cut);
        if check_histories(&histories).is_err() || cut >= next {
            return Err(AppendError::History);
        }
        state.cut(if anew { 1 } else { next });
        state.next = next;
        state.histories = histories.clone();
        // One that would begin later is cut off as a whole.
        state.queue.retain(|item| !matches!(item, Item::History(other) if anew || other.next >= next));
        state.queue.push_back(Item::History(Rc::new(NewHistory { histories, next, anew })));
        state.wake_writer();
        Ok(())
    }

    /// Asks that everything up to `index` becomes durable soon, whatever the policy.
    pub fn request_sync(&self, index: Index) {
        let mut state = self.state.borrow_mut();
        state.sync_wanted = state.sync_wanted.max(index.min(state.next - 1));
        state.wake_writer();
    }

    /// Changes the policy.
    pub fn set_sync(&self, sync: SyncPolicy) {
        let mut state = self.state.borrow_mut();
        state.sync = sync;
        state.wake_writer();
    }

    /// Segments that have nothing from `from` on may be removed.
    pub fn retain(&self, from: Index) {
        let mut state = self.state.borrow_mut();
        state.retain_from = state.retain_from.max(from);
        state.wake_writer();
    }

    /// The index that the next frame must have.
    pub fn next(&self) -> Index {
        self.state.borrow().next
    }

    pub fn progress(&self) -> Progress {
        self.state.borrow().progress()
    }

    /// Waits until the progress is another than `seen`.
    pub async fn changed(&self, seen: Progress) -> Progress {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            let now = state.progress();
            if now != seen {
                return Poll::Ready(now);
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                state.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Bytes of frames that are held in memory, as they are not durable.
    pub fn held_bytes(&self) -> usize {
        self.state.borrow().held_bytes
    }

    /// What is wrong, in one line, while the log cannot be written.
    pub fn health(&self) -> Option<Rc<str>> {
        self.state.borrow().health.clone()
    }

    /// Bytes of all segments.
    pub fn total_bytes(&self) -> u64 {
        self.state.borrow().segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The first index of the oldest segment; None: there is no segment.
    pub fn oldest(&self) -> Option<Index> {
        self.state.borrow().segments.front().map(|segment| segment.first)
    }

    /// Writes and syncs everything, and ends the writer. Waits no longer than `patience`.
    pub async fn close(&self, patience: Duration) -> Result<(), CloseError> {
        {
            let mut state = self.state.borrow_mut();
            if state.phase == Phase::Open {
                state.phase = Phase::Closing;
            }
            state.wake_writer();
        }
        let ended = glommio::timer::timeout(patience, async {
            let mut seen = self.progress();
            while !seen.closed {
                seen = self.changed(seen).await;
            }
            Ok::<(), glommio::GlommioError<()>>(())
        });
        if ended.await.is_ok() {
            return Ok(());
        }
        let mut state = self.state.borrow_mut();
        state.phase = Phase::Abandoned;
        state.wake_writer();
        let why = state.health.as_deref().unwrap_or("the disk has not answered in time").to_string();
        Err(CloseError { first: state.durable + 1, why })
    }

    /// The task that writes. Ends after [`Wal::close`].
    pub async fn run(self: Rc<Self>) {
        writer::run(self).await;
    }

    /// Reads frames back, from the one that contains `from` on, as far as they are written.
    pub fn frames_from(self: &Rc<Self>, from: Index) -> BackReader {
        BackReader::new(Rc::clone(self), from)
    }
}

impl State {
    fn progress(&self) -> Progress {
        let closed = self.phase == Phase::Closed;
        Progress { written: self.written, durable: self.durable, healthy: self.health.is_none(), closed }
    }

    fn wake_writer(&mut self) {
        self.signal = true;
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn publish(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    /// Forgets the frames from index `next` on, and says of none of these that it is written any more.
    fn cut(&mut self, next: Index) {
        let stays = |frame: &Frame| frame.head.first < next;
        self.queue.retain(|item| !matches!(item, Item::Frame(frame) if !stays(frame)));
        self.unsynced.retain(stays);
        let queued = self.queue.iter().filter_map(|item| match item {
            Item::Frame(frame) => Some(frame.bytes()),
            Item::History(_) => None,
        });
        let queued: usize = queued.sum();
        self.unsynced_bytes = self.unsynced.iter().map(Frame::bytes).sum();
        self.held_bytes = queued + self.unsynced_bytes;
        self.limit = self.limit.min(next - 1);
        self.written = self.written.min(next - 1);
        self.durable = self.durable.min(next - 1);
        self.rewrite_to = self.rewrite_to.min(next - 1);
        self.sync_wanted = self.sync_wanted.min(next - 1);
        self.publish();
    }
}
