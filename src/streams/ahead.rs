//! Roles that have gone over to their successors ([`crate::raft::successors`]), as far as this node knows before raft's log says so.
//!
//! A primary that has ended what it leads says so to whoever follows it ([`super::message::Control::Released`]), and each of them goes
//! on as if raft had agreed on that already: the successor leads, and others follow it, the old primary among them. It counts only if the
//! state of this node says that this primary leads in this epoch, and that this successor may go on. So it may come before raft's entry
//! that names the successor, and is kept until then, and after the one that says what has become of the role, and is nothing then.
//!
//! Pure. Owned by the control core. Invariant: at most one note for each partition, the latest.

use std::collections::BTreeMap;

use super::message::Release;
use super::{Epoch, Member, NodeId, PartitionId};
use crate::raft::command::Move;
use crate::raft::state::State;
use crate::raft::successors::Successor;

/// After so long whoever has released a role says to raft where it is, if the successor does not.
pub const UNSAID_MS: u64 = 100;

/// A primary has ended what it led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Released {
    by: NodeId,
    epoch: Epoch,
    naming: u64,
    since_ms: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Ahead(BTreeMap<PartitionId, Released>);

impl Ahead {
    /// Nothing differs from what raft's state says.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A node has ended what it led of these.
    pub fn note(&mut self, now_ms: u64, by: NodeId, releases: &[Release]) {
        for &Release { partition, epoch, naming } in releases {
            let is_known = self.0.get(&partition).is_some_and(|known| known.epoch >= epoch);
            if !is_known {
                self.0.insert(partition, Released { by, epoch, naming, since_ms: now_ms });
            }
        }
    }

    /// Raft's state has changed: forgets what it has come past.
    pub fn forget(&mut self, state: &State) {
        self.0.retain(|partition, released| state.partition(*partition).is_some_and(|is| is.epoch <= released.epoch));
    }

    /// Roles that have gone over, and to whom, as this process knows it.
    pub fn gone<'a>(&'a self, state: &'a State, me: NodeId) -> impl Iterator<Item = (Move, Successor)> + 'a {
        self.valid(state, me).map(|(change, _, successor)| (change, successor))
    }

    fn valid<'a>(&'a self, state: &'a State, me: NodeId) -> impl Iterator<Item = (Move, Released, Successor)> + 'a {
        self.0.iter().filter_map(move |(&partition, &released)| {
            let is = state.partition(partition)?;
            let successor = state.successor(partition)?;
            let leads = (is.epoch, is.primary) == (released.epoch, Some(released.by));
            let is_meant = successor.number == released.naming;
            // A process of this node that is over may have been meant.
            let is_over = successor.to.node == me && !successor.gone && state.member(me) != Some(successor.to);
            (leads && is_meant && !is_over).then_some((Move { partition, epoch: released.epoch }, released, successor))
        })
    }

    /// What this node is to tell raft: the roles that have come to it, and, after a while, those that it has released; and at once those
    /// that it has released to somebody who is gone. By whom they are to be led.
    pub fn unsaid(&self, now_ms: u64, state: &State, me: NodeId) -> Vec<(Member, Vec<Move>)> {
        let mut all: Vec<(Member, Vec<Move>)> = Vec::new();
        for (change, released, Successor { to, gone, .. }) in self.valid(state, me) {
            let late = gone || now_ms.saturating_sub(released.since_ms) >= UNSAID_MS;
            let is_own = to.node == me && !gone;
            let is_due = is_own || late && released.by == me;
            if !is_due {
                continue;
            }
            let to = if gone { state.member(released.by) } else { Some(to) };
            // One that has started anew will be said to be gone.
            let Some(to) = to.filter(|to| state.member(to.node) == Some(*to)) else { continue };
            match all.iter_mut().find(|(member, _)| *member == to) {
                Some((_, moves)) => moves.push(change),
                None => all.push((to, vec![change])),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::command::{Command, InSyncChange, Order, Placement, Reply};
    use crate::raft::stored::VERSION;
    use crate::raft::testing::profile;

    const ROLE: Move = Move { partition: 0, epoch: 1 };
    const RELEASE: Release = Release { partition: 0, epoch: 1, naming: 1 };

    fn register(state: &mut State, node: NodeId) {
        let (identity, after) = (u128::from(node), state.node(node).unwrap().incarnation);
        let boot = u128::from(after) + 1;
        state.apply(&Command::Register { node, identity, boot, after, profile: profile("host") });
    }

    /// Node 1 leads, and nodes 2 and 3 are in sync.
    fn state() -> State {
        let mut state = State::default();
        for node in 1..=3 {
            state.apply(&Command::Join { identity: u128::from(node), profile: profile("host") });
            register(&mut state, node);
        }
        state.apply(&Command::Order(Order::Raise { version: VERSION, starts: 3 }));
        state.apply(&Command::Create { partitions: 1 });
        let changes = vec![Placement { partition: 0, replicas: vec![1, 2, 3] }];
        state.apply(&Command::Place { version: 0, changes });
        let in_sync = (1..=3).map(|node| Member { node, incarnation: 1 }).collect();
        let changes = vec![InSyncChange { partition: 0, epoch: 1, version: 1, in_sync }];
        assert_eq!(state.apply(&Command::SetInSync { changes }), Reply::InSync { changed: 1, stale: 0 });
        state
    }

    fn name(state: &mut State) -> Member {
        let to = Member { node: 2, incarnation: 1 };
        let reply = state.apply(&Command::Name { moves: vec![ROLE], to });
        assert_eq!(reply, Reply::Named { named: 1, stale: 0 });
        to
    }

    fn primaries(ahead: &Ahead, state: &State) -> [Option<NodeId>; 3] {
        [1, 2, 3].map(|me| state.ahead(ahead.gone(state, me)).partition(0).unwrap().primary)
    }

    #[test]
    fn a_role_has_gone_over_when_its_successor_is_named_and_its_primary_has_ended() {
        let (mut state, mut ahead) = (state(), Ahead::default());
        ahead.note(0, 1, &[RELEASE]);
        assert_eq!(primaries(&ahead, &state), [Some(1); 3], "nobody is named yet");
        let to = name(&mut state);
        assert_eq!(primaries(&ahead, &state), [Some(2); 3]);
        let gone = state.ahead(ahead.gone(&state, 3));
        assert_eq!((gone.partition(0).unwrap().epoch, gone.successor(0)), (2, None));
        // The successor says so at once, and the one before it after a while.
        let said = vec![(to, vec![ROLE])];
        assert_eq!([1, 2, 3].map(|me| ahead.unsaid(0, &state, me)), [vec![], said.clone(), vec![]]);
        let late = [1, 2, 3].map(|me| ahead.unsaid(UNSAID_MS, &state, me));
        assert_eq!(late, [said.clone(), said, vec![]]);
        ahead.forget(&state);
        state.apply(&Command::Lead { moves: vec![ROLE], to });
        assert!(!ahead.is_empty());
        ahead.forget(&state);
        assert!(ahead.is_empty());
    }

    #[test]
    fn what_is_not_of_the_primary_and_its_epoch_is_nothing() {
        let (mut state, mut ahead) = (state(), Ahead::default());
        name(&mut state);
        ahead.note(0, 3, &[RELEASE]);
        assert_eq!(primaries(&ahead, &state), [Some(1); 3]);
        ahead.note(0, 1, &[Release { epoch: 2, ..RELEASE }]);
        assert_eq!(primaries(&ahead, &state), [Some(1); 3]);
        let mut ahead = Ahead::default();
        ahead.note(0, 1, &[Release { naming: 2, ..RELEASE }]);
        assert_eq!(primaries(&ahead, &state), [Some(1); 3], "for whom it was ended is not known here");
        let mut ahead = Ahead::default();
        ahead.note(0, 1, &[RELEASE, Release { partition: 7, ..RELEASE }]);
        // Node 2 has started anew: its process was not named. Raft's leader says what becomes of that.
        register(&mut state, 2);
        assert_eq!(primaries(&ahead, &state), [Some(2), Some(1), Some(2)]);
        state.apply(&Command::Promote { starts: state.starts(), dead: vec![], ready: vec![] });
        assert_eq!(primaries(&ahead, &state), [None; 3]);
        let led_again = vec![(Member { node: 1, incarnation: 1 }, vec![ROLE])];
        assert_eq!([1, 2, 3].map(|me| ahead.unsaid(0, &state, me)), [led_again, vec![], vec![]]);
    }
}
