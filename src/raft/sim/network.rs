//! The network of a simulation: calls that take a while, are lost, or reach those who cannot answer.
//!
//! In place of the bus and its sockets. A call runs at the process that listens at a host, in that one's time; the way there and
//! the way back are slow, lossy and cut each on its own. What is lost is silence: whoever has called waits for as long as it
//! has patience. What reaches a host where nobody listens is answered at once, as is what a process was executing when it died.
//!
//! Owned by the thread that simulates.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft_rt::AsyncRuntime;
use tokio::sync::oneshot;

use super::executor::{Executor, Process};
use super::node::Member;
use crate::log::testing::Random;
use crate::raft::bus::network::{APPEND_PATIENCE, UNREACHABLE_PAUSE};
use crate::raft::command::NodeId;
use crate::raft::types::{Peer, Raft, Runtime, Snapshot, SnapshotBytes, Types, Vote};

/// A machine, by its number.
pub type Host = usize;

/// What a message takes on a good day, ns.
const GOOD_NS: u64 = 2_000_000;
/// And on a bad one.
const BAD_NS: u64 = 400_000_000;

/// How long a snapshot may take. openraft allows more, for large ones; what is lost here is not sent again by anybody else.
const SNAPSHOT_PATIENCE: Duration = Duration::from_millis(500);

/// See the module.
pub struct Network {
    pub executor: Executor,
    random: RefCell<Random>,
    /// Who listens at each host.
    listening: RefCell<BTreeMap<Host, Rc<Member>>>,
    /// From where to where nothing gets.
    cut: RefCell<BTreeSet<(Host, Host)>>,
    /// Processes that reach nobody, and hear of nobody.
    isolated: RefCell<BTreeSet<Process>>,
    /// Of a hundred messages, those that take long, and those that are lost.
    pub slow: Cell<u64>,
    pub lossy: Cell<u64>,
    /// What belongs to lost messages: dropped, it would tell those who wait.
    lost: RefCell<Vec<Box<dyn Any>>>,
}

/// Who calls.
#[derive(Clone)]
pub struct Caller {
    pub network: Rc<Network>,
    pub process: Process,
    pub host: Host,
}

pub fn peer(host: Host) -> Peer {
    Peer { host: name(host), bus_port: 16379 }
}

pub fn name(host: Host) -> String {
    format!("host-{host}")
}

pub fn host_of(peer: &Peer) -> Host {
    peer.host.trim_start_matches("host-").parse().expect("the name of a host")
}

impl Network {
    pub fn new(executor: Executor, seed: u64) -> Network {
        Network {
            executor,
            random: RefCell::new(Random(seed)),
            listening: RefCell::default(),
            cut: RefCell::default(),
            isolated: RefCell::default(),
            slow: Cell::new(0),
            lossy: Cell::new(0),
            lost: RefCell::default(),
        }
    }

    pub fn listen(&self, member: &Rc<Member>) {
        self.listening.borrow_mut().insert(member.caller.host, Rc::clone(member));
    }

    /// The process is gone from its host, or listens no more.
    pub fn forget(&self, process: Process) {
        let mut listening = self.listening.borrow_mut();
        let gone = listening.extract_if(.., |_, member| member.caller.process == process).collect::<Vec<_>>();
        drop(listening);
        drop(gone);
    }

    /// From now on nothing gets from this process to others or from them to it, not even what is on its way.
    pub fn isolate(&self, process: Process) {
        self.forget(process);
        self.isolated.borrow_mut().insert(process);
    }

    /// Whether somebody can be reached that this process is.
    pub fn hears_of(&self, process: Process) -> bool {
        self.listening.borrow().values().any(|member| member.caller.process == process)
    }

    fn is_isolated(&self, process: Process) -> bool {
        self.isolated.borrow().contains(&process)
    }

    pub fn members(&self) -> Vec<Rc<Member>> {
        self.listening.borrow().values().cloned().collect()
    }

    pub fn cut(&self, from: Host, to: Host) {
        self.cut.borrow_mut().insert((from, to));
    }

    pub fn heal(&self) {
        self.cut.borrow_mut().clear();
    }

    pub fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cut.borrow().contains(&(from, to))
    }

    /// Everybody is forgotten, and with them what they hold.
    pub fn close(&self) {
        drop((self.listening.take(), self.lost.take()));
    }

    fn loses(&self) -> bool {
        self.lossy.get() > 0 && self.random.borrow_mut().percent(self.lossy.get())
    }

    fn delay(&self) -> Duration {
        let mut random = self.random.borrow_mut();
        let slow = self.slow.get() > 0 && random.percent(self.slow.get());
        Duration::from_nanos(if slow { random.below(BAD_NS) } else { 50_000 + random.below(GOOD_NS) })
    }

    /// Hands a parcel over at the other end, if it gets there.
    fn carry<T: 'static>(
        self: &Rc<Self>,
        way: (Host, Host),
        parcel: T,
        hand_over: impl FnOnce(&Rc<Network>, T) + 'static,
    ) {
        if self.is_cut(way.0, way.1) || self.loses() {
            return self.lost.borrow_mut().push(Box::new(parcel));
        }
        let (network, delay) = (Rc::clone(self), self.delay());
        self.executor.spawn(Process::WORLD, async move {
            Runtime::sleep(delay).await;
            if network.is_cut(way.0, way.1) {
                return network.lost.borrow_mut().push(Box::new(parcel));
            }
            hand_over(&network, parcel);
        });
    }
}

impl Caller {
    /// Calls whoever listens at a host, if it is node `target`; None: the answer did not come.
    pub async fn call<T: 'static, F>(
        &self,
        to: Host,
        target: Option<NodeId>,
        patience: Duration,
        serve: impl FnOnce(Rc<Member>) -> F + 'static,
    ) -> Option<T>
    where
        F: Future<Output = Option<T>> + 'static,
    {
        let (sender, answer) = oneshot::channel::<Option<T>>();
        let from = self.host;
        if self.network.is_isolated(self.process) {
            self.network.lost.borrow_mut().push(Box::new(sender));
        } else {
            self.network.carry((from, to), sender, move |network, sender| {
                let member = network.listening.borrow().get(&to).cloned();
                // Dropped, the sender says that nobody is there.
                let Some(member) = member.filter(|member| target.is_none_or(|target| member.me == target)) else {
                    return;
                };
                let (network, process) = (Rc::clone(network), member.caller.process);
                network.clone().executor.spawn(process, async move {
                    if let Some(answer) = serve(member).await {
                        if network.is_isolated(process) {
                            return network.lost.borrow_mut().push(Box::new(sender));
                        }
                        network
                            .carry((to, from), (sender, answer), |_, (sender, answer)| drop(sender.send(Some(answer))));
                    }
                });
            });
        }
        let heard = async {
            let answer = answer.await;
            if self.network.is_isolated(self.process) {
                std::future::pending::<()>().await;
            }
            answer
        };
        Runtime::timeout(patience, heard).await.ok()?.ok()?
    }
}

/// Makes links for openraft.
pub struct Factory(pub Caller);

/// What openraft asks one node through.
pub struct Link {
    caller: Caller,
    target: NodeId,
    host: Host,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, peer: &Peer) -> Link {
        Link { caller: self.0.clone(), target, host: host_of(peer) }
    }
}

impl Link {
    async fn ask<T: 'static, E, F>(
        &self,
        patience: Duration,
        serve: impl FnOnce(Raft) -> F + 'static,
    ) -> Result<T, Unreachable<Types>>
    where
        F: Future<Output = Result<T, E>> + 'static,
    {
        let serve = |member: Rc<Member>| async move { serve(member.raft.clone()).await.ok() };
        let answer = self.caller.call(self.host, Some(self.target), patience, serve).await;
        answer.ok_or_else(|| Unreachable::from_string("no answer"))
    }

    /// As [`Link::ask`], of those who may vote.
    async fn ask_voter<F>(
        &self,
        option: RPCOption,
        serve: impl FnOnce(Raft) -> F + 'static,
    ) -> Result<VoteResponse<Types>, RPCError<Types>>
    where
        F: Future<Output = Option<VoteResponse<Types>>> + 'static,
    {
        let serve =
            |member: Rc<Member>| async move { if member.votes() { serve(member.raft.clone()).await } else { None } };
        let answer = self.caller.call(self.host, Some(self.target), option.hard_ttl(), serve).await;
        answer.ok_or_else(|| Unreachable::from_string("no answer").into())
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotBytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let patience = option.hard_ttl().max(APPEND_PATIENCE);
        Ok(self.ask(patience, |raft| async move { raft.append_entries(request).await }).await?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_voter(option, |raft| async move { raft.vote(request).await.ok() }).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_voter(option, |raft| async move { raft.pre_vote(request).await.ok() }).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let serve = move |raft: Raft| async move { raft.install_full_snapshot(vote, snapshot).await };
        Ok(self.ask(option.hard_ttl().min(SNAPSHOT_PATIENCE), serve).await?)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        Ok(self.ask(option.hard_ttl(), |raft| async move { raft.handle_transfer_leader(request).await }).await?)
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE)))
    }
}
