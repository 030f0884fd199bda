//! The end of a loop of sessions: every session is told, and until the grace is over may go its own way.
//!
//! It begins when all is taken up that was sent before it was asked for, so a last word reaches sessions that are open.

use crate::event_loop::counters::count;
use crate::event_loop::timers::Timer;
use crate::sys;
use crate::typed::face::{Core, Sessions};
use crate::typed::machine::Machine;
use crate::typed::mail::{Command, Newcomer};
use crate::typed::protocol::{End, Protocol};

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    No,
    Grace(u64),
    Gone,
}

impl<P: Protocol> Sessions<P> {
    pub(crate) fn advance_ending(&mut self, core: &mut Core<P>) {
        let Some(until) = self.mail.inbox.shutdown_at() else { return };
        if self.ending == Ending::No {
            // A slot reserved before the ring was closed is still owed to us: its producer raises the gate, as whoever asks
            // for the end does.
            if !self.has_delivered_all() && sys::now() < until {
                return;
            }
            for index in 0..core.listeners.len() {
                core.remove_listener(index);
            }
            for key in core.sessions.keys() {
                let open = core.sessions.get_mut(key).is_some_and(|session| !session.state.connecting);
                if open {
                    self.callback(core, key, P::on_shutdown);
                }
            }
        }
        if self.ending != Ending::Grace(until) && !self.is_gone() {
            self.ending = Ending::Grace(until);
            core.timers.arm(until, Timer::Grace);
        }
        let over = sys::now() >= until;
        if over {
            for key in core.sessions.keys() {
                self.end_session(core, key, &End::Shutdown);
            }
        } else if !core.sessions.is_empty() || self.connects.are_due() || self.connects.are_paused() {
            return;
        }
        self.give_up_delivery();
        // Before what is left is counted: who is told of its end may have something to say.
        self.give_up_connects();
        while let Some(command) = self.intake.take_any(&self.mail.inbox) {
            match command {
                Command::Message { .. } | Command::Broadcast { .. } => count(&self.mail.counters.undelivered),
                Command::Adopt(newcomer) => {
                    self.mail.left();
                    let Newcomer { state, leftover, .. } = *newcomer;
                    self.tell(&mut Machine::new(state), &End::Shutdown);
                    self.let_go(|_| drop(leftover));
                }
                Command::Connect(connect) => self.tell(&mut Machine::new(connect.state), &End::Shutdown),
                Command::Listen { .. } | Command::Nothing => {}
            }
        }
        if self.intake.is_finished() {
            self.ending = Ending::Gone;
        }
    }
}
