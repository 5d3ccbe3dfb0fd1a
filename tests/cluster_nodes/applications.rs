//! Applications with the client libraries that people use go on while a primary is killed and comes back: no error reaches
//! them that the library does not deal with itself, and nothing is lost of what they were told is written.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::nodes::Cluster;

/// Where `scripts/install-peers.sh` puts the clients.
fn clients() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients")
}

/// Runs a script against a cluster, one primary of which dies meanwhile and comes back.
fn goes_on(interpreter: &str, script: &str) {
    let mut cluster = Cluster::local(3, &["--cluster-copies", "3", "--write-durability", "quorum"]);
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
    // Not the one through which it has found the cluster.
    cluster.kill(1);
    cluster.restart(1);
    cluster.wait_healthy();
    drop(child.stdin.take());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success() && rest.starts_with("passed"), "{script}: {rest}");
    println!("{script}: {rest}");
}

#[test]
fn redis_py_goes_on() {
    goes_on("python3", "redis_py_failover.py");
}

#[test]
fn ioredis_goes_on() {
    goes_on("node", "ioredis_failover.mjs");
}
