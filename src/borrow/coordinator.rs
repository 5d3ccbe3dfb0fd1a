//! The borrower's side: in which order cores are asked, and when everything is there.
//!
//! Cores are asked one after the other, in ascending order, and each is asked once, for all that is needed of it. So a
//! transaction that holds something of core `n` waits for cores above `n` only: there is no circle of transactions that
//! wait for each other, and the one that holds the highest core always goes on.
//!
//! Whatever was granted is given back: after the run, or at once if it cannot run any more, because a core has refused
//! (a watched key has changed) or because the client has vanished.
//!
//! Pure: messages in, steps out. Owned by the core of the connection.

use crate::route::CoreId;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this core.
    Borrow(CoreId),
    /// All is here: run, then give back what [`Coordinator::held`] says.
    Run,
    /// Do not run, but give back what [`Coordinator::held`] says.
    GiveBack,
}

/// One transaction. See the module.
///
/// Invariant: `cores[..granted]` have granted and hold their keys for us; `cores[granted]` is asked, if there is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Coordinator {
    cores: Vec<CoreId>,
    granted: usize,
}

impl Coordinator {
    /// A transaction that needs something of each of `cores`.
    pub fn new(mut cores: Vec<CoreId>) -> Coordinator {
        cores.sort_unstable();
        cores.dedup();
        Coordinator { cores, granted: 0 }
    }

    /// A transaction that asks in an order of its own, which is a mistake.
    #[cfg(test)]
    pub fn in_order(cores: Vec<CoreId>) -> Coordinator {
        Coordinator { cores, granted: 0 }
    }

    /// The first step.
    pub fn begin(&self) -> Step {
        self.cores.first().map_or(Step::Run, |&core| Step::Borrow(core))
    }

    /// The core that was asked last has granted the claim. `go_on` is false if it has refused nevertheless, or if the
    /// client is gone.
    pub fn granted(&mut self, go_on: bool) -> Step {
        debug_assert!(self.granted < self.cores.len());
        self.granted += 1;
        match self.cores.get(self.granted) {
            _ if !go_on => Step::GiveBack,
            Some(&core) => Step::Borrow(core),
            None => Step::Run,
        }
    }

    /// The cores that wait for their keys, ascending.
    pub fn held(&self) -> &[CoreId] {
        &self.cores[..self.granted]
    }
}
