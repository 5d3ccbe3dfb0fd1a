//! A network for the nodes of one cluster: each has a namespace of its own, and a bridge joins them, and this machine, to
//! one another. A node can be cut off in either direction: packets vanish, and nobody is told.
//!
//! Needs the rights of root, `ip` and `nft`.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;

/// Networks for tests, /24 each: addresses that are set aside for the measurement of networks (RFC 2544).
const NETWORKS: u32 = 512;

/// Which packets of a node vanish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Both,
    /// What others send to it.
    Incoming,
    /// What it sends to others.
    Outgoing,
}

impl Direction {
    fn hooks(self) -> &'static [(&'static str, &'static str, &'static str)] {
        const INPUT: (&str, &str, &str) = ("input", "iifname", "saddr");
        const OUTPUT: (&str, &str, &str) = ("output", "oifname", "daddr");
        match self {
            Direction::Both => &[INPUT, OUTPUT],
            Direction::Incoming => &[INPUT],
            Direction::Outgoing => &[OUTPUT],
        }
    }
}

pub struct Lan {
    /// What its names begin with.
    name: String,
    network: [u8; 3],
    nodes: usize,
    /// Says to all tests that the network is taken.
    _claim: UdpSocket,
}

/// Runs a command; what it said, or what is wrong.
fn run(line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().map_err(|error| format!("{line}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim_end())),
    }
}

impl Lan {
    /// A network for so many nodes; the error is why there can be none.
    pub fn new(nodes: usize) -> Result<Lan, String> {
        assert!(nodes < 200);
        let pid = std::process::id();
        // Nothing is ever sent there.
        const CLAIMS: u16 = 9;
        let claim = (0..NETWORKS).find_map(|nth| {
            let [.., high, low] = ((pid + nth) % NETWORKS).to_be_bytes();
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 198, 18 + high, low), CLAIMS)).ok()?;
            Some((socket, [198, 18 + high, low]))
        });
        let (claim, network) = claim.ok_or("all networks are taken")?;
        let name = format!("kl{pid}-{:x}", u16::from_be_bytes([network[1] - 18, network[2]]));
        let lan = Lan { name: name.clone(), network, nodes, _claim: claim };
        run(&format!("ip link add {name} type bridge"))?;
        run(&format!("ip addr add {}/24 dev {name}", lan.address(254)))?;
        run(&format!("ip link set {name} up"))?;
        for node in 0..nodes {
            let (space, device) = (lan.space(node), lan.device(node));
            run(&format!("ip netns add {space}"))?;
            run(&format!("ip link add {device} type veth peer name inside netns {space}"))?;
            run(&format!("ip link set {device} master {name} up"))?;
            run(&format!("ip -n {space} addr add {}/24 dev inside", lan.host(node)))?;
            run(&format!("ip -n {space} link set inside up"))?;
            run(&format!("ip -n {space} link set lo up"))?;
            lan.nft(node, "list tables")?;
        }
        Ok(lan)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, last)
    }

    /// The address of a node.
    pub fn host(&self, node: usize) -> Ipv4Addr {
        self.address(1 + node as u8)
    }

    fn space(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    fn device(&self, node: usize) -> String {
        format!("{}.{node}", self.name)
    }

    /// What a command begins with that runs where a node is.
    pub fn prefix(&self, node: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.space(node)].map(str::to_string).to_vec()
    }

    fn nft(&self, node: usize, rule: &str) -> Result<String, String> {
        run(&format!("ip netns exec {} nft {rule}", self.space(node)))
    }

    /// From now on no packet gets from or to other nodes, nor, unless `clients` reach it, from or to this machine.
    pub fn cut(&self, node: usize, direction: Direction, clients: bool) {
        let here = self.address(254);
        let all = self.address(0);
        let mut rules = String::from("add table ip cut\n");
        for (hook, device, side) in direction.hooks() {
            let but = if clients { format!("ip {side} != {here} ") } else { String::new() };
            rules += &format!("add chain ip cut {hook} {{ type filter hook {hook} priority 0 ; }}\n");
            rules += &format!("add rule ip cut {hook} {device} inside ip {side} {all}/24 {but}counter drop\n");
        }
        // All rules at once: the two directions end at the same moment.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(node), "nft", &rules]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{rules}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// From now on a node hears nothing of another one.
    pub fn deafen(&self, node: usize, to: usize) {
        let other = self.host(to);
        for rule in [
            "add table ip deaf".into(),
            "add chain ip deaf input { type filter hook input priority 0 ; }".into(),
            format!("add rule ip deaf input iifname inside ip saddr {other} counter drop"),
        ] {
            self.nft(node, &rule).unwrap();
        }
    }

    /// Packets that have vanished.
    pub fn vanished(&self, node: usize) -> u64 {
        let table = self.nft(node, "list table ip cut").unwrap();
        let counts = table.split("counter packets ").skip(1).map(|rest| {
            let number = rest.split(' ').next().unwrap_or_default();
            number.parse::<u64>().unwrap_or_else(|_| panic!("no number in {table}"))
        });
        counts.sum()
    }

    /// Whether a node can connect to a port of another one within a second.
    pub fn reaches(&self, node: usize, other: usize, port: u16) -> bool {
        let script = format!("exec 3<>/dev/tcp/{}/{port}", self.host(other));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(node), "timeout", "1", "bash", "-c", &script]);
        command.output().unwrap().status.success()
    }

    pub fn mend(&self, node: usize) {
        self.nft(node, "delete table ip cut").unwrap();
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // Some of it may not be there. Its device goes with a namespace, but not at once.
        for node in 0..self.nodes {
            let _ = run(&format!("ip link del {}", self.device(node)));
            let _ = run(&format!("ip netns del {}", self.space(node)));
        }
        let _ = run(&format!("ip link del {}", self.name));
    }
}
