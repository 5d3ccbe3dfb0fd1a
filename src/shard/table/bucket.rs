//! One cache line of a table: up to twelve entries, each with a one-byte tag of its hash. All tags are compared at once.

use super::Handle;

/// Entries in one bucket.
pub(super) const LANES: usize = 12;

/// All lanes of a match mask.
const LANE_MASK: u32 = (1 << LANES) - 1;

/// Invariant: a lane has tag 0 and [`Handle::NONE`], or neither.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// 0 if the lane is free.
    pub(super) tag: [u8; LANES],
    /// Entries that wanted this bucket or an earlier one and lie in a later one.
    pub(super) overflow: u32,
    pub(super) handle: [Handle; LANES],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// One bit for each lane whose tag is `tag`; tag 0 finds the free lanes.
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    #[inline]
    pub(super) fn lanes(&self, tag: u8) -> u32 {
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
    pub(super) fn lanes(&self, tag: u8) -> u32 {
        self.lanes_portable(tag)
    }

    /// The first entry with this tag for which `is` holds.
    ///
    /// Always inlined: what `is` captures stays in registers then. In memory it would be stored in small pieces and loaded in
    /// large ones, which the processor can only do after the stores have reached the cache.
    #[inline(always)]
    pub(super) fn find(&self, tag: u8, is: &mut impl FnMut(Handle) -> bool) -> Option<(u32, Handle)> {
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

    /// The entries that lie here.
    #[inline]
    pub(super) fn handles(&self) -> impl Iterator<Item = Handle> + use<> {
        self.handle.into_iter().filter(|&handle| handle != Handle::NONE)
    }

    /// Writes an entry into a free lane.
    #[inline]
    pub(super) fn fill(&mut self, lane: usize, tag: u8, handle: Handle) {
        self.tag[lane] = tag;
        self.handle[lane] = handle;
    }

    #[inline]
    pub(super) fn clear(&mut self, lane: usize) {
        self.fill(lane, 0, Handle::NONE);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_compare_tags_agree() {
        let mut random = 1_u64;
        for _ in 0..10_000 {
            let overflow = u32::from_le_bytes([0, 1, 2, 3]);
            let mut bucket = Bucket { tag: [0; LANES], overflow, handle: [Handle::NONE; LANES] };
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
