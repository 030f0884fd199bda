//! Sending what is left of one write to a stream.

use std::io::IoSlice;

use crate::event_loop::session::Verb;
use crate::sys::Errno;
use crate::watcher::queue::Pending;
use crate::watcher::turn::Turn;

/// How far a write has come.
pub(crate) enum Sent {
    All,
    Waits,
    Spent,
    Failed(Errno),
}

/// What a send has moved, or why it is the last one for now.
#[inline(always)]
pub(super) fn moved(verb: Verb, turn: &mut Turn<'_>) -> Result<usize, Sent> {
    match verb {
        Verb::Moved(n) => {
            turn.budget.moved(n);
            Ok(n)
        }
        Verb::Pending => Err(Sent::Waits),
        Verb::Failed(Errno::NOBUFS | Errno::NOMEM) => {
            turn.session.retry_soon(turn.key.token(), turn.timers);
            Err(Sent::Waits)
        }
        Verb::Failed(errno) => Err(Sent::Failed(errno)),
        Verb::Eof => unreachable!("a send has no end of stream"),
    }
}

/// Sends what is left of a write, until all is out, the system takes no more, or the budget is spent.
#[inline(always)]
pub(crate) fn send_rest<C>(pending: &mut Pending<C>, turn: &mut Turn<'_>) -> Sent {
    let bytes = pending.body.bytes();
    while pending.done < bytes.len() {
        if turn.budget.is_spent() {
            return Sent::Spent;
        }
        let rest = &bytes[pending.done..];
        let rest = &rest[..rest.len().min(turn.budget.bytes)];
        match moved(turn.session.send(&[IoSlice::new(rest)]), turn) {
            Ok(n) => pending.done += n,
            Err(sent) => return sent,
        }
    }
    Sent::All
}

/// The same of many pieces.
pub(crate) fn send_pieces<C>(pending: &mut Pending<C>, turn: &mut Turn<'_>) -> Sent {
    /// What a piece costs at least, in bytes of the budget: the system looks at each of them.
    const PIECE: usize = 64;
    while pending.body.has_pieces() {
        if turn.budget.is_spent() {
            return Sent::Spent;
        }
        let slices = pending.body.slices(turn.budget.bytes);
        let (verb, cost) = (turn.session.send(&slices), slices.len() * PIECE);
        drop(slices);
        match moved(verb, turn) {
            Ok(n) => {
                pending.done += n;
                pending.body.advance(n);
                turn.budget.moved(cost.saturating_sub(n));
            }
            Err(sent) => return sent,
        }
    }
    Sent::All
}
