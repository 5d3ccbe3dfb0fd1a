//! Which node serves which slot, as far as a load thread knows.
//!
//! Pure. A whole [`Map`] is what a node has answered to CLUSTER SLOTS; MOVED repairs one slot of it. A slot whose leader
//! has refused a request is forgotten, and its requests wait for the next map.

use std::net::{IpAddr, SocketAddr};

use crate::loadgen::connect::Target;
use crate::resp::read::Value;
use crate::route::SLOTS;

/// Most nodes that a thread knows by number.
pub const NODES_MAX: usize = 512;
/// Nobody is known to serve the slot.
const NOBODY: u16 = u16::MAX;

/// A node that serves slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// As nodes call it.
    pub name: Target,
    pub address: SocketAddr,
}

/// First slot, last slot, and who serves them.
pub type Range = (u16, u16, Target);

/// What one node says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    pub nodes: Vec<Node>,
    /// First slot, last slot, and the place of who serves them in `nodes`.
    pub ranges: Vec<(u16, u16, usize)>,
}

/// The answer to CLUSTER SLOTS of the node `asked`; None if it is not one. A node that does not know its own name is
/// called as it was reached.
pub fn ranges(answer: &Value, asked: &Target) -> Option<Vec<Range>> {
    let Value::Array(ranges) = answer else { return None };
    let range = |range: &Value| {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(leader), ..] = &range[..] else { return None };
        let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
        let [host, Value::Int(port), ..] = &leader[..] else { return None };
        let host = match host {
            Value::Bulk(host) | Value::Simple(host) => std::str::from_utf8(host).ok()?,
            Value::Null => "",
            _ => return None,
        };
        (first <= last && last < SLOTS).then_some((first, last, named(host, u16::try_from(*port).ok()?, asked)?))
    };
    ranges.iter().map(range).collect()
}

fn named(host: &str, port: u16, asked: &Target) -> Option<Target> {
    let host = match (host, asked) {
        ("", Target::Tcp { host, .. }) => host,
        ("", Target::Unix(_)) => return None,
        (host, _) => host.trim_start_matches('[').trim_end_matches(']'),
    };
    Some(Target::Tcp { host: host.into(), port })
}

/// Slot and node of `MOVED 3999 127.0.0.1:6381`, the text of an error of the node `asked`.
fn moved(text: &[u8], asked: &Target) -> Option<(u16, Target)> {
    let mut words = std::str::from_utf8(text).ok()?.split(' ');
    let ("MOVED", slot, place) = (words.next()?, words.next()?.parse().ok()?, words.next()?) else { return None };
    let (host, port) = place.rsplit_once(':')?;
    (slot < SLOTS).then_some((slot, named(host, port.parse().ok()?, asked)?))
}

/// The table of one thread.
#[derive(Debug)]
pub struct Routes {
    /// All that were ever heard of; a node's place is its number. Invariant: at most `nodes_max`.
    nodes: Vec<Node>,
    nodes_max: usize,
    /// By slot, the node that serves it.
    leaders: Box<[u16]>,
    /// By node, how many slots it serves.
    slots: Vec<u32>,
    version: u64,
    wanted: bool,
}

impl Routes {
    pub fn new(map: &Map, nodes_max: usize) -> Routes {
        let leaders = vec![NOBODY; SLOTS as usize].into();
        let nodes_max = nodes_max.min(NODES_MAX);
        let mut routes = Routes { nodes: Vec::new(), nodes_max, leaders, slots: Vec::new(), version: 0, wanted: false };
        routes.adopt(map);
        routes
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Grows whenever requests that wait may have somewhere else to go.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Who serves a slot.
    #[inline]
    pub fn leader_of(&self, slot: u16) -> Option<usize> {
        let leader = self.leaders[slot as usize];
        (leader != NOBODY).then_some(leader as usize)
    }

    /// Whether a node serves anything.
    pub fn leads(&self, node: usize) -> bool {
        self.slots[node] > 0
    }

    /// A newer map is wanted.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether one was wanted since the last time.
    pub fn take_wish(&mut self) -> bool {
        std::mem::take(&mut self.wanted)
    }

    /// Takes over what a node says.
    pub fn adopt(&mut self, map: &Map) {
        let numbers: Vec<u16> = map.nodes.iter().map(|node| self.number(node).unwrap_or(NOBODY)).collect();
        let mut leaders = vec![NOBODY; SLOTS as usize];
        for &(first, last, node) in &map.ranges {
            leaders[first as usize..=last as usize].fill(numbers[node]);
        }
        for (slot, leader) in (0..).zip(leaders) {
            self.set(slot, leader);
        }
    }

    /// What a MOVED of `node` says: where the request goes now, None if that is not known yet.
    pub fn moved(&mut self, text: &[u8], node: usize) -> Option<usize> {
        self.wanted = true;
        let (slot, name) = moved(text, &self.nodes[node].name)?;
        let to = match self.nodes.iter().position(|known| known.name == name) {
            Some(to) => to as u16,
            None => {
                // A name that has to be looked up comes with the next map.
                let Target::Tcp { host, port } = &name else { return None };
                let address = SocketAddr::new(host.parse::<IpAddr>().ok()?, *port);
                self.number(&Node { name, address })?
            }
        };
        self.set(slot, to);
        Some(to as usize)
    }

    /// `node` does not serve the slot after all.
    pub fn forget(&mut self, slot: u16, node: usize) {
        self.wanted = true;
        if self.leader_of(slot) == Some(node) {
            self.set(slot, NOBODY);
        }
    }

    fn set(&mut self, slot: u16, leader: u16) {
        let before = std::mem::replace(&mut self.leaders[slot as usize], leader);
        if before == leader {
            return;
        }
        if let Some(slots) = self.slots.get_mut(before as usize) {
            *slots -= 1;
        }
        if let Some(slots) = self.slots.get_mut(leader as usize) {
            *slots += 1;
            self.version += 1;
        }
    }

    /// The number of a node, a new one if need be; None if there are too many.
    fn number(&mut self, node: &Node) -> Option<u16> {
        let known = self.nodes.iter().position(|known| known.name == node.name);
        if known.is_none() && self.nodes.len() == self.nodes_max {
            return None;
        }
        let number = known.unwrap_or_else(|| {
            self.nodes.push(node.clone());
            self.slots.push(0);
            self.nodes.len() - 1
        });
        // A name may have got another address.
        self.nodes[number].address = node.address;
        Some(number as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::read::parse_value;

    fn at(port: u16) -> Target {
        Target::Tcp { host: "127.0.0.1".into(), port }
    }

    fn map(ranges: &[(u16, u16, u16)]) -> Map {
        let mut map = Map::default();
        for &(first, last, port) in ranges {
            let node = Node { name: at(port), address: ([127, 0, 0, 1], port).into() };
            let place = map.nodes.iter().position(|known| *known == node).unwrap_or(map.nodes.len());
            if place == map.nodes.len() {
                map.nodes.push(node);
            }
            map.ranges.push((first, last, place));
        }
        map
    }

    #[test]
    fn cluster_slots_is_understood() {
        let text = b"*3\r\n*3\r\n:0\r\n:99\r\n*4\r\n$9\r\n127.0.0.1\r\n:7001\r\n$2\r\nid\r\n*0\r\n\
            *4\r\n:100\r\n:100\r\n*3\r\n$0\r\n\r\n:7002\r\n$2\r\nid\r\n*2\r\n$1\r\nr\r\n:1\r\n\
            *3\r\n:101\r\n:16383\r\n*2\r\n_\r\n:7003\r\n";
        let (answer, _) = parse_value(text).unwrap().unwrap();
        assert_eq!(
            ranges(&answer, &at(7009)).unwrap(),
            [(0, 99, at(7001)), (100, 100, at(7002)), (101, 16383, at(7003))]
        );
        for bad in [&b"+OK\r\n"[..], b"*1\r\n:5\r\n", b"*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\na\r\n:1\r\n"] {
            assert_eq!(ranges(&parse_value(bad).unwrap().unwrap().0, &at(1)), None);
        }
        assert_eq!(ranges(&Value::Array(vec![]), &at(1)), Some(vec![]));
    }

    #[test]
    fn moved_is_understood() {
        let asked = at(7009);
        assert_eq!(moved(b"MOVED 5 127.0.0.1:7001", &asked), Some((5, at(7001))));
        assert_eq!(moved(b"MOVED 5 :7001", &asked), Some((5, at(7001))));
        let six = Target::Tcp { host: "::1".into(), port: 1 };
        assert_eq!(moved(b"MOVED 5 ::1:1", &asked), Some((5, six.clone())));
        assert_eq!(moved(b"MOVED 5 [::1]:1", &asked), Some((5, six)));
        for bad in ["MOVED", "MOVED 16384 a:1", "MOVED x a:1", "MOVED 1 a", "MOVED 1 a:99999", "ASK 1 a:1"] {
            assert_eq!(moved(bad.as_bytes(), &asked), None, "{bad}");
        }
    }

    #[test]
    fn moved_repairs_one_slot_and_wants_a_map() {
        let mut routes = Routes::new(&map(&[(0, 99, 7001), (100, 16383, 7002)]), 3);
        assert_eq!((routes.leader_of(99), routes.leader_of(100)), (Some(0), Some(1)));
        assert!(!routes.take_wish());
        let version = routes.version();
        assert_eq!(routes.moved(b"MOVED 5 127.0.0.1:7002", 0), Some(1));
        assert!(routes.take_wish() && routes.version() > version);
        assert_eq!((routes.leader_of(5), routes.leader_of(6)), (Some(1), Some(0)));
        // A node that was not known, and one more than may be.
        assert_eq!(routes.moved(b"MOVED 5 127.0.0.1:7003", 1), Some(2));
        assert_eq!(routes.moved(b"MOVED 5 127.0.0.1:7004", 1), None);
        assert_eq!(routes.leader_of(5), Some(2));
        // A name has to be looked up first.
        assert_eq!(routes.moved(b"MOVED 5 some.where:7001", 1), None);
    }

    #[test]
    fn a_map_replaces_everything() {
        let mut routes = Routes::new(&map(&[(0, 99, 7001), (100, 16383, 7002)]), 9);
        assert!(routes.leads(0) && routes.leads(1));
        routes.adopt(&map(&[(0, 9, 7003), (20, 16383, 7002)]));
        assert_eq!((routes.leader_of(9), routes.leader_of(10), routes.leader_of(20)), (Some(2), None, Some(1)));
        assert!(!routes.leads(0) && routes.leads(2));
        let version = routes.version();
        routes.adopt(&map(&[(0, 9, 7003), (20, 16383, 7002)]));
        assert_eq!(routes.version(), version);
    }

    #[test]
    fn what_is_forgotten_comes_back_with_a_map() {
        let all = map(&[(0, 16383, 7001)]);
        let mut routes = Routes::new(&all, 9);
        let version = routes.version();
        routes.forget(7, 0);
        assert_eq!((routes.leader_of(7), routes.version()), (None, version));
        assert!(routes.take_wish() && routes.leads(0));
        routes.adopt(&all);
        assert!(routes.leader_of(7) == Some(0) && routes.version() > version);
        // Somebody else leads it meanwhile.
        routes.forget(8, 1);
        assert_eq!(routes.leader_of(8), Some(0));
    }
}
