//! Endpoints on one thread, and real cores that flood each other. `loom-tests/` explores the interleavings.

use super::*;
use std::{
    thread::{self, Thread},
    time::Duration,
};

fn pair(capacity: usize) -> (Endpoint<u64>, Endpoint<u64>) {
    let mut endpoints = build(2, capacity);
    let b = endpoints.pop().unwrap();
    (endpoints.pop().unwrap(), b)
}

fn drain(endpoint: &mut Endpoint<u64>) -> Vec<(usize, u64)> {
    std::iter::from_fn(|| endpoint.pop()).collect()
}

fn unexpected(to: usize, message: u64) {
    panic!("{message} came back from {to}");
}

#[test]
fn every_pair_is_connected_both_ways() {
    let mut endpoints = build::<(usize, usize)>(4, 4);
    for (from, endpoint) in endpoints.iter_mut().enumerate() {
        assert_eq!((endpoint.me(), endpoint.executors()), (from, 4));
        (0..4).filter(|&to| to != from).for_each(|to| endpoint.send(to, (from, to)).unwrap());
    }
    for (me, endpoint) in endpoints.iter_mut().enumerate() {
        let mut senders = Vec::new();
        endpoint.receive(100, |from, message| {
            assert_eq!(message, (from, me));
            senders.push(from);
        });
        senders.sort();
        assert_eq!(senders, (0..4).filter(|&other| other != me).collect::<Vec<_>>());
        assert!(!endpoint.has_incoming());
    }
}

#[test]
fn a_single_executor_has_nobody_to_hear_from() {
    let mut alone = build::<u64>(1, 4).pop().unwrap();
    assert_eq!(alone.pop(), None);
    assert!(!alone.has_incoming() && alone.all_finished());
    alone.for_each_dirty(|_, _| panic!("nobody is there"));
}

#[test]
fn a_full_ring_spills_into_the_outbox_in_order() {
    let (mut a, mut b) = pair(2);
    (0..7).for_each(|message| a.send(1, message).unwrap());
    assert_eq!((a.outbox_len(), a.depth_to(1), b.depth_from(0)), (5, 7, 2));
    let mut received = Vec::new();
    while received.len() < 7 {
        received.extend(drain(&mut b).into_iter().map(|(_, message)| message));
        a.send(1, 7 + received.len() as u64).unwrap();
        a.flush(unexpected);
    }
    assert!(received.starts_with(&[0, 1, 2, 3, 4, 5, 6]), "{received:?}");
    assert_eq!(a.depth_to(1), a.outbox_len() + b.depth_from(0));
}

#[test]
fn what_a_flush_moves_is_rung_for() {
    let (mut a, mut b) = pair(2);
    (0..3).for_each(|message| a.send(1, message).unwrap());
    a.for_each_dirty(|_, _| panic!("the destination runs"));
    assert_eq!(drain(&mut b), [(0, 0), (0, 1)]);
    assert!(b.prepare_park(Park::Deep));
    a.flush(unexpected);
    let mut bells = Vec::new();
    a.for_each_dirty(|to, wake| bells.push((to, wake)));
    assert_eq!(bells, [(1, Wake::Deep)]);
}

#[test]
fn a_filled_outbox_says_so() {
    let (mut a, mut b) = pair(2);
    let limit = 2 + OUTBOX_SOFT_MAX as u64;
    for message in 0..limit {
        assert!(!a.is_congested());
        a.send(1, message).unwrap();
    }
    assert!(a.is_congested());
    assert_eq!(drain(&mut b), [(0, 0), (0, 1)]);
    a.flush(unexpected);
    assert!(!a.is_congested());
}

#[test]
fn peers_take_turns() {
    let mut endpoints = build::<u64>(3, 128);
    for from in [1, 2] {
        (0..100).for_each(|message| endpoints[from].send(0, message).unwrap());
    }
    let mut counts = [0usize; 3];
    assert_eq!(endpoints[0].receive(2 * RECEIVE_BURST, |from, _| counts[from] += 1), 2 * RECEIVE_BURST);
    assert_eq!(counts, [0, RECEIVE_BURST, RECEIVE_BURST]);
    assert_eq!(endpoints[0].receive(1000, |from, _| counts[from] += 1), 200 - 2 * RECEIVE_BURST);
    assert_eq!(counts, [0, 100, 100]);
}

#[test]
fn a_turn_rings_each_sleeping_destination_once() {
    let mut endpoints = build::<u64>(4, 8);
    assert!(endpoints[1].prepare_park(Park::Shallow));
    assert!(endpoints[2].prepare_park(Park::Deep));
    for to in [1, 2, 3] {
        (0..3).for_each(|message| endpoints[0].send(to, message).unwrap());
    }
    let mut bells = Vec::new();
    endpoints[0].for_each_dirty(|to, wake| bells.push((to, wake)));
    assert_eq!(bells, [(1, Wake::Shallow), (2, Wake::Deep)]);
    endpoints[0].for_each_dirty(|to, _| panic!("{to} was rung twice"));
    // The next sender finds them woken.
    endpoints[3].send(1, 0).unwrap();
    endpoints[3].for_each_dirty(|to, _| panic!("{to} was rung twice"));
}

#[test]
fn an_executor_with_work_does_not_park() {
    let (mut a, mut b) = pair(2);
    a.send(1, 1).unwrap();
    assert!(!b.prepare_park(Park::Deep));
    assert_eq!(a.notify(1), Wake::None);
    drain(&mut b);
    assert!(b.prepare_park(Park::Deep));
    b.woke();
    // What waits for room is looked after at least every millisecond.
    (0..3).for_each(|message| a.send(1, message).unwrap());
    assert!(!a.prepare_park(Park::Deep));
    assert!(a.prepare_park(Park::Shallow));
}

#[test]
fn a_closed_peer_is_finished_after_its_last_message() {
    let (mut a, mut b) = pair(2);
    assert!(b.prepare_park(Park::Shallow));
    a.send(1, 1).unwrap();
    a.close(unexpected);
    assert_eq!(a.send(1, 2), Err(Closed(2)));
    let mut rung = Vec::new();
    a.for_each_dirty(|to, wake| rung.push((to, wake)));
    assert_eq!(rung, [(1, Wake::Shallow)]);
    b.woke();
    assert!(!b.is_finished(0));
    assert_eq!(b.pop(), Some((0, 1)));
    assert!(b.has_incoming(), "the end is something to find");
    assert_eq!(b.pop(), None);
    assert!(b.is_finished(0) && b.all_finished());
    assert!(!b.has_incoming() && b.prepare_park(Park::Deep), "a finished peer keeps nobody awake");
    // The other direction is open until it closes too.
    b.send(0, 3).unwrap();
    assert_eq!(drain(&mut a), [(1, 3)]);
    assert!(!a.all_finished());
}

#[test]
fn messages_to_a_peer_that_is_gone_come_back() {
    let (mut a, b) = pair(2);
    (0..4).for_each(|message| a.send(1, message).unwrap());
    drop(b);
    assert_eq!(a.send(1, 9), Err(Closed(9)));
    let mut back = Vec::new();
    a.flush(|to, message| back.push((to, message)));
    assert_eq!(back, [(1, 2), (1, 3)]);
    assert_eq!(a.outbox_len(), 0);
    assert!(a.pop().is_none() && a.is_finished(1));
}

#[test]
fn closing_gives_the_outbox_back() {
    let (mut a, mut b) = pair(2);
    (0..4).for_each(|message| a.send(1, message).unwrap());
    let mut back = Vec::new();
    a.close(|_, message| back.push(message));
    assert_eq!((back, a.outbox_len()), (vec![2, 3], 0));
    assert_eq!(drain(&mut b), [(0, 0), (0, 1)]);
}

/// Reply to a request.
const REPLY: u64 = 1 << 63;

/// One core: sends `requests` requests to each other core, answers what it gets, sleeps when it has nothing to do, and
/// leaves when all answers are there and all others have closed.
fn core(mut endpoint: Endpoint<u64>, requests: u64, bells: &[Thread]) {
    let (me, executors) = (endpoint.me(), endpoint.executors());
    let others: Vec<usize> = (0..executors).filter(|&other| other != me).collect();
    let mut sent = 0;
    let (mut asked, mut answered) = (vec![0; executors], vec![0; executors]);
    let mut closed = false;
    let ring_bell = |to: usize, _: Wake| bells[to].unpark();
    loop {
        // One turn floods: as many requests as the outboxes allow, then whatever has arrived.
        for _ in 0..64 {
            if sent < requests && !endpoint.is_congested() {
                others.iter().for_each(|&to| endpoint.send(to, sent).unwrap());
                sent += 1;
            }
        }
        for _ in 0..256 {
            let Some((from, message)) = endpoint.pop() else { break };
            if message & REPLY == 0 {
                assert_eq!(message, asked[from], "requests arrive once and in order");
                asked[from] += 1;
                endpoint.send(from, message | REPLY).unwrap();
            } else {
                assert_eq!(message & !REPLY, answered[from], "replies arrive once and in order");
                answered[from] += 1;
            }
        }
        endpoint.flush(unexpected);
        let done = others.iter().all(|&other| asked[other] == requests && answered[other] == requests);
        if done && !closed && endpoint.outbox_len() == 0 {
            endpoint.close(unexpected);
            closed = true;
        }
        endpoint.for_each_dirty(ring_bell);
        if closed && endpoint.all_finished() {
            return;
        }
        let producing = sent < requests && !endpoint.is_congested();
        if producing {
            continue;
        }
        let park = if endpoint.outbox_len() == 0 { Park::Deep } else { Park::Shallow };
        if endpoint.prepare_park(park) {
            // The thread's token is the bell: it is remembered until the next park, as an eventfd's counter is.
            match park {
                Park::Deep => thread::park(),
                Park::Shallow => thread::park_timeout(Duration::from_millis(1)),
            }
            endpoint.woke();
        }
    }
}

/// Runs cores that flood each other until each has all its answers.
fn flood(executors: usize, capacity: usize, requests: u64) {
    let (hand_out, threads): (Vec<_>, Vec<_>) = build(executors, capacity)
        .into_iter()
        .map(|endpoint| {
            let (hand_out, bells) = std::sync::mpsc::channel::<Vec<Thread>>();
            (hand_out, thread::spawn(move || core(endpoint, requests, &bells.recv().unwrap())))
        })
        .unzip();
    let bells: Vec<Thread> = threads.iter().map(|handle| handle.thread().clone()).collect();
    hand_out.iter().for_each(|hand_out| hand_out.send(bells.clone()).unwrap());
    threads.into_iter().for_each(|handle| handle.join().unwrap());
}

#[test]
fn two_cores_exchange_two_million_messages() {
    flood(2, RING_CAPACITY, 500_000);
}

#[test]
fn two_cores_flood_each_other_through_a_tiny_ring() {
    flood(2, 2, 50_000);
}

#[test]
fn five_cores_flood_each_other_through_tiny_rings() {
    flood(5, 4, 5_000);
}
