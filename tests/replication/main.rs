//! Replication from outside: nodes of their own processes, one of which the others follow, under load, with connections
//! that break and processes that are killed.
//!
//! | module | what it is about |
//! | --- | --- |
//! | `following` | replicas hold the same, show nothing half, and do nothing of their own |
//! | `kills` | nothing acknowledged is lost when the primary is killed |
//! | `breaks` | replicas that stand still, are cut off, or killed in the middle of a copy |
//! | `histories` | what a former primary does with what the others do not have |
//! | `roles` | REPLICAOF and FAILOVER, in and out of season |
//! | `hostile` | bytes that make no sense |

#[path = "../common/mod.rs"]
mod common;

mod breaks;
mod following;
mod histories;
mod hostile;
mod kills;
mod load;
mod nodes;
mod proxy;
mod roles;
