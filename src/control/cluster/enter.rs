//! How a node becomes a member, and how a member's process registers.
//!
//! A node that founds a cluster gives itself number 1, with which raft begins; one that joins asks those that are there for a
//! number. Either number is on disk before raft runs under it. Everything after that is done at every start, as far as it
//! was not done before, so that a crash anywhere in between leaves a node that goes on. Only a crash before
//! the number is on disk leaves a directory that says nothing: the start refuses it, and names it.
//!
//! Owned by the control core.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::holdings::Start;
use super::{Member, MemberError, RAFT_DIR, bus_identity};
use crate::cluster::NodeId;
use crate::config::Config;
use crate::control::Control;
use crate::node::End;
use crate::raft::bus::Bus;
use crate::raft::bus::propose::{ProposeError, Proposed};
use crate::raft::command::{Command, Profile, Refusal, Reply};
use crate::raft::types::Peer;
use crate::streams::follower::Holding;

/// The number of the node that founds a cluster.
const FOUNDER: NodeId = 1;

/// How long data cores may take to say how many keys they have.
const KEYS_PATIENCE: Duration = Duration::from_secs(5);

/// How long a node that joins looks for somebody who leads.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// How long one attempt to register may take; it is repeated for ever.
const REGISTER_PATIENCE: Duration = Duration::from_secs(2);

/// Between attempts that failed for other reasons than time.
const REGISTER_PAUSE: Duration = Duration::from_millis(20);

/// The longest of these; with it the log says what is wrong.
const REGISTER_PAUSE_MAX: Duration = Duration::from_millis(1280);

/// Where raft's files are, if a node with this working directory has any.
pub(crate) fn raft_dir(dir: impl AsRef<Path>) -> Option<PathBuf> {
    let dir = dir.as_ref().join(RAFT_DIR);
    dir.is_dir().then_some(dir)
}

impl Control {
    /// Goes on as a member, if the node is one.
    pub(in crate::control) async fn resume_membership(self: &Rc<Self>) -> Result<(), MemberError> {
        let config = self.config();
        if !config.cluster_enabled || raft_dir(&config.dir).is_none() {
            return Ok(());
        }
        let member = Member::start(self, None).await?;
        self.remove_backups().await;
        self.enter(member, Start::Again);
        Ok(())
    }

    /// CLUSTER CREATE: this node is the first of a cluster.
    pub(in crate::control) async fn found_cluster(self: &Rc<Self>) -> Result<(), MemberError> {
        self.may_become_member()?;
        let founded = self.found().await;
        self.became_member();
        founded
    }

    async fn found(self: &Rc<Self>) -> Result<(), MemberError> {
        let keys = self.last_keys().await?;
        let member = Member::start(self, Some(FOUNDER)).await?;
        member.has_keys.set(keys > 0);
        self.enter(Rc::clone(&member), Start::Founded);
        self.registered(&member).await?;
        if keys > 0 {
            // They are all here: the data set begins on this node, before another one joins.
            self.begin_data_set().await?;
            let mut left = JOIN_PATIENCE;
            while member.reader.state().partition(0).is_none_or(|partition| partition.epoch == 0) {
                left = left.checked_sub(REGISTER_PAUSE).ok_or_else(|| MemberError::Refused("nobody leads".into()))?;
                glommio::timer::sleep(REGISTER_PAUSE).await;
            }
        }
        Ok(())
    }

    /// CLUSTER JOIN: this node becomes a member of the cluster that has a member at this address.
    pub(in crate::control) async fn join_cluster(self: &Rc<Self>, seed: Peer) -> Result<(), MemberError> {
        self.may_become_member()?;
        let joined = self.join(seed).await;
        self.became_member();
        joined
    }

    async fn join(self: &Rc<Self>, seed: Peer) -> Result<(), MemberError> {
        if self.last_keys().await? > 0 {
            return Err(MemberError::Keys);
        }
        let (profile, identity) = (self.profile()?, self.identity()?);
        let stranger = Bus::new(bus_identity(&self.config(), 0))?;
        let joining = stranger.propose(None, &[seed], Command::Join { identity, profile }, JOIN_PATIENCE).await;
        stranger.stop();
        let node = match joining.map_err(|error| MemberError::Refused(error.to_string()))?.reply {
            Reply::Joined { node } => node,
            Reply::Refused(why) => return Err(MemberError::Refused(why.to_string())),
            other => return Err(MemberError::Refused(format!("{other:?}"))),
        };
        let member = Member::start(self, Some(node)).await?;
        self.enter(Rc::clone(&member), Start::Joined);
        self.registered(&member).await
    }

    /// The attempt to become a member is over. Writes go on: where this node serves now, or to nowhere.
    fn became_member(&self) {
        self.pause_writes(None);
        if self.member().is_none() {
            self.becomes_member.set(false);
        }
    }

    /// Keys of this node, which are its last: writes wait from now on.
    async fn last_keys(&self) -> Result<usize, MemberError> {
        self.pause_writes(Some(2 * JOIN_PATIENCE));
        // The answer to a question that was asked before tells nothing of now.
        for _ in 0..2 {
            if !self.ask(KEYS_PATIENCE).await.is_empty() {
                return Err(MemberError::Silent);
            }
        }
        Ok(self.snapshots().iter().flat_map(|snapshot| &snapshot.keyspace).map(|db| db.keys).sum())
    }

    /// CLUSTER BEGIN: the data set of the cluster begins, on the nodes that have joined so far.
    pub(in crate::control) async fn begin_data_set(self: &Rc<Self>) -> Result<(), MemberError> {
        let member = self.member().ok_or(MemberError::NoCluster)?;
        let partitions = self.keyspace.partitions;
        match member.propose(Command::Create { partitions }, JOIN_PATIENCE).await {
            Ok(Proposed { reply: Reply::Created, .. }) => Ok(()),
            Ok(Proposed { reply: Reply::Refused(why), .. }) => Err(MemberError::Refused(why.to_string())),
            Ok(Proposed { reply, .. }) => Err(MemberError::Refused(format!("{reply:?}"))),
            Err(error) => Err(MemberError::Refused(error.to_string())),
        }
    }

    fn may_become_member(&self) -> Result<(), MemberError> {
        if self.becomes_member.replace(true) {
            return Err(MemberError::Member);
        }
        let may = self.is_no_member();
        self.becomes_member.set(may.is_ok());
        may
    }

    fn is_no_member(&self) -> Result<(), MemberError> {
        let config = self.config();
        if !config.cluster_enabled {
            return Err(MemberError::NoCluster);
        }
        if self.member().is_some() || raft_dir(&config.dir).is_some() {
            return Err(MemberError::Member);
        }
        Ok(())
    }

    /// What this node says of itself.
    pub(super) fn profile(&self) -> Result<Profile, MemberError> {
        let config = self.config();
        let announced = |announced: u16, port| if announced > 0 { announced } else { port };
        let profile = Profile {
            host: announced_host(&config).ok_or(MemberError::NoAddress)?,
            port: announced(config.cluster_announce_port, config.port),
            bus_port: announced(config.cluster_announce_bus_port, config.bus_port().ok_or(MemberError::NoPort)?),
            rack: config.cluster_rack.clone(),
            weight: config.cluster_weight,
            core_port: config.announced_core_port().unwrap_or(0),
            cores: config.cpus.len() as u16,
        };
        profile.check().map_err(|why| MemberError::Refused(why.into()))?;
        Ok(profile)
    }

    /// From here on the node is a member: it registers, and does what its state says.
    fn enter(self: &Rc<Self>, member: Rc<Member>, start: Start) {
        // Nothing is served before a lease says so.
        self.node.state.lease.set(0);
        *self.cluster.borrow_mut() = Some(Rc::clone(&member));
        self.show_view();
        self.watch_raft(&member);
        self.govern(&member);
        glommio::spawn_local(Rc::clone(self).look_for_own_place(Rc::clone(&member))).detach();
        let holdings = self.find_holdings(start, member.has_keys.get());
        let control = Rc::clone(self);
        glommio::spawn_local(async move { control.register(&member, &holdings).await }).detach();
    }

    /// Waits until the process is registered.
    async fn registered(&self, member: &Member) -> Result<(), MemberError> {
        let mut left = JOIN_PATIENCE;
        while !member.registered.get() {
            left = left.checked_sub(REGISTER_PAUSE).ok_or_else(|| MemberError::Refused("nobody leads".into()))?;
            glommio::timer::sleep(REGISTER_PAUSE).await;
        }
        Ok(())
    }

    /// Waits until the state here has this process: a node that has joined gets it from the leader.
    async fn state_knows(&self, member: &Rc<Member>) -> Result<(), MemberError> {
        let mut left = JOIN_PATIENCE;
        while !member.is_known() {
            left = left
                .checked_sub(REGISTER_PAUSE)
                .ok_or_else(|| MemberError::Refused("raft's log does not come".into()))?;
            glommio::timer::sleep(REGISTER_PAUSE).await;
        }
        Ok(())
    }

    /// Does what has to be done once for each process of a member.
    async fn register(self: Rc<Self>, member: &Rc<Member>, holdings: &[Holding]) {
        let mut pause = REGISTER_PAUSE;
        while !member.stopped.get() && !member.registered.get() {
            match self.try_to_register(member).await {
                Err(MemberError::Foreign(Refusal::UnknownNode(_))) => {
                    let dir = RAFT_DIR;
                    tracing::error!(
                        node = member.me,
                        dir,
                        "this node is no member of its cluster any more, and ends: without this directory it could join one"
                    );
                    return self.node.end(End::Now);
                }
                Err(MemberError::Foreign(why)) => {
                    tracing::error!(node = member.me, %why, "the cluster does not know this node: it ends");
                    return self.node.end(End::Now);
                }
                Ok(()) => {
                    member.registered.set(true);
                    tracing::info!(node = member.me, "registered");
                    self.show_view();
                    self.begin_streams(member, holdings);
                }
                Err(error) => {
                    if pause >= REGISTER_PAUSE_MAX {
                        tracing::warn!(%error, "cannot register yet");
                    }
                    glommio::timer::sleep(pause).await;
                    pause = (2 * pause).min(REGISTER_PAUSE_MAX);
                }
            }
        }
    }

    async fn try_to_register(&self, member: &Rc<Member>) -> Result<(), MemberError> {
        let raft_error = |error: &dyn std::fmt::Display| MemberError::Raft(error.to_string());
        let profile = self.profile()?;
        if member.me == FOUNDER && !member.raft.is_initialized().await.map_err(|error| raft_error(&error))? {
            let peers = BTreeMap::from([(FOUNDER, Peer { host: profile.host.clone(), bus_port: profile.bus_port })]);
            member.raft.initialize(peers).await.map_err(|error| raft_error(&error))?;
        }
        let (known, mut after) = {
            let state = member.reader.state();
            let node = state.node(member.me);
            (node.is_some(), node.map_or(0, |node| node.incarnation))
        };
        let identity = member.identity;
        if member.me == FOUNDER && !known {
            let join = Command::Join { identity, profile: profile.clone() };
            match member.propose(join, REGISTER_PATIENCE).await {
                Ok(Proposed { reply: Reply::Joined { node }, .. }) if node == FOUNDER => {}
                Ok(other) => return Err(MemberError::Refused(format!("{:?}", other.reply))),
                Err(error) => return Err(MemberError::Refused(error.to_string())),
            }
        }
        for _ in 0..2 {
            let register =
                Command::Register { node: member.me, identity, boot: member.boot, after, profile: profile.clone() };
            match member.propose(register, REGISTER_PATIENCE).await {
                Ok(Proposed { reply: Reply::Registered { .. }, .. }) => return self.state_knows(member).await,
                // The state here was behind.
                Ok(Proposed { reply: Reply::Refused(Refusal::StaleIncarnation { incarnation, .. }), .. }) => {
                    after = incarnation;
                }
                Ok(Proposed { reply: Reply::Refused(why), .. }) => return Err(MemberError::Foreign(why)),
                Ok(other) => return Err(MemberError::Refused(format!("{:?}", other.reply))),
                Err(error) => return Err(MemberError::Refused(error.to_string())),
            }
        }
        Err(MemberError::Refused("the incarnation changes".into()))
    }
}

/// The address that others are told: what was configured, or the first one that this node listens on, if possible one that does
/// not mean this machine only.
fn announced_host(config: &Config) -> Option<String> {
    if !config.cluster_announce_ip.is_empty() {
        return Some(config.cluster_announce_ip.clone());
    }
    let named: Vec<&str> = config.binds().filter(|bind| !bind.is_everywhere()).map(|bind| bind.host).collect();
    let is_near = |host: &str| host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let far = named.iter().find(|host| !is_near(host));
    far.or(named.first()).map(|host| host.to_string())
}

impl Member {
    /// Whether the state here has this process.
    fn is_known(&self) -> bool {
        self.reader.state().node(self.me).is_some_and(|node| node.boot == self.boot)
    }

    /// Proposes a command to whoever leads raft.
    pub(super) async fn propose(&self, command: Command, patience: Duration) -> Result<Proposed, ProposeError> {
        let others: Vec<Peer> = {
            let state = self.reader.state();
            let others = state.nodes().iter().filter(|node| node.id != self.me);
            others.map(|node| Peer { host: node.profile.host.clone(), bus_port: node.profile.bus_port }).collect()
        };
        self.bus.propose(Some(&self.raft), &others, command, patience).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_an_address_that_they_can_reach() {
        let told = |binds: &[&str], announced: &str| {
            let bind = binds.iter().map(|bind| bind.to_string()).collect();
            announced_host(&Config { bind, cluster_announce_ip: announced.into(), ..Config::default() })
        };
        assert_eq!(told(&["127.0.0.1", "-::1"], "").as_deref(), Some("127.0.0.1"));
        assert_eq!(told(&["127.0.0.1", "-::1", "10.0.0.5", "10.0.0.6"], "").as_deref(), Some("10.0.0.5"));
        assert_eq!(told(&["localhost", "-store-1"], "").as_deref(), Some("store-1"));
        assert_eq!(told(&["*", "-::*"], ""), None);
        assert_eq!(told(&["*"], "10.0.0.7").as_deref(), Some("10.0.0.7"));
    }
}
