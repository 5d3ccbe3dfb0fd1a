//! A simulated node: what [`crate::control`] does with raft and the seat, without data cores and sockets.
//!
//! Owned by the thread that simulates. Invariant: what a process knows is gone with it, but what is on its disk.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use openraft::storage::RaftLogStorage;
use openraft_rt::{AsyncRuntime, Instant as _};

use super::executor::{self, Process};
use super::network::{Caller, Factory, Host, host_of, name, peer};
use super::{Mistake, World};
use crate::cluster;
use crate::log::disk::Disk;
use crate::log::disk_sim::SimulatedDisk;
use crate::raft::bus::error::Elsewhere;
use crate::raft::bus::message::Answer;
use crate::raft::bus::server;
use crate::raft::command::{Command, Epoch, NodeId, Profile, Refusal, Reply};
use crate::raft::error::StoreError;
use crate::raft::govern::seat::{Around, LEASE_PATIENCE, TICK};
use crate::raft::govern::{HandOver, LeaseAnswer, LeaseRequest, Seat, Settings};
use crate::raft::log_store::{LogReader, LogStore};
use crate::raft::runtime::Instant;
use crate::raft::settings::{Pace, config};
use crate::raft::state::State;
use crate::raft::state_machine::{StateMachine, StateReader};
use crate::raft::stored::VERSION;
use crate::raft::types::{Peer, Raft, Runtime};
use crate::shard::SteadyMs;
use crate::streams::ahead::Ahead;

/// The number of the node that founds the cluster.
const FOUNDER: NodeId = 1;
/// How long one node may take over a command.
const ANSWER_PATIENCE: Duration = Duration::from_millis(500);
/// Between attempts to be heard by whoever leads.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a segment: so few that there are several.
const SEGMENT_BYTES_MAX: u64 = 20_000;
/// How long it takes until a process has what its node is in sync for.
const READY_AFTER_MS: i64 = 100;

/// What a node's directory is, apart from its files.
#[derive(Clone, Debug)]
pub struct Home {
    pub host: Host,
    pub identity: u128,
    /// The number that the node begins with, if it does not get one from the cluster.
    pub number: Option<NodeId>,
}

/// A process of a node that has a number.
pub struct Member {
    pub world: Rc<World>,
    pub caller: Caller,
    pub me: NodeId,
    pub boot: u128,
    identity: u128,
    pub raft: Raft,
    pub reader: StateReader,
    pub log: LogReader,
    pub seat: Seat,
    registered: Cell<bool>,
    began_ms: SteadyMs,
    /// What those who serve know, later than the process does.
    pub shown: RefCell<State>,
    /// Roles that are being handed over, with their epochs.
    pub closed: RefCell<BTreeMap<u16, Epoch>>,
    /// Partitions whose role this process may give away.
    pub handing: RefCell<BTreeSet<u16>>,
    /// Roles that have gone over.
    pub ahead: RefCell<Ahead>,
    /// Until when data cores may show what they have executed.
    pub lease_ends_ms: Cell<SteadyMs>,
}

/// Runs a process, until it is killed. It ends by itself if it has no place in the cluster any more.
pub async fn run(world: Rc<World>, home: Home, dir: std::path::PathBuf, disk: Rc<SimulatedDisk>) {
    let caller = Caller { network: Rc::clone(&world.network), process: executor::current(), host: home.host };
    match begin(&world, &caller, &home, &dir, disk).await {
        Ok(member) => member.work().await,
        Err(error) => world.fails(home.host, &error),
    }
}

async fn begin(
    world: &Rc<World>,
    caller: &Caller,
    home: &Home,
    dir: &Path,
    disk: Rc<SimulatedDisk>,
) -> Result<Rc<Member>, StoreError> {
    let (identity, on) = (home.identity, Disk::Simulated(Rc::clone(&disk)));
    let log = LogStore::open_on(on.clone(), dir, identity, SEGMENT_BYTES_MAX)?;
    let machine = StateMachine::open_on(on, dir, identity, &log)?;
    disk.load(dir);
    let me = match log.number().or(home.number) {
        Some(me) => me,
        None => join(world, caller, identity).await,
    };
    if log.number().is_none() {
        log.set_number(me).await?;
    }
    let settings = config("test", Pace::Steady).expect("the settings are valid");
    let governing = Settings { me, election_ms: settings.election_timeout_max as u32, ..world.settings.clone() };
    let mut log = log;
    let (reader, log_reader) = (machine.reader(), log.get_log_reader().await);
    let raft = Raft::new(me, settings, Factory(caller.clone()), log, machine).await;
    let raft = raft.map_err(|error| StoreError::Failed(error.to_string().into()))?;
    let boot = u128::from(executor::random());
    let seat = Seat::new(&governing, boot, raft.clone(), reader.clone());
    world.begins(&seat);
    let member = Rc::new(Member {
        world: Rc::clone(world),
        caller: caller.clone(),
        me,
        boot,
        identity,
        raft,
        reader,
        log: log_reader,
        seat,
        registered: Cell::new(false),
        began_ms: Instant::now().ns() / 1_000_000,
        shown: RefCell::default(),
        closed: RefCell::default(),
        handing: RefCell::default(),
        ahead: RefCell::default(),
        lease_ends_ms: Cell::new(SteadyMs::MIN),
    });
    world.joins(&member);
    Ok(member)
}

/// Gets a number from the cluster.
async fn join(world: &Rc<World>, caller: &Caller, identity: u128) -> NodeId {
    let profile = profile(caller.host);
    loop {
        let join = Command::Join { identity, profile: profile.clone() };
        if let Some(Reply::Joined { node }) = propose(caller, None, &world.hosts(), join).await {
            return node;
        }
        Runtime::sleep(PAUSE).await;
    }
}

fn profile(host: Host) -> Profile {
    Profile { host: name(host), port: 6379, bus_port: 16379, rack: String::new(), weight: 1, ..Profile::default() }
}

/// Proposes to whoever leads, as the bus does: the own raft is asked first, then others, and whom they name. None: nobody
/// leads, or it is not known what came of it.
async fn propose(caller: &Caller, own: Option<&Raft>, hosts: &[Host], command: Command) -> Option<Reply> {
    let mut hint = None;
    if let Some(raft) = own {
        match Runtime::timeout(ANSWER_PATIENCE, server::propose(raft, command.clone())).await.ok()?.ok()? {
            Answer::Proposed(_, reply) => return Some(reply),
            Answer::NotLeader(Elsewhere { leader }) => hint = leader,
            _ => {}
        }
    }
    let first = hint.map(|(node, peer)| (host_of(&peer), Some(node)));
    let others = hosts.iter().filter(|host| **host != caller.host).map(|host| (*host, None));
    for (host, target) in first.into_iter().chain(others) {
        let (command, repeated) = (command.clone(), &command);
        let serve = |member: Rc<Member>| async move {
            let taken = member.seat.takes_proposals() || member.world.mistake_is(Mistake::AnybodyFirst);
            let elsewhere = Answer::NotLeader(Elsewhere { leader: None });
            if taken { server::propose(&member.raft, command).await.ok() } else { Some(elsewhere) }
        };
        match caller.call(host, target, ANSWER_PATIENCE, serve).await {
            Some(Answer::Proposed(_, reply)) => return Some(reply),
            Some(Answer::NotLeader(_)) => {}
            // It may have been executed, or be yet.
            _ if !matches!(repeated, Command::Join { .. } | Command::Register { .. }) => return None,
            _ => {}
        }
    }
    None
}

impl Member {
    /// Whether this process may vote.
    pub fn votes(&self) -> bool {
        self.seat.votes()
    }

    pub fn now_ms(&self) -> SteadyMs {
        Instant::now().ns() / 1_000_000
    }

    /// Proposes to whoever leads.
    pub async fn propose(&self, command: Command) -> Option<Reply> {
        let hosts = self.world.hosts();
        propose(&self.caller, Some(&self.raft), &hosts, command).await
    }

    async fn work(self: Rc<Member>) {
        let member = Rc::clone(&self);
        Runtime::spawn(async move { member.seat.wait_until_it_may_vote().await });
        let member = Rc::clone(&self);
        Runtime::spawn(async move {
            loop {
                Seat::tick(&Seated(Rc::clone(&member)));
                Runtime::sleep(TICK).await;
            }
        });
        let member = Rc::clone(&self);
        Runtime::spawn(async move { member.show().await });
        if self.world.data.is_none() {
            let member = Rc::clone(&self);
            Runtime::spawn(async move { member.serve_clients().await });
            let member = Rc::clone(&self);
            Runtime::spawn(async move { member.look_who_is_in_sync().await });
            let member = Rc::clone(&self);
            Runtime::spawn(async move { member.say_who_leads().await });
        }
        let member = Rc::clone(&self);
        Runtime::spawn(async move {
            let fatal = crate::raft::fatal(&member.raft).await;
            member.world.fails(member.caller.host, &fatal);
        });
        while !self.registered.get() {
            match self.register().await {
                Some(true) => self.registered.set(true),
                Some(false)
                    if self.world.judged(|state| state.node(self.me).is_none())
                        && self.me < self.world.judged(State::next_node) =>
                {
                    return self.world.leaves(self.caller.host, self.caller.process, self.me);
                }
                Some(false) => return self.world.fails(self.caller.host, &"the cluster does not know it"),
                None => Runtime::sleep(PAUSE).await,
            }
        }
    }

    /// Registers the process; None: to be tried again.
    async fn register(&self) -> Option<bool> {
        if self.me == FOUNDER && !self.raft.is_initialized().await.ok()? {
            let peers = BTreeMap::from([(FOUNDER, peer(self.caller.host))]);
            self.raft.initialize(peers).await.ok()?;
        }
        let known = self.reader.state().node(self.me).map(|node| node.incarnation);
        let (identity, profile) = (self.identity, profile(self.caller.host));
        if self.me == FOUNDER && known.is_none() {
            let join = Command::Join { identity, profile: profile.clone() };
            if self.propose(join).await? != (Reply::Joined { node: FOUNDER }) {
                return Some(false);
            }
        }
        let mut after = known.unwrap_or(0);
        for _ in 0..2 {
            let register =
                Command::Register { node: self.me, identity, boot: self.boot, after, profile: profile.clone() };
            match self.propose(register).await? {
                Reply::Registered { .. } => break,
                Reply::Refused(Refusal::StaleIncarnation { incarnation, .. }) => after = incarnation,
                other => {
                    self.world.say(|| format!("node {} cannot register: {other:?}", self.me));
                    return Some(false);
                }
            }
        }
        while !self.is_known() {
            Runtime::sleep(TICK).await;
        }
        Some(true)
    }

    fn is_known(&self) -> bool {
        self.reader.state().node(self.me).is_some_and(|node| node.boot == self.boot)
    }

    /// Whether it has what its node is in sync for.
    pub fn is_complete(&self) -> bool {
        if let Some(data) = &self.world.data {
            return data.has_all(self.me);
        }
        let now_ms = self.caller.network.executor.shown_ns(self.caller.process) / 1_000_000;
        now_ms >= self.began_ms + READY_AFTER_MS
    }

    /// Tells those who serve what raft says, after a while.
    async fn show(&self) {
        let mut applied = self.reader.watch();
        while applied.changed().await.is_ok() {
            Runtime::sleep(Duration::from_micros(executor::random() % 2_000)).await;
            self.show_now();
        }
    }

    fn show_now(&self) {
        let applied = self.seat.applied();
        *self.shown.borrow_mut() = self.reader.state().clone();
        self.ahead.borrow_mut().forget(&self.reader.state());
        self.seat.shown(applied);
        if let Some(data) = self.world.data.as_ref().filter(|_| self.caller.network.hears_of(self.caller.process)) {
            data.tell(|data| data.hears(self.me, &self.shown.borrow()));
        }
    }
}

/// A member, for its seat.
#[derive(Clone)]
struct Seated(Rc<Member>);

impl Around for Seated {
    fn seat(&self) -> &Seat {
        &self.0.seat
    }

    fn now_ms(&self) -> SteadyMs {
        self.0.now_ms()
    }

    fn is_registered(&self) -> bool {
        self.0.registered.get()
    }

    fn is_ready(&self) -> bool {
        let ready = self.0.is_complete();
        if ready {
            self.0.world.is_ready(&self.0);
        }
        ready
    }

    /// With data, roles that move while all live are simulated in [`crate::streams`].
    async fn ask_for_roles(&self, primary: NodeId, request: HandOver) -> Option<u32> {
        self.0.ask_for_roles(primary, request).await
    }

    fn placement(&self) -> (usize, u32) {
        let settings = &self.0.world.settings;
        (settings.copies, settings.replace_after_ms)
    }

    async fn ask(&self, leader: NodeId, peer: Peer, request: LeaseRequest) -> Option<LeaseAnswer> {
        let serve = move |member: Rc<Member>| async move { Some(member.seat.grant(member.now_ms(), &request)) };
        self.0.caller.call(host_of(&peer), Some(leader), LEASE_PATIENCE, serve).await
    }

    async fn place(
        &self,
        members: Vec<cluster::Member>,
        rule: cluster::Rule,
        previous: Option<cluster::Placement>,
    ) -> Result<cluster::Placement, cluster::PlaceError> {
        Runtime::sleep(Duration::from_millis(1)).await;
        cluster::place(&members, rule, previous.as_ref())
    }

    /// As the shell does, with data cores that see a view as soon as they are asked.
    fn renew_lease(&self) {
        let (ends_ms, now_ms) = (self.0.seat.ends_ms(), self.0.now_ms());
        if ends_ms > now_ms {
            if self.0.lease_ends_ms.get() <= now_ms {
                self.0.show_now();
            }
            self.0.lease_ends_ms.set(ends_ms);
        }
    }

    fn superseded(&self) {
        self.0.world.fails(self.0.caller.host, &"another process is this node");
    }

    fn speaks(&self) -> u16 {
        VERSION.into()
    }

    fn removed(&self) {
        self.0.world.leaves(self.0.caller.host, self.0.caller.process, self.0.me);
    }
}

/// For the world: whose process it is.
pub fn is_of(member: &Member, process: Process) -> bool {
    member.caller.process == process
}
