//! The engine: everything of one core but its sockets, and the one execution point.
//!
//! Every command, whether it arrived here, was forwarded by another core, or is replayed, runs through
//! [`Engine::call`] (or, for session commands, [`Engine::call_session`]): there it is counted and timed, there access is
//! checked, there slow commands are noted and effects are emitted.
//!
//! Longer than other files, because the fast path, with all that is inlined into it, is to be read in one piece.

mod answers;
mod borrowed;
pub mod cluster;
#[cfg(test)]
mod cluster_tests;
mod logged;
#[cfg(test)]
mod logged_tests;
mod memory;
#[cfg(debug_assertions)]
pub mod served;
mod slow;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::admin::process::allocated_bytes;
use crate::cluster::{CorePorts, Endpoint, Identity, Roles, View};
use crate::command::slowlog::SlowlogEntry;
use crate::command::table::Unknown;
use crate::command::{Answer, Args, Ctx, Finish, Flags, Flow, Handler, Home, Owned, Session, table, table::Row};
use crate::config::Config;
use crate::log::durability::{Durability, Progress, Standing};
use crate::log::feed::{Feed, Holds};
use crate::pubsub::PubSub;
use crate::resp::{Error, Reply};
use crate::route::{Hasher, Key, Router};
use crate::shard::{NEVER_MS, Shard, UnixMs};
use crate::state::NodeState;
use crate::stats::{CommandStats, ErrorCounts, Event, Latency, LatencyEvents, NetStats, RateSampler};

/// How often the memory in use is looked at, for its peak, ms.
const MEMORY_INTERVAL_MS: i64 = 1000;

/// Whose command it is, for the slow log.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// A client of this core.
    Client(&'a Session),
    /// A client of another core, by its id.
    Forwarded(u64),
}

/// What a forwarded or local keyspace command brings along.
pub struct Call<'a> {
    pub row: &'static Row,
    pub args: Args<'a>,
    pub first: Option<Key<'a>>,
    pub db: usize,
    pub no_touch: bool,
    pub owned: &'a Owned,
    pub origin: Origin<'a>,
    /// Counts in the statistics; of a command that several cores execute only one part does.
    pub counted: bool,
}

/// A command that has run.
struct Ran<'a> {
    row: &'static Row,
    args: Args<'a>,
    origin: Origin<'a>,
    /// As [`Call::counted`].
    counted: bool,
}

/// Why a request is not executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Answer this.
    Error(Error),
    /// Disconnect without an answer: the client speaks HTTP, so somebody tries to reach the server through a browser.
    Disconnect,
}

/// One core without its sockets.
pub struct Engine {
    pub router: Router,
    pub hasher: Hasher,
    pub shard: Shard,
    /// Where commands run whose keys live on several cores; empty in between. See [`crate::borrow`].
    pub scratch: Shard,
    /// What this core has changed, on its way to the log.
    pub feed: Feed,
    /// How far the log is with it.
    pub progress: Progress,
    /// What the node may do, and whether that is less than everything.
    pub standing: Arc<Standing>,
    restricted: bool,
    /// What a reply means to connections that have not chosen.
    pub default_durability: Durability,
    /// Some connection may have to wait for its replies; and for what.
    pub holds: bool,
    waits: Holds,
    /// What runs now comes from a log.
    applying: bool,
    /// Subscriptions, and messages under way.
    pub pubsub: PubSub,
    pub config: Arc<Config>,
    /// What is known of the cluster; None: the node runs alone.
    pub view: Option<Arc<View>>,
    /// There are several nodes, or were.
    pub in_cluster: bool,
    /// Which partitions of this core are in the database of what is led. See [`cluster`].
    led: Box<[bool]>,
    /// The node may serve nothing that it leads, as was seen last.
    lapsed: bool,
    /// Partitions that it leads have fewer copies in sync than `min-insync`.
    few_in_sync: bool,
    /// Requests about some partitions wait, as their role moves to another node, or from one.
    roles_move: bool,
    #[cfg(debug_assertions)]
    served: served::Served,
    /// The number of [`Engine::config`]; see [`crate::state::Configured`].
    config_number: u64,
    pub node: Arc<NodeState>,
    pub stats: Vec<CommandStats>,
    pub errors: ErrorCounts,
    pub auth_failures: u64,
    /// Counted by the network layer.
    pub net: NetStats,
    /// Keys expire without being looked at. DEBUG SET-ACTIVE-EXPIRE switches it.
    active_expiry: bool,
    /// How late keys were that expired without being looked at.
    expiry_lag: Latency,
    sampler: RateSampler,
    /// When memory was last looked at, steady ms; 0 before the first time.
    memory_seen_ms: i64,
    pub slowlog: VecDeque<SlowlogEntry>,
    latency_events: LatencyEvents,
    /// Commands that take at least so long are noted, in the slow log or by the latency monitor; `u64::MAX` is never.
    slow_nanos_min: u64,
    clock: quanta::Clock,
    /// When the last command ended; the next one starts there.
    tick: u64,
    /// Changes of keys since the start.
    changes: u64,
    random: u64,
    /// The command that runs is part of a transaction.
    in_transaction: bool,
}

impl Engine {
    /// The engine of a node with one core.
    pub fn new(router: Router, hasher: Hasher, config: Arc<Config>, seed: u64) -> Self {
        Engine::of_node(router, hasher, Arc::new(NodeState::new(config)), seed)
    }

    /// The engine of one core of `node`.
    pub fn of_node(router: Router, hasher: Hasher, node: Arc<NodeState>, seed: u64) -> Self {
        let configured = node.config.latest();
        let config = configured.config;
        let shard_of = |partitions| match config.cluster_enabled {
            true => Shard::in_cluster(partitions, hasher.clone()),
            false => Shard::new(partitions, config.databases, hasher.clone()),
        };
        let mut shard = shard_of(router.range_of(router.me()));
        shard.events.set_mask(config.notify_keyspace_events);
        let mut scratch = shard_of(0..router.partitions());
        scratch.log_changes();
        let pubsub = PubSub::new(router.me(), router.cores(), hasher.clone());
        let led = vec![true; shard.partitions().len()].into();
        let clock = quanta::Clock::new();
        let tick = clock.raw();
        #[cfg(debug_assertions)]
        let served = served::Served::new(router.me());
        let mut engine = Engine {
            router,
            hasher,
            shard,
            scratch,
            feed: Feed::new(),
            progress: Progress::default(),
            standing: Arc::default(),
            restricted: false,
            default_durability: Durability::Memory,
            holds: false,
            waits: Holds::default(),
            applying: false,
            pubsub,
            slow_nanos_min: slow::nanos_min(&config),
            view: None,
            in_cluster: false,
            led,
            lapsed: false,
            few_in_sync: false,
            roles_move: false,
            #[cfg(debug_assertions)]
            served,
            config,
            config_number: configured.number,
            node,
            stats: vec![CommandStats::default(); table().rows().len()],
            errors: ErrorCounts::default(),
            auth_failures: 0,
            net: NetStats::default(),
            active_expiry: true,
            expiry_lag: Latency::default(),
            sampler: RateSampler::default(),
            memory_seen_ms: 0,
            slowlog: VecDeque::new(),
            latency_events: LatencyEvents::default(),
            clock,
            tick,
            changes: 0,
            random: seed | 1,
            in_transaction: false,
        };
        if let Some(identity) = engine.node.identity {
            engine.see(Arc::new(engine.alone(identity)));
        }
        engine.apply_memory_config(0);
        engine.durability_changed(Durability::Memory);
        let replica = engine.config.replicaof.is_some();
        // Until the control core has seen any.
        let few_replicas = !replica && engine.config.good_replicas_min() > 0;
        let few_in_sync = !replica && engine.config.min_insync > 1;
        engine.stand(Arc::new(Standing { replica, few_replicas, few_in_sync, ..Standing::default() }));
        engine
    }

    /// A cluster of this node only, until the control core knows more.
    fn alone(&self, identity: Identity) -> View {
        let (host, port) = (self.config.cluster_announce_ip.clone(), self.config.cluster_announce_port);
        let cores = self.config.announced_core_port().map(|first| CorePorts { first, count: self.router.cores() });
        let node = Endpoint { id: identity.to_string(), host, port, alive: true, cores };
        let partitions = self.router.partitions();
        if self.node.member {
            // Others may lead what it has.
            return View::new(vec![node], 0, vec![Roles::default(); partitions as usize], 0, 1);
        }
        View::alone(node, partitions)
    }

    /// Starts the clock of the next command; call it before each run of commands.
    #[inline]
    pub fn start_clock(&mut self) {
        self.tick = self.clock.raw();
    }

    /// Decides whether a request may run, in the order of Redis: it must exist, have the right number of arguments,
    /// be enabled, and its client must have authenticated. `args` is not empty.
    #[inline]
    pub fn admit(
        &mut self,
        resolved: Result<&'static Row, Unknown>,
        session: &mut Session,
        args: Args,
    ) -> Result<&'static Row, Refusal> {
        let row = match resolved {
            Ok(row) => row,
            Err(unknown) => return Err(self.refuse_unknown(unknown, session, args)),
        };
        session.last_command = Some(row.id);
        session.last_active_ms = self.shard.steady_ms();
        if !row.command.arity_ok(args.len()) {
            return Err(self.refuse(row, Error::Arity(row.full_name.clone())));
        }
        if row.command.flags.has(Flags::PROTECTED)
            && let Err(error) = crate::command::debug::protected(&self.config, session)
        {
            return Err(self.refuse(row, error));
        }
        if !session.authenticated && !row.command.flags.has(Flags::NO_AUTH) && !self.config.requirepass.is_empty() {
            return Err(self.refuse(row, Error::NoAuth));
        }
        if self.restricted
            && let Some(error) = self.refuses(row, session, args)
        {
            return Err(self.refuse(row, error));
        }
        if session.only_listens() && !row.command.flags.has(Flags::WHILE_SUBSCRIBED) {
            return Err(self.refuse(row, Error::Subscribed(row.full_name.clone())));
        }
        Ok(row)
    }

    /// Counts a command that is refused before it runs.
    #[cold]
    pub fn refuse(&mut self, row: &Row, error: Error) -> Refusal {
        self.stats[row.id as usize].rejected += 1;
        self.count_error(&error);
        Refusal::Error(error)
    }

    #[cold]
    fn refuse_unknown(&mut self, unknown: Unknown, session: &Session, args: Args) -> Refusal {
        if args[0].eq_ignore_ascii_case(b"post") || args[0].eq_ignore_ascii_case(b"host:") {
            if self.node.log_attack(self.shard.steady_ms()) {
                tracing::warn!(
                    client = session.addr,
                    "an HTTP request arrived where Redis commands are expected; somebody may be trying to attack this \
                     server through a browser; connection closed"
                );
            }
            return Refusal::Disconnect;
        }
        let error = match unknown {
            Unknown::Command => Error::unknown_command(args),
            Unknown::Subcommand => Error::unknown_subcommand(args),
        };
        self.count_error(&error);
        Refusal::Error(error)
    }

    /// A reading of the clock, for [`Engine::hop_done`].
    pub fn clock_raw(&self) -> u64 {
        self.clock.raw()
    }

    /// Notes how long requests were away that were sent to another core at the clock reading `sent_at`.
    #[inline]
    pub fn hop_done(&mut self, sent_at: u64) {
        let nanos = self.clock.delta_as_nanos(sent_at, self.clock.raw());
        self.net.hop_latency.record(nanos);
    }

    /// From when on [`Engine::expire_due`] may have something to do.
    #[inline]
    pub fn next_expiry_ms(&self) -> UnixMs {
        if self.active_expiry && !self.standing.replica && !self.lapsed {
            self.shard.next_expiry_ms()
        } else {
            NEVER_MS
        }
    }

    /// Removes keys whose time has come, as many as one turn may.
    pub fn expire_due(&mut self) {
        self.watch_event(Event::ExpireCycle, |engine| {
            engine.shard.expire_due(|late_ms| engine.expiry_lag.record(late_ms.saturating_mul(1_000_000)));
        });
    }

    /// Sixty-four random bits.
    pub fn random(&mut self) -> u64 {
        self.random = xorshift(self.random);
        self.random
    }

    /// Runs a keyspace command on this core's shard.
    ///
    /// Always inlined, with [`Engine::account`]: a [`Call`] that passes through memory is stored in small pieces and loaded
    /// in large ones, which the processor can only do after the stores have reached the cache.
    #[inline(always)]
    pub fn call(&mut self, call: Call, reply: &mut Reply) {
        let Handler::Keyspace(run) = call.row.command.handler else { unreachable!("routed as a keyspace command") };
        if !self.make_way(call.row, call.args) && !self.in_transaction {
            return self.refuse_memory(call.row, reply);
        }
        #[cfg(debug_assertions)]
        self.note_served(&call);
        self.random = xorshift(self.random);
        let mark = reply.output().mark();
        // What a command changes is one unit, unless it is part of a larger one.
        let alone = self.shard.effects.begin_unit();
        let mut ctx = Ctx {
            shard: &mut self.shard,
            hasher: &self.hasher,
            pubsub: &mut self.pubsub,
            db: call.db,
            no_touch: call.no_touch,
            first: call.first,
            owned: call.owned,
            random: self.random,
            thresholds: &self.config.thresholds,
            string_bytes_max: self.config.proto_max_bulk_len as usize,
            changes: 0,
            logged: false,
        };
        let result = run(&mut ctx, call.args, reply);
        let (changes, logged) = (ctx.changes, ctx.logged);
        self.changes += changes;
        if changes > 0 && !logged && self.shard.effects.enabled() {
            self.emit(call.row, call.db, call.args);
        }
        if alone {
            self.shard.effects.end_unit();
        }
        let ran = Ran { row: call.row, args: call.args, origin: call.origin, counted: call.counted };
        self.account(ran, mark, result, reply);
    }

    /// Records the effect of a command that has changed something and has not said what is logged: the command itself.
    ///
    /// Not handed a [`Call`]: one whose address is taken is put together in memory.
    fn emit(&mut self, row: &Row, db: usize, args: Args) {
        let mut keys = row.command.keys.positions(args).map(|at| args[at]);
        match keys.next() {
            Some(key) => {
                debug_assert!(keys.all(|other| other == key), "{} has to log statements", row.full_name);
                self.shard.effects.push(db, args);
            }
            None => self.shard.effects.push_everywhere(db, args),
        }
    }

    /// Runs a session command on this core.
    pub fn call_session(&mut self, row: &'static Row, session: &mut Session, args: Args, reply: &mut Reply) -> Flow {
        let Handler::Session(run) = row.command.handler else {
            // A container's name alone, which its arity refuses; containers never run.
            let error = Error::Arity(row.full_name.clone());
            self.count_error(&error);
            reply.error(&error);
            return Flow::Done;
        };
        let mark = reply.output().mark();
        let now_ms = self.shard.steady_ms();
        let result = run(&mut Home { session, engine: self, now_ms }, args, reply);
        let (flow, result) = match result {
            Ok(flow) => (flow, Ok(())),
            Err(error) => (Flow::Done, Err(error)),
        };
        let ran = Ran { row, args, origin: Origin::Client(session), counted: true };
        self.account(ran, mark, result, reply);
        flow
    }

    /// Ends a session command that asked other cores. `answers` are in the order of the questions. The result may be
    /// another [`Flow::Ask`].
    pub fn finish_session(
        &mut self,
        row: &'static Row,
        session: &mut Session,
        finish: Finish,
        answers: Vec<Answer>,
        reply: &mut Reply,
    ) -> Flow {
        let mark = reply.output().mark();
        let now_ms = self.shard.steady_ms();
        match finish(&mut Home { session, engine: self, now_ms }, answers, reply) {
            Ok(flow) => flow,
            Err(error) => {
                self.answer_error(row, mark, &error, reply);
                Flow::Done
            }
        }
    }

    /// Counts and times one executed command, and answers its error.
    #[inline(always)]
    fn account(&mut self, ran: Ran, mark: u32, result: Result<(), Error>, reply: &mut Reply) {
        let now = self.clock.raw();
        let nanos = self.clock.delta_as_nanos(self.tick, now);
        self.tick = now;
        let stats = &mut self.stats[ran.row.id as usize];
        stats.calls += ran.counted as u64;
        stats.nanos += nanos;
        if ran.counted && self.config.latency_tracking {
            stats.latency.record(nanos);
        }
        if let Err(error) = result {
            self.answer_error(ran.row, mark, &error, reply);
        }
        if nanos >= self.slow_nanos_min {
            self.note_slow(ran, nanos);
        }
    }

    #[cold]
    fn answer_error(&mut self, row: &Row, mark: u32, error: &Error, reply: &mut Reply) {
        self.note_failed(row, error);
        reply.output().truncate(mark);
        reply.error(error);
    }

    /// Counts a command that has run and is answered with an error.
    pub fn note_failed(&mut self, row: &Row, error: &Error) {
        self.stats[row.id as usize].failed += 1;
        self.count_error(error);
    }

    /// What is to be done every [`crate::stats::RATE_INTERVAL_MS`]: takes a sample of the counters for the rates, and
    /// now and then looks how much memory is in use.
    pub fn cron(&mut self, now_ms: i64) {
        let calls = self.stats.iter().map(|c| c.calls).sum();
        self.sampler.sample(now_ms, [calls, self.net.input_bytes, self.net.output_bytes]);
        if self.memory_seen_ms == 0 {
            self.memory_seen_ms = now_ms;
            self.node.note_startup(allocated_bytes());
        }
        if now_ms - self.memory_seen_ms >= MEMORY_INTERVAL_MS {
            self.memory_seen_ms = now_ms;
            if self.router.me() == 0 {
                self.node.note_memory(allocated_bytes() + self.node.budget.heap_bytes());
            }
        }
        self.share_memory();
    }

    /// Subscriptions have changed, here or elsewhere: events are recorded as long as somebody could hear of them.
    pub fn listeners_changed(&mut self) {
        let anyone = self.pubsub.anyone_listens();
        if anyone != self.shard.events.enabled() {
            self.shard.events.enable(anyone);
        }
    }
}

/// Marsaglia's xorshift64: <https://www.jstatsoft.org/article/view/v008i14>.
#[inline]
fn xorshift(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    x
}
