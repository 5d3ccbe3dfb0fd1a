//! raft's log as openraft sees it: in memory for readers, on disk for promises.
//!
//! A change is checked, executed in memory ([`super::image`]) and queued; a task ([`super::writer`]) writes what is queued,
//! in order. So whoever appends does not wait: openraft is called back when the entries are durable. A vote and a cut are
//! waited for: a snapshot, which is another file, may be installed right after a cut, and would stand beside entries that
//! contradict it. A purge is not waited for: as the order of the records is that of the changes, nothing that comes later in
//! the log is durable without it, and until then the log has more than it needs.
//!
//! The committed index is written with what comes next, and nobody waits for it. A process that starts anew may so know less of
//! what is committed than the one before it did, until a leader says more. It acts on nothing meanwhile: it serves, follows
//! and leads only when its state has its own registration, which no entry of the life before can come behind, and a leader
//! grants and decides only when its state has an entry of its own term. What is applied here is durable here ([`Applicable`]),
//! so no snapshot has more than the log.
//!
//! On the control core. Invariant: no borrow of the state lives across an await.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::future::poll_fn;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use openraft::storage::{LogState, RaftLogReader, RaftLogStorage};
use openraft_rt::AsyncRuntime;

use super::command::NodeId;
use super::error::StoreError;
use super::image::Image;
use super::recover::{Recovered, recover};
use super::stored::Change;
use super::types::{Entry, IoFlushed, LogId, Runtime, Types, Vote};
use super::writer::{GROUP_BYTES_MAX, Queued, SEGMENT_BYTES_MAX, Writer};
use crate::log::disk::Disk;

/// Bytes of records that wait to be written. Whoever appends waits while there are more.
const QUEUE_BYTES_MAX: usize = 16 << 20;

/// Bytes of entries that are sent to another node at once, beyond the first.
const READ_BYTES_MAX: usize = 1 << 20;

/// What the log and those who use it share.
struct Shared {
    image: Image,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    /// The number of the next change.
    next: u64,
    /// Changes up to here, exclusive, are durable. Invariant: `durable <= next`.
    durable: u64,
    /// Entries that are not durable: the index of each, and the number of the change behind it. In order of both.
    pending: VecDeque<(u64, u64)>,
    /// When as many changes are durable, all entries are that may be applied.
    applicable_before: u64,
    /// Who is called when all changes before a number are durable, in order.
    callbacks: VecDeque<(u64, IoFlushed)>,
    /// The writer, while it has nothing to do.
    writer: Option<Waker>,
    /// Tasks that wait for something to be durable, for room, or for the end.
    waiting: Vec<Waker>,
    /// No more changes come.
    closing: bool,
    /// The writer has ended.
    ended: bool,
    failure: Option<Rc<str>>,
}

type Store = Rc<RefCell<Shared>>;

/// The log, for the one who writes it. Dropping it ends the writer when all is written.
pub struct LogStore {
    store: Store,
}

/// The log, for those who read it.
#[derive(Clone)]
pub struct LogReader {
    store: Store,
}

/// The end of a log.
pub struct Closing {
    store: Store,
}

/// Whether the entries that may be applied are on disk.
pub struct Applicable {
    store: Store,
}

impl Shared {
    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn check_failure(&self) -> Result<(), StoreError> {
        self.failure.clone().map_or(Ok(()), |failure| Err(StoreError::Failed(failure)))
    }

    /// Executes a change in memory and queues its record.
    fn change(&mut self, change: Change) -> Result<(), StoreError> {
        self.check_failure()?;
        let record = change.encode()?;
        self.image.check(&change).map_err(StoreError::Senseless)?;
        self.image.apply(change.clone(), record.len());
        self.next += 1;
        match &change {
            Change::Append(entry) => self.pending.push_back((entry.log_id.index, self.next)),
            Change::Truncate(after) => {
                let last = after.map(|id| id.index);
                self.pending.truncate(self.pending.partition_point(|(index, _)| Some(*index) <= last));
            }
            Change::Number(_) | Change::Vote(_) | Change::Committed(_) | Change::Purge(_) => {}
        }
        let waits = is_waited_for(&change);
        self.queued_bytes += record.len();
        self.queue.push_back(Queued { change, record });
        if waits {
            self.wake_writer();
        }
        Ok(())
    }

    /// What is to be written next. Empty: nothing more comes.
    fn poll_group(&mut self, context: &Context) -> Poll<Vec<Queued>> {
        if !self.closing && !self.queue.iter().any(|queued| is_waited_for(&queued.change)) {
            self.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(queued) = self.queue.front() {
            bytes += queued.record.len();
            if !group.is_empty() && bytes > GROUP_BYTES_MAX {
                break;
            }
            self.queued_bytes -= queued.record.len();
            group.extend(self.queue.pop_front());
        }
        Poll::Ready(group)
    }

    /// Changes before `next` are durable: those whose callbacks are due.
    fn was_written(&mut self, next: u64) -> Vec<IoFlushed> {
        self.durable = next;
        while self.pending.front().is_some_and(|(_, before)| *before <= next) {
            self.pending.pop_front();
        }
        self.wake();
        let mut due = Vec::new();
        while self.callbacks.front().is_some_and(|(before, _)| *before <= next) {
            due.extend(self.callbacks.pop_front().map(|(_, callback)| callback));
        }
        due
    }

    fn failed(&mut self, error: &StoreError) -> (Rc<str>, Vec<IoFlushed>) {
        let failure: Rc<str> = error.to_string().into();
        self.failure = Some(Rc::clone(&failure));
        self.queue.clear();
        self.queued_bytes = 0;
        self.wake();
        (failure, self.callbacks.drain(..).map(|(_, callback)| callback).collect())
    }
}

/// Whether a change is to be written for its own sake.
fn is_waited_for(change: &Change) -> bool {
    !matches!(change, Change::Committed(_))
}

async fn run(store: Store, mut writer: Writer) {
    loop {
        let group = poll_fn(|context| store.borrow_mut().poll_group(context)).await;
        if group.is_empty() {
            break;
        }
        match writer.write(&group).await {
            Ok(()) => {
                let due = store.borrow_mut().was_written(writer.next);
                due.into_iter().for_each(|callback| callback.io_completed(Ok(())));
            }
            Err(error) => {
                tracing::error!(%error, "raft's log cannot be written");
                let (failure, due) = store.borrow_mut().failed(&error);
                let again = || StoreError::Failed(Rc::clone(&failure)).into();
                due.into_iter().for_each(|callback| callback.io_completed(Err(again())));
                break;
            }
        }
    }
    writer.close().await;
    let mut store = store.borrow_mut();
    store.ended = true;
    store.wake();
}

impl LogStore {
    /// Opens the log in a directory, which is made if it is not there; the identity is that of the node's data directory,
    /// which is locked. Blocks while the files are read; to be called on the executor that is to write them.
    pub fn open(dir: &Path, identity: u128) -> Result<LogStore, StoreError> {
        LogStore::open_on(Disk::System, dir, identity, SEGMENT_BYTES_MAX)
    }

    pub(super) fn open_on(
        disk: Disk,
        dir: &Path,
        identity: u128,
        segment_bytes_max: u64,
    ) -> Result<LogStore, StoreError> {
        let Recovered { image, segments, next } = recover(dir, identity)?;
        let tip = *image.tip();
        let writer = Writer { disk, dir: dir.into(), identity, segments, open: None, tip, next, segment_bytes_max };
        let store = Rc::new(RefCell::new(Shared {
            image,
            queue: VecDeque::new(),
            queued_bytes: 0,
            next,
            durable: next,
            pending: VecDeque::new(),
            applicable_before: next,
            callbacks: VecDeque::new(),
            writer: None,
            waiting: Vec::new(),
            closing: false,
            ended: false,
            failure: None,
        }));
        Runtime::spawn(run(Rc::clone(&store), writer));
        Ok(LogStore { store })
    }

    /// The number that the node has, if it was given one.
    pub fn number(&self) -> Option<NodeId> {
        self.store.borrow().image.tip().number
    }

    /// The last entry that was purged. The latest snapshot has to have it.
    pub fn purged(&self) -> Option<LogId> {
        self.store.borrow().image.tip().purged
    }

    /// The index of the last entry; 0: there is none.
    pub fn end(&self) -> u64 {
        self.store.borrow().image.tip().last.map_or(0, |id| id.index)
    }

    /// Notes the number that the node was given, for its life; to be called before raft runs under it.
    pub async fn set_number(&self, number: NodeId) -> Result<(), StoreError> {
        self.change_durably(Change::Number(number)).await
    }

    /// To apply nothing before it is on disk here.
    pub fn applicable(&self) -> Applicable {
        Applicable { store: Rc::clone(&self.store) }
    }

    /// To wait until all is written, after the log was dropped.
    pub fn closing(&self) -> Closing {
        Closing { store: Rc::clone(&self.store) }
    }

    /// Waits until `over` or a failure.
    async fn wait(&self, over: impl Fn(&Shared) -> bool) -> Result<(), StoreError> {
        wait(&self.store, |shared| over(shared) || shared.failure.is_some()).await;
        self.store.borrow().check_failure()
    }

    async fn change_durably(&self, change: Change) -> Result<(), StoreError> {
        self.store.borrow_mut().change(change)?;
        self.durably().await
    }

    /// Waits until everything until now is durable.
    async fn durably(&self) -> Result<(), StoreError> {
        let next = self.store.borrow().next;
        self.wait(|shared| shared.durable >= next).await
    }
}

async fn wait(store: &Store, over: impl Fn(&Shared) -> bool) {
    let over = |context: &mut Context| {
        let mut shared = store.borrow_mut();
        if over(&shared) {
            return Poll::Ready(());
        }
        shared.waiting.push(context.waker().clone());
        Poll::Pending
    };
    poll_fn(over).await;
}

impl Applicable {
    /// Waits until all entries are durable that may be applied by now.
    pub async fn durable(&self) -> Result<(), StoreError> {
        let before = self.store.borrow().applicable_before;
        wait(&self.store, |shared| shared.durable >= before || shared.failure.is_some()).await;
        self.store.borrow().check_failure()
    }
}

impl Closing {
    /// Waits until nothing is written any more; says whether everything was.
    pub async fn done(self) -> Result<(), StoreError> {
        wait(&self.store, |shared| shared.ended).await;
        self.store.borrow().check_failure()
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        let mut shared = self.store.borrow_mut();
        shared.closing = true;
        shared.wake_writer();
    }
}

#[cfg(test)]
impl LogReader {
    pub(super) fn entries(&self, range: impl RangeBounds<u64>) -> Vec<Entry> {
        self.store.borrow().image.read(&range, usize::MAX)
    }
}

impl RaftLogReader<Types> for LogReader {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug>(&mut self, range: R) -> io::Result<Vec<Entry>> {
        Ok(self.store.borrow().image.read(&range, usize::MAX))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.store.borrow().image.tip().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        Ok(self.store.borrow().image.read(&(start..end), READ_BYTES_MAX))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let store = self.store.borrow();
        let tip = store.image.tip();
        Ok(LogState { last_purged_log_id: tip.purged, last_log_id: tip.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { store: Rc::clone(&self.store) }
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.change_durably(Change::Vote(*vote)).await.map_err(io::Error::from)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut shared = self.store.borrow_mut();
        if shared.image.tip().committed != committed {
            shared.change(Change::Committed(committed))?;
        }
        let last = committed.map(|id| id.index);
        let among = shared.pending.iter().rev().find(|(index, _)| Some(*index) <= last);
        if let Some(&(_, before)) = among {
            shared.applicable_before = before;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.store.borrow().image.tip().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IoFlushed) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry>,
    {
        self.wait(|shared| shared.queued_bytes < QUEUE_BYTES_MAX).await?;
        let mut shared = self.store.borrow_mut();
        for entry in entries {
            shared.change(Change::Append(entry))?;
        }
        match shared.pending.back() {
            Some(&(_, before)) => shared.callbacks.push_back((before, callback)),
            None => {
                drop(shared);
                callback.io_completed(Ok(()));
            }
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.change_durably(Change::Truncate(last)).await.map_err(io::Error::from)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.store.borrow_mut().change(Change::Purge(upto)).map_err(io::Error::from)
    }
}

#[cfg(test)]
#[path = "log_store_tests.rs"]
mod tests;
