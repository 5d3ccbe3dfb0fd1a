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
//!
//! In a cluster the partitions of a node have different followers. Those that wait for the same ones are a *lane*
//! ([`Lanes`]), and each lane is told of for itself: a follower that is slow holds up what it follows and nothing else. A reply
//! that tells of keys nobody knows waits for all.

use std::sync::Arc;

use super::feed::Seq;
use super::frame::Index;
use crate::route::PartitionSet;

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

/// Most lanes that are told apart: with three copies those of twelve nodes. Partitions beyond wait for all others.
pub const LANES_MAX: usize = 64;

/// The lane of a partition that has none.
pub const NO_LANE: u8 = u8::MAX;

/// Which lane each partition is in. Shared, as it seldom changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneMap {
    /// Grows with each change.
    pub number: u64,
    /// By partition; [`NO_LANE`]: none.
    pub of: Box<[u8]>,
}

/// How far one lane is with what a core has fed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// As [`Progress::replicated`], for what is in this lane.
    pub replicated: Seq,
    pub replicated_durable: Seq,
}

/// How far each lane is. A partition that changes its lane may wait longer by that; what it was told stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lanes {
    pub map: Arc<LaneMap>,
    /// At most [`LANES_MAX`]; of those that are missing nothing is known.
    pub lanes: Box<[Lane]>,
}

/// Up to which indices of the log each lane is received by those that it waits for, and on their disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneEnds {
    pub map: Arc<LaneMap>,
    /// At most [`LANES_MAX`].
    pub ends: Vec<(Index, Index)>,
}

/// Some lanes, of a certain map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneSet {
    map: u64,
    lanes: u64,
}

const _: () = assert!(LANES_MAX <= u64::BITS as usize && LANES_MAX < NO_LANE as usize);

impl LaneMap {
    fn lane(&self, partition: u16) -> Option<usize> {
        self.of.get(partition as usize).map(|&lane| usize::from(lane)).filter(|&lane| lane < LANES_MAX)
    }

    /// The lanes of these partitions; None if one of them has none.
    pub fn set(&self, partitions: &[u16]) -> Option<LaneSet> {
        let mut set = LaneSet { map: self.number, lanes: 0 };
        for &partition in partitions {
            set.lanes |= 1 << self.lane(partition)?;
        }
        Some(set)
    }

    /// These lanes and that of one more partition; None if they are of another map, or it has none.
    pub fn with(&self, set: LaneSet, partition: u16) -> Option<LaneSet> {
        (set.map == self.number).then_some(LaneSet { lanes: set.lanes | 1 << self.lane(partition)?, ..set })
    }
}

/// The partitions that replies tell of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum About {
    #[default]
    Nothing,
    One(u16),
    /// Several, which are in these lanes.
    Lanes(LaneSet),
    /// Nobody knows which.
    Any,
}

impl About {
    /// These, and one more, or one of which nobody knows.
    pub fn and(self, partition: Option<u16>, map: Option<&LaneMap>) -> About {
        let set = match (self, partition) {
            (About::Nothing, Some(partition)) => return About::One(partition),
            (About::One(one), Some(partition)) if one == partition => return self,
            (About::One(one), Some(partition)) => map.and_then(|map| map.set(&[one, partition])),
            (About::Lanes(set), Some(partition)) => map.and_then(|map| map.with(set, partition)),
            (About::Any, _) | (_, None) => None,
        };
        set.map_or(About::Any, About::Lanes)
    }

    /// Whether one of these may be among them.
    pub fn concerns(self, partitions: &PartitionSet) -> bool {
        match self {
            About::Nothing => false,
            About::One(partition) => partitions.has(partition),
            About::Lanes(_) | About::Any => true,
        }
    }
}

/// How far the log is with what one core has fed it.
///
/// Invariant: each number is at most the core's last sequence number. Those of replicas go back when a partition begins to be
/// led whose followers have not all of it: see [`crate::streams`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of chunks that were taken, in all.
    pub taken_bytes: u64,
    /// Synced here.
    pub durable: Seq,
    /// Received by every replica in sync, and there are enough.
    pub replicated: Seq,
    /// Synced by all of them, and here.
    pub replicated_durable: Seq,
    /// None: all partitions wait for the same replicas.
    pub lanes: Option<Arc<Lanes>>,
}

impl Progress {
    /// Whether a reply that needs so much may leave.
    #[inline]
    pub fn covers(&self, durability: Durability, needs: Seq, about: About) -> bool {
        needs <= self.reached(durability) || self.lane_covers(durability, needs, about)
    }

    /// Up to where all replies of this durability may leave.
    #[inline]
    pub fn reached(&self, durability: Durability) -> Seq {
        match durability {
            Durability::Memory => Seq::MAX,
            Durability::Disk => self.durable,
            Durability::Quorum => self.replicated,
            Durability::QuorumDisk => self.replicated_durable,
        }
    }

    fn lane_covers(&self, durability: Durability, needs: Seq, about: About) -> bool {
        let Some(Lanes { map, lanes }) = self.lanes.as_deref() else { return false };
        let set = match about {
            About::One(partition) => map.set(&[partition]),
            About::Lanes(set) => Some(set).filter(|set| set.map == map.number),
            About::Nothing | About::Any => None,
        };
        let Some(set) = set else { return false };
        let reaches = |lane: &Lane| match durability {
            Durability::Memory | Durability::Disk => false,
            Durability::Quorum => needs <= lane.replicated,
            Durability::QuorumDisk => needs <= lane.replicated_durable,
        };
        (0..LANES_MAX).filter(|at| set.lanes >> at & 1 == 1).all(|at| lanes.get(at).is_some_and(reaches))
    }

    /// Which partitions wait for the same replicas, as far as that is known.
    pub fn lane_map(&self) -> Option<&LaneMap> {
        self.lanes.as_deref().map(|lanes| &*lanes.map)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(number: u64, of: &[u8], reached: &[Seq]) -> Option<Arc<Lanes>> {
        let map = Arc::new(LaneMap { number, of: of.into() });
        let lane = |&seq: &Seq| Lane { replicated: seq, replicated_durable: seq / 2 };
        let lanes = reached.iter().map(lane).collect();
        Some(Arc::new(Lanes { map, lanes }))
    }

    fn about(progress: &Progress, partitions: &[Option<u16>]) -> About {
        partitions.iter().fold(About::Nothing, |about, &partition| about.and(partition, progress.lane_map()))
    }

    #[test]
    fn a_slow_lane_holds_up_what_is_in_it() {
        let of = [0, 1, 0, 1, NO_LANE];
        let progress = Progress { replicated: 5, lanes: lanes(1, &of, &[5, 20]), ..Progress::default() };
        let covers = |partitions: &[u16], needs| {
            let partitions: Vec<Option<u16>> = partitions.iter().copied().map(Some).collect();
            progress.covers(Durability::Quorum, needs, about(&progress, &partitions))
        };
        assert!(covers(&[0], 5) && !covers(&[0], 6));
        assert!(covers(&[1], 20) && !covers(&[1], 21));
        assert!(covers(&[1, 3, 1], 20) && !covers(&[1, 3], 21));
        assert!(covers(&[1, 3, 0], 5) && !covers(&[1, 3, 0], 6), "the slowest counts");
        for nowhere in [4, 5, 1_000] {
            assert!(covers(&[nowhere], 5) && !covers(&[nowhere], 6), "{nowhere}");
            assert!(!covers(&[1, nowhere], 6) && !covers(&[nowhere, 1], 6));
        }
        assert!(!progress.covers(Durability::Quorum, 6, about(&progress, &[Some(1), None])));
        assert!(!progress.covers(Durability::Quorum, 6, about(&progress, &[None, Some(1)])));
        let one = about(&progress, &[Some(1)]);
        assert!(progress.covers(Durability::QuorumDisk, 10, one) && !progress.covers(Durability::QuorumDisk, 11, one));
        assert!(progress.covers(Durability::Memory, Seq::MAX, one) && !progress.covers(Durability::Disk, 1, one));
    }

    #[test]
    fn lanes_of_another_map_say_nothing() {
        let before = Progress { replicated: 5, lanes: lanes(1, &[0, 1, 1], &[5, 20]), ..Progress::default() };
        let several = about(&before, &[Some(1), Some(2)]);
        assert!(before.covers(Durability::Quorum, 20, several));
        let after = Progress { lanes: lanes(2, &[0, 1, 0], &[5, 20]), ..before };
        assert!(!after.covers(Durability::Quorum, 20, several));
        assert_eq!(several.and(Some(1), after.lane_map()), About::Any);
        assert!(after.covers(Durability::Quorum, 20, About::One(1)), "a partition is looked up anew");
        assert_eq!(About::One(1).and(Some(2), None), About::Any);
    }
}
