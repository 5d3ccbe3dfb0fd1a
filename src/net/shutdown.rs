//! The end of a core, in three steps: no new requests; what clients are owed; the others' end.
//!
//! Owned by one core. The steps of the whole node: [`crate::node`].

use super::connection::Hold;
use super::pump::{Pump, Stopping};
use crate::node::Order;

/// How long a core waits, after the deadline, for the others to close their side of the mesh.
const STOP_GRACE_MS: i64 = 2000;

impl Pump {
    /// Messages from plain threads.
    pub(super) fn take_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Stop { deadline_ms } => self.begin_shutdown(deadline_ms),
                Order::ShutDown(_) => debug_assert!(false, "only the control core is asked"),
            }
        }
    }

    /// Step 1 of a core's shutdown: no new clients, no new requests.
    fn begin_shutdown(&mut self, deadline_ms: i64) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(Stopping { deadline_ms, mesh_closed: false });
        self.run_window();
        for index in 0..self.listeners.len() {
            self.ring.cancel_accept(index as u32);
        }
        for index in 0..self.connections.len() as u32 {
            if let Some(connection) = self.connection(index) {
                connection.hold.set(Hold::CLOSE);
                connection.close_when_sent = true;
                self.settle(index);
                self.update_receive(index);
            }
        }
    }

    /// Step 2: wait for what clients are owed, up to the deadline; then close the mesh.
    pub(super) fn continue_shutdown(&mut self, now_ms: i64) {
        let Some(stopping) = self.stopping else { return };
        let served = self.connections.iter().flatten().count() == 0;
        if !served && now_ms < stopping.deadline_ms {
            return;
        }
        for index in 0..self.connections.len() as u32 {
            self.kill(index);
        }
        if !stopping.mesh_closed {
            // What was changed last belongs into the log, though it would linger here for a while.
            self.engine.hurry_feed();
            self.send_feed();
            self.send_messages();
            if self.mesh.outbox_len() > 0 && now_ms < stopping.deadline_ms {
                return;
            }
            self.mesh.close(|_, _| {});
            self.stopping = Some(Stopping { mesh_closed: true, ..stopping });
        }
    }

    /// Step 3: this core is done when all others have closed too.
    pub(super) fn stopped(&self) -> bool {
        self.stopping.is_some_and(|stopping| {
            let late = self.engine.shard.steady_ms() > stopping.deadline_ms + STOP_GRACE_MS;
            stopping.mesh_closed && (self.mesh.all_finished() || late)
        })
    }
}
