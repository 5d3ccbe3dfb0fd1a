//! Copies that are received. What is copied is incomplete until all of it is applied, and not acknowledged before.

use super::pace::Pieces;
use super::receive::Broken;
use super::stream::Run;
use super::*;
use crate::streams::message::Held;
use crate::streams::units::Units;

impl Follower {
    fn is_run(&self, leader: NodeId, run: u64) -> bool {
        let current = self.streams.get(&leader).and_then(|stream| stream.run.as_ref());
        current.is_some_and(|current| current.id == run)
    }

    /// Bytes of a copy have come. False: it is not the one under way.
    fn has_received(&mut self, leader: NodeId, run: u64, bytes: &[u8]) -> bool {
        let current = self.streams.get_mut(&leader).and_then(|stream| stream.run.as_mut());
        let current = current.filter(|current| current.id == run);
        current.map(|current| current.bytes += bytes.len() as u64).is_some()
    }

    pub(super) fn copy_begins(
        &mut self,
        leader: NodeId,
        run: u64,
        partitions: Vec<PartitionId>,
        out: &mut Vec<Action>,
    ) {
        let awaits = |id: &PartitionId| {
            let data = self.data.get(*id as usize);
            data.is_some_and(|data| data.role == Role::Follow(leader) && !data.led && data.phase == Phase::Queued)
        };
        if !partitions.iter().all(awaits) {
            // It is not what is wanted any more; for the others it is asked anew.
            let others: Vec<PartitionId> = partitions.into_iter().filter(awaits).collect();
            return self.ask_anew(leader, &others);
        }
        let ticket = self.issue(Some(leader), &partitions);
        for &id in &partitions {
            let data = &mut self.data[id as usize];
            data.drop_all();
            data.phase = Phase::Copying;
        }
        let partitions: Rc<[PartitionId]> = partitions.into();
        if let Some(stream) = self.streams.get_mut(&leader) {
            stream.run = Some(Run { id: run, partitions: partitions.clone(), bytes: 0, pieces: Pieces::default() });
        }
        out.push(Action::DropPartitions { ticket, copy: Some((leader, run)), partitions });
    }

    fn ask_anew(&mut self, leader: NodeId, partitions: &[PartitionId]) {
        for &id in partitions {
            self.data[id as usize].phase = Phase::Asked { open: 0 };
        }
        if let Some(stream) = self.streams.get_mut(&leader).filter(|_| !partitions.is_empty()) {
            stream.changed = true;
        }
    }

    pub(super) fn copy_piece(&mut self, now_ms: u64, leader: NodeId, run: u64, bytes: Rc<[u8]>, out: &mut Vec<Action>) {
        if !self.has_received(leader, run, &bytes) {
            // Its leader does not know yet that nobody wants it, and goes on to the end of it.
            return self.say_taken(leader, run, bytes.len() as u64, out);
        }
        let ticket = self.issue(Some(leader), &[]);
        if let Some(run) = self.streams.get_mut(&leader).and_then(|stream| stream.run.as_mut()) {
            run.pieces.push(now_ms, ticket, bytes.len() as u64);
        }
        out.push(Action::CopyPiece { ticket, leader, run, bytes });
    }

    pub(super) fn copy_units(
        &mut self,
        leader: NodeId,
        run: u64,
        wall_ms: i64,
        units: Rc<[u8]>,
        out: &mut Vec<Action>,
    ) -> Result<(), Broken> {
        let mut all = Units::new(&units, self.data.len());
        while all.next_unit()?.is_some() {}
        if self.has_received(leader, run, &units) {
            let ticket = self.issue(Some(leader), &[]);
            out.push(Action::CopyUnits { ticket, leader, run, wall_ms, units });
        }
        Ok(())
    }

    pub(super) fn copy_ends(&mut self, leader: NodeId, run: u64, end: Index, tails: &[Held], out: &mut Vec<Action>) {
        if !self.is_run(leader, run) {
            return;
        }
        let Some(Run { partitions, .. }) = self.streams.get_mut(&leader).and_then(|stream| stream.run.take()) else {
            return;
        };
        let tail_of = |id: &PartitionId| {
            let epoch = self.data[*id as usize].epoch;
            tails.iter().find(|held| held.partition == *id && held.epoch == epoch).map(|held| held.tail)
        };
        let (whole, others): (Vec<PartitionId>, Vec<PartitionId>) =
            partitions.iter().partition(|id| tail_of(id).is_some());
        let whole: Vec<(PartitionId, Option<Tail>)> = whole.into_iter().map(|id| (id, tail_of(&id))).collect();
        self.ask_anew(leader, &others);
        let ids: Rc<[PartitionId]> = whole.iter().map(|(id, _)| *id).collect();
        let ticket = self.issue(Some(leader), &ids);
        for (id, tail) in whole {
            let data = &mut self.data[id as usize];
            (data.tail, data.released) = (tail, tail);
            data.complete_at = Some(ticket);
            data.phase = Phase::Finishing { run, after: end };
            self.watched.push(id);
        }
        out.push(Action::CopyDone { ticket, leader, run, partitions: ids });
    }

    pub(super) fn copy_failed(&mut self, leader: NodeId, run: u64, out: &mut Vec<Action>) {
        if !self.is_run(leader, run) {
            return;
        }
        let Some(Run { partitions, .. }) = self.streams.get_mut(&leader).and_then(|stream| stream.run.take()) else {
            return;
        };
        for &id in partitions.iter() {
            self.data[id as usize].phase = Phase::Queued;
        }
        out.push(Action::CopyAborted { leader, run });
    }

    /// A copy of which some partitions are not wanted any more comes to nothing: the others are asked for anew.
    pub(super) fn abort_copy(&mut self, leader: NodeId, partitions: &[PartitionId], out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&leader) else { return };
        let Some(run) = stream.run.take_if(|run| run.partitions.iter().any(|id| partitions.contains(id))) else {
            return;
        };
        self.ask_anew(leader, &run.partitions);
        let untold = run.pieces.bytes();
        if untold > 0 {
            self.say_taken(leader, run.id, untold, out);
        }
        out.push(Action::CopyAborted { leader, run: run.id });
    }
}
