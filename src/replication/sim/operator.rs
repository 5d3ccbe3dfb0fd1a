//! What people do to the nodes of the simulator, and what is demanded of them.

use super::node::Node;
use super::*;

impl Node {
    pub fn new(chain: Chain, replica: Replica, primary: Primary) -> Node {
        Node {
            alive: true,
            incarnation: 1,
            stalled_until_ms: 0,
            chain,
            complete: true,
            base: 0,
            base_state: State::default(),
            durable: 0,
            log: Vec::new(),
            late: Vec::new(),
            state: State::default(),
            applied: 0,
            apply_upto: 0,
            leading: false,
            follows: None,
            replica,
            primary,
            up: None,
            reads: Vec::new(),
            copy_out: None,
            covered: [false; PARTITIONS],
            copy_in: None,
            pausing: false,
        }
    }
}

impl Seen {
    pub fn add(&mut self, other: Seen) {
        self.copies += other.copies;
        self.set_aside += other.set_aside;
        self.trimmed_tails += other.trimmed_tails;
        self.resumed += other.resumed;
        self.stepped_down += other.stepped_down;
        self.inquiries += other.inquiries;
        self.promoted_in_sync += other.promoted_in_sync;
        self.power_cuts += other.power_cuts;
        self.splits += other.splits;
        self.acked += other.acked;
        self.acked_durable += other.acked_durable;
        for (reason, count) in other.drops {
            *self.drops.entry(reason).or_default() += count;
        }
    }
}

impl World {
    /// Something goes wrong, or somebody does something.
    pub fn disturb(&mut self, n: usize) -> Result<(), String> {
        match self.random.below(100) {
            0..=9 => self.cut_one(),
            10..=13 => self.nodes[n].stalled_until_ms = self.now_ms + self.random.below(900),
            14..=16 if !self.nodes[n].leading => self.reboot(n)?,
            17..=18 => self.retarget(n)?,
            19..=23 => self.hand_over(n)?,
            24 => self.abort()?,
            25..=26 => self.replace_leader()?,
            27..=28 => self.power_cut()?,
            29 => self.restart_leader()?,
            30 => self.split(n)?,
            31..=45 if self.leader.is_none() => self.decide()?,
            46..=60 if !self.nodes[n].alive => self.reboot(n)?,
            _ => {}
        }
        Ok(())
    }

    fn cut_one(&mut self) {
        if self.connections.is_empty() {
            return;
        }
        let at = self.random.below(self.connections.len() as u64) as usize;
        let delays = (self.learns_after_ms(), self.learns_after_ms());
        self.connections[at].cut(self.now_ms, delays);
    }

    /// How long it takes until a side notices that a connection is broken: at once, or never in time.
    fn learns_after_ms(&mut self) -> u64 {
        if self.random.chance(30) { 1_000_000 } else { self.random.below(50) }
    }

    /// The node is gone, and its connections with it.
    pub fn cut_all(&mut self, n: usize) {
        for at in 0..self.connections.len() {
            let delays = (self.learns_after_ms(), self.learns_after_ms());
            let connection = &mut self.connections[at];
            if connection.replica == n || connection.primary == n {
                connection.cut(self.now_ms, delays);
                connection.replica_open &= connection.replica != n;
                connection.primary_open &= connection.primary != n;
            }
        }
        self.nodes[n].up = None;
    }

    fn crash(&mut self, n: usize) {
        self.say(|| format!("{n} crashes"));
        self.cut_all(n);
        self.nodes[n].alive = false;
        self.nodes[n].stalled_until_ms = 0;
    }

    /// A node that does not lead starts again.
    fn reboot(&mut self, n: usize) -> Result<(), String> {
        self.say(|| format!("{n} starts again"));
        let follows = self.nodes[n].follows.or(self.leader).filter(|&target| target != n);
        self.restart(n)?;
        match follows.or(Some((n + 1) % NODES)) {
            Some(target) => self.follow(n, target),
            None => Ok(()),
        }
    }

    /// Another node to follow, so that all still follow the leader, some of them through others.
    fn retarget(&mut self, n: usize) -> Result<(), String> {
        let Some(leader) = self.leader else { return Ok(()) };
        if n == leader || !self.nodes[n].alive || self.nodes[n].leading {
            return Ok(());
        }
        let target = self.random.below(NODES as u64) as usize;
        let reaches = |mut at: usize| {
            for _ in 0..NODES {
                match self.nodes[at].follows {
                    _ if at == leader => return true,
                    Some(next) if next != n => at = next,
                    _ => return false,
                }
            }
            false
        };
        let target = if target != n && reaches(target) { target } else { leader };
        self.follow(n, target)
    }

    fn hand_over(&mut self, n: usize) -> Result<(), String> {
        let Some(leader) = self.leader.filter(|&l| self.nodes[l].alive) else { return Ok(()) };
        let target = (n != leader && self.random.chance(50)).then_some(n as u128 + 1);
        let timeout = self.random.chance(70).then_some(100 + self.random.below(400));
        let force = target.is_some() && timeout.is_some() && self.random.chance(20);
        let mut begun = false;
        self.on_primary(leader, |p, now, out| begun = p.failover(now, target, timeout, force, out).is_ok())?;
        if begun {
            // A target that is named need not be in sync, so what was committed without it may be lost only with force.
            self.forced = force;
        }
        Ok(())
    }

    fn abort(&mut self) -> Result<(), String> {
        let Some(leader) = self.leader else { return Ok(()) };
        self.on_primary(leader, |p, _, out| {
            let _ = p.abort_failover(out);
        })
    }

    /// Nodes that are in sync, as the leader counts them, and have not started again since.
    fn promotable(&self, leader: usize) -> Vec<usize> {
        let counted = |(node, peer): (u128, u64)| {
            let n = node as usize - 1;
            let connection = self.connections.iter().find(|c| c.id == peer)?;
            (self.nodes[n].alive && connection.incarnation == self.nodes[n].incarnation).then_some(n)
        };
        self.nodes[leader].primary.in_sync_nodes().filter_map(counted).collect()
    }

    /// The leader is lost, and somebody who was in sync takes its place.
    fn replace_leader(&mut self) -> Result<(), String> {
        let Some(leader) = self.leader.filter(|&l| self.nodes[l].alive) else { return Ok(()) };
        let candidates = self.promotable(leader);
        if candidates.is_empty() {
            return Ok(());
        }
        let chosen = candidates[self.random.below(candidates.len() as u64) as usize];
        self.crash(leader);
        self.nodes[leader].leading = false;
        self.seen.promoted_in_sync += 1;
        if !self.nodes[chosen].replica.has().complete {
            return Err(format!("node {chosen} was in sync without complete data"));
        }
        self.forced = false;
        self.promote(chosen)?;
        self.all_follow(chosen)
    }

    /// All lose what was not on disk; the leader is lost for good, and somebody who was in sync takes its place.
    fn power_cut(&mut self) -> Result<(), String> {
        self.say(|| "power cut".into());
        let Some(leader) = self.leader.filter(|&l| self.nodes[l].alive) else { return Ok(()) };
        let candidates = self.promotable(leader);
        if candidates.is_empty() {
            return Ok(());
        }
        let chosen = candidates[self.random.below(candidates.len() as u64) as usize];
        self.seen.power_cuts += 1;
        for n in 0..NODES {
            self.restart(n)?;
        }
        for n in [leader, chosen] {
            if let Some(lost) = self.acked_durable.iter().find(|w| !self.nodes[n].holds(w.0, w.1)) {
                return Err(format!("node {n} has lost {lost:?}, which was acknowledged as on all disks"));
            }
        }
        self.forget_promises();
        self.promote(chosen)?;
        self.all_follow(chosen)
    }

    /// The leader starts again and goes on. What was not on its disk is lost, whoever else has it.
    fn restart_leader(&mut self) -> Result<(), String> {
        self.say(|| "the leader starts again".into());
        let Some(leader) = self.leader else { return Ok(()) };
        if self.nodes.iter().enumerate().any(|(n, node)| n != leader && node.leading) {
            return Ok(());
        }
        self.restart(leader)?;
        if let Some(lost) = self.acked_durable.iter().find(|w| !self.nodes[leader].holds(w.0, w.1)) {
            return Err(format!("the leader has lost {lost:?}, which was acknowledged as on all disks"));
        }
        self.nodes[leader].follows = None;
        self.forced = true;
        if self.mistake == Mistake::ReuseHistory {
            let chain = self.nodes[leader].chain.clone();
            self.lead(leader, chain)?;
            self.crowned(leader)
        } else {
            self.promote(leader)
        }
    }

    /// Somebody promotes a node although another one leads.
    fn split(&mut self, n: usize) -> Result<(), String> {
        self.say(|| format!("{n} is promoted beside another"));
        if !self.nodes[n].alive || self.nodes[n].leading || !self.nodes[n].replica.has().complete {
            return Ok(());
        }
        self.seen.splits += 1;
        self.leader = None;
        self.promote(n)
    }

    /// The operator decides for one of the nodes that lead.
    pub fn decide(&mut self) -> Result<(), String> {
        let leading: Vec<_> = (0..NODES).filter(|&n| self.nodes[n].alive && self.nodes[n].leading).collect();
        if leading.is_empty() {
            let best = (0..NODES).filter(|&n| self.nodes[n].alive && self.nodes[n].complete);
            if let Some(best) = best.max_by_key(|&n| self.nodes[n].end()) {
                self.promote(best)?;
            }
            return Ok(());
        }
        let chosen = leading[self.random.below(leading.len() as u64) as usize];
        if self.nodes[chosen].primary.writable(self.now_ms) == Err(primary::WriteRefusal::Paused) {
            // In the middle of a failover: a new history ends that.
            self.nodes[chosen].follows = None;
            self.restart(chosen)?;
            self.promote(chosen)?;
        }
        self.leader = Some(chosen);
        self.forget_promises();
        self.all_follow(chosen)
    }

    /// All others follow the leader, the last of them through another.
    fn all_follow(&mut self, leader: usize) -> Result<(), String> {
        let others: Vec<_> = (0..NODES).filter(|&n| n != leader).collect();
        for &n in &others {
            let target = if n == others[2] { others[0] } else { leader };
            self.nodes[n].follows = Some(target);
            if self.nodes[n].alive {
                self.follow(n, target)?;
            }
        }
        Ok(())
    }

    fn forget_promises(&mut self) {
        self.pending.clear();
        self.pending_durable.clear();
        self.acked.clear();
        self.acked_durable.clear();
    }

    /// A node leads by a new history. If there is to be only one, it has to have everything that was promised.
    pub fn crowned(&mut self, n: usize) -> Result<(), String> {
        self.say(|| format!("{n} leads"));
        if self.leader.is_none() {
            return Ok(());
        }
        if let Some(lost) = self.acked.iter().find(|w| !self.nodes[n].holds(w.0, w.1))
            && !self.forced
        {
            return Err(format!("node {n} leads without {lost:?}, which was acknowledged"));
        }
        let node = &self.nodes[n];
        self.acked.retain(|w| node.holds(w.0, w.1));
        self.leader = Some(n);
        self.forced = false;
        self.pending.clear();
        self.pending_durable.clear();
        self.acked_durable.clear();
        Ok(())
    }

    /// What has to hold after every step.
    pub fn judge(&mut self) -> Result<(), String> {
        self.note_commits()?;
        let mut writable = 0;
        for (n, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
            // Mistakes have to be found by what comes of them.
            if self.mistake == Mistake::None {
                node.primary.validate();
                node.replica.validate();
            }
            if let Some(queued) = node.primary.queued_bytes().find(|&q| q > 2 * QUEUE_BYTES_MAX) {
                return Err(format!("node {n}: {queued} bytes are queued for a replica"));
            }
            if node.leading && node.primary.writable(self.now_ms) != Err(primary::WriteRefusal::Paused) {
                writable += 1;
            }
            let exact = self.ledger.digest(&node.chain, node.applied) == Some(node.state.digest());
            if node.complete && !exact {
                return Err(format!("node {n}: its data is not what its log makes up to {}", node.applied));
            }
        }
        if writable > 1 && self.leader.is_some() {
            return Err(format!("{writable} nodes accept writes"));
        }
        self.note_acknowledged();
        Ok(())
    }

    fn note_commits(&mut self) -> Result<(), String> {
        for n in (0..NODES).filter(|&n| self.nodes[n].leading && self.nodes[n].alive) {
            let node = &self.nodes[n];
            let (last, commit) = (node.chain.last(), node.primary.commit());
            let from = match self.commit_noted[n] {
                (tag, upto) if tag == last.id as u64 => upto,
                _ => 0,
            };
            for index in from + 1..=commit {
                self.committed.extend(node.chain.at(index).map(|history| (history, index)));
            }
            self.commit_noted[n] = (last.id as u64, commit);
        }
        Ok(())
    }

    /// Writes of the leader whose replies leave now.
    fn note_acknowledged(&mut self) {
        let Some(leader) = self.leader.filter(|&l| self.nodes[l].alive && self.nodes[l].leading) else { return };
        if self.min_insync < 2 {
            return;
        }
        let primary = &self.nodes[leader].primary;
        let (commit, durable) = (primary.commit(), primary.commit_durable());
        for (pending, acked, count, upto) in [
            (&mut self.pending, &mut self.acked, &mut self.seen.acked, commit),
            (&mut self.pending_durable, &mut self.acked_durable, &mut self.seen.acked_durable, durable),
        ] {
            let done = pending.iter().take_while(|w| w.1 <= upto).count();
            acked.extend(pending.drain(..done));
            *count += done as u64;
        }
    }

    /// Nothing is disturbed any more: one leads, all others follow it, and then all are alike.
    pub fn come_to_rest(&mut self) -> Result<(), String> {
        self.quiet = true;
        for n in 0..NODES {
            self.nodes[n].stalled_until_ms = 0;
            if !self.nodes[n].alive {
                self.reboot(n)?;
            }
        }
        for connection in &mut self.connections {
            connection.pace = 100;
        }
        // A failover that is under way ends by itself; one that leaves nobody who leads is for the operator to settle.
        for step in 0..STEPS_TO_REST {
            self.step()?;
            if step % 3_000 == 2_999 && !self.settled() {
                self.leader = None;
                self.decide()?;
                self.decide()?;
            }
            if step % 20 == 0 && self.at_rest() {
                return self.all_alike();
            }
        }
        let states: Vec<_> =
            (0..NODES).map(|n| (self.nodes[n].follows, self.nodes[n].end(), &self.nodes[n].replica)).collect();
        Err(format!("no rest: leader {:?}, {states:#?}", self.leader))
    }

    /// One node leads and accepts writes, and the others follow it.
    fn settled(&self) -> bool {
        let leading: Vec<_> = (0..NODES).filter(|&n| self.nodes[n].leading).collect();
        leading.len() == 1
            && self.nodes[leading[0]].primary.writable(self.now_ms) != Err(primary::WriteRefusal::Paused)
            && self.leader == Some(leading[0])
            && (0..NODES).all(|mut n| {
                (0..NODES).any(|_| {
                    let there = n == leading[0];
                    n = self.nodes[n].follows.unwrap_or(n);
                    there
                })
            })
    }

    fn at_rest(&self) -> bool {
        let Some(leader) = self.leader.filter(|_| self.settled()) else { return false };
        let end = self.nodes[leader].end();
        self.nodes[leader].primary.commit() == end
            && self.nodes.iter().enumerate().filter(|&(n, _)| n != leader).all(|(_, node)| {
                node.replica.is_streaming() && node.replica.is_readable() && node.end() == end && node.applied == end
            })
    }

    fn all_alike(&self) -> Result<(), String> {
        let first = &self.nodes[0];
        let alike = self.nodes.iter().all(|node| {
            node.state == first.state && node.chain.at(node.end()) == first.chain.at(first.end()) && node.complete
        });
        if alike { Ok(()) } else { Err("nodes at rest differ".into()) }
    }
}
