//! For how many copies there is memory.
//!
//! What is followed is not evicted, and writes to it come whether there is memory or not. So a node that has a limit takes no copy
//! of a partition for which there is none. Nothing is lost by that: whoever has the copies that there are keeps them until
//! a new one is in sync.
//!
//! ```text
//!     0                                                           limit
//!     |-------- used --------|== on their way ==|    room    |    kept free    |
//!                                                           1/8 left   1/16 left
//!                                           asks up to here ─┘          └─ copies on their way are given up from here on
//! ```
//!
//! *What is limited* is a copy of which nothing is here ([`Place::Lacking`]). What is here, or was when this process
//! started, is followed, and copied anew if need be, whatever the memory: such a copy takes the place of another one.
//!
//! *How large a copy is,* nobody knows before it is there. It is taken to be as large as those that are here, in the mean.
//! A node that has none asks for few of them first. If copies use up what is kept free all the same, all those that are on their
//! way are given up, and their contents dropped; each of them is taken for twice as large from then on as what came of them. So one that
//! is very large does not hold up the others for good, and what does not fit is asked for in vain a few times only.
//!
//! *Why below the limit:* under a policy that evicts, copies never exceed it. They drive out what this node leads.
//!
//! Pure.

use super::stream::{Link, Run};
use super::*;

/// Part of the limit that is kept free when a copy is asked for: for the growth of what is here, and for estimates that are wrong.
const KEPT_FREE_PART: u64 = 8;

/// While less than this part of the limit is free, it counts as used up, as in [`crate::budget`]: copies on their way are given up.
const USED_UP_PART: u64 = 16;

/// While copies have to wait, this part of the limit more has to be free before another one is asked for: else each key
/// that comes or goes would decide about one.
const RESUME_PART: u64 = 32;

/// Copies that are asked for at first, while nobody knows how large they are.
const COPIES_FIRST: u64 = 4;

/// The memory of this node, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub used_bytes: u64,
    /// What of that is data: of partitions that it leads, and of copies.
    pub data_bytes: u64,
}

/// What was found when the memory was looked at last.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// None: there is no limit.
    limit_bytes: Option<u64>,
    /// The data that there was before those copies came that are on their way; None: none were.
    data_before_bytes: Option<u64>,
    /// What a copy needs at least, as long as none was whole since some were given up.
    least_bytes: u64,
    /// Copies for which there was no memory.
    waiting: usize,
    /// Copies that were given up, since the process started.
    given_up: u64,
}

impl Room {
    pub(super) fn is_limited(&self) -> bool {
        self.limit_bytes.is_some()
    }

    /// A copy is whole.
    pub(super) fn has_come(&mut self, data: &mut Data) {
        if data.place == Place::Coming {
            (self.least_bytes, self.data_before_bytes) = (0, None);
        }
        (data.place, data.least_bytes) = (Place::Here, 0);
    }

    /// What copies may take of so much that is in use.
    fn free_bytes(&self, limit_bytes: u64, used_bytes: u64) -> u64 {
        let kept_bytes = limit_bytes / KEPT_FREE_PART + if self.waiting > 0 { limit_bytes / RESUME_PART } else { 0 };
        limit_bytes.saturating_sub(kept_bytes).saturating_sub(used_bytes)
    }
}

impl Follower {
    /// Sets how much memory may be used; None: as much as there is. To be called before the first [`Follower::roles`], and when
    /// it has changed.
    pub fn set_limit(&mut self, limit_bytes: Option<u64>) {
        if std::mem::replace(&mut self.room.limit_bytes, limit_bytes) == limit_bytes {
            return;
        }
        // What did not fit, may do so now.
        self.room.least_bytes = 0;
        self.data.iter_mut().for_each(|data| data.least_bytes = 0);
        if limit_bytes.is_none() {
            self.room.waiting = 0;
            self.streams.values_mut().for_each(|stream| stream.changed = true);
        }
    }

    /// Whether anything depends on how much memory there is.
    pub fn minds_memory(&self) -> bool {
        let minds = |data: &Data| data.lacks() || data.is_coming();
        self.room.is_limited() && (self.room.waiting > 0 || self.data.iter().any(minds))
    }

    /// How much memory is in use, if there is a limit. To be called before each tick, and when copies have brought much.
    pub fn memory(&mut self, memory: Memory, out: &mut Vec<Action>) {
        let Some(limit_bytes) = self.room.limit_bytes else { return };
        if !self.data.iter().any(Data::is_coming) {
            self.room.data_before_bytes = None;
        } else if self.room.data_before_bytes.is_none() {
            self.room.data_before_bytes = Some(memory.data_bytes.saturating_sub(self.received_bytes()));
        }
        if memory.used_bytes > limit_bytes - limit_bytes / USED_UP_PART {
            self.give_up_copies(memory.data_bytes, out);
        }
        self.ask_for_copies(limit_bytes, &memory);
        self.drop_remains(out);
    }

    /// Copies for which there is no memory, and how many were given up for lack of it since the process started.
    pub fn without_memory(&self) -> (usize, u64) {
        (self.room.waiting, self.room.given_up)
    }

    /// Decides which of the copies that are lacking are asked for.
    fn ask_for_copies(&mut self, limit_bytes: u64, memory: &Memory) {
        let here = self.data.iter().filter(|data| data.place == Place::Here).count() as u64;
        let mut left_bytes = self.room.free_bytes(limit_bytes, memory.used_bytes);
        let mean_bytes = match here {
            0 => left_bytes / COPIES_FIRST,
            here => memory.data_bytes.saturating_sub(self.received_bytes()) / here,
        };
        let least_bytes = self.room.least_bytes;
        let known_bytes = |data: &Data| mean_bytes.max(data.least_bytes).max(1);
        let needs = |data: &Data| known_bytes(data).max(least_bytes);
        // The leader has to be there: memory is not kept free for what does not come.
        let can_be_asked = |data: &Data| match data.role {
            Role::Follow(leader) if data.lacks() => {
                self.streams.get(&leader).is_some_and(|stream| stream.link == Link::Up)
            }
            _ => false,
        };
        let lacking = (0..).zip(&self.data).filter(|(_, data)| can_be_asked(data));
        let mut lacking: Vec<(u64, PartitionId)> = lacking.map(|(id, data)| (known_bytes(data), id)).collect();
        // Small ones first: one that does not fit holds up none that does.
        lacking.sort_unstable();
        left_bytes = left_bytes.saturating_sub(self.coming_bytes(needs));
        let is_first = !self.data.iter().any(Data::is_coming);
        let mut asked = 0;
        for &(bytes, id) in &lacking {
            // One by one they may be smaller than those that were given up.
            let bytes = if is_first && asked == 0 { bytes } else { bytes.max(least_bytes) };
            if bytes > left_bytes {
                break;
            }
            left_bytes -= bytes;
            asked += 1;
            let data = &mut self.data[id as usize];
            data.place = Place::Coming;
            if let Role::Follow(leader) = data.role {
                self.stream(leader).changed = true;
            }
        }
        if asked > 0 {
            self.room.data_before_bytes.get_or_insert(memory.data_bytes);
        }
        // While the first ones show how large they are, nobody knows whether the others have to wait for memory.
        let unknown = here == 0 && self.data.iter().any(Data::is_coming);
        self.room.waiting = if unknown { 0 } else { lacking.len() - asked };
    }

    /// Copies under way that were not here before, or some of which were not.
    fn runs(&self) -> impl Iterator<Item = &Run> {
        let is_coming = |run: &&Run| run.partitions.iter().any(|id| self.data[*id as usize].is_coming());
        self.streams.values().filter_map(|stream| stream.run.as_ref()).filter(is_coming)
    }

    /// What has come of them.
    fn received_bytes(&self) -> u64 {
        self.runs().map(|run| run.bytes).sum()
    }

    /// What is on its way and has not come yet.
    fn coming_bytes(&self, needs: impl Fn(&Data) -> u64) -> u64 {
        let of_run = |run: &Run| {
            let copies = run.partitions.iter().map(|id| &self.data[*id as usize]);
            let bytes: u64 = copies.filter(|data| data.is_coming()).map(&needs).sum();
            bytes.saturating_sub(run.bytes)
        };
        let is_asked = |data: &&Data| data.is_coming() && data.phase != Phase::Copying;
        self.runs().map(of_run).sum::<u64>() + self.data.iter().filter(is_asked).map(&needs).sum::<u64>()
    }

    /// Copies on their way come to nothing, with what of them is here.
    fn give_up_copies(&mut self, data_bytes: u64, out: &mut Vec<Action>) {
        #[cfg(test)]
        if self.fault == Some(Fault::GiveUpWhatIsHere) {
            for data in self.data.iter_mut().filter(|data| matches!(data.role, Role::Follow(_)) && !data.led) {
                data.forget();
                data.place = Place::Coming;
            }
        }
        let coming = (0..).zip(&self.data).filter(|(_, data)| data.is_coming());
        let coming: Vec<PartitionId> = coming.map(|(id, _)| id).collect();
        let is_under_way = |id: &PartitionId| self.data[*id as usize].phase == Phase::Copying;
        let under_way: Vec<PartitionId> = coming.iter().copied().filter(is_under_way).collect();
        if !under_way.is_empty() {
            // Entries may take more than the bytes by which they came.
            let grown_bytes = data_bytes.saturating_sub(self.room.data_before_bytes.unwrap_or(data_bytes));
            let least_bytes = 2 * grown_bytes.max(self.received_bytes()) / under_way.len() as u64;
            self.room.least_bytes = self.room.least_bytes.max(least_bytes);
            self.room.given_up += under_way.len() as u64;
            for &id in &under_way {
                let data = &mut self.data[id as usize];
                data.least_bytes = data.least_bytes.max(least_bytes);
            }
            let leaders: Vec<NodeId> = self.streams.keys().copied().collect();
            leaders.into_iter().for_each(|leader| self.abort_copy(leader, &under_way, out));
        }
        for id in coming {
            self.data[id as usize].phase = Phase::Asked { open: 0 };
            self.give_place_back(id);
        }
        self.room.data_before_bytes = None;
    }

    /// What is on its way is not any more, and memory is not kept free for it.
    pub(super) fn give_place_back(&mut self, id: PartitionId) {
        let data = &mut self.data[id as usize];
        let Role::Follow(leader) = data.role else { return };
        if !data.is_coming() {
            return;
        }
        // With what a node has joined it is complete, though it is nothing.
        (data.place, data.remains) = (Place::Lacking, !data.complete);
        self.stream(leader).changed = true;
    }

    /// What is left of copies that have to wait takes memory, and is worth nothing.
    fn drop_remains(&mut self, out: &mut Vec<Action>) {
        let is_left = |data: &Data| data.remains && data.lacks();
        let left = (0..).zip(&self.data).filter(|(_, data)| is_left(data));
        let left: Vec<PartitionId> = left.map(|(id, _)| id).collect();
        if left.is_empty() {
            return;
        }
        let ticket = self.issue(None, &left);
        left.iter().for_each(|id| self.data[*id as usize].drop_all());
        out.push(Action::DropPartitions { ticket, copy: None, partitions: left.into() });
    }
}
