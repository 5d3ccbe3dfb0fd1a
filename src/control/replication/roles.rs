//! Changes of role: from leading to following, and back.
//!
//! Owned by the control core.

use std::rc::Rc;

use super::{Control, Role, chain_of, entries_of, replica_settings};
use crate::control::random_id;
use crate::replication::primary::Extent;
use crate::replication::replica::{Holdings, Replica};

impl Control {
    /// Data cores have said that nothing is written any more.
    pub(in crate::control) fn look_at_barriers(self: &Rc<Self>) {
        let all = {
            let log = self.log.borrow();
            let mut cores = log.barriers.clone();
            cores.sort_unstable();
            cores.dedup();
            cores.len() == log.cores()
        };
        if !all {
            return;
        }
        self.log.borrow_mut().barriers.clear();
        let stepping_down = matches!(self.replication.borrow().role, Role::SteppingDown { .. });
        if stepping_down {
            return self.finish_stepping_down();
        }
        if std::mem::take(&mut self.replication.borrow_mut().pausing) {
            self.serve(|primary, now_ms, out| primary.writes_paused(now_ms, out));
        }
    }

    /// REPLICAOF host port. False: that one is followed already.
    pub(in crate::control) fn replicate_of(self: &Rc<Self>, host: String, port: u16) -> Result<bool, String> {
        let role = self.replication.borrow().role.clone();
        match role {
            Role::Leading if self.log.borrow().standing.handing_over => {
                return Err("REPLICAOF not allowed while failing over.".into());
            }
            Role::TakingOver { .. } => return Err("this node is taking over".into()),
            Role::SteppingDown { host: known, port: at } | Role::Following { host: known, port: at }
                if at == port && known.eq_ignore_ascii_case(&host) =>
            {
                return Ok(false);
            }
            Role::Leading => {
                tracing::info!(host, port, "this node is to become a replica");
                self.replication.borrow_mut().role = Role::SteppingDown { host, port };
                self.change_standing(|standing| {
                    standing.replica = true;
                    standing.stops += 1;
                });
            }
            Role::SteppingDown { .. } => self.replication.borrow_mut().role = Role::SteppingDown { host, port },
            Role::Following { .. } => {
                self.replication.borrow_mut().role = Role::Following { host, port };
                self.follow(|replica, now_ms, out| replica.follow(now_ms, out));
            }
        }
        self.note_primary();
        Ok(true)
    }

    /// Everything is in the log that this node has written: it follows from now on.
    pub(super) fn finish_stepping_down(self: &Rc<Self>) {
        let config = self.config();
        let (chain, end, durable, oldest) = {
            let log = self.log.borrow();
            let end = log.sequencer.end();
            (chain_of(log.sequencer.histories()), end, log.durable().min(end), log.oldest())
        };
        {
            let mut replication = self.replication.borrow_mut();
            let Role::SteppingDown { host, port } = replication.role.clone() else { return };
            let has = Holdings { chain: chain.clone(), received: end, applied: end, durable, complete: true };
            let attempt = self.wall_ms() as u64 * 1000;
            replication.replica = Replica::new(replica_settings(replication.node, &config), has, attempt);
            replication.apply.start_at(end);
            replication.relayed.clear();
            (replication.role, replication.in_use) = (Role::Following { host, port }, true);
        }
        self.change_standing(|standing| standing.follows = true);
        let extent = Extent { oldest, end, commit: end, durable };
        self.serve(|primary, now_ms, out| primary.relay(now_ms, chain, extent, out));
        self.follow(|replica, now_ms, out| replica.follow(now_ms, out));
    }

    /// Starts as a replica, with what was found on disk.
    pub(in crate::control) fn start_following(self: &Rc<Self>, host: String, port: u16) {
        self.replication.borrow_mut().role = Role::SteppingDown { host, port };
        self.change_standing(|standing| standing.replica = true);
        self.finish_stepping_down();
    }

    /// REPLICAOF NO ONE.
    pub(in crate::control) fn replicate_of_no_one(self: &Rc<Self>) -> Result<(), String> {
        let role = self.replication.borrow().role.clone();
        match role {
            Role::Following { .. } => self.take_over(),
            Role::SteppingDown { .. } => {
                self.lead();
                self.change_standing(|standing| standing.replica = false);
                self.note_primary();
                Ok(())
            }
            Role::Leading | Role::TakingOver { .. } => Ok(()),
        }
    }

    pub(super) fn take_over(self: &Rc<Self>) -> Result<(), String> {
        let mut actions = Vec::new();
        let promoted = self.replication.borrow_mut().replica.promote(random_id(), &mut actions);
        let chain = promoted.map_err(|error| error.to_string())?;
        tracing::info!("this node takes over");
        {
            let mut replication = self.replication.borrow_mut();
            if let Role::Following { host, port } = replication.role.clone() {
                replication.role = Role::TakingOver { chain, host, port };
            }
        }
        for action in actions {
            self.do_follow(action);
        }
        self.advance();
        Ok(())
    }

    /// Leads, if everything is applied that was received.
    pub(super) fn finish_taking_over(self: &Rc<Self>) {
        {
            let mut replication = self.replication.borrow_mut();
            let Role::TakingOver { chain, .. } = replication.role.clone() else { return };
            let end = replication.replica.has().received;
            if replication.apply.applied() < end || !replication.apply.is_drained() {
                return;
            }
            replication.relayed.clear();
            let mut log = self.log.borrow_mut();
            log.sequencer.follow(entries_of(&chain), end);
            if let Some(wal) = log.wal()
                && let Err(error) = wal.start_history(entries_of(&chain), end + 1)
            {
                tracing::error!(%error, "the log cannot begin a history");
            }
            log.record();
        }
        self.lead();
        self.change_standing(|standing| {
            (standing.replica, standing.follows, standing.loading) = (false, false, false);
        });
        self.note_primary();
        tracing::info!("this node leads");
    }
}
