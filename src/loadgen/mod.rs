//! A latency load generator: `keyloom bench`.
//!
//! It owns no core of a node; it is a client, on plain threads of its own, each with one event loop (epoll through mio)
//! over its connections.
//!
//! # Closed and open loop
//!
//! A *closed loop* is a fixed number of clients that each wait for an answer before they ask again. It finds out how
//! much a server can do. It is a poor measure of how long users wait: when the server stands still for a second, so do
//! the clients. A client that would have asked a thousand times in that second asks once, notes one slow answer, and
//! the thousand that real users would have suffered are missing. The server's worst moments are sampled least, because
//! the server itself decides when it is asked. Gil Tene named this *coordinated omission* ("How NOT to Measure
//! Latency", talks from 2013 on; <https://www.youtube.com/watch?v=lJ8ydIuPFeU>).
//!
//! An *open loop* (`--rate`) asks on a schedule that was fixed beforehand and does not look at the answers, as users
//! who know nothing of each other do. A request's *response time* counts from when it was **due**, so that time spent
//! waiting behind a stalled server, or for a free place in a full pipeline, is part of it. Beside it stands the *service
//! time*, from when the request was really sent. Where both agree, nothing waited; where they part, a closed loop would
//! have told the smaller one. The same correction is the point of wrk2 (<https://github.com/giltene/wrk2>). It is exact
//! here: nothing is estimated afterwards.
//!
//! How to use the two: find the most a server can do with a closed loop, then measure latency with an open loop at the
//! rate it shall serve. Latency at full throughput is only the length of the queue that the clients themselves build.
//!
//! # Percentiles
//!
//! Latencies go into HdrHistograms (<https://hdrhistogram.github.io/HdrHistogram/>): 1 µs to 60 s, exact to three
//! digits, of constant size, without sampling or averaging. Percentiles of several threads come from the sum of their
//! histograms; percentiles themselves can not be averaged. If a page makes 100 requests, half of all pages meet
//! something worse than the 99.3rd percentile, so the table goes to 99.99.
//!
//! # Reading order
//!
//! [`client`] is the heart: one connection without its socket, which is a [`wire`]. [`plan`] says what it sends
//! ([`request`], [`random`]), [`schedule`] when, [`reply`] what came back, [`stats`] what is counted. [`worker`] is the
//! event loop, [`turn`] what is not about connections in it, [`run`] the threads, [`report`], [`hgrm`] and [`plot`] the
//! results, [`options`] the command line. [`cluster`] is about clients of a cluster.

pub mod client;
pub mod cluster;
pub mod connect;
pub mod hgrm;
pub mod options;
pub mod plan;
pub mod plot;
pub mod random;
pub mod reply;
pub mod report;
pub mod request;
pub mod run;
pub mod schedule;
pub mod stats;
pub mod turn;
pub mod wire;
pub mod worker;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use serde_json::{Value, json};

use cluster::Kind;
pub use options::BenchArgs;
use options::OptionError;
use plan::{KeyPattern, Mix, Op, Sizes, Workload};
use plot::Series;
use run::{Outcome, RunError, Setup};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Option(#[from] OptionError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("could not write {path}: {reason}")]
    Write { path: PathBuf, reason: String },
    #[error("signals cannot be handled: {0}")]
    Signal(io::Error),
    #[error("no seed: the system gives no random numbers")]
    Seed,
}

/// What was done.
#[derive(Debug)]
pub struct Summary {
    /// Filling the keys, if asked for.
    pub load: Option<Outcome>,
    /// The measured run; none if the load was all, failed or was interrupted.
    pub run: Option<Outcome>,
}

impl Summary {
    /// The server stayed, and every key was filled.
    pub fn is_success(&self) -> bool {
        let loaded = self.load.as_ref().is_none_or(is_loaded);
        loaded && !self.load.iter().chain(&self.run).any(Outcome::all_lost)
    }
}

fn is_loaded(load: &Outcome) -> bool {
    // A cluster may lose connections, and keys only with requests on them.
    let kept = match &load.cluster {
        Some(cluster) => cluster.sight.failed(Kind::Uncertain) == 0 && load.unsent == 0,
        None => load.lost_connections == 0,
    };
    kept && load.unanswered == 0 && load.stats.total().errors == 0 && !load.interrupted
}

#[derive(clap::Parser)]
#[command(name = "keyloom bench", disable_version_flag = true)]
struct CommandLine {
    #[command(flatten)]
    args: BenchArgs,
}

/// The command as typed: `words` are those after `bench`. A bad option is one line on standard error and exit code 1.
pub fn command_line(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    match CommandLine::try_parse_from(std::iter::once(OsString::from("keyloom bench")).chain(words)) {
        Ok(line) => main(&line.args),
        Err(error) if !error.use_stderr() => {
            // Help for a reader that has gone is no failure.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("keyloom bench: {}", one_line(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// The first paragraph, without its `error:`; hints and usage follow a blank line.
fn one_line(error: &str) -> String {
    let lines = error.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let text = lines.collect::<Vec<_>>().join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_string()
}

/// The command: runs, reports, and says how it went. Ctrl-C ends the run and still reports; a second one ends at once.
pub fn main(args: &BenchArgs) -> ExitCode {
    let stop = Arc::new(AtomicBool::new(false));
    match on_signals(&stop).and_then(|()| bench(args, &stop)) {
        Ok(summary) if summary.is_success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("keyloom bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn on_signals(stop: &Arc<AtomicBool>) -> Result<(), BenchError> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag unset and sets it.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(stop)))
            .map_err(BenchError::Signal)?;
    }
    Ok(())
}

/// Does what `args` say and writes all that they ask for. Ends early when `stop` becomes true.
pub fn bench(args: &BenchArgs, stop: &Arc<AtomicBool>) -> Result<Summary, BenchError> {
    args.validate()?;
    let seed = match args.seed {
        Some(seed) => seed,
        // Short enough to be typed again, and exact in JSON readers that know only doubles.
        None => getrandom::u64().map_err(|_| BenchError::Seed)? >> 32,
    };
    let mut summary = Summary { load: None, run: None };
    if args.load {
        let outcome = phase(args, &args.load_setup(), Mix::Load, KeyPattern::Sequential, seed, stop)?;
        if !args.quiet {
            let (keys, seconds) = (outcome.stats.total().answered, outcome.elapsed.as_secs_f64());
            eprintln!("Loaded {keys} keys in {seconds:.3} s");
        }
        summary.load = Some(outcome);
    }
    if args.runs() && summary.load.as_ref().is_none_or(is_loaded) {
        summary.run = Some(phase(args, &args.run_setup(), args.mix(), args.pattern(), seed, stop)?);
    }
    write_results(args, seed, &summary)?;
    Ok(summary)
}

fn phase(
    args: &BenchArgs,
    setup: &Setup,
    mix: Mix,
    pattern: KeyPattern,
    seed: u64,
    stop: &Arc<AtomicBool>,
) -> Result<Outcome, BenchError> {
    let clients = (setup.threads * setup.clients) as u64;
    let workload = Workload::new(mix, args.keys(), pattern, args.sizes()?, seed, clients, args.templates()?);
    Ok(run::run(setup, &Arc::new(workload), stop, !args.quiet)?)
}

/// Names of the operations; a custom command has its own.
fn names(custom: Option<&str>) -> report::Names<'_> {
    ["SET", "GET", custom.unwrap_or("custom")]
}

fn write_results(args: &BenchArgs, seed: u64, summary: &Summary) -> Result<(), BenchError> {
    let custom = args.custom()?;
    let names = names(custom.as_ref().map(request::Template::name));
    let Some(outcome) = summary.run.as_ref().or(summary.load.as_ref()) else {
        return Ok(());
    };
    let text = format!("{}\n{}", headline(args, seed, summary), report::table(outcome, names));
    let json_on_stdout = args.json.as_deref() == Some(Path::new("-"));
    print(&text, json_on_stdout)?;
    if let Some(path) = &args.json {
        let section = |outcome: &Option<Outcome>| outcome.as_ref().map(|outcome| report::json(outcome, names));
        let all =
            json!({ "config": config_json(args, seed), "load": section(&summary.load), "run": section(&summary.run) });
        let text = format!("{all:#}\n");
        if json_on_stdout {
            print(&text, false)?;
        } else {
            written(path, std::fs::write(path, text))?;
        }
    }
    if let Some(prefix) = &args.hdr_prefix {
        write_hgrm(prefix, outcome, names)?;
    }
    if let Some(path) = &args.svg {
        write_plot(path, &headline(args, seed, summary), outcome, names)?;
    }
    Ok(())
}

fn print(text: &str, to_stderr: bool) -> Result<(), BenchError> {
    let result =
        if to_stderr { io::stderr().write_all(text.as_bytes()) } else { io::stdout().write_all(text.as_bytes()) };
    written(Path::new("the result"), result)
}

fn written<E: ToString>(path: &Path, result: Result<(), E>) -> Result<(), BenchError> {
    result.map_err(|error| BenchError::Write { path: path.to_owned(), reason: error.to_string() })
}

/// One line that says what was measured.
fn headline(args: &BenchArgs, seed: u64, summary: &Summary) -> String {
    let setup = if summary.run.is_some() { args.run_setup() } else { args.load_setup() };
    let mode = match setup.open_loop {
        Some(open) => format!("open loop at {} requests/s", open.rate_per_s),
        None => "closed loop".into(),
    };
    let (threads, clients, pipeline) = (setup.threads, setup.clients, setup.pipeline);
    let what = if setup.cluster { "clients of the cluster" } else { "connections" };
    format!("{}: {threads} x {clients} {what}, pipeline {pipeline}, {mode}, seed {seed}", setup.target)
}

fn config_json(args: &BenchArgs, seed: u64) -> Value {
    let setup = args.run_setup();
    json!({
        "target": setup.target.to_string(),
        "cluster": setup.cluster,
        "threads": args.threads,
        "clients_per_thread": args.clients,
        "pipeline": args.pipeline,
        "mode": if args.rate.is_some() { "open" } else { "closed" },
        "rate_per_s": args.rate,
        "arrival": args.rate.map(|_| format!("{:?}", args.arrival).to_lowercase()),
        "ratio": { "set": args.ratio.0, "get": args.ratio.1 },
        "command": args.command,
        "data_size": args.sizes().ok().map(sizes_json),
        "expiry_s": args.expiry,
        "key_prefix": args.key_prefix,
        "key_width": args.key_width,
        "key_minimum": args.key_minimum,
        "key_maximum": args.key_maximum,
        "key_pattern": format!("{:?}", args.key_pattern).to_lowercase(),
        "zipf_exponent": args.zipf_exponent,
        "seed": seed,
        "requests_per_client": setup.requests,
        "test_time_s": args.test_time,
        "warmup_s": args.warmup,
        "protocol": format!("{:?}", args.protocol).to_lowercase(),
        "db": args.db,
        "load": args.load,
    })
}

/// Sizes with their weights, or the ends of a range.
fn sizes_json(sizes: Sizes) -> Value {
    match sizes {
        Sizes::Fixed(bytes) => json!(bytes),
        Sizes::Range(min, max) => json!({ "min": min, "max": max }),
        Sizes::List(list) => list.iter().map(|(bytes, weight)| json!({ "bytes": bytes, "weight": weight })).collect(),
    }
}

fn write_hgrm(prefix: &Path, outcome: &Outcome, names: report::Names<'_>) -> Result<(), BenchError> {
    let total = outcome.stats.total();
    let mut files = vec![("all".to_string(), &total)];
    for op in Op::ALL {
        if let Some(stats) = outcome.stats.op(op) {
            let name = names[op as usize].to_lowercase();
            files.push((name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect(), stats));
        }
    }
    for (name, stats) in files {
        let mut path = prefix.as_os_str().to_owned();
        path.push(format!("_{name}.hgrm"));
        let path = Path::new(&path);
        let write = || -> io::Result<()> {
            let mut file = BufWriter::new(File::create(path)?);
            hgrm::write(&stats.response, &mut file)?;
            file.flush()
        };
        written(path, write())?;
    }
    Ok(())
}

fn write_plot(path: &Path, title: &str, outcome: &Outcome, names: report::Names<'_>) -> Result<(), BenchError> {
    let total = outcome.stats.total();
    let mut series: Vec<Series<'_>> = Vec::new();
    for op in Op::ALL {
        if let Some(stats) = outcome.stats.op(op) {
            let name = names[op as usize].to_string();
            series.push(Series { name, histogram: &stats.response, secondary: false });
        }
    }
    if let Some(service) = &total.service {
        let name = "all, service time".to_string();
        series.push(Series { name, histogram: service, secondary: true });
    }
    written(path, plot::write(path, title, &series))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_option_is_told_in_one_line() {
        let told = |line: &str| {
            let error = CommandLine::try_parse_from(std::iter::once("bench").chain(line.split(' '))).err().unwrap();
            one_line(&error.to_string())
        };
        for (line, part) in [
            ("-c x", "invalid value 'x' for '--clients"),
            ("--key-pattern odd", "uniform, zipf, sequential"),
            ("--user u", "--auth"),
            ("--nonsense", "'--nonsense'"),
            ("-d 1 --data-size-range 1-2", "--data-size-range"),
        ] {
            let text = told(line);
            assert!(text.contains(part) && !text.contains('\n') && !text.starts_with("error"), "{text}");
        }
    }
}
