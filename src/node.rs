//! The node: one process, its threads, their start and their end.
//!
//! - one thread per data core, pinned, with a glommio executor whose main task is the pump ([`crate::net::pump`]);
//! - one thread for the control core, which serves the admin endpoint and, by default, shares the CPUs of the data
//!   cores;
//! - the main thread, which only waits for signals.
//!
//! Shutdown, each step bounded in time:
//!
//! 1. SIGTERM, SIGINT or SHUTDOWN reaches the control core, which makes a last snapshot if there is to be one
//!    ([`crate::control`]), and tells the main thread; that orders every core to stop;
//! 2. each core stops accepting and reading, lets requests under way finish, and sends what clients are owed;
//! 3. when its clients are gone, or at the deadline, each core closes its side of the mesh, and ends when all others
//!    have done so too;
//! 4. the control core ends, then the process: the socket file and the pid file are removed, the log is flushed.

mod found;
mod scheduling;
mod signals;

use std::io;
use std::net::TcpListener;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use glommio::{LocalExecutorBuilder, Placement};

use crate::admin::{http, notify};
use crate::cluster::identity::{self, IdentityError};
use crate::config::{Config, ControlCore, ShutdownOn};
use crate::control::{self, Keyspace, Recovered};
use crate::dumpfile::ImportError;
use crate::engine::Engine;
use crate::log::files::{self, DirError};
use crate::log::recover::RecoverError;
use crate::mesh;
use crate::net::clock::Clock;
use crate::net::forward::Message;
use crate::net::limits;
use crate::net::listener::{self, ListenError, Listener};
use crate::net::loading::Loading;
use crate::net::pump::{Parts, Pump, Service};
use crate::net::ring::Ring;
use crate::route::{CoreId, Hasher, Router};
use crate::shard::SteadyMs;
use crate::state::NodeState;

use found::{Found, find_data, import_dump, load_dump, replay_data};
use scheduling::Role;
use signals::Signals;

/// What a plain thread can ask of a core.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Finish what is under way, at the latest at this moment (steady ms), and end.
    Stop { deadline_ms: SteadyMs },
    /// To the control core: a signal says that the node is to end.
    ShutDown(ShutdownOn),
}

/// What becomes of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Now,
    /// The node goes on after all.
    Aborted,
}

/// Why the node could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{0}")]
    Listen(#[from] ListenError),
    #[error("cannot start core {core}: {error}")]
    Start { core: usize, error: String },
    #[error("core {core} failed: {error}")]
    Core { core: usize, error: String },
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
    #[error("cannot write the pid file '{path}': {error}")]
    PidFile { path: String, error: io::Error },
    #[error("cannot draw random numbers: {0}")]
    Random(getrandom::Error),
    #[error("{0}")]
    Directory(#[from] DirError),
    #[error("{0}")]
    Identity(#[from] IdentityError),
    #[error("cannot read the data: {0}")]
    Recover(#[from] RecoverError),
    #[error("{0}; to start without it, move the file away")]
    Import(#[from] ImportError),
    #[error(
        "'{}' has the append-only file of a redis-server, which cannot be read, and no data of Keyloom: make a dump of it \
         (SAVE) for 'keyloom import', and move the files away", .0.display())]
    AppendOnlyFile(PathBuf),
}

/// How long a shutdown may wait for clients to take what they are owed, ms.
const SHUTDOWN_MS: i64 = 3000;

/// What the control core may take, beyond `shutdown-timeout`, to say that the node can end.
const CONTROL_GRACE: Duration = Duration::from_secs(2);

/// Memory of glommio's own rings per executor: small, because client sockets do not use them and the sum over all cores
/// has to fit into the limit of locked memory.
const GLOMMIO_IO_MEMORY_BYTES: usize = 64 * 1024;
const GLOMMIO_RING_DEPTH: usize = 256;

/// glommio's preemption timer, as good as off. When it fires between two steps of glommio's loop (the thread was not
/// scheduled for that long), the loop takes "nothing was run" for "nothing to run" and sleeps, although a task is ready.
/// Tasks here yield by their own clocks ([`limits::YIELD_MS`]).
const PREEMPT_S: u64 = 24 * 3600;

/// What the cores of one node share, none of it on the path of a request.
pub struct Node {
    /// Clients per core. Touched when a client comes or goes.
    clients: Box<[Padded]>,
    /// How to wake each executor.
    bells: Box<[OnceLock<Bells>]>,
    orders: Vec<Sender<Order>>,
    end: Sender<End>,
    pub state: Arc<NodeState>,
    /// Each core has a copy.
    pub clock: Clock,
}

/// Keeps counters of different cores on different cache lines.
#[repr(align(128))]
#[derive(Default)]
struct Padded(AtomicUsize);

/// Descriptors that wake an executor: out of its own ring, and out of glommio's park.
#[derive(Clone, Copy, Debug)]
pub struct Bells {
    pub shallow: RawFd,
    pub deep: RawFd,
}

impl Node {
    /// A node of so many executors that nobody runs.
    #[cfg(test)]
    pub(crate) fn idle(state: Arc<NodeState>, executors: usize) -> Node {
        Node {
            clients: (0..executors).map(|_| Padded::default()).collect(),
            bells: (0..executors).map(|_| OnceLock::new()).collect(),
            orders: Vec::new(),
            end: crossbeam_channel::bounded(1).0,
            state,
            clock: Clock::start(),
        }
    }

    /// Chooses the core with the fewest clients for a new one, and counts it there.
    pub fn place_client(&self) -> CoreId {
        let counts = self.clients.iter().enumerate().map(|(core, n)| (n.0.load(Ordering::Relaxed), core));
        let core = counts.min().map_or(0, |(_, core)| core);
        self.clients[core].0.fetch_add(1, Ordering::Relaxed);
        core as CoreId
    }

    /// Counts a client of a core that it has chosen itself.
    pub fn client_came(&self, core: CoreId) {
        self.clients[core as usize].0.fetch_add(1, Ordering::Relaxed);
    }

    /// A client of `core` is gone.
    pub fn client_left(&self, core: CoreId) {
        self.clients[core as usize].0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Clients of all cores.
    pub fn clients(&self) -> usize {
        self.clients.iter().map(|n| n.0.load(Ordering::Relaxed)).sum()
    }

    /// Wakes an executor.
    pub fn ring_bell(&self, executor: CoreId, deep: bool) {
        let Some(bells) = self.bells[executor as usize].get() else { return };
        let one = 1u64.to_ne_bytes();
        let bell = if deep { bells.deep } else { bells.shallow };
        // SAFETY: eight readable bytes; the descriptor stays open as long as the process runs (see `run_core`). Writing
        // to an eventfd can only fail when its counter is full, and then its reader is awake.
        unsafe { libc::write(bell, one.as_ptr().cast(), 8) };
    }

    /// Tells how to wake `executor`; once, by itself.
    pub fn set_bells(&self, executor: CoreId, bells: Bells) {
        let _ = self.bells[executor as usize].set(bells);
    }

    /// Tells the main thread to stop the node, or that it goes on.
    pub fn end(&self, end: End) {
        let _ = self.end.try_send(end);
    }

    fn order(&self, executor: usize, order: Order) {
        let _ = self.orders[executor].try_send(order);
        self.ring_bell(executor as CoreId, false);
        self.ring_bell(executor as CoreId, true);
    }

    /// Orders every executor to stop.
    fn stop(&self) {
        let deadline_ms = self.clock.clone().now().steady_ms + SHUTDOWN_MS;
        for executor in 0..self.orders.len() {
            self.order(executor, Order::Stop { deadline_ms });
        }
    }
}

/// Runs a node until it is told to stop.
pub fn run(config: Config, service: Service) -> Result<(), NodeError> {
    let config = Arc::new(config);
    let admin = http::listen(&config)?;
    // The port comes first: a second server with the same files must not touch those of the first.
    let listeners = listener::open(&config)?;
    write_pid_file(&config).inspect_err(|_| remove_files(&config))?;
    let recovered = find_data(&config).inspect_err(|_| remove_files(&config))?;
    let found = import_dump(&config, recovered, &listeners).inspect_err(|_| remove_files(&config))?;
    let mut state = NodeState::new(Arc::clone(&config));
    let mut locked = None;
    if config.cluster_enabled {
        state.identity = Some(identity::load(Path::new(&config.dir)).inspect_err(|_| remove_files(&config))?);
        // For as long as the process lives: two nodes with one identity would vote twice.
        let lock = files::lock(&Path::new(&config.dir).join(identity::DIR));
        locked = Some(lock.inspect_err(|_| remove_files(&config))?);
        state.member = control::cluster::raft_dir(&config.dir).is_some();
        if state.member {
            // Nothing is served before the cluster says so.
            state.lease.set(0);
        }
    }
    let signals = Signals::watch().map_err(NodeError::Signals)?;
    let cores = config.cpus.len();
    let executors = cores + 1;
    let (orders, order_receivers): (Vec<_>, Vec<_>) = (0..executors).map(|_| crossbeam_channel::bounded(4)).unzip();
    let (end, ends) = crossbeam_channel::bounded(4);
    let node = Arc::new(Node {
        clients: (0..cores).map(|_| Padded::default()).collect(),
        bells: (0..executors).map(|_| OnceLock::new()).collect(),
        orders,
        end,
        state: Arc::new(state),
        clock: Clock::start(),
    });
    let started = start(&config, service, &node, &listeners, admin, found, order_receivers)?;
    for listener in &listeners {
        tracing::info!(address = listener.address, cores, "ready to accept connections");
    }
    notify::ready();
    let reason = signals.wait(&ends, &node);
    tracing::info!(reason, "stopping");
    notify::stopping();
    node.stop();
    let mut result = Ok(());
    for (core, thread) in started.into_iter().enumerate() {
        let error = match thread.join() {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        result = Err(NodeError::Core { core, error });
    }
    remove_files(&config);
    drop(locked);
    tracing::info!("stopped");
    result
}

fn write_pid_file(config: &Config) -> Result<(), NodeError> {
    if config.pidfile.is_empty() {
        return Ok(());
    }
    let path = config.pidfile.clone();
    std::fs::write(&path, format!("{}\n", std::process::id())).map_err(|error| NodeError::PidFile { path, error })
}

/// What a node leaves behind in the file system.
fn remove_files(config: &Config) {
    if let Some(path) = &config.unixsocket {
        let _ = std::fs::remove_file(path);
    }
    if !config.pidfile.is_empty() {
        let _ = std::fs::remove_file(&config.pidfile);
    }
}

type Thread = glommio::ExecutorJoinHandle<io::Result<()>>;

/// Starts all executors; they begin to serve together, when every one of them is ready.
fn start(
    config: &Arc<Config>,
    service: Service,
    node: &Arc<Node>,
    listeners: &[Listener],
    mut admin: Option<TcpListener>,
    found: Found,
    orders: Vec<Receiver<Order>>,
) -> Result<Vec<Thread>, NodeError> {
    let cores = config.cpus.len();
    let mut seed = [0u64; 5];
    for word in &mut seed {
        let mut bytes = [0u8; 8];
        getrandom::fill(&mut bytes).map_err(NodeError::Random)?;
        *word = u64::from_ne_bytes(bytes);
    }
    let hasher = Hasher::new(config.partitions, [seed[0], seed[1], seed[2], seed[3]]);
    let (ready, all_ready) = crossbeam_channel::bounded::<Result<(), NodeError>>(cores + 1);
    let (go, may_go) = crossbeam_channel::bounded::<()>(cores + 1);
    let Found { recovered, dump } = found;
    let plan = recovered.plan.clone();
    let loads = plan.is_some() || dump.is_some();
    let mut recovered = Some(recovered);
    let keyspace = Keyspace {
        partitions: config.partitions,
        databases: config.shard_databases() as u16,
        seeds: [seed[0], seed[1], seed[2], seed[3]],
    };
    let endpoints = mesh::build::<Message>(cores + 1, limits::MESH_SLOTS);
    let mut threads = Vec::new();
    for (executor, (endpoint, orders)) in endpoints.into_iter().zip(orders).enumerate() {
        let (node, config) = (Arc::clone(node), Arc::clone(config));
        let (ready, may_go) = (ready.clone(), may_go.clone());
        let control = executor == cores;
        let cpu = match config.control_core {
            _ if !control => Placement::Fixed(config.cpus[executor]),
            ControlCore::Shared => shared(&config),
            ControlCore::Dedicated => dedicated(&config),
        };
        let admin = if control { admin.take() } else { None };
        let recovered = if control { recovered.take().unwrap_or_default() } else { Recovered::default() };
        let (plan, dump) = (plan.clone(), dump.clone());
        let name = if control { "keyloom-control".to_string() } else { format!("keyloom-{executor}") };
        let builder = LocalExecutorBuilder::new(cpu)
            .name(&name)
            .io_memory(GLOMMIO_IO_MEMORY_BYTES)
            .ring_depth(GLOMMIO_RING_DEPTH)
            .preempt_timer(Duration::from_secs(PREEMPT_S));
        let own = |listener: &&Listener| listener.core.is_none_or(|core| usize::from(core) == executor);
        let (listeners, hasher) = (listeners.iter().filter(own).cloned().collect(), hasher.clone());
        let random = seed[4].wrapping_mul(executor as u64 * 2 + 1);
        let thread = builder.spawn(move || async move {
            scheduling::set(match control {
                true if config.cluster_enabled => Role::Member,
                true => Role::Control,
                false => Role::Data,
            });
            if control {
                let _ = ready.send(Ok(()));
                if may_go.recv().is_err() {
                    return Ok(());
                }
                let me = executor as CoreId;
                return control::run(control::Parts { me, node, mesh: endpoint, orders, admin, keyspace, recovered })
                    .await;
            }
            let router = Router::new(executor as CoreId, cores as u16, config.partitions);
            let mut engine = Engine::of_node(router, hasher, Arc::clone(&node.state), random);
            engine.shard.set_now(node.clock.clone().now());
            let loaded = match (&plan, &dump) {
                (Some(plan), _) => replay_data(&mut engine, plan).map_err(NodeError::from),
                (None, Some(path)) => load_dump(&mut engine, path).map_err(NodeError::from),
                (None, None) => Ok(()),
            };
            if let Err(error) = loaded {
                let text = error.to_string();
                let _ = ready.send(Err(error));
                return Err(io::Error::other(text));
            }
            engine.lead_recovered();
            // From the first request on; the control core says the same a little later.
            engine.switch_feed(config.appendonly);
            let ring = match Ring::new() {
                Ok(ring) => ring,
                Err(error) => {
                    let _ = ready.send(Err(NodeError::Start { core: executor, error: error.to_string() }));
                    return Err(error);
                }
            };
            // The descriptors outlive the ring, so that a late bell never hits somebody else's.
            let bells = Bells { shallow: duplicate(ring.bell()), deep: duplicate(ring.deep_bell()) };
            node.set_bells(executor as CoreId, bells);
            let _ = ready.send(Ok(()));
            if may_go.recv().is_err() {
                return Ok(());
            }
            let me = executor as CoreId;
            Pump::new(Parts { me, service, node, ring, engine, mesh: endpoint, listeners, orders }).run().await
        });
        threads.push(thread.map_err(|error| NodeError::Start { core: executor, error: error.to_string() })?);
    }
    let loading = loads.then(|| Loading::start(listeners));
    // They serve together or not at all: an early return drops `go`, and those who wait for it end.
    drop(ready);
    for _ in 0..=cores {
        let gone = || NodeError::Start { core: cores, error: "a thread ended early".to_string() };
        all_ready.recv().map_err(|_| gone())??;
    }
    drop(loading);
    for _ in 0..=cores {
        let _ = go.send(());
    }
    Ok(threads)
}

/// A CPU for the control core alone: the first one that no data core has, otherwise whichever the system chooses.
fn dedicated(config: &Config) -> Placement {
    let all = glommio::CpuSet::online();
    let free = all.ok().and_then(|set| set.iter().map(|l| l.cpu).filter(|cpu| !config.cpus.contains(cpu)).min());
    free.map_or(Placement::Unbound, Placement::Fixed)
}

/// Any of the data cores' CPUs: the kernel takes one that is idle.
fn shared(config: &Config) -> Placement {
    let all = glommio::CpuSet::online();
    all.map_or(Placement::Fixed(config.cpus[0]), |all| Placement::Fenced(all.filter(|l| config.cpus.contains(&l.cpu))))
}

fn duplicate(fd: RawFd) -> RawFd {
    // SAFETY: a plain system call on an open descriptor.
    unsafe { libc::dup(fd) }
}
