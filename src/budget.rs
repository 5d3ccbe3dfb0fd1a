//! The memory budget: how maxmemory is divided between the cores.
//!
//! A core decides about eviction alone, at every write, by comparing two numbers of its own: what its shard is charged
//! and its *share*. Shares must move, because keys are not spread perfectly and values differ in size; but no write may
//! touch memory that other cores write. So every core publishes what it is charged at the end of each turn, on a cache line
//! of its own; once per tick the first core divides the budget anew ([`divide`]), and the others find their new shares at
//! their next ticks.
//!
//! The budget is maxmemory less the *overhead*: what the process uses that no shard is charged for, from the buffers of
//! clients to the code's own tables. It is measured at each tick, as the difference between what the allocator has given out and
//! what of that shards are charged for. So `used_memory` as INFO shows it stays at maxmemory, but for what clients' buffers gain in a tick.
//! The allocator tells what is in use now, so charges must not be old: what a core has allocated since it told would look
//! like overhead. Within one tick of writes of large values that was half of maxmemory, which all cores then had to evict.
//!
//! A share that shrinks takes effect when its core says so; only then does another one grow by it. So the sum of all
//! shares that are in effect never exceeds the budget, except while it shrinks itself.
//!
//! Invariant: the fields of a [`Slot`] are written by one core each, see there.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Part of the distance to equal shares that cores which evict move in one tick.
const EVEN_OUT_PART: u64 = 16;

/// The budget counts as used up if less than this part of it is free.
const USED_UP_PART: u64 = 16;

/// What the cores tell each other.
#[derive(Debug)]
pub struct Budget {
    slots: Box<[Slot]>,
    /// The maxmemory that was divided last; what was granted of another one does not count.
    divided_bytes: AtomicU64,
}

/// The numbers of one core, alone on their cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    /// Bytes that the core's shard is charged. Written by the core.
    charged: AtomicU64,
    /// The part of them that the allocator does not know, and the part that it does. Written by the core.
    heap: AtomicU64,
    allocated: AtomicU64,
    /// Entries evicted so far. Written by the core.
    evicted: AtomicU64,
    /// The share that is in effect; 0 before the first. Written by the core.
    applied: AtomicU64,
    /// The share that the core is to have. Written by the first core.
    granted: AtomicU64,
    /// [`Slot::evicted`] at the last division. Written by the first core.
    evicted_before: AtomicU64,
}

/// What a core tells after a turn.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    pub charged_bytes: u64,
    /// The part of them that the allocator does not know.
    pub heap_bytes: u64,
    /// Entries evicted so far.
    pub evicted: u64,
}

impl Budget {
    /// For up to `cores` cores.
    pub fn new(cores: usize) -> Budget {
        Budget { slots: (0..cores).map(|_| Slot::default()).collect(), divided_bytes: AtomicU64::new(0) }
    }

    /// Tells what core `core` is charged.
    #[inline]
    pub fn publish(&self, core: usize, charge: Charge) {
        let slot = &self.slots[core];
        slot.charged.store(charge.charged_bytes, Relaxed);
        slot.heap.store(charge.heap_bytes, Relaxed);
        slot.allocated.store(charge.charged_bytes.saturating_sub(charge.heap_bytes), Relaxed);
        slot.evicted.store(charge.evicted, Relaxed);
    }

    /// Tells the share that is in effect on core `core`.
    pub fn apply(&self, core: usize, share_bytes: u64) {
        self.slots[core].applied.store(share_bytes, Relaxed);
    }

    /// Bytes that all cores are charged, as they have told.
    pub fn all_charged_bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.charged.load(Relaxed)).sum()
    }

    /// Bytes that core `core` is charged, as it has told.
    #[cfg(test)]
    pub fn charged_bytes(&self, core: usize) -> u64 {
        self.slots[core].charged.load(Relaxed)
    }

    /// Bytes in use over all cores that the allocator does not know.
    pub fn heap_bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.heap.load(Relaxed)).sum()
    }

    /// The share of `maxmemory_bytes` that core `core` is to have; None before that is divided.
    pub fn granted(&self, core: usize, maxmemory_bytes: u64) -> Option<u64> {
        let granted = self.slots[core].granted.load(Relaxed);
        (self.divided_bytes.load(Acquire) == maxmemory_bytes && granted > 0).then_some(granted)
    }

    /// A share to begin with, when the limit is set or changed: an equal one.
    pub fn equal_share(&self, cores: usize, maxmemory_bytes: u64, allocated_bytes: u64) -> u64 {
        (self.total(cores, maxmemory_bytes, allocated_bytes) / cores as u64).max(1)
    }

    /// What may be charged over all cores.
    fn total(&self, cores: usize, maxmemory_bytes: u64, allocated_bytes: u64) -> u64 {
        // One number of each core: of two, one could be of an older turn.
        let charged: u64 = self.slots[..cores].iter().map(|slot| slot.allocated.load(Relaxed)).sum();
        maxmemory_bytes.saturating_sub(allocated_bytes.saturating_sub(charged))
    }

    /// Divides the budget between the first `cores` cores. The first core calls it, once per tick.
    ///
    /// `allocated_bytes` is what the allocator has given out; `evicts`: the policy removes entries at the limit.
    pub fn divide(&self, cores: usize, maxmemory_bytes: u64, allocated_bytes: u64, evicts: bool) {
        let slots = &self.slots[..cores];
        if self.divided_bytes.load(Relaxed) != maxmemory_bytes {
            slots.iter().for_each(|slot| slot.granted.store(0, Relaxed));
        }
        let total = self.total(cores, maxmemory_bytes, allocated_bytes);
        let state = |slot: &Slot| {
            let evicted = slot.evicted.load(Relaxed);
            CoreState {
                charged: slot.charged.load(Relaxed),
                share: slot.applied.load(Relaxed),
                evicting: evicts && evicted != slot.evicted_before.swap(evicted, Relaxed),
            }
        };
        let states: Vec<CoreState> = slots.iter().map(state).collect();
        let wanted = divide(total, &states);
        // What is in effect, or may be as soon as the core looks; growth comes out of what is left.
        let held: Vec<u64> = slots
            .iter()
            .zip(&states)
            .map(|(slot, state)| match state.share.max(slot.granted.load(Relaxed)) {
                0 => total / cores as u64,
                share => share,
            })
            .collect();
        let mut free = total.saturating_sub(held.iter().sum());
        for ((slot, held), wanted) in slots.iter().zip(held).zip(wanted) {
            let growth = wanted.saturating_sub(held).min(free);
            free -= growth;
            slot.granted.store((held.min(wanted) + growth).max(1), Relaxed);
        }
        self.divided_bytes.store(maxmemory_bytes, Release);
    }
}

/// One core, as [`divide`] sees it.
#[derive(Clone, Copy, Debug)]
struct CoreState {
    charged: u64,
    share: u64,
    /// It has evicted since the last time.
    evicting: bool,
}

/// The shares of `total` that the cores should have.
///
/// While there is room, each has what it is charged and an equal part of what is free: whoever grows finds room, and
/// whoever shrinks gives it back. When all is used up, and cores evict, those that have less than an equal share take a
/// part of the difference from those that have more; otherwise a core that came late would keep nothing but its newest
/// entries.
fn divide(total: u64, cores: &[CoreState]) -> Vec<u64> {
    let n = cores.len() as u64;
    let charged: u64 = cores.iter().map(|core| core.charged).sum();
    if charged > total {
        // The limit was lowered: all give up the same part.
        let part = |core: &CoreState| (u128::from(core.charged) * u128::from(total) / u128::from(charged)) as u64;
        return cores.iter().map(part).collect();
    }
    let free = total - charged;
    let mut shares: Vec<u64> = cores.iter().map(|core| core.charged + free / n).collect();
    if free >= total / USED_UP_PART {
        return shares;
    }
    let equal = total / n;
    let lacks =
        |share: u64, core: &CoreState| if core.evicting { equal.saturating_sub(share) / EVEN_OUT_PART } else { 0 };
    let lacking: u64 = shares.iter().zip(cores).map(|(&share, core)| lacks(share, core)).sum();
    let spare: u64 = shares.iter().map(|share| share.saturating_sub(equal)).sum();
    let moved = lacking.min(spare);
    if moved == 0 {
        return shares;
    }
    let scale = |part: u64, of: u64| (u128::from(part) * u128::from(moved) / u128::from(of)) as u64;
    for (share, core) in shares.iter_mut().zip(cores) {
        *share = *share + scale(lacks(*share, core), lacking) - scale(share.saturating_sub(equal), spare);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(charged: u64, share: u64, evicting: bool) -> CoreState {
        CoreState { charged, share, evicting }
    }

    #[test]
    fn free_memory_is_dealt_equally() {
        assert_eq!(divide(1000, &[core(0, 0, false), core(0, 0, false)]), [500, 500]);
        assert_eq!(divide(1000, &[core(700, 800, false), core(100, 200, false)]), [800, 200]);
        assert_eq!(divide(1000, &[core(700, 800, false), core(10, 200, true)]), [845, 155]);
    }

    #[test]
    fn a_lower_limit_takes_the_same_part_of_all() {
        assert_eq!(divide(500, &[core(750, 800, true), core(250, 300, false)]), [375, 125]);
        assert_eq!(divide(0, &[core(750, 800, true), core(250, 300, false)]), [0, 0]);
    }

    #[test]
    fn a_core_that_came_late_gets_its_part_in_the_end() {
        let mut cores = [core(950, 950, true), core(50, 50, true)];
        for _ in 0..200 {
            let shares = divide(1000, &cores);
            assert!(shares.iter().sum::<u64>() <= 1000);
            cores.iter_mut().zip(shares).for_each(|(core, share)| *core = super::tests::core(share, share, true));
        }
        assert!(cores.iter().all(|core| (470..=530).contains(&core.charged)), "{cores:?}");
        // One that does not evict needs no more than it has.
        assert_eq!(divide(1000, &[core(990, 990, true), core(10, 10, false)]), [990, 10]);
    }

    /// A core that exchanges entries of its heap for ones that are allocated uses no more than before.
    #[test]
    fn what_is_charged_is_no_overhead() {
        const TOTAL: u64 = 1_000_000;
        let budget = Budget::new(2);
        for allocated in [0, 100_000, 400_000] {
            let charge = |charged_bytes, heap_bytes| Charge { charged_bytes, heap_bytes, evicted: 1 };
            budget.publish(0, charge(500_000, 500_000));
            budget.publish(1, charge(400_000, 400_000 - allocated));
            (0..2).for_each(|core| budget.apply(core, TOTAL / 2));
            budget.divide(2, TOTAL, allocated, true);
            assert_eq!([0, 1].map(|core| budget.granted(core, TOTAL)), [Some(500_000), Some(450_000)]);
        }
    }

    #[test]
    fn shares_in_effect_never_exceed_the_budget() {
        const TOTAL: u64 = 1_000_000;
        let budget = Budget::new(3);
        let mut random = 7_u64;
        let mut shares = [budget.equal_share(3, TOTAL, 0); 3];
        let mut charged = [0; 3];
        for round in 0..3_000_u64 {
            for core in 0..3 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // Cores miss ticks, and grow within their shares or shrink.
                if (random >> 60) < 5 {
                    continue;
                }
                if let Some(granted) = budget.granted(core, TOTAL) {
                    shares[core] = granted;
                }
                charged[core] = (random >> 20) % (shares[core] + 1);
                let charge = Charge { charged_bytes: charged[core], heap_bytes: charged[core], evicted: round };
                budget.publish(core, charge);
                budget.apply(core, shares[core]);
                if core == 0 {
                    budget.divide(3, TOTAL, 0, true);
                }
                assert!(shares.iter().sum::<u64>() <= TOTAL, "{shares:?}");
            }
        }
        assert!(shares.iter().all(|&share| share > 1_000), "{shares:?}");
    }
}
