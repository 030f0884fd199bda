//! Q1: does each block come home exactly once, whoever drops last, or is freed if the home is closed? (H1, H3)
//! Q2: does everything done through any handle happen before the owner gets the block? (H2)
//! Q3: does the dropper touch the block after it gave it away, or the home after it is gone? (H4)
//!
//! | model                | threads                                  | bound | executions | time  | floor |
//! |----------------------|------------------------------------------|-------|------------|-------|-------|
//! | `last_drops`         | 2 droppers of one block, 1 drainer       | 20    | 1 226      | 0.2 s | 800   |
//! | `two_blocks`         | 2 droppers of a block each, 1 drainer    | 4     | 7 296      | 0.8 s | 5 000 |
//! | `drop_against_close` | 1 dropper, 1 that closes and leaves      | 20    | 32         | 0.1 s | 20    |
//! | `operations`         | 2 that begin under a cap of 1, 1 drainer | 4     | 2 395      | 0.4 s | 1 500 |
//!
//! Each user reads a cell in the value; the owner writes it: without H2 loom sees the race. Left out: 2³¹ handles.

#![cfg(loom)]

mod common;

use std::sync::atomic::{AtomicUsize as PlainAtomicUsize, Ordering::Relaxed};

use common::{explore, must_fail, tries_mutants};
use gaio::handoff::{Counted, Handle, Returned, Returns};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// The counters are `std`'s: they order nothing that loom could see.
#[derive(Default)]
struct Home {
    returns: Returns<Conn>,
    announced: PlainAtomicUsize,
    freed: PlainAtomicUsize,
}

struct Conn {
    home: Arc<Home>,
    used: UnsafeCell<u32>,
}

// SAFETY: not needed: that nobody writes `used` while another reads it is what the models find out.
unsafe impl Sync for Conn {}

impl AsRef<Returns<Conn>> for Home {
    fn as_ref(&self) -> &Returns<Conn> {
        &self.returns
    }
}

impl Counted for Conn {
    type Home = Home;
    fn home(&self) -> &Arc<Home> {
        &self.home
    }
    fn announce(home: &Home) {
        home.announced.fetch_add(1, Relaxed);
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.used.with_mut(|_| ());
        self.home.freed.fetch_add(1, Relaxed);
    }
}

fn conn(home: &Arc<Home>) -> Handle<Conn> {
    Handle::new(Conn { home: Arc::clone(home), used: UnsafeCell::new(0) })
}

/// What a user does: reads through its handle, drops it.
fn use_up(conn: Handle<Conn>) {
    conn.used.with(|_| ());
    drop(conn);
}

/// What the owner does: writes, and keeps the block, so that its memory stays.
fn own(home: &Home, kept: &mut Vec<Returned<Conn>>) {
    for conn in home.returns.drain() {
        conn.used.with_mut(|_| ());
        kept.push(conn);
    }
}

#[test]
fn last_drops() {
    explore("handles last_drops", 20, 800, || {
        let home = Arc::new(Home::default());
        let first = conn(&home);
        let second = first.clone();
        let users = [first, second].map(|conn| thread::spawn(move || use_up(conn)));
        let mut kept = Vec::new();
        own(&home, &mut kept);
        own(&home, &mut kept);
        users.into_iter().for_each(|user| user.join().unwrap());
        own(&home, &mut kept);
        assert_eq!((kept.len(), home.announced.load(Relaxed)), (1, 1));
        drop(kept);
        assert_eq!(home.freed.load(Relaxed), 1);
    });
}

#[test]
fn two_blocks() {
    explore("handles two_blocks", 4, 5_000, || {
        let home = Arc::new(Home::default());
        let users = [conn(&home), conn(&home)].map(|conn| thread::spawn(move || use_up(conn)));
        let mut kept = Vec::new();
        own(&home, &mut kept);
        own(&home, &mut kept);
        users.into_iter().for_each(|user| user.join().unwrap());
        own(&home, &mut kept);
        assert_eq!((kept.len(), home.announced.load(Relaxed)), (2, 2));
    });
}

#[test]
fn drop_against_close() {
    explore("handles drop_against_close", 20, 20, || {
        let home = Arc::new(Home::default());
        let freed = Arc::clone(&home);
        let user = thread::spawn({
            let conn = conn(&home);
            move || use_up(conn)
        });
        for conn in home.returns.close() {
            conn.used.with_mut(|_| ());
        }
        drop(home);
        user.join().unwrap();
        assert_eq!(freed.freed.load(Relaxed), 1);
        assert_eq!(freed.returns.drain().count(), 0);
    });
}

#[test]
fn operations() {
    explore("handles operations", 4, 1_500, || {
        let home = Arc::new(Home::default());
        let first = conn(&home);
        let second = first.clone();
        let users = [first, second].map(|conn| {
            thread::spawn(move || {
                let operation = conn.begin(1);
                if operation.is_some() {
                    assert!(conn.operations() >= 1);
                }
                drop(conn);
                if let Some(operation) = operation {
                    operation.used.with(|_| ());
                    operation.settle();
                    drop(operation);
                }
            })
        });
        let mut kept = Vec::new();
        own(&home, &mut kept);
        users.into_iter().for_each(|user| user.join().unwrap());
        own(&home, &mut kept);
        assert_eq!((kept.len(), home.announced.load(Relaxed)), (1, 1));
    });
}

#[test]
fn mutants_must_fail() {
    if tries_mutants() {
        must_fail("last_drops", "drop_by_load");
        must_fail("last_drops", "home_after_push");
        must_fail("two_blocks", "drain_by_store");
    }
}
