//! A cluster under load, something that befalls it, and what is checked when that is over.

use std::time::{Duration, Instant};

use keyloom::resp::read::Value;

use crate::client::{Answer, Router};
use crate::common::{Random, seed, wait_until};
use crate::load::{Counts, Load};
use crate::nodes::Cluster;

/// Runs something with one seed after the other: so often, or as `KEYLOOM_CLUSTER_ROUNDS` says.
pub fn rounds(count: u64, mut one: impl FnMut(u64, Random)) {
    let count = std::env::var("KEYLOOM_CLUSTER_ROUNDS").map_or(count, |text| text.parse().expect("a number"));
    for seed in seed()..seed() + count {
        one(seed, Random::new(seed));
    }
}

/// As [`rounds`], for what no client is to notice. Only a machine that stands still for as long as a lease lasts may take one from a
/// node: then it is tried again; also if clients were told to ask again, as a node that is gone by the end may have had none.
pub fn no_request_fails(count: u64, mut one: impl FnMut(u64, &mut Random) -> Counts) {
    const TRIES: usize = 3;
    rounds(count, |seed, _| {
        for tried in 1..=TRIES {
            let counts = one(seed, &mut Random::new(seed));
            if counts.all_were_served() {
                return;
            }
            let none_failed = counts.refused == 0 && counts.unknown == 0;
            let again = (counts.leases_lapsed > 0 || none_failed) && tried < TRIES;
            assert!(again, "KEYLOOM_SEED={seed}: requests failed: {counts:#?}");
        }
    });
}

/// How often nodes have had no lease for a while, since they were started.
fn leases_lapsed(cluster: &Cluster) -> u64 {
    let of = |node: usize| {
        let Some(Value::Bulk(info)) = cluster.ask(node, &["INFO", "cluster"]) else { return 0 };
        let info = String::from_utf8(info).unwrap();
        let field = info.lines().find_map(|line| line.strip_prefix("cluster_leases_lapsed:"));
        field.unwrap_or_else(|| panic!("no such field in {info}")).parse::<u64>().unwrap()
    };
    (0..cluster.nodes.len()).map(of).sum()
}

/// Copies of each partition: rounds take turns.
pub fn copies(seed: u64) -> &'static str {
    if seed % 2 == 1 { "3" } else { "2" }
}

/// Whom something befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Leads partitions, but not raft.
    Primary,
    /// Leads raft, and partitions as all nodes do.
    RaftLeader,
}

impl Victim {
    pub fn choose(self, cluster: &Cluster, random: &mut Random) -> usize {
        let mut leader = None;
        wait_until("somebody leads raft", || {
            leader = cluster.raft_leader();
            leader.is_some()
        });
        let leader = leader.unwrap();
        match self {
            Victim::RaftLeader => leader,
            Victim::Primary => (leader + 1 + random.below(cluster.nodes.len() - 1)) % cluster.nodes.len(),
        }
    }
}

/// Lets something befall a cluster under load. Afterwards it has to be healthy, all keys can be written, and everything
/// that clients were told is true. What became of requests.
pub fn under_load(
    what: &str,
    cluster: &mut Cluster,
    durability: &'static str,
    seed: u64,
    befalls: impl FnOnce(&mut Cluster, &Load),
) -> Counts {
    let load = Load::start(cluster, durability, seed);
    load.wait_progress(cluster);
    befalls(cluster, &load);
    load.wait_progress(cluster);
    let healthy = cluster.wait_healthy();
    let mut counts = load.stop();
    counts.leases_lapsed = leases_lapsed(cluster);
    for node in &mut cluster.nodes {
        assert!(node.is_running(), "a node has ended");
    }
    cluster.assert_sound();
    let served = cluster.assert_served_apart();
    println!("{what}, seed {seed}: {counts:?}, {served:?}, healthy {} ms later", healthy.as_millis());
    counts
}

/// Until somebody writes a key that a node leads which is gone since then.
pub fn gap(cluster: &Cluster, gone: usize, key: &str, since: Instant) -> Duration {
    const GAP_MAX: Duration = Duration::from_secs(20);
    /// After so long it is looked whether the nodes are sound.
    const LOOK: Duration = Duration::from_secs(1);
    let mut known = cluster.addresses();
    known.remove(gone);
    let mut router = Router::new(&known, "memory");
    loop {
        // One of which nobody knows may be sent again: it is always the same.
        match router.call(key, &["SET", key, "1"], LOOK) {
            Answer::Done(_) => return since.elapsed(),
            answer => assert!(since.elapsed() < GAP_MAX, "nobody leads {key} after {GAP_MAX:?}: {answer:?}"),
        }
        cluster.assert_sound();
    }
}
