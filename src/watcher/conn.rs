//! Connections, as the user holds them.
//!
//! A `Conn` is one counted block per connection, shared by all its handles and by the operations in flight. The last
//! handle does not free it but sends it to the loop (`handoff::handles`), which closes the session that its token
//! names: dropping takes no ring slot, allocates nothing, and cannot fail.
//!
//! | token          | written by                        | an operation on it completes as       |
//! |----------------|-----------------------------------|----------------------------------------|
//! | `UNREGISTERED` | `delegate`                        | (waits: its delegation is in the ring) |
//! | `REFUSED`      | the loop, the kernel said no      | `NotRegistered`                        |
//! | a key          | the loop, at registration         | what happens; `Closed` once it is gone |
//!
//! Only the loop writes the token, and it only reads it itself: relaxed accesses are enough.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use crate::error::{SubmitError, SubmitErrorKind};
use crate::handoff::{Counted, Handle};
use crate::sync::figures::AtomicU64;
use crate::sync::{Arc, Ordering};
use crate::watcher::op::{Body, Op, Single, Submission, Then, Write};
use crate::watcher::outcome::Payload;
use crate::watcher::queue::Operation;
use crate::watcher::shared::{Patience, Shared};

const UNREGISTERED: u64 = 0;
const REFUSED: u64 = u64::MAX;

/// Both ends' addresses: inline for IPv4, so that an idle connection stays small.
#[derive(Debug)]
pub(crate) enum Addresses {
    Unknown,
    V4 { peer: ([u8; 4], u16), local: ([u8; 4], u16) },
    Other(Box<(SocketAddr, Option<SocketAddr>)>),
}

impl Addresses {
    pub(crate) fn new(peer: Option<SocketAddr>, local: Option<SocketAddr>) -> Self {
        match (peer, local) {
            (None, _) => Self::Unknown,
            (Some(SocketAddr::V4(peer)), Some(SocketAddr::V4(local))) => {
                Self::V4 { peer: (peer.ip().octets(), peer.port()), local: (local.ip().octets(), local.port()) }
            }
            (Some(peer), local) => Self::Other(Box::new((peer, local))),
        }
    }

    fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Unknown => None,
            Self::V4 { peer, .. } => Some(SocketAddr::from(*peer)),
            Self::Other(both) => Some(both.0),
        }
    }

    fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Unknown => None,
            Self::V4 { local, .. } => Some(SocketAddr::from(*local)),
            Self::Other(both) => both.1,
        }
    }
}

/// The block behind every handle of one connection.
#[derive(Debug)]
pub(crate) struct Link<C> {
    shared: Arc<Shared<C>>,
    token: AtomicU64,
    addresses: Addresses,
}

impl<C> Counted for Link<C> {
    type Home = Shared<C>;

    fn home(&self) -> &Arc<Shared<C>> {
        &self.shared
    }

    fn announce(home: &Shared<C>) {
        home.announce_drop();
    }
}

impl<C> Link<C> {
    #[inline]
    pub(crate) fn token(&self) -> Token {
        match self.token.load(Ordering::Relaxed) {
            UNREGISTERED => Token::Unregistered,
            REFUSED => Token::Refused,
            token => Token::Session(token),
        }
    }
}

/// What the loop knows of a connection by its handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    Unregistered,
    Refused,
    Session(u64),
}

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
pub struct Conn<C = ()>(Handle<Link<C>>);

impl<C> Conn<C> {
    pub(crate) fn create(shared: Arc<Shared<C>>, addresses: Addresses) -> Self {
        Self(Handle::new(Link { shared, token: AtomicU64::new(UNREGISTERED), addresses }))
    }

    #[inline]
    pub(crate) fn token(&self) -> Token {
        self.0.token()
    }

    /// Tells the handle what its session is called. Loop thread only.
    #[inline]
    pub(crate) fn set_token(&self, token: u64) {
        self.0.token.store(token, Ordering::Relaxed);
    }

    /// Tells the handle that there will be no session. Loop thread only.
    pub(crate) fn set_refused(&self) {
        self.0.token.store(REFUSED, Ordering::Relaxed);
    }

    /// This handle no longer counts as an operation in flight.
    #[inline]
    pub(crate) fn settle(&self) {
        self.0.settle();
    }

    #[inline(always)]
    pub(crate) fn submit(&self, context: C, body: Body, patience: Patience) -> Result<(), SubmitError<C>> {
        let shared = &self.0.shared;
        let bytes = body.len();
        // Endings are never refused for being too many: they are how one gets out of that.
        let ending = body.is_ending();
        let cap = if ending { u32::MAX } else { shared.limits.ops_per_conn };
        let Some(handle) = self.0.begin(cap) else { return Err(too_many(context, body)) };
        let conn = Self(handle);
        if !shared.in_flight.begin(bytes, &shared.limits, ending) {
            conn.settle();
            return Err(too_many(context, body));
        }
        let submission = Submission::Op(Operation { conn, context, body });
        shared.submit(submission, patience).map_err(|(kind, submission)| shared.take_back(bytes, kind, submission))
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
    pub const fn read(&self, buffer: Vec<u8>) -> Op<'_, C> {
        Op::new(self, Body::Read(buffer))
    }

    /// Reads exactly `n` bytes into `buffer`, which is cleared and grown if it is too small.
    ///
    /// Completes as `Read` with all of them; `Eof` or `Failed` give back what did arrive. `n == 0` is refused as
    /// `EmptyBuffer`, an `n` that cannot be allocated as `TooLarge`. Bytes beyond the `n` are left for the next read. A
    /// buffer with more room than `n` is zeroed for the bytes to come: an exact one saves that.
    pub const fn read_exact(&self, buffer: Vec<u8>, n: usize) -> Op<'_, C> {
        Op::new(self, Body::ReadExact(buffer, n))
    }

    /// Reads into memory of the batch: the completion borrows the bytes from it. No buffer is needed or held.
    ///
    /// Completes as `Pooled`, `Eof(None)` or `Failed`. One read brings at most
    /// [`Limits::read_cap`](crate::Limits::read_cap) bytes. While the batch's arena is full the read waits, with its
    /// bytes still in the kernel, until the batch is taken.
    pub const fn read_pooled(&self) -> Op<'_, C> {
        Op::new(self, Body::ReadPooled)
    }

    /// Reads into a buffer of the loop's pool, drawn when there is something to read: 16 KiB, or
    /// [`Limits::read_cap`](crate::Limits::read_cap) for a connection that filled one of those.
    ///
    /// Completes as `Leased`, `Eof(None)` or `Failed`. Nothing is held while it waits. See [`Lease`](crate::Lease).
    pub const fn read_leased(&self) -> Op<'_, C> {
        Op::new(self, Body::ReadLeased)
    }

    /// Completes as `Readable` when there are bytes to read, or the stream has ended or failed: the read that follows
    /// tells which. Holds no buffer, takes no byte. It has its place among the reads, in order.
    pub const fn readable(&self) -> Op<'_, C> {
        Op::new(self, Body::Readable)
    }

    /// Writes all of the payload: a `Vec<u8>`, `Bytes`, `&'static [u8]`, or a [`Lease`](crate::Lease).
    ///
    /// Completes as `Wrote` with the same allocation, when all bytes were handed to the system; or as `Failed`, with
    /// the number that were, and then every later write fails as `Broken`. An empty payload is refused as
    /// `EmptyBuffer`. May be linked to a read: [`Op::then_read`](crate::Op::then_read) and its siblings.
    ///
    /// Never raises SIGPIPE.
    pub fn write<P: Into<Payload>>(&self, payload: P) -> Op<'_, C, Write<P>> {
        Op::new(self, payload.into().into())
    }

    /// Copies the bytes into a buffer of the loop's pool and writes that; for bytes that are only borrowed, such as a
    /// pooled read's. Completes as [`Conn::write`] does, with a lease. Costs the copy, and an allocation if the pool is
    /// empty or in use at this moment, or if the bytes are more than [`Limits::read_cap`](crate::Limits::read_cap).
    pub fn write_copied(&self, bytes: &[u8]) -> Op<'_, C, Write<crate::Lease>> {
        Op::new(self, Body::WriteLease(Then::Done, crate::watcher::lease::Pool::copy(&self.0.shared.pool, bytes)))
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
    pub const fn close(&self) -> Op<'_, C> {
        Op::new(self, Body::Close)
    }

    /// Ends the session now: pending operations complete as `Released`, the descriptor is closed. What the system
    /// has accepted already is still sent by it, unless there is unread input (then the peer sees a reset).
    ///
    /// Completes as `Closed` when the descriptor is gone; never fails. Releasing twice, or a connection that is being
    /// closed, is harmless.
    pub const fn release(&self) -> Op<'_, C, Single> {
        Op::new(self, Body::Release)
    }
}

#[cold]
fn too_many<C>(context: C, body: Body) -> SubmitError<C> {
    SubmitError { kind: SubmitErrorKind::TooMany, context, buffer: body.into_payload() }
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
