//! Which core owns a partition.
//!
//! Partitions are dealt to cores in contiguous ranges, so that a SCAN cursor, which counts partitions upwards, stays
//! on one core for as long as possible.

use super::slot::Key;

/// Index of an executor inside this process: data cores first, the control core last.
pub type CoreId = u16;

/// Where a request has to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// On the core that read it.
    Local,
    /// On another core of this node.
    Core(CoreId),
}

/// One core's copy of the routing table.
#[derive(Clone, Debug)]
pub struct Router {
    me: CoreId,
    /// Owner of each partition.
    owner: Box<[CoreId]>,
    cores: u16,
}

impl Router {
    /// The table of a node whose `cores` data cores share `partitions` partitions, as core `me` sees it.
    pub fn new(me: CoreId, cores: u16, partitions: u16) -> Self {
        assert!(cores >= 1 && cores <= partitions);
        let owner = (0..partitions as u32).map(|p| (p * cores as u32 / partitions as u32) as CoreId).collect();
        Router { me, owner, cores }
    }

    pub fn me(&self) -> CoreId {
        self.me
    }

    /// Number of data cores.
    pub fn cores(&self) -> u16 {
        self.cores
    }

    pub fn partitions(&self) -> u16 {
        self.owner.len() as u16
    }

    #[inline]
    pub fn owner(&self, partition: u16) -> CoreId {
        self.owner[partition as usize]
    }

    #[inline]
    pub fn route(&self, key: &Key) -> Route {
        let owner = self.owner(key.partition);
        if owner == self.me { Route::Local } else { Route::Core(owner) }
    }

    /// The partitions that `core` owns.
    pub fn range_of(&self, core: CoreId) -> std::ops::Range<u16> {
        let first = self.owner.partition_point(|&o| o < core) as u16;
        let end = self.owner.partition_point(|&o| o <= core) as u16;
        first..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_one_owner_and_ranges_agree() {
        for cores in 1..=7 {
            let router = Router::new(0, cores, 256);
            let mut next = 0;
            for core in 0..cores {
                let range = router.range_of(core);
                assert_eq!(range.start, next);
                assert!(range.len() >= 256 / cores as usize);
                assert!(range.clone().all(|p| router.owner(p) == core));
                next = range.end;
            }
            assert_eq!(next, 256);
        }
    }
}
