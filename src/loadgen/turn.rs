//! What the event loops of all load threads have in common: how long to sleep, when to stop sending, when to hand numbers
//! over, and what is said at the end.
//!
//! Nothing is shared with other threads but a flag to stop and a channel to hand numbers over.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::cluster::Sight;
use super::run::OpenLoop;
use super::stats::Stats;

/// Longest sleep: how late a stop or the end of a second may be noticed, ms.
const SLEEP_MS_MAX: u64 = 20;
/// How long replies are awaited after the end of a run, and after an interrupt, ms.
const DRAIN_MS_MAX: u64 = 5_000;
const DRAIN_INTERRUPTED_MS_MAX: u64 = 1_000;
/// How often numbers are handed over, ns.
pub const INTERVAL_NS: u64 = 1_000_000_000;

/// Of the timer; connections have others.
pub const TIMER: Token = Token(usize::MAX);

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
    /// What clients of a cluster have seen of it.
    pub cluster: Option<Sight>,
}

/// Times of a run, ns since its start.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub start: Instant,
    pub record_from_ns: u64,
    /// When to stop sending.
    pub stop_ns: Option<u64>,
}

impl Timing {
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

/// The common part of an event loop.
pub struct Turn {
    poll: Poll,
    timer: Timer,
    /// See [`OpenLoop::spin`], ns.
    spin_ns: u64,
    pub timing: Timing,
    stop: Arc<AtomicBool>,
    reports: Sender<Report>,
    next_report_ns: u64,
    drain_until_ns: Option<u64>,
    cpu_before_ns: Option<u64>,
    pub finished: Finished,
}

impl Turn {
    pub fn new(
        timing: Timing,
        stop: Arc<AtomicBool>,
        reports: Sender<Report>,
        open_loop: Option<OpenLoop>,
    ) -> io::Result<Turn> {
        let poll = Poll::new()?;
        let timer = Timer::new(&poll)?;
        let finished = Finished {
            stats: Stats::new(open_loop.is_some()),
            end_ns: 0,
            lost_connections: 0,
            unanswered: 0,
            unsent: 0,
            first_loss: None,
            cpu: None,
            cluster: None,
        };
        Ok(Turn {
            poll,
            timer,
            spin_ns: open_loop.map_or(0, |open_loop| open_loop.spin.as_nanos() as u64),
            next_report_ns: timing.record_from_ns + INTERVAL_NS,
            timing,
            stop,
            reports,
            drain_until_ns: None,
            cpu_before_ns: None,
            finished,
        })
    }

    pub fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.timing.now_ns()
    }

    /// The thread that runs the loop is this one.
    pub fn begin(&mut self) {
        self.cpu_before_ns = thread_cpu_ns();
    }

    /// Once, when it is time: sending stops, as of the time that is returned. What is in flight is still awaited.
    pub fn stops(&mut self, now_ns: u64) -> Option<u64> {
        let interrupted = self.stop.load(Ordering::Relaxed);
        let patience_ms = if interrupted { DRAIN_INTERRUPTED_MS_MAX } else { DRAIN_MS_MAX };
        let until_ns = now_ns + patience_ms * 1_000_000;
        if let Some(drain_until_ns) = &mut self.drain_until_ns {
            if interrupted {
                *drain_until_ns = until_ns.min(*drain_until_ns);
            }
            return None;
        }
        if !interrupted && self.timing.stop_ns.is_none_or(|stop_ns| now_ns < stop_ns) {
            return None;
        }
        self.drain_until_ns = Some(until_ns);
        Some(self.timing.stop_ns.map_or(now_ns, |stop| stop.min(now_ns)))
    }

    /// Sending has stopped.
    pub fn is_draining(&self) -> bool {
        self.drain_until_ns.is_some()
    }

    /// What is still in flight is awaited no longer.
    pub fn is_over(&self, now_ns: u64) -> bool {
        self.drain_until_ns.is_some_and(|until| now_ns >= until)
    }

    /// Once a second. If the receiver is behind, the numbers stay here until the next time.
    pub fn hand_over(&mut self, now_ns: u64) {
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

    /// Waits for events: until just before `due_ns`, when something has to be done without one.
    pub fn wait(&mut self, events: &mut Events, due_ns: Option<u64>, now_ns: u64) -> io::Result<()> {
        let mut sleep = Duration::from_millis(SLEEP_MS_MAX);
        if let Some(due_ns) = due_ns {
            if due_ns.saturating_sub(now_ns) <= self.spin_ns {
                sleep = Duration::ZERO;
            } else {
                self.timer.wake_at(due_ns - self.spin_ns, now_ns)?;
            }
        }
        match self.poll.poll(events, Some(sleep)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// The last word; `unanswered` requests are still in flight.
    pub fn end(mut self, unanswered: u64) {
        let now_ns = self.now_ns();
        self.finished.cpu = thread_cpu_ns()
            .zip(self.cpu_before_ns)
            .map(|(after, before)| after.saturating_sub(before) as f64 / now_ns.max(1) as f64);
        self.finished.unanswered += unanswered;
        if self.finished.end_ns == 0 {
            self.finished.end_ns = now_ns;
        }
        // Whoever waits for the report has gone only if the whole run has been given up.
        let _ = self.reports.send(Report::Done(Box::new(self.finished)));
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
