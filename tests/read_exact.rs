//! Exact reads: all `n` bytes in one completion, or the end with what did arrive (G1).

mod support;

use std::io::Write;

use gaio::{Half, Payload, SubmitErrorKind};
use rustix::io::Errno;
use support::{Drive, NETS, Net, Pattern, Rig, both_drives, finish, os_error, reset};

/// gaio (the Go library) hangs here for ever: the last bytes and the FIN share an edge, so none comes for the FIN.
fn the_last_bytes_and_the_fin_in_one_edge<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (ours, mut peer) = net.pair();
        peer.write_all(b"short").unwrap();
        finish(&peer);
        let conn = rig.submitter.delegate(ours).unwrap();
        conn.read_exact(Vec::new(), 16).submit().unwrap();
        assert_eq!(rig.outcome().eof().unwrap(), b"short");
    }
}

/// As above, but the read has been pending since before. Embedded, both arrive between two turns: one edge.
fn the_last_bytes_and_the_fin_for_a_read_that_waits<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        conn.read_exact(Vec::new(), 16).submit().unwrap();
        rig.assert_quiet();
        peer.write_all(b"sh").unwrap();
        rig.assert_quiet();
        peer.write_all(b"ort").unwrap();
        finish(&peer);
        assert_eq!(rig.outcome().eof().unwrap(), b"short");
        // And the end stays the end, with nothing in it.
        conn.read_exact(Vec::new(), 1).submit().unwrap();
        assert_eq!(rig.outcome().eof().unwrap(), b"");
    }
}

fn nothing_is_reported_before_all_is_there<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.read_exact(Vec::with_capacity(4), 4).submit().unwrap();
    for byte in b"abc" {
        peer.write_all(&[*byte]).unwrap();
        rig.assert_quiet();
    }
    peer.write_all(b"d").unwrap();
    assert_eq!(rig.outcome().read(), b"abcd");
}

fn a_buffer_that_is_too_small_grows<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    peer.write_all(b"0123456789").unwrap();
    conn.read_exact(Vec::with_capacity(3), 10).submit().unwrap();
    assert_eq!(rig.outcome().read(), b"0123456789");
}

fn a_buffer_that_is_larger_is_not_filled_further<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    peer.write_all(b"0123456789").unwrap();
    let mut buffer = Vec::with_capacity(64);
    buffer.extend_from_slice(b"old content");
    let at = buffer.as_ptr();
    conn.read_exact(buffer, 4).submit().unwrap();
    let bytes = rig.outcome().read();
    assert_eq!((bytes.as_slice(), bytes.as_ptr()), (&b"0123"[..], at));
    conn.read(bytes).submit().unwrap();
    assert_eq!(rig.outcome().read(), b"456789", "the rest is still there for the next read");
}

/// G2: the order in which they take from the stream is the order in which they were submitted.
fn several_queued_share_the_stream_in_order<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    for (context, n) in [3, 1, 5, 2].into_iter().enumerate() {
        conn.read_exact(Vec::new(), n).submit_with(context as u64).unwrap();
    }
    conn.read(Vec::with_capacity(64)).submit_with(4).unwrap();
    let mut seen = Vec::new();
    for pair in b"aaabcccccddrest".chunks(2) {
        peer.write_all(pair).unwrap();
        seen.extend(rig.barrier());
    }
    let expected: [&[u8]; 5] = [b"aaa", b"b", b"ccccc", b"dd", b"r"];
    assert_eq!(seen.len(), expected.len());
    for (context, (taken, expected)) in seen.into_iter().zip(expected).enumerate() {
        let support::Taken::Done(_, got, outcome) = taken else { panic!() };
        assert_eq!((got, outcome.bytes()), (context as u64, expected));
    }
}

/// G8: a budget of a thousand bytes per turn only makes it take more turns.
fn one_that_is_larger_than_any_budget<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.bytes_per_turn = 1_000);
    let (conn, mut peer) = rig.connect(Net::Unix);
    let expected = Pattern::new().first(1_000_003);
    conn.read_exact(Vec::new(), expected.len()).submit().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| peer.write_all(&expected).unwrap());
        assert!(rig.outcome().read() == expected);
    });
}

fn a_hundred_megabytes_in_one_read<D: Drive>() {
    const LEN: usize = 100_000_000;
    const STEP: usize = 1 << 20;
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let pattern = Pattern::new();
    conn.read_exact(Vec::new(), LEN).submit().unwrap();
    conn.read(Vec::with_capacity(8)).submit().unwrap();
    std::thread::scope(|scope| {
        let pattern = &pattern;
        scope.spawn(move || {
            pattern.send(&mut peer, LEN);
            peer.write_all(b"rest").unwrap();
        });
        let bytes = rig.outcome().read();
        assert_eq!(bytes.len(), LEN);
        for (i, part) in bytes.chunks(STEP).enumerate() {
            assert!(part == pattern.at(i * STEP, part.len()), "wrong bytes from {} on", i * STEP);
        }
        assert_eq!(rig.outcome().read(), b"rest");
    });
}

fn a_reset_on_the_way_gives_back_what_arrived<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.read_exact(Vec::new(), 16).submit().unwrap();
    peer.write_all(b"short").unwrap();
    rig.assert_quiet();
    reset(peer);
    let failure = rig.outcome().failed();
    assert_eq!(os_error(&failure), Some(Errno::CONNRESET));
    assert_eq!((failure.half, failure.transferred), (Half::Read, 5));
    assert_eq!(failure.buffer.unwrap().as_slice().unwrap(), b"short");
}

fn none_and_too_many_are_refused_with_the_buffer<D: Drive>() {
    let rig = Rig::<D>::new();
    let (conn, _peer) = rig.connect(Net::Unix);
    for (n, kind) in [(0, SubmitErrorKind::EmptyBuffer), (usize::MAX, SubmitErrorKind::TooLarge)] {
        let buffer = Vec::with_capacity(7);
        let at = buffer.as_ptr();
        let refused = conn.read_exact(buffer, n).submit_with(9).unwrap_err();
        assert_eq!((refused.kind, refused.context), (kind, 9));
        let back = refused.buffer.and_then(Payload::into_vec).unwrap();
        assert_eq!((back.as_ptr(), back.capacity()), (at, 7));
    }
    assert_eq!(rig.submitter.load(), 0, "what was refused is not in flight");
}

both_drives!(
    the_last_bytes_and_the_fin_in_one_edge,
    the_last_bytes_and_the_fin_for_a_read_that_waits,
    nothing_is_reported_before_all_is_there,
    a_buffer_that_is_too_small_grows,
    a_buffer_that_is_larger_is_not_filled_further,
    several_queued_share_the_stream_in_order,
    one_that_is_larger_than_any_budget,
    a_hundred_megabytes_in_one_read,
    a_reset_on_the_way_gives_back_what_arrived,
    none_and_too_many_are_refused_with_the_buffer,
);
