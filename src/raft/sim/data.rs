//! Data, over the simulated raft: [`crate::streams::sim`] has the logs and the data of the nodes, and the shipped machines that
//! replicate them; here it is told who runs, who leads, and for how long.
//!
//! Owned by the thread that simulates. Invariant: the data is not borrowed when its world is asked something.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use super::executor::{self, Process};
use super::node::Member;
use super::{HOSTS, World};
use crate::raft::command::{Command, Epoch, Move, NodeId, Reply};
use crate::raft::types::Runtime;
use crate::streams::sim::{Around, Mistake};
use crate::streams::{InSyncChange, Index, PartitionId, sim};

/// All data.
pub struct Data(RefCell<sim::World>);

struct Decides(Weak<World>);

impl Decides {
    fn member(&self, n: NodeId) -> Option<(Rc<World>, Rc<Member>)> {
        let world = self.0.upgrade()?;
        let member = world.network.members().into_iter().find(|member| member.me == n)?;
        Some((world, member))
    }
}

impl Around for Decides {
    fn may_answer(&self, n: NodeId, p: PartitionId, epoch: Epoch) -> bool {
        self.member(n).is_some_and(|(_, member)| member.may_serve(p) == Some(epoch))
    }

    fn answers(&self, n: NodeId, p: PartitionId, epoch: Epoch) {
        if let Some((world, member)) = self.member(n) {
            world.answers(&member, p, epoch);
        }
    }

    fn propose(&self, n: NodeId, change: InSyncChange) {
        let Some((world, member)) = self.member(n) else { return };
        let process = member.caller.process;
        world.clone().executor.spawn(process, async move {
            let changes = vec![change.clone()];
            if let Some(Reply::InSync { changed: 0, .. } | Reply::Refused(_)) =
                member.propose(Command::SetInSync { changes }).await
                && let Some(data) = &world.data
            {
                data.0.borrow_mut().is_refused(n, &change);
            }
        });
    }

    fn reach(&self, n: NodeId, of: Move, reached: Index, lacking: Vec<PartitionId>) {
        let Some((world, member)) = self.member(n) else { return };
        let process = member.caller.process;
        world.clone().executor.spawn(process, async move {
            let by = member.reader.state().member(n);
            if let Some(by) = by {
                // If it is lost it is said again.
                member.propose(Command::Reach { of, by, reached, lacking }).await;
            }
        });
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        let host = |n| self.member(n).map(|(_, member)| member.caller.host);
        let world = self.0.upgrade();
        host(from).zip(host(to)).zip(world).is_none_or(|((from, to), world)| world.network.is_cut(from, to))
    }
}

impl Data {
    pub fn new(seed: u64, mistake: Mistake, world: &Weak<World>) -> Data {
        let around = Box::new(Decides(Weak::clone(world)));
        Data(RefCell::new(sim::World::around(seed, mistake, HOSTS as u64, around)))
    }

    pub fn leads(&self, n: NodeId, p: PartitionId, epoch: Epoch) -> bool {
        self.0.borrow().leads(n, p, epoch)
    }

    pub fn has_all(&self, n: NodeId) -> bool {
        self.0.borrow().has_all(n)
    }

    pub fn tell(&self, what: impl FnOnce(&mut sim::World)) {
        what(&mut self.0.borrow_mut());
    }

    /// Why it is not at rest.
    pub fn unrest(&self) -> Option<String> {
        self.0.borrow_mut().rests()
    }

    pub fn acknowledged(&self) -> u64 {
        self.0.borrow().acknowledged()
    }
}

impl World {
    /// Data moves.
    pub fn let_data_move(self: &Rc<World>) {
        let world = Rc::clone(self);
        self.executor.spawn(Process::WORLD, async move {
            loop {
                Runtime::sleep(Duration::from_micros(300 + executor::random() % 500)).await;
                let Some(data) = &world.data else { return };
                let now_ms = world.executor.now_ns() / 1_000_000;
                if let Err(why) = data.0.borrow_mut().goes_on(now_ms) {
                    world.accuse(|| why);
                }
                let processes: Vec<Process> =
                    world.network.members().iter().map(|member| member.caller.process).collect();
                processes.into_iter().for_each(|process| world.look_at(process));
            }
        });
    }
}
