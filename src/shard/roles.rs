//! Roles by database: which partitions of a shard this node leads, and of which it keeps a copy.
//!
//! In a cluster clients have one database. The shard has two: [`LED`] holds the partitions that this node leads,
//! [`FOLLOWED`] those that it follows. So whatever walks over a database (DBSIZE, SCAN, RANDOMKEY, eviction, active expiry)
//! sees what is led and nothing else, and no command has to ask for a role. A change of role moves the table of a partition
//! from one database to the other ([`Shard::move_partition`]): no entry is copied.
//!
//! # What is followed
//!
//! Another node decides what is over ([`Shard::expiring_of`]): a key whose time has come is not shown, and stays until the
//! leader's log removes it. Nobody looks at the wheels of [`FOLLOWED`]; they are kept in order, for the day on which a
//! partition is led.
//!
//! So what is followed is written only by logs, to which nothing is over ([`Expiring::Never`]): a write that does not see what is
//! hidden would put a second entry beside it.
//!
//! Nothing of it is evicted, so its entries are on no list of the evictor, and their usage is the time of the last access,
//! under every policy: a change of the policy does not concern them. What they take counts as memory.
//!
//! # Watched and awaited keys
//!
//! Where a partition leaves, nothing changes for those who watch its keys: requests about them are sent elsewhere from now
//! on. Where it arrives, all watched keys of it have changed, whether they are there or not, and awaited ones may be ready:
//! nobody has seen what happened to them elsewhere.
//!
//! Owned by one core.

use super::db::Db;
use super::evict::Phase;
use super::expiry::Expiring;
use super::heap::HeapError;
use super::table::Table;
use super::walk::Flushed;
use super::{Clock, Handle, Kind, Shard, heap};
use crate::collection::deadlines::Earliest;
use crate::route::{Hasher, PartitionSet};

/// The database of the partitions that this node leads: the one that clients have.
pub const LED: usize = 0;

/// The database of the partitions that this node follows.
pub const FOLLOWED: usize = 1;

/// How many entries ahead a pass over a table starts to load them.
const PREFETCH_AHEAD: usize = 16;

impl Shard {
    /// The shard of a node of a cluster: it has [`LED`] and [`FOLLOWED`].
    ///
    /// # Panics
    ///
    /// As [`Shard::new`].
    pub fn in_cluster(partitions: std::ops::Range<u16>, hasher: Hasher) -> Shard {
        match Shard::in_cluster_with_reserve(partitions, hasher, heap::RESERVE_BYTES) {
            Ok(shard) => shard,
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) fn in_cluster_with_reserve(
        partitions: std::ops::Range<u16>,
        hasher: Hasher,
        reserve_bytes: usize,
    ) -> Result<Shard, HeapError> {
        let mut shard = Shard::with_reserve(partitions, 2, hasher, reserve_bytes)?;
        shard.own = FOLLOWED;
        Ok(shard)
    }

    /// Whether there are databases for roles.
    pub fn has_roles(&self) -> bool {
        self.own < self.dbs.len()
    }

    /// Whether the database holds what this node follows.
    #[inline(always)]
    pub(super) fn is_followed(&self, db: usize) -> bool {
        db >= self.own
    }

    /// The databases that are this node's own: entries of these are evicted, and expire here.
    pub(super) fn own(&self) -> &[Db] {
        &self.dbs[..self.own]
    }

    /// Who decides what is over in a database.
    #[inline]
    pub(super) fn expiring_of(&self, db: usize) -> Expiring {
        match self.expiring {
            Expiring::Here if self.is_followed(db) => Expiring::Elsewhere,
            expiring => expiring,
        }
    }

    /// The database in which there are keys of a partition; the first one if there are none.
    pub fn home_of(&self, partition: u16) -> usize {
        let local = self.local(partition);
        self.dbs.iter().position(|db| db.table(local).is_some_and(|table| table.len() > 0)).unwrap_or(0)
    }

    /// Keys of one partition of a database.
    pub fn partition_size(&self, db: usize, partition: u16) -> usize {
        self.dbs[db].table(self.local(partition)).map_or(0, |table| table.len())
    }

    /// Grows whenever something happens that a walk over the shard cannot tell of: databases are exchanged, or one of the
    /// partitions of the walk (None: any) is moved.
    pub fn disruptions(&self, only: Option<&PartitionSet>) -> u64 {
        let concerned = |&(partition, _): &(u16, &u64)| only.is_none_or(|only| only.has(partition));
        let moves = self.partitions.clone().zip(&self.moves).filter(concerned);
        self.swaps + moves.map(|(_, count)| count).sum::<u64>()
    }

    /// Moves all entries of a partition from one database to another one, where there is nothing of it afterwards but them:
    /// what was there is dropped.
    ///
    /// The table moves as a whole. That is all there is to do if no key of the database `from` expires and the eviction policy
    /// keeps no lists. Otherwise one pass visits the entries of the partition: those with an expiry change their wheel, and
    /// what is led no more leaves the lists. What is led from now on gets onto the lists in pieces, by [`Shard::work`], or
    /// when it is used. `cargo test --lib shard::roles -- --ignored --nocapture` measures it: 5 ns per entry without a pass, one to
    /// several hundred with one.
    pub fn move_partition(&mut self, partition: u16, from: usize, to: usize) {
        if from == to {
            return;
        }
        self.drop_partition(to, partition);
        self.note_arrival(to, partition);
        let local = self.local(partition);
        self.moves[local] += 1;
        let table = self.dbs[from].take_table(local);
        if table.len() == 0 {
            return;
        }
        self.carry(&table, from, Some(to));
        self.dbs[to].put_table(local, table, &mut self.entries);
        if !self.is_followed(to) {
            self.adopt(to, local, self.is_followed(from));
        }
    }

    /// Removes every key of a partition of `db`; returns how many there were. Their memory is freed by [`Shard::work`], in
    /// pieces. If keys of the database expire, one pass visits the entries of the partition.
    pub fn drop_partition(&mut self, db: usize, partition: u16) -> usize {
        let local = self.local(partition);
        if self.partition_size(db, partition) == 0 {
            return 0;
        }
        self.note_drop(db, partition);
        let table = self.dbs[db].take_table(local);
        let keys = table.len();
        self.carry(&table, db, None);
        let old = Db::of_table(table, &mut self.entries);
        self.flushed.push_back(Flushed::new(old));
        keys
    }

    /// Takes the entries of a table off the wheels and out of the order of timed fields of the database `from`, and puts them into
    /// those of `to`, if there is one. If there is nothing of that, no entry is looked at, however many there are.
    fn carry(&mut self, table: &Table, from: usize, to: Option<usize>) {
        let expires = self.dbs[from].size().expires > 0;
        let timed = self.dbs[from].has_timed_fields();
        let retires = to.is_some_and(|to| self.is_followed(to)) && !self.is_followed(from) && self.evictor.ranks();
        if !(expires || timed || retires) {
            return;
        }
        let (now_s, handles) = (self.now_s(), table.handles().collect::<Vec<Handle>>());
        for (i, &handle) in handles.iter().enumerate() {
            if let Some(&ahead) = handles.get(i + PREFETCH_AHEAD) {
                self.entries.prefetch(ahead);
            }
            if expires && let Some(deadline) = self.entries.expire_at(handle) {
                self.dbs[from].wheel_mut(deadline.clock()).remove(&mut self.entries, handle);
                if let Some(to) = to {
                    self.dbs[to].arm(&mut self.entries, handle, deadline.clock(), self.now);
                    self.expect_expiry(to, Some(deadline));
                }
            }
            if timed && self.entries.kind(handle) == Kind::Hash {
                self.carry_fields(handle, from, to);
            }
            if retires {
                self.evictor.retire(&mut self.entries, handle, now_s);
            }
        }
    }

    fn carry_fields(&mut self, handle: Handle, from: usize, to: Option<usize>) {
        let next = self.field_deadlines(handle);
        if next == Earliest::default() {
            return;
        }
        let key = self.entries.key(handle).to_vec();
        self.dbs[from].plan_fields(&mut self.entries, &key, Earliest::default());
        if let Some(to) = to {
            self.plan_fields(to, &key, next);
        }
    }

    /// The entries of a partition have come into a database of this node's own: they have to be ranked.
    fn adopt(&mut self, db: usize, local: usize, followed: bool) {
        self.pressure.has_victims();
        let ranked = match self.evictor.phase() {
            // The walk that follows comes to all entries.
            Phase::Draining => true,
            // The walk may have passed.
            Phase::Walking => false,
            Phase::Steady => !followed || !self.evictor.adopt(),
            // Where it was, some of it may have been waiting to be ranked.
            Phase::Adopting => false,
        };
        if !ranked {
            self.adopted.push_back((db, local, 0));
        }
    }

    /// The moment at which some key of the shard's own expires, or the next thing that leads to it.
    pub(super) fn next_due(&self) -> [i64; 2] {
        let first = |clock: Clock| self.own().iter().filter_map(|db| db.wheel(clock).next(self.now.of(clock))).min();
        let fields = |clock: Clock| self.own().iter().filter_map(|db| db.next_fields()[clock as usize]).min();
        Clock::ALL.map(|clock| first(clock).into_iter().chain(fields(clock)).min().unwrap_or(super::NEVER_MS))
    }
}

#[cfg(test)]
#[path = "roles_tests.rs"]
mod tests;
