//! The shell of the machines in [`crate::streams`]: connections, copies and data cores for the partitions that this node leads,
//! and for those that it follows.
//!
//! Owned by the control core. Invariant: no borrow of a machine lives while actions are carried out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Member;
use super::execute::Executor;
use super::memory;
use super::pauses::Pauses;
use crate::cluster::NodeId;
use crate::config::Config;
use crate::control::Control;
use crate::control::links::Outbox;
use crate::control::log::Copied;
use crate::control::replication::{CopyTaker, Event, HEARTBEAT_MS, PHI_MAX, encoded};
use crate::log::frame::{Frame, Index};
use crate::raft;
use crate::raft::command::{Command, Move, Reply};
use crate::route::PartitionSet;
use crate::streams::follower::{self, Action as Follow, Follower, Holding};
use crate::streams::leader::{self, Action as Lead, Leader};
use crate::streams::{self, InSyncChange, PartitionId};

/// A follower whose connection is lost is waited for this long before it leaves the in-sync sets.
const ABSENCE_MS: u64 = 200;

/// After so long a proposal is made again whose fate is not known.
const PROPOSE_MS: u64 = 1_000;

/// The first pause before connecting again.
const RECONNECT_MS: u64 = 50;

/// Bytes that one follower may have been sent, and that are not committed. The backlog of a member has twice as many at least:
/// a follower that is let go because of them can go on.
const UNCOMMITTED_BYTES_MAX: u64 = 16 << 20;

/// Partitions that are copied at once.
const COPY_PARTITIONS_MAX: usize = 64;

/// Bytes of a copy on their way: what follows behind them on the connection, and waits for the same cores, waits for so much.
const COPY_WINDOW_BYTES: u64 = 256 << 10;

/// What data cores may have waiting for them before a connection is read no further: so many actions, and bytes of these.
pub(super) const QUEUED_ACTIONS_MAX: usize = 1_024;
pub(super) const QUEUED_BYTES_MAX: u64 = 8 << 20;

/// How long a proposal to change in-sync sets may take.
const PROPOSE_PATIENCE: Duration = Duration::from_secs(1);

/// What the machines have around them.
pub(super) struct Streams {
    pub leader: Leader,
    pub follower: Follower,
    pub executor: Executor,
    /// Partitions that this node leads and data cores may serve.
    pub leading: PartitionSet,
    /// Led no longer: what data cores have done is not all in the log before they have seen this view; 0: it is already.
    deposed: Vec<(u64, PartitionId)>,
    /// Handed over: until when whoever leads now is waited for.
    pub awaited: BTreeMap<PartitionId, u64>,
    pub pauses: Pauses,
    /// Numbers of views, and which change of gates they show.
    pub shown_gates: VecDeque<(u64, u64)>,
    pub peers: BTreeMap<leader::Peer, Downstream>,
    pub next_peer: leader::Peer,
    /// By leader.
    pub upstreams: BTreeMap<NodeId, Upstream>,
    pub next_upstream: u64,
    sending: Option<Sending>,
}

/// The copy that is being sent.
struct Sending {
    run: u64,
    /// So much of it may come.
    room_bytes: Rc<Cell<u64>>,
    /// It is given up.
    gone: Rc<Cell<bool>>,
}

/// A connection to a leader, or an attempt at one.
pub(super) struct Upstream {
    pub number: u64,
    pub outbox: Option<Rc<Outbox>>,
    /// When it was made, in Unix time.
    pub since_ms: i64,
}

/// A connection of a follower.
pub(super) struct Downstream {
    pub node: NodeId,
    pub outbox: Rc<Outbox>,
    pub since_ms: i64,
}

fn leader_settings(node: NodeId, lone_core: bool, config: &Config) -> leader::Settings {
    leader::Settings {
        node,
        lone_core,
        insync_timeout_ms: config.insync_timeout_ms,
        absence_ms: ABSENCE_MS,
        propose_ms: PROPOSE_MS,
        // A connection may want it at any time.
        durable_quorum: config.appendonly,
        heartbeat_ms: HEARTBEAT_MS,
        repl_timeout_ms: config.repl_timeout_s * 1000,
        phi_max: PHI_MAX,
        queue_bytes_max: config.client_output_buffer_limit_replica.bytes_max(),
        uncommitted_bytes_max: UNCOMMITTED_BYTES_MAX,
        copy_partitions_max: COPY_PARTITIONS_MAX,
        copy_window_bytes: COPY_WINDOW_BYTES,
    }
}

fn follower_settings(member: &Member, config: &Config) -> follower::Settings {
    let incarnation = member.reader.state().node(member.me).map_or(0, |node| node.incarnation);
    follower::Settings {
        node: member.me,
        incarnation,
        boot: member.boot,
        heartbeat_ms: HEARTBEAT_MS,
        repl_timeout_ms: config.repl_timeout_s * 1000,
        reconnect_ms: RECONNECT_MS,
    }
}

/// Bytes of copies that may come in a second, if there is a limit.
fn copy_rate(config: &Config) -> Option<u64> {
    Some(config.cluster_copy_rate).filter(|rate| *rate > 0)
}

impl Control {
    /// Bytes of the backlog.
    pub(in crate::control) fn backlog_bytes(&self, config: &Config) -> usize {
        let least = if self.member().is_some() { 2 * UNCOMMITTED_BYTES_MAX } else { 0 };
        config.repl_backlog_size.max(least) as usize
    }

    /// The machines begin, once the process is registered: what it has of each partition is known.
    pub(super) fn begin_streams(self: &Rc<Self>, member: &Rc<Member>, holdings: &[Holding]) {
        let config = self.config();
        let (end, cores) = {
            let mut log = self.log.borrow_mut();
            log.record();
            log.keeps_backlog = true;
            log.backlog.set_bytes_max(self.backlog_bytes(&config));
            // What was written before concerns nobody: the machine begins at the end.
            log.events.borrow_mut().clear();
            log.standing.replicated = true;
            log.tell_standing();
            (log.sequencer.end(), log.cores())
        };
        self.flush();
        let mut follower = Follower::new(follower_settings(member, &config));
        follower.set_limit(memory::limit_bytes(&config));
        follower.set_copy_rate(copy_rate(&config));
        (0..).zip(holdings).for_each(|(partition, holding)| follower.hold(partition, *holding));
        *member.streams.borrow_mut() = Some(Streams {
            leader: Leader::new(leader_settings(member.me, cores == 1, &config), end),
            follower,
            executor: Executor::new(cores),
            leading: PartitionSet::new(),
            deposed: Vec::new(),
            awaited: BTreeMap::new(),
            pauses: Pauses::default(),
            shown_gates: VecDeque::new(),
            peers: BTreeMap::new(),
            next_peer: 1,
            upstreams: BTreeMap::new(),
            next_upstream: 1,
            sending: None,
        });
        self.state_changed();
    }

    /// Lets the leading machine decide something, and does what comes of it.
    pub(super) fn with_leader(self: &Rc<Self>, decide: impl FnOnce(&mut Leader, u64, &mut Vec<Lead>)) {
        let Some(member) = self.member() else { return };
        let (now_ms, mut actions) = (self.steady_ms(), Vec::new());
        if let Some(streams) = &mut *member.streams.borrow_mut() {
            decide(&mut streams.leader, now_ms, &mut actions);
        }
        for action in actions {
            self.do_lead(&member, action);
        }
        self.stop_if_asked(&member);
    }

    /// Likewise the following one.
    pub(super) fn with_follower(self: &Rc<Self>, decide: impl FnOnce(&mut Follower, u64, &mut Vec<Follow>)) {
        let Some(member) = self.member() else { return };
        let (now_ms, mut actions) = (self.steady_ms(), Vec::new());
        if let Some(streams) = &mut *member.streams.borrow_mut() {
            decide(&mut streams.follower, now_ms, &mut actions);
        }
        // The disk is to know of all of it at once: each time that it is told takes it a while.
        let replaced: Vec<PartitionId> = actions.iter().filter_map(Follow::replaced).flatten().copied().collect();
        self.note_incomplete(&replaced);
        for action in actions {
            self.do_follow_partitions(&member, action);
        }
    }

    /// Raft's state has changed.
    pub(super) fn tell_roles(self: &Rc<Self>) {
        let Some(member) = self.member() else { return };
        self.with_leader(|leader, now_ms, out| member.with_roles(|state| leader.roles(now_ms, state, out)));
        self.with_follower(|follower, _, out| member.with_roles(|state| follower.roles(state, out)));
    }

    fn do_lead(self: &Rc<Self>, member: &Rc<Member>, action: Lead) {
        match action {
            Lead::Send { to, message } => {
                let cost = message.cost();
                if let Some(outbox) = member.peer(to) {
                    outbox.push(encoded(&message), cost);
                }
            }
            Lead::Drop { peer, reason } => {
                if let Some(outbox) = member.forget_peer(peer) {
                    tracing::info!(peer, ?reason, "a follower is let go");
                    outbox.close(false);
                }
            }
            Lead::Read { peer, from, bytes_max } => {
                let frames: Vec<Frame> = {
                    let log = self.log.borrow();
                    let mut bytes = 0;
                    let some = log.backlog.from(from).into_iter().flatten().take_while(|frame| {
                        let first = bytes == 0;
                        bytes += frame.bytes() as u64;
                        first || bytes <= bytes_max
                    });
                    some.cloned().collect()
                };
                let frames: Vec<streams::Frame> = frames.iter().map(as_streamed).collect();
                self.with_leader(|leader, now_ms, out| leader.read(now_ms, peer, &frames, out));
            }
            Lead::StartCopy { run, node, partitions } => {
                tracing::info!(run, node, count = partitions.len(), "a copy of partitions begins");
                let (room_bytes, gone) = (Rc::new(Cell::new(COPY_WINDOW_BYTES)), Rc::new(Cell::new(false)));
                let only = Arc::new(partitions.iter().copied().collect::<PartitionSet>());
                let events = Rc::clone(&self.log.borrow().events);
                let taker = CopyTaker {
                    run,
                    only: Some(only),
                    events,
                    room_bytes: Rc::clone(&room_bytes),
                    gone: Rc::clone(&gone),
                };
                if let Some(streams) = &mut *member.streams.borrow_mut() {
                    streams.sending = Some(Sending { run, room_bytes, gone });
                }
                self.log.borrow_mut().add_consumer(Rc::new(RefCell::new(taker)));
            }
            Lead::CancelCopy { run } => {
                if let Some(streams) = &*member.streams.borrow()
                    && let Some(sending) = streams.sending.as_ref().filter(|sending| sending.run == run)
                {
                    sending.gone.set(true);
                }
            }
            Lead::Propose(changes) => self.propose_in_sync(member, changes),
            Lead::Gates => {
                member.pauses_begin();
                member.view_due.set(true);
            }
            Lead::HandOver { moves, to } => self.propose_handover(member, moves, to),
            Lead::Name { moves, to } => {
                self.with_follower(|follower, now_ms, out| follower.expect(now_ms, to.node, out));
                self.propose_in_passing(member, Command::Name { moves, to });
            }
            Lead::Keep { namings } => self.propose_in_passing(member, Command::Keep { namings }),
            Lead::Released(releases) => self.roles_go_over_from_here(member, releases),
            Lead::Deposed { partition, handed_over, .. } => {
                if handed_over {
                    self.await_successor(member, partition);
                }
                // The next view is the first that does not say that it leads. What was handed over is closed already: data cores
                // do nothing more about it, and whoever leads now is asked at once.
                let view = if handed_over { 0 } else { member.views.get() + 1 };
                if let Some(streams) = &mut *member.streams.borrow_mut() {
                    streams.leading.remove(partition);
                    streams.deposed.push((view, partition));
                }
                // Data cores need not know whom requests wait for.
                if !handed_over {
                    member.view_due.set(true);
                }
            }
        }
    }

    fn propose_in_sync(self: &Rc<Self>, member: &Rc<Member>, changes: Vec<InSyncChange>) {
        let command = Command::SetInSync { changes: changes.clone() };
        tracing::info!(%command, "who is in sync changes");
        let (control, member, proposed) = (Rc::clone(self), Rc::clone(member), changes);
        glommio::spawn_local(async move {
            let answer = member.propose(command, PROPOSE_PATIENCE).await.map(|proposed| proposed.reply);
            member.count(|counts| counts.proposed_in_sync(proposed.len() as u64, answer.as_ref().ok()));
            // What comes of those that are made is seen in the state.
            match answer {
                Ok(Reply::InSync { changed: 0, .. } | Reply::Refused(_)) => {
                    control.with_leader(|leader, _, _| proposed.iter().for_each(|change| leader.refused(change)));
                }
                Ok(_) => {}
                Err(error) => tracing::info!(%error, "the change of who is in sync is not known to be made"),
            }
        })
        .detach();
    }

    /// What comes of it is seen in raft's state; if it does not show there, whoever wanted it says it again.
    fn propose_in_passing(&self, member: &Rc<Member>, command: Command) {
        tracing::info!(%command, "raft is asked to agree");
        let member = Rc::clone(member);
        glommio::spawn_local(async move {
            if let Err(error) = member.propose(command, PROPOSE_PATIENCE).await {
                tracing::info!(%error, "it is not known whether raft agrees");
            }
        })
        .detach();
    }

    fn propose_reached(&self, member: &Rc<Member>, of: Move, reached: Index, lacking: Vec<PartitionId>) {
        let incarnation = member.reader.state().node(member.me).map_or(0, |node| node.incarnation);
        let by = raft::command::Member { node: member.me, incarnation };
        self.propose_in_passing(member, Command::Reach { of, by, reached, lacking });
    }

    fn do_follow_partitions(self: &Rc<Self>, member: &Rc<Member>, action: Follow) {
        match action {
            Follow::Connect { leader } => self.connect_to_leader(member, leader),
            Follow::Disconnect { leader } => {
                if let Some(outbox) = member.forget_upstream(leader) {
                    outbox.close(false);
                }
            }
            Follow::Send { leader, message } => {
                if let Some(outbox) = member.upstream(leader) {
                    outbox.push(encoded(&message), 0);
                }
            }
            Follow::Lead { partition, epoch, base, suffix } => {
                let cut = self.log.borrow().sequencer.end();
                if let Some(streams) = &mut *member.streams.borrow_mut() {
                    streams.leading.insert(partition);
                }
                member.view_due.set(true);
                self.with_leader(|leader, now_ms, out| {
                    leader.lead(now_ms, partition, epoch, base, cut, suffix, out);
                });
            }
            Follow::Reach { of, reached, lacking } => self.propose_reached(member, of, reached, lacking),
            Follow::Released { leader, releases } => self.roles_go_over(member, leader, &releases),
            Follow::NotReady { partition, epoch } => {
                tracing::error!(
                    partition,
                    epoch,
                    "this node is to lead a partition whose data it does not have: it is not served"
                );
            }
            Follow::CopyPiece { ref bytes, .. } | Follow::CopyUnits { units: ref bytes, .. } => {
                member.count(|counts| counts.copy_bytes_received += bytes.len() as u64);
                member.execute(action);
            }
            Follow::CopyDone { ref partitions, .. } => {
                member.count(|counts| counts.copies_received += partitions.len() as u64);
                member.execute(action);
            }
            other => member.execute(other),
        }
    }

    /// Time passes.
    pub(super) fn tick_streams(self: &Rc<Self>) {
        let Some(member) = self.member() else { return };
        self.show_late_view();
        if member.streams.borrow().is_none() {
            return;
        }
        let wall_ms = self.wall_ms().max(0) as u64;
        let config = self.config();
        let lone_core = self.log.borrow().cores() == 1;
        let (settings, rate) = (leader_settings(member.me, lone_core, &config), copy_rate(&config));
        self.with_leader(|leader, now_ms, out| {
            leader.configure(settings);
            leader.tick(now_ms, wall_ms, out);
        });
        self.say_who_leads(&member);
        self.look_at_memory(&member);
        self.with_follower(|follower, now_ms, out| {
            follower.set_copy_rate(rate);
            follower.tick(now_ms, wall_ms, out);
        });
        self.advance();
    }

    /// Tells the machines what has happened to the log and on data cores. Returns up to where what this node has written is
    /// committed, and committed on disks.
    pub(in crate::control) fn advance_streams(self: &Rc<Self>, member: &Rc<Member>) -> Copied {
        if member.streams.borrow().is_none() {
            self.log.borrow().events.borrow_mut().clear();
            return Copied::default();
        }
        // First what the log has got: an epoch that begins in this turn begins at its end.
        loop {
            let event = self.log.borrow().events.borrow_mut().pop_front();
            let Some(event) = event else { break };
            self.with_leader(|leader, now_ms, out| match event {
                Event::Appended(frame) => leader.appended(now_ms, &as_streamed(&frame), out),
                Event::CopyStarted { run, start } => leader.copy_started(now_ms, run, start, out),
                Event::CopyPiece { run, bytes } => leader.copy_piece(now_ms, run, &bytes, out),
                Event::CopyEnded { run, end } => leader.copy_ended(now_ms, run, end, out),
                Event::CopyFailed { run } => leader.copy_failed(now_ms, run, out),
            });
        }
        self.execute_handed_out(member);
        self.finish_deposing(member);
        let (durable, oldest) = {
            let log = self.log.borrow();
            let next = log.sequencer.end() + 1;
            (log.durable(), log.backlog.first().unwrap_or(next))
        };
        self.with_leader(|leader, now_ms, out| {
            leader.durable(durable);
            leader.oldest(oldest);
            leader.turn_end(now_ms, out);
        });
        self.look_at_memory_after_copies(member);
        self.with_follower(|follower, now_ms, out| follower.turn_end(now_ms, out));
        self.look_at_awaited(member);
        if member.view_due.take() {
            self.show_view();
        }
        let streams = member.streams.borrow();
        if let Some(streams) = &*streams
            && let Some(sending) = &streams.sending
        {
            sending.room_bytes.set(streams.leader.copy_room(sending.run).unwrap_or(0));
        }
        drop(streams);
        member.committed()
    }

    /// Passes on to data cores what the follower has handed out, and tells it what was done.
    fn execute_handed_out(self: &Rc<Self>, member: &Rc<Member>) {
        let progress = {
            let mut streams = member.streams.borrow_mut();
            let Some(streams) = &mut *streams else { return };
            let mut replication = self.replication.borrow_mut();
            let mut log = self.log.borrow_mut();
            let on_disk = log.wal().is_some();
            let progress = streams.executor.advance(&mut replication.apply, &log, on_disk);
            log.out.append(&mut replication.apply.out);
            progress
        };
        // Before the follower goes on: it may replace some of that.
        if !progress.completed.is_empty() {
            self.note_complete(&progress.completed);
        }
        self.note_incomplete(&progress.spoiled);
        self.with_follower(|follower, _, out| {
            // First: what could not be applied counts as applied, and must not be believed.
            if !progress.spoiled.is_empty() {
                follower.spoiled(&progress.spoiled, out);
            }
            follower.applied(progress.applied, out);
            if let Some(durable) = progress.durable {
                follower.durable(durable);
            }
        });
    }

    /// What data cores did while they led partitions that others lead now, is in the log when all have seen that.
    pub(super) fn finish_deposing(self: &Rc<Self>, member: &Rc<Member>) {
        let seen = self.log.borrow().seen_by_all();
        let mut tails = Vec::new();
        if let Some(streams) = &mut *member.streams.borrow_mut() {
            let leader = &mut streams.leader;
            streams.deposed.retain(|&(view, partition)| {
                if view <= seen {
                    tails.extend(leader.release(partition).map(|tail| (partition, tail)));
                }
                view > seen
            });
        }
        for (partition, tail) in tails {
            self.with_follower(|follower, _, out| follower.returned(partition, tail, out));
        }
        if let Some(gates) = member.gates_seen(seen) {
            self.with_leader(|leader, _, out| leader.gates_seen(gates, out));
        }
        member.note_seen(seen);
    }
}

impl Member {
    /// How many followers have everything up to `index` that concerns them, or have synced it.
    pub(in crate::control) fn copies(&self, index: Index, synced: bool) -> u32 {
        let count = |streams: &Streams| match synced {
            true => streams.leader.durable_on(index),
            false => streams.leader.received_by(index),
        };
        self.streams.borrow().as_ref().map_or(0, |streams| count(streams) as u32)
    }

    /// Followers that have acknowledged anything so lately.
    pub(in crate::control) fn good_followers(&self, now_ms: u64, lag_ms_max: u64) -> usize {
        let streams = self.streams.borrow();
        let lags = streams.as_ref().map_or(Vec::new(), |streams| streams.leader.lags(now_ms));
        lags.iter().filter(|lag| lag.following > 0 && lag.silent_ms <= lag_ms_max).count()
    }

    /// Whether a node is connected to this one to follow it, and was heard so lately.
    pub(super) fn is_heard(&self, node: NodeId, now_ms: u64, silent_ms_max: u64) -> bool {
        let streams = self.streams.borrow();
        let lags = streams.as_ref().map_or(Vec::new(), |streams| streams.leader.lags(now_ms));
        lags.iter().any(|lag| lag.node == node && lag.silent_ms < silent_ms_max)
    }

    /// Up to where what this node has written is committed, and committed on disks.
    pub(super) fn committed(&self) -> Copied {
        let committed = |leader: &Leader| Copied {
            received: leader.commit_upto(),
            durable: leader.commit_durable_upto(),
            lanes: leader.lanes(),
        };
        self.streams.borrow().as_ref().map(|streams| committed(&streams.leader)).unwrap_or_default()
    }

    /// The view that is shown says all there is to say: nothing waits for another one.
    pub(super) fn view_is_shown(&self) {
        let number = self.views.get();
        if let Some(streams) = &mut *self.streams.borrow_mut() {
            streams.deposed.iter_mut().for_each(|(view, _)| *view = number.min(*view));
        }
    }

    /// Data cores have all seen the view of this number: what raft said by then is known to those who serve.
    fn note_seen(&self, number: u64) {
        let mut shown = self.shown_at.borrow_mut();
        while let Some(&(view, applied)) = shown.front()
            && view <= number
        {
            self.seat.shown(applied);
            shown.pop_front();
        }
    }
}

/// A frame of the log as the machines see it.
fn as_streamed(frame: &Frame) -> streams::Frame<'_> {
    streams::Frame { first: frame.head.first, last: frame.last(), wall_ms: frame.head.wall_ms, units: frame.payload() }
}
