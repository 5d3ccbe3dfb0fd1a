//! What this core answers to the questions of others ([`Ask`]): its numbers, and what it does for all of the node.
//!
//! Owned by one core.

use std::ops::ControlFlow;

use super::{Engine, slow};
use crate::command::{Answer, Ask};
use crate::log::durability::Durability;
use crate::shard::Counters;
use crate::shard::digest::Digest;
use crate::stats::{CommandStats, ErrorCounts, Latency, Snapshot};

impl Engine {
    /// All numbers of this core.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            core: self.router.me(),
            commands: self.stats.clone(),
            errors: self.errors.clone(),
            keyspace: (0..self.shard.databases()).map(|db| self.shard.size(db)).collect(),
            counters: self.shard.counters,
            memory: self.shard.memory(),
            heap_bytes: self.shard.heap_bytes(),
            mapped_bytes: self.shard.mapped_bytes(),
            share_bytes: self.shard.limit_bytes().unwrap_or(0),
            auth_failures: self.auth_failures,
            slowlog_len: self.slowlog.len(),
            rates: self.sampler.rates(),
            net: self.net.clone(),
            expiry_lag: self.expiry_lag.clone(),
            pubsub: self.pubsub.numbers(),
            changes: self.changes,
        }
    }

    /// Answers a question that needs no connections; the others are given back.
    pub fn answer(&mut self, ask: Ask) -> Result<Answer, Ask> {
        match ask {
            Ask::Snapshot => Ok(Answer::Snapshot(Box::new(self.snapshot()))),
            Ask::Slowlog(count) => Ok(Answer::Slowlog(self.slowlog.iter().take(count).cloned().collect())),
            Ask::SlowlogLen => Ok(Answer::Count(self.slowlog.len() as u64)),
            Ask::SlowlogReset => {
                self.slowlog.clear();
                Ok(Answer::Done)
            }
            Ask::ResetStats => {
                self.reset_stats();
                Ok(Answer::Done)
            }
            Ask::ActiveExpiry(on) => {
                self.active_expiry = on;
                Ok(Answer::Done)
            }
            Ask::LatencyEvents => Ok(Answer::LatencyEvents(Box::new(self.latency_events.clone()))),
            Ask::TakeLatencyEvents(events) => Ok(Answer::LatencyEvents(Box::new(self.latency_events.take(&events)))),
            Ask::Configure(configured) => {
                // Two changes may arrive in the wrong order; the newer one contains the older.
                if configured.number > self.config_number {
                    self.config_number = configured.number;
                    self.slow_nanos_min = slow::nanos_min(&configured.config);
                    self.shard.events.set_mask(configured.config.notify_keyspace_events);
                    let before = std::mem::replace(&mut self.config, configured.config);
                    self.apply_memory_config(before.maxmemory_bytes);
                    self.durability_changed(Durability::Memory);
                    if self.config.appendonly {
                        self.switch_feed(true);
                    }
                    self.slowlog.truncate(self.config.slowlog_max_len);
                }
                Ok(Answer::Done)
            }
            Ask::Digests => Ok(Answer::Digests(self.digests())),
            Ask::FeedSeq => Ok(Answer::Count(self.hurry_feed())),
            Ask::DbSizes => Ok(Answer::DbSizes((0..self.shard.databases()).map(|db| self.shard.size(db)).collect())),
            Ask::SlotCount(slot) => {
                let mut count = 0;
                let _ = self.shard.visit_slot(slot, |_| {
                    count += 1;
                    ControlFlow::Continue(())
                });
                Ok(Answer::Count(count))
            }
            Ask::SlotKeys { slot, count } => {
                let mut names = Vec::new();
                let _ = self.shard.visit_slot(slot, |key| {
                    names.push(key.to_vec());
                    if names.len() < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                });
                Ok(Answer::Names(names))
            }
            Ask::Watch(places) => {
                let watch = |(db, key): (u8, Vec<u8>)| self.shard.watch(db as usize, &self.hasher.key(&key));
                Ok(Answer::Versions(places.into_iter().map(watch).collect()))
            }
            Ask::Listen { .. } | Ask::Publish { .. } | Ask::Subscriptions { .. } | Ask::Subscribers { .. } => {
                crate::command::pubsub::answer(self, ask)
            }
            Ask::Log(_)
            | Ask::Clients(_)
            | Ask::Kill { .. }
            | Ask::Unblock { .. }
            | Ask::Pause(_)
            | Ask::Monitor { .. } => Err(ask),
        }
    }

    /// Of each database what this core has of it now.
    fn digests(&self) -> Vec<Digest> {
        let now_ms = self.shard.now_ms();
        let of = |db| self.shard.partitions().map(move |partition| self.shard.digest(db, partition, now_ms));
        (0..self.shard.databases()).map(|db| of(db).fold(Digest::default(), Digest::and)).collect()
    }

    /// CONFIG RESETSTAT.
    fn reset_stats(&mut self) {
        self.stats.fill(CommandStats::default());
        self.errors = ErrorCounts::default();
        self.auth_failures = 0;
        self.shard.counters = Counters::default();
        self.expiry_lag = Latency::default();
        self.net.reset();
        self.sampler.reset();
    }
}
