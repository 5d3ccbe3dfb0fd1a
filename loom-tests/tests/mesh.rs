//! What the data path builds on the mesh: replies to clients that may be gone, routing tables that change, shutdown.

use loom::{sync::Arc, thread};
use loom_tests::{
    Bells, Tally, Token, check,
    mesh::{Endpoint, Park, build},
    sync::yield_now,
};

fn pair<T>() -> (Endpoint<T>, Endpoint<T>) {
    let mut endpoints = build(2, 2);
    let b = endpoints.pop().unwrap();
    (endpoints.pop().unwrap(), b)
}

/// Ends the turn of a core without bells: all others poll.
fn no_bells<T>(endpoint: &mut Endpoint<T>) {
    endpoint.for_each_dirty(|_, _| unreachable!("nobody parks in this model"));
}

/// Executes each request once and sends its box back, until the requesting core is gone. Returns the ids executed.
fn serve(mut endpoint: Endpoint<Box<Token>>) -> Vec<u32> {
    let mut executed = Vec::new();
    while !endpoint.all_finished() {
        match endpoint.pop() {
            Some((from, request)) => {
                executed.push(request.id);
                // A requester that is gone gives the box back, and it ends here.
                drop(endpoint.send(from, request));
            }
            None => yield_now(),
        }
        endpoint.flush(|_, reply| drop(reply));
        no_bells(&mut endpoint);
    }
    executed
}

/// The client of a request disconnects after its core has looked `polls` times for the reply: the request is executed
/// once all the same, the box comes back and ends once, and only a client that is still there gets the reply.
#[test]
fn a_reply_to_a_client_that_disconnected_ends_with_its_box() {
    for polls in 0..3 {
        check(Some(3), move || {
            let tally = Tally::default();
            let (mut endpoint, server) = pair();
            let server = thread::spawn(move || serve(server));
            assert!(endpoint.send(1, Box::new(tally.token(7))).is_ok());
            no_bells(&mut endpoint);
            let mut delivered = 0;
            let (mut connected, mut looks) = (true, 0);
            let reply = loop {
                if looks == polls {
                    connected = false;
                }
                looks += 1;
                if let Some((_, reply)) = endpoint.pop() {
                    break reply;
                }
                yield_now();
            };
            assert_eq!(reply.id, 7);
            if connected {
                delivered += 1;
            }
            drop(reply);
            tally.assert_settled(1);
            assert!(delivered == 0 || looks <= polls);
            endpoint.close(|_, _| unreachable!());
            assert_eq!(server.join().unwrap(), [7]);
        });
    }
}

/// The whole requesting core vanishes, with requests and replies on the way: no box is lost or dropped twice.
#[test]
fn a_reply_to_a_core_that_is_gone_ends_with_its_box() {
    for polls in 0..2 {
        check(Some(3), move || {
            let tally = Tally::default();
            let (mut endpoint, server) = pair();
            let server = thread::spawn(move || serve(server));
            for id in 0..2 {
                assert!(endpoint.send(1, Box::new(tally.token(id))).is_ok());
            }
            (0..polls).for_each(|_| drop(endpoint.pop()));
            drop(endpoint);
            assert_eq!(server.join().unwrap(), [0, 1], "what was sent before the end is executed once");
            tally.assert_settled(2);
        });
    }
}

/// What the cores of the routing models say to each other.
#[derive(Debug)]
enum Routed {
    /// A new routing table.
    Table { version: u32 },
    /// A request, routed by the table of this version.
    Request { version: u32 },
    /// A request that comes back unexecuted.
    Bounce,
}

/// The router passes the new table on through the ring that its requests take: the owner has the table by which a
/// request was routed when it receives the request, and no request of an older table comes after a newer table.
#[test]
fn requests_of_the_old_table_come_before_the_new_table() {
    check(Some(2), || {
        let mut endpoints = build::<Routed>(3, 4);
        let mut control = endpoints.pop().unwrap();
        let mut owner = endpoints.pop().unwrap();
        let mut router = endpoints.pop().unwrap();
        let threads = [
            thread::spawn(move || {
                drop(control.send(0, Routed::Table { version: 2 }));
                no_bells(&mut control);
            }),
            thread::spawn(move || {
                let mut table = 1;
                for _ in 0..2 {
                    if let Some((2, Routed::Table { version })) = router.pop() {
                        table = version;
                        router.send(1, Routed::Table { version }).unwrap();
                    }
                    router.send(1, Routed::Request { version: table }).unwrap();
                }
                no_bells(&mut router);
            }),
        ];
        let (mut table, mut requests) = (1, 0);
        while !owner.is_finished(0) {
            match owner.pop() {
                Some((0, Routed::Table { version })) => table = version,
                Some((0, Routed::Request { version })) => {
                    assert_eq!(version, table);
                    requests += 1;
                }
                Some(other) => unreachable!("{other:?}"),
                None => yield_now(),
            }
        }
        assert_eq!(requests, 2);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// The control core moves a partition from the owner to the router and tells both, in any order: the request is
/// executed exactly once, by the owner under the old table or, bounced or not, by the router under the new one.
#[test]
fn a_core_that_no_longer_owns_the_partition_bounces() {
    check(Some(2), || {
        let mut endpoints = build::<Routed>(3, 2);
        let mut control = endpoints.pop().unwrap();
        let mut owner = endpoints.pop().unwrap();
        let mut router = endpoints.pop().unwrap();
        let control = thread::spawn(move || {
            // A core that has left needs no table.
            drop(control.send(1, Routed::Table { version: 2 }));
            drop(control.send(0, Routed::Table { version: 2 }));
            no_bells(&mut control);
        });
        let owner = thread::spawn(move || {
            let (mut table, mut executed) = (1, 0);
            while !owner.is_finished(0) {
                match owner.pop() {
                    Some((_, Routed::Table { version })) => table = version,
                    Some((from, Routed::Request { version })) if version < table => {
                        owner.send(from, Routed::Bounce).unwrap();
                    }
                    Some((_, Routed::Request { .. })) => executed += 1,
                    Some(other) => unreachable!("{other:?}"),
                    None => yield_now(),
                }
                no_bells(&mut owner);
            }
            executed
        });
        let (mut table, mut executed, mut waiting) = (1, 0, false);
        // The first look may or may not find the new table; the request goes where the table says.
        if let Some((2, Routed::Table { version })) = router.pop() {
            table = version;
            executed += 1;
        } else {
            router.send(1, Routed::Request { version: table }).unwrap();
        }
        router.close(|_, _| unreachable!());
        while !router.all_finished() {
            match router.pop() {
                Some((2, Routed::Table { version })) => table = version,
                Some((1, Routed::Bounce)) => waiting = true,
                Some(other) => unreachable!("{other:?}"),
                None => yield_now(),
            }
            // A bounce may overtake the table that explains it.
            if waiting && table == 2 {
                waiting = false;
                executed += 1;
            }
        }
        assert_eq!((executed + owner.join().unwrap(), waiting), (1, false));
        control.join().unwrap();
    });
}

/// Both cores send and close in the orderly way, one of them more than its ring holds: all messages arrive, both leave.
#[test]
fn an_orderly_shutdown_loses_nothing() {
    fn core(mut endpoint: Endpoint<u32>, messages: u32, bells: &[Bells; 2]) -> Vec<u32> {
        let me = endpoint.me();
        let mut received = Vec::new();
        (0..messages).for_each(|message| endpoint.send(1 - me, message).unwrap());
        let mut closed = false;
        while !closed || !endpoint.all_finished() {
            endpoint.flush(|_, _| unreachable!("nobody leaves before all is received"));
            if !closed && endpoint.outbox_len() == 0 {
                endpoint.close(|_, _| unreachable!());
                closed = true;
            }
            endpoint.for_each_dirty(|to, wake| bells[to].ring(wake));
            if let Some((_, message)) = endpoint.pop() {
                received.push(message);
            } else if endpoint.outbox_len() > 0 {
                // The shallow park that ends by itself.
                if endpoint.prepare_park(Park::Shallow) {
                    yield_now();
                    endpoint.woke();
                }
            } else if !endpoint.all_finished() && endpoint.prepare_park(Park::Deep) {
                bells[me].wait(Park::Deep);
                endpoint.woke();
            }
        }
        received
    }
    check(Some(2), || {
        let bells = Arc::new([Bells::default(), Bells::default()]);
        let (a, b) = pair();
        let b_bells = bells.clone();
        let other = thread::spawn(move || core(b, 1, &b_bells));
        assert_eq!(core(a, 3, &bells), [0]);
        assert_eq!(other.join().unwrap(), [0, 1, 2]);
    });
}

/// One core vanishes while the other sends more than the ring holds: each message is received, given back or dropped
/// with the ring, once, and the sender does not hang.
#[test]
fn a_sudden_shutdown_settles_every_message_once() {
    check(Some(3), || {
        let tally = Tally::default();
        let (mut endpoint, mut leaving) = pair();
        let tokens: Vec<_> = (0..4).map(|id| tally.token(id)).collect();
        let leaver = thread::spawn(move || {
            let received = leaving.pop().map(|(_, token): (usize, Token)| token.id);
            drop(leaving);
            received
        });
        let mut given_back = Vec::new();
        for token in tokens {
            if let Err(closed) = endpoint.send(1, token) {
                given_back.push(closed.0.id);
            }
        }
        while endpoint.outbox_len() > 0 {
            endpoint.flush(|_, token| given_back.push(token.id));
            yield_now();
        }
        while !endpoint.all_finished() {
            assert!(endpoint.pop().is_none());
            yield_now();
        }
        let received = leaver.join().unwrap();
        assert!(received.is_none_or(|id| id == 0));
        // At most one was received and two fit into the ring.
        assert!(given_back.contains(&3), "{given_back:?}");
        drop(endpoint);
        tally.assert_settled(4);
    });
}

/// A core waits asleep for a reply that never comes, because the other one leaves with the request unread.
#[test]
fn a_sleeper_hears_that_its_reply_will_not_come() {
    check(Some(3), || {
        let tally = Tally::default();
        let bells = Arc::new(Bells::default());
        let (mut endpoint, mut leaving) = pair();
        let ringer = bells.clone();
        let leaver = thread::spawn(move || {
            leaving.close(|_, _| unreachable!());
            leaving.for_each_dirty(|_, wake| ringer.ring(wake));
            drop(leaving);
        });
        // Given back at once, or left in the ring.
        drop(endpoint.send(1, tally.token(0)));
        no_bells(&mut endpoint);
        while !endpoint.is_finished(1) {
            assert!(endpoint.pop().is_none());
            if !endpoint.is_finished(1) && endpoint.prepare_park(Park::Deep) {
                bells.wait(Park::Deep);
                endpoint.woke();
            }
        }
        leaver.join().unwrap();
        drop(endpoint);
        tally.assert_settled(1);
    });
}
