//! Serving replicas: what the machine of the primary decides, and what it has to hear of.
//!
//! Owned by the control core.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::{Control, REPLICAS_MAX, Role, Served, carried, chain_of, encoded};
use crate::control::links::{self, Outbox};
use crate::control::log::Copied;
use crate::control::random_id;
use crate::control::runs::Take;
use crate::log::frame::{Frame, Index, Kind};
use crate::replication::history::Chain;
use crate::replication::message::{self, Decoder, ToPrimary, ToReplica};
use crate::replication::primary::{Action as Serve, COPY_WINDOW_BYTES, Extent, FailoverError, Peer, Primary};
use crate::route::PartitionSet;

/// Something that the machine of the primary has to hear of, in this order.
pub(in crate::control) enum Event {
    Appended(Frame),
    CopyStarted { run: u64, start: Index },
    CopyPiece { run: u64, bytes: Rc<[u8]> },
    CopyEnded { run: u64, end: Index },
    CopyFailed { run: u64 },
}

pub(in crate::control) type Events = Rc<RefCell<VecDeque<Event>>>;

/// Takes part in a run on behalf of replicas, or of one follower of some partitions.
pub(in crate::control) struct CopyTaker {
    pub run: u64,
    /// The partitions that are wanted; None: all. A follower of some gets units of the log with all others, not here.
    pub only: Option<Arc<PartitionSet>>,
    pub events: Events,
    pub room_bytes: Rc<Cell<u64>>,
    pub gone: Rc<Cell<bool>>,
}

impl Take for CopyTaker {
    fn take(&mut self, frame: &Frame) {
        let mut events = self.events.borrow_mut();
        if frame.head.kind == Kind::Begin {
            events.push_back(Event::CopyStarted { run: self.run, start: frame.head.first - 1 });
        }
        if self.only.is_none() || frame.head.kind != Kind::Log {
            let mut bytes = Vec::with_capacity(frame.bytes());
            frame.write_to(&mut bytes);
            events.push_back(Event::CopyPiece { run: self.run, bytes: Rc::from(bytes) });
        }
        if frame.head.kind == Kind::End {
            events.push_back(Event::CopyEnded { run: self.run, end: frame.head.first - 1 });
            self.gone.set(true);
        }
    }

    fn room_bytes(&self) -> u64 {
        self.room_bytes.get()
    }

    fn is_gone(&self) -> bool {
        self.gone.get()
    }

    fn spoil(&mut self) {
        self.gone.set(true);
        self.events.borrow_mut().push_back(Event::CopyFailed { run: self.run });
    }

    fn only(&self) -> Option<Arc<PartitionSet>> {
        self.only.clone()
    }
}

impl Control {
    /// Lets the machine of the primary decide something, and does what comes of it.
    pub(super) fn serve(self: &Rc<Self>, decide: impl FnOnce(&mut Primary, u64, &mut Vec<Serve>)) {
        let now_ms = self.steady_ms();
        let mut actions = Vec::new();
        decide(&mut self.replication.borrow_mut().primary, now_ms, &mut actions);
        for action in actions {
            self.do_serve(action);
        }
    }

    pub(super) fn do_serve(self: &Rc<Self>, action: Serve) {
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
                replication.room_bytes.set(COPY_WINDOW_BYTES);
                let (events, room_bytes) = (Rc::clone(&replication.events), Rc::clone(&replication.room_bytes));
                let taker = CopyTaker { run, only: None, events, room_bytes, gone };
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
                let end = log.sequencer.end();
                let copies = Copied { received: end, durable: log.durable().min(end), lanes: None };
                log.tell_progress(&copies);
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

    /// Asks a node whether it leads.
    pub(super) fn inquire(self: &Rc<Self>, node: u128, port: u16) {
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

    /// A replica has come.
    pub(in crate::control) fn welcome(self: &Rc<Self>, socket: OwnedFd, addr: String) {
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

    pub(super) fn heard_of_replica(self: &Rc<Self>, peer: Peer, message: ToPrimary) {
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
    pub(super) fn be_recorded(self: &Rc<Self>) {
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
    pub(in crate::control) fn lead(self: &Rc<Self>) {
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

    pub(super) fn read_log(self: &Rc<Self>, peer: Peer, from: Index, bytes_max: u64) {
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
    pub(in crate::control) fn replicate(self: &Rc<Self>) -> Copied {
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
            replication.room_bytes.set(replication.primary.copy_room(*run).unwrap_or(0));
        }
        let primary = &replication.primary;
        let copies = Copied { received: primary.commit(), durable: primary.commit_durable(), lanes: None };
        let leads = replication.leads();
        drop(replication);
        let mut replication = self.replication.borrow_mut();
        // What others lead, is not for this node to vouch for.
        if leads {
            replication.copies = copies;
        }
        replication.copies.clone()
    }

    /// FAILOVER.
    pub(in crate::control) fn fail_over(
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
    pub(in crate::control) fn abort_fail_over(self: &Rc<Self>) -> Result<(), FailoverError> {
        let mut result = Ok(());
        self.serve(|primary, _, out| result = primary.abort_failover(out));
        result
    }

    pub(super) fn replica_at(&self, host: &str, port: u16) -> Option<u128> {
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
