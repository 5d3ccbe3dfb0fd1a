//! Tasks and timers of simulated processes, on one thread, in virtual time, from one number.
//!
//! A task belongs to the process that it was spawned in. Which of the tasks that can go on is polled next is drawn from the
//! seed. Time passes only when none can: then it is the moment of the next timer. So what a run does depends on its seed and on
//! nothing else, and [`Executor::trace`] is the same whenever it is repeated.
//!
//! A process has a clock that runs too fast or too slow. One that is suspended is not polled: what wakes its tasks meanwhile is
//! seen when it goes on, and its timers are late then. One that is killed loses its tasks at once, wherever they wait.
//!
//! Owned by the thread that has entered it. Invariant: nothing is borrowed while a task is polled or dropped, as that may
//! spawn, wake and sleep.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::log::testing::Random;

/// Timers go off up to so much later than they should, ns: so that what would happen at one moment happens in any order.
const LATE_NS: u64 = 20_000;

/// One of the simulated processes, in the order in which they were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process(usize);

impl Process {
    /// Whoever simulates: its clock is right, and it never stops.
    pub const WORLD: Process = Process(0);
}

/// How a clock differs from real time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// How much too fast it runs, in parts of a million.
    pub ppm: i64,
    /// What it showed in the beginning.
    pub first_ns: i64,
}

impl Clock {
    pub fn shows(&self, now_ns: u64) -> i64 {
        let gained = i128::from(now_ns) * i128::from(self.ppm);
        self.first_ns + now_ns as i64 + gained.div_euclid(1_000_000) as i64
    }

    /// The first real moment at which it shows as much.
    fn moment(&self, shown_ns: i64) -> u64 {
        let passed = i128::from(shown_ns.saturating_sub(self.first_ns).max(0)) * 1_000_000;
        let rate = 1_000_000 + i128::from(self.ppm);
        ((passed + rate - 1) / rate) as u64
    }
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    process: Process,
    work: Work,
    wakeup: Arc<Wakeup>,
}

/// Puts a task in line.
struct Wakeup {
    task: u64,
    /// Of which executor.
    of: u64,
    in_line: AtomicBool,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        if let Some(shared) = entered().filter(|shared| shared.number == self.of)
            && !self.in_line.swap(true, Ordering::Relaxed)
        {
            shared.state.borrow_mut().in_line.push(self.task);
        }
    }
}

struct Running {
    clock: Clock,
    alive: bool,
    suspended_until_ns: u64,
    /// Tasks that go on when it does.
    held: Vec<u64>,
}

enum Alarm {
    Wake(Waker),
    Resume(Process),
}

struct State {
    now_ns: u64,
    random: Random,
    last_task: u64,
    tasks: BTreeMap<u64, Task>,
    in_line: Vec<u64>,
    last_alarm: u64,
    alarms: BTreeMap<(u64, u64), Alarm>,
    processes: Vec<Running>,
    trace: u64,
}

struct Shared {
    /// Tells executors of one thread apart.
    number: u64,
    state: RefCell<State>,
    current: Cell<Process>,
}

thread_local! {
    static ENTERED: RefCell<Option<Rc<Shared>>> = const { RefCell::new(None) };
    static LAST_NUMBER: Cell<u64> = const { Cell::new(0) };
}

fn entered() -> Option<Rc<Shared>> {
    ENTERED.try_with(|entered| entered.borrow().clone()).ok().flatten()
}

/// See the module. Clones are the same one.
#[derive(Clone)]
pub struct Executor {
    shared: Rc<Shared>,
}

/// While it lives, what runs on this thread runs in virtual time.
pub struct Entered {
    before: Option<Rc<Shared>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        ENTERED.with(|entered| *entered.borrow_mut() = self.before.take());
    }
}

/// What a step was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A task of this process was polled.
    Ran(Process),
    /// Time has passed; if a process goes on, this one.
    Passed(Option<Process>),
    /// Nothing will ever happen again.
    End,
}

impl Executor {
    pub fn new(seed: u64) -> Executor {
        let number = LAST_NUMBER.with(|last| {
            last.set(last.get() + 1);
            last.get()
        });
        let state = State {
            now_ns: 0,
            random: Random(seed),
            last_task: 0,
            tasks: BTreeMap::new(),
            in_line: Vec::new(),
            last_alarm: 0,
            alarms: BTreeMap::new(),
            processes: Vec::new(),
            trace: 0,
        };
        let executor = Executor {
            shared: Rc::new(Shared { number, state: RefCell::new(state), current: Cell::new(Process::WORLD) }),
        };
        executor.start(Clock::default());
        executor
    }

    pub fn enter(&self) -> Entered {
        Entered { before: ENTERED.with(|entered| entered.borrow_mut().replace(Rc::clone(&self.shared))) }
    }

    /// A process that has no tasks yet.
    pub fn start(&self, clock: Clock) -> Process {
        let processes = &mut self.shared.state.borrow_mut().processes;
        processes.push(Running { clock, alive: true, suspended_until_ns: 0, held: Vec::new() });
        Process(processes.len() - 1)
    }

    pub fn spawn(&self, process: Process, work: impl Future<Output = ()> + 'static) {
        self.shared.spawn(process, Box::pin(work));
    }

    /// Real time since the beginning.
    pub fn now_ns(&self) -> u64 {
        self.shared.state.borrow().now_ns
    }

    /// What the clock of a process shows.
    pub fn shown_ns(&self, process: Process) -> i64 {
        self.shared.shown_ns(process)
    }

    pub fn is_alive(&self, process: Process) -> bool {
        self.shared.state.borrow().processes[process.0].alive
    }

    pub fn is_suspended(&self, process: Process) -> bool {
        let state = self.shared.state.borrow();
        state.processes[process.0].suspended_until_ns > state.now_ns
    }

    /// The process does nothing until a moment.
    pub fn suspend(&self, process: Process, until_ns: u64) {
        let state = &mut *self.shared.state.borrow_mut();
        let running = &mut state.processes[process.0];
        running.suspended_until_ns = running.suspended_until_ns.max(until_ns);
        let until_ns = running.suspended_until_ns;
        state.alarm(until_ns, Alarm::Resume(process));
    }

    /// Whoever is suspended goes on.
    pub fn resume(&self, process: Process) {
        let state = &mut *self.shared.state.borrow_mut();
        let now_ns = state.now_ns;
        state.processes[process.0].suspended_until_ns = 0;
        state.alarm(now_ns, Alarm::Resume(process));
    }

    /// The process is gone, with all that it was about to do.
    pub fn kill(&self, process: Process) {
        let tasks: Vec<Task> = {
            let state = &mut *self.shared.state.borrow_mut();
            state.processes[process.0].alive = false;
            state.processes[process.0].held.clear();
            state.tasks.extract_if(.., |_, task| task.process == process).map(|(_, task)| task).collect()
        };
        let before = self.shared.current.replace(process);
        drop(tasks);
        self.shared.current.set(before);
    }

    /// Drops all tasks, which may hold the executor.
    pub fn close(&self) {
        let _entered = self.enter();
        let alarms = std::mem::take(&mut self.shared.state.borrow_mut().alarms);
        // What is dropped may spawn more.
        while let Some((_, task)) = { self.shared.state.borrow_mut().tasks.pop_first() } {
            drop(task);
        }
        drop(alarms);
    }

    /// A number that says what has happened so far.
    pub fn trace(&self) -> u64 {
        self.shared.state.borrow().trace
    }

    /// Polls a task, or lets time pass.
    pub fn step(&self) -> Step {
        let next = self.shared.state.borrow_mut().next();
        match next {
            Next::Task(task) => Step::Ran(self.shared.poll(task)),
            Next::Alarm(Alarm::Wake(waker)) => {
                waker.wake();
                Step::Passed(None)
            }
            Next::Alarm(Alarm::Resume(process)) => Step::Passed(self.shared.state.borrow_mut().go_on(process)),
            Next::Nothing => Step::End,
        }
    }

    /// Runs until this future is ready, which belongs to no process.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let _entered = self.enter();
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&flag));
        let mut future = pin!(future);
        loop {
            if flag.0.swap(false, Ordering::Relaxed)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return output;
            }
            assert!(flag.0.load(Ordering::Relaxed) || self.step() != Step::End, "nothing happens any more");
        }
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

enum Next {
    Task(Task),
    Alarm(Alarm),
    Nothing,
}

impl State {
    fn note(&mut self, what: u64) {
        self.trace = (self.trace.rotate_left(5) ^ what).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn alarm(&mut self, at_ns: u64, alarm: Alarm) -> (u64, u64) {
        self.last_alarm += 1;
        let key = (at_ns, self.last_alarm);
        self.alarms.insert(key, alarm);
        key
    }

    fn next(&mut self) -> Next {
        while !self.in_line.is_empty() {
            let at = self.random.below(self.in_line.len() as u64) as usize;
            let task = self.in_line.swap_remove(at);
            let Some(process) = self.tasks.get(&task).map(|task| task.process) else { continue };
            let running = &mut self.processes[process.0];
            if running.suspended_until_ns > self.now_ns {
                running.held.push(task);
                continue;
            }
            self.note(self.now_ns ^ task << 40);
            return self.tasks.remove(&task).map_or(Next::Nothing, Next::Task);
        }
        let Some(((at_ns, number), alarm)) = self.alarms.pop_first() else { return Next::Nothing };
        self.now_ns = self.now_ns.max(at_ns);
        self.note(self.now_ns ^ number << 40);
        Next::Alarm(alarm)
    }

    fn go_on(&mut self, process: Process) -> Option<Process> {
        let running = &mut self.processes[process.0];
        if running.suspended_until_ns > self.now_ns {
            return None;
        }
        self.in_line.append(&mut running.held);
        Some(process)
    }
}

impl Shared {
    fn shown_ns(&self, process: Process) -> i64 {
        let state = self.state.borrow();
        state.processes[process.0].clock.shows(state.now_ns)
    }

    fn spawn(&self, process: Process, work: Work) {
        let mut state = self.state.borrow_mut();
        if !state.processes[process.0].alive {
            drop(state);
            return drop(work);
        }
        state.last_task += 1;
        let task = state.last_task;
        let wakeup = Arc::new(Wakeup { task, of: self.number, in_line: AtomicBool::new(true) });
        state.tasks.insert(task, Task { process, work, wakeup });
        state.in_line.push(task);
    }

    fn poll(&self, mut task: Task) -> Process {
        let process = task.process;
        task.wakeup.in_line.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&task.wakeup));
        let before = self.current.replace(process);
        let polled = task.work.as_mut().poll(&mut Context::from_waker(&waker));
        let alive = self.state.borrow().processes[process.0].alive;
        if polled.is_pending() && alive {
            self.state.borrow_mut().tasks.insert(task.wakeup.task, task);
        } else {
            drop(task);
        }
        self.current.set(before);
        process
    }
}

/// Whether this thread runs in virtual time.
pub fn is_entered() -> bool {
    entered().is_some()
}

fn shared() -> Rc<Shared> {
    entered().expect("a simulation that runs")
}

/// What the clock of the process shows whose task runs; None: this thread runs in real time.
pub fn shown_ns() -> Option<i64> {
    entered().map(|shared| shared.shown_ns(shared.current.get()))
}

/// The process whose task runs.
pub fn current() -> Process {
    shared().current.get()
}

/// Spawns a task in the process whose task runs.
pub fn spawn(work: impl Future<Output = ()> + 'static) {
    let shared = shared();
    shared.spawn(shared.current.get(), Box::pin(work));
}

/// A number from the seed.
pub fn random() -> u64 {
    shared().state.borrow_mut().random.next()
}

/// Is over when the clock of the process that made it shows a time.
pub struct Sleep {
    at_ns: u64,
    alarm: Option<(u64, u64)>,
}

impl Sleep {
    pub fn until(shown_ns: i64) -> Sleep {
        let shared = shared();
        let state = &mut *shared.state.borrow_mut();
        let moment = state.processes[shared.current.get().0].clock.moment(shown_ns);
        Sleep { at_ns: moment.max(state.now_ns) + state.random.below(LATE_NS), alarm: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let shared = shared();
        let state = &mut *shared.state.borrow_mut();
        if state.now_ns >= self.at_ns {
            return Poll::Ready(());
        }
        let waker = Alarm::Wake(context.waker().clone());
        match self.alarm {
            Some(key) => _ = state.alarms.insert(key, waker),
            None => self.alarm = Some(state.alarm(self.at_ns, waker)),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let (Some(key), Some(shared)) = (self.alarm, entered()) {
            let alarm = shared.state.borrow_mut().alarms.remove(&key);
            drop(alarm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_show_what_they_are_asked_about() {
        for ppm in [-10_000, -37, 0, 1, 9_999] {
            let clock = Clock { ppm, first_ns: 17 };
            for now_ns in [0, 1, 999, 1_000_000, 123_456_789_012] {
                let shown = clock.shows(now_ns);
                let moment = clock.moment(shown);
                assert!(moment <= now_ns && clock.shows(moment) >= shown, "{ppm} {now_ns}");
            }
        }
    }

    #[test]
    fn who_is_suspended_is_late_and_who_is_killed_is_gone() {
        let executor = Executor::new(1);
        let [slow, fast, killed] = [-10_000, 10_000, 0].map(|ppm| executor.start(Clock { ppm, first_ns: 5 }));
        let said: Rc<RefCell<Vec<(Process, u64)>>> = Rc::default();
        for process in [slow, fast, killed] {
            let said = Rc::clone(&said);
            executor.spawn(process, async move {
                Sleep::until(1_000_000_005).await;
                said.borrow_mut().push((process, shared().state.borrow().now_ns));
            });
        }
        executor.block_on(async { Sleep::until(1_000).await });
        executor.kill(killed);
        executor.suspend(fast, 3_000_000_000);
        let _entered = executor.enter();
        while executor.step() != Step::End {}
        let said = said.borrow();
        let [(first, first_ns), (second, second_ns)] = said[..] else { panic!("{said:?}") };
        assert_eq!((first, second), (slow, fast));
        assert!(first_ns > 1_010_000_000 && first_ns < 1_011_000_000);
        assert!(second_ns == 3_000_000_000);
    }
}
