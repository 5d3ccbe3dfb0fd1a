//! Data cores without executors, for tests: their pumps turn one after the other in one thread, behind real sockets, and the
//! test is their control core.

#![allow(clippy::vec_box, reason = "boxed batches travel between cores; the box itself is what is used again")]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::forward::{Batch, Message};
use super::limits;
use super::pump::{Parts, Pump, Service};
use super::ring::Ring;
use crate::cluster::{Endpoint, Identity, Roles, View};
use crate::config::Config;
use crate::engine::Engine;
use crate::log::feed::{Chunk, Content};
use crate::mesh;
use crate::node::Node;
use crate::route::{CoreId, Hasher, Router, SLOTS, slot_of};
use crate::shard::SteadyMs;
use crate::state::NodeState;

pub const PARTITIONS: u16 = 16;

/// Longest wait for something that has to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// The cores of a node. See the module.
pub struct Cores {
    pub pumps: Vec<Pump>,
    pub node: Arc<Node>,
    /// What cores have fed.
    pub fed: Vec<(CoreId, Chunk)>,
    /// What came back to the control core.
    pub back: Vec<Box<Batch>>,
    /// Questions to the control core: who asks, the number, and the part.
    pub asked: Vec<(CoreId, u32, u16)>,
    /// Loans that the control core has got: the core, the ticket.
    pub lent: Vec<(CoreId, u64)>,
    control: mesh::Endpoint<Message>,
}

/// A client of one core.
pub struct Peer(UnixStream);

impl Cores {
    /// The cores of a node of a cluster, which is alone in it so far.
    pub fn in_cluster(cores: usize, config: Config) -> Cores {
        Cores::of(cores, Config { cluster_enabled: true, databases: 1, ..config }, Some(Identity(1)))
    }

    /// The cores of a node without a cluster.
    pub fn alone(cores: usize) -> Cores {
        Cores::of(cores, Config::default(), None)
    }

    fn of(cores: usize, config: Config, identity: Option<Identity>) -> Cores {
        let mut state = NodeState::new(Arc::new(Config { partitions: PARTITIONS, ..config }));
        state.identity = identity;
        let node = Arc::new(Node::idle(Arc::new(state), cores + 1));
        let mut endpoints = mesh::build::<Message>(cores + 1, limits::MESH_SLOTS);
        let control = endpoints.pop().unwrap();
        let pump = |(me, mesh): (usize, mesh::Endpoint<Message>)| {
            let router = Router::new(me as CoreId, cores as u16, PARTITIONS);
            let hasher = Hasher::new(PARTITIONS, [1, 2, 3, 4]);
            let mut engine = Engine::of_node(router, hasher, Arc::clone(&node.state), 7 + me as u64);
            engine.shard.set_now(node.clock.clone().now());
            Pump::new(Parts {
                me: me as CoreId,
                service: Service::Commands,
                node: Arc::clone(&node),
                ring: Ring::new().unwrap(),
                engine,
                mesh,
                listeners: Vec::new(),
                orders: crossbeam_channel::bounded(1).1,
            })
        };
        let pumps = endpoints.into_iter().enumerate().map(pump).collect();
        Cores { pumps, node, fed: Vec::new(), back: Vec::new(), asked: Vec::new(), lent: Vec::new(), control }
    }

    /// Lets every core have a turn, and the control core take what it is sent.
    pub fn turn(&mut self) {
        (0..self.pumps.len()).for_each(|core| self.turn_of(core));
        while let Some((core, message)) = self.control.pop() {
            match message {
                Message::Feed(chunk) => self.fed.push((core as CoreId, *chunk)),
                Message::Replies(batch) => self.back.push(batch),
                Message::Question { ask, part, .. } => self.asked.push((core as CoreId, ask, part)),
                Message::Lent { lent, .. } => self.lent.push((core as CoreId, lent.ticket)),
                _ => {}
            }
        }
    }

    /// Lets one core have a turn.
    pub fn turn_of(&mut self, core: usize) {
        let pump = &mut self.pumps[core];
        pump.ring.enter(false).unwrap();
        pump.turn(&mut Vec::new());
        pump.ring.enter(false).unwrap();
    }

    /// Lets all that can happen happen.
    pub fn rest(&mut self) {
        (0..20).for_each(|_| self.turn());
    }

    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut is_so: impl FnMut(&mut Cores) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < end, "{what}");
            self.turn();
        }
    }

    /// The control core tells a core something.
    pub fn tell(&mut self, core: CoreId, message: Message) {
        assert!(self.control.send(core as usize, message).is_ok());
    }

    pub fn tell_all(&mut self, message: impl Fn() -> Message) {
        (0..self.pumps.len()).for_each(|core| self.tell(core as CoreId, message()));
    }

    /// All cores get this view, and say that they have seen it.
    pub fn see(&mut self, number: u64, roles: impl Fn(u16) -> Roles) {
        let view = Arc::new(view(number, roles));
        self.tell_all(|| Message::View(Arc::clone(&view)));
        let cores = self.pumps.len();
        self.wait_until("every core has seen the view", |cores_| cores_.seen(number).len() == cores);
    }

    /// Cores that have said that they have seen a view.
    pub fn seen(&self, number: u64) -> Vec<CoreId> {
        let said = |(_, chunk): &&(CoreId, Chunk)| chunk.content == Content::Seen { view: number };
        self.fed.iter().filter(said).map(|(core, _)| *core).collect()
    }

    pub fn now_ms(&self) -> SteadyMs {
        self.node.clock.clone().now().steady_ms
    }

    pub fn connect(&mut self, core: CoreId) -> Peer {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        self.pumps[core as usize].serve(theirs.into(), true);
        Peer(ours)
    }

    /// Sends the words of `line`; the reply, with `|` for each line end.
    #[track_caller]
    pub fn call(&mut self, peer: &mut Peer, line: &str) -> String {
        peer.send(line);
        self.reply(peer)
    }

    /// What a core sends next; empty: it closes the connection.
    #[track_caller]
    pub fn reply(&mut self, peer: &mut Peer) -> String {
        let mut reply = None;
        self.wait_until("a reply", |_| {
            reply = peer.received();
            reply.is_some()
        });
        reply.unwrap()
    }

    #[track_caller]
    pub fn expect(&mut self, peer: &mut Peer, line: &str, reply: &str) {
        assert_eq!(self.call(peer, line), reply, "{line}");
    }
}

impl Peer {
    pub fn send(&mut self, line: &str) {
        self.0.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    /// What has arrived; empty: the end; None: nothing.
    pub fn received(&mut self) -> Option<String> {
        let mut bytes = vec![0; 1 << 16];
        match self.0.read(&mut bytes) {
            Ok(len) => {
                let text = String::from_utf8_lossy(&bytes[..len]).replace("\r\n", "|");
                Some(text.strip_suffix('|').unwrap_or(&text).to_string())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(String::new()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A view of two nodes, the first of which is this one.
pub fn view(number: u64, roles: impl Fn(u16) -> Roles) -> View {
    let endpoint = |n: u16| Endpoint {
        id: format!("{n:040x}"),
        host: format!("10.0.0.{n}"),
        port: 7000 + n,
        alive: true,
        cores: None,
    };
    View::new(vec![endpoint(1), endpoint(2)], 0, (0..PARTITIONS).map(roles).collect(), number, number)
}

/// This node leads.
pub fn mine() -> Roles {
    Roles { leader: Some(0), followers: [1].into_iter().collect(), ..Roles::default() }
}

/// This node follows.
pub fn theirs() -> Roles {
    Roles { leader: Some(1), followers: [0].into_iter().collect(), ..Roles::default() }
}

/// A key of a partition.
pub fn key(partition: u16) -> String {
    let key = |n: u32| format!("k{n}");
    (0..).map(key).find(|key| slot_of(key.as_bytes()) / (SLOTS / PARTITIONS) == partition).unwrap()
}

/// What a client is told about a key of the other node.
pub fn moved(key: &str) -> String {
    format!("-MOVED {} 10.0.0.2:7002", slot_of(key.as_bytes()))
}
