//! Q1: is a batch lost, torn, or taken twice; does a buffer vanish from the round of three? (M1, M2)
//! Q2: can a residue stay behind with nobody told of it? (M3)
//! Q3: can a taker park, or time out, and a batch be there; can its bell be silent, and a batch be there? (M4)
//!
//! | model              | threads                                         | bound | executions | time  | floor  |
//! |--------------------|-------------------------------------------------|-------|------------|-------|--------|
//! | `nothing_lost`     | publisher of 3, taker that tries                | 20    | 1 090      | 0.2 s | 710    |
//! | `wakes_and_raises` | publisher of 2 that sleeps, taker that waits    | 5     | 7 184      | 1.1 s | 5 000  |
//! | `given_up_waits`   | publisher of 2, taker that gives up, then moves | 3     | 24 818     | 4.1 s | 15 000 |
//! | `bell`             | publisher of 2 that sleeps, taker with a bell   | 5     | 1 531      | 0.3 s | 1 000  |
//!
//! Left out: the clock. A wait with a limit gives up as soon as it was announced, which is the worst it can do. loom's
//! `unpark` orders more than `std`'s promises (it joins at once, not at the park); the models without it don't care.

#![cfg(loom)]

mod common;

use common::{explore, must_fail, tries_mutants};
use gaio::handoff::{Published, Publisher, Taken, Taker, mailbox};
use loom::alloc::Track;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// A buffer with a mark, and items whose loss loom reports.
struct Batch {
    mark: usize,
    items: Vec<Track<usize>>,
}

fn marked() -> (Publisher<Batch>, Taker<Batch>) {
    let [filling, cell, taken] = [0, 1, 2].map(|mark| Batch { mark, items: Vec::new() });
    mailbox(filling, cell, taken)
}

/// The loop's gate and waker, as one switch.
#[derive(Clone)]
struct Switch(Arc<(Mutex<bool>, Condvar)>);

impl Switch {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn raise(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_one();
    }

    fn sleep(&self) {
        let mut raised = self.0.0.lock().unwrap();
        while !*raised {
            raised = self.0.1.wait(raised).unwrap();
        }
        *raised = false;
    }
}

fn empty(taker: &mut Taker<Batch>, into: &mut Vec<usize>) {
    into.extend(taker.taken().items.drain(..).map(Track::into_inner));
}

/// The taker tries twice while three items are published one by one; then both are looked at from outside.
#[test]
fn nothing_lost() {
    explore("mailbox nothing_lost", 20, 710, || {
        let (mut publisher, mut taker) = marked();
        let publishing = thread::spawn(move || {
            for item in 0..3 {
                publisher.filling().items.push(Track::new(item));
                let published = publisher.publish();
                assert_eq!(published == Published::Handed, publisher.peek().items.is_empty());
            }
            publisher
        });
        let mut items = Vec::new();
        let mut told = false;
        for _ in 0..2 {
            if let Taken::Batch { more } = taker.try_take() {
                empty(&mut taker, &mut items);
                told = more;
            }
        }
        let mut publisher = publishing.join().unwrap();
        if let Taken::Batch { more } = taker.try_take() {
            empty(&mut taker, &mut items);
            told = more;
        }
        if !publisher.peek().items.is_empty() {
            assert!(told, "a residue, and nobody knows");
            assert_eq!(publisher.publish(), Published::Handed);
            assert_eq!(taker.try_take(), Taken::Batch { more: false });
            empty(&mut taker, &mut items);
        }
        assert_eq!(items, [0, 1, 2]);
        assert_eq!(taker.try_take(), Taken::Nothing);
        // All three buffers are still there, and empty: the third is in the cell, and comes out with one more round.
        let mut marks = vec![publisher.peek().mark, taker.taken().mark];
        assert_eq!(publisher.publish(), Published::Handed);
        marks.push(publisher.peek().mark);
        assert!(publisher.peek().items.is_empty());
        marks.sort_unstable();
        assert_eq!(marks, [0, 1, 2]);
    });
}

/// Both ends sleep when they have nothing to do: what one forgets to say is a deadlock.
#[test]
fn wakes_and_raises() {
    explore("mailbox wakes_and_raises", 5, 5_000, || {
        let (mut publisher, mut taker) = marked();
        let switch = Switch::new();
        let taking = thread::spawn({
            let switch = switch.clone();
            move || {
                let mut items = Vec::new();
                while items.len() < 2 {
                    if taker.take() {
                        switch.raise();
                    }
                    assert!(!taker.taken().items.is_empty(), "a batch that was empty or taken before");
                    empty(&mut taker, &mut items);
                }
                items
            }
        });
        for item in 0..2 {
            publisher.filling().items.push(Track::new(item));
            let _ = publisher.publish();
        }
        while !publisher.peek().items.is_empty() {
            switch.sleep();
            let _ = publisher.publish();
        }
        drop(publisher);
        assert_eq!(taking.join().unwrap(), [0, 1]);
    });
}

/// The taker sleeps in a poll of its own, and nowhere else; it is given its bell while the publisher is at work.
#[test]
fn bell() {
    explore("mailbox bell", 5, 1_000, || {
        let (mut publisher, mut taker) = marked();
        let switch = Switch::new();
        let taking = thread::spawn({
            let switch = switch.clone();
            move || {
                let rung = Switch::new();
                taker.set_bell({
                    let rung = rung.clone();
                    move || rung.raise()
                });
                let mut items = Vec::new();
                while items.len() < 2 {
                    // Silenced as it wakes, hence before it takes.
                    rung.sleep();
                    if let Taken::Batch { more } = taker.try_take() {
                        empty(&mut taker, &mut items);
                        more.then(|| switch.raise());
                    }
                }
                items
            }
        });
        for item in 0..2 {
            publisher.filling().items.push(Track::new(item));
            let _ = publisher.publish();
        }
        while !publisher.peek().items.is_empty() {
            switch.sleep();
            let _ = publisher.publish();
        }
        assert_eq!(taking.join().unwrap(), [0, 1]);
    });
}

/// The first thread announces a wait and gives it up; the taker moves to another thread, which waits in earnest.
#[test]
fn given_up_waits() {
    explore("mailbox given_up_waits", 3, 15_000, || {
        let (mut publisher, mut taker) = marked();
        let switch = Switch::new();
        let publishing = thread::spawn({
            let switch = switch.clone();
            move || {
                for item in 0..2 {
                    publisher.filling().items.push(Track::new(item));
                    let _ = publisher.publish();
                }
                while !publisher.peek().items.is_empty() {
                    switch.sleep();
                    let _ = publisher.publish();
                }
            }
        });
        let taking = {
            let switch = switch.clone();
            thread::spawn(move || {
                let mut items = Vec::new();
                if let Taken::Batch { more } = taker.take_timeout(std::time::Duration::ZERO) {
                    empty(&mut taker, &mut items);
                    more.then(|| switch.raise());
                }
                (taker, items)
            })
        };
        let (mut taker, mut items) = taking.join().unwrap();
        let taking = thread::spawn(move || {
            while items.len() < 2 {
                if taker.take() {
                    switch.raise();
                }
                empty(&mut taker, &mut items);
            }
            items
        });
        assert_eq!(taking.join().unwrap(), [0, 1]);
        publishing.join().unwrap();
    });
}

#[test]
fn mutants_must_fail() {
    if tries_mutants() {
        must_fail("nothing_lost", "or_after_failed_cas");
        must_fail("nothing_lost", "more_forgotten");
        must_fail("wakes_and_raises", "wake_before_publish");
        must_fail("wakes_and_raises", "wait_by_store");
        must_fail("wakes_and_raises", "more_forgotten");
        must_fail("given_up_waits", "wait_by_store");
        must_fail("bell", "bell_unannounced");
        must_fail("bell", "bell_forgotten");
        must_fail("bell", "wake_before_publish");
    }
}
