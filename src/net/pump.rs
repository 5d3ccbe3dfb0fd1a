//! The pump: one task per core that turns socket bytes into executed commands and replies.
//!
//! A turn, in this order:
//!
//! 1. take the kernel's completions: new sockets, received bytes, finished sends;
//! 2. parse what arrived into the window; whenever the window is full, execute it ([`super::execute`]);
//! 3. take the messages of other cores ([`super::exchange`]) and execute what they ask for;
//! 4. hand each connection's replies to the kernel, one send per connection, and each other core its batch;
//! 5. remove keys that have expired, and do a piece of the shard's own work, both bounded;
//! 6. enter the kernel once: it takes the sends and gives the next completions. With nothing to do, that blocks.
//!
//! Blocking has two levels. *Shallow*: in the own ring, woken by sockets, by the bell and by the tick. After a tick
//! without any activity the core parks *deep*: in glommio, so that other tasks of the executor run while it sleeps; the
//! ring's completions then signal an eventfd that glommio reads. While a key is to expire before the next tick, waits are
//! shallow and end with it.

#![allow(clippy::vec_box, reason = "boxed batches travel between cores; the box itself is what is used again")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::FromRawFd;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use glommio::io::BufferedFile;

use super::clock::Clock;
use super::cluster::InCluster;
use super::connection::{Connection, Hold};
use super::cover::Covering;
use super::exchange::Asking;
use super::forward::{Batch, Message};
use super::held::Holding;
use super::limits;
use super::listener::Listener;
use super::owner::Owner;
use super::ring::{Completion, Op, Ring};
use super::transact::Transaction;
use super::wait::Waits;
use super::window::Window;
use crate::command::ask::Pause;
use crate::config::Config;
use crate::engine::Engine;
use crate::mesh::{Endpoint, Park, Wake};
use crate::node::{Node, Order};
use crate::pubsub::Told;
use crate::resp::parse::ARGS_MAX;
use crate::resp::{Limits, Output};
use crate::route::CoreId;
use crate::shard::{NEVER_MS, SteadyMs};

/// Everything of one core.
pub struct Pump {
    pub(super) me: CoreId,
    pub(super) service: Service,
    pub(super) node: Arc<Node>,
    pub(super) ring: Ring,
    pub(super) engine: Engine,
    pub(super) clock: Clock,
    pub(super) mesh: Endpoint<Message>,
    pub(super) listeners: Vec<Listener>,
    /// Connections by index; an index is used again when the kernel has completed everything of its last holder.
    pub(super) connections: Vec<Option<Box<Connection>>>,
    pub(super) free: Vec<u32>,
    /// Indices that became free in this turn. A new connection must not get one while the window may hold requests of
    /// its last holder, so they join `free` when the window is empty.
    pub(super) retired: Vec<u32>,
    pub(super) next_generation: u32,
    pub(super) next_client: u64,
    pub(super) window: Window,
    /// Receive buffers that the window may point into.
    pub(super) used_buffers: Vec<u16>,
    /// Connections with buffered requests that may run now.
    pub(super) ready: VecDeque<u32>,
    /// Connections with replies to send at the end of the turn.
    pub(super) dirty: Vec<u32>,
    /// Connections that hold open batches for other cores.
    pub(super) forwarding: Vec<u32>,
    /// Connections that MONITOR.
    pub(super) monitors: Vec<u32>,
    /// Connections held by CLIENT PAUSE, because the log is behind, or because a role moves.
    pub(super) paused: Vec<u32>,
    pub(super) pause: Option<Pause>,
    /// Cores that have fed more than the control core takes.
    pub(super) full_feeds: Vec<CoreId>,
    /// Invariant: clients are paused, `full_feeds` is not empty, or the view has a gate that is not open.
    pub(super) restrained: bool,
    /// Cores with monitors, and what they shall see at the end of the turn.
    pub(super) monitor_cores: Vec<CoreId>,
    pub(super) monitor_lines: Vec<u8>,
    /// Events for the subscribers of other cores, by core; sent at the latest when the turn ends.
    pub(super) told: Vec<Vec<Arc<Told>>>,
    pub(super) asks: Vec<Option<Asking>>,
    /// The part in a whole copy of the keyspace, while one is made.
    pub(super) covering: Option<Covering>,
    /// The last one to which this core has said all that it has to say.
    pub(super) covered_run: u64,
    /// Replies that wait until what they tell of is safe.
    pub(super) holding: Holding,
    /// What a cluster of several nodes asks of it.
    pub(super) in_cluster: InCluster,
    /// Keys of this core that are lent, and what waits for them.
    pub(super) owner: Owner,
    /// Who waits for an element of this core, and for how long clients of this core wait.
    pub(super) waits: Waits,
    /// Those that wait for answers and have changed keys of this core, of which the log does not know yet: meanwhile
    /// nothing expires by itself.
    pub(super) suspended: usize,
    /// Transactions of this core's clients.
    pub(super) transactions: Vec<Option<Box<Transaction>>>,
    /// The control core is to hear of it when these are through.
    pub(super) barrier_due: Option<u64>,
    pub(super) pool: Vec<Output>,
    pub(super) spare_batches: Vec<Box<Batch>>,
    /// Batches whose replies are used up; empty between calls.
    pub(super) done_batches: Vec<Box<Batch>>,
    /// What authenticated clients may send.
    pub(super) bounds: Limits,
    /// Where replies go that nobody wants.
    pub(super) void: Output,
    pub(super) orders: Receiver<Order>,
    /// The ring is going to say when what is recorded has to leave.
    linger_armed: bool,
    /// Something other than the tick happened since the last tick.
    pub(super) active: bool,
    /// The tick before this moment found no activity: park deep.
    quiet: bool,
    pub(super) tick_count: u64,
    pub(super) stopping: Option<Stopping>,
}

/// The stages of a shutdown; see [`crate::node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopping {
    /// When connections are cut, whatever they still owe.
    pub(super) deadline_ms: SteadyMs,
    /// This core sends nothing to others any more.
    pub(super) mesh_closed: bool,
}

/// What clients get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Their commands are executed.
    Commands,
    /// Every request is answered with fixed bytes ([`super::floor`]).
    FixedBytes,
}

/// What a core starts with.
pub struct Parts {
    pub me: CoreId,
    pub service: Service,
    pub node: Arc<Node>,
    pub ring: Ring,
    pub engine: Engine,
    pub mesh: Endpoint<Message>,
    pub listeners: Vec<Listener>,
    pub orders: Receiver<Order>,
}

impl Pump {
    pub fn new(parts: Parts) -> Pump {
        let Parts { me, service, node, ring, engine, mesh, listeners, orders } = parts;
        let bounds = bounds(&engine.config);
        let clock = node.clock;
        Pump {
            me,
            service,
            node,
            ring,
            engine,
            clock,
            mesh,
            listeners,
            orders,
            connections: Vec::new(),
            free: Vec::new(),
            retired: Vec::new(),
            next_generation: 0,
            next_client: 0,
            window: Window::default(),
            used_buffers: Vec::new(),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            forwarding: Vec::new(),
            monitors: Vec::new(),
            paused: Vec::new(),
            pause: None,
            full_feeds: Vec::new(),
            restrained: false,
            monitor_cores: Vec::new(),
            monitor_lines: Vec::new(),
            told: Vec::new(),
            asks: Vec::new(),
            covering: None,
            covered_run: 0,
            holding: Holding::default(),
            in_cluster: InCluster::default(),
            owner: Owner::default(),
            waits: Waits::default(),
            suspended: 0,
            transactions: Vec::new(),
            barrier_due: None,
            pool: Vec::new(),
            spare_batches: Vec::new(),
            done_batches: Vec::new(),
            bounds,
            void: Output::new(),
            linger_armed: false,
            active: false,
            quiet: false,
            tick_count: 0,
            stopping: None,
        }
    }

    /// Runs until the node stops.
    pub async fn run(mut self) -> io::Result<()> {
        // SAFETY: a duplicate of the bell, so that the file owns the descriptor it closes.
        let deep_bell = unsafe { BufferedFile::from_raw_fd(libc::dup(self.ring.deep_bell())) };
        for (index, listener) in self.listeners.iter().enumerate() {
            self.ring.arm_accept(index as u32, listener.fd());
        }
        self.ring.arm_tick(limits::TICK_MS);
        let mut completions = Vec::with_capacity(limits::TURN_COMPLETIONS);
        let mut yielded_ms = 0;
        loop {
            self.turn(&mut completions);
            if self.stopped() {
                return deep_bell.close().await.map_err(io::Error::from);
            }
            if self.quiet && self.idle() && self.timer_wait_ms().is_none() {
                self.park_deep(&deep_bell).await?;
            } else {
                self.enter()?;
            }
            let now_ms = self.engine.shard.steady_ms();
            if now_ms - yielded_ms >= limits::YIELD_MS {
                yielded_ms = now_ms;
                glommio::executor().yield_now().await;
            }
        }
    }

    /// One turn, up to the point where the kernel is entered.
    pub(super) fn turn(&mut self, completions: &mut Vec<Completion>) {
        self.ring.reap(completions, limits::TURN_COMPLETIONS);
        let timed = self.engine.next_expiry_ms() != NEVER_MS
            || self.waits.next_deadline_ms().is_some()
            || self.engine.feed_lingers();
        if !completions.is_empty() || timed {
            self.set_now();
        }
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.run_window();
        self.receive_messages();
        self.run_ready();
        self.end_overdue_waits();
        self.make_offers();
        self.free.append(&mut self.retired);
        self.share_monitor_lines();
        self.ring.recycle(&mut self.used_buffers);
        self.tell();
        self.cover_some();
        self.see_late();
        self.send_feed();
        self.send_replies();
        self.send_messages();
        if self.expiry_wait_ms() == Some(0) {
            self.engine.expire_due();
        }
        if self.has_work() {
            self.engine.work(self.may_evict());
        }
        self.engine.tell_charge();
        // Keys that expired or were evicted.
        if !self.engine.shard.events.is_empty() {
            self.tell();
            self.send_replies();
            self.send_messages();
        }
    }

    /// Reads the clocks.
    pub(super) fn set_now(&mut self) {
        let now = self.clock.now();
        self.engine.shard.set_now(now);
        self.engine.check_lease(now.steady_ms);
    }

    fn complete(&mut self, completion: Completion) {
        self.active |= completion.op != Op::Tick;
        match completion.op {
            Op::Receive => self.received(completion),
            Op::Send => self.send_done(completion.index, completion.result),
            Op::Accept => self.accepted(completion),
            Op::Bell => {
                self.ring.arm_bell();
                self.take_orders();
            }
            Op::Tick => {
                self.quiet = !std::mem::take(&mut self.active);
                self.ring.arm_tick(limits::TICK_MS);
                self.tick();
            }
            Op::Linger => self.linger_armed = false,
            Op::Cancel => {}
        }
    }

    /// Nothing can be done before a completion or a message arrives.
    fn idle(&self) -> bool {
        self.ready.is_empty() && self.mesh.outbox_len() == 0 && !self.has_work()
    }

    /// The shard has work of its own to do.
    fn has_work(&self) -> bool {
        self.engine.has_work(self.may_evict())
    }

    /// CLIENT PAUSE holds up eviction, and so does a transaction that has borrowed the whole core. A node that may not serve
    /// must not write.
    fn may_evict(&self) -> bool {
        self.pause.is_none() && !self.owner.is_whole_out() && !self.engine.standing.replica && !self.engine.is_lapsed()
    }

    /// How long until a key expires, ms; None if the next tick comes first. CLIENT PAUSE holds up expiry, and so do a log
    /// that is behind, a transaction that has borrowed the whole core, and one that is suspended.
    fn expiry_wait_ms(&self) -> Option<u32> {
        let expires = !self.restrained && !self.owner.is_whole_out() && self.suspended == 0;
        let next_ms = if expires { self.engine.next_expiry_ms() } else { NEVER_MS };
        let wait_ms = u64::try_from(next_ms.saturating_sub(self.engine.shard.now_ms())).unwrap_or(0);
        (wait_ms < limits::TICK_MS as u64).then_some(wait_ms as u32)
    }

    /// How long until a key expires or a client has waited long enough, ms; None if the next tick comes first.
    fn timer_wait_ms(&self) -> Option<u32> {
        let deadline_ms = self.waits.next_deadline_ms().map(|at| at.saturating_sub(self.engine.shard.steady_ms()));
        let wait_ms = deadline_ms.map(|wait_ms| wait_ms.clamp(0, limits::TICK_MS as i64) as u32);
        let wait_ms = wait_ms.filter(|&wait_ms| wait_ms < limits::TICK_MS);
        let cover_ms = self.covers().then_some(COVER_WAIT_MS);
        self.expiry_wait_ms().into_iter().chain(wait_ms).chain(cover_ms).min()
    }

    /// Sees to it that what is recorded leaves, also if nothing else happens.
    fn arm_linger(&mut self) {
        if self.engine.feed_lingers() && !self.linger_armed {
            self.linger_armed = true;
            self.ring.arm_linger(self.engine.feed.linger_ms() as u32);
        }
    }

    /// Enters the kernel, blocking if there is nothing else to do.
    fn enter(&mut self) -> io::Result<()> {
        self.arm_linger();
        let timer_wait_us = self.timer_wait_ms().map(|wait_ms| wait_ms * 1000);
        if !self.ready.is_empty() || timer_wait_us == Some(0) || self.has_work() {
            return self.ring.enter(false);
        }
        if !self.mesh.prepare_park(Park::Shallow) {
            return self.ring.enter(false);
        }
        // A peer does not ring when it makes room in its ring, so with an outbox the wait is short.
        let retry_us = (self.mesh.outbox_len() > 0).then_some(OUTBOX_RETRY_US);
        let result = match retry_us.or(timer_wait_us) {
            None => self.ring.enter(true),
            Some(wait_us) => self.ring.enter_for(wait_us),
        };
        self.mesh.woke();
        result
    }

    /// Waits in glommio until the ring has a completion or another thread rings.
    async fn park_deep(&mut self, bell: &BufferedFile) -> io::Result<()> {
        self.arm_linger();
        self.ring.notify_deep(true);
        // Runs what the kernel has deferred; whatever comes later signals the bell.
        self.ring.enter(false)?;
        if !self.ring.has_completions() && self.mesh.prepare_park(Park::Deep) {
            let woken = bell.read_at(0, 8).await;
            self.mesh.woke();
            woken.map_err(io::Error::from)?;
            self.ring.enter(false)?;
        }
        self.ring.notify_deep(false);
        self.quiet = false;
        self.active = false;
        self.take_orders();
        // Another tick without activity leads straight back here.
        self.quiet = true;
        Ok(())
    }

    /// Executes buffered requests of connections that had to wait.
    fn run_ready(&mut self) {
        // Bounded: a connection that stays ready is queued again behind the others, for the next turn.
        for _ in 0..self.ready.len() {
            if let Some(index) = self.ready.pop_front() {
                self.resume(index);
            }
        }
        self.run_window();
    }

    fn send_replies(&mut self) {
        self.check_lease();
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let Some(connection) = &mut self.connections[index as usize] else { continue };
            connection.dirty = false;
            // A transaction ends soon, and marks the connection again: what came before it leaves with its reply.
            if connection.hold.has(Hold::TRANSACTION) && connection.out.len() < limits::CORKED_BYTES {
                continue;
            }
            if (connection.needs > 0 || !connection.held.is_empty()) && self.hold_replies(index) {
                self.check_output(index);
            }
            let Some(connection) = &mut self.connections[index as usize] else { continue };
            connection.flush(index, &mut self.ring, &mut self.pool);
            self.check_output(index);
        }
        self.dirty = dirty;
    }

    /// Sends what this core has changed to the control core.
    pub(super) fn send_feed(&mut self) {
        while let Some(chunk) = self.engine.next_chunk() {
            let control = self.engine.router.cores();
            self.send(control, Message::Feed(Box::new(chunk)));
            self.check_feed();
        }
    }

    pub(super) fn send_messages(&mut self) {
        self.check_lease();
        self.send_batches();
        self.send_all_told();
        self.send_withdrawals();
        if self.mesh.executors() == 1 {
            return;
        }
        self.mesh.flush(|_, _| {});
        let node = &self.node;
        self.mesh.for_each_dirty(|to, wake| match wake {
            Wake::None => {}
            Wake::Shallow => node.ring_bell(to as CoreId, false),
            Wake::Deep => node.ring_bell(to as CoreId, true),
        });
    }
}

/// How long a core waits at the most that has to make a piece of a copy after a rest, ms.
const COVER_WAIT_MS: u32 = 1;

/// How long a core with a filled outbox sleeps before it tries again, µs.
const OUTBOX_RETRY_US: u32 = 200;

/// What authenticated clients may send.
pub(super) fn bounds(config: &Config) -> Limits {
    Limits { args_max: ARGS_MAX, bulk_bytes_max: config.proto_max_bulk_len, unauthenticated: false }
}
