//! Connections that sessions are to be opened on.
//!
//! ```text
//!                in turn           ┌─ begun ────────► a session, *connecting*: an edge, or its time, decides
//!   asked for ───────────► attempt ┼─ done ─────────► a session, open
//!                             ▲    ├─ failed ───────► told its end
//!                             │    └─ Unix, the backlog is full ──► paused: its time is over ──► told its end
//!                             └────────────── the pause is over ──────┘
//! ```
//!
//! A paused one has its place among the sessions. No edge announces room in a backlog, so the pauses grow.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;

use crate::event_loop::inbox::nanos;
use crate::event_loop::timers::{Pause, Timer};
use crate::sys::{self, Connecting, Errno, StreamOptions};
use crate::typed::face::{Core, Sessions};
use crate::typed::machine::Machine;
use crate::typed::mail::Newcomer;
use crate::typed::protocol::{End, Protocol};

/// Where to.
#[derive(Clone, Debug)]
pub(crate) enum To {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A session that is to be opened.
#[derive(Debug)]
pub(crate) struct Connect<P> {
    pub(crate) to: To,
    pub(crate) state: P,
    /// When it is given up, and the next pause; `None` until the first attempt.
    tried: Option<(u64, Pause)>,
}

impl<P> Connect<P> {
    pub(crate) const fn new(to: To, state: P) -> Self {
        Self { to, state, tried: None }
    }
}

/// Those of one loop.
#[derive(Debug)]
pub(crate) struct Connects<P> {
    /// Attempts that are due.
    pub(crate) due: Vec<Connect<P>>,
    /// By number, so in their order.
    paused: BTreeMap<u64, Connect<P>>,
    next: u64,
}

impl<P> Default for Connects<P> {
    fn default() -> Self {
        Self { due: Vec::new(), paused: BTreeMap::new(), next: 0 }
    }
}

impl<P> Connects<P> {
    pub(crate) fn ask(&mut self, to: To, state: P) {
        self.due.push(Connect::new(to, state));
    }

    pub(crate) fn are_due(&self) -> bool {
        !self.due.is_empty()
    }

    pub(crate) fn are_paused(&self) -> bool {
        !self.paused.is_empty()
    }

    /// A pause is over.
    pub(crate) fn again(&mut self, number: u64) {
        self.due.extend(self.paused.remove(&number));
    }
}

impl<P: Protocol> Sessions<P> {
    pub(crate) fn connect(&mut self, core: &mut Core<P>, mut connect: Connect<P>) {
        if connect.tried.is_none() && !self.mail.admit() {
            return self.tell(&mut Machine::new(connect.state), &End::TooMany);
        }
        let now = sys::now();
        let usual = (now.saturating_add(nanos(self.bench.limits.connect_within)), Pause::FIRST);
        let (by, pause) = connect.tried.get_or_insert(usual);
        let options = StreamOptions::default();
        let (unix, attempt) = match &connect.to {
            To::Tcp(address) => (false, sys::connect_tcp(*address, &options)),
            To::Unix(path) => (true, sys::connect_unix(path, &options).map(|socket| (socket, Connecting::Done))),
        };
        let errno = match attempt {
            Ok((socket, connecting)) => {
                let (state, leftover) = (connect.state, Bytes::new());
                let newcomer = Newcomer { socket, unix, state, leftover, linger: None };
                return self.take_in(core, newcomer, connecting == Connecting::Pending);
            }
            Err(Errno::AGAIN) if unix && now < *by => {
                let again = now.saturating_add(pause.take()).min(*by);
                let number = self.connects.next;
                self.connects.next += 1;
                self.connects.paused.insert(number, connect);
                core.timers.arm(again, Timer::Attempt(number));
                return;
            }
            Err(Errno::AGAIN) if unix => Errno::TIMEDOUT,
            Err(errno) => errno,
        };
        self.mail.left();
        self.tell(&mut Machine::new(connect.state), &End::Os(errno.into()));
    }

    /// Gives all of them up: the loop has ended.
    pub(crate) fn give_up_connects(&mut self) {
        let Connects { due, paused, .. } = std::mem::take(&mut self.connects);
        for connect in due.into_iter().chain(paused.into_values()) {
            if connect.tried.is_some() {
                self.mail.left();
            }
            self.tell(&mut Machine::new(connect.state), &End::Shutdown);
        }
    }
}
