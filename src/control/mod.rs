//! The control core: the executor that runs what is not a client's request.
//!
//! Its main task receives what the data cores send, and sleeps in glommio in between. It writes the log and the
//! snapshots, and runs the replication streams. The admin endpoint ([`crate::admin::http`]) runs in tasks beside it,
//! which ask the data cores for their numbers through [`Control::ask`]. A data
//! core may be busy for long, so nobody waits for one without a bound: what it said last is kept.
//!
//! Invariant: no borrow of [`Control::state`] lives across an await.
//! Invariant: a core has at most one question open, so the rings from here never fill.

mod apply;
pub(crate) mod aside;
pub(crate) mod cluster;
mod disk;
mod ending;
mod links;
mod log;
mod questions;
mod replication;
mod runs;
mod saves;

use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use glommio::io::BufferedFile;
use glommio::timer::timeout;

use crate::admin::http;
use crate::command::log::{LogAnswer, LogNumbers};
use crate::command::{Answer, Ask};
use crate::config::Config;
use crate::log::files::DataDir;
use crate::log::frame::{HistoryId, Index};
use crate::log::recover::Plan;
use crate::mesh::{Endpoint, Park, Wake};
use crate::net::forward::Message;
use crate::net::limits;
use crate::node::{Bells, End, Node, Order};
use crate::route::{CoreId, Hasher, PartitionSet};
use crate::stats::Snapshot;

use apply::Apply;
use cluster::{Backup, Member};
use disk::Disk;
use ending::Ending;
use log::Log;
use questions::CopyWait;
use replication::{Events, Replication, chain_of};
pub use runs::Keyspace;
use saves::Saves;

/// What the control core starts with, besides the node.
pub struct Parts {
    pub me: CoreId,
    pub node: Arc<Node>,
    pub mesh: Endpoint<Message>,
    pub orders: Receiver<Order>,
    /// Where the admin endpoint listens, if it is wanted.
    pub admin: Option<std::net::TcpListener>,
    pub keyspace: Keyspace,
    pub recovered: Recovered,
}

/// What the files of the log held when the node started.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The directory, if it is in use.
    pub dir: Option<DataDir>,
    pub plan: Option<Arc<Plan>>,
}

/// A random name for a history.
pub(crate) fn random_id() -> HistoryId {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // The clock tells histories of one node apart, too.
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        bytes = nanos.map_or(0, |nanos| nanos.as_nanos()).to_le_bytes();
    }
    HistoryId::from_le_bytes(bytes)
}

/// Runs the control core until the node stops.
pub async fn run(parts: Parts) -> io::Result<()> {
    let Parts { me, node, mesh, orders, admin, keyspace, recovered } = parts;
    // SAFETY: a plain system call; the descriptor it returns is owned by nobody else.
    let bell = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
    // SAFETY: duplicates of the bell: one for the file that closes it, two that stay open for late ringers.
    let (file, bells) = unsafe {
        let fd = bell.as_raw_fd();
        (BufferedFile::from_raw_fd(libc::dup(fd)), Bells { shallow: libc::dup(fd), deep: libc::dup(fd) })
    };
    node.set_bells(me, bells);
    let control = Rc::new(Control::new(node, mesh, keyspace, recovered));
    if let Some(listener) = admin {
        glommio::spawn_local(http::serve(listener, Rc::clone(&control))).detach();
    }
    control.resume_log();
    match control.config().replicaof.clone() {
        Some((host, port)) => control.start_following(host, port),
        None => control.lead(),
    }
    control.advance();
    if let Err(error) = control.resume_membership().await {
        tracing::error!(%error, "this node cannot go on as a member of its cluster");
        control.node.end(End::Now);
    }
    glommio::spawn_local(Rc::clone(&control).tick()).detach();
    let mut stop_by = None;
    loop {
        match orders.try_recv() {
            Ok(Order::Stop { .. }) => stop_by = Some(Instant::now() + STOP_PATIENCE),
            Ok(Order::ShutDown(how)) => control.shut_down(how, None),
            Err(_) => {}
        }
        control.receive();
        // Data cores go first: what they have changed to the end belongs into the log.
        if stop_by.is_some_and(|by| control.data_cores_ended() || Instant::now() >= by) {
            break;
        }
        if control.prepare_park() {
            // The bell keeps what was rung before the read. While the node stops, a look now and then does no harm.
            let patience = if stop_by.is_some() { Duration::from_millis(20) } else { Duration::MAX };
            match stop_by {
                None => drop(file.read_at(0, 8).await.map_err(io::Error::from)?),
                Some(_) => glommio::timer::sleep(patience).await,
            }
            control.woke();
        } else {
            glommio::executor().yield_now().await;
        }
    }
    control.close();
    control.close_log().await;
    control.leave_cluster().await;
    // Connections of the endpoint that are still open end with the executor.
    file.close().await.map_err(io::Error::from)
}

/// How long data cores may take to end, beyond what they are given for their clients.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How long the log may take to be written when the node stops.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// How often the machines of replication hear of the time, while there are replicas, and else.
const BUSY_TICK: Duration = Duration::from_millis(20);
const TICK: Duration = Duration::from_millis(100);

/// How often save points and the like are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What the tasks of the control core share.
pub struct Control {
    node: Arc<Node>,
    state: RefCell<State>,
    log: RefCell<Log>,
    saves: RefCell<Saves>,
    waits: RefCell<Vec<CopyWait>>,
    disk: Cell<Disk>,
    ending: RefCell<Option<Ending>>,
    /// Shutdowns that were begun.
    endings: Cell<u64>,
    replication: RefCell<Replication>,
    /// What the node is as a member of a cluster.
    cluster: RefCell<Option<Rc<Member>>>,
    backup: RefCell<Option<Rc<Backup>>>,
    /// It is about to become one, or is.
    becomes_member: Cell<bool>,
    /// [`Control::advance`] is about to be called.
    advances_soon: Cell<bool>,
    keyspace: Keyspace,
    /// Partitions of which a member's own disk has everything.
    whole: RefCell<PartitionSet>,
    /// The file that says so, as it was written last; empty: it is not known what it says.
    whole_written: RefCell<Vec<u8>>,
    /// Segments of the log that were there at the start, until they are handed to its writer.
    segments: RefCell<Vec<(Index, u64)>>,
}

struct State {
    mesh: Endpoint<Message>,
    /// What each data core said last; before its first answer, what was true at its start: nothing counted yet.
    snapshots: Vec<Snapshot>,
    questions: Vec<Question>,
    /// Tasks that wait for an answer, whosever it is.
    waiting: Vec<Waker>,
}

/// What was asked of one data core.
#[derive(Clone, Copy)]
struct Question {
    /// Number of the last question.
    asked: u32,
    asked_at: Instant,
    /// Number of the last question that was answered. Invariant: `asked`, or one less while a question is open.
    answered: u32,
    answered_at: Instant,
}

impl Control {
    fn new(node: Arc<Node>, mesh: Endpoint<Message>, keyspace: Keyspace, recovered: Recovered) -> Control {
        let cores = mesh.executors() - 1;
        let now = Instant::now();
        let snapshot = |core| Snapshot { core: core as CoreId, ..Snapshot::default() };
        let question = Question { asked: 0, asked_at: now, answered: 0, answered_at: now };
        let state = State {
            mesh,
            snapshots: (0..cores).map(snapshot).collect(),
            questions: vec![question; cores],
            waiting: Vec::new(),
        };
        let config = node.state.config.latest().config;
        let Recovered { dir, plan } = recovered;
        let (histories, end) = plan.as_ref().map_or((Vec::new(), 0), |plan| (plan.histories.clone(), plan.end));
        let replayed_bytes = plan.as_ref().map_or(0, |plan| plan.replayed().iter().map(|file| file.used_bytes).sum());
        let base_bytes = plan.as_ref().and_then(|plan| plan.snapshot.as_ref()).map_or(0, |snapshot| snapshot.bytes);
        let events = Events::default();
        let recovered = histories.clone();
        let backlog_bytes = config.repl_backlog_size;
        let mut log = Log::new(cores, keyspace, histories, end, random_id(), backlog_bytes, Rc::clone(&events));
        if config.replicaof.is_some() && !recovered.is_empty() {
            // What is here was written by others, and it is they who go on.
            log.sequencer.follow(recovered, end);
        }
        let hasher = Hasher::new(keyspace.partitions, keyspace.seeds);
        let apply = Apply::new(hasher, cores, keyspace.databases as usize);
        let id = dir.as_ref().map_or_else(random_id, |dir| dir.node_id());
        let attempt = node.clock.clone().now().wall_ms as u64 * 1000;
        let chain = chain_of(log.sequencer.histories());
        let replication = Replication::new(id, &config, apply, chain, end, attempt, events);
        log.appended_bytes = replayed_bytes;
        let path = std::path::Path::new(&config.dir).join(&config.appenddirname);
        let now_s = node.clock.clone().now().wall_ms / 1000;
        let saves = Saves::new(path, dir, now_s, base_bytes);
        Control {
            node,
            state: RefCell::new(state),
            log: RefCell::new(log),
            saves: RefCell::new(saves),
            waits: RefCell::default(),
            disk: Cell::default(),
            ending: RefCell::default(),
            endings: Cell::default(),
            replication: RefCell::new(replication),
            cluster: RefCell::default(),
            backup: RefCell::default(),
            becomes_member: Cell::default(),
            advances_soon: Cell::default(),
            keyspace,
            whole: RefCell::default(),
            whole_written: RefCell::default(),
            segments: RefCell::new(plan.map_or(Vec::new(), |plan| plan.start(Vec::new).segments)),
        }
    }

    /// The wall clock, Unix ms.
    fn wall_ms(&self) -> i64 {
        self.node.clock.clone().now().wall_ms
    }

    fn config(&self) -> Arc<Config> {
        self.node.state.config.latest().config
    }

    /// Changes of keys since the start, as data cores said last.
    fn changes(&self) -> u64 {
        self.state.borrow().snapshots.iter().map(|snapshot| snapshot.changes).sum()
    }

    /// Whether there are replicas, or is a primary; or other members of a cluster.
    fn replicates(&self) -> bool {
        self.cluster.borrow().is_some() || self.replication.borrow().in_use
    }

    /// Housekeeping.
    async fn tick(self: Rc<Self>) {
        let mut looked = Instant::now();
        loop {
            let busy = self.replication.borrow().is_busy();
            glommio::timer::sleep(if busy { BUSY_TICK } else { TICK }).await;
            self.tick_replication();
            self.check_waits();
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.ask(Duration::from_millis(50)).await;
                if self.save_is_due()
                    && let Err(error) = self.begin_save()
                {
                    tracing::error!(error, "the snapshot failed");
                }
                if let Err(error) = self.configure() {
                    tracing::error!(error, "the log cannot be written");
                }
            }
        }
    }

    /// As [`Control::advance`], in a moment: what other connections have brought by then is part of it.
    fn advance_soon(self: &Rc<Self>) {
        if self.advances_soon.replace(true) {
            return;
        }
        let control = Rc::clone(self);
        glommio::spawn_local(async move {
            control.advances_soon.set(false);
            control.advance();
        })
        .detach();
    }

    /// Moves the log on with what has arrived, and tells whom it concerns.
    fn advance(self: &Rc<Self>) {
        let wall_ms = self.wall_ms();
        self.advance_following();
        let keeps_backlog = self.replicates();
        {
            let replication = self.replication.borrow();
            let mut log = self.log.borrow_mut();
            log.follows = (!replication.leads()).then(|| replication.apply.handed_out());
            log.may_cover |= replication.leads();
            log.keeps_backlog = keeps_backlog;
            log.advance(wall_ms);
        }
        let copied = match self.member() {
            Some(member) => self.advance_streams(&member),
            None => self.replicate(),
        };
        self.look_at_barriers();
        self.log.borrow_mut().tell_progress(&copied);
        self.check_waits();
        self.flush();
    }

    /// Sends what is to be sent to data cores.
    fn flush(&self) {
        let out = std::mem::take(&mut self.log.borrow_mut().out);
        if out.is_empty() {
            return;
        }
        let mut state = self.state.borrow_mut();
        for (core, message) in out {
            // A core that has closed takes nothing any more; the node is stopping.
            let _ = state.mesh.send(core as usize, message);
        }
        ring(&mut state.mesh, &self.node);
    }

    /// Answers a question of a data core.
    fn answer(&self, core: CoreId, ask: u32, part: u16, answer: LogAnswer) {
        let answer = Box::new(Answer::Log(answer));
        self.log.borrow_mut().out.push((core, Message::Answer { ask, part, answer }));
        self.flush();
    }

    /// Numbers for INFO and the metrics.
    pub fn log_numbers(&self) -> LogNumbers {
        let log = self.log.borrow();
        let mut numbers = LogNumbers {
            wal: self.disk.get() != Disk::Off,
            wal_starting: self.disk.get() == Disk::Starting,
            wal_bytes: log.wal().map_or(0, |wal| wal.total_bytes()),
            appended_bytes: log.appended_bytes,
            written: log.wal().map_or(0, |wal| wal.progress().written),
            unwritten_bytes: log.wal().map_or(0, |wal| wal.held_bytes() as u64),
            disk_error: log.standing.disk_error.as_deref().map(str::to_string),
            history: log.sequencer.history(),
            end: log.sequencer.end(),
            durable: log.durable(),
            backlog_bytes: log.backlog.bytes() as u64,
            backlog_first: log.backlog.first().unwrap_or(0),
            ..LogNumbers::default()
        };
        self.saves.borrow().describe(&mut numbers);
        numbers.replication = self.member_replication_numbers().unwrap_or_else(|| self.replication_numbers());
        numbers.member = self.member_numbers().map(Box::new);
        numbers
    }

    /// Whether all data cores have ended, and everything they have sent was received.
    fn data_cores_ended(&self) -> bool {
        self.state.borrow().mesh.all_finished()
    }

    /// Writes what is left.
    async fn close_log(self: &Rc<Self>) {
        self.advance();
        let wal = self.log.borrow().wal().cloned();
        if let Some(wal) = wal
            && let Err(error) = wal.close(CLOSE_PATIENCE).await
        {
            tracing::error!(%error, "the log is not complete");
        }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The latest numbers of all data cores.
    pub fn snapshots(&self) -> Ref<'_, [Snapshot]> {
        Ref::map(self.state.borrow(), |state| &*state.snapshots)
    }

    /// How old these numbers are, by core.
    pub fn ages(&self) -> Vec<Duration> {
        self.state.borrow().questions.iter().map(|question| question.answered_at.elapsed()).collect()
    }

    /// Asks every data core for its numbers, and waits for each until `patience` after it was asked. Returns the cores
    /// that have not answered. A core with an open question is not asked again: requests at the same time share one.
    pub async fn ask(&self, patience: Duration) -> Vec<CoreId> {
        let wanted = self.send_questions();
        loop {
            let late: Vec<CoreId> = {
                let state = self.state.borrow();
                let answered = wanted.iter().zip(&state.questions).enumerate();
                let late = answered.filter(|(_, (wanted, now))| now.answered.wrapping_sub(wanted.asked) as i32 <= -1);
                late.map(|(core, _)| core as CoreId).collect()
            };
            let left = |core: &CoreId| patience.saturating_sub(wanted[*core as usize].asked_at.elapsed());
            match late.iter().map(left).max() {
                None | Some(Duration::ZERO) => return late,
                // Answered or not, the next round sees.
                Some(left) => drop(timeout(left, self.next_answer()).await),
            }
        }
    }

    fn send_questions(&self) -> Vec<Question> {
        let mut state = self.state.borrow_mut();
        let State { mesh, questions, .. } = &mut *state;
        for (core, question) in questions.iter_mut().enumerate() {
            if question.asked != question.answered {
                continue;
            }
            let ask = question.asked.wrapping_add(1);
            let message = Message::Question { ask, part: core as u16, question: Box::new(Ask::Snapshot) };
            // A core that has closed never answers; the node is stopping.
            let _ = mesh.send(core, message);
            (question.asked, question.asked_at) = (ask, Instant::now());
        }
        ring(mesh, &self.node);
        questions.clone()
    }

    /// Waits until any core has answered.
    async fn next_answer(&self) -> Result<(), glommio::GlommioError<()>> {
        let mut registered = false;
        poll_fn(|context| {
            if std::mem::replace(&mut registered, true) {
                return Poll::Ready(Ok(()));
            }
            self.state.borrow_mut().waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Takes what the data cores have sent.
    fn receive(self: &Rc<Self>) {
        let (mut asked, mut replicas, mut executed, mut fed) = (Vec::new(), Vec::new(), Vec::new(), false);
        {
            let mut state = self.state.borrow_mut();
            let State { mesh, snapshots, questions, waiting } = &mut *state;
            let mut log = self.log.borrow_mut();
            let mut replication = self.replication.borrow_mut();
            mesh.receive(limits::TURN_MESSAGES, |from, message| match message {
                Message::Feed(chunk) => {
                    log.feed(from as CoreId, *chunk);
                    fed = true;
                }
                Message::Question { ask, part, question } => asked.push((from as CoreId, ask, part, *question)),
                Message::Replica { socket, addr } => replicas.push((socket, addr)),
                Message::Replies(batch) => {
                    executed.push((from as CoreId, batch.needs));
                    replication.apply.replied(from as CoreId, batch);
                    fed = true;
                }
                Message::Lent { transaction, lent } => {
                    replication.apply.lent(from as CoreId, transaction, &lent);
                    fed = true;
                }
                Message::Answer { ask, answer, .. } => {
                    let Answer::Snapshot(snapshot) = *answer else { return };
                    snapshots[from] = *snapshot;
                    (questions[from].answered, questions[from].answered_at) = (ask, Instant::now());
                    waiting.drain(..).for_each(Waker::wake);
                }
                _ => {}
            });
            mesh.flush(|_, _| {});
        }
        if let Some(member) = self.member() {
            member.executed(&executed);
        }
        if fed {
            self.advance();
        }
        for (socket, addr) in replicas {
            self.welcome(socket, addr);
        }
        for (core, ask, part, question) in asked {
            if let Ask::Log(question) = question {
                self.take_question(core, ask, part, question);
            }
        }
    }

    fn prepare_park(&self) -> bool {
        self.state.borrow().mesh.prepare_park(Park::Deep)
    }

    fn woke(&self) {
        self.state.borrow().mesh.woke();
    }

    fn close(&self) {
        let mesh = &mut self.state.borrow_mut().mesh;
        mesh.close(|_, _| {});
        ring(mesh, &self.node);
    }
}

/// Ends a turn's sends.
fn ring(mesh: &mut Endpoint<Message>, node: &Node) {
    mesh.for_each_dirty(|to, wake| node.ring_bell(to as CoreId, wake == Wake::Deep));
}
