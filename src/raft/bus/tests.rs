//! Raft nodes that are connected by the bus, over loopback; and those who should not be.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use glommio::net::TcpStream;
use openraft::raft::VoteRequest;
use openraft_rt::{AsyncRuntime, WatchReceiver};

use super::error::BusError;
use super::frame::{Decoder, Kind, frame};
use super::handshake::{Hello, Identity, PROTOCOL_VERSION, Refused, Secret, Step, Versions};
use super::link::Link;
use super::message::tests::{hand_over, piece};
use super::message::{Answer, PIECE_BYTES_MAX, Piece, Request};
use super::propose::{ProposeError, Proposed};
use super::server::STRANGERS_MAX;
use super::stream::{accept, dial};
use super::{Bus, Guests, listen};
use crate::log::files::scratch::Scratch;
use crate::log::testing::{Random, on_executor};
use crate::raft::command::{Command, NodeId, Reply};
use crate::raft::govern::{HandOver, LeaseAnswer, LeaseRefusal, LeaseRequest};
use crate::raft::log_store::{Closing, LogStore};
use crate::raft::runtime::Glommio;
use crate::raft::settings::{MESSAGE_ENTRIES_MAX, Pace, config};
use crate::raft::state_machine::{StateMachine, StateReader};
use crate::raft::stored::OLDEST;
use crate::raft::testing::{IDENTITY, id, profile};
use crate::raft::types::{Peer, Raft, Vote};

/// Longest wait for anything, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

const HOST: &str = "127.0.0.1";

fn identity(node: NodeId) -> Identity {
    let versions = Versions::up_to(PROTOCOL_VERSION);
    Identity { versions, cluster: "test".into(), node, secret: Secret::new(b"a secret") }
}

fn peer(port: u16) -> Peer {
    Peer { host: HOST.into(), bus_port: port }
}

async fn wait(what: &str, mut over: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !over() {
        assert!(std::time::Instant::now() < end, "{what} did not come");
        Glommio::sleep(Duration::from_millis(5)).await;
    }
}

fn bound(port: u16) -> (TcpListener, u16) {
    let listener = listen(HOST, port).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

struct Node {
    bus: Bus,
    raft: Raft,
    reader: StateReader,
    closing: Closing,
}

impl Node {
    async fn start(scratch: &Scratch, node: NodeId, listener: TcpListener) -> Node {
        let (dir, own) = (scratch.0.join(node.to_string()), IDENTITY + u128::from(node));
        let log = LogStore::open(&dir, own).unwrap();
        let machine = StateMachine::open(&dir, own, &log).unwrap();
        log.set_number(node).await.unwrap();
        let (closing, reader) = (log.closing(), machine.reader());
        let bus = Bus::new(identity(node)).unwrap();
        let settings = config("test", Pace::Steady).unwrap();
        let raft = Raft::new(node, settings, bus.network(), log, machine).await.unwrap();
        let refused = |_: &LeaseRequest| LeaseAnswer::Refused(LeaseRefusal::NotLeading);
        let guests = Guests {
            stream: Box::new(|_, _, _| ()),
            lease: Box::new(refused),
            hand_over: Box::new(|request| request.moves.len() as u32),
            votes: Box::new(|| true),
            proposals: Box::new(|| true),
            version: Box::new(|| OLDEST),
        };
        bus.serve(vec![listener], raft.clone(), guests);
        Node { bus, raft, reader, closing }
    }

    async fn stop(self) {
        self.bus.stop();
        self.raft.shutdown().await.unwrap();
        drop((self.raft, self.bus));
        self.closing.done().await.unwrap();
    }

    async fn join(&self, identity: u128) -> Proposed {
        let command = Command::Join { identity, profile: profile("host") };
        self.bus.propose(Some(&self.raft), &[], command, PATIENCE).await.unwrap()
    }

    fn knows(&self) -> usize {
        self.reader.state().nodes().len()
    }
}

struct Cluster {
    scratch: Scratch,
    ports: BTreeMap<NodeId, u16>,
    nodes: BTreeMap<NodeId, Node>,
}

impl Cluster {
    /// A cluster that has begun.
    async fn found(nodes: &[NodeId]) -> Cluster {
        let scratch = Scratch::new("raft-bus");
        let mut cluster = Cluster { scratch, ports: BTreeMap::new(), nodes: BTreeMap::new() };
        for node in nodes {
            let (listener, port) = bound(0);
            cluster.ports.insert(*node, port);
            cluster.nodes.insert(*node, Node::start(&cluster.scratch, *node, listener).await);
        }
        let peers: BTreeMap<NodeId, Peer> = cluster.ports.iter().map(|(node, port)| (*node, peer(*port))).collect();
        cluster.nodes[&nodes[0]].raft.initialize(peers).await.unwrap();
        wait("a leader", || cluster.leader().is_some()).await;
        cluster
    }

    fn leader(&self) -> Option<NodeId> {
        self.nodes.iter().find(|(_, node)| node.raft.is_leader()).map(|(node, _)| *node)
    }

    fn follower(&self) -> NodeId {
        let leader = self.leader();
        self.nodes.keys().copied().find(|node| Some(*node) != leader).unwrap()
    }

    fn peer(&self, node: NodeId) -> Peer {
        peer(self.ports[&node])
    }

    async fn end(&mut self, node: NodeId) {
        self.nodes.remove(&node).unwrap().stop().await;
    }

    async fn start_again(&mut self, node: NodeId) {
        let port = self.ports[&node];
        let mut listener = None;
        // The old one closes in its next turn.
        wait("the port", || {
            listener = listen(HOST, port).ok();
            listener.is_some()
        })
        .await;
        self.nodes.insert(node, Node::start(&self.scratch, node, listener.unwrap()).await);
    }

    async fn all_know(&self, count: usize) {
        wait("agreement", || self.nodes.values().all(|node| node.knows() == count)).await;
    }

    async fn stop(mut self) {
        for (_, node) in std::mem::take(&mut self.nodes) {
            node.stop().await;
        }
    }
}

#[test]
fn a_cluster_replicates_loses_its_leader_and_takes_it_back_by_log_and_by_snapshot() {
    on_executor(async {
        let mut cluster = Cluster::found(&[1, 2, 3]).await;
        // Through each of them, whoever leads.
        for (at, node) in [1, 2, 3].into_iter().enumerate() {
            let proposed = cluster.nodes[&node].join(at as u128).await;
            assert_eq!(proposed.reply, Reply::Joined { node: at as u64 + 1 });
        }
        cluster.all_know(3).await;

        let old = cluster.leader().unwrap();
        cluster.end(old).await;
        let other = *cluster.nodes.keys().next().unwrap();
        // More than one message has room for.
        let count = 3 + MESSAGE_ENTRIES_MAX as usize * 2;
        for identity in 3..count {
            cluster.nodes[&other].join(identity as u128).await;
        }
        cluster.start_again(old).await;
        cluster.all_know(count).await;

        wait("a leader", || cluster.leader().is_some()).await;
        let away = cluster.follower();
        cluster.end(away).await;
        let leader = cluster.leader();
        let leader = leader.unwrap_or_else(|| *cluster.nodes.keys().next().unwrap());
        cluster.nodes[&leader].join(9_999).await;
        for node in cluster.nodes.values() {
            let metrics = || node.raft.metrics().borrow_watched().clone();
            wait("the entry", || node.knows() == count + 1).await;
            node.raft.trigger().snapshot().await.unwrap();
            wait("a snapshot", || metrics().snapshot.is_some_and(|id| id.index > count as u64)).await;
            let upto = metrics().snapshot.unwrap().index;
            node.raft.trigger().purge_log(upto).await.unwrap();
            wait("the purge", || metrics().purged.is_some_and(|id| id.index == upto)).await;
        }
        cluster.start_again(away).await;
        cluster.all_know(count + 1).await;
        cluster.stop().await;
    });
}

#[test]
fn a_node_that_has_not_joined_proposes_through_any_other() {
    on_executor(async {
        let cluster = Cluster::found(&[1, 2, 3]).await;
        let stranger = Bus::new(identity(0)).unwrap();
        let (closed, nobody) = bound(0);
        drop(closed);
        let command = Command::Join { identity: 7, profile: profile("host") };
        let seeds = [peer(nobody), cluster.peer(cluster.follower())];
        let proposed = stranger.propose(None, &seeds, command.clone(), PATIENCE).await.unwrap();
        assert_eq!(proposed.reply, Reply::Joined { node: 1 });
        // Who asks again gets the same number.
        let again = stranger.propose(None, &seeds, command.clone(), PATIENCE).await.unwrap();
        assert_eq!(again.reply, Reply::Joined { node: 1 });
        assert!(again.index > proposed.index);
        let soon = Duration::from_millis(300);
        let none = stranger.propose(None, &seeds[..1], command, soon).await;
        assert!(matches!(none, Err(ProposeError::NoLeader(_))), "{none:?}");
        let bad = Command::Create { partitions: 3 };
        assert!(matches!(stranger.propose(None, &seeds, bad, soon).await, Err(ProposeError::Malformed(_))));
        cluster.stop().await;
    });
}

#[test]
fn another_cluster_node_secret_or_version_is_refused_by_name() {
    on_executor(async {
        let cluster = Cluster::found(&[1]).await;
        let at = cluster.peer(1);
        let refused = async |identity: Identity, target| match dial(&identity, target, &at, false).await {
            Ok(_) => panic!("it was let in"),
            Err(error) => error,
        };
        let wrong = |cluster: &str, secret: &[u8]| Identity {
            cluster: cluster.into(),
            secret: Secret::new(secret),
            ..identity(2)
        };
        assert_eq!(refused(wrong("other", b"a secret"), 1).await, Refused::Cluster("test".into()).into());
        assert_eq!(refused(wrong("test", b"a secret"), 3).await, Refused::Node(1).into());
        for secret in [&b"another"[..], b""] {
            assert_eq!(refused(wrong("test", secret), 1).await, Refused::Secret.into());
        }
        // A program of another version, and one that knows the rest but not the secret.
        let hello = Hello { version: PROTOCOL_VERSION + 1, ..identity(2).hello(PROTOCOL_VERSION, 1, false, [0; 32]) };
        let answer = say_raw(&at, &[Step::Hello(hello)]).await;
        assert_eq!(answer, Some(Step::Refused(Refused::Version(PROTOCOL_VERSION))));
        let steps = [Step::Hello(identity(2).hello(PROTOCOL_VERSION, 1, false, [0; 32])), Step::Proof([0; 32])];
        assert_eq!(say_raw(&at, &steps).await, Some(Step::Refused(Refused::Secret)));
        assert!(dial(&identity(2), 1, &at, false).await.is_ok());
        cluster.stop().await;
    });
}

/// Says this, and returns the last that comes back.
async fn say_raw(at: &Peer, steps: &[Step]) -> Option<Step> {
    let mut stream = TcpStream::connect((at.host.as_str(), at.bus_port)).await.unwrap();
    let mut decoder = Decoder::default();
    let mut last = None;
    for step in steps {
        stream.write_all(&frame(Kind::Handshake, 0, &step.encode().unwrap()).unwrap()).await.unwrap();
        let received = super::stream::read(&mut stream, &mut decoder, Kind::Handshake).await.unwrap()?;
        last = Some(Step::decode(&received.payload).unwrap());
    }
    last
}

/// Waits until the other side closes.
async fn closed(mut stream: impl futures_lite::AsyncRead + Unpin) {
    let reading = async {
        let mut buffer = [0; 1024];
        while let Ok(1..) = stream.read(&mut buffer).await {}
    };
    Glommio::timeout(PATIENCE, reading).await.expect("the connection is closed");
}

#[test]
fn noise_and_damage_close_a_connection_and_do_no_harm() {
    on_executor(async {
        let cluster = Cluster::found(&[1]).await;
        let at = cluster.peer(1);
        let mut random = Random(11);
        for round in 0..40 {
            let mut noise: Vec<u8> = (0..64 + random.below(200)).map(|_| random.next() as u8).collect();
            if round % 2 == 0 {
                // Beyond the header.
                let good = frame(Kind::Handshake, 0, &noise).unwrap();
                noise = good;
            }
            let mut stream = TcpStream::connect((HOST, at.bus_port)).await.unwrap();
            let _ = stream.write_all(&noise).await;
            closed(stream).await;
        }
        let vote = Vote::new(1, 2);
        let request = Request::Vote(VoteRequest::new(vote, Some(id(1, 1))));
        let good = frame(Kind::Request, 0, &request.encode().unwrap()).unwrap();
        for byte in (0..good.len()).filter(|byte| *byte > 3) {
            let (mut stream, ..) = dial(&identity(2), 1, &at, false).await.unwrap();
            let mut bad = good.clone();
            bad[byte] ^= 0xff;
            let _ = stream.write_all(&bad).await;
            closed(stream).await;
        }
        assert_eq!(cluster.nodes[&1].join(1).await.reply, Reply::Joined { node: 1 });
        cluster.stop().await;
    });
}

#[test]
fn those_who_say_nothing_are_few_and_do_not_stay() {
    on_executor(async {
        let cluster = Cluster::found(&[1]).await;
        let at = cluster.peer(1);
        let mut silent = Vec::new();
        for _ in 0..STRANGERS_MAX + 5 {
            silent.push(TcpStream::connect((HOST, at.bus_port)).await.unwrap());
        }
        for stream in silent.drain(STRANGERS_MAX..) {
            closed(stream).await;
        }
        for stream in silent {
            closed(stream).await;
        }
        assert!(dial(&identity(2), 1, &at, false).await.is_ok());
        cluster.stop().await;
    });
}

#[test]
fn a_node_that_stops_reading_is_given_up_and_holds_up_nobody() {
    on_executor(async {
        let cluster = Cluster::found(&[1]).await;
        let (listener, port) = bound(0);
        let deaf = glommio::spawn_local(async move {
            // Accepts, and then neither reads nor answers; later connections are not even accepted.
            let listener = unsafe {
                use std::os::fd::{FromRawFd, IntoRawFd};
                // SAFETY: a listening socket that is handed over.
                glommio::net::TcpListener::from_raw_fd(listener.into_raw_fd())
            };
            let mut stream = listener.accept().await.unwrap();
            accept(&identity(3), &mut stream, &mut Decoder::default(), Some).await.unwrap();
            std::future::pending::<()>().await;
        });
        let bus = Bus::new(identity(2)).unwrap();
        let (to_deaf, to_one) = (bus.links.to(3, &peer(port)), bus.links.to(1, &cluster.peer(1)));
        let over = Cell::new(false);
        let asking = async {
            let late = to_deaf.ask(&piece(PIECE_BYTES_MAX), Duration::from_millis(500)).await;
            assert_eq!(late, Err(BusError::Late));
            over.set(true);
        };
        let others = async {
            let mut answers = 0;
            while !over.get() || answers < 5 {
                let request = Request::PreVote(VoteRequest::new(Vote::new(1, 2), None));
                let answer = to_one.ask(&request, PATIENCE).await;
                assert!(matches!(answer, Ok(Answer::Vote(_))), "{answer:?}");
                answers += 1;
            }
        };
        future::zip(asking, others).await;
        wait("the end of the connection", || !to_deaf.is_open()).await;
        // Not let in any more: an error within the time of the request, and then one at once.
        let end = to_deaf.ask(&piece(1), Duration::from_millis(200)).await;
        assert!(matches!(end, Err(BusError::Connect | BusError::Closed)), "{end:?}");
        deaf.cancel().await;
        bus.stop();
        wait("the end of the bus", || !to_one.is_open()).await;
        assert_eq!(to_one.ask(&piece(1), PATIENCE).await, Err(BusError::Stopped));
        cluster.stop().await;
    });
}

#[test]
fn a_node_speaks_for_itself_only_and_sends_snapshots_in_order() {
    on_executor(async {
        let cluster = Cluster::found(&[1]).await;
        let bus = Bus::new(identity(2)).unwrap();
        let link: Rc<Link> = bus.links.to(1, &cluster.peer(1));
        let other = Request::PreVote(VoteRequest::new(Vote::new(1, 3), None));
        assert_eq!(link.ask(&other, PATIENCE).await, Err(super::error::Failure::Sender.into()));
        let other = Request::HandOver(HandOver { node: 3, ..hand_over(&[1]) });
        assert_eq!(link.ask(&other, PATIENCE).await, Err(super::error::Failure::Sender.into()));
        let asked = bus.ask_for_roles(1, &cluster.peer(1), hand_over(&[1, 2]), PATIENCE).await;
        assert_eq!(asked, Ok(2));
        assert_eq!(link.ask(&piece(9), PATIENCE).await, Ok(Answer::Piece));
        let Request::Piece(first) = piece(9) else { unreachable!() };
        for (transfer, offset) in [(1, 10), (2, 9), (1, 9)] {
            let late = Request::Piece(Piece { transfer, offset, ..first.clone() });
            assert_eq!(link.ask(&late, PATIENCE).await, Err(super::error::Failure::Piece.into()));
        }
        let damaged = Request::Piece(Piece { total: 9, ..first });
        assert_eq!(link.ask(&damaged, PATIENCE).await, Err(super::error::Failure::Snapshot.into()));
        // Both sides show the connection, and have counted what went over it.
        let open = |bus: &Bus| bus.connected().iter().map(|open| (open.node, open.dialled)).collect::<Vec<_>>();
        let one = &cluster.nodes[&1].bus;
        assert_eq!((open(&bus), open(one)), (vec![(1, true)], vec![(2, false)]));
        assert_eq!(bus.messages(), (8, 8));
        wait("the count of the last answer", || one.messages() == (8, 8)).await;
        bus.stop();
        wait("the end of the connection", || one.connected().is_empty() && bus.connected().is_empty()).await;
        cluster.stop().await;
    });
}
