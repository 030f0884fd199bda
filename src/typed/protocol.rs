//! What a user writes: a connection as a state machine.
//!
//! A [`Protocol`] is sans-I/O: it is given frames, messages and the passing of time, and says what to write and which
//! state comes next. It never sees a socket, a buffer that is half full, or a clock, so a test drives it as the loop does
//! (`gaio::testkit`).
//!
//! A callback consumes the state and returns the next one. A state that has been left cannot be used again: the compiler
//! sees to it.

use std::io;
use std::time::Duration;

use crate::typed::expect::{Decode, Expect};
use crate::typed::io::Io;
use crate::watcher::Detached;

/// A connection as a state machine, owned by its loop. Usually an enum with one variant per state.
///
/// All callbacks of one session run on its loop's thread, one at a time; other sessions of the loop wait meanwhile, so a
/// callback must not block. A panic in one ends this session alone, as [`End::Panicked`].
///
/// ```
/// use gaio::{Expect, Io, Next, Protocol};
///
/// /// Asks for a name, then greets with it every line.
/// enum Greeter {
///     Asking,
///     Greeting { name: String },
/// }
///
/// impl Protocol for Greeter {
///     type Message = ();
///
///     fn expects(&self) -> Expect {
///         Expect::until(b"\n").at_most(80)
///     }
///
///     fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
///         io.write(b"Your name?\n");
///         Next::Become(self)
///     }
///
///     fn on_frame(self, line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
///         match self {
///             Self::Asking => Next::Become(Self::Greeting { name: String::from_utf8_lossy(line).into_owned() }),
///             Self::Greeting { name } => {
///                 io.write(format!("{name} said {} bytes\n", line.len()).as_bytes());
///                 Next::Become(Self::Greeting { name })
///             }
///         }
///     }
/// }
///
/// let mut test = gaio::testkit::Bench::new(Greeter::Asking);
/// test.receive(b"Ann\nhello\n");
/// assert_eq!(test.written(), b"Your name?\nAnn said 5 bytes\n");
/// ```
pub trait Protocol: Sized + Send + 'static {
    /// What other sessions and other threads may send to this one; see [`Address`](crate::Address). A broadcast is
    /// cloned for each member: a panic of `clone` ends that member alone. Its `Drop` must not panic: that is of no
    /// session, and ends the loop.
    type Message: Send + 'static;

    /// What this state waits for. Asked after every callback, and whenever bytes arrive: it should be cheap, and depend
    /// on the state alone.
    fn expects(&self) -> Expect;

    /// A whole frame has arrived. It is borrowed from the loop's buffer; what is to outlive the call is copied.
    fn on_frame(self, frame: &[u8], io: &mut Io<'_, Self>) -> Next<Self>;

    /// Finds a frame in the input; only asked where [`Expect::custom`] is expected.
    fn decode(&self, input: &[u8]) -> Decode {
        let _ = input;
        Decode::Refuse("the protocol has no decoder")
    }

    /// The session begins. The server may speak first.
    fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
        let _ = io;
        Next::Become(self)
    }

    /// A message has arrived. One sender's arrive in the order in which they were sent.
    fn on_message(self, message: Self::Message, io: &mut Io<'_, Self>) -> Next<Self> {
        let _ = (message, io);
        Next::Become(self)
    }

    /// The peer will send no more, and everything it sent has been handed over. Default: close, after all output is out.
    /// (A peer that ends in the middle of a frame ends the session as [`End::CutShort`]: see
    /// [`on_bad_frame`](Self::on_bad_frame).)
    fn on_eof(self, io: &mut Io<'_, Self>) -> Next<Self> {
        let _ = io;
        Next::Close(self)
    }

    /// The input can never become a frame that this state expects, for this reason: [`End::TooLong`], [`End::Refused`] or
    /// [`End::CutShort`]. The session ends with it. What is written here is its last word: it goes out first, as by
    /// [`Next::Close`], within the time of a graceful close. Default: nothing, and the session ends at once.
    ///
    /// ```
    /// use gaio::{End, Expect, Io, Next, Protocol};
    ///
    /// struct Lines;
    ///
    /// impl Protocol for Lines {
    ///     type Message = ();
    ///     fn expects(&self) -> Expect {
    ///         Expect::until(b"\n").at_most(80)
    ///     }
    ///     fn on_frame(self, _line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
    ///         io.write(b"ok\n");
    ///         Next::Become(self)
    ///     }
    ///     fn on_bad_frame(&mut self, why: &End, io: &mut Io<'_, Self>) {
    ///         if let End::TooLong { at_most } = why {
    ///             io.write(format!("a line has {at_most} characters at most\n").as_bytes());
    ///         }
    ///     }
    /// }
    ///
    /// let mut test = gaio::testkit::Bench::new(Lines);
    /// test.receive(&[b'x'; 100]);
    /// assert_eq!(test.written(), b"a line has 80 characters at most\n");
    /// assert!(matches!(test.ended(), Some(End::TooLong { .. })));
    /// ```
    fn on_bad_frame(&mut self, why: &End, io: &mut Io<'_, Self>) {
        let _ = (why, io);
    }

    /// A time limit of what the state expects has passed. Default: close. A session that closes here ends as
    /// [`End::TimedOut`]; if it goes on, the limit begins anew.
    fn on_timeout(self, limit: TimeLimit, io: &mut Io<'_, Self>) -> Next<Self> {
        let _ = (limit, io);
        Next::Close(self)
    }

    /// A timer of [`Io::timer`] has come to its end.
    fn on_timer(self, name: u64, io: &mut Io<'_, Self>) -> Next<Self> {
        let _ = (name, io);
        Next::Become(self)
    }

    /// Output has fallen below the low-water mark, after it was above the high one: there is room to produce more.
    fn on_drained(self, io: &mut Io<'_, Self>) -> Next<Self> {
        let _ = io;
        Next::Become(self)
    }

    /// The server is shutting down. Default: close, after all output is out. A session that goes on is aborted when the
    /// grace is over. Until then it can send to other sessions of its loop, but to none of another.
    fn on_shutdown(self, io: &mut Io<'_, Self>) -> Next<Self> {
        let _ = io;
        Next::Close(self)
    }

    /// The session has ended and its descriptor is gone. Called once, always; the state is `None` only if a callback has
    /// panicked with it.
    fn on_end(state: Option<Self>, end: &End) {
        let _ = (state, end);
    }
}

/// What becomes of a session after a callback.
#[must_use]
#[expect(clippy::exhaustive_enums, reason = "what a session can do next is what users match on in tests")]
pub enum Next<P> {
    /// It goes on, in this state.
    Become(P),
    /// It closes gracefully: all output goes out, then the sending side is shut down, what still arrives is thrown away,
    /// and the descriptor is closed. "Answer, then close": the tail is not lost.
    ///
    /// All of that together may take [`close_within`](crate::SessionLimits::close_within) (5 s), whether the peer reads
    /// or not. A large answer to a slow line may need more: then let the session go on, and close it in
    /// [`on_drained`](Protocol::on_drained), or raise the limit. What is unsent when the time is over is lost, and the
    /// session ends as [`End::CloseTimedOut`].
    Close(P),
    /// It ends now, by a reset; output that is still queued is dropped. (Unix sockets have no reset: the peer reads the
    /// end of the stream, as if it were a clean one.)
    Abort(P),
    /// It leaves the loop: when all output is out, the socket and the input that was not consumed are handed to the
    /// function, on the loop's thread. It may delegate them to a watcher or to another loop.
    ///
    /// The output has [`close_within`](crate::SessionLimits::close_within) for that. Then the function is dropped
    /// without having been called, and the session ends as [`End::CloseTimedOut`].
    Leave(P, Box<dyn FnOnce(Detached) + Send>),
}

impl<P: std::fmt::Debug> std::fmt::Debug for Next<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, state) = match self {
            Self::Become(state) => ("Become", state),
            Self::Close(state) => ("Close", state),
            Self::Abort(state) => ("Abort", state),
            Self::Leave(state, _) => ("Leave", state),
        };
        f.debug_tuple(name).field(state).finish()
    }
}

/// Which time limit has passed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a frame has a beginning and an end")]
pub enum TimeLimit {
    /// Of [`Expect::within`]: a frame has begun and not ended in time.
    Frame(Duration),
    /// Of [`Expect::idle_within`]: no frame has begun in time.
    Idle(Duration),
}

/// Why a session has ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum End {
    /// The protocol closed it, and all its output was handed to the system.
    Closed,
    /// The protocol aborted it.
    Aborted,
    /// It has left the loop.
    Left,
    /// A frame was, or would have been, larger than the state allows.
    TooLong {
        /// What it allows.
        at_most: usize,
    },
    /// The input can never become a frame.
    Refused(&'static str),
    /// The peer ended in the middle of a frame.
    CutShort {
        /// Bytes of the incomplete frame.
        got: usize,
    },
    /// A time limit of its state was over, and its [`on_timeout`](Protocol::on_timeout) has closed it.
    TimedOut(TimeLimit),
    /// More output was queued than [`SessionLimits::output`](crate::SessionLimits::output) allows.
    Overflow,
    /// A graceful close ran out of time with output unsent.
    CloseTimedOut,
    /// A callback has panicked.
    Panicked,
    /// It was to be opened, and the loop had as many sessions as [`SessionLimits::sessions`](crate::SessionLimits::sessions)
    /// allows.
    TooMany,
    /// The system's error: mostly that the peer has reset the connection.
    Os(io::Error),
    /// The loop has ended, and the session had not closed by itself.
    Shutdown,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Aborted => f.write_str("aborted by the protocol"),
            Self::Left => f.write_str("left the loop"),
            Self::TooLong { at_most } => write!(f, "a frame of more than {at_most} bytes"),
            Self::Refused(why) => write!(f, "no frame: {why}"),
            Self::CutShort { got } => write!(f, "the peer ended after {got} bytes of a frame"),
            Self::TimedOut(TimeLimit::Frame(time)) => write!(f, "a frame took longer than {time:?}"),
            Self::TimedOut(TimeLimit::Idle(time)) => write!(f, "nothing came for {time:?}"),
            Self::Overflow => f.write_str("too much output queued"),
            Self::CloseTimedOut => f.write_str("the peer did not take the output in time"),
            Self::TooMany => f.write_str("the loop has as many sessions as it may"),
            Self::Panicked => f.write_str("a callback panicked"),
            Self::Os(error) => error.fmt(f),
            Self::Shutdown => f.write_str("the loop has ended"),
        }
    }
}
