//! The end of the loop: shutdown, and what a panic in user code leaves.
//!
//! ```text
//!   No ──shutdown──► Grace ──all written, or time is up──► Last ──last batch handed over──► Gone
//!    └────panic──►  Failing  ──everything has failed─────────▲
//! ```
//!
//! Model: loom-tests/lifecycle.rs. Mutant that must fail: `ended_early`.

use std::time::Duration;

use crate::error::{OpError, WaitError};
use crate::event_loop::timers::Timer;
use crate::sync::mutant;
use crate::sys;
use crate::watcher::batch::Item;
use crate::watcher::body::Body;
use crate::watcher::proactor::{Core, Proactor};
use crate::watcher::submission::Submission;

/// How far the loop's end has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    No,
    /// Shutdown was asked for; queued writes and closes go on until then.
    Grace(u64),
    /// User code has panicked; what is still to come out of the ring fails, too.
    Failing,
    /// Everything is completed; the last batch waits to be handed over.
    Last,
    Gone,
}

impl<C> Proactor<C> {
    /// Moves the end on: begins it when asked to; aborts what is left when nothing is being written or time is up.
    #[inline]
    pub(crate) fn advance_ending(&mut self, core: &mut Core) {
        if self.ending != Ending::No || self.shared.inbox.shutdown_at().is_some() {
            self.end_further(core);
        }
    }

    #[cold]
    fn end_further(&mut self, core: &mut Core) {
        match self.ending {
            Ending::Last | Ending::Gone => return,
            Ending::Failing => return self.advance_failing(core),
            Ending::No | Ending::Grace(_) => {}
        }
        let Some(until) = self.shared.inbox.shutdown_at() else { return };
        if self.ending != Ending::Grace(until) {
            self.ending = Ending::Grace(until);
            core.timers.arm(until, Timer::Grace);
        }
        // A slot reserved before the ring was closed is still owed to us: its producer raises the gate. So is what the drop of
        // a payload has submitted in this turn, before it was refused anything: the next turn does not wait.
        let ring_in = self.intake.is_finished() || mutant("ended_early");
        let all_in = ring_in && self.intake.has_no_local() && !self.shared.inbox.has_local();
        let nothing_to_write = self.writes == 0 && self.closing.is_empty();
        if all_in && (nothing_to_write || sys::now() >= until) {
            for key in core.sessions.keys() {
                self.spare_the_tail(core, key);
            }
            self.abort_all(core, |_| OpError::Aborted);
            self.finish(WaitError::Closed);
        }
    }

    /// Ends every listener and session; what is pending completes with that error.
    fn abort_all(&mut self, core: &mut Core, error: impl Fn(&Body) -> OpError) {
        for index in 0..core.listeners.len() {
            self.end_listener(core, index, None);
        }
        self.fail_connects(core, || error(&Body::Readable));
        for key in core.sessions.keys() {
            self.end_session(core, key, &error);
        }
        self.alarms.end_all(&mut core.timers, &mut self.outbox, || error(&Body::Readable));
    }

    fn finish(&mut self, reason: WaitError) {
        // Nobody is here any more to take handles in: blocks that come home from now on are freed where they are dropped.
        drop(self.shared.returns.close());
        self.outbox.filling().end = Some(reason);
        self.ending = Ending::Last;
    }

    /// Ends the loop after a panic, or an error of the selector: everything that can still be completed is completed as
    /// failed. Drops nothing of the user's.
    pub(crate) fn fail_all(&mut self, core: &mut Core) {
        if matches!(self.ending, Ending::Last | Ending::Gone) {
            return;
        }
        self.shared.inbox.shut_down(Duration::ZERO);
        self.ending = Ending::Failing;
        self.advance_failing(core);
    }

    fn advance_failing(&mut self, core: &mut Core) {
        self.abort_all(core, |_| OpError::LoopFailed);
        while let Some(submission) = self.intake.take_any(&self.shared.inbox) {
            match submission {
                Submission::Op(op) => self.fail_new(op, OpError::LoopFailed),
                Submission::Nothing
                | Submission::Cancel { .. }
                | Submission::CancelTimer { .. }
                | Submission::CancelConnect { .. } => {}
                Submission::Connect(connect) => {
                    self.start_connect(core, connect);
                    self.fail_connects(core, || OpError::LoopFailed);
                }
                Submission::Timer { context, .. } => {
                    self.outbox.filling().push(Item::Timer { context, result: Err(OpError::LoopFailed) });
                }
                Submission::Post(context) => self.outbox.filling().push(Item::Posted(context)),
                Submission::Listen { id: listener, .. } => {
                    self.outbox.filling().push(Item::ListenerEnded { listener, error: None });
                }
                Submission::Delegate { conn, leftover, .. } => {
                    self.spent.push(leftover);
                    conn.link().set_refused();
                    self.shared.left();
                }
            }
        }
        // As for a shutdown: what was reserved before the ring was closed is still owed.
        if self.intake.is_finished() {
            self.finish(WaitError::LoopFailed);
        }
    }
}
