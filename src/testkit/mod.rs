//! A test bench for protocols: bytes, messages and time by hand, no socket and no thread.
//!
//! A [`Bench`] drives one session as a loop does, on a clock of its own. [`fragmentations`] holds a protocol to the first
//! rule of framing: how the bytes were cut on their way must not matter. [`Wire`] lets two protocols talk to each other
//! in virtual time.
//!
//! A panic of a callback is not caught here, as a loop would: it is the test's.

mod drive;
mod fragments;
mod wire;

pub use fragments::fragmentations;
pub use wire::Wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::event_loop::inbox::nanos;
use crate::testkit::drive::{TICK, World};
use crate::typed::address::{Address, Post, SendError, SendErrorKind};
use crate::typed::expect::{Expect, Seen};
use crate::typed::limits::SessionLimits;
use crate::typed::machine::{self, Machine};
use crate::typed::output::Output;
use crate::typed::protocol::{End, Protocol};
use crate::typed::spares::Spares;

/// Messages that were sent to the session, and that it has not been handed yet; and why no more are taken, if so.
struct Letters<M>(Mutex<(Vec<M>, Option<SendErrorKind>)>);

impl<M> Letters<M> {
    fn open(&self) -> MutexGuard<'_, (Vec<M>, Option<SendErrorKind>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Send> Post<M> for Letters<M> {
    fn post(&self, _token: u64, message: M) -> Result<(), SendError<M>> {
        let (letters, refused) = &mut *self.open();
        if let Some(kind) = *refused {
            return Err(SendError { kind, message });
        }
        letters.push(message);
        Ok(())
    }
}

/// One session under test.
///
/// ```
/// use gaio::testkit::Bench;
/// use gaio::{Expect, Io, Next, Protocol};
/// use std::time::Duration;
///
/// struct Echo;
/// impl Protocol for Echo {
///     type Message = ();
///     fn expects(&self) -> Expect {
///         Expect::until(b"\n").at_most(100).within(Duration::from_secs(5))
///     }
///     fn on_frame(self, line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
///         io.write(line);
///         io.write(b"!\n");
///         Next::Become(self)
///     }
/// }
///
/// let mut bench = Bench::new(Echo);
/// bench.receive(b"one\ntw");
/// assert_eq!(bench.written(), b"one!\n");
/// bench.advance(Duration::from_secs(6)); // the second line took too long
/// assert!(matches!(bench.ended(), Some(gaio::End::TimedOut(_))));
/// ```
pub struct Bench<P: Protocol> {
    machine: Machine<P>,
    bench: machine::Bench<P>,
    letters: Arc<Letters<P::Message>>,
    world: World,
    connects: Vec<(SocketAddr, P)>,
    unix_connects: Vec<(PathBuf, P)>,
}

impl<P: Protocol> Bench<P> {
    /// Begins a session in this state: `on_open` is called.
    #[must_use]
    pub fn new(state: P) -> Self {
        Self::with(state, SessionLimits::default())
    }

    /// As [`new`](Self::new), with limits.
    #[must_use]
    pub fn with(state: P, limits: SessionLimits) -> Self {
        let letters = Arc::new(Letters(Mutex::new((Vec::new(), None))));
        let bench = machine::Bench {
            scratch: Output::default(),
            effects: Vec::new(),
            post: letters.clone(),
            spare: Spares::new(),
            outputs: Spares::new(),
            limits,
            now: 1,
        };
        let mut new = Self {
            machine: Machine::new(state),
            bench,
            letters,
            world: World::default(),
            connects: Vec::new(),
            unix_connects: Vec::new(),
        };
        let opened = new.machine.guarded(&mut new.bench, 1, P::on_open);
        new.after(opened);
        new
    }

    /// The session's state; `None` once it has ended.
    #[must_use]
    pub const fn state(&self) -> Option<&P> {
        if self.world.end.is_some() { None } else { self.machine.state() }
    }

    /// What it waits for.
    #[must_use]
    pub fn expects(&self) -> Option<Expect> {
        self.machine.expects()
    }

    /// How it has ended, if it has.
    #[must_use]
    pub const fn ended(&self) -> Option<&End> {
        self.world.end.as_ref()
    }

    /// Takes what it has written since this was last asked.
    pub fn written(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.world.written)
    }

    /// Bytes it has written that its peer has not taken; see [`block`](Self::block).
    #[must_use]
    pub fn queued(&self) -> usize {
        self.machine.queued(&self.bench)
    }

    /// Has it ended its output?
    #[must_use]
    pub const fn has_ended_output(&self) -> bool {
        self.machine.end_output
    }

    /// The connections it has opened, with their states.
    pub fn connects(&mut self) -> Vec<(SocketAddr, P)> {
        std::mem::take(&mut self.connects)
    }

    /// Those to Unix listeners.
    pub fn unix_connects(&mut self) -> Vec<(PathBuf, P)> {
        std::mem::take(&mut self.unix_connects)
    }

    /// The groups it is in.
    #[must_use]
    pub fn groups(&self) -> &[u64] {
        &self.world.groups
    }

    /// Its address. What is sent there is handed over by [`deliver`](Self::deliver).
    #[must_use]
    pub fn address(&self) -> Address<P::Message> {
        Address::new(self.letters.clone(), 1)
    }

    /// Bytes arrive, in one piece. Where the session pauses they wait.
    pub fn receive(&mut self, bytes: &[u8]) {
        if !self.is_open() || bytes.is_empty() {
            return;
        }
        if let Some(partial) = &mut self.machine.partial {
            partial.bytes.extend_from_slice(bytes);
        } else {
            self.machine.keep(&mut self.bench, bytes, Seen::default());
        }
        self.world.news = true;
        self.after(Ok(()));
    }

    /// The peer ends its output. Told behind all frames: where the session pauses, it waits.
    pub fn eof(&mut self) {
        self.world.eof = true;
        self.after(Ok(()));
    }

    /// The peer resets the connection. The session ends as [`End::Os`] when it next looks: behind the frames that have
    /// arrived, or when it writes. Where it pauses, and writes nothing, it does not look.
    pub fn reset(&mut self) {
        self.world.torn = true;
        self.after(Ok(()));
    }

    /// Input that has arrived and was not consumed: of a session that has left, what goes with the socket.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.machine.partial.as_ref().map_or(&[], |partial| &partial.bytes)
    }

    /// A message arrives.
    pub fn message(&mut self, message: P::Message) {
        if self.is_open() {
            let handed = self.machine.guarded(&mut self.bench, 1, |state, io| state.on_message(message, io));
            self.after(handed);
        }
    }

    /// Hands over the messages that were sent to its address.
    pub fn deliver(&mut self) {
        let letters = std::mem::take(&mut self.letters.open().0);
        letters.into_iter().for_each(|message| self.message(message));
    }

    /// From now on what is sent to its address comes back, for this reason: as if its loop were behind (`Full`), or at
    /// its end (`Closed`). With `None` messages are taken again.
    ///
    /// ```
    /// # use gaio::{Expect, Io, Next, Protocol, SendErrorKind};
    /// # struct Quiet;
    /// # impl Protocol for Quiet {
    /// #     type Message = &'static str;
    /// #     fn expects(&self) -> Expect { Expect::any() }
    /// #     fn on_frame(self, _: &[u8], _: &mut Io<'_, Self>) -> Next<Self> { Next::Become(self) }
    /// # }
    /// let other = gaio::testkit::Bench::new(Quiet);
    /// other.refuse_messages(Some(SendErrorKind::Full));
    /// let error = other.address().send("news").unwrap_err();
    /// assert_eq!((error.kind, error.message), (SendErrorKind::Full, "news"));
    /// other.refuse_messages(None);
    /// assert!(other.address().send("news").is_ok());
    /// ```
    pub fn refuse_messages(&self, kind: Option<SendErrorKind>) {
        self.letters.open().1 = kind;
    }

    /// The server shuts down.
    pub fn shutdown(&mut self) {
        if self.is_open() {
            let told = self.machine.guarded(&mut self.bench, 1, P::on_shutdown);
            self.after(told);
        }
    }

    /// While blocked the peer takes no output: it is queued, and the water marks count. A session that closes meanwhile
    /// has [`close_within`](SessionLimits::close_within) for what is queued, as on a loop; then that is lost, and it
    /// ends as [`End::CloseTimedOut`].
    pub fn block(&mut self, blocked: bool) {
        self.world.blocked = blocked;
        self.after(Ok(()));
    }

    /// Time passes. Timers and time limits come in their order.
    ///
    /// They come to the nanosecond, where a loop may be a millisecond late. But time goes on: what a callback here asks
    /// for anew in no time comes about a millisecond later.
    pub fn advance(&mut self, time: Duration) {
        let until = self.bench.now.saturating_add(nanos(time));
        self.world.timer_least = TICK;
        while let Some((at, which)) = self.next().filter(|(at, _)| *at <= until) {
            self.bench.now = self.bench.now.max(at);
            let called = match which {
                _ if self.world.closing.is_some() => Ok(()),
                Some(name) => {
                    self.world.timers.remove(&name);
                    self.machine.guarded(&mut self.bench, 1, |state, io| state.on_timer(name, io))
                }
                None => {
                    self.world.limit_from = self.bench.now.saturating_add(TICK);
                    self.machine.overdue(&mut self.bench, 1)
                }
            };
            self.after(called);
        }
        self.world.timer_least = 0;
        self.bench.now = self.bench.now.max(until);
    }
}

impl<P: Protocol> std::fmt::Debug for Bench<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench")
            .field("written", &self.world.written.len())
            .field("end", &self.world.end)
            .finish_non_exhaustive()
    }
}
