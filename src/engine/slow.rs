//! What was slow on this core: commands for the slow log, and events for the latency monitor ([`crate::stats::events`]).
//!
//! Owned by one core.

use super::{Engine, Ran};
use crate::command::Flags;
use crate::command::slowlog::SlowlogEntry;
use crate::config::Config;
use crate::stats::Event;

impl Engine {
    /// A command has taken so long that somebody wants to know.
    #[cold]
    pub(super) fn note_slow(&mut self, ran: Ran, nanos: u64) {
        let flags = ran.row.command.flags;
        self.note_event(if flags.has(Flags::FAST) { Event::FastCommand } else { Event::Command }, nanos);
        if flags.has(Flags::SKIP_SLOWLOG) || nanos < slowlog_nanos_min(&self.config) {
            return;
        }
        self.slowlog.push_front(SlowlogEntry::new(
            self.node.next_slowlog_id(),
            self.shard.now_ms() / 1000,
            nanos / 1000,
            ran.row,
            ran.args,
            ran.origin,
        ));
        self.slowlog.truncate(self.config.slowlog_max_len);
    }

    /// Tells the latency monitor that an event took so long.
    #[cold]
    fn note_event(&mut self, event: Event, nanos: u64) {
        if nanos >= monitor_nanos_min(&self.config) {
            self.latency_events.add(event, self.shard.now_ms() / 1000, nanos / 1_000_000);
        }
    }

    /// Does something that the latency monitor watches, if it watches anything.
    pub(super) fn watch_event<T>(&mut self, event: Event, work: impl FnOnce(&mut Self) -> T) -> T {
        if self.config.latency_monitor_threshold_ms == 0 {
            return work(self);
        }
        let began = self.clock.raw();
        let done = work(self);
        self.note_event(event, self.clock.delta_as_nanos(began, self.clock.raw()));
        done
    }
}

/// What takes at least so long is noted, in the slow log or by the latency monitor; `u64::MAX` is never.
pub(super) fn nanos_min(config: &Config) -> u64 {
    slowlog_nanos_min(config).min(monitor_nanos_min(config))
}

/// What the latency monitor notes takes at least so long.
fn monitor_nanos_min(config: &Config) -> u64 {
    match config.latency_monitor_threshold_ms {
        0 => u64::MAX,
        millis => millis.saturating_mul(1_000_000),
    }
}

/// What the slow log has takes at least so long.
fn slowlog_nanos_min(config: &Config) -> u64 {
    u64::try_from(config.slowlog_log_slower_than_us).map_or(u64::MAX, |micros| micros.saturating_mul(1000))
}
