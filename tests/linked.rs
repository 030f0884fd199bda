//! Write then read, as one operation: one completion, which says which half it is about (G1).

mod support;

use std::io::{ErrorKind, Read, Write};

use gaio::{Half, OpError};
use rustix::io::Errno;
use support::{Drive, Got, NETS, Net, Rig, Taken, both_drives, finish, os_error, read_some, reset};

fn the_answer_comes_in_the_vector_that_was_sent<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let mut buffer = Vec::with_capacity(64);
        buffer.extend_from_slice(b"question");
        let at = buffer.as_ptr();
        conn.write(buffer).then_read().submit_with(5).unwrap();
        rig.assert_quiet();
        assert_eq!(read_some(&mut peer, 8), b"question");
        peer.write_all(b"the answer").unwrap();
        let (_, context, got) = rig.done();
        let bytes = got.read();
        assert_eq!((context, bytes.as_slice(), bytes.as_ptr()), (5, &b"the answer"[..], at));
        rig.assert_quiet();
    }
}

fn an_answer_that_is_there_before_the_question<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    peer.write_all(b"early").unwrap();
    rig.assert_quiet();
    conn.write(b"question").then_read_leased().submit().unwrap();
    assert_eq!(rig.outcome().bytes(), b"early");
    conn.write(b"question").then_read_pooled().submit().unwrap();
    rig.assert_quiet();
    assert_eq!(read_some(&mut peer, 16), b"questionquestion");
    peer.write_all(b"late").unwrap();
    let Got::Pooled(bytes) = rig.outcome() else { panic!() };
    assert_eq!(bytes, b"late");
}

/// G2: its reading half queues like any read, when its writing half is done.
fn the_read_goes_behind_those_before_it<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.read_exact(Vec::new(), 2).submit_with(1).unwrap();
    conn.write(b"q").then_read_leased().submit_with(2).unwrap();
    rig.assert_quiet();
    conn.read_exact(Vec::new(), 2).submit_with(3).unwrap();
    peer.write_all(b"aa").unwrap();
    assert_eq!(read_some(&mut peer, 1), b"q");
    let (_, context, got) = rig.done();
    assert_eq!((context, got.bytes()), (1, &b"aa"[..]));
    rig.assert_quiet();
    peer.write_all(b"b").unwrap();
    let (_, context, got) = rig.done();
    assert_eq!((context, got.bytes()), (2, &b"b"[..]));
    peer.write_all(b"cc").unwrap();
    let (_, context, got) = rig.done();
    assert_eq!((context, got.bytes()), (3, &b"cc"[..]));
}

fn the_write_fails<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, peer) = rig.connect(Net::Unix);
    drop(peer);
    conn.write(b"hello".to_vec()).then_read().submit_with(1).unwrap();
    conn.write(b"hello".to_vec()).then_read().submit_with(2).unwrap();
    let failure = rig.outcome().failed();
    assert_eq!((failure.half, failure.transferred, os_error(&failure)), (Half::Write, 0, Some(Errno::PIPE)));
    assert_eq!(failure.buffer.unwrap().as_slice().unwrap(), b"hello");
    let (_, context, got) = rig.done();
    let follower = got.failed();
    assert!(context == 2 && matches!(follower.error, OpError::Broken), "{follower:?}");
    assert_eq!(follower.half, Half::Write);
}

fn the_read_fails<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let mut buffer = Vec::with_capacity(64);
    buffer.extend_from_slice(b"hello");
    let at = buffer.as_ptr();
    conn.write(buffer).then_read().submit().unwrap();
    rig.assert_quiet();
    assert_eq!(read_some(&mut peer, 5), b"hello");
    reset(peer);
    let failure = rig.outcome().failed();
    assert_eq!((failure.half, os_error(&failure)), (Half::Read, Some(Errno::CONNRESET)));
    assert_eq!(failure.buffer.unwrap().as_slice().unwrap().as_ptr(), at);
}

fn the_stream_ends_instead_of_an_answer<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        finish(&peer);
        let buffer = b"hello".to_vec();
        let at = buffer.as_ptr();
        conn.write(buffer).then_read().submit_with(1).unwrap();
        conn.write(b"more").then_read_pooled().submit_with(2).unwrap();
        let (_, context, got) = rig.done();
        let back = got.eof().unwrap();
        assert_eq!((context, back.len(), back.as_ptr()), (1, 0, at), "no stale content in it");
        let (_, context, got) = rig.done();
        assert!(context == 2 && got.eof().is_none());
        assert_eq!(read_some(&mut peer, 9), b"hellomore");
    }
}

fn released_between_the_halves<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.write(b"hello".to_vec()).then_read().submit_with(1).unwrap();
    rig.assert_quiet();
    assert_eq!(read_some(&mut peer, 5), b"hello");
    conn.release().submit_with(2).unwrap();
    let (_, context, got) = rig.done();
    let failure = got.failed();
    assert!(context == 1 && matches!(failure.error, OpError::Released), "{failure:?}");
    assert_eq!(failure.half, Half::Read);
    assert!(failure.buffer.is_some());
    let (_, context, got) = rig.done();
    got.closed();
    assert_eq!(context, 2);
}

/// G3, G10: an echo of linked operations does not read from a client that does not read: what a greedy one can push
/// into the two kernels' buffers is all there ever is.
fn a_client_that_does_not_read_is_not_read_from<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        peer.set_nonblocking(true).unwrap();
        conn.read_leased().submit().unwrap();
        drop(conn);
        let (junk, mut pushed, mut rounds_without) = (vec![0xA5; 64 << 10], 0, 0);
        while rounds_without < 20 {
            match peer.write(&junk) {
                Ok(n) => {
                    (pushed, rounds_without) = (pushed + n, 0);
                    assert!(pushed < 256 << 20, "the loop goes on reading from a client that reads nothing");
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    rounds_without += 1;
                }
            }
            for taken in rig.barrier() {
                let Taken::Done(conn, _, Got::Leased(lease)) = taken else { panic!("{taken:?}") };
                conn.write(lease).then_read_leased().submit().unwrap();
            }
        }
        assert!(rig.submitter.load() <= 1);
        // It starts to read: everything comes back, once.
        finish(&peer);
        let (mut back, mut buffer, mut ended) = (0, vec![0; 256 << 10], false);
        while !ended {
            match peer.read(&mut buffer) {
                Ok(0) => ended = true,
                Ok(n) => {
                    assert!(buffer[..n].iter().all(|byte| *byte == 0xA5));
                    back += n;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            for taken in rig.barrier() {
                match taken {
                    Taken::Done(conn, _, Got::Leased(lease)) => {
                        conn.write(lease).then_read_leased().submit().unwrap();
                    }
                    Taken::Done(_, _, Got::Eof(None)) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(back, pushed);
    }
}

both_drives!(
    the_answer_comes_in_the_vector_that_was_sent,
    an_answer_that_is_there_before_the_question,
    the_read_goes_behind_those_before_it,
    the_write_fails,
    the_read_fails,
    the_stream_ends_instead_of_an_answer,
    released_between_the_halves,
    a_client_that_does_not_read_is_not_read_from,
);
