//! Key -> slot -> partition, and the hash that the tables use.
//!
//! The slot is Redis Cluster's (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>):
//! `CRC16(key) % 16384`, where a non-empty `{hashtag}` in the key stands for the whole key, so that a client can put
//! related keys together. The partition is the slot's top bits. The table hash is a separate, seeded one: slots are
//! public and fixed, so a hostile client could otherwise choose keys that all fall into one bucket.

use std::hash::{BuildHasher, Hasher as _};
use std::sync::LazyLock;

use crc::{CRC_16_XMODEM, Crc, Table};

/// Number of hash slots, fixed by the Redis Cluster protocol.
pub const SLOTS: u16 = 16384;

static CRC16: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_XMODEM);

/// The part of `key` that decides its slot: what stands between the first `{` and the next `}`, unless that is empty.
pub fn hashtag(key: &[u8]) -> &[u8] {
    if !may_have(key, b'{') {
        return key;
    }
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    match memchr::memchr(b'}', &key[open + 1..]) {
        Some(len) if len > 0 => &key[open + 1..open + 1 + len],
        _ => key,
    }
}

/// Whether `byte` may be in `key`. Most keys are short and have no tag: for them this is cheaper than a search. Always true
/// for long keys, and for those of fewer than eight bytes.
#[inline]
fn may_have(key: &[u8], byte: u8) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = key.as_chunks::<8>();
    let Some(last) = key.last_chunk::<8>().filter(|_| key.len() <= SCANNED_BYTES_MAX) else { return true };
    // A byte of the word is 0 where the byte looked for is; then, and only then, some top bit survives.
    let has = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word) ^ (LOW * byte as u64);
        word.wrapping_sub(LOW) & !word & (LOW << 7)
    };
    let found = words.iter().fold(0, |found, word| found | has(word));
    found | if rest.is_empty() { 0 } else { has(last) } != 0
}

/// Keys of up to this many bytes are looked through word by word.
const SCANNED_BYTES_MAX: usize = 48;

/// The hash slot of `key`, 0 to 16383.
#[inline]
pub fn slot_of(key: &[u8]) -> u16 {
    CRC16.checksum(hashtag(key)) % SLOTS
}

/// A short key of one of `partitions` partitions: a number, as text.
pub fn short_key(partition: u16, partitions: u16) -> Vec<u8> {
    let slot = partition as usize * (SLOTS / partitions) as usize;
    SHORT_KEYS[slot].to_string().into_bytes()
}

/// For each slot the least number whose text belongs to it.
static SHORT_KEYS: LazyLock<Box<[u32]>> = LazyLock::new(|| {
    const NONE: u32 = u32::MAX;
    let mut keys = vec![NONE; SLOTS as usize].into_boxed_slice();
    let (mut left, mut number, mut text) = (keys.len(), 0, itoa::Buffer::new());
    // Some 170,000 numbers, as slots are as good as random.
    while left > 0 {
        let key = &mut keys[slot_of(text.format(number).as_bytes()) as usize];
        left -= (*key == NONE) as usize;
        *key = number.min(*key);
        number += 1;
    }
    keys
});

/// A key with everything that is computed from its bytes once per request.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    pub bytes: &'a [u8],
    /// Seeded 64-bit hash; equal on all cores of one process.
    pub hash: u64,
    /// The partition the key belongs to.
    pub partition: u16,
}

/// Computes [`Key`]s: one seed and one partition count per process.
#[derive(Clone, Debug)]
pub struct Hasher {
    state: ahash::RandomState,
    /// `partition = slot >> shift`.
    shift: u32,
}

impl Hasher {
    /// A hasher for `partitions` partitions, a power of two up to [`SLOTS`], seeded with `seed`.
    pub fn new(partitions: u16, seed: [u64; 4]) -> Self {
        assert!(partitions.is_power_of_two() && partitions <= SLOTS);
        let state = ahash::RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]);
        Hasher { state, shift: (SLOTS / partitions).trailing_zeros() }
    }

    /// Number of partitions that keys fall into, those of other cores included.
    pub fn partitions(&self) -> u16 {
        SLOTS >> self.shift
    }

    #[inline]
    pub fn key<'a>(&self, bytes: &'a [u8]) -> Key<'a> {
        Key { bytes, hash: self.hash(bytes), partition: slot_of(bytes) >> self.shift }
    }

    #[inline]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write(bytes);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(slot_of(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        // An empty tag is no tag; only the first one counts; `{` may be part of a tag.
        assert_eq!(slot_of(b"foo{}{bar}"), CRC16.checksum(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b""), 0);
        for (len, at) in (2..60).flat_map(|len| (0..len - 1).map(move |at| (len, at))) {
            let mut key = vec![b'z'; len];
            key[at] = b'{';
            assert_eq!(slot_of(&key), CRC16.checksum(&key) % SLOTS);
            key[len - 1] = b'}';
            let tag = &key[at + 1..len - 1];
            assert_eq!(slot_of(&key), CRC16.checksum(if tag.is_empty() { &key } else { tag }) % SLOTS);
        }
    }

    #[test]
    fn every_partition_has_a_short_key() {
        for partitions in (0..=14).map(|log| 1 << log) {
            let hasher = Hasher::new(partitions, [1, 2, 3, 4]);
            for partition in 0..partitions {
                let key = short_key(partition, partitions);
                assert_eq!(hasher.key(&key).partition, partition);
                assert!(key.len() <= 6);
            }
        }
    }

    #[test]
    fn partitions_cover_the_slots_evenly() {
        let hasher = Hasher::new(256, [1, 2, 3, 4]);
        let mut seen = [0u32; 256];
        for i in 0..25_600 {
            seen[hasher.key(format!("key:{i}").as_bytes()).partition as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (40..200).contains(&n)), "{seen:?}");
    }
}
