//! Connects under way: which address is tried, who has won, and what becomes of the others.
//!
//! ```text
//!            in turn        ┌─ begun ─────────────────► Racing ──edge──┬─ connected ─► completed, the others closed
//!   Queued ───────────► try ┤                                          └─ failed ──┐
//!     ▲                     ├─ failed ─────────────────────────────────────────────┴─┬─ another address ──► Queued
//!     │                     │                                                        └─ none, and none races:
//!     │                     └─ Unix, the backlog is full ──► Paused                     completed, with the last error
//!     └── the pause or the stagger is over (and for one more than the first there is a place: until then it is outside)
//!   any ── deadline, cancel, end of the loop ──► completed as failed, all sockets closed
//! ```
//!
//! A socket under way is a session that is *connecting*: registered under the name that it keeps when it has become a
//! connection, with nothing to do, since nobody knows that name yet. An edge steps it as any other, and the step asks how
//! it came out; whatever the edge brought is noted there, and so there for the first operation.
//!
//! | | invariant |
//! |---|---|
//! | C1 | A connect is in `all` until it completes, and taking it out is the only way to complete it (G1). Its id is never given again: who still names it, in the queue or by a timer, finds nothing. |
//! | C2 | A session is connecting if and only if `sockets` says whose it is. So no path ends a connect and leaves a descriptor. |
//! | C3 | A connect has one place among the sessions, and one more for each socket beyond the first. The winner keeps one, all others are given back (G10). |

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;

use crate::error::{ConnectError, OpError};
use crate::event_loop::Step;
use crate::event_loop::counters::count;
use crate::event_loop::session::{Flags, Session};
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Armed, Pause, Timer};
use crate::sys::{self, Errno, Socket, StreamOptions};
use crate::watcher::Conn;
use crate::watcher::batch::Item;
use crate::watcher::connect::To;
use crate::watcher::link::Addresses;
use crate::watcher::proactor::{Core, Proactor};
use crate::watcher::queue::Queues;

/// Attempts begun in one turn; the others are in the next (G8).
const ATTEMPTS_PER_TURN: usize = 256;

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) to: To,
    pub(crate) options: StreamOptions,
    /// In nanoseconds.
    pub(crate) stagger: u64,
    /// An instant of the loop's clock; `u64::MAX`: none.
    pub(crate) by: u64,
    pub(crate) id: u64,
}

/// One connect, from its submission to its completion.
#[derive(Debug)]
pub(crate) struct Connect<C> {
    pub(crate) context: C,
    plan: Plan,
    /// The next address to be tried.
    next: usize,
    /// Those under way.
    racing: Vec<(Key, Option<SocketAddr>)>,
    failed: Vec<(SocketAddr, Errno)>,
    queued: bool,
    /// Its next attempt is due, but there is no place for it.
    outside: bool,
    deadline: Armed,
    /// The stagger, or the pause before the next attempt.
    pause: Armed,
    paused: Pause,
}

impl<C> Connect<C> {
    pub(crate) const fn new(context: C, plan: Plan) -> Self {
        Self {
            context,
            plan,
            next: 0,
            racing: Vec::new(),
            failed: Vec::new(),
            queued: false,
            outside: false,
            deadline: Armed::NONE,
            pause: Armed::NONE,
            paused: Pause::FIRST,
        }
    }

    /// Is there an address that was not tried yet?
    fn has_more(&self) -> bool {
        matches!(&self.plan.to, To::Tcp(addrs) if self.next < addrs.len())
    }

    /// Tries the next address.
    fn attempt(&mut self) -> (Option<SocketAddr>, Result<Socket, Errno>) {
        let options = &self.plan.options;
        match &self.plan.to {
            To::Unix(path) => (None, sys::connect_unix(path, options)),
            To::Tcp(addrs) => {
                let addr = addrs[self.next];
                self.next += 1;
                // Done or not: `connected` tells, and here it is asked at once.
                (Some(addr), sys::connect_tcp(addr, options).map(|(socket, _)| socket))
            }
        }
    }
}

/// The connects that one loop has taken up and not completed yet.
#[derive(Debug)]
pub(crate) struct Connects<C> {
    /// By id, and so in the order in which they were made.
    all: BTreeMap<u64, Box<Connect<C>>>,
    /// Whose the connecting sessions are, by token.
    sockets: HashMap<u64, u64>,
    /// Those whose next attempt is due.
    queue: VecDeque<u64>,
    /// Those whose next attempt would be, if there were a place among the sessions.
    outside: VecDeque<u64>,
}

impl<C> Connects<C> {
    pub(crate) fn new() -> Self {
        Self { all: BTreeMap::new(), sockets: HashMap::new(), queue: VecDeque::new(), outside: VecDeque::new() }
    }

    /// 0 if no attempt is to be made, neither now nor when there is a place.
    #[inline]
    pub(crate) fn queued(&self) -> usize {
        self.queue.len() | self.outside.len()
    }

    /// Is there an attempt to be made?
    pub(crate) fn are_due(&self, has_place: impl Fn() -> bool) -> bool {
        !self.queue.is_empty() || (!self.outside.is_empty() && has_place())
    }

    /// Those for which there is a place now.
    fn come_in(&mut self, has_place: impl Fn() -> bool) -> Option<u64> {
        while has_place() {
            let id = self.outside.pop_front()?;
            if self.all.get(&id).is_some_and(|connect| connect.outside) {
                return Some(id);
            }
        }
        None
    }

    fn enqueue(&mut self, id: u64) {
        if let Some(connect) = self.all.get_mut(&id) {
            if !std::mem::replace(&mut connect.queued, true) {
                self.queue.push_back(id);
            }
        }
    }
}

impl<C> Proactor<C> {
    /// A connect has come out of the ring.
    pub(crate) fn start_connect(&mut self, core: &mut Core, mut connect: Box<Connect<C>>) {
        let Plan { by, id, .. } = connect.plan;
        if by != u64::MAX {
            connect.deadline = core.timers.arm(by, Timer::Connect(id));
        }
        self.connects.all.insert(id, connect);
        self.connects.enqueue(id);
    }

    /// Makes the attempts that are due, within a budget.
    pub(crate) fn attempt_connects(&mut self, core: &mut Core) {
        for _ in 0..ATTEMPTS_PER_TURN {
            let id = self.connects.queue.pop_front().or_else(|| self.connects.come_in(|| self.shared.has_place()));
            let Some(id) = id else { return };
            self.attempt_connect(core, id);
        }
    }

    fn attempt_connect(&mut self, core: &mut Core, id: u64) {
        let Some(connect) = self.connects.all.get_mut(&id) else { return }; // It has ended meanwhile.
        (connect.queued, connect.outside) = (false, false);
        core.timers.disarm(&mut connect.pause);
        let beside_others = !connect.racing.is_empty();
        if beside_others && !self.shared.admit() {
            // No place for a race: this address waits for one, or until the one before has failed.
            connect.outside = true;
            return self.connects.outside.push_back(id);
        }
        let (addr, socket) = connect.attempt();
        let key = socket.and_then(|socket| {
            let mut session = Session::new(socket, addr.is_none(), Queues::new(0));
            session.set(Flags::CONNECTING);
            core.register(session).map_err(|(_, errno)| errno)
        });
        match key {
            Ok(key) => {
                connect.racing.push((key, addr));
                if connect.has_more() {
                    let at = sys::now().saturating_add(connect.plan.stagger);
                    connect.pause = core.timers.arm(at, Timer::Attempt(id));
                }
                self.connects.sockets.insert(key.token(), id);
                self.advance_connect(core, key);
            }
            Err(Errno::AGAIN) if addr.is_none() => {
                connect.pause = core.timers.arm(sys::now() + connect.paused.take(), Timer::Attempt(id));
            }
            Err(errno) => {
                if beside_others {
                    self.shared.left();
                }
                self.address_failed(core, id, addr, errno);
            }
        }
    }

    /// How has a socket under way come out? Asked when it was made, and after each edge.
    pub(crate) fn advance_connect(&mut self, core: &mut Core, key: Key) -> Step {
        let Some(session) = core.sessions.get_mut(key) else { return Step::Idle };
        match sys::connected(&session.socket) {
            Ok(peer) => self.win(core, key, peer),
            Err(Errno::AGAIN) => {}
            Err(errno) => self.lose(core, key, errno),
        }
        Step::Idle
    }

    /// The first to connect: the others are closed, and it is a session like any other.
    fn win(&mut self, core: &mut Core, key: Key, peer: Option<SocketAddr>) {
        let Some(id) = self.connects.sockets.get(&key.token()).copied() else { return };
        let Some(mut connect) = self.connects.all.remove(&id) else { return };
        self.end_race(core, &mut connect, Some(key));
        let Some(session) = core.sessions.get_mut(key) else { return };
        session.clear(Flags::CONNECTING);
        let local = peer.and_then(|_| sys::local_addr(&session.socket));
        let conn = Conn::create(self.shared.clone(), Addresses::new(peer, local));
        conn.link().set_token(key.token());
        self.outbox.filling().push(Item::Connected { context: connect.context, result: Ok(conn) });
    }

    fn lose(&mut self, core: &mut Core, key: Key, errno: Errno) {
        drop(core.retire(key));
        let Some(id) = self.connects.sockets.remove(&key.token()) else { return };
        let Some(connect) = self.connects.all.get_mut(&id) else { return };
        let Some(at) = connect.racing.iter().position(|(other, _)| *other == key) else { return };
        let (_, addr) = connect.racing.swap_remove(at);
        if !connect.racing.is_empty() {
            self.shared.left();
        }
        self.address_failed(core, id, addr, errno);
    }

    fn address_failed(&mut self, core: &mut Core, id: u64, addr: Option<SocketAddr>, errno: Errno) {
        let Some(connect) = self.connects.all.get_mut(&id) else { return };
        connect.failed.extend(addr.map(|addr| (addr, errno)));
        if connect.has_more() {
            self.connects.enqueue(id);
        } else if connect.racing.is_empty() {
            self.fail_connect(core, id, OpError::Os(errno.into()));
        }
    }

    /// Closes all sockets under way but the winner, and gives their places back.
    fn end_race(&mut self, core: &mut Core, connect: &mut Connect<C>, winner: Option<Key>) {
        core.timers.disarm(&mut connect.deadline);
        core.timers.disarm(&mut connect.pause);
        for _ in usize::from(winner.is_some())..connect.racing.len().max(1) {
            self.shared.left();
        }
        for (key, _) in connect.racing.drain(..) {
            self.connects.sockets.remove(&key.token());
            if winner != Some(key) {
                drop(core.retire(key));
            }
        }
    }

    /// Completes a connect as failed; `false` if there is none of that id.
    fn fail_connect(&mut self, core: &mut Core, id: u64, error: OpError) -> bool {
        let Some(mut connect) = self.connects.all.remove(&id) else { return false };
        self.end_race(core, &mut connect, None);
        let Connect { context, failed, .. } = *connect;
        let failed = failed.into_iter().map(|(addr, errno)| (addr, errno.into())).collect();
        self.outbox.filling().push(Item::Connected { context, result: Err(ConnectError { error, failed }) });
        true
    }

    pub(crate) fn cancel_connect(&mut self, core: &mut Core, id: u64) {
        if !self.fail_connect(core, id, OpError::Cancelled) {
            count(&self.shared.counters.cancels_missed);
        }
    }

    /// The deadline of a connect is over, and no longer armed.
    pub(crate) fn connect_overdue(&mut self, core: &mut Core, id: u64) {
        count(&self.shared.counters.expired);
        if let Some(connect) = self.connects.all.get_mut(&id) {
            connect.deadline = Armed::NONE;
            // Asked before it is given up, as any operation is tried.
            for (key, _) in connect.racing.clone() {
                self.advance_connect(core, key);
            }
            self.fail_connect(core, id, OpError::TimedOut);
        }
    }

    /// The stagger or the pause of a connect is over, and no longer armed.
    pub(crate) fn connect_again(&mut self, id: u64) {
        if let Some(connect) = self.connects.all.get_mut(&id) {
            connect.pause = Armed::NONE;
            self.connects.enqueue(id);
        }
    }

    /// Completes all as failed, in the order in which they were made.
    pub(crate) fn fail_connects(&mut self, core: &mut Core, error: impl Fn() -> OpError) {
        while let Some(id) = self.connects.all.keys().next().copied() {
            self.fail_connect(core, id, error());
        }
        self.connects.queue.clear();
        self.connects.outside.clear();
    }
}
