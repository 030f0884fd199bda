//! Writes of borrowed bytes: sent from where they are or copied, the same for whoever submits them.

#![cfg(not(any(loom, gaio_sim)))]

mod support;

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use gaio::{Half, OpError, Payload, SubmitErrorKind};
use support::{Drive, NETS, Net, Pattern, Rig, both_drives, read_some};

/// The bytes are the caller's again when the call that submits them returns: what is done to them then, nobody reads.
fn the_bytes_may_change_at_once<D: Drive>() {
    const N: usize = 40_000;
    for net in NETS {
        // In one piece, in pieces, and more than the system takes, which waits in part.
        for (n, budget) in [(N, 256 << 10), (N, 10_007), (1 << 20, 256 << 10)] {
            let mut rig = Rig::<D>::with(|limits| limits.bytes_per_turn = budget);
            let (conn, mut peer) = rig.connect(net);
            let pattern = Pattern::new();
            let mut bytes = Vec::new();
            for context in 0..3 {
                bytes.clear();
                bytes.extend_from_slice(pattern.at(usize::try_from(context).unwrap() * n, n));
                conn.write_copied(&bytes).submit_with(context).unwrap();
                bytes.fill(0xEE);
            }
            thread::scope(|scope| {
                let (peer, pattern) = (&mut peer, &pattern);
                scope.spawn(move || pattern.receive(peer, 3 * n));
                for context in 0..3 {
                    let (_, got, outcome) = rig.done();
                    let Payload::Copied(copied) = outcome.wrote() else { panic!() };
                    assert_eq!((got, copied.len(), copied.is_empty()), (context, n, false));
                }
            });
        }
    }
}

/// Wherever it is submitted: on another thread, before the connection is registered, behind what waits.
fn it_is_the_same_by_the_ring<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    conn.write_copied(b"at first, ").submit_with(0).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| conn.write_copied(String::from("from elsewhere, ").as_bytes()).submit_with(1).unwrap());
    });
    conn.write_copied(b"and back").then_read_leased().submit_with(2).unwrap();
    for (context, n) in [(0, 10), (1, 16)] {
        let (_, got, outcome) = rig.done();
        let payload = outcome.wrote();
        assert_eq!((got, payload.len(), payload.as_slice()), (context, n, None));
    }
    assert_eq!(read_some(&mut peer, 34), b"at first, from elsewhere, and back");
    peer.write_all(b"answer").unwrap();
    assert_eq!(rig.outcome().bytes(), b"answer");
}

/// What is refused has not left the caller.
fn a_refusal_brings_no_buffer<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.ops_per_conn = 2);
    let (conn, _peer) = rig.connect(Net::Unix);
    let refused = conn.write_copied(b"").submit_with(7).unwrap_err();
    assert_eq!((refused.kind, refused.context, refused.buffer.is_none()), (SubmitErrorKind::EmptyBuffer, 7, true));
    for _ in 0..2 {
        conn.readable().submit().unwrap();
    }
    let refused = conn.write_copied(b"one too many").submit_with(8).unwrap_err();
    assert_eq!((refused.kind, refused.context, refused.buffer.is_none()), (SubmitErrorKind::TooMany, 8, true));
    rig.submitter.shutdown(Duration::ZERO);
    while let Ok(batch) = rig.watcher.wait() {
        batch.for_each(drop);
    }
    let refused = conn.write_copied(b"too late").submit_with(9).unwrap_err();
    assert_eq!((refused.kind, refused.context, refused.buffer.is_none()), (SubmitErrorKind::Closed, 9, true));
    assert_eq!(rig.submitter.load(), 0);
}

/// What was accepted and fails brings the bytes along, by then a copy.
fn a_failure_brings_the_bytes<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, peer) = rig.connect(Net::Unix);
    drop(peer);
    for context in 0..2 {
        let bytes = String::from("for nobody");
        conn.write_copied(bytes.as_bytes()).submit_with(context).unwrap();
    }
    for context in 0..2 {
        let (_, got, outcome) = rig.done();
        let failure = outcome.failed();
        assert_eq!((got, failure.half, failure.transferred), (context, Half::Write, 0));
        assert_eq!(failure.buffer.as_ref().and_then(Payload::as_slice), Some(&b"for nobody"[..]));
        assert_eq!(matches!(failure.error, OpError::Broken), context == 1);
    }
    conn.release().submit().unwrap();
    rig.outcome().closed();
    conn.write_copied(b"for nobody").submit().unwrap();
    let failure = rig.outcome().failed();
    assert!(matches!(failure.error, OpError::Closed), "{failure:?}");
    assert_eq!(failure.buffer.as_ref().and_then(Payload::as_slice), Some(&b"for nobody"[..]));
}

/// Only their number came back.
fn what_came_back_cannot_be_written_again<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (ours, _peer) = UnixDatagram::pair().unwrap();
    let datagrams = rig.submitter.delegate(ours).unwrap();
    let (stream, _peer) = rig.connect(Net::Tcp);
    for conn in [stream, datagrams] {
        conn.write_copied(b"once").submit().unwrap();
        let back = rig.outcome().wrote();
        assert_eq!((back.len(), format!("{back:?}").as_str()), (4, "Copied(Copied { len: 4, .. })"));
        assert_eq!(conn.write(back).submit().unwrap_err().kind, SubmitErrorKind::EmptyBuffer);
    }
    assert_eq!(rig.submitter.load(), 0);
}

both_drives!(
    the_bytes_may_change_at_once,
    it_is_the_same_by_the_ring,
    a_refusal_brings_no_buffer,
    a_failure_brings_the_bytes,
    what_came_back_cannot_be_written_again,
);
