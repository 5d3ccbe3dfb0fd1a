//! A client of a cluster: it knows who leads which slots, follows MOVED, and asks again when it does not get on.
//!
//! It tells apart what was executed, what was not, and what nobody knows. Only what was surely not executed is sent again.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use keyloom::resp::read::Value;
use keyloom::route::{SLOTS, slot_of};

use crate::common::{Client, ok, show};
use crate::nodes::slots;

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Done(Value),
    /// Not executed, until the deadline; the last reason.
    Refused(String),
    /// It was sent, and was not answered, or nobody will ever know.
    Unknown(String),
}

/// What a reply says.
pub fn judge(reply: Value) -> Answer {
    let Value::Error(text) = &reply else { return Answer::Done(reply) };
    let said = show(text);
    match said.split(' ').next() {
        Some("MOVED" | "CLUSTERDOWN" | "NOREPLICAS" | "TRYAGAIN" | "READONLY" | "LOADING" | "MASTERDOWN") => {
            Answer::Refused(said)
        }
        Some("UNCERTAIN") => Answer::Unknown(said),
        _ => Answer::Done(reply),
    }
}

/// How long one attempt to connect or to be answered may take.
pub const ATTEMPT_MAX: Duration = Duration::from_millis(1500);
/// Between attempts, unless a client was told where to go.
const PAUSE: Duration = Duration::from_millis(5);
/// So often it may be sent elsewhere without a pause.
const MOVES_MAX: u32 = 5;

/// One connection that has chosen a durability (`memory` is the default).
pub fn connect(address: SocketAddr, durability: &str, timeout: Duration) -> Option<Client> {
    let mut client = Client::try_connect_within(address, timeout)?;
    (durability == "memory" || client.try_call(&["CLIENT", "DURABILITY", durability])? == ok()).then_some(client)
}

pub struct Router {
    known: Vec<SocketAddr>,
    durability: &'static str,
    leaders: Vec<Option<SocketAddr>>,
    connections: HashMap<SocketAddr, Client>,
    /// Who is asked next for what it knows.
    next: usize,
    /// When the leaders were asked for last.
    asked: Option<Instant>,
    /// MOVED that were followed.
    pub moves: u64,
    /// Why requests were not executed at once, but for MOVED: who said which error, or what happened.
    pub tried_again: BTreeMap<String, u64>,
}

impl Router {
    pub fn new(known: &[SocketAddr], durability: &'static str) -> Router {
        Router {
            known: known.into(),
            durability,
            leaders: vec![None; SLOTS as usize],
            connections: HashMap::new(),
            next: 0,
            asked: None,
            moves: 0,
            tried_again: BTreeMap::new(),
        }
    }

    /// As clients do, it looks whether a connection that it has kept is still one.
    fn connection(&mut self, address: SocketAddr, timeout: Duration) -> Option<&mut Client> {
        if self.connections.get(&address).is_some_and(Client::is_ended) {
            self.connections.remove(&address);
        }
        if !self.connections.contains_key(&address) {
            self.connections.insert(address, connect(address, self.durability, timeout)?);
        }
        self.connections.get_mut(&address)
    }

    /// Asks one node who leads which slots, the next one each time.
    fn ask_who_leads(&mut self) {
        /// Between two times.
        const ASK_PAUSE: Duration = Duration::from_millis(20);
        if self.asked.is_some_and(|asked| asked.elapsed() < ASK_PAUSE) {
            return;
        }
        self.asked = Some(Instant::now());
        let address = self.known[self.next % self.known.len()];
        self.next += 1;
        let Some(client) = self.connection(address, ATTEMPT_MAX) else { return };
        client.set_timeout(ATTEMPT_MAX);
        match client.try_call(&["CLUSTER", "SLOTS"]).map(slots) {
            Some(Some(ranges)) => {
                for (first, last, leader) in ranges {
                    self.leaders[first as usize..=last as usize].fill(Some(leader));
                }
            }
            Some(None) => {}
            None => drop(self.connections.remove(&address)),
        }
    }

    fn try_again(&mut self, why: &str) {
        *self.tried_again.entry(why.to_string()).or_default() += 1;
    }

    /// Sends a command about a key to whoever leads its slot, again and again, until it is executed, or may have been, or
    /// the time is over.
    pub fn call(&mut self, key: &str, command: &[&str], within: Duration) -> Answer {
        let (slot, end) = (slot_of(key.as_bytes()) as usize, Instant::now() + within);
        let (mut moves, mut last) = (0, String::from("nobody is known to lead its slot"));
        loop {
            let left = end.saturating_duration_since(Instant::now()).min(ATTEMPT_MAX);
            if left.is_zero() {
                return Answer::Refused(last);
            }
            let Some(address) = self.leaders[slot] else {
                std::thread::sleep(PAUSE.min(left));
                self.ask_who_leads();
                continue;
            };
            let Some(client) = self.connection(address, left) else {
                last = format!("{address} cannot be reached");
                self.try_again("nobody there");
                self.leaders[slot] = None;
                continue;
            };
            client.set_timeout(left);
            let Some(reply) = client.try_call(command) else {
                self.connections.remove(&address);
                self.leaders[slot] = None;
                return Answer::Unknown(format!("{address} did not answer"));
            };
            last = match judge(reply) {
                Answer::Refused(why) => why,
                answer => return answer,
            };
            self.leaders[slot] = last.strip_prefix("MOVED ").and_then(|to| to.split(' ').nth(1)?.parse().ok());
            if self.leaders[slot].is_none() {
                self.try_again(&format!("{address}: {last}"));
            } else {
                self.moves += 1;
                moves += 1;
                if moves > MOVES_MAX {
                    std::thread::sleep(PAUSE.min(left));
                }
            }
        }
    }
}
