//! Watchers in a foreign poll: who sleeps in it obeys the descriptor, and what `next_turn` says, and nothing else.
//!
//! Q1: is there a batch, or the end of the loop, and the descriptor of a spawned watcher silent? (M4)
//! Q2: has an embedded loop something to do, and neither its descriptor nor `next_turn` says so? (G4)
//!
//! Both would be a deadlock: the clock stands still, and the poll has no other end.
//!
//! | model            | threads                                                 | bound | executions | time  | floor  |
//! |------------------|---------------------------------------------------------|-------|------------|-------|--------|
//! | `pollable`       | submitter of 2, loop, poller that asks for it meanwhile | 2     | 2 530      | 0.8 s | 1 600  |
//! | `pollable_end`   | submitter of 1 that shuts down, loop, poller            | 2     | 4 309      | 1.8 s | 2 800  |
//! | `foreign_loop`   | submitter of 3 into 2 slots, poller that is the loop    | 3     | 12 065     | 3.8 s | 7 900  |
//! | `foreign_end`    | submitter of 1 that shuts down, poller that is the loop | 3     | 3 650      | 1.0 s | 2 400  |
//!
//! Left out: the kernel's part. That an epoll in a poll tells of each new edge is held by tests in `src/sys/epoll.rs`.

#![cfg(loom)]

mod common;
#[path = "common/real.rs"]
mod real;

use std::time::Duration;

use common::{explore, must_fail, tries_mutants};
use gaio::{EmbeddedWatcher, NextTurn, WaitError};
use loom::thread;
use real::{Tally, finish, posted, quietly, spawned, tiny, world};

#[test]
fn pollable() {
    explore("polled pollable", 2, 1_600, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = spawned();
        let posting = thread::spawn({
            let (submitter, tally) = (submitter.clone(), tally.clone());
            move || (0..2).for_each(|id| submitter.post(tally.mark(id)).unwrap())
        });
        let pollable = watcher.pollable().unwrap();
        let mut seen = 0;
        while seen < 2 {
            pollable.until_readable();
            for event in watcher.try_wait().unwrap() {
                assert_eq!(posted(event).1, seen);
                seen += 1;
            }
        }
        posting.join().unwrap();
        finish(&world, &tally, (watcher, submitter, pollable));
    });
}

#[test]
fn pollable_end() {
    explore("polled pollable_end", 2, 2_800, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = spawned();
        let ending = thread::spawn({
            let mark = tally.mark(0);
            move || {
                submitter.post(mark).unwrap();
                submitter.shutdown(Duration::ZERO);
            }
        });
        let pollable = watcher.pollable().unwrap();
        let mut seen = 0;
        let end = loop {
            pollable.until_readable();
            match watcher.try_wait() {
                Ok(batch) => seen += batch.count(),
                Err(end) => break end,
            }
        };
        assert_eq!((seen, end), (1, WaitError::Closed));
        ending.join().unwrap();
        finish(&world, &tally, (watcher, pollable));
    });
}

/// The foreign loop: sleeps when it may.
fn poll<C: Send>(watcher: &mut EmbeddedWatcher<C>) {
    match watcher.next_turn() {
        NextTurn::Now => {}
        NextTurn::WhenReadable => watcher.until_readable(),
        NextTurn::At(_) => panic!("nothing here has a deadline"),
    }
}

#[test]
fn foreign_loop() {
    explore("polled foreign_loop", 3, 7_900, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = quietly(|| EmbeddedWatcher::new_for(tiny()).unwrap());
        let posting = thread::spawn({
            let (submitter, tally) = (submitter.clone(), tally.clone());
            move || (0..3).for_each(|id| submitter.post(tally.mark(id)).unwrap())
        });
        let mut seen = 0;
        while seen < 3 {
            poll(&mut watcher);
            for event in watcher.turn(Some(Duration::ZERO)).unwrap() {
                assert_eq!(posted(event).1, seen);
                seen += 1;
            }
        }
        posting.join().unwrap();
        finish(&world, &tally, (watcher, submitter));
    });
}

#[test]
fn foreign_end() {
    explore("polled foreign_end", 3, 2_400, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = quietly(|| EmbeddedWatcher::new_for(tiny()).unwrap());
        let ending = thread::spawn({
            let mark = tally.mark(0);
            move || {
                submitter.post(mark).unwrap();
                submitter.shutdown(Duration::ZERO);
            }
        });
        let mut seen = 0;
        let end = loop {
            poll(&mut watcher);
            match watcher.turn(Some(Duration::ZERO)) {
                Ok(batch) => seen += batch.count(),
                Err(end) => break end,
            }
        };
        assert_eq!((seen, end), (1, WaitError::Closed));
        ending.join().unwrap();
        finish(&world, &tally, watcher);
    });
}

#[test]
fn mutants_must_fail() {
    if tries_mutants() {
        must_fail("pollable", "silenced_late");
        must_fail("pollable", "bell_unannounced");
        must_fail("pollable", "bell_forgotten");
        must_fail("pollable_end", "end_unrung");
        must_fail("foreign_loop", "owed_unsaid");
        must_fail("foreign_loop", "submit_unraised");
        must_fail("foreign_end", "shutdown_unraised");
    }
}
