//! The scout: a thread that asks the nodes who serves which slot, so that no load thread waits for an answer.
//!
//! It asks when a load thread wishes it, at most every [`REFRESH_MS_MIN`] ms, one node after the other, and sends what it
//! is told to all of them. It ends when nobody can wish any more.

use std::io;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use mio::Waker;

use super::REFRESH_MS_MIN;
use super::routes::{Map, NODES_MAX, Node, ranges};
use crate::loadgen::connect::{self, CONNECT_MS_MAX, ConnectError, Greeting, Target};

/// Maps that may wait for a load thread; it will wish for another one if it has missed one that it needs.
pub const MAPS_MAX: usize = 4;
/// The scout's patience with a node, ms.
const ASK_MS_MAX: u64 = 300;
/// A node that has not answered is asked again after this, unless none is left, ms.
const AVOID_MS: u64 = 2_000;

/// There is no cluster to run against.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0} answers CLUSTER SLOTS with what is not understood")]
    Answer(Target),
    #[error("{0} says that nobody serves any slot of its cluster")]
    Empty(Target),
    #[error("a node of the cluster cannot be found: {name}: {source}")]
    Name { name: Target, source: io::Error },
}

/// Where a load thread gets its maps.
pub struct Reader {
    pub maps: Sender<Arc<Map>>,
    pub waker: Waker,
}

/// How often the table of slots was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub answered: u64,
    pub failed: u64,
}

/// Asks.
pub struct Scout {
    greeting: Greeting,
    /// Nodes with when they have last failed to answer. Invariant: at most [`NODES_MAX`].
    known: Vec<(Target, Option<Instant>)>,
    /// Who is asked next.
    next: usize,
    asked: Asked,
}

impl Scout {
    /// The scout of the cluster that `target` is a node of, and its first map.
    pub fn find(target: &Target, greeting: &Greeting) -> Result<(Scout, Map), FindError> {
        let map = ask(target, greeting, CONNECT_MS_MAX)?;
        if map.ranges.is_empty() {
            return Err(FindError::Empty(target.clone()));
        }
        let known = vec![(target.clone(), None)];
        let mut scout = Scout { greeting: greeting.clone(), known, next: 0, asked: Asked::default() };
        scout.learn(&map);
        Ok((scout, map))
    }

    fn learn(&mut self, map: &Map) {
        for node in &map.nodes {
            if self.known.len() < NODES_MAX && self.known.iter().all(|known| known.0 != node.name) {
                self.known.push((node.name.clone(), None));
            }
        }
    }

    /// Asks whenever there is a wish, until there can be none.
    pub fn run(mut self, wishes: &Receiver<()>, readers: &[Reader]) -> Asked {
        let mut asked_at: Option<Instant> = None;
        while wishes.recv().is_ok() {
            if let Some(asked_at) = asked_at {
                std::thread::sleep(Duration::from_millis(REFRESH_MS_MIN).saturating_sub(asked_at.elapsed()));
            }
            asked_at = Some(Instant::now());
            let Some(map) = self.ask_next() else { continue };
            for reader in readers {
                // A thread that has not even looked at its last maps needs no newer one, and one that has ended none.
                let _ = reader.maps.try_send(Arc::clone(&map));
                let _ = reader.waker.wake();
            }
        }
        self.asked
    }

    fn ask_next(&mut self) -> Option<Arc<Map>> {
        let avoid = Duration::from_millis(AVOID_MS);
        let turns = (0..self.known.len()).map(|turn| (self.next + turn) % self.known.len());
        let fit = |at: &usize| self.known[*at].1.is_none_or(|failed| failed.elapsed() >= avoid);
        let at = turns.clone().find(fit).unwrap_or(self.next);
        self.next = (at + 1) % self.known.len();
        match ask(&self.known[at].0, &self.greeting, ASK_MS_MAX) {
            Ok(map) => {
                self.asked.answered += 1;
                self.known[at].1 = None;
                self.learn(&map);
                Some(Arc::new(map))
            }
            Err(_) => {
                self.asked.failed += 1;
                self.known[at].1 = Some(Instant::now());
                None
            }
        }
    }
}

/// What a node says.
fn ask(target: &Target, greeting: &Greeting, patience_ms: u64) -> Result<Map, FindError> {
    let answer = connect::ask(target, greeting, "CLUSTER SLOTS", patience_ms)?;
    let ranges = ranges(&answer, target).ok_or_else(|| FindError::Answer(target.clone()))?;
    let mut map = Map::default();
    for (first, last, name) in ranges {
        let known = map.nodes.iter().position(|node| node.name == name);
        let node = match known {
            Some(node) => node,
            None => {
                let address = address(&name).map_err(|source| FindError::Name { name: name.clone(), source })?;
                map.nodes.push(Node { name, address });
                map.nodes.len() - 1
            }
        };
        map.ranges.push((first, last, node));
    }
    Ok(map)
}

fn address(name: &Target) -> io::Result<std::net::SocketAddr> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let Target::Tcp { host, port } = name else { return Err(none()) };
    (host.as_str(), *port).to_socket_addrs()?.next().ok_or_else(none)
}
