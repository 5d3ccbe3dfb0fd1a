//! A set of partitions: one bit for each.
//!
//! No state.

use super::SLOTS;

const WORD_BITS: usize = u64::BITS as usize;

/// See the module. What was never added is not in it, whatever its number.
#[derive(Clone, Debug, Default)]
pub struct PartitionSet {
    words: Vec<u64>,
}

impl PartitionSet {
    pub fn new() -> PartitionSet {
        PartitionSet::default()
    }

    /// Adds a partition; says whether it is new. There are no more than slots.
    pub fn insert(&mut self, partition: u16) -> bool {
        assert!(partition < SLOTS);
        let (at, bit) = (partition as usize / WORD_BITS, 1 << (partition as usize % WORD_BITS));
        if self.words.len() <= at {
            self.words.resize(at + 1, 0);
        }
        let is_new = self.words[at] & bit == 0;
        self.words[at] |= bit;
        is_new
    }

    /// Takes a partition out; says whether it was in.
    pub fn remove(&mut self, partition: u16) -> bool {
        let was_in = self.has(partition);
        if was_in {
            self.words[partition as usize / WORD_BITS] &= !(1 << (partition as usize % WORD_BITS));
        }
        was_in
    }

    #[inline]
    pub fn has(&self, partition: u16) -> bool {
        let word = self.words.get(partition as usize / WORD_BITS);
        word.is_some_and(|word| word >> (partition as usize % WORD_BITS) & 1 == 1)
    }

    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// All partitions, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..(self.words.len() * WORD_BITS) as u16).filter(|&partition| self.has(partition))
    }
}

impl PartialEq for PartitionSet {
    fn eq(&self, other: &PartitionSet) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for PartitionSet {}

impl FromIterator<u16> for PartitionSet {
    fn from_iter<I: IntoIterator<Item = u16>>(partitions: I) -> PartitionSet {
        let mut set = PartitionSet::new();
        partitions.into_iter().for_each(|partition| _ = set.insert(partition));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_added() {
        let mut set: PartitionSet = [0, 63, 64, SLOTS - 1, 64].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, SLOTS - 1]);
        assert_eq!((set.len(), set.has(64), set.has(65), set.has(u16::MAX)), (4, true, false, false));
        assert!(set.insert(65) && !set.insert(65) && set.remove(SLOTS - 1) && !set.remove(SLOTS - 1));
        assert_eq!(set, [65, 64, 63, 0].into_iter().collect());
        assert!(!set.is_empty() && PartitionSet::new().is_empty() && PartitionSet::new() == PartitionSet::default());
    }
}
