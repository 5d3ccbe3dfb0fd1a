//! What data cores ask of the control core on behalf of their clients, and who waits for the answer.
//!
//! Owned by the control core.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Control;
use super::cluster::{ForceError, MemberError, OrderError, TakeRolesError};
use crate::command::log::{LogAnswer, LogAsk};
use crate::command::membership::Membership;
use crate::log::frame::Index;
use crate::raft::types::Peer;
use crate::route::CoreId;

/// How long the answer to REPLICAOF waits for the change that it makes, and how often it looks.
const ROLE_PATIENCE: Duration = Duration::from_secs(5);
const ROLE_LOOK: Duration = Duration::from_millis(1);

/// A client that waits for copies of what it has written: WAIT, WAITAOF.
pub(super) struct CopyWait {
    core: CoreId,
    ask: u32,
    part: u16,
    positions: Vec<(CoreId, u64)>,
    /// The last index of what it waits for, once that is in the log.
    index: Option<Index>,
    local: bool,
    replicas: u32,
    synced: bool,
    deadline: Option<Instant>,
}

impl Control {
    /// Answers a question of a data core, now or later.
    pub(super) fn take_question(self: &Rc<Self>, core: CoreId, ask: u32, part: u16, question: LogAsk) {
        match question {
            LogAsk::Save { wait, schedule } => self.ask_save(core, ask, part, wait, schedule),
            LogAsk::Configure => {
                let answer = self.configure().map_or_else(LogAnswer::Failed, |()| LogAnswer::Done);
                // Before the answer: whoever has it counts on what it has set.
                self.judge_replicas();
                self.answer(core, ask, part, answer);
            }
            LogAsk::ShutDown(how) => self.shut_down(how, Some((core, ask, part))),
            LogAsk::AbortShutDown => {
                let answer = if self.abort_shutdown() { LogAnswer::Done } else { LogAnswer::Busy };
                self.answer(core, ask, part, answer);
            }
            LogAsk::LastSave => {
                let time = LogAnswer::Time(self.saves.borrow().last_save_s);
                self.answer(core, ask, part, time);
            }
            LogAsk::Wait { positions, local, replicas, synced, timeout_ms } => {
                let deadline = timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
                let index = None;
                let wait = CopyWait { core, ask, part, positions, index, local, replicas, synced, deadline };
                self.waits.borrow_mut().push(wait);
                if local && let Some(wal) = self.log.borrow().wal() {
                    wal.request_sync(Index::MAX);
                }
                self.check_waits();
                if let Some(ms) = timeout_ms.filter(|&ms| ms > 0) {
                    let control = Rc::clone(self);
                    glommio::spawn_local(async move {
                        glommio::timer::sleep(Duration::from_millis(ms)).await;
                        control.check_waits();
                    })
                    .detach();
                }
            }
            LogAsk::ReplicaOf(target) => {
                let answer = match target {
                    Some((host, port)) => match self.replicate_of(host, port) {
                        Ok(true) => LogAnswer::Done,
                        Ok(false) => LogAnswer::Busy,
                        Err(error) => LogAnswer::Failed(error),
                    },
                    None => self.replicate_of_no_one().map_or_else(LogAnswer::Failed, |()| LogAnswer::Done),
                };
                self.note_primary();
                let control = Rc::clone(self);
                glommio::spawn_local(async move {
                    if matches!(answer, LogAnswer::Done) {
                        control.role_is_known().await;
                    }
                    control.answer(core, ask, part, answer);
                })
                .detach();
            }
            LogAsk::Failover { target, timeout_ms, force } => {
                let done = self.fail_over(target, timeout_ms, force);
                let control = Rc::clone(self);
                glommio::spawn_local(async move {
                    if done.is_ok() {
                        control.role_is_known().await;
                    }
                    control.answer(core, ask, part, done.map_or_else(LogAnswer::NoFailover, |()| LogAnswer::Done));
                })
                .detach();
            }
            LogAsk::AbortFailover => {
                let done = self.abort_fail_over();
                self.answer(core, ask, part, done.map_or_else(LogAnswer::NoFailover, |()| LogAnswer::Done));
            }
            LogAsk::Member(membership) => {
                let control = Rc::clone(self);
                glommio::spawn_local(async move {
                    let done = match membership {
                        Membership::Create => control.found_cluster().await,
                        Membership::Join { host, bus_port } => control.join_cluster(Peer { host, bus_port }).await,
                        Membership::Begin => control.begin_data_set().await,
                    };
                    let failed = |error: MemberError| LogAnswer::Failed(error.to_string());
                    control.answer(core, ask, part, done.map_or_else(failed, |()| LogAnswer::Done));
                })
                .detach();
            }
            LogAsk::Order(wish) => {
                let control = Rc::clone(self);
                glommio::spawn_local(async move {
                    let failed = |error: OrderError| LogAnswer::Failed(error.to_string());
                    let done = control.give_order(wish).await;
                    control.answer(core, ask, part, done.map_or_else(failed, |()| LogAnswer::Done));
                })
                .detach();
            }
            LogAsk::TakeRoles => {
                let done = self.take_roles();
                let failed = |error: TakeRolesError| LogAnswer::Failed(error.to_string());
                self.answer(core, ask, part, done.map_or_else(failed, |()| LogAnswer::Done));
            }
            LogAsk::StopInHandover(stage) => {
                let stops = self.stop_in_handover(stage);
                let failed = || LogAnswer::Failed("this node is in no cluster of several nodes".to_string());
                self.answer(core, ask, part, if stops { LogAnswer::Done } else { failed() });
            }
            LogAsk::ForcePromote { lost, empty } => {
                let control = Rc::clone(self);
                glommio::spawn_local(async move {
                    let promoted = control.force_promote(lost, empty).await;
                    let failed = |error: ForceError| LogAnswer::Failed(error.to_string());
                    control.answer(core, ask, part, promoted.map_or_else(failed, LogAnswer::Count));
                })
                .detach();
            }
            LogAsk::ClusterStatus => {
                let status = self.cluster_status().map(|status| status.to_string());
                self.answer(core, ask, part, status.map_or_else(LogAnswer::Failed, LogAnswer::Text));
            }
            LogAsk::Backup(question) => {
                let control = Rc::clone(self);
                glommio::spawn_local(async move {
                    let answer = control.ask_backup(question).await;
                    control.answer(
                        core,
                        ask,
                        part,
                        answer.unwrap_or_else(|error| LogAnswer::Failed(error.to_string())),
                    );
                })
                .detach();
            }
            LogAsk::Numbers => {
                let numbers = self.log_numbers();
                self.answer(core, ask, part, LogAnswer::Numbers(Box::new(numbers)));
            }
        }
    }

    /// Waits, not too long, until a takeover is complete and all data cores know the role of the node.
    async fn role_is_known(self: &Rc<Self>) {
        let by = Instant::now() + ROLE_PATIENCE;
        while self.replication.borrow().takes_over() && Instant::now() < by {
            glommio::timer::sleep(ROLE_LOOK).await;
        }
        // The answer to a question that was asked before tells nothing.
        for _ in 0..2 {
            self.ask(ROLE_PATIENCE).await;
        }
    }

    /// Answers those who wait for copies that are there, or have waited long enough.
    pub(super) fn check_waits(&self) {
        if self.waits.borrow().is_empty() {
            return;
        }
        let now = Instant::now();
        let mut done = Vec::new();
        {
            let log = self.log.borrow();
            self.waits.borrow_mut().retain_mut(|wait| {
                if wait.index.is_none() && log.has(&wait.positions) {
                    wait.index = Some(log.sequencer.end());
                    if wait.local
                        && let Some(wal) = log.wal()
                    {
                        wal.request_sync(log.sequencer.end());
                    }
                }
                let durable = wait.index.is_some_and(|index| log.durable() >= index);
                let replicas = wait.index.map_or(0, |index| self.copies(index, wait.synced));
                let enough = wait.index.is_some() && (durable || !wait.local) && replicas >= wait.replicas;
                let over = wait.deadline.is_some_and(|deadline| now >= deadline);
                if enough || over {
                    done.push((wait.core, wait.ask, wait.part, LogAnswer::Copies { local: durable, replicas }));
                }
                !(enough || over)
            });
        }
        for (core, ask, part, answer) in done {
            self.answer(core, ask, part, answer);
        }
    }

    /// How many replicas have everything up to `index`, or have synced it.
    fn copies(&self, index: Index, synced: bool) -> u32 {
        if let Some(member) = self.member() {
            return member.copies(index, synced);
        }
        let replication = self.replication.borrow();
        let count = if synced { replication.primary.durable_on(index) } else { replication.primary.received_by(index) };
        count as u32
    }
}
