//! openraft's runtime in virtual time, and the one that tests run on: that, or glommio.
//!
//! [`Either`] is what raft runs on in tests. Whoever has entered an [`Executor`] gets virtual time from it, everybody else
//! glommio as outside of tests; so what is simulated is the shipped code, with the types that it has.
//!
//! No state of its own.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant as _};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::executor::{self, Executor};
use crate::raft::runtime::{self, Cancelled, Elapsed, Glommio, Instant, Mpsc, Mutex, Oneshot, Timeout, Watch};

/// The runtime of a simulation.
pub struct Simulated(Executor);

/// [`Simulated`] within a simulation, [`Glommio`] outside of any.
#[derive(Debug)]
pub struct Either(Glommio);

impl Drop for Simulated {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Simulated")
    }
}

/// The result of a simulated task.
pub struct SimulatedHandle<T>(tokio::sync::oneshot::Receiver<T>);

pub enum JoinHandle<T> {
    System(runtime::JoinHandle<T>),
    Simulated(SimulatedHandle<T>),
}

pub enum Sleep {
    System(runtime::Sleep),
    Simulated(executor::Sleep),
}

impl<T> Future for SimulatedHandle<T> {
    type Output = Result<T, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| Cancelled)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            JoinHandle::System(handle) => Pin::new(handle).poll(context),
            JoinHandle::Simulated(handle) => Pin::new(handle).poll(context),
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Sleep::System(sleep) => Pin::new(sleep).poll(context),
            Sleep::Simulated(sleep) => Pin::new(sleep).poll(context),
        }
    }
}

impl AsyncRuntime for Simulated {
    type JoinError = Cancelled;
    type JoinHandle<T: 'static> = SimulatedHandle<T>;
    type Sleep = executor::Sleep;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, F: Future<Output = R>> = Timeout<F, executor::Sleep>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = Mpsc;
    type Watch = Watch;
    type Oneshot = Oneshot;
    type Mutex<T: 'static> = Mutex<T>;

    fn spawn<F>(future: F) -> SimulatedHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        executor::spawn(async move {
            let _ = sender.send(future.await);
        });
        SimulatedHandle(receiver)
    }

    fn sleep(duration: Duration) -> executor::Sleep {
        Self::sleep_until(Instant::now() + duration)
    }

    fn sleep_until(deadline: Instant) -> executor::Sleep {
        executor::Sleep::until(deadline.ns())
    }

    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> Timeout<F, executor::Sleep> {
        Timeout::new(future, Self::sleep(duration))
    }

    fn timeout_at<R, F: Future<Output = R>>(deadline: Instant, future: F) -> Timeout<F, executor::Sleep> {
        Timeout::new(future, Self::sleep_until(deadline))
    }

    fn is_panic(_: &Cancelled) -> bool {
        false
    }

    fn thread_rng() -> SmallRng {
        SmallRng::seed_from_u64(executor::random())
    }

    fn new(_threads: usize) -> Simulated {
        Simulated(Executor::new(0))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

impl AsyncRuntime for Either {
    type JoinError = Cancelled;
    type JoinHandle<T: 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, F: Future<Output = R>> = Timeout<F, Sleep>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = Mpsc;
    type Watch = Watch;
    type Oneshot = Oneshot;
    type Mutex<T: 'static> = Mutex<T>;

    fn spawn<F>(future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        if executor::is_entered() {
            JoinHandle::Simulated(Simulated::spawn(future))
        } else {
            JoinHandle::System(Glommio::spawn(future))
        }
    }

    fn sleep(duration: Duration) -> Sleep {
        if executor::is_entered() {
            Sleep::Simulated(Simulated::sleep(duration))
        } else {
            Sleep::System(Glommio::sleep(duration))
        }
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        if executor::is_entered() {
            Sleep::Simulated(Simulated::sleep_until(deadline))
        } else {
            Sleep::System(Glommio::sleep_until(deadline))
        }
    }

    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> Timeout<F, Sleep> {
        Timeout::new(future, Self::sleep(duration))
    }

    fn timeout_at<R, F: Future<Output = R>>(deadline: Instant, future: F) -> Timeout<F, Sleep> {
        Timeout::new(future, Self::sleep_until(deadline))
    }

    fn is_panic(error: &Cancelled) -> bool {
        Glommio::is_panic(error)
    }

    fn thread_rng() -> SmallRng {
        if executor::is_entered() { Simulated::thread_rng() } else { SmallRng::from_rng(&mut Glommio::thread_rng()) }
    }

    fn new(threads: usize) -> Either {
        Either(Glommio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openraft_finds_both_runtimes() {
        openraft_rt::testing::Suite::<Simulated>::test_all();
        openraft_rt::testing::Suite::<Either>::test_all();
    }
}
