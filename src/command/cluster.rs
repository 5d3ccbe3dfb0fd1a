//! CLUSTER, READONLY, READWRITE, ASKING: what a client of Redis Cluster asks, and which commands a cluster refuses.
//!
//! With `cluster-enabled yes` a node is a cluster of one: it serves every slot. The replies have the shapes of Redis:
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.

use super::generic::sort;
use super::log::{LogAnswer, LogAsk};
use super::number::parse_i64;
use super::table::Row;
use super::{Answer, Args, Ask, Command, Flags, Flow, Home, Patterns, help};
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
    admin("count-failure-reports", failure_reports, "O(N) in reports", "Returns how many nodes report one as failing."),
    sub("countkeysinslot", 3, countkeysinslot, "O(N) in keys of a partition", "Returns the number of keys in a slot."),
    sub("getkeysinslot", 4, getkeysinslot, "O(N) in keys of a partition", "Returns names of keys in a slot."),
    help::row(GROUP, Flags::NONE),
    sub("info", 2, info, "O(1)", "Returns the state of the cluster as this node sees it."),
    sub("keyslot", 3, keyslot, "O(N) in bytes of the key", "Returns the slot of a key."),
    sub("links", 2, links, "O(N) in nodes", "Returns the links to other nodes."),
    sub("myid", 2, myid, "O(1)", "Returns the id of this node."),
    sub("nodes", 2, nodes, "O(N) in nodes", "Returns the nodes and their slots, as lines of text."),
    admin("replicas", replicas, "O(N) in replicas", "Returns the replicas of a node."),
    sub("shards", 2, shards, "O(N) in nodes", "Returns ranges of slots, each with its nodes as maps."),
    admin("slaves", replicas, "O(N) in replicas", "Returns the replicas of a node."),
    sub("slots", 2, slots, "O(N) in nodes", "Returns ranges of slots, each with its nodes."),
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

/// Why a cluster does not execute this command: it knows one database, and the keys of a command belong to one slot.
/// With `cluster-allow-local-crossslot` they may be anywhere on this node.
pub fn refusal(config: &Config, row: &Row, args: Args) -> Option<Error> {
    if row.command.name == "swapdb" {
        return Some(Error::NotInCluster("SWAPDB"));
    }
    if config.cluster_allow_local_crossslot {
        return None;
    }
    let slot = match slots_of(row, args) {
        Slots::None => return None,
        Slots::One(slot) => slot,
        Slots::Several => return Some(Error::CrossSlot),
    };
    if row.command.keys.patterns == Patterns::None {
        return None;
    }
    sort::pattern_beyond(args, slot).map(Error::SortCrossesSlots)
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

fn enabled(home: &Home) -> Result<(), Error> {
    if home.engine.config.cluster_enabled { Ok(()) } else { Err(Error::NoCluster) }
}

fn accept(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    enabled(home)?;
    reply.ok();
    Ok(Flow::Done)
}

fn readonly(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    enabled(home)?;
    home.session.readonly = true;
    accept(home, args, reply)
}

fn readwrite(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    enabled(home)?;
    home.session.readonly = false;
    accept(home, args, reply)
}

/// Where clients reach this node.
struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// What the configuration announces; otherwise where this client has reached it.
    fn of(home: &Home) -> Endpoint {
        let config = &home.engine.config;
        let reached = Some(&home.session.laddr).filter(|_| !home.session.unix_socket);
        let (host, port) = reached.and_then(|addr| addr.rsplit_once(':')).unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Endpoint {
            host: if config.cluster_announce_ip.is_empty() { host.into() } else { config.cluster_announce_ip.clone() },
            port: match config.cluster_announce_port {
                0 => port.parse().unwrap_or(config.port),
                port => port,
            },
        }
    }
}

fn myid(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    enabled(home)?;
    reply.bulk(home.engine.node.node_id.as_bytes());
    Ok(Flow::Done)
}

fn info(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    enabled(home)?;
    let mut text = String::new();
    for (name, value) in [
        ("cluster_state", "ok".to_string()),
        ("cluster_slots_assigned", SLOTS.to_string()),
        ("cluster_slots_ok", SLOTS.to_string()),
        ("cluster_slots_pfail", "0".into()),
        ("cluster_slots_fail", "0".into()),
        ("cluster_known_nodes", "1".into()),
        ("cluster_size", "1".into()),
        ("cluster_current_epoch", "1".into()),
        ("cluster_my_epoch", "1".into()),
        ("cluster_stats_messages_sent", "0".into()),
        ("cluster_stats_messages_received", "0".into()),
        ("total_cluster_links_buffer_limit_exceeded", "0".into()),
    ] {
        text.push_str(&format!("{name}:{value}\r\n"));
    }
    reply.verbatim(b"txt", text.as_bytes());
    Ok(Flow::Done)
}

fn nodes(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    enabled(home)?;
    let (Endpoint { host, port }, id) = (Endpoint::of(home), &home.engine.node.node_id);
    // There is no bus of Redis Cluster, hence no port of it.
    let line = format!("{id} {host}:{port}@0 myself,master - 0 0 1 connected 0-{}\n", SLOTS - 1);
    reply.verbatim(b"txt", line.as_bytes());
    Ok(Flow::Done)
}

fn slots(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    enabled(home)?;
    let Endpoint { host, port } = Endpoint::of(home);
    reply.array(1);
    reply.array(3);
    reply.int(0);
    reply.int(SLOTS as i64 - 1);
    reply.array(4);
    reply.bulk(host.as_bytes());
    reply.int(port as i64);
    reply.bulk(home.engine.node.node_id.as_bytes());
    // Other names of the endpoint.
    reply.map(0);
    Ok(Flow::Done)
}

fn shards(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    enabled(home)?;
    let (Endpoint { host, port }, id) = (Endpoint::of(home), home.engine.node.node_id.clone());
    Ok(home.ask_control(LogAsk::Numbers, move |answer, reply| {
        let LogAnswer::Numbers(numbers) = answer else { return Ok(()) };
        reply.array(1);
        reply.map(2);
        reply.bulk(b"slots");
        reply.array(2);
        reply.int(0);
        reply.int(SLOTS as i64 - 1);
        reply.bulk(b"nodes");
        reply.array(1);
        reply.map(7);
        let mut text = |name: &str, value: &str| {
            reply.bulk(name.as_bytes());
            reply.bulk(value.as_bytes());
        };
        text("id", &id);
        text("ip", &host);
        text("endpoint", &host);
        text("role", "master");
        text("health", "online");
        for (name, value) in [("port", port as i64), ("replication-offset", numbers.end as i64)] {
            reply.bulk(name.as_bytes());
            reply.int(value);
        }
        Ok(())
    }))
}

fn links(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    enabled(home)?;
    reply.array(0);
    Ok(Flow::Done)
}

fn known(home: &Home, id: &[u8]) -> Result<(), Error> {
    enabled(home)?;
    if id == home.engine.node.node_id.as_bytes() { Ok(()) } else { Err(Error::unknown_node(id)) }
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
    enabled(home)?;
    reply.int(slot_of(args[2]) as i64);
    Ok(Flow::Done)
}

fn slot(arg: &[u8]) -> Result<Option<u16>, Error> {
    let slot = parse_i64(arg).map_err(|_| Error::NotInteger)?;
    Ok(u16::try_from(slot).ok().filter(|&slot| slot < SLOTS))
}

fn countkeysinslot(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    enabled(home)?;
    let slot = slot(args[2])?.ok_or(Error::InvalidSlot)?;
    ask_slot(home, slot, 0, |answer, reply| {
        if let Answer::Count(count) = answer {
            reply.int(count as i64);
        }
    })
}

fn getkeysinslot(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    enabled(home)?;
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
mod tests {
    use super::*;
    use crate::command::table;
    use crate::command::transcript::Client;

    fn client(directives: impl FnOnce(&mut Config)) -> Client {
        let mut config = Config { cluster_enabled: true, databases: 1, ..Config::default() };
        directives(&mut config);
        Client::with(config)
    }

    #[test]
    fn without_a_cluster_there_is_nothing_to_tell() {
        let mut client = Client::new();
        let lines = "cluster info|cluster slots|cluster shards|cluster nodes|cluster myid|cluster keyslot a|cluster links|\
                     cluster countkeysinslot 1|cluster getkeysinslot 1 1|cluster replicas x|readonly|readwrite|asking";
        for line in lines.split('|') {
            client.expect(line, "-ERR This instance has cluster support disabled");
        }
        assert!(client.run("info cluster").ends_with("cluster_enabled:0|"));
    }

    #[test]
    fn a_cluster_of_one() {
        let mut client = client(|_| ());
        let id = client.engine.node.node_id.clone();
        client.expect("cluster myid", &format!("$40|{id}"));
        client.expect("cluster slots", &format!("*1|*3|:0|:16383|*4|$9|127.0.0.1|:6379|$40|{id}|*0"));
        let line = format!("{id} 127.0.0.1:6379@0 myself,master - 0 0 1 connected 0-16383\n");
        client.expect("cluster nodes", &format!("${}|{line}", line.len()));
        let shards = client.run("cluster shards");
        assert!(shards.starts_with("*1|*4|$5|slots|*2|:0|:16383|$5|nodes|*1|*14|$2|id|$40|"), "{shards}");
        assert!(client.run("cluster info").contains("cluster_state:ok|cluster_slots_assigned:16384|"));
        client.expect("cluster links", "*0");
        client.expect(&format!("cluster replicas {id}"), "*0");
        client.expect("cluster replicas x", "-ERR Unknown node x");
        client.expect(&format!("cluster count-failure-reports {id}"), ":0");
        client.expect("cluster meet 1.2.3.4 6379", "-ERR unknown subcommand 'meet'. Try CLUSTER HELP.");
        assert!(client.run("info cluster").ends_with("cluster_enabled:1|"));
        assert!(client.run("hello").contains("|$4|mode|$7|cluster|"));
    }

    #[test]
    fn the_endpoint_is_what_is_announced_or_what_was_reached() {
        let mut client = client(|_| ());
        client.session.laddr = "[::1]:7000".into();
        assert!(client.run("cluster slots").contains("|$3|::1|:7000|"));
        client.session.unix_socket = true;
        assert!(client.run("cluster slots").contains("|$0||:6379|"));
        let mut client = self::client(|config| {
            (config.cluster_announce_ip, config.cluster_announce_port) = ("10.1.2.3".into(), 7777);
        });
        assert!(client.run("cluster slots").contains("|$8|10.1.2.3|:7777|"));
        assert!(client.run("cluster nodes").contains(" 10.1.2.3:7777@0 "));
    }

    #[test]
    fn keys_of_a_slot() {
        let mut client = client(|_| ());
        client.expect("cluster keyslot foo", ":12182");
        client.expect("cluster keyslot {foo}bar", ":12182");
        client.expect("cluster countkeysinslot 12182", ":0");
        for n in 0..5 {
            client.expect(&format!("set {{foo}}{n} x"), "+OK");
        }
        client.expect("set other x", "+OK");
        client.expect("cluster countkeysinslot 12182", ":5");
        // In the same partition.
        client.expect("cluster countkeysinslot 12183", ":0");
        assert!(client.run("cluster getkeysinslot 12182 3").starts_with("*3|$6|{foo}"));
        assert!(client.run("cluster getkeysinslot 12182 9").starts_with("*5|"));
        client.expect("cluster getkeysinslot 12182 0", "*0");
        client.expect("pexpire {foo}1 1", ":1");
        client.engine.shard.set_now(crate::command::transcript::NOW_MS + 2);
        client.expect("cluster countkeysinslot 12182", ":4");
        client.expect("cluster countkeysinslot 16384", "-ERR Invalid slot");
        client.expect("cluster countkeysinslot -1", "-ERR Invalid slot");
        client.expect("cluster countkeysinslot x", "-ERR value is not an integer or out of range");
        for bad in ["16384 1", "1 -1"] {
            client.expect(&format!("cluster getkeysinslot {bad}"), "-ERR Invalid slot or number of keys");
        }
    }

    #[test]
    fn modes_of_a_connection() {
        let mut client = client(|_| ());
        client.expect("readonly", "+OK");
        assert!(client.run("client info").contains(" flags=r "));
        client.expect("readwrite", "+OK");
        assert!(client.run("client info").contains(" flags=N "));
        client.expect("readonly", "+OK");
        client.expect("asking", "+OK");
        client.expect("reset", "+RESET");
        assert!(!client.session.readonly);
        client.expect("select 0", "+OK");
        client.expect("select 1", "-ERR SELECT is not allowed in cluster mode");
        client.expect("replicaof 127.0.0.1 1", "-ERR REPLICAOF not allowed in cluster mode.");
        client.expect("failover", "-ERR FAILOVER not allowed in cluster mode.");
    }

    #[test]
    fn keys_of_several_slots_are_refused() {
        let mut config = Config { cluster_enabled: true, ..Config::default() };
        let refused = |config: &Config, line: &str| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            refusal(config, table().resolve(&args).unwrap(), &args).map(|error| error.to_string())
        };
        const CROSSSLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";
        for line in [
            "mget a b",
            "mset a 1 b 2",
            "rename a b",
            "watch a b",
            "blpop a b 0",
            "sinterstore {a} b",
            "ssubscribe a b",
            "zunionstore d 1 a",
            "sort a store b",
            "copy a b",
        ] {
            assert_eq!(refused(&config, line).as_deref(), Some(CROSSSLOT), "{line}");
        }
        for line in [
            "mget {a}1 a",
            "get a",
            "ping",
            "publish a b",
            "subscribe a b",
            "sort a by nosort",
            "sort a get #",
            "sort a by {a}* get {a}*->f get #",
            "sort a by x by nosort",
            "flushall",
        ] {
            assert_eq!(refused(&config, line), None, "{line}");
        }
        for (line, option) in [
            ("sort a by w_*", "BY"),
            ("sort a get w_*", "GET"),
            ("sort_ro a get b", "GET"),
            ("sort a by *{a}", "BY"),
            ("sort a get {b}*", "GET"),
        ] {
            let text = format!(
                "ERR {option} option of SORT denied in cluster mode when keys formed by the pattern may be in \
                                different slots."
            );
            assert_eq!(refused(&config, line), Some(text), "{line}");
        }
        assert_eq!(refused(&config, "swapdb 0 0").as_deref(), Some("ERR SWAPDB is not allowed in cluster mode"));
        config.cluster_allow_local_crossslot = true;
        for line in ["mget a b", "sort a by w_*"] {
            assert_eq!(refused(&config, line), None, "{line}");
        }
    }
}
