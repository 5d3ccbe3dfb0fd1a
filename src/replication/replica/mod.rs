//! The side that follows: one machine for the one primary of a node.
//!
//! ```text
//!     Idle ─► Pausing ◄──────────────── anything that breaks ◄───────────────┐
//!               └─► Connecting ─► Greeting ─┬─► Streaming ───────────────────┤
//!                                  ▲        ├─► Diverged: set aside, greet ──┤
//!                                  └────────┤                                │
//!                                           └─► Copying ─► Finishing ─► Streaming
//! ```
//!
//! What is *received* is in the log, acknowledged, and can be taken back. What is *applied* is in the data and cannot. So it is
//! applied up to the commit index only, and when the log turns out to have another end than the primary's, what matters is
//! whether some of that end is applied: if not, it is cut off; if so, the data is replaced by a copy. In both cases the
//! records are set aside first, for an operator to look at. A former primary has applied all that it wrote, so it goes on
//! if its log ends at the cut, and takes a copy if it does not.
//!
//! A copy replaces the data in place. From its beginning until it is whole, and the shell has made it durable, the node has
//! nothing: it acknowledges nothing, serves nobody, cannot take over, and starts again from the beginning if the connection breaks.
//!
//! Pure: times (milliseconds of a steady clock) and random numbers are arguments; what is to be done comes out as
//! [`Action`]s, to be done in their order. Owned by the control core. See [`crate::replication`] for how it is driven.
//!
//! Invariants: `applied` <= `applying` <= `received`, `durable` <= `received`; `complete` is false from the beginning of a copy to
//! its end; without complete data nothing is acknowledged.

mod receive;

use std::rc::Rc;

use thiserror::Error;

use super::detector::{Detector, Expectation};
use super::history::{Chain, HistoryId};
use super::message::{Control, Frame, Hello, PROTOCOL_VERSION, Refusal, ToPrimary, ToReplica, Wants};

/// The first pause before connecting again; each failure doubles it.
pub const BACKOFF_MS_MIN: u64 = 100;
/// The longest pause.
pub const BACKOFF_MS_MAX: u64 = 5_000;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node's id, not 0.
    pub node: u128,
    /// The port at which it serves.
    pub port: u16,
    pub heartbeat_ms: u64,
    /// A primary that says nothing for longer is given up.
    pub repl_timeout_ms: u64,
    /// Phi above which it is given up before that, except during a copy. See [`super::detector`].
    pub phi_max: f64,
}

/// What this node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// The chain of its log. It may name histories that begin behind its end.
    pub chain: Chain,
    /// The last index in its log.
    pub received: u64,
    /// The last index in its data.
    pub applied: u64,
    /// The last index on its disk.
    pub durable: u64,
    /// The data is whole: no copy was begun and not finished. Kept on disk; false is written before a copy touches anything.
    pub complete: bool,
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Connect to the primary and authenticate, then [`Replica::connected`] or [`Replica::disconnected`].
    Connect,
    /// Close the connection after what was sent is written. No [`Replica::disconnected`] needs to follow.
    Disconnect,
    Send(ToPrimary),
    /// Keep these histories, durably, before anything that comes after this.
    SaveChain(Chain),
    /// Put this behind the log; when it is on disk, [`Replica::durable`].
    Append(Frame),
    /// Apply the log up to this index; then [`Replica::applied`].
    Apply {
        upto: u64,
    },
    /// Write these records of the log, which others do not have, to a file of their own.
    SetAside {
        from: u64,
        to: u64,
    },
    /// Take what comes after this index off the log. It is not applied.
    Truncate {
        to: u64,
    },
    /// A copy begins: note durably that the data is incomplete, then drop all data and the log.
    BeginCopy {
        run: u64,
    },
    /// A piece of the copy.
    CopyPiece(Rc<[u8]>),
    /// The copy is whole: the state as of index `end`, behind which the log goes on. When that is durable,
    /// [`Replica::copy_durable`].
    FinishCopy {
        run: u64,
        end: u64,
        chain: Chain,
    },
    /// The primary hands over: call [`Replica::promote`].
    TakeOver,
}

/// Why a node cannot be promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PromoteError {
    #[error("a copy was begun and is not complete")]
    Incomplete,
}

/// A mistake for the simulator to find.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What is applied is cut off the log like what is not.
    TruncateApplied,
    /// What is received is applied at once.
    ApplyUncommitted,
    /// Half a copy is kept when the connection breaks.
    KeepHalfCopies,
    /// The copy is acknowledged before it is durable.
    AckBeforeDurableCopy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Follows nobody.
    Idle,
    /// Connects again at this time.
    Pausing {
        until_ms: u64,
    },
    Connecting,
    /// Has said hello.
    Greeting,
    Streaming,
    Copying {
        run: u64,
    },
    /// The copy is whole and not durable yet.
    Finishing {
        run: u64,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Replica {
    settings: Settings,
    has: Holdings,
    /// The shell was told to apply up to here.
    applying: u64,
    /// What the primary says is committed.
    commit: u64,
    /// The log has an end that cannot be undone, which is set aside already: only a copy helps.
    must_copy: bool,
    link: Link,
    /// Failures since the last success.
    failures: u32,
    heard_ms: u64,
    /// When the primary said anything last.
    primary_heard_ms: Option<u64>,
    heartbeat_sent_ms: u64,
    detector: Detector,
    refused: Option<Refusal>,
    in_sync: bool,
    primary_end: u64,
    /// What the clock of the node that leads showed, and when that was heard.
    wall: Option<(u64, u64)>,
    handed_over: bool,
    /// Of the last connection: see [`Hello::attempt`].
    attempt: u64,
    #[cfg(test)]
    pub fault: Option<Fault>,
}

impl Replica {
    /// A node that follows nobody yet. Its attempts to connect are numbered from `attempt` on, which has to be above those of
    /// earlier lives: the wall clock in microseconds will do. A primary that becomes a replica has received and applied all that it wrote.
    pub fn new(settings: Settings, has: Holdings, attempt: u64) -> Replica {
        assert!(has.applied <= has.received && has.durable <= has.received && settings.node != 0);
        let detector = Detector::new(Expectation::of_interval(settings.heartbeat_ms), 0);
        Replica {
            settings,
            applying: has.applied,
            commit: 0,
            has,
            must_copy: false,
            link: Link::Idle,
            failures: 0,
            heard_ms: 0,
            primary_heard_ms: None,
            heartbeat_sent_ms: 0,
            detector,
            refused: None,
            in_sync: false,
            primary_end: 0,
            wall: None,
            handed_over: false,
            attempt,
            #[cfg(test)]
            fault: None,
        }
    }

    /// The configuration may have changed.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// REPLICAOF: follows the primary that the shell connects to from now on.
    pub fn follow(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        self.hang_up(out);
        self.failures = 0;
        (self.refused, self.primary_heard_ms) = (None, None);
        self.connect(now_ms, out);
    }

    /// The connection is there.
    pub fn connected(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        if self.link == Link::Connecting {
            self.greet(now_ms, out);
        }
    }

    /// The connection is gone, or could not be made. `random` spreads the attempts of many replicas.
    pub fn disconnected(&mut self, now_ms: u64, random: u64) {
        if self.link == Link::Idle {
            return;
        }
        #[cfg(test)]
        if self.fault == Some(Fault::KeepHalfCopies) {
            self.has.complete = true;
        }
        let pause = (BACKOFF_MS_MIN << self.failures.min(16)).min(BACKOFF_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        (self.in_sync, self.handed_over) = (false, false);
        self.link = Link::Pausing { until_ms: now_ms.saturating_add(pause / 2 + random % (pause / 2 + 1)) };
    }

    /// Time passes. To be called about ten times in the shortest of all intervals.
    pub fn tick(&mut self, now_ms: u64, wall_ms: u64, random: u64, out: &mut Vec<Action>) {
        match self.link {
            Link::Idle => return,
            Link::Pausing { until_ms } if now_ms >= until_ms => return self.connect(now_ms, out),
            Link::Pausing { .. } => return,
            _ => {}
        }
        let silent = now_ms.saturating_sub(self.heard_ms) > self.settings.repl_timeout_ms;
        let suspect = self.link == Link::Streaming && self.detector.phi(now_ms) > self.settings.phi_max;
        if silent || suspect {
            out.push(Action::Disconnect);
            return self.disconnected(now_ms, random);
        }
        let due = now_ms.saturating_sub(self.heartbeat_sent_ms) >= self.settings.heartbeat_ms;
        if due && self.link != Link::Connecting {
            self.heartbeat_sent_ms = now_ms;
            out.push(Action::Send(ToPrimary::Heartbeat { wall_ms }));
        }
    }

    /// A message from the primary.
    pub fn message(&mut self, now_ms: u64, message: ToReplica, random: u64, out: &mut Vec<Action>) {
        if matches!(self.link, Link::Idle | Link::Pausing { .. } | Link::Connecting) {
            return;
        }
        (self.heard_ms, self.primary_heard_ms) = (now_ms, Some(now_ms));
        let expected = match message {
            ToReplica::Frames { commit, frames } => self.frames(commit, frames, out),
            ToReplica::Stream { run, bytes } if self.link == (Link::Copying { run }) => {
                out.push(Action::CopyPiece(bytes));
                true
            }
            ToReplica::Stream { .. } => false,
            ToReplica::Control(control) => self.control(now_ms, control, out),
        };
        if !expected {
            out.push(Action::Disconnect);
            self.disconnected(now_ms, random);
        }
    }

    /// The log is on disk up to `index`.
    pub fn durable(&mut self, index: u64, out: &mut Vec<Action>) {
        if index > self.has.durable && index <= self.has.received {
            self.has.durable = index;
            self.acknowledge(out);
        }
    }

    /// The data holds the log up to `index`.
    pub fn applied(&mut self, index: u64) {
        // What was on its way when a copy began is of no interest any more.
        if index <= self.applying {
            self.has.applied = self.has.applied.max(index);
        }
    }

    /// What was received cannot be applied: only a copy helps.
    pub fn give_up_data(&mut self) {
        self.must_copy = true;
    }

    /// The copy is durable, and so is the note that it is complete.
    pub fn copy_durable(&mut self, run: u64, out: &mut Vec<Action>) {
        if self.link == (Link::Finishing { run }) {
            self.link = Link::Streaming;
            self.has.complete = true;
            self.failures = 0;
            self.acknowledge(out);
            self.apply(out);
        }
    }

    /// REPLICAOF NO ONE, or the answer to [`Action::TakeOver`]: applies everything received and starts the history `id`, which is
    /// random. Then this node leads, by the chain returned.
    pub fn promote(&mut self, id: HistoryId, out: &mut Vec<Action>) -> Result<Chain, PromoteError> {
        if !self.has.complete {
            return Err(PromoteError::Incomplete);
        }
        let cut = self.has.received;
        let chain = self.has.chain.promote(id, cut);
        if self.applying < cut {
            self.applying = cut;
            out.push(Action::Apply { upto: cut });
        }
        self.has.chain = chain.clone();
        out.push(Action::SaveChain(chain.clone()));
        if std::mem::take(&mut self.handed_over) {
            out.push(Action::Send(ToPrimary::TakeOver { history: id, cut }));
        }
        self.must_copy = false;
        self.hang_up(out);
        Ok(chain)
    }

    /// What this node has.
    pub fn has(&self) -> &Holdings {
        &self.has
    }

    /// What is known to be committed.
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// The connection is there and the log is followed.
    pub fn is_streaming(&self) -> bool {
        self.link == Link::Streaming
    }

    /// The primary is being connected to, or was greeted and has not said what follows.
    pub fn is_connecting(&self) -> bool {
        matches!(self.link, Link::Connecting | Link::Greeting)
    }

    /// Since the primary that is followed said anything; None: it never has.
    pub fn silent_ms(&self, now_ms: u64) -> Option<u64> {
        self.primary_heard_ms.map(|heard_ms| now_ms.saturating_sub(heard_ms))
    }

    /// The data is whole, and nothing in it can still be taken back: a copy is, for a short while, ahead of the commit index.
    pub fn is_readable(&self) -> bool {
        self.has.complete && self.has.applied <= self.commit
    }

    /// Whether the primary counted this replica as in sync when it was last heard.
    pub fn was_in_sync(&self) -> bool {
        self.in_sync
    }

    /// Why the primary refused, if it did.
    pub fn refused(&self) -> Option<Refusal> {
        self.refused
    }

    /// Records that the primary has and this node has not, as far as it knows.
    pub fn lag(&self) -> u64 {
        self.primary_end.saturating_sub(self.has.received)
    }

    /// What the wall clock of the node that leads shows now, but for the time that a message takes. Expiry is judged by it, and
    /// who relays passes it on.
    pub fn wall_ms(&self, now_ms: u64) -> Option<u64> {
        self.wall.map(|(wall_ms, heard_ms)| wall_ms.saturating_add(now_ms.saturating_sub(heard_ms)))
    }

    /// How sure it is that the primary is dead.
    pub fn phi(&self, now_ms: u64) -> f64 {
        self.detector.phi(now_ms)
    }

    fn connect(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        self.link = Link::Connecting;
        self.attempt += 1;
        self.heard_ms = now_ms;
        out.push(Action::Connect);
    }

    fn hang_up(&mut self, out: &mut Vec<Action>) {
        if !matches!(self.link, Link::Idle | Link::Pausing { .. }) {
            out.push(Action::Disconnect);
        }
        self.link = Link::Idle;
        self.in_sync = false;
    }

    fn greet(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        self.link = Link::Greeting;
        self.heard_ms = now_ms;
        self.detector = Detector::new(Expectation::of_interval(self.settings.heartbeat_ms), now_ms);
        let wants = if self.has.complete && !self.must_copy { Wants::Log } else { Wants::Copy };
        let chain = self.has.chain.upto(self.has.received);
        // Without data the log is empty, and starts where its histories do.
        let received = self.has.received.max(chain.last().cut);
        out.push(Action::Send(ToPrimary::Hello(Hello {
            version: PROTOCOL_VERSION,
            node: self.settings.node,
            port: self.settings.port,
            attempt: self.attempt,
            wants,
            chain: chain.histories().to_vec(),
            received,
        })));
    }

    /// The invariants of the module.
    #[cfg(test)]
    pub fn validate(&self) {
        let Holdings { received, applied, durable, complete, .. } = self.has;
        assert!(applied <= self.applying && self.applying <= received && durable <= received);
        assert!(complete || !matches!(self.link, Link::Streaming));
        assert!(!complete || !matches!(self.link, Link::Copying { .. } | Link::Finishing { .. }));
    }
}
