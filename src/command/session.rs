//! Connections as commands see them: what a client has chosen, and what is known about it.
//!
//! The network layer keeps one [`Session`] per connection on the core of that connection and lends it to session
//! commands; copies of it travel to other cores as answers to CLIENT LIST.

use std::sync::Arc;

use super::table::table;
use super::transaction::{Multi, Watched};
use super::{Args, CommandId, Flow};
use crate::engine::Engine;
use crate::log::durability::Durability;
use crate::pubsub::{Counts, Place};
use crate::resp::{Error, Reply, Version};
use crate::shard::SteadyMs;

/// A command that runs on the core of the connection.
pub type SessionFn = fn(&mut Home, Args, &mut Reply) -> Result<Flow, Error>;

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    #[default]
    On,
    Off,
    /// The next command gets no reply, then back to on. `armed` is false while CLIENT REPLY SKIP itself is running.
    Skip {
        armed: bool,
    },
}

/// Numbers that only the network layer knows; refreshed before a session command runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetInfo {
    pub fd: i32,
    /// Bytes received and not executed yet, and the free room of that buffer.
    pub query_bytes: usize,
    pub query_free: usize,
    /// Reply bytes not sent yet, in the buffer and in splices.
    pub output_bytes: usize,
    pub splices: usize,
    pub memory: usize,
}

/// What one client has chosen, and what is known about it.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Unique in this process: CLIENT ID.
    pub id: u64,
    /// Where the connection stands on its core; by this its subscriptions are known.
    pub place: Place,
    pub addr: String,
    pub laddr: String,
    pub unix_socket: bool,
    /// The client has come by the port of its core: to it the core is a node.
    pub own_core: bool,
    pub name: Option<Vec<u8>>,
    pub lib_name: Vec<u8>,
    pub lib_ver: Vec<u8>,
    pub db: usize,
    pub version: Version,
    pub authenticated: bool,
    pub no_evict: bool,
    pub no_touch: bool,
    /// READONLY.
    pub readonly: bool,
    pub reply_mode: ReplyMode,
    /// CLIENT DURABILITY; None: as the configuration says.
    pub durability: Option<Durability>,
    pub monitor: bool,
    /// Its command waits for an element.
    pub blocked: bool,
    /// How many subscriptions it has.
    pub subscribed: Counts,
    /// Since MULTI: what is known about the requests that are queued.
    pub multi: Option<Multi>,
    /// What WATCH has noted.
    pub watched: Arc<Vec<Watched>>,
    /// Steady ms, as all times of clients: when nobody sets the clock, Unix time.
    pub created_ms: SteadyMs,
    pub last_active_ms: SteadyMs,
    pub last_command: Option<CommandId>,
    pub net: NetInfo,
}

impl Session {
    pub fn kind(&self) -> ClientKind {
        if self.subscribed.any() { ClientKind::PubSub } else { ClientKind::Normal }
    }

    /// Whether only commands about subscriptions are allowed: in RESP2 a client could not tell replies from messages.
    #[inline]
    pub fn only_listens(&self) -> bool {
        self.subscribed.any() && self.version == Version::V2
    }

    /// The line of CLIENT LIST and CLIENT INFO, without its end.
    pub fn write_line(&self, now_ms: i64, line: &mut Vec<u8>) {
        let seconds = |since_ms: i64| (now_ms - since_ms).max(0) / 1000;
        let mut flags = String::new();
        let letters = [
            (self.monitor, 'O'),
            (self.subscribed.any(), 'P'),
            (self.multi.is_some(), 'x'),
            (self.blocked, 'b'),
            (self.unix_socket, 'U'),
            (self.no_evict, 'e'),
            (self.no_touch, 'T'),
            (self.readonly, 'r'),
        ];
        flags.extend(letters.into_iter().filter(|(set, _)| *set).map(|(_, letter)| letter));
        if flags.is_empty() {
            flags.push('N');
        }
        let net = &self.net;
        line.extend_from_slice(
            format!("id={} addr={} laddr={} fd={} name=", self.id, self.addr, self.laddr, net.fd).as_bytes(),
        );
        line.extend_from_slice(self.name.as_deref().unwrap_or_default());
        line.extend_from_slice(
            format!(
                " age={} idle={} flags={} db={} sub={} psub={} ssub={} multi={} watch={} qbuf={} qbuf-free={} argv-mem=0 \
                 multi-mem={} obl={} oll={} omem={} tot-mem={} events={} cmd={} user=default redir=-1 resp={} lib-name=",
                seconds(self.created_ms),
                seconds(self.last_active_ms),
                flags,
                self.db,
                self.subscribed.channels,
                self.subscribed.patterns,
                self.subscribed.shards,
                self.multi.map_or(-1, |multi| multi.commands as i64),
                self.watched.len(),
                net.query_bytes,
                net.query_free,
                self.multi.map_or(0, |multi| multi.bytes),
                net.output_bytes,
                net.splices,
                net.output_bytes,
                net.memory,
                if net.output_bytes > 0 { "rw" } else { "r" },
                self.last_command.map_or("NULL", |id| &table().row(id).full_name),
                if self.version == Version::V3 { 3 } else { 2 },
            )
            .as_bytes(),
        );
        line.extend_from_slice(&self.lib_name);
        line.extend_from_slice(b" lib-ver=");
        line.extend_from_slice(&self.lib_ver);
    }
}

/// A client, as CLIENT LIST shows it.
pub type ClientInfo = Session;

/// What a client is for, as CLIENT LIST and KILL name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    Normal,
    PubSub,
    Master,
    Replica,
}

impl ClientKind {
    /// `normal`, `pubsub`, `master`, `replica` or its old name, in any case.
    pub fn parse(name: &[u8]) -> Option<ClientKind> {
        const NAMES: [(&str, ClientKind); 5] = [
            ("normal", ClientKind::Normal),
            ("pubsub", ClientKind::PubSub),
            ("master", ClientKind::Master),
            ("replica", ClientKind::Replica),
            ("slave", ClientKind::Replica),
        ];
        NAMES.iter().find(|(text, _)| text.as_bytes().eq_ignore_ascii_case(name)).map(|(_, kind)| *kind)
    }
}

/// Which clients CLIENT LIST and CLIENT KILL mean; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFilter {
    pub ids: Option<Vec<u64>>,
    pub addr: Option<Vec<u8>>,
    pub laddr: Option<Vec<u8>>,
    pub kind: Option<ClientKind>,
    /// Connected for at least so many seconds.
    pub min_age_s: Option<i64>,
}

impl ClientFilter {
    /// Whether `session` is meant, at the steady time `now_ms`.
    pub fn matches(&self, session: &Session, now_ms: SteadyMs) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.contains(&session.id))
            && self.addr.as_ref().is_none_or(|addr| addr == session.addr.as_bytes())
            && self.laddr.as_ref().is_none_or(|laddr| laddr == session.laddr.as_bytes())
            && self.kind.is_none_or(|kind| kind == session.kind())
            && self.min_age_s.is_none_or(|age_s| (now_ms - session.created_ms) / 1000 >= age_s)
    }
}

/// What a session command works with.
pub struct Home<'a> {
    pub session: &'a mut Session,
    pub engine: &'a mut Engine,
    /// Steady time of this turn.
    pub now_ms: SteadyMs,
}

impl Home<'_> {
    /// Asks every data core the same.
    pub fn ask_all(
        &self,
        ask: super::Ask,
        finish: impl FnOnce(&mut Home, Vec<super::Answer>, &mut Reply) -> Result<Flow, Error> + 'static,
    ) -> Flow {
        let to = (0..self.engine.router.cores()).map(|core| (core, ask.clone())).collect();
        Flow::Ask(to, Box::new(finish))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            id: 7,
            addr: "127.0.0.1:5000".into(),
            laddr: "127.0.0.1:6379".into(),
            created_ms: 10_000,
            last_active_ms: 14_500,
            ..Session::default()
        }
    }

    #[test]
    fn the_line_has_the_fields_of_redis() {
        let mut line = Vec::new();
        let mut session = session();
        session.name = Some(b"me".to_vec());
        session.write_line(15_000, &mut line);
        let line = String::from_utf8(line).unwrap();
        assert!(line.starts_with("id=7 addr=127.0.0.1:5000 laddr=127.0.0.1:6379 fd=0 name=me age=5 idle=0 flags=N "));
        assert!(line.ends_with(" cmd=NULL user=default redir=-1 resp=2 lib-name= lib-ver="), "{line}");
        assert!(line.split(' ').all(|field| field.split('=').count() == 2));
        let mut line = Vec::new();
        session.monitor = true;
        session.no_touch = true;
        session.write_line(15_000, &mut line);
        assert!(String::from_utf8(line).unwrap().contains(" flags=OT "));
    }

    #[test]
    fn filters_are_conjunctions() {
        let all = ClientFilter::default();
        let session = session();
        let yes = |filter: ClientFilter| filter.matches(&session, 20_000);
        assert!(yes(all.clone()));
        assert!(yes(ClientFilter { ids: Some(vec![1, 7]), ..all.clone() }));
        assert!(!yes(ClientFilter { ids: Some(vec![1]), ..all.clone() }));
        assert!(yes(ClientFilter { addr: Some(b"127.0.0.1:5000".to_vec()), ..all.clone() }));
        assert!(!yes(ClientFilter { addr: Some(b"127.0.0.1:6379".to_vec()), ..all.clone() }));
        assert!(yes(ClientFilter { laddr: Some(b"127.0.0.1:6379".to_vec()), ..all.clone() }));
        assert!(yes(ClientFilter { kind: ClientKind::parse(b"NORMAL"), ..all.clone() }));
        assert!(!yes(ClientFilter { kind: ClientKind::parse(b"replica"), ..all.clone() }));
        assert!(yes(ClientFilter { min_age_s: Some(10), ..all.clone() }));
        assert!(!yes(ClientFilter { min_age_s: Some(11), ..all.clone() }));
        assert!(!yes(ClientFilter { ids: Some(vec![7]), min_age_s: Some(11), ..all }));
        assert_eq!(ClientKind::parse(b"slave"), Some(ClientKind::Replica));
        assert_eq!(ClientKind::parse(b"x"), None);
    }
}
