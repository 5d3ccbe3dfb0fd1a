//! Memory that comes and goes: nodes have limits, which change at random, and are all that copies need when the world comes to rest.

use super::World;
use crate::streams::NodeId;
use crate::streams::follower::{Action, Memory};

/// Bytes that a number takes.
const NUMBER_BYTES: u64 = 8;
/// The data of a world hardly becomes larger.
const LIMIT_BYTES_MAX: u64 = 8_000;

impl World {
    /// A node may use more memory, or less.
    pub fn change_limit(&mut self, n: NodeId) {
        if self.around.is_some() {
            return;
        }
        let much = self.quiet || self.random.chance(20);
        let limit_bytes = if much { u64::MAX / 2 } else { self.random.below(LIMIT_BYTES_MAX) };
        let limit_bytes = Some(limit_bytes).filter(|_| self.random.chance(70));
        self.node(n).limit_bytes = limit_bytes;
        self.say(|| format!("{n} may use {limit_bytes:?} bytes"));
    }

    /// As a shell does before each tick.
    pub fn look_at_memory(&mut self, n: NodeId) {
        let limit_bytes = self.node(n).limit_bytes;
        let count = self.process(n).data.iter().map(Vec::len).sum::<usize>();
        let data_bytes = count as u64 * NUMBER_BYTES;
        let memory = Memory { used_bytes: data_bytes + NUMBER_BYTES, data_bytes };
        let before = self.process(n).follower.without_memory();
        self.on_follower(n, |follower, _, out| {
            follower.set_limit(limit_bytes);
            follower.memory(memory, out);
        });
        let after = self.process(n).follower.without_memory();
        self.seen.waited_for_memory += u64::from(before.0 == 0 && after.0 > 0);
        self.seen.given_up_for_memory += after.1 - before.1;
    }

    /// What is dropped, and is not to be copied, is not counted on.
    pub fn judge_drop(&self, n: NodeId, action: &Action) {
        let Action::DropPartitions { copy: None, partitions, .. } = action else { return };
        let boot = u128::from(self.nodes[n as usize - 1].boot);
        let agreed = &self.raft.agreed;
        for &p in partitions.iter().filter(|_| agreed.node(n).is_some_and(|known| known.boot == boot)) {
            let in_sync = agreed.partition(p).is_some_and(|known| known.in_sync.contains(&n));
            assert!(!in_sync, "node {n} drops {p}, in which it is in sync");
        }
    }
}
