//! Typed errors. What is refused comes back inside the error, whole.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::sys::Socket;
use crate::watcher::{Failure, Half, Payload};

/// Why a submission was refused; nothing of it has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SubmitErrorKind {
    /// The loop is shutting down or gone. Stop submitting.
    Closed,
    /// The ring is full, and this call may not wait (or not any longer). Try again after the next batch.
    Full,
    /// A cap on operations in flight or queued bytes is reached (of a connect: or that on sessions). Take completions
    /// first.
    TooMany,
    /// A read into a buffer of no capacity, or a write of no bytes (to a stream, or what came back of a copied write). Give it
    /// at least one byte.
    EmptyBuffer,
    /// The buffer of an exact read could not be grown to the size asked for.
    TooLarge,
    /// An exact read, or the end of the sending side, on a datagram socket: its messages have borders, and no end.
    NotAStream,
    /// A connect without an address. Give it one at least.
    NoAddress,
}

impl fmt::Display for SubmitErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the loop has been shut down",
            Self::Full => "the submission ring is full: try again after taking completions",
            Self::TooMany => "too many operations or bytes in flight: take completions first, or raise the limit",
            Self::EmptyBuffer => "the buffer has no room to read into, or nothing to write",
            Self::TooLarge => "the buffer could not be grown to the size of the exact read",
            Self::NotAStream => "a datagram socket is no stream: no exact reads, and no end of the sending side",
            Self::NoAddress => "there is no address to connect to",
        })
    }
}

impl std::error::Error for SubmitErrorKind {}

/// A refused submission, with its context and buffer: nothing of it has happened, so it can be tried again.
///
/// ```no_run
/// # fn f(conn: gaio::Conn) {
/// if let Err(refused) = conn.write(vec![1, 2, 3]).submit() {
///     eprintln!("{refused}");
///     let buffer = refused.buffer; // the same allocation
/// #   let _ = buffer;
/// }
/// # }
/// ```
pub struct SubmitError<C = ()> {
    /// Why.
    pub kind: SubmitErrorKind,
    /// The caller's context.
    pub context: C,
    /// The operation's buffer, if it had one. A copied write has none: its bytes are still the caller's.
    pub buffer: Option<Payload>,
}

impl<C> fmt::Debug for SubmitError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<C> fmt::Display for SubmitError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl<C> std::error::Error for SubmitError<C> {}

/// Why a socket was not taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum DelegateErrorKind {
    /// The loop is shutting down or gone.
    Closed,
    /// The ring is full, and this call may not wait (it was made on a loop's thread).
    Full,
    /// The limit on sessions is reached.
    TooMany,
    /// This descriptor cannot be delegated (or listened on); says what it is and what to do.
    Unsupported(&'static str),
    /// The system refused to set it up.
    Os(io::Error),
}

/// A socket that was not taken, handed back.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (_watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let refused = submitter.delegate(listener).unwrap_err(); // a listener is no connection
/// assert!(refused.to_string().contains("give it to `listen`"));
/// let listener = std::net::TcpListener::from(refused.socket); // and is still ours
/// # drop(listener); Ok(()) }
/// ```
#[derive(Debug)]
pub struct DelegateError {
    /// Why.
    pub kind: DelegateErrorKind,
    /// The socket. One that could have been delegated may have been set to non-blocking and close-on-exec, with its
    /// `SO_LINGER` switched off; any other is as it was.
    pub socket: Socket,
    /// The bytes that were to come with it; empty but for [`Submitter::delegate_with`](crate::Submitter::delegate_with).
    pub leftover: Bytes,
}

impl fmt::Display for DelegateErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the loop has been shut down"),
            Self::Full => f.write_str("the submission ring is full: try again after taking completions"),
            Self::TooMany => f.write_str("too many sessions: close some, or raise the limit"),
            Self::Unsupported(what) => write!(f, "cannot be delegated: {what}"),
            Self::Os(error) => write!(f, "the system refused the socket: {error}"),
        }
    }
}

impl std::error::Error for DelegateErrorKind {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for DelegateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl std::error::Error for DelegateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.kind)
    }
}

/// Why an accepted operation failed. The bytes that did move are counted in the [`Failure`](crate::Failure).
#[derive(Debug)]
#[non_exhaustive]
pub enum OpError {
    /// The system's error.
    Os(io::Error),
    /// The connection was closed, released or closing before this operation was started.
    Closed,
    /// Its deadline passed before it was over.
    TimedOut,
    /// It was cancelled before it was over.
    Cancelled,
    /// The connection was closed or released while this operation was pending.
    Released,
    /// The loop was shut down while this operation was pending.
    Aborted,
    /// An earlier write failed, perhaps with a part of it sent, or the sending side was shut down: nothing may follow.
    /// Reads go on.
    Broken,
    /// The system refused to register the descriptor, so there is no connection to operate on.
    NotRegistered,
    /// The loop ended by a panic in user code (the `Drop` of a context or buffer).
    LoopFailed,
    /// A datagram found too little room, and its end is lost. What did fit is in the [`Failure`](crate::Failure).
    Truncated {
        /// The bytes that were sent.
        whole: usize,
    },
}

impl OpError {
    /// The system's error code, if it was the system that failed.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Os(error) => error.raw_os_error(),
            _ => None,
        }
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os(error) => error.fmt(f),
            Self::TimedOut => f.write_str("the deadline passed before the operation was over"),
            Self::Cancelled => f.write_str("the operation was cancelled"),
            Self::Closed => f.write_str("the connection is closed"),
            Self::Released => f.write_str("the connection was released while the operation was pending"),
            Self::Aborted => f.write_str("the loop was shut down while the operation was pending"),
            Self::Broken => f.write_str("an earlier write was torn, or the sending side shut down: nothing may follow"),
            Self::NotRegistered => f.write_str("the system refused to register the descriptor"),
            Self::LoopFailed => f.write_str("the loop ended by a panic in user code"),
            Self::Truncated { whole } => {
                write!(f, "a datagram of {whole} bytes found too little room: its end is lost")
            }
        }
    }
}

impl std::error::Error for OpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let half = if self.half == Half::Read { "reading" } else { "writing" };
        write!(f, "{half} failed after {} bytes: {}", self.transferred, self.error)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // Its own text has that of `error` in it.
        self.error.source()
    }
}

impl From<OpError> for io::Error {
    fn from(error: OpError) -> Self {
        let kind = match error {
            OpError::Os(error) => return error,
            OpError::Closed | OpError::NotRegistered => io::ErrorKind::NotConnected,
            OpError::Broken => io::ErrorKind::BrokenPipe,
            OpError::TimedOut => io::ErrorKind::TimedOut,
            OpError::Truncated { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::ConnectionAborted,
        };
        Self::new(kind, error)
    }
}

/// Why a connect came to nothing; of [`Event::Connected`](crate::Event::Connected).
#[derive(Debug)]
#[non_exhaustive]
pub struct ConnectError {
    /// `Os` if every address failed: what the system said of the last one. Otherwise `TimedOut`, `Cancelled`, `Aborted`
    /// or `LoopFailed`.
    pub error: OpError,
    /// The addresses that had failed by then, in the order in which they did, with what the system said of each. Empty
    /// for a Unix path.
    pub failed: Vec<(SocketAddr, io::Error)>,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no connection")?;
        match &self.error {
            OpError::Os(_) if !self.failed.is_empty() => {} // It is the last of them.
            error => write!(f, ": {error}")?,
        }
        self.failed.iter().try_for_each(|(addr, error)| write!(f, ": {addr}: {error}"))
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        error.error.into()
    }
}

/// Why there will be no more batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WaitError {
    /// The loop was shut down, and everything it had to say has been handed out.
    Closed,
    /// The loop ended by a panic in user code; everything that could be completed has been handed out.
    LoopFailed,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the loop has been shut down, and all its completions have been taken",
            Self::LoopFailed => "the loop ended by a panic in user code",
        })
    }
}

impl std::error::Error for WaitError {}

impl From<WaitError> for io::Error {
    fn from(error: WaitError) -> Self {
        Self::new(io::ErrorKind::NotConnected, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_failed_after_how_much_and_why() {
        let os = io::Error::from(io::ErrorKind::BrokenPipe);
        let failure = Failure { error: OpError::Os(os), half: Half::Write, transferred: 3, buffer: None };
        assert_eq!(failure.to_string(), "writing failed after 3 bytes: broken pipe");
        assert!(std::error::Error::source(&failure).is_some());
    }
}
