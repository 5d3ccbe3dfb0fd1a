//! CLUSTER, READONLY, READWRITE, ASKING: what a client of Redis Cluster asks, and which commands a cluster refuses.
//!
//! All of it is told from the node's [`View`] of the cluster. The replies have the shapes of Redis:
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::backup;
use super::generic::sort;
use super::log::{LogAnswer, LogAsk};
use super::member;
use super::membership;
use super::number::parse_i64;
use super::table::Row;
use super::{Answer, Args, Ask, Command, Flags, Flow, Home, Patterns, help};
use crate::cluster::{Endpoint, Target, View};
use crate::config::Config;
use crate::resp::{Error, Reply};
use crate::route::{SLOTS, slot_of};

const GROUP: &str = "cluster";
const PLAIN: Flags = Flags::STALE;
const MODE: Flags = Flags::LOADING.or(Flags::STALE).or(Flags::FAST).or(Flags::CONNECTION);

pub static COMMANDS: &[Command] = &[
    Command::session("asking", 1, Flags::FAST.or(Flags::CONNECTION), accept).doc(
        GROUP,
        "3.0.0",
        "O(1)",
        "Lets the next command run where its slot is being imported; slots move at once, so it changes nothing.",
    ),
    Command::container("cluster", -2, Flags::NONE, SUBCOMMANDS).doc(
        GROUP,
        "3.0.0",
        "Depends on subcommand.",
        "A container for Redis Cluster commands.",
    ),
    Command::session("readonly", 1, MODE, readonly).doc(
        GROUP,
        "3.0.0",
        "O(1)",
        "Allows reads of this connection on a replica.",
    ),
    Command::session("readwrite", 1, MODE, readwrite).doc(GROUP, "3.0.0", "O(1)", "Takes back READONLY."),
];

static SUBCOMMANDS: &[Command] = &[
    backup::BACKUP,
    membership::BEGIN,
    admin("count-failure-reports", failure_reports, "O(N) in reports", "Returns how many nodes report one as failing."),
    sub("countkeysinslot", 3, countkeysinslot, "O(N) in keys of a partition", "Returns the number of keys in a slot."),
    membership::CREATE,
    backup::DIGEST,
    membership::FAILOVER,
    membership::FORCE_PROMOTE,
    sub("getkeysinslot", 4, getkeysinslot, "O(N) in keys of a partition", "Returns names of keys in a slot."),
    help::row(GROUP, Flags::NONE),
    sub("info", 2, info, "O(1)", "Returns the state of the cluster as this node sees it."),
    membership::JOIN,
    sub("keyslot", 3, keyslot, "O(N) in bytes of the key", "Returns the slot of a key."),
    membership::LEAVE,
    sub("links", 2, links, "O(N) in nodes", "Returns the links to other nodes."),
    sub("myid", 2, myid, "O(1)", "Returns the id of this node."),
    sub("myshardid", 2, myid, "O(1)", "Returns the id of the shard of this node: a node is a shard of its own."),
    sub("nodes", 2, nodes, "O(N) in nodes", "Returns the nodes and their slots, as lines of text."),
    membership::REBALANCE,
    admin("replicas", replicas, "O(N) in replicas", "Returns the replicas of a node."),
    sub("shards", 2, shards, "O(N) in nodes", "Returns ranges of slots, each with its nodes as maps."),
    admin("slaves", replicas, "O(N) in replicas", "Returns the replicas of a node."),
    sub("slots", 2, slots, "O(N) in nodes", "Returns ranges of slots, each with its nodes."),
    membership::STATUS,
    membership::STAY,
];

const fn sub(
    name: &'static str,
    arity: i16,
    run: super::session::SessionFn,
    complexity: &'static str,
    summary: &'static str,
) -> Command {
    Command::session(name, arity, PLAIN, run).doc(GROUP, "3.0.0", complexity, summary)
}

/// About one node, which is an argument.
const fn admin(
    name: &'static str,
    run: super::session::SessionFn,
    complexity: &'static str,
    summary: &'static str,
) -> Command {
    Command::session(name, 3, PLAIN.or(Flags::ADMIN), run).doc(GROUP, "3.0.0", complexity, summary)
}

/// Why this node of a cluster does not execute this command: a cluster has one database, the keys of a command belong to one
/// slot, and another node has them. With `cluster-allow-local-crossslot` they may be anywhere on this node.
pub fn refusal(config: &Config, view: &View, row: &Row, args: Args) -> Option<Error> {
    if row.command.name == "swapdb" {
        return Some(Error::NotInCluster("SWAPDB"));
    }
    let slot = match slots_of(row, args) {
        Slots::None => return None,
        Slots::One(slot) => slot,
        Slots::Several if config.cluster_allow_local_crossslot => return beyond(view, row, args),
        Slots::Several => return Some(Error::CrossSlot),
    };
    if let Some(error) = elsewhere(view, slot) {
        return Some(error);
    }
    if row.command.keys.patterns == Patterns::None || config.cluster_allow_local_crossslot {
        return None;
    }
    sort::pattern_beyond(args, slot).map(Error::SortCrossesSlots)
}

/// Who serves a slot, if it is not this node.
pub fn elsewhere(view: &View, slot: u16) -> Option<Error> {
    let Some(leader) = view.leader_of(slot) else { return Some(Error::SlotNotServed) };
    if leader == view.me() {
        return None;
    }
    let Endpoint { host, port, .. } = view.advertised(view.target_of(slot)?);
    Some(Error::Moved { slot, host, port })
}

/// Why this node does not execute a command with keys of several slots, if it does not: all of them have to be here. If all are
/// on one other node, that one can.
fn beyond(view: &View, row: &Row, args: Args) -> Option<Error> {
    let slots = || row.command.keys.positions(args).map(|at| slot_of(args[at]));
    if slots().any(|slot| view.leader_of(slot).is_none()) {
        return Some(Error::SlotNotServed);
    }
    let leader = view.leader_of(slots().next()?);
    if slots().any(|slot| view.leader_of(slot) != leader) {
        return Some(Error::CrossSlot);
    }
    elsewhere(view, slots().next()?)
}

/// Where the keys of requests belong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slots {
    /// There are no keys.
    #[default]
    None,
    One(u16),
    Several,
}

impl Slots {
    /// Those of these and of others.
    pub fn and(self, other: Slots) -> Slots {
        match (self, other) {
            (Slots::None, slots) | (slots, Slots::None) => slots,
            (Slots::One(a), Slots::One(b)) if a == b => self,
            _ => Slots::Several,
        }
    }
}

/// Where the keys of a request belong.
pub fn slots_of(row: &Row, args: Args) -> Slots {
    let keys = row.command.keys.positions(args);
    keys.fold(Slots::None, |slots, at| slots.and(Slots::One(slot_of(args[at]))))
}

fn view(home: &Home) -> Result<Arc<View>, Error> {
    home.engine.view.clone().ok_or(Error::NoCluster)
}

/// The view, for a table of who leads what. A client takes any table for what the cluster is now, and drops its connections to
/// nodes that are not in it: a node that does not know yet has none to give.
fn informed_view(home: &Home) -> Result<Arc<View>, Error> {
    let view = view(home)?;
    if view.is_informed() { Ok(view) } else { Err(Error::ClusterDown) }
}

fn accept(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    view(home)?;
    reply.ok();
    Ok(Flow::Done)
}

fn readonly(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let flow = accept(home, args, reply)?;
    home.session.readonly = true;
    Ok(flow)
}

fn readwrite(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let flow = accept(home, args, reply)?;
    home.session.readonly = false;
    Ok(flow)
}

/// A target with where this client reaches it: at what the node announces; this node, if it announces nothing, where the client
/// has reached it.
fn reached(home: &Home, view: &View, target: Target) -> Endpoint {
    let reached = Some(&home.session.laddr).filter(|_| !home.session.unix_socket);
    let (host, port) = reached.and_then(|addr| addr.rsplit_once(':')).unwrap_or_default();
    let mut node = view.advertised(target);
    if node.host.is_empty() {
        node.host = host.trim_start_matches('[').trim_end_matches(']').into();
    }
    if node.port == 0 {
        let own = home.engine.config.port;
        node.port = if home.session.own_core { own } else { port.parse().unwrap_or(own) };
    }
    node
}

/// What this client takes the node for that it is connected to.
fn me(home: &Home, view: &View) -> Target {
    let node = view.me();
    let core = view.nodes()[node].cores.map(|_| home.engine.router.me()).filter(|_| home.session.own_core);
    Target { node, core }
}

fn myid(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let view = view(home)?;
    reply.bulk(view.advertised(me(home, &view)).id.as_bytes());
    Ok(Flow::Done)
}

fn info(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let view = view(home)?;
    Ok(home.ask_control_and_go_on(LogAsk::Numbers, move |home, answer, reply| {
        let LogAnswer::Numbers(numbers) = answer else { return Ok(Flow::Done) };
        let messages = numbers.member.map_or((0, 0), |member| (member.messages_sent, member.messages_received));
        write_info(home, &view, messages, reply);
        Ok(Flow::Done)
    }))
}

/// The state of the cluster, with requests and answers on the bus that were sent, and received.
fn write_info(home: &Home, view: &View, messages: (u64, u64), reply: &mut Reply) {
    let ranges = view.ranges();
    let failed = view.slots_failed();
    let leaders: BTreeSet<Target> = ranges.iter().map(|&(_, target)| target).collect();
    let led = view.slots_led();
    let whole = led == SLOTS as usize && failed == 0 && !home.engine.is_lapsed();
    let mut text = format!("cluster_state:{}\r\n", if whole { "ok" } else { "fail" });
    for (name, value) in [
        ("cluster_slots_assigned", led as u64),
        ("cluster_slots_ok", (led - failed) as u64),
        ("cluster_slots_pfail", 0),
        ("cluster_slots_fail", failed as u64),
        ("cluster_known_nodes", view.targets().len() as u64),
        ("cluster_size", leaders.len() as u64),
        ("cluster_current_epoch", view.epoch()),
        ("cluster_my_epoch", view.epoch()),
        ("cluster_stats_messages_sent", messages.0),
        ("cluster_stats_messages_received", messages.1),
        ("total_cluster_links_buffer_limit_exceeded", 0),
    ] {
        text.push_str(&format!("{name}:{value}\r\n"));
    }
    reply.verbatim(b"txt", text.as_bytes());
}

fn nodes(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let view = informed_view(home)?;
    let (mut text, ranges) = (String::new(), view.ranges());
    let me = me(home, &view);
    for target in view.targets() {
        let Endpoint { id, host, port, alive, .. } = reached(home, &view, target);
        let myself = if target == me { "myself," } else { "" };
        let (fail, link) = if alive { ("", "connected") } else { (",fail", "disconnected") };
        // There is no bus of Redis Cluster, hence no port of it.
        text.push_str(&format!("{id} {host}:{port}@0 {myself}master{fail} - 0 0 {} {link}", view.epoch()));
        for (range, _) in ranges.iter().filter(|(_, led_by)| *led_by == target) {
            match (range.start(), range.end()) {
                (first, last) if first == last => text.push_str(&format!(" {first}")),
                (first, last) => text.push_str(&format!(" {first}-{last}")),
            }
        }
        text.push('\n');
    }
    reply.verbatim(b"txt", text.as_bytes());
    Ok(Flow::Done)
}

fn slots(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let view = informed_view(home)?;
    let ranges = view.ranges();
    reply.array(ranges.len());
    for (range, target) in ranges {
        let node = reached(home, &view, target);
        reply.array(3);
        reply.int(*range.start() as i64);
        reply.int(*range.end() as i64);
        reply.array(4);
        reply.bulk(node.host.as_bytes());
        reply.int(node.port as i64);
        reply.bulk(node.id.as_bytes());
        // Other names of the endpoint.
        reply.map(0);
    }
    Ok(Flow::Done)
}

fn shards(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let view = informed_view(home)?;
    Ok(home.ask_control_and_go_on(LogAsk::Numbers, move |home, answer, reply| {
        let LogAnswer::Numbers(numbers) = answer else { return Ok(Flow::Done) };
        let ranges = view.ranges();
        let targets = view.targets();
        reply.array(targets.len());
        for target in targets {
            let ranges = ranges.iter().filter(|(_, led_by)| *led_by == target);
            reply.map(2);
            reply.bulk(b"slots");
            reply.array(2 * ranges.clone().count());
            ranges.flat_map(|(range, _)| [range.start(), range.end()]).for_each(|&slot| reply.int(slot as i64));
            reply.bulk(b"nodes");
            reply.array(1);
            let offset = if target.node == view.me() { numbers.end } else { 0 };
            write_node(&reached(home, &view, target), offset, reply);
        }
        Ok(Flow::Done)
    }))
}

/// A node, as CLUSTER SHARDS shows it. How far the logs of other nodes are is not known here.
fn write_node(node: &Endpoint, offset: u64, reply: &mut Reply) {
    reply.map(7);
    for (name, value) in [
        ("id", &node.id[..]),
        ("ip", &node.host),
        ("endpoint", &node.host),
        ("role", "master"),
        ("health", if node.alive { "online" } else { "failed" }),
    ] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    for (name, value) in [("port", node.port as i64), ("replication-offset", offset as i64)] {
        reply.bulk(name.as_bytes());
        reply.int(value);
    }
}

fn links(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    view(home)?;
    Ok(home.ask_control(LogAsk::Numbers, |answer, reply| {
        let LogAnswer::Numbers(numbers) = answer else { return Ok(()) };
        member::write_links(numbers.member.as_ref().map_or(&[], |member| &member.links), reply);
        Ok(())
    }))
}

fn known(home: &Home, id: &[u8]) -> Result<(), Error> {
    let view = view(home)?;
    let found = view.targets().into_iter().any(|target| view.advertised(target).id.as_bytes() == id);
    if found { Ok(()) } else { Err(Error::unknown_node(id)) }
}

fn replicas(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    known(home, args[2])?;
    reply.array(0);
    Ok(Flow::Done)
}

fn failure_reports(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    known(home, args[2])?;
    reply.int(0);
    Ok(Flow::Done)
}

fn keyslot(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    view(home)?;
    reply.int(slot_of(args[2]) as i64);
    Ok(Flow::Done)
}

fn slot(arg: &[u8]) -> Result<Option<u16>, Error> {
    let slot = parse_i64(arg).map_err(|_| Error::NotInteger)?;
    Ok(u16::try_from(slot).ok().filter(|&slot| slot < SLOTS))
}

fn countkeysinslot(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    view(home)?;
    let slot = slot(args[2])?.ok_or(Error::InvalidSlot)?;
    ask_slot(home, slot, 0, |answer, reply| {
        if let Answer::Count(count) = answer {
            reply.int(count as i64);
        }
    })
}

fn getkeysinslot(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    view(home)?;
    let (slot, count) = (slot(args[2])?, parse_i64(args[3]).map_err(|_| Error::NotInteger)?);
    let (Some(slot), Ok(count)) = (slot, usize::try_from(count)) else { return Err(Error::InvalidSlotOrCount) };
    if count == 0 {
        reply.array(0);
        return Ok(Flow::Done);
    }
    ask_slot(home, slot, count, |answer, reply| {
        if let Answer::Names(names) = answer {
            reply.array(names.len());
            names.iter().for_each(|name| reply.bulk(name));
        }
    })
}

/// Asks the owner of a slot for up to `names` names of its keys, or, if that is 0, for how many there are.
fn ask_slot(
    home: &mut Home,
    slot: u16,
    names: usize,
    write: impl FnOnce(Answer, &mut Reply) + 'static,
) -> Result<Flow, Error> {
    let router = &home.engine.router;
    let owner = router.owner(slot / (SLOTS / router.partitions()));
    let ask = if names == 0 { Ask::SlotCount(slot) } else { Ask::SlotKeys { slot, count: names } };
    Ok(Flow::Ask(
        vec![(owner, ask)],
        Box::new(move |_, mut answers, reply| {
            if let Some(answer) = answers.pop() {
                write(answer, reply);
            }
            Ok(Flow::Done)
        }),
    ))
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
