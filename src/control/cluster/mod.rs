//! The node as a member of a cluster.
//!
//! ```text
//!     alone ── CLUSTER CREATE ──► founds: node 1, the only voter ──┐
//!       └───── CLUSTER JOIN ────► gets a number from the cluster ──┴─► member: raft, bus ─► registers ─► serves
//! ```
//!
//! A node that has a number goes on as a member at every start ([`Member::start`]), and registers its process as a new
//! incarnation. What raft agrees on becomes a view for the data cores ([`view`]); what the leader of raft decides, and
//! the lease that it grants, is driven by [`govern`]; the data itself goes from node to node by [`streams`]. Roles move
//! while both nodes live by [`handover`], and all of them when a node ends ([`leave`]). What nobody can lead any more, an operator
//! may give up in part or as a whole ([`force`]). Who is to leave, and whether anything moves, is ordered by [`orders`]. What a node
//! leads is written to a file when an operator wants a copy ([`backup`]).
//!
//! Owned by the control core.

mod backup;
mod claims;
mod connections;
mod enter;
mod execute;
mod force;
mod govern;
mod handover;
mod holdings;
mod leave;
mod memory;
mod numbers;
mod orders;
mod pauses;
mod status;
mod streams;
mod view;

pub(super) use backup::Backup;
pub(crate) use enter::raft_dir;
pub(super) use force::ForceError;
pub(super) use handover::TakeRolesError;
pub(super) use orders::OrderError;
use streams::Streams;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use glommio::timer::timeout;
use openraft_rt::WatchReceiver;

use super::{CLOSE_PATIENCE, Control};
use crate::cluster::{NodeId, View};
use crate::command::member::MemberCounts;
use crate::config::{Bind, Config};
use crate::net::listener::Patience;
use crate::node::End;
use crate::raft;
use crate::raft::bus::error::BusError;
use crate::raft::bus::handshake::{Identity, IdentityError, Secret, Versions};
use crate::raft::bus::{self, Bus, Guests};
use crate::raft::command::Refusal;
use crate::raft::error::StoreError;
use crate::raft::govern::{Seat, Settings as GovernSettings};
use crate::raft::log_store::{Closing, LogStore};
use crate::raft::settings::{self, Pace};
use crate::raft::state::State;
use crate::raft::state_machine::{StateMachine, StateReader};
use crate::raft::types::Raft;
use crate::streams::ahead::Ahead;
use crate::streams::leader::handover::Stage;

/// Below the working directory.
pub(super) const RAFT_DIR: &str = "cluster/raft";

/// What a node is once it has a number.
pub(super) struct Member {
    pub me: NodeId,
    /// Of its data directory.
    pub identity: u128,
    /// Drawn by this process.
    pub boot: u128,
    pub bus: Bus,
    pub raft: Raft,
    pub reader: StateReader,
    closing: RefCell<Option<Closing>>,
    /// The number of the last view, and the view.
    views: Cell<u64>,
    shown: RefCell<Option<Arc<View>>>,
    /// A view has to be made: what this node serves has changed.
    view_due: Cell<bool>,
    /// A view is left out that tells clients a little more, and changes nothing for this node; the next tick makes it.
    view_late: Cell<bool>,
    /// Numbers of views, and up to where they say what raft has said: those that data cores may not have seen.
    shown_at: RefCell<VecDeque<(u64, u64)>>,
    /// Its place among those who agree: what it decides while it leads raft, and its lease.
    seat: Seat,
    /// The view that data cores have to see before a lease begins, after one that has ended.
    begins_with: Cell<Option<u64>>,
    /// It is about to end, and wants no roles.
    leaving: Cell<bool>,
    /// What has happened since the process started.
    counts: Cell<MemberCounts>,
    /// Bytes of copies that had come when the memory was looked at last.
    copied_at_look: Cell<u64>,
    /// Raft's state when it was looked at last.
    known: RefCell<State>,
    /// Roles that have gone over, of which raft's log does not tell yet; and whether it is being told.
    ahead: RefCell<Ahead>,
    says_ahead: Cell<bool>,
    /// For tests ([`Control::stop_in_handover`]).
    stops_in: Cell<Option<Stage>>,
    /// It has a lease that was not seen to end.
    has_lease: Cell<bool>,
    /// None before the process is registered.
    streams: RefCell<Option<Streams>>,
    /// It had keys when it became a member.
    has_keys: Cell<bool>,
    /// Its process is registered.
    pub registered: Cell<bool>,
    stopped: Cell<bool>,
    /// It has left the cluster.
    removed: Cell<bool>,
}

/// Why a node is not a member, or cannot go on as one.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemberError {
    #[error("this node does not run in cluster mode ('cluster-enabled yes')")]
    NoCluster,
    #[error("this node is a member of a cluster already")]
    Member,
    #[error("this node has no address that others could be told: name one with 'cluster-announce-ip'")]
    NoAddress,
    #[error("becoming a member was not finished: remove '{0}', and begin again")]
    Unfinished(String),
    #[error("{0}")]
    Foreign(Refusal),
    #[error("a data core does not answer")]
    Silent,
    #[error("this node has keys; only one without can join a cluster")]
    Keys,
    #[error("there is no port for the bus: choose one with 'cluster-port'")]
    NoPort,
    #[error("cannot listen on {0}:{1} for other nodes: {2}")]
    Listen(String, u16, io::Error),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Identity(#[from] IdentityError),
    #[error("raft cannot start: {0}")]
    Raft(String),
    #[error("{0}")]
    Bus(#[from] BusError),
    #[error("{0}")]
    Refused(String),
}

impl Member {
    /// Starts raft and the bus, under the number that the directory has, or as a new member under `number`.
    async fn start(control: &Rc<Control>, number: Option<NodeId>) -> Result<Rc<Member>, MemberError> {
        let dir = Path::new(&control.config().dir).join(RAFT_DIR);
        let started = Member::start_in(control, &dir, number).await;
        if let (Err(_), Some(_)) = (&started, number) {
            // It is no member, and can try again.
            let _ = std::fs::remove_dir_all(&dir);
        }
        started
    }

    async fn start_in(control: &Rc<Control>, dir: &Path, number: Option<NodeId>) -> Result<Rc<Member>, MemberError> {
        let config = control.config();
        let identity = control.identity()?;
        control.profile()?;
        let port = config.bus_port().ok_or(MemberError::NoPort)?;
        let listeners = listen(&config, port).await?;
        std::fs::create_dir_all(dir).map_err(StoreError::io(dir))?;
        let log = LogStore::open(dir, identity)?;
        let me = match (log.number(), number) {
            (Some(me), _) => me,
            (None, Some(number)) => {
                log.set_number(number).await?;
                number
            }
            (None, None) => return Err(MemberError::Unfinished(dir.display().to_string())),
        };
        let machine = StateMachine::open(dir, identity, &log)?;
        let (closing, reader) = (log.closing(), machine.reader());
        reader.count_gained(me, log.end());
        let bus = Bus::new(bus_identity(&config, me))?;
        let settings = settings::config(&config.cluster_name, Pace::Steady);
        let settings = settings.map_err(|error| MemberError::Raft(error.to_string()))?;
        let election_ms = settings.election_timeout_max as u32;
        let governing = govern_settings(me, election_ms, &config);
        let raft = Raft::new(me, settings, bus.network(), log, machine).await;
        let raft = raft.map_err(|error| MemberError::Raft(error.to_string()))?;
        let boot = super::random_id();
        let seat = Seat::new(&governing, boot, raft.clone(), reader.clone());
        let member = Rc::new(Member {
            me,
            identity,
            boot,
            bus,
            raft,
            reader,
            closing: RefCell::new(Some(closing)),
            views: Cell::new(1),
            shown: RefCell::default(),
            view_due: Cell::default(),
            view_late: Cell::default(),
            shown_at: RefCell::default(),
            seat,
            begins_with: Cell::default(),
            leaving: Cell::default(),
            counts: Cell::default(),
            copied_at_look: Cell::default(),
            known: RefCell::default(),
            ahead: RefCell::default(),
            says_ahead: Cell::default(),
            stops_in: Cell::default(),
            has_lease: Cell::default(),
            streams: RefCell::default(),
            has_keys: Cell::default(),
            registered: Cell::default(),
            stopped: Cell::default(),
            removed: Cell::default(),
        });
        let guests = control.guests(&member);
        member.bus.serve(listeners, member.raft.clone(), guests);
        if config.cluster_secret.is_empty() {
            tracing::warn!("there is no 'cluster-secret': whoever reaches the bus can do everything");
        }
        tracing::info!(node = me, port, "a member of a cluster");
        Ok(member)
    }

    /// Looks at who has which role: what raft's state says, with what has gone over since.
    fn with_roles<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        let (ahead, state) = (self.ahead.borrow(), self.reader.state());
        if ahead.is_empty() { look(&state) } else { look(&state.ahead(ahead.gone(&state, self.me))) }
    }
}

/// Who leads raft, in which term; None: nobody is known to.
fn leader_of_raft(raft: &Raft) -> Option<(u64, NodeId)> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    metrics.current_leader.map(|leader| (metrics.current_term, leader))
}

fn govern_settings(me: NodeId, election_ms: u32, config: &Config) -> GovernSettings {
    let copies = usize::from(config.cluster_copies);
    GovernSettings { copies, ..GovernSettings::new(me, election_ms) }
}

/// Listens for other nodes wherever clients are served, as soon as the addresses are free.
async fn listen(config: &Config, port: u16) -> Result<Vec<TcpListener>, MemberError> {
    let everywhere = Bind { host: "0.0.0.0", optional: false };
    let (mut listeners, mut failed) = (Vec::new(), None);
    for Bind { host, optional } in config.binds().chain(config.bind.is_empty().then_some(everywhere)) {
        match listen_at(host, port).await.map_err(|error| MemberError::Listen(host.into(), port, error)) {
            Ok(listener) => listeners.push(listener),
            Err(error) if optional => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    // All may be optional, but a member needs one.
    failed.filter(|_| listeners.is_empty()).map_or(Ok(listeners), Err)
}

async fn listen_at(host: &str, port: u16) -> io::Result<TcpListener> {
    let patience = Patience::begin();
    loop {
        match bus::listen(host, port) {
            Err(error) if patience.covers(&error) => glommio::timer::sleep(Patience::PAUSE).await,
            listening => return listening,
        }
    }
}

fn bus_identity(config: &Config, node: NodeId) -> Identity {
    Identity {
        versions: Versions::up_to(config.cluster_version),
        cluster: config.cluster_name.clone(),
        node,
        secret: Secret::new(config.cluster_secret.as_bytes()),
    }
}

impl Control {
    fn identity(&self) -> Result<u128, MemberError> {
        self.node.state.identity.map(|identity| identity.0).ok_or(MemberError::NoCluster)
    }

    pub(super) fn member(&self) -> Option<Rc<Member>> {
        self.cluster.borrow().clone()
    }

    /// Does what has to be done when raft has got further, and ends the node if it cannot.
    fn watch_raft(self: &Rc<Self>, member: &Rc<Member>) {
        let (control, watched) = (Rc::clone(self), Rc::clone(member));
        glommio::spawn_local(async move {
            let (mut applied, mut metrics) = (watched.reader.watch(), watched.raft.metrics());
            let (mut known, mut leader) = (None, None);
            while !watched.stopped.get() {
                let now = watched.reader.applied();
                if known.is_none() || known != now {
                    known = now;
                    control.state_changed();
                }
                let heard = leader_of_raft(&watched.raft);
                if heard.is_some() && heard != leader {
                    leader = heard;
                    let won = heard.is_some_and(|(_, node)| node == watched.me);
                    watched.count(|counts| counts.new_leader_of_raft(won));
                }
                let applied = async { applied.changed().await.is_ok() };
                let metrics = async { metrics.changed().await.is_ok() };
                if !futures_lite::future::or(applied, metrics).await {
                    break;
                }
            }
        })
        .detach();
        let (control, watched) = (Rc::clone(self), Rc::clone(member));
        glommio::spawn_local(async move {
            let fatal = raft::fatal(&watched.raft).await;
            if !watched.stopped.get() {
                tracing::error!(%fatal, "raft cannot go on: the node ends");
                control.node.end(End::Now);
            }
        })
        .detach();
    }

    /// The state of the cluster may have changed.
    fn state_changed(self: &Rc<Self>) {
        if self.is_divided_otherwise() || !self.follows_version() {
            return self.node.end(End::Now);
        }
        self.look_for_own_number();
        let Some(member) = self.member() else { return };
        member.ahead.borrow_mut().forget(&member.reader.state());
        let known = member.reader.state().clone();
        let same_state = known.has_roles_of(&member.known.replace(known.clone()));
        // What has gone over may count from now on.
        let same_roles = same_state && member.ahead.borrow().is_empty();
        self.tell_roles();
        if same_roles && member.shown.borrow().is_some() && !member.view_due.get() {
            member.view_says_all();
        } else {
            self.show_view();
        }
        self.advance();
    }

    /// Whether the data of the cluster is divided into other partitions than this node's keys.
    fn is_divided_otherwise(&self) -> bool {
        let Some(member) = self.member() else { return false };
        let (here, there) = (usize::from(self.keyspace.partitions), member.reader.state().partitions().len());
        let differs = there != 0 && there != here;
        if differs {
            tracing::error!(here, there, "the cluster has another number of 'partitions': this node ends");
        }
        differs
    }

    /// Who takes what comes to the bus and is not for raft.
    fn guests(self: &Rc<Self>, member: &Rc<Member>) -> Guests {
        let (streaming, leasing, yielding) = (Rc::clone(self), Rc::clone(self), Rc::clone(self));
        let (voting, leading, knowing) = (Rc::clone(member), Rc::clone(member), Rc::clone(member));
        Guests {
            stream: Box::new(move |node, stream, rest| streaming.welcome_follower(node, &stream, &rest)),
            lease: Box::new(move |request| leasing.grant_lease(request)),
            hand_over: Box::new(move |request| yielding.hand_over(request)),
            votes: Box::new(move || voting.seat.votes()),
            proposals: Box::new(move || leading.seat.takes_proposals()),
            version: Box::new(move || knowing.reader.state().orders().version()),
        }
    }

    /// Ends what there is of a cluster.
    pub(super) async fn leave_cluster(&self) {
        let Some(member) = self.cluster.borrow_mut().take() else { return };
        member.stopped.set(true);
        member.bus.stop();
        member.close_streams();
        if let Err(error) = member.raft.shutdown().await {
            tracing::error!(%error, "raft does not end as it should");
        }
        // The log is closed when raft, and so everybody who has a part of it, is dropped.
        let closing = member.closing.borrow_mut().take();
        drop(member);
        if let Some(closing) = closing {
            let closed = async { Ok::<_, glommio::GlommioError<()>>(closing.done().await) };
            match timeout(CLOSE_PATIENCE, closed).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the log of raft is not complete"),
                Err(_) => tracing::warn!("the log of raft takes too long to be closed"),
            }
        }
    }
}
