//! A set of partitions: one bit for each. As text it is `0-3,7`.
//!
//! No state.

use std::fmt;

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

impl PartitionSet {
    /// The set that a text names, of partitions below `count`; None: it names none, or nonsense.
    pub fn parse(text: &str, count: u16) -> Option<PartitionSet> {
        let mut set = PartitionSet::new();
        for range in text.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
            let (first, last): (u16, u16) = (number(first)?, number(last)?);
            if first > last || last >= count.min(SLOTS) {
                return None;
            }
            (first..=last).for_each(|partition| _ = set.insert(partition));
        }
        Some(set)
    }
}

impl fmt::Display for PartitionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<u16> = self.iter().collect();
        for (at, range) in numbers.chunk_by(|one, next| one + 1 == *next).enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match range {
                [one] => write!(f, "{comma}{one}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
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

    #[test]
    fn a_set_is_read_as_it_is_written() {
        for (numbers, text) in [(&[][..], ""), (&[7], "7"), (&[0, 1, 2, 3, 7, 9, 10], "0-3,7,9-10")] {
            let set: PartitionSet = numbers.iter().copied().collect();
            assert_eq!(set.to_string(), text);
            assert_eq!(PartitionSet::parse(text, 11), Some(set).filter(|set| !set.is_empty()));
        }
        assert_eq!(PartitionSet::parse("3,1,2-3", 4).unwrap().to_string(), "1-3");
        assert_eq!(PartitionSet::parse("0-16383", SLOTS).unwrap().len(), SLOTS as usize);
        for wrong in ["", ",", "1,", "-1", "1-", "3-2", "4", "0-4", "+1", "1 ", "a", "99999", "0-1-2"] {
            assert_eq!(PartitionSet::parse(wrong, 4), None, "{wrong}");
        }
    }
}
