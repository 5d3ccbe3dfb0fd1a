//! What can go wrong on the bus. Nothing of it is fatal: raft asks again.
//!
//! No state.

use std::io;

use rkyv::{Archive, Deserialize, Serialize};

use super::frame::FrameError;
use super::handshake::Refused;
use crate::raft::command::{HOST_BYTES_MAX, NodeId};
use crate::raft::stored::StoredError;
use crate::raft::types::Peer;

/// Why a node does not do what another asks.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("raft has ended there")]
    Ended,
    #[error("it took too long there")]
    Slow,
    #[error("a node may not speak for another one")]
    Sender,
    #[error("a piece of a snapshot does not follow the one before")]
    Piece,
    #[error("a snapshot arrived damaged")]
    Snapshot,
    #[error("as many snapshots are on their way there as may be")]
    Busy,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    #[error("the name '{0}' has no address")]
    Name(String),
    #[error("no connection: {0}")]
    Io(io::ErrorKind),
    #[error("no connection in time")]
    Connect,
    #[error("no answer in time")]
    Late,
    #[error("the connection was closed")]
    Closed,
    #[error("the bus is stopped")]
    Stopped,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Message(#[from] StoredError),
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    #[error("too much waits for this node already")]
    Full,
    #[error("the answer is not one to this request")]
    Answer,
    #[error("{0}")]
    Failed(#[from] Failure),
}

impl BusError {
    /// Whether the request was certainly not executed.
    pub fn is_unsent(&self) -> bool {
        match self {
            BusError::Name(_) | BusError::Io(_) | BusError::Connect | BusError::Refused(_) | BusError::Full => true,
            BusError::Failed(failure) => !matches!(failure, Failure::Slow | Failure::Ended),
            BusError::Late | BusError::Closed | BusError::Stopped | BusError::Answer => false,
            BusError::Frame(_) | BusError::Message(_) => false,
        }
    }
}

impl From<io::Error> for BusError {
    fn from(error: io::Error) -> BusError {
        BusError::Io(error.kind())
    }
}

/// A node that is no leader, and who leads as far as it knows.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    pub leader: Option<(NodeId, Peer)>,
}

impl Elsewhere {
    pub(super) fn check(&self) -> Result<(), StoredError> {
        let Some((node, peer)) = &self.leader else { return Ok(()) };
        crate::raft::stored::counted(*node)?;
        if *node == 0 || peer.bus_port == 0 || peer.host.is_empty() || peer.host.len() > HOST_BYTES_MAX {
            return Err(StoredError::Senseless("a leader that cannot be reached"));
        }
        Ok(())
    }
}
