//! A small generator of random numbers for choices among elements: SPOP, SRANDMEMBER, HRANDFIELD.
//!
//! SplitMix64 (Steele, Lea, Flood 2014, OOPSLA, "Fast splittable pseudorandom number generators"): one word of state,
//! seeded anew for each command. Fair, not secret. No core owns anything here.

/// A sequence of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    #[inline]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Any 64 bits.
    #[inline]
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0. Lemire's product without the rejection: off by less than `end / 2^64`.
    #[inline]
    pub fn below(&mut self, end: usize) -> usize {
        ((self.word() as u128 * end as u128) >> 64) as usize
    }
}

/// Visits `count` of the `len` items of `items`, every choice of so many equally likely, in their order.
///
/// Selection sampling (Knuth, The Art of Computer Programming, volume 2, 3.4.2, algorithm S): an item is taken with the
/// chance (still to be taken) / (still to come).
pub fn select<T>(
    items: impl Iterator<Item = T>,
    len: usize,
    count: usize,
    random: &mut Random,
    mut visit: impl FnMut(T),
) {
    let (mut left, mut wanted) = (len, count.min(len));
    for item in items {
        if wanted == 0 {
            break;
        }
        if random.below(left) < wanted {
            wanted -= 1;
            visit(item);
        }
        left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_selected_equally_often() {
        let mut random = Random::new(5);
        let mut chosen = [0u32; 10];
        for _ in 0..10_000 {
            let mut last = None;
            let mut taken = 0;
            select(0..10, 10, 3, &mut random, |item: usize| {
                assert!(last < Some(item));
                last = Some(item);
                chosen[item] += 1;
                taken += 1;
            });
            assert_eq!(taken, 3);
        }
        // 3000 are expected of each, with a standard deviation of 46.
        assert!(chosen.iter().all(|n| (2700..3300).contains(n)), "{chosen:?}");
        let mut all = Vec::new();
        select(0..10, 10, 99, &mut random, |item| all.push(item));
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }
}
