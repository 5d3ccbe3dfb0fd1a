//! From raft's state to what the data cores and the clients know of the cluster.
//!
//! Owned by the control core.

use std::rc::Rc;
use std::sync::Arc;

use super::Member;
use crate::cluster::{CorePorts, Endpoint, Gate, Identity, NodeId, Roles, View};
use crate::control::Control;
use crate::net::forward::Message;
use crate::raft::command::Profile;
use crate::raft::state::{Node, Partition, State};

/// The view of a state. `dead` says which nodes are taken for dead.
pub(super) fn of_state(
    state: &State,
    member: &Member,
    number: u64,
    partitions: u16,
    copies_min: usize,
    dead: &[NodeId],
) -> View {
    let mut nodes: Vec<Endpoint> = Vec::new();
    let mut ids: Vec<NodeId> = Vec::new();
    for node in state.nodes() {
        ids.push(node.id);
        nodes.push(Endpoint {
            id: Identity(node.identity).to_string(),
            host: node.profile.host.clone(),
            port: node.profile.port,
            alive: !dead.contains(&node.id),
            cores: core_ports(&node.profile),
        });
    }
    let me = ids.iter().position(|&id| id == member.me).unwrap_or_else(|| {
        // It has joined, and its state does not say so yet.
        ids.push(member.me);
        let id = Identity(member.identity).to_string();
        nodes.push(Endpoint { id, host: String::new(), port: 0, alive: true, cores: None });
        ids.len() - 1
    });
    let place = |node: NodeId| ids.iter().position(|&id| id == node).map(|at| at as u16);
    let stays = |node: &&Node| node.incarnation > 0 && !state.orders().leaves(node.id);
    let wanted = copies_min.min(state.nodes().iter().filter(stays).count());
    let roles = |partition: u16, known: Option<&Partition>| {
        let Some(known) = known.filter(|known| known.epoch > 0) else { return Roles::default() };
        let (leader, gate) = match known.primary {
            Some(node) if node == member.me => {
                let gate = member.gate(partition);
                (Some(me as u16).filter(|_| gate.is_some()), gate.unwrap_or_default())
            }
            Some(node) if member.awaits(partition) => (place(node), Gate::Closed),
            other => (other.and_then(place), Gate::Open),
        };
        let followers = known.in_sync.iter().filter(|&&node| Some(node) != known.primary);
        let expected = || known.in_sync.iter().find(|node| !dead.contains(node)).and_then(|&node| place(node));
        Roles {
            epoch: known.epoch,
            leader,
            expected: if leader.is_none() { expected() } else { None },
            gate,
            followers: followers.filter_map(|&node| place(node)).collect(),
            few_in_sync: known.in_sync.len() < wanted,
        }
    };
    let roles = (0..partitions).map(|partition| roles(partition, state.partition(partition))).collect();
    // Before its process is registered, what a node knows may be of long ago.
    let informed = member.registered.get();
    let epoch = if informed { state.partitions().iter().map(|partition| partition.epoch).sum() } else { 0 };
    View::new(nodes, me, roles, epoch, number)
}

/// Where clients reach the cores of a node, if they are told.
fn core_ports(profile: &Profile) -> Option<CorePorts> {
    let Profile { core_port: first, cores: count, .. } = *profile;
    (first > 0 && count > 0).then_some(CorePorts { first, count })
}

impl Control {
    /// Tells data cores what the cluster looks like now, if that has changed. What only clients may care for waits for the next
    /// tick: while copies move, sets change all the time, and each view wakes all data cores.
    pub(super) fn show_view(self: &Rc<Self>) {
        self.make_view(Due::Soon);
    }

    /// Tells them what has waited.
    pub(super) fn show_late_view(self: &Rc<Self>) {
        if self.member().is_some_and(|member| member.view_late.get()) {
            self.make_view(Due::Changed);
        }
    }

    /// Tells them in any case; the number of the view.
    pub(super) fn show_new_view(self: &Rc<Self>) -> u64 {
        self.make_view(Due::Always);
        self.member().map_or(0, |member| member.views.get())
    }

    fn make_view(self: &Rc<Self>, due: Due) {
        let Some(member) = self.member() else { return };
        let config = self.config();
        let copies_min = usize::from(config.min_insync.max(MIN_INSYNC)).min(usize::from(config.cluster_copies));
        let number = member.views.get() + 1;
        let dead = self.dead_nodes();
        let view = {
            let partitions = self.keyspace.partitions;
            member.with_roles(|state| of_state(state, &member, number, partitions, copies_min, &dead))
        };
        let differs =
            |same: fn(&View, &View) -> bool| member.shown.borrow().as_ref().is_none_or(|shown| !same(shown, &view));
        let is_due = match due {
            Due::Soon => differs(View::serves_as),
            Due::Changed => differs(View::is_same_as),
            Due::Always => true,
        };
        member.view_late.set(!is_due && differs(View::is_same_as));
        if !is_due {
            return member.view_says_all();
        }
        member.shown_at.borrow_mut().push_back((number, member.seat.applied()));
        member.views.set(number);
        member.gates_shown(number);
        let view = Arc::new(view);
        *member.shown.borrow_mut() = Some(Arc::clone(&view));
        member.view_is_shown();
        // What a partition begins with may not be committed: that comes before anybody is shown any of it.
        let committed = member.committed();
        let mut log = self.log.borrow_mut();
        log.tell_progress(&committed);
        log.tell_all(|| Message::View(Arc::clone(&view)));
        drop(log);
        self.flush();
    }
}

impl Member {
    /// What raft has said since the last view changes nothing for those who serve.
    pub(super) fn view_says_all(&self) {
        let (number, applied) = (self.views.get(), self.seat.applied());
        let mut shown_at = self.shown_at.borrow_mut();
        match shown_at.back_mut() {
            Some((view, said)) if *view == number => *said = applied,
            _ => shown_at.push_back((number, applied)),
        }
        drop(shown_at);
        self.gates_shown(number);
        self.view_is_shown();
    }
}

/// Copies that have to be in sync for what waits for copies, if there are as many nodes.
const MIN_INSYNC: u16 = 2;

/// When a view is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    /// If it changes how this node serves.
    Soon,
    /// If it says anything new.
    Changed,
    Always,
}
