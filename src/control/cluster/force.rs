//! CLUSTER FORCE-PROMOTE: an operator gives up what only nodes had that are lost for good, and this node leads what it has copies of
//! and nobody leads.
//!
//! ```text
//!     an answer of raft      this node knows who leads what
//!     another one            whoever leads raft has applied what took the roles away, and grants no lease to who had them
//!     the longest lease      what is left of others has ended
//!     ForceLead              in raft's log: all of the partitions, or none, if one has a primary now or has had one meanwhile
//!     BeginEmpty             of what this node has no complete copy, if that was ordered
//! ```
//!
//! Owned by the control core.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Member;
use crate::cluster::NodeId;
use crate::control::Control;
use crate::raft::bus::propose::{ProposeError, Proposed};
use crate::raft::command::{Command, Force, Refusal, Reply};
use crate::raft::govern::{LEASE_MS, outlast};

/// How long a proposal may take, and until this node knows what came of it, or is registered.
const PROPOSE_PATIENCE: Duration = Duration::from_secs(2);

/// How long the answer waits until what was promoted is led: copies that begin empty are on disk before.
const LEAD_PATIENCE: Duration = Duration::from_secs(4);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Why nothing is promoted, or it is not known.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum ForceError {
    #[error("this node is in no cluster of several nodes")]
    NoCluster,
    #[error("this node has not registered with its cluster yet: a majority of voters is needed for that")]
    NotRegistered,
    #[error("nothing to promote: there is no partition without a primary of which this node has a complete copy{}", of_others(.0))]
    Nothing(Others),
    #[error(
        "raft does not answer, nothing is promoted: {0}. If a majority of its voters is lost for good, no cluster is left that could \
         decide: what this node has can begin a new one (SAVE, 'keyloom export', 'keyloom import')"
    )]
    NoMajority(ProposeError),
    #[error("this node is behind with raft's log, nothing is promoted")]
    Behind,
    #[error("nothing is promoted: {0}")]
    Refused(Refusal),
    #[error("it is not known whether anything is promoted, look at CLUSTER STATUS: {0}")]
    InDoubt(String),
}

/// Partitions without a primary that are left as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::control) struct Others {
    /// Of as many there is an incomplete copy here.
    incomplete: usize,
    /// Of as many these nodes had everything, which are not said to be lost.
    kept: usize,
    keepers: BTreeSet<NodeId>,
}

fn of_others(Others { incomplete, kept, keepers }: &Others) -> String {
    let mut text = String::new();
    if *kept > 0 {
        let _ = write!(text, "; of {kept} everything is on nodes that are not said to be lost: {keepers:?}");
    }
    if *incomplete > 0 {
        let _ = write!(text, "; of {incomplete} it has an incomplete one: with EMPTY these begin empty");
    }
    text
}

/// What is given up together: the last in-sync set, and whether it begins empty.
type GivenUp = BTreeMap<(Vec<NodeId>, bool), Vec<Force>>;

impl Member {
    /// The partitions that nobody leads, all of whose last in-sync set is lost, and of which this node has a complete copy, or any
    /// copy; by what is given up with them.
    fn orphans(&self, lost: &[NodeId], empty: bool) -> Result<GivenUp, ForceError> {
        let streams = self.streams.borrow();
        let follower = &streams.as_ref().ok_or(ForceError::NotRegistered)?.follower;
        let (mut orphans, mut others) = (GivenUp::new(), Others::default());
        let state = self.reader.state();
        let has = (0..).zip(state.partitions()).filter(|(_, is)| is.replicas.contains(&self.me));
        for (partition, is) in has.filter(|(_, is)| is.epoch > 0 && is.primary.is_none()) {
            let keepers = is.in_sync.iter().filter(|node| **node != self.me && !lost.contains(node));
            others.keepers.extend(keepers.clone());
            if keepers.count() > 0 {
                others.kept += 1;
                continue;
            }
            let from_nothing = !follower.is_complete(partition);
            if from_nothing && !empty {
                others.incomplete += 1;
                continue;
            }
            let force = Force { partition, epoch: is.epoch, from_nothing };
            orphans.entry((is.in_sync.clone(), from_nothing)).or_default().push(force);
        }
        if orphans.is_empty() { Err(ForceError::Nothing(others)) } else { Ok(orphans) }
    }

    /// How many of these this node leads.
    fn leads_of(&self, forced: &[Force]) -> usize {
        let streams = self.streams.borrow();
        let Some(streams) = &*streams else { return 0 };
        forced.iter().filter(|force| streams.leading.has(force.partition)).count()
    }

    /// Lets raft answer: whoever leads it has applied all that was applied here before. The index of the answer.
    async fn hear_of_raft(&self) -> Result<u64, ForceError> {
        let starts = self.reader.state().starts();
        // Nobody is called dead, and nobody ready: it changes nothing.
        let nothing = Command::Promote { starts, dead: Vec::new(), ready: Vec::new() };
        let proposed = self.propose(nothing, PROPOSE_PATIENCE).await.map_err(ForceError::NoMajority)?;
        Ok(proposed.index)
    }

    /// Waits until this node, which may have started just now, knows what raft has agreed on so far.
    async fn catch_up(&self) -> Result<(), ForceError> {
        if !is_soon(PROPOSE_PATIENCE, || self.registered.get()).await {
            return Err(ForceError::NotRegistered);
        }
        let index = self.hear_of_raft().await?;
        match is_soon(PROPOSE_PATIENCE, || self.seat.applied() >= index).await {
            true => Ok(()),
            false => Err(ForceError::Behind),
        }
    }

    /// Waits until nobody can have a lease any more under which partitions are served that have no primary in the state here.
    async fn outlast_leases(&self) -> Result<(), ForceError> {
        self.hear_of_raft().await?;
        glommio::timer::sleep(Duration::from_millis(outlast(i64::from(LEASE_MS)) as u64)).await;
        Ok(())
    }
}

impl Control {
    /// This node leads, by force, what nobody leads, only lost nodes had everything of, and it has a complete copy of; with `empty`
    /// also the others that it has copies of. How many of these it leads then.
    pub(in crate::control) async fn force_promote(
        self: &Rc<Self>,
        lost: Vec<NodeId>,
        empty: bool,
    ) -> Result<usize, ForceError> {
        let member = self.member().ok_or(ForceError::NoCluster)?;
        member.catch_up().await?;
        let orphans = member.orphans(&lost, empty)?;
        let to = member.reader.state().member(member.me).ok_or(ForceError::NotRegistered)?;
        member.outlast_leases().await?;
        let mut forced: Vec<Force> = orphans.values().flatten().copied().collect();
        forced.sort_unstable_by_key(|force| force.partition);
        let command = Command::ForceLead { forced: forced.clone(), to, lost };
        // What is known only if it is done may not be known.
        warn_of(&orphans);
        match member.propose(command, PROPOSE_PATIENCE).await {
            Ok(Proposed { reply: Reply::Forced { .. }, .. }) => {}
            Ok(Proposed { reply: Reply::Refused(why), .. }) => return Err(ForceError::Refused(why)),
            Ok(Proposed { reply, .. }) => return Err(ForceError::InDoubt(format!("{reply:?}"))),
            Err(error) if error.is_certain() => return Err(ForceError::NoMajority(error)),
            Err(error) => return Err(ForceError::InDoubt(error.to_string())),
        }
        tracing::warn!(partitions = forced.len(), "this node leads by force");
        is_soon(LEAD_PATIENCE, || member.leads_of(&forced) == forced.len()).await;
        Ok(member.leads_of(&forced))
    }
}

/// Waits until something is so, and not too long; whether it is.
async fn is_soon(patience: Duration, is_so: impl Fn() -> bool) -> bool {
    let by = Instant::now() + patience;
    while !is_so() {
        if Instant::now() >= by {
            return false;
        }
        glommio::timer::sleep(LOOK).await;
    }
    true
}

/// Says what is given up.
fn warn_of(orphans: &GivenUp) {
    for ((in_sync, from_nothing), forced) in orphans {
        let mut partitions = String::new();
        for Force { partition, epoch, .. } in forced {
            let comma = if partitions.is_empty() { "" } else { ", " };
            let _ = write!(partitions, "{comma}{partition} after epoch {epoch}");
        }
        tracing::warn!(
            last_in_sync = ?in_sync,
            empty = from_nothing,
            count = forced.len(),
            partitions,
            "this node asks to lead by force: what only the nodes had that were in sync last, is given up with that"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        let nothing =
            "nothing to promote: there is no partition without a primary of which this node has a complete copy";
        assert_eq!(ForceError::Nothing(Others::default()).to_string(), nothing);
        let kept = "; of 2 everything is on nodes that are not said to be lost: {4, 7}";
        let incomplete = "; of 3 it has an incomplete one: with EMPTY these begin empty";
        let others = Others { incomplete: 3, kept: 2, keepers: BTreeSet::from([7, 4]) };
        assert_eq!(ForceError::Nothing(others).to_string(), format!("{nothing}{kept}{incomplete}"));
    }
}
