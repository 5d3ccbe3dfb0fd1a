//! The shell of handovers ([`crate::streams::leader::handover`]): roles go to another node while both live.
//!
//! | who wants it | how |
//! | --- | --- |
//! | the leader of raft, so that roles are even | asks the primary, by way of the bus |
//! | an operator: CLUSTER FAILOVER at the node that is to lead | that node asks all primaries of what it is in sync for |
//! | a node that is about to end | gives away all that it leads |
//!
//! A role of which raft says in advance who may lead it next goes over without its log, which is told afterwards: by whoever leads it
//! then, or, after a while, by the one before ([`crate::streams::ahead`]).
//!
//! What nobody leads goes to a node by [`super::force`].
//!
//! Owned by the control core.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::Member;
use crate::cluster::{Gate, NodeId};
use crate::control::Control;
use crate::raft::command::{self, Command, Move, PartitionId};
use crate::raft::govern::HandOver;
use crate::raft::types::Peer;
use crate::streams::leader::handover::{HANDOVER_MS, Stage};
use crate::streams::message::Release;

/// How long a proposal to move roles may take.
const PROPOSE_PATIENCE: Duration = Duration::from_secs(1);

/// How long a node may take to say that it has begun with what it was asked for.
const ASK_PATIENCE: Duration = Duration::from_millis(500);

/// How long requests wait at most for whoever leads now to be open for them.
const AWAIT_MS: u64 = HANDOVER_MS / 2;

impl Member {
    /// Returns when the state here has this entry of raft's log.
    pub(super) async fn wait_applied(&self, index: u64) {
        let mut applied = self.reader.watch();
        while self.seat.applied() < index && applied.changed().await.is_ok() {}
    }

    /// What becomes of requests about a partition that raft says this node leads; None: it does not, for now.
    pub(super) fn gate(&self, partition: PartitionId) -> Option<Gate> {
        let streams = self.streams.borrow();
        let streams = streams.as_ref()?;
        if streams.leading.has(partition) {
            return streams.leader.gate(partition);
        }
        streams.follower.is_taking_over(partition).then_some(Gate::Closed)
    }

    /// Whether this node has handed a partition over, and whoever leads now is not known to be open yet.
    pub(super) fn awaits(&self, partition: PartitionId) -> bool {
        self.streams.borrow().as_ref().is_some_and(|streams| streams.awaited.contains_key(&partition))
    }

    /// The view of this number shows all gates as they are.
    pub(super) fn gates_shown(&self, view: u64) {
        if let Some(streams) = &mut *self.streams.borrow_mut() {
            let gates = streams.leader.gates();
            if streams.shown_gates.back().is_none_or(|(_, shown)| *shown != gates) {
                streams.shown_gates.push_back((view, gates));
            }
        }
    }

    /// The last change of gates that all data cores have seen who have seen this view.
    pub(super) fn gates_seen(&self, view: u64) -> Option<u64> {
        let mut streams = self.streams.borrow_mut();
        let shown = &mut streams.as_mut()?.shown_gates;
        let mut seen = None;
        while let Some((_, gates)) = shown.front().copied().filter(|(shown, _)| *shown <= view) {
            seen = Some(gates);
            shown.pop_front();
        }
        seen
    }

    /// Looks who of those that are waited for is open by now. Whether somebody is.
    fn look_at_awaited(&self, now_ms: u64) -> bool {
        let mut streams = self.streams.borrow_mut();
        let Some(streams) = &mut *streams else { return false };
        let before = streams.awaited.len();
        let (leader, follower, pauses) = (&streams.leader, &streams.follower, &mut streams.pauses);
        streams.awaited.retain(|&partition, until_ms| {
            let waits = now_ms < *until_ms && !follower.is_answered(partition);
            if !waits {
                pauses.end(partition);
            }
            waits
        });
        let awaited = &streams.awaited;
        pauses.keep(|partition| awaited.contains_key(&partition) || leader.gate(partition) != Some(Gate::Open));
        awaited.len() < before
    }

    /// Roles whose gates are closed from now on: requests about them wait.
    pub(super) fn pauses_begin(&self) {
        if let Some(streams) = &mut *self.streams.borrow_mut() {
            let leader = &streams.leader;
            let closed = |partition: &&PartitionId| leader.gate(**partition) != Some(Gate::Open);
            streams.pauses.close(leader.handovers().iter().filter(closed));
        }
    }
}

impl Control {
    /// Clients that have waited are sent to whoever leads now, if he is open.
    pub(super) fn look_at_awaited(self: &Rc<Self>, member: &Member) {
        if member.look_at_awaited(self.steady_ms()) {
            member.view_due.set(true);
            self.with_leader(|leader, now_ms, out| leader.tell_others(now_ms, out));
        }
    }

    /// This node has handed a partition over: requests wait until whoever leads now is open.
    pub(super) fn await_successor(&self, member: &Member, partition: PartitionId) {
        let until_ms = self.steady_ms() + AWAIT_MS;
        if let Some(streams) = &mut *member.streams.borrow_mut() {
            streams.awaited.insert(partition, until_ms);
        }
    }

    /// Proposes that roles of this node move.
    pub(super) fn propose_handover(self: &Rc<Self>, member: &Rc<Member>, moves: Vec<Move>, to: command::Member) {
        let command = Command::Lead { moves: moves.clone(), to };
        tracing::info!(%command, "roles are handed over");
        let (control, member) = (Rc::clone(self), Rc::clone(member));
        glommio::spawn_local(async move {
            match member.propose(command, PROPOSE_PATIENCE).await {
                Ok(proposed) => member.wait_applied(proposed.index).await,
                Err(error) if error.is_certain() => tracing::info!(%error, "the roles stay"),
                Err(error) => {
                    tracing::info!(%error, "it is not known whether the roles move");
                    return;
                }
            }
            // What the state says comes first.
            control.state_changed();
            control.with_leader(|leader, _, out| leader.decided(&moves, out));
            control.advance();
        })
        .detach();
    }

    /// A primary, perhaps this node, has ended what it led of these.
    pub(super) fn roles_go_over(self: &Rc<Self>, member: &Rc<Member>, by: NodeId, releases: &[Release]) {
        tracing::info!(by, count = releases.len(), "roles have gone over");
        member.ahead.borrow_mut().note(self.steady_ms(), by, releases);
        self.tell_roles();
        // What this node has released is closed, so that it can follow at once, and data cores have nothing to do before they hear
        // whom clients are sent to.
        self.finish_deposing(member);
        if by != member.me {
            member.view_due.set(true);
        }
    }

    /// Likewise, when what was sent before has left: who leads now is to begin.
    pub(super) fn roles_go_over_from_here(self: &Rc<Self>, member: &Rc<Member>, releases: Vec<Release>) {
        let (control, member) = (Rc::clone(self), Rc::clone(member));
        glommio::spawn_local(async move {
            // A task that is spawned runs at once.
            glommio::executor().yield_now().await;
            control.roles_go_over(&member, member.me, &releases);
            control.advance();
        })
        .detach();
    }

    /// Tells raft of roles that have gone over, until its state shows it.
    pub(super) fn say_who_leads(self: &Rc<Self>, member: &Rc<Member>) {
        let unsaid = member.ahead.borrow().unsaid(self.steady_ms(), &member.reader.state(), member.me);
        if unsaid.is_empty() || member.says_ahead.replace(true) {
            return;
        }
        let member = Rc::clone(member);
        glommio::spawn_local(async move {
            for (to, moves) in unsaid {
                let command = Command::Lead { moves, to };
                tracing::info!(%command, "roles were handed over");
                match member.propose(command, PROPOSE_PATIENCE).await {
                    Ok(proposed) => member.wait_applied(proposed.index).await,
                    Err(error) => tracing::info!(%error, "it is not known whether the cluster knows who leads"),
                }
            }
            member.says_ahead.set(false);
        })
        .detach();
    }

    /// A node asks this one for roles. How many are on their way.
    pub(super) fn hand_over(self: &Rc<Self>, request: &HandOver) -> u32 {
        let mut begun = 0;
        self.with_leader(|leader, now_ms, out| {
            begun = leader.hand_over(now_ms, &request.moves, request.to, request.moves.len(), out);
        });
        let HandOver { node, to, moves } = request;
        tracing::info!(node, to = to.node, asked = moves.len(), begun, "roles are asked for");
        self.advance();
        begun as u32
    }

    /// Asks a node for roles that it has. How many are on their way; None: it does not answer.
    pub(super) async fn ask_for_roles(
        self: &Rc<Self>,
        member: &Member,
        primary: NodeId,
        request: HandOver,
    ) -> Option<u32> {
        if primary == member.me {
            return Some(self.hand_over(&request));
        }
        let peer = {
            let state = member.reader.state();
            state.node(primary).map(|node| Peer { host: node.profile.host.clone(), bus_port: node.profile.bus_port })
        };
        let asked = member.bus.ask_for_roles(primary, &peer?, request, ASK_PATIENCE).await;
        asked
            .inspect_err(|error| tracing::info!(%error, primary, "a node that was asked for roles does not answer"))
            .ok()
    }

    /// DEBUG STOP-IN-HANDOVER: the process stops when a role that it hands over has come so far. Whether it has roles.
    pub(in crate::control) fn stop_in_handover(&self, stage: Option<Stage>) -> bool {
        self.member().map(|member| member.stops_in.set(stage)).is_some()
    }

    /// Stops the process, if that was asked for and a role has come so far: until somebody lets it go on (SIGCONT), or kills it.
    pub(super) fn stop_if_asked(&self, member: &Member) {
        let Some(asked) = member.stops_in.get() else { return };
        let streams = member.streams.borrow();
        if streams.as_ref().is_some_and(|streams| streams.leader.stages().any(|(_, stage)| stage == asked)) {
            member.stops_in.set(None);
            if let Err(error) = signal_hook::low_level::raise(signal_hook::consts::SIGSTOP) {
                tracing::warn!(%error, "the process does not stop");
            }
        }
    }

    /// CLUSTER FAILOVER: this node asks for all roles that it could have.
    pub(in crate::control) fn take_roles(self: &Rc<Self>) -> Result<(), TakeRolesError> {
        let member = self.member().ok_or(TakeRolesError::NoReplica)?;
        if !self.node.state.lease.is_valid_at(self.now_ms()) {
            return Err(TakeRolesError::NoLease);
        }
        let asked = {
            let state = member.reader.state();
            let to = state.member(member.me).ok_or(TakeRolesError::NoReplica)?;
            let mut asked = BTreeMap::new();
            for (partition, is) in (0..).zip(state.partitions()) {
                let Some(primary) = is.primary.filter(|primary| *primary != member.me) else { continue };
                if is.in_sync.contains(&member.me) {
                    let request =
                        asked.entry(primary).or_insert_with(|| HandOver { node: member.me, to, moves: Vec::new() });
                    request.moves.push(Move { partition, epoch: is.epoch });
                }
            }
            asked
        };
        if asked.is_empty() {
            return Err(TakeRolesError::NoReplica);
        }
        for (primary, request) in asked {
            let (control, member) = (Rc::clone(self), Rc::clone(&member));
            glommio::spawn_local(async move { control.ask_for_roles(&member, primary, request).await }).detach();
        }
        Ok(())
    }
}

/// Why a node asks for no roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::control) enum TakeRolesError {
    /// As Redis says it to a primary.
    #[error("You should send CLUSTER FAILOVER to a replica")]
    NoReplica,
    #[error("this node has no lease: it could not serve what it led")]
    NoLease,
}
