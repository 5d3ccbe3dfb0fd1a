//! The few synchronisation primitives that cores share, from `std`, or from `loom` under `cfg(loom)`.
//!
//! Owner: none, this file holds no state. Whatever two cores touch together (`mesh/`) takes its atomics, cells and
//! reference counts from here and from nowhere else, so that `loom-tests/` explores the very source that ships.
//!
//! Invariant: `fence(SeqCst)` is the only sequentially consistent operation used. loom treats SeqCst *accesses* as
//! AcqRel and would miss bugs in code that relies on them.

#[cfg(not(loom))]
pub use std::{
    hint::spin_loop,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence},
    },
    thread::yield_now,
};

#[cfg(loom)]
pub use loom::{
    cell::UnsafeCell,
    hint::spin_loop,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence},
    },
    thread::yield_now,
};

/// `std`'s cell behind loom's interface: every access names whether it reads or writes.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    /// Lends a pointer for reading; the caller proves that nobody writes meanwhile.
    #[inline(always)]
    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// Lends a pointer for writing; the caller proves that nobody else reads or writes meanwhile.
    #[inline(always)]
    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// A shared slice from a vector. loom's `Arc` cannot coerce to a slice by itself.
pub fn arc_slice<T>(items: Vec<T>) -> Arc<[T]> {
    #[cfg(not(loom))]
    return Arc::from(items);
    #[cfg(loom)]
    return Arc::from_std(std::sync::Arc::from(items));
}

/// The orderings that the mesh's correctness hangs on, each in one place and with its reason.
///
/// Under loom each can be replaced by a wrong one (see [`seed`]), which shows that the tests would notice.
pub mod order {
    use super::{Ordering, fence, seed};

    /// Stores a ring's tail: whoever acquires the new tail also sees the items written before it.
    #[inline(always)]
    pub fn publish() -> Ordering {
        if seed::is(seed::Seed::RelaxedPublish) { Ordering::Relaxed } else { Ordering::Release }
    }

    /// Stores a ring's head: whoever acquires the new head may overwrite the slots given up before it.
    #[inline(always)]
    pub fn vacate() -> Ordering {
        if seed::is(seed::Seed::RelaxedVacate) { Ordering::Relaxed } else { Ordering::Release }
    }

    /// Stores "this end is closed": whoever acquires it also sees everything pushed before.
    #[inline(always)]
    pub fn close() -> Ordering {
        if seed::is(seed::Seed::RelaxedClose) { Ordering::Relaxed } else { Ordering::Release }
    }

    /// Stands on each side of the park/wake handshake, between the own store and the load of the other's.
    #[inline(always)]
    pub fn handshake_fence() {
        if !seed::is(seed::Seed::NoHandshakeFence) {
            fence(Ordering::SeqCst);
        }
    }
}

/// Deliberate bugs. They exist under loom only; elsewhere [`seed::is`] is the constant `false`.
pub mod seed {
    /// One way to break the mesh.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum Seed {
        /// The tail is published without Release.
        RelaxedPublish,
        /// The head is published without Release.
        RelaxedVacate,
        /// The end of a ring's stream is published without Release.
        RelaxedClose,
        /// The fences of the park/wake handshake are left out.
        NoHandshakeFence,
    }

    /// Whether this bug is planted.
    #[cfg(not(loom))]
    #[inline(always)]
    pub const fn is(_: Seed) -> bool {
        false
    }

    #[cfg(loom)]
    mod planted {
        use super::Seed;
        use std::cell::Cell;

        // loom runs all threads of a model on the thread that called it, so tests do not disturb each other.
        std::thread_local!(static PLANTED: Cell<Option<Seed>> = const { Cell::new(None) });

        /// Whether this bug is planted.
        pub fn is(seed: Seed) -> bool {
            PLANTED.get() == Some(seed)
        }

        /// Runs `model` with a bug planted, and pulls it out again even when the model panics.
        pub fn with<R>(seed: Seed, model: impl FnOnce() -> R) -> R {
            struct Uproot;
            impl Drop for Uproot {
                fn drop(&mut self) {
                    PLANTED.set(None);
                }
            }
            PLANTED.set(Some(seed));
            let _uproot = Uproot;
            model()
        }
    }

    #[cfg(loom)]
    pub use planted::{is, with};
}
