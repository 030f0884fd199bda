//! The turn: submit, gate, turn, publish, take; first the bare pieces, then the whole crate on the simulated system.
//!
//! Q1: is a wake-up lost between any two of them, on either side? Then somebody sleeps for ever: a deadlock. (G4)
//! Q2: is anything lost, handed out twice, or out of order? (G1, G2)
//! Q3: is a residue published after the take that made room, and a submitter woken that waits for a slot?
//! Q4: does the loop's own thread get on with foreign submitters: in its order, with the gate parked between turns?
//!
//! | model                          | threads                                       | bound | executions | time  | floor  |
//! |--------------------------------|-----------------------------------------------|-------|------------|-------|--------|
//! | `pieces`                       | submitter, mini loop, taker; 2 items          | 2     | 7 657      | 2.5 s | 5 000  |
//! | `posts_in_order`               | submitter of 3 into 2 slots, loop, taker      | 2     | 74 030     | 17 s  | 48 000 |
//! | `room_for_two`                 | 2 submitters before a full ring, loop         | 1     | 3 408      | 2.7 s | 2 000  |
//! | `echo`                         | reader, loop, writer that is the peer, too    | 2     | 7 974      | 3.5 s | 5 200  |
//! | `post_interrupts`              | submitter, loop, taker with a read pending    | 2     | 6 012      | 3.7 s | 3 900  |
//! | `embedded`                     | submitter of 3 into 2 slots, loop             | 3     | 16 579     | 4.2 s | 10 000 |
//! | `own_close_behind_foreign_write` | 2 submitters, loop                          | 3     | 21 778     | 11 s  | 14 000 |
//! | `delegated_here_used_there`    | submitter, loop                               | 3     | 818        | 0.3 s | 530    |
//! | `parked_between_turns`         | submitter, loop, then another submitter       | 3     | 144        | 0.1 s | 100    |
//!
//! The loop of the crate is real; the smallest there is: two slots, batches of one. What is no part of the question
//! (setting up, winding down) runs in one order only: `real::quietly`. The clock stands still.
//!
//! | mutant                                              | what catches it                                            |
//! |-----------------------------------------------------|------------------------------------------------------------|
//! | `submit_unraised`, `residue_unraised`               | `posts_in_order`: deadlock                                 |
//! | `room_unnotified`, `room_by_store`, `room_after_check` | `posts_in_order`, `room_for_two`, `embedded`: deadlock  |
//! | `owed_ignored`, `opened_late`                       | `echo`, `embedded`: deadlock                               |
//! | `local_overtakes`, `at_once_overtakes`              | `own_close_behind_foreign_write`: the write is refused     |
//! | `registered_late`                                   | `delegated_here_used_there`: the write finds no connection |
//!
//! Left out: the order of memory accesses that go through the world's lock, as all syscalls do; a kernel orders them no
//! less. The hand-off's own orderings are the business of the models of its pieces.

#![cfg(loom)]

mod common;
#[path = "common/real.rs"]
mod real;

use std::time::Duration;

use common::{explore, must_fail, tries_mutants};
use gaio::handoff::{Pop, Published, gate, mailbox, ring};
use gaio::{EmbeddedWatcher, Event, Outcome};
use loom::alloc::Track;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use real::{Mark, Tally, connected, finish, posted, quietly, spawned, tiny, world};

/// An eventfd.
struct Waker(Mutex<u64>, Condvar);

impl Waker {
    fn write(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_one();
    }

    fn sleep(&self) {
        let mut written = self.0.lock().unwrap();
        while *written == 0 {
            written = self.1.wait(written).unwrap();
        }
        *written = 0;
    }
}

/// The pieces alone, with the shortest turn that is one: each end sleeps when it has nothing to do.
#[test]
fn pieces() {
    explore("turn pieces", 2, 5_000, || {
        let (producer, mut consumer) = ring(2);
        let (raiser, mut keeper) = gate();
        let (mut publisher, mut taker) = mailbox(Vec::new(), Vec::new(), Vec::new());
        let waker = Arc::new(Waker(Mutex::new(0), Condvar::new()));
        let wake = {
            let (raiser, waker) = (raiser, Arc::clone(&waker));
            move || {
                if raiser.raise() {
                    waker.write();
                }
            }
        };
        let submitting = thread::spawn({
            let wake = wake.clone();
            move || {
                for item in 0..2 {
                    producer.push(Track::new(item)).unwrap();
                    wake();
                }
            }
        });
        let turning = thread::spawn(move || {
            let mut handed = 0;
            loop {
                keeper.open();
                let seen = consumer.tail();
                while let Pop::Item(item) = consumer.pop_before(seen) {
                    publisher.filling().push(item);
                }
                let filled = publisher.peek().len();
                if filled > 0 && publisher.publish() == Published::Handed {
                    handed += filled;
                }
                if handed == 2 {
                    return;
                }
                if keeper.close() {
                    waker.sleep();
                }
            }
        });
        let mut items = Vec::new();
        while items.len() < 2 {
            if taker.take() {
                wake();
            }
            items.extend(taker.taken().drain(..).map(Track::into_inner));
        }
        assert_eq!(items, [0, 1]);
        submitting.join().unwrap();
        turning.join().unwrap();
    });
}

/// Three posts through a ring of two, in batches of one: the submitter waits for room, the loop for the taker.
#[test]
fn posts_in_order() {
    explore("turn posts_in_order", 2, 48_000, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = spawned();
        let posting = thread::spawn({
            let tally = tally.clone();
            move || {
                for id in 0..3 {
                    submitter.post(tally.mark(id)).unwrap();
                }
            }
        });
        let mut seen = 0;
        while seen < 3 {
            for event in watcher.wait().unwrap() {
                assert_eq!(posted(event).1, seen);
                seen += 1;
            }
        }
        posting.join().unwrap();
        finish(&world, &tally, watcher);
    });
}

/// Two threads may park for room at once: one notification is for both.
#[test]
fn room_for_two() {
    explore("turn room_for_two", 1, 2_000, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = spawned();
        quietly(|| (0..2).for_each(|id| submitter.post(tally.mark(id)).unwrap()));
        let posting = [2, 3].map(|id| {
            let (submitter, mark) = (submitter.clone(), tally.mark(id));
            thread::spawn(move || submitter.post(mark).unwrap())
        });
        posting.into_iter().for_each(|thread| thread.join().unwrap());
        loom::stop_exploring();
        let mut seen = Vec::new();
        while seen.len() < 4 {
            seen.extend(watcher.wait().unwrap().map(|event| posted(event).1));
        }
        assert_eq!(seen[..2], [0, 1]);
        assert!(seen[2..] == [2, 3] || seen[2..] == [3, 2], "{seen:?}");
        finish(&world, &tally, (watcher, submitter));
    });
}

/// Another thread reads, this one writes what was read; the peer sends meanwhile.
#[test]
fn echo() {
    explore("turn echo", 2, 5_200, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter, conn, peer) = connected(&world, &tally);
        let reading = thread::spawn({
            let (conn, mark) = (conn.clone(), tally.mark(1));
            move || conn.read(Vec::with_capacity(4)).submit_with(mark).unwrap()
        });
        peer.send(b"hi").unwrap();
        let mut wrote = false;
        while !wrote {
            for event in watcher.wait().unwrap() {
                match event {
                    Event::Done { conn, context: Mark(_, 1), outcome: Outcome::Read(bytes) } => {
                        conn.write(bytes).submit_with(tally.mark(2)).unwrap();
                    }
                    Event::Done { context: Mark(_, 2), outcome: Outcome::Wrote(bytes), .. } => {
                        assert_eq!(bytes.as_slice(), Some(&b"hi"[..]));
                        wrote = true;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        let mut answer = [0; 4];
        assert_eq!((peer.recv(&mut answer).unwrap(), &answer[..2]), (2, &b"hi"[..]));
        reading.join().unwrap();
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

/// The waiting thread has a read pending that nothing will end; a post of another thread ends the wait.
#[test]
fn post_interrupts() {
    explore("turn post_interrupts", 2, 3_900, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter, conn, peer) = connected(&world, &tally);
        let posting = thread::spawn({
            let (submitter, mark) = (submitter.clone(), tally.mark(7));
            move || submitter.post(mark).unwrap()
        });
        conn.read_pooled().submit_with(tally.mark(1)).unwrap();
        let ids: Vec<_> = watcher.wait().unwrap().map(|event| posted(event).1).collect();
        assert_eq!(ids, [7]);
        posting.join().unwrap();
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

/// The loop runs on this thread: its own submissions and those of another, which may wait for room.
#[test]
fn embedded() {
    explore("turn embedded", 3, 10_000, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = quietly(|| EmbeddedWatcher::new_for(tiny()).unwrap());
        let posting = thread::spawn({
            let (submitter, tally) = (submitter.clone(), tally.clone());
            move || {
                for id in 0..3 {
                    submitter.post(tally.mark(id)).unwrap();
                }
            }
        });
        submitter.post(tally.mark(10)).unwrap();
        let (mut foreign, mut local) = (0, 10);
        while foreign + local < 3 + 12 {
            let ids: Vec<_> = watcher.turn(None).unwrap().map(|event| posted(event).1).collect();
            assert!(!ids.is_empty(), "a turn that waits for ever has something to say");
            for id in ids {
                let next = if id < 10 { &mut foreign } else { &mut local };
                assert_eq!(id, *next);
                *next += 1;
                if id == 10 {
                    submitter.post(tally.mark(11)).unwrap();
                }
            }
        }
        posting.join().unwrap();
        finish(&world, &tally, (watcher, submitter));
    });
}

/// A close of the loop's own thread goes behind a write that happened before it on another, although a slot before
/// that one in the ring may be reserved and not published yet.
#[test]
fn own_close_behind_foreign_write() {
    explore("turn own_close_behind_foreign_write", 3, 14_000, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = quietly(|| EmbeddedWatcher::new_for(tiny()).unwrap());
        let (conn, peer) = quietly(|| {
            let (socket, peer) = world.pair();
            let conn = submitter.delegate(socket).unwrap();
            peer.shutdown_write().unwrap();
            assert_eq!(watcher.turn(Some(Duration::ZERO)).unwrap().count(), 0);
            (conn, peer)
        });
        let posting = thread::spawn({
            let (submitter, mark) = (submitter.clone(), tally.mark(1));
            move || submitter.post(mark).unwrap()
        });
        let writing = thread::spawn({
            let (conn, mark) = (conn.clone(), tally.mark(2));
            move || conn.write(b"x").submit_with(mark).unwrap()
        });
        writing.join().unwrap();
        conn.close().submit_with(tally.mark(3)).unwrap();
        let mut order = Vec::new();
        while order.len() < 3 {
            for event in watcher.turn(None).unwrap() {
                match event {
                    Event::Posted(Mark(_, id)) => order.push(id),
                    Event::Done { context: Mark(_, id), outcome: Outcome::Wrote(_) | Outcome::Closed, .. } => {
                        order.push(id);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        order.retain(|id| *id != 1);
        assert_eq!(order, [2, 3]);
        posting.join().unwrap();
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

/// A connection that the loop's own thread has delegated, and another thread uses at once. What was in the ring before keeps
/// the delegation from being taken up as it is submitted.
#[test]
fn delegated_here_used_there() {
    explore("turn delegated_here_used_there", 3, 530, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = quietly(|| EmbeddedWatcher::new_for(tiny()).unwrap());
        let (socket, peer) = quietly(|| world.pair());
        quietly(|| {
            let (submitter, mark) = (submitter.clone(), tally.mark(0));
            thread::spawn(move || submitter.post(mark).unwrap()).join().unwrap();
        });
        let conn = submitter.delegate(socket).unwrap();
        let writing = thread::spawn({
            let mark = tally.mark(1);
            move || conn.write(b"x").submit_with(mark).unwrap()
        });
        assert!(matches!(watcher.turn(None).unwrap().next(), Some(Event::Posted(Mark(_, 0)))));
        let event = watcher.turn(None).unwrap().next();
        assert!(matches!(event, Some(Event::Done { outcome: Outcome::Wrote(_), .. })), "{event:?}");
        writing.join().unwrap();
        drop(event);
        finish(&world, &tally, (watcher, submitter, peer));
    });
}

/// Whatever a turn met, the gate is parked behind it: the next foreign submission writes the waker.
#[test]
fn parked_between_turns() {
    explore("turn parked_between_turns", 3, 100, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = quietly(|| EmbeddedWatcher::new_for(tiny()).unwrap());
        let post = |id| {
            let (submitter, mark) = (submitter.clone(), tally.mark(id));
            thread::spawn(move || submitter.post(mark).unwrap())
        };
        let writes = || submitter.counters().waker_writes;
        let first = post(1);
        let mut seen = watcher.turn(Some(Duration::ZERO)).unwrap().count();
        first.join().unwrap();
        let before = writes();
        if before == 1 {
            // The post came before the turn's end, or after. This turn is beside nothing, and leaves nothing.
            seen += watcher.turn(Some(Duration::ZERO)).unwrap().count();
            assert_eq!(seen, 1);
        }
        // Without a write it was raised within the turn, which may owe another.
        post(2).join().unwrap();
        assert_eq!(writes(), before + 1);
        while seen < 2 {
            seen += watcher.turn(None).unwrap().count();
        }
        finish(&world, &tally, (watcher, submitter));
    });
}

#[test]
fn mutants_must_fail() {
    if tries_mutants() {
        must_fail("posts_in_order", "submit_unraised");
        must_fail("posts_in_order", "residue_unraised");
        for mutant in ["room_unnotified", "room_by_store", "room_after_check"] {
            must_fail("posts_in_order", mutant);
            must_fail("embedded", mutant);
        }
        must_fail("room_for_two", "room_unnotified");
        for mutant in ["owed_ignored", "opened_late"] {
            must_fail("echo", mutant);
            must_fail("embedded", mutant);
        }
        must_fail("own_close_behind_foreign_write", "local_overtakes");
        must_fail("own_close_behind_foreign_write", "at_once_overtakes");
        must_fail("delegated_here_used_there", "registered_late");
    }
}
