//! What nodes ask each other, and what they answer.
//!
//! openraft's types have twins here, as in [`crate::raft::stored`], whose checks are used for what they are made of. After
//! the form comes the sense, as far as a message has it by itself: entries that follow each other, votes that fit what
//! they are for. openraft takes that for granted, and must not be led to doubt it by another node.
//!
//! Pure.

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use rkyv::{Archive, Deserialize, Serialize};

use super::error::{Elsewhere, Failure};
use super::frame::REQUEST_BYTES_MAX;
use crate::raft::command::{COUNT_MAX, Command, NodeId, PARTITIONS_MAX, REPLICAS_MAX, Refusal, Reply};
use crate::raft::govern::{HandOver, LeaseAnswer, LeaseRequest};
use crate::raft::settings::MESSAGE_ENTRIES_MAX;
use crate::raft::snapshot::SNAPSHOT_BYTES_MAX;
use crate::raft::stored::{self, Change, OLDEST, StoredError, StoredLogId, StoredVote, check_id};
use crate::raft::types::{Entry, LogId, Types, Vote};

/// Bytes of entries after which a message has enough of them. Its first entry may be longer.
pub const APPEND_BYTES: usize = 1 << 20;

/// Bytes of a snapshot in one message: heartbeats on the same connection wait no longer than for this.
pub const PIECE_BYTES_MAX: usize = 64 << 10;

// The longest entry says of all partitions who is in sync; one that places all is shorter.
const IN_SYNC_BYTES_MAX: usize = 32 + 16 * REPLICAS_MAX;
const _: () = assert!(IN_SYNC_BYTES_MAX * PARTITIONS_MAX + APPEND_BYTES + PIECE_BYTES_MAX < REQUEST_BYTES_MAX);
const _: () = assert!(SNAPSHOT_BYTES_MAX < u32::MAX as usize);

/// A part of a snapshot, in order. What the snapshot is of stands in itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub vote: Vote,
    /// Which snapshot of this connection.
    pub transfer: u64,
    pub offset: u32,
    pub total: u32,
    pub bytes: Vec<u8>,
}

/// What a node asks.
#[derive(Clone, Debug)]
pub enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Piece(Piece),
    TransferLeader(TransferLeaderRequest<Types>),
    Propose(Command),
    Lease(LeaseRequest),
    HandOver(HandOver),
}

/// What it is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    /// The piece was taken, and more are expected.
    Piece,
    Snapshot(SnapshotResponse<Types>),
    /// Whether the node will try to lead.
    TransferLeader(bool),
    /// The index of the entry, and what came of it.
    Proposed(u64, Reply),
    NotLeader(Elsewhere),
    Failed(Failure),
    Lease(LeaseAnswer),
    /// How many roles are on their way.
    HandingOver(u32),
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredBallot {
    vote: StoredVote,
    last: Option<StoredLogId>,
    /// In a request: whether the leader has asked for it. In an answer: whether it is granted.
    yes: bool,
}

#[derive(Archive, Serialize, Deserialize)]
enum StoredRequest {
    Append {
        vote: StoredVote,
        previous: Option<StoredLogId>,
        committed: Option<StoredLogId>,
        /// Each as in the log on disk.
        entries: Vec<Vec<u8>>,
    },
    Vote(StoredBallot),
    PreVote(StoredBallot),
    Piece {
        vote: StoredVote,
        transfer: u64,
        offset: u32,
        total: u32,
        bytes: Vec<u8>,
    },
    TransferLeader {
        from: StoredVote,
        to: NodeId,
        last: Option<StoredLogId>,
    },
    Propose(Command),
    Lease(LeaseRequest),
    HandOver(HandOver),
}

#[derive(Archive, Serialize, Deserialize)]
enum StoredAnswer {
    Appended,
    AppendedUpto(Option<StoredLogId>),
    Conflict,
    HigherVote(StoredVote),
    Vote(StoredBallot),
    Piece,
    Snapshot(StoredVote),
    TransferLeader(bool),
    Proposed(u64, Reply),
    NotLeader(Elsewhere),
    Failed(Failure),
    Lease(LeaseAnswer),
    HandingOver(u32),
}

fn sense(holds: bool, otherwise: &'static str) -> Result<(), StoredError> {
    if holds { Ok(()) } else { Err(StoredError::Senseless(otherwise)) }
}

fn ballot(request: &VoteRequest<Types>) -> StoredBallot {
    StoredBallot {
        vote: request.vote.into(),
        last: request.last_log_id.map(StoredLogId::from),
        yes: request.leadership_transfer,
    }
}

fn candidacy(ballot: StoredBallot) -> Result<VoteRequest<Types>, StoredError> {
    let vote = ballot.vote.check()?;
    sense(!vote.committed, "a vote that is won already is asked for")?;
    let mut request = VoteRequest::new(vote, check_id(ballot.last)?);
    request.leadership_transfer = ballot.yes;
    Ok(request)
}

/// The entries that fit into one message, at least one if there is any, as they lie on disk.
pub fn fitting(entries: &[Entry]) -> Result<Vec<Vec<u8>>, StoredError> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    for entry in entries.iter().take(MESSAGE_ENTRIES_MAX as usize) {
        let record = Change::Append(entry.clone()).encode()?;
        if !records.is_empty() && bytes + record.len() > APPEND_BYTES {
            break;
        }
        bytes += record.len();
        records.push(record);
    }
    Ok(records)
}

/// A message with the entries that fit, and how many those are.
pub fn encode_append(request: &AppendEntriesRequest<Types>) -> Result<(Vec<u8>, usize), StoredError> {
    let entries = fitting(&request.entries)?;
    let count = entries.len();
    let stored = StoredRequest::Append {
        vote: request.vote.into(),
        previous: request.prev_log_id.map(StoredLogId::from),
        committed: request.leader_commit.map(StoredLogId::from),
        entries,
    };
    Ok((stored::encode(OLDEST, &stored)?, count))
}

fn decode_entries(vote: &Vote, previous: Option<LogId>, records: Vec<Vec<u8>>) -> Result<Vec<Entry>, StoredError> {
    sense(records.len() <= MESSAGE_ENTRIES_MAX as usize, "too many entries in a message")?;
    let mut entries = Vec::with_capacity(records.len());
    let mut before = previous;
    for record in records {
        let Change::Append(entry) = Change::decode(&record)? else {
            return Err(StoredError::Senseless("an entry is none"));
        };
        let id = entry.log_id;
        sense(id.index == before.map_or(0, |id| id.index + 1), "entries do not follow each other")?;
        sense(before.is_none_or(|before| before.leader_id <= id.leader_id), "an entry is older than the one before")?;
        before = Some(id);
        entries.push(entry);
    }
    sense(before.is_none_or(|last| last.leader_id <= vote.leader_id), "an entry is newer than its leader")?;
    Ok(entries)
}

impl Request {
    /// The bytes. Of too many entries only those that fit are in them; see [`encode_append`].
    pub fn encode(&self) -> Result<Vec<u8>, StoredError> {
        let version = match self {
            Request::Propose(command) => command.version(),
            _ => OLDEST,
        };
        let stored = match self {
            Request::Append(request) => return Ok(encode_append(request)?.0),
            Request::Vote(request) => StoredRequest::Vote(ballot(request)),
            Request::PreVote(request) => StoredRequest::PreVote(ballot(request)),
            Request::Piece(piece) => StoredRequest::Piece {
                vote: piece.vote.into(),
                transfer: piece.transfer,
                offset: piece.offset,
                total: piece.total,
                bytes: piece.bytes.clone(),
            },
            Request::TransferLeader(request) => StoredRequest::TransferLeader {
                from: (*request.from_leader()).into(),
                to: *request.to_node_id(),
                last: request.last_log_id().copied().map(StoredLogId::from),
            },
            Request::Propose(command) => StoredRequest::Propose(command.clone()),
            Request::Lease(request) => StoredRequest::Lease(*request),
            Request::HandOver(request) => StoredRequest::HandOver(request.clone()),
        };
        stored::encode(version, &stored)
    }

    pub fn decode(bytes: &[u8]) -> Result<Request, StoredError> {
        Ok(match stored::decode::<StoredRequest>(bytes)? {
            StoredRequest::Append { vote, previous, committed, entries } => {
                let (vote, prev_log_id) = (vote.check()?, check_id(previous)?);
                sense(vote.committed, "entries come from a node that does not lead")?;
                let entries = decode_entries(&vote, prev_log_id, entries)?;
                let leader_commit = check_id(committed)?;
                Request::Append(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
            }
            StoredRequest::Vote(ballot) => Request::Vote(candidacy(ballot)?),
            StoredRequest::PreVote(ballot) => Request::PreVote(candidacy(ballot)?),
            StoredRequest::Piece { vote, transfer, offset, total, bytes } => {
                let vote = vote.check()?;
                sense(vote.committed, "a snapshot comes from a node that does not lead")?;
                sense(!bytes.is_empty() && bytes.len() <= PIECE_BYTES_MAX, "a piece of a snapshot has no such length")?;
                sense(total as usize <= SNAPSHOT_BYTES_MAX, "a snapshot is too long")?;
                let end = u64::from(offset) + bytes.len() as u64;
                sense(end <= u64::from(total), "a piece goes beyond the end of its snapshot")?;
                Request::Piece(Piece { vote, transfer, offset, total, bytes })
            }
            StoredRequest::TransferLeader { from, to, last } => {
                let from = from.check()?;
                sense(from.committed, "leadership comes from a node that does not lead")?;
                sense(to != 0 && to <= COUNT_MAX, "leadership goes to nobody")?;
                Request::TransferLeader(TransferLeaderRequest::new(from, to, check_id(last)?))
            }
            StoredRequest::Propose(command) => {
                command.check().map_err(StoredError::Senseless)?;
                Request::Propose(command)
            }
            StoredRequest::Lease(request) => {
                request.check().map_err(StoredError::Senseless)?;
                Request::Lease(request)
            }
            StoredRequest::HandOver(request) => {
                request.check().map_err(StoredError::Senseless)?;
                Request::HandOver(request)
            }
        })
    }

    /// In whose name it is; None: in nobody's.
    pub fn sender(&self) -> Option<NodeId> {
        let vote = match self {
            Request::Append(request) => &request.vote,
            Request::Vote(request) | Request::PreVote(request) => &request.vote,
            Request::Piece(piece) => &piece.vote,
            Request::TransferLeader(request) => request.from_leader(),
            Request::Propose(_) => return None,
            Request::Lease(request) => return Some(request.node),
            Request::HandOver(request) => return Some(request.node),
        };
        Some(vote.leader_id.node_id)
    }
}

impl Answer {
    pub fn encode(&self) -> Result<Vec<u8>, StoredError> {
        let stored = match self {
            Answer::Append(AppendEntriesResponse::Success) => StoredAnswer::Appended,
            Answer::Append(AppendEntriesResponse::PartialSuccess(upto)) => {
                StoredAnswer::AppendedUpto(upto.map(StoredLogId::from))
            }
            Answer::Append(AppendEntriesResponse::Conflict) => StoredAnswer::Conflict,
            Answer::Append(AppendEntriesResponse::HigherVote(vote)) => StoredAnswer::HigherVote((*vote).into()),
            Answer::Vote(response) => StoredAnswer::Vote(StoredBallot {
                vote: response.vote.into(),
                last: response.last_log_id.map(StoredLogId::from),
                yes: response.vote_granted,
            }),
            Answer::Piece => StoredAnswer::Piece,
            Answer::Snapshot(response) => StoredAnswer::Snapshot(response.vote.into()),
            Answer::TransferLeader(will) => StoredAnswer::TransferLeader(*will),
            Answer::Proposed(index, reply) => StoredAnswer::Proposed(*index, reply.clone()),
            Answer::NotLeader(elsewhere) => StoredAnswer::NotLeader(elsewhere.clone()),
            Answer::Lease(answer) => StoredAnswer::Lease(*answer),
            Answer::HandingOver(count) => StoredAnswer::HandingOver(*count),
            Answer::Failed(failure) => StoredAnswer::Failed(*failure),
        };
        // Whoever reads what came with a later version has asked for it.
        stored::encode(OLDEST, &stored)
    }

    pub fn decode(bytes: &[u8]) -> Result<Answer, StoredError> {
        Ok(match stored::decode::<StoredAnswer>(bytes)? {
            StoredAnswer::Appended => Answer::Append(AppendEntriesResponse::Success),
            StoredAnswer::AppendedUpto(upto) => Answer::Append(AppendEntriesResponse::PartialSuccess(check_id(upto)?)),
            StoredAnswer::Conflict => Answer::Append(AppendEntriesResponse::Conflict),
            StoredAnswer::HigherVote(vote) => Answer::Append(AppendEntriesResponse::HigherVote(vote.check()?)),
            StoredAnswer::Vote(ballot) => {
                Answer::Vote(VoteResponse::new(ballot.vote.check()?, check_id(ballot.last)?, ballot.yes))
            }
            StoredAnswer::Piece => Answer::Piece,
            StoredAnswer::Snapshot(vote) => Answer::Snapshot(SnapshotResponse::new(vote.check()?)),
            StoredAnswer::TransferLeader(will) => Answer::TransferLeader(will),
            StoredAnswer::Proposed(index, reply) => {
                sense(index <= COUNT_MAX, "an entry that cannot be")?;
                Answer::Proposed(index, in_words(reply))
            }
            StoredAnswer::NotLeader(elsewhere) => {
                elsewhere.check()?;
                Answer::NotLeader(elsewhere)
            }
            StoredAnswer::Failed(failure) => Answer::Failed(failure),
            StoredAnswer::Lease(answer) => {
                answer.check().map_err(StoredError::Senseless)?;
                Answer::Lease(answer)
            }
            StoredAnswer::HandingOver(count) => {
                sense(count as usize <= PARTITIONS_MAX, "more roles than there are")?;
                Answer::HandingOver(count)
            }
        })
    }
}

/// Words do not travel.
fn in_words(reply: Reply) -> Reply {
    match reply {
        Reply::Refused(Refusal::Malformed(_)) => Reply::Refused(Refusal::Malformed("the leader cannot execute it")),
        reply => reply,
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
pub(super) mod tests;
