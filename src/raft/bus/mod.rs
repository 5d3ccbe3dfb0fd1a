//! The bus: how the raft instances of a cluster reach each other.
//!
//! Every node listens at its bus port. A node has one connection to each node that it has something to ask ([`link`]),
//! with many requests under way at once; the other direction has a connection of its own ([`server`]). Connections begin
//! with a handshake ([`handshake`]) and then carry frames ([`frame`]) with requests and answers ([`message`]). [`network`]
//! is what openraft calls, [`propose`] how a command finds the leader, also from a node that has not joined yet.
//!
//! Pure: [`frame`], [`handshake`], [`message`]. The rest runs on the control core. Invariants: whatever waits has a
//! deadline, whatever is kept has a named bound, and all tasks end once the bus is stopped or dropped.

pub mod error;
pub mod frame;
pub mod handshake;
pub mod link;
pub mod message;
pub mod network;
pub mod propose;
pub mod server;
mod stream;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::rc::{Rc, Weak};
use std::time::Duration;

use glommio::net::TcpStream;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::sync::watch;

use self::error::BusError;
use self::handshake::{Identity, IdentityError};
use self::link::Link;
use self::message::{Answer, Request};
use self::network::Network;
use self::server::Connection;
use super::command::{NODES_MAX, NodeId};
use super::govern::{HandOver, LeaseAnswer, LeaseRequest};
use super::types::{Peer, Raft};

/// Most links that are remembered. Members of a cluster, and those that were.
const LINKS_MAX: usize = 2 * NODES_MAX;

/// Tells tasks to end.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Runs something until the bus is stopped; None: it was.
    pub async fn unless<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut stop = self.0.clone();
        let stopped = async {
            // A bus that is gone has stopped, too.
            let _ = stop.wait_for(|stopped| *stopped).await;
            None
        };
        futures_lite::future::or(stopped, async { Some(future.await) }).await
    }
}

/// A connection that is open, for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    pub node: NodeId,
    /// This node has made it.
    pub dialled: bool,
    /// Unix time.
    pub since_ms: i64,
    /// Bytes that wait to be sent, and the memory that they have.
    pub queued_bytes: usize,
    pub allocated_bytes: usize,
}

/// Requests and answers, of all connections of a node.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: Cell<u64>,
    received: Cell<u64>,
}

impl Traffic {
    fn count_sent(&self) {
        self.sent.set(self.sent.get() + 1);
    }

    fn count_received(&self) {
        self.received.set(self.received.get() + 1);
    }
}

/// What the links of a node have in common.
pub(crate) struct Links {
    pub identity: Identity,
    pub stop: Stop,
    traffic: Rc<Traffic>,
    links: RefCell<BTreeMap<NodeId, Rc<Link>>>,
    /// Connections that others have made; some of these may be over.
    accepted: RefCell<Vec<Weak<Connection>>>,
}

impl Links {
    fn new(identity: Identity, stop: Stop) -> Links {
        let (traffic, links, accepted) = Default::default();
        Links { identity, stop, traffic, links, accepted }
    }

    /// A link that is not remembered.
    fn new_link(&self, target: NodeId, peer: &Peer) -> Link {
        Link::new(self.identity.clone(), self.stop.clone(), Rc::clone(&self.traffic), target, peer.clone())
    }

    /// Another node has connected.
    fn accepted(&self, connection: &Rc<Connection>) {
        let mut accepted = self.accepted.borrow_mut();
        accepted.retain(|known| known.strong_count() > 0);
        accepted.push(Rc::downgrade(connection));
    }

    fn connected(&self) -> Vec<Connected> {
        let links = self.links.borrow();
        let accepted = self.accepted.borrow();
        let dialled = links.values().filter_map(|link| link.connected());
        dialled.chain(accepted.iter().filter_map(|known| Some(known.upgrade()?.connected()))).collect()
    }

    /// The link to a node. One whose address has changed is a new one; whoever has the old one finds nobody there.
    pub fn to(self: &Rc<Self>, target: NodeId, peer: &Peer) -> Rc<Link> {
        let mut links = self.links.borrow_mut();
        if let Some(link) = links.get(&target).filter(|link| link.peer() == peer) {
            return Rc::clone(link);
        }
        if links.len() >= LINKS_MAX {
            links.retain(|_, link| link.is_open() || Rc::strong_count(link) > 1);
        }
        let link = Rc::new(self.new_link(target, peer));
        if links.len() < LINKS_MAX
            && let Some(old) = links.insert(target, Rc::clone(&link))
        {
            old.close();
        }
        link
    }
}

/// A node's part of the bus.
pub struct Bus {
    links: Rc<Links>,
    stopped: watch::Sender<bool>,
}

/// Who takes what is not for raft.
pub struct Guests {
    /// A node has connected to follow this one; with what it has sent behind the handshake.
    pub stream: Box<dyn Fn(NodeId, TcpStream, Vec<u8>)>,
    /// A node asks for a lease.
    pub lease: Box<dyn Fn(&LeaseRequest) -> LeaseAnswer>,
    /// A node asks for roles of this one; how many are on their way.
    pub hand_over: Box<dyn Fn(&HandOver) -> u32>,
    /// Whether this node may vote.
    pub votes: Box<dyn Fn() -> bool>,
    /// Whether this node may execute what others propose.
    pub proposals: Box<dyn Fn() -> bool>,
    /// The version that the cluster uses.
    pub version: Box<dyn Fn() -> u8>,
}

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 128;

/// Binds an address at which other nodes reach this one. One of IPv6 takes nothing of IPv4: that may have a socket of its own.
pub fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let address = (host, port).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

impl Bus {
    /// A bus that dials only, until it serves.
    pub fn new(identity: Identity) -> Result<Bus, IdentityError> {
        identity.check()?;
        let (stopped, stop) = watch::channel(false);
        let links = Rc::new(Links::new(identity, Stop(stop)));
        Ok(Bus { links, stopped })
    }

    /// What [`Raft::new`] wants.
    pub fn network(&self) -> Network {
        Network::new(Rc::clone(&self.links))
    }

    /// Serves other nodes, at all these addresses, until the bus is stopped.
    pub fn serve(&self, listeners: Vec<TcpListener>, raft: Raft, guests: Guests) {
        server::serve(listeners, Rc::clone(&self.links), raft, guests);
    }

    /// The cluster uses this version: nobody who does not speak it is let in any more. Whoever is connected already, does.
    pub fn raise(&self, version: u8) {
        self.links.identity.versions.raise(version.into());
    }

    /// The connections that are open for requests.
    pub fn connected(&self) -> Vec<Connected> {
        self.links.connected()
    }

    /// Requests and answers that were sent, and those that were received.
    pub fn messages(&self) -> (u64, u64) {
        let Traffic { sent, received } = &*self.links.traffic;
        (sent.get(), received.get())
    }

    /// Connects to a node to follow it; with what it has sent behind the handshake.
    pub async fn stream_to(&self, target: NodeId, peer: &Peer) -> Result<(TcpStream, u16, Vec<u8>), BusError> {
        let dialling = stream::dial(&self.links.identity, target, peer, true);
        let dialled = self.links.stop.unless(dialling).await.unwrap_or(Err(BusError::Stopped));
        dialled.map(|(stream, version, decoder)| (stream, version, decoder.into_rest()))
    }

    /// Asks a node, which is to lead raft, for a lease.
    pub async fn ask_for_lease(
        &self,
        target: NodeId,
        peer: &Peer,
        request: LeaseRequest,
        patience: Duration,
    ) -> Result<LeaseAnswer, BusError> {
        match self.links.to(target, peer).ask(&Request::Lease(request), patience).await? {
            Answer::Lease(answer) => Ok(answer),
            _ => Err(BusError::Answer),
        }
    }

    /// Asks a node for roles that it has; how many are on their way.
    pub async fn ask_for_roles(
        &self,
        target: NodeId,
        peer: &Peer,
        request: HandOver,
        patience: Duration,
    ) -> Result<u32, BusError> {
        match self.links.to(target, peer).ask(&Request::HandOver(request), patience).await? {
            Answer::HandingOver(count) => Ok(count),
            _ => Err(BusError::Answer),
        }
    }

    /// Ends all tasks: what is under way fails. Returns at once; the tasks are over after their next turn.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }
}
