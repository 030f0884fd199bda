//! Typed sessions: messages arrive once, in their sender's order, or come back, or are counted.

#![cfg(not(any(loom, gaio_sim)))]

#[path = "support/sessions.rs"]
mod scripted;
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use gaio::{Address, Decode, Expect, Io, Next, Protocol, SendErrorKind, SessionLimits, SessionLoop};
use scripted::{Log, Note, Rig, Scripted, Seen, Then, account, note, order, usual};
use support::{Net, Peer, check, finish, read_some};

fn test(body: impl FnOnce()) {
    check(|| account(body));
}

fn session(rig: &mut Rig) -> (Log, Peer) {
    let (ours, peer) = Net::Unix.pair();
    let (state, log) = Scripted::quiet(Expect::any());
    rig.hub.adopt(ours, state).map_err(|(error, _)| error).unwrap();
    rig.until(|| log.has(&Seen::Open));
    log.take();
    (log, peer)
}

/// Takes numbers from several senders, each in its order.
struct Tally(Arc<Mutex<Vec<Vec<u64>>>>);

impl Protocol for Tally {
    type Message = (usize, u64);

    fn expects(&self) -> Expect {
        Expect::any()
    }

    fn decode(&self, _input: &[u8]) -> Decode {
        unreachable!()
    }

    fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
        ADDRESS.lock().unwrap().push(io.address());
        Next::Become(self)
    }

    fn on_frame(self, _frame: &[u8], _io: &mut Io<'_, Self>) -> Next<Self> {
        Next::Become(self)
    }

    fn on_message(self, (sender, number): (usize, u64), _io: &mut Io<'_, Self>) -> Next<Self> {
        self.0.lock().unwrap()[sender].push(number);
        Next::Become(self)
    }
}

static ADDRESS: Mutex<Vec<Address<(usize, u64)>>> = Mutex::new(Vec::new());

#[test]
fn each_senders_messages_come_in_its_order_and_a_full_ring_gives_them_back() {
    test(|| {
        const EACH: u64 = 5_000;
        let limits = {
            let mut limits = SessionLimits::default();
            limits.ring_slots = 64;
            limits
        };
        let (mut sessions, hub) = SessionLoop::new(limits, |_| None).unwrap();
        let tally = Arc::new(Mutex::new(vec![Vec::new(); 3]));
        let (ours, _peer) = Net::Tcp.pair();
        hub.adopt(ours, Tally(tally.clone())).map_err(|(error, _)| error).unwrap();
        sessions.turn(None).unwrap();
        let address = ADDRESS.lock().unwrap().pop().unwrap();
        // With nobody to take them up, the ring fills.
        let mut sent = 0;
        let full = thread::spawn({
            let address = address.clone();
            move || loop {
                if let Err(back) = address.send((2, sent)) {
                    assert_eq!((back.kind, back.message), (SendErrorKind::Full, (2, sent)));
                    return sent;
                }
                sent += 1;
            }
        });
        assert_eq!(full.join().unwrap(), 64);
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                let address = address.clone();
                thread::spawn(move || {
                    for number in 0..EACH {
                        while address.send((sender, number)).is_err() {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let counted = || tally.lock().unwrap().iter().map(Vec::len).sum::<usize>();
        while counted() < 64 + 2 * usize::try_from(EACH).unwrap() {
            sessions.turn(None).unwrap();
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        let tally = tally.lock().unwrap();
        assert!(tally[..2].iter().all(|numbers| numbers.iter().copied().eq(0..EACH)));
        assert!(tally[2].iter().copied().eq(0..64));
        assert_eq!(hub.counters().messages, 64 + 2 * EACH);
    });
}

#[test]
fn a_message_to_a_session_that_has_ended_reaches_nobody_and_is_counted() {
    test(|| {
        let mut rig = Rig::new();
        let (log, peer) = session(&mut rig);
        let stale = log.address();
        drop(peer);
        rig.end_of(&log);
        // The next one has its place, and not its name.
        let (next, _peer) = session(&mut rig);
        assert_ne!(next.address(), stale);
        stale.send(note("for the dead")).unwrap();
        rig.settle();
        assert_eq!((next.take(), rig.hub.counters().undelivered), (vec![], 1));
        // What is on its way when the loop ends.
        next.send(note("too late"));
        let hub = rig.hub.clone();
        rig.hub.shutdown(std::time::Duration::ZERO);
        drop(rig);
        let handed = next.all().iter().filter(|seen| matches!(seen, Seen::Message(_))).count();
        assert_eq!(u64::try_from(handed).unwrap() + hub.counters().undelivered, 2);
    });
}

#[test]
fn sessions_of_one_loop_talk_without_ever_finding_it_full() {
    test(|| {
        let mut rig = Rig::with(|limits| limits.ring_slots = 2);
        let ((one, _p), (other, _q)) = (session(&mut rig), session(&mut rig));
        let to = other.address();
        one.send(order(move |_| {
            (0..1_000).for_each(|_| to.send(note("hello")).unwrap());
            Then::Stay
        }));
        rig.until(|| other.all().len() == 1_000);
        // One that writes to itself for ever does not keep the others waiting.
        fn again(io: &mut Io<'_, Scripted>) -> Then {
            io.address().send(order(again)).unwrap();
            Then::Stay
        }
        one.send(order(again));
        other.send(note("after all"));
        rig.until(|| other.has(&Seen::Message("after all")));
        rig.until(|| one.all().len() > 100);
    });
}

#[test]
fn sessions_of_two_loops_talk() {
    test(|| {
        let (mut one, mut other) = (Rig::new(), Rig::new());
        let ((ping, _p), (pong, _q)) = (session(&mut one), session(&mut other));
        let count = Arc::new(AtomicUsize::new(0));
        fn ball(mine: Address<Note>, theirs: Address<Note>, count: Arc<AtomicUsize>) -> Note {
            order(move |_| {
                if count.fetch_add(1, Ordering::Relaxed) < 100 {
                    theirs.send(ball(theirs.clone(), mine.clone(), count.clone())).unwrap();
                }
                Then::Stay
            })
        }
        ping.send(ball(ping.address(), pong.address(), count.clone()));
        while count.load(Ordering::Relaxed) < 101 {
            one.sessions.turn(Some(std::time::Duration::ZERO)).unwrap();
            other.sessions.turn(Some(std::time::Duration::ZERO)).unwrap();
        }
        assert_eq!((ping.all().len(), pong.all().len()), (51, 50));
    });
}

#[test]
fn a_broadcast_reaches_who_is_in_the_group() {
    test(|| {
        let mut rig = Rig::new();
        let all: Vec<_> = (0..4).map(|_| session(&mut rig)).collect();
        let hears = |rig: &mut Rig, group: u64, expected: [usize; 4]| {
            rig.hub.broadcast(group, note("all")).unwrap();
            rig.settle();
            let heard = [0, 1, 2, 3]
                .map(|i: usize| all[i].0.take().iter().filter(|seen| **seen == Seen::Message("all")).count());
            assert_eq!(heard, expected);
        };
        let each = |rig: &mut Rig, i: usize, act: fn(&mut Io<'_, Scripted>)| {
            all[i].0.send(order(move |io| {
                act(io);
                Then::Stay
            }));
            rig.settle();
        };
        hears(&mut rig, 1, [0, 0, 0, 0]);
        for i in 0..3 {
            each(&mut rig, i, |io| {
                io.join(1);
                io.join(1);
            });
        }
        each(&mut rig, 3, |io| io.join(2));
        hears(&mut rig, 1, [1, 1, 1, 0]);
        hears(&mut rig, 2, [0, 0, 0, 1]);
        each(&mut rig, 0, |io| io.leave(1));
        each(&mut rig, 0, |io| io.leave(7));
        hears(&mut rig, 1, [0, 1, 1, 0]);
        // Who ends has left: nothing is undelivered.
        finish(&all[1].1);
        drop(rig.end_of(&all[1].0));
        hears(&mut rig, 1, [0, 0, 1, 0]);
        assert_eq!(rig.hub.counters().undelivered, 0);
        each(&mut rig, 2, |io| {
            io.leave(1);
            io.join(1);
        });
        hears(&mut rig, 1, [0, 0, 1, 0]);
    });
}

#[test]
fn an_address_names_one_session() {
    test(|| {
        let mut rig = Rig::new();
        let ((one, _p), (other, _q)) = (session(&mut rig), session(&mut rig));
        let set: std::collections::HashSet<_> = [one.address(), other.address(), one.address()].into();
        assert_eq!(set.len(), 2);
        assert!(matches!(usual(&Seen::Open), Then::Stay));
    });
}

/// What counts for the cap on output is what the system does not take, not what the messages of a turn have written.
#[test]
fn a_burst_of_messages_is_no_overflow_if_the_peer_reads() {
    test(|| {
        let mut rig =
            Rig::with(|limits| (limits.low_water, limits.high_water, limits.output) = (1 << 10, 8 << 10, 32 << 10));
        let (log, mut peer) = session(&mut rig);
        for _ in 0..4 {
            for _ in 0..12 {
                log.send(order(|io| {
                    io.write(&[7; 4 << 10]);
                    Then::Stay
                }));
            }
            rig.settle();
            assert_eq!(log.end(), None);
            assert_eq!(read_some(&mut peer, 12 * (4 << 10)), [7; 12 * (4 << 10)]);
        }
        // What it does not take counts.
        for _ in 0..200 {
            log.send(order(|io| {
                io.write(&[7; 4 << 10]);
                Then::Stay
            }));
        }
        assert_eq!(rig.end_of(&log), "too much output queued");
    });
}
