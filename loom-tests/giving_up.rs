//! Operations that end before their time, on the whole crate: a cancel, a deadline, a completion, each against another.
//!
//! Q1: does an operation complete once, whoever comes first, with its buffer; and is a byte that it did not take left for
//! the next? (G1)
//! Q2: does a cancel find what was submitted before it, on any thread and by any way? (G2)
//! Q3: does a deadline end with its operation: does it neither wake the loop in vain, nor end somebody else? And does a
//! new one wake a loop that sleeps? (G4)
//!
//! | model                              | threads                                 | bound | executions | time  | floor  |
//! |------------------------------------|-----------------------------------------|-------|------------|-------|--------|
//! | `cancel_against_completion`        | sending peer, loop, canceller and taker | 3     | 36 424     | 17 s  | 24 000 |
//! | `deadline_against_completion`      | sending peer, loop, clock and taker     | 3     | 13 480     | 7.6 s | 8 800  |
//! | `deadline_against_foreign_cancel`  | canceller, loop, clock and taker        | 2     | 7 013      | 4.3 s | 4 600  |
//! | `deadline_of_a_sleeping_loop`      | submitter, loop, taker                  | 3     | 804        | 0.3 s | 530    |
//! | `cancelled_right_after_the_submit` | submitter of 2, loop, taker             | 3     | 6 262      | 3.0 s | 4 100  |
//! | `own_cancel_behind_foreign_read`   | 2 submitters, loop that cancels         | 3     | 21 133     | 3.0 s | 13 000 |
//!
//! The loop is the smallest there is, as in `turn.rs`. The clock stands still but where a model moves it; in
//! `deadline_of_a_sleeping_loop` it jumps to the deadline when everybody sleeps.
//!
//! | mutant             | what catches it                                                                        |
//! |--------------------|------------------------------------------------------------------------------------------|
//! | `deadline_kept`    | `deadline_against_foreign_cancel`: it ends the next operation in the same place        |
//! | `cancel_overtakes` | `own_cancel_behind_foreign_read`: it finds nothing, and the read stays                 |
//! | `submit_unraised`  | `deadline_of_a_sleeping_loop`, `cancel_against_completion`: the loop sleeps on         |

#![cfg(loom)]

mod common;
#[path = "common/real.rs"]
mod real;

use std::time::Duration;

use common::{explore, must_fail, tries_mutants};
use gaio::sim::Clock;
use gaio::{Conn, EmbeddedWatcher, Event, Failure, OpError, OpId, Outcome, Submitter, Watcher};
use loom::thread;
use real::{Mark, Tally, connected, finish, quietly, tiny, world};

const SOON: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_millis(10);

/// A read of one byte, which can be cancelled. Its buffer has room for four.
fn start(conn: &Conn<Mark>, context: Mark, within: Option<Duration>) -> OpId {
    let (read, id) = conn.read_exact(Vec::with_capacity(4), 1).named();
    if let Some(time) = within { read.within(time) } else { read }.submit_with(context).unwrap();
    id
}

/// The bytes of the read, or why there are none.
fn ended(outcome: Outcome<'_>) -> Result<Vec<u8>, OpError> {
    match outcome {
        Outcome::Read(bytes) => Ok(bytes),
        Outcome::Failed(failure) => {
            let Failure { error, transferred, buffer, .. } = *failure;
            let buffer = buffer.unwrap().into_vec().unwrap();
            assert_eq!((transferred, buffer.len(), buffer.capacity()), (0, 0, 4));
            Err(error)
        }
        other => panic!("{other:?}"),
    }
}

/// The end of read 1, which is the only thing that happens.
fn only(watcher: &mut Watcher<Mark>) -> Result<Vec<u8>, OpError> {
    let mut end = None;
    while end.is_none() {
        for event in watcher.wait().unwrap() {
            match event {
                Event::Done { context: Mark(_, 1), outcome, .. } => assert!(end.replace(ended(outcome)).is_none()),
                other => panic!("{other:?}"),
            }
        }
    }
    end.unwrap()
}

/// Nothing else has completed, and nothing is left behind.
fn assert_over(watcher: &mut Watcher<Mark>, submitter: &Submitter<Mark>, tally: &Tally) {
    submitter.post(tally.mark(9)).unwrap();
    let events: Vec<_> = watcher.wait().unwrap().collect();
    assert!(matches!(&events[..], [Event::Posted(Mark(_, 9))]), "{events:?}");
    assert_eq!(submitter.load(), 0);
}

/// The bytes are the read's, or those of whoever reads next.
fn assert_byte_is_once(
    end: Result<Vec<u8>, OpError>,
    expected: fn(&OpError) -> bool,
    conn: &Conn<Mark>,
    watcher: &mut Watcher<Mark>,
    tally: &Tally,
) {
    match end {
        Ok(bytes) => assert_eq!(bytes, b"x"),
        Err(error) => {
            assert!(expected(&error), "{error:?}");
            start(conn, tally.mark(1), None);
            assert_eq!(only(watcher).unwrap(), b"x");
        }
    }
}

/// A byte arrives while the read of it is cancelled.
#[test]
fn cancel_against_completion() {
    explore("giving_up cancel_against_completion", 3, 24_000, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter, conn, peer) = connected(&world, &tally);
        let id = quietly(|| start(&conn, tally.mark(1), None));
        let sending = thread::spawn(move || {
            peer.send(b"x").unwrap();
            peer
        });
        conn.cancel(id).unwrap();
        let end = only(&mut watcher);
        let peer = sending.join().unwrap();
        loom::stop_exploring();
        assert_byte_is_once(end, |error| matches!(error, OpError::Cancelled), &conn, &mut watcher, &tally);
        assert_over(&mut watcher, &submitter, &tally);
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

/// A byte arrives as the time of the read of it is over.
#[test]
fn deadline_against_completion() {
    explore("giving_up deadline_against_completion", 3, 8_800, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter, conn, peer) = connected(&world, &tally);
        let _ = quietly(|| start(&conn, tally.mark(1), Some(SOON)));
        let sending = thread::spawn(move || {
            peer.send(b"x").unwrap();
            peer
        });
        world.advance(LATER);
        let end = only(&mut watcher);
        let peer = sending.join().unwrap();
        loom::stop_exploring();
        assert_byte_is_once(end, |error| matches!(error, OpError::TimedOut), &conn, &mut watcher, &tally);
        assert_over(&mut watcher, &submitter, &tally);
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

/// The time of a read is over as another thread cancels it. What comes to its place has no deadline.
#[test]
fn deadline_against_foreign_cancel() {
    explore("giving_up deadline_against_foreign_cancel", 2, 4_600, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter, conn, peer) = connected(&world, &tally);
        let id = quietly(|| start(&conn, tally.mark(1), Some(SOON)));
        let cancelling = thread::spawn({
            let conn = conn.clone();
            move || conn.cancel(id).unwrap()
        });
        world.advance(LATER);
        let end = only(&mut watcher);
        assert!(matches!(end, Err(OpError::Cancelled | OpError::TimedOut)), "{end:?}");
        cancelling.join().unwrap();
        loom::stop_exploring();
        start(&conn, tally.mark(1), None);
        assert_over_but_for_a_read(&mut watcher, &submitter, &tally);
        world.advance(LATER);
        assert_over_but_for_a_read(&mut watcher, &submitter, &tally);
        peer.send(b"x").unwrap();
        assert_eq!(only(&mut watcher).unwrap(), b"x");
        assert_over(&mut watcher, &submitter, &tally);
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

/// The read that is pending stays so.
fn assert_over_but_for_a_read(watcher: &mut Watcher<Mark>, submitter: &Submitter<Mark>, tally: &Tally) {
    submitter.post(tally.mark(9)).unwrap();
    let events: Vec<_> = watcher.wait().unwrap().collect();
    assert!(matches!(&events[..], [Event::Posted(Mark(_, 9))]), "{events:?}");
    assert_eq!(submitter.load(), 1);
}

/// The first deadline there is comes from another thread, to a loop that sleeps or is about to.
#[test]
fn deadline_of_a_sleeping_loop() {
    explore("giving_up deadline_of_a_sleeping_loop", 3, 530, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter, conn, peer) = connected(&world, &tally);
        world.configure(|config| config.clock = Clock::Patient);
        let submitting = thread::spawn({
            let (conn, mark) = (conn.clone(), tally.mark(1));
            move || start(&conn, mark, Some(SOON))
        });
        assert!(matches!(only(&mut watcher), Err(OpError::TimedOut)));
        submitting.join().unwrap();
        loom::stop_exploring();
        assert!(world.now() >= SOON);
        assert_over(&mut watcher, &submitter, &tally);
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

/// A thread cancels what it has just submitted: it is there to be found, wherever the loop is.
#[test]
fn cancelled_right_after_the_submit() {
    explore("giving_up cancelled_right_after_the_submit", 3, 4_100, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter, conn, peer) = connected(&world, &tally);
        let other = thread::spawn({
            let (conn, mark) = (conn.clone(), tally.mark(1));
            move || {
                let id = start(&conn, mark, None);
                conn.cancel(id).unwrap();
            }
        });
        assert!(matches!(only(&mut watcher), Err(OpError::Cancelled)));
        other.join().unwrap();
        loom::stop_exploring();
        assert_over(&mut watcher, &submitter, &tally);
        assert_eq!(submitter.counters().cancels_missed, 0);
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

/// The loop's own thread cancels what another has submitted before, with a slot in front of it that is not published yet.
#[test]
fn own_cancel_behind_foreign_read() {
    explore("giving_up own_cancel_behind_foreign_read", 3, 13_000, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = quietly(|| EmbeddedWatcher::new_for(tiny()).unwrap());
        let (conn, peer) = quietly(|| {
            let (socket, peer) = world.pair();
            let conn = submitter.delegate(socket).unwrap();
            assert_eq!(watcher.turn(Some(Duration::ZERO)).unwrap().count(), 0);
            (conn, peer)
        });
        let posting = thread::spawn({
            let (submitter, mark) = (submitter.clone(), tally.mark(1));
            move || submitter.post(mark).unwrap()
        });
        let reading = thread::spawn({
            let (conn, mark) = (conn.clone(), tally.mark(2));
            move || start(&conn, mark, None)
        });
        let id = reading.join().unwrap();
        conn.cancel(id).unwrap();
        let mut seen = 0;
        while seen < 3 {
            for event in watcher.turn(None).unwrap() {
                seen |= match event {
                    Event::Posted(Mark(_, id)) => id,
                    Event::Done { context: Mark(_, id), outcome, .. } => {
                        assert!(matches!(ended(outcome), Err(OpError::Cancelled)));
                        id
                    }
                    other => panic!("{other:?}"),
                };
            }
        }
        posting.join().unwrap();
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

#[test]
fn mutants_must_fail() {
    if tries_mutants() {
        must_fail("deadline_against_foreign_cancel", "deadline_kept");
        must_fail("own_cancel_behind_foreign_read", "cancel_overtakes");
        must_fail("deadline_of_a_sleeping_loop", "submit_unraised");
        must_fail("cancel_against_completion", "submit_unraised");
    }
}
