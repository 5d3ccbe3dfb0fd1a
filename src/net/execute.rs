//! Execution of the window.
//!
//! Local requests run here; requests for other cores join the batch that this turn sends there. Replies are written in
//! request order: while another core owes an earlier one, later ones are held back ([`super::forward::Forwarding`]).
//!
//! Longer than other files: all ways on which a request is executed stand beside each other.

use super::connection::{Connection, Hold};
use super::forward::{Batch, Forwarding, Message, Slot, Split};
use super::held::{note_batch_needs, told_of};
use super::limits;
use super::owner::StreamId;
use super::pump::Pump;
use super::window::{Request, Target, Way};
use crate::command::pubsub::MERGE;
use crate::command::session::ReplyMode;
use crate::command::table::Row;
use crate::command::transaction::Queued;
use crate::command::{Flags, Flow, Reach, monitor};
use crate::engine::{Call, Origin};
use crate::log::durability::Durability;
use crate::resp::{Output, Reply};
use crate::route::{CoreId, Key};

impl Pump {
    /// Executes every request of the window.
    pub(super) fn run_window(&mut self) {
        let window = &self.window;
        if window.requests.is_empty() && window.pinned.is_empty() && window.barriers.is_empty() {
            return;
        }
        self.fetch();
        self.engine.start_clock();
        let mut requests = std::mem::take(&mut self.window.requests);
        let mut args = std::mem::take(&mut self.window.args);
        for request in &requests {
            match request.target {
                Target::Connection(index) => self.run_request(index, request, &args),
                Target::Batch(at) => self.run_forwarded(at as usize, request, &args),
            }
        }
        if self.engine.in_cluster {
            self.note_executed(&requests);
        }
        requests.clear();
        args.clear();
        self.window.requests = requests;
        self.window.args = args;
        self.send_all_told();
        self.return_batches();
        self.unpin();
        self.release_barriers();
    }

    /// Starts to load what the requests will look at: the buckets of their keys, then, as the buckets arrive, the entries.
    ///
    /// With many keys each of these loads misses the TLB, and the processor gets no further than its reorder buffer while it
    /// walks the page tables. In loops as small as these, several walks fit into that buffer and go on at the same time.
    fn fetch(&self) {
        let shard = &self.engine.shard;
        let requests = || {
            let local = |request: &&Request| request.key_at != 0 && matches!(request.way, Way::Local);
            let key = |r: &Request| (r.db as usize, Key { bytes: &[], hash: r.hash, partition: r.partition });
            self.window.requests.iter().filter(local).map(key)
        };
        requests().for_each(|(db, key)| shard.prefetch_bucket(db, &key));
        requests().for_each(|(db, key)| shard.prefetch_entry(db, &key));
        if shard.orders_accesses() {
            requests().for_each(|(db, key)| shard.prefetch_order(db, &key));
        }
    }

    /// Removes what was executed from the input buffers that the window pointed into.
    fn unpin(&mut self) {
        let mut pinned = std::mem::take(&mut self.window.pinned);
        for index in pinned.drain(..) {
            let Some(connection) = self.connection(index) else { continue };
            connection.pinned = false;
            if connection.consumed == connection.inbuf.len() {
                connection.inbuf = Vec::new();
            } else {
                connection.inbuf.drain(..connection.consumed);
            }
            connection.consumed = 0;
            // What was pinned may have been no request at all, and the last thing that kept the connection open.
            if connection.eof {
                self.mark_dirty(index);
            }
        }
        self.window.pinned = pinned;
    }

    fn release_barriers(&mut self) {
        let mut barriers = std::mem::take(&mut self.window.barriers);
        for index in barriers.drain(..) {
            let Some(connection) = self.connection(index) else { continue };
            if std::mem::take(&mut connection.close_after_window) {
                connection.hold.set(Hold::CLOSE);
                connection.close_when_sent = true;
                self.mark_dirty(index);
            }
            self.release(index, Hold::BARRIER);
        }
        self.window.barriers = barriers;
    }

    /// Ends one reason to wait.
    pub(super) fn release(&mut self, index: u32, reason: Hold) {
        if let Some(connection) = self.connection(index)
            && connection.hold.clear(reason)
            && !std::mem::replace(&mut connection.ready, true)
        {
            self.ready.push_back(index);
        }
    }

    pub(super) fn mark_dirty(&mut self, index: u32) {
        if let Some(connection) = &mut self.connections[index as usize]
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(index);
        }
    }

    #[inline]
    fn run_request(&mut self, index: u32, request: &Request, args: &[&'static [u8]]) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.dead {
            return;
        }
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(index);
        }
        // The common case: nothing is owed, the reply goes straight to the output.
        if matches!(request.way, Way::Local)
            && self.monitor_cores.is_empty()
            && !self.engine.shard.events.recording()
            && self.owner.is_idle()
            && self.waits.is_empty()
            && !self.engine.holds
            && !connection.owes()
            && connection.session.reply_mode == ReplyMode::On
        {
            if connection.out.capacity() == 0 {
                connection.out = self.pool.pop().unwrap_or_default();
            }
            let call = call_of(request, args, Origin::Client(&connection.session));
            return self.engine.call(call, &mut Reply::new(&mut connection.out, request.version));
        }
        self.run_other(index, request, args);
    }

    /// As [`Pump::run_request`], for whatever is not the common case.
    #[inline(never)]
    fn run_other(&mut self, index: u32, request: &Request, args: &[&'static [u8]]) {
        let drains = match request.way {
            Way::Borrow => true,
            Way::Session => request.row.command.flags.has(Flags::DRAINS),
            _ => false,
        };
        if drains && self.must_drain(index, request.args(args)) {
            return;
        }
        let shown = !matches!(request.way, Way::Reject(_) | Way::Queued) && !self.is_exec(index, request.row);
        if shown && !self.monitor_cores.is_empty() {
            self.show_to_monitors(index, request.row, request.args(args));
        }
        let waits = matches!(request.way, Way::Local)
            && !self.owner.is_idle()
            && self.must_wait(self.own_stream(index), request, request.args(args));
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        match &request.way {
            Way::Local if waits => {
                let silent = silenced(connection);
                self.park_request(index, request, request.args(args), silent);
            }
            Way::Local | Way::Publish => {
                self.void.clear(limits::POOL_BUFFER_BYTES);
                let call = call_of(request, args, Origin::Client(&connection.session));
                let before = self.engine.seq();
                self.engine.call(call, &mut Reply::new(&mut self.void, request.version));
                // Copies are of what is safe.
                if self.engine.holds && !self.engine.is_copy(request.db as usize) {
                    let first = (request.key_at != 0).then_some(request.partition);
                    let partition = told_of(&self.engine, request.row, request.args(args), first);
                    self.note_needs(index, partition, before);
                }
                self.deliver_void(index);
            }
            Way::Reject(error) => {
                self.void.clear(limits::POOL_BUFFER_BYTES);
                Reply::new(&mut self.void, request.version).error(error);
                self.deliver_void(index);
            }
            Way::Session => self.run_session(index, request.row, request.args(args)),
            Way::Forward(core) => self.forward(index, *core, request, request.args(args)),
            Way::Split => self.split(index, request, request.args(args)),
            Way::Borrow => {
                let command = Queued::new(request.row, request.args(args), &request.owned);
                self.begin_transaction(index, request.row, vec![command], false);
            }
            Way::Queued => {
                self.void.clear(limits::POOL_BUFFER_BYTES);
                Reply::new(&mut self.void, request.version).simple("QUEUED");
                self.deliver_void(index);
            }
        }
        self.make_offers();
    }

    /// Appends what was written to `void` as the next reply of a connection, unless it wants none.
    pub(super) fn deliver_void(&mut self, index: u32) {
        self.tell();
        if self.take_void(index) {
            return;
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if silenced(connection) || self.void.is_empty() {
            return;
        }
        self.append_void(index);
    }

    /// Appends what was written to `void`, wanted or not.
    fn append_void(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let end = self.void.mark();
        match &mut connection.forwarding {
            Some(forwarding) if !forwarding.order.is_empty() => {
                forwarding.held.copy_range(&self.void, 0, end);
                let end = forwarding.held.mark();
                forwarding.order.push_back(Slot::Local { end });
            }
            _ => {
                if connection.out.capacity() == 0 {
                    connection.out = self.pool.pop().unwrap_or_default();
                }
                connection.out.copy_range(&self.void, 0, end);
            }
        }
        self.mark_dirty(index);
    }

    pub(super) fn run_session(&mut self, index: u32, row: &'static Row, args: &[&[u8]]) {
        self.refresh_net_info(index);
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        self.void.clear(limits::POOL_BUFFER_BYTES);
        let mut reply = Reply::new(&mut self.void, connection.session.version);
        let flow = self.engine.call_session(row, &mut connection.session, args, &mut reply);
        self.follow(index, row, flow);
    }

    /// Does what a session command has asked for; its reply is in `void`.
    pub(super) fn follow(&mut self, index: u32, row: &'static Row, flow: Flow) {
        match flow {
            Flow::Done => self.deliver_void(index),
            Flow::Pushed => {
                if let Some(connection) = self.connection(index) {
                    // It counts as the command that CLIENT REPLY SKIP skips.
                    silenced(connection);
                }
                self.append_void(index);
            }
            Flow::Close => {
                self.deliver_void(index);
                if let Some(connection) = self.connection(index) {
                    connection.hold.set(Hold::CLOSE);
                    connection.close_when_sent = true;
                }
                self.mark_dirty(index);
            }
            Flow::Ask(questions, finish) => self.ask(index, row, questions, finish),
            Flow::Monitor => {
                self.deliver_void(index);
                self.start_monitor(index);
            }
            Flow::Exec => self.exec(index, row),
            Flow::Unqueue => {
                self.deliver_void(index);
                self.unqueue(index);
            }
            Flow::Unmonitor => {
                self.deliver_void(index);
                self.unqueue(index);
                self.stop_monitor(index);
            }
            Flow::HandOver => self.hand_over(index),
        }
    }

    /// Notes an executed command for MONITOR.
    pub(super) fn show_to_monitors(&mut self, index: u32, row: &Row, args: &[&[u8]]) {
        let flags = row.command.flags;
        let Some(connection) = self.connections[index as usize].as_deref() else { return };
        if flags.has(Flags::SKIP_MONITOR) || flags.has(Flags::ADMIN) {
            return;
        }
        let session = &connection.session;
        let unix_us = self.engine.shard.now_ms() * 1000;
        let addr = if session.unix_socket { format!("unix:{}", session.addr) } else { session.addr.clone() };
        let line = monitor::line(unix_us, session.db, &addr, row, args);
        self.monitor_lines.extend_from_slice(&line);
    }

    /// Adds a request to this turn's batch for another core.
    fn forward(&mut self, index: u32, core: CoreId, request: &Request, args: &[&[u8]]) {
        self.batch_for(index, core).push(request.forwarded(args.len()), args, &request.owned);
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let silent = silenced(connection);
        self.owe(index, Slot::Core { core, silent }, args.iter().map(|arg| arg.len()).sum());
    }

    /// The batch that this turn fills for `core` on behalf of a connection.
    fn batch_for(&mut self, index: u32, core: CoreId) -> &mut Batch {
        let cores = self.engine.router.cores() as usize;
        let connection = self.connections[index as usize].as_deref_mut().expect("the caller has checked");
        let forwarding = connection.forwarding.get_or_insert_with(|| Box::new(Forwarding::new(cores)));
        if forwarding.open.iter().all(Option::is_none) {
            self.forwarding.push(index);
        }
        let batch = forwarding.open[core as usize].get_or_insert_with(|| {
            let mut batch = self.spare_batches.pop().unwrap_or_default();
            batch.connection = index;
            batch.generation = connection.generation;
            batch.client = connection.session.id;
            batch
        });
        // The client may have chosen another one meanwhile.
        let durability = connection.session.durability.unwrap_or(self.engine.default_durability);
        batch.durability = batch.durability.max(durability);
        batch
    }

    /// Notes that a connection is owed a reply that is not there yet, to a request of so many bytes.
    pub(super) fn owe(&mut self, index: u32, slot: Slot, bytes: usize) {
        let cores = self.engine.router.cores() as usize;
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let forwarding = connection.forwarding.get_or_insert_with(|| Box::new(Forwarding::new(cores)));
        forwarding.bytes += bytes;
        forwarding.order.push_back(slot);
        if forwarding.order.len() >= limits::OWED_REPLIES || forwarding.bytes >= limits::OWED_BYTES {
            connection.hold.set(Hold::OWED);
        }
    }

    /// Lets every core run a request, each on its own keys.
    fn split(&mut self, index: u32, request: &Request, args: &[&[u8]]) {
        let (merge, cores): (_, Vec<CoreId>) = match request.row.command.reach {
            // To its clients a core is a node: they count, and gather, over all of them.
            Reach::Every(merge) if self.is_of_core(index) => (merge, vec![self.me]),
            Reach::Every(merge) => (merge, (0..self.engine.router.cores()).collect()),
            Reach::Listeners(kind) => {
                let mut cores: Vec<CoreId> = self.engine.pubsub.interest().cores_of(kind, args[1]).collect();
                cores.push(self.me);
                cores.sort_unstable();
                (MERGE, cores)
            }
            Reach::Home | Reach::Keys | Reach::Cursor => unreachable!("routed as a split command"),
        };
        let random = self.engine.random();
        let mut local = None;
        for (at, &core) in cores.iter().enumerate() {
            let mut forwarded = request.forwarded(args.len());
            forwarded.counted = at == 0;
            // Whose core its key is does not matter.
            forwarded.key = None;
            if core != self.me {
                self.batch_for(index, core).push(forwarded, args, &request.owned);
                continue;
            }
            if !self.owner.is_idle() && self.must_wait(self.own_stream(index), request, args) {
                self.park_part(index, request, args);
                continue;
            }
            let Some(connection) = self.connections[index as usize].as_deref() else { return };
            let mut out = Output::new();
            let call = Call {
                row: request.row,
                args,
                first: None,
                db: request.db as usize,
                no_touch: request.no_touch,
                owned: &request.owned,
                origin: Origin::Client(&connection.session),
                counted: forwarded.counted,
            };
            let before = self.engine.seq();
            self.engine.call(call, &mut Reply::new(&mut out, request.version));
            local = Some((at, out));
            if self.engine.holds {
                self.note_needs(index, None, before);
            }
        }
        self.tell();
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let silent = silenced(connection);
        let split = Split { merge, version: request.version, silent, parts: cores, local, random };
        self.owe(index, Slot::Split(Box::new(split)), args.iter().map(|arg| arg.len()).sum());
        self.merge_replies(index);
    }

    /// Executes a request of another core.
    fn run_forwarded(&mut self, at: usize, request: &Request, args: &[&'static [u8]]) {
        let waits = self.engine.holds_late(request.row, args, request.db)
            || !self.owner.is_idle() && self.forwarded_waits(at, request, args);
        let (core, batch) = &mut self.window.batches[at];
        if waits && let Some(batch) = batch.take() {
            let core = *core;
            return self.park_batch(core, batch);
        }
        // None: it waits already, and this request with it.
        let Some(batch) = batch else { return };
        self.engine.net.hops_in += 1;
        let call = call_of(request, args, Origin::Forwarded(batch.client));
        let partition = (request.key_at != 0).then_some(request.partition);
        if batch.applies {
            self.engine.apply(call, &mut Reply::new(&mut batch.out, request.version));
            batch.needs = self.engine.applied_seq();
        } else if let Some(error) = self.engine.refuses_late(request.row) {
            Reply::new(&mut batch.out, request.version).error(&error);
        } else if let Some(error) = self.engine.refuses_away(request.row, call.args, call.db, partition) {
            Reply::new(&mut batch.out, request.version).error(&error);
        } else if batch.durability == Durability::Memory || self.engine.is_copy(call.db) {
            self.engine.call(call, &mut Reply::new(&mut batch.out, request.version));
        } else {
            let before = self.engine.seq();
            self.engine.call(call, &mut Reply::new(&mut batch.out, request.version));
            let partition = told_of(&self.engine, request.row, args, partition);
            note_batch_needs(&mut self.engine, batch, partition, before);
        }
        batch.ends.push(batch.out.mark());
        self.tell();
        self.make_offers();
    }

    #[cold]
    fn forwarded_waits(&self, at: usize, request: &Request, args: &[&'static [u8]]) -> bool {
        let (core, batch) = &self.window.batches[at];
        let Some(batch) = batch else { return false };
        let id = StreamId { core: *core, connection: batch.connection, generation: batch.generation };
        self.must_wait(id, request, request.args(args))
    }

    /// Sends executed batches back to where they came from.
    fn return_batches(&mut self) {
        let mut batches = std::mem::take(&mut self.window.batches);
        for (core, batch) in batches.drain(..) {
            if let Some(batch) = batch {
                self.return_batch(core, batch);
            }
        }
        self.window.batches = batches;
    }

    /// Moves replies whose turn has come to a connection's output.
    pub(super) fn merge_replies(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let Some(forwarding) = &mut connection.forwarding else { return };
        if connection.out.capacity() == 0 {
            connection.out = self.pool.pop().unwrap_or_default();
        }
        let mut done = std::mem::take(&mut self.done_batches);
        forwarding.merge_into(&mut connection.out, &mut done);
        let drained = forwarding.order.is_empty();
        if drained {
            forwarding.bytes = 0;
        }
        let room = forwarding.order.len() < limits::OWED_REPLIES / 2 && forwarding.bytes < limits::OWED_BYTES;
        if drained && connection.hold.has(Hold::DRAIN) {
            self.release(index, Hold::DRAIN);
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if room && connection.hold.has(Hold::OWED) {
            self.release(index, Hold::OWED);
        }
        for mut batch in done.drain(..) {
            if batch.reset() && self.spare_batches.len() < limits::POOL_BUFFERS {
                self.spare_batches.push(batch);
            }
        }
        self.done_batches = done;
        self.mark_dirty(index);
        self.settle(index);
    }

    /// Sends this turn's batches to their cores.
    pub(super) fn send_batches(&mut self) {
        let mut forwarding = std::mem::take(&mut self.forwarding);
        for index in forwarding.drain(..) {
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
            let dead = connection.dead;
            let Some(state) = &mut connection.forwarding else { continue };
            for core in 0..state.open.len() {
                if let Some(mut batch) = state.open[core].take() {
                    batch.sent_at = self.engine.clock_raw();
                    self.engine.net.hops_out += batch.requests.len() as u64;
                    // A core that has closed answers nothing any more; the node is stopping.
                    let _ = self.mesh.send(core, Message::Requests(batch));
                }
            }
            if dead {
                self.reclaim(index);
            }
        }
        self.forwarding = forwarding;
    }
}

/// The execution of a request on this core.
#[inline]
fn call_of<'a>(request: &'a Request, args: &'a [&'static [u8]], origin: Origin<'a>) -> Call<'a> {
    Call {
        row: request.row,
        args: request.args(args),
        first: request.key(args),
        db: request.db as usize,
        no_touch: request.no_touch,
        owned: &request.owned,
        origin,
        counted: request.counted,
    }
}

/// Whether the next reply of a connection is to be dropped; advances CLIENT REPLY SKIP.
fn silenced(connection: &mut Connection) -> bool {
    match connection.session.reply_mode {
        ReplyMode::On => false,
        ReplyMode::Off => true,
        ReplyMode::Skip { armed } => {
            connection.session.reply_mode = if armed { ReplyMode::On } else { ReplyMode::Skip { armed: true } };
            true
        }
    }
}
