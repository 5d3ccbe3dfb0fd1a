//! The node as a member of a cluster.
//!
//! ```text
//!     alone ── CLUSTER CREATE ──► founds: node 1, the only voter ──┐
//!       └───── CLUSTER JOIN ────► gets a number from the cluster ──┴─► member: raft, bus ─► registers ─► serves
//! ```
//!
//! A node that has a number goes on as a member at every start ([`Member::start`]), and registers its process as a new
//! incarnation. What raft agrees on becomes a view for the data cores ([`view`]); what the leader of raft decides, and
//! the lease that it grants, is driven by [`govern`]; the data itself goes from node to node by [`streams`].
//!
//! Owned by the control core.

mod enter;
mod status;
mod view;

pub(crate) use enter::raft_dir;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use openraft_rt::WatchReceiver;

use glommio::timer::timeout;

use super::{CLOSE_PATIENCE, Control};
use crate::cluster::{NodeId, View};
use crate::config::Config;
use crate::node::End;
use crate::raft;
use crate::raft::bus::error::BusError;
use crate::raft::bus::handshake::{Identity, IdentityError, Secret};
use crate::raft::bus::{self, Bus, Guests};
use crate::raft::command::Profile;
use crate::raft::error::StoreError;
use crate::raft::log_store::{Closing, LogStore};
use crate::raft::settings::{self, Pace};
use crate::raft::state_machine::{StateMachine, StateReader};
use crate::raft::types::{Peer, Raft};

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
    /// Its process is registered.
    pub registered: Cell<bool>,
    stopped: Cell<bool>,
}

/// Why a node is not a member, or cannot go on as one.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemberError {
    #[error("this node does not run in cluster mode ('cluster-enabled yes')")]
    NoCluster,
    #[error("this node is a member of a cluster already")]
    Member,
    #[error("this node has keys; only one without can join a cluster")]
    Keys,
    #[error("there is no port for the bus: choose one with 'cluster-port'")]
    NoPort,
    #[error("cannot listen on {0}:{1} for other nodes: {2}")]
    Listen(String, u16, std::io::Error),
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
    /// Starts raft and the bus, under the number that the directory has, or under `number`.
    async fn start(control: &Rc<Control>, number: Option<NodeId>) -> Result<Rc<Member>, MemberError> {
        let config = control.config();
        let identity = control.identity()?;
        let dir = Path::new(&config.dir).join(RAFT_DIR);
        std::fs::create_dir_all(&dir).map_err(StoreError::io(&dir))?;
        let host = bus_host(&config);
        let port = config.bus_port().ok_or(MemberError::NoPort)?;
        let listener = bus::listen(&host, port).map_err(|error| MemberError::Listen(host.clone(), port, error))?;
        let log = LogStore::open(&dir, identity)?;
        let me = match (log.number(), number) {
            (Some(me), _) => me,
            (None, Some(number)) => {
                log.set_number(number).await?;
                number
            }
            (None, None) => return Err(MemberError::Refused("the node has no number".into())),
        };
        let machine = StateMachine::open(&dir, identity, log.purged())?;
        let (closing, reader) = (log.closing(), machine.reader());
        let bus = Bus::new(bus_identity(&config, me))?;
        let settings = settings::config(&config.cluster_name, Pace::Steady);
        let settings = settings.map_err(|error| MemberError::Raft(error.to_string()))?;
        let raft = Raft::new(me, settings, bus.network(), log, machine).await;
        let raft = raft.map_err(|error| MemberError::Raft(error.to_string()))?;
        let member = Rc::new(Member {
            me,
            identity,
            boot: super::random_id(),
            bus,
            raft,
            reader,
            closing: RefCell::new(Some(closing)),
            views: Cell::new(1),
            shown: RefCell::default(),
            registered: Cell::default(),
            stopped: Cell::default(),
        });
        let guests = control.guests(&member);
        member.bus.serve(listener, member.raft.clone(), guests);
        tracing::info!(node = me, host, port, "a member of a cluster");
        Ok(member)
    }

    /// Where other nodes reach this one.
    fn peer(&self, profile: &Profile) -> Peer {
        Peer { host: profile.host.clone(), bus_port: profile.bus_port }
    }
}

/// The address at which the bus listens: the first one at which clients are served.
fn bus_host(config: &Config) -> String {
    let first = config.bind.first().map_or("", |bind| bind.trim_start_matches('-'));
    match first {
        "" | "*" => "0.0.0.0".into(),
        "::*" => "::".into(),
        host => host.into(),
    }
}

fn bus_identity(config: &Config, node: NodeId) -> Identity {
    Identity { cluster: config.cluster_name.clone(), node, secret: Secret::new(config.cluster_secret.as_bytes()) }
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
            while !watched.stopped.get() {
                control.state_changed();
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

    /// The state of the cluster, or who leads raft, may have changed.
    fn state_changed(self: &Rc<Self>) {
        self.show_view();
    }

    /// Whether this node serves a partition that it is to lead.
    fn serves(&self, _partition: u16) -> bool {
        true
    }

    /// Whether a node is taken for dead.
    fn is_dead(&self, _node: NodeId) -> bool {
        false
    }

    fn guests(self: &Rc<Self>, _member: &Rc<Member>) -> Guests {
        Guests { stream: Box::new(|_, _, _| ()) }
    }

    /// Ends what there is of a cluster.
    pub(super) async fn leave_cluster(&self) {
        let Some(member) = self.cluster.borrow_mut().take() else { return };
        member.stopped.set(true);
        member.bus.stop();
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
