//! Which cores have subscribers: what a core tells the others of its own subscriptions, and what they have told it.
//!
//! A message has to reach every core with a subscriber and should reach no other. To know all channels of all cores would
//! take the memory of all subscriptions once more on each core; to know only which cores have any subscriber would send
//! every message everywhere on a node that is used. In between, names fall into [`BUCKETS`] by their hash, and cores know
//! of each other in which buckets they have subscriptions: a fixed number of bits, and rarely a message for nothing. All
//! patterns are in one more bucket, for which every message is meant. The hash is keyed, so nobody can aim at a bucket.
//!
//! # No message is lost, none is sent for nothing
//!
//! A core counts its subscriptions per bucket. A subscription is confirmed only when all others have *acknowledged* that
//! this core has something in its bucket: what anybody publishes later, knowing of the confirmation, is sent here. That a
//! bucket has become empty is told without an acknowledgement, at the end of a turn, if it is still empty then. Both travel
//! the same way in order, and while an acknowledgement is awaited the bucket is counted as used, so the last thing that the
//! others hear of a bucket is what is so.
//!
//! Owned by one core.

use crate::route::{CoreId, Hasher};

/// Buckets of channels. With 64 cores what is known takes 32 KiB per core.
pub const BUCKETS: usize = 4096;

/// Index of a bucket.
pub type Bucket = u16;

/// The bucket of all patterns, behind those of channels.
const PATTERNS: Bucket = BUCKETS as Bucket;

const ALL_BUCKETS: usize = BUCKETS + 1;
const WORD_BITS: usize = u64::BITS as usize;

/// This core's side of a bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    /// Subscriptions, and names that are about to be subscribed.
    count: u32,
    /// All other cores know that there are some. Invariant: set while one is subscribed.
    told: bool,
}

/// See the module. Both tables are made when they are first needed; with one core they never are.
#[derive(Debug)]
pub struct Interest {
    me: CoreId,
    cores: u16,
    hasher: Hasher,
    own: Vec<Own>,
    /// Buckets that were told and have become empty since; they may have been filled again.
    emptied: Vec<Bucket>,
    /// For each bucket one bit per core.
    others: Vec<u64>,
    /// Invariant: the number of bits in `others`.
    others_set: usize,
}

impl Interest {
    pub fn new(me: CoreId, cores: u16, hasher: Hasher) -> Self {
        Interest { me, cores, hasher, own: Vec::new(), emptied: Vec::new(), others: Vec::new(), others_set: 0 }
    }

    /// The hash of a name, the same on all cores.
    pub fn hash(&self, kind: super::Kind, name: &[u8]) -> u64 {
        // Channels and shard channels of the same name are different names.
        self.hasher.hash(name) ^ (kind as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    pub fn bucket(&self, kind: super::Kind, name: &[u8]) -> Bucket {
        match kind {
            super::Kind::Pattern => PATTERNS,
            _ => (self.hash(kind, name) % BUCKETS as u64) as Bucket,
        }
    }

    /// Counts one more subscription; false if the others have to be told of it before it is confirmed.
    pub fn count(&mut self, bucket: Bucket) -> bool {
        if self.cores == 1 {
            return true;
        }
        self.own.resize(ALL_BUCKETS, Own::default());
        let own = &mut self.own[bucket as usize];
        own.count += 1;
        own.told
    }

    /// Counts one less.
    pub fn uncount(&mut self, bucket: Bucket) {
        let Some(own) = self.own.get_mut(bucket as usize) else { return };
        debug_assert!(own.count > 0, "bucket {bucket} is empty");
        own.count = own.count.saturating_sub(1);
        if own.count == 0 && own.told {
            self.emptied.push(bucket);
        }
    }

    /// All others know of `buckets`, which are in use.
    pub fn told(&mut self, buckets: &[Bucket]) {
        for &bucket in buckets {
            if let Some(own) = self.own.get_mut(bucket as usize) {
                debug_assert!(own.count > 0, "bucket {bucket} was told and is empty");
                own.told = true;
            }
        }
    }

    /// Buckets that the others take for used and that are not, once.
    pub fn withdraw(&mut self) -> Vec<Bucket> {
        let mut buckets = std::mem::take(&mut self.emptied);
        buckets.retain(|&bucket| {
            let own = &mut self.own[bucket as usize];
            own.count == 0 && std::mem::take(&mut own.told)
        });
        buckets
    }

    /// Another core uses `buckets`, or (`on` is false) does not any more.
    pub fn note(&mut self, core: CoreId, buckets: &[Bucket], on: bool) {
        debug_assert!(core != self.me && core < self.cores, "core {core} is no other data core");
        let words = self.words();
        self.others.resize(ALL_BUCKETS * words, 0);
        for &bucket in buckets {
            let word = &mut self.others[bucket as usize * words + core as usize / WORD_BITS];
            let bit = 1 << (core as usize % WORD_BITS);
            let was = *word & bit != 0;
            *word = if on { *word | bit } else { *word & !bit };
            self.others_set = self.others_set + (on && !was) as usize - (!on && was) as usize;
        }
    }

    /// Whether any other core uses any bucket.
    #[inline]
    pub fn anyone_else(&self) -> bool {
        self.others_set > 0
    }

    /// Whether another core uses a bucket.
    pub fn has_others(&self, bucket: Bucket) -> bool {
        let words = self.words();
        self.others.get(bucket as usize * words..).is_some_and(|rest| rest[..words].iter().any(|&word| word != 0))
    }

    /// The other cores that may have subscribers of a channel, ascending.
    pub fn cores_of(&self, kind: super::Kind, channel: &[u8]) -> impl Iterator<Item = CoreId> {
        let words = if self.others_set == 0 { 0 } else { self.words() };
        let at = if words == 0 { 0 } else { self.bucket(kind, channel) as usize * words };
        let patterns = if words == 0 { 0 } else { PATTERNS as usize * words };
        let with_patterns = kind == super::Kind::Channel;
        (0..words).flat_map(move |word| {
            let matching = if with_patterns { self.others[patterns + word] } else { 0 };
            let mut bits = self.others[at + word] | matching;
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits.wrapping_sub(1);
                (bit < WORD_BITS).then_some((word * WORD_BITS + bit) as CoreId)
            })
        })
    }

    fn words(&self) -> usize {
        (self.cores as usize).div_ceil(WORD_BITS)
    }

    /// Panics unless the counts are those of `subscriptions`, buckets with numbers of subscriptions.
    pub fn validate(&self, subscriptions: impl Iterator<Item = (Bucket, usize)>) {
        let ones: usize = self.others.iter().map(|word| word.count_ones() as usize).sum();
        assert_eq!(ones, self.others_set);
        if self.cores == 1 {
            return assert!(self.own.is_empty() && self.others.is_empty());
        }
        let mut counts = vec![0; ALL_BUCKETS];
        subscriptions.for_each(|(bucket, n)| counts[bucket as usize] += n);
        for (bucket, own) in self.own.iter().enumerate() {
            assert_eq!(own.count as usize, counts[bucket], "bucket {bucket}");
            assert!(own.told || own.count == 0, "bucket {bucket} is subscribed and not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn interest(me: CoreId, cores: u16) -> Interest {
        Interest::new(me, cores, Hasher::new(256, [1, 2, 3, 4]))
    }

    #[test]
    fn the_first_subscription_of_a_bucket_is_told_and_the_last_one_withdrawn() {
        let mut own = interest(0, 2);
        assert!(!own.count(5));
        assert!(!own.count(5), "nobody has acknowledged yet");
        own.told(&[5]);
        assert!(own.count(5));
        (0..3).for_each(|_| own.uncount(5));
        // In use again before the turn ends: nothing to tell.
        assert!(own.count(5));
        assert_eq!(own.withdraw(), [0; 0]);
        own.uncount(5);
        assert_eq!(own.withdraw(), [5]);
        assert_eq!(own.withdraw(), [0; 0]);
        assert!(!own.count(5));
    }

    #[test]
    fn a_core_alone_tells_nobody() {
        let mut own = interest(0, 1);
        assert!(own.count(5));
        own.uncount(5);
        assert_eq!(own.withdraw(), [0; 0]);
        assert_eq!(own.cores_of(Kind::Channel, b"a").count(), 0);
        own.validate(std::iter::empty());
    }

    #[test]
    fn messages_go_to_the_cores_that_may_want_them() {
        let mut seen = interest(1, 200);
        let cores = |seen: &Interest, kind, name: &[u8]| seen.cores_of(kind, name).collect::<Vec<_>>();
        assert!(!seen.anyone_else());
        let a = seen.bucket(Kind::Channel, b"a");
        seen.note(0, &[a], true);
        seen.note(130, &[a, seen.bucket(Kind::Shard, b"a")], true);
        seen.note(63, &[a], true);
        seen.note(64, &[seen.bucket(Kind::Pattern, b"x*")], true);
        assert_eq!(cores(&seen, Kind::Channel, b"a"), [0, 63, 64, 130]);
        assert_eq!(cores(&seen, Kind::Channel, b"b"), [64]);
        assert_eq!(cores(&seen, Kind::Shard, b"a"), [130]);
        assert_eq!(cores(&seen, Kind::Shard, b"b"), [0; 0]);
        assert!(seen.has_others(a));
        seen.note(0, &[a], false);
        seen.note(0, &[a], false);
        seen.note(130, &[a], false);
        seen.note(63, &[a], false);
        assert!(!seen.has_others(a));
        assert!(seen.anyone_else());
        assert_eq!(cores(&seen, Kind::Channel, b"a"), [64]);
        seen.validate(std::iter::empty());
    }
}
