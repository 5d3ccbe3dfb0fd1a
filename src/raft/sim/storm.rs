//! What goes wrong, and what nodes do meanwhile: they serve clients, and look who is in sync.

use std::rc::Rc;
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use super::executor::{self, Process};
use super::network::Host;
use super::node::Member;
use super::{HOSTS, Mistake, PARTITIONS, World};
use crate::raft::command::{Command, InSyncChange, NodeId};
use crate::raft::types::Runtime;

/// What a machine loses when its process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Nothing that was written.
    Memory,
    /// What was not synced.
    Power,
    /// Everything.
    Disk,
}

impl World {
    /// Things go wrong from now on.
    pub fn storm(self: &Rc<World>) {
        self.network.slow.set(self.below(12));
        self.network.lossy.set(self.below(8));
        self.let_data_move();
        let world = Rc::clone(self);
        self.executor.spawn(Process::WORLD, async move {
            while !world.calm.get() {
                Runtime::sleep(Duration::from_micros(20_000 + world.below(400_000))).await;
                if !world.calm.get() {
                    world.disturb();
                }
            }
        });
    }

    /// Nothing goes wrong any more; everything that can runs, but perhaps one that stays dead.
    pub fn heal(self: &Rc<World>) {
        self.say(|| "all is healed".into());
        self.network.slow.set(0);
        self.network.lossy.set(0);
        self.network.heal();
        self.calm.set(true);
        self.data.iter().for_each(|data| data.tell(|data| data.quieten()));
        // With one that is lost for ever, another one may be too many.
        let may_be_dead = self.percent(50) && self.seen.borrow().wipes == 0 && self.data.is_none();
        let dead = may_be_dead.then(|| self.below(HOSTS as u64) as Host);
        for host in self.hosts() {
            let process = self.machines.borrow()[host].process;
            match process {
                Some(_) if dead == Some(host) => self.kill(host, Loss::Memory),
                Some(process) => {
                    self.executor.resume(process);
                    self.stall_data(process, 0);
                }
                None if dead == Some(host) => {}
                None => self.start(host),
            }
        }
    }

    /// The process of a machine ends.
    fn kill(&self, host: Host, loss: Loss) {
        self.say(|| format!("host {host} dies, and loses {loss:?}"));
        let process = self.machines.borrow()[host].process;
        if let Some(process) = process {
            self.end(process);
        }
        let (disk, dir) = {
            let machine = &mut self.machines.borrow_mut()[host];
            (Rc::clone(&machine.disk), machine.dir.clone())
        };
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).expect("a directory can be made");
        match loss {
            Loss::Memory => disk.kill(&dir),
            Loss::Power => disk.cut_power(&dir, || self.percent(50)),
            Loss::Disk => {}
        }
    }

    /// The process of a machine ends, and its files are gone.
    pub fn lose_everything(&self, host: Host) {
        self.kill(host, Loss::Disk);
    }

    fn kill_for(self: &Rc<World>, host: Host, loss: Loss, for_us: u64) {
        self.note(|seen| match loss {
            Loss::Memory => seen.kills += 1,
            Loss::Power => seen.power_cuts += 1,
            Loss::Disk => seen.wipes += 1,
        });
        self.kill(host, loss);
        self.start_after(host, Duration::from_micros(for_us));
    }

    /// Unless all was healed by then, and one was left dead.
    pub fn start_after(self: &Rc<World>, host: Host, pause: Duration) {
        let world = Rc::clone(self);
        self.executor.spawn(Process::WORLD, async move {
            Runtime::sleep(pause).await;
            let runs = world.machines.borrow()[host].process.is_some();
            if !runs && !world.calm.get() {
                world.start(host);
            }
        });
    }

    fn disturb(self: &Rc<World>) {
        let leader =
            self.members.borrow().iter().find(|member| member.raft.is_leader()).map(|member| member.caller.host);
        let host = self.below(HOSTS as u64) as Host;
        // Leaders are worth more.
        let host = leader.filter(|_| self.percent(30)).unwrap_or(host);
        let for_us = if self.percent(50) { self.below(400_000) } else { self.below(2_000_000) };
        let process = self.machines.borrow()[host].process;
        match (self.below(14), process) {
            (0 | 1, Some(_)) => self.kill_for(host, Loss::Memory, 10_000 + for_us),
            (2, Some(_)) => self.kill_for(host, Loss::Power, 10_000 + for_us),
            (3, Some(process)) if self.member(process).is_some() => self.move_away(host, process),
            (4..=6, Some(process)) => {
                self.say(|| format!("host {host} is suspended for {} ms", for_us / 1_000));
                self.note(|seen| seen.suspensions += 1);
                let until_ns = self.executor.now_ns() + for_us * 1_000;
                self.executor.suspend(process, until_ns);
                self.stall_data(process, until_ns / 1_000_000 + 1);
            }
            (7 | 8, _) => self.cut_off(host),
            (9, _) => self.network.heal(),
            (10, Some(process)) => self.snapshot(process),
            (12 | 13, Some(process)) => self.order(process),
            (11, Some(process)) if self.percent(30) && self.data.is_none() => self.lose_disk(host, process),
            _ => {}
        }
    }

    /// The data of a process is touched by nobody until then.
    fn stall_data(&self, process: Process, until_ms: u64) {
        if let (Some(data), Some(member)) =
            (&self.data, self.member(process).filter(|_| self.network.hears_of(process)))
        {
            data.tell(|data| data.stalls(member.me, until_ms));
        }
    }

    fn cut_off(&self, host: Host) {
        self.say(|| format!("host {host} is cut off"));
        self.note(|seen| seen.cuts += 1);
        for other in self.hosts().into_iter().filter(|other| *other != host) {
            let (from, to) = if self.percent(50) { (host, other) } else { (other, host) };
            if self.percent(80) {
                self.network.cut(from, to);
                if self.percent(60) {
                    self.network.cut(to, from);
                }
            }
        }
    }

    /// The directory is moved, and the process runs on where nobody hears of it.
    fn move_away(self: &Rc<World>, host: Host, process: Process) {
        self.say(|| format!("the process of host {host} runs on elsewhere"));
        self.note(|seen| seen.ghosts += 1);
        self.lose_data(process);
        self.network.isolate(process);
        let dir = self.new_dir();
        std::fs::create_dir(&dir).expect("a directory can be made");
        {
            let machine = &mut self.machines.borrow_mut()[host];
            machine.disk.kill(&dir);
            // What it writes from now on is not in its directory, and it must not believe that it is.
            machine.disk.set_pause(|| Box::pin(std::future::pending()));
            (machine.dir, machine.process) = (dir, None);
        }
        self.start_after(host, Duration::from_millis(self.below(40)));
    }

    /// A disk is lost; the node joins as a new one. Once, and while all five vote, so that a quorum is left whatever comes.
    fn lose_disk(self: &Rc<World>, host: Host, process: Process) {
        let Some(member) = self.member(process).filter(|_| self.seen.borrow().wipes == 0 && self.voters() == HOSTS)
        else {
            return;
        };
        {
            let machine = &mut self.machines.borrow_mut()[host];
            match self.mistake {
                Mistake::NumberAgain => machine.home.number = Some(member.me),
                _ => machine.home = self.new_home(host, None),
            }
        }
        self.kill_for(host, Loss::Disk, 10_000);
    }

    /// A snapshot is made, and the log is purged.
    fn snapshot(&self, process: Process) {
        let Some(member) = self.member(process) else { return };
        self.note(|seen| seen.snapshots += 1);
        let kept = self.below(4);
        self.executor.spawn(process, async move {
            let _ = member.raft.trigger().snapshot().await;
            Runtime::sleep(Duration::from_millis(20)).await;
            let _ = member.raft.trigger().purge_log(member.seat.applied().saturating_sub(kept)).await;
        });
    }

    /// Whether a node is there for another one.
    fn reaches(&self, from: Host, id: NodeId) -> bool {
        let members = self.network.members();
        members.iter().any(|member| {
            let to = member.caller.host;
            member.me == id
                && !self.executor.is_suspended(member.caller.process)
                && !self.network.is_cut(from, to)
                && !self.network.is_cut(to, from)
                && member.is_complete()
        })
    }
}

impl Member {
    /// Requests are executed, and answered if the lease is valid then.
    pub async fn serve_clients(&self) {
        let leads = |partition: u16| {
            let shown = self.shown.borrow();
            let is = shown.partition(partition)?;
            let known = shown.node(self.me).is_some_and(|node| node.boot == self.boot);
            let leads = known && is.primary == Some(self.me) && !self.is_closed(partition, is.epoch);
            leads.then_some(is.epoch)
        };
        let is_valid = || self.now_ms() < self.lease_ends_ms.get();
        let lease_first = self.world.mistake == Mistake::LeaseFirst;
        loop {
            Runtime::sleep(Duration::from_micros(2_000 + executor::random() % 8_000)).await;
            for partition in 0..PARTITIONS {
                let Some(epoch) = leads(partition).filter(|_| is_valid() || !lease_first) else { continue };
                // It is executed; replies leave at the end of the turn, which others of its requests may make long.
                Runtime::sleep(Duration::from_micros(executor::random() % 4_000)).await;
                if lease_first || (is_valid() && leads(partition) == Some(epoch)) {
                    self.world.answers(self, partition, epoch);
                }
            }
        }
    }

    /// A primary looks who is in sync.
    pub async fn look_who_is_in_sync(&self) {
        loop {
            Runtime::sleep(Duration::from_millis(20 + executor::random() % 60)).await;
            let changes = self.changes_of_sets();
            if !changes.is_empty() {
                let _ = self.propose(Command::SetInSync { changes }).await;
            }
        }
    }

    fn changes_of_sets(&self) -> Vec<InSyncChange> {
        let state = self.reader.state();
        let mut changes = Vec::new();
        for (partition, is) in (0..).zip(state.partitions()) {
            if self.serves(partition).is_none() {
                continue;
            }
            let there = |id: &NodeId| *id == self.me || self.world.reaches(self.caller.host, *id);
            let in_sync: Vec<NodeId> = is.replicas.iter().copied().filter(there).collect();
            if in_sync != is.in_sync {
                let in_sync = in_sync.iter().filter_map(|id| state.member(*id)).collect();
                changes.push(InSyncChange { partition, epoch: is.epoch, version: is.in_sync_version, in_sync });
            }
        }
        changes
    }
}
