//! The event loop of a thread whose clients are those of a cluster: as that of one server, but connections come and go.
//!
//! Connections are made without waiting for them, so that a node that is gone holds up no load for the others.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use mio::net::TcpStream;
use mio::{Events, Interest, Token, Waker};

use super::client::Client;
use super::routes::{Map, NODES_MAX};
use super::{GIVE_UP_MS, Kind, SILENT_MS, Sight, UNSERVED_MS_MAX, View};
use crate::loadgen::connect::Socket;
use crate::loadgen::turn::{TIMER, Turn};
use crate::loadgen::worker::{EVENTS_MAX, READ_BYTES};

/// Between two attempts to connect: the first pause, doubled up to the last, ns.
const PAUSE_NS_MIN: u64 = 10_000_000;
const PAUSE_NS_MAX: u64 = 100_000_000;
/// How often silent connections are looked for, ns.
const LOOK_NS: u64 = 50_000_000;

const WAKER: Token = Token(usize::MAX - 1);

/// A client's connection to one node.
#[derive(Debug, Default)]
struct Link {
    socket: Option<Socket>,
    /// The socket is not connected yet, or took no more bytes.
    blocked: bool,
    /// The earliest next attempt to connect, and the pause before the one after it.
    retry_ns: u64,
    pause_ns: u64,
}

#[derive(Debug)]
struct Seat {
    client: Client,
    /// By number of the node, as the client's lanes.
    links: Vec<Link>,
    /// Still has work.
    active: bool,
    /// Its next due time is in the queue of due times.
    queued: bool,
}

/// How a thread and the scout reach each other.
pub struct Mail {
    pub maps: Receiver<Arc<Map>>,
    pub wishes: Sender<()>,
}

/// The event loop.
pub struct Worker {
    turn: Turn,
    view: View,
    mail: Mail,
    greeting: Vec<Vec<u8>>,
    seats: Vec<Seat>,
    active: usize,
    /// Due times of the clients that may send then.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    /// Connections to be made: client and node. Invariant: each once.
    down: Vec<(u32, u16)>,
    /// Attempts to connect that failed.
    failed_connects: u64,
    /// When silent connections are looked for next.
    look_ns: u64,
    buf: Vec<u8>,
}

/// What wakes a thread when there is a map for it.
pub fn waker(turn: &Turn) -> io::Result<Waker> {
    Waker::new(turn.registry(), WAKER)
}

fn token(seat: usize, node: usize) -> Token {
    Token(seat * NODES_MAX + node)
}

impl Worker {
    /// Takes over connected sockets: each client's, by number of the node.
    pub fn new(
        clients: Vec<(Client, Vec<Socket>)>,
        turn: Turn,
        view: View,
        mail: Mail,
        greeting: Vec<Vec<u8>>,
    ) -> io::Result<Worker> {
        let mut seats = Vec::with_capacity(clients.len());
        for (index, (mut client, sockets)) in clients.into_iter().enumerate() {
            let mut links = Vec::with_capacity(sockets.len());
            for (node, mut socket) in sockets.into_iter().enumerate() {
                turn.registry().register(socket.source(), token(index, node), Interest::READABLE)?;
                client.begin(node, 0);
                client.greet(node, &[]);
                links.push(Link { socket: Some(socket), ..Link::default() });
            }
            seats.push(Seat { client, links, active: true, queued: false });
        }
        let (active, due, down) = (seats.len(), BinaryHeap::new(), Vec::new());
        let (failed_connects, look_ns, buf) = (0, LOOK_NS, vec![0; READ_BYTES]);
        Ok(Worker { turn, view, mail, greeting, seats, active, due, down, failed_connects, look_ns, buf })
    }

    /// Runs until all clients are done, it is time to stop and what is in flight has been answered, or nothing is served
    /// any more.
    pub fn run(mut self) -> io::Result<()> {
        self.turn.begin();
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut gave_up = false;
        for seat in 0..self.seats.len() {
            self.send(seat);
        }
        while self.active > 0 && !gave_up {
            let now_ns = self.turn.now_ns();
            if let Some(stop_ns) = self.turn.stops(now_ns) {
                self.stop(stop_ns);
            }
            if self.turn.is_over(now_ns) {
                break;
            }
            self.turn.hand_over(now_ns);
            self.connect_due(now_ns);
            if now_ns >= self.look_ns {
                self.look_ns = now_ns + LOOK_NS;
                gave_up = self.look(now_ns);
            }
            if self.view.routes.take_wish() {
                // A wish that waits is as good as two.
                let _ = self.mail.wishes.try_send(());
            }
            self.turn.wait(&mut events, self.next_ns(), now_ns)?;
            for event in &events {
                if event.token() != TIMER && event.token() != WAKER {
                    let Token(at) = event.token();
                    self.on_event(at / NODES_MAX, at % NODES_MAX, event.is_writable(), event.is_read_closed());
                }
            }
            self.read_mail();
            self.send_due();
        }
        let unanswered = self.seats.iter().map(|seat| seat.client.in_flight() as u64).sum();
        if gave_up {
            let now_ns = self.turn.now_ns();
            self.turn.finished.unsent += self.seats.iter_mut().map(|seat| seat.client.stop(now_ns)).sum::<u64>();
        }
        self.turn.finished.unsent += self.view.unsent;
        let (seen, failed_connects) = (self.view.finish(), self.failed_connects);
        self.turn.finished.cluster = Some(Sight { gave_up, failed_connects, ..seen });
        self.turn.end(unanswered);
        Ok(())
    }

    /// When something has to be done without an event.
    fn next_ns(&self) -> Option<u64> {
        let due = self.due.peek().map(|Reverse((due_ns, _))| *due_ns);
        let retry = |&(seat, node): &(u32, u16)| self.seats[seat as usize].links[node as usize].retry_ns;
        due.into_iter().chain(self.down.iter().map(retry).min()).min()
    }

    fn stop(&mut self, stop_ns: u64) {
        self.due.clear();
        for seat in self.seats.iter_mut().filter(|seat| seat.active) {
            self.turn.finished.unsent += seat.client.stop(stop_ns);
            if seat.client.is_done() {
                seat.active = false;
                self.active -= 1;
            }
        }
    }

    /// Takes over newer maps; whoever waits for one tries again.
    fn read_mail(&mut self) {
        let mut news = false;
        for map in self.mail.maps.try_iter() {
            self.view.routes.adopt(&map);
            news = true;
        }
        for seat in 0..self.seats.len() {
            if news && self.seats[seat].active && self.seats[seat].client.is_stuck() {
                self.send(seat);
            }
        }
    }

    fn on_event(&mut self, at: usize, node: usize, writable: bool, closed: bool) {
        let seat = &mut self.seats[at];
        let link = &mut seat.links[node];
        let Some(socket) = link.socket.as_mut().filter(|_| seat.active) else { return };
        if writable && link.blocked {
            let goes_on = socket.is_connected().and_then(|connected| {
                if connected {
                    self.turn.registry().reregister(socket.source(), token(at, node), Interest::READABLE)?;
                }
                Ok(connected)
            });
            match goes_on {
                Ok(true) if seat.client.is_new(node) => seat.client.greet(node, &self.greeting),
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.lose(at, node, Kind::Lost, &error.to_string()),
            }
            link.blocked = false;
        }
        match self.receive(at, node, closed) {
            Ok(()) => self.send(at),
            Err(reason) => self.lose(at, node, Kind::Lost, &reason),
        }
    }

    /// Reads what has arrived, as the loop for one server does.
    fn receive(&mut self, at: usize, node: usize, closed: bool) -> Result<(), String> {
        let seat = &mut self.seats[at];
        let link = &mut seat.links[node];
        let Some(socket) = &mut link.socket else { return Ok(()) };
        loop {
            let n = match socket.read(&mut self.buf) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string()),
            };
            let now_ns = self.turn.timing.now_ns();
            let (stats, view) = (&mut self.turn.finished.stats, &mut self.view);
            let fed = seat.client.feed(node, &self.buf[..n], now_ns, stats, view);
            fed.map_err(|error| error.to_string())?;
            link.pause_ns = PAUSE_NS_MIN;
            self.turn.finished.end_ns = now_ns;
            if seat.client.is_done() || (n < self.buf.len() && !closed) {
                return Ok(());
            }
        }
    }

    /// Writes what a client has to send now, asks for the connections that it lacks, and notes when it next will send.
    fn send(&mut self, at: usize) {
        let now_ns = self.turn.now_ns();
        self.write_all(at, now_ns);
        let seat = &mut self.seats[at];
        seat.links.resize_with(seat.client.lanes(), Link::default);
        for node in 0..seat.links.len() {
            let place = (at as u32, node as u16);
            if seat.client.needs(node, &self.view) && !self.down.contains(&place) {
                self.down.push(place);
            }
        }
        if seat.client.is_stuck() {
            self.view.routes.want();
        }
        if seat.client.is_done() {
            self.active -= usize::from(std::mem::replace(&mut seat.active, false));
        } else if !seat.queued
            && let Some(due_ns) = seat.client.wake_ns()
        {
            seat.queued = true;
            self.due.push(Reverse((due_ns, at as u32)));
        }
    }

    fn write_all(&mut self, at: usize, mut now_ns: u64) {
        let mut wrote = true;
        while wrote {
            wrote = false;
            self.seats[at].client.fill(now_ns, &mut self.view);
            for node in 0..self.seats[at].links.len() {
                match self.write(at, node) {
                    Ok(some) => wrote |= some,
                    Err(reason) => self.lose(at, node, Kind::Lost, &reason),
                }
            }
            now_ns = self.turn.now_ns();
        }
    }

    /// Writes what there is for one node, as far as it takes it; whether it took all, and there was something.
    fn write(&mut self, at: usize, node: usize) -> Result<bool, String> {
        let mut wrote = false;
        loop {
            let seat = &mut self.seats[at];
            let link = &mut seat.links[node];
            let Some(socket) = link.socket.as_mut().filter(|_| !link.blocked) else { return Ok(false) };
            let output = seat.client.output(node);
            if output.is_empty() {
                return Ok(wrote);
            }
            match socket.write(output) {
                Ok(n) => {
                    seat.client.written(node, n);
                    wrote = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let both = Interest::READABLE | Interest::WRITABLE;
                    let waits = self.turn.registry().reregister(socket.source(), token(at, node), both);
                    waits.map_err(|error| error.to_string())?;
                    link.blocked = true;
                    return Ok(false);
                }
                Err(error) => {
                    // Answers may have come before the connection ended.
                    let said = self.receive(at, node, true);
                    return Err(said.err().unwrap_or_else(|| error.to_string()));
                }
            }
        }
    }

    /// Sends what has become due, at most once per client.
    fn send_due(&mut self) {
        let now_ns = self.turn.now_ns();
        for _ in 0..self.seats.len() {
            match self.due.peek() {
                Some(&Reverse((due_ns, at))) if due_ns <= now_ns => {
                    self.due.pop();
                    let seat = &mut self.seats[at as usize];
                    seat.queued = false;
                    if seat.active {
                        self.send(at as usize);
                    }
                }
                _ => return,
            }
        }
    }

    fn lose(&mut self, at: usize, node: usize, kind: Kind, reason: &str) {
        let now_ns = self.turn.now_ns();
        let seat = &mut self.seats[at];
        let link = &mut seat.links[node];
        if let Some(mut socket) = link.socket.take() {
            // It is closed now in any case.
            let _ = self.turn.registry().deregister(socket.source());
        }
        link.blocked = false;
        link.retry_ns = now_ns + link.pause_ns;
        link.pause_ns = (2 * link.pause_ns).clamp(PAUSE_NS_MIN, PAUSE_NS_MAX);
        let finished = &mut self.turn.finished;
        if seat.client.is_ready(node) {
            let name = &self.view.routes.nodes()[node].name;
            finished.first_loss.get_or_insert_with(|| format!("{name}: {reason}"));
            finished.lost_connections += 1;
        } else {
            self.failed_connects += 1;
        }
        finished.unanswered += seat.client.lose(node, kind, now_ns, &mut self.view);
        self.send(at);
    }

    /// Begins the connections that are due.
    fn connect_due(&mut self, now_ns: u64) {
        for (at, node) in std::mem::take(&mut self.down) {
            let (seat, node) = (&mut self.seats[at as usize], node as usize);
            let link = &mut seat.links[node];
            if !seat.active || link.socket.is_some() || !seat.client.needs(node, &self.view) {
                continue;
            }
            if now_ns < link.retry_ns {
                self.down.push((at, node as u16));
                continue;
            }
            let address = self.view.routes.nodes()[node].address;
            let opened = TcpStream::connect(address).and_then(|mut socket| {
                socket.set_nodelay(true)?;
                let both = Interest::READABLE | Interest::WRITABLE;
                self.turn.registry().register(&mut socket, token(at as usize, node), both)?;
                Ok(socket)
            });
            match opened {
                Ok(socket) => {
                    (link.socket, link.blocked) = (Some(Socket::Tcp(socket)), true);
                    seat.client.begin(node, now_ns);
                }
                Err(error) => self.lose(at as usize, node, Kind::Lost, &error.to_string()),
            }
        }
    }

    /// Looks for connections that have become silent. Whether nothing is served any more.
    fn look(&mut self, now_ns: u64) -> bool {
        let mut stuck = false;
        for at in 0..self.seats.len() {
            if !self.seats[at].active {
                continue;
            }
            if self.seats[at].client.is_stuck() {
                stuck = true;
                self.view.routes.want();
            }
            for node in 0..self.seats[at].client.lanes() {
                let client = &mut self.seats[at].client;
                let silence_ns = client.silence_ns(node, now_ns);
                if silence_ns >= GIVE_UP_MS * 1_000_000 {
                    self.lose(at, node, Kind::Silent, &format!("nothing came for {GIVE_UP_MS} ms"));
                } else if silence_ns.min(self.view.gaps.silence_ns(node, now_ns)) >= SILENT_MS * 1_000_000 {
                    client.suspect(node, now_ns, &mut self.view);
                }
            }
        }
        let since_ns = self.view.gaps.last_answer_ns().unwrap_or(0);
        stuck && now_ns.saturating_sub(since_ns) >= UNSERVED_MS_MAX * 1_000_000
    }
}
