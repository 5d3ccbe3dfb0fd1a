//! The filter: which units of a frame concern whom.
//!
//! A frame is gone through once; units are not copied one by one, but in stretches: most often all of a frame concerns
//! everybody, or nobody.
//!
//! No state.

use std::rc::Rc;

use super::{PartitionId, partition_of};
use crate::shard::statement::{Malformed, begin_unit, end_unit, next_encoded, next_unit};

/// What a unit concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nothing that this node leads: what it has applied as a follower.
    Foreign,
    /// One partition.
    One(PartitionId),
    /// All partitions: a statement without a key.
    Everywhere,
    /// Several partitions, or some of its statements.
    Mixed,
}

/// A unit, where it lies in its frame.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    pub scope: Scope,
    /// From its header on, in the units of the frame.
    pub start: usize,
    pub end: usize,
    pub statements: &'a [u8],
}

impl Unit<'_> {
    /// Adds the partitions that it belongs to, of so many, if they are several, and it so belongs to all their followers together. It
    /// is well-formed.
    pub fn add_spanned(&self, partitions: usize, spanned: &mut Vec<PartitionId>) {
        if !matches!(self.scope, Scope::Mixed | Scope::Everywhere) {
            return;
        }
        let mut targets = Targets::new(self.statements, partitions);
        let mut own = Vec::new();
        while let Ok(Some((target, _))) = targets.next_statement() {
            match target {
                Target::Foreign => {}
                Target::One(partition) => own.push(partition),
                Target::Everywhere => own.extend(0..partitions as PartitionId),
            }
        }
        own.sort_unstable();
        own.dedup();
        if own.len() > 1 {
            spanned.extend(own);
        }
    }
}

/// What one statement of a unit concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Foreign,
    One(PartitionId),
    Everywhere,
}

/// Goes through the units of a frame; of so many partitions.
#[derive(Clone, Debug)]
pub struct Units<'a> {
    rest: &'a [u8],
    len: usize,
    partitions: usize,
}

impl<'a> Units<'a> {
    pub fn new(units: &'a [u8], partitions: usize) -> Units<'a> {
        Units { rest: units, len: units.len(), partitions }
    }

    /// The next unit; None at the end.
    pub fn next_unit(&mut self) -> Result<Option<Unit<'a>>, Malformed> {
        let start = self.len - self.rest.len();
        let Some(statements) = next_unit(&mut self.rest)? else { return Ok(None) };
        let mut targets = Targets { rest: statements, partitions: self.partitions };
        let mut scope = None;
        while let Some((target, _)) = targets.next_statement()? {
            let this = match target {
                Target::Foreign => Scope::Foreign,
                Target::One(partition) => Scope::One(partition),
                Target::Everywhere => Scope::Everywhere,
            };
            if *scope.get_or_insert(this) != this {
                scope = Some(Scope::Mixed);
                // The rest has only to be well-formed.
            }
        }
        let scope = scope.ok_or(Malformed::Empty)?;
        Ok(Some(Unit { scope, start, end: self.len - self.rest.len(), statements }))
    }
}

/// Goes through the statements of a unit.
#[derive(Clone, Debug)]
pub struct Targets<'a> {
    rest: &'a [u8],
    partitions: usize,
}

impl<'a> Targets<'a> {
    pub fn new(statements: &'a [u8], partitions: usize) -> Targets<'a> {
        Targets { rest: statements, partitions }
    }

    /// The next statement, and what it concerns.
    #[inline]
    pub fn next_statement(&mut self) -> Result<Option<(Target, &'a [u8])>, Malformed> {
        let Some(statement) = next_encoded(&mut self.rest)? else { return Ok(None) };
        // A statement begins with its database; 0 has what this node leads.
        let target = match statement.slot {
            _ if statement.bytes[0] != 0 => Target::Foreign,
            Some(slot) => Target::One(partition_of(slot, self.partitions)),
            None => Target::Everywhere,
        };
        Ok(Some((target, statement.bytes)))
    }
}

/// Gathers some units of a frame.
#[derive(Clone, Debug, Default)]
pub struct Gather {
    buffer: Vec<u8>,
    /// Units that are taken whole and not copied yet, as they lie in the frame.
    start: usize,
    end: usize,
}

impl Gather {
    /// Takes a unit whole.
    #[inline]
    pub fn take(&mut self, units: &[u8], start: usize, end: usize) {
        if self.end != start {
            self.copy(units);
            self.start = start;
        }
        self.end = end;
    }

    fn copy(&mut self, units: &[u8]) {
        self.buffer.extend_from_slice(&units[self.start..self.end]);
    }

    /// Takes the statements of a unit that `wants` accepts; false if there are none.
    pub fn take_some(
        &mut self,
        units: &[u8],
        unit: &Unit,
        partitions: usize,
        mut wants: impl FnMut(Target) -> bool,
    ) -> Result<bool, Malformed> {
        self.copy(units);
        (self.start, self.end) = (unit.end, unit.end);
        let begun = begin_unit(&mut self.buffer);
        let mut targets = Targets::new(unit.statements, partitions);
        while let Some((target, bytes)) = targets.next_statement()? {
            if wants(target) {
                self.buffer.extend_from_slice(bytes);
            }
        }
        Ok(end_unit(&mut self.buffer, begun))
    }

    /// What was taken, and the next frame can come. `whole` is a place for the bytes of all units, which all that take all of
    /// them share. None: nothing.
    pub fn finish(&mut self, units: &[u8], whole: &mut Option<Rc<[u8]>>) -> Option<Rc<[u8]>> {
        let all = self.buffer.is_empty() && self.start == 0 && self.end == units.len();
        let bytes = if all {
            Some(whole.get_or_insert_with(|| Rc::from(units)).clone())
        } else {
            self.copy(units);
            Some(Rc::from(&self.buffer[..]))
        };
        self.buffer.clear();
        (self.start, self.end) = (0, 0);
        bytes.filter(|bytes| !bytes.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::statement::{encode, encode_unit};

    /// Database and slot of a statement.
    type Raw = (u8, Option<u16>);

    /// Partition `p` of four has slots from `p * 4096` on.
    fn frame(units: &[&[Raw]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (at, unit) in units.iter().enumerate() {
            encode_unit(&mut bytes, |out| {
                for (db, slot) in *unit {
                    encode(out, *db, *slot, &[b"SET", b"key", &[at as u8]]);
                }
            });
        }
        bytes
    }

    fn gathered(units: &[u8], wants: impl Fn(Target) -> bool + Copy) -> Option<Vec<u8>> {
        let mut gather = Gather::default();
        let mut all = Units::new(units, 4);
        while let Some(unit) = all.next_unit().unwrap() {
            let target = match unit.scope {
                Scope::One(partition) => Target::One(partition),
                Scope::Foreign => Target::Foreign,
                Scope::Everywhere => Target::Everywhere,
                Scope::Mixed => {
                    gather.take_some(units, &unit, 4, wants).unwrap();
                    continue;
                }
            };
            if wants(target) {
                gather.take(units, unit.start, unit.end);
            }
        }
        gather.finish(units, &mut None).map(|bytes| bytes.to_vec())
    }

    #[test]
    fn units_are_kept_for_those_whom_they_concern() {
        let (a, b, c) = ((0, Some(0)), (0, Some(4096)), (0, Some(9000)));
        let units = frame(&[&[a], &[b, b], &[(1, Some(0))], &[a, b], &[(0, None)], &[(1, Some(0)), c]]);
        let of = |partition| {
            move |target| matches!(target, Target::One(p) if p == partition) || target == Target::Everywhere
        };
        let mut scopes = Vec::new();
        let mut all = Units::new(&units, 4);
        while let Some(unit) = all.next_unit().unwrap() {
            scopes.push(unit.scope);
        }
        let mixed = Scope::Mixed;
        assert_eq!(scopes, [Scope::One(0), Scope::One(1), Scope::Foreign, mixed, Scope::Everywhere, mixed]);
        let expected = |units: &[(u8, &[Raw])]| {
            let mut bytes = Vec::new();
            for (at, unit) in units {
                encode_unit(&mut bytes, |out| {
                    unit.iter().for_each(|(db, slot)| encode(out, *db, *slot, &[b"SET", b"key", &[*at]]))
                });
            }
            Some(bytes)
        };
        let none = (0, None);
        assert_eq!(gathered(&units, of(0)), expected(&[(0, &[a]), (3, &[a]), (4, &[none])]));
        assert_eq!(gathered(&units, of(1)), expected(&[(1, &[b, b]), (3, &[b]), (4, &[none])]));
        assert_eq!(gathered(&units, of(2)), expected(&[(4, &[none]), (5, &[c])]));
        assert_eq!(gathered(&units, |_| true), Some(units.clone()));
        assert_eq!(gathered(&units, |_| false), None);
    }

    #[test]
    fn those_who_take_all_share_it() {
        let units = frame(&[&[(0, Some(0))], &[(0, Some(1))]]);
        let (mut whole, mut gathers) = (None, [Gather::default(), Gather::default()]);
        let mut all = Units::new(&units, 4);
        while let Some(unit) = all.next_unit().unwrap() {
            gathers.iter_mut().for_each(|gather| gather.take(&units, unit.start, unit.end));
        }
        let [a, b] = gathers.map(|mut gather| gather.finish(&units, &mut whole).unwrap());
        assert!(Rc::ptr_eq(&a, &b) && a[..] == units[..]);
    }
}
