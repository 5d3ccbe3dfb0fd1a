//! One node from outside, as its users see it, and what of the library is tested through its public interface. One program,
//! so that the library is linked and `common` compiled once.
//!
//! | module | what it is about |
//! | --- | --- |
//! | `resp`, `limits`, `network`, `mesh_node` | requests cut anywhere, broken input, bounds, order of replies, two cores |
//! | `clients`, `loadgen` | the clients people use, and our own load |
//! | `blocking`, `pubsub`, `notifications`, `transactions`, `atomicity` | clients that wait, listen, and see all or nothing |
//! | `expiry`, `memory`, `collection_bytes` | what goes by itself, and what is charged |
//! | `effects`, `rebuild`, `coverage`, `log_files`, `persistence` | what the log and snapshots are made of, and what users see of them |
//! | `replication_commands`, `cluster`, `ring` | what a single node says of others |
//! | `process`, `node_process`, `admin`, `deploy` | the command line, the process, its endpoint, the files of `deploy/` |

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod atomicity;
mod blocking;
mod clients;
mod cluster;
mod collection_bytes;
mod coverage;
mod deploy;
mod effects;
mod expiry;
mod limits;
mod loadgen;
mod log_files;
mod memory;
mod mesh_node;
mod network;
mod node_process;
mod notifications;
mod persistence;
mod process;
mod pubsub;
mod rebuild;
mod replication_commands;
mod resp;
mod ring;
mod transactions;

/// What `coverage` and `collection_bytes` ask how much it has given.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
