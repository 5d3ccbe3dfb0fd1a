//! The hash table of one partition: from a key's hash to the handle of its entry.
//!
//! [Buckets](Buckets) of one cache line hold up to twelve entries each: a one-byte tag of the hash to compare first, all
//! twelve at once, and the handle. The bucket of an entry, its *home*, is the hash's high 32 bits scaled to the number of
//! buckets (Lemire's fastrange, <https://arxiv.org/abs/1805.10941>), so any number of buckets will do and buckets lie in
//! the order of hashes. The tag comes from the low bits.
//!
//! If the home is full the entry goes to the next bucket with room, around the end if need be, and every bucket that it
//! passed counts one overflow. A lookup goes on to the next bucket only while that count is not 0, and a removal counts
//! down along the same way; so nothing is left behind by removals, and any number of them leaves lookups as they were.
//!
//! # How it grows and shrinks
//!
//! A small table is rebuilt in one go. A larger one *moves*: it gets a second array, and every insertion and removal
//! takes the entries of a few homes over, in the order of homes, until none is left in the old array. The *frontier* is
//! the first position that has not been moved. As both arrays are in the order of positions, one comparison says where
//! an entry is to be looked for or put: below the frontier in the new array, else in the old. A move ends long before
//! the next one is due; the proof stands at [`HOMES_PER_CHANGE`].
//!
//! A step moves about ten entries for each home and looks at some more: fifty in all on average, some hundreds where many
//! buckets in a row are full. It cannot be made longer from outside: the hash is keyed, nobody can aim at a home.
//!
//! What is charged ([`Table::bytes`]) are the buckets in use: those that are still to be moved, and those of the new array
//! up to the frontier, whose memory is not touched before. So the charge follows the move in small steps; to charge for
//! both arrays at once would evict thousands of entries at once. The emptied part of the old array is left out: at the
//! most as much again as the table, until the move ends.
//!
//! # Why a scan misses nothing
//!
//! The position of an entry is the high 32 bits of its hash: it depends on the key alone. A bucket is home to the
//! positions of one interval, and the intervals of all buckets follow each other, whatever their number.
//! [`Table::visit_from`] visits the entries whose *home* is a bucket, wherever they lie: it follows the overflow as a
//! lookup does, also from the last bucket around to the first. It returns the interval's end, which is where the scan
//! goes on. The frontier is such an end, too: it cuts the interval of a new bucket that it lies in, and of the old ones
//! it lies between two. So each call visits exactly the entries with a position in `from..next`, and the calls of a full
//! iteration cover every position once. What grows, shrinks or moves between two calls changes the buckets of entries
//! but not their positions.
//!
//! Owned by one core.

mod bucket;
mod buckets;
#[cfg(test)]
mod tests;

use super::heap::Handle;
use bucket::{Bucket, LANES};
use buckets::Buckets;
pub(super) use buckets::Place;
pub use buckets::position_of;

/// Entries per bucket, on average, above which a table grows.
const FILL_MAX: usize = 10;

/// Entries per bucket, on average, below which a table shrinks.
const FILL_MIN: usize = 4;

/// Entries per bucket, on average, after shrinking: as far from growing as from shrinking again.
const FILL_TARGET: usize = 8;

/// A table grows by one part in so many.
const GROWTH: usize = 4;

/// Entries up to which a table is rebuilt in one go, which takes up to 100 µs then. Few in tests, so that they see moves.
const AT_ONCE_MAX: usize = if cfg!(test) { 64 } else { 2_000 };

/// Homes that one insertion or removal moves: several, because on the way to the entries that lie after their home those
/// of other homes are looked at, too. A move from n buckets takes n / HOMES_PER_CHANGE changes, at the most half as many
/// as the next one is away:
///
/// - After growth (from n * FILL_MAX entries) the next growth is n / GROWTH * FILL_MAX insertions away.
/// - After shrinking (from n * FILL_MIN entries) there is room for n * FILL_MIN / FILL_TARGET * FILL_MAX entries.
/// - Shrinking is even further away.
///
/// So the old array, with FILL_MAX entries per bucket at first, never gets as full as to have no room.
const HOMES_PER_CHANGE: usize = 4;
const _: () = assert!(2 * GROWTH <= HOMES_PER_CHANGE * FILL_MAX);
const _: () = assert!(2 * FILL_TARGET <= HOMES_PER_CHANGE * FILL_MIN * (FILL_MAX - FILL_TARGET));
const _: () = assert!(FILL_MAX * HOMES_PER_CHANGE < LANES * HOMES_PER_CHANGE - 1);

/// How many entries ahead a rebuild starts to load keys.
const PREFETCH_AHEAD: usize = 16;

/// What is left of a move.
struct Moving {
    /// Invariant: the homes before `next` are home to nobody.
    old: Buckets,
    /// The home to move next; there is one, else the move is over.
    next: usize,
    /// Invariant: the first position of `next`. Entries below it lie in the new array, the others in the old.
    frontier: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    /// None at all while the table is empty; the new ones during a move.
    buckets: Buckets,
    len: u32,
    moving: Option<Box<Moving>>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Bytes of the buckets in use; during a move, in proportion to how far it has come.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        match &self.moving {
            None => self.buckets.bytes(),
            Some(moving) => {
                let (moved, homes) = (moving.next as u64, moving.old.count() as u64);
                let used = self.buckets.bytes() as u64 * moved / homes;
                moving.old.bytes() - moved as usize * size_of::<Bucket>() + used as usize
            }
        }
    }

    /// The array in which entries with this position lie, and whether it is the old one.
    #[inline]
    fn array(&self, position: u32) -> (&Buckets, bool) {
        match &self.moving {
            Some(moving) if position >= moving.frontier => (&moving.old, true),
            _ => (&self.buckets, false),
        }
    }

    #[inline]
    fn array_of(&mut self, place: Place) -> &mut Buckets {
        match &mut self.moving {
            Some(moving) if place.old => &mut moving.old,
            _ => &mut self.buckets,
        }
    }

    /// The entry with this hash for which `is` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, is: impl FnMut(Handle) -> bool) -> Option<(Place, Handle)> {
        match &self.moving {
            Some(moving) if position_of(hash) >= moving.frontier => moving.find(hash, is),
            _ => self.buckets.find(hash, is),
        }
    }

    /// Starts to load the bucket that a lookup begins with.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        let (buckets, _) = self.array(position_of(hash));
        buckets.prefetch(buckets.home(position_of(hash)));
    }

    /// An entry that may be the one looked for: the first with its tag in the home bucket, or in the one after it if the
    /// home has overflowed; [`Handle::NONE`] if there is none.
    #[inline]
    pub(super) fn candidate(&self, hash: u64) -> Handle {
        self.array(position_of(hash)).0.candidate(hash)
    }

    /// Tells the table that the entry at `place` has moved.
    #[inline]
    pub(super) fn set_handle(&mut self, place: Place, handle: Handle) {
        self.array_of(place).set_handle(place, handle);
    }

    /// Adds an entry that is not there yet, and grows if need be: then, and during a move, `hash_of` is asked for the
    /// hashes of other entries, which `prefetch` has announced before.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        handle: Handle,
        hash_of: impl Fn(Handle) -> u64,
        prefetch: impl Fn(Handle),
    ) {
        let buckets = self.buckets.count();
        if self.moving.is_some() {
            self.advance(hash_of, prefetch);
        } else if self.len() >= buckets * FILL_MAX {
            self.resize(buckets + (buckets / GROWTH).max(1), hash_of, prefetch);
        }
        match &mut self.moving {
            Some(moving) if position_of(hash) >= moving.frontier => moving.old.put(hash, handle),
            _ => self.buckets.put(hash, handle),
        }
        self.len += 1;
    }

    /// Removes the entry at `place`, whose hash is `hash`; shrinks if need be, as [`Table::insert`] grows.
    pub(super) fn remove(
        &mut self,
        place: Place,
        hash: u64,
        hash_of: impl Fn(Handle) -> u64,
        prefetch: impl Fn(Handle),
    ) {
        self.array_of(place).take(place, hash);
        self.len -= 1;
        let (len, buckets) = (self.len(), self.buckets.count());
        if self.moving.is_some() {
            self.advance(hash_of, prefetch);
        } else if len == 0 {
            self.buckets = Buckets::default();
        } else if buckets > 1 && len < buckets * FILL_MIN {
            self.resize(len / FILL_TARGET + 1, hash_of, prefetch);
        }
    }

    #[cold]
    fn resize(&mut self, buckets: usize, hash_of: impl Fn(Handle) -> u64, prefetch: impl Fn(Handle)) {
        debug_assert!(self.moving.is_none());
        assert!(self.len() < buckets * LANES);
        let old = std::mem::replace(&mut self.buckets, Buckets::new(buckets));
        if self.len() > AT_ONCE_MAX {
            let moving = self.moving.insert(Box::new(Moving { old, next: 0, frontier: 0 }));
            moving.announce(&self.buckets, prefetch);
            return;
        }
        let handles: Vec<Handle> = old.handles().collect();
        handles.iter().take(PREFETCH_AHEAD).for_each(|&handle| prefetch(handle));
        for (i, &handle) in handles.iter().enumerate() {
            if let Some(&ahead) = handles.get(i + PREFETCH_AHEAD) {
                prefetch(ahead);
            }
            self.buckets.put(hash_of(handle), handle);
        }
    }

    /// Goes on with a move, by a bounded number of homes.
    #[inline(never)]
    fn advance(&mut self, hash_of: impl Fn(Handle) -> u64, prefetch: impl Fn(Handle)) {
        let Table { buckets, moving: Some(moving), .. } = self else { return };
        let end = (moving.next + HOMES_PER_CHANGE).min(moving.old.count());
        moving.old.take_homes(moving.next..end, hash_of, |hash, handle| buckets.put(hash, handle));
        let Some(frontier) = moving.old.first_position(end) else {
            debug_assert!(moving.old.handles().next().is_none());
            self.moving = None;
            return;
        };
        (moving.next, moving.frontier) = (end, frontier);
        moving.announce(buckets, prefetch);
    }

    /// Both arrays in a row, for walks over a table that does not change meanwhile: how many buckets they have.
    pub(super) fn buckets(&self) -> usize {
        self.buckets.count() + self.moving.as_ref().map_or(0, |moving| moving.old.count())
    }

    /// The entries in bucket `index` of both arrays in a row.
    pub(super) fn bucket(&self, index: usize) -> impl Iterator<Item = Handle> + use<> {
        self.bucket_at(index).copied().into_iter().flat_map(|bucket| bucket.handles())
    }

    fn bucket_at(&self, index: usize) -> Option<&Bucket> {
        self.buckets.get(index).or_else(|| self.moving.as_ref()?.old.get(index - self.buckets.count()))
    }

    /// All entries, in the order of buckets.
    pub(super) fn handles(&self) -> impl Iterator<Item = Handle> + '_ {
        self.buckets.handles().chain(self.moving.iter().flat_map(|moving| moving.old.handles()))
    }

    /// Visits the entries with a position from `from` on up to where the home of `from` ends; returns the position to go
    /// on from, None at the table's end.
    pub(super) fn visit_from(
        &self,
        from: u32,
        hash_of: impl Fn(Handle) -> u64,
        visit: impl FnMut(Handle),
    ) -> Option<u32> {
        let (buckets, old) = self.array(from);
        let home = buckets.home(from);
        buckets.visit_home(home, from, hash_of, visit);
        let end = buckets.first_position(home + 1);
        match &self.moving {
            // The last new home in use may reach beyond the frontier.
            Some(moving) if !old => Some(end.map_or(moving.frontier, |end| end.min(moving.frontier))),
            _ => end,
        }
    }

    /// An entry at random: the first that a bounded number of guesses hits, else the first after the last guess. None
    /// if the table is empty.
    ///
    /// A guess hits each entry with the same probability, also during a move: each has one slot among those of both
    /// arrays.
    pub(super) fn random(&self, mut random: impl FnMut() -> u64) -> Option<Handle> {
        /// A table is at least a third full, a fifth during a move, except the smallest ones: more guesses fail only by
        /// great misfortune.
        const GUESSES_MAX: usize = 64;
        let slots = self.buckets() * LANES;
        let at = |slot: usize| Some(self.bucket_at(slot / LANES)?.handle[slot % LANES]).filter(|&h| h != Handle::NONE);
        let mut guess = 0;
        for _ in 0..GUESSES_MAX {
            guess = (((random() >> 32) * slots as u64) >> 32) as usize;
            if let Some(handle) = at(guess) {
                return Some(handle);
            }
        }
        (guess..slots).chain(0..guess).find_map(at)
    }

    /// Checks every invariant.
    #[cfg(test)]
    pub(super) fn validate(&self, hash_of: impl Fn(Handle) -> u64) {
        self.buckets.validate(&hash_of);
        let count = self.buckets.count();
        assert_eq!(self.handles().count(), self.len());
        assert!(self.len() <= count * FILL_MAX);
        assert!(count <= 1 || self.len() >= count * FILL_MIN);
        assert_eq!(count == 0, self.len == 0, "an empty table owns nothing");
        let Some(moving) = &self.moving else { return };
        moving.old.validate(&hash_of);
        assert_eq!(Some(moving.frontier), moving.old.first_position(moving.next), "a move that is over has ended");
        assert!(self.buckets.handles().all(|handle| position_of(hash_of(handle)) < moving.frontier));
        assert!(moving.old.handles().all(|handle| position_of(hash_of(handle)) >= moving.frontier));
    }
}

impl Moving {
    /// As [`Table::find`], for what has not been moved. Kept away from where most lookups pass.
    #[cold]
    #[inline(never)]
    fn find(&self, hash: u64, is: impl FnMut(Handle) -> bool) -> Option<(Place, Handle)> {
        let (place, handle) = self.old.find(hash, is)?;
        Some((Place { old: true, ..place }, handle))
    }

    /// Starts to load what the next step will need: the entries, the buckets of the step after it, and the buckets into
    /// which it will write.
    fn announce(&self, new: &Buckets, prefetch: impl Fn(Handle)) {
        // One bucket more than homes: there lie most of the entries that do not lie at home.
        for index in self.next..=self.next + HOMES_PER_CHANGE {
            self.old.get(index).into_iter().flat_map(|bucket| bucket.handles()).for_each(&prefetch);
            self.old.prefetch(index + HOMES_PER_CHANGE);
        }
        let first = new.home(self.frontier);
        (first..=first + HOMES_PER_CHANGE + 1).for_each(|index| new.prefetch(index));
    }
}
