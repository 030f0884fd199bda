//! Q: can two threads be inside one cell, or the second miss what the first did? (L1, L2)
//!
//! | model             | threads                                   | bound | executions | time  | floor |
//! |-------------------|-------------------------------------------|-------|------------|-------|-------|
//! | `one_at_a_time`   | 2 that bind, use and unbind               | 20    | 271        | 0.1 s | 150   |
//! | `kept_while_busy` | owner inside `with`, 1 that tries to bind | 20    | 25         | 0.1 s | 15    |
//!
//! Left out: nothing of the cell; that ids differ is a fetch-add's doing.

#![cfg(loom)]

mod common;

use common::{explore, must_fail, tries_mutants};
use gaio::handoff::{ThreadBound, on_loop_thread};
use loom::sync::Arc;
use loom::thread;

#[test]
fn one_at_a_time() {
    explore("local one_at_a_time", 20, 150, || {
        let cell = Arc::new(ThreadBound::new(0));
        let using = |cell: &ThreadBound<u32>| {
            let bound = cell.bind();
            assert_eq!(bound, cell.is_here());
            assert_eq!(bound, on_loop_thread());
            let used = cell.with(|value| *value += 1);
            assert_eq!(used.is_some(), bound);
            assert_eq!(cell.unbind(), bound);
            assert_eq!(cell.with(|_| ()), None);
            u32::from(bound)
        };
        let other = thread::spawn({
            let cell = Arc::clone(&cell);
            move || using(&cell)
        });
        let mine = using(&cell);
        let used = mine + other.join().unwrap();
        assert!(cell.bind());
        assert_eq!(cell.with(|value| *value), Some(used));
        cell.unbind();
    });
}

#[test]
fn kept_while_busy() {
    explore("local kept_while_busy", 20, 15, || {
        let cell = Arc::new(ThreadBound::new(0));
        assert!(cell.bind());
        let other = thread::spawn({
            let cell = Arc::clone(&cell);
            move || {
                if cell.bind() {
                    cell.with(|value| *value += 1);
                    cell.unbind();
                }
            }
        });
        cell.with(|value| {
            assert!(!cell.unbind());
            *value += 1;
        });
        cell.unbind();
        other.join().unwrap();
    });
}

#[test]
fn mutants_must_fail() {
    if tries_mutants() {
        must_fail("one_at_a_time", "bind_by_store");
        must_fail("kept_while_busy", "unbind_while_busy");
    }
}
