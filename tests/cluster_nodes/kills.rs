//! Nodes are killed under load, and come back: nothing that was acknowledged by a quorum is lost, and nothing runs twice. Clients that ask one
//! that has just come back are not misled.

use std::time::Instant;

use keyloom::resp::read::Value;

use crate::common::wait_until;
use crate::nodes::Cluster;
use crate::rounds::{Victim, copies, gap, rounds, under_load};

/// Kills a node, waits until others lead what it led, and starts it again.
fn kill_and_restart(cluster: &mut Cluster, node: usize) {
    let key = cluster.find_key_led_by(node, "gap").unwrap_or_else(|| "gap:0".into());
    let killed = Instant::now();
    cluster.kill(node);
    let gap = gap(cluster, node, &key, killed);
    println!("the first write after a kill: {} ms", gap.as_millis());
    cluster.restart(node);
}

fn kill(victim: Victim) {
    rounds(2, |seed, mut random| {
        let mut cluster = Cluster::local(3, &["--cluster-copies", copies(seed)]);
        under_load(&format!("kill of {victim:?}"), &mut cluster, "quorum", seed, |cluster, _| {
            let node = victim.choose(cluster, &mut random);
            kill_and_restart(cluster, node);
        });
    });
}

#[test]
fn a_primary_is_killed() {
    kill(Victim::Primary);
}

#[test]
fn the_leader_of_raft_is_killed() {
    kill(Victim::RaftLeader);
}

#[test]
fn one_after_the_other_is_killed() {
    rounds(1, |seed, mut random| {
        let mut cluster = Cluster::local(3, &["--cluster-copies", copies(seed)]);
        under_load("kills in turn", &mut cluster, "quorum", seed, |cluster, load| {
            for victim in [Victim::RaftLeader, Victim::Primary, Victim::RaftLeader] {
                let node = victim.choose(cluster, &mut random);
                kill_and_restart(cluster, node);
                cluster.wait_healthy();
                load.wait_progress(cluster);
            }
        });
    });
}

#[test]
fn a_node_ends_in_order() {
    rounds(2, |seed, mut random| {
        let mut cluster = Cluster::local(3, &["--cluster-copies", copies(seed)]);
        under_load("an end in order", &mut cluster, "quorum", seed, |cluster, _| {
            let victim = if random.one_in(2) { Victim::Primary } else { Victim::RaftLeader };
            let node = victim.choose(cluster, &mut random);
            let key = cluster.key_led_by(node, "gap");
            let asked = Instant::now();
            cluster.terminate(node);
            let (ended, gap) = (asked.elapsed(), gap(cluster, node, &key, asked));
            println!("it ends after {} ms, the first write: {} ms", ended.as_millis(), gap.as_millis());
            cluster.restart(node);
        });
    });
}

/// Every copy is on disk when a write is acknowledged, so all of it is there when all nodes come back.
#[test]
fn all_nodes_are_killed_at_once() {
    rounds(2, |seed, mut random| {
        let args = ["--cluster-copies", copies(seed), "--appendonly", "yes", "--appendfsync", "always"];
        let mut cluster = Cluster::local(3, &args);
        under_load("kill of all", &mut cluster, "quorum-disk", seed, |cluster, _| {
            let first = random.below(3);
            let nodes = [first, (first + 1) % 3, (first + 2) % 3];
            nodes.into_iter().for_each(|node| cluster.kill(node));
            nodes.into_iter().rev().for_each(|node| cluster.restart(node));
        });
    });
}

/// A client would take a table without slots for the cluster's, and drop its connections; and one of before it died for who
/// leads now.
#[test]
fn a_node_that_starts_gives_no_table_before_it_has_heard_who_leads() {
    let mut cluster = Cluster::local(3, &["--cluster-copies", "3"]);
    cluster.kill(1);
    cluster.stop(0);
    cluster.stop(2);
    cluster.restart(1);
    for table in ["SLOTS", "SHARDS", "NODES"] {
        let down = Value::Error(b"CLUSTERDOWN The cluster is down".to_vec());
        assert_eq!(cluster.ask(1, &["CLUSTER", table]), Some(down), "{table}");
    }
    cluster.go_on(0);
    cluster.go_on(2);
    // From the first table on all slots are in it.
    wait_until("it gives a table", || cluster.slots_of(1).is_some());
    assert!(cluster.slots_of(1).unwrap().iter().all(Option::is_some));
    cluster.wait_healthy();
}
