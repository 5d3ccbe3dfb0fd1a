//! Roles that move: what waits at a gate, what goes on, and what becomes of it, with whole cores.

use super::forward::Message;
use super::testing::{Cores, PARTITIONS, Peer, key, mine, moved, theirs, view};
use crate::cluster::{Gate, Roles};
use crate::command::Answer;
use crate::command::log::LogAnswer;
use crate::config::Config;
use crate::log::durability::Progress;
use crate::shard::{FOLLOWED, LED};

use std::sync::Arc;

/// The partition whose role moves, of the first core, and one of the second core.
const MOVING: u16 = 1;
const OTHER: u16 = PARTITIONS - 2;

/// This node leads everything; the moving partition, behind this gate.
fn behind(gate: Gate) -> impl Fn(u16) -> Roles {
    move |partition| Roles { gate: if partition == MOVING { gate } else { Gate::Open }, ..mine() }
}

/// Another node leads the moving partition, behind this gate.
fn given_away(gate: Gate) -> impl Fn(u16) -> Roles {
    move |partition| if partition == MOVING { Roles { gate, ..theirs() } } else { mine() }
}

fn two_cores() -> Cores {
    let mut cores = Cores::in_cluster(2, Config::default());
    cores.see(1, behind(Gate::Open));
    cores
}

#[track_caller]
fn nothing(cores: &mut Cores, clients: &mut [Peer]) {
    cores.rest();
    for client in clients {
        assert_eq!(client.received(), None);
    }
}

/// What comes until the value of the other key has come.
#[track_caller]
fn both_replies(cores: &mut Cores, client: &mut Peer) -> String {
    let mut replies = cores.reply(client);
    while !replies.ends_with("|v") {
        replies = format!("{replies}|{}", cores.reply(client));
    }
    replies
}

#[test]
fn requests_wait_at_the_gate_and_go_to_who_leads_then() {
    for back in [false, true] {
        let mut cores = two_cores();
        let (here, there) = (key(MOVING), key(OTHER));
        let mut clients = [cores.connect(0), cores.connect(1)];
        cores.expect(&mut clients[0], &format!("SET {here} 1"), "+OK");
        cores.see(2, behind(Gate::Closing));
        // What comes behind, of the same connection, waits as well.
        for client in &mut clients {
            client.send(&format!("INCR {here}\r\nGET {there}"));
        }
        nothing(&mut cores, &mut clients);
        let mut other = cores.connect(0);
        cores.expect(&mut other, &format!("SET {there} v"), "+OK");
        let in_place = |cores: &Cores| [LED, FOLLOWED].map(|db| cores.pumps[0].engine.shard.partition_size(db, MOVING));
        assert_eq!(in_place(&cores), [1, 0]);
        cores.see(3, behind(Gate::Closed));
        assert_eq!(in_place(&cores), [0, 1], "here it neither expires nor is evicted");
        nothing(&mut cores, &mut clients);
        if back {
            cores.see(4, behind(Gate::Open));
            let mut replies = clients.each_mut().map(|client| both_replies(&mut cores, client));
            replies.sort();
            assert_eq!(replies, [":2|$1|v", ":3|$1|v"]);
        } else {
            // Before the other one is open, it would only send them back.
            cores.see(4, given_away(Gate::Closed));
            nothing(&mut cores, &mut clients);
            cores.see(5, given_away(Gate::Open));
            for client in &mut clients {
                assert_eq!(both_replies(&mut cores, client), format!("{}|$1|v", moved(&here)));
            }
        }
    }
}

/// A core sends on what another one must not execute any more, because it has not heard of it.
#[test]
fn what_comes_late_from_another_core_waits_with_its_batch() {
    let mut cores = two_cores();
    let (here, there) = (key(MOVING), key(MOVING + 1));
    let mut clients = [cores.connect(1), cores.connect(1)];
    cores.tell(0, Message::View(Arc::new(view(2, behind(Gate::Closed)))));
    cores.rest();
    let [late, other] = &mut clients;
    late.send(&format!("INCR {here}\r\nINCR {there}"));
    cores.expect(other, &format!("GET {there}"), "$-1");
    nothing(&mut cores, &mut clients);
    assert_eq!(cores.pumps[0].engine.shard.size(FOLLOWED).keys, 0);
    cores.see(3, behind(Gate::Open));
    assert_eq!(cores.reply(&mut clients[0]), ":1|:1");
}

#[test]
fn what_may_be_about_all_keys_waits_for_every_role() {
    let mut cores = two_cores();
    let (here, there) = (key(MOVING), key(OTHER));
    let mut clients = ["DBSIZE", "FLUSHALL", "SCAN 0", "EXEC", "EXEC"].map(|_| cores.connect(0));
    for (client, key) in clients[3..].iter_mut().zip([&here, &there]) {
        cores.expect(client, "MULTI", "+OK");
        cores.expect(client, &format!("INCR {key}"), "+QUEUED");
    }
    cores.see(2, behind(Gate::Closed));
    for (client, line) in clients.iter_mut().zip(["DBSIZE", "FLUSHALL", "SCAN 0", "EXEC"]) {
        client.send(line);
    }
    cores.expect(&mut clients[4], "EXEC", "*1|:1");
    let mut other = cores.connect(1);
    cores.expect(&mut other, "PING", "+PONG");
    cores.expect(&mut other, "PUBLISH c m", ":0");
    nothing(&mut cores, &mut clients);
    cores.see(3, given_away(Gate::Open));
    assert_eq!(cores.reply(&mut clients[3]), moved(&here));
    assert_eq!(cores.reply(&mut clients[1]), "+OK");
    assert!(cores.reply(&mut clients[0]).starts_with(':'));
}

#[test]
fn who_waits_for_an_element_waits_on_while_its_role_moves() {
    let mut cores = two_cores();
    let here = key(MOVING);
    let mut clients = [cores.connect(0), cores.connect(1)];
    for client in &mut clients {
        client.send(&format!("BLPOP {here} 0"));
    }
    cores.rest();
    for (at, gate) in [(2, Gate::Closing), (3, Gate::Closed), (4, Gate::Open)] {
        cores.see(at, behind(gate));
    }
    nothing(&mut cores, &mut clients);
    let mut other = cores.connect(1);
    cores.expect(&mut other, &format!("RPUSH {here} x"), ":1");
    let first = format!("*2|${}|{here}|$1|x", here.len());
    cores.rest();
    let [a, b] = &mut clients;
    let (got, waiting) = match a.received() {
        Some(got) => (got, b),
        None => (b.received().unwrap(), a),
    };
    assert_eq!(got, first);
    cores.see(5, behind(Gate::Closing));
    cores.see(6, behind(Gate::Closed));
    cores.see(7, given_away(Gate::Closed));
    nothing(&mut cores, std::slice::from_mut(waiting));
    cores.see(8, given_away(Gate::Open));
    assert_eq!(cores.reply(waiting), moved(&here));
}

/// Replies that wait for copies go on to wait while a role moves, and leave when they may.
#[test]
fn replies_that_are_held_leave_before_the_role_does() {
    let mut cores = two_cores();
    cores.tell_all(|| Message::Record(true));
    let here = key(MOVING);
    let mut clients = [cores.connect(0), cores.connect(1)];
    for client in &mut clients {
        cores.expect(client, "CLIENT DURABILITY quorum", "+OK");
        client.send(&format!("SET {here} v"));
    }
    cores.rest();
    cores.see(2, behind(Gate::Closing));
    cores.see(3, behind(Gate::Closed));
    nothing(&mut cores, &mut clients);
    let all = Progress { replicated: u64::MAX / 2, ..Progress::default() };
    cores.tell_all(|| Message::Progress(all.clone()));
    for client in &mut clients {
        assert_eq!(cores.reply(client), "+OK");
    }
    cores.see(4, given_away(Gate::Open));
    for client in &mut clients {
        cores.expect(client, "PING", "+PONG");
    }
}

/// The only core of a node is told of a closed gate at once.
#[test]
fn a_lone_core_ends_what_it_has_begun_before_a_gate_closes() {
    for back in [false, true] {
        let mut cores = Cores::in_cluster(1, Config::default());
        cores.see(1, behind(Gate::Open));
        let (here, there) = (key(MOVING), key(OTHER));
        let mut clients = [0; 2].map(|_| cores.connect(0));
        let queued = [format!("INCR {here}"), "LASTSAVE".to_string(), format!("INCR {here}")];
        cores.expect(&mut clients[0], "MULTI", "+OK");
        queued.iter().for_each(|line| cores.expect(&mut clients[0], line, "+QUEUED"));
        clients[0].send("EXEC");
        cores.wait_until("the control core is asked", |cores| cores.asked.len() == 1);
        // What it has changed is in no log yet, and it goes on to change more.
        let roles = |gate: Gate| move |partition| if partition == OTHER { theirs() } else { behind(gate)(partition) };
        cores.tell(0, Message::View(Arc::new(view(2, roles(Gate::Closed)))));
        cores.rest();
        clients[1].send(&format!("INCR {here}"));
        nothing(&mut cores, &mut clients);
        assert!(cores.seen(2).is_empty());
        // All else that the view says is in force.
        let mut other = cores.connect(0);
        cores.expect(&mut other, &format!("GET {there}"), &moved(&there));
        let expected = if back { 3 } else { 2 };
        if back {
            // What is newer counts, whatever would have come of the one before.
            cores.tell(0, Message::View(Arc::new(view(3, roles(Gate::Open)))));
        }
        let (core, ask, part) = cores.asked.remove(0);
        let answer = Box::new(Answer::Log(LogAnswer::Time(7)));
        cores.tell(core, Message::Answer { ask, part, answer });
        assert_eq!(cores.reply(&mut clients[0]), "*3|:1|:7|:2");
        if back {
            assert_eq!(cores.reply(&mut clients[1]), ":3");
        }
        cores.wait_until("the core has seen the view", |cores| cores.seen(expected) == [0]);
        let in_place = [LED, FOLLOWED].map(|db| cores.pumps[0].engine.shard.partition_size(db, MOVING));
        assert_eq!(in_place, if back { [1, 0] } else { [0, 1] });
        if back {
            continue;
        }
        nothing(&mut cores, &mut clients);
        cores.see(3, given_away(Gate::Open));
        assert_eq!(cores.reply(&mut clients[1]), moved(&here));
    }
}
