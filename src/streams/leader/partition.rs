//! What a leader knows of a partition that it leads.

use super::handover::Handover;
use super::{Epoch, Index, NodeId, Suffix, Tail};
use crate::raft::command::{Incarnation, Member};

/// A follower that is to become in sync: commits wait for it already.
#[derive(Clone, Copy, Debug)]
pub struct Joiner {
    pub node: NodeId,
    pub since_ms: u64,
    /// What was committed, and on the disks of all, when that began: it must have that.
    pub committed: Index,
    pub durable: Index,
    /// And it must have come so far: what spans partitions up to there did not wait for it.
    pub spanned: Index,
}

/// What a follower had acknowledged when its stream went back or ended.
#[derive(Clone, Copy, Debug)]
pub struct Confirmed {
    pub member: Member,
    pub received: Index,
    pub durable: Index,
}

/// See the module.
///
/// Invariants: `last >= cut`; `tail` is the base as long as `last == cut`, then `(epoch, last)`.
#[derive(Clone, Debug)]
pub struct Led {
    pub epoch: Epoch,
    /// What the data was when this epoch began; and the end of this node's log then.
    pub base: Tail,
    pub cut: Index,
    pub tail: Tail,
    /// The index of the last own unit, or the cut.
    pub last: Index,
    pub led_ms: u64,
    /// What was committed when groups were arranged last, and was on the disks of all: that stays so, whoever comes to a set.
    pub committed: Index,
    pub durable: Index,
    /// It leads no longer; up to here was committed then.
    pub deposed: Option<Index>,
    pub replicas: Vec<NodeId>,
    pub in_sync: Vec<NodeId>,
    pub version: u64,
    /// All who were proposed for the set that follows `version`, this node left out, and when that was done last.
    pub proposed: Vec<Member>,
    pub proposed_ms: Option<u64>,
    /// Proposals of which nothing is known.
    pub unknown: u32,
    /// The last set that was proposed.
    pub proposal: Vec<Member>,
    pub joiners: Vec<Joiner>,
    pub confirmed: Vec<Confirmed>,
    pub suffix: Option<Suffix>,
    /// Its role is on its way to another node.
    pub handover: Option<Handover>,
    /// When it was proposed last that its role goes to nobody.
    pub kept_ms: Option<u64>,
    /// Its place in the groups.
    pub group: usize,
    /// Places of followers that the stream carries it to, and of one that it is being copied to.
    pub live: Vec<u16>,
    pub copied: Option<u16>,
}

impl Led {
    pub fn new(now_ms: u64, epoch: Epoch, base: Tail, cut: Index, suffix: Option<Suffix>) -> Led {
        Led {
            epoch,
            base,
            cut,
            tail: base,
            last: cut,
            led_ms: now_ms,
            committed: 0,
            durable: 0,
            deposed: None,
            replicas: Vec::new(),
            in_sync: Vec::new(),
            version: 0,
            proposed: Vec::new(),
            proposed_ms: None,
            unknown: 0,
            proposal: Vec::new(),
            joiners: Vec::new(),
            confirmed: Vec::new(),
            suffix,
            handover: None,
            kept_ms: None,
            group: usize::MAX,
            live: Vec::new(),
            copied: None,
        }
    }

    /// Units of it are in the frame that ends with `last`.
    #[inline]
    pub fn touch(&mut self, last: Index) {
        self.last = last;
        self.tail = Tail { epoch: self.epoch, index: last };
    }

    /// Whether a set that may be in force names it.
    pub fn may_be_in_sync(&self, node: NodeId) -> bool {
        self.in_sync.contains(&node) || self.proposed.iter().any(|member| member.node == node)
    }

    /// What a node in this start of its process has acknowledged for certain.
    pub fn confirmed(&self, node: NodeId, incarnation: Incarnation) -> Option<&Confirmed> {
        let member = Member { node, incarnation };
        self.confirmed.iter().find(|confirmed| confirmed.member == member)
    }

    /// Remembers what a follower has acknowledged.
    pub fn confirm(&mut self, member: Member, received: Index, durable: Index) {
        match self.confirmed.iter_mut().find(|confirmed| confirmed.member.node == member.node) {
            Some(known) if known.member == member => {
                known.received = known.received.max(received);
                known.durable = known.durable.max(durable);
            }
            Some(known) => *known = Confirmed { member, received, durable },
            None => self.confirmed.push(Confirmed { member, received, durable }),
        }
    }
}
