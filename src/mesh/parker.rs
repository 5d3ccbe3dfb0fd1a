//! Parking: how a core that has nothing to do sleeps, and how another core knows that it must ring its bell.
//!
//! Owner: a [`Parker`] belongs to one core, the receiver, which alone moves it away from running. Any thread may call
//! [`Parker::notify`], which alone moves it back while the receiver sleeps.
//!
//! # Why no wake is lost
//!
//! The receiver stores "parked", passes a fence, and then looks into its rings. A sender stores an item, passes a
//! fence, and then looks at the state. All SeqCst fences stand in one total order, so one of the two came first:
//! - the sender's fence first: the receiver's look, after its own fence, sees the item, and it does not block;
//! - the receiver's fence first: the sender's look sees "parked", or something stored later. "Running" stored later
//!   comes either from another sender, which rings the bell for this very park, or from the receiver, which is awake
//!   and goes through the same handshake again before it next blocks.
//!
//! With only Release and Acquire both looks could miss, each core's store still waiting in its store buffer.
//!
//! Of several senders one rings: they take the parked state with a compare-and-exchange. A bell may be late (the
//! receiver woke for another reason in between); it then costs one empty turn. So a bell must be remembered until it
//! is read, as an eventfd's counter is, and the receiver must treat a wake as "look again", never as "an item is there".

use crate::sync::{AtomicU8, Ordering, order};

const RUNNING: u8 = 0;
const SHALLOW: u8 = 1;
const DEEP: u8 = 2;

/// Where a core is about to block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Park {
    /// In the pump's own io_uring.
    Shallow,
    /// In the runtime's reactor.
    Deep,
}

/// Which bell a sender has to ring.
#[must_use = "a bell that is not rung leaves a core asleep"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// None: the core runs and looks by itself, or another sender rings.
    None,
    /// The one that the pump's own io_uring waits for.
    Shallow,
    /// The one that the runtime's reactor waits for.
    Deep,
}

/// One core's parking state, alone on its cache lines: senders read it every turn.
#[repr(align(128))]
pub struct Parker {
    /// Invariant: RUNNING unless the owner is between [`Parker::prepare`] and the end of its block.
    state: AtomicU8,
}

impl Default for Parker {
    fn default() -> Parker {
        Parker { state: AtomicU8::new(RUNNING) }
    }
}

impl Parker {
    /// Receiver: announces that it is about to block. It must then look once more for work, and either
    /// [`cancel`](Parker::cancel) or block and call [`woke`](Parker::woke).
    #[inline]
    pub fn prepare(&self, park: Park) {
        let state = match park {
            Park::Shallow => SHALLOW,
            Park::Deep => DEEP,
        };
        self.state.store(state, Ordering::Relaxed);
        order::handshake_fence();
    }

    /// Receiver: the look after [`prepare`](Parker::prepare) found work, so it does not block.
    #[inline]
    pub fn cancel(&self) {
        self.state.store(RUNNING, Ordering::Relaxed);
    }

    /// Receiver: it runs again, whatever woke it.
    #[inline]
    pub fn woke(&self) {
        self.state.store(RUNNING, Ordering::Relaxed);
    }

    /// Sender: after pushing, says which bell to ring. One fence and, while the core runs, one load.
    #[inline]
    pub fn notify(&self) -> Wake {
        order::handshake_fence();
        self.take()
    }

    /// [`notify`](Parker::notify) for a sender that passed the fence since its last push, for several cores at once.
    #[inline]
    pub(super) fn take(&self) -> Wake {
        let seen = self.state.load(Ordering::Relaxed);
        if seen == RUNNING {
            return Wake::None;
        }
        // The exchange fails when another sender was first, or when the receiver has moved on: it then looks, or has
        // looked, into its rings after this sender's fence.
        match self.state.compare_exchange(seen, RUNNING, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(SHALLOW) => Wake::Shallow,
            Ok(_) => Wake::Deep,
            Err(_) => Wake::None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_sender_rings_the_bell_that_the_core_waits_for() {
        let parker = Parker::default();
        assert_eq!(parker.notify(), Wake::None);
        parker.prepare(Park::Shallow);
        assert_eq!(parker.notify(), Wake::Shallow);
        assert_eq!(parker.notify(), Wake::None);
        parker.woke();
        parker.prepare(Park::Deep);
        assert_eq!(parker.notify(), Wake::Deep);
        assert_eq!(parker.notify(), Wake::None);
    }

    #[test]
    fn a_core_that_runs_again_is_not_rung() {
        let parker = Parker::default();
        parker.prepare(Park::Deep);
        parker.cancel();
        assert_eq!(parker.notify(), Wake::None);
        parker.prepare(Park::Shallow);
        parker.woke();
        assert_eq!(parker.notify(), Wake::None);
    }
}
