//! The log: the node's one ordered sequence of writes, for disks and replicas alike.
//!
//! A data core encodes what it changes as units ([`crate::shard::statement`]) and sends them to the control core, which
//! puts those of all cores in one order, gives each its index, and keeps them as [`frame`]s: the same bytes go to memory,
//! to disk and to replicas.

pub mod backlog;
pub mod cover;
pub mod durability;
pub mod feed;
pub mod frame;
pub mod merge;
pub mod sequencer;
