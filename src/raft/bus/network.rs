//! The bus as openraft sees it.
//!
//! openraft believes what a network answers, so answers are held against their requests here: one that cannot be is an
//! error, not a panic further in.
//!
//! On the control core. No state of its own but the number of the next snapshot.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft_rt::Instant as _;

use super::Links;
use super::error::BusError;
use super::link::Link;
use super::message::{Answer, PIECE_BYTES_MAX, Piece, Request, encode_append};
use crate::raft::command::NodeId;
use crate::raft::runtime::Instant;
use crate::raft::types::{Peer, Snapshot, SnapshotBytes, Types, Vote};

/// How long openraft leaves a node alone that cannot be reached. Links have a pause of their own, so asking costs little.
pub(in crate::raft) const UNREACHABLE_PAUSE: Duration = Duration::from_millis(50);

/// How long entries may take to be on the disk of another node. openraft allows no more than a heartbeat takes: a disk that is
/// slower would never get any.
pub(in crate::raft) const APPEND_PATIENCE: Duration = Duration::from_millis(500);

/// Makes connections for openraft.
pub struct Network {
    links: Rc<Links>,
    transfers: Rc<Cell<u64>>,
}

/// What openraft asks one node through. All of a node share its link.
pub struct Client {
    link: Rc<Link>,
    transfers: Rc<Cell<u64>>,
}

impl Network {
    pub(super) fn new(links: Rc<Links>) -> Network {
        Network { links, transfers: Rc::default() }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, peer: &Peer) -> Client {
        Client { link: self.links.to(target, peer), transfers: Rc::clone(&self.transfers) }
    }
}

/// What openraft makes of an error: it waits a while before it asks a node again that cannot be reached.
impl From<BusError> for RPCError<Types> {
    fn from(error: BusError) -> RPCError<Types> {
        match error {
            BusError::Late | BusError::Closed => RPCError::Network(NetworkError::new(&error)),
            error => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }
}

/// Whether an answer can be one to this request, of which `sent` entries were sent.
fn check_appended(
    request: &AppendEntriesRequest<Types>,
    sent: usize,
    response: AppendEntriesResponse<Types>,
) -> Result<AppendEntriesResponse<Types>, BusError> {
    let upto = request.entries[..sent].last().map(|entry| entry.log_id).or(request.prev_log_id);
    let possible = match &response {
        AppendEntriesResponse::Success if sent < request.entries.len() => {
            return Ok(AppendEntriesResponse::PartialSuccess(upto));
        }
        AppendEntriesResponse::Success => true,
        AppendEntriesResponse::PartialSuccess(id) => {
            *id == request.prev_log_id || request.entries[..sent].iter().any(|entry| Some(entry.log_id) == *id)
        }
        AppendEntriesResponse::Conflict => request.prev_log_id.is_some(),
        AppendEntriesResponse::HigherVote(vote) => *vote > request.vote,
    };
    if possible { Ok(response) } else { Err(BusError::Answer) }
}

impl Client {
    async fn ask_vote(&self, request: Request, option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.link.ask(&request, option.hard_ttl()).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(BusError::Answer.into()),
        }
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        bytes: &SnapshotBytes,
        patience: Duration,
    ) -> Result<SnapshotResponse<Types>, BusError> {
        let end = Instant::now() + patience;
        let transfer = self.transfers.get();
        self.transfers.set(transfer + 1);
        let total = bytes.len() as u32;
        let mut offset = 0;
        for piece in bytes.chunks(PIECE_BYTES_MAX) {
            let request = Request::Piece(Piece { vote, transfer, offset, total, bytes: piece.to_vec() });
            offset += piece.len() as u32;
            match self.link.ask(&request, end - Instant::now()).await? {
                Answer::Piece if offset < total => {}
                // Before the end: it has a higher vote, and does not want the rest.
                Answer::Snapshot(response) if offset == total || response.vote > vote => return Ok(response),
                _ => return Err(BusError::Answer),
            }
        }
        Err(BusError::Answer)
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotBytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let (payload, sent) = encode_append(&request).map_err(BusError::from)?;
        match self.link.ask_encoded(&payload, option.hard_ttl().max(APPEND_PATIENCE)).await? {
            Answer::Append(response) => Ok(check_appended(&request, sent, response)?),
            _ => Err(BusError::Answer.into()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(Request::Vote(request), option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(Request::PreVote(request), option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sending = async {
            let sent = self.send_snapshot(vote, &snapshot.snapshot, option.hard_ttl()).await;
            sent.map_err(|error| StreamingError::from(RPCError::from(error)))
        };
        let cancelled = async { Err(cancel.await.into()) };
        futures_lite::future::or(cancelled, sending).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let last = request.last_log_id().copied();
        match self.link.ask(&Request::TransferLeader(request), option.hard_ttl()).await? {
            Answer::TransferLeader(true) => Ok(Ok(())),
            // Which of its reasons it was does not matter to whoever asked.
            Answer::TransferLeader(false) => {
                Ok(Err(TransferLeaderError::LogNotFlushed { expected: last, actual: None }))
            }
            _ => Err(BusError::Answer.into()),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE)))
    }
}
