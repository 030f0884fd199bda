//! Operations: what a handle builds.
//!
//! An [`Op`] borrows its connection, and owns its buffer or, of a copied write, borrows that too; nothing happens until it is
//! submitted. Submitted, it becomes a `Submission` that holds a handle of its own, so an operation in flight keeps its
//! connection open (I7).

use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::{SubmitError, SubmitErrorKind};
use crate::event_loop::inbox::{Patience, nanos};
use crate::sys;
use crate::watcher::body::{Body, Then};
use crate::watcher::bounds::Bounds;
use crate::watcher::submission::refuse;
use crate::watcher::{Conn, Lease};

/// Names one operation of one connection, to [cancel](Conn::cancel) it by. Given by [`Op::named`].
///
/// Names are counted per connection, modulo 2²⁴: a name that is kept that long may name a later operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OpId(pub(crate) NonZeroU32);

/// Names one timer, to [cancel](crate::Submitter::cancel_timer) it by. Never given twice by one loop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerId(pub(crate) u64);

/// Marks an [`Op`] that stands alone.
#[derive(Debug)]
#[non_exhaustive]
pub struct Single;

/// Marks an [`Op`] that writes a `P` and may be linked to a read.
#[derive(Debug)]
pub struct Write<P>(PhantomData<P>);

/// Payloads that need not come back, so a linked write may end in a read of another kind.
pub trait Spendable {}
impl Spendable for Bytes {}
impl Spendable for &[u8] {}
impl<const N: usize> Spendable for &'static [u8; N] {}
impl Spendable for &'static str {}
impl Spendable for Lease {}
impl Spendable for Vec<Bytes> {}

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
/// Submitting on the loop's own thread takes no ring, and is never refused as `Full`: an embedded loop takes it up at once,
/// within the call. So does a loop that is at rest, from the consumer that [drives](crate::Driver) it.
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
    bounds: Bounds,
    goes: Goes<'c>,
    kind: PhantomData<K>,
}

/// What becomes of an [`Op`] that is submitted.
#[derive(Clone, Copy, Debug)]
enum Goes<'c> {
    /// As it is, with so many bytes to write.
    Whole(usize),
    /// A write of these, which are not in its body.
    Borrowed(&'c [u8]),
    /// It could never complete. Found where the verb is known at compile time, and said when it is submitted.
    Refused(SubmitErrorKind),
}

impl<'c, C, K> Op<'c, C, K> {
    #[inline(always)]
    pub(crate) fn new(conn: &'c Conn<C>, mut body: Body) -> Self {
        let prepared = body.prepare(conn.link().datagrams);
        let goes = prepared.map_or_else(Goes::Refused, |()| Goes::Whole(body.len()));
        Self { conn, body, bounds: Bounds::NONE, goes, kind: PhantomData }
    }

    /// A write of `bytes`; its body says what follows.
    #[inline(always)]
    pub(crate) fn borrowed(conn: &'c Conn<C>, bytes: &'c [u8]) -> Self {
        let body = Body::WriteLease(Then::DONE, Lease::NONE);
        Self { conn, body, bounds: Bounds::NONE, goes: Goes::Borrowed(bytes), kind: PhantomData }
    }

    /// Gives it a deadline: if it is not over by then, it completes as [`OpError::TimedOut`](crate::OpError::TimedOut),
    /// with what did move.
    ///
    /// It is tried before the deadline is looked at: with the bytes there already, a read succeeds however late it is.
    /// A linked operation has one deadline for both halves. A write that was sent in part leaves the sending side broken
    /// (what follows fails as `Broken`); the bytes of an exact read that did arrive come back with it. For
    /// [`Conn::close`] it is the time bound of the graceful close, for [`Conn::into_fd`] that of the writes before it.
    ///
    /// Rounded up to 2²⁰ ns (about a millisecond), and by as much again where the system's sleep is coarse: never early.
    /// What comes due while the loop is busy expires at the end of its next turn that looks for events, which does not sleep.
    /// Time that the machine is suspended does not count, as for [`Instant`]: deadlines, timers and pauses stand still.
    /// Cost: one look at the clock; if it has to wait, a few stores to arm and to disarm.
    ///
    /// ```
    /// # use std::{os::unix::net::UnixStream, time::Duration};
    /// use gaio::{Event, OpError, Outcome};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
    /// # let (ours, _silent) = UnixStream::pair()?;
    /// # let conn = submitter.delegate(ours)?;
    /// conn.read_leased().within(Duration::from_millis(5)).submit()?;
    /// let event = watcher.wait()?.next();
    /// let Some(Event::Done { outcome: Outcome::Failed(failure), .. }) = event else { panic!() };
    /// assert!(matches!(failure.error, OpError::TimedOut));
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn within(mut self, time: Duration) -> Self {
        self.bounds = self.bounds.with_deadline(sys::now().saturating_add(nanos(time)));
        self
    }

    /// As [`within`](Self::within), with an instant. One in the past is fine: the operation is tried once.
    #[inline]
    pub fn by(mut self, instant: Instant) -> Self {
        self.bounds = self.bounds.with_deadline(sys::at(instant));
        self
    }

    /// Gives it a name, by which [`Conn::cancel`] finds it while it is pending.
    ///
    /// ```
    /// # use std::os::unix::net::UnixStream;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
    /// # let (ours, _silent) = UnixStream::pair()?;
    /// # let conn = submitter.delegate(ours)?;
    /// let (read, id) = conn.read_leased().named();
    /// read.submit()?;
    /// conn.cancel(id)?;
    /// let event = watcher.wait()?.next();
    /// let Some(gaio::Event::Done { outcome: gaio::Outcome::Failed(failure), .. }) = event else { panic!() };
    /// assert!(matches!(failure.error, gaio::OpError::Cancelled));
    /// # Ok(()) }
    /// ```
    pub fn named(mut self) -> (Self, OpId) {
        let name = self.conn.link().next_name();
        self.bounds = self.bounds.with_name(name);
        (self, OpId(name))
    }

    #[inline(always)]
    fn linked(mut self, then: Then) -> Op<'c, C> {
        self.body.set_then(then);
        let Self { conn, body, bounds, goes, .. } = self;
        Op { conn, body, bounds, goes, kind: PhantomData }
    }

    #[inline(always)]
    fn send(self, context: C, patience: Patience) -> Result<(), SubmitError<C>> {
        let Goes::Whole(len) = self.goes else { return self.send_otherwise(context, patience) };
        let Self { conn, body, bounds, .. } = self;
        conn.submit(context, body, len, bounds, patience)
    }

    #[inline(always)]
    fn send_otherwise(self, context: C, patience: Patience) -> Result<(), SubmitError<C>> {
        let Self { conn, body, bounds, goes, .. } = self;
        match goes {
            Goes::Borrowed(bytes) => {
                let then = body.then().unwrap_or(Then::DONE);
                // It holds nothing.
                std::mem::forget(body);
                conn.submit_borrowed(context, bytes, then, bounds, patience)
            }
            Goes::Refused(kind) => Err(refuse(kind, context, body)),
            Goes::Whole(_) => unreachable!("`send` has sent it"),
        }
    }

    /// Hands it to the loop, with the context that its completion will carry.
    ///
    /// Lock-free while the ring has room. When it is full this parks until there is room; on a thread that runs a loop
    /// it never waits. `Ok` means: exactly one completion will come (G1). Other threads may submit on the same
    /// connection meanwhile. Cost: a handful of atomic operations, and one system call if the loop sleeps; where it is
    /// taken up at once, what beginning the operation costs: for a write, sending it.
    ///
    /// # Errors
    /// `EmptyBuffer`, `NotAStream`, `TooLarge`, `TooMany`, `Closed`, and on the thread of another loop `Full`. Context and buffer
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
    /// does, or as `Failed` with the half that failed. It has as much room as the vector: an answer that is a longer
    /// datagram is cut, so give it some to spare.
    pub fn then_read(mut self) -> Op<'c, C> {
        // An empty datagram is one, but there is no reading into its vector.
        if matches!(&self.body, Body::WriteVec(_, bytes) if bytes.capacity() == 0) {
            self.goes = Goes::Refused(SubmitErrorKind::EmptyBuffer);
        }
        self.linked(Then::READ_SAME)
    }
}

impl<'c, C, P: Spendable> Op<'c, C, Write<P>> {
    /// Then reads into the batch's arena. The payload is dropped at the end of the turn that has written it.
    pub fn then_read_pooled(self) -> Op<'c, C> {
        self.linked(Then::READ_POOLED)
    }

    /// Then reads into a lease; a lease that was written goes back to the pool first. Another payload is dropped at the end of
    /// the turn that has written it.
    pub fn then_read_leased(self) -> Op<'c, C> {
        self.linked(Then::READ_LEASED)
    }
}
