//! One client of a cluster, without its sockets: what goes to which node, what came back, what became of it.
//!
//! Pure, as the client of one server is: bytes and times come in as arguments, bytes to send go out, and what the
//! clients of a thread have in common is the [`View`]. A client has a [`Lane`] for each node, which is where a connection
//! belongs; it may be down, and requests for it then wait.

use std::collections::VecDeque;

use super::routes::Routes;
use super::{Kind, View};
use crate::loadgen::client::{Pace, unsent_by};
use crate::loadgen::plan::{Draft, Plan};
use crate::loadgen::reply::Outcome;
use crate::loadgen::stats::{Answer, Stats};
use crate::loadgen::wire::{Answered, ClientError, Wire};

/// So often in a row a request follows MOVED at once; then it waits for a newer table.
const MOVES_MAX: u8 = 5;

/// Why a connection is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    #[error(transparent)]
    Reply(#[from] ClientError),
    #[error("it refuses the greeting: {0}")]
    Greeting(String),
}

#[derive(Clone, Copy, Debug)]
struct Request {
    draft: Draft,
    slot: u16,
    /// MOVED in a row.
    moves: u8,
    bytes: u32,
    due_ns: u64,
    sent_ns: u64,
}

/// What is in flight.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Greeting,
    Request(Request),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Connecting,
    Greeting,
    Ready,
}

/// The way to one node.
#[derive(Debug)]
struct Lane {
    state: State,
    /// Invariant: at most `pace.pipeline` requests are in flight.
    wire: Wire<Sent>,
    /// Requests for the node that were not sent yet, or were refused by others.
    queue: VecDeque<Request>,
    /// Closed loop: requests that still fit into the present batch.
    room: usize,
    /// When something came last, or the connection was begun.
    heard_ns: u64,
    /// When the oldest request in flight was sent, 0 without one.
    waits_since_ns: u64,
}

impl Lane {
    fn new() -> Lane {
        let (wire, queue) = (Wire::default(), VecDeque::new());
        Lane { state: State::Down, wire, queue, room: 0, heard_ns: 0, waits_since_ns: 0 }
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.wire.in_flight() == 0
    }
}

/// One client.
#[derive(Debug)]
pub struct Client {
    plan: Plan,
    pace: Pace,
    /// By number of the node, as far as it was needed.
    lanes: Vec<Lane>,
    /// Closed loop: drawn, and without a connection that takes it. Due when that is for want of a node.
    next: Option<Request>,
    /// Requests of slots that nobody is known to serve.
    homeless: VecDeque<Request>,
    /// Most requests that may wait without being sent; further ones stay in the schedule.
    waiting_max: usize,
    /// The table by which queued requests were placed.
    version: u64,
    stopped: bool,
    /// Where keys are put together.
    key: Vec<u8>,
}

/// Not due yet.
const NOT_DUE: u64 = u64::MAX;

impl Client {
    pub fn new(plan: Plan, mut pace: Pace, waiting_max: usize) -> Client {
        pace.requests = pace.requests.min(plan.len_max());
        let (homeless, key) = (VecDeque::new(), Vec::new());
        Client { plan, pace, lanes: Vec::new(), next: None, homeless, waiting_max, version: 0, stopped: false, key }
    }

    /// How many lanes there are; nodes beyond are not needed.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// A connection to `node` begins.
    pub fn begin(&mut self, node: usize, now_ns: u64) {
        let lane = self.lane(node);
        lane.state = State::Connecting;
        lane.heard_ns = now_ns;
    }

    /// `node` is connected; `greeting` has what is to be said before anything else.
    pub fn greet(&mut self, node: usize, greeting: &[Vec<u8>]) {
        let lane = self.lane(node);
        lane.state = if greeting.is_empty() { State::Ready } else { State::Greeting };
        for bytes in greeting {
            lane.wire.send(|out| {
                out.extend_from_slice(bytes);
                Sent::Greeting
            });
        }
    }

    /// The connection to `node` has begun, and was not greeted yet.
    pub fn is_new(&self, node: usize) -> bool {
        self.lanes[node].state == State::Connecting
    }

    pub fn is_ready(&self, node: usize) -> bool {
        self.lanes[node].state == State::Ready
    }

    fn lane(&mut self, node: usize) -> &mut Lane {
        while self.lanes.len() <= node {
            self.lanes.push(Lane::new());
        }
        &mut self.lanes[node]
    }

    /// Whether there is no connection to `node` and one is needed.
    pub fn needs(&self, node: usize, view: &View) -> bool {
        let lane = &self.lanes[node];
        lane.state == State::Down && (view.routes.leads(node) || !lane.queue.is_empty()) && !self.stopped
    }

    /// Bytes that wait to be written to `node`.
    #[inline]
    pub fn output(&self, node: usize) -> &[u8] {
        self.lanes[node].wire.output()
    }

    /// `n` bytes of [`Client::output`] have been written.
    #[inline]
    pub fn written(&mut self, node: usize, n: usize) {
        self.lanes[node].wire.written(n);
    }

    /// Prepares what is to be sent now, for each node once all earlier output for it is written.
    pub fn fill(&mut self, now_ns: u64, view: &mut View) {
        if self.version != view.routes.version() {
            self.place_again(&view.routes);
        }
        if self.pace.schedule.is_some() {
            self.draw_due(now_ns, &view.routes);
        } else {
            self.draw_next(now_ns, &view.routes);
        }
        for node in 0..self.lanes.len() {
            self.fill_lane(node, now_ns, &view.routes);
        }
    }

    /// Requests that wait go where the table says now.
    fn place_again(&mut self, routes: &Routes) {
        self.version = routes.version();
        let mut moving = std::mem::take(&mut self.homeless);
        for (node, lane) in self.lanes.iter_mut().enumerate() {
            let (stay, go) = lane.queue.drain(..).partition(|request| routes.leader_of(request.slot) == Some(node));
            lane.queue = stay;
            moving.extend::<VecDeque<Request>>(go);
        }
        for mut request in moving {
            request.moves = 0;
            self.place(request, routes);
        }
    }

    fn place(&mut self, request: Request, routes: &Routes) {
        match routes.leader_of(request.slot) {
            Some(node) => self.lane(node).queue.push_back(request),
            None => self.homeless.push_back(request),
        }
    }

    fn draw(&mut self, due_ns: u64) -> Request {
        let draft = self.plan.draw();
        // Commands without a slot are refused with the options.
        let slot = self.plan.slot(&draft, &mut self.key).unwrap_or(0);
        Request { draft, slot, moves: 0, bytes: 0, due_ns, sent_ns: 0 }
    }

    fn count(&mut self, due_ns: u64) {
        if due_ns >= self.pace.record_from_ns {
            self.pace.requests -= 1;
        }
    }

    fn draw_due(&mut self, now_ns: u64, routes: &Routes) {
        while let Some(due_ns) = self.wake_ns()
            && due_ns <= now_ns
        {
            if let Some(schedule) = &mut self.pace.schedule {
                schedule.advance();
            }
            let request = self.draw(due_ns);
            self.count(due_ns);
            self.place(request, routes);
        }
    }

    fn draw_next(&mut self, now_ns: u64, routes: &Routes) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_idle()) {
            lane.room = self.pace.pipeline;
        }
        while self.next.is_some() || self.pace.requests > 0 {
            let mut request = self.next.take().unwrap_or_else(|| self.draw(NOT_DUE));
            let lane = routes.leader_of(request.slot).map(|node| self.lane(node));
            let lane = lane.filter(|lane| lane.state == State::Ready);
            let full = lane.as_ref().is_some_and(|lane| lane.room == 0);
            if !full {
                request.due_ns = request.due_ns.min(now_ns);
            }
            let Some(lane) = lane.filter(|_| !full) else {
                self.next = Some(request);
                return;
            };
            lane.room -= 1;
            lane.queue.push_back(request);
            self.count(request.due_ns);
        }
    }

    fn fill_lane(&mut self, node: usize, now_ns: u64, routes: &Routes) {
        let lane = &mut self.lanes[node];
        if lane.state != State::Ready || !lane.wire.is_written() {
            return;
        }
        while lane.wire.in_flight() < self.pace.pipeline && lane.wire.has_room() {
            let Some(mut request) = lane.queue.pop_front() else { break };
            // Forgotten since it was placed.
            if routes.leader_of(request.slot) != Some(node) {
                self.homeless.push_back(request);
                continue;
            }
            if lane.wire.in_flight() == 0 {
                lane.waits_since_ns = now_ns;
            }
            let plan = &self.plan;
            lane.wire.send(|out| {
                let before = out.len();
                plan.write(&request.draft, out);
                request.bytes = (out.len() - before).min(u32::MAX as usize) as u32;
                request.sent_ns = now_ns;
                Sent::Request(request)
            });
        }
    }

    /// Open loop: when the next request is due, unless too many wait already or nothing is left to send.
    #[inline]
    pub fn wake_ns(&self) -> Option<u64> {
        let schedule = self.pace.schedule.as_ref()?;
        let may = self.pace.requests > 0 && self.waiting() < self.waiting_max;
        may.then(|| schedule.due_ns())
    }

    fn waiting(&self) -> usize {
        self.homeless.len() + self.lanes.iter().map(|lane| lane.queue.len()).sum::<usize>()
    }

    /// Whether requests wait for want of a node.
    pub fn is_stuck(&self) -> bool {
        let down = |lane: &Lane| lane.state != State::Ready && !lane.queue.is_empty();
        let next = self.next.is_some_and(|next| next.due_ns != NOT_DUE);
        next || !self.homeless.is_empty() || self.lanes.iter().any(down)
    }

    /// Takes what arrived from `node`.
    pub fn feed(
        &mut self,
        node: usize,
        bytes: &[u8],
        now_ns: u64,
        stats: &mut Stats,
        view: &mut View,
    ) -> Result<(), LaneError> {
        self.lanes[node].heard_ns = now_ns;
        let mut at = 0;
        while let Some(answered) = self.lanes[node].wire.next(bytes, &mut at)? {
            match answered.request {
                Sent::Greeting => self.greeted(node, answered.outcome)?,
                Sent::Request(request) => {
                    let answered = Answered { request, outcome: answered.outcome, bytes: answered.bytes };
                    self.answered(node, answered, now_ns, stats, view);
                }
            }
        }
        Ok(())
    }

    fn greeted(&mut self, node: usize, outcome: Outcome) -> Result<(), LaneError> {
        let lane = &mut self.lanes[node];
        if outcome == Outcome::Error {
            return Err(LaneError::Greeting(String::from_utf8_lossy(lane.wire.error_text()).into_owned()));
        }
        if lane.wire.in_flight() == 0 {
            lane.state = State::Ready;
        }
        Ok(())
    }

    fn answered(&mut self, node: usize, answered: Answered<Request>, now_ns: u64, stats: &mut Stats, view: &mut View) {
        let Answered { request, outcome, bytes: bytes_in } = answered;
        if outcome == Outcome::Error {
            let text = self.lanes[node].wire.error_text();
            if let Some(kind) = Kind::of(text) {
                view.failed[kind as usize] += 1;
                view.gaps.failed(request.slot, node, kind, view.counts[request.draft.op as usize], now_ns);
                return self.refused(node, request, kind, view);
            }
            if stats.first_error.is_none() {
                stats.first_error = Some(String::from_utf8_lossy(text).into_owned());
            }
        }
        view.served(node);
        let counts = outcome != Outcome::Error && view.counts[request.draft.op as usize];
        view.gaps.answered(request.slot, node, request.sent_ns, now_ns, counts);
        if request.due_ns >= self.pace.record_from_ns {
            stats.record(&Answer {
                op: request.draft.op,
                outcome,
                response_ns: now_ns.saturating_sub(request.due_ns),
                service_ns: now_ns.saturating_sub(request.sent_ns),
                bytes_out: u64::from(request.bytes),
                bytes_in,
            });
        }
    }

    /// It was not executed, and is sent again when somebody serves its slot.
    fn refused(&mut self, node: usize, mut request: Request, kind: Kind, view: &mut View) {
        if self.stopped && kind.is_sent_again() {
            view.unsent += u64::from(request.due_ns >= self.pace.record_from_ns);
            return;
        }
        match kind {
            Kind::Moved => {
                request.moves += 1;
                let to = view.routes.moved(self.lanes[node].wire.error_text(), node);
                match to.filter(|_| request.moves <= MOVES_MAX) {
                    Some(to) => self.lane(to).queue.push_front(request),
                    None => {
                        view.routes.forget(request.slot, to.unwrap_or(node));
                        self.place(request, &view.routes);
                    }
                }
            }
            kind if kind.is_sent_again() => {
                view.routes.forget(request.slot, node);
                self.place(request, &view.routes);
            }
            _ => view.routes.want(),
        }
    }

    /// The connection to `node` has ended, or could not be made. Returns how many requests are lost with it.
    pub fn lose(&mut self, node: usize, kind: Kind, now_ns: u64, view: &mut View) -> u64 {
        self.doubt(node, kind, now_ns, view);
        let lane = &mut self.lanes[node];
        lane.state = State::Down;
        let lost = lane.wire.reset().into_iter().filter(|sent| matches!(sent, Sent::Request(_))).count() as u64;
        view.failed[kind as usize] += lost;
        lost
    }

    /// Requests to `node` begin to fail: those in flight, and one that would be sent next.
    fn doubt(&mut self, node: usize, kind: Kind, now_ns: u64, view: &mut View) {
        view.routes.want();
        let next = self.next.as_ref().filter(|next| view.routes.leader_of(next.slot) == Some(node));
        let lane = &self.lanes[node];
        let in_flight = lane.wire.pending().filter_map(|sent| match sent {
            Sent::Request(request) => Some(request),
            Sent::Greeting => None,
        });
        for request in in_flight.chain(lane.queue.front()).chain(next) {
            view.gaps.failed(request.slot, node, kind, view.counts[request.draft.op as usize], now_ns);
        }
    }

    /// For how long `node` has let requests, or a connection, wait and has said nothing, ns.
    pub fn silence_ns(&self, node: usize, now_ns: u64) -> u64 {
        let lane = &self.lanes[node];
        let since_ns = match lane.state {
            State::Connecting | State::Greeting => lane.heard_ns,
            State::Ready if lane.wire.in_flight() > 0 => lane.heard_ns.max(lane.waits_since_ns),
            _ => return 0,
        };
        now_ns.saturating_sub(since_ns)
    }

    /// `node` has been silent for long; it may still answer.
    pub fn suspect(&mut self, node: usize, now_ns: u64, view: &mut View) {
        self.doubt(node, Kind::Silent, now_ns, view);
    }

    /// Sends nothing new from now on. Returns how many requests were due by `now_ns` and have not been sent.
    pub fn stop(&mut self, now_ns: u64) -> u64 {
        self.stopped = true;
        let mut unsent = unsent_by(&mut self.pace, now_ns);
        let queued = self.lanes.iter_mut().flat_map(|lane| lane.queue.drain(..));
        let next = self.next.take().filter(|next| next.due_ns != NOT_DUE);
        for request in queued.chain(self.homeless.drain(..)).chain(next) {
            unsent += u64::from(request.due_ns >= self.pace.record_from_ns);
        }
        self.pace.requests = 0;
        unsent
    }

    /// Requests that were sent and not answered.
    pub fn in_flight(&self) -> usize {
        let requests = |lane: &Lane| lane.wire.pending().filter(|sent| matches!(sent, Sent::Request(_))).count();
        self.lanes.iter().map(requests).sum()
    }

    /// Everything was sent and answered.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.pace.requests == 0
            && self.next.is_none()
            && self.homeless.is_empty()
            && self.lanes.iter().all(|lane| lane.is_idle() || (lane.queue.is_empty() && lane.state == State::Greeting))
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
