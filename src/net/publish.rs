//! Messages on their way: from the outbox of this core to its subscribers, and to other cores.
//!
//! Whatever ran here may have left messages (PUBLISH) or events of keys. [`Pump::tell`] takes both: after each command,
//! before its reply, so that a client that is its own subscriber sees the message first, and no message is left behind when
//! the next command changes subscriptions.
//!
//! Order: a connection's publications run on its core in the order in which it sent them, and travel to each other core in
//! the order of the ring. So each subscriber gets them in that order. Publications of different connections are in no order.
//!
//! A subscriber is never waited for: what it does not read is its output, and above the limit of its class
//! (`client-output-buffer-limit pubsub`) it is disconnected, at once if the limit is a hard one.

use std::sync::Arc;

use super::connection::{Connection, Hold};
use super::forward::{Message, Slot};
use super::limits;
use super::pump::Pump;
use crate::command;
use crate::config::OutputLimit;
use crate::engine::Engine;
use crate::pubsub::{Kind, Place, Told};
use crate::resp::{Output, Version};
use crate::route::CoreId;
use crate::shard::{Classes, Event};

impl Pump {
    /// Delivers what the last command has published.
    #[inline]
    pub(super) fn tell(&mut self) {
        if !self.engine.shard.events.is_empty() || !self.engine.pubsub.outbox.is_empty() {
            self.tell_now();
        }
    }

    #[inline(never)]
    fn tell_now(&mut self) {
        if !self.engine.shard.events.is_empty() {
            self.publish_events();
        }
        self.deliver(Turn::Behind);
    }

    /// Turns events of keys into messages, as Redis does: one to the channel of the key, one to that of the event.
    fn publish_events(&mut self) {
        let mask = self.engine.shard.events.mask();
        let events: Vec<Event> = self.engine.shard.events.drain().collect();
        for Event { name, db, key, .. } in events {
            if mask.has(Classes::KEYSPACE) {
                let channel = [format!("__keyspace@{db}__:").as_bytes(), &key].concat();
                self.publish_event(channel, name.as_bytes());
            }
            if mask.has(Classes::KEYEVENT) {
                self.publish_event(format!("__keyevent@{db}__:{name}").into_bytes(), &key);
            }
        }
    }

    fn publish_event(&mut self, channel: Vec<u8>, payload: &[u8]) {
        let pubsub = &mut self.engine.pubsub;
        pubsub.publish(Kind::Channel, &channel, payload, None);
        let cores: Vec<CoreId> = pubsub.interest().cores_of(Kind::Channel, &channel).collect();
        if cores.is_empty() {
            return;
        }
        let told = Arc::new(Told { kind: Kind::Channel, channel, payload: payload.to_vec() });
        for core in cores {
            self.told.resize_with(self.engine.router.cores() as usize, Vec::new);
            self.told[core as usize].push(Arc::clone(&told));
            if self.told[core as usize].len() >= limits::TOLD_MESSAGES {
                self.send_told(core);
            }
        }
    }

    /// Sends other cores what was published for them, before anything else that follows from it.
    pub(super) fn send_all_told(&mut self) {
        for core in 0..self.told.len() {
            if !self.told[core].is_empty() {
                self.send_told(core as CoreId);
            }
        }
    }

    fn send_told(&mut self, core: CoreId) {
        let told = std::mem::take(&mut self.told[core as usize]);
        self.send(core, Message::Published(Box::new(told)));
    }

    /// Another core has published something that nobody there waits for.
    pub(super) fn receive_told(&mut self, messages: &[Arc<Told>]) {
        for Told { kind, channel, payload } in messages.iter().map(Arc::as_ref) {
            self.engine.pubsub.publish(*kind, channel, payload, None);
            // What ran elsewhere for one of our clients is told before its reply, which comes the same way.
            self.deliver(Turn::Ahead);
        }
    }

    /// Tells the other cores that this one has no more subscriptions where they still think so.
    pub(super) fn send_withdrawals(&mut self) {
        let buckets = self.engine.pubsub.withdraw();
        if buckets.is_empty() {
            return;
        }
        let me = self.me;
        for core in (0..self.engine.router.cores()).filter(|&core| core != me) {
            self.send(core, Message::Unlisten(Box::new(buckets.clone())));
        }
    }

    /// Another core has no more subscriptions there.
    pub(super) fn note_withdrawal(&mut self, core: CoreId, buckets: &[crate::pubsub::Bucket]) {
        self.engine.pubsub.note(core, buckets, false);
        self.engine.listeners_changed();
    }

    /// Writes what is in the outbox to its receivers.
    fn deliver(&mut self, turn: Turn) {
        let mut outbox = std::mem::take(&mut self.engine.pubsub.outbox);
        for (place, frame) in outbox.receivers() {
            let Some(connection) = receiver(&mut self.connections, place) else { continue };
            let version = connection.session.version;
            connection.write_out_of_band(&mut self.pool, turn, |out| outbox.write(frame, version, out));
            let hard_bytes = output_limit(&self.engine, connection).hard_bytes;
            if hard_bytes > 0 && connection.output_bytes() as u64 > hard_bytes {
                self.check_large_output(place);
            }
            self.mark_dirty(place);
        }
        outbox.clear();
        self.engine.pubsub.outbox = outbox;
    }

    /// A connection that ends has no subscriptions.
    pub(super) fn end_subscriptions(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut() {
            command::pubsub::leave(&mut self.engine, &mut connection.session);
        }
    }
}

/// Where something that is no reply goes while replies are owed that come earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Behind them: it belongs to the connection's own requests, which run in order.
    Behind,
    /// Ahead of them in RESP3, which can tell it from a reply.
    Ahead,
}

/// The connection that is to get a message, unless it is about to be closed.
fn receiver(connections: &mut [Option<Box<Connection>>], place: Place) -> Option<&mut Connection> {
    let connection = connections.get_mut(place as usize)?.as_deref_mut()?;
    (!connection.dead && !connection.hold.has(Hold::CLOSE) && !connection.close_when_sent).then_some(connection)
}

/// How much output a connection may leave unread. A monitor or a subscriber cannot be slowed down by not reading its
/// requests, so they have a limit of their own.
pub(super) fn output_limit(engine: &Engine, connection: &Connection) -> OutputLimit {
    let (config, session) = (&engine.config, &connection.session);
    match () {
        () if session.monitor => config.client_output_buffer_limit_replica,
        () if session.subscribed.any() => config.client_output_buffer_limit_pubsub,
        () => config.client_output_buffer_limit_normal,
    }
}

impl Connection {
    /// Lets `write` append something that is no reply.
    pub(super) fn write_out_of_band(&mut self, pool: &mut Vec<Output>, turn: Turn, write: impl FnOnce(&mut Output)) {
        let may_pass = turn == Turn::Ahead && self.session.version == Version::V3;
        match &mut self.forwarding {
            // Nothing passes what was written earlier and waits.
            Some(forwarding) if !forwarding.order.is_empty() && (!may_pass || forwarding.holds()) => {
                write(&mut forwarding.held);
                let mark = forwarding.held.mark();
                match forwarding.order.back_mut() {
                    Some(Slot::Local { end }) => *end = mark,
                    _ => forwarding.order.push_back(Slot::Local { end: mark }),
                }
            }
            _ => {
                if self.out.capacity() == 0 {
                    self.out = pool.pop().unwrap_or_default();
                }
                write(&mut self.out);
            }
        }
    }
}
