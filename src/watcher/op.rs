//! Operations: what a handle builds, and what travels to the loop.
//!
//! An [`Op`] borrows its connection and owns its buffer; nothing happens until it is submitted. Submitted, it becomes
//! a `Submission` that holds a handle of its own, so an operation in flight keeps its connection open (I7).

use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{SubmitError, SubmitErrorKind};
use crate::handoff::Position;
use crate::sys::Socket;
use crate::watcher::conn::Token;
use crate::watcher::outcome::{ListenerId, Payload};
use crate::watcher::queue::Operation;
use crate::watcher::shared::{ListenerFlag, Patience};
use crate::watcher::{Conn, Lease};

/// What a write does once all its bytes are out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    Done,
    ReadSame,
    ReadPooled,
    ReadLeased,
}

/// The verb and its buffer. Flat, so that `Then` sits beside the tag and a ring slot stays within 64 bytes.
#[derive(Debug)]
pub(crate) enum Body {
    Read(Vec<u8>),
    ReadExact(Vec<u8>, usize),
    ReadPooled,
    ReadLeased,
    Readable,
    WriteVec(Then, Vec<u8>),
    WriteBytes(Then, Bytes),
    WriteStatic(Then, &'static [u8]),
    WriteLease(Then, Lease),
    Close,
    Release,
}

impl Body {
    /// The bytes of a write; empty for everything else.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::WriteVec(_, bytes) => bytes,
            Self::WriteBytes(_, bytes) => bytes,
            Self::WriteStatic(_, bytes) => bytes,
            Self::WriteLease(_, lease) => lease,
            _ => &[],
        }
    }

    /// How many bytes there are to write.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::WriteVec(_, bytes) => bytes.len(),
            Self::WriteBytes(_, bytes) => bytes.len(),
            Self::WriteStatic(_, bytes) => bytes.len(),
            Self::WriteLease(_, lease) => lease.kept(),
            _ => 0,
        }
    }

    #[inline]
    pub(crate) const fn is_write(&self) -> bool {
        self.then().is_some()
    }

    /// Closing verbs go behind everything submitted before them, on any thread.
    #[inline]
    pub(crate) const fn is_ending(&self) -> bool {
        matches!(self, Self::Close | Self::Release)
    }

    /// What follows, for a write.
    #[inline]
    pub(crate) const fn then(&self) -> Option<Then> {
        match self {
            Self::WriteVec(then, _)
            | Self::WriteBytes(then, _)
            | Self::WriteStatic(then, _)
            | Self::WriteLease(then, _) => Some(*then),
            _ => None,
        }
    }

    /// The buffer, on its way back to the caller.
    #[inline]
    pub(crate) fn into_payload(self) -> Option<Payload> {
        Some(match self {
            Self::Read(bytes) | Self::ReadExact(bytes, _) | Self::WriteVec(_, bytes) => Payload::Vec(bytes),
            Self::WriteBytes(_, bytes) => Payload::Bytes(bytes),
            Self::WriteStatic(_, bytes) => Payload::Static(bytes),
            Self::WriteLease(_, lease) => Payload::Lease(lease),
            Self::ReadPooled | Self::ReadLeased | Self::Readable | Self::Close | Self::Release => return None,
        })
    }

    /// Turns a write whose bytes are all out into the read it is linked to, if it is. A lease that was written is
    /// handed back: it need not go to the caller.
    #[inline]
    pub(crate) fn become_read(&mut self) -> Option<Lease> {
        let next = match self {
            Self::WriteVec(Then::ReadSame, bytes) => {
                bytes.clear();
                Self::Read(std::mem::take(bytes))
            }
            _ => match self.then()? {
                Then::ReadPooled => Self::ReadPooled,
                Then::ReadLeased => Self::ReadLeased,
                Then::Done | Then::ReadSame => return None,
            },
        };
        match std::mem::replace(self, next) {
            Self::WriteLease(_, lease) => Some(lease),
            _ => None,
        }
    }

    #[inline]
    fn set_then(&mut self, next: Then) {
        match self {
            Self::WriteVec(then, _)
            | Self::WriteBytes(then, _)
            | Self::WriteStatic(then, _)
            | Self::WriteLease(then, _) => *then = next,
            _ => {}
        }
    }

    /// Refuses what could never complete, and makes the buffer ready.
    #[inline]
    fn prepare(&mut self) -> Result<(), SubmitErrorKind> {
        match self {
            Self::Read(bytes) => {
                bytes.clear();
                if bytes.capacity() == 0 {
                    return Err(SubmitErrorKind::EmptyBuffer);
                }
            }
            Self::ReadExact(bytes, n) => {
                bytes.clear();
                if *n == 0 {
                    return Err(SubmitErrorKind::EmptyBuffer);
                }
                bytes.try_reserve_exact(*n).map_err(|_| SubmitErrorKind::TooLarge)?;
            }
            body if body.is_write() && body.len() == 0 => return Err(SubmitErrorKind::EmptyBuffer),
            _ => {}
        }
        Ok(())
    }
}

impl From<Payload> for Body {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Vec(bytes) => Self::WriteVec(Then::Done, bytes),
            Payload::Bytes(bytes) => Self::WriteBytes(Then::Done, bytes),
            Payload::Static(bytes) => Self::WriteStatic(Then::Done, bytes),
            Payload::Lease(lease) => Self::WriteLease(Then::Done, lease),
        }
    }
}

/// What travels through the ring.
#[derive(Debug)]
pub(crate) enum Submission<C> {
    Op(Operation<C>),
    Delegate { conn: Conn<C>, socket: Socket, linger: u16, unix: bool },
    Listen { socket: Socket, flag: ListenerFlag, id: ListenerId, linger: u16, unix: bool },
    Post(C),
}

/// A submission of the loop's own thread, which does not go through the ring.
#[derive(Debug)]
pub(crate) struct Local<C> {
    pub(crate) submission: Submission<C>,
    /// The ring's tail when it was submitted: what was pushed before goes first, what was pushed after goes later (G2).
    pub(crate) after: Position,
}

impl<C> Submission<C> {
    /// Must what is still in the ring go first? An ending must not overtake an operation, nor an operation the delegation
    /// of its connection.
    pub(crate) fn relies_on_the_ring(&self) -> bool {
        matches!(self, Self::Op(op) if op.body.is_ending() || op.conn.token() == Token::Unregistered)
    }

    /// Takes a refused operation apart.
    pub(crate) fn refuse(self, kind: SubmitErrorKind) -> Option<SubmitError<C>> {
        match self {
            Self::Op(Operation { conn, context, body }) => {
                conn.settle();
                Some(SubmitError { kind, context, buffer: body.into_payload() })
            }
            Self::Post(context) => Some(SubmitError { kind, context, buffer: None }),
            Self::Delegate { .. } | Self::Listen { .. } => None,
        }
    }
}

/// Marks an [`Op`] that stands alone.
#[derive(Debug)]
#[non_exhaustive]
pub struct Single;

/// Marks an [`Op`] that writes a `P` and may be linked to a read.
#[derive(Debug)]
pub struct Write<P>(PhantomData<P>);

/// Payloads that need not come back, so a linked write may end in a read of another kind.
pub trait Spendable: Into<Payload> {}
impl Spendable for Bytes {}
impl Spendable for &'static [u8] {}
impl<const N: usize> Spendable for &'static [u8; N] {}
impl Spendable for &'static str {}
impl Spendable for Lease {}

/// An operation that has not been submitted yet.
///
/// `K` says what it may be linked with: only a write can be followed by `then_read…`, and only a read that gives the
/// written vector back may follow the write of one, so no buffer can get lost.
///
/// Dropping it unsubmitted drops its buffer, and nothing else. The methods that submit differ in two ways: where the
/// context comes from (`_with`, or a default), and how long they wait while the ring is full:
///
/// | | waits for room | `Full` |
/// |---|---|---|
/// | [`submit`](Self::submit) | until there is some, or the loop shuts down; on a thread that runs a loop not at all | there |
/// | [`submit_timeout`](Self::submit_timeout) | so long; on a thread that runs a loop not at all | when the time is over |
/// | [`try_submit`](Self::try_submit) | not at all | at once |
///
/// Submitting on the loop's own thread takes its local queue, which is never full.
///
/// ```
/// # use std::os::unix::net::UnixStream;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (_watcher, submitter) = gaio::Watcher::<u64>::spawn_for(gaio::Options::default())?;
/// # let (ours, _peer) = UnixStream::pair()?;
/// # let conn = submitter.delegate(ours)?;
/// let request = Vec::from(*b"GET / HTTP/1.0\r\n\r\n");
/// conn.write(request).then_read().submit_with(7)?; // the context comes back with the completion
///
/// let refused = conn.read(Vec::new()).submit_with(8).unwrap_err(); // no room to read into
/// assert_eq!((refused.kind, refused.context), (gaio::SubmitErrorKind::EmptyBuffer, 8));
/// # Ok(()) }
/// ```
#[must_use = "nothing happens until it is submitted"]
#[derive(Debug)]
pub struct Op<'c, C, K = Single> {
    conn: &'c Conn<C>,
    body: Body,
    kind: PhantomData<K>,
}

impl<'c, C, K> Op<'c, C, K> {
    #[inline]
    pub(crate) const fn new(conn: &'c Conn<C>, body: Body) -> Self {
        Self { conn, body, kind: PhantomData }
    }

    #[inline]
    fn linked(mut self, then: Then) -> Op<'c, C> {
        self.body.set_then(then);
        Op::new(self.conn, self.body)
    }

    #[inline(always)]
    fn send(mut self, context: C, patience: Patience) -> Result<(), SubmitError<C>> {
        if let Err(kind) = self.body.prepare() {
            return Err(SubmitError { kind, context, buffer: self.body.into_payload() });
        }
        self.conn.submit(context, self.body, patience)
    }

    /// Hands it to the loop, with the context that its completion will carry.
    ///
    /// Lock-free while the ring has room. When it is full this parks until there is room; on a thread that runs a loop
    /// it never waits. `Ok` means: exactly one completion will come (G1). Other threads may submit on the same
    /// connection meanwhile. Cost: a handful of atomic operations, and one system call if the loop sleeps.
    ///
    /// # Errors
    /// `EmptyBuffer`, `TooLarge`, `TooMany`, `Closed`, and on the thread of another loop `Full`. Context and buffer
    /// come back.
    #[inline(always)]
    pub fn submit_with(self, context: C) -> Result<(), SubmitError<C>> {
        self.send(context, Patience::Forever)
    }

    /// [`Op::submit_with`] a default context.
    ///
    /// # Errors
    /// As [`Op::submit_with`].
    #[inline]
    pub fn submit(self) -> Result<(), SubmitError<C>>
    where
        C: Default,
    {
        self.submit_with(C::default())
    }

    /// Hands it over if there is room at once.
    ///
    /// # Errors
    /// As [`Op::submit_with`], and `Full` on any thread.
    pub fn try_submit_with(self, context: C) -> Result<(), SubmitError<C>> {
        self.send(context, Patience::None)
    }

    /// [`Op::try_submit_with`] a default context.
    ///
    /// # Errors
    /// As [`Op::try_submit_with`].
    pub fn try_submit(self) -> Result<(), SubmitError<C>>
    where
        C: Default,
    {
        self.try_submit_with(C::default())
    }

    /// Hands it over, waiting for room at most that long.
    ///
    /// # Errors
    /// As [`Op::submit_with`], and `Full` when the time is over.
    pub fn submit_timeout_with(self, context: C, timeout: Duration) -> Result<(), SubmitError<C>> {
        self.send(context, Patience::For(timeout))
    }

    /// [`Op::submit_timeout_with`] a default context.
    ///
    /// # Errors
    /// As [`Op::submit_timeout_with`].
    pub fn submit_timeout(self, timeout: Duration) -> Result<(), SubmitError<C>>
    where
        C: Default,
    {
        self.submit_timeout_with(C::default(), timeout)
    }
}

impl<'c, C> Op<'c, C, Write<Vec<u8>>> {
    /// Then reads into the same vector: one submission, one completion, and back-pressure by construction.
    ///
    /// The read begins when all is written, and goes behind the reads that are pending by then. Completes as the read
    /// does, or as `Failed` with the half that failed.
    pub fn then_read(self) -> Op<'c, C> {
        self.linked(Then::ReadSame)
    }
}

impl<'c, C, P: Spendable> Op<'c, C, Write<P>> {
    /// Then reads into the batch's arena. The payload is dropped once it is written.
    pub fn then_read_pooled(self) -> Op<'c, C> {
        self.linked(Then::ReadPooled)
    }

    /// Then reads into a lease; a lease that was written goes back to the pool first.
    pub fn then_read_leased(self) -> Op<'c, C> {
        self.linked(Then::ReadLeased)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// With its stamp of eight bytes a slot of the ring is a cache line; a context of 16 bytes makes it 96 at most.
    #[test]
    fn a_submission_fits_a_slot() {
        assert!(size_of::<Submission<()>>() <= 56, "{}", size_of::<Submission<()>>());
        assert!(size_of::<Submission<[u64; 2]>>() <= 88, "{}", size_of::<Submission<[u64; 2]>>());
    }
}
