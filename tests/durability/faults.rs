//! What goes wrong with disks and files: no room, no answer, no permission, damage.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyloom::resp::read::{Value, encode_command};

use super::common::{Client, Server, ok, wait_until};
use super::node::{Data, said};

/// A small file system in a mount namespace of its own. It lives as long as the process that keeps the namespace.
struct SmallDisk {
    keeper: Child,
    /// Runs the node in there.
    script: PathBuf,
}

impl SmallDisk {
    /// Mounted over the directory of `data`; None, and why, if that is not possible here.
    fn over(data: &Data, bytes: usize) -> Result<SmallDisk, String> {
        let mount =
            format!("mount -t tmpfs -o size={bytes} tmpfs {} && echo mounted && exec sleep 600", data.path().display());
        let mut keeper = Command::new("unshare")
            .args(["-m", "sh", "-c", &mount])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut line = [0; 8];
        if keeper.stdout.as_mut().unwrap().read_exact(&mut line).is_err() {
            let mut why = String::new();
            keeper.stderr.as_mut().unwrap().read_to_string(&mut why).unwrap();
            keeper.wait().unwrap();
            return Err(why);
        }
        let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("enter-{}.sh", keeper.id()));
        let node = env!("CARGO_BIN_EXE_keyloom");
        let text = format!("#!/bin/sh\nexec nsenter -t {} -m -w/ {node} \"$@\"\n", keeper.id());
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        Ok(SmallDisk { keeper, script })
    }

    /// A path in there, for whoever is outside.
    fn path(&self, inside: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.keeper.id());
        Path::new(&root).join(inside.strip_prefix("/").unwrap())
    }

    fn start(&self, data: &Data, args: &[&str]) -> Server {
        let dir = data.path().to_str().unwrap();
        let mine = ["--dir", dir, "--appendonly", "yes", "--cpus", "0-1", "--wal-segment-size", "1mb"];
        Server::keyloom_by(&self.script, &[&mine, args].concat())
    }

    /// Runs a program in there; what it said, and whether it succeeded.
    fn run(&self, args: &[&str]) -> (bool, String) {
        let keeper = self.keeper.id().to_string();
        let output = Command::new("nsenter").args(["-t", &keeper, "-m"]).args(args).output().unwrap();
        (output.status.success(), said(&output))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        let _ = std::fs::remove_file(&self.script);
    }
}

/// A small disk, or a line that says why the test is not run.
fn small_disk(data: &Data, bytes: usize) -> Option<SmallDisk> {
    match SmallDisk::over(data, bytes) {
        Ok(disk) => Some(disk),
        Err(why) => {
            println!("SKIPPED: a file system cannot be mounted here: {}", why.trim());
            None
        }
    }
}

/// A client that is answered when its writes are on disk.
fn durable_client(server: &Server) -> Client {
    let mut client = server.client();
    assert_eq!(client.call(&["CLIENT", "DURABILITY", "disk"]), ok());
    client
}

fn is_misconf(reply: &Value) -> bool {
    matches!(reply, Value::Error(text) if text.starts_with(b"MISCONF"))
}

/// Writes until the node refuses; how many writes it took.
fn fill(client: &mut Client, value: &str) -> usize {
    (0..10_000)
        .find(|n| {
            let reply = client.call(&["SET", &format!("fill{}", n % 50), value]);
            assert!(reply == ok() || is_misconf(&reply), "{reply:?}");
            reply != ok()
        })
        .expect("the disk is small")
}

#[test]
fn a_full_disk_stops_writes_and_loses_nothing() {
    let data = Data::new("full");
    let Some(disk) = small_disk(&data, 6 << 20) else { return };
    let filler = disk.path(&data.path().join("filler"));
    std::fs::write(&filler, vec![1; 3 << 20]).unwrap();
    let mut server = disk.start(&data, &[]);
    let mut durable = durable_client(&server);
    let mut client = server.client();
    let value = "v".repeat(40_000);
    let mut acknowledged = Vec::new();
    for n in 0..20 {
        let key = format!("durable{n}");
        assert_eq!(durable.call(&["SET", &key, &n.to_string()]), ok());
        acknowledged.push((key, n.to_string()));
    }
    assert!(fill(&mut client, &value) > 10);
    // Reads go on, and whoever wants to write is told why not.
    assert_eq!(client.call(&["GET", "durable3"]), Value::Bulk(b"3".to_vec()));
    assert!(is_misconf(&client.call(&["RPUSH", "list", "x"])));
    assert_eq!(client.call(&["EXISTS", "list"]), Value::Int(0));
    assert!(is_misconf(&client.call(&["MSET", "a", "1", "b", "2", "c", "3"])));
    assert_eq!(client.call(&["MULTI"]), ok());
    assert!(is_misconf(&client.call(&["SET", "a", "1"])));
    assert!(matches!(client.call(&["EXEC"]), Value::Error(_)));
    // One that waits for the disk is refused as well, behind replies that wait.
    assert!(is_misconf(&durable.call(&["SET", "durable3", "x"])));
    assert_eq!(durable.call(&["GET", "durable3"]), Value::Bulk(b"3".to_vec()));
    std::fs::remove_file(&filler).unwrap();
    // It goes on by itself.
    wait_until("the node writes again", || client.call(&["SET", "again", "1"]) == ok());
    for n in 20..40 {
        let (key, text) = (format!("durable{n}"), n.to_string());
        assert_eq!(durable.call(&["SET", &key, &text]), ok());
        acknowledged.push((key, text));
    }
    server.kill();
    check_all(&disk.start(&data, &[]), &acknowledged);
    let log = data.log();
    let (intact, text) = disk.run(&[env!("CARGO_BIN_EXE_keyloom"), "check", log.to_str().unwrap()]);
    assert!(intact, "{text}");
    let (dumped, text) = disk.run(&[env!("CARGO_BIN_EXE_keyloom"), "dump", log.to_str().unwrap()]);
    assert!(dumped && text.contains("durable39"));
}

#[track_caller]
fn check_all(server: &Server, acknowledged: &[(String, String)]) {
    let mut client = server.client();
    for (key, text) in acknowledged {
        assert_eq!(client.call(&["GET", key]), Value::Bulk(text.clone().into_bytes()), "{key}");
    }
}

#[test]
fn a_node_that_dies_with_its_disk_full_starts_again() {
    let data = Data::new("fullkill");
    let Some(disk) = small_disk(&data, 4 << 20) else { return };
    let mut server = disk.start(&data, &[]);
    let mut durable = durable_client(&server);
    let acknowledged: Vec<_> = (0..50).map(|n| (format!("durable{n}"), n.to_string())).collect();
    for (key, text) in &acknowledged {
        assert_eq!(durable.call(&["SET", key, text]), ok());
    }
    fill(&mut server.client(), &"v".repeat(40_000));
    server.kill();
    let server = disk.start(&data, &[]);
    check_all(&server, &acknowledged);
    // No snapshot can be made either, and that is said.
    let mut client = server.client();
    assert!(matches!(client.call(&["SAVE"]), Value::Error(_)));
    check_all(&server, &acknowledged);
}

#[test]
fn a_directory_that_cannot_be_written_or_is_in_use_is_refused() {
    let data = Data::new("refused");
    let Some(disk) = small_disk(&data, 4 << 20) else { return };
    let mut server = disk.start(&data, &[]);
    assert_eq!(durable_client(&server).call(&["SET", "a", "1"]), ok());
    let port = super::common::free_port().to_string();
    let dir = data.path().to_str().unwrap();
    let program = disk.script.to_str().unwrap();
    let start = || {
        let args = ["--dir", dir, "--appendonly", "yes", "--cpus", "0", "--port", &port];
        let output = Command::new(program).args(args).output().unwrap();
        (output.status.code(), said(&output))
    };
    let (code, text) = start();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("appendonlydir") && text.contains("in use"), "{text}");
    server.kill();
    assert!(disk.run(&["mount", "-o", "remount,ro", dir]).0);
    let (code, text) = start();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("appendonlydir"), "{text}");
    assert!(disk.run(&["mount", "-o", "remount,rw", dir]).0);
    let server = disk.start(&data, &[]);
    assert_eq!(server.client().call(&["GET", "a"]), Value::Bulk(b"1".to_vec()));
}

/// A disk that does not answer: the first segment of the log is a pipe, whose opening waits for a reader.
struct Stalled {
    pipe: PathBuf,
}

impl Stalled {
    fn disk_of(data: &Data) -> Stalled {
        let pipe = data.log().join(format!("log-{:020}.kl.tmp", 1));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        Stalled { pipe }
    }

    /// What waits fails, and the next attempt is made on a file.
    fn release(self) {
        drop(File::open(self.pipe).unwrap());
    }
}

/// Bytes of memory that a process has.
fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_disk_that_does_not_answer_holds_up_writes_and_not_memory() {
    const VALUE_BYTES: usize = 100_000;
    const OFFERED_BYTES: usize = 700 << 20;
    const RESIDENT_BYTES_MAX: u64 = 350 << 20;
    let data = Data::new("stalled");
    let mut server = data.start("0-1", &[]);
    let disk = Stalled::disk_of(&data);
    let mut durable = durable_client(&server);
    durable.send(&["SET", "durable", "1"]);
    let value = "v".repeat(VALUE_BYTES);
    // Two clients, of both cores, which write a few keys over and over again and never read.
    let writers: Vec<_> = (0..2)
        .map(|n| {
            let (mut client, value) = (server.client(), value.clone());
            client.stream().set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            std::thread::spawn(move || {
                let mut taken = 0;
                while taken < OFFERED_BYTES / 2 {
                    let mut bytes = Vec::new();
                    encode_command(&["SET", &format!("big{n}{}", taken / VALUE_BYTES % 9), &value], &mut bytes);
                    if client.stream().write_all(&bytes).is_err() {
                        break;
                    }
                    taken += VALUE_BYTES;
                }
                taken
            })
        })
        .collect();
    let taken: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    assert!(taken < OFFERED_BYTES, "every write was taken");
    let resident = resident_bytes(server.pid());
    println!("{} MiB taken, {} MiB resident", taken >> 20, resident >> 20);
    assert!(resident < RESIDENT_BYTES_MAX, "{resident} bytes are resident after {taken} were taken");
    // Reads go on, of both cores' keys.
    let mut client = server.client();
    for key in ["a", "b", "c", "d"] {
        assert_eq!(client.call(&["GET", key]), Value::Null);
    }
    // Nobody is told of a write that is not on disk.
    durable.set_timeout(Duration::from_millis(50));
    assert_eq!(durable.try_read_raw(), None);
    let mut waiting = server.client();
    waiting.send(&["SET", "waiting", "1"]);
    waiting.set_timeout(Duration::from_millis(50));
    assert_eq!(waiting.try_read_raw(), None, "no write begins");
    disk.release();
    let patience = Duration::from_secs(20);
    durable.set_timeout(patience);
    assert_eq!(durable.read(), ok());
    waiting.set_timeout(patience);
    let reply = waiting.read();
    assert!(reply == ok() || is_misconf(&reply), "{reply:?}");
    wait_until("the node writes again", || waiting.call(&["SET", "waiting", "1"]) == ok());
    assert_eq!(durable.call(&["SET", "after", "1"]), ok());
    server.kill();
    let server = data.start("0", &[]);
    check_all(&server, &[("durable".into(), "1".into()), ("after".into(), "1".into())]);
}

/// Some keys in segments, a snapshot, and more segments.
fn filled(name: &str) -> Data {
    let data = Data::new(name);
    let mut server = data.start("0-1", &["--wal-segment-size", "1mb"]);
    let mut client = durable_client(&server);
    let value = "v".repeat(50_000);
    for n in 0..60 {
        assert_eq!(client.call(&["SET", &format!("k{}", n % 20), &value]), ok());
    }
    server.kill();
    data
}

/// Changes one byte of a file.
fn damage(path: &Path, at: u64) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
}

/// The node does not start and says which file it is, and so does `keyloom check`.
#[track_caller]
fn is_refused(data: &Data, path: &Path) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let output = data.start_in_vain(&[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(name) && said(&output).contains("byte"), "{}", said(&output));
    let output = data.tool("check");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(name) && said(&output).contains("byte"), "{}", said(&output));
}

#[test]
fn a_damaged_log_is_refused() {
    let data = filled("damaged");
    let segments = data.files("log-");
    assert!(segments.len() > 2);
    // In a segment that others follow, and in the last one before other frames.
    for segment in [&segments[0], segments.last().unwrap()] {
        let middle = std::fs::metadata(segment).unwrap().len() / 2;
        damage(segment, middle);
        is_refused(&data, segment);
        damage(segment, middle);
    }
    data.is_intact();
    let server = data.start("0", &[]);
    assert_eq!(server.client().call(&["DBSIZE"]), Value::Int(20));
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let data = filled("snapshot");
    let mut server = data.start("0-1", &[]);
    assert_eq!(server.client().call(&["SAVE"]), ok());
    server.kill();
    let snapshots = data.files("snapshot-");
    let snapshot = snapshots.last().unwrap();
    let bytes = std::fs::metadata(snapshot).unwrap().len();
    for at in [20, bytes / 2, bytes - 30] {
        damage(snapshot, at);
        is_refused(&data, snapshot);
        damage(snapshot, at);
    }
    data.is_intact();
    let server = data.start("0", &[]);
    assert_eq!(server.client().call(&["DBSIZE"]), Value::Int(20));
}

#[test]
fn a_torn_end_is_cut_off() {
    let data = filled("torn");
    let last = data.files("log-").pop().unwrap();
    let bytes = std::fs::metadata(&last).unwrap().len();
    OpenOptions::new().write(true).open(&last).unwrap().set_len(bytes - 10).unwrap();
    data.is_intact();
    let mut server = data.start("0-1", &[]);
    assert!(server.log().contains("is cut off") && server.log().contains(last.to_str().unwrap()), "{}", server.log());
    let mut client = durable_client(&server);
    assert_eq!(client.call(&["DBSIZE"]), Value::Int(20));
    assert_eq!(client.call(&["SET", "after", "1"]), ok());
    server.kill();
    let server = data.start("0", &[]);
    assert!(!server.log().contains("is cut off"));
    assert_eq!(server.client().call(&["DBSIZE"]), Value::Int(21));
}
