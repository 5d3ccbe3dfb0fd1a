//! How the node ends: SHUTDOWN, SIGTERM, SIGINT.
//!
//! A node of a cluster first gives away what it leads, unless NOW is said. With save points, or if it is asked for, a snapshot
//! is made then, while writes of clients wait: so nothing is lost that anybody was told of. When it is complete, the main thread is told to go on ([`crate::node`]). It has
//! `shutdown-timeout`; if it fails or is late, a SHUTDOWN without FORCE is refused and the node goes on, but a signal,
//! behind which nobody reads an answer, ends the node nevertheless.
//!
//! A snapshot that was under way before is waited for: it may have been begun for somebody.
//!
//! Owned by the control core.

use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::timer::timeout;

use super::{Control, ring};
use crate::command::Ask;
use crate::command::ask::Pause;
use crate::command::log::LogAnswer;
use crate::config::ShutdownOn;
use crate::net::forward::Message;
use crate::node::End;
use crate::route::CoreId;

/// Longer than the shutdown by so much, writes wait.
const PAUSE_GRACE: Duration = Duration::from_secs(5);

/// A shutdown that waits for its snapshot.
#[derive(Default)]
pub(super) struct Ending {
    /// Clients that sent SHUTDOWN.
    asked: Vec<(CoreId, u32, u16)>,
    /// Goes on whatever happens: it was forced, or a signal.
    force: bool,
    /// Nothing more is given away.
    now: bool,
    number: u64,
}

impl Control {
    /// Begins the end of the node. `client`: who sent SHUTDOWN; it gets a reply only if the node goes on.
    pub(super) fn shut_down(self: &Rc<Self>, how: ShutdownOn, client: Option<(CoreId, u32, u16)>) {
        let force = how.force || client.is_none();
        let config = self.config();
        if let Some(ending) = &mut *self.ending.borrow_mut() {
            ending.asked.extend(client);
            ending.force |= force;
            ending.now |= how.now;
            return;
        }
        let saves = how.save.unwrap_or(!config.save.is_empty());
        let leaves = !how.now && self.member().is_some();
        if !saves && !leaves {
            return self.end_now(client.into_iter().collect());
        }
        let patience = Duration::from_secs(config.shutdown_timeout_s);
        let pause = patience + PAUSE_GRACE;
        if !leaves {
            self.pause_writes(Some(pause));
        }
        let number = self.endings.get() + 1;
        self.endings.set(number);
        *self.ending.borrow_mut() = Some(Ending { asked: client.into_iter().collect(), force, now: how.now, number });
        let (control, deadline) = (Rc::clone(self), Instant::now() + patience);
        glommio::spawn_local(async move {
            if leaves {
                let is_hurried = || control.ending.borrow().as_ref().is_some_and(|ending| ending.now);
                control.give_away(deadline, || control.is_ending(number) && !is_hurried()).await;
            }
            let mut saved = Ok(());
            if saves && control.is_ending(number) {
                tracing::info!("a snapshot is made before the node ends");
                control.pause_writes(Some(pause));
                saved = control.save_last(deadline).await;
            }
            control.saved_last(number, saved);
        })
        .detach();
    }

    /// Whether this end is still wanted.
    fn is_ending(&self, number: u64) -> bool {
        self.ending.borrow().as_ref().is_some_and(|ending| ending.number == number)
    }

    /// Makes a snapshot that begins now, until `deadline`.
    async fn save_last(self: &Rc<Self>, deadline: Instant) -> Result<(), String> {
        self.wait_for_save(deadline).await?;
        self.begin_save()?;
        self.wait_for_save(deadline).await?;
        if self.saves.borrow().last_ok { Ok(()) } else { Err("the snapshot failed".into()) }
    }

    /// Waits while a snapshot is under way.
    async fn wait_for_save(&self, deadline: Instant) -> Result<(), String> {
        loop {
            let Some(writer) = self.saves.borrow().writer() else { return Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            let finished = async { Ok::<_, glommio::GlommioError<()>>(writer.finished().await.is_ok()) };
            if timeout(left, finished).await.is_err() {
                return Err("the snapshot is not complete within 'shutdown-timeout'".into());
            }
            // Whoever else waits for it notes its end; a yield would keep the timers from it that it may wait for.
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
    }

    fn saved_last(self: &Rc<Self>, number: u64, saved: Result<(), String>) {
        if !self.is_ending(number) {
            return;
        }
        let force = self.ending.borrow().as_ref().is_some_and(|ending| ending.force);
        let asked = || self.ending.borrow().as_ref().map_or(Vec::new(), |ending| ending.asked.clone());
        match saved {
            Ok(()) => self.end_now(asked()),
            Err(error) if force => {
                tracing::error!(error, "the node ends without its last snapshot");
                self.end_now(asked());
            }
            Err(error) => {
                tracing::error!(error, "the node does not end");
                self.give_up_end();
            }
        }
    }

    /// The main thread is told. Connections of those who wanted this are closed without a reply.
    fn end_now(&self, asked: Vec<(CoreId, u32, u16)>) {
        for (core, ask, part) in asked {
            self.answer(core, ask, part, LogAnswer::Done);
        }
        self.node.end(End::Now);
    }

    /// SHUTDOWN ABORT: false if none is under way.
    pub(super) fn abort_shutdown(self: &Rc<Self>) -> bool {
        let was = self.ending.borrow().is_some();
        if was {
            tracing::info!("the shutdown was aborted");
            self.give_up_end();
            self.node.end(End::Aborted);
        }
        was
    }

    /// The node goes on.
    fn give_up_end(self: &Rc<Self>) {
        let Some(ending) = self.ending.borrow_mut().take() else { return };
        self.pause_writes(None);
        self.stay();
        for (core, ask, part) in ending.asked {
            self.answer(core, ask, part, LogAnswer::Failed(String::new()));
        }
    }

    /// Holds up writes of clients on all data cores; None: no longer.
    pub(super) fn pause_writes(&self, patience: Option<Duration>) {
        let now_ms = self.node.clock.clone().now().steady_ms;
        let pause =
            patience.map(|patience| Pause { until_ms: now_ms + patience.as_millis() as i64, writes_only: true });
        let mut state = self.state.borrow_mut();
        for core in 0..state.snapshots.len() {
            // The answer to a question with this number is not waited for.
            let message = Message::Question { ask: 0, part: core as u16, question: Box::new(Ask::Pause(pause)) };
            let _ = state.mesh.send(core, message);
        }
        ring(&mut state.mesh, &self.node);
    }
}
