//! The simulated selector, waker and clock.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Errno, Readiness};
use super::config::Clock;
use super::lockstep::{self, Rest};
use super::permit::Verb;
use super::socket::Socket;
use super::state::{Descriptor, Object, State};
use super::world::{Shared, World};
use crate::sync::thread;

/// The virtual time of the calling thread's world, in nanoseconds.
pub(crate) fn now() -> u64 {
    World::current().shared.lock().clock
}

/// As far ahead of that as the instant is of the present: real time and virtual time have nothing else in common.
pub(crate) fn at(instant: Instant) -> u64 {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let present = Instant::now();
    let (ahead, over) = (instant.saturating_duration_since(present), present.saturating_duration_since(instant));
    now().saturating_add(nanos(ahead)).saturating_sub(nanos(over))
}

/// A queue of edges.
pub(crate) struct Selector {
    shared: Arc<Shared>,
    descriptor: Descriptor,
}

impl Selector {
    pub(crate) fn new() -> io::Result<Self> {
        let (shared, descriptor) = World::open(|state| state.open(Object::Selector(Default::default())))?;
        Ok(Self { shared, descriptor })
    }

    pub(crate) fn register(&self, socket: &Socket, token: u64) -> Result<(), Errno> {
        self.shared.call(|state| {
            let answer = state.register(self.descriptor, socket.descriptor, token);
            state.trace(Verb::Register, Some(socket.descriptor), answer);
            answer
        })
    }

    pub(crate) fn deregister(&self, socket: &Socket) -> Result<(), Errno> {
        self.shared.call(|state| state.deregister(self.descriptor, socket.descriptor))
    }

    /// Waits for an edge, or for the clock to reach `deadline`. For ever means for ever: under loom, a wake-up that is
    /// lost is a deadlock here, and loom reports it.
    #[allow(clippy::unnecessary_wraps, reason = "the contract")]
    pub(crate) fn wait(&self, out: &mut Vec<Readiness>, deadline: Option<u64>) -> Result<bool, Errno> {
        out.clear();
        let was_over = if lockstep::is_held() { self.wait_held(out, deadline) } else { self.wait_free(out, deadline) };
        Ok(was_over || out.is_empty())
    }

    /// Says whether the deadline was over when it began.
    fn wait_free(&self, out: &mut Vec<Readiness>, deadline: Option<u64>) -> bool {
        let mut state = self.shared.lock();
        if state.begin_wait(self.descriptor).is_err() {
            // A signal.
            self.shared.release(state);
            return false;
        }
        let was_over = state.is_over(deadline);
        let mut others_had_their_turn = false;
        loop {
            state.fetch(self.descriptor, out);
            if !out.is_empty() || state.is_over(deadline) {
                state.end_wait(self.descriptor, out);
                return was_over;
            }
            if state.deliver() {
                continue;
            }
            state.may_sleep(deadline);
            let Some(deadline) = deadline.filter(|_| state.config.clock != Clock::Manual) else {
                state = self.shared.wait_change(state);
                continue;
            };
            if others_had_their_turn {
                self.shared.advance_to(state, deadline);
                return was_over;
            }
            // The deadline may expire at any time, as between two other threads' steps: give them the lock once.
            let patient = state.config.clock == Clock::Patient && !state.config.alone;
            drop(state);
            if patient {
                thread::yield_now();
            }
            state = self.shared.lock();
            others_had_their_turn = true;
        }
    }
}

impl State {
    fn is_over(&self, deadline: Option<u64>) -> bool {
        deadline.is_some_and(|deadline| deadline <= self.clock)
    }
}

/// The wait of a loop that is held: what is asleep stands still, and time passes by the test's hand.
impl Selector {
    fn wait_held(&self, out: &mut Vec<Readiness>, deadline: Option<u64>) -> bool {
        let mut state = self.shared.lock();
        let was_over = state.is_over(deadline);
        if state.has_news(self.descriptor) || was_over {
            drop(state);
            self.shared.lockstep.stand_still(Rest::Between);
            state = self.shared.lock();
        }
        if state.begin_wait(self.descriptor).is_ok() {
            while lockstep::is_held() {
                state.fetch(self.descriptor, out);
                if !out.is_empty() || state.is_over(deadline) {
                    state.end_wait(self.descriptor, out);
                    break;
                }
                if !state.deliver() {
                    self.shared.release(state);
                    self.shared.lockstep.stand_still(Rest::Asleep(deadline.map(Duration::from_nanos)));
                    state = self.shared.lock();
                }
            }
        }
        // Let go of, it looks once more, as after a signal.
        self.shared.release(state);
        was_over
    }
}

/// What stands for the poll of a foreign loop, which has no descriptor to poll here.
impl Selector {
    /// Waits until a [`wait`](Self::wait) would not have to. Time does not pass meanwhile.
    pub(crate) fn until_readable(&self) {
        until(&self.shared, |state| match state.object(self.descriptor) {
            Object::Selector(queue) => !queue.is_empty(),
            _ => true,
        });
    }

    /// Would a wait of no time bring something?
    #[cfg(gaio_sim)]
    pub(crate) fn is_readable(&self) -> bool {
        self.shared.lock().has_news(self.descriptor)
    }
}

fn until(shared: &Shared, holds: impl Fn(&mut State) -> bool) {
    let mut state = shared.lock();
    while !holds(&mut state) {
        state = shared.wait_change(state);
    }
}

impl Drop for Selector {
    fn drop(&mut self) {
        self.shared.close(self.descriptor);
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selector").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

/// A pipe that holds one byte: a wake before the drain of the last one is no edge.
pub(crate) struct Waker {
    shared: Arc<Shared>,
    descriptor: Descriptor,
}

impl Waker {
    pub(crate) fn new(selector: &Selector, token: u64) -> io::Result<Self> {
        let shared = Arc::clone(&selector.shared);
        let descriptor = shared.call(|state| {
            let descriptor = state.open(Object::Waker { raised: false })?;
            state.register(selector.descriptor, descriptor, token)?;
            Ok::<_, Errno>(descriptor)
        })?;
        Ok(Self { shared, descriptor })
    }

    pub(crate) fn wake(&self) {
        self.shared.call(|state| {
            let Object::Waker { raised } = state.object(self.descriptor) else { return };
            if !std::mem::replace(raised, true) {
                state.raise(self.descriptor);
            }
        });
    }

    pub(crate) fn drain(&self) {
        self.shared.call(|state| {
            if let Object::Waker { raised } = state.object(self.descriptor) {
                *raised = false;
            }
        });
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.shared.close(self.descriptor);
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

/// A waker without a selector.
pub(crate) struct Bell {
    shared: Arc<Shared>,
    descriptor: Descriptor,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let (shared, descriptor) = World::open(|state| state.open(Object::Waker { raised: false }))?;
        Ok(Self { shared, descriptor })
    }

    pub(crate) fn ring(&self) {
        self.shared.call(|state| {
            if let Object::Waker { raised } = state.object(self.descriptor) {
                *raised = true;
            }
            state.stir();
        });
    }

    pub(crate) fn silence(&self) {
        self.shared.call(|state| {
            if let Object::Waker { raised } = state.object(self.descriptor) {
                *raised = false;
            }
        });
    }

    /// Waits until it is rung. Time does not pass meanwhile.
    pub(crate) fn until_readable(&self) {
        until(&self.shared, |state| matches!(state.object(self.descriptor), Object::Waker { raised: true }));
    }

    #[cfg(gaio_sim)]
    pub(crate) fn is_readable(&self) -> bool {
        matches!(self.shared.lock().object(self.descriptor), Object::Waker { raised: true })
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.shared.close(self.descriptor);
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}
