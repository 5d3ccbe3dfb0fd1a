//! Places with stable numbers, in pieces of 64: growing never moves more than one piece, and a piece in which nothing is
//! left goes back to the allocator.
//!
//! Owned by the core whose shard holds the collection.

use std::ops::{Index, IndexMut};

use super::growth;

/// Places in a piece: as many as a word has bits.
const PIECE: usize = u64::BITS as usize;
const FULL: u64 = u64::MAX;

#[derive(Clone, Debug)]
struct Piece<T> {
    /// Invariant: at most [`PIECE`]; empty if no place is taken.
    slots: Vec<T>,
    /// A bit for each place that is taken.
    taken: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Arena<T> {
    pieces: Vec<Piece<T>>,
    /// Invariant: exactly the pieces that have free places, each once.
    open: Vec<u32>,
    /// Bytes charged for the slots of all pieces.
    slot_bytes: usize,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena { pieces: Vec::new(), open: Vec::new(), slot_bytes: 0 }
    }
}

impl<T: Default> Arena<T> {
    /// Puts `value` into a free place; its number.
    pub fn insert(&mut self, value: T) -> u32 {
        let Some(&at) = self.open.last() else {
            growth::reserve(&mut self.pieces, 1);
            self.pieces.push(Piece { slots: Vec::new(), taken: 0 });
            self.open.push(self.pieces.len() as u32 - 1);
            return self.insert(value);
        };
        let piece = &mut self.pieces[at as usize];
        let slot = piece.taken.trailing_ones() as usize;
        if slot < piece.slots.len() {
            piece.slots[slot] = value;
        } else {
            let before = growth::charge(&piece.slots);
            // Only the first piece is worth starting small.
            let more = if at == 0 { 1 } else { PIECE };
            if piece.slots.len() == piece.slots.capacity() {
                growth::reserve(&mut piece.slots, more.min(PIECE - slot));
            }
            piece.slots.push(value);
            self.slot_bytes += growth::charge(&piece.slots) - before;
        }
        piece.taken |= 1 << slot;
        if piece.taken == FULL {
            self.open.pop();
        }
        at * PIECE as u32 + slot as u32
    }

    /// Frees a place; what was there.
    pub fn remove(&mut self, id: u32) -> T {
        let (at, slot) = (id as usize / PIECE, id as usize % PIECE);
        let piece = &mut self.pieces[at];
        debug_assert!(piece.taken & 1 << slot != 0);
        let value = std::mem::take(&mut piece.slots[slot]);
        if piece.taken == FULL {
            growth::reserve(&mut self.open, 1);
            self.open.push(at as u32);
        }
        piece.taken &= !(1 << slot);
        if piece.taken == 0 {
            self.slot_bytes -= growth::charge(&piece.slots);
            piece.slots = Vec::new();
        }
        value
    }

    /// The contents of one piece, which is gone then; None if there is no piece.
    pub fn pop_piece(&mut self) -> Option<Vec<T>> {
        let piece = self.pieces.pop()?;
        self.slot_bytes -= growth::charge(&piece.slots);
        Some(piece.slots)
    }

    /// Counts the bytes anew, after cloning.
    pub fn recount(&mut self) {
        self.slot_bytes = self.pieces.iter().map(|piece| growth::charge(&piece.slots)).sum();
    }
}

impl<T> Arena<T> {
    /// Bytes charged, without what the values own.
    pub fn bytes(&self) -> usize {
        self.slot_bytes + growth::charge(&self.pieces) + growth::charge(&self.open)
    }

    /// The values.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flat_map(|piece| {
            piece.slots.iter().enumerate().filter(|(slot, _)| piece.taken & 1 << slot != 0).map(|(_, value)| value)
        })
    }

    /// Checks the structure.
    #[cfg(test)]
    pub fn validate(&self) {
        let mut open = self.open.clone();
        open.sort();
        let expected = (0..self.pieces.len()).filter(|&at| self.pieces[at].taken != FULL);
        assert!(open.into_iter().eq(expected.map(|at| at as u32)));
        for piece in &self.pieces {
            assert!(piece.slots.len() <= PIECE);
            assert!((u64::BITS - piece.taken.leading_zeros()) as usize <= piece.slots.len());
            assert!(piece.taken != 0 || piece.slots.capacity() == 0);
        }
        assert_eq!(self.slot_bytes, self.pieces.iter().map(|piece| growth::charge(&piece.slots)).sum::<usize>());
    }
}

impl<T> Index<u32> for Arena<T> {
    type Output = T;

    #[inline]
    fn index(&self, id: u32) -> &T {
        &self.pieces[id as usize / PIECE].slots[id as usize % PIECE]
    }
}

impl<T> IndexMut<u32> for Arena<T> {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut T {
        &mut self.pieces[id as usize / PIECE].slots[id as usize % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_keep_their_numbers() {
        let mut arena = Arena::default();
        let ids: Vec<u32> = (0..1000).map(|n| arena.insert(n)).collect();
        arena.validate();
        assert!(ids.iter().enumerate().all(|(n, &id)| arena[id] == n));
        // Every second one, then all of some pieces.
        for id in ids.iter().copied().filter(|id| id % 2 == 0 || (200..500).contains(id)) {
            assert_eq!(arena.remove(id), id as usize);
        }
        arena.validate();
        assert_eq!(arena.iter().count(), 350);
        let before = arena.bytes();
        (0..650).for_each(|_| {
            arena.insert(7);
        });
        arena.validate();
        assert!(arena.bytes() > before);
        assert_eq!(arena.pieces.len(), 1000usize.div_ceil(PIECE));
        while arena.pop_piece().is_some() {}
        assert_eq!(arena.slot_bytes, 0);
    }
}
