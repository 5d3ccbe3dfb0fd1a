//! What INFO, ROLE and the metrics tell of replication.
//!
//! Owned by the control core.

use super::{Control, Role};
use crate::command::log::{ReplicaNumbers, ReplicationNumbers};

impl Control {
    /// All of it.
    pub(in crate::control) fn replication_numbers(&self) -> ReplicationNumbers {
        let now_ms = self.steady_ms();
        let replication = self.replication.borrow();
        let primary = match &replication.role {
            Role::Leading => None,
            Role::SteppingDown { host, port }
            | Role::Following { host, port }
            | Role::TakingOver { host, port, .. } => Some((host.clone(), *port)),
        };
        let replica = &replication.replica;
        let good_lag_ms = self.config().min_replicas_max_lag_s * 1000;
        let histories = replication.chain.histories();
        let parent = histories.len().checked_sub(2).map(|at| (histories[at].id, histories[at + 1].cut));
        let replicas = replication.primary.lags(now_ms).map(|lag| ReplicaNumbers {
            host: replication.hosts.get(&lag.node).cloned().unwrap_or_default(),
            port: replication.primary.port_of(lag.node).unwrap_or(0),
            in_sync: lag.in_sync,
            streaming: lag.streaming,
            copying: lag.copying,
            received: lag.received,
            applied: lag.applied,
            durable: lag.durable,
            entries: lag.entries,
            bytes: lag.bytes,
            ms: lag.ms,
            silent_ms: lag.silent_ms,
            suspicion: lag.phi,
        });
        ReplicationNumbers {
            primary,
            link_up: replica.is_streaming(),
            connecting: replica.is_connecting(),
            primary_silent_ms: replica.silent_ms(now_ms),
            receiving: replication.receiving.is_some(),
            received: replica.has().received,
            applied: replica.has().applied,
            lag: replica.lag(),
            suspicion: replica.phi(now_ms),
            replicas: replicas.collect(),
            syncs: replication.primary.syncs(),
            in_sync: replication.primary.in_sync() as u64,
            commit: replication.primary.commit(),
            good: replication.primary.good_replicas(now_ms, good_lag_ms) as u64,
            failover: replication.primary.failover_state(),
            parent,
            set_aside: replication.set_aside.clone(),
        }
    }
}
