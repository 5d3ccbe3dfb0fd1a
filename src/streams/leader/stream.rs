//! The log on its way to followers.
//!
//! A follower for which the whole log was gone through is *live*: what is appended goes into its queue at once. One that is
//! behind gets the backlog read for it, a window at a time, until it has caught up. The number of bytes that its connection has
//! not taken, and of those that it has to keep because they are not committed, is limited.

use super::*;
use crate::shard::statement::Malformed;
use crate::streams::message::{FRAMES_PER_MESSAGE_MAX, Spans, StreamFrame};
use crate::streams::units::{Gather, Scope, Target, Targets, Unit, Units};

/// The backlog is read for a follower while fewer bytes are queued for it, and in pieces of about so many.
pub const READ_WINDOW_BYTES: u64 = 1 << 20;
/// The commit index alone is sent only if no more is queued: else it goes along with what follows.
const COMMIT_ALONE_BYTES_MAX: u64 = 4 << 10;
/// And only so often, unless somebody waits for followers to have applied: under load the next frames take it along. Where these
/// come faster than that, they are waited for.
const COMMIT_ALONE_MS: u64 = 5;

impl Leader {
    /// The log has grown by this frame. What comes of it is sent with [`Leader::turn_end`].
    pub fn appended(&mut self, now_ms: u64, frame: &Frame, out: &mut Vec<Action>) {
        assert_eq!(frame.first, self.end + 1, "the log has no gaps");
        if self.untidy {
            self.arrange();
        }
        let limit = self.settings.uncommitted_bytes_max;
        for fellow in &mut self.fellows {
            fellow.live = fellow.position == self.end && fellow.reading.is_none() && fellow.can_keep(limit);
        }
        self.end = frame.last;
        let gone_through = self.go_through(frame);
        debug_assert!(gone_through.is_ok(), "what this node writes has the form of units");
        let spans = gone_through.ok().and_then(|spanned| spans_of(&self.led, frame, spanned));
        if spans.is_some() {
            self.spanned_upto = frame.last;
            let touched = self.groups.iter_mut().filter(|group| group.last == frame.last);
            touched.for_each(|group| group.spans.push(frame.first, frame.last));
        }
        let (mut whole, mut full, mut copied) = (None, Vec::new(), None);
        let limit = self.settings.queue_bytes_max;
        for (at, fellow) in self.fellows.iter_mut().enumerate() {
            if std::mem::take(&mut fellow.concerned) {
                fellow.last = frame.last;
                fellow.timeline.append(now_ms, frame.last, frame.units.len() as u64);
            }
            if fellow.copying > 0
                && let Some(units) = fellow.copy_gather.finish(frame.units, &mut whole)
            {
                copied = Some((at, units));
            }
            if !fellow.live {
                continue;
            }
            fellow.position = frame.last;
            if let Some(units) = fellow.gather.finish(frame.units, &mut whole) {
                let frame = fellow.frame(frame, spans.clone(), units);
                if fellow.has_room(frame.cost(), limit) {
                    fellow.queue(now_ms, frame);
                } else {
                    full.push(fellow.peer);
                }
            }
        }
        if let (Some((at, units)), Some(run)) = (copied, self.run.as_ref().map(|run| run.id)) {
            let message = ToFollower::CopyUnits { run, wall_ms: frame.wall_ms, units };
            self.send_bounded(now_ms, at, message, out);
        }
        for peer in full {
            self.drop_peer(now_ms, peer, DropReason::QueueFull, out);
        }
    }

    /// Sorts the units of a frame to those whom they concern. Returns the partitions that some of them span.
    fn go_through(&mut self, frame: &Frame) -> Result<Vec<PartitionId>, Malformed> {
        let partitions = self.led.len();
        if partitions == 0 {
            return Ok(Vec::new());
        }
        let mut spanned = Vec::new();
        let Leader { led, fellows, groups, .. } = self;
        let mut units = Units::new(frame.units, partitions);
        while let Some(unit) = units.next_unit()? {
            match unit.scope {
                Scope::Foreign => {}
                Scope::One(partition) => {
                    let Some(led) = &mut led[partition as usize] else { continue };
                    touch(led, groups, frame.last);
                    for &at in &led.live {
                        let fellow = &mut fellows[at as usize];
                        fellow.concerned = true;
                        if fellow.live {
                            fellow.gather.take(frame.units, unit.start, unit.end);
                        }
                    }
                    if let Some(at) = led.copied {
                        fellows[at as usize].copy_gather.take(frame.units, unit.start, unit.end);
                    }
                }
                Scope::Everywhere => {
                    unit.add_spanned(partitions, &mut spanned);
                    led.iter_mut().flatten().for_each(|led| touch(led, groups, frame.last));
                    for fellow in fellows.iter_mut() {
                        if fellow.following > 0 {
                            fellow.concerned = true;
                            if fellow.live {
                                fellow.gather.take(frame.units, unit.start, unit.end);
                            }
                        }
                        if fellow.copying > 0 {
                            fellow.copy_gather.take(frame.units, unit.start, unit.end);
                        }
                    }
                }
                Scope::Mixed => {
                    unit.add_spanned(partitions, &mut spanned);
                    mixed(led, fellows, groups, frame, &unit)?;
                }
            }
        }
        Ok(spanned)
    }

    /// What [`Action::Read`] asked for: frames that begin with its index, or none if the backlog does not go back so far.
    pub fn read(&mut self, now_ms: u64, peer: Peer, frames: &[Frame], out: &mut Vec<Action>) {
        let Some(at) = self.fellow(peer) else { return };
        let fellow = &mut self.fellows[at];
        if fellow.reading.take() != Some(fellow.position + 1) {
            // The stream went back in the meantime.
            return;
        }
        if frames.first().is_none_or(|frame| frame.first != fellow.position + 1) {
            return self.overrun(now_ms, at, out);
        }
        let partitions = self.led.len();
        for frame in frames.iter().take_while(|frame| frame.last <= self.end) {
            let fellow = &mut self.fellows[at];
            if frame.first != fellow.position + 1 || !fellow.can_keep(self.settings.uncommitted_bytes_max) {
                break;
            }
            let units = match filtered(&fellow.parts, frame, partitions) {
                Ok(units) => units,
                Err(_) => return self.overrun(now_ms, at, out),
            };
            let led = &self.led;
            let framed = units.map(|(units, spanned)| fellow.frame(frame, spans_of(led, frame, spanned), units));
            if let Some(framed) = &framed
                && !fellow.has_room(framed.cost(), self.settings.queue_bytes_max)
            {
                break;
            }
            fellow.position = frame.last;
            framed.into_iter().for_each(|framed| fellow.queue(now_ms, framed));
        }
    }

    /// What a follower lacks is not in the backlog any more: what may have something there, has to be copied.
    fn overrun(&mut self, now_ms: u64, at: usize, out: &mut Vec<Action>) {
        self.confirm_all(at);
        let fellow = &mut self.fellows[at];
        let mut answers = Vec::new();
        for (&partition, part) in &mut fellow.parts {
            let Phase::Following { after } = part.phase else { continue };
            let led = self.led[partition as usize].as_ref();
            if led.is_some_and(|led| led.last > fellow.position.max(after)) {
                (part.phase, part.counts) = (Phase::Queued, false);
                answers.push(Answered { partition, epoch: part.epoch, answer: Answer::Copy });
            }
        }
        let end = self.end;
        self.begin_round(now_ms, at, end, answers, out);
    }

    /// Tells a follower how its stream goes on, after everything that it was sent of it. What was acknowledged so far
    /// has been remembered ([`Leader::confirm_all`]).
    pub(super) fn begin_round(
        &mut self,
        now_ms: u64,
        at: usize,
        position: Index,
        answers: Vec<Answered>,
        out: &mut Vec<Action>,
    ) {
        self.untidy = true;
        self.flush(now_ms, at, out);
        let fellow = &mut self.fellows[at];
        fellow.round += 1;
        (fellow.position, fellow.upto_told) = (position, position);
        if position < self.end {
            // What it lacks, counts as missing from now on.
            fellow.timeline.append(now_ms, self.end, 0);
            fellow.last = self.end;
        }
        fellow.received = fellow.received.min(position);
        (fellow.applied, fellow.durable) = (0, 0);
        // What counts from now on, is acknowledged up to there at the most.
        self.refresh();
        let commit = self.commit_for(at);
        let fellow = &mut self.fellows[at];
        fellow.commit_told = commit;
        let (open, round) = (fellow.open, fellow.round);
        self.send(now_ms, at, Control::Answers { open, round, position, commit, answers }.into(), out);
    }

    /// The connection has taken a message of this cost.
    pub fn written(&mut self, now_ms: u64, peer: Peer, cost: u64) {
        if let Some(at) = self.fellow(peer) {
            let fellow = &mut self.fellows[at];
            fellow.queued_bytes = fellow.queued_bytes.saturating_sub(cost);
            fellow.progress_ms = now_ms;
        }
    }

    /// The backlog has the log from this index on.
    pub fn oldest(&mut self, index: Index) {
        self.oldest = index;
    }

    /// Everything of this turn of the shell is said: send what it has brought, in one message for each follower.
    pub fn turn_end(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        self.answer_due(now_ms, out);
        self.refresh();
        self.finish_handovers(now_ms, out);
        let spanned_upto = self.spanned_upto;
        for at in 0..self.fellows.len() {
            self.flush(now_ms, at, out);
            let commit = self.commit_for(at);
            let awaited = self.settings.durable_quorum;
            let fellow = &mut self.fellows[at];
            // What it caught up with may have had nothing for it.
            let arrived = fellow.upto_told < fellow.last && fellow.position >= fellow.last;
            // What spans partitions waits for all to have come so far, also for those whom it does not concern.
            let arrived = arrived || fellow.upto_told < spanned_upto && fellow.position >= spanned_upto;
            let alone = now_ms >= fellow.commit_alone_ms + COMMIT_ALONE_MS && !fellow.expects_frames(now_ms);
            let due = awaited || alone;
            let news = due && fellow.commit_told < commit && fellow.queued_bytes <= COMMIT_ALONE_BYTES_MAX;
            if (news || arrived) && fellow.round > 0 {
                fellow.commit_alone_ms = now_ms;
                self.send_frames(now_ms, at, Vec::new(), commit, out);
            }
            let fellow = &mut self.fellows[at];
            let window = READ_WINDOW_BYTES.min(self.settings.queue_bytes_max);
            let takes = fellow.queued_bytes < window && fellow.can_keep(self.settings.uncommitted_bytes_max);
            if fellow.position < self.end && fellow.reading.is_none() && takes {
                let from = fellow.position + 1;
                fellow.reading = Some(from);
                out.push(Action::Read { peer: fellow.peer, from, bytes_max: window - fellow.queued_bytes });
            }
        }
    }

    /// Sends the frames that are queued.
    fn flush(&mut self, now_ms: u64, at: usize, out: &mut Vec<Action>) {
        while !self.fellows[at].queue.is_empty() {
            let commit = self.commit_for(at);
            let queue = &mut self.fellows[at].queue;
            let count = queue.len().min(FRAMES_PER_MESSAGE_MAX);
            let frames = queue.drain(..count).collect();
            self.send_frames(now_ms, at, frames, commit, out);
        }
    }

    fn send_frames(&mut self, now_ms: u64, at: usize, frames: Vec<StreamFrame>, commit: Index, out: &mut Vec<Action>) {
        let fellow = &mut self.fellows[at];
        let is_all = fellow.queue.is_empty();
        fellow.upto_told = frames.last().filter(|_| !is_all).map_or(fellow.position, |frame| frame.last);
        // Frames were counted when they were queued.
        fellow.hand_over(now_ms, crate::replication::message::MESSAGE_COST);
        if !frames.is_empty() && now_ms > fellow.frames_ms {
            fellow.frames_gap_ms = now_ms.saturating_sub(std::mem::replace(&mut fellow.frames_ms, now_ms));
        }
        fellow.commit_told = fellow.commit_told.max(commit);
        let (commit, upto) = (fellow.commit_told, fellow.upto_told);
        fellow.committed(commit);
        out.push(Action::Send { to: fellow.peer, message: ToFollower::Frames { commit, upto, frames } });
    }

    pub(super) fn send_heartbeats(&mut self, now_ms: u64, wall_ms: u64, out: &mut Vec<Action>) {
        let (end, interval) = (self.end, self.settings.heartbeat_ms);
        for at in 0..self.fellows.len() {
            let fellow = &mut self.fellows[at];
            if now_ms.saturating_sub(fellow.heartbeat_sent_ms) >= interval {
                fellow.heartbeat_sent_ms = now_ms;
                let commit = fellow.commit_told.min(end);
                self.send(now_ms, at, Control::Heartbeat { wall_ms, end, commit }.into(), out);
            }
        }
    }
}

impl Fellow {
    /// Whether frames go to it so often that what is committed can wait for the next ones.
    fn expects_frames(&self, now_ms: u64) -> bool {
        self.frames_gap_ms <= COMMIT_ALONE_MS && now_ms < self.frames_ms + COMMIT_ALONE_MS
    }
}

/// A unit of a partition is in the frame that ends with `last`.
#[inline]
fn touch(led: &mut Led, groups: &mut [commit::Gathered], last: Index) {
    led.touch(last);
    if led.deposed.is_none() {
        groups[led.group].last = last;
    }
}

/// A unit of which not all concerns everybody.
fn mixed(
    led: &mut [Option<Box<Led>>],
    fellows: &mut [Fellow],
    groups: &mut [commit::Gathered],
    frame: &Frame,
    unit: &Unit,
) -> Result<(), Malformed> {
    let partitions = led.len();
    let mut targets = Targets::new(unit.statements, partitions);
    while let Some((target, _)) = targets.next_statement()? {
        match target {
            Target::Foreign => {}
            Target::One(partition) => led[partition as usize].iter_mut().for_each(|led| touch(led, groups, frame.last)),
            Target::Everywhere => led.iter_mut().flatten().for_each(|led| touch(led, groups, frame.last)),
        }
    }
    let led = &*led;
    for (at, fellow) in fellows.iter_mut().enumerate() {
        let at = at as u16;
        let (following, copying) = (fellow.following > 0, fellow.copying > 0);
        let of = |partition: PartitionId| led[partition as usize].as_ref();
        let streams = |target| match target {
            Target::Foreign => false,
            Target::One(partition) => of(partition).is_some_and(|led| led.live.contains(&at)),
            Target::Everywhere => following,
        };
        let copies = |target| match target {
            Target::Foreign => false,
            Target::One(partition) => of(partition).is_some_and(|led| led.copied == Some(at)),
            Target::Everywhere => copying,
        };
        if following && fellow.live {
            fellow.concerned |= fellow.gather.take_some(frame.units, unit, partitions, streams)?;
        } else if following {
            let mut targets = Targets::new(unit.statements, partitions);
            while let Some((target, _)) = targets.next_statement()? {
                fellow.concerned |= streams(target);
            }
        }
        if copying {
            fellow.copy_gather.take_some(frame.units, unit, partitions, copies)?;
        }
    }
    Ok(())
}

/// What of these partitions is led here, and was when the frame was written; None: nothing.
fn spans_of(led: &[Option<Box<Led>>], frame: &Frame, mut spanned: Vec<PartitionId>) -> Option<Spans> {
    if spanned.is_empty() {
        return None;
    }
    spanned.sort_unstable();
    spanned.dedup();
    let spans = spanned.into_iter().filter_map(|partition| {
        let led = led.get(usize::from(partition))?.as_ref().filter(|led| led.cut < frame.last)?;
        Some(Move { partition, epoch: led.epoch })
    });
    let spans: Spans = spans.collect();
    Some(spans).filter(|spans| !spans.is_empty())
}

/// Units, and the partitions that some of these span.
type Filtered = (Rc<[u8]>, Vec<PartitionId>);

/// What a frame that is read again has for a follower.
fn filtered(
    parts: &BTreeMap<PartitionId, Part>,
    frame: &Frame,
    partitions: usize,
) -> Result<Option<Filtered>, Malformed> {
    let mut spanned = Vec::new();
    let follows = |part: &Part| matches!(part.phase, Phase::Following { after } if after < frame.last);
    let wants = |target| match target {
        Target::Foreign => false,
        Target::One(partition) => parts.get(&partition).is_some_and(follows),
        Target::Everywhere => parts.values().any(follows),
    };
    let mut gather = Gather::default();
    let mut units = Units::new(frame.units, partitions);
    while let Some(unit) = units.next_unit()? {
        let target = match unit.scope {
            Scope::Foreign => Target::Foreign,
            Scope::One(partition) => Target::One(partition),
            Scope::Everywhere => {
                unit.add_spanned(partitions, &mut spanned);
                Target::Everywhere
            }
            Scope::Mixed => {
                unit.add_spanned(partitions, &mut spanned);
                gather.take_some(frame.units, &unit, partitions, wants)?;
                continue;
            }
        };
        if wants(target) {
            gather.take(frame.units, unit.start, unit.end);
        }
    }
    Ok(gather.finish(frame.units, &mut None).map(|units| (units, spanned)))
}
