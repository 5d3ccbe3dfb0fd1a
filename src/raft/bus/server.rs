//! Serving other nodes: they ask, the local raft answers.
//!
//! A connection is one task, and a task for each request that is being executed; those end with the connection. When as
//! many are under way as may be, nothing more is read from it, so whoever floods or does not read holds up itself only.
//!
//! On the control core. Invariant: no borrow lives across an await.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::TcpListener;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite, AsyncWriteExt, future};
use glommio::net::TcpStream;
use openraft::errors::{ClientWriteError, RaftError};
use openraft_rt::AsyncRuntime;
use tokio::sync::Notify;

use super::error::{BusError, Elsewhere, Failure};
use super::frame::{Decoder, HEADER_BYTES, Kind, frame};
use super::link::REQUESTS_MAX;
use super::message::{Answer, Piece, Request};
use super::stream::{Accepted, accept, read};
use super::{Connected, Guests, Links, Stop};
use crate::raft::command::{Command, NODES_MAX, NodeId, Order, Refusal, Reply};
use crate::raft::govern::LeaseRequest;
use crate::raft::runtime::Glommio;
use crate::raft::snapshot::Content;
use crate::raft::stored::StoredError;
use crate::raft::types::{Raft, Snapshot, Vote};
use crate::raft::writer::wall_ms;

/// Most connections that have not proved yet who they are; each has some seconds for it.
pub const STRANGERS_MAX: usize = 64;

/// Most connections of one node: the one in use, and those whose end is not known here yet.
pub const CONNECTIONS_PER_NODE_MAX: usize = 8;

/// Most connections that were let in.
pub const CONNECTIONS_MAX: usize = 2 * NODES_MAX;

/// Most snapshots that are being received at once. They come from the leader, and so from one node but for a moment.
pub const SNAPSHOTS_MAX: usize = 2;

/// How long a connection may be silent. The next request makes a new one.
const IDLE_PATIENCE: Duration = Duration::from_secs(60);

/// How long raft may take to answer, a command or a snapshot included.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take until an answer is read.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// After an accept that failed, as when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all connections share.
struct Server {
    links: Rc<Links>,
    raft: Raft,
    guests: Guests,
    strangers: Cell<usize>,
    /// Connections that were let in, by node.
    admitted: RefCell<BTreeMap<NodeId, usize>>,
    snapshots: Cell<usize>,
}

/// A connection that was let in.
struct Admitted {
    server: Rc<Server>,
    node: NodeId,
}

impl Admitted {
    fn admit(server: &Rc<Server>, node: NodeId) -> Option<Admitted> {
        let mut admitted = server.admitted.borrow_mut();
        let all: usize = admitted.values().sum();
        let own = admitted.entry(node).or_default();
        if *own >= CONNECTIONS_PER_NODE_MAX || all >= CONNECTIONS_MAX {
            return None;
        }
        *own += 1;
        Some(Admitted { server: Rc::clone(server), node })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut admitted = self.server.admitted.borrow_mut();
        if let Some(own) = admitted.get_mut(&self.node) {
            *own -= 1;
            if *own == 0 {
                admitted.remove(&self.node);
            }
        }
    }
}

/// A snapshot on its way.
struct Receiving {
    server: Rc<Server>,
    transfer: u64,
    total: u32,
    bytes: Vec<u8>,
}

impl Receiving {
    fn begin(server: &Rc<Server>, piece: &Piece) -> Result<Receiving, Failure> {
        if server.snapshots.get() >= SNAPSHOTS_MAX {
            return Err(Failure::Busy);
        }
        server.snapshots.set(server.snapshots.get() + 1);
        let server = Rc::clone(server);
        Ok(Receiving { server, transfer: piece.transfer, total: piece.total, bytes: Vec::new() })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.server.snapshots.set(self.server.snapshots.get() - 1);
    }
}

/// Accepts connections at all these addresses until it is told to stop.
pub(super) fn serve(listeners: Vec<TcpListener>, links: Rc<Links>, raft: Raft, guests: Guests) {
    let (strangers, admitted, snapshots) = Default::default();
    let server = Rc::new(Server { links, raft, guests, strangers, admitted, snapshots });
    for listener in listeners {
        glommio::spawn_local(accept_all(listener, Rc::clone(&server))).detach();
    }
}

async fn accept_all(listener: TcpListener, server: Rc<Server>) {
    // SAFETY: a listening socket that is handed over.
    let listener = unsafe { glommio::net::TcpListener::from_raw_fd(listener.into_raw_fd()) };
    let stop = server.links.stop.clone();
    while let Some(accepted) = stop.unless(listener.accept()).await {
        match accepted {
            Ok(stream) if server.strangers.get() < STRANGERS_MAX => {
                server.strangers.set(server.strangers.get() + 1);
                let (server, stop) = (Rc::clone(&server), stop.clone());
                glommio::spawn_local(serve_connection(stream, server, stop)).detach();
            }
            // Closed again.
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the bus cannot accept a connection");
                stop.unless(Glommio::sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
}

/// One that ends while it is a stranger is none any more.
struct Stranger<'a>(&'a Cell<usize>);

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn serve_connection(mut stream: TcpStream, server: Rc<Server>, stop: Stop) {
    let from = stream.peer_addr().ok();
    let _ = stream.set_nodelay(true);
    let mut decoder = Decoder::default();
    let stranger = Stranger(&server.strangers);
    let admit = |node| Admitted::admit(&server, node);
    let accepting = accept(&server.links.identity, &mut stream, &mut decoder, admit);
    let accepted = stop.unless(accepting).await.unwrap_or(Err(BusError::Stopped));
    drop(stranger);
    let Accepted { node, version, stream: is_data, admitted: _admitted } = match accepted {
        Ok(accepted) => accepted,
        Err(error) => return tracing::info!(?from, %error, "a connection to the bus was not let in"),
    };
    if is_data {
        // Its bound is that a node has one of them: an older one ends when a newer one comes.
        return (server.guests.stream)(node, stream, decoder.into_rest());
    }
    let connection = Rc::new(Connection {
        server: Rc::clone(&server),
        node,
        version,
        since_ms: wall_ms(),
        running: RefCell::default(),
        answers: RefCell::default(),
        unwritten: Cell::new(0),
        more: Notify::new(),
        room: Notify::new(),
        receiving: RefCell::default(),
    });
    server.links.accepted(&connection);
    let (reader, writer) = futures_lite::io::split(stream);
    let serving = future::or(connection.read(reader, decoder), connection.write(writer));
    let error = stop.unless(serving).await.unwrap_or(BusError::Stopped);
    // They hold the connection, and end here.
    drop(std::mem::take(&mut *connection.running.borrow_mut()));
    match error {
        BusError::Closed | BusError::Stopped => tracing::debug!(node, "a connection of the bus has ended"),
        error => tracing::info!(node, ?from, %error, "a connection of the bus was closed"),
    }
}

/// A node that asks.
pub(super) struct Connection {
    server: Rc<Server>,
    node: NodeId,
    version: u16,
    since_ms: i64,
    /// What is being executed. A task ends when it is dropped.
    running: RefCell<BTreeMap<u64, glommio::Task<()>>>,
    answers: RefCell<VecDeque<(u64, Answer)>>,
    /// Requests whose answers are not written.
    unwritten: Cell<usize>,
    more: Notify,
    room: Notify,
    receiving: RefCell<Option<Receiving>>,
}

impl Connection {
    /// For those who watch. What waits is counted as it will be sent.
    pub fn connected(&self) -> Connected {
        let answers = self.answers.borrow();
        let bytes = |answer: &Answer| answer.encode().map_or(0, |payload| HEADER_BYTES + payload.len());
        let queued_bytes = answers.iter().map(|(_, answer)| bytes(answer)).sum();
        let allocated_bytes = answers.capacity() * size_of::<(u64, Answer)>();
        Connected { node: self.node, dialled: false, since_ms: self.since_ms, queued_bytes, allocated_bytes }
    }

    async fn read(self: &Rc<Self>, mut stream: impl AsyncRead + Unpin, mut decoder: Decoder) -> BusError {
        loop {
            while self.unwritten.get() >= REQUESTS_MAX {
                self.room.notified().await;
            }
            let reading = Glommio::timeout(IDLE_PATIENCE, read(&mut stream, &mut decoder, Kind::Request));
            let received = match reading.await {
                Ok(Ok(Some(received))) => received,
                Ok(Ok(None)) | Err(_) => return BusError::Closed,
                Ok(Err(error)) => return error,
            };
            let request = match Request::decode(&received.payload) {
                Ok(request) => request,
                Err(error) => return error.into(),
            };
            self.server.links.traffic.count_received();
            if self.running.borrow().contains_key(&received.request) {
                return BusError::Message(StoredError::Senseless("two requests have one number"));
            }
            self.unwritten.set(self.unwritten.get() + 1);
            let (connection, number) = (Rc::clone(self), received.request);
            let task = glommio::spawn_local(async move {
                let answer = connection.execute(request).await;
                connection.answers.borrow_mut().push_back((number, answer));
                connection.more.notify_one();
            });
            self.running.borrow_mut().insert(number, task);
        }
    }

    async fn write(&self, mut stream: impl AsyncWrite + Unpin) -> BusError {
        loop {
            let next = self.answers.borrow_mut().pop_front();
            let Some((number, answer)) = next else {
                self.more.notified().await;
                continue;
            };
            self.running.borrow_mut().remove(&number);
            let framed = match answer.encode().map_err(BusError::from) {
                Ok(payload) => frame(Kind::Answer, number, &payload).map_err(BusError::from),
                Err(error) => Err(error),
            };
            let framed = match framed {
                Ok(framed) => framed,
                Err(error) => return error,
            };
            match Glommio::timeout(WRITE_PATIENCE, stream.write_all(&framed)).await {
                Ok(Ok(())) => self.server.links.traffic.count_sent(),
                Ok(Err(error)) => return error.into(),
                Err(_) => return BusError::Late,
            }
            self.unwritten.set(self.unwritten.get() - 1);
            self.room.notify_one();
        }
    }

    async fn execute(self: &Rc<Self>, request: Request) -> Answer {
        if request.sender().is_some_and(|sender| sender != self.node) {
            return Answer::Failed(Failure::Sender);
        }
        let executed = Glommio::timeout(ANSWER_PATIENCE, self.call(request)).await;
        executed.unwrap_or(Err(Failure::Slow)).unwrap_or_else(Answer::Failed)
    }

    async fn call(self: &Rc<Self>, request: Request) -> Result<Answer, Failure> {
        let raft = &self.server.raft;
        let ended = |_| Failure::Ended;
        Ok(match request {
            Request::Append(request) => Answer::Append(raft.append_entries(request).await.map_err(ended)?),
            Request::Vote(_) | Request::PreVote(_) if !(self.server.guests.votes)() => return Err(Failure::Busy),
            Request::Vote(request) => Answer::Vote(raft.vote(request).await.map_err(ended)?),
            Request::PreVote(request) => Answer::Vote(raft.pre_vote(request).await.map_err(ended)?),
            Request::Piece(piece) => {
                let vote = piece.vote;
                match self.receive(piece)? {
                    Some(bytes) => self.install(vote, bytes).await?,
                    None => Answer::Piece,
                }
            }
            Request::TransferLeader(request) => {
                let will = raft.handle_transfer_leader(request).await.map_err(|_| Failure::Ended)?;
                Answer::TransferLeader(will.is_ok())
            }
            Request::Propose(_) if !(self.server.guests.proposals)() => Answer::NotLeader(Elsewhere { leader: None }),
            Request::Propose(command) => match self.too_new(&command) {
                // In raft's log, those of an older build could not read it.
                Some(version) => Answer::Proposed(0, Reply::Refused(Refusal::Version { version })),
                None => propose(raft, command).await?,
            },
            Request::Lease(request) => {
                let request = LeaseRequest { speaks: self.version, ..request };
                Answer::Lease((self.server.guests.lease)(&request))
            }
            Request::HandOver(request) => Answer::HandingOver((self.server.guests.hand_over)(&request)),
        })
    }

    /// The version that the cluster uses, if the command needs a later one. Whether that may rise, only the leader knows.
    fn too_new(&self, command: &Command) -> Option<u8> {
        let version = (self.server.guests.version)();
        let raises = matches!(command, Command::Order(Order::Raise { .. }));
        (raises || command.version() > version).then_some(version)
    }

    /// The snapshot, if this piece makes it complete.
    fn receive(&self, piece: Piece) -> Result<Option<Vec<u8>>, Failure> {
        let mut receiving = self.receiving.borrow_mut();
        if piece.offset == 0 {
            // One that was given up makes room for the next.
            *receiving = None;
            *receiving = Some(Receiving::begin(&self.server, &piece)?);
        }
        let current = receiving.as_mut().ok_or(Failure::Piece)?;
        let follows = current.bytes.len() == piece.offset as usize;
        if (current.transfer, current.total) != (piece.transfer, piece.total) || !follows {
            *receiving = None;
            return Err(Failure::Piece);
        }
        current.bytes.extend_from_slice(&piece.bytes);
        if current.bytes.len() < current.total as usize {
            return Ok(None);
        }
        let bytes = std::mem::take(&mut current.bytes);
        *receiving = None;
        Ok(Some(bytes))
    }

    async fn install(&self, vote: Vote, bytes: Vec<u8>) -> Result<Answer, Failure> {
        let content = Content::decode(&bytes).map_err(|error| {
            tracing::warn!(node = self.node, %error, "a snapshot of another node cannot be used");
            Failure::Snapshot
        })?;
        let snapshot = Snapshot { meta: content.meta(), snapshot: bytes.into() };
        let installed = self.server.raft.install_full_snapshot(vote, snapshot).await;
        installed.map(Answer::Snapshot).map_err(|_| Failure::Ended)
    }
}

/// Executes a command, if this node leads.
pub(in crate::raft) async fn propose(raft: &Raft, command: Command) -> Result<Answer, Failure> {
    match raft.client_write(command).await {
        Ok(response) => Ok(Answer::Proposed(response.log_id.index, response.data)),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            // A leader whose address is not known is of no use.
            Ok(Answer::NotLeader(Elsewhere { leader: forward.leader_id.zip(forward.leader_node) }))
        }
        Err(_) => Err(Failure::Ended),
    }
}
