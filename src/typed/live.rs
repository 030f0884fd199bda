//! Limits of typed sessions that change while the loop runs.
//!
//! They go the way of `event_loop/changing.rs`. The number of sessions is looked at by whoever gives a connection, so it has a
//! word of its own.

use crate::event_loop::changing::Changing;
use crate::limits::LimitsError;
use crate::sync::Ordering;
use crate::sync::figures::AtomicUsize;
use crate::typed::face::{Core, Sessions};
use crate::typed::limits::SessionLimits;
use crate::typed::protocol::Protocol;
use crate::typed::sessions::Hub;
use crate::watcher::aligned::Aligned;

#[derive(Debug)]
pub(crate) struct Live {
    sessions: AtomicUsize,
    changing: Changing<SessionLimits>,
}

impl Live {
    pub(crate) fn new(limits: SessionLimits) -> Self {
        Self { sessions: AtomicUsize::new(limits.sessions), changing: Changing::new(limits) }
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    fn set(&self, limits: SessionLimits) -> Result<(), LimitsError> {
        limits.check()?;
        self.changing.set(limits, |limits, built| {
            limits.keeps_what_is_fixed(built)?;
            self.sessions.store(limits.sessions, Ordering::Relaxed);
            Ok(())
        })
    }
}

impl<P: Protocol> Sessions<P> {
    /// Takes up limits that were changed since the last turn.
    #[inline]
    pub(crate) fn renew_limits(&mut self, core: &mut Core<P>) {
        let Some(limits) = self.mail.limits.changing.changed(&mut self.limits_seen) else { return };
        if limits.receive != self.bench.limits.receive {
            self.receive = Aligned::new(limits.receive);
        }
        core.limits.accepts_per_turn = limits.accepts_per_turn;
        self.bench.limits = limits;
    }
}

impl<P: Protocol> Hub<P> {
    /// Changes the limits of the loop while it runs, all but [`ring_slots`](SessionLimits::ring_slots).
    ///
    /// The number of sessions counts when this returns, everything else from the loop's next turn on, which this asks for. A
    /// lower limit ends nothing that is there: output above a lower cap, say, ends its session only when it writes again. Time
    /// that runs already is not changed. Of two changes at a time the later one counts, whole: to change one limit, change
    /// those of [`Hub::limits`].
    ///
    /// ```
    /// # use gaio::{Expect, Io, Next, Protocol};
    /// # #[derive(Debug)]
    /// # struct Quiet;
    /// # impl Protocol for Quiet {
    /// #     type Message = ();
    /// #     fn expects(&self) -> Expect { Expect::any() }
    /// #     fn on_frame(self, _: &[u8], _: &mut Io<'_, Self>) -> Next<Self> { Next::Become(self) }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sessions, hub) = gaio::SessionLoop::new(gaio::SessionLimits::default(), |_peer| Some(Quiet))?;
    /// let mut limits = hub.limits();
    /// limits.sessions = 1;
    /// hub.set_limits(limits.clone())?;
    /// let (one, _peer) = std::os::unix::net::UnixStream::pair()?;
    /// let (two, _other) = std::os::unix::net::UnixStream::pair()?;
    /// assert!(hub.adopt(one, Quiet).is_ok());
    /// let (refused, Quiet) = hub.adopt(two, Quiet).unwrap_err();
    /// assert!(matches!(refused.kind, gaio::DelegateErrorKind::TooMany));
    ///
    /// limits.ring_slots = 2; // it is there already
    /// let refused = hub.set_limits(limits).unwrap_err();
    /// assert_eq!((refused.limit(), refused.is_fixed()), ("ring_slots", true));
    /// # drop(sessions);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The first limit that is outside its range, or fixed and another than the loop was built with. Then nothing has
    /// changed.
    pub fn set_limits(&self, limits: SessionLimits) -> Result<(), LimitsError> {
        self.0.limits.set(limits)?;
        self.0.inbox.raise();
        Ok(())
    }

    /// The limits as they were set last.
    #[must_use]
    pub fn limits(&self) -> SessionLimits {
        self.0.limits.changing.whole()
    }
}
