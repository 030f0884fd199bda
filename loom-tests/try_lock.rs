//! Q: can two threads hold one lock at a time, or the second miss what the first did? (K1, K2)
//!
//! | model           | threads                                 | bound | executions | time  | floor  |
//! |-----------------|-----------------------------------------|-------|------------|-------|--------|
//! | `one_at_a_time` | 3 that try, once or twice, and let go   | 20    | 20 880     | 1.6 s | 13 000 |
//!
//! Left out: nothing.

#![cfg(loom)]

mod common;

use common::{explore, must_fail, tries_mutants};
use gaio::handoff::TryLock;
use loom::sync::Arc;
use loom::thread;

#[test]
fn one_at_a_time() {
    explore("try_lock one_at_a_time", 20, 13_000, || {
        let lock = Arc::new(TryLock::new(0));
        let trying = |lock: &TryLock<u32>| {
            lock.try_lock().map_or(0, |mut held| {
                assert!(lock.try_lock().is_none());
                *held += 1;
                1
            })
        };
        let others = [1, 2].map(|times| {
            let lock = Arc::clone(&lock);
            thread::spawn(move || (0..times).map(|_| trying(&lock)).sum::<u32>())
        });
        let mut held = trying(&lock);
        for other in others {
            held += other.join().unwrap();
        }
        assert!(held > 0, "the first try of all finds it free");
        assert_eq!(*lock.try_lock().unwrap(), held);
    });
}

#[test]
fn mutants() {
    if tries_mutants() {
        must_fail("one_at_a_time", "taken_by_load");
        must_fail("one_at_a_time", "let_go_early");
    }
}
