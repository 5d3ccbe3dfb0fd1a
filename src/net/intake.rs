//! Intake: from received bytes to requests in the window.
//!
//! Requests are parsed where the kernel put their bytes. Only what cannot be executed yet is copied: the start of an
//! unfinished request, and everything that arrives while the connection has to wait ([`super::connection::Hold`]).

use std::sync::Arc;

use super::connection::{Connection, Hold};
use super::limits;
use super::pump::{Pump, Service};
use super::ring::Completion;
use super::transact::is_transaction;
use super::window::{Request, RequestKey, Target, Way, in_window};
use crate::command::table::Row;
use crate::command::transaction::{QUEUED_MAX, Queued, runs_in_multi};
use crate::command::{Flags, Handler, Merge, Owned, Reach, cluster, generic, table};
use crate::engine::Refusal;
use crate::engine::cluster::is_about_keys;
use crate::resp::{Error, Limits, Parser, ProtocolError, Step};
use crate::route::Route;
use crate::shard::FOLLOWED;

/// How far [`Pump::parse`] came.
struct Parsed {
    /// Bytes of whole requests.
    consumed: usize,
    /// Bytes to keep: `consumed` and the start of the next request.
    keep: usize,
    /// The window is full; there may be more requests.
    full: bool,
}

impl Pump {
    /// The kernel has received something on a connection, or the connection has ended.
    pub(super) fn received(&mut self, completion: Completion) {
        let index = completion.index;
        self.used_buffers.extend(completion.buffer);
        let Some(connection) = &mut self.connections[index as usize] else { return };
        connection.looked = false;
        if !completion.more {
            connection.receiving = false;
            connection.receive_cancelled = false;
        }
        match (completion.result, completion.buffer) {
            (1.., Some(buffer)) if !connection.dead => {
                // SAFETY: buffers are recycled at the end of the turn, when the window is empty.
                let bytes = unsafe { self.ring.received(buffer, completion.result as usize) };
                connection.session.last_active_ms = self.engine.shard.steady_ms();
                self.engine.net.input_bytes += bytes.len() as u64;
                self.engine.net.reads += 1;
                match self.service {
                    Service::Commands => self.ingest(index, bytes),
                    Service::FixedBytes => self.answer_fixed(index, bytes),
                }
            }
            // No buffer was free: what arrived waits in the socket.
            (error, _) if error == -libc::ENOBUFS || error == -libc::ECANCELED || error == -libc::EINTR => {}
            // What the client sent before its end, and perhaps in this turn, is executed.
            (0, _) => {
                connection.eof = true;
                self.run_window();
                // A client that waits is gone, as for Redis.
                if self.connection(index).is_some_and(|connection| connection.blocked.is_some()) {
                    self.kill(index);
                }
                self.settle(index);
            }
            (1.., _) => {}
            _ => {
                self.run_window();
                self.kill(index);
            }
        }
        self.update_receive(index);
    }

    /// Takes bytes from a connection: parses them in place if nothing stands before them.
    fn ingest(&mut self, index: u32, bytes: &'static [u8]) {
        let Some(connection) = self.connection(index) else { return };
        let taken = connection.parser.feed(bytes);
        let bytes = &bytes[taken..];
        // A turn may bring many pieces of one client.
        if connection.output_bytes() >= limits::OUTPUT_PAUSE_BYTES {
            connection.hold.set(Hold::OUTPUT);
        }
        if connection.hold.any() || !connection.inbuf.is_empty() || connection.stash.is_some() {
            if connection.pinned {
                self.run_window();
            }
            let Some(connection) = self.connection(index) else { return };
            connection.inbuf.extend_from_slice(bytes);
            if !connection.hold.any() {
                self.parse_buffered(index);
            }
        } else {
            let parsed = self.parse(index, bytes, true);
            if let Some(connection) = self.connection(index) {
                connection.inbuf.extend_from_slice(&bytes[parsed.consumed..parsed.keep]);
            }
        }
        self.check_input(index);
    }

    /// Executes what a connection has buffered, now that nothing holds it.
    pub(super) fn resume(&mut self, index: u32) {
        let Some(connection) = self.connection(index) else { return };
        connection.ready = false;
        if connection.hold.any() || connection.dead {
            return;
        }
        if let Some(stash) = connection.stash.take() {
            self.admit_stashed(index, stash);
            // The request is in the window: the connection must not be closed as if it had nothing left to do.
            self.mark_dirty(index);
        }
        self.parse_buffered(index);
        self.settle(index);
        self.update_receive(index);
    }

    /// Parses the input buffer.
    fn parse_buffered(&mut self, index: u32) {
        loop {
            let Some(connection) = self.connection(index) else { return };
            if connection.hold.any() || connection.inbuf.is_empty() {
                return;
            }
            if connection.pinned {
                self.run_window();
                continue;
            }
            // SAFETY: the buffer is marked as pinned below, before anything else can change it.
            let input = unsafe { in_window(&connection.inbuf) };
            let parsed = self.parse(index, input, false);
            let Some(connection) = self.connection(index) else { return };
            connection.inbuf.truncate(parsed.keep);
            connection.consumed = parsed.consumed;
            if parsed.consumed > 0 {
                connection.pinned = true;
                self.window.pinned.push(index);
            }
            if !parsed.full {
                return;
            }
            self.run_window();
            self.hold_output(index);
        }
    }

    /// Parses requests into the window until the input ends, the connection has to wait, or the window is full. In that
    /// last case the window is executed at once if `run_full` (the input does not move then), otherwise by the caller.
    fn parse(&mut self, index: u32, input: &'static [u8], run_full: bool) -> Parsed {
        let mut at = 0;
        loop {
            if self.window.requests.len() >= limits::WINDOW_REQUESTS {
                if !run_full {
                    return Parsed { consumed: at, keep: input.len(), full: true };
                }
                self.run_window();
                self.hold_output(index);
            }
            let Some(connection) = &mut self.connections[index as usize] else {
                return Parsed { consumed: at, keep: at, full: false };
            };
            if connection.hold.any() || at == input.len() {
                return Parsed { consumed: at, keep: input.len(), full: false };
            }
            let unauthenticated = !connection.session.authenticated;
            if !unauthenticated && !self.restrained && connection.session.multi.is_none() {
                let consumed = self.parse_simple(index, &input[at..]);
                if consumed > 0 {
                    at += consumed;
                    continue;
                }
            }
            let Some(connection) = &mut self.connections[index as usize] else {
                return Parsed { consumed: at, keep: at, full: false };
            };
            let bounds = Limits { unauthenticated, ..self.bounds };
            match connection.parser.parse(&input[at..], &bounds) {
                Ok(Step::Complete { consumed }) => {
                    let start = self.window.args.len() as u32;
                    if connection.parser.argc() > 0 {
                        // SAFETY: the parser's own vectors move into the request with their addresses unchanged; the
                        // input stays until the window has run.
                        let parser: &'static Parser = unsafe { &*std::ptr::from_ref(&connection.parser) };
                        parser.args(&input[at..at + consumed], &mut self.window.args);
                        let owned = Owned::new(connection.parser.take_owned());
                        self.admit(index, start, owned);
                    }
                    at += consumed;
                }
                Ok(Step::Incomplete { keep }) => return Parsed { consumed: at, keep: at + keep, full: false },
                Err(error) => {
                    self.protocol_error(index, error);
                    return Parsed { consumed: input.len(), keep: input.len(), full: false };
                }
            }
        }
    }

    /// Parses requests into the window for as long as they are what nearly all are, known commands with one key, and one
    /// that is not. Returns how many bytes they take; how to go on behind them, [`Pump::parse`] can tell. The client is
    /// authenticated and not in MULTI, nothing holds it up, and the core is not restrained.
    fn parse_simple(&mut self, index: u32, input: &'static [u8]) -> usize {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return 0 };
        let (window, session, table) = (&mut self.window, &mut connection.session, table());
        let mut at = 0;
        while window.requests.len() < limits::WINDOW_REQUESTS {
            let start = window.args.len();
            let Some(len) = connection.parser.parse_simple(&input[at..], &self.bounds, &mut window.args) else { break };
            at += len;
            let args = &window.args[start..];
            let Some(row) = table.lookup(args[0]).filter(|row| row.key_at != 0) else {
                self.admit(index, start as u32, Owned::default());
                break;
            };
            if let Err(refusal) = self.engine.admit(Ok(row), session, args) {
                self.refuse(index, start as u32, refusal, Owned::default());
                break;
            }
            let key = self.engine.hasher.key(args[row.key_at as usize]);
            let way = match self.engine.router.route(key.partition) {
                Route::Local => Way::Local,
                Route::Core(owner) => Way::Forward(owner),
                Route::Away => {
                    self.admit_away(index, start, row);
                    break;
                }
            };
            window.requests.push(Request {
                row,
                owned: Owned::default(),
                way,
                args: (start as u32, window.args.len() as u32),
                target: Target::Connection(index),
                hash: key.hash,
                key_at: row.key_at as u16,
                partition: key.partition,
                db: session.db as u8,
                version: session.version,
                no_touch: session.no_touch,
                counted: true,
            });
        }
        at
    }

    /// Answers a request whose key another node has, unless this one has a copy that will do.
    #[cold]
    fn admit_away(&mut self, index: u32, start: usize, row: &'static Row) {
        let args = &self.window.args[start..];
        let connection = self.connections[index as usize].as_deref();
        if connection.is_some_and(|connection| self.engine.reads_copy(row, &connection.session, args)) {
            return self.read_copy(index, start as u32, row, Owned::default());
        }
        let view = self.engine.view.as_deref();
        let error = view.and_then(|view| cluster::refusal(&self.engine.config, view, row, args));
        let refusal = self.engine.refuse(row, error.unwrap_or(Error::SlotNotServed));
        self.refuse(index, start as u32, refusal, Owned::default());
    }

    /// Lets a READONLY connection read from copies: those of one core.
    fn read_copy(&mut self, index: u32, start: u32, row: &'static Row, owned: Owned) {
        let (way, key) = self.route(index, row, start);
        self.push_request(index, start, row, way, key, owned);
        if let Some(request) = self.window.requests.last_mut() {
            // Whether it is used says nothing about how it is used where it is led.
            (request.db, request.no_touch) = (FOLLOWED as u8, true);
        }
    }

    /// A request that broke the protocol is answered in its turn; nothing after it is read.
    fn protocol_error(&mut self, index: u32, error: ProtocolError) {
        let Some(connection) = &mut self.connections[index as usize] else { return };
        connection.close_after_window = true;
        let error = Way::Reject(Box::new(Error::from(error)));
        let start = self.window.args.len() as u32;
        self.push_request(index, start, table().row(0), error, None, Owned::default());
        self.barrier(index);
    }

    /// Puts a parsed request, whose arguments are the window's from `start` on, into the window.
    fn admit(&mut self, index: u32, start: u32, owned: Owned) {
        let Some(connection) = &mut self.connections[index as usize] else { return };
        let args = &self.window.args[start as usize..];
        let resolved = table().resolve(args);
        let row = match self.engine.admit(resolved, &mut connection.session, args) {
            Ok(row) => row,
            Err(refusal) => {
                let refusal = self.refuse_queued(index, resolved.ok(), refusal);
                return self.refuse(index, start, refusal, owned);
            }
        };
        let args = &self.window.args[start as usize..];
        if self.restrained && self.is_held_by_role(index, row, args) {
            return self.hold_up(index, start);
        }
        let Some(connection) = self.connections[index as usize].as_deref() else { return };
        if let Some(view) = self.engine.view.as_deref()
            && let Some(error) = cluster::refusal(&self.engine.config, view, row, args)
        {
            if self.engine.reads_copy(row, &connection.session, args) {
                return self.read_copy(index, start, row, owned);
            }
            let refusal = self.engine.refuse(row, error);
            let refusal = self.refuse_queued(index, Some(row), refusal);
            return self.refuse(index, start, refusal, owned);
        }
        if self.restrained && self.is_held_up(index, row) {
            return self.hold_up(index, start);
        }
        let Some(connection) = &mut self.connections[index as usize] else { return };
        if connection.session.multi.is_some() && !runs_in_multi(row) {
            return self.queue(index, start, row, owned);
        }
        let (way, key) = self.route(index, row, start);
        let alone = match &way {
            Way::Session => !row.command.flags.has(Flags::PIPELINED),
            Way::Borrow => true,
            _ => false,
        };
        self.push_request(index, start, row, way, key, owned);
        if alone {
            self.barrier(index);
        }
    }

    /// Keeps a request for EXEC.
    fn queue(&mut self, index: u32, start: u32, row: &'static Row, owned: Owned) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let Some(multi) = &mut connection.session.multi else { return };
        let command = Queued::new(row, &self.window.args[start as usize..], &owned);
        let bytes = multi.bytes + command.bytes();
        let error = match () {
            () if row.command.flags.has(Flags::NO_MULTI) => Some(Error::NotInMulti),
            () if !self.engine.has_memory() => Some(Error::OutOfMemory),
            () if multi.commands == QUEUED_MAX || bytes > self.engine.config.client_query_buffer_limit => {
                Some(Error::TransactionTooLarge)
            }
            () => None,
        };
        if let Some(error) = error {
            multi.refused = true;
            let refusal = self.engine.refuse(row, error);
            return self.refuse(index, start, refusal, owned);
        }
        // What will not run need not be kept.
        if !multi.refused {
            connection.queue.push(command);
            multi.bytes = bytes;
        }
        multi.commands += 1;
        multi.writes |= row.command.flags.has(Flags::WRITE);
        if self.engine.config.cluster_enabled {
            let slots = cluster::slots_of(row, &self.window.args[start as usize..]);
            multi.slots = multi.slots.and(slots);
            multi.keyless |= slots == cluster::Slots::None && is_about_keys(row);
        }
        self.push_request(index, start, row, Way::Queued, None, owned);
    }

    /// What a refused request means for a transaction: EXEC will not run it. An EXEC that is refused itself ends it.
    #[cold]
    fn refuse_queued(&mut self, index: u32, row: Option<&'static Row>, refusal: Refusal) -> Refusal {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return refusal };
        match refusal {
            Refusal::Error(error) if row.is_some_and(|row| row.command.name == "exec") => {
                connection.session.multi = None;
                self.unqueue(index);
                // As in Redis, clients of a cluster find the code that they look for.
                let plain = error == Error::ClusterDown;
                Refusal::Error(if plain { error } else { Error::exec_abort_for(&error) })
            }
            refusal => {
                if let Some(multi) = &mut connection.session.multi {
                    multi.refused = true;
                }
                refusal
            }
        }
    }

    /// Answers a request that is not executed.
    #[cold]
    fn refuse(&mut self, index: u32, start: u32, refusal: Refusal, owned: Owned) {
        match refusal {
            Refusal::Error(error) => {
                let way = Way::Reject(Box::new(error));
                self.push_request(index, start, table().row(0), way, None, owned);
            }
            Refusal::Disconnect => {
                let Some(connection) = &mut self.connections[index as usize] else { return };
                connection.close_after_window = true;
                self.barrier(index);
            }
        }
    }

    fn admit_stashed(&mut self, index: u32, stash: Vec<Vec<u8>>) {
        let start = self.window.args.len() as u32;
        let stash: Vec<_> = stash.into_iter().map(Arc::new).enumerate().collect();
        // SAFETY: the vectors move into the request with their addresses unchanged.
        self.window.args.extend(stash.iter().map(|(_, arg)| unsafe { in_window(arg) }));
        self.admit(index, start, Owned::new(stash));
    }

    fn push_request(
        &mut self,
        index: u32,
        start: u32,
        row: &'static Row,
        way: Way,
        key: Option<RequestKey>,
        owned: Owned,
    ) {
        let Some(connection) = &self.connections[index as usize] else { return };
        let session = &connection.session;
        let RequestKey { at, partition, hash } = key.unwrap_or(RequestKey { at: 0, partition: 0, hash: 0 });
        self.window.requests.push(Request {
            row,
            owned,
            way,
            args: (start, self.window.args.len() as u32),
            target: Target::Connection(index),
            hash,
            key_at: at,
            partition,
            db: session.db as u8,
            version: session.version,
            no_touch: session.no_touch,
            counted: true,
        });
    }

    /// Nothing more of this connection is parsed until the window has run.
    fn barrier(&mut self, index: u32) {
        if let Some(connection) = &mut self.connections[index as usize] {
            connection.hold.set(Hold::BARRIER);
            self.window.barriers.push(index);
        }
    }

    /// Finds the core that has to execute a request.
    fn route(&self, index: u32, row: &'static Row, start: u32) -> (Way, Option<RequestKey>) {
        let args = &self.window.args[start as usize..];
        let command = row.command;
        if let Handler::Session(_) = command.handler {
            return (Way::Session, None);
        }
        let mut positions = command.keys.positions(args);
        let first = positions.next();
        let key = first.map(|at| (at, self.engine.hasher.key(args[at])));
        let known = key.map(|(at, key)| RequestKey { at: at as u16, partition: key.partition, hash: key.hash });
        let router = &self.engine.router;
        let way = match (command.reach, key) {
            (Reach::Keys, _) if command.flags.has(Flags::BLOCKING) => Way::Borrow,
            (Reach::Keys, _) if router.cores() > 1 && command.keys.reads_more(args) => Way::Borrow,
            (Reach::Keys, Some((_, key))) => {
                let owner = router.owner(key.partition);
                let together = router.cores() == 1
                    || !command.keys.is_whole(args.len())
                    || positions.all(|at| router.owner(self.engine.hasher.key(args[at]).partition) == owner);
                match owner {
                    _ if !together => Way::Borrow,
                    owner if owner == self.me => Way::Local,
                    owner => Way::Forward(owner),
                }
            }
            (Reach::Every(_), _) if router.cores() > 1 && is_transaction(row) => Way::Borrow,
            (Reach::Every(Merge::Draw), _) => Way::Split,
            (Reach::Every(_), _) if router.cores() > 1 => Way::Split,
            (Reach::Listeners(kind), _) => match self.engine.pubsub.interest().cores_of(kind, args[1]).next() {
                Some(_) => Way::Split,
                None => Way::Publish,
            },
            (Reach::Cursor, _) if self.is_of_core(index) => Way::Local,
            (Reach::Cursor, _) => match generic::scan::scan_partition(args) {
                Some(partition) if partition < router.partitions() && router.owner(partition) != self.me => {
                    Way::Forward(router.owner(partition))
                }
                _ => Way::Local,
            },
            _ => Way::Local,
        };
        (way, known)
    }

    /// Whether the client takes this core for a node.
    pub(super) fn is_of_core(&self, index: u32) -> bool {
        self.connections[index as usize].as_deref().is_some_and(|connection| connection.session.own_core)
    }

    #[inline]
    pub(super) fn connection(&mut self, index: u32) -> Option<&mut Connection> {
        self.connections[index as usize].as_deref_mut()
    }

    /// Starts or stops receiving, whichever the connection's state asks for.
    pub(super) fn update_receive(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let full = connection.hold.any() && connection.inbuf.len() >= limits::READ_AHEAD_BYTES;
        let wanted = !(connection.dead || connection.eof || full);
        if wanted && !connection.receiving {
            connection.receiving = true;
            self.ring.arm_receive(index, connection.fd());
        } else if !wanted && connection.receiving && !connection.receive_cancelled {
            connection.receive_cancelled = true;
            self.ring.cancel_receive(index);
        }
        self.reclaim(index);
    }
}
