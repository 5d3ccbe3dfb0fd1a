//! The layout of an entry: which parts it has, where they begin, and what they cost. No memory is touched here.
//!
//! ```text
//! header   prev u32 | next u32 | flags u8, usage u24      | key len u16 | value len u16      16 bytes
//! expiry   deadline i64 | wheel prev u32 | wheel next u32                                        only with TTL
//! large    Arc of the value                                                                    only with LARGE
//! big key  Arc of the key                                                                      only with BIGKEY
//! bytes    key (unless BIGKEY), value (unless LARGE)
//! ```
//!
//! An entry takes at most one chunk of 4 KiB. If it would not fit, its value lies in a vector of its own (LARGE); if
//! even the key alone does not fit, the key does (BIGKEY). The value of a large collection is the number of its box, four
//! bytes (BOXED): see [`super::boxes`]. Lengths of parts that lie elsewhere are 0 in the header. The
//! form follows from the two lengths and the presence of an expiry alone, see [`Form`]; chunks are aligned to 8 bytes
//! and the fixed parts come first, so all fixed parts are aligned.
//!
//! What the 24 bits of usage mean depends on the eviction policy: see [`super::usage`]. A bit of the deadline says which
//! clock that one is on: see [`super::clock`].
//!
//! Owned by one core.

use std::sync::Arc;

use super::{Deadline, heap};

pub(super) type Bytes = Arc<Vec<u8>>;

pub(super) const KIND_MASK: u32 = 0x07;
pub(super) const BOXED: u32 = 0x08;
pub(super) const LARGE: u32 = 0x10;
pub(super) const BIGKEY: u32 = 0x20;
pub(super) const TTL: u32 = 0x40;
pub(super) const RAW: u32 = 0x80;
pub(super) const USAGE_SHIFT: u32 = 8;

#[repr(C)]
pub(super) struct Header {
    pub prev: u32,
    pub next: u32,
    /// Flags, and the usage above them.
    pub word: u32,
    pub key_len: u16,
    pub value_len: u16,
}

#[repr(C)]
pub(super) struct Ttl {
    pub expire_at: Deadline,
    pub wheel_prev: u32,
    pub wheel_next: u32,
}

pub(super) const HEADER_BYTES: usize = size_of::<Header>();
pub(super) const TTL_BYTES: usize = size_of::<Ttl>();
pub(super) const POINTER_BYTES: usize = size_of::<Bytes>();

const _: () = assert!(HEADER_BYTES == 16 && TTL_BYTES == 16 && POINTER_BYTES == 8);
const _: () = assert!(heap::CHUNK_BYTES_MAX <= u16::MAX as usize);

/// Which parts of an entry lie where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// Those of `LARGE`, `BIGKEY` and `TTL` that hold.
    pub flags: u32,
    /// Bytes of the whole entry.
    pub bytes: usize,
}

impl Form {
    #[inline]
    pub(super) fn of(key_len: usize, value_len: usize, ttl: bool) -> Form {
        let (flags, fixed) = if ttl { (TTL, HEADER_BYTES + TTL_BYTES) } else { (0, HEADER_BYTES) };
        let room = heap::CHUNK_BYTES_MAX - fixed;
        if key_len.saturating_add(value_len) <= room {
            Form { flags, bytes: fixed + key_len + value_len }
        } else if key_len <= room - POINTER_BYTES {
            Form { flags: flags | LARGE, bytes: fixed + POINTER_BYTES + key_len }
        } else if value_len <= room - POINTER_BYTES {
            Form { flags: flags | BIGKEY, bytes: fixed + POINTER_BYTES + value_len }
        } else {
            Form { flags: flags | LARGE | BIGKEY, bytes: fixed + 2 * POINTER_BYTES }
        }
    }
}

// Where parts begin follows from the flags without a branch: a flag that holds is shifted to the length of its part.
const _: () = assert!(TTL >> 2 == TTL_BYTES as u32 && LARGE >> 1 == POINTER_BYTES as u32);
const _: () = assert!(BIGKEY >> 2 == POINTER_BYTES as u32);

#[inline]
pub(super) fn value_offset(word: u32) -> usize {
    HEADER_BYTES + ((word & TTL) >> 2) as usize
}

#[inline]
pub(super) fn key_offset(word: u32) -> usize {
    value_offset(word) + ((word & LARGE) >> 1) as usize
}

#[inline]
pub(super) fn bytes_offset(word: u32) -> usize {
    key_offset(word) + ((word & BIGKEY) >> 2) as usize
}

/// Whether two keys are equal. Those of 8 to 32 bytes are compared as two overlapping words each, without a call.
#[inline]
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match a.len() {
        8..=16 => a.first_chunk::<8>() == b.first_chunk::<8>() && a.last_chunk::<8>() == b.last_chunk::<8>(),
        17..=32 => a.first_chunk::<16>() == b.first_chunk::<16>() && a.last_chunk::<16>() == b.last_chunk::<16>(),
        _ => a == b,
    }
}

/// Bytes charged for a vector outside the heap: its buffer, its own three words, and the counts of the Arc, each as the
/// allocator rounds it.
pub(super) fn charge(bytes: &Bytes) -> usize {
    allocated(bytes.capacity()) + allocated(size_of::<Vec<u8>>() + 2 * size_of::<usize>())
}

/// What jemalloc takes for `bytes`: its sizes are four for each doubling, and at least 16 apart
/// (<https://jemalloc.net/jemalloc.3.html>, "size classes").
#[inline]
pub fn allocated(bytes: usize) -> usize {
    let step = (bytes.saturating_sub(1).max(1).ilog2()).saturating_sub(2).max(4);
    bytes.div_ceil(1 << step) << step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allocator_rounds_to_a_quarter_of_a_power_of_two() {
        let sizes = [(0, 0), (1, 16), (17, 32), (128, 128), (129, 160), (4096, 4096), (4097, 5120), (70_000, 81_920)];
        for (bytes, taken) in sizes {
            assert_eq!(allocated(bytes), taken, "{bytes}");
        }
    }

    #[test]
    fn keys_that_differ_in_any_one_byte_differ() {
        for len in 0..70 {
            let key: Vec<u8> = (0..len).collect();
            assert!(same(&key, &key.clone()));
            for at in 0..key.len() {
                let mut other = key.clone();
                other[at] ^= 1;
                assert!(!same(&key, &other));
                assert!(!same(&key, &key[..at]));
            }
        }
    }
}
