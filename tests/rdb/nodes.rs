//! Whole data sets, from redis-server to Keyloom and back, by way of the program: `import`, a start beside a dump file, and
//! `export`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use keyloom::resp::read::Value as Reply;

use crate::common::{Client, Random, Server, ok, seed, wait_until};
use crate::files::{DATABASES, DEBUG, digest, fill, fill_server, redis};
use crate::fixtures;
use crate::model::{Keyspace, of_server};

const CORES: [&[&str]; 2] = [&["--cpus", "0"], &["--cpus", "0,1"]];

/// Sets of arguments that this machine has CPUs for.
fn cores() -> &'static [&'static [&'static str]] {
    if std::thread::available_parallelism().map_or(1, |n| n.get()) > 1 { &CORES } else { &CORES[..1] }
}

fn program(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyloom")).args(args).output().unwrap()
}

/// Runs a command that succeeds; what it says.
#[track_caller]
fn run(args: &[&str]) -> String {
    let output = program(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that fails; why, in one line.
#[track_caller]
fn refused(args: &[&str]) -> String {
    let output = program(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// A directory of its own, removed with the value.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nodes-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The dump file of a server, now.
fn save(client: &mut Client, server: &Server) -> PathBuf {
    assert_eq!(client.call(&["SAVE"]), ok());
    server.dir().join("dump.rdb")
}

/// Starts a node in this directory, whose `--dir` comes after that of the harness.
fn node(dir: &str, args: &[&str]) -> Server {
    Server::keyloom(&[&["--dir", dir], args].concat())
}

fn stop(mut server: Server) {
    server.signal("TERM");
    assert_eq!(server.wait_for_exit(Duration::from_secs(30)), Some(0), "{}", server.log());
}

#[track_caller]
fn check_same(client: &mut Client, expected: &Keyspace) {
    let found = of_server(client, &DATABASES, false);
    assert_eq!(found.len(), expected.len());
    assert!(found == *expected);
}

/// Loads a dump file into a redis-server; its digest.
fn digest_of(file: &Path) -> Reply {
    let server = Server::redis(DEBUG);
    let mut client = server.client();
    std::fs::copy(file, server.dir().join("dump.rdb")).unwrap();
    assert_eq!(client.call(&["DEBUG", "RELOAD", "NOSAVE"]), ok(), "{}", server.log());
    digest(&mut client)
}

#[test]
fn redis_data_goes_to_a_node_and_back() {
    let server = redis();
    let mut client = server.client();
    fill_server(&mut client, &fill());
    client.call(&["SET", "over", "x", "PX", "1"]);
    let file = save(&mut client, &server);
    let file = file.to_str().unwrap();
    client.call(&["DEL", "over"]);
    let (expected, before) = (of_server(&mut client, &DATABASES, false), digest(&mut client));
    for cores in cores() {
        let dir = Directory::new("import");
        let said = run(&["import", file, "--dir", &dir.path("")]);
        let total = format!("{} keys", expected.len());
        assert!(said.contains(&total) && said.contains("database 15: ") && said.contains("sorted sets: "), "{said}");
        assert!(run(&["check", &dir.path("appendonlydir")]).contains("snapshot"), "the files are sound");
        let args = [*cores, &["--appendonly", "yes"]].concat();
        let running = node(&dir.path(""), &args);
        let mut client = running.client();
        check_same(&mut client, &expected);
        // It goes on from there.
        client.call(&["SELECT", "0"]);
        assert_eq!(client.call(&["SET", "written later", "1"]), ok());
        stop(running);
        let running = node(&dir.path(""), &args);
        let mut client = running.client();
        assert_eq!(client.call(&["DEL", "written later"]), Reply::Int(1));
        check_same(&mut client, &expected);
        stop(running);
        let back = dir.path("back.rdb");
        let said = run(&["export", &dir.path(""), &back]);
        assert!(said.contains(&total), "{said}");
        assert_eq!(digest_of(Path::new(&back)), before);
        assert!(refused(&["export", &dir.path("appendonlydir"), &back]).contains("is there already"));
    }
}

#[test]
fn a_node_starts_beside_a_dump_file() {
    let server = redis();
    let mut client = server.client();
    fill_server(&mut client, &fill());
    let file = save(&mut client, &server);
    let expected = of_server(&mut client, &DATABASES, false);
    for cores in cores() {
        for appendonly in ["yes", "no"] {
            let dir = Directory::new("start");
            let dump = dir.path("dump.rdb");
            std::fs::copy(&file, &dump).unwrap();
            let args = [*cores, &["--save", "", "--appendonly", appendonly]].concat();
            let running = node(&dir.path(""), &args);
            check_same(&mut running.client(), &expected);
            assert_eq!(Path::new(&dir.path("appendonlydir")).exists(), appendonly == "yes");
            let mut client = running.client();
            assert_eq!(client.call(&["SET", "written later", "1"]), ok());
            stop(running);
            // With a log the file is not needed any more; without one it is what there is.
            if appendonly == "yes" {
                std::fs::remove_file(&dump).unwrap();
            }
            let running = node(&dir.path(""), &args);
            let mut client = running.client();
            assert_eq!(client.call(&["EXISTS", "written later"]), Reply::Int((appendonly == "yes") as i64));
            client.call(&["DEL", "written later"]);
            check_same(&mut client, &expected);
            stop(running);
        }
    }
}

#[test]
fn what_a_snapshot_has_comes_before_a_dump_file() {
    let dir = Directory::new("older");
    let running = node(&dir.path(""), &["--save", "3600 1"]);
    let mut client = running.client();
    assert_eq!(client.call(&["SET", "mine", "1"]), ok());
    assert_eq!(client.call(&["SAVE"]), ok());
    stop(running);
    std::fs::write(dir.path("dump.rdb"), b"REDIS0010 nothing that could be read").unwrap();
    let running = node(&dir.path(""), &["--save", "3600 1"]);
    assert_eq!(running.client().call(&["DBSIZE"]), Reply::Int(1));
    stop(running);
}

/// Starts that must fail; what they say.
#[track_caller]
fn failed_start(dir: &str, args: &[&str]) -> String {
    let port = crate::common::free_port().to_string();
    refused(&[&["--port", &port, "--bind", "127.0.0.1", "--dir", dir, "--logfile", "log"], args].concat())
}

#[test]
fn damaged_files_are_refused_and_leave_nothing_behind() {
    let server = redis();
    let mut client = server.client();
    fill_server(&mut client, &fill());
    let whole = std::fs::read(save(&mut client, &server)).unwrap();
    let dir = Directory::new("damaged");
    let file = dir.path("dump.rdb");
    let mut random = Random::new(seed());
    for round in 0..12 {
        let mut bytes = whole.clone();
        let at = random.below(bytes.len());
        if round % 2 == 0 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << random.below(8);
        }
        std::fs::write(&file, bytes).unwrap();
        let error = refused(&["import", &file, "--dir", &dir.path("")]);
        assert!(error.contains("dump.rdb'"), "{error}");
    }
    for args in [&["--appendonly", "yes"][..], &["--save", ""]] {
        let error = failed_start(&dir.path(""), args);
        assert!(error.contains("cannot import") && error.contains("move the file away"), "{error}");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path("appendonlydir")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "lock" || name == "node-id"), "{left:?}");
    std::fs::write(&file, whole).unwrap();
    run(&["import", &file, "--dir", &dir.path("")]);
    assert!(refused(&["import", &file, "--dir", &dir.path("")]).contains("holds data already"));
}

#[test]
fn what_keyloom_has_not_is_told() {
    let dir = Directory::new("unsupported");
    let file = dir.path("dump.rdb");
    std::fs::write(&file, fixtures::file("REDIS0011", &fixtures::unsupported())).unwrap();
    let error = refused(&["import", &file, "--dir", &dir.path("")]);
    assert!(error.contains("a stream") && error.contains("--skip-unsupported"), "{error}");
    assert!(failed_start(&dir.path(""), &[]).contains("--skip-unsupported"));
    let said = run(&["import", &file, "--dir", &dir.path(""), "--skip-unsupported"]);
    assert!(said.contains("1 keys") && said.contains("\"s1\" in database 0, a stream"), "{said}");
    assert!(said.contains("4 keys of other types, 1 libraries of functions, 1 data of modules"), "{said}");
    let running = node(&dir.path(""), &[]);
    assert_eq!(running.client().call(&["DBSIZE"]), Reply::Int(1));
    // More databases than the node has.
    let (other, dir) = (file, Directory::new("databases"));
    std::fs::write(&other, fixtures::file("REDIS0010", b"\xfe\x14\x00\x01k\x01v")).unwrap();
    assert!(refused(&["import", &other, "--dir", &dir.path("")]).contains("database 20, and there are 16"));
    run(&["import", &other, "--dir", &dir.path(""), "--databases", "21"]);
    // An append-only file of Redis is data that would be missing.
    let dir = Directory::new("appendonly");
    std::fs::create_dir_all(dir.path("appendonlydir")).unwrap();
    std::fs::write(dir.path("appendonlydir/appendonly.aof.manifest"), b"file x seq 1 type b\n").unwrap();
    assert!(failed_start(&dir.path(""), &["--appendonly", "yes"]).contains("append-only file of a redis-server"));
}

#[test]
fn many_keys_go_there_and_back() {
    const KEYS: usize = 100_000;
    let server = redis();
    let mut client = server.client();
    for part in 0..KEYS / 1000 {
        let pairs = (0..1000).flat_map(|n| [format!("key:{}", part * 1000 + n), format!("value {n} of {part}")]);
        let words: Vec<String> = ["MSET".to_string()].into_iter().chain(pairs).collect();
        assert_eq!(client.call(&words), ok());
    }
    let file = save(&mut client, &server);
    let before = digest(&mut client);
    for (cores, how) in cores().iter().zip(["import", "start"]) {
        let dir = Directory::new("many");
        match how {
            "import" => drop(run(&["import", file.to_str().unwrap(), "--dir", &dir.path("")])),
            _ => drop(std::fs::copy(&file, dir.path("dump.rdb")).unwrap()),
        }
        let running = node(&dir.path(""), &[*cores, &["--appendonly", "yes"]].concat());
        let mut client = running.client();
        assert_eq!(client.call(&["DBSIZE"]), Reply::Int(KEYS as i64));
        assert_eq!(client.call(&["GET", "key:77777"]), Reply::Bulk(b"value 777 of 77".to_vec()));
        stop(running);
        run(&["export", &dir.path(""), &dir.path("back.rdb")]);
        assert_eq!(digest_of(Path::new(&dir.path("back.rdb"))), before);
    }
}

/// Fields with deadlines need the newer form, which is chosen when it is needed.
#[test]
fn deadlines_of_fields_survive() {
    let dir = Directory::new("fields");
    let running = node(&dir.path(""), &["--appendonly", "yes"]);
    let mut client = running.client();
    client.call(&["HSET", "h", "a", "1", "b", "2"]);
    client.call(&["HPEXPIREAT", "h", "4102444800000", "FIELDS", "1", "a"]);
    client.call(&["SET", "plain", "1", "PXAT", "4102444800001"]);
    stop(running);
    assert!(run(&["export", &dir.path(""), &dir.path("out.rdb")]).starts_with("RDB version 12, "));
    let other = Directory::new("fields again");
    run(&["import", &dir.path("out.rdb"), "--dir", &other.path("")]);
    let running = node(&other.path(""), &[]);
    let mut client = running.client();
    let times = client.call(&["HPEXPIRETIME", "h", "FIELDS", "2", "a", "b"]);
    assert_eq!(times, Reply::Array(vec![Reply::Int(4_102_444_800_000), Reply::Int(-1)]));
    assert_eq!(client.call(&["PEXPIRETIME", "plain"]), Reply::Int(4_102_444_800_001));
}

/// Imported data has no index in the log; replicas get it all the same, and so does a replica that comes back.
#[test]
fn replicas_get_imported_data() {
    for appendonly in ["yes", "no"] {
        let dir = Directory::new("primary");
        std::fs::write(dir.path("dump.rdb"), fixtures::file("REDIS0010", b"\x00\x01k\x01v\x00\x01l\x01w")).unwrap();
        let args = ["--save", "", "--appendonly", appendonly];
        let primary = node(&dir.path(""), &args);
        let port = primary.port.to_string();
        let args = ["--appendonly", "yes", "--replicaof", "127.0.0.1", &port];
        let mut replica = Server::keyloom(&args);
        for round in 0..2 {
            let mut client = replica.client();
            let value = |text: &str| Reply::Bulk(text.as_bytes().to_vec());
            let both = Reply::Array(vec![value("v"), value("w")]);
            wait_until("the replica has the data", || client.call(&["MGET", "k", "l"]) == both);
            let key = format!("later:{round}");
            assert_eq!(primary.client().call(&["SET", &key, "x"]), ok());
            wait_until("the log arrives", || client.call(&["GET", &key]) == value("x"));
            replica.restart(&args);
        }
    }
}
