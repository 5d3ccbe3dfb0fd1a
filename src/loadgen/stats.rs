//! What is counted. Every thread counts for itself and hands its numbers over once a second.

use hdrhistogram::Histogram;

use super::plan::Op;
use super::reply::Outcome;

/// Bounds of all latency histograms: shorter times count as the lower one, longer times as the upper one.
pub const LATENCY_US_MIN: u64 = 1;
pub const LATENCY_US_MAX: u64 = 60_000_000;
/// Significant decimal digits of the histograms.
pub const LATENCY_DIGITS: u8 = 3;

/// An empty histogram of microseconds.
pub fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(LATENCY_US_MIN, LATENCY_US_MAX, LATENCY_DIGITS) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("the bounds are constants: {error:?}"),
    }
}

/// One answered request.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub op: Op,
    pub outcome: Outcome,
    /// From when it was due to its reply. In a closed loop it is due when it is sent.
    pub response_ns: u64,
    /// From its sending to its reply.
    pub service_ns: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
}

/// Numbers of one operation. Times are microseconds.
#[derive(Clone, Debug)]
pub struct OpStats {
    /// Answered requests, error replies included.
    pub answered: u64,
    /// Replies with and without a value; always 0 for SET.
    pub hits: u64,
    pub misses: u64,
    pub errors: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
    pub response: Histogram<u64>,
    /// Only in an open loop: in a closed one it would equal `response`.
    pub service: Option<Histogram<u64>>,
}

impl OpStats {
    pub fn new(open_loop: bool) -> Self {
        OpStats {
            answered: 0,
            hits: 0,
            misses: 0,
            errors: 0,
            bytes_out: 0,
            bytes_in: 0,
            response: histogram(),
            service: open_loop.then(histogram),
        }
    }

    #[inline]
    fn record(&mut self, answer: &Answer) {
        self.answered += 1;
        match answer.outcome {
            Outcome::Error => self.errors += 1,
            Outcome::Value if answer.op != Op::Set => self.hits += 1,
            Outcome::Miss if answer.op != Op::Set => self.misses += 1,
            _ => {}
        }
        self.bytes_out += answer.bytes_out;
        self.bytes_in += answer.bytes_in;
        self.response.saturating_record(micros(answer.response_ns));
        if let Some(service) = &mut self.service {
            service.saturating_record(micros(answer.service_ns));
        }
    }

    fn add(&mut self, other: &OpStats) {
        self.answered += other.answered;
        self.hits += other.hits;
        self.misses += other.misses;
        self.errors += other.errors;
        self.bytes_out += other.bytes_out;
        self.bytes_in += other.bytes_in;
        add_histogram(&mut self.response, &other.response);
        if let (Some(service), Some(other)) = (&mut self.service, &other.service) {
            add_histogram(service, other);
        }
    }
}

fn add_histogram(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    if let Err(error) = to.add(from) {
        unreachable!("all histograms have the same bounds: {error:?}");
    }
}

/// Nanoseconds as microseconds within the histograms' bounds, rounded.
#[inline]
fn micros(ns: u64) -> u64 {
    (ns.saturating_add(500) / 1000).clamp(LATENCY_US_MIN, LATENCY_US_MAX)
}

/// Numbers of all operations.
#[derive(Clone, Debug)]
pub struct Stats {
    open_loop: bool,
    /// Indexed by [`Op`]; made when the operation first occurs.
    ops: [Option<Box<OpStats>>; Op::COUNT],
    /// Text of the first error reply.
    pub first_error: Option<String>,
}

impl Stats {
    pub fn new(open_loop: bool) -> Self {
        Stats { open_loop, ops: [None, None, None], first_error: None }
    }

    pub fn open_loop(&self) -> bool {
        self.open_loop
    }

    #[inline]
    pub fn record(&mut self, answer: &Answer) {
        self.of(answer.op).record(answer);
    }

    pub fn op(&self, op: Op) -> Option<&OpStats> {
        self.ops[op as usize].as_deref()
    }

    #[inline]
    fn of(&mut self, op: Op) -> &mut OpStats {
        let open_loop = self.open_loop;
        self.ops[op as usize].get_or_insert_with(|| Box::new(OpStats::new(open_loop)))
    }

    pub fn add(&mut self, other: &Stats) {
        for op in Op::ALL {
            if let Some(stats) = other.op(op) {
                self.of(op).add(stats);
            }
        }
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }

    /// All operations as one.
    pub fn total(&self) -> OpStats {
        let mut total = OpStats::new(self.open_loop);
        for stats in self.ops.iter().flatten() {
            total.add(stats);
        }
        total
    }
}
