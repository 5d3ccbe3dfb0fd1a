//! What an operator is shown of the cluster: CLUSTER STATUS, as JSON; the admin endpoint has the same.
//!
//! Owned by the control core.

use std::collections::BTreeMap;
use std::rc::Rc;

use openraft_rt::WatchReceiver;
use serde_json::{Value, json};

use super::streams::Streams;
use crate::cluster::NodeId;
use crate::control::Control;
use crate::raft::state::Partition;
use crate::route::PartitionSet;

impl Control {
    /// What this node knows of its cluster.
    pub(crate) fn cluster_status(&self) -> Result<Value, String> {
        let member = self.member().ok_or("this node is in no cluster of several nodes")?;
        let metrics = member.raft.metrics().borrow_watched().clone();
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        let state = member.reader.state();
        let shown = member.shown.borrow().clone();
        let partitions = state.partitions();
        // Of whoever follows this node.
        let (lags, handing_over, (waiting_for_memory, _)) =
            member.streams.borrow().as_ref().map_or((Vec::new(), 0, (0, 0)), |Streams { leader, follower, .. }| {
                (leader.lags(self.steady_ms()), leader.handing_over(), follower.without_memory())
            });
        let governor = member.seat.status(self.now_ms());
        // Only the leader of raft has heard that.
        let speaks = |id: NodeId| {
            let known = governor.as_ref()?.nodes.iter().find(|known| known.node == id)?;
            (known.speaks > 0).then_some(known.speaks)
        };
        let parts = parts(partitions);
        let dead = self.dead_nodes();
        let nodes: Vec<_> = state
            .nodes()
            .iter()
            .map(|node| {
                let (id, profile) = (node.id, &node.profile);
                let part = parts.get(&id).copied().unwrap_or_default();
                let lag = lags.iter().find(|lag| lag.node == id && lag.following + lag.copying > 0);
                json!({
                    "node": id,
                    "id": crate::cluster::Identity(node.identity).to_string(),
                    "host": profile.host,
                    "port": profile.port,
                    "bus_port": profile.bus_port,
                    "rack": profile.rack,
                    "weight": profile.weight,
                    "incarnation": node.incarnation,
                    "raft": if voters.contains(&id) { "voter" } else { "learner" },
                    "leads": part.leads,
                    "holds": part.holds,
                    "in_sync": part.in_sync,
                    "lag_ms": lag.map(|lag| lag.ms),
                    "lag_bytes": lag.map(|lag| lag.bytes),
                    "speaks": speaks(id),
                    "leaving": state.orders().leaves(id),
                    "state": match (dead.contains(&id), state.orders().leaves(id)) {
                        (true, _) => "dead",
                        (false, true) => "leaving",
                        (false, false) => "alive",
                    },
                })
            })
            .collect();
        let few = shown.as_ref().map_or(0, |view| {
            (0..partitions.len() as u16).filter(|&partition| view.roles(partition).few_in_sync).count()
        });
        Ok(json!({
            "name": self.config().cluster_name,
            "me": member.me,
            // Without a lease of its own it does not hear from a majority: whoever leads raft grants itself one, too.
            "raft_leader": metrics.current_leader.filter(|leader| *leader != member.me || self.lease_left_ms() > 0),
            "raft_term": metrics.current_term,
            "raft_applied": member.reader.applied().map(|id| id.index),
            "partitions": partitions.len(),
            "served": partitions.iter().filter(|partition| partition.primary.is_some()).count(),
            "few_in_sync": few,
            "copies": usize::from(self.config().cluster_copies).min(state.nodes().len()),
            "lease_ms": self.lease_left_ms(),
            "handing_over": handing_over,
            "waiting_for_memory": waiting_for_memory,
            "version": state.orders().version(),
            "rebalancing_paused": state.orders().is_paused(),
            "governor": governor.as_ref().map(|governor| json!({
                "promoting": governor.promoting,
                "placing": governor.placing,
                "planning": governor.planning,
                "changing_membership": governor.changing_membership,
                "copies_moving": governor.moving,
                "roles_moving": governor.roles_moving,
                "plan_error": governor.plan_error.as_ref().map(|error| error.to_string()),
            })),
            "nodes": nodes,
            "roles": roles(partitions),
        }))
    }
}

/// Of how many partitions a node has what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    leads: usize,
    holds: usize,
    in_sync: usize,
}

/// Counted in one pass: for each node by itself, a large cluster would hold up the control core.
fn parts(partitions: &[Rc<Partition>]) -> BTreeMap<NodeId, Part> {
    let mut parts: BTreeMap<NodeId, Part> = BTreeMap::new();
    for partition in partitions {
        let Partition { primary, replicas, in_sync, .. } = &**partition;
        primary.iter().for_each(|node| parts.entry(*node).or_default().leads += 1);
        replicas.iter().for_each(|node| parts.entry(*node).or_default().holds += 1);
        in_sync.iter().for_each(|node| parts.entry(*node).or_default().in_sync += 1);
    }
    parts
}

/// Partitions with equal roles are named together, so that a cluster of few nodes needs few words for many of them.
fn roles(partitions: &[Rc<Partition>]) -> Vec<Value> {
    let mut equal: BTreeMap<_, PartitionSet> = BTreeMap::new();
    for (number, partition) in (0..).zip(partitions) {
        let Partition { epoch, primary, replicas, in_sync, .. } = &**partition;
        // None comes first: what nobody leads is what is looked for.
        equal.entry((*primary, replicas, in_sync, *epoch)).or_default().insert(number);
    }
    let show = |((primary, replicas, in_sync, epoch), numbers): (_, PartitionSet)| {
        let (count, partitions) = (numbers.len(), numbers.to_string());
        json!({
            "primary": primary, "replicas": replicas, "in_sync": in_sync, "epoch": epoch,
            "count": count, "partitions": partitions,
        })
    };
    equal.into_iter().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_with_equal_roles_are_named_together() {
        let led_by = |primary, epoch| Partition {
            epoch,
            primary,
            replicas: vec![1, 2],
            in_sync: vec![1],
            ..Partition::default()
        };
        let partitions =
            [led_by(Some(1), 3), led_by(Some(1), 3), led_by(Some(2), 3), led_by(Some(1), 3), led_by(None, 4)]
                .map(Rc::new);
        let group = |primary: Option<u64>, epoch, count, partitions| {
            json!({"primary": primary, "replicas": [1, 2], "in_sync": [1], "epoch": epoch, "count": count,
                "partitions": partitions})
        };
        let groups = [group(None, 4, 1, "4"), group(Some(1), 3, 3, "0-1,3"), group(Some(2), 3, 1, "2")];
        assert_eq!(roles(&partitions), groups);
        assert_eq!(roles(&[]), [Value::Null; 0]);
        let part = |leads, holds, in_sync| Part { leads, holds, in_sync };
        assert_eq!(parts(&partitions), BTreeMap::from([(1, part(3, 5, 5)), (2, part(1, 5, 0))]));
    }
}
