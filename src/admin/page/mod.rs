//! The page that shows a cluster in a browser, and what it is made of.
//!
//! The page is one file without anything from elsewhere, `cluster.html`; it asks again and again for [`numbers`], and for
//! [`ring`] when nodes have come or gone. What the server counts since its start is sent as it is: the page subtracts what it
//! was told before, so nobody has to be remembered here.
//!
//! Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::metrics::NodeFacts;
use crate::cluster::ring::{Ring, VIRTUAL_NODES_PER_WEIGHT, place_of_partition};
use crate::cluster::{NodeId, PARTITIONS_MAX};
use crate::state::KEYLOOM_VERSION;
use crate::stats::{Latency, Snapshot};

/// The page.
pub const HTML: &str = include_str!("cluster.html");

/// Most nodes whose virtual nodes are told, and most units of weight of all of them together: a picture shows no more.
const RING_NODES_MAX: usize = 64;

/// Places are told in this many bits: a circle on a screen has no more dots.
const PLACE_BITS: u32 = 16;

/// Times are told as how many were up to each of these bounds, ns: six in each power of ten, from 100 ns to 1 s, so that a
/// percentile between two bounds is off by less than a quarter.
fn bounds_ns() -> impl Iterator<Item = u64> {
    let decade = |power: u32| [100, 150, 220, 330, 470, 680].map(|step| step * 10u64.pow(power));
    (0..7).flat_map(decade).chain([1_000_000_000])
}

fn times(latency: &Latency) -> Value {
    let up_to: Vec<u64> = bounds_ns().map(|bound| latency.count_up_to(bound)).collect();
    json!({ "count": latency.count(), "up_to": up_to })
}

/// What the page shows: numbers of this node, and what it knows of the cluster, or why it knows nothing.
pub fn numbers(cores: &[Snapshot], facts: &NodeFacts, uptime: Duration, cluster: Result<Value, String>) -> Value {
    let sum = Snapshot::merged(cores);
    let mut commands = Latency::default();
    sum.commands.iter().for_each(|command| commands.merge(&command.latency));
    let oldest = facts.snapshot_ages.iter().max().copied().unwrap_or_default();
    let (cluster, why_alone) = match cluster {
        Ok(cluster) => (cluster, Value::Null),
        Err(why) => (Value::Null, why.into()),
    };
    json!({
        "node": {
            "version": KEYLOOM_VERSION,
            // What is counted is counted up to this moment: with it, two answers are a rate.
            "uptime_ms": uptime.as_millis() as u64,
            "cores": cores.len(),
            // A core that is busy has told its numbers so long ago.
            "oldest_ms": oldest.as_millis() as u64,
            "clients": sum.net.clients,
            "keys": sum.keyspace.iter().map(|db| db.keys).sum::<usize>(),
            "keyspace_bytes": sum.memory,
            "maxmemory_bytes": facts.maxmemory_bytes,
            "resident_bytes": facts.process.rss_bytes,
            "commands": sum.calls(),
            "hops": sum.net.hops_out,
            "expired": sum.counters.expired,
            "evicted": sum.counters.evicted,
            "command_times": times(&commands),
            "hop_times": times(&sum.net.hop_latency),
        },
        "bounds_ns": bounds_ns().collect::<Vec<_>>(),
        "cluster": cluster,
        "why_alone": why_alone,
    })
}

/// Where nodes and partitions stand on the ring, for [`crate::control::Control::cluster_status`]. Of many or heavy nodes a part
/// of their virtual nodes is told: those that a node of less weight would have.
pub fn ring(cluster: &Value) -> Value {
    let node = |node: &Value| Some((node["node"].as_u64()?, node["weight"].as_u64()? as u32));
    let nodes: Vec<(NodeId, u32)> = cluster["nodes"].as_array().into_iter().flatten().filter_map(node).collect();
    let partitions = cluster["partitions"].as_u64().map_or(0, |count| PARTITIONS_MAX.min(count as usize));
    let short = |place: u64| place >> (u64::BITS - PLACE_BITS);
    let weight_max = (RING_NODES_MAX / nodes.len().max(1)).max(1) as u32;
    let told = nodes.iter().take(RING_NODES_MAX).filter(|(_, weight)| *weight > 0).map(|&(id, weight)| {
        let places: Vec<u64> = places(id, weight.min(weight_max)).into_iter().map(short).collect();
        json!({ "node": id, "virtual_nodes": weight as usize * VIRTUAL_NODES_PER_WEIGHT, "places": places })
    });
    json!({
        "size": 1u64 << PLACE_BITS,
        "nodes": told.collect::<Vec<_>>(),
        "partitions": (0..partitions).map(|partition| short(place_of_partition(partition))).collect::<Vec<_>>(),
    })
}

/// All places of one node, ascending.
fn places(id: NodeId, weight: u32) -> Vec<u64> {
    let ring = Ring::new([(id, weight)]);
    let mut places = Vec::new();
    let mut from = 0u64;
    for _ in 0..weight as usize * VIRTUAL_NODES_PER_WEIGHT {
        let place = from.wrapping_add(ring.distance(from, 0));
        places.push(place);
        from = place.wrapping_add(1);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::process::Process;
    use crate::command::log::LogNumbers;

    fn facts() -> NodeFacts {
        NodeFacts {
            process: Process::default(),
            uptime_s: 5,
            maxmemory_bytes: 0,
            maxclients: 10_000,
            log_dropped_lines: 0,
            log: LogNumbers::default(),
            snapshot_ages: vec![Duration::ZERO, Duration::from_millis(1500)],
        }
    }

    #[test]
    fn numbers_of_all_cores_are_added() {
        let mut cores = [Snapshot::default(), Snapshot { core: 1, ..Snapshot::default() }];
        for (core, nanos) in cores.iter_mut().zip([120, 5_000_000]) {
            core.commands.resize_with(2, Default::default);
            core.commands[1].calls = 1;
            core.commands[1].latency.record(nanos);
            core.net.hops_out = 3;
        }
        let shown = numbers(&cores, &facts(), Duration::from_millis(5_250), Err("alone".into()));
        assert_eq!(
            (&shown["node"]["commands"], &shown["node"]["hops"], &shown["node"]["oldest_ms"]),
            (&json!(2), &json!(6), &json!(1500))
        );
        assert_eq!((&shown["cluster"], &shown["why_alone"]), (&Value::Null, &json!("alone")));
        let times = &shown["node"]["command_times"];
        let up_to: Vec<u64> = times["up_to"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).collect();
        assert_eq!((&times["count"], up_to.len()), (&json!(2), shown["bounds_ns"].as_array().unwrap().len()));
        assert_eq!((up_to[0], up_to[1], up_to[up_to.len() - 1]), (0, 1, 2));
        assert!(bounds_ns().is_sorted() && up_to.is_sorted());
    }

    #[test]
    fn the_ring_has_all_virtual_nodes_of_few_and_a_part_of_many() {
        let cluster = |nodes: u64, weight: u64| {
            let nodes: Vec<_> = (1..=nodes).map(|node| json!({ "node": node, "weight": weight })).collect();
            json!({ "nodes": nodes, "partitions": 1024 })
        };
        let few = ring(&cluster(3, 2));
        let nodes = few["nodes"].as_array().unwrap();
        assert_eq!((nodes.len(), few["partitions"].as_array().unwrap().len()), (3, 1024));
        assert!(
            nodes.iter().all(|node| node["virtual_nodes"] == 256 && node["places"].as_array().unwrap().len() == 256)
        );
        let many = ring(&cluster(1_000, 256));
        let nodes = many["nodes"].as_array().unwrap();
        assert_eq!(nodes.len(), RING_NODES_MAX);
        assert!(nodes.iter().all(|node| node["places"].as_array().unwrap().len() == VIRTUAL_NODES_PER_WEIGHT));
        assert_eq!(ring(&Value::Null)["nodes"], json!([]));
    }

    /// Each place is one at which the ring has the node, and all of them are there.
    #[test]
    fn places_are_those_of_the_ring() {
        let (places, ring) = (places(7, 3), Ring::new([(7, 3)]));
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(places.len(), 3 * VIRTUAL_NODES_PER_WEIGHT);
        assert!(places.iter().all(|&place| ring.distance(place, 0) == 0));
    }

    /// A page that loads anything from elsewhere would show it to others, and not work where there is no other net.
    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        assert!(HTML.contains("default-src 'none'") && HTML.contains("connect-src 'self'"));
        for reference in ["http:", "https:", " src=", "@import", "url(", "innerHTML"] {
            // The name of a kind of elements, which nobody fetches.
            let page = HTML.replace("http://www.w3.org/2000/svg", "");
            assert!(!page.contains(reference), "{reference}");
        }
    }
}
