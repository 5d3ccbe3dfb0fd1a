//! Roles move while all nodes live, and while one of them does not any more: nothing that was acknowledged is lost, nothing
//! runs twice, and in the end all nodes lead their part again.

use std::time::{Duration, Instant};

use keyloom::raft::successors::NAMING_VERSION;
use keyloom::resp::read::Value;
use keyloom::streams::leader::handover::Stage;

use crate::common::{Random, ok, wait_until};
use crate::load::Load;
use crate::nodes::{Cluster, process_state};
use crate::rounds::{copies, no_request_fails, rounds, under_load};

/// How many partitions a node leads, as it says itself.
fn led(cluster: &Cluster, node: usize) -> Option<u64> {
    Some(cluster.status_of(node)?.nodes[&node][0])
}

fn wait_even(cluster: &Cluster) {
    wait_until("all nodes lead their part", || {
        let led: Vec<Option<u64>> = (0..cluster.nodes.len()).map(|node| led(cluster, node)).collect();
        let (least, most) = (led.iter().min().copied().flatten(), led.iter().max().copied().flatten());
        least.zip(most).is_some_and(|(least, most)| most - least <= 1)
    });
}

/// Lets a node take over all that it could lead. Roles may be on their way elsewhere at that time, and a slow machine may lose
/// some.
pub fn take_over(cluster: &Cluster, node: usize) {
    wait_until("it leads everything", || {
        let Some(status) = cluster.status_of(node) else { return false };
        if status.nodes[&node][0] == status.partitions {
            return true;
        }
        cluster.ask(node, &["CLUSTER", "FAILOVER"]);
        std::thread::sleep(Duration::from_millis(100));
        false
    });
}

#[test]
fn roles_go_where_an_operator_wants_them() {
    no_request_fails(1, |seed, random| {
        let mut cluster = Cluster::local(3, &["--cluster-copies", "3"]);
        under_load("roles move", &mut cluster, "quorum", seed, |cluster, load| {
            let mut node = 0;
            for _ in 0..4 {
                node = (node + 1 + random.below(2)) % 3;
                let said = cluster.operate(&["failover", &cluster.addresses()[node].to_string()]);
                let all = "leads 1024 of 1024 partitions that it has in sync";
                assert!(said.trim_end().ends_with(all), "{said}");
                load.wait_progress(cluster);
            }
        })
    });
}

#[test]
fn a_node_that_has_no_copy_of_anything_takes_nothing() {
    let cluster = Cluster::local(2, &["--cluster-copies", "1"]);
    for node in 0..2 {
        let before = led(&cluster, node);
        for how in [&["CLUSTER", "FAILOVER"][..], &["CLUSTER", "FAILOVER", "force"]] {
            let error = Value::Error(b"ERR You should send CLUSTER FAILOVER to a replica".to_vec());
            assert_eq!(cluster.ask(node, how), Some(error));
        }
        assert_eq!(led(&cluster, node), before);
        let Some(Value::Error(text)) = cluster.ask(node, &["CLUSTER", "FAILOVER", "TAKEOVER"]) else { panic!() };
        assert!(text.starts_with(b"ERR TAKEOVER is not possible"));
        assert_eq!(
            cluster.ask(node, &["CLUSTER", "FAILOVER", "NOW"]),
            Some(Value::Error(b"ERR syntax error".to_vec()))
        );
    }
}

/// A node that was killed leads nothing when it comes back; then it is given its part.
#[test]
fn a_node_that_comes_back_leads_its_part_again() {
    let mut cluster = Cluster::local(3, &["--cluster-copies", "3"]);
    let key = cluster.key_led_by(1, "back");
    assert_eq!(cluster.nodes[1].client().call(&["SET", &key, "value"]), ok());
    cluster.kill(1);
    wait_until("others lead everything", || cluster.slots_of(0).is_some_and(|slots| !slots.contains(&Some(1))));
    cluster.restart(1);
    cluster.wait_healthy();
    wait_even(&cluster);
    let key_again = cluster.key_led_by(1, "again");
    assert_eq!(cluster.nodes[1].client().call(&["SET", &key_again, "value"]), ok());
}

/// At each step of a handover: the node that has the role is killed, and the one that is to have it.
#[test]
fn a_node_is_killed_at_each_step_of_a_handover() {
    killed_at(&[Stage::Naming, Stage::Closing, Stage::Closed, Stage::Sealed, Stage::Released], &[]);
}

/// Likewise where raft decides at the end.
#[test]
fn a_node_is_killed_while_raft_decides_who_leads() {
    killed_at(&[Stage::Proposed], &["--cluster-version", &(NAMING_VERSION - 1).to_string()]);
}

fn killed_at(stages: &[Stage], args: &[&str]) {
    rounds(1, |seed, mut random| {
        let args = [&["--cluster-copies", "3", "--enable-debug-command", "local"], args].concat();
        let mut cluster = Cluster::local(3, &args);
        // Otherwise roles would move at other times, too.
        assert_eq!(cluster.ask(0, &["CLUSTER", "REBALANCE", "PAUSE"]), Some(ok()));
        under_load("kills at steps of handovers", &mut cluster, "quorum", seed, |cluster, load| {
            for &stage in stages {
                // Only the first node has several data cores: others need not wait until all of them have seen a gate.
                let from = if stage == Stage::Closing { 0 } else { random.below(3) };
                let to = (from + 1 + random.below(2)) % 3;
                for victim in [from, to] {
                    hand_over_until(cluster, from, to, stage);
                    cluster.kill(victim);
                    if victim != from {
                        cluster.go_on(from);
                    }
                    bring_back(cluster, load, victim);
                }
            }
        });
    });
}

/// Returns when the node stands still that hands roles to another one, at this step.
fn hand_over_until(cluster: &Cluster, from: usize, to: usize, stage: Stage) {
    /// A handover of all roles takes less.
    const HANDOVER_MAX: Duration = Duration::from_millis(300);
    assert_eq!(cluster.ask(from, &["DEBUG", "STOP-IN-HANDOVER", stage.name()]), Some(ok()));
    let stands_still = || process_state(cluster.nodes[from].pid()) == Some('T');
    wait_until(stage.name(), || {
        if stands_still() {
            return true;
        }
        take_over(cluster, from);
        cluster.ask(to, &["CLUSTER", "FAILOVER"]);
        let end = Instant::now() + HANDOVER_MAX;
        while Instant::now() < end && !stands_still() {
            std::thread::sleep(Duration::from_micros(200));
        }
        stands_still()
    });
}

/// At whatever moment one of the nodes is killed.
#[test]
fn a_node_is_killed_while_its_role_moves() {
    /// A handover of all roles takes about that long.
    const HANDOVER_US: usize = 30_000;
    rounds(1, |seed, mut random| {
        let mut cluster = Cluster::local(3, &["--cluster-copies", copies(seed)]);
        under_load("a kill in a handover", &mut cluster, "quorum", seed, |cluster, load| {
            for _ in 0..2 {
                kill_while_roles_move(cluster, load, &mut random, HANDOVER_US);
            }
        });
        wait_even(&cluster);
    });
}

fn kill_while_roles_move(cluster: &mut Cluster, load: &Load, random: &mut Random, within_us: usize) {
    let to = random.below(3);
    let victim = if random.one_in(2) { to } else { (to + 1 + random.below(2)) % 3 };
    assert_eq!(cluster.ask(to, &["CLUSTER", "FAILOVER"]), Some(ok()));
    std::thread::sleep(Duration::from_micros(random.below(within_us) as u64));
    cluster.kill(victim);
    bring_back(cluster, load, victim);
}

fn bring_back(cluster: &mut Cluster, load: &Load, victim: usize) {
    wait_until("others lead everything", || {
        let slots = cluster.slots_of((victim + 1) % 3);
        slots.is_some_and(|slots| slots.iter().all(|leader| leader.is_some_and(|leader| leader != victim)))
    });
    cluster.restart(victim);
    cluster.wait_healthy();
    load.wait_progress(cluster);
}

/// One node after the other is ended and started again: each has nothing left that others would miss when it ends.
#[test]
fn all_nodes_are_restarted_one_after_the_other() {
    no_request_fails(1, |seed, random| {
        let mut cluster = Cluster::local(3, &["--cluster-copies", "3"]);
        let counts = under_load("a rolling restart", &mut cluster, "quorum", seed, |cluster, load| {
            let first = random.below(3);
            for node in [first, (first + 1) % 3, (first + 2) % 3] {
                cluster.terminate(node);
                for other in (0..3).filter(|other| *other != node) {
                    wait_until("what it led was given away before it ended", || {
                        cluster.slots_of(other).is_some_and(|slots| !slots.contains(&Some(node)))
                    });
                }
                cluster.restart(node);
                cluster.wait_healthy();
                load.wait_progress(cluster);
            }
        });
        wait_even(&cluster);
        counts
    });
}
