//! The snapshot writer: a stream of frames becomes a file.
//!
//! The frames are pushed in the order of the stream (`Begin`, then `Log` and `Cover`, then `End`) and written by one task.
//! The file has a temporary name until all of it is on disk. What fails ends it: the file is removed, and the next push
//! says why. Whoever pushes bounds what is held: [`SnapshotWriter::queued_bytes`].
//!
//! Owned by the control core. Invariant: no borrow of the state lives across an await.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};

use super::disk::{Disk, DiskFile};
use super::files;
use super::frame::{Frame, Index, Kind, read_begin, read_end};
use super::wal::gather;

/// The kernel is asked to write after this many bytes, so that the last sync does not hold up the disk for long.
const SYNC_BYTES: u64 = 16 << 20;

/// Bytes that are written at once, or one frame that has more. A data core may share the CPU, and waits as long as that
/// takes.
const WRITE_BYTES: usize = 256 << 10;

/// Where snapshots are written.
#[derive(Clone, Debug)]
pub struct Options {
    pub dir: PathBuf,
    /// How many are kept, with the new one; at least one.
    pub keep: usize,
    /// It takes the place of all data that is there: the log that lies there goes, too.
    pub replaces: bool,
}

/// Why there is no snapshot.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("cannot {what} '{}': {source}", .path.display())]
    Io { what: &'static str, path: PathBuf, source: Rc<io::Error> },
    #[error("the stream is wrong: {0}")]
    Stream(&'static str),
    #[error("it was given up")]
    Aborted,
}

/// A snapshot that is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub path: PathBuf,
    /// The last index that it contains.
    pub end: Index,
    pub bytes: u64,
    /// End indices of all snapshots that are kept, ascending, this one's included: the log is needed from the first of
    /// them on for all of these to be of use.
    pub kept: Vec<Index>,
}

/// A snapshot that is being written. [`SnapshotWriter::run`] is the task that does.
pub struct SnapshotWriter {
    disk: Disk,
    options: Options,
    temporary: PathBuf,
    state: RefCell<State>,
}

struct State {
    queue: VecDeque<Frame>,
    queued_bytes: usize,
    written_bytes: u64,
    stream: Stream,
    aborted: bool,
    result: Option<Result<Done, SnapshotError>>,
    writer: Option<Waker>,
    waiting: Vec<Waker>,
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Start,
    /// `next` is the index of the next unit.
    Middle {
        next: Index,
        history: u128,
        covers: u64,
    },
    End {
        end: Index,
    },
}

impl Stream {
    fn after(self, frame: &Frame) -> Result<Stream, SnapshotError> {
        let wrong = |what| Err(SnapshotError::Stream(what));
        let head = &frame.head;
        let (next, history, covers) = match (self, head.kind) {
            (Stream::Start, Kind::Begin) => {
                let begin =
                    read_begin(frame.payload()).map_err(|_| SnapshotError::Stream("a beginning with errors"))?;
                let history = begin.histories.last().map_or(0, |history| history.id);
                return Ok(Stream::Middle { next: head.first, history, covers: 0 });
            }
            (Stream::Middle { next, history, covers }, Kind::Log | Kind::Cover | Kind::End) => (next, history, covers),
            _ => return wrong("frames in another order"),
        };
        if head.first != next {
            return wrong("indices do not follow each other");
        }
        match head.kind {
            Kind::Log if head.history != history => wrong("another history has begun"),
            Kind::Log => Ok(Stream::Middle { next: frame.last() + 1, history, covers }),
            Kind::Cover => Ok(Stream::Middle { next, history, covers: covers + 1 }),
            _ if read_end(frame.payload()).map(|end| end.covers) != Ok(covers) => wrong("another number of frames"),
            _ => Ok(Stream::End { end: next - 1 }),
        }
    }
}

impl SnapshotWriter {
    pub fn new(options: Options) -> Rc<SnapshotWriter> {
        SnapshotWriter::on(Disk::System, options)
    }

    pub(super) fn on(disk: Disk, options: Options) -> Rc<SnapshotWriter> {
        // One that is given up removes its file when another one may be at work already.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = files::snapshot_name(NUMBER.fetch_add(1, Ordering::Relaxed));
        let temporary = options.dir.join(files::temporary_name(&name));
        let state = State {
            queue: VecDeque::new(),
            queued_bytes: 0,
            written_bytes: 0,
            stream: Stream::Start,
            aborted: false,
            result: None,
            writer: None,
            waiting: Vec::new(),
        };
        Rc::new(SnapshotWriter { disk, options, temporary, state: RefCell::new(state) })
    }

    /// Queues the next frame of the stream. A frame that must not come here ends the snapshot.
    pub fn push(&self, frame: Frame) -> Result<(), SnapshotError> {
        let mut state = self.state.borrow_mut();
        match &state.result {
            Some(Err(error)) => return Err(error.clone()),
            Some(Ok(_)) => return Err(SnapshotError::Stream("frames after the end")),
            None if state.aborted => return Err(SnapshotError::Aborted),
            None => {}
        }
        match state.stream.after(&frame) {
            Ok(stream) => state.stream = stream,
            Err(error) => {
                state.aborted = true;
                state.wake_writer();
                return Err(error);
            }
        }
        state.queued_bytes += frame.bytes();
        state.queue.push_back(frame);
        state.wake_writer();
        Ok(())
    }

    /// Bytes that are not written yet.
    pub fn queued_bytes(&self) -> usize {
        self.state.borrow().queued_bytes
    }

    pub fn written_bytes(&self) -> u64 {
        self.state.borrow().written_bytes
    }

    /// What was made of it, when it is over.
    pub fn result(&self) -> Option<Result<Done, SnapshotError>> {
        self.state.borrow().result.clone()
    }

    /// Gives it up, unless it is over.
    pub fn abort(&self) {
        let mut state = self.state.borrow_mut();
        state.aborted = true;
        state.wake_writer();
    }

    /// Waits until it is over: the last frame of the stream has been pushed and everything is on disk, or it has failed.
    pub async fn finished(&self) -> Result<Done, SnapshotError> {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if let Some(result) = &state.result {
                return Poll::Ready(result.clone());
            }
            state.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The task that writes. Ends when the snapshot is over.
    pub async fn run(self: Rc<Self>) {
        let result = self.write().await;
        if result.is_err() {
            // Nothing may be there; and what is, the next start removes.
            let _ = self.disk.remove(&self.temporary).await;
        }
        let mut state = self.state.borrow_mut();
        state.queue.clear();
        state.queued_bytes = 0;
        state.result = Some(result);
        state.waiting.drain(..).for_each(Waker::wake);
    }

    async fn write(&self) -> Result<Done, SnapshotError> {
        let created = self.disk.create(&self.temporary).await;
        let file = created.map_err(failure("create", &self.temporary))?;
        let written = self.write_frames(&file).await;
        file.close().await;
        let (end, bytes) = written?;
        if self.options.replaces {
            self.remove_segments().await?;
        }
        let path = self.options.dir.join(files::snapshot_name(end));
        let renamed = self.disk.rename(&self.temporary, &path).await;
        renamed.map_err(failure("rename", &self.temporary))?;
        let dir = &self.options.dir;
        self.disk.sync_dir(dir).await.map_err(failure("sync", dir))?;
        Ok(Done { path, end, bytes, kept: self.remove_old(end).await })
    }

    /// Removes the log of the data that is replaced, the latest segment first: whenever this ends, what is left is an
    /// earlier state of that data.
    async fn remove_segments(&self) -> Result<(), SnapshotError> {
        let dir = &self.options.dir;
        let listing = self.disk.list(dir).map_err(failure("list", dir))?;
        for first in listing.segments.into_iter().rev() {
            let path = dir.join(files::segment_name(first));
            match self.disk.remove(&path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failure("remove", &path)(error)),
                _ => self.disk.sync_dir(dir).await.map_err(failure("sync", dir))?,
            }
        }
        Ok(())
    }

    /// Writes all frames, and syncs. Returns the end index and the size.
    async fn write_frames(&self, file: &DiskFile) -> Result<(Index, u64), SnapshotError> {
        let (mut position, mut synced) = (0, 0);
        while let Some(group) = self.next_group().await? {
            let total: usize = group.iter().map(Frame::bytes).sum();
            let mut done = 0;
            while done < total {
                let written = file.write_at(gather(&group, done), position).await;
                let written = written.map_err(failure("write", &self.temporary))?;
                if written == 0 {
                    return Err(failure("write", &self.temporary)(io::ErrorKind::WriteZero.into()));
                }
                done += written;
                position += written as u64;
            }
            if position - synced >= SYNC_BYTES {
                file.sync().await.map_err(failure("sync", &self.temporary))?;
                synced = position;
            }
            let mut state = self.state.borrow_mut();
            state.queued_bytes -= total;
            state.written_bytes = position;
        }
        file.sync().await.map_err(failure("sync", &self.temporary))?;
        match self.state.borrow().stream {
            _ if self.state.borrow().aborted => Err(SnapshotError::Aborted),
            Stream::End { end } => Ok((end, position)),
            _ => Err(SnapshotError::Aborted),
        }
    }

    /// Waits for frames; None: all have been written.
    async fn next_group(&self) -> Result<Option<Vec<Frame>>, SnapshotError> {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if state.aborted {
                return Poll::Ready(Err(SnapshotError::Aborted));
            }
            let (mut group, mut bytes) = (Vec::new(), 0);
            while let Some(frame) = state.queue.front()
                && (group.is_empty() || bytes + frame.bytes() <= WRITE_BYTES)
            {
                bytes += frame.bytes();
                group.extend(state.queue.pop_front());
            }
            if !group.is_empty() {
                return Poll::Ready(Ok(Some(group)));
            }
            if matches!(state.stream, Stream::End { .. }) {
                return Poll::Ready(Ok(None));
            }
            state.writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Removes what is older than the snapshots that are kept, and returns these. A file that stays is no harm.
    async fn remove_old(&self, end: Index) -> Vec<Index> {
        let mut kept = match self.disk.list(&self.options.dir) {
            Ok(listing) => listing.snapshots,
            Err(_) => vec![end],
        };
        // One beyond this one's end belongs to data that has been replaced.
        let (newer, older): (Vec<_>, Vec<_>) = kept.iter().partition(|other| **other > end);
        let excess = older.len().saturating_sub(self.options.keep.max(1));
        let mut removed: Vec<Index> = newer;
        removed.extend(&older[..excess]);
        for old in &removed {
            let path = self.options.dir.join(files::snapshot_name(*old));
            if let Err(error) = self.disk.remove(&path).await {
                tracing::warn!(path = %path.display(), %error, "an old snapshot cannot be removed");
            }
        }
        kept.retain(|other| !removed.contains(other));
        kept
    }
}

fn failure(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::Io { what, path: path.into(), source: Rc::new(source) }
}

impl State {
    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
