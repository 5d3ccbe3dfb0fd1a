//! A node that has no memory for the copies that it is to take: it takes those that fit, and the others when there is more.

use std::process::Command;
use std::time::Duration;

use keyloom::resp::read::Value;
use keyloom::route::slot_of;

use crate::client::{Answer, Router};
use crate::common::{info, ok, wait_until};
use crate::nodes::Cluster;

const MIB: u64 = 1 << 20;
/// The memory of the node that joins. More than half of it is for what is no data, as the backlog of the log.
const LIMIT_BYTES: u64 = 128 * MIB;
/// Keys, all over the partitions, and those of one partition more; all values together do not fit into that memory, nor does
/// that partition.
const KEYS: usize = 1_000;
const KEYS_OF_ONE: usize = 1_000;
const VALUE_BYTES: usize = 64 << 10;
/// A node takes the copies with the lowest numbers first: this one is among those of which it knows no size.
const LARGE_PARTITION_MAX: u16 = 3;

const PATIENCE: Duration = Duration::from_secs(10);

/// What it may use beyond that for a moment: what was on its way when it gave copies up.
const SLACK_BYTES: u64 = LIMIT_BYTES / 16;
/// Copies that are placed on a node before others are in sync.
const PLACED_MAX: u64 = 64;

fn number(cluster: &Cluster, node: usize, field: &str) -> u64 {
    info(&mut cluster.nodes[node].client(), field)
}

/// Copies that a node is to have, and those that it has in sync.
fn copies(cluster: &Cluster, node: usize) -> [u64; 2] {
    let status = cluster.status_of(0).expect("node 0 knows of its cluster");
    let [_, holds, in_sync] = status.nodes.get(&node).copied().unwrap_or_default();
    [holds, in_sync]
}

fn shown(cluster: &Cluster, node: usize) -> String {
    let address = cluster.nodes[node].addr().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_keyloom")).args(["cluster", "status", &address]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// How often a node has said that copies wait, and that they do no longer.
fn said(cluster: &Cluster, node: usize) -> [usize; 2] {
    let log = cluster.nodes[node].log();
    ["there is no memory for copies", "copies wait for memory no longer"].map(|words| log.matches(words).count())
}

#[test]
fn a_node_takes_no_copies_for_which_it_has_no_memory() {
    let mut cluster = Cluster::local(2, &[]);
    let mut router = Router::new(&cluster.addresses(), "memory");
    let tag = (0..).find(|n| slot_of(format!("{{{n}}}").as_bytes()) / 16 <= LARGE_PARTITION_MAX).unwrap();
    let value = "v".repeat(VALUE_BYTES);
    let names = (0..KEYS).map(|n| format!("key:{n}")).chain((0..KEYS_OF_ONE).map(|n| format!("{{{tag}}}:{n}")));
    for name in names {
        assert_eq!(router.call(&name, &["SET", &name, &value], PATIENCE), Answer::Done(ok()));
    }
    // What copies drive out would be evicted.
    let limit = LIMIT_BYTES.to_string();
    let node = cluster.join(&["--maxmemory", &limit, "--maxmemory-policy", "allkeys-lru"]);
    let mut most_bytes = 0;
    wait_until("it has no memory for more copies", || {
        most_bytes = most_bytes.max(number(&cluster, node, "used_memory"));
        let [holds, in_sync] = copies(&cluster, node);
        let waiting = number(&cluster, node, "cluster_copies_waiting_for_memory");
        in_sync > 0 && [waiting, holds - in_sync] == [PLACED_MAX; 2]
    });
    // It serves what it leads, and evicts nothing.
    wait_until("it leads something", || cluster.find_key_led_by(node, "led").is_some());
    let key = cluster.key_led_by(node, "led");
    assert_eq!(cluster.nodes[node].client().call(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]), ok());
    assert_eq!(router.call(&key, &["SET", &key, &value], PATIENCE), Answer::Done(ok()));
    most_bytes = most_bytes.max(number(&cluster, node, "used_memory_peak"));
    let given_up = number(&cluster, node, "cluster_copies_given_up_for_memory");
    println!("{} MiB at most, {given_up} copies given up, {:?}", most_bytes / MIB, said(&cluster, node));
    assert!(most_bytes <= LIMIT_BYTES + SLACK_BYTES, "{most_bytes}");
    assert!(given_up > 0, "the large partition was asked for");
    assert_eq!(number(&cluster, node, "evicted_keys"), 0);
    let shown = shown(&cluster, node);
    assert!(shown.contains(&format!("\nnode {} has no memory for ", node + 1)), "{shown}");
    let [waited, resumed] = said(&cluster, node);
    assert_eq!(waited, resumed + 1);
    // A busy machine may have one of them wait for a lease.
    wait_until("the others have all that they had", || [0, 1].map(|other| copies(&cluster, other)) == [[1024; 2]; 2]);
    // There is more memory.
    assert_eq!(cluster.nodes[node].client().call(&["CONFIG", "SET", "maxmemory", "1gb"]), ok());
    cluster.wait_healthy();
    assert_eq!(copies(&cluster, node), [1024; 2]);
    assert_eq!(number(&cluster, node, "cluster_copies_waiting_for_memory"), 0);
    let [waited, resumed] = said(&cluster, node);
    assert_eq!(waited, resumed);
    let keys = |node: usize| match cluster.ask(node, &["DBSIZE"]) {
        Some(Value::Int(keys)) => keys as usize,
        other => panic!("{other:?}"),
    };
    assert_eq!((0..3).map(keys).sum::<usize>(), KEYS + KEYS_OF_ONE + 1);
    cluster.assert_sound();
}

/// As long as there is little data, a limit is no obstacle: not where a cluster begins, nor for a node that has forgotten everything.
#[test]
fn a_limit_holds_up_nothing_that_fits() {
    let limit = LIMIT_BYTES.to_string();
    let mut cluster = Cluster::local(3, &["--maxmemory", &limit]);
    let key = cluster.key_led_by(0, "kept");
    let mut router = Router::new(&cluster.addresses(), "quorum");
    assert_eq!(router.call(&key, &["SET", &key, "value"], PATIENCE), Answer::Done(ok()));
    cluster.kill(0);
    cluster.restart(0);
    cluster.wait_healthy();
    let mut router = Router::new(&cluster.addresses(), "quorum");
    assert_eq!(router.call(&key, &["GET", &key], PATIENCE), Answer::Done(Value::Bulk(b"value".to_vec())));
    for node in 0..3 {
        assert_eq!(number(&cluster, node, "cluster_copies_waiting_for_memory"), 0);
        assert_eq!(said(&cluster, node), [0, 0]);
    }
    cluster.assert_sound();
}
