//! How long a loop inside of another may sleep, and which of its turns hears of a raise, or of a timer.

use super::*;
use crate::event_loop::next_turn::NextTurn;
use std::time::{Duration, Instant};

#[test]
fn it_sleeps_until_something_is_due_that_no_descriptor_tells() {
    let mut bed = bed();
    assert_eq!(bed.turn(), []);
    assert_eq!(bed.event_loop.next_turn(), NextTurn::WhenReadable);
    bed.core().timers.arm(8 * TICK, Timer::Grace);
    let (ahead, before) = (Duration::from_nanos(8 * TICK), Instant::now());
    let NextTurn::At(at) = bed.event_loop.next_turn() else { panic!("there is a timer") };
    assert!((before + ahead..=Instant::now() + ahead).contains(&at));
    bed.sleep(None);
    assert_eq!(bed.event_loop.next_turn(), NextTurn::Now, "it is due");
    assert_eq!(bed.pass(), [Seen::Timer(Timer::Grace)]);
    assert_eq!(bed.event_loop.next_turn(), NextTurn::WhenReadable);
    bed.face().busy = true;
    assert_eq!(bed.event_loop.next_turn(), NextTurn::Now);
}

/// Raised while the gate was open: nobody has written the waker for that.
#[test]
fn it_does_not_sleep_on_a_raise_within_the_turn() {
    let mut bed = bed();
    let raiser = bed.raiser.clone();
    bed.face().collect = Some(Box::new(move |_| assert!(!raiser.raise())));
    assert_eq!(bed.turn(), []);
    assert_eq!(bed.event_loop.next_turn(), NextTurn::Now);
    assert_eq!(bed.turn(), []);
    assert_eq!(bed.event_loop.next_turn(), NextTurn::WhenReadable);
}

/// Whether it came within the turn before or after that, the turn that is taken for it hears of it, and no other.
#[test]
fn a_raise_is_told_to_one_turn() {
    let mut bed = bed();
    bed.pass();
    let raiser = bed.raiser.clone();
    bed.face().collect = Some(Box::new(move |_| assert!(!raiser.raise())));
    bed.pass();
    bed.pass();
    bed.pass();
    assert!(bed.raiser.raise());
    bed.pass();
    bed.pass();
    assert_eq!(bed.face().raised, [false, false, true, false, true, false]);
}

/// A turn that was woken before anything was due does not look at the clock; the next one has, and does not sleep.
#[test]
fn what_comes_due_while_a_turn_is_busy_is_for_the_next() {
    let mut bed = bed();
    let [(_, peer)] = bed.sessions();
    bed.core().timers.arm(8 * TICK, Timer::Grace);
    peer.send(b"x").unwrap();
    assert_eq!(bed.sleep(None), 0, "there is an event");
    bed.world.advance(Duration::from_nanos(9 * TICK));
    assert_eq!(bed.pass(), steps([0]));
    assert_eq!(bed.event_loop.next_turn(), NextTurn::Now);
    // Whatever else has happened by then.
    peer.send(b"x").unwrap();
    assert_eq!(bed.sleep(None), 9 * TICK);
    assert_eq!(bed.pass(), [Seen::Step(0), Seen::Timer(Timer::Grace)]);
}
