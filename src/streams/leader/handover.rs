//! A role goes to another node while both live.
//!
//! ```text
//!     Naming ── the successor is named ──► Closing ── seen by all data cores ──► Closed ── seen ──► Sealed ── committed ──► Deposed
//!       └─────────────────────────────────────┴───────────┬────────────────────────┴──────────────────┘
//!                                                         └── patience is over: open again
//! ```
//!
//! 0. *Naming*: raft is asked for its word before anything is closed ([`Command::Name`], [`crate::raft::successors`]).
//! 1. *Closing*: requests about the partition wait at the gate; those that have been begun go on. A node with one data core is past
//!    this step at once: nobody else can have sent it any ([`Settings::lone_core`]).
//! 2. *Closed*: nothing of it is executed any more, nor evicted, nor does it expire. When all data cores have said so, the log
//!    has its last unit.
//! 3. *Sealed*: everything up to there has to be committed, so that the other node has it, and no reply is held any more that
//!    tells of it.
//! 4. This node says that it has ended ([`Control::Released`]), and from then on it is one that follows: the other one may be serving.
//!    That raft's log gets to know of it is no matter of this machine any more ([`crate::streams::ahead`]).
//!
//! A successor that this node does not want any more is there until raft's state shows that it is not: that is proposed as long as it
//! takes ([`Command::Keep`]), and meanwhile the role goes to nobody.
//!
//! If the cluster uses a version of its formats that has no successors, or the other node does not speak of them, raft decides at the end:
//!
//! ```text
//!     Closing ── seen by all data cores ──► Closed ── seen ──► Sealed ── committed ──► Proposed ──► Deposed
//!        └───────────────┬────────────────────┴──────────────────┘                        │
//!                        └── patience is over: open again ◄── raft has refused it ────────┘
//! ```
//!
//! *Proposed*: raft decides ([`Command::Lead`]), by the epoch. Until its answer is known the gate stays closed: the other
//! node may be serving already. If it does not come, a command is proposed that gives the role to this node anew: whichever
//! of the two is executed first makes the other one stale.
//!
//! What the other node begins with equals what this one ends with, so nothing has to be copied back.
//!
//! Invariants: `handovers` names exactly the partitions that have one; what was released is not led, and its role is not asked for
//! again in the epoch in which it was.
//!
//! [`Command::Name`]: crate::raft::command::Command::Name
//! [`Command::Keep`]: crate::raft::command::Command::Keep
//! [`Command::Lead`]: crate::raft::command::Command::Lead

use super::*;
use crate::cluster::Gate;
use crate::raft::command::Move;
use crate::raft::successors::{NAMING_VERSION, Successor};

/// A handover that is not proposed after this is given up; one that is, is taken back.
pub const HANDOVER_MS: u64 = 1_000;

/// After so long what waits at the gate is refused: whether this node leads is not known to it.
pub const STUCK_MS: u64 = 2_000;

/// A follower that has lacked something for longer is behind.
const LAG_MS_MAX: u64 = 100;

/// A role that moves.
#[derive(Clone, Copy, Debug)]
pub struct Handover {
    to: Member,
    since_ms: u64,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Raft is to name the other node.
    Naming,
    /// Shown with this state of all gates.
    Closing {
        gates: u64,
    },
    Closed {
        gates: u64,
    },
    /// The last unit has no higher index.
    Sealed {
        upto: Index,
    },
    /// When it was proposed last, and how often without an answer that is known.
    Proposed {
        since_ms: u64,
        unknown: u32,
        stuck: bool,
    },
    /// The other node may have begun.
    Released,
}

/// How far a role has moved, as [`Step`] without what belongs to it: for those who look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Naming,
    Closing,
    Closed,
    Sealed,
    Proposed,
    Released,
}

impl Stage {
    pub const ALL: [Stage; 6] =
        [Stage::Naming, Stage::Closing, Stage::Closed, Stage::Sealed, Stage::Proposed, Stage::Released];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Naming => "naming",
            Stage::Closing => "closing",
            Stage::Closed => "closed",
            Stage::Sealed => "sealed",
            Stage::Proposed => "proposed",
            Stage::Released => "released",
        }
    }
}

impl Step {
    fn stage(&self) -> Stage {
        match self {
            Step::Naming => Stage::Naming,
            Step::Closing { .. } => Stage::Closing,
            Step::Closed { .. } => Stage::Closed,
            Step::Sealed { .. } => Stage::Sealed,
            Step::Proposed { .. } => Stage::Proposed,
            Step::Released => Stage::Released,
        }
    }
}

/// What was led here in this epoch, and whom its end was told.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub epoch: Epoch,
    naming: u64,
    to: Member,
    told: Told,
}

/// Who has been told of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nobody,
    Successor,
    All,
}

impl Ended {
    fn release(&self, partition: PartitionId) -> Release {
        Release { partition, epoch: self.epoch, naming: self.naming }
    }
}

/// The first step behind which data cores are asked to see a gate, which they do with this change of them.
fn closing(settings: &Settings, gates: u64) -> Step {
    if settings.lone_core { Step::Closed { gates } } else { Step::Closing { gates } }
}

impl Leader {
    /// Gives these roles to another node, those of them that it can take, up to so many. What becomes of it is seen in raft's
    /// state; how many are on their way. None is begun while a follower is behind that commits wait for: everything that this
    /// node has written would have to be committed first, and requests would wait for that.
    pub fn hand_over(
        &mut self,
        now_ms: u64,
        moves: &[Move],
        to: Member,
        count_max: usize,
        out: &mut Vec<Action>,
    ) -> usize {
        self.look_who_keeps_up(now_ms);
        let is_behind = |fellow: &Fellow| fellow.timeline.lag(now_ms, fellow.received).0 > LAG_MS_MAX;
        let behind = self.fellows.iter().any(|fellow| self.is_waited_for(fellow.member.node) && is_behind(fellow));
        let known = self.state.member(to.node) == Some(to) && to.node != self.settings.node;
        let before = self.handovers.len();
        let gates = self.gates + 1;
        let names = self.state.orders().version() >= NAMING_VERSION
            && self.fellows.iter().any(|fellow| fellow.member == to && fellow.heeds_releases);
        let mut named = Proposals::default();
        for &Move { partition, epoch } in moves.iter().filter(|_| known && !behind) {
            let is_copied = self.run.as_ref().is_some_and(|run| run.partitions.contains(&partition));
            if is_copied || self.handovers.len() - before == count_max {
                continue;
            }
            let Some(mut led) = self.led.get_mut(partition as usize).and_then(Option::take) else { continue };
            let rests = led.deposed.is_none() && led.handover.is_none() && self.state.successor(partition).is_none();
            let fits = led.epoch == epoch && rests;
            if fits && led.in_sync.contains(&to.node) && self.is_good(now_ms, partition, &led, to.node) {
                let step = if names { Step::Naming } else { closing(&self.settings, gates) };
                led.handover = Some(Handover { to, since_ms: now_ms, step });
                self.handovers.push(partition);
                if names {
                    named.add(partition, epoch, to);
                }
            }
            self.led[partition as usize] = Some(led);
        }
        let begun = self.handovers.len() - before;
        self.tally.handovers_begun += begun as u64;
        if begun > 0 && !names {
            self.gates_change(out);
        }
        named.each(|to, moves| out.push(Action::Name { moves, to }));
        begun
    }

    /// Closes what may be handed over now: raft's state names who is to lead next.
    pub(super) fn look_at_successors(&mut self, out: &mut Vec<Action>) {
        let state = &self.state;
        self.released.retain(|partition, ended| {
            // The next epoch is the successor's.
            state.partition(*partition).is_some_and(|is| is.epoch <= ended.epoch + 1)
        });
        if state.successors().is_empty() {
            return;
        }
        let successors = Rc::clone(state.successors());
        let (begin, mut begins, mut given_up) = (closing(&self.settings, self.gates + 1), false, Vec::new());
        self.each_handover(|partition, led, handover| {
            let is_over = matches!(handover.step, Step::Released | Step::Proposed { .. });
            let Some(named) = successors.of(partition).filter(|_| !is_over) else { return };
            if (named.to, named.epoch) != (handover.to, led.epoch + 1) || named.gone {
                given_up.push(partition);
            } else if handover.step == Step::Naming {
                handover.step = begin;
                begins = true;
            }
        });
        if begins {
            self.gates_change(out);
        }
        self.open_again(&given_up, out);
    }

    /// Those who follow what this node has ended hear of it, too: first the successor, as requests wait for that one only.
    pub fn tell_others(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        if self.released.values().all(|ended| ended.told == Told::All) {
            return;
        }
        (0..self.fellows.len()).for_each(|at| {
            let member = self.fellows[at].member;
            self.tell_released(now_ms, at, |ended| ended.told != Told::All && ended.to != member, out);
        });
        self.released.values_mut().for_each(|ended| ended.told = Told::All);
    }

    /// A follower is told what this node has ended, of what it asks for.
    pub(super) fn tell_released(
        &mut self,
        now_ms: u64,
        at: usize,
        which: impl Fn(&Ended) -> bool,
        out: &mut Vec<Action>,
    ) {
        let fellow = &self.fellows[at];
        let is_wanted = |(partition, ended): &(&PartitionId, &Ended)| {
            which(ended) && fellow.parts.get(partition).is_some_and(|part| part.epoch == ended.epoch)
        };
        let released = self.released.iter().filter(is_wanted);
        let releases: Vec<Release> = released.map(|(partition, ended)| ended.release(*partition)).collect();
        if fellow.heeds_releases && !releases.is_empty() {
            self.send(now_ms, at, Control::Released { releases }.into(), out);
        }
    }

    fn gates_change(&mut self, out: &mut Vec<Action>) {
        self.gates += 1;
        out.push(Action::Gates);
    }

    /// The number of the last change of a gate.
    pub fn gates(&self) -> u64 {
        self.gates
    }

    /// The partitions whose roles are on their way to another node.
    pub fn handovers(&self) -> &[PartitionId] {
        &self.handovers
    }

    /// To whom roles are on their way, and how far they have come. Those that have been released are, until raft's log says so.
    pub fn stages(&self) -> impl Iterator<Item = (NodeId, Stage)> {
        let handover = |partition: &PartitionId| self.led.get(*partition as usize)?.as_ref()?.handover;
        let moving = self.handovers.iter().filter_map(handover).map(|of| (of.to.node, of.step.stage()));
        let is_unsaid = |(partition, ended): &(&PartitionId, &Ended)| {
            self.state.partition(**partition).is_some_and(|is| is.epoch == ended.epoch)
        };
        let released = self.released.iter().filter(is_unsaid).map(|(_, ended)| (ended.to.node, Stage::Released));
        moving.chain(released)
    }

    /// How many these are.
    pub fn handing_over(&self) -> usize {
        self.handovers.len()
    }

    /// The gate of a partition that is led here; None: it is not known whether it still is, and has not been for long.
    pub fn gate(&self, partition: PartitionId) -> Option<Gate> {
        let led = self.led.get(partition as usize).and_then(Option::as_ref);
        match led.and_then(|led| led.handover).map(|handover| handover.step) {
            None | Some(Step::Naming) => Some(Gate::Open),
            Some(Step::Closing { .. }) => Some(Gate::Closing),
            Some(Step::Proposed { stuck: true, .. }) => None,
            Some(_) => Some(Gate::Closed),
        }
    }

    /// Data cores have all seen the gates as they were after this change, and the log has what they had executed before.
    pub fn gates_seen(&mut self, seen: u64, out: &mut Vec<Action>) {
        let (next, end) = (self.gates + 1, self.end);
        let mut closed = false;
        self.each_handover(|_, _, handover| match handover.step {
            Step::Closing { gates } if gates <= seen => {
                handover.step = Step::Closed { gates: next };
                closed = true;
            }
            Step::Closed { gates } if gates <= seen => handover.step = Step::Sealed { upto: end },
            _ => {}
        });
        if closed {
            self.gates_change(out);
        }
    }

    fn each_handover(&mut self, mut change: impl FnMut(PartitionId, &Led, &mut Handover)) {
        for at in 0..self.handovers.len() {
            let partition = self.handovers[at];
            let Some(led) = self.led[partition as usize].as_deref_mut() else { continue };
            let Some(mut handover) = led.handover else { continue };
            change(partition, led, &mut handover);
            led.handover = Some(handover);
        }
    }

    /// Hands over what is sealed and committed.
    pub(super) fn finish_handovers(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        if self.handovers.is_empty() {
            return;
        }
        let reached = match self.settings.durable_quorum {
            true => self.commit_durable_upto(),
            false => self.commit_upto(),
        };
        #[cfg(test)]
        let reached = if self.fault == Some(Fault::HandOverUncommitted) { Index::MAX } else { reached };
        let (mut proposals, mut ended) = (Proposals::default(), BTreeMap::new());
        let successors = Rc::clone(self.state.successors());
        self.each_handover(|partition, led, handover| {
            if let Step::Sealed { upto } = handover.step
                && upto <= reached
            {
                if let Some(Successor { number, .. }) = successors.of(partition) {
                    handover.step = Step::Released;
                    ended.insert(
                        partition,
                        Ended { epoch: led.epoch, naming: number, to: handover.to, told: Told::Nobody },
                    );
                } else {
                    handover.step = Step::Proposed { since_ms: now_ms, unknown: 1, stuck: false };
                    proposals.add(partition, led.epoch, handover.to);
                }
            }
        });
        proposals.make(out);
        if ended.is_empty() {
            return;
        }
        let releases = ended.iter().map(|(partition, ended)| ended.release(*partition)).collect();
        self.released.append(&mut ended);
        for at in 0..self.fellows.len() {
            let member = self.fellows[at].member;
            self.tell_released(now_ms, at, |ended| ended.told == Told::Nobody && ended.to == member, out);
        }
        let fresh = self.released.values_mut().filter(|ended| ended.told == Told::Nobody);
        fresh.for_each(|ended| ended.told = Told::Successor);
        out.push(Action::Released(releases));
    }

    /// Keeps the roles whose successors it does not want any more.
    fn keep_roles(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let mut namings = Vec::new();
        for (partition, successor) in Rc::clone(self.state.successors()).iter() {
            let led = self.led.get_mut(usize::from(partition)).and_then(Option::as_mut);
            let Some(led) = led.filter(|led| led.epoch + 1 == successor.epoch) else { continue };
            let is_due = now_ms >= led.kept_ms.map_or(0, |at_ms| at_ms + self.settings.propose_ms);
            if is_due && led.deposed.is_none() && led.handover.is_none() {
                led.kept_ms = Some(now_ms);
                namings.push(Naming { partition, number: successor.number });
            }
        }
        if !namings.is_empty() {
            out.push(Action::Keep { namings });
        }
    }

    /// Gives up what takes too long, and proposes again what was not answered.
    pub(super) fn judge_handovers(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let propose_ms = self.settings.propose_ms;
        let me = self.state.member(self.settings.node);
        let (mut late, mut stuck_now, mut proposals) = (Vec::new(), false, Proposals::default());
        self.each_handover(|partition, led, handover| {
            let age_ms = now_ms.saturating_sub(handover.since_ms);
            let Step::Proposed { since_ms, unknown, stuck } = &mut handover.step else {
                late.extend((age_ms > HANDOVER_MS && handover.step != Step::Released).then_some(partition));
                return;
            };
            if now_ms >= *since_ms + propose_ms {
                (*since_ms, *unknown) = (now_ms, *unknown + 1);
                let to = if age_ms > HANDOVER_MS { me.unwrap_or(handover.to) } else { handover.to };
                proposals.add(partition, led.epoch, to);
            }
            if age_ms > STUCK_MS && !std::mem::replace(stuck, true) {
                stuck_now = true;
            }
        });
        proposals.make(out);
        if stuck_now {
            self.gates_change(out);
        }
        self.open_again(&late, out);
        self.keep_roles(now_ms, out);
    }

    /// Raft has decided on a proposal for these roles, and this machine has been told of the state after that: those that it
    /// still leads in the same epoch did not move. To be said once for each time that it was proposed.
    pub fn decided(&mut self, moves: &[Move], out: &mut Vec<Action>) {
        let mut stayed = Vec::new();
        self.each_handover(|partition, led, handover| {
            let decided = moves.iter().any(|decided| (decided.partition, decided.epoch) == (partition, led.epoch));
            if let Step::Proposed { unknown, .. } = &mut handover.step
                && decided
            {
                *unknown = unknown.saturating_sub(1);
                stayed.extend((*unknown == 0).then_some(partition));
            }
        });
        self.open_again(&stayed, out);
    }

    fn open_again(&mut self, partitions: &[PartitionId], out: &mut Vec<Action>) {
        for &partition in partitions {
            self.forget_handover(partition);
        }
        self.tally.handovers_given_up += partitions.len() as u64;
        if !partitions.is_empty() {
            self.gates_change(out);
        }
    }

    /// There is none any more; to whom the role was released, or it was proposed that it goes, if it was.
    pub(super) fn forget_handover(&mut self, partition: PartitionId) -> Option<Member> {
        let led = self.led.get_mut(partition as usize)?.as_deref_mut()?;
        let handover = led.handover.take()?;
        self.handovers.retain(|other| *other != partition);
        matches!(handover.step, Step::Proposed { .. } | Step::Released).then_some(handover.to)
    }
}

/// What is proposed at once, by who gets it.
#[derive(Default)]
struct Proposals(Vec<(Member, Vec<Move>)>);

impl Proposals {
    fn add(&mut self, partition: PartitionId, epoch: Epoch, to: Member) {
        let change = Move { partition, epoch };
        match self.0.iter_mut().find(|(member, _)| *member == to) {
            Some((_, moves)) => moves.push(change),
            None => self.0.push((to, vec![change])),
        }
    }

    fn make(self, out: &mut Vec<Action>) {
        self.each(|to, moves| out.push(Action::HandOver { moves, to }));
    }

    fn each(self, mut propose: impl FnMut(Member, Vec<Move>)) {
        for (to, mut moves) in self.0 {
            moves.sort_unstable_by_key(|change| change.partition);
            propose(to, moves);
        }
    }
}
