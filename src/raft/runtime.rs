//! What openraft needs of a runtime, over glommio: tasks, timers, channels, a clock.
//!
//! Everything runs on the control core's executor, on one thread. A task goes on when its handle is dropped, as openraft
//! expects (a glommio task would end with it, so it is detached). Channels are tokio's, which need no tokio runtime: they
//! wake whoever waits through its waker, whatever executor that belongs to. Timers are glommio's.
//!
//! The clock is CLOCK_BOOTTIME: a leader whose machine was suspended must see that its lease is over.
//!
//! No state of its own.

mod channels;

use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::FutureExt;
use glommio::timer::Timer;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use openraft_rt::AsyncRuntime;

pub use channels::{Mpsc, Mutex, Oneshot, Watch};

/// Longest sleep. Whoever wants to sleep for longer wants to sleep for ever, and a timer's end has to be an instant.
const SLEEP_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The memory for I/O and the depth of the ring of an executor that [`AsyncRuntime::new`] makes.
const IO_MEMORY_BYTES: usize = 64 << 10;
const RING_DEPTH: usize = 256;

/// openraft's runtime. Inside an executor only its associated functions are used; a value of it is an executor.
pub struct Glommio {
    executor: LocalExecutor,
}

impl fmt::Debug for Glommio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Glommio")
    }
}

/// A task was cancelled, as its executor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task was cancelled")]
pub struct Cancelled;

/// The time was over first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time is over")]
pub struct Elapsed;

/// A moment on CLOCK_BOOTTIME, ns. Signed: moments before the start of the machine can be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(i64);

#[cfg(test)]
impl Instant {
    pub(super) fn ns(self) -> i64 {
        self.0
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl openraft_rt::Instant for Instant {
    fn now() -> Instant {
        #[cfg(test)]
        if let Some(shown_ns) = super::sim::executor::shown_ns() {
            return Instant(shown_ns);
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Instant(now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    fn sub(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_sub(nanos(duration)))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Zero if `earlier` is not earlier.
    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0).max(0) as u64)
    }
}

/// The result of a task.
pub struct JoinHandle<T>(glommio::task::JoinHandle<T>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.ok_or(Cancelled))
    }
}

/// Is over when a duration is.
pub struct Sleep(Timer);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(())
    }
}

/// A future that has only so much time.
pub struct Timeout<F, S = Sleep> {
    future: Pin<Box<F>>,
    sleep: S,
}

impl<F, S> Timeout<F, S> {
    pub(super) fn new(future: F, sleep: S) -> Timeout<F, S> {
        Timeout { future: Box::pin(future), sleep }
    }
}

impl<F: Future, S: Future<Output = ()> + Unpin> Future for Timeout<F, S> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut self.sleep).poll(context).map(|()| Err(Elapsed))
    }
}

/// How long it is until then.
fn until(deadline: Instant) -> Duration {
    deadline - <Instant as openraft_rt::Instant>::now()
}

impl AsyncRuntime for Glommio {
    type JoinError = Cancelled;
    type JoinHandle<T: 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, F: Future<Output = R>> = Timeout<F>;
    type ThreadLocalRng = rand::rngs::ThreadRng;
    type Mpsc = Mpsc;
    type Watch = Watch;
    type Oneshot = Oneshot;
    type Mutex<T: 'static> = Mutex<T>;

    fn spawn<F>(future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        // Boxed: what an executor does with a task is compiled for each type of future, and raft has hundreds.
        JoinHandle(glommio::spawn_local(future.boxed_local()).detach())
    }

    fn sleep(duration: Duration) -> Sleep {
        Sleep(Timer::new(duration.min(SLEEP_MAX)))
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        Self::sleep(until(deadline))
    }

    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> Timeout<F> {
        Timeout::new(future, Self::sleep(duration))
    }

    fn timeout_at<R, F: Future<Output = R>>(deadline: Instant, future: F) -> Timeout<F> {
        Self::timeout(until(deadline), future)
    }

    fn is_panic(_: &Cancelled) -> bool {
        // A panic ends the process, or in tests the executor: nobody is left to ask.
        false
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        rand::rng()
    }

    fn new(_threads: usize) -> Glommio {
        let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(IO_MEMORY_BYTES).ring_depth(RING_DEPTH);
        // As other runtimes do: the interface has no error, and only tests call this.
        Glommio { executor: builder.make().expect("an executor can be made") }
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.executor.run(future.boxed_local())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft_rt::Instant as _;

    #[test]
    fn openraft_finds_it_a_runtime() {
        openraft_rt::testing::Suite::<Glommio>::test_all();
    }

    #[test]
    fn a_task_outlives_its_handle_and_says_when_it_was_cancelled() {
        Glommio::run(async {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            drop(Glommio::spawn(async move {
                Glommio::sleep(Duration::from_millis(2)).await;
                let _ = sender.send(7);
            }));
            assert_eq!(receiver.await, Ok(7));
            let endless = Glommio::spawn(std::future::pending::<()>());
            endless.0.cancel();
            assert_eq!(endless.await, Err(Cancelled));
        });
    }

    #[test]
    fn moments_go_beyond_the_start_of_the_machine_and_never_overflow() {
        let now = Instant::now();
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        assert_eq!((now - century) + century, now);
        assert_eq!(now - (now + century), Duration::ZERO);
        assert!(now + Duration::MAX > now && now - Duration::MAX < now);
        Glommio::run(async {
            // Sleeps for ever are timers, too.
            let for_ever = Glommio::timeout(Duration::MAX, std::future::ready(1));
            assert_eq!(for_ever.await, Ok(1));
            assert_eq!(Glommio::timeout_at(now, std::future::pending::<()>()).await, Err(Elapsed));
        });
    }
}
