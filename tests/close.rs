//! Closing and releasing: what the peer gets to see, and what becomes of the operations.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use gaio::{Conn, OpError, SubmitErrorKind};
use support::{
    Drive, Got, LONG, NETS, Net, Pattern, Rig, both_drives, descriptors, finish, os_error, read_all, read_some,
    read_to_its_end, reset,
};

/// Pitfall of every server that closes after its answer: unread input turns the close into a reset, and the peer loses
/// the tail.
fn the_tail_of_an_answer_survives_unread_input<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let answer = Pattern::new().first(1_000_003);
        peer.write_all(&[7; 50_000]).unwrap();
        conn.write(answer.clone()).submit_with(1).unwrap();
        conn.close().submit_with(2).unwrap();
        thread::scope(|scope| {
            let answer = &answer;
            scope.spawn(move || assert!(read_all(&mut peer) == *answer));
            let (_, context, got) = rig.done();
            got.wrote();
            assert_eq!(context, 1);
            let (_, context, got) = rig.done();
            got.closed();
            assert_eq!(context, 2);
        });
        assert_eq!(rig.counters().closed_hard, 0);
    }
}

/// A close without any write before it is a clean end for the peer, too, whatever lies unread.
fn a_bare_close_with_unread_input<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    peer.write_all(&[7; 100_000]).unwrap();
    conn.close().submit().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || assert_eq!(read_to_its_end(&mut peer), (0, None)));
        rig.outcome().closed();
    });
}

/// G1: each with its buffer, in order, before the close.
fn pending_reads_are_released_at_once<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    for context in 0..3 {
        conn.read(Vec::with_capacity(9)).submit_with(context).unwrap();
    }
    conn.close().submit_with(3).unwrap();
    for context in 0..3 {
        let (_, got, outcome) = rig.done();
        let failure = outcome.failed();
        assert!(got == context && matches!(failure.error, OpError::Released), "{failure:?}");
        assert_eq!(failure.buffer.and_then(gaio::Payload::into_vec).unwrap().capacity(), 9);
    }
    // The peer has not ended yet: the close waits, and nothing new is let in.
    rig.assert_quiet();
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    conn.read(Vec::with_capacity(9)).submit_with(4).unwrap();
    conn.write(b"too late").submit_with(5).unwrap();
    for context in 4..6 {
        let (_, got, outcome) = rig.done();
        let failure = outcome.failed();
        assert!(got == context && matches!(failure.error, OpError::Closed), "{failure:?}");
        assert!(failure.buffer.is_some());
    }
    drop(peer);
    let (_, context, got) = rig.done();
    got.closed();
    assert_eq!(context, 3);
}

/// G1: each close is an operation, and completes.
fn closing_twice_and_again_when_it_is_gone<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.close().submit_with(1).unwrap();
    conn.close().submit_with(2).unwrap();
    rig.assert_quiet();
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    drop(peer);
    for expected in 1..3 {
        let (_, context, got) = rig.done();
        got.closed();
        assert_eq!(context, expected);
    }
    for context in 3..6 {
        if context == 4 { conn.release().submit_with(context) } else { conn.close().submit_with(context) }.unwrap();
        let (_, got, outcome) = rig.done();
        outcome.closed();
        assert_eq!(got, context);
    }
    rig.assert_quiet();
}

/// G1: a close's completion comes when the descriptor is gone, not before.
fn the_descriptor_is_gone_when_the_close_completes<D: Drive>() {
    let mut rig = Rig::<D>::new();
    for hard in [false, true] {
        let before = descriptors();
        let (conn, peer) = rig.connect(Net::Tcp);
        assert_eq!(descriptors(), before + 2);
        rig.assert_quiet();
        if hard {
            conn.release().submit().unwrap();
            rig.outcome().closed();
            assert_eq!(descriptors(), before + 1);
        } else {
            conn.close().submit().unwrap();
            rig.assert_quiet();
            assert_eq!(descriptors(), before + 2, "the peer has not ended, the graceful close waits");
            finish(&peer);
            rig.outcome().closed();
            assert_eq!(descriptors(), before + 1);
        }
        assert_eq!(rig.counters().sessions, 0);
        drop(peer);
    }
}

/// G10: a graceful close has a bound in time.
fn a_peer_that_never_ends<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.close_within = Duration::from_millis(50));
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.write(b"bye").submit().unwrap();
    conn.close().submit().unwrap();
    rig.outcome().wrote();
    rig.outcome().closed();
    assert_eq!(rig.counters().closed_hard, 1);
    assert_eq!(read_all(&mut peer), b"bye");
}

/// All was handed to the system, much of it is still there as the time is over: the descriptor is just closed, and the system
/// goes on sending. A reset would throw that away.
fn a_peer_that_reads_when_the_close_is_over<D: Drive>() {
    const LEN: usize = 100_000;
    let mut rig = Rig::<D>::with(|limits| limits.close_within = Duration::from_millis(50));
    let (ours, mut peer) = Net::Tcp.pair();
    rustix::net::sockopt::set_socket_send_buffer_size(&ours, 4 * LEN).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&peer, 4_096).unwrap();
    let conn = rig.submitter.delegate(ours).unwrap();
    conn.write(vec![1; LEN]).submit().unwrap();
    conn.close().submit().unwrap();
    rig.outcome().wrote();
    rig.outcome().closed();
    assert_eq!(rig.counters().closed_hard, 1);
    assert_eq!(read_to_its_end(&mut peer), (LEN, None));
}

/// What could not be sent in time is reported, and the peer is told that it did not get all: by a reset.
fn a_peer_that_never_reads<D: Drive>() {
    const LEN: usize = 16 << 20;
    let mut rig = Rig::<D>::with(|limits| limits.close_within = Duration::from_millis(50));
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.write(vec![1; LEN]).submit_with(1).unwrap();
    conn.write(b"behind it").submit_with(2).unwrap();
    conn.close().submit_with(3).unwrap();
    let (_, context, got) = rig.done();
    let torn = got.failed();
    assert!(context == 1 && matches!(torn.error, OpError::Released), "{torn:?}");
    assert!((1..LEN).contains(&torn.transferred), "{}", torn.transferred);
    let (_, context, got) = rig.done();
    let follower = got.failed();
    assert!(context == 2 && follower.transferred == 0, "{follower:?}");
    let (_, context, got) = rig.done();
    got.closed();
    assert_eq!((context, rig.counters().closed_hard), (3, 1));
    let (got, end) = read_to_its_end(&mut peer);
    assert!(got <= torn.transferred);
    assert_eq!(end, Some(ErrorKind::ConnectionReset), "a clean end would make the torn message look whole");
}

/// G10: and a bound in bytes, for a peer that goes on talking.
fn a_peer_that_never_stops_talking<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.close_within, limits.close_drain) = (LONG, 100_000));
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| while peer.write_all(&[1; 10_000]).is_ok() && !over.load(Ordering::Relaxed) {});
        conn.close().submit().unwrap();
        rig.outcome().closed();
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(rig.counters().closed_hard, 1);
}

/// G3: a positive SO_LINGER makes even a non-blocking close block; here it becomes the bound of the graceful one.
fn a_linger_bounds_the_close_and_does_not_block_it<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.close_within = LONG);
    let (ours, peer) = Net::Tcp.pair();
    rustix::net::sockopt::set_socket_linger(&ours, Some(Duration::from_secs(1))).unwrap();
    let conn = rig.submitter.delegate(ours).unwrap();
    conn.close().submit_with(1).unwrap();
    // The loop is not held up by it: this comes first.
    rig.assert_quiet();
    let (_, context, got) = rig.done();
    got.closed();
    assert_eq!((context, rig.counters().closed_hard), (1, 1));
    drop(peer);
}

fn releasing_with_everything_pending<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, peer) = rig.connect(Net::Tcp);
    conn.read(Vec::with_capacity(9)).submit_with(0).unwrap();
    conn.read_exact(Vec::new(), 9).submit_with(1).unwrap();
    conn.read_pooled().submit_with(2).unwrap();
    conn.read_leased().submit_with(3).unwrap();
    conn.readable().submit_with(4).unwrap();
    conn.write(vec![1; 16 << 20]).submit_with(5).unwrap();
    conn.write(vec![1; 9]).then_read().submit_with(6).unwrap();
    conn.close().submit_with(7).unwrap();
    conn.release().submit_with(8).unwrap();
    let mut seen: Vec<u64> = Vec::new();
    for _ in 0..9 {
        let (_, context, got) = rig.done();
        match got {
            Got::Closed => assert!(context >= 7),
            Got::Failed(failure) => {
                assert!(context < 7 && matches!(failure.error, OpError::Released), "{context}: {failure:?}");
                assert_eq!(failure.buffer.is_some(), !(2..5).contains(&context));
            }
            other => panic!("{context}: {other:?}"),
        }
        seen.push(context);
    }
    // Each direction in its order (G2), the release behind all.
    assert_eq!(seen.iter().filter(|c| **c < 5).copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(seen.iter().filter(|c| **c >= 5).copied().collect::<Vec<_>>(), [5, 6, 7, 8]);
    rig.assert_quiet();
    drop(peer);
}

fn an_operation_on_what_was_released<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    peer.write_all(b"unread").unwrap();
    conn.release().submit_with(0).unwrap();
    conn.read(Vec::with_capacity(9)).submit_with(1).unwrap();
    conn.write(b"hello".to_vec()).submit_with(2).unwrap();
    let (_, context, got) = rig.done();
    got.closed();
    assert_eq!(context, 0);
    for expected in 1..3 {
        let (_, context, got) = rig.done();
        let failure = got.failed();
        assert!(context == expected && matches!(failure.error, OpError::Closed), "{failure:?}");
        assert!(failure.buffer.is_some());
    }
}

/// A release between two messages is a clean end; in the middle of one it is a reset.
fn a_release_tells_the_peer_whether_it_got_whole_messages<D: Drive>() {
    let mut rig = Rig::<D>::new();
    for whole in [true, false] {
        let (conn, mut peer) = rig.connect(Net::Tcp);
        let len = if whole { 1_000 } else { 16 << 20 };
        conn.write(vec![1; len]).submit().unwrap();
        assert_eq!(rig.barrier().len(), usize::from(whole));
        conn.release().submit().unwrap();
        if !whole {
            assert!((1..len).contains(&rig.outcome().failed().transferred));
        }
        rig.outcome().closed();
        let (_, end) = read_to_its_end(&mut peer);
        assert_eq!(end, (!whole).then_some(ErrorKind::ConnectionReset));
    }
}

/// A write that failed in the middle: even a graceful close ends it by a reset. (Here by the peer's own reset, so that
/// only the outcome can be seen: the close does not wait for anybody.)
fn closing_what_the_peer_has_reset<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.close_within = LONG);
    let (conn, peer) = rig.connect(Net::Tcp);
    conn.write(vec![1; 16 << 20]).submit().unwrap();
    rig.assert_quiet();
    reset(peer);
    assert_eq!(os_error(&rig.outcome().failed()), Some(rustix::io::Errno::CONNRESET));
    conn.close().submit().unwrap();
    rig.outcome().closed();
}

/// Closing in the middle of a batch that has more of the same connection.
fn closing_in_the_middle_of_a_batch<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    for context in 0..4 {
        conn.read(Vec::with_capacity(1)).submit_with(context).unwrap();
    }
    peer.write_all(b"abcd").unwrap();
    drop(peer);
    for context in 0..4 {
        let (conn, got, outcome) = rig.done();
        assert_eq!((got, outcome.read().len()), (context, 1));
        if context == 0 {
            conn.release().submit_with(9).unwrap();
        }
    }
    let (_, context, got) = rig.done();
    got.closed();
    assert_eq!(context, 9);
}

/// G10: a close is the way out of too many operations, so no limit stands in its way.
fn a_close_is_never_one_too_many<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.ops, limits.ops_per_conn) = (4, 2));
    let (one, peer_one) = rig.connect(Net::Unix);
    let (two, peer_two) = rig.connect(Net::Unix);
    let read = |conn: &Conn<u64>| conn.read(Vec::with_capacity(1)).submit();
    for conn in [&one, &one, &two, &two] {
        read(conn).unwrap();
    }
    assert_eq!(read(&two).unwrap_err().kind, SubmitErrorKind::TooMany);
    assert_eq!(rig.submitter.post(1).unwrap_err().kind, SubmitErrorKind::TooMany);
    drop((peer_one, peer_two));
    one.close().submit().unwrap();
    two.release().submit().unwrap();
    let outcomes: Vec<Got> = (0..6).map(|_| rig.outcome()).collect();
    assert_eq!(outcomes.iter().filter(|got| matches!(got, Got::Closed)).count(), 2);
    assert_eq!(rig.submitter.load(), 0);
}

/// A write with a read linked to it, queued before the close: it is a queued write, so its bytes go out; then its
/// reading half has nothing to wait for but the end.
fn a_linked_write_before_the_close<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    conn.write(vec![1; 2 << 20]).then_read().submit_with(1).unwrap();
    conn.close().submit_with(2).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            assert_eq!(read_some(&mut peer, 2 << 20).len(), 2 << 20);
            assert_eq!(peer.read(&mut [0]).unwrap(), 0, "a clean end");
        });
        let mut seen = [rig.done(), rig.done()].map(|(_, context, got)| {
            assert!(matches!((context, &got), (1, Got::Failed(_) | Got::Eof(_)) | (2, Got::Closed)), "{got:?}");
            context
        });
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
    });
}

both_drives!(
    the_tail_of_an_answer_survives_unread_input,
    a_bare_close_with_unread_input,
    pending_reads_are_released_at_once,
    closing_twice_and_again_when_it_is_gone,
    the_descriptor_is_gone_when_the_close_completes,
    a_peer_that_never_ends,
    a_peer_that_reads_when_the_close_is_over,
    a_peer_that_never_reads,
    a_peer_that_never_stops_talking,
    a_linger_bounds_the_close_and_does_not_block_it,
    releasing_with_everything_pending,
    an_operation_on_what_was_released,
    a_release_tells_the_peer_whether_it_got_whole_messages,
    closing_what_the_peer_has_reset,
    closing_in_the_middle_of_a_batch,
    a_close_is_never_one_too_many,
    a_linked_write_before_the_close,
);
