//! The node's side of leases: when to ask for one, and until when the node may serve what it leads.
//!
//! To whom a request goes is the shell's business. A lease counts from the sending of its request, so an answer that comes
//! late, twice or out of order never makes it longer. And it counts only once the node has applied raft's log as far as the
//! lease says: before that it may think that it leads what others lead already. Drift of clocks is the granter's business: the
//! node uses the whole length, the leader waits longer.
//!
//! Invariants: each request is answered once; at most [`REQUESTS_MAX`] of them, and as many leases that
//! cannot be used yet, are remembered.

use std::collections::VecDeque;

use super::lease::{LeaseAnswer, LeaseRefusal};
use super::{LEASE_MS_MAX, Settings};
use crate::shard::SteadyMs;

/// Requests that are remembered. Those that were sent before are lost, or come too late for anything.
const REQUESTS_MAX: usize = 16;
/// Shortest time between two requests.
const RETRY_MS: i64 = 10;

/// A lease that cannot be used before more of raft's log is applied.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    ends_ms: SteadyMs,
    after: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Tenant {
    renewal_ms: i64,
    /// Number and moment of requests without an answer, in the order in which they were sent.
    sent: VecDeque<(u64, SteadyMs)>,
    last_ticket: u64,
    /// When to ask next.
    due_ms: SteadyMs,
    sent_ms: SteadyMs,
    /// The end of the lease.
    ends_ms: SteadyMs,
    waiting: Vec<Waiting>,
    applied: u64,
    #[cfg(test)]
    pub(super) fault: Option<super::Fault>,
}

impl Tenant {
    /// A node without a lease, which asks for one at once.
    pub fn new(settings: &Settings) -> Tenant {
        Tenant {
            renewal_ms: settings.renewal_ms(),
            sent: VecDeque::new(),
            last_ticket: 0,
            due_ms: SteadyMs::MIN,
            sent_ms: SteadyMs::MIN,
            ends_ms: SteadyMs::MIN,
            waiting: Vec::new(),
            applied: 0,
            #[cfg(test)]
            fault: None,
        }
    }

    /// When the next request is to be sent, whether the last one was answered or not.
    pub fn due_ms(&self) -> SteadyMs {
        self.due_ms
    }

    /// Another leader is known: ask as soon as that is decent.
    pub fn hurry(&mut self) {
        self.due_ms = self.due_ms.min(self.sent_ms.saturating_add(RETRY_MS));
    }

    /// A request is being sent: called before, not after. The answer is to name the ticket.
    pub fn sent(&mut self, now_ms: SteadyMs) -> u64 {
        self.last_ticket += 1;
        if self.sent.len() == REQUESTS_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.last_ticket, now_ms));
        self.sent_ms = now_ms;
        self.due_ms = now_ms.saturating_add(self.renewal_ms);
        self.last_ticket
    }

    /// An answer has come.
    pub fn answered(&mut self, ticket: u64, now_ms: SteadyMs, answer: LeaseAnswer) {
        let Some(at) = self.sent.iter().position(|(sent, _)| *sent == ticket) else { return };
        let Some((_, sent_ms)) = self.sent.remove(at) else { return };
        match answer {
            LeaseAnswer::Granted { length_ms, after } => {
                let from_ms = self.count_from(sent_ms, now_ms);
                self.grant(from_ms.saturating_add(i64::from(length_ms.min(LEASE_MS_MAX))), after);
            }
            // The shell may know another one, and asks it at once.
            LeaseAnswer::Refused(LeaseRefusal::NotLeading) => self.hurry(),
            LeaseAnswer::Refused(_) => {}
        }
        self.waiting.retain(|lease| lease.ends_ms > now_ms);
    }

    fn grant(&mut self, ends_ms: SteadyMs, after: u64) {
        if self.may_use(after) {
            self.ends_ms = self.ends_ms.max(ends_ms);
        } else {
            if self.waiting.len() == REQUESTS_MAX {
                self.waiting.remove(0);
            }
            self.waiting.push(Waiting { ends_ms, after });
        }
    }

    #[cfg(not(test))]
    fn count_from(&self, sent_ms: SteadyMs, _now_ms: SteadyMs) -> SteadyMs {
        sent_ms
    }

    #[cfg(not(test))]
    fn may_use(&self, after: u64) -> bool {
        after <= self.applied
    }

    #[cfg(test)]
    fn count_from(&self, sent_ms: SteadyMs, now_ms: SteadyMs) -> SteadyMs {
        if self.fault == Some(super::Fault::CountFromAnswer) { now_ms } else { sent_ms }
    }

    #[cfg(test)]
    fn may_use(&self, after: u64) -> bool {
        after <= self.applied || self.fault == Some(super::Fault::IgnoreAfter)
    }

    /// This node's state has raft's log up to this entry, and those who serve know what that changes for them.
    pub fn applied(&mut self, index: u64) {
        self.applied = self.applied.max(index);
        let usable = self.waiting.extract_if(.., |lease| lease.after <= self.applied);
        self.ends_ms = usable.map(|lease| lease.ends_ms).fold(self.ends_ms, SteadyMs::max);
    }

    /// The end of the lease: the node may serve what its state says that it leads before this moment of its clock, and not at
    /// it.
    pub fn ends_ms(&self) -> SteadyMs {
        self.ends_ms
    }

    /// The node serves no more, and takes back what it has asked for: its role is given up.
    pub fn give_up(&mut self) {
        self.sent.clear();
        self.waiting.clear();
        self.ends_ms = SteadyMs::MIN;
    }
}

#[cfg(test)]
#[path = "tenant_tests.rs"]
mod tests;
