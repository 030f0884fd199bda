//! The submit side: what all threads share with one loop.
//!
//! | field       | written by                     | what it decides                                          |
//! |-------------|--------------------------------|----------------------------------------------------------|
//! | `ring`      | any thread pushes, loop pops   | the one order of foreign submissions (I2)                |
//! | `local`     | the loop's own thread only     | its submissions: no atomics, never full, behind the ring |
//! | gate        | any thread raises, loop closes | who pays for a wake-up (I4)                              |
//! | `returns`   | any thread pushes, loop drains | connections whose last handle is gone (I7)               |
//! | `in_flight` | submitters add, taker and loop subtract | whether one more is too many (I3)               |
//! | `room`      | parked submitters, loop        | who is woken when the ring has been drained              |
//!
//! A submission is pushed, then the gate is raised; the loop closes the gate, and looks again when it was raised in
//! between. Nothing here blocks but a submitter that chose to wait for room.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::error::{DelegateError, DelegateErrorKind, SubmitError, SubmitErrorKind};
use crate::event_loop::counters::{Counters, Snapshot};
use crate::handoff::{Producer, PushError, Raiser, Returns, ThreadBound, on_loop_thread};
use crate::limits::Limits;
use crate::sync::figures::{AtomicU64, AtomicUsize};
use crate::sync::{Arc, AtomicBool, AtomicU32, Condvar, Mutex, Ordering};
use crate::sys::{self, Kind, Socket, Waker};
use crate::watcher::Conn;
use crate::watcher::conn::{Addresses, Link};
use crate::watcher::lease::Pool;
use crate::watcher::op::Submission;
use crate::watcher::outcome::ListenerId;

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

    fn ops(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & ((1 << OPS_BITS) - 1)
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

/// What all handles of one loop share.
#[derive(Debug)]
pub(crate) struct Shared<C> {
    ring: Producer<Submission<C>>,
    raiser: Raiser,
    waker: Waker,
    room: Room,
    /// Deadline of an announced shutdown, written before the ring is closed.
    grace: AtomicU64,
    sessions: AtomicUsize,
    listeners: AtomicU64,
    closing: AtomicBool,
    pub(crate) local: ThreadBound<VecDeque<Submission<C>>>,
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
            closing: AtomicBool::new(false),
            local: ThreadBound::new(VecDeque::with_capacity(limits.batch)),
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
        if !self.local.is_here() {
            self.raise();
        }
    }

    pub(crate) fn submit(
        &self,
        submission: Submission<C>,
        patience: Patience,
    ) -> Result<(), (SubmitErrorKind, Submission<C>)> {
        if self.local.is_here() {
            return self.submit_local(submission);
        }
        match self.ring.push(submission) {
            Ok(()) => {}
            Err(PushError::Closed(back)) => return Err((SubmitErrorKind::Closed, back)),
            Err(PushError::Full(back)) => self.push_slow(back, patience)?,
        }
        self.raise();
        Ok(())
    }

    fn submit_local(&self, submission: Submission<C>) -> Result<(), (SubmitErrorKind, Submission<C>)> {
        if self.closing.load(Ordering::Relaxed) {
            return Err((SubmitErrorKind::Closed, submission));
        }
        let mut submission = Some(submission);
        self.local.with(|queue| queue.extend(submission.take()));
        submission.map_or(Ok(()), |back| Err((SubmitErrorKind::Full, back)))
    }

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
            self.room.waiting.swap(1, Ordering::AcqRel);
            submission = match self.ring.push(submission) {
                Ok(()) => return Ok(()),
                Err(PushError::Closed(back)) => return Err((SubmitErrorKind::Closed, back)),
                Err(PushError::Full(back)) => back,
            };
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
        self.room.notify();
    }

    /// Refuses everything new from now on; what was accepted is still dealt with.
    pub(crate) fn shut_down(&self, grace: Duration) {
        let until = sys::now().saturating_add(nanos(grace));
        // The earliest of several shutdowns counts.
        self.grace.fetch_min(until, Ordering::Relaxed);
        // Release: the loop that sees this sees the deadline, too.
        self.closing.store(true, Ordering::Release);
        self.ring.close();
        self.raise();
        self.room.notify();
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

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Set when a listener's handle is dropped.
pub(crate) type ListenerFlag = Arc<AtomicBool>;

/// A handle to a bound listener that the loop accepts from; dropping it stops accepting and closes the listener.
#[must_use = "dropping the handle stops accepting"]
pub struct Listener<C = ()> {
    shared: Arc<Shared<C>>,
    flag: ListenerFlag,
    id: ListenerId,
    address: Option<SocketAddr>,
}

impl<C> Listener<C> {
    /// Its name in [`Event::Accepted`](crate::Event::Accepted).
    #[must_use]
    pub const fn id(&self) -> ListenerId {
        self.id
    }

    /// The address it is bound to (its port, if it was bound to port 0); none for a Unix socket.
    #[must_use]
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl<C> Drop for Listener<C> {
    fn drop(&mut self) {
        // Release pairs with the loop's load: it only needs to see that the handle is gone.
        self.flag.store(true, Ordering::Release);
        self.shared.announce_drop();
    }
}

impl<C> std::fmt::Debug for Listener<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The way into one loop, from any thread: cloneable, `Send`, `Sync`.
///
/// Nothing here blocks, but a call that finds the ring full and may wait.
pub struct Submitter<C = ()>(pub(crate) Arc<Shared<C>>);

impl<C> Submitter<C> {
    /// Gives a connected stream socket to the loop, for good: TCP or Unix.
    ///
    /// It is set to non-blocking and close-on-exec; its other options stay as they are, but for a positive
    /// `SO_LINGER`, which becomes the time bound of its graceful close. The registration itself happens on the loop;
    /// should the system refuse it, each operation completes as `NotRegistered`.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
    /// let conn = submitter.delegate(std::net::TcpStream::connect("127.0.0.1:7000")?)?;
    /// # let _ = (&mut watcher, conn); Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The socket comes back if it is none that can be delegated (a file, a listener, an unconnected socket), if there
    /// are too many sessions, or if the loop is shut down.
    pub fn delegate(&self, socket: impl Into<Socket>) -> Result<Conn<C>, DelegateError> {
        let socket = socket.into();
        let fail = |kind, socket| Err(DelegateError { kind, socket });
        let found = match sys::adopt(&socket) {
            Ok(found) => found,
            Err(errno) => return fail(DelegateErrorKind::Os(errno.into()), socket),
        };
        let unix = match found.kind {
            Kind::TcpStream => false,
            Kind::UnixStream => true,
            other => return fail(DelegateErrorKind::Unsupported(why_not(other)), socket),
        };
        if !self.0.admit() {
            return fail(DelegateErrorKind::TooMany, socket);
        }
        let local = if found.peer.is_some() { sys::local_addr(&socket) } else { None };
        let conn = Conn::create(self.0.clone(), Addresses::new(found.peer, local));
        let submission = Submission::Delegate { conn: conn.clone(), socket, linger: found.linger, unix };
        match self.0.submit(submission, Patience::Forever) {
            Ok(()) => Ok(conn),
            Err((kind, Submission::Delegate { socket, .. })) => {
                self.0.left();
                conn.set_refused();
                fail(not_submitted(kind), socket)
            }
            Err(_) => unreachable!("a delegation was submitted, so a delegation was refused"),
        }
    }

    /// Gives a bound listener (TCP or Unix) to the loop: each accepted connection comes as
    /// [`Event::Accepted`](crate::Event::Accepted), until the returned handle is dropped.
    ///
    /// Accepting pauses while [`Limits::listen_credit`](crate::Limits::listen_credit) connections wait to be taken.
    /// When descriptors run out, the connection at the head of the queue is closed by means of a reserve descriptor,
    /// accepting backs off for a moment, and both are counted; the listener lives on.
    ///
    /// # Errors
    /// The socket comes back if it is not a listener, or the loop is shut down.
    pub fn listen(&self, socket: impl Into<Socket>) -> Result<Listener<C>, DelegateError> {
        let socket = socket.into();
        let fail = |kind, socket| Err(DelegateError { kind, socket });
        let found = match sys::adopt_listener(&socket) {
            Ok(found) => found,
            Err(errno) => return fail(DelegateErrorKind::Os(errno.into()), socket),
        };
        let unix = match found.kind {
            Kind::TcpListener => false,
            Kind::UnixListener => true,
            _ => {
                return fail(
                    DelegateErrorKind::Unsupported("not a listening socket: bind it and listen first"),
                    socket,
                );
            }
        };
        let address = sys::local_addr(&socket);
        let id = ListenerId(self.0.listeners.fetch_add(1, Ordering::Relaxed));
        let flag = ListenerFlag::new(AtomicBool::new(false));
        let submission = Submission::Listen { socket, flag: flag.clone(), id, unix };
        match self.0.submit(submission, Patience::Forever) {
            Ok(()) => Ok(Listener { shared: self.0.clone(), flag, id, address }),
            Err((kind, Submission::Listen { socket, .. })) => fail(not_submitted(kind), socket),
            Err(_) => unreachable!("a listener was submitted, so a listener was refused"),
        }
    }

    /// Completes at once as [`Event::Posted`](crate::Event::Posted): how to interrupt a `wait`.
    ///
    /// # Errors
    /// `Closed`, `TooMany`, and on a loop's own thread `Full`; the context comes back.
    pub fn post(&self, context: C) -> Result<(), SubmitError<C>> {
        if !self.0.in_flight.begin(0, &self.0.limits, false) {
            return Err(SubmitError { kind: SubmitErrorKind::TooMany, context, buffer: None });
        }
        self.0.submit(Submission::Post(context), Patience::Forever).map_err(|(kind, submission)| {
            self.0.in_flight.undo(0);
            match submission.refuse(kind) {
                Some(error) => error,
                None => unreachable!("a post was submitted, so a post was refused"),
            }
        })
    }

    /// Ends the loop. From now on everything is refused. Until `grace` is over, queued writes and graceful closes go
    /// on (reads stay pending); then what is left completes as `Aborted`. `wait` hands out all of it, then says
    /// `Closed`. Of several shutdowns the earliest deadline counts.
    pub fn shutdown(&self, grace: Duration) {
        self.0.shut_down(grace);
    }

    /// Operations in flight: submitted, and their completion not yet handed out. A hint, for choosing among watchers.
    #[must_use]
    pub fn load(&self) -> u64 {
        self.0.in_flight.ops()
    }

    /// What the loop has done so far. Read at any time, from any thread; the figures are of slightly different instants.
    #[must_use]
    pub fn counters(&self) -> Snapshot {
        self.0.counters.snapshot(self.0.sessions.load(Ordering::Relaxed) as u64)
    }
}

const fn not_submitted(kind: SubmitErrorKind) -> DelegateErrorKind {
    match kind {
        SubmitErrorKind::Closed => DelegateErrorKind::Closed,
        _ => DelegateErrorKind::Full,
    }
}

const fn why_not(kind: Kind) -> &'static str {
    match kind {
        Kind::TcpListener | Kind::UnixListener => "it is a listening socket: give it to `listen`",
        Kind::Datagram => "it is a datagram socket: only streams can be delegated",
        Kind::UnconnectedDatagram => "it is a datagram socket without a peer",
        Kind::UnconnectedStream => "it is a stream socket that is not connected",
        Kind::Other(what) => what,
        Kind::TcpStream | Kind::UnixStream => "it is a stream",
    }
}

impl<C> Clone for Submitter<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C> std::fmt::Debug for Submitter<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submitter").field("load", &self.load()).finish_non_exhaustive()
    }
}
