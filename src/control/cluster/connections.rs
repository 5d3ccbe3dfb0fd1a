//! The connections of a member's streams: followers that have come, and leaders that were connected to.
//!
//! A node has one connection to each leader; each attempt has a number, so that what comes late of an earlier one is known
//! to be that.
//!
//! Owned by the control core.

use std::rc::Rc;
use std::time::Duration;

use glommio::net::TcpStream;

use super::Member;
use super::streams::{Downstream, QUEUED_ACTIONS_MAX, QUEUED_BYTES_MAX, Streams, Upstream};
use crate::cluster::{NODES_MAX, NodeId};
use crate::control::Control;
use crate::control::links::{self, Outbox};
use crate::log::feed::Seq;
use crate::raft::types::Peer as Address;
use crate::replication::wire::Decoder;
use crate::route::CoreId;
use crate::streams::follower::Action;
use crate::streams::leader::Peer;
use crate::streams::message::{ToFollower, ToLeader, version_over};

/// Between two looks whether data cores can take more.
const CHOKED_PAUSE: Duration = Duration::from_millis(1);

/// How long a node that has connected may take to say what it wants.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);

/// Connections of followers. Each node has one, and perhaps an older one that has not ended yet.
const PEERS_MAX: usize = 2 * NODES_MAX;

impl Control {
    pub(super) fn connect_to_leader(self: &Rc<Self>, member: &Rc<Member>, leader: NodeId) {
        let peer = {
            let state = member.reader.state();
            state.node(leader).map(|node| Address { host: node.profile.host.clone(), bus_port: node.profile.bus_port })
        };
        let number = member.new_upstream(leader);
        let (control, member) = (Rc::clone(self), Rc::clone(member));
        glommio::spawn_local(async move {
            let lost = || {
                if member.forget_upstream_of(leader, number) {
                    control.with_follower(|follower, now_ms, out| follower.disconnected(now_ms, leader, out));
                }
            };
            let Some(peer) = peer else { return lost() };
            let connected = member.bus.stream_to(leader, &peer).await.map_err(|error| error.to_string());
            let halves = connected.and_then(|(stream, version, rest)| {
                let (reader, writer) = halves(&stream).map_err(|error| error.to_string())?;
                Ok((reader, writer, version_over(version), rest))
            });
            let (reader, writer, version, rest) = match halves {
                Ok(halves) if member.is_upstream(leader, number) => halves,
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(leader, error, "the leader of partitions cannot be reached");
                    return lost();
                }
            };
            tracing::info!(leader, "connected to a leader of partitions");
            let outbox = Rc::new(Outbox::default());
            member.set_upstream(leader, number, Rc::clone(&outbox), control.wall_ms());
            glommio::spawn_local(links::write_all(writer, Rc::clone(&outbox), |_| ())).detach();
            control.with_follower(|follower, now_ms, out| follower.connected(now_ms, leader, version, out));
            let mut decoder = Decoder::default();
            decoder.push(&rest);
            links::read_all(reader, async |bytes| {
                decoder.push(bytes);
                loop {
                    if !member.is_upstream(leader, number) {
                        return false;
                    }
                    match decoder.decode::<ToFollower>() {
                        Ok(Some(message)) => control.with_follower(|follower, now_ms, out| {
                            follower.message(now_ms, leader, message, out);
                        }),
                        Ok(None) => break,
                        Err(error) => {
                            tracing::warn!(leader, %error, "a leader of partitions says what makes no sense");
                            return false;
                        }
                    }
                }
                control.advance_soon();
                while member.is_choked() && member.is_upstream(leader, number) {
                    glommio::timer::sleep(CHOKED_PAUSE).await;
                }
                true
            })
            .await;
            outbox.close(true);
            lost();
        })
        .detach();
    }

    /// A node has connected to follow this one.
    pub(super) fn welcome_follower(self: &Rc<Self>, node: NodeId, stream: &TcpStream, rest: &[u8]) {
        let Some(member) = self.member() else { return };
        let Ok((reader, writer)) = halves(stream) else { return };
        let outbox = Rc::new(Outbox::default());
        let connected = Downstream { node, outbox: Rc::clone(&outbox), since_ms: self.wall_ms() };
        let Some(peer) = member.new_peer(connected) else { return };
        tracing::info!(node, peer, "a follower has connected");
        let waiting = Rc::clone(&member);
        glommio::spawn_local(async move {
            glommio::timer::sleep(OPEN_PATIENCE).await;
            if !waiting.is_open(peer)
                && let Some(outbox) = waiting.forget_peer(peer)
            {
                tracing::info!(node, peer, "a follower does not say what it wants, and is let go");
                outbox.close(false);
            }
        })
        .detach();
        let control = Rc::clone(self);
        let sent = move |cost| control.with_leader(|leader, now_ms, _| leader.written(now_ms, peer, cost));
        glommio::spawn_local(links::write_all(writer, Rc::clone(&outbox), sent)).detach();
        let control = Rc::clone(self);
        let mut decoder = Decoder::default();
        decoder.push(rest);
        glommio::spawn_local(async move {
            links::read_all(reader, async |bytes| {
                decoder.push(bytes);
                loop {
                    match decoder.decode::<ToLeader>() {
                        Ok(Some(message)) if speaks_for(&message, node) => {
                            control.with_leader(|leader, now_ms, out| leader.message(now_ms, peer, message, out));
                        }
                        Ok(None) => break,
                        Ok(Some(_)) => {
                            tracing::warn!(node, "a follower speaks in the name of another node");
                            return false;
                        }
                        Err(error) => {
                            tracing::warn!(node, %error, "a follower says what makes no sense");
                            return false;
                        }
                    }
                }
                control.advance_soon();
                true
            })
            .await;
            outbox.close(true);
            member.forget_peer(peer);
            control.with_leader(|leader, now_ms, out| leader.disconnected(now_ms, peer, out));
            control.advance();
        })
        .detach();
    }
}

/// Whether a message is of the node that has proved who it is.
fn speaks_for(message: &ToLeader, node: NodeId) -> bool {
    !matches!(message, ToLeader::Open(open) if open.node != node)
}

/// Two views of a connection of the bus: one reads, one writes.
fn halves(stream: &TcpStream) -> std::io::Result<(TcpStream, TcpStream)> {
    links::halves(links::duplicate(stream)?)
}

impl Member {
    pub(super) fn peer(&self, peer: Peer) -> Option<Rc<Outbox>> {
        Some(Rc::clone(&self.streams.borrow().as_ref()?.peers.get(&peer)?.outbox))
    }

    /// A number for a connection; None: there are too many, or this node does not lead yet.
    pub(super) fn new_peer(&self, connected: Downstream) -> Option<Peer> {
        let mut streams = self.streams.borrow_mut();
        let streams = streams.as_mut().filter(|streams| streams.peers.len() < PEERS_MAX)?;
        let peer = streams.next_peer;
        streams.next_peer += 1;
        streams.peers.insert(peer, connected);
        Some(peer)
    }

    /// Whether a follower has said what it wants.
    fn is_open(&self, peer: Peer) -> bool {
        self.streams.borrow().as_ref().is_some_and(|streams| streams.leader.is_open(peer))
    }

    pub(super) fn forget_peer(&self, peer: Peer) -> Option<Rc<Outbox>> {
        self.streams.borrow_mut().as_mut()?.peers.remove(&peer).map(|connected| connected.outbox)
    }

    pub(super) fn upstream(&self, leader: NodeId) -> Option<Rc<Outbox>> {
        self.streams.borrow().as_ref()?.upstreams.get(&leader)?.outbox.clone()
    }

    /// An attempt to connect begins; its number.
    pub(super) fn new_upstream(&self, leader: NodeId) -> u64 {
        let mut streams = self.streams.borrow_mut();
        let Some(streams) = &mut *streams else { return 0 };
        let number = streams.next_upstream;
        streams.next_upstream += 1;
        let old = streams.upstreams.insert(leader, Upstream { number, outbox: None, since_ms: 0 });
        old.and_then(|old| old.outbox).into_iter().for_each(|outbox| outbox.close(true));
        number
    }

    pub(super) fn is_upstream(&self, leader: NodeId, number: u64) -> bool {
        let streams = self.streams.borrow();
        streams.as_ref().and_then(|streams| streams.upstreams.get(&leader)).is_some_and(|known| known.number == number)
    }

    pub(super) fn set_upstream(&self, leader: NodeId, number: u64, outbox: Rc<Outbox>, since_ms: i64) {
        if let Some(streams) = &mut *self.streams.borrow_mut()
            && let Some(known) = streams.upstreams.get_mut(&leader).filter(|known| known.number == number)
        {
            (known.outbox, known.since_ms) = (Some(outbox), since_ms);
        }
    }

    pub(super) fn forget_upstream(&self, leader: NodeId) -> Option<Rc<Outbox>> {
        self.streams.borrow_mut().as_mut()?.upstreams.remove(&leader)?.outbox
    }

    /// Forgets an attempt, if there was none after it.
    pub(super) fn forget_upstream_of(&self, leader: NodeId, number: u64) -> bool {
        let current = self.is_upstream(leader, number);
        if current {
            self.forget_upstream(leader);
        }
        current
    }

    /// Closes all connections.
    pub(super) fn close_streams(&self) {
        let Some(streams) = self.streams.borrow_mut().take() else { return };
        let upstreams = streams.upstreams.into_values().filter_map(|upstream| upstream.outbox);
        let peers = streams.peers.into_values().map(|connected| connected.outbox);
        peers.chain(upstreams).for_each(|outbox| outbox.close(true));
    }

    /// Something for the data cores.
    pub(super) fn execute(&self, action: Action) {
        if let Some(streams) = &mut *self.streams.borrow_mut() {
            streams.executor.push(action);
        }
    }

    /// Data cores have answered batches, by when their feeds had said so much.
    pub(in crate::control) fn executed(&self, replies: &[(CoreId, Seq)]) {
        if let Some(streams) = &mut *self.streams.borrow_mut() {
            replies.iter().for_each(|&(core, seq)| streams.executor.replied(core, seq));
        }
    }

    /// Data cores have more to do than they should.
    pub(super) fn is_choked(&self) -> bool {
        self.streams.borrow().as_ref().is_some_and(|Streams { executor, .. }| {
            executor.len() > QUEUED_ACTIONS_MAX || executor.queued_bytes() > QUEUED_BYTES_MAX
        })
    }
}
