//! Digests: whether two partitions hold the same, told by a number.
//!
//! The digest of a partition is the sum of those of its keys, modulo 2^128, and that of a key is the first half of a SHA-256
//! over what anybody can see of it: type, name, moment of expiry, and value. Lists go in as they are ordered. Of sets,
//! sorted sets and hashes it is the number of elements and the sum of their own digests. So nothing counts but contents:
//! neither the order in which anything came, nor how it is stored, nor the seeds of this process or its number of cores; and
//! digests of parts can be added.
//!
//! A digest is about a moment, which must not be over: what expires until then, keys and fields, is left out. So two nodes can
//! be compared although their clocks go on.
//!
//! Scores of -0 count as 0, which they become in a small sorted set. The end of a duration is the moment that PEXPIRETIME shows:
//! where it is copied, it is that moment.
//!
//! No state. Owned by the core whose shard holds the partition.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::{EntryRef, Handle, Kind, Now, Shard, UnixMs};
use crate::collection::ValueRef;
use crate::collection::hash;
use crate::collection::list::List;
use crate::collection::set::Set;
use crate::collection::sorted::SortedSet;

/// What is told of some keys. The default is that of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    pub keys: u64,
    pub sum: u128,
}

impl Digest {
    /// That of both, which have no key in common.
    pub fn and(self, other: Digest) -> Digest {
        Digest { keys: self.keys + other.keys, sum: self.sum.wrapping_add(other.sum) }
    }

    /// That of all databases, given those of each.
    pub fn of_databases(digests: &[Digest]) -> Digest {
        let mut all = Digest::default();
        for (db, digest) in digests.iter().enumerate().filter(|(_, digest)| digest.keys > 0) {
            let [low, high] = [digest.sum as u64, (digest.sum >> 64) as u64];
            let sum = Parts::new().number(db as u64).number(low).number(high).sum();
            all = all.and(Digest { keys: digest.keys, sum });
        }
        all
    }

    /// The number of keys, and the sum as [`fmt::Display`] writes it.
    pub fn parse(keys: u64, sum: &str) -> Option<Digest> {
        let digits = sum.len() == 32 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        let sum = u128::from_str_radix(sum, 16).ok().filter(|_| digits)?;
        Some(Digest { keys, sum })
    }
}

/// The sum, as 32 hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.sum)
    }
}

/// What is hashed: parts of which each says where it ends.
struct Parts(Sha256);

impl Parts {
    fn new() -> Parts {
        Parts(Sha256::new())
    }

    fn number(mut self, number: u64) -> Parts {
        self.0.update(number.to_le_bytes());
        self
    }

    fn text(self, text: &[u8]) -> Parts {
        let mut parts = self.number(text.len() as u64);
        parts.0.update(text);
        parts
    }

    fn moment(self, moment: Option<UnixMs>) -> Parts {
        // No moment is as late as that.
        self.number(moment.unwrap_or(UnixMs::MIN) as u64)
    }

    fn sum(mut self) -> u128 {
        let hash = self.0.finalize_reset();
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        u128::from_le_bytes(half)
    }
}

/// The elements of a collection without an order.
#[derive(Default)]
struct Elements {
    count: u64,
    sum: u128,
}

impl Elements {
    fn add(&mut self, element: Parts) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(element.sum());
    }
}

impl Shard {
    /// The digest of a partition of `db` at a moment that is not over. Neither an access nor an expiry; what is lent is missing.
    pub fn digest(&self, db: usize, partition: u16, at: UnixMs) -> Digest {
        let Some(table) = self.dbs[db].table(self.local(partition)) else { return Digest::default() };
        let of = |handle: Handle| digest(self.entries.key(handle), self.entry(handle), self.now, at);
        table.handles().filter_map(of).fold(Digest::default(), |all, sum| all.and(Digest { keys: 1, sum }))
    }
}

/// The digest of one key; None: it is over by then.
fn digest(key: &[u8], entry: EntryRef, now: Now, at: UnixMs) -> Option<u128> {
    // Nobody can see an earlier one.
    let expire_at = entry.expire_at.map(|moment| moment.max(1));
    if expire_at.is_some_and(|moment| moment <= at) {
        return None;
    }
    let parts = Parts::new().text(entry.kind.name().as_bytes()).text(key).moment(expire_at);
    if entry.kind == Kind::String {
        return Some(parts.text(entry.value.bytes()).sum());
    }
    let value = entry.collection();
    if entry.kind == Kind::List {
        let list = List::new(value);
        let parts = parts.number(list.len() as u64);
        return Some(list.iter_from(0).fold(parts, Parts::text).sum());
    }
    let elements = elements(entry.kind, value, now, at);
    (elements.count > 0).then(|| {
        let [low, high] = [elements.sum as u64, (elements.sum >> 64) as u64];
        parts.number(elements.count).number(low).number(high).sum()
    })
}

fn elements(kind: Kind, value: ValueRef, now: Now, at: UnixMs) -> Elements {
    let mut elements = Elements::default();
    match kind {
        Kind::Set => {
            let mut digits = itoa::Buffer::new();
            Set::new(value).iter().for_each(|member| elements.add(Parts::new().text(member.text(&mut digits))));
        }
        Kind::SortedSet => SortedSet::new(value).iter().for_each(|(member, score)| {
            // This makes 0 of -0.
            elements.add(Parts::new().text(member).number((score + 0.0).to_bits()));
        }),
        _ => hash::visit_with_deadlines(value, now, |(field, text), deadline| {
            let deadline = deadline.map(|deadline| now.wall_of(deadline));
            if deadline.is_none_or(|moment| moment > at) {
                elements.add(Parts::new().text(field).text(text).moment(deadline));
            }
        }),
    }
    elements
}

#[cfg(test)]
#[path = "digest_tests.rs"]
mod tests;
