//! Transactions over several partitions whose primary was lost: what of them a promoted node keeps.
//!
//! It cannot know alone whether others have received the rest. So it says in raft how far it had come in the log of the node
//! that was lost, all others who were in sync there do so too, and the lowest decides ([`crate::raft::settle`]). Until then
//! the partition is not opened, if something that was received spans partitions and is not known to be committed; else it is
//! opened at once.
//!
//! How far a node had come does not change any more once it has heard of the loss, as it takes nothing of that log from then on.
//! So it is noted at that moment, whatever happens to the partitions later.

use std::collections::BTreeMap;

use super::*;
use crate::raft::command::COUNT_MAX;
use crate::raft::settle::{Settlement, Settlements};

/// What is said and does not show in raft's state is said again after this.
const REPEAT_MS: u64 = 200;

/// What is known of losses.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubts {
    known: Rc<Settlements>,
    /// How far this node had come in each, by the first partition that was lost.
    reached: BTreeMap<(PartitionId, Epoch), Noted>,
    /// Partitions that wait for a floor.
    waiting: Vec<PartitionId>,
    /// This node has received something that spans partitions.
    pub heard: bool,
}

#[derive(Clone, Debug)]
struct Noted {
    index: Index,
    /// Partitions that were not followed yet in the epoch in which they were lost.
    lacking: Vec<PartitionId>,
    /// It was said, and is to be said again at this time.
    said: bool,
    again_ms: u64,
}

/// What is to become of what was received of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// The pieces from this one on are dropped.
    Drop {
        from: usize,
    },
    /// It is not decided yet.
    Wait,
}

fn name(settlement: &Settlement) -> Move {
    settlement.lost[0]
}

impl Follower {
    /// The stream of a leader has come this far, for those partitions that `ends` accepts.
    pub(super) fn note_reached(&mut self, leader: NodeId, ends: impl Fn(PartitionId) -> bool) {
        let Some(position) = self.streams.get(&leader).map(|stream| stream.position) else { return };
        for (id, data) in (0..).zip(&mut self.data) {
            if data.role == Role::Follow(leader) && !data.led && ends(id) {
                data.reach(position);
            }
        }
    }

    /// Notes how far this node had come in what was lost since it was looked last. Nothing more is taken of that.
    pub(super) fn learn_losses(&mut self, state: &State) {
        let me = self.settings.node;
        let Doubts { known, reached, .. } = &mut self.doubts;
        if Rc::ptr_eq(known, state.settlements()) {
            return;
        }
        known.clone_from(state.settlements());
        let names: Vec<Move> = known.iter().map(name).collect();
        reached.retain(|(partition, epoch), _| {
            names.iter().any(|name| (name.partition, name.epoch) == (*partition, *epoch))
        });
        for settlement in known.iter().filter(|settlement| settlement.takes(me)) {
            let Move { partition, epoch } = name(settlement);
            reached.entry((partition, epoch)).or_insert_with(|| {
                let mut noted = Noted { index: COUNT_MAX, lacking: Vec::new(), said: false, again_ms: 0 };
                for &Move { partition, epoch } in &settlement.lost {
                    // What it is not in sync for, it does not lead with what it has.
                    let sits = state.partition(partition).is_some_and(|known| known.in_sync.contains(&me));
                    let Some(data) = self.data.get(usize::from(partition)).filter(|_| sits) else { continue };
                    // The primary had ended that epoch, as this node has heard: all of it was committed, and nothing is in doubt.
                    if data.epoch > epoch {
                        continue;
                    }
                    match data.has_reached(epoch) {
                        Some(index) => noted.index = noted.index.min(index),
                        // Or it had to forget what it has: in both cases nothing of that epoch is acknowledged.
                        None => noted.lacking.push(partition),
                    }
                }
                noted
            });
        }
    }

    /// What becomes of what was received of a partition that this node is to lead.
    pub(super) fn verdict(&self, id: PartitionId) -> Verdict {
        #[cfg(test)]
        if self.fault == Some(Fault::KeepSpansAlone) {
            return Verdict::Keep;
        }
        let pieces = self.data[usize::from(id)].pending.iter().enumerate();
        for (at, Piece { tail, spans, .. }) in pieces {
            let Some(spans) = spans else { continue };
            // Of what was handed over, everything was committed.
            let Some(settlement) = self.doubts.known.of(id, tail.epoch) else { continue };
            match settlement.keeps(tail.index, spans) {
                None => return Verdict::Wait,
                Some(false) => return Verdict::Drop { from: at },
                Some(true) => {}
            }
        }
        Verdict::Keep
    }

    /// Drops what was received from a piece on: nothing of it was acknowledged.
    pub(super) fn cut_off(&mut self, id: PartitionId, from: usize) {
        let data = &mut self.data[usize::from(id)];
        data.pending.truncate(from);
        data.tail = data.pending.last().map(|piece| piece.tail).or(data.released);
        data.reached = None;
    }

    /// A partition waits to be opened.
    pub(super) fn doubt(&mut self, id: PartitionId) {
        self.data[usize::from(id)].phase = Phase::Doubting;
        self.doubts.waiting.push(id);
    }

    /// Goes on with what is decided.
    pub(super) fn settle_doubts(&mut self, out: &mut Vec<Action>) {
        let mut waiting = std::mem::take(&mut self.doubts.waiting);
        waiting.sort_unstable();
        waiting.dedup();
        waiting.retain(|id| self.data[usize::from(*id)].phase == Phase::Doubting);
        // Each of these that is not decided comes back.
        waiting.into_iter().for_each(|id| self.promote(id, out));
    }

    /// Says how far this node had come where somebody wants to know.
    pub(super) fn say_reached(&mut self, out: &mut Vec<Action>) {
        let me = self.settings.node;
        let Doubts { known, reached, heard, waiting } = &mut self.doubts;
        for settlement in known.iter().filter(|settlement| settlement.takes(me)) {
            let waits = || !waiting.is_empty() && settlement.lost.iter().any(|lost| waiting.contains(&lost.partition));
            if !waits() && !(settlement.awaits(me) && (*heard || settlement.is_asked())) {
                continue;
            }
            let of = name(settlement);
            if let Some(noted) = reached.get_mut(&(of.partition, of.epoch)).filter(|noted| !noted.said) {
                noted.said = true;
                out.push(Action::Reach { of, reached: noted.index, lacking: noted.lacking.clone() });
            }
        }
    }

    /// What was said may have been lost.
    pub(super) fn repeat_reached(&mut self, now_ms: u64) {
        for noted in self.doubts.reached.values_mut().filter(|noted| noted.said) {
            if noted.again_ms == 0 {
                noted.again_ms = now_ms + REPEAT_MS;
            } else if now_ms >= noted.again_ms {
                (noted.said, noted.again_ms) = (false, 0);
            }
        }
    }
}
