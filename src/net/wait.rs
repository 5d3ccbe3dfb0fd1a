//! Waiting: clients whose blocking command has found nothing, and the offers that end it.
//!
//! [`crate::blocking`] explains how it goes on. Here are the client's side ([`Blocked`], one for each connection that
//! waits), the owner's side (which asks [`Waiters`] for the next offer after every command, so that whoever waits comes
//! before whoever asks later), and the timeouts, an ordered set of moments that the pump looks at in every turn.
//!
//! How much can wait is bounded by `maxclients`: each connection waits once, for the keys of one command.
//!
//! Owned by one core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::connection::Hold;
use super::forward::Message;
use super::limits;
use super::pump::Pump;
use crate::blocking::{Offer, Waiter, Waiters};
use crate::command::Owned;
use crate::command::blocking::{Wait, write_timeout};
use crate::command::cluster;
use crate::command::table::Row;
use crate::command::transaction::Queued;
use crate::engine::Engine;
use crate::resp::{Error, Reply};
use crate::route::CoreId;
use crate::shard::{Kind, SteadyMs};

/// Why a client stops waiting without an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The reply is that there was nothing.
    Timeout,
    /// CLIENT UNBLOCK ... ERROR.
    Error,
    /// The node has become a replica.
    Demoted,
    /// Another node of the cluster leads the keys now.
    Away,
}

/// A connection that waits. Invariant: it is a waiter at each of `cores`.
pub struct Blocked {
    row: &'static Row,
    command: Queued,
    waiter: Waiter,
    cores: Vec<CoreId>,
    deadline_ms: Option<SteadyMs>,
    /// Offers without an answer. If `trying`, an attempt for the first of them is under way.
    offers: VecDeque<(CoreId, Offer)>,
    trying: bool,
    /// What is to happen when the attempt under way finds nothing.
    ending: Option<Ending>,
}

impl Blocked {
    /// Why the command must not wait here, as the cluster is now.
    pub(super) fn refusal(&self, engine: &Engine) -> Option<Error> {
        cluster::refusal(&engine.config, engine.view.as_deref()?, self.row, &self.command.args())
    }

    /// Whether it has to wait for a role that moves.
    pub(super) fn is_held(&self, engine: &Engine) -> bool {
        engine.holds(self.row, &self.command.args(), None)
    }
}

/// Both sides of waiting on one core.
#[derive(Default)]
pub(super) struct Waits {
    /// Who waits for keys of this core.
    waiters: Waiters,
    /// When connections of this core stop waiting: the moment, the connection, its generation.
    deadlines: BTreeSet<(SteadyMs, u32, u32)>,
    /// How many waits there were.
    count: u32,
    /// [`Pump::make_offers`] is at work.
    offering: bool,
}

impl Waits {
    /// Nobody waits for keys of this core.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// When the next client stops waiting.
    #[inline]
    pub(super) fn next_deadline_ms(&self) -> Option<SteadyMs> {
        self.deadlines.first().map(|(at, ..)| *at)
    }
}

impl Pump {
    /// A blocking command has found nothing: its client waits, or goes on to wait.
    pub(super) fn found_nothing(&mut self, index: u32, row: &'static Row, command: Queued) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.dead {
            return;
        }
        let Some(blocked) = &mut connection.blocked else { return self.block(index, row, command) };
        blocked.trying = false;
        let (waiter, ending, offer) = (blocked.waiter, blocked.ending, blocked.offers.pop_front());
        if let Some((core, Offer { db, key, .. })) = offer {
            if core == self.me {
                self.declined(waiter, db, &key);
            } else {
                self.send(core, Message::Decline { waiter, db, key });
            }
        }
        match ending {
            Some(ending) => self.end_wait(index, ending),
            None => self.try_next_offer(index),
        }
    }

    fn block(&mut self, index: u32, row: &'static Row, command: Queued) {
        let wait = Wait::of(row, &command.args());
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        // A client that has shut down its side is one that has gone, as for Redis.
        if connection.eof {
            return self.kill(index);
        }
        let (db, generation) = (connection.session.db as u8, connection.generation);
        self.waits.count = self.waits.count.wrapping_add(1);
        let waiter = Waiter { home: self.me, connection: index, generation, wait: self.waits.count };
        let mut keys: BTreeMap<CoreId, Vec<Vec<u8>>> = BTreeMap::new();
        for key in wait.keys {
            let owner = self.engine.router.owner(self.engine.hasher.key(&key).partition);
            keys.entry(owner).or_default().push(key);
        }
        let now_ms = self.engine.shard.steady_ms();
        let deadline_ms = wait.timeout_ms.map(|ms| now_ms.saturating_add_unsigned(ms));
        connection.hold.set(Hold::BLOCKED);
        connection.session.blocked = true;
        connection.blocked = Some(Box::new(Blocked {
            row,
            command,
            waiter,
            cores: keys.keys().copied().collect(),
            deadline_ms,
            offers: VecDeque::new(),
            trying: false,
            ending: None,
        }));
        self.waits.deadlines.extend(deadline_ms.map(|at| (at, index, generation)));
        for (core, keys) in keys {
            if core == self.me {
                self.join(waiter, wait.kind, db, &keys);
            } else {
                self.send(core, Message::Join { waiter, kind: wait.kind, db, keys });
            }
        }
        self.make_offers();
    }

    /// The connection waits no longer, for whatever reason.
    pub(super) fn stop_waiting(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let Some(blocked) = connection.blocked.take() else { return };
        connection.session.blocked = false;
        let generation = connection.generation;
        if let Some(at) = blocked.deadline_ms {
            self.waits.deadlines.remove(&(at, index, generation));
        }
        for core in blocked.cores {
            if core == self.me {
                self.left(blocked.waiter);
            } else {
                self.send(core, Message::Leave(blocked.waiter));
            }
        }
        self.release(index, Hold::BLOCKED);
    }

    /// Ends a wait without an element.
    pub(super) fn end_wait(&mut self, index: u32, ending: Ending) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let Some(blocked) = &mut connection.blocked else { return };
        if blocked.trying {
            blocked.ending = Some(ending);
            return;
        }
        self.void.clear(limits::POOL_BUFFER_BYTES);
        let mut reply = Reply::new(&mut self.void, connection.session.version);
        let error = match ending {
            Ending::Timeout => None,
            Ending::Error => Some(Error::Unblocked),
            Ending::Demoted => Some(Error::UnblockedByRole),
            Ending::Away => Some(blocked.refusal(&self.engine).unwrap_or(Error::SlotNotServed)),
        };
        match error {
            None => write_timeout(&mut reply),
            Some(error) => {
                self.engine.note_failed(blocked.row, &error);
                reply.error(&error);
            }
        }
        self.deliver_void(index);
        self.stop_waiting(index);
        self.settle(index);
        self.make_offers();
    }

    /// CLIENT UNBLOCK: whether the client with this id was waiting.
    pub(super) fn unblock(&mut self, id: u64, error: bool) -> bool {
        let waits = |connection: &super::connection::Connection| {
            connection.session.id == id && connection.blocked.as_ref().is_some_and(|blocked| blocked.ending.is_none())
        };
        let found = self.connections.iter().position(|connection| connection.as_deref().is_some_and(waits));
        if let Some(index) = found {
            self.end_wait(index as u32, if error { Ending::Error } else { Ending::Timeout });
        }
        found.is_some()
    }

    /// The node has become a replica: nobody waits any more for what only a write could take.
    pub(super) fn end_waits_of_demoted(&mut self) {
        for index in 0..self.connections.len() {
            if self.connections[index].as_deref().is_some_and(|connection| connection.blocked.is_some()) {
                self.end_wait(index as u32, Ending::Demoted);
            }
        }
    }

    /// Ends the waits whose time is over.
    pub(super) fn end_overdue_waits(&mut self) {
        let now_ms = self.engine.shard.steady_ms();
        while let Some(&(at, index, generation)) = self.waits.deadlines.first()
            && at <= now_ms
        {
            self.waits.deadlines.pop_first();
            let connection = self.connections[index as usize].as_deref();
            if connection.is_some_and(|connection| connection.generation == generation) {
                self.end_wait(index, Ending::Timeout);
            }
        }
    }

    /// A client of some core waits for keys of this one.
    pub(super) fn join(&mut self, waiter: Waiter, kind: Kind, db: u8, keys: &[Vec<u8>]) {
        keys.iter().for_each(|key| self.engine.shard.await_key(db, key));
        self.waits.waiters.join(waiter, kind, db, keys);
    }

    /// A client waits for keys of this core no longer.
    pub(super) fn left(&mut self, waiter: Waiter) {
        for (db, key) in self.waits.waiters.leave(waiter) {
            self.engine.shard.forget_awaited(db, &key);
        }
    }

    /// A client has found nothing and goes on to wait.
    pub(super) fn declined(&mut self, waiter: Waiter, db: u8, key: &[u8]) {
        self.waits.waiters.decline(waiter, db, key);
    }

    /// Offers what has come to those who wait for it.
    #[inline]
    pub(super) fn make_offers(&mut self) {
        if !self.waits.is_empty() && (self.engine.shard.has_maybe_ready() || self.waits.waiters.has_ready()) {
            self.make_offers_now();
        }
    }

    #[inline(never)]
    fn make_offers_now(&mut self) {
        // An attempt at an offer may bring about others.
        if std::mem::replace(&mut self.waits.offering, true) {
            return;
        }
        loop {
            for (db, key) in self.engine.shard.take_maybe_ready() {
                self.waits.waiters.signal(db, &key);
            }
            let (shard, hasher) = (&mut self.engine.shard, &self.engine.hasher);
            let offer = self.waits.waiters.offer(|db, key| shard.kind_of(db as usize, &hasher.key(key)));
            match offer {
                Some(offer) if offer.waiter.home == self.me => self.offered(self.me, offer),
                Some(offer) => self.send(offer.waiter.home, Message::Offer(Box::new(offer))),
                None if self.engine.shard.has_maybe_ready() => {}
                None => break,
            }
        }
        self.waits.offering = false;
    }

    /// An owner offers something to a client of this core.
    pub(super) fn offered(&mut self, from: CoreId, offer: Offer) {
        let index = offer.waiter.connection;
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        // Otherwise it has left, which the owner knows by now, or will.
        if let Some(blocked) = connection.blocked.as_mut().filter(|blocked| blocked.waiter == offer.waiter) {
            blocked.offers.push_back((from, offer));
            if !blocked.trying {
                self.try_next_offer(index);
            }
        }
    }

    /// Tries offers that were left while a role moved.
    pub(super) fn try_offers_again(&mut self) {
        for index in 0..self.connections.len() as u32 {
            let connection = self.connections[index as usize].as_deref();
            let left = |blocked: &Blocked| !blocked.trying && !blocked.offers.is_empty();
            if connection.and_then(|connection| connection.blocked.as_deref()).is_some_and(left) {
                self.try_next_offer(index);
            }
        }
    }

    fn try_next_offer(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let Some(blocked) = &mut connection.blocked else { return };
        let Some((_, offer)) = blocked.offers.front() else { return };
        if blocked.is_held(&self.engine) {
            // It is tried when that is over: see [`Pump::try_offers_again`].
            return;
        }
        let args = Wait::narrowed(blocked.row, &blocked.command.args(), &offer.key);
        let (row, command) = (blocked.row, Queued::new(blocked.row, &args, &Owned::default()));
        blocked.trying = true;
        self.begin_transaction(index, row, vec![command], false);
    }
}
