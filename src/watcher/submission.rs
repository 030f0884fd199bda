//! What travels to the loop: through the ring, or from hand to hand where the loop is in reach.
//!
//! A submission is moved a few times on its way, so it is small: with its stamp, a slot of the ring is a cache line.

use std::num::NonZeroU32;

use bytes::Bytes;

use crate::error::{SubmitError, SubmitErrorKind};
use crate::event_loop::linear::Vacant;
use crate::sync::mutant;
use crate::sys::{Socket, StreamOptions};
use crate::watcher::Conn;
use crate::watcher::body::Body;
use crate::watcher::bounds::Bounds;
use crate::watcher::connecting::Connect;
use crate::watcher::link::Token;
use crate::watcher::outcome::ListenerId;
use crate::watcher::shared::ListenerFlag;

/// What was submitted: a handle, the caller's context, a verb with its buffer, and by when.
#[derive(Debug)]
pub(crate) struct Operation<C> {
    pub(crate) conn: Conn<C>,
    pub(crate) context: C,
    pub(crate) body: Body,
    pub(crate) bounds: Bounds,
}

/// What travels through the ring.
#[derive(Debug)]
pub(crate) enum Submission<C> {
    /// What a place holds that nothing is in.
    Nothing,
    Op(Operation<C>),
    Delegate {
        conn: Conn<C>,
        socket: Socket,
        linger: u16,
        unix: bool,
        leftover: Bytes,
    },
    Listen {
        socket: Socket,
        flag: ListenerFlag,
        id: ListenerId,
        linger: u16,
        unix: bool,
        /// What the accepted connections do not inherit.
        buffers: Option<Box<StreamOptions>>,
    },
    Post(C),
    /// `id` 0: it was not asked for.
    Timer {
        context: C,
        at: u64,
        id: u64,
    },
    Cancel {
        conn: Conn<C>,
        name: NonZeroU32,
    },
    CancelTimer {
        id: u64,
    },
    /// Boxed: it is large, and rare.
    Connect(Box<Connect<C>>),
    CancelConnect {
        id: u64,
    },
}

impl<C> Vacant for Submission<C> {
    #[inline(always)]
    fn vacant() -> Self {
        Self::Nothing
    }

    fn is_vacant(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

impl<C> Submission<C> {
    /// Must what is still in the ring go first? An ending or a cancel must not overtake an operation, nor an operation the
    /// delegation of its connection.
    pub(crate) fn relies_on_the_ring(&self) -> bool {
        match self {
            Self::Op(op) => op.body.is_ending() || op.conn.token() == Token::Unregistered,
            Self::Cancel { .. } | Self::CancelTimer { .. } | Self::CancelConnect { .. } => !mutant("cancel_overtakes"),
            _ => false,
        }
    }

    /// Takes a refused operation apart.
    pub(crate) fn refuse(self, kind: SubmitErrorKind) -> Option<SubmitError<C>> {
        match self {
            Self::Op(Operation { conn, context, body, .. }) => {
                conn.settle();
                Some(SubmitError { kind, context, buffer: body.into_payload() })
            }
            Self::Post(context) | Self::Timer { context, .. } => Some(SubmitError { kind, context, buffer: None }),
            Self::Connect(connect) => Some(SubmitError { kind, context: connect.context, buffer: None }),
            _ => None,
        }
    }
}

#[cold]
pub(crate) fn refuse<C>(kind: SubmitErrorKind, context: C, body: Body) -> SubmitError<C> {
    SubmitError { kind, context, buffer: body.into_payload() }
}

// A simulated socket is larger than a descriptor.
#[cfg(all(test, not(loom), not(gaio_sim)))]
mod tests {
    use super::*;

    /// With its stamp of eight bytes a slot of the ring is a cache line; a context of 16 bytes makes it 96 at most.
    #[test]
    fn a_submission_fits_a_slot() {
        assert!(size_of::<Submission<()>>() <= 56, "{}", size_of::<Submission<()>>());
        assert!(size_of::<Submission<[u64; 2]>>() <= 88, "{}", size_of::<Submission<[u64; 2]>>());
    }
}
