//! Park and wake: a core that sleeps is woken by whatever is sent to it. A lost wake shows as loom's "deadlock".

use loom::{sync::Arc, thread};
use loom_tests::{
    Bells, check,
    mesh::{Endpoint, Park, build},
    must_fail,
    sync::seed::Seed,
};

/// How the receiver goes to sleep.
#[derive(Clone, Copy)]
enum Sleep {
    /// As the pump does.
    Shipped,
    /// The bug: it looks for work first and announces the park afterwards.
    CheckFirst,
}

fn sleep(endpoint: &Endpoint<u32>, bells: &Bells, park: Park, how: Sleep) {
    let may_block = match how {
        Sleep::Shipped => endpoint.prepare_park(park),
        Sleep::CheckFirst => {
            let idle = !endpoint.has_incoming();
            endpoint.parkers()[endpoint.me()].prepare(park);
            idle
        }
    };
    if may_block {
        bells.wait(park);
        endpoint.woke();
    }
}

fn send_and_ring(endpoint: &mut Endpoint<u32>, message: u32, bells: &Bells) {
    endpoint.send(0, message).unwrap();
    endpoint.for_each_dirty(|to, wake| {
        assert_eq!(to, 0);
        bells.ring(wake);
    });
}

/// Core 0 receives all that `senders` other cores send it, `messages` each, one turn per message.
fn handshake(senders: usize, messages: u32, park: Park, how: Sleep) {
    let bells = Arc::new(Bells::default());
    let mut endpoints = build::<u32>(senders + 1, 2);
    let threads: Vec<_> = endpoints
        .drain(1..)
        .map(|mut endpoint| {
            let bells = bells.clone();
            thread::spawn(move || {
                (0..messages).for_each(|message| send_and_ring(&mut endpoint, message, &bells));
                endpoint
            })
        })
        .collect();
    let mut receiver = endpoints.pop().unwrap();
    let mut expected = vec![0; senders + 1];
    while expected.iter().sum::<u32>() < messages * senders as u32 {
        match receiver.pop() {
            Some((from, message)) => {
                assert_eq!(message, expected[from]);
                expected[from] += 1;
            }
            None => sleep(&receiver, &bells, park, how),
        }
    }
    threads.into_iter().for_each(|thread| drop(thread.join().unwrap()));
}

#[test]
fn a_shallow_sleeper_is_woken() {
    check(Some(3), || handshake(1, 2, Park::Shallow, Sleep::Shipped));
}

#[test]
fn a_deep_sleeper_is_woken() {
    check(Some(3), || handshake(1, 2, Park::Deep, Sleep::Shipped));
}

#[test]
fn two_senders_wake_one_sleeper() {
    check(Some(2), || handshake(2, 1, Park::Deep, Sleep::Shipped));
}

#[test]
fn a_missing_fence_is_noticed_by_a_shallow_sleeper() {
    must_fail("a_missing_fence_is_noticed_by_a_shallow_sleeper", Some(Seed::NoHandshakeFence), "deadlock", || {
        check(Some(3), || handshake(1, 2, Park::Shallow, Sleep::Shipped));
    });
}

#[test]
fn a_missing_fence_is_noticed_by_a_deep_sleeper() {
    must_fail("a_missing_fence_is_noticed_by_a_deep_sleeper", Some(Seed::NoHandshakeFence), "deadlock", || {
        check(Some(3), || handshake(1, 2, Park::Deep, Sleep::Shipped));
    });
}

#[test]
fn a_park_announced_after_the_look_is_noticed() {
    must_fail("a_park_announced_after_the_look_is_noticed", None, "deadlock", || {
        check(Some(3), || handshake(1, 2, Park::Deep, Sleep::CheckFirst));
    });
}

/// A shallow park that timed out turns into a deep one while a sender is between the shallow bell's choice and ringing.
#[test]
fn falling_asleep_deeper_loses_no_wake() {
    check(Some(3), || {
        let bells = Arc::new(Bells::default());
        let mut endpoints = build::<u32>(2, 2);
        let mut sender = endpoints.pop().unwrap();
        let mut receiver = endpoints.pop().unwrap();
        let ringer = bells.clone();
        let thread = thread::spawn(move || {
            send_and_ring(&mut sender, 7, &ringer);
            sender
        });
        if receiver.prepare_park(Park::Shallow) {
            receiver.woke();
        }
        let message = loop {
            match receiver.pop() {
                Some((_, message)) => break message,
                None => sleep(&receiver, &bells, Park::Deep, Sleep::Shipped),
            }
        };
        assert_eq!(message, 7);
        drop(thread.join().unwrap());
    });
}

/// Something else, a socket for example, rings the same bell: the sleeper looks, finds nothing, sleeps again, and still
/// gets the message.
#[test]
fn a_wake_for_another_reason_loses_no_wake() {
    check(Some(2), || {
        let bells = Arc::new(Bells::default());
        let mut endpoints = build::<u32>(2, 2);
        let mut sender = endpoints.pop().unwrap();
        let mut receiver = endpoints.pop().unwrap();
        let (ringer, socket) = (bells.clone(), bells.clone());
        let threads = [
            thread::spawn(move || {
                send_and_ring(&mut sender, 7, &ringer);
                drop(sender);
            }),
            thread::spawn(move || socket.shallow.ring()),
        ];
        let message = loop {
            match receiver.pop() {
                Some((_, message)) => break message,
                None => sleep(&receiver, &bells, Park::Shallow, Sleep::Shipped),
            }
        };
        assert_eq!(message, 7);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// The end of a peer's stream wakes a sleeper too.
#[test]
fn closing_wakes_a_sleeper() {
    check(Some(3), || {
        let bells = Arc::new(Bells::default());
        let mut endpoints = build::<u32>(2, 2);
        let mut closing = endpoints.pop().unwrap();
        let mut receiver = endpoints.pop().unwrap();
        let ringer = bells.clone();
        let thread = thread::spawn(move || {
            closing.close(|_, _| unreachable!());
            closing.for_each_dirty(|_, wake| ringer.ring(wake));
            drop(closing);
        });
        while !receiver.all_finished() {
            if receiver.pop().is_none() && !receiver.all_finished() {
                sleep(&receiver, &bells, Park::Deep, Sleep::Shipped);
            }
        }
        thread.join().unwrap();
    });
}
