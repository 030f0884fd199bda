//! Beginnings and ends, on the whole crate: the last handle, close, release, shutdown, the watcher's drop.
//!
//! Q1: is a connection closed whose last handle is gone, whoever drops it, and whatever is under way? (G7)
//! Q2: does what was accepted complete, once, and come back what was refused, with its context and buffer? (G1)
//! Q3: does everybody get to an end: the loop, a submitter that waits for room, the watcher that is dropped?
//!
//! | model                      | threads                                          | bound | executions | time  | floor  |
//! |----------------------------|--------------------------------------------------|-------|------------|-------|--------|
//! | `last_drop`                | dropper, loop with a read, taker that drops, too | 3     | 36 139     | 8.3 s | 23 000 |
//! | `dropped_before_delegated` | dropper, loop                                    | 3     | 896        | 0.2 s | 500    |
//! | `shutdown_against_submit`  | submitter of 2, loop, shutdown and taker         | 2     | 10 964     | 4.3 s | 7 200  |
//! | `two_shutdowns`            | 2 shutdowns, loop with a write that is stuck     | 2     | 16 016     | 7.0 s | 10 000 |
//! | `watcher_dropped`          | submitter of 3 into 2 slots, loop, dropper       | 2     | 21 983     | 6.3 s | 14 000 |
//! | `listener_dropped`         | connecting peer, loop, dropper and taker         | 2     | 4 464      | 2.0 s | 2 900  |
//! | `close_against_write`      | writer, loop, closer and taker                   | 2     | 5 802      | 3.0 s | 3 800  |
//! | `release_against_read`     | reader, loop, releaser and taker                 | 2     | 5 797      | 2.7 s | 3 800  |
//! | `own_drops`                | loop that drops, peer, submitter                 | 2     | 769        | 0.2 s | 500    |
//! | `own_listener_dropped`     | loop that drops                                  | none  | 1          | 0 s   | 1      |
//!
//! Each context, and each buffer that is more than memory, is counted: made as often as dropped. So are descriptors:
//! none is left. What is no part of the question runs in one order only: `real::quietly`. The clock stands still but
//! where a model moves it, so what needs a deadline to get on deadlocks.
//!
//! | mutant               | what catches it                                                                      |
//! |----------------------|--------------------------------------------------------------------------------------|
//! | `drop_unannounced`   | `last_drop`, `dropped_before_delegated`: the peer waits for ever                     |
//! | `returns_overlooked` | `own_drops`: likewise                                                                |
//! | `raise_forgotten`    | `listener_dropped`: its end is never told                                            |
//! | `shutdown_unraised`  | `shutdown_against_submit`, `watcher_dropped`: the loop sleeps on                      |
//! | `grace_after_close`  | `two_shutdowns`: the shorter grace is never looked at                                |
//! | `ended_early`        | `shutdown_against_submit`: more was accepted than completes                          |
//! | `room_by_store`      | `watcher_dropped`: a submitter waits in front of a closed ring                       |
//!
//! Left out: a panic in user code (tests/simulated.rs): in a model each panic is a finding, and passes through.

#![cfg(loom)]

mod common;
#[path = "common/real.rs"]
mod real;

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use common::{explore, must_fail, tries_mutants};
use gaio::{EmbeddedWatcher, Event, OpError, Outcome, SubmitErrorKind, WaitError};
use loom::thread;
use real::{Mark, Tally, connected, finish, posted, quietly, spawned, tiny, world};

/// The last handle is dropped on one thread or the other, while the loop completes the read, or the completion is
/// being taken. Whoever is last, the connection is closed, and its peer sees it.
#[test]
fn last_drop() {
    explore("lifecycle last_drop", 3, 23_000, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter, conn, peer) = connected(&world, &tally);
        quietly(|| conn.read(Vec::with_capacity(4)).submit_with(tally.mark(1)).unwrap());
        let dropping = thread::spawn(move || drop(conn));
        peer.send(b"x").unwrap();
        for event in watcher.wait().unwrap() {
            let Event::Done { context: Mark(_, 1), outcome: Outcome::Read(bytes), .. } = event else {
                panic!("{event:?}")
            };
            assert_eq!(bytes, b"x");
        }
        assert_eq!(peer.recv_blocking(&mut [0; 4]).unwrap(), 0);
        dropping.join().unwrap();
        finish(&world, &tally, (watcher, submitter, peer));
    });
}

/// A handle is dropped before the loop has heard of the connection.
#[test]
fn dropped_before_delegated() {
    explore("lifecycle dropped_before_delegated", 3, 500, || {
        let (world, tally) = (world(), Tally::default());
        let (watcher, submitter) = spawned::<()>();
        let (socket, peer) = quietly(|| world.pair());
        drop(submitter.delegate(socket).unwrap());
        assert_eq!(peer.recv_blocking(&mut [0; 4]).unwrap(), 0);
        finish(&world, &tally, (watcher, submitter, peer));
    });
}

/// What was accepted completes, what was refused comes back, each with its context and buffer.
#[test]
fn shutdown_against_submit() {
    explore("lifecycle shutdown_against_submit", 2, 7_200, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter, conn, peer) = connected(&world, &tally);
        let submitting = thread::spawn({
            let (tally, submitter) = (tally.clone(), submitter.clone());
            move || {
                let payload = Bytes::from_owner(tally.mark(2));
                let write = conn.write(payload).submit_with(tally.mark(1));
                let post = submitter.post(tally.mark(3));
                if let Err(refused) = &write {
                    assert_eq!((refused.kind, refused.context.1), (SubmitErrorKind::Closed, 1));
                    assert!(refused.buffer.is_some());
                    assert!(post.is_err(), "closed is closed");
                }
                usize::from(write.is_ok()) + usize::from(post.is_ok())
            }
        });
        submitter.shutdown(Duration::ZERO);
        let mut completed = 0;
        let end = loop {
            match watcher.wait() {
                Ok(batch) => completed += batch.count(),
                Err(end) => break end,
            }
        };
        assert_eq!((completed, end), (submitting.join().unwrap(), WaitError::Closed));
        finish(&world, &tally, (watcher, submitter, peer));
    });
}

/// A write is stuck, and one of the two shutdowns gives it no time worth mentioning.
#[test]
fn two_shutdowns() {
    explore("lifecycle two_shutdowns", 2, 10_000, || {
        let (world, tally) = (world(), Tally::default());
        quietly(|| world.configure(|config| config.buffer = 1));
        let (mut watcher, submitter, conn, peer) = connected(&world, &tally);
        quietly(|| conn.write(b"stuck").submit_with(tally.mark(1)).unwrap());
        let patient = thread::spawn({
            let submitter = submitter.clone();
            move || submitter.shutdown(Duration::from_secs(3600))
        });
        submitter.shutdown(Duration::from_millis(1));
        // Deadlines are rounded up, so a millisecond alone would not do, and nobody else moves the clock.
        world.advance(Duration::from_millis(10));
        let mut failed = 0;
        let end = loop {
            match watcher.wait() {
                Ok(batch) => {
                    for event in batch {
                        let Event::Done { outcome: Outcome::Failed(failure), .. } = event else { panic!("{event:?}") };
                        assert!(matches!(failure.error, OpError::Aborted) && failure.transferred == 1);
                        failed += 1;
                    }
                }
                Err(end) => break end,
            }
        };
        assert_eq!((failed, end), (1, WaitError::Closed));
        patient.join().unwrap();
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

/// The watcher goes while another thread submits more than the ring holds.
#[test]
fn watcher_dropped() {
    explore("lifecycle watcher_dropped", 2, 14_000, || {
        let (world, tally) = (world(), Tally::default());
        let (watcher, submitter) = spawned();
        let submitting = thread::spawn({
            let tally = tally.clone();
            move || {
                for id in 0..3 {
                    if let Err(refused) = submitter.post(tally.mark(id)) {
                        assert_eq!((refused.kind, refused.context.1), (SubmitErrorKind::Closed, id));
                    }
                }
            }
        });
        drop(watcher);
        submitting.join().unwrap();
        finish(&world, &tally, ());
    });
}

/// Accepted or reset, nothing in between; and the listener's end is told once, last.
#[test]
fn listener_dropped() {
    explore("lifecycle listener_dropped", 2, 2_900, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = spawned::<()>();
        let (listener, addr) = quietly(|| {
            let (socket, addr) = world.listener();
            (submitter.listen(socket).unwrap(), addr)
        });
        let id = listener.id();
        let connecting = thread::spawn({
            let world = world.clone();
            move || world.connect(addr)
        });
        drop(listener);
        let (mut accepted, mut ended) = (None, false);
        while !ended {
            for event in watcher.wait().unwrap() {
                assert!(!ended);
                match event {
                    Event::Accepted { conn, listener, .. } => {
                        assert_eq!(listener, id);
                        assert!(accepted.replace(conn).is_none());
                    }
                    Event::ListenerEnded { listener, error: None } => {
                        assert_eq!(listener, id);
                        ended = true;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        match connecting.join().unwrap() {
            Ok(peer) => {
                let seen = peer.recv(&mut [0; 4]).unwrap_err().kind();
                let expected = if accepted.is_some() { ErrorKind::WouldBlock } else { ErrorKind::ConnectionReset };
                assert_eq!(seen, expected);
            }
            Err(_) => assert!(accepted.is_none()),
        }
        finish(&world, &tally, (watcher, submitter, accepted));
    });
}

/// The write is out before the FIN, or it is refused; and the close completes when the descriptor is gone.
#[test]
fn close_against_write() {
    explore("lifecycle close_against_write", 2, 3_800, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter, conn, peer) = connected(&world, &tally);
        quietly(|| peer.shutdown_write().unwrap());
        let writing = thread::spawn({
            let (conn, mark) = (conn.clone(), tally.mark(1));
            move || conn.write(b"ab").submit_with(mark).unwrap()
        });
        conn.close().submit_with(tally.mark(2)).unwrap();
        writing.join().unwrap();
        loom::stop_exploring();
        let (mut wrote, mut outcomes) = (false, 0);
        while outcomes < 2 {
            for event in watcher.wait().unwrap() {
                match event {
                    Event::Done { context: Mark(_, 1), outcome: Outcome::Wrote(_), .. } => wrote = true,
                    Event::Done { context: Mark(_, 1), outcome: Outcome::Failed(failure), .. } => {
                        assert!(matches!(failure.error, OpError::Closed) && failure.transferred == 0);
                    }
                    Event::Done { context: Mark(_, 2), outcome: Outcome::Closed, .. } => {}
                    other => panic!("{other:?}"),
                }
                outcomes += 1;
            }
        }
        let mut seen = [0; 4];
        if wrote {
            assert_eq!(peer.recv(&mut seen).unwrap(), 2);
        }
        assert_eq!(peer.recv(&mut seen).unwrap(), 0, "a clean end");
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

/// The read gets its bytes, or it is released, or it comes too late; and its buffer comes back.
#[test]
fn release_against_read() {
    explore("lifecycle release_against_read", 2, 3_800, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter, conn, peer) = connected(&world, &tally);
        quietly(|| peer.send(b"x").unwrap());
        let reading = thread::spawn({
            let (conn, mark) = (conn.clone(), tally.mark(1));
            move || conn.read(Vec::with_capacity(4)).submit_with(mark).unwrap()
        });
        conn.release().submit_with(tally.mark(2)).unwrap();
        reading.join().unwrap();
        loom::stop_exploring();
        let mut outcomes = 0;
        while outcomes < 2 {
            for event in watcher.wait().unwrap() {
                match event {
                    Event::Done { context: Mark(_, 1), outcome: Outcome::Read(bytes), .. } => assert_eq!(bytes, b"x"),
                    Event::Done { context: Mark(_, 1), outcome: Outcome::Failed(failure), .. } => {
                        assert!(matches!(failure.error, OpError::Closed | OpError::Released));
                        let buffer = failure.buffer.unwrap().into_vec().unwrap();
                        assert_eq!((buffer.len(), buffer.capacity()), (0, 4));
                    }
                    Event::Done { context: Mark(_, 2), outcome: Outcome::Closed, .. } => {}
                    other => panic!("{other:?}"),
                }
                outcomes += 1;
            }
        }
        finish(&world, &tally, (watcher, submitter, conn, peer));
    });
}

/// A connection's handle dropped on the loop's own thread raises nothing: the turn looks for it before it sleeps.
#[test]
fn own_drops() {
    explore("lifecycle own_drops", 2, 500, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = EmbeddedWatcher::new(tiny()).unwrap();
        let (socket, peer) = world.pair();
        let conn = submitter.delegate(socket).unwrap();
        conn.read_pooled().submit().unwrap();
        peer.send(b"x").unwrap();
        drop(conn);
        let event = watcher.turn(None).unwrap().next();
        assert!(matches!(event, Some(Event::Done { outcome: Outcome::Pooled(b"x"), .. })));
        drop(event);
        let reading = thread::spawn(move || peer.recv_blocking(&mut [0; 4]).unwrap());
        let posting = thread::spawn({
            let submitter = submitter.clone();
            move || {
                assert_eq!(reading.join().unwrap(), 0);
                submitter.post(()).unwrap();
            }
        });
        assert_eq!(watcher.turn(None).unwrap().map(posted).count(), 1);
        posting.join().unwrap();
        finish(&world, &tally, (watcher, submitter));
    });
}

/// The same of a listener's handle.
#[test]
fn own_listener_dropped() {
    explore("lifecycle own_listener_dropped", None, 1, || {
        let (world, tally) = (world(), Tally::default());
        let (mut watcher, submitter) = EmbeddedWatcher::<()>::new(tiny()).unwrap();
        let listener = submitter.listen(world.listener().0).unwrap();
        assert_eq!(watcher.turn(Some(Duration::ZERO)).unwrap().count(), 0);
        drop(listener);
        let event = watcher.turn(None).unwrap().next();
        assert!(matches!(event, Some(Event::ListenerEnded { error: None, .. })));
        finish(&world, &tally, (watcher, submitter));
    });
}

#[test]
fn mutants_must_fail() {
    if tries_mutants() {
        must_fail("last_drop", "drop_unannounced");
        must_fail("dropped_before_delegated", "drop_unannounced");
        must_fail("own_drops", "returns_overlooked");
        must_fail("listener_dropped", "raise_forgotten");
        must_fail("shutdown_against_submit", "shutdown_unraised");
        must_fail("watcher_dropped", "shutdown_unraised");
        must_fail("two_shutdowns", "grace_after_close");
        must_fail("shutdown_against_submit", "ended_early");
        must_fail("watcher_dropped", "room_by_store");
    }
}
