//! Keyloom: a Redis-compatible, distributed in-memory store for Linux.
//!
//! One process runs one pinned thread per core; every core owns a slice of the keyspace and shares nothing.
//! ARCHITECTURE.md names the parts and gives a reading order. Dependencies point one way: `net` -> `command` -> `shard`.

pub mod admin;
pub mod blocking;
pub mod borrow;
pub mod budget;
pub mod cluster;
pub mod collection;
pub mod command;
pub mod config;
pub mod control;
pub mod dumpfile;
pub mod engine;
pub mod loadgen;
pub mod log;
pub mod mesh;
pub mod net;
pub mod node;
pub mod operator;
pub mod pubsub;
pub mod raft;
pub mod rdb;
pub mod replication;
pub mod resp;
pub mod route;
pub mod shard;
pub mod state;
pub mod stats;
pub mod streams;
pub mod sync;
