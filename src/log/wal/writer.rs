//! The task that writes the log; see [`super`].

use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_lite::future::or;
use glommio::timer::Timer;

use super::{GROUP_BYTES_MAX, Item, Phase, SegmentFile, State, SyncPolicy, UNSYNCED_BYTES_MAX, WRITE_BYTES_MAX, Wal};
use crate::log::disk::DiskFile;
use crate::log::files;
use crate::log::frame::{Frame, HistoryEntry, Index, Kind, Segment};

const EVERY_SECOND: Duration = Duration::from_secs(1);

/// What failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} '{}': {source}", .path.display())]
struct Failure {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failure(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure { what, path: path.into(), source }
}

struct Writer {
    wal: Rc<Wal>,
    /// None: the next frame begins a segment.
    open: Option<Open>,
    /// As they are for the next frame that is written.
    histories: Vec<HistoryEntry>,
    /// The pause after the next failure.
    pause: Duration,
}

struct Open {
    file: DiskFile,
    /// The same file, for writes that end when they are durable; opened when there is one.
    through: Option<DiskFile>,
    path: PathBuf,
    bytes: u64,
    /// Whether it has more than its first frame. One that has not is never full.
    has_units: bool,
}

/// What is to be done next.
enum Work {
    Write,
    Sync,
    History,
    Close,
    Stop,
    Wait(Option<Instant>),
}

pub(super) async fn run(wal: Rc<Wal>) {
    let (histories, pause) = (wal.histories.clone(), wal.options.retry_first);
    let mut writer = Writer { wal, open: None, histories, pause };
    loop {
        writer.remove_old().await;
        let work = writer.wal.state.borrow_mut().work(Instant::now());
        let done = match work {
            Work::Write => writer.write_group().await,
            Work::Sync => writer.sync().await,
            Work::History => writer.begin_history().await,
            Work::Wait(until) => {
                writer.wait(until).await;
                Ok(())
            }
            Work::Close => {
                writer.mark_end().await;
                break;
            }
            Work::Stop => break,
        };
        match done {
            Ok(()) => {}
            Err(failure) => writer.failed(failure).await,
        }
    }
    writer.close_segment().await;
    let mut state = writer.wal.state.borrow_mut();
    state.phase = Phase::Closed;
    state.publish();
}

impl Item {
    fn shared(&self) -> Item {
        match self {
            Item::Frame(frame) => Item::Frame(frame.clone()),
            Item::History(begun) => Item::History(Rc::clone(begun)),
        }
    }
}

impl State {
    fn work(&mut self, now: Instant) -> Work {
        self.signal = false;
        if self.phase == Phase::Abandoned {
            return Work::Stop;
        }
        let due = (self.sync == SyncPolicy::EverySecond).then(|| self.dirty_since + EVERY_SECOND);
        let wanted = self.sync_wanted > self.durable;
        let idle = self.queue.is_empty();
        if !self.unsynced.is_empty()
            && (self.sync == SyncPolicy::Always
                || (wanted && (self.sync_wanted <= self.written || idle))
                || self.unsynced_bytes >= UNSYNCED_BYTES_MAX
                || due.is_some_and(|due| due <= now)
                || (self.phase == Phase::Closing && idle))
        {
            return Work::Sync;
        }
        match self.queue.front() {
            Some(Item::Frame(_)) => Work::Write,
            Some(Item::History(_)) => Work::History,
            None if self.phase == Phase::Closing => Work::Close,
            None => Work::Wait(due.filter(|_| !self.unsynced.is_empty())),
        }
    }

    /// Moves frames from the head of the queue to those that are being written, as long as `more` wants them.
    fn take(&mut self, mut more: impl FnMut(&Frame) -> bool) -> Vec<Frame> {
        let mut group = Vec::new();
        while let Some(Item::Frame(frame)) = self.queue.front() {
            if !more(frame) {
                break;
            }
            if self.unsynced.is_empty() {
                self.dirty_since = Instant::now();
            }
            let Some(Item::Frame(frame)) = self.queue.pop_front() else { break };
            self.unsynced_bytes += frame.bytes();
            self.unsynced.push_back(frame.clone());
            group.push(frame);
        }
        group
    }

    /// Whether the next group is to be durable at once, and can be without a look at what was written before.
    fn writes_through(&self) -> bool {
        self.unsynced.is_empty() && (self.sync == SyncPolicy::Always || self.sync_wanted > self.durable)
    }

    /// What the open segment has is in the kernel now.
    fn was_written(&mut self) {
        if let Some(frame) = self.unsynced.back() {
            self.written = frame.last().min(self.limit);
        }
        self.publish();
    }

    /// What the open segment has is on disk now.
    fn was_synced(&mut self) {
        if let Some(frame) = self.unsynced.back() {
            self.durable = frame.last().min(self.limit);
            self.written = self.durable;
        }
        self.held_bytes -= self.unsynced_bytes;
        self.unsynced_bytes = 0;
        self.unsynced.clear();
        self.publish();
    }
}

impl Writer {
    async fn wait(&self, until: Option<Instant>) {
        let signal = poll_fn(|context| {
            let mut state = self.wal.state.borrow_mut();
            if state.signal {
                return Poll::Ready(());
            }
            state.writer = Some(context.waker().clone());
            Poll::Pending
        });
        match until {
            None => signal.await,
            Some(until) => {
                let timer = async {
                    Timer::new(until.saturating_duration_since(Instant::now())).await;
                };
                or(signal, timer).await;
            }
        }
    }

    /// Writes what is queued, up to a bound, behind what the segment has.
    async fn write_group(&mut self) -> Result<(), Failure> {
        let full = self.open.as_ref().is_none_or(|open| open.has_units && open.bytes >= self.wal.options.segment_bytes);
        if full {
            self.sync().await?;
            // Meanwhile the log may have been cut.
            let cut = !matches!(self.wal.state.borrow().queue.front(), Some(Item::Frame(_)));
            return if cut { Ok(()) } else { self.begin_segment().await };
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let through = self.wal.state.borrow().writes_through();
        if through && open.through.is_none() {
            let opened = self.wal.disk.open_through(&open.path).await;
            open.through = Some(opened.map_err(failure("open", &open.path))?);
        }
        let mut bytes = 0;
        let group = self.wal.state.borrow_mut().take(|frame| {
            let fits = bytes == 0 || bytes + frame.bytes() <= GROUP_BYTES_MAX;
            bytes += frame.bytes();
            fits
        });
        // Meanwhile the log may have been cut.
        if group.is_empty() {
            return Ok(());
        }
        open.has_units = true;
        // A large group takes several writes, and one sync for all of them.
        let through = through && group.iter().map(Frame::bytes).sum::<usize>() <= WRITE_BYTES_MAX;
        open.write(&group, through).await?;
        let mut state = self.wal.state.borrow_mut();
        if let Some(segment) = state.segments.back_mut() {
            segment.bytes = open.bytes;
        }
        if through {
            state.was_synced()
        } else {
            state.was_written()
        }
        Ok(())
    }

    async fn close_segment(&mut self) {
        if let Some(open) = self.open.take() {
            open.file.close().await;
            if let Some(through) = open.through {
                through.close().await;
            }
        }
    }

    /// Makes what the segment has durable.
    async fn sync(&mut self) -> Result<(), Failure> {
        if self.wal.state.borrow().unsynced.is_empty() {
            return Ok(());
        }
        if let Some(open) = &self.open {
            open.file.sync().await.map_err(failure("sync", &open.path))?;
        }
        self.wal.state.borrow_mut().was_synced();
        Ok(())
    }

    /// Begins a segment after what is durable, with the frames that were in one that failed. It gets its name when all of
    /// that is on disk.
    async fn begin_segment(&mut self) -> Result<(), Failure> {
        // Before anything is waited for: the log may be cut at any time.
        let (first, rewritten) = {
            let mut state = self.wal.state.borrow_mut();
            let to = state.rewrite_to;
            (state.durable + 1, state.take(|frame| frame.last() <= to))
        };
        self.close_segment().await;
        let name = files::segment_name(first);
        let temporary = self.wal.options.dir.join(files::temporary_name(&name));
        let mut open = self.write_segment(first, &rewritten, &temporary).await?;
        let path = self.wal.options.dir.join(name);
        self.wal.disk.rename(&temporary, &path).await.map_err(failure("rename", &temporary))?;
        open.path = path;
        self.note_segment(first, open.bytes);
        let dir = &self.wal.options.dir;
        self.wal.disk.sync_dir(dir).await.map_err(failure("sync", dir))?;
        self.open = Some(open);
        self.pause = self.wal.options.retry_first;
        let mut state = self.wal.state.borrow_mut();
        if let Some(error) = state.health.take() {
            tracing::warn!(%error, first, "the log can be written again");
        }
        state.was_synced();
        state.publish();
        Ok(())
    }

    /// A file under a temporary name, with these frames, synced.
    async fn write_segment(&self, first: Index, frames: &[Frame], temporary: &Path) -> Result<Open, Failure> {
        let history = self.histories.last().map_or(0, |history| history.id);
        let segment = Segment { histories: self.histories.clone() };
        let head = Frame::of(Kind::Segment, history, first, wall_ms(), &segment);
        let file = self.wal.disk.create(temporary).await.map_err(failure("create", temporary))?;
        let mut open = Open { file, through: None, path: temporary.into(), bytes: 0, has_units: !frames.is_empty() };
        let written = async {
            open.write(&[head], false).await?;
            open.write(frames, false).await?;
            open.file.sync().await.map_err(failure("sync", temporary))
        };
        match written.await {
            Ok(()) => Ok(open),
            Err(failure) => {
                open.file.close().await;
                // It would be removed at the next start, but its room may be what is missing.
                let _ = self.wal.disk.remove(temporary).await;
                Err(failure)
            }
        }
    }

    fn note_segment(&self, first: Index, bytes: u64) {
        let state = &mut *self.wal.state.borrow_mut();
        let serial = state.serial;
        state.serial += 1;
        while state.segments.back().is_some_and(|last| last.first >= first) {
            state.segments.pop_back();
        }
        state.segments.push_back(SegmentFile { first, bytes, serial });
    }

    /// Begins the history that stands first in the queue.
    async fn begin_history(&mut self) -> Result<(), Failure> {
        self.sync().await?;
        let Some(Item::History(begun)) = self.wal.state.borrow().queue.front().map(Item::shared) else { return Ok(()) };
        let next = begun.next;
        self.close_segment().await;
        // The latest first: whenever this ends, what is left is a log.
        while let Some(last) = self.last_segment().filter(|last| begun.anew || last.first >= next) {
            let path = self.wal.options.dir.join(files::segment_name(last.first));
            match self.wal.disk.remove(&path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failure("remove", &path)(error)),
                _ => self.wal.state.borrow_mut().segments.pop_back(),
            };
        }
        let dir = &self.wal.options.dir;
        self.wal.disk.sync_dir(dir).await.map_err(failure("sync", dir))?;
        {
            let state = &mut *self.wal.state.borrow_mut();
            // Meanwhile the log may have been cut before this one began.
            if !matches!(state.queue.front(), Some(Item::History(first)) if Rc::ptr_eq(first, &begun)) {
                return Ok(());
            }
            let later = state.queue.iter().skip(1).filter_map(|item| match item {
                Item::History(later) => Some(later.next - 1),
                Item::Frame(_) => None,
            });
            state.limit = later.min().unwrap_or(Index::MAX);
            (state.written, state.durable) = (next - 1, next - 1);
            self.histories.clone_from(&begun.histories);
        }
        self.begin_segment().await?;
        let state = &mut *self.wal.state.borrow_mut();
        if matches!(state.queue.front(), Some(Item::History(first)) if Rc::ptr_eq(first, &begun)) {
            state.queue.pop_front();
        }
        Ok(())
    }

    fn last_segment(&self) -> Option<SegmentFile> {
        self.wal.state.borrow().segments.back().copied()
    }

    /// Removes segments that nobody needs, the oldest first.
    async fn remove_old(&self) {
        loop {
            let first = {
                let state = self.wal.state.borrow();
                match state.segments.get(1) {
                    Some(second) if second.first <= state.retain_from => state.segments[0].first,
                    _ => return,
                }
            };
            let path = self.wal.options.dir.join(files::segment_name(first));
            let removed = self.wal.disk.remove(&path).await;
            let mut state = self.wal.state.borrow_mut();
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "an old segment of the log cannot be removed");
                    // Until somebody asks again.
                    state.retain_from = 0;
                }
                _ => drop(state.segments.pop_front()),
            }
        }
    }

    /// Puts back what is not durable, and pauses.
    async fn failed(&mut self, failure: Failure) {
        tracing::error!(error = %failure, "the log cannot be written");
        self.close_segment().await;
        {
            let state = &mut *self.wal.state.borrow_mut();
            if let Some(last) = state.unsynced.back() {
                state.rewrite_to = state.rewrite_to.max(last.last());
            }
            while let Some(frame) = state.unsynced.pop_back() {
                state.queue.push_front(Item::Frame(frame));
            }
            state.unsynced_bytes = 0;
            state.written = state.durable;
            state.health = Some(failure.to_string().into());
            state.publish();
        }
        // Cut short when nobody waits for the end any more.
        let end = Instant::now() + self.pause;
        while Instant::now() < end && self.wal.state.borrow().phase != Phase::Abandoned {
            self.wal.state.borrow_mut().signal = false;
            self.wait(Some(end)).await;
        }
        self.pause = (self.pause * 2).min(self.wal.options.retry_max);
    }

    /// Begins a segment that stays empty. So whatever is missing before it at the next start has been lost since: the end
    /// of a log that was closed is not taken for one that was torn.
    async fn mark_end(&mut self) {
        let empty = self.last_segment().is_none_or(|last| last.first > self.wal.state.borrow().durable);
        if self.open.is_some()
            && !empty
            && let Err(error) = self.begin_segment().await
        {
            tracing::warn!(%error, "the end of the log is not marked");
        }
    }
}

impl Open {
    /// Writes frames at the end; `through`: they are durable then.
    async fn write(&mut self, frames: &[Frame], through: bool) -> Result<(), Failure> {
        let file = self.through.as_ref().filter(|_| through).unwrap_or(&self.file);
        let total: usize = frames.iter().map(Frame::bytes).sum();
        let mut done = 0;
        while done < total {
            let written = file.write_at(gather(frames, done), self.bytes).await;
            let written = written.map_err(failure("write", &self.path))?;
            if written == 0 {
                return Err(failure("write", &self.path)(io::ErrorKind::WriteZero.into()));
            }
            done += written;
            self.bytes += written as u64;
        }
        Ok(())
    }
}

/// What stands in `frames` from byte `skip` on, as much as one write takes.
pub(in crate::log) fn gather(frames: &[Frame], mut skip: usize) -> Vec<u8> {
    let rest: usize = frames.iter().map(Frame::bytes).sum::<usize>() - skip;
    let mut bytes = Vec::with_capacity(rest.min(WRITE_BYTES_MAX));
    for part in frames.iter().flat_map(|frame| [&frame.header()[..], frame.payload()]) {
        let from = skip.min(part.len());
        skip -= from;
        let room = WRITE_BYTES_MAX - bytes.len();
        let part = &part[from..];
        bytes.extend_from_slice(&part[..part.len().min(room)]);
        if bytes.len() == WRITE_BYTES_MAX {
            break;
        }
    }
    bytes
}

/// The wall clock.
fn wall_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as i64)
}
