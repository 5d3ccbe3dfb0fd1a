//! A data core in a cluster of several nodes: newer views, and the lease.
//!
//! # A newer view
//!
//! Requests that have been parsed run first, under the older view. Then routing changes at once: what comes is sent to who
//! leads now, and so is what waits here, when its turn comes. Contents change places ([`Engine::settle_roles`]) as soon as
//! nothing of this core is lent; what arrives meanwhile waits behind that. At last the core says in its feed that everything
//! it has executed under older views is before that place: when the transactions are through that it coordinates and that were
//! begun under an older view. One that begins later asks no core for a key that this one knows to be elsewhere; so no write
//! for a partition comes behind.
//!
//! # A role that moves
//!
//! While the role of a partition moves to another node, requests about it wait ([`Gate`]): first none is begun any more, while
//! the contents are still in their place for what was begun; when all cores have said that they know of that, the contents
//! leave it, and when all have said that, too, nothing can be written any more. Requests that other cores have sent before, and
//! that come late, wait with the batch that brings them. What waits is looked at again with every view.
//!
//! The only core of a node is told in one view, as no other one can have sent it anything: it takes the first of these steps by itself,
//! until what it has begun has come to its end ([`Pump::is_early`]).
//!
//! # The lease
//!
//! Whether the node may serve what it leads is looked at when requests have been executed, and before anything leaves that
//! tells of them: replies ([`Connection::unchecked`](super::connection::Connection)), and batches of other cores, which gather
//! until then. If it may not, nobody hears of what was executed: connections are closed, as another node may lead by now and
//! know nothing of it; and what comes is refused ([`Engine::check_lease`]). The lease is looked at before a newer view is taken,
//! too. So it is enough that the control core, after a lease that has ended, does not begin another one before all cores have
//! said that they have seen a view that is newer than its end.
//!
//! Owned by one core.
//!
//! [`Gate`]: crate::cluster::Gate
//! [`Engine::settle_roles`]: crate::engine::Engine::settle_roles
//! [`Engine::check_lease`]: crate::engine::Engine::check_lease

#![allow(clippy::vec_box, reason = "boxed batches travel between cores; the box itself is what is used again")]

use std::sync::Arc;

use super::connection::Hold;
use super::forward::{Batch, Message};
use super::pump::Pump;
use super::wait::{Blocked, Ending};
use super::window::{Request, Target, Way};
use crate::cluster::View;
use crate::command;
use crate::command::cluster::Slots;
use crate::command::table::Row;
use crate::log::durability::{About, Durability};
use crate::log::feed::Seq;
use crate::resp::{Output, Reply};
use crate::route::{CoreId, PartitionSet, slot_of};

/// What a core in a cluster of several nodes keeps in mind. All of it is empty without.
#[derive(Default)]
pub(super) struct InCluster {
    /// Connections with output that tells of keys, since the lease was looked at last.
    unchecked: Vec<u32>,
    /// Executed batches of other cores, since then.
    returning: Vec<(CoreId, Box<Batch>)>,
    /// Views that are in force, and of which the feed does not say so yet.
    seen: Vec<u64>,
    /// Closes gates that are about to be closed by the view that is in force ([`Pump::is_early`]).
    late: Option<Arc<View>>,
}

impl Pump {
    /// The cluster is as this view says from now on.
    pub(super) fn see(&mut self, view: Arc<View>) {
        self.run_window();
        // One that is newer says it all.
        self.in_cluster.late = None;
        match self.engine.view.as_deref().filter(|known| self.is_early(known, &view)) {
            None => {
                let number = view.number();
                self.take_view(view, Some(number));
            }
            Some(known) => {
                let ajar = Arc::new(view.ajar(known));
                self.in_cluster.late = Some(view);
                self.take_view(ajar, None);
            }
        }
    }

    /// Whether this is the only core of its node, which nobody tells that gates are about to be closed, and this view closes one
    /// while a transaction is under way that was begun before.
    fn is_early(&self, known: &View, view: &View) -> bool {
        let closes = |p| known.leads(p) && view.is_closed(p);
        self.engine.router.cores() == 1
            && self.oldest_transaction() < view.number()
            && (0..view.partitions()).any(closes)
    }

    /// The view under which the oldest transaction was begun; the last one of all: there is none.
    fn oldest_transaction(&self) -> u64 {
        self.transactions.iter().flatten().map(|transaction| transaction.view).min().unwrap_or(u64::MAX)
    }

    /// Closes the gates that were about to be closed, if what was begun before has come to its end.
    pub(super) fn see_late(&mut self) {
        let oldest = self.oldest_transaction();
        if let Some(view) = self.in_cluster.late.take_if(|late| late.number() <= oldest) {
            self.see(view);
        }
    }

    /// `told`: the number under which it is said to have been seen, if it is.
    fn take_view(&mut self, view: Arc<View>, told: Option<u64>) {
        self.check_lease();
        let lost: PartitionSet = match &self.engine.view {
            Some(older) => (0..view.partitions()).filter(|&p| older.is_leader(p) && !view.is_leader(p)).collect(),
            None => PartitionSet::default(),
        };
        let held = self.engine.view.as_ref().is_some_and(|older| older.holds_any());
        // What waits for several copies of a partition, when there are fewer now than there should be, is no better.
        let few = |view: &View, p| view.leads(p) && view.roles(p).few_in_sync;
        let given_up: PartitionSet = match &self.engine.view {
            Some(older) => {
                // What was given away is committed to its end: replies that wait do so for others.
                let given_away = |p| older.is_closed(p) && view.is_closed(p);
                let fewer =
                    |&p: &u16| lost.has(p) && !given_away(p) || few(&view, p) && older.leads(p) && !few(older, p);
                (0..view.partitions()).filter(fewer).collect()
            }
            None => PartitionSet::default(),
        };
        self.engine.see(view);
        if !given_up.is_empty() {
            self.give_up_lost(&given_up);
        }
        if !lost.is_empty() || held {
            self.redirect_blocked();
            self.end_lost_shard_subscriptions();
        }
        self.claim_roles(told);
        self.update_restraint();
        if held {
            self.release_held_up();
            self.try_offers_again();
        }
    }

    /// Whether a request waits for a role that moves. Ask only while the core is `restrained`.
    #[cold]
    pub(super) fn is_held_by_role(&self, index: u32, row: &Row, args: &[&[u8]]) -> bool {
        let multi = self.connections[index as usize].as_deref().and_then(|connection| connection.session.multi);
        let Some(multi) = multi.filter(|_| row.command.name == "exec") else {
            return self.engine.holds(row, args, None);
        };
        let watched = self.connections[index as usize].as_deref().map(|connection| &connection.session.watched);
        let watches = watched.into_iter().flat_map(|watched| watched.iter());
        let mut slots = watches.map(|watched| slot_of(&watched.place.1));
        let view = self.engine.view.as_deref();
        let queued = if multi.keyless { Slots::Several } else { multi.slots };
        self.engine.holds(row, args, Some(queued)) || slots.any(|slot| view.is_some_and(|view| view.holds(slot)))
    }

    /// Nothing is lent: contents change places.
    pub(super) fn settle_roles(&mut self, view: Option<u64>) {
        self.engine.settle_roles();
        self.in_cluster.seen.extend(view);
        self.tell_seen();
    }

    /// Says in the feed which views are in force, when nothing that was begun under older ones is under way.
    pub(super) fn tell_seen(&mut self) {
        if self.in_cluster.seen.is_empty() {
            return;
        }
        let oldest = self.oldest_transaction();
        let engine = &mut self.engine;
        self.in_cluster.seen.retain(|&view| {
            if view <= oldest {
                engine.tell_seen(view);
            }
            view > oldest
        });
    }

    /// Copies of these partitions are not wanted any more: they are dropped when contents have changed places as the views say
    /// that have come before.
    pub(super) fn drop_partitions(&mut self, dropped: Arc<PartitionSet>) {
        self.run_window();
        self.claim_drop(dropped);
    }

    /// This node does not lead these partitions any more. Replies that wait until several nodes have what they tell of must not
    /// leave: that depends on the node which leads now. Their connections are closed, as the writes may be lost or not.
    fn give_up_lost(&mut self, lost: &PartitionSet) {
        for index in 0..self.connections.len() as u32 {
            let Some(connection) = self.connections[index as usize].as_deref() else { continue };
            let progress = &self.engine.progress;
            let waits = |needs: Seq, durability: Durability, about: About| {
                durability.is_quorum() && !progress.covers(durability, needs, about) && about.concerns(lost)
            };
            if waits(connection.needs, connection.needs_for, connection.needs_about)
                || connection.held.iter().any(|held| waits(held.needs, held.durability, held.about))
            {
                self.kill(index);
            }
        }
        self.give_up_lost_batches(lost);
    }

    /// Clients that wait for elements of keys which are elsewhere now are sent there.
    fn redirect_blocked(&mut self) {
        for index in 0..self.connections.len() as u32 {
            let Some(connection) = self.connections[index as usize].as_deref() else { continue };
            let away = |blocked: &Blocked| !blocked.is_held(&self.engine) && blocked.refusal(&self.engine).is_some();
            if connection.blocked.as_deref().is_some_and(away) {
                self.end_wait(index, Ending::Away);
            }
        }
    }

    /// Subscriptions to channels whose slots are elsewhere now end, as they do in Redis.
    fn end_lost_shard_subscriptions(&mut self) {
        for index in 0..self.connections.len() {
            let Some(connection) = self.connections[index].as_deref_mut() else { continue };
            if connection.session.subscribed.shards == 0 || connection.dead || connection.hold.has(Hold::CLOSE) {
                continue;
            }
            let mut said = Output::new();
            let mut reply = Reply::new(&mut said, connection.session.version);
            command::pubsub::leave_lost(&mut self.engine, &mut connection.session, &mut reply);
            if !said.is_empty() {
                self.append_out_of_band(index as u32, &said.to_vec());
            }
        }
    }

    /// Notes whose output tells of keys, as the window has run.
    pub(super) fn note_executed(&mut self, requests: &[Request]) {
        for request in requests {
            if let Target::Connection(index) = request.target
                && matches!(request.way, Way::Local | Way::Split)
            {
                self.note_unchecked(index);
            }
        }
    }

    /// The output of a connection tells of keys.
    #[inline]
    pub(super) fn note_unchecked(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut()
            && self.engine.in_cluster
            && !std::mem::replace(&mut connection.unchecked, true)
        {
            self.in_cluster.unchecked.push(index);
        }
    }

    /// Sends an executed batch back: in a cluster of several nodes when the lease has been looked at.
    pub(super) fn send_replies_of(&mut self, core: CoreId, batch: Box<Batch>) {
        // What is applied is shown to nobody.
        if self.engine.in_cluster && !batch.applies {
            self.in_cluster.returning.push((core, batch));
        } else {
            self.send(core, Message::Replies(batch));
        }
    }

    /// Looks whether the node may serve what it leads, if anything is about to leave that tells of it. If it may not, nobody
    /// hears of that.
    #[inline]
    pub(super) fn check_lease(&mut self) {
        let InCluster { unchecked, returning, .. } = &self.in_cluster;
        if !unchecked.is_empty() || !returning.is_empty() || self.holding.unchecked > 0 {
            self.check_lease_now();
        }
    }

    #[inline(never)]
    fn check_lease_now(&mut self) {
        #[cfg(debug_assertions)]
        let executed_ns = crate::engine::served::boot_ns();
        let now_ms = self.clock.now().steady_ms;
        let valid = self.engine.check_lease(now_ms);
        #[cfg(debug_assertions)]
        self.engine.served_until(executed_ns, valid);
        let mut unchecked = std::mem::take(&mut self.in_cluster.unchecked);
        for index in unchecked.drain(..) {
            if let Some(connection) = self.connections[index as usize].as_deref_mut() {
                connection.unchecked = false;
            }
            if !valid {
                self.kill(index);
            }
        }
        self.in_cluster.unchecked = unchecked;
        self.check_held_batches(valid);
        let mut returning = std::mem::take(&mut self.in_cluster.returning);
        for (core, mut batch) in returning.drain(..) {
            batch.lost |= !valid;
            self.send(core, Message::Replies(batch));
        }
        self.in_cluster.returning = returning;
    }
}
