//! One session's turn: output that waits, then input, frame by frame, then what they wrote; and callbacks in between.
//!
//! A step sends the backlog first, then reads and hands over frames within the budget, then sends what they wrote, in one
//! system call. A callback outside of a step (a message, a timer) writes to the backlog, which waits for the session's
//! step later in the turn: ten messages cost one send.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::event_loop::counters::{Counters, add, count};
use crate::event_loop::inbox::nanos;
use crate::event_loop::session::{Flags, Session, Verb};
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Armed, Timer, Timers};
use crate::event_loop::{Face, Step};
use crate::sys::{self, Bits, Errno};
use crate::typed::ending::Ending;
use crate::typed::expect::Seen;
use crate::typed::face::{Alarm, Core, Sessions, Typed, forget, leave};
use crate::typed::io::{Effect, Io};
use crate::typed::machine::{Bench, Budget, Doom, worse};
use crate::typed::protocol::{End, Next, Protocol};
use crate::typed::transport::{flush, flush_inline};

impl<P: Protocol> Sessions<P> {
    /// Calls a session outside of its step, unless it has ended or is about to; what it writes goes out with its next one, in
    /// this turn.
    pub(crate) fn callback(
        &mut self,
        core: &mut Core<P>,
        key: Key,
        callback: impl FnOnce(P, &mut Io<'_, P>) -> Next<P>,
    ) {
        let Some(session) = core.sessions.get_mut(key) else { return };
        if session.has(Flags::CLOSING) {
            return;
        }
        let fate = catch(|| {
            // Many messages of one turn: what counts is what the system does not take, so it is asked.
            let waiting = session.state.machine.backlog.as_ref().map_or(0, |backlog| backlog.queued());
            if waiting > self.bench.limits.high_water && session.writable() {
                flush(session, &mut self.bench, &[], &mut core.timers, key.token())?;
            }
            let machine = &mut session.state.machine;
            machine.write_later(&mut self.bench);
            machine.guarded(&mut self.bench, key.token(), callback)
        });
        self.after(key, session, &mut core.timers, fate);
        core.enqueue(key);
    }

    #[inline(always)] // Called in one place, for each message.
    pub(crate) fn go_on(
        &mut self,
        key: Key,
        session: &mut Session<Typed<P>>,
        timers: &mut Timers,
    ) -> Result<Step, Doom> {
        let token = key.token();
        if session.state.connecting {
            match sys::connected(&session.socket) {
                Err(Errno::AGAIN) => {
                    session.wait_for_edge();
                    return Ok(Step::Idle);
                }
                Err(errno) => return Err(End::Os(errno.into()).into()),
                Ok(_) => session.state.connecting = false,
            }
            session.state.machine.guarded(&mut self.bench, token, P::on_open)?;
            if self.ending != Ending::No {
                session.state.machine.guarded(&mut self.bench, token, P::on_shutdown)?;
            }
        }
        let (mut frames, mut bytes) = (self.bench.limits.frames_per_turn, self.bench.limits.bytes_per_turn);
        let step = loop {
            if session.state.machine.has_output() {
                flush(session, &mut self.bench, &[], timers, token)?;
                // Looked at after each flush: if the system takes all of it at once, no edge will tell.
                if session.state.machine.is_drained(&self.bench) {
                    if frames == 0 || bytes == 0 {
                        break Step::Again;
                    }
                    session.state.machine.drained(&mut self.bench, token)?;
                    // What is produced counts as what is read: it may go on for ever.
                    frames -= 1;
                    bytes = bytes.saturating_sub(session.state.machine.queued(&self.bench));
                    continue;
                }
            }
            let machine = &session.state.machine;
            let unfed = machine.is_unfed();
            if !unfed && (!session.readable() || machine.eof_told) || !machine.wants_input() {
                break Step::Idle;
            }
            if frames == 0 || bytes == 0 {
                break Step::Again;
            }
            if unfed {
                self.feed_partial(session, timers, token, &mut frames)?;
                continue;
            }
            let got = self.receive(session, timers, token, &mut frames)?;
            bytes = bytes.saturating_sub(got);
        };
        // What was written without input at hand: at the end of the stream, or with room to produce more. The next session
        // finds the scratch output empty.
        if self.bench.scratch.queued() > 0 || session.state.machine.end_output {
            flush(session, &mut self.bench, &[], timers, token)?;
        }
        Ok(step)
    }

    /// Feeds what was kept of earlier input.
    fn feed_partial(
        &mut self,
        session: &mut Session<Typed<P>>,
        timers: &mut Timers,
        token: u64,
        frames: &mut u32,
    ) -> Result<(), Doom> {
        let Some(mut partial) = session.state.machine.partial.take() else { return Ok(()) };
        let machine = &mut session.state.machine;
        let handed = Handed::new(&self.mail.counters, frames);
        let (consumed, fed) = machine.feed(&mut self.bench, token, &partial.bytes, &mut partial.seen, handed.left);
        drop(handed);
        let flushed = flush(session, &mut self.bench, &partial.bytes, timers, token);
        session.state.machine.put_back(&mut self.bench, partial, consumed);
        worse(fed, flushed)
    }

    /// One receive, and what comes of it. Says how many bytes it brought.
    #[inline]
    fn receive(
        &mut self,
        session: &mut Session<Typed<P>>,
        timers: &mut Timers,
        token: u64,
        frames: &mut u32,
    ) -> Result<usize, Doom> {
        let was_kept = session.state.machine.partial.is_some();
        let verb = if was_kept {
            self.receive_rest(session)
        } else {
            session.recv_slice(self.receive.part(0, self.receive.size()))
        };
        match verb {
            Verb::Moved(n) if was_kept => self.feed_partial(session, timers, token, frames).map(|()| n),
            Verb::Moved(n) => {
                let input = self.receive.first(n);
                let mut seen = Seen::default();
                let machine = &mut session.state.machine;
                let handed = Handed::new(&self.mail.counters, frames);
                let (consumed, fed) = machine.feed(&mut self.bench, token, input, &mut seen, handed.left);
                drop(handed);
                let flushed = flush_inline(session, &mut self.bench, input, timers, token);
                if consumed < n {
                    session.state.machine.keep(&mut self.bench, &input[consumed..], seen);
                }
                worse(fed, flushed).map(|()| n)
            }
            Verb::Pending => Ok(0),
            Verb::Eof => {
                session.state.machine.eof_told = true;
                session.state.machine.eof(&mut self.bench, token).map(|()| 0)
            }
            Verb::Failed(errno) => Err(End::Os(errno.into()).into()),
        }
    }

    /// One receive, behind what is kept of a message that has not come whole.
    #[inline(never)]
    fn receive_rest(&self, session: &mut Session<Typed<P>>) -> Verb {
        let kept = session.state.machine.partial.as_mut().map(|partial| std::mem::take(&mut partial.bytes));
        let Some(mut bytes) = kept else { return Verb::Pending };
        make_room(&mut bytes, self.bench.limits.receive);
        let (bytes, verb) = session.recv_vec(bytes);
        if let Some(partial) = &mut session.state.machine.partial {
            partial.bytes = bytes;
        }
        verb
    }

    /// What callbacks have left to do, if they have.
    #[inline(always)]
    pub(crate) fn after(
        &mut self,
        key: Key,
        session: &mut Session<Typed<P>>,
        timers: &mut Timers,
        fate: Result<(), Doom>,
    ) {
        if fate.is_err() || !self.bench.effects.is_empty() || session.state.machine.due().is_some() {
            self.settle(key, session, timers, fate);
        }
    }

    /// Effects, the time limit, the fate.
    fn settle(&mut self, key: Key, session: &mut Session<Typed<P>>, timers: &mut Timers, fate: Result<(), Doom>) {
        if !self.bench.effects.is_empty() {
            self.effects(key, session, timers);
        }
        let typed = &mut session.state;
        if let Err(fate) = fate {
            self.let_go(|bench| bench.scratch.clear());
            typed.extra.get_or_insert_default().fate = Some(fate);
            session.set(Flags::CLOSING);
            return;
        }
        if let Some(due) = typed.machine.due() {
            // An armed timer that is early looks again when it fires.
            if timers.armed_at(typed.armed).is_none_or(|at| at > due.saturating_add(TICK)) {
                timers.disarm(&mut typed.armed);
                typed.armed = timers.arm(due, Timer::Limit(key.token()));
            }
        }
    }

    fn effects(&mut self, key: Key, session: &mut Session<Typed<P>>, timers: &mut Timers) {
        let token = key.token();
        for effect in self.bench.effects.drain(..) {
            let extra = session.state.extra.get_or_insert_default();
            match effect {
                Effect::Timer { name, time } => {
                    forget(&mut self.alarms, timers, extra, name);
                    let index = self.alarms.insert(|| Alarm { token, name, armed: Armed::NONE });
                    let at = sys::now().saturating_add(nanos(time));
                    if let Some(alarm) = self.alarms.get_mut(index) {
                        alarm.armed = timers.arm(at, Timer::Alarm(index));
                    }
                    extra.timers.push((name, index));
                }
                Effect::CancelTimer { name } => forget(&mut self.alarms, timers, extra, name),
                Effect::Connect { to, state } => self.connects.ask(to, state),
                Effect::Join { group } => {
                    if self.groups.entry(group).or_default().insert(token) {
                        extra.groups.push(group);
                    }
                }
                Effect::Leave { group } => {
                    extra.groups.retain(|joined| *joined != group);
                    leave(&mut self.groups, group, token);
                }
            }
        }
    }

    pub(crate) fn alarm(&mut self, core: &mut Core<P>, index: u32) {
        let Some(Alarm { token, name, .. }) = self.alarms.remove(index) else { return };
        count(&self.mail.counters.expired);
        let key = Key::from_token(token);
        let Some(session) = core.sessions.get_mut(key) else { return };
        if let Some(extra) = &mut session.state.extra {
            extra.timers.retain(|(_, other)| *other != index);
        }
        self.callback(core, key, |state, io| state.on_timer(name, io));
    }

    pub(crate) fn limit(&mut self, core: &mut Core<P>, key: Key) {
        let Some(session) = core.sessions.get_mut(key) else { return };
        session.state.armed = Armed::NONE;
        if session.has(Flags::CLOSING) {
            return;
        }
        let mut step = Step::Idle;
        if session.state.connecting || session.state.machine.is_overdue(&self.bench) {
            // It is tried before its time is looked at: the selector tells of so many at a time, and after a pause of the whole
            // process that may be the others.
            session.note(Bits::READABLE);
            step = Face::step(self, key, session, &mut core.timers);
            if step == Step::Ending {
                return core.enqueue(key);
            }
            core.timers.disarm(&mut session.state.armed);
        }
        let machine = &mut session.state.machine;
        let fate = if session.state.connecting {
            Err(End::Os(Errno::TIMEDOUT.into()).into())
        } else if machine.is_overdue(&self.bench) {
            count(&self.mail.counters.expired);
            machine.write_later(&mut self.bench);
            catch(|| machine.overdue(&mut self.bench, key.token()))
        } else {
            // It was looked at early: most limits are never reached.
            self.after(key, session, &mut core.timers, Ok(()));
            if step == Step::Again {
                core.enqueue(key);
            }
            return;
        };
        self.after(key, session, &mut core.timers, fate);
        core.enqueue(key);
    }
}

/// Counts the frames that are handed over, though the last of them may panic.
struct Handed<'s> {
    counters: &'s Counters,
    before: Budget,
    left: &'s mut Budget,
}

impl<'s> Handed<'s> {
    #[inline(always)]
    const fn new(counters: &'s Counters, left: &'s mut Budget) -> Self {
        Self { counters, before: *left, left }
    }
}

impl Drop for Handed<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        add(&self.counters.frames, (self.before - *self.left).into());
    }
}

impl<P: Protocol> Sessions<P> {
    /// Drops what a session leaves behind. Some of it is the user's, and may panic: the session has its end, and that is all.
    pub(crate) fn let_go(&mut self, drops: impl FnOnce(&mut Bench<P>)) {
        let dropped = catch(|| {
            drops(&mut self.bench);
            Ok(())
        });
        if dropped.is_err() {
            count(&self.mail.counters.panics);
        }
    }
}

/// Room to receive straight behind what is there: it grows with what has arrived, never to what was announced.
fn make_room(bytes: &mut Vec<u8>, most: usize) {
    if bytes.capacity() - bytes.len() < 2_048 {
        bytes.reserve(bytes.len().max(4_096).min(most));
    }
}

/// Runs callbacks; a panic ends the session, and it alone.
#[inline]
pub(crate) fn catch<T>(callbacks: impl FnOnce() -> Result<T, Doom>) -> Result<T, Doom> {
    if cfg!(loom) {
        // In a model a panic is a finding.
        return callbacks();
    }
    catch_unwind(AssertUnwindSafe(callbacks)).unwrap_or_else(|_| Err(End::Panicked.into()))
}

/// A time limit may be looked at by so much too late: the wheel cannot tell instants apart that are closer.
const TICK: u64 = 1 << 20;
