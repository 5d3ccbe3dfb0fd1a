//! Commands about durability: snapshots, and waiting for copies.
//!
//! The log lives on the control core, so they ask there.

use super::backup::BackupAsk;
use super::member::MemberNumbers;
use super::membership::{Membership, Wish};
use super::session::Home;
use super::{Answer, Args, Ask, Command, Flags, Flow, number::parse_i64};
use crate::config::ShutdownOn;
use crate::log::durability::Durability;
use crate::log::frame::{HistoryId, Index};
use crate::replication::primary::{FailoverError, Syncs};
use crate::resp::{Error, Reply};
use crate::route::CoreId;
use crate::streams::leader::handover::Stage;

const SAVING: Flags = Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_ASYNC_LOADING);
const WAITING: Flags = Flags::NOSCRIPT.or(Flags::DRAINS).or(Flags::CONNECTION);

pub static COMMANDS: &[Command] = &[
    Command::session("bgrewriteaof", 1, SAVING, bgrewriteaof).doc(
        "server",
        "1.0.0",
        "O(1)",
        "Makes a snapshot in the background, so that the log before it can go.",
    ),
    Command::session("bgsave", -1, SAVING, bgsave).doc(
        "server",
        "1.0.0",
        "O(1)",
        "Makes a snapshot in the background.",
    ),
    Command::session(
        "lastsave",
        1,
        Flags::LOADING.or(Flags::STALE).or(Flags::FAST).or(Flags::ADMIN_CATEGORY),
        lastsave,
    )
    .doc("server", "1.0.0", "O(1)", "Returns the Unix time of the last snapshot."),
    Command::session("save", 1, SAVING.or(Flags::NO_MULTI), save).doc(
        "server",
        "1.0.0",
        "O(N) in keys",
        "Makes a snapshot and waits for its end.",
    ),
    Command::session("wait", 3, WAITING, wait).doc(
        "generic",
        "3.0.0",
        "O(1)",
        "Waits until replicas have received the writes of this connection.",
    ),
    Command::session("waitaof", 4, WAITING, waitaof).doc(
        "generic",
        "7.2.0",
        "O(1)",
        "Waits until the writes of this connection are on disk, here and on replicas.",
    ),
];

/// A question to the control core.
#[derive(Clone, Debug)]
pub enum LogAsk {
    /// Make a snapshot; answered when it begins, or, with `wait`, when it is there.
    Save {
        wait: bool,
        schedule: bool,
    },
    LastSave,
    /// The configuration has changed; answered when it is in use.
    Configure,
    /// End the node; answered with [`LogAnswer::Done`] when it does, or if it does not.
    ShutDown(ShutdownOn),
    /// Go on: the answer is [`LogAnswer::Busy`] if the node does not end anyway.
    AbortShutDown,
    /// Wait until everything up to these places of feeds is synced here, if `local`, and on so many replicas: received,
    /// or, if `synced`, synced.
    Wait {
        positions: Vec<(CoreId, u64)>,
        local: bool,
        replicas: u32,
        synced: bool,
        timeout_ms: Option<u64>,
    },
    Numbers,
    /// Follow this primary, or lead.
    ReplicaOf(Option<(String, u16)>),
    Failover {
        target: Option<(String, u16)>,
        timeout_ms: Option<u64>,
        force: bool,
    },
    AbortFailover,
    /// The node becomes a member of a cluster, or its cluster begins.
    Member(Membership),
    /// An operator's wish becomes an order.
    Order(Wish),
    /// The node asks the others for all roles that it could have.
    TakeRoles,
    /// The process stops, as by SIGSTOP, when a role that this node hands over has come so far; None: not any more.
    StopInHandover(Option<Stage>),
    /// The node leads by force what nobody leads, only these nodes had everything of, and it has copies of; with `empty`, incomplete
    /// ones begin empty.
    ForcePromote {
        lost: Vec<u64>,
        empty: bool,
    },
    /// What is known of the cluster, as JSON.
    ClusterStatus,
    /// About the backup of what the node leads; its state is JSON.
    Backup(BackupAsk),
}

/// What the control core answers.
#[derive(Debug)]
pub enum LogAnswer {
    Done,
    Failed(String),
    /// What was asked for goes on already, or there is nothing that it could be done to.
    Busy,
    /// Unix time, s.
    Time(i64),
    /// Whether it is synced here, and how many replicas have it.
    Copies {
        local: bool,
        replicas: u32,
    },
    Numbers(Box<LogNumbers>),
    Text(String),
    Bytes(Vec<u8>),
    Count(usize),
    /// Nothing is handed over.
    NoFailover(FailoverError),
}

/// What INFO and the metrics tell of the log.
#[derive(Clone, Debug, Default)]
pub struct LogNumbers {
    /// The log is written to disk, or will be once the snapshot is complete with which it begins.
    pub wal: bool,
    pub wal_starting: bool,
    /// Bytes of the files, and all that was ever written there since the start.
    pub wal_bytes: u64,
    pub appended_bytes: u64,
    /// The last index that the kernel has.
    pub written: Index,
    /// Bytes of the log that are in memory only.
    pub unwritten_bytes: u64,
    pub disk_error: Option<String>,
    pub history: HistoryId,
    /// The last index, and the last one that is synced.
    pub end: Index,
    pub durable: Index,
    pub backlog_bytes: u64,
    pub backlog_first: Index,
    pub saving: bool,
    pub saving_since_s: Option<i64>,
    pub last_save_s: i64,
    pub last_save_ok: bool,
    /// Seconds that it took; None: there was none.
    pub last_save_took_s: Option<i64>,
    pub last_save_bytes: u64,
    /// Another one follows it.
    pub save_scheduled: bool,
    /// Changes since the start that are in the last one.
    pub changes_saved: u64,
    pub saves: u64,
    pub replication: ReplicationNumbers,
    /// None: the node is in no cluster of several nodes.
    pub member: Option<Box<MemberNumbers>>,
}

/// What is known of replication.
#[derive(Clone, Debug, Default)]
pub struct ReplicationNumbers {
    /// The one that is followed; None: this node leads.
    pub primary: Option<(String, u16)>,
    pub link_up: bool,
    /// It is being connected to, and has not answered yet.
    pub connecting: bool,
    /// Since it was heard; None: never.
    pub primary_silent_ms: Option<u64>,
    /// A copy of the primary's data.
    pub receiving: bool,
    pub received: Index,
    pub applied: Index,
    /// Units that the primary has and this node has not.
    pub lag: u64,
    pub suspicion: f64,
    pub replicas: Vec<ReplicaNumbers>,
    pub syncs: Syncs,
    /// Replicas that are in sync, and those that count for `min-replicas-to-write`.
    pub in_sync: u64,
    pub good: u64,
    pub commit: Index,
    /// In Redis' words: `no-failover`, `waiting-for-sync`, `failover-in-progress`.
    pub failover: &'static str,
    /// The history before this one, and its last index here.
    pub parent: Option<(HistoryId, Index)>,
    /// The file with what was set aside last.
    pub set_aside: Option<String>,
}

/// What is known of one replica.
#[derive(Clone, Debug, Default)]
pub struct ReplicaNumbers {
    pub host: String,
    pub port: u16,
    pub in_sync: bool,
    /// It follows the log: no copy is under way, or waited for.
    pub streaming: bool,
    /// It is being sent a copy.
    pub copying: bool,
    pub received: Index,
    pub applied: Index,
    pub durable: Index,
    /// What it has not acknowledged, and for how long there has been something.
    pub entries: u64,
    pub bytes: u64,
    pub ms: u64,
    pub silent_ms: u64,
    pub suspicion: f64,
}

impl Home<'_> {
    /// Asks the control core.
    pub(super) fn ask_control(
        &self,
        ask: LogAsk,
        finish: impl FnOnce(LogAnswer, &mut Reply) -> Result<(), Error> + 'static,
    ) -> Flow {
        self.ask_control_and_go_on(ask, |_, answer, reply| finish(answer, reply).map(|()| Flow::Done))
    }

    /// Asks the control core, and then perhaps others.
    pub(super) fn ask_control_and_go_on(
        &self,
        ask: LogAsk,
        finish: impl FnOnce(&mut Home, LogAnswer, &mut Reply) -> Result<Flow, Error> + 'static,
    ) -> Flow {
        let control = self.engine.router.cores();
        Flow::Ask(
            vec![(control, Ask::Log(ask))],
            Box::new(move |home, mut answers, reply| match answers.pop() {
                Some(Answer::Log(answer)) => finish(home, answer, reply),
                _ => Err(Error::text("ERR the node is stopping")),
            }),
        )
    }
}

fn saved(answer: LogAnswer, reply: &mut Reply, done: &'static str) -> Result<(), Error> {
    match answer {
        LogAnswer::Busy => Err(Error::SaveInProgress),
        LogAnswer::Failed(why) => Err(Error::SaveFailed(why)),
        _ => {
            reply.simple(done);
            Ok(())
        }
    }
}

/// BGSAVE [SCHEDULE]
fn bgsave(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let schedule = match args[1..] {
        [] => false,
        [word] if word.eq_ignore_ascii_case(b"schedule") => true,
        _ => return Err(Error::Syntax),
    };
    let done = if schedule { "Background saving scheduled" } else { "Background saving started" };
    let ask = LogAsk::Save { wait: false, schedule };
    Ok(home.ask_control(ask, move |answer, reply| saved(answer, reply, done)))
}

fn bgrewriteaof(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let ask = LogAsk::Save { wait: false, schedule: true };
    let done = "Background append only file rewriting started";
    Ok(home.ask_control(ask, move |answer, reply| saved(answer, reply, done)))
}

fn save(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let ask = LogAsk::Save { wait: true, schedule: false };
    Ok(home.ask_control(ask, |answer, reply| saved(answer, reply, "OK")))
}

fn lastsave(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Ok(home.ask_control(LogAsk::LastSave, |answer, reply| {
        if let LogAnswer::Time(seconds) = answer {
            reply.int(seconds);
        }
        Ok(())
    }))
}

fn timeout_ms(arg: &[u8]) -> Result<Option<u64>, Error> {
    let timeout_ms = parse_i64(arg).map_err(|_| Error::TimeoutNotInteger)?;
    match u64::try_from(timeout_ms) {
        Err(_) => Err(Error::TimeoutNegative),
        Ok(0) => Ok(None),
        Ok(timeout_ms) => Ok(Some(timeout_ms)),
    }
}

/// WAIT numreplicas timeout
fn wait(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    if home.engine.standing.replica {
        return Err(Error::WaitOnReplica);
    }
    let replicas = parse_i64(args[1]).map_err(|_| Error::NotInteger)?;
    let timeout_ms = timeout_ms(args[2])?;
    let replicas = u32::try_from(replicas.max(0)).unwrap_or(u32::MAX);
    Ok(wait_for(home, false, replicas, false, timeout_ms, |_, replicas, reply| reply.int(replicas as i64)))
}

/// WAITAOF numlocal numreplicas timeout
fn waitaof(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let local = match parse_i64(args[1]) {
        Ok(local @ (0 | 1)) => local == 1,
        Ok(_) => return Err(Error::OutOfRange),
        Err(_) => return Err(Error::NotInteger),
    };
    let replicas = parse_i64(args[2]).map_err(|_| Error::NotInteger)?;
    let replicas = u32::try_from(replicas).map_err(|_| Error::MustBePositive)?;
    let timeout_ms = timeout_ms(args[3])?;
    if home.engine.standing.replica {
        return Err(Error::WaitAofOnReplica);
    }
    if local && !home.engine.config.appendonly {
        return Err(Error::WaitAofWithoutLog);
    }
    Ok(wait_for(home, local, replicas, true, timeout_ms, |local, replicas, reply| {
        reply.array(2);
        reply.int(local as i64);
        reply.int(replicas as i64);
    }))
}

/// Finds out where all feeds stand, and waits until so many copies of that exist. Within a transaction it does not wait.
fn wait_for(
    home: &mut Home,
    local: bool,
    replicas: u32,
    synced: bool,
    timeout_ms: Option<u64>,
    show: fn(bool, u32, &mut Reply),
) -> Flow {
    let timeout_ms = if home.engine.in_transaction() { Some(0) } else { timeout_ms };
    home.ask_all(Ask::FeedSeq, move |home, answers, _| {
        let seqs = answers.iter().map(|answer| if let Answer::Count(seq) = answer { *seq } else { 0 });
        let positions = (0..).zip(seqs).collect();
        let ask = LogAsk::Wait { positions, local, replicas, synced, timeout_ms };
        Ok(home.ask_control(ask, move |answer, reply| {
            if let LogAnswer::Copies { local, replicas } = answer {
                show(local, replicas, reply);
            }
            Ok(())
        }))
    })
}

/// CLIENT DURABILITY [memory | disk | quorum | quorum-disk | default]: what a reply means to this connection.
pub fn client_durability(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let Some(word) = args.get(2) else {
        let chosen = home.session.durability.unwrap_or(home.engine.default_durability);
        reply.bulk(chosen.name().as_bytes());
        return Ok(Flow::Done);
    };
    let chosen = match Durability::parse(word) {
        _ if word.eq_ignore_ascii_case(b"default") => None,
        None => return Err(Error::Syntax),
        chosen => chosen,
    };
    let on_disk = matches!(chosen, Some(Durability::Disk | Durability::QuorumDisk));
    if on_disk && !home.engine.config.appendonly {
        return Err(Error::DurabilityWithoutLog);
    }
    home.session.durability = chosen;
    home.engine.durability_changed(chosen.unwrap_or_default());
    reply.ok();
    Ok(Flow::Done)
}
