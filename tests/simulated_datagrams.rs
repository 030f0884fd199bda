//! Datagram sockets on the simulated system: errors, full receivers and time, the same every time.

#![cfg(gaio_sim)]

#[path = "support/desk.rs"]
mod desk;

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use desk::{Desk, Got, MILLISECOND, bytes, desk, desk_with, owned, received};
use gaio::sim::Peer;
use gaio::{Conn, Event, Half, Limits};

/// A deadline is rounded up to what the wheel tells apart, and looked at in the turn after that.
const A_LITTLE: Duration = Duration::from_millis(5);

impl Desk {
    fn datagrams(&self, unix: bool) -> (Conn<u32>, Peer) {
        let (socket, peer) = if unix { self.world.unix_datagram_pair() } else { self.world.udp_pair() };
        (self.submitter.delegate(socket).unwrap(), peer)
    }
}

/// Every kind of read that there is of datagrams.
fn read(conn: &Conn<u32>, kind: u32) {
    match kind {
        0 => conn.read(Vec::with_capacity(100)),
        1 => conn.read_pooled(),
        _ => conn.read_leased(),
    }
    .submit_with(kind)
    .unwrap();
}

#[test]
fn messages_keep_their_borders_though_everything_is_pending_first() {
    for (unix, pending) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut desk = desk_with(|config| config.pending_first = pending, |_| ());
        let (conn, peer) = desk.datagrams(unix);
        for kind in 0..3 {
            for text in [&b"one"[..], b"", b"three"] {
                peer.send(text).unwrap();
            }
            (0..3).for_each(|_| read(&conn, kind));
            assert_eq!(desk.events(), [&b"one"[..], b"", b"three"].map(|text| (kind, bytes(text))));
            conn.readable().submit_with(8).unwrap();
            read(&conn, kind);
            assert_eq!(desk.events(), [], "unix: {unix}, pending: {pending}, kind {kind}");
            peer.send(b"").unwrap();
            assert_eq!(desk.events(), [(8, Got::Readable), (kind, bytes(b""))]);
            conn.write(b"an").submit_with(7).unwrap();
            conn.write_vectored(vec![Bytes::from_static(b"ans"), Bytes::from_static(b"wer")]).submit_with(7).unwrap();
            conn.write(b"").submit_with(7).unwrap();
            assert_eq!(desk.events(), [(7, Got::Wrote), (7, Got::Wrote), (7, Got::Wrote)]);
            let all = [&b"an"[..], b"answer", b""].map(|text| Ok(text.to_vec()));
            assert_eq!([received(&peer), received(&peer), received(&peer)], all);
        }
    }
}

#[test]
fn a_linked_operation_outlives_a_pending_in_either_half() {
    for unix in [true, false] {
        let mut desk = desk_with(|config| config.pending_first = true, |_| ());
        let (conn, peer) = desk.datagrams(unix);
        conn.write(Vec::from(*b"question")).then_read().submit_with(1).unwrap();
        conn.write(b"more").then_read_pooled().submit_with(2).unwrap();
        assert_eq!(desk.events(), []);
        assert_eq!([received(&peer), received(&peer)], [Ok(b"question".to_vec()), Ok(b"more".to_vec())]);
        for text in [b"answer", b"second"] {
            peer.send(text).unwrap();
        }
        assert_eq!(desk.events(), [(1, bytes(b"answer")), (2, bytes(b"second"))]);
    }
}

#[test]
fn pooled_reads_wait_for_room_for_a_whole_message() {
    for pending in [true, false] {
        let limits = |limits: &mut Limits| (limits.arena, limits.read_cap) = (256, 200);
        let mut desk = desk_with(|config| config.pending_first = pending, limits);
        let (conn, peer) = desk.datagrams(true);
        for n in [100, 100, 129, 0, 250] {
            assert_eq!(peer.send(&vec![7; n]).unwrap(), n);
            read(&conn, 1);
        }
        let mut batches = Vec::new();
        while batches.iter().map(Vec::len).sum::<usize>() < 5 {
            let batch = desk.watcher.turn(Some(Duration::ZERO)).unwrap();
            batches.push(
                batch
                    .map(|event| match event {
                        Event::Done { outcome, .. } => owned(outcome),
                        other => panic!("{other:?}"),
                    })
                    .collect(),
            );
        }
        batches.retain(|batch: &Vec<Got>| !batch.is_empty());
        let all: Vec<Got> = batches.into_iter().flatten().collect();
        let whole = |n| Got::Bytes(vec![7; n]);
        assert_eq!(all, [whole(100), whole(100), whole(129), whole(0), Got::Cut(250, vec![7; 200])]);
        assert!(desk.submitter.counters().starved > 0, "pending first: {pending}");
    }
}

/// More than one call of the system takes: half of a message would be none.
#[test]
fn a_message_of_very_many_pieces_is_one() {
    let mut desk = desk();
    let (conn, peer) = desk.datagrams(true);
    for (full, empty) in [(1_023, 0), (1_024, 0), (1_025, 0), (3_000, 0), (1_025, 7), (10, 3_000)] {
        let pieces = (0..full + empty).map(|i| if i < empty { Bytes::new() } else { Bytes::from_static(b"x") });
        conn.write_vectored(pieces.collect()).submit_with(1).unwrap();
        assert_eq!(desk.events(), [(1, Got::Wrote)]);
        let n = peer.recv(&mut [0; 4_096]).unwrap();
        assert_eq!(n, full, "{full} pieces, and {empty} empty ones");
        assert_eq!(received(&peer), Err(ErrorKind::WouldBlock));
    }
}

#[test]
fn a_refusal_is_told_to_one_operation_whichever_it_is() {
    for kind in 0..4 {
        let mut desk = desk();
        let (conn, peer) = desk.datagrams(false);
        peer.send(b"before").unwrap();
        peer.close();
        conn.write(b"to nobody").submit_with(9).unwrap();
        assert_eq!(desk.events(), [(9, Got::Wrote)]);
        let refused = |half| Got::Failed(half, 0, String::from("ConnectionRefused"));
        match kind {
            0 => {
                conn.readable().submit_with(kind).unwrap();
                assert_eq!(desk.events(), [(kind, refused(Half::Read))], "the look has taken it");
            }
            1 => {
                conn.write(b"taken for it").submit_with(kind).unwrap();
                assert_eq!(desk.events(), [(kind, refused(Half::Write))]);
            }
            2 => {
                conn.write(Vec::from(*b"taken for it")).then_read().submit_with(kind).unwrap();
                assert_eq!(desk.events(), [(kind, refused(Half::Write))]);
            }
            _ => {
                conn.read_leased().submit_with(kind).unwrap();
                assert_eq!(desk.events(), [(kind, refused(Half::Read))]);
            }
        }
        read(&conn, 1);
        read(&conn, 2);
        assert_eq!(desk.events(), [(1, bytes(b"before"))], "what had arrived is still there, and there is no end");
    }
}

#[test]
fn a_dead_unix_peer_ends_nothing() {
    let mut desk = desk();
    let (conn, peer) = desk.datagrams(true);
    peer.send(b"never read").unwrap();
    assert_eq!(desk.events(), []);
    peer.close();
    for name in ["ConnectionRefused", "NotConnected", "NotConnected"] {
        conn.write(b"x").submit_with(1).unwrap();
        assert_eq!(desk.events(), [(1, Got::Failed(Half::Write, 0, String::from(name)))]);
    }
    read(&conn, 0);
    assert_eq!(desk.events(), []);
    conn.close().submit_with(2).unwrap();
    assert_eq!(desk.events(), [(0, Got::Failed(Half::Read, 0, String::from("Released"))), (2, Got::Closed)]);
}

#[test]
fn a_write_that_is_given_up_breaks_nothing() {
    let mut desk = desk_with(|config| config.buffer = 20, |_| ());
    let (conn, peer) = desk.datagrams(true);
    conn.write(b"0123456789").submit_with(1).unwrap();
    conn.write(b"0123456789").within(MILLISECOND).submit_with(2).unwrap();
    conn.write(b"last").submit_with(3).unwrap();
    assert_eq!(desk.events(), [(1, Got::Wrote)], "it is full, and its head must not be overtaken");
    desk.world.advance(A_LITTLE);
    let late = Got::Failed(Half::Write, 0, String::from("TimedOut"));
    assert_eq!(desk.events(), [(2, late), (3, Got::Wrote)], "nothing was torn, and there is room for a smaller one");
    assert_eq!(received(&peer), Ok(b"0123456789".to_vec()));
    assert_eq!(received(&peer), Ok(b"last".to_vec()));
    assert_eq!(received(&peer), Err(ErrorKind::WouldBlock));
    conn.write(vec![0; 21]).submit_with(4).unwrap();
    conn.write(b"small").submit_with(5).unwrap();
    let [(4, Got::Failed(Half::Write, 0, _)), (5, Got::Wrote)] = desk.events()[..] else { panic!() };
}

#[test]
fn a_late_read_leaves_the_message_to_the_next() {
    let mut desk = desk();
    let (conn, peer) = desk.datagrams(false);
    conn.read_leased().within(MILLISECOND).submit_with(1).unwrap();
    conn.read_pooled().submit_with(2).unwrap();
    assert_eq!(desk.events(), []);
    desk.world.advance(A_LITTLE);
    assert_eq!(desk.events(), [(1, Got::Failed(Half::Read, 0, String::from("TimedOut")))]);
    peer.send(b"here").unwrap();
    assert_eq!(desk.events(), [(2, bytes(b"here"))]);
}

#[test]
fn a_close_waits_for_its_writes_and_nothing_else() {
    for unix in [true, false] {
        let mut desk = desk();
        let before = desk.world.open_descriptors();
        let (conn, peer) = desk.datagrams(unix);
        peer.send(b"unread").unwrap();
        conn.write(b"last").submit_with(1).unwrap();
        conn.close().submit_with(2).unwrap();
        assert_eq!(desk.events(), [(1, Got::Wrote), (2, Got::Closed)], "no time has passed");
        assert_eq!(desk.world.open_descriptors(), before);
        assert_eq!(received(&peer), Ok(b"last".to_vec()));
    }
    let mut desk = desk_with(|config| config.buffer = 20, |limits| limits.close_within = Duration::from_secs(5));
    let (conn, peer) = desk.datagrams(true);
    (0..3).for_each(|i| conn.write(b"0123456789").submit_with(i).unwrap());
    conn.close().submit_with(3).unwrap();
    assert_eq!(desk.events(), [(0, Got::Wrote)]);
    assert_eq!(received(&peer).map(|text| text.len()), Ok(10));
    assert_eq!(desk.events(), [(1, Got::Wrote)], "room is an edge");
    desk.world.advance(Duration::from_secs(6));
    assert_eq!(desk.events(), [(2, Got::Failed(Half::Write, 0, String::from("Released"))), (3, Got::Closed)]);
    assert_eq!(received(&peer).map(|text| text.len()), Ok(10), "what is out stays out");
    assert_eq!(received(&peer), Err(ErrorKind::WouldBlock));
}
