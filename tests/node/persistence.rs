//! What users see of persistence: directives at run time, INFO, and how a node ends.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{Client, Server, bulk, info, ok, wait_until};
use keyloom::resp::read::Value;

/// Longest that a node may take to end.
const EXIT_MAX: Duration = Duration::from_secs(20);

const TWO_CORES: &[&str] = &["--cpus", "0,1"];

fn start(args: &[&str]) -> Server {
    Server::keyloom(&[args, cores()].concat())
}

/// Two cores where there are two.
fn cores() -> &'static [&'static str] {
    if std::thread::available_parallelism().map_or(1, |n| n.get()) > 1 { TWO_CORES } else { &[] }
}

fn restart(server: &mut Server, args: &[&str]) -> Client {
    server.restart(&[args, cores()].concat());
    server.client()
}

#[track_caller]
fn error(client: &mut Client, args: &[&str]) -> String {
    match client.call(args) {
        Value::Error(text) => String::from_utf8_lossy(&text).into_owned(),
        other => panic!("{args:?} is not refused: {other:?}"),
    }
}

#[track_caller]
fn set(client: &mut Client, key: &str, value: &str) {
    assert_eq!(client.call(&["SET", key, value]), ok(), "SET {key}");
}

#[track_caller]
fn config_set(client: &mut Client, name: &str, value: &str) {
    assert_eq!(client.call(&["CONFIG", "SET", name, value]), ok(), "CONFIG SET {name} {value}");
}

/// Everything that this client has written is on disk.
#[track_caller]
fn sync(client: &mut Client) {
    let copies = client.call(&["WAITAOF", "1", "0", "0"]);
    assert_eq!(copies, Value::Array(vec![Value::Int(1), Value::Int(0)]));
}

/// A field of INFO as text.
fn field(client: &mut Client, name: &str) -> String {
    let Value::Bulk(text) = client.call(&["INFO", "persistence"]) else { panic!("INFO is a string") };
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).to_string()
}

fn data(server: &Server) -> PathBuf {
    server.dir().join("appendonlydir")
}

/// Where a snapshot is written before it is complete.
/// What a process calls its snapshots while it writes them: they are counted from 0.
fn temporary(server: &Server, number: u64) -> PathBuf {
    data(server).join(format!("snapshot-{number:020}.kl.tmp"))
}

fn files(server: &Server, start: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(data(server)) else { return 0 };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(start) && name.ends_with(".kl")).count()
}

/// Tells others to stop, at the end and after a failure.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Data cores may have finished before they hear that they may go on.
#[test]
fn snapshots_of_any_size_end_with_nothing_locked() {
    let server = start(&[]);
    let mut client = server.client();
    let large: Vec<String> = (0..4).map(|n| format!("large {n}")).collect();
    for key in &large {
        let members = (0..10_000).map(|n| format!("a member that is not so short {n}"));
        client.call(&["SADD".to_string(), key.clone()].into_iter().chain(members).collect::<Vec<_>>());
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = server.client();
                while !stop.load(Ordering::Relaxed) {
                    (0..100).for_each(|n| client.send(&["SET", &format!("busy {n}"), "value"]));
                    (0..100).for_each(|_| assert_eq!(client.read(), ok()));
                }
            });
        }
        let _stop = Stop(&stop);
        for n in 0..60 {
            set(&mut client, &format!("filler {n}"), &"x".repeat(30_000));
            client.call(&["BGSAVE"]);
            wait_until("the snapshot is there", || info(&mut client, "rdb_bgsave_in_progress") == 0);
            for key in &large {
                assert_eq!(client.call(&["SADD", key, &n.to_string()]), Value::Int(1));
            }
            // That takes the whole node.
            assert_eq!(client.call(&["SWAPDB", "0", "1"]), ok());
            assert_eq!(client.call(&["SWAPDB", "0", "1"]), ok());
        }
    });
}

/// How often a node ends in a test: each end is at another moment between what a core does now and then.
const ENDS: usize = 20;

/// An end that was asked for loses nothing that was answered, also of the last moment.
#[test]
fn what_was_written_last_before_the_end_is_in_the_log() {
    let args = ["--appendonly", "yes"];
    let mut server = start(&args);
    let mut written = AtomicUsize::new(0);
    for round in 0..ENDS {
        let mut client = server.client();
        std::thread::scope(|scope| {
            let first = written.load(Ordering::Relaxed);
            scope.spawn(|| {
                while client.try_call(&["INCR", "count"]).is_some_and(|reply| matches!(reply, Value::Int(_))) {
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
            wait_until("the client writes", || written.load(Ordering::Relaxed) > first);
            server.signal("TERM");
        });
        assert_eq!(server.wait_for_exit(EXIT_MAX), Some(0), "{}", server.log());
        let mut client = restart(&mut server, &args);
        let Value::Bulk(found) = client.call(&["GET", "count"]) else { panic!("nothing after end {round}") };
        let (found, written) = (String::from_utf8(found).unwrap().parse().unwrap(), written.get_mut());
        // The answer to the last one may not have arrived.
        assert!(
            (*written..=*written + 1).contains(&found),
            "{written} writes were answered, {found} found after end {round}"
        );
        *written = found;
    }
}

#[test]
fn the_log_is_switched_on_and_off() {
    let mut server = start(&[]);
    let mut client = server.client();
    set(&mut client, "before", "1");
    set(&mut client, "{other}before", "1");
    assert_eq!(field(&mut client, "aof_enabled"), "0");
    config_set(&mut client, "appendonly", "yes");
    sync(&mut client);
    set(&mut client, "after", "2");
    sync(&mut client);
    assert_eq!(field(&mut client, "aof_enabled"), "1");
    // The snapshot with which the log begins may have had that, too.
    set(&mut client, "after", "2");
    sync(&mut client);
    assert_eq!((files(&server, "snapshot-"), files(&server, "log-")), (1, 1));
    server.kill();

    let mut client = restart(&mut server, &["--appendonly", "yes"]);
    assert_eq!(client.call(&["DBSIZE"]), Value::Int(3));
    config_set(&mut client, "appendonly", "no");
    // The log may just have begun.
    wait_until("the log is off", || field(&mut client, "aof_enabled") == "0");
    set(&mut client, "unlogged", "3");
    server.kill();

    // The files are as they were when the log was switched off.
    let mut client = restart(&mut server, &[]);
    assert_eq!(client.call(&["MGET", "before", "after", "unlogged"]), {
        Value::Array(vec![bulk("1"), bulk("2"), Value::Null])
    });
    // Writes that no log has, then a snapshot, more of them, and a log again.
    set(&mut client, "before", "4");
    assert_eq!(client.call(&["SAVE"]), ok());
    assert_eq!(files(&server, "log-"), 0, "what the snapshot does not need is gone");
    set(&mut client, "between", "5");
    config_set(&mut client, "appendonly", "yes");
    set(&mut client, "after", "6");
    sync(&mut client);
    config_set(&mut client, "appendonly", "no");
    config_set(&mut client, "appendonly", "yes");
    set(&mut client, "last", "7");
    sync(&mut client);
    server.kill();
    let mut client = restart(&mut server, &["--appendonly", "yes"]);
    assert_eq!(client.call(&["MGET", "before", "between", "after", "last"]), {
        Value::Array(vec![bulk("4"), bulk("5"), bulk("6"), bulk("7")])
    });
    assert_eq!(client.call(&["DBSIZE"]), Value::Int(5));
}

/// A segment of a log that ended before the snapshot is of the past, also if a crash has left it there.
#[test]
fn segments_of_the_past_do_not_count() {
    let mut server = start(&["--appendonly", "yes"]);
    let mut client = server.client();
    set(&mut client, "key", "old");
    set(&mut client, "gone", "old");
    sync(&mut client);
    config_set(&mut client, "appendonly", "no");
    // It is when an empty segment marks the end.
    wait_until("the log is closed", || files(&server, "log-") == 2);
    let past = server.dir().join("past");
    std::fs::create_dir(&past).unwrap();
    for entry in std::fs::read_dir(data(&server)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().starts_with("log-") {
            std::fs::copy(entry.path(), past.join(entry.file_name())).unwrap();
        }
    }
    client.call(&["DEL", "gone"]);
    set(&mut client, "key", "new");
    assert_eq!(client.call(&["SAVE"]), ok());
    assert_eq!(client.call(&["SAVE"]), ok());
    server.kill();
    for entry in std::fs::read_dir(&past).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), data(&server).join(entry.file_name())).unwrap();
    }
    for _ in 0..2 {
        let mut client = restart(&mut server, &["--appendonly", "yes"]);
        assert_eq!(client.call(&["MGET", "key", "gone"]), Value::Array(vec![bulk("new"), Value::Null]));
        set(&mut client, "more", "1");
        sync(&mut client);
        server.kill();
    }
    assert_eq!(restart(&mut server, &["--appendonly", "yes"]).call(&["GET", "more"]), bulk("1"));
}

/// Killed at any moment while the log is switched on, a node comes back with everything or as it was before.
#[test]
fn a_log_that_begins_is_never_taken_for_all() {
    const KEYS: usize = 20_000;
    for after_ms in [0, 2, 5, 10, 20, 40, 80] {
        let mut server = start(&["--enable-debug-command", "yes"]);
        let mut client = server.client();
        for chunk in (0..KEYS).collect::<Vec<_>>().chunks(1000) {
            let keys: Vec<String> = chunk.iter().map(|n| format!("key:{n}")).collect();
            let mset: Vec<&str> =
                std::iter::once("MSET").chain(keys.iter().flat_map(|key| [key.as_str(), "v"])).collect();
            assert_eq!(client.call(&mset), ok());
        }
        config_set(&mut client, "appendonly", "yes");
        set(&mut client, "after", "1");
        std::thread::sleep(Duration::from_millis(after_ms));
        server.kill();
        let mut client = restart(&mut server, &["--appendonly", "yes"]);
        let Value::Int(keys) = client.call(&["DBSIZE"]) else { panic!("DBSIZE is a number") };
        let keys = keys as usize;
        assert!([0, KEYS, KEYS + 1].contains(&keys), "{keys} keys, killed after {after_ms} ms");
    }
}

#[test]
fn a_log_that_cannot_begin_is_refused_and_the_node_goes_on() {
    let server = start(&[]);
    let mut client = server.client();
    std::fs::write(data(&server), "no directory").unwrap();
    let refused = error(&mut client, &["CONFIG", "SET", "appendonly", "yes"]);
    assert!(refused.starts_with("ERR CONFIG SET failed (possibly related to argument 'appendonly') - "), "{refused}");
    assert_eq!(client.call(&["CONFIG", "GET", "appendonly"]), Value::Array(vec![bulk("appendonly"), bulk("no")]));
    set(&mut client, "key", "1");
    assert_eq!(field(&mut client, "aof_enabled"), "0");
    std::fs::remove_file(data(&server)).unwrap();
    config_set(&mut client, "appendonly", "yes");
    sync(&mut client);
    assert_eq!(field(&mut client, "log_disk_error"), "");
}

#[test]
fn durability_needs_the_log() {
    let server = start(&["--appendonly", "yes"]);
    let mut client = server.client();
    assert_eq!(client.call(&["CLIENT", "DURABILITY", "disk"]), ok());
    set(&mut client, "key", "1");
    config_set(&mut client, "write-durability", "disk");
    let refused = error(&mut client, &["CONFIG", "SET", "appendonly", "no"]);
    assert!(refused.contains("'write-durability'") && refused.contains("it needs 'appendonly yes'"), "{refused}");
    config_set(&mut client, "write-durability", "memory");
    config_set(&mut client, "appendonly", "no");
    assert_eq!(error(&mut client, &["SET", "key", "2"]), "ERR this durability needs 'appendonly yes'");
    assert_eq!(client.call(&["GET", "key"]), bulk("1"));
    set(&mut server.client(), "key", "3");
    error(&mut client, &["CONFIG", "SET", "write-durability", "quorum-disk"]);
    config_set(&mut client, "appendonly", "yes");
    set(&mut client, "key", "4");
}

#[test]
fn info_tells_of_snapshots_and_the_log() {
    let mut server = start(&["--appendonly", "yes", "--save", ""]);
    let mut client = server.client();
    for n in 0..10 {
        set(&mut client, &format!("key:{n}"), "1");
    }
    assert_eq!(info(&mut client, "rdb_changes_since_last_save"), 10);
    assert_eq!((info(&mut client, "rdb_saves"), field(&mut client, "rdb_last_bgsave_time_sec")), (0, "-1".into()));
    sync(&mut client);
    assert_eq!(info(&mut client, "log_end_index"), 10);
    assert_eq!(info(&mut client, "log_durable_index"), 10);
    assert_eq!((info(&mut client, "aof_buffer_length"), info(&mut client, "aof_pending_bio_fsync")), (0, 0));
    assert!(info(&mut client, "aof_current_size") > 10 * "SET key:1 1".len() as u64);
    assert_eq!(client.call(&["SAVE"]), ok());
    assert_eq!(info(&mut client, "rdb_changes_since_last_save"), 0);
    assert_eq!(info(&mut client, "rdb_saves"), 1);
    assert_eq!(client.call(&["LASTSAVE"]), Value::Int(info(&mut client, "rdb_last_save_time") as i64));
    assert_eq!(field(&mut client, "rdb_last_bgsave_status"), "ok");
    assert_eq!(field(&mut client, "aof_last_write_status"), "ok");
    assert!(info(&mut client, "aof_base_size") > 0);
    set(&mut client, "key:1", "2");
    assert_eq!(info(&mut client, "rdb_changes_since_last_save"), 1);
    let history = field(&mut client, "log_history");
    assert!(history.len() == 32 && history != "0".repeat(32), "{history}");
    server.kill();
    let mut client = restart(&mut server, &["--appendonly", "yes"]);
    assert_ne!(field(&mut client, "log_history"), history, "another process, another history");
    assert_eq!(client.call(&["DBSIZE"]), Value::Int(10));
}

#[test]
fn save_points_and_the_length_of_the_log_make_snapshots() {
    let server = start(&["--appendonly", "yes"]);
    let mut client = server.client();
    set(&mut client, "key", "1");
    config_set(&mut client, "save", "3600 5 1 1");
    wait_until("a save point is reached", || info(&mut client, "rdb_saves") == 1);
    config_set(&mut client, "save", "");
    config_set(&mut client, "auto-aof-rewrite-percentage", "0");
    config_set(&mut client, "wal-max-size", "1mb");
    for n in 0..32 {
        set(&mut client, &format!("key:{n}"), &"x".repeat(48 << 10));
    }
    wait_until("the log is too long", || info(&mut client, "rdb_saves") >= 2);
    // What a snapshot has does not count again.
    let saves = info(&mut client, "rdb_saves");
    set(&mut client, "key", "2");
    wait_until("two more seconds have passed", {
        let from = info(&mut client, "uptime_in_seconds");
        let client = &mut client;
        move || info(client, "uptime_in_seconds") >= from + 3
    });
    assert!(info(&mut client, "rdb_saves") <= saves + 1);
    config_set(&mut client, "wal-max-size", "1gb");
    config_set(&mut client, "auto-aof-rewrite-min-size", "1mb");
    config_set(&mut client, "auto-aof-rewrite-percentage", "10");
    let saves = info(&mut client, "rdb_saves");
    for n in 0..32 {
        set(&mut client, &format!("key:{n}"), &"y".repeat(48 << 10));
    }
    wait_until("the log has grown", || info(&mut client, "rdb_saves") > saves);
}

#[test]
fn a_snapshot_is_made_before_the_end() {
    let points: &[&str] = &["--save", "3600 1000"];
    let mut server = start(points);
    for (key, end) in [
        ("shutdown", &["SHUTDOWN"][..]),
        ("save", &["SHUTDOWN", "SAVE", "NOW"]),
        ("term", &["TERM"]),
        ("int", &["INT"]),
    ] {
        let mut client = server.client();
        set(&mut client, key, "1");
        match end {
            [signal] if *signal != "SHUTDOWN" => server.signal(signal),
            _ => client.send(end),
        }
        assert_eq!(client.read_to_end(), b"", "{key}");
        assert_eq!(server.wait_for_exit(EXIT_MAX), Some(0), "{key}");
        let mut client = restart(&mut server, points);
        assert_eq!(client.call(&["GET", key]), bulk("1"));
    }
    assert_eq!(server.client().call(&["DBSIZE"]), Value::Int(4));
    // Without, because nobody wants one.
    for (args, end) in [
        (points, &["SHUTDOWN", "NOSAVE"][..]),
        (&[], &["SHUTDOWN"]),
        (&["--save", "3600 1000", "--shutdown-on-sigterm", "nosave"], &["TERM"]),
    ] {
        let mut client = restart(&mut server, args);
        assert_eq!(client.call(&["DBSIZE"]), Value::Int(4), "{args:?}");
        set(&mut client, "unsaved", "1");
        match end {
            ["TERM"] => server.signal("TERM"),
            _ => client.send(end),
        }
        assert_eq!(server.wait_for_exit(EXIT_MAX), Some(0));
    }
    let mut client = restart(&mut server, &["--shutdown-on-sigint", "save"]);
    assert_eq!(client.call(&["DBSIZE"]), Value::Int(4));
    set(&mut client, "saved", "1");
    server.signal("INT");
    assert_eq!(server.wait_for_exit(EXIT_MAX), Some(0));
    assert_eq!(restart(&mut server, &[]).call(&["DBSIZE"]), Value::Int(5));
}

#[test]
fn what_the_log_has_survives_the_end_without_a_snapshot() {
    let mut server = start(&["--appendonly", "yes", "--appendfsync", "no"]);
    let mut client = server.client();
    set(&mut client, "key", "1");
    client.send(&["SHUTDOWN", "NOSAVE"]);
    assert_eq!(server.wait_for_exit(EXIT_MAX), Some(0));
    let mut client = restart(&mut server, &["--appendonly", "yes"]);
    assert_eq!((files(&server, "snapshot-"), client.call(&["GET", "key"])), (0, bulk("1")));
}

#[test]
fn a_snapshot_that_fails_refuses_the_end_and_writes() {
    let mut server = start(&["--save", "3600 1000"]);
    let mut client = server.client();
    set(&mut client, "key", "1");
    std::fs::create_dir(temporary(&server, 0)).unwrap();
    assert_eq!(error(&mut client, &["SHUTDOWN"]), "ERR Errors trying to SHUTDOWN. Check logs.");
    assert_eq!(field(&mut client, "rdb_last_bgsave_status"), "err");
    let refused = error(&mut client, &["SET", "key", "2"]);
    assert!(refused.starts_with("MISCONF Redis is configured to save RDB snapshots, but"), "{refused}");
    assert_eq!(client.call(&["GET", "key"]), bulk("1"));
    config_set(&mut client, "stop-writes-on-bgsave-error", "no");
    set(&mut client, "key", "2");
    config_set(&mut client, "stop-writes-on-bgsave-error", "yes");
    error(&mut client, &["SET", "key", "3"]);
    // The next one that succeeds ends it.
    std::fs::remove_dir(temporary(&server, 0)).unwrap();
    assert_eq!(client.call(&["SAVE"]), ok());
    set(&mut client, "key", "4");

    std::fs::create_dir(temporary(&server, 2)).unwrap();
    client.send(&["SHUTDOWN", "SAVE", "FORCE"]);
    assert_eq!(server.wait_for_exit(EXIT_MAX), Some(0));
    std::fs::remove_dir(temporary(&server, 2)).unwrap();
    let mut client = restart(&mut server, &["--save", "3600 1000"]);
    assert_eq!(client.call(&["GET", "key"]), bulk("2"), "as in the last snapshot");
    std::fs::create_dir(temporary(&server, 0)).unwrap();
    server.signal("TERM");
    assert_eq!(server.wait_for_exit(EXIT_MAX), Some(0), "nobody could be told");
}

/// A pipe in the place of the snapshot's file: whoever opens it waits for a reader.
fn block_snapshots(server: &Server) {
    assert!(Command::new("mkfifo").arg(temporary(server, 0)).status().unwrap().success());
}

#[test]
fn writes_wait_for_the_last_snapshot_and_go_on_if_it_is_given_up() {
    let mut server = start(&["--save", "3600 1000"]);
    let mut client = server.client();
    set(&mut client, "key", "1");
    block_snapshots(&server);
    let mut ending = server.client();
    ending.send(&["SHUTDOWN"]);
    let mut other = server.client();
    wait_until("the snapshot begins", || info(&mut other, "rdb_bgsave_in_progress") == 1);
    client.send(&["SET", "key", "2"]);
    assert_eq!(other.call(&["GET", "key"]), bulk("1"));
    assert_eq!(other.call(&["SHUTDOWN", "ABORT"]), ok());
    assert_eq!(ending.read(), Value::Error(b"ERR Errors trying to SHUTDOWN. Check logs.".to_vec()));
    assert_eq!(client.read(), ok());
    assert_eq!(other.call(&["GET", "key"]), bulk("2"));
    assert_eq!(error(&mut other, &["SHUTDOWN", "ABORT"]), "ERR No shutdown in progress.");
    // Late is failed.
    config_set(&mut client, "shutdown-timeout", "0");
    assert_eq!(error(&mut client, &["SHUTDOWN"]), "ERR Errors trying to SHUTDOWN. Check logs.");
    set(&mut client, "key", "3");
    // A signal can be taken back, too, and a second one is obeyed at once.
    config_set(&mut client, "shutdown-timeout", "3600");
    server.signal("TERM");
    client.send(&["SET", "key", "4"]);
    wait_until("the signal has arrived", || other.call(&["SHUTDOWN", "ABORT"]) == ok());
    assert_eq!(client.read(), ok());
    server.signal("TERM");
    wait_until("the signal has arrived", || {
        server.log().matches("a snapshot is made before the node ends").count() == 4
    });
    server.signal("INT");
    assert_eq!(server.wait_for_exit(EXIT_MAX), Some(0));
}
