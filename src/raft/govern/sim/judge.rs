//! What must be so, after every step and in the end.

use super::{CALM_US, Ghost, NODES_MAX, PARTITIONS, World};
use crate::raft::command::{Command, Epoch};
use crate::raft::state::State;

impl World {
    pub fn serves(&self, n: usize, partition: u16) -> bool {
        let node = &self.nodes[n];
        let primary = self.states[node.applied].partition(partition).and_then(|is| is.primary);
        primary == Some(n as u64 + 1)
            && node.runs(self.now_us)
            && self.clock(n) < node.tenant.ends_ms()
            && self.incarnation(n).is_some()
    }

    pub fn ghost_serves(&self, ghost: &Ghost, partition: u16) -> bool {
        let state = &self.states[ghost.applied];
        let id = ghost.n as u64 + 1;
        state.partition(partition).and_then(|is| is.primary) == Some(id)
            && self.clock(ghost.n) < ghost.ends_ms
            && state.node(id).is_some_and(|node| node.boot == ghost.boot)
    }

    pub fn judge(&mut self) -> Result<(), String> {
        let mut ghosts = std::mem::take(&mut self.ghosts);
        ghosts.retain(|ghost| self.clock(ghost.n) < ghost.ends_ms);
        self.ghosts = ghosts;
        for partition in 0..PARTITIONS {
            let nodes = (0..self.nodes.len()).filter(|n| self.serves(*n, partition)).map(|n| n + 1);
            let ghosts = self.ghosts.iter().filter(|ghost| self.ghost_serves(ghost, partition)).map(|g| g.n + 101);
            let serving: Vec<usize> = nodes.chain(ghosts).collect();
            if serving.len() > 1 {
                let at_us = self.now_us;
                return Err(format!("at {at_us} us partition {partition} is served by {serving:?}"));
            }
        }
        Ok(())
    }

    /// Whether an entry may change what it does.
    pub fn judge_change(&mut self, entry: usize, after: &State) -> Result<(), String> {
        let before = self.states.last().expect("there is a first one");
        after.validate()?;
        match &self.entries[entry].command {
            Some(Command::Place { .. }) => self.seen.placed += 1,
            Some(Command::Promote { .. }) => self.seen.promotions += 1,
            _ => return Ok(()),
        }
        for (was, is) in before.partitions().iter().zip(after.partitions()) {
            let epochs: (Epoch, Epoch) = (was.epoch, is.epoch);
            let Some(primary) = is.primary.filter(|_| epochs.0 > 0 && epochs.0 != epochs.1) else { continue };
            let incarnation = after.node(primary).map_or(0, |node| node.incarnation);
            if !was.in_sync.contains(&primary) || !self.ready.contains(&(primary, incarnation)) {
                return Err(format!("node {primary} was promoted, and was not in sync or not ready"));
            }
        }
        Ok(())
    }

    /// All are healed, but perhaps one that stays dead; then all that can be served is served.
    pub fn calm(&mut self) -> Result<(), String> {
        self.storm = false;
        self.cut = [[false; NODES_MAX]; NODES_MAX];
        for node in &mut self.nodes {
            (node.starts_us, node.stopped_us) = (0, 0);
        }
        if self.random.chance(50) {
            let n = self.random.below(self.nodes.len() as u64) as usize;
            self.kill(n, u64::MAX / 4);
        }
        self.say(|| "all is healed".into());
        let end_us = self.now_us + CALM_US;
        while self.now_us < end_us {
            self.step()?;
        }
        let state = self.states.last().expect("there is a first one");
        for (partition, is) in (0..PARTITIONS).zip(state.partitions()) {
            let can = is.in_sync.iter().any(|id| self.nodes[*id as usize - 1].up);
            if (can || is.epoch == 0) && !(0..self.nodes.len()).any(|n| self.serves(n, partition)) {
                return Err(format!("partition {partition} is not served: {is:?}"));
            }
        }
        Ok(())
    }
}
