//! The end of the output: behind the writes before it, in front of everything after it; the input goes on.

mod support;

use std::io::Write;
use std::thread;
use std::time::Duration;

use gaio::{Half, OpError};
use support::{
    Drive, HUGE, LONG, NETS, Net, Pattern, Rig, both_drives, finish, read_all, read_some, read_to_its_end, reset, stuff,
};

fn writes_are_over_reads_go_on_and_the_close_is_clean<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::with(|limits| limits.close_within = LONG);
        let (conn, mut peer) = rig.connect(net);
        conn.write(b"bye").submit_with(1).unwrap();
        conn.shutdown_write().submit_with(2).unwrap();
        conn.write(b"late".to_vec()).submit_with(3).unwrap();
        conn.write(b"late").then_read_leased().submit_with(4).unwrap();
        conn.shutdown_write().submit_with(5).unwrap();
        conn.read_leased().submit_with(6).unwrap();
        rig.outcome().wrote();
        let (_, context, got) = rig.done();
        got.shut_down();
        assert_eq!(context, 2);
        for expected in 3..=5 {
            let (_, context, got) = rig.done();
            let failure = got.failed();
            assert!(context == expected && matches!(failure.error, OpError::Broken), "{failure:?}");
            assert_eq!((failure.half, failure.transferred), (Half::Write, 0));
            assert_eq!(failure.buffer.is_some(), context != 5, "{context}");
        }
        assert_eq!(read_all(&mut peer), b"bye");
        rig.assert_quiet();
        // Much later, and nobody has to wait for an edge to be refused.
        conn.write(b"late").submit_with(7).unwrap();
        assert!(matches!(rig.outcome().failed().error, OpError::Broken));
        peer.write_all(b"you still there?").unwrap();
        let (_, context, got) = rig.done();
        assert_eq!((context, got.bytes()), (6, &b"you still there?"[..]));
        // The close still takes the input in: unread, it would make a reset of it.
        peer.write_all(&[7; 10_000]).unwrap();
        conn.close().submit_with(8).unwrap();
        rig.assert_quiet();
        finish(&peer);
        rig.outcome().closed();
        assert_eq!(read_to_its_end(&mut peer), (0, None));
        assert_eq!(rig.counters().closed_hard, 0);
    }
}

fn behind_a_write_that_is_stuck<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let all = Pattern::new().first(HUGE);
        conn.write(all.clone()).submit_with(1).unwrap();
        conn.shutdown_write().submit_with(2).unwrap();
        conn.write(b"late").submit_with(3).unwrap();
        rig.assert_quiet();
        thread::scope(|scope| {
            let reading = scope.spawn(|| assert!(read_all(&mut peer) == all));
            rig.outcome().wrote();
            rig.outcome().shut_down();
            assert!(matches!(rig.outcome().failed().error, OpError::Broken));
            reading.join().unwrap();
        });
    }
}

fn without_a_write_before_it<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        conn.shutdown_write().submit().unwrap();
        rig.outcome().shut_down();
        assert_eq!(read_all(&mut peer), b"");
        // Dropped, it is closed as ever.
        drop(conn);
        finish(&peer);
        rig.assert_quiet();
        assert_eq!(rig.counters().sessions, 0);
    }
}

/// A FIN needs no room.
fn of_a_socket_that_is_full<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (ours, mut peer) = net.pair();
        let stuffing = stuff(&ours);
        let conn = rig.submitter.delegate(ours).unwrap();
        conn.shutdown_write().submit().unwrap();
        rig.outcome().shut_down();
        conn.write(b"late").submit().unwrap();
        assert!(matches!(rig.outcome().failed().error, OpError::Broken));
        assert_eq!(read_all(&mut peer).len(), stuffing);
    }
}

fn its_deadline_passes_while_it_waits<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.write(vec![7; HUGE]).submit_with(1).unwrap();
    conn.shutdown_write().within(Duration::from_millis(20)).submit_with(2).unwrap();
    let (_, context, got) = rig.done();
    let failure = got.failed();
    assert!(context == 2 && matches!(failure.error, OpError::TimedOut), "{failure:?}");
    conn.write(b"and on").submit_with(3).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| read_some(&mut peer, HUGE + 6));
        rig.outcome().wrote();
        rig.outcome().wrote();
    });
}

/// Whatever the system says, it completes, and so does what follows.
fn after_a_reset<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, peer) = rig.connect(Net::Tcp);
    reset(peer);
    rig.assert_quiet();
    conn.shutdown_write().submit_with(1).unwrap();
    let failure = rig.outcome().failed();
    assert!(matches!(failure.error, OpError::Os(_)) && failure.half == Half::Write, "{failure:?}");
    conn.write(b"x").submit_with(2).unwrap();
    rig.outcome().failed();
    conn.read_leased().submit_with(3).unwrap();
    rig.outcome().failed();
    conn.close().submit_with(4).unwrap();
    rig.outcome().closed();
}

/// Those behind a torn write do not end it in order.
fn behind_a_torn_write<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.write(vec![7; HUGE]).within(Duration::from_millis(20)).submit_with(1).unwrap();
    conn.shutdown_write().submit_with(2).unwrap();
    assert!(matches!(rig.outcome().failed().error, OpError::TimedOut));
    assert!(matches!(rig.outcome().failed().error, OpError::Broken));
    drop(conn);
    rig.assert_quiet();
    assert!(read_to_its_end(&mut peer).1.is_some(), "no clean end");
}

/// Shutdown waits for it as for a write.
fn in_the_grace_of_a_shutdown<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.write(vec![7; HUGE]).submit_with(1).unwrap();
    conn.shutdown_write().submit_with(2).unwrap();
    rig.submitter.shutdown(LONG);
    thread::scope(|scope| {
        let reading = scope.spawn(|| read_all(&mut peer));
        rig.outcome().wrote();
        rig.outcome().shut_down();
        assert!(rig.rest().is_empty());
        assert_eq!(reading.join().unwrap().len(), HUGE);
    });
}

both_drives!(
    writes_are_over_reads_go_on_and_the_close_is_clean,
    behind_a_write_that_is_stuck,
    without_a_write_before_it,
    of_a_socket_that_is_full,
    its_deadline_passes_while_it_waits,
    after_a_reset,
    behind_a_torn_write,
    in_the_grace_of_a_shutdown,
);
