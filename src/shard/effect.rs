//! Effects: the deterministic form of writes.
//!
//! A replica or a log that replays the effects of a shard in order arrives at the same keyspace, whatever its clock or
//! its random numbers say: `EXPIRE` is written as `PEXPIREAT`, an expiry as `DEL`. Commands are written as their own
//! effect unless they say otherwise.
//!
//! An effect is a list of [`statements`](super::statement), each of which names one key in one database, or no key at all:
//! `MSET a 1 b 2` is `SET a 1`, `SET b 2`, and a value that moves or is computed from others is written anew where it is
//! now ([`super::rebuild`]). So a statement can be replayed by whoever owns its key, whatever the number of partitions and
//! cores, and be left out where its key is not wanted. (Keys of one slot would do for the former, not for the latter.)
//!
//! A replay must run while no key expires by itself, as on a replica: expiries arrive as effects.
//!
//! Effects are encoded where they arise: without a consumer nothing is recorded, and with one nothing is allocated for
//! them but the buffer that all of them share.

use super::statement;
use crate::route::slot_of;

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
///
/// Invariant: `units` is `count` complete units, and, if one has been begun, from there on the statements of that.
#[derive(Debug, Default)]
pub struct Effects {
    enabled: bool,
    units: Vec<u8>,
    count: u32,
    /// Where the unit lies that has been begun.
    begun: Option<usize>,
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

    /// What is recorded from now on belongs together, until [`Effects::end_unit`] or [`Effects::take_statements`]. False:
    /// it does already, or nothing is recorded.
    #[inline]
    pub fn begin_unit(&mut self) -> bool {
        self.enabled && self.begin_recorded()
    }

    /// Kept out of line: without a consumer nothing of this is ever run.
    #[inline(never)]
    fn begin_recorded(&mut self) -> bool {
        if self.begun.is_some() {
            return false;
        }
        self.begun = Some(statement::begin_unit(&mut self.units));
        true
    }

    /// Makes a unit of what was recorded since it was begun.
    #[inline(never)]
    pub fn end_unit(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.count += statement::end_unit(&mut self.units, begun) as u32;
        }
    }

    /// Ends a unit that is to become part of a larger one, elsewhere: its statements.
    pub fn take_statements(&mut self) -> Vec<u8> {
        self.begun.take().map_or(Vec::new(), |begun| statement::take_unit(&mut self.units, begun))
    }

    /// Records statements as one unit.
    pub fn push_unit(&mut self, statements: &[u8]) {
        debug_assert!(self.begun.is_none());
        let begun = statement::begin_unit(&mut self.units);
        self.units.extend_from_slice(statements);
        self.count += statement::end_unit(&mut self.units, begun) as u32;
    }

    /// Records a statement whose first argument is its one key.
    #[inline]
    pub fn push(&mut self, db: usize, args: &[&[u8]]) {
        if self.enabled {
            self.record_key(db, args);
        }
    }

    #[inline(never)]
    fn record_key(&mut self, db: usize, args: &[&[u8]]) {
        self.record(db, Some(slot_of(args[1])), args);
    }

    /// Records a statement without a key, which concerns every core.
    pub fn push_everywhere(&mut self, db: usize, args: &[&[u8]]) {
        if self.enabled {
            self.record(db, None, args);
        }
    }

    fn record(&mut self, db: usize, slot: Option<u16>, args: &[&[u8]]) {
        let alone = self.begin_unit();
        statement::encode(&mut self.units, db as u8, slot, args);
        if alone {
            self.end_unit();
        }
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
