//! Replication.

pub mod detector;
pub mod history;
pub mod message;
pub mod primary;
pub mod replica;

#[cfg(test)]
mod sim;
