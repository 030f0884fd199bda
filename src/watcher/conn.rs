//! Connections, as the user holds them.
//!
//! A `Conn` is a handle to one counted block per connection (`link.rs`), shared by all its handles and by the operations
//! in flight. The last handle does not free it but sends it to the loop (`handoff::handles`), which closes the session
//! that its token names: dropping takes no ring slot, allocates nothing, and cannot fail.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use bytes::Bytes;

use crate::error::{SubmitError, SubmitErrorKind};
use crate::event_loop::EventLoop;
use crate::event_loop::inbox::Patience;
use crate::handoff::Handle;
use crate::sync::Arc;
use crate::watcher::body::Body;
use crate::watcher::bounds::Bounds;
use crate::watcher::link::{Addresses, Link, Token};
use crate::watcher::op::{Op, OpId, Single, Write};
use crate::watcher::outcome::Payload;
use crate::watcher::shared::Shared;
use crate::watcher::submission::{Operation, Submission, refuse};

/// A handle to a delegated connection: `Send`, `Sync`, cheap to clone.
///
/// Operations are built from it and submitted from any thread, several threads at a time if need be: what they submit
/// is ordered by who comes first. When the last handle is dropped and nothing is in flight, the connection is closed
/// gracefully. Two handles are equal if they name the same connection, and hash alike, so a `Conn` can be a key.
///
/// Cost: 8 bytes; a clone or a drop is one atomic operation. A drop never blocks, allocates or fails.
///
/// ```
/// # use std::{io::{Read, Write}, os::unix::net::UnixStream};
/// use gaio::{Event, Outcome};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (mut watcher, submitter) = gaio::Watcher::<&str>::spawn_for(gaio::Options::default())?;
/// # let (ours, mut peer) = UnixStream::pair()?;
/// # peer.write_all(b"\x05hello and more")?;
/// let conn = submitter.delegate(ours)?;
/// conn.read_exact(Vec::new(), 1).submit_with("length")?;
/// while let Some(event) = watcher.wait()?.next() {
///     let Event::Done { conn, context, outcome: Outcome::Read(bytes) } = event else { panic!() };
///     match context {
///         "length" => {
///             let n = usize::from(bytes[0]);
///             conn.read_exact(bytes, n).submit_with("body")?;
///         }
///         _ => {
///             assert_eq!(bytes, b"hello");
///             break;
///         }
///     }
/// }
/// # Ok(()) }
/// ```
///
/// # Datagrams
///
/// A connected UDP or Unix datagram socket can be delegated, too. Then each read takes one message, and each write
/// sends one, all or nothing:
///
/// | | on a datagram socket |
/// |---|---|
/// | [`read`](Self::read), [`read_pooled`](Self::read_pooled), [`read_leased`](Self::read_leased) | one message; an empty one completes with no bytes, and [`Eof`](crate::Outcome::Eof) never comes |
/// | a message larger than the vector, or than [`Limits::read_cap`](crate::Limits::read_cap) (pooled: or the arena) | `Failed` as [`OpError::Truncated`](crate::OpError::Truncated): what did fit is in the failure, the rest is lost |
/// | [`readable`](Self::readable) | as ever; an error that it finds is its own, since an error is told once |
/// | [`write`](Self::write), [`write_copied`](Self::write_copied) | one message, which may be empty |
/// | [`write_vectored`](Self::write_vectored) | one message of all its pieces, which may be none |
/// | linked | sends one, then takes the next |
/// | [`read_exact`](Self::read_exact), [`shutdown_write`](Self::shutdown_write) | refused as `NotAStream` |
/// | an error (`ConnectionRefused`, a message that is too large) | fails one operation, and the others go on: nothing is broken, nor by a deadline or a cancel |
/// | [`close`](Self::close) | queued writes go out, then the descriptor is closed: there is no end to send or to wait for |
/// | [`release`](Self::release), [`abort`](Self::abort), [`into_fd`](Self::into_fd) | as ever; unread messages stay in the socket |
///
/// What the system does about lost or refused messages is its own: UDP loses what finds no room, and says that a port is
/// dead to the next operation, which then has not been done; a Unix socket holds a write back while its receiver is full.
///
/// ```
/// # use std::net::UdpSocket;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
/// let (ours, peer) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
/// ours.connect(peer.local_addr()?)?;
/// peer.connect(ours.local_addr()?)?;
/// let conn = submitter.delegate(ours)?;
/// conn.read(Vec::with_capacity(4)).submit()?;
/// peer.send(b"short and long")?;
/// let Some(gaio::Event::Done { conn, outcome: gaio::Outcome::Failed(cut), .. }) = watcher.wait()?.next() else { panic!() };
/// assert!(matches!(cut.error, gaio::OpError::Truncated { whole: 14 }));
/// assert_eq!(cut.buffer.unwrap().as_slice(), Some(&b"shor"[..]));
/// conn.write_vectored(vec!["one ".into(), "message".into()]).submit()?;
/// let mut message = [0; 64];
/// let n = peer.recv(&mut message)?;
/// assert_eq!(&message[..n], b"one message");
/// # Ok(()) }
/// ```
pub struct Conn<C = ()>(Handle<Link<C>>);

impl<C> Conn<C> {
    pub(crate) fn create(shared: Arc<Shared<C>>, addresses: Addresses) -> Self {
        Self(Handle::new(Link::new(shared, addresses, false)))
    }

    pub(crate) fn of_datagrams(shared: Arc<Shared<C>>, addresses: Addresses) -> Self {
        Self(Handle::new(Link::new(shared, addresses, true)))
    }

    /// What the loop keeps of it.
    #[inline]
    pub(crate) fn link(&self) -> &Link<C> {
        &self.0
    }

    #[inline]
    pub(crate) fn token(&self) -> Token {
        self.0.token()
    }

    /// This handle no longer counts as an operation in flight.
    #[inline]
    pub(crate) fn settle(&self) {
        self.0.settle();
    }

    /// A handle for one more operation in flight, with `bytes` to write.
    #[inline(always)]
    pub(crate) fn begin(&self, bytes: usize, ending: bool) -> Result<Self, SubmitErrorKind> {
        let shared = &self.0.shared;
        // Endings are never refused for being too many: they are how one gets out of that.
        let cap = if ending { u32::MAX } else { shared.limits.ops_per_conn() };
        let conn = Self(self.0.begin(cap).ok_or(SubmitErrorKind::TooMany)?);
        if shared.in_flight.begin(bytes, &shared.limits, ending) {
            Ok(conn)
        } else {
            conn.settle();
            Err(SubmitErrorKind::TooMany)
        }
    }

    #[inline(always)]
    pub(crate) fn submit(
        &self,
        context: C,
        body: Body,
        bytes: usize,
        bounds: Bounds,
        patience: Patience,
    ) -> Result<(), SubmitError<C>> {
        let conn = match self.begin(bytes, body.is_ending()) {
            Ok(conn) => conn,
            Err(kind) => return Err(refuse(kind, context, body)),
        };
        let shared = &self.0.shared;
        // Put together as late as can be, and by each way for itself: else it would be moved once more.
        if let Some(mut at_hand) = shared.at_hand() {
            let EventLoop { core, face, .. } = at_hand.event_loop();
            if bytes > 0 {
                face.take_up_op(core, Operation { conn, context, body, bounds });
            } else {
                // It is no write of one piece, and spared the look for one.
                face.start(core, Operation { conn, context, body, bounds });
            }
            return Ok(());
        }
        let refused = |(kind, op)| shared.take_back(bytes, kind, op);
        if shared.place.is_consumers() {
            let op = Submission::Op(Operation { conn, context, body, bounds });
            return shared.submit_as_consumer(op, patience).map_err(refused);
        }
        let op = Submission::Op(Operation { conn, context, body, bounds });
        shared.inbox.submit(op, patience).map_err(refused)
    }

    /// The peer's address, as it was at delegation; none for Unix sockets. Cost: none, it was kept.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.0.addresses.peer()
    }

    /// The local address, as it was at delegation; none for Unix sockets. Cost: none, it was kept.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.0.addresses.local()
    }

    /// Reads at least one byte into `buffer`: it is cleared, and filled up to its capacity.
    ///
    /// Completes as `Read`, `Eof(Some(buffer))` or `Failed`. A buffer of capacity 0 is refused as `EmptyBuffer`. It is
    /// never reallocated. Cost: one system call, and one more if it has to wait for the bytes.
    pub fn read(&self, buffer: Vec<u8>) -> Op<'_, C> {
        Op::new(self, Body::Read(buffer))
    }

    /// Reads exactly `n` bytes of a stream into `buffer`, which is cleared and grown if it is too small.
    ///
    /// Completes as `Read` with all of them; `Eof` or `Failed` give back what did arrive. `n == 0` is refused as
    /// `EmptyBuffer`, an `n` that cannot be allocated as `TooLarge`. Bytes beyond the `n` are left for the next read. A
    /// buffer with more room than `n` is zeroed for the bytes to come: an exact one saves that.
    pub fn read_exact(&self, buffer: Vec<u8>, n: usize) -> Op<'_, C> {
        Op::new(self, Body::ReadExact(buffer, n))
    }

    /// Reads into memory of the batch: the completion borrows the bytes from it. No buffer is needed or held.
    ///
    /// Completes as `Pooled`, `Eof(None)` or `Failed`. One read brings at most
    /// [`Limits::read_cap`](crate::Limits::read_cap) bytes. While the batch's arena is full the read waits, with its
    /// bytes still in the kernel, until the batch is taken.
    pub fn read_pooled(&self) -> Op<'_, C> {
        Op::new(self, Body::ReadPooled)
    }

    /// Reads into a buffer of the loop's pool, drawn when there is something to read: 16 KiB, or
    /// [`Limits::read_cap`](crate::Limits::read_cap) for a connection that filled one of those.
    ///
    /// Completes as `Leased`, `Eof(None)` or `Failed`. Nothing is held while it waits. See [`Lease`](crate::Lease).
    pub fn read_leased(&self) -> Op<'_, C> {
        Op::new(self, Body::ReadLeased)
    }

    /// Completes as `Readable` when there are bytes to read, or the stream has ended or failed: the read that follows
    /// tells which. Holds no buffer, takes no byte. It has its place among the reads, in order.
    pub fn readable(&self) -> Op<'_, C> {
        Op::new(self, Body::Readable)
    }

    /// Writes all of the payload: a `Vec<u8>`, `Bytes`, `&'static [u8]`, or a [`Lease`](crate::Lease).
    ///
    /// Completes as `Wrote` with the same allocation, when all bytes were handed to the system; or as `Failed`, with
    /// the number that were, and then every later write to a stream fails as `Broken`. An empty payload is refused as
    /// `EmptyBuffer`, but for a datagram. May be linked to a read: [`Op::then_read`](crate::Op::then_read) and its siblings.
    ///
    /// Never raises SIGPIPE.
    pub fn write<P: Into<Payload>>(&self, payload: P) -> Op<'_, C, Write<P>> {
        Op::new(self, payload.into().into())
    }

    /// Writes several pieces, one behind the other, as one operation and by as few system calls as will do: a header and a
    /// body shared by many connections, say. Completes as [`Conn::write`] does, with a [`Payload::Many`]; pieces may be
    /// empty, if not all are. Of more than 16 pieces each system call costs an allocation; as a datagram more than 1 024
    /// cost a copy.
    ///
    /// ```
    /// # use std::{io::Read, os::unix::net::UnixStream};
    /// use bytes::Bytes;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
    /// # let (ours, mut peer) = UnixStream::pair()?;
    /// # let conn = submitter.delegate(ours)?;
    /// let body = Bytes::from_static(b"shared by many"); // cloning it copies no byte
    /// conn.write_vectored(vec![Bytes::from_static(b"14 "), body.clone()]).submit()?;
    /// conn.close().submit()?;
    /// let mut all = String::new();
    /// peer.read_to_string(&mut all)?;
    /// assert_eq!(all, "14 shared by many");
    /// # Ok(()) }
    /// ```
    pub fn write_vectored(&self, pieces: Vec<Bytes>) -> Op<'_, C, Write<Vec<Bytes>>> {
        Op::new(self, Body::many(pieces))
    }

    /// Writes bytes that are only borrowed, such as a pooled read's: what is not sent by the time the call that submits it
    /// returns is copied into a buffer of the loop's pool.
    ///
    /// Completes as [`Conn::write`] does, with a [`Payload::Copied`] that says how many they were; a failure brings a
    /// [`Lease`](crate::Lease) with all of them. If it is refused, no buffer comes back: the bytes are still at hand.
    ///
    /// Nothing is copied where the submission is taken up within the call (see [`Op`]), is the first thing that this
    /// connection does since the last turn, while the batch has room, and the system takes all of it: an answer to what
    /// was read, mostly. Otherwise it costs the copy, and an allocation if the pool is empty or in use at this moment, or if the bytes are
    /// more than [`Limits::read_cap`](crate::Limits::read_cap).
    pub fn write_copied<'a>(&'a self, bytes: &'a [u8]) -> Op<'a, C, Write<&'a [u8]>> {
        Op::borrowed(self, bytes)
    }

    /// Ends the sending side of a stream, behind the writes submitted before it: the peer reads the end of the stream, and may go on
    /// sending. Completes as `ShutDown`; writes behind it fail as `Broken`.
    pub fn shutdown_write(&self) -> Op<'_, C> {
        Op::new(self, Body::ShutdownWrite)
    }

    /// Cancels one pending operation: it completes as [`OpError::Cancelled`](crate::OpError::Cancelled), with what did
    /// move, unless it has completed already; a cancel that finds nothing is counted. It looks behind everything that
    /// was submitted before it, on any thread. What ends a connection (close, `into_fd`) cannot be cancelled.
    ///
    /// A write that was sent in part leaves the sending side broken; the bytes of an exact read that did arrive come back
    /// with it. Cost: as a submission, and a look at the pending operations of the connection.
    ///
    /// # Errors
    /// `Closed`, and on the thread of another loop `Full`.
    pub fn cancel(&self, id: OpId) -> Result<(), SubmitErrorKind> {
        let cancel = Submission::Cancel { conn: self.clone(), name: id.0 };
        self.0.shared.submit(cancel, Patience::Forever).map_err(|(kind, _)| kind)
    }

    /// Closes gracefully. Pending reads complete as `Released` at once; queued writes go out; then the sending side
    /// is shut down, input is thrown away until the peer ends too, and the descriptor is closed. All within
    /// [`Limits::close_within`](crate::Limits::close_within): then writes that are still queued fail and the peer sees
    /// a reset, or, with all of them written, the descriptor is just closed.
    ///
    /// Completes as `Closed` when the descriptor is gone; never fails. What is submitted behind it fails as
    /// [`OpError::Closed`](crate::OpError::Closed). Closing twice is harmless: both complete.
    ///
    /// ```
    /// # use std::{io::Read, os::unix::net::UnixStream};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
    /// # let (ours, mut peer) = UnixStream::pair()?;
    /// # let conn = submitter.delegate(ours)?;
    /// conn.write(b"goodbye").submit()?;
    /// conn.close().submit()?; // behind the write
    /// let mut all = String::new();
    /// peer.read_to_string(&mut all)?;
    /// assert_eq!(all, "goodbye");
    /// # Ok(()) }
    /// ```
    pub fn close(&self) -> Op<'_, C> {
        Op::new(self, Body::Close)
    }

    /// Ends the session now: pending operations complete as `Released`, the descriptor is closed. What the system
    /// has accepted already is still sent by it, unless there is unread input (then the peer sees a reset).
    ///
    /// Completes as `Closed` when the descriptor is gone; never fails. Releasing twice, or a connection that is being
    /// closed, is harmless.
    pub fn release(&self) -> Op<'_, C, Single> {
        Op::new(self, Body::Release)
    }

    /// Ends the session now, by a reset: pending operations complete as `Released`, what the system has not sent yet is
    /// dropped, and the peer reads an error instead of an end. (A Unix socket has no reset: there it is
    /// [`Conn::release`].)
    ///
    /// Completes as `Closed` when the descriptor is gone; never fails.
    pub fn abort(&self) -> Op<'_, C, Single> {
        Op::new(self, Body::Abort)
    }

    /// Takes the connection out of the loop again. Pending reads complete as `Released` at once; queued writes go out;
    /// then the operation completes as `Detached`, with the socket (non-blocking, still open) and the bytes of
    /// [`Submitter::delegate_with`](crate::Submitter::delegate_with) that no read has taken. What is submitted behind it
    /// fails as [`OpError::Closed`](crate::OpError::Closed).
    ///
    /// Fails if the peer has reset the connection; and resets it itself if the writes before it fail, or are not through
    /// by its deadline, which is [`Limits::close_within`](crate::Limits::close_within) if it has none. A positive
    /// `SO_LINGER` was switched off when the connection was delegated, and stays off.
    pub fn into_fd(&self) -> Op<'_, C, Single> {
        Op::new(self, Body::IntoFd)
    }
}

impl<C> Clone for Conn<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C> PartialEq for Conn<C> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(&*self.0, &*other.0)
    }
}

impl<C> Eq for Conn<C> {}

impl<C> Hash for Conn<C> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(&*self.0, state);
    }
}

impl<C> std::fmt::Debug for Conn<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn").field("peer", &self.peer_addr()).finish_non_exhaustive()
    }
}
