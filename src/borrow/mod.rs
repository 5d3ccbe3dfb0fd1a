//! Commands whose keys live on several cores.
//!
//! The core of the connection coordinates. It asks the owners, in ascending order of cores, for the entries of all keys
//! that the command names, puts them into a scratch shard, runs the ordinary command there, and gives every entry that
//! has changed back to its owner. The command itself cannot tell the scratch shard from a real one, so RENAME, COPY,
//! MSETNX and LCS need no second implementation.
//!
//! Owners lend copies and go on serving: between the loan and the return another client can see and change the old
//! entries. The values are not locked; a command over several cores is not atomic.

pub mod coordinator;
#[cfg(test)]
mod explore;
pub mod lending;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::command::generic::copy_destination;
use crate::command::table::Row;
use crate::command::{Answer, Args, Ask, Flow, Home, Owned, Session};
use crate::engine::{Call, Engine, Origin};
use crate::resp::{Error, Reply};
use crate::route::CoreId;
use crate::shard::{Deadline, Detached, Rule};

/// A key in a database.
type Place = (u8, Vec<u8>);

/// Starts a command whose keys live on several cores.
pub fn begin(engine: &Engine, session: &Session, row: &'static Row, args: Args) -> Flow {
    let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.to_vec()).collect();
    // Each place once, however often it is named: what is given back twice is gone.
    let mut loans: BTreeMap<CoreId, BTreeSet<Place>> = BTreeMap::new();
    for at in row.command.keys.positions(args.len()) {
        let owner = engine.router.owner(engine.hasher.key(&args[at]).partition);
        for db in databases(engine, session, row, &args) {
            loans.entry(owner).or_default().insert((db, args[at].clone()));
        }
    }
    let places: Vec<(CoreId, Vec<Place>)> =
        loans.into_iter().map(|(core, places)| (core, places.into_iter().collect())).collect();
    let questions = places.iter().map(|(core, places)| (*core, Ask::Lend(places.clone()))).collect();
    Flow::Ask(questions, Box::new(move |home, answers, reply| run(home, row, &args, &places, answers, reply)))
}

/// The databases that a command works on: the selected one, and for COPY the one of the destination.
fn databases(engine: &Engine, session: &Session, row: &Row, args: &[Vec<u8>]) -> Vec<u8> {
    let mut all = vec![session.db as u8];
    if row.command.name == "copy" {
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let to_db = copy_destination(&args, session.db).filter(|&db| db < engine.config.databases && db != session.db);
        all.extend(to_db.map(|db| db as u8));
    }
    all
}

/// All entries are here: runs the command on them and gives back what it changed.
fn run(
    home: &mut Home,
    row: &'static Row,
    args: &[Vec<u8>],
    places: &[(CoreId, Vec<Place>)],
    answers: Vec<Answer>,
    reply: &mut Reply,
) -> Result<Flow, Error> {
    let arg_slices: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    let engine = &mut *home.engine;
    // Owners make way when they get back what has grown. Where nothing is evicted, this core speaks for all of them.
    if engine.shard.policy().rule == Rule::None && !engine.make_way(row, &arg_slices) {
        return Err(Error::OutOfMemory);
    }
    engine.scratch.set_now(engine.shard.now());
    let mut before = BTreeMap::new();
    for ((_, places), answer) in places.iter().zip(answers) {
        let Answer::Entries(entries) = answer else { unreachable!("a loan is answered with entries") };
        for ((db, key), entry) in places.iter().zip(entries) {
            let Some(entry) = entry else { continue };
            before.insert((*db, key.clone()), fingerprint(&entry));
            engine.scratch.attach(*db as usize, &engine.hasher.key(key), entry);
        }
    }
    swap_shards(engine);
    let call = Call {
        row,
        args: &arg_slices,
        first: None,
        db: home.session.db,
        no_touch: home.session.no_touch,
        owned: &Owned::default(),
        origin: Origin::Client(home.session),
        counted: true,
    };
    engine.call(call, reply);
    swap_shards(engine);
    let questions = returns(home.engine, places, &before);
    if questions.is_empty() {
        return Ok(Flow::Done);
    }
    // The reply leaves when the owners have what the command wrote.
    let written = reply.output().to_vec();
    reply.output().truncate(0);
    let finish = move |_: &mut Home, _: Vec<Answer>, reply: &mut Reply| {
        reply.output().push(&written);
        Ok(Flow::Done)
    };
    Ok(Flow::Ask(questions, Box::new(finish)))
}

/// Exchanges this core's shard and the scratch shard, but for the events: what the command tells leaves with everything
/// else that happens on this core. (Owners tell nothing when entries come back to them.)
fn swap_shards(engine: &mut Engine) {
    let Engine { shard, scratch, .. } = engine;
    std::mem::swap(shard, scratch);
    std::mem::swap(&mut shard.events, &mut scratch.events);
}

/// What each owner has to take back: the entries that are not what they were.
fn returns(
    engine: &mut Engine,
    places: &[(CoreId, Vec<Place>)],
    before: &BTreeMap<Place, Fingerprint>,
) -> Vec<(CoreId, Ask)> {
    let mut questions = Vec::new();
    for (core, places) in places {
        let mut changed = Vec::new();
        for (db, key) in places {
            let entry = engine.scratch.detach(*db as usize, &engine.hasher.key(key));
            let old = before.get(&(*db, key.clone()));
            if entry.as_ref().map(fingerprint).as_ref() != old {
                changed.push((*db, key.clone(), entry.map(Arc::new)));
            }
        }
        if !changed.is_empty() {
            questions.push((*core, Ask::GiveBack(changed)));
        }
    }
    questions
}

/// What tells an entry from a changed one.
#[derive(PartialEq)]
struct Fingerprint {
    value: Arc<Vec<u8>>,
    expire_at: Option<Deadline>,
}

fn fingerprint(entry: &Detached) -> Fingerprint {
    Fingerprint { value: Arc::clone(&entry.value), expire_at: entry.expire_at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table;
    use crate::config::Config;
    use crate::resp::{Output, Version};
    use crate::route::{Hasher, Router};
    use crate::shard::{Classes, Expiry, NewValue};

    const PARTITIONS: u16 = 2;

    fn engine(core: CoreId) -> Engine {
        let config = Config { notify_keyspace_events: Classes::parse("KA").unwrap(), ..Config::default() };
        let hasher = Hasher::new(PARTITIONS, [1, 2, 3, 4]);
        let mut engine = Engine::new(Router::new(core, 2, PARTITIONS), hasher, Arc::new(config), 7);
        engine.shard.events.enable(true);
        engine
    }

    #[test]
    fn what_a_command_over_two_cores_tells_leaves_from_the_core_that_ran_it() {
        let mut engines = [engine(0), engine(1)];
        let key_of = |core| {
            let owned = |i: &u32| engines[0].router.owner(engines[0].hasher.key(&i.to_be_bytes()).partition) == core;
            (0..).find(owned).unwrap().to_be_bytes()
        };
        let (from, to) = (key_of(1), key_of(0));
        let hasher = engines[1].hasher.clone();
        engines[1].shard.set(0, &hasher.key(&from), NewValue::Bytes(b"value"), Expiry::Never);
        let args: [&[u8]; 3] = [b"rename", &from, &to];
        let row = table().resolve(&args).unwrap();
        let mut session = Session::default();
        let mut output = Output::new();
        let mut reply = Reply::new(&mut output, Version::V2);
        let mut flow = begin(&engines[0], &session, row, &args);
        while let Flow::Ask(questions, finish) = flow {
            let answers =
                questions.into_iter().map(|(core, ask)| engines[core as usize].answer(ask).unwrap()).collect();
            flow = engines[0].finish_session(row, &mut session, finish, answers, &mut reply);
        }
        assert_eq!(output.to_vec(), b"+OK\r\n");
        let told =
            |engine: &mut Engine| engine.shard.events.drain().map(|event| (event.name, event.key)).collect::<Vec<_>>();
        assert_eq!(told(&mut engines[0]), [("rename_from", from.to_vec()), ("rename_to", to.to_vec())]);
        assert_eq!(told(&mut engines[1]), []);
        assert!(engines[0].shard.peek(0, &hasher.key(&to)).is_some());
    }
}
