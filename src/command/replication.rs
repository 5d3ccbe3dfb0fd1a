//! Commands about replication: who follows whom, and handing the lead over.
//!
//! Who leads is decided on the control core, so they ask there. Within a transaction none of them changes anything: what
//! follows in it would belong to the log of another node.
//!
//! The replication protocol of Redis is not spoken: its stream is commands in the order of one thread, and offsets count
//! their bytes. PSYNC, SYNC and REPLCONF say so, to a redis-server that was told to follow this node and to whoever reads its log.

use super::log::{LogAnswer, LogAsk, LogNumbers};
use super::number::parse_i64;
use super::{Args, Command, Flags, Flow, Home};
use crate::config::Config;
use crate::replication::primary::FailoverError;
use crate::resp::{Error, Reply};

const CHANGING: Flags = Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::STALE);
const FOREIGN: Flags = Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_ASYNC_LOADING).or(Flags::NO_MULTI);

pub static COMMANDS: &[Command] = &[
    Command::session("failover", -1, CHANGING, failover).doc(
        "server",
        "6.2.0",
        "O(1)",
        "Hands the lead over to a replica.",
    ),
    Command::session("psync", -3, FOREIGN, foreign).doc(
        "server",
        "2.8.0",
        "O(1)",
        "Refused: replicas of Redis cannot follow this server.",
    ),
    Command::session("replconf", -1, CHANGING.or(Flags::LOADING), foreign).doc(
        "server",
        "3.0.0",
        "O(1)",
        "Refused: replicas of Redis cannot follow this server.",
    ),
    Command::session("replicaof", 3, CHANGING.or(Flags::NO_ASYNC_LOADING), replicaof).doc(
        "server",
        "5.0.0",
        "O(1)",
        "Makes this node a replica of another one, or lets it lead.",
    ),
    Command::session(
        "replicate",
        1,
        Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::STALE).or(Flags::NO_MULTI).or(Flags::DRAINS),
        replicate,
    )
    .doc("server", "7.4.0", "O(1)", "Used by replicas: the log follows on this connection."),
    Command::session("role", 1, ROLE, role).doc(
        "server",
        "2.8.12",
        "O(1)",
        "Returns whether this node leads or follows.",
    ),
    Command::session("slaveof", 3, CHANGING.or(Flags::NO_ASYNC_LOADING), replicaof).doc(
        "server",
        "1.0.0",
        "O(1)",
        "The old name of REPLICAOF.",
    ),
    Command::session("sync", 1, FOREIGN, foreign).doc(
        "server",
        "1.0.0",
        "O(1)",
        "Refused: replicas of Redis cannot follow this server.",
    ),
];

const ROLE: Flags = Flags::NOSCRIPT.or(Flags::LOADING).or(Flags::STALE).or(Flags::FAST).or(Flags::ADMIN_CATEGORY);

/// PSYNC, SYNC, REPLCONF
fn foreign(_home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Err(Error::ForeignReplica)
}

/// The connection is a replica's.
fn replicate(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    if home.engine.config.cluster_enabled {
        return Err(Error::NoReplicationInCluster("REPLICATE"));
    }
    Ok(Flow::HandOver)
}

/// REPLICAOF host port | NO ONE
fn replicaof(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    if home.engine.config.cluster_enabled {
        return Err(Error::NoReplicationInCluster("REPLICAOF"));
    }
    let no_one = args[1].eq_ignore_ascii_case(b"no") && args[2].eq_ignore_ascii_case(b"one");
    let target = match no_one {
        true => None,
        false => Some((host(args[1])?, port(args[2]).ok_or(Error::InvalidMasterPort)?)),
    };
    if home.engine.in_transaction() {
        return Err(Error::NotInMulti);
    }
    Ok(home.ask_control(LogAsk::ReplicaOf(target), |answer, reply| match answer {
        LogAnswer::Busy => {
            reply.simple("OK Already connected to specified master");
            Ok(())
        }
        answer => done(answer, reply),
    }))
}

fn host(arg: &[u8]) -> Result<String, Error> {
    std::str::from_utf8(arg).map(str::to_string).map_err(|_| Error::Syntax)
}

/// A port at which somebody can be.
fn port(arg: &[u8]) -> Option<u16> {
    parse_i64(arg).ok().and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0)
}

fn done(answer: LogAnswer, reply: &mut Reply) -> Result<(), Error> {
    match answer {
        LogAnswer::Failed(why) => Err(Error::text(format!("ERR {why}"))),
        LogAnswer::NoFailover(why) => Err(match why {
            FailoverError::NotLeading => Error::FailoverOnReplica,
            FailoverError::UnderWay => Error::FailoverInProgress,
            FailoverError::None => Error::NoFailover,
            FailoverError::NoReplicas => Error::FailoverWithoutReplicas,
            FailoverError::NoTarget => Error::FailoverTarget,
            FailoverError::NotOnline => Error::FailoverTargetNotOnline,
            FailoverError::ForceNeedsTarget => Error::FailoverForce,
            FailoverError::TooLate => Error::FailoverTooLate,
        }),
        _ => {
            reply.ok();
            Ok(())
        }
    }
}

/// FAILOVER [TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds]
fn failover(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    if home.engine.config.cluster_enabled {
        return Err(Error::NoReplicationInCluster("FAILOVER"));
    }
    let (mut target, mut timeout_ms, mut force) = (None, None, false);
    let abort = args.len() == 2 && args[1].eq_ignore_ascii_case(b"abort");
    let mut rest = if abort { &[][..] } else { &args[1..] };
    while let [word, more @ ..] = rest {
        rest = match (&word.to_ascii_lowercase()[..], more) {
            (b"to", [name, number, more @ ..]) if target.is_none() => {
                let number = parse_i64(number).map_err(|_| Error::NotInteger)?;
                // No replica is anywhere else.
                target = Some((host(name)?, u16::try_from(number).unwrap_or(0)));
                more
            }
            (b"timeout", [ms, more @ ..]) if timeout_ms.is_none() => {
                let ms = parse_i64(ms).map_err(|_| Error::NotInteger)?;
                let ms = u64::try_from(ms).ok().filter(|&ms| ms > 0);
                timeout_ms = Some(ms.ok_or(Error::FailoverTimeout)?);
                more
            }
            (b"force", more) if !force => {
                force = true;
                more
            }
            _ => return Err(Error::Syntax),
        };
    }
    if home.engine.in_transaction() {
        return Err(Error::NotInMulti);
    }
    let ask = if abort { LogAsk::AbortFailover } else { LogAsk::Failover { target, timeout_ms, force } };
    Ok(home.ask_control(ask, done))
}

/// ROLE
fn role(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Ok(home.ask_control(LogAsk::Numbers, |answer, reply| {
        if let LogAnswer::Numbers(numbers) = answer {
            write_role(&numbers, reply);
        }
        Ok(())
    }))
}

fn write_role(numbers: &LogNumbers, reply: &mut Reply) {
    let replication = &numbers.replication;
    if let Some((host, port)) = &replication.primary {
        let state = match (replication.link_up, replication.receiving, replication.connecting) {
            (true, _, _) => "connected",
            (false, true, _) => "sync",
            (false, false, true) => "connecting",
            (false, false, false) => "connect",
        };
        reply.array(5);
        reply.bulk(b"slave");
        reply.bulk(host.as_bytes());
        reply.int(*port as i64);
        reply.bulk(state.as_bytes());
        reply.int(if replication.link_up { replication.received as i64 } else { -1 });
        return;
    }
    reply.array(3);
    reply.bulk(b"master");
    reply.int(numbers.end as i64);
    let online: Vec<_> = replication.replicas.iter().filter(|replica| replica.streaming).collect();
    reply.array(online.len());
    for replica in online {
        reply.array(3);
        reply.bulk(replica.host.as_bytes());
        reply.bulk(replica.port.to_string().as_bytes());
        reply.bulk(replica.received.to_string().as_bytes());
    }
}

/// The section Replication of INFO: names and values. Offsets are indices of the log: they count units, not bytes.
pub(super) fn describe(log: &LogNumbers, config: &Config, mut field: impl FnMut(&str, String)) {
    let replication = &log.replication;
    match &replication.primary {
        None => field("role", "master".into()),
        Some((host, port)) => {
            let up = replication.link_up;
            let seconds = |ms: Option<u64>| ms.map_or("-1".to_string(), |ms| (ms / 1000).to_string());
            field("role", "slave".into());
            field("master_host", host.clone());
            field("master_port", port.to_string());
            field("master_link_status", if up { "up" } else { "down" }.into());
            field("master_last_io_seconds_ago", seconds(replication.primary_silent_ms.filter(|_| up)));
            field("master_sync_in_progress", (replication.receiving as u8).to_string());
            field("slave_read_repl_offset", replication.received.to_string());
            field("slave_repl_offset", replication.applied.to_string());
            if !up {
                field("master_link_down_since_seconds", seconds(replication.primary_silent_ms));
            }
            field("slave_priority", config.get(b"replica-priority").unwrap_or_default());
            field("slave_read_only", "1".into());
            field("replica_announced", "1".into());
            field("master_link_lag_entries", replication.lag.to_string());
            field("master_link_suspicion", format!("{:.2}", replication.suspicion));
        }
    }
    field("connected_slaves", replication.replicas.len().to_string());
    if config.good_replicas_min() > 0 {
        field("min_slaves_good_slaves", replication.good.to_string());
    }
    for (at, replica) in replication.replicas.iter().enumerate() {
        let state = match (replica.streaming, replica.copying) {
            (true, _) => "online",
            (false, true) => "send_bulk",
            (false, false) => "wait_bgsave",
        };
        let (host, port, offset) = (&replica.host, replica.port, replica.received);
        let lag_s = replica.silent_ms / 1000;
        let ours = format!(
            "applied={},durable={},in_sync={},lag_entries={},lag_bytes={},lag_ms={},suspicion={:.2}",
            replica.applied,
            replica.durable,
            replica.in_sync as u8,
            replica.entries,
            replica.bytes,
            replica.ms,
            replica.suspicion
        );
        let name = format!("slave{at}");
        field(&name, format!("ip={host},port={port},state={state},offset={offset},lag={lag_s},{ours}"));
    }
    describe_log(log, config.repl_backlog_size, field);
}

/// The part of it that leaders and followers have in common.
fn describe_log(log: &LogNumbers, backlog_bytes_max: u64, mut field: impl FnMut(&str, String)) {
    let replication = &log.replication;
    let (parent, cut) = replication.parent.map_or((0, -1), |(id, cut)| (id, cut as i64 + 1));
    // What is in the backlog ends where the log does.
    let kept = if log.backlog_first == 0 { 0 } else { (log.end + 1).saturating_sub(log.backlog_first) };
    field("master_failover_state", replication.failover.into());
    field("master_replid", redis_id(log.history));
    field("master_replid2", redis_id(parent));
    field("master_repl_offset", log.end.to_string());
    field("second_repl_offset", cut.to_string());
    field("repl_backlog_active", ((log.backlog_first > 0) as u8).to_string());
    field("repl_backlog_size", backlog_bytes_max.to_string());
    field("repl_backlog_first_byte_offset", log.backlog_first.to_string());
    field("repl_backlog_histlen", kept.to_string());
    field("repl_backlog_bytes", log.backlog_bytes.to_string());
    field("repl_commit_index", replication.commit.to_string());
    field("repl_replicas_in_sync", replication.in_sync.to_string());
    field("repl_set_aside_file", replication.set_aside.clone().unwrap_or_default());
}

/// A history's id with as many digits as Redis has: 32 of its own, and zeros.
fn redis_id(id: u128) -> String {
    format!("{id:032x}{:08}", 0)
}
