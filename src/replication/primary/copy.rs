//! Full syncs. A copy is expensive, so it is made for all who need one: whoever asks before it begins takes part; who comes
//! later waits for the next. One is under way at a time.
//!
//! The shell produces the copy (frames of the log, and between them what rebuilds the entries), no faster than the slowest of
//! those who take part: [`Primary::copy_room`]. One who takes nothing for `repl_timeout_ms` is dropped, and the others go on.

use super::*;

/// Bytes of a copy that may be queued for each who takes part.
pub const COPY_WINDOW_BYTES: u64 = 4 << 20;

/// The copy under way.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub id: u64,
}

impl Primary {
    pub(super) fn start_copy(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let delay = self.settings.copy_delay_ms;
        let due = |f: &Follower| matches!(f.phase, Phase::Waiting { since_ms } if now_ms >= since_ms + delay);
        if self.run.is_some() || !self.followers.iter().any(due) {
            return;
        }
        self.runs += 1;
        let run = self.runs;
        self.run = Some(Run { id: run });
        for follower in &mut self.followers {
            if matches!(follower.phase, Phase::Waiting { .. }) {
                follower.phase = Phase::Copying { run };
            }
        }
        out.push(Action::StartCopy { run });
    }

    /// The copy has begun, and its first piece of the log is the one behind `start`.
    pub fn copy_started(&mut self, now_ms: u64, run: u64, start: u64, out: &mut Vec<Action>) {
        let Some(serving) = &self.serving else { return };
        let chain = serving.chain.histories().to_vec();
        for peer in self.members(run) {
            self.send(now_ms, peer, Control::FullSync { run, start, chain: chain.clone() }, out);
        }
    }

    /// How many bytes of the copy may be produced now. None if nobody wants it any more.
    pub fn copy_room(&self, run: u64) -> Option<u64> {
        let window = COPY_WINDOW_BYTES.min(self.settings.queue_bytes_max);
        let members = self.followers.iter().filter(|f| f.phase == Phase::Copying { run });
        members.map(|f| window.saturating_sub(f.queued_bytes)).min()
    }

    /// A piece of the copy.
    pub fn copy_piece(&mut self, now_ms: u64, run: u64, bytes: &Rc<[u8]>, out: &mut Vec<Action>) {
        for peer in self.members(run) {
            let message = ToReplica::Stream { run, bytes: bytes.clone() };
            let limit = self.settings.queue_bytes_max;
            let Some(follower) = self.follower(peer) else { continue };
            if follower.has_room(message.cost(), limit) {
                follower.hand_over(now_ms, message.cost());
                out.push(Action::Send { to: peer, message });
            } else {
                self.drop_peer(now_ms, peer, DropReason::QueueFull, out);
            }
        }
    }

    /// The copy is whole, and is the state as of index `end`; what comes behind it is in the log.
    pub fn copy_ended(&mut self, now_ms: u64, run: u64, end: u64, out: &mut Vec<Action>) {
        if self.run.as_ref().is_none_or(|r| r.id != run) {
            return;
        }
        assert!(end <= self.end, "a copy ends within the log");
        for peer in self.members(run) {
            if let Some(follower) = self.follower(peer) {
                follower.phase = Phase::Finishing { end };
                follower.next = end + 1;
            }
            self.send(now_ms, peer, Control::FullSyncEnd { run, end }, out);
        }
        self.run_is_over(run);
    }

    /// The copy could not be finished: those who took part wait for the next.
    pub fn copy_failed(&mut self, now_ms: u64, run: u64) {
        for follower in self.followers.iter_mut().filter(|f| f.phase == Phase::Copying { run }) {
            follower.phase = Phase::Waiting { since_ms: now_ms };
        }
        self.run_is_over(run);
    }

    pub(super) fn copy_member_left(&mut self, out: &mut Vec<Action>) {
        if let Some(run) = self.run.as_ref().map(|r| r.id)
            && self.members(run).is_empty()
        {
            self.run = None;
            out.push(Action::CancelCopy { run });
        }
    }

    fn run_is_over(&mut self, run: u64) {
        if self.run.as_ref().is_some_and(|r| r.id == run) {
            self.run = None;
        }
    }

    fn members(&self, run: u64) -> Vec<Peer> {
        let takes_part = |f: &&Follower| f.phase == Phase::Copying { run };
        self.followers.iter().filter(takes_part).map(|f| f.peer).collect()
    }
}
