//! Nodes of one cluster, each a process of its own, and what can befall them. Each fault is proven to have happened.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use keyloom::resp::read::Value;
use keyloom::route::{SLOTS, slot_of};

use crate::common::{Client, Server, free_port, two_free_ports, wait_until};
use crate::lan::{Direction, Lan};
use crate::served::{self, Found};

/// Until everything is served and in sync again after whatever has happened.
pub const HEALTHY_MAX: Duration = Duration::from_secs(60);
/// How long a node may lead without being told by the leader of raft that it does.
pub const LEASE: Duration = Duration::from_millis(300);
/// How long a node is asked for, before another one is.
const ASK_MAX: Duration = Duration::from_secs(2);

/// An argument that stands for a port of each node's own.
pub const OWN_ADMIN_PORT: &str = "{admin}";

/// Arguments that give each core a port of its own.
pub const CORE_ENDPOINTS: [&str; 4] = ["--core-endpoints", "yes", "--core-port", OWN_CORE_PORT];
const OWN_CORE_PORT: &str = "{cores}";

/// Arguments of a node that speaks to others as the version before did.
pub const OLDER: [&str; 2] = ["--cluster-version", "2"];

/// Clusters run one after the other: the numbers of these tests are for a machine that has nothing else to do.
static ALONE: Mutex<()> = Mutex::new(());

pub struct Cluster {
    pub nodes: Vec<Server>,
    /// The ports at which they listen for others, and those of their admin endpoints, if they have any.
    pub buses: Vec<u16>,
    pub admins: Vec<u16>,
    /// Those of their first cores.
    core_ports: Vec<u16>,
    args: Vec<String>,
    /// What nodes run that start for the first time.
    program: String,
    pub lan: Option<Lan>,
    cut: Vec<bool>,
    /// Where nodes write what they have served.
    served: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

/// What a node says of its cluster; nodes are called by their place in [`Cluster::nodes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub raft_leader: Option<usize>,
    pub partitions: u64,
    pub served: u64,
    pub few_in_sync: u64,
    pub copies: u64,
    /// By node: partitions that it leads, those of which it has a copy, and those of which it has one in sync.
    pub nodes: BTreeMap<usize, [u64; 3]>,
    pub alive: usize,
}

/// Each node has the data cores of one of these: copies go between different numbers of them.
const CPUS: [&str; 3] = ["0,1", "0", "1"];
const CORES_MAX: u16 = 2;

impl Cluster {
    /// So many nodes on this machine, in one cluster that serves.
    pub fn local(count: usize, args: &[&str]) -> Cluster {
        Cluster::start(count, args, None)
    }

    /// As [`Cluster::local`], each in a network of its own; None, and a line that says why, if there can be none.
    pub fn apart(count: usize, args: &[&str]) -> Option<Cluster> {
        Some(Cluster::start(count, args, Some(lan(count)?)))
    }

    /// A node that is in no cluster of several nodes, and serves all slots.
    pub fn alone(args: &[&str]) -> Cluster {
        Cluster::run(1, args, None)
    }

    /// Nodes in networks of their own that are in no cluster.
    pub fn strangers(count: usize) -> Option<Cluster> {
        Some(Cluster::run(count, &[], Some(lan(count)?)))
    }

    /// As [`Cluster::local`], with arguments that those who are restarted have no more.
    pub fn local_with(count: usize, args: &[&str], first: &[&str]) -> Cluster {
        let mut cluster = Cluster::run(0, args, None);
        (0..count).for_each(|_| cluster.run_one_more(first));
        cluster.create();
        cluster
    }

    /// So many nodes of this build of the program on this machine, in one cluster that serves. Who is restarted or comes
    /// later is of the build under test.
    pub fn of_build(program: &str, count: usize, args: &[&str]) -> Cluster {
        let mut cluster = Cluster::run_by(program, count, args, None);
        cluster.program = env!("CARGO_BIN_EXE_keyloom").into();
        cluster.create();
        cluster
    }

    /// So many nodes on this machine that are in no cluster yet.
    pub fn not_yet(count: usize, args: &[&str]) -> Cluster {
        Cluster::run(count, args, None)
    }

    fn run(count: usize, args: &[&str], lan: Option<Lan>) -> Cluster {
        Cluster::run_by(env!("CARGO_BIN_EXE_keyloom"), count, args, lan)
    }

    fn run_by(program: &str, count: usize, args: &[&str], lan: Option<Lan>) -> Cluster {
        let alone = ALONE.lock().unwrap_or_else(|broken| broken.into_inner());
        let args = args.iter().map(|word| word.to_string()).collect();
        let served = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("served-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&served);
        std::fs::create_dir_all(&served).unwrap();
        let program = program.into();
        let (nodes, buses, admins, core_ports, cut) = Default::default();
        let mut cluster = Cluster { nodes, buses, admins, core_ports, args, program, lan, cut, served, _alone: alone };
        (0..count).for_each(|_| cluster.run_one_more(&[]));
        cluster
    }

    /// One more node, in no cluster yet.
    pub fn run_one_more(&mut self, more: &[&str]) {
        let node = self.nodes.len();
        self.buses.push(free_port());
        self.admins.push(free_port());
        self.core_ports.push(two_free_ports());
        self.cut.push(false);
        let args = self.args_of(node, more);
        let (host, prefix) = match &self.lan {
            Some(lan) => (lan.host(node), lan.prefix(node)),
            None => (Ipv4Addr::LOCALHOST, Vec::new()),
        };
        let served = format!("KEYLOOM_SERVED_LOG={}", self.served.display());
        let prefix = [prefix, vec!["env".into(), served]].concat();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.nodes.push(Server::keyloom_at_by(&self.program, host, prefix, &args));
    }

    /// One node more, with more arguments, joins the cluster.
    pub fn join(&mut self, more: &[&str]) -> usize {
        assert!(self.lan.is_none(), "its network has a place for each of its nodes");
        self.run_one_more(more);
        let [first, .., new] = &self.addresses()[..] else { panic!("there is no other node") };
        self.operate(&["join", &new.to_string(), &first.to_string()]);
        self.nodes.len() - 1
    }

    /// A node has left, and its process has ended by itself. The numbers of those behind it are lower by one from now on.
    pub fn left(&mut self, node: usize) {
        assert_eq!(self.nodes[node].wait_for_exit(HEALTHY_MAX), Some(0), "{}", self.nodes[node].log());
        self.forget(node);
    }

    /// A node is none of the cluster any more. The numbers of those behind it are lower by one from now on.
    pub fn forget(&mut self, node: usize) -> Server {
        self.buses.remove(node);
        self.admins.remove(node);
        self.core_ports.remove(node);
        self.cut.remove(node);
        self.nodes.remove(node)
    }

    /// `keyloom cluster`, which has to do it; what it says.
    #[track_caller]
    pub fn operate(&self, args: &[&str]) -> String {
        self.tries_to_operate(args).unwrap_or_else(|said| panic!("{args:?}: {said}"))
    }

    /// Likewise; the error is what it complains of.
    pub fn tries_to_operate(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_keyloom")).arg("cluster").args(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn create(&self) {
        let addresses: Vec<String> = self.addresses().iter().map(SocketAddr::to_string).collect();
        self.operate(&[&["create"], &addresses.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
        self.wait_healthy();
    }

    fn start(count: usize, args: &[&str], lan: Option<Lan>) -> Cluster {
        let cluster = Cluster::run(count, args, lan);
        cluster.create();
        cluster
    }

    /// The arguments with which a node is started.
    pub fn args_of(&self, node: usize, more: &[&str]) -> Vec<String> {
        let (bus, cpus) = (self.buses[node].to_string(), CPUS[node % CPUS.len()]);
        let own = [
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus,
            "--protected-mode",
            "no",
            "--save",
            "",
            "--cpus",
            cpus,
        ];
        own.iter()
            .map(|word| word.to_string())
            .chain(self.args.clone())
            .chain(more.iter().map(|word| word.to_string()))
            .map(|word| match &word[..] {
                OWN_ADMIN_PORT => self.admins[node].to_string(),
                OWN_CORE_PORT => self.core_ports[node].to_string(),
                _ => word,
            })
            .collect()
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Server::addr).collect()
    }

    /// The node at an address: its own, or that of one of its cores.
    pub fn at(&self, address: SocketAddr) -> Option<usize> {
        let is_core = |(node, &first): (&Server, &u16)| {
            node.addr().ip() == address.ip() && (first..first + CORES_MAX).contains(&address.port())
        };
        let node = self.nodes.iter().position(|node| node.addr() == address);
        node.or_else(|| self.nodes.iter().zip(&self.core_ports).position(is_core))
    }

    /// What a node is asked, and says within [`ASK_MAX`].
    pub fn ask(&self, node: usize, command: &[&str]) -> Option<Value> {
        Client::try_connect_within(self.nodes[node].addr(), ASK_MAX)?.try_call(command)
    }

    /// What a node says of the cluster; None if it says nothing.
    pub fn status_of(&self, node: usize) -> Option<Status> {
        let Value::Bulk(text) = self.ask(node, &["CLUSTER", "STATUS"])? else { return None };
        let status: serde_json::Value = serde_json::from_slice(&text).ok()?;
        let number = |value: &serde_json::Value, name: &str| {
            value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"))
        };
        let (mut nodes, mut raft_leader, mut alive) = (BTreeMap::new(), None, 0);
        for node in status["nodes"].as_array()? {
            let host: Ipv4Addr = node["host"].as_str()?.parse().ok()?;
            let Some(at) = self.at((host, number(node, "port") as u16).into()) else { continue };
            nodes.insert(at, ["leads", "holds", "in_sync"].map(|name| number(node, name)));
            alive += (node["state"] == "alive") as usize;
            if status["raft_leader"] == node["node"] {
                raft_leader = Some(at);
            }
        }
        let [partitions, served, few_in_sync, copies] =
            ["partitions", "served", "few_in_sync", "copies"].map(|name| number(&status, name));
        Some(Status { raft_leader, partitions, served, few_in_sync, copies, nodes, alive })
    }

    /// Who leads raft, as a majority of the nodes say.
    pub fn raft_leader(&self) -> Option<usize> {
        let said: Vec<usize> = (0..self.nodes.len()).filter_map(|node| self.status_of(node)?.raft_leader).collect();
        said.iter().copied().find(|leader| 2 * said.iter().filter(|other| *other == leader).count() > self.nodes.len())
    }

    /// Who leads each slot, as a node says.
    pub fn slots_of(&self, node: usize) -> Option<Vec<Option<usize>>> {
        let ranges = slots(self.ask(node, &["CLUSTER", "SLOTS"])?)?;
        let mut leaders = vec![None; SLOTS as usize];
        for (first, last, address) in ranges {
            leaders[first as usize..=last as usize].fill(self.at(address));
        }
        Some(leaders)
    }

    /// A key that a node leads, by its name's first part.
    #[track_caller]
    pub fn key_led_by(&self, node: usize, name: &str) -> String {
        self.find_key_led_by(node, name).unwrap_or_else(|| panic!("node {node} leads nothing"))
    }

    /// The same, None if the node leads nothing: as one that was killed, and whose part others lead since.
    pub fn find_key_led_by(&self, node: usize, name: &str) -> Option<String> {
        let leaders = self.slots_of(node).expect("it knows who leads");
        let mut names = (0..10_000).map(|n| format!("{name}:{n}"));
        names.find(|name| leaders[slot_of(name.as_bytes()) as usize] == Some(node))
    }

    /// Every node serves its part, all copies are in sync, and all nodes say the same.
    fn is_healthy(&self) -> Result<(), String> {
        let mut views = Vec::new();
        for node in 0..self.nodes.len() {
            let status = self.status_of(node).ok_or(format!("node {node} says nothing"))?;
            let in_sync: u64 = status.nodes.values().map(|[.., in_sync]| in_sync).sum();
            if status.served != status.partitions
                || status.few_in_sync > 0
                || in_sync != status.partitions * status.copies
                || status.alive != self.nodes.len()
                || status.raft_leader.is_none()
            {
                return Err(format!("node {node} says {status:?}"));
            }
            let slots = self.slots_of(node).ok_or(format!("node {node} knows of no slots"))?;
            if let Some(slot) = slots.iter().position(Option::is_none) {
                return Err(format!("node {node} says that nobody leads slot {slot}"));
            }
            let Some(Value::Verbatim { text, .. } | Value::Bulk(text)) = self.ask(node, &["CLUSTER", "INFO"]) else {
                return Err(format!("node {node} has no CLUSTER INFO"));
            };
            if !text.starts_with(b"cluster_state:ok") {
                return Err(format!("node {node} says {}", String::from_utf8_lossy(&text)));
            }
            views.push((status.raft_leader, slots));
        }
        if views.iter().any(|view| *view != views[0]) {
            return Err("the nodes have different views".into());
        }
        Ok(())
    }

    /// No part of a node has met what it takes for impossible: the others would go on without it for a while.
    #[track_caller]
    pub fn assert_sound(&self) {
        for node in &self.nodes {
            let log = node.log();
            let at = log.find("panicked at");
            assert!(
                at.is_none(),
                "{}: {}",
                node.addr(),
                at.map_or("", |at| &log[at..]).lines().take(4).collect::<String>()
            );
        }
    }

    /// No two nodes have served one partition at the same time.
    #[track_caller]
    pub fn assert_served_apart(&self) -> Found {
        let found = served::check_files(&self.served).unwrap_or_else(|why| panic!("{why}"));
        assert!(found.partitions > 0, "nothing was served, or nobody wrote of it");
        found
    }

    /// Waits until the cluster is as it was; how long that took.
    #[track_caller]
    pub fn wait_healthy(&self) -> Duration {
        let begin = Instant::now();
        while let Err(why) = self.is_healthy() {
            assert!(begin.elapsed() < HEALTHY_MAX, "not healthy again: {why}");
            self.assert_sound();
            std::thread::sleep(Duration::from_millis(50));
        }
        begin.elapsed()
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        let pid = self.nodes[node].pid();
        self.nodes[node].kill();
        assert!(process_state(pid).is_none(), "process {pid} is still there");
    }

    /// Starts a node that has ended again, as it was.
    pub fn restart(&mut self, node: usize) {
        self.restart_with(node, &[]);
    }

    /// As [`Cluster::restart`], with more arguments.
    pub fn restart_with(&mut self, node: usize, more: &[&str]) {
        let args = self.args_of(node, more);
        self.nodes[node].restart(&args.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// SIGSTOP.
    pub fn stop(&self, node: usize) {
        self.nodes[node].signal("STOP");
        let pid = self.nodes[node].pid();
        wait_until("it stands still", || process_state(pid) == Some('T'));
    }

    /// SIGCONT.
    pub fn go_on(&self, node: usize) {
        let pid = self.nodes[node].pid();
        assert_eq!(process_state(pid), Some('T'), "it has stood still all the time");
        self.nodes[node].signal("CONT");
        wait_until("it goes on", || process_state(pid).is_some_and(|state| state != 'T'));
    }

    /// SIGTERM; waits until it has ended.
    pub fn terminate(&mut self, node: usize) {
        self.nodes[node].signal("TERM");
        assert_eq!(self.nodes[node].wait_for_exit(HEALTHY_MAX), Some(0), "{}", self.nodes[node].log());
    }

    /// Cuts a node off from the others, but not from clients.
    pub fn cut(&mut self, node: usize, direction: Direction) {
        self.cut_from(node, direction, true);
    }

    /// Cuts a node off from the others, and from clients unless they reach it.
    pub fn cut_from(&mut self, node: usize, direction: Direction, clients: bool) {
        self.lan.as_ref().expect("nodes that are apart").cut(node, direction, clients);
        self.cut[node] = true;
    }

    /// From now on a node hears nothing of another one.
    pub fn deafen(&self, node: usize, to: usize) {
        self.lan.as_ref().expect("nodes that are apart").deafen(node, to);
    }

    /// Ends all cuts. Packets of each node that was cut off have vanished.
    pub fn heal(&mut self) {
        for node in (0..self.nodes.len()).filter(|&node| std::mem::take(&mut self.cut[node])) {
            let lan = self.lan.as_ref().expect("nodes that are apart");
            assert!(lan.vanished(node) > 0, "nothing of node {node} has vanished");
            lan.mend(node);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.served);
        }
    }
}

fn lan(nodes: usize) -> Option<Lan> {
    Lan::new(nodes).map_err(|error| println!("skipped: there can be no network: {error}")).ok()
}

/// What CLUSTER SLOTS says: first and last slot, and who leads them.
pub fn slots(reply: Value) -> Option<Vec<(u16, u16, SocketAddr)>> {
    let Value::Array(ranges) = reply else { return None };
    let range = |range: &Value| {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(leader), ..] = &range[..] else { return None };
        let [Value::Bulk(host), Value::Int(port), ..] = &leader[..] else { return None };
        let host: Ipv4Addr = std::str::from_utf8(host).ok()?.parse().ok()?;
        Some((*first as u16, *last as u16, (host, *port as u16).into()))
    };
    ranges.iter().map(range).collect()
}

/// The state of a process, as the kernel has it; None if there is none, or nothing but what its parent has to collect.
pub fn process_state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat.rsplit_once(") ")?.1.chars().next()?;
    Some(state).filter(|state| !"ZX".contains(*state))
}
