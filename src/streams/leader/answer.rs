//! What a follower hears of what it has asked for: by its tail, how it gets what it lacks. The rules are those of
//! [`crate::streams`].

use super::*;

impl Leader {
    /// Answers those who have asked for what is led by now.
    pub(super) fn answer_due(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.answers_due) {
            (0..self.fellows.len()).for_each(|at| self.answer(now_ms, at, out));
        }
    }

    /// Judges what a follower waits to hear of, and says so.
    pub(super) fn answer(&mut self, now_ms: u64, at: usize, out: &mut Vec<Action>) {
        if !self.fellows[at].parts.values().any(|part| part.phase == Phase::Waiting) {
            return;
        }
        // What counts so far, is remembered with what was acknowledged so far.
        self.confirm_all(at);
        let (end, oldest) = (self.end, self.oldest);
        let mut position = self.fellows[at].position;
        let (mut answers, mut suffixes, mut confirmed) = (Vec::new(), Vec::new(), Vec::new());
        let mut cuts = false;
        let fellow = &mut self.fellows[at];
        for part in fellow.parts.values_mut() {
            // If the stream goes back, it is not for those whom it has brought this far.
            if let Phase::Following { after } = &mut part.phase {
                *after = position.max(*after);
            }
        }
        for (&partition, part) in fellow.parts.iter_mut().filter(|(_, part)| part.phase == Phase::Waiting) {
            let led = self.led.get(partition as usize).and_then(Option::as_ref);
            let led = led.filter(|led| fellow.recognized && led.deposed.is_none() && led.epoch == part.epoch);
            let Some(led) = led.filter(|led| led.replicas.contains(&fellow.member.node)) else {
                let is = self.state.partition(partition).map(|is| (is.epoch, is.primary));
                let leads_soon = is == Some((part.epoch, Some(self.settings.node)));
                let is_ended = self.released.get(&partition).is_some_and(|ended| ended.epoch == part.epoch);
                if leads_soon || is_ended {
                    // What is to be said of it is said in a moment.
                    continue;
                }
                if !std::mem::replace(&mut part.told, true) {
                    answers.push(Answered { partition, epoch: part.epoch, answer: Answer::NotLeading });
                }
                continue;
            };
            let verdict = judge(led, part.tail, oldest);
            #[cfg(test)]
            let verdict = match self.fault {
                Some(Fault::FollowWithoutTails) if part.tail.is_some() => Verdict::Follow { after: None },
                _ => verdict,
            };
            // What nothing is missing of, can begin where the log ends.
            let (answer, after, counts) = match verdict {
                Verdict::Follow { after } => {
                    (Answer::Follow { after: after.unwrap_or(end), cut: led.cut }, Some(after), true)
                }
                // Whoever has applied more asks anew, before it acknowledges anything.
                Verdict::Cut { after } => (Answer::Cut { to: led.base, cut: led.cut }, Some(after), false),
                Verdict::Suffix { from, after } => {
                    suffixes.push((partition, led.epoch, from));
                    (Answer::Suffix { cut: led.cut }, Some(after), false)
                }
                Verdict::Copy => (Answer::Copy, None, false),
            };
            part.phase = match after {
                Some(after) => Phase::Following { after: after.unwrap_or(end) },
                None => Phase::Queued,
            };
            part.counts = counts;
            part.cut = matches!(answer, Answer::Cut { .. });
            cuts |= part.cut;
            position = position.min(after.flatten().unwrap_or(position));
            if let (true, Some(after)) = (counts, after) {
                confirmed.push((partition, after.unwrap_or(end)));
            }
            answers.push(Answered { partition, epoch: part.epoch, answer });
        }
        if answers.is_empty() {
            return;
        }
        self.fellows[at].cuts |= cuts;
        let member = self.fellows[at].member;
        for (partition, after) in confirmed {
            if let Some(led) = &mut self.led[partition as usize] {
                led.confirm(member, after, 0);
            }
        }
        self.begin_round(now_ms, at, position, answers, out);
        for (partition, epoch, from) in suffixes {
            let suffix = self.led[partition as usize].as_ref().and_then(|led| led.suffix.as_ref());
            let pieces = suffix.map_or(Vec::new(), |suffix| suffix.pieces[from..].to_vec());
            self.send(now_ms, at, ToFollower::Suffix { partition, epoch, pieces }, out);
        }
        self.untidy = true;
    }
}

/// How a follower gets what it lacks. `after` is where frames begin; None: nothing is missing.
enum Verdict {
    Follow { after: Option<Index> },
    Cut { after: Option<Index> },
    Suffix { from: usize, after: Option<Index> },
    Copy,
}

/// The rules of [`crate::streams`].
fn judge(led: &Led, tail: Option<Tail>, oldest: Index) -> Verdict {
    let Some(tail) = tail else { return Verdict::Copy };
    // Where frames begin for one who has everything up to there; None: they are not all to be had.
    let start = |has: Index| match has {
        has if has >= led.last => Some(None),
        has if has + 1 >= oldest => Some(Some(has)),
        _ => None,
    };
    let suffix = led.suffix.as_ref().and_then(|suffix| {
        let tails = suffix.pieces.iter().map(|piece| piece.tail);
        std::iter::once(suffix.after).chain(tails).position(|piece| piece == tail)
    });
    let verdict = if tail == led.base {
        start(led.cut).map(|after| Verdict::Follow { after })
    } else if tail.epoch == led.epoch && tail.index > led.cut && tail.index <= led.last {
        start(tail.index).map(|after| Verdict::Follow { after })
    } else if let Some(from) = suffix {
        start(led.cut).map(|after| Verdict::Suffix { from, after })
    } else if led.base.epoch < led.epoch && tail.epoch == led.base.epoch && tail.index > led.base.index {
        start(led.cut).map(|after| Verdict::Cut { after })
    } else {
        None
    };
    verdict.unwrap_or(Verdict::Copy)
}
