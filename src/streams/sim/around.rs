//! The data of a cluster whose raft, leases and processes are simulated elsewhere ([`crate::raft::sim`]): this world then has
//! only what is between nodes, their logs and their data, and is told the rest.

use super::node::Node;
use super::{Mistake, PARTITIONS, World};
use crate::raft::command::Move;
use crate::raft::state::State;
use crate::streams::{Epoch, InSyncChange, Index, NodeId, PartitionId};

/// Who decides.
pub(crate) trait Around {
    /// Whether replies of a node for a partition may leave now: by its lease, and by what it knows.
    fn may_answer(&self, n: NodeId, p: PartitionId, epoch: Epoch) -> bool;

    /// A reply leaves.
    fn answers(&self, n: NodeId, p: PartitionId, epoch: Epoch);

    /// A node proposes who is in sync. What comes of it is told later.
    fn propose(&self, n: NodeId, change: InSyncChange);

    /// A node says how far it had come in a log that was lost.
    fn reach(&self, n: NodeId, of: Move, reached: Index, lacking: Vec<PartitionId>);

    /// Whether nothing gets from one node to another.
    fn is_cut(&self, from: NodeId, to: NodeId) -> bool;
}

impl World {
    /// So many nodes, none of which runs. All have disks.
    pub(crate) fn around(seed: u64, mistake: Mistake, nodes: u64, around: Box<dyn Around>) -> World {
        let mut world = World::new(seed, mistake);
        let node = |id| Node {
            id,
            alive: false,
            boot: 0,
            stalled_until_ms: 0,
            limit_bytes: None,
            state: State::default(),
            known: 0,
            asked_ms: 0,
            process: None,
            disk: vec![Vec::new(); PARTITIONS],
            disk_complete: vec![true; PARTITIONS],
            disk_end: 0,
            fresh: true,
        };
        world.nodes = (1..=nodes).map(node).collect();
        (world.raft, world.disks, world.around) = (Default::default(), true, Some(around));
        world.moves_roles = false;
        world
    }

    /// Whether a reply may leave now, as far as its node can know.
    pub(super) fn may_answer(&self, n: NodeId, p: PartitionId, epoch: Epoch) -> bool {
        match &self.around {
            Some(around) => around.may_answer(n, p, epoch),
            None => self.is_entitled(n, p, epoch),
        }
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.around.as_ref().is_some_and(|around| around.is_cut(from, to))
    }

    /// A process runs.
    pub(crate) fn runs(&mut self, n: NodeId, boot: u64) {
        let node = self.node(n);
        (node.alive, node.boot, node.stalled_until_ms) = (true, boot, 0);
    }

    /// It is gone, with its memory.
    pub(crate) fn is_gone(&mut self, n: NodeId) {
        self.crash(n);
    }

    /// It does nothing until then.
    pub(crate) fn stalls(&mut self, n: NodeId, until_ms: u64) {
        self.node(n).stalled_until_ms = until_ms;
    }

    /// A node hears of what raft has agreed on.
    pub(crate) fn hears(&mut self, n: NodeId, state: &State) {
        let node = self.node(n);
        node.state.clone_from(state);
        let registered = state.node(n).is_some_and(|known| known.boot == u128::from(node.boot));
        if node.process.is_some() {
            self.tell_roles(n);
        } else if registered && node.alive {
            self.begin(n);
        }
    }

    /// Raft has agreed on more.
    pub(crate) fn is_agreed(&mut self, state: &State) {
        let before = std::mem::replace(&mut self.raft.agreed, state.clone());
        self.note_losses(&before);
        for (p, _) in (0..).zip(state.partitions()).filter(|(_, known)| known.epoch > 0) {
            if !self.is_safe(p, 0) {
                self.forget_promises(p);
            }
        }
    }

    /// A proposal has failed for certain.
    pub(crate) fn is_refused(&mut self, n: NodeId, change: &InSyncChange) {
        self.on_leader(n, |leader, _, _| leader.refused(change));
    }

    /// Whether a node has what it is in sync for.
    pub(crate) fn has_all(&self, n: NodeId) -> bool {
        self.is_ready(n)
    }

    /// Whether a node has opened a partition.
    pub(crate) fn leads(&self, n: NodeId, p: PartitionId, epoch: Epoch) -> bool {
        let process = self.nodes[n as usize - 1].process.as_ref();
        process.is_some_and(|process| process.open.get(&p) == Some(&epoch))
    }

    /// Something happens, at this moment.
    pub(crate) fn goes_on(&mut self, now_ms: u64) -> Result<(), String> {
        self.now_ms = self.now_ms.max(now_ms);
        self.turn()
    }

    /// Nothing is written any more, and nothing goes wrong.
    pub(crate) fn quieten(&mut self) {
        self.quiet = true;
    }

    /// Why it is not at rest; if it is, all that was promised has to be there.
    pub(crate) fn rests(&mut self) -> Option<String> {
        let unrest = self.unrest();
        if unrest.is_none() {
            for (p, known) in (0..).zip(self.raft.agreed.clone().partitions()) {
                known.primary.into_iter().for_each(|primary| self.judge_leader(primary, p));
            }
            self.judge_spans();
        }
        unrest
    }

    /// Replies that have left.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.seen.acked
    }
}
