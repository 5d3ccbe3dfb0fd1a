//! A connection to another node: one for all that is asked of it.
//!
//! Requests wait in a queue, are written one after the other, and answered in any order. The connection is made when
//! something is asked, in a task of its own, so that a request with little time does not undo the attempt. After an attempt
//! that failed there is none for a while, and whoever asks meanwhile is told why at once.
//!
//! On the control core. Invariant: no borrow lives across an await.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::{AsyncWriteExt, future};
use openraft_rt::{AsyncRuntime, Instant as _};
use tokio::sync::{Notify, oneshot};

use super::error::BusError;
use super::frame::{Decoder, Kind, REQUEST_BYTES_MAX, frame};
use super::handshake::Identity;
use super::message::{Answer, Request};
use super::stream::{dial, read};
use super::{Connected, Stop, Traffic};
use crate::raft::command::NodeId;
use crate::raft::runtime::{Glommio, Instant};
use crate::raft::types::Peer;
use crate::raft::writer::wall_ms;

/// Most requests that wait for their answers on one connection; as many are executed at once on the other side.
pub const REQUESTS_MAX: usize = 32;

/// Bytes of requests that may wait to be sent to one node. One of any length has room.
const QUEUE_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;

/// How long nobody is dialled after an attempt that failed: twice as long each time.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// After so long without any answer, though one is waited for, there may be nobody any more. Longer than a disk that syncs
/// slowly takes now and then: requests with less time are late meanwhile, and no more.
const SILENCE: Duration = Duration::from_millis(400);

/// One connection, or the attempt to make one.
#[derive(Default)]
struct Line {
    queue: RefCell<VecDeque<(u64, Vec<u8>)>>,
    pending: RefCell<BTreeMap<u64, oneshot::Sender<Result<Answer, BusError>>>>,
    next: Cell<u64>,
    /// It is let in; since when, in Unix time.
    up: Cell<bool>,
    since_ms: Cell<i64>,
    /// Answers so far, and when there was one last.
    heard: Cell<u64>,
    heard_at: Cell<Option<Instant>>,
    /// There is more in the queue.
    more: Notify,
    close: Notify,
}

/// A request under way; nothing is kept of it when nobody waits any more.
struct Asked<'a> {
    line: &'a Line,
    request: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.line.pending.borrow_mut().remove(&self.request);
        self.line.queue.borrow_mut().retain(|(request, _)| *request != self.request);
    }
}

impl Line {
    async fn ask(&self, payload: &[u8], patience: Duration) -> Result<Answer, BusError> {
        let request = self.next.get();
        let framed = frame(Kind::Request, request, payload)?;
        let queued: usize = self.queue.borrow().iter().map(|(_, bytes)| bytes.len()).sum();
        if self.pending.borrow().len() >= REQUESTS_MAX || queued + framed.len() > QUEUE_BYTES_MAX {
            return Err(BusError::Full);
        }
        self.next.set(request + 1);
        let (sender, receiver) = oneshot::channel();
        self.pending.borrow_mut().insert(request, sender);
        self.queue.borrow_mut().push_back((request, framed));
        self.more.notify_one();
        let asked = Asked { line: self, request };
        let heard = self.heard.get();
        let answer = Glommio::timeout(patience, receiver).await;
        drop(asked);
        match answer {
            Ok(answer) => answer.unwrap_or(Err(BusError::Closed)),
            Err(_) if self.up.get() && self.heard.get() == heard => {
                if self.heard_at.get().is_some_and(|at| Instant::now() - at >= SILENCE) {
                    self.close.notify_one();
                }
                Err(BusError::Late)
            }
            Err(_) => Err(if self.up.get() { BusError::Late } else { BusError::Connect }),
        }
    }

    async fn write(&self, mut stream: impl futures_lite::AsyncWrite + Unpin, traffic: &Traffic) -> BusError {
        loop {
            let next = self.queue.borrow_mut().pop_front();
            match next {
                Some((_, bytes)) => {
                    if let Err(error) = stream.write_all(&bytes).await {
                        return error.into();
                    }
                    traffic.count_sent();
                }
                None => self.more.notified().await,
            }
        }
    }

    async fn read(
        &self,
        mut stream: impl futures_lite::AsyncRead + Unpin,
        mut decoder: Decoder,
        traffic: &Traffic,
    ) -> BusError {
        loop {
            let received = match read(&mut stream, &mut decoder, Kind::Answer).await {
                Ok(Some(received)) => received,
                Ok(None) => return BusError::Closed,
                Err(error) => return error,
            };
            let answer = match Answer::decode(&received.payload) {
                Ok(answer) => answer,
                Err(error) => return error.into(),
            };
            traffic.count_received();
            self.heard.set(self.heard.get() + 1);
            self.heard_at.set(Some(Instant::now()));
            if received.request >= self.next.get() {
                return BusError::Answer;
            }
            // Nobody waits for it if its time was over.
            if let Some(sender) = self.pending.borrow_mut().remove(&received.request) {
                let _ = sender.send(Ok(answer));
            }
        }
    }

    fn fail(&self, error: &BusError) {
        let pending = std::mem::take(&mut *self.pending.borrow_mut());
        self.queue.borrow_mut().clear();
        for sender in pending.into_values() {
            let _ = sender.send(Err(error.clone()));
        }
    }
}

#[derive(Default)]
struct Attempts {
    line: Option<Rc<Line>>,
    /// Why and until when nobody is dialled.
    rest: Option<(BusError, Instant)>,
    failures: u32,
}

/// The way to another node.
pub struct Link {
    identity: Identity,
    stop: Stop,
    traffic: Rc<Traffic>,
    /// 0: whoever is there.
    target: NodeId,
    peer: Peer,
    attempts: RefCell<Attempts>,
}

impl Link {
    pub(super) fn new(identity: Identity, stop: Stop, traffic: Rc<Traffic>, target: NodeId, peer: Peer) -> Link {
        Link { identity, stop, traffic, target, peer, attempts: RefCell::default() }
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    pub fn is_open(&self) -> bool {
        self.attempts.borrow().line.is_some()
    }

    /// Whether the last attempt to connect has failed as the other node does not want to talk to this one.
    pub fn is_refused(&self) -> bool {
        use super::handshake::Refused::{Cluster, Secret, Version};
        matches!(self.attempts.borrow().rest, Some((BusError::Refused(Cluster(_) | Secret | Version(_)), _)))
    }

    /// The connection, if there is one.
    pub fn connected(&self) -> Option<Connected> {
        let attempts = self.attempts.borrow();
        let line = attempts.line.as_ref().filter(|line| line.up.get())?;
        let queue = line.queue.borrow();
        Some(Connected {
            node: self.target,
            dialled: true,
            since_ms: line.since_ms.get(),
            queued_bytes: queue.iter().map(|(_, bytes)| bytes.len()).sum(),
            allocated_bytes: queue.iter().map(|(_, bytes)| bytes.capacity()).sum(),
        })
    }

    /// Closes the connection. The next request makes a new one.
    pub fn close(&self) {
        if let Some(line) = &self.attempts.borrow().line {
            line.close.notify_one();
        }
    }

    /// Asks, and waits for the answer as long as patience lasts.
    pub async fn ask(self: &Rc<Self>, request: &Request, patience: Duration) -> Result<Answer, BusError> {
        self.ask_encoded(&request.encode()?, patience).await
    }

    pub async fn ask_encoded(self: &Rc<Self>, payload: &[u8], patience: Duration) -> Result<Answer, BusError> {
        match self.line()?.ask(payload, patience).await? {
            Answer::Failed(failure) => Err(failure.into()),
            answer => Ok(answer),
        }
    }

    fn line(self: &Rc<Self>) -> Result<Rc<Line>, BusError> {
        let mut attempts = self.attempts.borrow_mut();
        if let Some(line) = &attempts.line {
            return Ok(Rc::clone(line));
        }
        if let Some((why, until)) = &attempts.rest
            && Instant::now() < *until
        {
            return Err(why.clone());
        }
        let line = Rc::<Line>::default();
        attempts.line = Some(Rc::clone(&line));
        glommio::spawn_local(Rc::clone(self).run(Rc::clone(&line))).detach();
        Ok(line)
    }

    /// The life of a connection.
    async fn run(self: Rc<Self>, line: Rc<Line>) {
        let connection = async {
            let (stream, _, decoder) = match dial(&self.identity, self.target, &self.peer, false).await {
                Ok(dialled) => dialled,
                Err(error) => return error,
            };
            line.up.set(true);
            line.since_ms.set(wall_ms());
            line.heard_at.set(Some(Instant::now()));
            let (reader, writer) = futures_lite::io::split(stream);
            future::or(line.read(reader, decoder, &self.traffic), line.write(writer, &self.traffic)).await
        };
        let closed = async {
            line.close.notified().await;
            BusError::Closed
        };
        let ended = self.stop.unless(future::or(closed, connection)).await;
        let error = ended.unwrap_or(BusError::Stopped);
        self.lost(&line, error.clone());
        line.fail(&error);
    }

    fn lost(&self, line: &Line, error: BusError) {
        let mut attempts = self.attempts.borrow_mut();
        attempts.line = None;
        let was_up = line.up.get();
        if !was_up && attempts.failures == 0 {
            // The first of a row: who reads the log wants to know it once.
            tracing::warn!(node = self.target, host = self.peer.host, port = self.peer.bus_port, %error, "no way to a node");
        }
        attempts.failures = if was_up { 0 } else { attempts.failures.saturating_add(1) };
        let pause = PAUSE_MIN.saturating_mul(1 << attempts.failures.saturating_sub(1).min(8)).min(PAUSE_MAX);
        attempts.rest = Some((error, Instant::now() + pause));
    }
}
