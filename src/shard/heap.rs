//! The slab heap of one shard: where its entries lie.
//!
//! One large reservation of address space is cut into slabs of 64 KiB; a slab is cut into chunks of one size class. A
//! chunk is named by a [`Handle`], its offset in units of 8 bytes, so that 32 bits reach 32 GiB and a chunk can move as
//! long as everyone who holds its handle is told.
//!
//! - Sizes are 1/8 apart (never less than 8 bytes), up to 4 KiB: at most 1/8 of a chunk is unused.
//! - Each slab has its own list of free chunks, threaded through the chunks themselves; chunks that were never used are
//!   handed out in order, so that a fresh slab costs no memory it does not need.
//! - A slab without live chunks goes back to a pool that all classes share. The pool keeps a few of them resident and
//!   returns the memory of the others to the kernel.
//! - The slabs of a class that have free chunks are listed by how full they are. Chunks come from the fullest ones, so
//!   that the emptiest ones drain; and when too much of the memory lies in free chunks, one of these is emptied by moving
//!   what is left in it ([`evacuation`]).
//!
//! Invariant: a slab is on a list of its class exactly if it has both live and free chunks and is not being evacuated. A
//! chunk is live or free, never both. Slab 0 is not used, so that handle 0 can mean "none". `live_bytes` is the sum of
//! the sizes of all live chunks.
//!
//! Owned by one core; nothing here is shared.

use std::io;
use std::ptr::NonNull;

mod evacuation;

use evacuation::Evacuation;

/// Bytes of one slab.
pub(super) const SLAB_BYTES: usize = 64 * 1024;

/// Largest chunk, bytes.
pub(super) const CHUNK_BYTES_MAX: usize = 4096;

/// Smallest chunk, bytes.
const CHUNK_BYTES_MIN: usize = 16;

/// Bytes that one step of a handle stands for; chunks are aligned to it.
const UNIT_BYTES: usize = 8;

const SLAB_UNITS: u32 = (SLAB_BYTES / UNIT_BYTES) as u32;

/// The smallest handle of a chunk: slab 0 is not used.
pub(super) const FIRST_HANDLE: u32 = SLAB_UNITS;

/// Address space that a heap reserves, bytes: what handles can reach.
pub(super) const RESERVE_BYTES: usize = 1 << 35;

/// Smallest reservation that a heap tries before it gives up, bytes.
const RESERVE_BYTES_MIN: usize = 4 * SLAB_BYTES;

/// Free slabs that keep their memory, so that a class that empties and fills again causes no page faults.
const RESIDENT_FREE_SLABS_MAX: usize = 16;

/// 16 to 64 in steps of 8, then eight sizes for each doubling up to 4 KiB.
const CLASSES: usize = 7 + 6 * 8;

const CLASS_BYTES: [u16; CLASSES] = {
    let mut sizes = [0; CLASSES];
    let (mut class, mut bytes) = (0, CHUNK_BYTES_MIN);
    while class < CLASSES {
        sizes[class] = bytes as u16;
        let octave = 1 << bytes.ilog2();
        bytes += if octave / 8 > UNIT_BYTES { octave / 8 } else { UNIT_BYTES };
        class += 1;
    }
    assert!(sizes[CLASSES - 1] as usize == CHUNK_BYTES_MAX);
    sizes
};

/// Smallest class that holds so many units.
const CLASS_OF_UNITS: [u8; CHUNK_BYTES_MAX / UNIT_BYTES + 1] = {
    let mut classes = [0; CHUNK_BYTES_MAX / UNIT_BYTES + 1];
    let (mut units, mut class) = (0, 0);
    while units < classes.len() {
        if units * UNIT_BYTES > CLASS_BYTES[class] as usize {
            class += 1;
        }
        classes[units] = class as u8;
        units += 1;
    }
    classes
};

/// Steps of fullness by which the slabs of a class are told apart.
const LEVELS: usize = 8;

/// The level of a slab that is on no list: it is full, or it is being evacuated.
const UNLISTED: u8 = LEVELS as u8;

/// How far the number of live chunks is shifted to become a level, by class: at least 4 of the levels are in use.
const LEVEL_SHIFT: [u8; CLASSES] = {
    let (mut shifts, mut class) = ([0; CLASSES], 0);
    while class < CLASSES {
        shifts[class] = (chunks_of(class).ilog2() as u8).saturating_sub(2);
        assert!(chunks_of(class) >> shifts[class] < LEVELS as u16);
        class += 1;
    }
    shifts
};

/// The place of a chunk: its offset in the heap in units of 8 bytes. 0 is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub(super) struct Handle(pub(super) u32);

impl Handle {
    pub(super) const NONE: Handle = Handle(0);

    #[inline]
    fn slab(self) -> usize {
        (self.0 / SLAB_UNITS) as usize
    }
}

/// The reservation is used up, or there was none to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeapError {
    #[error("the heap's {0} bytes of address space are used up")]
    Full(usize),
    #[error("cannot reserve address space for the heap: {0}")]
    Reserve(io::Error),
}

#[derive(Clone, Copy, Default)]
struct Slab {
    /// First free chunk, as the number of a handle; each free chunk begins with the number of the next.
    free: u32,
    /// Neighbours on the class's list; 0 is none.
    prev: u32,
    next: u32,
    /// Chunks that have been handed out at least once: the first ones of the slab.
    used: u16,
    /// Chunks that are in use. Invariant: `live <= used`.
    live: u16,
    class: u8,
    /// The list that the slab is on, or [`UNLISTED`].
    level: u8,
    /// Part of a class, not of the pool.
    open: bool,
}

impl Slab {
    /// The list where the slab belongs, unless it is being evacuated.
    #[inline]
    fn level_by_fill(&self) -> u8 {
        let class = self.class as usize;
        if self.live == chunks_of(class) { UNLISTED } else { (self.live >> LEVEL_SHIFT[class]) as u8 }
    }
}

/// Number of class-sized chunks in a slab.
#[inline]
const fn chunks_of(class: usize) -> u16 {
    (SLAB_BYTES / CLASS_BYTES[class] as usize) as u16
}

#[inline]
fn class_of(bytes: usize) -> usize {
    CLASS_OF_UNITS[bytes.div_ceil(UNIT_BYTES)] as usize
}

/// Bytes of the chunk that a request for `bytes` gets; at most [`CHUNK_BYTES_MAX`].
#[inline]
pub(super) fn chunk_bytes(bytes: usize) -> usize {
    CLASS_BYTES[class_of(bytes)] as usize
}

/// See the module.
pub(super) struct Heap {
    base: NonNull<u8>,
    reserved_bytes: usize,
    /// One for each slab that was ever opened, and slab 0.
    slabs: Vec<Slab>,
    /// First slab on each list; 0 is none.
    first: [[u32; LEVELS]; CLASSES],
    /// One bit for each list that is not empty.
    listed: [u8; CLASSES],
    /// Open slabs and live chunks of each class.
    open_of: [u32; CLASSES],
    live_of: [u32; CLASSES],
    live_bytes: usize,
    evacuation: Option<Box<Evacuation>>,
    /// The pool: slabs whose memory is resident, and slabs whose memory went back to the kernel.
    warm: Vec<u32>,
    cold: Vec<u32>,
    /// Slabs that belong to a class.
    open: usize,
    /// Which units begin a live chunk, by slab: catches stale handles.
    #[cfg(debug_assertions)]
    live: Vec<[u64; SLAB_UNITS as usize / 64]>,
}

// SAFETY: the heap owns its mapping alone, and hands out pointers into it only to callers that hold a borrow of it; it
// has no tie to the thread that made it.
unsafe impl Send for Heap {}

impl Heap {
    /// Reserves up to `bytes` of address space (half of it, and so on, if the system refuses).
    pub(super) fn new(bytes: usize) -> Result<Heap, HeapError> {
        let mut bytes = bytes.clamp(RESERVE_BYTES_MIN, RESERVE_BYTES);
        let base = loop {
            match reserve(bytes) {
                Ok(base) => break base,
                Err(error) if bytes / 2 < RESERVE_BYTES_MIN => return Err(HeapError::Reserve(error)),
                Err(_) => bytes /= 2,
            }
        };
        Ok(Heap {
            base,
            reserved_bytes: bytes,
            slabs: vec![Slab { level: UNLISTED, ..Slab::default() }],
            first: [[0; LEVELS]; CLASSES],
            listed: [0; CLASSES],
            open_of: [0; CLASSES],
            live_of: [0; CLASSES],
            live_bytes: 0,
            evacuation: None,
            warm: Vec::new(),
            cold: Vec::new(),
            open: 0,
            #[cfg(debug_assertions)]
            live: vec![[0; _]],
        })
    }

    /// Bytes charged: live chunks and the bookkeeping of slabs.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.live_bytes + self.slabs.capacity() * size_of::<Slab>()
    }

    /// Bytes of live chunks.
    #[inline]
    pub(super) fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// Bytes of the open slabs, which are mapped and unknown to the allocator.
    #[inline]
    pub(super) fn mapped_bytes(&self) -> usize {
        self.open * SLAB_BYTES
    }

    /// True if the next allocation succeeds, whatever its class.
    #[inline]
    pub(super) fn has_free_slab(&self) -> bool {
        !self.warm.is_empty() || !self.cold.is_empty() || (self.slabs.len() + 1) * SLAB_BYTES <= self.reserved_bytes
    }

    /// Where a chunk begins; valid for the bytes it was allocated with until it is freed.
    #[inline]
    pub(super) fn address(&self, handle: Handle) -> *mut u8 {
        #[cfg(debug_assertions)]
        assert!(self.is_live(handle), "stale {handle:?}");
        self.raw(handle)
    }

    #[inline]
    fn raw(&self, handle: Handle) -> *mut u8 {
        self.base.as_ptr().wrapping_add(handle.0 as usize * UNIT_BYTES)
    }

    /// Starts to load the first two cache lines of a chunk. Any handle will do.
    #[inline]
    pub(super) fn prefetch(&self, handle: Handle) {
        let first = self.raw(handle);
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch does not access memory as far as the program can tell; any address is allowed.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(first.cast());
                _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(64).cast());
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = first;
    }

    /// Starts to load the first cache line of a chunk. Any handle will do.
    #[inline]
    pub(super) fn prefetch_first(&self, handle: Handle) {
        let first = self.raw(handle);
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: as in `prefetch`.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = first;
    }

    /// A chunk of at least `bytes` (at most [`CHUNK_BYTES_MAX`]), aligned to 8 bytes, with any content.
    #[inline]
    pub(super) fn allocate(&mut self, bytes: usize) -> Result<Handle, HeapError> {
        let class = class_of(bytes);
        let index = match self.listed[class] {
            0 => self.open_slab(class)?,
            lists => self.first[class][lists.ilog2() as usize],
        };
        let slab = &mut self.slabs[index as usize];
        let handle = if slab.free != 0 {
            let handle = Handle(slab.free);
            let next = self.base.as_ptr().wrapping_add(handle.0 as usize * UNIT_BYTES);
            // SAFETY: `handle` is a free chunk of this slab, inside the mapping and aligned to 8; `free` wrote the
            // number of the next one there.
            slab.free = unsafe { next.cast::<u32>().read() };
            handle
        } else {
            let offset = slab.used as usize * CLASS_BYTES[class] as usize;
            slab.used += 1;
            Handle(index * SLAB_UNITS + (offset / UNIT_BYTES) as u32)
        };
        slab.live += 1;
        let moves = slab.level_by_fill() != slab.level;
        self.live_of[class] += 1;
        self.live_bytes += CLASS_BYTES[class] as usize;
        if moves {
            self.list(index);
        }
        #[cfg(debug_assertions)]
        self.mark(handle, true);
        Ok(handle)
    }

    /// Gives a live chunk back.
    #[inline]
    pub(super) fn free(&mut self, handle: Handle) {
        #[cfg(debug_assertions)]
        self.mark(handle, false);
        let address = self.raw(handle);
        let index = handle.slab();
        let slab = &mut self.slabs[index];
        let class = slab.class as usize;
        // SAFETY: the caller gives up a live chunk: it lies inside the mapping, is aligned to 8, has at least 16 bytes,
        // and nobody else uses it any more.
        unsafe { address.cast::<u32>().write(slab.free) };
        slab.free = handle.0;
        slab.live -= 1;
        let (empty, moves) = (slab.live == 0, slab.level_by_fill() != slab.level);
        self.live_of[class] -= 1;
        self.live_bytes -= CLASS_BYTES[class] as usize;
        if self.is_evacuated(index as u32) {
            self.forget_evacuated(handle);
        } else if moves && !empty {
            self.list(index as u32);
        }
        if empty {
            self.close_slab(index as u32);
        }
    }

    /// The open slabs, those with the smallest live part first.
    pub(super) fn emptiest_slabs(&self) -> Vec<u32> {
        let open = self.slabs.iter().enumerate().filter(|(_, slab)| slab.open);
        let live_bytes = |slab: &Slab| slab.live as usize * CLASS_BYTES[slab.class as usize] as usize;
        let mut slabs: Vec<(usize, u32)> = open.map(|(index, slab)| (live_bytes(slab), index as u32)).collect();
        slabs.sort_unstable();
        slabs.into_iter().map(|(_, index)| index).collect()
    }

    /// The live chunks of slab `index`.
    pub(super) fn live_chunks(&self, index: u32) -> Vec<Handle> {
        let slab = &self.slabs[index as usize];
        let units = CLASS_BYTES[slab.class as usize] as usize / UNIT_BYTES;
        let mut free = vec![false; slab.used as usize];
        let mut next = slab.free;
        while next != 0 {
            free[(next - index * SLAB_UNITS) as usize / units] = true;
            // SAFETY: as in `allocate`.
            next = unsafe { self.raw(Handle(next)).cast::<u32>().read() };
        }
        let chunk = |i: usize| Handle(index * SLAB_UNITS + (i * units) as u32);
        (0..free.len()).filter(|&i| !free[i]).map(chunk).collect()
    }

    #[cold]
    fn open_slab(&mut self, class: usize) -> Result<u32, HeapError> {
        if !self.has_free_slab() {
            return Err(HeapError::Full(self.reserved_bytes));
        }
        let index = self.warm.pop().or_else(|| self.cold.pop()).unwrap_or_else(|| {
            self.slabs.push(Slab { level: UNLISTED, ..Slab::default() });
            #[cfg(debug_assertions)]
            self.live.push([0; _]);
            (self.slabs.len() - 1) as u32
        });
        self.slabs[index as usize] = Slab { class: class as u8, level: UNLISTED, open: true, ..Slab::default() };
        self.open += 1;
        self.open_of[class] += 1;
        self.list(index);
        Ok(index)
    }

    #[cold]
    fn close_slab(&mut self, index: u32) {
        self.unlist(index);
        self.open_of[self.slabs[index as usize].class as usize] -= 1;
        self.slabs[index as usize] = Slab { level: UNLISTED, ..Slab::default() };
        self.open -= 1;
        if self.warm.len() < RESIDENT_FREE_SLABS_MAX {
            self.warm.push(index);
            return;
        }
        let start = self.base.as_ptr().wrapping_add(index as usize * SLAB_BYTES);
        // SAFETY: the slab lies inside our own private mapping and has no live chunk, so its content may be lost. If
        // the call fails the memory merely stays resident.
        unsafe { libc::madvise(start.cast(), SLAB_BYTES, libc::MADV_DONTNEED) };
        self.cold.push(index);
    }

    /// Puts a slab onto the list where it belongs by its fill, if it belongs on one.
    #[cold]
    fn list(&mut self, index: u32) {
        self.unlist(index);
        let slab = &mut self.slabs[index as usize];
        let (class, level) = (slab.class as usize, slab.level_by_fill());
        if level == UNLISTED {
            return;
        }
        let head = std::mem::replace(&mut self.first[class][level as usize], index);
        (slab.level, slab.prev, slab.next) = (level, 0, head);
        if head != 0 {
            self.slabs[head as usize].prev = index;
        }
        self.listed[class] |= 1 << level;
    }

    /// Takes a slab off its list, if it is on one.
    fn unlist(&mut self, index: u32) {
        let Slab { prev, next, class, level, .. } = self.slabs[index as usize];
        if level == UNLISTED {
            return;
        }
        self.slabs[index as usize].level = UNLISTED;
        let first = &mut self.first[class as usize][level as usize];
        match prev {
            0 => *first = next,
            prev => self.slabs[prev as usize].next = next,
        }
        if next != 0 {
            self.slabs[next as usize].prev = prev;
        } else if prev == 0 {
            self.listed[class as usize] &= !(1 << level);
        }
    }

    #[cfg(debug_assertions)]
    fn is_live(&self, handle: Handle) -> bool {
        let unit = handle.0 % SLAB_UNITS;
        self.live.get(handle.slab()).is_some_and(|slab| slab[unit as usize / 64] & (1 << (unit % 64)) != 0)
    }

    #[cfg(debug_assertions)]
    fn mark(&mut self, handle: Handle, live: bool) {
        assert_ne!(self.is_live(handle), live, "{handle:?}: freed twice or allocated twice");
        let unit = handle.0 % SLAB_UNITS;
        self.live[handle.slab()][unit as usize / 64] ^= 1 << (unit % 64);
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, was made with this length, and nobody can hold a pointer into it: they borrow
        // the heap.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.reserved_bytes) };
    }
}

fn reserve(bytes: usize) -> Result<NonNull<u8>, io::Error> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Large pages would come back as a whole after parts of them were returned, and a slab is smaller than one. A kernel
    // without them refuses, which does no harm.
    // SAFETY: advice about the mapping made above; it changes no content.
    unsafe { libc::madvise(base, bytes, libc::MADV_NOHUGEPAGE) };
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))
}

#[cfg(test)]
mod tests;
