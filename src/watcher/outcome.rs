//! What comes out of `wait`: completions as data.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::error::OpError;
use crate::watcher::{Conn, Lease};

/// Bytes to write, owned until they are written; the same allocation comes back in [`Outcome::Wrote`].
///
/// Made by `From` wherever [`Conn::write`] is given one of its variants' types (or a `&'static str`).
///
/// ```
/// let payload = gaio::Payload::from("static bytes");
/// assert_eq!(payload.as_slice(), b"static bytes");
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
}

impl Payload {
    /// The bytes: all that were to be written, whether they were or not.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Vec(bytes) => bytes,
            Self::Bytes(bytes) => bytes,
            Self::Static(bytes) => bytes,
            Self::Lease(lease) => lease,
        }
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

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
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
/// | write | `Write` | bytes handed to the system | the payload, whole |
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
/// | [`Conn::close`], [`Conn::release`] | `Closed` | – | – |
///
/// Exhaustive on purpose: a `match` without `_` is what keeps a buffer from being dropped unseen.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a match without `_` keeps buffers from being dropped unseen")]
pub enum Outcome<'b> {
    /// A read into a vector: it holds the bytes, one at least, exactly `n` for an exact read.
    Read(Vec<u8>),
    /// A pooled read: bytes of the batch's arena, valid until the next wait or turn.
    Pooled(&'b [u8]),
    /// A leased read: an owned buffer with the bytes.
    Leased(Lease),
    /// There are bytes to read, or the end of the stream.
    Readable,
    /// All bytes were handed to the system, which is not to say that the peer has them; here is the payload.
    Wrote(Payload),
    /// The connection is closed and its descriptor gone.
    Closed,
    /// The peer will send no more; writing may go on. The vector of the read comes back; an exact read's holds what
    /// did arrive.
    Eof(Option<Vec<u8>>),
    /// It failed. Boxed, since it is rare and large.
    Failed(Box<Failure>),
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
}
