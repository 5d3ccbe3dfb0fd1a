//! CLUSTER CREATE, JOIN, BEGIN, FAILOVER, FORCE-PROMOTE, LEAVE, STAY, REBALANCE and STATUS: how a node becomes a member of a
//! cluster of several nodes, and what an operator does to it and sees of it. `keyloom cluster` ([`crate::operator`]) asks most
//! of these.
//!
//! The control core does it, so they ask there.

use super::log::{LogAnswer, LogAsk};
use super::number::parse_i64;
use super::{Args, Command, Flags, Flow, Home};
use crate::cluster::NODES_MAX;
use crate::resp::{Error, Reply};

const FLAGS: Flags = Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::STALE).or(Flags::NO_MULTI);

/// How a node becomes a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It founds a cluster.
    Create,
    /// It joins the one that has a member at this address of the bus.
    Join { host: String, bus_port: u16 },
    /// The data set of its cluster begins.
    Begin,
}

/// What an operator wants of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The node with this number, or this one, gives all it has to others, and is removed then.
    Leave(Option<u64>),
    /// It stays after all.
    Stay(Option<u64>),
    /// Copies and roles stay where they are.
    Pause,
    /// They move again, and those that were moved by hand, too.
    Rebalance,
}

pub(super) const CREATE: Command =
    row("create", 2, create, "O(1)", "Makes this node the first of a cluster of several nodes.");
pub(super) const JOIN: Command =
    row("join", 4, join, "O(1)", "Lets this node join the cluster that has a member at this host and port of the bus.");
pub(super) const BEGIN: Command =
    row("begin", 2, begin, "O(P) in partitions", "Begins the data set of this node's cluster, on the nodes it has.");
pub(super) const FAILOVER: Command =
    Command::session("failover", -2, Flags::ADMIN.or(Flags::STALE).or(Flags::NO_ASYNC_LOADING), failover).doc(
        "cluster",
        "3.0.0",
        "O(P) in partitions",
        "Lets this node lead what it has copies in sync of: those who lead that give it up.",
    );
pub(super) const FORCE_PROMOTE: Command = row(
    "force-promote",
    -3,
    force_promote,
    "O(P) in partitions",
    "Lets this node lead what nobody leads, only the nodes with these numbers had everything of, and it has complete copies of, or with EMPTY any.",
);
pub(super) const LEAVE: Command = row(
    "leave",
    -2,
    leave,
    "O(1), and O(N) in bytes until it has left",
    "Lets this node, or the one with this number, give all it has to others and be removed then.",
);
pub(super) const STAY: Command =
    row("stay", -2, stay, "O(1)", "Lets this node, or the one with this number, stay after CLUSTER LEAVE.");
pub(super) const REBALANCE: Command = row(
    "rebalance",
    -2,
    rebalance,
    "O(P) in partitions",
    "Lets copies and roles move to where they are to be, or with PAUSE stay where they are until this is said without it.",
);
pub(super) const STATUS: Command =
    row("status", 2, status, "O(P+N) in partitions and nodes", "Returns what this node knows of its cluster, as JSON.");

const fn row(
    name: &'static str,
    arity: i16,
    run: super::session::SessionFn,
    complexity: &'static str,
    summary: &'static str,
) -> Command {
    Command::session(name, arity, FLAGS, run).doc("cluster", "9.0.0", complexity, summary)
}

fn ask(home: &Home, question: LogAsk) -> Result<Flow, Error> {
    if home.engine.view.is_none() {
        return Err(Error::NoCluster);
    }
    Ok(home.ask_control(question, |answer, reply| match answer {
        LogAnswer::Text(text) => {
            reply.bulk(text.as_bytes());
            Ok(())
        }
        LogAnswer::Count(count) => {
            reply.int(count as i64);
            Ok(())
        }
        LogAnswer::Failed(why) => Err(Error::text(format!("ERR {why}"))),
        _ => {
            reply.simple("OK");
            Ok(())
        }
    }))
}

fn create(home: &mut Home, _: Args, _: &mut Reply) -> Result<Flow, Error> {
    ask(home, LogAsk::Member(Membership::Create))
}

fn join(home: &mut Home, args: Args, _: &mut Reply) -> Result<Flow, Error> {
    let port = parse_i64(args[3]).ok().and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0);
    let bus_port = port.ok_or(Error::NotInteger)?;
    let host = std::str::from_utf8(args[2]).map_err(|_| Error::Syntax)?.to_string();
    ask(home, LogAsk::Member(Membership::Join { host, bus_port }))
}

fn begin(home: &mut Home, _: Args, _: &mut Reply) -> Result<Flow, Error> {
    ask(home, LogAsk::Member(Membership::Begin))
}

/// CLUSTER FAILOVER [FORCE]: <https://redis.io/docs/latest/commands/cluster-failover/>. What a dead node has led, moves by
/// itself; so FORCE has nothing to add.
fn failover(home: &mut Home, args: Args, _: &mut Reply) -> Result<Flow, Error> {
    match args[2..] {
        [] => {}
        [how] if how.eq_ignore_ascii_case(b"force") => {}
        [how] if how.eq_ignore_ascii_case(b"takeover") => {
            return Err(Error::text("ERR TAKEOVER is not possible: no role moves unless a majority of voters agrees"));
        }
        _ => return Err(Error::Syntax),
    }
    ask(home, LogAsk::TakeRoles)
}

/// CLUSTER FORCE-PROMOTE [EMPTY] node [node ...]: the numbers of the nodes that are lost, as CLUSTER STATUS has them.
fn force_promote(home: &mut Home, args: Args, _: &mut Reply) -> Result<Flow, Error> {
    let (empty, lost) = match &args[2..] {
        [word, lost @ ..] if word.eq_ignore_ascii_case(b"empty") => (true, lost),
        lost => (false, lost),
    };
    if lost.is_empty() || lost.len() > NODES_MAX {
        return Err(Error::Syntax);
    }
    let number = |arg: &&[u8]| parse_i64(arg).ok().and_then(|number| u64::try_from(number).ok());
    let lost = lost.iter().map(number).collect::<Option<Vec<u64>>>().ok_or(Error::NotInteger)?;
    ask(home, LogAsk::ForcePromote { lost, empty })
}

/// CLUSTER LEAVE [number] and CLUSTER STAY [number].
fn number(args: Args) -> Result<Option<u64>, Error> {
    match args[2..] {
        [] => Ok(None),
        [number] => {
            let number = parse_i64(number).ok().and_then(|number| u64::try_from(number).ok());
            number.filter(|number| *number > 0).map(Some).ok_or(Error::NotInteger)
        }
        _ => Err(Error::Syntax),
    }
}

fn leave(home: &mut Home, args: Args, _: &mut Reply) -> Result<Flow, Error> {
    ask(home, LogAsk::Order(Wish::Leave(number(args)?)))
}

fn stay(home: &mut Home, args: Args, _: &mut Reply) -> Result<Flow, Error> {
    ask(home, LogAsk::Order(Wish::Stay(number(args)?)))
}

/// CLUSTER REBALANCE [PAUSE].
fn rebalance(home: &mut Home, args: Args, _: &mut Reply) -> Result<Flow, Error> {
    let wish = match args[2..] {
        [] => Wish::Rebalance,
        [how] if how.eq_ignore_ascii_case(b"pause") => Wish::Pause,
        _ => return Err(Error::Syntax),
    };
    ask(home, LogAsk::Order(wish))
}

fn status(home: &mut Home, _: Args, _: &mut Reply) -> Result<Flow, Error> {
    ask(home, LogAsk::ClusterStatus)
}
