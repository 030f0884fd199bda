//! Tests of the mailbox that need no model: which buffer is where, and the waits with a clock.

use core::time::Duration;
use std::sync::mpsc;

use super::*;
use crate::sync::thread;

const fn assert_send<T: Send>() {}
const _: () = assert_send::<Publisher<Cell<u8>>>();
const _: () = assert_send::<Taker<Cell<u8>>>();

#[test]
fn the_three_buffers_go_round() {
    let (mut publisher, mut taker) = mailbox("a", "b", "c");
    assert_eq!(publisher.publish(), Published::Handed);
    assert_eq!(*publisher.filling(), "b");
    assert_eq!(taker.try_take(), Taken::Batch { more: false });
    assert_eq!(*taker.taken(), "a");
    assert_eq!(publisher.publish(), Published::Handed);
    assert_eq!(*publisher.filling(), "c", "the one the taker gave back");
    assert_eq!(taker.try_take(), Taken::Batch { more: false });
    assert_eq!(*taker.taken(), "b");
    assert_eq!(taker.try_take(), Taken::Nothing);
    assert_eq!(publisher.epoch(), 2);
}

#[test]
fn a_full_mailbox_leaves_the_residue_with_the_publisher_and_says_more_once() {
    let (mut publisher, mut taker) = mailbox(vec![1], vec![], vec![]);
    assert_eq!(publisher.publish(), Published::Handed);
    publisher.filling().push(2);
    assert_eq!(publisher.publish(), Published::Residue);
    publisher.filling().push(3);
    assert_eq!(publisher.publish(), Published::Residue);
    assert_eq!(publisher.epoch(), 1);
    assert_eq!(taker.try_take(), Taken::Batch { more: true });
    assert_eq!(mem::take(taker.taken()), [1]);
    assert_eq!(taker.try_take(), Taken::Nothing);
    assert_eq!(publisher.publish(), Published::Handed);
    assert!(!taker.take());
    assert_eq!(mem::take(taker.taken()), [2, 3]);
}

#[test]
fn a_wait_that_timed_out_leaves_nothing_behind() {
    let (mut publisher, mut taker) = mailbox(0, 0, 0);
    assert_eq!(taker.take_timeout(Duration::ZERO), Taken::Nothing);
    assert_eq!(taker.take_timeout(Duration::from_millis(2)), Taken::Nothing);
    assert_eq!(publisher.shared.word.load(Relaxed), 0);
    assert_eq!(publisher.publish(), Published::Handed);
    assert_eq!(taker.take_timeout(Duration::ZERO), Taken::Batch { more: false });
    assert_eq!(publisher.publish(), Published::Handed);
    assert_eq!(taker.take_timeout(Duration::MAX), Taken::Batch { more: false });
}

#[test]
fn a_wait_with_time_left_ends_with_a_batch() {
    for limit in [Duration::MAX, Duration::from_secs(3_600)] {
        let (mut publisher, mut taker) = mailbox(0, 0, 0);
        let waiting = thread::spawn(move || taker.take_timeout(limit));
        while publisher.shared.word.load(Relaxed) != WAIT && !waiting.is_finished() {
            thread::yield_now();
        }
        assert_eq!(publisher.publish(), Published::Handed);
        assert_eq!(waiting.join().unwrap(), Taken::Batch { more: false });
    }
}

#[test]
fn a_taker_that_moved_is_woken_where_it_is() {
    let (mut publisher, mut taker) = mailbox(0, 0, 0);
    assert_eq!(taker.take_timeout(Duration::ZERO), Taken::Nothing);
    let waiting = thread::spawn(move || taker.take());
    while publisher.shared.word.load(Relaxed) != WAIT {
        thread::yield_now();
    }
    assert_eq!(publisher.publish(), Published::Handed);
    assert!(!waiting.join().unwrap());
}

#[test]
fn an_unpark_from_elsewhere_is_no_batch() {
    let (mut publisher, mut taker) = mailbox(0, 0, 0);
    let waiting = thread::spawn(move || taker.take());
    for _ in 0..100 {
        waiting.thread().unpark();
        thread::yield_now();
    }
    assert_eq!(publisher.publish(), Published::Handed);
    assert!(!waiting.join().unwrap());
}

#[test]
fn whoever_did_not_wait_was_not_woken() {
    let (mut publisher, mut taker) = mailbox(0, 0, 0);
    assert_eq!(publisher.publish(), Published::Handed);
    assert!(!publisher.has_woken());
    assert_eq!(taker.try_take(), Taken::Batch { more: false });
    assert_eq!(taker.take_timeout(Duration::ZERO), Taken::Nothing);
    assert_eq!(publisher.publish(), Published::Handed);
    assert!(!publisher.has_woken(), "it has given up");
    assert_eq!(taker.try_take(), Taken::Batch { more: false });
    taker.set_bell(|| ());
    assert_eq!(publisher.publish(), Published::Handed);
    assert!(publisher.has_woken(), "a bell always waits");
    assert_eq!(publisher.publish(), Published::Residue);
    assert!(publisher.has_woken(), "by the last that was handed over");
}

#[test]
fn a_bell_rings_after_each_batch_and_no_more() {
    let (mut publisher, mut taker) = mailbox(0, 0, 0);
    let (ring, rings) = mpsc::channel();
    taker.set_bell(move || ring.send(()).unwrap());
    let rung = || rings.try_iter().count();
    assert_eq!(rung(), 0, "nothing is there yet");
    for _ in 0..3 {
        assert_eq!(publisher.publish(), Published::Handed);
        assert_eq!(rung(), 1);
        assert_eq!(publisher.publish(), Published::Residue);
        assert_eq!(rung(), 0, "a residue is the take's to announce");
        assert_eq!(taker.try_take(), Taken::Batch { more: true });
        assert_eq!(taker.take_timeout(Duration::ZERO), Taken::Nothing);
    }
    // It waits in one way or the other, or both.
    let waiting = thread::spawn(move || {
        let more = taker.take();
        (taker, more)
    });
    thread::sleep(Duration::from_millis(5));
    assert_eq!(publisher.publish(), Published::Handed);
    let (mut taker, more) = waiting.join().unwrap();
    assert_eq!((more, rung()), (false, 1));
    assert_eq!(publisher.publish(), Published::Handed);
    assert_eq!(rung(), 1);
    let (ring, other) = mpsc::channel();
    taker.set_bell(move || ring.send(()).unwrap());
    assert_eq!((rung(), other.try_iter().count()), (0, 1), "a new bell hears of what is there");
}

#[test]
fn stress_nothing_is_lost_and_nothing_comes_twice() {
    const ITEMS: u32 = if cfg!(miri) { 300 } else { 200_000 };
    let (mut publisher, mut taker) = mailbox(vec![], vec![], vec![]);
    let publishing = thread::spawn(move || {
        for item in 0..ITEMS {
            publisher.filling().push(item);
            let _ = publisher.publish();
        }
        while !publisher.peek().is_empty() && publisher.publish() == Published::Residue {
            thread::yield_now();
        }
        publisher.epoch()
    });
    let (mut next, mut batches) = (0, 0);
    while next < ITEMS {
        if batches % 3 == 0 {
            let _ = taker.take();
        } else if taker.take_timeout(Duration::from_micros(50)) == Taken::Nothing {
            continue;
        }
        batches += 1;
        for item in taker.taken().drain(..) {
            assert_eq!(item, next);
            next += 1;
        }
    }
    assert_eq!(publishing.join().unwrap(), batches);
}
