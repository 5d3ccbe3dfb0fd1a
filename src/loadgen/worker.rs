//! One thread of the load generator: an event loop over its own connections.
//!
//! The loop writes once per batch and reads into one buffer that all connections use; replies are counted where they
//! lie.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;

use mio::{Events, Interest, Token};

use super::client::Client;
use super::connect::Socket;
use super::turn::{TIMER, Turn};

/// Bytes taken from a socket at once.
pub const READ_BYTES: usize = 256 * 1024;
/// Events taken from the kernel at once.
pub const EVENTS_MAX: usize = 1024;

#[derive(Debug)]
struct Connection {
    client: Client,
    socket: Socket,
    /// The socket took no more bytes; waiting for it.
    blocked: bool,
    /// Still has work and a socket to do it.
    active: bool,
    /// Its next due time is in the queue of due times.
    queued: bool,
}

/// The event loop.
pub struct Worker {
    turn: Turn,
    connections: Vec<Connection>,
    active: usize,
    /// Due times of the connections that may send then.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    buf: Vec<u8>,
}

impl Worker {
    /// Takes over connected sockets. No more than `u32::MAX` of them.
    pub fn new(connections: Vec<(Client, Socket)>, turn: Turn) -> io::Result<Self> {
        let mut all = Vec::with_capacity(connections.len());
        for (index, (client, mut socket)) in connections.into_iter().enumerate() {
            turn.registry().register(socket.source(), Token(index), Interest::READABLE)?;
            all.push(Connection { client, socket, blocked: false, active: true, queued: false });
        }
        Ok(Worker { turn, active: all.len(), connections: all, due: BinaryHeap::new(), buf: vec![0; READ_BYTES] })
    }

    /// Runs until all clients are done, or it is time to stop and what is in flight has been answered.
    pub fn run(mut self) -> io::Result<()> {
        self.turn.begin();
        let mut events = Events::with_capacity(EVENTS_MAX);
        for index in 0..self.connections.len() {
            self.send(index);
        }
        while self.active > 0 {
            let now_ns = self.turn.now_ns();
            if let Some(stop_ns) = self.turn.stops(now_ns) {
                self.stop(stop_ns);
            }
            if self.turn.is_over(now_ns) {
                break;
            }
            self.turn.hand_over(now_ns);
            let due_ns = self.due.peek().map(|Reverse((due_ns, _))| *due_ns);
            self.turn.wait(&mut events, due_ns, now_ns)?;
            for event in &events {
                if event.token() != TIMER {
                    self.on_event(event.token().0, event.is_writable(), event.is_read_closed())?;
                }
            }
            self.send_due();
        }
        let open = self.connections.iter().filter(|connection| connection.active);
        let unanswered = open.map(|connection| connection.client.in_flight() as u64).sum();
        self.turn.end(unanswered);
        Ok(())
    }

    fn stop(&mut self, stop_ns: u64) {
        self.due.clear();
        for connection in self.connections.iter_mut().filter(|connection| connection.active) {
            self.turn.finished.unsent += connection.client.stop(stop_ns);
            if connection.client.is_done() {
                connection.active = false;
                self.active -= 1;
            }
        }
    }

    fn on_event(&mut self, index: usize, writable: bool, closed: bool) -> io::Result<()> {
        let connection = &mut self.connections[index];
        if !connection.active {
            return Ok(());
        }
        if writable && connection.blocked {
            connection.blocked = false;
            self.turn.registry().reregister(connection.socket.source(), Token(index), Interest::READABLE)?;
        }
        match self.receive(index, closed) {
            Ok(()) => self.send(index),
            Err(reason) => self.lose(index, reason),
        }
        Ok(())
    }

    /// Reads what has arrived. A read that leaves room in the buffer has emptied the socket: the next arrival makes a new
    /// event, unless it has happened already, which `closed` tells.
    fn receive(&mut self, index: usize, closed: bool) -> Result<(), String> {
        let connection = &mut self.connections[index];
        loop {
            let n = match connection.socket.read(&mut self.buf) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string()),
            };
            let now_ns = self.turn.now_ns();
            let fed = connection.client.feed(&self.buf[..n], now_ns, &mut self.turn.finished.stats);
            fed.map_err(|error| error.to_string())?;
            self.turn.finished.end_ns = now_ns;
            if connection.client.is_done() || (n < self.buf.len() && !closed) {
                return Ok(());
            }
        }
    }

    /// Writes what the client has to send now, and notes when it next will.
    fn send(&mut self, index: usize) {
        let now_ns = self.turn.now_ns();
        let connection = &mut self.connections[index];
        while !connection.blocked && connection.client.fill(now_ns) {
            match connection.socket.write(connection.client.output()) {
                Ok(n) => connection.client.written(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let both = Interest::READABLE | Interest::WRITABLE;
                    match self.turn.registry().reregister(connection.socket.source(), Token(index), both) {
                        Ok(()) => connection.blocked = true,
                        Err(error) => return self.lose(index, error.to_string()),
                    }
                }
                Err(error) => {
                    // The server may have said why before it closed.
                    let said = self.receive(index, true);
                    return self.lose(index, said.err().unwrap_or_else(|| error.to_string()));
                }
            }
        }
        if connection.client.is_done() {
            connection.active = false;
            self.active -= 1;
        } else if !connection.queued
            && !connection.blocked
            && let Some(due_ns) = connection.client.wake_ns()
        {
            connection.queued = true;
            self.due.push(Reverse((due_ns, index as u32)));
        }
    }

    /// Sends what has become due, at most once per connection.
    fn send_due(&mut self) {
        let now_ns = self.turn.now_ns();
        for _ in 0..self.connections.len() {
            match self.due.peek() {
                Some(&Reverse((due_ns, index))) if due_ns <= now_ns => {
                    self.due.pop();
                    let connection = &mut self.connections[index as usize];
                    connection.queued = false;
                    if connection.active {
                        self.send(index as usize);
                    }
                }
                _ => return,
            }
        }
    }

    fn lose(&mut self, index: usize, reason: String) {
        let connection = &mut self.connections[index];
        connection.active = false;
        self.active -= 1;
        self.turn.finished.lost_connections += 1;
        self.turn.finished.unanswered += connection.client.in_flight() as u64;
        self.turn.finished.first_loss.get_or_insert(reason);
        // A socket that cannot be taken out is closed with the others at the end.
        let _ = self.turn.registry().deregister(connection.socket.source());
    }
}
