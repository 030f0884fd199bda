//! The way out: the batch that is being filled, and how it reaches the consumer.
//!
//! | drive    | filled by | handed over                                   | full means                            |
//! |----------|-----------|-----------------------------------------------|---------------------------------------|
//! | spawned  | the loop  | by `publish`, if the batch before was taken   | at its cap, and the cell not taken    |
//! | embedded | the turn  | by the return of the turn                     | at its cap                            |
//!
//! Full is not busy: the loop parks, and the take that empties the cell raises the gate. What may pile up in a batch
//! that cannot be handed over (the residue) is bounded by what may be in flight (G3), and by the listeners' credit.

use crate::event_loop::counters::{Counters, count};
use crate::handoff::{Published, Publisher};
use crate::limits::Limits;
use crate::sync::Arc;
use crate::watcher::batch::Buffer;

#[derive(Debug)]
pub(crate) enum Way<C> {
    Mailbox(Publisher<Buffer<C>>),
    Turn(Buffer<C>),
}

#[derive(Debug)]
pub(crate) struct Outbox<C> {
    way: Way<C>,
    /// Accepted connections in the mailbox's cell: with those in the filling batch, what the credit counts.
    in_cell: usize,
    /// The last batch, the one with the end in it, is the consumer's.
    ended: bool,
    /// A consumer that waited was woken since this was last asked.
    woken: bool,
    cap: usize,
    cap_bytes: usize,
    credit: usize,
    counters: Arc<Counters>,
}

impl<C> Outbox<C> {
    pub(crate) const fn new(way: Way<C>, limits: &Limits, counters: Arc<Counters>) -> Self {
        Self {
            way,
            in_cell: 0,
            ended: false,
            woken: false,
            cap: limits.batch,
            cap_bytes: limits.batch_bytes,
            credit: limits.listen_credit,
            counters,
        }
    }

    pub(crate) const fn set_limits(&mut self, limits: &Limits) {
        (self.cap, self.cap_bytes, self.credit) = (limits.batch, limits.batch_bytes, limits.listen_credit);
    }

    #[inline]
    pub(crate) fn filling(&mut self) -> &mut Buffer<C> {
        match &mut self.way {
            Way::Mailbox(publisher) => publisher.filling(),
            Way::Turn(buffer) => buffer,
        }
    }

    /// No place for another completion, now.
    #[inline]
    pub(crate) fn is_full(&mut self) -> bool {
        let (cap, cap_bytes) = (self.cap, self.cap_bytes);
        let filling = self.filling();
        (filling.len() >= cap || filling.bytes >= cap_bytes) && !self.hand_over()
    }

    /// May one more connection be accepted? If not, the take that makes it so raises the gate.
    pub(crate) fn has_credit(&mut self) -> bool {
        let filling = self.filling().accepted;
        if self.in_cell + filling < self.credit {
            return true;
        }
        if let Way::Mailbox(publisher) = &mut self.way {
            if publisher.is_taken() {
                self.in_cell = 0;
            }
        }
        self.in_cell + filling < self.credit
    }

    /// Gives the batch to the consumer, if the one before was taken. Otherwise it stays, and the next take raises the
    /// gate.
    fn hand_over(&mut self) -> bool {
        let Way::Mailbox(publisher) = &mut self.way else { return false };
        let Buffer { accepted, ops, end, .. } = *publisher.filling();
        match publisher.publish() {
            Published::Handed => {
                publisher.filling().recycle();
                self.in_cell = accepted;
                self.ended |= end.is_some();
                self.woken |= publisher.has_woken();
                self.counters.batch(ops);
                true
            }
            Published::Residue => {
                count(&self.counters.residues);
                false
            }
        }
    }

    /// The end of a turn.
    pub(crate) fn publish(&mut self) {
        let buffer = self.filling();
        let (ops, end) = (buffer.ops, buffer.end.is_some());
        if buffer.is_empty() && !end {
            return;
        }
        if matches!(self.way, Way::Mailbox(_)) {
            self.hand_over();
        } else {
            self.ended |= end;
            self.counters.batch(ops);
        }
    }

    /// Was a consumer woken since this was last asked?
    pub(crate) const fn take_woken(&mut self) -> bool {
        std::mem::replace(&mut self.woken, false)
    }

    /// Was the last batch handed over? Asked of the outbox, since any look for room may have done it.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }
}
