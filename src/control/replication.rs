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
//! Owned by the control core.
//!
//! Invariant: no borrow of [`Replication`] lives while actions are carried out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::apply::Apply;
use super::links::{self, Credentials, Outbox};
use super::runs::Take;
use super::{Control, aside, random_id};
use crate::command::Ask;
use crate::command::log::{ReplicaNumbers, ReplicationNumbers};
use crate::config::Config;
use crate::log::frame::{self, Frame, HistoryEntry, HistoryId, Index, Kind};
use crate::log::snapshot::{Options, SnapshotWriter};
use crate::net::forward::Message;
use crate::replication::history::{Chain, History};
use crate::replication::message::{self, Decoder, ToPrimary, ToReplica, Wire};
use crate::replication::primary::{Action as Serve, Extent, FailoverError, Peer, Primary};
use crate::replication::replica::{Action as Follow, Holdings, Replica};
use crate::replication::{primary as primary_machine, replica as replica_machine};

/// How often both sides of a connection say that they are there, ms.
const HEARTBEAT_MS: u64 = 250;

/// Suspicion above which a node counts as dead; see [`crate::replication::detector`].
const PHI_MAX: f64 = 12.0;

/// Replicas of one node.
const REPLICAS_MAX: usize = 64;

/// A copy for several replicas waits so long for all of them to ask.
const COPY_DELAY_MS: u64 = 20;

/// Something that the machine of the primary has to hear of, in this order.
pub(super) enum Event {
    Appended(Frame),
    CopyStarted { run: u64, start: Index },
    CopyPiece { run: u64, bytes: Rc<[u8]> },
    CopyEnded { run: u64, end: Index },
    CopyFailed { run: u64 },
}

pub(super) type Events = Rc<RefCell<VecDeque<Event>>>;

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

/// A copy that is being received.
struct Receiving {
    run: u64,
    bytes: Vec<u8>,
    writer: Option<Rc<SnapshotWriter>>,
    /// It is whole: the state as of this index.
    end: Option<(Index, Chain)>,
    /// What of the log has come behind it.
    later: Vec<message::Frame>,
    /// What the primary's machine says is whole is written, and waits to be on disk.
    written: Rc<Cell<bool>>,
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
    room: Rc<Cell<bool>>,
    sending: Option<(u64, Rc<Cell<bool>>)>,
    /// Up to where replicas have what this node has written as the one that leads.
    copies: (Index, Index),
    /// A failover waits for data cores to say that nothing is written.
    pausing: bool,
    pub set_aside: Option<String>,
}

/// Takes part in a run on behalf of replicas.
struct CopyTaker {
    run: u64,
    events: Events,
    room: Rc<Cell<bool>>,
    gone: Rc<Cell<bool>>,
}

impl Take for CopyTaker {
    fn take(&mut self, frame: &Frame) {
        let mut events = self.events.borrow_mut();
        if frame.head.kind == Kind::Begin {
            events.push_back(Event::CopyStarted { run: self.run, start: frame.head.first - 1 });
        }
        let mut bytes = Vec::with_capacity(frame.bytes());
        frame.write_to(&mut bytes);
        events.push_back(Event::CopyPiece { run: self.run, bytes: Rc::from(bytes) });
        if frame.head.kind == Kind::End {
            events.push_back(Event::CopyEnded { run: self.run, end: frame.head.first - 1 });
            self.gone.set(true);
        }
    }

    fn has_room(&self) -> bool {
        self.room.get()
    }

    fn is_gone(&self) -> bool {
        self.gone.get()
    }

    fn spoil(&mut self) {
        self.gone.set(true);
        self.events.borrow_mut().push_back(Event::CopyFailed { run: self.run });
    }
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

fn encoded(message: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn primary_settings(node: u128, config: &Config) -> primary_machine::Settings {
    primary_machine::Settings {
        node,
        min_insync: config.min_insync.max(1) as usize,
        insync_timeout_ms: config.insync_timeout_ms,
        durable_quorum: config.write_durability == crate::log::durability::Durability::QuorumDisk,
        heartbeat_ms: HEARTBEAT_MS,
        repl_timeout_ms: config.repl_timeout_s * 1000,
        phi_max: PHI_MAX,
        queue_bytes_max: match config.client_output_buffer_limit_replica.hard_bytes {
            0 => u64::MAX,
            bytes => bytes,
        },
        replicas_max: REPLICAS_MAX,
        copy_delay_ms: COPY_DELAY_MS,
        good_replicas_min: config.good_replicas_min(),
        good_replica_lag_ms_max: config.min_replicas_max_lag_s * 1000,
    }
}

fn replica_settings(node: u128, config: &Config) -> replica_machine::Settings {
    replica_machine::Settings {
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
            room: Rc::new(Cell::new(true)),
            sending: None,
            copies: (0, 0),
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
    fn steady_ms(&self) -> u64 {
        self.node.clock.clone().now().steady_ms.max(0) as u64
    }

    /// Lets the machine of the primary decide something, and does what comes of it.
    fn serve(self: &Rc<Self>, decide: impl FnOnce(&mut Primary, u64, &mut Vec<Serve>)) {
        let now_ms = self.steady_ms();
        let mut actions = Vec::new();
        decide(&mut self.replication.borrow_mut().primary, now_ms, &mut actions);
        for action in actions {
            self.do_serve(action);
        }
    }

    fn do_serve(self: &Rc<Self>, action: Serve) {
        match action {
            Serve::Send { to, message } => {
                let cost = message.cost();
                if let Some(peer) = self.replication.borrow().peers.get(&to) {
                    peer.outbox.push(encoded(&message), cost);
                }
            }
            Serve::Drop { peer, reason } => {
                if let Some(served) = self.replication.borrow_mut().peers.remove(&peer) {
                    tracing::info!(replica = served.host, ?reason, "a replica is let go");
                    served.outbox.close(false);
                }
            }
            Serve::Read { peer, from, bytes_max } => self.read_log(peer, from, bytes_max),
            Serve::StartCopy { run } => {
                tracing::info!(run, "a copy for replicas begins");
                let mut replication = self.replication.borrow_mut();
                let gone = Rc::new(Cell::new(false));
                replication.sending = Some((run, Rc::clone(&gone)));
                replication.room.set(true);
                let (events, room) = (Rc::clone(&replication.events), Rc::clone(&replication.room));
                let taker = CopyTaker { run, events, room, gone };
                self.log.borrow_mut().add_consumer(Rc::new(RefCell::new(taker)));
            }
            Serve::CancelCopy { run } => {
                let replication = self.replication.borrow();
                if let Some((_, gone)) = replication.sending.as_ref().filter(|(sending, _)| *sending == run) {
                    gone.set(true);
                }
            }
            Serve::PauseWrites => {
                self.replication.borrow_mut().pausing = true;
                self.change_standing(|standing| {
                    standing.handing_over = true;
                    standing.stops += 1;
                });
            }
            Serve::ResumeWrites => {
                self.replication.borrow_mut().pausing = false;
                self.change_standing(|standing| standing.handing_over = false);
            }
            Serve::Inquire { node, port } => self.inquire(node, port),
            Serve::StepDown { node, port } => {
                let host = self.replication.borrow().hosts.get(&node).cloned();
                let Some(host) = host else { return };
                tracing::info!(host, port, "another node leads now");
                // The other one has everything: replies that wait for copies need not wait any more.
                let mut log = self.log.borrow_mut();
                let copies = (log.sequencer.end(), log.durable().min(log.sequencer.end()));
                log.tell_progress(copies.0, copies.1);
                drop(log);
                self.replication.borrow_mut().copies = copies;
                self.replication.borrow_mut().role = Role::SteppingDown { host, port };
                self.note_primary();
                // Everything is in the log already: nothing has been written since it was handed over.
                self.change_standing(|standing| (standing.replica, standing.handing_over) = (true, false));
                self.finish_stepping_down();
            }
        }
    }

    fn change_standing(&self, change: impl FnOnce(&mut crate::log::durability::Standing)) {
        {
            let mut log = self.log.borrow_mut();
            change(&mut log.standing);
            log.barriers.clear();
            log.tell_standing();
        }
        self.flush();
    }

    /// Asks a node whether it leads.
    fn inquire(self: &Rc<Self>, node: u128, port: u16) {
        let (host, hello) = {
            let replication = self.replication.borrow();
            let Some(host) = replication.hosts.get(&node).cloned() else { return };
            let hello = message::Hello {
                version: message::PROTOCOL_VERSION,
                node: replication.node,
                port: self.config().port,
                attempt: self.wall_ms() as u64 * 1000,
                wants: message::Wants::Standing,
                chain: replication.chain.histories().to_vec(),
                received: replication.chain.last().cut.max(self.log.borrow().sequencer.end()),
            };
            (host, hello)
        };
        let (control, credentials) = (Rc::clone(self), self.credentials());
        glommio::spawn_local(async move {
            let Ok(socket) = links::connect(&host, port, credentials).await else { return };
            let Ok((reader, writer)) = links::halves(socket) else { return };
            let outbox = Rc::new(Outbox::default());
            outbox.push(encoded(&ToPrimary::Hello(hello)), 0);
            glommio::spawn_local(links::write_all(writer, Rc::clone(&outbox), |_| ())).detach();
            let mut decoder = Decoder::default();
            links::read_all(reader, async |bytes| {
                decoder.push(bytes);
                match decoder.decode::<ToReplica>() {
                    Ok(Some(ToReplica::Control(message::Control::Standing { node, leading, chain }))) => {
                        if let Ok(chain) = Chain::checked(chain) {
                            control.serve(|primary, now_ms, out| primary.standing(now_ms, node, leading, &chain, out));
                        }
                        false
                    }
                    Ok(None) => true,
                    _ => false,
                }
            })
            .await;
            outbox.close(true);
        })
        .detach();
    }

    fn credentials(&self) -> Credentials {
        let config = self.config();
        Credentials { user: config.masteruser.clone(), password: config.masterauth.clone() }
    }

    /// A replica has come.
    pub(super) fn welcome(self: &Rc<Self>, socket: OwnedFd, addr: String) {
        let Ok((reader, writer)) = links::halves(socket) else { return };
        self.be_recorded();
        let host = addr.rsplit_once(':').map_or(addr.as_str(), |(host, _)| host).trim_matches(['[', ']']).to_string();
        let outbox = Rc::new(Outbox::default());
        let peer = {
            let mut replication = self.replication.borrow_mut();
            let peer = replication.next_peer;
            replication.next_peer += 1;
            replication.in_use = true;
            replication.peers.insert(peer, Served { outbox: Rc::clone(&outbox), host });
            peer
        };
        tracing::info!(replica = addr, peer, "a replica has connected");
        outbox.push(b"+OK\r\n".to_vec(), 0);
        let control = Rc::clone(self);
        let sent = move |cost| control.serve(|primary, now_ms, _| primary.written(now_ms, peer, cost));
        glommio::spawn_local(links::write_all(writer, Rc::clone(&outbox), sent)).detach();
        let control = Rc::clone(self);
        glommio::spawn_local(async move {
            let mut decoder = Decoder::default();
            links::read_all(reader, async |bytes| {
                decoder.push(bytes);
                loop {
                    match decoder.decode::<ToPrimary>() {
                        Ok(Some(message)) => control.heard_of_replica(peer, message),
                        Ok(None) => return true,
                        Err(error) => {
                            tracing::warn!(replica = addr, %error, "a replica says what makes no sense");
                            return false;
                        }
                    }
                }
            })
            .await;
            outbox.close(true);
            control.replication.borrow_mut().peers.remove(&peer);
            control.serve(|primary, now_ms, out| primary.disconnected(now_ms, peer, out));
            control.advance();
        })
        .detach();
    }

    fn heard_of_replica(self: &Rc<Self>, peer: Peer, message: ToPrimary) {
        if let ToPrimary::Hello(hello) = &message {
            let mut replication = self.replication.borrow_mut();
            if let Some(host) = replication.peers.get(&peer).map(|served| served.host.clone()) {
                replication.hosts.insert(hello.node, host);
                if replication.hosts.len() > 4 * REPLICAS_MAX {
                    replication.hosts.pop_first();
                }
            }
        }
        self.serve(|primary, now_ms, out| primary.message(now_ms, peer, message, out));
        self.advance();
    }

    /// Sees to it that the log has what is written from now on: somebody wants to follow it.
    fn be_recorded(self: &Rc<Self>) {
        let leads = self.replication.borrow().leads();
        if !leads || self.log.borrow().is_recording() {
            return;
        }
        // What was written so far is in no log.
        {
            let mut log = self.log.borrow_mut();
            log.sequencer.forget_histories(random_id());
            log.backlog.clear();
            log.record();
        }
        self.lead();
    }

    /// From now on this node leads, by the histories of its log.
    pub(super) fn lead(self: &Rc<Self>) {
        let (chain, extent) = {
            let log = self.log.borrow();
            let end = log.sequencer.end();
            let durable = log.durable().min(end);
            (chain_of(log.sequencer.histories()), Extent { oldest: log.oldest(), end, commit: end, durable })
        };
        {
            let mut replication = self.replication.borrow_mut();
            (replication.role, replication.chain) = (Role::Leading, chain.clone());
        }
        self.serve(|primary, now_ms, out| primary.lead(now_ms, chain, extent, out));
        self.judge_replicas();
    }

    fn read_log(self: &Rc<Self>, peer: Peer, from: Index, bytes_max: u64) {
        let frames: Option<Vec<message::Frame>> = {
            let log = self.log.borrow();
            log.backlog.from(from).map(|frames| {
                let mut bytes = 0;
                let some = frames.take_while(|frame| {
                    let first = bytes == 0;
                    bytes += frame.bytes() as u64;
                    first || bytes <= bytes_max
                });
                some.map(|frame| carried(frame, true)).collect()
            })
        };
        let wal = self.log.borrow().wal().cloned();
        match (frames, wal) {
            (Some(frames), _) => self.serve(|primary, now_ms, out| primary.read(now_ms, peer, &frames, out)),
            (None, Some(wal)) => {
                let control = Rc::clone(self);
                glommio::spawn_local(async move {
                    let frames = wal.frames_from(from).next(bytes_max as usize).await.unwrap_or_default();
                    let frames: Vec<message::Frame> = frames.iter().map(|frame| carried(frame, true)).collect();
                    control.serve(|primary, now_ms, out| primary.read(now_ms, peer, &frames, out));
                    control.advance();
                })
                .detach();
            }
            (None, None) => self.serve(|primary, now_ms, out| primary.read(now_ms, peer, &[], out)),
        }
    }

    /// Tells the machine of the primary what has happened to the log. Returns up to where replicas have it, and have it on
    /// their disks.
    pub(super) fn replicate(self: &Rc<Self>) -> (Index, Index) {
        loop {
            let event = self.replication.borrow().events.borrow_mut().pop_front();
            let Some(event) = event else { break };
            let carries = self.replication.borrow().has_peers();
            self.serve(|primary, now_ms, out| match event {
                Event::Appended(frame) => primary.appended(now_ms, &carried(&frame, carries), out),
                Event::CopyStarted { run, start } => primary.copy_started(now_ms, run, start, out),
                Event::CopyPiece { run, bytes } => primary.copy_piece(now_ms, run, &bytes, out),
                Event::CopyEnded { run, end } => primary.copy_ended(now_ms, run, end, out),
                Event::CopyFailed { run } => primary.copy_failed(now_ms, run),
            });
        }
        let (durable, oldest) = (self.log.borrow().durable(), self.log.borrow().oldest());
        self.serve(|primary, now_ms, out| {
            primary.durable(now_ms, durable);
            primary.oldest(oldest);
            primary.turn_end(now_ms, out);
        });
        let replication = self.replication.borrow();
        if let Some((run, _)) = &replication.sending {
            replication.room.set(replication.primary.copy_room(*run).unwrap_or(0) > 0);
        }
        let copies = (replication.primary.commit(), replication.primary.commit_durable());
        let leads = replication.leads();
        drop(replication);
        let mut replication = self.replication.borrow_mut();
        // What others lead, is not for this node to vouch for.
        if leads {
            replication.copies = copies;
        }
        replication.copies
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
    fn judge_replicas(self: &Rc<Self>) {
        let config = self.config();
        let replicated = self.replication.borrow().has_peers();
        let (few_replicas, few_in_sync) = {
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

    /// Data cores have said that nothing is written any more.
    pub(super) fn look_at_barriers(self: &Rc<Self>) {
        let all = {
            let log = self.log.borrow();
            let mut cores = log.barriers.clone();
            cores.sort_unstable();
            cores.dedup();
            cores.len() == log.cores()
        };
        if !all {
            return;
        }
        self.log.borrow_mut().barriers.clear();
        let stepping_down = matches!(self.replication.borrow().role, Role::SteppingDown { .. });
        if stepping_down {
            return self.finish_stepping_down();
        }
        if std::mem::take(&mut self.replication.borrow_mut().pausing) {
            self.serve(|primary, now_ms, out| primary.writes_paused(now_ms, out));
        }
    }

    /// REPLICAOF host port. False: that one is followed already.
    pub(super) fn replicate_of(self: &Rc<Self>, host: String, port: u16) -> Result<bool, String> {
        let role = self.replication.borrow().role.clone();
        match role {
            Role::Leading if self.log.borrow().standing.handing_over => {
                return Err("REPLICAOF not allowed while failing over.".into());
            }
            Role::TakingOver { .. } => return Err("this node is taking over".into()),
            Role::SteppingDown { host: known, port: at } | Role::Following { host: known, port: at }
                if at == port && known.eq_ignore_ascii_case(&host) =>
            {
                return Ok(false);
            }
            Role::Leading => {
                tracing::info!(host, port, "this node is to become a replica");
                self.replication.borrow_mut().role = Role::SteppingDown { host, port };
                self.change_standing(|standing| {
                    standing.replica = true;
                    standing.stops += 1;
                });
            }
            Role::SteppingDown { .. } => self.replication.borrow_mut().role = Role::SteppingDown { host, port },
            Role::Following { .. } => {
                self.replication.borrow_mut().role = Role::Following { host, port };
                self.follow(|replica, now_ms, out| replica.follow(now_ms, out));
            }
        }
        self.note_primary();
        Ok(true)
    }

    /// Everything is in the log that this node has written: it follows from now on.
    fn finish_stepping_down(self: &Rc<Self>) {
        let config = self.config();
        let (chain, end, durable, oldest) = {
            let log = self.log.borrow();
            let end = log.sequencer.end();
            (chain_of(log.sequencer.histories()), end, log.durable().min(end), log.oldest())
        };
        {
            let mut replication = self.replication.borrow_mut();
            let Role::SteppingDown { host, port } = replication.role.clone() else { return };
            let has = Holdings { chain: chain.clone(), received: end, applied: end, durable, complete: true };
            let attempt = self.wall_ms() as u64 * 1000;
            replication.replica = Replica::new(replica_settings(replication.node, &config), has, attempt);
            replication.apply.start_at(end);
            replication.relayed.clear();
            (replication.role, replication.in_use) = (Role::Following { host, port }, true);
        }
        self.change_standing(|standing| standing.follows = true);
        let extent = Extent { oldest, end, commit: end, durable };
        self.serve(|primary, now_ms, out| primary.relay(now_ms, chain, extent, out));
        self.follow(|replica, now_ms, out| replica.follow(now_ms, out));
    }

    /// Starts as a replica, with what was found on disk.
    pub(super) fn start_following(self: &Rc<Self>, host: String, port: u16) {
        self.replication.borrow_mut().role = Role::SteppingDown { host, port };
        self.change_standing(|standing| standing.replica = true);
        self.finish_stepping_down();
    }

    /// REPLICAOF NO ONE.
    pub(super) fn replicate_of_no_one(self: &Rc<Self>) -> Result<(), String> {
        let role = self.replication.borrow().role.clone();
        match role {
            Role::Following { .. } => self.take_over(),
            Role::SteppingDown { .. } => {
                self.lead();
                self.change_standing(|standing| standing.replica = false);
                self.note_primary();
                Ok(())
            }
            Role::Leading | Role::TakingOver { .. } => Ok(()),
        }
    }

    fn take_over(self: &Rc<Self>) -> Result<(), String> {
        let mut actions = Vec::new();
        let promoted = self.replication.borrow_mut().replica.promote(random_id(), &mut actions);
        let chain = promoted.map_err(|error| error.to_string())?;
        tracing::info!("this node takes over");
        {
            let mut replication = self.replication.borrow_mut();
            if let Role::Following { host, port } = replication.role.clone() {
                replication.role = Role::TakingOver { chain, host, port };
            }
        }
        for action in actions {
            self.do_follow(action);
        }
        self.advance();
        Ok(())
    }

    /// Leads, if everything is applied that was received.
    fn finish_taking_over(self: &Rc<Self>) {
        {
            let mut replication = self.replication.borrow_mut();
            let Role::TakingOver { chain, .. } = replication.role.clone() else { return };
            let end = replication.replica.has().received;
            if replication.apply.applied() < end || !replication.apply.is_drained() {
                return;
            }
            replication.relayed.clear();
            let mut log = self.log.borrow_mut();
            log.sequencer.follow(entries_of(&chain), end);
            if let Some(wal) = log.wal()
                && let Err(error) = wal.start_history(entries_of(&chain), end + 1)
            {
                tracing::error!(%error, "the log cannot begin a history");
            }
            log.record();
        }
        self.lead();
        self.change_standing(|standing| {
            (standing.replica, standing.follows, standing.loading) = (false, false, false);
        });
        self.note_primary();
        tracing::info!("this node leads");
    }

    /// Lets the machine of the replica decide something, and does what comes of it.
    fn follow(self: &Rc<Self>, decide: impl FnOnce(&mut Replica, u64, &mut Vec<Follow>)) {
        let now_ms = self.steady_ms();
        let mut actions = Vec::new();
        decide(&mut self.replication.borrow_mut().replica, now_ms, &mut actions);
        for action in actions {
            self.do_follow(action);
        }
    }

    fn do_follow(self: &Rc<Self>, action: Follow) {
        match action {
            Follow::Connect => self.connect_upstream(),
            Follow::Disconnect => self.hang_up(),
            Follow::Send(message) => {
                if let Some(upstream) = &self.replication.borrow().upstream {
                    upstream.push(encoded(&message), 0);
                }
            }
            Follow::SaveChain(chain) => {
                let mut replication = self.replication.borrow_mut();
                let received = replication.replica.has().received;
                self.log.borrow_mut().sequencer.follow(entries_of(&chain.upto(received)), received);
                replication.chain = chain;
            }
            Follow::Append(frame) => self.append_received(&frame),
            Follow::Apply { upto } => self.replication.borrow_mut().apply.allow(upto),
            Follow::SetAside { from, to } => self.set_aside(from, to),
            Follow::Truncate { to } => {
                let mut replication = self.replication.borrow_mut();
                replication.apply.truncate(to);
                let mut log = self.log.borrow_mut();
                log.backlog.truncate(to);
                let entries = entries_of(&replication.chain.upto(to));
                log.sequencer.follow(entries.clone(), to);
                if let Some(wal) = log.wal()
                    && let Err(error) = wal.start_history(entries, to + 1)
                {
                    tracing::error!(%error, "the log cannot be cut");
                }
            }
            Follow::BeginCopy { run } => self.begin_receiving(run),
            Follow::CopyPiece(bytes) => self.receive_piece(&bytes),
            Follow::FinishCopy { run, end, chain } => {
                let mut replication = self.replication.borrow_mut();
                if let Some(receiving) = replication.receiving.as_mut().filter(|receiving| receiving.run == run) {
                    receiving.end = Some((end, chain));
                }
            }
            Follow::TakeOver => {
                if let Err(error) = self.take_over() {
                    tracing::error!(error, "this node cannot take over");
                }
            }
        }
    }

    fn connect_upstream(self: &Rc<Self>) {
        let (host, port, number) = {
            let mut replication = self.replication.borrow_mut();
            let Role::Following { host, port } = replication.role.clone() else { return };
            replication.upstream_number += 1;
            (host, port, replication.upstream_number)
        };
        let (control, credentials) = (Rc::clone(self), self.credentials());
        glommio::spawn_local(async move {
            let connected = links::connect(&host, port, credentials)
                .await
                .and_then(|socket| links::halves(socket).map_err(|error| error.to_string()));
            let is_current = || control.replication.borrow().upstream_number == number;
            let (reader, writer) = match connected {
                Ok(halves) if is_current() => halves,
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(host, port, error, "the primary cannot be reached");
                    return control.lost_upstream(number);
                }
            };
            tracing::info!(host, port, "connected to the primary");
            let outbox = Rc::new(Outbox::default());
            control.replication.borrow_mut().upstream = Some(Rc::clone(&outbox));
            glommio::spawn_local(links::write_all(writer, Rc::clone(&outbox), |_| ())).detach();
            control.follow(|replica, now_ms, out| replica.connected(now_ms, out));
            let mut decoder = Decoder::default();
            links::read_all(reader, async |bytes| {
                decoder.push(bytes);
                loop {
                    if control.replication.borrow().upstream_number != number {
                        return false;
                    }
                    match decoder.decode::<ToReplica>() {
                        Ok(Some(message)) if is_sound(&message) => {
                            if let ToReplica::Control(message::Control::Refused { reason }) = &message {
                                tracing::warn!(host, port, ?reason, "the primary refuses this replica");
                            }
                            let random = random_id() as u64;
                            control.follow(|replica, now_ms, out| replica.message(now_ms, message, random, out));
                        }
                        Ok(Some(_)) => {
                            tracing::error!(host, port, "a frame of the primary is damaged");
                            return false;
                        }
                        Ok(None) => break,
                        Err(error) => {
                            tracing::warn!(host, port, %error, "the primary says what makes no sense");
                            return false;
                        }
                    }
                }
                control.advance();
                // A copy comes as fast as data cores can take it.
                while control.is_choked() && control.replication.borrow().upstream_number == number {
                    glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
                }
                true
            })
            .await;
            outbox.close(true);
            control.lost_upstream(number);
        })
        .detach();
    }

    /// More has been received than data cores have taken.
    fn is_choked(&self) -> bool {
        let replication = self.replication.borrow();
        let disk =
            |receiving: &Receiving| receiving.writer.as_ref().is_some_and(|writer| writer.queued_bytes() > 32 << 20);
        replication.receiving.as_ref().is_some_and(|receiving| !replication.apply.has_room() || disk(receiving))
    }

    fn lost_upstream(self: &Rc<Self>, number: u64) {
        if self.replication.borrow().upstream_number == number {
            self.break_upstream();
        }
    }

    /// Gives the connection to the primary up; another one follows.
    fn break_upstream(self: &Rc<Self>) {
        self.hang_up();
        let random = random_id() as u64;
        self.follow(|replica, now_ms, _| replica.disconnected(now_ms, random));
    }

    fn hang_up(&self) {
        let mut replication = self.replication.borrow_mut();
        replication.upstream_number += 1;
        if let Some(upstream) = replication.upstream.take() {
            upstream.close(false);
        }
    }

    /// A frame of the primary's log: kept and passed on as it is.
    fn append_received(self: &Rc<Self>, frame: &message::Frame) {
        if let Some(receiving) = &mut self.replication.borrow_mut().receiving {
            receiving.later.push(frame.clone());
            return;
        }
        // It was looked at when it came.
        let Some(frame) = sound_frame(frame) else { return };
        let mut replication = self.replication.borrow_mut();
        let mut log = self.log.borrow_mut();
        let histories = entries_of(&replication.chain.upto(frame.last()));
        if let Some(wal) = log.wal().cloned() {
            if wal.history() != Some(frame.head.history)
                && let Err(error) = wal.start_history(histories.clone(), frame.head.first)
            {
                tracing::error!(%error, "the log cannot begin a history");
            }
            if let Err(error) = wal.append(frame.clone()) {
                tracing::error!(%error, index = frame.head.first, "the log cannot take a frame");
            }
        }
        log.sequencer.follow(histories, frame.last());
        log.backlog.push(frame.clone());
        replication.apply.push(frame);
    }

    /// Keeps records that the primary does not have in a file of their own.
    fn set_aside(&self, from: Index, to: Index) {
        let dir = self.saves.borrow_mut().directory();
        let log = self.log.borrow();
        let history: HistoryId = log.sequencer.history();
        let name = format!("set-aside-{:08x}-{from}-{to}.kl", (history >> 96) as u32);
        let first = log.backlog.first().unwrap_or(Index::MAX);
        let frames = log.backlog.from(from.max(first).min(to));
        let frames: Vec<Frame> = frames.map(|frames| frames.cloned().collect()).unwrap_or_default();
        let written = dir.and_then(|dir| {
            let on_disk = log.wal().is_some().then_some(&*dir);
            aside::write_tail(&dir.join(&name), on_disk, from, &frames).map_err(|error| error.to_string())
        });
        match written {
            Ok(found) => {
                let complete = found.is_some_and(|(first, last)| first <= from && last >= to);
                tracing::warn!(
                    from,
                    to,
                    file = name,
                    complete,
                    "the primary does not have the end of this node's log: it is set aside"
                );
                self.replication.borrow_mut().set_aside = Some(name);
            }
            Err(error) => tracing::error!(from, to, error, "the end of this node's log cannot be set aside"),
        }
    }

    fn begin_receiving(self: &Rc<Self>, run: u64) {
        tracing::info!(run, "a copy of the primary's data begins");
        let writer = self.log.borrow().wal().is_some().then(|| self.saves.borrow_mut().directory());
        let writer = match writer {
            Some(Ok(dir)) => Some(SnapshotWriter::new(Options { dir, keep: 1, replaces: true })),
            Some(Err(error)) => {
                tracing::error!(error, "the copy cannot be kept");
                None
            }
            None => None,
        };
        let written = Rc::new(Cell::new(writer.is_none()));
        if let Some(writer) = &writer {
            glommio::spawn_local(Rc::clone(writer).run()).detach();
            let (control, writer, written) = (Rc::clone(self), Rc::clone(writer), Rc::clone(&written));
            glommio::spawn_local(async move {
                let result = writer.finished().await;
                let is_current = control
                    .replication
                    .borrow()
                    .receiving
                    .as_ref()
                    .is_some_and(|receiving| Rc::ptr_eq(&receiving.written, &written));
                match result {
                    _ if !is_current => return,
                    Ok(_) => written.set(true),
                    Err(error) => {
                        tracing::error!(%error, "the copy cannot be kept");
                        control.break_upstream();
                    }
                }
                control.advance();
            })
            .detach();
        }
        {
            let mut replication = self.replication.borrow_mut();
            if let Some(Receiving { writer: Some(writer), .. }) = replication.receiving.take() {
                writer.abort();
            }
            replication.receiving =
                Some(Receiving { run, bytes: Vec::new(), writer, end: None, later: Vec::new(), written });
            replication.apply.begin_copy();
            replication.relayed.clear();
        }
        {
            // What is copied from here meanwhile is neither the old data nor the new.
            let mut log = self.log.borrow_mut();
            let ends = log.runs.spoil_all();
            log.out.extend(ends);
            log.backlog.clear();
        }
        self.serve(|primary, now_ms, out| primary.suspend(now_ms, out));
        self.change_standing(|standing| standing.loading = true);
    }

    fn receive_piece(self: &Rc<Self>, bytes: &[u8]) {
        let mut replication = self.replication.borrow_mut();
        let Replication { receiving: Some(receiving), apply, .. } = &mut *replication else { return };
        receiving.bytes.extend_from_slice(bytes);
        let gathered = std::mem::take(&mut receiving.bytes);
        let mut rest = &gathered[..];
        let mut error = None;
        loop {
            match frame::take_frame(&mut rest) {
                Ok(Some(frame)) => {
                    if let Err(wrong) = apply.copy(&frame) {
                        error = Some(wrong.to_string());
                        break;
                    }
                    if let Some(writer) = &receiving.writer {
                        // What is wrong, its end tells.
                        let _ = writer.push(frame);
                    }
                }
                Ok(None) => break,
                Err(wrong) => {
                    error = Some(wrong.to_string());
                    break;
                }
            }
        }
        receiving.bytes = rest.to_vec();
        drop(replication);
        if let Some(error) = error {
            tracing::error!(error, "the copy of the primary's data is damaged");
            self.break_upstream();
        }
    }

    /// Ends a copy that is whole, applied and on disk.
    fn finish_receiving(self: &Rc<Self>) {
        let (run, end, chain, later) = {
            let mut replication = self.replication.borrow_mut();
            let drained = replication.apply.is_drained();
            let Some(receiving) = &mut replication.receiving else { return };
            if !drained || !receiving.written.get() {
                return;
            }
            let Some((end, chain)) = receiving.end.take() else { return };
            let (run, later) = (receiving.run, std::mem::take(&mut receiving.later));
            replication.receiving = None;
            replication.apply.start_at(end);
            replication.chain = chain.clone();
            (run, end, chain, later)
        };
        let entries = entries_of(&chain.upto(end));
        {
            let mut log = self.log.borrow_mut();
            log.backlog.clear();
            log.sequencer.follow(entries.clone(), end);
            if let Some(wal) = log.wal()
                && let Err(error) = wal.restart(entries, end + 1)
            {
                tracing::error!(%error, "the log cannot begin anew");
            }
        }
        tracing::info!(run, end, "the copy of the primary's data is complete");
        let durable = self.log.borrow().durable().min(end);
        let extent = Extent { oldest: end + 1, end, commit: end, durable };
        self.serve(|primary, now_ms, out| primary.relay(now_ms, chain, extent, out));
        self.change_standing(|standing| standing.loading = false);
        later.iter().for_each(|frame| self.append_received(frame));
        self.follow(|replica, _, out| replica.copy_durable(run, out));
    }

    /// Moves a log on that is followed.
    pub(super) fn advance_following(self: &Rc<Self>) {
        if self.replication.borrow().leads() {
            return;
        }
        self.finish_receiving();
        let (applied, failed) = {
            let mut replication = self.replication.borrow_mut();
            let Replication { apply, relayed, receiving, .. } = &mut *replication;
            let mut log = self.log.borrow_mut();
            let mut failed = None;
            if receiving.is_none() {
                apply.held = log.runs.wants_pieces() || log.runs.waits_to_begin();
                let passed = apply.advance(|frame| {
                    log.runs.push_log(frame);
                    relayed.push_back(frame.clone());
                });
                failed = passed.err();
                log.may_cover = !apply.held || apply.is_at_rest();
            } else {
                log.may_cover = false;
                apply.flush();
            }
            log.out.append(&mut apply.out);
            (apply.applied(), failed)
        };
        if let Some(error) = failed {
            // What cannot be applied cannot be passed over either.
            tracing::error!(%error, "the primary's log cannot be applied; this node takes a copy");
            self.replication.borrow_mut().apply.start_at(applied);
            self.follow(|replica, _, _| replica.give_up_data());
            self.break_upstream();
            return;
        }
        let receiving = self.replication.borrow().receiving.is_some();
        if !receiving {
            self.follow(|replica, _, out| {
                let _ = out;
                if applied <= replica.has().received && applied > replica.has().applied {
                    replica.applied(applied);
                }
            });
            self.relay(applied);
            let durable = self.log.borrow().durable();
            self.follow(|replica, _, out| {
                let received = replica.has().received;
                replica.durable(durable.min(received), out);
            });
        }
        self.finish_taking_over();
    }

    /// Passes on to this node's replicas what it has applied.
    fn relay(self: &Rc<Self>, applied: Index) {
        loop {
            let frame = {
                let mut replication = self.replication.borrow_mut();
                if replication.relayed.front().is_none_or(|frame| frame.last() > applied) {
                    break;
                }
                replication.relayed.pop_front()
            };
            let Some(frame) = frame else { break };
            let carries = self.replication.borrow().has_peers();
            self.serve(|primary, now_ms, out| primary.appended(now_ms, &carried(&frame, carries), out));
        }
        let commit = self.replication.borrow().replica.commit().min(applied);
        self.serve(|primary, now_ms, _| primary.upstream_commit(now_ms, commit));
    }

    /// FAILOVER.
    pub(super) fn fail_over(
        self: &Rc<Self>,
        target: Option<(String, u16)>,
        timeout_ms: Option<u64>,
        force: bool,
    ) -> Result<(), FailoverError> {
        let bounded = target.is_some() && timeout_ms.is_some();
        self.replication.borrow().primary.can_fail_over(force, bounded)?;
        let node = match &target {
            None => None,
            Some((host, port)) => Some(self.replica_at(host, *port).ok_or(FailoverError::NoTarget)?),
        };
        let mut result = Ok(());
        self.serve(|primary, now_ms, out| result = primary.failover(now_ms, node, timeout_ms, force, out));
        result
    }

    /// FAILOVER ABORT.
    pub(super) fn abort_fail_over(self: &Rc<Self>) -> Result<(), FailoverError> {
        let mut result = Ok(());
        self.serve(|primary, _, out| result = primary.abort_failover(out));
        result
    }

    fn replica_at(&self, host: &str, port: u16) -> Option<u128> {
        let replication = self.replication.borrow();
        let at_host = |node: &u128| {
            let known = replication.hosts.get(node).map(String::as_str);
            known == Some(host) || (host == "localhost" && known == Some("127.0.0.1"))
        };
        let now_ms = self.steady_ms();
        let nodes: Vec<u128> = replication.primary.lags(now_ms).map(|lag| lag.node).filter(at_host).collect();
        nodes.into_iter().find(|&node| replication.primary.port_of(node) == Some(port))
    }
}

impl Control {
    /// What INFO, ROLE and the metrics tell.
    pub(super) fn replication_numbers(&self) -> ReplicationNumbers {
        let now_ms = self.steady_ms();
        let replication = self.replication.borrow();
        let primary = match &replication.role {
            Role::Leading => None,
            Role::SteppingDown { host, port }
            | Role::Following { host, port }
            | Role::TakingOver { host, port, .. } => Some((host.clone(), *port)),
        };
        let replica = &replication.replica;
        let good_lag_ms = self.config().min_replicas_max_lag_s * 1000;
        let histories = replication.chain.histories();
        let parent = histories.len().checked_sub(2).map(|at| (histories[at].id, histories[at + 1].cut));
        let replicas = replication.primary.lags(now_ms).map(|lag| ReplicaNumbers {
            host: replication.hosts.get(&lag.node).cloned().unwrap_or_default(),
            port: replication.primary.port_of(lag.node).unwrap_or(0),
            in_sync: lag.in_sync,
            streaming: lag.streaming,
            copying: lag.copying,
            received: lag.received,
            applied: lag.applied,
            durable: lag.durable,
            entries: lag.entries,
            bytes: lag.bytes,
            ms: lag.ms,
            silent_ms: lag.silent_ms,
            suspicion: lag.phi,
        });
        ReplicationNumbers {
            primary,
            link_up: replica.is_streaming(),
            connecting: replica.is_connecting(),
            primary_silent_ms: replica.silent_ms(now_ms),
            receiving: replication.receiving.is_some(),
            received: replica.has().received,
            applied: replica.has().applied,
            lag: replica.lag(),
            suspicion: replica.phi(now_ms),
            replicas: replicas.collect(),
            syncs: replication.primary.syncs(),
            in_sync: replication.primary.in_sync() as u64,
            commit: replication.primary.commit(),
            good: replication.primary.good_replicas(now_ms, good_lag_ms) as u64,
            failover: replication.primary.failover_state(),
            parent,
            set_aside: replication.set_aside.clone(),
        }
    }
}

/// What a frame of a primary's log contains; None: it is not what it says it is.
fn sound_frame(frame: &message::Frame) -> Option<Frame> {
    let found = frame::take_frame(&mut &frame.bytes[..]).ok().flatten()?;
    let head = &found.head;
    let same = (head.history, head.first, head.count) == (frame.history, frame.first, frame.count);
    (head.kind == Kind::Log && same && found.bytes() == frame.bytes.len()).then_some(found)
}

/// Whether a message can be believed as far as its frames go.
fn is_sound(message: &ToReplica) -> bool {
    match message {
        ToReplica::Frames { frames, .. } => frames.iter().all(|frame| sound_frame(frame).is_some()),
        _ => true,
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
