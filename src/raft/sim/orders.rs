//! Operators, and what comes of their orders: nodes that leave and join again as new ones, roles that move while all live, raft
//! led by somebody else.
//!
//! A primary that is asked for roles closes them, and has them decided by raft: by the proposal that gives them away, or, if
//! nobody knows what became of that, by one that gives them to itself anew.

use std::rc::Rc;
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use super::executor::Process;
use super::network::{Host, host_of};
use super::node::Member;
use super::{HOSTS, World};
use crate::raft::command::{self, Command, Epoch, Move, NodeId, Order, Reply};
use crate::raft::govern::HandOver;
use crate::raft::types::{Peer, Runtime};

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

    /// Gives roles away, and is open again once it is known what became of them. How many are on their way.
    fn hand_over(self: &Rc<Member>, moves: &[Move], to: command::Member) -> u32 {
        let leads = |change: &&Move| {
            self.may_serve(change.partition) == Some(change.epoch) && !self.is_closed(change.partition, change.epoch)
        };
        let moves: Vec<Move> = moves.iter().filter(leads).copied().collect();
        let Some(me) = self.reader.state().member(self.me).filter(|_| !moves.is_empty()) else { return 0 };
        let begun = moves.len() as u32;
        self.closed.borrow_mut().extend(moves.iter().map(|change| (change.partition, change.epoch)));
        let member = Rc::clone(self);
        Runtime::spawn(async move {
            let mut to = to;
            // Requests that are being executed.
            Runtime::sleep(Duration::from_millis(5)).await;
            loop {
                match member.propose(Command::Lead { moves: moves.clone(), to }).await {
                    Some(Reply::Moved { moved, .. }) => {
                        member.world.note(|seen| seen.handovers += u64::from(moved));
                        break;
                    }
                    Some(_) => break,
                    None => to = me,
                }
                Runtime::sleep(PAUSE).await;
            }
            // Its own state may not have that yet: until then it would serve on. A node that was removed meanwhile is refused, and
            // never hears more: it stays closed until it ends.
            let stale = |change: &Move| {
                let shown = member.shown.borrow();
                shown.partition(change.partition).is_some_and(|is| is.epoch != change.epoch)
            };
            while !moves.iter().all(stale) {
                let _ = member.propose(Command::Lead { moves: moves.clone(), to: me }).await;
                Runtime::sleep(PAUSE).await;
            }
            // The role may have come back meanwhile, in a later epoch, and be on its way again.
            let ended =
                |partition, epoch| moves.iter().any(|change| (change.partition, change.epoch) == (partition, epoch));
            member.closed.borrow_mut().retain(|&partition, &mut epoch| !ended(partition, epoch));
        });
        begun
    }
}
