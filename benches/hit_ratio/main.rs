//! Hit ratios of the eviction policies of keyloom, redis-server and Valkey, as a cache's clients see them.
//!
//! `cargo bench --bench hit_ratio` compares every policy of each server on every trace in a few minutes; with
//! `-- --quick`, a part of that in one. It prints a Markdown table and draws `target/hit_ratio.svg`.
//! `cargo bench --bench hit_ratio -- --help` lists the options. A server that is missing is named and left out; see
//! `scripts/install-peers.sh`.
//!
//! # How
//!
//! Each run starts a server of its own, on a free port, with `--maxmemory` and `--maxmemory-policy`. Servers count
//! different things as their memory before the first key, so the limit is what the server itself says it uses when
//! empty (`used_memory` of INFO), plus `--memory`. From then on all are charged for what they make of the same keys: a
//! server that needs less for each holds more of them. The column "keys held" says how many at most.
//!
//! The cache is filled by setting all keys once, without regard to popularity; then requests follow a trace: first some
//! that are not counted, to let the policy learn, then those that are. A request is a GET; on a miss, a SET of a value
//! of 64 to 500 bytes, whose size depends on the key. The client pipelines as [`client`] describes. Traces are seeded
//! and the same for all servers; [`traces`] says what they are. Hit ratios are hits by counted requests.
//!
//! For the policies `volatile-*` each SET gives an expiry, always of the same far future. All keys are candidates then,
//! and volatile-ttl, which removes the one that expires first, is first-in first-out. Under noeviction, SETs are
//! refused once memory is full, and the client goes on.
//!
//! # Time
//!
//! Hit ratios hardly depend on speed, with two exceptions. Redis and Valkey note the time of an access in whole seconds
//! (`LRU_CLOCK_RESOLUTION`): a cache that is turned over within one of them is evicted at random, whatever the policy's
//! name. So many runs share each CPU, by which one takes half a minute instead of seconds. And their LFU counters decay
//! by the minute, which this does not show.

mod client;
mod report;
mod servers;
mod traces;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;

use client::{BATCH, Mode};
use servers::{Limit, NO_EVICTION, Program, Server};
use traces::{POPULATION_MAX, Spec, Trace};

/// What an entry takes in these servers, about: it scales those traces that depend on how much fits.
const ENTRY_BYTES: u64 = 360;
/// How far above its limit a server may say it is before that is reported: buffers come and go.
const EXCESS_BYTES_MAX: u64 = 1 << 20;
/// What `--quick` leaves.
const QUICK_TRACES: [&str; 4] = ["zipf 0.9", "scan 20 %", "loop", "shift"];
const QUICK_DIVISOR: u64 = 6;
/// Runs that share a CPU: see "Time" above.
const JOBS_PER_CPU: usize = 8;

/// Hit ratios of eviction policies, of keyloom beside redis-server and Valkey.
#[derive(Parser)]
#[command(name = "hit_ratio")]
struct Options {
    /// A sixth of memory, keys and requests, and four traces
    #[arg(long)]
    quick: bool,
    /// Memory for keys and values, MiB
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    memory: u64,
    /// Keys that can come again
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1000..=POPULATION_MAX))]
    keys: u64,
    /// Requests that are not counted
    #[arg(long, default_value_t = 400_000)]
    warm_up: u64,
    /// Requests that are counted
    #[arg(long, default_value_t = 800_000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// Seed of the traces
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Servers
    #[arg(long, value_delimiter = ',', default_value = "keyloom,redis,valkey")]
    servers: Vec<String>,
    /// Policies, or parts of their names [default: all]
    #[arg(long, value_delimiter = ',')]
    policies: Vec<String>,
    /// Traces, or parts of their names [default: all]
    #[arg(long, value_delimiter = ',')]
    traces: Vec<String>,
    /// Runs at the same time [default: 8 per CPU]
    #[arg(long)]
    jobs: Option<usize>,
    /// Where to draw the picture [default: target/hit_ratio.svg]
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// One run to make: a server with a policy, driven by a trace.
#[derive(Clone)]
struct Job {
    program: Program,
    /// Memory that the server uses without a key.
    empty_bytes: u64,
    policy: &'static str,
    spec: Spec,
}

/// What one run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub hit_ratio: f64,
    pub keys_held: u64,
    /// Memory used at the end, above the limit.
    excess_bytes: u64,
}

/// One run that was tried.
pub struct Run {
    pub server: &'static str,
    pub policy: &'static str,
    pub trace: &'static str,
    pub outcome: Result<Outcome, String>,
}

/// The directory of build results, which also holds the peers.
fn target_directory() -> &'static Path {
    // TARGET/release/keyloom
    let binary = Path::new(env!("CARGO_BIN_EXE_keyloom"));
    binary.parent().and_then(Path::parent).unwrap_or(Path::new("target"))
}

impl Options {
    /// With what `--quick` changes.
    fn read() -> Self {
        let mut options = Options::parse();
        if options.quick {
            options.memory = options.memory.div_ceil(QUICK_DIVISOR);
            for number in [&mut options.keys, &mut options.warm_up, &mut options.requests] {
                *number = number.div_ceil(QUICK_DIVISOR);
            }
            if options.traces.is_empty() {
                options.traces = QUICK_TRACES.map(String::from).to_vec();
            }
        }
        options
    }

    fn memory_bytes(&self) -> u64 {
        self.memory << 20
    }

    fn specs(&self) -> Vec<Spec> {
        let all = traces::all(self.keys, (self.memory_bytes() / ENTRY_BYTES).max(1));
        all.into_iter().filter(|spec| chosen(&self.traces, spec.name)).collect()
    }
}

/// Whether `name` contains one of `parts`, or there are none.
fn chosen(parts: &[String], name: &str) -> bool {
    parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()))
}

/// All runs to make. Servers that cannot be started are named with the reason.
fn jobs(options: &Options) -> Vec<Job> {
    let mut jobs = Vec::new();
    for name in &options.servers {
        let empty = |program: &Program| Server::start(program, None, 0)?.used_memory();
        let found = Program::find(name).and_then(|program| Ok((empty(&program)?, program)));
        let (empty_bytes, program) = match found {
            Ok(found) => found,
            Err(reason) => {
                println!("without {name}: {reason}");
                continue;
            }
        };
        println!("- {}; {} bytes used when empty", program.version().unwrap_or_default(), empty_bytes);
        for policy in program.policies().into_iter().filter(|policy| chosen(&options.policies, policy)) {
            for spec in options.specs() {
                jobs.push(Job { program: program.clone(), empty_bytes, policy, spec });
            }
        }
    }
    jobs
}

impl Job {
    fn run(&self, options: &Options, cpu: usize) -> Result<Outcome, String> {
        let limit = Limit { maxmemory_bytes: self.empty_bytes + options.memory_bytes(), policy: self.policy };
        let server = Server::start(&self.program, Some(limit), cpu)?;
        let hits = self.drive(&server, options).map_err(|error| error.to_string())?;
        let mut client = server.connect().map_err(|error| error.to_string())?;
        let keys_held = client.dbsize().map_err(|error| error.to_string())?;
        let excess_bytes = server.used_memory()?.saturating_sub(limit.maxmemory_bytes);
        Ok(Outcome { hit_ratio: hits as f64 / options.requests as f64, keys_held, excess_bytes })
    }

    /// Fills the cache, asks as the trace says, and counts the hits.
    fn drive(&self, server: &Server, options: &Options) -> std::io::Result<u64> {
        let mode = Mode { expiring: self.policy.starts_with("volatile-"), refusable: self.policy == NO_EVICTION };
        let mut client = server.connect()?;
        client.fill(0..self.spec.population, mode)?;
        let mut trace = Trace::new(&self.spec, options.seed);
        let mut keys = Vec::with_capacity(BATCH);
        let mut ask = |requests: u64| {
            let (mut left, mut hits) = (requests, 0);
            while left > 0 {
                keys.clear();
                keys.extend((0..left.min(BATCH as u64)).map(|_| trace.next_key()));
                hits += client.ask(&keys, mode)?;
                left -= keys.len() as u64;
            }
            Ok(hits)
        };
        ask(options.warm_up)?;
        ask(options.requests)
    }
}

/// Makes all runs, many at the same time; the result is in the order of the jobs.
fn run_all(options: &Options, jobs: &[Job]) -> Vec<Run> {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
    let (next, runs) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for worker in 0..options.jobs.unwrap_or(cpus * JOBS_PER_CPU).max(1) {
            let (next, runs) = (&next, &runs);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { break };
                    let outcome = job.run(options, worker % cpus);
                    let run = Run { server: job.program.name, policy: job.policy, trace: job.spec.name, outcome };
                    runs.lock().unwrap_or_else(|broken| broken.into_inner()).push((index, run));
                }
            });
        }
    });
    let mut runs = runs.into_inner().unwrap_or_else(|broken| broken.into_inner());
    runs.sort_by_key(|run| run.0);
    runs.into_iter().map(|run| run.1).collect()
}

/// What a reader should know about the runs beyond their hit ratios, each thing once.
fn complaints(runs: &[Run]) -> Vec<String> {
    let complaint = |run: &Run| match &run.outcome {
        Err(reason) => Some(format!("{}: {reason}", run.server)),
        Ok(outcome) if outcome.excess_bytes > EXCESS_BYTES_MAX => Some(format!(
            "{} with {}, {}: used {} bytes more than its limit",
            run.server, run.policy, run.trace, outcome.excess_bytes
        )),
        Ok(_) => None,
    };
    let mut complaints: Vec<String> = runs.iter().filter_map(complaint).collect();
    complaints.sort();
    complaints.dedup();
    complaints
}

fn main() -> ExitCode {
    let options = Options::read();
    println!(
        "Hit ratios, %: {} MiB for keys and values, {} keys, values of {} to {} bytes; all keys set once, then {} \
         requests not counted and {} counted; GETs in batches of {BATCH}; seed {}\n",
        options.memory,
        options.keys,
        client::VALUE_BYTES_MIN,
        client::VALUE_BYTES_MAX,
        options.warm_up,
        options.requests,
        options.seed
    );
    let runs = run_all(&options, &jobs(&options));
    let names: Vec<&str> = options.specs().iter().map(|spec| spec.name).collect();
    print!("\n{}", report::markdown(&runs, &names));
    let complaints = complaints(&runs);
    for complaint in &complaints {
        println!("\n{complaint}");
    }
    let svg = options.svg.unwrap_or_else(|| target_directory().join("hit_ratio.svg"));
    match report::draw(&svg, &runs, &names) {
        Ok(()) => println!("\n{}", svg.display()),
        Err(error) => {
            eprintln!("hit_ratio: cannot draw {}: {error}", svg.display());
            return ExitCode::FAILURE;
        }
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
