//! The log: the node's one ordered sequence of writes, for disks and replicas alike.
//!
//! A data core encodes what it changes as units ([`crate::shard::statement`]) and sends them to the control core, which
//! puts those of all cores in one order, gives each its index, and keeps them as [`frame`]s: the same bytes go to memory,
//! to disk ([`wal`], [`snapshot`]) and to replicas. At the next start [`recover`] finds out what the files hold, and every
//! data core replays ([`replay`]) what is its own.

pub mod backlog;
pub mod check;
pub mod cover;
pub mod disk;
#[cfg(test)]
pub(crate) mod disk_sim;
pub mod dump;
pub mod durability;
pub mod feed;
pub mod files;
pub mod frame;
pub mod merge;
pub mod reader;
pub mod recover;
pub mod replay;
pub mod sequencer;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
pub mod wal;
