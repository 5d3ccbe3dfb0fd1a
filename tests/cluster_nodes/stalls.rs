//! A node stands still for longer than its lease, and goes on without knowing that it did.

use std::time::{Duration, Instant};

use crate::client::{Answer, connect, judge};
use crate::common::{Client, wait_until};
use crate::nodes::{Cluster, LEASE};
use crate::rounds::{Victim, copies, rounds, under_load};

/// Three leases, and a little more.
const STALL: Duration = Duration::from_secs(1);
/// Answers in a row beside a node that stands still.
const BESIDE: usize = 50;
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

/// While the last of three nodes stands still, writes that wait for copies are sent to the first one. True if one client gets
/// [`BESIDE`] answers in a row, and another one, who has asked before it, gets none meanwhile. False: there are no two such
/// clients, or the node has given up waiting.
fn some_are_answered_beside_a_stall(cluster: &Cluster) -> bool {
    let leaders = cluster.slots_of(0).expect("it knows who leads");
    let led = |key: &String| leaders[keyloom::route::slot_of(key.as_bytes()) as usize] == Some(0);
    let keys: Vec<String> = (0..).map(|n| format!("beside:{n}")).filter(led).take(6).collect();
    let connect = |_: &String| connect(cluster.nodes[0].addr(), "quorum", ANSWER_MAX).expect("it can be reached");
    let mut clients: Vec<Client> = keys.iter().map(connect).collect();
    cluster.stop(2);
    for (client, key) in clients.iter_mut().zip(&keys) {
        client.send(&["SET", key, "v"]);
    }
    let is_answered = |client: &mut Client, within: Duration| {
        client.set_timeout(within);
        client.try_read_raw().is_some_and(|reply| reply == b"+OK\r\n")
    };
    let quick = clients.iter_mut().position(|client| is_answered(client, LEASE / 30));
    let goes_on = quick.is_some_and(|quick| {
        (0..BESIDE).all(|_| {
            clients[quick].send(&["SET", &keys[quick], "v"]);
            is_answered(&mut clients[quick], ANSWER_MAX)
        })
    });
    let waits = |client: &mut Client| !is_answered(client, Duration::from_millis(1));
    let one_waits = (0..).zip(&mut clients).any(|(at, client)| Some(at) != quick && waits(client));
    cluster.go_on(2);
    goes_on && one_waits
}

/// Each partition has one follower: the second node, or the third.
#[test]
fn a_slow_follower_holds_up_what_it_follows_and_nothing_else() {
    let cluster = Cluster::local(3, &["--cluster-copies", "2"]);
    wait_until("writes are answered while others wait", || {
        cluster.wait_healthy();
        some_are_answered_beside_a_stall(&cluster)
    });
}
