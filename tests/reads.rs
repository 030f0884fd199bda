//! Reads into vectors, into the batch's arena, into leases; and reads of nothing.

mod support;

use std::collections::HashSet;
use std::io::Write;

use gaio::{Conn, Payload, SubmitErrorKind};
use support::{Drive, Got, NETS, Net, Pattern, Peer, Rig, Taken, both_drives, finish, until};

/// G2.
fn queued_reads_complete_in_order<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        for context in 0..50 {
            conn.read(Vec::with_capacity(2)).submit_with(context).unwrap();
        }
        rig.assert_quiet();
        let sent: Vec<u8> = (0..100).collect();
        peer.write_all(&sent).unwrap();
        for context in 0..50 {
            let (_, got, outcome) = rig.done();
            let first = u8::try_from(2 * context).unwrap();
            assert_eq!((got, outcome.read()), (context, vec![first, first + 1]));
        }
    }
}

/// Kinds of reads may be mixed; they share one queue (G2).
fn reads_of_all_kinds_share_one_queue<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.read_cap = 3);
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.read(Vec::with_capacity(1)).submit_with(0).unwrap();
    conn.read_pooled().submit_with(1).unwrap();
    conn.read_exact(Vec::new(), 2).submit_with(2).unwrap();
    conn.readable().submit_with(3).unwrap();
    conn.read_leased().submit_with(4).unwrap();
    conn.read_pooled().submit_with(5).unwrap();
    rig.assert_quiet();
    peer.write_all(b"abbbccdddee").unwrap();
    let expected: [&[u8]; 6] = [b"a", b"bbb", b"cc", b"", b"ddd", b"ee"];
    for (context, expected) in expected.into_iter().enumerate() {
        let (_, got, outcome) = rig.done();
        assert_eq!(got, context as u64);
        match outcome {
            Got::Readable => assert_eq!(context, 3),
            other => assert_eq!(other.bytes(), expected),
        }
    }
}

fn a_read_clears_the_vector_and_fills_its_capacity<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let mut buffer = Vec::with_capacity(4);
    buffer.extend_from_slice(b"xyz");
    let at = buffer.as_ptr();
    peer.write_all(b"abcdef").unwrap();
    conn.read(buffer).submit().unwrap();
    let bytes = rig.outcome().read();
    assert_eq!((bytes.as_slice(), bytes.capacity(), bytes.as_ptr()), (&b"abcd"[..], 4, at));
    conn.read(bytes).submit().unwrap();
    assert_eq!(rig.outcome().read(), b"ef");
}

fn a_vector_without_room_is_refused_with_its_context<D: Drive>() {
    let rig = Rig::<D>::new();
    let (conn, _peer) = rig.connect(Net::Unix);
    let refused = conn.read(Vec::new()).submit_with(7).unwrap_err();
    assert_eq!((refused.kind, refused.context), (SubmitErrorKind::EmptyBuffer, 7));
    assert_eq!(refused.buffer.and_then(Payload::into_vec).unwrap().capacity(), 0);
    assert_eq!(rig.submitter.load(), 0);
}

fn readable_takes_nothing<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        for context in 0..3 {
            conn.readable().submit_with(context).unwrap();
        }
        rig.assert_quiet();
        peer.write_all(b"hello").unwrap();
        for context in 0..3 {
            let (_, got, outcome) = rig.done();
            assert!(got == context && matches!(outcome, Got::Readable), "{got}: {outcome:?}");
        }
        conn.read(Vec::with_capacity(5)).submit().unwrap();
        assert_eq!(rig.outcome().read(), b"hello");
        // The read filled its buffer, so the loop cannot know that nothing is left; `readable` must not guess.
        conn.readable().submit().unwrap();
        rig.assert_quiet();
        finish(&peer);
        assert!(matches!(rig.outcome(), Got::Readable), "the end of the stream can be read, too");
        conn.read(Vec::with_capacity(5)).submit().unwrap();
        rig.outcome().eof().unwrap();
    }
}

fn a_pooled_read_keeps_to_its_cap<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.read_cap = 100);
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let sent = Pattern::new().first(10_000);
    peer.write_all(&sent).unwrap();
    let mut got = Vec::new();
    while got.len() < sent.len() {
        conn.read_pooled().submit().unwrap();
        let outcome = rig.outcome();
        assert!((1..=100).contains(&outcome.bytes().len()));
        got.extend_from_slice(outcome.bytes());
    }
    assert!(got == sent);
}

/// G3, G5: the bytes of a batch stay where they are while others wait for room, and every take lets some go on.
fn an_exhausted_arena_parks_pooled_reads_until_a_take<D: Drive>() {
    const CONNS: usize = 8;
    let mut rig = Rig::<D>::with(|limits| (limits.arena, limits.read_cap) = (4_096, 4_096));
    let pattern = Pattern::new();
    let ends: Vec<(Conn<u64>, Peer)> = (0..CONNS).map(|_| rig.connect(Net::Unix)).collect();
    for (i, (conn, peer)) in ends.iter().enumerate() {
        let mut peer = peer;
        peer.write_all(pattern.at(i * 1_000, 3_000)).unwrap();
        conn.read_pooled().submit_with(i as u64).unwrap();
    }
    if D::SPAWNED {
        // One is in the cell, one in the residue.
        until(|| rig.counters().starved >= CONNS as u64 - 2);
    }
    let mut seen = HashSet::new();
    while seen.len() < CONNS {
        let batch = rig.watcher.wait().unwrap();
        assert!(batch.len() <= 1, "an arena of 4 096 bytes holds one read of 3 000");
        for event in batch {
            let Taken::Done(_, context, outcome) = event.into() else { panic!() };
            let at = usize::try_from(context).unwrap() * 1_000;
            assert!(outcome.bytes() == pattern.at(at, 3_000), "the bytes of {context} are not its own");
            assert!(seen.insert(context), "{context} completed twice");
        }
    }
    assert!(rig.counters().starved > 0);
    rig.assert_quiet();
}

/// The end of the stream needs no room: it is not held up by a full arena for ever.
fn a_parked_pooled_read_sees_the_end<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.arena, limits.read_cap) = (4_096, 4_096));
    let (one, mut peer_one) = rig.connect(Net::Unix);
    let (two, peer_two) = rig.connect(Net::Unix);
    peer_one.write_all(&[1; 4_096]).unwrap();
    finish(&peer_two);
    one.read_pooled().submit_with(1).unwrap();
    two.read_pooled().submit_with(2).unwrap();
    let mut contexts = [rig.done().1, rig.done().1];
    contexts.sort_unstable();
    assert_eq!(contexts, [1, 2]);
}

fn leases_are_given_back_and_few_are_kept<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let mut places = HashSet::new();
    // Spent by a linked write, and by a drop here.
    conn.read_leased().submit().unwrap();
    for round in 0..400 {
        peer.write_all(b"hello").unwrap();
        let Got::Leased(lease) = rig.outcome() else { panic!() };
        assert_eq!(&*lease, b"hello");
        places.insert(lease.as_ptr() as usize);
        if round % 2 == 0 {
            conn.write(lease).then_read_leased().submit().unwrap();
        } else {
            drop(lease);
            conn.read_leased().submit().unwrap();
        }
    }
    assert!(places.len() <= 4, "{} buffers for one connection", places.len());
}

fn a_lease_may_be_changed_and_sent<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    peer.write_all(b"hello").unwrap();
    conn.read_leased().submit().unwrap();
    let Got::Leased(mut lease) = rig.outcome() else { panic!() };
    lease.make_ascii_uppercase();
    lease.truncate(4);
    let at = lease.as_ptr();
    conn.write(lease).submit().unwrap();
    assert_eq!(rig.outcome().wrote().as_slice().unwrap().as_ptr(), at);
    assert_eq!(support::read_some(&mut peer, 4), b"HELL");
}

/// A connection with more to say than a small lease holds is given larger ones, and loses nothing in between.
fn a_bulk_stream_in_leases<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let sent = Pattern::new().first(2_000_003);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            peer.write_all(&sent).unwrap();
            finish(&peer);
        });
        let mut got = 0;
        loop {
            conn.read_leased().submit().unwrap();
            match rig.outcome() {
                Got::Leased(lease) => {
                    assert!(sent[got..][..lease.len()] == *lease, "wrong bytes from {got} on");
                    got += lease.len();
                }
                Got::Eof(None) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, sent.len());
    });
}

both_drives!(
    queued_reads_complete_in_order,
    reads_of_all_kinds_share_one_queue,
    a_read_clears_the_vector_and_fills_its_capacity,
    a_vector_without_room_is_refused_with_its_context,
    readable_takes_nothing,
    a_pooled_read_keeps_to_its_cap,
    an_exhausted_arena_parks_pooled_reads_until_a_take,
    a_parked_pooled_read_sees_the_end,
    leases_are_given_back_and_few_are_kept,
    a_lease_may_be_changed_and_sent,
    a_bulk_stream_in_leases,
);
