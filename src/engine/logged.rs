//! The engine's part in logging: what this core has changed, on its way to the control core.
//!
//! Owned by one core.

use super::Engine;
use crate::borrow::Returned;
use crate::log::feed::{After, Chunk, Seq};

impl Engine {
    /// Switches the recording of effects.
    pub fn switch_feed(&mut self, on: bool) {
        self.feed.switch(on, &mut self.shard.effects);
    }

    /// Where the feed of this core stands, for somebody who depends on it; 0 if it is off.
    #[inline]
    pub fn hurry_feed(&mut self) -> Seq {
        if !self.feed.is_on() {
            return 0;
        }
        self.feed.hurry();
        self.feed.seq(&self.shard.effects)
    }

    /// Keys come back from a transaction of another core: what is said of them here comes after that.
    pub fn come_after(&mut self, after: After, entries: &[Returned]) {
        if !self.feed.is_on() {
            return;
        }
        let Engine { feed, shard, hasher, router, .. } = self;
        feed.come_after(after, &mut shard.effects);
        let changed = entries.iter().filter(|entry| entry.changed).map(|entry| hasher.key(&entry.place.1).partition);
        match entries.is_empty() {
            // What ran here, it ran with its keys held.
            true => feed.mark(router.range_of(router.me()), &mut shard.effects),
            false => feed.mark(changed, &mut shard.effects),
        };
    }

    /// Records what a transaction has changed that this core coordinated.
    pub fn log_transaction(&mut self, after: &[After], statements: &[u8]) {
        if !self.feed.is_on() {
            return;
        }
        let me = self.router.me();
        for after in after.iter().filter(|after| after.core != me) {
            self.feed.come_after(*after, &mut self.shard.effects);
        }
        self.shard.effects.push_unit(statements);
    }

    /// What is to be sent to the control core now.
    #[inline]
    pub fn next_chunk(&mut self) -> Option<Chunk> {
        self.feed.next(self.shard.steady_ms(), &mut self.shard.effects)
    }

    /// Whether something waits to be sent to the control core.
    #[inline]
    pub fn feed_lingers(&self) -> bool {
        self.feed.lingers(&self.shard.effects)
    }
}
