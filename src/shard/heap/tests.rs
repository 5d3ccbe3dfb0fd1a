//! The heap: its invariants, and chunks that come, go and move.

use super::*;

impl Heap {
    /// Checks every invariant and returns all live chunks.
    pub(in crate::shard) fn validate(&self) -> Vec<Handle> {
        let mut listed = vec![false; self.slabs.len()];
        for (class, level) in (0..CLASSES).flat_map(|class| (0..LEVELS).map(move |level| (class, level))) {
            let (mut prev, mut index) = (0, self.first[class][level]);
            assert_eq!(index != 0, self.listed[class] >> level & 1 == 1);
            while index != 0 {
                let slab = &self.slabs[index as usize];
                assert!(!std::mem::replace(&mut listed[index as usize], true), "slab {index} is listed twice");
                assert_eq!((slab.class as usize, slab.prev, slab.open), (class, prev, true));
                assert_eq!((slab.level, slab.level), (level as u8, slab.level_by_fill()));
                (prev, index) = (index, slab.next);
            }
        }
        let mut pooled = vec![false; self.slabs.len()];
        for &index in self.warm.iter().chain(&self.cold) {
            assert!(!std::mem::replace(&mut pooled[index as usize], true), "slab {index} is in the pool twice");
        }
        assert!(self.warm.len() <= RESIDENT_FREE_SLABS_MAX);
        let mut live = Vec::new();
        for (index, slab) in self.slabs.iter().enumerate().skip(1) {
            assert_ne!(slab.open, pooled[index], "slab {index} is in a class or in the pool");
            let chunks = if slab.open { self.live_chunks(index as u32) } else { Vec::new() };
            assert_eq!(chunks.len(), slab.live as usize, "live chunks of slab {index}");
            let partial = slab.open && slab.live < chunks_of(slab.class as usize);
            assert_eq!(listed[index], partial && !self.is_evacuated(index as u32));
            assert!(!self.is_evacuated(index as u32) || self.evacuated_chunks() == chunks);
            assert!(!slab.open || slab.live > 0, "slab {index} is empty but not in the pool");
            live.extend(chunks);
        }
        assert_eq!(self.open, self.slabs.iter().filter(|slab| slab.open).count());
        for class in 0..CLASSES {
            let slabs = || self.slabs.iter().filter(|slab| slab.open && slab.class as usize == class);
            assert_eq!(self.open_of[class] as usize, slabs().count());
            assert_eq!(self.live_of[class], slabs().map(|slab| slab.live as u32).sum::<u32>());
        }
        let bytes = |class: usize| self.live_of[class] as usize * CLASS_BYTES[class] as usize;
        assert_eq!(self.live_bytes, (0..CLASSES).map(bytes).sum::<usize>());
        live
    }

    pub(in crate::shard) fn open_slabs(&self) -> usize {
        self.open
    }
}

#[test]
fn classes_are_an_eighth_apart() {
    for bytes in 0..=CHUNK_BYTES_MAX {
        let chunk = chunk_bytes(bytes);
        assert!(chunk >= bytes && chunk.is_multiple_of(UNIT_BYTES));
        assert!(bytes <= CHUNK_BYTES_MIN || chunk - bytes <= (bytes / 8).max(UNIT_BYTES - 1), "{bytes} -> {chunk}");
    }
}

#[test]
fn chunks_are_disjoint_and_slabs_return_to_the_pool() {
    let mut heap = Heap::new(1 << 24).unwrap();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut live: Vec<(Handle, usize)> = Vec::new();
    for step in 0..200_000 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let grow = (step / 10_000) % 2 == 0;
        if live.is_empty() || (random >> 40) % 100 < if grow { 55 } else { 40 } {
            let bytes = CHUNK_BYTES_MIN + (random >> 33) as usize % 600;
            live.push((heap.allocate(bytes).unwrap(), bytes));
        } else {
            let (handle, _) = live.swap_remove((random >> 33) as usize % live.len());
            heap.free(handle);
        }
    }
    let mut ranges: Vec<_> = live.iter().map(|(h, bytes)| (h.0 as usize * 8, h.0 as usize * 8 + bytes)).collect();
    ranges.sort();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    assert_eq!(heap.validate().len(), live.len());
    for (handle, _) in live {
        heap.free(handle);
    }
    heap.validate();
    assert_eq!(heap.open_slabs(), 0);
}

#[test]
fn a_freed_slab_serves_another_class() {
    let mut heap = Heap::new(8 * SLAB_BYTES).unwrap();
    let small: Vec<_> = std::iter::from_fn(|| heap.allocate(16).ok()).collect();
    assert_eq!(small.len(), 7 * SLAB_BYTES / 16);
    assert!(matches!(heap.allocate(4096), Err(HeapError::Full(_))));
    small.iter().for_each(|&handle| heap.free(handle));
    let large: Vec<_> = std::iter::from_fn(|| heap.allocate(4096).ok()).collect();
    assert_eq!(large.len(), 7 * 16);
    heap.validate();
}

#[test]
#[should_panic(expected = "freed twice")]
#[cfg(debug_assertions)]
fn a_second_free_is_noticed() {
    let mut heap = Heap::new(8 * SLAB_BYTES).unwrap();
    let (first, _second) = (heap.allocate(16).unwrap(), heap.allocate(16).unwrap());
    heap.free(first);
    heap.free(first);
}

#[test]
fn an_evacuated_slab_ends_empty_and_no_other_is_opened() {
    let mut heap = Heap::new(1 << 26).unwrap();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut live: Vec<Handle> = (0..200_000).map(|_| heap.allocate(100).unwrap()).collect();
    assert!(!heap.is_wasteful());
    // Nine of ten go, at random: every slab keeps some.
    live.retain(|&handle| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let stays = (random >> 33).is_multiple_of(10);
        if !stays {
            heap.free(handle);
        }
        stays
    });
    let before = heap.open_slabs();
    let mut moves = 0;
    while heap.is_wasteful() {
        let (old, bytes) = heap.next_evacuee().unwrap();
        let new = heap.allocate(bytes).unwrap();
        heap.free(old);
        let at = live.iter().position(|&handle| handle == old).unwrap();
        live[at] = new;
        moves += 1;
        if moves % 1_000 == 0 {
            heap.validate();
        }
        assert!(heap.open_slabs() <= before);
    }
    let mut found = heap.validate();
    found.sort_by_key(|handle| handle.0);
    live.sort_by_key(|handle| handle.0);
    assert_eq!(found, live);
    assert!(heap.waste_bytes() <= 2 << 20, "{} of {before} slabs are left", heap.open_slabs());
}
