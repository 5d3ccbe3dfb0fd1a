//! The side that serves replicas: one machine for all of them, on a node that leads and on one that relays.
//!
//! ```text
//!     mod.rs        who is admitted, and how: from the log, after a divergence, with a copy
//!     stream.rs     the log to each replica: live, or read again for those who are behind; bounded queues
//!     copy.rs       full syncs: one copy at a time, shared by all who wait for one
//!     quorum.rs     acknowledgements: the in-sync set, the commit index, WAIT, lag
//!     failover.rs   handing the lead over
//! ```
//!
//! Pure: times are arguments (milliseconds of a steady clock, but for `wall_ms`), what is to be done comes out as
//! [`Action`]s, to be done in their order. Owned by the control core. See [`crate::replication`] for how it is driven.
//!
//! Invariants: a node has one connection at the most; a replica is in sync only while it streams and has everything that is
//! committed and everything that was there when this node began to lead; the commit index does not fall; at most one copy is
//! under way, and every replica in [`Phase::Copying`] takes part in it.

mod copy;
mod failover;
mod follower;
mod quorum;
mod stream;

use std::rc::Rc;

pub use self::copy::COPY_WINDOW_BYTES;
use self::copy::Run;
use self::failover::Failover;
pub use self::failover::FailoverError;
use self::follower::{Follower, Phase, Standing};
pub use self::quorum::{Lag, WriteRefusal};
pub use self::stream::READ_WINDOW_BYTES;
use super::history::{Chain, HistoryId};
use super::message::{Control, Frame, Hello, PROTOCOL_VERSION, Refusal, ToPrimary, ToReplica, Wants};
use super::timeline::Timeline;

/// A connection, numbered by the shell. A number is never used again.
pub type Peer = u64;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node's id, not 0.
    pub node: u128,
    /// Copies, this one included, that must have a record before it is committed; at least 1.
    pub min_insync: usize,
    /// A replica that is behind, or silent, for longer leaves the in-sync set.
    pub insync_timeout_ms: u64,
    /// Only who has on disk what was confirmed as durable everywhere can be in sync. For nodes that use `quorum-disk`.
    pub durable_quorum: bool,
    pub heartbeat_ms: u64,
    /// A replica that says nothing, or takes nothing, for longer is dropped.
    pub repl_timeout_ms: u64,
    /// Phi above which a replica does not count as in sync. See [`crate::replication::detector`].
    pub phi_max: f64,
    /// Bytes that may be queued for one replica (`client-output-buffer-limit replica`); above, it is dropped.
    pub queue_bytes_max: u64,
    pub replicas_max: usize,
    /// A copy begins this long after the first replica asked for it, so that others can share it.
    pub copy_delay_ms: u64,
    /// `min-replicas-to-write` and `min-replicas-max-lag`.
    pub good_replicas_min: usize,
    pub good_replica_lag_ms_max: u64,
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write this; then say so with [`Primary::written`] and the message's cost.
    Send { to: Peer, message: ToReplica },
    /// Close the connection after what was sent is written, and forget it. Its [`Primary::disconnected`] need not follow.
    Drop { peer: Peer, reason: DropReason },
    /// Read the log from index `from` on, up to about `bytes_max`, at least one frame; answer with [`Primary::read`].
    Read { peer: Peer, from: u64, bytes_max: u64 },
    /// Begin a copy; answer with [`Primary::copy_started`].
    StartCopy { run: u64 },
    /// Nobody takes part in this copy any more.
    CancelCopy { run: u64 },
    /// Stop all writes, expiry and eviction included; then say so with [`Primary::writes_paused`].
    PauseWrites,
    /// The failover has come to nothing.
    ResumeWrites,
    /// Whether this replica has taken over is not known: connect to it, say hello with [`Wants::Standing`], and hand over what
    /// it says to [`Primary::standing`]. Its address is where its last connection came from: it outlives that connection.
    Inquire { node: u128, port: u16 },
    /// This replica leads now: follow it, at the address from which its last connection came. Writes stay paused.
    StepDown { node: u128, port: u16 },
}

/// Why a replica was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    Refused(Refusal),
    /// It only asked for the standing, and has its answer.
    Answered,
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
    /// What it needs is not in the log any more.
    Overrun,
    /// This node's log has another chain, or none, now.
    HistoryChanged,
    HandedOver,
}

/// A mistake for the simulator to find.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A replica counts as in sync while it is sent a copy.
    CountIncompleteCopies,
    /// A diverged replica is continued from where it is.
    ContinueAcrossDivergence,
    /// The commit index is what any replica has, not what all have.
    CommitByFastest,
    /// A replica is counted before it has everything that is committed.
    JoinAtOnce,
    /// Writes go on when the answer to a handover is lost.
    ResumeInDoubt,
    /// Queues are not limited.
    UnboundedQueues,
}

/// A log at the moment from which it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first index that the backlog or the disk has.
    pub oldest: u64,
    /// The last index; on a relay the last that is applied.
    pub end: u64,
    /// What is known to be committed.
    pub commit: u64,
    /// What is on this node's disk.
    pub durable: u64,
}

/// The log that is served.
#[derive(Clone, Debug)]
struct Serving {
    /// This node writes the log; else it relays what it has applied of another's.
    leading: bool,
    chain: Chain,
    /// What was there when this began. Whoever lacks some of it is not in sync.
    floor: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Primary {
    settings: Settings,
    serving: Option<Serving>,
    /// The last index of the log that may be sent.
    end: u64,
    /// The first index that the backlog or the disk still has.
    oldest: u64,
    /// The last index on this node's disk.
    durable: u64,
    commit: u64,
    /// The last index that is on the disks of this node and of every replica in sync.
    commit_durable: u64,
    followers: Vec<Follower>,
    timeline: Timeline,
    run: Option<Run>,
    runs: u64,
    failover: Failover,
    syncs: Syncs,
    #[cfg(test)]
    pub fault: Option<Fault>,
}

/// How replicas got what they lacked, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Syncs {
    /// Needed a copy.
    pub full: u64,
    /// Went on where they were.
    pub partial: u64,
    /// Of those that needed a copy: had a log, with which they could not go on.
    pub refused: u64,
}

impl Primary {
    /// A node that has nothing to serve yet.
    pub fn new(settings: Settings) -> Primary {
        assert!(settings.node != 0 && settings.min_insync >= 1 && settings.heartbeat_ms >= 1);
        Primary {
            settings,
            serving: None,
            end: 0,
            oldest: 1,
            durable: 0,
            commit: 0,
            commit_durable: 0,
            followers: Vec::new(),
            timeline: Timeline::default(),
            run: None,
            runs: 0,
            failover: Failover::None,
            syncs: Syncs::default(),
            #[cfg(test)]
            fault: None,
        }
    }

    pub fn syncs(&self) -> Syncs {
        self.syncs
    }

    /// CONFIG SET.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// This node writes the log from now on. `chain` ends with a history that it has just started: also a node that goes on
    /// leading after a restart starts one, because its replicas may have received records that it has lost, and it will write
    /// others with the same indices.
    pub fn lead(&mut self, now_ms: u64, chain: Chain, extent: Extent, out: &mut Vec<Action>) {
        self.serve(now_ms, true, chain, extent, out);
    }

    /// This node follows another and relays what it has applied. Also when its chain changes.
    pub fn relay(&mut self, now_ms: u64, chain: Chain, extent: Extent, out: &mut Vec<Action>) {
        self.serve(now_ms, false, chain, extent, out);
    }

    fn serve(&mut self, now_ms: u64, leading: bool, chain: Chain, extent: Extent, out: &mut Vec<Action>) {
        let Extent { oldest, end, commit, durable } = extent;
        assert!(commit <= end && durable <= end && oldest <= end + 1);
        self.suspend(now_ms, out);
        (self.oldest, self.end, self.commit, self.durable) = (oldest, end, commit, durable);
        // What is there already counts as appended now: who lacks some of it is behind from now on.
        self.timeline.append(now_ms, end, 0);
        self.serving = Some(Serving { leading, chain, floor: end });
        self.refresh(now_ms);
    }

    /// There is nothing to serve any more: the node's data is being replaced. All replicas are dropped.
    pub fn suspend(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        self.failover = Failover::None;
        for peer in self.followers.iter().map(|f| f.peer).collect::<Vec<_>>() {
            self.drop_peer(now_ms, peer, DropReason::HistoryChanged, out);
        }
        (self.end, self.commit, self.durable, self.commit_durable) = (0, 0, 0, 0);
        (self.serving, self.timeline) = (None, Timeline::default());
    }

    /// The backlog and the disk have the log from this index on. A log whose records were not kept for a while (nobody listened)
    /// has to leave out an index and start behind it: else a replica that is there already would not notice the gap.
    pub fn oldest(&mut self, index: u64) {
        assert!(index >= 1);
        self.oldest = index;
    }

    /// A message from a connection; the first is a hello.
    pub fn message(&mut self, now_ms: u64, peer: Peer, message: ToPrimary, out: &mut Vec<Action>) {
        if let ToPrimary::Hello(hello) = message {
            self.hello(now_ms, peer, hello, out);
            return;
        }
        let Some(follower) = self.follower(peer) else {
            out.push(Action::Drop { peer, reason: DropReason::Protocol });
            return;
        };
        follower.heard_ms = now_ms;
        match message {
            ToPrimary::Ack { received, applied, durable } => {
                self.acknowledged_by(now_ms, peer, received, applied, durable, out)
            }
            ToPrimary::Heartbeat { .. } => {
                follower.detector.heartbeat(now_ms);
                self.refresh(now_ms);
            }
            ToPrimary::TakeOver { history, cut } => self.taken_over(now_ms, peer, history, cut, out),
            ToPrimary::Declined => self.declined(now_ms, peer, out),
            ToPrimary::Hello(_) => unreachable!("handled above"),
        }
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, now_ms: u64, peer: Peer, out: &mut Vec<Action>) {
        if let Some(at) = self.followers.iter().position(|f| f.peer == peer) {
            let follower = self.followers.remove(at);
            self.left(now_ms, &follower, out);
        }
    }

    /// Time passes: heartbeats, timeouts, copies that are due. `wall_ms` is the wall clock of the node that leads. To be called about ten times in the shortest of all intervals.
    pub fn tick(&mut self, now_ms: u64, wall_ms: u64, out: &mut Vec<Action>) {
        let timeout = self.settings.repl_timeout_ms;
        let dead = |f: &Follower| match f {
            f if now_ms.saturating_sub(f.heard_ms) > timeout => Some((f.peer, DropReason::Silent)),
            f if f.queued_bytes > 0 && now_ms.saturating_sub(f.progress_ms) > timeout => {
                Some((f.peer, DropReason::Stalled))
            }
            _ => None,
        };
        for (peer, reason) in self.followers.iter().filter_map(dead).collect::<Vec<_>>() {
            self.drop_peer(now_ms, peer, reason, out);
        }
        self.refresh(now_ms);
        self.send_heartbeats(now_ms, wall_ms, out);
        self.start_copy(now_ms, out);
        self.failover_tick(now_ms, out);
    }

    fn hello(&mut self, now_ms: u64, peer: Peer, hello: Hello, out: &mut Vec<Action>) {
        let known = self.follower(peer).map(|f| f.phase);
        let Ok(chain) = Chain::checked(hello.chain.clone()) else {
            return self.drop_peer(now_ms, peer, DropReason::Protocol, out);
        };
        if !matches!(known, None | Some(Phase::Diverged)) {
            return self.drop_peer(now_ms, peer, DropReason::Protocol, out);
        }
        if hello.version != PROTOCOL_VERSION {
            return self.refuse(now_ms, peer, Refusal::Version, out);
        }
        if hello.node == self.settings.node {
            return self.refuse(now_ms, peer, Refusal::Loop, out);
        }
        let Some(serving) = &self.serving else { return self.refuse(now_ms, peer, Refusal::NotReady, out) };
        if hello.wants == Wants::Standing {
            let chain = serving.chain.histories().to_vec();
            let answer = Control::Standing { node: self.settings.node, leading: serving.leading, chain };
            out.push(Action::Send { to: peer, message: answer.into() });
            return self.drop_peer(now_ms, peer, DropReason::Answered, out);
        }
        if let Some(old) = self.followers.iter().find(|f| f.node == hello.node && f.peer != peer) {
            if old.attempt >= hello.attempt {
                return self.drop_peer(now_ms, peer, DropReason::Stale, out);
            }
            self.drop_peer(now_ms, old.peer, DropReason::Replaced, out);
        }
        if known.is_none() && self.followers.len() >= self.settings.replicas_max {
            return self.refuse(now_ms, peer, Refusal::TooMany, out);
        }
        self.returned(&hello, &chain, out);
        self.admit(now_ms, peer, &hello, &chain, out);
    }

    /// Decides how a replica gets what it lacks.
    fn admit(&mut self, now_ms: u64, peer: Peer, hello: &Hello, theirs: &Chain, out: &mut Vec<Action>) {
        let received = hello.received;
        let Some(serving) = &self.serving else { return };
        let common = match hello.wants {
            // A relay knows from its own primary more histories than it has applied, and who is ahead of it on these has not
            // diverged.
            Wants::Log => serving.chain.common(if serving.leading { self.end } else { u64::MAX }, theirs, received),
            _ => None,
        };
        #[cfg(test)]
        let common = match self.fault {
            Some(Fault::ContinueAcrossDivergence) => common.map(|_| received.min(self.end)),
            _ => common,
        };
        let (phase, answer) = match common {
            Some(cut) if cut < received => (Phase::Diverged, Some(Control::Diverged { cut })),
            Some(common) if common > self.end => return self.refuse(now_ms, peer, Refusal::NotReady, out),
            Some(common) if common + 1 >= self.oldest => {
                let chain = serving.chain.histories().to_vec();
                (Phase::Streaming, Some(Control::Continue { from: common + 1, chain }))
            }
            _ => (Phase::Waiting { since_ms: now_ms }, None),
        };
        match phase {
            Phase::Streaming => self.syncs.partial += 1,
            Phase::Waiting { .. } => {
                self.syncs.full += 1;
                self.syncs.refused += (hello.wants == Wants::Log && received > 0) as u64;
            }
            _ => {}
        }
        self.followers.retain(|f| f.peer != peer);
        let mut follower = Follower::new(now_ms, peer, hello, phase, &self.settings);
        if phase == Phase::Streaming {
            (follower.next, follower.received) = (received + 1, received);
        }
        self.followers.push(follower);
        if let Some(answer) = answer {
            self.send(now_ms, peer, answer, out);
        }
        self.refresh(now_ms);
        self.start_copy(now_ms, out);
    }

    fn refuse(&mut self, now_ms: u64, peer: Peer, reason: Refusal, out: &mut Vec<Action>) {
        out.push(Action::Send { to: peer, message: Control::Refused { reason }.into() });
        self.drop_peer(now_ms, peer, DropReason::Refused(reason), out);
    }

    /// Also for connections that are no replica yet.
    fn drop_peer(&mut self, now_ms: u64, peer: Peer, reason: DropReason, out: &mut Vec<Action>) {
        out.push(Action::Drop { peer, reason });
        self.disconnected(now_ms, peer, out);
    }

    /// What follows from the loss of a replica, however it came.
    fn left(&mut self, now_ms: u64, follower: &Follower, out: &mut Vec<Action>) {
        if matches!(follower.phase, Phase::Copying { .. }) {
            self.copy_member_left(out);
        }
        self.failover_lost(follower);
        self.refresh(now_ms);
    }

    fn follower(&mut self, peer: Peer) -> Option<&mut Follower> {
        self.followers.iter_mut().find(|f| f.peer == peer)
    }

    /// Sends a message without parts of the log.
    fn send(&mut self, now_ms: u64, peer: Peer, control: Control, out: &mut Vec<Action>) {
        if let Some(follower) = self.follower(peer) {
            follower.hand_over_control(now_ms);
            out.push(Action::Send { to: peer, message: control.into() });
        }
    }

    fn leading(&self) -> bool {
        self.serving.as_ref().is_some_and(|s| s.leading)
    }

    #[cfg(test)]
    fn has_fault(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The invariants of the module.
    #[cfg(test)]
    pub fn validate(&self) {
        for (at, follower) in self.followers.iter().enumerate() {
            assert!(self.followers[..at].iter().all(|f| f.node != follower.node && f.peer != follower.peer));
            if follower.phase == Phase::Streaming {
                assert!(follower.received < follower.next && follower.next <= self.end + 1);
                assert!(follower.applied <= follower.received && follower.durable <= follower.received);
            } else {
                assert_eq!(follower.standing, Standing::Out, "in sync without a complete copy: {follower:?}");
            }
            if follower.in_sync() && self.leading() {
                let floor = self.serving.as_ref().map_or(0, |s| s.floor);
                assert!(follower.received >= self.commit.max(floor), "in sync without what is committed: {follower:?}");
            }
            if let Phase::Copying { run } = follower.phase {
                assert_eq!(self.run.as_ref().map(|r| r.id), Some(run));
            }
            let queued: u64 = follower.queue.iter().map(Frame::cost).sum();
            assert!(queued <= follower.queued_bytes);
        }
        assert!(self.commit <= self.end && self.commit_durable <= self.commit);
        assert!(self.followers.len() <= self.settings.replicas_max);
    }

    /// The bytes queued for each replica.
    #[cfg(test)]
    pub fn queued_bytes(&self) -> impl Iterator<Item = u64> + '_ {
        self.followers.iter().map(|f| f.queued_bytes)
    }
}
