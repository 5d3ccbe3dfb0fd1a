//! A node is cut off from the others, in both directions or in one, while clients still reach it: it ends its service when
//! its lease is over, whatever is asked for.

use std::time::{Duration, Instant};

use crate::client::{Answer, Router, connect, judge};
use crate::common::Client;
use crate::lan::Direction;
use crate::nodes::{Cluster, LEASE};
use crate::rounds::{Victim, copies, gap, rounds, under_load};

/// How long a node that is cut off is asked for.
const ASKED: Duration = Duration::from_millis(1500);
/// For so long the leader of raft may grant leases, to itself as well, behind the last heartbeat that a quorum has
/// acknowledged: nobody else is elected meanwhile.
const PROMISE: Duration = Duration::from_millis(300);
/// What clocks and packets that were under way may add to a lease.
const MARGIN: Duration = Duration::from_millis(50);
/// Longest wait for an answer of a node that is cut off.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Asks a node whose lease is over, through connections that it had before and new ones. It may refuse, say nothing, or
/// close the connection; how often it has said CLUSTERDOWN.
fn nothing_is_served(cluster: &Cluster, node: usize, key: &str, begin: Instant) -> usize {
    let address = cluster.nodes[node].addr();
    let commands: [&[&str]; 2] = [&["SET", key, "late"], &["GET", key]];
    let mut downs = 0;
    while begin.elapsed() < ASKED {
        for (durability, command) in [("memory", 0), ("memory", 1), ("quorum", 0), ("quorum", 1)] {
            let command = commands[command];
            let reply = connect(address, durability, ANSWER_MAX).and_then(|mut client| client.try_call(command));
            match reply.map(judge) {
                Some(Answer::Done(reply)) => {
                    let after = begin.elapsed();
                    panic!("{durability}: {command:?} is answered {reply:?} {after:?} after the cut")
                }
                Some(Answer::Refused(why)) if why.starts_with("CLUSTERDOWN") => downs += 1,
                _ => {}
            }
        }
    }
    downs
}

/// Cuts a node off for a while.
fn cut(cluster: &mut Cluster, node: usize, direction: Direction) {
    let key = cluster.key_led_by(node, "cut");
    let all = cluster.addresses();
    assert!(matches!(Router::new(&all, "quorum").call(&key, &["SET", &key, "before"], ANSWER_MAX), Answer::Done(_)));
    let mut held = connect(all[node], "memory", ANSWER_MAX).expect("it can be reached");
    cluster.cut(node, direction);
    let begin = Instant::now();
    // Requests that were under way are answered, or not.
    std::thread::sleep(PROMISE + LEASE + MARGIN);
    let reply = held.try_call(&["GET", &key]).map(judge);
    assert!(!matches!(reply, Some(Answer::Done(_))), "GET is answered {reply:?} after the lease");
    let downs = nothing_is_served(cluster, node, &key, begin);
    // One that still hears the others may know who leads now.
    assert!(downs > 0 || direction == Direction::Outgoing, "it has never said CLUSTERDOWN");
    // The others go on.
    let gap = gap(cluster, node, &key, begin);
    println!("the first write after a cut: {} ms at the most", gap.as_millis());
    let reply =
        connect(all[node], "memory", ANSWER_MAX).and_then(|mut client| client.try_call(&["GET", &key])).map(judge);
    assert!(!matches!(reply, Some(Answer::Done(_))), "GET is answered {reply:?} while others lead");
    cluster.heal();
}

fn cuts(direction: Direction, count: u64) {
    rounds(count, |seed, mut random| {
        for (victim, nth) in [(Victim::Primary, 0), (Victim::RaftLeader, 1)] {
            let Some(mut cluster) = Cluster::apart(3, &["--cluster-copies", copies(seed + nth)]) else { return };
            under_load(&format!("{direction:?} cut of {victim:?}"), &mut cluster, "quorum", seed, |cluster, _| {
                let node = victim.choose(cluster, &mut random);
                cut(cluster, node, direction);
            });
        }
    });
}

#[test]
fn a_node_is_cut_off() {
    cuts(Direction::Both, 1);
}

#[test]
fn a_node_hears_nobody() {
    cuts(Direction::Incoming, 1);
}

#[test]
fn nobody_hears_a_node() {
    cuts(Direction::Outgoing, 1);
}

/// Also its clients are gone: nothing but its own clock tells it.
#[test]
fn a_node_vanishes_with_its_network() {
    rounds(1, |seed, mut random| {
        let Some(mut cluster) = Cluster::apart(3, &["--cluster-copies", copies(seed)]) else { return };
        under_load("a network is gone", &mut cluster, "quorum", seed, |cluster, _| {
            let node = Victim::Primary.choose(cluster, &mut random);
            let key = cluster.key_led_by(node, "gone");
            let begin = Instant::now();
            cluster.cut_from(node, Direction::Both, false);
            let gap = gap(cluster, node, &key, begin);
            println!("the first write after a cut: {} ms", gap.as_millis());
            cluster.heal();
        });
    });
}

/// What the other tests rely on.
#[test]
fn packets_vanish_where_they_should() {
    let Some(mut cluster) = Cluster::strangers(2) else { return };
    let [port, other] = [0, 1].map(|node| cluster.nodes[node].port);
    let reached = |cluster: &Cluster| {
        let lan = cluster.lan.as_ref().expect("nodes that are apart");
        let client = Client::try_connect_within(cluster.nodes[0].addr(), Duration::from_secs(1)).is_some();
        [lan.reaches(0, 1, other), lan.reaches(1, 0, port), client]
    };
    assert_eq!(reached(&cluster), [true; 3]);
    for (direction, clients) in [(Direction::Both, false), (Direction::Incoming, true), (Direction::Outgoing, true)] {
        cluster.cut_from(0, direction, clients);
        assert_eq!(reached(&cluster), [false, false, clients], "{direction:?}");
        // Itself it reaches.
        assert!(cluster.lan.as_ref().is_some_and(|lan| lan.reaches(0, 0, port)));
        cluster.heal();
    }
    assert_eq!(reached(&cluster), [true; 3]);
}
