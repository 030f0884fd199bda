//! Writes: all bytes, in order, once; and the same allocation back.

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use gaio::{Half, OpError, Payload, SubmitErrorKind};
use rustix::io::Errno;
use support::{Drive, NETS, Net, Pattern, Rig, both_drives, os_error, read_some, until};

/// G1: with its buffer.
fn every_payload_comes_back_as_the_same_allocation<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);

        let mut vec = Vec::with_capacity(100);
        vec.extend_from_slice(b"a vector");
        let at = vec.as_ptr();
        conn.write(vec).submit_with(1).unwrap();
        let (_, context, got) = rig.done();
        let back = got.wrote().into_vec().unwrap();
        assert_eq!((context, back.as_ptr(), back.capacity(), back.as_slice()), (1, at, 100, &b"a vector"[..]));

        let bytes = Bytes::from(b"shared bytes".to_vec());
        conn.write(bytes.clone()).submit_with(2).unwrap();
        let (_, context, got) = rig.done();
        let Payload::Bytes(back) = got.wrote() else { panic!() };
        assert_eq!((context, back.as_ptr()), (2, bytes.as_ptr()));

        static TEXT: &[u8] = b"for ever";
        conn.write(TEXT).submit_with(3).unwrap();
        let (_, context, got) = rig.done();
        let Payload::Static(back) = got.wrote() else { panic!() };
        assert_eq!((context, back.as_ptr()), (3, TEXT.as_ptr()));

        let borrowed = String::from("only borrowed");
        conn.write_copied(borrowed.as_bytes()).submit_with(4).unwrap();
        drop(borrowed);
        let (_, context, got) = rig.done();
        let Payload::Copied(copied) = got.wrote() else { panic!() };
        assert_eq!((context, copied.len()), (4, 13));

        assert_eq!(read_some(&mut peer, 41), b"a vectorshared bytesfor everonly borrowed");
    }
}

fn a_copy_of_any_size_goes_out_whole<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let pattern = Pattern::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    // On, above and beyond what the pool's buffers hold.
    for n in [1, 16 << 10, (16 << 10) + 1, 256 << 10, (256 << 10) + 1, 1 << 20] {
        conn.write_copied(pattern.at(n, n)).submit().unwrap();
        thread::scope(|scope| {
            let received = scope.spawn(|| read_some(&mut peer, n));
            assert_eq!(rig.outcome().wrote().len(), n);
            assert!(received.join().unwrap() == pattern.at(n, n));
        });
    }
}

fn nothing_to_write_is_refused_with_the_buffer<D: Drive>() {
    let rig = Rig::<D>::new();
    let (conn, _peer) = rig.connect(Net::Unix);
    let refused = conn.write(Vec::with_capacity(5)).submit_with(8).unwrap_err();
    assert_eq!((refused.kind, refused.context), (SubmitErrorKind::EmptyBuffer, 8));
    assert_eq!(refused.buffer.and_then(Payload::into_vec).unwrap().capacity(), 5);
    assert_eq!(conn.write(Bytes::new()).submit().unwrap_err().kind, SubmitErrorKind::EmptyBuffer);
    assert_eq!(conn.write_copied(b"").submit().unwrap_err().kind, SubmitErrorKind::EmptyBuffer);
    assert_eq!(rig.submitter.load(), 0);
}

/// G2, G3, G10: a peer that does not read costs what the limit says, and gets every byte once it does.
fn a_slow_reader<D: Drive>() {
    const CHUNK: usize = 65_539;
    const CAP: u64 = 1 << 20;
    for net in NETS {
        let mut rig = Rig::<D>::with(|limits| limits.write_bytes = CAP);
        let (conn, mut peer) = rig.connect(net);
        let pattern = Pattern::new();
        let chunk = |context: u64| pattern.at(usize::try_from(context).unwrap() * CHUNK, CHUNK).to_vec();
        let mut accepted = 0;
        let refused = loop {
            if let Err(refused) = conn.write(chunk(accepted)).submit_with(accepted) {
                break refused;
            }
            accepted += 1;
            assert!(accepted < 2_000, "more than 128 MB were taken in for a peer that reads nothing");
        };
        assert_eq!((refused.kind, refused.context), (SubmitErrorKind::TooMany, accepted));
        assert!(refused.buffer.unwrap().as_slice().unwrap() == chunk(accepted), "it comes back whole");
        let total = usize::try_from(accepted).unwrap() * CHUNK;
        thread::scope(|scope| {
            let peer = &mut peer;
            let pattern = &pattern;
            scope.spawn(move || pattern.receive(peer, total));
            for context in 0..accepted {
                let (_, got, outcome) = rig.done();
                assert_eq!((got, outcome.wrote().as_slice().unwrap().len()), (context, CHUNK));
            }
        });
        // And the account is clear again.
        rig.assert_quiet();
        for _ in 0..CAP / CHUNK as u64 {
            conn.write(chunk(0)).submit().unwrap();
        }
    }
}

/// A neighbour of a stuck connection is served as ever (G8).
fn a_stuck_neighbour<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (stuck, _deaf) = rig.connect(Net::Unix);
    stuck.write(vec![0; 8 << 20]).submit_with(1).unwrap();
    let (conn, mut peer) = rig.connect(Net::Unix);
    for _ in 0..100 {
        conn.write(b"tick").submit_with(2).unwrap();
        assert_eq!(rig.done().1, 2);
        assert_eq!(read_some(&mut peer, 4), b"tick");
    }
}

/// Many small writes behind a blocked one: partial sends must neither lose nor repeat a byte (G2).
fn many_writes_behind_a_blocked_one<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.bytes_per_turn, limits.ops_per_turn) = (10_007, 3));
    let (conn, mut peer) = rig.connect(Net::Unix);
    let pattern = Pattern::new();
    let (mut at, mut count) = (0, 0);
    for n in [900_001].into_iter().chain((1..900).map(|i| i * 7 % 501 + 1)) {
        conn.write(pattern.at(at, n).to_vec()).submit_with(count).unwrap();
        (at, count) = (at + n, count + 1);
    }
    rig.assert_quiet();
    thread::scope(|scope| {
        let (peer, pattern) = (&mut peer, &pattern);
        scope.spawn(move || pattern.receive(peer, at));
        for context in 0..count {
            let (_, got, outcome) = rig.done();
            outcome.wrote();
            assert_eq!(got, context);
        }
    });
}

/// Nothing may follow a write that failed.
fn writes_to_a_peer_that_has_gone<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, peer) = rig.connect(Net::Unix);
    drop(peer);
    for context in 0..3 {
        conn.write(vec![7; 10]).submit_with(context).unwrap();
    }
    for context in 0..3 {
        let (_, got, outcome) = rig.done();
        let failure = outcome.failed();
        assert_eq!((got, failure.half, failure.transferred), (context, Half::Write, 0));
        assert_eq!(failure.buffer.as_ref().unwrap().as_slice().unwrap(), [7; 10]);
        match context {
            0 => assert_eq!(os_error(&failure), Some(Errno::PIPE)),
            _ => assert!(matches!(failure.error, OpError::Broken), "{failure:?}"),
        }
    }
}

/// As above, with some of it sent: the count says how much.
fn a_write_torn_by_its_peer<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    conn.write(vec![7; 4 << 20]).submit_with(0).unwrap();
    conn.write(b"never").submit_with(1).unwrap();
    rig.assert_quiet();
    let read = read_some(&mut peer, 1_000).len();
    drop(peer);
    let (_, context, torn) = rig.done();
    let torn = torn.failed();
    assert_eq!((context, torn.half), (0, Half::Write));
    assert!((read..4 << 20).contains(&torn.transferred), "{}", torn.transferred);
    assert_eq!(torn.buffer.unwrap().as_slice().unwrap().len(), 4 << 20);
    let (_, context, follower) = rig.done();
    let follower = follower.failed();
    assert!(context == 1 && matches!(follower.error, OpError::Broken), "{follower:?}");
    assert_eq!(follower.transferred, 0);
    // The reading side has an end of its own.
    conn.read(Vec::with_capacity(1)).submit().unwrap();
    assert!(!matches!(rig.outcome(), support::Got::Read(_)));
}

/// The process of a user who kept the default action for SIGPIPE must not die of a broken connection. A handler stands
/// in for the default action: it runs exactly if the signal is raised.
fn no_signal_is_raised_by_a_broken_connection<D: Drive>() {
    let raised = Arc::new(AtomicBool::new(false));
    let id = signal_hook::flag::register(signal_hook::consts::SIGPIPE, raised.clone()).unwrap();

    // This is what it looks like.
    let (ours, peer) = Net::Unix.pair();
    drop(peer);
    assert_eq!(rustix::io::write(&ours, b"x"), Err(Errno::PIPE));
    assert!(raised.swap(false, Ordering::SeqCst), "the control did not raise it: this test would show nothing");
    drop(ours);

    let mut rig = Rig::<D>::new();
    for net in NETS {
        let (conn, peer) = rig.connect(net);
        drop(peer);
        // Over TCP the first one is what brings the reset.
        until(|| {
            conn.write(b"x").submit().unwrap();
            matches!(rig.outcome(), support::Got::Failed(_))
        });
        conn.write(b"x").then_read_leased().submit().unwrap();
        rig.outcome().failed();
        conn.close().submit().unwrap();
        rig.outcome().closed();
    }
    assert!(!raised.load(Ordering::SeqCst), "SIGPIPE was raised");
    signal_hook::low_level::unregister(id);
}

/// A write larger than any socket buffer, to a peer that reads with a straw.
fn one_write_of_sixteen_megabytes<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let pattern = Pattern::new();
    let sent = pattern.first(16 << 20);
    let at = sent.as_ptr();
    conn.write(sent).submit().unwrap();
    thread::scope(|scope| {
        let (peer, pattern) = (&mut peer, &pattern);
        scope.spawn(move || pattern.receive(peer, 16 << 20));
        let back = rig.outcome().wrote();
        assert_eq!((back.as_slice().unwrap().as_ptr(), back.len()), (at, 16 << 20));
    });
    peer.write_all(b"!").unwrap();
    conn.read(Vec::with_capacity(8)).submit().unwrap();
    assert_eq!(rig.outcome().read(), b"!");
}

both_drives!(
    every_payload_comes_back_as_the_same_allocation,
    a_copy_of_any_size_goes_out_whole,
    nothing_to_write_is_refused_with_the_buffer,
    a_slow_reader,
    a_stuck_neighbour,
    many_writes_behind_a_blocked_one,
    writes_to_a_peer_that_has_gone,
    a_write_torn_by_its_peer,
    no_signal_is_raised_by_a_broken_connection,
    one_write_of_sixteen_megabytes,
);
