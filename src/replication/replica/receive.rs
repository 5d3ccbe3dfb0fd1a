//! What a replica does with the messages of its primary. Each function says whether its message could come now; if not, the
//! connection is given up.

use super::*;

impl Replica {
    /// Whether the message was one that could come now.
    pub(super) fn control(&mut self, now_ms: u64, control: Control, out: &mut Vec<Action>) -> bool {
        match control {
            Control::Continue { from, chain } => {
                let Ok(chain) = Chain::checked(chain) else { return false };
                self.link == Link::Greeting && self.go_on(from, chain, out)
            }
            Control::Diverged { cut } => self.link == Link::Greeting && self.diverged(now_ms, cut, out),
            Control::FullSync { run, start: _, chain } => {
                let Ok(chain) = Chain::checked(chain) else { return false };
                self.begin_copy(run, chain, out)
            }
            Control::FullSyncEnd { run, end } => {
                self.link == (Link::Copying { run }) && self.finish_copy(run, end, out)
            }
            Control::Heartbeat { wall_ms, end, commit, in_sync } => {
                self.detector.heartbeat(now_ms);
                (self.primary_end, self.in_sync) = (end, in_sync);
                self.wall = Some((wall_ms, now_ms));
                if self.link == Link::Streaming {
                    self.committed(commit, out);
                    self.acknowledge(out);
                }
                true
            }
            Control::Refused { reason } => {
                self.refused = Some(reason);
                false
            }
            Control::Handover { end } => {
                let able = self.link == Link::Streaming && self.has.complete && self.has.received >= end;
                self.handed_over = able;
                out.push(if able { Action::TakeOver } else { Action::Send(ToPrimary::Declined) });
                true
            }
            Control::Standing { .. } => false,
        }
    }

    /// The log goes on behind what is there.
    fn go_on(&mut self, from: u64, chain: Chain, out: &mut Vec<Action>) -> bool {
        let received = self.has.received;
        // The primary's word is checked: its log has to hold all of ours.
        let agrees = chain.common(u64::MAX, &self.has.chain, received) == Some(received);
        #[cfg(test)]
        let agrees = agrees || self.fault == Some(Fault::TruncateApplied);
        if !self.has.complete || self.must_copy || from != received + 1 || !agrees {
            return false;
        }
        if chain != self.has.chain {
            self.has.chain = chain.clone();
            out.push(Action::SaveChain(chain));
        }
        // What another primary said about indices that are not here may not be so with this one.
        self.commit = self.commit.min(received);
        self.link = Link::Streaming;
        (self.failures, self.refused) = (0, None);
        self.acknowledge(out);
        true
    }

    /// What comes after `cut` is not in the primary's log.
    fn diverged(&mut self, now_ms: u64, cut: u64, out: &mut Vec<Action>) -> bool {
        let received = self.has.received;
        if cut >= received || !self.has.complete || self.must_copy {
            return false;
        }
        out.push(Action::SetAside { from: cut + 1, to: received });
        // What lies before the start of the chain cannot be named any more, so nothing can go on from there.
        let undoable = self.applying <= cut && cut >= self.has.chain.start();
        #[cfg(test)]
        let undoable = undoable || self.fault == Some(Fault::TruncateApplied);
        if undoable {
            self.has.chain = self.has.chain.upto(cut);
            self.has.received = cut;
            self.has.durable = self.has.durable.min(cut);
            self.has.applied = self.has.applied.min(cut);
            self.applying = self.applying.min(cut);
            self.commit = self.commit.min(cut);
            out.push(Action::Truncate { to: cut });
            out.push(Action::SaveChain(self.has.chain.clone()));
        } else {
            self.must_copy = true;
        }
        self.greet(now_ms, out);
        true
    }

    fn begin_copy(&mut self, run: u64, chain: Chain, out: &mut Vec<Action>) -> bool {
        if !matches!(self.link, Link::Greeting | Link::Copying { .. }) {
            return false;
        }
        self.link = Link::Copying { run };
        self.must_copy = false;
        self.has = Holdings { chain, received: 0, applied: 0, durable: 0, complete: false };
        (self.applying, self.commit, self.refused) = (0, 0, None);
        out.push(Action::BeginCopy { run });
        true
    }

    fn finish_copy(&mut self, run: u64, end: u64, out: &mut Vec<Action>) -> bool {
        if end < self.has.chain.start() {
            return false;
        }
        (self.has.received, self.has.applied, self.has.durable) = (end, end, end);
        self.applying = end;
        self.link = Link::Finishing { run };
        out.push(Action::FinishCopy { run, end, chain: self.has.chain.clone() });
        #[cfg(test)]
        if self.fault == Some(Fault::AckBeforeDurableCopy) {
            self.has.complete = true;
            self.acknowledge(out);
        }
        true
    }

    pub(super) fn frames(&mut self, commit: u64, frames: Vec<Frame>, out: &mut Vec<Action>) -> bool {
        if !matches!(self.link, Link::Streaming | Link::Finishing { .. }) {
            return false;
        }
        let any = !frames.is_empty();
        for frame in frames {
            let belongs = |index| self.has.chain.at(index) == Some(frame.history);
            if frame.first != self.has.received + 1 || !belongs(frame.first) || !belongs(frame.last()) {
                return false;
            }
            self.has.received = frame.last();
            out.push(Action::Append(frame));
        }
        self.primary_end = self.primary_end.max(self.has.received);
        self.committed(commit, out);
        if any {
            self.acknowledge(out);
        }
        true
    }

    fn committed(&mut self, commit: u64, out: &mut Vec<Action>) {
        self.commit = self.commit.max(commit);
        self.apply(out);
    }

    pub(super) fn apply(&mut self, out: &mut Vec<Action>) {
        let upto = self.commit.min(self.has.received);
        #[cfg(test)]
        let upto = if self.fault == Some(Fault::ApplyUncommitted) { self.has.received } else { upto };
        if self.link == Link::Streaming && upto > self.applying {
            self.applying = upto;
            out.push(Action::Apply { upto });
        }
    }

    pub(super) fn acknowledge(&self, out: &mut Vec<Action>) {
        let Holdings { received, applied, durable, complete, .. } = self.has;
        #[cfg(test)]
        let complete = complete || self.fault == Some(Fault::KeepHalfCopies);
        let streams = self.link == Link::Streaming;
        #[cfg(test)]
        let streams = streams || self.fault == Some(Fault::AckBeforeDurableCopy);
        if complete && streams {
            out.push(Action::Send(ToPrimary::Ack { received, applied, durable }));
        }
    }
}
