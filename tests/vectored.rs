//! Vectored writes: several pieces, one operation; all bytes, in order, once, and the same allocations back.

mod support;

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use gaio::{Half, OpError, Payload, SubmitErrorKind};
use support::{Drive, Got, LONG, NETS, Net, Pattern, Rig, both_drives, read_some, read_to_its_end};

fn pieces(payload: Payload) -> Vec<Bytes> {
    match payload {
        Payload::Many(pieces) => pieces,
        other => panic!("{other:?}"),
    }
}

/// The pattern, cut into pieces of these sizes; each is an allocation of its own.
fn cut(all: &[u8], sizes: impl IntoIterator<Item = usize>) -> Vec<Bytes> {
    let mut at = 0;
    let mut pieces = Vec::new();
    for size in sizes {
        pieces.push(Bytes::from(all[at..at + size].to_vec()));
        at += size;
    }
    assert_eq!(at, all.len());
    pieces
}

fn the_same_pieces_come_back<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let empty = Bytes::new;
        let pieces_in = vec![empty(), "one, ".into(), empty(), empty(), "two, ".into(), "three".into(), empty()];
        let (at, kept) = (pieces_in.as_ptr(), pieces_in.clone());
        conn.write_vectored(pieces_in).submit_with(5).unwrap();
        let (_, context, got) = rig.done();
        let payload = got.wrote();
        assert!(context == 5 && payload.len() == 15 && payload.as_slice().is_none() && !payload.is_empty());
        let back = pieces(payload);
        assert_eq!((back.as_ptr(), &back), (at, &kept));
        assert!(back.iter().zip(&kept).all(|(back, kept)| back.as_ptr() == kept.as_ptr()));
        assert_eq!(read_some(&mut peer, 15), b"one, two, three");
    }
}

fn nothing_to_write_is_refused<D: Drive>() {
    let rig = Rig::<D>::new();
    let (conn, _peer) = rig.connect(Net::Tcp);
    for nothing in [vec![], vec![Bytes::new()], vec![Bytes::new(); 3]] {
        let n = nothing.len();
        let refused = conn.write_vectored(nothing).submit_with(3).unwrap_err();
        assert_eq!((refused.kind, refused.context), (SubmitErrorKind::EmptyBuffer, 3));
        assert_eq!(pieces(refused.buffer.unwrap()).len(), n);
    }
}

/// More than one system call takes, and none of them where a piece ends.
fn more_pieces_than_one_call_takes<D: Drive>() {
    for net in NETS {
        for budget in [512 << 10, 1_000] {
            let mut rig = Rig::<D>::with(|limits| limits.bytes_per_turn = budget);
            let (conn, mut peer) = rig.connect(net);
            // Every third one is empty, the others are of 1 to 97 bytes.
            let sizes: Vec<usize> = (0..5_000).map(|i| if i % 3 == 0 { 0 } else { 1 + i * 31 % 97 }).collect();
            let all = Pattern::new().first(sizes.iter().sum());
            conn.write_vectored(cut(&all, sizes)).submit_with(1).unwrap();
            conn.write(b"behind").submit_with(2).unwrap();
            conn.write_vectored(vec![Bytes::from_static(b", and "), Bytes::from_static(b"last")])
                .submit_with(3)
                .unwrap();
            thread::scope(|scope| {
                let reading = scope.spawn(|| read_some(&mut peer, all.len() + 16));
                for expected in 1..=3 {
                    let (_, context, got) = rig.done();
                    got.wrote();
                    assert_eq!(context, expected);
                }
                let got = reading.join().unwrap();
                assert!(got[..all.len()] == all);
                assert_eq!(&got[all.len()..], b"behind, and last");
            });
        }
    }
}

/// The system takes now and then a few bytes, and stops in the middle of a piece.
fn pieces_that_go_out_bit_by_bit<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let sizes = [1, 3_000_001, 0, 2, 5_000_011, 70_000, 4_000_037, 1];
        let pattern = Pattern::new();
        let all = pattern.first(sizes.iter().sum());
        let many = cut(&all, sizes);
        let kept = many.clone();
        conn.write_vectored(many).submit_with(1).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut at = 0;
                let mut buffer = vec![0; 100_003];
                while at < all.len() {
                    let n = peer.read(&mut buffer).unwrap();
                    assert!(n > 0 && all[at..at + n] == buffer[..n], "at {at}");
                    at += n;
                }
            });
            let back = pieces(rig.outcome().wrote());
            assert!(back.iter().zip(&kept).all(|(back, kept)| back.as_ptr() == kept.as_ptr()));
        });
        assert_eq!(rig.submitter.load(), 0);
    }
}

/// It says how much went out, which is just what the peer gets.
fn torn_by_its_deadline<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let sizes = [10, 8_000_001, 8_000_001];
    let all = Pattern::new().first(sizes.iter().sum());
    conn.write_vectored(cut(&all, sizes)).within(Duration::from_millis(20)).submit_with(1).unwrap();
    conn.write_vectored(vec![Bytes::from_static(b"more")]).submit_with(2).unwrap();
    let failure = rig.outcome().failed();
    assert!(matches!(failure.error, OpError::TimedOut), "{failure:?}");
    assert_eq!(failure.half, Half::Write);
    let sent = failure.transferred;
    assert_eq!(pieces(failure.buffer.unwrap()).iter().map(Bytes::len).collect::<Vec<_>>(), sizes);
    let follower = rig.outcome().failed();
    assert!(matches!(follower.error, OpError::Broken), "{follower:?}");
    assert_eq!(pieces(follower.buffer.unwrap())[0], "more");
    assert!(read_some(&mut peer, sent) == all[..sent]);
    peer.set_nonblocking(true).unwrap();
    assert!(peer.read(&mut [0; 1]).is_err(), "not a byte more");
    peer.set_nonblocking(false).unwrap();
    conn.release().submit().unwrap();
    rig.outcome().closed();
    assert_eq!(read_to_its_end(&mut peer).0, 0);
}

fn linked_to_a_read<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let many = || (0..40).map(|_| Bytes::from_static(b"ab")).collect::<Vec<_>>();
        conn.write_vectored(many()).then_read_leased().submit_with(1).unwrap();
        rig.assert_quiet();
        assert_eq!(read_some(&mut peer, 80), b"ab".repeat(40));
        peer.write_all(b"leased").unwrap();
        assert_eq!(rig.outcome().bytes(), b"leased");
        conn.write_vectored(many()).then_read_pooled().submit_with(2).unwrap();
        rig.assert_quiet();
        peer.write_all(b"pooled").unwrap();
        let got = rig.outcome();
        assert!(matches!(&got, Got::Pooled(bytes) if bytes == b"pooled"), "{got:?}");
    }
}

/// G3: all of its bytes count as queued, and no more than once.
fn its_bytes_count_as_queued<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.write_bytes, limits.close_within) = (1 << 20, LONG));
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let shared = Bytes::from(vec![7; 1 << 20]);
    // One of any size is let in while those before it are below the limit.
    conn.write_vectored(vec![shared.clone(); 16]).submit_with(1).unwrap();
    let refused = conn.write_vectored(vec![shared.clone(), shared]).submit_with(2).unwrap_err();
    assert_eq!(refused.kind, SubmitErrorKind::TooMany);
    let many = pieces(refused.buffer.unwrap());
    thread::scope(|scope| {
        scope.spawn(|| read_some(&mut peer, 16 << 20));
        rig.outcome().wrote();
    });
    for _ in 0..20 {
        conn.write_vectored(vec![many[0].slice(..1 << 19), many[1].slice(..1 << 18)]).submit_with(3).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| read_some(&mut peer, 3 << 18));
            rig.outcome().wrote();
        });
    }
}

both_drives!(
    the_same_pieces_come_back,
    nothing_to_write_is_refused,
    more_pieces_than_one_call_takes,
    pieces_that_go_out_bit_by_bit,
    torn_by_its_deadline,
    linked_to_a_read,
    its_bytes_count_as_queued,
);
