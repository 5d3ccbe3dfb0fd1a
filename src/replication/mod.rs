//! Replication.

pub mod detector;
pub mod history;
pub mod message;
