//! What a follower knows of the data of a partition.

use super::{Epoch, Index, NodeId, Piece, Suffix, Tail, Ticket};

/// What raft's state says that this node is to a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It has no copy.
    #[default]
    Stranger,
    /// It has a copy, and nobody leads.
    Nobody,
    Follow(NodeId),
    Lead,
}

/// How far it has come in that role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// There is nothing to do, or it is led.
    #[default]
    Idle,
    /// The leader was asked in that Open, and has not answered; 0: is to be asked.
    Asked {
        open: u64,
    },
    /// The leader will send a copy.
    Queued,
    Copying,
    /// The copy is there and not applied; the stream goes on behind `after`.
    Finishing {
        run: u64,
        after: Index,
    },
    /// The leader will send what is missing before the cut.
    Completing {
        cut: Index,
    },
    /// Frames with higher indices than `after` count.
    Following {
        after: Index,
    },
    /// This node is to lead, and has received what may have to be dropped: that is decided in raft.
    Doubting,
    /// What was received is being applied.
    Promoting {
        base: Tail,
        suffix: Option<Suffix>,
    },
}

/// Whether there is a place in this node's memory for a partition: see [`super::memory`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Nothing of it is here that counts, and nothing was asked for.
    #[default]
    Lacking,
    /// Nothing of it was here, and it was asked for.
    Coming,
    /// It is here, or was: what it needs now comes in place of that.
    Here,
}

impl Phase {
    /// The leader has said that it leads.
    pub fn is_answered(&self) -> bool {
        !matches!(self, Phase::Idle | Phase::Asked { .. } | Phase::Doubting | Phase::Promoting { .. })
    }
}

/// See the module.
///
/// Invariants: `released <= tail`, and what is between them is in `pending` or in the stream of the leader. Incomplete data has no
/// tail. While it is led, nothing of this but role, epoch and whether that begins from nothing is looked at.
#[derive(Clone, Debug, Default)]
pub struct Data {
    pub role: Role,
    pub epoch: Epoch,
    /// Of this epoch: whoever leads may begin without any data.
    pub from_nothing: bool,
    pub phase: Phase,
    pub place: Place,
    /// It needs so many bytes at least: copies of which it was a part were given up.
    pub least_bytes: u64,
    /// Of what does not count something may be left in memory.
    pub remains: bool,
    /// The leading side has it.
    pub led: bool,
    pub complete: bool,
    /// A copy is whole, and complete when this is applied.
    pub complete_at: Option<Ticket>,
    /// What is received, and what of that was handed out. None: not known, or nothing.
    pub tail: Option<Tail>,
    pub released: Option<Tail>,
    /// In an epoch: up to where the leader's log is known to have nothing that is not here.
    pub reached: Option<Tail>,
    /// The last ticket of something that concerns it.
    pub last_ticket: Ticket,
    /// Received and not handed out, while no stream has it.
    pub pending: Vec<Piece>,
}

impl Data {
    /// There may be something to drop.
    pub fn is_something(&self) -> bool {
        self.complete || self.complete_at.is_some() || self.last_ticket > 0 || self.remains
    }

    /// All of it is to be dropped.
    pub fn drop_all(&mut self) {
        self.forget();
        self.remains = false;
    }

    /// All of it is worthless.
    pub fn forget(&mut self) {
        (self.complete, self.complete_at) = (false, None);
        (self.tail, self.released, self.reached) = (None, None, None);
        self.pending.clear();
    }

    /// Nothing of it is here, and a leader would have to be asked for a copy.
    pub fn lacks(&self) -> bool {
        self.place == Place::Lacking && matches!(self.role, Role::Follow(_)) && !self.led && self.complete_at.is_none()
    }

    /// It is on its way, and was not here before.
    pub fn is_coming(&self) -> bool {
        self.place == Place::Coming && matches!(self.role, Role::Follow(_)) && self.complete_at.is_none()
    }

    /// Up to where nothing is missing here of what was written in this epoch. None: this node has not begun to follow it.
    pub fn has_reached(&self, epoch: Epoch) -> Option<Index> {
        let here = [self.tail, self.reached].into_iter().flatten();
        here.filter(|tail| tail.epoch == epoch).map(|tail| tail.index).max()
    }

    /// The stream has come up to here.
    pub fn reach(&mut self, position: Index) {
        if let Some(after) = self.takes_after() {
            let here = Tail { epoch: self.epoch, index: position.max(after) };
            self.reached = self.reached.max(Some(here));
        }
    }

    /// Frames of the stream count that are beyond this index.
    pub fn takes_after(&self) -> Option<Index> {
        match self.phase {
            Phase::Following { after } | Phase::Finishing { after, .. } => Some(after),
            _ => None,
        }
    }
}
