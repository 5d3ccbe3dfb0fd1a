//! A data core's part in a whole copy of the keyspace: piece by piece, between the turns of its clients.
//!
//! Each piece says what is in one range of keys ([`crate::shard::cover`]) and goes into the feed, at its place among the
//! writes. For that moment no key of the core may be lent: so a piece is a claim on the whole core, which nearly always is
//! granted at once. A large collection is locked, as a transaction would do, and written in slices, while only those who
//! want that very key wait.
//!
//! # Pace
//!
//! The control core grants pieces as fast as whoever takes them can. Beyond that, if there are requests, the core serves
//! its clients after each piece for at least [`REST`] times as long as the piece has taken.
//!
//! # Partitions
//!
//! A run may be limited to some partitions: then it is about what the node leads of them ([`LED`]). Without a limit it is about
//! everything that is here.
//!
//! Owned by one core.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pump::Pump;
use crate::borrow::Ticket;
use crate::engine::Engine;
use crate::log::cover::{self, UPTO_END};
use crate::log::feed::Content;
use crate::route::{PartitionSet, slot_of};
use crate::shard::cover::{Budget, Covered};
use crate::shard::rebuild::Cursor;
use crate::shard::{LED, Shard, statement};

/// How much longer than a piece takes the next one waits, on a core that serves clients; and the longest time that counts.
const REST: u32 = 8;
const REST_MAX: Duration = Duration::from_millis(10);

/// Elements of a large collection in one slice.
const SLICE_ELEMENTS: usize = 1024;

/// How far a run has come on this core. See the module.
pub(super) struct Covering {
    run: u64,
    /// Pieces that may be made.
    pieces: u32,
    /// What comes next; None: everything is covered.
    next: Option<Place>,
    /// A claim has been made and has not been granted.
    claimed: bool,
    slices: Option<Slices>,
    rest_until: Instant,
    /// What clients had been served when the last piece was made.
    served: u64,
    /// The run is about what is led of these.
    only: Option<Arc<PartitionSet>>,
    /// What had happened to the shard when the run began that a run cannot tell ([`Shard::disruptions`]).
    disruptions: u64,
}

#[derive(Clone, Copy)]
struct Place {
    partition: u16,
    db: usize,
    from: u32,
}

/// Large collections that are written in slices. Invariant: not empty.
struct Slices {
    ticket: Ticket,
    place: Place,
    keys: VecDeque<Vec<u8>>,
    /// In the first of them.
    cursor: Cursor,
}

impl Pump {
    /// The control core lets this core make pieces.
    pub(super) fn grant_pieces(&mut self, run: u64, pieces: u32, only: Option<Arc<PartitionSet>>) {
        if pieces == 0 {
            return self.end_covering();
        }
        // Granted before the control core had heard that this core is done.
        if run <= self.covered_run {
            return;
        }
        let shard = &self.engine.shard;
        let next = first_place(shard, shard.partitions().start, only.as_deref());
        let disruptions = shard.disruptions(only.as_deref());
        let covering = match &mut self.covering {
            Some(covering) if covering.run == run => covering,
            _ => {
                self.end_covering();
                self.covering.insert(Covering {
                    run,
                    pieces: 0,
                    next,
                    claimed: false,
                    slices: None,
                    rest_until: Instant::now(),
                    served: 0,
                    only,
                    disruptions,
                })
            }
        };
        covering.pieces += pieces;
    }

    /// Nobody wants the rest.
    fn end_covering(&mut self) {
        if let Some(Covering { slices: Some(slices), .. }) = self.covering.take() {
            self.release_claim(slices.ticket);
            self.settle_claims();
        }
    }

    /// This core has nothing more to say in a run.
    fn covered(&mut self, run: u64) {
        self.covering = None;
        self.covered_run = run;
    }

    /// Something that grows with every request.
    fn served(&self) -> u64 {
        self.engine.net.input_bytes + self.engine.net.hops_in
    }

    /// Whether a piece can be made, now or after a rest.
    #[inline]
    pub(super) fn covers(&self) -> bool {
        self.covering.as_ref().is_some_and(|covering| covering.pieces > 0 && !covering.claimed)
    }

    /// Makes a piece, if one may be made now.
    #[inline]
    pub(super) fn cover_some(&mut self) {
        if self.covers() {
            self.cover_now();
        }
    }

    fn cover_now(&mut self) {
        let Some(covering) = &mut self.covering else { return };
        if Instant::now() < covering.rest_until {
            return;
        }
        if covering.slices.is_some() {
            return self.cover_slice();
        }
        covering.claimed = true;
        let run = covering.run;
        self.claim_cover(run);
    }

    /// The claim on the whole core is granted: covers what comes next.
    pub(super) fn cover(&mut self, run: u64, ticket: Ticket) {
        let (started, served) = (Instant::now(), self.served());
        // The claim may be older than the run that goes on.
        let Some(covering) = self.covering.as_mut().filter(|covering| covering.run == run) else {
            return self.release_claim(ticket);
        };
        covering.claimed = false;
        if covering.is_worthless(&self.engine) {
            self.covered(run);
            self.engine.cover(Content::Spoiled { run }, Vec::new());
            return self.release_claim(ticket);
        }
        let budget = Budget::default();
        let (mut bytes, mut deferred) = (Vec::with_capacity(budget.bytes + budget.bytes / 4), VecDeque::new());
        let (mut last, mut ranges) = (None, 0);
        while let Some(place) = covering.next
            && bytes.len() < budget.bytes
            && deferred.is_empty()
        {
            let shard = &self.engine.shard;
            let Place { partition, db, from } = place;
            let mut upto = None;
            cover::encode(&mut bytes, db as u8, partition, from, |out| {
                upto = shard.cover(db, partition, from, budget, |covered| match covered {
                    Covered::Statement(args) => statement::encode(out, db as u8, Some(slot_of(args[1])), args),
                    Covered::Deferred(key) => deferred.push_back(key.to_vec()),
                });
                upto.map_or(UPTO_END, u64::from)
            });
            last = Some(place);
            ranges += 1;
            covering.next = match upto {
                Some(from) => Some(Place { from, ..place }),
                None if covering.only.is_none() && db + 1 < shard.all_databases() => {
                    Some(Place { db: db + 1, from: 0, partition })
                }
                None => first_place(shard, partition + 1, covering.only.as_deref()),
            };
        }
        covering.pieces -= 1;
        covering.rest(started, served);
        let done = covering.next.is_none() && deferred.is_empty();
        let slices = last.filter(|_| !deferred.is_empty());
        let open = slices.is_some();
        if let Some(place) = slices {
            let hasher = &self.engine.hasher;
            let locks = deferred.iter().map(|key| (place.db as u8, hasher.hash(key))).collect();
            covering.slices = Some(Slices { ticket, place, keys: deferred, cursor: Cursor::default() });
            self.narrow_claim(ticket, locks);
        } else {
            self.release_claim(ticket);
        }
        if done {
            self.covered(run);
        }
        self.engine.cover(Content::Cover { run, ranges, open, done }, bytes);
    }

    /// Writes the next slice of a large collection.
    fn cover_slice(&mut self) {
        let (started, served) = (Instant::now(), self.served());
        let Some(covering) = &mut self.covering else { return };
        if covering.is_worthless(&self.engine) {
            // A partition can be moved while keys of it are locked.
            let run = covering.run;
            self.end_covering();
            self.covered(run);
            return self.engine.cover(Content::Spoiled { run }, Vec::new());
        }
        let Some(slices) = &mut covering.slices else { return };
        let (shard, hasher) = (&self.engine.shard, &self.engine.hasher);
        let Place { partition, db, .. } = slices.place;
        let (mut bytes, mut next) = (Vec::new(), None);
        if let Some(key) = slices.keys.front() {
            // The record is about no further keys.
            cover::encode(&mut bytes, db as u8, partition, 0, |out| {
                // If it has gone meanwhile, that has been said, and there is no more of it.
                next = shard.rebuild_some(db, &hasher.key(key), slices.cursor, SLICE_ELEMENTS, |args| {
                    statement::encode(out, db as u8, Some(slot_of(args[1])), args);
                });
                0
            });
        }
        match next {
            Some(cursor) => slices.cursor = cursor,
            None => {
                slices.keys.pop_front();
                slices.cursor = Cursor::default();
            }
        }
        let freed = slices.keys.is_empty().then_some(slices.ticket);
        covering.pieces -= 1;
        covering.rest(started, served);
        let (run, done) = (covering.run, freed.is_some() && covering.next.is_none());
        if freed.is_some() {
            covering.slices = None;
        }
        if done {
            self.covered(run);
        }
        let ranges = !bytes.is_empty() as u32;
        self.engine.cover(Content::Cover { run, ranges, open: freed.is_none(), done }, bytes);
        if let Some(ticket) = freed {
            self.release_claim(ticket);
            self.settle_claims();
        }
    }
}

/// Where a run goes on that is through with the partitions before this one.
fn first_place(shard: &Shard, partition: u16, only: Option<&PartitionSet>) -> Option<Place> {
    let mut rest = partition..shard.partitions().end;
    let partition = rest.find(|&partition| only.is_none_or(|only| only.has(partition)))?;
    Some(Place { partition, db: LED, from: 0 })
}

impl Covering {
    /// Something has happened that the stream cannot tell of, or what is wanted is not led here.
    fn is_worthless(&self, engine: &Engine) -> bool {
        let shard = &engine.shard;
        // By the newest view, and where its contents are.
        let led = |partition| engine.view.as_ref().is_none_or(|view| view.leads(partition));
        let leads = |partition| led(partition) && engine.is_led(partition);
        let missing = |only: &PartitionSet| shard.partitions().any(|p| only.has(p) && !leads(p));
        self.disruptions != shard.disruptions(self.only.as_deref()) || self.only.as_deref().is_some_and(missing)
    }

    /// Lets clients have their turn after a piece that was begun at `started`, if there are any: `served` is what they have
    /// had by then.
    fn rest(&mut self, started: Instant, served: u64) {
        let now = Instant::now();
        let busy = std::mem::replace(&mut self.served, served) != served;
        self.rest_until = if busy { now + (now - started).min(REST_MAX) * REST } else { now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::forward::Message;
    use crate::net::testing::Cores;
    use crate::route::{CoreId, Hasher};

    #[test]
    fn a_run_visits_the_partitions_that_are_wanted() {
        let shard = Shard::in_cluster(4..12, Hasher::new(16, [1; 4]));
        let visited = |only: Option<&PartitionSet>| {
            let mut visited = Vec::new();
            let mut from = 4;
            while let Some(place) = first_place(&shard, from, only) {
                assert_eq!((place.db, place.from), (LED, 0));
                visited.push(place.partition);
                from = place.partition + 1;
            }
            visited
        };
        assert_eq!(visited(None), (4..12).collect::<Vec<_>>());
        assert_eq!(visited(Some(&[3, 4, 7, 11, 12].into_iter().collect())), [4, 7, 11]);
        assert_eq!(visited(Some(&[0, 15].into_iter().collect())), [] as [u16; 0]);
    }
    /// One core is through with a run of which the other one has not heard when databases are exchanged.
    #[test]
    fn an_exchange_of_databases_is_told_before_it_is_in_the_log() {
        let mut cores = Cores::alone(2);
        cores.tell_all(|| Message::Record(true));
        cores.rest();
        let grant = || Message::Cover { run: 1, pieces: 64, only: None };
        let through = |cores: &Cores, core: CoreId| {
            let whole = |content| matches!(content, Content::Cover { done: true, .. });
            cores.fed.iter().any(|(by, chunk)| *by == core && whole(chunk.content))
        };
        cores.tell(1, grant());
        cores.wait_until("a core has covered everything", |cores| through(cores, 1));
        let mut client = cores.connect(0);
        cores.expect(&mut client, "SWAPDB 0 1", "+OK");
        cores.tell(0, grant());
        cores.wait_until("the other one has, too", |cores| through(cores, 0));
        let said: Vec<Content> = cores.fed.iter().filter(|(core, _)| *core == 0).map(|(_, c)| c.content).collect();
        let place = said.iter().position(|content| *content == Content::Exchanges);
        let rest = &said[place.expect("nothing tells of it")..];
        assert!(matches!(rest, [_, Content::Units(1), Content::Cover { .. }, ..]), "{said:?}");
    }
}
