//! Evacuation: emptying a slab that has few live chunks, so that its memory can serve another size.
//!
//! When the sizes of values shift, a class keeps slabs of which only a few chunks are live, and their free chunks are of
//! no use to other classes. A heap cannot move chunks by itself, since it does not know who holds their handles; so it
//! names chunks that should move ([`Heap::next_evacuee`]), and its owner moves each with its contents: allocates
//! another of the same size, copies, tells everyone, frees. The slab that is being evacuated gives out no chunks, so it
//! only ever gets emptier, and is closed when the last chunk has left.
//!
//! A slab is evacuated only if its class has free chunks for what is left in it, so this never opens a new slab.
//!
//! Owned by one core.

use super::{CHUNK_BYTES_MIN, CLASS_BYTES, CLASSES, Handle, Heap, SLAB_BYTES, SLAB_UNITS, UNIT_BYTES, chunks_of};

/// Bytes in free chunks above which slabs are evacuated: about a slab for each class, and 1/16 of the heap.
const WASTE_BYTES_MIN: usize = 2 * 1024 * 1024;
const WASTE_PART: usize = 16;

/// Chunks in a slab of the smallest class.
const CHUNKS_MAX: usize = SLAB_BYTES / CHUNK_BYTES_MIN;

/// The slab that is being evacuated.
pub(super) struct Evacuation {
    slab: u32,
    /// One bit for each of its chunks that is live.
    live: [u64; CHUNKS_MAX / 64],
}

impl Heap {
    /// Bytes in open slabs that are not in live chunks.
    #[inline]
    pub(in super::super) fn waste_bytes(&self) -> usize {
        self.open * SLAB_BYTES - self.live_bytes
    }

    /// Whether so much memory lies in free chunks that slabs should be evacuated.
    #[inline]
    pub(in super::super) fn is_wasteful(&self) -> bool {
        self.waste_bytes() > WASTE_BYTES_MIN.max(self.open * (SLAB_BYTES / WASTE_PART))
    }

    /// A live chunk that should move, and its size; None if there is nothing to be gained.
    pub(in super::super) fn next_evacuee(&mut self) -> Option<(Handle, usize)> {
        if let Some(evacuation) = &self.evacuation
            && self.listed[self.slabs[evacuation.slab as usize].class as usize] == 0
        {
            // What was free elsewhere has been taken meanwhile.
            self.end_evacuation();
        }
        if self.evacuation.is_none() && !self.begin_evacuation() {
            return None;
        }
        let evacuation = self.evacuation.as_deref()?;
        let class = self.slabs[evacuation.slab as usize].class as usize;
        let word = evacuation.live.iter().position(|&word| word != 0)?;
        let chunk = word * 64 + evacuation.live[word].trailing_zeros() as usize;
        let bytes = CLASS_BYTES[class] as usize;
        Some((Handle(evacuation.slab * SLAB_UNITS + (chunk * bytes / UNIT_BYTES) as u32), bytes))
    }

    #[inline]
    pub(super) fn is_evacuated(&self, index: u32) -> bool {
        self.evacuation.as_ref().is_some_and(|evacuation| evacuation.slab == index)
    }

    /// A chunk of the slab that is being evacuated was freed.
    #[cold]
    pub(super) fn forget_evacuated(&mut self, handle: Handle) {
        let Some(evacuation) = &mut self.evacuation else { return };
        let slab = &self.slabs[evacuation.slab as usize];
        let chunk = handle.0 % SLAB_UNITS / (CLASS_BYTES[slab.class as usize] as u32 / UNIT_BYTES as u32);
        evacuation.live[chunk as usize / 64] &= !(1 << (chunk % 64));
        if slab.live == 0 {
            self.evacuation = None;
        }
    }

    /// Chooses a slab of the class with the most memory in free chunks.
    #[cold]
    fn begin_evacuation(&mut self) -> bool {
        let free = |class: usize| self.open_of[class] * chunks_of(class) as u32 - self.live_of[class];
        // One slab's worth of free chunks: those of the emptiest slab itself and, elsewhere, as many as it has live ones.
        let fit = |class: &usize| free(*class) >= chunks_of(*class) as u32;
        let bytes = |class: &usize| free(*class) as usize * CLASS_BYTES[*class] as usize;
        let Some(class) = (0..CLASSES).filter(fit).max_by_key(bytes) else { return false };
        let slab = self.first[class][self.listed[class].trailing_zeros() as usize];
        let mut live = [0; CHUNKS_MAX / 64];
        for handle in self.live_chunks(slab) {
            let chunk = handle.0 % SLAB_UNITS / (CLASS_BYTES[class] as u32 / UNIT_BYTES as u32);
            live[chunk as usize / 64] |= 1 << (chunk % 64);
        }
        self.unlist(slab);
        self.evacuation = Some(Box::new(Evacuation { slab, live }));
        true
    }

    fn end_evacuation(&mut self) {
        if let Some(evacuation) = self.evacuation.take() {
            self.list(evacuation.slab);
        }
    }

    #[cfg(test)]
    pub(super) fn evacuated_chunks(&self) -> Vec<Handle> {
        let Some(evacuation) = &self.evacuation else { return Vec::new() };
        let units = CLASS_BYTES[self.slabs[evacuation.slab as usize].class as usize] as u32 / UNIT_BYTES as u32;
        let live =
            (0..CHUNKS_MAX as u32).filter(|chunk| evacuation.live[*chunk as usize / 64] >> (chunk % 64) & 1 == 1);
        live.map(|chunk| Handle(evacuation.slab * SLAB_UNITS + chunk * units)).collect()
    }
}
