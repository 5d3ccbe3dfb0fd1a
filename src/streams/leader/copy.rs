//! Copies: of some partitions, for one follower, one at a time.
//!
//! A copy is a run over the keys of these partitions, and between its pieces the units of them that are appended meanwhile. So it
//! is ordered as the log is, wherever the stream of the same follower stands; from its end on, the stream carries these
//! partitions. What is copied may hold what is not committed: it counts for nothing before it is whole.

use super::*;
use crate::streams::message::Held;

/// Bytes that may be queued for a follower before it is sent no more of a copy.
const COPY_QUEUE_BYTES: u64 = 4 << 20;

/// The copy under way.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub id: u64,
    pub peer: Peer,
    pub partitions: Rc<[PartitionId]>,
    pub started: bool,
    /// Bytes of pieces that were sent, and that the follower has not said to have taken.
    pub untaken: u64,
}

impl Leader {
    pub(super) fn start_copy(&mut self, out: &mut Vec<Action>) {
        if self.run.is_some() {
            return;
        }
        // The one after that which had its turn.
        let last = self.copied_last;
        let mut order: Vec<usize> = (0..self.fellows.len()).collect();
        order.sort_by_key(|&at| {
            let node = self.fellows[at].member.node;
            (node <= last, node)
        });
        for at in order {
            let (node, peer) = (self.fellows[at].member.node, self.fellows[at].peer);
            let led = &self.led;
            // Whoever may be in sync keeps what it has. While a role moves, its contents do.
            let due = |partition: &PartitionId| {
                led[*partition as usize]
                    .as_ref()
                    .is_some_and(|led| led.deposed.is_none() && led.handover.is_none() && !led.may_be_in_sync(node))
            };
            let queued = self.fellows[at].parts.iter().filter(|(_, part)| part.phase == Phase::Queued);
            let partitions: Rc<[PartitionId]> =
                queued.map(|(partition, _)| *partition).filter(due).take(self.settings.copy_partitions_max).collect();
            if partitions.is_empty() {
                continue;
            }
            self.runs += 1;
            let run = self.runs;
            self.copied_last = node;
            self.run = Some(Run { id: run, peer, partitions: partitions.clone(), started: false, untaken: 0 });
            out.push(Action::StartCopy { run, node, partitions });
            return;
        }
    }

    /// The run and the place of its follower.
    fn running(&self, run: u64) -> Option<(usize, Rc<[PartitionId]>)> {
        let current = self.run.as_ref().filter(|current| current.id == run)?;
        Some((self.fellow(current.peer)?, current.partitions.clone()))
    }

    /// The run has begun; its entries are as of index `at` or later.
    pub fn copy_started(&mut self, now_ms: u64, run: u64, at: Index, out: &mut Vec<Action>) {
        assert_eq!(at, self.end, "a copy begins at the end of the log");
        let Some((place, partitions)) = self.running(run) else { return };
        for partition in partitions.iter() {
            if let Some(part) = self.fellows[place].parts.get_mut(partition) {
                (part.phase, part.run) = (Phase::Copying, run);
            }
        }
        if let Some(run) = &mut self.run {
            run.started = true;
        }
        self.untidy = true;
        let begin = Control::CopyBegin { run, partitions: partitions.to_vec() };
        self.send(now_ms, place, begin.into(), out);
    }

    /// How many bytes of the copy may be produced now. None if nobody wants it any more.
    pub fn copy_room(&self, run: u64) -> Option<u64> {
        let current = self.run.as_ref().filter(|current| current.id == run)?;
        let fellow = &self.fellows[self.fellow(current.peer)?];
        let queue_bytes = COPY_QUEUE_BYTES.min(self.settings.queue_bytes_max).saturating_sub(fellow.queued_bytes);
        let window_bytes = self.settings.copy_window_bytes.saturating_sub(current.untaken);
        Some(if fellow.paces { queue_bytes.min(window_bytes) } else { queue_bytes })
    }

    /// A follower has taken so much of what was sent in this run.
    pub(super) fn taken(&mut self, at: usize, run: u64, bytes: u64) {
        let peer = self.fellows[at].peer;
        if let Some(current) = self.run.as_mut().filter(|current| (current.id, current.peer) == (run, peer)) {
            current.untaken = current.untaken.saturating_sub(bytes);
        }
    }

    /// A piece of the copy.
    pub fn copy_piece(&mut self, now_ms: u64, run: u64, bytes: &Rc<[u8]>, out: &mut Vec<Action>) {
        let Some((at, _)) = self.running(run) else { return };
        if let Some(current) = &mut self.run {
            current.untaken += bytes.len() as u64;
        }
        self.send_bounded(now_ms, at, ToFollower::CopyPiece { run, bytes: bytes.clone() }, out);
    }

    /// Part of a copy; whoever does not take it is dropped.
    pub(super) fn send_bounded(&mut self, now_ms: u64, at: usize, message: ToFollower, out: &mut Vec<Action>) {
        if self.fellows[at].has_room(message.cost(), self.settings.queue_bytes_max) {
            self.tally.copy_bytes += match &message {
                ToFollower::CopyPiece { bytes, .. } => bytes.len() as u64,
                ToFollower::CopyUnits { units, .. } => units.len() as u64,
                _ => 0,
            };
            self.send(now_ms, at, message, out);
        } else {
            self.drop_peer(now_ms, self.fellows[at].peer, DropReason::QueueFull, out);
        }
    }

    /// The copy is whole: with the units up to index `at`, the last one that was appended.
    pub fn copy_ended(&mut self, now_ms: u64, run: u64, at: Index, out: &mut Vec<Action>) {
        assert_eq!(at, self.end, "a copy ends at the end of the log");
        let Some((place, partitions)) = self.running(run) else { return };
        let mut tails = Vec::new();
        for &partition in partitions.iter() {
            let part = self.fellows[place].parts.get_mut(&partition);
            if let (Some(part), Some(led)) = (part, &self.led[partition as usize]) {
                part.phase = Phase::Following { after: at };
                tails.push(Held { partition, epoch: led.epoch, tail: led.tail });
            }
        }
        (self.run, self.untidy) = (None, true);
        self.tally.copies_sent += tails.len() as u64;
        self.send(now_ms, place, Control::CopyEnd { run, end: at, tails }.into(), out);
        self.start_copy(out);
    }

    /// The copy could not be finished: its follower waits for the next.
    pub fn copy_failed(&mut self, now_ms: u64, run: u64, out: &mut Vec<Action>) {
        if let Some((at, _)) = self.running(run) {
            self.give_up_run();
            self.send(now_ms, at, Control::CopyFailed { run }.into(), out);
        }
    }

    /// A run that its follower does not want any more, or of which something is not led any more, ends.
    pub(super) fn cancel_copy_of_lost(&mut self, out: &mut Vec<Action>) {
        let Some(run) = &self.run else { return };
        let phase = if run.started { Phase::Copying } else { Phase::Queued };
        let fellow = self.fellows.iter().find(|fellow| fellow.peer == run.peer);
        let wants = |partition: &PartitionId| {
            let part = fellow.and_then(|fellow| fellow.parts.get(partition));
            let led = self.led[*partition as usize].as_ref().filter(|led| led.deposed.is_none());
            part.zip(led).is_some_and(|(part, led)| part.phase == phase && part.epoch == led.epoch)
        };
        if run.partitions.iter().all(wants) {
            return;
        }
        let (id, started, peer) = (run.id, run.started, run.peer);
        self.give_up_run();
        out.push(Action::CancelCopy { run: id });
        if let Some(fellow) = self.fellows.iter_mut().find(|fellow| fellow.peer == peer && started) {
            let message = ToFollower::from(Control::CopyFailed { run: id });
            fellow.queued_bytes += message.cost();
            out.push(Action::Send { to: peer, message });
        }
    }

    fn give_up_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        self.tally.copies_given_up += run.partitions.len() as u64;
        if let Some(at) = self.fellow(run.peer) {
            let copying = self.fellows[at].parts.values_mut().filter(|part| part.phase == Phase::Copying);
            copying.for_each(|part| part.phase = Phase::Queued);
        }
        self.untidy = true;
    }

    /// A follower says that it has all of what was sent in this run.
    pub(super) fn completed(
        &mut self,
        now_ms: u64,
        at: usize,
        run: u64,
        partitions: &[(PartitionId, Epoch)],
        out: &mut Vec<Action>,
    ) {
        self.confirm_all(at);
        let mut complete = Vec::new();
        for &(partition, epoch) in partitions {
            let part = self.fellows[at].parts.get_mut(&partition);
            let Some(part) = part.filter(|part| part.epoch == epoch && part.run == run) else { continue };
            if let Phase::Following { after } = part.phase {
                part.counts = true;
                complete.push((partition, after));
            }
        }
        let member = self.fellows[at].member;
        for (partition, after) in complete {
            if let Some(led) = &mut self.led[partition as usize] {
                led.confirm(member, after, 0);
            }
        }
        // What it has said to be on disk so far, was said without these.
        let position = self.fellows[at].position;
        self.begin_round(now_ms, at, position, Vec::new(), out);
    }
}
