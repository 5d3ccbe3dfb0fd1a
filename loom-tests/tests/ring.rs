//! The ring between two cores: order, fullness, closing, and what is left in it.

use loom::thread;
use loom_tests::{
    Tally, check,
    mesh::{Producer, PushError, ring},
    must_fail,
    sync::{seed::Seed, yield_now},
};

/// Pushes, waiting for room; gives the item back when the ring is closed.
fn push_all<T>(producer: &mut Producer<T>, mut item: T) -> Result<(), T> {
    loop {
        match producer.try_push(item) {
            Ok(()) => return Ok(()),
            Err(PushError::Closed(item)) => return Err(item),
            Err(PushError::Full(back)) => item = back,
        }
        yield_now();
    }
}

fn fifo_across_the_wrap() {
    let (mut producer, mut consumer) = ring(2);
    let sender = thread::spawn(move || {
        for item in 0..4 {
            push_all(&mut producer, Box::new(item)).unwrap();
        }
    });
    for expected in 0..4 {
        let item = loop {
            if let Some(item) = consumer.pop() {
                break item;
            }
            yield_now();
        };
        assert_eq!(*item, expected);
    }
    assert!(consumer.pop().is_none());
    sender.join().unwrap();
}

#[test]
fn items_come_out_in_order_across_the_wrap() {
    check(Some(4), fifo_across_the_wrap);
}

#[test]
fn a_relaxed_publish_of_the_tail_is_noticed() {
    must_fail("a_relaxed_publish_of_the_tail_is_noticed", Some(Seed::RelaxedPublish), "Causality violation", || {
        check(Some(4), fifo_across_the_wrap)
    });
}

#[test]
fn a_relaxed_release_of_slots_is_noticed() {
    must_fail("a_relaxed_release_of_slots_is_noticed", Some(Seed::RelaxedVacate), "Causality violation", || {
        check(Some(4), fifo_across_the_wrap)
    });
}

#[test]
fn a_full_ring_gives_back_and_loses_nothing() {
    check(None, || {
        let (mut producer, mut consumer) = ring(2);
        let sender = thread::spawn(move || {
            (0..4).filter(|&item| producer.try_push(item) == Err(PushError::Full(item))).collect::<Vec<i32>>()
        });
        let mut popped: Vec<i32> = (0..2).filter_map(|_| consumer.pop()).collect();
        let given_back = sender.join().unwrap();
        popped.extend(std::iter::from_fn(|| consumer.pop()));
        assert!(popped.is_sorted() && !given_back.contains(&0) && !given_back.contains(&1));
        popped.extend(given_back);
        popped.sort();
        assert_eq!(popped, [0, 1, 2, 3]);
    });
}

fn end_of_the_stream() {
    let (mut producer, mut consumer) = ring(4);
    let sender = thread::spawn(move || (0..2).for_each(|item| producer.try_push(item).unwrap()));
    let mut expected = 0;
    loop {
        let closed = consumer.is_closed();
        while let Some(item) = consumer.pop() {
            assert_eq!(item, expected);
            expected += 1;
        }
        if closed {
            break;
        }
        yield_now();
    }
    assert_eq!(expected, 2, "items before the end of the stream");
    sender.join().unwrap();
}

#[test]
fn closing_the_producer_ends_the_stream_after_its_items() {
    check(None, end_of_the_stream);
}

#[test]
fn a_relaxed_end_of_the_stream_is_noticed() {
    must_fail("a_relaxed_end_of_the_stream_is_noticed", Some(Seed::RelaxedClose), "items before the end", || {
        check(None, end_of_the_stream)
    });
}

#[test]
fn closing_the_consumer_stops_the_producer() {
    check(Some(4), || {
        let tally = Tally::default();
        let (mut producer, mut consumer) = ring(2);
        let tokens: Vec<_> = (0..4).map(|id| tally.token(id)).collect();
        // Four do not fit into a ring of two: the sender ends only because the ring closes.
        let sender = thread::spawn(move || {
            tokens.into_iter().filter_map(|token| push_all(&mut producer, token).err()).map(|token| token.id).collect()
        });
        let popped = consumer.pop().map(|token| token.id);
        drop(consumer);
        let given_back: Vec<u32> = sender.join().unwrap();
        assert!(popped.is_none_or(|id| id == 0));
        assert!(given_back.contains(&3) && given_back.is_sorted());
        tally.assert_settled(4);
    });
}

#[test]
fn items_left_are_dropped_once_whichever_end_goes_last() {
    check(None, || {
        let tally = Tally::default();
        let (mut producer, mut consumer) = ring(2);
        let tokens = [tally.token(0), tally.token(1), tally.token(2)];
        let sender =
            thread::spawn(move || tokens.into_iter().filter_map(|token| producer.try_push(token).err()).count());
        drop(consumer.pop());
        drop(consumer);
        sender.join().unwrap();
        tally.assert_settled(3);
    });
}
