//! Atomicity over cores: keys are borrowed.
//!
//! A command or a transaction whose keys live on one core is one message and runs there. When they live on several, the
//! core of the connection *borrows* them: it asks the owners, core after core, for all the keys it needs there
//! ([`coordinator`]); each owner lends them when it is this transaction's turn on all of them ([`lending`]), and until
//! they come back serves nobody else on these keys. The entries move to a scratch shard, where the ordinary commands run
//! and cannot tell it from a real one; then every owner gets its entries back, with what has changed. The reply need not
//! wait for that, because nobody sees a key before it has come back.
//!
//! ```text
//! coordinator            core 0                core 1
//!   Borrow a, b ──────────► queue of a, of b
//!   (scratch)  ◄──── Lent ── first on both
//!   Borrow c ──────────────────────────────────► queue of c
//!   (scratch)  ◄─────────────────────── Lent ─── first
//!   run, reply
//!   Return a, b ──────────► the next in line
//!   Return c ──────────────────────────────────► the next in line
//! ```
//!
//! - MGET, MSET, DEL and their like are as good as one command for each key: then nothing moves, but each owner runs its
//!   part while the others hold theirs ([`Mode::Dealt`]).
//! - Nothing of this is paid while nothing is lent, but one check per request.
//! - A request that meets a lent key waits for it, and with it what its connection sends to this core afterwards.
//! - What concerns every key of a core (FLUSHALL, SWAPDB, and DBSIZE, KEYS, SCAN within a transaction) borrows whole
//!   cores: their owners serve nothing until the return, and run such commands for the coordinator meanwhile.
//! - A watched key is borrowed, too: its owner compares versions when it lends it, and the key cannot change before the
//!   transaction has run.
//!
//! [`coordinator`] and [`lending`] are pure; `explore` runs them through all interleavings of small cases. [`plan`] says
//! which keys a transaction needs. The messages are sent by [`crate::net`], entries are moved by [`crate::engine`].

pub mod coordinator;
#[cfg(test)]
mod explore;
pub mod lending;
pub mod plan;

pub use coordinator::{Coordinator, Step};
pub use lending::{Lending, Ticket, Wants};
pub use plan::{Mode, Plan};

use crate::log::feed::Seq;
use crate::shard::{Detached, Version};

/// A key in a database.
pub type Place = (u8, Vec<u8>);

/// A key as it is claimed: the database, and the hash of the key. Two keys with the same hash wait for each other, which
/// does no harm.
pub type Lock = (u8, u64);

/// What one core is asked for.
#[derive(Debug)]
pub struct Loan {
    pub wants: Wants<Lock>,
    /// The entries to lend, each place once.
    pub entries: Vec<Place>,
    /// Keys that must still have these versions. They are watched no longer afterwards.
    pub watched: Vec<(Place, Version)>,
    /// About how many bytes the transaction may add; None if none of its commands needs memory.
    pub brings_bytes: Option<usize>,
    /// Some of its commands may write.
    pub writes: bool,
    /// The claim by which the borrower has the whole core already.
    pub under: Option<Ticket>,
    /// It is for a client, in a cluster: the node must be allowed to serve, and lead these slots, which are those of the keys.
    pub serves: bool,
    pub slots: Vec<u16>,
}

impl Default for Loan {
    fn default() -> Self {
        Loan {
            wants: Wants::Keys(Vec::new()),
            entries: Vec::new(),
            watched: Vec::new(),
            brings_bytes: None,
            writes: false,
            under: None,
            serves: false,
            slots: Vec::new(),
        }
    }
}

/// What an owner says when the claim is granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    #[default]
    Granted,
    /// A watched key has changed: nothing is lent.
    Changed,
    /// There is no memory for what the transaction brings: nothing is lent.
    Full,
    /// The node has become a replica: nothing is lent to a transaction that writes.
    ReadOnly,
    /// Another node leads this slot, or nobody: nothing is lent.
    Away { slot: u16 },
    /// The node may serve nothing at the moment: nothing is lent.
    Down,
}

/// An owner's answer. Whatever the verdict, the keys are the borrower's until it gives them back.
#[derive(Debug)]
pub struct Lent {
    pub ticket: Ticket,
    pub verdict: Verdict,
    /// In the order of [`Loan::entries`].
    pub entries: Vec<Option<Detached>>,
    /// Where the feed of the owner stands: what it has said of these keys.
    pub seq: Seq,
}

/// A key that comes back.
#[derive(Debug)]
pub struct Returned {
    pub place: Place,
    pub entry: Option<Detached>,
    pub changed: bool,
}
