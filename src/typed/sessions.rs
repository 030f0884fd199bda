//! A loop of typed sessions in the caller's thread, and the handle that everybody else has of it.

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
#[cfg(not(any(loom, gaio_sim)))]
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{DelegateError, DelegateErrorKind, WaitError};
use crate::event_loop::counters::{Counters, Snapshot};
use crate::event_loop::inbox::{Inbox, Intake, nanos};
use crate::event_loop::next_turn::NextTurn;
use crate::event_loop::{self, EventLoop};
use crate::handoff::{gate, ring};
use crate::limits::Limits;
use crate::sys::{self, Kind, Selector, Socket, Waker};
use crate::typed::address::SendErrorKind;
use crate::typed::connecting::{Connect, To};
use crate::typed::face::{Sessions, Welcome};
use crate::typed::limits::SessionLimits;
use crate::typed::mail::{Command, Mail, Newcomer};
use crate::typed::protocol::Protocol;
use crate::watcher::why_not;

/// A loop of typed sessions that the caller turns, beside its own work: one per core, say.
///
/// It stays on the thread that made it; other threads reach it by its [`Hub`]. A [`Server`](crate::Server) is several of
/// these, each on a thread of its own.
///
/// ```
/// use std::io::{Read, Write};
/// # use gaio::{Expect, Io, Next, Protocol};
/// # struct Echo;
/// # impl Protocol for Echo {
/// #     type Message = ();
/// #     fn expects(&self) -> Expect { Expect::any() }
/// #     fn on_frame(self, bytes: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
/// #         io.write(bytes);
/// #         Next::Become(self)
/// #     }
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (mut sessions, hub) = gaio::SessionLoop::new(gaio::SessionLimits::default(), |_peer| Some(Echo))?;
/// let (ours, mut peer) = std::os::unix::net::UnixStream::pair()?;
/// hub.adopt(ours, Echo).map_err(|(error, _)| error)?;
/// peer.write_all(b"hello")?;
/// sessions.turn(None)?; // the session begins
/// sessions.turn(None)?; // and echoes
/// let mut answer = [0; 5];
/// peer.read_exact(&mut answer)?;
/// assert_eq!(&answer, b"hello");
/// # Ok(()) }
/// ```
pub struct SessionLoop<P: Protocol> {
    event_loop: EventLoop<Sessions<P>>,
    hub: Hub<P>,
    /// Not `Send`: the local queue is this thread's.
    thread: PhantomData<*const ()>,
}

/// What a loop of sessions is made of, before it is bound to its thread.
pub(crate) struct Unbound<P: Protocol> {
    event_loop: EventLoop<Sessions<P>>,
    pub(crate) hub: Hub<P>,
}

impl<P: Protocol> Unbound<P> {
    pub(crate) fn new(limits: SessionLimits, welcome: Welcome<P>, siblings: &[Hub<P>]) -> io::Result<Self> {
        limits.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let selector = Selector::new()?;
        let waker = Waker::new(&selector, event_loop::WAKER)?;
        let (producer, consumer) = ring(limits.ring_slots);
        let (raiser, keeper) = gate();
        let counters = crate::sync::Arc::new(Counters::default());
        let core_limits = Limits { accepts_per_turn: limits.accepts_per_turn, ..Limits::default() };
        let core = event_loop::Core::new(selector, core_limits, counters.clone())?;
        let inbox = Inbox::new(producer, raiser, waker, counters.clone());
        let mail = Arc::new(Mail::new(inbox, counters, limits.clone()));
        let siblings = siblings.iter().map(|hub| hub.0.clone()).collect();
        let face = Sessions::new(mail.clone(), Intake::new(consumer), limits, welcome, siblings);
        Ok(Self { event_loop: EventLoop::new(core, face, keeper), hub: Hub(mail) })
    }

    /// Binds it to this thread.
    pub(crate) fn bind(self) -> SessionLoop<P> {
        self.hub.0.inbox.local.bind();
        SessionLoop { event_loop: self.event_loop, hub: self.hub, thread: PhantomData }
    }
}

impl<P: Protocol> SessionLoop<P> {
    /// Makes a loop on this thread. `welcome` makes the session of each connection that a listener of the loop accepts,
    /// from the peer's address (none for Unix sockets); with `None` the connection is closed, and counted.
    ///
    /// # Errors
    /// Limits that cannot work (`InvalidInput`), or no descriptors to be had.
    pub fn new(
        limits: SessionLimits,
        welcome: impl FnMut(Option<SocketAddr>) -> Option<P> + Send + 'static,
    ) -> io::Result<(Self, Hub<P>)> {
        let unbound = Unbound::new(limits, Box::new(welcome), &[])?;
        let hub = unbound.hub.clone();
        Ok((unbound.bind(), hub))
    }

    /// Takes one turn: waits for something to happen, at most so long (`None`: for ever; zero only looks), and serves
    /// every session that has something to do.
    ///
    /// # Errors
    /// `Closed` once the loop was shut down and all sessions have ended; `LoopFailed` if the selector failed, and all
    /// sessions were ended by that.
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<(), WaitError> {
        if self.event_loop.face.is_gone() {
            return Err(WaitError::Closed);
        }
        let until = timeout.map(|time| sys::now().saturating_add(nanos(time)));
        if self.event_loop.park(until).is_err() {
            self.hub.shutdown(Duration::ZERO);
            self.event_loop.pass();
            return Err(WaitError::LoopFailed);
        }
        self.event_loop.pass();
        Ok(())
    }

    /// What a poll of one's own may do until the next turn: for a loop inside of another. The descriptor of this one
    /// ([`AsFd`]) is readable when there is something to do for its sessions, or somebody else has sent something; this says
    /// what the descriptor cannot. Ask after each turn, and after sending something on this thread.
    ///
    /// On `WhenReadable` and `At` sleep until the descriptor is readable (or the instant has come), then take a
    /// [`turn`](Self::turn) of no time. The descriptor may be readable without need. No harm comes from a turn too many.
    /// Once the loop is over this says `Now`, and the turn says `Closed`.
    ///
    /// Cost: none to speak of; no system call but the clock's, if there is a timer.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::time::{Duration, Instant};
    /// use gaio::NextTurn;
    /// use rustix::event::{PollFd, PollFlags, Timespec, poll};
    /// # use gaio::{Expect, Io, Next, Protocol};
    /// # struct Echo;
    /// # impl Protocol for Echo {
    /// #     type Message = ();
    /// #     fn expects(&self) -> Expect { Expect::any() }
    /// #     fn on_frame(self, bytes: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
    /// #         io.write(bytes);
    /// #         Next::Become(self)
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut sessions, hub) = gaio::SessionLoop::new(gaio::SessionLimits::default(), |_peer| Some(Echo))?;
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let address = listener.local_addr()?;
    /// hub.listen(listener)?;
    /// let client = std::thread::spawn(move || {
    ///     let mut peer = std::net::TcpStream::connect(address)?;
    ///     peer.write_all(b"hello")?;
    ///     let mut answer = [0; 5];
    ///     peer.read_exact(&mut answer)?;
    ///     hub.shutdown(Duration::from_secs(1));
    ///     Ok::<_, std::io::Error>(answer)
    /// });
    /// loop {
    ///     let sleep = match sessions.next_turn() {
    ///         NextTurn::Now => Some(Duration::ZERO),
    ///         NextTurn::At(instant) => Some(instant.saturating_duration_since(Instant::now())),
    ///         NextTurn::WhenReadable => None,
    ///     };
    ///     let sleep = sleep.map(Timespec::try_from).transpose()?;
    ///     // Beside descriptors of your own.
    ///     poll(&mut [PollFd::new(&sessions, PollFlags::IN)], sleep.as_ref())?;
    ///     if sessions.turn(Some(Duration::ZERO)).is_err() {
    ///         break; // It was shut down, and all sessions have ended.
    ///     }
    /// }
    /// assert_eq!(client.join().unwrap()?, *b"hello");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn next_turn(&mut self) -> NextTurn {
        if self.event_loop.face.is_gone() { NextTurn::Now } else { self.event_loop.next_turn() }
    }

    /// Waits until the descriptor would be readable: what stands for a foreign poll on the simulated system, which has no
    /// descriptors.
    #[cfg(any(loom, gaio_sim))]
    pub fn until_readable(&self) {
        self.event_loop.core.selector.until_readable();
    }

    /// Turns until the loop was shut down and all sessions have ended.
    ///
    /// # Errors
    /// `LoopFailed`, if the selector failed.
    pub fn run(&mut self) -> Result<(), WaitError> {
        loop {
            match self.turn(None) {
                Ok(()) => {}
                Err(WaitError::Closed) => return Ok(()),
                Err(failed) => return Err(failed),
            }
        }
    }
}

/// The selector's: readable when a turn has something to do that [`SessionLoop::next_turn`] does not say. Only poll it, or
/// register it with a selector of your own, level-triggered: a turn may leave events for the next. There is none on the
/// simulated system.
#[cfg(not(any(loom, gaio_sim)))]
impl<P: Protocol> AsFd for SessionLoop<P> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event_loop.core.selector.as_fd()
    }
}

impl<P: Protocol> Drop for SessionLoop<P> {
    /// Ends all sessions at once.
    fn drop(&mut self) {
        self.hub.shutdown(Duration::ZERO);
        while self.turn(Some(Duration::ZERO)).is_ok() {}
        self.hub.0.inbox.local.unbind();
    }
}

impl<P: Protocol> std::fmt::Debug for SessionLoop<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionLoop").finish_non_exhaustive()
    }
}

/// A handle to a loop of sessions, from any thread: `Clone`, `Send`, `Sync`. Nothing here waits.
pub struct Hub<P: Protocol>(pub(crate) Arc<Mail<P>>);

impl<P: Protocol> Hub<P> {
    /// Gives a connected stream socket to the loop, as a session in this state. Its `on_open` is called there.
    ///
    /// # Errors
    /// Socket and state come back: `Unsupported` or `Os`, if the socket is none that can be a session; `TooMany`, if
    /// the loop has as many as [`SessionLimits::sessions`] allows; `Full` or `Closed`, if it is behind or shut down.
    pub fn adopt(&self, socket: impl Into<Socket>, state: P) -> Result<(), (DelegateError, P)> {
        self.adopt_with(socket, Bytes::new(), state)
    }

    /// As [`adopt`](Self::adopt), with bytes that were read from the socket before: they come first.
    ///
    /// # Errors
    /// As [`adopt`](Self::adopt).
    pub fn adopt_with(
        &self,
        socket: impl Into<Socket>,
        leftover: impl Into<Bytes>,
        state: P,
    ) -> Result<(), (DelegateError, P)> {
        let (socket, leftover) = (socket.into(), leftover.into());
        let (unix, linger) = match sys::adopt(&socket) {
            Ok(found) if found.kind == Kind::TcpStream => (false, found.linger),
            Ok(found) if found.kind == Kind::UnixStream => (true, found.linger),
            Ok(found) => {
                let kind = DelegateErrorKind::Unsupported(why_not(found.kind));
                return Err((DelegateError { kind, socket, leftover }, state));
            }
            Err(errno) => {
                let kind = DelegateErrorKind::Os(errno.into());
                return Err((DelegateError { kind, socket, leftover }, state));
            }
        };
        if !self.0.admit() {
            return Err((DelegateError { kind: DelegateErrorKind::TooMany, socket, leftover }, state));
        }
        let newcomer = Newcomer { socket, unix, state, leftover, linger };
        self.0.send(Command::Adopt(Box::new(newcomer))).map_err(|(kind, command)| {
            self.0.left();
            let Command::Adopt(newcomer) = command else { unreachable!("a connection was sent, so one was refused") };
            let Newcomer { socket, state, leftover, .. } = *newcomer;
            (DelegateError { kind: refused(kind), socket, leftover }, state)
        })
    }

    /// Opens a connection, as a session in this state. Its `on_open` is called when it stands; if it cannot be had its
    /// `on_end` is, with the reason. No name is resolved: that would block.
    ///
    /// # Errors
    /// The state comes back, if the loop is behind or shut down.
    pub fn connect(&self, address: SocketAddr, state: P) -> Result<(), (SendErrorKind, P)> {
        self.connect_to(To::Tcp(address), state)
    }

    /// Opens a connection to the Unix listener at this path; all else as [`connect`](Self::connect) does it, and as
    /// [`Io::connect_unix`](crate::Io::connect_unix).
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_unix(&self, path: impl Into<PathBuf>, state: P) -> Result<(), (SendErrorKind, P)> {
        self.connect_to(To::Unix(path.into()), state)
    }

    fn connect_to(&self, to: To, state: P) -> Result<(), (SendErrorKind, P)> {
        let connect = Box::new(Connect::new(to, state));
        self.0.send(Command::Connect(connect)).map_err(|(kind, command)| match command {
            Command::Connect(connect) => (kind, connect.state),
            _ => unreachable!("a connect was sent, so one was refused"),
        })
    }

    /// Gives a bound listener (TCP or Unix) to the loop, until it is shut down.
    ///
    /// # Errors
    /// The socket comes back, if it is no listener, or the loop is behind or shut down.
    pub fn listen(&self, socket: impl Into<Socket>) -> Result<(), DelegateError> {
        let socket = socket.into();
        let leftover = Bytes::new();
        let (unix, linger) = match sys::adopt_listener(&socket) {
            Ok(found) if found.kind == Kind::TcpListener => (false, found.linger),
            Ok(found) if found.kind == Kind::UnixListener => (true, found.linger),
            Ok(_) => {
                let kind = DelegateErrorKind::Unsupported("not a listening socket: bind it and listen first");
                return Err(DelegateError { kind, socket, leftover });
            }
            Err(errno) => return Err(DelegateError { kind: DelegateErrorKind::Os(errno.into()), socket, leftover }),
        };
        self.0.send(Command::Listen { socket, unix, linger }).map_err(|(kind, command)| {
            let Command::Listen { socket, .. } = command else { unreachable!("a listener was sent") };
            DelegateError { kind: refused(kind), socket, leftover }
        })
    }

    /// Sends a message to all sessions of the loop that have [joined](crate::Io::join) this group: one submission, however
    /// many they are. It is cloned for each of them on the loop's thread; a panic of `clone` ends that session alone.
    ///
    /// It is for those who are members when the loop takes it up. A large group is told in several turns
    /// ([`messages_per_turn`](SessionLimits::messages_per_turn)); who leaves meanwhile is passed over.
    ///
    /// # Errors
    /// The message comes back, if the loop is behind or shut down (on its own thread: if no session is left, either).
    pub fn broadcast(&self, group: u64, message: P::Message) -> Result<(), (SendErrorKind, P::Message)>
    where
        P::Message: Clone,
    {
        let command = Command::Broadcast { group, message, copy: P::Message::clone };
        self.0.send(command).map_err(|(kind, command)| match command {
            Command::Broadcast { message, .. } => (kind, message),
            _ => unreachable!("a broadcast was sent, so one was refused"),
        })
    }

    /// Ends the loop: it accepts no more, and tells every session by `on_shutdown`, after the messages that were sent
    /// before. What has not closed when the grace is over is ended, as [`End::Shutdown`](crate::End::Shutdown).
    pub fn shutdown(&self, grace: Duration) {
        self.0.inbox.shut_down(grace);
    }

    /// Sessions there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.0.load()
    }

    /// What the loop has done so far.
    #[must_use]
    pub fn counters(&self) -> Snapshot {
        self.0.counters.snapshot(self.sessions() as u64)
    }
}

const fn refused(kind: SendErrorKind) -> DelegateErrorKind {
    match kind {
        SendErrorKind::Closed => DelegateErrorKind::Closed,
        SendErrorKind::Full => DelegateErrorKind::Full,
    }
}

impl<P: Protocol> Clone for Hub<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Protocol> std::fmt::Debug for Hub<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("sessions", &self.sessions()).finish_non_exhaustive()
    }
}

#[cfg(all(test, gaio_sim, not(loom)))]
#[path = "sessions_tests.rs"]
mod tests;
