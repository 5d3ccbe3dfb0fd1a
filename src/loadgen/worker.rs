//! One thread of the load generator: an event loop over its own connections.
//!
//! Nothing is shared with other threads but a flag to stop and a channel to hand numbers over. The loop writes once
//! per batch and reads into one buffer that all connections use; replies are counted where they lie.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::client::Client;
use super::connect::Socket;
use super::stats::Stats;

/// Bytes taken from a socket at once.
const READ_BYTES: usize = 256 * 1024;
/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
/// Longest sleep: how late a stop or the end of a second may be noticed, ms.
const SLEEP_MS_MAX: u64 = 20;
/// The last part of a wait for the next due request is spent polling, because a sleeping thread wakes this late, ns.
const SPIN_NS: u64 = 60_000;
/// How long replies are awaited after the end of a run, and after an interrupt, ms.
const DRAIN_MS_MAX: u64 = 5_000;
const DRAIN_INTERRUPTED_MS_MAX: u64 = 1_000;
/// How often numbers are handed over, ns.
pub const INTERVAL_NS: u64 = 1_000_000_000;

const TIMER: Token = Token(usize::MAX);

/// What a thread says to the one that waits for it.
#[derive(Debug)]
pub enum Report {
    /// Numbers of one interval.
    Interval(Stats),
    /// The thread's last word.
    Done(Box<Finished>),
}

/// What is left when a thread ends.
#[derive(Debug)]
pub struct Finished {
    pub stats: Stats,
    /// When the last reply came, ns since the start.
    pub end_ns: u64,
    /// Connections that the server closed or that failed before their work was done.
    pub lost_connections: u64,
    /// Requests without a reply: in flight on lost connections, or when the patience ended.
    pub unanswered: u64,
    /// Requests that were due but not sent by the end (open loop).
    pub unsent: u64,
    /// Why the first connection was lost.
    pub first_loss: Option<String>,
    /// Share of the run that this thread spent on a CPU, if the kernel tells.
    pub cpu: Option<f64>,
}

/// Times of a run, ns since its start.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub start: Instant,
    pub record_from_ns: u64,
    /// When to stop sending.
    pub stop_ns: Option<u64>,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    socket: Socket,
    /// The socket took no more bytes; waiting for it.
    blocked: bool,
    /// Still has work and a socket to do it.
    active: bool,
    /// Its next due time is in the queue of due times.
    queued: bool,
}

/// The event loop.
pub struct Worker {
    poll: Poll,
    timer: Timer,
    connections: Vec<Connection>,
    active: usize,
    /// Due times of the connections that may send then.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    timing: Timing,
    stop: Arc<AtomicBool>,
    reports: Sender<Report>,
    next_report_ns: u64,
    drain_until_ns: Option<u64>,
    finished: Finished,
    buf: Vec<u8>,
}

impl Worker {
    /// Takes over connected sockets. No more than `u32::MAX` of them.
    pub fn new(
        connections: Vec<(Client, Socket)>,
        timing: Timing,
        stop: Arc<AtomicBool>,
        reports: Sender<Report>,
        open_loop: bool,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer = Timer::new(&poll)?;
        let mut all = Vec::with_capacity(connections.len());
        for (index, (client, mut socket)) in connections.into_iter().enumerate() {
            poll.registry().register(socket.source(), Token(index), Interest::READABLE)?;
            all.push(Connection { client, socket, blocked: false, active: true, queued: false });
        }
        let finished = Finished {
            stats: Stats::new(open_loop),
            end_ns: 0,
            lost_connections: 0,
            unanswered: 0,
            unsent: 0,
            first_loss: None,
            cpu: None,
        };
        Ok(Worker {
            poll,
            timer,
            active: all.len(),
            connections: all,
            due: BinaryHeap::new(),
            next_report_ns: timing.record_from_ns + INTERVAL_NS,
            timing,
            stop,
            reports,
            drain_until_ns: None,
            finished,
            buf: vec![0; READ_BYTES],
        })
    }

    /// Runs until all clients are done, or it is time to stop and what is in flight has been answered.
    pub fn run(mut self) -> io::Result<()> {
        let cpu_before_ns = thread_cpu_ns();
        let mut events = Events::with_capacity(EVENTS_MAX);
        for index in 0..self.connections.len() {
            self.send(index);
        }
        while self.active > 0 {
            let now_ns = self.now_ns();
            self.check_stop(now_ns);
            if self.drain_until_ns.is_some_and(|until| now_ns >= until) {
                break;
            }
            self.hand_over(now_ns);
            let sleep = self.sleep(now_ns)?;
            match self.poll.poll(&mut events, Some(sleep)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                if event.token() != TIMER {
                    self.on_event(event.token().0, event.is_writable(), event.is_read_closed())?;
                }
            }
            self.send_due();
        }
        let now_ns = self.now_ns();
        self.finished.cpu = thread_cpu_ns()
            .zip(cpu_before_ns)
            .map(|(after, before)| after.saturating_sub(before) as f64 / now_ns.max(1) as f64);
        let open = self.connections.iter().filter(|connection| connection.active);
        self.finished.unanswered += open.map(|connection| connection.client.in_flight() as u64).sum::<u64>();
        if self.finished.end_ns == 0 {
            self.finished.end_ns = now_ns;
        }
        // Whoever waits for the report has gone only if the whole run has been given up.
        let _ = self.reports.send(Report::Done(Box::new(self.finished)));
        Ok(())
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        self.timing.start.elapsed().as_nanos() as u64
    }

    fn check_stop(&mut self, now_ns: u64) {
        let interrupted = self.stop.load(Ordering::Relaxed);
        let patience_ms = if interrupted { DRAIN_INTERRUPTED_MS_MAX } else { DRAIN_MS_MAX };
        let until_ns = now_ns + patience_ms * 1_000_000;
        if let Some(drain_until_ns) = &mut self.drain_until_ns {
            if interrupted {
                *drain_until_ns = until_ns.min(*drain_until_ns);
            }
            return;
        }
        if !interrupted && self.timing.stop_ns.is_none_or(|stop_ns| now_ns < stop_ns) {
            return;
        }
        self.drain_until_ns = Some(until_ns);
        self.due.clear();
        let stop_ns = self.timing.stop_ns.map_or(now_ns, |stop| stop.min(now_ns));
        for connection in self.connections.iter_mut().filter(|connection| connection.active) {
            self.finished.unsent += connection.client.stop(stop_ns);
            if connection.client.is_done() {
                connection.active = false;
                self.active -= 1;
            }
        }
    }

    /// Once a second. If the receiver is behind, the numbers stay here until the next time.
    fn hand_over(&mut self, now_ns: u64) {
        if now_ns < self.next_report_ns {
            return;
        }
        self.next_report_ns += INTERVAL_NS;
        let fresh = Stats::new(self.finished.stats.open_loop());
        let stats = std::mem::replace(&mut self.finished.stats, fresh);
        if let Err(crossbeam_channel::TrySendError::Full(Report::Interval(stats))) =
            self.reports.try_send(Report::Interval(stats))
        {
            self.finished.stats = stats;
        }
    }

    /// How long to wait for events: until just before the next request is due.
    fn sleep(&mut self, now_ns: u64) -> io::Result<Duration> {
        if let Some(Reverse((due_ns, _))) = self.due.peek() {
            let wait_ns = due_ns.saturating_sub(now_ns);
            if wait_ns <= SPIN_NS {
                return Ok(Duration::ZERO);
            }
            self.timer.wake_at(due_ns - SPIN_NS, now_ns)?;
        }
        Ok(Duration::from_millis(SLEEP_MS_MAX))
    }

    fn on_event(&mut self, index: usize, writable: bool, closed: bool) -> io::Result<()> {
        let connection = &mut self.connections[index];
        if !connection.active {
            return Ok(());
        }
        if writable && connection.blocked {
            connection.blocked = false;
            self.poll.registry().reregister(connection.socket.source(), Token(index), Interest::READABLE)?;
        }
        match self.receive(index, closed) {
            Ok(()) => self.send(index),
            Err(reason) => self.lose(index, reason),
        }
        Ok(())
    }

    /// Reads what has arrived. A read that leaves room in the buffer has emptied the socket: the next arrival makes a new
    /// event, unless it has happened already, which `closed` tells.
    fn receive(&mut self, index: usize, closed: bool) -> Result<(), String> {
        let connection = &mut self.connections[index];
        loop {
            let n = match connection.socket.read(&mut self.buf) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string()),
            };
            let now_ns = self.timing.start.elapsed().as_nanos() as u64;
            let fed = connection.client.feed(&self.buf[..n], now_ns, &mut self.finished.stats);
            fed.map_err(|error| error.to_string())?;
            self.finished.end_ns = now_ns;
            if connection.client.is_done() || (n < self.buf.len() && !closed) {
                return Ok(());
            }
        }
    }

    /// Writes what the client has to send now, and notes when it next will.
    fn send(&mut self, index: usize) {
        let now_ns = self.now_ns();
        let connection = &mut self.connections[index];
        while !connection.blocked && connection.client.fill(now_ns) {
            match connection.socket.write(connection.client.output()) {
                Ok(n) => connection.client.written(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let both = Interest::READABLE | Interest::WRITABLE;
                    match self.poll.registry().reregister(connection.socket.source(), Token(index), both) {
                        Ok(()) => connection.blocked = true,
                        Err(error) => return self.lose(index, error.to_string()),
                    }
                }
                Err(error) => {
                    // The server may have said why before it closed.
                    let said = self.receive(index, true);
                    return self.lose(index, said.err().unwrap_or_else(|| error.to_string()));
                }
            }
        }
        if connection.client.is_done() {
            connection.active = false;
            self.active -= 1;
        } else if !connection.queued
            && !connection.blocked
            && let Some(due_ns) = connection.client.wake_ns()
        {
            connection.queued = true;
            self.due.push(Reverse((due_ns, index as u32)));
        }
    }

    /// Sends what has become due, at most once per connection.
    fn send_due(&mut self) {
        let now_ns = self.now_ns();
        for _ in 0..self.connections.len() {
            match self.due.peek() {
                Some(&Reverse((due_ns, index))) if due_ns <= now_ns => {
                    self.due.pop();
                    let connection = &mut self.connections[index as usize];
                    connection.queued = false;
                    if connection.active {
                        self.send(index as usize);
                    }
                }
                _ => return,
            }
        }
    }

    fn lose(&mut self, index: usize, reason: String) {
        let connection = &mut self.connections[index];
        connection.active = false;
        self.active -= 1;
        self.finished.lost_connections += 1;
        self.finished.unanswered += connection.client.in_flight() as u64;
        self.finished.first_loss.get_or_insert(reason);
        // A socket that cannot be taken out is closed with the others at the end.
        let _ = self.poll.registry().deregister(connection.socket.source());
    }
}

/// A kernel timer of nanosecond resolution; the timeout of a poll has milliseconds.
struct Timer {
    fd: OwnedFd,
    /// When it will go off, ns since the start of the run.
    at_ns: u64,
}

impl Timer {
    fn new(poll: &Poll) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Timer { fd, at_ns: 0 })
    }

    /// Makes a poll return at `at_ns` or a little later, unless it is set to an earlier time that has not come yet.
    fn wake_at(&mut self, at_ns: u64, now_ns: u64) -> io::Result<()> {
        if self.at_ns > now_ns && self.at_ns <= at_ns {
            return Ok(());
        }
        let wait_ns = at_ns.saturating_sub(now_ns).max(1);
        let it_value = Timespec { tv_sec: (wait_ns / 1_000_000_000) as i64, tv_nsec: (wait_ns % 1_000_000_000) as _ };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::time::timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
        self.at_ns = at_ns;
        Ok(())
    }
}

/// CPU time of the calling thread as the scheduler counts it.
fn thread_cpu_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}
