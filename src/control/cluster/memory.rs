//! How much memory there is for copies: the machine that follows decides what to ask for ([`crate::streams::follower::Memory`]), and
//! is told here what it needs to know.
//!
//! What counts is what INFO shows as `used_memory`, as for clients' writes: with all that is no data. What was received and is not
//! executed counts twice: it will be an entry, and for a while be in the log's backlog.
//!
//! Owned by the control core.

use std::rc::Rc;

use super::Member;
use crate::admin::process::allocated_bytes;
use crate::config::Config;
use crate::control::Control;
use crate::streams::follower::Memory;

/// After so much of copies the memory is looked at in any case: within a tick they could bring more than is kept free.
const LOOK_BYTES: u64 = 1 << 20;

/// `maxmemory`; None: there is no limit.
pub(super) fn limit_bytes(config: &Config) -> Option<u64> {
    Some(config.maxmemory_bytes).filter(|bytes| *bytes > 0)
}

impl Control {
    /// Tells the machine that follows how much memory there is, and whoever reads the log what comes of it.
    pub(super) fn look_at_memory(self: &Rc<Self>, member: &Rc<Member>) {
        let limit_bytes = limit_bytes(&self.config());
        member.copied_at_look.set(member.counts.get().copy_bytes_received);
        let queued_bytes = member.streams.borrow().as_ref().map_or(0, |streams| streams.executor.queued_bytes());
        let [mut before, mut after] = <[(usize, u64); 2]>::default();
        self.with_follower(|follower, _, out| {
            before = follower.without_memory();
            follower.set_limit(limit_bytes);
            // The allocator is asked only if somebody wants to know.
            if follower.minds_memory() {
                let budget = &self.node.state.budget;
                let used_bytes = allocated_bytes() + budget.heap_bytes() + queued_bytes;
                follower.memory(Memory { used_bytes, data_bytes: budget.all_charged_bytes() }, out);
            }
            after = follower.without_memory();
        });
        let ((waited, given_up_before), (waiting, given_up)) = (before, after);
        if given_up > given_up_before {
            let copies = given_up - given_up_before;
            tracing::warn!(copies, "copies on their way have used up the memory, and are given up");
        }
        match (waited, waiting) {
            (0, 1..) => {
                tracing::warn!(
                    copies = waiting,
                    "there is no memory for copies: they wait, until some is free or 'maxmemory' is raised"
                );
            }
            (1.., 0) => tracing::info!("copies wait for memory no longer"),
            _ => {}
        }
    }

    /// Looks again, if copies have brought much since.
    pub(super) fn look_at_memory_after_copies(self: &Rc<Self>, member: &Rc<Member>) {
        if member.counts.get().copy_bytes_received >= member.copied_at_look.get() + LOOK_BYTES {
            self.look_at_memory(member);
        }
    }
}
