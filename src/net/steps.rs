//! The steps of a transaction: its commands, one after the other.
//!
//! A session command runs with the connection's session, as ever; its reply joins those of the transaction
//! ([`Pump::take_void`]). A keyspace command runs where the transaction's [`Mode`] says. One that has to wait for other
//! cores suspends the transaction: the last answer goes on with it ([`Pump::step_answered`]). What it has changed is logged
//! at its end; so what the shard does to these keys by itself meanwhile must not be logged before: nothing expires, and an
//! eviction is repeated in the transaction ([`Engine::resume_transaction`]).
//!
//! Owned by the core of the connection.

use std::collections::{BTreeMap, BTreeSet};

use super::forward::{Atomic, Batch, Forwarded, Message};
use super::pump::Pump;
use super::transact::Waiting;
use super::window::RequestKey;
use crate::borrow::{Lent, Loan, Mode, Place, Ticket, plan};
use crate::command::blocking::write_nothing;
use crate::command::table::Row;
use crate::command::{Answer, Flags, Flow, Handler, Home, Merge, Owned, Reach, Session, generic, merge, pubsub};
use crate::engine::{Call, Engine, Origin};
use crate::resp::{Output, Reply};
use crate::route::{CoreId, Key};

impl Pump {
    /// Runs commands until one has to wait, or all have run.
    pub(super) fn run_transaction(&mut self, at: u32) {
        loop {
            let Some(transaction) = self.transactions[at as usize].as_deref_mut() else { return };
            let Some(command) = transaction.commands.get(transaction.at) else { return self.finish_transaction(at) };
            (transaction.answered, transaction.stepping) = (false, true);
            let (index, row, exec) = (transaction.connection, command.row, transaction.exec);
            if exec && !self.monitor_cores.is_empty() {
                let args = command.shared_args();
                let args = args.slices();
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
                // What was borrowed or is held is not in its place, or nothing happens to it.
                transaction.suspended = transaction.mode == Mode::Here && !transaction.statements.is_empty();
                self.suspended += self.transactions[at as usize].as_ref().is_some_and(|t| t.suspended) as usize;
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
            if std::mem::take(&mut transaction.suspended) {
                let mut statements = std::mem::take(&mut transaction.statements);
                self.suspended -= 1;
                self.engine.resume_transaction(&mut statements);
                if let Some(transaction) = self.transaction(at) {
                    transaction.statements = statements;
                }
            }
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
        let (index, row, args) = (transaction.connection, command.row, command.shared_args());
        let args = args.slices();
        // What the transaction has waited for is not this command's time.
        self.engine.start_clock();
        self.engine.begin_transaction();
        self.run_session(index, row, &args);
        let statements = self.engine.leave_transaction();
        if let Some(transaction) = self.transaction(at) {
            transaction.statements.extend_from_slice(&statements);
        }
    }

    /// PUBLISH: delivers here, and asks the other cores concerned to do so, too.
    fn step_publish(&mut self, at: u32, kind: crate::pubsub::Kind) {
        let Some(transaction) = self.transaction(at) else { return };
        let command = &transaction.commands[transaction.at];
        let (index, row, args) = (transaction.connection, command.row, command.shared_args());
        let (here, questions) = pubsub::publish_from(&mut self.engine, kind, args.slices()[1], args.slices()[2]);
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
        match self.transaction(at).map(|transaction| transaction.mode) {
            Some(Mode::Cores) => return self.step_over_cores(at),
            Some(Mode::Dealt) => return self.deal(at),
            _ => {}
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
            // A client that waits has had its command counted.
            counted: connection.blocked.is_none(),
        };
        let random = self.engine.random();
        self.engine.begin_transaction();
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
                merge::merge(Merge::Draw, &[part.to_vec()], &[], session.version, random, &mut transaction.out);
            }
            (false, _) => self.engine.call(call, &mut reply),
        }
        if transaction.exec && command.row.command.flags.has(Flags::BLOCKING) && transaction.out.mark() == mark {
            write_nothing(command.row, &mut Reply::new(&mut transaction.out, session.version));
        }
        let statements = self.engine.leave_transaction();
        transaction.statements.extend_from_slice(&statements);
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
        let places = plan::places(row, &args, connection.session.db, self.engine.config.databases);
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
        let parts = cores.iter().map(|&core| (core, None)).collect();
        transaction.waiting = Waiting::Parts { merge, parts, order: Vec::new() };
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
            let atomic = Atomic::new(at, loan);
            batch.transaction = Some(Box::new(atomic));
            batch.sent_at = self.engine.clock_raw();
            batches.push((core, batch));
        }
        self.send_parts(batches);
    }

    fn send_parts(&mut self, batches: Vec<(CoreId, Box<Batch>)>) {
        for (core, batch) in batches {
            if core == self.me {
                self.take_atomic(core, batch);
            } else {
                self.engine.net.hops_out += 1;
                self.send(core, Message::Requests(batch));
            }
        }
    }

    /// Lets each owner run the command for its own keys. All but the last hold them for this transaction; the last runs
    /// its part when it is its turn there, and nobody sees the parts of the others before they are released. If writes are
    /// logged, the last one holds its keys, too, until the unit of all parts has its place in the log.
    fn deal(&mut self, at: u32) {
        let Some(transaction) = self.transactions[at as usize].as_deref_mut() else { return };
        let Some(connection) = self.connections[transaction.connection as usize].as_deref() else { return };
        let command = &transaction.commands[transaction.at];
        let (row, args, owned) = (command.row, command.args(), command.owned());
        let keys = row.command.keys;
        let mut loans: BTreeMap<CoreId, Loan> = transaction
            .held
            .iter()
            .map(|held| (held.core, Loan { under: Some(held.ticket), ..Loan::default() }))
            .collect();
        loans.append(&mut transaction.loans);
        let cores: Vec<CoreId> = loans.keys().copied().collect();
        let mut parts: Vec<(Vec<&[u8]>, Owned)> = cores.iter().map(|_| (vec![args[0]], Owned::default())).collect();
        let mut order = Vec::new();
        for at in keys.positions(&args) {
            let owner = self.engine.router.owner(self.engine.hasher.key(args[at]).partition);
            let nth = cores.binary_search(&owner).unwrap_or(0);
            order.push(nth as u16);
            let (part, part_owned) = &mut parts[nth];
            for (index, arg) in args.iter().enumerate().skip(at).take(keys.step as usize) {
                owned.get(index).into_iter().for_each(|value| part_owned.push(part.len(), value));
                part.push(arg);
            }
        }
        let mut batches = Vec::with_capacity(cores.len());
        for (nth, ((core, loan), (args, owned))) in loans.into_iter().zip(parts).enumerate() {
            let mut request = forwarded(&self.engine, row, &args, connection.session.db, &connection.session);
            request.counted = nth == 0;
            let mut batch = self.spare_batches.pop().unwrap_or_default();
            (batch.connection, batch.generation) = (transaction.connection, connection.generation);
            batch.client = connection.session.id;
            batch.push(request, &args, &owned);
            batch.transaction = Some(Box::new(Atomic::new(at, loan)));
            batch.sent_at = self.engine.clock_raw();
            batches.push((core, batch));
        }
        let parts = cores.iter().map(|&core| (core, None)).collect();
        transaction.waiting = Waiting::Parts { merge: row.command.dealt, parts, order };
        self.send_parts(batches);
    }

    /// Makes one reply of the parts, when all are there.
    pub(super) fn merge_parts(&mut self, at: u32) {
        let random = self.engine.random();
        let Some(transaction) = self.transactions[at as usize].as_deref_mut() else { return };
        let Waiting::Parts { parts, .. } = &transaction.waiting else { return };
        if parts.iter().any(|(_, part)| part.is_none()) {
            return;
        }
        let Waiting::Parts { merge, parts, order } = std::mem::replace(&mut transaction.waiting, Waiting::Nothing)
        else {
            return;
        };
        let statements = std::mem::take(&mut transaction.part_statements);
        match transaction.commands[transaction.at].row.command.reach {
            // What concerns every core is the same statement on all that it has changed, and is logged once. In a cluster each
            // core has statements of its own.
            Reach::Every(_) if self.engine.view.is_none() => {
                transaction.statements.extend(statements.into_iter().max_by_key(Vec::len).unwrap_or_default())
            }
            _ => transaction.statements.extend(statements.into_iter().flatten()),
        }
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
                merge::merge(how, &parts, &order, version.unwrap_or_default(), random, &mut transaction.out);
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
    pub(super) fn entries_arrived(&mut self, from: CoreId, at: u32, lent: Lent) {
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
}

/// The first key of a command, and which argument it is.
fn first_key<'a>(engine: &Engine, row: &Row, args: &[&'a [u8]]) -> Option<(usize, Key<'a>)> {
    let at = row.command.keys.positions(args).next()?;
    Some((at, engine.hasher.key(args[at])))
}

/// A queued command as a part of a batch.
pub(super) fn forwarded(engine: &Engine, row: &Row, args: &[&[u8]], db: usize, session: &Session) -> Forwarded {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::command::table;
    use crate::net::testing::Cores;

    #[test]
    fn what_a_transaction_waits_for_is_no_time_of_its_next_command() {
        let mut cores = Cores::alone(2);
        let mut client = cores.connect(0);
        client.send("MULTI\r\nLATENCY LATEST\r\nCLIENT ID\r\nEXEC");
        // The other core does not answer for a while.
        let waited = Duration::from_millis(300);
        let asks = |cores: &Cores| cores.pumps[0].engine.stats[table().lookup(b"exec").unwrap().id as usize].calls > 0;
        while !asks(&cores) {
            cores.turn_of(0);
        }
        std::thread::sleep(waited);
        cores.wait_until("all have run", |cores| cores.pumps[0].engine.stats[client_id()].calls > 0);
        let nanos = cores.pumps[0].engine.stats[client_id()].nanos;
        assert!(nanos < waited.as_nanos() as u64, "{nanos}");
    }

    fn client_id() -> usize {
        table().lookup_full(b"client|id").unwrap().id as usize
    }
}
