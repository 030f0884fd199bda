//! Commands on their way from the inbox to the sessions, within a budget of callbacks per turn.
//!
//! ```text
//!   inbox ──► take up ──► message ──► callback
//!                └─ broadcast ──► fan: its members, one after the other ──► callback
//! ```
//!
//! A broadcast goes to those who are members when it is taken up, and still are when it reaches them. Where the budget ends, be it in the middle of a fan, the turn
//! goes on to serve sessions; what is left, and all behind it, waits for the next turn in its order (G2, G8). So a ring whose loop
//! is kept busy by messages fills up, and says so to those who send.

use crate::event_loop::counters::{add, count};
use crate::event_loop::listener::{Listening, Phase};
use crate::event_loop::slab::Key;
use crate::typed::face::{Core, Sessions};
use crate::typed::mail::Command;
use crate::typed::protocol::Protocol;

/// A broadcast that is being handed out.
struct Fan<M> {
    group: u64,
    message: M,
    copy: fn(&M) -> M,
    /// Members that have had it.
    done: usize,
    /// It goes on in another turn than it began in: who was a member may have left since.
    resumed: bool,
}

/// What is left to do of the commands that were taken up.
pub(crate) struct Delivery<M> {
    fan: Option<Fan<M>>,
    /// Of the fan; the memory is kept for the next.
    members: Vec<u64>,
    /// The last turn's budget did not suffice.
    behind: bool,
    /// A shutdown had been asked for when this turn began to take up what was sent.
    asked_to_end: bool,
}

impl<M> Default for Delivery<M> {
    fn default() -> Self {
        Self { fan: None, members: Vec::new(), behind: false, asked_to_end: false }
    }
}

impl<M> Delivery<M> {
    /// There is more to do, and nobody will announce it.
    pub(crate) const fn is_behind(&self) -> bool {
        self.behind
    }
}

impl<P: Protocol> Sessions<P> {
    pub(crate) fn deliver(&mut self, core: &mut Core<P>) {
        let mut budget = self.bench.limits.messages_per_turn;
        self.delivery.asked_to_end = self.mail.inbox.shutdown_at().is_some();
        self.fan_out(core, &mut budget);
        self.intake.begin(&self.mail.inbox);
        while budget > 0 {
            let Some(command) = self.intake.next(|_| false) else { break };
            self.take_up(core, command, &mut budget);
        }
        self.intake.end(&self.mail.inbox);
        self.delivery.behind = budget == 0;
    }

    /// Everything that was sent before the shutdown was asked for has been handed over, and all that others had reserved.
    pub(crate) fn has_delivered_all(&self) -> bool {
        let Delivery { fan, asked_to_end, .. } = &self.delivery;
        *asked_to_end && fan.is_none() && self.intake.is_finished() && self.intake.has_no_local()
    }

    /// The members whom a broadcast has not reached have all ended.
    pub(crate) fn give_up_delivery(&mut self) {
        if let Some(fan) = self.delivery.fan.take() {
            add(&self.mail.counters.undelivered, (self.delivery.members.len() - fan.done) as u64);
        }
        self.delivery.behind = false;
    }

    fn take_up(&mut self, core: &mut Core<P>, command: Command<P>, budget: &mut u32) {
        match command {
            Command::Nothing => {}
            Command::Message { token, message } => {
                *budget -= 1;
                self.message(core, token, || message);
            }
            Command::Broadcast { group, message, copy } => {
                self.delivery.members.clear();
                self.delivery.members.extend(self.groups.get(&group).into_iter().flatten());
                self.delivery.fan = Some(Fan { group, message, copy, done: 0, resumed: false });
                self.fan_out(core, budget);
            }
            Command::Adopt(newcomer) => self.take_in(core, *newcomer, false),
            Command::Connect(connect) => self.start_connect(*connect),
            Command::Listen { socket, unix, linger } => {
                let listening = Listening { socket, phase: Phase::Ready, unix, tag: linger };
                if core.add_listener(listening).is_err() {
                    count(&self.mail.counters.accept_errors);
                }
            }
        }
    }

    fn fan_out(&mut self, core: &mut Core<P>, budget: &mut u32) {
        let Some(mut fan) = self.delivery.fan.take() else { return };
        while let Some(token) = self.delivery.members.get(fan.done).copied() {
            if *budget == 0 {
                fan.resumed = true;
                self.delivery.fan = Some(fan);
                return;
            }
            if fan.resumed && !self.groups.get(&fan.group).is_some_and(|members| members.contains(&token)) {
                fan.done += 1;
                continue;
            }
            *budget -= 1;
            fan.done += 1;
            self.message(core, token, || (fan.copy)(&fan.message));
        }
    }

    /// `message` is called within the callback: a copy that panics is the end of that session alone.
    fn message(&mut self, core: &mut Core<P>, token: u64, message: impl FnOnce() -> P::Message) {
        let mut told = false;
        self.callback(core, Key::from_token(token), |state, io| {
            let message = message();
            told = true;
            state.on_message(message, io)
        });
        count(if told { &self.mail.counters.messages } else { &self.mail.counters.undelivered });
    }
}
