//! A node as a process: how it starts, what it leaves behind, how it ends, and what it says when it cannot start.
//!
//! Every wait is for a condition and has a bound; every node ends with its test.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use keyloom::config::load::allowed_cpus;

/// Longest wait for anything. A node gives its clients 3 s to take what they are owed; the rest is for slow machines.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Asks until there is an answer.
fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < WAIT_MAX, "no {what} after {WAIT_MAX:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A node with one core and a log in JSON, in a folder of its own, on a free port; with a Unix socket, on that alone.
struct Node {
    child: Child,
    folder: PathBuf,
    /// 0 if it listens on a Unix socket only.
    port: u16,
}

impl Node {
    fn start(name: &str, args: &[&str]) -> Node {
        Node::start_with(name, args, |_| {})
    }

    fn start_with(name: &str, args: &[&str], prepare: impl FnOnce(&mut Command)) -> Node {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("node-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut command = keyloom(&["serve", "--port", "0", "--log-format", "json", "--logfile", "log"]);
        command.arg("--dir").arg(&folder).arg("--cpus").arg(allowed_cpus()[0].to_string()).args(args);
        prepare(&mut command);
        let child = command.stderr(Stdio::inherit()).spawn().unwrap();
        let mut node = Node { child, folder, port: 0 };
        let address = wait_for("line about readiness", || {
            assert_eq!(node.child.try_wait().unwrap(), None, "the node ended: {:?}", node.log());
            let ready = node.log().into_iter().find(|line| line["message"] == "ready to accept connections")?;
            ready["address"].as_str().map(str::to_string)
        });
        node.port = address.strip_prefix("127.0.0.1:").map_or(0, |port| port.parse().unwrap());
        node
    }

    /// The lines of the log that are complete.
    fn log(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    fn has_logged(&self, message: &str) -> bool {
        self.log().iter().any(|line| line["message"] == message)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        stream
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a plain system call; the process is our child and has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    fn ended(&mut self) -> ExitStatus {
        wait_for("end of the node", || self.child.try_wait().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn keyloom(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyloom"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Sends an inline command and returns the first line of the reply.
fn ask(stream: impl Read + Write, line: &str) -> String {
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_line(&mut reply).unwrap();
    reply.trim_end().to_string()
}

/// The value of a directive that is in force.
fn config_of(node: &Node, name: &str) -> String {
    let mut stream = BufReader::new(node.connect());
    stream.get_mut().write_all(format!("CONFIG GET {name}\r\n").as_bytes()).unwrap();
    let lines: Vec<String> = stream.lines().take(5).map(Result::unwrap).collect();
    assert_eq!((lines[0].as_str(), lines[2].as_str()), ("*2", name));
    lines[4].clone()
}

/// Runs a command that should end by itself. A few lines of output fit into its pipes.
fn output(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() && start.elapsed() < WAIT_MAX {
        std::thread::sleep(Duration::from_millis(2));
    }
    // One that still runs ends here, without an exit code, and its test fails.
    let _ = child.kill();
    child.wait_with_output().unwrap()
}

/// What a refused start says: exit code 1, nothing on stdout, one line on stderr.
fn refusal(command: &mut Command) -> String {
    let output = output(command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.trim_end().strip_prefix("keyloom: ").expect("names the program").to_string()
}

#[test]
fn sigterm_ends_it_and_nothing_is_left() {
    let mut node = Node::start("term", &["--pidfile", "node.pid", "--unixsocket", "node.sock"]);
    let (pid_file, socket) = (node.folder.join("node.pid"), node.folder.join("node.sock"));
    let local = UnixStream::connect(&socket).unwrap();
    local.set_read_timeout(Some(WAIT_MAX)).unwrap();
    assert_eq!(ask(local, "PING"), "+PONG");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{}\n", node.child.id()));
    node.signal(libc::SIGTERM);
    assert_eq!(node.ended().code(), Some(0));
    assert!(!pid_file.exists() && !socket.exists());
    // The last line is there although nobody waited for the thread that writes the log.
    let log = node.log();
    assert_eq!(log.last().unwrap()["message"], "stopped");
    assert!(log.iter().any(|line| line["message"] == "stopping" && line["reason"] == "SIGTERM"));
}

#[test]
fn sigint_ends_it_with_clients_connected() {
    let mut node = Node::start("int", &[]);
    let idle = node.connect();
    assert_eq!(ask(&idle, "PING"), "+PONG");
    let mut half = node.connect();
    half.write_all(b"*2\r\n$4\r\nECHO\r\n$100\r\nhalf").unwrap();
    let mut busy = node.connect();
    assert_eq!(ask(&mut busy, "SET key value"), "+OK");
    node.signal(libc::SIGINT);
    assert_eq!(node.ended().code(), Some(0));
    for mut client in [idle, half, busy] {
        // Closed cleanly, or reset where the node had not read everything; never a reply that was not owed.
        match client.read(&mut [0; 16]) {
            Ok(bytes) => assert_eq!(bytes, 0),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn shutdown_ends_it() {
    let mut node = Node::start("shutdown", &[]);
    node.connect().write_all(b"SHUTDOWN NOSAVE\r\n").unwrap();
    assert_eq!(node.ended().code(), Some(0));
}

#[test]
fn a_port_in_use_is_told_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = refusal(&mut keyloom(&["--port", &port]));
    assert!(said.starts_with(&format!("cannot listen on 127.0.0.1:{port}: Address already in use")), "{said}");
}

#[test]
fn a_node_takes_the_place_of_one_that_was_killed() {
    let mut node = Node::start("killed-0", &[]);
    let port = node.port.to_string();
    for round in 1..=10 {
        // The kernel still has to take down what waits for these when the process is gone.
        let _clients: Vec<TcpStream> = (0..50).map(|_| node.connect()).collect();
        node.child.kill().unwrap();
        node.child.wait().unwrap();
        node = Node::start(&format!("killed-{round}"), &["--port", &port]);
        assert_eq!(ask(node.connect(), "PING"), "+PONG");
    }
}

#[test]
fn a_live_unix_socket_is_not_taken_away() {
    let node = Node::start("socket", &["--unixsocket", "node.sock"]);
    let path = node.folder.join("node.sock");
    let said = refusal(&mut keyloom(&["--port", "0", "--unixsocket", path.to_str().unwrap()]));
    assert!(said.starts_with("cannot listen on ") && said.contains("in use"), "{said}");
    assert_eq!(ask(UnixStream::connect(&path).unwrap(), "PING"), "+PONG");
}

#[test]
fn the_command_line_wins_over_the_file_and_its_include() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let name = |kind: &str| folder.join(format!("{kind}-{}.conf", std::process::id()));
    let (inner, outer) = (name("inner"), name("outer"));
    fs::write(&inner, "maxclients 50\ntimeout 7\n").unwrap();
    fs::write(&outer, format!("tcp-keepalive 60\ntimeout 5\ninclude {}\n", inner.display())).unwrap();
    let node = Node::start("precedence", &["--timeout", "9", "--config", outer.to_str().unwrap()]);
    fs::remove_file(&inner).unwrap();
    fs::remove_file(&outer).unwrap();
    assert_eq!(config_of(&node, "tcp-keepalive"), "60", "from the file");
    assert_eq!(config_of(&node, "maxclients"), "50", "from the include");
    assert_eq!(config_of(&node, "timeout"), "9", "from the command line");
}

#[test]
fn the_level_of_the_log_can_be_changed() {
    let mut node = Node::start("level", &[]);
    assert_eq!(ask(node.connect(), "CONFIG SET loglevel warning"), "+OK");
    node.signal(libc::SIGTERM);
    assert_eq!(node.ended().code(), Some(0));
    assert!(node.has_logged("ready to accept connections"), "logged before the change");
    assert!(!node.has_logged("stopping") && !node.has_logged("stopped"), "{:?}", node.log());
}

#[test]
fn too_few_open_files_lower_maxclients() {
    // More than any kernel allows, so that a privileged process cannot raise its limit to it either.
    let node = Node::start_with("files", &["--maxclients", "4294967295"], |command| {
        let limit = libc::rlimit { rlim_cur: 200, rlim_max: 300 };
        // SAFETY: between fork and exec only a system call is made, on a value that the closure owns.
        unsafe {
            command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
    });
    let clients: u64 = config_of(&node, "maxclients").parse().unwrap();
    assert!((100..300).contains(&clients), "{clients}");
    let warning = wait_for("warning", || {
        node.log().into_iter().find(|line| line["level"] == "WARN" && line["maxclients"] == clients)
    });
    assert_eq!((&warning["asked"], &warning["open_files"]), (&4294967295u32.into(), &300.into()));
}

/// Makes `io_uring_setup` fail with `errno`, as the default profiles of container runtimes do.
fn without_uring(command: &mut Command, errno: i32) {
    let statement = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The number of the system call is the first word of what a filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: system calls only; the filter is owned by the closure and the kernel copies it.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec `install` neither allocates nor takes a lock.
    unsafe { command.pre_exec(install) };
}

#[test]
fn a_container_that_forbids_io_uring_gets_a_sentence() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let mut command = keyloom(&["--port", "0"]);
        without_uring(&mut command, errno);
        let said = refusal(&mut command);
        let finding = "this machine cannot run a node: seccomp: a filter that refuses io_uring. ";
        assert!(said.starts_with(finding), "{said}");
        assert!(said.contains("--security-opt seccomp=unconfined"), "{said}");
    }
}

#[test]
fn the_doctor_of_such_a_container_fails_and_says_so() {
    let mut command = keyloom(&["doctor", "--json"]);
    without_uring(&mut command, libc::EPERM);
    let output = output(&mut command);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["verdict"], "fail");
    let verdict = |name: &str| json["checks"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap();
    assert_eq!(verdict("seccomp")["verdict"], "fail");
    assert_eq!(verdict("io_uring")["verdict"], "fail");
    assert_eq!(verdict("kernel")["verdict"], "ok");
}
