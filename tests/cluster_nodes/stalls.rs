//! A node stands still for longer than its lease, and goes on without knowing that it did.

use std::time::{Duration, Instant};

use crate::client::{Answer, connect, judge};
use crate::common::{Client, wait_until};
use crate::nodes::{Cluster, LEASE};
use crate::rounds::{Victim, copies, rounds, under_load};

/// Three leases, and a little more.
const STALL: Duration = Duration::from_secs(1);
/// How long a node may take to answer when it goes on.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Sends what a node reads only when it goes on: its lease is over then. None of it may be answered as if it were not.
fn stall(cluster: &mut Cluster, node: usize) {
    let key = cluster.key_led_by(node, "stall");
    let slot = keyloom::route::slot_of(key.as_bytes()) as usize;
    let commands: [&[&str]; 2] = [&["SET", &key, "1"], &["GET", &key]];
    let mut clients: Vec<(&[&str], Client)> = Vec::new();
    for durability in ["memory", "quorum"] {
        for command in commands {
            let client = connect(cluster.nodes[node].addr(), durability, ANSWER_MAX);
            clients.push((command, client.expect("it can be reached")));
        }
    }
    let begin = Instant::now();
    cluster.stop(node);
    std::thread::sleep(LEASE);
    clients.iter_mut().for_each(|(command, client)| client.send(command));
    std::thread::sleep(STALL.saturating_sub(begin.elapsed()));
    // The lease ends at the same time for all of them, but they have to agree on who is next.
    let other = (node + 1) % cluster.nodes.len();
    wait_until("another node leads", || {
        cluster.slots_of(other).is_some_and(|slots| slots[slot].is_some_and(|leader| leader != node))
    });
    cluster.go_on(node);
    for (command, client) in &mut clients {
        let Some(raw) = client.try_read_raw() else { continue };
        let reply = keyloom::resp::read::parse_value(&raw).unwrap().unwrap().0;
        let answer = judge(reply);
        assert!(!matches!(answer, Answer::Done(_)), "{command:?} after the lease: {answer:?}");
    }
}

fn stalls(victim: Victim) {
    rounds(2, |seed, mut random| {
        let mut cluster = Cluster::local(3, &["--cluster-copies", copies(seed)]);
        under_load(&format!("stall of {victim:?}"), &mut cluster, "quorum", seed, |cluster, _| {
            let node = victim.choose(cluster, &mut random);
            stall(cluster, node);
        });
    });
}

#[test]
fn a_primary_stands_still() {
    stalls(Victim::Primary);
}

#[test]
fn the_leader_of_raft_stands_still() {
    stalls(Victim::RaftLeader);
}
