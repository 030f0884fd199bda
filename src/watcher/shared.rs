//! What all threads share with one loop.
//!
//! | field       | written by                     | what it decides                                          |
//! |-------------|--------------------------------|----------------------------------------------------------|
//! | `ring`      | any thread pushes, loop pops   | the one order of foreign submissions (I2)                |
//! | `local`     | the loop's own thread only     | its submissions: no atomics, never full, stamped         |
//! | gate        | any thread raises, loop closes | who pays for a wake-up (I4)                              |
//! | `returns`   | any thread pushes, loop drains | connections whose last handle is gone (I7)               |
//! | `in_flight` | submitters add, taker and loop subtract | whether one more is too many (I3)               |
//! | `room`      | parked submitters, loop        | who is woken when the ring has been drained              |
//!
//! A submission is pushed, then the gate is raised; the loop closes the gate, and looks again when it was raised in
//! between. Nothing here blocks but a submitter that chose to wait for room.
//!
//! Models: loom-tests/turn.rs, loom-tests/lifecycle.rs. Mutants that must fail: `room_unnotified`, `room_by_store`,
//! `room_after_check`, `submit_unraised`, `drop_unannounced`, `shutdown_unraised`, `grace_after_close`.

use std::collections::VecDeque;
use std::time::Duration;

use crate::error::{SubmitError, SubmitErrorKind};
use crate::event_loop::counters::Counters;
use crate::handoff::{Producer, PushError, Raiser, Returns, ThreadBound, on_loop_thread};
use crate::limits::Limits;
use crate::sync::figures::{AtomicU64, AtomicUsize};
use crate::sync::{Arc, AtomicBool, AtomicU32, Condvar, Mutex, Ordering, mutant};
use crate::sys::{self, Waker};
use crate::watcher::lease::Pool;
use crate::watcher::link::Link;
use crate::watcher::op::{Local, Submission};

/// How long a submission may wait for room in the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    None,
    For(Duration),
    Forever,
}

/// Operations and queued bytes in one word: bytes above, operations in the low 24 bits.
#[derive(Debug)]
pub(crate) struct InFlight(AtomicU64);

const OPS_BITS: u32 = 24;
/// No limit lets operations come near the width of their field; endings may go up to here.
const OPS_HARD: u64 = (1 << OPS_BITS) - (1 << 16);

impl InFlight {
    #[inline]
    pub(crate) fn begin(&self, bytes: usize, limits: &Limits, ending: bool) -> bool {
        let weight = (bytes as u64) << OPS_BITS | 1;
        let before = self.0.fetch_add(weight, Ordering::Relaxed);
        let most = if ending { OPS_HARD } else { limits.ops as u64 };
        let (ops, queued) = (before & ((1 << OPS_BITS) - 1), before >> OPS_BITS);
        let fits = ops < most && (bytes == 0 || queued < limits.write_bytes) && (bytes as u64) < 1 << 39;
        if !fits {
            self.0.fetch_sub(weight, Ordering::Relaxed);
        }
        fits
    }

    pub(crate) fn undo(&self, bytes: usize) {
        self.0.fetch_sub((bytes as u64) << OPS_BITS | 1, Ordering::Relaxed);
    }

    /// The completions of `ops` operations are being handed out.
    pub(crate) fn taken(&self, ops: u32) {
        if ops > 0 {
            self.0.fetch_sub(ops.into(), Ordering::Relaxed);
        }
    }

    /// The loop is done with `bytes` of payload.
    pub(crate) fn written(&self, bytes: u64) {
        if bytes > 0 {
            self.0.fetch_sub(bytes << OPS_BITS, Ordering::Relaxed);
        }
    }

    pub(crate) fn ops(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & ((1 << OPS_BITS) - 1)
    }
}

/// Places of the local queue at first: what one turn of an embedded loop submits. It grows if that is more.
pub(crate) const LOCAL: usize = 1_024;

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

/// What all handles of one loop share.
#[derive(Debug)]
pub(crate) struct Shared<C> {
    ring: Producer<Submission<C>>,
    raiser: Raiser,
    waker: Waker,
    room: Room,
    /// Deadline of an announced shutdown, written before the ring is closed.
    grace: AtomicU64,
    pub(crate) sessions: AtomicUsize,
    pub(crate) listeners: AtomicU64,
    /// Timers that were given a name.
    pub(crate) timers: AtomicU64,
    closing: AtomicBool,
    pub(crate) local: ThreadBound<VecDeque<Local<C>>>,
    pub(crate) returns: Returns<Link<C>>,
    pub(crate) in_flight: InFlight,
    pub(crate) limits: Limits,
    pub(crate) pool: Arc<Pool>,
    pub(crate) counters: Arc<Counters>,
}

impl<C> AsRef<Returns<Link<C>>> for Shared<C> {
    fn as_ref(&self) -> &Returns<Link<C>> {
        &self.returns
    }
}

impl<C> Shared<C> {
    pub(crate) fn new(
        limits: Limits,
        ring: Producer<Submission<C>>,
        raiser: Raiser,
        waker: Waker,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            ring,
            raiser,
            waker,
            room: Room::new(),
            grace: AtomicU64::new(u64::MAX),
            sessions: AtomicUsize::new(0),
            listeners: AtomicU64::new(0),
            timers: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            local: ThreadBound::new(VecDeque::with_capacity(LOCAL)),
            returns: Returns::new(),
            in_flight: InFlight(AtomicU64::new(0)),
            pool: Arc::new(Pool::new(limits.read_cap)),
            counters,
            limits,
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

    /// A last handle was dropped. On the loop's thread nobody needs waking: it looks before it parks.
    pub(crate) fn announce_drop(&self) {
        if !self.local.is_here() && !mutant("drop_unannounced") {
            self.raise();
        }
    }

    #[inline(always)]
    pub(crate) fn submit(
        &self,
        submission: Submission<C>,
        patience: Patience,
    ) -> Result<(), (SubmitErrorKind, Submission<C>)> {
        let local = self.local.pass(submission, |queue, submission| {
            if self.closing.load(Ordering::Relaxed) {
                return Err((SubmitErrorKind::Closed, submission));
            }
            queue.push_back(Local { submission, after: self.ring.tail() });
            Ok(())
        });
        let submission = match local {
            Ok(done) => return done,
            Err(foreign) => foreign,
        };
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

    /// Submits what belongs to no connection and has a context.
    pub(crate) fn submit_unbound(&self, submission: Submission<C>) -> Result<(), SubmitError<C>> {
        if !self.in_flight.begin(0, &self.limits, false) {
            return Err(refused(submission, SubmitErrorKind::TooMany));
        }
        self.submit(submission, Patience::Forever).map_err(|(kind, submission)| self.take_back(0, kind, submission))
    }

    #[cold]
    fn push_slow(
        &self,
        mut submission: Submission<C>,
        patience: Patience,
    ) -> Result<(), (SubmitErrorKind, Submission<C>)> {
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

    /// Takes a refused operation (or post) apart, for the error that gives it back.
    #[cold]
    pub(crate) fn take_back(&self, bytes: usize, kind: SubmitErrorKind, submission: Submission<C>) -> SubmitError<C> {
        self.in_flight.undo(bytes);
        refused(submission, kind)
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

    /// Takes a place for a session, if there is one.
    pub(crate) fn admit(&self) -> bool {
        let before = self.sessions.fetch_add(1, Ordering::Relaxed);
        let fits = before < self.limits.sessions;
        if !fits {
            self.left();
        }
        fits
    }

    /// Gives a session's place back.
    pub(crate) fn left(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

fn refused<C>(submission: Submission<C>, kind: SubmitErrorKind) -> SubmitError<C> {
    match submission.refuse(kind) {
        Some(error) => error,
        None => unreachable!("only what carries a context is taken back"),
    }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Set when a listener's handle is dropped.
pub(crate) type ListenerFlag = Arc<AtomicBool>;
