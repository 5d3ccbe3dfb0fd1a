//! Leases: what is asked and answered, how long one may be, and when it has surely ended.
//!
//! Pure functions and plain values; they lie in messages of the bus. All moments are on the boot-time clock of the node that
//! looks at them.

use rkyv::{Archive, Deserialize, Serialize};

use super::{DRIFT_DIVISOR, LEASE_MS_MAX, Settings};
use crate::raft::command::{COUNT_MAX, Incarnation, NodeId};
use crate::shard::SteadyMs;

/// A node asks for a lease, and says how it is.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// What the process has drawn when it registered.
    pub boot: u128,
    /// The index in raft's log that its state has.
    pub applied: u64,
    /// Its data is complete: it may lead what it is in sync for.
    pub ready: bool,
    /// The newest version of the formats that its process speaks. Its connection says that: see [`crate::raft::bus::handshake`].
    #[rkyv(with = rkyv::with::Skip)]
    pub speaks: u16,
}

/// What the leader says.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// From the sending of the request on, the node may serve what it leads, once it has applied raft's log up to `after`:
    /// there it may find that it leads less than it thinks.
    Granted {
        length_ms: u32,
        after: u64,
    },
    Refused(LeaseRefusal),
}

/// Why there is no lease.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefusal {
    #[error("this node does not lead raft, or has only begun to")]
    NotLeading,
    #[error("a quorum has not acknowledged the leader lately")]
    NoQuorum,
    #[error("the node is not known")]
    Unknown,
    /// A node that is in an earlier incarnation must end: its directory has a new owner. One that is in a later one, of which
    /// the leader does not know yet, asks again.
    #[error("the node is in incarnation {incarnation} now")]
    Incarnation { incarnation: Incarnation },
    /// The process must end.
    #[error("another process has registered in this incarnation")]
    Boot,
    #[error("the lease of an earlier process of this node has not ended")]
    Earlier,
    #[error("the node is being taken for dead")]
    Deposing,
}

impl LeaseRequest {
    /// What a node may say.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.node == 0 || self.incarnation == 0 || self.incarnation > COUNT_MAX || self.applied > COUNT_MAX {
            return Err("a number in a request for a lease that cannot be");
        }
        Ok(())
    }
}

impl LeaseAnswer {
    /// What a leader may say.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            LeaseAnswer::Granted { length_ms, after } if *length_ms > LEASE_MS_MAX || *after > COUNT_MAX => {
                Err("a number in a lease that cannot be")
            }
            _ => Ok(()),
        }
    }
}

/// How long to wait, on one's own clock, until a time has surely passed on another node's.
///
/// With both clocks wrong by at most `d = 1 / DRIFT_DIVISOR`, in the worst case one of them shows `1 + d` while the other
/// shows `1 - d`. So the time to wait is longer by the factor `(1 + d) / (1 - d)`, which is
/// `(DRIFT_DIVISOR + 1) / (DRIFT_DIVISOR - 1)`. One more, as both moments were cut to whole milliseconds.
pub fn outlast(length_ms: i64) -> i64 {
    let (more, less) = (DRIFT_DIVISOR + 1, DRIFT_DIVISOR - 1);
    length_ms.saturating_mul(more).saturating_add(less - 1) / less + 1
}

/// How much of a time on another node's clock has surely not passed when it has on one's own: the opposite of [`outlast`].
fn undercut(length_ms: i64) -> i64 {
    length_ms.saturating_mul(DRIFT_DIVISOR - 1) / (DRIFT_DIVISOR + 1) - 1
}

/// The longest lease that may be granted at `now_ms`, if a quorum has acknowledged a heartbeat that was sent at `quorum_ms`.
///
/// Voters that have acknowledged it elect nobody for the time of an election after they got it, so no successor leads before
/// `quorum_ms + undercut(election)`, and none promotes anybody before the longest lease has passed from then on. A lease that
/// ends no later than `quorum_ms + undercut(election) + longest` is safe. So all may be of full length while the quorum's
/// promise holds, and then become shorter until there are none.
pub fn longest(settings: &Settings, now_ms: SteadyMs, quorum_ms: SteadyMs) -> u32 {
    let lease = i64::from(settings.lease_ms);
    let since = now_ms.saturating_sub(quorum_ms).max(0);
    let promised = undercut(i64::from(settings.election_ms)).max(0);
    (lease - since.saturating_sub(promised).max(0)).clamp(0, lease) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_waits_longer_than_any_clock() {
        assert_eq!((outlast(300), undercut(300)), (308, 293));
        for length in 0..5_000 {
            // In whole microseconds of real time: the slowest clock shows the length, the fastest what is waited.
            let slow = length * 1_000 * DRIFT_DIVISOR / (DRIFT_DIVISOR - 1);
            let fast = (outlast(length) - 1) * 1_000 * DRIFT_DIVISOR / (DRIFT_DIVISOR + 1);
            assert!(fast >= slow - 1, "{length}");
            assert!(undercut(length) < length && undercut(outlast(length)) >= length - 2, "{length}");
        }
        assert!(outlast(i64::MAX) > 0);
    }

    #[test]
    fn leases_end_before_a_successor_may_promote() {
        let settings = Settings::new(1, 300);
        assert_eq!(longest(&settings, 1_000, 1_000), 300);
        assert_eq!(longest(&settings, 1_293, 1_000), 300);
        assert_eq!(longest(&settings, 1_294, 1_000), 299);
        assert_eq!(longest(&settings, 1_592, 1_000), 1);
        assert_eq!(longest(&settings, 1_593, 1_000), 0);
        assert_eq!(longest(&settings, i64::MAX, i64::MIN), 0);
    }
}
