//! The shell of replication: connections, files and data cores for the machines that decide
//! ([`crate::replication::primary`], [`crate::replication::replica`]).
//!
//! A node *leads* or *follows*. In either case it serves replicas: a node that follows relays what it has applied. To
//! change from one to the other takes its time, as what is under way has to come to its end first:
//!
//! ```text
//! leads ─► REPLICAOF: no more writes ─► every data core says that all are in the log ─► follows
//! follows ─► REPLICAOF NO ONE, or handed over to: applies what was received ─► a new history ─► leads
//! ```
//!
//! [`serve`] is for those who follow this node, [`follow`] for the one that is followed, [`receive`] for the copy of its
//! data; [`roles`] changes from one to the other.
//!
//! Owned by the control core.
//!
//! Invariant: no borrow of [`Replication`] lives while actions are carried out.

mod follow;
mod numbers;
mod receive;
mod roles;
mod serve;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::rc::Rc;

use super::apply::Apply;
use super::links::{Credentials, Outbox};
use super::log::Copied;
use super::{Control, random_id};
use crate::command::Ask;
use crate::config::Config;
use crate::log::durability::{Durability, Standing};
use crate::log::frame::{Frame, HistoryEntry, Index};
use crate::net::forward::Message;
use crate::replication::history::{Chain, History};
use crate::replication::message::{self, Wire};
use crate::replication::primary::{self, Peer, Primary};
use crate::replication::replica::{self, Holdings, Replica};

use receive::Receiving;
pub(super) use serve::{CopyTaker, Event, Events};

/// How often both sides of a connection say that they are there, ms.
pub(super) const HEARTBEAT_MS: u64 = 250;

/// Suspicion above which a node counts as dead; see [`crate::replication::detector`].
pub(super) const PHI_MAX: f64 = 12.0;

/// Replicas of one node.
const REPLICAS_MAX: usize = 64;

/// A copy for several replicas waits so long for all of them to ask.
const COPY_DELAY_MS: u64 = 20;

/// Where a node is between leading and following.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Leading,
    /// Waits for data cores to have said everything; then it follows.
    SteppingDown {
        host: String,
        port: u16,
    },
    Following {
        host: String,
        port: u16,
    },
    /// Waits for everything to be applied that was received; then it leads, by this chain.
    TakingOver {
        chain: Chain,
        /// Who was followed so far.
        host: String,
        port: u16,
    },
}

/// One connection of a replica.
struct Served {
    outbox: Rc<Outbox>,
    /// Without its port.
    host: String,
}

/// See the module.
pub(super) struct Replication {
    pub primary: Primary,
    pub replica: Replica,
    pub role: Role,
    pub apply: Apply,
    pub events: Events,
    node: u128,
    chain: Chain,
    peers: BTreeMap<Peer, Served>,
    next_peer: Peer,
    /// Hosts of replicas by node, for those that are asked or followed after a failover.
    hosts: BTreeMap<u128, String>,
    upstream: Option<Rc<Outbox>>,
    /// Which connection upstream it is: what earlier ones say is not heard.
    upstream_number: u64,
    receiving: Option<Receiving>,
    /// Handed out to data cores, and not passed on to replicas yet.
    relayed: VecDeque<Frame>,
    /// There has been a replica, or this node has been one.
    pub in_use: bool,
    /// Room for pieces of the copy that is being sent.
    room_bytes: Rc<Cell<u64>>,
    sending: Option<(u64, Rc<Cell<bool>>)>,
    /// Up to where replicas have what this node has written as the one that leads.
    copies: Copied,
    /// A failover waits for data cores to say that nothing is written.
    pausing: bool,
    pub set_aside: Option<String>,
}

/// The chain of a log for the machines.
pub(super) fn chain_of(entries: &[HistoryEntry]) -> Chain {
    let mut parent = 0;
    let histories = entries.iter().map(|entry| {
        let history = History { id: entry.id, parent, cut: entry.cut };
        parent = entry.id;
        history
    });
    Chain::checked(histories.collect()).unwrap_or_else(|_| Chain::root(random_id(), 0))
}

/// And back: histories for the files.
fn entries_of(chain: &Chain) -> Vec<HistoryEntry> {
    chain.histories().iter().map(|history| HistoryEntry { id: history.id, cut: history.cut }).collect()
}

pub(super) fn encoded(message: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn primary_settings(node: u128, config: &Config) -> primary::Settings {
    primary::Settings {
        node,
        min_insync: config.min_insync.max(1) as usize,
        insync_timeout_ms: config.insync_timeout_ms,
        durable_quorum: config.write_durability == Durability::QuorumDisk,
        heartbeat_ms: HEARTBEAT_MS,
        repl_timeout_ms: config.repl_timeout_s * 1000,
        phi_max: PHI_MAX,
        queue_bytes_max: config.client_output_buffer_limit_replica.bytes_max(),
        replicas_max: REPLICAS_MAX,
        copy_delay_ms: COPY_DELAY_MS,
        good_replicas_min: config.good_replicas_min(),
        good_replica_lag_ms_max: config.min_replicas_max_lag_s * 1000,
    }
}

fn replica_settings(node: u128, config: &Config) -> replica::Settings {
    replica::Settings {
        node,
        port: if config.replica_announce_port > 0 { config.replica_announce_port } else { config.port },
        heartbeat_ms: HEARTBEAT_MS,
        repl_timeout_ms: config.repl_timeout_s * 1000,
        phi_max: PHI_MAX,
    }
}

impl Replication {
    pub fn new(
        node: u128,
        config: &Config,
        apply: Apply,
        chain: Chain,
        end: Index,
        attempt: u64,
        events: Events,
    ) -> Replication {
        let has = Holdings { chain: chain.clone(), received: end, applied: end, durable: end, complete: true };
        Replication {
            primary: Primary::new(primary_settings(node, config)),
            replica: Replica::new(replica_settings(node, config), has, attempt),
            role: Role::Leading,
            apply,
            events,
            node,
            chain,
            peers: BTreeMap::new(),
            next_peer: 1,
            hosts: BTreeMap::new(),
            upstream: None,
            upstream_number: 0,
            receiving: None,
            relayed: VecDeque::new(),
            in_use: false,
            room_bytes: Rc::default(),
            sending: None,
            copies: Copied::default(),
            pausing: false,
            set_aside: None,
        }
    }

    pub fn leads(&self) -> bool {
        self.role == Role::Leading
    }

    pub fn takes_over(&self) -> bool {
        matches!(self.role, Role::TakingOver { .. })
    }

    pub fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Whether time matters more than usual.
    pub fn is_busy(&self) -> bool {
        self.has_peers() || !self.leads()
    }
}

impl Control {
    pub(in crate::control) fn steady_ms(&self) -> u64 {
        self.node.clock.clone().now().steady_ms.max(0) as u64
    }

    fn change_standing(&self, change: impl FnOnce(&mut Standing)) {
        {
            let mut log = self.log.borrow_mut();
            change(&mut log.standing);
            log.barriers.clear();
            log.tell_standing();
        }
        self.flush();
    }

    fn credentials(&self) -> Credentials {
        let config = self.config();
        Credentials { user: config.masteruser.clone(), password: config.masterauth.clone() }
    }

    /// Time passes.
    pub(super) fn tick_replication(self: &Rc<Self>) {
        let wall_ms = self.wall_ms().max(0) as u64;
        let config = self.config();
        let settings = primary_settings(self.replication.borrow().node, &config);
        self.serve(|primary, now_ms, out| {
            primary.configure(settings);
            primary.tick(now_ms, wall_ms, out);
        });
        let random = random_id() as u64;
        let settings = replica_settings(self.replication.borrow().node, &config);
        self.follow(|replica, now_ms, out| {
            replica.configure(settings);
            replica.tick(now_ms, wall_ms, random, out);
        });
        self.judge_replicas();
        self.note_primary();
        self.advance();
    }

    /// Sees to it that the configuration names whom this node follows, for CONFIG GET and CONFIG REWRITE.
    pub(super) fn note_primary(&self) {
        let primary = match &self.replication.borrow().role {
            Role::Leading => None,
            Role::SteppingDown { host, port } | Role::Following { host, port } => Some((host.clone(), *port)),
            Role::TakingOver { .. } => return,
        };
        if self.config().replicaof == primary {
            return;
        }
        let changed = |config: &Config| Ok::<_, Infallible>(Config { replicaof: primary.clone(), ..config.clone() });
        let Ok(configured) = self.node.state.config.change(changed);
        self.log.borrow_mut().tell_all(|| {
            // Nobody waits for the answer.
            let question = Box::new(Ask::Configure(configured.clone()));
            Message::Question { ask: 0, part: 0, question }
        });
        self.flush();
    }

    /// Whether there are enough replicas for writes.
    pub(in crate::control) fn judge_replicas(self: &Rc<Self>) {
        let config = self.config();
        let member = self.member();
        let replicated = member.is_some() || self.replication.borrow().has_peers();
        let (few_replicas, few_in_sync) = if let Some(member) = member {
            let good = member.good_followers(self.steady_ms(), config.min_replicas_max_lag_s * 1000);
            // How many copies are in sync, each partition says for itself.
            (good < config.good_replicas_min(), false)
        } else {
            let replication = self.replication.borrow();
            let lag_ms = config.min_replicas_max_lag_s * 1000;
            let good = replication.primary.good_replicas(self.steady_ms(), lag_ms);
            let leads = replication.leads();
            let in_sync = replication.primary.in_sync() + 1;
            (leads && good < config.good_replicas_min(), leads && in_sync < config.min_insync as usize)
        };
        let standing = self.log.borrow().standing.clone();
        let (known, now) = (
            (standing.few_replicas, standing.few_in_sync, standing.replicated),
            (few_replicas, few_in_sync, replicated),
        );
        if known != now {
            let mut log = self.log.borrow_mut();
            (log.standing.few_replicas, log.standing.few_in_sync, log.standing.replicated) = now;
            log.tell_standing();
        }
    }
}

/// A frame as the machines carry it; without its bytes while there is nobody to send them to.
fn carried(frame: &Frame, with_bytes: bool) -> message::Frame {
    let mut bytes = Vec::new();
    if with_bytes {
        bytes.reserve_exact(frame.bytes());
        frame.write_to(&mut bytes);
    }
    message::Frame {
        history: frame.head.history,
        first: frame.head.first,
        count: frame.head.count,
        bytes: Rc::from(bytes),
    }
}
