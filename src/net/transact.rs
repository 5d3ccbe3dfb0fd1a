//! Transactions: EXEC, and commands whose keys live on several cores.
//!
//! [`Plan`] says where a transaction runs ([`Mode`]) and what it needs of each core. Then it
//!
//! 1. borrows: core after core ([`Coordinator`]), or, if one other core owns everything, sends it one batch;
//! 2. runs its commands in order. A command that asks other cores (INFO, CONFIG SET), or that needs them while they are
//!    borrowed whole, suspends it until the answers are there;
//! 3. gives everything back, and answers.
//!
//! It always comes to its end. If its client has vanished before it runs, it gives back without running; once it runs it
//! runs whole, and only the reply is dropped.
//!
//! While it is under way its connection executes nothing else ([`Hold::TRANSACTION`]), and it starts when the connection
//! is owed nothing ([`Hold::DRAIN`]): so its order among the connection's requests is that of their arrival.
//!
//! Owned by the core of the connection.

use std::collections::BTreeMap;

use super::connection::Hold;
use super::forward::{Atomic, Batch, Message};
use super::limits;
use super::pump::Pump;
use super::steps::forwarded;
use crate::borrow::{Coordinator, Lent, Loan, Mode, Place, Plan, Step, Ticket, Verdict};
use crate::command::connection::selected_database;
use crate::command::table::Row;
use crate::command::transaction::{Queued, Watched};
use crate::command::{Flags, Handler, Merge, Reach};
use crate::engine::{Engine, Refusal};
use crate::log::feed::After;
use crate::resp::{Error, Output, Reply};
use crate::route::{CoreId, slot_of};

/// A claim that a core has granted.
pub(super) struct Held {
    pub(super) core: CoreId,
    pub(super) ticket: Ticket,
    /// The entries that are here.
    pub(super) places: Vec<Place>,
}

/// What the command that runs waits for.
pub(super) enum Waiting {
    Nothing,
    /// The replies of cores that run it, and how they become one.
    Parts {
        merge: Option<Merge>,
        parts: Vec<(CoreId, Option<Output>)>,
        /// Which part has the reply for each key; see [`Merge::InKeyOrder`].
        order: Vec<u16>,
    },
    /// Entries: from so many cores, and which; those that have come before; and whether these are all.
    Entries {
        cores: usize,
        places: Vec<(CoreId, Vec<Place>)>,
        here: Vec<(CoreId, Vec<Place>)>,
        all: bool,
    },
}

/// One transaction. See the module.
pub(super) struct Transaction {
    pub(super) connection: u32,
    /// EXEC, or the one command.
    pub(super) row: &'static Row,
    /// The replies become an array.
    pub(super) exec: bool,
    pub(super) commands: Vec<Queued>,
    /// The view of the cluster under which it was begun.
    pub(super) view: u64,
    pub(super) mode: Mode,
    pub(super) coordinator: Coordinator,
    /// What is still to be asked for.
    pub(super) loans: BTreeMap<CoreId, Loan>,
    pub(super) held: Vec<Held>,
    pub(super) verdict: Verdict,
    /// What its commands have changed, as statements, and what the log must have before these.
    pub(super) statements: Vec<u8>,
    pub(super) after: Vec<After>,
    /// Those of the cores that run the command which runs now.
    pub(super) part_statements: Vec<Vec<u8>>,
    /// The commands run: the next is `commands[at]`.
    pub(super) running: bool,
    pub(super) at: usize,
    /// That one has its reply.
    pub(super) answered: bool,
    /// [`super::steps`] is at work on it.
    pub(super) stepping: bool,
    /// It waits for answers, has changed keys of this core that are still in their places, and is counted in
    /// [`Pump::suspended`].
    pub(super) suspended: bool,
    pub(super) waiting: Waiting,
    /// What ran elsewhere, and how many of its replies are used.
    pub(super) batch: Option<Box<Batch>>,
    pub(super) used: usize,
    pub(super) out: Output,
}

impl Transaction {
    pub(super) fn ticket(&self, core: CoreId) -> Option<Ticket> {
        self.held.iter().find(|held| held.core == core).map(|held| held.ticket)
    }
}

impl Pump {
    /// EXEC: what was queued runs now.
    pub(super) fn exec(&mut self, index: u32, row: &'static Row) {
        let Some(connection) = self.connection(index) else { return };
        let commands = std::mem::take(&mut connection.queue);
        self.begin_transaction(index, row, commands, true);
    }

    /// Whether a request is an EXEC that will run: monitors see it behind what it has run.
    pub(super) fn is_exec(&self, index: u32, row: &Row) -> bool {
        let multi = || self.connections[index as usize].as_deref().and_then(|connection| connection.session.multi);
        row.command.name == "exec" && multi().is_some_and(|multi| !multi.refused)
    }

    /// Holds a request back until its connection is owed nothing; false if it may run.
    pub(super) fn must_drain(&mut self, index: u32, args: &[&[u8]]) -> bool {
        let Some(connection) = self.connection(index) else { return false };
        if !connection.owes() {
            return false;
        }
        connection.stash = Some(args.iter().map(|arg| arg.to_vec()).collect());
        connection.hold.set(Hold::DRAIN);
        true
    }

    /// DISCARD, UNWATCH, RESET, or the end of a connection: drops what is queued and watched.
    pub(super) fn unqueue(&mut self, index: u32) {
        let Some(connection) = self.connection(index) else { return };
        connection.queue = Vec::new();
        let watched = std::mem::take(&mut connection.session.watched);
        let mut forgotten: BTreeMap<CoreId, Vec<Place>> = BTreeMap::new();
        for watched in watched.iter() {
            forgotten.entry(watched.core).or_default().push(watched.place.clone());
        }
        for (core, places) in forgotten {
            self.forget_watched(core, places);
        }
    }

    fn forget_watched(&mut self, core: CoreId, places: Vec<Place>) {
        if core == self.me {
            self.engine.forget_watched(places);
        } else if !places.is_empty() {
            self.send(core, Message::Forget(places));
        }
    }

    /// Starts a transaction.
    pub(super) fn begin_transaction(&mut self, index: u32, row: &'static Row, commands: Vec<Queued>, exec: bool) {
        let free = match self.transactions.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.transactions.push(None);
                self.transactions.len() - 1
            }
        } as u32;
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        connection.hold.set(Hold::TRANSACTION);
        connection.transaction = Some(free);
        let watched = if exec { std::mem::take(&mut connection.session.watched) } else { Default::default() };
        let dbs = [connection.session.db, self.engine.config.databases];
        let limited = self.engine.config.maxmemory_bytes > 0;
        let mut plan = Plan::new(&self.engine.router, &self.engine.hasher, dbs, &commands, &watched, limited);
        let verdict = match self.engine.in_cluster {
            true => self.judge_in_cluster(&mut plan, &commands, &watched),
            false => Verdict::Granted,
        };
        let cores = match plan.mode {
            Mode::There(_) => Vec::new(),
            // The last one runs its part as soon as it can, so its keys need not be held. In a cluster it may refuse to.
            Mode::Dealt if !self.engine.feed.is_on() && !self.engine.in_cluster => {
                plan.loans.keys().copied().rev().skip(1).collect()
            }
            _ => plan.loans.keys().copied().collect(),
        };
        let transaction = Transaction {
            connection: index,
            row,
            exec,
            commands,
            view: self.engine.view_number(),
            mode: plan.mode,
            coordinator: Coordinator::new(cores),
            loans: plan.loans,
            held: Vec::new(),
            verdict,
            statements: Vec::new(),
            after: Vec::new(),
            part_statements: Vec::new(),
            running: false,
            at: 0,
            answered: false,
            stepping: false,
            suspended: false,
            waiting: Waiting::Nothing,
            batch: None,
            used: 0,
            out: Output::new(),
        };
        let step = transaction.coordinator.begin();
        self.transactions[free as usize] = Some(Box::new(transaction));
        match plan.mode {
            _ if verdict != Verdict::Granted => self.finish_transaction(free),
            Mode::There(core) => self.send_away(free, core),
            _ => self.take_step(free, step),
        }
    }

    /// Lets owners see what the cluster has to do with it; whether this core knows already that it must not run. No core is
    /// asked then: one that has not seen the newest view might grant it.
    fn judge_in_cluster(&self, plan: &mut Plan, commands: &[Queued], watched: &[Watched]) -> Verdict {
        let Engine { router, hasher, .. } = &self.engine;
        let note = |loans: &mut BTreeMap<CoreId, Loan>, key: &[u8]| {
            let slot = slot_of(key);
            let loan = loans.entry(router.owner(hasher.key(key).partition)).or_default();
            if !loan.slots.contains(&slot) {
                loan.slots.push(slot);
            }
        };
        for command in commands.iter().filter(|command| command.row.command.reach == Reach::Keys) {
            let args = command.args();
            command.row.command.keys.positions(&args).for_each(|at| note(&mut plan.loans, args[at]));
        }
        watched.iter().for_each(|watched| note(&mut plan.loans, &watched.place.1));
        plan.loans.values_mut().for_each(|loan| loan.serves = true);
        let away = plan.loans.values().find_map(|loan| self.engine.first_away(&loan.slots));
        away.map_or(Verdict::Granted, |slot| Verdict::Away { slot })
    }

    pub(super) fn transaction(&mut self, at: u32) -> Option<&mut Transaction> {
        self.transactions.get_mut(at as usize)?.as_deref_mut()
    }

    /// Sends the whole transaction to the core that owns its keys.
    fn send_away(&mut self, at: u32, core: CoreId) {
        let Some(transaction) = self.transactions[at as usize].as_deref_mut() else { return };
        let Some(connection) = self.connections[transaction.connection as usize].as_deref() else { return };
        let session = &connection.session;
        let mut batch = self.spare_batches.pop().unwrap_or_default();
        (batch.connection, batch.generation) = (transaction.connection, connection.generation);
        batch.client = session.id;
        batch.durability = session.durability.unwrap_or(self.engine.default_durability);
        let loan = transaction.loans.remove(&core).unwrap_or_default();
        batch.transaction = Some(Box::new(Atomic::new(at, loan)));
        let mut db = session.db;
        for command in &transaction.commands {
            let args = command.args();
            if let Handler::Keyspace(_) = command.row.command.handler {
                let request = forwarded(&self.engine, command.row, &args, db, session);
                batch.push(request, &args, &command.owned());
            } else if let Some(selected) = selected_database(command.row, &args, self.engine.config.databases) {
                db = selected;
            }
        }
        batch.sent_at = self.engine.clock_raw();
        self.engine.net.hops_out += batch.requests.len() as u64;
        self.send(core, Message::Requests(batch));
    }

    /// Does what the coordinator wants.
    fn take_step(&mut self, at: u32, step: Step) {
        let me = self.me;
        let Some(transaction) = self.transaction(at) else { return };
        match step {
            Step::Borrow(core) => {
                let loan = Box::new(transaction.loans.remove(&core).unwrap_or_default());
                // The ticket comes with the answer.
                transaction.held.push(Held { core, ticket: 0, places: loan.entries.clone() });
                if core == me {
                    self.borrow(me, at, loan);
                } else {
                    self.send(core, Message::Borrow { transaction: at, loan });
                }
            }
            Step::Run => {
                transaction.running = true;
                self.run_transaction(at);
            }
            Step::GiveBack => self.finish_transaction(at),
        }
    }

    /// A core has granted what was asked of it.
    pub(super) fn lent(&mut self, from: CoreId, at: u32, lent: Lent) {
        let Some(transaction) = self.transactions.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        if transaction.running {
            return self.entries_arrived(from, at, lent);
        }
        let Some(held) = transaction.held.last_mut() else { return };
        debug_assert_eq!(held.core, from);
        held.ticket = lent.ticket;
        transaction.after.push(After { core: from, seq: lent.seq });
        self.engine.bring(&held.places, lent.entries);
        transaction.verdict = lent.verdict;
        let connection = self.connections[transaction.connection as usize].as_deref();
        let alive = connection.is_some_and(|connection| !connection.dead);
        let step = transaction.coordinator.granted(alive && lent.verdict == Verdict::Granted);
        self.take_step(at, step);
    }

    /// A batch of a transaction has come back.
    pub(super) fn transaction_replied(&mut self, from: CoreId, mut batch: Box<Batch>) {
        let Some(atomic) = batch.transaction.take() else { return };
        let at = atomic.transaction;
        let Some(transaction) = self.transaction(at) else { return };
        if let Waiting::Parts { parts, .. } = &mut transaction.waiting {
            let part = parts.iter_mut().find(|(core, _)| *core == from);
            if let Some((_, reply)) = part {
                *reply = Some(std::mem::take(&mut batch.out));
            }
            transaction.after.push(After { core: from, seq: atomic.seq });
            transaction.part_statements.push(atomic.statements);
            return self.merge_parts(at);
        }
        transaction.verdict = atomic.verdict;
        transaction.batch = Some(batch);
        match atomic.verdict {
            Verdict::Granted => self.take_step(at, Step::Run),
            _ => self.finish_transaction(at),
        }
    }

    /// Returns entries to their owner.
    pub(super) fn send_back(&mut self, core: CoreId, ticket: Ticket, places: Vec<Place>, keep: bool) {
        let entries = self.engine.give_back(places);
        let seq = self.engine.hurry_feed();
        if core == self.me {
            self.returned(core, ticket, entries, keep, seq);
        } else {
            self.send(core, Message::Return { ticket, entries, keep, seq });
        }
    }

    /// Gives back what is held, and answers.
    pub(super) fn finish_transaction(&mut self, at: u32) {
        let Some(transaction) = self.transactions[at as usize].take() else { return };
        let mut transaction = *transaction;
        let index = transaction.connection;
        let durability = self.connections[index as usize].as_deref().and_then(|client| client.session.durability);
        let durability = durability.unwrap_or(self.engine.default_durability);
        let needs = self.engine.log_transaction(&transaction.after, &transaction.statements, durability);
        // Cores that were not asked do not know that nobody watches their keys any more.
        for (core, loan) in std::mem::take(&mut transaction.loans) {
            self.forget_watched(core, loan.watched.into_iter().map(|(place, _)| place).collect());
        }
        for Held { core, ticket, places } in std::mem::take(&mut transaction.held) {
            self.send_back(core, ticket, places, false);
        }
        self.tell_due_barrier();
        self.tell_seen();
        if transaction.view != self.engine.view_number() && durability.is_quorum() && self.has_lost(&transaction) {
            // It has run, but what its reply waits for is not for this node to know any more.
            self.kill(index);
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        connection.transaction = None;
        connection.wait_for(needs, durability, None, None);
        let blocks = !transaction.exec && transaction.row.command.flags.has(Flags::BLOCKING);
        let nothing = transaction.verdict == Verdict::Granted && transaction.out.is_empty();
        if blocks
            && nothing
            && let Some(command) = transaction.commands.pop()
        {
            self.mark_dirty(index);
            self.found_nothing(index, transaction.row, command);
            self.release(index, Hold::TRANSACTION);
            return self.reclaim(index);
        }
        if transaction.exec {
            connection.session.multi = None;
            if !self.monitor_cores.is_empty() {
                self.show_to_monitors(index, transaction.row, &[b"EXEC"]);
            }
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let version = connection.session.version;
        self.void.clear(limits::POOL_BUFFER_BYTES);
        let mut reply = Reply::new(&mut self.void, version);
        match transaction.verdict {
            Verdict::Granted => {
                if transaction.exec {
                    reply.array(transaction.commands.len());
                }
                reply.output().copy_range(&transaction.out, 0, transaction.out.mark());
            }
            Verdict::Changed => reply.null_array(),
            verdict => {
                let error = refusal(&self.engine, verdict, transaction.exec);
                if let Refusal::Error(error) = self.engine.refuse(transaction.row, error) {
                    reply.error(&error);
                }
            }
        }
        if let Some(mut batch) = transaction.batch
            && batch.reset()
            && self.spare_batches.len() < limits::POOL_BUFFERS
        {
            self.spare_batches.push(batch);
        }
        self.mark_dirty(index);
        self.note_unchecked(index);
        self.deliver_void(index);
        self.stop_waiting(index);
        self.release(index, Hold::TRANSACTION);
        self.settle(index);
        self.reclaim(index);
    }

    /// Whether a transaction that has run was about keys which this node does not lead any more.
    fn has_lost(&self, transaction: &Transaction) -> bool {
        let away = |command: &Queued| {
            let args = command.args();
            let mut keys = command.row.command.keys.positions(&args);
            keys.any(|at| self.engine.first_away(&[slot_of(args[at])]).is_some())
        };
        transaction.verdict == Verdict::Granted && transaction.commands.iter().any(away)
    }
}

/// What is answered to a transaction that must not run.
fn refusal(engine: &Engine, verdict: Verdict, exec: bool) -> Error {
    let error = match verdict {
        // Clients of a cluster find the code that they look for.
        Verdict::Away { slot } => return engine.moved(slot),
        Verdict::Down => return Error::ClusterDown,
        Verdict::ReadOnly => Error::ReadOnly,
        _ => Error::OutOfMemory,
    };
    if exec { Error::exec_abort_for(&error) } else { error }
}

/// Whether a command that has to reach every core has to do so at one moment.
pub(super) fn is_transaction(row: &Row) -> bool {
    matches!(row.command.reach, Reach::Every(_)) && row.command.flags.has(Flags::WRITE)
}
