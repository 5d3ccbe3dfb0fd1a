//! A cluster from one number, with the raft that is shipped: five nodes that are founded, join and register as they do in a
//! process, on clocks that run as differently as is allowed; they crash, lose their power or their disk, are suspended, cut off
//! in one direction or in both, and run on while their node has started elsewhere.
//!
//! ```text
//!     executor.rs  tasks, timers, clocks     network.rs  calls that are late, lost or cut
//!     runtime.rs   openraft's runtime        node.rs     a node and its processes
//!     storm.rs     what goes wrong           judge.rs    what must be so
//!     data.rs      what nodes replicate      orders.rs   nodes leave and join, roles move
//!     tests.rs     many seeds, and mistakes
//! ```
//!
//! Real: openraft; all of ours around it: log, files, recovery, state, snapshots ([`crate::raft`]); the governor, the tenant, and
//! the seat that drives them ([`crate::raft::govern`]); with data, the machines of [`crate::streams`].
//!
//! Modelled: the bus and its sockets (`network.rs`), the device below the files ([`crate::log::disk_sim`], whose files the real
//! recovery reads), data cores, and what [`crate::control`] does besides. Without data, a primary takes those for in sync whom
//! it reaches, and operators order nodes to leave, or roles to stay or to move. With it, logs and connections are those of
//! [`crate::streams::sim`], whose steps this world makes; there nodes keep their disks, and clocks of data are right.
//!
//! After every step it is checked that no two processes serve one partition at the same real moment, that no reply leaves whose
//! partition others have answered for since, that all nodes apply the same entries and make the same of them, and that whoever is promoted was
//! in sync and has said that it is ready; with data, all that the simulation of streams checks. When all is healed, all is served
//! soon, and data comes to rest. The controls make one mistake each, and must be found; those that need many more seeds are found
//! by `govern/sim/` and `streams/sim/`, which have a model of raft and are a hundred times as fast.
//!
//! `KEYLOOM_SEED=n cargo test --lib raft::sim` runs one seed and says what happens; `KEYLOOM_SEEDS` says how many.

mod data;
pub mod executor;
mod judge;
mod network;
mod node;
mod orders;
pub mod runtime;
mod storm;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use self::data::Data;
use self::executor::{Clock, Executor, Process, Step};
use self::judge::Judge;
use self::network::{Host, Network};
use self::node::{Home, Member};
use crate::log::disk_sim::{Fate, SimulatedDisk};
use crate::log::files::scratch::Scratch;
use crate::log::testing::Random;
use crate::raft::command::Command;
use crate::raft::govern::{DRIFT_DIVISOR, Fault, Seat, Settings};
use crate::raft::state::State;
use crate::raft::types::Runtime;
use crate::streams;

const HOSTS: usize = 5;
const PARTITIONS: u16 = 4;
/// How long founding may take, how long things go wrong, and how long it may take then until all is served.
const FOUNDING_NS: u64 = 5_000_000_000;
const STORM_NS: u64 = 5_000_000_000;
const CALM_NS: u64 = 4_000_000_000;
/// Tasks that may be polled at one moment.
const AT_ONCE_MAX: u64 = 100_000;

/// What is done wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    Of(Fault),
    /// The lease is looked at before a request is executed.
    LeaseFirst,
    /// Others may join before the founder of the cluster has.
    AnybodyFirst,
    /// A node that has lost its disk begins anew under its old number.
    NumberAgain,
    /// A primary goes on with what it says that it has ended.
    EndInName,
    /// A primary keeps what it has ended.
    KeepWhatIsEnded,
    /// Of the machines that replicate data.
    OfData(streams::sim::Mistake),
}

/// What has happened, so that a test can say that it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Happened {
    entries: u64,
    terms: u64,
    promotions: u64,
    placements: u64,
    memberships: u64,
    replies: u64,
    kills: u64,
    power_cuts: u64,
    wipes: u64,
    ghosts: u64,
    suspensions: u64,
    cuts: u64,
    snapshots: u64,
    /// Nodes that have left, and roles that were handed over.
    left: u64,
    handovers: u64,
    /// Roles that were ended for a successor, and those that were kept.
    ended: u64,
    kept: u64,
    /// Writes of data.
    acknowledged: u64,
    /// Of all that was done, in its order.
    trace: u64,
}

impl Happened {
    fn add(&mut self, other: &Happened) {
        let Happened { entries, terms, promotions, placements, memberships, replies, .. } = other;
        let Happened { left, handovers, ended, kept, .. } = other;
        self.ended += ended;
        self.kept += kept;
        self.left += left;
        self.handovers += handovers;
        let Happened { kills, power_cuts, wipes, ghosts, suspensions, cuts, snapshots, acknowledged, trace, .. } =
            other;
        self.entries += entries;
        self.terms += terms;
        self.promotions += promotions;
        self.placements += placements;
        self.memberships += memberships;
        self.replies += replies;
        self.kills += kills;
        self.power_cuts += power_cuts;
        self.wipes += wipes;
        self.ghosts += ghosts;
        self.suspensions += suspensions;
        self.cuts += cuts;
        self.snapshots += snapshots;
        self.acknowledged += acknowledged;
        self.trace ^= trace;
    }
}

/// A machine, and the node on it.
struct Machine {
    clock: Clock,
    home: Home,
    dir: PathBuf,
    disk: Rc<SimulatedDisk>,
    process: Option<Process>,
}

/// See the module.
pub struct World {
    executor: Executor,
    network: Rc<Network>,
    settings: Settings,
    mistake: Mistake,
    random: RefCell<Random>,
    scratch: Scratch,
    directories: Cell<u64>,
    machines: RefCell<Vec<Machine>>,
    /// Processes that have a number, also those that nobody hears of any more.
    members: RefCell<Vec<Rc<Member>>>,
    judge: RefCell<Judge>,
    seen: RefCell<Happened>,
    wrong: RefCell<Option<String>>,
    /// What replicates data, if that is simulated as well; else a primary takes those for in sync whom it reaches.
    data: Option<Data>,
    /// Nothing goes wrong any more.
    calm: Cell<bool>,
    talks: bool,
}

impl World {
    fn new(seed: u64, mistake: Mistake, has_data: bool) -> Rc<World> {
        let mut random = Random(seed);
        let executor = Executor::new(random.next());
        let network = Rc::new(Network::new(executor.clone(), random.next()));
        let mut settings = Settings::new(1, 300);
        settings.lease_ms = if random.percent(60) { 300 } else { 900 };
        settings.copies = 2 + random.below(2) as usize;
        settings.replace_after_ms = if random.percent(50) { 800 } else { 30_000 };
        settings.revote_after_ms = 600 + random.below(2_000) as u32;
        let extreme = mistake == Mistake::Of(Fault::IgnoreDrift);
        if extreme {
            settings.lease_ms = 900;
        }
        let drift = 1_000_000 / DRIFT_DIVISOR;
        let mut clock = |host: usize| {
            let wild = random.below(2 * drift as u64) as i64 - drift;
            let ppm = [-drift, 0, drift, wild][if extreme { host % 2 * 2 } else { random.below(4) as usize }];
            Clock { ppm: ppm * 99 / 100, first_ns: random.below(1_000_000_000_000) as i64 }
        };
        let clocks: Vec<Clock> = (0..HOSTS).map(&mut clock).collect();
        let data_seed = random.next();
        let data_mistake = if let Mistake::OfData(mistake) = mistake { mistake } else { streams::sim::Mistake::None };
        let world = Rc::new_cyclic(|world| World {
            data: has_data.then(|| Data::new(data_seed, data_mistake, world)),
            executor,
            network,
            settings,
            mistake,
            random: RefCell::new(random),
            scratch: Scratch::in_memory("raft-sim"),
            directories: Cell::new(0),
            machines: RefCell::default(),
            members: RefCell::default(),
            judge: RefCell::default(),
            seen: RefCell::default(),
            wrong: RefCell::default(),
            calm: Cell::default(),
            talks: std::env::var_os("KEYLOOM_SEED").is_some(),
        });
        for (host, clock) in clocks.into_iter().enumerate() {
            let number = (host == 0).then_some(1);
            let (home, dir) = (world.new_home(host, number), world.new_dir());
            let disk = world.new_disk();
            world.machines.borrow_mut().push(Machine { clock, home, dir, disk, process: None });
        }
        world
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.talks {
            println!("{:>9.3} {}", self.executor.now_ns() as f64 / 1e6, what());
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    fn percent(&self, percent: u64) -> bool {
        self.random.borrow_mut().percent(percent)
    }

    fn note(&self, note: impl FnOnce(&mut Happened)) {
        note(&mut self.seen.borrow_mut());
    }

    /// Something must not be so.
    fn accuse(&self, why: impl FnOnce() -> String) {
        let wrong = &mut *self.wrong.borrow_mut();
        if wrong.is_none() {
            *wrong = Some(format!("after {:.3} ms: {}", self.executor.now_ns() as f64 / 1e6, why()));
        }
    }

    fn new_home(&self, host: Host, number: Option<u64>) -> Home {
        let identity = u128::from(self.random.borrow_mut().next()) << 8 | 1;
        Home { host, identity, number }
    }

    fn new_dir(&self) -> PathBuf {
        self.directories.set(self.directories.get() + 1);
        self.scratch.0.join(self.directories.get().to_string())
    }

    fn new_disk(&self) -> Rc<SimulatedDisk> {
        let disk = SimulatedDisk::new(|_| Fate::Works);
        disk.set_pause(|| {
            let slow = executor::random() % 100 < 2;
            let us = executor::random() % if slow { 40_000 } else { 1_500 };
            Box::pin(Runtime::sleep(Duration::from_micros(us)))
        });
        disk
    }

    /// All machines.
    fn hosts(&self) -> Vec<Host> {
        (0..HOSTS).collect()
    }

    /// A process starts on a machine, with what its disk has.
    fn start(self: &Rc<World>, host: Host) {
        self.say(|| format!("host {host} starts"));
        let machine = &mut self.machines.borrow_mut()[host];
        let process = self.executor.start(machine.clock);
        machine.process = Some(process);
        machine.disk = self.new_disk();
        let (home, dir, disk) = (machine.home.clone(), machine.dir.clone(), Rc::clone(&machine.disk));
        self.executor.spawn(process, node::run(Rc::clone(self), home, dir, disk));
    }

    /// Whatever ran there is gone.
    fn end(&self, process: Process) {
        self.lose_data(process);
        self.network.forget(process);
        let gone: Vec<Rc<Member>> =
            self.members.borrow_mut().extract_if(.., |member| node::is_of(member, process)).collect();
        self.executor.kill(process);
        drop(gone);
        for machine in self.machines.borrow_mut().iter_mut().filter(|machine| machine.process == Some(process)) {
            machine.process = None;
        }
    }

    /// A process ends by itself, as it must not go on.
    fn fails(&self, host: Host, why: &dyn Display) {
        self.say(|| format!("a process of host {host} ends: {why}"));
        let process = executor::current();
        let lives_on = self.machines.borrow()[host].process == Some(process);
        if lives_on {
            self.accuse(|| format!("the process of host {host} ends: {why}"));
        }
        self.end(process);
    }

    /// A process has begun, and has a seat.
    fn begins(&self, seat: &Seat) {
        if let Mistake::Of(fault) = self.mistake {
            seat.set_fault(fault);
        }
    }

    fn mistake_is(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }

    fn joins(&self, member: &Rc<Member>) {
        self.say(|| format!("host {} is node {}", member.caller.host, member.me));
        self.network.listen(member);
        self.members.borrow_mut().push(Rc::clone(member));
        if let Some(data) = &self.data {
            data.tell(|data| data.runs(member.me, member.boot as u64));
        }
    }

    /// The memory of a process is gone, or nobody will hear of it again.
    fn lose_data(&self, process: Process) {
        if let (Some(data), Some(member)) =
            (&self.data, self.member(process).filter(|_| self.network.hears_of(process)))
        {
            data.tell(|data| data.is_gone(member.me));
        }
    }

    /// The member of a process.
    fn member(&self, process: Process) -> Option<Rc<Member>> {
        self.members.borrow().iter().find(|member| node::is_of(member, process)).cloned()
    }

    /// Runs until a moment, or until this is so. Says whether it is.
    fn run_until(&self, end_ns: u64, over: impl Fn(&World) -> bool) -> Result<bool, String> {
        let mut at_once = 0;
        while self.executor.now_ns() < end_ns {
            at_once += 1;
            match self.executor.step() {
                Step::Ran(process) if at_once > AT_ONCE_MAX => return Err(format!("{process:?} never comes to rest")),
                Step::Ran(process) => self.look_at(process),
                Step::Passed(process) => {
                    at_once = 0;
                    process.into_iter().for_each(|process| self.look_at(process));
                }
                Step::End => return Err("nothing happens any more".into()),
            }
            if let Some(why) = self.wrong.borrow_mut().take() {
                return Err(why);
            }
            if over(self) {
                return Ok(true);
            }
        }
        Ok(over(self))
    }

    /// The cluster is founded, and its data set begins.
    fn found(self: &Rc<World>) -> Result<(), String> {
        self.hosts().into_iter().for_each(|host| self.start(host));
        let joined = |world: &World| {
            let registered = |state: &State| state.nodes().iter().filter(|node| node.incarnation > 0).count();
            world.judged(|state| registered(state) == HOSTS)
        };
        if !self.run_until(FOUNDING_NS, joined)? {
            return Err("not all nodes have joined".into());
        }
        let founder = self.network.members().into_iter().find(|member| member.me == 1);
        let founder = founder.ok_or("there is no founder")?;
        self.executor.spawn(founder.caller.process, async move {
            while founder.propose(Command::Create { partitions: PARTITIONS }).await.is_none() {}
        });
        let begun = |world: &World| {
            let placed = |state: &State| state.partitions().iter().filter(|is| is.epoch > 0).count();
            world.judged(placed) == usize::from(PARTITIONS) && world.voters() == HOSTS
        };
        let begun = self.run_until(self.executor.now_ns() + FOUNDING_NS, begun)?;
        if begun { Ok(()) } else { Err("the data set does not begin".into()) }
    }
}

/// A world that is being run. When it is over, all its tasks are dropped, which hold the world.
struct Running {
    world: Rc<World>,
    _entered: executor::Entered,
}

impl Drop for Running {
    fn drop(&mut self) {
        let machines = self.world.machines.take();
        let members = self.world.members.take();
        self.world.network.close();
        self.world.executor.close();
        drop((machines, members));
    }
}

/// Runs one seed; what is wrong, if something is.
fn run(seed: u64, mistake: Mistake, has_data: bool) -> Result<Happened, String> {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let world = World::new(seed, mistake, has_data);
        let _entered = world.executor.enter();
        let running = Running { world, _entered };
        let world = &running.world;
        world.found()?;
        world.storm();
        let end_ns = world.executor.now_ns() + STORM_NS;
        world.run_until(end_ns, |_| false)?;
        world.judge_the_end()?;
        let mut seen = world.seen.borrow().clone();
        seen.trace = world.executor.trace();
        seen.acknowledged = world.data.as_ref().map_or(0, Data::acknowledged);
        Ok(seen)
    }));
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default())
    })
}
