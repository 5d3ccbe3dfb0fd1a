//! What an entry remembers of its use: 24 bits in its header, which every eviction policy reads in its own way.
//!
//! ```text
//! most policies   seconds of the last access u24                                 194 days, then it wraps
//! LFU             period of the last access u16 | logarithmic count u8           65,536 periods; see `lfu`
//! S3-FIFO         hits u2 | in the main queue u1 | seconds of the last access u21    24 days; see `s3fifo`
//! ```
//!
//! Nothing here touches memory.

/// Bits that hold seconds under most policies.
pub(super) const CLOCK_BITS: u32 = 24;

/// Seconds from the clock in the lowest `bits` bits of `usage` to `now_s`. It is the steady clock: never ahead of now.
#[inline]
pub(super) fn idle_s(usage: u32, bits: u32, now_s: u32) -> u32 {
    now_s.wrapping_sub(usage) % (1 << bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_wraps() {
        for bits in [21, CLOCK_BITS] {
            let values = 1 << bits;
            for (touched_s, now_s, idle) in [(100, 107, 7), (100, 100, 0), (values - 3, values + 4, 7)] {
                assert_eq!(idle_s(touched_s % values, bits, now_s), idle);
                assert_eq!(idle_s(touched_s | 0xFF << bits, bits, now_s), idle, "other bits do not count");
            }
        }
    }
}
