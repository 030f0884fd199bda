//! What happens when somebody does not keep up: the ring is full, a limit is reached, the consumer does not come.
//!
//! G1 (nothing is lost), G3 (the loop never blocks, what waits is bounded), G10 (limits).

mod support;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use gaio::{EmbeddedWatcher, Event, Outcome, SubmitErrorKind, Watcher};
use support::{Drive, Net, Pattern, Rig, Taken, both_drives, check, read_all, read_some, until};

// --- the ring -------------------------------------------------------------------------------------------------------

/// Another thread's submissions to an embedded loop stay in the ring until its next turn, so here the ring is full for
/// as long as we like.
#[test]
fn a_full_ring_refuses_what_may_not_wait() {
    check(|| {
        let mut rig = Rig::<EmbeddedWatcher<u64>>::with(|limits| limits.ring_slots = 2);
        let (conn, _peer) = rig.connect(Net::Unix);
        rig.assert_quiet();
        thread::scope(|scope| {
            scope.spawn(|| {
                conn.readable().try_submit_with(1).unwrap();
                conn.readable().try_submit_with(2).unwrap();
                let buffer = vec![3; 30];
                let at = buffer.as_ptr();
                let refused = conn.write(buffer).try_submit_with(3).unwrap_err();
                assert_eq!((refused.kind, refused.context), (SubmitErrorKind::Full, 3));
                let buffer = refused.buffer.unwrap().into_vec().unwrap();
                assert_eq!((buffer.as_ptr(), buffer.as_slice()), (at, &[3; 30][..]));
                let refused = conn.write(buffer).submit_timeout_with(4, Duration::from_millis(20)).unwrap_err();
                assert_eq!((refused.kind, refused.context), (SubmitErrorKind::Full, 4));
                assert_eq!(refused.buffer.unwrap().as_slice().unwrap(), [3; 30]);
            });
        });
        assert_eq!(rig.submitter.load(), 2);
        // Its own thread is never refused: it does not use the ring.
        for context in 10..20 {
            rig.submitter.post(context).unwrap();
        }
        for context in 10..20 {
            let Taken::Posted(got) = rig.next() else { panic!() };
            assert_eq!(got, context);
        }
    });
}

#[test]
fn a_submitter_parks_until_there_is_room() {
    check(|| {
        const POSTS: u64 = 1_000;
        let mut rig = Rig::<EmbeddedWatcher<u64>>::with(|limits| limits.ring_slots = 2);
        let submitter = &rig.submitter.clone();
        thread::scope(|scope| {
            for worker in 0..3 {
                scope.spawn(move || (0..POSTS).for_each(|i| submitter.post(worker * POSTS + i).unwrap()));
            }
            // Each thread's posts in the order it made them (G2).
            let mut next = [0; 3];
            while next != [POSTS; 3] {
                let Taken::Posted(context) = rig.next() else { panic!() };
                let worker = usize::try_from(context / POSTS).unwrap();
                assert_eq!(context % POSTS, next[worker]);
                next[worker] += 1;
            }
        });
    });
}

#[test]
fn a_submission_with_a_time_to_wait_gets_the_room_that_comes() {
    check(|| {
        let mut rig = Rig::<EmbeddedWatcher<u64>>::with(|limits| limits.ring_slots = 2);
        let (conn, _peer) = rig.connect(Net::Unix);
        rig.assert_quiet();
        let (submitter, conn) = (&rig.submitter.clone(), &conn);
        thread::scope(|scope| {
            let waiting = scope.spawn(move || {
                submitter.post(1).unwrap();
                submitter.post(2).unwrap();
                conn.write(b"x").submit_timeout_with(3, support::LONG)
            });
            until(|| submitter.load() >= 3);
            for expected in 1..3 {
                assert!(matches!(rig.next(), Taken::Posted(context) if context == expected));
            }
            assert_eq!(rig.done().1, 3);
            waiting.join().unwrap().unwrap();
        });
    });
}

/// A spawned loop always makes room, so the very thread that takes the completions may submit as it likes.
#[test]
fn the_consumer_may_submit_into_a_tiny_ring() {
    check(|| {
        let mut rig = Rig::<Watcher<u64>>::with(|limits| (limits.ring_slots, limits.batch) = (2, 2));
        for context in 0..5_000 {
            rig.submitter.post(context).unwrap();
        }
        for context in 0..5_000 {
            assert!(matches!(rig.next(), Taken::Posted(got) if got == context));
        }
    });
}

// --- limits ---------------------------------------------------------------------------------------------------------

fn too_many_operations_for_one_connection<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.ops_per_conn = 4);
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let (other, _other_peer) = rig.connect(Net::Tcp);
    for context in 0..4 {
        conn.read(Vec::with_capacity(1)).submit_with(context).unwrap();
    }
    let refused = conn.write(b"fifth".to_vec()).submit_with(4).unwrap_err();
    assert_eq!((refused.kind, refused.context), (SubmitErrorKind::TooMany, 4));
    assert_eq!(refused.buffer.unwrap().as_slice().unwrap(), b"fifth");
    other.readable().submit().unwrap();
    // In flight until it is handed out: one out, one in.
    peer.write_all(b"a").unwrap();
    assert_eq!(rig.done().1, 0);
    conn.read(Vec::with_capacity(1)).submit_with(4).unwrap();
    assert_eq!(conn.read(Vec::with_capacity(1)).submit().unwrap_err().kind, SubmitErrorKind::TooMany);
    peer.write_all(b"bcde").unwrap();
    for context in 1..5 {
        assert_eq!(rig.done().1, context);
    }
    assert_eq!(rig.submitter.load(), 1);
}

fn too_many_operations_for_the_loop<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.ops = 4);
    let (one, _peer_one) = rig.connect(Net::Tcp);
    let (two, mut peer_two) = rig.connect(Net::Tcp);
    for conn in [&one, &two, &one] {
        conn.read(Vec::with_capacity(1)).submit().unwrap();
    }
    two.write(b"x").submit_with(1).unwrap();
    let refused = two.read(Vec::with_capacity(9)).submit_with(5).unwrap_err();
    assert_eq!((refused.kind, refused.context), (SubmitErrorKind::TooMany, 5));
    assert_eq!(refused.buffer.unwrap().into_vec().unwrap().capacity(), 9);
    let refused = rig.submitter.post(6).unwrap_err();
    assert_eq!((refused.kind, refused.context), (SubmitErrorKind::TooMany, 6));
    assert_eq!(rig.done().1, 1);
    rig.submitter.post(7).unwrap();
    assert!(matches!(rig.next(), Taken::Posted(7)));
    assert_eq!(read_some(&mut peer_two, 1), b"x");
}

/// The bytes of a write that is done are free again, however it was done.
fn too_many_bytes<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.write_bytes = 1_000);
    let (conn, peer) = rig.connect(Net::Unix);
    let (other, _other_peer) = rig.connect(Net::Unix);
    // One of any size fits, if there is nothing before it.
    conn.write(vec![1; 4 << 20]).submit_with(1).unwrap();
    rig.assert_quiet();
    let refused = other.write(b"x".to_vec()).submit_with(2).unwrap_err();
    assert_eq!((refused.kind, refused.context), (SubmitErrorKind::TooMany, 2));
    assert_eq!(refused.buffer.unwrap().as_slice().unwrap(), b"x");
    // Reads are not writes.
    other.readable().submit_with(3).unwrap();
    drop(peer);
    rig.outcome().failed();
    rig.assert_quiet();
    for _ in 0..10 {
        other.write(vec![1; 1_000]).submit_with(4).unwrap();
        assert_eq!(rig.done().1, 4);
        rig.assert_quiet();
    }
}

fn too_many_sessions<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.sessions = 2);
    let (one, _peer_one) = rig.connect(Net::Unix);
    let (_two, _peer_two) = rig.connect(Net::Unix);
    let (third, mut peer) = Net::Unix.pair();
    let refused = rig.submitter.delegate(third).unwrap_err();
    assert!(matches!(refused.kind, gaio::DelegateErrorKind::TooMany));
    assert_eq!(rustix::io::write(&refused.socket, b"still ours"), Ok(10));
    one.release().submit().unwrap();
    rig.outcome().closed();
    let conn = rig.submitter.delegate(refused.socket).unwrap();
    conn.write(b", then theirs").submit().unwrap();
    rig.outcome().wrote();
    assert_eq!(read_some(&mut peer, 23), b"still ours, then theirs");
}

// --- batches --------------------------------------------------------------------------------------------------------

/// A batch is full at its cap, but for what the step that filled it had in hand.
fn a_batch_keeps_to_its_cap<D: Drive>() {
    const READS: u64 = 400;
    let mut rig = Rig::<D>::with(|limits| (limits.batch, limits.ops_per_turn) = (4, 2));
    let ends: Vec<_> = (0..4).map(|_| rig.connect(Net::Unix)).collect();
    for (conn, _) in &ends {
        for context in 0..READS / 4 {
            conn.read(Vec::with_capacity(1)).submit_with(context).unwrap();
        }
    }
    rig.assert_quiet();
    for (_, peer) in &ends {
        let mut peer = peer;
        peer.write_all(&[1; 100]).unwrap();
    }
    let mut completed = 0;
    while completed < READS {
        let batch = rig.watcher.wait().unwrap();
        assert!((1..=5).contains(&batch.len()), "a batch of {}", batch.len());
        completed += batch.count() as u64;
    }
    rig.assert_quiet();
}

/// G1: what is left of a batch comes first, by whatever way one waits, and none of it twice. G5: with its bytes.
fn a_batch_dropped_half_way<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.read_cap, limits.arena) = (1, 7));
    let (conn, mut peer) = rig.connect(Net::Unix);
    let pattern = Pattern::new();
    peer.write_all(pattern.at(0, 100)).unwrap();
    for context in 0..100 {
        conn.read_pooled().submit_with(context).unwrap();
    }
    let (mut next, mut way) = (0, 0);
    while next < 100 {
        way += 1;
        let batch = match way % 3 {
            0 => rig.watcher.wait(),
            1 => rig.watcher.wait_timeout(Duration::ZERO),
            _ => rig.watcher.wait_timeout(support::LONG),
        };
        for event in batch.unwrap().take(3) {
            let Event::Done { context, outcome: Outcome::Pooled(bytes), .. } = event else { panic!("{event:?}") };
            assert_eq!((context, bytes), (next, pattern.at(usize::try_from(next).unwrap(), 1)));
            next += 1;
        }
    }
    rig.assert_quiet();
}

/// As above, to the letter: ten posts taken in threes come in their order.
fn the_rest_of_a_batch_comes_in_order<D: Drive>() {
    let mut rig = Rig::<D>::new();
    for context in 0..10 {
        rig.submitter.post(context).unwrap();
    }
    let mut next = 0;
    while next < 10 {
        for event in rig.watcher.wait().unwrap().take(3) {
            assert!(matches!(event, Event::Posted(context) if context == next), "{event:?}");
            next += 1;
        }
    }
    assert_eq!(rig.submitter.load(), 0);
}

both_drives!(
    too_many_operations_for_one_connection,
    too_many_operations_for_the_loop,
    too_many_bytes,
    too_many_sessions,
    a_batch_keeps_to_its_cap,
    a_batch_dropped_half_way,
    the_rest_of_a_batch_comes_in_order,
);

// --- a consumer that does not come ----------------------------------------------------------------------------------

/// G3: connections are served all the same; the completions pile up, no higher than the limit, and all come out.
#[test]
fn a_consumer_that_does_not_come() {
    check(|| {
        const OPS: usize = 100; // less than a batch
        let mut rig = Rig::<Watcher<u64>>::with(|limits| limits.ops = OPS);
        let (conn, mut peer) = rig.connect(Net::Unix);
        let mut accepted = 0;
        loop {
            match conn.write(b"x").submit_with(accepted).map_err(|refused| refused.kind) {
                Ok(()) => accepted += 1,
                Err(SubmitErrorKind::TooMany) => break,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!((accepted, rig.submitter.load()), (OPS as u64, OPS as u64));
        // Written, although nobody has asked for a completion yet.
        assert_eq!(read_some(&mut peer, OPS).len(), OPS);
        for context in 0..accepted {
            assert_eq!(rig.done().1, context);
        }
        rig.assert_quiet();
    });
}

/// G3: with a batch of two, and both places taken, what needs no place goes on: the ring is drained, releases are
/// obeyed, dropped handles close.
#[test]
fn a_consumer_that_does_not_come_and_a_batch_that_is_full() {
    check(|| {
        let mut rig = Rig::<Watcher<u64>>::with(|limits| (limits.batch, limits.ring_slots) = (2, 4));
        let (released, mut its_peer) = rig.connect(Net::Unix);
        let (dropped, mut other_peer) = rig.connect(Net::Unix);
        let (greedy, mut feeder) = rig.connect(Net::Unix);
        feeder.write_all(&[1; 100]).unwrap();
        for context in 0..100 {
            greedy.read(Vec::with_capacity(1)).submit_with(context).unwrap();
        }
        until(|| rig.counters().residues > 0);
        released.release().submit_with(1_000).unwrap();
        drop(released);
        drop(dropped);
        assert_eq!(its_peer.read(&mut [0]).unwrap(), 0);
        assert_eq!(other_peer.read(&mut [0]).unwrap(), 0);
        // None is lost, and those of the connection come in order.
        let mut next = 0;
        while next < 100 {
            let (_, context, got) = rig.done();
            match got {
                support::Got::Closed => assert_eq!(context, 1_000),
                got => {
                    assert_eq!((context, got.bytes()), (next, &[1][..]));
                    next += 1;
                }
            }
        }
    });
}

/// G3, G10: listeners have a credit. Beyond it connections wait in the kernel's queue, and come in when there is room.
#[test]
fn a_consumer_that_does_not_take_accepted_connections() {
    check(|| {
        const CREDIT: u64 = 3;
        let mut rig = Rig::<Watcher<u64>>::with(|limits| limits.listen_credit = 3);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listener = rig.submitter.listen(listener).unwrap();
        let mut peers: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        until(|| rig.counters().accepted >= CREDIT);
        support::doze();
        assert!(rig.counters().accepted <= CREDIT, "{} accepted, none taken", rig.counters().accepted);
        let mut conns = Vec::new();
        while conns.len() < peers.len() {
            let Taken::Accepted(conn, id) = rig.next() else { panic!() };
            assert_eq!(id, listener.id());
            conns.push(conn);
        }
        for (i, peer) in peers.iter().enumerate() {
            let conn = conns.iter().find(|conn| conn.peer_addr() == peer.local_addr().ok()).unwrap();
            conn.write(vec![u8::try_from(i).unwrap()]).submit().unwrap();
            rig.outcome().wrote();
        }
        for (i, peer) in peers.iter_mut().enumerate() {
            let mut byte = [0];
            peer.read_exact(&mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), i);
        }
    });
}

/// Everything at once, with every limit tiny: four producers, a slow consumer, and an account that must balance.
#[test]
fn everything_tiny_and_nothing_lost() {
    check(|| {
        const EACH: u64 = 2_000;
        let mut rig = Rig::<Watcher<u64>>::with(|limits| {
            (limits.ring_slots, limits.batch, limits.ops, limits.ops_per_conn) = (2, 2, 8, 4);
            (limits.write_bytes, limits.arena, limits.ops_per_turn) = (64, 16, 1);
        });
        let ends: Vec<_> = (0..4).map(|_| rig.connect(Net::Unix)).collect();
        let written = AtomicU64::new(0);
        thread::scope(|scope| {
            for (conn, _) in &ends {
                let written = &written;
                scope.spawn(move || {
                    let mut made = 0;
                    while made < EACH {
                        match conn.write(vec![1; 3]).submit_with(made).map_err(|refused| refused.kind) {
                            Ok(()) => made += 1,
                            Err(SubmitErrorKind::TooMany) => thread::yield_now(),
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    written.fetch_add(made, Ordering::Relaxed);
                });
            }
            let mut next = vec![0; ends.len()];
            let readers: Vec<_> = ends
                .iter()
                .map(|(_, peer)| {
                    let mut peer = peer.try_clone().unwrap();
                    scope.spawn(move || read_all(&mut peer).len())
                })
                .collect();
            while next.iter().sum::<u64>() < 4 * EACH {
                let (conn, context, got) = rig.done();
                got.wrote();
                let i = ends.iter().position(|(own, _)| *own == conn).unwrap();
                assert_eq!(context, next[i]);
                next[i] += 1;
            }
            for (conn, _) in &ends {
                conn.release().submit().unwrap();
                rig.outcome().closed();
            }
            for reader in readers {
                assert_eq!(reader.join().unwrap() as u64, 3 * EACH);
            }
        });
        assert_eq!(written.into_inner(), 4 * EACH);
        assert_eq!(rig.submitter.load(), 0);
    });
}
