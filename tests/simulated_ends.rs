//! Ends on the simulated system: what a shutdown waits for, what a close throws away, and how the peer sees it (G1, G3, I11).
//!
//! As `simulated.rs`: one thread, an embedded loop, time in the test's hand. Run by `ci/sim.sh`.

#![cfg(gaio_sim)]

#[path = "support/desk.rs"]
mod desk;

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use desk::{Desk, Got, MILLISECOND, TICK, bytes, desk, desk_with, received};
use gaio::sim::Peer;
use gaio::{Conn, Half, Submitter, WaitError};

const HOUR: Duration = Duration::from_secs(3_600);

fn narrow() -> Desk {
    desk_with(|config| config.buffer = 4, |_| ())
}

// --- a shutdown --------------------------------------------------------------------------------------------------

type Way = fn(&mut Desk, &Conn<u32>, &Peer);

/// The ways in which a write, or what waits with the writes, comes to its end.
const WAYS: [(&str, Way); 10] = [
    ("sent, and an end behind it", |desk, conn, _| {
        conn.write(b"out").submit_with(1).unwrap();
        conn.shutdown_write().submit_with(2).unwrap();
        assert_eq!(desk.events(), [(1, Got::Wrote), (2, Got::ShutDown)]);
    }),
    ("sent, and now a read", |desk, conn, _| {
        conn.write(b"ask").then_read_pooled().submit_with(1).unwrap();
        assert_eq!(desk.events(), []);
    }),
    ("cancelled while it was torn, with others behind it", |desk, conn, _| {
        let (op, id) = conn.write(b"torn apart").named();
        op.submit_with(1).unwrap();
        conn.write(b"behind").submit_with(2).unwrap();
        conn.shutdown_write().submit_with(3).unwrap();
        conn.cancel(id).unwrap();
        assert_eq!(desk.events().len(), 3);
    }),
    ("late", |desk, conn, _| {
        conn.write(b"full").submit_with(1).unwrap();
        conn.write(b"late").within(MILLISECOND).submit_with(2).unwrap();
        assert_eq!(desk.after(2 * MILLISECOND + TICK).len(), 2);
    }),
    ("released", |desk, conn, _| {
        conn.write(b"torn apart").submit_with(1).unwrap();
        conn.write(b"behind").submit_with(2).unwrap();
        conn.release().submit_with(3).unwrap();
        assert_eq!(desk.events().len(), 3);
    }),
    ("closed by force", |desk, conn, _| {
        conn.write(b"torn apart").submit_with(1).unwrap();
        conn.close().within(MILLISECOND).submit_with(2).unwrap();
        assert_eq!(desk.after(2 * MILLISECOND + TICK).len(), 2);
    }),
    ("closed", |desk, conn, peer| {
        conn.write(b"out").submit_with(1).unwrap();
        conn.close().submit_with(2).unwrap();
        peer.shutdown_write().unwrap();
        assert_eq!(desk.events().len(), 2);
    }),
    ("its peer is gone", |desk, conn, peer| {
        conn.write(b"full").submit_with(1).unwrap();
        assert_eq!(desk.events().len(), 1);
        // The test keeps the peer, so its end is made by hand: nothing more can be sent.
        conn.shutdown_write().submit_with(2).unwrap();
        conn.write(b"more").submit_with(3).unwrap();
        conn.shutdown_write().submit_with(4).unwrap();
        assert_eq!(desk.events().len(), 3);
        assert_eq!(received(peer).unwrap(), b"full");
    }),
    ("it left with into_fd, and a close came too late", |desk, conn, peer| {
        conn.write(b"longer").submit_with(1).unwrap();
        conn.into_fd().submit_with(2).unwrap();
        conn.close().submit_with(3).unwrap();
        assert_eq!(desk.events(), []);
        assert_eq!(received(peer).unwrap(), b"long");
        assert_eq!(desk.events(), [(1, Got::Wrote), (2, Got::Detached(Vec::new())), (3, Got::Closed)]);
    }),
    ("into_fd was too late", |desk, conn, _| {
        conn.write(b"longer").submit_with(1).unwrap();
        conn.into_fd().within(MILLISECOND).submit_with(2).unwrap();
        assert_eq!(desk.after(2 * MILLISECOND + TICK).len(), 2);
    }),
];

/// With nothing left to write and no close under way, all the rest is aborted at once, whatever the grace.
#[test]
fn a_shutdown_waits_for_writes_and_for_nothing_else() {
    for (name, way) in WAYS {
        let mut desk = narrow();
        let (conn, peer) = desk.conn();
        way(&mut desk, &conn, &peer);
        desk.submitter.shutdown(HOUR);
        let mut turns = 0;
        let end = loop {
            match desk.watcher.turn(Some(Duration::ZERO)) {
                Ok(batch) => batch.for_each(drop),
                Err(end) => break end,
            }
            turns += 1;
            assert!(turns < 20, "{name}: it waits");
        };
        assert_eq!(end, WaitError::Closed, "{name}");
    }
}

/// And for those it does wait, until they are out.
#[test]
fn a_shutdown_gives_writes_and_closes_their_time() {
    for close in [false, true] {
        let mut desk = narrow();
        let (conn, peer) = desk.conn();
        conn.write(b"longer").submit_with(1).unwrap();
        if close {
            conn.close().within(HOUR).submit_with(2).unwrap();
        }
        conn.read_pooled().submit_with(3).unwrap_or_else(|_| panic!());
        desk.submitter.shutdown(HOUR);
        let before = desk.events();
        assert!(before.len() == usize::from(close), "{before:?}");
        assert_eq!(received(&peer).unwrap(), b"long");
        assert_eq!(desk.watcher.turn(Some(Duration::ZERO)).unwrap().count(), if close { 1 } else { 2 });
        if close {
            assert_eq!(desk.events(), [], "the peer has not ended");
            peer.shutdown_write().unwrap();
            assert_eq!(desk.watcher.turn(Some(Duration::ZERO)).unwrap().count(), 1);
        }
        assert_eq!(received(&peer).unwrap(), b"er");
        assert_eq!(received(&peer).unwrap(), b"");
        assert_eq!(desk.watcher.turn(Some(Duration::ZERO)).unwrap_err(), WaitError::Closed);
    }
}

/// The owner of a payload, whose drop on the loop's thread submits once more, then shuts the loop down.
struct Last {
    submitter: Submitter<u32>,
    conn: Conn<u32>,
}

impl AsRef<[u8]> for Last {
    fn as_ref(&self) -> &[u8] {
        b"last"
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        self.submitter.post(1).unwrap();
        self.conn.write(b"words").submit_with(2).unwrap();
        self.conn.read(Vec::with_capacity(8)).submit_with(3).unwrap();
        self.submitter.timer(HOUR).submit_with(4).unwrap();
        self.submitter.shutdown(Duration::ZERO);
        assert!(self.submitter.post(5).is_err());
    }
}

/// What the loop's own thread submits in the turn in which the shutdown comes is accepted, and so completes (G1).
#[test]
fn what_is_submitted_in_the_last_turn_completes() {
    for pieces in [1, 2] {
        let mut desk = desk();
        let ((conn, _peer), (other, others_peer)) = (desk.conn(), desk.conn());
        let last = Last { submitter: desk.submitter.clone(), conn: other };
        let mut payload = vec![Bytes::from_static(b"first "); pieces];
        payload.push(Bytes::from_owner(last));
        conn.write_vectored(payload).then_read_leased().submit_with(6).unwrap();
        let mut got = Vec::new();
        let end = loop {
            match desk.watcher.turn(Some(Duration::ZERO)) {
                Ok(batch) => got.extend(batch.map(desk::of)),
                Err(end) => break end,
            }
        };
        assert_eq!(end, WaitError::Closed);
        got.sort_by_key(|(context, _)| *context);
        let aborted = || Got::Failed(Half::Read, 0, "Aborted".into());
        let expected =
            [(1, Got::Posted), (2, Got::Wrote), (3, aborted()), (4, Got::Silenced("Aborted".into())), (6, aborted())];
        assert_eq!(got, expected);
        assert_eq!(received(&others_peer).unwrap(), b"words");
        assert_eq!(desk.submitter.load(), 0);
    }
}

/// A shutdown takes in what lies unread, so that the tail of what was sent is not lost by a reset.
#[test]
fn a_shutdown_spares_the_tail() {
    for (unread, close_drain, clean) in [(100, 1 << 20, true), (40_000, 20_000, false), (100, 0, false)] {
        let mut desk = desk_with(|_| (), |limits| limits.close_drain = close_drain);
        let (conn, peer) = desk.conn();
        peer.send(&vec![7; unread]).unwrap();
        assert_eq!(desk.events(), []);
        conn.write(b"tail").submit_with(1).unwrap();
        desk.submitter.shutdown(HOUR);
        let mut turns = 0;
        while desk.watcher.turn(Some(Duration::ZERO)).map(|batch| batch.for_each(drop)).is_ok() {
            turns += 1;
            assert!(turns < 20, "it waits");
        }
        let got = received(&peer);
        if clean {
            assert_eq!(got.unwrap(), b"tail");
            assert_eq!(received(&peer).unwrap(), b"");
        } else {
            assert!(got == Err(ErrorKind::ConnectionReset) || received(&peer) == Err(ErrorKind::ConnectionReset));
        }
    }
}

// --- closes ------------------------------------------------------------------------------------------------------

/// What a graceful close throws away is bounded: up to the bound it waits for the peer's end, beyond it not.
#[test]
fn a_close_throws_so_much_away_and_no_more() {
    let mut desk = desk_with(|_| (), |limits| limits.close_drain = 2_048);
    let (conn, peer) = desk.conn();
    conn.close().submit_with(1).unwrap();
    assert_eq!(desk.events(), []);
    peer.send(&[7; 2_048]).unwrap();
    assert_eq!(desk.events(), []);
    assert_eq!(desk.submitter.counters().closed_hard, 0);
    peer.send(b"x").unwrap();
    assert_eq!(desk.events(), [(1, Got::Closed)]);
    assert_eq!(desk.submitter.counters().closed_hard, 1);
}

/// In portions, so that nobody has to wait for it.
#[test]
fn a_close_throws_away_a_portion_at_a_time() {
    let mut desk = desk_with(|config| config.buffer = 1 << 20, |limits| limits.close_drain = 1 << 20);
    let (conn, peer) = desk.conn();
    assert_eq!(desk.events(), []);
    conn.close().submit_with(1).unwrap();
    peer.send(&vec![7; 1_000_000]).unwrap();
    peer.shutdown_write().unwrap();
    let before = desk.submitter.counters().turns;
    let mut closed = 0;
    while closed == 0 {
        closed = desk.watcher.turn(Some(Duration::ZERO)).unwrap().count();
    }
    // Four buffers of 16 KiB each in a step, and two steps in a turn.
    assert!(desk.submitter.counters().turns - before >= 1_000_000 / (8 * 16_384));
}

/// And goes on with it, although no edge tells of what is there already.
#[test]
fn a_close_throws_away_all_that_is_there() {
    let mut desk = desk_with(|config| config.buffer = 200_000, |_| ());
    let (conn, peer) = desk.conn();
    assert_eq!(peer.send(&vec![7; 200_000]).unwrap(), 200_000);
    assert_eq!(desk.events(), []);
    conn.close().submit_with(1).unwrap();
    assert_eq!(desk.events(), []);
    assert_eq!(desk.events(), []);
    assert_eq!(peer.send(&vec![7; 200_000]).unwrap(), 200_000, "there is room again");
}

/// Only what was sent in part, or could not be sent although a close had promised it, makes a reset of the end.
#[test]
fn whole_messages_are_followed_by_a_clean_end() {
    for (torn, way) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
        let mut desk = narrow();
        let (conn, peer) = desk.conn();
        conn.write(b"full").submit_with(1).unwrap();
        if torn {
            conn.write(b"torn apart").submit_with(2).unwrap();
            assert_eq!(desk.events(), [(1, Got::Wrote)]);
            assert_eq!(received(&peer).unwrap(), b"full");
        }
        assert_eq!(desk.events().len(), usize::from(!torn));
        if !torn {
            conn.write(b"whole, and never begun").submit_with(2).unwrap();
        }
        let op = if way == 0 { conn.release() } else { conn.close().within(MILLISECOND) };
        op.submit_with(3).unwrap();
        let released = Got::Failed(Half::Write, if torn { 4 } else { 0 }, "Released".into());
        assert_eq!(desk.after(2 * MILLISECOND + TICK), [(2, released), (3, Got::Closed)]);
        assert_eq!(received(&peer).unwrap(), if torn { b"torn" } else { b"full" });
        let clean = way == 0 && !torn;
        assert_eq!(received(&peer), if clean { Ok(Vec::new()) } else { Err(ErrorKind::ConnectionReset) });
    }
}

/// The place of a session is free when it has ended, whichever way.
#[test]
fn a_session_that_has_ended_gives_its_place_back() {
    let mut desk = desk_with(|_| (), |limits| limits.sessions = 2);
    for round in 0..6 {
        let (conn, peer) = desk.conn();
        conn.read_pooled().submit_with(1).unwrap();
        peer.send(b"x").unwrap();
        assert_eq!(desk.events(), [(1, bytes(b"x"))]);
        match round {
            0 => conn.release().submit_with(2).unwrap(),
            1 => conn.abort().submit_with(2).unwrap(),
            2 => conn.into_fd().submit_with(2).unwrap(),
            3 => conn.close().within(Duration::ZERO).submit_with(2).unwrap(),
            4 => {
                conn.close().submit_with(2).unwrap();
                peer.shutdown_write().unwrap();
            }
            _ => {
                drop(conn);
                peer.shutdown_write().unwrap();
                assert_eq!(desk.events(), []);
                assert_eq!(desk.submitter.counters().sessions, 0);
                continue;
            }
        }
        assert_eq!(desk.after(TICK).len(), 1, "round {round}");
        assert_eq!(desk.submitter.counters().sessions, 0, "round {round}");
    }
}

/// A timer that was cancelled is over, and what is armed in its place is another.
#[test]
fn a_cancelled_timer_comes_once() {
    let mut desk = desk();
    let (timer, id) = desk.submitter.timer(MILLISECOND).named();
    timer.submit_with(1).unwrap();
    assert_eq!(desk.events(), []);
    desk.submitter.cancel_timer(id).unwrap();
    assert_eq!(desk.events(), [(1, Got::Silenced("Cancelled".into()))]);
    assert_eq!(desk.submitter.counters().cancels_missed, 0);
    desk.submitter.timer(HOUR).submit_with(2).unwrap();
    desk.submitter.cancel_timer(id).unwrap();
    assert_eq!(desk.after(10 * MILLISECOND), []);
    assert_eq!(desk.submitter.counters().cancels_missed, 1);
    assert_eq!(desk.after(HOUR), [(2, Got::Rang)]);
    assert_eq!(desk.submitter.counters().expired, 1);
    desk.submitter.timer(MILLISECOND).submit().unwrap();
    assert_eq!(desk.after(MILLISECOND + TICK), [(0, Got::Rang)], "of a default context");
}
