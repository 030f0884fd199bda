//! Tests of the ring that need no model: shape, order, full, closed, and two producers for real.

use super::*;
use std::cell::Cell;
use std::sync::Arc;
use std::thread;

const fn assert_send<T: Send>() {}
const fn assert_sync<T: Sync>() {}
const _: () = assert_send::<Consumer<Box<u8>>>();
const _: () = assert_send::<Producer<Cell<u8>>>();
const _: () = assert_sync::<Producer<Cell<u8>>>();

#[test]
fn a_slot_is_the_value_and_eight_bytes() {
    assert_eq!(size_of::<Slot<[u64; 7]>>(), 64);
    assert_eq!(size_of::<Slot<[u64; 11]>>(), 96);
}

#[test]
fn capacity_is_a_power_of_two_and_at_least_two() {
    for (asked, made) in [(0, 2), (1, 2), (2, 2), (3, 4), (1000, 1024)] {
        assert_eq!(ring::<u8>(asked).0.capacity(), made);
    }
}

#[test]
fn first_in_first_out_over_many_laps() {
    let (producer, mut consumer) = ring(4);
    let mut next = 0;
    for lap in 0..50 {
        for item in 0..=(lap % 4) {
            producer.push(lap * 4 + item).unwrap();
        }
        for item in 0..=(lap % 4) {
            assert_eq!(consumer.pop(), Pop::Item(lap * 4 + item));
            next += 1;
        }
        assert_eq!(consumer.pop(), Pop::Empty);
    }
    assert!(next > 50);
}

#[test]
fn full_gives_the_value_back_and_one_pop_makes_room() {
    let (producer, mut consumer) = ring(2);
    producer.push(1).unwrap();
    producer.push(2).unwrap();
    assert_eq!(producer.len_hint(), 2);
    assert_eq!(producer.push(3).unwrap_err(), PushError::Full(3));
    assert_eq!(consumer.pop(), Pop::Item(1));
    producer.push(3).unwrap();
    assert_eq!(producer.push(4).unwrap_err().into_inner(), 4);
}

#[test]
fn a_closed_ring_gives_out_what_it_holds_and_takes_nothing() {
    let (producer, mut consumer) = ring(4);
    producer.push(1).unwrap();
    assert!(!producer.is_closed());
    producer.close();
    assert!(producer.is_closed());
    assert_eq!(producer.push(2), Err(PushError::Closed(2)));
    assert!(!consumer.is_finished());
    assert_eq!(consumer.pop(), Pop::Item(1));
    assert_eq!(consumer.pop(), Pop::Empty);
    assert!(consumer.is_finished());
}

#[test]
fn closed_is_said_before_full() {
    let (producer, mut consumer) = ring(2);
    producer.push(1).unwrap();
    producer.push(2).unwrap();
    consumer.close();
    assert_eq!(producer.push(3), Err(PushError::Closed(3)));
}

#[test]
fn a_reserved_slot_hides_what_is_behind_it_until_it_is_published() {
    let (producer, mut consumer) = ring(4);
    // A producer that was preempted between its two steps.
    let reserved = producer.shared.tail.fetch_add(ONE, Relaxed) / ONE;
    producer.push(2).unwrap();
    assert_eq!(consumer.pop(), Pop::Unpublished);
    consumer.close();
    assert_eq!(consumer.pop(), Pop::Unpublished);
    assert!(!consumer.is_finished());
    publish(producer.shared.slot(reserved), reserved, 1);
    assert_eq!(consumer.pop(), Pop::Item(1));
    assert_eq!(consumer.pop(), Pop::Item(2));
    assert!(consumer.is_finished());
}

#[test]
fn each_value_is_dropped_once_whoever_goes_last() {
    let value = Arc::new(());
    let (producer, mut consumer) = ring(4);
    for _ in 0..4 {
        producer.push(Arc::clone(&value)).unwrap();
    }
    drop(consumer.pop());
    assert_eq!(Arc::strong_count(&value), 4);
    drop(consumer);
    assert_eq!(Arc::strong_count(&value), 1, "the consumer drops what is published");

    let (producer, consumer) = ring(4);
    let late = producer.shared.tail.fetch_add(ONE, Relaxed) / ONE;
    producer.push(Arc::clone(&value)).unwrap();
    drop(consumer);
    publish(producer.shared.slot(late), late, Arc::clone(&value));
    assert_eq!(Arc::strong_count(&value), 3);
    drop(producer);
    assert_eq!(Arc::strong_count(&value), 1, "the last endpoint drops what came late");
}

#[test]
fn zero_sized_values_are_counted_too() {
    let (producer, mut consumer) = ring(2);
    producer.push(()).unwrap();
    producer.push(()).unwrap();
    assert!(producer.push(()).is_err());
    assert_eq!(consumer.pop(), Pop::Item(()));
}

#[test]
fn stress_two_producers_keep_their_own_order() {
    const EACH: u32 = if cfg!(miri) { 200 } else { 50_000 };
    let (producer, mut consumer) = ring(16);
    let producers: Vec<_> = (0..2u32)
        .map(|id| {
            let producer = producer.clone();
            thread::spawn(move || {
                for item in 0..EACH {
                    let mut value = Box::new((id, item));
                    while let Err(error) = producer.push(value) {
                        value = error.into_inner();
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut next = [0; 2];
    while next != [EACH; 2] {
        match consumer.pop() {
            Pop::Item(value) => {
                let (id, item) = *value;
                assert_eq!(item, next[id as usize]);
                next[id as usize] += 1;
            }
            Pop::Unpublished | Pop::Empty => thread::yield_now(),
        }
    }
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    assert_eq!(consumer.pop(), Pop::Empty);
    assert_eq!(producer.len_hint(), 0);
}
