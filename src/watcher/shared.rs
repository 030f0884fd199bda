//! What all threads share with one loop.
//!
//! | field       | written by                     | what it decides                                          |
//! |-------------|--------------------------------|----------------------------------------------------------|
//! | `inbox`     | submitters; the loop's intake  | the order of submissions, and who wakes the loop         |
//! | `between_turns` | the embedded loop's thread | whether it takes a submission up at once                 |
//! | `place`     | a spawned loop's thread, the consumer | who drives, and the same as above                 |
//! | `returns`   | any thread pushes, loop drains | connections whose last handle is gone (I7)               |
//! | `in_flight` | submitters add, taker and loop subtract | whether one more is too many (I3)               |
//!
//! Nothing here blocks but a submitter that chose to wait for room.
//!
//! Models: loom-tests/turn.rs, loom-tests/lifecycle.rs. Mutants that must fail: `drop_unannounced`.

use crate::error::{SubmitError, SubmitErrorKind};
use crate::event_loop::counters::Counters;
use crate::event_loop::inbox::{Inbox, Patience};
use crate::handoff::{Returns, ThreadBound};
use crate::limits::Limits;
use crate::sync::figures::{AtomicU64, AtomicUsize};
use crate::sync::{Arc, AtomicBool, Ordering, mutant};
use crate::watcher::between_turns::BetweenTurns;
use crate::watcher::driving::Place;
use crate::watcher::link::Link;
use crate::watcher::live::Live;
use crate::watcher::pool::Pool;
use crate::watcher::submission::Submission;

/// Operations and queued bytes in one word: bytes above, operations in the low 24 bits.
#[derive(Debug)]
pub(crate) struct InFlight(AtomicU64);

const OPS_BITS: u32 = 24;
/// No limit lets operations come near the width of their field; endings may go up to here.
const OPS_HARD: u64 = (1 << OPS_BITS) - (1 << 16);

impl InFlight {
    #[inline]
    pub(crate) fn begin(&self, bytes: usize, limits: &Live, ending: bool) -> bool {
        let weight = (bytes as u64) << OPS_BITS | 1;
        let before = self.0.fetch_add(weight, Ordering::Relaxed);
        let most = if ending { OPS_HARD } else { limits.ops() as u64 };
        let (ops, queued) = (before & ((1 << OPS_BITS) - 1), before >> OPS_BITS);
        let fits = ops < most && (bytes == 0 || queued < limits.write_bytes()) && (bytes as u64) < 1 << 39;
        if !fits {
            self.0.fetch_sub(weight, Ordering::Relaxed);
        }
        fits
    }

    pub(crate) fn undo(&self, bytes: usize) {
        self.0.fetch_sub((bytes as u64) << OPS_BITS | 1, Ordering::Relaxed);
    }

    /// The completions of `ops` operations are being handed out, and the loop is done with `bytes` of payload.
    #[inline]
    pub(crate) fn end(&self, ops: u32, bytes: u64) {
        let weight = bytes << OPS_BITS | u64::from(ops);
        if weight > 0 {
            self.0.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    /// The loop is done with `bytes` of payload.
    pub(crate) fn written(&self, bytes: u64) {
        self.end(0, bytes);
    }

    pub(crate) fn ops(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & ((1 << OPS_BITS) - 1)
    }
}

/// What all handles of one loop share.
#[derive(Debug)]
pub(crate) struct Shared<C> {
    /// The way in.
    pub(crate) inbox: Inbox<Submission<C>>,
    /// The loop, of an embedded watcher.
    pub(crate) between_turns: ThreadBound<BetweenTurns<C>>,
    /// The loop, of one that has a thread.
    pub(crate) place: Place<C>,
    pub(crate) sessions: AtomicUsize,
    pub(crate) listeners: AtomicU64,
    /// Names of timers and of connects.
    pub(crate) timers: AtomicU64,
    pub(crate) returns: Returns<Link<C>>,
    pub(crate) in_flight: InFlight,
    pub(crate) limits: Live,
    pub(crate) pool: Arc<Pool>,
    pub(crate) counters: Arc<Counters>,
}

impl<C> AsRef<Returns<Link<C>>> for Shared<C> {
    fn as_ref(&self) -> &Returns<Link<C>> {
        &self.returns
    }
}

impl<C> Shared<C> {
    pub(crate) fn new(limits: Limits, inbox: Inbox<Submission<C>>, counters: Arc<Counters>) -> Self {
        Self {
            inbox,
            between_turns: ThreadBound::new(BetweenTurns::NONE),
            place: Place::new(),
            sessions: AtomicUsize::new(0),
            listeners: AtomicU64::new(0),
            timers: AtomicU64::new(0),
            returns: Returns::new(),
            in_flight: InFlight(AtomicU64::new(0)),
            pool: Arc::new(Pool::new(limits.read_cap)),
            counters,
            limits: Live::new(limits),
        }
    }

    /// This thread is the loop's, until [`unbind`](Self::unbind).
    pub(crate) fn bind(&self) {
        self.inbox.local.bind();
        self.between_turns.bind();
        self.pool.bind();
    }

    pub(crate) fn unbind(&self) {
        self.pool.unbind();
        self.between_turns.unbind();
        self.inbox.local.unbind();
    }

    /// A last handle was dropped. On the loop's thread nobody needs waking: it looks before it parks.
    pub(crate) fn announce_drop(&self) {
        if !self.inbox.local.is_here() && !self.place.is_at_rest_here() && !mutant("drop_unannounced") {
            self.inbox.raise();
        }
    }

    /// Submits what belongs to no connection and has a context.
    pub(crate) fn submit_unbound(&self, submission: Submission<C>) -> Result<(), SubmitError<C>> {
        if !self.in_flight.begin(0, &self.limits, false) {
            return Err(refused(submission, SubmitErrorKind::TooMany));
        }
        self.submit(submission, Patience::Forever).map_err(|(kind, submission)| self.take_back(0, kind, submission))
    }

    /// Takes a refused operation (or post) apart, for the error that gives it back.
    #[cold]
    pub(crate) fn take_back(&self, bytes: usize, kind: SubmitErrorKind, submission: Submission<C>) -> SubmitError<C> {
        self.in_flight.undo(bytes);
        refused(submission, kind)
    }

    /// Takes a place for a session, if there is one.
    pub(crate) fn admit(&self) -> bool {
        let before = self.sessions.fetch_add(1, Ordering::Relaxed);
        let fits = before < self.limits.sessions();
        if !fits {
            self.left();
        }
        fits
    }

    /// Is there a place for a session, now?
    pub(crate) fn has_place(&self) -> bool {
        self.sessions.load(Ordering::Relaxed) < self.limits.sessions()
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

/// Set when a listener's handle is dropped.
pub(crate) type ListenerFlag = Arc<AtomicBool>;
