//! Applying a log that is followed: its units go to the data cores that own their keys.
//!
//! A unit of one core is a request, or, if it has several statements, a small transaction there. One that concerns several
//! cores is applied as a client's transaction would be: its keys are claimed on one core after the other, ascending, all
//! of them run it, and only then are they released ([`crate::borrow`]). So nobody who reads here sees half of it.
//!
//! Requests to a core arrive and run in the order in which they are sent, waiting behind each other if one needs a key
//! that a client's transaction holds. Claims do not wait behind requests, so they are made when the cores concerned have
//! answered everything before. A unit counts as applied when all cores have
//! answered it and everything before it.
//!
//! How much is under way is bounded ([`BATCHES_MAX`]); what has been received and may not be applied yet is bounded by what
//! a primary sends before it is acknowledged.
//!
//! Owned by the control core.

#![allow(clippy::vec_box, reason = "boxed batches travel between cores; the box itself is what is used again")]

use std::collections::{BTreeMap, VecDeque};

use crate::borrow::{Lent, Loan, Lock, Ticket, Wants};
use crate::command::{Owned, statement};
use crate::log::cover::next_record;
use crate::log::frame::{Frame, Index, Kind, read_begin};
use crate::log::replay::Coverage;
use crate::net::forward::{Atomic, Batch, Forwarded, Message};
use crate::net::window::RequestKey;
use crate::resp::Version;
use crate::route::slot::short_key;
use crate::route::{CoreId, Hasher, Router, slot_of};
use crate::shard::statement::{Malformed, Statement, is_about_more, next_statement, next_unit};

/// Batches that one core may have under way.
const BATCHES_MAX: usize = 32;

/// A batch is sent when it has so many requests or bytes.
const BATCH_REQUESTS: usize = 128;
const BATCH_BYTES: usize = 64 * 1024;

/// What is wrong with what was received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApplyError {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("a statement that this program does not know")]
    Unknown,
    #[error("a copy in another order than it has to have")]
    Order,
}

/// A unit of several cores.
struct Wide {
    index: Index,
    cores: Vec<CoreId>,
    wants: BTreeMap<CoreId, Wants<Lock>>,
    batches: BTreeMap<CoreId, Box<Batch>>,
    tickets: Vec<(CoreId, Ticket)>,
    /// The first claim was made.
    claims: bool,
    answers: usize,
}

struct Filling {
    batch: Box<Batch>,
    first: Index,
    bytes: usize,
}

/// See the module.
pub(super) struct Apply {
    hasher: Hasher,
    router: Router,
    databases: usize,
    /// Received and not wholly handed out; and how many bytes of the first one's payload are.
    frames: VecDeque<Frame>,
    at: usize,
    /// The last unit that was handed out, and up to where that may go on.
    handed_out: Index,
    upto: Index,
    /// Of each core: batches under way, by their first unit; and the one that is being filled, with its first unit and its
    /// bytes.
    under_way: Vec<VecDeque<Index>>,
    filling: Vec<Option<Filling>>,
    spare: Vec<Box<Batch>>,
    wide: Option<Wide>,
    wides: u32,
    /// Nothing is handed out: a whole copy of the keyspace is being made.
    pub held: bool,
    coverage: Option<Coverage>,
    pub out: Vec<(CoreId, Message)>,
}

impl Apply {
    pub fn new(hasher: Hasher, cores: usize, databases: usize) -> Apply {
        Apply {
            router: Router::new(0, cores as u16, hasher.partitions()),
            hasher,
            databases,
            frames: VecDeque::new(),
            at: 0,
            handed_out: 0,
            upto: 0,
            under_way: (0..cores).map(|_| VecDeque::new()).collect(),
            filling: (0..cores).map(|_| None).collect(),
            spare: Vec::new(),
            wide: None,
            wides: 0,
            held: false,
            coverage: None,
            out: Vec::new(),
        }
    }

    /// Everything up to `end` is applied; what was received beyond is forgotten.
    pub fn start_at(&mut self, end: Index) {
        self.frames.clear();
        (self.at, self.handed_out, self.upto) = (0, end, end);
    }

    /// A frame has been received.
    pub fn push(&mut self, frame: Frame) {
        self.frames.push_back(frame);
    }

    /// Frames beyond `to`, none of which was handed out, are taken back.
    pub fn truncate(&mut self, to: Index) {
        self.frames.retain(|frame| frame.last() <= to);
    }

    /// Units up to this index may be applied.
    pub fn allow(&mut self, upto: Index) {
        self.upto = self.upto.max(upto);
    }

    /// The last unit that is applied, with all before it.
    pub fn applied(&self) -> Index {
        let sent = self.under_way.iter().filter_map(|batches| batches.front().copied());
        let filling = self.filling.iter().flatten().map(|filling| filling.first);
        let wide = self.wide.iter().map(|wide| wide.index);
        sent.chain(filling).chain(wide).min().map_or(self.handed_out, |first| first.saturating_sub(1))
    }

    /// Nothing is under way, and the last unit that was handed out ends a frame.
    pub fn is_at_rest(&self) -> bool {
        self.at == 0 && self.is_drained()
    }

    /// Nothing is under way.
    pub fn is_drained(&self) -> bool {
        self.wide.is_none() && self.under_way.iter().all(VecDeque::is_empty) && self.filling.iter().all(Option::is_none)
    }

    /// Cores can take more.
    pub fn has_room(&self) -> bool {
        self.wide.is_none() && self.under_way.iter().all(|batches| batches.len() < BATCHES_MAX)
    }

    /// The last unit that was handed out.
    pub fn handed_out(&self) -> Index {
        self.handed_out
    }

    /// Sends what has been gathered.
    pub fn flush(&mut self) {
        (0..self.filling.len()).for_each(|core| self.send(core));
    }

    /// Hands out what may be, as far as cores have room. `pass` hears of each frame before its first unit goes out.
    pub fn advance(&mut self, mut pass: impl FnMut(&Frame)) -> Result<(), ApplyError> {
        // A frame that was begun is ended: nobody can go on in the middle of one.
        while (!self.held || self.at > 0) && self.has_room() {
            let Some(frame) = self.frames.front().filter(|frame| frame.last() <= self.upto).cloned() else { break };
            if self.at == 0 {
                pass(&frame);
            }
            let mut rest = &frame.payload()[self.at..];
            if let Some(unit) = next_unit(&mut rest)? {
                self.at = frame.payload().len() - rest.len();
                self.handed_out += 1;
                self.hand_out(unit, self.handed_out)?;
            }
            if rest.is_empty() {
                self.frames.pop_front();
                (self.at, self.handed_out) = (0, frame.last());
            }
        }
        self.flush();
        Ok(())
    }

    /// Hands out a unit of another node's partitions, under a number that does not go back.
    pub fn unit(&mut self, unit: &[u8], number: Index) -> Result<(), ApplyError> {
        self.hand_out(unit, number)
    }

    /// Hands out a statement with a key, likewise.
    pub fn statement(&mut self, statement: &Statement, number: Index) -> Result<(), ApplyError> {
        let core = self.owner(statement).ok_or(ApplyError::Unknown)?;
        self.fill(core, statement, number)
    }

    /// Lets the core that owns a partition drop all of its keys, behind what was handed out; answered as a statement is.
    pub fn flush_partition(&mut self, partition: u16, number: Index) -> Result<(), ApplyError> {
        let key = short_key(partition, self.hasher.partitions());
        let statement = Statement { db: 0, slot: Some(slot_of(&key)), args: vec![b"FLUSHPARTITION", &key] };
        self.statement(&statement, number)
    }

    /// Everything up to this number was handed out.
    pub fn passed(&mut self, number: Index) {
        self.handed_out = self.handed_out.max(number);
    }

    /// Tells all cores, behind what was handed out.
    pub fn tell_all(&mut self, message: impl Fn() -> Message) {
        self.flush();
        self.out.extend((0..self.router.cores()).map(|core| (core, message())));
    }

    /// Hands out a unit of the log.
    fn hand_out(&mut self, mut unit: &[u8], index: Index) -> Result<(), ApplyError> {
        let mut statements = Vec::new();
        while let Some(statement) = next_statement(&mut unit)? {
            statements.push(statement);
        }
        let owners: Vec<Option<CoreId>> = statements.iter().map(|statement| self.owner(statement)).collect();
        match owners[..] {
            [Some(core)] => self.fill(core, &statements[0], index),
            [Some(core), ref others @ ..] if others.iter().all(|other| *other == Some(core)) => {
                self.send(core as usize);
                let mut batch = self.empty_batch();
                let mut locks = Vec::new();
                for statement in &statements {
                    locks.push((statement.db, self.hasher.hash(statement.args[1])));
                    self.put(&mut batch, statement)?;
                }
                let loan = Loan { wants: Wants::Keys(locks), ..Loan::default() };
                batch.transaction = Some(Box::new(Atomic::new(0, loan)));
                self.under_way[core as usize].push_back(index);
                self.out.push((core, Message::Requests(batch)));
                Ok(())
            }
            _ => self.begin_wide(&statements, &owners, index),
        }
    }

    /// The core that a statement concerns; None: all.
    fn owner(&self, statement: &Statement) -> Option<CoreId> {
        let key = statement.args.get(1).filter(|_| statement.slot.is_some())?;
        Some(self.router.owner(self.hasher.key(key).partition))
    }

    fn empty_batch(&mut self) -> Box<Batch> {
        let mut batch = self.spare.pop().unwrap_or_default();
        batch.applies = true;
        batch
    }

    /// Adds a statement to a batch.
    fn put(&self, batch: &mut Batch, statement: &Statement) -> Result<(), ApplyError> {
        let args = &statement.args;
        let (row, key) = statement::resolve(args).ok_or(ApplyError::Unknown)?;
        if statement.db as usize >= self.databases || key.is_some() != statement.slot.is_some() {
            return Err(ApplyError::Unknown);
        }
        let key = key.map(|key| self.hasher.key(key));
        let request = Forwarded {
            row: row.id,
            db: statement.db,
            version: Version::V2,
            no_touch: true,
            counted: false,
            argc: args.len() as u32,
            key: key.map(|key| RequestKey { at: 1, partition: key.partition, hash: key.hash }),
        };
        batch.push(request, args, &Owned::default());
        Ok(())
    }

    /// Adds a statement to what is sent to a core next.
    fn fill(&mut self, core: CoreId, statement: &Statement, index: Index) -> Result<(), ApplyError> {
        let at = core as usize;
        let mut filling = match self.filling[at].take() {
            Some(filling) => filling,
            None => Filling { batch: self.empty_batch(), first: index, bytes: 0 },
        };
        let put = self.put(&mut filling.batch, statement);
        filling.bytes += statement.args.iter().map(|arg| arg.len()).sum::<usize>();
        let full = filling.batch.requests.len() >= BATCH_REQUESTS || filling.bytes >= BATCH_BYTES;
        self.filling[at] = Some(filling);
        if full {
            self.send(at);
        }
        put
    }

    fn send(&mut self, core: usize) {
        if let Some(Filling { batch, first, .. }) = self.filling[core].take() {
            self.under_way[core].push_back(first);
            self.out.push((core as CoreId, Message::Requests(batch)));
        }
    }

    /// Begins a unit that concerns several cores.
    fn begin_wide(
        &mut self,
        statements: &[Statement],
        owners: &[Option<CoreId>],
        index: Index,
    ) -> Result<(), ApplyError> {
        let whole = owners.contains(&None);
        let all = 0..self.router.cores();
        let (mut wants, mut batches) = (BTreeMap::new(), BTreeMap::new());
        for (statement, owner) in statements.iter().zip(owners) {
            for core in all.clone().filter(|core| owner.is_none_or(|owner| owner == *core)) {
                let batch = batches.entry(core).or_insert_with(|| self.empty_batch());
                self.put(batch, statement)?;
                if let (Some(key), Wants::Keys(locks)) =
                    (statement.args.get(1), wants.entry(core).or_insert_with(|| Wants::Keys(Vec::new())))
                {
                    locks.push((statement.db, self.hasher.hash(key)));
                }
            }
        }
        if whole {
            wants = all.map(|core| (core, Wants::Whole)).collect();
        }
        self.flush();
        self.wides = self.wides.wrapping_add(1);
        let cores = wants.keys().copied().collect();
        self.wide = Some(Wide { index, cores, wants, batches, tickets: Vec::new(), claims: false, answers: 0 });
        self.claim_first();
        Ok(())
    }

    /// Makes the first claim, if the cores concerned are through with what comes before.
    fn claim_first(&mut self) {
        let Some(wide) = self.wide.as_mut().filter(|wide| !wide.claims) else { return };
        if wide.cores.iter().all(|&core| self.under_way[core as usize].is_empty()) {
            wide.claims = true;
            self.claim_next();
        }
    }

    /// Claims the keys of the next core, or lets all of them run their part.
    fn claim_next(&mut self) {
        let transaction = self.wides;
        let Some(wide) = &mut self.wide else { return };
        if let Some(&core) = wide.cores.get(wide.tickets.len()) {
            let wants = wide.wants.remove(&core).unwrap_or(Wants::Whole);
            let loan = Box::new(Loan { wants, ..Loan::default() });
            self.out.push((core, Message::Borrow { transaction, loan }));
            return;
        }
        for (core, mut batch) in std::mem::take(&mut wide.batches) {
            let under = wide.tickets.iter().find(|(holder, _)| *holder == core).map(|(_, ticket)| *ticket);
            let loan = Loan { under, ..Loan::default() };
            batch.transaction = Some(Box::new(Atomic::new(transaction, loan)));
            wide.answers += 1;
            self.out.push((core, Message::Requests(batch)));
        }
    }

    /// A core has granted a claim.
    pub fn lent(&mut self, core: CoreId, transaction: u32, lent: &Lent) {
        match self.wide.as_mut().filter(|_| transaction == self.wides) {
            Some(wide) => {
                wide.tickets.push((core, lent.ticket));
                self.claim_next();
            }
            // It was given up in the meantime.
            None => self.give_back(core, lent.ticket),
        }
    }

    fn give_back(&mut self, core: CoreId, ticket: Ticket) {
        self.out.push((core, Message::Return { ticket, entries: Vec::new(), keep: false, seq: 0 }));
    }

    /// Gives a unit up that no core has begun to run.
    fn give_up_wide(&mut self) {
        if let Some(wide) = self.wide.take_if(|wide| wide.answers == 0) {
            wide.tickets.into_iter().for_each(|(core, ticket)| self.give_back(core, ticket));
        }
    }

    /// A batch has been applied.
    pub fn replied(&mut self, core: CoreId, mut batch: Box<Batch>) {
        let part = batch.transaction.as_ref().is_some_and(|atomic| atomic.loan.under.is_some());
        if batch.reset() && self.spare.len() < BATCHES_MAX {
            self.spare.push(batch);
        }
        if !part {
            self.under_way[core as usize].pop_front();
            return self.claim_first();
        }
        let Some(wide) = &mut self.wide else { return };
        wide.answers = wide.answers.saturating_sub(1);
        if wide.answers == 0
            && let Some(wide) = self.wide.take()
        {
            wide.tickets.into_iter().for_each(|(core, ticket)| self.give_back(core, ticket));
        }
    }

    /// A copy begins: everything is dropped.
    pub fn begin_copy(&mut self) {
        self.start_at(0);
        self.give_up_wide();
        self.coverage = None;
        let flush = Statement { db: 0, slot: None, args: vec![b"FLUSHALL"] };
        for core in 0..self.router.cores() {
            // A row of the table that has no arguments cannot be refused.
            let _ = self.fill(core, &flush, 0);
        }
    }

    /// The next frame of a copy; true if it was the last.
    pub fn copy(&mut self, frame: &Frame) -> Result<bool, ApplyError> {
        match (frame.head.kind, &mut self.coverage) {
            (Kind::Begin, None) => {
                let begin = read_begin(frame.payload()).map_err(|_| ApplyError::Order)?;
                self.coverage = Some(Coverage::new(&begin));
            }
            (Kind::Cover, Some(_)) => self.copy_cover(frame)?,
            (Kind::Log, Some(_)) => self.copy_log(frame)?,
            (Kind::End, Some(_)) => {
                self.flush();
                return Ok(true);
            }
            _ => return Err(ApplyError::Order),
        }
        Ok(false)
    }

    fn copy_cover(&mut self, frame: &Frame) -> Result<(), ApplyError> {
        let mut records = frame.payload();
        while let Some((range, mut statements)) = next_record(&mut records)? {
            let Some(coverage) = &mut self.coverage else { return Err(ApplyError::Order) };
            coverage.check(&range).map_err(|_| ApplyError::Order)?;
            coverage.note(&range)?;
            while let Some(statement) = next_statement(&mut statements)? {
                let core = self.owner(&statement).ok_or(ApplyError::Unknown)?;
                self.fill(core, &statement, 0)?;
            }
        }
        Ok(())
    }

    fn copy_log(&mut self, frame: &Frame) -> Result<(), ApplyError> {
        let mut units = frame.payload();
        while let Some(mut unit) = next_unit(&mut units)? {
            while let Some(statement) = next_statement(&mut unit)? {
                let Some(coverage) = &self.coverage else { return Err(ApplyError::Order) };
                match self.owner(&statement) {
                    // What is not covered yet, will contain it.
                    Some(_) if !coverage.has(statement.db, statement.args[1]) && !is_about_more(&statement.args) => {}
                    Some(core) => self.fill(core, &statement, 0)?,
                    None => {
                        coverage.check_keyless(&statement.args).map_err(|_| ApplyError::Order)?;
                        for core in 0..self.router.cores() {
                            self.fill(core, &statement, 0)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
