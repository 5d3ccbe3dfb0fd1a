//! Snapshots of the state: one frame, the same bytes in the file and on the wire.
//!
//! Pure. A snapshot may come from another node, or from a damaged file: everything is checked before it is used.

use rkyv::{Archive, Deserialize, Serialize};

use super::orders::Orders;
use super::settle::{SETTLING_VERSION, Settlements};
use super::state::State;
use super::stored::{self, OLDEST, STORED_BYTES_MAX, StoredError, StoredLogId, StoredMembershipAt};
use super::successors::{NAMING_VERSION, Successors};
use super::types::{LogId, MembershipAt, SnapshotMeta};
use crate::log::frame::{Frame, FrameError, HEADER_BYTES, Kind, take_frame};

/// Largest snapshot.
pub const SNAPSHOT_BYTES_MAX: usize = HEADER_BYTES + STORED_BYTES_MAX;

/// What a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    pub applied: Option<LogId>,
    pub membership: MembershipAt,
    pub state: State,
}

/// All of it in version 2, and most of it in a later one.
#[derive(Archive, Serialize, Deserialize)]
struct StoredContent {
    applied: Option<StoredLogId>,
    membership: StoredMembershipAt,
    state: State,
}

/// All of it in version 3, and most of it in a later one.
#[derive(Archive, Serialize, Deserialize)]
struct StoredOrdered {
    content: StoredContent,
    orders: Orders,
}

/// All of it in version 4, and most of it in a later one.
#[derive(Archive, Serialize, Deserialize)]
struct StoredSettled {
    ordered: StoredOrdered,
    settlements: Settlements,
}

/// What there is from version 5 on.
#[derive(Archive, Serialize, Deserialize)]
struct StoredNamed {
    settled: StoredSettled,
    successors: Successors,
}

/// What is wrong with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Stored(#[from] StoredError),
    #[error("bytes after the end")]
    AfterEnd,
    #[error("not a snapshot of raft")]
    Kind,
    #[error("it is not of the moment that it is said to be of")]
    Moment,
}

impl Content {
    pub fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }

    /// The number by which snapshots are in order: that of the first entry that it does not have, from 1 on.
    pub fn number(&self) -> u64 {
        self.applied.map_or(1, |id| id.index + 2)
    }

    /// The snapshot, made by the node with this identity.
    pub fn encode(&self, identity: u128, wall_ms: i64) -> Result<Frame, StoredError> {
        let stored = StoredContent {
            applied: self.applied.map(StoredLogId::from),
            membership: (&self.membership).into(),
            state: self.state.clone(),
        };
        let version = self.state.orders().version();
        let payload = match version {
            OLDEST => stored::encode(OLDEST, &stored)?,
            _ => {
                let ordered = StoredOrdered { content: stored, orders: self.state.orders().clone() };
                if version < SETTLING_VERSION {
                    stored::encode(version, &ordered)?
                } else {
                    let settlements = Settlements::clone(self.state.settlements());
                    let settled = StoredSettled { ordered, settlements };
                    if version < NAMING_VERSION {
                        stored::encode(version, &settled)?
                    } else {
                        let successors = Successors::clone(self.state.successors());
                        stored::encode(version, &StoredNamed { settled, successors })?
                    }
                }
            }
        };
        Ok(Frame::new(Kind::RaftSnapshot, identity, self.number(), wall_ms, 0, payload))
    }

    /// Reads a snapshot, whoever has made it.
    pub fn decode(bytes: &[u8]) -> Result<Content, SnapshotError> {
        Content::read(bytes).map(|(content, _)| content)
    }

    /// Reads a snapshot that the node with this identity has made.
    pub fn decode_own(bytes: &[u8], identity: u128) -> Result<Content, SnapshotError> {
        let (content, maker) = Content::read(bytes)?;
        if maker == identity { Ok(content) } else { Err(StoredError::Foreign.into()) }
    }

    fn read(mut bytes: &[u8]) -> Result<(Content, u128), SnapshotError> {
        let frame = take_frame(&mut bytes)?.ok_or(FrameError::Truncated)?;
        if !bytes.is_empty() {
            return Err(SnapshotError::AfterEnd);
        }
        if frame.head.kind != Kind::RaftSnapshot {
            return Err(SnapshotError::Kind);
        }
        let payload = frame.payload();
        let unsettled = |ordered| StoredSettled { ordered, settlements: Settlements::default() };
        let unnamed = |settled| StoredNamed { settled, successors: Successors::default() };
        let named = match stored::version_of(payload)? {
            OLDEST => {
                unnamed(unsettled(StoredOrdered { content: stored::decode(payload)?, orders: Orders::default() }))
            }
            version if version < SETTLING_VERSION => unnamed(unsettled(stored::decode(payload)?)),
            version if version < NAMING_VERSION => unnamed(stored::decode(payload)?),
            _ => stored::decode(payload)?,
        };
        let StoredNamed { settled: StoredSettled { ordered, settlements }, successors } = named;
        let StoredOrdered { content: stored, orders } = ordered;
        let state = stored.state.with(orders, settlements, successors);
        state.validate().map_err(StoredError::Senseless)?;
        let content =
            Content { applied: stored::check_id(stored.applied)?, membership: stored.membership.check()?, state };
        if frame.head.first != content.number() {
            return Err(SnapshotError::Moment);
        }
        Ok((content, frame.head.history))
    }
}
