//! The desk of the tests on the simulated system: a world, an embedded loop in it, time in the test's hand; and events
//! that own their bytes, to be compared.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use gaio::sim::{Clock, Config, Peer, World};
use gaio::{Conn, EmbeddedWatcher, Event, Half, Limits, NextTurn, OpError, Options, Outcome, Payload, Submitter};

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);
/// What a deadline may be late by: it is rounded up to 2²⁰ ns.
pub(crate) const TICK: Duration = Duration::from_nanos(1 << 20);

/// A world, and a loop in it. Contexts are numbers.
pub(crate) struct Desk {
    pub(crate) world: World,
    pub(crate) watcher: EmbeddedWatcher<u32>,
    pub(crate) submitter: Submitter<u32>,
    /// Descriptors of the loop alone.
    pub(crate) own: usize,
}

pub(crate) fn desk_with(config: impl FnOnce(&mut Config), limits: impl FnOnce(&mut Limits)) -> Desk {
    let world = World::enter();
    world.configure(|own| {
        own.clock = Clock::Manual;
        config(own);
    });
    let mut own = Limits::default();
    limits(&mut own);
    let (watcher, submitter) = EmbeddedWatcher::new_for(Options::default().limits(own)).unwrap();
    let own = world.open_descriptors();
    Desk { world, watcher, submitter, own }
}

pub(crate) fn desk() -> Desk {
    desk_with(|_| (), |_| ())
}

/// What an event has brought.
#[derive(Debug, PartialEq)]
pub(crate) enum Got {
    Bytes(Vec<u8>),
    Readable,
    Wrote,
    ShutDown,
    Closed,
    /// With the bytes that were left.
    Detached(Vec<u8>),
    Eof(Vec<u8>),
    /// A datagram: its whole length, and what is left of it.
    Cut(usize, Vec<u8>),
    /// Which half, after how many bytes, and how it is called.
    Failed(Half, usize, String),
    Accepted,
    ListenerEnded,
    Posted,
    Rang,
    Silenced(String),
}

pub(crate) fn bytes(text: &[u8]) -> Got {
    Got::Bytes(text.to_vec())
}

pub(crate) fn failed(half: Half, transferred: usize, error: &OpError) -> Got {
    let name = match error {
        OpError::Os(error) => format!("{:?}", error.kind()),
        other => format!("{other:?}"),
    };
    Got::Failed(half, transferred, name)
}

/// The context of an event, and what it has brought.
pub(crate) fn of(event: Event<'_, u32>) -> (u32, Got) {
    match event {
        Event::Done { context, outcome, .. } => (context, owned(outcome)),
        Event::Accepted { .. } => (u32::MAX, Got::Accepted),
        Event::ListenerEnded { .. } => (u32::MAX, Got::ListenerEnded),
        Event::Posted(context) => (context, Got::Posted),
        Event::Timer { context, result: Ok(()) } => (context, Got::Rang),
        Event::Timer { context, result: Err(error) } => (context, Got::Silenced(format!("{error:?}"))),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn owned(outcome: Outcome<'_>) -> Got {
    match outcome {
        Outcome::Read(bytes) => Got::Bytes(bytes),
        Outcome::Pooled(bytes) => Got::Bytes(bytes.to_vec()),
        Outcome::Leased(lease) => Got::Bytes(lease.to_vec()),
        Outcome::Readable => Got::Readable,
        Outcome::Wrote(_) => Got::Wrote,
        Outcome::ShutDown => Got::ShutDown,
        Outcome::Closed => Got::Closed,
        Outcome::Detached(detached) => Got::Detached(detached.leftover.to_vec()),
        Outcome::Eof(bytes) => Got::Eof(bytes.unwrap_or_default()),
        Outcome::Failed(failure) => match failure.error {
            OpError::Truncated { whole } => {
                Got::Cut(whole, failure.buffer.as_ref().and_then(Payload::as_slice).unwrap().to_vec())
            }
            error => failed(failure.half, failure.transferred, &error),
        },
    }
}

impl Desk {
    pub(crate) fn conn(&self) -> (Conn<u32>, Peer) {
        let (socket, peer) = self.world.pair();
        (self.submitter.delegate(socket).unwrap(), peer)
    }

    pub(crate) fn unix_conn(&self) -> (Conn<u32>, Peer) {
        let (socket, peer) = self.world.unix_pair();
        (self.submitter.delegate(socket).unwrap(), peer)
    }

    /// What one look brings, without time passing.
    pub(crate) fn turn(&mut self) -> Vec<(u32, Got)> {
        self.watcher.turn(Some(Duration::ZERO)).unwrap().map(of).collect()
    }

    /// What there is without time passing: turns until two of them bring nothing, and no work is in hand.
    pub(crate) fn events(&mut self) -> Vec<(u32, Got)> {
        let mut got = Vec::new();
        let mut quiet = 0;
        while quiet < 2 || matches!(self.watcher.next_turn(), NextTurn::Now) {
            let events = self.turn();
            quiet = if events.is_empty() { quiet + 1 } else { 0 };
            got.extend(events);
        }
        got
    }

    pub(crate) fn after(&mut self, time: Duration) -> Vec<(u32, Got)> {
        self.world.advance(time);
        self.events()
    }
}

pub(crate) fn of_context(events: &[(u32, Got)], context: u32) -> usize {
    events.iter().filter(|event| event.0 == context).count()
}

/// What lies ready for the peer.
pub(crate) fn received(peer: &Peer) -> Result<Vec<u8>, ErrorKind> {
    let mut buf = [0; 512];
    peer.recv(&mut buf).map(|len| buf[..len].to_vec()).map_err(|error| error.kind())
}

/// Bytes whose drop says that it has begun, waits until it may go on, then panics.
struct Bomb {
    begun: Sender<()>,
    go_on: Receiver<()>,
}

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        b"bomb"
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        let _ = self.begun.send(());
        let _ = self.go_on.recv();
        panic!("on purpose");
    }
}

/// The payload, a sign that its drop has begun, and the match to it.
pub(crate) fn bomb() -> (Bytes, Receiver<()>, Sender<()>) {
    let ((begun, has_begun), (light, go_on)) = (channel(), channel());
    (Bytes::from_owner(Bomb { begun, go_on }), has_begun, light)
}
