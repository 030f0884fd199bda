//! The first face: a watcher waits for completions, submitters and connections hand in operations.
//!
//! ```text
//!  submitter.rs, conn.rs ──► shared.rs ──► proactor.rs ──► flow.rs       bytes (datagrams.rs: messages)
//!    op.rs ─► submission.rs: what travels   queue.rs  ├──► accepting.rs, connecting.rs: connections
//!    lease.rs, pool.rs: buffers                 │     ├──► closing.rs    ends of connections
//!                                               ▼     └──► ending.rs     end of the loop
//!  Watcher, EmbeddedWatcher ◄── batch.rs ◄── outbox.rs
//!                               outcome.rs: what comes back
//! ```

use std::io;
use std::time::Duration;

use crate::error::WaitError;
use crate::event_loop::{self, EventLoop};
use crate::handoff::{Publisher, Taken, Taker, gate, mailbox, ring};
use crate::limits::Options;
use crate::sync::{Arc, mutant, thread};
use crate::sys::{self, Bell, Selector, Waker};

mod accepting;
mod alarm;
pub(crate) mod aligned;
mod batch;
mod between_turns;
mod body;
mod borrowed;
mod bounds;
mod closing;
mod conn;
mod connect;
mod connecting;
mod datagrams;
mod driving;
mod embedded;
mod ending;
mod flow;
mod giving_up;
mod lease;
mod leftover;
mod link;
mod listening;
mod live;
mod op;
mod outbox;
mod outcome;
mod panics;
mod pollable;
mod pool;
mod proactor;
mod queue;
mod sending;
mod shared;
mod spent;
mod starting;
mod starving;
mod submission;
mod submitter;
mod turn;

pub use alarm::NewTimer;
pub use batch::Batch;
pub use conn::Conn;
pub use connect::{ConnectId, Destination, NewConnect};
pub use embedded::EmbeddedWatcher;
pub use lease::Lease;
pub use op::{Op, OpId, Single, Spendable, TimerId, Write};
pub use outcome::{Copied, Detached, Event, Failure, Half, ListenerId, Outcome, Payload};
pub use pollable::Pollable;
pub(crate) use submitter::why_not;
pub use submitter::{Listener, Submitter};

use batch::Buffer;
use event_loop::counters::Counters;
use event_loop::inbox::{Inbox, nanos};
use outbox::Outbox;
use panics::Panics;
use proactor::Proactor;
use shared::Shared;

/// The user's end of a loop that has a thread of its own: completions come out of here, in batches.
///
/// The loop's thread works beside the one that waits. Where there is one processor for both, the one that waits takes the
/// loop's turns itself, and the thread only steps in for it: see [`Driver`](crate::Driver).
///
/// One thread waits at a time (`&mut self`), but the watcher may move between threads. Dropping it aborts everything,
/// joins the loop thread, and drops the completions that were not taken, each buffer and context once. That drop waits
/// for the loop, which has no reason to take long.
///
/// ```
/// use std::io::{Read, Write};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let mut peer = std::net::TcpStream::connect(listener.local_addr()?)?;
///
/// let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
/// let conn = submitter.delegate(listener.accept()?.0)?;
/// conn.read(Vec::with_capacity(64)).submit()?;
/// peer.write_all(b"hello")?;
/// for event in watcher.wait()? {
///     let gaio::Event::Done { conn, outcome: gaio::Outcome::Read(bytes), .. } = event else { panic!() };
///     conn.write(bytes).submit()?;
/// }
/// let mut answer = [0; 5];
/// peer.read_exact(&mut answer)?;
/// assert_eq!(&answer, b"hello");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Watcher<C: Send + 'static = ()> {
    taker: Taker<Box<Buffer<C>>>,
    shared: Arc<Shared<C>>,
    thread: Option<thread::JoinHandle<()>>,
    /// What a poll elsewhere waits for, if one does.
    bell: Option<Arc<Bell>>,
    /// It drives the loop itself, in its waits.
    drives: bool,
}

impl Watcher<()> {
    /// Starts a loop thread. For contexts of your own type there is [`Watcher::spawn_for`].
    ///
    /// # Errors
    /// Limits, a CPU or a name that cannot work (`InvalidInput`), or no descriptors or thread to be had.
    #[inline] // As `EmbeddedWatcher::new`.
    pub fn spawn(options: Options) -> io::Result<(Self, Submitter)> {
        Self::spawn_for(options)
    }
}

/// Everything of a loop that is the same for both drives.
struct Parts<C> {
    shared: Arc<Shared<C>>,
    event_loop: EventLoop<Proactor<C>>,
}

fn assemble<C>(options: &Options, publisher: Option<Publisher<Box<Buffer<C>>>>) -> io::Result<Parts<C>> {
    let limits = options.limits.clone();
    let selector = Selector::new()?;
    let waker = Waker::new(&selector, event_loop::WAKER)?;
    let (producer, consumer) = ring(limits.ring_slots);
    let (raiser, keeper) = gate();
    let counters = Arc::new(Counters::default());
    let core = event_loop::Core::new(selector, limits.clone(), counters.clone())?;
    let shared = Arc::new(Shared::new(limits, Inbox::new(producer, raiser, waker, counters.clone()), counters));
    let outbox = Outbox::new(buffer(options), publisher, &core.limits, shared.clone());
    let face = Proactor::new(shared.clone(), consumer, outbox);
    Ok(Parts { shared, event_loop: EventLoop::new(core, face, keeper) })
}

fn checked(options: &Options) -> io::Result<()> {
    options.limits.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

fn buffer<C>(options: &Options) -> Box<Buffer<C>> {
    Buffer::new(options.limits.batch, options.limits.ops_per_turn as usize, options.limits.arena)
}

impl<C: Send + 'static> Watcher<C> {
    /// Starts a loop thread for contexts of type `C`: a value of yours that comes back with each completion.
    ///
    /// Small ones travel best: the context is part of each slot of the ring, and of each pending operation.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut watcher, submitter) = gaio::Watcher::<String>::spawn_for(gaio::Options::default())?;
    /// submitter.post("hello".into())?;
    /// for event in watcher.wait()? {
    ///     assert!(matches!(event, gaio::Event::Posted(text) if text == "hello"));
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Watcher::spawn`].
    #[expect(clippy::needless_pass_by_value, reason = "options are used once; taking them reads better at the call")]
    pub fn spawn_for(options: Options) -> io::Result<(Self, Submitter<C>)> {
        checked(&options)?;
        if options.name.as_ref().is_some_and(|name| name.contains('\0')) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a thread's name has no NUL in it"));
        }
        let drives = options.consumer_drives()?;
        let (publisher, taker) = mailbox(Buffer::none(), buffer(&options), buffer(&options));
        let Parts { shared, event_loop } = assemble(&options, Some(publisher))?;
        shared.place(event_loop);
        let thread = start(&options, shared.clone()).inspect_err(|_| shared.displace())?;
        let submitter = Submitter(shared.clone());
        Ok((Self { taker, shared, thread: Some(thread), bell: None, drives }, submitter))
    }

    /// Waits for completions: parks until there is a batch, and borrows it until the next wait.
    ///
    /// Events left in the batch before come first. Another thread can end the wait by
    /// [`Submitter::post`] or [`Submitter::shutdown`]. The loop goes on, whether anyone waits or not: on its thread, or in
    /// this call, if it is the consumer who drives ([`Driver`](crate::Driver)).
    ///
    /// Cost: a load and a swap if a batch is there; otherwise a park, which the loop's next publish ends, or the turns
    /// themselves.
    ///
    /// # Errors
    /// `Closed` once the loop was shut down and everything has been handed out; `LoopFailed` likewise after a panic.
    pub fn wait(&mut self) -> Result<Batch<'_, C>, WaitError> {
        self.fetch(None)?;
        Ok(Batch::new(self.taker.taken()))
    }

    /// What is there now; an empty batch if there is nothing. A consumer that drives takes a turn to see.
    ///
    /// # Errors
    /// As [`Watcher::wait`].
    pub fn try_wait(&mut self) -> Result<Batch<'_, C>, WaitError> {
        self.fetch(Some(Duration::ZERO))?;
        Ok(Batch::new(self.taker.taken()))
    }

    /// Waits at most that long; an empty batch if nothing came.
    ///
    /// # Errors
    /// As [`Watcher::wait`].
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Batch<'_, C>, WaitError> {
        self.fetch(Some(timeout))?;
        Ok(Batch::new(self.taker.taken()))
    }

    /// Sees to it that there is something in the taken buffer, or that nothing came within `time` (`None` is for ever).
    fn fetch(&mut self, time: Option<Duration>) -> Result<(), WaitError> {
        loop {
            let taken = self.taker.taken();
            if !taken.is_empty() {
                return Ok(());
            }
            if let Some(end) = taken.end {
                return Err(end);
            }
            taken.recycle();
            self.silence(!mutant("silenced_late"));
            let Taken::Batch { more } = self.take(time) else {
                self.silence(mutant("silenced_late"));
                return Ok(());
            };
            if more && !mutant("residue_unraised") {
                // The loop keeps a residue that found the cell full.
                self.shared.inbox.raise();
            }
            self.taker.taken().settle(&self.shared, 0);
            self.ring_at_the_end();
        }
    }

    fn take(&mut self, time: Option<Duration>) -> Taken {
        match time {
            _ if self.drives => self.drive_and_take(time),
            None => Taken::Batch { more: self.taker.take() },
            Some(Duration::ZERO) => self.taker.try_take(),
            Some(time) => self.taker.take_timeout(time),
        }
    }

    /// Takes what is there, or else turns until there is something, or the time is over.
    fn drive_and_take(&mut self, time: Option<Duration>) -> Taken {
        let taken = self.taker.try_take();
        if taken != Taken::Nothing {
            return taken;
        }
        let until = time.map(|time| sys::now().saturating_add(nanos(time)));
        let Some(mut driving) = self.shared.drive_inside(time) else { return self.taker.try_take() };
        let mut over = false;
        loop {
            // Before the first turn, too: the loop's thread may have handed something over in the meantime.
            let taken = self.taker.try_take();
            if taken != Taken::Nothing || over {
                return taken;
            }
            driving.turn(until);
            over = until.is_some_and(|until| until <= sys::now());
        }
    }
}

impl<C: Send + 'static> Watcher<C> {
    /// Dropped on its own loop's thread, within a payload's drop: there nobody can wait for the loop. Another thread does.
    #[cold]
    fn drop_elsewhere(&mut self) {
        let (_, unused) = mailbox(Buffer::none(), Buffer::none(), Buffer::none());
        let taker = std::mem::replace(&mut self.taker, unused);
        let (thread, bell) = (self.thread.take(), self.bell.take());
        let watcher = Self { taker, shared: self.shared.clone(), thread, bell, drives: self.drives };
        self.shared.inbox.shut_down(Duration::ZERO);
        let (hand, handed) = std::sync::mpsc::channel();
        let body = sys::carry(move || drop(handed.recv()));
        if thread::Builder::new().name(String::from("gaio-drop")).spawn(body).is_err() {
            return std::mem::forget(watcher); // Without a thread to be had a loop is leaked, asleep, not hung up.
        }
        // The receiver waits for it; and is there, since only it ends the thread.
        let _ = hand.send(watcher);
    }
}

impl<C: Send + 'static> Drop for Watcher<C> {
    fn drop(&mut self) {
        if self.shared.inbox.local.is_here() {
            return self.drop_elsewhere();
        }
        self.shared.inbox.shut_down(Duration::ZERO);
        // The loop ends when its last batch is taken.
        let panics = Panics::default();
        while let Ok(batch) = self.wait() {
            panics.discard(batch);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        panics.pass_on();
    }
}

/// Starts the loop thread, and waits for it only to learn whether it could be pinned.
fn start<C: Send + 'static>(options: &Options, shared: Arc<Shared<C>>) -> io::Result<thread::JoinHandle<()>> {
    let name = options.name.clone().unwrap_or_else(|| String::from("gaio"));
    let builder = thread::Builder::new().name(name);
    let Some(cpu) = options.cpu else { return builder.spawn(sys::carry(move || shared.run())) };
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    let thread = builder.spawn(sys::carry(move || {
        let pinned = sys::pin_current_thread(cpu);
        let go = pinned.is_ok();
        let _ = answer.send(pinned);
        if go {
            shared.run();
        }
    }))?;
    answered.recv().map_err(|_| io::Error::other("the loop thread ended before it began"))??;
    Ok(thread)
}
