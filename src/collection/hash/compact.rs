//! The compact form of a hash, and where the deadlines of its fields are.
//!
//! ```text
//! pairs      field | value | field | value ...                  a hash no field of which ever had a deadline
//! timed      field | value | field | value ... | table          a pack with an odd number of items
//! table      index u16, deadline i64 | ...                      for each field with a deadline, in no order
//! ```
//!
//! A field without a deadline pays nothing, and one with a deadline ten bytes. The pairs are the same in both forms, so
//! whoever reads values only leaves the last item out. The table stays when it has become empty, as in Redis 7.4 (encoding
//! `listpackex`); it goes with the last field.
//!
//! Numbers are little-endian. Owned by the core whose shard holds the hash.

use super::super::deadlines::Earliest;
use super::super::dict::Pair;
use super::super::pack::{self, Pack};
use crate::shard::{Deadline, Now};

/// Bytes of a field in the table.
const ROW_BYTES: usize = 10;
const _: () = assert!(pack::ITEMS_MAX <= u16::MAX as usize);

/// Fields and values of a compact hash, and its table if it has one.
#[inline]
pub(super) fn parts(bytes: &[u8]) -> (Pack<'_>, Option<&[u8]>) {
    let pack = Pack::new(bytes);
    if pack.len().is_multiple_of(2) {
        return (pack, None);
    }
    let (pairs, table) = pack.split_at(pack.len() - 1);
    (pairs, Some(table.item(table.start()).0))
}

/// Whether there is a table.
#[inline]
pub(super) fn is_timed(bytes: &[u8]) -> bool {
    !Pack::new(bytes).len().is_multiple_of(2)
}

/// Indices and deadlines of the fields that have one.
pub(super) fn rows(table: &[u8]) -> impl Iterator<Item = (usize, Deadline)> {
    table.as_chunks::<ROW_BYTES>().0.iter().map(|row| {
        let [i0, i1, deadline @ ..] = *row;
        (u16::from_le_bytes([i0, i1]) as usize, Deadline::from_bits(i64::from_le_bytes(deadline)))
    })
}

/// A compact hash without the fields that are over. On a replica these stay until the primary has removed them.
#[derive(Clone, Copy, Debug)]
pub struct PackAt<'a> {
    pairs: Pack<'a>,
    table: &'a [u8],
    now: Now,
}

impl<'a> PackAt<'a> {
    pub(super) fn new(bytes: &'a [u8], now: Now) -> Self {
        let (pairs, table) = parts(bytes);
        PackAt { pairs, table: table.unwrap_or_default(), now }
    }

    /// Fields with their values, as they were added.
    pub(super) fn iter(self) -> impl Iterator<Item = Pair<'a>> {
        let over =
            move |at: usize| rows(self.table).any(|(index, deadline)| index == at && self.now.has_reached(deadline));
        super::pairs(self.pairs).enumerate().filter(move |(at, _)| !over(*at)).map(|(_, pair)| pair)
    }
}

/// Index and offset of a field.
pub(super) fn position(pairs: &Pack, field: &[u8]) -> Option<(usize, usize)> {
    let mut offset = pairs.start();
    for index in 0..pairs.len() / 2 {
        let (item, value) = pairs.item(offset);
        if item == field {
            return Some((index, offset));
        }
        offset = pairs.item(value).1;
    }
    None
}

/// The deadline of a field that is there (None: it has none), or None if it is not.
pub(super) fn deadline(bytes: &[u8], field: &[u8]) -> Option<Option<Deadline>> {
    let (pairs, table) = parts(bytes);
    let (index, _) = position(&pairs, field)?;
    Some(table.and_then(|table| rows(table).find(|row| row.0 == index)).map(|row| row.1))
}

/// The earliest moment on each clock.
pub(super) fn next(bytes: &[u8]) -> Earliest {
    let mut next = Earliest::default();
    for (_, deadline) in parts(bytes).1.into_iter().flat_map(rows) {
        let first = &mut next[deadline.clock() as usize];
        *first = Some(first.map_or(deadline.ms(), |ms| ms.min(deadline.ms())));
    }
    next
}

/// Fields whose deadlines have come.
pub(super) fn due(bytes: &[u8], now: Now) -> usize {
    parts(bytes).1.into_iter().flat_map(rows).filter(|row| now.has_reached(row.1)).count()
}

/// Puts these rows into the place of the table, which is made if there is none.
fn set_table(bytes: &mut Vec<u8>, rows: impl Iterator<Item = (usize, Deadline)>) {
    let mut table = Vec::new();
    for (index, deadline) in rows {
        table.extend_from_slice(&(index as u16).to_le_bytes());
        table.extend_from_slice(&deadline.to_bits().to_le_bytes());
    }
    if is_timed(bytes) {
        let offset = table_offset(bytes);
        pack::replace(bytes, offset, &table);
    } else {
        pack::push_back(bytes, &table);
    }
}

fn table_offset(bytes: &[u8]) -> usize {
    let pack = Pack::new(bytes);
    pack.before(pack.end())
}

/// Gives field `index` a deadline, or takes it away; returns whether there is a change.
pub(super) fn set_deadline(bytes: &mut Vec<u8>, index: usize, deadline: Option<Deadline>) -> bool {
    let old: Vec<(usize, Deadline)> = parts(bytes).1.into_iter().flat_map(rows).collect();
    if old.iter().find(|row| row.0 == index).map(|row| row.1) == deadline {
        return false;
    }
    let others = old.into_iter().filter(|row| row.0 != index);
    set_table(bytes, others.chain(deadline.map(|deadline| (index, deadline))));
    true
}

/// Adds a field that is not there yet.
pub(super) fn push(bytes: &mut Vec<u8>, field: &[u8], text: &[u8]) {
    let end = if is_timed(bytes) { table_offset(bytes) } else { bytes.len() };
    pack::insert(bytes, end, &[field, text]);
}

/// Removes field `index`, which is at `offset`.
pub(super) fn remove(bytes: &mut Vec<u8>, index: usize, offset: usize) {
    pack::remove(bytes, offset, 2);
    if !is_timed(bytes) {
        return;
    }
    if Pack::new(bytes).len() == 1 {
        return bytes.clear();
    }
    let old: Vec<(usize, Deadline)> = parts(bytes).1.into_iter().flat_map(rows).collect();
    if old.iter().any(|row| row.0 >= index) {
        let others = old.into_iter().filter(|row| row.0 != index);
        set_table(bytes, others.map(|(at, deadline)| (at - (at > index) as usize, deadline)));
    }
}

/// Removes the fields whose deadlines have come, after showing each to `seen`; their number. One pass, however many.
pub(super) fn take_due(bytes: &mut Vec<u8>, now: Now, mut seen: impl FnMut(&[u8], Deadline)) -> usize {
    let (pairs, table) = parts(bytes);
    let mut rows: Vec<(usize, Deadline)> = table.into_iter().flat_map(rows).collect();
    let due = rows.iter().filter(|row| now.has_reached(row.1)).count();
    if due == 0 {
        return 0;
    }
    rows.sort_unstable_by_key(|row| row.0);
    let (mut kept, mut kept_rows) = (Vec::with_capacity(bytes.len()), Vec::new());
    let (mut offset, mut next_row, mut index) = (pairs.start(), 0, 0);
    for at in 0..pairs.len() / 2 {
        let (field, value) = pairs.item(offset);
        let (text, next) = pairs.item(value);
        offset = next;
        if let Some(&(_, deadline)) = rows.get(next_row).filter(|row| row.0 == at) {
            next_row += 1;
            if now.has_reached(deadline) {
                seen(field, deadline);
                continue;
            }
            kept_rows.push((index, deadline));
        }
        pack::push_back(&mut kept, field);
        pack::push_back(&mut kept, text);
        index += 1;
    }
    if index > 0 {
        set_table(&mut kept, kept_rows.into_iter());
    }
    *bytes = kept;
    due
}

/// Checks the table.
#[cfg(test)]
pub(super) fn validate(bytes: &[u8]) {
    Pack::new(bytes).validate();
    let (pairs, table) = parts(bytes);
    let mut indices: Vec<usize> = table.into_iter().flat_map(rows).map(|row| row.0).collect();
    indices.sort_unstable();
    assert!(indices.is_sorted_by(|a, b| a < b) && indices.last().is_none_or(|&last| last < pairs.len() / 2));
    assert!(table.is_none_or(|table| table.len().is_multiple_of(ROW_BYTES) && !pairs.is_empty()));
}
