//! Until when this node may serve the partitions that it leads.
//!
//! The control core renews the lease, every data core looks at it after it has executed requests and before it sends
//! their replies. So a process that was stopped for a while, and finds that others lead now, has shown nobody what it did
//! meanwhile.
//!
//! One number, written by the control core and read by all.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::shard::SteadyMs;

/// See the module.
#[derive(Debug)]
pub struct Lease(AtomicI64);

impl Lease {
    /// A node outside of a cluster, or alone in it, serves for ever.
    pub fn unlimited() -> Lease {
        Lease(AtomicI64::new(SteadyMs::MAX))
    }

    /// Whether the lease is valid at this moment, which was read from the clock after what is to be shown was executed.
    #[inline]
    pub fn is_valid_at(&self, now_ms: SteadyMs) -> bool {
        now_ms < self.0.load(Ordering::Acquire)
    }

    /// When the lease ends, steady ms.
    #[inline]
    pub fn ends_ms(&self) -> SteadyMs {
        self.0.load(Ordering::Acquire)
    }

    /// The lease ends at this moment. Also earlier than it was said before: a node that gives up its role.
    pub fn set(&self, ends_ms: SteadyMs) {
        self.0.store(ends_ms, Ordering::Release);
    }
}
