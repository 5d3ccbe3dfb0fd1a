//! A bounded ring from one core to one other core: single producer, single consumer, first in first out.
//!
//! Owner: the [`Producer`] belongs to the sending core, the [`Consumer`] to the receiving one; both are `Send` and not
//! `Sync`. Positions count up without end and wrap with `usize`; the slot of a position is `position & (capacity - 1)`.
//! It is Lamport's queue (1983) with a copy of the other side's position on each side, so that an end looks at the
//! other core's cache line only when its copy says "full" or "empty".
//!
//! Invariant: `0 <= tail - head <= capacity` (wrapping), and exactly the slots of `head..tail` hold an item.
//!
//! Who may touch what:
//! - `tail` is stored by the producer alone, after it wrote the slot; `head` by the consumer alone, after it emptied it.
//! - A slot outside `head..tail` belongs to the producer, a slot inside to the consumer. A Release store of a position
//!   hands slots over, the Acquire load of it on the other side takes them.
//! - Each `closed` flag is stored once, by the end that it names.

use crate::sync::{Arc, AtomicBool, AtomicUsize, Ordering, UnsafeCell, order};
use std::mem::MaybeUninit;

/// Largest capacity of a ring in items: beyond that a queue hides an overload instead of smoothing a burst.
pub const CAPACITY_MAX: usize = 1 << 16;

/// A value alone on its cache line. 128 bytes, because x86 fetches lines in pairs and some ARM cores have long ones.
#[repr(align(128))]
struct Padded<T>(T);

/// What both ends see.
struct Shared<T> {
    /// One cell per slot; the length is a power of two.
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// The producer pushes no more.
    producer_closed: AtomicBool,
    /// The consumer takes no more.
    consumer_closed: AtomicBool,
    /// Position that the next push fills.
    tail: Padded<AtomicUsize>,
    /// Position that the next pop empties.
    head: Padded<AtomicUsize>,
}

impl<T> Shared<T> {
    #[inline(always)]
    fn slot(&self, position: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[position & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Both ends are gone, and the reference count ordered all they did before this point.
        let mut head = self.head.0.load(Ordering::Relaxed);
        let tail = self.tail.0.load(Ordering::Relaxed);
        while head != tail {
            // SAFETY: slots in `head..tail` hold an item (module invariant) and `&mut self` excludes every other access.
            // `head` moves past the slot, so that each item is dropped once.
            self.slot(head).with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// Why an item was not pushed. The item comes back.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError<T> {
    /// All slots are taken; try again after the consumer has popped.
    #[error("the ring is full")]
    Full(T),
    /// One of the ends has closed; no later push succeeds.
    #[error("the ring is closed")]
    Closed(T),
}

/// The sending end. Dropping it closes the ring; what was pushed can still be popped.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// Invariant: equals `shared.tail`, which only this end stores.
    tail: usize,
    /// A `head` seen earlier; the real one is equal or further on.
    head_seen: usize,
    /// This end has closed.
    closed: bool,
}

/// The receiving end. Dropping it closes the ring; items left in it are dropped with the last end.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    /// Invariant: equals `shared.head`, which only this end stores.
    head: usize,
    /// A `tail` seen earlier; the real one is equal or further on.
    tail_seen: usize,
}

// SAFETY: an end moves to another thread together with the right to be the only user of its role. Items cross from the
// producer's thread to the consumer's and may be dropped on either, hence `T: Send`; no `&T` is ever shared.
unsafe impl<T: Send> Send for Producer<T> {}
// SAFETY: as for the producer.
unsafe impl<T: Send> Send for Consumer<T> {}

/// Makes a ring of `capacity` items, a power of two up to [`CAPACITY_MAX`]; another capacity is a programmer's error
/// and panics.
pub fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity.is_power_of_two() && capacity <= CAPACITY_MAX, "ring capacity {capacity}");
    let shared = Arc::new(Shared {
        slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
        producer_closed: AtomicBool::new(false),
        consumer_closed: AtomicBool::new(false),
        tail: Padded(AtomicUsize::new(0)),
        head: Padded(AtomicUsize::new(0)),
    });
    let producer = Producer { shared: shared.clone(), tail: 0, head_seen: 0, closed: false };
    (producer, Consumer { shared, head: 0, tail_seen: 0 })
}

impl<T> Producer<T> {
    /// Appends an item, visible to the consumer at once; gives it back when the ring is full or closed. Never blocks.
    #[inline]
    pub fn try_push(&mut self, item: T) -> Result<(), PushError<T>> {
        if self.closed || self.is_closed() {
            return Err(PushError::Closed(item));
        }
        let capacity = self.shared.slots.len();
        if self.tail.wrapping_sub(self.head_seen) == capacity {
            self.head_seen = self.shared.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == capacity {
                return Err(PushError::Full(item));
            }
        }
        // SAFETY: `tail - head_seen < capacity` and the real head is not behind `head_seen`, so the slot of `tail` lies
        // outside `head..tail`: it is the producer's. The Acquire load of `head` came after the consumer's last read of
        // it. `&mut self` makes this the only push.
        self.shared.slot(self.tail).with_mut(|slot| unsafe {
            (*slot).write(item);
        });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.0.store(self.tail, order::publish());
        Ok(())
    }

    /// Whether the consumer has closed: every push from now on gives its item back.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.shared.consumer_closed.load(Ordering::Acquire)
    }

    /// Ends the stream. The consumer pops what was pushed, and then sees the end.
    pub fn close(&mut self) {
        self.closed = true;
        self.shared.producer_closed.store(true, order::close());
    }

    /// Items in the ring: exact for pushes, and possibly a moment behind the consumer's pops.
    pub fn len(&self) -> usize {
        self.tail.wrapping_sub(self.shared.head.0.load(Ordering::Acquire))
    }

    /// Whether the consumer has popped everything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        // SAFETY: `head < tail_seen` and the real tail is not behind `tail_seen`, so the slot holds an item and is the
        // consumer's. The Acquire load of `tail` came after the producer's write of it. `head` moves past the slot, so
        // the item is read out once.
        let item = self.shared.slot(self.head).with(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, order::vacate());
        Some(item)
    }

    /// Whether nothing can be popped right now.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head == self.tail_seen && self.head == self.shared.tail.0.load(Ordering::Acquire)
    }

    /// Whether the producer has closed. Items pushed before may still be in the ring: it is finished when this was seen
    /// first and a pop *after* that finds nothing.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.shared.producer_closed.load(Ordering::Acquire)
    }

    /// Refuses further items. Those already in the ring, and one whose push is under way, can still be popped.
    pub fn close(&mut self) {
        self.shared.consumer_closed.store(true, order::close());
    }

    /// Items in the ring: exact for pops, and possibly a moment behind the producer's pushes.
    pub fn len(&self) -> usize {
        self.shared.tail.0.load(Ordering::Acquire).wrapping_sub(self.head)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(all(test, not(loom)))]
#[path = "ring_tests.rs"]
mod tests;
