//! An array of buckets: open addressing with overflow counts, as [`super`] describes it, of a fixed size.
//!
//! Invariant: each entry lies in its home, or in a later bucket if every bucket from its home to there was full once; the
//! overflow of a bucket is the number of entries that lie after it and have it on the way from their home.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::ops::Range;

use super::Handle;
use super::bucket::{Bucket, LANES};

/// The position of a key with this hash: what decides its bucket, in tables of any size.
#[inline]
pub fn position_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[inline]
fn tag_of(hash: u64) -> u8 {
    (hash as u8).max(1)
}

/// Where an entry lies; valid until the table next changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) struct Place {
    pub(super) bucket: u32,
    pub(super) lane: u8,
    /// In the array that the table moves out of. An array does not know; it is the table that says so.
    pub(super) old: bool,
}

impl Place {
    #[inline]
    fn new(bucket: usize, lane: u32) -> Place {
        Place { bucket: bucket as u32, lane: lane as u8, old: false }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Buckets(Box<[Bucket]>);

impl Buckets {
    /// `count` empty buckets. The pages of a large array are the system's to provide when they are first used: writing
    /// all of them here would take milliseconds.
    pub(super) fn new(count: usize) -> Buckets {
        if count == 0 {
            return Buckets::default();
        }
        let layout = Layout::array::<Bucket>(count).expect("a table fits the address space");
        // SAFETY: the layout is that of at least one bucket, which is not of size 0.
        let first = unsafe { alloc_zeroed(layout) }.cast::<Bucket>();
        if first.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: `first` comes from the global allocator with the layout of `count` buckets, which is the layout with
        // which the box frees them, and nobody else knows it. All bytes are 0, and that is a bucket: it consists of
        // integers, and of handles, which are integers.
        Buckets(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(first, count)) })
    }

    #[inline]
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&Bucket> {
        self.0.get(index)
    }

    #[inline]
    pub(super) fn home(&self, position: u32) -> usize {
        ((position as u64 * self.count() as u64) >> 32) as usize
    }

    /// The first position whose home is bucket `home` or one after it; None beyond the last bucket.
    #[inline]
    pub(super) fn first_position(&self, home: usize) -> Option<u32> {
        (home < self.count()).then(|| ((home as u64) << 32).div_ceil(self.count() as u64) as u32)
    }

    #[inline]
    fn after(&self, index: usize) -> usize {
        if index + 1 == self.count() { 0 } else { index + 1 }
    }

    /// The entry with this hash for which `is` holds. Always inlined, for the reason of [`Bucket::find`].
    #[inline(always)]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(Handle) -> bool) -> Option<(Place, Handle)> {
        let home = self.home(position_of(hash));
        let bucket = self.get(home)?;
        if let Some((lane, handle)) = bucket.find(tag_of(hash), &mut is) {
            return Some((Place::new(home, lane), handle));
        }
        if bucket.overflow == 0 { None } else { self.find_beyond(home, hash, is) }
    }

    /// Goes on with a lookup after its home. Not inlined: few lookups come here.
    #[inline(never)]
    fn find_beyond(&self, home: usize, hash: u64, mut is: impl FnMut(Handle) -> bool) -> Option<(Place, Handle)> {
        let mut index = home;
        for _ in 1..self.count() {
            index = self.after(index);
            let bucket = &self.0[index];
            if let Some((lane, handle)) = bucket.find(tag_of(hash), &mut is) {
                return Some((Place::new(index, lane), handle));
            }
            if bucket.overflow == 0 {
                break;
            }
        }
        None
    }

    /// Starts to load bucket `index`; does nothing of consequence if there is none.
    #[inline]
    pub(super) fn prefetch(&self, index: usize) {
        let bucket = self.0.as_ptr().wrapping_add(index);
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch does not access memory as far as the program can tell; any address is allowed.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(bucket.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = bucket;
    }

    /// As [`super::Table::candidate`].
    #[inline]
    pub(super) fn candidate(&self, hash: u64) -> Handle {
        let home = self.home(position_of(hash));
        let Some(mut bucket) = self.get(home) else { return Handle::NONE };
        let mut lanes = bucket.lanes(tag_of(hash));
        if lanes == 0 && bucket.overflow != 0 {
            bucket = &self.0[self.after(home)];
            lanes = bucket.lanes(tag_of(hash));
        }
        if lanes == 0 { Handle::NONE } else { bucket.handle[lanes.trailing_zeros() as usize] }
    }

    #[inline]
    pub(super) fn set_handle(&mut self, place: Place, handle: Handle) {
        self.0[place.bucket as usize].handle[place.lane as usize] = handle;
    }

    /// Puts an entry into the first bucket with room. There must be one.
    #[inline]
    pub(super) fn put(&mut self, hash: u64, handle: Handle) {
        let mut index = self.home(position_of(hash));
        loop {
            let bucket = &mut self.0[index];
            let free = bucket.lanes(0);
            if free != 0 {
                bucket.fill(free.trailing_zeros() as usize, tag_of(hash), handle);
                return;
            }
            bucket.overflow += 1;
            index = self.after(index);
        }
    }

    /// Takes out the entry at `place`, whose hash is `hash`.
    #[inline]
    pub(super) fn take(&mut self, place: Place, hash: u64) {
        let mut index = self.home(position_of(hash));
        while index != place.bucket as usize {
            self.0[index].overflow -= 1;
            index = self.after(index);
        }
        self.0[index].clear(place.lane as usize);
    }

    /// Takes out all entries whose home is one of `homes`, and hands them to `to` with their hashes.
    pub(super) fn take_homes(
        &mut self,
        homes: Range<usize>,
        hash_of: impl Fn(Handle) -> u64,
        mut to: impl FnMut(u64, Handle),
    ) {
        let mut index = homes.start;
        for walked in 1..=self.count() {
            for lane in 0..LANES {
                let handle = self.0[index].handle[lane];
                if handle == Handle::NONE {
                    continue;
                }
                let hash = hash_of(handle);
                if homes.contains(&self.home(position_of(hash))) {
                    self.take(Place::new(index, lane as u32), hash);
                    to(hash, handle);
                }
            }
            // Beyond the homes: nothing is left that passed the last of them, or nothing that passed this bucket.
            if walked >= homes.len() && (self.0[homes.end - 1].overflow == 0 || self.0[index].overflow == 0) {
                return;
            }
            index = self.after(index);
        }
    }

    /// All entries, in the order of buckets.
    pub(super) fn handles(&self) -> impl Iterator<Item = Handle> + '_ {
        self.0.iter().flat_map(Bucket::handles)
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
        for _ in 0..self.count() {
            let bucket = &self.0[index];
            for handle in bucket.handles() {
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

    /// Checks every invariant.
    #[cfg(test)]
    pub(super) fn validate(&self, hash_of: impl Fn(Handle) -> u64) {
        let mut overflow = vec![0; self.count()];
        for (index, bucket) in self.0.iter().enumerate() {
            for lane in 0..LANES {
                let handle = bucket.handle[lane];
                assert_eq!(handle == Handle::NONE, bucket.tag[lane] == 0);
                if handle == Handle::NONE {
                    continue;
                }
                let hash = hash_of(handle);
                assert_eq!(bucket.tag[lane], tag_of(hash));
                let mut way = self.home(position_of(hash));
                while way != index {
                    overflow[way] += 1;
                    way = self.after(way);
                }
            }
        }
        assert!(self.0.iter().map(|bucket| bucket.overflow).eq(overflow));
    }
}
