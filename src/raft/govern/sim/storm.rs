//! What goes wrong: nodes die, are stopped or cut off, and are started elsewhere while they run on.

use super::{Event, Ghost, NODES_MAX, World};

impl World {
    /// A process starts, with what is on the disk.
    pub fn start(&mut self, n: usize) {
        let boot = u128::from(self.random.next()) << 8 | 1;
        let (log, applied) = (self.nodes[n].log.clone(), self.nodes[n].applied);
        let mut node = self.process(n, boot, log);
        node.applied = self.random.below(applied as u64 + 1) as usize;
        node.commit = node.applied;
        node.leader = self.random.below(self.nodes.len() as u64) as usize;
        self.nodes[n] = node;
        self.say(|| format!("node {n} starts"));
    }

    pub fn kill(&mut self, n: usize, for_us: u64) {
        self.say(|| format!("node {n} dies for {} ms", for_us / 1_000));
        let node = &mut self.nodes[n];
        node.up = false;
        node.leading = None;
        node.starts_us = self.now_us + for_us;
        self.seen.deaths += 1;
    }

    pub fn disturb(&mut self) {
        if !self.storm {
            return;
        }
        let after = 20_000 + self.random.below(400_000);
        self.after(after, Event::Disturb);
        let n = self.random.below(self.nodes.len() as u64) as usize;
        // Leaders are worth more.
        let leader = (0..self.nodes.len()).find(|at| self.nodes[*at].leading.is_some());
        let n = leader.filter(|_| self.random.chance(30)).unwrap_or(n);
        let for_us = if self.random.chance(50) { self.random.below(400_000) } else { self.random.below(2_000_000) };
        match self.random.below(10) {
            0..=1 if self.nodes[n].up => self.kill(n, 10_000 + for_us),
            2 if self.nodes[n].up => {
                // Its directory is moved, and it runs on where nobody hears of it.
                let node = &self.nodes[n];
                let (boot, applied, ends_ms) = (node.boot, node.applied, node.tenant.ends_ms());
                self.ghosts.push(Ghost { n, boot, applied, ends_ms });
                self.seen.ghosts += 1;
                self.kill(n, self.now_us % 40_000);
            }
            3..=5 if self.nodes[n].runs(self.now_us) => {
                self.say(|| format!("node {n} is stopped for {} ms", for_us / 1_000));
                self.nodes[n].stopped_us = self.now_us + for_us;
                self.seen.stops += 1;
            }
            6..=7 => {
                self.say(|| format!("node {n} is cut off"));
                for other in 0..self.nodes.len() {
                    let cut = other != n && self.random.chance(80);
                    (self.cut[n][other], self.cut[other][n]) = (cut, cut && self.random.chance(80));
                }
            }
            8 if leader.is_some_and(|leader| leader == n) => {
                self.say(|| format!("node {n} is cut off, and all others start anew"));
                for other in (0..self.nodes.len()).filter(|other| *other != n) {
                    (self.cut[n][other], self.cut[other][n]) = (true, true);
                    let for_us = self.random.below(30_000);
                    self.kill(other, for_us);
                }
            }
            8 => self.cut = [[false; NODES_MAX]; NODES_MAX],
            _ => {}
        }
    }
}
