//! What runs over several cores is strictly serialisable, seen from outside: many short histories of many clients are
//! recorded, and for each a serial order is searched that explains every reply ([`check`]).
//!
//! Clients on both cores of a node change counters, lists and sets that live on both cores (EXEC, MSET, RENAME, LMOVE,
//! SMOVE, SUNIONSTORE, WATCH, BLPOP, FLUSHALL), and look at them (MGET, EXEC); some send several requests at once, and some
//! vanish with what they have sent. After each history every key answers, so nothing has stayed lent.
//!
//! A violation prints the history and its seed: `KEYLOOM_SEED=<seed>` draws the same requests again, though not the same
//! timing. `KEYLOOM_HISTORIES` is the number of histories of each kind.

#[path = "../common/mod.rs"]
mod common;

mod check;
mod model;
mod record;

use check::{Operation, Violation, check};
use common::{Random, Server, seed};
use record::{History, Kind};

/// Histories of each kind, unless `KEYLOOM_HISTORIES` says otherwise.
const HISTORIES: u64 = 150;

fn histories() -> u64 {
    std::env::var("KEYLOOM_HISTORIES").map_or(HISTORIES, |text| text.parse().expect("a number"))
}

/// The history, in the order of invocation, and why there is no order.
fn shown(history: &History, violation: &Violation) -> String {
    let line = |at: usize, operation: &Operation| {
        let place = violation.prefix.iter().position(|&other| other == at);
        let place = place.map_or("-".to_string(), |place| place.to_string());
        let end = operation.response.as_ref().map_or("      never".to_string(), |(t, _)| format!("{t:>11}"));
        let reply = operation.response.as_ref().map(|(_, reply)| record::text(reply)).unwrap_or_default();
        let Operation { client, request, invoked, after, .. } = operation;
        format!("{at:>3} [{place:>3}] {invoked:>11} {end} client {client:>2}: {request:?} -> {reply} after {after:?}\n")
    };
    let mut order: Vec<usize> = (0..history.operations.len()).collect();
    order.sort_by_key(|&at| history.operations[at].invoked);
    let mut text = format!("names: {:?}\n", history.names);
    text.extend(order.into_iter().map(|at| line(at, &history.operations[at])));
    text.push_str("after the longest prefix (its places are in brackets), these would have got:\n");
    for (at, reply) in &violation.refused {
        text.push_str(&format!("{at:>3} -> {}\n", record::text(reply)));
    }
    text
}

fn run(kind: Kind) {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let first = seed();
    let (mut operations, mut pending, mut overlapping, mut undecided) = (0, 0, 0, 0);
    for nth in 0..histories() {
        let seed = first + nth;
        let history = record::record(&server, kind, nth, &mut Random::new(seed));
        match check(&history.operations, &history.names) {
            Ok(_) => {}
            // The search was given up: that says nothing of the history.
            Err(violation) if violation.undecided => undecided += 1,
            Err(violation) => {
                panic!("KEYLOOM_SEED={seed} {kind:?}: not serialisable\n{}", shown(&history, &violation));
            }
        }
        record::nothing_is_left_lent(&server, &history);
        operations += history.operations.len();
        pending += history.operations.iter().filter(|operation| operation.response.is_none()).count();
        overlapping += history.overlapping();
    }
    println!("{kind:?}: {operations} operations, {pending} without a reply, {overlapping} pairs at the same time");
    assert!(undecided * 50 <= histories(), "{undecided} histories are undecided");
    // Otherwise nothing has been tested.
    assert!(overlapping > operations / 4);
}

#[test]
fn transfers_are_serialisable() {
    run(Kind::Texts);
}

#[test]
fn moves_between_collections_are_serialisable() {
    run(Kind::Collections);
}

#[test]
fn waiting_for_elements_is_serialisable() {
    run(Kind::Waiting);
}

#[test]
fn everything_at_once_is_serialisable() {
    run(Kind::Everything);
}
