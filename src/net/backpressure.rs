//! Writes wait while the log is behind.
//!
//! What a core has sent to the control core and what was not taken there is held in memory. When that is too much
//! ([`UNTAKEN_BYTES_MAX`](crate::log::feed::UNTAKEN_BYTES_MAX)), because the disk is slow, the core says so to all others,
//! and none of them begins to execute a write until it has room again: the requests stay with their connections, as under
//! CLIENT PAUSE WRITE, and these are not read any more. What has been begun, goes on: a transaction that holds keys, and
//! requests that are on their way to another core. Both are bounded for each connection ([`super::limits`]).
//!
//! Keys do not expire by themselves meanwhile; whoever looks at one still finds it gone.
//!
//! Owned by one core.

use super::clients::{is_paused, writes};
use super::connection::Hold;
use super::forward::Message;
use super::pump::Pump;
use crate::command::table::Row;
use crate::route::CoreId;

impl Pump {
    /// Looks whether this core has fed more than the control core takes, and tells the others when that changes.
    pub(super) fn check_feed(&mut self) {
        let was_full = self.full_feeds.contains(&self.me);
        let full = if was_full { !self.engine.feed.has_room() } else { self.engine.feed.is_full() };
        if full == was_full {
            return;
        }
        self.note_feed(self.me, full);
        let (me, cores) = (self.me, self.engine.router.cores());
        for core in (0..cores).filter(|&core| core != me) {
            self.send(core, Message::FeedFull(full));
        }
    }

    /// A core has fed more than is taken, or no longer.
    pub(super) fn note_feed(&mut self, core: CoreId, full: bool) {
        self.full_feeds.retain(|&other| other != core);
        if full {
            self.full_feeds.push(core);
        }
        self.update_restraint();
    }

    /// What holds requests up has changed: those that wait are looked at again.
    pub(super) fn update_restraint(&mut self) {
        let roles_move = self.engine.view.as_ref().is_some_and(|view| view.holds_any());
        self.restrained = self.pause.is_some() || !self.full_feeds.is_empty() || roles_move;
        for index in std::mem::take(&mut self.paused) {
            self.release(index, Hold::PAUSE);
        }
    }

    /// Lets a request wait, and what its connection sends behind it, until what holds it up has changed.
    #[cold]
    pub(super) fn hold_up(&mut self, index: u32, start: u32) {
        let Some(connection) = &mut self.connections[index as usize] else { return };
        let args = &self.window.args[start as usize..];
        connection.stash = Some(args.iter().map(|arg| arg.to_vec()).collect());
        connection.hold.set(Hold::PAUSE);
        self.paused.push(index);
        self.window.args.truncate(start as usize);
    }

    /// Whether a request has to wait, for the end of a pause or for the log. Ask only while the core is `restrained`.
    #[cold]
    pub(super) fn is_held_up(&self, index: u32, row: &Row) -> bool {
        let Some(connection) = self.connections[index as usize].as_deref() else { return false };
        let session = &connection.session;
        self.pause.is_some_and(|pause| is_paused(pause, row, session))
            || (!self.full_feeds.is_empty() && writes(row, session))
    }
}
