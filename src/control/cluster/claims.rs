//! Which copies may be called whole, once they are on disk.
//!
//! A copy is whole in memory before the log has it on disk, and something else may become of its partitions in between: they are
//! dropped, or a newer copy takes their place. What is on disk then is not what the disk has in the end, so nothing is
//! claimed of it.
//!
//! Pure. Owned by the control core.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::streams::PartitionId;
use crate::streams::follower::Ticket;

/// See the module.
#[derive(Default)]
pub(super) struct Claims {
    /// Whole, and not known to be on disk; ascending by ticket.
    whole: Vec<(Ticket, Rc<[PartitionId]>)>,
    /// The last ticket with which a partition was replaced.
    replaced: BTreeMap<PartitionId, Ticket>,
}

impl Claims {
    /// What was there of these ends with this ticket.
    pub fn replace(&mut self, ticket: Ticket, partitions: &[PartitionId]) {
        self.replaced.extend(partitions.iter().map(|&partition| (partition, ticket)));
    }

    /// With this ticket these are whole.
    pub fn complete(&mut self, ticket: Ticket, partitions: &Rc<[PartitionId]>) {
        self.whole.push((ticket, Rc::clone(partitions)));
    }

    /// Everything up to this ticket is on disk: what has become whole by that, and still is.
    pub fn on_disk(&mut self, durable: Ticket) -> Vec<PartitionId> {
        let mut claimed = Vec::new();
        let replaced = &self.replaced;
        self.whole.retain(|(ticket, partitions)| {
            let stands = |partition: &&PartitionId| replaced.get(partition).is_none_or(|replaced| replaced <= ticket);
            if *ticket <= durable {
                claimed.extend(partitions.iter().filter(stands));
            }
            *ticket > durable
        });
        // Nothing that is whole from before can come any more.
        self.replaced.retain(|_, ticket| *ticket > durable);
        claimed
    }

    /// There is no disk.
    pub fn clear(&mut self) {
        *self = Claims::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_whole_is_claimed_when_it_is_on_disk() {
        let mut claims = Claims::default();
        claims.replace(1, &[1, 2]);
        claims.complete(5, &Rc::from([1, 2]));
        claims.complete(7, &Rc::from([3]));
        assert!(claims.on_disk(4).is_empty());
        assert_eq!(claims.on_disk(5), [1, 2]);
        assert_eq!(claims.on_disk(9), [3]);
        assert!(claims.whole.is_empty() && claims.replaced.is_empty());
    }

    #[test]
    fn what_was_replaced_meanwhile_is_not_claimed() {
        let mut claims = Claims::default();
        claims.complete(5, &Rc::from([1, 2]));
        claims.replace(6, &[2, 3]);
        assert_eq!(claims.on_disk(5), [1]);
        // The copy that has taken its place is another matter; and what begins empty is whole with its own ticket.
        claims.complete(8, &Rc::from([2]));
        claims.replace(9, &[4]);
        claims.complete(9, &Rc::from([4]));
        assert_eq!(claims.on_disk(9), [2, 4]);
    }
}
