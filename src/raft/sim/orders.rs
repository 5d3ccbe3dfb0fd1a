//! Operators, and what comes of their orders: nodes that leave and join again as new ones, roles that move while all live, raft
//! led by somebody else.
//!
//! A primary that is asked for roles closes them, and has them decided by raft: by the proposal that gives them away, or, if
//! nobody knows what became of that, by one that gives them to itself anew. In a cluster whose formats have successors
//! ([`crate::raft::successors`]) it has one named before, ends the roles, and tells that one and others so; or keeps them after all.

use std::rc::Rc;
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use super::executor::Process;
use super::network::{Host, host_of};
use super::node::Member;
use super::{HOSTS, Mistake, World, executor};
use crate::raft::command::{self, Command, Epoch, Move, Naming, NodeId, Order, Reply};
use crate::raft::govern::HandOver;
use crate::raft::successors::NAMING_VERSION;
use crate::raft::types::{Peer, Runtime};
use crate::streams::message::Release;

/// How long a primary may take to say that it was asked.
const ASK_PATIENCE: Duration = Duration::from_millis(500);

/// Between proposals about roles whose fate is not known.
const PAUSE: Duration = Duration::from_millis(20);

impl World {
    /// An operator orders something.
    pub fn order(self: &Rc<World>, process: Process) {
        let Some(member) = self.member(process).filter(|_| self.data.is_none()) else { return };
        let nodes: Vec<NodeId> = self.judged(|state| state.nodes().iter().map(|node| node.id).collect());
        let node = nodes[self.below(nodes.len() as u64) as usize];
        let order = match self.below(8) {
            // As long as enough are left to lose one of them.
            0..=3 if self.judged(|state| nodes.iter().all(|node| !state.orders().leaves(*node))) => {
                Order::Leave { node }
            }
            4 => Order::Stay { node },
            5 => Order::Pause,
            _ => Order::Rebalance,
        };
        if order.version() > self.judged(|state| state.orders().version()) || nodes.len() < HOSTS {
            return;
        }
        self.executor.spawn(process, async move {
            let _ = member.propose(Command::Order(order)).await;
        });
    }

    /// A process ends as its node is no member any more; its machine joins as a new one.
    pub fn leaves(self: &Rc<World>, host: Host, process: Process, node: NodeId) {
        if !self.judged(|state| state.node(node).is_none()) {
            self.accuse(|| format!("node {node} believes that it has left"));
        }
        let is_its = self.machines.borrow()[host].process == Some(process);
        if !is_its {
            return self.end(process);
        }
        self.note(|seen| seen.left += 1);
        self.machines.borrow_mut()[host].home = self.new_home(host, None);
        self.lose_everything(host);
        self.start_after(host, Duration::from_millis(20));
    }
}

impl Member {
    /// Asks a node for roles; with how many it has begun.
    pub async fn ask_for_roles(self: &Rc<Member>, primary: NodeId, request: HandOver) -> Option<u32> {
        let peer = self
            .reader
            .state()
            .node(primary)
            .map(|node| Peer { host: node.profile.host.clone(), bus_port: node.profile.bus_port });
        let (Some(peer), None) = (peer, &self.world.data) else { return None };
        if primary == self.me {
            return Some(self.hand_over(&request.moves, request.to));
        }
        let serve = move |other: Rc<Member>| async move { Some(other.hand_over(&request.moves, request.to)) };
        self.caller.call(host_of(&peer), Some(primary), ASK_PATIENCE, serve).await
    }

    /// Whether requests about a partition that this node leads in this epoch are held.
    pub fn is_closed(&self, partition: u16, epoch: Epoch) -> bool {
        self.closed.borrow().get(&partition) == Some(&epoch)
    }

    /// Gives roles away. How many are on their way.
    fn hand_over(self: &Rc<Self>, moves: &[Move], to: command::Member) -> u32 {
        let leads = |change: &&Move| {
            self.may_serve(change.partition) == Some(change.epoch)
                && !self.is_closed(change.partition, change.epoch)
                && !self.handing.borrow().contains(&change.partition)
                && self.shown.borrow().successor(change.partition).is_none()
        };
        let moves: Vec<Move> = moves.iter().filter(leads).copied().collect();
        let Some(me) = self.reader.state().member(self.me).filter(|_| !moves.is_empty()) else { return 0 };
        let (begun, member) = (moves.len() as u32, Rc::clone(self));
        if self.shown.borrow().orders().version() >= NAMING_VERSION {
            self.handing.borrow_mut().extend(moves.iter().map(|change| change.partition));
            Runtime::spawn(async move {
                member.end_roles(&moves, to).await;
                let partitions: Vec<u16> = moves.iter().map(|change| change.partition).collect();
                member.handing.borrow_mut().retain(|partition| !partitions.contains(partition));
            });
        } else {
            self.close(&moves);
            Runtime::spawn(async move { member.move_roles(moves, to, me).await });
        }
        begun
    }

    fn close(&self, moves: &[Move]) {
        self.closed.borrow_mut().extend(moves.iter().map(|change| (change.partition, change.epoch)));
    }

    /// The role may have come back meanwhile, in a later epoch, and be on its way again.
    fn open(&self, moves: &[Move]) {
        let ended =
            |partition, epoch| moves.iter().any(|change| (change.partition, change.epoch) == (partition, epoch));
        self.closed.borrow_mut().retain(|&partition, &mut epoch| !ended(partition, epoch));
    }

    /// Has raft decide on roles, and is open again once it is known what became of them.
    async fn move_roles(self: &Rc<Self>, moves: Vec<Move>, mut to: command::Member, me: command::Member) {
        // Requests that are being executed.
        Runtime::sleep(Duration::from_millis(5)).await;
        loop {
            match self.propose(Command::Lead { moves: moves.clone(), to }).await {
                Some(Reply::Moved { moved, .. }) => {
                    self.world.note(|seen| seen.handovers += u64::from(moved));
                    break;
                }
                Some(_) => break,
                None => to = me,
            }
            Runtime::sleep(PAUSE).await;
        }
        // Its own state may not have that yet: until then it would serve on. A node that was removed meanwhile is refused, and
        // never hears more: it stays closed until it ends.
        while !moves.iter().all(|change| self.is_past(change)) {
            let _ = self.propose(Command::Lead { moves: moves.clone(), to: me }).await;
            Runtime::sleep(PAUSE).await;
        }
        self.open(&moves);
    }

    /// Whether those who serve know of another epoch.
    fn is_past(&self, change: &Move) -> bool {
        self.shown.borrow().partition(change.partition).is_some_and(|is| is.epoch != change.epoch)
    }

    /// Has a successor named, and ends the roles for it.
    async fn end_roles(self: &Rc<Self>, moves: &[Move], to: command::Member) {
        let _ = self.propose(Command::Name { moves: moves.to_vec(), to }).await;
        let named = |change: &Move| -> Option<Release> {
            let shown = self.shown.borrow();
            let is_led = shown.partition(change.partition)?.epoch == change.epoch;
            let successor =
                shown.successor(change.partition).filter(|named| is_led && named.to == to && !named.gone)?;
            Some(Release { partition: change.partition, epoch: change.epoch, naming: successor.number })
        };
        // It may hear of that later, or never.
        Runtime::sleep(Duration::from_millis(executor::random() % 10)).await;
        let closed: Vec<Move> = moves.iter().filter(|change| named(change).is_some()).copied().collect();
        if !self.world.mistake_is(Mistake::EndInName) {
            self.close(&closed);
        }
        // Requests that are being executed.
        Runtime::sleep(Duration::from_millis(5)).await;
        if executor::random().is_multiple_of(5) {
            return self.open(&closed);
        }
        let ended: Vec<Move> = closed.iter().filter(|change| named(change).is_some()).copied().collect();
        let releases: Vec<Release> = ended.iter().filter_map(named).collect();
        let kept: Vec<Move> = closed.iter().filter(|change| !ended.contains(change)).copied().collect();
        self.open(&kept);
        if self.world.mistake_is(Mistake::KeepWhatIsEnded) {
            self.open(&ended);
        } else if !self.world.mistake_is(Mistake::EndInName) {
            self.hears_of_end(self.me, &releases);
        }
        self.world.note(|seen| seen.ended += releases.len() as u64);
        self.tell(to.node, &releases).await;
        let others: Vec<NodeId> = self.shown.borrow().nodes().iter().map(|node| node.id).collect();
        for other in others.into_iter().filter(|other| *other != to.node && *other != self.me) {
            self.tell(other, &releases).await;
        }
        // Whoever follows asks again if it has missed that.
        while !ended.iter().all(|change| self.is_past(change)) {
            Runtime::sleep(PAUSE).await;
            self.tell(to.node, &releases).await;
        }
        self.open(&ended);
    }

    async fn tell(self: &Rc<Self>, node: NodeId, releases: &[Release]) {
        let peer = self.reader.state().node(node).map(|node| host_of_profile(&node.profile));
        let (Some(host), false) = (peer, releases.is_empty()) else { return };
        let (by, releases) = (self.me, releases.to_vec());
        let serve = move |other: Rc<Member>| async move {
            other.hears_of_end(by, &releases);
            Some(())
        };
        self.caller.call(host, Some(node), ASK_PATIENCE, serve).await;
    }

    fn hears_of_end(&self, by: NodeId, releases: &[Release]) {
        self.ahead.borrow_mut().note(self.now_ms() as u64, by, releases);
    }

    /// Tells raft of roles that have gone over, and of those that stay.
    pub async fn say_who_leads(self: &Rc<Self>) {
        loop {
            Runtime::sleep(PAUSE).await;
            let unsaid = self.ahead.borrow().unsaid(self.now_ms() as u64, &self.reader.state(), self.me);
            for (to, moves) in unsaid {
                if let Some(Reply::Moved { moved, .. }) = self.propose(Command::Lead { moves, to }).await {
                    self.world.note(|seen| seen.handovers += u64::from(moved));
                }
            }
            let namings: Vec<Naming> = {
                let (state, handing) = (self.reader.state(), self.handing.borrow());
                let is_kept = |partition: &u16| {
                    let is_led = state.partition(*partition).is_some_and(|is| is.primary == Some(self.me));
                    is_led && !handing.contains(partition)
                };
                let kept = state.successors().iter().filter(|(partition, _)| is_kept(partition));
                kept.map(|(partition, successor)| Naming { partition, number: successor.number }).collect()
            };
            if !namings.is_empty()
                && let Some(Reply::Named { named, .. }) = self.propose(Command::Keep { namings }).await
            {
                self.world.note(|seen| seen.kept += u64::from(named));
            }
        }
    }
}

fn host_of_profile(profile: &command::Profile) -> Host {
    host_of(&Peer { host: profile.host.clone(), bus_port: profile.bus_port })
}
