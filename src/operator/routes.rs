//! Keys on their way into a cluster: each goes to whoever leads its slot, and again until it is there.
//!
//! What is sent replaces what is there, so that a request of which nobody knows what became of it can be made again.
//!
//! Plain blocking code.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::client::{Client, ClientError};
use crate::resp::read::Value;
use crate::route::SLOTS;

/// How long nothing may get through before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// After an attempt at which nothing got through.
const PAUSE: Duration = Duration::from_millis(50);

/// Errors that are over when it is tried again.
const PASSING: [&str; 7] = ["TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS", "LOADING", "MASTERDOWN", "UNCERTAIN", "READONLY"];

/// Why keys do not get through.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{node} does not take \"{key}\": {said}")]
    Refused { node: String, key: String, said: String },
    #[error("nothing got through for {} s; the last reason: {why}", PATIENCE.as_secs())]
    Stuck { why: String },
}

/// A request about one key.
pub(super) struct Request {
    pub slot: u16,
    pub key: Vec<u8>,
    /// As it is sent.
    pub bytes: Vec<u8>,
}

/// Who leads what, and connections to them.
pub(super) struct Routes<'a> {
    password: &'a str,
    /// Addresses of nodes that know who leads.
    known: Vec<String>,
    leaders: Vec<Option<String>>,
    clients: BTreeMap<String, Client>,
}

impl<'a> Routes<'a> {
    /// Asks a node who leads what.
    pub fn of(node: &str, password: &'a str) -> Result<Routes<'a>, ClientError> {
        let leaders = vec![None; usize::from(SLOTS)];
        let mut routes = Routes { password, known: vec![node.into()], leaders, clients: BTreeMap::new() };
        routes.ask_leaders(node)?;
        let mut known = routes.leaders();
        known.retain(|address| address != node);
        routes.known.extend(known);
        Ok(routes)
    }

    /// All that lead anything, once.
    pub fn leaders(&self) -> Vec<String> {
        let mut leaders: Vec<String> = self.leaders.iter().flatten().cloned().collect();
        leaders.sort_unstable();
        leaders.dedup();
        leaders
    }

    /// Waits until every slot has a leader; false if one still has none after a while.
    pub fn wait_until_complete(&mut self) -> bool {
        let by = Instant::now() + PATIENCE;
        while self.leaders.iter().any(Option::is_none) {
            if Instant::now() >= by {
                return false;
            }
            std::thread::sleep(PAUSE);
            // If nobody knows, it is asked again.
            let _ = self.look();
        }
        true
    }

    /// The answer of a node to a command that may be executed several times; what passes is waited for.
    pub fn ask(&mut self, address: &str, command: &[&str]) -> Result<Value, ClientError> {
        let by = Instant::now() + PATIENCE;
        loop {
            let answer = self.client(address).and_then(|client| client.ask(command));
            let passes = match &answer {
                Err(ClientError::Io { .. }) => {
                    self.clients.remove(address);
                    true
                }
                Err(ClientError::Refused { said, .. }) => {
                    said.split(' ').next().is_some_and(|word| PASSING.contains(&word))
                }
                _ => false,
            };
            if !passes || Instant::now() >= by {
                return answer;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn client(&mut self, address: &str) -> Result<&mut Client, ClientError> {
        if !self.clients.contains_key(address) {
            self.clients.insert(address.into(), Client::connect(address, self.password)?);
        }
        let none = || ClientError::Address(address.into());
        self.clients.get_mut(address).ok_or_else(none)
    }

    /// Whoever answers first of those that are known says who leads.
    pub fn look(&mut self) -> Result<(), ClientError> {
        let mut last = None;
        for node in self.known.clone() {
            match self.ask_leaders(&node) {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
            self.clients.remove(&node);
        }
        last.map_or(Ok(()), Err)
    }

    fn ask_leaders(&mut self, node: &str) -> Result<(), ClientError> {
        let command = ["CLUSTER", "SLOTS"];
        let client = self.client(node)?;
        let said = client.ask(&command)?;
        let leaders = leaders_of(&said).ok_or_else(|| client.unexpected(&command))?;
        self.leaders = leaders;
        Ok(())
    }

    /// Sends requests until all of them were executed.
    pub fn deliver(&mut self, requests: Vec<Request>) -> Result<(), RouteError> {
        let (mut left, mut by) = (requests, Instant::now() + PATIENCE);
        while !left.is_empty() {
            let before = left.len();
            let mut why = String::from("nobody is known to lead a slot");
            left = self.try_all(left, &mut why)?;
            if left.len() < before {
                by = Instant::now() + PATIENCE;
            } else if Instant::now() >= by {
                return Err(RouteError::Stuck { why });
            } else {
                std::thread::sleep(PAUSE);
            }
            if left.iter().any(|request| self.leaders[usize::from(request.slot)].is_none()) {
                // If nobody knows, it is asked again.
                let _ = self.look();
            }
        }
        Ok(())
    }

    /// Sends each request once to whoever is believed to lead; those that have to be sent again, and why.
    fn try_all(&mut self, requests: Vec<Request>, why: &mut String) -> Result<Vec<Request>, RouteError> {
        let (mut groups, mut again) = (BTreeMap::<String, Vec<Request>>::new(), Vec::new());
        for request in requests {
            match &self.leaders[usize::from(request.slot)] {
                Some(leader) => groups.entry(leader.clone()).or_default().push(request),
                None => again.push(request),
            }
        }
        // All have something to do before anybody is waited for.
        let sent: Vec<_> = groups
            .into_iter()
            .map(|(address, group)| {
                let bytes = group.iter().map(|request| &request.bytes[..]).collect::<Vec<_>>().concat();
                let sent = self.client(&address).and_then(|client| client.send(&bytes));
                (address, group, sent)
            })
            .collect();
        for (address, group, sent) in sent {
            let mut broken = sent.err();
            for request in group {
                if broken.is_some() {
                    again.push(request);
                    continue;
                }
                let answer = self.client(&address).and_then(|client| {
                    let answer = client.receive()?;
                    answer.ok_or_else(|| client.unexpected(&["RESTORE"]))
                });
                match answer {
                    Ok(Value::Error(said)) => {
                        let said = String::from_utf8_lossy(&said).into_owned();
                        self.refused(&address, &request, &said)?;
                        *why = format!("{address}: {said}");
                        again.push(request);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        broken = Some(error);
                        again.push(request);
                    }
                }
            }
            if let Some(error) = broken {
                *why = error.to_string();
                self.clients.remove(&address);
                let lost = |leader: &&mut Option<String>| leader.as_ref() == Some(&address);
                self.leaders.iter_mut().filter(lost).for_each(|leader| *leader = None);
            }
        }
        Ok(again)
    }

    /// A request was not executed: the error, if it will never be.
    fn refused(&mut self, address: &str, request: &Request, said: &str) -> Result<(), RouteError> {
        let leader = &mut self.leaders[usize::from(request.slot)];
        let mut words = said.split(' ');
        match words.next() {
            Some("MOVED") => *leader = words.nth(1).map(String::from),
            Some(word) if PASSING.contains(&word) => *leader = None,
            _ => {
                let (node, key) = (address.into(), request.key.escape_ascii().to_string());
                return Err(RouteError::Refused { node, key, said: said.into() });
            }
        }
        Ok(())
    }
}

/// What CLUSTER SLOTS says.
fn leaders_of(said: &Value) -> Option<Vec<Option<String>>> {
    let mut leaders = vec![None; usize::from(SLOTS)];
    let Value::Array(ranges) = said else { return None };
    for range in ranges {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(leader), ..] = &range[..] else { return None };
        let [Value::Bulk(host), Value::Int(port), ..] = &leader[..] else { return None };
        let host = std::str::from_utf8(host).ok()?;
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let slots = usize::try_from(*first).ok()?..=usize::try_from(*last).ok()?;
        leaders.get_mut(slots)?.fill(Some(address));
    }
    Some(leaders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_read_and_nonsense_is_not() {
        let bulk = |text: &str| Value::Bulk(text.into());
        let range = |first, last, host, port| {
            Value::Array(vec![
                Value::Int(first),
                Value::Int(last),
                Value::Array(vec![bulk(host), Value::Int(port), bulk("id")]),
            ])
        };
        let said = Value::Array(vec![range(0, 100, "10.0.0.1", 7000), range(102, 16383, "::1", 7001)]);
        let leaders = leaders_of(&said).unwrap();
        assert_eq!(leaders[0].as_deref(), Some("10.0.0.1:7000"));
        assert_eq!((leaders[100].as_ref(), leaders[101].as_ref()), (leaders[0].as_ref(), None));
        assert_eq!(leaders[16383].as_deref(), Some("[::1]:7001"));
        for wrong in [range(5, 16384, "h", 1), range(-1, 3, "h", 1), range(4, 2, "h", 1), Value::Null] {
            let said = Value::Array(vec![wrong]);
            assert!(std::panic::catch_unwind(|| leaders_of(&said)).is_ok_and(|leaders| leaders.is_none()));
        }
    }
}
