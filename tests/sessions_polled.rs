//! A loop of typed sessions in a poll of somebody else's (G4): it obeys nothing but the descriptor and `next_turn`, and
//! misses nothing.

#![cfg(not(any(loom, gaio_sim)))]

#[path = "support/sessions.rs"]
mod scripted;
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gaio::{Expect, NextTurn, WaitError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use scripted::{Log, Rig, Scripted, Seen, Then, account, note, order, usual};
use support::check;

/// How long a poll may sleep: `None` until the descriptor is readable.
fn may_sleep(rig: &mut Rig) -> Option<Duration> {
    match rig.sessions.next_turn() {
        NextTurn::Now => Some(Duration::ZERO),
        NextTurn::At(instant) => Some(instant.saturating_duration_since(Instant::now())),
        NextTurn::WhenReadable => None,
    }
}

fn is_readable(rig: &Rig, sleep: Option<Duration>) -> bool {
    let sleep = sleep.map(|sleep| Timespec::try_from(sleep).unwrap());
    poll(&mut [PollFd::new(&rig.sessions, PollFlags::IN)], sleep.as_ref()).unwrap() > 0
}

/// One sleep, as long as it may be, and one turn of no time.
fn once(rig: &mut Rig) -> Result<(), WaitError> {
    let sleep = may_sleep(rig);
    is_readable(rig, sleep);
    rig.sessions.turn(Some(Duration::ZERO))
}

fn until(rig: &mut Rig, mut condition: impl FnMut() -> bool) {
    while !condition() {
        once(rig).unwrap();
    }
}

/// Turns until there is nothing more to do, and the poll may sleep.
fn settle(rig: &mut Rig) {
    let mut turns = 0;
    while may_sleep(rig) == Some(Duration::ZERO) || is_readable(rig, Some(Duration::ZERO)) {
        rig.sessions.turn(Some(Duration::ZERO)).unwrap();
        turns += 1;
        assert!(turns < 20, "there is always something to do");
    }
}

fn session(rig: &mut Rig, (state, log): (Scripted, Log)) -> (Log, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    rig.hub.adopt(ours, state).map_err(|(error, _)| error).unwrap();
    until(rig, || log.has(&Seen::Open));
    (log, peer)
}

/// Clients, messages from other threads, timers, the end: all by the descriptor and by what is said.
#[test]
fn a_foreign_loop_misses_nothing() {
    const ROUNDS: u64 = 200;
    check(|| {
        account(|| {
            let mut rig = Rig::welcoming(
                |limits| limits.ring_slots = 8,
                || {
                    let (state, log) = Scripted::quiet(Expect::until(b"\n"));
                    (state.echoing(), log)
                },
            );
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            rig.hub.listen(listener).unwrap();
            let (told, _peer) = session(&mut rig, Scripted::quiet(Expect::any()));
            told.send(order(|io| {
                io.timer(1, Duration::from_millis(1));
                Then::Stay
            }));
            let clients: Vec<_> = (0..2)
                .map(|_| {
                    let (hub, to) = (rig.hub.clone(), told.address());
                    thread::spawn(move || {
                        let mut peer = TcpStream::connect(address).unwrap();
                        for round in 0..ROUNDS {
                            peer.write_all(b"ask\n").unwrap();
                            while to.send(note("between")).is_err() {
                                thread::yield_now();
                            }
                            if round % 50 == 0 {
                                // Lets the loop fall asleep.
                                thread::sleep(Duration::from_millis(3));
                            }
                            peer.read_exact(&mut [0; 3]).unwrap();
                        }
                        drop(peer);
                        hub.sessions()
                    })
                })
                .collect();
            while !clients.iter().all(thread::JoinHandle::is_finished) || rig.hub.sessions() > 1 {
                // Nothing announces the end of a thread.
                let sleep = may_sleep(&mut rig).unwrap_or(Duration::from_millis(20));
                is_readable(&rig, Some(sleep.min(Duration::from_millis(20))));
                rig.sessions.turn(Some(Duration::ZERO)).unwrap();
            }
            until(&mut rig, || told.has(&Seen::Timer(1)));
            let got = told.all().iter().filter(|seen| **seen == Seen::Message("between")).count() as u64;
            assert_eq!(got, 2 * ROUNDS);
            let logs: Vec<Log> = std::mem::take(&mut *rig.welcomed.lock().unwrap());
            assert!(logs.iter().all(|log| log.frames().len() as u64 == ROUNDS));
        });
    });
}

/// What this thread sends, and what a callback sends to its own loop, has no event: `next_turn` says it.
#[test]
fn what_has_no_event_is_said() {
    check(|| {
        account(|| {
            let mut rig = Rig::new();
            let (log, _peer) = session(&mut rig, Scripted::quiet(Expect::any()));
            settle(&mut rig);
            assert_eq!(rig.sessions.next_turn(), NextTurn::WhenReadable);
            let again = log.clone();
            log.send(order(move |_| {
                again.send(note("again"));
                Then::Stay
            }));
            assert_eq!(rig.sessions.next_turn(), NextTurn::Now);
            rig.sessions.turn(Some(Duration::ZERO)).unwrap();
            assert!(!log.has(&Seen::Message("again")));
            assert_eq!(rig.sessions.next_turn(), NextTurn::Now);
            until(&mut rig, || log.has(&Seen::Message("again")));
            log.send(order(|io| {
                io.timer(1, Duration::from_secs(3_600));
                Then::Stay
            }));
            settle(&mut rig);
            assert!(matches!(rig.sessions.next_turn(), NextTurn::At(_)));
        });
    });
}

/// With nothing to do it sleeps: the descriptor is silent, and nothing is owed.
#[test]
fn an_idle_foreign_loop_sleeps() {
    check(|| {
        account(|| {
            let mut rig = Rig::new();
            rig.hub.listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
            let (_waits, _p1) = session(&mut rig, Scripted::quiet(Expect::any()));
            let (_unwanted, mut p2) = session(&mut rig, Scripted::quiet(Expect::nothing()));
            p2.write_all(&[1; 10_000]).unwrap();
            let (blocked, _p3) = session(&mut rig, Scripted::quiet(Expect::any()));
            blocked.send(order(|io| {
                io.write(&[1; 4 << 20]);
                Then::Stay
            }));
            settle(&mut rig);
            let before = rig.hub.counters();
            assert!(!is_readable(&rig, Some(Duration::from_millis(300))));
            assert_eq!(may_sleep(&mut rig), None);
            let after = rig.hub.counters();
            assert_eq!((before.turns, before.polls), (after.turns, after.polls));
        });
    });
}

/// Two threads send at any moment; whoever polls finds all of it.
#[test]
fn every_poll_is_ended_by_somebody() {
    const ROUNDS: u64 = 2_000;
    check(|| {
        account(|| {
            let mut rig = Rig::new();
            let (log, _peer) = session(&mut rig, Scripted::quiet(Expect::any()));
            let turn = &AtomicU64::new(0);
            thread::scope(|scope| {
                for worker in 0..2 {
                    let to = log.address();
                    scope.spawn(move || {
                        for round in (worker..ROUNDS).step_by(2) {
                            while turn.load(Ordering::Acquire) < round {
                                thread::yield_now();
                            }
                            to.send(note("now")).unwrap();
                        }
                    });
                }
                for round in 0..ROUNDS {
                    log.take();
                    until(&mut rig, || log.has(&Seen::Message("now")));
                    turn.store(round + 1, Ordering::Release);
                }
            });
        });
    });
}

/// The end is announced, too, whoever asks for it, and stays so.
#[test]
fn the_end_is_heard_of() {
    check(|| {
        account(|| {
            for stays in [false, true] {
                let mut rig = Rig::new();
                let (log, _peer) = session(
                    &mut rig,
                    Scripted::new(Expect::any(), move |seen, _| if stays { Then::Stay } else { usual(seen) }),
                );
                let hub = rig.hub.clone();
                let ending = thread::spawn(move || hub.shutdown(Duration::from_millis(5)));
                let end = loop {
                    if let Err(end) = once(&mut rig) {
                        break end;
                    }
                };
                assert_eq!(end, WaitError::Closed);
                assert!(log.end().is_some());
                for _ in 0..2 {
                    assert_eq!(rig.sessions.next_turn(), NextTurn::Now);
                    assert!(rig.sessions.turn(None).is_err());
                }
                ending.join().unwrap();
            }
        });
    });
}
