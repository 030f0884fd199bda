//! Q1: is a value lost, torn, popped twice or out of its producer's order, over laps and a full ring? (R1, R2, R4)
//! Q2: does a close take back a push, or let one in; is the end of the ring seen? (R3)
//! Q3: is each value dropped once, whichever end goes last, published before the end or after?
//! Q4: a slot is reserved and its producer sleeps: does the loop sleep too, and is it woken for it? (R5, W1)
//!
//! | model                | threads                                      | bound | executions | time  | floor  |
//! |----------------------|----------------------------------------------|-------|------------|-------|--------|
//! | `laps`               | 2 producers of 2 and 1, consumer, capacity 2 | 2     | 7 413      | 1.9 s | 5 000  |
//! | `one_producer_laps`  | 1 producer of 3, consumer, capacity 2        | 20    | 14 618     | 2.5 s | 10 000 |
//! | `close_against_push` | 2 producers, consumer that closes            | 3     | 7 487      | 1.7 s | 5 000  |
//! | `ends_dropped`       | 2 producers, consumer that goes              | 3     | 5 065      | 1.1 s | 3 500  |
//! | `unpublished`        | 2 producers that raise, loop with a gate     | 3     | 21 338     | 3.0 s | 14 000 |
//!
//! Left out: a compare-exchange that fails for no reason; positions beyond a few laps.

#![cfg(loom)]

mod common;

use std::sync::Arc as PlainArc;
use std::sync::atomic::{AtomicUsize as PlainAtomicUsize, Ordering::Relaxed};

use common::{explore, must_fail, tries_mutants};
use gaio::handoff::{Consumer, Pop, PushError, gate, ring};
use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

fn drain<T>(consumer: &mut Consumer<T>, into: &mut Vec<T>) {
    while let Pop::Item(value) = consumer.pop() {
        into.push(value);
    }
}

/// Values are 10 × producer + sequence number. One is in already, so that the second lap is near.
#[test]
fn laps() {
    explore("ring laps", 2, 5_000, || {
        let (producer, mut consumer) = ring(2);
        producer.push(0).unwrap();
        let producers = [vec![10, 11], vec![20]].map(|values| {
            let producer = producer.clone();
            thread::spawn(move || {
                let push = |value| producer.push(value).map_err(PushError::into_inner).err();
                values.into_iter().filter_map(push).collect::<Vec<_>>()
            })
        });
        let mut popped = Vec::new();
        for _ in 0..2 {
            if let Pop::Item(value) = consumer.pop() {
                popped.push(value);
            }
        }
        let refused: Vec<_> = producers.into_iter().flat_map(|producer| producer.join().unwrap()).collect();
        drain(&mut consumer, &mut popped);
        assert_eq!(popped[0], 0);
        let own: Vec<_> = popped.iter().filter(|value| **value / 10 == 1).collect();
        assert!(own.is_sorted(), "out of order: {popped:?}");
        let mut all = [popped, refused].concat();
        all.sort_unstable();
        assert_eq!(all, [0, 10, 11, 20]);
        assert_eq!(consumer.pop(), Pop::Empty);
        producer.push(1).unwrap();
        producer.push(2).unwrap();
    });
}

#[test]
fn one_producer_laps() {
    explore("ring one_producer_laps", 20, 10_000, || {
        let (producer, mut consumer) = ring(2);
        let pushing = thread::spawn(move || {
            let pushed = (0..3).filter(|value| producer.push(*value).is_ok()).collect::<Vec<_>>();
            (producer, pushed)
        });
        let mut popped = Vec::new();
        for _ in 0..2 {
            if let Pop::Item(value) = consumer.pop() {
                popped.push(value);
            }
        }
        let (producer, pushed) = pushing.join().unwrap();
        assert!(pushed.starts_with(&[0, 1]));
        drain(&mut consumer, &mut popped);
        assert_eq!(popped, pushed);
        producer.push(7).unwrap();
        assert_eq!(consumer.pop(), Pop::Item(7));
    });
}

#[test]
fn close_against_push() {
    explore("ring close_against_push", 3, 5_000, || {
        let (producer, mut consumer) = ring(4);
        let producers = [1, 2].map(|value| {
            let producer = producer.clone();
            thread::spawn(move || match producer.push(value) {
                Ok(()) => Some(value),
                Err(PushError::Closed(_)) => None,
                Err(PushError::Full(_)) => unreachable!("there is room"),
            })
        });
        let mut popped = Vec::new();
        consumer.close();
        let last = consumer.tail();
        drain(&mut consumer, &mut popped);
        assert_eq!(producer.push(3), Err(PushError::Closed(3)));
        assert_eq!(consumer.is_finished(), consumer.has_passed(last));
        let mut pushed: Vec<_> = producers.into_iter().filter_map(|producer| producer.join().unwrap()).collect();
        drain(&mut consumer, &mut popped);
        pushed.sort_unstable();
        popped.sort_unstable();
        assert_eq!(popped, pushed);
        assert!(consumer.is_finished());
        assert!(consumer.tail() == last, "the tail of a closed ring is final");
    });
}

struct CountsDrops(PlainArc<PlainAtomicUsize>);

impl Drop for CountsDrops {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn ends_dropped() {
    explore("ring ends_dropped", 3, 3_500, || {
        let drops = PlainArc::new(PlainAtomicUsize::new(0));
        let (producer, consumer) = ring(2);
        let other = producer.clone();
        let producers = [producer, other].map(|producer| {
            let value = CountsDrops(PlainArc::clone(&drops));
            thread::spawn(move || drop(producer.push(value)))
        });
        drop(consumer);
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        assert_eq!(drops.load(Relaxed), 2);
    });
}

/// A turn as the loop takes it. Once it may block, all is popped, or a producer has written the waker.
#[test]
fn unpublished() {
    explore("ring unpublished", 3, 14_000, || {
        let (producer, mut consumer) = ring(2);
        let (raiser, mut keeper) = gate();
        let writes = Arc::new(AtomicUsize::new(0));
        let producers = [1, 2].map(|value| {
            let (producer, raiser, writes) = (producer.clone(), raiser.clone(), Arc::clone(&writes));
            thread::spawn(move || {
                producer.push(value).unwrap();
                if raiser.raise() {
                    writes.fetch_add(1, Relaxed);
                }
            })
        });
        let mut popped = Vec::new();
        for turn in 0.. {
            assert!(turn < 3, "two raises buy at most two more turns");
            writes.swap(0, Relaxed);
            keeper.open();
            let limit = consumer.tail();
            while let Pop::Item(value) = consumer.pop_before(limit) {
                popped.push(value);
            }
            if keeper.close() {
                break;
            }
        }
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        assert!(popped.len() == 2 || writes.load(Relaxed) > 0, "asleep with {popped:?}, and nobody wrote the waker");
        drain(&mut consumer, &mut popped);
        assert_eq!(popped.iter().sum::<i32>(), 3);
    });
}

#[test]
fn mutants_must_fail() {
    if tries_mutants() {
        must_fail("one_producer_laps", "publish_before_write");
        must_fail("one_producer_laps", "free_before_read");
        must_fail("one_producer_laps", "stamp_same_lap");
        must_fail("close_against_push", "close_not_checked");
        must_fail("close_against_push", "close_by_store");
        must_fail("unpublished", "raise_by_cas");
        must_fail("unpublished", "open_by_store");
    }
}
