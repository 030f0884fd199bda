//! Q1: can a raiser publish, and the loop sleep on without seeing it? (W1)
//! Q2: can two raisers be told to write the waker in one park, or a raise be paid for twice? (W2)
//!
//! | model                | threads                          | bound | executions | time  | floor |
//! |----------------------|----------------------------------|-------|------------|-------|-------|
//! | `no_lost_wake_up`    | loop, 2 raisers                  | 3     | 3 281      | 0.7 s | 2 000 |
//! | `sleeps_and_wakes`   | loop that blocks, 2 raisers      | 3     | 5 867      | 0.9 s | 4 000 |
//! | `refused_close`      | loop that closes once, 2 raisers | 4     | 3 642      | 0.6 s | 2 500 |
//! | `one_write_per_park` | parked loop, 3 raisers           | 20    | 362        | 0.1 s | 250   |
//!
//! What is published is a relaxed flag per raiser: only the gate orders it. In the first model the loop does not
//! block but says whether it would, so that a fault is a failed assertion; in the second it blocks on the waker, a
//! `Mutex<u64>` with a `Condvar`, and a fault is a deadlock.
//!
//! Left out: what the kernel does between a write to the waker and the loop's wait.

#![cfg(loom)]

mod common;

use common::{explore, must_fail, tries_mutants};
use gaio::handoff::gate;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// What raisers publish. Relaxed: without the gate nobody need ever see it.
struct Flags([AtomicBool; 2]);

impl Flags {
    fn new() -> Arc<Self> {
        Arc::new(Self([AtomicBool::new(false), AtomicBool::new(false)]))
    }

    fn seen(&self) -> [bool; 2] {
        [self.0[0].load(Relaxed), self.0[1].load(Relaxed)]
    }
}

/// The loop takes turns until it may block. Then each flag was seen, or its raiser has written the waker, or has not
/// raised yet and will be told to.
#[test]
fn no_lost_wake_up() {
    explore("gate no_lost_wake_up", 3, 2_000, || {
        let (raiser, mut keeper) = gate();
        let flags = Flags::new();
        let writes = Arc::new(AtomicUsize::new(0));
        let raisers: Vec<_> = (0..2)
            .map(|id| {
                let (raiser, flags, writes) = (raiser.clone(), Arc::clone(&flags), Arc::clone(&writes));
                thread::spawn(move || {
                    flags.0[id].store(true, Relaxed);
                    if raiser.raise() {
                        writes.fetch_add(1, Relaxed);
                    }
                })
            })
            .collect();
        let mut seen = [false; 2];
        for turn in 0.. {
            assert!(turn < 3, "two raises buy at most two more turns");
            // As the loop does after a wait: reset the waker, then open. A write that comes in between stays.
            writes.swap(0, Relaxed);
            keeper.open();
            seen = flags.seen();
            if keeper.close() {
                break;
            }
        }
        raisers.into_iter().for_each(|raiser| raiser.join().unwrap());
        let written = writes.load(Relaxed);
        assert!(seen == [true; 2] || written > 0, "asleep, {seen:?} seen, and nobody wrote the waker");
    });
}

/// A raise counts once: if the turn has seen the flag by an earlier notification, the loop may sleep. It looks only in turns
/// for which there was a raise.
#[test]
fn sleeps_and_wakes() {
    explore("gate sleeps_and_wakes", 3, 4_000, || {
        let (raiser, mut keeper) = gate();
        let flags = Flags::new();
        let waker = Arc::new((Mutex::new(0u64), Condvar::new()));
        let raisers: Vec<_> = (0..2)
            .map(|id| {
                let (raiser, flags, waker) = (raiser.clone(), Arc::clone(&flags), Arc::clone(&waker));
                thread::spawn(move || {
                    flags.0[id].store(true, Relaxed);
                    if raiser.raise() {
                        *waker.0.lock().unwrap() += 1;
                        waker.1.notify_one();
                    }
                })
            })
            .collect();
        let mut owed = false;
        loop {
            let raised = keeper.open();
            if (raised || owed) && flags.seen() == [true; 2] {
                break;
            }
            owed = !keeper.close();
            if !owed {
                let mut written = waker.0.lock().unwrap();
                while *written == 0 {
                    written = waker.1.wait(written).unwrap();
                }
                *written = 0;
            }
        }
        raisers.into_iter().for_each(|raiser| raiser.join().unwrap());
    });
}

#[test]
fn one_write_per_park() {
    explore("gate one_write_per_park", 20, 250, || {
        let (raiser, mut keeper) = gate();
        keeper.open();
        assert!(keeper.close());
        let raisers: Vec<_> = (0..2)
            .map(|_| {
                let raiser = raiser.clone();
                thread::spawn(move || usize::from(raiser.raise()))
            })
            .collect();
        let mine = usize::from(raiser.raise());
        let writes = mine + raisers.into_iter().map(|raiser| raiser.join().unwrap()).sum::<usize>();
        assert_eq!(writes, 1);
        assert!(!keeper.close(), "a raise before the close buys a turn");
    });
}

/// A close that says `false` brings what the raiser published with it, before any open.
#[test]
fn refused_close() {
    explore("gate refused_close", 4, 2_500, || {
        let (raiser, mut keeper) = gate();
        let flags = Flags::new();
        keeper.open();
        let raisers: Vec<_> = (0..2)
            .map(|id| {
                let (raiser, flags) = (raiser.clone(), Arc::clone(&flags));
                thread::spawn(move || {
                    flags.0[id].store(true, Relaxed);
                    raiser.raise()
                })
            })
            .collect();
        let refused = !keeper.close();
        let seen = flags.seen();
        let written = raisers.into_iter().map(|raiser| raiser.join().unwrap()).filter(|written| *written).count();
        assert!(!refused || seen.contains(&true), "a turn is owed, and there is nothing to see");
        assert!(refused || written == 1, "parked, and not exactly one write");
    });
}

#[test]
fn mutants_must_fail() {
    if tries_mutants() {
        must_fail("no_lost_wake_up", "open_by_store");
        must_fail("no_lost_wake_up", "raise_by_cas");
        must_fail("no_lost_wake_up", "raise_load_first");
        must_fail("sleeps_and_wakes", "raise_by_cas");
    }
}
