//! The engine's part in logging: what this core has changed, on its way to the control core.
//!
//! Owned by one core.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Call, Engine, Origin};
use crate::borrow::Returned;
use crate::command::table::Row;
use crate::command::{Args, Flags, Handler, Owned, Session, statement};
use crate::log::durability::{Durability, Progress, Standing};
use crate::log::feed::{After, Chunk, Content, Holds, Seq};
use crate::resp::{Error, Output, Reply, Version};
use crate::shard::statement::{Encoded, exchanges, next_encoded, next_statement};
use crate::shard::{Expiring, FOLLOWED};

impl Engine {
    /// Switches the recording of effects.
    pub fn switch_feed(&mut self, on: bool) {
        self.feed.switch(on, &mut self.shard.effects);
    }

    /// Where the feed of this core stands, for somebody who depends on it; 0 if it is off.
    #[inline]
    pub fn hurry_feed(&mut self) -> Seq {
        if !self.feed.is_on() {
            return 0;
        }
        self.feed.hurry();
        self.feed.seq(&self.shard.effects)
    }

    /// Keys come back from a transaction of another core: what is said of them here comes after that.
    pub fn come_after(&mut self, after: After, entries: &[Returned]) {
        if !self.feed.is_on() {
            return;
        }
        let Engine { feed, shard, hasher, router, .. } = self;
        feed.come_after(after, &mut shard.effects);
        let changed = entries.iter().filter(|entry| entry.changed).map(|entry| hasher.key(&entry.place.1).partition);
        match entries.is_empty() {
            // What ran here, it ran with its keys held.
            true => feed.mark(router.range_of(router.me()), &mut shard.effects),
            false => feed.mark(changed, &mut shard.effects),
        };
    }

    /// Records what a transaction has changed that this core coordinated. Returns what has to be reached before its replies
    /// may leave; 0: nothing.
    pub fn log_transaction(&mut self, after: &[After], statements: &[u8], durability: Durability) -> Seq {
        if !self.feed.is_on() || (statements.is_empty() && !durability.is_quorum()) {
            return 0;
        }
        let me = self.router.me();
        for after in after.iter().filter(|after| after.core != me) {
            self.feed.come_after(*after, &mut self.shard.effects);
        }
        if have_exchanged(statements) {
            // A core may be through with a run whose beginning another one has not heard of yet: neither can tell.
            self.feed.cover(Content::Exchanges, Vec::new(), &mut self.shard.effects);
        }
        self.shard.effects.push_unit(statements);
        if durability == Durability::Memory {
            return 0;
        }
        self.expect_waits(durability);
        self.feed.hurry();
        match statements.is_empty() {
            true => self.feed.mark(std::iter::empty(), &mut self.shard.effects),
            false => self.seq(),
        }
    }

    /// A transaction on this core's own keys goes on that was suspended, and has changed what these statements say. A key
    /// that is not there any more has made way for others meanwhile, which the log has been told already: it is told again
    /// where it belongs, behind what the transaction has done before.
    pub fn resume_transaction(&mut self, statements: &mut Vec<u8>) {
        self.begin_transaction();
        let (mut rest, mut seen) = (&statements[..], HashSet::new());
        while let Ok(Some(statement)) = next_statement(&mut rest) {
            let Some(key) = statement.args.get(1).filter(|_| statement.slot.is_some()) else { continue };
            let (db, key) = (statement.db as usize, self.hasher.key(key));
            if seen.insert((db, key.bytes)) && self.shard.peek(db, &key).is_none() {
                self.shard.effects.push(db, &[b"DEL", key.bytes]);
            }
        }
        let further = self.leave_transaction();
        statements.extend_from_slice(&further);
    }

    /// The sequence number of the last unit of this core.
    #[inline]
    pub fn seq(&self) -> Seq {
        self.feed.seq(&self.shard.effects)
    }

    /// What has to be reached before the reply to a command may leave that has just run; 0: nothing. It was about keys of
    /// `partition`, or nobody knows; `before`: the last sequence number before it ran.
    pub fn needs(&mut self, durability: Durability, partition: Option<u16>, before: Seq) -> Seq {
        if durability == Durability::Memory || !self.feed.is_on() {
            return 0;
        }
        self.expect_waits(durability);
        let now = self.seq();
        let needs = match (durability.is_quorum(), partition) {
            _ if now > before => now,
            (false, _) => 0,
            (true, None) => now,
            (true, Some(partition)) => self.feed.seq_of(partition, self.router.partitions(), &self.shard.effects),
        };
        if needs > self.progress.reached(durability) {
            match durability {
                Durability::Quorum => self.feed.hurry(),
                _ => self.feed.hurry_to_disk(),
            }
        }
        needs
    }

    /// Runs a statement of a log. It is not refused, nothing is over before the log says so, and it is no effect of this
    /// core's own.
    ///
    /// In a cluster it is a statement of the node that leads the partition: it runs on the copy, and the log of this node gets
    /// it as it is. Nobody is told of it: it has been told where it was executed.
    pub fn apply(&mut self, call: Call, reply: &mut Reply) {
        if self.view.is_none() {
            return self.apply_silently(call, reply);
        }
        debug_assert!(call.first.is_none_or(|key| !self.is_led(key.partition)), "what is led is not applied");
        let (args, has_key) = (call.args, call.first.is_some());
        let tells = self.shard.events.enabled();
        self.shard.events.enable(false);
        self.apply_silently(Call { db: FOLLOWED, ..call }, reply);
        self.shard.events.enable(tells);
        match has_key {
            true => self.shard.effects.push(FOLLOWED, args),
            false => self.shard.effects.push_everywhere(FOLLOWED, args),
        }
    }

    fn apply_silently(&mut self, call: Call, reply: &mut Reply) {
        let expiring = self.shard.set_expiring(Expiring::Never);
        let records = self.shard.effects.enabled();
        self.shard.effects.enable(false);
        self.applying = true;
        let (row, mark) = (call.row, reply.output().mark());
        self.call(call, reply);
        if reply.output().buf().get(mark as usize) == Some(&b'-') {
            self.report_unfit(row, &reply.output().buf()[mark as usize..]);
        }
        self.applying = false;
        self.shard.effects.enable(records);
        self.shard.set_expiring(expiring);
    }

    /// Runs a statement of a log that is read at start; None: it is none, or not one of this core's keys.
    pub fn replay(&mut self, db: u8, args: Args, void: &mut Output) -> Option<()> {
        let (row, key) = statement::resolve(args)?;
        let first = key.map(|key| self.hasher.key(key));
        let owns = first.is_none_or(|key| self.shard.partitions().contains(&key.partition));
        // In a cluster roles are known later.
        let db = if self.shard.has_roles() { FOLLOWED } else { db as usize };
        if db >= self.shard.all_databases() || !owns {
            return None;
        }
        let owned = Owned::default();
        let call =
            Call { row, args, first, db, no_touch: true, owned: &owned, origin: Origin::Forwarded(0), counted: false };
        void.clear(0);
        let changes = self.changes;
        self.apply_silently(call, &mut Reply::new(void, Version::V2));
        // Nothing has changed since the files were written.
        self.changes = changes;
        Some(())
    }

    /// Moves what was recovered, and is led by what the node knows of its cluster, to where it is led. To be called when
    /// everything was replayed.
    pub fn lead_recovered(&mut self) {
        if self.shard.has_roles() {
            self.led.fill(false);
            self.settle_roles();
        }
    }

    #[cold]
    fn report_unfit(&self, row: &Row, error: &[u8]) {
        tracing::error!(
            command = row.full_name,
            error = String::from_utf8_lossy(error).trim_end(),
            "a statement of the log does not fit what is here"
        );
    }

    /// The log has come further.
    pub fn progressed(&mut self, progress: Progress) {
        self.feed.taken(progress.taken_bytes);
        self.feed.synced(progress.durable);
        self.progress = progress;
    }

    /// What the node may do has changed.
    pub fn stand(&mut self, standing: Arc<Standing>) {
        // While it is handed over, nothing is written.
        let expiring = if standing.replica || standing.handing_over { Expiring::Elsewhere } else { Expiring::Here };
        self.shard.set_expiring(expiring);
        self.scratch.set_expiring(expiring);
        self.feed.set_linger(standing.replicated);
        self.standing = standing;
        self.restrict();
    }

    /// Whether a write of some client may have to be refused.
    pub(super) fn restrict(&mut self) {
        self.restricted = self.standing.is_restricted()
            || (self.waits.disk && !self.config.appendonly)
            || self.lapsed
            || self.roles_move
            || self.few_in_sync;
    }

    /// Says in the feed that everything before was executed under older views of the cluster than this one.
    pub fn tell_seen(&mut self, view: u64) {
        self.feed.cover(Content::Seen { view }, Vec::new(), &mut self.shard.effects);
    }

    /// What the log has to have before what was applied last counts as written. Nobody waits for it unless it is written.
    pub fn applied_seq(&mut self) -> Seq {
        if self.config.appendonly { self.hurry_feed() } else { self.seq() }
    }

    /// Says in the feed that everything before is through.
    pub fn tell_barrier(&mut self, stop: u64) {
        self.feed.cover(Content::Barrier { stop }, Vec::new(), &mut self.shard.effects);
    }

    /// Why a request of another core must not be executed here, although that core has admitted it.
    #[inline]
    pub fn refuses_late(&self, row: &Row) -> Option<Error> {
        let refused = self.restricted && self.standing.replica && row.command.flags.has(Flags::WRITE);
        refused.then_some(Error::ReadOnly)
    }

    /// Whether a request of another core, which did not know yet that a failover is under way or that a role moves, waits here
    /// for the end of that.
    #[inline]
    pub fn holds_late(&self, row: &Row, args: Args, db: u8) -> bool {
        self.restricted && self.may_hold_late() && {
            let standing = &*self.standing;
            standing.handing_over && !standing.replica && row.command.flags.has(Flags::WRITE)
                || self.is_closed(row, args, db)
        }
    }

    /// Whether there is anything for which a request of another core may have to wait here.
    pub fn may_hold_late(&self) -> bool {
        self.standing.handing_over || self.roles_move
    }

    /// Why a command must not be executed for a client of this durability.
    #[cold]
    pub(super) fn refuses(&self, row: &Row, session: &Session, args: Args) -> Option<Error> {
        let durability = session.durability.unwrap_or(self.default_durability);
        let standing = &*self.standing;
        let flags = row.command.flags;
        // What was queued before things changed must not run either.
        let queued = row.command.name == "exec" && session.multi.is_some_and(|multi| multi.writes);
        if standing.replica && (flags.has(Flags::WRITE) || queued) {
            return Some(Error::ReadOnly);
        }
        if standing.loading && !flags.has(Flags::LOADING) && matches!(row.command.handler, Handler::Keyspace(_)) {
            return Some(Error::Loading);
        }
        if let Some(error) = self.refuses_in_cluster(row, session, args, durability.is_quorum()) {
            return Some(error);
        }
        if !flags.has(Flags::WRITE) && !queued {
            return None;
        }
        if let Some(error) = &standing.disk_error {
            return Some(Error::MisconfLog(error.to_string()));
        }
        if standing.snapshot_failed {
            return Some(Error::MisconfSnapshot);
        }
        if !self.config.appendonly && matches!(durability, Durability::Disk | Durability::QuorumDisk) {
            return Some(Error::DurabilityWithoutLog);
        }
        // In a cluster each partition has its own copies.
        let few_in_sync = standing.few_in_sync && !self.in_cluster;
        let few = standing.few_replicas || (few_in_sync && durability.is_quorum());
        few.then_some(Error::NoReplicas)
    }

    /// A connection has chosen a durability, or the default has changed.
    pub fn durability_changed(&mut self, chosen: Durability) {
        self.default_durability = self.config.default_durability();
        self.expect_waits(chosen);
        self.expect_waits(self.default_durability);
        self.restrict();
    }

    /// Replies of this durability have to wait on this core; once is for ever.
    #[inline]
    fn expect_waits(&mut self, durability: Durability) {
        let waits = self.waits.and(Holds::of(durability));
        if waits != self.waits {
            self.waits = waits;
            self.holds = true;
            if self.feed.is_on() {
                // The control core is to know.
                self.feed.mark(std::iter::empty(), &mut self.shard.effects);
                self.feed.hurry();
            }
        }
    }

    /// Puts a piece of a whole copy into the feed, at this place.
    pub fn cover(&mut self, content: Content, bytes: Vec<u8>) {
        self.feed.cover(content, bytes, &mut self.shard.effects);
    }

    /// What is to be sent to the control core now.
    #[inline]
    pub fn next_chunk(&mut self) -> Option<Chunk> {
        let mut chunk = self.feed.next(self.shard.steady_ms(), &mut self.shard.effects)?;
        chunk.holds = self.waits;
        Some(chunk)
    }

    /// Whether something waits to be sent to the control core.
    #[inline]
    pub fn feed_lingers(&self) -> bool {
        self.feed.lingers(&self.shard.effects)
    }
}

/// Whether statements exchange databases.
fn have_exchanged(mut statements: &[u8]) -> bool {
    while let Ok(Some(Encoded { slot, mut bytes })) = next_encoded(&mut statements) {
        if slot.is_none() && matches!(next_statement(&mut bytes), Ok(Some(statement)) if exchanges(&statement.args)) {
            return true;
        }
    }
    false
}
