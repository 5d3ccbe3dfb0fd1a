//! Applications with the client libraries that people use go on while a primary is killed and comes back, all nodes are
//! upgraded one after the other, roles go to another node, one joins and one leaves: no error reaches them that the library
//! does not deal with itself, and nothing is lost of what they were told is written. With redis-rs one error does: it tries a connection that is refused
//! again without a pause, so its application makes the pause.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::cluster::{ClusterClient, ClusterConnection};
use redis::{ErrorKind, RedisError, RedisResult};

use crate::common::wait_until;
use crate::nodes::{CORE_ENDPOINTS, Cluster, HEALTHY_MAX, OLDER};

/// Where `scripts/install-peers.sh` puts the clients.
fn clients() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients")
}

/// A primary dies, and comes back. Not the one through which clients have found the cluster.
fn kill(cluster: &mut Cluster) {
    cluster.kill(1);
    cluster.restart(1);
    cluster.wait_healthy();
}

/// What operators do: all nodes are upgraded, one takes all roles over, one joins, and another one leaves.
fn operate(cluster: &mut Cluster) {
    for node in 0..3 {
        cluster.terminate(node);
        cluster.restart(node);
        cluster.wait_healthy();
    }
    cluster.operate(&["failover", &cluster.addresses()[1].to_string()]);
    cluster.join(&[]);
    cluster.wait_healthy();
    cluster.operate(&["leave", &cluster.addresses()[2].to_string()]);
    cluster.left(2);
    cluster.wait_healthy();
}

/// Runs a script against a cluster that something befalls meanwhile.
fn goes_on(interpreter: &str, script: &str, args: &[&str], befalls: &[fn(&mut Cluster)]) {
    let args = [&["--cluster-copies", "3", "--write-durability", "quorum"], args].concat();
    let mut cluster = Cluster::local_with(3, &args, &OLDER);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut packages = clients().join("python").into_os_string();
    if let Some(others) = std::env::var_os("PYTHONPATH") {
        packages.push(":");
        packages.push(others);
    }
    let mut child = Command::new(interpreter)
        .arg(path)
        .arg(cluster.nodes[0].port.to_string())
        .env("CLIENTS", clients())
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {interpreter}: {error}"));
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    befalls.iter().for_each(|befall| befall(&mut cluster));
    drop(child.stdin.take());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success() && rest.starts_with("passed"), "{script}: {rest}");
    println!("{script}: {rest}");
}

#[test]
fn redis_py_goes_on() {
    goes_on("python3", "redis_py_failover.py", &[], &[kill, operate]);
}

#[test]
fn ioredis_goes_on() {
    goes_on("node", "ioredis_failover.mjs", &[], &[kill, operate]);
}

/// To a client the cores are nodes, several of which die at once.
#[test]
fn clients_of_cores_go_on() {
    goes_on("python3", "redis_py_failover.py", &CORE_ENDPOINTS, &[kill, operate]);
    goes_on("node", "ioredis_failover.mjs", &CORE_ENDPOINTS, &[kill]);
}

const KEYS: usize = 60;
/// Before an application tries again.
const PAUSE: Duration = Duration::from_millis(50);

/// Keys, and those that have their slots by a part of their names.
fn keys() -> Vec<String> {
    (0..KEYS).map(|n| if n % 3 == 0 { format!("{{user:{}}}:{n}", n / 6) } else { format!("key:{n}") }).collect()
}

/// What an application does about a node that has gone: connect anew, after a pause.
fn is_about_a_connection(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::ClusterConnectionNotFound)
}

/// An application with redis-rs' client for clusters. What it gives up itself is tried again only if it is about a connection;
/// every other error is one of the test.
struct Application {
    client: ClusterClient,
    connection: Option<ClusterConnection>,
    /// Errors that the library has not hidden.
    errors: usize,
    longest: Duration,
}

impl Application {
    fn new(port: u16) -> Application {
        let client = ClusterClient::builder([format!("redis://127.0.0.1:{port}/")])
            .retries(200)
            .retry_wait_formula(50, 1)
            .min_retry_wait(20)
            .max_retry_wait(50)
            .connection_timeout(Duration::from_secs(1))
            .response_timeout(Duration::from_secs(5));
        let client = client.build().unwrap();
        Application { client, connection: None, errors: 0, longest: Duration::ZERO }
    }

    fn until_done<T>(&mut self, mut call: impl FnMut(&mut ClusterConnection) -> RedisResult<T>) -> T {
        let begun = Instant::now();
        loop {
            let result = match &mut self.connection {
                Some(connection) => call(connection),
                None => self.client.get_connection().and_then(|new| call(self.connection.insert(new))),
            };
            match result {
                Ok(value) => {
                    self.longest = self.longest.max(begun.elapsed());
                    return value;
                }
                Err(error) => {
                    assert!(is_about_a_connection(&error), "{error}: {:?}", error.kind());
                    assert!(begun.elapsed() < HEALTHY_MAX, "it does not go on: {error}");
                    self.errors += 1;
                    self.connection = None;
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Writes all keys again and again, until that is over; then all of them have to be what was written last.
    fn run(mut self, rounds: &AtomicU64, over: &AtomicBool) -> String {
        let keys = keys();
        let mut round = 0u64;
        while !over.load(Ordering::Relaxed) {
            round += 1;
            for key in &keys {
                self.until_done(|connection| redis::cmd("SET").arg(key).arg(round).query::<()>(connection));
            }
            rounds.store(round, Ordering::Relaxed);
        }
        for key in &keys {
            let value: Option<u64> = self.until_done(|connection| redis::cmd("GET").arg(key).query(connection));
            assert_eq!(value, Some(round), "{key}");
        }
        // Keys of one slot in one command.
        for user in 0..KEYS / 6 {
            let keys: Vec<&String> = keys.iter().filter(|key| key.starts_with(&format!("{{user:{user}}}"))).collect();
            assert_eq!(keys.len(), 2);
            let values: Vec<u64> = self.until_done(|connection| redis::cmd("MGET").arg(&keys).query(connection));
            assert_eq!(values, [round; 2]);
        }
        format!("{round} rounds, longest call {} ms, {} errors", self.longest.as_millis(), self.errors)
    }
}

/// Tells the application to end, also when the test has failed meanwhile.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn redis_rs_goes_on() {
    let args = ["--cluster-copies", "3", "--write-durability", "quorum"];
    let mut cluster = Cluster::local_with(3, &args, &OLDER);
    let leaders = cluster.slots_of(0).unwrap();
    let led = |node| keys().iter().any(|key| leaders[keyloom::route::slot_of(key.as_bytes()) as usize] == Some(node));
    assert!((0..3).all(led), "keys are everywhere");
    let application = Application::new(cluster.nodes[0].port);
    let (rounds, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let ends = Ends(&over);
        let application = scope.spawn(|| application.run(&rounds, &over));
        let goes_on = |count: u64| {
            let enough = rounds.load(Ordering::Relaxed) + count;
            wait_until("it writes all keys", || rounds.load(Ordering::Relaxed) >= enough || application.is_finished());
        };
        goes_on(2);
        // Not the one through which it has found the cluster.
        cluster.kill(1);
        goes_on(2);
        cluster.restart(1);
        cluster.wait_healthy();
        goes_on(2);
        operate(&mut cluster);
        goes_on(2);
        drop(ends);
        println!("redis-rs: {}", application.join().unwrap());
    });
}
