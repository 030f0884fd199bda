//! Who drives: a consumer that waits, the loop's thread when it stays away, and the loop changing hands between them.
//!
//! Q1: is there an instant in which nobody drives, and nobody will? Then somebody sleeps for ever: a deadlock. (D2, D3)
//! Q2: is anything lost or out of order while the loop changes hands, and submissions are taken up at once? (G1, G2)
//! Q3: do both get to an end, whoever drives by then? (G7)
//!
//! | model              | threads                                                  | bound | executions | time  | floor  |
//! |--------------------|----------------------------------------------------------|-------|------------|-------|--------|
//! | `changes_hands`    | submitter of 2, loop, consumer that waits                | 2     | 10 780     | 2 s   | 7 100  |
//! | `stays_away`       | writer that is the peer, too, loop, consumer that leaves | 2     | 63 061     | 17 s  | 50 000 |
//! | `at_once_or_not`   | loop, consumer that submits 2                            | 3     | 3 481      | 0.7 s | 2 000  |
//! | `polled_from_rest` | loop, consumer that submits 1, and sleeps in a poll      | 3     | 3 236      | 0.7 s | 2 000  |
//! | `ends`             | submitter of 1 that shuts down, loop, consumer           | 2     | 20 818     | 5 s   | 13 000 |
//!
//! A model knows no time: a consumer has been away for long as soon as the loop's thread looks twice and finds it so.
//!
//! | mutant              | what catches it                                                               |
//! |---------------------|-------------------------------------------------------------------------------|
//! | `wanted_unraised`   | `changes_hands`: the loop's thread sleeps on, and the consumer with it         |
//! | `wanted_overlooked` | `changes_hands`: the loop is never given back                                  |
//! | `given_back_unseen` | `ends`: the loop is over between the consumer's look and its sleep             |
//! | `output_kept`       | `polled_from_rest`: the thread takes the loop, and sleeps with a completion in hand |
//! | `doze_unseen`       | `stays_away`: the thread sleeps, the consumer is gone                          |
//! | `doze_unasked`      | `stays_away`: likewise, of a thread that sleeps whether the consumer is there or not |

#![cfg(loom)]

mod common;
#[path = "common/real.rs"]
mod real;

use std::time::Duration;

use common::{explore, must_fail, tries_mutants};
use gaio::{Driver, Submitter, WaitError, Watcher};
use loom::thread;
use real::{Mark, Tally, finish, posted, quietly, tiny, world};

fn spawned() -> (Watcher<Mark>, Submitter<Mark>) {
    quietly(|| Watcher::spawn_for(tiny().driver(Driver::Consumer)).unwrap())
}

/// At first the loop's thread drives; the consumer wants the loop, and what is submitted meanwhile.
#[test]
fn changes_hands() {
    explore("driving changes_hands", 2, 7_100, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = spawned();
        let posting = thread::spawn({
            let tally = tally.clone();
            move || (0..2).for_each(|id| submitter.post(tally.mark(id)).unwrap())
        });
        let mut seen = 0;
        while seen < 2 {
            for event in watcher.wait().unwrap() {
                assert_eq!(posted(event).1, seen);
                seen += 1;
            }
        }
        posting.join().unwrap();
        finish(&world, &tally, watcher);
    });
}

/// The consumer has driven, and then waits for something else, which the loop has to bring about.
#[test]
fn stays_away() {
    explore("driving stays_away", 2, 50_000, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = spawned();
        let (socket, peer) = quietly(|| world.pair());
        let conn = quietly(|| submitter.delegate(socket).unwrap());
        let writing = thread::spawn({
            let (submitter, conn, marks) = (submitter.clone(), conn.clone(), [tally.mark(0), tally.mark(1)]);
            move || {
                let [first, second] = marks;
                submitter.post(first).unwrap();
                conn.write(b"x").submit_with(second).unwrap();
                assert_eq!(peer.recv_blocking(&mut [0; 4]).unwrap(), 1);
                peer
            }
        });
        assert!(watcher.wait().unwrap().next().is_some());
        let peer = writing.join().unwrap();
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

/// What the consumer submits after a batch finds the loop at rest, or with its thread, or changing hands in between.
#[test]
fn at_once_or_not() {
    explore("driving at_once_or_not", 3, 2_000, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = spawned();
        quietly(|| submitter.post(tally.mark(0)).unwrap());
        assert_eq!(watcher.wait().unwrap().map(posted).count(), 1);
        (1..3).for_each(|id| submitter.post(tally.mark(id)).unwrap());
        let mut seen = 1;
        while seen < 3 {
            for event in watcher.wait().unwrap() {
                assert_eq!(posted(event).1, seen);
                seen += 1;
            }
        }
        finish(&world, &tally, (watcher, submitter));
    });
}

/// What was taken up at rest has completed, and the consumer goes to sleep in a poll of its own.
#[test]
fn polled_from_rest() {
    explore("driving polled_from_rest", 3, 2_000, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = spawned();
        quietly(|| submitter.post(tally.mark(0)).unwrap());
        assert_eq!(watcher.wait().unwrap().map(posted).count(), 1);
        submitter.post(tally.mark(1)).unwrap();
        let pollable = watcher.pollable().unwrap();
        let mut seen = 0;
        while seen == 0 {
            pollable.until_readable();
            seen += watcher.try_wait().unwrap().map(posted).count();
        }
        finish(&world, &tally, (watcher, submitter, pollable));
    });
}

/// Whoever drives by then, both ends learn of it.
#[test]
fn ends() {
    explore("driving ends", 2, 13_000, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = spawned();
        let ending = thread::spawn({
            let mark = tally.mark(0);
            move || {
                submitter.post(mark).unwrap();
                submitter.shutdown(Duration::ZERO);
            }
        });
        let mut seen = 0;
        let end = loop {
            match watcher.wait() {
                Ok(batch) => seen += batch.count(),
                Err(end) => break end,
            }
        };
        assert_eq!((seen, end), (1, WaitError::Closed));
        ending.join().unwrap();
        drop(watcher);
        finish(&world, &tally, ());
    });
}

#[test]
fn mutants() {
    if tries_mutants() {
        must_fail("changes_hands", "wanted_unraised");
        must_fail("changes_hands", "wanted_overlooked");
        must_fail("ends", "given_back_unseen");
        must_fail("polled_from_rest", "output_kept");
        must_fail("stays_away", "doze_unseen");
        must_fail("stays_away", "doze_unasked");
    }
}
