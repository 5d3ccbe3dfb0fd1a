//! Replies that wait until what they tell of is safe.
//!
//! With a [`Durability`] beyond `memory` a reply may leave only when the log has come so far. It costs nothing to others:
//! at the end of a turn the output of such a connection is set aside as a whole, behind what was set aside before, and goes
//! out when the control core says that its number is reached. Requests go on to be executed meanwhile, and what waits
//! counts as the connection's output, so that a client which sends more and more is not read any more.
//!
//! What another core has executed for a connection waits there: it knows its own sequence numbers only. So a batch comes
//! back when all that it tells of is safe.
//!
//! Owned by one core.

#![allow(clippy::vec_box, reason = "boxed batches travel between cores; the box itself is what is used again")]

use std::collections::VecDeque;

use super::forward::Batch;
use super::pump::Pump;
use crate::command::table::Row;
use crate::engine::Engine;
use crate::log::durability::{About, Durability, Progress};
use crate::log::feed::Seq;
use crate::resp::Output;
use crate::route::{CoreId, PartitionSet};

/// Output of one turn of a connection.
pub struct Held {
    /// It may leave when this is reached.
    pub needs: Seq,
    /// Memory: it may leave.
    pub durability: Durability,
    /// What it tells of.
    pub about: About,
    pub out: Output,
}

/// What waits on this core.
#[derive(Default)]
pub(super) struct Holding {
    /// Connections with output that waits.
    connections: Vec<u32>,
    /// Batches, in the order of their execution.
    batches: VecDeque<(CoreId, Box<Batch>)>,
    /// In a cluster: so many of the last ones were executed since it was looked at whether the node may serve.
    pub(super) unchecked: usize,
}

/// The partition that the reply to a command tells of; None if its keys are in several, or nobody knows. `first`: that of its
/// first key.
pub(super) fn told_of(engine: &Engine, row: &Row, args: &[&[u8]], first: Option<u16>) -> Option<u16> {
    let keys = &row.command.keys;
    if keys.is_one() {
        return first;
    }
    let is_there = |at| Some(engine.hasher.key(args[at]).partition) == first;
    first.filter(|_| !keys.reads_more(args) && keys.positions(args).all(is_there))
}

/// As [`Pump::note_needs`], for a request of a batch.
pub(super) fn note_batch_needs(engine: &mut Engine, batch: &mut Batch, partition: Option<u16>, before: Seq) {
    let needs = engine.needs(batch.durability, partition, before);
    if needs > 0 {
        batch.needs = batch.needs.max(needs);
        batch.about = batch.about.and(partition, engine.progress.lane_map());
    }
}

impl Pump {
    /// Notes that the next reply of a connection tells of what was just executed, which is about keys of `partition`.
    /// `before`: where the feed stood before the command ran.
    pub(super) fn note_needs(&mut self, index: u32, partition: Option<u16>, before: Seq) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let durability = connection.session.durability.unwrap_or(self.engine.default_durability);
        let needs = self.engine.needs(durability, partition, before);
        connection.wait_for(needs, durability, partition, self.engine.progress.lane_map());
    }

    /// Sets the output of a connection aside if it has to wait; false if it may leave.
    pub(super) fn hold_replies(&mut self, index: u32) -> bool {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return false };
        let (needs, durability, about) = (connection.needs, connection.needs_for, connection.needs_about);
        let waits = !self.engine.progress.covers(durability, needs, about);
        if connection.out.is_empty() && waits {
            // The reply stands behind others that are owed; it waits when it comes.
            return true;
        }
        (connection.needs, connection.needs_for, connection.needs_about) = (0, Durability::Memory, About::Nothing);
        if !waits && connection.held.is_empty() {
            return false;
        }
        if connection.out.is_empty() {
            return true;
        }
        let out = std::mem::replace(&mut connection.out, self.pool.pop().unwrap_or_default());
        let listed = connection.held.iter().any(|held| held.durability != Durability::Memory);
        connection.held.push_back(match waits {
            true => Held { needs, durability, about, out },
            false => Held { needs: 0, durability: Durability::Memory, about: About::Nothing, out },
        });
        if waits && !listed {
            self.holding.connections.push(index);
        }
        true
    }

    /// Sends an executed batch back, when it may.
    pub(super) fn return_batch(&mut self, core: CoreId, batch: Box<Batch>) {
        let waits = batch.waits(&self.engine.progress);
        // Batches of one connection come back in order.
        let behind = |(to, held): &(CoreId, Box<Batch>)| *to == core && held.connection == batch.connection;
        if waits || self.holding.batches.iter().any(behind) {
            self.holding.batches.push_back((core, batch));
            self.holding.unchecked += self.engine.in_cluster as usize;
        } else {
            self.give_back_batch(core, batch);
        }
    }

    /// To where it came from, which may be here.
    fn give_back_batch(&mut self, core: CoreId, mut batch: Box<Batch>) {
        // Whoever applies is to know when the log has it.
        if !batch.applies {
            batch.needs = 0;
        }
        if core == self.me {
            self.replied(core, batch);
        } else {
            self.send_replies_of(core, batch);
        }
    }

    /// Nobody may hear of what was executed since the last look, unless `valid`.
    pub(super) fn check_held_batches(&mut self, valid: bool) {
        let unchecked = std::mem::take(&mut self.holding.unchecked);
        if !valid {
            self.holding.batches.iter_mut().rev().take(unchecked).for_each(|(_, batch)| batch.lost = true);
        }
    }

    /// As [`Pump::give_up_held`], for batches that tell of keys of these partitions.
    pub(super) fn give_up_lost_batches(&mut self, lost: &PartitionSet) {
        for (core, mut batch) in std::mem::take(&mut self.holding.batches) {
            if batch.durability.is_quorum() && batch.waits(&self.engine.progress) && batch.concerns(lost) {
                batch.lost = true;
                self.give_back_batch(core, batch);
            } else {
                self.holding.batches.push_back((core, batch));
            }
        }
    }

    /// The log has come further.
    pub(super) fn progressed(&mut self, progress: Progress) {
        self.engine.progressed(progress);
        self.check_feed();
        let mut waiting = std::mem::take(&mut self.holding.batches);
        let mut still: VecDeque<(CoreId, Box<Batch>)> = VecDeque::new();
        for (core, batch) in waiting.drain(..) {
            let behind = still.iter().any(|(to, held)| *to == core && held.connection == batch.connection);
            match behind || batch.waits(&self.engine.progress) {
                true => still.push_back((core, batch)),
                false => self.give_back_batch(core, batch),
            }
        }
        still.append(&mut self.holding.batches);
        self.holding.batches = still;
        let connections = std::mem::take(&mut self.holding.connections);
        for index in connections {
            if self.release_held(index) {
                self.holding.connections.push(index);
            }
        }
    }

    /// This node follows another one from now on, and nobody knows whether what was executed here before will last:
    /// connections whose replies wait for that are closed.
    pub(super) fn give_up_held(&mut self) {
        for index in std::mem::take(&mut self.holding.connections) {
            let waits = |held: &Held| held.durability != Durability::Memory;
            let connection = self.connections[index as usize].as_deref();
            if connection.is_some_and(|connection| connection.held.iter().any(waits)) {
                self.kill(index);
            }
        }
        for (core, mut batch) in std::mem::take(&mut self.holding.batches) {
            batch.lost = true;
            self.give_back_batch(core, batch);
        }
    }

    /// Lets output leave that may; true if some has to wait on.
    fn release_held(&mut self, index: u32) -> bool {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return false };
        let progress = &self.engine.progress;
        let mut released = false;
        // What has been released stays in its place until the kernel takes it.
        for held in &mut connection.held {
            if !progress.covers(held.durability, held.needs, held.about) {
                break;
            }
            released |= held.needs > 0 || held.durability != Durability::Memory;
            (held.needs, held.durability) = (0, Durability::Memory);
        }
        let waits = connection.held.iter().any(|held| held.durability != Durability::Memory);
        if released {
            self.mark_dirty(index);
        }
        waits
    }
}
