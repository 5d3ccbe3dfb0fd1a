//! `cluster-allow-local-crossslot`: a transaction over several partitions of one node, of which one follower has received
//! more than another when that node dies. Some partitions go to the one, some to the other; together they keep it, or nothing
//! of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use keyloom::resp::read::Value;

use crate::client::{Answer, Router, connect};
use crate::common::ok;
use crate::nodes::Cluster;
use crate::rounds::{Victim, rounds};

const KEYS: usize = 24;
const PATIENCE: Duration = Duration::from_secs(20);

/// Keys in as many slots that a node leads.
fn keys_of(cluster: &Cluster, node: usize) -> Vec<String> {
    (0..KEYS).map(|at| cluster.key_led_by(node, &format!("span{at}"))).collect()
}

/// Writes a number to all keys at once.
fn transaction(keys: &[String], number: u64) -> Vec<String> {
    let pairs = keys.iter().flat_map(|key| [key.clone(), number.to_string()]);
    ["MSET".to_string()].into_iter().chain(pairs).collect()
}

fn read(router: &mut Router, key: &str) -> u64 {
    match router.call(key, &["GET", key], PATIENCE) {
        Answer::Done(Value::Bulk(number)) => String::from_utf8(number).unwrap().parse().unwrap(),
        other => panic!("{key}: {other:?}"),
    }
}

#[test]
fn a_transaction_over_several_partitions_is_kept_whole_or_not_at_all() {
    rounds(2, |seed, mut random| {
        let Some(mut cluster) = Cluster::apart(3, &["--cluster-copies", "2", "--cluster-allow-local-crossslot", "yes"])
        else {
            return;
        };
        let node = Victim::Primary.choose(&cluster, &mut random);
        let leader = cluster.raft_leader().unwrap();
        let deaf = (0..3).find(|other| *other != node && *other != leader).unwrap();
        let (keys, address) = (keys_of(&cluster, node), cluster.nodes[node].addr());
        let kept = 1 + random.below(20) as u64;
        let mut client = connect(address, "quorum", PATIENCE).unwrap();
        for number in 1..=kept {
            assert_eq!(client.call(&transaction(&keys, number)), ok());
        }
        // From here on one follower receives nothing of it, the other one all; nobody was promised that it is kept.
        cluster.deafen(deaf, node);
        let mut client = connect(address, "memory", PATIENCE).unwrap();
        let last = kept + 1 + random.below(50) as u64;
        for number in kept + 1..=last {
            assert_eq!(client.call(&transaction(&keys, number)), ok());
        }
        cluster.kill(node);
        let killed = Instant::now();
        let mut known = cluster.addresses();
        known.remove(node);
        let mut router = Router::new(&known, "quorum");
        let numbers: BTreeSet<u64> = keys.iter().map(|key| read(&mut router, key)).collect();
        let read_ms = killed.elapsed().as_millis();
        let leaders = cluster.slots_of(leader).unwrap();
        let slot = |key: &String| usize::from(keyloom::route::slot_of(key.as_bytes()));
        let led_by: BTreeSet<Option<usize>> = keys.iter().map(|key| leaders[slot(key)]).collect();
        println!("seed {seed}: {numbers:?} of {kept} and {last}, led by {led_by:?}, all read after {read_ms} ms");
        assert_eq!(led_by, BTreeSet::from([Some(leader), Some(deaf)]), "both lead some of it");
        assert_eq!(numbers.len(), 1, "some keys have what others have not");
        let number = *numbers.first().unwrap();
        assert!(number >= kept, "{number} is kept, and {kept} was acknowledged");
        assert!(number < last, "one follower has not received {last}");
        cluster.assert_sound();
    });
}
