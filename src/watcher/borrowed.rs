//! Writes of bytes that are only borrowed: [`Conn::write_copied`](crate::Conn::write_copied).
//!
//! ```text
//!   submitted ──┬── the loop is at hand, the write first in line ──┬── all of it sent ──► completed: nothing was copied
//!               │                                                  └── a part, or nothing ─┐
//!               └── by the ring, or behind other writes ────────────────────────────────────┴─► a copy waits
//! ```
//!
//! Where the loop takes a submission up within the call (`between_turns.rs`, `driving.rs`), the bytes are still there, and
//! are sent from where they are. What has to outlive the call is copied into a lease. Nobody sees which of the two it
//! was: success says how much was written, and takes a copy home unseen; a failure brings the bytes along.

use crate::error::{SubmitError, SubmitErrorKind};
use crate::event_loop::EventLoop;
use crate::event_loop::inbox::Patience;
use crate::sync::Arc;
use crate::watcher::Conn;
use crate::watcher::body::{Body, Piece, Then};
use crate::watcher::bounds::Bounds;
use crate::watcher::outcome::{Copied, Payload};
use crate::watcher::pool::Pool;
use crate::watcher::starting::Write;
use crate::watcher::submission::Submission;

/// Bytes of the caller's, for the length of one call.
pub(crate) struct Borrowed<'b> {
    bytes: &'b [u8],
    pool: &'b Arc<Pool>,
}

impl AsRef<[u8]> for Borrowed<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

impl Piece for Borrowed<'_> {
    fn into_body(self, then: Then) -> Body {
        let then = if then == Then::DONE { Then::DONE_OF_COPY } else { then };
        Body::WriteLease(then, Pool::copy(self.pool, self.bytes))
    }

    fn written(self) -> Payload {
        Payload::Copied(Copied::in_place(self.bytes.len()))
    }
}

impl<C> Conn<C> {
    /// As `submit`, of a write of `bytes`. A refusal brings no buffer: the bytes never left the caller.
    #[inline(never)]
    pub(crate) fn submit_borrowed(
        &self,
        context: C,
        bytes: &[u8],
        then: Then,
        bounds: Bounds,
        patience: Patience,
    ) -> Result<(), SubmitError<C>> {
        let refused = |kind, context| Err(SubmitError { kind, context, buffer: None });
        if bytes.is_empty() && !self.link().datagrams {
            return refused(SubmitErrorKind::EmptyBuffer, context);
        }
        let conn = match self.begin(bytes.len(), false) {
            Ok(conn) => conn,
            Err(kind) => return refused(kind, context),
        };
        let shared = &self.link().shared;
        let payload = Borrowed { bytes, pool: &shared.pool };
        if let Some(mut at_hand) = shared.at_hand() {
            let EventLoop { core, face, .. } = at_hand.event_loop();
            face.write(core, Write { conn, context, bounds, then, payload });
            return Ok(());
        }
        if let Some(mut between) = shared.place.at_rest_here() {
            if let Some(EventLoop { core, face, .. }) = between.at_hand() {
                face.write(core, Write { conn, context, bounds, then, payload });
                return Ok(());
            }
        }
        let write = Write { conn, context, bounds, then, payload };
        shared.inbox.submit(Submission::Op(write.whole()), patience).map_err(|(kind, submission)| {
            let refused = shared.take_back(bytes.len(), kind, submission);
            SubmitError { buffer: None, ..refused }
        })
    }
}
