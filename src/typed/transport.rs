//! Bytes of typed sessions on their way out, and the end of a connection.
//!
//! A graceful close goes through the phases of the proactor's: output, FIN, input thrown away until the peer's end, all
//! under one deadline. What is unsent when it is over makes it a reset.

use std::io::IoSlice;

use bytes::Bytes;

use crate::event_loop::Step;
use crate::event_loop::counters::count;
use crate::event_loop::inbox::nanos;
use crate::event_loop::session::{DRAINS_PER_STEP, Flags, Session, Verb};
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Armed, Timer, Timers};
use crate::sys::{self, Errno, Socket};
use crate::typed::face::{Core, Sessions, Typed, forget, leave};
use crate::typed::machine::{Bench, Doom, Fate, Machine};
use crate::typed::output::Output;
use crate::typed::protocol::{End, Protocol};
use crate::typed::step::catch;
use crate::watcher::Detached;

/// Sends what is queued; what the system does not take is, or stays, the session's backlog. `input`: what the output may
/// refer to.
pub(crate) fn flush<P: Protocol>(
    session: &mut Session<Typed<P>>,
    bench: &mut Bench<P>,
    input: &[u8],
    timers: &mut Timers,
    token: u64,
) -> Result<(), Doom> {
    flush_inline(session, bench, input, timers, token)
}

/// [`flush`], where it is called for every message.
#[inline(always)]
pub(crate) fn flush_inline<P: Protocol>(
    session: &mut Session<Typed<P>>,
    bench: &mut Bench<P>,
    input: &[u8],
    timers: &mut Timers,
    token: u64,
) -> Result<(), Doom> {
    if let Some(mut backlog) = session.state.machine.backlog.take() {
        let sent = send(session, &mut backlog, &[], timers, token);
        if backlog.queued() > 0 {
            session.state.machine.backlog = Some(backlog);
        } else {
            bench.outputs.give(backlog);
        }
        sent?;
    } else {
        let sent = send(session, &mut bench.scratch, input, timers, token);
        if bench.scratch.queued() > 0 {
            session.state.machine.backlog = Some(Box::new(bench.scratch.keep(input)));
        }
        sent?;
    }
    if session.state.machine.end_output && session.state.machine.backlog.is_none() && !session.has(Flags::SHUT) {
        session.set(Flags::SHUT);
        if let Err(errno) = sys::shutdown_write(&session.socket) {
            return Err(End::Os(errno.into()).into());
        }
    }
    Ok(())
}

#[inline(always)]
fn send<P>(
    session: &mut Session<Typed<P>>,
    output: &mut Output,
    input: &[u8],
    timers: &mut Timers,
    token: u64,
) -> Result<(), Doom> {
    while output.queued() > 0 && session.writable() {
        let verb = match output.only_run(input) {
            Some(run) => session.send(&[IoSlice::new(run)]),
            None => session.send(&output.slices(input, usize::MAX)),
        };
        match verb {
            Verb::Moved(n) => output.advance(n, input),
            Verb::Pending => break,
            Verb::Failed(Errno::NOBUFS | Errno::NOMEM) => {
                session.retry_soon(token, timers);
                break;
            }
            Verb::Failed(errno) => {
                session.set(Flags::BROKEN);
                return Err(End::Os(errno.into()).into());
            }
            Verb::Eof => unreachable!("a send has no end of stream"),
        }
    }
    Ok(())
}

impl<P: Protocol> Sessions<P> {
    /// Moves the end of a session on as far as it goes.
    pub(crate) fn advance_close(&mut self, core: &mut Core<P>, key: Key) -> Step {
        let Some(session) = core.sessions.get_mut(key) else { return Step::Idle };
        let token = key.token();
        if let Some(Fate::End(_)) = session.state.fate() {
            let Some(Fate::End(end)) = session.state.take_fate() else { return Step::Idle };
            self.end_session(core, key, &end);
            return Step::Idle;
        }
        let extra = session.state.extra.get_or_insert_default();
        if !extra.closing {
            extra.closing = true;
            let within = extra.linger.unwrap_or(self.bench.limits.close_within);
            core.timers.disarm(&mut session.state.armed);
            let until = sys::now().saturating_add(nanos(within));
            session.state.armed = core.timers.arm(until, Timer::Close(token));
        }
        if let Err(doom) = catch(|| flush(session, &mut self.bench, &[], &mut core.timers, token)) {
            if let Fate::End(end) = *doom {
                self.end_session(core, key, &end);
            }
            return Step::Idle;
        }
        if session.state.machine.backlog.is_some() {
            return Step::Idle;
        }
        if matches!(session.state.fate(), Some(Fate::Leave(_))) {
            self.leave_loop(core, key);
            return Step::Idle;
        }
        if !session.has(Flags::SHUT) {
            session.set(Flags::SHUT);
            if sys::shutdown_write(&session.socket).is_err() {
                self.end_session(core, key, &End::Closed);
                return Step::Idle;
            }
        }
        self.drain(core, key)
    }

    /// Throws input away until the peer's end, the bound, or EAGAIN.
    fn drain(&mut self, core: &mut Core<P>, key: Key) -> Step {
        let Some(session) = core.sessions.get_mut(key) else { return Step::Idle };
        for _ in 0..DRAINS_PER_STEP {
            if !session.readable() {
                return Step::Idle;
            }
            let over = match session.recv_slice(self.receive.part(0, self.receive.size())) {
                Verb::Moved(n) => {
                    let extra = session.state.extra.get_or_insert_default();
                    extra.drained += n;
                    let over = extra.drained > self.bench.limits.close_drain;
                    if over {
                        count(&self.mail.counters.closed_hard);
                    }
                    over
                }
                Verb::Pending => return Step::Idle,
                Verb::Eof | Verb::Failed(_) => true,
            };
            if over {
                self.end_session(core, key, &End::Closed);
                return Step::Idle;
            }
        }
        Step::Again
    }

    /// The time of a graceful close is over.
    pub(crate) fn close_overdue(&mut self, core: &mut Core<P>, key: Key) {
        let Some(session) = core.sessions.get_mut(key) else { return };
        session.state.armed = Armed::NONE;
        count(&self.mail.counters.expired);
        count(&self.mail.counters.closed_hard);
        let end = if session.state.machine.backlog.is_some() { End::CloseTimedOut } else { End::Closed };
        self.end_session(core, key, &end);
    }

    /// Hands a connection out of the loop: all its output is out.
    fn leave_loop(&mut self, core: &mut Core<P>, key: Key) {
        let Some(session) = core.sessions.get_mut(key) else { return };
        let Some(Fate::Leave(farewell)) = session.state.take_fate() else { return };
        let Some((socket, mut machine)) = self.take_out(core, key) else { return };
        let leftover = machine.partial.take().map_or_else(Bytes::new, |partial| partial.bytes.into());
        self.tell(&mut machine, &End::Left);
        let farewell = || farewell(Detached { socket, leftover });
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(farewell)).is_err() {
            count(&self.mail.counters.panics);
        }
    }

    /// Ends a session: its descriptor is closed, and it is told. A reason that was decided before stands.
    pub(crate) fn end_session(&mut self, core: &mut Core<P>, key: Key, end: &End) {
        let fate = core.sessions.get_mut(key).and_then(|session| session.state.take_fate());
        let (end, told) = match &fate {
            Some(Fate::End(why)) => (why, why),
            Some(Fate::CloseAs(why)) => (end, why),
            _ => (end, end),
        };
        let Some((socket, mut machine)) = self.take_out(core, key) else { return };
        let unsent = machine.backlog.as_ref().is_some_and(|backlog| backlog.queued() > 0);
        if unsent || !matches!(end, End::Closed | End::Left | End::CutShort { .. } | End::Shutdown) {
            sys::reset_on_close(&socket);
        }
        drop(socket);
        self.tell(&mut machine, told);
        self.let_go(|_| drop((machine.backlog.take(), fate)));
    }

    /// Takes a session out of the loop, with all that is kept beside it.
    pub(crate) fn take_out(&mut self, core: &mut Core<P>, key: Key) -> Option<(Socket, Machine<P>)> {
        let mut session = core.retire(key)?;
        let typed = &mut session.state;
        core.timers.disarm(&mut typed.armed);
        if let Some(mut extra) = typed.extra.take() {
            while let Some((name, _)) = extra.timers.last().copied() {
                forget(&mut self.alarms, &mut core.timers, &mut extra, name);
            }
            for group in extra.groups {
                leave(&mut self.groups, group, key.token());
            }
        }
        self.mail.left();
        let Session { socket, state, .. } = session;
        Some((socket, state.machine))
    }
}
