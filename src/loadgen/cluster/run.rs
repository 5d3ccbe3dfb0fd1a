//! What a run against a cluster has beyond one against a server: who its primaries are, and the scout.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use super::client::Client;
use super::gaps;
use super::routes::{Map, Routes};
use super::scout::{Asked, FindError, MAPS_MAX, Reader, Scout};
use super::worker::{Mail, Worker, waker};
use super::{Sight, View};
use crate::loadgen::client::Pace;
use crate::loadgen::connect::{Socket, Target};
use crate::loadgen::options::CONNECTIONS_MAX;
use crate::loadgen::plan::{Plan, Workload};
use crate::loadgen::run::Setup;
use crate::loadgen::turn::Turn;

/// Requests of one thread that may wait because nobody serves their slots; then its clients draw no more.
const WAITING_MAX: usize = 1_000_000;

/// A cluster before the run.
pub struct Cluster {
    scout: Scout,
    map: Map,
    wishes: (Sender<()>, Receiver<()>),
    readers: Vec<Reader>,
}

impl Cluster {
    /// The cluster that the setup's target is a node of.
    pub fn find(setup: &Setup) -> Result<Cluster, FindError> {
        let (scout, map) = Scout::find(&setup.target, &setup.greeting)?;
        // One wish is as good as many.
        Ok(Cluster { scout, map, wishes: crossbeam_channel::bounded(1), readers: Vec::new() })
    }

    /// Where clients connect to at first, by number of the node.
    pub fn primaries(&self) -> Vec<Target> {
        self.map.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// The next thread's event loop; each client comes with a socket for each primary.
    pub fn worker(
        &mut self,
        setup: &Setup,
        workload: &Arc<Workload>,
        clients: impl Iterator<Item = ((Plan, Pace), Vec<Socket>)>,
        turn: Turn,
    ) -> io::Result<Worker> {
        let waiting_max = WAITING_MAX.div_ceil(setup.clients);
        let clients = clients.map(|((plan, pace), sockets)| (Client::new(plan, pace, waiting_max), sockets));
        let routes = Routes::new(&self.map, CONNECTIONS_MAX / (setup.threads * setup.clients));
        let (maps, mail) = crossbeam_channel::bounded(MAPS_MAX);
        self.readers.push(Reader { maps, waker: waker(&turn)? });
        let mail = Mail { maps: mail, wishes: self.wishes.0.clone() };
        let greeting = setup.greeting.commands().into_iter().map(|(_, bytes)| bytes).collect();
        Worker::new(clients.collect(), turn, View::new(routes, workload.writes()), mail, greeting)
    }

    /// Starts the scout, which ends with the last worker.
    pub fn start(self) -> io::Result<JoinHandle<Asked>> {
        let Cluster { scout, wishes: (_, wishes), readers, .. } = self;
        std::thread::Builder::new().name("scout".into()).spawn(move || scout.run(&wishes, &readers))
    }
}

/// What a run has seen of its cluster.
#[derive(Clone, Debug)]
pub struct Clustered {
    /// At the start.
    pub primaries: usize,
    pub sight: Sight,
    pub asked: Asked,
}

impl Clustered {
    /// Of what the threads have seen; None without any.
    pub fn of<'a>(seen: impl Iterator<Item = &'a Sight>) -> Option<Clustered> {
        let mut sight = seen.cloned().reduce(|mut sum, other| {
            sum.add(other);
            sum
        })?;
        sight.gaps = gaps::merged(sight.gaps);
        Some(Clustered { primaries: 0, sight, asked: Asked::default() })
    }
}
