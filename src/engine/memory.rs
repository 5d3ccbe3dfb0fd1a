//! The engine's memory: what the configuration says of it, the check before each command, and the core's share.
//!
//! Owned by one core.

use super::{Engine, Refusal};
use crate::admin::process::allocated_bytes;
use crate::budget::Charge;
use crate::command::table::Row;
use crate::command::{Args, Flags};
use crate::config::MaxmemoryPolicy;
use crate::resp::{Error, Reply};
use crate::shard::{LfuPace, Policy, Rule};
use crate::stats::Event;

impl Engine {
    /// Does what the configuration says about memory, as far as it has changed; `before_bytes` is what maxmemory was until
    /// now.
    pub(super) fn apply_memory_config(&mut self, before_bytes: u64) {
        let config = &self.config;
        let pace = LfuPace { log_factor: config.lfu_log_factor, decay_minutes: config.lfu_decay_time_minutes };
        // What is borrowed is used by the same rules; nothing is evicted there, as the scratch shard has no limit.
        for shard in [&mut self.shard, &mut self.scratch] {
            shard.set_policy(policy(config.maxmemory_policy));
            shard.set_lfu_pace(pace);
        }
        let maxmemory_bytes = config.maxmemory_bytes;
        if maxmemory_bytes == before_bytes {
            return;
        }
        let limit_bytes = match self.shard.limit_bytes() {
            // The shares of all cores change alike, until they are divided anew.
            Some(share) => (share as u128 * maxmemory_bytes as u128 / before_bytes.max(1) as u128) as u64,
            None => self.node.budget.equal_share(self.router.cores() as usize, maxmemory_bytes, allocated_bytes()),
        };
        self.shard.set_limit((maxmemory_bytes > 0).then_some(limit_bytes as usize));
    }

    /// Whether [`Engine::work`] has something to do. `evicting`: it may evict.
    #[inline]
    pub fn has_work(&self, evicting: bool) -> bool {
        self.shard.has_work(evicting) || self.scratch.has_work(false)
    }

    /// Does a piece of the work that no request waits for.
    pub fn work(&mut self, evicting: bool) {
        self.watch_event(Event::EvictionCycle, |engine| {
            engine.shard.work(evicting);
            // Large collections that a command over several cores has removed.
            if engine.scratch.has_work(false) {
                engine.scratch.work(false);
            }
        });
    }

    /// Sees to it that a command may use more memory, by evicting if need be; false if it must be refused.
    #[inline]
    pub fn make_way(&mut self, row: &Row, args: Args) -> bool {
        if row.command.flags.has(Flags::WRITE) {
            // What a command looks up must not make way for what it writes next.
            self.shard.ensure_free_slab();
        }
        if !row.command.flags.has(Flags::DENYOOM) || self.config.maxmemory_bytes == 0 || self.applying {
            return true;
        }
        self.shard.make_way(args.iter().map(|arg| arg.len()).sum())
    }

    /// Whether commands that need none may run: memory is not used up, or something can be evicted. A node that may not serve
    /// evicts nothing.
    pub fn has_memory(&mut self) -> bool {
        self.config.maxmemory_bytes == 0 || self.is_lapsed() || self.shard.make_way(0)
    }

    #[cold]
    pub(super) fn refuse_memory(&mut self, row: &Row, reply: &mut Reply) {
        if let Refusal::Error(error) = self.refuse(row, Error::OutOfMemory) {
            reply.error(&error);
        }
    }

    /// Tells the other cores what the shard is charged.
    #[inline]
    pub fn tell_charge(&self) {
        let charge = Charge {
            charged_bytes: self.shard.memory() as u64,
            heap_bytes: self.shard.heap_bytes() as u64,
            evicted: self.shard.counters.evicted,
        };
        self.node.budget.publish(self.router.me() as usize, charge);
    }

    /// Tells the other cores what the shard is charged, and takes the share of maxmemory that this core is to have.
    pub(super) fn share_memory(&mut self) {
        let (budget, me) = (&self.node.budget, self.router.me() as usize);
        let maxmemory_bytes = self.config.maxmemory_bytes;
        if maxmemory_bytes > 0
            && let Some(granted) = budget.granted(me, maxmemory_bytes)
        {
            self.shard.set_limit(Some(granted as usize));
        }
        self.tell_charge();
        budget.apply(me, self.shard.limit_bytes().unwrap_or(0) as u64);
        if me == 0 && maxmemory_bytes > 0 {
            let evicts = self.shard.policy().rule != Rule::None;
            budget.divide(self.router.cores() as usize, maxmemory_bytes, allocated_bytes(), evicts);
        }
    }
}

/// What a name of a policy means.
fn policy(name: MaxmemoryPolicy) -> Policy {
    let (rule, volatile) = match name {
        MaxmemoryPolicy::NoEviction => (Rule::None, false),
        MaxmemoryPolicy::AllkeysLru => (Rule::Lru, false),
        MaxmemoryPolicy::AllkeysLfu => (Rule::Lfu, false),
        MaxmemoryPolicy::AllkeysRandom => (Rule::Random, false),
        MaxmemoryPolicy::AllkeysS3fifo => (Rule::S3Fifo, false),
        MaxmemoryPolicy::VolatileLru => (Rule::Lru, true),
        MaxmemoryPolicy::VolatileLfu => (Rule::Lfu, true),
        MaxmemoryPolicy::VolatileRandom => (Rule::Random, true),
        MaxmemoryPolicy::VolatileTtl => (Rule::Ttl, true),
    };
    Policy { rule, volatile }
}
