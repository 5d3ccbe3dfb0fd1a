//! The feed: how a data core tells the control core what it has changed.
//!
//! Units gather where they arise ([`crate::shard::Effects`]) and leave as [`Chunk`]s, one message for many. Each unit has
//! a *sequence number*, 1, 2, 3, ... on its core. What a core says first, the log has first; and between cores a chunk
//! names what must come before it ([`After`]): the units of the owners whose keys a transaction had borrowed, and for
//! the owner the transaction's unit when its keys have come back. [`super::merge`] keeps to that.
//!
//! # When a chunk leaves
//!
//! To wake the control core costs more than to execute a command. So a chunk waits for some milliseconds
//! ([`LINGER_MS`], [`LINGER_REPLICATED_MS`]), or until it has [`CHUNK_BYTES`], unless somebody waits for the log to have
//! it ([`Feed::hurry`]). Who waits for this node's disk ([`Feed::hurry_to_disk`]) gains nothing while an earlier chunk is
//! being synced: then the next one gathers until that has ended, and one sync serves many clients.
//!
//! # Sequence numbers without a unit
//!
//! A client that reads a key after a transaction of another core has changed it may have to wait until the transaction is
//! safe. Its core knows its own sequence numbers only, so it takes one for "the unit of the other core is in the log":
//! a chunk without units, with an [`After`].
//!
//! Invariant: while the feed is off nothing is recorded, and sequence numbers stand still.
//!
//! Owned by one data core.

use std::collections::VecDeque;

use super::durability::Durability;
use crate::route::{CoreId, SLOTS};
use crate::shard::statement::{next_unit, slots};
use crate::shard::{Effects, SteadyMs};

/// A place in the feed of a core: the number of units, of marks and of pieces of streams up to there.
pub type Seq = u64;

/// A chunk leaves when it has so many bytes.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// The longest that a chunk waits for more, ms.
pub const LINGER_MS: i64 = 10;

/// The same while there are replicas, which are not to be behind by more.
pub const LINGER_REPLICATED_MS: i64 = 1;

/// Bytes that a core has sent and the control core has not taken, above which its clients' writes wait.
pub const UNTAKEN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What must be in the log before a chunk: the feed of `core` up to `seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    pub core: CoreId,
    pub seq: Seq,
}

/// Something that a core says, in order: units mostly.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Encoded units, or cover records ([`super::cover`]).
    pub bytes: Vec<u8>,
    pub crc: u32,
    pub content: Content,
    /// The sequence number that is reached with it.
    pub last_seq: Seq,
    pub after: Vec<After>,
    /// Connections of this core may have to wait for their replies, and for the disk.
    pub holds: Holds,
}

/// What connections of a core may have to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// For this node's disk.
    pub disk: bool,
    /// For replicas.
    pub replicas: bool,
}

impl Holds {
    /// What replies of this durability wait for.
    pub fn of(durability: Durability) -> Holds {
        let disk = matches!(durability, Durability::Disk | Durability::QuorumDisk);
        Holds { disk, replicas: durability.is_quorum() }
    }

    /// One as well as the other.
    pub fn and(self, other: Holds) -> Holds {
        Holds { disk: self.disk | other.disk, replicas: self.replicas | other.replicas }
    }
}

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// So many units.
    Units(u32),
    /// So many cover records of a run. `open`: keys stay locked until more are made; `done`: the last ones of this core.
    Cover { run: u64, ranges: u32, open: bool, done: bool },
    /// Everything before is through, and no write comes after it.
    Barrier { stop: u64 },
    /// A run has become worthless: databases have been exchanged meanwhile, or a partition was moved, or is not led here.
    Spoiled { run: u64 },
    /// What comes next exchanges databases: any run that has begun is worthless.
    Exchanges,
    /// Everything before was executed under an older view of the cluster than this one, and nothing that comes is.
    Seen { view: u64 },
}

impl Default for Content {
    fn default() -> Self {
        Content::Units(0)
    }
}

/// The sending side. See the module.
#[derive(Debug)]
pub struct Feed {
    on: bool,
    /// All units that have been taken out of the shard have numbers up to this.
    seq: Seq,
    ready: VecDeque<Chunk>,
    after: Vec<After>,
    /// When the oldest unit that has not left was seen, steady ms.
    waiting_since_ms: Option<SteadyMs>,
    hurry: bool,
    /// The same, once what went to the disk before is durable: `synced` has reached `syncing`.
    hurry_to_disk: bool,
    /// How far the last chunk reaches for which somebody waits until it is on disk.
    syncing: Seq,
    /// How far everything is on disk.
    synced: Seq,
    linger_ms: i64,
    sent_bytes: u64,
    taken_bytes: u64,
    partitions: Option<Partitions>,
}

/// The last unit that concerned each partition: kept once somebody asks for it.
#[derive(Debug)]
struct Partitions {
    last: Vec<Seq>,
    /// Slots per partition, as a power of two.
    shift: u32,
    /// How far the units that have not been taken out of the shard were looked at: bytes, units.
    seen: (usize, u32),
}

impl Feed {
    pub fn new() -> Feed {
        Feed {
            on: false,
            seq: 0,
            ready: VecDeque::new(),
            after: Vec::new(),
            waiting_since_ms: None,
            hurry: false,
            hurry_to_disk: false,
            syncing: 0,
            synced: 0,
            linger_ms: LINGER_MS,
            sent_bytes: 0,
            taken_bytes: 0,
            partitions: None,
        }
    }

    /// Switches recording. What was recorded before goes out, or, when it is switched on, is none.
    pub fn switch(&mut self, on: bool, effects: &mut Effects) {
        if self.on && !on {
            self.close_chunk(effects);
        }
        effects.enable(on);
        self.on = on;
        if on {
            // Tells that it records.
            self.mark(std::iter::empty(), effects);
            self.hurry = true;
        }
    }

    #[inline]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// The sequence number of the last unit so far.
    #[inline]
    pub fn seq(&self, effects: &Effects) -> Seq {
        self.seq + effects.count() as Seq
    }

    /// The last unit so far, or mark, that concerns a partition. All that it was told of the keys there is safe when this
    /// is.
    pub fn seq_of(&mut self, partition: u16, partitions: u16, effects: &Effects) -> Seq {
        let now = self.seq(effects);
        let known = self.partitions.get_or_insert_with(|| Partitions {
            last: vec![now; partitions as usize],
            shift: (SLOTS / partitions).trailing_zeros(),
            seen: (effects.bytes(), effects.count()),
        });
        known.look(self.seq, effects);
        known.last.get(partition as usize).copied().unwrap_or(now)
    }

    /// What comes from now on is to be in the log after this.
    pub fn come_after(&mut self, after: After, effects: &mut Effects) {
        if !self.on || after.seq == 0 {
            return;
        }
        self.close_chunk(effects);
        match self.after.iter_mut().find(|known| known.core == after.core) {
            Some(known) => known.seq = known.seq.max(after.seq),
            None => self.after.push(after),
        }
    }

    /// Takes a sequence number for what the next chunk has to come after, and notes it for these partitions.
    pub fn mark(&mut self, partitions: impl Iterator<Item = u16>, effects: &mut Effects) -> Seq {
        self.close_chunk(effects);
        self.seq += 1;
        if let Some(known) = &mut self.partitions {
            for partition in partitions {
                if let Some(last) = known.last.get_mut(partition as usize) {
                    *last = self.seq;
                }
            }
        }
        self.ready.push_back(Chunk { last_seq: self.seq, after: std::mem::take(&mut self.after), ..Chunk::default() });
        self.seq
    }

    /// Adds a piece of a stream, at this place of the feed. It has a sequence number of its own: a transaction that borrows
    /// a key afterwards must not overtake it.
    pub fn cover(&mut self, content: Content, bytes: Vec<u8>, effects: &mut Effects) {
        self.close_chunk(effects);
        self.seq += 1;
        let crc = crc32fast::hash(&bytes);
        let after = std::mem::take(&mut self.after);
        self.ready.push_back(Chunk { bytes, crc, content, last_seq: self.seq, after, holds: Holds::default() });
        self.hurry = true;
    }

    /// How long a chunk waits for more, ms.
    #[inline]
    pub fn linger_ms(&self) -> i64 {
        self.linger_ms
    }

    /// Says how long a chunk may wait: less if there are replicas.
    pub fn set_linger(&mut self, replicated: bool) {
        self.linger_ms = if replicated { LINGER_REPLICATED_MS } else { LINGER_MS };
    }

    /// Somebody waits for what has been recorded so far.
    #[inline]
    pub fn hurry(&mut self) {
        self.hurry = true;
    }

    /// Somebody waits until what has been recorded so far is on this node's disk.
    #[inline]
    pub fn hurry_to_disk(&mut self) {
        self.hurry_to_disk = true;
    }

    /// What is on disk of what this feed has said.
    pub fn synced(&mut self, seq: Seq) {
        self.synced = seq;
    }

    fn close_chunk(&mut self, effects: &mut Effects) {
        if effects.count() == 0 {
            return;
        }
        if let Some(known) = &mut self.partitions {
            known.look(self.seq, effects);
            known.seen = (0, 0);
        }
        let (bytes, count) = effects.take_units();
        self.seq += count as Seq;
        let (crc, after) = (crc32fast::hash(&bytes), std::mem::take(&mut self.after));
        let content = Content::Units(count);
        self.ready.push_back(Chunk { bytes, crc, content, last_seq: self.seq, after, holds: Holds::default() });
    }

    /// The next chunk to send, if one is to leave now.
    #[inline]
    pub fn next(&mut self, now_ms: SteadyMs, effects: &mut Effects) -> Option<Chunk> {
        if !self.on && self.ready.is_empty() {
            return None;
        }
        self.next_if_due(now_ms, effects)
    }

    fn next_if_due(&mut self, now_ms: SteadyMs, effects: &mut Effects) -> Option<Chunk> {
        if effects.count() == 0 && self.ready.is_empty() {
            (self.hurry, self.hurry_to_disk) = (false, false);
            self.waiting_since_ms = None;
            return None;
        }
        let since_ms = *self.waiting_since_ms.get_or_insert(now_ms);
        let hurry = self.hurry || (self.hurry_to_disk && self.syncing <= self.synced);
        let full = effects.bytes() >= CHUNK_BYTES;
        if !hurry && !full && now_ms - since_ms < self.linger_ms && self.ready.is_empty() {
            return None;
        }
        self.close_chunk(effects);
        let chunk = self.ready.pop_front();
        if self.hurry_to_disk {
            self.syncing = self.seq;
        }
        self.sent_bytes += chunk.as_ref().map_or(0, |chunk| chunk.bytes.len() as u64);
        chunk
    }

    /// Whether something has been recorded that has not left.
    #[inline]
    pub fn lingers(&self, effects: &Effects) -> bool {
        self.on && (effects.count() > 0 || !self.ready.is_empty())
    }

    /// The control core has taken so many bytes in all.
    pub fn taken(&mut self, bytes: u64) {
        self.taken_bytes = bytes;
    }

    /// More is under way than may be.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.sent_bytes - self.taken_bytes > UNTAKEN_BYTES_MAX as u64
    }

    /// So little is under way that it is worth while to go on, after it was full.
    pub fn has_room(&self) -> bool {
        self.sent_bytes - self.taken_bytes <= UNTAKEN_BYTES_MAX as u64 / 2
    }
}

impl Default for Feed {
    fn default() -> Self {
        Feed::new()
    }
}

impl Partitions {
    /// Looks at units of the shard that have not been looked at; those before them have numbers up to `seq`.
    fn look(&mut self, seq: Seq, effects: &Effects) {
        let (bytes, mut count) = self.seen;
        let mut units = effects.units().get(bytes..).unwrap_or_default();
        while let Ok(Some(statements)) = next_unit(&mut units) {
            count += 1;
            for slot in slots(statements).unwrap_or_default() {
                let concerned = match slot {
                    Some(slot) => {
                        let at = (slot >> self.shift) as usize;
                        self.last.get_mut(at..at + 1)
                    }
                    None => self.last.get_mut(..),
                };
                concerned.unwrap_or_default().fill(seq + count as Seq);
            }
        }
        self.seen = (effects.bytes(), count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::slot_of;

    fn recording() -> (Feed, Effects) {
        let (mut feed, mut effects) = (Feed::new(), Effects::default());
        feed.switch(true, &mut effects);
        // It says so with a chunk of its own.
        assert_eq!(feed.next(0, &mut effects).unwrap().last_seq, 1);
        assert!(feed.next(0, &mut effects).is_none());
        (feed, effects)
    }

    fn all(feed: &mut Feed, effects: &mut Effects) -> Vec<(Content, Seq, Vec<After>)> {
        feed.hurry();
        let next = || feed.next(0, effects).map(|chunk| (chunk.content, chunk.last_seq, chunk.after));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_chunk_leaves_when_it_is_full_old_or_wanted() {
        let (mut feed, mut effects) = recording();
        assert!(feed.next(5, &mut effects).is_none());
        effects.push(0, &[b"DEL", b"a"]);
        effects.push(0, &[b"DEL", b"b"]);
        assert!(feed.next(5, &mut effects).is_none() && feed.lingers(&effects));
        let chunk = feed.next(5 + LINGER_MS, &mut effects).unwrap();
        assert_eq!((chunk.content, chunk.last_seq), (Content::Units(2), 3));
        assert!(feed.next(9, &mut effects).is_none() && !feed.lingers(&effects));
        effects.push(0, &[b"SET", b"a", &vec![0; CHUNK_BYTES]]);
        assert!(feed.next(9, &mut effects).is_some());
        effects.push(0, &[b"DEL", b"a"]);
        feed.hurry();
        assert_eq!(feed.next(9, &mut effects).unwrap().last_seq, 5);
        assert!(feed.next(9, &mut effects).is_none());
        effects.push(0, &[b"DEL", b"a"]);
        assert!(feed.next(9, &mut effects).is_none(), "the hurry is over");
    }

    #[test]
    fn who_waits_for_the_disk_waits_for_the_sync_that_goes_on() {
        let (mut feed, mut effects) = recording();
        let mut write = |feed: &mut Feed| {
            effects.push(0, &[b"DEL", b"a"]);
            feed.hurry_to_disk();
            let sent = feed.next(5, &mut effects).map(|chunk| chunk.last_seq);
            assert!(feed.next(5, &mut effects).is_none());
            sent
        };
        assert_eq!(write(&mut feed), Some(2));
        assert_eq!(write(&mut feed), None);
        feed.synced(1);
        assert_eq!(write(&mut feed), None);
        feed.synced(2);
        assert_eq!(write(&mut feed), Some(5), "all that has gathered");
        // A sync that does not end holds nobody up for long, and somebody who waits for something else not at all.
        assert_eq!(write(&mut feed), None);
        assert_eq!(feed.next(5 + LINGER_MS, &mut effects).unwrap().last_seq, 6);
        assert!(feed.next(5 + LINGER_MS, &mut effects).is_none());
        effects.push(0, &[b"DEL", b"a"]);
        feed.hurry_to_disk();
        assert!(feed.next(20, &mut effects).is_none());
        feed.hurry();
        assert_eq!(feed.next(20, &mut effects).unwrap().last_seq, 7);
    }

    #[test]
    fn what_comes_later_names_what_came_before() {
        let (mut feed, mut effects) = recording();
        effects.push(0, &[b"DEL", b"a"]);
        feed.come_after(After { core: 2, seq: 7 }, &mut effects);
        feed.come_after(After { core: 2, seq: 9 }, &mut effects);
        feed.come_after(After { core: 3, seq: 0 }, &mut effects);
        let marked = feed.mark([4].into_iter(), &mut effects);
        effects.push(0, &[b"DEL", b"a"]);
        feed.cover(Content::Cover { run: 1, ranges: 1, open: false, done: true }, vec![0; 9], &mut effects);
        let after = vec![After { core: 2, seq: 9 }];
        assert_eq!(marked, 3);
        assert_eq!(
            all(&mut feed, &mut effects),
            [
                (Content::Units(1), 2, vec![]),
                (Content::Units(0), 3, after),
                (Content::Units(1), 4, vec![]),
                (Content::Cover { run: 1, ranges: 1, open: false, done: true }, 5, vec![]),
            ]
        );
    }

    #[test]
    fn a_partition_waits_for_its_own_units() {
        let (mut feed, mut effects) = recording();
        let partition = |key: &[u8]| slot_of(key) / (SLOTS / 256);
        let (a, b) = (partition(b"a"), partition(b"b"));
        effects.push(0, &[b"DEL", b"a"]);
        assert_eq!(feed.seq_of(b, 256, &effects), 2, "nothing is known of what came before the question");
        effects.push(0, &[b"DEL", b"a"]);
        assert_eq!((feed.seq_of(a, 256, &effects), feed.seq_of(b, 256, &effects)), (3, 2));
        all(&mut feed, &mut effects);
        effects.push(0, &[b"DEL", b"b"]);
        assert_eq!((feed.seq_of(a, 256, &effects), feed.seq_of(b, 256, &effects)), (3, 4));
        effects.push_everywhere(0, &[b"FLUSHALL"]);
        assert_eq!((feed.seq_of(a, 256, &effects), feed.seq_of(b, 256, &effects)), (5, 5));
        effects.push(0, &[b"DEL", b"b"]);
        feed.mark([a].into_iter(), &mut effects);
        assert_eq!((feed.seq_of(a, 256, &effects), feed.seq_of(b, 256, &effects)), (7, 6));
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let (mut feed, mut effects) = recording();
        effects.push(0, &[b"SET", b"a", &vec![0; UNTAKEN_BYTES_MAX]]);
        assert!(!feed.is_full());
        all(&mut feed, &mut effects);
        assert!(feed.is_full());
        feed.taken(1000);
        assert!(!feed.is_full() && !feed.has_room(), "it does not go on for a few bytes");
        feed.taken(UNTAKEN_BYTES_MAX as u64 / 2 + 1000);
        assert!(feed.has_room());
    }
}
