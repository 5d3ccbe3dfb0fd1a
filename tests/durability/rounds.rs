//! Rounds: clients write, the node is killed, and starts again with another number of cores.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use keyloom::resp::read::Value;

use super::common::{Random, ok, seed, wait_until};
use super::load::Writer;
use super::node::Data;

const WRITERS: usize = 4;

/// What the node promises when it is killed.
struct Promise {
    args: &'static [&'static str],
    durability: Option<&'static str>,
    /// What was acknowledged so long before may be lost.
    lost: Duration,
    /// How long the clients write: so long, and up to as long again.
    write_ms: usize,
    rounds: usize,
}

fn rounds(default: usize) -> usize {
    std::env::var("KEYLOOM_ROUNDS").map_or(default, |text| text.parse().expect("KEYLOOM_ROUNDS is a number"))
}

/// A snapshot whenever there is a megabyte of log.
const SMALL_FILES: [&str; 4] = ["--wal-segment-size", "1mb", "--wal-max-size", "1mb"];

fn survive(name: &str, promise: Promise) {
    let seed = seed();
    println!("KEYLOOM_SEED={seed}");
    let mut random = Random::new(seed);
    let data = Data::new(name);
    let mut writers = Writer::several(WRITERS, seed, promise.durability);
    let args = [promise.args, &SMALL_FILES].concat();
    let (mut snapshots, rounds) = (0, rounds(promise.rounds));
    let mut killed = Instant::now();
    for round in 0..=rounds {
        let started = Instant::now();
        let mut server = data.start(if round % 2 == 0 { "0-1" } else { "0" }, &args);
        let took = started.elapsed();
        let cutoff = killed.checked_sub(promise.lost).unwrap();
        for (n, writer) in writers.iter_mut().enumerate() {
            if let Err(what) = writer.check(&server, cutoff) {
                panic!("seed {seed}, round {round}, client {n}: {what}\n{}", server.log());
            }
        }
        if round == rounds {
            break;
        }
        let before: u64 = writers.iter().map(|writer| writer.acknowledged).sum();
        let write_ms = promise.write_ms + random.below(promise.write_ms);
        let save_at_ms = random.one_in(2).then(|| random.below(write_ms));
        thread::scope(|scope| {
            let (server, writers) = (&mut server, &mut writers);
            let pid = server.pid();
            let shared = &*server;
            let writing: Vec<_> = writers.iter_mut().map(|writer| scope.spawn(move || writer.write(shared))).collect();
            let end = Instant::now() + Duration::from_millis(write_ms as u64);
            if let Some(ms) = save_at_ms {
                thread::sleep(Duration::from_millis(ms as u64));
                shared.client().call(&["BGSAVE"]);
            }
            thread::sleep(end.saturating_duration_since(Instant::now()));
            kill(pid);
            killed = Instant::now();
            writing.into_iter().for_each(|writing| writing.join().unwrap());
        });
        server.kill();
        let written = writers.iter().map(|writer| writer.acknowledged).sum::<u64>() - before;
        snapshots = snapshots.max(data.files("snapshot").len());
        println!("round {round}: start {took:?}, {written} in {write_ms} ms");
        if round % 5 == 4 {
            data.is_intact();
            assert!(data.tool("dump").status.success());
        }
    }
    let acknowledged: u64 = writers.iter().map(|writer| writer.acknowledged).sum();
    println!("{acknowledged} acknowledged");
    assert!(acknowledged > 100 * rounds as u64, "only {acknowledged} writes were acknowledged");
    assert!(snapshots > 0, "no snapshot was made");
}

/// SIGKILL, to a child that has not been waited for.
fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// What was there before is in a snapshot, which is made at once.
#[test]
fn a_log_that_is_switched_on_later_has_everything() {
    let data = Data::new("later");
    let mut server = data.start("0-1", &["--appendonly", "no"]);
    let mut client = server.client();
    (0..50).for_each(|n| assert_eq!(client.call(&["SET", &format!("before{n}"), "1"]), ok()));
    assert_eq!(client.call(&["CONFIG", "SET", "appendonly", "yes"]), ok());
    wait_until("there is a snapshot", || data.log().exists() && !data.files("snapshot").is_empty());
    assert_eq!(client.call(&["CLIENT", "DURABILITY", "disk"]), ok());
    (0..50).for_each(|n| assert_eq!(client.call(&["SET", &format!("after{n}"), "1"]), ok()));
    server.kill();
    let server = data.start("0", &[]);
    assert_eq!(server.client().call(&["DBSIZE"]), Value::Int(100));
}

/// Connections that have chosen `disk`.
#[test]
fn what_is_acknowledged_with_durability_disk_survives() {
    let lost = Duration::ZERO;
    survive("disk", Promise { args: &[], durability: Some("disk"), lost, write_ms: 200, rounds: 24 });
}

#[test]
fn what_is_acknowledged_with_appendfsync_always_survives() {
    let lost = Duration::ZERO;
    let args = &["--appendfsync", "always"];
    survive("always", Promise { args, durability: None, lost, write_ms: 200, rounds: 22 });
}

/// Nobody waits for the disk; what is older than a second is there all the same.
#[test]
fn with_appendfsync_everysec_a_second_may_be_lost() {
    // A second, and as much for threads that have to wait for a processor.
    let lost = Duration::from_millis(2000);
    survive("everysec", Promise { args: &[], durability: None, lost, write_ms: 2600, rounds: 4 });
}
