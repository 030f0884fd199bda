//! The peer's end, in all its forms: a FIN beside data, a FIN with our side still open, a reset.

mod support;

use std::io::{ErrorKind, Read, Write};

use gaio::Half;
use rustix::io::Errno;
use support::{Drive, Got, NETS, Net, Rig, both_drives, finish, os_error, read_all, read_some, reset};

/// Every kind of read, with room to spare, so that it comes back short in the very edge that brought the FIN.
fn read(conn: &gaio::Conn<u64>, kind: usize) {
    match kind {
        0 => conn.read(Vec::with_capacity(64)),
        1 => conn.read_pooled(),
        2 => conn.read_leased(),
        _ => conn.read_exact(Vec::with_capacity(64), 4),
    }
    .submit()
    .unwrap();
}

fn the_fin_in_the_edge_of_the_data<D: Drive>() {
    for net in NETS {
        for kind in 0..4 {
            let mut rig = Rig::<D>::new();
            let (ours, mut peer) = net.pair();
            peer.write_all(b"last").unwrap();
            finish(&peer);
            let conn = rig.submitter.delegate(ours).unwrap();
            read(&conn, kind);
            assert_eq!(rig.outcome().bytes(), b"last");
            for _ in 0..2 {
                read(&conn, kind);
                rig.outcome().eof();
            }
        }
    }
}

/// As above, with the reads queued before: one edge must complete both.
fn the_fin_in_the_edge_of_the_data_for_reads_that_wait<D: Drive>() {
    for net in NETS {
        for kind in 0..4 {
            let mut rig = Rig::<D>::new();
            let (conn, mut peer) = rig.connect(net);
            read(&conn, kind);
            read(&conn, kind);
            rig.assert_quiet();
            peer.write_all(b"last").unwrap();
            finish(&peer);
            assert_eq!(rig.outcome().bytes(), b"last");
            rig.outcome().eof();
        }
    }
}

/// G1: each comes back with its buffer.
fn the_end_completes_every_queued_read<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.ops_per_turn = 2);
    let (conn, peer) = rig.connect(Net::Tcp);
    for context in 0..10 {
        conn.read(Vec::with_capacity(context + 1)).submit_with(context as u64).unwrap();
    }
    rig.assert_quiet();
    drop(peer);
    for context in 0..10 {
        let (_, got, outcome) = rig.done();
        assert_eq!((got, outcome.eof().unwrap().capacity()), (context as u64, context + 1));
    }
}

/// The end of one direction is not the end of the connection.
fn more_from_us_after_the_peers_end<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        finish(&peer);
        conn.read(Vec::with_capacity(8)).submit().unwrap();
        rig.outcome().eof();
        for _ in 0..3 {
            conn.write(b"still here ").submit().unwrap();
            rig.outcome().wrote();
        }
        drop(conn);
        rig.assert_quiet();
        assert_eq!(read_all(&mut peer), b"still here still here still here ");
    }
}

fn a_reset_is_an_error_and_never_a_clean_end_later<D: Drive>() {
    for kind in 0..4 {
        let mut rig = Rig::<D>::new();
        let (conn, peer) = rig.connect(Net::Tcp);
        read(&conn, kind);
        read(&conn, kind);
        rig.assert_quiet();
        reset(peer);
        for round in 0..4 {
            if round >= 2 {
                read(&conn, kind);
            }
            let failure = rig.outcome().failed();
            assert_eq!((failure.half, os_error(&failure)), (Half::Read, Some(Errno::CONNRESET)), "read {round}");
        }
        conn.write(b"x").submit().unwrap();
        assert_eq!(rig.outcome().failed().half, Half::Write);
    }
}

/// The kernel tells a socket's error once. If a write is told, the reads must hear of it all the same.
fn a_reset_that_a_write_was_told_of<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, peer) = rig.connect(Net::Tcp);
    rig.assert_quiet();
    reset(peer);
    conn.write(b"x").submit().unwrap();
    assert_eq!(os_error(&rig.outcome().failed()), Some(Errno::CONNRESET));
    for _ in 0..2 {
        conn.read(Vec::with_capacity(8)).submit().unwrap();
        let failure = rig.outcome().failed();
        assert_eq!((failure.half, os_error(&failure)), (Half::Read, Some(Errno::CONNRESET)));
    }
}

fn a_reset_that_a_readable_was_told_of<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, peer) = rig.connect(Net::Tcp);
    conn.readable().submit().unwrap();
    rig.assert_quiet();
    reset(peer);
    assert!(matches!(rig.outcome(), Got::Readable));
    conn.read(Vec::with_capacity(8)).submit().unwrap();
    assert_eq!(os_error(&rig.outcome().failed()), Some(Errno::CONNRESET));
}

/// What had arrived in front of the reset is still delivered, and what follows is the error.
fn data_and_a_reset_in_one_edge<D: Drive>() {
    for kind in 0..4 {
        let mut rig = Rig::<D>::new();
        let (ours, mut peer) = Net::Tcp.pair();
        peer.write_all(b"last").unwrap();
        reset(peer);
        let conn = rig.submitter.delegate(ours).unwrap();
        read(&conn, kind);
        read(&conn, kind);
        assert_eq!(rig.outcome().bytes(), b"last");
        assert_eq!(os_error(&rig.outcome().failed()), Some(Errno::CONNRESET));
    }
}

/// Their reset after our half of a conversation: what they had sent before their end was complete.
fn a_hang_up_of_both_sides<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        peer.write_all(b"bye").unwrap();
        drop(peer);
        conn.read(Vec::with_capacity(64)).submit().unwrap();
        conn.read(Vec::with_capacity(64)).submit().unwrap();
        assert_eq!(rig.outcome().read(), b"bye");
        rig.outcome().eof();
    }
}

/// The peer ends, and goes on reading what we stream for long afterwards.
fn a_long_answer_to_a_finished_question<D: Drive>() {
    const LEN: usize = 8 << 20;
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    peer.write_all(b"GET /").unwrap();
    finish(&peer);
    conn.read_exact(Vec::new(), 5).submit().unwrap();
    assert_eq!(rig.outcome().read(), b"GET /");
    conn.write(vec![1; LEN]).submit().unwrap();
    rig.assert_quiet();
    conn.close().submit().unwrap();
    drop(conn);
    std::thread::scope(|scope| {
        let peer = scope.spawn(move || {
            assert_eq!(read_some(&mut peer, LEN).len(), LEN);
            peer.read(&mut [0]).map_err(|error| error.kind())
        });
        assert_eq!(rig.outcome().wrote().as_slice().unwrap().len(), LEN);
        rig.outcome().closed();
        assert_eq!(peer.join().unwrap(), Ok::<_, ErrorKind>(0), "a clean end behind the answer");
    });
}

both_drives!(
    the_fin_in_the_edge_of_the_data,
    the_fin_in_the_edge_of_the_data_for_reads_that_wait,
    the_end_completes_every_queued_read,
    more_from_us_after_the_peers_end,
    a_reset_is_an_error_and_never_a_clean_end_later,
    a_reset_that_a_write_was_told_of,
    a_reset_that_a_readable_was_told_of,
    data_and_a_reset_in_one_edge,
    a_hang_up_of_both_sides,
    a_long_answer_to_a_finished_question,
);
