//! The admin endpoint of the real program: what a scraper and a health probe see, while the node works and while a
//! core is busy, and what happens to those who speak bad HTTP.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Server, free_port};

/// Bound on everything that waits for the node.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running node on two cores, with an admin endpoint.
struct Node {
    server: Server,
    admin: u16,
}

impl Node {
    fn start() -> Node {
        let admin = free_port();
        let cpus = if std::thread::available_parallelism().unwrap().get() > 1 { "0-1" } else { "0" };
        let port = admin.to_string();
        let server = Server::keyloom(&["--admin-port", &port, "--cpus", cpus, "--enable-debug-command", "yes"]);
        Node { server, admin }
    }

    fn client(&self) -> Client {
        let stream = TcpStream::connect(self.server.addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(BufReader::new(stream))
    }

    fn connect_admin(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.admin)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes to the endpoint and returns the whole reply, up to the end of the connection.
    fn raw(&self, request: &[u8]) -> String {
        self.try_raw(request).unwrap()
    }

    /// The same; a connection that is one too many may be closed before it is read.
    fn try_raw(&self, request: &[u8]) -> std::io::Result<String> {
        let mut stream = self.connect_admin();
        stream.write_all(request)?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    }

    /// Status, head and body of a GET.
    fn get(&self, path: &str) -> (u16, String, String) {
        let reply = self.raw(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {reply:?}"));
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), body.len());
        (status(&reply), head.to_string(), body.to_string())
    }

    fn metrics(&self) -> HashMap<String, f64> {
        let (status, head, body) = self.get("/metrics");
        assert_eq!(status, 200);
        assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
        check(&body)
    }

    /// SIGTERM; returns how long the node took to end, and its exit code.
    fn stop(&mut self) -> (Duration, Option<i32>) {
        let started = Instant::now();
        let pid = self.server.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let code = self.server.wait_for_exit(PATIENCE);
        (started.elapsed(), code)
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn send(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    /// First line of the reply to an inline command.
    fn run(&mut self, line: &str) -> String {
        self.send(line);
        let mut reply = String::new();
        self.0.read_line(&mut reply).unwrap();
        reply.trim_end().to_string()
    }
}

fn status(reply: &str) -> u16 {
    let code = reply.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    code.and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status line: {reply:?}"))
}

fn label<'a>(series: &'a str, name: &str) -> Option<&'a str> {
    series.split_once(&format!("{name}=\""))?.1.split('"').next()
}

/// Reads a page as a scraper does and checks its form: HELP and TYPE once and before the samples, samples of a metric
/// together, no series twice, buckets that only grow and end with the count.
fn check(page: &str) -> HashMap<String, f64> {
    let mut samples = HashMap::new();
    let mut kinds: HashMap<String, String> = HashMap::new();
    let mut helped = HashSet::new();
    let mut metric = String::new();
    let mut buckets: HashMap<String, (f64, f64)> = HashMap::new();
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split_once(' ').unwrap().0.to_string();
            assert!(helped.insert(name), "{line}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(helped.contains(name) && kinds.insert(name.into(), kind.into()).is_none(), "{line}");
            metric = name.to_string();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        let name = series.split('{').next().unwrap();
        let end = name.strip_prefix(&*metric).unwrap_or_else(|| panic!("{line} outside of its metric {metric}"));
        let is_histogram = kinds[&metric] == "histogram";
        assert!(if is_histogram { ["_bucket", "_sum", "_count"].contains(&end) } else { end.is_empty() }, "{line}");
        assert!(samples.insert(series.to_string(), value).is_none(), "{series} twice");
        if is_histogram {
            let owner = ["core", "command"].iter().find_map(|name| label(series, name)).unwrap();
            let (bound, count) = buckets.entry(format!("{metric} {owner}")).or_insert((f64::NEG_INFINITY, 0.0));
            match end {
                "_bucket" => {
                    let le: f64 = label(series, "le").unwrap().parse().unwrap();
                    assert!(le > *bound && value >= *count, "{line} after {bound} {count}");
                    (*bound, *count) = (le, value);
                }
                "_count" => assert!(*bound == f64::INFINITY && value == *count, "{line}"),
                _ => {}
            }
        }
    }
    samples
}

/// Sum of a metric over its series.
fn sum(samples: &HashMap<String, f64>, metric: &str) -> f64 {
    let of = |series: &str| series.strip_prefix(metric).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
    samples.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
}

#[test]
fn numbers_follow_the_traffic() {
    let node = Node::start();
    let before = node.metrics();
    assert_eq!(sum(&before, "keyloom_db_keys"), 0.0);
    let mut clients = [node.client(), node.client()];
    // Keys of all partitions, from two connections: with two cores about half of the commands hop.
    for i in 0..200 {
        assert_eq!(clients[i % 2].run(&format!("SET key:{i} value")), "+OK");
    }
    for i in 0..50 {
        assert_eq!(clients[i % 2].run(&format!("GET key-that-is-missing:{i}")), "$-1");
    }
    assert!(clients[0].run("NOSUCHCOMMAND").starts_with("-ERR unknown command"));
    let after = node.metrics();
    let grown = |metric: &str| sum(&after, metric) - sum(&before, metric);
    assert_eq!(grown("keyloom_db_keys"), 200.0);
    assert_eq!(sum(&after, "keyloom_command_duration_seconds_count{command=\"get\"}"), 50.0);
    assert_eq!(sum(&after, "keyloom_command_duration_seconds_count{command=\"set\"}"), 200.0);
    assert_eq!(grown("keyloom_keyspace_misses_total"), 50.0);
    assert!(grown("keyloom_commands_total") >= 250.0);
    assert_eq!(grown("keyloom_errors_total"), 1.0);
    assert!(sum(&after, "keyloom_connected_clients") >= 2.0);
    assert!(grown("keyloom_net_input_bytes_total") > 200.0 * 15.0);
    let cores = after.keys().filter(|series| series.starts_with("keyloom_connected_clients{")).count();
    if cores > 1 {
        assert!(grown("keyloom_hops_out_total") > 10.0);
        assert_eq!(sum(&after, "keyloom_hops_out_total"), sum(&after, "keyloom_hops_in_total"));
        assert!(sum(&after, "keyloom_hop_duration_seconds_count") > 0.0);
        // Two data cores and the control core.
        let queues = after.keys().filter(|series| series.starts_with("keyloom_mesh_queue_depth{"));
        let pairs: HashSet<_> = queues.map(|series| (label(series, "from"), label(series, "to"))).collect();
        let pair = |from, to| (Some(from), Some(to));
        assert_eq!(pairs, HashSet::from([pair("0", "1"), pair("0", "2"), pair("1", "0"), pair("1", "2")]));
    }
    drop(clients);
    let end = Instant::now() + PATIENCE;
    while sum(&node.metrics(), "keyloom_connected_clients") > 0.0 {
        assert!(Instant::now() < end, "clients that have gone are still counted");
    }
}

#[test]
fn it_answers_while_a_core_is_busy() {
    let node = Node::start();
    let mut busy = node.client();
    assert_eq!(busy.run("SET a 1"), "+OK");
    let before = node.metrics();
    assert_eq!(node.get("/healthz").0, 200);
    busy.send("DEBUG SLEEP 3");
    // The sleep has begun when a core no longer answers; a scrape shows it by the age of that core's numbers.
    let started = Instant::now();
    let stale = loop {
        let asked = Instant::now();
        let samples = node.metrics();
        assert!(asked.elapsed() < Duration::from_secs(1), "a scrape took {:?}", asked.elapsed());
        assert!(started.elapsed() < Duration::from_secs(3), "no scrape saw the busy core");
        // While a scrape waits for the busy core, the answers of the others grow old too, but not as old.
        let ages = samples.iter().filter(|(series, _)| series.starts_with("keyloom_core_snapshot_age_seconds"));
        let (oldest, age) = ages.max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        if *age > 0.2 {
            assert_eq!(sum(&samples, "keyloom_db_keys"), sum(&before, "keyloom_db_keys"), "the last known numbers");
            break label(oldest, "core").unwrap().to_string();
        }
    };
    let asked = Instant::now();
    let (status, _, body) = node.get("/healthz");
    assert!(asked.elapsed() < Duration::from_millis(1500), "the probe took {:?}", asked.elapsed());
    assert_eq!((status, body), (503, format!("core {stale} does not answer\n")));
    let mut woken = String::new();
    busy.0.read_line(&mut woken).unwrap();
    assert_eq!(woken, "+OK\r\n");
    assert_eq!(node.get("/healthz").0, 200);
    assert!(node.metrics().iter().all(|(series, age)| !series.contains("snapshot_age") || *age < 1.0));
}

#[test]
fn pages_and_bad_requests() {
    let node = Node::start();
    assert!(node.get("/").2.contains("/metrics"));
    assert_eq!(node.get("/nothing").0, 404);
    assert_eq!(node.get("/metrics?name=x").0, 200);
    let head = node.raw(b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(status(&head) == 200 && head.ends_with("\r\n\r\n"), "{head}");
    let post = node.raw(b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello");
    assert!(status(&post) == 405 && post.contains("\r\nAllow: GET, HEAD\r\n"), "{post}");
    assert_eq!(status(&node.raw(b"*1\r\n$4\r\nPING\r\n")), 400);
    assert_eq!(status(&node.raw(b"GET / HTTP/3.0\r\n\r\n")), 505);
    let huge = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    assert_eq!(status(&node.raw(huge.as_bytes())), 431);
    // In pieces, and cut off in the middle.
    let mut stream = node.connect_admin();
    for piece in ["GET ", "/ HT", "TP/1.1\r\n", "\r", "\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
    }
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert_eq!(status(&reply), 200);
    let mut stream = node.connect_admin();
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert_eq!(status(&reply), 400);
}

#[test]
fn connections_that_say_nothing_are_bounded_and_do_not_hold_up_the_end() {
    let mut node = Node::start();
    let mut half = node.connect_admin();
    half.write_all(b"GET /metrics HT").unwrap();
    assert_eq!(node.get("/healthz").0, 200, "beside a half-open connection");
    let silent: Vec<_> = (0..63).map(|_| node.connect_admin()).collect();
    assert_eq!(status(&node.raw(b"")), 503, "one more than are served");
    let mut reply = String::new();
    half.read_to_string(&mut reply).unwrap();
    assert_eq!(status(&reply), 408);
    drop(silent);
    let end = Instant::now() + PATIENCE;
    while node.try_raw(b"GET / HTTP/1.0\r\n\r\n").map_or(true, |reply| status(&reply) != 200) {
        assert!(Instant::now() < end, "closed connections are still counted");
    }
    let _open: Vec<_> = (0..10).map(|_| node.connect_admin()).collect();
    let (took, code) = node.stop();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_port_in_use_is_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = taken.local_addr().unwrap().port();
    let (port, admin_port) = (free_port().to_string(), admin.to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyloom"));
    command.args(["--port", &port, "--admin-port", &admin_port, "--bind", "127.0.0.1"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = stderr.lines().filter(|line| line.starts_with("keyloom: ")).collect();
    let [line] = lines[..] else { panic!("{stderr}") };
    assert!(line.contains(&format!("127.0.0.1:{admin} (admin-port)")), "{line}");
}
