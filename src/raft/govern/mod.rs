//! What the raft leader decides for the cluster, and how a node comes to serve: leases, deaths, placement, voters.
//!
//! Pure: messages, the state and the time go in, actions come out. No clocks, no sockets, no randomness. So the simulator
//! (`sim/`) can run a cluster of them through whatever may happen, and replay it from one number.
//!
//! | file | what it is |
//! | --- | --- |
//! | `lease.rs` | what is asked and answered; how long a lease may be, and when it has surely ended |
//! | [`tenant`] | the node's side: when to ask, and until when it may serve |
//! | [`governor`] | the leader's side: [`Governor`], on every node, active while it leads raft |
//! | [`seat`] | drives both of a node over its raft, and keeps what the shell owes them |
//! | `status.rs` | what those who watch are told |
//! | `standing.rs` | what the leader knows of a node: is it alive, until when may it serve |
//! | `failover.rs` | whose partitions get a new primary |
//! | `plan.rs`, `moves.rs` | who shall have copies, and the steps towards that |
//! | `roles.rs` | who shall lead, while all live |
//! | `turns.rs` | when copies move, and when roles |
//! | `voters.rs` | who votes in raft |
//! | `orders.rs` | nodes that leave are removed; the version of the cluster rises |
//! | `sim/`, `tests.rs`, `orders_tests.rs` | a cluster from a seed; transcripts |
//!
//! # Why no two nodes serve one partition
//!
//! A node serves a partition while it has a lease that is valid by its own clock, and its own state says that it is the
//! primary. Promises, and who keeps them:
//!
//! 1. *A lease is counted from the sending of the request*, so it ends no later than its length after it was granted
//!    ([`tenant`]). Clocks may differ in how fast they run, by a bounded factor ([`outlast`]): whoever waits for the end of a
//!    lease waits that much longer.
//! 2. *Nobody is promoted while a lease may be valid that another one serves under.* The leader that granted it waits for its
//!    end. A leader that follows does not know it; it waits for the end of the longest that there is, from the moment that it
//!    leads ([`Governor::lead`]).
//! 3. *That is long enough*, as a leader grants only while a quorum has acknowledged it so lately that nobody else can have been
//!    elected long before the lease ends ([`longest`]).
//! 4. *A lease that is granted after somebody was promoted is worth nothing before the node knows that*: it says up to which
//!    entry the node must have applied raft's log ([`LeaseAnswer::Granted`]). Between the proposal and its result, those whom
//!    it calls dead get none.
//! 5. *A process that runs on while its node has started elsewhere* (its directory was moved, and nobody stopped it) gets no lease
//!    any more, as it has another boot; the one that it has is waited for before anybody is promoted, and before its next
//!    incarnation gets one. A `Promote` names the number of starts that its proposer knew of: one that comes in between
//!    refuses it.
//!
//! What the shell owes the machines:
//! - The state that is handed in, and `applied`, are of the same moment.
//! - [`Governor::lead`] is called once an entry that this leader has proposed itself in its term is applied here, so that all
//!   that its predecessors have proposed is decided; [`Governor::resign`] when the term is over, and before a transfer of
//!   leadership is asked for: a transfer elects somebody while the quorum's promise still holds.
//! - What is proposed goes to this node's own raft, in the term of that `lead` and in no other (openraft: `with_leader`), once.
//!   Its result is told when the entry is applied here. A result that is not known is told as such.
//! - A voter that has just started has forgotten whom it has acknowledged: it votes for nobody, and does not stand for
//!   election, for the time of [`Settings::election_ms`] (plus drift).
//! - `quorum_ms` is the *sending* of the heartbeat. With one voter it is now.
//! - Who orders a `Lead` sees to it that the old primary does not serve: it is the old primary itself.
//! - Who orders a `ForceLead`, which is only for partitions without a primary, has seen raft answer since they have none, and has
//!   waited for the end of the longest lease since that: a node that has registered anew may have left a process behind that still
//!   has one. Whoever answers for raft has applied what took the role, and so grants that process no other one.
//!
//! Owned by the control core.

mod failover;
pub mod governor;
mod lease;
mod moves;
mod orders;
#[cfg(test)]
mod orders_tests;
mod plan;
mod roles;
pub mod seat;
#[cfg(test)]
mod sim;
mod standing;
mod status;
pub mod tenant;
#[cfg(test)]
mod tests;
mod turns;
mod voters;

pub use governor::{Action, Governor, Members, Outcome, Seen, Ticket};
pub use lease::{LeaseAnswer, LeaseRefusal, LeaseRequest, longest, outlast};
pub use roles::HandOver;
pub use seat::Seat;
pub use status::{NodeStatus, Status};
pub use tenant::Tenant;

use super::command::NodeId;

/// The longest lease that there is, unless configured otherwise.
pub const LEASE_MS: u32 = 300;
/// Longest lease that can be configured.
pub const LEASE_MS_MAX: u32 = 10_000;
/// A lease is renewed that many times while it lasts.
pub const RENEWALS: u32 = 5;
/// A clock runs too fast or too slow by no more than one part in so many. Quartz keeps to one in ten thousand, a clock that is
/// being adjusted to one in two thousand.
pub const DRIFT_DIVISOR: i64 = 100;
/// From this phi on a node is taken for dead: one mistake in a hundred million, if its lease is over as well.
pub const PHI_DEAD: f64 = 8.0;
/// A silence of so many leases is strange whatever came before it: one long pause must not make the detector patient with
/// the next.
pub const SILENCE_LEASES_MAX: i64 = 3;
/// After so long a dead primary is one no more, also if nobody can follow it. Until then it goes on where it was when it is
/// heard of again; afterwards an operator may give up what only it has.
pub const DEPOSE_AFTER_MS: u32 = 10_000;
/// Copies of each partition, unless configured otherwise.
pub const COPIES: usize = 3;
/// After so long others get the copies of a dead node.
pub const REPLACE_AFTER_MS: u32 = 30_000;
/// After so long another node votes in the place of a dead one.
pub const REVOTE_AFTER_MS: u32 = 10_000;
/// Most voters.
pub const VOTERS_MAX: usize = 5;
/// A node becomes a voter once it is behind by no more entries: one that is far behind would hold up what is to be committed.
pub const VOTER_LAG_ENTRIES: u64 = 100;
/// Most copies that one node receives at a time, because they move.
pub const INCOMING_MAX: usize = 64;
/// Most copies that one primary sends at a time, because they move.
pub const OUTGOING_MAX: usize = 128;

/// How the leader governs. The same on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This node.
    pub me: NodeId,
    /// The longest lease, up to [`LEASE_MS_MAX`].
    pub lease_ms: u32,
    /// So long a voter that has acknowledged a heartbeat elects nobody else, by its own clock. openraft: the longest
    /// election timeout.
    pub election_ms: u32,
    /// Copies of each partition; fewer while fewer nodes are alive.
    pub copies: usize,
    /// The first placement waits until so many nodes are there.
    pub nodes_wanted: usize,
    pub replace_after_ms: u32,
    pub revote_after_ms: u32,
}

impl Settings {
    pub fn new(me: NodeId, election_ms: u32) -> Settings {
        Settings {
            me,
            lease_ms: LEASE_MS,
            election_ms,
            copies: COPIES,
            nodes_wanted: 1,
            replace_after_ms: REPLACE_AFTER_MS,
            revote_after_ms: REVOTE_AFTER_MS,
        }
    }

    /// How often a node asks.
    pub fn renewal_ms(&self) -> i64 {
        i64::from(self.lease_ms / RENEWALS).max(1)
    }

    /// How long a node may be silent and still be asked to lead something. Half a lease: whoever has died together with a
    /// primary is silent for longer when that one's lease has ended.
    fn fresh_ms(&self) -> i64 {
        i64::from(self.lease_ms / 2)
    }
}

/// What is done wrong on purpose, to see that it is found.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A lease counts from the answer.
    CountFromAnswer,
    /// A lease is used before the node has applied what it must.
    IgnoreAfter,
    /// A new leader takes it that nobody has a lease.
    NoGrace,
    /// Whoever is silent is dead, whatever lease it has.
    PromoteEarly,
    /// All clocks are taken to run alike.
    IgnoreDrift,
    /// The lease of an earlier incarnation is forgotten.
    ForgetEarlier,
    /// Leases are granted whoever has acknowledged this leader.
    WithoutQuorum,
    /// Leases are granted to those who are being called dead.
    GrantWhileDeposing,
    /// A promotion whose result is not known is taken for one that did not happen.
    AssumeRefused,
}
