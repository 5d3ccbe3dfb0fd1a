//! Tests of the directives as a whole: every one of them, the command line, files, CONFIG SET and CONFIG REWRITE.
//!
//! Longer than other files, because of the table with values of every directive.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::table::{DIRECTIVES, Kind};
use super::*;

/// A directory of its own for one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("keyloom-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(fs::canonicalize(path).unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn load(args: &[&str]) -> Result<Config, LoadError> {
    Config::load(&args.iter().map(OsString::from).collect::<Vec<_>>())
}

fn load_error(args: &[&str]) -> String {
    load(args).expect_err("must be refused").to_string()
}

fn load_text(name: &str, text: &str) -> Result<Config, LoadError> {
    let folder = Folder::new(name);
    let path = folder.file("redis.conf", text);
    load(&[path.to_str().unwrap()])
}

/// Values other than the default that a directive takes, and how it prints them.
const VALUES: &[(&str, &[(&str, &str)])] = &[
    ("admin-bind", &[("::1", "::1"), ("*", "*")]),
    ("admin-port", &[("9100", "9100"), ("0", "0"), ("65535", "65535")]),
    ("aof-load-truncated", &[("yes", "yes")]),
    ("aof-rewrite-incremental-fsync", &[("NO", "no")]),
    ("aof-timestamp-enabled", &[("yes", "yes")]),
    ("aof-use-rdb-preamble", &[("no", "no")]),
    ("appenddirname", &[("log", "log")]),
    ("appendfilename", &[("a.aof", "a.aof")]),
    ("appendfsync", &[("always", "always"), ("NO", "no"), ("everysec", "everysec")]),
    ("appendonly", &[("NO", "no"), ("yes", "yes")]),
    ("auto-aof-rewrite-min-size", &[("0", "0"), ("64mb", "67108864")]),
    ("auto-aof-rewrite-percentage", &[("0", "0"), ("200", "200")]),
    ("bind", &[("127.0.0.1 -::1", "127.0.0.1 -::1"), ("*", "*"), ("", "")]),
    (
        "client-output-buffer-limit",
        &[("normal 1mb 2k 3 replica 4 5 6", "normal 1048576 2000 3 slave 4 5 6 pubsub 33554432 8388608 60")],
    ),
    ("client-query-buffer-limit", &[("1mb", "1048576"), ("9223372036854775807", "9223372036854775807")]),
    ("cluster-allow-local-crossslot", &[("yes", "yes")]),
    ("cluster-announce-bus-port", &[("0", "0"), ("17000", "17000")]),
    ("cluster-announce-core-port", &[("0", "0"), ("7100", "7100")]),
    ("cluster-announce-ip", &[("10.0.0.1", "10.0.0.1"), ("", "")]),
    ("cluster-announce-port", &[("0", "0"), ("7000", "7000")]),
    ("cluster-copies", &[("1", "1"), ("8", "8")]),
    ("cluster-copy-rate", &[("0", "0"), ("64mb", "67108864")]),
    ("cluster-enabled", &[("yes", "yes"), ("no", "no")]),
    ("cluster-name", &[("blue", "blue")]),
    ("cluster-port", &[("0", "0"), ("17000", "17000")]),
    ("cluster-rack", &[("b2", "b2"), ("", "")]),
    ("cluster-secret", &[("hush", "hush"), ("", "")]),
    ("cluster-version", &[("2", "2"), ("3", "3")]),
    ("cluster-weight", &[("2", "2"), ("256", "256")]),
    ("control-core", &[("dedicated", "dedicated"), ("SHARED", "shared")]),
    ("core-endpoints", &[("no", "no")]),
    ("core-port", &[("0", "0"), ("7100", "7100")]),
    ("cpus", &[("0-3,8", "0-3,8"), ("3,1,2", "1-3"), ("all", "all")]),
    ("daemonize", &[("no", "no")]),
    ("databases", &[("1", "1"), ("256", "256")]),
    ("dbfilename", &[("d.rdb", "d.rdb")]),
    ("dir", &[("/", "/"), ("/var//lib/./keyloom/", "/var/lib/keyloom")]),
    ("enable-debug-command", &[("yes", "yes"), ("local", "local"), ("no", "no")]),
    ("hash-max-listpack-entries", &[("0", "0"), ("512", "512")]),
    ("hash-max-listpack-value", &[("1kb", "1024")]),
    ("insync-timeout", &[("10", "10"), ("5000", "5000")]),
    ("latency-monitor-threshold", &[("100", "100")]),
    ("latency-tracking", &[("no", "no"), ("Yes", "yes")]),
    ("latency-tracking-info-percentiles", &[("0 99.99 100", "0 99.99 100"), ("", "")]),
    ("lazyfree-lazy-user-del", &[("yes", "yes")]),
    ("lazyfree-lazy-user-flush", &[("yes", "yes")]),
    ("lfu-decay-time", &[("0", "0"), ("5", "5")]),
    ("lfu-log-factor", &[("0", "0"), ("100", "100")]),
    ("list-compress-depth", &[("0", "0")]),
    ("list-max-listpack-size", &[("-5", "-5"), ("128", "128")]),
    ("log-format", &[("json", "json")]),
    ("logfile", &[("a b.log", "a b.log"), ("", "")]),
    ("loglevel", &[("debug", "debug"), ("verbose", "verbose"), ("NOTICE", "notice"), ("warning", "warning")]),
    ("masterauth", &[("secret", "secret"), ("", "")]),
    ("masteruser", &[("replica", "replica"), ("", "")]),
    ("maxclients", &[("1", "1"), ("4294967295", "4294967295")]),
    ("maxmemory", &[("0", "0"), ("1gb", "1073741824"), ("100mb", "104857600")]),
    (
        "maxmemory-policy",
        &[("allkeys-lru", "allkeys-lru"), ("allkeys-s3fifo", "allkeys-s3fifo"), ("volatile-ttl", "volatile-ttl")],
    ),
    ("maxmemory-samples", &[("10", "10")]),
    ("min-insync", &[("1", "1"), ("3", "3")]),
    ("min-replicas-max-lag", &[("0", "0"), ("5", "5")]),
    ("min-replicas-to-write", &[("0", "0"), ("1", "1")]),
    ("no-appendfsync-on-rewrite", &[("no", "no")]),
    ("notify-keyspace-events", &[("KEA", "AKE"), ("mnxK", "xnKm"), ("", "")]),
    ("partitions", &[("1", "1"), ("16384", "16384")]),
    ("pidfile", &[("/run/keyloom.pid", "/run/keyloom.pid")]),
    ("port", &[("0", "0"), ("7000", "7000")]),
    ("protected-mode", &[("no", "no")]),
    ("proto-max-bulk-len", &[("1mb", "1048576"), ("1gb", "1073741824")]),
    ("rdb-del-sync-files", &[("yes", "yes")]),
    ("rdb-save-incremental-fsync", &[("no", "no")]),
    ("rdbchecksum", &[("yes", "yes")]),
    ("rdbcompression", &[("no", "no"), ("YES", "yes")]),
    ("repl-backlog-size", &[("16kb", "16384"), ("1mb", "1048576")]),
    ("repl-backlog-ttl", &[("0", "0"), ("60", "60")]),
    ("repl-disable-tcp-nodelay", &[("yes", "yes")]),
    ("repl-diskless-load", &[("SwapDB", "swapdb"), ("on-empty-db", "on-empty-db")]),
    ("repl-diskless-sync", &[("no", "no")]),
    ("repl-diskless-sync-delay", &[("0", "0")]),
    ("repl-diskless-sync-max-replicas", &[("3", "3")]),
    ("repl-ping-replica-period", &[("5", "5")]),
    ("repl-timeout", &[("1", "1"), ("60", "60")]),
    ("replica-announce-ip", &[("", "")]),
    ("replica-announce-port", &[("0", "0"), ("7000", "7000")]),
    ("replica-announced", &[("yes", "yes")]),
    ("replica-lazy-flush", &[("yes", "yes")]),
    ("replica-priority", &[("0", "0")]),
    ("replica-read-only", &[("yes", "yes")]),
    ("replica-serve-stale-data", &[("yes", "yes")]),
    ("replicaof", &[("10.0.0.1 6379", "10.0.0.1 6379"), ("no one", ""), ("", "")]),
    ("requirepass", &[("a \"b\" \\ 'c' \n \u{e9}", "a \"b\" \\ 'c' \n \u{e9}"), ("#x", "#x"), ("", "")]),
    (
        "save",
        &[("", ""), ("3600 1", "3600 1"), ("3600 1 300 100  60 10000", "3600 1 300 100 60 10000"), ("5 0", "5 0")],
    ),
    ("set-max-intset-entries", &[("0", "0"), ("100", "100")]),
    ("set-max-listpack-entries", &[("0", "0"), ("100", "100")]),
    ("set-max-listpack-value", &[("1kb", "1024")]),
    ("shutdown-on-sigint", &[("default", "default"), ("nosave", "nosave")]),
    ("shutdown-on-sigterm", &[("FORCE now Save", "save now force"), ("now", "now")]),
    ("shutdown-timeout", &[("0", "0"), ("60", "60")]),
    ("slowlog-log-slower-than", &[("-1", "-1"), ("0", "0")]),
    ("slowlog-max-len", &[("0", "0"), ("1000", "1000")]),
    ("stop-writes-on-bgsave-error", &[("no", "no")]),
    ("supervised", &[("no", "no")]),
    ("tcp-backlog", &[("128", "128")]),
    ("tcp-keepalive", &[("0", "0"), ("60", "60")]),
    ("timeout", &[("30", "30"), ("2147483647", "2147483647")]),
    ("unixsocket", &[("/tmp/k.sock", "/tmp/k.sock"), ("", "")]),
    ("unixsocketperm", &[("700", "700"), ("0", "0")]),
    ("wal-max-size", &[("1mb", "1048576"), ("10gb", "10737418240")]),
    ("wal-segment-size", &[("1mb", "1048576"), ("1gb", "1073741824")]),
    (
        "write-durability",
        &[("disk", "disk"), ("QUORUM", "quorum"), ("quorum-disk", "quorum-disk"), ("memory", "memory")],
    ),
    ("zset-max-listpack-entries", &[("0", "0"), ("200", "200")]),
    ("zset-max-listpack-value", &[("1kb", "1024")]),
];

#[test]
fn the_table_is_sorted_and_each_directive_is_tested() {
    let names: Vec<_> = DIRECTIVES.iter().map(|d| d.name).collect();
    assert!(names.is_sorted());
    assert_eq!(names, VALUES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

#[test]
fn what_is_set_is_read_back_and_can_be_set_again() {
    for (name, values) in VALUES {
        let directive = table::find(name.as_bytes()).unwrap();
        for (value, expected) in *values {
            let mut config = Config::default();
            directive.set_value(&mut config, value.as_bytes()).unwrap_or_else(|e| panic!("{name} {value:?}: {e}"));
            assert_eq!(directive.get(&config), *expected, "{name} {value:?}");

            let mut again = Config::default();
            directive.set_value(&mut again, expected.as_bytes()).unwrap();
            assert_eq!(directive.get(&again), *expected, "{name}: printed form");
            for other in DIRECTIVES.iter().filter(|other| other.name != *name) {
                assert_eq!(other.get(&again), other.get(&Config::default()), "{name} changed {}", other.name);
            }
        }
    }
}

#[test]
fn every_default_is_accepted() {
    let default = Config::default();
    for directive in DIRECTIVES {
        let mut config = Config::default();
        directive.set_value(&mut config, directive.get(&default).as_bytes()).unwrap();
        assert_eq!(directive.get(&config), directive.get(&default), "{}", directive.name);
    }
}

#[test]
fn integers_keep_their_bounds() {
    for directive in DIRECTIVES {
        let Kind::Int { unit, min, max, .. } = directive.kind else { continue };
        let mut config = Config::default();
        for bound in [min, max] {
            let text = value::print_int(bound, unit);
            directive.set_value(&mut config, text.as_bytes()).unwrap();
            assert_eq!(directive.get(&config), text, "{}", directive.name);
        }
        for outside in [min.checked_sub(1), max.checked_add(1)].into_iter().flatten() {
            let text = value::print_int(outside, unit);
            assert!(directive.set_value(&mut config, text.as_bytes()).is_err(), "{} {text}", directive.name);
        }
        assert!(directive.set_value(&mut config, b"x").is_err(), "{}", directive.name);
    }
}

#[test]
fn bad_values_say_what_is_wrong() {
    for (name, value, expected) in [
        ("port", "65536", "argument must be between 0 and 65535 inclusive"),
        ("port", "x", "argument couldn't be parsed into an integer"),
        ("port", "", "argument couldn't be parsed into an integer"),
        ("latency-tracking", "maybe", "argument must be 'yes' or 'no'"),
        ("loglevel", "loud", "argument(s) must be one of the following: debug, verbose, notice, warning"),
        ("client-query-buffer-limit", "1x", "argument must be a memory value"),
        ("client-query-buffer-limit", "1", "argument must be between 1048576 and 9223372036854775807 inclusive"),
        ("unixsocketperm", "8", "argument couldn't be parsed as an octal number"),
        ("unixsocketperm", "1000", "argument must be between 0 and 777 inclusive"),
        ("client-output-buffer-limit", "normal 1", "Wrong number of arguments in buffer limit configuration."),
        ("client-output-buffer-limit", "x 1 1 1", "Invalid client class specified in buffer limit configuration."),
        (
            "client-output-buffer-limit",
            "normal 1 1 -1",
            "Error in hard, soft or soft_seconds setting in buffer limit configuration.",
        ),
        ("latency-tracking-info-percentiles", "x", "Invalid latency-tracking-info-percentiles parameters"),
        (
            "latency-tracking-info-percentiles",
            "101",
            "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]",
        ),
        ("maxmemory", "lots", "argument must be a memory value"),
        ("save", "3600", "Invalid save parameters"),
        ("save", "0 1", "Invalid save parameters"),
        ("save", "1 -1", "Invalid save parameters"),
        ("save", "3600 1 300", "Invalid save parameters"),
        ("appendfsync", "sometimes", "argument(s) must be one of the following: everysec, always, no"),
        (
            "no-appendfsync-on-rewrite",
            "yes",
            "a snapshot does not hold up the log's syncs, which go on during it: only 'no' is supported",
        ),
        ("rdbchecksum", "no", "snapshots always have checksums, only 'yes' is supported"),
        ("rdbcompression", "maybe", "argument must be 'yes' or 'no'"),
        ("repl-backlog-ttl", "-1", "argument must be between 0 and 2147483647 inclusive"),
        ("appendfilename", "a/b", "can't be a path, just a filename"),
        ("shutdown-on-sigterm", "save nosave", "argument(s) must be 'default', or of save or nosave, now, force"),
        ("shutdown-on-sigterm", "default now", "argument(s) must be 'default', or of save or nosave, now, force"),
        ("daemonize", "yes", "not supported: let a service manager run it, only 'no' is"),
        ("partitions", "3", "argument must be a power of two between 1 and 16384"),
        ("bind", "localhost", "'localhost' is not an IP address"),
    ] {
        let directive = table::find(name.as_bytes()).unwrap();
        let result = directive.set_value(&mut Config::default(), value.as_bytes());
        assert_eq!(result, Err(expected.to_string()), "{name} {value:?}");
    }
}

#[test]
fn nearest_names() {
    assert_eq!(table::nearest("maxclient"), Some("maxclients"));
    assert_eq!(table::nearest("MAX_CLIENTS"), Some("maxclients"));
    assert_eq!(table::nearest("port=7000"), Some("port"));
    assert_eq!(table::nearest("loglvel"), Some("loglevel"));
    assert_eq!(table::nearest("something-else"), None);
}

#[test]
fn get_by_name_and_pattern() {
    let config = Config::default();
    assert_eq!(config.get(b"PORT").as_deref(), Some("6379"));
    assert_eq!(config.get(b"nothing"), None);
    let names = |pattern: &str| config.get_matching(pattern.as_bytes()).into_iter().map(|p| p.0).collect::<Vec<_>>();
    assert_eq!(names("slowlog-*"), ["slowlog-log-slower-than", "slowlog-max-len"]);
    assert_eq!(names("Max[cm]*s"), ["maxclients", "maxmemory-samples"]);
    assert_eq!(names("*").len(), DIRECTIVES.len() + table::ALIASES.len());
    assert_eq!(names("slaveof"), ["slaveof"]);
    assert!(names("nothing*").is_empty());
}

#[test]
fn set_takes_all_pairs_or_none() {
    let config = Config::default();
    let set = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
        config.set(&pairs).map_err(|e| e.to_string())
    };
    let changed = set(&[("timeout", "5"), ("MaxClients", "7"), ("requirepass", "a b")]).unwrap();
    assert_eq!((changed.timeout_s, changed.maxclients, changed.requirepass.as_str()), (5, 7, "a b"));
    for (pairs, expected) in [
        (
            &[("timeout", "5"), ("maxclients", "x")][..],
            "CONFIG SET failed (possibly related to argument 'maxclients') - argument couldn't be parsed into an integer",
        ),
        (&[("foo", "1")], "Unknown option or number of arguments for CONFIG SET - 'foo'"),
        (&[("Port", "1")], "CONFIG SET failed (possibly related to argument 'Port') - can't set immutable config"),
        (
            &[("timeout", "1"), ("TIMEOUT", "2")],
            "CONFIG SET failed (possibly related to argument 'TIMEOUT') - duplicate parameter",
        ),
    ] {
        assert_eq!(set(pairs).map(|_| ()), Err(expected.to_string()), "{pairs:?}");
    }
}

#[test]
fn command_line_comes_after_the_file() {
    let folder = Folder::new("precedence");
    let file = folder.file("redis.conf", "port 7000\ntimeout 5\nmaxclients 9\n");
    let file = file.to_str().unwrap();
    for args in [
        &[file, "--port", "7001", "--save", "", "--bind", "127.0.0.1", "-::1"][..],
        &["--port", "7001", "--config", file, "--save", "", "--bind", "127.0.0.1", "-::1"],
    ] {
        let config = load(args).unwrap();
        assert_eq!((config.port, config.timeout_s, config.maxclients), (7001, 5, 9));
        assert_eq!(config.bind, ["127.0.0.1", "-::1"]);
        assert_eq!(config.config_file.as_deref(), Some(Path::new(file)));
    }
    assert_eq!(load(&[]).unwrap().port, 6379);
    assert_eq!(load(&["--PORT", "1"]).unwrap().port, 1);
}

#[test]
fn bad_command_lines() {
    assert_eq!(
        load_error(&["--maxclient", "5"]),
        "command line: 'maxclient 5': Bad directive or wrong number of arguments; did you mean 'maxclients'?"
    );
    assert_eq!(load_error(&["--port"]), "command line: 'port': wrong number of arguments");
    assert_eq!(load_error(&["--port", "1", "2"]), "command line: 'port 1 2': wrong number of arguments");
    assert!(load_error(&["/nonexistent.conf"]).starts_with("can't read the configuration file '/nonexistent.conf': "));
    assert_eq!(load_error(&["--requirepass", "a", "b"]), "command line: 'requirepass': wrong number of arguments");
    assert!(load_error(&["--config", "a", "b"]).contains("command line: 'config a b'"));
    assert!(load_error(&["--cpus", "0", "--partitions", "1", "--cpus", "0-1"]).contains("partitions 1"));
    assert!(load_error(&["--cpus", "4095"]).contains("CPU 4095 is not among those"));
}

#[test]
fn files() {
    let config = load_text("lines", "# comment\n\n  \t# too\r\nPORT 7000\r\nlogfile \"a b\"\n").unwrap();
    assert_eq!((config.port, config.logfile.as_str()), (7000, "a b"));
    let error = load_text("unknown", "port 1\nnonsense yes\n").unwrap_err().to_string();
    assert!(error.ends_with("redis.conf:2: 'nonsense yes': Bad directive or wrong number of arguments"));
    let error = load_text("quotes", "\nlogfile \"a\n").unwrap_err().to_string();
    assert!(error.ends_with("redis.conf:2: 'logfile \"a': unbalanced quotes"), "{error}");
    assert!(load_text("bytes", "logfile \"\\xff\"\n").unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn save_points_of_all_lines_count() {
    for (lines, expected) in [
        ("save 900 1\nsave 300 10 60 10000", "900 1 300 10 60 10000"),
        ("save 900 1\nsave \"\"", ""),
        ("save \"\"\nsave 900 1", "900 1"),
        ("save 900 1\nsave \"\"\nsave 60 1", "60 1"),
    ] {
        assert_eq!(load_text("save", lines).unwrap().get(b"save").unwrap(), expected, "{lines:?}");
    }
    let folder = Folder::new("save-arguments");
    let file = folder.file("redis.conf", "save 900 1\n");
    let file = file.to_str().unwrap();
    assert_eq!(load(&[file, "--save", "60", "1000"]).unwrap().save, [(900, 1), (60, 1000)]);
    assert_eq!(load(&[file, "--save", ""]).unwrap().save, []);
    let set = load(&[file]).unwrap().set(&[(b"save", b"5 6 7 8")]).unwrap();
    assert_eq!(set.save, [(5, 6), (7, 8)]);
}

#[test]
fn old_names_are_understood_wherever_a_name_is() {
    let folder = Folder::new("aliases");
    let file = folder.file("redis.conf", "SlaveOf 10.0.0.1 7000\nslave-priority 5\nmin-slaves-to-write 1\n");
    let config = load(&[file.to_str().unwrap(), "--repl-ping-slave-period", "3"]).unwrap();
    assert_eq!(config.replicaof, Some(("10.0.0.1".into(), 7000)));
    assert_eq!(config.get(b"replica-priority").as_deref(), Some("5"));
    assert_eq!(config.get(b"min-slaves-to-write").as_deref(), Some("1"));
    assert_eq!(config.get(b"repl-ping-replica-period").as_deref(), Some("3"));
    let config = config.set(&[(b"min-slaves-to-write", b"2")]).unwrap();
    config.rewrite().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(
        text,
        "SlaveOf 10.0.0.1 7000\nslave-priority 5\nmin-replicas-to-write 2\n# Generated by CONFIG REWRITE\n\
         repl-ping-replica-period 3\n"
    );
    assert!(config.set(&[(b"min-slaves-to-write", b"2"), (b"min-replicas-to-write", b"2")]).is_err());
    assert!(table::ALIASES.is_sorted());
    for (alias, name) in table::ALIASES {
        assert_eq!(table::find(alias.as_bytes()).unwrap().name, *name);
    }
}

#[test]
fn what_counts_on_the_log_needs_it() {
    assert_eq!(
        load_error(&["--write-durability", "disk"]),
        "'write-durability disk': it needs 'appendonly yes': without the log nothing is on disk"
    );
    assert!(load_error(&["--write-durability", "quorum-disk"]).starts_with("'write-durability quorum-disk': it needs"));
    assert!(load(&["--write-durability", "quorum"]).is_ok());
    let config = load(&["--write-durability", "disk", "--appendonly", "yes"]).unwrap();
    let refused = config.set(&[(b"appendonly", b"no")]).unwrap_err().to_string();
    assert!(refused.contains("'write-durability'"), "{refused}");
    assert!(config.set(&[(b"appendonly", b"no"), (b"write-durability", b"memory")]).is_ok());
    assert!(Config::default().set(&[(b"write-durability", b"quorum-disk")]).is_err());
    assert!(Config::default().set(&[(b"write-durability", b"disk"), (b"appendonly", b"yes")]).is_ok());
}

/// What the file that comes with redis-server 7.4 says about persistence and replication.
#[test]
fn lines_of_the_file_that_comes_with_redis() {
    let text = "save 3600 1 300 100 60 10000\nstop-writes-on-bgsave-error yes\nrdbcompression yes\nrdbchecksum yes\n\
                dbfilename dump.rdb\nrdb-del-sync-files no\ndir ./\nreplica-serve-stale-data yes\n\
                replica-read-only yes\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 5\n\
                repl-diskless-sync-max-replicas 0\nrepl-diskless-load disabled\nrepl-ping-replica-period 10\n\
                repl-timeout 60\nrepl-disable-tcp-nodelay no\nrepl-backlog-size 1mb\nrepl-backlog-ttl 3600\n\
                replica-priority 100\nmin-replicas-to-write 3\nmin-replicas-max-lag 10\nreplica-lazy-flush no\n\
                appendonly no\nappendfilename \"appendonly.aof\"\nappenddirname \"appendonlydir\"\n\
                appendfsync everysec\nno-appendfsync-on-rewrite no\nauto-aof-rewrite-percentage 100\n\
                auto-aof-rewrite-min-size 64mb\naof-load-truncated yes\naof-use-rdb-preamble yes\n\
                aof-timestamp-enabled no\nshutdown-timeout 10\nshutdown-on-sigint default\n\
                shutdown-on-sigterm default\naof-rewrite-incremental-fsync yes\nrdb-save-incremental-fsync yes\n";
    let config = load_text("stock", text).unwrap();
    assert_eq!(config.save, [(3600, 1), (300, 100), (60, 10000)]);
}

#[test]
fn includes_stand_for_their_lines() {
    let folder = Folder::new("include");
    folder.file("inner.conf", "port 2\ntimeout 2\n");
    let file = folder.file("redis.conf", "port 1\ninclude inner.conf\ntimeout 3\n");
    let config = load(&[file.to_str().unwrap()]).unwrap();
    assert_eq!((config.port, config.timeout_s), (2, 3));

    let circle = folder.file("circle.conf", "include circle.conf\n");
    assert!(load_error(&[circle.to_str().unwrap()]).contains("files include each other"));
    let missing = folder.file("missing.conf", "\ninclude nowhere.conf\n");
    let error = load_error(&[missing.to_str().unwrap()]);
    assert!(error.contains("missing.conf:2: can't read the configuration file"), "{error}");
    folder.file("inner.conf", "\n\nport x\n");
    assert!(load_error(&[file.to_str().unwrap()]).contains("inner.conf:3: 'port x'"));
}

/// Loads `text`, applies `change`, rewrites, and returns the new text.
fn rewrite(name: &str, text: &str, args: &[&str], change: impl Fn(&mut Config)) -> String {
    let folder = Folder::new(name);
    folder.file("inner.conf", "timeout 9\n");
    let file = folder.file("redis.conf", text);
    let mut config = load(&[&[file.to_str().unwrap()], args].concat()).unwrap();
    change(&mut config);
    config.rewrite().unwrap();
    let again = load(&[file.to_str().unwrap()]).unwrap();
    for directive in DIRECTIVES {
        assert_eq!(directive.get(&again), directive.get(&config), "{}", directive.name);
    }
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2, "no temporary file is left");
    fs::read_to_string(file).unwrap()
}

#[test]
fn rewrite_keeps_what_holds() {
    let text = "# mine\nclient-query-buffer-limit 1gb\n\n  PORT   7000 \ninclude inner.conf\nsave \"\"\n";
    assert_eq!(rewrite("keep", text, &[], |_| {}), text);
}

#[test]
fn rewrite_changes_lines_in_place_and_adds_others() {
    let text = "# mine\nmaxclients 7\nport 7000\nmaxclients 8\nclient-output-buffer-limit pubsub 1 1 1";
    let new = rewrite("change", text, &["--port", "7001"], |config| {
        config.maxclients = 9;
        config.requirepass = "a \"b\"".into();
        config.client_output_buffer_limit_normal.hard_bytes = 5;
    });
    assert_eq!(
        new,
        "# mine\nmaxclients 9\nport 7001\nclient-output-buffer-limit normal 5 0 0\n\
         client-output-buffer-limit slave 268435456 67108864 60\nclient-output-buffer-limit pubsub 1 1 1\n\
         # Generated by CONFIG REWRITE\nrequirepass \"a \\\"b\\\"\"\n"
    );
}

#[test]
fn rewrite_wins_over_a_later_include() {
    let new = rewrite("include-wins", "timeout 1\ninclude inner.conf\n", &[], |config| config.timeout_s = 3);
    assert_eq!(new, "include inner.conf\n# Generated by CONFIG REWRITE\ntimeout 3\n");
    // Back to the default is a change, too.
    let new = rewrite("include-default", "include inner.conf\n", &[], |config| config.timeout_s = 0);
    assert_eq!(new, "include inner.conf\n# Generated by CONFIG REWRITE\ntimeout 0\n");
}

#[test]
fn rewrite_needs_a_file_and_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let error = Config::default().rewrite().unwrap_err();
    assert_eq!(error.to_string(), "The server is running without a config file");

    let folder = Folder::new("permissions");
    let file = folder.file("redis.conf", "");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let link = folder.0.join("link.conf");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let mut config = load(&[link.to_str().unwrap()]).unwrap();
    config.timeout_s = 4;
    config.rewrite().unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "# Generated by CONFIG REWRITE\ntimeout 4\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}
