//! Who may take a role over without raft being asked again: a part of raft's state.
//!
//! A role that moves while both nodes live needs raft's word, which takes some milliseconds; if it were asked for when the primary has
//! closed, nobody could write meanwhile. So the word is given in advance: [`Command::Name`] says who may lead next, in the next epoch,
//! while the primary goes on. It ends what it leads when it likes, and says so to its *successor* alone, who begins at once. That this
//! has happened is agreed on later ([`Command::Lead`]).
//!
//! From the naming until then, raft does not know which of the two serves: it is never both, as the primary says that it has ended only
//! once it has. So the role goes to nobody else as long as one of them may have a lease:
//!
//! | what happens | what becomes of the role |
//! | --- | --- |
//! | the primary has ended, the successor has begun and says so | it is the successor's, in the epoch that it was named for |
//! | the primary does not want that any more, and has not ended | it stays as it is ([`Command::Keep`]) |
//! | the primary is dead | it is the successor's, and nobody else's |
//! | the successor is dead, or has started anew | it is said to be gone: the primary keeps the role, or, if it has ended, leads again in a later epoch |
//! | both are | it is lost, as one that had only a primary, and goes to whoever is in sync |
//!
//! A successor that lives and cannot lead (its disk has failed, or it has lost a copy) while the primary is dead, is waited for: it may
//! have begun. If its process ends, others are asked.
//!
//! Each naming has a number: what is said of one never counts for another one. Meanwhile the in-sync set is left alone, as the
//! successor, who takes it over, may not have heard of a change.
//!
//! Pure. Invariants ([`State::validate`]): a successor is not the primary; if there is a primary, the epoch of its successor is the
//! next one; numbers only grow.
//!
//! [`Command::Name`]: super::command::Command::Name
//! [`Command::Keep`]: super::command::Command::Keep
//! [`Command::Lead`]: super::command::Command::Lead
//! [`State::validate`]: super::state::State::validate

use std::collections::BTreeMap;

use rkyv::{Archive, Deserialize, Serialize};

use super::command::{Epoch, Member, Naming, NodeId, PartitionId};

/// The version of the formats with which this came.
pub const NAMING_VERSION: u8 = 5;

/// Who may lead next.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Successor {
    pub to: Member,
    /// In which epoch: nobody else leads in it.
    pub epoch: Epoch,
    /// Of the naming.
    pub number: u64,
    /// It is dead, or in another start of its process: it will not begin, if it has not.
    pub gone: bool,
}

/// Of all partitions whose role is on its way.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Successors {
    named: BTreeMap<PartitionId, Successor>,
    /// The number of the last naming.
    last: u64,
}

impl Successors {
    pub fn of(&self, partition: PartitionId) -> Option<Successor> {
        self.named.get(&partition).copied()
    }

    /// Ascending by partition.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, Successor)> {
        self.named.iter().map(|(partition, successor)| (*partition, *successor))
    }

    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// The number of the last naming.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Names who may lead a partition next, which has this epoch now.
    pub(super) fn name(&mut self, partition: PartitionId, epoch: Epoch, to: Member) {
        self.last += 1;
        let successor = Successor { to, epoch: epoch + 1, number: self.last, gone: false };
        self.named.insert(partition, successor);
    }

    /// Whether this naming is the one that there is.
    pub(super) fn is_current(&self, naming: Naming) -> bool {
        self.of(naming.partition).is_some_and(|successor| successor.number == naming.number)
    }

    pub(super) fn goes(&mut self, partition: PartitionId) {
        if let Some(successor) = self.named.get_mut(&partition) {
            successor.gone = true;
        }
    }

    pub(super) fn forget(&mut self, partition: PartitionId) {
        self.named.remove(&partition);
    }
}

/// The epoch in which a role goes on, if one who may take it over was named.
pub(super) fn epoch_after(epoch: Epoch, primary: Option<NodeId>, successor: Option<Successor>) -> Epoch {
    match successor {
        Some(successor) if primary == Some(successor.to.node) => successor.epoch.max(epoch + 1),
        Some(successor) => successor.epoch.max(epoch) + 1,
        None => epoch + 1,
    }
}

#[cfg(test)]
#[path = "successors_tests.rs"]
mod tests;
