#![cfg(loom)]

mod common;
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
    explore("turn pieces", 2, 100, || {
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
    explore("turn posts_in_order", 2, 100, || {
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
    explore("turn room_for_two", 1, 100, || {
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
    explore("turn echo", 2, 100, || {
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
                        assert_eq!(bytes.as_slice(), b"hi");
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
    explore("turn post_interrupts", 2, 100, || {
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
    explore("turn embedded", 2, 100, || {
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
    }
}
