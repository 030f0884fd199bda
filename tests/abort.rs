//! Aborting: the connection ends now, by a reset.

mod support;

use std::io::{ErrorKind, Write};

use gaio::{OpError, SubmitErrorKind};
use support::{Drive, HUGE, LONG, NETS, Net, Rig, both_drives, descriptors, read_to_its_end};

fn with_data_in_flight<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let before = descriptors();
    conn.write(vec![7; HUGE]).submit_with(1).unwrap();
    conn.write(b"never begun").submit_with(2).unwrap();
    for context in 3..5 {
        conn.read(Vec::with_capacity(9)).submit_with(context).unwrap();
    }
    rig.assert_quiet();
    conn.abort().submit_with(5).unwrap();
    let mut all = rig.outcomes(5);
    assert_eq!(descriptors(), before - 1, "it is gone when the abort completes");
    all.remove(&5).unwrap().closed();
    for context in 1..5 {
        let failure = all.remove(&context).unwrap().failed();
        assert!(matches!(failure.error, OpError::Released), "{failure:?}");
        assert_eq!(failure.transferred > 0, context == 1);
        assert!(failure.buffer.is_some());
    }
    let (got, end) = read_to_its_end(&mut peer);
    assert!(got < HUGE);
    assert_eq!(end, Some(ErrorKind::ConnectionReset));
    assert_eq!(rig.counters().sessions, 0);
}

/// All was written, and the peer has read nothing yet: it reads an error all the same, not an end.
fn with_everything_written<D: Drive>() {
    for unread in [false, true] {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(Net::Tcp);
        if unread {
            peer.write_all(b"unread").unwrap();
        }
        conn.write(b"all of it").submit_with(1).unwrap();
        rig.outcome().wrote();
        conn.abort().submit_with(2).unwrap();
        rig.outcome().closed();
        assert_eq!(read_to_its_end(&mut peer).1, Some(ErrorKind::ConnectionReset));
    }
}

/// Nothing at all has happened on it.
fn of_an_idle_connection<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.abort().submit().unwrap();
    rig.outcome().closed();
    assert_eq!(read_to_its_end(&mut peer), (0, Some(ErrorKind::ConnectionReset)));
}

/// Which has no reset: there it is a release.
fn of_a_unix_socket<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    conn.write(b"sent").submit_with(1).unwrap();
    conn.read_leased().submit_with(2).unwrap();
    conn.abort().submit_with(3).unwrap();
    rig.outcome().wrote();
    assert!(matches!(rig.outcome().failed().error, OpError::Released));
    rig.outcome().closed();
    assert_eq!(read_to_its_end(&mut peer), (4, None));
}

fn while_it_is_closed_and_when_it_is_gone<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::with(|limits| limits.close_within = LONG);
        let (conn, mut peer) = rig.connect(net);
        conn.write(vec![7; HUGE]).submit_with(1).unwrap();
        conn.into_fd().submit_with(2).unwrap();
        conn.close().submit_with(3).unwrap();
        rig.assert_quiet();
        conn.abort().submit_with(4).unwrap();
        for expected in [1, 2] {
            let (_, context, got) = rig.done();
            let failure = got.failed();
            assert!(context == expected && matches!(failure.error, OpError::Released), "{failure:?}");
        }
        for expected in [3, 4] {
            let (_, context, got) = rig.done();
            got.closed();
            assert_eq!(context, expected);
        }
        if net == Net::Tcp {
            assert_eq!(read_to_its_end(&mut peer).1, Some(ErrorKind::ConnectionReset));
        }
        conn.abort().submit_with(5).unwrap();
        let (_, context, got) = rig.done();
        got.closed();
        assert_eq!(context, 5);
    }
}

/// How one gets out of having too much in flight.
fn it_is_never_one_too_many<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.ops, limits.ops_per_conn) = (2, 2));
    let (conn, _peer) = rig.connect(Net::Tcp);
    conn.read_leased().submit_with(1).unwrap();
    conn.read_leased().submit_with(2).unwrap();
    assert_eq!(conn.read_leased().submit_with(3).unwrap_err().kind, SubmitErrorKind::TooMany);
    conn.abort().submit_with(4).unwrap();
    for _ in 0..2 {
        assert!(matches!(rig.outcome().failed().error, OpError::Released));
    }
    rig.outcome().closed();
}

both_drives!(
    with_data_in_flight,
    with_everything_written,
    of_an_idle_connection,
    of_a_unix_socket,
    while_it_is_closed_and_when_it_is_gone,
    it_is_never_one_too_many,
);
