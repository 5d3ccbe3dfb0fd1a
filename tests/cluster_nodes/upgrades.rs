//! Nodes of two builds are in one cluster while it is upgraded, one node after the other and under load: each understands what
//! the other says, and what came with the newer one can be ordered once all nodes are of it.
//!
//! The older build is this one, told to speak a version before its own (`cluster-version`), which is as old as the program was
//! then: its forms are compared byte by byte beside the code. With `KEYLOOM_BEFORE` it is a binary that was built from an earlier
//! revision.

use keyloom::resp::read::Value;

use crate::common::{ok, wait_until};
use crate::nodes::{Cluster, HEALTHY_MAX, OLDER};
use crate::rounds::{rounds, under_load};

/// The version of this build.
const NEWEST: u64 = keyloom::raft::stored::VERSION as u64;

/// Three nodes of an older build, of one version before this one or another.
fn older(seed: u64) -> Cluster {
    let version = (2 + seed % (NEWEST - 2)).to_string();
    match std::env::var("KEYLOOM_BEFORE") {
        Ok(program) => Cluster::of_build(&program, 3, &["--cluster-copies", "3"]),
        Err(_) => Cluster::local_with(3, &["--cluster-copies", "3"], &["--cluster-version", &version]),
    }
}

fn version(cluster: &Cluster, node: usize) -> Option<u64> {
    let Some(Value::Bulk(text)) = cluster.ask(node, &["CLUSTER", "STATUS"]) else { return None };
    serde_json::from_slice::<serde_json::Value>(&text).ok()?["version"].as_u64()
}

#[test]
fn nodes_are_upgraded_one_after_the_other_under_load() {
    rounds(2, |seed, mut random| {
        let mut cluster = older(seed);
        let before = version(&cluster, 0).expect("it says its version");
        assert!(before < NEWEST, "the other build is no older one");
        under_load("an upgrade", &mut cluster, "quorum", seed, |cluster, load| {
            let first = random.below(3);
            for node in [first, (first + 1) % 3, (first + 2) % 3] {
                cluster.terminate(node);
                cluster.restart(node);
                cluster.wait_healthy();
                load.wait_progress(cluster);
                if node != (first + 2) % 3 {
                    assert_eq!(version(cluster, node), Some(before));
                }
                if node == first && before == 2 {
                    let text = "ERR the cluster uses version 2 of its formats, until all nodes are of a newer build";
                    assert_eq!(cluster.ask(node, &["CLUSTER", "LEAVE"]), Some(Value::Error(text.into())));
                }
            }
            for node in 0..3 {
                wait_until("the cluster uses the newer version", || version(cluster, node) == Some(NEWEST));
            }
            assert_eq!(cluster.ask(first, &["CLUSTER", "REBALANCE", "PAUSE"]), Some(ok()));
            assert_eq!(cluster.ask(first, &["CLUSTER", "REBALANCE"]), Some(ok()));
        });
        // There is no way back.
        cluster.kill(0);
        let args = cluster.args_of(0, &OLDER);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_eq!(cluster.nodes[0].start_again_until_it_ends(&args, HEALTHY_MAX), Some(0));
        let log = cluster.nodes[0].log();
        assert!(log.contains("the cluster uses a newer version than 'cluster-version' allows"), "{log}");
        cluster.restart(0);
        cluster.wait_healthy();
        // And nobody of the older build is let in.
        cluster.run_one_more(&OLDER);
        let [host, bus] = [cluster.nodes[1].addr().ip().to_string(), cluster.buses[1].to_string()];
        let Some(Value::Error(text)) = cluster.ask(3, &["CLUSTER", "JOIN", &host, &bus]) else {
            panic!("it is let in")
        };
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("version"), "{text}");
    });
}
