//! What comes out of `wait`: completions as data.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::error::{ConnectError, OpError};
use crate::sys::Socket;
use crate::watcher::{Conn, Lease};

/// Bytes to write, owned until they are written; the same allocation comes back in [`Outcome::Wrote`].
///
/// Made by `From` wherever [`Conn::write`] is given one of its variants' types (or a `&'static str`). Only [`Copied`] is
/// never given: it stands for bytes that were borrowed, of which there is nothing to give back.
///
/// ```
/// let payload = gaio::Payload::from("static bytes");
/// assert_eq!(payload.as_slice(), Some(&b"static bytes"[..]));
/// assert!(payload.into_vec().is_none());
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Payload {
    /// A vector; all of it is written.
    Vec(Vec<u8>),
    /// Shared bytes: written without a copy.
    Bytes(Bytes),
    /// Bytes that live for ever.
    Static(&'static [u8]),
    /// A buffer of the loop's pool.
    Lease(Lease),
    /// Several pieces, written one behind the other by as few system calls as will do.
    Many(Vec<Bytes>),
    /// Bytes that were only borrowed, of [`Conn::write_copied`](crate::Conn::write_copied): how many.
    Copied(Copied),
}

/// What comes back of bytes that were only borrowed: how many they were.
///
/// Not the bytes, of which there need not be a copy: so it cannot be written again, and is refused as `EmptyBuffer`. If there
/// is one, its buffer goes back to the loop's pool when this is dropped.
pub struct Copied {
    len: usize,
    /// On its way home.
    _copy: Lease,
}

impl Copied {
    /// They were sent from where they are.
    #[inline(always)]
    pub(crate) const fn in_place(len: usize) -> Self {
        Self { len, _copy: Lease::NONE }
    }

    /// They were sent from this copy.
    pub(crate) fn by(copy: Lease) -> Self {
        Self { len: copy.len(), _copy: copy }
    }

    /// How many bytes were written.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Were there none? Then it was an empty datagram.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl std::fmt::Debug for Copied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copied").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Payload {
    /// The bytes in one piece: all that were to be written, whether they were or not. None if they are in several, or were
    /// only borrowed.
    #[must_use]
    pub fn as_slice(&self) -> Option<&[u8]> {
        Some(match self {
            Self::Vec(bytes) => bytes,
            Self::Bytes(bytes) => bytes,
            Self::Static(bytes) => bytes,
            Self::Lease(lease) => lease,
            Self::Many(_) | Self::Copied(_) => return None,
        })
    }

    /// How many bytes, in all pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Many(pieces) => pieces.iter().map(Bytes::len).sum(),
            Self::Copied(copied) => copied.len(),
            one => one.as_slice().map_or(0, <[u8]>::len),
        }
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The vector, if it is one; anything else is dropped.
    #[must_use]
    pub fn into_vec(self) -> Option<Vec<u8>> {
        match self {
            Self::Vec(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Vec(bytes)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Self {
        Self::Static(bytes)
    }
}

impl<const N: usize> From<&'static [u8; N]> for Payload {
    fn from(bytes: &'static [u8; N]) -> Self {
        Self::Static(bytes)
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Self {
        Self::Static(text.as_bytes())
    }
}

impl From<Lease> for Payload {
    fn from(lease: Lease) -> Self {
        Self::Lease(lease)
    }
}

/// Which half of an operation failed. Only a linked write-then-read has both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a stream has two directions")]
pub enum Half {
    /// The reading half (or the operation was a read).
    Read,
    /// The writing half (or the operation was a write).
    Write,
}

/// How an operation failed, with all that is left of it.
///
/// | operation | `half` | `transferred` | `buffer` |
/// |---|---|---|---|
/// | read, pooled, leased, readable | `Read` | 0 | the vector of a read; otherwise none |
/// | exact read | `Read` | bytes that did arrive | the vector, with those bytes |
/// | any read of a datagram larger than its room (`Truncated`) | `Read` | bytes that did fit | those bytes: the vector, or a lease |
/// | write | `Write` | bytes handed to the system | the payload, whole; of a copied write a lease with all bytes |
/// | linked, while writing | `Write` | bytes handed to the system | the payload, whole |
/// | linked, while reading | `Read` | 0 | the vector, if it was to be read into |
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Why.
    pub error: OpError,
    /// Which half.
    pub half: Half,
    /// Bytes that were moved all the same: written to the socket, or (exact read) read into `buffer`.
    pub transferred: usize,
    /// The operation's buffer, if it had one.
    pub buffer: Option<Payload>,
}

/// The one outcome of an operation.
///
/// | operation | success | end of stream | failure |
/// |---|---|---|---|
/// | [`Conn::read`], [`Conn::read_exact`] | `Read` | `Eof(Some(vector))` | `Failed` |
/// | [`Conn::read_pooled`] | `Pooled` | `Eof(None)` | `Failed` |
/// | [`Conn::read_leased`] | `Leased` | `Eof(None)` | `Failed` |
/// | [`Conn::readable`] | `Readable` | `Readable` | `Readable` (the next read tells), or `Failed` if the session ends |
/// | [`Conn::write`] | `Wrote` | – | `Failed` |
/// | a write linked to a read | as the read | as the read | `Failed`, with the half |
/// | [`Conn::shutdown_write`] | `ShutDown` | – | `Failed` |
/// | [`Conn::close`], [`Conn::release`], [`Conn::abort`] | `Closed` | – | – |
/// | [`Conn::into_fd`] | `Detached` | – | `Failed` |
///
/// On a datagram socket each read brings one message and each write sends one. There is no end of stream: no bytes are an
/// empty message. One that found too little room is `Failed`, as [`OpError::Truncated`], with what did fit. A
/// `readable` is `Failed`, too, if it is the operation that an error is told to.
///
/// Exhaustive on purpose: a `match` without `_` is what keeps a buffer from being dropped unseen.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a match without `_` keeps buffers from being dropped unseen")]
pub enum Outcome<'b> {
    /// A read into a vector: it holds the bytes, one at least, exactly `n` for an exact read; or one datagram, which may be
    /// empty.
    Read(Vec<u8>),
    /// A pooled read: bytes of the batch's arena, valid until the next wait or turn.
    Pooled(&'b [u8]),
    /// A leased read: an owned buffer with the bytes.
    Leased(Lease),
    /// There are bytes to read, a datagram, or the end of the stream.
    Readable,
    /// All bytes were handed to the system, which is not to say that the peer has them; here is the payload.
    Wrote(Payload),
    /// The sending side has been shut down.
    ShutDown,
    /// The connection is closed and its descriptor gone.
    Closed,
    /// The connection is the caller's again.
    Detached(Box<Detached>),
    /// The peer will send no more; writing may go on. The vector of the read comes back; an exact read's holds what
    /// did arrive.
    Eof(Option<Vec<u8>>),
    /// It failed. Boxed, since it is rare and large.
    Failed(Box<Failure>),
}

/// A connection that has left its loop; of [`Conn::into_fd`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Detached {
    /// The socket, non-blocking, in the state in which the last completed operations left it.
    pub socket: Socket,
    /// Bytes that were given with the socket by [`Submitter::delegate_with`](crate::Submitter::delegate_with), and that
    /// no read has taken: they come before what the socket still has to say.
    pub leftover: Bytes,
}

/// Names one listener of one loop: that of [`Listener::id`](crate::Listener::id). Never given twice by one loop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId(pub(crate) u64);

/// One item of a batch. Non-exhaustive: later versions have more kinds.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'b, C = ()> {
    /// An operation completed.
    Done {
        /// The connection. If it is the last handle, dropping it closes the connection gracefully.
        conn: Conn<C>,
        /// The context it was submitted with.
        context: C,
        /// How it went.
        outcome: Outcome<'b>,
    },
    /// A listener accepted a connection. Dropping `conn` closes it.
    Accepted {
        /// The new connection, delegated already.
        conn: Conn<C>,
        /// Where it comes from; none for a Unix socket.
        peer: Option<SocketAddr>,
        /// The listener.
        listener: ListenerId,
    },
    /// A listener ended; nothing more comes from it.
    ListenerEnded {
        /// The listener.
        listener: ListenerId,
        /// None if its handle was dropped or the loop shut down.
        error: Option<std::io::Error>,
    },
    /// A posted context.
    Posted(C),
    /// A timer has come to its end.
    Timer {
        /// The context it was submitted with.
        context: C,
        /// `Ok`: its time has come. Otherwise `Cancelled`, `Aborted` or `LoopFailed`.
        result: Result<(), OpError>,
    },
    /// A connect has come to its end.
    Connected {
        /// The context it was submitted with.
        context: C,
        /// The new connection, delegated already (dropping it closes it), or why there is none.
        result: Result<Conn<C>, ConnectError>,
    },
}
