//! The operating system, behind one contract.
//!
//! Nothing above this module names an OS. A backend is chosen by cfg, never at run time, so that a call costs what
//! the syscall costs: the simulated system in a build with `cfg(loom)` or `cfg(gaio_sim)`, epoll otherwise. The waker
//! is chosen apart from the selector: an eventfd, or a pipe with `cfg(gaio_pipe_waker)`.
//!
//! # The contract: what every backend supplies
//!
//! | name | what it promises |
//! |---|---|
//! | `Socket` | one owned descriptor, closed by its drop |
//! | `now()`, `at(instant)` | monotonic nanoseconds; of one instant a real system says the same whenever one asks |
//! | `carry` | wraps the body of a thread to be spawned, so that a simulated world goes with it |
//! | `Selector::register` | once per socket, for everything, edge-triggered; the current state is the first edge |
//! | `Selector::deregister` | before the close; no later `wait` hands out the token |
//! | `Selector::wait` | empties `out`, fills it with up to [`MAX_EVENTS`], with none if a signal came; says whether to ask the clock |
//! | `Waker::wake` | from any thread, never blocks, never fails visibly; many wakes may make one event |
//! | `Waker::drain` | after the waker's event and *before* one looks at the work it announced |
//! | `Bell` | what a poll of the user's waits on: readable from `ring` to `silence` |
//! | `recv_vec`, `recv_slice`, `send`, `accept` | never block, never raise a signal, never answer EINTR |
//! | `recv_datagram_*`, `next_datagram` | the same, of `Kind::Datagram` alone: on TCP a kernel throws the bytes away |
//! | `connect_tcp` | begins; if that is not all, the first edge says that it is decided |
//! | `connect_unix` | is done at once or fails; EAGAIN is a full backlog, of which no edge will tell |
//! | `connected` | the peer, EAGAIN for not yet, or why it failed, once; ask after any edge, ERR and HUP alone as well |
//! | `listen_tcp`, `listen_unix` | a bound listener; accepted TCP sockets inherit its options, Unix ones nothing |
//! | `adopt`, `adopt_listener` | say what a socket is, and make it fit for the loop if it is what was asked for |
//! | `Reserve` | one descriptor kept back for the moment when there is none left |
//! | `pin_current_thread` | asks what is allowed first, so that a wrong CPU is told in words |
//! | `has_one_processor` | whether no two threads can run at a time |
//!
//! # When does a short read mean *drained*?
//!
//! An edge comes when something arrives, not when something is there. Whoever stops reading early must know that
//! nothing was left, or the rest lies there for ever.
//!
//! - **TCP**: a read that filled less than its buffer has emptied the queue, and what comes later raises a new edge.
//!   The exception is an urgent mark (`MSG_OOB`): a read stops in front of it although there is more behind. This is
//!   why [`Bits::PRIORITY`] is registered: whoever has seen it reads on to EAGAIN.
//! - **AF_UNIX**: a read stops behind a message that passed descriptors (`SCM_RIGHTS`), with more behind it and no
//!   edge to come. There one reads to EAGAIN, always.
//! - **Hang-up**: a short read says nothing about the FIN behind the data, which may share its edge. After
//!   [`Bits::HANGUP`] one reads on to EAGAIN, to 0 or to an error.
//!
//! The first two are facts about Linux, and tests in `net.rs` hold it to them; the simulated system obeys the same.
//!
//! # Datagrams
//!
//! One send is one message, whatever its slices; one receive takes one message, and what has no room is lost. An empty
//! one is a message. There is no end, and a short one says nothing of the next: only EAGAIN means *drained*.
//!
//! - [`Bits::HANGUP`] is not one. It says that an error waits, which whichever call comes first is told, once: it cost
//!   an earlier message its way, and this call its turn, and nothing else. What has arrived is still there.
//! - **UDP** drops what the receiver has no room for, and hears of a dead port by ICMP: ECONNREFUSED, later.
//! - **AF_UNIX** answers EAGAIN to a full receiver, with an edge to follow, and ECONNREFUSED to a dead one, at once. It
//!   then forgets the peer (ENOTCONN from there on), and with it what was not read.
//! - A message of more than [`MAX_SLICES`] slices, or larger than ever fits, is EMSGSIZE. Of a stream one sends fewer
//!   slices at a time; half of a message is none.
//!
//! Tests in `datagram.rs` hold Linux to this.

#![allow(
    dead_code,
    unused_imports,
    reason = "the contract is whole on every backend, also where the loop does not need all of it"
)]

use std::net::SocketAddr;
use std::time::Duration;

pub(crate) use rustix::io::Errno;

#[cfg(not(any(loom, gaio_sim)))]
mod adopt;
#[cfg(not(any(loom, gaio_sim)))]
mod affinity;
#[cfg(not(any(loom, gaio_sim)))]
mod connect;
#[cfg(not(any(loom, gaio_sim)))]
mod datagram;
#[cfg(not(any(loom, gaio_sim)))]
mod epoll;
#[cfg(not(any(loom, gaio_sim)))]
mod listener;
#[cfg(not(any(loom, gaio_sim)))]
mod net;
#[cfg(all(not(any(loom, gaio_sim)), any(test, not(gaio_pipe_waker))))]
mod waker_eventfd;
#[cfg(all(not(any(loom, gaio_sim)), any(test, gaio_pipe_waker)))]
mod waker_pipe;
#[cfg(all(test, not(any(loom, gaio_sim))))]
mod waker_tests;

// Public, as `gaio::sim`, in the builds that run on it; in an ordinary test build it is only tested, and in the manual it
// is shown. (rustdoc says `doc` when it looks for examples, too, but an ordinary build has nothing that they could use.)
#[cfg(any(loom, gaio_sim, test, all(doc, not(doctest))))]
#[allow(unreachable_pub, reason = "reachable in some of the builds that have it")]
pub mod sim;

#[cfg(any(loom, gaio_sim))]
use sim as backend;

#[cfg(not(any(loom, gaio_sim)))]
mod backend {
    pub(crate) use super::adopt::{adopt, adopt_listener, linger_off};
    pub(crate) use super::affinity::{allowed_cpus, has_one_processor, pin_current_thread};
    pub(crate) use super::connect::{apply_buffers, connect_tcp, connect_unix, connected, so_error};
    pub(crate) use super::datagram::{next_datagram, recv_datagram_slice, recv_datagram_vec};
    pub use super::epoll::Socket;
    pub(crate) use super::epoll::{Selector, at, carry, now};
    pub(crate) use super::listener::{Reserve, accept, listen_tcp, listen_unix};
    pub(crate) use super::net::{
        local_addr, peek, peer_addr, recv_slice, recv_vec, reset_on_close, send, set_nodelay, shutdown_write,
    };
    #[cfg(not(gaio_pipe_waker))]
    pub(crate) use super::waker_eventfd::{Bell, Waker};
    #[cfg(gaio_pipe_waker)]
    pub(crate) use super::waker_pipe::{Bell, Waker};
}

pub use backend::Socket;
pub(crate) use backend::{
    Bell, Reserve, Selector, Waker, accept, adopt, adopt_listener, allowed_cpus, apply_buffers, at, carry, connect_tcp,
    connect_unix, connected, has_one_processor, linger_off, listen_tcp, listen_unix, local_addr, next_datagram, now,
    peek, peer_addr, pin_current_thread, recv_datagram_slice, recv_datagram_vec, recv_slice, recv_vec, reset_on_close,
    send, set_nodelay, shutdown_write, so_error,
};

/// The most events one `Selector::wait` hands out; the rest stays in the kernel and comes with the next. With more, the
/// receives of a turn come in a row so long that the kernel interrupts the processor whose buffers they free.
pub(crate) const MAX_EVENTS: usize = 32;

/// The most slices one `send` takes (`IOV_MAX`); the kernel refuses more with EMSGSIZE.
pub(crate) const MAX_SLICES: usize = 1024;

/// What a socket is ready for, as far as the system has said so.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bits(u8);

impl Bits {
    /// Bytes, a connection to accept, an EOF or an error can be read.
    pub(crate) const READABLE: Self = Self(1);
    /// There is room to send, or sending fails at once.
    pub(crate) const WRITABLE: Self = Self(2);
    /// The peer has shut its side or the connection has failed. Only a read tells which, and data may be in front of
    /// it: never close on this bit alone, or the peer's last bytes are lost.
    pub(crate) const HANGUP: Self = Self(4);
    /// Urgent data is there: a short read may have stopped at its mark. Read on to EAGAIN.
    pub(crate) const PRIORITY: Self = Self(8);
    /// Nothing.
    pub(crate) const NONE: Self = Self(0);

    /// Whether every bit of `other` is set.
    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of either.
    pub(crate) const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether nothing is set.
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The raw byte, for a session that packs it among its flags.
    pub(crate) const fn to_byte(self) -> u8 {
        self.0
    }
}

impl std::ops::BitOr for Bits {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl std::ops::BitOrAssign for Bits {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.union(other);
    }
}

impl std::fmt::Debug for Bits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [(Self::READABLE, "r"), (Self::WRITABLE, "w"), (Self::HANGUP, "h"), (Self::PRIORITY, "p")];
        names.iter().filter(|(bit, _)| self.contains(*bit)).try_for_each(|(_, name)| f.write_str(name))
    }
}

/// One edge: the token that was registered, and what it is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) token: u64,
    pub(crate) bits: Bits,
}

/// What a descriptor turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A TCP connection, or one that was and has failed: its first operation says how.
    TcpStream,
    /// A connected Unix stream.
    UnixStream,
    /// A listening TCP socket.
    TcpListener,
    /// A listening Unix socket.
    UnixListener,
    /// Connected UDP, or a connected Unix datagram socket.
    Datagram,
    /// A datagram socket without a peer: a plain send would have no address.
    UnconnectedDatagram,
    /// A stream that was never connected, or is still connecting.
    UnconnectedStream,
    /// Anything else, in words that fit behind "it is".
    Other(&'static str),
}

/// The answer of `adopt` and `adopt_listener`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inspected {
    pub(crate) kind: Kind,
    /// A positive SO_LINGER, by now switched off: it makes even a non-blocking close wait, and with it the loop.
    pub(crate) linger: Option<Duration>,
    /// The peer's address, known anyway from asking whether there is one. `None` for Unix sockets.
    pub(crate) peer: Option<SocketAddr>,
}

/// Whether a connect has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connecting {
    /// It is a connection.
    Done,
    /// The first edge says that it is decided, and `connected` says how.
    Pending,
}

/// What one receive took off a datagram socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Bytes that are in the buffer now. 0 is an empty message and no end: there is none.
    pub(crate) len: usize,
    /// The message's own length.
    pub(crate) whole: usize,
}

impl Datagram {
    /// Whether the end of the message found no room, and is lost.
    pub(crate) const fn is_cut(self) -> bool {
        self.len < self.whole
    }
}

/// What a stream is to have from its beginning. Start from the default, change what you need.
///
/// ```
/// let mut options = gaio::StreamOptions::default();
/// options.keepalive = Some(std::time::Duration::from_secs(60));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamOptions {
    /// TCP: send at once, without Nagle's delay. Default true: whole messages are written here, and to hold the end of
    /// one back only costs time.
    pub nodelay: bool,
    /// TCP: how long it may be silent before the peer is asked whether it is still there. In whole seconds, rounded up,
    /// at least one; `None` (the default) for never.
    pub keepalive: Option<Duration>,
    /// Bytes that may wait to be received, as `SO_RCVBUF`; `None` (the default) lets the system choose, and change it as
    /// the connection goes. The system may round it, or cut it short.
    pub recv_buffer: Option<usize>,
    /// Bytes that may wait to be sent, as `SO_SNDBUF`; likewise.
    pub send_buffer: Option<usize>,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { nodelay: true, keepalive: None, recv_buffer: None, send_buffer: None }
    }
}

/// How to listen. Start from the default, change what you need.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (_watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
/// let mut options = gaio::ListenOptions::default();
/// options.reuse_port = true; // one listener per loop, all on one port
/// options.streams.keepalive = Some(std::time::Duration::from_secs(60));
/// let first = submitter.listen_on("127.0.0.1:0".parse()?, &options)?;
/// let second = submitter.listen_on(first.local_addr().unwrap(), &options)?;
/// # drop((first, second)); Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenOptions {
    /// Connections that may wait to be accepted; the system has a bound of its own. Default 4 096: a burst of clients
    /// must not have to try again.
    pub backlog: u32,
    /// TCP: take a port although connections of its last listener are not quite gone. Default true: or a server could not
    /// be started again for a minute.
    pub reuse_addr: bool,
    /// TCP: share the port with all other listeners that say so, too; the system deals the connections out. Default false.
    pub reuse_port: bool,
    /// What the accepted connections are born with.
    pub streams: StreamOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 4096, reuse_addr: true, reuse_port: false, streams: StreamOptions::default() }
    }
}
