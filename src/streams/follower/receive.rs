//! What a leader sends, and what is kept of it until it is committed.
//!
//! Invariant: a stream's queue is ordered by index, and has only units of partitions that take them; when a partition gets another
//! role, or the connection is lost, what is in the queue becomes pending with the partition, each piece with the tail that it leads to.

use super::*;
use crate::shard::statement::Malformed;
use crate::streams::message::{Answer, Answered, Control, Spans, StreamFrame};
use crate::streams::units::{Gather, Scope, Target, Units};

use super::stream::Link;

/// Units that were received.
#[derive(Clone, Debug)]
pub(super) struct Received {
    /// They are committed when this index is.
    pub last: Index,
    /// What they lead to, if they are of one partition and an earlier epoch.
    pub tail: Option<Tail>,
    pub wall_ms: i64,
    /// See [`Piece::spans`].
    pub spans: Option<Spans>,
    pub units: Rc<[u8]>,
    pub partitions: Rc<[PartitionId]>,
}

/// Why a leader is not listened to any longer.
pub(super) struct Broken;

impl From<Malformed> for Broken {
    fn from(_: Malformed) -> Broken {
        Broken
    }
}

impl Follower {
    /// A message of a leader.
    pub fn message(&mut self, now_ms: u64, leader: NodeId, message: ToFollower, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&leader).filter(|stream| stream.link == Link::Up) else { return };
        (stream.heard_ms, stream.failures) = (now_ms, 0);
        let result = match message {
            ToFollower::Control(control) => self.control(now_ms, leader, control, out),
            ToFollower::Frames { commit, upto, frames } => self.frames(leader, commit, upto, frames, out),
            ToFollower::CopyPiece { run, bytes } => {
                self.copy_piece(now_ms, leader, run, bytes, out);
                Ok(())
            }
            ToFollower::CopyUnits { run, wall_ms, units } => self.copy_units(leader, run, wall_ms, units, out),
            ToFollower::Suffix { partition, epoch, pieces } => self.suffix(leader, partition, epoch, pieces, out),
        };
        if result.is_err() {
            self.reset(now_ms, leader, out);
        }
    }

    fn control(&mut self, now_ms: u64, leader: NodeId, control: Control, out: &mut Vec<Action>) -> Result<(), Broken> {
        match control {
            Control::Answers { open, round, position, commit, answers } => {
                let issued = self.issued;
                let stream = self.streams.get_mut(&leader).ok_or(Broken)?;
                if round <= stream.round {
                    return Err(Broken);
                }
                // The stream may go back, and what is led no longer leaves it.
                self.note_reached(leader, |_| true);
                let stream = self.stream(leader);
                (stream.round, stream.position, stream.commit) = (round, position, commit);
                (stream.applied, stream.durable, stream.last_ticket) = (0, 0, issued);
                (stream.applied_marks, stream.durable_marks) = Default::default();
                for answered in answers {
                    self.answered(leader, open, answered, out);
                }
                self.release(leader, out);
            }
            Control::CopyBegin { run, partitions } => self.copy_begins(leader, run, partitions, out),
            Control::CopyEnd { run, end, tails } => self.copy_ends(leader, run, end, &tails, out),
            Control::CopyFailed { run } => self.copy_failed(leader, run, out),
            Control::Heartbeat { wall_ms, .. } => {
                self.streams.get_mut(&leader).ok_or(Broken)?.wall_ms = wall_ms;
            }
            Control::Refused { .. } => self.reset(now_ms, leader, out),
            Control::Released { releases } => out.push(Action::Released { leader, releases }),
        }
        Ok(())
    }

    fn answered(&mut self, leader: NodeId, open: u64, answered: Answered, out: &mut Vec<Action>) {
        let Answered { partition, epoch, answer } = answered;
        let Some(data) = self.data.get_mut(partition as usize) else { return };
        if data.role != Role::Follow(leader) || data.epoch != epoch || data.led {
            return;
        }
        let asked = match data.phase {
            Phase::Asked { open: asked } if asked == 0 || asked > open => return,
            Phase::Asked { .. } => true,
            _ => false,
        };
        match answer {
            Answer::Follow { after, cut } if asked => self.go_on(leader, partition, after, cut),
            Answer::Cut { to, cut } if asked => {
                if data.released.is_none_or(|released| released > to) {
                    // Too much is applied already: what there is cannot be continued.
                    data.pending.clear();
                    (data.tail, data.released) = (None, None);
                    data.phase = Phase::Asked { open: 0 };
                    self.stream(leader).changed = true;
                    return;
                }
                data.pending.retain(|piece| piece.tail <= to);
                data.tail = Some(to);
                self.go_on(leader, partition, cut, cut);
            }
            Answer::Suffix { cut } if asked => data.phase = Phase::Completing { cut },
            Answer::Copy => {
                self.withdraw_of(leader, &[partition]);
                self.abort_copy(leader, &[partition], out);
                // Until the copy begins, what was received is kept: it may have been promised, and this node still be in sync.
                self.data[partition as usize].phase = Phase::Queued;
            }
            Answer::NotLeading if !asked => {
                // No more. Units without a key that still come are for others.
                self.withdraw_of(leader, &[partition]);
                self.abort_copy(leader, &[partition], out);
                self.data[partition as usize].phase = Phase::Asked { open };
            }
            _ => {}
        }
    }

    pub(super) fn stream(&mut self, leader: NodeId) -> &mut Stream {
        self.streams.entry(leader).or_default()
    }

    /// A partition is in the stream from now on. What was received before is committed when the leader says so.
    fn go_on(&mut self, leader: NodeId, partition: PartitionId, after: Index, cut: Index) {
        let data = &mut self.data[partition as usize];
        (data.phase, data.place) = (Phase::Following { after }, Place::Here);
        let epoch = data.epoch;
        let partitions: Rc<[PartitionId]> = Rc::from([partition]);
        for Piece { tail, wall_ms, spans, units } in std::mem::take(&mut data.pending) {
            let last = if tail.epoch == epoch { tail.index } else { cut };
            // What was there when the epoch began, its leader has decided to keep.
            let spans = spans.filter(|_| tail.epoch == epoch);
            let partitions = partitions.clone();
            let received = Received { last, tail: Some(tail), wall_ms, spans, units, partitions };
            self.stream(leader).keep(received);
        }
    }

    fn frames(
        &mut self,
        leader: NodeId,
        commit: Index,
        upto: Index,
        frames: Vec<StreamFrame>,
        out: &mut Vec<Action>,
    ) -> Result<(), Broken> {
        let stream = self.streams.get(&leader).ok_or(Broken)?;
        if stream.round == 0 || upto < stream.position {
            return Err(Broken);
        }
        for frame in frames {
            if frame.first <= self.streams.get(&leader).ok_or(Broken)?.position {
                return Err(Broken);
            }
            let last = frame.last;
            self.doubts.heard |= frame.spans.is_some();
            if let Some(received) = self.taken(leader, frame)? {
                for &id in received.partitions.iter() {
                    let data = &mut self.data[id as usize];
                    data.tail = Some(Tail { epoch: data.epoch, index: last });
                }
                self.stream(leader).keep(received);
            }
            self.stream(leader).position = last;
        }
        let stream = self.stream(leader);
        (stream.position, stream.commit) = (upto, commit);
        self.release(leader, out);
        Ok(())
    }

    /// Whether a frame's units of a partition count, of the stream of this leader.
    fn takes(&self, leader: NodeId, partition: PartitionId, last: Index) -> bool {
        self.data.get(partition as usize).is_some_and(|data| {
            let has = data.tail.filter(|tail| tail.epoch == data.epoch).map_or(0, |tail| tail.index);
            let beyond = data.takes_after().is_some_and(|after| after.max(has) < last);
            beyond && data.role == Role::Follow(leader) && !data.led
        })
    }

    /// What of a frame counts.
    fn taken(&self, leader: NodeId, frame: StreamFrame) -> Result<Option<Received>, Broken> {
        let count = self.data.len();
        let mut partitions: Vec<PartitionId> = Vec::new();
        let mut gather = Gather::default();
        let mut everywhere = false;
        let mut wants = |target| match target {
            Target::Foreign => false,
            Target::One(partition) if partitions.last() == Some(&partition) => true,
            Target::One(partition) => {
                let takes = self.takes(leader, partition, frame.last);
                if takes {
                    partitions.push(partition);
                }
                takes
            }
            Target::Everywhere => {
                everywhere = true;
                true
            }
        };
        let mut units = Units::new(&frame.units, count);
        while let Some(unit) = units.next_unit()? {
            let target = match unit.scope {
                // A leader sends what it leads.
                Scope::Foreign => return Err(Broken),
                Scope::One(partition) => Target::One(partition),
                Scope::Everywhere => Target::Everywhere,
                Scope::Mixed => {
                    gather.take_some(&frame.units, &unit, count, &mut wants)?;
                    continue;
                }
            };
            if wants(target) {
                gather.take(&frame.units, unit.start, unit.end);
            }
        }
        let mut whole = Some(frame.units.clone());
        let Some(units) = gather.finish(&frame.units, &mut whole) else { return Ok(None) };
        if everywhere {
            partitions = self.followed(leader).into_iter().filter(|id| self.takes(leader, *id, frame.last)).collect();
        }
        partitions.sort_unstable();
        partitions.dedup();
        if partitions.is_empty() {
            return Ok(None);
        }
        let StreamFrame { last, wall_ms, spans, .. } = frame;
        Ok(Some(Received { last, tail: None, wall_ms, spans, units, partitions: partitions.into() }))
    }

    fn suffix(
        &mut self,
        leader: NodeId,
        partition: PartitionId,
        epoch: Epoch,
        pieces: Vec<Piece>,
        out: &mut Vec<Action>,
    ) -> Result<(), Broken> {
        let count = self.data.len();
        let Some(data) = self.data.get_mut(partition as usize) else { return Err(Broken) };
        let Phase::Completing { cut } = data.phase else { return Ok(()) };
        if data.role != Role::Follow(leader) || data.epoch != epoch {
            return Ok(());
        }
        let has = data.tail;
        for piece in pieces.into_iter().filter(|piece| Some(piece.tail) > has) {
            let mut units = Units::new(&piece.units, count);
            while let Some(unit) = units.next_unit()? {
                if !matches!(unit.scope, Scope::Everywhere) && unit.scope != Scope::One(partition) {
                    return Err(Broken);
                }
            }
            data.tail = Some(piece.tail);
            data.pending.push(piece);
        }
        self.go_on(leader, partition, cut, cut);
        self.say_has(leader, 0, &[partition], out);
        self.release(leader, out);
        Ok(())
    }

    /// Hands out what is committed.
    pub(super) fn release(&mut self, leader: NodeId, out: &mut Vec<Action>) {
        #[cfg(test)]
        let uncommitted = self.fault == Some(Fault::ApplyUncommitted);
        #[cfg(not(test))]
        let uncommitted = false;
        loop {
            let stream = self.stream(leader);
            let commit = if uncommitted { Index::MAX } else { stream.commit };
            if stream.queue.front().is_none_or(|received| received.last > commit) {
                break;
            }
            let Some(received) = stream.queue.pop_front() else { break };
            stream.held_bytes -= received.units.len() as u64;
            let Received { last, tail, wall_ms, units, partitions, .. } = received;
            let ticket = self.issue(Some(leader), &partitions);
            for &id in partitions.iter() {
                let data = &mut self.data[id as usize];
                data.released = Some(tail.unwrap_or(Tail { epoch: data.epoch, index: last }));
            }
            out.push(Action::Apply { ticket, wall_ms, units, partitions });
        }
        let stream = self.stream(leader);
        let (index, ticket) = (stream.commit.min(stream.position), stream.last_ticket);
        stream.applied_marks.push(index, ticket);
        stream.durable_marks.push(index, ticket);
    }

    /// Takes partitions out of the streams that carry them, with what is not handed out; copies of them end.
    pub(super) fn withdraw(&mut self, partitions: &[PartitionId], out: &mut Vec<Action>) {
        let mut leaders: Vec<NodeId> = Vec::new();
        for &id in partitions {
            let data = &self.data[id as usize];
            if let (Role::Follow(leader), false) = (data.role, data.led) {
                leaders.push(leader);
            }
        }
        leaders.sort_unstable();
        leaders.dedup();
        let mut sorted = partitions.to_vec();
        sorted.sort_unstable();
        for leader in leaders {
            self.note_reached(leader, |id| sorted.binary_search(&id).is_ok());
            self.withdraw_of(leader, partitions);
            self.abort_copy(leader, partitions, out);
            self.stream(leader).changed = true;
        }
    }

    fn withdraw_of(&mut self, leader: NodeId, partitions: &[PartitionId]) {
        let count = self.data.len();
        if self.stream(leader).queue.is_empty() {
            return;
        }
        let mut sorted = partitions.to_vec();
        sorted.sort_unstable();
        let leaves = |id: &PartitionId| sorted.binary_search(id).is_ok();
        let queue = std::mem::take(&mut self.stream(leader).queue);
        let mut held_bytes = 0;
        let mut kept = std::collections::VecDeque::with_capacity(queue.len());
        for received in queue {
            if !received.partitions.iter().any(leaves) {
                held_bytes += received.units.len() as u64;
                kept.push_back(received);
                continue;
            }
            for &id in received.partitions.iter().filter(|id| leaves(id)) {
                let data = &mut self.data[id as usize];
                let tail = received.tail.unwrap_or(Tail { epoch: data.epoch, index: received.last });
                if let Some(units) = only(&received.units, count, |partition| partition == id) {
                    let spans = received.spans.clone();
                    data.pending.push(Piece { tail, wall_ms: received.wall_ms, spans, units });
                }
            }
            let rest: Rc<[PartitionId]> = received.partitions.iter().copied().filter(|id| !leaves(id)).collect();
            if let Some(units) = only(&received.units, count, |partition| !leaves(&partition))
                && !rest.is_empty()
            {
                held_bytes += units.len() as u64;
                kept.push_back(Received { units, partitions: rest, ..received });
            }
        }
        let stream = self.stream(leader);
        (stream.queue, stream.held_bytes) = (kept, held_bytes);
    }
}

impl Stream {
    /// Keeps units until they are committed.
    fn keep(&mut self, received: Received) {
        self.held_bytes += received.units.len() as u64;
        // Nearly always at the end; in front of others if the stream went back.
        let at = self.queue.iter().rev().take_while(|other| other.last > received.last).count();
        self.queue.insert(self.queue.len() - at, received);
    }
}

/// What concerns some partitions. What was received was well-formed.
fn only(bytes: &[u8], count: usize, wants: impl Fn(PartitionId) -> bool) -> Option<Rc<[u8]>> {
    let mut gather = Gather::default();
    let mut units = Units::new(bytes, count);
    while let Ok(Some(unit)) = units.next_unit() {
        let takes = |target| match target {
            Target::Foreign => false,
            Target::One(partition) => wants(partition),
            Target::Everywhere => true,
        };
        let taken = match unit.scope {
            Scope::Foreign => false,
            Scope::One(partition) => takes(Target::One(partition)),
            Scope::Everywhere => true,
            Scope::Mixed => {
                let _ = gather.take_some(bytes, &unit, count, takes);
                continue;
            }
        };
        if taken {
            gather.take(bytes, unit.start, unit.end);
        }
    }
    gather.finish(bytes, &mut None)
}
