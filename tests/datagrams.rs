//! Datagram sockets: one message per read and write, no end, and errors that concern one operation.

#![cfg(not(any(loom, gaio_sim)))]

mod support;

use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use gaio::{Conn, DelegateErrorKind, Failure, Half, OpError, Payload, SubmitErrorKind};
use rustix::io::Errno;
use support::{Drive, Got, Net, Pattern, Rig, Taken, both_drives, os_error, read_some, until};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    Udp,
    Unix,
}

const SORTS: [Sort; 2] = [Sort::Udp, Sort::Unix];

/// std's `UnixDatagram` sends and receives with calls that are the same for UDP; so one type serves for both.
type Far = UnixDatagram;

impl Sort {
    /// Two sockets, each the other's peer: the one to delegate, and the far one.
    fn pair(self) -> (OwnedFd, Far) {
        match self {
            Self::Udp => {
                let [ours, theirs] = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
                ours.connect(theirs.local_addr().unwrap()).unwrap();
                theirs.connect(ours.local_addr().unwrap()).unwrap();
                (ours.into(), OwnedFd::from(theirs).into())
            }
            Self::Unix => {
                let (ours, theirs) = UnixDatagram::pair().unwrap();
                (ours.into(), theirs)
            }
        }
    }
}

fn connect<D: Drive>(rig: &Rig<D>, sort: Sort) -> (Conn<u64>, Far) {
    let (ours, far) = sort.pair();
    (rig.submitter.delegate(ours).unwrap(), far)
}

/// The next message at the far end, which is waited for.
fn message(far: &Far) -> Vec<u8> {
    let mut bytes = vec![0; 300_000];
    let n = far.recv(&mut bytes).unwrap();
    bytes.truncate(n);
    bytes
}

/// Every kind of read that there is of datagrams.
fn read(conn: &Conn<u64>, kind: u64) {
    match kind % 3 {
        0 => conn.read(Vec::with_capacity(100_000)),
        1 => conn.read_pooled(),
        _ => conn.read_leased(),
    }
    .submit_with(kind)
    .unwrap();
}

/// What came of a message that was too large: all that is left of it.
fn cut_off(failure: Failure) -> (usize, Vec<u8>) {
    let OpError::Truncated { whole } = failure.error else { panic!("{failure:?}") };
    let kept = failure.buffer.unwrap().as_slice().unwrap().to_vec();
    assert_eq!((failure.half, failure.transferred), (Half::Read, kept.len()));
    (whole, kept)
}

// --- reads ----------------------------------------------------------------------------------------------------------

/// Whether they are there first or the reads are; a small message says nothing of those behind it (I9).
fn each_read_takes_one_message<D: Drive>() {
    for sort in SORTS {
        for early in [true, false] {
            let mut rig = Rig::<D>::with(|limits| limits.ops_per_turn = 2);
            let (conn, far) = connect(&rig, sort);
            if early {
                (0..9).for_each(|i| assert_eq!(far.send(&[i; 30][..usize::from(i) * 3]).unwrap(), usize::from(i) * 3));
            }
            (0..9).for_each(|kind| read(&conn, kind));
            if !early {
                rig.assert_quiet();
                (0..9).for_each(|i| assert!(far.send(&[i; 30][..usize::from(i) * 3]).is_ok()));
            }
            for i in 0..9 {
                let (_, context, got) = rig.done();
                assert_eq!((context, got.bytes()), (u64::from(i), &[i; 30][..usize::from(i) * 3]), "{sort:?}");
            }
            rig.assert_quiet();
        }
    }
}

fn an_empty_message_is_data_and_no_end<D: Drive>() {
    for sort in SORTS {
        let mut rig = Rig::<D>::new();
        let (conn, far) = connect(&rig, sort);
        for kind in 0..3 {
            read(&conn, kind);
            conn.readable().submit_with(9).unwrap();
            read(&conn, kind);
            rig.assert_quiet();
            far.send(b"").unwrap();
            assert_eq!(rig.outcome().bytes(), b"");
            rig.assert_quiet();
            far.send(b"").unwrap();
            assert!(matches!(rig.outcome(), Got::Readable), "it can be read");
            assert_eq!(rig.outcome().bytes(), b"");
            far.send(b"goes on").unwrap();
            read(&conn, kind);
            assert_eq!(rig.outcome().bytes(), b"goes on");
        }
    }
}

/// With what did fit; and nothing of it is taken for the next message.
fn a_message_that_finds_no_room_says_so<D: Drive>() {
    for sort in SORTS {
        // Of arena and cap the smaller one counts.
        for (arena, cap) in [(4_096, 100), (100, 4_096)] {
            let mut rig = Rig::<D>::with(|limits| (limits.arena, limits.read_cap) = (arena, cap));
            let (conn, far) = connect(&rig, sort);
            let long: Vec<u8> = (0..200).collect();
            let buffer = Vec::with_capacity(100);
            let place = buffer.as_ptr();
            far.send(&long).unwrap();
            conn.read(buffer).submit().unwrap();
            let failure = rig.outcome().failed();
            assert_eq!(failure.buffer.as_ref().unwrap().as_slice().unwrap().as_ptr(), place);
            assert_eq!(cut_off(failure), (200, long[..100].to_vec()));
            far.send(&long).unwrap();
            conn.read_pooled().submit().unwrap();
            assert_eq!(cut_off(rig.outcome().failed()), (200, long[..100].to_vec()));
            let long = pattern(5_000);
            far.send(&long).unwrap();
            conn.read_leased().submit().unwrap();
            assert_eq!(
                cut_off(rig.outcome().failed()),
                (5_000, long[..cap].to_vec()),
                "a lease keeps to the cap alone"
            );
            far.send(b"next").unwrap();
            conn.read_pooled().submit().unwrap();
            assert_eq!(rig.outcome().bytes(), b"next");
        }
    }
}

fn pattern(n: usize) -> Vec<u8> {
    Pattern::new().first(n)
}

/// The empty one, too: it has its place among the others. None is cut to what the arena has left.
fn a_pooled_read_waits_for_room_for_a_whole_message<D: Drive>() {
    for sort in SORTS {
        let mut rig = Rig::<D>::with(|limits| (limits.arena, limits.read_cap) = (1_024, 600));
        let (conn, far) = connect(&rig, sort);
        let sizes = [500, 500, 0, 500, 600, 1, 423, 500];
        let all = pattern(1_000);
        sizes.iter().for_each(|n| assert_eq!(far.send(&all[..*n]).unwrap(), *n));
        sizes.iter().for_each(|_| conn.read_pooled().submit().unwrap());
        if D::SPAWNED {
            until(|| rig.counters().starved > 0);
        }
        for n in sizes {
            assert_eq!(rig.outcome().bytes(), &all[..n]);
        }
        assert!(rig.counters().starved > 0, "an arena of 1 KiB does not hold 3 kB");
    }
}

fn messages_of_every_size_come_whole<D: Drive>() {
    for (sort, sizes) in
        [(Sort::Udp, vec![0, 1, 16_384, 16_385, 65_507]), (Sort::Unix, vec![1, 16_384, 16_385, 99_999])]
    {
        let mut rig = Rig::<D>::new();
        let (conn, far) = connect(&rig, sort);
        for n in sizes {
            for kind in 0..3 {
                let sent = pattern(n);
                read(&conn, kind);
                far.send(&sent).unwrap();
                assert!(rig.outcome().bytes() == sent, "{n} bytes, read in way {kind}");
                conn.write(sent.clone()).submit().unwrap();
                rig.outcome().wrote();
                assert!(message(&far) == sent, "{n} bytes");
            }
        }
    }
}

fn what_only_a_stream_has_is_refused<D: Drive>() {
    for sort in SORTS {
        let rig = Rig::<D>::new();
        let (conn, _far) = connect(&rig, sort);
        let refused = conn.read_exact(Vec::with_capacity(5), 5).submit_with(7).unwrap_err();
        assert_eq!((refused.kind, refused.context), (SubmitErrorKind::NotAStream, 7));
        assert_eq!(refused.buffer.and_then(Payload::into_vec).unwrap().capacity(), 5);
        assert_eq!(conn.shutdown_write().submit().unwrap_err().kind, SubmitErrorKind::NotAStream);
        assert_eq!(conn.read(Vec::new()).submit().unwrap_err().kind, SubmitErrorKind::EmptyBuffer);
        // The empty message could be sent, but the answer would have no room.
        assert_eq!(conn.write(Vec::new()).then_read().submit().unwrap_err().kind, SubmitErrorKind::EmptyBuffer);
        assert_eq!(rig.submitter.load(), 0);
    }
}

// --- writes ---------------------------------------------------------------------------------------------------------

fn each_write_is_one_message<D: Drive>() {
    for sort in SORTS {
        // A budget in the middle of a message must not cut it.
        let mut rig = Rig::<D>::with(|limits| (limits.bytes_per_turn, limits.ops_per_turn) = (5, 1));
        let (conn, far) = connect(&rig, sort);
        conn.write(b"for ever").submit_with(0).unwrap();
        conn.write(Vec::from(*b"a vector")).submit_with(1).unwrap();
        conn.write(Bytes::from_static(b"shared")).submit_with(2).unwrap();
        conn.write_copied(b"copied").submit_with(3).unwrap();
        for context in 0..4 {
            let (_, got, outcome) = rig.done();
            assert_eq!(got, context);
            let (sent, payload) = (message(&far), outcome.wrote());
            assert_eq!(sent, payload.as_slice().unwrap_or(b"copied"));
            assert_eq!(sent.len(), payload.len());
        }
    }
}

fn an_empty_message_can_be_sent<D: Drive>() {
    for sort in SORTS {
        let mut rig = Rig::<D>::new();
        let (conn, far) = connect(&rig, sort);
        conn.write(Vec::with_capacity(7)).submit_with(0).unwrap();
        conn.write(b"").submit_with(1).unwrap();
        conn.write(Bytes::new()).submit_with(2).unwrap();
        conn.write_copied(b"").submit_with(3).unwrap();
        conn.write_vectored(vec![]).submit_with(4).unwrap();
        conn.write_vectored(vec![Bytes::new(); 3]).submit_with(5).unwrap();
        for context in 0..6 {
            let (_, got, outcome) = rig.done();
            let payload = outcome.wrote();
            assert_eq!((got, payload.len()), (context, 0));
            if context == 0 {
                assert_eq!(payload.into_vec().unwrap().capacity(), 7, "the same allocation");
            }
            assert_eq!(message(&far), b"");
        }
        conn.write(b"last").submit().unwrap();
        rig.outcome().wrote();
        assert_eq!(message(&far), b"last", "and no more than that");
    }
}

/// However many pieces it has, and however small the budget is.
fn a_vectored_write_is_one_message<D: Drive>() {
    for sort in SORTS {
        let mut rig = Rig::<D>::with(|limits| limits.bytes_per_turn = 3);
        let (conn, far) = connect(&rig, sort);
        for count in [1, 3, 1_024, 1_025, 5_000] {
            let pieces: Vec<Bytes> = (0..count).map(|i| Bytes::from(i.to_string())).collect();
            let whole = pieces.concat();
            let mut sent = vec![Bytes::new()];
            sent.extend(pieces);
            conn.write_vectored(sent).submit().unwrap();
            let Payload::Many(back) = rig.outcome().wrote() else { panic!() };
            assert_eq!(back.len(), count + 1);
            assert!(message(&far) == whole, "{sort:?}, {count} pieces");
        }
    }
}

fn a_write_is_followed_by_the_read_it_is_linked_to<D: Drive>() {
    for sort in SORTS {
        let mut rig = Rig::<D>::new();
        let (conn, far) = connect(&rig, sort);
        for round in 0..6 {
            match round % 3 {
                0 => conn.write(Vec::from(*b"to the peer")).then_read().submit().unwrap(),
                1 => conn.write(b"to the peer").then_read_pooled().submit().unwrap(),
                _ => conn.write_copied(b"to the peer").then_read_leased().submit().unwrap(),
            }
            rig.assert_quiet();
            assert_eq!(message(&far), b"to the peer");
            far.send(b"and back").unwrap();
            assert_eq!(rig.outcome().bytes(), b"and back");
        }
    }
}

fn a_thousand_messages_come_in_order_and_none_is_lost<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, far) = connect(&rig, Sort::Unix);
    let numbered = |i: u64| [&i.to_be_bytes()[..], &vec![7; usize::try_from(i).unwrap() % 90]].concat();
    thread::scope(|scope| {
        scope.spawn(|| (0..1_000).for_each(|i| assert!(far.send(&numbered(i)).is_ok())));
        (0..1_000).for_each(|i| read(&conn, i));
        for i in 0..1_000 {
            let (_, context, got) = rig.done();
            assert_eq!((context, got.bytes()), (i, &numbered(i)[..]));
        }
    });
    // And the other way, to a receiver that is soon full.
    (0..1_000).for_each(|i| conn.write(numbered(i)).submit_with(i).unwrap());
    let early = all_early(&mut rig);
    thread::scope(|scope| {
        scope.spawn(|| (0..1_000).for_each(|i| assert_eq!(message(&far), numbered(i))));
        for i in early..1_000 {
            let (_, context, got) = rig.done();
            got.wrote();
            assert_eq!(context, i);
        }
    });
}

// --- errors ---------------------------------------------------------------------------------------------------------

/// All or nothing; and nothing is broken.
fn a_message_that_can_never_be_sent_fails_alone<D: Drive>() {
    for sort in SORTS {
        let mut rig = Rig::<D>::new();
        let (conn, far) = connect(&rig, sort);
        conn.write(vec![0; 4 << 20]).submit_with(0).unwrap();
        conn.write(b"small").submit_with(1).unwrap();
        let (_, context, got) = rig.done();
        let failure = got.failed();
        assert_eq!((context, os_error(&failure), failure.half), (0, Some(Errno::MSGSIZE), Half::Write));
        assert_eq!((failure.transferred, failure.buffer.unwrap().len()), (0, 4 << 20));
        let (_, context, got) = rig.done();
        assert_eq!((context, got.wrote().len(), message(&far)), (1, 5, b"small".to_vec()));
    }
}

/// UDP hears of a dead port by the next call of any sort, which pays for it, alone.
fn a_refusal_fails_one_operation_and_a_peer_that_comes_back_is_heard<D: Drive>() {
    let mut rig = Rig::<D>::new();
    for kind in 0..5 {
        let (conn, far) = connect(&rig, Sort::Udp);
        let place = OwnedFd::from(far);
        let far = UdpSocket::from(place);
        let (here, there) = (far.peer_addr().unwrap(), far.local_addr().unwrap());
        drop(far);
        // One that waits is told at once; otherwise the next one.
        match kind {
            0..3 => read(&conn, kind),
            3 => conn.readable().submit_with(kind).unwrap(),
            _ => {}
        }
        conn.write(b"to nobody").submit_with(9).unwrap();
        let (_, context, got) = rig.done();
        assert_eq!((context, got.wrote().len()), (9, 9));
        if kind == 4 {
            conn.write(b"taken for it").submit_with(kind).unwrap();
        }
        let (_, context, got) = rig.done();
        let failure = got.failed();
        assert_eq!((context, os_error(&failure)), (kind, Some(Errno::CONNREFUSED)));
        assert_eq!(failure.half, if kind == 4 { Half::Write } else { Half::Read });
        assert_eq!(failure.transferred, 0);
        assert_eq!(failure.buffer.is_some(), kind == 0 || kind == 4, "it comes back if there was one");

        let far = UdpSocket::bind(there).unwrap();
        far.connect(here).unwrap();
        let far = Far::from(OwnedFd::from(far));
        conn.write(b"again").submit().unwrap();
        rig.outcome().wrote();
        assert_eq!(message(&far), b"again");
        far.send(b"welcome").unwrap();
        read(&conn, kind);
        assert_eq!(rig.outcome().bytes(), b"welcome");
    }
}

/// The error does not push aside what has arrived.
fn what_arrived_before_a_refusal_is_still_read<D: Drive>() {
    for kind in 0..3 {
        let mut rig = Rig::<D>::new();
        let (conn, far) = connect(&rig, Sort::Udp);
        far.send(b"before").unwrap();
        drop(far);
        conn.write(b"to nobody").submit_with(9).unwrap();
        rig.outcome().wrote();
        rig.assert_quiet();
        (0..2).for_each(|_| read(&conn, kind));
        assert_eq!(os_error(&rig.outcome().failed()), Some(Errno::CONNREFUSED));
        assert_eq!(rig.outcome().bytes(), b"before");
        read(&conn, kind);
        rig.assert_quiet();
    }
}

fn a_dead_unix_peer_fails_each_write_and_ends_nothing<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, far) = connect(&rig, Sort::Unix);
    conn.read_leased().submit_with(7).unwrap();
    drop(far);
    for errno in [Errno::CONNREFUSED, Errno::NOTCONN, Errno::NOTCONN] {
        conn.write(b"x").submit_with(1).unwrap();
        let (_, context, got) = rig.done();
        assert_eq!((context, os_error(&got.failed())), (1, Some(errno)));
    }
    rig.assert_quiet();
    conn.close().submit_with(2).unwrap();
    let (_, context, got) = rig.done();
    assert!(context == 7 && matches!(got.failed().error, OpError::Released), "there was no end to read");
    rig.outcome().closed();
}

/// G3: it waits, and its neighbours do not.
fn a_full_receiver_holds_its_writes_back_and_nobody_else<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, far) = connect(&rig, Sort::Unix);
    let waiting = fill(&mut rig, &conn);
    let (stream, mut peer) = rig.connect(Net::Tcp);
    let (other, near) = connect(&rig, Sort::Udp);
    for _ in 0..10 {
        stream.write(Vec::from(*b"tick")).then_read().submit_with(1).unwrap();
        other.write(Vec::from(*b"tock")).then_read().submit_with(2).unwrap();
        rig.assert_quiet();
        assert_eq!((read_some(&mut peer, 4), message(&near)), (b"tick".to_vec(), b"tock".to_vec()));
        peer.write_all(b"more").unwrap();
        near.send(b"less").unwrap();
        let mut got = [rig.done(), rig.done()].map(|(_, context, got)| (context, got.read()));
        got.sort();
        assert_eq!(got, [(1, b"more".to_vec()), (2, b"less".to_vec())]);
    }
    empty(&mut rig, &far, waiting);
}

const FILL: u64 = 1_000;

fn filling(i: u64) -> Vec<u8> {
    [&i.to_be_bytes()[..], &[7; 500]].concat()
}

/// Submits more than a Unix receiver holds, and says which is the first that waits.
fn fill<D: Drive>(rig: &mut Rig<D>, conn: &Conn<u64>) -> u64 {
    (0..FILL).for_each(|i| conn.write(filling(i)).submit_with(i).unwrap());
    all_early(rig)
}

/// Takes the writes that found room at once, and says which is the first that waits.
fn all_early<D: Drive>(rig: &mut Rig<D>) -> u64 {
    let mut waiting = 0;
    loop {
        // A step of a session sends no more than its budget allows.
        let early = rig.barrier();
        for event in &early {
            assert!(matches!(event, Taken::Done(_, context, Got::Wrote(_)) if *context == waiting), "{event:?}");
            waiting += 1;
        }
        if early.is_empty() {
            assert!((1..FILL).contains(&waiting), "{waiting} messages found room");
            return waiting;
        }
    }
}

/// Takes all of it out of the receiver, while the loop sends the rest.
fn empty<D: Drive>(rig: &mut Rig<D>, far: &Far, waiting: u64) {
    thread::scope(|scope| {
        scope.spawn(|| (0..FILL).for_each(|i| assert_eq!(message(far), filling(i))));
        for context in waiting..FILL {
            let (_, got, outcome) = rig.done();
            outcome.wrote();
            assert_eq!(got, context);
        }
    });
}

/// A message is out or it is not: who gives up has torn nothing, and the next one may follow.
fn a_write_that_is_given_up_breaks_nothing<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.ops_per_conn = 2_000);
    let (conn, far) = connect(&rig, Sort::Unix);
    let waiting = fill(&mut rig, &conn);
    conn.write(b"too late").within(Duration::from_millis(1)).submit_with(5_000).unwrap();
    let (op, id) = conn.write(b"cancelled").named();
    op.submit_with(5_001).unwrap();
    conn.cancel(id).unwrap();
    conn.write(b"last").submit_with(5_002).unwrap();
    let mut given_up = [rig.done(), rig.done()].map(|(_, context, got)| (context, got.failed()));
    given_up.sort_by_key(|(context, _)| *context);
    for (i, (context, failure)) in (5_000..).zip(given_up) {
        assert_eq!((context, failure.transferred), (i, 0));
        match context {
            5_000 => assert!(matches!(failure.error, OpError::TimedOut), "{failure:?}"),
            _ => assert!(matches!(failure.error, OpError::Cancelled), "{failure:?}"),
        }
    }
    empty(&mut rig, &far, waiting);
    assert_eq!(rig.done().1, 5_002);
    assert_eq!(message(&far), b"last");
}

fn a_read_that_is_late_takes_no_message<D: Drive>() {
    for sort in SORTS {
        let mut rig = Rig::<D>::new();
        let (conn, far) = connect(&rig, sort);
        conn.read(Vec::with_capacity(77)).within(Duration::from_millis(1)).submit().unwrap();
        let failure = rig.outcome().failed();
        assert!(matches!(failure.error, OpError::TimedOut), "{failure:?}");
        assert_eq!(failure.buffer.and_then(Payload::into_vec).unwrap().capacity(), 77);
        far.send(b"for the next").unwrap();
        // It is tried before its deadline is looked at.
        until(|| {
            conn.read_pooled().within(Duration::ZERO).submit().unwrap();
            match rig.outcome() {
                Got::Failed(failure) => !matches!(failure.error, OpError::TimedOut),
                got => got.bytes() == b"for the next",
            }
        });
    }
}

// --- ends -----------------------------------------------------------------------------------------------------------

/// There is no end to send, none to wait for, and nothing to throw away.
fn a_close_sends_what_is_queued_and_waits_for_nothing_else<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.close_within = support::LONG);
    for sort in SORTS {
        let (conn, far) = connect(&rig, sort);
        (0..9).for_each(|_| assert!(far.send(&[0; 900]).is_ok()));
        conn.write(b"last").submit_with(0).unwrap();
        conn.close().submit_with(1).unwrap();
        rig.outcome().wrote();
        rig.outcome().closed();
        assert_eq!(message(&far), b"last");
    }
    let (conn, far) = connect(&rig, Sort::Unix);
    let waiting = fill(&mut rig, &conn);
    conn.readable().submit_with(5_000).unwrap();
    conn.close().submit_with(5_001).unwrap();
    let (_, context, got) = rig.done();
    assert!(context == 5_000 && matches!(got.failed().error, OpError::Released));
    rig.assert_quiet();
    empty(&mut rig, &far, waiting);
    rig.outcome().closed();
}

fn a_close_that_is_overdue_gives_the_rest_back<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, far) = connect(&rig, Sort::Unix);
    let waiting = fill(&mut rig, &conn);
    conn.close().within(Duration::from_millis(1)).submit().unwrap();
    for context in waiting..FILL {
        let (_, got, outcome) = rig.done();
        let failure = outcome.failed();
        assert_eq!((got, failure.transferred, failure.buffer.unwrap().into_vec().unwrap()), (context, 0, filling(got)));
    }
    rig.outcome().closed();
    (0..waiting).for_each(|i| assert_eq!(message(&far), filling(i)));
}

/// G7.
fn the_last_handle_closes_what_it_names<D: Drive>() {
    for sort in SORTS {
        let mut rig = Rig::<D>::new();
        let (conn, far) = connect(&rig, sort);
        conn.write(b"the end").submit().unwrap();
        drop(conn);
        assert_eq!(rig.outcome().wrote().len(), 7);
        assert_eq!(message(&far), b"the end");
        until(|| {
            rig.barrier();
            rig.counters().sessions == 0
        });
    }
}

fn release_and_abort_end_it_now<D: Drive>() {
    for sort in SORTS {
        let mut rig = Rig::<D>::new();
        for abort in [false, true] {
            let (conn, far) = connect(&rig, sort);
            conn.write(b"sent").submit().unwrap();
            rig.outcome().wrote();
            conn.read_leased().submit().unwrap();
            if abort { conn.abort() } else { conn.release() }.submit().unwrap();
            assert!(matches!(rig.outcome().failed().error, OpError::Released));
            rig.outcome().closed();
            conn.write(b"").submit().unwrap();
            assert!(matches!(rig.outcome().failed().error, OpError::Closed));
            assert_eq!(message(&far), b"sent", "what was handed over is not taken back");
        }
    }
}

fn out_of_the_loop_again_with_all_that_waits_in_it<D: Drive>() {
    for sort in SORTS {
        let mut rig = Rig::<D>::new();
        let (conn, far) = connect(&rig, sort);
        (0..3).for_each(|i| assert!(far.send(&[i]).is_ok()));
        read(&conn, 0);
        assert_eq!(rig.outcome().bytes(), [0]);
        conn.write(vec![0; 4 << 20]).submit_with(1).unwrap();
        conn.write(b"out").submit_with(2).unwrap();
        conn.into_fd().submit_with(3).unwrap();
        assert_eq!(os_error(&rig.outcome().failed()), Some(Errno::MSGSIZE));
        rig.outcome().wrote();
        let Got::Detached(detached) = rig.outcome() else { panic!("a write that failed has broken nothing") };
        assert!(detached.leftover.is_empty());
        let ours = Far::from(detached.socket);
        assert_eq!((message(&ours), message(&ours)), (vec![1], vec![2]));
        ours.send(b"by hand").unwrap();
        assert_eq!((message(&far), message(&far)), (b"out".to_vec(), b"by hand".to_vec()));
    }
}

// --- delegation -----------------------------------------------------------------------------------------------------

fn without_a_peer_or_with_leftovers_it_comes_back<D: Drive>() {
    let rig = Rig::<D>::new();
    let unconnected: [OwnedFd; 2] =
        [UdpSocket::bind("127.0.0.1:0").unwrap().into(), UnixDatagram::unbound().unwrap().into()];
    for socket in unconnected {
        let refused = rig.submitter.delegate(socket).unwrap_err();
        assert!(refused.to_string().contains("without a peer"), "{refused}");
    }
    for sort in SORTS {
        let (ours, far) = sort.pair();
        let refused = rig.submitter.delegate_with(ours, &b"read before"[..]).unwrap_err();
        assert!(matches!(refused.kind, DelegateErrorKind::Unsupported(why) if why.contains("datagram")));
        assert_eq!(refused.leftover, b"read before"[..]);
        Far::from(refused.socket).send(b"still ours").unwrap();
        assert_eq!(message(&far), b"still ours");
    }
}

fn a_handle_knows_both_addresses<D: Drive>() {
    let rig = Rig::<D>::new();
    let (conn, far) = connect(&rig, Sort::Udp);
    let far = UdpSocket::from(OwnedFd::from(far));
    assert_eq!((conn.peer_addr(), conn.local_addr()), (far.local_addr().ok(), far.peer_addr().ok()));
    let (conn, _far) = connect(&rig, Sort::Unix);
    assert_eq!((conn.peer_addr(), conn.local_addr()), (None, None));
}

both_drives!(
    each_read_takes_one_message,
    an_empty_message_is_data_and_no_end,
    a_message_that_finds_no_room_says_so,
    a_pooled_read_waits_for_room_for_a_whole_message,
    messages_of_every_size_come_whole,
    what_only_a_stream_has_is_refused,
    each_write_is_one_message,
    an_empty_message_can_be_sent,
    a_vectored_write_is_one_message,
    a_write_is_followed_by_the_read_it_is_linked_to,
    a_thousand_messages_come_in_order_and_none_is_lost,
    a_message_that_can_never_be_sent_fails_alone,
    a_refusal_fails_one_operation_and_a_peer_that_comes_back_is_heard,
    what_arrived_before_a_refusal_is_still_read,
    a_dead_unix_peer_fails_each_write_and_ends_nothing,
    a_full_receiver_holds_its_writes_back_and_nobody_else,
    a_write_that_is_given_up_breaks_nothing,
    a_read_that_is_late_takes_no_message,
    a_close_sends_what_is_queued_and_waits_for_nothing_else,
    a_close_that_is_overdue_gives_the_rest_back,
    the_last_handle_closes_what_it_names,
    release_and_abort_end_it_now,
    out_of_the_loop_again_with_all_that_waits_in_it,
    without_a_peer_or_with_leftovers_it_comes_back,
    a_handle_knows_both_addresses,
);
