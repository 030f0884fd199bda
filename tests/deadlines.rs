//! Deadlines: an operation that is not over by then completes as timed out, with what did move; never early.
//!
//! Only lower bounds of time are asserted. That a deadline comes at all is told by the watchdog: where one is asked for,
//! nothing else would end the wait.

mod support;

use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use gaio::{Conn, Failure, Half, OpError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{
    Drive, Got, HUGE, LONG, NETS, Net, Pattern, Peer, Rig, Taken, both_drives, broken, doze, finish, read_all,
    read_some, read_to_its_end, stuff,
};

const SOON: Duration = Duration::from_millis(20);
#[track_caller]
fn timed_out(got: Got) -> Failure {
    let failure = got.failed();
    assert!(matches!(failure.error, OpError::TimedOut), "{failure:?}");
    failure
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Vec,
    Exact,
    Pooled,
    Leased,
    Readable,
}

const KINDS: [Kind; 5] = [Kind::Vec, Kind::Exact, Kind::Pooled, Kind::Leased, Kind::Readable];

fn read(kind: Kind, conn: &Conn<u64>) -> gaio::Op<'_, u64> {
    match kind {
        Kind::Vec => conn.read(Vec::with_capacity(64)),
        Kind::Exact => conn.read_exact(Vec::with_capacity(64), 4),
        Kind::Pooled => conn.read_pooled(),
        Kind::Leased => conn.read_leased(),
        Kind::Readable => conn.readable(),
    }
}

// --- reads -------------------------------------------------------------------------------------------------------

fn a_silent_peer<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        for kind in KINDS {
            let begun = Instant::now();
            read(kind, &conn).within(SOON).submit_with(7).unwrap();
            let (_, context, got) = rig.done();
            assert!(begun.elapsed() >= SOON, "{kind:?}: early");
            let failure = timed_out(got);
            assert_eq!((context, failure.half, failure.transferred), (7, Half::Read, 0));
            let back = failure.buffer.and_then(gaio::Payload::into_vec);
            assert_eq!(
                back.map(|bytes| (bytes.len(), bytes.capacity())),
                match kind {
                    Kind::Vec | Kind::Exact => Some((0, 64)),
                    _ => None,
                }
            );
        }
        // Nothing else has happened to the connection.
        peer.write_all(b"here").unwrap();
        conn.read_leased().submit().unwrap();
        assert_eq!(rig.outcome().bytes(), b"here");
        assert_eq!(rig.counters().expired, 5);
    }
}

fn by_an_instant<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, _peer) = rig.connect(Net::Tcp);
    let instant = Instant::now() + SOON;
    conn.read_leased().by(instant).submit().unwrap();
    timed_out(rig.outcome());
    assert!(Instant::now() >= instant, "early");
}

fn the_bytes_of_an_exact_read_come_back<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let buffer = Vec::with_capacity(10);
        let at = buffer.as_ptr();
        peer.write_all(b"four").unwrap();
        rig.assert_quiet();
        conn.read_exact(buffer, 10).within(SOON).submit_with(1).unwrap();
        // Behind it, and not kept from going on by its end.
        conn.read_exact(Vec::new(), 4).submit_with(2).unwrap();
        let (_, context, got) = rig.done();
        let failure = timed_out(got);
        assert_eq!((context, failure.half, failure.transferred), (1, Half::Read, 4));
        let bytes = failure.buffer.unwrap().into_vec().unwrap();
        assert_eq!((bytes.as_slice(), bytes.as_ptr()), (&b"four"[..], at));
        rig.assert_quiet();
        peer.write_all(b"next").unwrap();
        let (_, context, got) = rig.done();
        assert_eq!((context, got.bytes()), (2, &b"next"[..]));
    }
}

/// What waits behind the head may have become possible by its end, and no edge says so.
fn what_waited_behind_it_goes_on<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.readable().submit_with(1).unwrap();
    peer.write_all(b"some").unwrap();
    assert!(matches!(rig.outcome(), Got::Readable));
    conn.read_exact(Vec::new(), 4).submit_with(1).unwrap();
    assert_eq!(rig.outcome().bytes(), b"some");
    peer.write_all(b"part").unwrap();
    rig.assert_quiet();
    conn.read_exact(Vec::new(), 8).within(SOON).submit_with(2).unwrap();
    conn.read_leased().submit_with(3).unwrap();
    assert_eq!(timed_out(rig.outcome()).transferred, 4);
    finish(&peer);
    let (_, context, got) = rig.done();
    assert!(context == 3 && got.eof().is_none());
}

fn a_later_one_with_an_earlier_deadline_goes_first<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.read(Vec::with_capacity(8)).within(LONG).submit_with(1).unwrap();
    conn.read(Vec::with_capacity(8)).within(SOON).submit_with(2).unwrap();
    conn.read(Vec::with_capacity(8)).submit_with(3).unwrap();
    let (_, context, got) = rig.done();
    timed_out(got);
    assert_eq!(context, 2);
    for expected in [1, 3] {
        peer.write_all(b"x").unwrap();
        let (_, context, got) = rig.done();
        assert_eq!((context, got.bytes()), (expected, &b"x"[..]));
    }
}

/// It is tried first: what is there already is had, however late it is.
fn a_deadline_in_the_past<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let past = Instant::now();
        thread::sleep(SOON);
        rig.assert_quiet();
        for kind in KINDS {
            read(kind, &conn).by(past).submit().unwrap();
            timed_out(rig.outcome());
            peer.write_all(b"four").unwrap();
            rig.assert_quiet();
            read(kind, &conn).within(Duration::ZERO).submit().unwrap();
            let got = rig.outcome();
            if matches!(kind, Kind::Readable) {
                assert!(matches!(got, Got::Readable), "{got:?}");
            } else {
                assert_eq!(got.bytes(), b"four", "{kind:?}");
            }
        }
        conn.write(b"q").then_read_leased().by(past).submit().unwrap();
        assert_eq!(rig.outcome().bytes(), b"four", "left by `readable`");
        conn.write(b"r").by(past).submit().unwrap();
        rig.outcome().wrote();
        conn.shutdown_write().by(past).submit().unwrap();
        rig.outcome().shut_down();
        assert_eq!(read_all(&mut peer), b"qr");
    }
}

/// Also if the batch was full when it came, and it was its turn only when its time was over.
fn a_deadline_in_the_past_behind_a_full_batch<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.batch, limits.ops_per_turn) = (1, 1));
    let ends: Vec<_> = (0..8).map(|_| rig.connect(Net::Tcp)).collect();
    for (_, peer) in &ends {
        let mut peer = peer;
        peer.write_all(b"abcdefgh").unwrap();
    }
    let past = Instant::now();
    thread::sleep(SOON);
    rig.assert_quiet();
    for i in 0..8 {
        for (conn, _) in &ends {
            conn.read_exact(Vec::new(), 1).by(past).submit_with(i).unwrap();
        }
    }
    for _ in 0..64 {
        let (_, i, got) = rig.done();
        assert_eq!(got.bytes(), &b"abcdefgh"[usize::try_from(i).unwrap()..][..1]);
    }
    rig.assert_quiet();
}

/// The arena is full, so its bytes stay in the kernel; they are for whoever reads next.
fn a_pooled_read_that_found_no_room<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.arena, limits.read_cap) = (8, 8));
    let ends: Vec<_> = (0..3).map(|_| rig.connect(Net::Tcp)).collect();
    for (_, peer) in &ends {
        let mut peer = peer;
        peer.write_all(b"eight by").unwrap();
    }
    let past = Instant::now();
    thread::sleep(SOON);
    rig.assert_quiet();
    // One arena is with us or in the cell, one is being filled: there is none for the third.
    for (i, (conn, _)) in (0..).zip(&ends) {
        let read = conn.read_pooled();
        if i == 2 { read.by(past) } else { read }.submit_with(i).unwrap();
    }
    ends[2].0.read(Vec::with_capacity(8)).submit_with(3).unwrap();
    if D::SPAWNED {
        support::until(|| rig.counters().expired == 1);
    }
    let mut all = rig.outcomes(4);
    for i in [0, 1, 3] {
        assert_eq!(all[&i].bytes(), b"eight by");
    }
    timed_out(all.remove(&2).unwrap());
    assert!(rig.counters().starved >= 1);
}

// --- writes ------------------------------------------------------------------------------------------------------

fn a_peer_that_hangs<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let buffer = Pattern::new().first(HUGE);
        let at = buffer.as_ptr();
        let begun = Instant::now();
        conn.write(buffer).within(SOON).submit_with(1).unwrap();
        let (_, context, got) = rig.done();
        assert!(begun.elapsed() >= SOON, "early");
        let failure = timed_out(got);
        assert_eq!((context, failure.half), (1, Half::Write));
        assert!((1..HUGE).contains(&failure.transferred));
        assert_eq!(failure.buffer.unwrap().as_slice().unwrap().as_ptr(), at);
        // Nothing follows what was torn, and nobody has to wait to be told, although the socket takes nothing.
        conn.write(b"more").submit_with(2).unwrap();
        broken(rig.outcome());
        conn.write(b"more").then_read_leased().submit_with(3).unwrap();
        broken(rig.outcome());
        conn.shutdown_write().submit_with(4).unwrap();
        broken(rig.outcome());
        // The other direction is whole.
        peer.write_all(b"still here").unwrap();
        conn.read_leased().submit_with(5).unwrap();
        assert_eq!(rig.outcome().bytes(), b"still here");
        conn.close().submit_with(6).unwrap();
        rig.outcome().closed();
        let (got, end) = read_to_its_end(&mut peer);
        assert!(got <= failure.transferred);
        if net == Net::Tcp {
            assert_eq!(end, Some(ErrorKind::ConnectionReset), "no clean end behind a torn message");
        }
    }
}

fn followers_of_a_torn_write_fail_at_once_and_in_order<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        conn.write(vec![7; HUGE]).within(SOON).submit_with(1).unwrap();
        conn.write(b"second".to_vec()).submit_with(2).unwrap();
        conn.write(b"third".to_vec()).then_read().submit_with(3).unwrap();
        conn.write_vectored(vec!["fourth".into()]).within(LONG).submit_with(4).unwrap();
        conn.shutdown_write().submit_with(5).unwrap();
        conn.read_leased().submit_with(6).unwrap();
        let (_, context, got) = rig.done();
        assert_eq!(context, 1);
        timed_out(got);
        for expected in 2..=5 {
            let (_, context, got) = rig.done();
            assert_eq!(context, expected);
            broken(got);
        }
        rig.assert_quiet();
        peer.write_all(b"hello").unwrap();
        let (_, context, got) = rig.done();
        assert_eq!((context, got.bytes()), (6, &b"hello"[..]));
    }
}

/// Nothing of it was sent: it is as if it had never been.
fn a_write_that_was_never_begun_tears_nothing<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let (first, third) = (Pattern::new().first(HUGE), b"the end");
        conn.write(first.clone()).submit_with(1).unwrap();
        conn.write(vec![0; HUGE]).within(SOON).submit_with(2).unwrap();
        conn.shutdown_write().within(SOON).submit_with(3).unwrap();
        conn.write(third).submit_with(4).unwrap();
        for expected in [2, 3] {
            let (_, context, got) = rig.done();
            let failure = timed_out(got);
            assert_eq!((context, failure.half, failure.transferred), (expected, Half::Write, 0));
        }
        rig.assert_quiet();
        thread::scope(|scope| {
            let reading = scope.spawn(|| read_some(&mut peer, HUGE + third.len()));
            for expected in [1, 4] {
                let (_, context, got) = rig.done();
                assert_eq!(context, expected);
                got.wrote();
            }
            let bytes = reading.join().unwrap();
            assert!(bytes[..HUGE] == first && bytes[HUGE..] == *third);
        });
    }
}

/// The head itself, but the system had no room for a single byte of it.
fn a_head_that_could_not_send_a_byte_tears_nothing<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (ours, mut peer) = Net::Unix.pair();
    let stuffing = stuff(&ours);
    let conn = rig.submitter.delegate(ours).unwrap();
    conn.write(b"never").within(SOON).submit_with(1).unwrap();
    conn.write(b"now").submit_with(2).unwrap();
    let (_, context, got) = rig.done();
    assert_eq!((context, timed_out(got).transferred), (1, 0));
    rig.assert_quiet();
    thread::scope(|scope| {
        let reading = scope.spawn(|| read_some(&mut peer, stuffing + 3));
        let (_, context, got) = rig.done();
        got.wrote();
        assert_eq!(context, 2);
        assert_eq!(&reading.join().unwrap()[stuffing..], b"now");
    });
}

fn a_linked_operation_has_one_deadline<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let begun = Instant::now();
        let buffer = b"question".to_vec();
        let at = buffer.as_ptr();
        conn.write(buffer).then_read().within(SOON).submit_with(1).unwrap();
        let failure = timed_out(rig.outcome());
        assert!(begun.elapsed() >= SOON, "early");
        assert_eq!(read_some(&mut peer, 8), b"question");
        assert_eq!((failure.half, failure.transferred), (Half::Read, 0));
        assert_eq!(failure.buffer.unwrap().into_vec().map(|back| (back.len(), back.as_ptr())), Some((0, at)));
        // The output is whole.
        conn.write(b"again").then_read_leased().submit_with(2).unwrap();
        rig.assert_quiet();
        assert_eq!(read_some(&mut peer, 5), b"again");
        peer.write_all(b"yes").unwrap();
        assert_eq!(rig.outcome().bytes(), b"yes");
        conn.write(vec![7; HUGE]).then_read().within(SOON).submit_with(3).unwrap();
        let failure = timed_out(rig.outcome());
        assert_eq!(failure.half, Half::Write);
        assert!(failure.transferred > 0 && failure.buffer.unwrap().len() == HUGE);
    }
}

// --- many, and the loop's sleep ----------------------------------------------------------------------------------

fn silent(peers: &mut Vec<Peer>) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    peers.push(theirs);
    ours
}

/// gaio's own: 1k, 2k, 4k, 8k connections that all time out.
fn thousands_of_silent_connections<D: Drive>() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    for n in [1_000, 2_000, 4_000, 8_000] {
        let mut rig = Rig::<D>::new();
        let mut peers: Vec<Peer> = Vec::new();
        let mut deadlines = HashMap::new();
        for i in 0..n {
            let conn = rig.submitter.delegate(silent(&mut peers)).unwrap();
            let deadline = Instant::now() + SOON + Duration::from_millis(i % 100);
            deadlines.insert(i, deadline);
            conn.read(Vec::with_capacity(16)).by(deadline).submit_with(i).unwrap();
        }
        for _ in 0..n {
            // The handle in it is the last: the connection goes with it.
            let (_, i, got) = rig.done();
            let deadline = deadlines.remove(&i).expect("each of them once");
            assert!(Instant::now() >= deadline, "early");
            assert_eq!(timed_out(got).buffer.unwrap().into_vec().unwrap().capacity(), 16);
        }
        drop(peers);
        rig.assert_quiet();
        assert_eq!(rig.counters().expired, n);
    }
}

fn a_new_earliest_deadline_wakes_a_sleeping_loop<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (late, _peer) = rig.connect(Net::Tcp);
    late.read_leased().within(LONG).submit_with(1).unwrap();
    rig.assert_quiet();
    thread::scope(|scope| {
        let submitter = rig.submitter.clone();
        scope.spawn(move || {
            let mut peers = Vec::new();
            // The loop sleeps by now, or will with both deadlines known.
            doze();
            for context in [3, 2] {
                let early = submitter.delegate(silent(&mut peers)).unwrap();
                early.read_leased().within(SOON).submit_with(context).unwrap();
                thread::sleep(SOON * 5);
            }
        });
        for expected in [3, 2] {
            let (_, context, got) = rig.done();
            assert_eq!(context, expected);
            timed_out(got);
        }
    });
}

fn in_the_far_future<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let year = Duration::from_secs(365 * 86_400);
    let times = [Duration::from_millis(1 << 31), Duration::from_millis(1 << 32), 30 * year, 40 * year, Duration::MAX];
    for (i, time) in (0..).zip(times) {
        conn.read_exact(Vec::new(), 1).within(time).submit_with(i).unwrap();
    }
    conn.read_exact(Vec::new(), 1).by(Instant::now() + 50 * year).submit_with(5).unwrap();
    rig.assert_quiet();
    let before = rig.counters().polls;
    doze();
    assert!(rig.counters().polls <= before + 12, "a far deadline keeps the loop awake");
    rig.assert_quiet();
    peer.write_all(b"012345").unwrap();
    for (expected, byte) in (0..).zip(b"012345") {
        let (_, context, got) = rig.done();
        assert_eq!((context, got.bytes()), (expected, &[*byte][..]));
    }
}

// --- closes ------------------------------------------------------------------------------------------------------

fn a_close_has_a_bound_of_its_own<D: Drive>() {
    // The peer never ends; or it does not even read.
    for stuck in [false, true] {
        let mut rig = Rig::<D>::with(|limits| limits.close_within = LONG);
        let (conn, _peer) = rig.connect(Net::Tcp);
        if stuck {
            conn.write(vec![7; HUGE]).submit_with(1).unwrap();
        }
        let begun = Instant::now();
        conn.close().within(SOON).submit_with(2).unwrap();
        if stuck {
            assert!(matches!(rig.outcome().failed().error, OpError::Released));
        }
        rig.outcome().closed();
        assert!(begun.elapsed() >= SOON, "early");
        assert_eq!(rig.counters().closed_hard, 1);
    }
}

fn of_two_closes_the_earlier_bound_counts<D: Drive>() {
    for bounds in [[None, Some(SOON)], [Some(SOON), None], [Some(LONG), Some(SOON)], [Some(SOON), Some(LONG)]] {
        let mut rig = Rig::<D>::with(|limits| limits.close_within = LONG);
        let (conn, _peer) = rig.connect(Net::Tcp);
        let begun = Instant::now();
        for (context, bound) in (1..).zip(bounds) {
            let close = conn.close();
            if let Some(bound) = bound { close.within(bound) } else { close }.submit_with(context).unwrap();
        }
        for expected in [1, 2] {
            let (_, context, got) = rig.done();
            got.closed();
            assert_eq!(context, expected);
        }
        assert!(begun.elapsed() >= SOON, "early");
    }
}

/// The usual bound is for those that ask for none: neither does it shorten a longer one, nor one without end.
fn a_close_may_take_longer_than_usual<D: Drive>() {
    for bound in [LONG, Duration::MAX] {
        let mut rig = Rig::<D>::with(|limits| limits.close_within = SOON);
        let (conn, peer) = rig.connect(Net::Tcp);
        conn.close().within(bound).submit_with(1).unwrap();
        rig.assert_quiet();
        conn.close().submit_with(2).unwrap();
        doze();
        rig.assert_quiet();
        drop(peer);
        for _ in 0..2 {
            rig.outcome().closed();
        }
        assert_eq!(rig.counters().closed_hard, 0);
    }
}

/// It goes as far as it goes at once: all is written, and the peer has ended.
fn a_close_whose_time_is_over_when_it_comes<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    finish(&peer);
    rig.assert_quiet();
    conn.write(b"bye").submit_with(1).unwrap();
    conn.close().within(Duration::ZERO).submit_with(2).unwrap();
    rig.outcome().wrote();
    rig.outcome().closed();
    assert_eq!(read_all(&mut peer), b"bye");
    // And with a peer that has not: no reset, since everything went out.
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.write(b"bye").submit_with(1).unwrap();
    conn.close().within(Duration::ZERO).submit_with(2).unwrap();
    rig.outcome().wrote();
    rig.outcome().closed();
    assert_eq!(read_all(&mut peer), b"bye");
}

/// Shutdown does not wait for reads, whatever their deadlines; each completes once.
fn shutdown_with_deadlines_armed<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, _peer) = rig.connect(Net::Tcp);
    for (i, time) in (0..).zip([LONG, LONG * 2, Duration::MAX]) {
        conn.read_leased().within(time).submit_with(i).unwrap();
    }
    rig.submitter.shutdown(LONG);
    let rest = rig.rest();
    assert_eq!(rest.len(), 3);
    for (expected, taken) in (0..).zip(rest) {
        let Taken::Done(_, context, got) = taken else { panic!("{taken:?}") };
        assert!(context == expected && matches!(got.failed().error, OpError::Aborted));
    }
}

fn a_write_before_a_close_times_out<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.close_within = LONG);
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.write(vec![7; HUGE]).within(SOON).submit_with(1).unwrap();
    conn.write(b"more").submit_with(2).unwrap();
    conn.close().submit_with(3).unwrap();
    timed_out(rig.outcome());
    broken(rig.outcome());
    rig.outcome().closed();
    assert_eq!(read_to_its_end(&mut peer).1, Some(ErrorKind::ConnectionReset));
}

both_drives!(
    a_silent_peer,
    by_an_instant,
    the_bytes_of_an_exact_read_come_back,
    what_waited_behind_it_goes_on,
    a_later_one_with_an_earlier_deadline_goes_first,
    a_deadline_in_the_past,
    a_deadline_in_the_past_behind_a_full_batch,
    a_pooled_read_that_found_no_room,
    a_peer_that_hangs,
    followers_of_a_torn_write_fail_at_once_and_in_order,
    a_write_that_was_never_begun_tears_nothing,
    a_head_that_could_not_send_a_byte_tears_nothing,
    a_linked_operation_has_one_deadline,
    thousands_of_silent_connections,
    a_new_earliest_deadline_wakes_a_sleeping_loop,
    in_the_far_future,
    a_close_has_a_bound_of_its_own,
    of_two_closes_the_earlier_bound_counts,
    a_close_may_take_longer_than_usual,
    a_close_whose_time_is_over_when_it_comes,
    shutdown_with_deadlines_armed,
    a_write_before_a_close_times_out,
);
