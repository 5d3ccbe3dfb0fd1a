//! What an operator is shown of the cluster: CLUSTER STATUS, as JSON.
//!
//! Owned by the control core.

use openraft_rt::WatchReceiver;
use serde_json::json;

use crate::control::Control;

impl Control {
    /// What this node knows of its cluster.
    pub(in crate::control) fn cluster_status(&self) -> Result<String, String> {
        let member = self.member().ok_or("this node is in no cluster of several nodes")?;
        let metrics = member.raft.metrics().borrow_watched().clone();
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        let state = member.reader.state();
        let shown = member.shown.borrow().clone();
        let partitions = state.partitions();
        // Of whoever follows this node.
        let (lags, handing_over) =
            member.streams.borrow().as_ref().map_or((Vec::new(), 0), |streams| {
                (streams.leader.lags(self.steady_ms()), streams.leader.handing_over())
            });
        let governor = member.seat.status(self.now_ms());
        let count = |of: &dyn Fn(&crate::raft::state::Partition) -> bool| partitions.iter().filter(|p| of(p)).count();
        let nodes: Vec<_> = state
            .nodes()
            .iter()
            .map(|node| {
                let (id, profile) = (node.id, &node.profile);
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
                    "leads": count(&|partition| partition.primary == Some(id)),
                    "holds": count(&|partition| partition.replicas.contains(&id)),
                    "in_sync": count(&|partition| partition.in_sync.contains(&id)),
                    "lag_ms": lag.map(|lag| lag.ms),
                    "lag_bytes": lag.map(|lag| lag.bytes),
                    "state": if self.is_dead(id) { "dead" } else { "alive" },
                })
            })
            .collect();
        let few = shown.as_ref().map_or(0, |view| {
            (0..partitions.len() as u16).filter(|&partition| view.roles(partition).few_in_sync).count()
        });
        let status = json!({
            "me": member.me,
            "raft_leader": metrics.current_leader,
            "raft_term": metrics.current_term,
            "raft_applied": member.reader.applied().map(|id| id.index),
            "partitions": partitions.len(),
            "served": count(&|partition| partition.primary.is_some()),
            "few_in_sync": few,
            "copies": usize::from(self.config().cluster_copies).min(state.nodes().len()),
            "lease_ms": self.lease_left_ms(),
            "handing_over": handing_over,
            "governor": governor.map(|governor| json!({
                "promoting": governor.promoting,
                "placing": governor.placing,
                "planning": governor.planning,
                "changing_membership": governor.changing_membership,
                "copies_moving": governor.moving,
                "roles_moving": governor.roles_moving,
                "plan_error": governor.plan_error.map(|error| error.to_string()),
            })),
            "nodes": nodes,
        });
        Ok(status.to_string())
    }
}
