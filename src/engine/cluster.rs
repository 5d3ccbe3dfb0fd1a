//! The engine in a cluster of several nodes: what this node leads, what it follows, and whether it may serve at this moment.
//!
//! The shard has two databases then, of which clients see one: [`LED`] holds the partitions that this node leads, [`FOLLOWED`]
//! copies of others. A newer [`View`] takes effect in two steps: requests are routed by it at once ([`Engine::see`]); contents
//! change places ([`Engine::settle_roles`]) when nothing is lent any more, which [`crate::net`] sees to.
//!
//! Owned by one core.
//!
//! Invariant: `led` says of each partition of this core in which database it is; a partition is in one of them only.

use std::sync::Arc;

use super::Engine;
use crate::borrow::{Lock, Wants};
use crate::cluster::View;
use crate::command::cluster::{Slots, elsewhere, refusal, slots_of};
use crate::command::table::Row;
use crate::command::{Args, Flags, Handler, Reach, Session};
use crate::resp::Error;
use crate::route::slot::short_key;
use crate::route::{PartitionSet, Route, slot_of};
use crate::shard::{FOLLOWED, LED, SteadyMs};

impl Engine {
    /// Routes requests by a newer view of the cluster, of as many partitions, and answers by it. Contents stay where they are
    /// until [`Engine::settle_roles`].
    pub fn see(&mut self, view: Arc<View>) {
        self.router.lead(|partition| view.leads(partition));
        self.in_cluster = view.is_shared();
        self.lapsed &= self.in_cluster;
        self.roles_move = self.in_cluster && view.holds_any();
        let few = |partition| view.leads(partition) && view.roles(partition).few_in_sync;
        self.few_in_sync = self.in_cluster && (0..view.partitions()).any(few);
        self.expect_base(&view);
        self.view = Some(view);
        self.restrict();
    }

    /// What a partition begins with that is led from now on may not be committed yet: whoever reads it, and waits for that, waits
    /// for this place of the log.
    fn expect_base(&mut self, view: &View) {
        if !self.feed.is_on() {
            return;
        }
        let epoch = |view: &View, partition| view.leads(partition).then(|| view.roles(partition).epoch);
        let known = self.view.as_deref();
        let begins = |partition: &u16| {
            let now = epoch(view, *partition);
            now.is_some() && known.is_none_or(|known| epoch(known, *partition) != now)
        };
        let begun = self.shard.partitions().filter(begins);
        self.feed.mark(begun, &mut self.shard.effects);
    }

    /// Moves the partitions of this core whose role has changed. None of their keys may be lent.
    pub fn settle_roles(&mut self) {
        let Some(view) = &self.view else { return };
        for (led, partition) in self.led.iter_mut().zip(self.shard.partitions()) {
            let leads = view.leads(partition);
            if std::mem::replace(led, leads) != leads {
                let [from, to] = if leads { [FOLLOWED, LED] } else { [LED, FOLLOWED] };
                self.shard.move_partition(partition, from, to);
            }
        }
    }

    /// The number of the newest view; 0: the node is alone.
    #[inline]
    pub fn view_number(&self) -> u64 {
        self.view.as_ref().map_or(0, |view| view.number())
    }

    /// Whether the contents of a partition of this core are where those of a leader are.
    pub fn is_led(&self, partition: u16) -> bool {
        let local = partition.checked_sub(self.shard.partitions().start);
        local.and_then(|local| self.led.get(local as usize)).copied().unwrap_or(false)
    }

    /// Drops copies: other nodes have them instead. What this node leads by now stays.
    pub fn drop_partitions(&mut self, dropped: &PartitionSet) {
        let copies = |partition: &u16| dropped.has(*partition) && !self.is_led(*partition);
        let copies: Vec<u16> = self.shard.partitions().filter(copies).collect();
        for partition in copies {
            if self.shard.drop_partition(FOLLOWED, partition) > 0 && self.shard.effects.enabled() {
                let key = short_key(partition, self.router.partitions());
                self.shard.effects.push(FOLLOWED, &[b"FLUSHPARTITION", &key]);
            }
        }
    }

    /// Looks whether the node may serve what it leads at this moment, which was read from the clock after everything that
    /// depends on it: false, it may not, and requests about keys are refused until it may again.
    #[inline]
    pub fn check_lease(&mut self, now_ms: SteadyMs) -> bool {
        if !self.in_cluster {
            return true;
        }
        let valid = self.node.lease.is_valid_at(now_ms);
        if valid == self.lapsed {
            self.note_lease(valid);
        }
        valid
    }

    /// For tests: everything that was executed until then may be shown, or not.
    #[cfg(debug_assertions)]
    pub fn served_until(&mut self, until_ns: i64, valid: bool) {
        self.served.looked(until_ns, valid);
    }

    /// For tests: a command for a client is about to be executed, in the epoch that this core knows, whoever leads in that.
    #[cfg(debug_assertions)]
    pub(super) fn note_served(&mut self, call: &super::Call) {
        if let Some(view) = self.view.as_deref().filter(|_| self.in_cluster && call.db == LED && self.served.is_on())
            && let Some(partition) = call.first.map(|key| key.partition)
        {
            self.served.begins(partition, view.roles(partition).epoch);
        }
    }

    #[cold]
    fn note_lease(&mut self, valid: bool) {
        self.lapsed = !valid;
        self.restrict();
        let core = self.router.me();
        match valid {
            true => tracing::info!(core, "the lease is valid again: keys are served"),
            false => tracing::warn!(core, "the lease has ended: keys are not served"),
        }
    }

    /// Whether the node may serve nothing that it leads, as was seen last.
    #[inline]
    pub fn is_lapsed(&self) -> bool {
        self.lapsed
    }

    /// Why the cluster does not let this command run now, wherever its keys are.
    pub(super) fn refuses_in_cluster(&self, row: &Row, session: &Session, args: Args, quorum: bool) -> Option<Error> {
        let multi = session.multi.filter(|_| row.command.name == "exec");
        if self.lapsed && (is_about_keys(row) || multi.is_some_and(|multi| multi.slots != Slots::None || multi.writes))
        {
            return Some(Error::ClusterDown);
        }
        let writes = row.command.flags.has(Flags::WRITE) || multi.is_some_and(|multi| multi.writes);
        (self.few_in_sync && quorum && writes && self.has_few_copies(row, args, multi.map(|multi| multi.slots)))
            .then_some(Error::NoReplicas)
    }

    /// Whether a write would be about a partition with fewer copies in sync than there have to be. `queued`: the keys of a
    /// transaction.
    fn has_few_copies(&self, row: &Row, args: Args, queued: Option<Slots>) -> bool {
        let Some(view) = &self.view else { return false };
        let few = |slot| view.roles(view.partition_of(slot)).few_in_sync;
        match queued.unwrap_or_else(|| slots_of(row, args)) {
            Slots::One(slot) => few(slot),
            Slots::Several if queued.is_none() => row.command.keys.positions(args).any(|at| few(slot_of(args[at]))),
            // All that this node leads.
            Slots::None | Slots::Several => true,
        }
    }

    /// Why a request about a key of `partition` must not be executed here in `db`, although a core of this node has admitted it:
    /// by an older view, or while it might.
    #[inline]
    pub fn refuses_away(&mut self, row: &Row, args: Args, db: usize, partition: Option<u16>) -> Option<Error> {
        if !self.in_cluster {
            return None;
        }
        let error = self.finds_away(row, args, db, partition)?;
        self.count_error(&error);
        Some(error)
    }

    fn finds_away(&self, row: &Row, args: Args, db: usize, partition: Option<u16>) -> Option<Error> {
        if self.lapsed && is_about_keys(row) {
            return Some(Error::ClusterDown);
        }
        let (partition, view) = (partition?, self.view.as_deref()?);
        if db == FOLLOWED {
            // It may be led by now; the client finds it when it asks again.
            return (!view.follows(partition)).then_some(Error::SlotNotServed);
        }
        let alike = row.key_at != 0 || !self.config.cluster_allow_local_crossslot;
        if alike && self.router.route(partition) == Route::Local {
            return None;
        }
        refusal(&self.config, view, row, args)
    }

    /// Whether a command has to wait, as a role moves: about one of its keys, or about all keys. `queued`: of what EXEC runs.
    pub fn holds(&self, row: &Row, args: Args, queued: Option<Slots>) -> bool {
        let Some(view) = self.view.as_deref().filter(|_| self.roles_move) else { return false };
        match queued.unwrap_or_else(|| slots_of(row, args)) {
            Slots::One(slot) => view.holds(slot),
            Slots::Several if queued.is_none() => {
                row.command.keys.positions(args).any(|at| view.holds(slot_of(args[at])))
            }
            // It may be about anything.
            Slots::Several => true,
            Slots::None => queued.is_some() || is_about_keys(row),
        }
    }

    /// Whether a request that some core of this node has admitted is about what must not be executed here, and is not to be
    /// refused: where its keys are, is about to be decided.
    pub(super) fn is_closed(&self, row: &Row, args: Args, db: u8) -> bool {
        let Some(view) = self.view.as_deref().filter(|_| self.roles_move && db as usize == LED) else { return false };
        row.command.keys.positions(args).any(|at| view.is_closed(view.partition_of(slot_of(args[at]))))
    }

    /// Counts an error that is sent.
    pub fn count_error(&mut self, error: &Error) {
        self.errors.count(error);
        if matches!(error, Error::Moved { .. }) {
            self.node.note_sent_elsewhere();
        }
    }

    /// Who has a slot that this node does not lead. If this core does not know it yet: nobody.
    pub fn moved(&self, slot: u16) -> Error {
        let other = self.view.as_deref().and_then(|view| elsewhere(view, slot));
        other.unwrap_or(Error::SlotNotServed)
    }

    /// The first of these slots that this node does not lead.
    pub fn first_away(&self, slots: &[u16]) -> Option<u16> {
        let view = self.view.as_deref().filter(|_| self.in_cluster)?;
        slots.iter().copied().find(|&slot| !view.leads(view.partition_of(slot)))
    }

    /// Whether what is in a database of the shard are copies of what other nodes lead.
    #[inline]
    pub fn is_copy(&self, db: usize) -> bool {
        self.in_cluster && db == FOLLOWED
    }

    /// The locks of what is applied: in a cluster, where it is applied.
    pub fn lock_copies(&self, wants: &mut Wants<Lock>) {
        if let Wants::Keys(locks) = wants
            && self.view.is_some()
        {
            locks.iter_mut().for_each(|lock| lock.0 = FOLLOWED as u8);
        }
    }

    /// Whether a READONLY connection may read this here, from copies: its keys are of one slot that this node follows.
    pub fn reads_copy(&self, row: &Row, session: &Session, args: Args) -> bool {
        let command = row.command;
        let plain = command.reach == Reach::Keys
            && command.flags.has(Flags::READONLY)
            && !command.flags.has(Flags::BLOCKING)
            && !command.keys.reads_more(args);
        let Some(view) = self.view.as_deref().filter(|_| session.readonly && session.multi.is_none() && plain) else {
            return false;
        };
        matches!(slots_of(row, args), Slots::One(slot) if view.follows(view.partition_of(slot)))
    }
}

/// Whether what a command answers or does depends on keys: then the node must be allowed to serve them. Messages are for
/// everybody.
pub fn is_about_keys(row: &Row) -> bool {
    let keyspace =
        matches!(row.command.handler, Handler::Keyspace(_)) && !matches!(row.command.reach, Reach::Listeners(_));
    keyspace || row.command.name == "watch"
}
