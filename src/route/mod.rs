//! Where a key lives: key -> slot -> partition -> core.
//!
//! Each core keeps its own copy of the routing table; it is replaced by message, never shared.

pub mod partitions;
pub mod router;
pub mod slot;

pub use partitions::PartitionSet;
pub use router::{CoreId, Route, Router, owner_of};
pub use slot::{Hasher, Key, SLOTS, hashtag, slot_of};
