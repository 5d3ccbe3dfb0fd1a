//! Clients that write, and note what was acknowledged.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Instant;

use super::common::{Client, Random, Server, show};
use super::group::{Group, KINDS, Kind};

/// Operations that a client may have under way.
const PIPELINE_MAX: usize = 8;

/// One client with its keys. It outlives the nodes that it writes to.
pub struct Writer {
    random: Random,
    groups: Vec<Group>,
    /// The database of its keys.
    db: &'static str,
    /// What it asks of the node first.
    durability: Option<&'static str>,
    pub acknowledged: u64,
}

impl Writer {
    /// Writers of which one has a database of its own, which it flushes.
    pub fn several(count: usize, seed: u64, durability: Option<&'static str>) -> Vec<Writer> {
        let writer = |n: usize| {
            let flushes = n + 1 == count;
            let kinds = KINDS.into_iter().filter(|kind| (*kind == Kind::Flushed) == flushes);
            let groups = kinds.map(|kind| Group::new(kind, n)).collect();
            let random = Random::new(seed.wrapping_mul(1000).wrapping_add(n as u64));
            Writer { random, groups, db: if flushes { "1" } else { "0" }, durability, acknowledged: 0 }
        };
        (0..count).map(writer).collect()
    }

    /// A connection as this writer uses it.
    fn connect(&self, server: &Server) -> Client {
        let mut client = server.client();
        client.call(&["SELECT", self.db]);
        if let Some(durability) = self.durability {
            assert_eq!(client.call(&["CLIENT", "DURABILITY", durability]), super::common::ok());
        }
        client
    }

    /// Writes until the node is gone.
    pub fn write(&mut self, server: &Server) {
        let mut client = self.connect(server);
        // Groups, and the replies that the operation still gets.
        let mut under_way: VecDeque<(usize, usize)> = VecDeque::new();
        loop {
            let depth = 1 + self.random.below(PIPELINE_MAX);
            let mut bytes = Vec::new();
            while under_way.len() < depth {
                let at = self.random.below(self.groups.len());
                let replies = self.groups[at].next(&mut self.random, &mut bytes);
                under_way.push_back((at, replies));
            }
            if client.stream().write_all(&bytes).is_err() {
                return;
            }
            while under_way.len() > depth / 2 {
                let Some((at, replies)) = under_way.front_mut() else { break };
                let Some(reply) = client.try_read_raw() else { return };
                assert_ne!(reply[0], b'-', "{}", show(&reply));
                *replies -= 1;
                if *replies == 0 {
                    self.groups[*at].acknowledged();
                    self.acknowledged += 1;
                    under_way.pop_front();
                }
            }
        }
    }

    /// See [`Group::check`].
    pub fn check(&mut self, server: &Server, cutoff: Instant) -> Result<(), String> {
        let mut client = self.connect(server);
        self.groups.iter_mut().try_for_each(|group| group.check(&mut client, cutoff))
    }
}
