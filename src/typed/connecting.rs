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

use std::collections::{BTreeMap, VecDeque};
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

/// Attempts begun in one turn; the others are in the next (G8).
const ATTEMPTS_PER_TURN: usize = 256;

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
    /// When it is given up, and the next pause; `None` until it has a place among the sessions.
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
    due: VecDeque<Connect<P>>,
    /// By number, so in their order.
    paused: BTreeMap<u64, Connect<P>>,
    next: u64,
}

impl<P> Default for Connects<P> {
    fn default() -> Self {
        Self { due: VecDeque::new(), paused: BTreeMap::new(), next: 0 }
    }
}

impl<P> Connects<P> {
    pub(crate) fn ask(&mut self, to: To, state: P) {
        self.due.push_back(Connect::new(to, state));
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
    /// One that others have handed in has its place from here on: so those that wait for their attempt are bounded.
    pub(crate) fn start_connect(&mut self, connect: Connect<P>) {
        let connect = self.give_place(connect);
        self.connects.due.extend(connect);
    }

    fn give_place(&self, mut connect: Connect<P>) -> Option<Connect<P>> {
        if connect.tried.is_none() {
            if !self.mail.admit() {
                self.tell(&mut Machine::new(connect.state), &End::TooMany);
                return None;
            }
            let by = sys::now().saturating_add(nanos(self.bench.limits.connect_within));
            connect.tried = Some((by, Pause::FIRST));
        }
        Some(connect)
    }

    /// Makes the attempts that are due, within a budget.
    pub(crate) fn attempt_connects(&mut self, core: &mut Core<P>) {
        for _ in 0..ATTEMPTS_PER_TURN {
            let Some(connect) = self.connects.due.pop_front() else { return };
            self.connect(core, connect);
        }
    }

    fn connect(&mut self, core: &mut Core<P>, connect: Connect<P>) {
        let Some(mut connect) = self.give_place(connect) else { return };
        let Some((by, pause)) = &mut connect.tried else { return };
        let now = sys::now();
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
