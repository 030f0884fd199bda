//! Reads that the kernel cuts short although there is more: at an urgent mark (TCP), and behind a message that passed
//! descriptors (Unix). No edge tells of the rest, so a loop that takes a short read for the end of the queue stalls.

mod support;

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use support::{Drive, Net, Peer, Rig, both_drives, finish};

/// Reads until that many bytes are there, with more room than it takes.
fn collect<D: Drive>(rig: &mut Rig<D>, conn: &gaio::Conn<u64>, leased: bool, n: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < n {
        let op = if leased { conn.read_leased() } else { conn.read(Vec::with_capacity(64)) };
        op.submit().unwrap();
        all.extend_from_slice(rig.outcome().bytes());
    }
    all
}

fn oob(peer: &Peer) {
    assert_eq!(rustix::net::send(peer, b"!", SendFlags::OOB), Ok(1));
}

/// The urgent byte itself is not part of the stream.
fn an_urgent_mark_between_bytes<D: Drive>() {
    for leased in [false, true] {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(Net::Tcp);
        for _ in 0..5 {
            peer.write_all(b"abc").unwrap();
            oob(&peer);
            peer.write_all(b"def").unwrap();
            assert_eq!(collect(&mut rig, &conn, leased, 6), b"abcdef");
        }
        // The mark is behind us: an idle connection sleeps, and ordinary bytes come as ever.
        conn.read(Vec::with_capacity(64)).submit().unwrap();
        rig.assert_quiet();
        peer.write_all(b"ghi").unwrap();
        assert_eq!(rig.outcome().read(), b"ghi");
    }
}

fn an_urgent_mark_met_by_reads_that_wait<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.read_exact(Vec::with_capacity(64), 3).submit().unwrap();
    conn.read_exact(Vec::with_capacity(64), 3).submit().unwrap();
    rig.assert_quiet();
    peer.write_all(b"abc").unwrap();
    oob(&peer);
    peer.write_all(b"def").unwrap();
    assert_eq!(rig.outcome().read(), b"abc");
    assert_eq!(rig.outcome().read(), b"def");
}

fn an_urgent_mark_and_then_the_end<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    peer.write_all(b"abc").unwrap();
    oob(&peer);
    finish(&peer);
    assert_eq!(collect(&mut rig, &conn, false, 3), b"abc");
    conn.read(Vec::with_capacity(8)).submit().unwrap();
    rig.outcome().eof();
}

/// Sends bytes with a descriptor beside them, which nobody asked for.
fn pass(peer: &Peer, bytes: &[u8]) {
    let fds = [peer.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let sent = rustix::net::sendmsg(peer, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent, Ok(bytes.len()));
}

/// The descriptors are dropped by the kernel: the frame of the test would find one that leaked.
fn descriptors_passed_between_bytes<D: Drive>() {
    for leased in [false, true] {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(Net::Unix);
        for _ in 0..5 {
            peer.write_all(b"abc").unwrap();
            pass(&peer, b"def");
            peer.write_all(b"ghi").unwrap();
            pass(&peer, b"jkl");
            assert_eq!(collect(&mut rig, &conn, leased, 12), b"abcdefghijkl");
        }
        conn.read(Vec::with_capacity(64)).submit().unwrap();
        rig.assert_quiet();
    }
}

fn descriptors_passed_to_reads_that_wait<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    for _ in 0..2 {
        conn.read_exact(Vec::with_capacity(64), 6).submit().unwrap();
    }
    rig.assert_quiet();
    pass(&peer, b"abc");
    pass(&peer, b"def");
    pass(&peer, b"ghi");
    peer.write_all(b"jkl").unwrap();
    assert_eq!(rig.outcome().read(), b"abcdef");
    assert_eq!(rig.outcome().read(), b"ghijkl");
}

both_drives!(
    an_urgent_mark_between_bytes,
    an_urgent_mark_met_by_reads_that_wait,
    an_urgent_mark_and_then_the_end,
    descriptors_passed_between_bytes,
    descriptors_passed_to_reads_that_wait,
);
