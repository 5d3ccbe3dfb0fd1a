//! What a follower hands out, on its way to the data cores: in the order of its tickets.
//!
//! Units, pieces of copies and orders to drop partitions are executed by the cores that own the keys ([`super::super::apply`] has the
//! batches). A ticket is *applied* when all cores have answered what it had for them, and everything before; it is
//! *durable* when the log of this node, which has the same statements, is on disk up to there. Partitions that begin empty are
//! applied when they are durable, if there is a disk.
//!
//! Owned by the control core. Invariant: a copy has a coverage from its beginning to its end, or nothing of it is executed.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use super::claims::Claims;
use crate::control::apply::{Apply, ApplyError};
use crate::control::log::Log;
use crate::log::cover::next_record;
use crate::log::feed::Seq;
use crate::log::frame::{Index, Kind, read_begin, take_frame};
use crate::log::replay::Coverage;
use crate::net::forward::Message;
use crate::route::{CoreId, PartitionSet};
use crate::shard::statement::{is_about_more, next_statement, next_unit};
use crate::streams::follower::{Action, Ticket};
use crate::streams::{NodeId, PartitionId};

/// Which copy.
type Run = (NodeId, u64);

/// A ticket that is applied, and what has to be in the log for it.
struct Applied {
    ticket: Ticket,
    seqs: Vec<Seq>,
}

/// See the module.
pub(super) struct Executor {
    queue: VecDeque<Action>,
    /// That these carry.
    queued_bytes: u64,
    /// Bytes of the units of the first one that were handed out.
    at: usize,
    copies: BTreeMap<Run, Copy>,
    /// Up to where the feed of each core has what was executed there.
    seqs: Vec<Seq>,
    applied: Ticket,
    waits_for_log: VecDeque<Applied>,
    waits_for_disk: VecDeque<(Ticket, Index)>,
    claims: Claims,
    /// Partitions that are dropped or damaged.
    spoiled: Vec<PartitionId>,
    /// What begins empty and is not on disk: nothing from there on counts as applied before it is.
    empties: VecDeque<Ticket>,
}

/// A copy that is being received.
struct Copy {
    coverage: Option<Coverage>,
    partitions: Rc<[PartitionId]>,
    ended: bool,
}

/// What came of a turn.
#[derive(Default)]
pub(super) struct Progress {
    pub applied: Ticket,
    pub durable: Option<Ticket>,
    pub spoiled: Vec<PartitionId>,
    /// Whole and on disk.
    pub completed: Vec<PartitionId>,
}

/// Bytes of units, or of a copy.
fn carried_bytes(action: &Action) -> u64 {
    match action {
        Action::Apply { units: bytes, .. }
        | Action::CopyPiece { bytes, .. }
        | Action::CopyUnits { units: bytes, .. } => bytes.len() as u64,
        _ => 0,
    }
}

impl Executor {
    pub fn new(cores: usize) -> Executor {
        Executor {
            queue: VecDeque::new(),
            queued_bytes: 0,
            at: 0,
            copies: BTreeMap::new(),
            seqs: vec![0; cores],
            applied: 0,
            waits_for_log: VecDeque::new(),
            waits_for_disk: VecDeque::new(),
            claims: Claims::default(),
            spoiled: Vec::new(),
            empties: VecDeque::new(),
        }
    }

    /// Something that has a ticket, or the end of a run.
    pub fn push(&mut self, action: Action) {
        // Pieces of it that wait for their turn are not executed any more: it may be given up for lack of memory.
        if let Action::CopyAborted { leader, run } = action {
            self.copies.remove(&(leader, run));
        }
        if let Some((ticket, partitions)) = action.ticket().zip(action.replaced()) {
            self.claims.replace(ticket, partitions);
        }
        self.queued_bytes += carried_bytes(&action);
        self.queue.push_back(action);
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes that wait for their turn.
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// A core has answered a batch: its feed stands there.
    pub fn replied(&mut self, core: CoreId, seq: Seq) {
        if let Some(known) = self.seqs.get_mut(core as usize) {
            *known = (*known).max(seq);
        }
    }

    /// Goes on as far as cores have room. What goes to them is in `apply.out` afterwards.
    pub fn advance(&mut self, apply: &mut Apply, log: &Log, on_disk: bool) -> Progress {
        // What the log cannot take now, it is not given.
        while apply.has_room()
            && log.has_room()
            && let Some(action) = self.queue.front().cloned()
        {
            let ticket = action.ticket();
            match self.execute(&action, ticket.unwrap_or(0), apply) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(error) => self.fail(&action, &error),
            }
            self.at = 0;
            self.queued_bytes -= carried_bytes(&action);
            self.queue.pop_front();
            if let Some(ticket) = ticket {
                apply.passed(ticket);
            }
        }
        apply.flush();
        self.look(apply, log, on_disk)
    }

    /// Executes a step; true: it was the last of this action.
    fn execute(&mut self, action: &Action, ticket: Ticket, apply: &mut Apply) -> Result<bool, ApplyError> {
        match action {
            Action::Apply { units, .. } => {
                let mut rest = &units[self.at..];
                if let Some(unit) = next_unit(&mut rest)? {
                    self.at = units.len() - rest.len();
                    apply.unit(unit, ticket)?;
                }
                Ok(rest.is_empty())
            }
            Action::DropPartitions { copy, partitions, .. } => {
                apply.flush();
                let set = Arc::new(partitions.iter().copied().collect::<PartitionSet>());
                apply.tell_all(|| Message::Drop(Arc::clone(&set)));
                if let Some((leader, run)) = copy {
                    let copy = Copy { coverage: None, partitions: Rc::clone(partitions), ended: false };
                    self.copies.insert((*leader, *run), copy);
                }
                Ok(true)
            }
            Action::BeginEmpty { partitions, .. } => {
                partitions.iter().try_for_each(|partition| apply.flush_partition(*partition, ticket))?;
                self.claims.complete(ticket, partitions);
                self.empties.push_back(ticket);
                Ok(true)
            }
            Action::CopyPiece { leader, run, bytes, .. } => {
                self.copy_piece((*leader, *run), bytes, ticket, apply)?;
                Ok(true)
            }
            Action::CopyUnits { leader, run, units, .. } => {
                self.copy_units((*leader, *run), units, ticket, apply)?;
                Ok(true)
            }
            Action::CopyDone { leader, run, partitions, .. } => {
                match self.copies.remove(&(*leader, *run)) {
                    Some(Copy { ended: true, .. }) => self.claims.complete(ticket, partitions),
                    _ => return Err(ApplyError::Order),
                }
                Ok(true)
            }
            Action::CopyAborted { leader, run } => {
                self.copies.remove(&(*leader, *run));
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    fn copy_piece(&mut self, run: Run, bytes: &[u8], ticket: Ticket, apply: &mut Apply) -> Result<(), ApplyError> {
        // One that was spoiled goes on arriving until its sender knows.
        let Some(copy) = self.copies.get_mut(&run) else { return Ok(()) };
        let frame = take_frame(&mut &bytes[..]).ok().flatten().ok_or(ApplyError::Order)?;
        match (frame.head.kind, &mut copy.coverage) {
            (Kind::Begin, None) => {
                let begin = read_begin(frame.payload()).map_err(|_| ApplyError::Order)?;
                copy.coverage = Some(Coverage::new(&begin));
            }
            (Kind::Cover, Some(coverage)) => {
                let mut records = frame.payload();
                while let Some((range, mut statements)) = next_record(&mut records)? {
                    coverage.check(&range).map_err(|_| ApplyError::Order)?;
                    coverage.note(&range)?;
                    while let Some(statement) = next_statement(&mut statements)? {
                        apply.statement(&statement, ticket)?;
                    }
                }
            }
            (Kind::End, Some(_)) => copy.ended = true,
            _ => return Err(ApplyError::Order),
        }
        Ok(())
    }

    fn copy_units(&mut self, run: Run, units: &[u8], ticket: Ticket, apply: &mut Apply) -> Result<(), ApplyError> {
        let Some(copy) = self.copies.get_mut(&run) else { return Ok(()) };
        // Before the first piece nothing is covered: what comes contains it.
        let Some(coverage) = &copy.coverage else { return Ok(()) };
        let mut units = units;
        while let Some(mut unit) = next_unit(&mut units)? {
            while let Some(statement) = next_statement(&mut unit)? {
                let key = statement.args.get(1).filter(|_| statement.slot.is_some()).ok_or(ApplyError::Unknown)?;
                if coverage.has(statement.db, key) || is_about_more(&statement.args) {
                    apply.statement(&statement, ticket)?;
                }
            }
        }
        Ok(())
    }

    /// What cannot be executed makes its partitions worthless: they need a copy.
    fn fail(&mut self, action: &Action, error: &ApplyError) {
        let partitions: Vec<PartitionId> = match action {
            Action::Apply { partitions, .. }
            | Action::CopyDone { partitions, .. }
            | Action::BeginEmpty { partitions, .. } => partitions.to_vec(),
            Action::CopyPiece { leader, run, .. } | Action::CopyUnits { leader, run, .. } => {
                let copy = self.copies.remove(&(*leader, *run));
                copy.map_or(Vec::new(), |copy| copy.partitions.to_vec())
            }
            _ => Vec::new(),
        };
        self.claims.replace(action.ticket().unwrap_or(0), &partitions);
        tracing::error!(%error, count = partitions.len(), "what another node has sent cannot be applied: these partitions need a copy");
        self.spoiled.extend(partitions);
    }

    /// How far everything is.
    fn look(&mut self, apply: &Apply, log: &Log, on_disk: bool) -> Progress {
        let applied = apply.applied();
        if applied > self.applied {
            self.applied = applied;
            if on_disk {
                self.waits_for_log.push_back(Applied { ticket: applied, seqs: self.seqs.clone() });
            }
        }
        while let Some(first) = self.waits_for_log.front() {
            let positions: Vec<(CoreId, Seq)> = (0..).zip(first.seqs.iter().copied()).collect();
            if !log.has(&positions) {
                break;
            }
            if let Some(wal) = log.wal().filter(|_| !self.empties.is_empty()) {
                wal.request_sync(log.sequencer.end());
            }
            self.waits_for_disk.push_back((first.ticket, log.sequencer.end()));
            self.waits_for_log.pop_front();
        }
        let mut durable = None;
        while let Some(&(ticket, index)) = self.waits_for_disk.front()
            && log.durable() >= index
        {
            durable = Some(ticket);
            self.waits_for_disk.pop_front();
        }
        if !on_disk {
            self.claims.clear();
            self.empties.clear();
        }
        while self.empties.front().is_some_and(|ticket| durable.is_some_and(|durable| *ticket <= durable)) {
            self.empties.pop_front();
        }
        let completed = durable.map_or(Vec::new(), |durable| self.claims.on_disk(durable));
        let applied = self.empties.front().map_or(self.applied, |ticket| self.applied.min(ticket - 1));
        Progress { applied, durable, spoiled: std::mem::take(&mut self.spoiled), completed }
    }
}
