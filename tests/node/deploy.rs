//! The files of `deploy/` are what they say: configurations are accepted, what runs a node runs one, and what shows metrics
//! shows those that there are.
//!
//! Where another program is the judge (`systemd-analyze`, `shellcheck`), a machine without it skips that part, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use keyloom::config::{Config, table};
use serde_json::Value;

use crate::common::{Server, free_port};

/// Bound on what a node says and does.
const PATIENCE: Duration = Duration::from_secs(20);

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

fn path(name: &str) -> String {
    file(name).to_str().expect("a UTF-8 path").into()
}

fn load(args: &[&str]) -> Config {
    let args: Vec<_> = args.iter().map(Into::into).collect();
    Config::load(&args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// What a program says; None, and a line that says so, if it is not there.
fn judge(program: &str, args: &[&str]) -> Option<Output> {
    let said = Command::new(program).args(args).stdin(Stdio::null()).output();
    if said.is_err() {
        println!("skipped: there is no {program}");
    }
    said.ok()
}

/// A directory of this test program that is removed with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("deploy-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn sample_configuration_shows_the_defaults() {
    let sample = load(&["--config", &path("keyloom.conf")]);
    let defaults = load(&[]);
    for directive in table::DIRECTIVES {
        assert_eq!(directive.get(&sample), directive.get(&defaults), "{}", directive.name);
    }
}

/// Uncommenting an example must give something that is accepted, too.
#[test]
fn commented_directives_of_the_sample_are_accepted() {
    let text = read("keyloom.conf");
    let examples: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|words| words.len() == 2 && table::find(words[0].as_bytes()).is_some())
        .collect();
    let names: Vec<&str> = examples.iter().map(|words| words[0]).collect();
    assert_eq!(names, ["unixsocket", "unixsocketperm", "requirepass", "dir"]);
    for words in examples {
        let config = load(&["--config", &path("keyloom.conf"), &format!("--{}", words[0]), words[1]]);
        assert_eq!(config.get(words[0].as_bytes()).as_deref(), Some(words[1]));
    }
}

const NODES: [&str; 3] = ["cluster/node-1.conf", "cluster/node-2.conf", "cluster/node-3.conf"];

#[test]
fn nodes_of_the_sample_cluster_differ_where_they_must() {
    let configs = NODES.map(|name| load(&["--config", &path(name)]));
    for directive in table::DIRECTIVES {
        let values: BTreeSet<_> = configs.iter().map(|config| directive.get(config)).collect();
        let own = ["port", "dir", "admin-port"].contains(&directive.name);
        assert_eq!(values.len(), if own { 3 } else { 1 }, "{}: {values:?}", directive.name);
    }
    assert!(configs.iter().all(|config| config.cluster_enabled && config.appendonly && config.admin_port > 0));
}

/// Three processes with these files, at ports that nobody has.
#[test]
fn the_sample_cluster_is_one() {
    let start = |name: &&str| {
        let (bus, admin) = (free_port().to_string(), free_port().to_string());
        Server::keyloom(&["--config", &path(name), "--cluster-port", &bus, "--admin-port", &admin])
    };
    let nodes: Vec<Server> = NODES.iter().map(start).collect();
    let addresses: Vec<String> = nodes.iter().map(|node| node.addr().to_string()).collect();
    let keyloom = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_keyloom")).args(args).args(&addresses).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(keyloom(&["cluster", "create"]), "a cluster of 3 nodes\n");
    for address in &addresses {
        let output = Command::new(env!("CARGO_BIN_EXE_keyloom")).args(["cluster", "status", address]).output().unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.starts_with("1024 partitions, 1024 served, "), "{table}");
        assert!(addresses.iter().all(|address| table.contains(address)), "{table}");
    }
}

/// The values of a key in a unit file.
fn directive<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_service_is_what_systemd_takes() {
    let unit = read("keyloom.service");
    assert_eq!((directive(&unit, "Type"), directive(&unit, "LimitMEMLOCK")), (vec!["notify"], vec!["infinity"]));
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(directive(&unit, "SystemCallFilter")[0].split(' ').any(|word| word == call), "{call}");
    }
    let stop_s: u64 = directive(&unit, "TimeoutStopSec")[0].parse().unwrap();
    assert!(stop_s > load(&[]).shutdown_timeout_s + 10, "the end of a node may take that long");
    // It wants a program that is there.
    let scratch = Scratch::new("unit");
    let copy = scratch.0.join("keyloom.service");
    std::fs::write(&copy, unit.replace("/usr/local/bin/keyloom", env!("CARGO_BIN_EXE_keyloom"))).unwrap();
    let Some(said) = judge("systemd-analyze", &["verify", "--man=no", copy.to_str().unwrap()]) else { return };
    let text = String::from_utf8_lossy(&said.stderr);
    // What else is installed on this machine is not ours.
    assert!(said.status.success() && !text.contains("keyloom.service"), "{text}");
}

/// What the service's type asks of a node.
#[test]
fn a_node_tells_the_service_manager_that_it_serves_and_that_it_ends() {
    let scratch = Scratch::new("notify");
    let socket = scratch.0.join("socket");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes).expect("the node says something");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let prefix = vec!["env".to_string(), format!("NOTIFY_SOCKET={}", socket.display())];
    let mut node = Server::keyloom_at(Ipv4Addr::LOCALHOST, prefix, &["--cpus", "0"]);
    assert_eq!(told(), "READY=1\n");
    node.signal("TERM");
    assert_eq!(told(), "STOPPING=1\n");
    assert_eq!(node.wait_for_exit(PATIENCE), Some(0));
}

#[test]
fn the_seccomp_profile_allows_io_uring_to_all_and_refuses_what_it_does_not_name() {
    let profile: Value = serde_json::from_str(&read("seccomp.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().unwrap();
    let without_conditions = |rule: &&Value| {
        rule["action"] == "SCMP_ACT_ALLOW"
            && ["args", "includes", "excludes"].iter().all(|of| rule.get(of).is_none_or(empty))
    };
    let allowed: BTreeSet<&str> = rules
        .iter()
        .filter(without_conditions)
        .flat_map(|rule| rule["names"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .collect();
    for call in
        ["io_uring_setup", "io_uring_enter", "io_uring_register", "sched_setattr", "sched_setaffinity", "eventfd2"]
    {
        assert!(allowed.contains(call), "{call}");
    }
    for call in ["bpf", "kexec_load", "init_module", "userfaultfd"] {
        assert!(!allowed.contains(call), "{call}");
    }
}

fn empty(value: &Value) -> bool {
    value.as_array().is_none_or(Vec::is_empty) && value.as_object().is_none_or(|object| object.is_empty())
}

/// Building an image takes a network; what it copies can be looked at.
#[test]
fn the_image_is_built_from_what_is_there() {
    let text = read("Containerfile");
    let copied = text.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from"));
    let mut sources = Vec::new();
    for line in copied {
        let words: Vec<&str> = line.split(' ').collect();
        sources.extend_from_slice(&words[..words.len() - 1]);
    }
    assert!(["Cargo.toml", "Cargo.lock", "src"].iter().all(|needed| sources.contains(needed)), "{sources:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(sources.iter().all(|source| root.join(source).exists()), "{sources:?}");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let version =
        manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"")).unwrap().trim_end_matches('"');
    assert!(text.contains(&format!("/rust:{version}-")), "the image's compiler is not {version}");
}

/// The text at a path of an admin endpoint.
fn page(admin: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", admin)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.split_once("\r\n\r\n").expect("a head").1.to_string()
}

/// Names and kinds of all metrics of a member of a cluster.
fn metrics() -> BTreeMap<String, String> {
    let admin = free_port();
    let (port, bus) = (admin.to_string(), free_port().to_string());
    let node =
        Server::keyloom(&["--admin-port", &port, "--cluster-enabled", "yes", "--cluster-port", &bus, "--cpus", "0"]);
    let mut create = Command::new(env!("CARGO_BIN_EXE_keyloom"));
    assert!(create.args(["cluster", "create", &node.addr().to_string()]).status().unwrap().success());
    let text = page(admin, "/metrics");
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    kinds.map(|(name, kind)| (name.to_string(), kind.to_string())).collect()
}

/// All values of a key, at any depth.
fn find<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(key));
            fields.values().for_each(|value| find(value, key, found));
        }
        Value::Array(values) => values.iter().for_each(|value| find(value, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let board: Value = serde_json::from_str(&read("grafana-dashboard.json")).unwrap();
    let kinds = metrics();
    let (mut expressions, mut queries) = (Vec::new(), Vec::new());
    find(&board, "expr", &mut expressions);
    find(&board["templating"], "query", &mut queries);
    assert!(expressions.len() > 30, "{} expressions", expressions.len());
    let texts = expressions.iter().chain(&queries).filter_map(|value| value.as_str());
    let mut named = BTreeSet::new();
    for text in texts {
        for (at, _) in text.match_indices("keyloom_") {
            let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
            let name = text[at..].split(end).next().unwrap();
            let bucket =
                name.strip_suffix("_bucket").filter(|name| kinds.get(*name).is_some_and(|kind| kind == "histogram"));
            let kind = kinds.get(bucket.unwrap_or(name)).unwrap_or_else(|| panic!("no {name} in /metrics: {text}"));
            // What only grows says something by how fast it does; of what goes up and down that is nonsense.
            let by_time = ["rate(", "increase("].iter().any(|function| text[..at].ends_with(function));
            assert_eq!(by_time, kind != "gauge", "{name} is a {kind}: {text}");
            named.insert(name);
        }
    }
    assert!(named.len() > 30, "{named:?}");
    let panels = board["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has a number of its own");
}

fn tune(root: Option<&Path>, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("bash");
    command.arg(file("tune.sh")).args(args);
    if let Some(root) = root {
        command.env("KEYLOOM_TUNE_ROOT", root);
    }
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

/// A machine that is not as it should be, of 34 CPUs and a card of two queues and one of one.
const MACHINE: [(&str, &str); 13] = [
    ("proc/sys/net/core/somaxconn", "128"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "8192"),
    ("proc/sys/vm/overcommit_memory", "0"),
    ("proc/sys/vm/swappiness", "60"),
    ("proc/sys/kernel/io_uring_disabled", "2"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never"),
    ("sys/devices/system/cpu/online", "0-32,35"),
    ("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave"),
    ("sys/class/net/eth0/device/msi_irqs/9", ""),
    ("sys/class/net/eth0/device/msi_irqs/10", ""),
    ("proc/irq/9/smp_affinity_list", "0-32"),
    ("proc/irq/10/smp_affinity_list", "0-32"),
    ("sys/class/net/eth1/device/vendor", ""),
];

fn machine(root: &Path) -> BTreeMap<PathBuf, String> {
    let more =
        [("sys/class/net/eth1/queues/rx-0/rps_cpus", "0,00000000"), ("sys/class/net/lo/queues/rx-0/rps_cpus", "0")];
    for (name, value) in MACHINE.iter().chain(&more) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{value}\n")).unwrap();
    }
    files(root)
}

/// All files of a directory, with what is in them.
fn files(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read_to_string(&path).unwrap());
        }
    }
    found
}

#[test]
fn advice_changes_nothing_unless_it_is_to_be_applied() {
    let scratch = Scratch::new("machine");
    let root = &scratch.0;
    let before = machine(root);
    let (code, said) = tune(Some(root), &[]);
    assert_eq!((code, files(root)), (Some(0), before), "{said}");
    for words in [
        "do  net.core.somaxconn: 128 -> 4096\n",
        "ok  net.ipv4.tcp_max_syn_backlog is 8192\n",
        "do  vm.swappiness: 60 -> 1\n    Keys in swap would cost milliseconds each.\n",
        "do  kernel.io_uring_disabled: 2 -> 0\n",
        "do  transparent huge pages: always -> madvise\n",
        "do  governor of cpu3: powersave -> performance\n",
        "do  CPU of interrupt 9 (eth0): 0-32 -> 0\n",
        "do  CPU of interrupt 10 (eth0): 0-32 -> 1\n",
        "do  packets of eth1, of one queue: 0,00000000 -> 00000009,ffffffff\n",
        "9 to do: as root, ",
    ] {
        assert!(said.contains(words), "no '{words}' in {said}");
    }
    assert!(!said.contains("of lo,"), "{said}");
    let (code, applied) = tune(Some(root), &["--apply"]);
    assert_eq!(code, Some(0), "{applied}");
    assert_eq!(std::fs::read_to_string(root.join("proc/irq/10/smp_affinity_list")).unwrap(), "1\n");
    let after = files(root);
    let (code, again) = tune(Some(root), &["--apply"]);
    assert!(code == Some(0) && again.ends_with("nothing is to be done\n"), "{again}");
    assert_eq!(files(root), after);
    assert_eq!(tune(Some(root), &["--aply"]).0, Some(2));
}

/// What is asked of this machine is a question.
#[test]
fn advice_for_this_machine_is_given() {
    let settings = || {
        ["vm/swappiness", "vm/overcommit_memory"].map(|name| std::fs::read_to_string(format!("/proc/sys/{name}")).ok())
    };
    let before = settings();
    let (code, said) = tune(None, &[]);
    assert_eq!((code, settings()), (Some(0), before), "{said}");
    assert!(said.contains("vm.overcommit_memory"), "{said}");
}

#[test]
fn scripts_are_clean() {
    let mode = std::fs::metadata(file("tune.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "it can be run as it is");
    let Some(said) = judge("shellcheck", &[&path("tune.sh")]) else { return };
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
}
