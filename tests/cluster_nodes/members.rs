//! Nodes join and leave a cluster that is under load, and some of them die meanwhile; and rebalancing is paused.

use std::time::Duration;

use keyloom::resp::read::Value;

use crate::common::{Random, ok, wait_until};
use crate::load::Counts;
use crate::nodes::{Cluster, HEALTHY_MAX};
use crate::rounds::{copies, no_request_fails, rounds, under_load};

/// Copies that a node has, as another one says.
fn holds(cluster: &Cluster, says: usize, node: usize) -> Option<u64> {
    Some(cluster.status_of(says)?.nodes.get(&node)?[1])
}

fn order(cluster: &Cluster, node: usize, command: &[&str]) {
    assert_eq!(cluster.ask(node, &[&["CLUSTER"], command].concat()), Some(ok()), "{command:?}");
}

/// A cluster that shrinks to one node: nobody has to wait for a second copy that is not to be there any more.
#[test]
fn of_two_nodes_one_leaves() {
    rounds(1, |seed, mut random| {
        let mut cluster = Cluster::local(2, &[]);
        under_load("one of two leaves", &mut cluster, "quorum", seed, |cluster, load| {
            let leaving = random.below(2);
            cluster.operate(&["leave", &cluster.addresses()[leaving].to_string()]);
            cluster.left(leaving);
            cluster.wait_healthy();
            load.wait_progress(cluster);
        });
    });
}

/// The number of a node in its cluster.
fn number(cluster: &Cluster, node: usize) -> u64 {
    let Some(Value::Bulk(text)) = cluster.ask(node, &["CLUSTER", "STATUS"]) else { panic!("node {node} says nothing") };
    serde_json::from_slice::<serde_json::Value>(&text).unwrap()["me"].as_u64().unwrap()
}

#[test]
fn nodes_join_and_leave_under_load() {
    no_request_fails(1, join_and_leave);
}

fn join_and_leave(seed: u64, random: &mut Random) -> Counts {
    let mut cluster = Cluster::local(3, &["--cluster-copies", copies(seed)]);
    under_load("a join and two who leave", &mut cluster, "quorum", seed, |cluster, load| {
        cluster.join(&[]);
        cluster.wait_healthy();
        load.wait_progress(cluster);
        // Whoever leads raft lets somebody else lead it first.
        let leader = cluster.raft_leader().unwrap_or(0);
        for leaving in [leader, random.below(3)] {
            let said = cluster.operate(&["leave", &cluster.addresses()[leaving].to_string()]);
            assert!(said.trim_end().ends_with("has left"), "{said}");
            cluster.left(leaving);
            cluster.wait_healthy();
            load.wait_progress(cluster);
        }
    })
}

/// Whoever leaves is killed at whatever step it is, or another one; when it is back, it goes on leaving.
#[test]
fn a_node_dies_while_one_leaves() {
    /// A node needs about that long to leave.
    const LEAVING_US: usize = 800_000;
    rounds(1, |seed, mut random| {
        let mut cluster = Cluster::local(4, &["--cluster-copies", copies(seed)]);
        under_load("a kill while a node leaves", &mut cluster, "quorum", seed, |cluster, load| {
            let leaving = random.below(4);
            order(cluster, leaving, &["LEAVE"]);
            let victim = if random.one_in(2) { leaving } else { random.below(4) };
            kill_within(cluster, &mut random, victim, LEAVING_US);
            if victim == leaving {
                // It goes on leaving, or has left: either way it ends.
                let args = cluster.args_of(leaving, &[]);
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                assert_eq!(cluster.nodes[leaving].start_again_until_it_ends(&args, HEALTHY_MAX), Some(0));
            } else {
                cluster.restart(victim);
            }
            cluster.left(leaving);
            cluster.wait_healthy();
            load.wait_progress(cluster);
        });
    });
}

fn kill_within(cluster: &mut Cluster, random: &mut Random, victim: usize, within_us: usize) {
    std::thread::sleep(Duration::from_micros(random.below(within_us) as u64));
    cluster.nodes[victim].kill();
}

#[test]
fn a_node_that_is_lost_leaves_without_being_asked_and_cannot_come_back() {
    let mut cluster = Cluster::local(4, &["--cluster-copies", "2", "--write-durability", "quorum"]);
    let key = cluster.key_led_by(2, "lost");
    assert_eq!(cluster.nodes[2].client().call(&["SET", &key, "value"]), ok());
    let (lost, args) = (number(&cluster, 2).to_string(), cluster.args_of(2, &[]));
    cluster.kill(2);
    let said = cluster.operate(&["leave", &cluster.addresses()[0].to_string(), "--node", &lost]);
    assert!(said.ends_with(&format!("node {lost} has left\n")), "{said}");
    let mut gone = cluster.forget(2);
    cluster.wait_healthy();
    let value = Value::Bulk(b"value".to_vec());
    let kept = (0..3).any(|node| cluster.nodes[node].client().call(&["GET", &key]) == value);
    assert!(kept, "what it has led is led by another one");
    // It has its files, and nobody knows it any more.
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_eq!(gone.start_again_until_it_ends(&args, HEALTHY_MAX), Some(0));
    assert!(gone.log().contains("this node is no member of its cluster any more"), "{}", gone.log());
}

#[test]
fn what_cannot_leave_stays() {
    let cluster = Cluster::local(2, &["--cluster-copies", "2"]);
    let error = |text: &str| Some(Value::Error(text.into()));
    let ask = |command: &[&str]| cluster.ask(0, &[&["CLUSTER"], command].concat());
    wait_until("orders are understood", || ask(&["STAY"]) == Some(ok()));
    assert_eq!(ask(&["LEAVE", "77"]), error("ERR node 77 is not known"));
    assert_eq!(ask(&["LEAVE", "none"]), error("ERR value is not an integer or out of range"));
    assert_eq!(ask(&["LEAVE", "1", "2"]), error("ERR syntax error"));
    assert_eq!(ask(&["REBALANCE", "now"]), error("ERR syntax error"));
    // Nothing moves: so it is told to leave, and has not left when it is told to stay.
    order(&cluster, 0, &["REBALANCE", "PAUSE"]);
    let other = number(&cluster, 1);
    let address = cluster.addresses()[0].to_string();
    let tried = cluster.tries_to_operate(&["leave", &address, "--node", &other.to_string(), "--timeout", "1"]);
    assert_eq!(tried, Err(format!("keyloom: node {other} has not left in time; it goes on leaving\n")));
    let me = number(&cluster, 0).to_string();
    assert_eq!(ask(&["LEAVE"]), error(&format!("ERR no other node would be left beside node {me}")));
    let table = cluster.operate(&["status", &cluster.addresses()[1].to_string()]);
    assert!(table.contains("leaving") && table.contains("rebalancing is paused"), "{table}");
    cluster.operate(&["leave", &cluster.addresses()[0].to_string(), "--node", &other.to_string(), "--stay"]);
    cluster.operate(&["rebalance", &cluster.addresses()[0].to_string()]);
    cluster.wait_healthy();
}

#[test]
fn nothing_moves_while_rebalancing_is_paused() {
    let mut cluster = Cluster::local(2, &["--cluster-copies", "1"]);
    wait_until("orders are understood", || cluster.ask(0, &["CLUSTER", "REBALANCE", "PAUSE"]) == Some(ok()));
    cluster.join(&[]);
    wait_until("the new node is known to all", || (0..3).all(|node| holds(&cluster, node, 2).is_some()));
    // The leader of raft looks fifty times a second, and a copy without keys takes no longer.
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(holds(&cluster, 0, 2), Some(0));
    }
    order(&cluster, 2, &["REBALANCE"]);
    wait_until("it has its part", || holds(&cluster, 0, 2).is_some_and(|holds| holds > 300));
    cluster.wait_healthy();
}
