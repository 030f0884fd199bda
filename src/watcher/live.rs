//! Limits that change while the loop runs.
//!
//! What submitters look at at each submission has a word of its own, read as relaxed as before; all else goes the way of
//! `event_loop/changing.rs`. Each figure is a bound of its own, so nobody minds that one is new already while the next is not.

use crate::event_loop::changing::Changing;
use crate::limits::{Limits, LimitsError};
use crate::sync::Ordering;
use crate::sync::figures::{AtomicU32, AtomicU64, AtomicUsize};
use crate::watcher::proactor::{Core, Proactor};
use crate::watcher::submitter::Submitter;

#[derive(Debug)]
pub(crate) struct Live {
    ops: AtomicUsize,
    ops_per_conn: AtomicU32,
    sessions: AtomicUsize,
    write_bytes: AtomicU64,
    changing: Changing<Limits>,
}

impl Live {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            ops: AtomicUsize::new(limits.ops),
            ops_per_conn: AtomicU32::new(limits.ops_per_conn),
            sessions: AtomicUsize::new(limits.sessions),
            write_bytes: AtomicU64::new(limits.write_bytes),
            changing: Changing::new(limits),
        }
    }

    #[inline]
    pub(crate) fn ops(&self) -> usize {
        self.ops.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn ops_per_conn(&self) -> u32 {
        self.ops_per_conn.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn write_bytes(&self) -> u64 {
        self.write_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn whole(&self) -> Limits {
        self.changing.whole()
    }

    fn set(&self, limits: Limits) -> Result<(), LimitsError> {
        limits.check()?;
        self.changing.set(limits, |limits, built| {
            limits.keeps_what_is_fixed(built)?;
            self.ops.store(limits.ops, Ordering::Relaxed);
            self.ops_per_conn.store(limits.ops_per_conn, Ordering::Relaxed);
            self.sessions.store(limits.sessions, Ordering::Relaxed);
            self.write_bytes.store(limits.write_bytes, Ordering::Relaxed);
            Ok(())
        })
    }
}

impl<C> Proactor<C> {
    /// Takes up limits that were changed since the last turn.
    #[inline]
    pub(crate) fn renew_limits(&mut self, core: &mut Core) {
        if let Some(limits) = self.shared.limits.changing.changed(&mut self.limits_seen) {
            self.set_limits(core, limits);
        }
    }

    #[cold]
    fn set_limits(&mut self, core: &mut Core, limits: Limits) {
        self.outbox.set_limits(&limits);
        if limits.read_cap != self.limits.read_cap {
            self.stash.set_large(limits.read_cap);
        }
        core.limits = limits.clone();
        self.limits = limits;
    }
}

impl<C> Submitter<C> {
    /// Changes the limits of a loop that runs, from any thread. Which of them can be changed says [`Limits`].
    ///
    /// What submissions are held against counts when this returns; everything else from the loop's next turn on, which
    /// this asks for. A lower limit ends nothing that is there: what is new is refused, or waits, until there is less. A
    /// higher one lets go on at once what waited for it. Of two changes at a time the later one counts, whole: to change
    /// one limit, change those of [`Submitter::limits`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (_watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
    /// let mut limits = submitter.limits();
    /// limits.ops = 2;
    /// submitter.set_limits(limits.clone())?;
    /// submitter.post(())?;
    /// submitter.post(())?;
    /// assert_eq!(submitter.post(()).unwrap_err().kind, gaio::SubmitErrorKind::TooMany);
    ///
    /// limits.arena = 1; // three of them are allocated already
    /// let refused = submitter.set_limits(limits).unwrap_err();
    /// assert_eq!((refused.limit(), refused.is_fixed()), ("arena", true));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The first limit that is outside its range, or differs from what the loop was built with although it is fixed.
    /// Then nothing has changed.
    pub fn set_limits(&self, limits: Limits) -> Result<(), LimitsError> {
        self.0.limits.set(limits)?;
        self.0.inbox.raise();
        Ok(())
    }

    /// The limits as they were set last.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.0.limits.whole()
    }
}
