//! The workload: which operation comes next, on which key, with how many bytes.
//!
//! A [`Workload`] is made once from the options and shared read-only by all threads. Each client owns a [`Plan`], which
//! draws from a random generator of its own and writes finished requests into the client's output buffer. Writing one
//! request copies a prepared frame around a key number and a slice of prepared data; it allocates nothing.

use std::sync::Arc;

use super::random::{Rng, Zipf};
use super::request::{Field, Template};

/// Random data beyond the largest value, so that values begin at different bytes.
const DATA_SLACK_BYTES: usize = 4096;
/// Stream of the generator that fills the data; clients use the streams from 0.
const DATA_STREAM: u64 = u64::MAX;

/// What an operation is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    Set = 0,
    Get = 1,
    Custom = 2,
}

impl Op {
    pub const COUNT: usize = 3;
    pub const ALL: [Op; Op::COUNT] = [Op::Set, Op::Get, Op::Custom];
}

/// How keys are chosen out of the range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyPattern {
    Uniform,
    /// The lowest key is the most frequent one; the `k`-th has weight `k^-exponent`.
    Zipf {
        exponent: f64,
    },
    /// Each client walks its own share of the range in order, again and again; SET and GET walk apart. Clients that
    /// outnumber the keys walk the whole range.
    Sequential,
}

/// Sizes of values, bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Sizes {
    Fixed(usize),
    /// Uniform between both, inclusive.
    Range(usize, usize),
    /// Sizes with their weights, at least one weight above 0.
    List(Vec<(usize, u64)>),
}

impl Sizes {
    pub fn max_bytes(&self) -> usize {
        match self {
            Sizes::Fixed(size) | Sizes::Range(_, size) => *size,
            Sizes::List(list) => list.iter().map(|entry| entry.0).max().unwrap_or(0),
        }
    }

    #[inline]
    fn pick(&self, rng: &mut Rng) -> usize {
        match self {
            Sizes::Fixed(size) => *size,
            Sizes::Range(min, max) => min + rng.below((max - min) as u64 + 1) as usize,
            Sizes::List(list) => {
                let mut at = rng.below(list.iter().map(|entry| entry.1).sum());
                for &(size, weight) in list {
                    if at < weight {
                        return size;
                    }
                    at -= weight;
                }
                0
            }
        }
    }
}

/// The keys, first and last inclusive. Invariant: `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange {
    pub first: u64,
    pub last: u64,
}

impl KeyRange {
    /// Number of keys; a range of all 2^64 counts as one less.
    pub fn count(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Part `index` of `parts` parts of nearly equal length that follow each other; `None` if it is empty.
    pub fn part(self, index: u64, parts: u64) -> Option<KeyRange> {
        let edge = |i: u64| (u128::from(self.count()) * u128::from(i) / u128::from(parts)) as u64;
        let (start, end) = (edge(index), edge(index + 1));
        (start < end).then(|| KeyRange { first: self.first + start, last: self.first + end - 1 })
    }
}

/// Which operations a client sends.
#[derive(Clone, Debug)]
pub enum Mix {
    /// So many SETs for so many GETs, spread evenly.
    Ratio { set: u64, get: u64 },
    /// Only the given command.
    Custom,
    /// One SET for every key of the client's share of the range.
    Load,
}

/// Everything the clients of one run share.
#[derive(Debug)]
pub struct Workload {
    pub mix: Mix,
    pub keys: KeyRange,
    pub pattern: KeyPattern,
    pub sizes: Sizes,
    pub seed: u64,
    /// Number of clients of the run.
    pub clients: u64,
    templates: [Option<Template>; Op::COUNT],
    zipf: Option<Zipf>,
    data: Arc<[u8]>,
}

impl Workload {
    /// `templates` holds, in the order of [`Op::ALL`], the requests that `mix` sends.
    pub fn new(
        mix: Mix,
        keys: KeyRange,
        pattern: KeyPattern,
        sizes: Sizes,
        seed: u64,
        clients: u64,
        templates: [Option<Template>; Op::COUNT],
    ) -> Self {
        let zipf = match pattern {
            KeyPattern::Zipf { exponent } => Some(Zipf::new(keys.count(), exponent)),
            _ => None,
        };
        let mut rng = Rng::new(seed, DATA_STREAM);
        assert!(u32::try_from(sizes.max_bytes() + DATA_SLACK_BYTES).is_ok(), "a place in the data has 32 bits");
        let data = (0..sizes.max_bytes() + DATA_SLACK_BYTES).map(|_| b'!' + rng.below(94) as u8).collect();
        Workload { mix, keys, pattern, sizes, seed, clients, templates, zipf, data }
    }

    #[inline]
    fn template(&self, op: Op) -> &Template {
        match &self.templates[op as usize] {
            Some(template) => template,
            None => unreachable!("a workload has a template for each of its operations"),
        }
    }

    #[inline]
    fn data_of(&self, draft: &Draft) -> &[u8] {
        &self.data[draft.data_at as usize..][..draft.data_bytes as usize]
    }

    /// Whether each operation may change data.
    pub fn writes(&self) -> [bool; Op::COUNT] {
        let mut writes = [false; Op::COUNT];
        self.ops().for_each(|op| writes[op as usize] = self.template(op).writes());
        writes
    }

    /// The operations that occur.
    pub fn ops(&self) -> impl Iterator<Item = Op> {
        let used = match self.mix {
            Mix::Ratio { set, get } => [set > 0, get > 0, false],
            Mix::Custom => [false, false, true],
            Mix::Load => [true, false, false],
        };
        Op::ALL.into_iter().filter(move |&op| used[op as usize])
    }
}

/// A request that has been drawn: with it [`Plan::write`] writes the same bytes, as often as wanted.
#[derive(Clone, Copy, Debug)]
pub struct Draft {
    pub op: Op,
    key: u64,
    /// Where its data begins in the prepared data, and how long it is.
    data_at: u32,
    data_bytes: u32,
}

/// The endless (for a load: finite) sequence of requests of one client.
#[derive(Debug)]
pub struct Plan {
    workload: Arc<Workload>,
    rng: Rng,
    /// Position in the cycle of SETs and GETs. Invariant: below `set + get`.
    cycle: u64,
    /// What a sequential client walks, and its next key for each operation.
    walk: Option<KeyRange>,
    cursor: [u64; Op::COUNT],
}

impl Plan {
    /// The plan of client `index` of the workload's clients.
    pub fn new(workload: &Arc<Workload>, index: u64) -> Self {
        let mut rng = Rng::new(workload.seed, index);
        let part = workload.keys.part(index, workload.clients);
        let walk = match workload.mix {
            Mix::Load => part,
            _ => Some(part.unwrap_or(workload.keys)),
        };
        // Clients begin at different points of the cycle, so that they do not all SET at once.
        let cycle = match workload.mix {
            Mix::Ratio { set, get } => rng.below(set + get),
            _ => 0,
        };
        let cursor = [walk.map_or(0, |walk| walk.first); Op::COUNT];
        Plan { workload: Arc::clone(workload), rng, cycle, walk, cursor }
    }

    /// How many requests the client sends by itself: its share of the keys for a load, otherwise no end.
    pub fn len_max(&self) -> u64 {
        match (&self.workload.mix, self.walk) {
            (Mix::Load, walk) => walk.map_or(0, KeyRange::count),
            _ => u64::MAX,
        }
    }

    /// Appends the next request to `out`.
    #[inline]
    pub fn emit(&mut self, out: &mut Vec<u8>) -> Op {
        let draft = self.draw();
        self.write(&draft, out);
        draft.op
    }

    /// The next request.
    #[inline]
    pub fn draw(&mut self) -> Draft {
        let op = self.next_op();
        let workload = &*self.workload;
        let template = workload.template(op);
        let key = if template.uses(Field::Key) {
            next_key(workload, self.walk, &mut self.cursor, &mut self.rng, op)
        } else {
            0
        };
        let (mut data_at, mut data_bytes) = (0, 0);
        if template.uses(Field::Data) {
            let size = workload.sizes.pick(&mut self.rng);
            data_at = self.rng.below((workload.data.len() - size) as u64 + 1) as u32;
            data_bytes = size as u32;
        }
        Draft { op, key, data_at, data_bytes }
    }

    /// Appends a request to `out`.
    #[inline]
    pub fn write(&self, draft: &Draft, out: &mut Vec<u8>) {
        let workload = &*self.workload;
        workload.template(draft.op).write(draft.key, workload.data_of(draft), out);
    }

    /// The slot of a request; `scratch` is where its key is put together.
    #[inline]
    pub fn slot(&self, draft: &Draft, scratch: &mut Vec<u8>) -> Option<u16> {
        let workload = &*self.workload;
        workload.template(draft.op).slot(draft.key, workload.data_of(draft), scratch)
    }

    /// An operation is a SET when the line of slope `set / (set + get)` passes an integer in it: SETs are spread as
    /// evenly as integers allow, and every `set + get` operations in a row hold exactly `set` SETs.
    #[inline]
    fn next_op(&mut self) -> Op {
        match self.workload.mix {
            Mix::Ratio { set, get } => {
                let total = set + get;
                let is_set = (self.cycle + 1) * set / total > self.cycle * set / total;
                self.cycle += 1;
                if self.cycle == total {
                    self.cycle = 0;
                }
                if is_set { Op::Set } else { Op::Get }
            }
            Mix::Custom => Op::Custom,
            Mix::Load => Op::Set,
        }
    }
}

#[inline]
fn next_key(workload: &Workload, walk: Option<KeyRange>, cursor: &mut [u64; Op::COUNT], rng: &mut Rng, op: Op) -> u64 {
    let keys = workload.keys;
    match (workload.pattern, &workload.zipf) {
        (KeyPattern::Sequential, _) => {
            let walk = walk.unwrap_or(keys);
            let key = cursor[op as usize];
            cursor[op as usize] = if key == walk.last { walk.first } else { key + 1 };
            key
        }
        (_, Some(zipf)) => keys.first + (zipf.sample(rng) - 1),
        _ => keys.first + rng.below(keys.count()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::loadgen::request;

    fn workload(mix: Mix, keys: KeyRange, pattern: KeyPattern, sizes: Sizes, clients: u64) -> Arc<Workload> {
        let key = request::KeyFormat { prefix: b"k", digits_min: 0 };
        let templates = [
            Some(request::set_template(key, 0)),
            Some(request::get_template(key)),
            Some(Template::parse(b"INCR __key__", key).unwrap()),
        ];
        Arc::new(Workload::new(mix, keys, pattern, sizes, 7, clients, templates))
    }

    /// Emits one request and returns the operation, the key's number and the value's length.
    fn draw(plan: &mut Plan) -> (Op, u64, usize) {
        let mut out = Vec::new();
        let op = plan.emit(&mut out);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.split("\r\n").collect();
        (op, lines[4][1..].parse().unwrap(), lines.get(6).map_or(0, |value| value.len()))
    }

    #[test]
    fn ratio_is_exact_in_every_cycle() {
        for (set, get) in [(1, 10), (1, 1), (3, 7), (10, 1), (1, 0), (0, 1), (5, 13)] {
            let range = KeyRange { first: 1, last: 100 };
            let workload = workload(Mix::Ratio { set, get }, range, KeyPattern::Uniform, Sizes::Fixed(1), 3);
            for client in 0..3 {
                let mut plan = Plan::new(&workload, client);
                let ops: Vec<Op> = (0..1000).map(|_| draw(&mut plan).0).collect();
                for window in ops.windows((set + get) as usize) {
                    assert_eq!(window.iter().filter(|&&op| op == Op::Set).count() as u64, set);
                }
            }
        }
    }

    #[test]
    fn sequential_covers_the_range_exactly() {
        for clients in [1, 3, 7, 100] {
            let range = KeyRange { first: 10, last: 109 };
            let workload = workload(Mix::Load, range, KeyPattern::Sequential, Sizes::Fixed(8), clients);
            let mut seen: HashMap<u64, u64> = HashMap::new();
            for client in 0..clients {
                let mut plan = Plan::new(&workload, client);
                for _ in 0..plan.len_max() {
                    *seen.entry(draw(&mut plan).1).or_default() += 1;
                }
            }
            assert_eq!(seen.len(), 100);
            assert!(seen.iter().all(|(key, times)| (10..=109).contains(key) && *times == 1));
        }
    }

    #[test]
    fn a_load_with_more_clients_than_keys_sends_each_key_once() {
        let workload = workload(Mix::Load, KeyRange { first: 0, last: 4 }, KeyPattern::Sequential, Sizes::Fixed(1), 9);
        assert_eq!((0..9).map(|client| Plan::new(&workload, client).len_max()).sum::<u64>(), 5);
    }

    #[test]
    fn set_and_get_walk_the_range_apart() {
        let range = KeyRange { first: 1, last: 4 };
        let workload = workload(Mix::Ratio { set: 1, get: 1 }, range, KeyPattern::Sequential, Sizes::Fixed(1), 1);
        let mut plan = Plan::new(&workload, 0);
        let mut keys = [Vec::new(), Vec::new()];
        for _ in 0..12 {
            let (op, key, _) = draw(&mut plan);
            keys[op as usize].push(key);
        }
        assert_eq!(keys, [[1, 2, 3, 4, 1, 2], [1, 2, 3, 4, 1, 2]]);
    }

    #[test]
    fn uniform_and_zipf_stay_in_the_range_and_clients_differ() {
        let range = KeyRange { first: 1000, last: 1999 };
        for pattern in [KeyPattern::Uniform, KeyPattern::Zipf { exponent: 0.99 }] {
            let workload = workload(Mix::Custom, range, pattern, Sizes::Fixed(1), 2);
            let walks: Vec<Vec<u64>> = (0..2)
                .map(|client| {
                    let mut plan = Plan::new(&workload, client);
                    (0..2000).map(|_| draw(&mut plan).1).collect()
                })
                .collect();
            assert_ne!(walks[0], walks[1]);
            assert!(walks.iter().flatten().all(|key| (1000..=1999).contains(key)));
        }
    }

    #[test]
    fn sizes_follow_their_distribution() {
        let range = KeyRange { first: 1, last: 1 };
        let sizes = |sizes: Sizes| {
            let workload = workload(Mix::Ratio { set: 1, get: 0 }, range, KeyPattern::Uniform, sizes, 1);
            let mut plan = Plan::new(&workload, 0);
            let mut counts: HashMap<usize, u64> = HashMap::new();
            for _ in 0..40_000 {
                *counts.entry(draw(&mut plan).2).or_default() += 1;
            }
            counts
        };
        assert_eq!(sizes(Sizes::Fixed(33)), HashMap::from([(33, 40_000)]));
        let list = sizes(Sizes::List(vec![(64, 3), (1024, 1)]));
        assert_eq!(list.len(), 2);
        assert!((29_500..30_500).contains(&list[&64]), "{list:?}");
        let range = sizes(Sizes::Range(5, 8));
        assert_eq!(range.len(), 4);
        assert!(range.iter().all(|(size, n)| (5..=8).contains(size) && (9_500..10_500).contains(n)), "{range:?}");
    }
}
