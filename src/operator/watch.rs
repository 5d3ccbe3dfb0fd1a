//! `keyloom cluster watch`: the table of a cluster, again and again, with what has changed.
//!
//! A node that does not answer is left for another one that it has told of, so that the end of a node can be watched. Ends when
//! it is told to (Ctrl-C), or when nobody reads any more.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::changes::{Changes, Seen};
use super::client::Client;
use super::{OperatorError, status};

/// How long a node may take before another one is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// Events that stay on the screen.
const EVENTS_MAX: usize = 10;

/// Addresses that are tried: a member tells of no more nodes.
const ADDRESSES_MAX: usize = crate::cluster::NODES_MAX;

/// What a terminal is told: to begin at its upper left; that the rest of a line is empty; that the rest of the screen is.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR: &str = "\x1b[2J";

pub(super) struct Watch<'a> {
    pub node: &'a str,
    pub password: &'a str,
    pub interval: Duration,
    pub partitions: bool,
    /// Whether tables are drawn over each other.
    pub in_place: bool,
}

/// What is known between two looks.
#[derive(Default)]
struct Known {
    /// Whom to ask, in this order; the one that answered last is the first.
    addresses: Vec<String>,
    client: Option<Client>,
    seen: Option<Seen>,
    events: VecDeque<String>,
}

impl Watch<'_> {
    /// Looks until nobody reads any more. The first look has to succeed.
    pub fn run(&self, out: &mut impl Write) -> Result<(), OperatorError> {
        let mut known = Known { addresses: vec![self.node.into()], ..Known::default() };
        let mut begin = if self.in_place { CLEAR } else { "" };
        loop {
            let shown = match known.ask(self.password) {
                Ok(text) => self.look(&mut known, &text)?,
                Err(error) if known.seen.is_none() => return Err(error),
                // That may pass.
                Err(error) => format!("{}\n{error}\n", head("nobody answers")),
            };
            if out.write_all(begin.as_bytes()).and_then(|()| self.show(&shown, out)).is_err() {
                return Ok(());
            }
            begin = "";
            std::thread::sleep(self.interval);
        }
    }

    /// What is to be shown of an answer, by what is known from before.
    fn look(&self, known: &mut Known, text: &str) -> Result<String, OperatorError> {
        let node = known.addresses.first().map_or(self.node, String::as_str).to_string();
        let nonsense = |said: String| OperatorError::Nonsense { node: node.clone(), said };
        let table = status::table(text, self.partitions).map_err(nonsense)?;
        let now = Seen::read(text).ok_or_else(|| nonsense(text.chars().take(200).collect()))?;
        let Changes { events, drifts } = known.seen.as_ref().map(|before| now.since(before)).unwrap_or_default();
        let mut shown = format!("{}\n{table}", head(&format!("as {node} sees it")));
        for line in &drifts {
            let _ = writeln!(shown, "  {line}");
        }
        let time = time_of_day();
        if self.in_place {
            known.events.extend(events.into_iter().map(|event| format!("{time}  {event}")));
            let over = known.events.len().saturating_sub(EVENTS_MAX);
            known.events.drain(..over);
            shown.push('\n');
            for event in &known.events {
                let _ = writeln!(shown, "{event}");
            }
        } else {
            for event in &events {
                let _ = writeln!(shown, "  {event}");
            }
            shown.push('\n');
        }
        known.learn(&now);
        known.seen = Some(now);
        Ok(shown)
    }

    fn show(&self, text: &str, out: &mut impl Write) -> io::Result<()> {
        if self.in_place {
            let mut drawn = String::from(HOME);
            for line in text.lines() {
                let _ = writeln!(drawn, "{line}{CLEAR_LINE}");
            }
            drawn.push_str(CLEAR_BELOW);
            out.write_all(drawn.as_bytes())?;
        } else {
            out.write_all(text.as_bytes())?;
        }
        out.flush()
    }
}

impl Known {
    /// What the first says that says anything; the error is that of the last one.
    fn ask(&mut self, password: &str) -> Result<String, OperatorError> {
        let mut failed = None;
        for at in 0..self.addresses.len() {
            let client = match self.client.take() {
                Some(client) if client.address() == self.addresses[at] => Ok(client),
                _ => Client::connect_within(&self.addresses[at], password, PATIENCE),
            };
            let asked = client.and_then(|mut client| Ok((client.text(&["CLUSTER", "STATUS"])?, client)));
            match asked {
                Ok((text, client)) => {
                    self.client = Some(client);
                    self.addresses[..=at].rotate_right(1);
                    return Ok(text);
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(String::new()),
        }
    }

    /// Other nodes that could be asked. Whoever has answered stays the first, by the address that was good.
    fn learn(&mut self, seen: &Seen) {
        for address in seen.addresses() {
            if !self.addresses.contains(&address) && self.addresses.len() < ADDRESSES_MAX {
                self.addresses.push(address);
            }
        }
    }
}

fn head(what: &str) -> String {
    format!("{} UTC, {what}", time_of_day())
}

fn time_of_day() -> String {
    let s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) % (24 * 3600);
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str) -> String {
        let node = |node: u64, state: &str| serde_json::json!({ "node": node, "host": "10.0.0.1", "port": 7000 + node, "state": state });
        serde_json::json!({ "me": 1, "nodes": [node(1, "alive"), node(2, state)] }).to_string()
    }

    fn watch(in_place: bool) -> Watch<'static> {
        Watch { node: "there:7001", password: "", interval: Duration::ZERO, partitions: false, in_place }
    }

    #[test]
    fn a_terminal_is_drawn_over_and_keeps_the_events() {
        let (watch, mut known) = (watch(true), Known::default());
        for state in ["alive", "dead", "dead"] {
            let shown = watch.look(&mut known, &status(state)).unwrap();
            assert_eq!(shown.contains("  node 2 is dead\n"), state == "dead", "{shown}");
        }
        for _ in 0..2 * EVENTS_MAX {
            watch.look(&mut known, &status("alive")).unwrap();
            watch.look(&mut known, &status("dead")).unwrap();
        }
        assert_eq!(known.events.len(), EVENTS_MAX);
        let mut drawn = Vec::new();
        watch.show("one\ntwo\n", &mut drawn).unwrap();
        assert_eq!(drawn, b"\x1b[Hone\x1b[K\ntwo\x1b[K\n\x1b[J");
    }

    #[test]
    fn what_is_no_terminal_gets_plain_tables_with_what_is_new() {
        let (watch, mut known) = (watch(false), Known::default());
        known.addresses.push("there:7001".into());
        watch.look(&mut known, &status("alive")).unwrap();
        assert_eq!(known.addresses, ["there:7001", "10.0.0.1:7001", "10.0.0.1:7002"]);
        let shown = watch.look(&mut known, &status("dead")).unwrap();
        assert!(shown.contains("as there:7001 sees it\n") && shown.ends_with("\n  node 2 is dead\n\n"), "{shown}");
        assert!(!watch.look(&mut known, &status("dead")).unwrap().contains("node 2 is dead"));
        assert!(matches!(watch.look(&mut known, "PONG"), Err(OperatorError::Nonsense { .. })));
    }
}
