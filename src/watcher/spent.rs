//! Payloads that nobody gets back: what a linked write has sent, and what is left of the bytes that came with a socket.
//!
//! Their drop may be the user's code, the owner of a `Bytes`. In the middle of a turn its panic would leave an operation in
//! two queues, or in none; so they wait for the end of the turn, when nothing is in hand (G11). What it submits, or a
//! shutdown that it asks for, is seen before the loop ends.

use bytes::Bytes;

use crate::watcher::ending::Ending;
use crate::watcher::panics::Panics;
use crate::watcher::proactor::Proactor;

#[derive(Debug, Default)]
pub(crate) struct Spent {
    whole: Vec<Bytes>,
    /// Each as it was submitted: so its memory goes with it.
    pieces: Vec<Vec<Bytes>>,
}

impl Spent {
    #[inline]
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.whole.push(bytes);
    }

    pub(crate) fn push_pieces(&mut self, pieces: Vec<Bytes>) {
        self.pieces.push(pieces);
    }

    /// 0 if there is none: one comparison tells, since it is asked for several times a turn.
    #[inline]
    pub(crate) fn some(&self) -> usize {
        self.whole.len() | self.pieces.len()
    }

    /// The next one. Those behind it stay here, however its drop ends.
    fn next(&mut self) -> Option<Bytes> {
        while let Some(pieces) = self.pieces.last_mut() {
            if let Some(piece) = pieces.pop() {
                return Some(piece);
            }
            self.pieces.pop();
        }
        self.whole.pop()
    }
}

impl<C> Proactor<C> {
    /// Is something done with? Not while the loop ends: what is there then goes with the loop itself, when all it had to say
    /// has been handed over.
    #[inline]
    pub(crate) fn has_spent(&self) -> bool {
        self.spent.some() > 0 && matches!(self.ending, Ending::No | Ending::Grace(_))
    }

    /// Drops what is done with.
    #[inline]
    pub(crate) fn drop_spent(&mut self) {
        if self.has_spent() {
            self.drop_all();
        }
    }

    #[inline(never)]
    fn drop_all(&mut self) {
        while let Some(bytes) = self.spent.next() {
            drop(bytes);
        }
    }

    /// The same, when the loop is over: one by one, since two panics at once would abort the process.
    pub(crate) fn drop_last(&mut self, panics: &Panics) {
        while let Some(bytes) = self.spent.next() {
            panics.put_off(|| drop(bytes));
        }
    }
}
