//! One connection's side of the conversation, without its socket: what to send next, what came back, what it cost.
//!
//! Pure: bytes and times come in as arguments (nanoseconds since the start of the run), bytes to send go out. The tests
//! drive it with virtual time.
//!
//! In a closed loop the next batch of `pipeline` requests is written when the last one is answered. In an open loop
//! whatever is due is written at once, as long as at most `pipeline` requests are in flight; the rest waits in the
//! schedule and its waiting counts.

use super::plan::{Op, Plan};
use super::reply::Outcome;
use super::schedule::Schedule;
use super::stats::{Answer, Stats};
use super::wire::{Answered, ClientError, Wire};

/// Scheduled requests that were never sent are counted up to this.
const UNSENT_MAX: u64 = 10_000_000;

/// A request in flight.
#[derive(Clone, Copy, Debug)]
struct Pending {
    op: Op,
    bytes: u32,
    due_ns: u64,
    sent_ns: u64,
}

/// How a client sends.
#[derive(Debug)]
pub struct Pace {
    /// Most requests in flight, at least 1.
    pub pipeline: usize,
    /// Requests to send that count; those before `record_from_ns` come on top.
    pub requests: u64,
    /// Requests due before this are warm-up and leave no trace.
    pub record_from_ns: u64,
    /// Open loop if there is one.
    pub schedule: Option<Schedule>,
}

/// Skips what is due before `now_ns`; how many requests that count it was.
pub fn unsent_by(pace: &mut Pace, now_ns: u64) -> u64 {
    let mut unsent = 0;
    if let Some(schedule) = &mut pace.schedule {
        while unsent < pace.requests.min(UNSENT_MAX) && schedule.due_ns() < now_ns {
            unsent += u64::from(schedule.due_ns() >= pace.record_from_ns);
            schedule.advance();
        }
    }
    unsent
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    plan: Plan,
    pace: Pace,
    /// Invariant: at most `pace.pipeline` requests are in flight.
    wire: Wire<Pending>,
    /// Requests of the present batch still to be written (closed loop).
    batch_left: usize,
}

impl Client {
    pub fn new(plan: Plan, mut pace: Pace) -> Self {
        pace.requests = pace.requests.min(plan.len_max());
        Client { plan, pace, wire: Wire::default(), batch_left: 0 }
    }

    /// Bytes that wait to be written.
    #[inline]
    pub fn output(&self) -> &[u8] {
        self.wire.output()
    }

    /// `n` bytes of [`Client::output`] have been written.
    #[inline]
    pub fn written(&mut self, n: usize) {
        self.wire.written(n);
    }

    /// Prepares what is to be sent now, once all earlier output is written: a request is counted as sent when it gets
    /// to the front of the line for the socket. Returns whether there is anything.
    #[inline]
    pub fn fill(&mut self, now_ns: u64) -> bool {
        if !self.wire.is_written() {
            return true;
        }
        if self.pace.schedule.is_some() {
            self.fill_due(now_ns)
        } else {
            self.fill_batch(now_ns)
        }
        !self.wire.is_written()
    }

    fn fill_batch(&mut self, now_ns: u64) {
        if self.wire.in_flight() == 0 && self.batch_left == 0 {
            self.batch_left = self.pace.pipeline;
        }
        while self.batch_left > 0 && self.pace.requests > 0 && self.wire.has_room() {
            self.batch_left -= 1;
            self.emit(now_ns, now_ns);
        }
        if self.pace.requests == 0 {
            self.batch_left = 0;
        }
    }

    fn fill_due(&mut self, now_ns: u64) {
        while let Some(due_ns) = self.wake_ns()
            && due_ns <= now_ns
            && self.wire.has_room()
        {
            if let Some(schedule) = &mut self.pace.schedule {
                schedule.advance();
            }
            self.emit(due_ns, now_ns);
        }
    }

    #[inline]
    fn emit(&mut self, due_ns: u64, sent_ns: u64) {
        let plan = &mut self.plan;
        self.wire.send(|out| {
            let before = out.len();
            let op = plan.emit(out);
            let bytes = (out.len() - before).min(u32::MAX as usize) as u32;
            Pending { op, bytes, due_ns, sent_ns }
        });
        if due_ns >= self.pace.record_from_ns {
            self.pace.requests -= 1;
        }
    }

    /// Open loop: when the next request is due, if it may be sent then. `None` while the pipeline is full, when nothing
    /// is left to send, and always in a closed loop.
    #[inline]
    pub fn wake_ns(&self) -> Option<u64> {
        let may_send = self.pace.requests > 0 && self.wire.in_flight() < self.pace.pipeline;
        self.pace.schedule.as_ref().filter(|_| may_send).map(Schedule::due_ns)
    }

    /// Takes what arrived at `now_ns`.
    #[inline]
    pub fn feed(&mut self, bytes: &[u8], now_ns: u64, stats: &mut Stats) -> Result<(), ClientError> {
        let mut at = 0;
        while let Some(answered) = self.wire.next(bytes, &mut at)? {
            self.answered(answered, now_ns, stats);
        }
        Ok(())
    }

    #[inline]
    fn answered(&mut self, answered: Answered<Pending>, now_ns: u64, stats: &mut Stats) {
        let Answered { request: pending, outcome, bytes: bytes_in } = answered;
        if outcome == Outcome::Error && stats.first_error.is_none() {
            stats.first_error = Some(String::from_utf8_lossy(self.wire.error_text()).into_owned());
        }
        if pending.due_ns >= self.pace.record_from_ns {
            stats.record(&Answer {
                op: pending.op,
                outcome,
                response_ns: now_ns.saturating_sub(pending.due_ns),
                service_ns: now_ns.saturating_sub(pending.sent_ns),
                bytes_out: u64::from(pending.bytes),
                bytes_in,
            });
        }
    }

    /// Sends nothing new from now on. Returns how many requests were due by `now_ns` and have not been sent.
    pub fn stop(&mut self, now_ns: u64) -> u64 {
        let unsent = unsent_by(&mut self.pace, now_ns);
        self.pace.requests = 0;
        self.batch_left = 0;
        unsent
    }

    pub fn in_flight(&self) -> usize {
        self.wire.in_flight()
    }

    /// Everything was sent and answered.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.pace.requests == 0 && self.wire.in_flight() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use super::*;
    use crate::loadgen::plan::{KeyPattern, KeyRange, Mix, Sizes, Workload};
    use crate::loadgen::random::Rng;
    use crate::loadgen::request;
    use crate::loadgen::schedule::Arrival;

    const MS: u64 = 1_000_000;

    fn client(pipeline: usize, requests: u64, record_from_ns: u64, gap_ns: Option<f64>) -> Client {
        let key = request::KeyFormat { prefix: b"", digits_min: 0 };
        let templates = [Some(request::set_template(key, 0)), Some(request::get_template(key)), None];
        let range = KeyRange { first: 1, last: 9 };
        let mix = Mix::Ratio { set: 0, get: 1 };
        let workload = Arc::new(Workload::new(mix, range, KeyPattern::Uniform, Sizes::Fixed(1), 1, 1, templates));
        let schedule = gap_ns.map(|gap_ns| Schedule::new(Arrival::Constant, gap_ns, Rng::new(5, 0)));
        Client::new(Plan::new(&workload, 0), Pace { pipeline, requests, record_from_ns, schedule })
    }

    /// Writes all output and returns how many requests it was.
    fn send(client: &mut Client, now_ns: u64) -> usize {
        let mut requests = 0;
        while client.fill(now_ns) {
            requests += client.output().windows(3).filter(|window| window == b"GET").count();
            client.written(client.output().len());
        }
        requests
    }

    /// A server that answers each request `service_ns` after it arrives, except that it stands still from `stall.0` to
    /// `stall.1` and answers then what has gathered. Virtual time in steps of `step_ns`, until `end_ns` and all is answered.
    fn simulate(client: &mut Client, service_ns: u64, stall: (u64, u64), step_ns: u64, end_ns: u64) -> Stats {
        let mut stats = Stats::new(client.pace.schedule.is_some());
        let mut answers: VecDeque<u64> = VecDeque::new();
        let mut now = 0;
        while now < end_ns || client.in_flight() > 0 {
            if now >= end_ns {
                client.stop(now);
            }
            while answers.front().is_some_and(|&at| at <= now) {
                answers.pop_front();
                client.feed(b"$1\r\nx\r\n", now, &mut stats).unwrap();
            }
            for _ in 0..send(client, now) {
                let at = now + service_ns;
                answers.push_back(if (stall.0..stall.1).contains(&at) { stall.1 } else { at });
            }
            now += step_ns;
        }
        stats
    }

    #[test]
    fn open_loop_counts_what_a_stall_made_wait() {
        // 1000 requests per second for 10 s, one in flight; the server stands still from 4 s to 5 s. The 1000 requests
        // due meanwhile wait; the queue then drains at one per step of 0.2 ms while it still grows, so the k-th request
        // since 4 s is 1000 - k + 0.2 k ms late, until the client has caught up with k = 1250.
        let mut client = client(1, u64::MAX, 0, Some(MS as f64));
        let stats = simulate(&mut client, MS / 10, (4000 * MS, 5000 * MS), MS / 5, 10_000 * MS);
        let total = stats.total();
        assert!((9_990..=10_001).contains(&total.answered), "{}", total.answered);
        let late = |from_ms: u64| total.response.count_between(from_ms * 1000, 60_000_000);
        for (from_ms, expected) in [(900, 125), (800, 250), (500, 625), (200, 1000), (100, 1125)] {
            let got = late(from_ms);
            assert!(got.abs_diff(expected) <= 6, "{got} later than {from_ms} ms, expected {expected}");
        }
        let p99 = total.response.value_at_quantile(0.99) as f64 / 1000.0;
        assert!((p99 - 920.0).abs() < 5.0, "{p99}");
        // Seen from the sending, one request was slow.
        let service = total.service.unwrap();
        assert_eq!(service.count_between(100_000, 60_000_000), 1);
        assert!(service.value_at_quantile(0.99) < 1_000);
    }

    #[test]
    fn closed_loop_omits_what_a_stall_made_wait() {
        let mut client = client(1, u64::MAX, 0, None);
        let stats = simulate(&mut client, MS / 10, (4000 * MS, 5000 * MS), MS / 5, 10_000 * MS);
        assert_eq!(stats.total().response.count_between(100_000, 60_000_000), 1);
        assert!(stats.total().service.is_none());
    }

    #[test]
    fn closed_loop_sends_whole_batches_and_exactly_the_requests_asked_for() {
        let mut client = client(4, 10, 0, None);
        let mut stats = Stats::new(false);
        let mut sent = Vec::new();
        while !client.is_done() {
            let batch = send(&mut client, 0);
            sent.push(batch);
            for left in (0..batch).rev() {
                client.feed(b"$-1\r\n", 5, &mut stats).unwrap();
                assert!(left == 0 || send(&mut client, 5) == 0);
            }
        }
        assert_eq!(sent, [4, 4, 2]);
        let total = stats.total();
        assert_eq!((total.answered, total.misses, total.hits), (10, 10, 0));
        assert_eq!(total.bytes_in, 50);
        assert_eq!(total.bytes_out, 10 * 20);
    }

    #[test]
    fn open_loop_keeps_to_the_pipeline_and_catches_up() {
        let mut client = client(3, 100, 0, Some(MS as f64));
        let mut stats = Stats::new(true);
        assert_eq!(send(&mut client, 10 * MS), 3);
        assert_eq!(client.wake_ns(), None);
        assert_eq!(send(&mut client, 11 * MS), 0);
        client.feed(b"$1\r\nx\r\n$1\r\nx\r\n", 11 * MS, &mut stats).unwrap();
        assert_eq!(send(&mut client, 11 * MS), 2);
        client.feed(b"$1\r\nx\r\n", 11 * MS, &mut stats).unwrap();
        assert!(client.wake_ns().is_some_and(|due| due < 11 * MS));
        assert_eq!(client.stop(20 * MS), 15);
        assert_eq!(client.in_flight(), 2);
        assert_eq!(send(&mut client, 30 * MS), 0);
    }

    #[test]
    fn warm_up_leaves_no_trace() {
        let mut client = client(1, 5, 100, None);
        let mut stats = Stats::new(false);
        let mut sent = 0;
        for now in (0..).step_by(10) {
            sent += send(&mut client, now);
            if client.is_done() {
                break;
            }
            client.feed(b"$1\r\nx\r\n", now, &mut stats).unwrap();
        }
        assert_eq!(sent, 10 + 5);
        assert_eq!(stats.total().answered, 5);
    }

    #[test]
    fn a_reply_to_no_request_is_an_error() {
        let mut client = client(1, 1, 0, None);
        assert_eq!(client.feed(b"+OK\r\n", 0, &mut Stats::new(false)), Err(ClientError::Unexpected));
    }

    #[test]
    fn the_first_error_is_kept() {
        let mut client = client(2, 2, 0, None);
        let mut stats = Stats::new(false);
        send(&mut client, 0);
        client.feed(b"-ERR one\r\n-ERR two\r\n", 1, &mut stats).unwrap();
        assert_eq!(stats.first_error.as_deref(), Some("ERR one"));
        assert_eq!(stats.total().errors, 2);
    }
}
