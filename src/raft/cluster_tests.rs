//! Raft nodes in one executor, connected by calls: they elect, replicate, lose their leader, start again, and a new one
//! gets a snapshot.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft_rt::{AsyncRuntime, WatchReceiver};

use super::command::{Command, NodeId, Refusal, Reply};
use super::log_store::{Closing, LogStore};
use super::runtime::Glommio;
use super::settings::{Pace, config};
use super::state_machine::{StateMachine, StateReader};
use super::testing::{IDENTITY, profile};
use super::types::{Peer, Raft, Snapshot, SnapshotBytes, Types, Vote};
use crate::log::disk::Disk;
use crate::log::disk_sim::{Fate, SimulatedDisk};
use crate::log::files::scratch::Scratch;
use crate::log::testing::{Random, on_executor};

/// Longest wait for anything, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who can be called.
#[derive(Default)]
struct Hub {
    rafts: RefCell<BTreeMap<NodeId, Raft>>,
    /// Nodes that nobody reaches, and that reach nobody.
    cut_off: RefCell<BTreeSet<NodeId>>,
}

struct Factory {
    me: NodeId,
    hub: Rc<Hub>,
}

struct Link {
    me: NodeId,
    target: NodeId,
    hub: Rc<Hub>,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, _: &Peer) -> Link {
        Link { me: self.me, target, hub: Rc::clone(&self.hub) }
    }
}

impl Link {
    fn reaches(&self) -> bool {
        let cut_off = self.hub.cut_off.borrow();
        !cut_off.contains(&self.me) && !cut_off.contains(&self.target)
    }

    /// Calls the target; the answer has to come in time, and while both are still reached.
    async fn call<T, E, F>(&self, option: RPCOption, call: impl FnOnce(Raft) -> F) -> Result<T, Unreachable<Types>>
    where
        E: std::fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let lost = |what: &dyn std::fmt::Display| Unreachable::from_string(what.to_string());
        let raft = self.hub.rafts.borrow().get(&self.target).cloned().filter(|_| self.reaches());
        let raft = raft.ok_or_else(|| lost(&"cut off"))?;
        let answer = Glommio::timeout(option.hard_ttl(), call(raft)).await.map_err(|error| lost(&error))?;
        let answer = answer.map_err(|error| lost(&error))?;
        if self.reaches() { Ok(answer) } else { Err(lost(&"cut off")) }
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotBytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Ok(self.call(option, |raft| async move { raft.append_entries(request).await }).await?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Ok(self.call(option, |raft| async move { raft.vote(request).await }).await?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Ok(self.call(option, |raft| async move { raft.pre_vote(request).await }).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let call = |raft: Raft| async move { raft.install_full_snapshot(vote, snapshot).await };
        Ok(self.call(option, call).await?)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        Ok(self.call(option, |raft| async move { raft.handle_transfer_leader(request).await }).await?)
    }
}

struct Member {
    raft: Raft,
    disk: Rc<SimulatedDisk>,
    reader: StateReader,
    closing: Closing,
}

struct Cluster {
    hub: Rc<Hub>,
    scratch: Scratch,
    members: BTreeMap<NodeId, Member>,
}

fn peer(node: NodeId) -> Peer {
    Peer { host: format!("node-{node}"), bus_port: 16379 }
}

impl Cluster {
    async fn start(nodes: impl IntoIterator<Item = NodeId>) -> Cluster {
        let (hub, scratch) = (Rc::default(), Scratch::new("raft-cluster"));
        let mut cluster = Cluster { hub, scratch, members: BTreeMap::new() };
        for node in nodes {
            cluster.join(node).await;
        }
        cluster
    }

    fn dir(&self, node: NodeId) -> PathBuf {
        self.scratch.0.join(node.to_string())
    }

    async fn join(&mut self, node: NodeId) {
        self.join_on(node, Disk::System, SimulatedDisk::new(|_| Fate::Works)).await;
    }

    /// Starts a node on a simulated disk, which has what its directory has.
    async fn join_simulated(&mut self, node: NodeId) {
        let disk = SimulatedDisk::new(|_| Fate::Works);
        self.join_on(node, Disk::Simulated(Rc::clone(&disk)), disk).await;
    }

    async fn join_on(&mut self, node: NodeId, on: Disk, disk: Rc<SimulatedDisk>) {
        let (dir, identity) = (self.dir(node), IDENTITY + u128::from(node));
        let log = LogStore::open_on(on.clone(), &dir, identity, 2_000).unwrap();
        let machine = StateMachine::open_on(on, &dir, identity, &log).unwrap();
        disk.load(&dir);
        assert!(log.number().is_none_or(|number| number == node));
        log.set_number(node).await.unwrap();
        let (closing, reader) = (log.closing(), machine.reader());
        let factory = Factory { me: node, hub: Rc::clone(&self.hub) };
        let config = config("test", Pace::Steady).unwrap();
        let raft = Raft::new(node, config, factory, log, machine).await.unwrap();
        self.hub.rafts.borrow_mut().insert(node, raft.clone());
        self.members.insert(node, Member { raft, disk, reader, closing });
    }

    async fn stop(&mut self) {
        self.hub.rafts.borrow_mut().clear();
        for (_, member) in std::mem::take(&mut self.members) {
            member.raft.shutdown().await.unwrap();
            let Member { closing, .. } = member;
            closing.done().await.unwrap();
        }
    }

    /// The power of a node on a simulated disk is cut.
    async fn crash(&mut self, node: NodeId, chance: impl FnMut() -> bool) {
        let dir = self.dir(node);
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::create_dir(&dir).unwrap();
        self.members[&node].disk.cut_power(&dir, chance);
        self.hub.rafts.borrow_mut().remove(&node);
        self.hub.cut_off.borrow_mut().insert(node);
        // What it still writes is on no disk.
        if let Some(member) = self.members.remove(&node) {
            member.raft.shutdown().await.unwrap();
            member.closing.done().await.unwrap();
        }
        self.hub.cut_off.borrow_mut().remove(&node);
    }

    async fn wait(&self, what: &str, mut over: impl FnMut(&Cluster) -> bool) {
        let end = std::time::Instant::now() + PATIENCE;
        while !over(self) {
            assert!(std::time::Instant::now() < end, "{what} did not come");
            Glommio::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Executes a command at whoever leads among `nodes`. One that is in doubt is executed again.
    async fn write(&self, nodes: &[NodeId], command: Command) -> Reply {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            for member in nodes.iter().filter_map(|node| self.members.get(node)) {
                let raft = &member.raft;
                if raft.is_leader()
                    && let Ok(Ok(response)) =
                        Glommio::timeout(Duration::from_secs(2), raft.client_write(command.clone())).await
                {
                    return response.data;
                }
            }
            assert!(std::time::Instant::now() < end, "nobody of {nodes:?} leads");
            Glommio::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn join_command(&self, nodes: &[NodeId], identity: u128) -> Reply {
        self.write(nodes, Command::Join { identity, profile: profile("host") }).await
    }

    fn knows(&self, node: NodeId) -> usize {
        self.members[&node].reader.state().nodes().len()
    }

    fn agree(&self) -> bool {
        let mut states = self.members.values().map(|member| member.reader.state().clone());
        let first = states.next().unwrap();
        states.all(|state| state == first)
    }

    fn leader(&self, nodes: &[NodeId]) -> Option<NodeId> {
        nodes.iter().copied().find(|node| self.members[node].raft.is_leader())
    }

    fn term(&self, node: NodeId) -> u64 {
        self.members[&node].raft.metrics().borrow_watched().current_term
    }

    async fn initialize(&self, nodes: &[NodeId]) {
        let peers: BTreeMap<NodeId, Peer> = nodes.iter().map(|node| (*node, peer(*node))).collect();
        self.members[&nodes[0]].raft.initialize(peers).await.unwrap();
    }
}

const ALL: [NodeId; 3] = [1, 2, 3];

#[test]
fn three_nodes_elect_replicate_and_survive_the_loss_of_their_leader() {
    on_executor(async {
        let mut cluster = Cluster::start(ALL).await;
        cluster.initialize(&ALL).await;
        assert_eq!(cluster.join_command(&ALL, 1).await, Reply::Joined { node: 1 });
        cluster.wait("the first entry", |cluster| ALL.iter().all(|node| cluster.knows(*node) == 1)).await;

        cluster.wait("a leader", |cluster| cluster.leader(&ALL).is_some()).await;
        let old = cluster.leader(&ALL).unwrap();
        cluster.hub.cut_off.borrow_mut().insert(old);
        let others: Vec<NodeId> = ALL.into_iter().filter(|node| *node != old).collect();
        assert_eq!(cluster.join_command(&others, 2).await, Reply::Joined { node: 2 });
        assert_eq!(cluster.knows(old), 1);

        cluster.hub.cut_off.borrow_mut().clear();
        assert_eq!(cluster.join_command(&ALL, 3).await, Reply::Joined { node: 3 });
        cluster.wait("agreement", |cluster| cluster.knows(old) == 3 && cluster.agree()).await;
        cluster.stop().await;
    });
}

#[test]
fn a_node_that_is_cut_off_disturbs_nobody() {
    on_executor(async {
        let mut cluster = Cluster::start(ALL).await;
        cluster.initialize(&ALL).await;
        cluster.join_command(&ALL, 1).await;
        cluster.wait("a leader", |cluster| cluster.leader(&ALL).is_some()).await;
        let leader = cluster.leader(&ALL).unwrap();
        let follower = ALL.into_iter().find(|node| *node != leader).unwrap();
        cluster.hub.cut_off.borrow_mut().insert(follower);
        // Several times as long as it takes until it stands for election; what it had begun before may come to its end.
        let mut quiet = false;
        for _ in 0..3 {
            let term = cluster.term(follower);
            Glommio::sleep(Duration::from_millis(1_500)).await;
            quiet |= cluster.term(follower) == term;
        }
        assert!(quiet, "it asks before it begins a term");
        cluster.hub.cut_off.borrow_mut().clear();
        assert_eq!(cluster.join_command(&ALL, 2).await, Reply::Joined { node: 2 });
        cluster.wait("agreement", |cluster| cluster.knows(follower) == 2).await;
        cluster.stop().await;
    });
}

#[test]
fn a_cluster_that_stopped_knows_what_was_committed() {
    on_executor(async {
        let mut cluster = Cluster::start(ALL).await;
        cluster.initialize(&ALL).await;
        for round in 0..3 {
            let before = round * 5;
            for identity in before..before + 5 {
                let reply = cluster.join_command(&ALL, identity as u128).await;
                assert_eq!(reply, Reply::Joined { node: identity as u64 + 1 });
            }
            let leader = ALL.into_iter().max_by_key(|node| cluster.knows(*node)).unwrap();
            cluster.stop().await;
            for node in ALL {
                cluster.join(node).await;
            }
            // Whoever has answered knows it before anybody leads again.
            assert_eq!(cluster.knows(leader), before + 5);
        }
        cluster.wait("agreement", |cluster| cluster.agree() && cluster.knows(1) == 15).await;
        cluster.stop().await;
    });
}

#[test]
fn nodes_start_again_after_a_command_that_was_malformed() {
    on_executor(async {
        let mut cluster = Cluster::start(ALL).await;
        cluster.initialize(&ALL).await;
        let nameless = Command::Join { identity: 1, profile: profile("") };
        for malformed in [Command::Create { partitions: 3 }, nameless] {
            let reply = cluster.write(&ALL, malformed).await;
            assert!(matches!(reply, Reply::Refused(Refusal::Malformed(_))), "{reply:?}");
        }
        assert_eq!(cluster.join_command(&ALL, 1).await, Reply::Joined { node: 1 });
        cluster.wait("the entry everywhere", |cluster| ALL.iter().all(|node| cluster.knows(*node) == 1)).await;
        cluster.stop().await;
        for node in ALL {
            cluster.join(node).await;
        }
        assert_eq!(cluster.join_command(&ALL, 2).await, Reply::Joined { node: 2 });
        cluster.wait("agreement", |cluster| cluster.agree() && cluster.knows(1) == 2).await;
        cluster.stop().await;
    });
}

#[test]
fn a_new_node_gets_a_snapshot() {
    on_executor(async {
        let mut cluster = Cluster::start([1]).await;
        cluster.initialize(&[1]).await;
        for identity in 0..20 {
            cluster.join_command(&[1], identity).await;
        }
        let raft = cluster.members[&1].raft.clone();
        raft.trigger().snapshot().await.unwrap();
        let metrics = || raft.metrics().borrow_watched().clone();
        cluster.wait("a snapshot", |_| metrics().snapshot.is_some_and(|id| id.index >= 20)).await;
        let upto = metrics().snapshot.unwrap().index;
        raft.trigger().purge_log(upto).await.unwrap();
        cluster.wait("the purge", |_| metrics().purged.is_some_and(|id| id.index == upto)).await;
        cluster.join(2).await;
        raft.add_learner(2, peer(2), true).await.unwrap();
        cluster.wait("agreement", |cluster| cluster.agree() && cluster.knows(2) == 20).await;
        drop(raft);
        cluster.stop().await;
        // Also after a restart, from the snapshot that it has received.
        cluster.join(2).await;
        assert_eq!(cluster.knows(2), 20);
        cluster.stop().await;
    });
}

/// Nodes lose their power one after the other, at any moment, and now and then all of them at once; in between, snapshots
/// are made and the log is purged. Everything that was acknowledged is there in the end.
#[test]
fn power_cuts_take_nothing_that_was_acknowledged() {
    on_executor(async {
        let mut random = Random(7);
        let mut cluster = Cluster::start([]).await;
        for node in ALL {
            cluster.join_simulated(node).await;
        }
        cluster.initialize(&ALL).await;
        let mut acknowledged: BTreeSet<u128> = BTreeSet::new();
        for round in 0..12u128 {
            for at in 0..1 + random.below(8) as u128 {
                let identity = round * 100 + at;
                let reply = cluster.join_command(&ALL, identity).await;
                assert!(matches!(reply, Reply::Joined { .. }), "{reply:?}");
                acknowledged.insert(identity);
            }
            let victim = 1 + random.below(3);
            let raft = &cluster.members[&victim].raft;
            if random.percent(60) {
                raft.trigger().snapshot().await.unwrap();
                let applied = raft.metrics().borrow_watched().last_applied.map_or(0, |id| id.index);
                Glommio::sleep(Duration::from_millis(random.below(20))).await;
                raft.trigger().purge_log(applied.saturating_sub(random.below(4))).await.unwrap();
            }
            for _ in 0..random.below(40) {
                glommio::executor().yield_now().await;
            }
            let victims = if random.percent(25) { ALL.to_vec() } else { vec![victim] };
            for node in &victims {
                cluster.crash(*node, || random.percent(50)).await;
            }
            for node in &victims {
                cluster.join_simulated(*node).await;
            }
        }
        cluster.join_command(&ALL, 9_999).await;
        acknowledged.insert(9_999);
        let count = acknowledged.len();
        cluster.wait("agreement", |cluster| cluster.agree() && cluster.knows(1) == count).await;
        let state = cluster.members[&1].reader.state().clone();
        let known: BTreeSet<u128> = state.nodes().iter().map(|node| node.identity).collect();
        assert_eq!(known, acknowledged);
        assert_eq!(state.validate(), Ok(()));
        cluster.stop().await;
    });
}

#[test]
fn an_error_of_the_disk_ends_the_node() {
    on_executor(async {
        let mut cluster = Cluster::start([]).await;
        cluster.join_simulated(1).await;
        cluster.initialize(&[1]).await;
        cluster.join_command(&[1], 1).await;
        let Member { raft, disk, .. } = &cluster.members[&1];
        disk.set_fate(|_| Fate::Fails(libc::EIO));
        let command = Command::Join { identity: 2, profile: profile("host") };
        let written = Glommio::timeout(PATIENCE, raft.client_write(command)).await.expect("an answer");
        assert!(written.is_err(), "what is not on disk is not acknowledged");
        let fatal = Glommio::timeout(PATIENCE, super::fatal(raft)).await.expect("the end");
        assert!(fatal.to_string().contains("log-"), "{fatal}");
        assert_eq!(cluster.knows(1), 1);
    });
}
