//! The side that leads: one machine for all who follow this node.
//!
//! ```text
//!     mod.rs       what it is told of roles, and by followers: who is admitted, and how
//!     answer.rs    what a follower hears of what it has asked for: how it gets what it lacks
//!     stream.rs    the log to each follower: live, or read again for those who are behind; bounded queues
//!     copy.rs      copies: one at a time, for one follower
//!     commit.rs    acknowledgements, groups of partitions with equal in-sync sets, what is committed; WAIT, lag
//!     spans.rs     transactions over several partitions: committed when all followers have them
//!     insync.rs    who is in sync: joining, proposals of changes
//!     handover.rs  a role goes to another node while both live
//!     partition.rs, peer.rs    what it knows of a partition that it leads, and of a follower
//! ```
//!
//! Pure: times are arguments (milliseconds of a steady clock, but for `wall_ms`), what is to be done comes out as [`Action`]s,
//! to be done in their order. Owned by the control core. See [`crate::streams`] for how it is driven.
//!
//! Invariants: a node has one connection at the most; at most one copy is under way; a partition is copied only to a
//! follower that no set names which may be in force; what waits for whom is never less than raft's set and all that were proposed
//! since it was seen; `deposed` counts the partitions that say so.

mod answer;
mod commit;
mod copy;
pub mod handover;
mod insync;
mod partition;
mod peer;
mod spans;
mod stream;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

pub use self::commit::{Group, Lag};
use self::copy::Run;
use self::handover::Ended;
use self::partition::Led;
use self::peer::{Fellow, Part, Phase};
use super::message::{
    Answer, Answered, Control, Open, PROTOCOL_OLDEST, PROTOCOL_VERSION, Refusal, Release, ToFollower, ToLeader,
};
use super::{Epoch, Frame, InSyncChange, Index, Member, NodeId, PartitionId, Suffix, Tail};
use crate::log::durability::LaneMap;
use crate::raft::command::{Move, Naming};
use crate::raft::state::State;

/// A connection, numbered by the shell. A number is never used again.
pub type Peer = u64;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node, not 0.
    pub node: NodeId,
    /// It has one data core, which closes a gate when nothing is under way that was begun before.
    pub lone_core: bool,
    /// A follower that is behind, or silent, for longer is proposed to leave the in-sync sets; also one that is expected and
    /// does not come.
    pub insync_timeout_ms: u64,
    /// One whose connection is lost, after this.
    pub absence_ms: u64,
    /// A proposal whose fate is not known is made again after this.
    pub propose_ms: u64,
    /// Only who has on disk what was confirmed as durable can become in sync. For nodes that use `quorum-disk`.
    pub durable_quorum: bool,
    pub heartbeat_ms: u64,
    /// A follower that says nothing, or takes nothing, for longer is dropped.
    pub repl_timeout_ms: u64,
    /// Phi above which a follower does not count as in sync. See [`crate::replication::detector`].
    pub phi_max: f64,
    /// Bytes that may be queued for one follower; above, it is dropped.
    pub queue_bytes_max: u64,
    /// Bytes that one follower may have been sent, and that are not committed: it keeps them in memory.
    pub uncommitted_bytes_max: u64,
    /// Partitions that are copied at once: what is through is not lost with the connection.
    pub copy_partitions_max: usize,
    /// Bytes of a copy that may be on their way, or wait to be executed where they have come to.
    pub copy_window_bytes: u64,
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write this; then say so with [`Leader::written`] and the message's cost.
    Send { to: Peer, message: ToFollower },
    /// Close the connection after what was sent is written, and forget it. Its [`Leader::disconnected`] need not follow.
    Drop { peer: Peer, reason: DropReason },
    /// Read the backlog from index `from` on, up to about `bytes_max`, at least one frame; answer with [`Leader::read`].
    Read { peer: Peer, from: Index, bytes_max: u64 },
    /// Begin a run over these partitions of what this node leads; answer with [`Leader::copy_started`].
    StartCopy { run: u64, node: NodeId, partitions: Rc<[PartitionId]> },
    /// Nobody wants this run any more.
    CancelCopy { run: u64 },
    /// Propose all of these to raft, in one command or several. What becomes of them is seen in raft's state
    /// ([`Leader::roles`]); what is refused can be told with [`Leader::refused`].
    Propose(Vec<InSyncChange>),
    /// Gates have changed ([`Leader::gate`]): show them to data cores, and say when all of them have seen that
    /// ([`Leader::gates_seen`]).
    Gates,
    /// Propose to raft that these roles move. When its answer is known, and the state after that was told, say
    /// [`Leader::decided`].
    HandOver { moves: Vec<Move>, to: Member },
    /// Propose to raft that `to` may lead these next. What comes of it is seen in raft's state.
    Name { moves: Vec<Move>, to: Member },
    /// This node has ended what it led of these, and their successors are told: note that ([`super::ahead`]), and tell both
    /// machines. When a successor has begun, say [`Leader::tell_others`].
    Released(Vec<Release>),
    /// Propose to raft that these go to nobody. What comes of it is seen in raft's state.
    Keep { namings: Vec<Naming> },
    /// This node leads the partition in that epoch no longer. See "To lead no longer" in [`crate::streams`]. `handed_over`: it
    /// wanted that, and who leads now may be about to begin.
    Deposed { partition: PartitionId, epoch: Epoch, handed_over: bool },
}

/// Why a follower was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    Refused(Refusal),
    /// It said what it cannot say now.
    Protocol,
    /// The same node has connected again.
    Replaced,
    /// It is an older connection than the one that the same node has now.
    Stale,
    Silent,
    /// Its connection takes nothing.
    Stalled,
    /// Its queue is full.
    QueueFull,
}

/// What has happened since the process began to lead, for INFO and the metrics.
///
/// Invariant: handovers that were begun are completed, given up, or under way ([`Leader::handing_over`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Roles that were to go to another node: those that went there, and those that did not.
    pub handovers_begun: u64,
    pub handovers_completed: u64,
    pub handovers_given_up: u64,
    /// Copies of partitions that were sent whole, and those that were begun in vain.
    pub copies_sent: u64,
    pub copies_given_up: u64,
    /// Bytes of copies, with the writes between their pieces.
    pub copy_bytes: u64,
}

/// A mistake for the simulator to find.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// While a change is open, only the new set is waited for.
    CountNewSetOnly,
    /// A follower of the right epoch goes on, whatever its tail.
    FollowWithoutTails,
    /// A copy counts as complete when it is sent.
    CountIncompleteCopies,
    /// A role is handed over though what was written last may be on its way.
    HandOverUncommitted,
    /// What spans partitions counts as committed in one when the followers of that one have it.
    CommitSpansInPart,
}

/// See the module.
#[derive(Debug)]
pub struct Leader {
    settings: Settings,
    /// Raft's, as it is known here.
    state: State,
    /// By number: what is led here, or was and is not released.
    led: Vec<Option<Box<Led>>>,
    fellows: Vec<Fellow>,
    /// When a node was last lost.
    left_ms: BTreeMap<NodeId, u64>,
    /// The last index of the log, the first that the backlog has, the last on this node's disk.
    end: Index,
    oldest: Index,
    durable: Index,
    groups: Vec<commit::Gathered>,
    /// The group of each partition, as those who answer clients are told.
    lane_map: Arc<LaneMap>,
    /// The last frame that has units over several partitions.
    spanned_upto: Index,
    /// Partitions are to be sorted into groups anew, and followers into partitions.
    untidy: bool,
    /// Since then, everybody who has a copy is in sync, and nobody had to be judged.
    settled: bool,
    run: Option<Run>,
    runs: u64,
    /// Whose turn it is to be sent a copy.
    copied_last: NodeId,
    /// Partitions whose role is on its way to another node; and how often a gate has changed.
    handovers: Vec<PartitionId>,
    gates: u64,
    /// What this node has ended: followers who may not have heard it are told again.
    released: BTreeMap<PartitionId, Ended>,
    /// Partitions that are led no longer and not released.
    deposed: usize,
    tally: Tally,
    /// Followers may wait for an answer that can be given.
    answers_due: bool,
    #[cfg(test)]
    pub fault: Option<Fault>,
}

impl Leader {
    /// A node that leads nothing yet, whose log ends at `end`.
    pub fn new(settings: Settings, end: Index) -> Leader {
        assert!(settings.node != 0 && settings.heartbeat_ms >= 1 && settings.copy_partitions_max >= 1);
        Leader {
            settings,
            state: State::default(),
            led: Vec::new(),
            fellows: Vec::new(),
            left_ms: BTreeMap::new(),
            end,
            oldest: end + 1,
            durable: 0,
            groups: Vec::new(),
            lane_map: Arc::default(),
            spanned_upto: 0,
            untidy: false,
            settled: false,
            run: None,
            runs: 0,
            copied_last: 0,
            handovers: Vec::new(),
            gates: 0,
            released: BTreeMap::new(),
            deposed: 0,
            tally: Tally::default(),
            answers_due: false,
            #[cfg(test)]
            fault: None,
        }
    }

    /// CONFIG SET.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Raft's state has changed, or is known for the first time.
    pub fn roles(&mut self, now_ms: u64, state: &State, out: &mut Vec<Action>) {
        self.refresh();
        let before = std::mem::replace(&mut self.state, state.clone());
        let count = state.partitions().len();
        if self.led.len() < count {
            self.led.resize_with(count, || None);
        }
        let same_nodes = before.nodes() == state.nodes();
        let mut changed = !same_nodes;
        for (partition, is) in (0..).zip(state.partitions()) {
            let was = before.partitions().get(usize::from(partition));
            if !same_nodes || was.is_none_or(|was| !Rc::ptr_eq(was, is)) {
                self.take_role(partition, out);
                changed = true;
            }
        }
        self.cancel_copy_of_lost(out);
        self.look_at_successors(out);
        self.left_ms.retain(|node, _| state.node(*node).is_some());
        self.recognize(now_ms, out);
        self.untidy |= changed;
    }

    /// What raft's state says of a partition that is led here.
    fn take_role(&mut self, id: PartitionId, out: &mut Vec<Action>) {
        let Some(led) = self.led.get_mut(id as usize).and_then(Option::as_mut) else { return };
        let Some(partition) = self.state.partition(id) else { return };
        if led.deposed.is_some() {
            return;
        }
        if (partition.epoch, partition.primary) != (led.epoch, Some(self.settings.node)) {
            let committed = self.groups.get(led.group).map_or(0, |group| group.upto);
            led.deposed = Some(committed.max(led.committed));
            self.deposed += 1;
            let epoch = led.epoch;
            for fellow in &mut self.fellows {
                if let Some(part) = fellow.parts.get_mut(&id).filter(|part| part.epoch <= epoch) {
                    (part.phase, part.counts, part.told) = (Phase::Waiting, false, false);
                }
            }
            let (primary, begun) = (partition.primary, self.handovers.len());
            let handed_over = self.forget_handover(id).is_some_and(|to| primary == Some(to.node));
            self.tally.handovers_completed += u64::from(handed_over);
            self.tally.handovers_given_up += u64::from(self.handovers.len() < begun && !handed_over);
            out.push(Action::Deposed { partition: id, epoch, handed_over });
            return;
        }
        led.replicas.clone_from(&partition.replicas);
        led.in_sync.clone_from(&partition.in_sync);
        if led.version != partition.in_sync_version {
            led.version = partition.in_sync_version;
            led.proposed.clear();
            (led.proposed_ms, led.unknown) = (None, 0);
        }
        // A process that is over cannot come into a set any more.
        let state = &self.state;
        let is_there = |member: &Member| state.node(member.node).is_some_and(|n| n.incarnation == member.incarnation);
        led.proposed.retain(is_there);
        led.joiners.retain(|joiner| !led.in_sync.contains(&joiner.node) && led.replicas.contains(&joiner.node));
    }

    /// Judges anew which processes raft's state names.
    fn recognize(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let stale: Vec<Peer> = self.fellows.iter().filter(|f| self.is_stale(f.member)).map(|f| f.peer).collect();
        stale.into_iter().for_each(|peer| self.refuse(now_ms, peer, Refusal::Stale, out));
        for at in 0..self.fellows.len() {
            let Fellow { member, boot, .. } = self.fellows[at];
            let node = self.state.node(member.node);
            self.fellows[at].recognized =
                node.is_some_and(|node| (node.incarnation, node.boot) == (member.incarnation, boot));
            self.answer(now_ms, at, out);
        }
    }

    fn is_stale(&self, member: Member) -> bool {
        self.state.node(member.node).is_some_and(|node| node.incarnation > member.incarnation)
    }

    /// This node begins to lead a partition: all of `base` is applied, and `cut` is the last index of its log. `suffix` is what
    /// [`super::follower::Action::Lead`] has said.
    #[expect(clippy::too_many_arguments, reason = "what an epoch begins with")]
    pub fn lead(
        &mut self,
        now_ms: u64,
        partition: PartitionId,
        epoch: Epoch,
        base: Tail,
        cut: Index,
        suffix: Option<Suffix>,
        out: &mut Vec<Action>,
    ) {
        assert_eq!(cut, self.end, "an epoch begins at the end of the log");
        let place = &mut self.led[partition as usize];
        assert!(place.is_none(), "a partition is released before it is led again");
        self.released.remove(&partition);
        *place = Some(Box::new(Led::new(now_ms, epoch, base, cut, suffix)));
        self.untidy = true;
        self.take_role(partition, out);
        // A thousand may begin in one turn, and followers hear of all of them at once.
        self.answers_due = true;
    }

    /// Everything that was executed while this node led the partition is in the log, and nobody waits for a reply any
    /// more. Gives its tail; None: this node does not lead it.
    pub fn release(&mut self, partition: PartitionId) -> Option<Tail> {
        let led = self.led.get_mut(partition as usize)?.take_if(|led| led.deposed.is_some())?;
        self.deposed -= 1;
        self.untidy = true;
        Some(led.tail)
    }

    /// A message from a connection; the first is an Open.
    pub fn message(&mut self, now_ms: u64, peer: Peer, message: ToLeader, out: &mut Vec<Action>) {
        if let ToLeader::Open(open) = message {
            return self.open(now_ms, peer, &open, out);
        }
        let Some(at) = self.fellow(peer) else {
            out.push(Action::Drop { peer, reason: DropReason::Protocol });
            return;
        };
        self.fellows[at].heard_ms = now_ms;
        match message {
            ToLeader::Ack { round, received, applied, durable } => {
                self.acknowledged(now_ms, at, round, (received, applied, durable), out)
            }
            ToLeader::Has { run, held } => {
                let partitions: Vec<(PartitionId, Epoch)> = held.iter().map(|h| (h.partition, h.epoch)).collect();
                self.completed(now_ms, at, run, &partitions, out);
            }
            ToLeader::Heartbeat { .. } => self.fellows[at].detector.heartbeat(now_ms),
            ToLeader::Leave => self.fellows[at].leaving = true,
            ToLeader::Taken { run, bytes } => self.taken(at, run, bytes),
            ToLeader::Open(_) => unreachable!("handled above"),
        }
    }

    /// Whether an Open has come on a connection, and was not refused.
    pub fn is_open(&self, peer: Peer) -> bool {
        self.fellow(peer).is_some()
    }

    fn open(&mut self, now_ms: u64, peer: Peer, open: &Open, out: &mut Vec<Action>) {
        let member = Member { node: open.node, incarnation: open.incarnation };
        if !(PROTOCOL_OLDEST..=PROTOCOL_VERSION).contains(&open.version) {
            return self.refuse(now_ms, peer, Refusal::Version, out);
        }
        if self.is_stale(member) || open.node == self.settings.node {
            return self.refuse(now_ms, peer, Refusal::Stale, out);
        }
        if let Some(old) = self.fellows.iter().find(|f| f.member.node == open.node && f.peer != peer) {
            if (old.member.incarnation, old.attempt) >= (open.incarnation, open.attempt) {
                return self.drop_peer(now_ms, peer, DropReason::Stale, out);
            }
            self.drop_peer(now_ms, old.peer, DropReason::Replaced, out);
        }
        let at = match self.fellow(peer) {
            Some(at) if self.fellows[at].member != member || self.fellows[at].open >= open.number => {
                return self.drop_peer(now_ms, peer, DropReason::Protocol, out);
            }
            Some(at) => at,
            None => {
                self.fellows.push(Fellow::new(now_ms, peer, open, self.end, &self.settings));
                self.fellows.len() - 1
            }
        };
        self.take_wants(at, open, out);
        self.fellows[at].heard_ms = now_ms;
        self.tell_released(now_ms, at, |_| true, out);
        self.recognize(now_ms, out);
    }

    /// What a follower wants now. What it keeps goes on; what it does not name ends.
    fn take_wants(&mut self, at: usize, open: &Open, out: &mut Vec<Action>) {
        self.confirm_all(at);
        let fellow = &mut self.fellows[at];
        (fellow.open, fellow.leaving) = (open.number, false);
        let mut before = std::mem::take(&mut fellow.parts);
        for want in &open.wants {
            let kept = before.remove(&want.partition).filter(|part| want.keep && part.epoch == want.epoch);
            let new = Part {
                epoch: want.epoch,
                tail: want.tail.filter(|_| !want.keep),
                phase: Phase::Waiting,
                counts: false,
                cut: false,
                run: 0,
                told: false,
            };
            fellow.parts.insert(want.partition, kept.unwrap_or(new));
        }
        self.untidy = true;
        self.cancel_copy_of_lost(out);
    }

    /// For INFO and the metrics.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, now_ms: u64, peer: Peer, out: &mut Vec<Action>) {
        let Some(at) = self.fellow(peer) else { return };
        self.confirm_all(at);
        let fellow = self.fellows.remove(at);
        if fellow.recognized {
            self.left_ms.insert(fellow.member.node, now_ms);
        }
        self.untidy = true;
        self.cancel_copy_of_lost(out);
    }

    /// Time passes: heartbeats, timeouts, changes of in-sync sets. `wall_ms` is this node's wall clock. To be called about ten
    /// times in the shortest of all intervals.
    pub fn tick(&mut self, now_ms: u64, wall_ms: u64, out: &mut Vec<Action>) {
        let timeout = self.settings.repl_timeout_ms;
        let dead = |f: &Fellow| match f {
            f if now_ms.saturating_sub(f.heard_ms) > timeout => Some((f.peer, DropReason::Silent)),
            f if f.queued_bytes > 0 && now_ms.saturating_sub(f.progress_ms) > timeout => {
                Some((f.peer, DropReason::Stalled))
            }
            _ => None,
        };
        for (peer, reason) in self.fellows.iter().filter_map(dead).collect::<Vec<_>>() {
            self.drop_peer(now_ms, peer, reason, out);
        }
        self.refresh();
        self.judge_in_sync(now_ms, out);
        self.judge_handovers(now_ms, out);
        self.tell_others(now_ms, out);
        self.send_heartbeats(now_ms, wall_ms, out);
        self.start_copy(out);
    }

    fn refuse(&mut self, now_ms: u64, peer: Peer, reason: Refusal, out: &mut Vec<Action>) {
        out.push(Action::Send { to: peer, message: Control::Refused { reason }.into() });
        self.drop_peer(now_ms, peer, DropReason::Refused(reason), out);
    }

    /// Also for connections that are no follower yet.
    fn drop_peer(&mut self, now_ms: u64, peer: Peer, reason: DropReason, out: &mut Vec<Action>) {
        out.push(Action::Drop { peer, reason });
        self.disconnected(now_ms, peer, out);
    }

    fn fellow(&self, peer: Peer) -> Option<usize> {
        self.fellows.iter().position(|fellow| fellow.peer == peer)
    }

    /// Sends a message that is not part of the stream's frames.
    fn send(&mut self, now_ms: u64, at: usize, message: ToFollower, out: &mut Vec<Action>) {
        let fellow = &mut self.fellows[at];
        fellow.hand_over(now_ms, message.cost());
        out.push(Action::Send { to: fellow.peer, message });
    }
}
