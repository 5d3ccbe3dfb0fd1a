//! The hash table of one partition: from a key's hash to the handle of its entry.
//!
//! Buckets of one cache line hold up to twelve entries each: a one-byte tag of the hash to compare first, all twelve at
//! once, and the handle. The bucket of an entry, its *home*, is the hash's high 32 bits scaled to the number of buckets
//! (Lemire's fastrange, <https://arxiv.org/abs/1805.10941>), so any number of buckets will do and buckets lie in the
//! order of hashes. The tag comes from the low bits.
//!
//! If the home is full the entry goes to the next bucket with room, around the end if need be, and every bucket that it
//! passed counts one overflow. A lookup goes on to the next bucket only while that count is not 0, and a removal counts
//! down along the same way; so nothing is left behind by removals, and any number of them leaves lookups as they were.
//!
//! # Why a scan misses nothing
//!
//! The position of an entry is the high 32 bits of its hash: it depends on the key alone. A bucket is home to the
//! positions of one interval, and the intervals of all buckets follow each other, whatever their number.
//! [`Table::positions`] names the interval's end, which is where the scan goes on; [`Table::visit_home`] visits the
//! entries whose *home* is a bucket, wherever they lie: it follows the overflow as a lookup does, also from the last
//! bucket around to the first. So each call visits exactly the entries with a position in `from..next`, and the calls of
//! a full iteration cover every position once. Growth or shrinking between two calls moves entries to other buckets but
//! not to other positions.
//!
//! A table is rebuilt in one go; a shard has hundreds of them, so each is small. The order by position allows a later
//! rebuild in steps: everything below a moving position lies in the new buckets, the rest in the old.
//!
//! Owned by one core.

use super::heap::Handle;

/// Entries in one bucket.
const LANES: usize = 12;

/// All lanes of a match mask.
const LANE_MASK: u32 = (1 << LANES) - 1;

/// Entries per bucket, on average, above which a table grows.
const FILL_MAX: usize = 10;

/// Entries per bucket, on average, below which a table shrinks.
const FILL_MIN: usize = 4;

/// Entries per bucket, on average, after shrinking: as far from growing as from shrinking again.
const FILL_TARGET: usize = 8;

/// How many entries ahead a rebuild starts to load keys.
const PREFETCH_AHEAD: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    /// 0 if the lane is free.
    tag: [u8; LANES],
    /// Entries that wanted this bucket or an earlier one and lie in a later one.
    overflow: u32,
    handle: [Handle; LANES],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Bucket = Bucket { tag: [0; LANES], overflow: 0, handle: [Handle::NONE; LANES] };

    /// One bit for each lane whose tag is `tag`; tag 0 finds the free lanes.
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    #[inline]
    fn lanes(&self, tag: u8) -> u32 {
        use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_load_si128, _mm_movemask_epi8, _mm_set1_epi8};
        // SAFETY: a bucket is 64 bytes, aligned to 64, and starts with the tags: the first 16 bytes may be read as one
        // aligned vector. The four bytes of `overflow` in it are masked out below. SSE2 is there: see the `cfg`.
        let equal = unsafe {
            let tags = _mm_load_si128(std::ptr::from_ref(self).cast());
            _mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8(tag as i8)))
        };
        equal as u32 & LANE_MASK
    }

    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    #[inline]
    fn lanes(&self, tag: u8) -> u32 {
        self.lanes_portable(tag)
    }

    /// The first entry with this tag for which `is` holds.
    #[inline]
    fn find(&self, tag: u8, is: &mut impl FnMut(Handle) -> bool) -> Option<(u32, Handle)> {
        let mut lanes = self.lanes(tag);
        while lanes != 0 {
            let lane = lanes.trailing_zeros();
            let handle = self.handle[lane as usize];
            if is(handle) {
                return Some((lane, handle));
            }
            lanes &= lanes - 1;
        }
        None
    }

    /// As [`Bucket::lanes`], eight bytes at a time in an ordinary register.
    #[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
    fn lanes_portable(&self, tag: u8) -> u32 {
        /// One bit for each byte of `word` that is 0.
        fn zeros(word: u64) -> u32 {
            const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
            // The top bit of each byte of `found` is set if that byte is 0; no carry leaves a byte.
            let found = !(((word & LOW) + LOW) | word | LOW);
            // The multiplication gathers the eight bits in the top byte.
            ((found >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
        }
        let mut bytes = [0; 16];
        bytes[..LANES].copy_from_slice(&self.tag);
        let words = u128::from_le_bytes(bytes) ^ u128::from_le_bytes([tag; 16]);
        (zeros(words as u64) | zeros((words >> 64) as u64) << 8) & LANE_MASK
    }
}

/// The part of the hash that decides the bucket.
#[inline]
fn position_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[inline]
fn tag_of(hash: u64) -> u8 {
    (hash as u8).max(1)
}

/// Where an entry lies; valid until the table next changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    bucket: u32,
    lane: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    /// None while the table is empty.
    buckets: Box<[Bucket]>,
    len: u32,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Bytes that the buckets occupy.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        std::mem::size_of_val(&*self.buckets)
    }

    #[inline]
    fn home(&self, position: u32) -> usize {
        ((position as u64 * self.buckets.len() as u64) >> 32) as usize
    }

    #[inline]
    fn after(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets.len() { 0 } else { bucket + 1 }
    }

    /// The entry with this hash for which `is` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(Handle) -> bool) -> Option<(Place, Handle)> {
        let home = self.home(position_of(hash));
        let bucket = self.buckets.get(home)?;
        if let Some((lane, handle)) = bucket.find(tag_of(hash), &mut is) {
            return Some((Place { bucket: home as u32, lane }, handle));
        }
        if bucket.overflow == 0 { None } else { self.find_beyond(home, hash, is) }
    }

    /// Goes on with a lookup after its home. Not inlined: few lookups come here.
    #[inline(never)]
    fn find_beyond(&self, home: usize, hash: u64, mut is: impl FnMut(Handle) -> bool) -> Option<(Place, Handle)> {
        let mut index = home;
        for _ in 1..self.buckets.len() {
            index = self.after(index);
            let bucket = &self.buckets[index];
            if let Some((lane, handle)) = bucket.find(tag_of(hash), &mut is) {
                return Some((Place { bucket: index as u32, lane }, handle));
            }
            if bucket.overflow == 0 {
                break;
            }
        }
        None
    }

    /// Starts to load the bucket that a lookup begins with.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        let bucket = self.buckets.as_ptr().wrapping_add(self.home(position_of(hash)));
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch does not access memory as far as the program can tell; any address is allowed.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(bucket.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = bucket;
    }

    /// An entry that may be the one looked for: the first with its tag in the home bucket, or in the one after it if the
    /// home has overflowed; [`Handle::NONE`] if there is none.
    #[inline]
    pub(super) fn candidate(&self, hash: u64) -> Handle {
        let home = self.home(position_of(hash));
        let Some(mut bucket) = self.buckets.get(home) else { return Handle::NONE };
        let mut lanes = bucket.lanes(tag_of(hash));
        if lanes == 0 && bucket.overflow != 0 {
            bucket = &self.buckets[self.after(home)];
            lanes = bucket.lanes(tag_of(hash));
        }
        if lanes == 0 { Handle::NONE } else { bucket.handle[lanes.trailing_zeros() as usize] }
    }

    /// Tells the table that the entry at `place` has moved.
    #[inline]
    pub(super) fn set_handle(&mut self, place: Place, handle: Handle) {
        self.buckets[place.bucket as usize].handle[place.lane as usize] = handle;
    }

    /// Adds an entry that is not there yet, and grows if need be: then `hash_of` is asked for the hash of every entry,
    /// announced by `prefetch` some entries before.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        handle: Handle,
        hash_of: impl Fn(Handle) -> u64,
        prefetch: impl Fn(Handle),
    ) {
        let buckets = self.buckets.len();
        if self.len as usize >= buckets * FILL_MAX {
            self.rebuild(buckets + (buckets / 4).max(1), hash_of, prefetch);
        }
        self.put(hash, handle);
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
        let mut index = self.home(position_of(hash));
        while index != place.bucket as usize {
            self.buckets[index].overflow -= 1;
            index = self.after(index);
        }
        let bucket = &mut self.buckets[index];
        bucket.tag[place.lane as usize] = 0;
        bucket.handle[place.lane as usize] = Handle::NONE;
        self.len -= 1;
        let (len, buckets) = (self.len as usize, self.buckets.len());
        if len == 0 {
            self.buckets = Box::default();
        } else if buckets > 1 && len < buckets * FILL_MIN {
            self.rebuild(len / FILL_TARGET + 1, hash_of, prefetch);
        }
    }

    /// Puts an entry into the first bucket with room. There is one: a table is never full.
    #[inline]
    fn put(&mut self, hash: u64, handle: Handle) {
        let mut index = self.home(position_of(hash));
        loop {
            let bucket = &mut self.buckets[index];
            let free = bucket.lanes(0);
            if free != 0 {
                let lane = free.trailing_zeros() as usize;
                bucket.tag[lane] = tag_of(hash);
                bucket.handle[lane] = handle;
                return;
            }
            bucket.overflow += 1;
            index = self.after(index);
        }
    }

    #[cold]
    fn rebuild(&mut self, buckets: usize, hash_of: impl Fn(Handle) -> u64, prefetch: impl Fn(Handle)) {
        assert!(self.len() < buckets * LANES);
        let handles: Vec<Handle> = self.handles().collect();
        self.buckets = vec![Bucket::EMPTY; buckets].into_boxed_slice();
        handles.iter().take(PREFETCH_AHEAD).for_each(|&handle| prefetch(handle));
        for (i, &handle) in handles.iter().enumerate() {
            if let Some(&ahead) = handles.get(i + PREFETCH_AHEAD) {
                prefetch(ahead);
            }
            self.put(hash_of(handle), handle);
        }
    }

    pub(super) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// The entries in bucket `index`.
    pub(super) fn bucket(&self, index: usize) -> impl Iterator<Item = Handle> + use<> {
        self.buckets[index].handle.into_iter().filter(|&handle| handle != Handle::NONE)
    }

    /// All entries, in the order of buckets.
    pub(super) fn handles(&self) -> impl Iterator<Item = Handle> + '_ {
        self.buckets.iter().flat_map(|bucket| bucket.handle).filter(|&handle| handle != Handle::NONE)
    }

    /// The home bucket of `position`, and the first position of the bucket after it (None at the end). None if the
    /// table is empty.
    pub(super) fn positions(&self, position: u32) -> Option<(usize, Option<u32>)> {
        let buckets = self.buckets.len();
        if buckets == 0 {
            return None;
        }
        let home = self.home(position);
        let next = (home + 1 < buckets).then(|| (((home as u64 + 1) << 32).div_ceil(buckets as u64)) as u32);
        Some((home, next))
    }

    /// Visits the entries whose home is bucket `home` and whose position is `from` or above.
    pub(super) fn visit_home(
        &self,
        home: usize,
        from: u32,
        hash_of: impl Fn(Handle) -> u64,
        mut visit: impl FnMut(Handle),
    ) {
        let mut index = home;
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[index];
            for handle in bucket.handle.into_iter().filter(|&handle| handle != Handle::NONE) {
                let position = position_of(hash_of(handle));
                if position >= from && self.home(position) == home {
                    visit(handle);
                }
            }
            if bucket.overflow == 0 {
                return;
            }
            index = self.after(index);
        }
    }

    /// An entry at random: the first that a bounded number of guesses hits, else the first after the last guess. None
    /// if the table is empty.
    pub(super) fn random(&self, mut random: impl FnMut() -> u64) -> Option<Handle> {
        /// A table is at least a third full, except the smallest ones: more guesses fail only by great misfortune.
        const GUESSES_MAX: usize = 64;
        let slots = self.buckets.len() * LANES;
        let mut guess = 0;
        for _ in 0..GUESSES_MAX {
            guess = (((random() >> 32) * slots as u64) >> 32) as usize;
            let handle = self.buckets.get(guess / LANES)?.handle[guess % LANES];
            if handle != Handle::NONE {
                return Some(handle);
            }
        }
        let at = |slot: usize| self.buckets[slot / LANES].handle[slot % LANES];
        (guess..slots).chain(0..guess).map(at).find(|&handle| handle != Handle::NONE)
    }

    /// Checks every invariant.
    #[cfg(test)]
    pub(super) fn validate(&self, hash_of: impl Fn(Handle) -> u64) {
        let buckets = self.buckets.len();
        let mut overflow = vec![0; buckets];
        let mut len = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            for lane in 0..LANES {
                let handle = bucket.handle[lane];
                assert_eq!(handle == Handle::NONE, bucket.tag[lane] == 0);
                if handle == Handle::NONE {
                    continue;
                }
                len += 1;
                let hash = hash_of(handle);
                assert_eq!(bucket.tag[lane], tag_of(hash));
                let mut way = self.home(position_of(hash));
                while way != index {
                    overflow[way] += 1;
                    way = self.after(way);
                }
            }
        }
        assert_eq!(len, self.len);
        assert!(self.buckets.iter().map(|bucket| bucket.overflow).eq(overflow));
        assert!(self.len() <= buckets * FILL_MAX);
        assert!(buckets <= 1 || self.len() >= buckets * FILL_MIN);
        assert_eq!(buckets == 0, self.len == 0, "an empty table owns nothing");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entry with handle `i` has this hash; it spreads like the real ones.
    fn spread(handle: Handle) -> u64 {
        let mut z = (handle.0 as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Every entry's home is the last bucket, so that most lie around the end.
    fn crowded(handle: Handle) -> u64 {
        0xFFFF_FFFF_0000_0000 | handle.0 as u64
    }

    /// Sixteen positions, at which the intervals of 1, 2, 4, 8 or 16 buckets begin.
    fn coarse(handle: Handle) -> u64 {
        (handle.0 as u64 % 16) << 60 | handle.0 as u64
    }

    /// A scan may go on from any position, not only from where a bucket begins.
    #[test]
    fn a_visit_begins_at_the_position_asked_for() {
        let mut table = Table::default();
        (1..=10).for_each(|i| table.insert((i as u64) << 32, Handle(i), |_| 0, |_| {}));
        let mut seen = Vec::new();
        table.visit_home(0, 4, |handle| (handle.0 as u64) << 32, |handle| seen.push(handle.0));
        assert_eq!(seen, [4, 5, 6, 7, 8, 9, 10]);
    }

    fn grow_and_shrink(hash_of: fn(Handle) -> u64, entries: u32) {
        let mut table = Table::default();
        for i in 1..=entries {
            table.insert(hash_of(Handle(i)), Handle(i), hash_of, |_| {});
            if i % 97 == 0 {
                table.validate(hash_of);
            }
        }
        for i in 1..=entries {
            assert!(table.find(hash_of(Handle(i)), |h| h == Handle(i)).is_some());
            assert!(table.find(hash_of(Handle(i + entries)), |h| h == Handle(i + entries)).is_none());
        }
        for i in 1..=entries {
            let (place, _) = table.find(hash_of(Handle(i)), |h| h == Handle(i)).unwrap();
            table.remove(place, hash_of(Handle(i)), hash_of, |_| {});
            if i % 97 == 0 {
                table.validate(hash_of);
            }
        }
        assert_eq!(table.bytes(), 0);
    }

    #[test]
    fn every_entry_is_found_while_the_table_grows_and_shrinks() {
        grow_and_shrink(spread, 20_000);
    }

    #[test]
    fn colliding_entries_wrap_around_the_end() {
        grow_and_shrink(crowded, 1_000);
    }

    #[test]
    fn homes_cover_every_entry_once_and_in_order_of_positions() {
        for (hash_of, entries) in [(spread as fn(Handle) -> u64, 5_000), (crowded, 300), (coarse, 35), (spread, 7)] {
            let mut table = Table::default();
            for i in 1..=entries {
                table.insert(hash_of(Handle(i)), Handle(i), hash_of, |_| {});
            }
            let (mut from, mut seen) = (Some(0), Vec::new());
            while let Some(position) = from {
                let (home, next) = table.positions(position).unwrap();
                table.visit_home(home, position, hash_of, |handle| {
                    let at = position_of(hash_of(handle));
                    assert!(at >= position && next.is_none_or(|next| at < next));
                    seen.push(handle.0);
                });
                from = next;
            }
            seen.sort();
            assert!(seen.into_iter().eq(1..=entries));
        }
    }

    #[test]
    fn both_ways_to_compare_tags_agree() {
        let mut random = 1_u64;
        for _ in 0..10_000 {
            let mut bucket = Bucket { overflow: u32::from_le_bytes([0, 1, 2, 3]), ..Bucket::EMPTY };
            for tag in &mut bucket.tag {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *tag = [0, 1, 0x7F, 0x80, 0x81, 0xFF, 2, 3][(random >> 60) as usize % 8];
            }
            for tag in [0, 1, 2, 0x7F, 0x80, 0x81, 0xFF] {
                let expected =
                    (0..LANES).filter(|&lane| bucket.tag[lane] == tag).fold(0, |mask, lane| mask | 1 << lane);
                assert_eq!(bucket.lanes(tag), expected);
                assert_eq!(bucket.lanes_portable(tag), expected);
            }
        }
    }
}
