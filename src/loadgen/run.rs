//! One run: connects all clients, starts the threads, shows progress, gathers the numbers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::client::{Client, Pace};
use super::cluster::run::{Cluster, Clustered};
use super::cluster::scout::FindError;
use super::connect::{self, ConnectError, Greeting, Socket, Target};
use super::options::CONNECTIONS_MAX;
use super::plan::{Plan, Workload};
use super::random::Rng;
use super::report;
use super::schedule::{Arrival, Schedule};
use super::stats::Stats;
use super::turn::{Finished, INTERVAL_NS, Report, Timing, Turn};
use super::worker::Worker;

/// Reports that may wait for the gathering thread, per thread.
const REPORTS_MAX: usize = 4;
/// A progress line is shown this long after its second is over, so that all threads' numbers have come, ms.
const PROGRESS_DELAY_MS: u64 = 100;
/// Schedules draw from these streams of the seed, plans from those below.
const SCHEDULE_STREAM: u64 = 1 << 32;

/// A run could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error("--threads times --clients times {0} primaries must be at most {CONNECTIONS_MAX}")]
    Connections(usize),
    #[error("the system refuses what a load thread needs: {0}")]
    System(#[from] io::Error),
    #[error("a load thread ended without its numbers")]
    Thread,
}

/// Requests at a fixed rate, whatever the replies do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpenLoop {
    /// Over all connections.
    pub rate_per_s: f64,
    pub arrival: Arrival,
    /// How much of a wait for the next due request is spent polling, because a thread that sleeps wakes late.
    pub spin: Duration,
}

/// How the clients of a run behave.
#[derive(Clone, Debug)]
pub struct Setup {
    pub target: Target,
    pub greeting: Greeting,
    /// `target` is a node of a cluster, and all of its primaries get requests.
    pub cluster: bool,
    pub threads: usize,
    /// Clients of each thread.
    pub clients: usize,
    pub pipeline: usize,
    /// Per client, warm-up excluded.
    pub requests: Option<u64>,
    /// Warm-up excluded.
    pub test_time: Option<Duration>,
    pub warmup: Duration,
    pub open_loop: Option<OpenLoop>,
}

/// The numbers of a run.
#[derive(Debug)]
pub struct Outcome {
    pub stats: Stats,
    /// From the end of the warm-up to the last reply.
    pub elapsed: Duration,
    pub connections: u64,
    pub lost_connections: u64,
    pub first_loss: Option<String>,
    pub unanswered: u64,
    pub unsent: u64,
    /// The busiest thread's share of a CPU.
    pub cpu: Option<f64>,
    pub interrupted: bool,
    /// What clients of a cluster have seen of it.
    pub cluster: Option<Clustered>,
}

impl Outcome {
    /// The server left all clients alone, or nobody in the cluster served them any more.
    pub fn all_lost(&self) -> bool {
        match &self.cluster {
            Some(cluster) => cluster.sight.gave_up,
            None => self.lost_connections == self.connections,
        }
    }
}

/// Runs `workload` as `setup` says; ends early when `stop` becomes true.
pub fn run(
    setup: &Setup,
    workload: &Arc<Workload>,
    stop: &Arc<AtomicBool>,
    progress: bool,
) -> Result<Outcome, RunError> {
    let mut cluster = if setup.cluster { Some(Cluster::find(setup)?) } else { None };
    if !setup.cluster {
        connect::probe(&setup.target, &setup.greeting)?;
    }
    let targets = cluster.as_ref().map_or_else(|| vec![setup.target.clone()], Cluster::primaries);
    let clients = (setup.threads * setup.clients) as u64;
    let connections = clients * targets.len() as u64;
    if connections > CONNECTIONS_MAX as u64 {
        return Err(RunError::Connections(targets.len()));
    }
    let sockets: Result<Vec<Vec<Socket>>, ConnectError> = (0..clients)
        .map(|_| targets.iter().map(|target| connect::connect(target, &setup.greeting)).collect())
        .collect();
    let mut sockets = sockets?.into_iter();
    let record_from_ns = setup.warmup.as_nanos() as u64;
    let stop_ns = setup.test_time.map(|time| record_from_ns + time.as_nanos() as u64);
    let timing = Timing { start: Instant::now(), record_from_ns, stop_ns };
    let (sender, reports) = crossbeam_channel::bounded(REPORTS_MAX * setup.threads);
    let mut threads = Vec::with_capacity(setup.threads);
    for thread in 0..setup.threads {
        let first = (thread * setup.clients) as u64;
        let seats =
            (first..).map(|i| client(setup, workload, i, record_from_ns)).zip(sockets.by_ref().take(setup.clients));
        let turn = Turn::new(timing, Arc::clone(stop), sender.clone(), setup.open_loop)?;
        let builder = std::thread::Builder::new().name(format!("load-{thread}"));
        threads.push(match &mut cluster {
            Some(cluster) => {
                let worker = cluster.worker(setup, workload, seats, turn)?;
                builder.spawn(move || worker.run())?
            }
            None => {
                let connections = seats.flat_map(|((plan, pace), sockets)| {
                    let client = Client::new(plan, pace);
                    sockets.into_iter().next().map(|socket| (client, socket))
                });
                let worker = Worker::new(connections.collect(), turn)?;
                builder.spawn(move || worker.run())?
            }
        });
    }
    drop(sender);
    let scout = cluster.map(Cluster::start).transpose()?;
    let mut gathered = Gathered::new(setup.open_loop.is_some());
    gathered.receive(&reports, timing, progress);
    let mut outcome = finish(gathered, threads, connections, record_from_ns, stop)?;
    if let (Some(scout), Some(cluster)) = (scout, &mut outcome.cluster) {
        cluster.asked = scout.join().map_err(|_| RunError::Thread)?;
        cluster.primaries = targets.len();
    }
    Ok(outcome)
}

/// What a client sends, and how.
fn client(setup: &Setup, workload: &Arc<Workload>, index: u64, record_from_ns: u64) -> (Plan, Pace) {
    let schedule = setup.open_loop.map(|open| {
        let gap_ns = workload.clients as f64 / open.rate_per_s * 1e9;
        Schedule::new(open.arrival, gap_ns, Rng::new(workload.seed, SCHEDULE_STREAM + index))
    });
    let requests = setup.requests.unwrap_or(u64::MAX);
    (Plan::new(workload, index), Pace { pipeline: setup.pipeline, requests, record_from_ns, schedule })
}

fn finish(
    gathered: Gathered,
    threads: Vec<JoinHandle<io::Result<()>>>,
    connections: u64,
    record_from_ns: u64,
    stop: &AtomicBool,
) -> Result<Outcome, RunError> {
    let started = threads.len();
    for thread in threads {
        thread.join().map_err(|_| RunError::Thread)??;
    }
    if gathered.finished.len() != started {
        return Err(RunError::Thread);
    }
    let all = &gathered.finished;
    let end_ns = all.iter().map(|finished| finished.end_ns).max().unwrap_or(0);
    Ok(Outcome {
        stats: gathered.total,
        elapsed: Duration::from_nanos(end_ns.saturating_sub(record_from_ns)),
        connections,
        lost_connections: all.iter().map(|finished| finished.lost_connections).sum(),
        first_loss: all.iter().find_map(|finished| finished.first_loss.clone()),
        unanswered: all.iter().map(|finished| finished.unanswered).sum(),
        unsent: all.iter().map(|finished| finished.unsent).sum(),
        cpu: all.iter().filter_map(|finished| finished.cpu).reduce(f64::max),
        interrupted: stop.load(Ordering::Relaxed),
        cluster: Clustered::of(all.iter().filter_map(|finished| finished.cluster.as_ref())),
    })
}

/// What the threads have reported so far.
struct Gathered {
    total: Stats,
    /// Since the last progress line.
    now: Stats,
    finished: Vec<Finished>,
}

impl Gathered {
    fn new(open_loop: bool) -> Self {
        Gathered { total: Stats::new(open_loop), now: Stats::new(open_loop), finished: Vec::new() }
    }

    /// Takes reports until no thread is left to send one; shows a line each second if `progress`.
    fn receive(&mut self, reports: &Receiver<Report>, timing: Timing, progress: bool) {
        let mut seconds = 1;
        loop {
            let due_ns = seconds * INTERVAL_NS + PROGRESS_DELAY_MS * 1_000_000;
            match reports.recv_deadline(timing.start + Duration::from_nanos(due_ns)) {
                Ok(Report::Interval(stats)) => self.now.add(&stats),
                Ok(Report::Done(finished)) => {
                    self.now.add(&finished.stats);
                    self.finished.push(*finished);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.show(seconds, timing.record_from_ns, progress);
                    seconds += 1;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.total.add(&self.now);
                    return;
                }
            }
        }
    }

    fn show(&mut self, seconds: u64, record_from_ns: u64, progress: bool) {
        self.total.add(&self.now);
        if progress {
            let warm_s = record_from_ns as f64 / 1e9;
            eprintln!("{}", report::progress_line(seconds, warm_s, &self.now, &self.total));
        }
        self.now = Stats::new(self.total.open_loop());
    }
}
