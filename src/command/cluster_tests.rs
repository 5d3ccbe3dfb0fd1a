//! What CLUSTER tells, and what a cluster refuses.

use super::*;
use crate::cluster::{Identity, Roles};
use crate::command::table;
use crate::command::transcript::Client;

fn client(directives: impl FnOnce(&mut Config)) -> Client {
    let mut config = Config { cluster_enabled: true, databases: 1, ..Config::default() };
    directives(&mut config);
    Client::with(config)
}

fn endpoint(n: u16) -> Endpoint {
    Endpoint { id: format!("{n:040x}"), host: format!("10.0.0.{n}"), port: 7000 + n, alive: true, cores: None }
}

/// The leaders of as many partitions as the engine of a test has.
fn spread(leaders: &[Option<u16>]) -> Vec<Roles> {
    let roles = |&leader| vec![Roles { leader, ..Roles::default() }; 256 / leaders.len()];
    leaders.iter().flat_map(roles).collect()
}

/// Three nodes, the second of them this one; nobody leads the last eighth of the partitions.
fn three_nodes() -> View {
    let leaders = [Some(0), Some(0), Some(1), Some(1), Some(1), Some(2), Some(2), None];
    View::new((1..=3).map(endpoint).collect(), 1, spread(&leaders), 9, 1)
}

fn refused(config: &Config, view: &View, line: &str) -> Option<String> {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    refusal(config, view, table().resolve(&args).unwrap(), &args).map(|error| error.to_string())
}

#[test]
fn keys_of_other_nodes_are_elsewhere() {
    let mut config = Config { cluster_enabled: true, ..Config::default() };
    let view = three_nodes();
    // Slots 3300, 7365, 11298, 15495: of nodes 1, 2 and 3, and of nobody.
    let told = ["b", "c", "d", "a"].map(|key| refused(&config, &view, &format!("get {key}")));
    let moved = |slot: u16, node: u16| Some(format!("MOVED {slot} 10.0.0.{node}:{}", 7000 + node));
    let down = Some("CLUSTERDOWN Hash slot not served".to_string());
    let crossed = Some("CROSSSLOT Keys in request don't hash to the same slot".to_string());
    assert_eq!(told, [moved(3300, 1), None, moved(11298, 3), down.clone()]);
    assert_eq!(refused(&config, &view, "mset {b}1 1 {b}2 2"), moved(3300, 1));
    assert_eq!(refused(&config, &view, "ping"), None);
    assert_eq!(refused(&config, &view, "mget c g"), crossed);
    config.cluster_allow_local_crossslot = true;
    // Key g has slot 7233, and f has 3168.
    assert_eq!(refused(&config, &view, "mget c g"), None);
    assert_eq!(refused(&config, &view, "mget b f"), moved(3300, 1));
    assert_eq!(refused(&config, &view, "mget c b"), crossed);
    assert_eq!(refused(&config, &view, "mget c a"), down);
}

#[test]
fn what_is_told_of_several_nodes() {
    let mut client = client(|_| ());
    let mut view = three_nodes();
    client.engine.see(Arc::new(view.clone()));
    let id = |n: u16| format!("{n:040x}");
    let node = |n: u16| format!("*4|$8|10.0.0.{n}|:{}|$40|{}|*0", 7000 + n, id(n));
    client.expect(
        "cluster slots",
        &format!("*3|*3|:0|:4095|{}|*3|:4096|:10239|{}|*3|:10240|:14335|{}", node(1), node(2), node(3)),
    );
    client.expect("cluster myid", &format!("$40|{}", id(2)));
    let text = client.run("cluster nodes");
    let line = format!("{} 10.0.0.2:7002@0 myself,master - 0 0 9 connected 4096-10239\n", id(2));
    assert!(text.contains(&line), "{text}");
    let info = client.run("cluster info");
    assert!(info.contains("cluster_state:fail|cluster_slots_assigned:14336|cluster_slots_ok:14336|"), "{info}");
    assert!(info.contains("cluster_known_nodes:3|cluster_size:3|cluster_current_epoch:9|"), "{info}");
    view = View::new(
        (1..=3).map(|n| Endpoint { alive: n != 3, ..endpoint(n) }).collect(),
        1,
        spread(&[Some(0), Some(1), Some(2), Some(2)]),
        10,
        2,
    );
    client.engine.see(Arc::new(view));
    let info = client.run("cluster info");
    assert!(info.contains("cluster_state:fail|cluster_slots_assigned:16384|cluster_slots_ok:8192|"), "{info}");
    assert!(info.contains("cluster_slots_fail:8192|"), "{info}");
    let text = client.run("cluster nodes");
    assert!(
        text.contains(&format!("{} 10.0.0.3:7003@0 master,fail - 0 0 10 disconnected 8192-16383\n", id(3))),
        "{text}"
    );
    let shards = client.run("cluster shards");
    assert!(shards.starts_with("*3|") && shards.contains("|$6|health|$6|failed|"), "{shards}");
    // Who leads nothing is a master without slots; who has copies is not told.
    let mut roles = spread(&[Some(0), Some(1)]);
    roles.iter_mut().for_each(|roles| roles.followers = [2].into_iter().collect());
    client.engine.see(Arc::new(View::new((1..=3).map(endpoint).collect(), 1, roles, 11, 3)));
    let text = client.run("cluster nodes");
    assert!(text.contains(&format!("{} 10.0.0.3:7003@0 master - 0 0 11 connected\n", id(3))), "{text}");
    client.expect("cluster slots", &format!("*2|*3|:0|:8191|{}|*3|:8192|:16383|{}", node(1), node(2)));
    client.expect(&format!("cluster replicas {}", id(1)), "*0");
    let info = client.run("cluster info");
    assert!(info.contains("cluster_state:ok|") && info.contains("cluster_known_nodes:3|cluster_size:2|"), "{info}");
}

#[test]
fn without_a_cluster_there_is_nothing_to_tell() {
    let mut client = Client::new();
    let lines = "cluster info|cluster slots|cluster shards|cluster nodes|cluster myid|cluster keyslot a|cluster links|\
                 cluster countkeysinslot 1|cluster getkeysinslot 1 1|cluster replicas x|cluster force-promote 1|\
                 cluster force-promote empty 1|readonly|readwrite|asking";
    for line in lines.split('|') {
        client.expect(line, "-ERR This instance has cluster support disabled");
    }
    assert!(client.run("info cluster").ends_with("cluster_enabled:0|"));
}

#[test]
fn a_cluster_of_one() {
    let mut client = client(|_| ());
    let id = Identity(1).to_string();
    client.expect("cluster myid", &format!("$40|{id}"));
    client.expect("cluster myshardid", &format!("$40|{id}"));
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
    client.expect("cluster force-promote empty", "-ERR syntax error");
    client.expect("cluster force-promote now", "-ERR value is not an integer or out of range");
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
    let view = View::alone(endpoint(1), 1024);
    let refused = |config: &Config, line: &str| refused(config, &view, line);
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
