//! Replicas that stand still, are cut off, or killed in the middle of a copy.

use keyloom::resp::read::Value;

use crate::common::network::Namespace;
use crate::common::{Client, Random, Server, seed, wait_until};
use crate::load::Load;
use crate::nodes::{Role, equal_at_rest, primary, replica, role, wait_connected};
use crate::proxy::Proxy;

const COPY: &str = "a copy of the primary's data begins";

/// Writes `keys` values of `bytes` each, the same names every time.
fn fill(client: &mut Client, keys: usize, bytes: usize, letter: &str) {
    for n in 0..keys {
        client.send(&["SET", &format!("fill:{n}"), &letter.repeat(bytes)]);
        if n % 50 == 49 || n + 1 == keys {
            (0..=n % 50).for_each(|_| drop(client.read()));
        }
    }
}

/// Memory of a process, bytes.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn after_a_short_break_only_what_was_missed_is_sent() {
    let first = primary(&["--repl-backlog-size", "1mb"]);
    let way = Proxy::to(first.port);
    let second = replica(way.port, "0,1", &[]);
    wait_connected(&second);
    let mut client = first.client();
    fill(&mut client, 100, 50_000, "a");
    equal_at_rest(&[&first, &second]);
    assert!(way.bytes() > 5_000_000);
    for _ in 0..3 {
        way.cut();
        let before = way.bytes();
        fill(&mut client, 10, 1_000, "b");
        way.mend();
        equal_at_rest(&[&first, &second]);
        let sent = way.bytes() - before;
        assert!((10_000..60_000).contains(&sent), "{sent} bytes were sent");
    }
    assert_eq!(second.log().matches(COPY).count(), 1, "{}", second.log());
}

#[test]
fn a_replica_that_stands_still_does_not_fill_the_primary() {
    let limits = ["--repl-backlog-size", "16kb", "--client-output-buffer-limit", "slave", "2mb", "1mb", "60"];
    let first = primary(&limits);
    let second = replica(first.port, "0,1", &[]);
    wait_connected(&second);
    let mut client = first.client();
    fill(&mut client, 100, 50_000, "a");
    equal_at_rest(&[&first, &second]);
    let copies = second.log().matches(COPY).count();
    second.signal("STOP");
    let before = resident(&first);
    for letter in ["b", "c", "d", "e", "f", "g", "h", "i", "j", "k"] {
        fill(&mut client, 100, 50_000, letter);
    }
    wait_until("the replica is let go", || {
        fill(&mut client, 100, 50_000, "l");
        first.log().contains("a replica is let go")
    });
    let grown = resident(&first).saturating_sub(before);
    assert!(grown < 30_000_000, "{grown} bytes more");
    second.signal("CONT");
    equal_at_rest(&[&first, &second]);
    assert_eq!(second.log().matches(COPY).count(), copies + 1, "{}", second.log());
}

#[test]
fn a_network_that_swallows_everything() {
    // What was missed is in the backlog, or is not.
    for (backlog, copies) in [("1mb", 1), ("16kb", 2)] {
        let network = match Namespace::new() {
            Ok(network) => network,
            Err(error) => return println!("skipped: there can be no network namespace: {error}"),
        };
        let first = primary(&[
            "--bind",
            "0.0.0.0",
            "--protected-mode",
            "no",
            "--repl-timeout",
            "5",
            "--repl-backlog-size",
            backlog,
        ]);
        let (here, port) = (network.here.to_string(), first.port.to_string());
        let second =
            Server::keyloom_in(&network, &["--cpus", "0,1", "--replicaof", &here, &port, "--repl-timeout", "5"]);
        wait_connected(&second);
        let mut client = first.client();
        fill(&mut client, 100, 1_000, "a");
        equal_at_rest(&[&first, &second]);
        network.cut();
        fill(&mut client, 100, 1_000, "b");
        let alone = |client: &mut Client| matches!(role(client), Role::Leads { replicas, .. } if replicas.is_empty());
        wait_until("the replica is given up", || alone(&mut client));
        fill(&mut client, 50, 1_000, "c");
        network.mend();
        equal_at_rest(&[&first, &second]);
        assert_eq!(second.log().matches(COPY).count(), copies, "{}", second.log());
    }
}

#[test]
fn copies_that_are_cut_off_begin_anew() {
    let mut random = Random::new(seed() + 7);
    let first = primary(&["--databases", "3", "--repl-backlog-size", "16kb"]);
    let mut client = first.client();
    fill(&mut client, 200, 50_000, "a");
    let load = Load::start(&first, 2, seed() + 2);
    let way = Proxy::to(first.port);
    let second = replica(way.port, "0,1", &["--databases", "3", "--appendonly", "yes"]);
    for _ in 0..6 {
        way.cut();
        // Too much for the backlog, so a copy is taken; and that has more bytes than are let through. (The load flushes
        // databases.)
        fill(&mut client, 200, 50_000, "b");
        way.mend_for(random.below(5_000_000) as u64);
        wait_until("a copy has begun, and stands still", || way.is_still());
    }
    way.cut();
    way.mend();
    assert!(second.log().matches(COPY).count() > 2, "{}", second.log());
    wait_connected(&second);
    load.goes_on(500);
    load.stop();
    equal_at_rest(&[&first, &second]);
    assert!(!first.log().contains("ERROR") && !second.log().contains("does not fit"), "{}", second.log());
}

#[test]
fn a_replica_that_is_killed_during_copies_always_starts_again() {
    let mut random = Random::new(seed() + 3);
    let first = primary(&["--databases", "3", "--repl-backlog-size", "16kb"]);
    let mut client = first.client();
    fill(&mut client, 60, 50_000, "a");
    let load = Load::start(&first, 2, seed() + 4);
    let args = ["--databases", "3", "--appendonly", "yes", "--cpus", "0,1"];
    let mut second = Server::keyloom(&args);
    // It has data of its own, and a log.
    let mut own = second.client();
    fill(&mut own, 20, 1_000, "x");
    second.kill();
    let port = first.port.to_string();
    for _ in 0..12 {
        second.restart(&[&args[..], &["--replicaof", "127.0.0.1", &port]].concat());
        let copies = second.log().matches(COPY).count();
        let end = std::time::Instant::now() + std::time::Duration::from_millis(random.below(250) as u64);
        // Any moment will do, around the copy that begins.
        wait_until("it is time", || std::time::Instant::now() > end || second.log().matches(COPY).count() > copies);
        let more = random.below(40) as u64;
        let end = std::time::Instant::now() + std::time::Duration::from_millis(more);
        wait_until("it is time", || std::time::Instant::now() > end);
        second.kill();
    }
    // Without its primary it starts, too, with whatever state it has kept.
    second.restart(&args);
    assert!(matches!(role(&mut second.client()), Role::Leads { .. }));
    second.kill();
    second.restart(&[&args[..], &["--replicaof", "127.0.0.1", &port]].concat());
    wait_connected(&second);
    load.goes_on(500);
    load.stop();
    equal_at_rest(&[&first, &second]);
    assert!(!second.log().contains("cannot be read"), "{}", second.log());
}

#[test]
fn a_replica_whose_files_are_damaged_sets_them_aside() {
    let first = primary(&[]);
    let args = ["--appendonly", "yes", "--cpus", "0"];
    let mut second = replica(first.port, "0", &args[..2]);
    wait_connected(&second);
    let mut client = first.client();
    // In many frames, so that the damage is not where a crash would leave it.
    for letter in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        fill(&mut client, 50, 100, letter);
        assert_eq!(client.call(&["WAITAOF", "0", "1", "20000"]), Value::Array(vec![Value::Int(0), Value::Int(1)]));
    }
    equal_at_rest(&[&first, &second]);
    second.kill();
    let files = second.dir().join("appendonlydir");
    let segment = std::fs::read_dir(&files).unwrap().flatten().map(|entry| entry.path());
    let segment = segment.filter(|path| path.to_string_lossy().contains("log-")).max().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    // Behind the header, and not at the end.
    let at = bytes.len() / 3;
    bytes[at..at + 64].fill(0xA5);
    std::fs::write(&segment, bytes).unwrap();
    second.restart(&[&args[..], &["--replicaof", "127.0.0.1", &first.port.to_string()]].concat());
    equal_at_rest(&[&first, &second]);
    assert!(second.log().contains("set aside"), "{}", second.log());
    assert!(second.dir().join("appendonlydir.aside-1").is_dir());
}
