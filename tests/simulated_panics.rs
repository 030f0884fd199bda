//! Panics of a session's own that come outside of its callbacks: the `Drop` of what it has handed to its loop (G11).
//!
//! | whose `Drop` | when | what must hold |
//! |---|---|---|
//! | shared bytes, as output | they are sent, or given up | that session ends, if it had not, and no other |
//! | shared bytes that came with a socket | they were copied | the same |
//! | a farewell | its output was not out in time | the session was told that |
//!
//! Each would otherwise unwind through the loop: a server would lose all sessions of a thread. Run by `ci/sim.sh`.

#![cfg(gaio_sim)]

#[path = "support/sessions.rs"]
mod scripted;

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use gaio::sim::{Clock, Peer, World};
use gaio::{Expect, SessionLimits};
use scripted::{Books, Log, Note, Rig, Scripted, Seen, Then, note, order, usual};

const SECOND: Duration = Duration::from_secs(1);

/// What panics as it is dropped.
struct Bomb(Vec<u8>);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

fn bomb(size: usize) -> Bytes {
    Bytes::from_owner(Bomb(vec![b'b'; size]))
}

/// One session that will be harmed, and one that must not.
struct Desk {
    rig: Rig,
    world: World,
    peer: Peer,
    log: Log,
    other: Log,
    others: Peer,
    /// Looked at when the loop has gone.
    _books: Books,
}

fn desk(limits: impl FnOnce(&mut SessionLimits)) -> Desk {
    let books = Books::open();
    let world = World::enter();
    world.configure(|config| (config.clock, config.buffer) = (Clock::Manual, 1_000));
    let mut rig = Rig::with(limits);
    let session = |(state, log): (Scripted, Log)| {
        let (socket, peer) = world.pair();
        rig.hub.adopt(socket, state).map_err(|(error, _)| error).unwrap();
        (log, peer)
    };
    let (log, peer) = session(Scripted::new(Expect::until(b"\n"), |seen, io| match seen {
        Seen::Eof => {
            io.write_bytes(bomb(100));
            Then::Abort
        }
        seen => usual(seen),
    }));
    let (other, others) = session(Scripted::quiet(Expect::until(b"\n")));
    settle(&mut rig);
    assert_eq!((log.take(), other.take()), (vec![Seen::Open], vec![Seen::Open]));
    Desk { rig, world, peer, log, other, others, _books: books }
}

fn settle(rig: &mut Rig) {
    for _ in 0..12 {
        rig.sessions.turn(Some(Duration::ZERO)).unwrap();
    }
}

/// Writes a bomb, and then this.
fn writes(size: usize, then: fn() -> Then) -> Note {
    let bytes = Mutex::new(Some(bomb(size)));
    order(move |io| {
        io.write_bytes(bytes.lock().unwrap().take().unwrap());
        then()
    })
}

impl Desk {
    /// The bomb has gone off, and nobody else was harmed.
    fn has_survived(&mut self) {
        settle(&mut self.rig);
        assert_eq!((self.rig.hub.counters().panics, self.rig.hub.sessions()), (1, 1));
        self.other.send(note("still there?"));
        self.others.send(b"yes\n").unwrap();
        settle(&mut self.rig);
        assert_eq!(self.other.take(), [Seen::Frame(b"yes".to_vec()), Seen::Message("still there?")]);
    }
}

#[test]
fn shared_bytes_that_panic_as_they_are_sent_end_their_session_alone() {
    let mut desk = desk(|_| ());
    desk.log.send(writes(100, || Then::Stay));
    desk.has_survived();
}

#[test]
fn shared_bytes_that_panic_between_two_messages_end_their_session_alone() {
    let mut desk = desk(|limits| (limits.high_water, limits.low_water) = (50, 10));
    desk.log.send(writes(100, || Then::Stay));
    desk.log.send(note("behind them"));
    desk.has_survived();
    assert_eq!(desk.rig.hub.counters().undelivered, 1);
}

#[test]
fn shared_bytes_that_panic_while_it_closes_end_their_session_alone() {
    let mut desk = desk(|_| ());
    desk.log.send(writes(100, || Then::Close));
    desk.has_survived();
}

#[test]
fn shared_bytes_that_are_given_up_end_their_session_alone() {
    let mut desk = desk(|_| ());
    desk.log.send(writes(2_000, || Then::Abort));
    desk.has_survived();
    assert_eq!(desk.log.end().as_deref(), Some("aborted by the protocol"));
}

#[test]
fn shared_bytes_of_a_step_that_aborts_end_their_session_alone() {
    let mut desk = desk(|_| ());
    desk.peer.shutdown_write().unwrap();
    desk.has_survived();
    assert_eq!(desk.log.end().as_deref(), Some("aborted by the protocol"));
}

#[test]
fn bytes_that_came_with_a_socket_end_their_session_alone() {
    let mut desk = desk(|_| ());
    desk.log.send(order(|_| Then::Abort));
    let (socket, _peer) = desk.world.pair();
    let (state, _log) = Scripted::quiet(Expect::until(b"\n"));
    desk.rig.hub.adopt_with(socket, bomb(10), state).map_err(|(error, _)| error).unwrap();
    desk.has_survived();
}

#[test]
fn a_farewell_that_was_not_called_ends_its_session_alone() {
    let mut desk = desk(|limits| limits.close_within = SECOND);
    desk.log.send(order(|io| {
        io.write(&[0; 2_000]);
        let kept = bomb(1);
        Then::Leave(Box::new(move |_| drop(kept)))
    }));
    settle(&mut desk.rig);
    desk.world.advance(2 * SECOND);
    desk.has_survived();
    assert_eq!(desk.log.end().as_deref(), Some("the peer did not take the output in time"));
}

/// As the loop ends, each is told of it all the same.
#[test]
fn what_panics_as_the_loop_ends_keeps_nobody_from_being_told() {
    let mut desk = desk(|_| ());
    desk.log.send(writes(2_000, || Then::Stay));
    settle(&mut desk.rig);
    let (socket, _peer) = desk.world.pair();
    let (state, late) = Scripted::quiet(Expect::until(b"\n"));
    desk.rig.hub.adopt_with(socket, bomb(10), state).map_err(|(error, _)| error).unwrap();
    desk.rig.hub.shutdown(Duration::ZERO);
    while desk.rig.sessions.turn(Some(Duration::ZERO)).is_ok() {}
    for log in [desk.log, desk.other] {
        assert_eq!(log.end().as_deref(), Some("the loop has ended"));
    }
    assert_eq!((late.all().len(), desk.rig.hub.sessions()), (0, 0), "its state is gone");
    assert_eq!(desk.rig.hub.counters().panics, 2);
}
