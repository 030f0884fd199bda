//! The way into a loop, for whatever its face takes: from any thread by the ring, from its own by a queue without atomics.
//!
//! | field       | written by                     | what it decides                                          |
//! |-------------|--------------------------------|----------------------------------------------------------|
//! | `ring`      | any thread pushes, loop pops   | the one order of foreign submissions (I2)                |
//! | `local`     | the loop's own thread only     | its submissions: no atomics, never full, stamped         |
//! | gate        | any thread raises, loop closes | who pays for a wake-up (I4)                              |
//! | `room`      | parked submitters, loop        | who is woken when the ring has been drained              |
//! | `grace`     | whoever shuts the loop down    | until when what was accepted goes on                     |
//!
//! A submission is pushed, then the gate is raised; the loop closes the gate, and looks again when it was raised in
//! between. Nothing here blocks but a submitter that chose to wait for room.
//!
//! The loop's end of it is the [`Intake`]: it hands out the ring in its own order, and between its items those of the
//! loop's own thread, each behind what was in the ring when it was submitted (G2).
//!
//! Models: loom-tests/turn.rs, loom-tests/lifecycle.rs. Mutants that must fail: `room_unnotified`, `room_by_store`,
//! `room_after_check`, `submit_unraised`, `shutdown_unraised`, `grace_after_close`, `registered_late`, `local_overtakes`.

use std::time::Duration;

use crate::error::SubmitErrorKind;
use crate::event_loop::counters::Counters;
use crate::event_loop::linear::{Linear, Vacant};
use crate::handoff::{Consumer, Pop, Position, Producer, PushError, Raiser, ThreadBound, on_loop_thread};
use crate::sync::figures::AtomicU64;
use crate::sync::{Arc, AtomicBool, AtomicU32, Condvar, Mutex, Ordering, mutant};
use crate::sys::{self, Waker};

/// How long a submission may wait for room in the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    None,
    For(Duration),
    Forever,
}

/// Places of the local queue at first: what one turn of typed sessions sends to its own loop, or an embedded loop's thread
/// submits behind something in the ring. It grows if that is more.
pub(crate) const LOCAL: usize = 1_024;

/// A submission of the loop's own thread, which does not go through the ring.
#[derive(Debug)]
pub(crate) struct Local<S> {
    pub(crate) submission: S,
    /// The ring's tail when it was submitted: what was pushed before goes first, what was pushed after goes later (G2).
    after: Position,
}

impl<S: Vacant> Vacant for Local<S> {
    #[inline(always)]
    fn vacant() -> Self {
        Self { submission: S::vacant(), after: Position::FIRST }
    }

    fn is_vacant(&self) -> bool {
        self.submission.is_vacant()
    }
}

/// Where submitters park while the ring is full.
///
/// One word, read-modify-writes only: a submitter that sets WAITING and then still finds the ring full has been seen
/// by the loop's next swap, which comes after the pops that make room. The mutex is held from the swap to the wait,
/// so the notification cannot fall between.
#[derive(Debug)]
struct Room {
    waiting: AtomicU32,
    lock: Mutex<()>,
    freed: Condvar,
}

impl Room {
    fn new() -> Self {
        Self { waiting: AtomicU32::new(0), lock: Mutex::new(()), freed: Condvar::new() }
    }

    fn notify(&self) {
        // AcqRel: the release half shows the freed slots to a submitter whose own swap comes later.
        if self.waiting.swap(0, Ordering::AcqRel) == 1 {
            drop(self.lock.lock());
            self.freed.notify_all();
        }
    }
}

/// What submitters share with their loop.
#[derive(Debug)]
pub(crate) struct Inbox<S> {
    ring: Producer<S>,
    raiser: Raiser,
    waker: Waker,
    room: Room,
    /// Deadline of an announced shutdown, written before the ring is closed.
    grace: AtomicU64,
    closing: AtomicBool,
    pub(crate) local: ThreadBound<Linear<Local<S>>>,
    counters: Arc<Counters>,
}

impl<S: Vacant> Inbox<S> {
    pub(crate) fn new(ring: Producer<S>, raiser: Raiser, waker: Waker, counters: Arc<Counters>) -> Self {
        Self {
            ring,
            raiser,
            waker,
            room: Room::new(),
            grace: AtomicU64::new(u64::MAX),
            closing: AtomicBool::new(false),
            local: ThreadBound::new(Linear::with_capacity(LOCAL)),
            counters,
        }
    }

    /// Makes the loop look again, paying for a wake-up only if it sleeps.
    pub(crate) fn raise(&self) {
        if self.raiser.raise() {
            self.counters.waker_writes.fetch_add(1, Ordering::Relaxed);
            self.waker.wake();
        }
    }

    pub(crate) fn drain_waker(&self) {
        self.waker.drain();
    }

    #[inline(always)]
    pub(crate) fn submit(&self, submission: S, patience: Patience) -> Result<(), (SubmitErrorKind, S)> {
        if let Some(mut queue) = self.local.enter() {
            if self.closing.load(Ordering::Relaxed) {
                return Err((SubmitErrorKind::Closed, submission));
            }
            queue.push(Local { submission, after: self.ring.tail() });
            return Ok(());
        }
        match self.ring.push(submission) {
            Ok(()) => {}
            Err(PushError::Closed(back)) => return Err((SubmitErrorKind::Closed, back)),
            Err(PushError::Full(back)) => self.push_slow(back, patience)?,
        }
        if !mutant("submit_unraised") {
            self.raise();
        }
        Ok(())
    }

    /// The same, of the loop's own thread alone, and after the end was asked for, too.
    #[cold]
    pub(crate) fn submit_inside(&self, submission: S) -> Result<(), S> {
        let Some(mut queue) = self.local.enter() else { return Err(submission) };
        queue.push(Local { submission, after: self.ring.tail() });
        Ok(())
    }

    #[cold]
    fn push_slow(&self, mut submission: S, patience: Patience) -> Result<(), (SubmitErrorKind, S)> {
        let until = match patience {
            // A loop's thread must never wait, not even for another loop: two full rings would wait for each other.
            _ if on_loop_thread() => return Err((SubmitErrorKind::Full, submission)),
            Patience::None => return Err((SubmitErrorKind::Full, submission)),
            Patience::For(time) => Some(sys::now().saturating_add(nanos(time))),
            Patience::Forever => None,
        };
        let Ok(mut guard) = self.room.lock.lock() else { return Err((SubmitErrorKind::Full, submission)) };
        loop {
            // AcqRel, and a read-modify-write: see `Room`.
            if mutant("room_by_store") {
                self.room.waiting.store(1, Ordering::Relaxed);
            } else if !mutant("room_after_check") {
                self.room.waiting.swap(1, Ordering::AcqRel);
            }
            submission = match self.ring.push(submission) {
                Ok(()) => return Ok(()),
                Err(PushError::Closed(back)) => return Err((SubmitErrorKind::Closed, back)),
                Err(PushError::Full(back)) => back,
            };
            if mutant("room_after_check") {
                self.room.waiting.swap(1, Ordering::AcqRel);
            }
            let woken = match until.map(|until| until.saturating_sub(sys::now())) {
                None => self.room.freed.wait(guard).ok(),
                Some(0) => None,
                Some(left) => {
                    self.room.freed.wait_timeout(guard, Duration::from_nanos(left)).ok().map(|(guard, _)| guard)
                }
            };
            guard = match woken {
                Some(guard) => guard,
                None => return Err((SubmitErrorKind::Full, submission)),
            };
        }
    }

    /// The loop has made room in the ring.
    pub(crate) fn made_room(&self) {
        if !mutant("room_unnotified") {
            self.room.notify();
        }
    }

    /// Refuses everything new from now on; what was accepted is still dealt with.
    pub(crate) fn shut_down(&self, grace: Duration) {
        let until = sys::now().saturating_add(nanos(grace));
        // The earliest of several shutdowns counts.
        if !mutant("grace_after_close") {
            self.grace.fetch_min(until, Ordering::Relaxed);
        }
        // Release: the loop that sees this sees the deadline, too.
        self.closing.store(true, Ordering::Release);
        self.ring.close();
        if !mutant("shutdown_unraised") {
            self.raise();
        }
        self.room.notify();
        if mutant("grace_after_close") {
            self.grace.fetch_min(until, Ordering::Relaxed);
        }
    }

    /// The deadline of a shutdown that was asked for.
    pub(crate) fn shutdown_at(&self) -> Option<u64> {
        if !self.closing.load(Ordering::Acquire) {
            return None;
        }
        Some(self.grace.load(Ordering::Relaxed))
    }

    /// Has this thread submitted something that was not taken up yet?
    pub(crate) fn has_local(&self) -> bool {
        self.local.with(|queue| !queue.is_empty()).unwrap_or(false)
    }
}

/// The loop's end of an [`Inbox`].
#[derive(Debug)]
pub(crate) struct Intake<S> {
    ring: Consumer<S>,
    /// What this thread has submitted and the ring holds up.
    local: Linear<Local<S>>,
    /// Where the ring ended when this drain began.
    seen: Position,
    popped: bool,
}

impl<S: Vacant> Intake<S> {
    pub(crate) fn new(ring: Consumer<S>) -> Self {
        let seen = ring.tail();
        Self { ring, local: Linear::with_capacity(LOCAL), seen, popped: false }
    }

    /// Is the way in open, and nothing in the ring of which this thread could know?
    #[inline(always)]
    pub(crate) fn is_idle(&self) -> bool {
        self.ring.is_idle()
    }

    /// Is there anything to drain, of any thread?
    #[inline]
    pub(crate) fn has_some(&self, inbox: &Inbox<S>) -> bool {
        !self.is_idle() || self.popped || !self.has_no_local() || inbox.has_local()
    }

    /// Begins a drain. All that is in the ring by now is handed out in it (G8): a submitter parked for room would wait
    /// for ever.
    pub(crate) fn begin(&mut self, inbox: &Inbox<S>) {
        if self.popped {
            inbox.made_room(); // A panic of the user's cut the last drain short.
        }
        inbox.local.with(|theirs| self.local.append(theirs));
        self.seen = self.ring.tail();
        self.popped = false;
    }

    /// The next submission, in the order of happens-before (G2): [`take_here`](Self::take_here) as long as there is
    /// something, or else [`next_there`](Self::next_there).
    #[inline]
    pub(crate) fn next(&mut self, relies: impl Fn(&S) -> bool) -> Option<S> {
        if self.has_here() { Some(self.take_here().submission) } else { self.next_there(relies) }
    }

    /// Is there something of this thread's, and all out that was in the ring when it was submitted?
    #[inline(always)]
    pub(crate) fn has_here(&self) -> bool {
        // Nearly always the ring is empty, and there is no need to look at each.
        let passed = |local: &Local<S>| self.ring.has_passed(self.seen) || self.ring.has_passed(local.after);
        self.local.front().is_some_and(passed) && !mutant("registered_late")
    }

    /// Takes what [`has_here`](Self::has_here).
    #[inline(always)]
    pub(crate) fn take_here(&mut self) -> Local<S> {
        self.local.take()
    }

    /// The next one of the ring, or what of this thread's need not wait for it. `relies`: must what is still in the ring
    /// go before it?
    ///
    /// A slot that is reserved but not published holds the ring up; its producer raises the gate when it is done. Until
    /// then only those wait here that rely on what is in there.
    #[inline(always)]
    pub(crate) fn next_there(&mut self, relies: impl Fn(&S) -> bool) -> Option<S> {
        if let Pop::Item(submission) = self.ring.pop_before(self.seen) {
            self.popped = true;
            return Some(submission);
        }
        if self.local.front().is_none_or(|local| relies(&local.submission) && !mutant("local_overtakes")) {
            return None;
        }
        Some(self.take_here().submission)
    }

    /// Ends a drain.
    pub(crate) fn end(&mut self, inbox: &Inbox<S>) {
        if std::mem::replace(&mut self.popped, false) {
            inbox.made_room();
        }
    }

    /// Anything that is left, in no particular order. For a loop that is at its end.
    pub(crate) fn take_any(&mut self, inbox: &Inbox<S>) -> Option<S> {
        match self.ring.pop() {
            Pop::Item(submission) => Some(submission),
            Pop::Unpublished | Pop::Empty => {
                let local = self.local.pop().or_else(|| inbox.local.with(Linear::pop).flatten())?;
                Some(local.submission)
            }
        }
    }

    /// Was the ring closed, and is all of it taken up? A slot reserved before the close is still owed to us: its producer
    /// raises the gate.
    pub(crate) fn is_finished(&self) -> bool {
        self.ring.is_finished()
    }

    /// Has everything of this thread's own been taken up?
    pub(crate) fn has_no_local(&self) -> bool {
        self.local.is_empty()
    }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(all(test, gaio_sim, not(loom)))]
#[path = "inbox_tests.rs"]
mod tests;
