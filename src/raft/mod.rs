//! The control plane: what all nodes of a cluster have to agree on, kept by raft (openraft).
//!
//! That is who the nodes are, and for each partition its epoch, who has copies, who leads and who is in sync
//! ([`state`]). Data never goes through raft's log.
//!
//! Pure: [`command`] (what can be changed), [`orders`] (what operators want, and versions), [`settle`] (transactions whose
//! primary was lost), [`state`] (what becomes of it), [`image`] (the log in memory), [`stored`] and [`snapshot`] (bytes). Around them [`log_store`] and [`state_machine`] are what
//! openraft calls, [`writer`] and [`recover`] have the files, [`runtime`] is openraft's runtime over glommio, [`bus`] connects
//! the nodes, and [`settings`] has the numbers that openraft runs with; `sim/` runs all of it in virtual time, from a seed;
//! limits of commands, records and files stand beside what they limit.
//!
//! Runs on the control core. An error of a file is fatal for the node.

pub mod bus;
#[cfg(test)]
mod cluster_tests;
pub mod command;
pub mod error;
#[cfg(test)]
mod forms_tests;
pub mod govern;
pub mod image;
pub mod log_store;
pub mod orders;
pub mod recover;
pub mod runtime;
pub mod settings;
pub mod settle;
#[cfg(test)]
mod sim;
pub mod snapshot;
pub mod state;
pub mod state_machine;
pub mod stored;
pub mod successors;
#[cfg(test)]
pub(crate) mod testing;
pub mod types;
pub mod writer;

use openraft::errors::Fatal;
use openraft_rt::WatchReceiver;

use types::{Raft, Types};

/// Waits until raft cannot go on, and says why. The node has to end then: it cannot keep what it has promised.
pub async fn fatal(raft: &Raft) -> Fatal<Types> {
    let mut metrics = raft.metrics();
    loop {
        if let Err(fatal) = &metrics.borrow_watched().running_state {
            return fatal.clone();
        }
        if metrics.changed().await.is_err() {
            return Fatal::Stopped;
        }
    }
}
