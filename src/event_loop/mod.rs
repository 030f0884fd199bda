//! The loop: one thread that owns descriptors, sessions and deadlines, generic over what lives on a connection.
//!
//! # A turn
//!
//! ```text
//!   park ──► open the gate ──► accept ──► readiness ──► collect ──► serve ──► timers ──► publish ──► close the gate
//!    ▲   (asleep, or a poll)                                                                              │
//!    └────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - **park**: sleeps in the selector, unless there is work that needs no event: then it only polls.
//! - **accept** comes first, with a budget: a burst must not overflow the backlog while other work is done.
//! - **readiness** steps each session that an event names, or puts it behind those on the ready list.
//! - **collect** takes what others handed over: submissions (up to the tail seen at its start), dropped handles.
//! - **serve** steps the ready list: sessions whose budget ran out before their work did, or that found the batch full.
//! - **publish** hands the completions over, or keeps them as the residue while the consumer is busy.
//! - **close the gate**: whoever submits from now on writes the waker. Raised meanwhile? Then the park is only a poll.
//!
//! # Who owns what
//!
//! [`Core`] owns the system's side (selector, sessions, ready list, timers, listeners), the [`Face`] what the sessions
//! mean (the proactor's operations; a protocol's frames). They are two fields of [`EventLoop`], so a step borrows
//! both. Only the loop thread touches either.
//!
//! # Invariants
//!
//! I6 (a handle never reaches another connection), I8 (fairness), I9 (an edge is awaited only after EAGAIN or a
//! conclusive short read), I10 (a full batch is not work) are kept here; the numbers are those of ARCHITECTURE.md.
//!
//! Models: loom-tests/turn.rs, loom-tests/lifecycle.rs. Mutants that must fail: `owed_ignored`, `opened_late`,
//! `raise_forgotten`.

use std::collections::VecDeque;
use std::io;

use crate::handoff::Keeper;
use crate::limits::Limits;
use crate::sync::{Arc, mutant};
use crate::sys::{self, Errno, Readiness, Selector, Socket};

pub(crate) mod arena;
pub(crate) mod changing;
pub(crate) mod counters;
pub(crate) mod inbox;
pub(crate) mod linear;
pub(crate) mod listener;
pub(crate) mod next_turn;
pub(crate) mod session;
pub(crate) mod slab;
pub(crate) mod timers;
mod wheel;

use counters::{Counters, count};
use listener::{Listening, Shortage};
use session::{Flags, Session};
use slab::{Key, Slab};
use timers::{Timer, Timers};

/// The waker's token. Session tokens stay below 2^62 (see `slab`), so the two high bits tell kinds apart.
pub(crate) const WAKER: u64 = u64::MAX;
const LISTENER: u64 = 1 << 63;
/// Timers that expire in one turn; the others do so in the next.
const EXPIRIES_PER_TURN: u32 = 4_096;

const fn listener_token(index: usize) -> u64 {
    LISTENER | index as u64
}

/// What is left after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Nothing until an event, a submission or a timer.
    Idle,
    /// The budget ran out first: on to the ready list.
    Again,
    /// It is on its way in or out: `Face::wind_up` has the next word.
    Ending,
}

/// What lives on the loop's connections. One implementation per face of the library.
pub(crate) trait Face: Sized {
    /// The state machine of one connection.
    type Session;
    /// What a listener is known by.
    type Tag;

    /// A turn begins: what was changed since the last one counts now, and whatever time was slept has passed.
    fn begin(&mut self, _core: &mut Core<Self::Session, Self::Tag>) {}
    /// The waker was written: empties it.
    fn woken(&mut self);
    /// Takes over what other threads, and this one outside the loop, have handed in. `raised`: so was the gate, since this was
    /// last called; what nobody does without raising it need not be looked for otherwise.
    fn collect(&mut self, core: &mut Core<Self::Session, Self::Tag>, raised: bool);
    /// Moves one session on, within its budget. It gets the session itself: one look-up serves a whole step.
    fn step(&mut self, key: Key, session: &mut Session<Self::Session>, timers: &mut Timers) -> Step;
    /// Moves the beginning or the end of a session on, which may take it out of the core.
    fn wind_up(&mut self, core: &mut Core<Self::Session, Self::Tag>, key: Key) -> Step;
    /// Is there a place for one more accepted connection, and the right to take it?
    fn may_accept(&mut self) -> bool;
    /// A connection was accepted by the listener with that tag.
    fn accepted(
        &mut self,
        core: &mut Core<Self::Session, Self::Tag>,
        listener: usize,
        socket: Socket,
        peer: Option<std::net::SocketAddr>,
    );
    /// A listener came to its end.
    fn listener_dead(&mut self, core: &mut Core<Self::Session, Self::Tag>, listener: usize, errno: Errno);
    /// A timer of a session, or the grace of a shutdown.
    fn timer(&mut self, core: &mut Core<Self::Session, Self::Tag>, timer: Timer);
    /// Is the output at its cap, and not to be handed over now? Then no step is taken.
    fn full(&mut self) -> bool;
    /// Hands over what has been produced. True: that woke somebody who may have more to submit.
    fn publish(&mut self, core: &mut Core<Self::Session, Self::Tag>) -> bool;
    /// Is there work that neither an event nor the gate will announce?
    fn busy(&mut self) -> bool;
}

/// The system's side of the loop.
pub(crate) struct Core<S, T> {
    /// What is readable when there are events. Shared with whoever polls it where the loop is out of reach.
    pub(crate) selector: std::sync::Arc<Selector>,
    pub(crate) sessions: Slab<Session<S>>,
    ready: VecDeque<Key>,
    pub(crate) timers: Timers,
    pub(crate) listeners: Vec<Option<Listening<T>>>,
    /// One of them may have a connection: it has had an edge, and since then not been asked, or not to the end.
    accepting: bool,
    shortage: Shortage,
    events: Vec<Readiness>,
    /// How many of them were told.
    told: usize,
    /// A timer may be due, which the turn has not looked at yet.
    due: bool,
    /// It has told as much as it does at once: there may be more.
    pub(crate) crowded: bool,
    /// Counts passes, and the times between, in its low bits.
    turn: u8,
    pub(crate) limits: Limits,
    counters: Arc<Counters>,
}

impl<S, T> Core<S, T> {
    pub(crate) fn new(selector: Selector, limits: Limits, counters: Arc<Counters>) -> io::Result<Self> {
        Ok(Self {
            selector: std::sync::Arc::new(selector),
            sessions: Slab::new(),
            ready: VecDeque::new(),
            timers: Timers::new(),
            listeners: Vec::new(),
            accepting: false,
            shortage: Shortage::new()?,
            events: Vec::with_capacity(sys::MAX_EVENTS),
            told: 0,
            due: false,
            crowded: false,
            turn: 1, // No session was tried in it.
            limits,
            counters,
        })
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes a socket in. On an error the session comes back.
    pub(crate) fn register(&mut self, session: Session<S>) -> Result<Key, (Session<S>, Errno)> {
        let key = self.sessions.insert(session);
        let Some(session) = self.sessions.get_mut(key) else { unreachable!("inserted just now") };
        match self.selector.register(&session.socket, key.token()) {
            Ok(()) => Ok(key),
            Err(errno) => match self.sessions.retire(key) {
                Some(session) => Err((session, errno)),
                None => unreachable!("inserted just now"),
            },
        }
    }

    /// Takes a session out: its descriptor no longer makes events, its name is void, its entry free after this turn.
    pub(crate) fn retire(&mut self, key: Key) -> Option<Session<S>> {
        let session = self.sessions.retire(key)?;
        let _ = self.selector.deregister(&session.socket);
        Some(session)
    }

    /// Puts a session on the ready list, once.
    pub(crate) fn enqueue(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key) {
            if !session.has(Flags::QUEUED) {
                session.set(Flags::QUEUED);
                self.ready.push_back(key);
            }
        }
    }

    /// This turn, for telling it from the one before.
    pub(crate) const fn turn(&self) -> u8 {
        self.turn
    }

    /// From here on the next one counts: each session may do again what it may once in a turn.
    pub(crate) const fn count_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }

    /// Are others waiting for their turn? Then new work goes behind them.
    pub(crate) fn others_wait(&self) -> bool {
        !self.ready.is_empty()
    }
}

fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// One loop. See the module's documentation.
pub(crate) struct EventLoop<F: Face> {
    pub(crate) core: Core<F::Session, F::Tag>,
    pub(crate) face: F,
    keeper: Keeper,
    /// The gate was raised while it was open: somebody is owed another look.
    pub(crate) owed: bool,
    /// The last turn has left the selector out.
    pub(crate) skipped: bool,
}

impl<F: Face> EventLoop<F> {
    pub(crate) const fn new(core: Core<F::Session, F::Tag>, face: F, keeper: Keeper) -> Self {
        Self { core, face, keeper, owed: false, skipped: false }
    }

    /// Sleeps until there is something to do, at most until `until` (an instant of `sys::now`).
    ///
    /// # Errors
    /// The selector's, other than an interruption by a signal.
    pub(crate) fn park(&mut self, until: Option<u64>) -> io::Result<()> {
        let until = if self.is_busy() { Some(0) } else { until };
        self.park_for(until)
    }

    /// The same, for who has seen to it that there is no work that [needs no event](Self::is_busy), or only polls.
    #[inline(always)]
    pub(crate) fn park_for(&mut self, until: Option<u64>) -> io::Result<()> {
        // Entries of ended sessions may be reused from here on: no event fetched before is left to name them (I6).
        self.core.sessions.recycle();
        let owed = self.owed && !mutant("owed_ignored");
        count(&self.core.counters.polls);
        if self.core.events.is_empty() {
            let until = if owed { Some(0) } else { earlier(until, self.core.timers.next()) };
            self.core.due = self.core.selector.wait(&mut self.core.events, until)?;
        }
        Ok(())
    }

    /// In place of a turn, if all there is to do is to hand over what has been produced. The gate stays closed: whoever
    /// raises it writes the waker, and the selector tells.
    #[inline(never)]
    pub(crate) fn hand_out(&mut self) {
        self.face.publish(&mut self.core);
    }

    /// Everything but the park: from the gate's opening to its closing.
    pub(crate) fn pass(&mut self) {
        let raised = self.open();
        // Until it is over: a turn that a panic cuts short leaves the gate open, where a raise writes no waker.
        self.owed = true;
        count(&self.core.counters.turns);
        self.core.count_turn();
        self.face.begin(&mut self.core);
        self.accept();
        self.readiness();
        self.face.collect(&mut self.core, raised);
        if mutant("opened_late") {
            self.keeper.open();
        }
        if !self.core.ready.is_empty() {
            self.serve();
        }
        self.expire();
        if self.face.publish(&mut self.core) && !cfg!(loom) {
            // A consumer was woken. On a processor that it shares with the loop it answers now, and finds the gate open:
            // no write to the waker, no sleep in between. On another one this returns at once.
            std::thread::yield_now();
        }
        self.owed = !self.keeper.close();
    }

    /// Opens the gate. Was it raised since the last turn has looked, before it was closed or after?
    fn open(&mut self) -> bool {
        let owed = self.owed && !mutant("raise_forgotten");
        (!mutant("opened_late") && self.keeper.open()) || owed
    }

    /// Work that no event will announce. A full batch is none: the take that makes room raises the gate (I10).
    #[inline]
    pub(crate) fn is_busy(&mut self) -> bool {
        self.face.busy() || ((!self.core.ready.is_empty() || self.core.accepting) && self.can_go_on())
    }

    #[inline(never)]
    fn can_go_on(&mut self) -> bool {
        let can_serve = !self.core.ready.is_empty() && !self.face.full();
        can_serve || (self.core.accepting && self.face.may_accept())
    }

    /// Every event is told once, and none is lost: a panic of the user's leaves those behind it for the next turn.
    fn readiness(&mut self) {
        while let Some(event) = self.core.events.get(self.core.told).copied() {
            self.core.told += 1;
            if event.token & LISTENER != 0 {
                if event.token == WAKER {
                    self.face.woken();
                }
                continue;
            }
            let key = Key::from_token(event.token);
            let Some(session) = self.core.sessions.get_mut(key) else { continue };
            session.note(event.bits);
            if session.has(Flags::QUEUED) {
                continue;
            }
            // In the order of their events, however full the batches: whoever has work goes behind those that had some.
            let waits = !self.core.ready.is_empty() || self.face.full();
            let step = if waits { Step::Again } else { self.face.step(key, session, &mut self.core.timers) };
            self.after(key, step);
        }
        self.core.crowded = self.core.events.len() == sys::MAX_EVENTS;
        self.core.events.clear();
        self.core.told = 0;
    }

    #[inline]
    fn after(&mut self, key: Key, step: Step) {
        if step != Step::Idle {
            self.go_on(key, step);
        }
    }

    #[inline(never)]
    fn go_on(&mut self, key: Key, mut step: Step) {
        if step == Step::Ending {
            step = self.face.wind_up(&mut self.core, key);
        }
        if step == Step::Again {
            self.core.enqueue(key);
        }
    }

    /// Serves everyone on the ready list once; who is not done goes to its end.
    #[inline(never)]
    fn serve(&mut self) {
        for _ in 0..self.core.ready.len() {
            if self.face.full() {
                return;
            }
            let Some(key) = self.core.ready.pop_front() else { return };
            let Some(session) = self.core.sessions.get_mut(key) else { continue };
            session.clear(Flags::QUEUED);
            let step = self.face.step(key, session, &mut self.core.timers);
            self.after(key, step);
        }
    }

    fn expire(&mut self) {
        // Not in a turn that has left the selector out, which is soon followed by one that has not: what is there would be late.
        // Nor in one that was woken by something before the earliest was due: the next does not sleep if that is so by now.
        if std::mem::replace(&mut self.core.due, false) && self.core.timers.next().is_some() {
            self.expire_due();
        }
    }

    #[inline(never)]
    fn expire_due(&mut self) {
        // What is left of the budget is due in the next turn, which does not sleep.
        let (now, mut budget) = (sys::now(), EXPIRIES_PER_TURN);
        while let Some(timer) = self.core.timers.expired(now, &mut budget) {
            match timer {
                Timer::Accept(index) => self.core.accept_again(index),
                Timer::Retry(token) => {
                    let key = Key::from_token(token);
                    if let Some(session) = self.core.sessions.get_mut(key) {
                        session.retry_now();
                        self.core.enqueue(key);
                    }
                }
                timer => self.face.timer(&mut self.core, timer),
            }
        }
    }
}

#[cfg(all(test, gaio_sim, not(loom)))]
mod tests;
