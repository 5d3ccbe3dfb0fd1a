//! The life of connections: accepting, limits, timeouts, closing; and what CLIENT does to them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::connection::{Connection, Hold};
use super::forward::Message;
use super::limits;
use super::listener;
use super::publish::output_limit;
use super::pump::Pump;
use super::ring::{self, Completion};
use crate::command::ask::Pause;
use crate::command::session::{ClientFilter, NetInfo};
use crate::command::table::Row;
use crate::command::{Answer, Flags, Session};
use crate::config::Config;

/// Connections looked at in one tick for timeouts: a tenth of them, so that each is looked at once a second.
const TICKS_PER_SWEEP: u64 = 10;

impl Pump {
    /// A client has connected: the core with the fewest clients takes it, unless the client has chosen this one.
    pub(super) fn accepted(&mut self, completion: Completion) {
        let index = completion.index;
        let (fd, unix) = (self.listeners[index as usize].fd(), self.listeners[index as usize].unix);
        if !completion.more && self.stopping.is_none() {
            self.ring.arm_accept(index, fd);
        }
        if completion.result < 0 {
            return;
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(completion.result) };
        self.engine.net.connections_received += 1;
        if let Some(refusal) = self.refusal(&socket, unix) {
            self.engine.net.connections_rejected += 1;
            return say_and_close(socket, refusal);
        }
        let to = match self.listeners[index as usize].core {
            Some(core) => {
                self.node.client_came(core);
                core
            }
            None => self.node.place_client(),
        };
        if to == self.me {
            self.serve(socket, unix);
        } else {
            self.send(to, Message::Socket { socket, unix });
        }
    }

    /// Why this client is turned away, if it is.
    fn refusal(&self, socket: &OwnedFd, unix: bool) -> Option<&'static [u8]> {
        let config = &self.engine.config;
        if self.node.clients() >= config.maxclients {
            return Some(b"-ERR max number of clients reached\r\n");
        }
        let near = |peer: SocketAddr| match peer.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
        };
        let far = !unix && !listener::peer_address(socket).is_some_and(near);
        (config.protected_mode && config.requirepass.is_empty() && far).then_some(PROTECTED.as_bytes())
    }

    /// Starts to serve a client that has been counted for this core.
    pub(super) fn serve(&mut self, socket: OwnedFd, unix: bool) {
        if self.stopping.is_some() {
            return self.node.client_left(self.me);
        }
        let config = &self.engine.config;
        if !unix {
            // A client that vanished already makes these fail; its first receive will tell.
            let _ = listener::set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
            set_keepalive(&socket, config.tcp_keepalive_s);
        }
        self.next_client += 1;
        let cores = self.engine.router.cores() as u64;
        let now_ms = self.clock.now().steady_ms;
        let (addr, laddr) = addresses(&socket, unix, config);
        let port = laddr.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let own_core = !unix && port.is_some_and(|port| config.core_at(port).is_some());
        let session = Session {
            id: (self.next_client - 1) * cores + self.me as u64 + 1,
            addr,
            laddr,
            unix_socket: unix,
            own_core,
            authenticated: config.requirepass.is_empty(),
            created_ms: now_ms,
            last_active_ms: now_ms,
            ..Session::default()
        };
        self.next_generation = self.next_generation.wrapping_add(1);
        let connection = Some(Box::new(Connection::new(socket, self.next_generation, session)));
        let index = match self.free.pop() {
            Some(index) => {
                self.connections[index as usize] = connection;
                index
            }
            None => {
                self.connections.push(connection);
                self.connections.len() as u32 - 1
            }
        };
        if let Some(connection) = self.connection(index) {
            connection.session.place = index;
        }
        self.engine.net.clients += 1;
        self.update_receive(index);
    }

    /// The kernel has finished a send.
    pub(super) fn send_done(&mut self, index: u32, result: i32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        self.engine.net.output_bytes += result.max(0) as u64;
        self.engine.net.writes += 1;
        if !connection.sent(result, &mut self.pool) {
            return self.kill(index);
        }
        // A client that takes a long reply is not idle.
        connection.session.last_active_ms = self.engine.shard.steady_ms();
        connection.flush(index, &mut self.ring, &mut self.pool);
        if connection.hold.has(Hold::OUTPUT) && connection.output_bytes() < limits::OUTPUT_PAUSE_BYTES / 2 {
            self.release(index, Hold::OUTPUT);
        }
        self.settle(index);
        self.reclaim(index);
    }

    /// Executes nothing more of a connection while much of its output waits.
    pub(super) fn hold_output(&mut self, index: u32) {
        if let Some(connection) = self.connection(index)
            && connection.output_bytes() >= limits::OUTPUT_PAUSE_BYTES
        {
            connection.hold.set(Hold::OUTPUT);
            self.mark_dirty(index);
        }
    }

    /// Slows down or disconnects a client that does not read its replies.
    #[inline]
    pub(super) fn check_output(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let bytes = connection.output_bytes();
        let limit = output_limit(&self.engine, connection);
        let below = |limit_bytes: u64| limit_bytes == 0 || bytes as u64 <= limit_bytes;
        if bytes < limits::OUTPUT_PAUSE_BYTES / 2 && below(limit.hard_bytes) && below(limit.soft_bytes) {
            connection.over_soft_since_ms = None;
            // Behind replies that nobody wants, what was held back can vanish without another send.
            if connection.hold.has(Hold::OUTPUT) {
                self.release(index, Hold::OUTPUT);
            }
        } else {
            self.check_large_output(index);
        }
        self.settle(index);
    }

    pub(super) fn check_large_output(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let bytes = connection.output_bytes();
        if bytes >= limits::OUTPUT_PAUSE_BYTES {
            connection.hold.set(Hold::OUTPUT);
        } else if bytes < limits::OUTPUT_PAUSE_BYTES / 2 {
            self.release(index, Hold::OUTPUT);
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let limit = output_limit(&self.engine, connection);
        let now_ms = self.engine.shard.steady_ms();
        let over = |limit: u64| limit > 0 && bytes as u64 > limit;
        let soft_since = match over(limit.soft_bytes) {
            true => *connection.over_soft_since_ms.get_or_insert(now_ms),
            false => {
                connection.over_soft_since_ms = None;
                now_ms
            }
        };
        if over(limit.hard_bytes) || now_ms - soft_since > limit.soft_s as i64 * 1000 {
            self.engine.net.output_limit_disconnects += 1;
            tracing::warn!(client = connection.session.addr, bytes, "closed: the client does not read its replies");
            self.kill(index);
        }
        self.update_receive(index);
    }

    /// Disconnects a client that has sent more than may be buffered.
    pub(super) fn check_input(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let bytes = connection.inbuf.len() + connection.parser.memory();
        if bytes > self.engine.config.client_query_buffer_limit {
            self.engine.net.query_limit_disconnects += 1;
            tracing::warn!(client = connection.session.addr, bytes, "closed: the request is too large");
            self.kill(index);
        }
    }

    /// Ends the connection at once, whatever it is owed.
    pub(super) fn kill(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.dead {
            return;
        }
        connection.dead = true;
        self.stop_waiting(index);
        self.end_subscriptions(index);
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        connection.hold.set(Hold::CLOSE);
        // SAFETY: a plain system call on an open socket; it makes the kernel complete what is pending on it.
        unsafe { libc::shutdown(connection.fd(), libc::SHUT_RDWR) };
        self.update_receive(index);
    }

    /// Gives a connection to the control core, as soon as the kernel holds nothing of it.
    pub(super) fn hand_over(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if !connection.dead {
            (connection.dead, connection.handed_over) = (true, true);
            connection.hold.set(Hold::CLOSE);
            self.end_subscriptions(index);
            self.update_receive(index);
        }
    }

    /// Closes a connection that is to be closed, once everything it is owed has been sent.
    pub(super) fn settle(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.eof
            && !connection.hold.any()
            && !connection.pinned
            && !connection.ready
            && connection.stash.is_none()
        {
            connection.close_when_sent = true;
        }
        if connection.close_when_sent
            && !connection.dead
            && !connection.pinned
            && !connection.dirty
            && !connection.sending()
            && connection.output_bytes() == 0
            && !connection.owes()
            && !connection.hold.has(Hold::UNDER_WAY)
        {
            self.kill(index);
        }
    }

    /// Frees the place of a dead connection when the kernel, the window and other cores have let go of it.
    pub(super) fn reclaim(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if !connection.dead
            || !connection.quiescent()
            || connection.pinned
            || connection.hold.has(Hold::UNDER_WAY)
            || connection.has_open_batches()
        {
            return;
        }
        self.unqueue(index);
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.session.monitor {
            self.stop_monitor(index);
        }
        self.end_subscriptions(index);
        self.paused.retain(|&paused| paused != index);
        let gone = self.connections[index as usize].take();
        if let Some(connection) = gone.filter(|connection| connection.handed_over) {
            let Connection { socket, session, .. } = *connection;
            self.send(self.engine.router.cores(), Message::Replica { socket, addr: session.addr });
        }
        self.retired.push(index);
        self.engine.net.clients -= 1;
        self.node.client_left(self.me);
    }

    /// Housekeeping, every [`limits::TICK_MS`].
    pub(super) fn tick(&mut self) {
        self.tick_count += 1;
        let now_ms = self.engine.shard.steady_ms();
        self.take_orders();
        self.engine.cron(now_ms);
        if self.pause.is_some_and(|pause| pause.until_ms <= now_ms) {
            self.set_pause(None);
        }
        let phase = self.tick_count % TICKS_PER_SWEEP;
        for index in (phase as usize..self.connections.len()).step_by(TICKS_PER_SWEEP as usize) {
            self.sweep(index as u32, now_ms);
        }
        self.continue_shutdown(now_ms);
    }

    fn sweep(&mut self, index: u32, now_ms: i64) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let idle_ms = now_ms - connection.session.last_active_ms;
        let timeout_ms = self.engine.config.timeout_s as i64 * 1000;
        let listens = connection.session.monitor || connection.session.subscribed.any();
        if timeout_ms > 0
            && idle_ms > timeout_ms
            && !listens
            && !connection.hold.has(Hold::UNDER_WAY)
            && connection.blocked.is_none()
        {
            return self.kill(index);
        }
        // What an idle client once needed for forwarding is given back.
        if idle_ms > 1000 && !connection.owes() {
            connection.forwarding = None;
        }
        // The kernel may have missed the end of the connection; receiving anew tells.
        if idle_ms > 1000 && connection.receiving && !connection.receive_cancelled && !connection.looked {
            connection.looked = true;
            if ring::has_input(connection.fd()) {
                connection.receive_cancelled = true;
                self.ring.cancel_receive(index);
            }
        }
        if connection.output_bytes() > 0 {
            self.check_large_output(index);
        }
        self.reclaim(index);
    }

    /// CLIENT PAUSE and UNPAUSE.
    pub(super) fn set_pause(&mut self, pause: Option<Pause>) {
        self.pause = match (self.pause, pause) {
            // A pause never shortens or weakens one that is under way.
            (Some(old), Some(new)) => Some(Pause {
                until_ms: old.until_ms.max(new.until_ms),
                writes_only: old.writes_only && new.writes_only,
            }),
            (_, new) => new,
        };
        self.update_restraint();
    }

    pub(super) fn refresh_net_info(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let listens = connection.session.subscribed.any();
        let subscriptions = if listens { self.engine.pubsub.registry().memory_of(index) } else { 0 };
        connection.session.net = NetInfo {
            fd: connection.fd(),
            query_bytes: connection.inbuf.len() - connection.consumed,
            query_free: connection.inbuf.capacity() - connection.inbuf.len(),
            output_bytes: connection.output_bytes(),
            splices: connection.splices(),
            memory: connection.memory() + subscriptions,
        };
    }

    fn matching(&mut self, filter: &ClientFilter) -> Vec<u32> {
        let now_ms = self.engine.shard.steady_ms();
        let matches = |connection: &Connection| !connection.dead && filter.matches(&connection.session, now_ms);
        let indices = 0..self.connections.len() as u32;
        indices.filter(|&i| self.connections[i as usize].as_deref().is_some_and(matches)).collect()
    }

    pub(super) fn list_clients(&mut self, filter: &ClientFilter) -> Answer {
        let indices = self.matching(filter);
        let list = indices.into_iter().filter_map(|index| {
            self.refresh_net_info(index);
            self.connection(index).map(|connection| connection.session.clone())
        });
        Answer::Clients(list.collect())
    }

    pub(super) fn kill_clients(&mut self, filter: &ClientFilter, except: Option<u64>) -> u64 {
        let indices = self.matching(filter);
        let mut killed = 0;
        for index in indices {
            let Some(connection) = self.connection(index) else { continue };
            if Some(connection.session.id) == except {
                continue;
            }
            killed += 1;
            if connection.hold.has(Hold::ASK) {
                // The client that asks, kills itself: it still gets its answer.
                connection.hold.set(Hold::CLOSE);
                connection.close_when_sent = true;
            } else {
                self.kill(index);
            }
        }
        killed
    }

    /// Adds up what only this layer knows, for a snapshot.
    pub(super) fn publish_net_numbers(&mut self) {
        let net = &mut self.engine.net;
        let live = || self.connections.iter().flatten();
        net.clients = live().count() as u64;
        let paused = if self.pause.is_some() { self.paused.len() } else { 0 };
        net.clients_blocked = (live().filter(|c| c.blocked.is_some()).count() + paused) as u64;
        net.clients_monitoring = self.monitors.len() as u64;
        net.client_input_bytes_max = live().map(|c| c.inbuf.len() as u64).max().unwrap_or(0);
        net.client_output_bytes_max = live().map(|c| c.output_bytes() as u64).max().unwrap_or(0);
        let pooled: usize = self.pool.iter().map(|output| output.capacity()).sum();
        let subscriptions = self.engine.pubsub.registry().memory();
        net.client_memory_bytes = live().map(|c| c.memory() as u64).sum::<u64>() + (pooled + subscriptions) as u64;
        let depth = |core| if core == self.me as usize { 0 } else { self.mesh.depth_to(core) as u64 };
        net.queue_depths = (0..self.mesh.executors()).map(depth).collect();
    }

    pub(super) fn start_monitor(&mut self, index: u32) {
        let Some(connection) = self.connection(index) else { return };
        connection.session.monitor = true;
        self.monitors.push(index);
    }

    pub(super) fn stop_monitor(&mut self, index: u32) {
        if let Some(connection) = self.connection(index) {
            connection.session.monitor = false;
        }
        self.monitors.retain(|&monitor| monitor != index);
        if self.monitors.is_empty() {
            let core = self.me;
            self.watch(core, false);
            for other in (0..self.engine.router.cores()).filter(|&other| other != core) {
                self.send(other, Message::Unwatch(core));
            }
        }
    }
}

/// Whether CLIENT PAUSE holds a command of this client back. CLIENT itself goes on, otherwise nobody could end a pause.
pub(super) fn is_paused(pause: Pause, row: &Row, session: &Session) -> bool {
    let held = || writes(row, session) || row.command.flags.has(Flags::MAY_REPLICATE);
    !row.full_name.starts_with("client|") && (!pause.writes_only || held())
}

/// Whether a command may change a key.
pub(super) fn writes(row: &Row, session: &Session) -> bool {
    row.command.flags.has(Flags::WRITE) || row.command.name == "exec" && session.multi.is_some_and(|multi| multi.writes)
}

const PROTECTED: &str = "-DENIED Keyloom is running in protected mode because protected mode is enabled and no password is \
set for the default user. In this mode connections are only accepted from the loopback interface. To connect from \
another machine, set a password with 'requirepass', or switch the mode off with 'protected-mode no' (only if the server \
cannot be reached from outside).\r\n";

/// Sends a last line to a client that is not served. The socket's buffer is empty, so this does not block.
fn say_and_close(socket: OwnedFd, line: &[u8]) {
    // SAFETY: the bytes outlive the call; the socket is open.
    unsafe {
        libc::send(socket.as_raw_fd(), line.as_ptr().cast(), line.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    }
}

fn set_keepalive(socket: &OwnedFd, seconds: u32) {
    if seconds == 0 {
        return;
    }
    let seconds = seconds as i32;
    let options = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds),
        // As Redis: three probes within the next third of the time.
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, (seconds / 3).max(1)),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
    ];
    for (level, name, value) in options {
        let _ = listener::set_option(socket, level, name, value);
    }
}

/// How CLIENT LIST names both ends.
fn addresses(socket: &impl AsRawFd, unix: bool, config: &Arc<Config>) -> (String, String) {
    if unix {
        let path = config.unixsocket.as_deref().unwrap_or_default();
        return (format!("{path}:0"), format!("{path}:0"));
    }
    let text = |address: Option<SocketAddr>| address.map_or_else(|| "?:0".to_string(), |a| a.to_string());
    (text(listener::peer_address(socket)), text(listener::local_address(socket)))
}
