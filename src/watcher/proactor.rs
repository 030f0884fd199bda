//! The proactor: the state machine that lives on each connection of the first face, and its output.
//!
//! A session's state is two queues of pending operations, one per direction. An idle session owns nothing, a pending
//! operation one entry of the store; there it is tried, and from there it completes.
//!
//! ```text
//!   submission ──► queue (FIFO) ──► tried, head first ──► completion
//!                       ▲                 │
//!                       └── edge, turn ───┘ pending
//! ```
//!
//! It is tried as it comes if its queue is empty, the direction ready, and nobody waits on the ready list (I8): how that goes
//! is told in `starting.rs`, where most writes end without having been in a queue.
//!
//! Whatever happens to an operation, `complete` is called exactly once with its handle, context and buffer (I1):
//! an operation is a value that is moved from the ring to the queue to the batch, and there is no other way out.
//!
//! Models: loom-tests/turn.rs, loom-tests/lifecycle.rs. Mutants that must fail: `returns_overlooked`,
//! `registered_late`, `local_overtakes`.

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::error::OpError;
use crate::event_loop::counters::count;
use crate::event_loop::inbox::Intake;
use crate::event_loop::session::{Flags, Session};
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Armed, Timer, Timers};
use crate::event_loop::{self, Step};
use crate::handoff::Consumer;
use crate::limits::Limits;
use crate::sync::{Arc, mutant};
use crate::sys::{Errno, Socket};
use crate::watcher::Conn;
use crate::watcher::accepting::ListenerTag;
use crate::watcher::alarm::Alarms;
use crate::watcher::batch::{Item, Stored};
use crate::watcher::body::Body;
use crate::watcher::connecting::Connects;
use crate::watcher::ending::Ending;
use crate::watcher::link::Token;
use crate::watcher::outbox::Outbox;
use crate::watcher::outcome::{Failure, Half, Outcome};
use crate::watcher::pool::Stash;
use crate::watcher::queue::{Ops, Pending, Queues};
use crate::watcher::shared::Shared;
use crate::watcher::spent::Spent;
use crate::watcher::starting::Write;
use crate::watcher::starving::Starving;
use crate::watcher::submission::{Operation, Submission};

pub(crate) type Core = event_loop::Core<Queues, ListenerTag>;

pub(crate) struct Proactor<C> {
    pub(crate) shared: Arc<Shared<C>>,
    pub(crate) intake: Intake<Submission<C>>,
    pub(crate) ops: Ops<C>,
    pub(crate) outbox: Outbox<C>,
    pub(crate) stash: Stash,
    pub(crate) starving: Starving,
    /// Sessions whose graceful close is under way, by token: its time bound, and the timer.
    pub(crate) closing: HashMap<u64, (u64, Armed)>,
    /// Bytes that came with a socket and were not read yet, by token.
    pub(crate) leftovers: HashMap<u64, Bytes>,
    /// Payloads that are done with.
    pub(crate) spent: Spent,
    pub(crate) alarms: Alarms<C>,
    pub(crate) connects: Connects<C>,
    /// What is pending in the queues of writes, over all sessions.
    pub(crate) writes: usize,
    pub(crate) ending: Ending,
    /// As of this turn; and which of their changes that is.
    pub(crate) limits: Limits,
    pub(crate) limits_seen: u32,
}

impl<C> Proactor<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>, ring: Consumer<Submission<C>>, outbox: Outbox<C>) -> Self {
        Self {
            intake: Intake::new(ring),
            ops: Ops::new(),
            outbox,
            stash: Stash::new(shared.pool.clone()),
            starving: Starving::default(),
            closing: HashMap::new(),
            leftovers: HashMap::new(),
            spent: Spent::default(),
            alarms: Alarms::new(),
            connects: Connects::new(),
            writes: 0,
            ending: Ending::No,
            limits: shared.limits.whole(),
            limits_seen: 0,
            shared,
        }
    }

    /// The loop has ended, and its last batch is with the consumer.
    pub(crate) fn is_gone(&self) -> bool {
        self.ending == Ending::Gone
    }

    /// Is all that is left to fail already, or has it?
    pub(crate) const fn is_ending(&self) -> bool {
        matches!(self.ending, Ending::Failing | Ending::Last | Ending::Gone)
    }

    // --- completions ---

    #[inline(always)]
    pub(crate) fn complete(&mut self, conn: Conn<C>, context: C, outcome: impl Into<Stored>) {
        self.outbox.filling().push(Item::Done { conn, context, outcome: outcome.into() });
    }

    /// Completes an operation as failed, with what is left of it.
    pub(crate) fn fail(&mut self, pending: Pending<C>, error: OpError) {
        let Pending { conn, context, body, done, .. } = pending;
        let half = if body.goes_out() { Half::Write } else { Half::Read };
        if half == Half::Write {
            self.outbox.written += body.len() as u64;
        }
        let failure = Failure { error, half, transferred: done, buffer: body.into_payload() };
        self.complete(conn, context, Outcome::Failed(Box::new(failure)));
    }

    /// Fails an operation that was never begun. There is nothing left to close, so a close has succeeded.
    pub(crate) fn fail_new(&mut self, op: Operation<C>, error: OpError) {
        if op.body.is_ending() && !matches!(op.body, Body::IntoFd) {
            return self.complete(op.conn, op.context, Outcome::Closed);
        }
        self.fail(Pending::new(op), error);
    }

    // --- submissions ---

    /// Takes up what was submitted, in the order of happens-before (G2): the ring in its own order, and between its items
    /// those of this thread, each behind what was in the ring when it was submitted.
    ///
    /// All that was in the ring when this began is popped (G8): a submitter parked for room would wait for ever.
    #[inline(never)]
    fn drain(&mut self, core: &mut Core) {
        self.intake.begin(&self.shared.inbox);
        loop {
            // Each way in by itself: which of them it was is known to the compiler, and no submission moved for that.
            while self.intake.has_here() {
                let local = self.intake.take_here();
                self.take_up(core, local.submission);
            }
            let Some(submission) = self.intake.next_there(Submission::relies_on_the_ring) else { break };
            self.take_up(core, submission);
        }
        self.intake.end(&self.shared.inbox);
    }

    #[inline(always)]
    pub(crate) fn take_up(&mut self, core: &mut Core, submission: Submission<C>) {
        match submission {
            Submission::Op(op) => self.take_up_op(core, op),
            other => self.take_up_other(core, other),
        }
    }

    /// An operation is taken apart here, and not moved before: so go most messages out.
    #[inline(never)]
    pub(crate) fn take_up_op(&mut self, core: &mut Core, op: Operation<C>) {
        // Three and a rest: told apart by comparing, and not by a jump through a table.
        match op {
            Operation { conn, context, bounds, body: Body::WriteLease(then, payload) } => {
                self.write(core, Write { conn, context, bounds, then, payload });
            }
            Operation { conn, context, bounds, body: Body::WriteVec(then, payload) } => {
                self.write(core, Write { conn, context, bounds, then, payload });
            }
            Operation { conn, context, bounds, body: Body::WriteBytes(then, payload) } => {
                self.write(core, Write { conn, context, bounds, then, payload });
            }
            op => self.start(core, op),
        }
    }

    #[inline(never)]
    fn take_up_other(&mut self, core: &mut Core, submission: Submission<C>) {
        match submission {
            Submission::Nothing => {}
            Submission::Op(op) => self.take_up_op(core, op),
            Submission::Delegate { conn, socket, linger, unix, leftover } => {
                let mut session = Session::new(socket, unix, Queues::new(linger));
                if !leftover.is_empty() {
                    session.set(Flags::LEFTOVER);
                }
                if conn.link().datagrams {
                    session.set(Flags::DATAGRAM);
                }
                self.register(core, &conn, session);
                match conn.token() {
                    _ if leftover.is_empty() => {}
                    Token::Session(token) => _ = self.leftovers.insert(token, leftover),
                    _ => self.spent.push(leftover),
                }
            }
            Submission::Timer { context, at, id } => self.alarms.start(&mut core.timers, context, at, id),
            Submission::Cancel { conn, name } => self.cancel(core, &conn, name),
            Submission::CancelTimer { id } => {
                if !self.alarms.cancel(id, &mut core.timers, &mut self.outbox) {
                    count(&self.shared.counters.cancels_missed);
                }
            }
            Submission::Post(context) => self.outbox.filling().push(Item::Posted(context)),
            Submission::Listen { socket, flag, id, linger, unix, buffers } => {
                self.add_listener(core, socket, unix, ListenerTag::new(id, flag, linger, buffers));
            }
            Submission::Connect(connect) => self.start_connect(core, connect),
            Submission::CancelConnect { id } => self.cancel_connect(core, id),
        }
    }

    pub(crate) fn register(&self, core: &mut Core, conn: &Conn<C>, session: Session<Queues>) {
        match core.register(session) {
            Ok(key) => conn.link().set_token(key.token()),
            Err((refused, _)) => {
                drop(refused);
                conn.link().set_refused();
                self.shared.left();
            }
        }
    }

    // --- what is rarely there ---

    /// Is none of it there? One look at the lot: nearly always that is all.
    #[inline(always)]
    fn has_nothing_rare(&self) -> bool {
        (self.starving.line.len() | self.connects.queued() | self.spent.some()) == 0 && self.shared.returns.is_empty()
    }

    #[inline(never)]
    fn collect_what_is_rare(&mut self, core: &mut Core) {
        self.attempt_connects(core);
        if !self.shared.returns.is_empty() {
            self.collect_returns(core);
        }
        if self.can_feed() {
            self.feed(core);
        }
    }

    #[inline(never)]
    fn busy_with_what_is_rare(&mut self) -> bool {
        self.can_feed()
            || self.connects.are_due(|| self.shared.has_place())
            || (!self.shared.returns.is_empty() && !mutant("returns_overlooked"))
            // Of a write that was sent between two turns.
            || self.has_spent()
    }

    /// Takes in the connections whose last handle is gone: they are closed gracefully.
    fn collect_returns(&mut self, core: &mut Core) {
        for link in self.shared.clone().returns.drain() {
            if let Token::Session(token) = link.token() {
                self.begin_close(core, Key::from_token(token), None);
            }
        }
    }
}

impl<C> event_loop::Face for Proactor<C> {
    type Session = Queues;
    type Tag = ListenerTag;

    fn begin(&mut self, core: &mut Core) {
        self.renew_limits(core);
    }

    fn woken(&mut self) {
        self.shared.inbox.drain_waker();
    }

    fn collect(&mut self, core: &mut Core, raised: bool) {
        if self.intake.has_some(&self.shared.inbox) {
            self.drain(core);
        }
        if !self.has_nothing_rare() {
            self.collect_what_is_rare(core);
        }
        if raised {
            self.end_dropped_listeners(core);
        }
    }

    #[inline(always)]
    fn step(&mut self, key: Key, session: &mut Session<Queues>, timers: &mut Timers) -> Step {
        self.step_session(key, session, timers)
    }

    fn wind_up(&mut self, core: &mut Core, key: Key) -> Step {
        if core.sessions.get_mut(key).is_some_and(|session| session.has(Flags::CONNECTING)) {
            return self.advance_connect(core, key);
        }
        self.advance_close(core, key)
    }

    fn may_accept(&mut self) -> bool {
        self.ending == Ending::No && !self.outbox.is_full() && self.outbox.has_credit()
    }

    fn accepted(&mut self, core: &mut Core, listener: usize, socket: Socket, peer: Option<SocketAddr>) {
        self.take_in(core, listener, socket, peer);
    }

    fn listener_dead(&mut self, core: &mut Core, listener: usize, errno: Errno) {
        self.end_listener(core, listener, Some(errno));
    }

    fn timer(&mut self, core: &mut Core, timer: Timer) {
        match timer {
            Timer::Op(index) => {
                count(&self.shared.counters.expired);
                self.overdue(core, index);
            }
            Timer::Alarm(index) => {
                count(&self.shared.counters.expired);
                self.alarms.expired(index, &mut self.outbox);
            }
            Timer::Close(token) => self.close_overdue(core, Key::from_token(token)),
            Timer::Connect(id) => self.connect_overdue(core, id),
            Timer::Attempt(id) => self.connect_again(id),
            // That a turn was taken is enough, `publish` looks at the clock.
            Timer::Grace | Timer::Retry(_) | Timer::Accept(_) | Timer::Limit(_) => {}
        }
    }

    fn full(&mut self) -> bool {
        self.outbox.is_full()
    }

    #[inline(always)]
    fn publish(&mut self, core: &mut Core) -> bool {
        self.drop_spent();
        self.advance_ending(core);
        self.outbox.publish();
        if self.ending == Ending::Last && self.outbox.has_ended() {
            self.ending = Ending::Gone;
        }
        self.outbox.take_woken()
    }

    #[inline]
    fn busy(&mut self) -> bool {
        // Neither this thread's own submissions nor handles that it has dropped within the turn raise the gate.
        self.shared.inbox.has_local() || (!self.has_nothing_rare() && self.busy_with_what_is_rare())
    }
}
