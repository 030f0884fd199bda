//! The way into a loop of sessions: messages, connections, listeners, the end.
//!
//! One ring per loop, by value, in the order of each sender; what its own thread sends goes by the local queue
//! (`event_loop::inbox`). Sending never waits: with the ring full the command comes back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::error::SubmitErrorKind;
use crate::event_loop::counters::Counters;
use crate::event_loop::inbox::{Inbox, Patience};
use crate::event_loop::linear::Vacant;
use crate::sync::figures::AtomicUsize;
use crate::sys::Socket;
use crate::typed::address::{Post, SendError, SendErrorKind};
use crate::typed::connecting::Connect;
use crate::typed::limits::SessionLimits;
use crate::typed::live::Live;
use crate::typed::protocol::Protocol;

/// A connection on its way to a loop.
pub(crate) struct Newcomer<P> {
    pub(crate) socket: Socket,
    pub(crate) unix: bool,
    pub(crate) state: P,
    pub(crate) leftover: Bytes,
    /// What it was to linger for.
    pub(crate) linger: Option<Duration>,
}

pub(crate) enum Command<P: Protocol> {
    Nothing,
    Message { token: u64, message: P::Message },
    Broadcast { group: u64, message: P::Message, copy: fn(&P::Message) -> P::Message },
    Adopt(Box<Newcomer<P>>),
    Connect(Box<Connect<P>>),
    Listen { socket: Socket, unix: bool, linger: Option<Duration> },
}

impl<P: Protocol> Vacant for Command<P> {
    fn vacant() -> Self {
        Self::Nothing
    }

    fn is_vacant(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

/// What everybody shares with one loop of sessions.
pub(crate) struct Mail<P: Protocol> {
    pub(crate) inbox: Inbox<Command<P>>,
    pub(crate) counters: crate::sync::Arc<Counters>,
    /// Sessions there are, or are on their way.
    sessions: AtomicUsize,
    pub(crate) limits: Live,
}

impl<P: Protocol> Mail<P> {
    pub(crate) fn new(inbox: Inbox<Command<P>>, counters: crate::sync::Arc<Counters>, limits: SessionLimits) -> Self {
        Self { inbox, counters, sessions: AtomicUsize::new(0), limits: Live::new(limits) }
    }

    /// Takes a place for a session, if there is one.
    pub(crate) fn admit(&self) -> bool {
        let fits = self.sessions.fetch_add(1, Ordering::Relaxed) < self.limits.sessions();
        if !fits {
            self.left();
        }
        fits
    }

    /// Is there a place for one more, and not the end at hand?
    pub(crate) fn has_place(&self) -> bool {
        self.load() < self.limits.sessions() && self.inbox.shutdown_at().is_none()
    }

    /// Gives a place back.
    pub(crate) fn left(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Hands a command over, or back.
    pub(crate) fn send(&self, command: Command<P>) -> Result<(), (SendErrorKind, Command<P>)> {
        self.inbox.submit(command, Patience::None).or_else(|(kind, command)| match (kind, &command) {
            // In the grace of a shutdown the sessions of a loop go on talking to each other.
            (SubmitErrorKind::Closed, Command::Message { .. } | Command::Broadcast { .. }) if self.load() > 0 => {
                self.inbox.submit_inside(command).map_err(|command| (SendErrorKind::Closed, command))
            }
            (SubmitErrorKind::Closed, _) => Err((SendErrorKind::Closed, command)),
            _ => Err((SendErrorKind::Full, command)),
        })
    }

    /// Sessions there are: a hint, for choosing among loops.
    pub(crate) fn load(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }
}

impl<P: Protocol> Post<P::Message> for Mail<P> {
    fn post(&self, token: u64, message: P::Message) -> Result<(), SendError<P::Message>> {
        self.send(Command::Message { token, message }).map_err(|(kind, command)| match command {
            Command::Message { message, .. } => SendError { kind, message },
            _ => unreachable!("a message was sent, so a message was refused"),
        })
    }
}
