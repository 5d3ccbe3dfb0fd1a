//! The ring on one thread, and between two real ones. `loom-tests/` explores the interleavings.

use super::*;
use std::cell::Cell;
use std::rc::Rc;
use std::thread;

/// Counts its drops.
struct Counted(Rc<Cell<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn items_come_out_in_order_across_the_wrap() {
    let (mut producer, mut consumer) = ring(4);
    let mut next = 0;
    for round in 0..100 {
        let burst = round % 4 + 1;
        (0..burst).for_each(|i| producer.try_push(next + i).unwrap());
        assert_eq!((producer.len(), consumer.len()), (burst, burst));
        (0..burst).for_each(|i| assert_eq!(consumer.pop(), Some(next + i)));
        assert!(consumer.is_empty() && producer.is_empty());
        assert_eq!(consumer.pop(), None);
        next += burst;
    }
}

#[test]
fn positions_may_wrap_around_usize() {
    let (mut producer, mut consumer) = ring(2);
    let start = usize::MAX - 2;
    producer.shared.tail.0.store(start, Ordering::Relaxed);
    producer.shared.head.0.store(start, Ordering::Relaxed);
    (producer.tail, producer.head_seen) = (start, start);
    (consumer.head, consumer.tail_seen) = (start, start);
    for i in 0..8 {
        producer.try_push(2 * i).unwrap();
        producer.try_push(2 * i + 1).unwrap();
        assert_eq!(producer.try_push(99), Err(PushError::Full(99)));
        assert_eq!((consumer.pop(), consumer.pop(), consumer.pop()), (Some(2 * i), Some(2 * i + 1), None));
    }
}

#[test]
fn a_full_ring_gives_the_item_back() {
    let (mut producer, mut consumer) = ring(2);
    producer.try_push(1).unwrap();
    producer.try_push(2).unwrap();
    assert_eq!(producer.try_push(3), Err(PushError::Full(3)));
    assert_eq!(consumer.pop(), Some(1));
    producer.try_push(3).unwrap();
    assert_eq!((consumer.pop(), consumer.pop(), consumer.pop()), (Some(2), Some(3), None));
}

#[test]
fn a_ring_of_one_slot_works() {
    let (mut producer, mut consumer) = ring(1);
    producer.try_push(1).unwrap();
    assert_eq!(producer.try_push(2), Err(PushError::Full(2)));
    assert_eq!((consumer.pop(), consumer.pop()), (Some(1), None));
    producer.try_push(2).unwrap();
    assert_eq!(consumer.pop(), Some(2));
}

#[test]
#[should_panic(expected = "ring capacity 3")]
fn a_capacity_must_be_a_power_of_two() {
    let _ = ring::<u8>(3);
}

#[test]
fn closing_the_producer_ends_the_stream_after_its_items() {
    let (mut producer, mut consumer) = ring(4);
    producer.try_push(1).unwrap();
    assert!(!consumer.is_closed());
    producer.close();
    assert_eq!(producer.try_push(2), Err(PushError::Closed(2)));
    assert!(consumer.is_closed());
    assert_eq!((consumer.pop(), consumer.pop()), (Some(1), None));
}

#[test]
fn closing_the_consumer_gives_items_back() {
    let (mut producer, mut consumer) = ring(4);
    producer.try_push(1).unwrap();
    assert!(!producer.is_closed());
    consumer.close();
    assert!(producer.is_closed());
    assert_eq!(producer.try_push(2), Err(PushError::Closed(2)));
    assert_eq!((consumer.pop(), consumer.pop()), (Some(1), None));
}

#[test]
fn items_left_are_dropped_once_whichever_end_goes_last() {
    for producer_last in [false, true] {
        let drops = Rc::new(Cell::new(0));
        let (mut producer, mut consumer) = ring(4);
        // Across the wrap: two go through, three stay.
        for _ in 0..2 {
            assert!(producer.try_push(Counted(drops.clone())).is_ok());
            drop(consumer.pop());
        }
        for _ in 0..3 {
            assert!(producer.try_push(Counted(drops.clone())).is_ok());
        }
        assert_eq!(drops.get(), 2);
        if producer_last {
            drop(consumer);
            assert_eq!(drops.get(), 2);
            drop(producer);
        } else {
            drop(producer);
            assert_eq!(drops.get(), 2);
            drop(consumer);
        }
        assert_eq!(drops.get(), 5);
    }
}

#[test]
fn the_ends_are_send_and_not_sync() {
    fn send<T: Send>() {}
    send::<Producer<Box<u8>>>();
    send::<Consumer<Box<u8>>>();

    /// Ambiguous, and so an error of the compiler, for a type that is Sync.
    trait NotSync<Marker> {
        fn holds() {}
    }
    impl<T: ?Sized> NotSync<()> for T {}
    struct IsSync;
    impl<T: ?Sized + Sync> NotSync<IsSync> for T {}
    <Producer<u8> as NotSync<_>>::holds();
    <Consumer<u8> as NotSync<_>>::holds();
}

#[test]
fn a_million_items_between_two_threads() {
    const ITEMS: u64 = 1_000_000;
    let (mut producer, mut consumer) = ring(64);
    let sender = thread::spawn(move || {
        for item in 0..ITEMS {
            let mut item = Box::new(item);
            while let Err(error) = producer.try_push(item) {
                let PushError::Full(back) = error else { panic!("closed early") };
                item = back;
                thread::yield_now();
            }
        }
    });
    let mut expected = 0;
    loop {
        let closed = consumer.is_closed();
        while let Some(item) = consumer.pop() {
            assert_eq!(*item, expected);
            expected += 1;
        }
        if closed {
            break;
        }
        thread::yield_now();
    }
    assert_eq!(expected, ITEMS);
    sender.join().unwrap();
}
