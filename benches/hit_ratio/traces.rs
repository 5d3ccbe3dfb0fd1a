//! The traces: endless seeded sequences of key numbers, the same for every server.
//!
//! A trace is what the clients of a cache ask for, in order. Numbers below the population are keys that come again;
//! those of a scan start at the population and are asked for once.

use keyloom::loadgen::random::{Rng, Zipf};

/// How keys are drawn.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Rank `k` with probability proportional to `k^-s`; the popularity never changes.
    Zipf { s: f64 },
    /// Zipf, interrupted after every `between` requests by a scan of `scan` keys that are never asked for again.
    Scan { s: f64, between: u64, scan: u64 },
    /// All keys in order, again and again: the worst case of LRU as soon as they do not fit.
    Loop,
    /// Zipf whose ranks change hands: after every `every` requests, a quarter of them goes to other keys.
    Shift { s: f64, every: u64 },
}

/// One trace, described.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: &'static str,
    pub kind: Kind,
    /// Keys that can come again, at least one.
    pub population: u64,
}

/// Part of the ranks that one shift moves, as a divisor.
const SHIFT_PARTS: u64 = 4;
/// Distance between the old and the new key of a moved rank, as a divisor of the population.
const SHIFT_STEP_DIVISOR: u64 = 7;
/// A prime larger than any population: multiplying by it modulo the population permutes the keys, and spreads
/// neighbours.
const SPREAD: u64 = 2_654_435_761;
/// Largest population: products with [`SPREAD`] stay below 2^64.
pub const POPULATION_MAX: u64 = 1 << 31;

/// All traces over `population` keys, for a cache that holds about `fits` of them.
pub fn all(population: u64, fits: u64) -> Vec<Spec> {
    let spec = |name, kind| Spec { name, kind, population };
    let scan = |scan| Kind::Scan { s: 0.9, between: fits * 2, scan };
    vec![
        spec("zipf 0.8", Kind::Zipf { s: 0.8 }),
        spec("zipf 0.9", Kind::Zipf { s: 0.9 }),
        spec("zipf 1.0", Kind::Zipf { s: 1.0 }),
        spec("zipf 1.1", Kind::Zipf { s: 1.1 }),
        spec("zipf 1.2", Kind::Zipf { s: 1.2 }),
        // Named by the share of the requests that belong to a scan: no cache can answer those.
        spec("scan 20 %", scan(fits / 2)),
        spec("scan 50 %", scan(fits * 2)),
        Spec { name: "loop", kind: Kind::Loop, population: fits * 5 / 4 },
        spec("shift", Kind::Shift { s: 1.0, every: fits }),
    ]
}

/// A trace under way.
pub struct Trace {
    spec: Spec,
    zipf: Zipf,
    rng: Rng,
    /// Requests so far.
    position: u64,
    /// Keys scanned so far.
    scanned: u64,
}

impl Trace {
    pub fn new(spec: &Spec, seed: u64) -> Self {
        assert!((1..=POPULATION_MAX).contains(&spec.population));
        let s = match spec.kind {
            Kind::Zipf { s } | Kind::Scan { s, .. } | Kind::Shift { s, .. } => s,
            Kind::Loop => 0.0,
        };
        let (zipf, rng) = (Zipf::new(spec.population, s), Rng::new(seed, 0));
        Trace { spec: spec.clone(), zipf, rng, position: 0, scanned: 0 }
    }

    /// The key asked for next.
    pub fn next_key(&mut self) -> u64 {
        let position = self.position;
        self.position += 1;
        match self.spec.kind {
            Kind::Zipf { .. } => self.ranked(0),
            Kind::Scan { between, scan, .. } if position % (between + scan) < between => self.ranked(0),
            Kind::Scan { .. } => {
                self.scanned += 1;
                self.spec.population + self.scanned - 1
            }
            Kind::Loop => position % self.spec.population,
            Kind::Shift { every, .. } => self.ranked(position / every),
        }
    }

    /// A key by its rank, after so many shifts.
    fn ranked(&mut self, shifts: u64) -> u64 {
        let rank = self.zipf.sample(&mut self.rng) - 1;
        // The ranks of part `p` move at the shifts `p + 1`, `p + 1 + SHIFT_PARTS`, ...
        let moves = (shifts + SHIFT_PARTS - 1 - rank % SHIFT_PARTS) / SHIFT_PARTS;
        let population = self.spec.population;
        (rank * SPREAD + moves * (population / SHIFT_STEP_DIVISOR)) % population
    }
}
