//! Which core owns a partition.
//!
//! Partitions are dealt to cores in contiguous ranges, so that a SCAN cursor, which counts partitions upwards, stays
//! on one core for as long as possible.

/// Index of an executor inside this process: data cores first, the control core last.
pub type CoreId = u16;

/// Where a request has to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// On the core that read it.
    Local,
    /// On another core of this node.
    Core(CoreId),
    /// On another node, or nowhere.
    Away,
}

/// The core that owns a partition on a node with so many cores.
#[inline]
pub fn owner_of(partition: u16, partitions: u16, cores: u16) -> CoreId {
    (u32::from(partition) * u32::from(cores) / u32::from(partitions)) as CoreId
}

/// Stands for no core of this node.
const AWAY: CoreId = CoreId::MAX;

/// One core's copy of the routing table.
#[derive(Clone, Debug)]
pub struct Router {
    me: CoreId,
    /// Owner of each partition, whether this node leads it or follows another one's.
    owner: Box<[CoreId]>,
    /// The same for requests of clients: [`AWAY`] where another node leads.
    target: Box<[CoreId]>,
    cores: u16,
}

impl Router {
    /// The table of a node whose `cores` data cores share `partitions` partitions, as core `me` sees it.
    pub fn new(me: CoreId, cores: u16, partitions: u16) -> Self {
        assert!(cores >= 1 && cores <= partitions);
        let owner: Box<[CoreId]> = (0..partitions).map(|partition| owner_of(partition, partitions, cores)).collect();
        Router { me, target: owner.clone(), owner, cores }
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

    /// Where a client's request for a key of this partition runs.
    #[inline]
    pub fn route(&self, partition: u16) -> Route {
        match self.target[partition as usize] {
            core if core == self.me => Route::Local,
            AWAY => Route::Away,
            core => Route::Core(core),
        }
    }

    /// From now on this node leads the partitions of which `leads` is true, and no others.
    pub fn lead(&mut self, leads: impl Fn(u16) -> bool) {
        for (partition, (target, &owner)) in (0..).zip(self.target.iter_mut().zip(&self.owner)) {
            *target = if leads(partition) { owner } else { AWAY };
        }
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
                let route = if core == 0 { Route::Local } else { Route::Core(core) };
                assert!(range.clone().all(|p| router.route(p) == route));
                next = range.end;
            }
            assert_eq!(next, 256);
        }
    }

    #[test]
    fn what_another_node_leads_is_away() {
        let mut router = Router::new(0, 2, 256);
        router.lead(|partition| partition % 2 == 0);
        assert_eq!([0, 1, 128, 129].map(|p| router.route(p)), [Route::Local, Route::Away, Route::Core(1), Route::Away]);
        // It still has a core that keeps a copy of it.
        assert_eq!([1, 129].map(|p| router.owner(p)), [0, 1]);
        router.lead(|_| true);
        assert_eq!([1, 129].map(|p| router.route(p)), [Route::Local, Route::Core(1)]);
    }
}
