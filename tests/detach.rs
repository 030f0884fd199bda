//! The way out of a loop, and back in: `into_fd`, and bytes that come with a socket (`delegate_with`).

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gaio::{Conn, DelegateErrorKind, Half, OpError, Options, Watcher};
use support::{
    Drive, Got, HUGE, LONG, NETS, Net, Pattern, Peer, Rig, Taken, both_drives, finish, os_error, read_all, read_some,
    read_to_its_end, reset,
};

const SOON: Duration = Duration::from_millis(20);

/// The socket, as std knows it. Nobody else has a part in it any more.
fn own(socket: gaio::Socket) -> Peer {
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false).unwrap();
    stream
}

fn the_caller_has_it_again<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        peer.write_all(b"one, two").unwrap();
        conn.read_exact(Vec::new(), 5).submit().unwrap();
        assert_eq!(rig.outcome().bytes(), b"one, ");
        conn.write(b"before").submit().unwrap();
        rig.outcome().wrote();
        conn.into_fd().submit_with(1).unwrap();
        let (_, context, got) = rig.done();
        let detached = got.detached();
        assert!(context == 1 && detached.leftover.is_empty());
        assert_eq!(rig.counters().sessions, 0);
        let flags = rustix::fs::fcntl_getfl(&detached.socket).unwrap();
        assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
        let mut ours = own(detached.socket);
        assert_eq!(read_some(&mut ours, 3), b"two", "what nobody has read is still there");
        ours.write_all(b", after").unwrap();
        assert_eq!(read_some(&mut peer, 13), b"before, after");
        // The loop hears no more of it.
        peer.write_all(b"x").unwrap();
        rig.assert_quiet();
        // And may have it once more, as may another.
        let conn = rig.submitter.delegate(ours).unwrap();
        conn.read_leased().submit().unwrap();
        assert_eq!(rig.outcome().bytes(), b"x");
    }
}

fn behind_writes_that_are_stuck<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::with(|limits| limits.close_within = LONG);
        let (conn, mut peer) = rig.connect(net);
        let all = Pattern::new().first(HUGE);
        conn.write(all.clone()).submit_with(1).unwrap();
        conn.write(b"tail").submit_with(2).unwrap();
        conn.read_exact(Vec::new(), 9).submit_with(3).unwrap();
        peer.write_all(b"part").unwrap();
        // The writes have the budget of a step until the system takes no more.
        (0..20).for_each(|_| rig.assert_quiet());
        conn.into_fd().submit_with(4).unwrap();
        // What is submitted behind it comes too late, whatever it is.
        conn.read_leased().submit_with(5).unwrap();
        conn.write(b"late").submit_with(6).unwrap();
        conn.shutdown_write().submit_with(7).unwrap();
        conn.into_fd().submit_with(8).unwrap();
        conn.close().submit_with(9).unwrap();
        drop(conn);
        let failure = rig.outcome().failed();
        assert!(matches!(failure.error, OpError::Released) && failure.transferred == 4, "{failure:?}");
        assert_eq!(failure.buffer.unwrap().as_slice().unwrap(), b"part");
        for expected in 5..=8 {
            let (_, context, got) = rig.done();
            let failure = got.failed();
            assert!(context == expected && matches!(failure.error, OpError::Closed), "{failure:?}");
        }
        rig.assert_quiet();
        thread::scope(|scope| {
            let reading = scope.spawn(|| {
                assert!(read_some(&mut peer, HUGE) == all);
                read_some(&mut peer, 9)
            });
            for expected in [1, 2] {
                let (_, context, got) = rig.done();
                got.wrote();
                assert_eq!(context, expected);
            }
            let (_, context, got) = rig.done();
            let mut ours = own(got.detached().socket);
            assert_eq!(context, 4);
            let (_, context, got) = rig.done();
            got.closed();
            assert_eq!(context, 9);
            ours.write_all(b", end").unwrap();
            assert_eq!(reading.join().unwrap(), b"tail, end");
        });
        rig.assert_quiet();
        assert_eq!(rig.counters().sessions, 0);
    }
}

/// G1: its reading half has not begun, so it is released as those reads are that have.
fn behind_a_linked_operation<D: Drive>() {
    for ending in ["into_fd", "close"] {
        let mut rig = Rig::<D>::with(|limits| limits.close_within = LONG);
        let (conn, mut peer) = rig.connect(Net::Tcp);
        peer.write_all(b"not for the loop").unwrap();
        rig.assert_quiet();
        let buffer = vec![7; HUGE];
        let at = buffer.as_ptr();
        conn.write(buffer).then_read().within(LONG).submit_with(1).unwrap();
        if ending == "into_fd" { conn.into_fd() } else { conn.close() }.submit_with(2).unwrap();
        rig.assert_quiet();
        thread::scope(|scope| {
            let reading = scope.spawn(|| {
                read_some(&mut peer, HUGE);
                peer
            });
            let (_, context, got) = rig.done();
            let failure = got.failed();
            assert!(context == 1 && matches!(failure.error, OpError::Released), "{failure:?}");
            assert_eq!((failure.half, failure.transferred), (Half::Read, 0));
            assert_eq!(failure.buffer.unwrap().as_slice().unwrap().as_ptr(), at);
            let peer = reading.join().unwrap();
            if ending == "close" {
                drop(peer);
                return rig.outcome().closed();
            }
            let mut ours = own(rig.outcome().detached().socket);
            assert_eq!(read_some(&mut ours, 16), b"not for the loop");
        });
        rig.assert_quiet();
        assert_eq!((rig.submitter.load(), rig.counters().sessions), (0, 0));
    }
}

fn with_a_deadline<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.close_within = LONG);
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.write(vec![7; HUGE]).submit_with(1).unwrap();
    let begun = Instant::now();
    conn.into_fd().within(SOON).submit_with(2).unwrap();
    let failure = rig.outcome().failed();
    assert!(matches!(failure.error, OpError::Released) && failure.transferred > 0, "{failure:?}");
    let failure = rig.outcome().failed();
    assert!(matches!(failure.error, OpError::TimedOut), "{failure:?}");
    assert!(begun.elapsed() >= SOON, "early");
    assert_eq!(read_to_its_end(&mut peer).1, Some(ErrorKind::ConnectionReset), "it ended in the middle");
    // Without writes before it there is nothing to wait for.
    let (conn, _peer) = rig.connect(Net::Tcp);
    conn.into_fd().by(begun).submit().unwrap();
    rig.outcome().detached();
}

/// If it has no bound of its own it has that of a close.
fn with_the_usual_bound<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.close_within = SOON);
    let (conn, _peer) = rig.connect(Net::Unix);
    conn.write(vec![7; HUGE]).submit_with(1).unwrap();
    conn.into_fd().submit_with(2).unwrap();
    assert!(matches!(rig.outcome().failed().error, OpError::Released));
    assert!(matches!(rig.outcome().failed().error, OpError::TimedOut));
}

/// I11: a connection with a torn message in it is of no use to anybody.
fn of_a_broken_side<D: Drive>() {
    for before in [true, false] {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(Net::Tcp);
        conn.write(vec![7; HUGE]).within(SOON).submit_with(1).unwrap();
        if before {
            conn.into_fd().within(LONG).submit_with(2).unwrap();
        }
        assert!(matches!(rig.outcome().failed().error, OpError::TimedOut));
        if !before {
            conn.into_fd().submit_with(2).unwrap();
        }
        let (_, context, got) = rig.done();
        let failure = got.failed();
        assert!(context == 2 && matches!(failure.error, OpError::Broken), "{failure:?}");
        assert_eq!(read_to_its_end(&mut peer).1, Some(ErrorKind::ConnectionReset));
        assert_eq!(rig.counters().sessions, 0);
    }
}

/// The sending side has been ended in order; the other goes on, outside.
fn behind_the_end_of_the_output<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        conn.write(b"bye").submit_with(1).unwrap();
        conn.shutdown_write().submit_with(2).unwrap();
        conn.into_fd().submit_with(3).unwrap();
        rig.outcome().wrote();
        rig.outcome().shut_down();
        let mut ours = own(rig.outcome().detached().socket);
        assert_eq!(read_all(&mut peer), b"bye");
        peer.write_all(b"and you").unwrap();
        assert_eq!(read_some(&mut ours, 7), b"and you");
    }
}

/// Nor does the end of the peer's output keep it.
fn after_the_peers_end<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        finish(&peer);
        conn.read_leased().submit().unwrap();
        assert!(rig.outcome().eof().is_none());
        conn.into_fd().submit().unwrap();
        let mut ours = own(rig.outcome().detached().socket);
        ours.write_all(b"still").unwrap();
        assert_eq!(read_some(&mut peer, 5), b"still");
        assert_eq!(read_all(&mut ours), b"");
    }
}

/// An error is told once: whoever read on outside would take what follows it for a clean end.
fn of_a_connection_that_was_reset<D: Drive>() {
    for told in ["readable", "read", "nobody"] {
        let mut rig = Rig::<D>::new();
        let (conn, peer) = rig.connect(Net::Tcp);
        reset(peer);
        match told {
            "readable" => {
                conn.readable().submit().unwrap();
                assert!(matches!(rig.outcome(), Got::Readable));
            }
            "read" => {
                conn.read_leased().submit().unwrap();
                rig.outcome().failed();
            }
            _ => rig.assert_quiet(),
        }
        conn.into_fd().submit().unwrap();
        match rig.outcome() {
            // Here it is still to be told.
            Got::Detached(detached) if told == "nobody" => {
                assert_eq!(own(detached.socket).read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            }
            got => assert_eq!(os_error(&got.failed()), Some(rustix::io::Errno::CONNRESET)),
        }
    }
}

fn of_a_connection_that_is_gone<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, _peer) = rig.connect(Net::Tcp);
    conn.release().submit().unwrap();
    rig.outcome().closed();
    conn.into_fd().submit().unwrap();
    assert!(matches!(rig.outcome().failed().error, OpError::Closed));
}

/// G7: neither does a watcher that goes leave it open, nor a shutdown while it waits.
fn a_detached_socket_that_nobody_took<D: Drive>() {
    let rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.into_fd().submit().unwrap();
    let (stuck, _stuck_peer) = rig.connect(Net::Tcp);
    stuck.write(vec![7; HUGE]).submit_with(1).unwrap();
    stuck.into_fd().submit_with(2).unwrap();
    drop(conn);
    if D::SPAWNED {
        support::until(|| rig.counters().sessions == 1);
    }
    drop(rig);
    assert_eq!(read_all(&mut peer), b"");
}

fn shutdown_while_it_waits<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, _peer) = rig.connect(Net::Tcp);
    conn.write(vec![7; HUGE]).submit_with(1).unwrap();
    conn.into_fd().submit_with(2).unwrap();
    rig.assert_quiet();
    rig.submitter.shutdown(SOON);
    let rest = rig.rest();
    assert_eq!(rest.len(), 2);
    for taken in rest {
        let Taken::Done(_, _, got) = taken else { panic!("{taken:?}") };
        assert!(matches!(got.failed().error, OpError::Aborted));
    }
}

// --- bytes that come with a socket -------------------------------------------------------------------------------

impl<D: Drive> Rig<D> {
    fn connect_with(&self, net: Net, leftover: &'static [u8]) -> (Conn<u64>, Peer) {
        let (ours, peer) = net.pair();
        (self.submitter.delegate_with(ours, leftover).unwrap(), peer)
    }
}

fn every_kind_of_read_begins_with_what_is_left<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect_with(net, b"0123456789abcdef");
        conn.readable().submit().unwrap();
        assert!(matches!(rig.outcome(), Got::Readable));
        conn.read(Vec::with_capacity(3)).submit().unwrap();
        assert_eq!(rig.outcome().read(), b"012");
        conn.read_exact(Vec::new(), 4).submit().unwrap();
        assert_eq!(rig.outcome().read(), b"3456");
        conn.write(b"q".to_vec()).then_read().submit().unwrap();
        assert_eq!(rig.outcome().read(), b"7", "as much as the vector holds");
        conn.write(vec![]).then_read().submit().unwrap_err();
        peer.write_all(b"ghi").unwrap();
        conn.read_exact(Vec::with_capacity(100), 9).submit().unwrap();
        assert_eq!(rig.outcome().read(), b"89abcdefg", "across the seam");
        conn.read_pooled().submit().unwrap();
        assert_eq!(rig.outcome().bytes(), b"hi");
        conn.readable().submit().unwrap();
        rig.assert_quiet();
        finish(&peer);
        assert!(matches!(rig.outcome(), Got::Readable));
        conn.read_leased().submit().unwrap();
        assert!(rig.outcome().eof().is_none());

        let (conn, mut peer) = rig.connect_with(net, b"0123456789");
        conn.read_pooled().submit().unwrap();
        assert_eq!(rig.outcome().bytes(), b"0123456789");
        let (conn, mut other) = rig.connect_with(net, b"0123456789");
        conn.read_leased().submit().unwrap();
        assert_eq!(rig.outcome().bytes(), b"0123456789");
        conn.read_leased().submit().unwrap();
        rig.assert_quiet();
        other.write_all(b"more").unwrap();
        assert_eq!(rig.outcome().bytes(), b"more");
        let _ = peer.write(b"x");
    }
}

fn an_exact_read_across_the_seam_waits_for_the_rest<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect_with(net, b"left");
        conn.read_exact(Vec::new(), 8).submit_with(1).unwrap();
        rig.assert_quiet();
        peer.write_all(b"over").unwrap();
        assert_eq!(rig.outcome().bytes(), b"leftover");
        // What did arrive comes back with it, wherever it came from.
        for end in ["deadline", "cancel", "eof"] {
            let (conn, peer) = rig.connect_with(net, b"left");
            let (op, id) = conn.read_exact(Vec::new(), 8).named();
            let op = if end == "deadline" { op.within(SOON) } else { op };
            op.submit_with(1).unwrap();
            if end != "deadline" {
                rig.assert_quiet();
            }
            match end {
                "cancel" => conn.cancel(id).unwrap(),
                "eof" => finish(&peer),
                _ => {}
            }
            let bytes = match rig.outcome() {
                Got::Eof(bytes) if end == "eof" => bytes.unwrap(),
                Got::Failed(failure) if end != "eof" => {
                    assert_eq!(failure.transferred, 4);
                    failure.buffer.unwrap().into_vec().unwrap()
                }
                other => panic!("{end}: {other:?}"),
            };
            assert_eq!(bytes, b"left");
        }
    }
}

/// G8: it is memory that is copied, but a step is a step; and a batch is as full of these bytes as of others.
fn what_is_left_is_served_within_the_budget<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.bytes_per_turn, limits.batch_bytes) = (1_000, 1_000));
    let all = Bytes::from(Pattern::new().first(100_000));
    let (ours, _peer) = Net::Tcp.pair();
    let conn = rig.submitter.delegate_with(ours, all.clone()).unwrap();
    let turns = rig.counters().turns;
    conn.read_exact(Vec::new(), 50_000).submit_with(1).unwrap();
    assert_eq!(rig.outcome().bytes(), &all[..50_000]);
    assert!(rig.counters().turns >= turns + 40, "a step of a thousand bytes is one, or two in the first turn");
    for _ in 0..50 {
        conn.read(Vec::with_capacity(1_000)).submit_with(2).unwrap();
    }
    let (mut at, mut batches) = (50_000, 0);
    while at < all.len() {
        for event in rig.watcher.wait().unwrap() {
            let Taken::Done(_, 2, got) = event.into() else { panic!() };
            assert_eq!(got.bytes(), &all[at..][..1_000]);
            at += 1_000;
        }
        batches += 1;
    }
    assert!(batches >= 10, "{batches} batches for 50 reads, each of which fills one");
}

fn it_leaves_with_the_socket<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect_with(net, b"one two three");
        conn.read_exact(Vec::new(), 4).submit().unwrap();
        assert_eq!(rig.outcome().bytes(), b"one ");
        conn.into_fd().submit().unwrap();
        let detached = rig.outcome().detached();
        assert_eq!(&detached.leftover[..], b"two three");
        // On to another loop.
        let (mut other, submitter) = Watcher::<u64>::spawn_for(Options::default()).unwrap();
        let conn = submitter.delegate_with(detached.socket, detached.leftover).unwrap();
        peer.write_all(b" four").unwrap();
        conn.read_exact(Vec::new(), 14).submit().unwrap();
        let event = other.wait().unwrap().next().unwrap();
        let Taken::Done(_, _, got) = event.into() else { panic!() };
        assert_eq!(got.bytes(), b"two three four");
    }
}

fn what_is_refused_comes_back_with_its_bytes<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.sessions = 1);
    let leftover = Bytes::from_static(b"left");
    let refused = rig.submitter.delegate_with(TcpListener::bind("127.0.0.1:0").unwrap(), leftover.clone()).unwrap_err();
    assert!(matches!(refused.kind, DelegateErrorKind::Unsupported(_)) && refused.leftover == leftover);
    let (_conn, _peer) = rig.connect(Net::Tcp);
    let (ours, _second) = Net::Tcp.pair();
    let refused = rig.submitter.delegate_with(ours, leftover.clone()).unwrap_err();
    assert!(matches!(refused.kind, DelegateErrorKind::TooMany) && refused.leftover == leftover);
    rig.submitter.shutdown(Duration::ZERO);
    rig.rest();
    let refused = rig.submitter.delegate_with(refused.socket, refused.leftover).unwrap_err();
    assert!(matches!(refused.kind, DelegateErrorKind::Closed | DelegateErrorKind::TooMany));
    assert_eq!(refused.leftover, leftover);
}

struct Owner(Arc<[u8; 3]>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &*self.0
    }
}

/// A close or a reset does not stumble over it, and its bytes go once.
fn bytes_that_nobody_reads<D: Drive>() {
    for ending in ["close", "release", "abort", "drop", "shutdown"] {
        let mut rig = Rig::<D>::new();
        let owner = Arc::new([1, 2, 3]);
        let (ours, peer) = Net::Tcp.pair();
        let conn = rig.submitter.delegate_with(ours, Bytes::from_owner(Owner(owner.clone()))).unwrap();
        rig.assert_quiet();
        assert_eq!(Arc::strong_count(&owner), 2);
        finish(&peer);
        match ending {
            "close" => conn.close().submit().unwrap(),
            "release" => conn.release().submit().unwrap(),
            "abort" => conn.abort().submit().unwrap(),
            "drop" => {}
            _ => rig.submitter.shutdown(Duration::ZERO),
        }
        drop(conn);
        match ending {
            "shutdown" => {
                assert!(rig.rest().is_empty());
                drop(rig);
            }
            "drop" => rig.assert_quiet(),
            _ => {
                rig.outcome().closed();
                rig.assert_quiet();
            }
        }
        assert_eq!(Arc::strong_count(&owner), 1, "{ending}");
    }
}

/// Pooled reads wait for room with these bytes, too.
fn what_is_left_finds_no_room_in_the_arena<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.arena, limits.read_cap) = (8, 8));
    let (conn, mut peer) = rig.connect_with(Net::Tcp, b"0123456789abcdef");
    peer.write_all(b"ghijklmn").unwrap();
    for context in 0..3 {
        conn.read_pooled().submit_with(context).unwrap();
    }
    for (expected, bytes) in (0..).zip([b"01234567", b"89abcdef", b"ghijklmn"]) {
        let (_, context, got) = rig.done();
        assert_eq!((context, got.bytes()), (expected, &bytes[..]));
    }
    let mut nothing = peer;
    nothing.set_nonblocking(true).unwrap();
    assert_eq!(nothing.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

both_drives!(
    the_caller_has_it_again,
    behind_writes_that_are_stuck,
    behind_a_linked_operation,
    with_a_deadline,
    with_the_usual_bound,
    of_a_broken_side,
    behind_the_end_of_the_output,
    after_the_peers_end,
    of_a_connection_that_was_reset,
    of_a_connection_that_is_gone,
    a_detached_socket_that_nobody_took,
    shutdown_while_it_waits,
    every_kind_of_read_begins_with_what_is_left,
    an_exact_read_across_the_seam_waits_for_the_rest,
    what_is_left_is_served_within_the_budget,
    it_leaves_with_the_socket,
    what_is_refused_comes_back_with_its_bytes,
    bytes_that_nobody_reads,
    what_is_left_finds_no_room_in_the_arena,
);
