//! The submit side, as users hold it: give connections and listeners to a loop, end it, look at it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{DelegateError, DelegateErrorKind, SubmitError, SubmitErrorKind};
use crate::event_loop::counters::Snapshot;
use crate::event_loop::inbox::Patience;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::sys::{self, Kind, Socket, StreamOptions};
use crate::watcher::Conn;
use crate::watcher::link::Addresses;
use crate::watcher::outcome::ListenerId;
use crate::watcher::shared::{ListenerFlag, Shared};
use crate::watcher::submission::Submission;

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
        // On the loop's thread, too: it looks at the flags of all listeners only where the gate was raised.
        self.shared.inbox.raise();
    }
}

impl<C> std::fmt::Debug for Listener<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The way into one loop, from any thread: cloneable, `Send`, `Sync`.
///
/// Nothing here blocks, but a call that finds the ring full and may wait. On the thread of an embedded loop what is
/// submitted between two turns is begun within the call.
pub struct Submitter<C = ()>(pub(crate) Arc<Shared<C>>);

impl<C> Submitter<C> {
    /// Gives a connected socket to the loop, for good: a TCP or Unix stream, connected UDP, or a Unix datagram socket with
    /// a peer (see [`Conn`](crate::Conn#datagrams)).
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
    /// are too many sessions, if the loop is shut down, or, on the thread of another loop, if the ring is full.
    pub fn delegate(&self, socket: impl Into<Socket>) -> Result<Conn<C>, DelegateError> {
        self.delegate_with(socket, Bytes::new())
    }

    /// As [`delegate`](Self::delegate), with bytes that were read from the socket before (during a handshake, say): reads
    /// get them first. Of streams only: with a datagram socket there must be none.
    ///
    /// ```
    /// # use std::os::unix::net::UnixStream;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
    /// # let (ours, _peer) = UnixStream::pair()?;
    /// let conn = submitter.delegate_with(ours, &b"read too far"[..])?;
    /// conn.read_exact(Vec::new(), 4).submit()?;
    /// let event = watcher.wait()?.next();
    /// assert!(matches!(event, Some(gaio::Event::Done { outcome: gaio::Outcome::Read(bytes), .. }) if bytes == b"read"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`delegate`](Self::delegate).
    pub fn delegate_with(
        &self,
        socket: impl Into<Socket>,
        leftover: impl Into<Bytes>,
    ) -> Result<Conn<C>, DelegateError> {
        let (socket, leftover) = (socket.into(), leftover.into());
        let fail = |kind, socket, leftover| Err(DelegateError { kind, socket, leftover });
        let found = match sys::adopt(&socket) {
            Ok(found) => found,
            Err(errno) => return fail(DelegateErrorKind::Os(errno.into()), socket, leftover),
        };
        let unix = match found.kind {
            Kind::Datagram if !leftover.is_empty() => {
                let why = "it is a datagram socket: what it has sent before cannot be put in front of it again";
                return fail(DelegateErrorKind::Unsupported(why), socket, leftover);
            }
            Kind::TcpStream | Kind::Datagram => false,
            Kind::UnixStream => true,
            other => return fail(DelegateErrorKind::Unsupported(why_not(other)), socket, leftover),
        };
        if !self.0.admit() {
            return fail(DelegateErrorKind::TooMany, socket, leftover);
        }
        let local = if found.peer.is_some() { sys::local_addr(&socket) } else { None };
        let create = if found.kind == Kind::Datagram { Conn::of_datagrams } else { Conn::create };
        let conn = create(self.0.clone(), Addresses::new(found.peer, local));
        let submission =
            Submission::Delegate { conn: conn.clone(), socket, linger: seconds(found.linger), unix, leftover };
        match self.0.submit(submission, Patience::Forever) {
            Ok(()) => Ok(conn),
            Err((kind, Submission::Delegate { socket, leftover, .. })) => {
                self.0.left();
                conn.link().set_refused();
                fail(not_submitted(kind), socket, leftover)
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
    /// The socket comes back if it is not a listener, if the loop is shut down, or, on the thread of another loop, if the
    /// ring is full.
    pub fn listen(&self, socket: impl Into<Socket>) -> Result<Listener<C>, DelegateError> {
        let socket = socket.into();
        let fail = |kind, socket| Err(DelegateError { kind, socket, leftover: Bytes::new() });
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
        self.hand_over(socket, unix, seconds(found.linger), None).map_err(|(kind, socket)| DelegateError {
            kind,
            socket,
            leftover: Bytes::new(),
        })
    }

    /// Hands a listener to the loop. `buffers`: what each connection that it accepts is to be given.
    pub(crate) fn hand_over(
        &self,
        socket: Socket,
        unix: bool,
        linger: u16,
        buffers: Option<Box<StreamOptions>>,
    ) -> Result<Listener<C>, (DelegateErrorKind, Socket)> {
        let address = sys::local_addr(&socket);
        let id = ListenerId(self.0.listeners.fetch_add(1, Ordering::Relaxed));
        let flag = ListenerFlag::new(AtomicBool::new(false));
        let submission = Submission::Listen { socket, flag: flag.clone(), id, linger, unix, buffers };
        match self.0.submit(submission, Patience::Forever) {
            Ok(()) => Ok(Listener { shared: self.0.clone(), flag, id, address }),
            Err((kind, Submission::Listen { socket, .. })) => Err((not_submitted(kind), socket)),
            Err(_) => unreachable!("a listener was submitted, so a listener was refused"),
        }
    }

    /// Completes at once as [`Event::Posted`](crate::Event::Posted): how to interrupt a `wait`.
    ///
    /// # Errors
    /// `Closed`, `TooMany`, and on the thread of another loop `Full`; the context comes back.
    pub fn post(&self, context: C) -> Result<(), SubmitError<C>> {
        self.0.submit_unbound(Submission::Post(context))
    }

    /// Ends the loop. From now on everything is refused. Queued writes and graceful closes go on until they are done, or
    /// `grace` is over; then what is left completes as `Aborted`. The grace is theirs alone: with nothing to write the loop
    /// ends at once, whatever reads, timers or connects are pending. `wait` hands out all of it, then says `Closed`. Of
    /// several shutdowns the earliest deadline counts.
    pub fn shutdown(&self, grace: Duration) {
        self.0.inbox.shut_down(grace);
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

/// A positive linger, as sessions keep it: 0 is none.
fn seconds(linger: Option<Duration>) -> u16 {
    linger.map_or(0, |time| u16::try_from(time.as_secs().max(1)).unwrap_or(u16::MAX))
}

const fn not_submitted(kind: SubmitErrorKind) -> DelegateErrorKind {
    match kind {
        SubmitErrorKind::Closed => DelegateErrorKind::Closed,
        _ => DelegateErrorKind::Full,
    }
}

pub(crate) const fn why_not(kind: Kind) -> &'static str {
    match kind {
        Kind::TcpListener | Kind::UnixListener => "it is a listening socket: give it to `listen`",
        Kind::UnconnectedDatagram => "it is a datagram socket without a peer: connect it first",
        Kind::UnconnectedStream => "it is a stream socket that is not connected",
        Kind::Other(what) => what,
        Kind::Datagram => "it is a datagram socket: only a watcher takes those",
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
