//! Effects: the deterministic form of writes.
//!
//! A replica or a log that replays the effects of a shard in order arrives at the same keyspace, whatever its clock or
//! its random numbers say: `EXPIRE` is written as `PEXPIREAT`, an expiry as `DEL`. Commands are written as their own
//! effect unless they say otherwise.
//!
//! An effect is one or several [`statements`](super::statement), and is encoded where it arises: without a consumer
//! nothing is recorded, and with one nothing is allocated for it but the buffer that all of them share.

use super::statement::{self, encode_unit};
use crate::route::slot_of;

/// The name of a transaction, unique among those of one node.
pub type TransactionId = u64;

/// One statement, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    pub db: u8,
    /// The slot of its keys; None: it has none, and concerns every core.
    pub slot: Option<u16>,
    /// Statements of one unit are replayed together: the units of a core, counted since they were last taken.
    pub unit: usize,
    pub args: Vec<Vec<u8>>,
}

/// The effects of one shard since they were last taken.
#[derive(Debug, Default)]
pub struct Effects {
    enabled: bool,
    /// Units that are complete, and how many.
    units: Vec<u8>,
    count: u32,
    /// Statements of the unit that has been begun.
    statements: Vec<u8>,
    begun: bool,
}

impl Effects {
    /// Switches recording; the feed of the log is the consumer.
    pub fn enable(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    #[inline]
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// What is recorded from now on belongs together, until [`Effects::end_unit`] or [`Effects::take_statements`].
    pub fn begin_unit(&mut self) {
        self.begun = true;
    }

    /// Makes a unit of what was recorded since it was begun.
    pub fn end_unit(&mut self) {
        self.begun = false;
        if !self.statements.is_empty() {
            let statements = std::mem::take(&mut self.statements);
            self.push_unit(&statements);
            self.statements = statements;
            self.statements.clear();
            self.statements.shrink_to(KEPT_BYTES_MAX);
        }
    }

    /// Ends a unit that is to become part of a larger one, elsewhere: its statements.
    pub fn take_statements(&mut self) -> Vec<u8> {
        self.begun = false;
        std::mem::take(&mut self.statements)
    }

    /// Whether a unit has been begun.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Records statements as one unit.
    pub fn push_unit(&mut self, statements: &[u8]) {
        self.count += encode_unit(&mut self.units, |out| out.extend_from_slice(statements)) as u32;
    }

    /// Records a write of keys of one slot, of which the first argument is one.
    #[inline]
    pub fn push(&mut self, db: usize, args: &[&[u8]]) {
        if self.enabled {
            self.record(db, Some(slot_of(args[1])), args);
        }
    }

    /// Records a write without keys, which concerns every core.
    pub fn push_everywhere(&mut self, db: usize, args: &[&[u8]]) {
        if self.enabled {
            self.record(db, None, args);
        }
    }

    fn record(&mut self, db: usize, slot: Option<u16>, args: &[&[u8]]) {
        if self.begun {
            return statement::encode(&mut self.statements, db as u8, slot, args);
        }
        self.count += encode_unit(&mut self.units, |out| statement::encode(out, db as u8, slot, args)) as u32;
    }

    /// Units that have not been taken.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of these.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.units.len()
    }

    /// The units that have not been taken, encoded.
    pub fn units(&self) -> &[u8] {
        &self.units
    }

    /// Takes the units, encoded, and their number.
    pub fn take_units(&mut self) -> (Vec<u8>, u32) {
        (std::mem::take(&mut self.units), std::mem::take(&mut self.count))
    }

    /// Takes the units, decoded.
    pub fn drain(&mut self) -> std::vec::IntoIter<Effect> {
        let (units, _) = self.take_units();
        decode(&units).into_iter()
    }
}

/// A buffer of more bytes is not kept for the next unit.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Decodes units that were encoded here.
pub fn decode(mut units: &[u8]) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut unit = 0;
    while let Ok(Some(mut statements)) = statement::next_unit(&mut units) {
        while let Ok(Some(statement)) = statement::next_statement(&mut statements) {
            let args = statement.args.iter().map(|arg| arg.to_vec()).collect();
            effects.push(Effect { db: statement.db, slot: statement.slot, unit, args });
        }
        unit += 1;
    }
    effects
}
