//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! Between MULTI and EXEC the network layer queues requests instead of executing them; the queue is its own, and the
//! session knows how much is in it. EXEC hands the whole queue to [`crate::borrow`]. WATCH asks the owners of keys for
//! their versions ([`crate::shard::Version`]), and EXEC takes these along: an owner whose key has another version by then
//! refuses.
//!
//! Owned by the core of the connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cluster::Slots;
use super::table::{Row, access, lookup};
use super::{Answer, Args, Ask, Command, Flags, Flow, Home, KeySpec, Owned};
use crate::borrow::Place;
use crate::resp::parse::LARGE_BYTES_MIN;
use crate::resp::{Error, Reply};
use crate::route::CoreId;
use crate::shard::Version;

/// Requests of one transaction.
pub const QUEUED_MAX: usize = 1 << 20;
/// Keys that one client watches.
pub const WATCHED_MAX: usize = 1 << 16;

const PLAIN: Flags = Flags::NOSCRIPT.or(Flags::LOADING).or(Flags::STALE);
const FAST: Flags = PLAIN.or(Flags::FAST);
const GROUP: &str = "transactions";

pub static COMMANDS: &[Command] = &[
    Command::session("multi", 1, FAST, multi).doc(GROUP, "1.2.0", "O(1)", "Starts to queue commands for EXEC."),
    Command::session("exec", 1, PLAIN.or(Flags::SKIP_SLOWLOG).or(Flags::DRAINS), exec).doc(
        GROUP,
        "1.2.0",
        "Depends on the queued commands.",
        "Executes the queued commands as one, unless a watched key has changed.",
    ),
    Command::session("discard", 1, FAST, discard).doc(
        GROUP,
        "2.0.0",
        "O(N) in queued commands",
        "Drops the queued commands.",
    ),
    watch_row(),
    Command::session("unwatch", 1, FAST, unwatch).doc(
        GROUP,
        "2.2.0",
        "O(N) in watched keys",
        "Forgets the watched keys.",
    ),
];

const fn watch_row() -> Command {
    let mut row = Command::session("watch", -2, FAST.or(Flags::DRAINS), watch).doc(
        GROUP,
        "2.2.0",
        "O(1) for each key.",
        "Lets the next EXEC do nothing if one of these keys has changed by then.",
    );
    row.keys = KeySpec::ALL;
    row.access = &[access::LOOK];
    row
}

/// What is known of the requests that a client has queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Multi {
    pub commands: usize,
    /// Memory of the queue.
    pub bytes: usize,
    /// One was refused: EXEC will be, too.
    pub refused: bool,
    /// One of them writes.
    pub writes: bool,
    /// Of all their keys; known where it matters.
    pub slots: Slots,
    /// One of them is about all keys, or may be.
    pub keyless: bool,
}

/// A key that a client watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    pub place: Place,
    /// Its owner.
    pub core: CoreId,
    /// What it was when the client began.
    pub version: Version,
}

/// A request that waits for its execution.
pub struct Queued {
    pub row: &'static Row,
    args: Arc<KeptArgs>,
}

/// The arguments of a request that is kept: the small ones behind each other, the large ones as they arrived.
#[derive(Debug, Default)]
pub struct KeptArgs {
    data: Vec<u8>,
    /// Where each argument ends in `data`; large ones have no bytes there.
    ends: Vec<usize>,
    /// With the positions of their arguments, ascending.
    large: Vec<(usize, Arc<Vec<u8>>)>,
}

impl KeptArgs {
    fn new(args: Args, owned: &Owned) -> KeptArgs {
        let mut kept = KeptArgs::default();
        kept.data.reserve_exact(args.iter().map(|arg| arg.len()).filter(|&len| len < LARGE_BYTES_MIN).sum());
        kept.ends.reserve_exact(args.len());
        for (index, arg) in args.iter().enumerate() {
            if arg.len() < LARGE_BYTES_MIN {
                kept.data.extend_from_slice(arg);
            } else {
                kept.large.push((index, owned.get(index).unwrap_or_else(|| Arc::new(arg.to_vec()))));
            }
            kept.ends.push(kept.data.len());
        }
        kept
    }

    /// The arguments.
    pub fn slices(&self) -> Vec<&[u8]> {
        let (mut start, mut large) = (0, self.large.iter().peekable());
        let arg = |(index, &end): (usize, &usize)| match large.next_if(|(at, _)| *at == index) {
            Some((_, value)) => value.as_slice(),
            None => &self.data[std::mem::replace(&mut start, end)..end],
        };
        self.ends.iter().enumerate().map(arg).collect()
    }

    fn bytes(&self) -> usize {
        let large: usize = self.large.iter().map(|(_, value)| value.len() + size_of::<(usize, Arc<Vec<u8>>)>()).sum();
        size_of::<KeptArgs>() + self.data.len() + self.ends.len() * size_of::<usize>() + large
    }
}

impl Queued {
    pub fn new(row: &'static Row, args: Args, owned: &Owned) -> Queued {
        Queued { row, args: Arc::new(KeptArgs::new(args, owned)) }
    }

    /// Memory of it.
    pub fn bytes(&self) -> usize {
        size_of::<Queued>() + self.args.bytes()
    }

    pub fn args(&self) -> Vec<&[u8]> {
        self.args.slices()
    }

    /// The arguments, to be kept while the request is elsewhere.
    pub fn shared_args(&self) -> Arc<KeptArgs> {
        Arc::clone(&self.args)
    }

    /// The arguments that are large enough to be kept without a copy.
    pub fn owned(&self) -> Owned {
        Owned::new(self.args.large.clone())
    }
}

/// Whether a request runs at once although its client has said MULTI.
pub fn runs_in_multi(row: &Row) -> bool {
    matches!(row.full_name.as_str(), "multi" | "exec" | "discard" | "watch" | "quit" | "reset")
}

fn multi(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    if home.session.multi.is_some() {
        return Err(Error::NestedMulti);
    }
    home.session.multi = Some(Multi::default());
    reply.ok();
    Ok(Flow::Done)
}

fn exec(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let Some(multi) = home.session.multi else { return Err(Error::ExecWithoutMulti) };
    if multi.refused {
        return Ok(drop_queue(home, &Error::ExecAbort, reply));
    }
    let config = &home.engine.config;
    if multi.slots == Slots::Several && config.cluster_enabled && !config.cluster_allow_local_crossslot {
        return Ok(drop_queue(home, &Error::CrossSlot, reply));
    }
    // The session stays in MULTI until the commands have run.
    Ok(Flow::Exec)
}

/// Ends a transaction that must not run.
fn drop_queue(home: &mut Home, error: &Error, reply: &mut Reply) -> Flow {
    home.session.multi = None;
    if let Some(row) = lookup(b"exec") {
        home.engine.note_failed(row, error);
    }
    reply.error(error);
    Flow::Unqueue
}

fn discard(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    if home.session.multi.take().is_none() {
        return Err(Error::DiscardWithoutMulti);
    }
    reply.ok();
    Ok(Flow::Unqueue)
}

/// Within a transaction it comes too late to matter: EXEC has ended the watching.
fn unwatch(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.ok();
    Ok(Flow::Unqueue)
}

fn watch(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    if home.session.multi.is_some() {
        return Err(Error::WatchInMulti);
    }
    let db = home.session.db as u8;
    let mut places: Vec<Place> = args[1..].iter().map(|key| (db, key.to_vec())).collect();
    places.sort();
    places.dedup();
    // The version at which the client began to watch is the one that counts.
    let watched = &home.session.watched;
    places.retain(|place| watched.iter().all(|known| known.place != *place));
    if watched.len() + places.len() > WATCHED_MAX {
        return Err(Error::TooManyWatched);
    }
    if places.is_empty() {
        reply.ok();
        return Ok(Flow::Done);
    }
    let mut parts: BTreeMap<CoreId, Vec<Place>> = BTreeMap::new();
    for place in places {
        let owner = home.engine.router.owner(home.engine.hasher.key(&place.1).partition);
        parts.entry(owner).or_default().push(place);
    }
    let questions = parts.iter().map(|(&core, places)| (core, Ask::Watch(places.clone()))).collect();
    Ok(Flow::Ask(
        questions,
        Box::new(move |home, answers, reply| {
            let watched = Arc::make_mut(&mut home.session.watched);
            for ((core, places), answer) in parts.into_iter().zip(answers) {
                let Answer::Versions(versions) = answer else { unreachable!("WATCH is answered with versions") };
                let new = places.into_iter().zip(versions);
                watched.extend(new.map(|(place, version)| Watched { place, core, version }));
            }
            reply.ok();
            Ok(Flow::Done)
        }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::transcript::Client;

    #[test]
    fn the_state_of_a_session() {
        let mut client = Client::new();
        for (line, reply) in [
            ("exec", "-ERR EXEC without MULTI"),
            ("discard", "-ERR DISCARD without MULTI"),
            ("watch", "-ERR wrong number of arguments for 'watch' command"),
            ("watch a b a", "+OK"),
            ("watch b c", "+OK"),
            ("multi", "+OK"),
            ("multi", "-ERR MULTI calls can not be nested"),
            ("watch d", "-ERR WATCH inside MULTI is not allowed"),
            ("discard", "+OK"),
            ("unwatch", "+OK"),
            ("multi", "+OK"),
        ] {
            client.expect(line, reply);
        }
        assert!(client.run("client info").contains(" flags=x "));
        client.expect("reset", "+RESET");
        assert!(client.session.multi.is_none() && matches!(client.flow, Flow::Unqueue));
        // The layer that has the queue forgets what is watched.
        assert_eq!(client.session.watched.len(), 3);
        assert_eq!(client.engine.shard.watched_keys(), 3);
    }

    #[test]
    fn a_refused_request_makes_exec_refuse() {
        let mut client = Client::new();
        client.expect("multi", "+OK");
        client.session.multi.as_mut().unwrap().refused = true;
        client.expect("exec", "-EXECABORT Transaction discarded because of previous errors.");
        assert!(client.session.multi.is_none() && matches!(client.flow, Flow::Unqueue));
        assert_eq!(client.engine.stats[lookup(b"exec").unwrap().id as usize].failed, 1);
        client.expect("multi", "+OK");
        client.expect("exec", "");
        assert!(matches!(client.flow, Flow::Exec));
    }

    #[test]
    fn watching_is_bounded() {
        let mut client = Client::new();
        let keys: Vec<String> = (0..WATCHED_MAX).map(|n| n.to_string()).collect();
        let mut line: Vec<&[u8]> = vec![b"watch"];
        line.extend(keys.iter().map(|key| key.as_bytes()));
        assert_eq!(client.run_args(&line), "+OK");
        client.expect("watch one-more", "-ERR too many keys are watched");
        client.expect("watch 5", "+OK");
    }
}
