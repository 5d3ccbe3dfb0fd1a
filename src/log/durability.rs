//! Durability: what an acknowledgement means, and how far it has come.
//!
//! | durability | a reply waits until what it tells of is | which survives |
//! | --- | --- | --- |
//! | `memory` | executed | nothing is promised |
//! | `disk` | written and synced here | a crash of the process or the machine |
//! | `quorum` | received by every replica that is in sync, `min-insync` copies with this one | the loss of any node while one of these lives |
//! | `quorum-disk` | synced by all of them | a power cut of all nodes at once, too |
//!
//! With `memory` and `disk` only writes wait. With the others *every* reply about keys does, reads and errors included: what
//! is shown to anybody cannot be taken back by a failover.
//!
//! The control core tells each data core how far the log is, in that core's own sequence numbers ([`super::feed`]); the
//! core holds replies until they are reached ([`crate::net`]).

use std::sync::Arc;

use super::feed::Seq;

/// See the module. Ordered: what comes later promises more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    #[default]
    Memory,
    Disk,
    Quorum,
    QuorumDisk,
}

impl Durability {
    pub const ALL: &[Durability] = &[Durability::Memory, Durability::Disk, Durability::Quorum, Durability::QuorumDisk];
    pub const NAMES: &[&str] = &["memory", "disk", "quorum", "quorum-disk"];

    pub fn name(self) -> &'static str {
        Durability::NAMES[self as usize]
    }

    /// The durability called `name`, in any case.
    pub fn parse(name: &[u8]) -> Option<Durability> {
        let at = Durability::NAMES.iter().position(|known| known.as_bytes().eq_ignore_ascii_case(name))?;
        Some(Durability::ALL[at])
    }

    /// Whether replies to reads wait, too.
    pub fn is_quorum(self) -> bool {
        self >= Durability::Quorum
    }
}

/// How far the log is with what one core has fed it.
///
/// Invariant: none of the numbers goes back, and each is at most the core's last sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of chunks that were taken, in all.
    pub taken_bytes: u64,
    /// Synced here.
    pub durable: Seq,
    /// Received by every replica in sync, and there are enough.
    pub replicated: Seq,
    /// Synced by all of them, and here.
    pub replicated_durable: Seq,
}

impl Progress {
    /// Up to where replies of this durability may leave.
    #[inline]
    pub fn reached(&self, durability: Durability) -> Seq {
        match durability {
            Durability::Memory => Seq::MAX,
            Durability::Disk => self.durable,
            Durability::Quorum => self.replicated,
            Durability::QuorumDisk => self.replicated_durable,
        }
    }
}

/// What the node may do at the moment, as the control core sees it; each data core has a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It is a replica: clients must not write, and keys do not expire by themselves.
    pub replica: bool,
    /// It is a replica, and everything that was written before is through.
    pub follows: bool,
    /// A copy of another node's data is being received: there is nothing to show.
    pub loading: bool,
    /// Why the log cannot be written, if so.
    pub disk_error: Option<Arc<str>>,
    /// The last snapshot failed, and writes are not to go on without.
    pub snapshot_failed: bool,
    /// Fewer replicas than `min-replicas-to-write` keep up.
    pub few_replicas: bool,
    /// Fewer copies are in sync than `min-insync`.
    pub few_in_sync: bool,
    /// There are replicas: what is recorded leaves soon.
    pub replicated: bool,
    /// A failover is under way: writes wait for its end.
    pub handing_over: bool,
    /// How many times writes had to end. Data cores say by this number that everything before is through.
    pub stops: u64,
}

impl Standing {
    /// Whether a write may have to be refused.
    #[inline]
    pub fn is_restricted(&self) -> bool {
        let broken = self.disk_error.is_some() || self.snapshot_failed;
        self.replica || self.handing_over || self.loading || broken || self.few_replicas || self.few_in_sync
    }
}
