//! The end of a loop: what was accepted completes, what comes later is refused whole, and nothing is lost or dropped
//! twice.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use gaio::{
    Conn, DelegateErrorKind, EmbeddedWatcher, Event, OpError, Outcome, SubmitErrorKind, Submitter, WaitError, Watcher,
};
use support::{
    Drive, Got, LONG, Net, Pattern, Rig, Taken, both_drives, check, descriptors, read_all, read_to_its_end, until,
};

fn the_grace_lets_queued_writes_out<D: Drive>() {
    const LEN: usize = 16 << 20;
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let pattern = Pattern::new();
    conn.write(pattern.first(LEN)).submit_with(1).unwrap();
    conn.read(Vec::with_capacity(9)).submit_with(2).unwrap();
    rig.assert_quiet();
    rig.submitter.shutdown(LONG);
    thread::scope(|scope| {
        let pattern = &pattern;
        scope.spawn(move || {
            pattern.receive(&mut peer, LEN);
            assert_eq!(peer.read(&mut [0]).unwrap(), 0, "a clean end");
        });
        let rest = rig.rest();
        assert_eq!(rest.len(), 2, "{rest:?}");
        for taken in rest {
            match taken {
                Taken::Done(_, 1, got) => assert_eq!(got.wrote().as_slice().unwrap().len(), LEN),
                Taken::Done(_, 2, got) => {
                    let failure = got.failed();
                    assert!(matches!(failure.error, OpError::Aborted), "{failure:?}");
                    assert_eq!(failure.buffer.unwrap().into_vec().unwrap().capacity(), 9);
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

/// What a peer has sent and nobody has read must not turn the end of its answers into a reset.
fn unread_input_costs_no_tail<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    rig.assert_quiet();
    peer.write_all(&[7; 50_000]).unwrap();
    conn.write(Pattern::new().first(10_000)).submit_with(1).unwrap();
    rig.outcome().wrote();
    rig.submitter.shutdown(LONG);
    assert!(rig.rest().is_empty());
    assert_eq!(read_to_its_end(&mut peer), (10_000, None));
}

/// A graceful close that is under way goes on, too.
fn the_grace_lets_closes_finish<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.close_within = LONG);
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.close().submit_with(1).unwrap();
    rig.assert_quiet();
    rig.submitter.shutdown(LONG);
    thread::scope(|scope| {
        scope.spawn(move || assert_eq!(read_to_its_end(&mut peer), (0, None)));
        let rest = rig.rest();
        assert!(matches!(rest.as_slice(), [Taken::Done(_, 1, Got::Closed)]), "{rest:?}");
    });
    assert_eq!(rig.counters().closed_hard, 0);
}

fn the_grace_is_over<D: Drive>() {
    const LEN: usize = 16 << 20;
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.write(vec![1; LEN]).submit_with(1).unwrap();
    conn.write(b"behind it").submit_with(2).unwrap();
    conn.close().submit_with(3).unwrap();
    rig.assert_quiet();
    // Of several shutdowns the earliest deadline counts.
    rig.submitter.shutdown(LONG);
    rig.submitter.shutdown(Duration::from_millis(30));
    rig.submitter.shutdown(LONG);
    let rest = rig.rest();
    let [Taken::Done(_, 1, Got::Failed(torn)), Taken::Done(_, 2, Got::Failed(next)), Taken::Done(_, 3, Got::Closed)] =
        rest.as_slice()
    else {
        panic!("{rest:?}")
    };
    assert!(matches!(torn.error, OpError::Aborted) && matches!(next.error, OpError::Aborted));
    assert!((1..LEN).contains(&torn.transferred) && next.transferred == 0);
    assert_eq!(read_to_its_end(&mut peer).1, Some(ErrorKind::ConnectionReset));
}

fn what_comes_after_a_shutdown_is_refused_whole<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, _peer) = rig.connect(Net::Unix);
    let (other, mut other_peer) = Net::Unix.pair();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    rig.submitter.shutdown(LONG);

    for round in 0..2 {
        let buffer = b"hello".to_vec();
        let at = buffer.as_ptr();
        let refused = conn.write(buffer).submit_with(7).unwrap_err();
        assert_eq!((refused.kind, refused.context), (SubmitErrorKind::Closed, 7));
        let back = refused.buffer.unwrap().into_vec().unwrap();
        assert_eq!((back.as_ptr(), back.as_slice()), (at, &b"hello"[..]));
        assert_eq!(conn.read(back).try_submit().unwrap_err().kind, SubmitErrorKind::Closed);
        assert_eq!(conn.close().submit().unwrap_err().kind, SubmitErrorKind::Closed);
        let refused = rig.submitter.post(8).unwrap_err();
        assert_eq!((refused.kind, refused.context), (SubmitErrorKind::Closed, 8));
        assert_eq!(rig.submitter.load(), 0, "what was refused is not in flight");
        if round == 0 {
            // Before the loop has noticed, and after it has ended.
            assert!(rig.rest().is_empty());
        }
    }
    let refused = rig.submitter.delegate(other).unwrap_err();
    assert!(matches!(refused.kind, DelegateErrorKind::Closed));
    assert_eq!(rustix::io::write(&refused.socket, b"still ours"), Ok(10));
    drop(refused);
    assert_eq!(read_all(&mut other_peer), b"still ours");
    let refused = rig.submitter.listen(listener).unwrap_err();
    assert!(matches!(refused.kind, DelegateErrorKind::Closed));
    let listener = TcpListener::from(refused.socket);
    assert_eq!(listener.local_addr().unwrap(), address);
}

fn waiting_after_the_end_says_closed_every_time<D: Drive>() {
    let mut rig = Rig::<D>::new();
    rig.submitter.post(1).unwrap();
    rig.submitter.shutdown(Duration::ZERO);
    assert_eq!(rig.rest().len(), 1);
    for _ in 0..3 {
        assert_eq!(rig.watcher.wait().err(), Some(WaitError::Closed));
        assert_eq!(rig.watcher.wait_timeout(Duration::from_millis(1)).err(), Some(WaitError::Closed));
    }
}

/// A listener's end is told like any other.
fn a_listener_ends_with_the_loop<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let listener = rig.submitter.listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    rig.assert_quiet();
    rig.submitter.shutdown(Duration::ZERO);
    let rest = rig.rest();
    assert!(matches!(rest.as_slice(), [Taken::Ended(id, None)] if *id == listener.id()), "{rest:?}");
}

both_drives!(
    the_grace_lets_queued_writes_out,
    the_grace_lets_closes_finish,
    unread_input_costs_no_tail,
    the_grace_is_over,
    what_comes_after_a_shutdown_is_refused_whole,
    waiting_after_the_end_says_closed_every_time,
    a_listener_ends_with_the_loop,
);

#[test]
fn try_wait_after_the_end_says_closed_every_time() {
    check(|| {
        let (mut watcher, submitter) = Watcher::spawn(gaio::Options::default()).unwrap();
        assert_eq!(watcher.try_wait().unwrap().len(), 0);
        submitter.shutdown(Duration::ZERO);
        assert_eq!(watcher.wait().err(), Some(WaitError::Closed));
        assert_eq!(watcher.try_wait().err(), Some(WaitError::Closed));
        assert_eq!(watcher.try_wait().err(), Some(WaitError::Closed));
    });
}

// --- nothing lost, nothing twice ------------------------------------------------------------------------------------

/// How many there are. Each of them takes itself off the count when it is dropped: one too many drops, and the count is
/// wrong in the other direction.
#[derive(Clone, Default)]
struct Census {
    made: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

struct Citizen(Census);

impl Census {
    fn citizen(&self) -> Citizen {
        self.made.fetch_add(1, Ordering::Relaxed);
        Citizen(self.clone())
    }

    fn payload(&self, len: usize) -> Bytes {
        struct Owner(Vec<u8>, #[expect(dead_code, reason = "it is there to be dropped")] Citizen);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Bytes::from_owner(Owner(vec![1; len], self.citizen()))
    }

    fn alive(&self) -> u64 {
        self.made.load(Ordering::Relaxed) - self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Citizen {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// G7: contexts and buffers in the ring, in the queues, blocked half-way, in the residue, in the mailbox, in a batch
/// taken half: all of them are dropped by the drop of the watcher, and each once.
fn dropped_with_everything_in_flight<D: Drive<Citizen>>() {
    for take in [false, true] {
        let census = Census::default();
        let mut rig = Rig::<D, Citizen>::with(|limits| limits.batch = 4);
        let mut ends = Vec::new();
        for _ in 0..5 {
            let (conn, peer) = rig.connect(Net::Unix);
            for _ in 0..3 {
                conn.read(Vec::with_capacity(8)).submit_with(census.citizen()).unwrap();
                conn.write(census.payload(10)).submit_with(census.citizen()).unwrap();
                conn.write(census.payload(1 << 20)).then_read_leased().submit_with(census.citizen()).unwrap();
            }
            ends.push((conn, peer));
        }
        for _ in 0..20 {
            rig.submitter.post(census.citizen()).unwrap();
        }
        if take {
            // Two of a batch are taken, and one of them is kept.
            let kept = rig.next();
            drop(rig.next());
            assert!(census.alive() > 10);
            let held = if matches!(kept, Taken::Done(_, _, Got::Wrote(_))) { 2 } else { 1 };
            drop(rig.watcher);
            assert_eq!(census.alive(), held, "all but what we hold");
            drop(kept);
        } else {
            drop(rig.watcher);
        }
        assert_eq!(census.alive(), 0);
        assert!(census.made.load(Ordering::Relaxed) >= 95);
        for (_, peer) in &mut ends {
            // Aborted in the middle of a message or not: the stream is over either way.
            read_to_its_end(peer);
        }
    }
}

#[test]
fn a_spawned_watcher_is_dropped_with_everything_in_flight() {
    check(dropped_with_everything_in_flight::<Watcher<Citizen>>);
}

#[test]
fn an_embedded_watcher_is_dropped_with_everything_in_flight() {
    check(dropped_with_everything_in_flight::<EmbeddedWatcher<Citizen>>);
}

/// The last batch waits for the cell like any other, and whoever looks for room may be the one that hands it over: the
/// loop must learn of it all the same, or the drop joins it for ever.
/// Bytes that hold a watcher.
struct Holder {
    _watcher: Watcher<u64>,
}

impl AsRef<[u8]> for Holder {
    fn as_ref(&self) -> &[u8] {
        b"last words"
    }
}

/// G7, G3: a drop on the loop's own thread cannot wait for the loop, and does not.
#[test]
fn a_watcher_that_its_own_loop_drops_ends_all_the_same() {
    check(|| {
        let before = descriptors();
        let (watcher, submitter) = Watcher::<u64>::spawn_for(gaio::Options::default()).unwrap();
        let (ours, mut peer) = Net::Unix.pair();
        let (other, mut others_peer) = Net::Unix.pair();
        let conn = submitter.delegate(ours).unwrap();
        let other = submitter.delegate(other).unwrap();
        other.read(Vec::with_capacity(8)).submit_with(2).unwrap();
        // The payload of a linked write is dropped by the loop, once it is out.
        conn.write(Bytes::from_owner(Holder { _watcher: watcher })).then_read_leased().submit_with(1).unwrap();
        assert_eq!(read_to_its_end(&mut peer).0, 10);
        assert_eq!(read_to_its_end(&mut others_peer), (0, None));
        until(|| submitter.post(3).is_err());
        drop((conn, other, submitter, peer, others_peer));
        // Nobody can join the loop's thread, so its own descriptors go when it gets to it.
        until(|| descriptors() == before);
    });
}

#[test]
fn dropped_behind_a_full_batch() {
    check(|| {
        for round in 0..40 {
            let rig = Rig::<Watcher<u64>>::with(|limits| (limits.batch, limits.ops_per_turn) = (2, 1));
            let ends: Vec<_> = (0..4).map(|_| rig.connect(Net::Unix)).collect();
            for (conn, peer) in &ends {
                let mut peer = peer;
                peer.write_all(&[1; 50]).unwrap();
                (0..50).for_each(|context| conn.read(Vec::with_capacity(1)).submit_with(context).unwrap());
            }
            if round % 2 == 0 {
                until(|| rig.counters().residues > 0);
            }
            drop(rig.watcher);
        }
    });
}

/// The same, with submitters at work while the watcher goes.
#[test]
fn dropped_under_the_hands_of_its_submitters() {
    check(|| {
        for round in 0..20 {
            let census = Census::default();
            let mut rig = Rig::<Watcher<Citizen>, Citizen>::with(|limits| limits.ring_slots = 8);
            let (conn, peer) = rig.connect(Net::Unix);
            thread::scope(|scope| {
                for _ in 0..4 {
                    let (conn, submitter, census) = (conn.clone(), rig.submitter.clone(), census.clone());
                    scope.spawn(move || {
                        loop {
                            let one = conn.write(census.payload(3)).submit_with(census.citizen());
                            let two = submitter.post(census.citizen());
                            let closed = |kind| kind == SubmitErrorKind::Closed;
                            if one.is_err_and(|e| closed(e.kind)) || two.is_err_and(|e| closed(e.kind)) {
                                return;
                            }
                        }
                    });
                }
                for _ in 0..round {
                    rig.next();
                }
                drop(rig.watcher);
            });
            assert_eq!(census.alive(), 0);
            drop(peer);
        }
    });
}

// --- races ----------------------------------------------------------------------------------------------------------

/// G1: `Ok` means that a completion will come, whatever happens at the same moment.
#[test]
fn submitting_against_a_shutdown() {
    check(|| {
        for round in 0..30_u64 {
            let mut rig = Rig::<Watcher<u64>>::with(|limits| limits.ring_slots = 16);
            let (conn, peer) = rig.connect(Net::Unix);
            let accepted = AtomicUsize::new(0);
            let mut completed = 0;
            thread::scope(|scope| {
                for worker in 0..4 {
                    let (conn, submitter, accepted): (Conn<u64>, Submitter<u64>, _) =
                        (conn.clone(), rig.submitter.clone(), &accepted);
                    scope.spawn(move || {
                        for i in 0.. {
                            let outcome = match (i + worker) % 3 {
                                0 => submitter.post(i),
                                1 => conn.read(Vec::with_capacity(8)).submit_with(i),
                                _ => conn.readable().try_submit_with(i),
                            };
                            match outcome.map_err(|refused| refused.kind) {
                                Ok(()) => _ = accepted.fetch_add(1, Ordering::Relaxed),
                                Err(SubmitErrorKind::Closed) => return,
                                Err(SubmitErrorKind::Full | SubmitErrorKind::TooMany) => thread::yield_now(),
                                Err(other) => panic!("{other:?}"),
                            }
                        }
                    });
                }
                let submitter = rig.submitter.clone();
                let accepted = &accepted;
                scope.spawn(move || {
                    let some = usize::try_from(round * 37).unwrap();
                    until(|| accepted.load(Ordering::Relaxed) >= some);
                    submitter.shutdown(if round % 2 == 0 { Duration::ZERO } else { LONG });
                });
                completed = rig.rest().len();
            });
            assert_eq!(completed, accepted.load(Ordering::Relaxed));
            assert_eq!(rig.submitter.load(), 0);
            drop(peer);
        }
    });
}

/// A submitter that waits for room in a ring that nobody will drain again must be told.
#[test]
fn a_parked_submitter_is_woken_by_a_shutdown() {
    check(|| {
        let mut rig = Rig::<EmbeddedWatcher<u64>>::with(|limits| limits.ring_slots = 2);
        let (conn, _peer) = rig.connect(Net::Unix);
        let waiting = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (submitter, waiting) = (rig.submitter.clone(), &waiting);
            let parked = scope.spawn(move || {
                submitter.post(1).unwrap();
                submitter.post(2).unwrap();
                waiting.store(1, Ordering::Release);
                conn.write(vec![3; 3]).submit_with(3)
            });
            until(|| waiting.load(Ordering::Acquire) == 1);
            // Gives it time to park; should it be late, it meets the closed ring, and the test shows less.
            thread::sleep(Duration::from_millis(100));
            assert!(!parked.is_finished(), "there was room for three in a ring of two");
            rig.submitter.shutdown(Duration::ZERO);
            let refused = parked.join().unwrap().unwrap_err();
            assert_eq!((refused.kind, refused.context), (SubmitErrorKind::Closed, 3));
            assert_eq!(refused.buffer.unwrap().as_slice().unwrap(), [3; 3]);
        });
        assert_eq!(rig.rest().len(), 2, "what had been accepted completes");
    });
}

/// The consumer is asleep in `wait` when another thread ends the loop.
#[test]
fn a_waiting_consumer_is_woken_by_a_shutdown() {
    check(|| {
        let (mut watcher, submitter) = Watcher::spawn(gaio::Options::default()).unwrap();
        let (ours, _peer) = Net::Unix.pair();
        let conn = submitter.delegate(ours).unwrap();
        conn.read(Vec::with_capacity(8)).submit().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(50));
                submitter.shutdown(Duration::ZERO);
            });
            let events: Vec<_> = watcher.wait().unwrap().collect();
            let [Event::Done { outcome: Outcome::Failed(failure), .. }] = events.as_slice() else {
                panic!("{events:?}")
            };
            assert!(matches!(failure.error, OpError::Aborted));
        });
        assert_eq!(watcher.wait().err(), Some(WaitError::Closed));
    });
}
