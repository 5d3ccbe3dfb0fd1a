//! The load generator against a real redis-server: what it says it did is what the server saw.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{free_port, wait_until};
use clap::Parser;
use keyloom::loadgen::{self, BenchArgs, BenchError, Summary};
use serde_json::Value;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

/// A redis-server of the test's own, with a Unix socket beside its port.
struct Server(crate::common::Server);

impl Server {
    fn start(extra: &[&str]) -> Server {
        Server(crate::common::Server::redis(&[&["--unixsocket", "redis.sock"], extra].concat()))
    }

    fn path(&self, name: &str) -> String {
        self.0.dir().join(name).to_str().unwrap().to_string()
    }

    fn ask<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.0.port)).unwrap();
        let mut words = command.split(' ');
        let mut request = redis::cmd(words.next().unwrap());
        for word in words {
            request.arg(word);
        }
        request.query(&mut client.get_connection().unwrap()).unwrap()
    }

    /// How often the server executed each command.
    fn calls(&self) -> HashMap<String, u64> {
        let text: String = self.ask("INFO commandstats");
        let line = |line: &str| {
            let (name, numbers) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_string(), numbers.split(',').next()?.parse().ok()?))
        };
        text.lines().filter_map(line).collect()
    }

    fn called(&self, name: &str) -> u64 {
        self.calls().get(name).copied().unwrap_or(0)
    }

    fn args(&self, options: &str) -> BenchArgs {
        args(&format!("--port {} --quiet {options}", self.0.port))
    }

    fn bench(&self, options: &str) -> Result<Summary, BenchError> {
        loadgen::bench(&self.args(options), &Arc::new(AtomicBool::new(false)))
    }

    /// Runs the command as its `main` does and returns what it wrote as JSON.
    fn json(&self, options: &str) -> Value {
        let file = self.path("out.json");
        assert_eq!(loadgen::main(&self.args(&format!("{options} --json {file}"))), ExitCode::SUCCESS);
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }
}

fn args(options: &str) -> BenchArgs {
    Cli::parse_from(std::iter::once("bench").chain(options.split_whitespace())).bench
}

#[test]
fn a_count_of_requests_is_exact() {
    let server = Server::start(&[]);
    let json = server.json("-c 2 -t 2 -n 1000 -P 7 --ratio 1:3 --key-maximum 50 --seed 5");
    let calls = server.calls();
    assert_eq!((calls["set"], calls["get"]), (1000, 3000));
    let run = &json["run"];
    assert_eq!(run["totals"]["requests"], 4000);
    assert_eq!(run["ops"]["set"]["requests"], 1000);
    assert_eq!(run["ops"]["get"]["requests"], 3000);
    assert_eq!(run["totals"]["errors"], 0);
    assert_eq!(run["unanswered"], 0);
    assert_eq!(json["config"]["seed"], 5);
    assert!(json["load"].is_null());
    let (hits, misses) = (&run["ops"]["get"]["hits"], &run["ops"]["get"]["misses"]);
    let info: String = server.ask("INFO stats");
    assert!(info.contains(&format!("keyspace_hits:{hits}\r\n")), "{hits}: {info}");
    assert!(info.contains(&format!("keyspace_misses:{misses}\r\n")), "{misses}: {info}");
}

#[test]
fn a_load_makes_every_key_once_and_a_run_follows() {
    let server = Server::start(&[]);
    let load = "-c 7 --load --key-minimum 11 --key-maximum 1010 --key-prefix item: -d 100";
    let summary = server.bench(load).unwrap();
    assert!(summary.is_success() && summary.run.is_none());
    assert_eq!(server.ask::<u64>("DBSIZE"), 1000);
    assert_eq!(server.called("set"), 1000);
    assert_eq!(server.ask::<u64>("EXISTS item:11 item:1010"), 2);
    assert_eq!(server.ask::<u64>("STRLEN item:500"), 100);

    let json = server.json(&format!("{load} -n 100 --ratio 0:1"));
    assert_eq!(json["load"]["ops"]["set"]["requests"], 1000);
    let get = &json["run"]["ops"]["get"];
    assert_eq!((&get["hits"], &get["misses"]), (&700.into(), &0.into()));
    // Twice the range, of which the upper half is empty.
    let sequential = "-c 1 -n 2000 --ratio 0:1 --key-pattern sequential --key-prefix item:";
    let json = server.json(&format!("{sequential} --key-minimum 11 --key-maximum 2010"));
    let get = &json["run"]["ops"]["get"];
    assert_eq!((&get["hits"], &get["misses"]), (&1000.into(), &1000.into()));
    assert_eq!(server.ask::<u64>("DBSIZE"), 1000);
}

#[test]
fn files_are_written() {
    let server = Server::start(&[]);
    let (prefix, svg) = (server.path("lat"), server.path("plot.svg"));
    let json = server.json(&format!("-c 3 -n 500 --ratio 1:1 --hdr-prefix {prefix} --svg {svg}"));
    for (name, count) in [("set", 750), ("get", 750), ("all", 1500)] {
        let text = std::fs::read_to_string(format!("{prefix}_{name}.hgrm")).unwrap();
        assert!(text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"));
        assert!(text.contains(&format!("Total count    = {count:12}]")), "{text}");
    }
    let svg = std::fs::read_to_string(svg).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains("SET") && svg.contains("GET") && svg.matches("<polyline").count() >= 2);
    let us = &json["run"]["totals"]["response_us"];
    let percentiles: Vec<u64> = ["min", "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"]
        .iter()
        .map(|name| us[name].as_u64().unwrap())
        .collect();
    assert!(percentiles.is_sorted() && percentiles[0] >= 1, "{percentiles:?}");
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let server = Server::start(&[]);
    for arrival in ["constant", "poisson"] {
        server.ask::<()>("CONFIG RESETSTAT");
        // 2000 requests at 4000 per second over 5 connections: due within about half a second.
        let options = format!("-c 5 -n 400 --rate 4000 -P 100 --arrival {arrival} --seed 3");
        let run = server.bench(&options).unwrap().run.unwrap();
        let total = run.stats.total();
        assert_eq!(total.answered, 2000);
        assert_eq!(server.called("set") + server.called("get"), 2000);
        // Never faster than the schedule, however fast the server is.
        let fastest = if arrival == "constant" { 0.49 } else { 0.4 };
        assert!(run.elapsed.as_secs_f64() > fastest, "{:?}", run.elapsed);
        let service = total.service.unwrap();
        assert_eq!(service.len(), 2000);
        assert!(service.mean() <= total.response.mean());
    }
}

#[test]
fn an_open_loop_sees_a_stalled_server() {
    let server = Server::start(&["--enable-debug-command", "local"]);
    let start = Instant::now();
    let run = std::thread::scope(|scope| {
        let run = scope.spawn(|| server.bench("-c 2 --test-time 2.5 --rate 1000").unwrap().run.unwrap());
        wait_until("the run has begun", || server.called("get") > 100);
        server.ask::<()>("DEBUG SLEEP 0.5");
        run.join().unwrap()
    });
    assert!(start.elapsed() >= Duration::from_millis(2500));
    let total = run.stats.total();
    // About 500 requests fell due while the server slept, half of them more than 250 ms before it woke. Seen from the
    // sending, one request of each connection was slow.
    let late = total.response.count_between(250_000, 60_000_000);
    assert!(late >= 200, "{late}");
    let service = total.service.unwrap();
    assert!(service.count_between(250_000, 60_000_000) < late / 2);
}

#[test]
fn protocols_sockets_users_and_databases() {
    let server = Server::start(&["--requirepass", "secret"]);
    let refused = server.bench("-n 1").unwrap_err().to_string();
    assert!(refused.contains("refuses PING: NOAUTH"), "{refused}");
    let wrong = server.bench("-n 1 -a wrong").unwrap_err().to_string();
    assert!(wrong.contains("refuses AUTH: WRONGPASS"), "{wrong}");
    let socket = server.path("redis.sock");
    for options in [
        "-a secret".to_string(),
        "-a secret --user default --protocol resp3 --db 3".to_string(),
        format!("-a secret --protocol resp3 -S {socket}"),
        format!("-a secret --db 5 -S {socket}"),
    ] {
        let total = server.bench(&format!("{options} -c 2 -n 100 --ratio 1:1")).unwrap().run.unwrap().stats.total();
        assert_eq!((total.answered, total.errors, total.hits + total.misses), (200, 0, 100), "{options}");
    }
    let client = redis::Client::open(format!("redis://:secret@127.0.0.1:{}/", server.0.port)).unwrap();
    let keyspace: String = redis::cmd("INFO").arg("keyspace").query(&mut client.get_connection().unwrap()).unwrap();
    assert!(keyspace.contains("db0:") && keyspace.contains("db3:") && keyspace.contains("db5:"), "{keyspace}");
    let file = server.path("db.json");
    let nowhere = server.args(&format!("-a secret --db 99 --json {file}"));
    assert_eq!(loadgen::main(&nowhere), ExitCode::FAILURE);
    assert!(!Path::new(&file).exists());
}

#[test]
fn custom_commands_expiry_and_sizes() {
    let server = Server::start(&[]);
    let mut args = server.args("-c 1 -n 300 -P 3 --key-maximum 10 --data-size-range 10-20");
    args.command = Some("HSET h:__key__ 'a field' __data__".into());
    let run = loadgen::bench(&args, &Arc::default()).unwrap().run.unwrap();
    assert_eq!((run.stats.total().answered, run.stats.total().errors), (300, 0));
    assert_eq!(server.called("hset"), 300);
    assert_eq!(server.ask::<u64>("DBSIZE"), 10);
    let length: u64 = redis::cmd("HSTRLEN")
        .arg("h:key-1")
        .arg("a field")
        .query(
            &mut redis::Client::open(format!("redis://127.0.0.1:{}/", server.0.port))
                .unwrap()
                .get_connection()
                .unwrap(),
        )
        .unwrap();
    assert!((10..=20).contains(&length), "{length}");

    server.bench("--load --key-maximum 20 --key-prefix e --expiry 1000 --data-size-list 8:1").unwrap();
    assert!((900..=1000).contains(&server.ask::<u64>("TTL e7")));
    assert_eq!(server.ask::<u64>("STRLEN e7"), 8);
}

#[test]
fn large_values_pass_through_full_sockets() {
    let server = Server::start(&[]);
    let options = "-c 2 -n 40 -P 20 --ratio 1:1 --key-maximum 1 --data-size 1000000";
    let total = server.bench(&format!("--load {options}")).unwrap().run.unwrap().stats.total();
    assert_eq!((total.answered, total.errors, total.hits), (80, 0, 40));
    assert!(total.bytes_in > 40_000_000 && total.bytes_out > 40_000_000);
}

#[test]
fn error_replies_are_counted_and_the_first_is_shown() {
    let server = Server::start(&[]);
    server.ask::<()>("LPUSH key-1 x");
    let run = server.bench("-c 2 -n 50 --ratio 0:1 --key-maximum 1").unwrap().run.unwrap();
    let total = run.stats.total();
    assert_eq!((total.answered, total.errors, total.hits, total.misses), (100, 100, 0, 0));
    assert!(run.stats.first_error.unwrap().starts_with("WRONGTYPE "));
}

#[test]
fn a_server_that_goes_away_ends_the_run() {
    let mut server = Server::start(&[]);
    let args = server.args("-c 3 --test-time 1000");
    let run = std::thread::spawn(move || loadgen::bench(&args, &Arc::default()).unwrap());
    wait_until("the run has begun", || server.called("get") > 100);
    server.0.kill();
    let summary = run.join().unwrap();
    assert!(!summary.is_success());
    let run = summary.run.unwrap();
    assert_eq!((run.lost_connections, run.connections), (3, 3));
    assert!(run.first_loss.is_some() && run.stats.total().answered > 100);
}

#[test]
fn nobody_listening_and_nonsense_are_errors() {
    let none = args(&format!("-p {} -q -n 1", free_port()));
    let error = loadgen::bench(&none, &Arc::default()).unwrap_err().to_string();
    assert!(error.starts_with("could not connect to 127.0.0.1:") && error.contains("refused"), "{error}");
    assert_eq!(loadgen::main(&none), ExitCode::FAILURE);
    let backwards = args("--key-minimum 2 --key-maximum 1");
    assert!(matches!(loadgen::bench(&backwards, &Arc::default()), Err(BenchError::Option(_))));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let web = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.read(&mut [0; 64]);
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let error = loadgen::bench(&args(&format!("-p {port} -q -n 1")), &Arc::default()).unwrap_err().to_string();
    assert!(error.contains("does not speak RESP"), "{error}");
    web.join().unwrap();
}

#[test]
fn stopping_early_still_reports() {
    let server = Server::start(&[]);
    let stop = Arc::new(AtomicBool::new(false));
    let summary = std::thread::scope(|scope| {
        let args = server.args("-c 3 -t 2 --test-time 1000");
        let run_stop = Arc::clone(&stop);
        let run = scope.spawn(move || loadgen::bench(&args, &run_stop).unwrap());
        wait_until("the run has begun", || server.called("get") > 100);
        stop.store(true, Ordering::Relaxed);
        run.join().unwrap()
    });
    assert!(summary.is_success());
    let run = summary.run.unwrap();
    assert!(run.interrupted && run.unanswered == 0);
    // Every request the server executed is in the report.
    assert_eq!(run.stats.total().answered, server.called("get") + server.called("set"));
}

#[test]
fn warm_up_is_not_recorded() {
    let server = Server::start(&[]);
    let run = server.bench("-c 2 -n 100 --warmup 0.2").unwrap().run.unwrap();
    assert_eq!(run.stats.total().answered, 200);
    assert!(server.called("get") + server.called("set") > 200);
}

/// A cluster of one redis-server; several nodes, and what befalls them: `tests/cluster_nodes`.
#[test]
fn a_cluster_gets_what_a_server_gets() {
    let server = Server::start(&["--cluster-enabled", "yes"]);
    let nobody = server.bench("--cluster -n 1").unwrap_err().to_string();
    assert!(nobody.ends_with("says that nobody serves any slot of its cluster"), "{nobody}");
    server.ask::<()>("CLUSTER ADDSLOTSRANGE 0 16383");
    wait_until("it serves", || server.ask::<String>("CLUSTER INFO").contains("cluster_state:ok"));
    let json = server.json("--cluster -c 2 -t 2 -n 1000 -P 7 --ratio 1:3 --key-maximum 50 --key-prefix {tag}:");
    let calls = server.calls();
    assert_eq!((calls["set"], calls["get"]), (1000, 3000));
    let run = &json["run"];
    assert_eq!((&run["totals"]["requests"], &run["totals"]["errors"]), (&4000.into(), &0.into()));
    assert_eq!((&run["connections"], &run["unanswered"], &run["unsent"]), (&4.into(), &0.into(), &0.into()));
    let cluster = &run["cluster"];
    assert_eq!((&cluster["primaries"], &cluster["moved"]), (&1.into(), &0.into()));
    assert_eq!(cluster["answers"][format!("127.0.0.1:{}", server.0.port)], 4000);
    assert_eq!(cluster["gaps"].as_array().unwrap().len(), 0);
    assert!(cluster["failed"].as_object().unwrap().values().all(|count| *count == 0), "{cluster}");

    let summary = server.bench("--cluster -c 7 --load --key-maximum 1000 --key-prefix item:").unwrap();
    assert!(summary.is_success());
    assert_eq!(server.ask::<u64>("EXISTS item:1") + server.ask::<u64>("EXISTS item:1000"), 2);
    let run = server.bench("--cluster -c 3 -n 200 --rate 4000 -P 100").unwrap().run.unwrap();
    assert_eq!((run.stats.total().answered, run.unsent), (600, 0));
}

#[test]
fn keys_have_the_width_asked_for() {
    let server = Server::start(&[]);
    server.bench("--load --key-width 8 --key-minimum 99 --key-maximum 100 --key-prefix w:").unwrap();
    assert_eq!(server.ask::<u64>("EXISTS w:00000099 w:00000100"), 2);
    assert_eq!(server.ask::<u64>("DBSIZE"), 2);
}

fn program(options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyloom"));
    command.arg("bench").args(options.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn the_program_tells_what_is_wrong_in_one_line() {
    let nobody = format!("-p {} -n 1", free_port());
    let server = Server::start(&[]);
    let no_cluster = format!("--cluster -p {} -n 1", server.0.port);
    let no_cluster_there = format!("--cluster {nobody}");
    for (options, part) in [
        ("--clients x", "--clients"),
        ("--clients 0", "--clients must be between 1 and"),
        ("--key-pattern odd", "uniform, zipf, sequential"),
        (nobody.as_str(), "could not connect to 127.0.0.1:"),
        ("--cluster --unix-socket /nowhere", "'--cluster' cannot be used with '--unix-socket"),
        ("--cluster --db 1", "--cluster needs --db 0"),
        (no_cluster.as_str(), "refuses CLUSTER SLOTS: ERR This instance has cluster support disabled"),
        (no_cluster_there.as_str(), "could not connect to 127.0.0.1:"),
    ] {
        let output = program(options).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{options}");
        assert!(text.lines().count() == 1 && text.contains(part) && output.stdout.is_empty(), "{text}");
    }
}

#[test]
fn an_interrupt_ends_the_program_with_its_table() {
    let server = Server::start(&[]);
    let child = program(&format!("-p {} --test-time 1000", server.0.port)).spawn().unwrap();
    wait_until("the run has begun", || server.called("get") > 100);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("Totals") && text.contains("Interrupted"), "{text}");
}
