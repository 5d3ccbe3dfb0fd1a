//! A network of its own for a server: a namespace, joined to this one by a pair of devices, that can be cut as a cable
//! is: packets vanish, and nobody is told.
//!
//! Needs the rights of root, `ip` and `nft`.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

pub struct Namespace {
    name: String,
    device: String,
    /// The addresses of both ends.
    pub here: Ipv4Addr,
    pub there: Ipv4Addr,
}

/// Runs a command; the error says what is wrong.
fn run(line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().map_err(|error| format!("{line}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim_end())),
    }
}

impl Namespace {
    /// A new one; the error is why there can be none.
    pub fn new() -> Result<Namespace, String> {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let end = |last: u8| Ipv4Addr::new(10, 213, pid as u8, 4 * (count % 64) + last);
        let (name, device) = (format!("keyloom-{pid}-{count}"), format!("kl{}-{count}", pid % 1_000_000));
        let namespace = Namespace { name: name.clone(), device: device.clone(), here: end(1), there: end(2) };
        run(&format!("ip netns add {name}"))?;
        run(&format!("ip link add {device} type veth peer name inside netns {name}"))?;
        run(&format!("ip addr add {}/30 dev {device}", namespace.here))?;
        run(&format!("ip link set {device} up"))?;
        run(&format!("ip -n {name} addr add {}/30 dev inside", namespace.there))?;
        run(&format!("ip -n {name} link set inside up"))?;
        run(&format!("ip -n {name} link set lo up"))?;
        namespace.nft("list tables")?;
        Ok(namespace)
    }

    /// What a command begins with that runs in it.
    pub fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_string).to_vec()
    }

    fn nft(&self, rule: &str) -> Result<(), String> {
        run(&format!("ip netns exec {} nft {rule}", self.name))
    }

    /// From now on no packet goes in or out.
    pub fn cut(&self) {
        self.nft("add table ip cut").unwrap();
        for hook in ["input", "output"] {
            self.nft(&format!("add chain ip cut {hook} {{ type filter hook {hook} priority 0 ; policy drop ; }}"))
                .unwrap();
        }
    }

    pub fn mend(&self) {
        self.nft("delete table ip cut").unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Some of it may not be there.
        let _ = run(&format!("ip netns del {}", self.name));
        let _ = run(&format!("ip link del {}", self.device));
    }
}
