//! How a command finds the leader.
//!
//! First comes the own raft, if there is one, then whoever it says leads, then the addresses that are known; and again,
//! until somebody leads or patience is over. A command that was perhaps executed is proposed again only if that changes
//! nothing.
//!
//! On the control core. No state.

use std::rc::Rc;
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant as _, WatchReceiver};

use super::Bus;
use super::error::{BusError, Elsewhere, Failure};
use super::link::Link;
use super::message::{Answer, Request};
use super::server;
use crate::raft::command::{Command, NodeId, Reply};
use crate::raft::runtime::{Glommio, Instant};
use crate::raft::types::{Peer, Raft};

/// How long one node may take over a command. The leader of a cluster that works needs milliseconds.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// Between rounds in which nobody led.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

/// Nodes that are followed in one round from one "not me" to the next. Two nodes may each take the other for the leader.
const HINTS_MAX: usize = 4;

/// A command was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The index of its entry: a node whose state has it knows what came of it.
    pub index: u64,
    pub reply: Reply,
}

/// Why it is not known to be executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("{0}")]
    Malformed(&'static str),
    /// It was not executed.
    #[error("nobody leads; the last attempt: {0}")]
    NoLeader(String),
    /// It may have been executed, or be yet.
    #[error("it is not known whether the command was executed: {0}")]
    InDoubt(BusError),
}

/// Who is asked.
enum Target {
    Own(Raft),
    Other(Rc<Link>),
}

impl ProposeError {
    /// Whether the command was not executed, and will not be.
    pub fn is_certain(&self) -> bool {
        !matches!(self, ProposeError::InDoubt(_))
    }
}

fn may_be_repeated(command: &Command) -> bool {
    matches!(command, Command::Join { .. } | Command::Register { .. } | Command::Order(_))
}

async fn ask(target: &Target, command: &Command) -> Result<Answer, BusError> {
    match target {
        Target::Own(raft) => {
            if let Some(leader) = leader_elsewhere(raft) {
                return Ok(Answer::NotLeader(Elsewhere { leader: Some(leader) }));
            }
            let proposing = server::propose(raft, command.clone());
            let answer = Glommio::timeout(ANSWER_PATIENCE, proposing).await;
            Ok(answer.unwrap_or(Err(Failure::Slow))?)
        }
        Target::Other(link) => link.ask(&Request::Propose(command.clone()), ANSWER_PATIENCE).await,
    }
}

/// Who leads, if it is known to be another node. Asking raft itself takes as long as it is busy.
fn leader_elsewhere(raft: &Raft) -> Option<(NodeId, Peer)> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let leader = metrics.current_leader.filter(|leader| *leader != metrics.id)?;
    let peer = metrics.membership_config.membership().get_node(&leader)?;
    Some((leader, peer.clone()))
}

impl Bus {
    /// Proposes a command to whoever leads: by way of the own `raft` if the node has one, and of `seeds`, the addresses of
    /// other nodes.
    pub async fn propose(
        &self,
        raft: Option<&Raft>,
        seeds: &[Peer],
        command: Command,
        patience: Duration,
    ) -> Result<Proposed, ProposeError> {
        command.check().map_err(ProposeError::Malformed)?;
        let end = Instant::now() + patience;
        // Not in the table of links: who is at these addresses is not known.
        let strangers: Vec<Rc<Link>> = seeds.iter().map(|seed| Rc::new(self.stranger(seed))).collect();
        let own = raft.cloned().map(Target::Own);
        let first: Vec<Target> = own.into_iter().chain(strangers.iter().cloned().map(Target::Other)).collect();
        let mut last = String::from("nobody was asked");
        let proposed = loop {
            match self.round(&first, &command, &mut last).await {
                Some(outcome) => break outcome,
                // Whoever does not let a stranger in will not later, either.
                None if raft.is_none() && strangers.iter().any(|link| link.is_refused()) => {
                    break Err(ProposeError::NoLeader(last));
                }
                None if Instant::now() >= end => break Err(ProposeError::NoLeader(last)),
                None => Glommio::sleep(ROUND_PAUSE).await,
            }
        };
        strangers.iter().for_each(|link| link.close());
        proposed
    }

    /// Asks everybody once, and whom they name; None: the command was not executed, and may be proposed again.
    async fn round(
        &self,
        first: &[Target],
        command: &Command,
        last: &mut String,
    ) -> Option<Result<Proposed, ProposeError>> {
        let (mut firsts, mut hint, mut hints) = (first.iter(), None, 0);
        while let Some(target) = hint.take().as_ref().or_else(|| firsts.next()) {
            let error = match ask(target, command).await {
                Ok(Answer::Proposed(index, reply)) => return Some(Ok(Proposed { index, reply })),
                Ok(Answer::NotLeader(Elsewhere { leader })) => {
                    let Some((node, peer)) = leader.filter(|_| hints < HINTS_MAX) else {
                        *last = String::from("no leader is known");
                        continue;
                    };
                    *last = format!("node {node} is said to lead");
                    hint = Some(Target::Other(self.link(node, &peer)));
                    hints += 1;
                    continue;
                }
                Ok(_) => BusError::Answer,
                Err(error) => error,
            };
            if !error.is_unsent() && !may_be_repeated(command) {
                return Some(Err(ProposeError::InDoubt(error)));
            }
            *last = error.to_string();
        }
        None
    }

    fn link(&self, node: NodeId, peer: &Peer) -> Rc<Link> {
        self.links.to(node, peer)
    }

    fn stranger(&self, peer: &Peer) -> Link {
        self.links.new_link(0, peer)
    }
}
