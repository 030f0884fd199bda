//! Handles: the last one closes, an operation in flight counts as one, and none reaches another's connection.

mod support;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use gaio::{Conn, Event, OpError, Outcome, Watcher};
use support::{Drive, NETS, Net, Rig, both_drives, check, descriptors, finish, read_all, until};

/// G7.
fn dropping_the_last_handle_closes_gracefully<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let clone = conn.clone();
        peer.write_all(b"never read by us").unwrap();
        rig.assert_quiet();
        drop(conn);
        rig.assert_quiet();
        assert_eq!(rig.counters().sessions, 1, "there is a handle left");
        // A write is in flight when the last handle goes: the completion carries another.
        clone.write(b"bye").submit().unwrap();
        drop(clone);
        rig.outcome().wrote();
        rig.assert_quiet();
        assert_eq!(read_all(&mut peer), b"bye", "and then a clean end");
        drop(peer);
        while rig.counters().sessions > 0 {
            rig.assert_quiet();
        }
    }
}

/// G7: dropped before the loop has even heard of it.
fn dropped_right_after_it_was_delegated<D: Drive>() {
    let mut rig = Rig::<D>::new();
    for _ in 0..100 {
        let (conn, mut peer) = rig.connect(Net::Unix);
        drop(conn);
        if !D::SPAWNED {
            rig.assert_quiet();
        }
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    }
    while rig.counters().sessions > 0 {
        rig.assert_quiet();
    }
}

/// G7.
fn an_operation_in_flight_keeps_it_open<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        conn.read(Vec::with_capacity(8)).submit().unwrap();
        drop(conn);
        rig.assert_quiet();
        peer.write_all(b"hello").unwrap();
        let (conn, _, got) = rig.done();
        conn.write(got.read()).submit().unwrap();
        drop(conn);
        rig.outcome().wrote();
        rig.assert_quiet();
        assert_eq!(read_all(&mut peer), b"hello");
    }
}

/// A completion that nobody takes holds its handle, hence its connection.
fn an_untaken_completion_keeps_it_open<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    rig.submitter.post(1).unwrap();
    conn.write(b"a").submit_with(2).unwrap();
    conn.write(b"b").submit_with(3).unwrap();
    drop(conn);
    // Takes one of the batch, which keeps the rest.
    let support::Taken::Posted(1) = rig.next() else { panic!() };
    let (conn, context, _) = rig.done();
    assert_eq!((context, rig.counters().sessions), (2, 1));
    drop(conn);
    let (conn, context, _) = rig.done();
    conn.write(b"c").submit().unwrap();
    drop(conn);
    assert_eq!(context, 3);
    rig.outcome().wrote();
    rig.assert_quiet();
    assert_eq!(read_all(&mut peer), b"abc");
}

fn the_last_handle_is_dropped_by_another_thread<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    rig.assert_quiet();
    thread::scope(|scope| {
        let submitter = rig.submitter.clone();
        scope.spawn(move || {
            drop(conn);
            assert_eq!(read_all(&mut peer), b"");
            drop(peer);
            submitter.post(1).unwrap();
        });
        assert!(matches!(rig.next(), support::Taken::Posted(1)));
    });
    while rig.counters().sessions > 0 {
        rig.assert_quiet();
    }
}

/// A handle that hides in a payload is dropped by the loop itself, in the middle of a turn: nobody else will look.
fn the_last_handle_is_dropped_by_the_loop<D: Drive>() {
    struct Owner(Conn<u64>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            assert!(self.0.peer_addr().is_none());
            b"hello"
        }
    }
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    let (victim, mut its_peer) = rig.connect(Net::Unix);
    rig.assert_quiet();
    // Spent by a linked write, so the loop drops it when it is out.
    conn.write(Bytes::from_owner(Owner(victim))).then_read_leased().submit().unwrap();
    rig.assert_quiet();
    assert_eq!(support::read_some(&mut peer, 5), b"hello");
    if D::SPAWNED {
        // Without any help from us.
        assert_eq!(its_peer.read(&mut [0; 8]).unwrap(), 0);
    } else {
        rig.assert_quiet();
        assert_eq!(its_peer.read(&mut [0; 8]).unwrap(), 0);
    }
}

/// G6: the next connection most likely has the descriptor and the place of the one before.
fn a_stale_handle_never_reaches_another_connection<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let mut stale: Vec<Conn<u64>> = Vec::new();
    for round in 0..50 {
        let (conn, mut peer) = rig.connect(Net::Unix);
        peer.write_all(b"private").unwrap();
        for old in &stale {
            old.read(Vec::with_capacity(64)).submit_with(1).unwrap();
            old.write(b"for somebody else").submit_with(1).unwrap();
            old.release().submit_with(2).unwrap();
        }
        for _ in 0..3 * stale.len() {
            let (_, context, got) = rig.done();
            match context {
                1 => assert!(matches!(got.failed().error, OpError::Closed)),
                _ => got.closed(),
            }
        }
        conn.read(Vec::with_capacity(64)).submit().unwrap();
        assert_eq!(rig.outcome().read(), b"private", "round {round}");
        conn.release().submit().unwrap();
        rig.outcome().closed();
        assert_eq!(read_all(&mut peer), b"");
        stale.push(conn);
        if stale.len() > 4 {
            stale.remove(0);
        }
    }
}

/// G6 within one batch of events: the first of two ready connections is released while the event of the second, which
/// is released as well, has been fetched already; a third takes over a descriptor.
fn released_with_its_event_on_the_way<D: Drive>() {
    let mut rig = Rig::<D>::new();
    for _ in 0..50 {
        let pairs: Vec<_> = (0..4).map(|_| rig.connect(Net::Unix)).collect();
        rig.assert_quiet();
        for (conn, peer) in &pairs {
            let mut peer = peer;
            peer.write_all(b"event").unwrap();
            conn.release().submit().unwrap();
        }
        let (fresh, mut peer) = rig.connect(Net::Unix);
        fresh.read(Vec::with_capacity(64)).submit_with(1).unwrap();
        for _ in 0..4 {
            rig.outcome().closed();
        }
        rig.assert_quiet();
        peer.write_all(b"mine").unwrap();
        assert_eq!(rig.outcome().read(), b"mine");
        fresh.release().submit().unwrap();
        rig.outcome().closed();
    }
}

/// G2: delegated here, used there, before the loop has had a turn. Embedded, the delegation is in the local queue and
/// the operation in the ring.
fn used_by_another_thread_right_after_it_was_delegated<D: Drive>() {
    let mut rig = Rig::<D>::new();
    for _ in 0..20 {
        let (conn, mut peer) = rig.connect(Net::Unix);
        rig.submitter.post(1).unwrap();
        thread::scope(|scope| _ = scope.spawn(|| conn.write(b"hello").submit_with(2).unwrap()));
        let (mut posted, mut written) = (false, false);
        while !(posted && written) {
            match rig.next() {
                support::Taken::Posted(1) => posted = true,
                support::Taken::Done(_, 2, got) => written = got.wrote().as_slice().unwrap() == b"hello",
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(support::read_some(&mut peer, 5), b"hello");
    }
}

/// G2: what was submitted before by happens-before goes first, whichever way it took. Embedded, the first write is in
/// the local queue, the second in the ring.
fn a_write_here_and_then_a_write_there<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    rig.assert_quiet();
    conn.write(b"first ").submit_with(1).unwrap();
    thread::scope(|scope| _ = scope.spawn(|| conn.write(b"second ").submit_with(2).unwrap()));
    conn.write(b"third").submit_with(3).unwrap();
    let order = [rig.done().1, rig.done().1, rig.done().1];
    assert_eq!(support::read_some(&mut peer, 18), b"first second third");
    assert_eq!(order, [1, 2, 3]);
}

/// As above: a close is behind everything that was submitted before it.
fn a_write_here_and_then_a_close_there<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    rig.assert_quiet();
    conn.write(b"bye").submit_with(1).unwrap();
    thread::scope(|scope| _ = scope.spawn(|| conn.close().submit_with(2).unwrap()));
    let (_, context, got) = rig.done();
    got.wrote();
    assert_eq!((context, support::read_some(&mut peer, 3).as_slice()), (1, &b"bye"[..]));
    drop(peer);
    rig.outcome().closed();
}

/// The watcher goes first; handles stay harmless.
fn handles_that_outlive_their_watcher<D: Drive>() {
    let rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    conn.read(Vec::with_capacity(8)).submit().unwrap();
    let Rig { watcher, submitter, .. } = rig;
    drop(watcher);
    assert_eq!(read_all(&mut peer), b"");
    let clone = conn.clone();
    let refused = conn.write(b"x".to_vec()).submit_with(3).unwrap_err();
    assert_eq!((refused.kind, refused.context), (gaio::SubmitErrorKind::Closed, 3));
    assert_eq!(refused.buffer.unwrap().as_slice().unwrap(), b"x");
    drop(submitter);
    thread::spawn(move || drop(clone)).join().unwrap();
    drop(conn);
}

both_drives!(
    dropping_the_last_handle_closes_gracefully,
    dropped_right_after_it_was_delegated,
    an_operation_in_flight_keeps_it_open,
    an_untaken_completion_keeps_it_open,
    the_last_handle_is_dropped_by_another_thread,
    the_last_handle_is_dropped_by_the_loop,
    a_stale_handle_never_reaches_another_connection,
    released_with_its_event_on_the_way,
    used_by_another_thread_right_after_it_was_delegated,
    a_write_here_and_then_a_write_there,
    a_write_here_and_then_a_close_there,
    handles_that_outlive_their_watcher,
);

/// G1, G6, G7 under stress: connections come and go while other threads still use handles to them. Each peer speaks
/// only its own number, so whatever is read through a handle must be the number of that handle.
#[test]
fn ten_thousand_connections_recycled_under_concurrent_handles() {
    check(|| {
        const THREADS: u64 = 4;
        const EACH: u64 = 2_500;
        let mut rig = Rig::<Watcher<u64>>::new();
        let (accepted, before) = (AtomicUsize::new(0), descriptors());
        let mut completed = 0;
        thread::scope(|scope| {
            let (accepted, submitter) = (&accepted, &rig.submitter);
            let workers: Vec<_> = (0..THREADS)
                .map(|worker| {
                    scope.spawn(move || {
                        let mut old: Vec<(u64, Conn<u64>)> = Vec::new();
                        let count = || accepted.fetch_add(1, Ordering::Relaxed);
                        for i in 0..EACH {
                            let number = worker * EACH + i;
                            let (ours, mut peer) = Net::Unix.pair();
                            let conn = submitter.delegate(ours).unwrap();
                            peer.write_all(&number.to_le_bytes()).unwrap();
                            conn.read(Vec::with_capacity(64)).submit_with(number).unwrap();
                            count();
                            // A handle from some time ago: open, closing or long gone.
                            if let Some((number, conn)) = old.get(old.len().wrapping_sub(5)) {
                                conn.read(Vec::with_capacity(64)).submit_with(*number).unwrap();
                                count();
                            }
                            match i % 3 {
                                0 => drop(peer),
                                1 => finish(&peer),
                                _ => {
                                    conn.release().submit_with(number).unwrap();
                                    count();
                                }
                            }
                            old.push((number, conn));
                            if old.len() > 20 {
                                old.remove(0);
                            }
                        }
                    })
                })
                .collect();
            while !(workers.iter().all(thread::ScopedJoinHandle::is_finished)
                && completed == accepted.load(Ordering::Relaxed))
            {
                let batch = rig.watcher.wait_timeout(std::time::Duration::from_millis(10)).unwrap();
                for event in batch {
                    let Event::Done { context, outcome, .. } = event else { panic!() };
                    completed += 1;
                    match outcome {
                        Outcome::Read(bytes) => assert_eq!(bytes, context.to_le_bytes(), "another's data"),
                        Outcome::Eof(Some(_)) | Outcome::Closed => {}
                        Outcome::Failed(failure) => match failure.error {
                            OpError::Closed | OpError::Released => {}
                            // A Unix peer that leaves with our input unread resets; here there is none.
                            other => panic!("{other:?}"),
                        },
                        other => panic!("{other:?}"),
                    }
                }
            }
        });
        // All handles and all peers are gone: so are the sessions and their descriptors.
        until(|| rig.counters().sessions == 0);
        assert_eq!((descriptors(), rig.submitter.load()), (before, 0));
        assert_eq!(completed as u64, rig.counters().completed);
    });
}
