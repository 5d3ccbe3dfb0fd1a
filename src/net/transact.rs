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

use std::collections::{BTreeMap, BTreeSet};

use super::connection::Hold;
use super::forward::{Atomic, Batch, Forwarded, Message};
use super::limits;
use super::pump::Pump;
use super::window::RequestKey;
use crate::borrow::{Coordinator, Lent, Loan, Mode, Place, Plan, Step, Ticket, Verdict};
use crate::command::blocking::write_nothing;
use crate::command::connection::selected_database;
use crate::command::table::Row;
use crate::command::transaction::Queued;
use crate::command::{Answer, Flags, Flow, Handler, Home, Merge, Reach, generic, merge, pubsub};
use crate::engine::{Call, Engine, Origin, Refusal};
use crate::resp::{Error, Output, Reply};
use crate::route::{CoreId, Key};
use crate::shard::TransactionId;

/// A claim that a core has granted.
struct Held {
    core: CoreId,
    ticket: Ticket,
    /// The entries that are here.
    places: Vec<Place>,
}

/// What the command that runs waits for.
enum Waiting {
    Nothing,
    /// The replies of cores that run it, and how they become one.
    Parts {
        merge: Option<Merge>,
        parts: Vec<(CoreId, Option<Output>)>,
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
    id: TransactionId,
    connection: u32,
    /// EXEC, or the one command.
    row: &'static Row,
    /// The replies become an array.
    exec: bool,
    commands: Vec<Queued>,
    mode: Mode,
    coordinator: Coordinator,
    /// What is still to be asked for.
    loans: BTreeMap<CoreId, Loan>,
    held: Vec<Held>,
    verdict: Verdict,
    /// The commands run: the next is `commands[at]`.
    running: bool,
    at: usize,
    /// That one has its reply.
    answered: bool,
    /// [`Pump::run_transaction`] is at work on it.
    stepping: bool,
    waiting: Waiting,
    /// What ran elsewhere, and how many of its replies are used.
    batch: Option<Box<Batch>>,
    used: usize,
    out: Output,
}

impl Transaction {
    fn ticket(&self, core: CoreId) -> Option<Ticket> {
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
        let plan = Plan::new(&self.engine.router, &self.engine.hasher, dbs, &commands, &watched);
        let cores = match plan.mode {
            Mode::There(_) => Vec::new(),
            _ => plan.loans.keys().copied().collect(),
        };
        let transaction = Transaction {
            id: self.engine.new_transaction(),
            connection: index,
            row,
            exec,
            commands,
            mode: plan.mode,
            coordinator: Coordinator::new(cores),
            loans: plan.loans,
            held: Vec::new(),
            verdict: Verdict::Granted,
            running: false,
            at: 0,
            answered: false,
            stepping: false,
            waiting: Waiting::Nothing,
            batch: None,
            used: 0,
            out: Output::new(),
        };
        let step = transaction.coordinator.begin();
        self.transactions[free as usize] = Some(Box::new(transaction));
        match plan.mode {
            Mode::There(core) => self.send_away(free, core),
            _ => self.take_step(free, step),
        }
    }

    fn transaction(&mut self, at: u32) -> Option<&mut Transaction> {
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
        batch.transaction = Some(Box::new(Atomic {
            transaction: at,
            id: transaction.id,
            loan: transaction.loans.remove(&core).unwrap_or_default(),
            verdict: Verdict::Granted,
        }));
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
            return self.merge_parts(at);
        }
        transaction.verdict = atomic.verdict;
        transaction.batch = Some(batch);
        match atomic.verdict {
            Verdict::Granted => self.take_step(at, Step::Run),
            _ => self.finish_transaction(at),
        }
    }

    /// Runs commands until one has to wait, or all have run.
    fn run_transaction(&mut self, at: u32) {
        loop {
            let Some(transaction) = self.transactions[at as usize].as_deref_mut() else { return };
            let Some(command) = transaction.commands.get(transaction.at) else { return self.finish_transaction(at) };
            (transaction.answered, transaction.stepping) = (false, true);
            let (index, row, exec) = (transaction.connection, command.row, transaction.exec);
            if exec && !self.monitor_cores.is_empty() {
                let args = command.shared_args();
                let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_slice()).collect();
                self.show_to_monitors(index, row, &args);
            }
            match (row.command.handler, row.command.reach) {
                (Handler::Keyspace(_), Reach::Listeners(kind)) => self.step_publish(at, kind),
                (Handler::Keyspace(_), _) => self.step_keyspace(at),
                _ => self.step_session(at),
            }
            let Some(transaction) = self.transaction(at) else { return };
            transaction.stepping = false;
            if !transaction.answered {
                return;
            }
            transaction.at += 1;
        }
    }

    /// The command that runs has its reply.
    fn step_answered(&mut self, at: u32) {
        let Some(transaction) = self.transaction(at) else { return };
        transaction.answered = true;
        if !transaction.stepping {
            transaction.at += 1;
            self.run_transaction(at);
        }
    }

    /// Takes what is in `void` as the reply of the command that runs in a transaction of this connection; false if there
    /// is none.
    pub(super) fn take_void(&mut self, index: u32) -> bool {
        let Some(at) = self.connection(index).and_then(|connection| connection.transaction) else { return false };
        let Some(transaction) = self.transactions[at as usize].as_deref_mut().filter(|t| t.running) else {
            return false;
        };
        transaction.out.copy_range(&self.void, 0, self.void.mark());
        self.step_answered(at);
        true
    }

    fn step_session(&mut self, at: u32) {
        let Some(transaction) = self.transaction(at) else { return };
        let command = &transaction.commands[transaction.at];
        let (index, id, row, args) = (transaction.connection, transaction.id, command.row, command.shared_args());
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_slice()).collect();
        self.engine.set_transaction(Some(id));
        self.run_session(index, row, &args);
        self.engine.set_transaction(None);
    }

    /// PUBLISH: delivers here, and asks the other cores concerned to do so, too.
    fn step_publish(&mut self, at: u32, kind: crate::pubsub::Kind) {
        let Some(transaction) = self.transaction(at) else { return };
        let command = &transaction.commands[transaction.at];
        let (index, row, args) = (transaction.connection, command.row, command.shared_args());
        let (here, questions) = pubsub::publish_from(&mut self.engine, kind, &args[1], &args[2]);
        self.engine.stats[row.id as usize].calls += 1;
        let finish = move |_: &mut Home, answers: Vec<Answer>, reply: &mut Reply| {
            let there = answers.iter().map(|answer| if let Answer::Count(count) = answer { *count } else { 0 });
            reply.int((here + there.sum::<u64>()) as i64);
            Ok(Flow::Done)
        };
        self.tell();
        self.ask(index, row, questions, Box::new(finish));
    }

    fn step_keyspace(&mut self, at: u32) {
        if let Some(Mode::Cores) = self.transaction(at).map(|transaction| transaction.mode) {
            return self.step_over_cores(at);
        }
        let Some(transaction) = self.transactions[at as usize].as_deref_mut() else { return };
        transaction.answered = true;
        if let Some(batch) = &transaction.batch {
            let start = if transaction.used == 0 { 0 } else { batch.ends[transaction.used - 1] };
            transaction.out.copy_range(&batch.out, start, batch.ends[transaction.used]);
            transaction.used += 1;
            return;
        }
        let borrowed = transaction.mode == Mode::Scratch;
        self.call_queued(at, borrowed);
    }

    /// Executes the command that runs on this core's shard, or on what was borrowed.
    fn call_queued(&mut self, at: u32, borrowed: bool) {
        let Some(transaction) = self.transactions[at as usize].as_deref_mut() else { return };
        let Some(connection) = self.connections[transaction.connection as usize].as_deref() else { return };
        let session = &connection.session;
        let command = &transaction.commands[transaction.at];
        let (args, owned) = (command.args(), command.owned());
        let call = Call {
            row: command.row,
            args: &args,
            first: first_key(&self.engine, command.row, &args).map(|(_, key)| key),
            db: session.db,
            no_touch: session.no_touch,
            owned: &owned,
            origin: Origin::Client(session),
            counted: connection.blocked.is_none(),
        };
        let random = self.engine.random();
        self.engine.set_transaction(Some(transaction.id));
        self.engine.start_clock();
        let mark = transaction.out.mark();
        let mut reply = Reply::new(&mut transaction.out, session.version);
        match (borrowed, command.row.command.reach) {
            (true, _) => self.engine.call_borrowed(call, &mut reply),
            // The only part; what it looks like is known to the merge.
            (false, Reach::Every(Merge::Draw)) => {
                let mut part = Output::new();
                self.engine.call(call, &mut Reply::new(&mut part, session.version));
                debug_assert_eq!(mark, transaction.out.mark());
                merge::merge(Merge::Draw, &[part.to_vec()], session.version, random, &mut transaction.out);
            }
            (false, _) => self.engine.call(call, &mut reply),
        }
        if transaction.exec && command.row.command.flags.has(Flags::BLOCKING) && transaction.out.mark() == mark {
            write_nothing(command.row, &mut Reply::new(&mut transaction.out, session.version));
        }
        self.engine.set_transaction(None);
    }

    /// Executes the command that runs while all cores are borrowed whole: on the cores that own what it needs, or, if
    /// keys of several are needed at once, with these brought here.
    fn step_over_cores(&mut self, at: u32) {
        let Some(transaction) = self.transactions[at as usize].as_deref() else { return };
        let Some(connection) = self.connections[transaction.connection as usize].as_deref() else { return };
        let command = &transaction.commands[transaction.at];
        let (row, args) = (command.row, command.args());
        let router = &self.engine.router;
        let owner = |key: &[u8]| router.owner(self.engine.hasher.key(key).partition);
        let (merge, cores): (Option<Merge>, Vec<CoreId>) = match row.command.reach {
            Reach::Every(merge) => (Some(merge), (0..router.cores()).collect()),
            Reach::Cursor => {
                let partition = generic::scan::scan_partition(&args).filter(|&p| p < router.partitions());
                (None, vec![partition.map_or(self.me, |partition| router.owner(partition))])
            }
            _ => {
                let mut cores: Vec<CoreId> = Vec::new();
                if row.command.keys.is_whole(args.len()) {
                    cores.extend(row.command.keys.positions(&args).map(|at| owner(args[at])));
                }
                cores.sort_unstable();
                cores.dedup();
                if cores.is_empty() {
                    cores.push(self.me);
                }
                (None, cores)
            }
        };
        let reads_more = row.command.keys.reads_more(&args);
        if merge.is_some() || (cores.len() == 1 && !reads_more) {
            return self.run_parts(at, merge, cores);
        }
        let places = crate::borrow::plan::places(row, &args, connection.session.db, self.engine.config.databases);
        let places = self.by_owner(places);
        self.fetch_entries(at, places, Vec::new(), !reads_more);
    }

    /// Places with their owners, each once.
    fn by_owner(&self, places: Vec<Place>) -> Vec<(CoreId, Vec<Place>)> {
        let mut owners: BTreeMap<CoreId, BTreeSet<Place>> = BTreeMap::new();
        for place in places {
            let owner = self.engine.router.owner(self.engine.hasher.key(&place.1).partition);
            owners.entry(owner).or_default().insert(place);
        }
        owners.into_iter().map(|(core, places)| (core, places.into_iter().collect())).collect()
    }

    /// What the command needs besides what is here, which says so.
    fn further_places(&mut self, at: u32, here: &[(CoreId, Vec<Place>)]) -> Vec<(CoreId, Vec<Place>)> {
        let Some(transaction) = self.transactions[at as usize].as_deref() else { return Vec::new() };
        let Some(connection) = self.connections[transaction.connection as usize].as_deref() else { return Vec::new() };
        let args = transaction.commands[transaction.at].args();
        let mut places = self.engine.looked_up(&args, connection.session.db);
        places.retain(|place| here.iter().all(|(_, places)| !places.contains(place)));
        self.by_owner(places)
    }

    /// Lets cores that are borrowed whole run the command.
    fn run_parts(&mut self, at: u32, merge: Option<Merge>, cores: Vec<CoreId>) {
        let Some(transaction) = self.transactions[at as usize].as_deref_mut() else { return };
        let Some(connection) = self.connections[transaction.connection as usize].as_deref() else { return };
        let session = &connection.session;
        transaction.waiting = Waiting::Parts { merge, parts: cores.iter().map(|&core| (core, None)).collect() };
        let mut batches = Vec::new();
        for (nth, &core) in cores.iter().enumerate() {
            let command = &transaction.commands[transaction.at];
            let args = command.args();
            let mut request = forwarded(&self.engine, command.row, &args, session.db, session);
            request.counted = nth == 0;
            let mut batch = self.spare_batches.pop().unwrap_or_default();
            (batch.connection, batch.generation) = (transaction.connection, connection.generation);
            batch.client = session.id;
            batch.push(request, &args, &command.owned());
            let loan = Loan { under: transaction.ticket(core), ..Loan::default() };
            let atomic = Atomic { transaction: at, id: transaction.id, loan, verdict: Verdict::Granted };
            batch.transaction = Some(Box::new(atomic));
            batch.sent_at = self.engine.clock_raw();
            batches.push((core, batch));
        }
        for (core, batch) in batches {
            if core == self.me {
                self.take_atomic(core, batch);
            } else {
                self.engine.net.hops_out += 1;
                self.send(core, Message::Requests(batch));
            }
        }
    }

    /// Makes one reply of the parts, when all are there.
    fn merge_parts(&mut self, at: u32) {
        let random = self.engine.random();
        let Some(transaction) = self.transactions[at as usize].as_deref_mut() else { return };
        let Waiting::Parts { parts, .. } = &transaction.waiting else { return };
        if parts.iter().any(|(_, part)| part.is_none()) {
            return;
        }
        let Waiting::Parts { merge, parts } = std::mem::replace(&mut transaction.waiting, Waiting::Nothing) else {
            return;
        };
        let version = self.connections[transaction.connection as usize].as_deref().map(|c| c.session.version);
        let mut parts = parts.into_iter().flat_map(|(_, part)| part);
        match merge {
            None => {
                if let Some(part) = parts.next() {
                    transaction.out.copy_range(&part, 0, part.mark());
                }
            }
            Some(how) => {
                let parts: Vec<Vec<u8>> = parts.map(|part| part.to_vec()).collect();
                merge::merge(how, &parts, version.unwrap_or_default(), random, &mut transaction.out);
            }
        }
        self.step_answered(at);
    }

    /// Brings entries of cores that are borrowed whole, for one command.
    fn fetch_entries(
        &mut self,
        at: u32,
        places: Vec<(CoreId, Vec<Place>)>,
        here: Vec<(CoreId, Vec<Place>)>,
        all: bool,
    ) {
        let me = self.me;
        let Some(transaction) = self.transaction(at) else { return };
        let loan = |(core, places): &(CoreId, Vec<Place>)| {
            (*core, Loan { entries: places.clone(), under: transaction.ticket(*core), ..Loan::default() })
        };
        let loans: Vec<(CoreId, Loan)> = places.iter().map(loan).collect();
        transaction.waiting = Waiting::Entries { cores: places.len(), places, here, all };
        for (core, loan) in loans {
            let loan = Box::new(loan);
            if core == me {
                self.borrow(me, at, loan);
            } else {
                self.send(core, Message::Borrow { transaction: at, loan });
            }
        }
    }

    /// Entries for one command have come; when all are there, those that they refer to included, it runs, and they go back.
    fn entries_arrived(&mut self, from: CoreId, at: u32, lent: Lent) {
        let Some(transaction) = self.transactions[at as usize].as_deref_mut() else { return };
        let Waiting::Entries { cores, places, .. } = &mut transaction.waiting else { return };
        if let Some((_, places)) = places.iter().find(|(core, _)| *core == from) {
            self.engine.bring(places, lent.entries);
        }
        *cores -= 1;
        if *cores > 0 {
            return;
        }
        let waiting = std::mem::replace(&mut transaction.waiting, Waiting::Nothing);
        let Waiting::Entries { places, mut here, all, .. } = waiting else { return };
        here.extend(places);
        if !all {
            let further = self.further_places(at, &here);
            if !further.is_empty() {
                return self.fetch_entries(at, further, here, true);
            }
        }
        let Some(transaction) = self.transactions[at as usize].as_deref() else { return };
        let places = here;
        let tickets: Vec<Option<Ticket>> = places.iter().map(|(core, _)| transaction.ticket(*core)).collect();
        self.call_queued(at, true);
        for ((core, places), ticket) in places.into_iter().zip(tickets) {
            self.send_back(core, ticket.unwrap_or_default(), places, true);
        }
        self.step_answered(at);
    }

    /// Returns entries to their owner.
    fn send_back(&mut self, core: CoreId, ticket: Ticket, places: Vec<Place>, keep: bool) {
        let entries = self.engine.give_back(places);
        if core == self.me {
            self.returned(ticket, entries, keep);
        } else {
            self.send(core, Message::Return { ticket, entries, keep });
        }
    }

    /// Gives back what is held, and answers.
    fn finish_transaction(&mut self, at: u32) {
        let Some(transaction) = self.transactions[at as usize].take() else { return };
        let mut transaction = *transaction;
        let index = transaction.connection;
        // Cores that were not asked do not know that nobody watches their keys any more.
        for (core, loan) in std::mem::take(&mut transaction.loans) {
            self.forget_watched(core, loan.watched.into_iter().map(|(place, _)| place).collect());
        }
        for Held { core, ticket, places } in std::mem::take(&mut transaction.held) {
            self.send_back(core, ticket, places, false);
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        connection.transaction = None;
        let blocks = !transaction.exec && transaction.row.command.flags.has(Flags::BLOCKING);
        let nothing = transaction.verdict == Verdict::Granted && transaction.out.is_empty();
        if blocks
            && nothing
            && let Some(command) = transaction.commands.pop()
        {
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
            Verdict::Full => {
                let error = Error::OutOfMemory;
                let error = if transaction.exec { Error::exec_abort_for(&error) } else { error };
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
        self.deliver_void(index);
        self.stop_waiting(index);
        self.release(index, Hold::TRANSACTION);
        self.settle(index);
        self.reclaim(index);
    }
}

/// The first key of a command, and which argument it is.
fn first_key<'a>(engine: &Engine, row: &Row, args: &[&'a [u8]]) -> Option<(usize, Key<'a>)> {
    let at = row.command.keys.positions(args).next()?;
    Some((at, engine.hasher.key(args[at])))
}

/// A queued command as a part of a batch.
fn forwarded(engine: &Engine, row: &Row, args: &[&[u8]], db: usize, session: &crate::command::Session) -> Forwarded {
    let key = first_key(engine, row, args);
    Forwarded {
        row: row.id,
        db: db as u8,
        version: session.version,
        no_touch: session.no_touch,
        counted: true,
        argc: args.len() as u32,
        key: key.map(|(at, key)| RequestKey { at: at as u16, partition: key.partition, hash: key.hash }),
    }
}

/// Whether a command that has to reach every core has to do so at one moment.
pub(super) fn is_transaction(row: &Row) -> bool {
    matches!(row.command.reach, Reach::Every(_)) && row.command.flags.has(Flags::WRITE)
}
