//! The end of a loop of sessions: every session is told, and until the grace is over may go its own way.

use crate::event_loop::counters::count;
use crate::event_loop::timers::Timer;
use crate::sys;
use crate::typed::face::{Core, Sessions};
use crate::typed::machine::Machine;
use crate::typed::mail::Command;
use crate::typed::protocol::{End, Protocol};

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    No,
    Grace(u64),
    Gone,
}

impl<P: Protocol> Sessions<P> {
    // --- the end of the loop ---

    pub(crate) fn advance_ending(&mut self, core: &mut Core<P>) {
        let Some(until) = self.mail.inbox.shutdown_at() else { return };
        if self.ending == Ending::No {
            for index in 0..core.listeners.len() {
                core.remove_listener(index);
            }
            for key in core.sessions.keys() {
                self.callback(core, key, P::on_shutdown);
            }
        }
        if self.ending != Ending::Grace(until) && !self.is_gone() {
            self.ending = Ending::Grace(until);
            core.timers.arm(until, Timer::Grace);
        }
        let over = sys::now() >= until;
        let keys = core.sessions.keys();
        if over {
            for key in keys {
                self.end_session(core, key, &End::Shutdown);
            }
        } else if !keys.is_empty() {
            return;
        }
        while let Some(command) = self.intake.take_any(&self.mail.inbox) {
            match command {
                Command::Message { .. } | Command::Broadcast { .. } => count(&self.mail.counters.undelivered),
                Command::Adopt(newcomer) => {
                    self.left();
                    Machine::new(newcomer.state).end(&End::Shutdown);
                }
                Command::Connect { state, .. } => Machine::new(*state).end(&End::Shutdown),
                Command::Listen { .. } => {}
            }
        }
        for (_, state) in std::mem::take(&mut self.connects) {
            Machine::new(state).end(&End::Shutdown);
        }
        if self.intake.is_finished() {
            self.ending = Ending::Gone;
        }
    }
}
