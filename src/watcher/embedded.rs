//! The loop in the caller's thread: one loop per core, without a hand-over in between; or inside of another loop.
//!
//! What a foreign poll must know is split in two. The selector's descriptor says what others do: an edge, or the waker,
//! since the gate is parked between turns (G4). [`EmbeddedWatcher::next_turn`] says the rest, which only this thread
//! changes: work in hand, a turn that is owed, a deadline.
//!
//! Model: loom-tests/polled.rs. Mutant that must fail: `owed_unsaid` (in `event_loop/next_turn.rs`).

use std::io;
use std::marker::PhantomData;
#[cfg(not(any(loom, gaio_sim)))]
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::error::WaitError;
use crate::event_loop::EventLoop;
use crate::event_loop::inbox::nanos;
use crate::event_loop::next_turn::NextTurn;
use crate::limits::Options;
use crate::sync::Arc;
use crate::sys::{self, Selector};
use crate::watcher::batch::{Batch, Buffer};
use crate::watcher::panics::Panics;
use crate::watcher::proactor::Proactor;
use crate::watcher::shared::Shared;
use crate::watcher::submitter::Submitter;
use crate::watcher::{Parts, assemble, buffer, checked};

/// A watcher whose loop runs on the caller's thread, in [`EmbeddedWatcher::turn`].
///
/// It stays on the thread that made it. What is submitted there is taken up at once, by the submission itself, and never
/// waits: a write is sent while the batch is still being worked through. From other threads submissions go through the
/// ring, and wake a sleeping turn.
///
/// ```
/// use std::io::{Read, Write};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let mut peer = std::net::TcpStream::connect(listener.local_addr()?)?;
///
/// let (mut watcher, submitter) = gaio::EmbeddedWatcher::new(gaio::Options::default())?;
/// let conn = submitter.delegate(listener.accept()?.0)?;
/// conn.read_pooled().submit()?;
/// peer.write_all(b"hello")?;
/// for event in watcher.turn(None)? {
///     let gaio::Event::Done { conn, outcome: gaio::Outcome::Pooled(bytes), .. } = event else { panic!() };
///     conn.write_copied(bytes).submit()?;
/// }
/// watcher.turn(None)?; // the write completes
/// let mut answer = [0; 5];
/// peer.read_exact(&mut answer)?;
/// assert_eq!(&answer, b"hello");
/// # Ok(()) }
/// ```
pub struct EmbeddedWatcher<C: Send + 'static = ()> {
    /// The batch that is being taken.
    taken: Box<Buffer<C>>,
    /// With the loop in it: see `between_turns.rs`.
    shared: Arc<Shared<C>>,
    selector: std::sync::Arc<Selector>,
    /// Not `Send`: the loop is bound to this thread.
    thread: PhantomData<*const ()>,
}

impl EmbeddedWatcher<()> {
    /// Makes a loop on this thread. For contexts of your own type there is [`EmbeddedWatcher::new_for`].
    ///
    /// # Errors
    /// Limits or a CPU that cannot work (`InvalidInput`), or no descriptors to be had.
    #[inline] // What it needs is compiled in the caller's crate, with all else that is generic, and called there directly.
    pub fn new(options: Options) -> io::Result<(Self, Submitter)> {
        Self::new_for(options)
    }
}

impl<C: Send + 'static> EmbeddedWatcher<C> {
    /// Makes a loop on this thread, for contexts of type `C`.
    ///
    /// # Errors
    /// As [`EmbeddedWatcher::new`].
    #[expect(clippy::needless_pass_by_value, reason = "options are used once; taking them reads better at the call")]
    pub fn new_for(options: Options) -> io::Result<(Self, Submitter<C>)> {
        checked(&options)?;
        if let Some(cpu) = options.cpu {
            sys::pin_current_thread(cpu)?;
        }
        let Parts { shared, event_loop } = assemble(&options, None)?;
        shared.bind();
        let selector = event_loop.core.selector.clone();
        shared.set_loop(event_loop);
        let submitter = Submitter(shared.clone());
        Ok((Self { taken: buffer(&options), shared, selector, thread: PhantomData }, submitter))
    }

    /// Takes turns until there are events, or the time is over: `None` waits for ever, zero only looks.
    ///
    /// Events left in the batch before come before all that, without a turn. The batch may be empty if there is a time
    /// limit, which is rounded up to whole milliseconds; it borrows the watcher until the next turn. Between turns nothing
    /// happens on its connections, but what this thread submits: that is begun at once, and what completes by it comes
    /// with the next turn. Other threads may submit at any time, and wake a turn that sleeps.
    ///
    /// # Panics
    /// With the panic of user code that runs in it: the `Drop` of a payload that need not come back. It runs at the end of
    /// the turn, when nothing is in hand. Whoever catches the panic finds the loop as it would be without: what has completed
    /// comes with the next turn, all else goes on.
    ///
    /// # Errors
    /// `Closed` once the loop was shut down and everything has been handed out; `LoopFailed` if the selector failed.
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<Batch<'_, C>, WaitError> {
        if self.taken.is_empty() {
            if let Some(end) = self.taken.end {
                return Err(end);
            }
            self.taken.recycle();
            let until = timeout.map(|time| sys::now().saturating_add(nanos(time)));
            let mut turn = self.shared.turn();
            let event_loop = turn.event_loop();
            if run(event_loop, until).is_err() {
                event_loop.face.fail_all(&mut event_loop.core);
            }
            event_loop.core.count_turn();
            event_loop.face.outbox.exchange(&mut self.taken);
        }
        match self.taken.end {
            Some(end) if self.taken.is_empty() => Err(end),
            _ => Ok(Batch::new(&mut self.taken)),
        }
    }

    /// What a poll of one's own may do until the next turn: for a loop inside of another. The watcher's descriptor
    /// ([`AsFd`]) is readable when there are events, or somebody else has submitted; this says what the descriptor cannot.
    /// Ask after each turn and its batch, and after submitting or dropping handles on this thread.
    ///
    /// On `WhenReadable` and `At` sleep until the descriptor is readable (or the instant has come), then take a
    /// [`turn`](Self::turn) of no time. The descriptor may be readable without need. No harm comes from a turn too many.
    ///
    /// Cost: none to speak of; no system call but the clock's, if there is a deadline.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use gaio::{EmbeddedWatcher, Event, NextTurn, Options};
    /// use rustix::event::{PollFd, PollFlags, Timespec, poll};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut watcher, submitter) = EmbeddedWatcher::<u32>::new_for(Options::default())?;
    /// submitter.timer(Duration::from_millis(5)).submit_with(0)?;
    /// let posting = std::thread::spawn(move || submitter.post(1));
    /// let mut seen = Vec::new();
    /// while seen.len() < 2 {
    ///     let sleep = match watcher.next_turn() {
    ///         NextTurn::Now => Some(Duration::ZERO),
    ///         NextTurn::At(instant) => Some(instant.saturating_duration_since(Instant::now())),
    ///         NextTurn::WhenReadable => None,
    ///     };
    ///     let sleep = sleep.map(Timespec::try_from).transpose()?;
    ///     // Beside descriptors of your own.
    ///     poll(&mut [PollFd::new(&watcher, PollFlags::IN)], sleep.as_ref())?;
    ///     for event in watcher.turn(Some(Duration::ZERO))? {
    ///         let (Event::Posted(n) | Event::Timer { context: n, .. }) = event else { panic!() };
    ///         seen.push(n);
    ///     }
    /// }
    /// seen.sort();
    /// assert_eq!(seen, [0, 1]);
    /// # posting.join().unwrap()?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn next_turn(&mut self) -> NextTurn {
        let mut turn = self.shared.turn();
        let event_loop = turn.event_loop();
        if !self.taken.is_empty() || self.taken.end.is_some() || event_loop.face.outbox.has_output() {
            return NextTurn::Now;
        }
        event_loop.next_turn()
    }

    /// Waits until the descriptor would be readable: what stands for a foreign poll on the simulated system, which has no
    /// descriptors.
    #[cfg(any(loom, gaio_sim))]
    pub fn until_readable(&self) {
        self.selector.until_readable();
    }

    /// Is the descriptor readable, on the simulated system?
    #[cfg(gaio_sim)]
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.selector.is_readable()
    }
}

/// Takes turns until there is output, or the time is over.
fn run<C>(event_loop: &mut EventLoop<Proactor<C>>, until: Option<u64>) -> io::Result<()> {
    let busy = event_loop.is_busy();
    let mut in_hand = busy || event_loop.face.outbox.has_output();
    if in_hand && !event_loop.skipped {
        // Neither what this thread has submitted needs an event nor what has come of that: the selector is left out, once.
        if busy {
            event_loop.pass();
        } else {
            event_loop.hand_out();
        }
        if event_loop.face.outbox.has_output() {
            event_loop.skipped = true;
            return Ok(());
        }
        in_hand = event_loop.is_busy();
    }
    event_loop.skipped = false;
    event_loop.face.outbox.make_room();
    loop {
        event_loop.park_for(if in_hand { Some(0) } else { until })?;
        event_loop.pass();
        if event_loop.face.outbox.has_output() || until.is_some_and(|until| until <= sys::now()) {
            return Ok(());
        }
        in_hand = event_loop.is_busy();
    }
}

/// The selector's: readable when a turn has something to do that [`EmbeddedWatcher::next_turn`] does not say. Only poll it,
/// or register it with a selector of your own, level-triggered: a turn may leave events for the next. There is none on the
/// simulated system.
#[cfg(not(any(loom, gaio_sim)))]
impl<C: Send + 'static> AsFd for EmbeddedWatcher<C> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.selector.as_fd()
    }
}

impl<C: Send + 'static> Drop for EmbeddedWatcher<C> {
    fn drop(&mut self) {
        self.shared.inbox.shut_down(Duration::ZERO);
        let panics = Panics::default();
        while panics.put_off(|| self.turn(None).map(|batch| panics.discard(batch)).is_ok()) != Some(false) {}
        if let Some(mut event_loop) = self.shared.turn().end() {
            event_loop.face.drop_last(&panics);
        }
        self.shared.unbind();
        panics.pass_on();
    }
}

impl<C: Send + 'static> std::fmt::Debug for EmbeddedWatcher<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedWatcher").finish_non_exhaustive()
    }
}
