//! One run: connects all clients, starts the threads, shows progress, gathers the numbers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::client::{Client, Pace};
use super::connect::{self, ConnectError, Greeting, Target};
use super::plan::{Plan, Workload};
use super::random::Rng;
use super::report;
use super::schedule::{Arrival, Schedule};
use super::stats::Stats;
use super::worker::{Finished, INTERVAL_NS, Report, Timing, Worker};

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
}

/// How the clients of a run behave.
#[derive(Clone, Debug)]
pub struct Setup {
    pub target: Target,
    pub greeting: Greeting,
    pub threads: usize,
    /// Connections of each thread.
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
}

impl Outcome {
    /// The server left all clients alone.
    pub fn all_lost(&self) -> bool {
        self.lost_connections == self.connections
    }
}

/// Runs `workload` as `setup` says; ends early when `stop` becomes true.
pub fn run(
    setup: &Setup,
    workload: &Arc<Workload>,
    stop: &Arc<AtomicBool>,
    progress: bool,
) -> Result<Outcome, RunError> {
    connect::probe(&setup.target, &setup.greeting)?;
    let mut sockets = Vec::with_capacity(setup.threads);
    for _ in 0..setup.threads {
        let of_thread: Result<Vec<_>, _> =
            (0..setup.clients).map(|_| connect::connect(&setup.target, &setup.greeting)).collect();
        sockets.push(of_thread?);
    }
    let record_from_ns = setup.warmup.as_nanos() as u64;
    let stop_ns = setup.test_time.map(|time| record_from_ns + time.as_nanos() as u64);
    let timing = Timing { start: Instant::now(), record_from_ns, stop_ns };
    let (sender, reports) = crossbeam_channel::bounded(REPORTS_MAX * setup.threads);
    let mut threads = Vec::with_capacity(setup.threads);
    for (thread, sockets) in sockets.into_iter().enumerate() {
        let first = (thread * setup.clients) as u64;
        let clients = (first..).zip(sockets).map(|(i, socket)| (client(setup, workload, i, record_from_ns), socket));
        let open_loop = setup.open_loop.is_some();
        let worker = Worker::new(clients.collect(), timing, Arc::clone(stop), sender.clone(), open_loop)?;
        let name = format!("load-{thread}");
        threads.push(std::thread::Builder::new().name(name).spawn(move || worker.run())?);
    }
    drop(sender);
    let mut gathered = Gathered::new(setup.open_loop.is_some());
    gathered.receive(&reports, timing, progress);
    finish(gathered, threads, setup, record_from_ns, stop)
}

fn client(setup: &Setup, workload: &Arc<Workload>, index: u64, record_from_ns: u64) -> Client {
    let schedule = setup.open_loop.map(|open| {
        let gap_ns = workload.clients as f64 / open.rate_per_s * 1e9;
        Schedule::new(open.arrival, gap_ns, Rng::new(workload.seed, SCHEDULE_STREAM + index))
    });
    let requests = setup.requests.unwrap_or(u64::MAX);
    Client::new(Plan::new(workload, index), Pace { pipeline: setup.pipeline, requests, record_from_ns, schedule })
}

fn finish(
    gathered: Gathered,
    threads: Vec<JoinHandle<io::Result<()>>>,
    setup: &Setup,
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
        connections: (setup.threads * setup.clients) as u64,
        lost_connections: all.iter().map(|finished| finished.lost_connections).sum(),
        first_loss: all.iter().find_map(|finished| finished.first_loss.clone()),
        unanswered: all.iter().map(|finished| finished.unanswered).sum(),
        unsent: all.iter().map(|finished| finished.unsent).sum(),
        cpu: all.iter().filter_map(|finished| finished.cpu).reduce(f64::max),
        interrupted: stop.load(Ordering::Relaxed),
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
