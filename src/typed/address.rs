//! Addresses: where messages to a session are sent, by anybody.
//!
//! An address names a session of one loop by its token, which carries a generation: a message to a session that has
//! ended reaches nobody, never the one that came after it (T8). It holds the way into the loop, not the session: sessions end
//! whether anybody has their address or not.

use std::fmt;
use std::hash::{Hash, Hasher};

use std::sync::Arc;

/// The way into a loop, for messages of one type, whatever protocol it runs.
pub(crate) trait Post<M>: Send + Sync {
    fn post(&self, token: u64, message: M) -> Result<(), SendError<M>>;
}

/// Where messages to one session are sent: `Clone`, `Send`, `Sync`.
///
/// Two addresses are equal if they name the same session, and hash alike.
pub struct Address<M> {
    post: Arc<dyn Post<M>>,
    token: u64,
}

impl<M> Address<M> {
    pub(crate) const fn new(post: Arc<dyn Post<M>>, token: u64) -> Self {
        Self { post, token }
    }

    /// Sends a message, from any thread; never waits.
    ///
    /// `Ok`: the loop has it. It is handed over in the order in which this sender has sent; if the session ends before, it
    /// is dropped, and [counted](crate::Snapshot::undelivered). On the loop's own thread this takes no atomic
    /// read-modify-write and never finds the ring full.
    ///
    /// # Errors
    /// The message comes back: `Full`, if the loop is behind; `Closed`, if it is shutting down. (Within the grace of a shutdown
    /// the sessions of one loop can still send to each other.)
    pub fn send(&self, message: M) -> Result<(), SendError<M>> {
        self.post.post(self.token, message)
    }
}

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self { post: self.post.clone(), token: self.token }
    }
}

impl<M> PartialEq for Address<M> {
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token && Arc::as_ptr(&self.post).cast::<u8>() == Arc::as_ptr(&other.post).cast::<u8>()
    }
}

impl<M> Eq for Address<M> {}

impl<M> Hash for Address<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.token, Arc::as_ptr(&self.post).cast::<u8>()).hash(state);
    }
}

impl<M> fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("session", &self.token).finish_non_exhaustive()
    }
}

/// Why a message was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// The loop's ring is full: it is behind. Send again later, or drop it.
    Full,
    /// The loop is shutting down or gone.
    Closed,
}

/// A message that was not taken, handed back.
pub struct SendError<M> {
    /// Why.
    pub kind: SendErrorKind,
    /// The message.
    pub message: M,
}

impl<M> fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl fmt::Display for SendErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the loop's ring is full: send again later",
            Self::Closed => "the loop has been shut down",
        })
    }
}

impl std::error::Error for SendErrorKind {}

impl<M> fmt::Display for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl<M> std::error::Error for SendError<M> {}
