//! Typed sessions on the loop: what moves a machine on, and what becomes of it.
//!
//! ```text
//!             accept, adopt                on_open              fate: Close, Leave
//!   (none) ──────────────────► Open ◄──────────────── Connecting      │
//!                               │ │                       ▲           ▼
//!                               │ └───────────────────────│───────► Closing: output, FIN, drain ──► (retired, on_end)
//!                               │         connect ────────┘           │ bound
//!                               └── fate: End(..) ────────────────────┴─────────────────────────► (retired, on_end)
//! ```
//!
//! Sessions are served from the ready list, each at least once a turn (G8). While output is above the high-water mark, or
//! the state expects nothing, nothing is read: that is the back-pressure.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::event_loop::arena::Arena;
use crate::event_loop::counters::count;
use crate::event_loop::inbox::{Intake, nanos};
use crate::event_loop::session::{Flags, Session};
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Armed, Timer, Timers};
use crate::event_loop::{self, Step};
use crate::sys::{self, Errno, Socket};
use crate::typed::connecting::Connects;
use crate::typed::delivery::Delivery;
use crate::typed::ending::Ending;
use crate::typed::expect::Seen;
use crate::typed::limits::SessionLimits;
use crate::typed::machine::{Bench, Doom, Fate, Machine};
use crate::typed::mail::{Command, Mail, Newcomer};
use crate::typed::output::Output;
use crate::typed::protocol::{End, Protocol};
use crate::typed::spares::Spares;
use crate::typed::step::catch;
use crate::watcher::aligned::Aligned;

/// A listener is known by the linger that its connections inherit.
pub(crate) type Core<P> = event_loop::Core<Typed<P>, Option<Duration>>;

/// What few sessions have, or have only at their end.
#[derive(Default)]
pub(crate) struct Extra {
    pub(crate) timers: Vec<(u64, u32)>,
    pub(crate) groups: Vec<u64>,
    /// The bound of its graceful close, if the socket came with one.
    pub(crate) linger: Option<Duration>,
    /// What is decided, once the session has `Flags::CLOSING`.
    pub(crate) fate: Option<Doom>,
    /// The bound of the close runs.
    pub(crate) closing: bool,
    /// Input thrown away by the close.
    pub(crate) drained: usize,
}

/// One session, as the loop keeps it: small, since most are idle.
pub(crate) struct Typed<P> {
    pub(crate) machine: Machine<P>,
    pub(crate) extra: Option<Box<Extra>>,
    /// The timer of its time limit, or of its close.
    pub(crate) armed: Armed,
    pub(crate) connecting: bool,
}

impl<P> Typed<P> {
    pub(crate) fn fate(&self) -> Option<&Fate> {
        self.extra.as_ref()?.fate.as_deref()
    }

    pub(crate) fn take_fate(&mut self) -> Option<Fate> {
        self.extra.as_mut()?.fate.take().map(|fate| *fate)
    }
}

/// What makes the sessions of accepted connections; `None` turns one away.
pub(crate) type Welcome<P> = Box<dyn FnMut(Option<SocketAddr>) -> Option<P> + Send>;

/// A timer of a session's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alarm {
    pub(crate) token: u64,
    pub(crate) name: u64,
    pub(crate) armed: Armed,
}

pub(crate) struct Sessions<P: Protocol> {
    pub(crate) mail: Arc<Mail<P>>,
    pub(crate) intake: Intake<Command<P>>,
    pub(crate) bench: Bench<P>,
    pub(crate) receive: Aligned,
    welcome: Welcome<P>,
    /// Other loops that accepted connections may go to.
    siblings: Vec<Arc<Mail<P>>>,
    pub(crate) connects: Connects<P>,
    /// Members in order: a broadcast that went to them in another order each time would not repeat in a test.
    pub(crate) groups: HashMap<u64, BTreeSet<u64>>,
    pub(crate) alarms: Arena<Alarm>,
    pub(crate) ending: Ending,
    pub(crate) delivery: Delivery<P::Message>,
    pub(crate) limits_seen: u32,
}

impl<P: Protocol> Sessions<P> {
    pub(crate) fn new(
        mail: Arc<Mail<P>>,
        intake: Intake<Command<P>>,
        limits: SessionLimits,
        welcome: Welcome<P>,
        siblings: Vec<Arc<Mail<P>>>,
    ) -> Self {
        let receive = Aligned::new(limits.receive);
        let post = mail.clone();
        let (scratch, effects, spare, outputs) = (Output::default(), Vec::new(), Spares::new(), Spares::new());
        Self {
            bench: Bench { scratch, effects, post, spare, outputs, limits, now: sys::now() },
            mail,
            intake,
            receive,
            welcome,
            siblings,
            connects: Connects::default(),
            groups: HashMap::new(),
            alarms: Arena::default(),
            ending: Ending::No,
            delivery: Delivery::default(),
            limits_seen: 0,
        }
    }

    pub(crate) const fn is_gone(&self) -> bool {
        matches!(self.ending, Ending::Gone)
    }

    // --- beginnings ---

    /// Makes a connection a session.
    pub(crate) fn take_in(&mut self, core: &mut Core<P>, newcomer: Newcomer<P>, connecting: bool) {
        let Newcomer { socket, unix, state, leftover, linger } = newcomer;
        let extra = linger.map(|_| Box::new(Extra { linger, ..Extra::default() }));
        let mut machine = Machine::new(state);
        if !leftover.is_empty() {
            machine.keep(&mut self.bench, &leftover, Seen::default());
            machine.look_again();
        }
        let typed = Typed { machine, extra, armed: Armed::NONE, connecting };
        let mut session = Session::new(socket, unix, typed);
        if connecting {
            session.wait_for_edge();
        }
        match core.register(session) {
            // What came with it was copied. If its drop is the user's, and panics, that is the end of this session alone.
            Ok(key) if !connecting => self.open(core, key, leftover),
            Ok(key) => {
                let at = sys::now().saturating_add(nanos(self.bench.limits.connect_within));
                let armed = core.timers.arm(at, Timer::Limit(key.token()));
                if let Some(session) = core.sessions.get_mut(key) {
                    session.state.armed = armed;
                }
            }
            Err((mut session, errno)) => {
                self.mail.left();
                self.tell(&mut session.state.machine, &End::Os(errno.into()));
                self.let_go(|_| drop(leftover));
            }
        }
    }

    fn open(&mut self, core: &mut Core<P>, key: Key, leftover: Bytes) {
        self.callback(core, key, |state, io| {
            drop(leftover);
            state.on_open(io)
        });
        if self.ending != Ending::No {
            self.callback(core, key, P::on_shutdown);
        }
    }

    /// The last callback of a session.
    pub(crate) fn tell(&self, machine: &mut Machine<P>, end: &End) {
        let counters = &self.mail.counters;
        count(match end {
            End::Closed | End::Aborted | End::Left => &counters.ended_themselves,
            End::TooLong { .. } | End::Refused(_) | End::CutShort { .. } => &counters.ended_by_input,
            End::TimedOut(_) => &counters.ended_by_time,
            End::Overflow | End::CloseTimedOut => &counters.ended_by_output,
            End::Os(_) | End::TooMany => &counters.ended_by_system,
            End::Shutdown => &counters.ended_by_shutdown,
            End::Panicked => &counters.panics,
        });
        machine.end(end);
    }
}

pub(crate) fn forget(alarms: &mut Arena<Alarm>, timers: &mut Timers, extra: &mut Extra, name: u64) {
    let Some(at) = extra.timers.iter().position(|(other, _)| *other == name) else { return };
    let (_, index) = extra.timers.swap_remove(at);
    if let Some(mut alarm) = alarms.remove(index) {
        timers.disarm(&mut alarm.armed);
    }
}

pub(crate) fn leave(groups: &mut HashMap<u64, BTreeSet<u64>>, group: u64, token: u64) {
    if let Some(members) = groups.get_mut(&group) {
        members.remove(&token);
        if members.is_empty() {
            groups.remove(&group);
        }
    }
}

impl<P: Protocol> event_loop::Face for Sessions<P> {
    type Session = Typed<P>;
    type Tag = Option<Duration>;

    fn begin(&mut self, core: &mut Core<P>) {
        self.renew_limits(core);
        // Once per turn; limits are told apart by milliseconds.
        self.bench.now = sys::now();
    }

    fn woken(&mut self) {
        self.mail.inbox.drain_waker();
    }

    fn collect(&mut self, core: &mut Core<P>, _raised: bool) {
        self.deliver(core);
        self.attempt_connects(core);
    }

    #[inline]
    fn step(&mut self, key: Key, session: &mut Session<Typed<P>>, timers: &mut Timers) -> Step {
        if session.has(Flags::CLOSING) {
            return Step::Ending;
        }
        let (step, fate) = match catch(|| self.go_on(key, session, timers)) {
            Ok(step) => (step, Ok(())),
            Err(doom) => (Step::Ending, Err(doom)),
        };
        if fate.as_ref().is_err_and(|doom: &Doom| !matches!(**doom, Fate::End(_))) && self.bench.scratch.queued() > 0 {
            // Written before the end was decided: it goes out first.
            let kept = self.bench.scratch.keep(&[]);
            session.state.machine.backlog = Some(Box::new(kept));
        }
        self.after(key, session, timers, fate);
        step
    }

    fn wind_up(&mut self, core: &mut Core<P>, key: Key) -> Step {
        self.advance_close(core, key)
    }

    fn may_accept(&mut self) -> bool {
        self.ending == Ending::No
    }

    fn accepted(&mut self, core: &mut Core<P>, listener: usize, socket: Socket, peer: Option<SocketAddr>) {
        let listening = core.listeners.get(listener).and_then(Option::as_ref);
        let (unix, linger) = listening.map_or((false, None), |listening| (listening.unix, listening.tag));
        if linger.is_some() && sys::linger_off(&socket).is_err() {
            // A close that lingers would hold the loop up.
            return count(&self.mail.counters.refused);
        }
        // Of those that have a place the one with the fewest sessions; of several, this one.
        let all = std::iter::once(&self.mail).chain(&self.siblings);
        let least = all.filter(|mail| mail.has_place()).min_by_key(|mail| mail.load());
        let target = least.unwrap_or(&self.mail).clone();
        if !target.admit() {
            return count(&self.mail.counters.refused);
        }
        let welcome = &mut self.welcome;
        let made = catch_unwind(AssertUnwindSafe(|| welcome(peer)));
        let Ok(Some(state)) = made else {
            target.left();
            return count(&self.mail.counters.refused);
        };
        let newcomer = Newcomer { socket, unix, state, leftover: Bytes::new(), linger };
        if Arc::ptr_eq(&target, &self.mail) {
            self.take_in(core, newcomer, false);
        } else if let Err((_, Command::Adopt(newcomer))) = target.send(Command::Adopt(Box::new(newcomer))) {
            // The other loop is behind, or at its end: this one serves, if it may.
            target.left();
            if !self.mail.admit() {
                count(&self.mail.counters.refused);
                return self.tell(&mut Machine::new(newcomer.state), &End::TooMany);
            }
            self.take_in(core, *newcomer, false);
        }
    }

    fn listener_dead(&mut self, core: &mut Core<P>, listener: usize, _errno: Errno) {
        count(&self.mail.counters.accept_errors);
        core.remove_listener(listener);
    }

    fn timer(&mut self, core: &mut Core<P>, timer: Timer) {
        match timer {
            Timer::Limit(token) => self.limit(core, Key::from_token(token)),
            Timer::Alarm(index) => self.alarm(core, index),
            Timer::Close(token) => self.close_overdue(core, Key::from_token(token)),
            Timer::Attempt(number) => self.connects.again(number),
            _ => {}
        }
    }

    fn full(&mut self) -> bool {
        false
    }

    fn publish(&mut self, core: &mut Core<P>) -> bool {
        self.advance_ending(core);
        false
    }

    fn busy(&mut self) -> bool {
        self.delivery.is_behind() || self.mail.inbox.has_local() || self.connects.are_due()
    }
}
