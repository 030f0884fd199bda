//! Timers of the user's: operations without a connection.
//!
//! A timer waits in a store of the loop's until its deadline expires, it is cancelled, or the loop ends; taking it out
//! is the only way to complete it (G1). Only those that were given a name can be cancelled, and only they are looked
//! up by it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::error::{OpError, SubmitError, SubmitErrorKind};
use crate::event_loop::arena::Arena;
use crate::event_loop::inbox::{Patience, nanos};
use crate::event_loop::timers::{Armed, Timer, Timers};
use crate::sync::Ordering;
use crate::sys;
use crate::watcher::batch::Item;
use crate::watcher::op::TimerId;
use crate::watcher::outbox::Outbox;
use crate::watcher::shared::Shared;
use crate::watcher::submission::Submission;
use crate::watcher::submitter::Submitter;

/// A timer that has not been submitted yet; of [`Submitter::timer`].
#[must_use = "nothing happens until it is submitted"]
#[derive(Debug)]
pub struct NewTimer<'s, C> {
    shared: &'s Shared<C>,
    at: u64,
    id: u64,
}

impl<C> Submitter<C> {
    /// A completion in so long a time, as [`Event::Timer`](crate::Event::Timer).
    ///
    /// Never early, and late by about a millisecond at least: see [`Op::within`](crate::Op::within). It counts as an
    /// operation in flight. Cost: as a submission; a few stores to arm and to disarm, however many there are.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut watcher, submitter) = gaio::Watcher::<&str>::spawn_for(gaio::Options::default())?;
    /// submitter.timer(Duration::from_millis(5)).submit_with("tick")?;
    /// let (other, id) = submitter.timer(Duration::from_secs(3600)).named();
    /// other.submit_with("never")?;
    /// submitter.cancel_timer(id)?;
    /// let mut seen = Vec::new();
    /// while seen.len() < 2 {
    ///     for event in watcher.wait()? {
    ///         let gaio::Event::Timer { context, result } = event else { panic!() };
    ///         seen.push((context, result.is_ok()));
    ///     }
    /// }
    /// assert_eq!(seen, [("never", false), ("tick", true)]);
    /// # Ok(()) }
    /// ```
    pub fn timer(&self, time: Duration) -> NewTimer<'_, C> {
        NewTimer { shared: &self.0, at: sys::now().saturating_add(nanos(time)), id: 0 }
    }

    /// As [`timer`](Self::timer), at an instant; one in the past completes at once.
    pub fn timer_at(&self, instant: Instant) -> NewTimer<'_, C> {
        NewTimer { shared: &self.0, at: sys::at(instant), id: 0 }
    }

    /// Cancels a timer that was [named](NewTimer::named): it completes as [`OpError::Cancelled`], unless it has completed
    /// already; a cancel that finds nothing is counted.
    ///
    /// # Errors
    /// `Closed`, and on the thread of another loop `Full`.
    pub fn cancel_timer(&self, id: TimerId) -> Result<(), SubmitErrorKind> {
        self.0.submit(Submission::CancelTimer { id: id.0 }, Patience::Forever).map_err(|(kind, _)| kind)
    }
}

impl<C> NewTimer<'_, C> {
    /// Gives it a name, to cancel it by.
    pub fn named(mut self) -> (Self, TimerId) {
        self.id = self.shared.timers.fetch_add(1, Ordering::Relaxed) + 1;
        let id = TimerId(self.id);
        (self, id)
    }

    /// Hands it to the loop, with the context that its completion will carry.
    ///
    /// # Errors
    /// `Closed`, `TooMany`, and on the thread of another loop `Full`; the context comes back.
    pub fn submit_with(self, context: C) -> Result<(), SubmitError<C>> {
        let Self { shared, at, id } = self;
        shared.submit_unbound(Submission::Timer { context, at, id })
    }

    /// [`submit_with`](Self::submit_with) a default context.
    ///
    /// # Errors
    /// As [`submit_with`](Self::submit_with).
    pub fn submit(self) -> Result<(), SubmitError<C>>
    where
        C: Default,
    {
        self.submit_with(C::default())
    }
}

#[derive(Debug)]
struct Alarm<C> {
    context: C,
    id: u64,
    armed: Armed,
}

/// The timers that one loop has taken up and not completed yet.
#[derive(Debug)]
pub(crate) struct Alarms<C> {
    store: Arena<Alarm<C>>,
    named: HashMap<u64, u32>,
}

impl<C> Alarms<C> {
    pub(crate) fn new() -> Self {
        Self { store: Arena::default(), named: HashMap::new() }
    }

    pub(crate) fn start(&mut self, timers: &mut Timers, context: C, at: u64, id: u64) {
        let index = self.store.insert(|| Alarm { context, id, armed: Armed::NONE });
        if id != 0 {
            self.named.insert(id, index);
        }
        if let Some(alarm) = self.store.get_mut(index) {
            alarm.armed = timers.arm(at, Timer::Alarm(index));
        }
    }

    fn end(&mut self, index: u32, outbox: &mut Outbox<C>, result: Result<(), OpError>) {
        let Some(Alarm { context, id, .. }) = self.store.remove(index) else { return };
        if id != 0 {
            self.named.remove(&id);
        }
        outbox.filling().push(Item::Timer { context, result });
    }

    /// The time of this one has come; it is no longer armed.
    pub(crate) fn expired(&mut self, index: u32, outbox: &mut Outbox<C>) {
        self.end(index, outbox, Ok(()));
    }

    /// Cancels a timer; `false` if there is none of that name.
    pub(crate) fn cancel(&mut self, id: u64, timers: &mut Timers, outbox: &mut Outbox<C>) -> bool {
        let Some(index) = self.named.get(&id).copied() else { return false };
        self.disarm(index, timers);
        self.end(index, outbox, Err(OpError::Cancelled));
        true
    }

    fn disarm(&mut self, index: u32, timers: &mut Timers) {
        if let Some(alarm) = self.store.get_mut(index) {
            timers.disarm(&mut alarm.armed);
        }
    }

    /// Completes all as failed. O(the most there ever were).
    pub(crate) fn end_all(&mut self, timers: &mut Timers, outbox: &mut Outbox<C>, error: impl Fn() -> OpError) {
        for index in self.store.indices() {
            self.disarm(index, timers);
            self.end(index, outbox, Err(error()));
        }
    }
}
