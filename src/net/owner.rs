//! The owner's side of borrowing: lending keys of this core, and what waits for keys that are lent.
//!
//! Three kinds of claims are made on keys ([`crate::borrow::lending`]): a transaction that borrows them, a batch whose
//! next request needs one that is lent, and WATCH.
//!
//! A batch waits as a whole from that request on, and later batches of the same connection wait behind it, in its
//! *stream*: so its requests run in order, and replies come back in order, whatever is lent. Requests of this core's own
//! connections wait as batches from this core to itself. A stream makes one claim at a time.
//!
//! How much can wait? Of each connection one transaction, or so many requests as may be owed to it ([`limits::OWED_REPLIES`],
//! [`limits::OWED_BYTES`](super::limits::OWED_BYTES)); then the connection is not read.
//!
//! Owned by one core.
//!
//! [`limits::OWED_REPLIES`]: super::limits::OWED_REPLIES

#![allow(clippy::vec_box, reason = "boxed batches travel between cores; the box itself is what is used again")]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::forward::{Atomic, Batch, Cursor, Message, Slot};
use super::held::{note_batch_needs, told_of};
use super::pump::Pump;
use super::window::Request;
use crate::borrow::{Lending, Lent, Loan, Lock, Returned, Ticket, Wants, plan};
use crate::command::blocking::write_nothing;
use crate::command::table::Row;
use crate::command::{Ask, Flags, table};
use crate::engine::{Call, Origin};
use crate::log::durability::Durability;
use crate::log::feed::{After, Seq};
use crate::resp::{Error, Reply};
use crate::route::{CoreId, PartitionSet};

/// A connection of some core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StreamId {
    pub core: CoreId,
    pub connection: u32,
    pub generation: u32,
}

/// What is to be done when a claim is granted.
enum Claim {
    /// Run the next request of the stream, or its next batch if that is a transaction.
    Stream(StreamId),
    /// Lend; the claim ends with the return.
    Loan { to: CoreId, transaction: u32, loan: Box<Loan> },
    /// Cover some keys.
    Cover { run: u64 },
    /// Say in the feed that everything is through that was before writes had to end for this time.
    Barrier(u64),
    /// Let contents change places, as the newest view of the cluster says, and say that the one of this number has been seen.
    Roles(Option<u64>),
    /// Drop copies of these.
    Drop(Arc<PartitionSet>),
    /// Answer.
    Question { from: CoreId, ask: u32, part: u16, question: Ask },
}

/// See the module.
///
/// Invariant: every claim of `lending` is in `claims`, or is a loan that is out; every stream has a batch, and a claim or a
/// place in `held_up`.
#[derive(Default)]
pub(super) struct Owner {
    lending: Lending<Lock>,
    claims: HashMap<Ticket, Claim>,
    streams: HashMap<StreamId, VecDeque<(Box<Batch>, Cursor)>>,
    /// Streams whose next request waits for the end of a failover, or for a role that moves.
    held_up: Vec<StreamId>,
    /// Claims that are granted and were not acted upon yet.
    granted: VecDeque<Ticket>,
    /// Somebody is acting upon `granted`.
    settling: bool,
}

impl Owner {
    /// Nothing is lent and nobody is held up, so nothing has to wait.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.lending.is_idle() && self.held_up.is_empty()
    }

    /// A transaction has this whole core.
    #[inline]
    pub(super) fn is_whole_out(&self) -> bool {
        !self.lending.is_idle() && self.lending.is_whole_out()
    }

    /// The batch at the end of a stream.
    fn last_of(&mut self, id: StreamId) -> Option<&mut Batch> {
        Some(&mut self.streams.get_mut(&id)?.back_mut()?.0)
    }
}

impl Pump {
    /// Whether a request for this core's keys has to wait. Costly; ask [`Owner::is_idle`] first.
    #[cold]
    pub(super) fn must_wait(&self, id: StreamId, request: &Request, args: &[&[u8]]) -> bool {
        let wants =
            || plan::wants(request.row, args, request.db as usize, self.engine.config.databases, &self.engine.hasher);
        self.owner.streams.contains_key(&id) || self.owner.lending.would_wait(&wants())
    }

    /// The stream of a connection of this core.
    pub(super) fn own_stream(&self, index: u32) -> StreamId {
        let generation = self.connections[index as usize].as_deref().map_or(0, |connection| connection.generation);
        StreamId { core: self.me, connection: index, generation }
    }

    /// Lets a request of this core's own connection wait for keys that are lent.
    pub(super) fn park_request(&mut self, index: u32, request: &Request, args: &[&[u8]], silent: bool) {
        self.park_part(index, request, args);
        let bytes = args.iter().map(|arg| arg.len()).sum();
        self.owe(index, Slot::Core { core: self.me, silent }, bytes);
    }

    /// As [`Pump::park_request`]; the caller notes that the reply is owed.
    pub(super) fn park_part(&mut self, index: u32, request: &Request, args: &[&[u8]]) {
        let id = self.own_stream(index);
        let Some(connection) = self.connections[index as usize].as_deref() else { return };
        let (client, forwarded) = (connection.session.id, request.forwarded(args.len()));
        let durability = connection.session.durability.unwrap_or(self.engine.default_durability);
        if let Some(batch) = self.owner.last_of(id).filter(|batch| batch.transaction.is_none()) {
            batch.durability = batch.durability.max(durability);
            return batch.push(forwarded, args, &request.owned);
        }
        let mut batch = self.spare_batches.pop().unwrap_or_default();
        (batch.connection, batch.generation, batch.client) = (index, id.generation, client);
        batch.durability = durability;
        batch.push(forwarded, args, &request.owned);
        self.park_batch(self.me, batch);
    }

    /// Lets the requests of a batch that have not run wait for their keys, or for an earlier batch.
    pub(super) fn park_batch(&mut self, core: CoreId, batch: Box<Batch>) {
        let id = StreamId { core, connection: batch.connection, generation: batch.generation };
        let cursor = batch.first_unanswered();
        if core != self.me {
            self.engine.net.hops_in += (batch.requests.len() - cursor.request) as u64;
        }
        let stream = self.owner.streams.entry(id).or_default();
        stream.push_back((batch, cursor));
        if stream.len() == 1 {
            self.claim_front(id);
            self.settle_claims();
        }
    }

    /// Takes a batch that is a transaction.
    pub(super) fn take_atomic(&mut self, core: CoreId, mut batch: Box<Batch>) {
        if batch.applies {
            // What came before it in the log comes before it here.
            self.run_window();
        }
        match &batch.transaction {
            Some(atomic) if atomic.loan.under.is_some() => {
                self.engine.start_clock();
                self.run_atomic(&mut batch);
                self.return_batch(core, batch);
            }
            _ => self.park_batch(core, batch),
        }
    }

    /// Whether what is next in a stream has to wait for the end of a failover, or for a role that moves.
    fn is_held_up_front(&self, id: StreamId) -> bool {
        let Some((batch, cursor)) = self.owner.streams.get(&id).and_then(VecDeque::front) else { return false };
        // A transaction is judged when it begins.
        if !self.engine.may_hold_late() || batch.applies || batch.transaction.is_some() {
            return false;
        }
        let mut args = Vec::new();
        let next = batch.read(&mut cursor.clone(), &mut args);
        next.is_some_and(|(request, _)| self.engine.holds_late(table().row(request.row), &args, request.db))
    }

    /// Looks again at the streams that were held up.
    pub(super) fn release_held_up(&mut self) {
        for id in std::mem::take(&mut self.owner.held_up) {
            self.claim_front(id);
        }
        self.settle_claims();
    }

    /// Makes the claim of whatever is next in a stream.
    fn claim_front(&mut self, id: StreamId) {
        if self.is_held_up_front(id) {
            return self.owner.held_up.push(id);
        }
        let Some((batch, cursor)) = self.owner.streams.get_mut(&id).and_then(VecDeque::front_mut) else { return };
        let wants = match &mut batch.transaction {
            Some(atomic) => {
                let mut wants = std::mem::replace(&mut atomic.loan.wants, Wants::Keys(Vec::new()));
                if batch.applies {
                    self.engine.lock_copies(&mut wants);
                }
                wants
            }
            None => {
                let mut args = Vec::new();
                let Some((request, _)) = batch.read(&mut cursor.clone(), &mut args) else { return };
                plan::wants(
                    table().row(request.row),
                    &args,
                    request.db as usize,
                    self.engine.config.databases,
                    &self.engine.hasher,
                )
            }
        };
        self.claim(wants, Claim::Stream(id));
    }

    /// Covers some keys as soon as nothing is lent.
    pub(super) fn claim_cover(&mut self, run: u64) {
        self.claim(Wants::Whole, Claim::Cover { run });
        self.settle_claims();
    }

    /// Says in the feed when everything that is under way is through.
    pub(super) fn claim_barrier(&mut self) {
        let stop = self.engine.standing.stops;
        self.claim(Wants::Whole, Claim::Barrier(stop));
        self.settle_claims();
    }

    /// Lets contents change places as soon as nothing is lent.
    pub(super) fn claim_roles(&mut self, view: Option<u64>) {
        self.claim(Wants::Whole, Claim::Roles(view));
        self.settle_claims();
    }

    /// Drops copies when what has been claimed before is through.
    pub(super) fn claim_drop(&mut self, dropped: Arc<PartitionSet>) {
        self.claim(Wants::Whole, Claim::Drop(dropped));
        self.settle_claims();
    }

    /// What a transaction changes elsewhere is told by the core that coordinates it: nothing is through before all of them
    /// are.
    pub(super) fn tell_due_barrier(&mut self) {
        if let Some(stop) = self.barrier_due
            && self.transactions.iter().all(Option::is_none)
        {
            self.barrier_due = None;
            self.engine.tell_barrier(stop);
        }
    }

    /// Keeps only these keys of a claim on the whole core.
    pub(super) fn narrow_claim(&mut self, ticket: Ticket, locks: Vec<Lock>) {
        let Owner { lending, granted, .. } = &mut self.owner;
        lending.narrow(ticket, locks, granted);
    }

    fn claim(&mut self, wants: Wants<Lock>, claim: Claim) {
        let (ticket, granted) = self.owner.lending.claim(wants);
        self.owner.claims.insert(ticket, claim);
        if granted {
            self.owner.granted.push_back(ticket);
        }
    }

    /// Acts upon every claim that is granted, and upon those that are granted by that.
    pub(super) fn settle_claims(&mut self) {
        if std::mem::replace(&mut self.owner.settling, true) {
            return;
        }
        while let Some(ticket) = self.owner.granted.pop_front() {
            match self.owner.claims.remove(&ticket) {
                Some(Claim::Stream(id)) => self.run_front(id, ticket),
                Some(Claim::Loan { to, transaction, loan }) => self.lend(to, transaction, ticket, *loan),
                Some(Claim::Question { from, ask, part, question }) => {
                    self.answer_question(from, ask, part, question);
                    self.release_claim(ticket);
                }
                Some(Claim::Cover { run }) => self.cover(run, ticket),
                Some(Claim::Barrier(stop)) => {
                    self.release_claim(ticket);
                    self.barrier_due = Some(stop);
                    self.tell_due_barrier();
                }
                Some(Claim::Roles(view)) => {
                    self.settle_roles(view);
                    self.release_claim(ticket);
                }
                Some(Claim::Drop(dropped)) => {
                    self.engine.drop_partitions(&dropped);
                    self.release_claim(ticket);
                }
                None => debug_assert!(false, "a claim without a purpose was granted"),
            }
        }
        self.owner.settling = false;
    }

    pub(super) fn release_claim(&mut self, ticket: Ticket) {
        let Owner { lending, granted, .. } = &mut self.owner;
        lending.release(ticket, granted);
    }

    /// Runs what is next in a stream, whose claim is granted, and makes the next claim.
    fn run_front(&mut self, id: StreamId, ticket: Ticket) {
        if self.is_held_up_front(id) {
            self.release_claim(ticket);
            return self.owner.held_up.push(id);
        }
        let Some((mut batch, mut cursor)) = self.owner.streams.get_mut(&id).and_then(VecDeque::pop_front) else {
            return self.release_claim(ticket);
        };
        self.engine.start_clock();
        if batch.transaction.is_some() {
            self.run_atomic(&mut batch);
        } else {
            self.run_next(&mut batch, &mut cursor);
        }
        self.release_claim(ticket);
        let done = batch.transaction.is_some() || cursor.request == batch.requests.len();
        let stream = self.owner.streams.entry(id).or_default();
        if !done {
            stream.push_front((batch, cursor));
            return self.claim_front(id);
        }
        if stream.is_empty() {
            self.owner.streams.remove(&id);
        }
        self.claim_front(id);
        self.return_batch(id.core, batch);
    }

    /// Executes the request at the cursor.
    fn run_next(&mut self, batch: &mut Batch, cursor: &mut Cursor) {
        let mut out = std::mem::take(&mut batch.out);
        let mut args = Vec::new();
        if let Some((request, owned)) = batch.read(cursor, &mut args) {
            let call = Call {
                row: table().row(request.row),
                args: &args,
                first: request.first_key(&args),
                db: request.db as usize,
                no_touch: request.no_touch,
                owned: &owned,
                origin: Origin::Forwarded(batch.client),
                counted: request.counted,
            };
            let before = out.mark();
            let mut reply = Reply::new(&mut out, request.version);
            let (row, db, seq) = (call.row, call.db, self.engine.seq());
            let partition = call.first.map(|key| key.partition);
            match batch.applies {
                true => self.engine.apply(call, &mut reply),
                // A transaction was judged as a whole.
                false if batch.transaction.is_some() => self.engine.call(call, &mut reply),
                false => match self.refuses_late(row, &args, db, partition) {
                    Some(error) => reply.error(&error),
                    None => self.engine.call(call, &mut reply),
                },
            }
            // Only within a transaction is a blocking command part of a batch.
            if row.command.flags.has(Flags::BLOCKING) && reply.output().mark() == before {
                write_nothing(row, &mut reply);
            }
            if batch.durability != Durability::Memory && !self.engine.is_copy(db) {
                let partition = told_of(&self.engine, row, &args, partition);
                drop(args);
                note_batch_needs(&mut self.engine, batch, partition, seq);
            }
            if batch.applies {
                batch.needs = self.engine.applied_seq();
            }
        }
        batch.out = out;
        batch.ends.push(batch.out.mark());
    }

    /// Why a request that some core of this node has admitted must not be executed here now.
    #[inline]
    pub(super) fn refuses_late(
        &mut self,
        row: &Row,
        args: &[&[u8]],
        db: usize,
        partition: Option<u16>,
    ) -> Option<Error> {
        self.engine.refuses_late(row).or_else(|| self.engine.refuses_away(row, args, db, partition))
    }

    /// Executes a batch that is a transaction, unless a watched key has changed or memory is short.
    fn run_atomic(&mut self, batch: &mut Batch) {
        let Some(atomic) = &mut batch.transaction else { return };
        let Atomic { loan, verdict, .. } = &mut **atomic;
        let held = loan.under.is_some();
        *verdict = self.engine.judge(loan);
        if *verdict != crate::borrow::Verdict::Granted {
            return;
        }
        let before = self.engine.seq();
        self.engine.begin_transaction();
        let mut cursor = Cursor::default();
        for _ in 0..batch.requests.len() {
            self.run_next(batch, &mut cursor);
        }
        if held
            && !batch.applies
            && let Some(atomic) = &mut batch.transaction
        {
            atomic.statements = self.engine.leave_transaction();
        } else {
            self.engine.end_transaction();
        }
        let seq = if batch.applies { self.engine.applied_seq() } else { self.engine.hurry_feed() };
        if let Some(atomic) = &mut batch.transaction {
            atomic.seq = seq;
        }
        if batch.applies {
            batch.needs = seq;
        }
        // The unit is one, and all of its replies wait for it.
        if batch.durability != Durability::Memory && seq > before {
            let partition = batch.partition().filter(|_| !held);
            note_batch_needs(&mut self.engine, batch, partition, before);
        }
    }

    /// A transaction of core `to` wants to borrow.
    pub(super) fn borrow(&mut self, to: CoreId, transaction: u32, mut loan: Box<Loan>) {
        if let Some(ticket) = loan.under {
            return self.lend(to, transaction, ticket, *loan);
        }
        let mut wants = std::mem::replace(&mut loan.wants, Wants::Keys(Vec::new()));
        if to == self.engine.router.cores() {
            self.engine.lock_copies(&mut wants);
        }
        self.claim(wants, Claim::Loan { to, transaction, loan });
        self.settle_claims();
    }

    fn lend(&mut self, to: CoreId, transaction: u32, ticket: Ticket, mut loan: Loan) {
        let (verdict, entries) = self.engine.lend(&mut loan);
        let lent = Lent { ticket, verdict, entries, seq: self.engine.hurry_feed() };
        if to == self.me {
            self.lent(to, transaction, lent);
        } else {
            self.send(to, Message::Lent { transaction, lent: Box::new(lent) });
        }
    }

    /// What was lent comes back.
    pub(super) fn returned(&mut self, from: CoreId, ticket: Ticket, entries: Vec<Returned>, keep: bool, seq: Seq) {
        if seq > 0 && from != self.me {
            self.engine.come_after(After { core: from, seq }, &entries);
        }
        self.engine.take_back(entries);
        if !keep {
            self.release_claim(ticket);
            self.settle_claims();
        }
    }

    /// Answers a question, when the keys that it concerns are here.
    pub(super) fn take_question(&mut self, from: CoreId, ask: u32, part: u16, question: Ask) {
        let wants = match &question {
            Ask::Watch(places) if !self.owner.is_idle() => {
                Wants::Keys(places.iter().map(|(db, key)| (*db, self.engine.hasher.hash(key))).collect())
            }
            _ => return self.answer_question(from, ask, part, question),
        };
        self.claim(wants, Claim::Question { from, ask, part, question });
        self.settle_claims();
    }
}
